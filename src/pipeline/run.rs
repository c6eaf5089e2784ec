//! Carries a plan out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::persist::{Attempts, Claim};
use super::plan::{Mode, Plan, TablePlan};
use super::{Progress, TableProgress, load, merge, unfinished};
use crate::apply::{Applied, Rejects};
use crate::capture::{Room, Shape, interrupted};
use crate::endpoint::referring;
use crate::engine::{Database, Error, ErrorKind, Result, Snapshot, Target, WriteOptions};
use crate::model::{BatchLimits, Table, TableName};
use crate::runtime::{Failpoint, STEP};

/// How a plan is carried out.
#[derive(Clone)]
pub struct RunOptions {
    /// Connections that write at a time: each to a table of its own while there are enough, several
    /// to one where it is large.
    pub concurrency: usize,
    /// Bounds of a batch.
    pub limits: BatchLimits,
    /// Whether a mirror may delete more than half of a table.
    pub force: bool,
    /// Stop before the first row.
    pub schema_only: bool,
    /// Where rows go that the target cannot take.
    pub rejects: Arc<Rejects>,
    /// Asked to stop.
    pub stop: CancellationToken,
}

/// What became of one table.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct TableReport {
    /// Its name at the source.
    pub table: String,
    /// Rows read at the source.
    pub read: u64,
    /// Rows inserted.
    pub inserted: u64,
    /// Rows updated.
    pub updated: u64,
    /// Rows deleted.
    pub deleted: u64,
    /// Conflicts, settled or left open.
    pub conflicts: u64,
    /// Conflicts that wait for a person, found now or earlier.
    #[serde(skip_serializing_if = "is_zero")]
    pub open: u64,
    /// Rows that went to the rejects, or changes that are in quarantine.
    pub quarantined: u64,
    /// Changes that wait for a row that someone holds, or for a parent.
    #[serde(skip_serializing_if = "is_zero")]
    pub waiting: u64,
    /// Changes that wait since two rows have one number.
    #[serde(skip)]
    pub apart: u64,
    /// What of its definition was left out or changed where it was made, and what could surprise.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What went wrong with this table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde asks for it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl TableReport {
    /// Takes in what became of a batch of changes.
    pub(super) fn add(&mut self, read: usize, applied: Applied) {
        self.read += read as u64;
        self.inserted += applied.inserted;
        self.updated += applied.updated;
        self.deleted += applied.deleted;
        self.conflicts += applied.conflicts;
        self.apart += applied.apart;
    }
}

/// What became of a run.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Report {
    /// `succeeded` or `failed`.
    pub status: &'static str,
    /// The tables in the plan's order.
    pub tables: Vec<TableReport>,
    /// How long it took.
    pub seconds: f64,
    /// What fell short beyond single tables: orphans, for example.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// The file that has the rows that could not be written, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejects: Option<String>,
    /// The first error's kind, for the exit code.
    #[serde(skip)]
    pub error: Option<ErrorKind>,
}

impl Report {
    /// Nothing done yet, and nothing wrong.
    #[must_use]
    pub fn nothing() -> Self {
        Self { status: "succeeded", tables: Vec::new(), seconds: 0.0, problems: Vec::new(), rejects: None, error: None }
    }

    /// A table that cannot take part.
    pub(super) fn refuse(&mut self, table: &TableName, error: Error) {
        self.refuse_named(&table.to_string(), error);
    }

    /// As [`Self::refuse`], by the name in reports.
    pub(super) fn refuse_named(&mut self, table: &str, error: Error) {
        let error = error.of_table(table);
        self.status = "failed";
        self.error.get_or_insert(error.kind);
        let said = Some(error.message().to_owned());
        self.tables.push(TableReport { table: table.to_string(), error: said, ..TableReport::default() });
    }

    /// The error that decides the exit code, with the first sentence that tells what went wrong.
    #[must_use]
    pub fn fault(&self) -> Option<Error> {
        let mut said = self.tables.iter().filter_map(|t| t.error.as_ref()).chain(&self.problems);
        self.error.map(|kind| Error::new(kind, said.next().cloned().unwrap_or_default()))
    }

