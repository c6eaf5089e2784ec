//! MySQL and MariaDB.

mod cascade;
mod catalog;
mod codec;
mod connect;
mod error;
mod keyless;
mod log;
mod lookup;
mod rehearse;
mod rights;
mod source;
mod target;
#[cfg(test)]
mod tests;
mod types;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use mysql_async::{Conn, prelude::Queryable as _};
use xxhash_rust::xxh3::xxh3_64;

use self::connect::{Flavor, Settings};
use super::idle::Idle;
use super::{
    Abilities, ChangeLog, Database, Error, ErrorKind, Letters, Lock, Logged, MappedColumn, Object, OpenOptions, Result,
    Snapshot, TableDdl, Target, earliest_reading,
};
use crate::model::{Column, ColumnDef, Table, TableName, Zone};

/// A database of a MySQL or MariaDB server.
pub struct Mysql {
    settings: Settings,
    idle: Idle<Conn>,
    flavor: Flavor,
    zone: Zone,
}

/// The server gives it back when the session ends.
struct SessionLock(Conn);

#[async_trait]
impl Lock for SessionLock {
    async fn is_held(&mut self) -> bool {
        self.0.ping().await.is_ok()
    }
}

/// Opens a database by its URL; connects once.
pub async fn open(url: &str, options: &OpenOptions) -> Result<Mysql> {
    let settings = connect::settings(url)?;
    let mut conn = connect::connect(&settings, "READ COMMITTED").await?;
    let flavor = connect::flavor(&mut conn).await?;
    let idle = Idle::default();
    idle.put(conn);
    Ok(Mysql { settings, idle, flavor, zone: options.zone.clone() })
}

impl Mysql {
    /// A connection to ask something by, which [`Self::asked`] takes back. One whose question failed, or was given up,
    /// is not given back.
    async fn ask(&self) -> Result<Conn> {
        if let Some(mut conn) = self.idle.take()
            && conn.ping().await.is_ok()
        {
            return Ok(conn);
        }
        connect::connect(&self.settings, "READ COMMITTED").await
    }

    fn asked(&self, conn: Conn) {
        self.idle.put(conn);
    }
}

#[async_trait]
impl Database for Mysql {
    fn label(&self) -> &str {
        &self.settings.label
    }

    fn version(&self) -> &str {
        &self.flavor.version
    }

    fn zone(&self) -> &Zone {
        &self.zone
    }

    fn abilities(&self) -> Abilities {
        Abilities {
            product: "mysql",
            writers: 4,
            shared_snapshot: false,
            silences_triggers: false,
            transactional_ddl: false,
            table_names: if self.flavor.folds_tables { Letters::Fold } else { Letters::Exact },
            column_names: Letters::Fold,
            load_bytes: 64 << 20,
            log_lines: 5_000,
        }
    }

    async fn identity(&self) -> Result<String> {
        let sql = "SELECT CONCAT_WS(':', @@hostname, @@port, @@datadir, DATABASE())";
        let mut conn = self.ask().await?;
        let identity: Option<String> = conn.query_first(sql).await.map_err(error::convert)?;
        self.asked(conn);
        identity.ok_or_else(|| Error::new(ErrorKind::Protocol, "the server does not say which one it is"))
    }

    async fn tables(&self, schema: Option<&str>) -> Result<Vec<TableName>> {
        let mut conn = self.ask().await?;
        let tables = catalog::tables(&mut conn, &self.settings.database, schema).await?;
        self.asked(conn);
        Ok(tables)
    }

    async fn describe(&self, name: &TableName) -> Result<Option<Table>> {
        Ok(self.describe_all(std::slice::from_ref(name)).await?.pop().flatten())
    }

    async fn describe_all(&self, names: &[TableName]) -> Result<Vec<Option<Table>>> {
        let mut conn = self.ask().await?;
        let tables = catalog::describe(&mut conn, &self.flavor, &self.settings.database, names).await?;
        self.asked(conn);
        Ok(tables)
    }

    async fn taken(&self, names: &[TableName]) -> Result<BTreeMap<TableName, String>> {
        let mut conn = self.ask().await?;
        let taken = catalog::taken(&mut conn, &self.flavor, &self.settings.database, names).await?;
        self.asked(conn);
        Ok(taken)
    }

    async fn own_tables(&self) -> Result<BTreeSet<TableName>> {
        let mut conn = self.ask().await?;
        let tables = catalog::own_tables(&mut conn, &self.settings.database).await?;
        self.asked(conn);
        Ok(tables)
    }

