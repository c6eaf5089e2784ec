//! What change logs and lookups promise, one clause each, on every engine.
#![allow(clippy::unwrap_used, reason = "clauses are called by tests, which the lint does not see")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::SystemTime;

use rowferry::engine::{
    self, ChangeLog, Database, ErrorKind, Logged, OpenOptions, ReadRequest, RowLock, Selection, Target, WriteMode,
    WriteOptions,
};
use rowferry::model::{Batch, BatchLimits, Cell, Column, ColumnDef, Key, LogicalType, Table, TableName, Value};

use crate::support::{Engine, Session, TestDb};

macro_rules! clauses {
    (every: $every:tt, of_servers: $of_servers:tt) => {
        clauses!(@ sqlite Sqlite $every {});
        clauses!(@ mariadb Mariadb $every $of_servers);
        clauses!(@ mysql Mysql $every $of_servers);
        clauses!(@ postgres Postgres $every $of_servers);
    };
    (@ $module:ident $engine:ident { $($every:ident)* } { $($of_servers:ident)* }) => {
        mod $module {
            use crate::support::Engine;
            $(clauses!(@ $engine $every);)*
            $(clauses!(@ $engine $of_servers);)*
        }
    };
    (@ $engine:ident $clause:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $clause() {
            // MySQL itself may be missing, the others not.
            if Engine::$engine != Engine::Mysql || Engine::available().contains(&Engine::Mysql) {
                super::$clause(Engine::$engine).await;
            }
        }
    };
}

clauses! {
    every: {
        each_kind_of_write_is_logged_under_its_keys
        upserts_are_logged_under_every_key_they_touch
        emptied_tables_are_told
        rows_that_follow_a_parent_are_logged
        what_is_rolled_back_leaves_nothing
        labelled_writes_are_told_apart
        installed_twice_is_installed_once
        removed_leaves_no_trace
        a_missing_trigger_is_noticed
        installing_while_rows_are_written_loses_none
        a_late_commit_is_found
        the_application_reads_back_what_it_would_without_us
        hostile_names_are_names
        keys_of_every_kind_go_through_log_and_lookup
        composite_keys_go_through_log_and_lookup
        keys_are_looked_up_by_bytes
        many_keys_are_looked_up_at_once
        null_agrees_with_null
        rows_are_looked_up_by_some_of_their_columns
        a_lookup_sees_what_its_transaction_wrote
        one_point_is_one_point
        a_scan_is_bounded_and_ordered
        lines_are_taken_out_by_their_own_key
        the_database_tells_the_time
    },
    of_servers: {
        held_rows_are_left_out_without_waiting
        a_locked_row_waits_for_its_lock
        a_kept_row_stays_and_one_that_goes_is_left_out
        an_account_without_rights_on_the_log_writes_as_before
    }
}

/// What is said differently to each engine.
struct Dialect {
    /// First in each session of the application.
    session: &'static str,
    /// A type of text that is compared by bytes and can be a key.
    text: &'static str,
    /// Before `folded` can be used, and such a type: text that is compared without regard to case.
    prelude: &'static str,
    folded: &'static str,
    /// Types of keys with values in the engine's SQL, all different.
    keys: &'static [(&'static str, &'static [&'static str])],
    /// Statements over `u`, which holds (1,'a'), (2,'b'), and the keys that they touch.
    upserts: &'static [(&'static str, &'static [&'static str])],
    /// Empties table `t` of the keys 1 and 2, and the lines that tell it.
    empty: (&'static str, &'static [(&'static str, &'static str)]),
    /// Everything that the catalogue holds, as rows.
    catalogue: &'static str,
    /// `$trigger` on table `t` goes.
    drop_trigger: &'static str,
    /// Statements over `numbered (id, name)` and queries whose answers an application relies on.
    read_back: &'static [&'static str],
    /// Its `id` numbers itself.
    numbered: &'static str,
    /// An account `$role` that may use table `t` and nothing else, and what removes it.
    account: (&'static str, &'static str),
}

const SQLITE: Dialect = Dialect {
    session: "PRAGMA foreign_keys = ON",
    text: "TEXT",
    prelude: "",
    folded: "TEXT COLLATE NOCASE",
    keys: &[
        ("INTEGER", &["1", "-9223372036854775808", "9223372036854775807"]),
        ("BIGINT", &["0", "-5"]),
        ("TEXT", &["'a'", "'A'", "'a '", "''", "'é 日本 🦀'", "'it''s'"]),
        ("BLOB", &["x'00'", "x'00ff27'", "x''", "x'61'"]),
        ("UUID", &["'00000000-0000-0000-0000-000000000001'", "'ffffffff-ffff-4fff-8fff-ffffffffffff'"]),
        ("NUMERIC(12,2)", &["1", "1.5", "-0.01", "9999999999.99"]),
        ("DECIMAL_TEXT(30,10)", &["'12345678901234567890.1234567890'", "'-0.0000000001'"]),
        ("DATETIME", &["'2024-02-29 12:34:56.123456'", "'0001-01-01 00:00:00'"]),
        ("TIMESTAMPTZ", &["'2024-02-29 12:34:56+00:00'"]),
        ("DATE", &["'2024-02-29'", "'9999-12-31'"]),
        ("UNSIGNED64_TEXT", &["'18446744073709551615'", "'0'"]),
        ("BOOLEAN", &["0", "1"]),
        ("DOUBLE", &["0.1", "1e300", "-2.5"]),
        ("ANY_BLOB", &["1", "'1'", "x'31'", "1.5"]),
    ],
    upserts: &[
        ("INSERT INTO u VALUES (1, 'c') ON CONFLICT (id) DO UPDATE SET name = excluded.name", &["1"]),
        ("INSERT INTO u VALUES (3, 'c') ON CONFLICT (id) DO UPDATE SET name = excluded.name", &["3"]),
        ("INSERT INTO u VALUES (3, 'a') ON CONFLICT (name) DO UPDATE SET id = excluded.id", &["1", "3"]),
        ("REPLACE INTO u VALUES (1, 'c')", &["1"]),
        ("REPLACE INTO u VALUES (1, 'b')", &["1", "2"]),
        ("REPLACE INTO u VALUES (3, 'b')", &["2", "3"]),
        ("UPDATE OR REPLACE u SET name = 'b' WHERE id = 1", &["1", "2"]),
        ("UPDATE OR REPLACE u SET id = 2 WHERE id = 1", &["1", "2"]),
    ],
    empty: ("DELETE FROM t", &[("1", "D"), ("2", "D")]),
    catalogue: "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 1, 2",
    drop_trigger: "DROP TRIGGER $trigger",
    read_back: &[
        "INSERT INTO numbered (name) VALUES ('a') RETURNING id, name",
        "SELECT last_insert_rowid(), changes()",
        "INSERT INTO numbered (name) VALUES ('b'), ('c')",
        "SELECT last_insert_rowid(), changes()",
        "UPDATE numbered SET name = 'd' WHERE id > 1 RETURNING id",
        "SELECT last_insert_rowid(), changes()",
        "REPLACE INTO numbered VALUES (1, 'e')",
        "SELECT last_insert_rowid(), changes()",
        "DELETE FROM numbered WHERE id < 3 RETURNING name",
        "SELECT last_insert_rowid(), changes()",
        "INSERT OR IGNORE INTO numbered VALUES (3, 'e')",
        "SELECT last_insert_rowid(), changes()",
        "SELECT * FROM numbered ORDER BY id",
    ],
    numbered: "INTEGER PRIMARY KEY AUTOINCREMENT",
    account: ("", ""),
};

