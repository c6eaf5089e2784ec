//! Carries a plan out.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::plan::{MARKER, Mode, Plan, TablePlan, to_hex};
use super::{Progress, load, merge};
use crate::apply::Rejects;
use crate::capture::{Shape, interrupted};
use crate::engine::{Database, Error, ErrorKind, Result, Snapshot, Target, WriteOptions};
use crate::model::{BatchLimits, Table, TableName};

/// How a plan is carried out.
#[derive(Clone)]
pub struct RunOptions {
    /// Tables at a time.
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
#[derive(Debug, Clone, serde::Serialize)]
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
    /// Conflicts: none in a one-way run of this kind.
    pub conflicts: u64,
    /// Rows that went to the rejects.
    pub quarantined: u64,
    /// What went wrong with this table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
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
    /// The first error's kind, for the exit code.
    #[serde(skip)]
    pub error: Option<ErrorKind>,
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
}

impl Context {
    pub(super) fn shape(&self, plan: &TablePlan) -> Shape {
        Shape { table: plan.target.clone(), database: self.target.clone(), same_engine: self.same_engine }
    }
}

/// Transactions of a run silence triggers and leave foreign keys to the end.
pub(super) const QUIET: WriteOptions = WriteOptions { silence_triggers: true, defer_foreign_keys: true };

/// Runs a plan to its end; a table's failure does not stop the others, an unreachable end or a
/// request to stop does.
///
/// # Errors
/// What concerns no single table.
pub async fn run(
    source: &Arc<dyn Database>,
    target: &Arc<dyn Database>,
    plan: &Plan,
    options: RunOptions,
    progress: Progress,
) -> Result<Report> {
    let started = Instant::now();
    let stop = options.stop.clone();
    prepare(target.as_ref(), plan).await?;
    if options.schema_only {
        for table in &plan.tables {
            build_indexes(target.as_ref(), table).await?;
        }
        finish_tables(target.as_ref(), plan, &stop).await?;
        return Ok(report(plan, &progress, Vec::new(), Vec::new(), None, started.elapsed()));
    }
    let context = Context {
        target: target.clone(),
        snapshot: Arc::from(source.snapshot().await?),
        mode: plan.mode,
        same_engine: source.abilities().product == target.abilities().product,
        options,
        progress: progress.clone(),
    };
    let (errors, kind) = run_tables(plan, &context).await;
    if kind.is_none() && stop.is_cancelled() {
        return Err(interrupted());
    }
    let mut problems = Vec::new();
    if kind.is_none() {
        problems = finish_tables(target.as_ref(), plan, &stop).await?;
    } else if !stop.is_cancelled() {
        // One table's trouble must not leave the others with numbers that are taken.
        let failed = |at: usize| errors.iter().any(|(i, _)| *i == at);
        problems = verify_tables(target.as_ref(), plan, &|at| !failed(at)).await?;
    }
    Ok(report(plan, &progress, errors, problems, kind, started.elapsed()))
}

/// Runs all tables, side by side where that is allowed; the errors by table, and the worst kind.
async fn run_tables(plan: &Plan, context: &Context) -> (Vec<(usize, String)>, Option<ErrorKind>) {
    let writers = if plan.serial { 1 } else { context.target.abilities().writers };
    let permits = Arc::new(Semaphore::new(context.options.concurrency.clamp(1, writers.max(1))));
    let mut tasks = JoinSet::new();
    for (at, table) in plan.tables.iter().cloned().enumerate() {
        let (context, permits) = (context.clone(), permits.clone());
        tasks.spawn(async move {
            let _permit = permits.acquire().await;
            if context.options.stop.is_cancelled() {
                return (at, Err(interrupted()));
            }
            let result = run_table(&context, &table, at).await;
            // Without either end the other tables cannot go on; a table's own trouble stays its own.
            if result.as_ref().is_err_and(|e| matches!(e.kind, ErrorKind::Unreachable | ErrorKind::Full)) {
                context.options.stop.cancel();
            }
            (at, result.map_err(|e| e.context(format!("table {}", table.source.name))))
        });
    }
    let mut errors = Vec::new();
    let mut worst: Option<ErrorKind> = None;
    let mut first: Option<Error> = None;
    while let Some(done) = tasks.join_next().await {
        let (at, result) = match done {
            Ok(done) => done,
            Err(e) => (0, Err(Error::new(ErrorKind::Protocol, format!("a worker ended with a fault of ours: {e}")))),
        };
        if let Err(e) = result {
            if e.kind != ErrorKind::Interrupted && first.as_ref().is_none_or(|f| f.kind == ErrorKind::Interrupted) {
                first = Some(e.clone());
                worst = Some(e.kind);
            }
            errors.push((at, e.message().to_owned()));
        }
    }
    (errors, worst)
}

