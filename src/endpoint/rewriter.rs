//! An end that is written as another one is: what differs is kept aside until all of it is there, and written then in one
//! transaction. Rows may come slowly, over a network that fails; nobody at the end waits for them, and who reads sees the
//! table as it was or as it is to be.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::sync::Arc;

use async_trait::async_trait;

use super::codec::{Reader, Writer};
use crate::apply::{Fill, Refused, Retry, put};
use crate::capture::unfit;
use crate::engine::{Database, Error, ErrorKind, Result, Target, WriteMode, WriteOptions};
use crate::model::{Batch, Table, TableName};
use crate::runtime::Failpoint;

/// What waits in memory; more waits in a file.
const HELD_BYTES: usize = 4 << 20;

/// A table that is written.
#[derive(Debug, Clone)]
pub struct Rewrite {
    /// The columns that are given, with the key by which rows are found; without one they are found by all of these.
    pub table: Arc<Table>,
    /// All columns that it has.
    pub whole: Arc<Table>,
    /// What new rows get besides.
    pub fill: Fill,
}

impl Rewrite {
    /// The columns by which rows are found that are to go.
    #[must_use]
    pub fn found_by(&self) -> Arc<Table> {
        match &self.table.primary_key {
            Some(key) => Arc::new(self.table.project(&key.columns)),
            None => self.table.clone(),
        }
    }
}

/// What became of rows.
#[derive(Debug, Default)]
pub struct Rewritten {
    /// Rows inserted.
    pub inserted: u64,
    /// Rows updated.
    pub updated: u64,
    /// Rows deleted.
    pub deleted: u64,
    /// What the end cannot take, as it was given, with a reason for each row; the rest was written.
    pub refused: Vec<(WriteMode, Batch, Vec<String>)>,
}

impl Rewritten {
    fn add(&mut self, mode: WriteMode, rows: u64) {
        match mode {
            WriteMode::Insert => self.inserted += rows,
            WriteMode::Update => self.updated += rows,
            WriteMode::Delete => self.deleted += rows,
        }
    }
}

/// Writes one table.
#[async_trait]
pub trait Rewriter: Send {
    /// Takes rows that are to be written so, with the columns of [`Rewrite::table`], those that are to go with
    /// [`Rewrite::found_by`]'s. Nothing is written yet.
    async fn put(&mut self, mode: WriteMode, rows: Batch) -> Result<()>;

    /// Writes all that was put, in one transaction.
    ///
    /// `Busy` when rows that are to be updated are not there any more. After an error nothing was written, and nothing is
    /// kept: all of it has to be put again.
    async fn write(&mut self) -> Result<Rewritten>;

    /// Sets the table's numbering past the highest number present; one sentence for each foreign key that does not hold,
    /// of those of tables that refer to it too when rows have gone.
    async fn verify(&mut self, gone: bool) -> Result<Vec<String>>;
}

/// Tables of a database, besides these, that refer to one of them.
///
/// # Errors
/// What the database says.
pub async fn referring(database: &dyn Database, tables: &BTreeSet<&TableName>) -> Result<Vec<Arc<Table>>> {
    let mut others = database.tables(None).await?;
    others.retain(|name| !tables.contains(name));
    let others = database.describe_all(&others).await?.into_iter().flatten();
    let refer = |table: &Table| table.foreign_keys.iter().any(|key| tables.contains(&key.parent));
    let uncounted = |mut table: Table| {
        // Nothing was written to it, and nobody gave us a right on its sequences.
        table.columns.iter_mut().for_each(|column| column.identity = None);
        Arc::new(table)
    };
    Ok(others.filter(refer).map(uncounted).collect())
}

type Sees = Box<dyn Fn(&TableName) -> bool + Send + Sync>;

/// A table of a database at hand.
pub struct LocalRewriter {
    database: Arc<dyn Database>,
    rewrite: Arc<Rewrite>,
    found_by: Arc<Table>,
    spool: Spool,
    sees: Sees,
}

