//! What stands in a database, for people: capture, conflicts, quarantine. Only [`discard`] changes anything.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::form::{Form, kept_forms};
use super::{Book, Books, ReaderState, Site};
use crate::engine::{Database, Error, ErrorKind, Object, Result, RowLock, WriteMode, WriteOptions};
use crate::model::{Batch, Cell, Column, Table, TableName};

/// More records than this are not listed.
const RECORDS_MAX: usize = 100_000;

/// How the capture of a table stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableState {
    /// The table.
    pub table: TableName,
    /// Number of its log.
    pub n: u32,
    /// What should be in place and switched on, and is not: triggers, the log, the versions.
    pub missing: Vec<String>,
    /// Lines of its log that no run has taken up yet.
    pub unfolded: u64,
    /// Who reads it.
    pub readers: Vec<ReaderState>,
    /// Why rows of it may have been written unseen, or why it cannot take part, although nothing is missing.
    pub fault: Option<String>,
}

impl TableState {
    /// Whether all is as it should be.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.missing.is_empty() && self.fault.is_none()
    }
}

/// What is said of a table that was given another key.
const REKEYED: &str =
    "its key is not the one that is captured; run 'rowferry capture install', or a sync, which does the same";
/// What is said of a table that is not the one that was captured.
const ANOTHER: &str = "it is another table than the one that was captured, or parts of it came, went or were emptied";

/// How the capture of each logged table stands, by number.
///
/// # Errors
/// What the database says.
pub async fn state(site: &Site) -> Result<Vec<TableState>> {
    let database = &site.database;
    let there: BTreeSet<String> = database.own_triggers().await?.into_iter().collect();
    let snapshot = database.snapshot().await?;
    let mut source = snapshot.source().await?;
    let mut tables = Vec::with_capacity(site.tables.len());
    let (found, readers) = (forms_now(site).await?, readers_now(site).await?);
    for (book, form) in site.tables.iter().zip(found) {
        let mut missing: Vec<String> = book.log.triggers.iter().filter(|t| !there.contains(*t)).cloned().collect();
        let mut unfolded = 0;
        if database.describe(&book.log.table.name).await?.is_some() {
            unfolded = source.count(&book.log.table, None).await?;
        } else {
            missing.push(book.log.table.name.name.clone());
        }
        if database.describe(&book.versions.name).await?.is_none() {
            missing.push(book.versions.name.name.clone());
        }
        let fault = form.filter(|_| missing.is_empty()).map(str::to_owned);
        let n = book.logged.n;
        let readers = readers.iter().filter(|reader| reader.table == n).copied().collect();
        tables.push(TableState { table: book.logged.table.name.clone(), n, missing, unfolded, readers, fault });
    }
    let lost = site.lost.iter().map(|(table, e)| {
        let fault = Some(e.message().to_owned());
        TableState { table: table.clone(), n: 0, missing: Vec::new(), unfolded: 0, readers: Vec::new(), fault }
    });
    tables.extend(lost);
    Ok(tables)
}

/// Who reads the site.
async fn readers_now(site: &Site) -> Result<Vec<ReaderState>> {
    if site.database.describe(&site.books.readers.name).await?.is_none() {
        return Ok(Vec::new());
    }
    let mut target = site.database.target().await?;
    target.begin(WriteOptions { point: true, ..WriteOptions::default() }).await?;
    let readers = site.readers(target.as_mut()).await;
    target.rollback().await?;
    readers
}

/// What is to be said of the form of each captured table.
async fn forms_now(site: &Site) -> Result<Vec<Option<&'static str>>> {
    let database = &site.database;
    if site.tables.is_empty() || database.describe(&site.books.forms.name).await?.is_none() {
        return Ok(vec![None; site.tables.len()]);
    }
    let kept = kept_forms(database.target().await?.as_mut(), &site.books).await?;
    let names: Vec<TableName> = site.tables.iter().map(|book| book.logged.table.name.clone()).collect();
    let objects = database.objects(&names).await?;
    let told = |(book, object): (&Arc<Book>, Object)| {
        let now = Form::of(&book.logged, &object);
        let kept = kept.get(&book.logged.n)?;
        (kept.key != now.key).then_some(REKEYED).or_else(|| kept.is_of_another(&now).then_some(ANOTHER))
    };
    Ok(site.tables.iter().zip(objects).map(told).collect())
}

/// Names of the tables and triggers of rowferry's own that are in place, sorted.
///
/// # Errors
/// What the database says.
pub async fn objects(site: &Site) -> Result<Vec<String>> {
    let mut names = site.database.own_triggers().await?;
    let books = site.books.all().map(|table| table.name.clone());
    let own = site.tables.iter().flat_map(|book| [book.log.table.name.clone(), book.versions.name.clone()]);
    for name in books.into_iter().chain(own) {
        if site.database.describe(&name).await?.is_some() {
            names.push(name.to_string());
        }
    }
    names.sort();
    Ok(names)
}

