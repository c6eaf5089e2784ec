//! Endpoint → batches: rows, read in a task of its own, so that reading, fitting and writing overlap; and changes, read
//! from what the triggers noted.

mod facets;
mod fault;
mod feed;
mod fold;
mod install;
mod reform;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::engine::{Database, Error, ErrorKind, ReadRequest, Result, Source};
use crate::model::{Batch, Cell, Column, ColumnDef, Shift, Table, Value, fit};

pub use fault::{Fault, Outcome};
pub(crate) use feed::lines_of;
pub use feed::{
    Changes, Meant, Now, Read, Reference, Wanted, Which, came, changes, changes_of, deleted, doubtful, written,
};
pub(crate) use feed::{births, number};
pub use fold::{Backlog, Part, backlog, bury, fold_part, fold_tables, vouch};
pub(crate) use fold::{Noted, content, fold_keys};
pub use install::install;

/// A batch in the form of the receiving table.
#[derive(Debug, Clone)]
pub struct FittedBatch {
    /// The rows; at a misfit stands the original, as text.
    pub batch: Batch,
    /// Row, column and reason of each value that does not fit, by row.
    pub misfits: Vec<(usize, usize, String)>,
}

impl FittedBatch {
    /// Some of its rows.
    #[must_use]
    pub fn part(&self, rows: Range<usize>) -> Self {
        let inside = self.misfits.iter().filter(|m| rows.contains(&m.0));
        Self {
            misfits: inside.map(|(row, column, why)| (row - rows.start, *column, why.clone())).collect(),
            batch: self.batch.select(rows),
        }
    }

    /// The same with what does not fit beside its column, as it has to be where only values of the column's type are
    /// taken over.
    #[must_use]
    pub fn set_aside(mut self) -> Self {
        if self.misfits.is_empty() {
            return self;
        }
        let unfit: BTreeSet<(usize, usize)> = self.misfits.iter().map(|m| (m.1, m.0)).collect();
        let whole = |column: usize| unfit.range((column, 0)..(column + 1, 0)).next().is_none();
        let aside = |cell: Cell<'_>| match cell.to_value() {
            Value::Bytes(bytes) => String::from_utf8(bytes).map_or_else(|e| Value::Bytes(e.into_bytes()), Value::Text),
            value => value,
        };
        let (table, mut columns) = (self.batch.table.clone(), self.batch.into_columns());
        for (at, column) in columns.iter_mut().enumerate().filter(|(at, _)| !whole(*at)) {
            let mut out = Column::default();
            for row in 0..column.len() {
                let cell = column.cell(row);
                if unfit.contains(&(at, row)) { out.push_escape(aside(cell)) } else { out.push_cell(cell) }
            }
            *column = out;
        }
        self.batch = Batch::new(table, columns);
        self
    }

    /// The rows that do not fit.
    #[must_use]
    pub fn unfit(&self) -> BTreeSet<usize> {
        self.misfits.iter().map(|m| m.0).collect()
    }
}

/// What batches are turned into: the receiving table (same columns in the same order as the table
/// read) and the database that judges the fit.
#[derive(Clone)]
pub struct Shape {
    /// The receiving table.
    pub table: Arc<Table>,
    /// The database it is in; without it only the types judge.
    pub database: Option<Arc<dyn Database>>,
    /// Whether both ends are one product.
    pub same_engine: bool,
    /// For each column how its clock readings change on the way.
    pub shifts: Arc<[Option<Shift>]>,
}

/// Room in memory for rows that are larger than a batch may be, shared by all that read for one run: so many tables and
/// writers as there may be, of such rows no more are on their way than fit in here, and one at least.
#[derive(Clone)]
pub struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ROOM_KIB as usize)))
    }
}

/// One row of the largest size that engines take as a rule.
const ROOM_KIB: u32 = 64 << 10;

