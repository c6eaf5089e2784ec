//! Rows that are written while no trigger sees it: found at the next run, and brought with nothing lost at either end.

use std::path::Path;

use crate::support::{Engine, Node, Output, TestDb, assert_equal, node, rowferry_in, some};

const TABLE: &str = "CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, note VARCHAR(40))";

/// Two databases with tables `t` and `other`, and a sync between them.
struct Two {
    a: TestDb,
    b: TestDb,
    folder: tempfile::TempDir,
}

impl Two {
    /// Rows 1 to 5, older than capture, are at both ends.
    fn new(a: Engine, b: Engine, direction: &str) -> Self {
        Self::with(a, b, direction, TABLE, 5)
    }

    fn with(a: Engine, b: Engine, direction: &str, table: &str, rows: u32) -> Self {
        let (a, b) = (TestDb::new(a), TestDb::new(b));
        let folder = tempfile::tempdir().expect("a folder");
        a.execute(&format!("{table}; CREATE TABLE other (id INTEGER NOT NULL PRIMARY KEY, note VARCHAR(40))"));
        let values: Vec<String> = (1..=rows).map(|id| format!("({id}, 'old')")).collect();
        a.execute(&format!("INSERT INTO t VALUES {}", values.join(", ")));
        config(folder.path(), &a, &b, direction);
        let two = Self { a, b, folder };
        two.synced();
        two.assert_equal();
        two
    }

    fn run(&self, arguments: &[&str]) -> Output {
        rowferry_in(self.folder.path(), arguments)
    }

    #[track_caller]
    fn synced(&self) {
        let output = self.run(&["sync"]);
        assert_eq!(output.code, 0, "{:?} {:?}: {output:?}", self.a.engine(), self.b.engine());
    }

    #[track_caller]
    fn assert_equal(&self) {
        assert_equal(&self.a, &self.b);
    }

    fn conflicts(&self) -> usize {
        let records = self.run(&["conflicts", "list", "--format", "json"]).json();
        records.as_array().map_or(0, Vec::len)
    }
}

/// Triggers that were off and on again as they were are not noticed; all rows are compared when that is asked.
#[test]
fn all_rows_are_compared_when_asked() {
    for to in Engine::available() {
        for direction in ["push", "bidirectional"] {
            let two = Two::new(Engine::Postgres, to, direction);
            two.b.execute("INSERT INTO t VALUES (90, 'own')");
            if direction == "push" {
                two.b.execute("UPDATE t SET note = 'own' WHERE id = 3");
            }
            two.synced();
            two.a.execute(
                "ALTER TABLE t DISABLE TRIGGER USER; UPDATE t SET note = 'unseen' WHERE id IN (1, 2, 3); \
                 INSERT INTO t VALUES (6, 'unseen'); DO $$ DECLARE name TEXT; BEGIN FOR name IN SELECT tgname FROM pg_trigger \
                 WHERE tgrelid = 't'::regclass AND NOT tgisinternal LOOP EXECUTE 'ALTER TABLE t ENABLE ALWAYS TRIGGER ' || \
                 quote_ident(name); END LOOP; END $$",
            );
            two.synced();
            assert_eq!(two.b.value("SELECT count(*) FROM t WHERE note = 'unseen'"), "0", "{to:?} {direction}");
            let output = two.run(&["sync", "s", "--full"]);
            assert_eq!(output.code, 0, "{to:?} {direction}: {output:?}");
            let unseen = "SELECT id FROM t WHERE note = 'unseen' ORDER BY id";
            let push = direction == "push";
            // Where the other end has written the row, that is later.
            let brought = if push { "SELECT 1 UNION SELECT 2 UNION SELECT 6 ORDER BY 1" } else { unseen };
            assert_eq!(two.b.query(unseen), two.a.query(brought), "{to:?} {direction}");
            assert_eq!(two.b.value("SELECT note FROM t WHERE id = 90"), "own");
            assert_eq!(two.conflicts(), usize::from(push), "{to:?} {direction}");
            if !push {
                two.assert_equal();
            }
        }
    }
}

