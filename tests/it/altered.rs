//! Tables whose columns change while they are synced: what can go on does, what cannot waits with its reason, and nothing
//! is lost meanwhile.

use std::time::{Duration, Instant};

use crate::support::{
    Engine, Output, RING, Sites, TestDb, assert_equal, node, program, rowferry_in, rows, some, threes,
};

/// Two databases with tables `t` and `other`, in step.
struct Two {
    a: TestDb,
    b: TestDb,
    folder: tempfile::TempDir,
}

impl Two {
    fn new(a: Engine, b: Engine, direction: &str) -> Self {
        Self::with(a, b, &format!("direction: {direction}"))
    }

    fn with(a: Engine, b: Engine, terms: &str) -> Self {
        let (a, b) = (TestDb::new(a), TestDb::new(b));
        for db in [&a, &b] {
            db.execute(
                "CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, note VARCHAR(40), n INTEGER);
                 CREATE TABLE other (id INTEGER NOT NULL PRIMARY KEY, note VARCHAR(40))",
            );
        }
        // Older than capture, and known by a version.
        a.execute("INSERT INTO t VALUES (1, 'old', 1), (2, 'old', 2), (3, 'old', 3)");
        let folder = tempfile::tempdir().expect("a folder");
        let text = format!(
            "node: test\ndatabases:\n  a: {{ url: \"{}\" }}\n  b: {{ url: \"{}\" }}\nsyncs:\n  \
             s: {{ source: a, target: b, {terms}, tables: [t, other] }}\n",
            a.url(),
            b.url()
        );
        std::fs::write(folder.path().join("rowferry.yaml"), text).expect("written");
        let two = Self { a, b, folder };
        two.synced();
        two.a.execute("INSERT INTO t VALUES (5, 'known', 5), (6, 'known', 6)");
        two.synced();
        two.assert_equal();
        two
    }

    fn run(&self, arguments: &[&str]) -> Output {
        rowferry_in(self.folder.path(), arguments)
    }

    /// Rows that a run has written.
    #[track_caller]
    fn synced(&self) -> u64 {
        let output = self.run(&["sync", "--format", "json"]);
        assert_eq!(output.code, 0, "{:?} {:?}: {output:?}", self.a.engine(), self.b.engine());
        let written = |table: &serde_json::Value| {
            ["inserted", "updated", "deleted"].iter().filter_map(|what| table[what].as_u64()).sum::<u64>()
        };
        output.json()[0]["tables"].as_array().expect("tables").iter().map(written).sum()
    }

    /// A run in which `t` waits, for a reason that has these words, and the other table goes on.
    #[track_caller]
    fn waits(&self, words: &[&str]) {
        let next = 1 + self.a.value("SELECT count(*) FROM other").parse::<u64>().expect("a number");
        self.a.execute(&format!("INSERT INTO other VALUES ({next}, 'goes on')"));
        let output = self.run(&["sync"]);
        assert_eq!(output.code, 1, "{:?} {:?}: {output:?}", self.a.engine(), self.b.engine());
        for word in words {
            assert!(output.stderr.contains(word), "{word}: {output:?}");
        }
        assert_eq!(output.stderr.matches("table t: ").count(), 1, "one reason: {output:?}");
        assert_eq!(self.b.value("SELECT max(id) FROM other"), next.to_string(), "{output:?}");
    }

    #[track_caller]
    fn assert_equal(&self) {
        assert_equal(&self.a, &self.b);
    }

    #[track_caller]
    fn no_conflicts(&self) {
        let records = self.run(&["conflicts", "list", "--format", "json"]).json();
        assert_eq!(records, serde_json::json!([]), "{:?} {:?}", self.a.engine(), self.b.engine());
    }
}

/// The engine in question at one end, SQLite at the other, each way round.
fn pairs() -> impl Iterator<Item = (Engine, Engine)> {
    Engine::available().into_iter().flat_map(|engine| [(engine, Engine::Sqlite), (Engine::Sqlite, engine)])
}

/// Each of these with each of the pairs.
fn each<T: Clone>(cases: impl IntoIterator<Item = T>) -> Vec<((Engine, Engine), T)> {
    let cases: Vec<T> = cases.into_iter().collect();
    pairs().flat_map(|pair| cases.clone().into_iter().map(move |case| (pair, case))).collect()
}

