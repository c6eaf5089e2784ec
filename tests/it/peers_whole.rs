//! Full and mirror syncs with a peer, and `diff --repair` towards one: the target ends as the source is, whatever lies
//! between, and who reads there sees one or the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Engine, Fault, Node, Output, TestDb, Wire, assert_equal, node, rowferry_in, some};

const KEY: &str = "canary-of-the-laptop";
const ALL: &str = "tables: { main: [customers, orders, notes] }";
const TABLES: &str = "tables: [customers, orders, notes]";

/// A database here, one at a node; the key that opens that one, and a sync with it.
struct Two {
    here: tempfile::TempDir,
    _there: tempfile::TempDir,
    laptop: TestDb,
    office: TestDb,
    node: Node,
}

impl Two {
    fn new((a, b): (Engine, Engine), key: &str) -> Self {
        let folder = || tempfile::tempdir().expect("a folder");
        let (here, there, laptop, office) = (folder(), folder(), TestDb::new(a), TestDb::new(b));
        for db in [&laptop, &office] {
            if db.engine() == Engine::Sqlite {
                // Nobody makes a file that is only read.
                db.execute("PRAGMA user_version = 1");
            }
        }
        let config = format!(
            "node: office\nlisten: 127.0.0.1:0\ndatabases:\n  main: {{ url: \"{}\" }}\napi:\n  keys:\n\
             \x20   - {{ name: laptop, key: {KEY}, role: peer, {key} }}\n",
            office.url()
        );
        let node = node(there.path(), &config);
        Self { here, _there: there, laptop, office, node }
    }

    fn config(&self, address: &str, sync: &str) {
        let text = format!(
            "node: laptop\ndatabases:\n  app: {{ url: \"{}\" }}\npeers:\n  office: {{ url: \"http://{address}\", \
             api_key: {KEY}, timeout: 10s }}\nsyncs:\n  shop: {{ source: app, target: office, {sync} }}\n",
            self.laptop.url()
        );
        std::fs::write(self.here.path().join("rowferry.yaml"), text).expect("the config");
    }

    fn means(&self, sync: &str) {
        self.config(&self.node.address, sync);
    }

    fn sync(&self, more: &[&str]) -> Output {
        rowferry_in(self.here.path(), &[&["--format", "json", "sync"], more].concat())
    }

    #[track_caller]
    fn synced(&self) -> Value {
        let output = self.sync(&[]);
        assert_eq!(output.code, 0, "{output:?}");
        output.json()[0].clone()
    }

    /// The end that sends, and the one that is written.
    fn ends(&self, direction: &str) -> (&TestDb, &TestDb) {
        if direction == "push" { (&self.laptop, &self.office) } else { (&self.office, &self.laptop) }
    }
}

fn tables(db: &TestDb) {
    let id = if db.engine() == Engine::Sqlite { "INTEGER" } else { "BIGINT" };
    db.execute(&format!(
        "CREATE TABLE customers (id {id} NOT NULL PRIMARY KEY, name VARCHAR(40), joined TIMESTAMP NULL);
         CREATE TABLE orders (id {id} NOT NULL PRIMARY KEY, customer {id} NOT NULL REFERENCES customers (id),
           total DECIMAL(12,2), note TEXT);
         CREATE TABLE notes (day DATE, note VARCHAR(40))"
    ));
}

fn some_rows(db: &TestDb) {
    db.execute(
        "INSERT INTO customers VALUES (1, 'Ada ☕', '2026-03-01 10:00:00'), (2, 'Grace', NULL), (3, 'Edsger', NULL);
         INSERT INTO orders VALUES (10, 1, 12.50, 'first'), (11, 2, NULL, ''), (12, 1, 0.10, NULL);
         INSERT INTO notes VALUES ('2026-03-01', 'once'), ('2026-03-02', 'twice'), ('2026-03-02', 'twice'), (NULL, NULL)",
    );
}

/// What was done to a table: inserted, updated, deleted.
fn done(report: &Value, table: &str) -> [u64; 3] {
    let found = report["tables"].as_array().and_then(|all| all.iter().find(|t| t["table"] == table)).expect("a table");
    ["inserted", "updated", "deleted"].map(|what| found[what].as_u64().expect("a number"))
}

