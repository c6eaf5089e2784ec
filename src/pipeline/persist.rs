//! What fails and passes is tried again: one rule for every step of a run, from the plan to the last statement.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::capture::interrupted;
use crate::engine::{Database, Error, ErrorKind, Lock, Result};
use crate::runtime::{Backoff, random};

/// The attempts at one step.
pub(super) struct Attempts<'a> {
    failed: u32,
    stop: &'a CancellationToken,
}

impl<'a> Attempts<'a> {
    /// None yet.
    pub(super) fn new(stop: &'a CancellationToken) -> Self {
        Self { failed: 0, stop }
    }

    /// Whether this is the first.
    pub(super) fn is_first(&self) -> bool {
        self.failed == 0
    }

    /// Waits until the next one is due; the error when there is to be none.
    pub(super) async fn pause(&mut self, error: Error) -> Result<()> {
        self.failed += 1;
        if self.failed >= attempts(error.kind) {
            return Err(error);
        }
        let wait = Backoff::CONNECTION.wait(self.failed, random());
        tracing::warn!("{error}; trying again in {:.1} s", wait.as_secs_f64());
        tokio::select! {
            () = tokio::time::sleep(wait) => Ok(()),
            () = self.stop.cancelled() => Err(interrupted()),
        }
    }
}

/// How often a step is tried: a server that restarts is waited for, about half a minute; a lock has been waited for
/// already.
fn attempts(kind: ErrorKind) -> u32 {
    match kind {
        ErrorKind::Unreachable => 6,
        ErrorKind::Busy => 3,
        _ => 1,
    }
}

/// Takes a step, and takes it again while it fails for a reason that passes. It must be one that may be taken again
/// wherever it ended.
///
/// # Errors
/// What it fails for in the end; `Interrupted` when asked to stop meanwhile.
pub async fn persist<T, F: Future<Output = Result<T>>>(
    stop: &CancellationToken,
    mut step: impl FnMut() -> F,
) -> Result<T> {
    let mut attempts = Attempts::new(stop);
    loop {
        match step().await {
            Err(e) => attempts.pause(e).await?,
            done => return done,
        }
    }
}

/// The right to write the tables of a database, that one run at a time has. It ends with this value.
pub struct Claim {
    target: Arc<dyn Database>,
    stop: CancellationToken,
    lock: Mutex<Option<Box<dyn Lock>>>,
}

impl Claim {
    /// Takes it.
    ///
    /// # Errors
    /// `Busy` when another run has it.
    pub async fn take(target: &Arc<dyn Database>, stop: &CancellationToken) -> Result<Self> {
        let lock = persist(stop, || free(target.as_ref(), NAME)).await?;
        let lock = lock.ok_or_else(|| Error::new(ErrorKind::Busy, others(target.label())))?;
        Ok(Self { target: target.clone(), stop: stop.clone(), lock: Mutex::new(Some(lock)) })
    }

    /// The database.
    #[must_use]
    pub fn target(&self) -> &Arc<dyn Database> {
        &self.target
    }

    /// As [`persist`], with the claim in hand before each attempt.
    ///
    /// # Errors
    /// Those of [`persist`]; `Busy` when another run has taken what a lost connection gave away.
    pub async fn persist<T, F: Future<Output = Result<T>>>(&self, mut step: impl FnMut() -> F) -> Result<T> {
        persist(&self.stop, || {
            let step = step();
            async move {
                self.keep().await?;
                step.await
            }
        })
        .await
    }

    /// Takes it again where it was lost with its connection.
    pub(super) async fn keep(&self) -> Result<()> {
        let mut lock = self.lock.lock().await;
        if let Some(held) = lock.as_mut()
            && held.is_held().await
        {
            return Ok(());
        }
        // The old one's connection must be gone before the server gives it to a new one.
        *lock = None;
        *lock = free(self.target.as_ref(), NAME).await?;
        if lock.is_some() { Ok(()) } else { Err(Error::new(ErrorKind::Busy, others(self.target.label()))) }
    }
}

/// The lock that one run at a time has.
pub(super) const NAME: &str = "tables";

pub(super) fn others(target: &str) -> String {
    format!("another rowferry is writing to {target}; wait until it is done, then run this again")
}

/// About three seconds in all.
pub(super) const HOLD_TRIES: u32 = 10;

/// The lock, once it is free; `None` when another keeps it.
pub(super) async fn free(target: &dyn Database, name: &str) -> Result<Option<Box<dyn Lock>>> {
    // A server notices only after a moment that the holder has died.
    for tried in 1..=HOLD_TRIES {
        if let Some(lock) = target.lock(name).await? {
            return Ok(Some(lock));
        }
        tokio::time::sleep(Backoff::ROWS.wait(tried, random())).await;
    }
    Ok(None)
}