/// The versions of the rows of `t`.
fn versions(db: &TestDb) -> Vec<Vec<Option<String>>> {
    let hex = match db.engine() {
        Engine::Postgres => "encode(_rowferry_version, 'hex')",
        _ => "hex(_rowferry_version)",
    };
    let n = db.value("SELECT n FROM _rowferry_tables WHERE table_name = 't'");
    db.query(&format!("SELECT id, {hex} FROM _rowferry_versions_{n} ORDER BY id"))
}

#[test]
fn a_column_that_may_be_null_sends_no_rows_and_is_synced_once_both_ends_have_it() {
    for ((one, other), direction) in some(5, each(["push", "bidirectional"])) {
        let two = Two::new(one, other, direction);
        let before = versions(&two.a);
        two.a.execute("ALTER TABLE t ADD COLUMN nick VARCHAR(20)");
        let output = two.run(&["sync"]);
        assert_eq!(output.code, 0, "{one:?} {other:?}: {output:?}");
        assert!(output.stderr.contains("column nick is left out until"), "{output:?}");
        assert_eq!(versions(&two.a), before, "{one:?} {other:?}: no row counts as written");
        let told = two.run(&["check"]).stdout;
        assert!(told.contains("column nick is left out until"), "{told}");
        two.a.execute("UPDATE t SET nick = 'A' WHERE id IN (1, 5)");
        two.synced();
        two.b.execute("ALTER TABLE t ADD COLUMN nick VARCHAR(20)");
        assert_eq!(two.synced(), 2, "{one:?} {other:?}: two rows hold something");
        two.assert_equal();
        assert_eq!(two.synced(), 0, "{one:?} {other:?}: it comes to rest");
        two.a.execute("UPDATE t SET nick = 'B' WHERE id IN (2, 6)");
        assert_eq!(two.synced(), 2, "{one:?} {other:?}");
        if direction == "bidirectional" {
            two.b.execute("UPDATE t SET nick = 'C' WHERE id IN (1, 3, 5)");
            assert_eq!(two.synced(), 3, "{one:?} {other:?}");
        }
        two.assert_equal();
        two.no_conflicts();
    }
}

#[test]
fn a_default_writes_no_row() {
    for (one, other) in some(4, pairs()) {
        let two = Two::new(one, other, "bidirectional");
        let before = [versions(&two.a), versions(&two.b)];
        two.a.execute("ALTER TABLE t ADD COLUMN state VARCHAR(10) DEFAULT 'new'");
        assert_eq!(two.synced(), 0, "{one:?} {other:?}");
        two.b.execute("ALTER TABLE t ADD COLUMN state VARCHAR(10) DEFAULT 'new'");
        assert_eq!(two.synced(), 0, "{one:?} {other:?}: equal rows are one");
        assert_eq!([versions(&two.a), versions(&two.b)], before, "{one:?} {other:?}");
        two.a.execute("UPDATE t SET state = 'a' WHERE id IN (1, 5)");
        two.b.execute("UPDATE t SET state = 'b' WHERE id IN (2, 6)");
        assert_eq!(two.synced(), 4, "{one:?} {other:?}");
        two.assert_equal();
        two.no_conflicts();

        // What a default gives to the rows of one end alone is brought to the other.
        two.a.execute("ALTER TABLE t ADD COLUMN kind VARCHAR(10) DEFAULT 'plain'");
        two.b.execute("ALTER TABLE t ADD COLUMN kind VARCHAR(10)");
        assert_eq!(two.synced(), 5, "{one:?} {other:?}");
        two.assert_equal();
        two.no_conflicts();
    }
}

/// Row 1 is older than capture, the others are known by a version. Both ends have columns `nick` and `mark` late, one of
/// them the first, the other the second, filled before the other end had it; then they write the same rows.
fn write_before_the_columns_meet(two: &Two, first: &TestDb, second: &TestDb) {
    first.execute("ALTER TABLE t ADD COLUMN nick VARCHAR(20)");
    first.execute("UPDATE t SET nick = 'first' WHERE id IN (1, 2, 5)");
    second.execute("ALTER TABLE t ADD COLUMN mark VARCHAR(20) DEFAULT 'none'");
    two.synced();
    second.execute("UPDATE t SET mark = 'second' WHERE id = 6");
    two.synced();
    second.execute("ALTER TABLE t ADD COLUMN nick VARCHAR(20)");
    first.execute("ALTER TABLE t ADD COLUMN mark VARCHAR(20) DEFAULT 'none'");
    second.execute("UPDATE t SET note = 'later' WHERE id IN (1, 5)");
    second.execute("UPDATE t SET nick = 'second' WHERE id IN (2, 3)");
    first.execute("UPDATE t SET note = 'later' WHERE id = 6");
}

