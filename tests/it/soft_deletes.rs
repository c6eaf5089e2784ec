//! `soft_delete`: a column of the source says that a row was deleted; at the target it is.

use std::fs;

use crate::support::{Engine, Node, Output, TestDb, node, rowferry_in};

struct Two {
    folder: tempfile::TempDir,
    from: TestDb,
    to: TestDb,
}

fn moment(engine: Engine) -> &'static str {
    if engine == Engine::Postgres { "TIMESTAMP(0)" } else { "DATETIME" }
}

impl Two {
    /// Rows 1 to 4 at the source, of which row 4 was deleted.
    fn new(from: Engine, to: Engine, sync: &str) -> Self {
        let two = Self { folder: tempfile::tempdir().expect("a folder"), from: TestDb::new(from), to: TestDb::new(to) };
        let at = moment(from);
        two.from.execute(&format!(
            "CREATE TABLE users (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(40), updated_at {at} NULL, deleted_at {at} NULL);
             INSERT INTO users VALUES (1, 'ada', '2026-03-01 10:00:00', NULL), (2, 'bea', '2026-03-01 10:00:00', NULL),
               (3, 'cleo', '2026-03-01 10:00:00', NULL), (4, 'dora', '2026-03-01 10:00:00', '2026-03-01 10:00:00')"
        ));
        two.say(sync);
        two
    }

    fn say(&self, sync: &str) {
        let (from, to) = (self.from.url(), self.to.url());
        let config = format!(
            "node: test\ndatabases:\n  from: {{ url: \"{from}\" }}\n  to: {{ url: \"{to}\" }}\nsyncs:\n  s: {{ source: from, \
             target: to, {sync} }}\n",
        );
        fs::write(self.folder.path().join("rowferry.yaml"), config).expect("written");
    }

    fn run(&self, args: &[&str]) -> Output {
        rowferry_in(self.folder.path(), &[&["--format", "json", "sync"], args].concat())
    }

    /// What was inserted, updated and deleted.
    #[track_caller]
    fn synced(&self) -> [u64; 3] {
        let output = self.run(&[]);
        assert_eq!(output.code, 0, "{:?} {:?}: {output:?}", self.from.engine(), self.to.engine());
        let table = &output.json()[0]["tables"][0];
        ["inserted", "updated", "deleted"].map(|what| table[what].as_u64().expect("a number"))
    }

    fn there(&self) -> String {
        ids(&self.to)
    }
}

fn ids(db: &TestDb) -> String {
    let rows = db.query("SELECT id FROM users ORDER BY id");
    rows.into_iter().flatten().map(Option::unwrap_or_default).collect::<Vec<_>>().join(" ")
}

const USERS: &str = "tables: [{ source: users, soft_delete: deleted_at }]";

#[test]
fn what_is_marked_as_deleted_goes_and_comes_back() {
    for from in Engine::available() {
        for to in Engine::available() {
            for capture in ["trigger", "timestamp"] {
                let two = Two::new(from, to, &format!("direction: push, capture: {capture}, {USERS}"));
                let case = format!("{from:?} {to:?} {capture}");
                assert_eq!(two.synced(), [3, 0, 0], "{case}");
                assert_eq!(two.there(), "1 2 3", "{case}");
                // The second leaves the other column as it is.
                two.from.execute(
                    "UPDATE users SET deleted_at = '2026-03-01 10:00:05', updated_at = '2026-03-01 10:00:05' WHERE id = 1",
                );
                two.from.execute("UPDATE users SET deleted_at = '2026-03-01 10:00:06' WHERE id = 2");
                assert_eq!(two.synced(), [0, 0, 2], "{case}");
                assert_eq!(two.there(), "3", "{case}");
                assert_eq!(two.synced(), [0, 0, 0], "{case}: it comes to rest");
                two.from.execute(
                    "UPDATE users SET deleted_at = NULL, updated_at = '2026-03-01 10:00:07', name = 'eve' WHERE id IN (1, 4)",
                );
                assert_eq!(two.synced(), [2, 0, 0], "{case}");
                assert_eq!(two.there(), "1 3 4", "{case}");
                // A row of the target's own stays, whatever becomes of one that never came.
                two.to.execute("INSERT INTO users (id, name) VALUES (2, 'own')");
                two.from.execute("UPDATE users SET name = 'fay', updated_at = '2026-03-01 10:00:08' WHERE id = 2");
                assert_eq!(two.synced(), [0, 0, 0], "{case}");
                assert_eq!(two.there(), "1 2 3 4", "{case}");
                let records = rowferry_in(two.folder.path(), &["--format", "json", "conflicts", "list"]).json();
                assert_eq!(records.as_array().map(Vec::len), Some(0), "{case}: {records}");
            }
        }
    }
}

