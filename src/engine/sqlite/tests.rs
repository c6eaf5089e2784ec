//! The engine against real files.

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
    folder: tempfile::TempDir,
    db: Sqlite,
}

impl Fixture {
    async fn new(sql: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}?busy_timeout=2000", folder.path().join("a.db").display());
        let db = open(&url, &OpenOptions { create: true }).await.unwrap();
        let this = Self { folder, db };
        this.run(sql).await;
        this
    }

    async fn run(&self, sql: &str) {
        self.db.target().await.unwrap().execute(sql).await.unwrap();
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
        name: TableName::new("t"),
        columns,
        primary_key: (!key.is_empty()).then(|| Key { columns: key.to_vec() }),
        indexes: Vec::new(),
        foreign_keys: Vec::new(),
        triggers: Vec::new(),
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

/// Values at the edges of a type.
fn edges(logical: &L) -> Vec<Value> {
    let day = crate::model::temporal::DAY;
    match logical {
        L::Bool => vec![Value::Int(0), Value::Int(1)],
        L::Int { bits: 64, unsigned: true } => vec![Value::UInt(0), Value::UInt(u64::MAX)],
        L::Int { bits: 64, .. } => vec![Value::Int(i64::MIN), Value::Int(i64::MAX)],
        L::Int { bits, unsigned: true } => vec![Value::Int(0), Value::Int((1 << bits) - 1)],
        L::Int { bits, .. } => vec![Value::Int(-(1 << (bits - 1))), Value::Int((1 << (bits - 1)) - 1)],
        L::Float { bits: 32 } => vec![Value::Float(f64::from(f32::MAX)), Value::Float(f64::from(0.1_f32))],
        L::Float { .. } => [0.1, f64::MAX, f64::MIN_POSITIVE, 5e-324, f64::INFINITY, 9_007_199_254_740_993.0, 1e15]
            .map(Value::Float)
            .to_vec(),
        L::Decimal { scale: Some(2), .. } => ["0.00", "-99999999.99", "1.50", "0.07", "NaN"].map(bytes).to_vec(),
        L::Decimal { scale: Some(0), .. } => ["0", "-999999999999999", "999999999999999"].map(bytes).to_vec(),
        L::Decimal { .. } => {
            ["NaN", "-Infinity", "1.50", "99999999999999999999999999999999999.000000000000000000000000000001", "0"]
                .map(bytes)
                .to_vec()
        }
        L::Text { .. } => ["", "007", "1e5", "ä€😀", "a\0b", " x "].map(bytes).to_vec(),
        L::Binary { .. } => vec![bytes(""), Value::Bytes(vec![0, 255, 39]), bytes("12")],
        L::Bits { .. } => vec![bytes("010"), bytes("000")],
        L::Uuid => vec![Value::Bytes(vec![0; 16]), Value::Bytes((0..16).map(|b| b * 17).collect())],
        L::Date => [-719_528, 0, 2_932_896, 2_932_897, -1_000_000].map(Value::Int).to_vec(),
        L::Time { .. } => vec![Value::Int(0), Value::Int(day - 1), Value::Int(day)],
        L::TimeTz { .. } => vec![bytes("12:00:00.5+02:30"), bytes("00:00:00-11")],
        L::Duration { .. } => vec![Value::Int(-838 * 3_600_000_000 - 1), Value::Int(0), Value::Int(day * 9 + 5)],
        L::Timestamp { .. } => {
            [i64::from(i32::MIN), 0, 1, 1_700_000_000_123_456, -62_135_596_800_000_000, 300_000_000_000_000_000]
                .map(Value::Int)
                .to_vec()
        }
        L::Interval => vec![bytes("P1Y2M3DT4H5M6.7S"), bytes("PT0S")],
        L::Json { .. } => ["{ \"b\":1, \"a\": 1.0 }", "123", "1.50", "null"].map(bytes).to_vec(),
        L::Any => vec![Value::Int(7), Value::Float(1.0), Value::Text("007".into()), Value::Bytes(vec![1])],
        _ => Vec::new(),
    }
}

#[tokio::test]
async fn edge_values_come_back() {
    let f = Fixture::new("").await;
    for (n, logical) in every_type().into_iter().enumerate() {
        let mut table = with_key(
            vec![ColumnDef::new("id", L::Int { bits: 64, unsigned: false }), ColumnDef::new("c", logical.clone())],
            &[0],
        );
        table.name = TableName::new(format!("t{n}"));
        let table = f.make(&table).await;
        let mut rows: Vec<Vec<Value>> =
            edges(&logical).into_iter().zip(1..).map(|(v, id)| vec![Value::Int(id), v]).collect();
        rows.push(vec![Value::Int(99), Value::Null]);
        let given = batch(&table, &rows);
        assert_eq!(f.db.misfits(&table.columns[1], &given.columns()[1]), vec![], "{logical:?}");
        assert_eq!(f.write(WriteMode::Insert, &table, &rows).await.unwrap(), rows.len() as u64);
        assert_eq!(f.rows(&table, Selection::All, true).await.unwrap(), rows, "{logical:?}");
    }
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
async fn duplicates_updates_deletes() {
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
    assert!(error.message().contains("t.id"), "{error}");
    assert_eq!(f.rows(&t, Selection::All, true).await.unwrap(), [row(1, "a"), row(2, "b")]);
    assert_eq!(f.write(WriteMode::Update, &t, &[row(1, "a"), row(2, "y"), row(9, "z")]).await.unwrap(), 2);
    assert_eq!(f.write(WriteMode::Delete, &t, &[row(1, "?")]).await.unwrap(), 1);
    assert_eq!(f.rows(&t, Selection::All, true).await.unwrap(), [row(2, "y")]);
    let free = f.table("free").await;
    let gone = [vec![bytes("a"), Value::Int(1)], vec![Value::Null, Value::Int(2)]];
    assert_eq!(f.write(WriteMode::Delete, &free, &gone).await.unwrap(), 2);
    assert_eq!(f.rows(&free, Selection::All, false).await.unwrap().len(), 1);
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
            native: None,
        }];
        table.foreign_keys = vec![ForeignKey {
            name: "f".into(),
            columns: vec!["select".into()],
            parent: table.name.clone(),
            parent_columns: vec!["select".into()],
            on_delete: ForeignKeyAction::Cascade,
            on_update: ForeignKeyAction::NoAction,
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
async fn dropping_rolls_back_and_savepoints_hold() {
    let f = Fixture::new("CREATE TABLE t (id INTEGER PRIMARY KEY)").await;
    let t = f.table("t").await;
    let one = |id| batch(&t, &[vec![Value::Int(id)]]);
    let mut target = f.db.target().await.unwrap();
    target.begin(WriteOptions::default()).await.unwrap();
    target.write(WriteMode::Insert, &one(1)).await.unwrap();
    drop(target);
    let mut target = f.db.target().await.unwrap();
    target.begin(WriteOptions::default()).await.unwrap();
    target.write(WriteMode::Insert, &one(2)).await.unwrap();
    target.savepoint().await.unwrap();
    target.write(WriteMode::Insert, &one(3)).await.unwrap();
    assert!(target.write(WriteMode::Insert, &one(3)).await.is_err());
    target.rollback_to_savepoint().await.unwrap();
    target.write(WriteMode::Insert, &one(4)).await.unwrap();
    target.savepoint().await.unwrap();
    target.commit().await.unwrap();
    target.rollback().await.unwrap();
    let ids = f.rows(&t, Selection::All, true).await.unwrap();
    assert_eq!(ids, [vec![Value::Int(2)], vec![Value::Int(4)]]);
    assert_eq!(target.query_text("SELECT id FROM t").await.unwrap(), ["2", "4"]);
}

#[tokio::test]
async fn a_dropped_stream_lets_writers_commit() {
    let f = Fixture::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) INSERT INTO t SELECT i FROM n;",
    )
    .await;
    let t = f.table("t").await;
    let request = ReadRequest {
        table: t.clone(),
        filter: Some("id > 1 -- all".into()),
        rows: Selection::All,
        ordered: true,
        limits: LIMITS,
    };
    let mut source = f.db.snapshot().await.unwrap().source().await.unwrap();
    let mut stream = source.read(&request).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap().rows(), 3);
    drop(stream);
    f.write(WriteMode::Insert, &t, &[vec![Value::Int(9_000)]]).await.unwrap();
    assert_eq!(source.count(&t, Some("id > 1 -- all")).await.unwrap(), 5000);
    let bad = ReadRequest { filter: Some("\"nowhere\" = 1".into()), ..request };
    assert_eq!(source.check(&bad).await.unwrap_err().kind, ErrorKind::SchemaMismatch);
}