const MET: [[&str; 4]; 5] = [
    ["1", "later", "first", "none"],
    ["2", "old", "second", "none"],
    ["3", "old", "second", "none"],
    ["5", "later", "first", "none"],
    ["6", "later", "NULL", "second"],
];

/// Nothing that stood in the columns is lost, and what both ends had filled is a conflict that the later write wins.
#[track_caller]
fn assert_met(two: &Two, told: &str) {
    let rows = two.a.query("SELECT id, note, nick, mark FROM t ORDER BY id");
    let rows: Vec<Vec<String>> =
        rows.into_iter().map(|row| row.into_iter().map(|v| v.unwrap_or("NULL".to_owned())).collect()).collect();
    assert_eq!(rows, MET, "{:?} {:?} {told}", two.a.engine(), two.b.engine());
    two.assert_equal();
    let records = two.run(&["conflicts", "list", "--format", "json"]).json();
    let records = records.as_array().expect("a list");
    let keys: Vec<String> = records.iter().map(|record| record["key"]["id"].to_string().replace('"', "")).collect();
    assert_eq!(keys, ["2"], "{:?} {:?} {told}", two.a.engine(), two.b.engine());
    let id = records[0]["id"].as_str().expect("an id");
    let shown = two.run(&["conflicts", "show", id, "--format", "json"]).stdout;
    assert!(shown.contains("\"first\"") && shown.contains("\"second\""), "{told}: both images: {shown}");
}

#[test]
fn what_stands_in_a_column_is_not_lost_to_a_write_of_the_end_that_gets_it_later() {
    let ways = ["last-write-wins", "merge-columns"].into_iter().flat_map(|p| [(p, false), (p, true)]);
    for ((one, other), (policy, turned)) in some(6, each(ways)) {
        let two = Two::with(one, other, &format!("direction: bidirectional, conflict: {policy}"));
        let (first, second) = if turned { (&two.b, &two.a) } else { (&two.a, &two.b) };
        write_before_the_columns_meet(&two, first, second);
        two.synced();
        assert_met(&two, policy);
        assert_eq!(two.synced(), 0, "{one:?} {other:?} {policy}: it comes to rest");
        second.execute("UPDATE t SET nick = NULL WHERE id = 1");
        assert_eq!(two.synced(), 1, "{one:?} {other:?} {policy}: from now on it is a column like any other");
        two.assert_equal();
    }
}

#[test]
fn a_run_that_dies_while_columns_meet_loses_nothing_of_them() {
    for ((one, other), point) in
        some(6, each(["fold-written", "fold-committed", "changes-written", "changes-committed"]))
    {
        let two = Two::new(one, other, "bidirectional");
        write_before_the_columns_meet(&two, &two.a, &two.b);
        let mut died = 0;
        loop {
            let name = format!("{point}:{}", died + 1);
            let run = program(two.folder.path(), &["sync"]).env("ROWFERRY_FAILPOINT", &name).output();
            match run.expect("the program").status.code() {
                None => died += 1,
                code => break assert_eq!(code, Some(0), "{one:?} {other:?} {name}"),
            }
            // What is written meanwhile knows of the other end's rows no more than those did.
            if died == 1 {
                two.b.execute("UPDATE t SET note = 'later' WHERE id = 5");
            }
        }
        assert!(died > 0, "{point} is never reached");
        assert_met(&two, point);
    }
}

