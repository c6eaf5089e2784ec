//! A fresh database for each test, reached past rowferry by each engine's own driver.

use std::sync::atomic::{AtomicU64, Ordering};

use super::session::{Rows, Session, Wire};

/// An engine that the tests run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Engine {
    Sqlite,
    Mariadb,
    Mysql,
    Postgres,
}

impl Engine {
    /// All that can be reached. `MySQL` itself may be missing, the others not.
    pub fn available() -> Vec<Self> {
        let all = [Self::Sqlite, Self::Mariadb, Self::Mysql, Self::Postgres];
        let there: Vec<Self> = all.into_iter().filter(|e| *e == Self::Sqlite || e.admin_url().is_some()).collect();
        let required = std::env::var("ROWFERRY_TEST_DBS").is_ok_and(|v| v == "required");
        assert!(required || there.len() > 1, "these tests need database servers: run ./test.sh");
        for engine in [Self::Mariadb, Self::Postgres] {
            assert!(
                !required || there.contains(&engine),
                "ROWFERRY_TEST_DBS=required, but {} is not set: run ./test.sh",
                engine.variable()
            );
        }
        there
    }

    /// Whether the run was told to do without: `test.sh` leaves `MySQL` out where it cannot be had.
    pub fn is_left_out(self) -> bool {
        let told = |name: &str, value: &str| std::env::var(name).is_ok_and(|v| v == value);
        self == Self::Mysql
            && self.admin_url().is_none()
            && (told("ROWFERRY_TEST_DBS", "required") || told("ROWFERRY_TEST_MYSQL_SKIP", "1"))
    }

    fn variable(self) -> &'static str {
        match self {
            Self::Sqlite => "",
            Self::Mariadb => "ROWFERRY_TEST_MARIADB",
            Self::Mysql => "ROWFERRY_TEST_MYSQL",
            Self::Postgres => "ROWFERRY_TEST_POSTGRES",
        }
    }

    fn admin_url(self) -> Option<String> {
        std::env::var(self.variable()).ok().filter(|url| !url.is_empty())
    }
}

/// A database that goes away with this value.
pub struct TestDb {
    engine: Engine,
    url: String,
    /// Of a server's database; unique on all engines.
    name: String,
    /// The file's folder, which goes when this does.
    _folder: Option<tempfile::TempDir>,
}

