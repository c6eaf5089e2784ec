//! Nodes among each other: the real program on both sides, a real socket between them, a good one and a bad one.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Engine, Fault, Node, Output, TestDb, Wire, assert_equal, node, rowferry_in, wait};

const KEY: &str = "canary-of-the-laptop";

/// A node for a database, whose key opens these tables.
fn office(folder: &Path, db: &TestDb, key: &str) -> Node {
    if db.engine() == Engine::Sqlite {
        // A node makes no files.
        db.execute("PRAGMA user_version = 1");
    }
    node(
        folder,
        &format!(
            "node: office\nlisten: 127.0.0.1:0\ndatabases:\n  main: {{ url: \"{}\" }}\napi:\n  keys:\n\
             \x20   - {{ name: laptop, key: {KEY}, role: peer, {key} }}\n\
             \x20   - {{ name: boss, key: canary-of-the-boss, role: admin }}\n",
            db.url()
        ),
    )
}

/// Opens `orders` and its parent both ways.
const ALL: &str = "tables: { main: [customers, orders] }";

/// The other side's file: a sync with that node.
fn laptop(folder: &Path, db: &TestDb, address: &str, sync: &str) {
    let text = format!(
        "node: laptop\ndatabases:\n  app: {{ url: \"{}\" }}\npeers:\n  office: {{ url: \"http://{address}\", \
         api_key: {KEY}, timeout: 10s }}\nsyncs:\n  shop: {{ source: app, target: office, {sync} }}\n",
        db.url()
    );
    std::fs::write(folder.join("rowferry.yaml"), text).expect("the config");
}

const BOTH: &str = "direction: bidirectional, tables: [customers, orders]";

fn tables(db: &TestDb) {
    let id = if db.engine() == Engine::Sqlite { "INTEGER" } else { "BIGINT" };
    db.execute(&format!(
        "CREATE TABLE customers (id {id} NOT NULL PRIMARY KEY, name VARCHAR(40), joined TIMESTAMP NULL);
         CREATE TABLE orders (id {id} NOT NULL PRIMARY KEY, customer {id} NOT NULL REFERENCES customers (id),
           total DECIMAL(12,2), note TEXT)"
    ));
}

fn some_rows(db: &TestDb) {
    db.execute(
        "INSERT INTO customers VALUES (1, 'Ada ☕', '2026-03-01 10:00:00'), (2, 'Grace', NULL);
         INSERT INTO orders VALUES (10, 1, 12.50, 'first'), (11, 2, NULL, ''), (12, 1, 0.10, NULL)",
    );
}

/// Two folders, two databases, and the node at the office.
struct Two {
    here: tempfile::TempDir,
    there: tempfile::TempDir,
    laptop: TestDb,
    office: TestDb,
}

impl Two {
    fn new(a: Engine, b: Engine) -> Self {
        let folder = || tempfile::tempdir().expect("a folder");
        Self { here: folder(), there: folder(), laptop: TestDb::new(a), office: TestDb::new(b) }
    }

    fn sync(&self) -> Output {
        rowferry_in(self.here.path(), &["--format", "json", "sync"])
    }

    #[track_caller]
    fn synced(&self) -> Value {
        let output = self.sync();
        assert_eq!(output.code, 0, "{output:?}");
        output.json()[0].clone()
    }

    fn assert_equal(&self) {
        assert_equal(&self.laptop, &self.office);
    }
}

/// Rows that a report says were written, over all tables.
fn written(report: &Value) -> u64 {
    let tables = report["tables"].as_array().expect("tables");
    let of = |table: &Value, what: &str| table[what].as_u64().unwrap_or(0);
    tables.iter().map(|t| of(t, "inserted") + of(t, "updated") + of(t, "deleted")).sum()
}

