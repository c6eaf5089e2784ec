//! The engine in memory under the pipeline: what is copied through it comes out equal.

use std::sync::Arc;

use rowferry::apply::Rejects;
use rowferry::diff::{DiffOptions, diff};
use rowferry::engine::memory::Memory;
use rowferry::engine::{Database, OpenOptions, WriteMode, open};
use rowferry::model::{BatchLimits, TableName};
use rowferry::pipeline::{Claim, Mode, PlanOptions, Progress, Report, RunOptions, plan, run};
use rowferry::sample;
use tokio_util::sync::CancellationToken;

use super::subject::{Subject, note, plain};
use crate::support::{Engine, TestDb};

const LIMITS: BatchLimits = BatchLimits { rows: 500, bytes: 1 << 20 };

async fn copy(from: &Arc<dyn Database>, to: &Arc<dyn Database>, mode: Mode) -> Report {
    let options = PlanOptions { mode, create: true, count: true, ..PlanOptions::default() };
    let plan = plan(from.as_ref(), to.as_ref(), &options).await.expect("a plan");
    let folder = tempfile::tempdir().expect("a folder");
    let options = RunOptions {
        concurrency: 4,
        limits: LIMITS,
        force: false,
        schema_only: false,
        rejects: Arc::new(Rejects::new(folder.path().join("rejects.jsonl"))),
        stop: CancellationToken::new(),
    };
    let progress = Progress::new(plan.tables.iter().map(|t| (t.source.name.to_string(), t.rows)));
    let claim = Claim::take(to, &options.stop).await.expect("nobody else writes");
    run(from, &claim, &plan, options, progress).await.expect("a run")
}

async fn assert_equal(a: &Arc<dyn Database>, b: &Arc<dyn Database>, tables: usize) {
    let options = DiffOptions { tables: Vec::new(), rows: true, limits: LIMITS, stop: CancellationToken::new() };
    let found = diff(a, b, &options).await.expect("a diff");
    let unequal: Vec<_> = found.tables.iter().filter(|t| !t.equal).collect();
    assert!(found.equal, "{unequal:?}");
    assert_eq!(found.tables.len(), tables);
}

fn memory(name: &str) -> Arc<dyn Database> {
    Arc::new(Memory::new(name))
}

#[tokio::test]
async fn the_sample_goes_through_memory_and_comes_back_equal() {
    let shop = TestDb::new(Engine::Sqlite);
    let rows: Vec<String> = sample::rows(1, 3).collect();
    shop.execute(&format!("{}; BEGIN; {}; COMMIT", sample::shop_schema(), rows.join(";\n")));
    let back = TestDb::new(Engine::Sqlite);
    let shop = open(shop.url(), &OpenOptions { create: false, ..OpenOptions::default() }).await.expect("the shop");
    let back = open(back.url(), &OpenOptions { create: true, ..OpenOptions::default() }).await.expect("a new file");
    let (first, second) = (memory("first"), memory("second"));
    for (from, to) in [(&shop, &first), (&first, &second), (&second, &back)] {
        let report = copy(from, to, Mode::Full).await;
        assert_eq!((report.status, report.problems), ("succeeded", Vec::new()));
        let left = to.describe(&TableName::new("_rowferry_copy")).await.expect("it answers");
        assert_eq!(left, None, "nothing of ours is left");
        assert_equal(from, to, 33).await;
    }
    assert_equal(&shop, &back, 33).await;
}

#[tokio::test]
async fn a_mirror_in_memory_writes_what_differs() {
    let (a, b) = (Subject::in_memory("a"), Subject::in_memory("b"));
    for (side, rows) in [(&a, [note(1, "x"), note(2, "y")]), (&b, [note(2, "other"), note(3, "z")])] {
        let made = side.make(&plain("t")).await;
        side.write(WriteMode::Insert, &made, &rows).await.expect("written");
    }
    let report = copy(&a.db, &b.db, Mode::Mirror).await;
    let t = &report.tables[0];
    assert_eq!((t.inserted, t.updated, t.deleted), (1, 1, 1), "{report:?}");
    assert_equal(&a.db, &b.db, 1).await;
}

#[tokio::test]
async fn a_writer_waits_for_the_one_before() {
    let s = Subject::in_memory("a");
    let made = s.make(&plain("t")).await;
    let mut first = s.begun().await;
    first.write(WriteMode::Insert, &made.batch(&[note(1, "first")])).await.expect("written");
    let second = async { s.write(WriteMode::Insert, &made, &[note(2, "second")]).await.expect("written") };
    let commit = async { first.commit().await.expect("committed") };
    // The second is polled first, and has to wait; then it sees what the first has written.
    tokio::join!(biased; second, commit);
    assert_eq!(s.rows(&made).await, made.expected(&[note(1, "first"), note(2, "second")]));
}
