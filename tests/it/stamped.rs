//! `capture: timestamp`: nothing is put into the source; a column says what changed.

use std::fs;

use crate::support::{Engine, Output, TestDb, assert_equal, rowferry_in};

/// A source that is only read, and a target on another engine.
struct Two {
    folder: tempfile::TempDir,
    from: TestDb,
    to: TestDb,
}

impl Two {
    fn new(from: Engine, to: Engine, more: &str) -> Self {
        let two = Self { folder: tempfile::tempdir().expect("a folder"), from: TestDb::new(from), to: TestDb::new(to) };
        let stamp = if from == Engine::Postgres { "TIMESTAMP(0)" } else { "DATETIME" };
        two.from.execute(&format!(
            "CREATE TABLE parts (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(40), updated_at {stamp} NULL)"
        ));
        let config = format!(
            "node: test\ndatabases:\n  from: {{ url: \"{}\" }}\n  to: {{ url: \"{}\" }}\nsyncs:\n  \
             s: {{ source: from, target: to, direction: push, capture: timestamp, {more} }}\n",
            two.from.url(),
            two.to.url()
        );
        fs::write(two.folder.path().join("rowferry.yaml"), config).expect("written");
        two
    }

    fn sync(&self) -> Output {
        rowferry_in(self.folder.path(), &["--format", "json", "sync"])
    }

    fn full(&self, more: &[&str]) -> Output {
        rowferry_in(self.folder.path(), &[&["--format", "json", "sync", "s", "--full"], more].concat())
    }

    /// Rows that a run that compares all of them inserted, updated and deleted, and its conflicts.
    #[track_caller]
    fn compared(&self) -> [u64; 4] {
        let output = self.full(&[]);
        assert_eq!(output.code, 0, "{output:?}");
        let table = &output.json()[0]["tables"][0];
        ["inserted", "updated", "deleted", "conflicts"].map(|what| table[what].as_u64().expect("a number"))
    }

    /// Rows that a run read and wrote.
    #[track_caller]
    fn synced(&self) -> [u64; 3] {
        let output = self.sync();
        assert_eq!(output.code, 0, "{output:?}");
        let table = &output.json()[0]["tables"][0];
        ["inserted", "updated", "conflicts"].map(|what| table[what].as_u64().expect("a number"))
    }
}

const ROWS: &str = "INSERT INTO parts VALUES (1, 'bolt', '2026-03-01 10:00:00'), (2, 'nut', '2026-03-01 10:00:00'), \
                    (3, 'pin', NULL)";

#[test]
fn what_is_stamped_later_arrives_and_nothing_is_put_into_the_source() {
    for from in Engine::available() {
        for to in Engine::available() {
            let two = Two::new(from, to, "tables: [parts]");
            two.from.execute(ROWS);
            assert_eq!(two.synced(), [3, 0, 0], "{from:?} {to:?}");
            assert_equal(&two.from, &two.to);
            // A new one, a changed one, and the same second twice.
            two.from.execute("INSERT INTO parts VALUES (4, 'cog', '2026-03-01 10:00:05')");
            two.from.execute("UPDATE parts SET name = 'long bolt', updated_at = '2026-03-01 10:00:05' WHERE id = 1");
            assert_eq!(two.synced(), [1, 1, 0], "{from:?} {to:?}");
            two.from.execute("UPDATE parts SET name = 'longer bolt' WHERE id = 1");
            assert_eq!(two.synced(), [0, 1, 0], "{from:?} {to:?}: within one second");
            // What committed late, and what never had a stamp.
            two.from.execute("INSERT INTO parts VALUES (5, 'late', '2026-03-01 09:55:00')");
            two.from.execute("UPDATE parts SET name = 'thin pin' WHERE id = 3");
            assert_eq!(two.synced(), [1, 1, 0], "{from:?} {to:?}: late");
            assert_equal(&two.from, &two.to);
            assert_eq!(two.synced(), [0, 0, 0], "{from:?} {to:?}: it comes to rest");
            let own = rowferry_in(two.folder.path(), &["--format", "json", "capture", "status"]).json();
            let from_end = own["databases"].as_array().expect("databases").iter().find(|end| end["database"] == "from");
            assert!(from_end.is_none_or(|end| end["site"].is_null()), "{own}");
        }
    }
}

