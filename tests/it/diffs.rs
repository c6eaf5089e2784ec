//! `rowferry diff`: what differs is found, and found alike, whether an end is at hand or behind a peer.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Engine, Fault, Node, Output, TestDb, Wire, node, rowferry, rowferry_in};

const KEY: &str = "canary-of-the-reader";

/// Two databases; a node that has both, and a folder whose config knows them and the node.
struct Ends {
    a: TestDb,
    b: TestDb,
    here: tempfile::TempDir,
    _there: tempfile::TempDir,
    node: Node,
}

/// Each end at hand and behind the peer.
const WAYS: [[&str; 2]; 4] = [["a", "b"], ["office/a", "b"], ["a", "office/b"], ["office/a", "office/b"]];

impl Ends {
    /// What the key opens stands in `key`.
    fn new(a: TestDb, b: TestDb, key: &str) -> Self {
        for db in [&a, &b] {
            if db.engine() == Engine::Sqlite {
                // Nobody makes a file to compare it.
                db.execute("PRAGMA user_version = 1");
            }
        }
        let folder = || tempfile::tempdir().expect("a folder");
        let (here, there) = (folder(), folder());
        let databases = format!("databases:\n  a: {{ url: \"{}\" }}\n  b: {{ url: \"{}\" }}\n", a.url(), b.url());
        let keys = format!("api:\n  keys:\n    - {{ name: reader, key: {KEY}, {key} }}\n");
        let node = node(there.path(), &format!("node: office\nlisten: 127.0.0.1:0\n{databases}{keys}"));
        let ends = Self { a, b, here, _there: there, node };
        ends.meet(&ends.node.address);
        ends
    }

    /// All tables of both.
    fn open(a: TestDb, b: TestDb) -> Self {
        Self::new(a, b, "role: admin")
    }

    fn meet(&self, address: &str) {
        let (a, b) = (self.a.url(), self.b.url());
        let config = format!(
            "node: laptop\ndatabases:\n  a: {{ url: \"{a}\" }}\n  b: {{ url: \"{b}\" }}\npeers:\n  office: \
             {{ url: \"http://{address}\", api_key: {KEY}, timeout: 20s }}\n"
        );
        std::fs::write(self.path().join("rowferry.yaml"), config).expect("the config");
    }

    fn path(&self) -> &Path {
        self.here.path()
    }

    fn diff(&self, ends: [&str; 2], more: &[&str]) -> Output {
        rowferry_in(self.path(), &[&["--format", "json", "diff", ends[0], ends[1]], more].concat())
    }

    /// What `--rows` says of a table that differs, the same on every way.
    #[track_caller]
    fn found(&self, table: &str) -> Value {
        let mut before: Option<Value> = None;
        for ends in WAYS {
            let output = self.diff(ends, &["--rows", "--tables", table]);
            assert_eq!(output.code, 1, "{ends:?} {:?} {:?}: {output:?}", self.a.engine(), self.b.engine());
            let mut found = output.json()["tables"][0].clone();
            let rows = found["rows"].as_array_mut().expect("rows");
            rows.sort_by_key(Value::to_string);
            if let Some(before) = &before {
                assert_eq!(&found, before, "{ends:?} {:?} {:?}", self.a.engine(), self.b.engine());
            }
            before = Some(found);
        }
        before.expect("four ways")
    }
}

/// A key of letters that collations put in other orders than bytes do.
fn key(n: u32) -> String {
    format!("{}{n:04}", ["a", "B", "ä", "Z", "é", "_", "ß", "A b"][n as usize % 8])
}

fn make(db: &TestDb, rows: u32) {
    let values: Vec<String> = (0..rows).map(|n| format!("('{}', {n}, 'note {n}')", key(n))).collect();
    db.execute("CREATE TABLE people (name VARCHAR(40) NOT NULL PRIMARY KEY, n INTEGER, note VARCHAR(40))");
    for values in values.chunks(500) {
        db.execute(&format!("INSERT INTO people VALUES {}", values.join(",")));
    }
}

