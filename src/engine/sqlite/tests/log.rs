//! What only SQLite's change logs must cope with.

use std::collections::BTreeSet;

use super::*;
use crate::engine::{ChangeLog, RowLock};

/// A table whose writes are logged under `key`.
struct LoggedTable {
    fixture: Fixture,
    /// The application's connection.
    target: Box<dyn Target>,
    log: ChangeLog,
    /// Its key, and all its columns, as one text each.
    key: String,
    row: String,
}

impl LoggedTable {
    async fn new(ddl: &str, key: &str) -> Self {
        let fixture = Fixture::new(ddl).await;
        let log = log_of(&fixture, key).await.unwrap();
        let columns = &fixture.table("t").await.columns;
        let row =
            columns.iter().map(|c| format!("quote({})", ddl::quote(&c.name))).collect::<Vec<_>>().join(" || ',' || ");
        let target = fixture.db.target().await.unwrap();
        let mut this = Self { fixture, target, log, key: format!("quote({key})"), row };
        this.run("PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY").await;
        for sql in this.log.install.clone() {
            this.run(&sql).await;
        }
        this
    }

    async fn run(&mut self, sql: &str) {
        self.target.execute(sql).await.unwrap();
    }

    fn texts(&self, sql: &str) -> Vec<String> {
        self.fixture.texts(sql)
    }

    /// Every row, its key first.
    fn rows(&self) -> BTreeSet<(String, String)> {
        let (key, row) = (&self.key, &self.row);
        let (keys, rows) =
            (format!("SELECT {key} FROM t ORDER BY {row}"), format!("SELECT {row} FROM t ORDER BY {row}"));
        let keys = self.texts(&keys);
        keys.into_iter().zip(self.texts(&rows)).collect()
    }

    /// Runs `sql`; the keys that were logged, and those of rows that came, went or changed.
    async fn logged_and_changed(&mut self, sql: &str) -> (BTreeSet<String>, BTreeSet<String>) {
        self.run("DELETE FROM _rowferry_log_1").await;
        let before = self.rows();
        self.run(sql).await;
        let after = self.rows();
        let logged = self.texts(&format!("SELECT {} FROM _rowferry_log_1", self.key));
        (logged.into_iter().collect(), before.symmetric_difference(&after).map(|(key, _)| key.clone()).collect())
    }
}

async fn log_of(fixture: &Fixture, key: &str) -> Result<ChangeLog> {
    let table = fixture.table("t").await;
    let key = Key { columns: vec![table.column(key).unwrap()] };
    Ok(fixture.db.change_logs(&[Logged { n: 1, table, key }])?.remove(0))
}

#[tokio::test]
async fn rows_that_a_replace_removes_are_logged() {
    // Rows (k, a, b) that stand, and each unique index that pushes some of them out.
    for (ddl, key) in [
        ("CREATE TABLE t (k TEXT PRIMARY KEY, a TEXT UNIQUE, b INT)", "k"),
        ("CREATE TABLE t (k TEXT PRIMARY KEY, a TEXT UNIQUE, b INT) WITHOUT ROWID", "k"),
        ("CREATE TABLE t (k TEXT PRIMARY KEY, a TEXT UNIQUE ON CONFLICT REPLACE, b INT)", "k"),
        ("CREATE TABLE t (k TEXT COLLATE NOCASE PRIMARY KEY, a TEXT, b INT)", "k"),
        ("CREATE TABLE t (k TEXT PRIMARY KEY, a TEXT NOT NULL UNIQUE, b INT)", "a"),
        ("CREATE TABLE t (b INTEGER PRIMARY KEY, a TEXT UNIQUE, k TEXT NOT NULL UNIQUE)", "k"),
        ("CREATE TABLE t (k TEXT PRIMARY KEY, a TEXT, b INT); CREATE UNIQUE INDEX i ON t (lower(a))", "k"),
        ("CREATE TABLE t (k TEXT PRIMARY KEY, a TEXT, b INT); CREATE UNIQUE INDEX i ON t (a COLLATE NOCASE DESC)", "k"),
        ("CREATE TABLE t (k TEXT PRIMARY KEY, a TEXT, b INT); CREATE UNIQUE INDEX i ON t (a, b)", "k"),
        ("CREATE TABLE t (k TEXT PRIMARY KEY, a TEXT, b INT); CREATE UNIQUE INDEX i ON t (a) WHERE b > 1", "k"),
        ("CREATE TABLE t (k TEXT PRIMARY KEY, a TEXT, b INT); CREATE UNIQUE INDEX i ON t (a || ',)', abs(b))", "k"),
        ("CREATE TABLE t (k TEXT PRIMARY KEY, a TEXT, b INT, g AS (upper(a)) UNIQUE)", "k"),
        ("CREATE TABLE t (k TEXT PRIMARY KEY, a TEXT, b INT, g GENERATED ALWAYS AS (a || b) STORED UNIQUE)", "k"),
    ] {
        let Some(filled) = fill(ddl, key).await else { panic!("{ddl}: nothing was written") };
        assert!(filled > 5, "{ddl}: too few of the statements changed a row");
    }
}

