//! Notes of deleted rows go in time, and what a database that was away for longer brings back does not pass for new.

use serde_json::{Value, json};

use crate::support::{Engine, Output, TestDb, assert_equal, rowferry_in};

/// `a` is synced with `b`, and with `c` while `b` is away.
struct Ends {
    a: TestDb,
    b: TestDb,
    c: TestDb,
    folder: tempfile::TempDir,
}

const TABLE: &str = "CREATE TABLE t (id INT NOT NULL PRIMARY KEY, s VARCHAR(20))";
const NOTES: &str = "SELECT count(*) FROM _rowferry_versions_1 WHERE _rowferry_digest IS NULL";

impl Ends {
    /// Both have six rows, one of them from `c`, and know it; the sync of the two has this besides.
    fn new(engine: Engine, entry: &str) -> Self {
        let (a, b, c) = (TestDb::new(engine), TestDb::new(engine), TestDb::new(Engine::Sqlite));
        for database in [&a, &b, &c] {
            database.execute(TABLE);
        }
        a.execute("INSERT INTO t VALUES (1, 'one'), (3, 'three'), (4, 'four'), (5, 'five'), (6, 'six')");
        let folder = tempfile::tempdir().expect("a folder");
        let config = format!(
            "node: n\ndefaults: {{ keep_tombstones: 1d }}\ndatabases:\n  a: {{ url: \"{}\" }}\n  b: {{ url: \"{}\" }}\n  \
             c: {{ url: \"{}\" }}\nsyncs:\n  ab: {{ source: a, target: b, tables: [t], {entry} }}\n  \
             ac: {{ source: a, target: c, tables: [t], direction: bidirectional }}\n",
            a.url(),
            b.url(),
            c.url()
        );
        std::fs::write(folder.path().join("rowferry.yaml"), config).expect("written");
        let ends = Self { a, b, c, folder };
        ends.sync("ac", 0);
        // What `a` itself had it knows to be its own, whenever it comes back.
        ends.c.execute("INSERT INTO t VALUES (2, 'two')");
        ends.sync("ac", 0);
        ends.sync("ab", 0);
        ends
    }

    fn run(&self, args: &[&str]) -> Output {
        rowferry_in(self.folder.path(), args)
    }

    #[track_caller]
    fn sync(&self, name: &str, code: i32) {
        let output = self.run(&["sync", name]);
        assert_eq!(output.code, code, "sync {name} at {:?}: {output:?}", self.a.engine());
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        let output = self.run(&[args, &["--format", "json"]].concat());
        assert_eq!(output.code, 0, "{args:?} at {:?}: {output:?}", self.a.engine());
        output.json()
    }

    /// By all that is noted at `a` of times, two more days have passed since.
    fn pass(&self, table: &str, reader: &str) {
        self.a.execute(&format!("UPDATE {table} SET at = at - 172800000000 WHERE {reader}"));
    }

    /// `a` forgets what nobody needs any more.
    fn forget(&self) {
        for _ in 0..2 {
            self.pass("_rowferry_floors", "1 = 1");
            self.sync("ac", 0);
        }
    }

    /// While `b` is away, `a` deletes a row, `b` writes, and the note of the deletion goes.
    fn part(&self) {
        self.a.execute("DELETE FROM t WHERE id = 2");
        self.b.execute("UPDATE t SET s = 'at B' WHERE id = 3");
        self.b.execute("INSERT INTO t VALUES (9, 'new at B')");
        self.sync("ac", 0);
        self.pass("_rowferry_readers", &format!("reader = '{}'", self.b.value("SELECT id FROM _rowferry_site")));
        self.forget();
        assert_eq!(self.a.value(NOTES), "0", "{:?}", self.a.engine());
        assert!(self.readers().iter().any(|reader| reader["given_up"].is_number()), "{:?}", self.readers());
    }

    /// Who reads the table of `a`.
    fn readers(&self) -> Vec<Value> {
        let status = self.json(&["capture", "status", "ab"]);
        status["databases"][0]["tables"][0]["readers"].as_array().expect("readers").clone()
    }

    fn rows(&self, of: &TestDb) -> String {
        let rows = of.query("SELECT id, s FROM t ORDER BY id");
        let row = |row: &Vec<Option<String>>| row.iter().flatten().cloned().collect::<Vec<_>>().join(" ");
        rows.iter().map(row).collect::<Vec<_>>().join(", ")
    }

    #[track_caller]
    fn conflict(&self) -> Value {
        let list = self.json(&["conflicts", "list"]);
        assert_eq!(list.as_array().map(Vec::len), Some(1), "{list}");
        list[0].clone()
    }
}

