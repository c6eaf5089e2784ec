//! A database that was restored, or copied, is noticed, and nothing is lost by it.

use std::path::Path;

use rowferry::engine::{OpenOptions, open};
use rowferry::model::{Site, TableName};
use rowferry::site::{Reader, install};

use crate::support::{Engine, TestDb, assert_equal, in_turn, rowferry_in};

const TABLE: &str = "CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, note VARCHAR(40))";

fn config(folder: &Path, databases: &[(&str, &TestDb)], syncs: &[(&str, &str)]) {
    let databases: String =
        databases.iter().map(|(name, db)| format!("  {name}: {{ url: \"{}\" }}\n", db.url())).collect();
    let syncs: String = syncs
        .iter()
        .map(|(a, b)| format!("  {a}{b}: {{ source: {a}, target: {b}, direction: bidirectional, tables: [t] }}\n"))
        .collect();
    std::fs::write(folder.join("rowferry.yaml"), format!("node: test\ndatabases:\n{databases}syncs:\n{syncs}"))
        .expect("written");
}

/// Everything in a database: its rows and what is noted of them; put back later as from a backup.
struct Backup(Vec<Saved>);

/// A table, its columns and its rows.
type Saved = (String, String, Vec<Vec<Option<String>>>);

impl Backup {
    fn of(db: &TestDb) -> Self {
        let mut tables = db.own_tables();
        tables.sort();
        tables.push("t".to_owned());
        let saved = |table: String| {
            let (columns, text) = columns(db, &table);
            let rows = db.query(&format!("SELECT {text} FROM {table}"));
            (table, columns, rows)
        };
        // SQLite names triggers beside them.
        tables.retain(|table| !columns(db, table).0.is_empty());
        Self(tables.into_iter().map(saved).collect())
    }

    fn restore(&self, db: &TestDb) {
        // The log last: what putting rows back has noted is no part of the backup.
        for (table, ..) in &self.0 {
            db.execute(&format!("DELETE FROM {table}"));
        }
        for (table, columns, rows) in self.0.iter().rev() {
            for row in rows {
                let values: Vec<String> = row
                    .iter()
                    .map(|value| match value {
                        None => "NULL".to_owned(),
                        Some(text) => text.clone(),
                    })
                    .collect();
                db.execute(&format!("INSERT INTO {table} ({columns}) VALUES ({})", values.join(", ")));
            }
        }
        let logs = self.0.iter().filter(|(table, ..)| table.starts_with("_rowferry_log"));
        for (table, _, rows) in logs {
            assert!(rows.is_empty(), "nothing was under way");
            db.execute(&format!("DELETE FROM {table}"));
        }
    }
}

/// The columns of a table, and expressions that give each value as a literal.
fn columns(db: &TestDb, table: &str) -> (String, String) {
    let sql = match db.engine() {
        Engine::Sqlite => format!("SELECT name FROM pragma_table_info('{table}')"),
        Engine::Postgres => format!(
            "SELECT column_name FROM information_schema.columns WHERE table_name = '{table}' ORDER BY ordinal_position"
        ),
        Engine::Mariadb | Engine::Mysql => format!(
            "SELECT CONCAT(column_name, IF(data_type IN ('int', 'bigint'), '#', '')) FROM information_schema.columns \
             WHERE table_schema = DATABASE() AND table_name = '{table}' ORDER BY ordinal_position"
        ),
    };
    let told: Vec<String> = db.query(&sql).into_iter().flatten().flatten().collect();
    let names: Vec<String> = told.iter().map(|name| name.trim_end_matches('#').to_owned()).collect();
    let quote = |name: &String| {
        if matches!(db.engine(), Engine::Mariadb | Engine::Mysql) { format!("`{name}`") } else { format!("\"{name}\"") }
    };
    let literal = |name: &String| {
        let number = told.contains(&format!("{name}#"));
        let name = quote(name);
        match db.engine() {
            Engine::Mariadb | Engine::Mysql if number => format!("CAST({name} AS CHAR)"),
            Engine::Sqlite => format!("quote({name})"),
            Engine::Postgres => format!("quote_nullable({name})"),
            Engine::Mariadb | Engine::Mysql => format!(
                "CASE WHEN {name} IS NULL THEN NULL ELSE CONCAT('X''', HEX(CAST({name} AS CHAR CHARACTER SET binary)), '''') END"
            ),
        }
    };
    let list = |of: &dyn Fn(&String) -> String| names.iter().map(of).collect::<Vec<_>>().join(", ");
    (list(&quote), list(&literal))
}

