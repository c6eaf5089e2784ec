//! `rowferry demo`.

mod apart;
mod site;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::Outcome;
use super::args::DemoArgs;
use super::copy::{BATCH_BYTES, execute};
use super::output::Output;
use crate::apply::Rejects;
use crate::diff::{Diff, DiffOptions, diff_at_hand, repair_plan};
use crate::engine::{Database, Error, ErrorKind, Result, WriteOptions};
use crate::model::BatchLimits;
use crate::pipeline::{Claim, LocalEndpoint, PlanOptions, RunOptions, plan};
use crate::sample;

/// Two databases, a copy, changes on both sides, the difference, the repair; then two sites that write at once.
pub(crate) async fn run(demo: &DemoArgs, output: &Output, stop: CancellationToken) -> Result<Outcome> {
    let (dir, temporary) = folder(demo)?;
    let result = tell(demo, &dir, output, stop).await;
    if temporary {
        let _ = std::fs::remove_dir_all(&dir);
    }
    result
}

fn folder(demo: &DemoArgs) -> Result<(PathBuf, bool)> {
    let dir =
        demo.dir.clone().unwrap_or_else(|| std::env::temp_dir().join(format!("rowferry-demo-{}", std::process::id())));
    std::fs::create_dir_all(&dir)
        .map_err(|e| Error::new(ErrorKind::Denied, format!("the folder {} cannot be made: {e}", dir.display())))?;
    for name in ["head-office.db", "branch.db", "demo-state.db", "branch-state.db"] {
        if dir.join(name).exists() {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("{} exists already; the demo needs a folder without it", dir.join(name).display()),
            ));
        }
    }
    Ok((dir, demo.dir.is_none()))
}

async fn tell(demo: &DemoArgs, dir: &Path, output: &Output, stop: CancellationToken) -> Result<Outcome> {
    let started = Instant::now();
    output.news(format!("1. A shop's database of some thirty tables: {}", dir.join("head-office.db").display()));
    let office = apart::file(dir, "head-office.db").await?;
    fill(office.as_ref(), u64::from(demo.scale)).await?;

    output.news("");
    output.news("2. rowferry copy head-office branch: tables, keys, indexes, foreign keys, rows");
    let branch = apart::file(dir, "branch.db").await?;
    copy(&office, &branch, dir, output, &stop).await?;

    output.news("");
    output.news("3. Someone changes rows on both sides:");
    for (name, database, changes) in [("head office", &office, OFFICE), ("branch", &branch, BRANCH)] {
        for sql in changes {
            output.news(format!("   {name}: {sql}"));
        }
        write(database.as_ref(), changes.iter().map(|s| (*s).to_owned())).await?;
    }

    output.news("");
    output.news("4. rowferry diff head-office branch --rows");
    let found = compare(&office, &branch, &stop).await?;
    print(&found, output);

    output.news("");
    output.news("5. rowferry diff head-office branch --repair a-to-b: only those rows are written");
    let ends = (LocalEndpoint::new(&office, &stop), LocalEndpoint::new(&branch, &stop));
    if let Some(plan) = repair_plan(&ends.0, &ends.1, &found).await? {
        execute_quietly(&office, &branch, &plan, dir, &stop).await?;
    }

    output.news("");
    output.news(format!(
        "6. Each site's node: a bidirectional sync of customers and products over HTTP, for {} seconds, while both write:",
        demo.seconds
    ));
    let story = apart::tell((dir, &demo.listen), (&office, &branch), demo.seconds, output, &stop).await?;
    let after = compare(&office, &branch, &stop).await?;
    let rows: u64 = after.tables.iter().map(|t| t.rows_a).sum();
    let seconds = started.elapsed().as_secs_f64();
    output.news("");
    output.news(format!(
        "Head office wrote {} times, the branch {} times; {:.1} s of that it was offline.",
        story.writes[0],
        story.writes[1],
        story.offline.as_secs_f64()
    ));
    output.news(format!(
        "{} changes were brought over. {} conflicts: head office won {}, the branch {}; each is recorded with both rows.",
        story.changes, story.conflicts, story.won[0], story.won[1]
    ));
    let say = |text: String| if after.equal { output.news(text) } else { output.line(text) };
    say(format!(
        "{}: {} tables, {rows} rows compared on both sides, {seconds:.1} s in all",
        if after.equal { "Both databases are equal" } else { "The databases still differ" },
        after.tables.len()
    ));
    output.document(&serde_json::json!({ "status": if after.equal { "succeeded" } else { "failed" },
        "equal": after.equal, "rows": rows, "differed": found.tables.iter().map(|t| t.differing).sum::<u64>(),
        "writes": { "head_office": story.writes[0], "branch": story.writes[1] }, "changes": story.changes,
        "conflicts": story.conflicts, "seconds": seconds }));
    Ok(if after.equal { Outcome::Done } else { Outcome::Short })
}

