//! A database that takes part in syncs: who it is, which tables it logs, what it knows of their rows.
//!
//! Everything stands in the database itself, in tables whose names begin with `_rowferry_`, so that it
//! is committed, backed up and lost together with the rows that it is about.

mod books;
mod cursors;
mod emptied;
mod entries;
mod facets;
mod form;
mod install;
mod marks;
mod moves;
mod purge;
mod readers;
mod shared;
mod state;
mod watcher;

use std::sync::Arc;
use std::time::Duration;

pub use books::{Book, Books};
pub use cursors::Cursor;
pub use entries::{Entries, KeyId, Known, decode, key_id, read};
pub use facets::Faceted;
pub use form::{FormColumn, Reformed};
pub use install::{faceted, install, lost, open, planned, remove};
pub use marks::Mark;
pub use moves::Moved;
pub use purge::Forgotten;
pub use readers::{Heard, Reader, ReaderState, Verdict};
pub use shared::{MetColumns, Share, Through};
pub use state::{Conflict, Quarantined, TableState, conflicts, discard, objects, quarantine, state};
pub use watcher::Watcher;

use crate::engine::{Database, Error, ErrorKind, Lookup, Result, RowLock, Target, WriteMode};
use crate::model::{self, Batch, Cell, Column};

/// The form of the bookkeeping; a higher one is of a newer rowferry.
const FORMAT: i64 = 1;

/// A database with capture installed.
#[derive(Clone)]
pub struct Site {
    /// The database.
    pub database: Arc<dyn Database>,
    /// Who it is.
    pub id: model::Site,
    /// The tables that are there once.
    pub books: Arc<Books>,
    /// One for each logged table, by number.
    pub tables: Vec<Arc<Book>>,
    /// Logged tables that cannot take part as they are, and why.
    pub lost: Vec<(model::TableName, Error)>,
    /// Tables of which it was found, when this was installed, that rows may have been written unseen.
    pub doubted: Vec<model::TableName>,
    /// Tables of which it was found then that they have other columns.
    pub reformed: Vec<Reformed>,
    /// Columns that tables no longer have since they are captured.
    pub dropped: Vec<(model::TableName, Vec<String>)>,
    /// For how long tombstones are kept.
    pub keep_tombstones: Duration,
}

impl Site {
    /// What is kept of a table.
    #[must_use]
    pub fn book(&self, name: &model::TableName) -> Option<&Arc<Book>> {
        self.tables.iter().find(|book| book.logged.table.name == *name)
    }

    /// The last number that was given out, by the site that this one was when it was opened.
    ///
    /// # Errors
    /// `CursorLost` when it goes on as another since.
    pub async fn itself(&self, target: &mut dyn Lookup) -> Result<i64> {
        let row = read_row(target, &self.books.site, RowLock::None).await?;
        if (row.id, row.epoch) == (self.id.id, i64::from(self.id.epoch)) { Ok(row.seq) } else { Err(self.another()) }
    }

    /// A table of its books that cannot be read.
    fn damaged(&self, table: &model::Table) -> Error {
        let (name, label) = (&table.name, self.database.label());
        Error::new(ErrorKind::BadData, format!("{name} of {label} is damaged: remove capture and install it again"))
    }

    fn another(&self) -> Error {
        Error::new(
            ErrorKind::CursorLost,
            format!("{} became another site while it was in use; run this again", self.database.label()),
        )
    }

    /// The last number that was given out.
    pub async fn last_number(&self, target: &mut dyn Lookup) -> Result<i64> {
        Ok(read_row(target, &self.books.site, RowLock::None).await?.seq)
    }

    /// Takes the lock under which numbers are given out, which [`Self::take_numbers`] takes too: whoever then reads
    /// entries reads them as the last one left them.
    pub async fn lock_numbers(&self, target: &mut dyn Target) -> Result<()> {
        read_row(target, &self.books.site, RowLock::Wait).await.map(drop)
    }

    /// Takes `count` numbers, and the lock under which they are given out: whoever holds it commits before the next
    /// one reads, so that the numbers' order is the order of commits. Taken last, held until the transaction ends.
    /// Returns the first.
    pub async fn take_numbers(&self, target: &mut dyn Target, count: usize) -> Result<i64> {
        let row = read_row(target, &self.books.site, RowLock::Wait).await?;
        if (row.id, row.epoch) != (self.id.id, i64::from(self.id.epoch)) {
            return Err(self.another());
        }
        let last = i64::try_from(count).ok().and_then(|count| row.seq.checked_add(count)).ok_or_else(|| {
            Error::new(ErrorKind::Protocol, format!("{} has no numbers left to give", self.database.label()))
        })?;
        if count > 0 {
            target.write(WriteMode::Update, &SiteRow { seq: last, ..row }.batch(&self.books.site)).await?;
            self.mark(target, last).await?;
        }
        Ok(row.seq + 1)
    }
}

/// The row of the site's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SiteRow {
    id: u64,
    epoch: i64,
    seq: i64,
    format: i64,
}

impl SiteRow {
    fn batch(self, table: &Arc<model::Table>) -> Batch {
        let mut columns = vec![Column::default(); 5];
        columns[0].push_int(1);
        columns[1].push_bytes(format!("{:016x}", self.id).as_bytes());
        columns[2].push_int(self.epoch);
        columns[3].push_int(self.seq);
        columns[4].push_int(self.format);
        Batch::new(table.clone(), columns)
    }
}

async fn read_row(target: &mut dyn Lookup, table: &Arc<model::Table>, lock: RowLock) -> Result<SiteRow> {
    let mut key = Column::default();
    key.push_int(1);
    let keys = Batch::new(Arc::new(table.project(&[0])), vec![key]);
    let found = target.lookup(table, &keys, lock).await?;
    let damaged =
        || Error::new(ErrorKind::BadData, format!("{} is damaged: remove capture and install it again", table.name));
    if found.rows() != 1 {
        return Err(damaged());
    }
    match [0, 1, 2, 3, 4].map(|column| found.cell(0, column)) {
        [_, Cell::Bytes(id), Cell::Int(epoch), Cell::Int(seq), Cell::Int(format)] => {
            let id =
                std::str::from_utf8(id).ok().and_then(|id| u64::from_str_radix(id, 16).ok()).ok_or_else(damaged)?;
            Ok(SiteRow { id, epoch, seq, format })
        }
        _ => Err(damaged()),
    }
}
