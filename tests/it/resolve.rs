//! What a person decides: conflicts are resolved, losing images brought back, refused changes tried again.

use serde_json::{Value, json};

use crate::support::{Engine, Output, TestDb, assert_equal, rowferry_in};

/// Two databases whose table `t` is synced by `s`, with what else its entry says.
struct Ends {
    a: TestDb,
    b: TestDb,
    folder: tempfile::TempDir,
}

const PLAIN: &str = "CREATE TABLE t (id INT NOT NULL PRIMARY KEY, s VARCHAR(20), paid DECIMAL(10,2))";

impl Ends {
    fn new(engine: Engine, table_b: &str, entry: &str) -> Self {
        let (a, b) = (TestDb::new(engine), TestDb::new(Engine::Sqlite));
        a.execute(PLAIN);
        b.execute(table_b);
        let folder = tempfile::tempdir().expect("a folder");
        let config = format!(
            "node: n\ndatabases:\n  a: {{ url: \"{}\" }}\n  b: {{ url: \"{}\" }}\nsyncs:\n  \
             s: {{ source: a, target: b, tables: [t], {entry} }}\n",
            a.url(),
            b.url()
        );
        std::fs::write(folder.path().join("rowferry.yaml"), config).expect("written");
        Self { a, b, folder }
    }

    fn run(&self, args: &[&str]) -> Output {
        rowferry_in(self.folder.path(), args)
    }

    #[track_caller]
    fn json(&self, code: i32, args: &[&str]) -> Value {
        let output = self.run(&[args, &["--format", "json"]].concat());
        assert_eq!(output.code, code, "{args:?} at {:?}: {output:?}", self.a.engine());
        output.json()
    }

    /// The one conflict that is listed.
    #[track_caller]
    fn conflict(&self) -> Value {
        let list = self.json(0, &["conflicts", "list"]);
        assert_eq!(list.as_array().map(Vec::len), Some(1), "{list}");
        list[0].clone()
    }

    #[track_caller]
    fn resolve(&self, id: &Value, keep: &str) -> Value {
        self.json(0, &["conflicts", "resolve", id.as_str().expect("an id"), "--keep", keep])
    }

    /// Both write row 1 without knowing of each other.
    fn apart(&self) {
        self.a.execute("INSERT INTO t VALUES (1, 'one', 1.5)");
        self.run(&["sync"]);
        self.a.execute("UPDATE t SET s = 'at A'");
        // SQLite's clock counts milliseconds: within one of them nobody is later.
        std::thread::sleep(std::time::Duration::from_millis(5));
        self.b.execute("UPDATE t SET s = 'at B', paid = 2.25");
        self.run(&["sync"]);
    }

    fn texts(&self) -> [String; 2] {
        let sql = "SELECT coalesce(max(s), 'gone') FROM t WHERE id = 1";
        [self.a.value(sql), self.b.value(sql)]
    }
}

#[test]
fn an_open_conflict_is_resolved_at_both_ends_and_stays_resolved() {
    for engine in Engine::available() {
        for (keep, text) in [("source", "at A"), ("target", "at B")] {
            let pair = Ends::new(engine, PLAIN, "direction: bidirectional, conflict: manual");
            pair.apart();
            let open = pair.conflict();
            assert_eq!((&open["winner"], pair.texts()), (&json!("open"), ["at A".into(), "at B".into()]), "{open}");
            assert!(
                pair.run(&["conflicts", "show", open["id"].as_str().expect("an id")])
                    .stdout
                    .contains("both sides keep")
            );
            let done = pair.resolve(&open["id"], keep);
            assert_eq!((&done["winner"], &done["source"]["s"]), (&json!(keep), &json!("at A")), "{done}");
            assert_eq!(pair.texts(), [text, text], "{engine:?}");
            assert_equal(&pair.a, &pair.b);
            let again = pair.resolve(&open["id"], keep);
            assert_eq!(again, done, "once more changes nothing");
            let quiet = pair.json(0, &["sync"]);
            let t = &quiet[0]["tables"][0];
            assert_eq!((&t["conflicts"], &t["updated"]), (&json!(0), &json!(0)), "{quiet}");
            // It was a write like any other: the next ones go both ways.
            pair.a.execute("UPDATE t SET s = 'later at A'");
            pair.json(0, &["sync"]);
            pair.b.execute("UPDATE t SET s = 'later at B'");
            pair.json(0, &["sync"]);
            assert_eq!(pair.texts(), ["later at B", "later at B"], "{engine:?}");
            assert_eq!(pair.conflict()["winner"], json!(keep));
        }
    }
}

