//! Where one table differs: leaf by leaf, or, without a key, bucket by bucket.

use std::sync::Arc;

use super::{RowDiff, TableDiff};
use crate::capture::FittedBatch;
use crate::compare::{Merge, Step, Surplus, rows_upto};
use crate::endpoint::{Comparand, Comparison, Followed, Leaves};
use crate::engine::{Error, ErrorKind, Result};
use crate::model::{Batch, Cell, Key, LogicalType, Value, equal_cells, render, row_digests};

/// A comparison under way.
pub(super) struct Comparing<'a> {
    pub(super) comparison: &'a Arc<Comparison>,
    pub(super) a: &'a mut dyn Comparand,
    pub(super) b: &'a mut dyn Comparand,
    compared: Vec<(usize, LogicalType)>,
    out: TableDiff,
}

impl<'a> Comparing<'a> {
    pub(super) fn new(
        comparison: &'a Arc<Comparison>,
        a: &'a mut dyn Comparand,
        b: &'a mut dyn Comparand,
        rows: bool,
    ) -> Self {
        let out = TableDiff { rows: rows.then(Vec::new), ..TableDiff::none(&comparison.a.name) };
        Self { compared: comparison.compared(), comparison, a, b, out }
    }

    pub(super) async fn run(mut self) -> Result<TableDiff> {
        match self.comparison.key.clone() {
            Some(key) => self.keyed(&key).await?,
            None => self.keyless().await?,
        }
        self.out.differing = self.out.only_a + self.out.only_b + self.out.changed + self.out.unfit;
        self.out.equal = self.out.differing == 0;
        Ok(self.out)
    }

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
                    Some(digest) => {
                        self.out.rows_a += digest.rows;
                        self.out.rows_b += digest.rows;
                    }
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
            self.count(&step);
            if self.out.rows.is_some() {
                self.name(key, &step, a, b);
            }
        }
        Ok(())
    }

    fn count(&mut self, step: &Step) {
        let mut unfit: Vec<usize> = step.unfit.iter().map(|m| m.0).collect();
        unfit.dedup();
        let (matched, lone) = (step.equal + step.changed.len() as u64, step.unfit_only_a.len());
        self.out.rows_a += matched + (step.only_a.len() + unfit.len()) as u64;
        self.out.rows_b += matched + (step.only_b.len() + unfit.len() - lone) as u64;
        self.out.only_a += step.only_a.len() as u64;
        self.out.only_b += step.only_b.len() as u64;
        self.out.changed += step.changed.len() as u64;
        self.out.unfit += unfit.len() as u64;
    }

    fn name(&mut self, key: &Key, step: &Step, a: Option<&Batch>, b: Option<&Batch>) {
        let column = |at: usize| self.comparison.b.columns[at].name.clone();
        let mut rows = Vec::new();
        if let Some(a) = a {
            rows.extend(step.only_a.iter().map(|&r| named(a, r, &key.columns, "only_a")));
            for unfit in step.unfit.chunk_by(|one, next| one.0 == next.0) {
                let row = unfit[0].0;
                let kind = if step.unfit_only_a.contains(&row) { "only_a" } else { "changed" };
                let mut one = named(a, row, &key.columns, kind);
                one.columns = unfit.iter().filter(|_| kind == "changed").map(|m| column(m.1)).collect();
                rows.push(one);
            }
            if let Some(b) = b {
                for &(ra, rb) in &step.changed {
                    let mut one = named(a, ra, &key.columns, "changed");
                    let differ =
                        |(c, logical): &&(usize, LogicalType)| !equal_cells(logical, a.cell(ra, *c), b.cell(rb, *c));
                    one.columns = self.compared.iter().filter(differ).map(|(c, _)| column(*c)).collect();
                    rows.push(one);
                }
            }
        }
        if let Some(b) = b {
            rows.extend(step.only_b.iter().map(|&r| named(b, r, &key.columns, "only_b")));
        }
        self.out.rows.get_or_insert_default().extend(rows);
    }

    /// Counts first; rows only of the buckets that differ.
    async fn keyless(&mut self) -> Result<()> {
        let (ours, theirs) = tokio::try_join!(self.a.count(), self.b.count())?;
        self.out.unfit = ours.unfit;
        (self.out.rows_a, self.out.rows_b) = (ours.buckets.rows() + ours.unfit, theirs.buckets.rows());
        let differing = ours.buckets.differing(&theirs.buckets);
        let differ = differing.contains(&true);
        if !differ && (ours.unfit == 0 || self.out.rows.is_none()) {
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
            (self.out.only_a, self.out.only_b) = surplus.totals();
        }
        let Some(rows) = &mut self.out.rows else { return Ok(()) };
        let all: Vec<usize> = (0..self.comparison.b.columns.len()).collect();
        tokio::try_join!(self.a.pick(&differing), self.b.pick(&differing))?;
        while let Some(fitted) = self.a.picked().await? {
            let unfit = fitted.unfit();
            for (row, digest) in row_digests(&fitted.batch, &self.compared).into_iter().enumerate() {
                if unfit.contains(&row) || surplus.claim(digest, 1) {
                    rows.push(named(&fitted.batch, row, &all, "only_a"));
                }
            }
        }
        while let Some(FittedBatch { batch, .. }) = self.b.picked().await? {
            for (row, digest) in row_digests(&batch, &self.compared).into_iter().enumerate() {
                if surplus.claim(digest, -1) {
                    rows.push(named(&batch, row, &all, "only_b"));
                }
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

fn named(batch: &Batch, row: usize, columns: &[usize], kind: &'static str) -> RowDiff {
    let key = columns
        .iter()
        .map(|&c| {
            let column = &batch.table.columns[c];
            let value = match batch.cell(row, c) {
                Cell::Int(v) if render(&column.logical, Cell::Int(v)) == Some(v.to_string()) => v.into(),
                Cell::UInt(v) | Cell::Escape(&Value::UInt(v)) => v.into(),
                Cell::Escape(&Value::Int(v)) => v.into(),
                cell => render(&column.logical, cell).map_or(serde_json::Value::Null, Into::into),
            };
            (column.name.clone(), value)
        })
        .collect();
    RowDiff { key, kind, columns: Vec::new() }
}
