//! What cannot be taken in yet waits, shown, and comes in when nothing is in its way; what a person has to decide stays
//! as it is until then.

use std::path::Path;

use crate::support::{Engine, TestDb, assert_equal, rowferry_in};

fn config(folder: &Path, a: &TestDb, b: &TestDb, syncs: &[(&str, &str)]) {
    let syncs: String = syncs
        .iter()
        .map(|(name, tables)| {
            format!("  {name}: {{ source: a, target: b, direction: bidirectional, tables: [{tables}] }}\n")
        })
        .collect();
    let (a, b) = (a.url(), b.url());
    let text = format!("node: test\ndatabases:\n  a: {{ url: \"{a}\" }}\n  b: {{ url: \"{b}\" }}\nsyncs:\n{syncs}");
    std::fs::write(folder.join("rowferry.yaml"), text).expect("written");
}

/// Its exit code and the report of the first table.
fn sync(folder: &Path, name: &str) -> (i32, serde_json::Value) {
    let output = rowferry_in(folder, &["sync", name, "--format", "json"]);
    (output.code, output.json()[0]["tables"][0].clone())
}

const TABLE: &str = "CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, note VARCHAR(20))";

#[test]
fn a_row_that_an_application_holds_waits_and_the_others_do_not() {
    for engine in Engine::available().into_iter().filter(|engine| *engine != Engine::Sqlite) {
        let (a, b) = (TestDb::new(engine), TestDb::new(engine));
        let folder = tempfile::tempdir().expect("a folder");
        config(folder.path(), &a, &b, &[("s", "t")]);
        a.execute(&format!("{TABLE}; INSERT INTO t VALUES (1, 'one'), (2, 'two')"));
        assert_eq!(sync(folder.path(), "s").0, 0);
        let held = b.session();
        held.query("BEGIN");
        held.query("UPDATE t SET note = 'held' WHERE id = 1");
        a.execute("UPDATE t SET note = 'new' WHERE id < 3");
        let (code, report) = sync(folder.path(), "s");
        assert_eq!((code, &report["waiting"]), (1, &1.into()), "{engine:?}: {report}");
        assert_eq!(b.value("SELECT note FROM t WHERE id = 2"), "new", "{engine:?}");
        assert_eq!(b.value("SELECT reason FROM _rowferry_waiting"), "another transaction holds the row");
        // What comes later takes its place.
        a.execute("UPDATE t SET note = 'newer' WHERE id = 1");
        assert_eq!(sync(folder.path(), "s").0, 1);
        assert_eq!(b.value("SELECT count(*) FROM _rowferry_waiting"), "1");
        held.query("ROLLBACK");
        let (code, report) = sync(folder.path(), "s");
        assert_eq!((code, &report["updated"]), (0, &1.into()), "{engine:?}: {report}");
        assert_equal(&a, &b);
        assert_eq!(b.value("SELECT count(*) FROM _rowferry_waiting"), "0");
    }
}

#[test]
fn a_child_waits_for_its_parent() {
    for engine in Engine::available() {
        let (a, b) = (TestDb::new(engine), TestDb::new(engine));
        let folder = tempfile::tempdir().expect("a folder");
        config(folder.path(), &a, &b, &[("both", "orders, items"), ("parents", "orders"), ("children", "items")]);
        a.execute("CREATE TABLE orders (id INTEGER NOT NULL PRIMARY KEY, note VARCHAR(20))");
        a.execute(
            "CREATE TABLE items (id INTEGER NOT NULL PRIMARY KEY, orders_id INTEGER, \
             FOREIGN KEY (orders_id) REFERENCES orders (id))",
        );
        assert_eq!(sync(folder.path(), "both").0, 0);
        a.execute("INSERT INTO orders VALUES (1, 'one'); INSERT INTO items VALUES (11, 1), (12, NULL)");
        let (code, report) = sync(folder.path(), "children");
        assert_eq!((code, &report["waiting"], &report["inserted"]), (1, &1.into(), &1.into()), "{engine:?}: {report}");
        assert_eq!(b.value("SELECT count(*) FROM items"), "1", "{engine:?}: an orphan");
        // Once the other end has heard of what arrived, only the child is pending: it has been read, and is not there.
        assert_eq!(sync(folder.path(), "children").0, 1);
        let standing = rowferry_in(folder.path(), &["status", "--format", "json"]).json();
        let of = |sync: &str| {
            let all = standing.as_array().expect("all syncs");
            all.iter().find(|s| s["sync"] == sync).expect("its standing").clone()
        };
        assert_eq!(
            (&of("children")["state"], &of("children")["pending"]),
            (&"pending".into(), &1.into()),
            "{standing}"
        );
        assert_eq!(of("parents")["pending"], 1, "{standing}");
        assert_eq!(sync(folder.path(), "parents").0, 0);
        assert_eq!(sync(folder.path(), "children").0, 0, "{engine:?}");
        assert_equal(&a, &b);
    }
}