fn config(folder: &Path, a: &TestDb, b: &TestDb, direction: &str) {
    let text = format!(
        "node: test\ndatabases:\n  a: {{ url: \"{}\" }}\n  b: {{ url: \"{}\" }}\nsyncs:\n  \
         s: {{ source: a, target: b, direction: {direction}, tables: [t, other] }}\n",
        a.url(),
        b.url()
    );
    std::fs::write(folder.join("rowferry.yaml"), text).expect("written");
}

/// Takes the triggers of `t` away, or switches them off and on again as administrators do.
fn blind(db: &TestDb) {
    match db.engine() {
        Engine::Postgres => db.execute("ALTER TABLE t DISABLE TRIGGER ALL"),
        Engine::Sqlite => {
            let triggers = db.query(
                "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 't' AND name LIKE '\\_row%' ESCAPE '\\'",
            );
            assert!(!triggers.is_empty());
            for name in triggers.into_iter().flatten().flatten() {
                db.execute(&format!("DROP TRIGGER {name}"));
            }
        }
        Engine::Mariadb | Engine::Mysql => {
            let triggers = db.query(
                "SELECT trigger_name FROM information_schema.triggers \
                 WHERE trigger_schema = DATABASE() AND event_object_table = 't'",
            );
            assert!(!triggers.is_empty());
            for name in triggers.into_iter().flatten().flatten() {
                db.execute(&format!("DROP TRIGGER {name}"));
            }
        }
    }
}

fn seeing(db: &TestDb) {
    if db.engine() == Engine::Postgres {
        db.execute("ALTER TABLE t ENABLE TRIGGER ALL");
    }
}

/// Each row of `t` as its number and its note.
fn notes(db: &TestDb) -> Vec<String> {
    let rows = db.query("SELECT id, note FROM t");
    let mut notes: Vec<String> = rows.iter().map(|row| row.iter().flatten().cloned().collect()).collect();
    notes.sort();
    notes
}

/// The engine in question at one end, SQLite at the other, each way round; in an ordinary run half of these.
#[track_caller]
fn pairs() -> Vec<(Engine, Engine)> {
    let engines = Engine::available();
    some(engines.len(), engines.iter().flat_map(|&engine| [(engine, Engine::Sqlite), (Engine::Sqlite, engine)]))
}

#[test]
fn what_no_trigger_saw_is_brought_both_ways() {
    for (one, other) in pairs() {
        for at_source in [true, false] {
            let two = Two::new(one, other, "bidirectional");
            let (db, far) = if at_source { (&two.a, &two.b) } else { (&two.b, &two.a) };
            db.execute("INSERT INTO t VALUES (6, 'seen'), (7, 'seen'), (10, 'seen')");
            two.synced();
            blind(db);
            // Rows older than capture, rows that have a version, and new ones.
            db.execute(
                "UPDATE t SET note = 'unseen' WHERE id IN (1, 6); DELETE FROM t WHERE id IN (2, 7);
                 INSERT INTO t VALUES (8, 'unseen')",
            );
            seeing(db);
            far.execute("UPDATE t SET note = 'far' WHERE id = 10; INSERT INTO t VALUES (9, 'far')");
            assert_eq!(two.run(&["capture", "status"]).code, 1, "{one:?} {other:?}: it is told before the next run");
            two.synced();
            two.assert_equal();
            let expected = ["10far", "1unseen", "3old", "4old", "5old", "6unseen", "8unseen", "9far"];
            assert_eq!(notes(far), expected, "{one:?} {other:?} at source: {at_source}");
            assert_eq!(two.conflicts(), 0, "{one:?} {other:?}: nothing was written at both ends");
            assert_eq!(two.run(&["capture", "status"]).code, 0, "{one:?} {other:?}");
            db.execute("UPDATE t SET note = 'again' WHERE id = 4");
            two.synced();
            two.assert_equal();
        }
    }
}

