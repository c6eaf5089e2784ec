//! Into a table that holds rows: compares, and writes only what differs.

use super::TableProgress;
use super::load::without_misfits;
use super::plan::{Mode, TablePlan};
use super::run::{Context, QUIET, abandon};
use crate::apply::write_splitting;
use crate::capture::{Reading, interrupted, read};
use crate::compare::{Buckets, Merge, Surplus, compared_as};
use crate::engine::{Error, ErrorKind, ReadRequest, Result, Selection, Snapshot, Target, WriteMode};
use crate::model::{Batch, Key};

/// Rows that were refused and are tried once more at the end, when all others stand: at most this
/// many, or something is wrong with the table as a whole.
const RETRIED_ROWS_MAX: usize = 100_000;

/// A table of more rows than this is not emptied by more than half without being told to.
const FLOOD_ROWS_MIN: u64 = 100;

/// Compares source and target and writes the differences, in one transaction: a reader at the
/// target sees the table as it was or as it is to be.
pub(super) async fn merge(context: &Context, plan: &TablePlan, at: usize) -> Result<()> {
    let mut target = context.target.target().await?;
    target.begin(QUIET).await?;
    let result = match &plan.key {
        Some(key) => merge_keyed(context, plan, at, key, target.as_mut()).await,
        None => merge_keyless(context, plan, at, target.as_mut()).await,
    };
    match result {
        Ok(()) => target.commit().await,
        Err(e) => Err(abandon(target.as_mut(), e).await),
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

async fn read_source(context: &Context, plan: &TablePlan, ordered: bool) -> Result<Reading> {
    let source = context.snapshot.source().await?;
    Ok(read(source, request(context, plan, true, ordered), Some(context.shape(plan)), context.options.stop.clone()))
}

async fn read_target(context: &Context, snapshot: &dyn Snapshot, plan: &TablePlan, ordered: bool) -> Result<Reading> {
    let source = snapshot.source().await?;
    Ok(read(source, request(context, plan, false, ordered), None, context.options.stop.clone()))
}

/// Rows refused so far, to be tried again.
#[derive(Default)]
struct Retry {
    batches: Vec<(WriteMode, Batch)>,
    rows: usize,
}

async fn merge_keyed(context: &Context, plan: &TablePlan, at: usize, key: &Key, target: &mut dyn Target) -> Result<()> {
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
    let (mut there, mut deleted) = (0_u64, 0_u64);
    while let Some((step, a, b)) = join.next().await? {
        if context.options.stop.is_cancelled() {
            return Err(interrupted());
        }
        let matched = step.equal + step.changed.len() as u64;
        TableProgress::add(&progress.read, matched + (step.only_a.len() + count_rows(&step.unfit)) as u64);
        there += matched + step.only_b.len() as u64;
        if let Some(b) = b.filter(|_| context.mode == Mode::Mirror && !step.only_b.is_empty()) {
            deleted += step.only_b.len() as u64;
            put(target, WriteMode::Delete, b.select(step.only_b.iter().copied()), progress, &mut retry).await?;
        }
        let Some(a) = a else { continue };
        put_aside(context, a, &step.unfit, progress)?;
        if !step.changed.is_empty() {
            let rows = a.select(step.changed.iter().map(|(row, _)| *row));
            put(target, WriteMode::Update, rows, progress, &mut retry).await?;
        }
        if !step.only_a.is_empty() {
            put(target, WriteMode::Insert, a.select(step.only_a.iter().copied()), progress, &mut retry).await?;
        }
    }
    try_again(context, target, retry, progress).await?;
    refuse_flood(context, plan, there, deleted)
}

fn count_rows(unfit: &[(usize, usize, String)]) -> usize {
    unfit.iter().enumerate().filter(|(i, m)| *i == 0 || unfit[i - 1].0 != m.0).count()
}

fn put_aside(
    context: &Context,
    batch: &Batch,
    unfit: &[(usize, usize, String)],
    progress: &TableProgress,
) -> Result<()> {
    for (i, (row, column, why)) in unfit.iter().enumerate() {
        if i == 0 || unfit[i - 1].0 != *row {
            context.options.rejects.add(batch, *row, &format!("{}: {why}", batch.table.columns[*column].name))?;
            TableProgress::add(&progress.quarantined, 1);
        }
    }
    Ok(())
}

/// Writes; what is refused now may be welcome when the rows after it stand (two rows that exchange
/// a unique value), so it is kept for the end.
async fn put(
    target: &mut dyn Target,
    mode: WriteMode,
    batch: Batch,
    progress: &TableProgress,
    retry: &mut Retry,
) -> Result<()> {
    let (written, refused) = write_splitting(target, mode, &batch).await?;
    let expected = (batch.rows() - refused.len()) as u64;
    if mode == WriteMode::Update && written != expected {
        return Err(Error::new(
            ErrorKind::Busy,
            format!(
                "rows of {} were changed by someone else meanwhile; nothing was written, run it again",
                batch.table.name
            ),
        ));
    }
    count(progress, mode, written);
    if !refused.is_empty() {
        retry.rows += refused.len();
        if retry.rows > RETRIED_ROWS_MAX {
            return Err(Error::new(
                ErrorKind::Constraint,
                format!("{} refuses more than {RETRIED_ROWS_MAX} rows: {}", batch.table.name, refused[0].reason),
            ));
        }
        retry.batches.push((mode, batch.select(refused.iter().map(|r| r.row))));
    }
    Ok(())
}

fn count(progress: &TableProgress, mode: WriteMode, rows: u64) {
    let counter = match mode {
        WriteMode::Insert => &progress.inserted,
        WriteMode::Update => &progress.updated,
        WriteMode::Delete => &progress.deleted,
    };
    TableProgress::add(counter, rows);
}

/// The refused rows once more: all updates as delete and insert in one go, which frees every value
/// that they exchange; what is refused even then is put aside.
async fn try_again(context: &Context, target: &mut dyn Target, retry: Retry, progress: &TableProgress) -> Result<()> {
    if retry.batches.is_empty() {
        return Ok(());
    }
    target.savepoint().await?;
    match swap(target, &retry).await {
        Ok(()) => {
            for (mode, batch) in &retry.batches {
                count(progress, *mode, batch.rows() as u64);
            }
            return Ok(());
        }
        Err(e) if e.is_row_fault() => target.rollback_to_savepoint().await?,
        Err(e) => return Err(e),
    }
    for (mode, batch) in &retry.batches {
        let (written, refused) = write_splitting(target, *mode, batch).await?;
        count(progress, *mode, written);
        for row in refused {
            context.options.rejects.add(batch, row.row, &row.reason)?;
            TableProgress::add(&progress.quarantined, 1);
        }
    }
    Ok(())
}

async fn swap(target: &mut dyn Target, retry: &Retry) -> Result<()> {
    for (mode, batch) in &retry.batches {
        if matches!(mode, WriteMode::Update | WriteMode::Delete) {
            target.write(WriteMode::Delete, batch).await?;
        }
    }
    for (mode, batch) in &retry.batches {
        if matches!(mode, WriteMode::Update | WriteMode::Insert) {
            target.write(WriteMode::Insert, batch).await?;
        }
    }
    target.flush().await
}

fn refuse_flood(context: &Context, plan: &TablePlan, there: u64, deleted: u64) -> Result<()> {
    if there > FLOOD_ROWS_MIN && deleted * 2 > there && !context.options.force {
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
async fn merge_keyless(context: &Context, plan: &TablePlan, at: usize, target: &mut dyn Target) -> Result<()> {
    let progress = &context.progress.tables[at];
    let snapshot = context.target.snapshot().await?;
    let columns: Vec<usize> = (0..plan.target.columns.len()).filter(|&c| !plan.target.columns[c].generated).collect();
    let (mut ours, mut theirs) = (Buckets::default(), Buckets::default());
    let mut there = 0_u64;
    let mut reading = read_source(context, plan, false).await?;
    while let Some(fitted) = reading.recv().await {
        let fitted = fitted?;
        TableProgress::add(&progress.read, fitted.batch.rows() as u64);
        let batch = without_misfits(context, fitted, progress)?;
        ours.add(&batch, 0..batch.rows(), &columns);
    }
    let mut reading = read_target(context, snapshot.as_ref(), plan, false).await?;
    while let Some(fitted) = reading.recv().await {
        let batch = fitted?.batch;
        there += batch.rows() as u64;
        theirs.add(&batch, 0..batch.rows(), &columns);
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
            let fits = fitting(&fitted.misfits, fitted.batch.rows());
            surplus.add(&fitted.batch, fits.into_iter(), &columns, sign);
        }
    }
    surplus.settle();
    let (_, extra) = surplus.totals();
    if context.mode == Mode::Mirror {
        refuse_flood(context, plan, there, extra)?;
        let mut reading = read_target(context, snapshot.as_ref(), plan, false).await?;
        let mut gone: Vec<Batch> = Vec::new();
        while let Some(fitted) = reading.recv().await {
            let batch = fitted?.batch;
            let rows: Vec<usize> = (0..batch.rows()).filter(|&r| surplus.claim(&batch, r, &columns, -1)).collect();
            if !rows.is_empty() {
                gone.push(batch.select(rows.into_iter()));
            }
        }
        for batch in gone {
            let n = target.write(WriteMode::Delete, &batch).await?;
            TableProgress::add(&progress.deleted, n);
        }
    }
    let mut reading = read_source(context, plan, false).await?;
    while let Some(fitted) = reading.recv().await {
        let fitted = fitted?;
        let rows: Vec<usize> = fitting(&fitted.misfits, fitted.batch.rows())
            .into_iter()
            .filter(|&r| surplus.claim(&fitted.batch, r, &columns, 1))
            .collect();
        if rows.is_empty() {
            continue;
        }
        let batch = fitted.batch.select(rows.into_iter());
        let (written, refused) = write_splitting(target, WriteMode::Insert, &batch).await?;
        TableProgress::add(&progress.inserted, written);
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
