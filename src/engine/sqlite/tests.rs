//! The engine against real files.

mod log;

use std::sync::Arc;

use super::types::{map_column, parse};
use super::*;
use crate::engine::{ReadRequest, Selection, WriteMode, WriteOptions};
use crate::model::{
    Batch, BatchLimits, Cell, DefaultValue, ForeignKey, ForeignKeyAction, Identity, Index, IndexColumn, Key,
    LogicalType as L, Value,
};

const LIMITS: BatchLimits = BatchLimits { rows: 3, bytes: 1 << 20 };

struct Fixture {
    /// It goes when this does.
    folder: tempfile::TempDir,
    db: Sqlite,
}

impl Fixture {
    async fn new(sql: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}?busy_timeout=2000", folder.path().join("a.db").display());
        let db = open(&url, &OpenOptions { create: true, ..OpenOptions::default() }).await.unwrap();
        let this = Self { folder, db };
        this.run(sql).await;
        this
    }

    async fn run(&self, sql: &str) {
        self.db.target().await.unwrap().execute(sql).await.unwrap();
    }

    /// The first column of a query, as text, read past the engine.
    fn texts(&self, sql: &str) -> Vec<String> {
        let conn = rusqlite::Connection::open(self.folder.path().join("a.db")).unwrap();
        let mut query = conn.prepare(sql).unwrap();
        let texts = query.query_map([], |row| row.get::<_, rusqlite::types::Value>(0)).unwrap();
        texts
            .map(|value| match value.unwrap() {
                rusqlite::types::Value::Integer(number) => number.to_string(),
                rusqlite::types::Value::Text(text) => text,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    async fn table(&self, name: &str) -> Arc<Table> {
        Arc::new(self.db.describe(&TableName::new(name)).await.unwrap().unwrap())
    }

    async fn make(&self, table: &Table) -> Arc<Table> {
        let mut mapped = table.clone();
        mapped.columns = table.columns.iter().map(|c| self.db.map_column(table, c).column).collect();
        let ddl = self.db.ddl(&mapped);
        assert_eq!(ddl.left_out, Vec::<String>::new());
        for sql in ddl.create.iter().chain(&ddl.after_rows) {
            self.run(sql).await;
        }
        let made = self.table(&table.name.name).await;
        assert_eq!(made.columns, mapped.columns, "the reader reports what was mapped");
        made
    }

    async fn rows(&self, table: &Arc<Table>, rows: Selection, ordered: bool) -> Result<Vec<Vec<Value>>> {
        let request = ReadRequest { table: table.clone(), filter: None, rows, ordered, limits: LIMITS };
        let mut source = self.db.snapshot().await?.source().await?;
        source.check(&request).await?;
        let mut stream = source.read(&request).await?;
        let mut out = Vec::new();
        let all: Vec<usize> = (0..table.columns.len()).collect();
        while let Some(batch) = stream.next().await? {
            assert!(batch.rows() > 0);
            (0..batch.rows()).for_each(|row| out.push(batch.values(row, &all)));
        }
        Ok(out)
    }

    async fn write(&self, mode: WriteMode, table: &Arc<Table>, rows: &[Vec<Value>]) -> Result<u64> {
        let mut target = self.db.target().await?;
        target.begin(WriteOptions { defer_foreign_keys: true, ..WriteOptions::default() }).await?;
        let count = target.write(mode, &batch(table, rows)).await?;
        target.commit().await?;
        Ok(count)
    }
}

fn batch(table: &Arc<Table>, rows: &[Vec<Value>]) -> Batch {
    let mut columns = vec![Column::default(); table.columns.len()];
    for row in rows {
        for ((column, def), value) in columns.iter_mut().zip(&table.columns).zip(row) {
            match source::value_cell(&def.logical, value) {
                Cell::Escape(Value::Text(t)) if def.logical != L::Any => column.push_bytes(t.as_bytes()),
                cell => column.push_cell(cell),
            }
        }
    }
    Batch::new(table.clone(), columns)
}

fn bytes(text: &str) -> Value {
    Value::Bytes(text.as_bytes().to_vec())
}

fn with_key(mut columns: Vec<ColumnDef>, key: &[usize]) -> Table {
    for &at in key {
        columns[at].nullable = false;
    }
    Table {
        primary_key: (!key.is_empty()).then(|| Key { columns: key.to_vec() }),
        ..Table::new(TableName::new("t"), columns)
    }
}

fn every_type() -> Vec<L> {
    let mut all = vec![L::Bool, L::Uuid, L::Date, L::Interval, L::Any];
    for bits in [8, 16, 24, 32, 64] {
        all.extend([L::Int { bits, unsigned: false }, L::Int { bits, unsigned: true }]);
    }
    all.extend([L::Float { bits: 32 }, L::Float { bits: 64 }]);
    for (precision, scale) in [(None, None), (Some(10), Some(2)), (Some(15), Some(0)), (Some(65), Some(30))] {
        all.push(L::Decimal { precision, scale });
    }
    for max in [None, Some(7)] {
        all.extend([
            L::Text { max, fixed: false },
            L::Binary { max, fixed: false },
            L::Bits { len: max, varying: true },
        ]);
    }
    all.extend([L::Text { max: Some(3), fixed: true }, L::Binary { max: Some(3), fixed: true }]);
    all.push(L::Bits { len: Some(3), varying: false });
    for digits in 0..=6 {
        all.extend([L::Time { digits }, L::TimeTz { digits }, L::Duration { digits }]);
        all.extend([L::Timestamp { digits, zoned: false }, L::Timestamp { digits, zoned: true }]);
    }
    all.extend([L::Json { binary: false }, L::Json { binary: true }]);
    all
}

#[test]
fn every_type_comes_back() {
    for logical in every_type() {
        let column = ColumnDef::new("c", logical.clone());
        let table = with_key(vec![column.clone()], &[]);
        let mapped = map_column(&table, &column);
        assert_eq!(mapped.loss, None);
        assert_eq!(parse(&mapped.column.native), logical, "{}", mapped.column.native);
        assert_eq!(map_column(&table, &mapped.column).column, mapped.column, "mapping twice changes nothing");
    }
    let foreign = |native: &str, logical: L| {
        let mut c = ColumnDef::new("c", logical);
        native.clone_into(&mut c.native);
        map_column(&with_key(vec![c.clone()], &[]), &c).column.native
    };
    assert_eq!(foreign("numeric", L::Decimal { precision: None, scale: None }), "DECIMAL_TEXT");
    assert_eq!(foreign("json", L::Json { binary: false }), "JSON_TEXT");
    assert_eq!(foreign("integer", L::Int { bits: 32, unsigned: false }), "INT4");
    let instant = L::Timestamp { digits: 3, zoned: true };
    assert_eq!(foreign("timestamp(3) with time zone", instant), "TIMESTAMPTZ(3)");
    assert_eq!(foreign("varchar(9) character set utf8mb4", L::Text { max: Some(9), fixed: false }), "VARCHAR(9)");
    assert_eq!(foreign("character varying(9)", L::Text { max: Some(9), fixed: false }), "character varying(9)");
    assert_eq!(foreign("e", L::Enum { labels: vec!["a".into()] }), "TEXT");
}

#[tokio::test]
async fn stored_values_of_other_types_are_escapes() {
    let f = Fixture::new(
        "CREATE TABLE t (i INTEGER, s SMALLINT, b BOOLEAN, d DATE, n NUMERIC(6,2), x TEXT, u UUID, st STRING, j JSON);
         INSERT INTO t VALUES ('x', 70000, 'true', '2024-02-30', 1.5, CAST(x'ff' AS TEXT), x'00112233445566778899aabbccddeeff', '007', '12');
         INSERT INTO t VALUES (1.5, 7, 2, 1700000000, 1.234, x'00', '00112233-4455-6677-8899-AABBCCDDEEFF', 'a', '{}');",
    )
    .await;
    let t = f.table("t").await;
    let uuid = Value::Bytes((0..16).map(|b| b * 17).collect());
    let text = |t: &str| Value::Text(t.into());
    assert_eq!(
        f.rows(&t, Selection::All, false).await.unwrap(),
        vec![
            vec![
                text("x"),
                Value::Int(70000),
                Value::Int(1),
                text("2024-02-30"),
                bytes("1.50"),
                Value::Bytes(vec![255]),
                uuid.clone(),
                Value::Int(7),
                bytes("12")
            ],
            vec![
                Value::Float(1.5),
                Value::Int(7),
                Value::Int(2),
                Value::Int(1_700_000_000),
                Value::Float(1.234),
                Value::Bytes(vec![0]),
                uuid,
                bytes("a"),
                bytes("{}")
            ],
        ]
    );
    let mut column = Column::default();
    for text in ["007", "a", "1e3"] {
        column.push_bytes(text.as_bytes());
    }
    let rows = |c: &ColumnDef| f.db.misfits(c, &column).into_iter().map(|(r, _)| r).collect::<Vec<_>>();
    assert_eq!(rows(&t.columns[7]), [0, 2]);
    assert_eq!(rows(&t.columns[5]), [0_usize; 0]);
    let mut floats = Column::default();
    for v in [f64::NAN, -0.0, 0.0] {
        floats.push_float(v);
    }
    assert_eq!(f.db.misfits(&ColumnDef::new("f", L::Float { bits: 64 }), &floats).len(), 2);
}

#[tokio::test]
async fn order_and_ranges_of_keys() {
    let f = Fixture::new(
        "CREATE TABLE t (a TEXT COLLATE NOCASE NOT NULL, b INT NOT NULL, v, PRIMARY KEY (a, b)) WITHOUT ROWID;
         INSERT INTO t VALUES ('b',1,1),('B',2,2),('a',10,3),('a',9,4),('é',1,5),('Z',1,6);
         CREATE TABLE d (k DECIMAL_TEXT NOT NULL PRIMARY KEY);
         INSERT INTO d VALUES ('-10'),('-9.5'),('-9'),('0'),('9'),('10'),('10.25'),('NaN'),('-Infinity'),('Infinity'),('100000000000000000000000.1');
         CREATE TABLE s (k DATETIME NOT NULL PRIMARY KEY); INSERT INTO s VALUES ('2024-01-01T00:00:00');",
    )
    .await;
    let t = f.table("t").await;
    assert_eq!(t.columns[0].collation.as_deref(), Some("NOCASE"));
    let last = |rows: Vec<Vec<Value>>| rows.into_iter().map(|r| r[2].clone()).collect::<Vec<_>>();
    let ints = |v: &[i64]| v.iter().map(|v| Value::Int(*v)).collect::<Vec<_>>();
    assert_eq!(last(f.rows(&t, Selection::All, true).await.unwrap()), ints(&[2, 6, 4, 3, 1, 5]));
    let range = |after: Option<Vec<Value>>, upto: Option<Vec<Value>>| Selection::Range { after, upto };
    let middle = range(Some(vec![bytes("B"), Value::Int(2)]), Some(vec![bytes("a"), Value::Int(9)]));
    assert_eq!(last(f.rows(&t, middle, true).await.unwrap()), ints(&[6, 4]));

    let d = f.table("d").await;
    let sorted: Vec<Value> =
        ["-Infinity", "-10", "-9.5", "-9", "0", "9", "10", "10.25", "100000000000000000000000.1", "Infinity", "NaN"]
            .map(bytes)
            .to_vec();
    let flat = |rows: Vec<Vec<Value>>| rows.into_iter().flatten().collect::<Vec<_>>();
    assert_eq!(flat(f.rows(&d, Selection::All, true).await.unwrap()), sorted);
    let some = range(Some(vec![bytes("-9.50")]), Some(vec![bytes("10.2")]));
    assert_eq!(flat(f.rows(&d, some, true).await.unwrap()), sorted[3..7]);

    // A form that text order would get wrong is told, not passed over.
    let error = f.rows(&f.table("s").await, Selection::All, true).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::BadData);
}

#[tokio::test]
async fn a_conflict_clause_and_a_column_named_rowid_change_nothing() {
    let f = Fixture::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY ON CONFLICT REPLACE, v TEXT);
         CREATE TABLE free (rowid TEXT, v);
         INSERT INTO free VALUES ('a', 1), ('a', 1), (NULL, 2);",
    )
    .await;
    let t = f.table("t").await;
    let row = |id: i64, v: &str| vec![Value::Int(id), bytes(v)];
    f.write(WriteMode::Insert, &t, &[row(1, "a"), row(2, "b")]).await.unwrap();
    let error = f.write(WriteMode::Insert, &t, &[row(3, "c"), row(1, "x")]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Constraint);
    assert_eq!(f.rows(&t, Selection::All, true).await.unwrap(), [row(1, "a"), row(2, "b")]);
    let free = f.table("free").await;
    let gone = [vec![bytes("a"), Value::Int(1)], vec![Value::Null, Value::Int(2)]];
    assert_eq!(f.write(WriteMode::Delete, &free, &gone).await.unwrap(), 2);
    assert_eq!(f.rows(&free, Selection::All, false).await.unwrap().len(), 1);
}

