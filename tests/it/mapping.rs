//! What a table of a sync can say for itself, through the program and on every engine.

use std::time::Duration;

use crate::support::{Engine, Output, TestDb, rowferry_in, some};

/// Two databases and a config with one sync between them.
struct Pair {
    source: TestDb,
    target: TestDb,
    folder: tempfile::TempDir,
}

impl Pair {
    /// `sync`: what the sync says besides its ends, as YAML between braces.
    fn new(source: Engine, target: Engine, sync: &str) -> Self {
        let (source, target) = (TestDb::new(source), TestDb::new(target));
        let pair = Self { source, target, folder: tempfile::tempdir().expect("a folder") };
        pair.say(sync);
        pair
    }

    /// Says something else.
    fn say(&self, sync: &str) {
        let config = format!(
            "node: test\ndatabases:\n  a: {{ url: \"{}\" }}\n  b: {{ url: \"{}\" }}\nsyncs:\n  \
             s: {{ source: a, target: b, {sync} }}\n",
            self.source.url(),
            self.target.url()
        );
        std::fs::write(self.folder.path().join("rowferry.yaml"), config).expect("the config");
    }

    fn run(&self, arguments: &[&str]) -> Output {
        rowferry_in(self.folder.path(), arguments)
    }

    /// What the one sync says it did.
    #[track_caller]
    fn sync(&self, code: i32) -> serde_json::Value {
        let output = self.run(&["sync", "--format", "json"]);
        let engines = (self.source.engine(), self.target.engine());
        assert_eq!(output.code, code, "{engines:?}: {}{}", output.stderr, output.stdout);
        output.json()[0].clone()
    }

    fn execute(&self, sql: &str) {
        self.source.execute(sql);
        self.target.execute(sql);
    }
}

/// Rows of a query as one text, `id=note` with commas between.
fn rows(db: &TestDb, sql: &str) -> String {
    let shown = |row: Vec<Option<String>>| {
        row.into_iter().map(|value| value.unwrap_or("NULL".to_owned())).collect::<Vec<_>>().join("=")
    };
    db.query(sql).into_iter().map(shown).collect::<Vec<_>>().join(",")
}

/// Each engine behind a file, and behind another database of its own; in an ordinary run half of these.
#[track_caller]
fn pairs(sync: &str) -> Vec<Pair> {
    let engines = Engine::available();
    let files = engines.iter().map(|&engine| (Engine::Sqlite, engine));
    let alike = engines.iter().filter(|e| **e != Engine::Sqlite).map(|&engine| (engine, engine));
    let chosen = some(engines.len(), files.chain(alike));
    chosen.into_iter().map(|(source, target)| Pair::new(source, target, sync)).collect()
}

#[test]
fn a_table_has_a_policy_of_its_own() {
    let sync = "direction: bidirectional, conflict: source-wins, tables: [plain, \
         { source: later, conflict: last-write-wins }, { source: kept, conflict: target-wins }, \
         { source: asked, conflict: manual }]";
    for pair in pairs(sync) {
        for table in ["plain", "later", "kept", "asked"] {
            pair.source.execute(&format!(
                "CREATE TABLE {table} (id INTEGER NOT NULL PRIMARY KEY, note VARCHAR(20)); \
                 INSERT INTO {table} VALUES (1, 'one')"
            ));
        }
        pair.sync(0);
        for (db, note) in [(&pair.source, "source"), (&pair.target, "target")] {
            for table in ["plain", "later", "kept", "asked"] {
                db.execute(&format!("UPDATE {table} SET note = '{note}' WHERE id = 1"));
            }
            // The clocks of both have to tell the later.
            std::thread::sleep(Duration::from_millis(20));
        }
        let report = pair.sync(1);
        let notes =
            |db: &TestDb| ["plain", "later", "kept", "asked"].map(|t| db.value(&format!("SELECT note FROM {t}")));
        let engines = (pair.source.engine(), pair.target.engine());
        assert_eq!(notes(&pair.source), ["source", "target", "target", "source"], "{engines:?}: {report}");
        assert_eq!(notes(&pair.target), ["source", "target", "target", "target"], "{engines:?}: {report}");
        let conflicts = pair.run(&["conflicts", "list", "--format", "json"]).json();
        for (table, policy, winner) in [
            ("plain", "source-wins", "source"),
            ("later", "last-write-wins", "target"),
            ("kept", "target-wins", "target"),
            ("asked", "manual", "open"),
        ] {
            let of = |c: &&serde_json::Value| c["table"] == table;
            let found: Vec<_> = conflicts.as_array().expect("a list").iter().filter(of).collect();
            assert!(!found.is_empty(), "{engines:?}: no conflict of {table}: {conflicts}");
            for conflict in found {
                assert_eq!((&conflict["policy"], &conflict["winner"]), (&policy.into(), &winner.into()), "{engines:?}");
            }
        }
    }
}