const POSTGRES: Dialect = Dialect {
    session: "",
    text: "text",
    prelude: "CREATE COLLATION folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false);",
    folded: "text COLLATE folded",
    keys: &[
        ("integer", &["1", "-2147483648"]),
        ("bigint", &["9223372036854775807", "0"]),
        ("text", &["'a'", "'A'", "'a '", "''", "'é 日本 🦀'", "'it''s'", r"E'\\b'"]),
        ("varchar(20)", &["'a'", "'a '"]),
        ("char(4)", &["'a'", "'b'"]),
        ("bytea", &[r"'\x00'", r"'\x00ff27'", r"'\x'"]),
        ("uuid", &["'00000000-0000-0000-0000-000000000001'", "'ffffffff-ffff-4fff-8fff-ffffffffffff'"]),
        ("numeric(12,2)", &["1", "1.5", "-0.01", "9999999999.99"]),
        ("numeric", &["1.50", "'NaN'", "1e40", "12345678901234567890.1234567890"]),
        ("timestamp", &["'2024-02-29 12:34:56.123456'", "'0001-01-01 00:00:00 BC'", "'infinity'"]),
        ("timestamptz", &["'2024-02-29 12:34:56.000001+05'", "'-infinity'"]),
        ("date", &["'2024-02-29'", "'infinity'"]),
        ("boolean", &["true", "false"]),
        ("double precision", &["0.1", "'NaN'", "'-Infinity'"]),
        ("real", &["0.1", "16777216"]),
    ],
    upserts: &[
        ("INSERT INTO u VALUES (1, 'c') ON CONFLICT (id) DO UPDATE SET name = excluded.name", &["1"]),
        ("INSERT INTO u VALUES (3, 'c') ON CONFLICT (id) DO UPDATE SET name = excluded.name", &["3"]),
        ("INSERT INTO u VALUES (3, 'a') ON CONFLICT (name) DO UPDATE SET id = excluded.id", &["1", "3"]),
        (
            "MERGE INTO u USING (VALUES (1, 'x'), (2, 'y'), (3, 'z')) v (id, name) ON u.id = v.id \
             WHEN MATCHED AND u.id = 1 THEN DELETE WHEN MATCHED THEN UPDATE SET name = v.name \
             WHEN NOT MATCHED THEN INSERT VALUES (v.id, v.name)",
            &["1", "2", "3"],
        ),
        (
            "WITH gone AS (DELETE FROM u WHERE id = 1 RETURNING id) INSERT INTO u SELECT id + 6, 'n' FROM gone",
            &["1", "7"],
        ),
    ],
    empty: ("TRUNCATE t", &[("NULL", "X")]),
    catalogue: "SELECT 'class', oid::text, relname::text, relacl::text FROM pg_class WHERE relnamespace::regnamespace::text \
                NOT LIKE 'pg\\_%' UNION ALL SELECT 'proc', oid::text, proname, proacl::text FROM pg_proc \
                WHERE pronamespace::regnamespace::text NOT LIKE 'pg\\_%' UNION ALL \
                SELECT 'trigger', oid::text, tgname, tgenabled::text FROM pg_trigger UNION ALL \
                SELECT 'type', oid::text, typname, typacl::text FROM pg_type UNION ALL \
                SELECT 'schema', oid::text, nspname, nspacl::text FROM pg_namespace ORDER BY 1, 2",
    drop_trigger: "DROP TRIGGER $trigger ON t",
    read_back: &[
        "INSERT INTO numbered (name) VALUES ('a') RETURNING id, name",
        "SELECT lastval()",
        "INSERT INTO numbered (name) VALUES ('b'), ('c') RETURNING id",
        "SELECT lastval()",
        "UPDATE numbered SET name = 'd' WHERE id > 1 RETURNING id",
        "WITH w AS (UPDATE numbered SET name = 'e' RETURNING id) SELECT count(*) FROM w",
        "DELETE FROM numbered WHERE id < 3 RETURNING name",
        "INSERT INTO numbered VALUES (3, 'f') ON CONFLICT DO NOTHING RETURNING id",
        "SELECT lastval()",
        "SELECT * FROM numbered ORDER BY id",
    ],
    numbered: "serial PRIMARY KEY",
    account: (
        "CREATE ROLE $role LOGIN PASSWORD 'secret'; GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON t TO $role",
        "DROP OWNED BY $role; DROP ROLE $role",
    ),
};

const MYSQL: Dialect = Dialect {
    session: "DO 0",
    text: "VARCHAR(100) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    prelude: "",
    folded: "VARCHAR(100) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci",
    keys: &[
        ("INT", &["1", "-2147483648"]),
        ("BIGINT UNSIGNED", &["18446744073709551615", "0"]),
        ("VARCHAR(100) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", &["'a'", "'A'", "''", "'é 日本 🦀'", "'it''s'"]),
        ("VARCHAR(100) CHARACTER SET latin1", &["'b'", "'é'"]),
        ("CHAR(4) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", &["'a'", "'A'"]),
        ("VARBINARY(20)", &["x'00'", "x'00ff27'", "x''", "'a'", "'a '"]),
        ("BINARY(16)", &["x'00000000000000000000000000000001'", "x'ffffffffffff4fff8fffffffffffffff'"]),
        ("DECIMAL(12,2)", &["1", "1.5", "-0.01", "9999999999.99"]),
        ("DECIMAL(65,30)", &["12345678901234567890.1234567890", "-0.000000000000000000000000000001"]),
        ("DATETIME(6)", &["'2024-02-29 12:34:56.123456'", "'1000-01-01 00:00:00'"]),
        ("TIMESTAMP(6)", &["'2024-02-29 12:34:56.000001'"]),
        ("DATE", &["'2024-02-29'", "'9999-12-31'"]),
        ("TINYINT(1)", &["0", "1"]),
        ("DOUBLE", &["0.1", "1e300", "-2.5"]),
        ("ENUM('x','y')", &["'x'", "'y'"]),
    ],
    upserts: &[
        ("INSERT INTO u VALUES (1, 'c') ON DUPLICATE KEY UPDATE name = VALUES(name)", &["1"]),
        ("INSERT INTO u VALUES (3, 'c') ON DUPLICATE KEY UPDATE name = VALUES(name)", &["3"]),
        ("INSERT INTO u VALUES (3, 'a') ON DUPLICATE KEY UPDATE id = VALUES(id)", &["1", "3"]),
        ("REPLACE INTO u VALUES (1, 'c')", &["1"]),
        ("REPLACE INTO u VALUES (1, 'b')", &["1", "2"]),
        ("REPLACE INTO u VALUES (3, 'b')", &["2", "3"]),
    ],
    empty: ("DELETE FROM t", &[("1", "D"), ("2", "D")]),
    catalogue: "SELECT 'table', table_name, table_type, engine FROM information_schema.tables WHERE table_schema = DATABASE() \
                UNION ALL SELECT 'trigger', trigger_name, event_object_table, action_statement \
                FROM information_schema.triggers WHERE trigger_schema = DATABASE() \
                UNION ALL SELECT 'routine', routine_name, routine_type, NULL \
                FROM information_schema.routines WHERE routine_schema = DATABASE() ORDER BY 1, 2",
    drop_trigger: "DROP TRIGGER $trigger",
    read_back: &[
        "INSERT INTO numbered (name) VALUES ('a')",
        "SELECT LAST_INSERT_ID(), ROW_COUNT()",
        "INSERT INTO numbered (name) VALUES ('b'), ('c'); SELECT ROW_COUNT(), LAST_INSERT_ID()",
        "UPDATE numbered SET name = 'd' WHERE id > 1; SELECT ROW_COUNT(), LAST_INSERT_ID()",
        "UPDATE numbered SET name = 'd' WHERE id > 1; SELECT ROW_COUNT(), LAST_INSERT_ID()",
        "REPLACE INTO numbered VALUES (1, 'e'); SELECT ROW_COUNT(), LAST_INSERT_ID()",
        "INSERT INTO numbered VALUES (2, 'g') ON DUPLICATE KEY UPDATE name = 'g'; SELECT ROW_COUNT(), LAST_INSERT_ID()",
        "DELETE FROM numbered WHERE id < 3; SELECT ROW_COUNT(), LAST_INSERT_ID()",
        "SELECT * FROM numbered ORDER BY id",
    ],
    numbered: "INT AUTO_INCREMENT PRIMARY KEY",
    account: (
        "CREATE USER $role IDENTIFIED BY 'secret'; GRANT SELECT, INSERT, UPDATE, DELETE ON t TO $role",
        "DROP USER $role",
    ),
};