impl TestDb {
    /// An empty database. A file is there only after the first [`Self::execute`].
    pub fn new(engine: Engine) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!("t{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        if engine == Engine::Sqlite {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let url = format!("sqlite:{}", folder.path().join("test.db").display());
            return Self { engine, url, name, _folder: Some(folder) };
        }
        let admin = engine.admin_url().unwrap_or_else(|| panic!("{} is not set: run ./test.sh", engine.variable()));
        let options = if engine == Engine::Postgres { "" } else { " CHARACTER SET utf8mb4" };
        run(engine, &admin, &format!("CREATE DATABASE {name}{options}"));
        let (server, _) = admin.rsplit_once('/').expect("a URL with a database");
        Self { engine, url: format!("{server}/{name}"), name, _folder: None }
    }

    /// A fresh database on each engine there is.
    pub fn on_all() -> Vec<Self> {
        Engine::available().into_iter().map(Self::new).collect()
    }

    /// Its engine.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// A name that no other test has.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// As rowferry takes it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Runs any number of statements.
    pub fn execute(&self, sql: &str) {
        run(self.engine, &self.url, sql);
    }

    /// As [`Self::execute`]; the server's words when it refuses.
    pub fn attempt(&self, sql: &str) -> Result<(), String> {
        attempt(self.engine, &self.url, sql).map(drop)
    }

    /// Rows of one query, each value as the engine shows it as text; NULL is `None`. Bytes that
    /// are no UTF-8 are shown as `\x` and hexadecimal digits.
    pub fn query(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        run(self.engine, &self.url, sql)
    }

    /// A connection that stays open.
    pub fn session(&self) -> Session {
        Session::open(self.engine, &self.url)
    }

    /// As [`Self::session`], of another account of the server's.
    pub fn session_of(&self, user: &str, password: &str) -> Session {
        let (_, place) = self.url.rsplit_once('@').expect("a server's URL");
        let (scheme, _) = self.url.split_once("://").expect("a server's URL");
        Session::open(self.engine, &format!("{scheme}://{user}:{password}@{place}"))
    }

    /// Tables of rowferry's own that are in it; [`Self::traces`] looks for everything.
    pub fn own_tables(&self) -> Vec<String> {
        let sql = match self.engine {
            Engine::Sqlite => "SELECT name FROM sqlite_master WHERE name LIKE '\\_rowferry%' ESCAPE '\\'",
            Engine::Postgres => "SELECT relname FROM pg_class WHERE relname LIKE '\\_rowferry%' AND relkind = 'r'",
            Engine::Mariadb | Engine::Mysql => {
                "SELECT table_name FROM information_schema.tables \
                 WHERE table_schema = DATABASE() AND table_name LIKE '\\_rowferry%'"
            }
        };
        self.query(sql).into_iter().flatten().flatten().collect()
    }

    /// Whatever bears a name of rowferry's: nothing, once it is done and keeps nothing there.
    pub fn traces(&self) -> Vec<String> {
        let sql = match self.engine {
            Engine::Sqlite => "SELECT name FROM sqlite_master WHERE name LIKE '%\\_rowferry%' ESCAPE '\\'",
            // What is temporary goes with its connection, a moment after the program.
            Engine::Postgres => {
                "SELECT what FROM (SELECT relname, relnamespace FROM pg_class UNION ALL SELECT typname, typnamespace FROM pg_type \
                 UNION ALL SELECT proname, pronamespace FROM pg_proc UNION ALL SELECT nspname, oid FROM pg_namespace \
                 UNION ALL SELECT tgname, relnamespace FROM pg_trigger JOIN pg_class c ON c.oid = tgrelid \
                 UNION ALL SELECT conname, connamespace FROM pg_constraint) AS all_of_it (what, place) \
                 JOIN pg_namespace n ON n.oid = place WHERE what LIKE '%\\_rowferry%' AND n.nspname NOT LIKE 'pg\\_%'"
            }
            Engine::Mariadb | Engine::Mysql => {
                "SELECT what FROM (SELECT table_name AS what, table_schema AS place FROM information_schema.tables \
                 UNION ALL SELECT trigger_name, trigger_schema FROM information_schema.triggers \
                 UNION ALL SELECT routine_name, routine_schema FROM information_schema.routines \
                 UNION ALL SELECT event_name, event_schema FROM information_schema.events) AS all_of_it \
                 WHERE place = DATABASE() AND what LIKE '%\\_rowferry%'"
            }
        };
        self.query(sql).into_iter().flatten().flatten().collect()
    }

    /// The first value of the first row, which is there and not NULL.
    pub fn value(&self, sql: &str) -> String {
        let first = self.query(sql).into_iter().next().and_then(|row| row.into_iter().next()).flatten();
        first.unwrap_or_else(|| panic!("no value from {sql}"))
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        let Some(admin) = self.engine.admin_url() else { return };
        let force = if self.engine == Engine::Postgres { " WITH (FORCE)" } else { "" };
        let drop = format!("DROP DATABASE IF EXISTS {}{force}", self.name);
        // a server that is gone must not turn a test's failure into an abort
        let _ = attempt(self.engine, &admin, &drop);
    }
}

fn run(engine: Engine, url: &str, sql: &str) -> Rows {
    attempt(engine, url, sql).unwrap_or_else(|error| {
        let start: String = sql.chars().take(300).collect();
        panic!("{engine:?}: {error}\nin: {start}")
    })
}

/// On a thread with a runtime of its own, so that it can be called from any test, async or not.
pub(super) fn attempt(engine: Engine, url: &str, sql: &str) -> Result<Rows, String> {
    let work = || {
        let mut wire = Wire::open(engine, url)?;
        let rows = wire.run(sql);
        wire.close();
        rows
    };
    std::thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|_| Err("the driver panicked".to_owned())))
}
