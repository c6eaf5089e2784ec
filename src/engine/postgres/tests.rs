//! Tests against a server: `ROWFERRY_TEST_POSTGRES` names one (a URL of an account that may create
//! databases).

mod log;

use std::sync::Arc;

use super::*;
use crate::engine::{ReadRequest, Selection, WriteMode, WriteOptions};
use crate::model::{Batch, BatchLimits, Cell, Value};

fn server() -> String {
    std::env::var("ROWFERRY_TEST_POSTGRES").expect("no server to test against: run ./test.sh")
}

/// A database of its own for a test.
async fn fresh(name: &str) -> Postgres {
    let url = server();
    let options = OpenOptions { create: false, ..OpenOptions::default() };
    let admin = open(&url, &options).await.unwrap().target().await.unwrap();
    let mut admin = admin;
    admin.execute(&format!("DROP DATABASE IF EXISTS rf_pg_{name} WITH (FORCE)")).await.unwrap();
    admin.execute(&format!("CREATE DATABASE rf_pg_{name}")).await.unwrap();
    let mut own = url::Url::parse(&url).unwrap();
    own.set_path(&format!("/rf_pg_{name}"));
    open(own.as_str(), &options).await.unwrap()
}

async fn read_all(db: &Postgres, table: &Arc<Table>, rows: usize, ordered: bool, range: Selection) -> Vec<Batch> {
    let snapshot = db.snapshot().await.unwrap();
    let mut source = snapshot.source().await.unwrap();
    let request = ReadRequest {
        table: table.clone(),
        filter: None,
        rows: range,
        ordered,
        limits: BatchLimits { rows, bytes: 1 << 20 },
    };
    source.check(&request).await.unwrap();
    let mut stream = source.read(&request).await.unwrap();
    let mut out = Vec::new();
    while let Some(batch) = stream.next().await.unwrap() {
        out.push(batch);
    }
    out
}