#[tokio::test]
async fn many_rows_go_in_by_few_statements() {
    let f = Fixture::new("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)").await;
    let t = f.table("t").await;
    let row = |id: i64| vec![Value::Int(id), if id % 7 == 0 { Value::Null } else { bytes(&format!("v{id}")) }];
    let mut next = 0;
    for count in [1, 31, 32, 33, 64, 100] {
        let rows: Vec<_> = (next..next + count).map(row).collect();
        assert_eq!(f.write(WriteMode::Insert, &t, &rows).await.unwrap(), count.unsigned_abs());
        next += count;
    }
    let mut taken: Vec<_> = (next..next + 40).map(row).collect();
    taken[37] = row(3);
    assert_eq!(f.write(WriteMode::Insert, &t, &taken).await.unwrap_err().kind, ErrorKind::Constraint);
    let all: Vec<_> = (0..next).map(row).collect();
    assert_eq!(f.rows(&t, Selection::All, true).await.unwrap(), all, "nothing of the refused batch stayed");
}

#[tokio::test]
async fn indexes_are_the_same_after_a_load() {
    let f = Fixture::new(
        "CREATE TABLE \"a t\" (id INTEGER PRIMARY KEY, a TEXT COLLATE NOCASE, b INT);
         CREATE INDEX \"the \"\"index\" ON \"a t\" (b DESC, a);
         CREATE INDEX second ON \"a t\"(a  COLLATE BINARY);
         CREATE UNIQUE INDEX one ON \"a t\" (b);
         CREATE INDEX some ON \"a t\" (a) WHERE b > 1;
         CREATE INDEX computed ON \"a t\" (json_extract(a, '$.x'));",
    )
    .await;
    let t = f.table("a t").await;
    let mut target = f.db.target().await.unwrap();
    let schema = "SELECT sql FROM sqlite_schema WHERE type = 'index' ORDER BY name";
    let before = f.texts(schema);
    let row = |id: i64, a: &str| batch(&t, &[vec![Value::Int(id), bytes(a), Value::Int(-id)]]);

    target.begin(WriteOptions::default()).await.unwrap();
    target.write(WriteMode::Insert, &row(1, "{}")).await.unwrap();
    target.flush().await.unwrap();
    target.rollback().await.unwrap();
    assert_eq!(f.texts(schema), before, "after a rollback");

    target.begin(WriteOptions::default()).await.unwrap();
    target.savepoint().await.unwrap();
    target.write(WriteMode::Insert, &row(1, "{}")).await.unwrap();
    target.write(WriteMode::Insert, &row(2, "no document")).await.unwrap();
    assert!(target.flush().await.is_err(), "an index that can refuse a row is there during the load");
    target.rollback_to_savepoint().await.unwrap();
    target.write(WriteMode::Insert, &row(1, "{}")).await.unwrap();
    target.savepoint().await.unwrap();
    target.write(WriteMode::Insert, &row(3, "[]")).await.unwrap();
    target.flush().await.unwrap();
    target.rollback_to_savepoint().await.unwrap();
    target.write(WriteMode::Insert, &row(4, "[1]")).await.unwrap();
    target.commit().await.unwrap();
    assert_eq!(f.texts(schema), before, "after the commit");
    assert_eq!(f.texts("PRAGMA integrity_check"), ["ok"]);
    let found = "SELECT id FROM \"a t\" INDEXED BY \"the \"\"index\" WHERE b < 0 ORDER BY id";
    assert_eq!(f.texts(found), ["1", "4"]);
}