    /// Whether rows met others that have their number.
    pub(super) fn are_rows_apart(&self) -> bool {
        self.tables.iter().any(|table| table.apart > 0)
    }

    /// The report of the same part of the run once it was run again, which says how it stands.
    pub(super) fn then(mut self, mut later: Self) -> Self {
        for table in &mut self.tables {
            (table.open, table.quarantined, table.waiting, table.apart) = (0, 0, 0, 0);
        }
        (self.status, self.problems) = (later.status, std::mem::take(&mut later.problems));
        self.join(later);
        self
    }

    /// Takes in the report of another part of the same run; tables of one name become one.
    pub(super) fn join(&mut self, other: Self) {
        for table in other.tables {
            let Some(ours) = self.tables.iter_mut().find(|ours| ours.table == table.table) else {
                self.tables.push(table);
                continue;
            };
            ours.read += table.read;
            ours.inserted += table.inserted;
            ours.updated += table.updated;
            ours.deleted += table.deleted;
            ours.conflicts += table.conflicts;
            ours.apart += table.apart;
            // Both ends may have recorded the same.
            ours.open = ours.open.max(table.open);
            ours.quarantined += table.quarantined;
            ours.waiting += table.waiting;
            ours.notes.extend(table.notes);
            ours.error = ours.error.take().or(table.error);
        }
        self.problems.extend(other.problems);
        self.rejects = self.rejects.take().or(other.rejects);
        self.error = self.error.or(other.error);
        if other.status != "succeeded" {
            self.status = other.status;
        }
        self.seconds += other.seconds;
    }
}

/// What every table's work needs.
#[derive(Clone)]
pub(super) struct Context {
    pub target: Arc<dyn Database>,
    pub snapshot: Arc<dyn Snapshot>,
    pub mode: Mode,
    pub same_engine: bool,
    pub options: RunOptions,
    pub progress: Progress,
    /// Where rows find room that are larger than a batch.
    pub room: Room,
    /// A permit for each connection that may write.
    pub writers: Arc<Semaphore>,
    /// A permit for each connection that may read besides the one that each table has.
    pub readers: Arc<Semaphore>,
    /// Whether nothing of this run has failed yet.
    pub first_attempt: bool,
}

impl Context {
    pub(super) fn shape(&self, plan: &TablePlan) -> Shape {
        Shape {
            table: plan.target.clone(),
            database: Some(self.target.clone()),
            same_engine: self.same_engine,
            shifts: plan.shifts.clone(),
        }
    }
}

/// Runs a plan to its end. A table's failure does not stop the others, a full disk or a request to stop does; what
/// lost a connection or met a lock is tried again, whichever step it was.
///
/// # Errors
/// What concerns no single table.
pub async fn run(
    source: &Arc<dyn Database>,
    claim: &Claim,
    plan: &Plan,
    options: RunOptions,
    progress: Progress,
) -> Result<Report> {
    let started = Instant::now();
    let (target, stop) = (claim.target().as_ref(), &options.stop);
    if !options.schema_only {
        options.rejects.ready(&plan.tables.iter().map(|t| t.target.name.to_string()).collect())?;
    }
    claim.persist(|| prepare(target, plan)).await?;
    if options.schema_only {
        for table in &plan.tables {
            claim.persist(|| build_indexes(target, table)).await?;
        }
        let finished = claim.persist(|| finish_tables(source.as_ref(), target, plan, stop)).await;
        return told(report(plan, &progress, &[], started.elapsed()), finished);
    }
    let failed = run_tables(source, claim, plan, &options, &progress).await?;
    if stop.is_cancelled() {
        return Err(interrupted());
    }
    let finished = if failed.is_empty() {
        claim.persist(|| finish_tables(source.as_ref(), target, plan, stop)).await
    } else if worst(&failed).is_some_and(|e| matches!(e.kind, ErrorKind::Unreachable | ErrorKind::Full)) {
        Ok(Vec::new())
    } else {
        // One table's trouble must not leave the others with numbers that are taken.
        claim.persist(|| verify_tables(source.as_ref(), target, plan, |at| failed.iter().all(|(i, _)| *i != at))).await
    };
    let mut report = report(plan, &progress, &failed, started.elapsed());
    report.rejects = (options.rejects.count() > 0).then(|| options.rejects.path().display().to_string());
    told(report, finished)
}

