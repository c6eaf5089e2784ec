//! Rows that are merged column by column, through the whole program between real databases.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rowferry::capture;
use rowferry::endpoint::{Basis, LocalReceiver, LocalSender, Place, Receiver as _, Route, Sender as _};
use rowferry::engine::{Database, OpenOptions, WriteOptions, open};
use rowferry::model::{Batch, BatchLimits, Column, TableName};
use rowferry::pipeline::{Pair, PairOptions, PlanOptions, Preference};
use rowferry::site;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{Engine, PAIR, RING, Sites, TestDb, assert_equal, long, node, pairs, rowferry_in, rows, threes};

const MERGED: &str = "conflict: merge-columns, tables: [t]";

/// Who wrote each column of a row last, by the notes at a database: whether that is anybody.
async fn written_columns(database: &Arc<dyn Database>, id: i64) -> Vec<bool> {
    let site = site::open(database).await.expect("read").expect("a site");
    let book = &site.tables[0];
    let mut key = Column::default();
    key.push_int(id);
    let key = Batch::new(book.keys.clone(), vec![key]);
    let mut target = database.target().await.expect("a connection");
    target.begin(WriteOptions { point: true, ..WriteOptions::default() }).await.expect("begun");
    let known = site::read(target.as_mut(), book, &key).await.expect("read");
    target.rollback().await.expect("ended");
    known.into_values().flat_map(|known| known.entry.columns).map(|facet| !facet.version.is_base()).collect()
}

#[tokio::test]
async fn whoever_was_there_before_a_merge_began_keeps_the_columns_apart_from_that_moment() {
    for engine in Engine::available() {
        let (a, b) = (TestDb::new(engine), TestDb::new(Engine::Sqlite));
        a.execute(TABLE);
        a.execute("INSERT INTO t VALUES (1, 'a', 'b', 1), (2, 'a', 'b', 2)");
        let plain = OpenOptions { create: true, ..OpenOptions::default() };
        let one = open(a.url(), &plain).await.expect("opened");
        let other = open(b.url(), &plain).await.expect("opened");
        let options = PairOptions {
            name: "s".to_owned(),
            plan: PlanOptions { tables: vec!["t".to_owned()], create: true, ..PlanOptions::default() },
            push: true,
            pull: true,
            conflict: Preference::Later,
            tables: std::collections::BTreeMap::new(),
            first_run: Preference::Manual,
            full: false,
            limits: BatchLimits { rows: 100, bytes: 1 << 20 },
            stop: CancellationToken::new(),
        };
        let limits = options.limits;
        let mut pair = Pair::prepare(&one, &other, options).await.expect("planned");
        pair.run().await.expect("a run");
        let routes: Vec<Arc<Route>> = pair.routes().into_iter().map(Arc::new).collect();
        let (there, back) = (&routes[0], &routes[1]);
        // As another process has them open, which has not looked again yet.
        let site_a = site::open(&one).await.expect("read").expect("a site");
        let site_b = site::open(&other).await.expect("read").expect("a site");
        let stop = CancellationToken::new();
        let mut from_a = LocalSender::open(&site_a, there, &stop).await.expect("open");
        let mut from_b = LocalSender::open(&site_b, back, &stop).await.expect("open");
        let mut to_a = LocalReceiver::open(&site_a, back).await.expect("open");
        capture::install(&one, &[], &[TableName::new("t")]).await.expect("begun");

        let start = [Place { table: 0, position: 0, token: 0 }];
        a.execute("UPDATE t SET a = 'new' WHERE id = 1");
        from_a.fold(&start).await.map_err(|fault| fault.error).expect("folded");
        assert_eq!(written_columns(&one, 1).await, [false, true, false, false], "{engine:?}: a fold");
        b.execute("UPDATE t SET b = 'new' WHERE id = 2");
        from_b.fold(&start).await.map_err(|fault| fault.error).expect("folded");
        let parcel = from_b.changes(&start, limits).await.map_err(|fault| fault.error).expect("read");
        to_a.take(&parcel, Basis::Written).await.map_err(|fault| fault.error).expect("taken in");
        assert_eq!(a.value("SELECT b FROM t WHERE id = 2"), "new", "{engine:?}");
        assert_eq!(written_columns(&one, 2).await, [false, false, true, false], "{engine:?}: what comes");
    }
}

const TABLE: &str = "CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, a VARCHAR(20), b VARCHAR(20), c DECIMAL(10,2))";
const ALL: &str = "SELECT id, a, b, c FROM t ORDER BY id";