    fn map_column(&self, table: &Table, column: &ColumnDef) -> MappedColumn {
        types::map_column(&self.flavor, table, column)
    }

    fn ddl(&self, table: &Table) -> TableDdl {
        types::ddl(table, self.flavor.has_expression_indexes())
    }

    async fn rehearse(&self, tables: &[(Arc<Table>, TableDdl)]) -> Result<()> {
        let mut conn = connect::connect(&self.settings, "READ COMMITTED").await?;
        let result = rehearse::rehearse(&mut conn, self.label(), tables).await;
        conn.disconnect().await.map_err(error::convert)?;
        result
    }

    async fn foreign_key_names(&self) -> Result<Option<BTreeSet<String>>> {
        let mut conn = self.ask().await?;
        let sql = "SELECT constraint_name FROM information_schema.referential_constraints \
                   WHERE constraint_schema = DATABASE()";
        let names: Vec<String> = conn.query(sql).await.map_err(error::convert)?;
        self.asked(conn);
        Ok(Some(names.iter().map(|name| name.to_lowercase()).collect()))
    }

    fn drop_ddl(&self, name: &TableName) -> String {
        format!("DROP TABLE {}", source::table_sql(name))
    }

    fn alter_column_ddl(&self, table: &TableName, column: &str, to: &ColumnDef) -> Vec<String> {
        let (table, column) = (source::table_sql(table), connect::quote(column));
        vec![
            format!("SET SESSION lock_wait_timeout = {}", connect::BRIEFLY),
            format!("ALTER TABLE {table} CHANGE COLUMN {column} {}", types::column_sql(to, false, &mut Vec::new())),
            format!("SET SESSION lock_wait_timeout = {}", connect::LOCK_WAIT),
        ]
    }

    fn name_fault(&self, name: &str) -> Option<String> {
        if name.chars().count() > 64 {
            return Some("names here have 64 characters at most".to_owned());
        }
        if name.chars().any(|c| c == '\0' || u32::from(c) > 0xFFFF) {
            return Some("names here cannot hold characters beyond U+FFFF, such as most emoji".to_owned());
        }
        name.ends_with(' ').then(|| "names here cannot end with a space".to_owned())
    }

    fn misfits(&self, column: &ColumnDef, data: &Column) -> Vec<(usize, String)> {
        types::misfits(&self.flavor, column, data)
    }

    fn since(&self, column: &ColumnDef, moment: i64) -> Option<String> {
        let reading = earliest_reading(&column.logical, self.zone(), moment)?;
        let at = connect::quote(&column.name);
        Some(format!("{at} IS NULL OR {at} >= '{reading}'"))
    }

    fn unset(&self, column: &ColumnDef) -> Option<String> {
        Some(super::unset(&connect::quote(&column.name), &column.logical))
    }

    fn change_logs(&self, tables: &[Logged]) -> Result<Vec<ChangeLog>> {
        log::change_logs(self, tables)
    }

    async fn capture_faults(&self, tables: &[TableName]) -> Result<Vec<String>> {
        rights::capture_faults(self, tables).await
    }

    async fn own_triggers(&self) -> Result<Vec<String>> {
        log::own_triggers(self).await
    }

    async fn objects(&self, names: &[TableName]) -> Result<Vec<Object>> {
        log::objects(self, names).await
    }

    async fn lock(&self, name: &str) -> Result<Option<Box<dyn Lock>>> {
        let mut conn = self.ask().await?;
        // One name space for the whole server, of 64 characters.
        let key = xxh3_64(format!("{name}\0{}", self.settings.database).as_bytes());
        let sql = format!("SELECT GET_LOCK('rowferry-{key:016x}', 0)");
        let had: Option<Option<i64>> = conn.query_first(sql).await.map_err(error::convert)?;
        if had.flatten() == Some(1) {
            return Ok(Some(Box::new(SessionLock(conn))));
        }
        self.asked(conn);
        Ok(None)
    }

    async fn numbered_upto(&self, table: &Table) -> Result<Option<i64>> {
        let mut conn = self.ask().await?;
        let last = catalog::numbered_upto(&mut conn, table).await?;
        self.asked(conn);
        Ok(last)
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(source::Point { settings: self.settings.clone() }))
    }

    async fn target(&self) -> Result<Box<dyn Target>> {
        let conn = connect::connect(&self.settings, "READ COMMITTED").await?;
        Ok(Box::new(target::Sink {
            conn,
            flavor: self.flavor.clone(),
            writer: codec::Writer::default(),
            pending: None,
            active: false,
            labelled: false,
        }))
    }
}
