//! `rowferry copy`.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::args::{Args, CopyArgs, CopyMode, patterns};
use super::output::{Output, Watch, columns};
use super::{Outcome, connect, ended};
use crate::apply::Rejects;
use crate::diff::{DiffOptions, TableDiff, compare};
use crate::engine::{Database, Error, ErrorKind, Result};
use crate::model::BatchLimits;
use crate::pipeline::{
    Claim, Mode, Plan, PlanOptions, Progress, Report, RunOptions, TablePlan, is_flood, persist, plan, run as run_plan,
};

/// Bytes of a batch at most: four tables at a time stay far below 128 MiB.
pub(crate) const BATCH_BYTES: usize = 1 << 20;

/// One of those that are of the same table as one before.
fn twice(filters: &[(String, String)]) -> Option<&(String, String)> {
    filters
        .iter()
        .enumerate()
        .find(|(at, (table, _))| filters[..*at].iter().any(|(before, _)| before == table))
        .map(|(_, f)| f)
}

pub(crate) async fn run(args: &Args, copy: &CopyArgs, output: &Output, stop: CancellationToken) -> Result<Outcome> {
    let mode = match copy.mode {
        CopyMode::Full => Mode::Full,
        CopyMode::Mirror => Mode::Mirror,
    };
    let filters = copy
        .filters
        .iter()
        .map(|f| {
            f.split_once('=').map(|(t, e)| (t.trim().to_owned(), e.to_owned())).ok_or_else(|| {
                Error::new(
                    ErrorKind::Usage,
                    format!("--where '{f}' must be TABLE=CONDITION, for example orders=\"total > 10\""),
                )
            })
        })
        .collect::<Result<Vec<_>>>()?;
    if let Some((table, _)) = twice(&filters) {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("--where is given twice for {table}: join its conditions with AND or OR"),
        ));
    }
    let options = PlanOptions {
        tables: patterns(&copy.tables),
        exclude: patterns(&copy.exclude),
        mode,
        filters,
        create: !copy.no_create,
        allow_loss: copy.allow_loss || copy.dry_run,
        force: copy.force || copy.dry_run,
        count: copy.dry_run || output.is_watched(),
        ..PlanOptions::default()
    };
    let source = connect::database(args, &copy.source, false).await?;
    let target = connect::database(args, &copy.target, !copy.no_create).await?;
    if copy.dry_run {
        let mut plan = persist(&stop, || plan(source.as_ref(), target.as_ref(), &options)).await?;
        plan.notes.extend(source.reading_hinders().await?);
        let changes = if mode == Mode::Mirror {
            persist(&stop, || changes(&source, &target, &plan, stop.clone())).await?
        } else {
            BTreeMap::new()
        };
        print_plan(&plan, &changes, (source.as_ref(), target.as_ref()), copy.force, output);
        if !copy.allow_loss && plan.tables.iter().any(|table| !table.losses.is_empty()) {
            output.line("not all of it would be exact: the run needs --allow-loss");
        }
        if let Some(noisy) = plan.noisy.as_ref().filter(|_| !copy.force) {
            output.line(format!("{noisy}: the run needs --force"));
        }
        return Ok(Outcome::Done);
    }
    let claim = Claim::take(&target, &stop).await?;
    let plan = claim.persist(|| plan(source.as_ref(), target.as_ref(), &options)).await?;
    for note in &plan.notes {
        output.news(format!("note: {note}"));
    }
    let run = RunOptions {
        concurrency: usize::from(copy.concurrency),
        limits: BatchLimits { rows: copy.batch_size as usize, bytes: BATCH_BYTES },
        force: copy.force,
        schema_only: copy.schema_only,
        rejects: Arc::new(Rejects::new(copy.rejects.clone()).between(source.label(), target.label())),
        stop,
    };
    execute(&source, &claim, &plan, run, output).await
}

/// What a run would change of each table that is there already, by its name: found by comparing.
async fn changes(
    source: &Arc<dyn Database>,
    target: &Arc<dyn Database>,
    plan: &Plan,
    stop: CancellationToken,
) -> Result<BTreeMap<String, TableDiff>> {
    let tables = plan.tables.iter().filter(|t| !t.create).cloned().collect();
    let there = Plan { tables, notes: Vec::new(), ..plan.clone() };
    let limits = BatchLimits { rows: 4000, bytes: BATCH_BYTES };
    let options = DiffOptions { tables: Vec::new(), exclude: Vec::new(), rows: false, limits, stop };
    let found = compare(source, target, &there, &options).await?;
    Ok(found.into_iter().map(|t| (t.table.clone(), t)).collect())
}

/// Runs a plan with its progress shown, prints the report.
pub(crate) async fn execute(
    source: &Arc<dyn Database>,
    claim: &Claim,
    plan: &Plan,
    options: RunOptions,
    output: &Output,
) -> Result<Outcome> {
    let (rejects, mut watch) = (options.rejects.clone(), None);
    let progress = watched(plan, output, &mut watch);
    let report = run_plan(source, claim, plan, options, progress).await;
    drop(watch);
    let report = report?;
    output.document(&report);
    print_report(&report, output);
    tell_rejects(&rejects, output);
    if let Some(fault) = report.fault() {
        return ended(fault, output);
    }
    Ok(if report.status == "succeeded" { Outcome::Done } else { Outcome::Short })
}

