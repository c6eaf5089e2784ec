//! A node whose peer was broken into: whoever has the key says what no rowferry would.

#![allow(clippy::unwrap_used, reason = "each function here is part of a test")]

use std::collections::BTreeMap;
use std::sync::Arc;

use rowferry::apply::Fill;
use rowferry::conflict::{FirstRun, Policy, Rule};
use rowferry::endpoint::{Comparison, End, Filter, Half, Leaves, Mapping, Rewrite, Route};
use rowferry::engine::{Letters, WriteMode};
use rowferry::model::{
    Batch, BatchLimits, Column, ColumnDef, DefaultValue, Dialect, Index, IndexColumn, Key, LogicalType, Site, Table,
    TableName, Zone,
};
use rowferry::peer::{
    About, Asked, Comparing, Hello, Numbered, PROTOCOL, Prepared, Preparing, Reader, Receiving, Rewriting, Sending,
    Told, Welcome, WireComparison, WireOptions, WireOrigin, WireRewrite, WireRoute, Writer, path,
};
use rowferry::pipeline::{Origin, PlanOptions};
use serde::Serialize;

use crate::support::{Answer, Engine, Node, TestDb, node};

const KEY: &str = "canary-of-the-thief";

fn at(folder: &std::path::Path, db: &TestDb, key: &str) -> Node {
    node(
        folder,
        &format!(
            "node: office\nlisten: 127.0.0.1:0\ndatabases:\n  main: {{ url: \"{}\" }}\napi:\n  keys:\n\
             \x20   - {{ name: thief, key: {KEY}, role: peer, {key} }}\n",
            db.url()
        ),
    )
}

fn ask(node: &Node, path: &str, head: &impl Serialize) -> Answer {
    node.post_bytes(path, KEY, "", &Writer::new(5, head).finish())
}

fn about<T>(ask: T) -> About<T> {
    About { database: "main".to_owned(), ask }
}

fn prepared(answer: &Answer) -> Prepared {
    assert_eq!(answer.status, 200, "{answer:?}");
    Reader::new(&answer.body).unwrap().head().unwrap()
}

fn whole_number(name: &str) -> ColumnDef {
    ColumnDef { nullable: false, ..ColumnDef::new(name, LogicalType::Int { bits: 64, unsigned: false }) }
}

fn table(name: &str, columns: Vec<ColumnDef>) -> Table {
    let mut table = Table::new(TableName::new(name), columns);
    table.primary_key = Some(Key { columns: vec![0] });
    table
}

fn origin(product: &str, tables: Vec<Table>) -> Origin {
    Origin {
        label: "thief".to_owned(),
        identity: String::new(),
        product: product.to_owned(),
        version: format!("{product} 1"),
        table_names: Letters::Exact,
        zone: Zone::default(),
        tables,
        conditions: BTreeMap::new(),
        notes: Vec::new(),
    }
}