/// Of a clock that counts milliseconds, the next.
fn later() {
    std::thread::sleep(Duration::from_millis(5));
}

const ORDERS: [[&str; 3]; 6] = [
    ["s01", "s12", "s20"],
    ["s01", "s20", "s12"],
    ["s12", "s01", "s20"],
    ["s12", "s20", "s01"],
    ["s20", "s01", "s12"],
    ["s20", "s12", "s01"],
];

#[test]
fn what_three_sites_write_to_different_columns_is_all_there_in_every_order() {
    for (nth, three) in threes().into_iter().enumerate() {
        let sites = Sites::new(&three, RING, MERGED);
        // Rows that stood before capture: at one site, at all of them.
        sites.dbs.iter().for_each(|db| db.execute(&format!("{TABLE}; INSERT INTO t VALUES (2, 'a', NULL, NULL)")));
        sites.dbs[0].execute("INSERT INTO t VALUES (1, 'a', 'b', 1.5)");
        sites.come_to_rest();
        sites.dbs[1].execute("INSERT INTO t VALUES (3, NULL, 'b', 1.5)");
        sites.come_to_rest();
        // A third of the orders for each three, others for the next, or all of them.
        for (round, order) in ORDERS.iter().enumerate().filter(|(round, _)| long() || round % 3 == nth % 3) {
            // Each fold takes several changes together; some leave what was there.
            for value in ["never seen", "nor this"] {
                sites.dbs[0].execute(&format!("UPDATE t SET a = '{value}', b = b"));
                sites.dbs[1].execute(&format!("UPDATE t SET b = '{value}', c = c"));
            }
            sites.dbs[0].execute(&format!("UPDATE t SET a = 'a{round}'"));
            sites.dbs[1].execute(if round % 2 == 0 { "UPDATE t SET b = NULL" } else { "UPDATE t SET b = 'set'" });
            sites.dbs[2].execute(&format!("UPDATE t SET c = {round}.25"));
            for name in order {
                sites.sync(&[name]);
            }
            sites.come_to_rest();
            let b = if round % 2 == 0 { "NULL" } else { "set" };
            let row = |id: usize| format!("{id} a{round} {b} {round}.25");
            sites.assert_rows("SELECT id, a, b, CAST(c AS CHAR(4)) FROM t ORDER BY id", &[1, 2, 3].map(row).join(", "));
        }
        assert_eq!(sites.conflicts(), Vec::<Value>::new(), "{three:?}");
    }
}

#[test]
fn a_column_that_both_wrote_is_a_conflict_and_the_others_are_merged() {
    for sites in pairs(MERGED) {
        let [one, two] = &sites.dbs[..] else { unreachable!() };
        one.execute(&format!("{TABLE}; INSERT INTO t VALUES (1, 'a', 'b', 1), (2, 'a', 'b', 1), (3, 'a', 'b', 1)"));
        sites.come_to_rest();
        one.execute("UPDATE t SET a = 'one', b = 'one' WHERE id = 1; UPDATE t SET a = 'one' WHERE id = 2");
        one.execute("UPDATE t SET a = 'same' WHERE id = 3");
        later();
        two.execute("UPDATE t SET a = 'two', c = 2 WHERE id = 1; DELETE FROM t WHERE id = 2");
        two.execute("UPDATE t SET a = 'same', b = 'two' WHERE id = 3");
        sites.come_to_rest();
        sites.assert_rows("SELECT id, a, b FROM t ORDER BY id", "1 two one, 3 same two");
        let mut conflicts = sites.conflicts();
        conflicts.sort_by_key(|conflict| conflict["key"].to_string());
        let [merged, deleted] = &conflicts[..] else { panic!("{:?}: {conflicts:?}", sites.engines()) };
        assert_eq!((&merged["winner"], &merged["policy"]), (&json!("merged"), &json!("merge-columns")));
        let images = |of: &str| [&merged[of]["a"], &merged[of]["b"]].map(|v| v.as_str().expect("text").to_owned());
        assert_eq!(
            (images("source"), images("target")),
            (["one", "one"].map(Into::into), ["two", "b"].map(Into::into))
        );
        assert_eq!((&deleted["winner"], &deleted["target"]), (&json!("target"), &Value::Null), "{deleted}");
        // What a person wants back is the whole row, at both ends; the other image is then what stood there before.
        let id = merged["id"].as_str().expect("an id");
        for (keep, row) in [("source", "1 one one"), ("target", "1 two one")] {
            let output = sites.run(&["conflicts", "resolve", id, "--keep", keep]);
            assert_eq!(output.code, 0, "{output:?}");
            sites.assert_rows("SELECT id, a, b FROM t WHERE id = 1", row);
        }
        sites.come_to_rest();
        sites.assert_rows("SELECT id, a, b FROM t WHERE id = 1", "1 two one");
    }
}