#[test]
fn what_a_database_brings_back_stands_as_a_conflict_and_what_it_wrote_arrives() {
    for (engine, keep) in Engine::available().into_iter().zip(["source", "target"].into_iter().cycle()) {
        let ends = Ends::new(engine, "direction: bidirectional");
        ends.part();
        ends.sync("ab", 1);
        let conflict = ends.conflict();
        assert_eq!((&conflict["winner"], &conflict["key"]), (&json!("open"), &json!({ "id": "2" })), "{conflict}");
        assert_eq!((&conflict["source"], &conflict["target"]["s"]), (&json!(null), &json!("two")), "{conflict}");
        let others = "3 at B, 4 four, 5 five, 6 six, 9 new at B";
        assert_eq!(ends.rows(&ends.a), format!("1 one, {others}"), "{engine:?}");
        assert_eq!(ends.rows(&ends.b), format!("1 one, 2 two, {others}"), "{engine:?}");
        // It stays so, whatever is written to the row.
        ends.b.execute("UPDATE t SET s = 'two again' WHERE id = 2");
        ends.sync("ab", 1);
        assert_eq!(ends.rows(&ends.a), format!("1 one, {others}"), "{engine:?}");
        let id = conflict["id"].as_str().expect("an id");
        ends.json(&["conflicts", "resolve", id, "--keep", keep]);
        ends.sync("ab", 0);
        assert_equal(&ends.a, &ends.b);
        let stands = if keep == "source" { "0" } else { "1" };
        assert_eq!(ends.a.value("SELECT count(*) FROM t WHERE id = 2"), stands, "{engine:?}");
    }
}

#[test]
fn a_preferred_side_decides_about_what_comes_back() {
    for (first_run, stands) in [("source-wins", "0"), ("target-wins", "1")] {
        let ends = Ends::new(Engine::Sqlite, &format!("direction: bidirectional, first_run: {first_run}"));
        ends.part();
        ends.sync("ab", 0);
        ends.sync("ab", 0);
        assert_equal(&ends.a, &ends.b);
        assert_eq!(ends.a.value("SELECT count(*) FROM t WHERE id = 2"), stands, "{first_run}");
        let conflict = ends.conflict();
        assert_eq!((&conflict["policy"], &conflict["target"]["s"]), (&json!(first_run), &json!("two")), "{conflict}");
    }
}

/// Nothing goes back, so the source makes the deletion anew; what the target itself wrote stays.
#[test]
fn a_target_that_only_receives_loses_what_was_deleted_meanwhile() {
    for engine in Engine::available() {
        let ends = Ends::new(engine, "direction: push");
        ends.part();
        ends.sync("ab", 0);
        assert_eq!(ends.rows(&ends.b), "1 one, 3 at B, 4 four, 5 five, 6 six, 9 new at B", "{engine:?}");
        let conflict = ends.conflict();
        assert_eq!((&conflict["source"], &conflict["target"]["s"]), (&json!(null), &json!("two")), "{conflict}");
    }
}

#[test]
fn a_row_inserted_under_a_forgotten_key_travels() {
    for engine in Engine::available() {
        let ends = Ends::new(engine, "direction: bidirectional");
        ends.a.execute("DELETE FROM t WHERE id = 2");
        ends.sync("ab", 0);
        ends.sync("ac", 0);
        ends.forget();
        assert_eq!(ends.a.value(NOTES), "0", "{engine:?}");
        ends.a.execute("INSERT INTO t VALUES (2, 'another')");
        ends.sync("ac", 0);
        ends.sync("ab", 0);
        for database in [&ends.b, &ends.c] {
            assert_eq!(database.value("SELECT s FROM t WHERE id = 2"), "another", "{engine:?}");
        }
    }
}

/// A note stays as long as there is a database that reads and has not heard of it, or is not old enough.
#[test]
fn a_note_stays_while_someone_may_need_it() {
    let ends = Ends::new(Engine::Sqlite, "direction: bidirectional");
    ends.a.execute("DELETE FROM t WHERE id = 2");
    for _ in 0..3 {
        ends.sync("ac", 0);
        ends.sync("ab", 0);
    }
    assert_eq!(ends.a.value(NOTES), "1", "it is not a day old");
    ends.forget();
    assert_eq!(ends.a.value(NOTES), "0", "all have heard of it");
    ends.a.execute("DELETE FROM t WHERE id = 4");
    ends.sync("ac", 0);
    ends.forget();
    assert_eq!(ends.a.value(NOTES), "1", "b has not heard of the second");
    ends.sync("ab", 0);
    ends.forget();
    ends.forget();
    assert_eq!(ends.a.value(NOTES), "0", "all have");
    assert_equal(&ends.a, &ends.b);
}
