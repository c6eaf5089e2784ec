//! Numbers that look random and are the same on every machine.

use std::fmt::Write as _;

/// A xorshift generator: quick, small, not for secrets.
pub(super) struct Random(u64);

impl Random {
    /// The generator of one row: its numbers depend on nothing but these three.
    pub(super) fn new(seed: u64, table: u64, row: u64) -> Self {
        // splitmix64's mixing, so that neighbours have nothing in common
        let mut z = seed ^ table.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ row.wrapping_mul(0xD1B5_4A32_D192_ED03);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Self((z ^ (z >> 31)) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number from 0 to `limit` - 1; `limit` is above 0.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 8) % limit
    }

    pub(super) fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        super::nth(list, self.next() >> 8)
    }

    /// A day of the years 2015 to 2024.
    pub(super) fn date(&mut self) -> String {
        self.date_in(2015)
    }

    /// A day of the ten years from `year`.
    pub(super) fn date_in(&mut self, year: u64) -> String {
        format!("{}-{:02}-{:02}", year + self.below(10), 1 + self.below(12), 1 + self.below(28))
    }

    /// A date with a time of day.
    pub(super) fn moment(&mut self) -> String {
        format!("{} {:02}:{:02}:{:02}", self.date(), self.below(24), self.below(60), self.below(60))
    }

    /// A version 4 UUID.
    pub(super) fn uuid(&mut self) -> String {
        let (high, low) = (self.next(), self.next());
        format!(
            "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xfff,
            0x8000 | (low >> 48) & 0x3fff,
            low & 0xffff_ffff_ffff
        )
    }

    /// So many bytes as hexadecimal digits.
    pub(super) fn hex(&mut self, bytes: u64) -> String {
        (0..bytes).fold(String::new(), |mut text, _| {
            write!(text, "{:02x}", self.below(256)).expect("writing to a String");
            text
        })
    }
}