#[tokio::test]
async fn in_wal_mode_a_source_keeps_its_point() {
    let f = Fixture::new("PRAGMA journal_mode = WAL; CREATE TABLE t (id INTEGER PRIMARY KEY)").await;
    let t = f.table("t").await;
    let mut source = f.db.snapshot().await.unwrap().source().await.unwrap();
    assert_eq!(source.count(&t, None).await.unwrap(), 0);
    f.write(WriteMode::Insert, &t, &[vec![Value::Int(1)]]).await.unwrap();
    assert_eq!(source.count(&t, None).await.unwrap(), 0);
    assert_eq!(f.rows(&t, Selection::All, true).await.unwrap().len(), 1);
}

#[tokio::test]
async fn verify_finds_orphans_and_triggers_are_silent() {
    let f = Fixture::new(
        "CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE log (x);
         CREATE TABLE c (id INTEGER PRIMARY KEY, p INT REFERENCES p);
         CREATE TRIGGER tr AFTER INSERT ON c BEGIN INSERT INTO log VALUES (1); END;",
    )
    .await;
    let c = f.table("c").await;
    assert_eq!(c.foreign_keys[0].parent_columns, ["id"]);
    let orphan = batch(&c, &[vec![Value::Int(1), Value::Int(7)]]);
    let mut target = f.db.target().await.unwrap();
    target.begin(WriteOptions { silence_triggers: true, defer_foreign_keys: true }).await.unwrap();
    target.write(WriteMode::Insert, &orphan).await.unwrap();
    let found = target.verify(std::slice::from_ref(&c)).await.unwrap();
    assert_eq!(found.len(), 1);
    assert!(found[0].contains("table c: 1 row refers to a row in p"), "{}", found[0]);
    assert_eq!(target.query_text("SELECT count(*) FROM log").await.unwrap(), ["0"]);
    target.rollback().await.unwrap();
    target.begin(WriteOptions::default()).await.unwrap();
    let refused = match target.write(WriteMode::Insert, &orphan).await {
        Ok(_) => target.commit().await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(refused.kind, ErrorKind::Constraint);
}

#[tokio::test]
async fn files_that_are_missing_or_something_else() {
    let f = Fixture::new("").await;
    let path = f.folder.path().join("text");
    let url = format!("sqlite:{}", path.display());
    let missing = open(&url, &OpenOptions { create: false }).await.err().unwrap();
    assert_eq!(missing.kind, ErrorKind::Unreachable);
    std::fs::write(&path, "this is no database at all, ".repeat(100)).unwrap();
    let wrong = open(&url, &OpenOptions { create: false }).await.err().unwrap();
    assert_eq!(wrong.kind, ErrorKind::BadData, "{wrong}");
}
