//! Full and mirror syncs and repairs between two ends of which one is behind a peer: compared as for a diff, so that rows
//! travel only where digests differ, and what differs is written there in one transaction for each table.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use async_trait::async_trait;

use super::merge::{GONE_BYTES, count_rows, refuse_flood};
use super::persist::{Claim, NAME, others, persist};
use super::plan::{Mode, Origin, Plan, PlanOptions, TablePlan, exact_pattern, leave_deleted};
use super::run::{Report, RunOptions, report, run, told, worst};
use super::{Endpoint, Progress, TableProgress};
use crate::capture::{FittedBatch, interrupted};
use crate::compare::{Buckets, Step};
use crate::endpoint::{
    Comparand, Comparison, Counted, Findings, Followed, Half, Leaves, Rewrite, Rewriter, Rewritten, join,
};
use crate::engine::{Error, ErrorKind, Result, WriteMode};
use crate::model::{Batch, BatchBuilder, BatchLimits, Key, RangeDigest, TableName};
use crate::runtime::STEP;

/// A table that was empty is filled in pieces of about this size, so that an interrupted run keeps what it has.
const PIECE_BYTES: usize = 16 << 20;

/// What an end tells of these tables.
///
/// # Errors
/// `SchemaMismatch` for one that it does not have, or does not show.
pub async fn known<'a>(end: &dyn Endpoint, names: impl Iterator<Item = &'a TableName>) -> Result<Origin> {
    end.origin(&PlanOptions { tables: names.map(pattern_of).collect(), ..PlanOptions::default() }).await
}

/// The pattern that matches this table alone.
#[must_use]
pub fn pattern_of(name: &TableName) -> String {
    let schema = if name.schema.is_empty() { String::new() } else { format!("{}.", exact_pattern(&name.schema)) };
    format!("{schema}{}", exact_pattern(&name.name))
}

/// Plans what goes from one end to another, wherever they are; `make`: what is missing there is made first.
///
/// # Errors
/// As [`super::plan`]; `Usage` for a mirror of which the sending end shows a part.
pub async fn plan_between(from: &dyn Endpoint, to: &dyn Endpoint, options: &PlanOptions, make: bool) -> Result<Plan> {
    let origin = from.origin(options).await?;
    let told = |name: &String, condition: &String| options.filters.iter().any(|(n, c)| n == name && c == condition);
    let part = origin.conditions.iter().find(|(name, condition)| !told(name, condition));
    if let Some((name, condition)) = part.filter(|_| options.mode == Mode::Mirror) {
        return Err(Error::new(
            ErrorKind::Usage,
            format!(
                "table {name}: of {} only rows that meet its key's condition are seen ({condition}), and a mirror would \
                 delete all others at {}; where that is meant, write the same condition as where of the table in a sync",
                from.label(),
                to.label()
            ),
        ));
    }
    let mut plan = to.plan(&origin, options, make).await?;
    match (from.database(), options.soft_deletes.keys().next()) {
        (Some(source), _) => leave_deleted(source.as_ref(), &origin, &mut plan, options),
        (None, Some(table)) => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("soft_delete (table {table}) of a peer's rows needs mode: incremental; nothing was changed"),
            ));
        }
        (None, None) => {}
    }
    from.check(&mut plan, options.count).await?;
    Ok(plan)
}

/// Plans, and carries it out: by the fast way where both databases are at hand. `None` where there is nothing to do.
/// `plan` is told whether what is missing at the target is to be made at once; `begin` has people watch.
///
/// # Errors
/// Those of the plan, and what concerns no single table.
pub async fn bring<P: Future<Output = Result<Option<Plan>>>>(
    (from, to): (&dyn Endpoint, &dyn Endpoint),
    options: RunOptions,
    plan: impl Fn(bool) -> P,
    begin: impl FnOnce(&Plan) -> Progress,
) -> Result<Option<Report>> {
    if let (Some(source), Some(target)) = (from.database(), to.database()) {
        let claim = Claim::take(target, &options.stop).await?;
        let Some(plan) = claim.persist(|| plan(false)).await? else { return Ok(None) };
        let progress = begin(&plan);
        return run(source, &claim, &plan, options, progress).await.map(Some);
    }
    let Some(plan) = persist(&options.stop, || plan(true)).await? else { return Ok(None) };
    let progress = begin(&plan);
    let work = Run { from, to, plan: &plan, options: &options, progress: &progress };
    let report = tokio::select! {
        report = work.run() => report,
        () = options.stop.cancelled() => Err(interrupted()),
    };
    from.part().await;
    to.part().await;
    report.map(Some)
}

/// A run between two ends.
struct Run<'a> {
    from: &'a dyn Endpoint,
    to: &'a dyn Endpoint,
    plan: &'a Plan,
    options: &'a RunOptions,
    progress: &'a Progress,
}

