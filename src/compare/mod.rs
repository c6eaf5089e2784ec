//! Two sides of one table → the rows that differ.
//!
//! With a row key both sides are read in key order and joined in one pass. Without one, rows are
//! told apart by all their columns and counted: digests go into buckets, and only the buckets whose
//! sums differ are looked at again.

mod keyless;

use std::cmp::Ordering;
use std::collections::VecDeque;

use tokio::sync::mpsc;

use crate::capture::{FittedBatch, Reading};
use crate::engine::{Error, ErrorKind, Result};
use crate::model::{Batch, Cell, Key, LogicalType, Table, cell_order, equal_cells};

pub use keyless::{BUCKETS, Buckets, Surplus, bucket};

/// Differences between a stretch of A and a stretch of B.
#[derive(Debug, Default)]
pub struct Step {
    /// Rows of the batch of A that B lacks.
    pub only_a: Vec<usize>,
    /// Rows of the batch of B that A lacks.
    pub only_b: Vec<usize>,
    /// Pairs (row of A, row of B) of one key and unequal contents.
    pub changed: Vec<(usize, usize)>,
    /// Rows of A that cannot stand in B, with column and reason, whether B has the key or not.
    pub unfit: Vec<(usize, usize, String)>,
    /// Those of them whose key B lacks.
    pub unfit_only_a: Vec<usize>,
    /// Rows equal on both sides.
    pub equal: u64,
}

/// A side of the join: a stream of batches and the place in the one at hand.
struct Side {
    reading: Reading,
    batch: Option<FittedBatch>,
    row: usize,
    misfits: VecDeque<(usize, usize, String)>,
    /// Whether the stream has ended.
    ended: bool,
}

impl Side {
    fn new(reading: Reading) -> Self {
        Self { reading, batch: None, row: 0, misfits: VecDeque::new(), ended: false }
    }

    async fn fill(&mut self) -> Result<()> {
        while !self.ended && self.batch.as_ref().is_none_or(|b| self.row >= b.batch.rows()) {
            if let Some(fitted) = self.reading.recv().await {
                let mut fitted = fitted?;
                self.misfits = std::mem::take(&mut fitted.misfits).into();
                self.batch = Some(fitted);
                self.row = 0;
            } else {
                self.ended = true;
                self.batch = None;
            }
        }
        Ok(())
    }

    fn batch(&self) -> Option<&Batch> {
        self.batch.as_ref().map(|b| &b.batch)
    }

    /// Takes the reasons why the row at hand does not fit.
    fn take_misfits(&mut self, out: &mut Vec<(usize, usize, String)>) -> bool {
        let before = out.len();
        while self.misfits.front().is_some_and(|m| m.0 <= self.row) {
            out.extend(self.misfits.pop_front());
        }
        out.len() > before
    }
}

/// The join of two readings that are ordered by `key`.
pub struct Merge {
    a: Side,
    b: Side,
    key: Key,
    compared: Vec<(usize, LogicalType)>,
}

impl Merge {
    /// Joins two readings of tables with the same columns, both ordered by `key`; contents are
    /// compared over the columns `compared`, each as the type that [`compared_as`] tells.
    #[must_use]
    pub fn new(a: Reading, b: Reading, key: Key, compared: Vec<(usize, LogicalType)>) -> Self {
        Self { a: Side::new(a), b: Side::new(b), key, compared }
    }

    /// As [`Self::new`], of rows that are at hand.
    #[must_use]
    pub fn of(a: Vec<FittedBatch>, b: Vec<Batch>, key: Key, compared: Vec<(usize, LogicalType)>) -> Self {
        let b = b.into_iter().map(|batch| FittedBatch { batch, misfits: Vec::new() }).collect();
        Self::new(at_hand(a), at_hand(b), key, compared)
    }

    /// The next stretch, with the batches its rows are in; `None` at the end of both.
    pub async fn next(&mut self) -> Result<Option<(Step, Option<&Batch>, Option<&Batch>)>> {
        self.a.fill().await?;
        self.b.fill().await?;
        if self.a.ended && self.b.ended {
            return Ok(None);
        }
        let step = self.step()?;
        Ok(Some((step, self.a.batch(), self.b.batch())))
    }

    /// Whether B has come to its end.
    #[must_use]
    pub fn b_ended(&self) -> bool {
        self.b.ended
    }