#[test]
fn two_nodes_keep_in_step_whatever_their_engines() {
    let engines = Engine::available();
    let pairs = engines.iter().enumerate().map(|(at, &engine)| (engine, engines[(at + 1) % engines.len()]));
    for (a, b) in pairs.chain([(Engine::Sqlite, Engine::Sqlite)]) {
        let two = Two::new(a, b);
        tables(&two.laptop);
        some_rows(&two.laptop);
        let node = office(two.there.path(), &two.office, ALL);
        laptop(two.here.path(), &two.laptop, &node.address, BOTH);
        // Missing tables are made at the other node.
        assert_eq!(written(&two.synced()), 5, "{a:?} {b:?}");
        two.assert_equal();
        two.laptop.execute("UPDATE orders SET note = 'here' WHERE id = 10; DELETE FROM orders WHERE id = 12");
        two.office.execute(
            "INSERT INTO customers VALUES (3, 'Edsger', NULL); UPDATE customers SET name = 'Hopper' WHERE id = 2;
             INSERT INTO orders VALUES (13, 3, 1.00, 'there')",
        );
        assert_eq!(written(&two.synced()), 5, "{a:?} {b:?}");
        two.assert_equal();
        assert_eq!(two.laptop.value("SELECT count(*) FROM orders"), "3");
        for _ in 0..2 {
            assert_eq!(written(&two.synced()), 0, "{a:?} {b:?}: an echo");
        }
    }
}

#[test]
fn rows_go_the_way_that_the_sync_says() {
    for (direction, here, there) in [("push", "1", "2"), ("pull", "2", "1")] {
        let two = Two::new(Engine::Sqlite, Engine::Sqlite);
        tables(&two.laptop);
        tables(&two.office);
        two.laptop.execute("INSERT INTO customers VALUES (1, 'here', NULL)");
        two.office.execute("INSERT INTO customers VALUES (2, 'there', NULL)");
        let node = office(two.there.path(), &two.office, &format!("direction: {direction}, {ALL}"));
        laptop(two.here.path(), &two.laptop, &node.address, &format!("direction: {direction}, tables: [customers]"));
        assert_eq!(written(&two.synced()), 1, "{direction}");
        let count = |db: &TestDb| db.value("SELECT count(*) FROM customers");
        assert_eq!((count(&two.laptop).as_str(), count(&two.office).as_str()), (here, there), "{direction}");
        // The key goes one way only, whatever the other side's file says.
        for other in ["push", "pull", "bidirectional"].iter().filter(|other| **other != direction) {
            let sync = format!("direction: {other}, tables: [customers]");
            laptop(two.here.path(), &two.laptop, &node.address, &sync);
            let refused = two.sync();
            assert_eq!(refused.code, 2, "{direction} {other}: {refused:?}");
            assert!(refused.stderr.contains("'laptop'"), "{refused:?}");
            assert!(!refused.stderr.contains(KEY), "{refused:?}");
        }
        assert_eq!((count(&two.laptop).as_str(), count(&two.office).as_str()), (here, there), "{direction}");
    }
}