#[tokio::test]
async fn hostile_names_and_round_trip_of_ddl() {
    let f = Fixture::new("").await;
    for name in ["\"we\"\"ird", "😀 'x'", "select", "a]b`c"] {
        let mut id = ColumnDef::new("select", L::Int { bits: 64, unsigned: false });
        id.identity = Some(Identity::ByDefault);
        let mut text = ColumnDef::new("\"q\" ) --", L::Text { max: None, fixed: false });
        text.default = Some(DefaultValue::Literal("it's".into()));
        let mut at = ColumnDef::new("at", L::Timestamp { digits: 3, zoned: false });
        at.default = Some(DefaultValue::Now);
        let mut table = with_key(vec![id, text, at], &[0]);
        table.name = TableName::new(name);
        table.indexes = vec![Index {
            name: "i".into(),
            columns: vec![IndexColumn { name: "\"q\" ) --".into(), descending: true }],
            unique: true,
            constraint: false,
            native: None,
        }];
        table.foreign_keys = vec![ForeignKey {
            name: "f".into(),
            columns: vec!["select".into()],
            parent: table.name.clone(),
            parent_columns: vec!["select".into()],
            on_delete: ForeignKeyAction::Cascade,
            on_update: ForeignKeyAction::NoAction,
            native: None,
        }];
        let made = f.make(&table).await;
        assert_eq!(made.columns[0].native, "INTEGER");
        assert_eq!(made.indexes.len(), 1);
        let again = f.db.ddl(&made).after_rows;
        assert!(again[0].contains(&ddl::quote(&made.indexes[0].name)), "a derived name is kept: {}", again[0]);
        assert!(made.indexes[0].columns[0].descending && made.indexes[0].unique);
        assert_eq!(made.foreign_keys[0].on_delete, ForeignKeyAction::Cascade);
        let rows = [vec![Value::Int(1), bytes("x"), Value::Int(1_000)]];
        f.write(WriteMode::Insert, &made, &rows).await.unwrap();
        assert_eq!(f.rows(&made, Selection::All, true).await.unwrap(), rows);
    }
    assert_eq!(f.db.tables(None).await.unwrap().len(), 4);
}