/// The first column of a query, as text.
async fn texts(db: &Postgres, sql: &str) -> Vec<String> {
    let rows = db.shared.session().await.unwrap().client.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn dump(db: &Postgres, table: &str) -> Vec<String> {
    texts(db, &format!("SELECT dumped::text FROM {table} dumped ORDER BY dumped::text COLLATE \"C\"")).await
}

const EDGES: &str = r#"
CREATE TYPE mood AS ENUM ('sad', 'it''s "ok"');
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE TABLE "we""ird 😀 select" (
  "id ""x" bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, b boolean, i2 int2, i4 int4, i8 int8, f4 float4, f8 float8,
  n numeric, n2 numeric(10,2), t text, v varchar(10), c char(5), y bytea, d date, tm time, ts timestamp, tz timestamptz,
  u uuid, jb jsonb, m mood, p positive, g int GENERATED ALWAYS AS (i4 + 1) STORED);
INSERT INTO "we""ird 😀 select" (b,i2,i4,i8,f4,f8,n,n2,t,v,c,y,d,tm,ts,tz,u,jb,m,p) VALUES
 (true,-32768,-2147483648,-9223372036854775808,'-0','-0','NaN',-1.50,'','é','ab',E'\\x00ff','4713-01-01 BC','00:00','4713-01-01 00:00:00 BC','-infinity','00000000-0000-0000-0000-000000000001','{"a": [1, 2.50]}','sad',1),
 (false,32767,2147483646,9223372036854775807,'3.4028235e38','4.9e-324',repeat('9',1000)::numeric/7,99999999.99,E'a\\\tb\n\r😀','  ','     ','','infinity','24:00','294246-12-31 23:59:59.999999','2024-02-29 12:00:00.123456+02','ffffffff-ffff-ffff-ffff-ffffffffffff','"x"','it''s "ok"',5),
 (null,null,null,null,'NaN','-Infinity',0.00010,null,null,null,null,null,'-infinity',null,'infinity',null,null,null,null,null);
CREATE TABLE texts (k text PRIMARY KEY, i inet, r int4range, a text[], iv interval, bt bit(3), vb varbit, tt timetz, x xml, pt point, j json,
  d date, ts timestamptz, f4 float4, f8 float8, y bytea, u uuid, n numeric);
INSERT INTO texts VALUES
 (E'a\\N\t', '10.0.0.1/8', '[1,5)', ARRAY['a,b', NULL, 'q"'], '-1 year 2 mons 3 days -04:05:06.7', '101', '', '12:00+02:30', '<a/>', '(1,2)', '{"b":1,  "a":2}', '0044-03-15 BC', '0001-01-01 00:00 BC', '1e-45', 0.1, '\x0a5c', gen_random_uuid(), 1e-20),
 ('\N', null, null, null, null, null, null, null, null, null, null, 'infinity', '-infinity', 'inf', 'nan', null, null, null);
"#;

#[tokio::test]
async fn edge_values_come_back() {
    let db = fresh("edges").await;
    let mut target = db.target().await.unwrap();
    target.execute(EDGES).await.unwrap();
    let tables = db.tables(None).await.unwrap();
    assert_eq!(tables.len(), 2);
    for name in tables {
        let table = Arc::new(db.describe(&name).await.unwrap().unwrap());
        let quoted = types::ident(&name.name);
        let before = dump(&db, &quoted).await;
        for rows in [1, 100] {
            let batches = read_all(&db, &table, rows, false, Selection::All).await;
            target.execute(&format!("TRUNCATE {quoted}")).await.unwrap();
            target
                .begin(WriteOptions { silence_triggers: true, defer_foreign_keys: true, ..WriteOptions::default() })
                .await
                .unwrap();
            for batch in &batches {
                for (column, data) in table.columns.iter().zip(batch.columns()) {
                    assert_eq!(db.misfits(column, data), []);
                }
                target.write(WriteMode::Insert, batch).await.unwrap();
            }
            target.commit().await.unwrap();
            assert_eq!(dump(&db, &quoted).await, before, "{name}");
            // Updates of the same rows find them all, deletes too.
            target.begin(WriteOptions::default()).await.unwrap();
            let mut found = (0, 0);
            for batch in &batches {
                if !table.columns.iter().any(|c| c.identity.is_some()) {
                    found.0 += target.write(WriteMode::Update, batch).await.unwrap();
                }
                found.1 += target.write(WriteMode::Delete, batch).await.unwrap();
            }
            target.rollback().await.unwrap();
            assert_eq!(found.1, before.len() as u64);
            assert!(found.0 == 0 || found.0 == found.1);
        }
        // The same engine takes its own columns as they are (`point` could be another engine's).
        for column in table.columns.iter().filter(|c| c.name != "pt") {
            let mapped = db.map_column(&table, column);
            assert_eq!((mapped.column.logical, mapped.loss), (column.logical.clone(), None), "{}", column.name);
        }
    }
    target.verify(&[]).await.unwrap();
}

#[tokio::test]
async fn keys_order_and_ddl() {
    let db = fresh("keys").await;
    let mut target = db.target().await.unwrap();
    target.execute("CREATE TABLE k (t varchar(9), n serial, x text DEFAULT 'it''s', at timestamptz DEFAULT now(), PRIMARY KEY (t, n)); \
        INSERT INTO k SELECT chr(64 + i % 60) || CASE i % 3 WHEN 0 THEN 'é' ELSE '' END, i FROM generate_series(1, 500) i; \
        CREATE UNIQUE INDEX part ON k (x) WHERE x > 'zz'; CREATE INDEX down ON k (x DESC, n); \
        CREATE SCHEMA other; CREATE TABLE other.k (a int); CREATE TABLE nokey (a float8, b json); \
        INSERT INTO nokey VALUES (1, '1'), (1, '1'), (1, '1'), (NULL, NULL); \
        CREATE TABLE child (t varchar(9), n int, FOREIGN KEY (t, n) REFERENCES k ON DELETE CASCADE)").await.unwrap();
    let table = Arc::new(db.describe(&TableName::new("k")).await.unwrap().unwrap());
    let batches = read_all(&db, &table, 7, true, Selection::All).await;
    let key = |b: &Batch, r: usize| b.values(r, &[0, 1]);
    let keys: Vec<Vec<Value>> =
        batches.iter().flat_map(|b| (0..b.rows()).map(|r| key(b, r)).collect::<Vec<_>>()).collect();
    assert_eq!(keys.len(), 500);
    for pair in keys.windows(2) {
        let (Value::Bytes(a), Value::Int(m), Value::Bytes(b), Value::Int(n)) =
            (&pair[0][0], &pair[0][1], &pair[1][0], &pair[1][1])
        else {
            panic!()
        };
        assert!((a, m) < (b, n));
    }
    let range = Selection::Range { after: Some(keys[99].clone()), upto: Some(keys[299].clone()) };
    let some: usize = read_all(&db, &table, 1000, true, range).await.iter().map(Batch::rows).sum();
    assert_eq!(some, 200);

    // A stream dropped early leaves the source usable.
    let snapshot = db.snapshot().await.unwrap();
    let mut source = snapshot.source().await.unwrap();
    let request = ReadRequest {
        table: table.clone(),
        filter: Some("n > 0 -- all".into()),
        rows: Selection::All,
        ordered: false,
        limits: BatchLimits { rows: 2, bytes: 100 },
    };
    drop(source.read(&request).await.unwrap().next().await.unwrap());
    assert_eq!(source.count(&table, Some("n <= 10")).await.unwrap(), 10);
    let bad = ReadRequest { filter: Some("nix = 1".into()), ..request.clone() };
    assert_eq!(source.check(&bad).await.unwrap_err().kind, ErrorKind::SchemaMismatch);
    let two = ReadRequest { filter: Some("true); DROP TABLE k; --".into()), ..request.clone() };
    assert_eq!(source.check(&two).await.unwrap_err().kind, ErrorKind::Usage);
    assert_eq!(source.count(&table, None).await.unwrap(), 500);

    // Keyless deletes take one row for each given.
    let nokey = Arc::new(db.describe(&TableName::new("nokey")).await.unwrap().unwrap());
    let rows = read_all(&db, &nokey, 100, false, Selection::All).await.remove(0);
    let given: Vec<usize> = (0..4)
        .filter(|&r| rows.cell(r, 0) == Cell::Null)
        .chain((0..4).filter(|&r| rows.cell(r, 0) != Cell::Null).take(2))
        .collect();
    target.begin(WriteOptions::default()).await.unwrap();
    assert_eq!(target.write(WriteMode::Delete, &rows.select(given.into_iter())).await.unwrap(), 3);
    target.commit().await.unwrap();
    assert_eq!(dump(&db, "nokey").await.len(), 1);

    // Numbering goes on after the highest.
    target.verify(std::slice::from_ref(&table)).await.unwrap();
    assert_eq!(texts(&db, "SELECT nextval('k_n_seq')::text").await, ["501"]);

    // DDL made from the description describes the same.
    for name in ["k", "child"] {
        let table = db.describe(&TableName::new(name)).await.unwrap().unwrap();
        let mut copy = table.clone();
        copy.name.name = format!("{name}_copy");
        copy.columns = table.columns.iter().map(|c| db.map_column(&table, c).column).collect();
        let ddl = db.ddl(&copy);
        for sql in ddl.create.iter().chain(&ddl.after_rows).chain(&ddl.foreign_keys) {
            target.execute(sql).await.unwrap();
        }
        assert_eq!(ddl.left_out, Vec::<String>::new());
        let made = db.describe(&copy.name).await.unwrap().unwrap();
        assert_eq!(made.columns, table.columns);
        assert_eq!(made.primary_key, table.primary_key);
        assert_eq!(made.indexes.len(), table.indexes.len());
        assert_eq!(made.foreign_keys.len(), table.foreign_keys.len());
    }
    assert_eq!(db.tables(Some("other")).await.unwrap(), [TableName::qualified("other", "k")]);
}

#[tokio::test]
async fn stretches_hold_each_row_once_as_it_was_at_the_point() {
    let db = fresh("stretches").await;
    let mut target = db.target().await.unwrap();
    let make = "CREATE TABLE s (n int, pad text); INSERT INTO s SELECT i, repeat('x', 300) FROM generate_series(1, 3000) i; \
        DELETE FROM s WHERE n % 10 = 0; CREATE TABLE few (n int); \
        CREATE TABLE parts (n int) PARTITION BY HASH (n); CREATE TABLE parts_0 PARTITION OF parts FOR VALUES WITH (MODULUS 1, REMAINDER 0)";
    target.execute(make).await.unwrap();
    let table = Arc::new(db.describe(&TableName::new("s")).await.unwrap().unwrap());
    let snapshot = db.snapshot().await.unwrap();
    // Rows move, go and come behind the last page that is counted, and in the middle.
    let later = "UPDATE s SET n = -n WHERE n % 3 = 0; DELETE FROM s WHERE n % 7 = 0; \
        INSERT INTO s SELECT i, repeat('y', 300) FROM generate_series(5000, 9000) i";
    target.execute(later).await.unwrap();
    let mut source = snapshot.source().await.unwrap();
    let stretches = source.stretches(&table, 64 << 10).await.unwrap();
    assert!(stretches.len() > 10, "{stretches:?}");
    let mut found = Vec::new();
    for rows in stretches {
        let limits = BatchLimits { rows: 100, bytes: 1 << 20 };
        let request = ReadRequest { table: table.clone(), filter: None, rows, ordered: false, limits };
        let mut source = snapshot.source().await.unwrap();
        let mut stream = source.read(&request).await.unwrap();
        while let Some(batch) = stream.next().await.unwrap() {
            found.extend((0..batch.rows()).map(|row| match batch.cell(row, 0) {
                Cell::Int(n) => n,
                other => panic!("{other:?}"),
            }));
        }
    }
    found.sort_unstable();
    assert_eq!(found, (1..=3000).filter(|n| n % 10 != 0).collect::<Vec<i64>>());
    for whole in ["few", "parts"] {
        let table = db.describe(&TableName::new(whole)).await.unwrap().unwrap();
        assert_eq!(source.stretches(&table, 64 << 10).await.unwrap(), [Selection::All], "{whole}");
    }
}

#[tokio::test]
async fn a_schema_that_is_not_there_is_told() {
    let mut url = url::Url::parse(&server()).unwrap();
    url.set_query(Some("schema=nix"));
    let error =
        open(url.as_str(), &OpenOptions { create: false, ..OpenOptions::default() }).await.map(drop).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Usage);
}