impl Run<'_> {
    async fn run(&self) -> Result<Report> {
        let (started, rejects) = (Instant::now(), &self.options.rejects);
        rejects.ready(&self.plan.tables.iter().map(|t| t.target.name.to_string()).collect())?;
        let mut failed: Vec<(usize, Error)> = Vec::new();
        for (at, table) in self.plan.tables.iter().enumerate() {
            let progress = &self.progress.tables[at];
            let attempt = || async {
                if progress.restart() {
                    rejects.forget(&table.target.name.to_string())?;
                }
                self.table(table, progress).await
            };
            // Without either end the others cannot go on; a table's own trouble stays its own.
            let lost = worst(&failed).filter(|e| matches!(e.kind, ErrorKind::Unreachable | ErrorKind::Full));
            let done = if lost.is_some() { Err(interrupted()) } else { persist(&self.options.stop, attempt).await };
            failed.extend(done.err().map(|e| (at, e.of_table(&table.source.name))));
        }
        let finished = match worst(&failed) {
            Some(e) if matches!(e.kind, ErrorKind::Unreachable | ErrorKind::Full) => Ok(Vec::new()),
            _ => persist(&self.options.stop, || self.verify(&failed)).await,
        };
        let mut report = report(self.plan, self.progress, &failed, started.elapsed());
        report.rejects = (rejects.count() > 0).then(|| rejects.path().display().to_string());
        told(report, finished)
    }

    /// Numbering and references, once all rows are there.
    async fn verify(&self, failed: &[(usize, Error)]) -> Result<Vec<String>> {
        let mut problems = Vec::new();
        for (_, table) in self.plan.tables.iter().enumerate().filter(|(at, _)| failed.iter().all(|(i, _)| i != at)) {
            let mut writer = self.to.rewriter(&rewrite(table)).await?;
            problems.extend(writer.verify(self.plan.mode == Mode::Mirror).await?);
        }
        // A table that refers to several is looked at for each of them.
        problems.sort();
        problems.dedup();
        Ok(problems)
    }

    async fn table(&self, plan: &TablePlan, progress: &TableProgress) -> Result<()> {
        let (from, to) = (self.from, self.to);
        tracing::info!(target: STEP, "table {}: rows are compared, and written where they differ", plan.source.name);
        let mut lock = to.lock(NAME, &self.options.stop, others(to.label())).await?;
        // Asked first: who may not write there compares nothing.
        let writer = to.rewriter(&rewrite(plan)).await?;
        let ours = known(from, std::iter::once(&plan.source.name)).await?;
        let theirs = known(to, std::iter::once(&plan.target.name)).await?;
        let comparison = Arc::new(Comparison {
            a: plan.source.clone(),
            b: plan.target.clone(),
            key: plan.key.clone(),
            products: (ours.product, theirs.product),
            zones: (ours.zone, theirs.zone),
            filters: (plan.filter.clone(), None),
            written: true,
            limits: self.options.limits,
        });
        let in_pieces = self.plan.mode == Mode::Full && to.count(&plan.target.name).await? == 0;
        let mut found = Found {
            run: self,
            plan,
            progress,
            writer,
            compared: comparison.clone(),
            in_pieces,
            waiting: 0,
            there: 0,
            extra: 0,
            gone: BatchBuilder::new(plan.target.clone(), BatchLimits { rows: usize::MAX, bytes: GONE_BYTES }),
        };
        let mut a = from.comparand(&comparison, Half::A, to.database()).await?;
        // Whoever reads a file may be in the way of who writes it.
        let mut b: Box<dyn Comparand> =
            if in_pieces { Box::new(Nothing) } else { to.comparand(&comparison, Half::B, None).await? };
        join(&comparison, a.as_mut(), b.as_mut(), &mut found).await?;
        drop((a, b));
        refuse_flood(self.options.force, plan, found.there, found.extra)?;
        if !lock.is_held().await {
            return Err(Error::new(ErrorKind::Busy, others(to.label())));
        }
        found.write().await?;
        progress.arrived.store(true, Ordering::Relaxed);
        progress.done.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// The half of a table that has no rows.
struct Nothing;

#[async_trait]
impl Comparand for Nothing {
    async fn leaves(&mut self) -> Result<Leaves> {
        Err(Self::leads())
    }

    async fn rows(&mut self, _leaves: &[u64]) -> Result<Vec<FittedBatch>> {
        Err(Self::leads())
    }

    async fn follow(&mut self, leaves: &Leaves) -> Result<Followed> {
        let same = leaves.digests.iter().map(|digest| *digest == Some(RangeDigest::default()));
        Ok(Followed { same: same.collect(), ..Followed::default() })
    }

    async fn count(&mut self) -> Result<Counted> {
        Ok(Counted { buckets: Buckets::default(), unfit: 0 })
    }

    async fn pick(&mut self, _buckets: &[bool]) -> Result<()> {
        Ok(())
    }

    async fn picked(&mut self) -> Result<Option<FittedBatch>> {
        Ok(None)
    }
}

impl Nothing {
    fn leads() -> Error {
        Error::new(ErrorKind::Protocol, "a table without rows leads no comparison")
    }
}

fn rewrite(plan: &TablePlan) -> Arc<Rewrite> {
    Arc::new(Rewrite { table: plan.target.clone(), whole: plan.whole.clone(), fill: plan.fill.clone() })
}

/// What differs, on its way to who writes it.
struct Found<'a> {
    run: &'a Run<'a>,
    plan: &'a TablePlan,
    progress: &'a TableProgress,
    writer: Box<dyn Rewriter>,
    compared: Arc<Comparison>,
    in_pieces: bool,
    /// Bytes that wait to be written.
    waiting: usize,
    /// Rows at the target, and of these those that the source lacks.
    there: u64,
    extra: u64,
    /// Rows without a key that are to go: few and large batches, each costs a pass over the table.
    gone: BatchBuilder,
}