#[tokio::test]
async fn same_engine_keeps_its_words() {
    let f = Fixture::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, n NUMERIC, j JSON, x, e TEXT DEFAULT (lower('A')),
           g INT GENERATED ALWAYS AS (id * 2) STORED);
         CREATE INDEX part ON t (n) WHERE n > 1; CREATE INDEX expr ON t (lower(e));
         CREATE TABLE _rowferry_x (a); CREATE TRIGGER tr AFTER INSERT ON t BEGIN SELECT 1; END;",
    )
    .await;
    let t = f.table("t").await;
    assert_eq!(t.triggers, ["tr"]);
    assert!(t.columns[5].generated);
    assert_eq!(f.db.tables(None).await.unwrap(), [TableName::new("t")]);
    let mut copy = (*t).clone();
    copy.name = TableName::new("u");
    let made = f.make(&copy).await;
    let natives = |t: &Table| t.columns.iter().map(|c| c.native.clone()).collect::<Vec<_>>();
    assert_eq!(natives(&made)[..3], natives(&t)[..3]);
    assert_eq!(made.columns[4].default, t.columns[4].default);
    assert_eq!(made.indexes.len(), 2);
    f.run("INSERT INTO t (id, n) VALUES (5, 2)").await;
    f.write(
        WriteMode::Insert,
        &t,
        &[vec![Value::Int(6), Value::Null, Value::Null, Value::Null, Value::Null, Value::Null]],
    )
    .await
    .unwrap();
    assert_eq!(f.rows(&t, Selection::All, true).await.unwrap()[1][5], Value::Int(12));
}

#[tokio::test]
async fn a_full_disk_names_the_file() {
    let f = Fixture::new("CREATE TABLE t (id INTEGER PRIMARY KEY, s TEXT)").await;
    let mut target = f.db.target().await.unwrap();
    target.execute("PRAGMA max_page_count = 3").await.unwrap();
    let error = target.execute("INSERT INTO t VALUES (1, zeroblob(100000))").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Full);
    assert!(error.message().contains(f.db.label()), "{error}");
}