#[test]
fn a_key_opens_its_tables_and_its_rows_alone() {
    let two = Two::new(Engine::Sqlite, Engine::Sqlite);
    tables(&two.laptop);
    tables(&two.office);
    two.office.execute(
        "CREATE TABLE secret (id INTEGER NOT NULL PRIMARY KEY, name TEXT); INSERT INTO secret VALUES (1, 'canary-row');
         INSERT INTO customers VALUES (1, 'mine', NULL), (2, 'canary-other', NULL)",
    );
    two.laptop.execute("CREATE TABLE secret (id INTEGER NOT NULL PRIMARY KEY, name TEXT)");
    let key = "tables: { main: [{ table: customers, where: \"name = 'mine'\" }] }";
    let node = office(two.there.path(), &two.office, key);
    let refused = |sync: &str, why: &str| {
        laptop(two.here.path(), &two.laptop, &node.address, sync);
        let output = two.sync();
        assert_eq!(output.code, 2, "{sync}: {output:?}");
        assert!(output.stderr.contains(why), "{sync}: {output:?}");
        assert!(!output.stderr.contains("canary-"), "{output:?}");
    };
    for direction in ["push", "pull", "bidirectional"] {
        refused(&format!("direction: {direction}, tables: [secret]"), "secret");
        refused(&format!("direction: {direction}, tables: [_rowferry_site]"), "_rowferry_site");
    }
    // Another node's SQL is not run.
    let other = "direction: pull, tables: [{ source: customers, where: \"name IN (SELECT name FROM secret)\" }]";
    refused(other, "condition");
    refused("direction: push, tables: [customers]", "customers");
    laptop(two.here.path(), &two.laptop, &node.address, "direction: pull, tables: [customers]");
    assert_eq!(written(&two.synced()), 1);
    assert_eq!(two.laptop.value("SELECT name FROM customers"), "mine");
    // What leaves the condition at the office leaves here.
    two.office
        .execute("UPDATE customers SET name = 'theirs' WHERE id = 1; UPDATE customers SET name = 'mine' WHERE id = 2");
    assert_eq!(written(&two.synced()), 2);
    assert_eq!(two.laptop.value("SELECT id FROM customers"), "2");
}

#[test]
fn two_nodes_that_drive_the_same_tables_neither_echo_nor_stop_each_other() {
    let two = Two::new(Engine::Sqlite, Engine::Sqlite);
    tables(&two.laptop);
    some_rows(&two.laptop);
    let config = |name: &str, db: &TestDb, other: &str| {
        format!(
            "node: {name}\nlisten: 127.0.0.1:0\ndatabases:\n  main: {{ url: \"{}\" }}\napi:\n  keys:\n\
             \x20   - {{ name: other, key: {KEY}, role: peer, {ALL} }}\n\
             \x20   - {{ name: boss, key: canary-of-the-boss, role: admin }}\n\
             peers:\n  other: {{ url: \"http://{other}\", api_key: {KEY} }}\n\
             syncs:\n  shop: {{ source: main, target: other, every: live, {BOTH} }}\n",
            db.url()
        )
    };
    // Each has to know where the other listens before that one is there.
    let (to_office, to_laptop) = (Wire::new("127.0.0.1:1"), Wire::new("127.0.0.1:1"));
    let at_office = node(two.there.path(), &config("office", &two.office, &to_laptop.address));
    let at_laptop = node(two.here.path(), &config("laptop", &two.laptop, &to_office.address));
    to_office.leads_to(&at_office.address);
    to_laptop.leads_to(&at_laptop.address);
    wait("the table at the office", || two.office.attempt("SELECT 1 FROM orders").ok());
    wait("the rows at the office", || (two.office.value("SELECT count(*) FROM orders") == "3").then_some(()));
    for round in 0..20 {
        two.laptop.execute(&format!("INSERT INTO customers VALUES ({}, 'laptop', NULL)", 100 + round));
        two.office.execute(&format!("INSERT INTO customers VALUES ({}, 'office', NULL)", 200 + round));
        two.office.execute(&format!("UPDATE customers SET name = 'round {round}' WHERE id = 1"));
    }
    let count = |db: &TestDb| db.value("SELECT count(*) FROM customers");
    wait("all rows on both sides", || (count(&two.laptop) == "42" && count(&two.office) == "42").then_some(()));
    wait("the last round", || {
        (two.laptop.value("SELECT name FROM customers WHERE id = 1") == "round 19").then_some(())
    });
    two.assert_equal();
    let state = |node: &Node| node.get("/api/status", "canary-of-the-boss").json()["syncs"][0]["state"].clone();
    wait("both say so", || (state(&at_office) == "in-sync" && state(&at_laptop) == "in-sync").then_some(()));
    for db in [&two.laptop, &two.office] {
        assert_eq!(db.value("SELECT count(*) FROM _rowferry_conflicts"), "0");
        // No echo: nothing is given a new number while nobody writes.
        let seq = || db.value("SELECT seq FROM _rowferry_site");
        let before = seq();
        let exchanges = to_office.exchanges() + to_laptop.exchanges();
        wait("some more rounds", || (to_office.exchanges() + to_laptop.exchanges() > exchanges + 40).then_some(()));
        assert_eq!(seq(), before);
    }
}