/// Every engine beside the next one.
fn pairs() -> Vec<(Engine, Engine)> {
    let engines = Engine::available();
    (0..engines.len()).map(|at| (engines[at], engines[(at + 1) % engines.len()])).collect()
}

#[test]
fn what_differs_is_found_wherever_the_two_are() {
    const ROWS: u32 = 1_500;
    for (a, b) in pairs() {
        let ends = Ends::open(TestDb::new(a), TestDb::new(b));
        make(&ends.a, ROWS);
        make(&ends.b, ROWS);
        for way in WAYS {
            let output = ends.diff(way, &[]);
            assert_eq!(output.code, 0, "{way:?} {a:?} {b:?}: {output:?}");
            let table = &output.json()["tables"][0];
            assert_eq!((&table["rows_a"], &table["rows_b"]), (&json!(ROWS), &json!(ROWS)), "{way:?}");
        }
        let (mut expected, mut sql) = (Vec::new(), (String::new(), String::new()));
        for n in (0..ROWS).filter(|n| n % 199 == 3 || *n == ROWS - 1) {
            let name = key(n);
            sql.1 += &format!("UPDATE people SET n = n + 1, note = NULL WHERE name = '{name}';");
            expected.push(json!({ "columns": ["n", "note"], "key": { "name": name }, "kind": "changed" }));
        }
        for n in [10, 11, 1_207] {
            sql.1 += &format!("DELETE FROM people WHERE name = '{}';", key(n));
            expected.push(json!({ "key": { "name": key(n) }, "kind": "only_a" }));
        }
        // At both ends of every order, and between.
        for name in ["", "!first", "zz last", "ÿ", "a0008x", "\u{1F600}"] {
            sql.1 += &format!("INSERT INTO people VALUES ('{name}', 1, '');");
            expected.push(json!({ "key": { "name": name }, "kind": "only_b" }));
        }
        sql.0 += "INSERT INTO people VALUES ('m', 1, '')";
        expected.push(json!({ "key": { "name": "m" }, "kind": "only_a" }));
        ends.a.execute(&sql.0);
        ends.b.execute(&sql.1);
        expected.sort_by_key(Value::to_string);
        let found = ends.found("people");
        assert_eq!(found["rows"], Value::from(expected.clone()), "{a:?} {b:?}");
        assert_eq!((&found["rows_a"], &found["rows_b"]), (&json!(ROWS + 1), &json!(ROWS + 3)), "{a:?} {b:?}");
        assert_eq!(found["differing"], json!(expected.len()), "{a:?} {b:?}");
    }
}

/// An XOR of weak sums misses each of these.
#[test]
fn rows_with_the_same_change_at_the_same_distance_are_found() {
    for db in TestDb::on_all() {
        let ends = Ends::open(TestDb::new(db.engine()), db);
        for db in [&ends.a, &ends.b] {
            let rows: Vec<String> = (1..=1_000).map(|n| format!("({n}, {})", n * 7)).collect();
            db.execute(&format!(
                "CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, v INTEGER); INSERT INTO t VALUES {}",
                rows.join(",")
            ));
        }
        ends.b.execute(
            "UPDATE t SET v = v + 1 WHERE id IN (300, 301, 700, 701);
             UPDATE t SET v = 999 * 7 WHERE id = 10; UPDATE t SET v = 10 * 7 WHERE id = 999",
        );
        let found = ends.found("t");
        let ids: Vec<&Value> = found["rows"].as_array().expect("rows").iter().map(|row| &row["key"]["id"]).collect();
        assert_eq!(Value::from(ids.into_iter().cloned().collect::<Vec<_>>()), json!([10, 300, 301, 700, 701, 999]));
    }
}

