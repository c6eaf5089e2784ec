//! What a comparison of one table asks of the two ends that have it: digests first, rows only where those differ.
//!
//! A table with a key is read once at either end, in the order of its key. A *leads*: it cuts its rows into leaves of a
//! few hundred and tells of each the last key and a digest. B *follows*: it says which of these leaves it has otherwise, and
//! hands out its rows of those. Cutting is left to the rows themselves, not to SQL: a bound is a key in B's form, and both
//! ends put rows before or after it by [`crate::model::cell_order`], whatever their collations.
//!
//! Rows of a table without a key, or whose keys the two do not order alike, are counted in buckets by their digest.
//!
//! A's rows are put into the form of B's columns before anything else, so digests are of canonical values: they are equal
//! exactly where the rows are ([`crate::model::equal_cells`]).

use std::sync::Arc;

use async_trait::async_trait;

use super::mapping::shifts;
use crate::capture::{FittedBatch, Shape};
use crate::compare::{Buckets, compared_as};
use crate::engine::{Database, Result};
use crate::model::{Batch, BatchLimits, Key, LogicalType, RangeDigest, Table, Zone};

/// Rows of a leaf.
pub(super) const LEAF_ROWS: usize = 256;
/// Leaves that are told of at a time.
pub(super) const LEAVES_MAX: usize = 64;
/// Bytes of rows that are told of, or handed out, at a time, and a batch more.
pub(super) const ROWS_BYTES: usize = 4 << 20;

/// One of the two that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// The first.
    A,
    /// The second, into whose form the other's rows are put.
    B,
}

/// One table that is compared.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// At A, with the columns that are compared.
    pub a: Arc<Table>,
    /// At B: the same columns in the same order.
    pub b: Arc<Table>,
    /// The columns that rows are told apart by; `None`: rows are counted.
    pub key: Option<Key>,
    /// The products behind A and B.
    pub products: (String, String),
    /// The zones in which their naive timestamps stand.
    pub zones: (Zone, Zone),
    /// The conditions that rows of A and of B have to meet, each in that database's own SQL.
    pub filters: (Option<String>, Option<String>),
    /// Whether only columns that can be written count: what B computes itself says nothing that the others do not.
    pub written: bool,
    /// Bounds of a batch that is read.
    pub limits: BatchLimits,
}

impl Comparison {
    /// What rows of A are put into; with B's database, where that is at hand, which judges the fit.
    #[must_use]
    pub fn shape(&self, b: Option<&Arc<dyn Database>>) -> Shape {
        Shape {
            table: self.b.clone(),
            database: b.cloned(),
            same_engine: self.products.0 == self.products.1,
            shifts: shifts((&self.a, &self.zones.0), (&self.b, &self.zones.1)),
        }
    }

    /// The columns with the type that each is compared as.
    #[must_use]
    pub fn compared(&self) -> Vec<(usize, LogicalType)> {
        let counts = |at: &usize| !self.written || !self.b.columns[*at].generated;
        compared_as(&self.a, &self.b, (0..self.b.columns.len()).filter(counts))
    }

    /// The table with the key's columns alone, in B's form.
    #[must_use]
    pub fn keys(&self) -> Arc<Table> {
        Arc::new(self.b.project(self.key.as_ref().map_or(&[], |key| &key.columns)))
    }
}

/// Leaves that follow each other, of rows in key order.
#[derive(Debug, Clone)]
pub struct Leaves {
    /// The number of the first.
    pub first: u64,
    /// The key of each one's last row, in B's form. A leaf of rows whose keys cannot stand in B has NULL there: no row of
    /// B's is in it.
    pub upto: Batch,
    /// Their digests; none for one whose rows are looked at in any case. One more than there are keys, when the last one
    /// reaches to the end of the table: no row of A's is in that.
    pub digests: Vec<Option<RangeDigest>>,
}

impl Leaves {
    /// Whether they reach to the end of the table.
    #[must_use]
    pub fn are_last(&self) -> bool {
        self.digests.len() > self.upto.rows()
    }

    /// Those that are left after so many; of the first of them all rows that are left, if its digest is compared no more.
    #[must_use]
    pub fn after(&self, settled: usize, within: bool) -> Self {
        let mut digests = self.digests[settled..].to_vec();
        if let Some(digest) = digests.first_mut().filter(|_| within) {
            *digest = None;
        }
        let upto = self.upto.select(settled.min(self.upto.rows())..self.upto.rows());
        Self { first: self.first + settled as u64, upto, digests }
    }
}

/// What B says to leaves.
#[derive(Debug, Default)]
pub struct Followed {
    /// Of each that it has passed, from the first on, whether it has the same rows there.
    pub same: Vec<bool>,
    /// Whether it stands within the next one, in which it has other rows: they were too many for one answer.
    pub within: bool,
    /// Its rows in those that it has otherwise, in key order.
    pub rows: Vec<Batch>,
}

/// What was counted of a table without a key.
#[derive(Debug)]
pub struct Counted {
    /// The rows that fit, by bucket.
    pub buckets: Buckets,
    /// The rows that do not.
    pub unfit: u64,
}

/// One half of the comparison of one table, read at one point where the engine can.
#[async_trait]
pub trait Comparand: Send {
    /// A's next leaves. Not asked again after the last ones.
    async fn leaves(&mut self) -> Result<Leaves>;

    /// A's rows in leaves of these numbers, in their order: among those that were told of last, or the time before.
    async fn rows(&mut self, leaves: &[u64]) -> Result<Vec<FittedBatch>>;

    /// B's side of leaves, which follow those that it has passed. It comes back before the last when it has much to say;
    /// then it is asked about the rest ([`Leaves::after`]).
    async fn follow(&mut self, leaves: &Leaves) -> Result<Followed>;

    /// Counts the rows.
    async fn count(&mut self) -> Result<Counted>;

    /// Begins to hand out the rows in these buckets, and those that do not fit.
    async fn pick(&mut self, buckets: &[bool]) -> Result<()>;

    /// The next of them, in no particular order; `None` at the end.
    async fn picked(&mut self) -> Result<Option<FittedBatch>>;
}