/// A trigger sets one column on each write, to what follows from another, and a further one to something new each time.
fn triggers(db: &TestDb) {
    let (shown, touched) = match db.engine() {
        Engine::Sqlite => ("upper(NEW.a)", "hex(randomblob(4))"),
        Engine::Postgres => ("upper(NEW.a)", "substr(md5(random()::text), 1, 8)"),
        Engine::Mariadb | Engine::Mysql => ("upper(NEW.a)", "substr(uuid(), 1, 8)"),
    };
    db.execute(&match db.engine() {
        Engine::Sqlite => format!(
            "CREATE TRIGGER sets AFTER UPDATE ON t BEGIN \
             UPDATE t SET shown = {shown}, touched = {touched} WHERE id = NEW.id; END"
        ),
        Engine::Postgres => format!(
            "CREATE FUNCTION sets() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.shown := {shown}; \
             NEW.touched := {touched}; RETURN NEW; END $$; \
             CREATE TRIGGER sets BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION sets()"
        ),
        Engine::Mariadb | Engine::Mysql => format!(
            "CREATE TRIGGER sets BEFORE UPDATE ON t FOR EACH ROW SET NEW.shown = {shown}, NEW.touched = {touched}"
        ),
    });
}

#[test]
fn a_column_that_a_trigger_sets_loses_nothing_of_the_others() {
    for three in threes() {
        let sites = Sites::new(&three, RING, MERGED);
        sites.dbs[0].execute(
            "CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, a VARCHAR(20), b VARCHAR(20), c VARCHAR(20), \
             shown VARCHAR(20), touched VARCHAR(20)); INSERT INTO t VALUES (1, 'a', 'b', 'c', 'A', '-')",
        );
        sites.come_to_rest();
        // A trigger that cannot be silenced sets its column anew wherever the row arrives: at one site that comes to rest.
        let silent = |db: &&TestDb| !matches!(db.engine(), Engine::Mariadb | Engine::Mysql);
        let loud = sites.dbs.iter().filter(|db| !silent(db)).take(1);
        sites.dbs.iter().filter(silent).chain(loud).for_each(triggers);
        for order in [ORDERS[0], ORDERS[4]] {
            for (db, column) in sites.dbs.iter().zip(["a", "b", "c"]) {
                db.execute(&format!("UPDATE t SET {column} = '{column} {}'", order[0]));
                later();
            }
            for name in order {
                sites.sync(&[name]);
            }
            sites.come_to_rest();
            let expected = format!("a {0} b {0} c {0}", order[0]);
            sites.assert_rows("SELECT a, b, c FROM t", &expected);
        }
    }
}

#[test]
fn columns_and_rows_that_are_not_sent_stay_as_they_are() {
    let sync = "conflict: merge-columns, tables: [{ source: t, exclude: [c], where: \"id < 10\", fill: { c: 7 } }]";
    for sites in pairs(sync) {
        let [one, two] = &sites.dbs[..] else { unreachable!() };
        for (db, own) in [(one, 20), (two, 30)] {
            let table = TABLE.replace("DECIMAL(10,2)", "INTEGER");
            db.execute(&format!("{table}; INSERT INTO t VALUES (1, 'a', 'b', {own}), ({own}, 'a', 'b', 1)"));
        }
        let rest = || (0..4).any(|_| sites.sync(&[]) == 0);
        assert!(rest(), "{:?} never come to rest", sites.engines());
        for round in 0..3 {
            one.execute(&format!("UPDATE t SET a = 'a{round}', c = c + 1"));
            two.execute(&format!("UPDATE t SET b = 'b{round}', c = c + 1"));
            assert!(rest(), "{:?} never come to rest", sites.engines());
            sites.assert_rows("SELECT id, a, b FROM t WHERE id < 10", &format!("1 a{round} b{round}"));
        }
        one.execute("INSERT INTO t VALUES (2, 'new', 'new', 40)");
        assert!(rest(), "{:?} never come to rest", sites.engines());
        one.execute("UPDATE t SET a = 'a' WHERE id = 2");
        two.execute("UPDATE t SET b = 'b', c = 8 WHERE id = 2");
        assert!(rest(), "{:?} never come to rest", sites.engines());
        sites.assert_rows("SELECT id, a, b FROM t WHERE id = 2", "2 a b");
        let of = |db: &TestDb| rows(db, "SELECT id, c FROM t ORDER BY id");
        assert_eq!(of(one), "1 23, 2 40, 20 4", "{:?}", sites.engines());
        assert_eq!(of(two), "1 33, 2 8, 30 4", "{:?}", sites.engines());
        assert_eq!(sites.conflicts(), Vec::<Value>::new(), "{:?}", sites.engines());
    }
}