fn dialect(engine: Engine) -> &'static Dialect {
    match engine {
        Engine::Sqlite => &SQLITE,
        Engine::Postgres => &POSTGRES,
        Engine::Mariadb | Engine::Mysql => &MYSQL,
    }
}

// ---------------------------------------------------------------- tables with logs

/// A database whose tables are logged.
struct Fixture {
    database: Arc<dyn Database>,
    tables: Vec<Arc<Table>>,
    logs: Vec<ChangeLog>,
    dialect: &'static Dialect,
    /// Last: it goes after the connections to it.
    db: TestDb,
}

/// A line of a log.
#[derive(Debug)]
struct Line {
    /// The key's values as [`shown`], with `|` between.
    key: String,
    operation: String,
    wall: Option<i64>,
    labelled: bool,
}

impl Fixture {
    /// Tables made by `ddl`, described, their logs not yet installed.
    async fn prepared(engine: Engine, ddl: &str, tables: &[&str]) -> Self {
        let (db, dialect) = (TestDb::new(engine), dialect(engine));
        db.execute(&format!("{}{ddl}", dialect.prelude));
        let database = engine::open(db.url(), &OpenOptions::default()).await.unwrap();
        let mut described = Vec::new();
        for name in tables {
            described.push(Arc::new(database.describe(&TableName::new(*name)).await.unwrap().unwrap()));
        }
        let logged: Vec<Logged> = (1..).zip(&described).map(|(n, table)| logged(n, table)).collect();
        let logs = database.change_logs(&logged).unwrap();
        Self { db, database, tables: described, logs, dialect }
    }

    /// The same, installed.
    async fn new(engine: Engine, ddl: &str, tables: &[&str]) -> Self {
        let this = Self::prepared(engine, ddl, tables).await;
        this.install().await;
        this
    }

    /// One table `t` of a number and a name.
    async fn simple(engine: Engine) -> Self {
        Self::new(engine, "CREATE TABLE t (id INTEGER PRIMARY KEY, name VARCHAR(40));", &["t"]).await
    }

    async fn install(&self) {
        for log in &self.logs {
            self.execute_all(&log.install).await;
        }
    }

    /// As rowferry does it: in one transaction where the engine's DDL is part of one, and again when a lock was met.
    async fn execute_all(&self, statements: &[String]) {
        let one = self.database.abilities().transactional_ddl;
        for attempt in 0.. {
            let mut target = self.target().await;
            let end = run(&mut *target, statements, one).await;
            match end {
                Err(error) if error.kind == ErrorKind::Busy && attempt < 50 => {}
                end => return end.unwrap(),
            }
        }
    }

    async fn target(&self) -> Box<dyn Target> {
        self.database.target().await.unwrap()
    }

    /// In an open transaction.
    async fn begun(&self, options: WriteOptions) -> Box<dyn Target> {
        let mut target = self.target().await;
        target.begin(options).await.unwrap();
        target
    }

    /// A connection of the application.
    fn session(&self) -> Session {
        let session = self.db.session();
        session.query(self.dialect.session);
        session
    }

    /// Takes out the lines of the log of the table at `at`, as a fold does.
    async fn take(&self, at: usize) -> Vec<Line> {
        self.take_at_most(at, 20_000).await
    }

    async fn take_at_most(&self, at: usize, limit: usize) -> Vec<Line> {
        let log = &self.logs[at].table;
        let mut target = self.begun(WriteOptions::default()).await;
        let batch = target.scan(log, None, limit).await.unwrap();
        if batch.rows() > 0 {
            let deleted = target.write(WriteMode::Delete, &batch).await.unwrap();
            target.flush().await.unwrap();
            assert_eq!(deleted, batch.rows() as u64, "each line is found by the log's own key");
        }
        target.commit().await.unwrap();
        lines(&self.tables[at], &batch)
    }

    /// Key and operation of each line that says more than "it may be gone", sorted.
    async fn operations(&self, at: usize) -> Vec<(String, String)> {
        let mut found: Vec<_> = self.take(at).await.into_iter().map(|line| (line.key, line.operation)).collect();
        found.retain(|(_, operation)| operation != "T");
        found.sort();
        found
    }

    /// Keys of all lines.
    async fn keys(&self, at: usize) -> BTreeSet<String> {
        self.take(at).await.into_iter().map(|line| line.key).collect()
    }

    /// Every row of the table at `at`, as a reader of it delivers them.
    async fn rows(&self, at: usize) -> Batch {
        let request = ReadRequest {
            table: self.tables[at].clone(),
            filter: None,
            rows: Selection::All,
            ordered: false,
            limits: BatchLimits { rows: 1_000_000, bytes: 1 << 30 },
        };
        let mut source = self.database.snapshot().await.unwrap().source().await.unwrap();
        let mut stream = source.read(&request).await.unwrap();
        let all = stream.next().await.unwrap();
        all.unwrap_or_else(|| Batch::new(request.table.clone(), vec![Column::default(); request.table.columns.len()]))
    }

    /// What is found under these keys in a transaction of its own.
    async fn look_up(&self, at: usize, keys: &Batch) -> Batch {
        let mut target = self.begun(WriteOptions::default()).await;
        let found = target.lookup(&self.tables[at], keys, RowLock::None).await.unwrap();
        target.rollback().await.unwrap();
        found
    }
}

async fn run(target: &mut dyn Target, statements: &[String], one: bool) -> engine::Result<()> {
    if one {
        target.begin(WriteOptions::default()).await?;
    }
    for sql in statements {
        target.execute(sql).await?;
    }
    if one { target.commit().await } else { Ok(()) }
}

fn logged(n: u32, table: &Arc<Table>) -> Logged {
    let key = table.row_key().or_else(|| table.primary_key.clone()).expect("a key");
    Logged { n, table: table.clone(), key }
}

/// A value for people; values that differ look different.
fn shown(cell: Cell<'_>) -> String {
    let text = |bytes: &[u8]| {
        std::str::from_utf8(bytes).map_or_else(|_| format!("{bytes:02x?}"), |text| text.escape_debug().to_string())
    };
    match cell {
        Cell::Null => "NULL".to_owned(),
        Cell::Absent => "absent".to_owned(),
        Cell::Int(v) => v.to_string(),
        Cell::UInt(v) => v.to_string(),
        Cell::Float(v) => v.to_string(),
        Cell::Bytes(bytes) => text(bytes),
        Cell::Escape(Value::Bytes(bytes)) => format!("escaped bytes {}", text(bytes)),
        Cell::Escape(value) => format!("{value:?}"),
    }
}

fn row_shown(batch: &Batch, row: usize, columns: &[usize]) -> String {
    let cells: Vec<String> = columns.iter().map(|&column| shown(batch.cell(row, column))).collect();
    cells.join("|")
}

/// All rows, sorted.
fn rows_shown(batch: &Batch) -> Vec<String> {
    let all: Vec<usize> = (0..batch.columns().len()).collect();
    let mut rows: Vec<String> = (0..batch.rows()).map(|row| row_shown(batch, row, &all)).collect();
    rows.sort();
    rows
}

