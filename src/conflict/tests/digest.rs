//! Places of a search, told apart by 128 bits.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// A map for small keys, asked very often.
pub(super) type Map<K, V> = HashMap<K, V, BuildHasherDefault<Mix>>;

pub(super) fn digest(place: &impl Hash) -> u128 {
    let mut mix = Mix(0);
    place.hash(&mut mix);
    mix.0 ^ mix.0 >> 64
}

/// 128 bits, fast for many small values.
#[derive(Default)]
pub(super) struct Mix(u128);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            let mixed = self.0 ^ u128::from(u64::from_le_bytes(word));
            self.0 = mixed.wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645);
            self.0 ^= self.0 >> 59;
        }
    }

    fn finish(&self) -> u64 {
        let folded = (self.0 ^ self.0 >> 64) & u128::from(u64::MAX);
        u64::try_from(folded).expect("64 bits")
    }
}
