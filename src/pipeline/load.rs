//! The fast path: rows into an empty table.
//!
//! Tasks read and fit, others write, as many of each as are of use: where the queue between them is full the writers are
//! what takes the time, so one more connection writes if the run has one to spare; where it stays empty one more reads,
//! another stretch of the table, if its engine has stretches that are read at one point.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::TableProgress;
use super::plan::TablePlan;
use super::run::{Context, abandon, lost_worker};
use crate::apply::write_splitting;
use crate::capture::{FittedBatch, Taken, read_within};
use crate::engine::{ReadRequest, Result, Selection, Source, Target, WriteMode, WriteOptions};
use crate::model::Batch;
use crate::runtime::{Failpoint, STEP};

/// What is kept in memory until the target has accepted it, to be written row by row where one of
/// them is refused.
const CHUNK_BYTES: usize = 2 << 20;

/// A stretch costs a connection, and should not cost more.
const STRETCH_BYTES: u64 = 64 << 20;

/// Chunks in a row that writers were waiting for, until one more connection reads.
const AWAITED: usize = 4;

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
    let mut readers = Readers::start(context, plan, at).await?;
    let (send, receive) = mpsc::channel(1);
    let mut writers = Writers { context, at, queue: Arc::new(Mutex::new(receive)), tasks: JoinSet::new() };
    writers.start(None);
    // Several connections may be each other's deadlock; after a failure one reads and one writes.
    let more = |of: &Arc<Semaphore>| of.clone().try_acquire_owned().ok().filter(|_| context.first_attempt);
    let mut awaited = 0;
    let read = loop {
        let empty = readers.chunks.is_empty();
        let next = readers.chunks.recv().await;
        // Nothing was there to be read nor to be written.
        awaited = if empty && send.capacity() > 0 { awaited + 1 } else { 0 };
        if awaited > AWAITED
            && let Some(permit) = more(&context.readers)
        {
            readers.more(permit).await;
            awaited = 0;
        }
        match next {
            None => break readers.finish().await,
            Some(Err(e)) => break Err(e),
            // The queue closes when a writer has failed; its error is the one to tell.
            Some(Ok(chunk)) => match send.try_send(chunk) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Closed(_)) => break Ok(()),
                Err(mpsc::error::TrySendError::Full(chunk)) => {
                    if let Some(permit) = more(&context.writers) {
                        writers.start(Some(permit));
                    }
                    if send.send(chunk).await.is_err() {
                        break Ok(());
                    }
                }
            },
        }
    };
    // Whatever was read is good and stays, also when the reading failed.
    drop(send);
    let written = writers.finish().await;
    read.and(written)
}

/// The connections that read one table.
struct Readers<'a> {
    context: &'a Context,
    plan: Arc<TablePlan>,
    at: usize,
    /// What nobody reads yet.
    left: Arc<Mutex<VecDeque<Selection>>>,
    /// Gone when the last of them is done.
    send: mpsc::WeakSender<Result<Chunk>>,
    chunks: mpsc::Receiver<Result<Chunk>>,
    tasks: JoinSet<()>,
}

impl<'a> Readers<'a> {
    async fn start(context: &'a Context, plan: &TablePlan, at: usize) -> Result<Self> {
        let mut source = context.snapshot.source().await?;
        // Rows that meet a condition may be found by an index, once.
        let stretches = match &plan.filter {
            None => source.stretches(&plan.source, STRETCH_BYTES).await?,
            Some(_) => vec![Selection::All],
        };
        let left = Arc::new(Mutex::new(stretches.into()));
        let (send, chunks) = mpsc::channel(1);
        let plan = Arc::new(plan.clone());
        let mut readers = Self { context, plan, at, left, send: send.downgrade(), chunks, tasks: JoinSet::new() };
        readers.add(send, None, Some(source));
        Ok(readers)
    }

    /// One more, if there is something for it to read.
    async fn more(&mut self, permit: OwnedSemaphorePermit) {
        if let Some(send) = self.send.upgrade()
            && !self.left.lock().await.is_empty()
        {
            self.add(send, Some(permit), None);
        }
    }

    fn add(
        &mut self,
        send: mpsc::Sender<Result<Chunk>>,
        permit: Option<OwnedSemaphorePermit>,
        mut source: Option<Box<dyn Source>>,
    ) {
        let (context, plan, at, left) = (self.context.clone(), self.plan.clone(), self.at, self.left.clone());
        self.tasks.spawn(async move {
            let _permit = permit;
            loop {
                let Some(rows) = left.lock().await.pop_front() else { return };
                if let Err(e) = read(&context, &plan, at, rows, source.take(), &send).await {
                    // Who has stopped listening has met an error of its own.
                    return drop(send.send(Err(e)).await);
                }
            }
        });
    }

    /// After the last chunk.
    async fn finish(mut self) -> Result<()> {
        while let Some(done) = self.tasks.join_next().await {
            done.map_err(|e| lost_worker(&e))?;
        }
        Ok(())
    }
}

/// Reads one stretch of a table.
async fn read(
    context: &Context,
    plan: &TablePlan,
    at: usize,
    rows: Selection,
    source: Option<Box<dyn Source>>,
    send: &mpsc::Sender<Result<Chunk>>,
) -> Result<()> {
    let source = match source {
        Some(source) => source,
        None => context.snapshot.source().await?,
    };
    let (table, filter, limits) = (plan.source.clone(), plan.filter.clone(), context.options.limits);
    let request = ReadRequest { table, filter, rows, ordered: false, limits };
    let (shape, stop) = (context.shape(plan), context.options.stop.clone());
    let mut reading = read_within(source, request, shape, stop, context.room.clone());
    loop {
        let chunk = next_chunk(context, plan, at, &mut reading).await?;
        if chunk.batches.is_empty() || send.send(Ok(chunk)).await.is_err() {
            return Ok(());
        }
    }
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
            self.target.begin(WriteOptions::QUIET).await?;
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
            let table = &self.context.progress.tables[self.at];
            tracing::debug!(target: STEP, "table {}: {} rows are there for good", table.name, open.rows);
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