#[test]
fn rows_without_a_key_are_counted_wherever_they_are() {
    for (a, b) in pairs() {
        let ends = Ends::open(TestDb::new(a), TestDb::new(b));
        for db in [&ends.a, &ends.b] {
            let rows: Vec<String> = (0..900).map(|n| format!("({}, 'x{}')", n % 300, n % 300)).collect();
            db.execute(&format!(
                "CREATE TABLE t (n INTEGER, note VARCHAR(20)); INSERT INTO t VALUES {}",
                rows.join(",")
            ));
        }
        for way in WAYS {
            assert_eq!(ends.diff(way, &[]).code, 0, "{way:?} {a:?} {b:?}");
        }
        ends.a.execute("INSERT INTO t VALUES (7, 'x7'), (7, 'x7'), (NULL, NULL)");
        ends.b.execute("INSERT INTO t VALUES (8, 'x8'); UPDATE t SET note = 'y' WHERE n = 9");
        let found = ends.found("t");
        assert_eq!((&found["only_a"], &found["only_b"]), (&json!(6), &json!(4)), "{a:?} {b:?}");
        let of = |kind: &str, n: Value, note: Value| {
            let rows = found["rows"].as_array().expect("rows").iter();
            rows.filter(|row| row["kind"] == kind && row["key"]["n"] == n && row["key"]["note"] == note).count()
        };
        assert_eq!(of("only_a", json!(7), json!("x7")), 2, "{found}");
        assert_eq!(of("only_a", Value::Null, Value::Null), 1, "{found}");
        assert_eq!(of("only_a", json!(9), json!("x9")), 3, "{found}");
        assert_eq!(of("only_b", json!(9), json!("y")), 3, "{found}");
        assert_eq!(of("only_b", json!(8), json!("x8")), 1, "{found}");
    }
}

/// More rows between two of A's keys than one answer holds, with some of A's among them.
#[test]
fn what_only_one_has_comes_in_bounded_answers() {
    for turned in [false, true] {
        let ends = Ends::open(TestDb::new(Engine::Sqlite), TestDb::new(Engine::Sqlite));
        let (few, many) = if turned { (&ends.b, &ends.a) } else { (&ends.a, &ends.b) };
        for db in [few, many] {
            db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)");
        }
        few.execute("INSERT INTO t VALUES (-1, ''), (15, 'other'), (9001, ''), (20000, hex(zeroblob(400))), (30001, ''), (40000, '')");
        many.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)
             INSERT INTO t SELECT i, hex(zeroblob(400)) FROM n",
        );
        many.execute("INSERT INTO t VALUES (40000, '')");
        for way in WAYS {
            let output = ends.diff(way, &[]);
            let table = &output.json()["tables"][0];
            let lone = (if turned { "only_b" } else { "only_a" }, if turned { "only_a" } else { "only_b" });
            assert_eq!((output.code, &table["changed"]), (1, &json!(2)), "{way:?}: {table}");
            assert_eq!((&table[lone.0], &table[lone.1]), (&json!(2), &json!(29_997)), "{way:?}: {table}");
            let rows = (&table["rows_a"], &table["rows_b"]);
            let (few, many) = if turned { (rows.1, rows.0) } else { rows };
            assert_eq!((few, many), (&json!(6), &json!(30_001)), "{way:?}: {table}");
        }
    }
}

