//! Chance, where nothing secret hangs on it: names of sites, jitter.

use std::cell::Cell;
use std::hash::{BuildHasher as _, RandomState};

thread_local! {
    /// The last number of a stream that a simulation began.
    static STREAM: Cell<Option<u64>> = const { Cell::new(None) };
}

/// A number that differs from process to process and from call to call.
#[must_use]
pub fn random() -> u64 {
    if let Some(last) = STREAM.get() {
        let next = last.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        STREAM.set(Some(next));
        return next;
    }
    // Each state has keys of its own, seeded by the system.
    RandomState::new().hash_one(0)
}

/// From now on [`random`] gives the same numbers on this thread each time that this is called with this seed: what is
/// simulated can come again.
pub fn simulate_random(seed: u64) {
    STREAM.set(Some(seed));
}
