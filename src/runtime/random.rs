//! Chance, where nothing secret hangs on it: names of sites, jitter.

use std::hash::{BuildHasher as _, RandomState};

/// A number that differs from process to process and from call to call.
#[must_use]
pub fn random() -> u64 {
    // Each state has keys of its own, seeded by the system.
    RandomState::new().hash_one(0)
}
