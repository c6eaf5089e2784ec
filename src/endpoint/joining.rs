//! The two halves of a comparison put together: where one table differs, leaf by leaf, or, without a key, bucket by bucket.

use std::sync::Arc;

use async_trait::async_trait;

use super::comparison::{Comparand, Comparison, Followed, Half, Leaves};
use crate::capture::FittedBatch;
use crate::compare::{Merge, Step, Surplus, rows_upto};
use crate::engine::{Error, ErrorKind, Result};
use crate::model::{Batch, Key, LogicalType, row_digests};

/// Who is told where a table differs. Rows of A are in the form of B's columns.
#[async_trait]
pub trait Findings: Send {
    /// So many rows are the same at both.
    fn same(&mut self, rows: u64);

    /// A stretch of a table with a key, with the batches whose rows it speaks of.
    async fn differ(&mut self, key: &Key, step: &Step, a: Option<&Batch>, b: Option<&Batch>) -> Result<()>;

    /// A table without a key has so many rows at A, of which so many do not fit, and so many at B.
    fn counted(&mut self, a: u64, unfit: u64, b: u64);

    /// So many of them only A has, and only B. With an error the comparison ends.
    fn surplus(&mut self, only_a: u64, only_b: u64) -> Result<()>;

    /// Whether it is to be told which rows of this half those are.
    fn asks(&self, half: Half) -> bool;

    /// Rows of a table without a key, of which only this half has those at `rows`. What does not fit is none of them.
    async fn lone(&mut self, half: Half, fitted: &FittedBatch, rows: &[usize]) -> Result<()>;
}

/// Compares, and tells what is found. Of a table without a key B's rows are told before A's.
///
/// # Errors
/// What either half says, or who is told.
pub async fn join(
    comparison: &Comparison,
    a: &mut dyn Comparand,
    b: &mut dyn Comparand,
    findings: &mut dyn Findings,
) -> Result<()> {
    let mut joining = Joining { compared: comparison.compared(), a, b, findings };
    match &comparison.key {
        Some(key) => joining.keyed(key).await,
        None => joining.keyless().await,
    }
}

/// A comparison under way.
struct Joining<'a> {
    a: &'a mut dyn Comparand,
    b: &'a mut dyn Comparand,
    compared: Vec<(usize, LogicalType)>,
    findings: &'a mut dyn Findings,
}

