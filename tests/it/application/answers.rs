//! The same work, without rowferry and beside a running sync, gets the same answers in about the same time.

use std::time::{Duration, Instant};

use super::{Town, last_number, told};
use crate::support::{Engine, Session, TestDb, assert_equal};

/// Rounds of work; with their pauses enough for many runs of a watching sync.
const ROUNDS: usize = 30;

/// What an application does all day over a pool of connections; every answer that it got. `held` keeps a transaction
/// open meanwhile.
fn a_day(pool: &[Session], held: &Session, engine: Engine) -> Vec<String> {
    let mut answers = Vec::new();
    let mut tell = |what: String| answers.push(what);
    // SQLite has one writer at a time, so there it only reads.
    let long = if engine == Engine::Sqlite {
        "SELECT count(*) FROM riders"
    } else {
        "UPDATE riders SET trips = 9 WHERE id = 1"
    };
    held.query("BEGIN");
    tell(told(held.attempt(long)));
    for round in 0..ROUNDS {
        let session = &pool[round % pool.len()];
        tell(told(session.counts(&format!("INSERT INTO riders (name, email) VALUES ('r{round}', 'r{round}@x')"))));
        let rider = last_number(session, engine);
        tell(rider.clone());
        tell(told(session.counts(&format!(
            "INSERT INTO bookings (rider, status, fare) VALUES ({rider}, 'new', 10.50), ({rider}, 'old', NULL)"
        ))));
        tell(last_number(session, engine));
        tell(told(
            session.counts(&format!("UPDATE riders SET trips = trips + 1 WHERE id > 1 AND id % 3 = {}", round % 3)),
        ));
        tell(told(session.counts("UPDATE bookings SET status = 'done' WHERE status = 'new'")));
        tell(told(session.counts("UPDATE bookings SET status = 'done' WHERE id = 0")));
        tell(told(session.counts(&format!("DELETE FROM bookings WHERE rider = {rider} AND fare IS NULL"))));
        tell(told(session.counts(&format!("INSERT INTO riders (name, email) VALUES ('twice', 'r{round}@x')"))));
        tell(told(session.counts(upsert(engine))));
        tell(last_number(session, engine));
        session.query("BEGIN");
        tell(told(session.counts(&format!("DELETE FROM bookings WHERE rider = {rider}"))));
        session.query("SAVEPOINT here");
        tell(told(session.counts("INSERT INTO riders (name, email) VALUES ('gone', 'gone@x')")));
        session.query("ROLLBACK TO SAVEPOINT here");
        tell(last_number(session, engine));
        session.query(if round % 2 == 0 { "ROLLBACK" } else { "COMMIT" });
        tell(told(session.attempt("SELECT count(*), sum(trips) FROM riders")));
        std::thread::sleep(Duration::from_millis(20));
    }
    held.query("COMMIT");
    tell(told(pool[0].attempt("SELECT id, name, email, trips FROM riders ORDER BY id")));
    tell(told(pool[0].attempt("SELECT id, rider, status, fare FROM bookings ORDER BY id")));
    tell(told(pool[0].attempt("SELECT count(*), max(id) FROM audit")));
    answers
}

fn upsert(engine: Engine) -> &'static str {
    match engine {
        Engine::Mariadb | Engine::Mysql => {
            "INSERT INTO riders (name, email) VALUES ('Bola', 'bola@example.com') \
             ON DUPLICATE KEY UPDATE trips = trips + 1, id = LAST_INSERT_ID(id)"
        }
        Engine::Sqlite | Engine::Postgres => {
            "INSERT INTO riders (name, email) VALUES ('Bola', 'bola@example.com') \
             ON CONFLICT (email) DO UPDATE SET trips = riders.trips + 1"
        }
    }
}

/// Work on a pool of three, and how long it took.
fn timed(engine: Engine, session: impl Fn() -> Session) -> (Vec<String>, Duration) {
    let pool = [session(), session(), session()];
    let held = session();
    let started = Instant::now();
    (a_day(&pool, &held, engine), started.elapsed())
}

#[track_caller]
fn assert_alike(engine: Engine, (alone, time_alone): (Vec<String>, Duration), (beside, time): (Vec<String>, Duration)) {
    for (at, (one, other)) in alone.iter().zip(&beside).enumerate() {
        assert_eq!(one, other, "answer {at} of {engine:?}");
    }
    // Generous: the machine runs other tests too. What waits for a lock of ours waits longer.
    assert!(time < time_alone * 5 + Duration::from_secs(10), "{engine:?}: {time:?}, alone {time_alone:?}");
}