/// A transaction that is open over several runs, and commits after others with later stamps.
#[test]
fn a_transaction_that_commits_late_is_not_passed_by() {
    for engine in Engine::available().into_iter().filter(|engine| *engine != Engine::Sqlite) {
        let two = Two::new(engine, Engine::Sqlite, "tables: [parts]");
        two.from.execute(ROWS);
        two.synced();
        let late = two.from.session();
        late.query("BEGIN");
        late.query("INSERT INTO parts VALUES (10, 'late', '2026-03-01 10:01:00')");
        for id in 11..14 {
            two.from.execute(&format!("INSERT INTO parts VALUES ({id}, 'early', '2026-03-01 10:0{}:00')", id - 9));
            assert_eq!(two.synced(), [1, 0, 0]);
        }
        late.query("COMMIT");
        assert_eq!(two.synced(), [1, 0, 0], "{engine:?}");
        assert_equal(&two.from, &two.to);
    }
}

/// The later write stays, by the stamp and the target's own clock; what the target has changed is not overwritten by what
/// is read once more.
#[test]
fn what_the_target_changed_is_told_from_what_the_source_did() {
    let two = Two::new(Engine::Postgres, Engine::Sqlite, "tables: [parts]");
    two.from.execute(ROWS);
    two.synced();
    two.to.execute("UPDATE parts SET name = 'own' WHERE id IN (1, 2)");
    assert_eq!(two.synced(), [0, 0, 0], "nothing new at the source");
    assert_eq!(two.to.value("SELECT name FROM parts WHERE id = 1"), "own");
    two.from.execute("UPDATE parts SET name = 'older', updated_at = '2026-03-01 10:00:03' WHERE id = 1");
    two.from.execute("UPDATE parts SET name = 'later', updated_at = now() + interval '1 hour' WHERE id = 2");
    assert_eq!(two.synced()[2], 2, "both are conflicts");
    assert_eq!(two.to.value("SELECT name FROM parts WHERE id = 1"), "own", "written after the source's stamp");
    assert_eq!(two.to.value("SELECT name FROM parts WHERE id = 2"), "later");
    assert_eq!(two.synced(), [0, 0, 0]);
}

/// Where no row says when it was written, all are read each time: what the target has changed stays.
#[test]
fn rows_without_any_stamp_overwrite_nothing() {
    let two = Two::new(Engine::Sqlite, Engine::Sqlite, "tables: [parts]");
    two.from.execute("INSERT INTO parts VALUES (1, 'bolt', NULL), (2, 'nut', NULL)");
    assert_eq!(two.synced(), [2, 0, 0]);
    two.to.execute("UPDATE parts SET name = 'own' WHERE id = 1");
    assert_eq!(two.synced(), [0, 0, 0], "nothing new at the source");
    assert_eq!(two.to.value("SELECT name FROM parts WHERE id = 1"), "own");
}

/// A stamp far in the future does not hide what is written after it.
#[test]
fn an_absurd_stamp_hides_nothing() {
    for engine in Engine::available() {
        let two = Two::new(engine, Engine::Sqlite, "tables: [parts]");
        two.from.execute(ROWS);
        two.synced();
        two.from.execute("INSERT INTO parts VALUES (7, 'future', '2999-01-01 00:00:00')");
        two.synced();
        two.from.execute("INSERT INTO parts VALUES (8, 'now', '2026-03-01 11:00:00')");
        assert_eq!(two.synced()[0], 1, "{engine:?}");
        assert_equal(&two.from, &two.to);
    }
}

#[test]
fn rows_that_leave_a_condition_leave_the_target() {
    let two = Two::new(Engine::Postgres, Engine::Sqlite, "tables: [{ source: parts, where: \"name <> 'secret'\" }]");
    two.from.execute(ROWS);
    two.from.execute("INSERT INTO parts VALUES (9, 'secret', '2026-03-01 10:00:01')");
    assert_eq!(two.synced(), [3, 0, 0]);
    two.from.execute("UPDATE parts SET name = 'secret', updated_at = '2026-03-01 10:00:09' WHERE id = 1");
    two.from.execute("UPDATE parts SET name = 'open', updated_at = '2026-03-01 10:00:09' WHERE id = 9");
    two.synced();
    assert_eq!(two.to.value("SELECT count(*) FROM parts WHERE id = 1"), "0");
    assert_eq!(two.to.value("SELECT name FROM parts WHERE id = 9"), "open");
}

/// More rows than a batch, all of one second, and an end in the middle.
#[test]
fn many_rows_of_one_second_go_in_parts() {
    let two = Two::new(Engine::Sqlite, Engine::Postgres, "tables: [parts]");
    two.from.execute("INSERT INTO parts VALUES (0, 'first', '2026-03-01 10:00:00')");
    two.synced();
    let rows: Vec<String> = (1..=5000).map(|id| format!("({id}, 'part {id}', '2026-03-01 10:00:00')")).collect();
    two.from.execute(&format!("INSERT INTO parts VALUES {}", rows.join(", ")));
    let cut = rowferry_in(two.folder.path(), &["--failpoint", "changes-committed:3", "sync"]);
    assert_ne!(cut.code, 0);
    two.synced();
    assert_equal(&two.from, &two.to);
}

