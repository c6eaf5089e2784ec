//! The fast path: rows into an empty table.

use super::TableProgress;
use super::plan::TablePlan;
use super::run::{Context, QUIET, abandon};
use crate::apply::write_splitting;
use crate::capture::{FittedBatch, interrupted, read};
use crate::engine::{ReadRequest, Result, Selection, Target, WriteMode};
use crate::model::Batch;

/// What is kept in memory until the target has accepted it, to be written row by row where one of
/// them is refused.
const CHUNK_BYTES: usize = 8 << 20;

/// Contents of a transaction, about: a commit costs each engine the writing of every page that it
/// touched, so a small one makes an existing index expensive; a huge one loses more when interrupted.
const TRANSACTION_BYTES: usize = 64 << 20;

/// Reads everything and appends it in pieces, so that an interrupted run keeps what it has.
pub(super) async fn load(context: &Context, plan: &TablePlan, at: usize) -> Result<()> {
    let request = ReadRequest {
        table: plan.source.clone(),
        filter: plan.filter.clone(),
        rows: Selection::All,
        ordered: false,
        limits: context.options.limits,
    };
    let source = context.snapshot.source().await?;
    let mut reading = read(source, request, Some(context.shape(plan)), context.options.stop.clone());
    let progress = &context.progress.tables[at];
    let mut load = Load {
        context,
        progress,
        target: context.target.target().await?,
        chunk: Vec::new(),
        chunk_bytes: 0,
        transaction_bytes: None,
    };
    while let Some(fitted) = reading.recv().await {
        let done = async {
            let fitted = fitted?;
            TableProgress::add(&progress.read, fitted.batch.rows() as u64);
            load.take(without_misfits(context, fitted, progress)?).await?;
            if context.options.stop.is_cancelled() { Err(interrupted()) } else { Ok(()) }
        };
        if let Err(e) = done.await {
            return Err(abandon(load.target.as_mut(), e).await);
        }
    }
    match load.finish().await {
        Ok(()) => Ok(()),
        Err(e) => Err(abandon(load.target.as_mut(), e).await),
    }
}

struct Load<'a> {
    context: &'a Context,
    progress: &'a TableProgress,
    target: Box<dyn Target>,
    /// Written since the savepoint, not yet known to be accepted.
    chunk: Vec<Batch>,
    chunk_bytes: usize,
    /// Bytes of the open transaction; `None` when there is none.
    transaction_bytes: Option<usize>,
}

impl Load<'_> {
    async fn take(&mut self, batch: Batch) -> Result<()> {
        if batch.rows() == 0 {
            return Ok(());
        }
        if self.transaction_bytes.is_none() {
            self.target.begin(QUIET).await?;
            self.target.savepoint().await?;
            self.transaction_bytes = Some(0);
        }
        let result = self.target.write(WriteMode::Insert, &batch).await;
        self.chunk_bytes += batch.size();
        self.chunk.push(batch);
        match result {
            Ok(_) if self.chunk_bytes < CHUNK_BYTES => Ok(()),
            Ok(_) => self.end_chunk().await,
            Err(e) if e.is_row_fault() => self.write_carefully().await,
            Err(e) => Err(e),
        }
    }

    /// Makes sure that the chunk is accepted; commits when the transaction is large enough.
    async fn end_chunk(&mut self) -> Result<()> {
        match self.target.flush().await {
            Ok(()) => {
                TableProgress::add(&self.progress.inserted, self.chunk.iter().map(|b| b.rows() as u64).sum());
                self.accepted().await
            }
            Err(e) if e.is_row_fault() => self.write_carefully().await,
            Err(e) => Err(e),
        }
    }

    async fn accepted(&mut self) -> Result<()> {
        let bytes = self.transaction_bytes.unwrap_or(0) + self.chunk_bytes;
        self.chunk.clear();
        self.chunk_bytes = 0;
        if bytes >= TRANSACTION_BYTES {
            self.transaction_bytes = None;
            return self.target.commit().await;
        }
        self.transaction_bytes = Some(bytes);
        self.target.savepoint().await
    }

    /// Writes the chunk again, looking for the rows that are refused.
    async fn write_carefully(&mut self) -> Result<()> {
        self.target.rollback_to_savepoint().await?;
        for batch in &self.chunk {
            let (written, refused) = write_splitting(self.target.as_mut(), WriteMode::Insert, batch).await?;
            TableProgress::add(&self.progress.inserted, written);
            for row in refused {
                self.context.options.rejects.add(batch, row.row, &row.reason)?;
                TableProgress::add(&self.progress.quarantined, 1);
            }
        }
        self.accepted().await
    }

    async fn finish(&mut self) -> Result<()> {
        if !self.chunk.is_empty() {
            self.end_chunk().await?;
        }
        if self.transaction_bytes.take().is_some() {
            self.target.commit().await?;
        }
        Ok(())
    }
}

/// Takes the rows that do not fit out of the batch and puts them aside.
pub(super) fn without_misfits(context: &Context, fitted: FittedBatch, progress: &TableProgress) -> Result<Batch> {
    let FittedBatch { batch, misfits } = fitted;
    if misfits.is_empty() {
        return Ok(batch);
    }
    let mut last = None;
    for (row, column, why) in &misfits {
        // A row is put aside once, with the first of its reasons.
        if last != Some(*row) {
            context.options.rejects.add(&batch, *row, &format!("{}: {why}", batch.table.columns[*column].name))?;
            TableProgress::add(&progress.quarantined, 1);
        }
        last = Some(*row);
    }
    let fits = (0..batch.rows()).filter(|row| misfits.binary_search_by_key(row, |m| m.0).is_err());
    Ok(batch.select(fits))
}