/// Whatever of a table's description could become SQL, in a table that the key may make.
#[test]
fn what_a_peer_tells_of_a_table_is_no_sql() {
    for db in TestDb::on_all() {
        db.execute("CREATE TABLE other (id INTEGER NOT NULL PRIMARY KEY)");
        let folder = tempfile::tempdir().unwrap();
        let node = at(folder.path(), &db, "tables: { main: [loot] }");
        let hello = Hello { protocol: PROTOCOL, node: "thief".to_owned(), database: None };
        let welcome = ask(&node, path::HANDSHAKE, &hello);
        let welcome: Welcome = Reader::new(&welcome.body).unwrap().head().unwrap();
        let evil = "integer); CREATE TABLE pwned (id integer); --";
        let spoil: [&dyn Fn(&mut Table); 7] = [
            &|t| t.columns[1].native = evil.to_owned(),
            &|t| t.columns[1].dialect = Some(evil.to_owned()),
            &|t| t.columns[1].collation = Some(evil.to_owned()),
            &|t| t.columns[1].default = Some(DefaultValue::Expression(evil.to_owned())),
            &|t| t.columns[1].logical = LogicalType::Other { native: evil.to_owned() },
            &|t| {
                t.dialect =
                    Dialect { constraints: vec![evil.to_owned()], options: vec![evil.to_owned()], left_out: vec![] }
            },
            &|t| {
                let columns = vec![IndexColumn { name: "n".to_owned(), descending: false }];
                let native = Some(format!("CREATE INDEX i ON loot (n); {evil}"));
                t.indexes = vec![Index { name: "i".to_owned(), columns, unique: false, constraint: false, native }];
            },
        ];
        for spoil in spoil {
            let mut loot = table("loot", vec![whole_number("id"), whole_number("n")]);
            spoil(&mut loot);
            let options = PlanOptions { create: true, ..PlanOptions::default() };
            let told = WireOrigin::of(origin(&welcome.product, vec![loot]));
            let plan = about(Preparing::Plan(Box::new(told), WireOptions::of(&options), true));
            let _ = prepared(&ask(&node, path::PREPARE, &plan));
            assert!(db.attempt("SELECT 1 FROM pwned").is_err(), "{:?}", db.engine());
            let _ = db.attempt("DROP TABLE loot");
        }
        // Tables that the key does not name are neither made nor looked at, under no name.
        for name in ["other", "new", "_rowferry_site", "loot\"; DROP TABLE other; --"] {
            let told = WireOrigin::of(origin(&welcome.product, vec![table("loot", vec![whole_number("id")])]));
            let renamed = [("loot".to_owned(), TableName::new(name))].into();
            let options = PlanOptions { create: true, renamed, ..PlanOptions::default() };
            let plan = about(Preparing::Plan(Box::new(told), WireOptions::of(&options), true));
            assert_eq!(ask(&node, path::PREPARE, &plan).status, 403, "{:?} {name}", db.engine());
            let capture = about(Preparing::Capture(vec![TableName::new(name)], Vec::new()));
            assert_eq!(ask(&node, path::PREPARE, &capture).status, 403, "{:?} {name}", db.engine());
            let read = Asked { table: TableName::new(name), columns: vec!["id".to_owned()], filter: None };
            let check = about(Preparing::Check(vec![read]));
            assert_eq!(ask(&node, path::PREPARE, &check).status, 403, "{:?} {name}", db.engine());
        }
        assert_eq!(ask(&node, path::PREPARE, &about(Preparing::Lock("capture".to_owned()))).status, 400);
        assert_eq!(db.value("SELECT count(*) FROM other"), "0", "{:?}: it is there still", db.engine());
    }
}

fn route(from: (u64, u32), to: (u64, u32), own: &Table, other: &Table, way_out: bool, filter: Option<&str>) -> Route {
    let end = |site: (u64, u32)| End {
        site: Site { id: site.0, epoch: site.1 },
        label: String::new(),
        product: "x".to_owned(),
        zone: Zone::default(),
    };
    let (a, b) = if way_out { (own, other) } else { (other, own) };
    let (a, b) = (Arc::new(a.clone()), Arc::new(b.clone()));
    let key = Key { columns: vec![0] };
    let rule = Rule { policy: Policy::LastWriteWins, generated_keys: false };
    let mapping = Mapping {
        from_keys: Arc::new(a.project(&key.columns)),
        to_keys: Arc::new(b.project(&key.columns)),
        fill: Fill::new(&b, Vec::new()),
        filter: filter.map(|condition| Filter { condition: condition.to_owned(), returning: false }),
        soft_delete: None,
        from: a,
        to: b,
        key,
        rule,
        stamp: None,
    };
    Route {
        sync: "s".to_owned(),
        to_target: true,
        from: end(from),
        to: end(to),
        tables: vec![mapping],
        first_run: FirstRun::Manual,
    }
}

