//! Connections of the application's own, by each engine's driver.

use std::sync::mpsc;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use rusqlite::{fallible_iterator::FallibleIterator as _, types::ValueRef};

use super::Engine;

/// Rows of a query, each value as the engine shows it as text.
pub(super) type Rows = Vec<Vec<Option<String>>>;

/// What to run, whether its counts are wanted instead of its rows, and where the answer goes.
type Order = (String, bool, mpsc::Sender<Result<Rows, String>>);

/// A connection that stays open: what a transaction needs. It closes when it is dropped.
pub struct Session {
    engine: Engine,
    orders: mpsc::Sender<Order>,
}

impl Session {
    /// On a thread of its own, so that it can be used from any test, async or not.
    pub(super) fn open(engine: Engine, url: &str) -> Self {
        let (orders, queue) = mpsc::channel::<Order>();
        let url = url.to_owned();
        std::thread::spawn(move || {
            let mut wire = Wire::open(engine, &url).unwrap_or_else(|error| panic!("{engine:?}: {error}"));
            for (sql, counted, answer) in queue {
                // a test that failed meanwhile wants no answer
                let _ = answer.send(if counted { wire.count(&sql) } else { wire.run(&sql) });
            }
            wire.close();
        });
        Self { engine, orders }
    }

    /// Rows of the last statement of `sql`; the server's words when it refuses.
    pub fn attempt(&self, sql: &str) -> Result<Rows, String> {
        self.order(sql, false)
    }

    /// One row: how many rows the statement wrote, and the number that the driver was told for a new row, if any.
    pub fn counts(&self, sql: &str) -> Result<Rows, String> {
        self.order(sql, true)
    }

    fn order(&self, sql: &str, counted: bool) -> Result<Rows, String> {
        let (answer, answered) = mpsc::channel();
        self.orders.send((sql.to_owned(), counted, answer)).expect("the session's thread runs");
        answered.recv().expect("the session's thread answers")
    }

    /// As [`Self::attempt`], which must succeed.
    #[track_caller]
    pub fn query(&self, sql: &str) -> Rows {
        self.attempt(sql).unwrap_or_else(|error| panic!("{:?}: {error}\nin: {sql}", self.engine))
    }
}

enum Connection {
    Sqlite(rusqlite::Connection),
    Postgres(tokio_postgres::Client),
    Mysql(mysql_async::Conn),
}

/// A connection and what drives it; not to be used inside another runtime.
pub(super) struct Wire {
    runtime: tokio::runtime::Runtime,
    connection: Connection,
}

impl Wire {
    pub(super) fn open(engine: Engine, url: &str) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
        let connection = match engine {
            Engine::Sqlite => {
                let open = || {
                    let connection = rusqlite::Connection::open(url.trim_start_matches("sqlite:"))?;
                    connection.busy_timeout(Duration::from_secs(30))?;
                    Ok(connection)
                };
                Connection::Sqlite(open().map_err(|e: rusqlite::Error| e.to_string())?)
            }
            Engine::Postgres => runtime.block_on(async {
                let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.map_err(told)?;
                tokio::spawn(connection);
                Ok::<_, String>(Connection::Postgres(client))
            })?,
            Engine::Mariadb | Engine::Mysql => {
                Connection::Mysql(runtime.block_on(mysql_async::Conn::from_url(url)).map_err(|e| e.to_string())?)
            }
        };
        Ok(Self { runtime, connection })
    }

    /// Runs `sql`, and gives the rows of its last statement.
    pub(super) fn run(&mut self, sql: &str) -> Result<Rows, String> {
        match &mut self.connection {
            Connection::Sqlite(connection) => sqlite(connection, sql).map_err(|e| e.to_string()),
            Connection::Postgres(client) => self.runtime.block_on(postgres(client, sql)),
            Connection::Mysql(connection) => self.runtime.block_on(mysql(connection, sql)).map_err(|e| e.to_string()),
        }
    }

    /// Runs one statement; what its driver tells of it.
    fn count(&mut self, sql: &str) -> Result<Rows, String> {
        let (written, number) = match &mut self.connection {
            Connection::Sqlite(connection) => {
                let written = connection.execute(sql, []).map_err(|e| e.to_string())?;
                (written as u64, Some(connection.last_insert_rowid().to_string()))
            }
            Connection::Postgres(client) => {
                let messages = self.runtime.block_on(client.simple_query(sql)).map_err(told)?;
                let complete = messages.iter().find_map(|message| match message {
                    tokio_postgres::SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
                    _ => None,
                });
                (complete.unwrap_or(0), None)
            }
            Connection::Mysql(connection) => {
                self.runtime.block_on(connection.query_drop(sql)).map_err(|e| e.to_string())?;
                (connection.affected_rows(), connection.last_insert_id().map(|id| id.to_string()))
            }
        };
        Ok(vec![vec![Some(written.to_string()), number]])
    }

    pub(super) fn close(self) {
        if let Connection::Mysql(connection) = self.connection {
            // the server may be gone already
            let _ = self.runtime.block_on(connection.disconnect());
        }
    }
}

fn shown(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes)
        .map_or_else(|_| bytes.iter().fold("\\x".to_owned(), |text, byte| format!("{text}{byte:02x}")), str::to_owned)
}

fn sqlite(connection: &rusqlite::Connection, sql: &str) -> rusqlite::Result<Rows> {
    let mut rows_of_last = Vec::new();
    let mut batch = rusqlite::Batch::new(connection, sql);
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
}

fn told(error: tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |e| format!("{}: {}", e.code().code(), e.message()))
}

async fn postgres(client: &tokio_postgres::Client, sql: &str) -> Result<Rows, String> {
    let messages = client.simple_query(sql).await.map_err(told)?;
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

async fn mysql(connection: &mut mysql_async::Conn, sql: &str) -> mysql_async::Result<Rows> {
    use mysql_async::Value;
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
    Ok(rows_of_last)
}