/// Values that the other cannot hold differ, in a leaf and at its bounds.
#[test]
fn rows_that_cannot_stand_at_the_other_differ() {
    let ends = Ends::open(TestDb::new(Engine::Sqlite), TestDb::new(Engine::Postgres));
    let rows: Vec<String> = (1..=600).map(|n| format!("({n}, {n})")).collect();
    let rows = rows.join(",");
    ends.a.execute(&format!(
        "CREATE TABLE t (id INTEGER NOT NULL, v NUMERIC, PRIMARY KEY (id)); INSERT INTO t VALUES {rows}"
    ));
    ends.b.execute(&format!("CREATE TABLE t (id SMALLINT PRIMARY KEY, v INTEGER); INSERT INTO t VALUES {rows}"));
    ends.a
        .execute("UPDATE t SET v = 'text' WHERE id IN (1, 256, 300, 600); INSERT INTO t VALUES (70000, 1), (70001, 1)");
    ends.a.execute("CREATE TABLE u (v TEXT); INSERT INTO u VALUES ('1'), ('x'), (NULL)");
    ends.b.execute("CREATE TABLE u (v SMALLINT); INSERT INTO u VALUES (1), (NULL)");
    let found = ends.found("t");
    let all = |kind: &str| -> Vec<Value> {
        let rows = found["rows"].as_array().expect("rows").iter();
        rows.filter(|row| row["kind"] == kind).map(|row| row["key"]["id"].clone()).collect()
    };
    assert_eq!(all("changed"), [json!(1), json!(256), json!(300), json!(600)], "{found}");
    assert_eq!(all("only_a"), [json!(70000), json!(70001)], "{found}");
    assert_eq!((&found["unfit"], &found["differing"]), (&json!(6), &json!(6)), "{found}");
    assert_eq!((&found["rows_a"], &found["rows_b"]), (&json!(602), &json!(600)), "{found}");
    let found = ends.found("u");
    assert_eq!(found["rows"], json!([{ "key": { "v": "x" }, "kind": "only_a" }]), "{found}");
}

#[test]
fn a_table_of_one_side_is_a_difference_with_all_of_its_rows() {
    let ends = Ends::open(TestDb::new(Engine::Sqlite), TestDb::new(Engine::Sqlite));
    ends.a.execute(
        "CREATE TABLE mine (id INTEGER PRIMARY KEY); INSERT INTO mine VALUES (1), (2); CREATE TABLE no (id INTEGER)",
    );
    ends.b.execute("CREATE TABLE yours (id INTEGER PRIMARY KEY); INSERT INTO yours VALUES (1), (2), (3)");
    for way in WAYS {
        let output = ends.diff(way, &["--exclude", "n?"]);
        let tables = output.json()["tables"].clone();
        assert_eq!((output.code, tables.as_array().map(Vec::len)), (1, Some(2)), "{tables}");
        let told =
            |at: usize| ["table", "equal", "rows_a", "rows_b", "differing", "reason"].map(|m| tables[at][m].clone());
        assert_eq!(Value::from(told(0).to_vec()), json!(["mine", false, 2, 0, 2, "only A has this table"]));
        assert_eq!(Value::from(told(1).to_vec()), json!(["yours", false, 0, 3, 3, "only B has this table"]));
        assert_eq!(ends.diff(way, &["--exclude", "mine,yours,no"]).code, 2, "nothing is left to compare");
    }
    let output = rowferry_in(ends.path(), &["diff", "a", "office/b", "--exclude", "no"]);
    assert!(output.stdout.lines().any(|l| l.split_whitespace().take(3).eq(["mine", "2", "0"])), "{}", output.stdout);
}