    /// Joins until one of the two batches at hand is used up.
    fn step(&mut self) -> Result<Step> {
        let mut step = Step::default();
        loop {
            if self.skip_unfit_key(&mut step) {
                continue;
            }
            let order = match (self.a.batch(), self.b.batch()) {
                (Some(a), _) if self.a.row >= a.rows() => return Ok(step),
                (_, Some(b)) if self.b.row >= b.rows() => return Ok(step),
                (Some(a), Some(b)) => order_rows(&self.key, a, self.a.row, b, self.b.row),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return Ok(step),
            };
            match order {
                Ordering::Less => {
                    let unfit = self.a.take_misfits(&mut step.unfit);
                    if unfit { &mut step.unfit_only_a } else { &mut step.only_a }.push(self.a.row);
                    self.a.row += 1;
                    self.expect_order()?;
                }
                Ordering::Greater => {
                    step.only_b.push(self.b.row);
                    self.b.row += 1;
                }
                Ordering::Equal => {
                    if !self.a.take_misfits(&mut step.unfit) {
                        match (self.a.batch(), self.b.batch()) {
                            (Some(a), Some(b)) if !equal_rows(&self.compared, a, self.a.row, b, self.b.row) => {
                                step.changed.push((self.a.row, self.b.row));
                            }
                            _ => step.equal += 1,
                        }
                    }
                    self.a.row += 1;
                    self.b.row += 1;
                    self.expect_order()?;
                }
            }
        }
    }

    /// A row of A whose key cannot stand in B has no counterpart there, and no place in its order.
    fn skip_unfit_key(&mut self, step: &mut Step) -> bool {
        let at = self.a.row;
        let unfit = self.a.misfits.iter().take_while(|m| m.0 == at).any(|m| self.key.columns.contains(&m.1));
        if unfit {
            self.a.take_misfits(&mut step.unfit);
            step.unfit_only_a.push(at);
            self.a.row += 1;
        }
        unfit
    }

    /// A reader that does not keep the order would make rows look missing; better to stop.
    fn expect_order(&self) -> Result<()> {
        let Some(a) = self.a.batch() else { return Ok(()) };
        if self.a.row == 0 || self.a.row >= a.rows() {
            return Ok(());
        }
        expect_order(&self.key, (a, self.a.row - 1), (a, self.a.row))
    }
}

fn at_hand(batches: Vec<FittedBatch>) -> Reading {
    let (send, receive) = mpsc::channel(batches.len().max(1));
    for batch in batches {
        // There is room for all of them.
        let _ = send.try_send(Ok(batch));
    }
    receive
}

fn order_rows(key: &Key, a: &Batch, a_row: usize, b: &Batch, b_row: usize) -> Ordering {
    order_keys(key, (a, a_row), |at| b.cell(b_row, key.columns[at]))
}

/// The order of a row's key and another, given by the places of the key's columns.
fn order_keys<'a>(key: &Key, (batch, row): (&Batch, usize), other: impl Fn(usize) -> Cell<'a>) -> Ordering {
    let orders = key
        .columns
        .iter()
        .enumerate()
        .map(|(at, &column)| cell_order(&batch.table.columns[column].logical, batch.cell(row, column), other(at)));
    orders.into_iter().find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

/// How many rows of a batch from `start` on have no key beyond that of a row of `keys`, which has the key's columns
/// alone. The batch is in key order.
#[must_use]
pub fn rows_upto(key: &Key, batch: &Batch, start: usize, (keys, bound): (&Batch, usize)) -> usize {
    let within = |row: usize| order_keys(key, (batch, row), |at| keys.cell(bound, at)).is_le();
    let (mut least, mut most) = (start, batch.rows());
    // Most batches stand within as a whole, or end close by.
    if most > start && within(most - 1) {
        return most - start;
    }
    while least < most {
        let middle = least.midpoint(most);
        if within(middle) { least = middle + 1 } else { most = middle }
    }
    least - start
}

/// A row of A that comes after another of A must not have a smaller key.
///
/// # Errors
/// `Protocol` when it has.
pub fn expect_order(key: &Key, before: (&Batch, usize), after: (&Batch, usize)) -> Result<()> {
    // A key that does not fit the other side is out of order by nature.
    let fits = |(batch, row): (&Batch, usize)| {
        key.columns.iter().all(|&c| !matches!(batch.cell(row, c), Cell::Null | Cell::Escape(_)))
    };
    let greater = order_rows(key, before.0, before.1, after.0, after.1) == Ordering::Greater;
    if greater && fits(before) && fits(after) {
        return Err(Error::new(
            ErrorKind::Protocol,
            format!("rows of {} came out of key order; nothing was decided on them", after.0.table.name),
        ));
    }
    Ok(())
}

/// Whether two rows say the same in these columns, each compared as the type that [`compared_as`] tells.
#[must_use]
pub fn equal_rows(columns: &[(usize, LogicalType)], a: &Batch, a_row: usize, b: &Batch, b_row: usize) -> bool {
    columns.iter().all(|(c, logical)| equal_cells(logical, a.cell(a_row, *c), b.cell(b_row, *c)))
}

/// The columns of a comparison with the type that each is compared as: the second table's, save
/// that JSON is compared as a document when either side keeps no spelling.
#[must_use]
pub fn compared_as(a: &Table, b: &Table, columns: impl Iterator<Item = usize>) -> Vec<(usize, LogicalType)> {
    let document = LogicalType::Json { binary: true };
    columns
        .map(|c| {
            let either = [&a.columns[c].logical, &b.columns[c].logical].contains(&&document);
            (c, if either { document.clone() } else { b.columns[c].logical.clone() })
        })
        .collect()
}