#[test]
fn a_new_column_that_both_ends_have_filled_is_settled_by_the_policy() {
    for (policy, winner, open) in [("source-wins", "a", false), ("target-wins", "b", false), ("manual", "own", true)] {
        let engines = Engine::available();
        let two = Two::with(engines[0], Engine::Sqlite, &format!("direction: bidirectional, conflict: {policy}"));
        two.a.execute("ALTER TABLE t ADD COLUMN nick VARCHAR(20)");
        two.a.execute("UPDATE t SET nick = 'a' WHERE id IN (1, 5)");
        two.synced();
        two.b.execute("ALTER TABLE t ADD COLUMN nick VARCHAR(20)");
        two.b.execute("UPDATE t SET nick = 'b', note = 'b' WHERE id IN (1, 5)");
        assert_eq!(two.run(&["sync"]).code, i32::from(open), "{policy}");
        for (db, own) in [(&two.a, "a"), (&two.b, "b")] {
            let expected = if open { own } else { winner };
            for id in [1, 5] {
                assert_eq!(db.value(&format!("SELECT nick FROM t WHERE id = {id}")), expected, "{policy} {id}");
            }
        }
        let records = two.run(&["conflicts", "list", "--format", "json"]).json();
        let keys: std::collections::BTreeSet<String> =
            records.as_array().expect("a list").iter().map(|record| record["key"]["id"].to_string()).collect();
        assert_eq!(keys.len(), 2, "{policy}: {records}");
    }
}

#[test]
fn a_column_that_comes_to_a_chain_and_a_ring_end_by_end_loses_nothing() {
    // Who has the column first, who then, who last; whoever comes later writes the rows at once.
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 1, 0]];
    for (at, (order, engines)) in some(3, orders.into_iter().zip(threes().into_iter().cycle()).enumerate()) {
        let edges = if at % 2 == 0 { &RING[..2] } else { RING };
        let sites = Sites::new(&engines, edges, "tables: [t]");
        let twice = || {
            for _ in 0..2 {
                sites.sync(&[]);
            }
        };
        for db in &sites.dbs {
            db.execute("CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, note VARCHAR(40), n INTEGER)");
        }
        sites.dbs[0].execute("INSERT INTO t VALUES (1, 'old', 1), (2, 'old', 2)");
        sites.come_to_rest();
        let [first, then, last] = order.map(|at| &sites.dbs[at]);
        first.execute("INSERT INTO t VALUES (5, 'known', 5)");
        first.execute("ALTER TABLE t ADD COLUMN nick VARCHAR(20)");
        first.execute("UPDATE t SET nick = 'first' WHERE id IN (1, 5)");
        twice();
        then.execute("ALTER TABLE t ADD COLUMN nick VARCHAR(20)");
        then.execute("UPDATE t SET note = 'then' WHERE id IN (1, 5)");
        then.execute("UPDATE t SET nick = 'then' WHERE id = 2");
        twice();
        last.execute("ALTER TABLE t ADD COLUMN nick VARCHAR(20)");
        last.execute("UPDATE t SET n = 10 WHERE id IN (1, 2, 5)");
        sites.come_to_rest();
        let told = format!("{engines:?} {edges:?} {order:?}");
        let expected = "1 first then 10, 2 then old 10, 5 first then 10";
        assert_eq!(rows(&sites.dbs[0], "SELECT id, nick, note, n FROM t ORDER BY id"), expected, "{told}");
        assert_eq!(sites.conflicts(), Vec::<serde_json::Value>::new(), "{told}");
    }
}

/// What is written to a table that waits is there once it goes on.
#[track_caller]
fn write(two: &Two) {
    two.a.execute("UPDATE t SET n = n + 10 WHERE id IN (1, 5); DELETE FROM t WHERE id IN (2, 6)");
    two.a.execute("INSERT INTO t (id, n) VALUES (9, 9)");
}

#[test]
fn a_table_that_does_not_fit_waits_and_heals() {
    for (one, other) in some(4, pairs()) {
        let two = Two::new(one, other, "bidirectional");
        two.a.execute("ALTER TABLE t ADD COLUMN must INTEGER NOT NULL DEFAULT 4");
        write(&two);
        two.b.execute("UPDATE t SET note = 'meanwhile' WHERE id = 3");
        two.waits(&["has no column 'must'"]);
        two.waits(&["has no column 'must'"]);
        assert_eq!(two.b.value("SELECT count(*) FROM t"), "5", "{one:?} {other:?}: nothing is sent");
        two.b.execute("ALTER TABLE t ADD COLUMN must INTEGER NOT NULL DEFAULT 4");
        two.synced();
        two.assert_equal();
        assert_eq!(two.b.value("SELECT sum(n) FROM t"), (11 + 3 + 15 + 9).to_string());
        assert_eq!(two.a.value("SELECT note FROM t WHERE id = 3"), "meanwhile");
        two.no_conflicts();
    }
}

