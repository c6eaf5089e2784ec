//! Rows as an Arrow stream: exact on every engine, and read by what people read such streams with.

use std::path::{Path, PathBuf};
use std::process::Command;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float64Type, Int16Type, Int64Type, TimestampMicrosecondType, UInt64Type,
};
use arrow_array::{Array as _, RecordBatch};
use arrow_ipc::reader::StreamReader;
use arrow_schema::{DataType, TimeUnit};
use serde_json::{Value, json};

use crate::support::{Answer, Engine, Node, TestDb, node, output, rowferry_in};

const KEY: &str = "canary-of-the-analyst";
const MIME: &str = "application/vnd.apache.arrow.stream";

fn office(folder: &Path, db: &TestDb, more: &str) -> Node {
    node(
        folder,
        &format!(
            "node: office\nlisten: 127.0.0.1:0\ndatabases:\n  main: {{ url: \"{}\" }}\n{more}api:\n  keys:\n\
             \x20   - {{ name: analyst, key: {KEY}, role: peer, direction: pull, tables: {{ main: [t] }} }}\n",
            db.url()
        ),
    )
}

fn accepting(node: &Node, path: &str, accept: &str) -> Answer {
    let head =
        format!("GET {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
    node.send(&head, b"")
}

/// The rows of an answer in one batch.
#[track_caller]
fn rows(answer: &Answer) -> RecordBatch {
    assert_eq!((answer.status, answer.whole), (200, true), "{answer:?}");
    assert_eq!(answer.header("content-type"), MIME);
    let reader = StreamReader::try_new(answer.body.as_slice(), None).expect("a stream");
    let (schema, batches) = (reader.schema(), reader.collect::<Result<Vec<_>, _>>().expect("batches"));
    let mut all: Vec<RecordBatch> = batches;
    if all.is_empty() {
        return RecordBatch::new_empty(schema);
    }
    assert_eq!(all.len(), 1, "few rows come in one batch");
    all.swap_remove(0)
}

fn cursor(batch: &RecordBatch) -> String {
    batch.schema().metadata().get("rowferry.cursor").expect("a cursor").clone()
}

fn tables(db: &TestDb) {
    let (id, raw, real, big) = match db.engine() {
        Engine::Sqlite => ("INTEGER", "BLOB", "DOUBLE", "BIGINT"),
        Engine::Postgres => ("BIGINT", "BYTEA", "DOUBLE PRECISION", "NUMERIC(20)"),
        _ => ("BIGINT", "VARBINARY(20)", "DOUBLE", "BIGINT UNSIGNED"),
    };
    let moment = if db.engine() == Engine::Postgres { "TIMESTAMP" } else { "DATETIME" };
    let moment = if db.engine() == Engine::Sqlite || db.engine() == Engine::Postgres {
        moment.to_owned()
    } else {
        format!("{moment}(6)")
    };
    // SQLite itself rounds such a number, unless it is a text.
    let wide_type = if db.engine() == Engine::Sqlite { "TEXT" } else { "DECIMAL(50,2)" };
    db.execute(&format!(
        "CREATE TABLE t (id {id} NOT NULL PRIMARY KEY, name VARCHAR(40), small SMALLINT, big {big}, total DECIMAL(12,2),
           wide {wide_type}, born DATE, seen {moment}, raw {raw}, ok BOOLEAN, ratio {real})"
    ));
    let raw = if db.engine() == Engine::Postgres { "'\\x00ff'" } else { "x'00ff'" };
    let wide = if db.engine() == Engine::Sqlite {
        "'123456789012345678901234567890123456789012.25'"
    } else {
        "123456789012345678901234567890123456789012.25"
    };
    let big = if db.engine() == Engine::Sqlite { "9223372036854775807" } else { "18446744073709551615" };
    db.execute(&format!(
        "INSERT INTO t VALUES (1, 'Ada ☕', -7, {big}, 12.50, {wide}, '1815-12-10', '2026-03-01 10:00:00.250000', {raw}, \
         TRUE, 0.5);
         INSERT INTO t (id) VALUES (2)"
    ));
}

