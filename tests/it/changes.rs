//! Changes move between two databases, both ways, and what was written at both is settled.

#![allow(clippy::unwrap_used, reason = "each function here is part of a test")]

use std::collections::BTreeMap;

use rowferry::engine::{OpenOptions, WriteMode, open};
use rowferry::model::BatchLimits;
use rowferry::pipeline::{Pair, PairOptions, PlanOptions, Preference, Report};
use tokio_util::sync::CancellationToken;

use crate::contract::subject::{Made, Subject, note, plain};
use crate::support::{Engine, TestDb, assert_equal, rowferry_in};

fn options() -> PairOptions {
    PairOptions {
        name: "test".to_owned(),
        plan: PlanOptions { tables: vec!["t".to_owned()], create: true, count: true, ..PlanOptions::default() },
        push: true,
        pull: true,
        conflict: Preference::Later,
        tables: BTreeMap::new(),
        first_run: Preference::Manual,
        limits: BatchLimits { rows: 3, bytes: 1 << 20 },
        full: false,
        stop: CancellationToken::new(),
    }
}

/// Two databases with one table, in step.
struct Two {
    a: Subject,
    b: Subject,
    t: Made,
    u: Made,
}

impl Two {
    async fn new(a: Subject, b: Subject, rows: &[(i64, &str)]) -> Self {
        let (t, u) = (a.make(&plain("t")).await, b.make(&plain("t")).await);
        let rows: Vec<_> = rows.iter().map(|(id, text)| note(*id, text)).collect();
        a.write(WriteMode::Insert, &t, &rows).await.unwrap();
        Self { a, b, t, u }
    }

    async fn sync(&self) -> Report {
        let mut pair = Pair::prepare(&self.a.db, &self.b.db, options()).await.unwrap();
        let report = pair.run().await.unwrap();
        assert_eq!(report.status, "succeeded", "{report:?}");
        report
    }

    async fn assert_both(&self, rows: &[(i64, &str)]) {
        let rows: Vec<_> = rows.iter().map(|(id, text)| note(*id, text)).collect();
        assert_eq!(self.a.rows(&self.t).await, self.t.expected(&rows), "at A");
        assert_eq!(self.b.rows(&self.u).await, self.u.expected(&rows), "at B");
    }
}

async fn changes_go_both_ways(a: Subject, b: Subject) {
    let pair = Two::new(a, b, &[(1, "one"), (2, "two"), (3, "three"), (4, "four")]).await;
    let first = pair.sync().await;
    assert_eq!(first.tables[0].inserted, 4, "{first:?}");
    pair.assert_both(&[(1, "one"), (2, "two"), (3, "three"), (4, "four")]).await;
    let again = pair.sync().await;
    let t = &again.tables[0];
    assert_eq!((t.inserted, t.updated, t.deleted), (0, 0, 0), "nothing is new: {again:?}");

    pair.a.write(WriteMode::Update, &pair.t, &[note(1, "eins")]).await.unwrap();
    pair.a.write(WriteMode::Delete, &pair.t, &[note(2, "two")]).await.unwrap();
    pair.b.write(WriteMode::Insert, &pair.u, &[note(5, "five")]).await.unwrap();
    pair.b.write(WriteMode::Update, &pair.u, &[note(3, "drei")]).await.unwrap();
    let report = pair.sync().await;
    let t = &report.tables[0];
    assert_eq!((t.inserted, t.updated, t.deleted, t.conflicts), (1, 2, 1, 0), "{report:?}");
    pair.assert_both(&[(1, "eins"), (3, "drei"), (4, "four"), (5, "five")]).await;
    for _ in 0..2 {
        let quiet = pair.sync().await;
        let t = &quiet.tables[0];
        assert_eq!((t.inserted, t.updated, t.deleted), (0, 0, 0), "an echo: {quiet:?}");
    }
}

async fn the_later_write_wins_and_the_conflict_is_recorded(a: Subject, b: Subject) {
    let pair = Two::new(a, b, &[(1, "one"), (2, "two")]).await;
    pair.sync().await;
    pair.a.write(WriteMode::Update, &pair.t, &[note(1, "at A"), note(2, "at A")]).await.unwrap();
    pair.b.later();
    pair.b.write(WriteMode::Update, &pair.u, &[note(1, "at B")]).await.unwrap();
    pair.b.write(WriteMode::Delete, &pair.u, &[note(2, "two")]).await.unwrap();
    let report = pair.sync().await;
    assert_eq!(report.tables[0].conflicts, 2, "{report:?}");
    // B was written last.
    pair.assert_both(&[(1, "at B")]).await;
    let again = pair.sync().await;
    assert_eq!((again.tables[0].conflicts, again.tables[0].updated), (0, 0), "{again:?}");
}