/// Every engine next to another, on either side of the network; in an ordinary run three of these.
#[track_caller]
fn pairs() -> Vec<(Engine, Engine)> {
    let engines = Engine::available();
    let next = |(at, &engine): (usize, &Engine)| (engine, engines[(at + 1) % engines.len()]);
    some(3, engines.iter().enumerate().map(next).chain([(Engine::Sqlite, Engine::Sqlite)]))
}

#[test]
fn a_target_ends_as_its_source_and_only_what_differs_is_written() {
    for (ends, direction) in pairs().into_iter().flat_map(|ends| [(ends, "push"), (ends, "pull")]) {
        let two = Two::new(ends, ALL);
        let (from, to) = two.ends(direction);
        tables(from);
        some_rows(from);
        two.means(&format!("direction: {direction}, mode: full, {TABLES}"));
        // Missing tables are made, on either side.
        let first = two.synced();
        assert_eq!(done(&first, "customers"), [3, 0, 0], "{ends:?} {direction}: {first}");
        assert_eq!(done(&first, "notes"), [4, 0, 0], "{ends:?} {direction}: {first}");
        assert_equal(from, to);
        let change = |to: &TestDb| {
            to.execute(
                "UPDATE customers SET name = 'other' WHERE id = 1; DELETE FROM orders WHERE id = 12;
                 INSERT INTO customers VALUES (9, 'only here', NULL); INSERT INTO orders VALUES (19, 9, 1.00, NULL);
                 DELETE FROM notes WHERE note = 'once'; INSERT INTO notes VALUES (NULL, 'extra'), (NULL, 'extra')",
            );
        };
        change(to);
        let full = two.synced();
        assert_eq!(done(&full, "customers"), [0, 1, 0], "{ends:?} {direction}: {full}");
        assert_eq!(done(&full, "orders"), [1, 0, 0], "{ends:?} {direction}: {full}");
        assert_eq!(done(&full, "notes"), [1, 0, 0], "{ends:?} {direction}: {full}");
        assert_eq!(to.value("SELECT count(*) FROM customers"), "4", "what only the target has stays");
        two.means(&format!("direction: {direction}, mode: mirror, {TABLES}"));
        let mirror = two.synced();
        assert_eq!(done(&mirror, "orders"), [0, 0, 1], "{ends:?} {direction}: {mirror}");
        assert_eq!(done(&mirror, "notes"), [0, 0, 2], "{ends:?} {direction}: {mirror}");
        assert_equal(from, to);
        let again = two.synced();
        assert!(["customers", "orders", "notes"].iter().all(|t| done(&again, t) == [0, 0, 0]), "{again}");
        // The same by a repair: who is A and who is B says the command.
        change(to);
        let typed = match direction {
            "push" => ["diff", "app", "office/main", "--repair", "a-to-b"],
            _ => ["diff", "app", "office/main", "--repair", "b-to-a"],
        };
        let output = rowferry_in(two.here.path(), &[&typed[..], &["--format", "json"]].concat());
        assert_eq!(output.code, 0, "{ends:?} {direction}: {output:?}");
        assert_eq!(done(&output.json()["written"], "customers"), [0, 1, 1], "{ends:?} {direction}: {output:?}");
        assert_equal(from, to);
        assert_eq!([to.traces(), from.traces()].concat(), Vec::<String>::new(), "nothing of ours stays");
    }
}