#[test]
fn a_row_that_was_written_again_before_the_decision_is_kept_as_it_stands() {
    for engine in Engine::available() {
        let pair = Ends::new(engine, PLAIN, "direction: bidirectional, conflict: manual");
        pair.apart();
        let id = pair.conflict()["id"].clone();
        pair.a.execute("UPDATE t SET s = 'newer at A'");
        let done = pair.resolve(&id, "source");
        assert_eq!(pair.texts(), ["newer at A", "newer at A"], "{engine:?}");
        assert_eq!((&done["source"]["s"], &done["target"]["s"]), (&json!("newer at A"), &json!("at B")), "{done}");
        pair.json(0, &["sync"]);
        assert_eq!(pair.conflict()["winner"], json!("source"), "nothing is open any more");
    }
}

#[test]
fn what_lost_is_brought_back() {
    for engine in Engine::available() {
        let pair = Ends::new(engine, PLAIN, "direction: bidirectional");
        pair.apart();
        let lost = pair.conflict();
        assert_eq!((&lost["winner"], pair.texts()), (&json!("target"), ["at B".into(), "at B".into()]), "{lost}");
        let back = pair.resolve(&lost["id"], "source");
        assert_eq!(pair.texts(), ["at A", "at A"], "{engine:?}");
        assert_equal(&pair.a, &pair.b);
        assert_eq!((&back["winner"], &back["target"]["s"]), (&json!("source"), &json!("at B")), "{back}");
        pair.json(0, &["sync"]);
        assert_equal(&pair.a, &pair.b);
        // And there again.
        pair.resolve(&lost["id"], "target");
        assert_eq!(pair.texts(), ["at B", "at B"], "{engine:?}");
        pair.json(0, &["sync"]);
        assert_equal(&pair.a, &pair.b);
    }
}

#[test]
fn a_deletion_that_lost_or_won_is_decided_anew() {
    for engine in Engine::available() {
        let pair = Ends::new(engine, PLAIN, "direction: bidirectional");
        pair.a.execute("INSERT INTO t VALUES (1, 'one', 1.5), (2, 'two', 0)");
        pair.run(&["sync"]);
        pair.a.execute("UPDATE t SET s = 'at A' WHERE id = 1");
        std::thread::sleep(std::time::Duration::from_millis(5));
        pair.b.execute("DELETE FROM t WHERE id = 1");
        pair.run(&["sync"]);
        let lost = pair.conflict();
        assert_eq!((&lost["winner"], &lost["target"]), (&json!("target"), &Value::Null), "{lost}");
        pair.resolve(&lost["id"], "source");
        assert_eq!(pair.texts(), ["at A", "at A"], "{engine:?}");
        pair.resolve(&lost["id"], "target");
        assert_eq!(pair.texts(), ["gone", "gone"], "{engine:?}");
        pair.json(0, &["sync"]);
        assert_equal(&pair.a, &pair.b);
    }
}

#[test]
fn a_one_way_sync_is_resolved_at_both_ends_too() {
    for engine in Engine::available() {
        for (keep, text) in [("source", "at A"), ("target", "at B")] {
            let pair = Ends::new(engine, PLAIN, "direction: push, conflict: manual");
            pair.apart();
            let open = pair.conflict();
            assert_eq!(open["winner"], json!("open"), "{open}");
            pair.resolve(&open["id"], keep);
            assert_eq!(pair.texts(), [text, text], "{engine:?}");
            pair.json(0, &["sync"]);
            assert_equal(&pair.a, &pair.b);
        }
    }
}

#[test]
fn rows_that_differ_when_two_databases_meet_are_resolved() {
    let entries = ["direction: bidirectional, conflict: manual", "direction: bidirectional"];
    for (engine, entry) in Engine::available().into_iter().flat_map(|engine| entries.map(|entry| (engine, entry))) {
        let pair = Ends::new(engine, PLAIN, entry);
        pair.a.execute("INSERT INTO t VALUES (1, 'at A', 1), (2, 'same', 2)");
        pair.b.execute("INSERT INTO t VALUES (1, 'at B', 1), (2, 'same', 2)");
        pair.run(&["sync"]);
        let winners = || -> Vec<Value> {
            let list = pair.json(0, &["conflicts", "list"]);
            list.as_array().expect("a list").iter().map(|one| one["winner"].clone()).collect()
        };
        assert!(winners().iter().all(|winner| winner == "open"), "{:?}", winners());
        assert_eq!(pair.texts(), ["at A", "at B"], "{engine:?}");
        pair.resolve(&pair.json(0, &["conflicts", "list"])[0]["id"], "target");
        assert_eq!(pair.texts(), ["at B", "at B"], "{engine:?}");
        assert!(
            winners().iter().all(|winner| winner == "target"),
            "one decision settles all of the row: {:?}",
            winners()
        );
        pair.json(0, &["sync"]);
        assert_equal(&pair.a, &pair.b);
    }
}