impl Joining<'_> {
    /// A tells of its leaves, B says which of them it has otherwise; meanwhile A goes on.
    async fn keyed(&mut self, key: &Key) -> Result<()> {
        let mut told = Some(self.a.leaves().await?);
        while let Some(leaves) = told {
            let followed;
            (followed, told) = if leaves.are_last() {
                (self.b.follow(&leaves).await?, None)
            } else {
                let (followed, next) = tokio::try_join!(self.b.follow(&leaves), self.a.leaves())?;
                (followed, Some(next))
            };
            self.settle(key, leaves, followed).await?;
        }
        Ok(())
    }

    /// Joins the rows of the leaves that differ, as B hands them out.
    async fn settle(&mut self, key: &Key, mut leaves: Leaves, mut followed: Followed) -> Result<()> {
        // Rows of A in the leaf that B stands within, beyond where it stands.
        let (mut rest, mut within): (Option<FittedBatch>, bool) = (None, false);
        loop {
            let passed = followed.same.len();
            if passed + usize::from(followed.within) > leaves.digests.len() || (passed == 0 && !followed.within) {
                return Err(Error::new(ErrorKind::Protocol, "an answer about other leaves than were asked about"));
            }
            let mut wanted = Vec::new();
            for (at, same) in followed.same.iter().copied().chain(followed.within.then_some(false)).enumerate() {
                match leaves.digests[at].filter(|_| same) {
                    Some(digest) => self.findings.same(digest.rows),
                    // The last of all is beyond A's rows, and of one that B stood within they are here.
                    None if at < leaves.upto.rows() && !(at == 0 && within) => wanted.push(leaves.first + at as u64),
                    None => {}
                }
            }
            let mut ours: Vec<FittedBatch> = rest.take().into_iter().collect();
            if !wanted.is_empty() {
                ours.extend(self.a.rows(&wanted).await?);
            }
            within = followed.within;
            if within && passed < leaves.upto.rows() {
                rest = split(key, &mut ours, followed.rows.last());
            }
            self.join(key, ours, followed.rows).await?;
            if passed == leaves.digests.len() {
                return Ok(());
            }
            leaves = leaves.after(passed, within);
            followed = self.b.follow(&leaves).await?;
        }
    }

    /// Tells what differs among rows of both.
    async fn join(&mut self, key: &Key, ours: Vec<FittedBatch>, theirs: Vec<Batch>) -> Result<()> {
        if ours.is_empty() && theirs.is_empty() {
            return Ok(());
        }
        let mut join = Merge::of(ours, theirs, key.clone(), self.compared.clone());
        while let Some((step, a, b)) = join.next().await? {
            self.findings.differ(key, &step, a, b).await?;
        }
        Ok(())
    }

    /// Counts first; rows only of the buckets that differ.
    async fn keyless(&mut self) -> Result<()> {
        let (ours, theirs) = tokio::try_join!(self.a.count(), self.b.count())?;
        self.findings.counted(ours.buckets.rows() + ours.unfit, ours.unfit, theirs.buckets.rows());
        let differing = ours.buckets.differing(&theirs.buckets);
        let differ = differing.contains(&true);
        if !differ && (ours.unfit == 0 || !self.findings.asks(Half::A)) {
            return Ok(());
        }
        let mut surplus = Surplus::new(differing.clone());
        if differ {
            tokio::try_join!(self.a.pick(&differing), self.b.pick(&differing))?;
            while let Some(fitted) = self.a.picked().await? {
                let (unfit, digests) = (fitted.unfit(), row_digests(&fitted.batch, &self.compared));
                let fits = (0..digests.len()).filter(|row| !unfit.contains(row));
                surplus.add(fits.map(|row| digests[row]), 1);
            }
            while let Some(fitted) = self.b.picked().await? {
                surplus.add(row_digests(&fitted.batch, &self.compared).into_iter(), -1);
            }
            surplus.settle();
            let (only_a, only_b) = surplus.totals();
            self.findings.surplus(only_a, only_b)?;
        }
        for (half, sign) in [(Half::B, -1), (Half::A, 1)] {
            if !self.findings.asks(half) {
                continue;
            }
            let end: &mut dyn Comparand = if half == Half::A { self.a } else { self.b };
            end.pick(&differing).await?;
            while let Some(fitted) = end.picked().await? {
                let (unfit, digests) = (fitted.unfit(), row_digests(&fitted.batch, &self.compared));
                let fits = (0..digests.len()).filter(|row| !unfit.contains(row));
                let rows: Vec<usize> = fits.filter(|&row| surplus.claim(digests[row], sign)).collect();
                self.findings.lone(half, &fitted, &rows).await?;
            }
        }
        Ok(())
    }
}

/// Takes the rows of A off that are beyond B's last row, of the leaf that it stands within: the last batch.
fn split(key: &Key, ours: &mut Vec<FittedBatch>, theirs: Option<&Batch>) -> Option<FittedBatch> {
    let (whole, batch) = (ours.pop()?, theirs.filter(|batch| batch.rows() > 0));
    let Some(batch) = batch else { return Some(whole) };
    let keys = Arc::new(batch.table.project(&key.columns));
    let last = Batch::new(keys, key.columns.iter().map(|&at| batch.columns()[at].clone()).collect());
    let unfit = whole.unfit();
    // A row that does not fit may have no place in the order.
    let mut upto = 0;
    for row in (0..whole.batch.rows()).filter(|row| !unfit.contains(row)) {
        if rows_upto(key, &whole.batch.select(std::iter::once(row)), 0, (&last, batch.rows() - 1)) == 0 {
            break;
        }
        upto = row + 1;
    }
    ours.push(whole.part(0..upto));
    Some(whole.part(upto..whole.batch.rows()))
}