#[test]
fn statements_answer_as_they_do_without_us() {
    for engine in Engine::available() {
        let alone = TestDb::new(engine);
        alone.execute(&super::schema(engine));
        let before = timed(engine, || alone.session());
        let town = Town::new(engine);
        let mut watch = town.watch();
        let beside = timed(engine, || town.db.session());
        assert!(!watch.is_over(), "the sync went on at {engine:?}");
        town.arrives("SELECT coalesce(sum(trips), 0) + 1000 * count(*) FROM riders");
        drop(watch);
        assert_alike(engine, before, beside);
        assert_eq!(town.run(&["sync"]).code, 0);
        town.other.execute("DROP TABLE IF EXISTS audit");
        for table in ["riders", "bookings"] {
            let count = format!("SELECT count(*) FROM {table}");
            assert_eq!(town.db.value(&count), town.other.value(&count), "{table} of {engine:?}");
        }
        town.db.execute("DROP TABLE audit");
        assert_equal(&town.db, &town.other);
    }
}

/// An account with its tables' rights only, and none on what rowferry keeps.
struct Account<'a> {
    db: &'a TestDb,
    name: String,
}

impl<'a> Account<'a> {
    fn new(db: &'a TestDb, name: &str) -> Self {
        let grants = match db.engine() {
            Engine::Postgres => format!(
                "CREATE ROLE {name} LOGIN PASSWORD 'x'; \
                 GRANT SELECT, INSERT, UPDATE, DELETE ON riders, bookings, audit TO {name}; \
                 GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {name}"
            ),
            _ => ["riders", "bookings", "audit"]
                .iter()
                .fold(format!("CREATE USER '{name}'@'%' IDENTIFIED BY 'x';"), |sql, table| {
                    format!("{sql} GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO '{name}'@'%';")
                }),
        };
        db.execute(&grants);
        Self { db, name: name.to_owned() }
    }

    fn session(&self) -> Session {
        self.db.session_of(&self.name, "x")
    }
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        let sql = match self.db.engine() {
            Engine::Postgres => format!("DROP OWNED BY {0}; DROP ROLE {0}", self.name),
            _ => format!("DROP USER '{}'@'%'", self.name),
        };
        // a failed test's own words are what counts
        let _ = self.db.attempt(&sql);
    }
}

#[test]
fn an_account_without_rights_on_our_tables_works_as_ever() {
    for engine in Engine::available().into_iter().filter(|e| *e != Engine::Sqlite) {
        let alone = TestDb::new(engine);
        alone.execute(&super::schema(engine));
        let before = {
            let clerk = Account::new(&alone, &format!("{}_c", alone.name()));
            timed(engine, || clerk.session())
        };
        let town = Town::new(engine);
        let watch = town.watch();
        let clerk = Account::new(&town.db, &format!("{}_c", town.db.name()));
        for own in ["_rowferry_log_1", "_rowferry_versions_1", "_rowferry_site"] {
            assert!(
                clerk.session().attempt(&format!("SELECT * FROM {own}")).is_err(),
                "{own} of {engine:?} is ours alone"
            );
        }
        let beside = timed(engine, || clerk.session());
        assert_alike(engine, before, beside);
        town.arrives("SELECT coalesce(sum(trips), 0) + 1000 * count(*) FROM riders");
        drop(watch);
    }
}

/// Waits of an application that asks to be told at once of a lock: it never meets one of ours for longer than that.
#[test]
fn a_transaction_that_stays_open_delays_neither_side() {
    for engine in Engine::available().into_iter().filter(|e| *e != Engine::Sqlite) {
        let town = Town::new(engine);
        let _watch = town.watch();
        let (held, other) = (town.db.session(), town.db.session());
        held.query("BEGIN");
        held.query("UPDATE riders SET name = 'held' WHERE id = 1");
        // The sync brings over what else is committed; the application's other connections wait for nothing.
        let started = Instant::now();
        for n in 0..20 {
            other.query(&format!("INSERT INTO riders (name, email) VALUES ('n', 'n{n}@x')"));
            other.query("UPDATE riders SET trips = trips + 1 WHERE id = 2");
        }
        assert!(started.elapsed() < Duration::from_secs(20), "{engine:?}: {:?}", started.elapsed());
        town.arrives("SELECT count(*) FROM riders");
        assert_eq!(town.other.value("SELECT name FROM riders WHERE id = 1"), "Ada");
        held.query("COMMIT");
        town.arrives("SELECT name FROM riders WHERE id = 1");
    }
}