#[test]
fn a_child_waits_while_its_parent_is_being_deleted() {
    for engine in Engine::available().into_iter().filter(|engine| *engine != Engine::Sqlite) {
        let (a, b) = (TestDb::new(engine), TestDb::new(engine));
        let folder = tempfile::tempdir().expect("a folder");
        config(folder.path(), &a, &b, &[("s", "orders, items")]);
        a.execute("CREATE TABLE orders (id INTEGER NOT NULL PRIMARY KEY, note VARCHAR(20))");
        a.execute(
            "CREATE TABLE items (id INTEGER NOT NULL PRIMARY KEY, orders_id INTEGER, \
             FOREIGN KEY (orders_id) REFERENCES orders (id)); INSERT INTO orders VALUES (1, 'one'), (2, 'two'); \
             INSERT INTO items VALUES (1, 2)",
        );
        assert_eq!(sync(folder.path(), "s").0, 0);
        // The server looks for children when the row goes, not when that is committed.
        let deleting = b.session();
        deleting.query("BEGIN");
        deleting.query("DELETE FROM orders WHERE id = 1");
        a.execute("INSERT INTO items VALUES (11, 1), (12, 2)");
        assert_eq!(sync(folder.path(), "s").0, 1);
        assert_eq!(b.value("SELECT count(*) FROM items WHERE id IN (1, 12)"), "2", "{engine:?}");
        assert_eq!(b.value("SELECT count(*) FROM _rowferry_waiting"), "1", "{engine:?}");
        deleting.query("COMMIT");
        // It does not arrive where its parent is gone; at its own end it is named.
        for _ in 0..2 {
            assert_eq!(sync(folder.path(), "s").0, 1);
        }
        assert_eq!(b.value("SELECT count(*) FROM items WHERE id = 11"), "0", "{engine:?}");
    }
}

#[test]
fn a_child_of_the_targets_own_whose_parent_goes_is_named() {
    for engine in Engine::available() {
        let (a, b) = (TestDb::new(engine), TestDb::new(engine));
        let folder = tempfile::tempdir().expect("a folder");
        config(folder.path(), &a, &b, &[("both", "orders, items")]);
        a.execute("CREATE TABLE orders (id INTEGER NOT NULL PRIMARY KEY, note VARCHAR(20))");
        a.execute(
            "CREATE TABLE items (id INTEGER NOT NULL PRIMARY KEY, orders_id INTEGER, \
             FOREIGN KEY (orders_id) REFERENCES orders (id)); INSERT INTO orders VALUES (1, 'one'), (2, 'two')",
        );
        assert_eq!(sync(folder.path(), "both").0, 0);
        // It does not arrive at the source: a row without its parent waits there.
        b.execute("INSERT INTO items VALUES (11, 1)");
        a.execute("DELETE FROM orders WHERE id = 1");
        let output = rowferry_in(folder.path(), &["sync", "both", "--format", "json"]);
        let problem = output.json()[0]["problems"][0].as_str().unwrap_or_default().to_owned();
        assert!(output.code == 1 && problem.contains("items") && problem.contains("orders"), "{engine:?}: {output:?}");
    }
}

#[test]
fn an_open_conflict_stays_open_in_every_run_until_the_rows_agree() {
    for engine in Engine::available() {
        let (a, b) = (TestDb::new(engine), TestDb::new(engine));
        let folder = tempfile::tempdir().expect("a folder");
        config(folder.path(), &a, &b, &[("s", "t")]);
        a.execute(&format!("{TABLE}; INSERT INTO t VALUES (1, 'at a'), (2, 'two')"));
        b.execute(&format!("{TABLE}; INSERT INTO t VALUES (1, 'at b'), (2, 'two')"));
        for round in 0..3 {
            let (code, report) = sync(folder.path(), "s");
            assert_eq!((code, &report["open"]), (1, &1.into()), "{engine:?} {round}: {report}");
            assert_eq!(a.value("SELECT note FROM t WHERE id = 1"), "at a", "{engine:?} {round}");
            assert_ne!(b.value("SELECT note FROM t WHERE id = 1"), "at a", "{engine:?} {round}");
            assert_eq!(b.value("SELECT count(*) FROM _rowferry_conflicts"), "1", "{engine:?} {round}");
            // What is written to it meanwhile stays where it is; other rows go on.
            b.execute(&format!("UPDATE t SET note = 'b {round}'"));
            assert_eq!(sync(folder.path(), "s").0, 1);
            assert_eq!(a.value("SELECT note FROM t WHERE id = 2"), format!("b {round}"), "{engine:?}");
        }
        b.execute("UPDATE t SET note = 'at a' WHERE id = 1");
        let (code, report) = sync(folder.path(), "s");
        assert_eq!(code, 0, "{engine:?}: {report}");
        assert_equal(&a, &b);
        for db in [&a, &b] {
            assert_eq!(db.value("SELECT count(*) FROM _rowferry_conflicts WHERE winner = 'open'"), "0", "{engine:?}");
        }
    }
}
