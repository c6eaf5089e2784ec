//! The fast path: rows into an empty table.

use super::TableProgress;
use super::plan::TablePlan;
use super::run::{Context, QUIET, abandon};
use crate::apply::write_splitting;
use crate::capture::{FittedBatch, interrupted, read};
use crate::engine::{ReadRequest, Result, Selection, Target, WriteMode};
use crate::model::Batch;

/// Contents of a transaction at most. Bigger ones gain nothing and cost memory: the batches are
/// kept until they are committed, to be written row by row where one of them is refused.
const CHUNK_BYTES: usize = 8 << 20;

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
    let mut target = context.target.target().await?;
    let progress = &context.progress.tables[at];
    let mut chunk: Vec<Batch> = Vec::new();
    let mut bytes = 0;
    while let Some(fitted) = reading.recv().await {
        let fitted = fitted?;
        TableProgress::add(&progress.read, fitted.batch.rows() as u64);
        let batch = without_misfits(context, fitted, progress)?;
        bytes += batch.size();
        if chunk.is_empty() {
            target.begin(QUIET).await?;
        }
        if !write_fast(target.as_mut(), &mut chunk, batch).await? {
            write_carefully(context, target.as_mut(), std::mem::take(&mut chunk), progress).await?;
            bytes = 0;
        } else if bytes >= CHUNK_BYTES {
            finish_chunk(context, target.as_mut(), std::mem::take(&mut chunk), progress).await?;
            bytes = 0;
        }
        if context.options.stop.is_cancelled() {
            return Err(interrupted());
        }
    }
    if !chunk.is_empty() {
        finish_chunk(context, target.as_mut(), chunk, progress).await?;
    }
    Ok(())
}

/// Sends a batch by the bulk path; false when a row of the chunk was refused.
async fn write_fast(target: &mut dyn Target, chunk: &mut Vec<Batch>, batch: Batch) -> Result<bool> {
    let result = if batch.rows() == 0 { Ok(0) } else { target.write(WriteMode::Insert, &batch).await };
    chunk.push(batch);
    match result {
        Ok(_) => Ok(true),
        Err(e) if e.is_row_fault() => Ok(false),
        Err(e) => Err(abandon(target, e).await),
    }
}

async fn finish_chunk(
    context: &Context,
    target: &mut dyn Target,
    chunk: Vec<Batch>,
    progress: &TableProgress,
) -> Result<()> {
    match target.flush().await {
        Ok(()) => {
            target.commit().await?;
            TableProgress::add(&progress.inserted, chunk.iter().map(|b| b.rows() as u64).sum());
            Ok(())
        }
        Err(e) if e.is_row_fault() => write_carefully(context, target, chunk, progress).await,
        Err(e) => Err(abandon(target, e).await),
    }
}

/// Writes a chunk again, looking for the rows that are refused.
async fn write_carefully(
    context: &Context,
    target: &mut dyn Target,
    chunk: Vec<Batch>,
    progress: &TableProgress,
) -> Result<()> {
    target.rollback().await?;
    target.begin(QUIET).await?;
    let mut written = 0;
    for batch in &chunk {
        let (n, refused) = match write_splitting(target, WriteMode::Insert, batch).await {
            Ok(done) => done,
            Err(e) => return Err(abandon(target, e).await),
        };
        written += n;
        for row in refused {
            context.options.rejects.add(batch, row.row, &row.reason)?;
            TableProgress::add(&progress.quarantined, 1);
        }
    }
    target.commit().await?;
    TableProgress::add(&progress.inserted, written);
    Ok(())
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