#[test]
fn what_both_ends_wrote_is_a_conflict_though_one_went_unseen() {
    for (one, other) in pairs() {
        for at_source in [true, false] {
            let two = Two::new(one, other, "bidirectional");
            let (db, far) = if at_source { (&two.a, &two.b) } else { (&two.b, &two.a) };
            db.execute("INSERT INTO t VALUES (6, 'seen')");
            two.synced();
            blind(db);
            db.execute("UPDATE t SET note = 'unseen' WHERE id IN (1, 6)");
            far.execute("UPDATE t SET note = 'seen here' WHERE id IN (1, 6)");
            two.synced();
            two.assert_equal();
            // Nobody knows when it was written, so it is the older one.
            assert_eq!(two.a.value("SELECT count(*) FROM t WHERE note = 'seen here'"), "2", "{one:?} {other:?}");
            let records = two.run(&["conflicts", "list", "--format", "json"]).json();
            let lost = if at_source { "source" } else { "target" };
            let images: Vec<_> = records.as_array().expect("records").iter().map(|r| r[lost]["note"].clone()).collect();
            assert!(images.contains(&"unseen".into()), "{one:?} {other:?}: {records}");
            assert_eq!(images.iter().filter(|note| **note == "unseen").count(), 2, "{one:?} {other:?}: {records}");
        }
    }
}

#[test]
fn what_no_trigger_saw_is_pushed() {
    for (one, other) in pairs() {
        let two = Two::new(one, other, "push");
        blind(&two.a);
        two.a.execute(
            "UPDATE t SET note = 'unseen' WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (8, 'unseen')",
        );
        seeing(&two.a);
        two.synced();
        two.assert_equal();
        two.a.execute("UPDATE t SET note = 'again' WHERE id = 1");
        two.synced();
        two.assert_equal();
        assert_eq!(two.conflicts(), 0, "{one:?} {other:?}");
    }
}

/// As tools do that copy a table, change the copy and let the two change places.
#[test]
fn a_table_that_another_took_the_place_of_is_captured_and_compared() {
    for (one, other) in pairs() {
        let two = Two::new(one, other, "bidirectional");
        two.a.execute(&TABLE.replace(" t ", " t_new "));
        two.a.execute(
            "INSERT INTO t_new SELECT id, note FROM t; UPDATE t_new SET note = 'swapped' WHERE id = 1;
             DELETE FROM t_new WHERE id = 2; INSERT INTO t_new VALUES (8, 'swapped')",
        );
        two.a.execute(match one {
            Engine::Mariadb | Engine::Mysql => "RENAME TABLE t TO t_old, t_new TO t",
            _ => "ALTER TABLE t RENAME TO t_old; ALTER TABLE t_new RENAME TO t",
        });
        two.synced();
        two.a.execute("DROP TABLE t_old; UPDATE t SET note = 'captured' WHERE id = 3");
        two.synced();
        two.assert_equal();
        assert_eq!(notes(&two.b), ["1swapped", "3captured", "4old", "5old", "8swapped"], "{one:?} {other:?}");
    }
}

#[test]
fn a_table_that_is_gone_is_an_error_of_its_own_until_it_is_back() {
    for (one, other) in pairs() {
        for at_source in [true, false] {
            let two = Two::new(one, other, "bidirectional");
            let (db, far) = if at_source { (&two.a, &two.b) } else { (&two.b, &two.a) };
            db.execute("DROP TABLE t");
            two.a.execute("INSERT INTO other VALUES (1, 'goes on')");
            for _ in 0..2 {
                let output = two.run(&["sync"]);
                assert_eq!(output.code, 1, "{one:?} {other:?}: {output:?}");
                let said = output.stderr.clone() + &output.stdout;
                assert!(said.contains("table t: t was captured") && said.contains("is gone"), "{one:?}: {said}");
            }
            assert_eq!(far.value("SELECT count(*) FROM t"), "5", "{one:?} {other:?}: nothing is deleted");
            assert_eq!(two.b.value("SELECT count(*) FROM other"), "1", "{one:?} {other:?}: the others go on");
            far.execute("UPDATE t SET note = 'meanwhile' WHERE id = 1");
            // Back with what it had, as from a backup.
            let made = !at_source && db.engine() != Engine::Sqlite;
            db.execute(&if made { TABLE.replace("INTEGER", "BIGINT") } else { TABLE.to_owned() });
            db.execute("INSERT INTO t VALUES (1, 'old'), (2, 'old'), (3, 'old'), (4, 'old'), (5, 'restored')");
            two.synced();
            two.assert_equal();
            assert_eq!(two.a.value("SELECT note FROM t WHERE id = 1"), "meanwhile", "{one:?} {other:?}");
            assert_eq!(two.b.value("SELECT note FROM t WHERE id = 5"), "restored", "{one:?} {other:?}");
        }
    }
}

