//! Batches → endpoint: writes, and finds the rows that the endpoint refuses; changes → endpoint: decides, then writes.

mod changes;
mod fill;
mod record;
mod retry;
mod settled;
mod sharing;

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use crate::engine::{Error, ErrorKind, Result, Target, WriteMode};
use crate::model::{Batch, render};

pub use changes::{Applied, Incoming, Intake, Parent, Terms, apply};
pub use fill::Fill;
pub use record::{Records, count_aside, keys_aside};
pub(crate) use record::{image, key_of, row_of};
pub use retry::{Outcome, Retry, put};
pub use settled::Settled;

/// Rows that could not be written, as JSON lines in a file that is made with the first of them.
pub struct Rejects {
    path: PathBuf,
    file: Mutex<Option<std::fs::File>>,
    count: AtomicU64,
    first: OnceLock<String>,
}

impl Rejects {
    /// Rejects go to this file; an older one of that name is replaced when the first comes.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, file: Mutex::new(None), count: AtomicU64::new(0), first: OnceLock::new() }
    }

    /// Whether the file can be written: by the first reject other rows have moved.
    ///
    /// # Errors
    /// `Full` or `Denied` when it cannot.
    pub fn check(&self) -> Result<()> {
        let is_new = !self.path.exists();
        let opened = std::fs::OpenOptions::new().append(true).create(true).open(&self.path);
        opened.map_err(|e| self.unwritable(&e))?;
        if is_new {
            // It stays away while there is nothing to say.
            std::fs::remove_file(&self.path).map_err(|e| self.unwritable(&e))?;
        }
        Ok(())
    }

    /// How many so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Why the first row that came could not be written.
    #[must_use]
    pub fn first(&self) -> Option<&str> {
        self.first.get().map(String::as_str)
    }

    /// Where they are.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Writes one row with its reason. `batch` is in the target's form; the values are canonical text.
    pub fn add(&self, batch: &Batch, row: usize, reason: &str) -> Result<()> {
        let object = |columns: &mut dyn Iterator<Item = usize>| -> serde_json::Map<String, serde_json::Value> {
            columns
                .map(|c| {
                    let column = &batch.table.columns[c];
                    let value = render(&column.logical, batch.cell(row, c));
                    (column.name.clone(), value.map_or(serde_json::Value::Null, Into::into))
                })
                .collect()
        };
        let key = batch.table.row_key().map(|k| object(&mut k.columns.into_iter()));
        let line = serde_json::json!({
            "table": batch.table.name.to_string(),
            "key": key,
            "reason": reason,
            "row": object(&mut (0..batch.table.columns.len())),
        });
        self.write(&line).map_err(|e| self.unwritable(&e))?;
        self.count.fetch_add(1, Ordering::Relaxed);
        let named = || Error::new(ErrorKind::BadData, reason).of_table(&batch.table.name).to_string();
        self.first.get_or_init(named);
        Ok(())
    }

    /// Takes the rows of one table back: it is tried once more from its beginning.
    pub fn forget(&self, table: &str) -> Result<()> {
        let mut guard = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if guard.is_none() {
            return Ok(());
        }
        let without = || -> std::io::Result<std::fs::File> {
            let text = std::fs::read_to_string(&self.path)?;
            let others = |line: &&str| {
                serde_json::from_str::<serde_json::Value>(line).is_ok_and(|row| row["table"].as_str() != Some(table))
            };
            let kept: Vec<&str> = text.lines().filter(others).collect();
            let mut file = std::fs::File::create(&self.path)?;
            kept.iter().try_for_each(|line| writeln!(file, "{line}"))?;
            self.count.store(kept.len() as u64, Ordering::Relaxed);
            Ok(file)
        };
        *guard = Some(without().map_err(|e| self.unwritable(&e))?);
        Ok(())
    }

    fn unwritable(&self, e: &std::io::Error) -> Error {
        let kind = if e.kind() == std::io::ErrorKind::StorageFull { ErrorKind::Full } else { ErrorKind::Denied };
        Error::new(kind, format!("the rejects file {} cannot be written: {e}", self.path.display()))
    }

    /// Writes each row that does not fit, once, with all its reasons; `misfits` are by row. Returns how many.
    ///
    /// # Errors
    /// `Full` or `Denied` when the file cannot be written.
    pub fn add_unfit(&self, batch: &Batch, misfits: &[(usize, usize, String)]) -> Result<u64> {
        let mut rows = 0;
        for row in misfits.chunk_by(|a, b| a.0 == b.0) {
            let reasons = row.iter().map(|(_, column, why)| format!("{}: {why}", batch.table.columns[*column].name));
            self.add(batch, row[0].0, &reasons.collect::<Vec<_>>().join("; "))?;
            rows += 1;
        }
        Ok(rows)
    }

    fn write(&self, line: &serde_json::Value) -> std::io::Result<()> {
        let mut guard = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if guard.is_none() {
            *guard = Some(std::fs::File::create(&self.path)?);
        }
        match guard.as_mut() {
            Some(file) => writeln!(file, "{line}"),
            None => Ok(()),
        }
    }
}

/// A row that the target refused, with its words.
#[derive(Debug)]
pub struct Refused {
    /// Row of the batch.
    pub row: usize,
    /// The target's words.
    pub reason: String,
}

/// Writes a batch inside the open transaction; what the target refuses is found by halving and
/// returned, the rest is written. Other errors end the transaction.
pub async fn write_splitting(target: &mut dyn Target, mode: WriteMode, batch: &Batch) -> Result<(u64, Vec<Refused>)> {
    let mut written = 0;
    let mut refused = Vec::new();
    let mut pending = vec![(0, batch.rows())];
    while let Some((from, to)) = pending.pop() {
        if from == to {
            continue;
        }
        target.savepoint().await?;
        let part = if to - from == batch.rows() { None } else { Some(batch.select(from..to)) };
        let result = match target.write(mode, part.as_ref().unwrap_or(batch)).await {
            Ok(n) => target.flush().await.map(|()| n),
            Err(e) => Err(e),
        };
        match result {
            Ok(n) => written += n,
            Err(e) if e.is_row_fault() => {
                target.rollback_to_savepoint().await?;
                if to - from == 1 {
                    refused.push(Refused { row: from, reason: e.message().to_owned() });
                } else {
                    let middle = from.midpoint(to);
                    pending.push((middle, to));
                    pending.push((from, middle));
                }
            }
            Err(e) => return Err(e),
        }
    }
    Ok((written, refused))
}
