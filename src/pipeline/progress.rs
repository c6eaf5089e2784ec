//! What a run has done so far, for people to watch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counters of one table.
#[derive(Debug, Default)]
pub struct TableProgress {
    /// Table name at the source.
    pub name: String,
    /// Rows expected; 0 when not counted.
    pub total: AtomicU64,
    /// Rows read.
    pub read: AtomicU64,
    /// Rows inserted.
    pub inserted: AtomicU64,
    /// Rows updated.
    pub updated: AtomicU64,
    /// Rows deleted.
    pub deleted: AtomicU64,
    /// Rows that went to the rejects.
    pub quarantined: AtomicU64,
    /// Whether all rows are there; keys and indexes may be missing.
    pub arrived: AtomicBool,
    /// Whether the table is done.
    pub done: AtomicBool,
}

impl TableProgress {
    /// Adds to a counter.
    pub(super) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    /// Forgets what a failed attempt has read and put aside, which the next one does again; what it
    /// has committed stays counted. Whether there is anything to do again: not where all rows are there.
    pub(super) fn restart(&self) -> bool {
        if self.arrived.load(Ordering::Relaxed) {
            return false;
        }
        self.read.store(0, Ordering::Relaxed);
        self.quarantined.store(0, Ordering::Relaxed);
        true
    }
}

/// Counters of a run.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// One for each table of the plan, in its order.
    pub tables: Arc<Vec<TableProgress>>,
}

impl Progress {
    /// All at zero.
    #[must_use]
    pub fn new(names: impl Iterator<Item = (String, u64)>) -> Self {
        let tables = names
            .map(|(name, total)| TableProgress { name, total: AtomicU64::new(total), ..TableProgress::default() })
            .collect();
        Self { tables: Arc::new(tables) }
    }
}