/// A truth value, in a column that the target does not have; with `where`, and the other way round.
#[test]
fn the_target_need_not_have_the_column() {
    for from in Engine::available() {
        for capture in ["trigger", "timestamp"] {
            let two = Two::new(from, Engine::Sqlite, "direction: push, tables: [users]");
            let what = "tables: [{ source: people, target: users, soft_delete: gone, where: \"id < 100\", \
                        rename: { name: label } }]";
            two.say(&format!("direction: push, capture: {capture}, {what}"));
            let (truth, no, yes) =
                if from == Engine::Postgres { ("BOOLEAN", "false", "true") } else { ("TINYINT(1)", "0", "1") };
            two.from.execute(&format!(
                "CREATE TABLE people (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(40), updated_at {} NULL, gone {truth} NOT \
                 NULL); INSERT INTO people VALUES (1, 'ada', '2026-03-01 10:00:00', {no}), \
                 (2, 'bea', '2026-03-01 10:00:00', {no}), (3, 'cleo', '2026-03-01 10:00:00', {yes}), \
                 (200, 'far', '2026-03-01 10:00:00', {no})",
                moment(from)
            ));
            two.to.execute(
                "CREATE TABLE users (id INTEGER NOT NULL PRIMARY KEY, label VARCHAR(40), updated_at DATETIME)",
            );
            assert_eq!(two.synced(), [2, 0, 0], "{from:?} {capture}");
            two.from.execute(&format!(
                "UPDATE people SET gone = {yes}, updated_at = '2026-03-01 10:00:05' WHERE id = 1; \
                 UPDATE people SET gone = {no}, updated_at = '2026-03-01 10:00:05' WHERE id = 3; \
                 UPDATE people SET gone = {yes}, updated_at = '2026-03-01 10:00:05' WHERE id = 200"
            ));
            assert_eq!(two.synced(), [1, 0, 1], "{from:?} {capture}");
            assert_eq!(two.there(), "2 3", "{from:?} {capture}");
            // What is marked without any stamp is found when all rows are compared.
            two.from.execute(&format!("UPDATE people SET gone = {yes} WHERE id = 2"));
            let output = two.run(&["s", "--full"]);
            assert_eq!((output.code, two.there()), (0, "3".to_owned()), "{from:?} {capture}: {output:?}");
        }
    }
}

/// It is a deletion like any other: others that the target is synced with get it. Names are the source's.
#[test]
fn a_deletion_travels_on_also_when_it_is_pulled() {
    for engine in Engine::available() {
        let (app, far, third) = (TestDb::new(engine), TestDb::new(Engine::Postgres), TestDb::new(Engine::Sqlite));
        let folder = tempfile::tempdir().expect("a folder");
        far.execute(
            "CREATE TABLE people (id INTEGER NOT NULL PRIMARY KEY, label VARCHAR(40), removed_at TIMESTAMP NULL); \
             INSERT INTO people VALUES (1, 'ada', NULL), (2, 'bea', NULL)",
        );
        let at = moment(engine);
        app.execute(&format!(
            "CREATE TABLE users (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(40), deleted_at {at} NULL)"
        ));
        let config = format!(
            "node: test\ndatabases:\n  app: {{ url: \"{}\" }}\n  far: {{ url: \"{}\" }}\n  third: {{ url: \"{}\" }}\nsyncs:\n  \
             s: {{ source: app, target: far, direction: pull, tables: [{{ source: users, target: people, rename: {{ name: \
             label, deleted_at: removed_at }}, soft_delete: deleted_at }}] }}\n  \
             t: {{ source: app, target: third, direction: bidirectional, tables: [users] }}\n",
            app.url(),
            far.url(),
            third.url()
        );
        fs::write(folder.path().join("rowferry.yaml"), config).expect("written");
        let synced = || assert_eq!(rowferry_in(folder.path(), &["sync"]).code, 0, "{engine:?}");
        synced();
        assert_eq!((ids(&app), ids(&third)), ("1 2".to_owned(), "1 2".to_owned()), "{engine:?}");
        far.execute("UPDATE people SET removed_at = now() WHERE id = 1");
        synced();
        assert_eq!((ids(&app), ids(&third)), ("2".to_owned(), "2".to_owned()), "{engine:?}");
        far.execute("UPDATE people SET removed_at = NULL WHERE id = 1");
        synced();
        assert_eq!((ids(&app), ids(&third)), ("1 2".to_owned(), "1 2".to_owned()), "{engine:?}");
    }
}