#[test]
fn a_table_that_was_made_anew_does_not_empty_the_other_end_unasked() {
    for (one, other) in pairs() {
        let two = Two::with(one, other, "bidirectional", TABLE, 150);
        two.a.execute(&format!("DROP TABLE t; {TABLE}; INSERT INTO t VALUES (1, 'old'), (200, 'new')"));
        let output = two.run(&["sync"]);
        assert_eq!(output.code, 1, "{one:?} {other:?}: {output:?}");
        let said = output.stderr.clone() + &output.stdout;
        assert!(said.contains("this would delete 149 of the") && said.contains("--force"), "{one:?}: {said}");
        assert_eq!(two.b.value("SELECT count(*) FROM t WHERE id <= 150"), "150", "{one:?} {other:?}");
        assert_eq!(two.run(&["sync", "--force"]).code, 0, "{one:?} {other:?}");
        two.assert_equal();
        assert_eq!(two.b.value("SELECT count(*) FROM t"), "2", "{one:?} {other:?}");
    }
}

/// `TRUNCATE` fires no trigger in these two, and leaves the triggers where they are.
#[test]
fn a_truncated_table_is_noticed_where_no_trigger_tells() {
    for engine in Engine::available() {
        if !matches!(engine, Engine::Mariadb | Engine::Mysql) {
            continue;
        }
        let two = Two::with(engine, Engine::Sqlite, "bidirectional", TABLE, 150);
        two.a.execute("UPDATE t SET note = 'known' WHERE id < 20");
        two.synced();
        two.a.execute("TRUNCATE t");
        assert_eq!(two.run(&["capture", "status"]).code, 1, "{engine:?}");
        let output = two.run(&["sync"]);
        assert_eq!(output.code, 1, "{engine:?}: {output:?}");
        assert!(output.stderr.contains("this would delete 150 of the 150 rows"), "{engine:?}: {output:?}");
        assert_eq!(two.run(&["sync", "--force"]).code, 0, "{engine:?}");
        assert_eq!(two.b.value("SELECT count(*) FROM t"), "0", "{engine:?}");
        two.a.execute("INSERT INTO t VALUES (1, 'after')");
        two.synced();
        two.assert_equal();
    }
}

#[test]
fn partitions_that_come_and_go_are_noticed() {
    if !Engine::available().contains(&Engine::Postgres) {
        return;
    }
    let table = "CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, note VARCHAR(40)) PARTITION BY RANGE (id); \
                 CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (100); \
                 CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (100) TO (200)";
    let two = Two::with(Engine::Postgres, Engine::Sqlite, "bidirectional", table, 150);
    two.a.execute(
        "CREATE TABLE t3 (id INTEGER NOT NULL PRIMARY KEY, note VARCHAR(40));
         INSERT INTO t3 VALUES (200, 'attached'), (201, 'attached');
         ALTER TABLE t ATTACH PARTITION t3 FOR VALUES FROM (200) TO (300)",
    );
    two.synced();
    two.assert_equal();
    // It leaves, is written, and comes back.
    two.a.execute(
        "ALTER TABLE t DETACH PARTITION t3; UPDATE t3 SET note = 'while away';
         ALTER TABLE t ATTACH PARTITION t3 FOR VALUES FROM (200) TO (300)",
    );
    two.synced();
    assert_eq!(two.b.value("SELECT note FROM t WHERE id = 200"), "while away");
    two.a.execute("ALTER TABLE t DETACH PARTITION t2");
    two.synced();
    assert_eq!(notes(&two.a), notes(&two.b));
    assert_eq!(two.b.value("SELECT count(*) FROM t"), "101", "its rows are no rows of the table any more");
    two.a.execute("ALTER TABLE t DETACH PARTITION t1");
    let output = two.run(&["sync"]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("this would delete 99 of the 101 rows"), "{output:?}");
}

