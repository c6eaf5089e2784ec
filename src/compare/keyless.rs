//! Tables without a key: rows are counted by their digest.

use std::collections::HashMap;

use crate::model::{Digest, RangeDigest};

/// How many buckets there are.
pub const BUCKETS: usize = 4096;

/// Digests of a table's rows, summed by the first bits of each row's digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buckets(Vec<RangeDigest>);

impl Default for Buckets {
    fn default() -> Self {
        Self(vec![RangeDigest::default(); BUCKETS])
    }
}

/// The bucket that a row is in.
#[must_use]
pub fn bucket(digest: Digest) -> usize {
    usize::try_from(digest.0 >> 116).unwrap_or(0) % BUCKETS
}

impl Buckets {
    /// Those with these sums; `None` where they are too many or too few.
    #[must_use]
    pub fn of(sums: Vec<RangeDigest>) -> Option<Self> {
        (sums.len() == BUCKETS).then_some(Self(sums))
    }

    /// The sums.
    #[must_use]
    pub fn sums(&self) -> &[RangeDigest] {
        &self.0
    }

    /// Takes rows in.
    pub fn add(&mut self, rows: impl Iterator<Item = Digest>) {
        rows.for_each(|digest| self.0[bucket(digest)].add(digest));
    }

    /// How many rows it holds.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.0.iter().map(|sum| sum.rows).sum()
    }

    /// Which buckets differ from another table's.
    #[must_use]
    pub fn differing(&self, other: &Self) -> Vec<bool> {
        self.0.iter().zip(&other.0).map(|(a, b)| a != b).collect()
    }
}

/// How many more of each row one side has, in the buckets that differ. Memory grows with the
/// number of rows in those buckets only.
pub struct Surplus {
    differing: Vec<bool>,
    count: HashMap<Digest, i64>,
}

impl Surplus {
    /// Looks at these buckets only.
    #[must_use]
    pub fn new(differing: Vec<bool>) -> Self {
        Self { differing, count: HashMap::new() }
    }

    /// Counts rows `by` each.
    pub fn add(&mut self, rows: impl Iterator<Item = Digest>, by: i64) {
        for digest in rows.filter(|digest| self.differing[bucket(*digest)]) {
            *self.count.entry(digest).or_default() += by;
        }
    }

    /// Forgets rows that both sides have equally often.
    pub fn settle(&mut self) {
        self.count.retain(|_, n| *n != 0);
    }

    /// Sum of what the first side has more, and of what the second has more.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        self.count.values().fold(
            (0, 0),
            |(a, b), &n| {
                if n > 0 { (a + n.unsigned_abs(), b) } else { (a, b + n.unsigned_abs()) }
            },
        )
    }

    /// Whether this row is one that the first side (`sign` 1) or the second (-1) has more; counts
    /// it off.
    pub fn claim(&mut self, digest: Digest, sign: i64) -> bool {
        match self.count.get_mut(&digest) {
            Some(n) if n.signum() == sign => {
                *n -= sign;
                true
            }
            _ => false,
        }
    }
}