#[test]
fn what_is_overwritten_where_writes_are_noted_goes_on_from_there() {
    for engine in Engine::available() {
        let two = Two::new((Engine::Sqlite, engine), ALL);
        tables(&two.laptop);
        some_rows(&two.laptop);
        tables(&two.office);
        some_rows(&two.office);
        // The office's rows go on to a third database as changes.
        let (beyond, third) = (tempfile::tempdir().expect("a folder"), TestDb::new(Engine::Sqlite));
        let config = format!(
            "databases:\n  main: {{ url: \"{}\" }}\n  third: {{ url: \"{}\" }}\nsyncs:\n  on: {{ source: main, target: \
             third, direction: push, tables: [customers, orders] }}\n",
            two.office.url(),
            third.url()
        );
        std::fs::write(beyond.path().join("rowferry.yaml"), config).expect("the config");
        let on = || {
            let output = rowferry_in(beyond.path(), &["--format", "json", "sync"]);
            assert_eq!(output.code, 0, "{engine:?}: {output:?}");
            output.json()[0].clone()
        };
        on();
        // A trigger of the application's has run where the rows were written first, and does not run again.
        let audited = engine == Engine::Sqlite;
        if audited {
            two.office.execute(
                "CREATE TABLE audit (what TEXT); CREATE TRIGGER audited AFTER UPDATE ON customers WHEN new.name <> ';'
                 BEGIN INSERT INTO audit VALUES (new.name); END -- of it",
            );
        }
        two.laptop.execute(
            "UPDATE customers SET name = 'new' WHERE id = 2; DELETE FROM orders WHERE id = 11;
             INSERT INTO customers VALUES (4, 'four', NULL)",
        );
        two.means("direction: push, mode: mirror, tables: [customers, orders]");
        two.synced();
        let report = on();
        assert_eq!(done(&report, "customers"), [1, 1, 0], "{engine:?}: {report}");
        assert_eq!(done(&report, "orders"), [0, 0, 1], "{engine:?}: {report}");
        assert_eq!(third.value("SELECT name FROM customers WHERE id = 2"), "new");
        if audited {
            assert_eq!(two.office.value("SELECT count(*) FROM audit"), "0");
            two.office.execute("UPDATE customers SET name = 'by the application' WHERE id = 1");
            assert_eq!(two.office.value("SELECT count(*) FROM audit"), "1", "it is there again");
        }
    }
}

#[test]
fn more_than_half_of_a_table_goes_only_when_it_is_meant() {
    for direction in ["push", "pull"] {
        let two = Two::new((Engine::Sqlite, Engine::Sqlite), ALL);
        let (from, to) = two.ends(direction);
        for db in [from, to] {
            tables(db);
            db.execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 150)
                 INSERT INTO customers SELECT i, 'c' || i, NULL FROM n;
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 150)
                 INSERT INTO notes SELECT NULL, 'n' || i FROM n",
            );
        }
        from.execute("DELETE FROM customers WHERE id > 70; DELETE FROM notes WHERE length(note) = 3");
        two.means(&format!("direction: {direction}, mode: mirror, tables: [customers, notes]"));
        let refused = two.sync(&[]);
        assert_eq!(refused.code, 1, "{direction}: {refused:?}");
        let told = refused.json()[0].clone();
        for (at, deleted) in [(0, 80), (1, 90)] {
            let why = told["tables"][at]["error"].as_str().expect("a sentence").to_owned();
            assert!(why.contains(&format!("delete {deleted} of the 150 rows")) && why.contains("--force"), "{why}");
        }
        assert_eq!(to.value("SELECT count(*) FROM customers"), "150", "{direction}");
        let forced = two.sync(&["--force"]);
        assert_eq!(forced.code, 0, "{direction}: {forced:?}");
        assert_equal(from, to);
    }
}

#[test]
fn who_reads_sees_the_table_as_it_was_or_as_it_is_to_be() {
    const ROWS: u32 = 3000;
    let two = Two::new((Engine::Sqlite, Engine::Sqlite), ALL);
    for (db, value) in [(&two.laptop, "new"), (&two.office, "old")] {
        tables(db);
        db.execute(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
             INSERT INTO customers SELECT i, '{value}', NULL FROM n"
        ));
    }
    let wire = Wire::new(&two.node.address);
    wire.plan(|_| Some(Fault::Late(Duration::from_millis(30))));
    two.config(&wire.address, "direction: push, mode: mirror, tables: [customers]");
    let over = Arc::new(AtomicBool::new(false));
    let watching = {
        let (over, url) = (over.clone(), two.office.url().trim_start_matches("sqlite:").to_owned());
        std::thread::spawn(move || {
            let reader = rusqlite::Connection::open(url).expect("the file");
            reader.busy_timeout(Duration::from_secs(20)).expect("a timeout");
            let (mut looks, mut seen) = (0, Vec::new());
            while !over.load(Ordering::Relaxed) {
                let sql = "SELECT count(*) || ' ' || min(name) || ' ' || max(name) FROM customers";
                seen.push(reader.query_row(sql, [], |row| row.get::<_, String>(0)).expect("an answer"));
                seen.dedup();
                looks += 1;
            }
            (looks, seen)
        })
    };
    two.synced();
    over.store(true, Ordering::Relaxed);
    let (looks, seen) = watching.join().expect("a reader");
    assert!(looks > 20, "{looks}");
    let whole = |value: &str| format!("{ROWS} {value} {value}");
    assert!(seen.iter().all(|state| [whole("old"), whole("new")].contains(state)), "{seen:?}");
    assert_equal(&two.laptop, &two.office);
}