impl LocalRewriter {
    /// This one; for who may be told of those tables only that `sees` names.
    #[must_use]
    pub fn new(
        database: &Arc<dyn Database>,
        rewrite: &Arc<Rewrite>,
        sees: impl Fn(&TableName) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            database: database.clone(),
            rewrite: rewrite.clone(),
            found_by: rewrite.found_by(),
            spool: Spool::default(),
            sees: Box::new(sees),
        }
    }

    /// The columns that rows have which are put so.
    #[must_use]
    pub fn columns(&self, mode: WriteMode) -> &Arc<Table> {
        if mode == WriteMode::Delete { &self.found_by } else { &self.rewrite.table }
    }

    async fn all(&self, spool: Spool, target: &mut dyn Target, out: &mut Rewritten) -> Result<()> {
        let mut retry = Retry::default();
        let mut pieces = spool.pieces()?;
        while let Some(piece) = pieces.next()? {
            let mode = piece.mode()?;
            let batch = piece.batch(self.columns(mode))?;
            let batch = if mode == WriteMode::Delete { batch } else { self.fitting(mode, batch, out) };
            if batch.rows() > 0 {
                let batch = if mode == WriteMode::Insert { self.rewrite.fill.complete(batch) } else { batch };
                out.add(mode, put(target, mode, batch, &mut retry).await?);
            }
        }
        let outcome = retry.finish(target, &self.rewrite.whole).await?;
        outcome.written.into_iter().for_each(|(mode, rows)| out.add(mode, rows));
        for (mode, batch, Refused { row, reason }) in outcome.refused {
            let batch = batch.select(std::iter::once(row));
            let table = self.columns(mode).clone();
            let given = batch.into_columns().into_iter().take(table.columns.len()).collect();
            out.refused.push((mode, Batch::new(table, given), vec![reason]));
        }
        Ok(())
    }

    /// The rows that can stand here; the others are refused. Whoever sends them may not know.
    fn fitting(&self, mode: WriteMode, batch: Batch, out: &mut Rewritten) -> Batch {
        let unfit = unfit(self.database.as_ref(), &batch);
        if unfit.is_empty() {
            return batch;
        }
        let (mut rows, mut reasons) = (Vec::new(), Vec::new());
        for row in unfit.chunk_by(|a, b| a.0 == b.0) {
            let said = row.iter().map(|(_, at, why)| format!("{}: {why}", batch.table.columns[*at].name));
            reasons.push(said.collect::<Vec<_>>().join("; "));
            rows.push(row[0].0);
        }
        out.refused.push((mode, batch.select(rows.iter().copied()), reasons));
        batch.select((0..batch.rows()).filter(|row| rows.binary_search(row).is_err()))
    }
}

#[async_trait]
impl Rewriter for LocalRewriter {
    async fn put(&mut self, mode: WriteMode, rows: Batch) -> Result<()> {
        self.spool.push(mode, &rows)
    }

    async fn write(&mut self) -> Result<Rewritten> {
        let spool = std::mem::take(&mut self.spool);
        let mut out = Rewritten::default();
        if spool.is_empty() {
            return Ok(out);
        }
        let mut target = self.database.target().await?;
        target.begin(WriteOptions::QUIET).await?;
        if let Err(e) = self.all(spool, target.as_mut(), &mut out).await {
            // The connection may be what failed; dropping it rolls back too.
            let _ = target.rollback().await;
            return Err(e);
        }
        Failpoint::MergeWritten.reach();
        target.commit().await?;
        Failpoint::MergeCommitted.reach();
        Ok(out)
    }

    async fn verify(&mut self, gone: bool) -> Result<Vec<String>> {
        let name = &self.rewrite.whole.name;
        let mut tables = vec![self.rewrite.whole.clone()];
        if gone {
            tables.extend(referring(self.database.as_ref(), &BTreeSet::from([name])).await?);
            tables.retain(|table| table.name == *name || (self.sees)(&table.name));
        }
        self.database.target().await?.verify(&tables).await
    }
}

/// Rows that wait, in the order in which they came.
#[derive(Default)]
struct Spool {
    held: Vec<Vec<u8>>,
    bytes: usize,
    file: Option<File>,
}

impl Spool {
    fn is_empty(&self) -> bool {
        self.held.is_empty() && self.file.is_none()
    }