fn positions(table: &Table, names: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<usize> {
    let at = |name: &str| table.column(name).unwrap_or_else(|| panic!("{} has a column {name}", table.name));
    names.into_iter().map(|name| at(name.as_ref())).collect()
}

fn lines(table: &Arc<Table>, batch: &Batch) -> Vec<Line> {
    let key = key_positions(table, &batch.table);
    let own = positions(&batch.table, [ChangeLog::OPERATION, ChangeLog::WALL, ChangeLog::LABEL]);
    let number = |row, at: usize| match batch.cell(row, own[at]) {
        Cell::Int(v) => Some(v),
        Cell::Null => None,
        other => panic!("{} is a whole number, not {other:?}", batch.table.columns[own[at]].name),
    };
    (0..batch.rows())
        .map(|row| Line {
            key: row_shown(batch, row, &key),
            operation: shown(batch.cell(row, own[0])),
            wall: number(row, 1),
            labelled: number(row, 2) == Some(1),
        })
        .collect()
}

/// Where the key columns of `table` stand in another table that has them.
fn key_positions(table: &Arc<Table>, other: &Table) -> Vec<usize> {
    positions(other, logged(1, table).key.columns.iter().map(|&c| &table.columns[c].name))
}

/// The columns at these positions.
fn project(batch: &Batch, columns: &[usize]) -> Batch {
    let kept = columns.iter().map(|&column| batch.columns()[column].clone()).collect();
    Batch::new(Arc::new(batch.table.project(columns)), kept)
}

/// Keys of one whole-number column.
fn numbers(table: &Table, name: &str, values: impl IntoIterator<Item = Option<i64>>) -> Batch {
    let mut column = Column::default();
    for value in values {
        column.push_cell(value.map_or(Cell::Null, Cell::Int));
    }
    Batch::new(Arc::new(table.project(&positions(table, [name]))), vec![column])
}

/// Keys of one text column.
fn texts(table: &Table, name: &str, values: &[&str]) -> Batch {
    let mut column = Column::default();
    for value in values {
        column.push_bytes(value.as_bytes());
    }
    Batch::new(Arc::new(table.project(&positions(table, [name]))), vec![column])
}

fn owned<const N: usize>(pairs: [(&str, &str); N]) -> Vec<(String, String)> {
    let mut pairs: Vec<_> = pairs.iter().map(|(key, operation)| ((*key).to_owned(), (*operation).to_owned())).collect();
    pairs.sort();
    pairs
}

fn set<const N: usize>(keys: [&str; N]) -> BTreeSet<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

fn machine_clock() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_micros()).expect("before the year 294,247")
}

const MINUTE: i64 = 60_000_000;

// ---------------------------------------------------------------- what is logged

async fn each_kind_of_write_is_logged_under_its_keys(engine: Engine) {
    let t = Fixture::simple(engine).await;
    let app = t.session();
    let steps = [
        ("INSERT INTO t VALUES (1, 'a')", owned([("1", "I")])),
        ("INSERT INTO t VALUES (2, 'b'), (3, NULL), (4, 'd')", owned([("2", "I"), ("3", "I"), ("4", "I")])),
        ("INSERT INTO t SELECT id + 50, name FROM t WHERE id > 2", owned([("53", "I"), ("54", "I")])),
        ("INSERT INTO t SELECT id, name FROM t WHERE id > 99", owned([])),
        ("UPDATE t SET name = 'x' WHERE id IN (1, 3)", owned([("1", "U"), ("3", "U")])),
        ("UPDATE t SET name = name WHERE id = 2", owned([("2", "U")])),
        ("UPDATE t SET name = 'y' WHERE id > 99", owned([])),
        ("DELETE FROM t WHERE id IN (2, 3, 4)", owned([("2", "D"), ("3", "D"), ("4", "D")])),
        ("DELETE FROM t WHERE id > 99", owned([])),
    ];
    for (sql, expected) in steps {
        app.query(sql);
        assert_eq!(t.operations(0).await, expected, "{engine:?}: {sql}");
    }

    app.query("UPDATE t SET id = 10 WHERE id = 1");
    let moved = t.operations(0).await;
    let of = |key: &str| moved.iter().filter(|(k, _)| k == key).map(|(_, o)| o.as_str()).collect::<Vec<_>>();
    assert_eq!(of("1"), ["D"], "{engine:?}: nothing stands under the old key: {moved:?}");
    assert!(matches!(of("10")[..], ["I" | "U"]), "{engine:?}: the row stands under the new key: {moved:?}");
    assert_eq!(moved.len(), 2, "{engine:?}: {moved:?}");

    // Of 10, 53 and 54: 53 comes to stand under the key that 54 leaves.
    app.query("UPDATE t SET id = -id; UPDATE t SET id = 1 - id");
    assert_eq!(t.keys(0).await, set(["-10", "-53", "-54", "10", "11", "53", "54", "55"]), "{engine:?}");
}

async fn upserts_are_logged_under_every_key_they_touch(engine: Engine) {
    let table = "CREATE TABLE u (id INTEGER PRIMARY KEY, name VARCHAR(40) UNIQUE);";
    let u = Fixture::new(engine, table, &["u"]).await;
    let app = u.session();
    for (sql, keys) in u.dialect.upserts {
        app.query("DELETE FROM u; INSERT INTO u VALUES (1, 'a'), (2, 'b')");
        u.take(0).await;
        app.query(sql);
        let expected: BTreeSet<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        assert_eq!(u.keys(0).await, expected, "{engine:?}: {sql}");
    }
}

async fn emptied_tables_are_told(engine: Engine) {
    let t = Fixture::simple(engine).await;
    let app = t.session();
    app.query("INSERT INTO t VALUES (1, 'a'), (2, 'b')");
    t.take(0).await;
    let (sql, expected) = t.dialect.empty;
    app.query(sql);
    let expected: Vec<_> = expected.iter().map(|(key, op)| ((*key).to_owned(), (*op).to_owned())).collect();
    assert_eq!(t.operations(0).await, expected, "{engine:?}: {sql}");
}

async fn rows_that_follow_a_parent_are_logged(engine: Engine) {
    let ddl = "CREATE TABLE parent (id INTEGER PRIMARY KEY);
        CREATE TABLE child (id INTEGER PRIMARY KEY, parent INTEGER,
            FOREIGN KEY (parent) REFERENCES parent (id) ON DELETE CASCADE ON UPDATE CASCADE);
        CREATE TABLE grandchild (id INTEGER PRIMARY KEY, child INTEGER,
            FOREIGN KEY (child) REFERENCES child (id) ON DELETE CASCADE);
        CREATE TABLE guest (id INTEGER PRIMARY KEY, parent INTEGER,
            FOREIGN KEY (parent) REFERENCES parent (id) ON DELETE SET NULL);
        CREATE TABLE tree (id INTEGER PRIMARY KEY, up INTEGER,
            FOREIGN KEY (up) REFERENCES tree (id) ON DELETE CASCADE);";
    let names = ["parent", "child", "grandchild", "guest", "tree"];
    let f = Fixture::new(engine, ddl, &names).await;
    let app = f.session();
    app.query(
        "INSERT INTO parent VALUES (1), (2); INSERT INTO child VALUES (10, 1), (11, 1), (20, 2);
         INSERT INTO grandchild VALUES (100, 10), (110, 11), (200, 20); INSERT INTO guest VALUES (5, 1), (6, 2);
         INSERT INTO tree VALUES (1, NULL), (2, 1), (3, 2), (4, 3), (9, NULL)",
    );
    for at in 0..names.len() {
        f.take(at).await;
    }

    app.query("DELETE FROM parent WHERE id = 1");
    let expected = [set(["1"]), set(["10", "11"]), set(["100", "110"]), set(["5"]), set([])];
    for (at, expected) in expected.into_iter().enumerate() {
        assert_eq!(f.keys(at).await, expected, "{engine:?}: {} when a parent goes", names[at]);
    }

    app.query("DELETE FROM guest; UPDATE parent SET id = 7 WHERE id = 2");
    f.take(3).await;
    let expected = [set(["2", "7"]), set(["20"]), set([])];
    for (at, expected) in expected.into_iter().enumerate() {
        assert_eq!(f.keys(at).await, expected, "{engine:?}: {} when a parent's key changes", names[at]);
    }

    app.query("DELETE FROM tree WHERE id = 1");
    assert_eq!(f.keys(4).await, set(["1", "2", "3", "4"]), "{engine:?}: a table that refers to itself");
}

async fn what_is_rolled_back_leaves_nothing(engine: Engine) {
    let t = Fixture::simple(engine).await;
    let app = t.session();
    app.query("BEGIN");
    app.query("INSERT INTO t VALUES (1, 'a')");
    app.query("SAVEPOINT s");
    app.query("INSERT INTO t VALUES (2, 'b')");
    app.query("ROLLBACK TO SAVEPOINT s");
    app.query("COMMIT");
    assert_eq!(t.operations(0).await, owned([("1", "I")]), "{engine:?}: a savepoint");
    app.query("BEGIN");
    app.query("UPDATE t SET name = 'b'");
    app.query("ROLLBACK");
    assert!(app.attempt("INSERT INTO t VALUES (5, 'x'), (1, 'twice')").is_err());
    assert_eq!(t.operations(0).await, owned([]), "{engine:?}: a transaction, and a statement that failed");
}