/// Hard deletes, and writes that left the stamp as it was; rows that the target had by itself stay.
#[test]
fn all_rows_are_compared_when_asked() {
    for from in Engine::available() {
        for to in Engine::available() {
            let two = Two::new(from, to, "tables: [parts]");
            two.from.execute(ROWS);
            two.from.execute("INSERT INTO parts VALUES (4, 'cog', '2026-03-01 10:00:05'), (5, 'cam', NULL)");
            // Rows that both have when they meet, and one of the target's own.
            two.to.execute(&format!(
                "CREATE TABLE parts (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(40), updated_at {} NULL); \
                 INSERT INTO parts VALUES (4, 'cog', '2026-03-01 10:00:05'), (5, 'cam', NULL), (90, 'own', NULL)",
                if to == Engine::Postgres { "TIMESTAMP(0)" } else { "DATETIME" }
            ));
            assert_eq!(two.synced(), [3, 0, 0], "{from:?} {to:?}");
            assert_eq!(two.compared(), [0; 4], "{from:?} {to:?}: nothing is other");
            two.to.execute("INSERT INTO parts VALUES (91, 'own', NULL)");
            two.from.execute("DELETE FROM parts WHERE id IN (1, 3, 4)");
            two.from.execute("UPDATE parts SET name = 'hex nut' WHERE id = 2");
            two.from.execute("INSERT INTO parts VALUES (6, 'key', '2020-01-01 00:00:00')");
            two.from.execute("UPDATE parts SET updated_at = '2026-03-01 10:00:06' WHERE id = 2");
            two.from.execute("INSERT INTO parts VALUES (7, 'lug', '2026-03-01 11:00:00')");
            assert_eq!(two.synced(), [1, 1, 0], "{from:?} {to:?}: what is stamped later");
            two.from.execute("UPDATE parts SET name = 'nut', updated_at = '2019-01-01 00:00:00' WHERE id = 2");
            assert_eq!(two.compared(), [1, 1, 3, 0], "{from:?} {to:?}");
            let left = "SELECT id FROM parts WHERE name <> 'own' ORDER BY id";
            assert_eq!(two.to.query(left), two.from.query("SELECT id FROM parts ORDER BY id"), "{from:?} {to:?}");
            assert_eq!(two.to.value("SELECT count(*) FROM parts WHERE name = 'own'"), "2", "{from:?} {to:?}");
            assert_eq!(two.to.value("SELECT name FROM parts WHERE id = 2"), "nut");
            assert_eq!(two.compared(), [0; 4], "{from:?} {to:?}: it comes to rest");
            // One that was deleted comes back.
            two.from.execute("INSERT INTO parts VALUES (1, 'bolt', '2026-03-01 12:00:00')");
            assert_eq!(two.synced(), [1, 0, 0], "{from:?} {to:?}");
        }
    }
}

/// A deletion that is found is a tombstone, which others get; where the target has changed the row, it is a conflict.
#[test]
fn a_deletion_that_is_found_meets_what_the_target_did() {
    for policy in ["last-write-wins", "source-wins", "manual"] {
        let two = Two::new(Engine::Sqlite, Engine::Postgres, &format!("conflict: {policy}, tables: [parts]"));
        two.from.execute(ROWS);
        two.synced();
        two.to.execute("UPDATE parts SET name = 'own' WHERE id IN (1, 3)");
        two.from.execute("DELETE FROM parts");
        let output = two.full(&[]);
        assert_eq!(output.code, i32::from(policy == "manual"), "{policy}: {output:?}");
        let left = two.to.query("SELECT id FROM parts ORDER BY id").len();
        assert_eq!(left, if policy == "source-wins" { 0 } else { 2 }, "{policy}");
        let conflicts = || rowferry_in(two.folder.path(), &["--format", "json", "conflicts", "list"]).json();
        let recorded = conflicts();
        let recorded = recorded.as_array().expect("records");
        assert_eq!(recorded.len(), 2, "{policy}: {recorded:?}");
        let winner = match policy {
            "last-write-wins" => "target",
            "source-wins" => "source",
            _ => "open",
        };
        for record in recorded {
            assert_eq!(record["winner"], winner);
            assert_eq!((&record["source"], &record["target"]["name"]), (&serde_json::Value::Null, &"own".into()));
        }
        // The same is not told twice.
        two.full(&[]);
        assert_eq!(conflicts().as_array().expect("records").len(), 2, "{policy}");
        assert_eq!(two.to.query("SELECT id FROM parts").len(), left, "{policy}");
    }
}

