//! How long to wait before something that failed is tried again.

use std::time::Duration;

/// Waiting times that double up to a bound, each moved by up to a fifth either way, so that many
/// that failed together do not come back together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Before the second attempt.
    pub first: Duration,
    /// No wait is longer, but for the jitter.
    pub longest: Duration,
}

impl Backoff {
    /// For a database or a peer that went away.
    pub const CONNECTION: Self = Self { first: Duration::from_secs(1), longest: Duration::from_secs(10) };

    /// For rows that an application holds.
    pub const ROWS: Self = Self { first: Duration::from_millis(20), longest: Duration::from_millis(500) };

    /// The wait after `failures` failed attempts (at least one). Pure: `seed` decides the jitter.
    #[must_use]
    pub fn wait(self, failures: u32, seed: u64) -> Duration {
        let doubled = self.first.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        let thousandths = u32::try_from(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32).unwrap_or(0) % 401;
        doubled.min(self.longest) * (800 + thousandths) / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_a_bound_and_stay_within_a_fifth() {
        for (failures, seconds) in [(1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 10.0), (40, 10.0), (u32::MAX, 10.0)] {
            let waits: Vec<f64> =
                (0..1000).map(|seed| Backoff::CONNECTION.wait(failures, seed).as_secs_f64() / seconds).collect();
            assert!(waits.iter().all(|w| (0.8..=1.2).contains(w)), "{failures}");
            assert!(waits.iter().any(|w| *w < 0.85) && waits.iter().any(|w| *w > 1.15), "{failures}: no jitter");
        }
    }
}
