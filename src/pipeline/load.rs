//! The fast path: rows into an empty table.
//!
//! One task reads and fits, another gathers chunks, and as many connections write as the target can
//! use: where the queue is full the writers are what takes the time, so one more is taken if the
//! run has one to spare.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;

use super::TableProgress;
use super::plan::TablePlan;
use super::run::{Context, QUIET, abandon, lost_worker};
use crate::apply::write_splitting;
use crate::capture::{FittedBatch, Taken, read_within};
use crate::engine::{ReadRequest, Result, Selection, Target, WriteMode};
use crate::model::Batch;
use crate::runtime::Failpoint;

/// What is kept in memory until the target has accepted it, to be written row by row where one of
/// them is refused.
const CHUNK_BYTES: usize = 2 << 20;

#[derive(Default)]
struct Chunk {
    batches: Vec<Batch>,
    /// Given back when they are written.
    taken: Option<Taken>,
}

/// As it comes from the source.
type Reading = mpsc::Receiver<Result<(FittedBatch, Option<Taken>)>>;

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
    let (shape, stop) = (context.shape(plan), context.options.stop.clone());
    let mut reading = read_within(source, request, shape, stop, context.room.clone());
    let (send, receive) = mpsc::channel(1);
    let mut writers = Writers { context, at, queue: Arc::new(Mutex::new(receive)), tasks: JoinSet::new() };
    writers.start(None);
    let read = loop {
        match next_chunk(context, plan, at, &mut reading).await {
            Ok(chunk) if chunk.batches.is_empty() => break Ok(()),
            // The queue closes when a writer has failed; its error is the one to tell.
            Ok(chunk) => match send.try_send(chunk) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Closed(_)) => break Ok(()),
                Err(mpsc::error::TrySendError::Full(chunk)) => {
                    // Several writers may be each other's deadlock; after a failure one does.
                    if context.first_attempt
                        && let Ok(permit) = context.writers.clone().try_acquire_owned()
                    {
                        writers.start(Some(permit));
                    }
                    if send.send(chunk).await.is_err() {
                        break Ok(());
                    }
                }
            },
            Err(e) => break Err(e),
        }
    };
    // Whatever was read is good and stays, also when the reading failed.
    drop(send);
    let written = writers.finish().await;
    read.and(written)
}

/// Rows for one chunk; empty at the end.
async fn next_chunk(context: &Context, plan: &TablePlan, at: usize, reading: &mut Reading) -> Result<Chunk> {
    let progress = &context.progress.tables[at];
    let (mut chunk, mut bytes) = (Chunk::default(), 0);
    // One that takes room goes on at once: others may wait for that room.
    while bytes < CHUNK_BYTES && chunk.taken.is_none() {
        let Some(fitted) = reading.recv().await else { break };
        let (fitted, taken) = fitted?;
        TableProgress::add(&progress.read, fitted.batch.rows() as u64);
        let batch = plan.fill.complete(without_misfits(context, fitted, progress)?);
        if batch.rows() > 0 {
            bytes += batch.size();
            chunk.batches.push(batch);
            chunk.taken = taken;
        }
    }
    Ok(chunk)
}

/// The connections that write one table.
struct Writers<'a> {
    context: &'a Context,
    at: usize,
    queue: Arc<Mutex<mpsc::Receiver<Chunk>>>,
    tasks: JoinSet<Result<()>>,
}

impl Writers<'_> {
    fn start(&mut self, permit: Option<OwnedSemaphorePermit>) {
        let (context, at, queue) = (self.context.clone(), self.at, self.queue.clone());
        self.tasks.spawn(async move {
            let _permit = permit;
            let result = write(&context, at, &queue).await;
            if result.is_err() {
                queue.lock().await.close();
            }
            result
        });
    }

    /// Waits for all of them; the first error.
    async fn finish(mut self) -> Result<()> {
        let mut outcome = Ok(());
        while let Some(done) = self.tasks.join_next().await {
            outcome = outcome.and(done.unwrap_or_else(|e| Err(lost_worker(&e))));
        }
        outcome
    }
}

