//! Into a table that holds rows: compares, and writes only what differs.

use super::TableProgress;
use super::load::without_misfits;
use super::matched::merge_matched;
use super::plan::{Mode, TablePlan};
use super::run::{Context, abandon};
use crate::apply::{Retry, put, write_splitting};
use crate::capture::{Reading, interrupted, read};
use crate::compare::{Buckets, Merge, Surplus, compared_as};
use crate::engine::{Error, ErrorKind, ReadRequest, Result, Selection, Snapshot, Target, WriteMode, WriteOptions};
use crate::model::{Batch, BatchBuilder, BatchLimits, Key, row_digests};
use crate::runtime::Failpoint;

/// A table of more rows than this is not emptied by more than half without being told to.
const FLOOD_ROWS_MIN: u64 = 100;

/// Rows without a key that are deleted at a time.
pub(super) const GONE_BYTES: usize = 16 << 20;

/// Compares source and target and writes the differences, in one transaction: a reader at the
/// target sees the table as it was or as it is to be.
pub(super) async fn merge(context: &Context, plan: &TablePlan, at: usize) -> Result<()> {
    let mut target = context.target.target().await?;
    target.begin(WriteOptions::QUIET).await?;
    let mut tally = Tally::default();
    let result = match (&plan.matched, &plan.key) {
        (Some(matched), _) => merge_matched(context, (plan, at), matched, target.as_mut(), &mut tally).await,
        (None, Some(key)) => merge_keyed(context, plan, at, key, target.as_mut(), &mut tally).await,
        (None, None) => merge_keyless(context, plan, at, target.as_mut(), &mut tally).await,
    };
    if let Err(e) = result {
        return Err(abandon(target.as_mut(), e).await);
    }
    Failpoint::MergeWritten.reach();
    target.commit().await?;
    Failpoint::MergeCommitted.reach();
    let progress = &context.progress.tables[at];
    TableProgress::add(&progress.inserted, tally.inserted);
    TableProgress::add(&progress.updated, tally.updated);
    TableProgress::add(&progress.deleted, tally.deleted);
    Ok(())
}

/// What the open transaction has written.
#[derive(Default)]
pub(super) struct Tally {
    inserted: u64,
    updated: u64,
    deleted: u64,
}

impl Tally {
    pub(super) fn add(&mut self, mode: WriteMode, rows: u64) {
        match mode {
            WriteMode::Insert => self.inserted += rows,
            WriteMode::Update => self.updated += rows,
            WriteMode::Delete => self.deleted += rows,
        }
    }
}

fn request(context: &Context, plan: &TablePlan, at_source: bool, ordered: bool) -> ReadRequest {
    ReadRequest {
        table: if at_source { plan.source.clone() } else { plan.target.clone() },
        filter: if at_source { plan.filter.clone() } else { None },
        rows: Selection::All,
        ordered,
        limits: context.options.limits,
    }
}

pub(super) async fn read_source(context: &Context, plan: &TablePlan, ordered: bool) -> Result<Reading> {
    let source = context.snapshot.source().await?;
    Ok(read(source, request(context, plan, true, ordered), Some(context.shape(plan)), context.options.stop.clone()))
}

async fn read_target(context: &Context, snapshot: &dyn Snapshot, plan: &TablePlan, ordered: bool) -> Result<Reading> {
    let source = snapshot.source().await?;
    Ok(read(source, request(context, plan, false, ordered), None, context.options.stop.clone()))
}

async fn merge_keyed(
    context: &Context,
    plan: &TablePlan,
    at: usize,
    key: &Key,
    target: &mut dyn Target,
    tally: &mut Tally,
) -> Result<()> {
    let progress = &context.progress.tables[at];
    let snapshot = context.target.snapshot().await?;
    let written = (0..plan.target.columns.len()).filter(|&c| !plan.target.columns[c].generated);
    let compared = compared_as(&plan.source, &plan.target, written);
    let mut join = Merge::new(
        read_source(context, plan, true).await?,
        read_target(context, snapshot.as_ref(), plan, true).await?,
        key.clone(),
        compared,
    );
    let mut retry = Retry::default();
    let (mut there, mut extra) = (0_u64, 0_u64);
    while let Some((step, a, b)) = join.next().await? {
        if context.options.stop.is_cancelled() {
            return Err(interrupted());
        }
        let matched = step.equal + step.changed.len() as u64;
        TableProgress::add(&progress.read, matched + (step.only_a.len() + count_rows(&step.unfit)) as u64);
        there += matched + step.only_b.len() as u64;
        if let Some(b) = b.filter(|_| context.mode == Mode::Mirror && !step.only_b.is_empty()) {
            extra += step.only_b.len() as u64;
            tally.add(
                WriteMode::Delete,
                put(target, WriteMode::Delete, b.select(step.only_b.iter().copied()), &mut retry).await?,
            );
        }
        let Some(a) = a else { continue };
        TableProgress::add(&progress.quarantined, context.options.rejects.add_unfit(a, &step.unfit)?);
        if !step.changed.is_empty() {
            let rows = a.select(step.changed.iter().map(|(row, _)| *row));
            tally.add(WriteMode::Update, put(target, WriteMode::Update, rows, &mut retry).await?);
        }
        if !step.only_a.is_empty() {
            tally.add(
                WriteMode::Insert,
                put(target, WriteMode::Insert, plan.fill.complete(a.select(step.only_a.iter().copied())), &mut retry)
                    .await?,
            );
        }
    }
    try_again(context, plan, target, retry, progress, tally).await?;
    refuse_flood(context.options.force, plan, there, extra)
}

pub(super) fn count_rows(unfit: &[(usize, usize, String)]) -> usize {
    unfit.iter().enumerate().filter(|(i, m)| *i == 0 || unfit[i - 1].0 != m.0).count()
}

