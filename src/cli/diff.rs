//! `rowferry diff`.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::args::{Args, DiffArgs, Repair, patterns};
use super::copy::{BATCH_BYTES, watched};
use super::output::{Output, columns, failure};
use super::{Outcome, connect, ended};
use crate::apply::Rejects;
use crate::diff::{Diff, DiffOptions, diff, repair_plan};
use crate::engine::Result;
use crate::model::BatchLimits;
use crate::pipeline::{Endpoint, Plan, Report, RunOptions, bring, persist};

pub(crate) async fn run(args: &Args, typed: &DiffArgs, output: &Output, stop: CancellationToken) -> Result<Outcome> {
    let a = connect::endpoint(args, &typed.a, &stop).await?;
    let b = connect::endpoint(args, &typed.b, &stop).await?;
    let repaired = typed.repair.map(|repair| match repair {
        Repair::AToB => (a.as_ref(), b.as_ref()),
        Repair::BToA => (b.as_ref(), a.as_ref()),
    });
    let options = DiffOptions {
        tables: patterns(&typed.tables),
        exclude: patterns(&typed.exclude),
        rows: typed.rows,
        limits: BatchLimits { rows: 4000, bytes: BATCH_BYTES },
        stop: stop.clone(),
    };
    let compare = || diff(a.as_ref(), b.as_ref(), &options);
    let mut found = persist(&stop, compare).await?;
    let mut repair_told = None;
    if let (Some((from, to)), false) = (repaired, found.equal) {
        print(&found, output);
        let written = repair((from, to), &found, typed.force, &stop, output).await?;
        let fault = written.as_ref().and_then(Report::fault);
        let told = (json(&found), json(&written));
        found = match persist(&stop, compare).await {
            Ok(found) => found,
            Err(e) => {
                let fault = fault.unwrap_or(e);
                output.document(&with_repair(failure(fault.kind, fault.message()), Some(told)));
                return ended(fault, output);
            }
        };
        output.news("after the repair:");
        if let Some(fault) = fault {
            output.document(&with_repair(json(&found), Some(told)));
            print(&found, output);
            return ended(fault, output);
        }
        repair_told = Some(told);
    }
    output.document(&with_repair(json(&found), repair_told));
    print(&found, output);
    a.part().await;
    b.part().await;
    Ok(if found.equal { Outcome::Done } else { Outcome::Short })
}

fn json(value: &impl serde::Serialize) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// The document of what stands there now, or of why that is not known, with what differed before a repair and what that
/// has written.
fn with_repair(
    mut document: serde_json::Value,
    repair: Option<(serde_json::Value, serde_json::Value)>,
) -> serde_json::Value {
    if let Some((before, written)) = repair {
        document["before"] = before;
        document["written"] = written;
    }
    document
}

/// Writes what differs; tables that only one side has are left alone. What became of it, where there was something to write.
async fn repair(
    (from, to): (&dyn Endpoint, &dyn Endpoint),
    found: &Diff,
    force: bool,
    stop: &CancellationToken,
    output: &Output,
) -> Result<Option<Report>> {
    let options = RunOptions {
        concurrency: 4,
        limits: BatchLimits { rows: 1000, bytes: BATCH_BYTES },
        force,
        schema_only: false,
        rejects: Arc::new(Rejects::new("rowferry-rejects.jsonl".into()).between(from.label(), to.label())),
        stop: stop.clone(),
    };
    let (rejects, mut watch) = (options.rejects.clone(), None);
    let begin = |plan: &Plan| watched(plan, output, &mut watch);
    let Some(report) = bring((from, to), options, |_| repair_plan(from, to, found), begin).await? else {
        return Ok(None);
    };
    drop(watch);
    if let Some(first) = rejects.first() {
        let (count, path) = (rejects.count(), rejects.path().display());
        let rows = if count == 1 { "row" } else { "rows" };
        output.line(format!("{count} {rows} cannot stand at the other side; the first: {first}; they are in {path}"));
    }
    Ok(Some(report))
}

fn print(found: &Diff, output: &Output) {
    let mut rows = vec![["table", "rows a", "rows b", "differing"].map(str::to_owned).to_vec()];
    for t in &found.tables {
        let last = t.reason.clone().unwrap_or_else(|| t.differing.to_string());
        rows.push(vec![t.table.clone(), t.rows_a.to_string(), t.rows_b.to_string(), last]);
    }
    for line in columns(&rows) {
        output.news(line);
    }
    for table in &found.tables {
        for column in &table.columns {
            let half = if column.kind == "only_a" { "A" } else { "B" };
            output.line(format!("  {}: only {half} has column {}", table.table, column.name));
        }
        for note in &table.notes {
            output.news(format!("  {}: {note}", table.table));
        }
        for row in table.rows.iter().flatten() {
            let key = serde_json::Value::Object(row.key.clone());
            let columns = if row.columns.is_empty() { String::new() } else { format!(": {}", row.columns.join(", ")) };
            output.news(format!("  {} {} {key}{columns}", table.table, row.kind));
        }
    }
    output.news(if found.equal { "equal" } else { "they differ" });
}