/// Every statement over every pair of values: what changed is logged, and little besides.
async fn fill(ddl: &str, key: &str) -> Option<u32> {
    let mut t = LoggedTable::new(ddl, key).await;
    let mut changes = 0;
    for (k, a, b) in [("x", "a", 2), ("X", "A", 2), ("z", "a", 2), ("z", "A", 1), ("y", "b", 2), ("y", "A", 2)] {
        for statement in [
            format!("INSERT OR REPLACE INTO t (k, a, b) VALUES ('{k}', '{a}', {b})"),
            format!("REPLACE INTO t (k, a, b) SELECT '{k}', '{a}', {b}"),
            format!("UPDATE OR REPLACE t SET k = '{k}' WHERE a = 'b'"),
            format!("UPDATE OR REPLACE t SET a = '{a}', b = {b} WHERE k = 'y'"),
            format!("UPDATE OR REPLACE t SET b = 2, a = 'a' WHERE k = '{k}'"),
            format!("INSERT OR IGNORE INTO t (k, a, b) VALUES ('{k}', '{a}', {b})"),
        ] {
            t.fixture
                .run("DELETE FROM t; INSERT INTO t (k, a, b) VALUES ('x', 'a', 2), ('y', 'b', 5), ('w', 'c', 9)")
                .await;
            let (logged, changed) = t.logged_and_changed(&statement).await;
            assert!(logged.is_superset(&changed), "{ddl}: {statement}: changed {changed:?}, logged {logged:?}");
            if !statement.contains("IGNORE") {
                // An update that changes nothing is logged, too.
                assert!(
                    logged.len() <= changed.len() + 1,
                    "{ddl}: {statement}: changed {changed:?}, logged {logged:?}"
                );
                assert!(!logged.contains("'w'"), "{ddl}: {statement}: {logged:?}");
            }
            changes += u32::from(!changed.is_empty());
        }
    }
    (changes > 0).then_some(changes)
}

#[tokio::test]
async fn a_condition_guards_its_expressions_in_triggers_too() {
    let ddl = "CREATE TABLE t (k INTEGER PRIMARY KEY, doc TEXT);
               CREATE UNIQUE INDEX i ON t (json_extract(doc, '$.id')) WHERE json_valid(doc)";
    let mut t = LoggedTable::new(ddl, "k").await;
    // Where the condition does not hold, the expression would fail the write.
    t.run("INSERT INTO t VALUES (1, 'no JSON'), (2, '{\"id\": 7}'), (3, NULL)").await;
    t.run("UPDATE t SET doc = 'none either' WHERE k = 1").await;
    let (logged, changed) = t.logged_and_changed("REPLACE INTO t VALUES (4, '{\"id\": 7, \"x\": 1}')").await;
    assert_eq!(logged, changed);
    assert_eq!(logged, BTreeSet::from(["2".to_owned(), "4".to_owned()]));
}

#[tokio::test]
async fn an_update_that_keeps_unique_values_is_one_line() {
    let mut t = LoggedTable::new("CREATE TABLE t (k INTEGER PRIMARY KEY, a TEXT UNIQUE, b INT)", "k").await;
    t.run("INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2)").await;
    t.run("DELETE FROM _rowferry_log_1; UPDATE t SET b = 3").await;
    assert_eq!(t.texts("SELECT _rowferry_op || k FROM _rowferry_log_1 ORDER BY 1"), ["U1", "U2"]);
}