impl Room {
    /// Waits for so much room, or for all of it.
    async fn take(&self, bytes: usize) -> Option<Taken> {
        let kib = u32::try_from(bytes >> 10).unwrap_or(u32::MAX).clamp(1, ROOM_KIB);
        self.0.clone().acquire_many_owned(kib).await.ok().map(|permit| Taken { _permit: permit })
    }
}

/// Room that a batch takes until this is dropped.
#[derive(Debug)]
pub struct Taken {
    _permit: OwnedSemaphorePermit,
}

/// Batches that are on their way; at most two wait.
pub type Reading = mpsc::Receiver<Result<FittedBatch>>;

/// Starts to read. The task ends when the receiver is dropped, at the end, or at the first error.
#[must_use]
pub fn read(source: Box<dyn Source>, request: ReadRequest, shape: Option<Shape>, stop: CancellationToken) -> Reading {
    pump(source, request, shape, stop, None, |fitted, _| fitted)
}

/// As [`read`], with something made of each batch in the same task.
#[must_use]
pub fn read_and<T: Send + 'static>(
    source: Box<dyn Source>,
    request: ReadRequest,
    shape: Option<Shape>,
    stop: CancellationToken,
    make: impl Fn(FittedBatch) -> T + Send + Sync + 'static,
) -> mpsc::Receiver<Result<T>> {
    pump(source, request, shape, stop, None, move |fitted, _| make(fitted))
}

/// As [`read`], for who does not wait for a further batch before it has given back the room of the one at hand.
#[must_use]
pub fn read_within(
    source: Box<dyn Source>,
    request: ReadRequest,
    shape: Shape,
    stop: CancellationToken,
    room: Room,
) -> mpsc::Receiver<Result<(FittedBatch, Option<Taken>)>> {
    pump(source, request, Some(shape), stop, Some(room), |fitted, taken| (fitted, taken))
}

fn pump<T: Send + 'static>(
    mut source: Box<dyn Source>,
    request: ReadRequest,
    shape: Option<Shape>,
    stop: CancellationToken,
    room: Option<Room>,
    pack: impl Fn(FittedBatch, Option<Taken>) -> T + Send + Sync + 'static,
) -> mpsc::Receiver<Result<T>> {
    let (send, receive) = mpsc::channel(2);
    let watch = send.clone();
    let reader = tokio::spawn(async move {
        let work = async {
            let mut stream = source.read(&request).await?;
            // What the row before took, where it was a large one: the next will be as large.
            let mut large = 0;
            loop {
                let mut taken = match &room {
                    Some(room) if large > 0 => room.take(large).await,
                    // The one before is to be on its way to its end.
                    None if large > 0 && send.reserve_many(send.max_capacity()).await.is_err() => return Ok(()),
                    _ => None,
                };
                let Some(batch) = stream.next().await? else { return Ok(()) };
                // A batch may pass its bound by its last row, if that is no larger than the bound.
                large = if batch.size() > request.limits.bytes.saturating_mul(2) { batch.size() } else { 0 };
                match &room {
                    Some(room) if large > 0 && taken.is_none() => taken = room.take(large).await,
                    _ if large == 0 => taken = None,
                    _ => {}
                }
                let fitted = match &shape {
                    Some(shape) => fit_batch(batch, shape),
                    None => FittedBatch { batch, misfits: Vec::new() },
                };
                if send.send(Ok(pack(fitted, taken))).await.is_err() {
                    return Ok(());
                }
            }
        };
        let result = tokio::select! {
            () = stop.cancelled() => Err(interrupted()),
            result = work => result,
        };
        if let Err(error) = result {
            let error: Error = error;
            // The receiver may be gone already; then nobody is left to tell.
            let _ = send.send(Err(error.of_table(&request.table.name))).await;
        }
    });
    // One that panicked must not pass for the end of the rows.
    tokio::spawn(async move {
        if let Err(e) = reader.await {
            let fault = format!("a reader ended with a fault of ours, please report it: {e}");
            let _ = watch.send(Err(Error::new(ErrorKind::Protocol, fault))).await;
        }
    });
    receive
}