/// The report with what the end of the run found. An error there is told as the run's, not as one of a run that did
/// nothing; only a request to stop ends it without a report.
pub(super) fn told(mut report: Report, finished: Result<Vec<String>>) -> Result<Report> {
    match finished {
        Ok(problems) => report.problems = problems,
        Err(e) if e.kind == ErrorKind::Interrupted => return Err(e),
        Err(e) => {
            report.error = report.error.or(Some(e.kind));
            report.problems.push(e.message().to_owned());
        }
    }
    if !report.problems.is_empty() {
        report.status = "failed";
    }
    Ok(report)
}

/// What could not be done, by the table's place in the plan.
type Failed = Vec<(usize, Error)>;

/// Runs all tables, again and again those that failed for a reason that passes.
async fn run_tables(
    source: &Arc<dyn Database>,
    claim: &Claim,
    plan: &Plan,
    options: &RunOptions,
    progress: &Progress,
) -> Result<Failed> {
    let target = claim.target();
    let writers = if plan.serial { 1 } else { target.abilities().writers };
    let writers = Arc::new(Semaphore::new(options.concurrency.clamp(1, writers.max(1))));
    let readers = Arc::new(Semaphore::new(options.concurrency.saturating_sub(1)));
    let room = Room::default();
    let mut failed = Vec::new();
    let mut left: Vec<usize> = (0..plan.tables.len()).collect();
    let mut attempts = Attempts::new(&options.stop);
    loop {
        let halt = options.stop.child_token();
        let round = match point(source, claim).await {
            Ok(snapshot) => {
                let context = Context {
                    target: target.clone(),
                    snapshot,
                    mode: plan.mode,
                    same_engine: source.abilities().product == target.abilities().product,
                    options: RunOptions { stop: halt, ..options.clone() },
                    progress: progress.clone(),
                    room: room.clone(),
                    writers: writers.clone(),
                    readers: readers.clone(),
                    first_attempt: attempts.is_first(),
                };
                run_round(plan, &context, &left).await
            }
            Err(e) => left.iter().map(|&at| (at, e.clone())).collect(),
        };
        let Some(error) = worst(&round).cloned() else { return Ok(failed) };
        match attempts.pause(error).await {
            Ok(()) => {}
            Err(e) if e.kind == ErrorKind::Interrupted => return Err(e),
            Err(_) => {
                failed.extend(round);
                return Ok(failed);
            }
        }
        // Others were halted on the way, for no fault of theirs.
        let again = |e: &Error| e.is_transient() || e.kind == ErrorKind::Interrupted;
        let (once_more, ended): (Failed, Failed) = round.into_iter().partition(|(_, e)| again(e));
        failed.extend(ended);
        left = once_more.into_iter().map(|(at, _)| at).collect();
        for &at in left.iter().filter(|&&at| progress.tables[at].restart()) {
            options.rejects.forget(&plan.tables[at].target.name.to_string())?;
        }
    }
}

/// A point to read at, with the right to write.
async fn point(source: &Arc<dyn Database>, claim: &Claim) -> Result<Arc<dyn Snapshot>> {
    claim.keep().await?;
    source.snapshot().await.map(Arc::from)
}

/// The error that decides what becomes of a run: one that is not a mere consequence of another, and
/// that will not pass before one that will.
pub(super) fn worst(failed: &[(usize, Error)]) -> Option<&Error> {
    failed.iter().map(|(_, e)| e).min_by_key(|e| match e.kind {
        ErrorKind::Full => 0,
        ErrorKind::Unreachable => 1,
        ErrorKind::Busy => 2,
        ErrorKind::Interrupted => 4,
        _ => 3,
    })
}

