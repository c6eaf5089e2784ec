//! Endpoint → batches: rows, read in a task of its own, so that reading, fitting and writing overlap; and changes, read
//! from what the triggers noted.

mod fault;
mod feed;
mod fold;

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::engine::{Database, Error, ErrorKind, ReadRequest, Result, Source};
use crate::model::{Batch, Cell, Column, Shift, Table, fit};

pub use fault::{Fault, Outcome};
pub use feed::{Changes, Read, Wanted, changes, changes_of};
pub use fold::fold_tables;
pub(crate) use fold::{Noted, content, fold_keys};

/// A batch in the form of the receiving table.
#[derive(Debug)]
pub struct FittedBatch {
    /// The rows; at a misfit stands the original, as text.
    pub batch: Batch,
    /// Row, column and reason of each value that does not fit, by row.
    pub misfits: Vec<(usize, usize, String)>,
}

/// What batches are turned into: the receiving table (same columns in the same order as the table
/// read) and the database that judges the fit.
#[derive(Clone)]
pub struct Shape {
    /// The receiving table.
    pub table: Arc<Table>,
    /// The database it is in.
    pub database: Arc<dyn Database>,
    /// Whether both ends are one product.
    pub same_engine: bool,
    /// For each column how its clock readings change on the way.
    pub shifts: Arc<[Option<Shift>]>,
}

/// Batches that are on their way; at most two wait.
pub type Reading = mpsc::Receiver<Result<FittedBatch>>;

/// Starts to read. The task ends when the receiver is dropped, at the end, or at the first error.
#[must_use]
pub fn read(
    mut source: Box<dyn Source>,
    request: ReadRequest,
    shape: Option<Shape>,
    stop: CancellationToken,
) -> Reading {
    let (send, receive) = mpsc::channel(2);
    tokio::spawn(async move {
        let result = async {
            let mut stream = source.read(&request).await?;
            loop {
                let batch = tokio::select! {
                    () = stop.cancelled() => return Err(interrupted()),
                    batch = stream.next() => batch?,
                };
                let Some(batch) = batch else { return Ok(()) };
                let fitted = match &shape {
                    Some(shape) => fit_batch(batch, shape),
                    None => FittedBatch { batch, misfits: Vec::new() },
                };
                if send.send(Ok(fitted)).await.is_err() {
                    return Ok(());
                }
            }
        }
        .await;
        if let Err(error) = result {
            let error: Error = error;
            // The receiver may be gone already; then nobody is left to tell.
            let _ = send.send(Err(error.of_table(&request.table.name))).await;
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
            if !target.generated {
                misfits.extend(shape.database.misfits(target, &data).into_iter().map(|(row, why)| (row, at, why)));
                if !target.nullable && data.has_null() {
                    let nulls = (0..data.len()).filter(|&row| data.cell(row) == Cell::Null);
                    misfits.extend(nulls.map(|row| (row, at, "it must not be NULL".to_owned())));
                }
            }
            data
        })
        .collect();
    misfits.sort_by_key(|(row, column, _)| (*row, *column));
    FittedBatch { batch: Batch::new(shape.table.clone(), columns), misfits }
}