#[test]
fn rows_of_a_replicating_session_are_found_where_the_triggers_did_not_fire_for_it() {
    if !Engine::available().contains(&Engine::Postgres) {
        return;
    }
    let two = Two::new(Engine::Postgres, Engine::Sqlite, "push");
    two.a.execute("SET session_replication_role = replica; UPDATE t SET note = 'seen' WHERE id = 1");
    two.synced();
    two.assert_equal();
    // Enabled in the ordinary way, they fire for ordinary sessions alone.
    two.a.execute("ALTER TABLE t ENABLE TRIGGER ALL");
    two.a.execute("SET session_replication_role = replica; UPDATE t SET note = 'unseen' WHERE id = 2");
    two.synced();
    two.assert_equal();
}

/// What a run finds is seen by a sync that goes on, too.
#[test]
fn a_sync_that_goes_on_notices_it() {
    for engine in Engine::available() {
        let two = Two::new(engine, Engine::Sqlite, "bidirectional");
        let node = node(
            two.folder.path(),
            &format!(
                "node: test\nlisten: 127.0.0.1:0\ndatabases:\n  a: {{ url: \"{}\" }}\n  b: {{ url: \"{}\" }}\nsyncs:\n  \
                 s: {{ source: a, target: b, direction: bidirectional, tables: [t, other], every: live }}\n",
                two.a.url(),
                two.b.url()
            ),
        );
        until(&node, &two.b, "SELECT count(*) FROM t", "5");
        blind(&two.a);
        two.a.execute("UPDATE t SET note = 'unseen' WHERE id = 1; DELETE FROM t WHERE id = 2");
        seeing(&two.a);
        until(&node, &two.b, "SELECT count(*) FROM t WHERE note = 'unseen'", "1");
        until(&node, &two.b, "SELECT count(*) FROM t", "4");
    }
}

#[track_caller]
fn until(node: &Node, db: &TestDb, sql: &str, expected: &str) {
    let limit = std::time::Instant::now() + std::time::Duration::from_mins(1);
    while db.value(sql) != expected {
        assert!(std::time::Instant::now() < limit, "{sql} is never {expected}: {}", node.said());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn what_no_trigger_saw_at_a_peer_is_brought() {
    for engine in Engine::available() {
        for at_peer in [true, false] {
            let (near, far) = (TestDb::new(Engine::Sqlite), TestDb::new(engine));
            for db in [&near, &far] {
                db.execute(TABLE);
            }
            far.execute("INSERT INTO t VALUES (1, 'old'), (2, 'old'), (3, 'old')");
            let (here, there) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
            let node = node(
                there.path(),
                &format!(
                    "node: far\nlisten: 127.0.0.1:0\ndatabases:\n  main: {{ url: \"{}\" }}\napi:\n  keys:\n    \
                     - {{ name: near, key: canary-of-a-test, role: peer, tables: {{ main: [t] }} }}\n",
                    far.url()
                ),
            );
            let config = format!(
                "node: near\ndatabases:\n  app: {{ url: \"{}\" }}\npeers:\n  far: {{ url: \"http://{}\", \
                 api_key: canary-of-a-test }}\nsyncs:\n  s: {{ source: app, target: far, direction: bidirectional, \
                 tables: [t] }}\n",
                near.url(),
                node.address
            );
            std::fs::write(here.path().join("rowferry.yaml"), config).expect("written");
            let sync = || rowferry_in(here.path(), &["sync"]);
            let synced = || {
                let output = sync();
                assert_eq!(output.code, 0, "{engine:?} at the peer: {at_peer}: {output:?}");
                assert_equal(&near, &far);
            };
            synced();
            let (db, other) = if at_peer { (&far, &near) } else { (&near, &far) };
            blind(db);
            db.execute(
                "UPDATE t SET note = 'unseen' WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (8, 'x')",
            );
            seeing(db);
            synced();
            assert_eq!(other.value("SELECT note FROM t WHERE id = 1"), "unseen", "{engine:?}");
            db.execute("DROP TABLE t");
            let output = sync();
            assert_eq!(output.code, 1, "{engine:?}: {output:?}");
            assert!(output.stderr.contains("is gone"), "{engine:?}: {output:?}");
            assert_eq!(other.value("SELECT count(*) FROM t"), "3", "{engine:?}");
        }
    }
}
