//! PostgreSQL 13 and later: binary COPY both ways.

mod catalog;
mod codec;
mod connect;
mod error;
mod gate;
mod log;
mod lookup;
mod rehearse;
mod rights;
mod source;
mod target;
#[cfg(test)]
mod tests;
mod tls;
mod types;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;

use super::idle::Idle;
use super::{
    Abilities, ChangeLog, Database, Error, ErrorKind, Letters, Lock, Logged, MappedColumn, Object, OpenOptions, Result,
    Snapshot, TableDdl, Target, earliest_reading,
};
use crate::model::{Column, ColumnDef, LogicalType, Table, TableName, Zone};
use connect::{Connector, Session};
use xxhash_rust::xxh3::xxh3_64;

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
    idle: Idle<Session>,
    /// Sessions that write, and have nothing open.
    written: Idle<Arc<Session>>,
}

impl Shared {
    async fn session(&self) -> Result<Session> {
        self.connector.session(Some(&self.schema)).await
    }

    /// A session to ask something by, which [`Self::asked`] takes back. One whose question failed, or was given up, is
    /// not given back.
    async fn ask(&self) -> Result<Session> {
        match self.idle.take().filter(|session| !session.client.is_closed()) {
            Some(session) => Ok(session),
            None => self.session().await,
        }
    }

    fn asked(&self, session: Session) {
        self.idle.put(session);
    }
}

/// The server gives it back when the session ends.
struct SessionLock(Session);

#[async_trait]
impl Lock for SessionLock {
    async fn is_held(&mut self) -> bool {
        self.0.client.batch_execute("").await.is_ok()
    }
}

/// A PostgreSQL database.
pub struct Postgres {
    shared: Arc<Shared>,
    zone: Zone,
}

/// Opens a database by its URL.
///
/// # Errors
/// `Usage` for a bad URL, database or schema, `Unreachable`, `Denied`.
pub async fn open(url: &str, options: &OpenOptions) -> Result<Postgres> {
    let connector = Connector::parse(url)?;
    let session = connector.session(connector.schema.as_deref()).await?;
    let fail = |e: tokio_postgres::Error| connector.lost(error::from(&e));
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
    Ok(Postgres {
        shared: Arc::new(Shared {
            connector,
            schema,
            collation,
            version,
            replica_role,
            idle: Idle::default(),
            written: Idle::default(),
        }),
        zone: options.zone.clone(),
    })
}

impl Postgres {
    fn lost(&self, error: Error) -> Error {
        self.shared.connector.lost(error)
    }
}

#[async_trait]
impl Database for Postgres {
    fn label(&self) -> &str {
        &self.shared.connector.label
    }

    fn version(&self) -> &str {
        &self.shared.version
    }

    fn zone(&self) -> &Zone {
        &self.zone
    }

    fn abilities(&self) -> Abilities {
        Abilities {
            product: "postgres",
            writers: 4,
            shared_snapshot: true,
            silences_triggers: self.shared.replica_role,
            transactional_ddl: true,
            table_names: Letters::Exact,
            column_names: Letters::Exact,
            load_bytes: 64 << 20,
            log_lines: 5_000,
        }
    }

    async fn identity(&self) -> Result<String> {
        let sql = "SELECT concat_ws(':', extract(epoch FROM pg_postmaster_start_time()), \
                   (SELECT oid FROM pg_database WHERE datname = current_database()), current_schema())";
        let session = self.shared.ask().await?;
        let row = session.client.query_one(sql, &[]).await.map_err(|e| self.lost(error::from(&e)))?;
        self.shared.asked(session);
        Ok(row.get(0))
    }

    async fn tables(&self, schema: Option<&str>) -> Result<Vec<TableName>> {
        let session = self.shared.ask().await?;
        let found = catalog::tables(&session.client, &self.shared.schema, schema).await.map_err(|e| self.lost(e))?;
        self.shared.asked(session);
        Ok(found)
    }

    async fn describe(&self, name: &TableName) -> Result<Option<Table>> {
        Ok(self.describe_all(std::slice::from_ref(name)).await?.pop().flatten())
    }

    async fn describe_all(&self, names: &[TableName]) -> Result<Vec<Option<Table>>> {
        let session = self.shared.ask().await?;
        let found = catalog::describe(&session.client, &self.shared.schema, names).await.map_err(|e| self.lost(e))?;
        self.shared.asked(session);
        Ok(found)
    }

    async fn taken(&self, names: &[TableName]) -> Result<BTreeMap<TableName, String>> {
        let session = self.shared.ask().await?;
        let found = catalog::taken(&session.client, &self.shared.schema, names).await.map_err(|e| self.lost(e))?;
        self.shared.asked(session);
        Ok(found)
    }

    async fn own_tables(&self) -> Result<BTreeSet<TableName>> {
        let session = self.shared.ask().await?;
        let found = catalog::own_tables(&session.client, &self.shared.schema).await.map_err(|e| self.lost(e))?;
        self.shared.asked(session);
        Ok(found)
    }