#[test]
fn rows_under_one_generated_number_are_one_row_only_where_a_table_says_so() {
    let sync = "direction: bidirectional, tables: [{ source: t, ids: same }, u]";
    for engine in Engine::available() {
        let pair = Pair::new(engine, engine, sync);
        let id = match engine {
            Engine::Sqlite => "INTEGER PRIMARY KEY AUTOINCREMENT",
            Engine::Postgres => "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
            Engine::Mariadb | Engine::Mysql => "BIGINT AUTO_INCREMENT PRIMARY KEY",
        };
        for table in ["t", "u"] {
            pair.execute(&format!("CREATE TABLE {table} (id {id}, note VARCHAR(20))"));
        }
        pair.sync(0);
        for (db, note) in [(&pair.source, "source"), (&pair.target, "target")] {
            for table in ["t", "u"] {
                db.execute(&format!("INSERT INTO {table} (note) VALUES ('{note}')"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let report = pair.sync(0);
        for db in [&pair.source, &pair.target] {
            assert_eq!(rows(db, "SELECT id, note FROM t"), "1=target", "{engine:?}: {report}");
            assert_eq!(rows(db, "SELECT id, note FROM u WHERE id = 1"), "1=source", "{engine:?}: {report}");
            assert_eq!(rows(db, "SELECT 2, note FROM u WHERE id <> 1"), "2=target", "{engine:?}: {report}");
        }
    }
}

/// What is written where, by the columns' own names at each end.
const CLIENTS: &str = "{ source: users, target: clients, rename: { mail: email }, exclude: [secret], \
     fill: { secret: \"!\", tenant: 7 } }";

#[test]
fn columns_are_left_out_renamed_and_filled_both_ways() {
    let sync = format!("direction: bidirectional, conflict: last-write-wins, tables: [{CLIENTS}]");
    for pair in pairs(&sync) {
        let engines = (pair.source.engine(), pair.target.engine());
        pair.source.execute(
            "CREATE TABLE users (id INTEGER NOT NULL PRIMARY KEY, mail VARCHAR(60), secret VARCHAR(60) NOT NULL, \
             visits INTEGER); INSERT INTO users VALUES (1, 'a@x', 's1', 10), (2, NULL, 's2', 20)",
        );
        let users = "SELECT id, mail, secret, visits FROM users ORDER BY id";
        let clients = "SELECT id, email, visits, secret, tenant FROM clients ORDER BY id";
        pair.sync(0);
        assert_eq!(rows(&pair.target, clients), "1=a@x=10=!=7,2=NULL=20=!=7", "{engines:?}");
        // What the ends have to themselves stays theirs.
        pair.target.execute("UPDATE clients SET secret = 'own' WHERE id = 1");
        pair.sync(0);
        pair.source.execute("UPDATE users SET mail = 'b@x' WHERE id = 1");
        pair.target.execute("UPDATE clients SET email = 'c@x', tenant = 8 WHERE id = 2");
        pair.target.execute("INSERT INTO clients VALUES (3, 'd@x', 30, 'mine', 9)");
        let report = pair.sync(0);
        assert_eq!(rows(&pair.source, users), "1=b@x=s1=10,2=c@x=s2=20,3=d@x=!=30", "{engines:?}: {report}");
        let there = "1=b@x=10=own=7,2=c@x=20=!=8,3=d@x=30=mine=9";
        assert_eq!(rows(&pair.target, clients), there, "{engines:?}: {report}");
        pair.source.execute("DELETE FROM users WHERE id = 3");
        pair.sync(0);
        assert_eq!(rows(&pair.target, clients), &there[..there.len() - 16], "{engines:?}");
        for _ in 0..2 {
            let quiet = pair.sync(0)["tables"][0].clone();
            let moved = ["inserted", "updated", "deleted", "conflicts"].map(|what| quiet[what].as_u64());
            assert_eq!(moved, [Some(0); 4], "{engines:?}: {quiet}");
        }
    }
}

#[test]
fn full_and_mirror_syncs_choose_rename_and_fill_too() {
    for (mode, there) in
        [("full", "1=b@x=10=own=7,3=c@x=30=!=7,9=z@x=90=z=9"), ("mirror", "1=b@x=10=own=7,3=c@x=30=!=7")]
    {
        for pair in pairs(&format!("mode: {mode}, direction: push, tables: [{CLIENTS}]")) {
            let engines = (pair.source.engine(), pair.target.engine());
            pair.source.execute(
                "CREATE TABLE users (id INTEGER NOT NULL PRIMARY KEY, mail VARCHAR(60), secret VARCHAR(60), \
                 visits INTEGER); INSERT INTO users VALUES (1, 'a@x', 's1', 10)",
            );
            let clients = "SELECT id, email, visits, secret, tenant FROM clients ORDER BY id";
            pair.sync(0);
            assert_eq!(rows(&pair.target, clients), "1=a@x=10=!=7", "{engines:?}");
            pair.target.execute("UPDATE clients SET secret = 'own'");
            pair.target.execute("INSERT INTO clients VALUES (9, 'z@x', 90, 'z', 9)");
            pair.source.execute("UPDATE users SET mail = 'b@x'; INSERT INTO users VALUES (3, 'c@x', 's3', 30)");
            let report = pair.sync(0);
            assert_eq!(rows(&pair.target, clients), there, "{engines:?} {mode}: {report}");
        }
    }
}

/// Rows that exchange a unique value are deleted and inserted: the columns that nobody sends come back with them.
#[test]
fn what_the_target_has_to_itself_outlives_an_exchange_of_unique_values() {
    for mode in ["incremental", "mirror"] {
        for pair in pairs(&format!("mode: {mode}, direction: push, tables: [t]")) {
            let engines = (pair.source.engine(), pair.target.engine());
            pair.source.execute(
                "CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, code VARCHAR(9) UNIQUE); \
                 INSERT INTO t VALUES (1, 'x'), (2, 'y')",
            );
            pair.target
                .execute("CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, own VARCHAR(9), code VARCHAR(9) UNIQUE)");
            pair.sync(0);
            pair.target.execute("UPDATE t SET own = 'first' WHERE id = 1; UPDATE t SET own = 'second' WHERE id = 2");
            // The source's write has to be the later one.
            std::thread::sleep(Duration::from_millis(20));
            pair.source.execute(
                "UPDATE t SET code = '-' WHERE id = 1; UPDATE t SET code = 'x' WHERE id = 2; \
                 UPDATE t SET code = 'y' WHERE id = 1",
            );
            pair.sync(0);
            let there = rows(&pair.target, "SELECT id, code, own FROM t ORDER BY id");
            assert_eq!(there, "1=y=first,2=x=second", "{engines:?} {mode}");
        }
    }
}

#[test]
fn a_mapping_that_cannot_work_is_refused_with_what_to_do() {
    for (table, words) in [
        (
            "{ source: t, rename: { nmae: x } }",
            "has no column 'nmae' to rename, or it is left out; did you mean 'name'?",
        ),
        ("{ source: t, rename: { name: id } }", "two columns of t would be id"),
        ("{ source: t, fill: { name: x } }", "column name of t is sent and filled"),
        ("{ source: t, exclude: [name], fill: { must: x } }", "t.must cannot be filled with \"x\""),
        ("{ source: t, exclude: [name], fill: { must: null } }", "it must not be NULL"),
        ("{ source: t, fill: { mast: 1 } }", "has no column 'mast' to fill; did you mean 'must'?"),
        ("{ source: t }", "must must not be NULL|give it a default, or in a sync a value under fill"),
    ] {
        for target in [Engine::Sqlite, Engine::Postgres, Engine::Mariadb] {
            let pair = Pair::new(Engine::Sqlite, target, &format!("tables: [{table}], direction: push"));
            pair.source.execute("CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(9))");
            pair.target
                .execute("CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(9), must INTEGER NOT NULL)");
            let output = pair.run(&["sync"]);
            assert_ne!(output.code, 0, "{table} {target:?}: {output:?}");
            let said = output.stderr.clone() + &output.stdout;
            assert!(words.split('|').all(|words| said.contains(words.trim_start_matches("must "))), "{table}: {said}");
        }
    }
}

/// A has fewer columns than B and C, which exchange all of theirs. What A writes reaches both while they differ in the
/// column that A does not know.
#[test]
fn a_third_site_with_fewer_columns_leaves_the_others_equal() {
    for engine in Engine::available() {
        let (a, b, c) = (TestDb::new(Engine::Sqlite), TestDb::new(engine), TestDb::new(engine));
        a.execute(
            "CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(20)); INSERT INTO t VALUES (1, 'old')",
        );
        for db in [&b, &c] {
            db.execute("CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(20), phone VARCHAR(20))");
        }
        let folder = tempfile::tempdir().expect("a folder");
        let both = "direction: bidirectional, first_run: source-wins, tables:";
        let config = format!(
            "databases:\n  a: {{ url: \"{}\" }}\n  b: {{ url: \"{}\" }}\n  c: {{ url: \"{}\" }}\nsyncs:\n  \
             ab: {{ source: a, target: b, {both} [{{ source: t, columns: [id, name] }}] }}\n  \
             ac: {{ source: a, target: c, {both} [{{ source: t, columns: [id, name] }}] }}\n  \
             bc: {{ source: b, target: c, {both} [t] }}\n",
            a.url(),
            b.url(),
            c.url()
        );
        std::fs::write(folder.path().join("rowferry.yaml"), config).expect("the config");
        let sync = |names: &[&str]| {
            let output = rowferry_in(folder.path(), &[&["sync"], names].concat());
            assert_eq!(output.code, 0, "{engine:?} {names:?}: {output:?}");
        };
        sync(&[]);
        sync(&[]);
        b.execute("UPDATE t SET phone = 'of B' WHERE id = 1");
        c.execute("UPDATE t SET phone = 'of C' WHERE id = 1");
        std::thread::sleep(Duration::from_millis(20));
        a.execute("UPDATE t SET name = 'new' WHERE id = 1");
        sync(&["ab", "ac"]);
        for _ in 0..3 {
            sync(&[]);
        }
        let all = [&b, &c].map(|db| rows(db, "SELECT name, phone FROM t"));
        assert_eq!(all[0], all[1], "{engine:?}");
        assert!(all[0].starts_with("new=of "), "{engine:?}: {all:?}");
        assert_eq!(rows(&a, "SELECT name FROM t"), "new", "{engine:?}");
    }
}

const ORDERS: &str = "CREATE TABLE orders (code VARCHAR(9) NOT NULL PRIMARY KEY, tenant INTEGER, note VARCHAR(20))";
const ALL: &str = "SELECT code, tenant, note FROM orders ORDER BY code";

#[test]
fn a_row_that_leaves_a_filter_leaves_the_target_and_one_that_enters_arrives() {
    for direction in ["push", "bidirectional"] {
        let sync = format!("direction: {direction}, tables: [{{ source: orders, where: \"tenant = 7\" }}]");
        for pair in pairs(&sync) {
            let engines = (pair.source.engine(), pair.target.engine(), direction);
            pair.execute(ORDERS);
            pair.source
                .execute("INSERT INTO orders VALUES ('a', 7, '1'), ('b', 8, '2'), ('c', 7, '3'), ('x', 8, 'ours')");
            pair.target.execute("INSERT INTO orders VALUES ('x', 8, 'theirs'), ('y', 9, 'own')");
            pair.sync(0);
            assert_eq!(rows(&pair.target, ALL), "a=7=1,c=7=3,x=8=theirs,y=9=own", "{engines:?}");
            pair.source.execute(
                "UPDATE orders SET tenant = 8 WHERE code = 'a'; UPDATE orders SET tenant = 7 WHERE code = 'b'; \
                 DELETE FROM orders WHERE code = 'c'; DELETE FROM orders WHERE code = 'x'",
            );
            let report = pair.sync(0);
            assert_eq!(rows(&pair.target, ALL), "b=7=2,x=8=theirs,y=9=own", "{engines:?}: {report}");
            assert_eq!(rows(&pair.source, ALL), "a=8=1,b=7=2", "{engines:?}: {report}");
            let of_a = "SELECT count(*) FROM _rowferry_versions_1 WHERE code = 'a' AND _rowferry_seq > 0";
            assert_eq!(pair.target.value(of_a), "0", "{engines:?}: a tombstone");
            // It comes again, and goes again.
            for (tenant, there) in [(7, "a=7=1,"), (8, "")] {
                pair.source.execute(&format!("UPDATE orders SET tenant = {tenant} WHERE code = 'a'"));
                pair.sync(0);
                assert_eq!(rows(&pair.target, ALL), format!("{there}b=7=2,x=8=theirs,y=9=own"), "{engines:?}");
            }
            // A row that is inserted under its key there has seen nothing of it.
            pair.target.execute("INSERT INTO orders VALUES ('a', 7, 'new')");
            let report = pair.sync(0);
            let conflicts = i32::from(direction != "push");
            assert_eq!(report["tables"][0]["conflicts"], conflicts, "{engines:?}: {report}");
            assert!(rows(&pair.target, ALL).starts_with("a=7=new"), "{engines:?}");
        }
    }
}

#[test]
fn what_leaves_a_filter_is_no_deletion_for_others() {
    for engine in Engine::available() {
        let (a, b, c) = (TestDb::new(Engine::Sqlite), TestDb::new(engine), TestDb::new(Engine::Sqlite));
        a.execute(&format!("{ORDERS}; INSERT INTO orders VALUES ('a', 7, '1'), ('b', 7, '2')"));
        let folder = tempfile::tempdir().expect("a folder");
        let config = format!(
            "databases:\n  a: {{ url: \"{}\" }}\n  b: {{ url: \"{}\" }}\n  c: {{ url: \"{}\" }}\nsyncs:\n  \
             ab: {{ source: a, target: b, direction: push, tables: [{{ source: orders, where: \"tenant = 7\" }}] }}\n  \
             bc: {{ source: b, target: c, direction: bidirectional, tables: [orders] }}\n",
            a.url(),
            b.url(),
            c.url()
        );
        std::fs::write(folder.path().join("rowferry.yaml"), config).expect("the config");
        let sync = || {
            let output = rowferry_in(folder.path(), &["sync"]);
            assert_eq!(output.code, 0, "{engine:?}: {output:?}");
        };
        sync();
        a.execute("UPDATE orders SET tenant = 8 WHERE code = 'a'; DELETE FROM orders WHERE code = 'b'");
        sync();
        assert_eq!(rows(&b, ALL), "", "{engine:?}");
        assert_eq!(rows(&c, ALL), "a=7=1", "{engine:?}: what was deleted is deleted, what left stays");
    }
}

#[test]
fn in_a_sync_both_ways_what_came_through_a_filter_goes_back() {
    for pair in pairs("direction: bidirectional, tables: [{ source: orders, where: \"tenant = 7\" }]") {
        let engines = (pair.source.engine(), pair.target.engine());
        pair.execute(ORDERS);
        pair.source.execute("INSERT INTO orders VALUES ('a', 7, '1'), ('b', 7, '2'), ('c', 8, 'ours')");
        pair.target.execute("INSERT INTO orders VALUES ('c', 8, 'theirs')");
        pair.sync(0);
        pair.target.execute(
            "UPDATE orders SET tenant = 8 WHERE code = 'a'; DELETE FROM orders WHERE code = 'b'; \
             DELETE FROM orders WHERE code = 'c'; INSERT INTO orders VALUES ('d', 7, 'in'), ('e', 8, 'out')",
        );
        let report = pair.sync(0);
        assert_eq!(rows(&pair.source, ALL), "a=8=1,c=8=ours,d=7=in", "{engines:?}: {report}");
        assert_eq!(rows(&pair.target, ALL), "d=7=in,e=8=out", "{engines:?}: {report}");
        // A row that was born there is shared as well.
        pair.source.execute("UPDATE orders SET note = 'on' WHERE code = 'd'");
        pair.sync(0);
        pair.target.execute("UPDATE orders SET tenant = 9 WHERE code = 'd'");
        pair.sync(0);
        assert_eq!(rows(&pair.source, ALL), "a=8=1,c=8=ours,d=9=on", "{engines:?}");
        assert_eq!(rows(&pair.target, ALL), "e=8=out", "{engines:?}");
        let quiet = pair.sync(0)["tables"][0].clone();
        let moved = ["inserted", "updated", "deleted", "conflicts"].map(|what| quiet[what].as_u64());
        assert_eq!(moved, [Some(0); 4], "{engines:?}: {quiet}");
    }
}

#[test]
fn a_filter_may_name_a_column_that_is_not_synced() {
    let table = "{ source: orders, columns: [code, note], where: \"orders.tenant = 7\" }";
    for pair in pairs(&format!("direction: push, tables: [{table}]")) {
        let engines = (pair.source.engine(), pair.target.engine());
        pair.source.execute(&format!("{ORDERS}; INSERT INTO orders VALUES ('a', 7, '1'), ('b', 8, '2')"));
        let there = "SELECT code, note FROM orders ORDER BY code";
        pair.sync(0);
        assert_eq!(rows(&pair.target, there), "a=1", "{engines:?}");
        pair.source.execute("UPDATE orders SET tenant = 15 - tenant");
        pair.sync(0);
        assert_eq!(rows(&pair.target, there), "b=2", "{engines:?}");
        // Another condition is asked of all rows.
        pair.say(&format!("direction: push, tables: [{}]", table.replace("= 7", "> 0")));
        pair.sync(0);
        assert_eq!(rows(&pair.target, there), "a=1,b=2", "{engines:?}");
        // The other end cannot say of its rows whether they meet it.
        pair.say(&format!("direction: bidirectional, tables: [{table}]"));
        let output = pair.run(&["sync"]);
        assert_eq!(output.code, 2, "{engines:?}: {output:?}");
        assert!(output.stderr.contains("on the way back, where each condition is asked too"), "{}", output.stderr);
        pair.say("direction: push, tables: [{ source: orders, columns: [code, note], where: \"1=1) OR (1=1\" }]");
        let output = pair.run(&["sync"]);
        assert_eq!(output.code, 2, "{engines:?}: {output:?}");
        assert!(output.stderr.contains("closes a parenthesis"), "{}", output.stderr);
    }
}

/// The type of a clock reading without a zone.
fn clock(engine: Engine) -> &'static str {
    if matches!(engine, Engine::Mariadb | Engine::Mysql) { "DATETIME" } else { "TIMESTAMP" }
}

/// Rows on both sides: later at the source, later at the target, at one time.
fn meeting(pair: &Pair, column: &str) {
    for (db, note, hours) in
        [(&pair.source, "source", ["12:30", "09:00", "11:00"]), (&pair.target, "target", ["12:00", "10:00", "11:00"])]
    {
        db.execute(&format!(
            "CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, note VARCHAR(20), {column} {})",
            clock(db.engine())
        ));
        for (id, hour) in (1..).zip(hours) {
            db.execute(&format!("INSERT INTO t VALUES ({id}, '{note}', '2026-03-01 {hour}:00')"));
        }
    }
}

const MET: &str = "SELECT id, note FROM t ORDER BY id";

#[test]
fn rows_that_differ_at_the_first_meeting_are_settled_by_the_timestamp_column() {
    for (tables, column) in [("t", "updated_at"), ("{ source: t, timestamp: changed }", "changed")] {
        for pair in pairs(&format!("direction: bidirectional, tables: [{tables}]")) {
            let engines = (pair.source.engine(), pair.target.engine());
            meeting(&pair, column);
            let report = pair.sync(1);
            assert_eq!(rows(&pair.source, MET), "1=source,2=target,3=source", "{engines:?}: {report}");
            assert_eq!(rows(&pair.target, MET), "1=source,2=target,3=target", "{engines:?}: {report}");
            assert_eq!(report["tables"][0]["open"], 1, "{engines:?}: {report}");
            let conflicts = pair.run(&["conflicts", "list", "--format", "json"]).json();
            for (id, policy, winner) in
                [("1", "timestamp", "source"), ("2", "timestamp", "target"), ("3", "manual", "open")]
            {
                let of = |c: &&serde_json::Value| c["key"]["id"] == id;
                let found: Vec<_> = conflicts.as_array().expect("a list").iter().filter(of).collect();
                assert!(!found.is_empty(), "{engines:?}: row {id}: {conflicts}");
                for conflict in found {
                    let told = (&conflict["policy"], &conflict["winner"]);
                    assert_eq!(told, (&policy.into(), &winner.into()), "{engines:?}: {conflict}");
                }
            }
            // Nobody takes the outcome for what a later write has not seen.
            pair.source.execute("UPDATE t SET note = 'again' WHERE id = 2");
            let report = pair.sync(1);
            assert_eq!(report["tables"][0]["conflicts"], 0, "{engines:?}: {report}");
            assert_eq!(rows(&pair.target, MET), "1=source,2=again,3=target", "{engines:?}: {report}");
        }
    }
}

#[test]
fn clock_readings_of_two_zones_are_compared_as_moments() {
    for pair in pairs("direction: push, tables: [t]") {
        let engines = (pair.source.engine(), pair.target.engine());
        meeting(&pair, "updated_at");
        let path = pair.folder.path().join("rowferry.yaml");
        let config = std::fs::read_to_string(&path).expect("the config");
        let url = format!("\"{}\"", pair.source.url());
        std::fs::write(&path, config.replace(&url, &format!("{url}, timezone: Africa/Lagos"))).expect("the config");
        let report = pair.sync(0);
        // Half past twelve in Lagos is half past eleven elsewhere, and eleven is ten.
        assert_eq!(rows(&pair.target, MET), "1=target,2=target,3=target", "{engines:?}: {report}");
    }
}

#[test]
fn the_timestamp_column_can_be_left_out_of_it() {
    for engine in Engine::available() {
        let tables = "[{ source: t, timestamp: none }]";
        let pair = Pair::new(engine, engine, &format!("direction: push, first_run: target-wins, tables: {tables}"));
        meeting(&pair, "updated_at");
        let report = pair.sync(0);
        assert_eq!(rows(&pair.target, MET), "1=target,2=target,3=target", "{engine:?}: {report}");
        pair.say("direction: push, tables: [{ source: t, timestamp: nothing }]");
        let output = pair.run(&["sync"]);
        assert_ne!(output.code, 0, "{output:?}");
        assert!(output.stderr.contains("nothing") && output.stderr.contains("table t"), "{output:?}");
        pair.say("direction: push, tables: [{ source: t, timestamp: id }]");
        let output = pair.run(&["sync"]);
        assert!(output.stderr.contains("tells no moments"), "{output:?}");
    }
}