#[test]
fn a_key_opens_its_tables_its_rows_and_its_direction_alone() {
    let sqlite = (Engine::Sqlite, Engine::Sqlite);
    for (key, direction, mode, why) in [
        ("tables: { main: [orders] }", "push", "mirror", "customers"),
        ("tables: { main: [orders] }", "pull", "mirror", "customers"),
        ("direction: pull, tables: { main: [customers] }", "push", "mirror", "key 'laptop'"),
        ("direction: push, tables: { main: [customers] }", "push", "full", "key 'laptop'"),
        ("direction: push, tables: { main: [customers] }", "pull", "mirror", "key 'laptop'"),
        (
            "tables: { main: [{ table: customers, where: \"id < 3\" }] }",
            "push",
            "full",
            "key 'laptop' opens only some rows",
        ),
        ("tables: { main: [{ table: customers, where: \"id < 3\" }] }", "pull", "mirror", "would delete all others"),
    ] {
        let two = Two::new(sqlite, key);
        for db in [&two.laptop, &two.office] {
            tables(db);
        }
        some_rows(&two.laptop);
        two.office.execute("INSERT INTO customers VALUES (1, 'canary', NULL), (7, 'canary', NULL)");
        two.means(&format!("direction: {direction}, mode: {mode}, tables: [customers]"));
        let (before, there) =
            (two.laptop.query("SELECT * FROM customers"), two.office.query("SELECT * FROM customers"));
        let refused = two.sync(&[]);
        assert!([1, 2].contains(&refused.code), "{key} {direction}: {refused:?}");
        assert!(refused.stderr.contains(why), "{key} {direction}: {refused:?}");
        assert!(!refused.stderr.contains(KEY), "{refused:?}");
        assert_eq!(two.laptop.query("SELECT * FROM customers"), before, "{key} {direction}");
        assert_eq!(two.office.query("SELECT * FROM customers"), there, "{key} {direction}");
    }
    // Rows that a key opens can be fetched, and where it is said that only those are meant, mirrored.
    let two = Two::new(sqlite, "tables: { main: [{ table: customers, where: \"id < 3\" }] }");
    tables(&two.laptop);
    tables(&two.office);
    some_rows(&two.office);
    two.laptop.execute("INSERT INTO customers VALUES (8, 'mine', NULL)");
    two.means("direction: pull, mode: full, tables: [customers]");
    assert_eq!(done(&two.synced(), "customers"), [2, 0, 0]);
    two.means("direction: pull, mode: mirror, tables: [{ source: customers, where: \"id < 3\" }]");
    assert_eq!(done(&two.synced(), "customers"), [0, 0, 1]);
    two.means("direction: pull, mode: full, tables: [{ source: customers, where: \"id < 4\" }]");
    assert!(two.sync(&[]).stderr.contains("condition"));
    // And a repair does not take what it cannot see for missing.
    two.laptop.execute("INSERT INTO customers VALUES (8, 'mine', NULL)");
    let repair = ["diff", "app", "office", "--tables", "customers", "--repair", "b-to-a"];
    let refused = rowferry_in(two.here.path(), &repair);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.stderr.contains("would delete all others"), "{refused:?}");
    assert_eq!(two.laptop.value("SELECT count(*) FROM customers"), "3");
}