fn sync(folder: &Path, what: &str) -> String {
    let output = rowferry_in(folder, &["sync", what]);
    assert_eq!(output.code, 0, "{what}: {output:?}");
    output.stderr
}

/// Restored after it has sent and received; then both ends go on writing under keys that the lost time knew.
#[test]
fn a_restored_database_loses_nothing_that_anybody_else_has() {
    for (nth, engine) in Engine::available().into_iter().enumerate() {
        for restored in in_turn(nth, [0, 1]) {
            let ends = [TestDb::new(engine), TestDb::new(engine)];
            let folder = tempfile::tempdir().expect("a folder");
            config(folder.path(), &[("a", &ends[0]), ("b", &ends[1])], &[("a", "b")]);
            ends[0].execute(&format!("{TABLE}; INSERT INTO t VALUES (1, 'one'), (2, 'two'), (3, 'three')"));
            sync(folder.path(), "ab");
            ends[0].execute("UPDATE t SET note = 'at a, kept' WHERE id = 1");
            sync(folder.path(), "ab");
            sync(folder.path(), "ab");
            let backup = Backup::of(&ends[restored]);
            ends[restored].execute("UPDATE t SET note = 'sent, then lost' WHERE id = 2; DELETE FROM t WHERE id = 3");
            ends[restored].execute("INSERT INTO t VALUES (4, 'sent too')");
            sync(folder.path(), "ab");
            sync(folder.path(), "ab");
            backup.restore(&ends[restored]);
            // It counts on past the number that the other end has read.
            for at in 0..9 {
                ends[restored].execute(&format!("INSERT INTO t VALUES (1{at}, 'after')"));
            }
            ends[restored].execute("UPDATE t SET note = 'after' WHERE id = 2");
            let said = sync(folder.path(), "ab");
            assert!(said.contains("restored"), "{engine:?} {restored}: not noticed: {said}");
            sync(folder.path(), "ab");
            assert_equal(&ends[0], &ends[1]);
            assert_eq!(ends[0].value("SELECT count(*) FROM t WHERE note = 'after'"), "10", "{engine:?} {restored}");
            assert_eq!(ends[0].value("SELECT note FROM t WHERE id = 4"), "sent too", "{engine:?} {restored}");
            assert_eq!(ends[0].value("SELECT count(*) FROM t WHERE id = 3"), "0", "{engine:?} {restored}");
            // Row 2 was written on both sides of the gap, neither knowing of the other.
            let met: Vec<String> = ends.iter().map(|e| e.value("SELECT count(*) FROM _rowferry_conflicts")).collect();
            assert!(met.iter().any(|count| count == "1"), "{engine:?} {restored}: {met:?}");
            assert_eq!(sync(folder.path(), "ab"), "", "{engine:?} {restored}: it comes to rest");
        }
    }
}

/// The other end has read what a database had; it is restored, and from then on only takes in. What it wrote after the
/// restore must not pass for what the other end knows of it.
#[test]
fn a_restored_database_that_only_receives_is_noticed_too() {
    for (nth, engine) in Engine::available().into_iter().enumerate() {
        // What it knew itself of the other end was lost with it, or nothing was.
        for between in in_turn(nth, ["bidirectional", "pull"]) {
            let ends = [TestDb::new(engine), TestDb::new(engine)];
            let folder = tempfile::tempdir().expect("a folder");
            config(folder.path(), &[("a", &ends[0]), ("b", &ends[1])], &[("a", "b")]);
            let file = folder.path().join("rowferry.yaml");
            let text = std::fs::read_to_string(&file).expect("the config");
            let go = |direction: &str| {
                std::fs::write(&file, text.replace("bidirectional", direction)).expect("written");
                sync(folder.path(), "ab")
            };
            ends[0].execute(&format!("{TABLE}; INSERT INTO t VALUES (1, 'one'), (2, 'two')"));
            go("bidirectional");
            ends[1].execute("UPDATE t SET note = 'at b, kept' WHERE id = 1");
            go("bidirectional");
            go("bidirectional");
            let backup = Backup::of(&ends[1]);
            ends[1].execute("UPDATE t SET note = 'sent, then lost' WHERE id = 2");
            go(between);
            go(between);
            backup.restore(&ends[1]);
            ends[1].execute("UPDATE t SET note = 'after' WHERE id = 2; INSERT INTO t VALUES (3, 'after')");
            let said = go("push");
            assert!(said.contains("restored"), "{engine:?}, {between}: not noticed: {said}");
            go("bidirectional");
            assert_equal(&ends[0], &ends[1]);
            assert_eq!(ends[0].value("SELECT note FROM t WHERE id = 3"), "after", "{engine:?}, {between}");
            let epochs = [0, 1].map(|at: usize| ends[at].value("SELECT epoch FROM _rowferry_site"));
            assert_eq!(epochs, ["1", "2"], "{engine:?}, {between}: one alone was restored: {said}");
            // Row 2 was written on both sides of the gap, neither knowing of the other.
            let met: Vec<String> = ends.iter().map(|e| e.value("SELECT count(*) FROM _rowferry_conflicts")).collect();
            assert!(met.iter().any(|count| count == "1"), "{engine:?}, {between}: {met:?}");
            assert_eq!(go("bidirectional"), "", "{engine:?}, {between}: it comes to rest");
        }
    }
}