/// Writes chunks until there are no more.
async fn write(context: &Context, at: usize, queue: &Mutex<mpsc::Receiver<Chunk>>) -> Result<()> {
    let target = context.target.target().await?;
    let mut writer = Writer { context, at, target, open: None };
    let result = async {
        loop {
            let chunk = queue.lock().await.recv().await;
            match chunk {
                Some(chunk) => writer.put(chunk).await?,
                None => return writer.commit().await,
            }
        }
    };
    match result.await {
        Ok(()) => Ok(()),
        Err(e) => Err(abandon(writer.target.as_mut(), e).await),
    }
}

struct Writer<'a> {
    context: &'a Context,
    at: usize,
    target: Box<dyn Target>,
    open: Option<Open>,
}

/// What the open transaction holds.
#[derive(Default)]
struct Open {
    rows: u64,
    bytes: usize,
}

impl Writer<'_> {
    /// Writes a chunk and makes sure that it is accepted; commits when the transaction is large enough.
    async fn put(&mut self, chunk: Chunk) -> Result<()> {
        let open = if let Some(open) = &mut self.open {
            open
        } else {
            self.target.begin(QUIET).await?;
            self.open.insert(Open::default())
        };
        self.target.savepoint().await?;
        open.rows += match write_at_once(self.target.as_mut(), &chunk.batches).await {
            Ok(rows) => rows,
            Err(e) if e.is_row_fault() => {
                self.target.rollback_to_savepoint().await?;
                write_carefully(self.context, self.at, self.target.as_mut(), &chunk.batches).await?
            }
            Err(e) => return Err(e),
        };
        Failpoint::LoadWritten.reach();
        open.bytes += chunk.batches.iter().map(Batch::size).sum::<usize>();
        // A commit costs each engine the writing of every page that the transaction touched, so a small one
        // makes an existing index expensive; a huge one loses more when interrupted.
        if open.bytes >= self.context.target.abilities().load_bytes { self.commit().await } else { Ok(()) }
    }

    async fn commit(&mut self) -> Result<()> {
        if let Some(open) = self.open.take() {
            self.target.commit().await?;
            Failpoint::LoadCommitted.reach();
            TableProgress::add(&self.context.progress.tables[self.at].inserted, open.rows);
        }
        Ok(())
    }
}

async fn write_at_once(target: &mut dyn Target, chunk: &[Batch]) -> Result<u64> {
    for batch in chunk {
        target.write(WriteMode::Insert, batch).await?;
    }
    target.flush().await?;
    Ok(chunk.iter().map(|b| b.rows() as u64).sum())
}

/// Writes the chunk again, looking for the rows that are refused.
async fn write_carefully(context: &Context, at: usize, target: &mut dyn Target, chunk: &[Batch]) -> Result<u64> {
    let mut rows = 0;
    for batch in chunk {
        let (written, refused) = write_splitting(target, WriteMode::Insert, batch).await?;
        rows += written;
        for row in refused {
            context.options.rejects.add(batch, row.row, &row.reason)?;
            TableProgress::add(&context.progress.tables[at].quarantined, 1);
        }
    }
    Ok(rows)
}

/// Takes the rows that do not fit out of the batch and puts them aside.
pub(super) fn without_misfits(context: &Context, fitted: FittedBatch, progress: &TableProgress) -> Result<Batch> {
    let FittedBatch { batch, misfits } = fitted;
    if misfits.is_empty() {
        return Ok(batch);
    }
    TableProgress::add(&progress.quarantined, context.options.rejects.add_unfit(&batch, &misfits)?);
    let fits = (0..batch.rows()).filter(|row| misfits.binary_search_by_key(row, |m| m.0).is_err());
    Ok(batch.select(fits))
}