macro_rules! pairs {
    ($($clause:ident)*) => {
        mod memory {
            use crate::contract::subject::Subject;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $clause() {
                super::$clause(Subject::in_memory("a"), Subject::in_memory("b")).await;
            })*
        }
        pairs!(sqlite: Sqlite, Sqlite; $($clause)*);
        pairs!(postgres: Postgres, Postgres; $($clause)*);
        pairs!(mariadb: Mariadb, Mariadb; $($clause)*);
        pairs!(mysql: Mysql, Mysql; $($clause)*);
        pairs!(sqlite_postgres: Sqlite, Postgres; $($clause)*);
        pairs!(mariadb_sqlite: Mariadb, Sqlite; $($clause)*);
        pairs!(postgres_mariadb: Postgres, Mariadb; $($clause)*);
    };
    ($name:ident: $a:ident, $b:ident; $($clause:ident)*) => {
        mod $name {
            use crate::contract::subject::Subject;
            use crate::support::Engine;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $clause() {
                if let (Some(a), Some(b)) = (Subject::new(Engine::$a).await, Subject::new(Engine::$b).await) {
                    super::$clause(a, b).await;
                }
            })*
        }
    };
}

pairs! {
    changes_go_both_ways
    the_later_write_wins_and_the_conflict_is_recorded
}

/// The program, a config and two databases of each engine: what a user does.
#[test]
fn the_program_syncs_both_ways_and_says_what_it_did() {
    for engine in Engine::available() {
        let (laptop, office) = (TestDb::new(Engine::Sqlite), TestDb::new(engine));
        laptop.execute(
            "CREATE TABLE rider (id INTEGER PRIMARY KEY, name VARCHAR(40) NOT NULL, paid NUMERIC(10,2));
             CREATE TABLE trip (code VARCHAR(20) NOT NULL PRIMARY KEY, rider INTEGER NOT NULL REFERENCES rider (id));
             INSERT INTO rider VALUES (1, 'Ada', 10.50), (2, 'Bola', NULL);
             INSERT INTO trip VALUES ('a-1', 1), ('b-1', 2)",
        );
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "node: laptop\ndatabases:\n  laptop: {{ url: \"{}\" }}\n  office: {{ url: \"{}\" }}\nsyncs:\n  \
             riders: {{ source: laptop, target: office, direction: bidirectional, tables: [rider, trip] }}\n",
            laptop.url(),
            office.url()
        );
        std::fs::write(folder.path().join("rowferry.yaml"), config).unwrap();
        let sync = |expected: i32| {
            let output = rowferry_in(folder.path(), &["sync", "--format", "json"]);
            assert_eq!(output.code, expected, "{engine:?}: {}{}", output.stderr, output.stdout);
            output.json()[0].clone()
        };
        assert_eq!(sync(0)["tables"][0]["inserted"], 2);
        assert_equal(&laptop, &office);
        office.execute("UPDATE rider SET paid = 99.99 WHERE id = 2");
        office.execute("INSERT INTO trip VALUES ('b-2', 2)");
        laptop.execute("DELETE FROM trip WHERE code = 'a-1'; INSERT INTO rider VALUES (3, 'Chi', 1)");
        let report = sync(0);
        assert_eq!(report["sync"], "riders");
        assert_equal(&laptop, &office);
        assert_eq!(office.value("SELECT count(*) FROM trip"), "2");
        assert_eq!(laptop.value("SELECT paid FROM rider WHERE id = 2"), "99.99");
    }
}

