//! Batches → endpoint: writes, and finds the rows that the endpoint refuses; changes → endpoint: decides, then writes.

mod changes;
mod fill;
mod moves;
mod record;
mod retry;
mod settled;
mod sharing;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::engine::{Error, ErrorKind, Result, Target, WriteMode};
use crate::model::{Batch, render};

pub use changes::{Applied, Incoming, Intake, NewColumn, Parent, Referred, Terms, apply};
pub use fill::Fill;
pub use moves::{Redirected, move_rows, note_moves, redirect};
pub use record::{Records, count_aside, keys_aside};
pub(crate) use record::{image, key_of, row_of};
pub use retry::{Outcome, Retry, put};
pub use settled::Settled;

/// Rows that could not be written, as JSON lines in a file that is made with the first of them. Several copies may share
/// it: each replaces what it said earlier of the same tables, and nothing else.
pub struct Rejects {
    path: PathBuf,
    /// Source and target, for a file that is not of one pair alone.
    pair: Option<[String; 2]>,
    file: Mutex<Option<std::fs::File>>,
    counts: Mutex<BTreeMap<String, u64>>,
    first: OnceLock<String>,
}

/// What each line begins with: its names are in the order of their letters.
const START: &[u8] = b"{\"key\":";

impl Rejects {
    /// Rejects go to this file.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, pair: None, file: Mutex::new(None), counts: Mutex::default(), first: OnceLock::new() }
    }

    /// The same, with both ends told beside each row.
    #[must_use]
    pub fn between(self, source: &str, target: &str) -> Self {
        Self { pair: Some([source.to_owned(), target.to_owned()]), ..self }
    }

    /// Makes the file ready before rows move: what an earlier run said of these tables is taken out of it.
    ///
    /// # Errors
    /// `Usage` when it holds anything but rejects, `Full` or `Denied` when it cannot be written.
    pub fn ready(&self, tables: &BTreeSet<String>) -> Result<()> {
        let is_new = !self.path.exists();
        let opened = std::fs::OpenOptions::new().append(true).create(true).open(&self.path);
        opened.map_err(|e| self.unwritable(&e))?;
        if is_new {
            // It stays away while there is nothing to say.
            std::fs::remove_file(&self.path).map_err(|e| self.unwritable(&e))?;
        } else if self.path.is_file() {
            self.take_out(tables)?;
        }
        Ok(())
    }

    /// Takes out the lines of this pair that are of these tables.
    fn take_out(&self, tables: &BTreeSet<String>) -> Result<()> {
        let foreign = || {
            let message = "exists and holds something else than rejected rows, which would be lost: name another file";
            Error::new(ErrorKind::Usage, format!("the rejects file {} {message}", self.path.display()))
        };
        let mut start = [0; 1];
        let read = std::fs::File::open(&self.path).and_then(|mut file| file.read(&mut start));
        // Looked at before all of it is read: it may be anything.
        if read.map_err(|e| self.unwritable(&e))? > 0 && start != *b"{" {
            return Err(foreign());
        }
        let bytes = std::fs::read(&self.path).map_err(|e| self.unwritable(&e))?;
        let (mut kept, mut all) = (Vec::new(), true);
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            // The last one of a run that died, or of a disk that was full.
            let begun = line.starts_with(START) || START.starts_with(line);
            if !line.ends_with(b"\n") && begun && serde_json::from_slice::<serde_json::Value>(line).is_err() {
                all = false;
                continue;
            }
            let row: serde_json::Value = serde_json::from_slice(line).map_err(|_| foreign())?;
            let (Some(table), Some(_), Some(_)) = (row["table"].as_str(), row.get("row"), row.get("reason")) else {
                return Err(foreign());
            };
            let pair = [&row["source"], &row["target"]].map(|end| end.as_str().map(str::to_owned));
            if pair == self.told() && tables.contains(table) {
                all = false;
            } else {
                kept.extend_from_slice(line);
            }
        }
        if all {
            return Ok(());
        }
        if kept.is_empty() {
            return std::fs::remove_file(&self.path).map_err(|e| self.unwritable(&e));
        }
        let mut aside = self.path.clone().into_os_string();
        aside.push(".new");
        let written = std::fs::write(&aside, kept).and_then(|()| std::fs::rename(&aside, &self.path));
        written.map_err(|e| self.unwritable(&e))
    }

    fn told(&self) -> [Option<String>; 2] {
        self.pair.clone().map_or([None, None], |pair| pair.map(Some))
    }

    /// How many so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
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
        let name = batch.table.name.to_string();
        let mut line = serde_json::json!({
            "table": name,
            "key": key,
            "reason": reason,
            "row": object(&mut (0..batch.table.columns.len())),
        });
        if let [Some(source), Some(target)] = self.told() {
            line["source"] = source.into();
            line["target"] = target.into();
        }
        self.write(&line).map_err(|e| self.unwritable(&e))?;
        let named = || Error::new(ErrorKind::BadData, reason).of_table(&batch.table.name).to_string();
        self.first.get_or_init(named);
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += 1;
        Ok(())
    }

    /// Takes the rows of one table back: it is tried once more from its beginning.
    pub fn forget(&self, table: &str) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let forgotten = self.counts.lock().unwrap_or_else(PoisonError::into_inner).remove(table);
        if forgotten.is_some() {
            // Closed before another takes its place.
            *file = None;
            self.take_out(&BTreeSet::from([table.to_owned()]))?;
        }
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
        let mut guard = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if guard.is_none() {
            *guard = Some(std::fs::OpenOptions::new().append(true).create(true).open(&self.path)?);
        }
        match guard.as_mut() {
            // At once: another process may write to it too.
            Some(file) => file.write_all(format!("{line}\n").as_bytes()),
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