#[test]
fn what_is_no_answer_of_a_node_is_taken_for_none() {
    let two = Two::new(Engine::Sqlite, Engine::Sqlite);
    tables(&two.laptop);
    some_rows(&two.laptop);
    let node = office(two.there.path(), &two.office, ALL);
    let wire = Wire::new(&node.address);
    laptop(two.here.path(), &two.laptop, &wire.address, BOTH);
    wire.plan(|_| Some(Fault::Portal));
    let refused = two.sync();
    assert_eq!(refused.code, 3, "{refused:?}");
    assert!(refused.stderr.contains("no rowferry node (status 200, text/html)"), "{refused:?}");
    assert_eq!(two.office.traces(), Vec::<String>::new());
    // A wrong key, a node that is not there.
    wire.plan(|_| None);
    let path = two.here.path().join("rowferry.yaml");
    let text = std::fs::read_to_string(&path).expect("the config");
    std::fs::write(&path, text.replace(KEY, "canary-wrong")).expect("the config");
    let refused = two.sync();
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.stderr.contains("unknown here") && !refused.stderr.contains("canary-wrong"), "{refused:?}");
    std::fs::write(&path, text.replace(&wire.address, "127.0.0.1:1")).expect("the config");
    assert_eq!(two.sync().code, 3);
}

