//! How often: a bucket for each key, and one for each address that shows wrong keys.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// More buckets than this are not kept; full ones go first.
const BUCKETS_MAX: usize = 10_000;

/// Buckets that fill again within a minute.
pub(super) struct Buckets<K> {
    buckets: Mutex<HashMap<K, (f64, Instant)>>,
}

impl<K: Eq + Hash + Clone> Buckets<K> {
    pub(super) fn new() -> Self {
        Self { buckets: Mutex::default() }
    }

    /// Takes one out of the bucket of `name`, which holds `a_minute`.
    ///
    /// # Errors
    /// The seconds after which there is one again.
    pub(super) fn take(&self, name: &K, a_minute: u32) -> Result<(), u64> {
        self.take_at(name, a_minute, Instant::now())
    }

    fn take_at(&self, name: &K, a_minute: u32, now: Instant) -> Result<(), u64> {
        let full = f64::from(a_minute.max(1));
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= BUCKETS_MAX && !buckets.contains_key(name) {
            buckets.retain(|_, (_, at)| now.duration_since(*at).as_secs() < 60);
            if buckets.len() >= BUCKETS_MAX {
                return Err(60);
            }
        }
        let (left, at) = buckets.entry(name.clone()).or_insert((full, now));
        *left = full.min(*left + now.duration_since(*at).as_secs_f64() * full / 60.0);
        *at = now;
        if *left >= 1.0 {
            *left -= 1.0;
            return Ok(());
        }
        let wait = std::time::Duration::from_secs_f64((1.0 - *left) * 60.0 / full);
        Err(wait.as_secs() + 1)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_bucket_empties_and_fills_again() {
        let (buckets, now) = (Buckets::new(), Instant::now());
        assert!((0..60).all(|_| buckets.take_at(&"a", 60, now).is_ok()));
        assert_eq!(buckets.take_at(&"a", 60, now), Err(2));
        assert_eq!(buckets.take_at(&"b", 60, now), Ok(()), "each has its own");
        assert_eq!(buckets.take_at(&"a", 60, now + Duration::from_secs(1)), Ok(()));
        assert_eq!(buckets.take_at(&"a", 60, now + Duration::from_secs(1)), Err(2));
    }
}
