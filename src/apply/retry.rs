//! Rows that are refused once may be welcome when the rows after them stand: two that exchange a unique value, say.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Refused, write_splitting};
use crate::engine::{Error, ErrorKind, Result, RowLock, Target, WriteMode};
use crate::model::{Batch, Column, Table, row_digest};

/// More refused rows than this, and something is wrong with the table as a whole.
const ROWS_MAX: usize = 100_000;
/// Of so many rows those that stand in the others' way are looked for, which takes a try for each of them.
const SWAP_MAX: usize = 200;

/// Rows refused so far.
#[derive(Default)]
pub struct Retry {
    batches: Vec<(WriteMode, Batch)>,
    rows: usize,
}

/// What became of the rows that were tried again.
#[derive(Default)]
pub struct Outcome {
    /// How many were written, by kind.
    pub written: Vec<(WriteMode, u64)>,
    /// What is refused even when all others stand, in the batch that it is a row of.
    pub refused: Vec<(WriteMode, Batch, Refused)>,
}

/// Writes; what is refused is kept for [`Retry::finish`]. Returns how many rows were written.
///
/// # Errors
/// `Busy` when rows that were there to be updated are not there any more.
pub async fn put(target: &mut dyn Target, mode: WriteMode, batch: Batch, retry: &mut Retry) -> Result<u64> {
    let (written, refused) = write_splitting(target, mode, &batch).await?;
    let expected = (batch.rows() - refused.len()) as u64;
    if mode == WriteMode::Update && written != expected {
        return Err(Error::new(
            ErrorKind::Busy,
            format!(
                "rows of {} were changed by someone else meanwhile; nothing was written, run it again",
                batch.table.name
            ),
        ));
    }
    if !refused.is_empty() {
        retry.rows += refused.len();
        if retry.rows > ROWS_MAX {
            return Err(Error::new(
                ErrorKind::Constraint,
                format!("{} refuses more than {ROWS_MAX} rows: {}", batch.table.name, refused[0].reason),
            ));
        }
        retry.batches.push((mode, batch.select(refused.iter().map(|r| r.row))));
    }
    Ok(written)
}

impl Retry {
    /// The refused rows once more: all updates as delete and insert in one go, which frees every value that they
    /// exchange. What is refused even then is left out, until the rest goes; of very many, they go one by one.
    /// `whole` is the table with all its columns: those that are not given come back with the row.
    pub async fn finish(mut self, target: &mut dyn Target, whole: &Arc<Table>) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        if self.batches.is_empty() {
            return Ok(outcome);
        }
        target.savepoint().await?;
        while !self.batches.is_empty() {
            match self.swap(target, whole).await {
                Ok(()) => {
                    outcome.written = self.batches.iter().map(|(mode, batch)| (*mode, batch.rows() as u64)).collect();
                    return Ok(outcome);
                }
                Err((_, e)) if !e.is_row_fault() => return Err(e),
                Err((at, e)) => {
                    target.rollback_to_savepoint().await?;
                    if self.rows > SWAP_MAX {
                        break;
                    }
                    if self.batches.len() < self.rows {
                        self.batches = singly(&self.batches);
                    } else {
                        let (mode, batch) = self.batches.remove(at);
                        self.rows -= 1;
                        outcome.refused.push((mode, batch, Refused { row: 0, reason: e.message().to_owned() }));
                    }
                }
            }
        }
        for (mode, batch) in self.batches {
            let (written, refused) = write_splitting(target, mode, &batch).await?;
            outcome.written.push((mode, written));
            outcome.refused.extend(refused.into_iter().map(|row| (mode, batch.clone(), row)));
        }
        Ok(outcome)
    }

    /// With an error the place of the batch that is refused.
    async fn swap(&self, target: &mut dyn Target, whole: &Arc<Table>) -> std::result::Result<(), (usize, Error)> {
        let mut inserts = Vec::with_capacity(self.batches.len());
        for (at, (mode, batch)) in self.batches.iter().enumerate() {
            inserts.push(match mode {
                WriteMode::Update => completed(target, batch, whole).await.map_err(|e| (at, e))?,
                WriteMode::Insert | WriteMode::Delete => batch.clone(),
            });
        }
        for (at, (mode, batch)) in self.batches.iter().enumerate() {
            if matches!(mode, WriteMode::Update | WriteMode::Delete) {
                target.write(WriteMode::Delete, batch).await.map_err(|e| (at, e))?;
            }
        }
        for (at, ((mode, _), batch)) in self.batches.iter().zip(&inserts).enumerate() {
            if matches!(mode, WriteMode::Update | WriteMode::Insert) {
                target.write(WriteMode::Insert, batch).await.map_err(|e| (at, e))?;
                target.flush().await.map_err(|e| (at, e))?;
            }
        }
        Ok(())
    }
}

/// Rows that stand there with all their columns, of which `batch` changes some.
async fn completed(target: &mut dyn Target, batch: &Batch, whole: &Arc<Table>) -> Result<Batch> {
    let given: Vec<Option<usize>> = whole.columns.iter().map(|c| batch.table.column(&c.name)).collect();
    let Some(key) = batch.table.row_key().map(|key| key.columns) else { return Ok(batch.clone()) };
    if whole.columns.iter().zip(&given).all(|(column, given)| column.generated || given.is_some()) {
        return Ok(batch.clone());
    }
    let keys = Arc::new(batch.table.project(&key));
    let keys = Batch::new(keys, key.iter().map(|&c| batch.columns()[c].clone()).collect());
    let standing = target.lookup(whole, &keys, RowLock::None).await?;
    let names = keys.table.columns.iter();
    let there: Vec<usize> = names.filter_map(|column| whole.column(&column.name)).collect();
    let places: HashMap<_, usize> = (0..standing.rows()).map(|row| (row_digest(&standing, row, &there), row)).collect();
    let mut columns = vec![Column::default(); whole.columns.len()];
    for row in 0..batch.rows() {
        let Some(&place) = places.get(&row_digest(batch, row, &key)) else { return Ok(batch.clone()) };
        for (at, column) in columns.iter_mut().enumerate() {
            column.push_cell(match given[at] {
                Some(given) => batch.cell(row, given),
                None => standing.cell(place, at),
            });
        }
    }
    Ok(Batch::new(whole.clone(), columns))
}

/// Each row as a batch of its own.
fn singly(batches: &[(WriteMode, Batch)]) -> Vec<(WriteMode, Batch)> {
    let rows = |(mode, batch): &(WriteMode, Batch)| {
        (0..batch.rows()).map(|row| (*mode, batch.select(std::iter::once(row)))).collect::<Vec<_>>()
    };
    batches.iter().flat_map(rows).collect()
}