#[test]
fn a_row_that_is_there_already_stays_under_keep_existing() {
    for engine in Engine::available() {
        let (from, to) = (TestDb::new(Engine::Sqlite), TestDb::new(engine));
        let table = "CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, note VARCHAR(20))";
        from.execute(&format!("{table}; INSERT INTO t VALUES (1, 'from'), (2, 'from')"));
        to.execute(&format!("{table}; INSERT INTO t VALUES (2, 'to'), (3, 'to')"));
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "node: test\ndatabases:\n  a: {{ url: \"{}\" }}\n  b: {{ url: \"{}\" }}\nsyncs:\n  \
             s: {{ source: a, target: b, direction: push, conflict: keep-existing, tables: [t] }}\n",
            from.url(),
            to.url()
        );
        std::fs::write(folder.path().join("rowferry.yaml"), config).unwrap();
        let sync = |expected: [&str; 4]| {
            let output = rowferry_in(folder.path(), &["sync"]);
            assert_eq!(output.code, 0, "{engine:?}: {}{}", output.stderr, output.stdout);
            let notes = (1..=4).map(|id| to.value(&format!("SELECT coalesce(max(note), '') FROM t WHERE id = {id}")));
            assert_eq!(notes.collect::<Vec<_>>(), expected, "{engine:?}");
        };
        sync(["from", "to", "to", ""]);
        // What both write stays as the target has it, also at the next write; what only the source writes arrives.
        to.execute("UPDATE t SET note = 'mine' WHERE id = 1");
        from.execute("UPDATE t SET note = 'again' WHERE id = 1; INSERT INTO t VALUES (4, 'new')");
        sync(["mine", "to", "to", "new"]);
        from.execute("UPDATE t SET note = 'newer' WHERE id IN (1, 4)");
        sync(["mine", "to", "to", "newer"]);
        let records = rowferry_in(folder.path(), &["conflicts", "list", "--format", "json"]).json();
        let kept =
            records.as_array().unwrap().iter().filter(|c| c["policy"] == "keep-existing" && c["winner"] == "target");
        assert_eq!(kept.count(), 2, "{engine:?}: {records}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_at_a_time_brings_two_databases_in_step() {
    for engine in Engine::available() {
        let (a, b) = (TestDb::new(Engine::Sqlite), TestDb::new(engine));
        a.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, note VARCHAR(20)); INSERT INTO t VALUES (1, 'x')");
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "node: test\ndatabases:\n  a: {{ url: \"{}\" }}\n  b: {{ url: \"{}\" }}\nsyncs:\n  \
             s: {{ source: a, target: b, direction: bidirectional, tables: [t] }}\n",
            a.url(),
            b.url()
        );
        std::fs::write(folder.path().join("rowferry.yaml"), config).unwrap();
        let (source, target) = (
            open(a.url(), &OpenOptions::default()).await.unwrap(),
            open(b.url(), &OpenOptions { create: true, ..OpenOptions::default() }).await.unwrap(),
        );
        let pair = Pair::prepare(&source, &target, options()).await.unwrap();
        let output = rowferry_in(folder.path(), &["sync"]);
        assert_eq!(output.code, 1, "{engine:?}: {}", output.stderr);
        assert!(output.stderr.contains("is bringing"), "{engine:?}: {}", output.stderr);
        drop(pair);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while rowferry_in(folder.path(), &["sync"]).code != 0 {
            assert!(std::time::Instant::now() < deadline, "the pair stays held on {engine:?}");
        }
        assert_equal(&a, &b);
    }
}

#[test]
fn a_ring_of_three_engines_converges_and_comes_to_rest() {
    let sites = [TestDb::new(Engine::Sqlite), TestDb::new(Engine::Postgres), TestDb::new(Engine::Mariadb)];
    sites[0].execute(
        "CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, note VARCHAR(40), n NUMERIC(10,2));
         WITH RECURSIVE k (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM k WHERE i < 60)
         INSERT INTO t SELECT i, 'row ' || i, i || '.25' FROM k",
    );
    let folder = tempfile::tempdir().unwrap();
    let mut config = "node: test\ndatabases:\n".to_owned();
    for (name, site) in ["a", "b", "c"].iter().zip(&sites) {
        config += &format!("  {name}: {{ url: \"{}\" }}\n", site.url());
    }
    config += "syncs:\n";
    for (from, to) in [("a", "b"), ("b", "c"), ("c", "a")] {
        config += &format!("  {from}{to}: {{ source: {from}, target: {to}, direction: bidirectional, tables: [t] }}\n");
    }
    std::fs::write(folder.path().join("rowferry.yaml"), config).unwrap();
    let sync = || {
        let output = rowferry_in(folder.path(), &["sync", "--format", "json"]);
        assert_eq!(output.code, 0, "{}{}", output.stderr, output.stdout);
        let written = |report: &serde_json::Value| {
            ["inserted", "updated", "deleted"]
                .iter()
                .map(|what| report["tables"][0][what].as_u64().unwrap())
                .sum::<u64>()
        };
        output.json().as_array().unwrap().iter().map(written).sum::<u64>()
    };
    assert_eq!(sync(), 120, "sixty rows for each of the others");
    for round in 1..=3 {
        for (at, site) in sites.iter().enumerate() {
            site.execute(&format!("UPDATE t SET note = 'at {at} in {round}' WHERE id % 7 = {at}"));
            site.execute(&format!("UPDATE t SET n = {round}{at} WHERE id % 10 = {round}"));
            site.execute(&format!("DELETE FROM t WHERE id = {}", round * 10 + at));
            site.execute(&format!("INSERT INTO t (id, note) VALUES ({}, 'new')", 100 * round + at));
        }
        assert!(sync() > 0);
        sync();
        for other in &sites[1..] {
            assert_equal(&sites[0], other);
        }
        assert_eq!(sync(), 0, "it comes to rest");
    }
    let conflicts = sites.iter().map(|s| s.value("SELECT count(*) FROM _rowferry_conflicts").parse::<u64>().unwrap());
    assert!(conflicts.sum::<u64>() > 0, "rows with id % 10 = round were written at all three");
}