/// Runs these tables, side by side where that is allowed.
async fn run_round(plan: &Plan, context: &Context, tables: &[usize]) -> Failed {
    let mut tasks = JoinSet::new();
    for &at in tables {
        let (context, table) = (context.clone(), plan.tables[at].clone());
        tasks.spawn(async move {
            let _permit = context.writers.acquire().await;
            if context.options.stop.is_cancelled() {
                return (at, Err(interrupted()));
            }
            let result = run_table(&context, &table, at).await;
            // Without either end the other tables cannot go on; a table's own trouble stays its own.
            if result.as_ref().is_err_and(|e| matches!(e.kind, ErrorKind::Unreachable | ErrorKind::Full)) {
                context.options.stop.cancel();
            }
            (at, result.map_err(|e| e.of_table(&table.source.name)))
        });
    }
    let mut failed = Vec::new();
    while let Some(done) = tasks.join_next().await {
        match done {
            Ok((_, Ok(()))) => {}
            Ok((at, Err(e))) => failed.push((at, e)),
            Err(e) => failed.push((tables[0], lost_worker(&e))),
        }
    }
    failed
}

/// A task that panicked.
pub(super) fn lost_worker(e: &tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Protocol, format!("a worker ended with a fault of ours, please report it: {e}"))
}

async fn run_table(context: &Context, plan: &TablePlan, at: usize) -> Result<()> {
    let progress = &context.progress.tables[at];
    if !progress.arrived.load(Ordering::Relaxed) {
        let empty = is_empty(context, &plan.target, plan.create && context.first_attempt).await?;
        if empty && context.mode == Mode::Full && plan.matched.is_none() {
            tracing::info!(target: STEP, "table {}: it is empty there, and is filled", plan.source.name);
            load::load(context, plan, at).await?;
        } else {
            tracing::info!(target: STEP, "table {}: rows are compared, and written where they differ", plan.source.name);
            merge::merge(context, plan, at).await?;
        }
        progress.arrived.store(true, Ordering::Relaxed);
    }
    build_indexes(context.target.as_ref(), plan).await?;
    progress.done.store(true, Ordering::Relaxed);
    let [read, inserted, updated, deleted] =
        [&progress.read, &progress.inserted, &progress.updated, &progress.deleted].map(|n| n.load(Ordering::Relaxed));
    tracing::info!(
        target: STEP,
        "table {}: done: {read} rows read, {inserted} inserted, {updated} updated, {deleted} deleted",
        plan.source.name
    );
    Ok(())
}

/// Keys and indexes that are built faster over all rows at once.
async fn build_indexes(database: &dyn Database, plan: &TablePlan) -> Result<()> {
    let mut left = plan.ddl.as_ref().map_or_else(Vec::new, |ddl| ddl.after_rows.clone());
    if left.is_empty() {
        return Ok(());
    }
    let mut target = database.target().await?;
    while let Some(sql) = left.first() {
        tell_statement(sql);
        match target.execute(sql).await {
            Ok(()) => {
                left.remove(0);
                Failpoint::IndexesBuilt.reach();
            }
            Err(e) => {
                left = fewer(left, plan.missing(database).await?.after_rows)
                    .map_err(|_| e.context(format!("building the indexes of {}", plan.target.name)))?;
            }
        }
    }
    Ok(())
}

/// A statement that changes the form of a table, for the log.
fn tell_statement(sql: &str) {
    tracing::debug!(target: STEP, "{}", sql.replace('\n', " "));
}

/// What is left to do after a failure, where it is less than was thought: the session of a dead run, which its
/// server let go on, has done a part. Else what was thought.
fn fewer(left: Vec<String>, missing: Vec<String>) -> std::result::Result<Vec<String>, Vec<String>> {
    if missing.len() < left.len() { Ok(missing) } else { Err(left) }
}

async fn is_empty(context: &Context, table: &Table, new: bool) -> Result<bool> {
    if new {
        return Ok(true);
    }
    let snapshot = context.target.snapshot().await?;
    let mut source = snapshot.source().await?;
    Ok(source.count(table, None).await? == 0)
}