    fn map_column(&self, table: &Table, column: &ColumnDef) -> MappedColumn {
        types::map_column(table, column)
    }

    fn ddl(&self, table: &Table) -> TableDdl {
        types::ddl(&self.shared.schema, table)
    }

    async fn rehearse(&self, tables: &[(Arc<Table>, TableDdl)]) -> Result<()> {
        let session = self.shared.session().await?;
        rehearse::rehearse(&session.client, self.label(), tables).await.map_err(|e| self.lost(e))
    }

    async fn other_schemas(&self) -> Result<Vec<String>> {
        let session = self.shared.ask().await?;
        let found = catalog::other_schemas(&session.client, &self.shared.schema).await.map_err(|e| self.lost(e))?;
        self.shared.asked(session);
        Ok(found)
    }

    fn drop_ddl(&self, name: &TableName) -> String {
        format!("DROP TABLE {}", types::table_name(&self.shared.schema, name))
    }

    fn alter_column_ddl(&self, table: &TableName, column: &str, to: &ColumnDef) -> Vec<String> {
        let (table, name, native) = (types::table_name(&self.shared.schema, table), types::ident(&to.name), &to.native);
        let rename = format!("ALTER TABLE {table} RENAME COLUMN {} TO {name};", types::ident(column));
        let rename = if column == to.name { String::new() } else { rename };
        let body = format!(
            "DECLARE
  waited CONSTANT text := current_setting('lock_timeout');
BEGIN
  PERFORM set_config('lock_timeout', '1s', true);
  {rename}
  ALTER TABLE {table} ALTER COLUMN {name} TYPE {native} USING {name}::{native};
  PERFORM set_config('lock_timeout', waited, true);
END"
        );
        vec![format!("DO {}", types::literal(&body))]
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

    fn since(&self, column: &ColumnDef, moment: i64) -> Option<String> {
        let reading = earliest_reading(&column.logical, self.zone(), moment)?;
        let at = types::ident(&column.name);
        let zone = if matches!(column.logical, LogicalType::Timestamp { zoned: true, .. }) { "+00" } else { "" };
        Some(format!("{at} IS NULL OR {at} >= '{reading}{zone}'"))
    }

    fn unset(&self, column: &ColumnDef) -> Option<String> {
        Some(super::unset(&types::ident(&column.name), &column.logical))
    }

    fn change_logs(&self, tables: &[Logged]) -> Result<Vec<ChangeLog>> {
        log::change_logs(self, tables)
    }

    async fn capture_faults(&self, tables: &[TableName]) -> Result<Vec<String>> {
        rights::capture_faults(self, tables).await.map_err(|e| self.lost(e))
    }

    async fn own_triggers(&self) -> Result<Vec<String>> {
        log::own_triggers(self).await.map_err(|e| self.lost(e))
    }

    async fn objects(&self, names: &[TableName]) -> Result<Vec<Object>> {
        log::objects(self, names).await.map_err(|e| self.lost(e))
    }

    async fn lock(&self, name: &str) -> Result<Option<Box<dyn Lock>>> {
        let session = self.shared.connector.lasting(&self.shared.schema).await?;
        // One name space for each database.
        let key = xxh3_64(format!("rowferry\0{name}\0{}", self.shared.schema).as_bytes()).cast_signed();
        let sql = "SELECT pg_try_advisory_lock($1)";
        let row = session.client.query_one(sql, &[&key]).await.map_err(|e| self.lost(error::from(&e)))?;
        Ok(if row.get(0) { Some(Box::new(SessionLock(session))) } else { None })
    }

    async fn numbered_upto(&self, table: &Table) -> Result<Option<i64>> {
        let Some(column) = table.columns.iter().find(|column| column.identity.is_some()) else { return Ok(None) };
        let session = self.shared.ask().await?;
        let name = types::table_name(&self.shared.schema, &table.name);
        // An account that may read the table may not read its sequence for that.
        let sql = "SELECT CASE WHEN has_sequence_privilege(s, 'SELECT') THEN pg_sequence_last_value(s) END \
                   FROM CAST(pg_get_serial_sequence($1, $2) AS regclass) s JOIN pg_sequence q ON q.seqrelid = s \
                   WHERE q.seqincrement > 0";
        let found = session.client.query_opt(sql, &[&name, &column.name]).await;
        let found = found.map_err(|e| self.lost(error::from(&e)))?;
        self.shared.asked(session);
        Ok(found.and_then(|row| row.get(0)))
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(source::Keeper::open(self.shared.clone()).await.map_err(|e| self.lost(e))?))
    }

    async fn target(&self) -> Result<Box<dyn Target>> {
        Ok(Box::new(target::Writer::open(self.shared.clone()).await.map_err(|e| self.lost(e))?))
    }
}
