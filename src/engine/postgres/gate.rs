//! Keeps a connection's driver from reading on: behind a row of tens of mebibytes it would read the next ones ahead.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

/// Open at first. Whoever shuts it opens it again, or the connection never ends.
#[derive(Default)]
pub(super) struct Gate {
    shut: AtomicBool,
    driver: AtomicWaker,
}

impl Gate {
    /// From now on the driver does nothing.
    pub(super) fn shut(&self) {
        self.shut.store(true, Ordering::Release);
    }

    /// The driver goes on, if it was kept.
    pub(super) fn open(&self) {
        if self.shut.load(Ordering::Acquire) {
            self.shut.store(false, Ordering::Release);
            self.driver.wake();
        }
    }

    fn keeps(&self, context: &Context<'_>) -> bool {
        if !self.shut.load(Ordering::Acquire) {
            return false;
        }
        self.driver.register(context.waker());
        // It may have been opened meanwhile.
        self.shut.load(Ordering::Acquire)
    }

    /// Runs the driver wherever the gate is open.
    pub(super) async fn drive(self: Arc<Self>, driver: impl Future) {
        let mut driver = pin!(driver);
        let step = |context: &mut Context<'_>| {
            if self.keeps(context) { Poll::Pending } else { driver.as_mut().poll(context).map(drop) }
        };
        poll_fn(step).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[tokio::test]
    async fn a_driver_waits_until_the_gate_is_open() {
        let (gate, steps) = (Arc::new(Gate::default()), Arc::new(AtomicU32::new(0)));
        let counted = steps.clone();
        let task = tokio::spawn(gate.clone().drive(async move {
            loop {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        }));
        let until_it_steps = async |from: u32| {
            while steps.load(Ordering::Relaxed) <= from {
                tokio::task::yield_now().await;
            }
        };
        until_it_steps(0).await;
        gate.shut();
        tokio::task::yield_now().await;
        let there = steps.load(Ordering::Relaxed);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(steps.load(Ordering::Relaxed), there, "it went on behind the gate");
        gate.open();
        until_it_steps(there).await;
        task.abort();
    }
}
