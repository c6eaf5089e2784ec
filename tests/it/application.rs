//! The application is left alone: none of its statements fails, waits or answers otherwise for rowferry's presence.
//!
//! The applications are those that keep riders and bookings: a pool of connections, numbers that the database gives
//! out and the application asks for, counts of rows, transactions that stay open, an account with few rights, and
//! migrations in the middle of it.

mod answers;
mod migrations;

use std::time::{Duration, Instant};

use crate::support::{Engine, Output, Running, Session, TestDb, rowferry_in, start};

/// An application's database, and another that a sync keeps in step with it.
struct Town {
    db: TestDb,
    other: TestDb,
    folder: tempfile::TempDir,
}

impl Town {
    fn new(engine: Engine) -> Self {
        let (db, other) = (TestDb::new(engine), TestDb::new(Engine::Sqlite));
        db.execute(&schema(engine));
        let folder = tempfile::tempdir().expect("a folder");
        let config = format!(
            "node: town\ndatabases:\n  app: {{ url: \"{}\" }}\n  copy: {{ url: \"{}\" }}\nsyncs:\n  \
             town: {{ source: app, target: copy, tables: [riders, bookings] }}\n",
            db.url(),
            other.url()
        );
        std::fs::write(folder.path().join("rowferry.yaml"), config).expect("written");
        Self { db, other, folder }
    }

    fn run(&self, args: &[&str]) -> Output {
        rowferry_in(self.folder.path(), args)
    }

    /// A sync that goes on beside the test, once it has begun to.
    fn watch(&self) -> Running {
        let first = self.run(&["sync"]);
        assert_eq!(first.code, 0, "{first:?}");
        let config = self.folder.path().join("rowferry.yaml");
        start(&["-c", &config.display().to_string(), "sync", "--watch"])
    }

    /// Waits until the other database has what this one has.
    #[track_caller]
    fn arrives(&self, sql: &str) {
        let until = Instant::now() + Duration::from_mins(1);
        let wanted = self.db.value(sql);
        while self.other.value(sql) != wanted {
            assert!(Instant::now() < until, "{wanted} never arrives at {:?}", self.db.engine());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Riders and their bookings, with a trigger of the application's own that writes them down.
fn schema(engine: Engine) -> String {
    let number = match engine {
        Engine::Sqlite => "INTEGER PRIMARY KEY AUTOINCREMENT",
        Engine::Mariadb | Engine::Mysql => "INT NOT NULL AUTO_INCREMENT PRIMARY KEY",
        Engine::Postgres => "SERIAL PRIMARY KEY",
    };
    let note = match engine {
        Engine::Sqlite => {
            "CREATE TRIGGER noted AFTER INSERT ON bookings BEGIN INSERT INTO audit (what) VALUES (new.status); END"
        }
        Engine::Mariadb | Engine::Mysql => {
            "CREATE TRIGGER noted AFTER INSERT ON bookings FOR EACH ROW INSERT INTO audit (what) VALUES (new.status)"
        }
        Engine::Postgres => {
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN INSERT INTO audit (what) VALUES (new.status); RETURN NULL; END $$; \
             CREATE TRIGGER noted AFTER INSERT ON bookings FOR EACH ROW EXECUTE FUNCTION note()"
        }
    };
    // Readers of a SQLite file without this hold up whoever commits, with rowferry or without.
    let mode = if engine == Engine::Sqlite { "PRAGMA journal_mode = WAL;" } else { "" };
    format!(
        "{mode} CREATE TABLE riders (id {number}, name VARCHAR(60) NOT NULL, email VARCHAR(80) NOT NULL UNIQUE, \
         trips INT NOT NULL DEFAULT 0);
         CREATE TABLE bookings (id {number}, rider INT NOT NULL, status VARCHAR(20) NOT NULL, fare DECIMAL(10,2), \
         FOREIGN KEY (rider) REFERENCES riders (id));
         CREATE TABLE audit (id {number}, what VARCHAR(20) NOT NULL);
         {note};
         INSERT INTO riders (name, email) VALUES ('Ada', 'ada@example.com'), ('Bola', 'bola@example.com')"
    )
}

/// What the driver shows of a statement, errors too.
fn told(answer: Result<Vec<Vec<Option<String>>>, String>) -> String {
    answer.map_or_else(|error| error, |rows| format!("{rows:?}"))
}

/// The last number that this connection was given.
fn last_number(session: &Session, engine: Engine) -> String {
    let rows = session.query(match engine {
        Engine::Sqlite => "SELECT last_insert_rowid()",
        Engine::Mariadb | Engine::Mysql => "SELECT LAST_INSERT_ID()",
        Engine::Postgres => "SELECT lastval()",
    });
    rows[0][0].clone().expect("a number")
}