/// What a plan has done so far, which people watch for as long as `watch` is kept.
pub(crate) fn watched(plan: &Plan, output: &Output, watch: &mut Option<Watch>) -> Progress {
    let progress = Progress::new(plan.tables.iter().map(|t| (t.source.name.to_string(), t.rows)));
    *watch = Some(output.watch(&progress));
    progress
}

/// Where the rows are that could not be written, if there are any.
pub(crate) fn tell_rejects(rejects: &Rejects, output: &Output) {
    let path = rejects.path().display();
    match rejects.count() {
        0 => {}
        1 => output.line(format!("one row could not be written; it is in {path}")),
        count => output.line(format!("{count} rows could not be written; they are in {path}")),
    }
}

pub(crate) fn print_report(report: &Report, output: &Output) {
    if output.is_quiet() && report.status == "succeeded" {
        return;
    }
    let header = ["table", "read", "inserted", "updated", "deleted", "rejected"].map(str::to_owned).to_vec();
    let mut rows = vec![header];
    for t in &report.tables {
        let numbers = [t.read, t.inserted, t.updated, t.deleted, t.quarantined].map(|n| n.to_string());
        rows.push(std::iter::once(t.table.clone()).chain(numbers).collect());
    }
    for line in columns(&rows) {
        output.line(line);
    }
    for t in &report.tables {
        t.notes.iter().for_each(|note| output.news(format!("note: {}: {note}", t.table)));
    }
    for problem in &report.problems {
        output.line(format!("problem: {problem}"));
    }
    let total: u64 = report.tables.iter().map(|t| t.read).sum();
    #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = total as f64 / report.seconds.max(0.001);
    output.line(format!("{}: {total} rows in {:.1} s, {rate:.0} rows/s", report.status, report.seconds));
}

fn print_plan(
    plan: &Plan,
    changes: &BTreeMap<String, TableDiff>,
    (source, target): (&dyn Database, &dyn Database),
    force: bool,
    output: &Output,
) {
    let document = |table: &TablePlan| {
        let mut document = plan_document(table);
        if let Some(c) = changes.get(&table.source.name.to_string()) {
            document["changes"] = serde_json::json!({ "inserted": c.only_a, "updated": c.changed,
                "deleted": c.only_b, "quarantined": c.unfit, "needs_force": is_flood(c.rows_b, c.only_b) });
        }
        document
    };
    output.document(&serde_json::json!({
        "status": "planned",
        "source": source.version(), "target": target.version(),
        "tables": plan.tables.iter().map(document).collect::<Vec<_>>(),
        "notes": plan.notes,
        "triggers": plan.noisy,
    }));
    output.line(format!("from {} ({})", source.label(), source.version()));
    output.line(format!("to   {} ({})", target.label(), target.version()));
    print_tables(plan, output);
    for (name, c) in changes {
        output.line(format!(
            "{name}: would insert {}, update {}, delete {}, reject {}",
            c.only_a, c.changed, c.only_b, c.unfit
        ));
        if is_flood(c.rows_b, c.only_b) && !force {
            output.line(format!("{name}: more than half of its rows would be deleted: the run needs --force"));
        }
    }
}

/// The tables of a plan, for people.
pub(crate) fn print_tables(plan: &Plan, output: &Output) {
    for (n, table) in plan.tables.iter().enumerate() {
        let key = table.key.as_ref().map_or("whole rows".to_owned(), |k| key_names(table, &k.columns));
        let what = if table.create { "create" } else { "exists" };
        let (from, to) = (&table.source.name, &table.target.name);
        let name = if from == to { from.to_string() } else { format!("{from} -> {to}") };
        output.line(format!("{:3}. {name}  {} rows, {what}, key: {key}", n + 1, table.rows));
        for (name, from, to) in &table.mapped {
            output.line(format!("       {name}: {from} -> {to}"));
        }
        for loss in &table.losses {
            output.line(format!("       not exact: {loss}"));
        }
        for note in &table.notes {
            output.line(format!("       note: {note}"));
        }
    }
    for note in &plan.notes {
        output.line(format!("note: {note}"));
    }
}

fn key_names(table: &TablePlan, columns: &[usize]) -> String {
    columns.iter().map(|&c| table.source.columns[c].name.clone()).collect::<Vec<_>>().join(", ")
}

pub(crate) fn plan_document(table: &TablePlan) -> serde_json::Value {
    serde_json::json!({
        "table": table.source.name.to_string(),
        "target": table.target.name.to_string(),
        "rows": table.rows,
        "create": table.create,
        "key": table.key.as_ref().map(|k| k.columns.iter().map(|&c| table.source.columns[c].name.clone()).collect::<Vec<_>>()),
        "types": table.mapped.iter().map(|(c, a, b)| serde_json::json!({"column": c, "from": a, "to": b})).collect::<Vec<_>>(),
        "not_exact": table.losses,
        "notes": table.notes,
    })
}
