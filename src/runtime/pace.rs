//! When to look again for what may have happened.

use std::time::Duration;

/// How often whoever waits for something looks: soon after something happened, for more may follow, and ever more rarely
/// while nothing does. A look waits for a hundredth of the time that nothing has happened, so what happens is seen about
/// that much later than it could be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Between two looks at least.
    pub shortest: Duration,
    /// And at most, where a look is quick.
    pub longest: Duration,
}

impl Pace {
    /// For a sync that is to follow at once.
    pub const LIVE: Self = Self { shortest: Duration::from_millis(2), longest: Duration::from_millis(200) };

    /// The wait before the next look, when nothing has happened for so long, and the last look took so long: four fifths
    /// of the time nobody looks, but a second is never exceeded.
    #[must_use]
    pub fn wait(self, quiet: Duration, looked: Duration) -> Duration {
        let wait = (quiet / 100).clamp(self.shortest, self.longest);
        wait.max((looked * 4).min(Duration::from_secs(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_looks_ever_more_rarely() {
        let wait = |quiet, looked| Pace::LIVE.wait(Duration::from_millis(quiet), Duration::from_millis(looked));
        for (quiet, looked, waits) in [
            (0, 0, 2),
            (100, 0, 2),
            (1_000, 0, 10),
            (30_000, 0, 200),
            (0, 25, 100),
            (30_000, 25, 200),
            (0, 9_000, 1_000),
        ] {
            assert_eq!(wait(quiet, looked), Duration::from_millis(waits), "{quiet} {looked}");
        }
    }
}