#[test]
fn a_column_that_was_dropped_where_rows_arrive_stops_its_table() {
    for ((one, other), direction) in some(5, each(["push", "bidirectional"])) {
        let two = Two::new(one, other, direction);
        two.b.execute("ALTER TABLE t DROP COLUMN note");
        write(&two);
        two.waits(&["column note was dropped"]);
        two.waits(&["column note was dropped"]);
        assert_eq!(two.b.value("SELECT count(*) FROM t"), "5", "{one:?} {other:?}");
        two.a.execute("ALTER TABLE t DROP COLUMN note");
        two.synced();
        two.assert_equal();
        two.no_conflicts();
        two.a.execute("UPDATE t SET n = 0 WHERE id = 3");
        assert_eq!(two.synced(), 1, "{one:?} {other:?}");
    }
}

#[test]
fn a_column_that_got_another_name_stops_its_table() {
    for (one, other) in some(4, pairs()) {
        let two = Two::new(one, other, "bidirectional");
        let rename = |db: &TestDb| match db.engine() {
            Engine::Mariadb => db.execute("ALTER TABLE t CHANGE note remark VARCHAR(40)"),
            _ => db.execute("ALTER TABLE t RENAME COLUMN note TO remark"),
        };
        rename(&two.a);
        two.a.execute("UPDATE t SET remark = 'renamed' WHERE id IN (1, 5)");
        two.waits(&["column note is gone", "remark is new"]);
        rename(&two.b);
        assert_eq!(two.synced(), 2, "{one:?} {other:?}");
        two.assert_equal();
        two.no_conflicts();
    }
}

#[test]
fn a_type_that_holds_other_values_stops_its_table() {
    for engine in Engine::available() {
        if engine == Engine::Sqlite {
            continue;
        }
        let two = Two::new(engine, Engine::Sqlite, "bidirectional");
        let (bytes, back) = match engine {
            Engine::Postgres => ("ALTER COLUMN n TYPE bytea USING NULL", "ALTER COLUMN n TYPE integer USING NULL"),
            _ => ("MODIFY n BLOB", "MODIFY n INTEGER"),
        };
        two.a.execute(&format!("ALTER TABLE t {bytes}"));
        two.a.execute("UPDATE t SET note = 'meanwhile' WHERE id IN (1, 5); DELETE FROM t WHERE id = 2");
        two.waits(&["t.n is"]);
        two.a.execute(&format!("ALTER TABLE t {back}"));
        two.a.execute("UPDATE t SET n = 100 + id");
        two.synced();
        two.assert_equal();
        two.no_conflicts();
    }
}

#[test]
fn a_key_column_that_got_another_name_is_captured_anew_and_nothing_is_lost() {
    for (one, other) in some(4, pairs()) {
        let two = Two::new(one, other, "bidirectional");
        let rename = |db: &TestDb| match db.engine() {
            Engine::Mariadb => db.execute("ALTER TABLE t CHANGE id code INTEGER NOT NULL"),
            _ => db.execute("ALTER TABLE t RENAME COLUMN id TO code"),
        };
        write(&two);
        rename(&two.a);
        assert_eq!(two.run(&["capture", "status"]).code, 1, "{one:?} {other:?}: it is told");
        two.waits(&["code"]);
        assert_eq!(two.run(&["capture", "status"]).code, 0, "{one:?} {other:?}");
        two.a.execute("UPDATE t SET note = 'under the new name' WHERE code IN (3, 5)");
        two.waits(&["code"]);
        rename(&two.b);
        two.synced();
        two.assert_equal();
        assert_eq!(two.b.value("SELECT count(*) FROM t"), "4", "{one:?} {other:?}: two went, one came");
        two.no_conflicts();
        two.b.execute("DELETE FROM t WHERE code = 9");
        two.synced();
        two.assert_equal();
    }
}

#[test]
fn a_key_of_a_wider_type_goes_on() {
    for engine in [Engine::Mariadb, Engine::Mysql] {
        if !Engine::available().contains(&engine) {
            continue;
        }
        let two = Two::new(engine, Engine::Sqlite, "bidirectional");
        write(&two);
        two.a.execute("ALTER TABLE t MODIFY id BIGINT NOT NULL");
        two.synced();
        two.assert_equal();
        two.a.execute("INSERT INTO t VALUES (3000000000, 'wide', 1)");
        two.synced();
        two.assert_equal();
        assert_eq!(two.b.value("SELECT note FROM t WHERE id = 3000000000"), "wide", "{engine:?}");
        two.no_conflicts();
    }
}