#[test]
fn what_cannot_be_resolved_is_told() {
    let pair = Ends::new(Engine::Sqlite, PLAIN, "direction: bidirectional, conflict: manual");
    pair.apart();
    let id = pair.conflict()["id"].as_str().expect("an id").to_owned();
    for (args, words) in [
        (vec!["conflicts", "resolve", "nix", "--keep", "source"], "'rowferry conflicts list' names them"),
        (vec!["conflicts", "resolve", &id, "--keep", "merged"], "has no merged row"),
        (vec!["conflicts", "resolve", &id], "--keep"),
        (vec!["quarantine", "retry", "nix"], "'rowferry quarantine list' names what is"),
    ] {
        let output = pair.run(&args);
        assert_eq!(output.code, 2, "{output:?}");
        assert!(output.stderr.contains(words), "{output:?}");
    }
    let config = pair.folder.path().join("rowferry.yaml");
    let text = std::fs::read_to_string(&config).expect("the config");
    std::fs::write(&config, text.replace("  s: {", "  other: {")).expect("written");
    let output = pair.run(&["conflicts", "resolve", &id, "--keep", "source"]);
    assert_eq!(output.code, 2, "{output:?}");
    assert!(output.stderr.contains("sync s, which the config has no more"), "{output:?}");
    std::fs::write(&config, text.split("syncs:").next().expect("databases")).expect("written");
    assert_eq!(pair.conflict()["id"], json!(id), "a record outlives its sync");
}

/// Another run's transaction, or an application's.
#[test]
fn a_row_that_another_transaction_holds_is_waited_for() {
    for engine in Engine::available().into_iter().filter(|engine| *engine != Engine::Sqlite) {
        let pair = Ends::new(engine, PLAIN, "direction: bidirectional, conflict: manual");
        pair.apart();
        let id = pair.conflict()["id"].as_str().expect("an id").to_owned();
        let resolve = ["conflicts", "resolve", &id, "--keep", "target"];
        let holder = pair.a.session();
        holder.query("BEGIN");
        holder.query("UPDATE t SET s = 'held' WHERE id = 1");
        let given_up = pair.run(&resolve);
        assert_eq!(given_up.code, 1, "{engine:?}: {given_up:?}");
        assert!(given_up.stderr.contains("the row of t is being written"), "{engine:?}: {given_up:?}");

        let folder = pair.folder.path();
        std::thread::scope(|scope| {
            let resolved = scope.spawn(|| rowferry_in(folder, &resolve));
            std::thread::sleep(std::time::Duration::from_millis(400));
            holder.query("ROLLBACK");
            let resolved = resolved.join().expect("it ends");
            assert_eq!(resolved.code, 0, "{engine:?}: {resolved:?}");
        });
        assert_eq!(pair.texts(), ["at B", "at B"], "{engine:?}");
        pair.json(0, &["sync"]);
    }
}

#[test]
fn refused_changes_are_tried_again() {
    for engine in Engine::available() {
        let narrow = "CREATE TABLE t (id INT NOT NULL PRIMARY KEY, s VARCHAR(20) UNIQUE, paid DECIMAL(10,2))";
        let pair = Ends::new(engine, narrow, "direction: push");
        pair.a.execute("INSERT INTO t VALUES (1, 'one', 1), (2, 'taken', 2), (3, 'also', 3)");
        pair.b.execute("INSERT INTO t VALUES (8, 'taken', 0), (9, 'also', 0)");
        pair.json(1, &["sync"]);
        let list = pair.json(0, &["quarantine", "list"]);
        assert_eq!(list.as_array().map(Vec::len), Some(2), "{list}");
        let again = pair.json(1, &["quarantine", "retry"]);
        assert_eq!((&again["written"], again["refused"].as_array().map(Vec::len)), (&json!(0), Some(2)), "{again}");
        pair.b.execute("DELETE FROM t WHERE id > 7");
        let first = list.as_array().expect("a list").iter().find(|c| c["key"]["id"] == "2").expect("row 2");
        let one = pair.json(0, &["quarantine", "retry", first["id"].as_str().expect("an id")]);
        assert_eq!(one["written"], json!(1), "{one}");
        assert_eq!(pair.b.value("SELECT count(*) FROM t"), "2", "the other was not asked for at {engine:?}");
        assert_eq!(pair.json(0, &["quarantine", "retry"])["written"], json!(1));
        assert_eq!(pair.json(0, &["quarantine", "list"]), json!([]));
        assert_eq!(pair.json(0, &["quarantine", "retry"])["written"], json!(0), "nothing is left to do");
        assert_equal(&pair.a, &pair.b);
    }
}