#[test]
fn a_peer_shows_what_its_key_opens_and_no_more() {
    let (a, b) = (TestDb::new(Engine::Sqlite), TestDb::new(Engine::Sqlite));
    for db in [&a, &b] {
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v INTEGER); INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)");
        db.execute(
            "CREATE TABLE secret (id INTEGER PRIMARY KEY, canary TEXT); INSERT INTO secret VALUES (1, 'canary')",
        );
    }
    let ends = Ends::new(a, b, "role: peer, direction: pull, tables: { b: [{ table: t, where: \"id < 3\" }] }");
    let output = ends.diff(["a", "office/b"], &["--rows", "--tables", "t"]);
    let table = &output.json()["tables"][0];
    assert_eq!((output.code, &table["rows_b"]), (1, &json!(2)), "{output:?}");
    assert_eq!(table["rows"], json!([{ "key": { "id": 3 }, "kind": "only_a" }]), "{output:?}");
    assert!(table["notes"][0].as_str().is_some_and(|note| note.contains("id < 3")), "{table}");
    let output = ends.diff(["a", "office/b"], &["--tables", "secret"]);
    assert_eq!(output.json()["tables"][0]["reason"], json!("only A has this table"), "{output:?}");
    // What the key does not open is no database, and of a table nobody knows there is nothing to compare.
    for (way, code) in [(["office/a", "b"], 1), (["a", "nowhere/b"], 2), (["a", "office/none"], 1)] {
        let output = ends.diff(way, &[]);
        assert!(output.code >= code && !output.stderr.contains("canary"), "{way:?}: {output:?}");
    }
    // A key that only gets rows changes none, and what it does not show is not taken for missing.
    for (repair, why) in [("a-to-b", "key 'reader'"), ("b-to-a", "would delete all others")] {
        let output = ends.diff(["a", "office/b"], &["--tables", "t", "--repair", repair]);
        assert_ne!(output.code, 0, "{output:?}");
        assert!(output.stderr.contains(why), "{output:?}");
    }
    assert_eq!(ends.b.value("SELECT count(*) FROM t"), "3");
    assert_eq!(ends.a.value("SELECT count(*) FROM t"), "3");
}

#[test]
fn a_key_that_only_sends_reads_nothing() {
    let (a, b) = (TestDb::new(Engine::Sqlite), TestDb::new(Engine::Sqlite));
    for db in [&a, &b] {
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY); CREATE TABLE u (id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1)");
    }
    a.execute("DROP TABLE u");
    let ends = Ends::new(a, b, "role: peer, direction: push, tables: { b: [t, u] }");
    for table in ["t", "u"] {
        let output = ends.diff(["a", "office/b"], &["--tables", table]);
        assert_ne!(output.code, 0, "{output:?}");
        assert!(output.stderr.contains("key 'reader'"), "{output:?}");
    }
}

/// While nothing differs digests travel, else the rows of a few leaves.
#[test]
fn few_bytes_travel() {
    const ROWS: u32 = 20_000;
    let (a, b) = (TestDb::new(Engine::Sqlite), TestDb::new(Engine::Sqlite));
    a.execute(&format!(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
         INSERT INTO t SELECT i, hex(randomblob(100)) FROM n"
    ));
    assert_eq!(rowferry(&["copy", a.url(), b.url()]).code, 0);
    let ends = Ends::open(a, b);
    let wire = Wire::new(&ends.node.address);
    ends.meet(&wire.address);
    let mut bytes = [0, 0];
    for (differ, bytes) in bytes.iter_mut().enumerate() {
        for way in [["a", "office/b"], ["office/a", "b"]] {
            wire.plan(|_| None);
            let output = ends.diff(way, &[]);
            assert_eq!(output.code, i32::from(differ == 1), "{output:?}");
            assert_eq!(output.json()["tables"][0]["differing"], json!(differ * 3));
            *bytes = wire.bytes().max(*bytes);
        }
        ends.b.execute("UPDATE t SET v = 'x' WHERE id IN (100, 9000, 19000)");
    }
    let [equal, differ] = bytes;
    assert!(equal < 20_000, "{equal} bytes of 4 MB, and all is equal");
    assert!((60_000..400_000).contains(&differ), "{differ} bytes of 4 MB, and three leaves differ");
}

/// A comparison that the network breaks is begun anew; a request that comes twice is answered once.
#[test]
fn a_bad_network_changes_nothing_in_what_is_found() {
    let ends = Ends::open(TestDb::new(Engine::Sqlite), TestDb::new(Engine::Sqlite));
    make(&ends.a, 1_000);
    make(&ends.b, 1_000);
    ends.b.execute("UPDATE people SET n = 0 WHERE n % 100 = 7");
    let wire = Wire::new(&ends.node.address);
    ends.meet(&wire.address);
    for way in [["a", "office/b"], ["office/a", "b"]] {
        wire.plan(|_| None);
        let well = ends.diff(way, &["--rows"]);
        assert_eq!(well.code, 1, "{well:?}");
        let exchanges = wire.exchanges();
        for fault in [Fault::RequestCut(100), Fault::AnswerCut(60), Fault::Twice] {
            // The first is the greeting, which is not tried again.
            for at in 2..=exchanges {
                wire.plan(move |number| (number == at).then_some(fault));
                let output = ends.diff(way, &["--rows"]);
                assert_eq!(
                    (output.code, output.stdout),
                    (1, well.stdout.clone()),
                    "{fault:?} at {at}: {}",
                    output.stderr
                );
            }
        }
    }
}

