//! The application changes its tables while they are captured and while a sync runs.

use std::time::{Duration, Instant};

use super::Town;
use crate::support::{Engine, TestDb, rowferry_in};

/// Migrations as frameworks make them, each followed by a write that needs it.
fn steps(engine: Engine) -> Vec<(&'static str, &'static str)> {
    let rename = match engine {
        Engine::Mariadb => "ALTER TABLE riders CHANGE name full_name VARCHAR(60) NOT NULL",
        _ => "ALTER TABLE riders RENAME COLUMN name TO full_name",
    };
    vec![
        ("CREATE INDEX by_status ON bookings (status)", "UPDATE bookings SET status = 'seen' WHERE id = 1"),
        ("ALTER TABLE riders ADD COLUMN nick VARCHAR(20)", "UPDATE riders SET nick = 'A' WHERE id = 1"),
        (rename, "INSERT INTO riders (full_name, email) VALUES ('Chi', 'chi@x')"),
        ("ALTER TABLE riders DROP COLUMN nick", "UPDATE riders SET full_name = 'Ada L.' WHERE id = 1"),
        ("ALTER TABLE bookings RENAME TO orders", "INSERT INTO orders (rider, status) VALUES (1, 'renamed')"),
        ("DROP TABLE orders", "DELETE FROM riders WHERE email = 'chi@x'"),
        ("CREATE TABLE extras (id INT PRIMARY KEY)", "INSERT INTO extras VALUES (1)"),
    ]
}

/// Each statement succeeds, soon.
fn migrate(db: &TestDb) {
    let session = db.session();
    for (change, write) in steps(db.engine()) {
        for sql in [change, write] {
            let started = Instant::now();
            assert_eq!(session.attempt(sql).map(drop), Ok(()), "{:?}: {sql}", db.engine());
            assert!(
                started.elapsed() < Duration::from_secs(15),
                "{:?}: {sql} took {:?}",
                db.engine(),
                started.elapsed()
            );
        }
    }
}

#[test]
fn tables_are_altered_renamed_and_dropped_under_capture() {
    for engine in Engine::available() {
        let town = Town::new(engine);
        assert_eq!(town.run(&["sync"]).code, 0);
        migrate(&town.db);
        // The sync tells of the table that is gone, and what to do.
        let output = town.run(&["sync"]);
        assert_ne!(output.code, 0, "{output:?}");
        assert!(output.stderr.contains("bookings"), "{output:?}");
        assert_eq!(town.run(&["capture", "remove"]).code, 0);
        assert_eq!(town.db.traces(), Vec::<String>::new(), "{engine:?}");
        town.db.execute("INSERT INTO riders (full_name, email) VALUES ('after', 'after@x')");
    }
}

#[test]
fn tables_are_altered_renamed_and_dropped_while_a_sync_runs() {
    for engine in Engine::available() {
        let town = Town::new(engine);
        let watch = town.watch();
        migrate(&town.db);
        drop(watch);
        assert_eq!(town.run(&["capture", "remove"]).code, 0, "{engine:?}");
    }
}

#[test]
fn a_column_that_was_added_is_written_at_once_and_brought_over_once_the_other_end_has_it() {
    for engine in Engine::available() {
        let town = Town::new(engine);
        assert_eq!(town.run(&["sync"]).code, 0);
        town.db.execute("ALTER TABLE riders ADD COLUMN nick VARCHAR(20)");
        town.db.execute("UPDATE riders SET nick = 'A' WHERE id = 1");
        let output = rowferry_in(town.folder.path(), &["sync"]);
        if output.code != 0 {
            assert!(output.stderr.contains("riders") && output.stderr.contains("nick"), "{output:?}");
        }
        town.other.execute("ALTER TABLE riders ADD COLUMN nick VARCHAR(20)");
        town.db.execute("UPDATE riders SET nick = 'B' WHERE id = 2");
        let output = town.run(&["sync"]);
        assert_eq!(output.code, 0, "{engine:?}: {output:?}");
        assert_eq!(town.other.value("SELECT nick FROM riders WHERE id = 2"), "B");
    }
}