#[test]
fn a_policy_that_comes_later_holds_for_the_rows_that_stand() {
    for sites in pairs("tables: [t]") {
        let [one, two] = &sites.dbs[..] else { unreachable!() };
        one.execute(&format!("{TABLE}; INSERT INTO t VALUES (1, 'a', 'b', 1), (2, 'a', 'b', 1)"));
        sites.come_to_rest();
        two.execute("UPDATE t SET a = 'written' WHERE id = 2");
        sites.come_to_rest();
        sites.say(MERGED);
        let installed = sites.run(&["capture", "install"]);
        assert_eq!(installed.code, 0, "{installed:?}");
        for db in &sites.dbs {
            assert_eq!(db.value("SELECT count(*) FROM _rowferry_versions_1 WHERE _rowferry_columns IS NULL"), "0");
        }
        one.execute("UPDATE t SET a = 'one'");
        two.execute("UPDATE t SET b = 'two'");
        sites.come_to_rest();
        sites.assert_rows("SELECT id, a, b FROM t ORDER BY id", "1 one two, 2 one two");
        assert_eq!(sites.conflicts(), Vec::<Value>::new(), "{:?}", sites.engines());
        assert_eq!(sites.run(&["check"]).code, 0);
    }
}

/// What nobody has written is told to nobody for having facets.
#[test]
fn rows_that_stand_at_both_ends_are_marked_and_not_sent() {
    for sites in pairs(MERGED) {
        for db in &sites.dbs {
            db.execute(TABLE);
            let rows: Vec<String> = (1..=1200).map(|id| format!("({id}, 'a', 'b', 1)")).collect();
            db.execute(&format!("INSERT INTO t VALUES {}", rows.join(", ")));
        }
        let output = sites.run(&["sync"]);
        assert_eq!(output.json()[0]["tables"][0]["read"], json!(0), "{:?}: {output:?}", sites.engines());
        for db in &sites.dbs {
            let marked = "SELECT count(*) FROM _rowferry_versions_1 WHERE _rowferry_columns IS NOT NULL";
            assert_eq!(db.value(marked), "1200", "{:?}", sites.engines());
        }
        sites.dbs[0].execute("UPDATE t SET a = 'one' WHERE id > 1195");
        sites.dbs[1].execute("UPDATE t SET b = 'two' WHERE id > 1195");
        sites.come_to_rest();
        sites.assert_rows("SELECT count(*) FROM t WHERE a = 'one' AND b = 'two'", "5");
    }
}

/// A column that comes, or comes again with another type, is no write; what is written to the others is merged as before.
#[test]
fn columns_that_come_are_merged_too() {
    for sites in pairs(MERGED) {
        let [one, two] = &sites.dbs[..] else { panic!("two databases") };
        for db in [one, two] {
            db.execute(&format!("{TABLE}; INSERT INTO t VALUES (1, 'a', 'b', 1), (2, 'a', 'b', 1)"));
        }
        sites.come_to_rest();
        one.execute("UPDATE t SET b = 'known' WHERE id = 2");
        sites.come_to_rest();
        for db in [one, two] {
            db.execute("ALTER TABLE t ADD COLUMN d VARCHAR(20); ALTER TABLE t DROP COLUMN c");
            db.execute("ALTER TABLE t ADD COLUMN c VARCHAR(20)");
        }
        sites.come_to_rest();
        one.execute("UPDATE t SET a = 'one'");
        later();
        two.execute("UPDATE t SET d = 'two', c = 'c'");
        sites.come_to_rest();
        sites.assert_rows("SELECT id, a, b, c, d FROM t ORDER BY id", "1 one b c two, 2 one known c two");
        // One that only one end has is brought once the other has it, with what was written to the others.
        one.execute("ALTER TABLE t ADD COLUMN e VARCHAR(20)");
        one.execute("UPDATE t SET e = 'early' WHERE id = 1");
        sites.sync(&[]);
        two.execute("ALTER TABLE t ADD COLUMN e VARCHAR(20)");
        two.execute("UPDATE t SET a = 'late'");
        sites.come_to_rest();
        sites.assert_rows("SELECT id, a, d, e FROM t ORDER BY id", "1 late two early, 2 late two NULL");
        assert_eq!(sites.conflicts(), Vec::<Value>::new(), "{:?}", sites.engines());
    }
}

