//! The engine in memory under the pipeline: what is copied through it comes out equal.

use std::sync::Arc;

use rowferry::apply::Rejects;
use rowferry::diff::{DiffOptions, diff_at_hand};
use rowferry::engine::memory::Memory;
use rowferry::engine::{Database, ErrorKind, OpenOptions, RowLock, Target, WriteMode, WriteOptions, open};
use rowferry::model::{Batch, BatchLimits, TableName};
use rowferry::pipeline::{Claim, Mode, PlanOptions, Progress, Report, RunOptions, plan, run};
use rowferry::sample;
use tokio_util::sync::CancellationToken;

use super::subject::{Made, Subject, kind, note, plain};
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
    let (none, stop) = (Vec::new(), CancellationToken::new());
    let options = DiffOptions { tables: none.clone(), exclude: none, rows: true, limits: LIMITS, stop };
    let found = diff_at_hand(a, b, &options).await.expect("a diff");
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

/// Key 1 stands; key 2 is being inserted by one transaction, and key 1 updated.
async fn two_rows(s: &Subject) -> (Made, Box<dyn Target>) {
    let made = s.make(&plain("t")).await;
    s.write(WriteMode::Insert, &made, &[note(1, "first")]).await.expect("written");
    let mut first = s.begun().await;
    first.write(WriteMode::Update, &made.batch(&[note(1, "second")])).await.expect("written");
    first.write(WriteMode::Insert, &made.batch(&[note(2, "second")])).await.expect("written");
    (made, first)
}

#[tokio::test]
async fn a_writer_waits_for_whoever_holds_its_row() {
    let s = Subject::in_memory("a");
    let (made, mut first) = two_rows(&s).await;
    let second = async {
        let mut second = s.begun().await;
        second.write(WriteMode::Insert, &made.batch(&[note(3, "beside")])).await.expect("nobody is in its way");
        let written = second.write(WriteMode::Update, &made.batch(&[note(1, "third")])).await.expect("written");
        second.commit().await.expect("committed");
        written
    };
    let commit = async { first.commit().await.expect("committed") };
    // The second is polled first, and has to wait; then it writes over what the first has written.
    assert_eq!(tokio::join!(biased; second, commit).0, 1);
    assert_eq!(s.rows(&made).await, made.expected(&[note(1, "third"), note(2, "second"), note(3, "beside")]));
}

#[tokio::test]
async fn a_key_that_another_takes_or_gives_away_is_waited_for() {
    let s = Subject::in_memory("a");
    let (made, mut first) = two_rows(&s).await;
    let second = async { s.write(WriteMode::Insert, &made, &[note(2, "third")]).await };
    let commit = async { first.commit().await.expect("committed") };
    let (refused, ()) = tokio::join!(biased; second, commit);
    assert_eq!(kind(refused), Some(ErrorKind::Constraint), "the other stays");
    let mut first = s.begun().await;
    first.write(WriteMode::Delete, &made.batch(&[note(2, "second")])).await.expect("written");
    let second = async { s.write(WriteMode::Insert, &made, &[note(2, "third")]).await };
    let commit = async { first.commit().await.expect("committed") };
    assert_eq!(tokio::join!(biased; second, commit).0.expect("written"), 1);
    assert_eq!(s.rows(&made).await, made.expected(&[note(1, "second"), note(2, "third")]));
}

#[tokio::test]
async fn held_rows_are_left_out_and_a_statement_sees_what_was_committed_before_it() {
    let s = Subject::in_memory("a");
    let (made, mut first) = two_rows(&s).await;
    let mut second = s.begun().await;
    let mut point = s.db.target().await.expect("a connection");
    point.begin(WriteOptions { point: true, ..WriteOptions::default() }).await.expect("it begins");
    let keys = made.batch(&[note(1, ""), note(2, "")]);
    let keys = Batch::new(Arc::new(made.table.project(&[0])), vec![keys.columns()[0].clone()]);
    assert_eq!(second.lookup(&made.table, &keys, RowLock::SkipHeld).await.expect("read").rows(), 0);
    let before = second.lookup(&made.table, &keys, RowLock::None).await.expect("read");
    assert_eq!(made.shown(&before), made.expected(&[note(1, "first")]));
    first.commit().await.expect("committed");
    let after = second.lookup(&made.table, &keys, RowLock::SkipHeld).await.expect("read");
    assert_eq!(made.shown(&after), made.expected(&[note(1, "second"), note(2, "second")]));
    let still = point.lookup(&made.table, &keys, RowLock::None).await.expect("read");
    assert_eq!(made.shown(&still), made.expected(&[note(1, "first")]));
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_who_waits_for_him_is_refused_and_nobody_waits_for_ever() {
    let s = Subject::in_memory("a");
    let (made, mut first) = two_rows(&s).await;
    let mut second = s.begun().await;
    second.write(WriteMode::Insert, &made.batch(&[note(3, "x")])).await.expect("written");
    let (two, three) = (made.batch(&[note(2, "y")]), made.batch(&[note(3, "y")]));
    let (waits, closes) =
        tokio::join!(biased; first.write(WriteMode::Insert, &three), second.write(WriteMode::Insert, &two));
    assert_eq!(kind(closes), Some(ErrorKind::Busy));
    // The other still holds what it wrote until it is rolled back.
    assert_eq!(kind(waits), Some(ErrorKind::Busy));
    second.rollback().await.expect("rolled back");
    first.rollback().await.expect("rolled back");
    assert_eq!(s.rows(&made).await, made.expected(&[note(1, "first")]));
}