#[test]
fn an_end_opens_only_as_the_key_and_the_catalogue_say() {
    for db in TestDb::on_all() {
        db.execute(
            "CREATE TABLE loot (id INTEGER NOT NULL PRIMARY KEY, n INTEGER);
             CREATE TABLE secret (id INTEGER NOT NULL PRIMARY KEY, n INTEGER)",
        );
        let folder = tempfile::tempdir().unwrap();
        let node = at(folder.path(), &db, "tables: { main: [loot] }");
        let capture = Preparing::Capture(vec![TableName::new("loot")], Vec::new());
        let captured = prepared(&ask(&node, path::PREPARE, &about(capture)));
        let Prepared::Captured(captured) = captured else { panic!("{captured:?}") };
        let captured = captured.captured().unwrap();
        assert_eq!(captured.tables.len(), 1);
        let site = (captured.end.site.id, captured.end.site.epoch);
        let hello = Hello { protocol: PROTOCOL, node: "thief".to_owned(), database: None };
        let welcome: Welcome = Reader::new(&ask(&node, path::HANDSHAKE, &hello).body).unwrap().head().unwrap();

        let own = |name: &str, columns: [&str; 2]| table(name, columns.map(whole_number).to_vec());
        let good = own("loot", ["id", "n"]);
        let open = |own: &Table, way_out: bool, filter: Option<&str>, instance: u128, session: u128| {
            let (from, to) = if way_out { (site, (9, 1)) } else { ((9, 1), site) };
            let route = about(WireRoute::of(&route(from, to, own, &good, way_out, filter), instance));
            let no_fill = |writer: &mut Writer| {
                let none = Arc::new(Table::new(TableName::new("f"), Vec::new()));
                writer.batch(&rowferry::model::Batch::new(none, Vec::new()));
            };
            let (place, mut writer) = if way_out {
                let head = Numbered { session, number: 0, ask: Sending::Open(Box::new(route)) };
                (path::CHANGES, Writer::new(5, &head))
            } else {
                let head = Numbered { session, number: 0, ask: Receiving::Open(Box::new(route)) };
                (path::APPLY, Writer::new(5, &head))
            };
            no_fill(&mut writer);
            node.post_bytes(place, KEY, "", &writer.finish())
        };
        let told = |answer: &Answer| -> Told { Reader::new(&answer.body).unwrap().head().unwrap() };
        for (number, way_out) in [true, false].into_iter().enumerate() {
            let session = 100 + number as u128;
            let opened = open(&good, way_out, None, welcome.instance, session);
            assert!(matches!(told(&opened), Told::Done), "{:?} {opened:?}", db.engine());
            // The same once more, and one that was made for another start of the node, are not opened again.
            assert_eq!(open(&good, way_out, None, welcome.instance, session).status, 410);
            assert_eq!(open(&good, way_out, None, welcome.instance ^ 1, session + 50).status, 410);
            let secret = own("secret", ["id", "n"]);
            assert_eq!(open(&secret, way_out, None, welcome.instance, 1).status, 403, "{:?}", db.engine());
            for columns in [["id", "m"], ["id", "n\" FROM secret --"], ["n", "id"]] {
                let odd = open(&own("loot", columns), way_out, None, welcome.instance, 2);
                assert!(matches!(told(&odd), Told::Failed(..)), "{:?} {columns:?} {odd:?}", db.engine());
            }
        }
        let condition = Some("n IN (SELECT n FROM secret)");
        assert_eq!(open(&good, true, condition, welcome.instance, 3).status, 403, "{:?}", db.engine());
        // A call of a number that was not reached, of another's end, of another kind of end.
        let call = |session: u128, number: u64| {
            ask(&node, path::APPLY, &Numbered { session, number, ask: Receiving::Cursors }).status
        };
        assert_eq!([call(101, 7), call(12_345, 1), call(101, 1)], [410, 410, 200], "{:?}", db.engine());
        assert_eq!(call(100, 1), 400, "{:?}: it sends", db.engine());
    }
}