/// A copy of a file, with all that is noted in it, takes part beside the original.
#[test]
fn a_copied_file_becomes_a_site_of_its_own() {
    for engine in Engine::available() {
        let [office, laptop, copy] = [TestDb::new(engine), TestDb::new(Engine::Sqlite), TestDb::new(Engine::Sqlite)];
        let folder = tempfile::tempdir().expect("a folder");
        let all = [("office", &office), ("laptop", &laptop), ("copy", &copy)];
        config(folder.path(), &all, &[("laptop", "office"), ("copy", "office")]);
        laptop.execute(&format!("{TABLE}; INSERT INTO t VALUES (1, 'one'), (2, 'two')"));
        sync(folder.path(), "laptopoffice");
        sync(folder.path(), "laptopoffice");
        let path = |db: &TestDb| db.url().trim_start_matches("sqlite:").to_owned();
        laptop.query("PRAGMA wal_checkpoint(TRUNCATE)");
        std::fs::copy(path(&laptop), path(&copy)).expect("copied");
        laptop.execute("INSERT INTO t VALUES (3, 'laptop'); UPDATE t SET note = 'laptop' WHERE id = 1");
        copy.execute("INSERT INTO t VALUES (4, 'copy'); UPDATE t SET note = 'copy' WHERE id = 2");
        let mut said = String::new();
        for _ in 0..4 {
            said += &sync(folder.path(), "laptopoffice");
            said += &sync(folder.path(), "copyoffice");
        }
        assert!(said.contains("is a copy"), "{engine:?}: not noticed: {said}");
        assert_equal(&laptop, &office);
        assert_equal(&copy, &office);
        assert_eq!(office.value("SELECT count(*) FROM t"), "4");
        assert_eq!(office.value("SELECT count(*) FROM t WHERE note IN ('laptop', 'copy')"), "4");
        assert_eq!(sync(folder.path(), "laptopoffice") + &sync(folder.path(), "copyoffice"), "", "it comes to rest");
        let id = |db: &TestDb| db.value("SELECT id FROM _rowferry_site");
        assert_ne!(id(&laptop), id(&copy), "{engine:?}: two databases under one name");
    }
}

/// Two syncs between the same two sites note the same reader: neither fails by the other.
#[tokio::test]
async fn a_reader_is_noted_by_two_at_once() {
    for engine in Engine::available() {
        let db = TestDb::new(engine);
        db.execute(TABLE);
        let database = open(db.url(), &OpenOptions::default()).await.expect("opened");
        let site = install(&database, &[TableName::new("t")]).await.expect("installed");
        let (mut one, mut other) = (database.target().await.expect("one"), database.target().await.expect("another"));
        for id in 1..=20 {
            let reader = |number| (Reader { site: Site { id, epoch: 1 }, number, table: 1 }, 1);
            let (here, there) = ([reader(0), reader(1)], [reader(0), reader(2)]);
            let noted = tokio::join!(site.note_readers(one.as_mut(), &here), site.note_readers(other.as_mut(), &there));
            assert!(noted.0.is_ok() && noted.1.is_ok(), "{engine:?}: {noted:?}");
        }
        assert_eq!(db.value("SELECT count(*) FROM _rowferry_readers"), "60", "{engine:?}");
    }
}
