//! A fresh database for each test, reached past rowferry by each engine's own driver.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use mysql_async::prelude::Queryable;

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
    /// Of a server's database.
    name: String,
    /// Of the file.
    folder: Option<tempfile::TempDir>,
}

impl TestDb {
    /// An empty database. A file is there only after the first [`Self::execute`].
    pub fn new(engine: Engine) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!("t{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        if engine == Engine::Sqlite {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let url = format!("sqlite:{}", folder.path().join("test.db").display());
            return Self { engine, url, name, folder: Some(folder) };
        }
        let admin = engine.admin_url().unwrap_or_else(|| panic!("{} is not set: run ./test.sh", engine.variable()));
        let options = if engine == Engine::Postgres { "" } else { " CHARACTER SET utf8mb4" };
        run(engine, &admin, &format!("CREATE DATABASE {name}{options}"));
        let (server, _) = admin.rsplit_once('/').expect("a URL with a database");
        Self { engine, url: format!("{server}/{name}"), name, folder: None }
    }

    /// A fresh database on each engine there is.
    pub fn on_all() -> Vec<Self> {
        Engine::available().into_iter().map(Self::new).collect()
    }

    /// Its engine.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// As rowferry takes it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The file of a `SQLite` database.
    pub fn path(&self) -> PathBuf {
        self.folder.as_ref().expect("a file").path().join("test.db")
    }

    /// Runs any number of statements.
    pub fn execute(&self, sql: &str) {
        run(self.engine, &self.url, sql);
    }

    /// Rows of one query, each value as the engine shows it as text; NULL is `None`. Bytes that
    /// are no UTF-8 are shown as `\x` and hexadecimal digits.
    pub fn query(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        run(self.engine, &self.url, sql)
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

type Rows = Vec<Vec<Option<String>>>;

fn run(engine: Engine, url: &str, sql: &str) -> Rows {
    attempt(engine, url, sql).unwrap_or_else(|error| {
        let start: String = sql.chars().take(300).collect();
        panic!("{engine:?}: {error}\nin: {start}")
    })
}

/// On a thread with a runtime of its own, so that it can be called from any test, async or not.
fn attempt(engine: Engine, url: &str, sql: &str) -> Result<Rows, String> {
    let work = || {
        if engine == Engine::Sqlite {
            return sqlite(url, sql);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
        runtime.block_on(async {
            match engine {
                Engine::Postgres => postgres(url, sql).await,
                _ => mysql(url, sql).await.map_err(|e| e.to_string()),
            }
        })
    };
    std::thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|_| Err("the driver panicked".to_owned())))
}

fn shown(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes)
        .map_or_else(|_| bytes.iter().fold("\\x".to_owned(), |text, byte| format!("{text}{byte:02x}")), str::to_owned)
}

/// Runs `sql`, and gives the rows of its last statement.
fn sqlite(url: &str, sql: &str) -> Result<Rows, String> {
    use rusqlite::{fallible_iterator::FallibleIterator as _, types::ValueRef};
    let read = || -> rusqlite::Result<Rows> {
        let connection = rusqlite::Connection::open(url.trim_start_matches("sqlite:"))?;
        connection.busy_timeout(std::time::Duration::from_secs(30))?;
        let mut rows_of_last = Vec::new();
        let mut batch = rusqlite::Batch::new(&connection, sql);
        while let Some(mut statement) = batch.next()? {
            let columns = statement.column_count();
            let mut rows = statement.query([])?;
            rows_of_last.clear();
            while let Some(row) = rows.next()? {
                let values = (0..columns).map(|column| {
                    Ok(match row.get_ref(column)? {
                        ValueRef::Null => None,
                        ValueRef::Integer(number) => Some(number.to_string()),
                        ValueRef::Real(number) => Some(number.to_string()),
                        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(shown(bytes)),
                    })
                });
                rows_of_last.push(values.collect::<rusqlite::Result<_>>()?);
            }
        }
        Ok(rows_of_last)
    };
    read().map_err(|e| e.to_string())
}

async fn postgres(url: &str, sql: &str) -> Result<Rows, String> {
    let told = |error: tokio_postgres::Error| {
        error.as_db_error().map_or_else(|| error.to_string(), |e| format!("{}: {}", e.code().code(), e.message()))
    };
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.map_err(told)?;
    let connection = tokio::spawn(connection);
    let messages = client.simple_query(sql).await.map_err(told)?;
    drop(client);
    let _ = connection.await;
    Ok(messages
        .iter()
        .filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
            }
            _ => None,
        })
        .collect())
}

async fn mysql(url: &str, sql: &str) -> mysql_async::Result<Rows> {
    use mysql_async::Value;
    let mut connection = mysql_async::Conn::from_url(url).await?;
    // the text protocol: the server's own text of each value
    let mut result = connection.query_iter(sql).await?;
    let mut rows_of_last = Rows::new();
    while !result.is_empty() {
        let rows: Vec<mysql_async::Row> = result.collect().await?;
        let text = |value: Value| match value {
            Value::NULL => None,
            Value::Bytes(bytes) => Some(shown(&bytes)),
            other => Some(other.as_sql(true)),
        };
        rows_of_last = rows.into_iter().map(|row| row.unwrap().into_iter().map(text).collect()).collect();
    }
    drop(result);
    connection.disconnect().await?;
    Ok(rows_of_last)
}
