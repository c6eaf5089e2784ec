//! `rowferry diff`.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::args::{Args, DiffArgs, Repair};
use super::copy::BATCH_BYTES;
use super::output::{Output, columns};
use super::{Outcome, connect, ended};
use crate::apply::Rejects;
use crate::diff::{Diff, DiffOptions, diff, repair_plan};
use crate::engine::{Database, Error, Result};
use crate::model::BatchLimits;
use crate::pipeline::{Claim, Progress, RunOptions, persist, run as run_plan};

pub(crate) async fn run(args: &Args, typed: &DiffArgs, output: &Output, stop: CancellationToken) -> Result<Outcome> {
    let a = connect::database(args, &typed.a, false).await?;
    let b = connect::database(args, &typed.b, false).await?;
    let options = DiffOptions {
        tables: typed.tables.clone(),
        rows: typed.rows,
        limits: BatchLimits { rows: 4000, bytes: BATCH_BYTES },
        stop: stop.clone(),
    };
    let compare = || diff(&a, &b, &options);
    let mut found = persist(&stop, compare).await?;
    if let (Some(direction), false) = (typed.repair, found.equal) {
        print(&found, output);
        let (from, to) = match direction {
            Repair::AToB => (&a, &b),
            Repair::BToA => (&b, &a),
        };
        let fault = repair(from, to, &found, typed.force, &stop, output).await?;
        found = match persist(&stop, compare).await {
            Ok(found) => found,
            Err(e) => return ended(fault.unwrap_or(e), output),
        };
        output.line("after the repair:");
        if let Some(fault) = fault {
            output.document(&found);
            print(&found, output);
            return ended(fault, output);
        }
    }
    output.document(&found);
    print(&found, output);
    Ok(if found.equal { Outcome::Done } else { Outcome::Short })
}

/// Writes what differs; tables that only one side has are left alone. What went wrong after it had begun to write.
async fn repair(
    from: &Arc<dyn Database>,
    to: &Arc<dyn Database>,
    found: &Diff,
    force: bool,
    stop: &CancellationToken,
    output: &Output,
) -> Result<Option<Error>> {
    let claim = Claim::take(to, stop).await?;
    let plan = claim.persist(|| repair_plan(from.as_ref(), to.as_ref(), found)).await?;
    let Some(plan) = plan else { return Ok(None) };
    let progress = Progress::new(plan.tables.iter().map(|t| (t.source.name.to_string(), t.rows)));
    let watch = output.watch(&progress);
    let options = RunOptions {
        concurrency: 4,
        limits: BatchLimits { rows: 1000, bytes: BATCH_BYTES },
        force,
        schema_only: false,
        rejects: Arc::new(Rejects::new("rowferry-rejects.jsonl".into())),
        stop: stop.clone(),
    };
    let rejects = options.rejects.clone();
    let report = run_plan(from, &claim, &plan, options, progress).await?;
    drop(watch);
    if let Some(first) = rejects.first() {
        let (count, path) = (rejects.count(), rejects.path().display());
        output.line(format!("{count} rows cannot stand at the other side; the first: {first}; they are in {path}"));
    }
    Ok(report.fault())
}

fn print(found: &Diff, output: &Output) {
    let mut rows = vec![["table", "rows a", "rows b", "differing"].map(str::to_owned).to_vec()];
    for t in &found.tables {
        let last = t.reason.clone().unwrap_or_else(|| t.differing.to_string());
        rows.push(vec![t.table.clone(), t.rows_a.to_string(), t.rows_b.to_string(), last]);
    }
    for line in columns(&rows) {
        output.line(line);
    }
    for table in &found.tables {
        for row in table.rows.iter().flatten() {
            let key = serde_json::Value::Object(row.key.clone());
            let columns = if row.columns.is_empty() { String::new() } else { format!(": {}", row.columns.join(", ")) };
            output.line(format!("  {} {} {key}{columns}", table.table, row.kind));
        }
    }
    output.line(if found.equal { "equal" } else { "they differ" });
}