#[tokio::test]
async fn keys_are_logged_as_they_stand() {
    let mut t = LoggedTable::new("CREATE TABLE t (k PRIMARY KEY, v INT)", "k").await;
    t.run("INSERT INTO t VALUES (1, 0), ('1', 0), (x'31', 0), (NULL, 1), (NULL, 2), (1.5, 0)").await;
    let kinds = "SELECT group_concat(typeof(k) || ' ' || quote(k)) FROM";
    let expected = "integer 1,text '1',blob X'31',null NULL,null NULL,real 1.5";
    assert_eq!(t.texts(&format!("{kinds} _rowferry_log_1")), [expected]);

    // 1 and 1.0 are equal, yet another value.
    t.run("DELETE FROM _rowferry_log_1; UPDATE t SET k = 1.0 WHERE typeof(k) = 'integer'").await;
    let moved = t.texts("SELECT _rowferry_op || typeof(k) FROM _rowferry_log_1 ORDER BY 1");
    assert_eq!(moved, ["Dinteger", "Ureal"]);
}

#[tokio::test]
async fn a_key_that_no_row_could_be_found_by_is_told() {
    let mut t = LoggedTable::new("CREATE TABLE t (k DATETIME NOT NULL PRIMARY KEY)", "k").await;
    t.run("INSERT INTO t VALUES ('2024-02-29 12:34:56')").await;
    assert_eq!(t.target.scan(&t.log.table, None, 9).await.unwrap().rows(), 1);
    t.run("INSERT INTO t VALUES ('2024-02-29T12:34:57')").await;
    // Looked up in the usual form it would be missing, which reads like a delete.
    let error = t.target.scan(&t.log.table, None, 9).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::BadData, "{error}");
}

#[tokio::test]
async fn any_name_of_the_row_number_changes_the_key() {
    let mut t = LoggedTable::new("CREATE TABLE t (id INTEGER PRIMARY KEY, v INT)", "id").await;
    t.run("INSERT INTO t VALUES (1, 1); DELETE FROM _rowferry_log_1; UPDATE t SET rowid = 5").await;
    let lines = t.texts("SELECT _rowferry_op || id FROM _rowferry_log_1 ORDER BY 1");
    assert_eq!(lines, ["D1", "U5"]);
}

#[tokio::test]
async fn an_outer_conflict_clause_changes_no_line() {
    let mut t = LoggedTable::new("CREATE TABLE t (id INTEGER PRIMARY KEY, v INT CHECK (v < 9))", "id").await;
    t.run("INSERT INTO t VALUES (1, 1)").await;
    t.run("INSERT OR IGNORE INTO t VALUES (1, 2), (2, 2), (3, 9)").await;
    assert!(t.target.execute("INSERT OR FAIL INTO t VALUES (4, 4), (5, 9)").await.is_err());
    let lines = t.texts("SELECT _rowferry_op || id FROM _rowferry_log_1 ORDER BY _rowferry_id");
    assert_eq!(lines, ["I1", "I2", "I4"], "what stayed is logged, what did not is not");
    assert_eq!(t.texts("SELECT count(*) FROM t"), ["3"]);
}

#[tokio::test]
async fn a_log_of_another_key_is_refused_and_harms_nobody() {
    let mut t = LoggedTable::new("CREATE TABLE t (a INT NOT NULL UNIQUE, b INT NOT NULL UNIQUE)", "a").await;
    let other = log_of(&t.fixture, "b").await.unwrap();
    let mut target = t.fixture.db.target().await.unwrap();
    target.begin(WriteOptions::default()).await.unwrap();
    let mut refused = None;
    for sql in &other.install {
        refused = refused.or(target.execute(sql).await.err());
    }
    target.rollback().await.unwrap();
    assert_eq!(refused.expect("an error").kind, ErrorKind::SchemaMismatch);
    t.run("INSERT INTO t VALUES (1, 2)").await;
    assert_eq!(t.texts("SELECT a FROM _rowferry_log_1"), ["1"]);
}

#[tokio::test]
async fn a_key_with_a_name_of_ours_is_refused() {
    let fixture = Fixture::new("CREATE TABLE t (_ROWFERRY_at INT NOT NULL PRIMARY KEY)").await;
    let error = log_of(&fixture, "_ROWFERRY_at").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
}

#[tokio::test]
async fn labelled_writes_run_foreign_key_actions_and_no_triggers() {
    let ddl = "CREATE TABLE t (id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1);
               CREATE TABLE c (id INTEGER PRIMARY KEY, t REFERENCES t ON DELETE CASCADE); INSERT INTO c VALUES (2, 1)";
    let t = LoggedTable::new(ddl, "id").await;
    let mut target = t.fixture.db.target().await.unwrap();
    target.begin(WriteOptions { labelled: true, ..WriteOptions::default() }).await.unwrap();
    target.write(WriteMode::Delete, &batch(&t.fixture.table("t").await, &[vec![Value::Int(1)]])).await.unwrap();
    target.commit().await.unwrap();
    assert_eq!(t.texts("SELECT (SELECT count(*) FROM c) || (SELECT count(*) FROM _rowferry_log_1)"), ["00"]);
}