/// The error of a run that was asked to stop.
#[must_use]
pub fn interrupted() -> Error {
    Error::new(ErrorKind::Interrupted, "stopped on request; the same command goes on where this one ended")
}

/// A batch in the form of the receiving table.
#[must_use]
pub fn fit_batch(batch: Batch, shape: &Shape) -> FittedBatch {
    let source = batch.table.clone();
    let mut misfits = Vec::new();
    let columns: Vec<Column> = batch
        .into_columns()
        .into_iter()
        .enumerate()
        .map(|(at, data)| {
            let target = &shape.table.columns[at];
            let (data, unshifted) = match &shape.shifts[at] {
                Some(shift) => shift.apply(&source.columns[at].logical, data),
                None => (data, Vec::new()),
            };
            misfits.extend(unshifted.into_iter().map(|(row, why)| (row, at, why)));
            let (data, unfit) = fit(&source.columns[at].logical, &target.logical, data, shape.same_engine);
            misfits.extend(unfit.into_iter().map(|(row, why)| (row, at, why)));
            judge(shape.database.as_deref(), target, &data, at, &mut misfits);
            data
        })
        .collect();
    FittedBatch { batch: Batch::new(shape.table.clone(), columns), misfits: by_row(misfits) }
}

/// Row, column and reason of each value that cannot stand in its column.
type Misfits = Vec<(usize, usize, String)>;

/// What a database says to values that have the form of its columns.
fn judge(database: Option<&dyn Database>, target: &ColumnDef, data: &Column, at: usize, misfits: &mut Misfits) {
    if target.generated {
        return;
    }
    let judged = database.into_iter().flat_map(|database| database.misfits(target, data));
    misfits.extend(judged.map(|(row, why)| (row, at, why)));
    if !target.nullable && data.has_null() {
        let nulls = (0..data.len()).filter(|&row| data.cell(row) == Cell::Null);
        misfits.extend(nulls.map(|row| (row, at, "it must not be NULL".to_owned())));
    }
}

fn by_row(mut misfits: Misfits) -> Misfits {
    misfits.sort_by_key(|(row, column, _)| (*row, *column));
    // Of a value that its type does not hold the target can only say the same once more.
    misfits.dedup_by_key(|(row, column, _)| (*row, *column));
    misfits
}

/// Which values of a batch that has the form of its table cannot stand there, by row.
#[must_use]
pub fn unfit(database: &dyn Database, batch: &Batch) -> Vec<(usize, usize, String)> {
    let mut misfits = Vec::new();
    for (at, (column, data)) in batch.table.columns.iter().zip(batch.columns()).enumerate() {
        judge(Some(database), column, data, at, &mut misfits);
    }
    by_row(misfits)
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::engine::{BatchStream, Selection};
    use crate::model::{BatchLimits, TableName};

    struct Faulty;

    #[async_trait]
    impl Source for Faulty {
        async fn count(&mut self, _: &Table, _: Option<&str>) -> Result<u64> {
            Ok(0)
        }

        async fn check(&mut self, _: &ReadRequest) -> Result<()> {
            Ok(())
        }

        async fn read<'a>(&'a mut self, _: &ReadRequest) -> Result<Box<dyn BatchStream + 'a>> {
            panic!("a fault of the reader");
        }
    }

    #[tokio::test]
    async fn a_reader_that_panics_is_no_end_of_its_rows() {
        let table = Arc::new(Table::new(TableName::new("t"), Vec::new()));
        let limits = BatchLimits { rows: 1, bytes: 1 };
        let request = ReadRequest { table, filter: None, rows: Selection::All, ordered: false, limits };
        let mut reading = read(Box::new(Faulty), request, None, CancellationToken::new());
        let told = reading.recv().await.expect("not the end").map(drop).expect_err("a fault");
        assert_eq!(told.kind, ErrorKind::Protocol);
        assert!(reading.recv().await.is_none());
    }
}
