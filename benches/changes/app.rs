//! An application's connection: prepared statements, one after the other.

use std::time::Duration;

use mysql_async::prelude::Queryable as _;
use tokio::runtime::Runtime;

use crate::Outcome;
use crate::ends::{Bench, End, Side};

/// A connection to a database of the bench.
pub struct App {
    runtime: Runtime,
    connection: Connection,
}

enum Connection {
    Postgres(tokio_postgres::Client, std::collections::HashMap<String, tokio_postgres::Statement>),
    Maria(mysql_async::Conn),
    Sqlite(rusqlite::Connection),
}

impl App {
    pub fn open(bench: &Bench, end: End, side: Side) -> Outcome<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let url = bench.url(end, side);
        let connection = match end {
            End::Postgres => runtime.block_on(async {
                let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
                tokio::spawn(connection);
                Outcome::Ok(Connection::Postgres(client, std::collections::HashMap::new()))
            })?,
            End::Maria => runtime.block_on(async {
                let options = mysql_async::Opts::from_url(&url)?;
                Outcome::Ok(Connection::Maria(mysql_async::Conn::new(options).await?))
            })?,
            End::Sqlite => {
                let connection = rusqlite::Connection::open(bench.file(side))?;
                connection.busy_timeout(Duration::from_mins(1))?;
                Connection::Sqlite(connection)
            }
        };
        Ok(Self { runtime, connection })
    }

    /// Makes commits not wait for the disk: what the processor does is what is compared. The server's settings are
    /// put back by [`Self::durable`].
    pub fn relaxed(&mut self) -> Outcome<()> {
        match &self.connection {
            Connection::Postgres(..) => self.batch("SET synchronous_commit = off"),
            Connection::Maria(_) => {
                self.batch("SET GLOBAL innodb_flush_log_at_trx_commit = 0")?;
                self.batch("SET GLOBAL sync_binlog = 0")
            }
            Connection::Sqlite(_) => self.batch("PRAGMA synchronous = OFF"),
        }
    }

    pub fn durable(&mut self) -> Outcome<()> {
        match &self.connection {
            Connection::Postgres(..) => self.batch("SET synchronous_commit = on"),
            Connection::Maria(_) => {
                self.batch("SET GLOBAL innodb_flush_log_at_trx_commit = 1")?;
                self.batch("SET GLOBAL sync_binlog = 1")
            }
            Connection::Sqlite(_) => self.batch("PRAGMA synchronous = FULL"),
        }
    }

    /// Statements without parameters.
    pub fn batch(&mut self, sql: &str) -> Outcome<()> {
        match &mut self.connection {
            Connection::Postgres(client, _) => self.runtime.block_on(client.batch_execute(sql))?,
            Connection::Maria(conn) => self.runtime.block_on(conn.query_drop(sql))?,
            Connection::Sqlite(conn) => conn.execute_batch(sql)?,
        }
        Ok(())
    }

    /// One statement, prepared at its first use; each `?` is a whole number.
    pub fn execute(&mut self, sql: &str, values: &[i64]) -> Outcome<()> {
        match &mut self.connection {
            Connection::Postgres(client, known) => {
                if !known.contains_key(sql) {
                    let mut numbered = String::new();
                    for (at, part) in sql.split('?').enumerate() {
                        numbered += &if at > 0 { format!("${at}::bigint{part}") } else { part.to_owned() };
                    }
                    let statement = self.runtime.block_on(client.prepare(&numbered))?;
                    known.insert(sql.to_owned(), statement);
                }
                let values: Vec<_> = values.iter().map(|v| v as &(dyn tokio_postgres::types::ToSql + Sync)).collect();
                self.runtime.block_on(client.execute(&known[sql], &values))?;
            }
            Connection::Maria(conn) => {
                let values: Vec<mysql_async::Value> = values.iter().map(|&v| v.into()).collect();
                self.runtime.block_on(conn.exec_drop(sql, values))?;
            }
            Connection::Sqlite(conn) => {
                conn.prepare_cached(sql)?.execute(rusqlite::params_from_iter(values))?;
            }
        }
        Ok(())
    }

    /// The number that a query gives; 0 for NULL.
    pub fn number(&mut self, sql: &str) -> Outcome<i64> {
        Ok(match &mut self.connection {
            Connection::Postgres(client, _) => {
                let row = self.runtime.block_on(client.query_one(sql, &[]))?;
                row.try_get::<_, Option<i64>>(0)?.unwrap_or(0)
            }
            Connection::Maria(conn) => {
                let row: Option<Option<i64>> = self.runtime.block_on(conn.query_first(sql))?;
                row.flatten().unwrap_or(0)
            }
            Connection::Sqlite(conn) => conn.query_row(sql, [], |r| r.get::<_, Option<i64>>(0))?.unwrap_or(0),
        })
    }
}