const OFFICE: &[&str] = &[
    "UPDATE products SET price = price + 1 WHERE id BETWEEN 3 AND 5",
    "UPDATE categories SET name = 'Neuheiten ✨' WHERE id = 2",
];
const BRANCH: &[&str] =
    &["DELETE FROM order_items WHERE order_id = 7", "UPDATE customers SET name = 'Ada' WHERE id = 11"];

async fn fill(database: &dyn Database, scale: u64) -> Result<()> {
    write(database, std::iter::once(sample::shop_schema().to_owned()).chain(sample::rows(scale, 1))).await
}

async fn write(database: &dyn Database, statements: impl Iterator<Item = String>) -> Result<()> {
    let mut target = database.target().await?;
    target.begin(WriteOptions::default()).await?;
    for sql in statements {
        target.execute(&sql).await?;
    }
    target.commit().await
}

async fn copy(
    from: &Arc<dyn Database>,
    to: &Arc<dyn Database>,
    dir: &Path,
    output: &Output,
    stop: &CancellationToken,
) -> Result<()> {
    let options = PlanOptions { create: true, count: true, ..PlanOptions::default() };
    let plan = plan(from.as_ref(), to.as_ref(), &options).await?;
    let rows: u64 = plan.tables.iter().map(|table| table.rows).sum();
    execute_quietly(from, to, &plan, dir, stop).await?;
    output.news(format!("   {} tables, {rows} rows", plan.tables.len()));
    Ok(())
}

/// Runs a plan without a word; the demo has its own.
async fn execute_quietly(
    from: &Arc<dyn Database>,
    to: &Arc<dyn Database>,
    plan: &crate::pipeline::Plan,
    dir: &Path,
    stop: &CancellationToken,
) -> Result<()> {
    let options = RunOptions {
        concurrency: 1,
        limits: BatchLimits { rows: 1000, bytes: BATCH_BYTES },
        force: false,
        schema_only: false,
        rejects: Arc::new(Rejects::new(dir.join("rejects.jsonl"))),
        stop: stop.clone(),
    };
    let claim = Claim::take(to, stop).await?;
    match execute(from, &claim, plan, options, &Output::silent()).await? {
        Outcome::Done => Ok(()),
        Outcome::Short | Outcome::Failed(_) => {
            Err(Error::new(ErrorKind::BadData, "a row of the demo could not be written"))
        }
    }
}

async fn compare(a: &Arc<dyn Database>, b: &Arc<dyn Database>, stop: &CancellationToken) -> Result<Diff> {
    let limits = BatchLimits { rows: 4000, bytes: BATCH_BYTES };
    let options = DiffOptions { tables: Vec::new(), exclude: Vec::new(), rows: true, limits, stop: stop.clone() };
    diff_at_hand(a, b, &options).await
}

fn print(found: &Diff, output: &Output) {
    for table in found.tables.iter().filter(|t| !t.equal) {
        for row in table.rows.iter().flatten() {
            let key = serde_json::Value::Object(row.key.clone());
            output.news(format!("   {}: {} {key} {}", table.table, row.kind, row.columns.join(", ")));
        }
    }
}