impl Found<'_> {
    fn mirrors(&self) -> bool {
        self.run.plan.mode == Mode::Mirror
    }

    async fn put(&mut self, mode: WriteMode, rows: Batch) -> Result<()> {
        if rows.rows() == 0 {
            return Ok(());
        }
        self.waiting += rows.size();
        self.writer.put(mode, rows).await?;
        if self.in_pieces && self.waiting > PIECE_BYTES { self.write().await } else { Ok(()) }
    }

    async fn write(&mut self) -> Result<()> {
        if let Some(gone) = self.gone.take() {
            self.writer.put(WriteMode::Delete, gone).await?;
        }
        self.waiting = 0;
        let Rewritten { inserted, updated, deleted, refused } = self.writer.write().await?;
        TableProgress::add(&self.progress.inserted, inserted);
        TableProgress::add(&self.progress.updated, updated);
        TableProgress::add(&self.progress.deleted, deleted);
        for (_, batch, reasons) in refused {
            for (row, reason) in reasons.iter().enumerate() {
                self.run.options.rejects.add(&batch, row, reason)?;
                TableProgress::add(&self.progress.quarantined, 1);
            }
        }
        Ok(())
    }

    fn unfit(&self, batch: &Batch, misfits: &[(usize, usize, String)]) -> Result<()> {
        TableProgress::add(&self.progress.quarantined, self.run.options.rejects.add_unfit(batch, misfits)?);
        Ok(())
    }
}

#[async_trait]
impl Findings for Found<'_> {
    fn same(&mut self, rows: u64) {
        TableProgress::add(&self.progress.read, rows);
        self.there += rows;
    }

    async fn differ(&mut self, key: &Key, step: &Step, a: Option<&Batch>, b: Option<&Batch>) -> Result<()> {
        let matched = step.equal + step.changed.len() as u64;
        TableProgress::add(&self.progress.read, matched + (step.only_a.len() + count_rows(&step.unfit)) as u64);
        self.there += matched + step.only_b.len() as u64;
        if let Some(b) = b.filter(|_| self.mirrors() && !step.only_b.is_empty()) {
            self.extra += step.only_b.len() as u64;
            let rows = b.select(step.only_b.iter().copied());
            let keys = Arc::new(self.compared.b.project(&key.columns));
            let columns = key.columns.iter().map(|&at| rows.columns()[at].clone()).collect();
            self.put(WriteMode::Delete, Batch::new(keys, columns)).await?;
        }
        let Some(a) = a else { return Ok(()) };
        self.unfit(a, &step.unfit)?;
        self.put(WriteMode::Update, a.select(step.changed.iter().map(|(row, _)| *row))).await?;
        self.put(WriteMode::Insert, a.select(step.only_a.iter().copied())).await
    }

    fn counted(&mut self, a: u64, _unfit: u64, b: u64) {
        TableProgress::add(&self.progress.read, a);
        self.there = b;
    }

    fn surplus(&mut self, _only_a: u64, only_b: u64) -> Result<()> {
        let extra = if self.mirrors() { only_b } else { 0 };
        refuse_flood(self.run.options.force, self.plan, self.there, extra)
    }

    fn asks(&self, half: Half) -> bool {
        half == Half::A || self.mirrors()
    }

    async fn lone(&mut self, half: Half, fitted: &FittedBatch, rows: &[usize]) -> Result<()> {
        if half == Half::A {
            // All that is to go is known by now.
            if let Some(gone) = self.gone.take() {
                self.put(WriteMode::Delete, gone).await?;
            }
            self.unfit(&fitted.batch, &fitted.misfits)?;
            return self.put(WriteMode::Insert, fitted.batch.select(rows.iter().copied())).await;
        }
        for &row in rows {
            let from = fitted.batch.columns().iter();
            self.gone.columns.iter_mut().zip(from).for_each(|(to, from)| to.push_cell(from.cell(row)));
            if self.gone.end_row()
                && let Some(gone) = self.gone.take()
            {
                self.put(WriteMode::Delete, gone).await?;
            }
        }
        Ok(())
    }
}