async fn labelled_writes_are_told_apart(engine: Engine) {
    let t = Fixture::simple(engine).await;
    let row = |id: i64| {
        let mut columns = [Column::default(), Column::default()];
        columns[0].push_int(id);
        columns[1].push_bytes(b"ours");
        Batch::new(t.tables[0].clone(), columns.to_vec())
    };
    let labelled = WriteOptions { labelled: true, ..WriteOptions::default() };
    let mut target = t.target().await;
    // One connection, as apply uses it: what one transaction set must not outlive it.
    for (options, id, kept) in [
        (labelled, 1, true),
        (WriteOptions::default(), 2, true),
        (labelled, 3, false),
        (WriteOptions::default(), 4, true),
    ] {
        target.begin(options).await.unwrap();
        target.write(WriteMode::Insert, &row(id)).await.unwrap();
        target.flush().await.unwrap();
        if kept { target.commit().await.unwrap() } else { target.rollback().await.unwrap() }
    }
    t.session().query("UPDATE t SET name = 'theirs' WHERE id = 1");
    let found = t.take(0).await;
    let of = |labelled| found.iter().filter(|l| l.labelled == labelled).map(|l| &l.key[..]).collect::<BTreeSet<_>>();
    assert_eq!(of(false), BTreeSet::from(["1", "2", "4"]), "{engine:?}: {found:?}");
    assert!(of(true).is_subset(&BTreeSet::from(["1"])), "{engine:?}: {found:?}");
    let unlabelled = found.iter().filter(|l| !l.labelled && l.operation != "T");
    let operations: BTreeMap<_, _> = unlabelled.map(|l| (&l.key[..], &l.operation[..])).collect();
    assert_eq!(operations, BTreeMap::from([("1", "U"), ("2", "I"), ("4", "I")]), "{engine:?}");
}

// ---------------------------------------------------------------- installing

async fn installed_twice_is_installed_once(engine: Engine) {
    let t = Fixture::simple(engine).await;
    t.session().query("INSERT INTO t VALUES (1, 'a')");
    let once = t.db.query(t.dialect.catalogue).len();
    t.install().await;
    t.session().query("INSERT INTO t VALUES (2, 'b')");
    assert_eq!(t.operations(0).await, owned([("1", "I"), ("2", "I")]), "{engine:?}: lines outlive it, none is doubled");
    assert_eq!(t.db.query(t.dialect.catalogue).len(), once, "{engine:?}");
}

async fn removed_leaves_no_trace(engine: Engine) {
    let ddl = "CREATE TABLE t (id INTEGER PRIMARY KEY, name VARCHAR(40) UNIQUE);";
    let t = Fixture::prepared(engine, ddl, &["t"]).await;
    let tables = t.database.tables(None).await.unwrap();
    let before = t.db.query(t.dialect.catalogue);
    assert_eq!(t.database.own_triggers().await.unwrap(), Vec::<String>::new(), "{engine:?}");

    t.install().await;
    t.session().query("INSERT INTO t VALUES (1, 'a')");
    let mut expected = t.logs[0].triggers.clone();
    expected.sort();
    assert!(!expected.is_empty() && expected.iter().all(|name| name.starts_with("_rowferry_")), "{expected:?}");
    assert_eq!(t.database.own_triggers().await.unwrap(), expected, "{engine:?}");
    assert_eq!(t.database.tables(None).await.unwrap(), tables, "{engine:?}: the log is none of the user's tables");
    let again = t.database.describe(&TableName::new("t")).await.unwrap().unwrap();
    assert_eq!(again, *t.tables[0], "{engine:?}: the table looks as before");

    for _ in 0..2 {
        t.execute_all(&t.logs[0].remove).await;
        assert_eq!(t.db.query(t.dialect.catalogue), before, "{engine:?}");
    }
    assert_eq!(t.database.own_triggers().await.unwrap(), Vec::<String>::new(), "{engine:?}");
}

async fn a_missing_trigger_is_noticed(engine: Engine) {
    let t = Fixture::simple(engine).await;
    let mut left = t.logs[0].triggers.clone();
    left.sort();
    while let Some(name) = left.pop() {
        t.db.execute(&t.dialect.drop_trigger.replace("$trigger", &name));
        assert_eq!(t.database.own_triggers().await.unwrap(), left, "{engine:?}: without {name}");
    }
    t.install().await;
    t.session().query("INSERT INTO t VALUES (1, 'a')");
    assert_eq!(t.operations(0).await, owned([("1", "I")]), "{engine:?}: installed again");
}

async fn installing_while_rows_are_written_loses_none(engine: Engine) {
    let ddl = "CREATE TABLE t (id INTEGER PRIMARY KEY, name VARCHAR(40));";
    let t = Fixture::prepared(engine, ddl, &["t"]).await;
    let (written, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let application = {
        let (session, written, stop) = (t.session(), written.clone(), stop.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                let id = written.load(Ordering::SeqCst) + 1;
                session.query(&format!("INSERT INTO t VALUES ({id}, 'a')"));
                written.store(id, Ordering::SeqCst);
            }
        })
    };
    let reach = async |count: usize| {
        while written.load(Ordering::SeqCst) < count && !application.is_finished() {
            tokio::task::yield_now().await;
        }
    };
    reach(20).await;
    t.install().await;
    let installed = written.load(Ordering::SeqCst);
    reach(installed + 20).await;
    // Again over itself: not a row may slip through between a trigger that goes and one that comes.
    if t.database.abilities().transactional_ddl {
        t.install().await;
    }
    reach(written.load(Ordering::SeqCst) + 20).await;
    stop.store(true, Ordering::SeqCst);
    application.join().expect("no write of the application failed");
    let logged = t.keys(0).await;
    for id in installed + 2..=written.load(Ordering::SeqCst) {
        assert!(logged.contains(&id.to_string()), "{engine:?}: row {id}, written after {installed}");
    }
}

async fn a_late_commit_is_found(engine: Engine) {
    let t = Fixture::simple(engine).await;
    let late = t.session();
    late.query("BEGIN");
    late.query("INSERT INTO t VALUES (1, 'written first')");
    if engine == Engine::Sqlite {
        // Its one writer keeps others out, but not those that read.
        let mut reader = t.begun(WriteOptions { point: true, ..WriteOptions::default() }).await;
        assert_eq!(reader.scan(&t.logs[0].table, None, 10).await.unwrap().rows(), 0);
        reader.rollback().await.unwrap();
    } else {
        t.session().query("INSERT INTO t VALUES (2, 'b'), (3, 'c')");
        assert_eq!(t.operations(0).await, owned([("2", "I"), ("3", "I")]), "{engine:?}: taken without waiting");
        t.session().query("UPDATE t SET name = 'x' WHERE id = 3");
        assert_eq!(t.operations(0).await, owned([("3", "U")]), "{engine:?}");
    }
    late.query("COMMIT");
    assert_eq!(t.operations(0).await, owned([("1", "I")]), "{engine:?}: committed last, found");
}

// ---------------------------------------------------------------- doing no harm

async fn the_application_reads_back_what_it_would_without_us(engine: Engine) {
    let ddl = format!("CREATE TABLE numbered (id {}, name VARCHAR(40));", dialect(engine).numbered);
    let with = Fixture::new(engine, &ddl, &["numbered"]).await;
    let without = TestDb::new(engine);
    without.execute(&format!("{}{ddl}", with.dialect.prelude));
    // Lines of before: their numbers, if they have any, are others than the application's.
    with.session().query("INSERT INTO numbered VALUES (70, 'x'), (71, 'x'), (72, 'x'); DELETE FROM numbered");
    without.execute("INSERT INTO numbered VALUES (70, 'x'), (71, 'x'), (72, 'x'); DELETE FROM numbered");
    let (logged, plain) = (with.session(), without.session());
    for sql in with.dialect.read_back {
        assert_eq!(logged.query(sql), plain.query(sql), "{engine:?}: {sql}");
    }
    assert!(!with.keys(0).await.is_empty(), "{engine:?}: it was logged");
}