/// Every kind of fault, at exchanges all along a run: the next run without one leaves both sides equal.
#[test]
fn a_run_goes_on_after_whatever_the_network_did() {
    let two = Two::new(Engine::Sqlite, Engine::Sqlite);
    tables(&two.laptop);
    some_rows(&two.laptop);
    let node = office(two.there.path(), &two.office, ALL);
    let wire = Wire::new(&node.address);
    laptop(two.here.path(), &two.laptop, &wire.address, BOTH);
    let path = two.here.path().join("rowferry.yaml");
    let text = std::fs::read_to_string(&path).expect("the config");
    std::fs::write(&path, text.replace("10s", "1s")).expect("the config");
    two.synced();
    wire.plan(|_| None);
    two.synced();
    let all = wire.exchanges();
    assert!(all > 8, "{all} exchanges");
    let kinds = [
        Fault::Late(Duration::from_millis(200)),
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
    let step = if crate::support::long() { 1 } else { 4 };
    let mut round = 0;
    for (start, fault) in kinds.into_iter().enumerate() {
        for at in (1 + start % step..=all).step_by(step) {
            round += 1;
            let (here, there) = (1000 + round, 5000 + round);
            two.laptop.execute(&format!(
                "INSERT INTO customers VALUES ({here}, 'here', NULL); INSERT INTO orders VALUES ({here}, {here}, 1, 'x');
                 UPDATE customers SET name = 'round {round}' WHERE id = 1"
            ));
            two.office.execute(&format!(
                "INSERT INTO customers VALUES ({there}, 'there', NULL); UPDATE orders SET note = '{round}' WHERE id = 10;
                 DELETE FROM customers WHERE id = {}",
                there - 2
            ));
            wire.plan(move |number| (number == at).then_some(fault));
            let output = two.sync();
            assert!(matches!(output.code, 0 | 1 | 3), "{fault:?} at {at}: {output:?}");
            wire.plan(|_| None);
            let healed = two.synced();
            assert_eq!(healed["status"], "succeeded", "{fault:?} at {at}: {healed}");
            two.assert_equal();
            assert_eq!(two.laptop.value("SELECT count(*) FROM _rowferry_conflicts"), "0", "{fault:?} at {at}");
        }
    }
    let sites = two.office.value("SELECT epoch FROM _rowferry_site");
    assert_eq!(sites, "1", "nothing was taken for a restored database");
}

#[test]
fn changes_wait_while_the_other_node_is_away_and_go_on_by_themselves() {
    let two = Two::new(Engine::Sqlite, Engine::Sqlite);
    tables(&two.laptop);
    some_rows(&two.laptop);
    let at_office = office(two.there.path(), &two.office, ALL);
    let wire = Wire::new(&at_office.address);
    laptop(two.here.path(), &two.laptop, &wire.address, &format!("every: live, {BOTH}"));
    let path = two.here.path().join("rowferry.yaml");
    let text = std::fs::read_to_string(&path).expect("the config");
    let keys = "listen: 127.0.0.1:0\napi: { keys: [{ name: boss, key: canary-of-the-boss, role: admin }] }\n";
    std::fs::write(&path, format!("{text}{keys}")).expect("the config");
    let at_laptop = Node::start(two.here.path());
    let status = || at_laptop.get("/api/status", "canary-of-the-boss").json()["syncs"][0].clone();
    let well = |s: &Value| s["state"] == "in-sync" && s["last_success"].is_string();
    wait("in sync", || well(&status()).then_some(()));
    two.assert_equal();
    drop(at_office);
    two.laptop.execute("INSERT INTO customers VALUES (7, 'written offline', NULL); DELETE FROM orders WHERE id = 12");
    let away = wait("offline", || Some(status()).filter(|s| s["state"] == "offline" && s["next_try"].is_string()));
    assert_eq!(away["pending"], 2, "{away}");
    assert!(away["since"].is_string() && away["last_success"].is_string(), "{away}");
    assert!(away["last_error"].as_str().is_some_and(|why| why.contains("office")), "{away}");
    let told = rowferry_in(two.here.path(), &["status"]);
    assert!(told.stdout.contains("offline") && told.stdout.contains("tried again at"), "{told:?}");
    // It is back, at another address, and was written to meanwhile.
    two.office.execute("UPDATE customers SET name = 'written at the office' WHERE id = 1");
    let at_office = Node::start(two.there.path());
    wire.leads_to(&at_office.address);
    wait("in sync again", || (status()["state"] == "in-sync").then_some(()));
    two.assert_equal();
    assert_eq!(two.laptop.value("SELECT name FROM customers WHERE id = 1"), "written at the office");
    assert_eq!(two.office.value("SELECT name FROM customers WHERE id = 7"), "written offline");
}

#[test]
fn a_new_user_pairs_two_folders_with_one_line() {
    let two = Two::new(Engine::Sqlite, Engine::Sqlite);
    tables(&two.office);
    some_rows(&two.office);
    // A port that is free now, and is to be known beforehand.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let office = format!(
        "node: office\nlisten: 127.0.0.1:{port}\ntls: self-signed\ndatabases:\n  main: {{ url: \"{}\" }}\n",
        two.office.url()
    );
    std::fs::write(two.there.path().join("rowferry.yaml"), office).expect("the config");
    let invite = rowferry_in(two.there.path(), &["peers", "invite", "laptop", "--table", "main/*"]);
    assert_eq!((invite.code, invite.stdout.lines().count()), (0, 1), "{invite:?}");
    let line = invite.stdout.trim();
    let key = line.split(' ').nth(1).expect("a key");
    let _node = Node::start(two.there.path());
    let config = two.here.path().join("rowferry.yaml");
    let laptop = format!("# mine\nnode: laptop\ndatabases:\n  app: {{ url: \"{}\" }}\n", two.laptop.url());
    std::fs::write(&config, &laptop).expect("the config");

    // A line with another pin is not believed, and nothing is written.
    let pin = line.split("sha256:").nth(1).and_then(|rest| rest.get(..64)).expect("a pin");
    let forged = rowferry_in(two.here.path(), &["peers", "join", &line.replace(pin, &"0".repeat(64))]);
    assert_eq!(forged.code, 3, "{forged:?}");
    assert!(forged.stderr.contains("certificate") && !forged.stderr.contains(key), "{forged:?}");
    assert_eq!(std::fs::read_to_string(&config).expect("the config"), laptop);

    let join = rowferry_in(two.here.path(), &["peers", "join", line]);
    assert_eq!(join.code, 0, "{join:?}");
    assert!(join.stdout.contains("customers, orders") && !join.stdout.contains(key), "{join:?}");
    let joined = std::fs::read_to_string(&config).expect("the config");
    assert!(joined.starts_with(&laptop) && !joined.contains(key), "{joined}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(two.here.path().join("rowferry-peer-office.key")).expect("the key").permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
    }
    let again = rowferry_in(two.here.path(), &["peers", "join", line]);
    assert_eq!(again.code, 2, "{again:?}");
    let listed = rowferry_in(two.here.path(), &["--format", "json", "peers", "list"]);
    assert_eq!(listed.code, 0, "{listed:?}");
    assert_eq!(listed.json()[0]["node"], "office", "{listed:?}");
    assert_eq!(listed.json()[0]["tables"], serde_json::json!(["customers", "orders"]), "{listed:?}");

    let sync =
        "syncs:\n  office: { source: app, target: office, direction: bidirectional, tables: [customers, orders] }\n";
    std::fs::write(&config, format!("{joined}{sync}")).expect("the config");
    let checked = rowferry_in(two.here.path(), &["check"]);
    assert_eq!(checked.code, 0, "{checked:?}");
    let clock = checked.stdout.lines().find(|line| line.contains("the peer's clock is ")).expect("its clock");
    assert!(clock.contains("is 0.") && !checked.stderr.contains("clock"), "{checked:?}");
    let checked = rowferry_in(two.here.path(), &["check", "--format", "json"]).json();
    assert!(checked["syncs"][0]["clock_offset_ms"].as_i64().is_some_and(|ms| ms.abs() < 5000), "{checked}");
    assert_eq!(written(&two.synced()), 5);
    two.assert_equal();
    // The key is taken back.
    assert_eq!(rowferry_in(two.there.path(), &["keys", "revoke", "laptop"]).code, 0);
    wait("the key opens nothing", || (two.sync().code == 2).then_some(()));
}