async fn run_table(context: &Context, plan: &TablePlan, at: usize) -> Result<()> {
    let empty = is_empty(context, &plan.target, plan.create).await?;
    if empty && context.mode == Mode::Full {
        load::load(context, plan, at).await?;
    } else {
        merge::merge(context, plan, at).await?;
    }
    build_indexes(context.target.as_ref(), plan).await?;
    context.progress.tables[at].done.store(true, Ordering::Relaxed);
    Ok(())
}

/// Keys and indexes that are built faster over all rows at once.
async fn build_indexes(database: &dyn Database, plan: &TablePlan) -> Result<()> {
    let statements = plan.ddl.as_ref().map_or(&[][..], |ddl| &ddl.after_rows);
    if statements.is_empty() {
        return Ok(());
    }
    let mut target = database.target().await?;
    for sql in statements {
        target.execute(sql).await.map_err(|e| e.context(format!("building the indexes of {}", plan.target.name)))?;
    }
    Ok(())
}

async fn is_empty(context: &Context, table: &Table, created: bool) -> Result<bool> {
    if created {
        return Ok(true);
    }
    let snapshot = context.target.snapshot().await?;
    let mut source = snapshot.source().await?;
    Ok(source.count(table, None).await? == 0)
}

/// Makes missing tables. Each is noted first, so that a run that dies here, or any time later, is
/// known for what it is by the next one.
async fn prepare(target: &dyn Database, plan: &Plan) -> Result<()> {
    if plan.tables.iter().all(|t| !t.create) {
        return Ok(());
    }
    let mut writer = target.target().await?;
    writer.execute(&format!("CREATE TABLE IF NOT EXISTS {MARKER} (name VARCHAR(600) NOT NULL PRIMARY KEY)")).await?;
    for table in plan.tables.iter().filter(|t| t.create) {
        let Some(ddl) = &table.ddl else { continue };
        let hex = to_hex(&table.target.name.to_string());
        writer.execute(&format!("DELETE FROM {MARKER} WHERE name = '{hex}'")).await?;
        writer.execute(&format!("INSERT INTO {MARKER} (name) VALUES ('{hex}')")).await?;
        for sql in &ddl.create {
            writer.execute(sql).await.map_err(|e| e.context(format!("creating {}", table.target.name)))?;
        }
    }
    Ok(())
}

/// Foreign keys, numbering, orphans; then the notes go.
async fn finish_tables(target: &dyn Database, plan: &Plan, stop: &CancellationToken) -> Result<Vec<String>> {
    let mut writer = target.target().await?;
    let mut problems = Vec::new();
    for table in &plan.tables {
        if stop.is_cancelled() {
            return Err(interrupted());
        }
        for sql in table.ddl.iter().flat_map(|d| &d.foreign_keys) {
            match writer.execute(sql).await {
                Ok(()) => {}
                Err(e) if e.is_row_fault() => {
                    problems.push(format!("a foreign key of {} does not hold: {e}", table.target.name));
                }
                Err(e) => return Err(e.context(format!("adding the foreign keys of {}", table.target.name))),
            }
        }
    }
    drop(writer);
    problems.extend(verify_tables(target, plan, &|_| true).await?);
    let mut writer = target.target().await?;
    writer.execute(&format!("DROP TABLE IF EXISTS {MARKER}")).await?;
    Ok(problems)
}

/// Sets the numbering of the tables that are done, and names orphans, in tables that refer to them
/// too: what a mirror deletes may have had children that take no part.
async fn verify_tables(
    target: &dyn Database,
    plan: &Plan,
    done: &(dyn Fn(usize) -> bool + Sync),
) -> Result<Vec<String>> {
    let mut tables: Vec<Arc<Table>> =
        plan.tables.iter().enumerate().filter(|(at, _)| done(*at)).map(|(_, t)| t.target.clone()).collect();
    if plan.mode == Mode::Mirror {
        for name in target.tables(None).await? {
            let planned = |n: &TableName| plan.tables.iter().any(|t| t.target.name == *n);
            if planned(&name) {
                continue;
            }
            if let Some(table) = target.describe(&name).await?
                && table.foreign_keys.iter().any(|f| planned(&f.parent))
            {
                tables.push(Arc::new(table));
            }
        }
    }
    target.target().await?.verify(&tables).await
}

fn report(
    plan: &Plan,
    progress: &Progress,
    errors: Vec<(usize, String)>,
    problems: Vec<String>,
    error: Option<ErrorKind>,
    took: Duration,
) -> Report {
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
            quarantined: p.quarantined.load(Ordering::Relaxed),
            error: errors.iter().find(|(i, _)| *i == at).map(|(_, e)| e.clone()),
        })
        .collect();
    let clean = errors.is_empty() && problems.is_empty() && tables.iter().all(|t| t.quarantined == 0);
    Report { status: if clean { "succeeded" } else { "failed" }, tables, seconds: took.as_secs_f64(), problems, error }
}

/// A transaction that is rolled back when its work fails.
pub(super) async fn abandon(target: &mut dyn Target, error: Error) -> Error {
    // The connection may be what failed; dropping it rolls back too.
    let _ = target.rollback().await;
    error
}