async fn an_account_without_rights_on_the_log_writes_as_before(engine: Engine) {
    let t = Fixture::simple(engine).await;
    let role = format!("r{}", t.db.name());
    let (make, remove) = t.dialect.account;
    t.db.execute(&make.replace("$role", &role));
    {
        let app = t.db.session_of(&role, "secret");
        app.query("INSERT INTO t VALUES (1, 'a'), (2, 'b')");
        app.query("UPDATE t SET name = 'c' WHERE id = 1");
        app.query("DELETE FROM t WHERE id = 2");
        let log = &t.logs[0].table.name;
        assert!(app.attempt(&format!("SELECT * FROM {}", log.name)).is_err(), "{engine:?}: the log is not for all");
    }
    let expected = owned([("1", "I"), ("1", "U"), ("2", "D"), ("2", "I")]);
    assert_eq!(t.operations(0).await, expected, "{engine:?}");
    t.db.execute(&remove.replace("$role", &role));
}

async fn hostile_names_are_names(engine: Engine) {
    let quote = |name: &str| match engine {
        Engine::Mariadb | Engine::Mysql => format!("`{}`", name.replace('`', "``")),
        Engine::Sqlite | Engine::Postgres => format!("\"{}\"", name.replace('"', "\"\"")),
    };
    // Also those that a trigger or a lookup might use for itself.
    let tables = ["select", "a b\"c`d'e;--", "日本 $1 ?1 :x @y", "new", &"n".repeat(63)];
    let columns = ["order", "x\"y`z'", "NEW", "id", "_rowferry_key", "op", &"c".repeat(63), "n"];
    let list = |with: &dyn Fn(&str) -> String| columns.iter().map(|c| with(c)).collect::<Vec<_>>().join(", ");
    let mut ddl = String::new();
    for table in tables {
        let columns = list(&|c| format!("{} INTEGER NOT NULL", quote(c)));
        ddl += &format!("CREATE TABLE {} ({columns}, PRIMARY KEY ({}));", quote(table), list(&quote));
    }
    let f = Fixture::new(engine, &ddl, &tables).await;
    let app = f.session();
    for (at, table) in tables.iter().enumerate() {
        app.query(&format!("INSERT INTO {} VALUES (1, 2, 3, 4, 5, 6, 7, 8)", quote(table)));
        app.query(&format!("UPDATE {} SET {} = 9", quote(table), quote("order")));
        let rows = f.rows(at).await;
        let (first, found) = (set(["1|2|3|4|5|6|7|8", "9|2|3|4|5|6|7|8"]), f.keys(at).await);
        assert_eq!(found, first, "{engine:?}: {table}");
        assert_eq!(rows_shown(&f.look_up(at, &rows).await), rows_shown(&rows), "{engine:?}: {table}");
        app.query(&format!("DELETE FROM {}", quote(table)));
        assert_eq!(f.operations(at).await, owned([("9|2|3|4|5|6|7|8", "D")]), "{engine:?}: {table}");
    }
    for log in &f.logs {
        f.execute_all(&log.remove).await;
    }
    assert_eq!(f.db.traces(), Vec::<String>::new(), "{engine:?}");
}

// ---------------------------------------------------------------- rows by key

async fn keys_of_every_kind_go_through_log_and_lookup(engine: Engine) {
    let kinds = dialect(engine).keys;
    let names: Vec<String> = (0..kinds.len()).map(|at| format!("k{at}")).collect();
    let mut ddl = String::new();
    for (name, (native, _)) in names.iter().zip(kinds) {
        ddl += &format!("CREATE TABLE {name} (k {native} NOT NULL PRIMARY KEY, v INTEGER);");
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let f = Fixture::new(engine, &ddl, &names).await;
    let app = f.session();
    for (at, (native, values)) in kinds.iter().enumerate() {
        for (n, value) in values.iter().enumerate() {
            app.query(&format!("INSERT INTO k{at} VALUES ({value}, {n})"));
        }
        let rows = f.rows(at).await;
        assert_eq!(rows.rows(), values.len(), "{engine:?}: {native}");
        let mut target = f.begun(WriteOptions::default()).await;
        let log = target.scan(&f.logs[at].table, None, 20_000).await.unwrap();
        let keys = project(&log, &key_positions(&f.tables[at], &log.table));
        assert_eq!(rows_shown(&keys), rows_shown(&project(&rows, &[0])), "{engine:?}: {native}: the log's keys");
        let found = target.lookup(&f.tables[at], &keys, RowLock::None).await.unwrap();
        assert_eq!(rows_shown(&found), rows_shown(&rows), "{engine:?}: {native}: found by the log's keys");
        let of_log = target.lookup(&f.logs[at].table, &project(&rows, &[0]), RowLock::None).await.unwrap();
        assert_eq!(rows_shown(&of_log), rows_shown(&log), "{engine:?}: {native}: the log by the table's keys");
        for row in 0..rows.rows() {
            let one = rows.select(std::iter::once(row));
            let found = target.lookup(&f.tables[at], &project(&one, &[0]), RowLock::Wait).await.unwrap();
            assert_eq!(rows_shown(&found), rows_shown(&one), "{engine:?}: {native}: one of them");
        }
        target.rollback().await.unwrap();
        app.query(&format!("DELETE FROM k{at}"));
        assert_eq!(f.look_up(at, &keys).await.rows(), 0, "{engine:?}: {native}");
    }
}

async fn composite_keys_go_through_log_and_lookup(engine: Engine) {
    let text = dialect(engine).text;
    let ddl = format!(
        "CREATE TABLE t (v INTEGER, b {text} NOT NULL, a INTEGER NOT NULL, c {text} NOT NULL, PRIMARY KEY (a, b, c));"
    );
    let t = Fixture::new(engine, &ddl, &["t"]).await;
    let app = t.session();
    app.query(
        "INSERT INTO t (a, b, c, v) VALUES (1, 'x', 'y', 1), (1, 'y', 'x', 2), (1, 'xy', '', 3), (2, 'x', 'y', 4)",
    );
    assert_eq!(t.keys(0).await, set(["1|x|y", "1|y|x", "1|xy|", "2|x|y"]), "{engine:?}");
    app.query("UPDATE t SET c = 'z' WHERE v = 4");
    assert_eq!(t.keys(0).await, set(["2|x|y", "2|x|z"]), "{engine:?}: a part of the key changes");
    let rows = t.rows(0).await;
    let some = rows.select((0..rows.rows()).filter(|&row| rows.cell(row, 0) != Cell::Int(2)));
    let keys = project(&some, &[3, 2, 1]);
    assert_eq!(rows_shown(&t.look_up(0, &keys).await), rows_shown(&some), "{engine:?}: columns in another order");
}

async fn keys_are_looked_up_by_bytes(engine: Engine) {
    let Dialect { text, folded, .. } = *dialect(engine);
    let ddl = format!(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, name {folded}, exact {text});
         CREATE TABLE s (name {folded} NOT NULL PRIMARY KEY, v INTEGER);"
    );
    let f = Fixture::new(engine, &ddl, &["t", "s"]).await;
    let app = f.session();
    app.query("INSERT INTO t VALUES (1, 'a', 'a'), (2, 'A', 'A'), (3, 'a', 'A')");
    let ids = |found: &Batch| (0..found.rows()).map(|row| shown(found.cell(row, 0))).collect::<BTreeSet<_>>();
    assert_eq!(ids(&f.look_up(0, &texts(&f.tables[0], "exact", &["a"])).await), set(["1"]), "{engine:?}");
    assert_eq!(ids(&f.look_up(0, &texts(&f.tables[0], "name", &["a"])).await), set(["1", "3"]), "{engine:?}");
    assert_eq!(ids(&f.look_up(0, &texts(&f.tables[0], "name", &["a", "A"])).await), set(["1", "2", "3"]), "{engine:?}");

    // The table's own key says that 'a' and 'A' are one: the row that it finds is the row.
    app.query("INSERT INTO s VALUES ('a', 1)");
    f.take(1).await;
    app.query("UPDATE s SET name = 'A'");
    let mut target = f.begun(WriteOptions::default()).await;
    for spelling in ["a", "A"] {
        let keys = texts(&f.tables[1], "name", &[spelling]);
        let found = target.lookup(&f.logs[1].table, &keys, RowLock::None).await.unwrap();
        let logged = lines(&f.tables[1], &found);
        assert!(logged.iter().any(|line| line.key == "A"), "{engine:?}: {spelling} in the log: {logged:?}");
    }
    target.rollback().await.unwrap();
    let found = f.look_up(1, &texts(&f.tables[1], "name", &["a"])).await;
    assert_eq!(rows_shown(&found), ["A|1"], "{engine:?}: found by the other spelling");
    let found = f.look_up(1, &texts(&f.tables[1], "name", &["A", "a"])).await;
    assert_eq!(rows_shown(&found), ["A|1"], "{engine:?}: and once");
}