#[tokio::test]
async fn a_point_outlasts_a_writer_and_keeps_none_waiting() {
    let fixture = Fixture::new("PRAGMA journal_mode = WAL; CREATE TABLE t (id INTEGER PRIMARY KEY)").await;
    let table = fixture.table("t").await;
    let (mut reader, mut writer) = (fixture.db.target().await.unwrap(), fixture.db.target().await.unwrap());
    writer.begin(WriteOptions::default()).await.unwrap();
    writer.write(WriteMode::Insert, &batch(&table, &[vec![Value::Int(1)]])).await.unwrap();
    reader.begin(WriteOptions { point: true, ..WriteOptions::default() }).await.unwrap();
    writer.commit().await.unwrap();
    let keys = batch(&table, &[vec![Value::Int(1)]]);
    assert_eq!(reader.lookup(&table, &keys, RowLock::None).await.unwrap().rows(), 0);
    reader.rollback().await.unwrap();
    reader.begin(WriteOptions { point: true, ..WriteOptions::default() }).await.unwrap();
    assert_eq!(reader.lookup(&table, &keys, RowLock::None).await.unwrap().rows(), 1);
}

/// The plan of a statement after those of `before`, one step a line.
fn plan(fixture: &Fixture, before: &str, sql: &str) -> String {
    let conn = connect::connect(&fixture.db.settings, Access::Write).unwrap();
    conn.execute_batch(before).unwrap();
    let mut statement = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let (mut rows, mut steps) = (statement.raw_query(), Vec::new());
    while let Some(row) = rows.next().unwrap() {
        steps.push(row.get::<_, String>(3).unwrap());
    }
    steps.join("\n")
}

/// The plan of a lookup by the columns at these positions.
async fn lookup_plan(fixture: &Fixture, name: &str, columns: &[usize]) -> String {
    let join = lookup::Join::new(&*fixture.table(name).await, columns);
    plan(fixture, &join.make, &join.select)
}

#[tokio::test]
async fn rows_are_found_by_an_index() {
    let fixture = Fixture::new(
        "CREATE TABLE t (a TEXT COLLATE NOCASE, b INT NOT NULL, c INT, PRIMARY KEY (a, b));
         CREATE TABLE r (id INTEGER PRIMARY KEY, v INT); CREATE TABLE u (a INT UNIQUE, v INT);
         CREATE TABLE w (a INT PRIMARY KEY, v INT) WITHOUT ROWID",
    )
    .await;
    for (name, columns) in [("t", &[0, 1][..]), ("t", &[1, 0]), ("t", &[0]), ("r", &[0]), ("u", &[0]), ("w", &[0])] {
        let plan = lookup_plan(&fixture, name, columns).await;
        assert!(plan.contains(&format!("SEARCH {name} USING")), "{name} by {columns:?}: {plan}");
    }
    // Without an index it is read once, not once for each key.
    let plan = lookup_plan(&fixture, "t", &[2]).await;
    assert!(plan.starts_with("SCAN t") && plan.contains("SEARCH k USING"), "{plan}");
}

#[tokio::test]
async fn a_touch_finds_its_rows_by_the_index_that_is_meant() {
    let ddl = "CREATE TABLE t (k INTEGER PRIMARY KEY, a TEXT UNIQUE, b TEXT, c INT);
               CREATE UNIQUE INDEX i ON t (lower(b)); CREATE UNIQUE INDEX j ON t (c) WHERE c > 5";
    let fixture = Fixture::new(ddl).await;
    let log = log_of(&fixture, "k").await.unwrap();
    let touches: Vec<&str> =
        log.install.iter().flat_map(|sql| sql.split(";\n")).filter(|s| s.contains("'T'")).collect();
    assert_eq!(touches.len(), 6, "an insert and an update for each of three indexes: {touches:?}");
    fixture.run(&log.install[0]).await;
    for touch in touches {
        let statement = touch[touch.find("INSERT INTO").unwrap()..].replace("NEW.\"", ":\"").replace("OLD.\"", ":\"");
        let statement = statement.replace(":\"", ":").replace('"', "");
        let plan = plan(&fixture, "", statement.trim_end_matches("\nEND").trim_end_matches(';'));
        assert!(plan.contains("SEARCH t USING") && !plan.contains("SCAN t"), "{statement}: {plan}");
    }
}
