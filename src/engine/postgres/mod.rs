//! PostgreSQL 13 and later: binary COPY both ways.

mod catalog;
mod codec;
mod connect;
mod error;
mod source;
mod target;
#[cfg(test)]
mod tests;
mod types;

use std::sync::Arc;

use async_trait::async_trait;

use super::{Abilities, Database, Error, ErrorKind, MappedColumn, OpenOptions, Result, Snapshot, TableDdl, Target};
use crate::model::{Column, ColumnDef, Table, TableName};
use connect::{Connector, Session};

/// What all connections of a database have in common.
struct Shared {
    connector: Connector,
    /// The own schema.
    schema: String,
    /// The database's own collation.
    collation: String,
    version: String,
    /// Whether the account may set `session_replication_role`.
    replica_role: bool,
}

impl Shared {
    async fn session(&self) -> Result<Session> {
        self.connector.session(Some(&self.schema)).await
    }
}

/// A PostgreSQL database.
pub struct Postgres {
    shared: Arc<Shared>,
}

/// Opens a database by its URL.
///
/// # Errors
/// `Usage` for a bad URL, database or schema, `Unreachable`, `Denied`.
pub async fn open(url: &str, _options: &OpenOptions) -> Result<Postgres> {
    let connector = Connector::parse(url)?;
    let session = connector.session(connector.schema.as_deref()).await?;
    let fail = |e: tokio_postgres::Error| error::from(&e);
    let client = &session.client;
    let row = client
        .query_one(
            "SELECT current_schema()::text, d.datcollate::text, current_setting('server_version'), \
             current_setting('server_version_num')::int FROM pg_database d WHERE d.datname = current_database()",
            &[],
        )
        .await
        .map_err(fail)?;
    let schema: Option<String> = row.get(0);
    let schema = match (schema, &connector.schema) {
        (Some(schema), _) => schema,
        (None, Some(wanted)) => return Err(connector.missing_schema(wanted)),
        (None, None) => {
            return Err(Error::new(
                ErrorKind::Usage,
                "the database has no schema of its own for this account: name one with ?schema=",
            ));
        }
    };
    if row.get::<_, i32>(3) < 130_000 {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("PostgreSQL {} is too old: 13 is the oldest that works", row.get::<_, String>(2)),
        ));
    }
    let replica_role = client.batch_execute("BEGIN; SET LOCAL session_replication_role = replica").await.is_ok();
    client.batch_execute("ROLLBACK").await.map_err(fail)?;
    let version = format!("PostgreSQL {}", row.get::<_, String>(2));
    let collation = row.get(1);
    Ok(Postgres { shared: Arc::new(Shared { connector, schema, collation, version, replica_role }) })
}

#[async_trait]
impl Database for Postgres {
    fn label(&self) -> &str {
        &self.shared.connector.label
    }

    fn version(&self) -> &str {
        &self.shared.version
    }

    fn abilities(&self) -> Abilities {
        Abilities {
            product: "postgres",
            writers: 4,
            shared_snapshot: true,
            silences_triggers: self.shared.replica_role,
            transactional_ddl: true,
        }
    }

    async fn identity(&self) -> Result<String> {
        let sql = "SELECT concat_ws(':', extract(epoch FROM pg_postmaster_start_time()), \
                   (SELECT oid FROM pg_database WHERE datname = current_database()), current_schema())";
        Ok(self.target().await?.query_text(sql).await?.concat())
    }

    async fn tables(&self, schema: Option<&str>) -> Result<Vec<TableName>> {
        let session = self.shared.session().await?;
        catalog::tables(&session.client, &self.shared.schema, schema).await
    }

    async fn describe(&self, name: &TableName) -> Result<Option<Table>> {
        let session = self.shared.session().await?;
        catalog::describe(&session.client, &self.shared.schema, name).await
    }

    fn map_column(&self, table: &Table, column: &ColumnDef) -> MappedColumn {
        types::map_column(table, column)
    }

    fn ddl(&self, table: &Table) -> TableDdl {
        types::ddl(&self.shared.schema, table)
    }

    fn name_fault(&self, name: &str) -> Option<String> {
        // The server would cut a longer one without a word.
        if name.len() > 63 {
            return Some("names here have 63 bytes at most".to_owned());
        }
        name.contains('\0').then(|| "names here cannot hold a NUL".to_owned())
    }

    fn misfits(&self, column: &ColumnDef, data: &Column) -> Vec<(usize, String)> {
        types::misfits(column, data)
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(source::Keeper::open(self.shared.clone()).await?))
    }

    async fn target(&self) -> Result<Box<dyn Target>> {
        Ok(Box::new(target::Writer::open(self.shared.clone()).await?))
    }
}
