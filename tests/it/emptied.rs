//! Tables that lose their rows: all at once by a statement that names none, or most of them in one go.

use std::path::Path;

use crate::support::{Engine, TestDb, assert_equal, rowferry_in};

fn config(folder: &Path, a: &TestDb, b: &TestDb) {
    let text = format!(
        "node: test\ndatabases:\n  a: {{ url: \"{}\" }}\n  b: {{ url: \"{}\" }}\nsyncs:\n  \
         s: {{ source: a, target: b, direction: bidirectional, tables: [t, other] }}\n",
        a.url(),
        b.url()
    );
    std::fs::write(folder.join("rowferry.yaml"), text).expect("written");
}

fn sync(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let output = rowferry_in(folder, &[&["sync"], arguments].concat());
    (output.code, output.stderr + &output.stdout)
}

const ROWS: &str = "CREATE TABLE other (id INTEGER NOT NULL PRIMARY KEY, note VARCHAR(20)); \
                    INSERT INTO other VALUES (1, 'x')";

/// Rows 1 to 200 in `t`.
fn fill(db: &TestDb) {
    let values: Vec<String> = (1..=200).map(|at| format!("({at}, 'row')")).collect();
    db.execute(&format!("INSERT INTO t VALUES {}", values.join(", ")));
}

/// Of a table as it is, and of one in partitions.
#[test]
fn a_truncated_table_is_emptied_at_the_other_end() {
    let partitions = "CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, note VARCHAR(20)) PARTITION BY RANGE (id); \
                      CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (101); \
                      CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (101) TO (10000)";
    let whole = "CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, note VARCHAR(20))";
    for other in Engine::available() {
        for (make, truncate, kept) in [(whole, "TRUNCATE t", 0), (partitions, "TRUNCATE t1", 100)] {
            let (a, b) = (TestDb::new(Engine::Postgres), TestDb::new(other));
            let folder = tempfile::tempdir().expect("a folder");
            config(folder.path(), &a, &b);
            a.execute(&format!("{make}; {ROWS}"));
            fill(&a);
            assert_eq!(sync(folder.path(), &[]).0, 0);
            // Some rows have been written since, at either end.
            a.execute("UPDATE t SET note = 'written' WHERE id IN (5, 150)");
            b.execute("UPDATE t SET note = 'written' WHERE id IN (6, 160)");
            assert_eq!(sync(folder.path(), &[]).0, 0);
            a.execute(&format!("{truncate}; INSERT INTO t VALUES (7, 'after')"));
            b.execute("INSERT INTO t VALUES (1000, 'meanwhile')");
            let (code, said) = sync(folder.path(), &[]);
            if kept == 0 {
                assert_eq!(code, 1, "{other:?}: {said}");
                assert!(said.contains("--force") && said.contains(" of the 201 rows of t"), "{other:?}: {said}");
                assert_eq!(b.value("SELECT count(*) FROM t"), "201", "nothing was changed");
            }
            let (code, said) = sync(folder.path(), &["--force"]);
            assert_eq!(code, 0, "{other:?}: {said}");
            assert_equal(&a, &b);
            let left = (kept + 2).to_string();
            assert_eq!(b.value("SELECT count(*) FROM t"), left, "{other:?}");
            assert_eq!(b.value("SELECT note FROM t WHERE id = 7"), "after");
            assert_eq!(b.value("SELECT note FROM t WHERE id = 1000"), "meanwhile");
            assert_eq!(sync(folder.path(), &[]).0, 0);
            assert_eq!(b.value("SELECT count(*) FROM t"), left, "{other:?}: it comes to rest");
        }
    }
}

#[test]
fn a_flood_of_deletions_waits_for_a_word_and_other_tables_go_on() {
    for engine in Engine::available() {
        let (a, b) = (TestDb::new(engine), TestDb::new(engine));
        let folder = tempfile::tempdir().expect("a folder");
        config(folder.path(), &a, &b);
        a.execute(&format!("CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, note VARCHAR(20)); {ROWS}"));
        fill(&a);
        assert_eq!(sync(folder.path(), &[]).0, 0);
        a.execute("DELETE FROM t WHERE id <= 100");
        assert_eq!(sync(folder.path(), &[]).0, 0, "half is not more than half");
        assert_eq!(b.value("SELECT count(*) FROM t"), "100");
        fill_again(&a);
        assert_eq!(sync(folder.path(), &[]).0, 0);
        a.execute("DELETE FROM t WHERE id <= 101; UPDATE other SET note = 'goes on'; UPDATE t SET note = 'u'");
        let (code, said) = sync(folder.path(), &[]);
        assert_eq!(code, 1, "{engine:?}: {said}");
        assert!(said.contains("this would delete 101 of the 200 rows of t"), "{engine:?}: {said}");
        assert_eq!(b.value("SELECT count(*) FROM t WHERE note = 'row'"), "200", "nothing of it is applied");
        assert_eq!(b.value("SELECT note FROM other"), "goes on");
        assert_eq!(sync(folder.path(), &["--force"]).0, 0);
        assert_equal(&a, &b);
        // The deletions come back to where they began, which is no flood there.
        assert_eq!(sync(folder.path(), &[]).0, 0);
        assert_equal(&a, &b);
    }
}

fn fill_again(db: &TestDb) {
    let values: Vec<String> = (1..=100).map(|at| format!("({at}, 'row')")).collect();
    db.execute(&format!("INSERT INTO t VALUES {}", values.join(", ")));
}

/// Rows of a table that are more than one transaction takes up, several times over.
const MANY: usize = 13_000;

fn fill_many(db: &TestDb) {
    for first in (1..=MANY).step_by(1_000) {
        let values: Vec<String> = (first..first + 1_000).map(|at| format!("({at}, 'row')")).collect();
        db.execute(&format!("INSERT INTO t VALUES {}", values.join(", ")));
    }
}

#[test]
fn a_flood_is_found_however_much_is_noted() {
    for engine in Engine::available() {
        let (a, b) = (TestDb::new(engine), TestDb::new(engine));
        let folder = tempfile::tempdir().expect("a folder");
        config(folder.path(), &a, &b);
        a.execute(&format!("CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, note VARCHAR(20)); {ROWS}"));
        fill_many(&a);
        assert_eq!(sync(folder.path(), &[]).0, 0);
        // In parts, while changes are read: some rows are written again before the last part is taken up.
        a.execute(
            "UPDATE t SET note = 'once'; UPDATE t SET note = 'twice' WHERE id > 12000; DELETE FROM t WHERE id <= 20",
        );
        let (code, said) = sync(folder.path(), &[]);
        assert_eq!(code, 0, "{engine:?}: {said}");
        assert_equal(&a, &b);
        a.execute("UPDATE t SET note = 'three' WHERE id <= 6000; DELETE FROM t WHERE id > 6000");
        let (code, said) = sync(folder.path(), &[]);
        assert_eq!(code, 1, "{engine:?}: {said}");
        assert!(said.contains("this would delete 7000 of the 12980 rows of t"), "{engine:?}: {said}");
        assert_eq!(b.value("SELECT count(*) FROM t WHERE note = 'three'"), "0", "{engine:?}: nothing of it is applied");
        assert_eq!(sync(folder.path(), &["--force"]).0, 0, "{engine:?}");
        assert_equal(&a, &b);
    }
}