#[test]
fn mirrors_and_full_syncs_leave_them_out() {
    for to in Engine::available() {
        let two = Two::new(Engine::Postgres, to, &format!("direction: push, mode: full, {USERS}"));
        assert_eq!(two.synced(), [3, 0, 0], "{to:?}");
        two.from.execute("UPDATE users SET deleted_at = now() WHERE id = 1");
        assert_eq!(two.synced(), [0, 0, 0], "{to:?}");
        two.say(&format!("direction: push, mode: mirror, {USERS}"));
        assert_eq!(two.synced(), [0, 0, 1], "{to:?}");
        assert_eq!(two.there(), "2 3", "{to:?}");
    }
}

#[test]
fn a_flood_of_them_is_refused() {
    for capture in ["trigger", "timestamp"] {
        let two = Two::new(Engine::Postgres, Engine::Sqlite, &format!("direction: push, capture: {capture}, {USERS}"));
        two.from.execute("INSERT INTO users SELECT n, 'many', '2026-03-01 10:00:00' FROM generate_series(10, 5000) n");
        two.synced();
        two.from.execute(
            "UPDATE users SET deleted_at = '2026-03-01 11:00:00', updated_at = '2026-03-01 11:00:00' WHERE id > 1000",
        );
        let output = two.run(&[]);
        assert_eq!(output.code, 1, "{capture}: {output:?}");
        assert!(output.stderr.contains("would delete 4000 of the 4994 rows of users"), "{capture}: {output:?}");
        assert_eq!(two.to.value("SELECT count(*) FROM users"), "4994", "{capture}");
        assert_eq!(two.run(&["--force"]).code, 0, "{capture}");
        assert_eq!(two.to.value("SELECT count(*) FROM users"), "994", "{capture}");
    }
}

/// With the node that has the other end.
#[test]
fn a_peer_marks_them_and_gets_them() {
    const KEY: &str = "canary-of-the-laptop";
    let two = Two::new(Engine::Postgres, Engine::Sqlite, "direction: push, tables: [users]");
    two.to.execute("PRAGMA user_version = 1");
    let serve = |db: &TestDb, folder: &tempfile::TempDir| -> Node {
        let config = format!(
            "node: office\nlisten: 127.0.0.1:0\ndatabases:\n  main: {{ url: \"{}\" }}\napi:\n  keys:\n    - {{ name: laptop, \
             key: {KEY}, role: peer, tables: {{ main: [users] }} }}\n",
            db.url()
        );
        node(folder.path(), &config)
    };
    for (direction, here, there) in [("push", &two.from, &two.to), ("pull", &two.to, &two.from)] {
        let office = tempfile::tempdir().expect("a folder");
        let node = serve(there, &office);
        let config = format!(
            "node: laptop\ndatabases:\n  app: {{ url: \"{}\" }}\npeers:\n  office: {{ url: \"http://{}\", api_key: {KEY} }}\n\
             syncs:\n  {direction}: {{ source: app, target: office, direction: {direction}, {USERS} }}\n",
            here.url(),
            node.address
        );
        fs::write(two.folder.path().join("rowferry.yaml"), config).expect("written");
        two.synced();
        assert_eq!(two.there(), "1 2 3", "{direction}");
        two.from.execute("UPDATE users SET deleted_at = now() WHERE id = 1");
        assert_eq!(two.synced(), [0, 0, 1], "{direction}");
        assert_eq!(two.there(), "2 3", "{direction}");
        two.from.execute("UPDATE users SET deleted_at = NULL WHERE id = 1");
        assert_eq!(two.synced(), [1, 0, 0], "{direction}");
    }
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let two = Two::new(Engine::Sqlite, Engine::Sqlite, "direction: push, tables: [users]");
    for (sync, said) in [
        (format!("direction: bidirectional, {USERS}"), "soft_delete goes one way"),
        (
            "direction: push, tables: [{ source: users, soft_delete: delete_at }]".to_owned(),
            "users has no column 'delete_at', which soft_delete names; did you mean 'deleted_at'?",
        ),
        (
            "direction: push, mode: mirror, tables: [{ source: users, soft_delete: gone_at }]".to_owned(),
            "users has no column 'gone_at', which soft_delete names",
        ),
    ] {
        two.say(&sync);
        let output = two.run(&[]);
        assert_ne!(output.code, 0, "{output:?}");
        assert!(output.stderr.contains(said), "{said}: {output:?}");
        assert!(two.to.attempt("SELECT count(*) FROM users").is_err(), "{sync}");
    }
    two.from.execute("CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, gone DATETIME NOT NULL)");
    two.say("direction: push, tables: [{ source: t, soft_delete: gone }]");
    let output = two.run(&[]);
    assert_ne!(output.code, 0, "{output:?}");
    assert!(output.stderr.contains("t.gone is never NULL"), "{output:?}");
}