#[test]
fn every_engine_s_rows_are_exact_in_a_stream() {
    for db in TestDb::on_all() {
        let engine = db.engine();
        tables(&db);
        let folder = tempfile::tempdir().expect("a folder");
        let node = office(folder.path(), &db, "");
        let batch = rows(&accepting(&node, "/api/pull?table=t", MIME));
        assert_eq!(batch.num_rows(), 2, "{engine:?}");
        let column = |name: &str| batch.column_by_name(name).unwrap_or_else(|| panic!("{engine:?} {name}")).clone();
        assert_eq!(column("id").as_primitive::<Int64Type>().values(), &[1, 2], "{engine:?}");
        assert_eq!(column("name").as_string::<i32>().value(0), "Ada ☕", "{engine:?}");
        assert_eq!(column("small").as_primitive::<Int16Type>().value(0), -7, "{engine:?}");
        match column("big").data_type() {
            DataType::UInt64 => assert_eq!(column("big").as_primitive::<UInt64Type>().value(0), u64::MAX, "{engine:?}"),
            DataType::Int64 => assert_eq!(column("big").as_primitive::<Int64Type>().value(0), i64::MAX, "{engine:?}"),
            DataType::Decimal128(20, 0) => {
                assert_eq!(column("big").as_primitive::<Decimal128Type>().value(0), i128::from(u64::MAX), "{engine:?}");
            }
            other => panic!("{engine:?}: {other}"),
        }
        assert_eq!(column("total").data_type(), &DataType::Decimal128(12, 2), "{engine:?}");
        assert_eq!(column("total").as_primitive::<Decimal128Type>().value(0), 1250, "{engine:?}");
        let wide = column("wide");
        assert_eq!(wide.as_string::<i32>().value(0), "123456789012345678901234567890123456789012.25", "{engine:?}");
        assert_eq!(column("born").as_primitive::<Date32Type>().value(0), -56_270, "{engine:?}");
        assert_eq!(column("seen").data_type(), &DataType::Timestamp(TimeUnit::Microsecond, None), "{engine:?}");
        let seen = column("seen").as_primitive::<TimestampMicrosecondType>().value(0);
        assert_eq!(seen, 1_772_359_200_250_000, "{engine:?}");
        assert_eq!(column("raw").as_binary::<i32>().value(0), [0, 255], "{engine:?}");
        assert!(column("ok").as_boolean().value(0), "{engine:?}");
        assert!((column("ratio").as_primitive::<Float64Type>().value(0) - 0.5).abs() < f64::EPSILON, "{engine:?}");
        for name in ["name", "small", "big", "total", "wide", "born", "seen", "raw", "ok", "ratio", "_escape"] {
            assert!(column(name).is_null(1), "{engine:?} {name}");
        }
        // What is none of its column's type is told beside it.
        let odd = match engine {
            Engine::Sqlite => Some(("total", "many", "UPDATE t SET total = 'many' WHERE id = 2")),
            Engine::Postgres => Some(("total", "NaN", "UPDATE t SET total = 'NaN' WHERE id = 2")),
            _ => None,
        };
        if let Some((name, text, sql)) = odd {
            db.execute(sql);
            let batch = rows(&accepting(&node, "/api/pull?table=t", MIME));
            let at = (0..2).find(|&row| !batch.column_by_name("_escape").expect("it").is_null(row)).expect("a row");
            let told = batch.column_by_name("_escape").expect("it").as_string::<i32>().value(at);
            assert_eq!(serde_json::from_str::<Value>(told).expect("JSON"), json!({ name: text }), "{engine:?}");
            assert!(batch.column_by_name(name).expect("it").is_null(at), "{engine:?}");
        }
    }
}

#[test]
fn changes_come_with_the_keys_of_what_is_gone() {
    for db in TestDb::on_all() {
        let engine = db.engine();
        tables(&db);
        let (folder, other) = (tempfile::tempdir().expect("a folder"), TestDb::new(Engine::Sqlite));
        let sync = format!(
            "  other: {{ url: \"{}\" }}\nsyncs:\n  s: {{ source: main, target: other, direction: push, tables: [t] }}\n",
            other.url()
        );
        let node = office(folder.path(), &db, &sync);
        let ran = rowferry_in(folder.path(), &["sync"]);
        assert_eq!(ran.code, 0, "{engine:?}: {ran:?}");
        let whole = rows(&accepting(&node, "/api/pull?table=t", MIME));
        assert!(whole.column_by_name("_deleted").is_none() && whole.num_rows() == 2, "{engine:?}");
        let pull = |cursor: &str| rows(&accepting(&node, &format!("/api/pull?table=t&cursor={cursor}"), MIME));
        let nothing = pull(&cursor(&whole));
        assert_eq!(nothing.num_rows(), 0, "{engine:?}");
        db.execute("DELETE FROM t WHERE id = 1; UPDATE t SET name = 'new' WHERE id = 2; INSERT INTO t (id) VALUES (3)");
        let changed = pull(&cursor(&nothing));
        let (ids, gone) = (changed.column_by_name("id").expect("it"), changed.column_by_name("_deleted").expect("it"));
        let mut told: Vec<(i64, bool)> = (0..changed.num_rows())
            .map(|row| (ids.as_primitive::<Int64Type>().value(row), gone.as_boolean().value(row)))
            .collect();
        told.sort_unstable();
        assert_eq!(told, [(1, true), (2, false), (3, false)], "{engine:?}");
        assert_eq!(pull(&cursor(&changed)).num_rows(), 0, "{engine:?}");
    }
}