/// Each row takes the peer half a second: a table takes it longer than an answer may.
#[test]
fn a_peer_may_take_longer_than_an_answer_may() {
    let (a, b) = (TestDb::new(Engine::Postgres), TestDb::new(Engine::Postgres));
    for db in [&a, &b] {
        db.execute("CREATE TABLE t (v INTEGER PRIMARY KEY); CREATE TABLE u (v INTEGER)");
        db.execute("INSERT INTO t SELECT generate_series(1, 12); INSERT INTO u SELECT 1 FROM generate_series(1, 12)");
    }
    let slow = "where: \"(SELECT count(*) FROM pg_sleep(v * 0 + 0.5)) = 1\"";
    let key = format!("role: peer, tables: {{ b: [{{ table: t, {slow} }}, {{ table: u, {slow} }}] }}");
    let ends = Ends::new(a, b, &key);
    let config = std::fs::read_to_string(ends.path().join("rowferry.yaml")).expect("the config");
    std::fs::write(ends.path().join("rowferry.yaml"), config.replace("timeout: 20s", "timeout: 3s"))
        .expect("the config");
    for table in ["t", "u"] {
        let started = std::time::Instant::now();
        let output = ends.diff(["a", "office/b"], &["--tables", table]);
        assert_eq!((output.code, output.stderr.as_str()), (0, ""), "{table}: {output:?}");
        assert!(started.elapsed().as_secs() >= 5, "{table}: it did not take long");
    }
}

/// A node that knows no comparisons yet.
#[test]
fn an_older_peer_is_told_in_one_sentence() {
    use std::io::{Read as _, Write as _};

    use rowferry::peer::{MIME, Reader, Writer};

    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("its address").to_string();
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("a client");
        let (mut request, mut piece) = (Vec::new(), [0; 4096]);
        let nonce = loop {
            let read = client.read(&mut piece).expect("a request");
            request.extend_from_slice(&piece[..read]);
            let head = request.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
            if let Some(Ok(reader)) = head.map(|head| Reader::new(&request[head..])) {
                break reader.nonce;
            }
        };
        let welcome = json!({ "protocol": 1, "node": "old", "database": "b", "product": "sqlite", "site": null, "now": 0,
            "instance": 1, "tables": [["t", ""]] });
        let body = Writer::new(nonce, &welcome).finish();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {MIME}\r\nContent-Length: {}\r\n\r\n", body.len());
        client.write_all(&[head.as_bytes(), &body].concat()).expect("sent");
    });
    let ends = Ends::open(TestDb::new(Engine::Sqlite), TestDb::new(Engine::Sqlite));
    ends.a.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)");
    ends.meet(&address);
    let output = ends.diff(["a", "office/b"], &[]);
    assert_ne!(output.code, 0, "{output:?}");
    assert!(output.stderr.contains("older than this one and compares nothing"), "{output:?}");
    assert!(output.stderr.contains("s behind that of this node"), "its clock shows 1970: {output:?}");
}