#[test]
fn a_half_of_a_comparison_opens_only_as_the_key_and_the_catalogue_say() {
    for db in TestDb::on_all() {
        db.execute(
            "CREATE TABLE loot (id INTEGER NOT NULL PRIMARY KEY, n INTEGER NOT NULL);
             CREATE TABLE secret (id INTEGER NOT NULL PRIMARY KEY, n INTEGER NOT NULL);
             INSERT INTO loot VALUES (1, 1), (2, 2), (3, 3)",
        );
        let folder = tempfile::tempdir().unwrap();
        let node = at(folder.path(), &db, "tables: { main: [{ table: loot, where: \"n < 3\" }] }");
        let hello = Hello { protocol: PROTOCOL, node: "thief".to_owned(), database: None };
        let welcome: Welcome = Reader::new(&ask(&node, path::HANDSHAKE, &hello).body).unwrap().head().unwrap();
        let own = |name: &str, columns: [&str; 2]| table(name, columns.map(whole_number).to_vec());
        let good = own("loot", ["id", "n"]);
        let comparison = |own: &Table, key: Option<usize>| Comparison {
            a: Arc::new(good.clone()),
            b: Arc::new(own.clone()),
            key: key.map(|at| Key { columns: vec![at] }),
            products: ("x".to_owned(), "x".to_owned()),
            zones: (Zone::default(), Zone::default()),
            filters: (None, Some("n IN (SELECT n FROM secret)".to_owned())),
            written: false,
            limits: BatchLimits { rows: usize::MAX, bytes: usize::MAX },
        };
        let open = |own: &Table, key: Option<usize>, instance: u128, session: u128| {
            let told = about(WireComparison::of(&comparison(own, key), Half::B, instance, 10_000));
            ask(&node, path::DIGESTS, &Numbered { session, number: 0, ask: Comparing::Open(Box::new(told)) })
        };
        let told = |answer: &Answer| -> Told { Reader::new(&answer.body).unwrap().head().unwrap() };
        assert!(matches!(told(&open(&good, Some(0), welcome.instance, 1)), Told::Done), "{:?}", db.engine());
        assert_eq!(open(&good, Some(0), welcome.instance, 1).status, 410, "{:?}: it is open", db.engine());
        assert_eq!(open(&good, Some(0), welcome.instance ^ 1, 2).status, 410, "{:?}", db.engine());
        for name in ["secret", "_rowferry_site", "loot\"; DROP TABLE loot; --"] {
            let closed = open(&own(name, ["id", "n"]), Some(0), welcome.instance, 3);
            assert_eq!(closed.status, 403, "{:?} {name}", db.engine());
        }
        for (columns, key) in [(["id", "m"], Some(0)), (["id", "n"], Some(1)), (["id", "n"], None)] {
            let odd = open(&own("loot", columns), key, welcome.instance, 4);
            assert!(matches!(told(&odd), Told::Failed(..)), "{:?} {columns:?} {odd:?}", db.engine());
        }
        assert_eq!(open(&own("loot", ["id", "id"]), Some(0), welcome.instance, 4).status, 400, "{:?}", db.engine());
        // The condition is the key's, whatever is told; what is asked out of turn is refused and ends nothing.
        let call = |number: u64, ask: Comparing| {
            with_leaves(&node, &Numbered { session: 1, number, ask }, &comparison(&good, Some(0)))
        };
        assert_eq!(call(7, Comparing::Leaves).status, 410, "{:?}", db.engine());
        assert!(matches!(told(&call(1, Comparing::Rows(vec![9]))), Told::Failed(..)), "{:?}", db.engine());
        let followed = call(2, Comparing::Follow);
        let Told::Followed(same, false, 1) = told(&followed) else { panic!("{followed:?}") };
        let rows = Reader::new(&followed.body).and_then(|mut reader| reader.batch(&Arc::new(good.clone()))).unwrap();
        assert_eq!((same, rows.rows()), (vec![false], 2), "{:?}", db.engine());
        assert!(matches!(told(&call(3, Comparing::Count)), Told::Counted(0)), "{:?}", db.engine());
        assert_eq!(call(4, Comparing::Wait).status, 400, "{:?}: there is nothing to wait for", db.engine());
        assert!(matches!(told(&call(4, Comparing::Pick(vec![usize::MAX]))), Told::Done), "{:?}", db.engine());
        // One key has only so many open.
        let opened: Vec<u16> =
            (100..120).map(|session| open(&good, Some(0), welcome.instance, session).status).collect();
        assert_eq!(opened.iter().filter(|status| **status == 200).count(), 15, "{:?} {opened:?}", db.engine());
        assert_eq!(opened[19], 503, "{:?}", db.engine());
    }
}

/// A call, with a leaf behind it that reaches to the end of the table where leaves belong to it.
fn with_leaves(node: &Node, head: &Numbered<Comparing>, comparison: &Comparison) -> Answer {
    let mut writer = Writer::new(5, head);
    if matches!(head.ask, Comparing::Follow) {
        let upto = Batch::new(comparison.keys(), vec![Column::default()]);
        writer.leaves(&Leaves { first: 0, upto, digests: vec![None] });
    }
    node.post_bytes(path::DIGESTS, KEY, "", &writer.finish())
}