async fn many_keys_are_looked_up_at_once(engine: Engine) {
    let text = dialect(engine).text;
    let ddl = format!("CREATE TABLE t (id INTEGER PRIMARY KEY, name {text}, other INTEGER);");
    let t = Fixture::new(engine, &ddl, &["t"]).await;
    let table = &t.tables[0];
    let mut columns = vec![Column::default(), Column::default(), Column::default()];
    for id in 0..30_000 {
        columns[0].push_int(id);
        columns[1].push_bytes(format!("row {id}").as_bytes());
        columns[2].push_int(-id);
    }
    let mut target = t.begun(WriteOptions::default()).await;
    target.write(WriteMode::Insert, &Batch::new(table.clone(), columns)).await.unwrap();
    target.commit().await.unwrap();
    // Every other one is there.
    let keys = numbers(table, "id", (0..20_000).map(|n| Some(20_001 + n)));
    for lock in [RowLock::None, RowLock::Wait, RowLock::SkipHeld] {
        target.begin(WriteOptions::default()).await.unwrap();
        let found = target.lookup(table, &keys, lock).await.unwrap();
        assert_eq!(found.rows(), 9_999, "{engine:?}: {lock:?}");
        for row in 0..found.rows() {
            let Cell::Int(id) = found.cell(row, 0) else { panic!("{:?}", found.cell(row, 0)) };
            assert_eq!(found.cell(row, 1), Cell::Bytes(format!("row {id}").as_bytes()), "{engine:?}");
            assert_eq!(found.cell(row, 2), Cell::Int(-id), "{engine:?}");
        }
        // A transaction may look up more than once, also by other columns and fewer keys.
        let one = numbers(table, "other", [Some(-7)]);
        assert_eq!(rows_shown(&target.lookup(table, &one, lock).await.unwrap()), ["7|row 7|-7"], "{engine:?}");
        let none = numbers(table, "id", []);
        assert_eq!(target.lookup(table, &none, lock).await.unwrap().rows(), 0, "{engine:?}: no keys, no rows");
        for (keys, rows) in [(&keys, 9_999), (&one, 1), (&none, 0)] {
            assert_eq!(target.count(table, keys).await.unwrap(), rows, "{engine:?}: counted as they are found");
        }
        target.rollback().await.unwrap();
    }
    let lines = t.take_at_most(0, 20_000).await.len() + t.take_at_most(0, 20_000).await.len();
    assert_eq!(lines, 30_000, "{engine:?}: a large piece of the log is taken at once");
}

async fn null_agrees_with_null(engine: Engine) {
    let ddl = "CREATE TABLE t (id INTEGER PRIMARY KEY, a INTEGER, b INTEGER);";
    let t = Fixture::new(engine, ddl, &["t"]).await;
    let app = t.session();
    app.query("INSERT INTO t VALUES (1, NULL, 1), (2, 1, NULL), (3, NULL, NULL), (4, 1, 1), (5, 0, 0)");
    let key = |a: Option<i64>, b: Option<i64>| {
        let table = &t.tables[0];
        let (a, b) = (numbers(table, "a", [a]), numbers(table, "b", [b]));
        let columns = [a, b].into_iter().flat_map(Batch::into_columns).collect();
        Batch::new(Arc::new(table.project(&[1, 2])), columns)
    };
    for (a, b, expected) in [
        (None, Some(1), "1|NULL|1"),
        (Some(1), None, "2|1|NULL"),
        (None, None, "3|NULL|NULL"),
        (Some(1), Some(1), "4|1|1"),
        (Some(0), Some(0), "5|0|0"),
    ] {
        assert_eq!(rows_shown(&t.look_up(0, &key(a, b)).await), [expected], "{engine:?}");
    }
    let both = numbers(&t.tables[0], "a", [None, Some(0)]);
    assert_eq!(rows_shown(&t.look_up(0, &both).await), ["1|NULL|1", "3|NULL|NULL", "5|0|0"], "{engine:?}");
    let mut target = t.begun(WriteOptions { point: true, ..WriteOptions::default() }).await;
    assert_eq!(target.count(&t.tables[0], &both).await.unwrap(), 3, "{engine:?}");
    target.rollback().await.unwrap();
}

async fn rows_are_looked_up_by_some_of_their_columns(engine: Engine) {
    let text = dialect(engine).text;
    let ddl = format!("CREATE TABLE t (a INTEGER NOT NULL, b {text} NOT NULL, v INTEGER, PRIMARY KEY (a, b));");
    let t = Fixture::new(engine, &ddl, &["t"]).await;
    t.session().query("INSERT INTO t VALUES (1, 'x', 1), (1, 'y', 2), (2, 'x', 2), (3, 'z', NULL)");
    let table = &t.tables[0];
    let found = t.look_up(0, &numbers(table, "a", [Some(1), Some(9)])).await;
    assert_eq!(rows_shown(&found), ["1|x|1", "1|y|2"], "{engine:?}: a part of the key");
    let found = t.look_up(0, &numbers(table, "v", [Some(2), None])).await;
    assert_eq!(rows_shown(&found), ["1|y|2", "2|x|2", "3|z|NULL"], "{engine:?}: no key at all");

    // Fewer columns are wanted than there are, in another order.
    let some = Arc::new(table.project(&[2, 0]));
    let mut target = t.begun(WriteOptions::default()).await;
    let found = target.lookup(&some, &numbers(table, "a", [Some(1)]), RowLock::None).await.unwrap();
    assert_eq!(rows_shown(&found), ["1|1", "2|1"], "{engine:?}");
    target.rollback().await.unwrap();
}

async fn a_lookup_sees_what_its_transaction_wrote(engine: Engine) {
    let t = Fixture::simple(engine).await;
    let mut target = t.begun(WriteOptions::default()).await;
    let table = &t.tables[0];
    let mut columns = vec![Column::default(), Column::default()];
    columns[0].push_int(1);
    columns[1].push_bytes(b"a");
    // Held back inserts too.
    target.write(WriteMode::Insert, &Batch::new(table.clone(), columns)).await.unwrap();
    let found = target.lookup(table, &numbers(table, "id", [Some(1)]), RowLock::None).await.unwrap();
    assert_eq!(rows_shown(&found), ["1|a"], "{engine:?}");
    assert_eq!(target.scan(table, None, 10).await.unwrap().rows(), 1, "{engine:?}");
    target.rollback().await.unwrap();
}

async fn held_rows_are_left_out_without_waiting(engine: Engine) {
    let t = Fixture::simple(engine).await;
    t.session().query("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')");
    let table = &t.tables[0];
    let holder = t.session();
    holder.query("BEGIN");
    holder.query("UPDATE t SET name = 'held' WHERE id = 2");
    let keys = numbers(table, "id", (1..=4).map(Some));
    let mut target = t.begun(WriteOptions::default()).await;
    let free = target.lookup(table, &keys, RowLock::SkipHeld).await.unwrap();
    assert_eq!(rows_shown(&free), ["1|a", "3|c"], "{engine:?}: the held row is left out");
    let all = target.lookup(table, &keys, RowLock::None).await.unwrap();
    assert_eq!(rows_shown(&all), ["1|a", "2|b", "3|c"], "{engine:?}: reading sees what is committed");
    holder.query("COMMIT");
    let free = target.lookup(table, &keys, RowLock::SkipHeld).await.unwrap();
    assert_eq!(
        rows_shown(&free),
        ["1|a", "2|held", "3|c"],
        "{engine:?}: each call sees what is committed when it begins"
    );
    target.rollback().await.unwrap();
}

