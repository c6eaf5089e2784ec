//! In memory: no file, no server, no clock, no chance, no task of its own.
//!
//! What runs on it does the same each time, so that many sites can be simulated from one seed. It
//! keeps the engines' contract and nothing beyond: there is no SQL, and so no conditions on rows.
//! A point to read at is the list of tables as it stands; whoever writes copies a table first.
//! Transactions stand beside each other as they do on the servers: see `transaction`.

mod lock;
mod log;
mod lookup;
mod source;
mod store;
mod target;
mod transaction;
mod types;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;

use self::lock::Locks;
use self::transaction::Store;
use super::{
    Abilities, ChangeLog, Database, Error, ErrorKind, Letters, Lock, Logged, MappedColumn, Object, Result, Snapshot,
    TableDdl, Target,
};
use crate::model::{Column, ColumnDef, Table, TableName, Zone};

/// A database in memory. Clones are the same database; it is gone with the last of them.
#[derive(Clone)]
pub struct Memory {
    label: String,
    store: Arc<Store>,
    locks: Arc<Locks>,
    zone: Zone,
}

impl Memory {
    /// An empty database. Databases are told apart by their names: give each its own.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { label: format!("memory:{name}"), store: Arc::default(), locks: Arc::default(), zone: Zone::default() }
    }

    /// Sets what its clock shows, in microseconds since 1970; it stands still otherwise.
    pub fn set_now(&self, micros: i64) {
        self.store.now.store(micros, Ordering::Relaxed);
    }

    /// The statement that takes out all rows of a table at once and names none, as TRUNCATE does.
    #[must_use]
    pub fn empty_sql(&self, name: &TableName) -> String {
        types::Statement::Empty(name.clone()).text()
    }

    /// What is committed now, kept.
    #[must_use]
    pub fn backup(&self) -> Backup {
        Backup(self.store.committed())
    }

    /// Puts a backup, of this database or another, in place of all that stands here. Whatever was open is gone.
    pub fn restore(&self, backup: &Backup) {
        self.store.state().restore(backup.0.clone());
        self.store.ended.notify_waiters();
    }
}

/// The tables of a database as they once stood.
#[derive(Clone)]
pub struct Backup(Arc<store::Tables>);

#[async_trait]
impl Database for Memory {
    fn label(&self) -> &str {
        &self.label
    }

    fn version(&self) -> &'static str {
        "in memory"
    }

    fn zone(&self) -> &Zone {
        &self.zone
    }

    fn abilities(&self) -> Abilities {
        Abilities {
            product: "memory",
            writers: 1,
            shared_snapshot: true,
            silences_triggers: true,
            transactional_ddl: true,
            table_names: Letters::Exact,
            column_names: Letters::Exact,
            load_bytes: 64 << 20,
            log_lines: 3,
        }
    }

    async fn identity(&self) -> Result<String> {
        Ok(self.label.clone())
    }

    async fn tables(&self, schema: Option<&str>) -> Result<Vec<TableName>> {
        if let Some(other) = schema.filter(|s| !s.is_empty()) {
            return Err(Error::new(
                ErrorKind::SchemaMismatch,
                format!("there are no schemas in memory, so there is no schema {other} in {}", self.label),
            ));
        }
        let own = |name: &&TableName| !name.name.starts_with("_rowferry_");
        Ok(self.store.committed().keys().filter(own).cloned().collect())
    }

    async fn describe(&self, name: &TableName) -> Result<Option<Table>> {
        Ok(self.store.committed().get(name).map(|held| (*held.table).clone()))
    }

    async fn own_tables(&self) -> Result<BTreeSet<TableName>> {
        let own = |name: &&TableName| name.name.starts_with("_rowferry_");
        Ok(self.store.committed().keys().filter(own).cloned().collect())
    }

    fn map_column(&self, _table: &Table, column: &ColumnDef) -> MappedColumn {
        types::map_column(column)
    }

    fn ddl(&self, table: &Table) -> TableDdl {
        types::ddl(table)
    }

    async fn rehearse(&self, _tables: &[(Arc<Table>, TableDdl)]) -> Result<()> {
        // Whatever can be described can be made.
        Ok(())
    }

    fn drop_ddl(&self, name: &TableName) -> String {
        types::Statement::Drop(name.clone()).text()
    }

    fn alter_column_ddl(&self, _table: &TableName, _column: &str, _to: &ColumnDef) -> Vec<String> {
        // Nobody changes a table's columns here.
        Vec::new()
    }

    fn name_fault(&self, _name: &str) -> Option<String> {
        None
    }

    fn misfits(&self, _column: &ColumnDef, _data: &Column) -> Vec<(usize, String)> {
        Vec::new()
    }

    fn change_logs(&self, tables: &[Logged]) -> Result<Vec<ChangeLog>> {
        Ok(log::change_logs(tables))
    }

    async fn capture_faults(&self, _tables: &[TableName]) -> Result<Vec<String>> {
        // Nobody has fewer rights than another here.
        Ok(Vec::new())
    }

    async fn own_triggers(&self) -> Result<Vec<String>> {
        let tables = self.store.committed();
        let logs = tables.values().filter_map(|held| held.trigger.as_ref());
        let mut names: Vec<String> = logs.map(|trigger| format!("{}_write", trigger.log)).collect();
        names.sort();
        Ok(names)
    }

    async fn objects(&self, names: &[TableName]) -> Result<Vec<Object>> {
        let tables = self.store.committed();
        let log = |name| Some(tables.get(name)?.trigger.as_ref()?.log.to_string());
        let object = |name| Object { which: log(name).unwrap_or_default(), made: String::new() };
        Ok(names.iter().map(object).collect())
    }

    async fn lock(&self, name: &str) -> Result<Option<Box<dyn Lock>>> {
        Ok(self.locks.take(name))
    }

    async fn numbered_upto(&self, _table: &Table) -> Result<Option<i64>> {
        // It tells nobody.
        Ok(None)
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(source::Point(self.store.committed())))
    }

    async fn target(&self) -> Result<Box<dyn Target>> {
        Ok(Box::new(target::Writer::new(self.store.clone())))
    }
}