/// Tables that are made in one transaction: each holds several locks of its server until the end.
const MADE_TOGETHER: usize = 100;

/// Makes missing tables. They are noted first, so that a run that dies here, or any time later, is
/// known for what it is by the next one.
async fn prepare(target: &dyn Database, plan: &Plan) -> Result<()> {
    let missing: Vec<&TablePlan> = plan.tables.iter().filter(|t| t.create).collect();
    if missing.is_empty() {
        return Ok(());
    }
    tracing::info!(target: STEP, "{} tables are made", missing.len());
    let noted = unfinished::tables(target).await?;
    let notes = unfinished::begin(target).await?;
    let mut writer = target.target().await?;
    for part in missing.chunks(MADE_TOGETHER) {
        // An attempt before this one may have made some, and have lost its connection before it knew.
        let doubtful = part.iter().map(|t| &t.target.name).filter(|name| noted.contains(&name.to_string()));
        let doubtful: Vec<TableName> = doubtful.cloned().collect();
        let there = target.describe_all(&doubtful).await?;
        let made: BTreeSet<&TableName> =
            doubtful.iter().zip(&there).filter_map(|(n, t)| t.as_ref().map(|_| n)).collect();
        let part: Vec<&TablePlan> = part.iter().copied().filter(|t| !made.contains(&t.target.name)).collect();
        if part.is_empty() {
            continue;
        }
        if let Err(e) = make(writer.as_mut(), &notes, &part, target.abilities().transactional_ddl).await {
            return Err(abandon(writer.as_mut(), e).await);
        }
    }
    Ok(())
}

/// Notes tables and makes them, in one transaction where that holds them together.
async fn make(writer: &mut dyn Target, notes: &Arc<Table>, tables: &[&TablePlan], together: bool) -> Result<()> {
    writer.begin(WriteOptions::default()).await?;
    unfinished::note(writer, notes, tables.iter().map(|t| &t.target.name)).await?;
    if !together {
        writer.commit().await?;
    }
    Failpoint::TablesNoted.reach();
    for table in tables {
        for sql in table.ddl.iter().flat_map(|ddl| &ddl.create) {
            tell_statement(sql);
            writer.execute(sql).await.map_err(|e| e.context(format!("creating {}", table.target.name)))?;
        }
        Failpoint::TableMade.reach();
    }
    if together {
        writer.commit().await?;
    }
    Failpoint::TablesMade.reach();
    Ok(())
}

/// Foreign keys, numbering, orphans; then the notes go, save those of tables that lack a foreign key still: the next
/// run adds it, or says once more that it does not hold.
async fn finish_tables(
    source: &dyn Database,
    target: &dyn Database,
    plan: &Plan,
    stop: &CancellationToken,
) -> Result<Vec<String>> {
    tracing::info!(target: STEP, "foreign keys are made, references and numbering looked after");
    let mut writer = target.target().await?;
    let (mut problems, mut done) = (Vec::new(), BTreeSet::new());
    for table in &plan.tables {
        if stop.is_cancelled() {
            return Err(interrupted());
        }
        let broken = add_foreign_keys(target, writer.as_mut(), table).await?;
        if broken.is_empty() {
            done.insert(table.target.name.to_string());
        }
        problems.extend(broken);
    }
    drop(writer);
    problems.extend(verify_tables(source, target, plan, |_| true).await?);
    Failpoint::Verified.reach();
    unfinished::end(target, &done).await?;
    Failpoint::NotesGone.reach();
    Ok(problems)
}

/// Adds the foreign keys of a table, and tells which do not hold.
async fn add_foreign_keys(target: &dyn Database, writer: &mut dyn Target, plan: &TablePlan) -> Result<Vec<String>> {
    let mut left = plan.ddl.as_ref().map_or_else(Vec::new, |ddl| ddl.foreign_keys.clone());
    let mut problems = Vec::new();
    while let Some(sql) = left.first() {
        tell_statement(sql);
        let Err(e) = writer.execute(sql).await else {
            left.remove(0);
            Failpoint::ForeignKeyAdded.reach();
            continue;
        };
        left = match fewer(left, plan.missing(target).await?.foreign_keys) {
            Ok(left) => left,
            Err(mut left) if e.is_row_fault() => {
                left.remove(0);
                problems.push(format!(
                    "a foreign key of {} does not hold and was not made: {e}; the same command makes it once it holds, which table \
                     _rowferry_copy notes until then: drop that table to do without the key",
                    plan.target.name
                ));
                left
            }
            Err(_) => return Err(e.context(format!("adding the foreign keys of {}", plan.target.name))),
        };
    }
    Ok(problems)
}