#[test]
fn a_body_that_makes_no_sense_is_refused_and_the_node_goes_on() {
    let db = TestDb::new(Engine::Sqlite);
    db.execute("CREATE TABLE loot (id INTEGER NOT NULL PRIMARY KEY, n INTEGER)");
    let folder = tempfile::tempdir().unwrap();
    let node = at(folder.path(), &db, "tables: { main: [loot] }");
    let hello = Hello { protocol: PROTOCOL, node: "thief".to_owned(), database: None };
    let whole = Writer::new(5, &hello).finish();
    for place in [path::HANDSHAKE, path::PREPARE, path::CHANGES, path::SNAPSHOT, path::APPLY, path::DIGESTS] {
        for body in [&b""[..], b"{}", &whole[..whole.len() - 1], &[0; 100]] {
            assert_eq!(node.post_bytes(place, KEY, "", body).status, 400, "{place}");
        }
    }
    let older = Hello { protocol: PROTOCOL + 1, ..hello };
    let refused = ask(&node, path::HANDSHAKE, &older);
    assert_eq!(refused.status, 422, "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.body).contains("version"), "{refused:?}");
    assert_eq!(node.get("/healthz", "").status, 200);
}

/// A table is written by names that are looked up here, under the grants of the key.
#[test]
fn what_a_peer_writes_a_table_as_is_what_its_key_opens() {
    for db in TestDb::on_all() {
        db.execute(
            "CREATE TABLE loot (id INTEGER NOT NULL PRIMARY KEY, n INTEGER NOT NULL, m INTEGER NOT NULL);
             CREATE TABLE secret (id INTEGER NOT NULL PRIMARY KEY, n INTEGER NOT NULL, m INTEGER NOT NULL);
             INSERT INTO loot VALUES (1, 1, 1), (2, 2, 2)",
        );
        let folder = tempfile::tempdir().unwrap();
        let node = at(folder.path(), &db, "tables: { main: [loot] }");
        let hello = Hello { protocol: PROTOCOL, node: "thief".to_owned(), database: None };
        let welcome: Welcome = Reader::new(&ask(&node, path::HANDSHAKE, &hello).body).unwrap().head().unwrap();
        let own = |name: &str, columns: &[&str], key: Option<usize>| {
            let mut own = table(name, columns.iter().copied().map(whole_number).collect());
            own.primary_key = key.map(|at| Key { columns: vec![at] });
            own
        };
        let open = |own: Table, session: u128, number: u64| {
            let own = Arc::new(own);
            let rewrite = Rewrite { fill: Fill::new(&own, Vec::new()), whole: own.clone(), table: own };
            let told = about(WireRewrite::of(&rewrite, welcome.instance, 10_000));
            let head = Numbered { session, number, ask: Rewriting::Open(Box::new(told)) };
            let mut writer = Writer::new(5, &head);
            writer.batch(&rewrite.fill.values());
            node.post_bytes(path::ROWS, KEY, "", &writer.finish())
        };
        let told = |answer: &Answer| -> Told { Reader::new(&answer.body).unwrap().head().unwrap() };
        let all = ["id", "n", "m"];
        for name in ["secret", "_rowferry_site", "loot\"; DROP TABLE loot; --"] {
            assert_eq!(open(own(name, &all, Some(0)), 1, 0).status, 403, "{:?} {name}", db.engine());
        }
        for (columns, key) in [(&["id", "x"][..], Some(0)), (&all[..], Some(1)), (&["n", "m"][..], Some(0))] {
            let odd = open(own("loot", columns, key), 2, 0);
            assert!(matches!(told(&odd), Told::Failed(..)), "{:?} {columns:?}", db.engine());
        }
        assert_eq!(open(own("loot", &["id", "id"], Some(0)), 3, 0).status, 400, "{:?}: a column twice", db.engine());
        assert_eq!(open(own("loot", &all, Some(0)), 4, 1).status, 410, "{:?}: it begins with 0", db.engine());
        assert!(matches!(told(&open(own("loot", &all, Some(0)), 5, 0)), Told::Done), "{:?}", db.engine());
        let call = |number: u64, ask: Rewriting, rows: Option<&Batch>| {
            let mut writer = Writer::new(u128::from(number) + 9, &Numbered { session: 5, number, ask });
            if let Some(rows) = rows {
                writer.batch(rows);
            }
            node.post_bytes(path::ROWS, KEY, "", &writer.finish())
        };
        let loot = Arc::new(own("loot", &all, Some(0)));
        let mut columns = vec![Column::default(); 3];
        for column in &mut columns {
            column.push_int(7);
        }
        let row = Batch::new(loot, columns);
        // More rows than are told of, fewer, none that are waited for, late, twice.
        assert_eq!(call(1, Rewriting::Put(vec![]), Some(&row)).status, 400);
        assert_eq!(call(1, Rewriting::Put(vec![WriteMode::Insert]), None).status, 400);
        assert_eq!(call(1, Rewriting::Wait, None).status, 400);
        assert_eq!(call(2, Rewriting::Write, None).status, 410);
        for _ in 0..2 {
            let answer = call(1, Rewriting::Put(vec![WriteMode::Insert]), Some(&row));
            assert!(matches!(told(&answer), Told::Done), "{:?}", db.engine());
        }
        assert_eq!(db.value("SELECT count(*) FROM loot"), "2", "nothing is written before all is there");
        for _ in 0..2 {
            assert!(
                matches!(told(&call(2, Rewriting::Write, None)), Told::Rewritten([1, 0, 0], _)),
                "{:?}",
                db.engine()
            );
        }
        assert_eq!(db.value("SELECT count(*) FROM loot"), "3");
        assert_eq!(db.value("SELECT count(*) FROM secret"), "0");
    }
}