/// A conflict as it was recorded.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Conflict {
    /// The same wherever the same two writes met.
    pub id: String,
    /// The sync.
    pub sync: String,
    /// The table.
    pub table: String,
    /// The key's columns and their values as text.
    pub key: serde_json::Value,
    /// The policy that settled it.
    pub policy: String,
    /// `source`, `target`, `merged` or `open`.
    pub winner: String,
    /// The row as the sync's source had it; null: deleted.
    pub source: serde_json::Value,
    /// The row as the sync's target had it.
    pub target: serde_json::Value,
    /// When it was recorded, by the database's clock; RFC 3339.
    pub at: String,
}

/// A change that was refused.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Quarantined {
    /// One for each row and sync.
    pub id: String,
    /// The sync.
    pub sync: String,
    /// The table.
    pub table: String,
    /// The key's columns and their values as text.
    pub key: serde_json::Value,
    /// Why.
    pub reason: String,
    /// The row that was to be written; null: a deletion.
    pub image: serde_json::Value,
    /// When it was refused, by the database's clock; RFC 3339.
    pub at: String,
}

/// The conflicts recorded in a database, none where capture was never installed.
///
/// # Errors
/// What the database says; `BadData` for a damaged record.
pub async fn conflicts(database: &Arc<dyn Database>) -> Result<Vec<Conflict>> {
    let found = records(database, &Books::new(database.as_ref()).conflicts).await?;
    let conflict = |row| {
        let record = Record { batch: &found, row };
        Ok(Conflict {
            id: record.text(0)?,
            sync: record.text(1)?,
            table: record.text(2)?,
            key: record.object(3)?,
            policy: record.text(4)?,
            winner: record.text(5)?,
            source: record.object(6)?,
            target: record.object(7)?,
            at: record.time(8)?,
        })
    };
    (0..found.rows()).map(conflict).collect()
}

/// The changes that a database refused, none where capture was never installed.
///
/// # Errors
/// What the database says; `BadData` for a damaged record.
pub async fn quarantine(database: &Arc<dyn Database>) -> Result<Vec<Quarantined>> {
    let found = records(database, &Books::new(database.as_ref()).quarantine).await?;
    let quarantined = |row| {
        let record = Record { batch: &found, row };
        Ok(Quarantined {
            id: record.text(0)?,
            sync: record.text(1)?,
            table: record.text(2)?,
            key: record.object(3)?,
            reason: record.text(4)?,
            image: record.object(5)?,
            at: record.time(7)?,
        })
    };
    (0..found.rows()).map(quarantined).collect()
}

/// Forgets a change that was refused.
///
/// # Errors
/// What the database says.
pub async fn discard(database: &Arc<dyn Database>, id: &str) -> Result<()> {
    let table = Books::new(database.as_ref()).quarantine;
    let mut target = database.target().await?;
    target.begin(WriteOptions::default()).await?;
    let mut ids = Column::default();
    ids.push_bytes(id.as_bytes());
    let keys = Batch::new(Arc::new(table.project(&[0])), vec![ids]);
    let found = target.lookup(&table, &keys, RowLock::Wait).await?;
    if found.rows() > 0 {
        target.write(WriteMode::Delete, &found).await?;
    }
    target.commit().await
}

async fn records(database: &Arc<dyn Database>, table: &Arc<Table>) -> Result<Batch> {
    if database.describe(&table.name).await?.is_none() {
        return Ok(Batch::new(table.clone(), vec![Column::default(); table.columns.len()]));
    }
    let mut target = database.target().await?;
    target.begin(WriteOptions { point: true, ..WriteOptions::default() }).await?;
    let found = target.scan(table, None, RECORDS_MAX).await?;
    target.rollback().await?;
    Ok(found)
}

/// A row of one of the books.
struct Record<'a> {
    batch: &'a Batch,
    row: usize,
}

impl Record<'_> {
    fn text(&self, column: usize) -> Result<String> {
        match self.batch.cell(self.row, column) {
            Cell::Bytes(bytes) => String::from_utf8(bytes.to_vec()).map_err(|_| self.damaged()),
            _ => Err(self.damaged()),
        }
    }

    /// The JSON that stands in a column; NULL is null.
    fn object(&self, column: usize) -> Result<serde_json::Value> {
        match self.batch.cell(self.row, column) {
            Cell::Null => Ok(serde_json::Value::Null),
            Cell::Bytes(bytes) => serde_json::from_slice(bytes).map_err(|_| self.damaged()),
            _ => Err(self.damaged()),
        }
    }

    fn time(&self, column: usize) -> Result<String> {
        let Cell::Int(micros) = self.batch.cell(self.row, column) else { return Err(self.damaged()) };
        jiff::Timestamp::from_microsecond(micros).map(|at| at.to_string()).map_err(|_| self.damaged())
    }

    fn damaged(&self) -> Error {
        let message = format!("{} is damaged or of a newer rowferry", self.batch.table.name);
        Error::new(ErrorKind::BadData, message)
    }
}