    fn push(&mut self, mode: WriteMode, rows: &Batch) -> Result<()> {
        let mut writer = Writer::new(0, &mode);
        writer.batch(rows);
        let piece = writer.finish();
        self.bytes += piece.len();
        self.held.push(piece);
        if self.bytes > HELD_BYTES { self.spill().map_err(|e| unkept(&e)) } else { Ok(()) }
    }

    fn spill(&mut self) -> std::io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(tempfile::tempfile()?),
        };
        for piece in self.held.drain(..) {
            file.write_all(&(piece.len() as u64).to_le_bytes())?;
            file.write_all(&piece)?;
        }
        self.bytes = 0;
        Ok(())
    }

    fn pieces(self) -> Result<Pieces> {
        let mut file = self.file;
        let len = match &mut file {
            Some(file) => {
                let len = file.stream_position().map_err(|e| unkept(&e))?;
                file.seek(SeekFrom::Start(0)).map_err(|e| unkept(&e))?;
                len
            }
            None => 0,
        };
        Ok(Pieces { file: file.map(|file| std::io::BufReader::new(file).take(len)), held: self.held.into_iter() })
    }
}

/// What waited, as it is read again.
struct Pieces {
    file: Option<std::io::Take<std::io::BufReader<File>>>,
    held: std::vec::IntoIter<Vec<u8>>,
}

struct Piece(Vec<u8>);

impl Pieces {
    fn next(&mut self) -> Result<Option<Piece>> {
        if let Some(file) = self.file.as_mut().filter(|file| file.limit() > 0) {
            let mut read = || {
                let mut len = [0; 8];
                file.read_exact(&mut len)?;
                let mut piece = vec![0; usize::try_from(u64::from_le_bytes(len)).unwrap_or(usize::MAX)];
                file.read_exact(&mut piece)?;
                Ok(piece)
            };
            return read().map(|piece| Some(Piece(piece))).map_err(|e: std::io::Error| unkept(&e));
        }
        Ok(self.held.next().map(Piece))
    }
}

impl Piece {
    fn reader(&self) -> Result<Reader<'_>> {
        Reader::new(&self.0)
            .map_err(|e| Error::new(ErrorKind::BadData, format!("what was kept aside has changed: {e}")))
    }

    fn mode(&self) -> Result<WriteMode> {
        self.reader()?.head().map_err(|_| unread())
    }

    fn batch(&self, table: &Arc<Table>) -> Result<Batch> {
        self.reader()?.batch(table).map_err(|_| unread())
    }
}

fn unread() -> Error {
    Error::new(ErrorKind::Protocol, "rows that were kept aside cannot be read again, by a mistake of ours")
}

fn unkept(e: &std::io::Error) -> Error {
    let kind = if e.kind() == std::io::ErrorKind::StorageFull { ErrorKind::Full } else { ErrorKind::Denied };
    let what = format!(
        "rows wait in a file of {} until all of them are there, and it cannot be used: {e}",
        std::env::temp_dir().display()
    );
    Error::new(kind, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Column, ColumnDef, LogicalType};

    #[test]
    fn what_waits_comes_back_in_its_order_from_memory_and_file() {
        let table = Arc::new(Table::new(
            TableName::new("t"),
            vec![ColumnDef::new("a", LogicalType::Binary { max: None, fixed: false })],
        ));
        let batch = |size: usize| {
            let mut column = Column::default();
            column.push_bytes(&vec![7; size]);
            Batch::new(table.clone(), vec![column])
        };
        let sizes = [1, HELD_BYTES, 2, 3, HELD_BYTES + 1, 4];
        let mut spool = Spool::default();
        assert!(spool.is_empty());
        for size in sizes {
            spool.push(if size < 3 { WriteMode::Delete } else { WriteMode::Insert }, &batch(size)).expect("kept");
        }
        assert!(spool.file.is_some() && !spool.held.is_empty());
        let mut pieces = spool.pieces().expect("read");
        for size in sizes {
            let piece = pieces.next().expect("read").expect("a piece");
            assert_eq!(piece.mode().expect("a mode") == WriteMode::Delete, size < 3);
            assert_eq!(piece.batch(&table).expect("a batch").size(), batch(size).size());
        }
        assert!(pieces.next().expect("read").is_none());
    }
}
