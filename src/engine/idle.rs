//! Connections that have nothing open, kept for whoever wants one next: to open one takes a server many times what it
//! takes to answer a question, and over a network as many round trips.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// Connections kept at most.
const KEPT: usize = 2;
/// How long one is used again; an older one is closed when somebody next asks. What lies between may drop it without a
/// word, and a machine that slept has lost it: its clock has gone on meanwhile, unlike the one that only counts what it was
/// awake for.
const FRESH: Duration = Duration::from_secs(10);

/// Connections with nothing open in them.
pub(super) struct Idle<T>(Mutex<Vec<(SystemTime, T)>>);

impl<T> Default for Idle<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Idle<T> {
    /// One that was used a moment ago.
    pub(super) fn take(&self) -> Option<T> {
        let mut kept = self.kept();
        kept.retain(|(since, _)| since.elapsed().is_ok_and(|for_| for_ < FRESH));
        kept.pop().map(|(_, connection)| connection)
    }

    /// Keeps one for the next question.
    pub(super) fn put(&self, connection: T) {
        let mut kept = self.kept();
        if kept.len() < KEPT {
            kept.push((SystemTime::now(), connection));
        }
    }

    fn kept(&self) -> MutexGuard<'_, Vec<(SystemTime, T)>> {
        // Nobody leaves it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_used_a_moment_ago_is_used_again() {
        let now = SystemTime::now();
        // The last one: the clock was set back.
        for since in [now - FRESH, now - 100 * FRESH, now + FRESH] {
            let idle = Idle::default();
            idle.kept().push((since, "old"));
            idle.put("fresh");
            assert_eq!(idle.take(), Some("fresh"));
            assert_eq!(idle.take(), None);
            assert!(idle.kept().is_empty(), "what is old is closed");
        }
    }

    #[test]
    fn no_more_are_kept_than_are_used() {
        let idle = Idle::default();
        (0..5).for_each(|n| idle.put(n));
        assert_eq!(idle.kept().len(), KEPT);
    }
}