async fn a_locked_row_waits_for_its_lock(engine: Engine) {
    let t = Fixture::simple(engine).await;
    t.session().query("INSERT INTO t VALUES (1, 'a'), (2, 'b')");
    let table = &t.tables[0];
    let mut target = t.begun(WriteOptions::default()).await;
    let one = numbers(table, "id", [Some(1)]);
    assert_eq!(target.lookup(table, &one, RowLock::Wait).await.unwrap().rows(), 1, "{engine:?}");
    let app = t.session();
    app.query("UPDATE t SET name = 'free' WHERE id = 2");
    let at_once = match engine {
        Engine::Postgres => "SET lock_timeout = '50ms'",
        _ => "SET innodb_lock_wait_timeout = 1",
    };
    app.query(at_once);
    assert!(app.attempt("UPDATE t SET name = 'b' WHERE id = 1").is_err(), "{engine:?}: the row is ours");
    target.rollback().await.unwrap();
    app.query("UPDATE t SET name = 'b' WHERE id = 1");
}

async fn a_kept_row_stays_and_one_that_goes_is_left_out(engine: Engine) {
    let t = Fixture::simple(engine).await;
    t.session().query("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')");
    let table = &t.tables[0];
    let app = t.session();
    app.query("BEGIN");
    app.query("DELETE FROM t WHERE id = 2");
    let keys = numbers(table, "id", (1..=4).map(Some));
    let (mut one, mut other) = (t.begun(WriteOptions::default()).await, t.begun(WriteOptions::default()).await);
    for target in [&mut one, &mut other] {
        // Several may keep a row, and none waits for whoever deletes one.
        let kept = target.lookup(table, &keys, RowLock::Keep).await.unwrap();
        assert_eq!(rows_shown(&kept), ["1|a", "3|c"], "{engine:?}");
    }
    app.query("COMMIT");
    app.query(match engine {
        Engine::Postgres => "SET lock_timeout = '50ms'",
        _ => "SET innodb_lock_wait_timeout = 1",
    });
    one.rollback().await.unwrap();
    assert!(app.attempt("DELETE FROM t WHERE id = 1").is_err(), "{engine:?}: one still keeps it");
    other.rollback().await.unwrap();
    app.query("DELETE FROM t WHERE id = 1");
}

async fn one_point_is_one_point(engine: Engine) {
    let t = Fixture::simple(engine).await;
    if engine == Engine::Sqlite {
        // In the other modes nobody commits while somebody reads.
        t.db.execute("PRAGMA journal_mode = WAL");
    }
    let app = t.session();
    app.query("INSERT INTO t VALUES (1, 'a'), (2, 'b')");
    let table = &t.tables[0];
    let mut target = t.begun(WriteOptions { point: true, ..WriteOptions::default() }).await;
    app.query("UPDATE t SET name = 'changed'; INSERT INTO t VALUES (3, 'c'); DELETE FROM t WHERE id = 2");
    let keys = numbers(table, "id", (1..=3).map(Some));
    let found = target.lookup(table, &keys, RowLock::None).await.unwrap();
    assert_eq!(rows_shown(&found), ["1|a", "2|b"], "{engine:?}: the point is that of its beginning");
    assert_eq!(target.scan(&t.logs[0].table, None, 10).await.unwrap().rows(), 2, "{engine:?}");
    target.rollback().await.unwrap();

    target.begin(WriteOptions::default()).await.unwrap();
    let found = target.lookup(table, &keys, RowLock::None).await.unwrap();
    assert_eq!(rows_shown(&found), ["1|changed", "3|c"], "{engine:?}: the next transaction is an ordinary one");
    target.rollback().await.unwrap();
}

/// A table of rowferry's own, made as it makes them.
async fn bookkeeping(t: &Fixture) -> Arc<Table> {
    let int = LogicalType::Int { bits: 64, unsigned: false };
    let mut columns =
        vec![ColumnDef::new("k", int.clone()), ColumnDef::new("seq", int), ColumnDef::new("what", LogicalType::Uuid)];
    columns[0].nullable = false;
    let mut table = Table {
        primary_key: Some(Key { columns: vec![0] }),
        ..Table::new(TableName::new("_rowferry_versions_1"), columns)
    };
    table.columns = table.columns.iter().map(|column| t.database.map_column(&table, column).column).collect();
    let ddl = t.database.ddl(&table);
    let statements: Vec<String> = ddl.create.into_iter().chain(ddl.after_rows).collect();
    t.execute_all(&statements).await;
    Arc::new(table)
}

async fn a_scan_is_bounded_and_ordered(engine: Engine) {
    let t = Fixture::simple(engine).await;
    let table = bookkeeping(&t).await;
    let mut columns = vec![Column::default(), Column::default(), Column::default()];
    for (k, seq) in [(1, Some(30)), (2, Some(10)), (3, None), (4, Some(20)), (5, Some(40)), (6, Some(-5))] {
        columns[0].push_int(k);
        columns[1].push_cell(seq.map_or(Cell::Null, Cell::Int));
        columns[2].push_bytes(&[u8::try_from(k).unwrap(); 16]);
    }
    let mut target = t.begun(WriteOptions::default()).await;
    target.write(WriteMode::Insert, &Batch::new(table.clone(), columns)).await.unwrap();
    for (above, limit, expected) in
        [(10, 10, &[20, 30, 40][..]), (10, 2, &[20, 30]), (i64::MIN, 2, &[-5, 10]), (40, 10, &[]), (i64::MAX, 10, &[])]
    {
        let found = target.scan(&table, Some((1, above)), limit).await.unwrap();
        let seqs: Vec<Cell> = (0..found.rows()).map(|row| found.cell(row, 1)).collect();
        let expected: Vec<Cell> = expected.iter().map(|&seq| Cell::Int(seq)).collect();
        assert_eq!(seqs, expected, "{engine:?}: above {above}, at most {limit}");
    }
    assert_eq!(target.scan(&table, None, 4).await.unwrap().rows(), 4, "{engine:?}");
    assert_eq!(target.scan(&table, None, 100).await.unwrap().rows(), 6, "{engine:?}");
    assert_eq!(target.scan(&table, None, 0).await.unwrap().rows(), 0, "{engine:?}");
    target.commit().await.unwrap();
    let found = {
        let mut target = t.begun(WriteOptions::default()).await;
        target.lookup(&table, &numbers(&table, "k", [Some(4)]), RowLock::Wait).await.unwrap()
    };
    assert_eq!(found.cell(0, 2), Cell::Bytes(&[4; 16]), "{engine:?}: bookkeeping is a table like any other");
}

async fn lines_are_taken_out_by_their_own_key(engine: Engine) {
    let t = Fixture::simple(engine).await;
    let app = t.session();
    // Lines that differ in nothing but their own key.
    for _ in 0..5 {
        app.query("INSERT INTO t VALUES (1, 'a'); DELETE FROM t");
    }
    let mut kept = Vec::new();
    for expected in [4, 4, 2, 0] {
        let lines = t.take_at_most(0, 4).await;
        assert_eq!(lines.len(), expected, "{engine:?}");
        kept.extend(lines.into_iter().map(|line| line.operation));
    }
    kept.sort();
    assert_eq!(kept.concat(), "DDDDDIIIII", "{engine:?}: each line once");
}

async fn the_database_tells_the_time(engine: Engine) {
    let t = Fixture::simple(engine).await;
    let before = machine_clock();
    let mut target = t.begun(WriteOptions::default()).await;
    let now = target.now().await.unwrap();
    target.rollback().await.unwrap();
    assert!((now - before).abs() < MINUTE, "{engine:?}: {now} is not {before}");
    t.session().query("INSERT INTO t VALUES (1, 'a')");
    for line in t.take(0).await {
        let wall = line.wall.expect("a time");
        assert!((wall - before).abs() < MINUTE, "{engine:?}: {wall} is not {before}");
    }
}