#[test]
fn a_flood_of_deletions_is_refused_when_all_rows_are_compared() {
    let two = Two::new(Engine::Mariadb, Engine::Sqlite, "tables: [parts]");
    let rows: Vec<String> = (1..=5000).map(|id| format!("({id}, 'part {id}', '2026-03-01 10:00:00')")).collect();
    two.from.execute(&format!("INSERT INTO parts VALUES {}", rows.join(", ")));
    two.synced();
    two.from
        .execute("DELETE FROM parts WHERE id > 1000; INSERT INTO parts VALUES (6000, 'late', '2026-03-01 11:00:00')");
    let output = two.full(&[]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("would delete 4000 of the 5000 rows of parts"), "{output:?}");
    assert_eq!(two.to.value("SELECT count(*) FROM parts"), "5000");
    let cut = rowferry_in(two.folder.path(), &["--failpoint", "changes-committed:1", "sync", "--full", "--force"]);
    assert_ne!(cut.code, 0);
    let output = two.full(&["--force"]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_equal(&two.from, &two.to);
}

/// What leaves the condition without a later stamp leaves the target, which keeps its own.
#[test]
fn rows_that_leave_a_condition_unstamped_are_found_when_all_are_compared() {
    let two = Two::new(Engine::Postgres, Engine::Mysql, "tables: [{ source: parts, where: \"name <> 'secret'\" }]");
    two.from.execute(ROWS);
    two.from.execute("INSERT INTO parts VALUES (9, 'secret', '2026-03-01 10:00:01')");
    assert_eq!(two.synced(), [3, 0, 0]);
    two.to.execute("INSERT INTO parts VALUES (9, 'own', NULL)");
    two.from.execute("UPDATE parts SET name = 'secret' WHERE id = 1");
    two.from.execute("DELETE FROM parts WHERE id = 9");
    two.from.execute("DELETE FROM parts WHERE id = 2");
    assert_eq!(two.compared(), [0, 0, 2, 0]);
    assert_eq!(two.to.query("SELECT id FROM parts ORDER BY id"), two.to.query("SELECT 3 UNION SELECT 9"));
}

/// Of a table of which some columns are left out each write is one of the source's alone.
#[test]
fn a_part_of_the_columns_goes_on_without_conflicts() {
    let two = Two::new(Engine::Sqlite, Engine::Postgres, "tables: [{ source: parts, exclude: [note] }]");
    two.from.execute("ALTER TABLE parts ADD note TEXT");
    two.from.execute("INSERT INTO parts (id, name, updated_at) VALUES (1, 'bolt', '2026-03-01 10:00:00')");
    two.to.execute(
        "CREATE TABLE parts (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(40), updated_at TIMESTAMP(0), note TEXT)",
    );
    assert_eq!(two.synced(), [1, 0, 0]);
    for second in 1..4 {
        two.from.execute(&format!(
            "UPDATE parts SET name = 'bolt {second}', updated_at = '2026-03-01 10:00:0{second}' WHERE id = 1"
        ));
        assert_eq!(two.synced(), [0, 1, 0], "{second}");
    }
    two.from.execute("DELETE FROM parts");
    assert_eq!(two.compared(), [0, 0, 1, 0]);
}

#[test]
fn what_it_cannot_do_is_said() {
    let two = Two::new(Engine::Sqlite, Engine::Sqlite, "tables: [parts]");
    two.from.execute("CREATE TABLE plain (id INTEGER NOT NULL PRIMARY KEY, x TEXT); INSERT INTO plain VALUES (1, 'x')");
    two.from.execute(ROWS);
    let path = two.folder.path().join("rowferry.yaml");
    let text = fs::read_to_string(&path).expect("read");
    let with = |from: &str, to: &str| {
        fs::write(&path, text.replace(from, to)).expect("written");
        let output = two.sync();
        (output.code, output.stderr + &output.stdout)
    };
    let (code, said) = with("direction: push", "direction: bidirectional");
    assert!(code == 2 && said.contains("capture: timestamp goes one way"), "{said}");
    let (code, said) = with("[parts]", "[parts, plain]");
    assert!(code != 0 && said.contains("plain") && said.contains("timestamp: COLUMN"), "{said}");
    assert_eq!(two.to.value("SELECT count(*) FROM parts"), "3", "the other table went on");
    fs::write(&path, &text).expect("written");
    let checked = rowferry_in(two.folder.path(), &["check"]);
    assert!(checked.stdout.contains("deletions at the source are not seen"), "{}", checked.stdout);
    assert!(checked.stdout.contains("'rowferry sync s --full'"), "{}", checked.stdout);
}