/// A sync that goes on keeps facets soon after another began to merge the same table.
#[test]
fn a_sync_that_goes_on_keeps_what_another_merges_by() {
    for engine in Engine::available() {
        let sites = Sites::new(&[engine, Engine::Sqlite], PAIR, "tables: [t]");
        let [one, two] = &sites.dbs[..] else { panic!("two databases") };
        one.execute(&format!("{TABLE}; INSERT INTO t VALUES (1, 'a', 'b', 1), (2, 'a', 'b', 1)"));
        let config = std::fs::read_to_string(sites.folder.path().join("rowferry.yaml")).expect("the config");
        let live = config.replace("node: test", "node: test\nlisten: 127.0.0.1:0");
        let there = tempfile::tempdir().expect("a folder");
        let _node = node(there.path(), &live.replace("tables: [t]", "tables: [t], every: live"));
        let limit = Instant::now() + Duration::from_mins(2);
        let write = |round: usize| {
            one.execute(&format!("UPDATE t SET b = 'b{round}'"));
            let arrived = format!("SELECT count(*) FROM t WHERE b = 'b{round}'");
            while two.attempt(&arrived).is_err() || two.value(&arrived) != "2" {
                assert!(Instant::now() < limit, "{engine:?}: round {round} does not arrive");
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        write(0);
        sites.say(MERGED);
        let output = sites.run(&["capture", "install"]);
        assert_eq!(output.code, 0, "{engine:?}: {output:?}");
        let lacking = "SELECT count(*) FROM _rowferry_versions_1 WHERE _rowferry_columns IS NULL";
        for round in 1.. {
            write(round);
            if one.value(lacking) == "0" {
                break;
            }
            assert!(Instant::now() < limit, "{engine:?}: facets get lost");
        }
    }
}

#[test]
fn a_peer_merges_as_well() {
    for engine in Engine::available() {
        let (here, there) = (TestDb::new(engine), TestDb::new(Engine::Sqlite));
        let (folder, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        for db in [&here, &there] {
            db.execute(&format!("{TABLE}; INSERT INTO t VALUES (1, 'a', 'b', 1), (2, 'a', 'b', 1)"));
        }
        let office = node(
            other.path(),
            &format!(
                "node: office\nlisten: 127.0.0.1:0\ndatabases:\n  main: {{ url: \"{}\" }}\napi:\n  keys:\n    \
                 - {{ name: laptop, key: canary-of-merging, role: peer, tables: {{ main: [t] }} }}\n",
                there.url()
            ),
        );
        let text = format!(
            "node: laptop\ndatabases:\n  app: {{ url: \"{}\" }}\npeers:\n  office: {{ url: \"http://{}\", api_key: \
             canary-of-merging }}\nsyncs:\n  s: {{ source: app, target: office, direction: bidirectional, {MERGED} }}\n",
            here.url(),
            office.address
        );
        std::fs::write(folder.path().join("rowferry.yaml"), text).expect("the config");
        let sync = || assert_eq!(rowferry_in(folder.path(), &["sync"]).code, 0, "{engine:?}");
        sync();
        for round in 0..3 {
            here.execute(&format!("UPDATE t SET a = 'a{round}'"));
            there.execute(&format!("UPDATE t SET b = 'b{round}', c = NULL"));
            sync();
            assert_equal(&here, &there);
            assert_eq!(rows(&here, "SELECT a, b FROM t WHERE id = 2"), format!("a{round} b{round}"), "{engine:?}");
        }
        assert_eq!(here.value("SELECT count(*) FROM _rowferry_conflicts"), "0");
        assert_eq!(rows(&here, ALL).matches("NULL").count(), 2);
    }
}

#[test]
fn without_triggers_there_is_nothing_to_merge_by() {
    let sites = Sites::new(&[Engine::Sqlite; 2], PAIR, MERGED);
    sites.dbs.iter().for_each(|db| db.execute(TABLE));
    let folder = sites.folder.path().join("rowferry.yaml");
    let text =
        std::fs::read_to_string(&folder).expect("the config").replace("direction: bidirectional", "capture: timestamp");
    std::fs::write(&folder, text).expect("the config");
    let output = sites.run(&["sync"]);
    assert_eq!(output.code, 2, "{output:?}");
    assert!(output.stderr.contains("does not say which columns were written"), "{}", output.stderr);
}