#[test]
fn columns_that_one_side_alone_has_are_a_difference() {
    let ends = Ends::open(TestDb::new(Engine::Sqlite), TestDb::new(Engine::Postgres));
    ends.a.execute("CREATE TABLE t (id INT NOT NULL PRIMARY KEY, a TEXT, here TEXT); CREATE TABLE u (id INT NOT NULL PRIMARY KEY, n INT)");
    ends.a.execute("CREATE TABLE w (x INT); INSERT INTO w VALUES (1); INSERT INTO t VALUES (1, 'x', 'y'), (2, 'x', 'y'); INSERT INTO u VALUES (1, 1)");
    ends.b.execute("CREATE TABLE t (id INT NOT NULL PRIMARY KEY, a TEXT, there TEXT, twice INT GENERATED ALWAYS AS (id * 2) STORED)");
    ends.b.execute("CREATE TABLE u (id INT NOT NULL PRIMARY KEY, n INT); CREATE TABLE w (y INT); INSERT INTO t VALUES (1, 'x', 'z'), (2, 'other', 'z'); INSERT INTO u VALUES (1, 2)");
    for way in WAYS {
        let output = ends.diff(way, &["--rows", "--format", "json"]);
        assert_eq!(output.code, 1, "{way:?}: {output:?}");
        let found = output.json();
        let (t, u, w) = (&found["tables"][0], &found["tables"][1], &found["tables"][2]);
        assert_eq!(
            t["columns"],
            json!([{ "name": "here", "kind": "only_a" }, { "name": "there", "kind": "only_b" }]),
            "{way:?}"
        );
        assert_eq!((&t["differing"], &t["rows"][0]["key"]["id"]), (&json!(1), &json!(2)), "{way:?}: {found}");
        assert_eq!(u["differing"], json!(1), "the others are compared: {way:?}");
        assert_eq!((&w["equal"], &w["reason"]), (&json!(false), &json!("they have no column in common")), "{way:?}");
        let output = rowferry_in(ends.path(), &["diff", way[0], way[1]]);
        assert!(
            output.stdout.contains("t: only A has column here") && output.stdout.contains("only B has column there"),
            "{output:?}"
        );
    }
}

#[test]
fn nothing_to_compare_is_no_equality() {
    for b in TestDb::on_all() {
        let a = TestDb::new(b.engine());
        for db in [&a, &b] {
            db.execute("CREATE TABLE t (id INT NOT NULL PRIMARY KEY)");
            db.execute("CREATE VIEW v AS SELECT id FROM t");
        }
        for (typed, said) in [
            (&["--tables", "t", "--exclude", "t"][..], "a table to compare"),
            (&["--exclude", "*"], "a table to compare"),
            (&["--exclude", "tt"], "has a table 'tt'"),
            (&["--tables", "v"], "has a table 'v': v is a view"),
        ] {
            let output = rowferry(&[&["diff", a.url(), b.url()], typed].concat());
            assert_eq!(output.code, 2, "{typed:?} {:?}: {output:?}", b.engine());
            assert!(output.stderr.contains(said), "{typed:?} {:?}: {output:?}", b.engine());
        }
    }
}

#[test]
fn a_repair_tells_what_it_has_written_in_its_document_too() {
    let (a, b) = (TestDb::new(Engine::Sqlite), TestDb::new(Engine::Sqlite));
    for db in [&a, &b] {
        db.execute("CREATE TABLE t (id INT NOT NULL PRIMARY KEY, n INT); INSERT INTO t VALUES (1, 1), (2, 2)");
    }
    a.execute("UPDATE t SET n = 3 WHERE id = 1; INSERT INTO t VALUES (4, 4)");
    let typed = ["diff", a.url(), b.url(), "--rows", "--repair", "a-to-b", "--format", "json"];
    let output = rowferry(&typed);
    let told = output.json();
    assert_eq!((output.code, &told["equal"], &told["tables"][0]["differing"]), (0, &json!(true), &json!(0)), "{told}");
    assert_eq!(told["before"]["tables"][0]["rows"].as_array().map(Vec::len), Some(2), "{told}");
    let written = &told["written"]["tables"][0];
    assert_eq!((&written["inserted"], &written["updated"]), (&json!(1), &json!(1)), "{told}");
    let again = rowferry(&typed).json();
    assert_eq!((again.get("before"), again.get("written")), (None, None), "{again}");
}