#[test]
fn a_sync_that_goes_on_takes_a_column_up() {
    for engine in Engine::available() {
        let two = Two::new(engine, Engine::Sqlite, "bidirectional");
        let config = std::fs::read_to_string(two.folder.path().join("rowferry.yaml")).expect("the config");
        let live = config.replace("tables: [t, other]", "tables: [t, other], every: live");
        let _node = node(two.folder.path(), &live.replace("node: test", "node: test\nlisten: 127.0.0.1:0"));
        let arrives = |sql: &str| {
            let limit = Instant::now() + Duration::from_mins(2);
            while two.b.attempt(sql).is_err() || two.b.value(sql) != "1" {
                assert!(Instant::now() < limit, "{engine:?}: {sql} does not come true");
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        two.a.execute("INSERT INTO t VALUES (10, 'first', 1)");
        arrives("SELECT count(*) FROM t WHERE id = 10");
        two.a.execute("ALTER TABLE t ADD COLUMN nick VARCHAR(20)");
        two.a.execute("UPDATE t SET nick = 'A' WHERE id = 1");
        two.a.execute("INSERT INTO t VALUES (11, 'second', 1, 'B')");
        arrives("SELECT count(*) FROM t WHERE id = 11");
        two.b.execute("ALTER TABLE t ADD COLUMN nick VARCHAR(20)");
        arrives("SELECT count(*) FROM t WHERE id = 1 AND nick = 'A'");
        arrives("SELECT count(*) FROM t WHERE id = 11 AND nick = 'B'");
        // One that does not fit holds up nothing else, and goes on once it fits.
        two.a.execute("ALTER TABLE t ADD COLUMN must INTEGER NOT NULL DEFAULT 0");
        two.a.execute("INSERT INTO t VALUES (12, 'third', 1, 'C', 7)");
        two.a.execute("INSERT INTO other VALUES (1, 'goes on')");
        arrives("SELECT count(*) FROM other");
        two.b.execute("ALTER TABLE t ADD COLUMN must INTEGER NOT NULL DEFAULT 0");
        arrives("SELECT count(*) FROM t WHERE id = 12 AND must = 7");
        two.no_conflicts();
    }
}

#[test]
fn a_peer_takes_a_column_up() {
    for engine in Engine::available() {
        let (near, far) = (TestDb::new(Engine::Sqlite), TestDb::new(engine));
        for db in [&near, &far] {
            db.execute("CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, note VARCHAR(40))");
        }
        far.execute("INSERT INTO t VALUES (1, 'old'), (2, 'old')");
        let (here, there) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let node = node(
            there.path(),
            &format!(
                "node: far\nlisten: 127.0.0.1:0\ndatabases:\n  main: {{ url: \"{}\" }}\napi:\n  keys:\n    \
                 - {{ name: near, key: canary-of-a-test, role: peer, tables: {{ main: [t] }} }}\n",
                far.url()
            ),
        );
        let config = format!(
            "node: near\ndatabases:\n  app: {{ url: \"{}\" }}\npeers:\n  far: {{ url: \"http://{}\", api_key: \
             canary-of-a-test }}\nsyncs:\n  s: {{ source: app, target: far, direction: bidirectional, tables: [t] }}\n",
            near.url(),
            node.address
        );
        std::fs::write(here.path().join("rowferry.yaml"), config).expect("written");
        let sync = |code: i32| {
            let output = rowferry_in(here.path(), &["sync"]);
            assert_eq!(output.code, code, "{engine:?}: {output:?}");
            output.stderr
        };
        sync(0);
        far.execute("ALTER TABLE t ADD COLUMN nick VARCHAR(20)");
        far.execute("UPDATE t SET nick = 'far' WHERE id = 1");
        assert!(sync(0).contains("column nick is left out until"), "{engine:?}");
        near.execute("ALTER TABLE t ADD COLUMN nick VARCHAR(20)");
        near.execute("UPDATE t SET note = 'near' WHERE id = 1");
        sync(0);
        assert_equal(&near, &far);
        assert_eq!(near.value("SELECT nick FROM t WHERE id = 1"), "far", "{engine:?}");
        assert_eq!(far.value("SELECT note FROM t WHERE id = 1"), "near", "{engine:?}");
        near.execute("ALTER TABLE t ADD COLUMN must INTEGER NOT NULL DEFAULT 1");
        assert!(sync(1).contains("has no column 'must'"), "{engine:?}");
    }
}
