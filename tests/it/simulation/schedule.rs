//! Tasks side by side, one at a time: whose turn it is, the dice say.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use super::scenario::Random;

/// Whether a task can go on.
#[derive(Default)]
struct Ready {
    ready: AtomicBool,
    outer: Mutex<Option<Waker>>,
}

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        self.ready.store(true, Ordering::Relaxed);
        if let Some(outer) = self.outer.lock().unwrap().take() {
            outer.wake();
        }
    }
}

struct Task<'a> {
    work: Pin<Box<dyn Future<Output = ()> + 'a>>,
    ready: Arc<Ready>,
    /// How often it goes on before the process dies that it is of.
    turns: usize,
}

/// What is under way.
#[derive(Default)]
pub struct Tasks<'a>(Vec<Task<'a>>);

impl<'a> Tasks<'a> {
    /// Begins something; it dies after so many turns.
    pub fn begin(&mut self, turns: usize, work: impl Future<Output = ()> + 'a) {
        let ready = Arc::new(Ready { ready: AtomicBool::new(true), ..Ready::default() });
        self.0.push(Task { work: Box::pin(work), ready, turns });
    }

    /// Gives so many turns, or as many as are needed until all that is left stands and waits in `parked`.
    pub async fn run(&mut self, dice: &mut Random, turns: usize, parked: &Parked) {
        let mut left = turns;
        self.0.iter().for_each(|task| task.ready.ready.store(true, Ordering::Relaxed));
        poll_fn(|context| {
            loop {
                // What waits for a later step is asked once, and stands again.
                let able: Vec<usize> =
                    (0..self.0.len()).filter(|&at| self.0[at].ready.ready.load(Ordering::Relaxed)).collect();
                if left == 0 || able.is_empty() && self.0.len() == parked.0.get() {
                    return Poll::Ready(());
                }
                if able.is_empty() {
                    let outer = |task: &Task| *task.ready.outer.lock().unwrap() = Some(context.waker().clone());
                    self.0.iter().for_each(outer);
                    return Poll::Pending;
                }
                left -= 1;
                self.turn(able[dice.below(able.len())]);
            }
        })
        .await;
    }

    fn turn(&mut self, at: usize) {
        let task = &mut self.0[at];
        task.ready.ready.store(false, Ordering::Relaxed);
        let waker = Waker::from(task.ready.clone());
        task.turns -= 1;
        let ended = task.work.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        if ended || task.turns == 0 {
            drop(self.0.swap_remove(at));
        }
    }
}

/// How many tasks wait for a later step.
#[derive(Default)]
pub struct Parked(Cell<usize>);

impl Parked {
    /// Waits until this holds, which is asked at each step.
    pub async fn until(&self, holds: impl Fn() -> bool) {
        let _standing = holds().then_some(()).is_none().then(|| Standing::new(&self.0));
        poll_fn(|_| if holds() { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

struct Standing<'a>(&'a Cell<usize>);

impl<'a> Standing<'a> {
    fn new(parked: &'a Cell<usize>) -> Self {
        parked.set(parked.get() + 1);
        Self(parked)
    }
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