#[test]
fn what_the_other_side_cannot_take_is_put_aside_with_its_reason() {
    for direction in ["push", "pull"] {
        for engine in Engine::available() {
            let ends = if direction == "push" { (Engine::Sqlite, engine) } else { (engine, Engine::Sqlite) };
            let two = Two::new(ends, "tables: { main: [t] }");
            let (from, to) = two.ends(direction);
            from.execute("CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, v VARCHAR(40), n INTEGER)");
            to.execute(
                "CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, v VARCHAR(40) NOT NULL, n INTEGER, CHECK (n < 100))",
            );
            from.execute("INSERT INTO t VALUES (1, 'good', 1), (2, NULL, 2), (3, 'bad', 300), (4, 'good', 4)");
            to.execute("INSERT INTO t VALUES (4, 'old', 3)");
            two.means(&format!("direction: {direction}, mode: mirror, tables: [t]"));
            let output = two.sync(&[]);
            assert_eq!(output.code, 1, "{ends:?} {direction}: {output:?}");
            assert_eq!(output.json()[0]["tables"][0]["quarantined"], json!(2), "{ends:?} {direction}: {output:?}");
            assert_eq!(to.query("SELECT id, v, n FROM t ORDER BY id").len(), 2, "{ends:?} {direction}");
            let told = std::fs::read_to_string(two.here.path().join("shop-rejects.jsonl")).expect("the rejects");
            let told: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
            assert_eq!(told.len(), 2, "{ends:?} {direction}: {told:?}");
            for (key, why) in [("2", "it must not be NULL"), ("3", "")] {
                let row = told.iter().find(|row| row["key"]["id"] == key).expect("the row");
                assert!(row["reason"].as_str().is_some_and(|said| !said.is_empty() && said.contains(why)), "{row}");
            }
            assert_eq!(two.sync(&[]).json()[0]["tables"][0]["quarantined"], json!(2), "said again, once");
            let lines = std::fs::read_to_string(two.here.path().join("shop-rejects.jsonl")).expect("the rejects");
            assert_eq!(lines.lines().count(), 2, "{lines}");
        }
    }
}

/// Every kind of fault, at exchanges all along a run.
#[test]
fn a_run_ends_equal_after_whatever_the_network_did() {
    let kinds = [
        Fault::RequestCut(40),
        Fault::RequestCut(400),
        Fault::AnswerCut(20),
        Fault::AnswerCut(250),
        Fault::Twice,
        Fault::Again,
        Fault::OldAnswer,
        Fault::Portal,
        Fault::Silence,
    ];
    for direction in ["push", "pull"] {
        let two = Two::new((Engine::Sqlite, Engine::Sqlite), ALL);
        let (from, to) = two.ends(direction);
        tables(from);
        some_rows(from);
        let wire = Wire::new(&two.node.address);
        two.config(&wire.address, &format!("direction: {direction}, mode: mirror, {TABLES}"));
        let path = two.here.path().join("rowferry.yaml");
        let text = std::fs::read_to_string(&path).expect("the config");
        std::fs::write(&path, text.replace("10s", "1s")).expect("the config");
        two.synced();
        let change = |round: usize| {
            from.execute(&format!(
                "UPDATE customers SET name = 'round {round}' WHERE id = 1; INSERT INTO notes VALUES (NULL, 'n{round}')"
            ));
            to.execute(&format!("INSERT INTO customers VALUES ({}, 'extra', NULL); DELETE FROM orders", 1000 + round));
        };
        change(0);
        wire.plan(|_| None);
        two.synced();
        let all = wire.exchanges();
        assert!(all > 8, "{all} exchanges");
        let step = if crate::support::long() { 1 } else { 12 };
        let mut round = 0;
        for (start, fault) in kinds.into_iter().enumerate() {
            for at in (1 + start % step..=all).step_by(step) {
                round += 1;
                change(round);
                wire.plan(move |number| (number == at).then_some(fault));
                let output = two.sync(&[]);
                assert!(matches!(output.code, 0 | 1 | 3), "{direction} {fault:?} at {at}: {output:?}");
                wire.plan(|_| None);
                two.synced();
                assert_equal(from, to);
            }
        }
    }
}

#[test]
fn a_first_fill_keeps_what_has_arrived() {
    const ROWS: u32 = 11_000;
    let two = Two::new((Engine::Sqlite, Engine::Sqlite), "tables: { main: [t] }");
    two.laptop.execute(&format!(
        "CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, v BLOB);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
         INSERT INTO t SELECT i, randomblob(4000) FROM n"
    ));
    let wire = Wire::new(&two.node.address);
    two.config(&wire.address, "direction: push, mode: full, tables: [t]");
    // The network goes when about two thirds are there.
    wire.plan(|number| (number > 24).then_some(Fault::Portal));
    let output = two.sync(&[]);
    assert_eq!(output.code, 3, "{output:?}");
    let there: u32 = two.office.value("SELECT count(*) FROM t").parse().expect("a number");
    assert!(there > 0 && there < ROWS, "{there}");
    wire.plan(|_| None);
    let report = two.synced();
    assert_eq!(done(&report, "t"), [u64::from(ROWS - there), 0, 0], "{report}");
    assert_equal(&two.laptop, &two.office);
}