/// Sets the numbering of the tables that are done, and names orphans, in tables that refer to them
/// too: what a mirror deletes may have had children that take no part.
async fn verify_tables(
    source: &dyn Database,
    target: &dyn Database,
    plan: &Plan,
    done: impl Fn(usize) -> bool,
) -> Result<Vec<String>> {
    let mut tables: Vec<Arc<Table>> =
        plan.tables.iter().enumerate().filter(|(at, _)| done(*at)).map(|(_, t)| t.target.clone()).collect();
    if plan.mode == Mode::Mirror {
        tables.extend(referring(target, &plan.tables.iter().map(|t| &t.target.name).collect()).await?);
    }
    let mut writer = target.target().await?;
    let problems = writer.verify(&tables).await?;
    for table in plan.tables.iter().enumerate().filter(|(at, _)| done(*at)).map(|(_, table)| table) {
        // What was given out at the source and is gone there is not given out again here.
        let mut columns = table.source.columns.iter().zip(&table.target.columns);
        if columns.any(|(from, to)| from.identity.is_some() && to.identity.is_some())
            && let Some(last) = source.numbered_upto(&table.source).await?
        {
            match writer.count_on(&table.target, last).await {
                Err(e) if e.kind == ErrorKind::Denied => {
                    tracing::warn!("{} may give out numbers up to {last} again: {e}", table.target.name);
                }
                done => done?,
            }
        }
    }
    Ok(problems)
}

pub(super) fn report(plan: &Plan, progress: &Progress, failed: &[(usize, Error)], took: Duration) -> Report {
    let cause = worst(failed).filter(|cause| cause.kind != ErrorKind::Interrupted);
    let tables: Vec<TableReport> = plan
        .tables
        .iter()
        .zip(progress.tables.iter())
        .enumerate()
        .map(|(at, (table, p))| TableReport {
            table: table.source.name.to_string(),
            read: p.read.load(Ordering::Relaxed),
            inserted: p.inserted.load(Ordering::Relaxed),
            updated: p.updated.load(Ordering::Relaxed),
            deleted: p.deleted.load(Ordering::Relaxed),
            conflicts: 0,
            apart: 0,
            open: 0,
            waiting: 0,
            quarantined: p.quarantined.load(Ordering::Relaxed),
            notes: if table.ddl.is_some() { table.notes.clone() } else { Vec::new() },
            error: failed.iter().find(|(i, _)| *i == at).map(|(_, e)| {
                match cause.filter(|_| e.kind == ErrorKind::Interrupted) {
                    Some(cause) => consequence(&table.source.name, p, cause),
                    None => e.message().to_owned(),
                }
            }),
        })
        .collect();
    let clean = failed.is_empty() && tables.iter().all(|t| t.quarantined == 0);
    Report {
        status: if clean { "succeeded" } else { "failed" },
        tables,
        seconds: took.as_secs_f64(),
        problems: Vec::new(),
        rejects: None,
        error: worst(failed).map(|e| e.kind),
    }
}

/// Why a table was not brought to its end that has no fault of its own.
fn consequence(table: &TableName, progress: &TableProgress, cause: &Error) -> String {
    let how = if progress.read.load(Ordering::Relaxed) == 0 { "not begun" } else { "not ended" };
    format!("table {table}: {how}, because of another: {cause}")
}

/// A transaction that is rolled back when its work fails.
pub(super) async fn abandon(target: &mut dyn Target, error: Error) -> Error {
    // The connection may be what failed; dropping it rolls back too.
    let _ = target.rollback().await;
    error
}