/// What was refused once more; what is refused even then goes to the rejects.
pub(super) async fn try_again(
    context: &Context,
    plan: &TablePlan,
    target: &mut dyn Target,
    retry: Retry,
    progress: &TableProgress,
    tally: &mut Tally,
) -> Result<()> {
    let outcome = retry.finish(target, &plan.whole).await?;
    for (mode, rows) in outcome.written {
        tally.add(mode, rows);
    }
    for (_, batch, row) in outcome.refused {
        context.options.rejects.add(&batch, row.row, &row.reason)?;
        TableProgress::add(&progress.quarantined, 1);
    }
    Ok(())
}

/// Whether a mirror that deletes `deleted` of `there` rows of a table needs to be told that this is meant.
pub(crate) const fn is_flood(there: u64, deleted: u64) -> bool {
    there > FLOOD_ROWS_MIN && deleted * 2 > there
}

pub(super) fn refuse_flood(force: bool, plan: &TablePlan, there: u64, deleted: u64) -> Result<()> {
    if is_flood(there, deleted) && !force {
        return Err(Error::new(
            ErrorKind::Constraint,
            format!(
                "this would delete {deleted} of the {there} rows of {}, more than half; nothing was changed there. \
                 If the source is right, run it with --force",
                plan.target.name
            ),
        ));
    }
    Ok(())
}

/// Rows without a key: first the digests of both sides, then, where they differ, the rows again.
async fn merge_keyless(
    context: &Context,
    plan: &TablePlan,
    at: usize,
    target: &mut dyn Target,
    tally: &mut Tally,
) -> Result<()> {
    let progress = &context.progress.tables[at];
    let snapshot = context.target.snapshot().await?;
    let written = (0..plan.target.columns.len()).filter(|&c| !plan.target.columns[c].generated);
    let compared = compared_as(&plan.source, &plan.target, written);
    let digests = |batch: &Batch| row_digests(batch, &compared);
    let (mut ours, mut theirs) = (Buckets::default(), Buckets::default());
    let mut there = 0_u64;
    let mut reading = read_source(context, plan, false).await?;
    while let Some(fitted) = reading.recv().await {
        let fitted = fitted?;
        TableProgress::add(&progress.read, fitted.batch.rows() as u64);
        let batch = without_misfits(context, fitted, progress)?;
        ours.add(digests(&batch).into_iter());
    }
    let mut reading = read_target(context, snapshot.as_ref(), plan, false).await?;
    while let Some(fitted) = reading.recv().await {
        let batch = fitted?.batch;
        there += batch.rows() as u64;
        theirs.add(digests(&batch).into_iter());
    }
    let differing = ours.differing(&theirs);
    if !differing.contains(&true) {
        return Ok(());
    }
    let mut surplus = Surplus::new(differing);
    for (at_source, sign) in [(true, 1), (false, -1)] {
        let mut reading = if at_source {
            read_source(context, plan, false).await?
        } else {
            read_target(context, snapshot.as_ref(), plan, false).await?
        };
        while let Some(fitted) = reading.recv().await {
            let fitted = fitted?;
            let (fits, digests) = (fitting(&fitted.misfits, fitted.batch.rows()), digests(&fitted.batch));
            surplus.add(fits.into_iter().map(|row| digests[row]), sign);
        }
    }
    surplus.settle();
    let (_, extra) = surplus.totals();
    if context.mode == Mode::Mirror {
        refuse_flood(context.options.force, plan, there, extra)?;
        let mut reading = read_target(context, snapshot.as_ref(), plan, false).await?;
        let mut gone: Vec<Batch> = Vec::new();
        // Each batch costs a pass over the table: few and large ones.
        let limits = BatchLimits { rows: usize::MAX, bytes: GONE_BYTES };
        let mut builder = BatchBuilder::new(plan.target.clone(), limits);
        while let Some(fitted) = reading.recv().await {
            let batch = fitted?.batch;
            for (row, digest) in digests(&batch).into_iter().enumerate() {
                if surplus.claim(digest, -1) {
                    builder.columns.iter_mut().zip(batch.columns()).for_each(|(to, from)| to.push_cell(from.cell(row)));
                    if builder.end_row() {
                        gone.extend(builder.take());
                    }
                }
            }
        }
        gone.extend(builder.take());
        for batch in gone {
            tally.deleted += target.write(WriteMode::Delete, &batch).await?;
        }
    }
    let mut reading = read_source(context, plan, false).await?;
    while let Some(fitted) = reading.recv().await {
        let fitted = fitted?;
        let digests = digests(&fitted.batch);
        let mut rows = fitting(&fitted.misfits, fitted.batch.rows());
        rows.retain(|&row| surplus.claim(digests[row], 1));
        if rows.is_empty() {
            continue;
        }
        let batch = plan.fill.complete(fitted.batch.select(rows.into_iter()));
        let (written, refused) = write_splitting(target, WriteMode::Insert, &batch).await?;
        tally.inserted += written;
        for row in refused {
            context.options.rejects.add(&batch, row.row, &row.reason)?;
            TableProgress::add(&progress.quarantined, 1);
        }
    }
    Ok(())
}

fn fitting(misfits: &[(usize, usize, String)], rows: usize) -> Vec<usize> {
    (0..rows).filter(|row| misfits.binary_search_by_key(row, |m| m.0).is_err()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_more_than_half_of_more_than_a_hundred_rows() {
        for (there, deleted, flood) in
            [(100, 100, false), (101, 50, false), (101, 51, true), (102, 51, false), (102, 52, true), (0, 0, false)]
        {
            assert_eq!(is_flood(there, deleted), flood, "{deleted} of {there}");
        }
    }
}