#[test]
fn two_nodes_that_settle_conflicts_in_opposite_ways_are_told() {
    let two = Two::new(Engine::Sqlite, Engine::Sqlite);
    tables(&two.laptop);
    tables(&two.office);
    let config = |name: &str, db: &TestDb, other: &str, sync: &str| {
        format!(
            "node: {name}\nlisten: 127.0.0.1:0\ndatabases:\n  main: {{ url: \"{}\" }}\napi:\n  keys:\n\
             \x20   - {{ name: other, key: {KEY}, role: peer, {ALL} }}\n\
             peers:\n  other: {{ url: \"http://{other}\", api_key: {KEY} }}\n\
             syncs:\n  shop: {{ source: main, target: other, {sync} {BOTH} }}\n",
            db.url()
        )
    };
    let to_laptop = Wire::new("127.0.0.1:1");
    let sync = "every: 1s, conflict: source-wins,";
    let at_office = node(two.there.path(), &config("office", &two.office, &to_laptop.address, sync));
    // Both want their own: the laptop's node first.
    let sync = "every: 1s, conflict: source-wins,";
    let at_laptop = node(two.here.path(), &config("laptop", &two.laptop, &at_office.address, sync));
    wait("its first round", || {
        two.office
            .value("SELECT count(*) FROM sqlite_master WHERE name = '_rowferry_readers'")
            .parse::<u32>()
            .ok()
            .filter(|n| *n > 0)
    });
    to_laptop.leads_to(&at_laptop.address);
    at_office.wait_for("do not agree on its conflict");
}