#[test]
fn what_is_no_stream_is_told() {
    let db = TestDb::new(Engine::Sqlite);
    db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, _escape TEXT); INSERT INTO t VALUES (1, 'x')");
    let folder = tempfile::tempdir().expect("a folder");
    let node = office(folder.path(), &db, "");
    for (path, accept, status, said) in [
        ("/api/pull?table=t", "application/vnd.apache.arrow.file", 406, MIME),
        ("/api/pull?table=t&limit=1", MIME, 422, "limit"),
        ("/api/pull?table=t", MIME, 422, "_escape"),
    ] {
        let answer = accepting(&node, path, accept);
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(answer.json()["error"].as_str().is_some_and(|text| text.contains(said)), "{answer:?}");
    }
    assert_eq!(accepting(&node, "/api/pull?table=t", "text/html, */*").json()["count"], 1);
    db.execute("CREATE TABLE u (id INTEGER PRIMARY KEY)");
    assert_eq!(accepting(&node, "/api/pull?table=u", MIME).status, 403);
}

/// A Python with what reads such streams; none where no index of packages is reached.
fn python() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("arrow-readers");
    let (python, ready) = (folder.join("bin/python"), folder.join("ready"));
    if !ready.is_file() {
        let made = Command::new("python3").args(["-m", "venv"]).arg(&folder).output().ok()?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "pyarrow", "polars", "duckdb"];
        if !made.status.success() || !output(Command::new(&python).args(pip)).code.eq(&0) {
            return None;
        }
        std::fs::write(&ready, "").ok()?;
    }
    Some(python)
}

const READERS: &str = r#"
import io, json, sys, urllib.request
import duckdb, polars, pyarrow.ipc
url, key = sys.argv[1:]
headers = {"X-API-Key": key, "Accept": "application/vnd.apache.arrow.stream"}
body = urllib.request.urlopen(urllib.request.Request(url, headers=headers)).read()
arrow = pyarrow.ipc.open_stream(body).read_all()
frame = polars.read_ipc_stream(io.BytesIO(body))
columns = ["id", "name", "small", "big", "total", "wide", "born", "seen", "ok", "ratio"]
duck = duckdb.from_arrow(arrow).project(", ".join(columns)).order("id")
print(json.dumps({
    "pyarrow": [[row[c] for c in columns] for row in arrow.sort_by("id").to_pylist()],
    "polars": [list(row) for row in frame.sort("id").select(columns).rows()],
    "duckdb": [list(row) for row in duck.fetchall()],
    "bytes": [arrow["raw"][0].as_py().hex(), frame["raw"][0].hex(), duckdb.from_arrow(arrow).project("hex(raw)").fetchall()[0][0].lower()],
}, default=str))
"#;

#[test]
fn python_reads_a_table_straight_from_a_node() {
    let Some(python) = python() else {
        println!("left out: Python's readers of Arrow streams, for no index of Python packages is reached from here");
        return;
    };
    for db in TestDb::on_all() {
        tables(&db);
        let folder = tempfile::tempdir().expect("a folder");
        let node = office(folder.path(), &db, "");
        let url = format!("http://{}/api/pull?table=t", node.address);
        let read = output(Command::new(&python).args(["-c", READERS, &url, KEY]));
        assert_eq!(read.code, 0, "{:?}: {read:?}", db.engine());
        let told = read.json();
        let big = &told["pyarrow"][0][3];
        for reader in ["pyarrow", "polars", "duckdb"] {
            assert_eq!(
                told[reader],
                json!([
                    [
                        1,
                        "Ada ☕",
                        -7,
                        big,
                        "12.50",
                        "123456789012345678901234567890123456789012.25",
                        "1815-12-10",
                        "2026-03-01 10:00:00.250000",
                        true,
                        0.5
                    ],
                    [2, null, null, null, null, null, null, null, null, null]
                ]),
                "{:?} {reader}: {told}",
                db.engine()
            );
        }
        assert_eq!(told["bytes"], json!(["00ff", "00ff", "00ff"]), "{:?}", db.engine());
        let big = big.as_u64().or_else(|| big.as_str()?.parse().ok());
        let expected = if db.engine() == Engine::Sqlite { u64::MAX / 2 } else { u64::MAX };
        assert_eq!(big, Some(expected), "{:?}", db.engine());
    }
}
