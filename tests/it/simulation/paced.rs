//! A database whose every statement is a point at which others run, or at which the process dies; and, if it is told so,
//! one through which a rule is broken.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use rowferry::engine::memory::Memory;
use rowferry::engine::{
    Abilities, ChangeLog, Database, Lock, Logged, Lookup, MappedColumn, Object, Result, RowLock, Snapshot, TableDdl,
    Target, WriteMode, WriteOptions,
};
use rowferry::model::{Batch, Column, ColumnDef, Site, Table, TableName, Zone};
use tokio::task::yield_now;

use super::broken::Broken;

/// In memory, but not all at once.
#[derive(Clone)]
pub struct Paced {
    pub memory: Memory,
    pub site: Site,
    pub broken: Option<Broken>,
    /// Whether the lock of a pair holds.
    pub locks: bool,
}

struct NoLock;

#[async_trait]
impl Lock for NoLock {
    async fn is_held(&mut self) -> bool {
        true
    }
}

#[async_trait]
impl Database for Paced {
    fn label(&self) -> &str {
        self.memory.label()
    }

    fn version(&self) -> &str {
        self.memory.version()
    }

    fn abilities(&self) -> Abilities {
        self.memory.abilities()
    }

    fn zone(&self) -> &Zone {
        self.memory.zone()
    }

    async fn identity(&self) -> Result<String> {
        self.memory.identity().await
    }

    async fn tables(&self, schema: Option<&str>) -> Result<Vec<TableName>> {
        self.memory.tables(schema).await
    }

    async fn describe(&self, name: &TableName) -> Result<Option<Table>> {
        self.memory.describe(name).await
    }

    async fn own_tables(&self) -> Result<BTreeSet<TableName>> {
        self.memory.own_tables().await
    }

    fn map_column(&self, table: &Table, column: &ColumnDef) -> MappedColumn {
        self.memory.map_column(table, column)
    }

    fn ddl(&self, table: &Table) -> TableDdl {
        self.memory.ddl(table)
    }

    async fn rehearse(&self, tables: &[(Arc<Table>, TableDdl)]) -> Result<()> {
        self.memory.rehearse(tables).await
    }

    fn drop_ddl(&self, name: &TableName) -> String {
        self.memory.drop_ddl(name)
    }

    fn alter_column_ddl(&self, table: &TableName, column: &str, to: &ColumnDef) -> Vec<String> {
        self.memory.alter_column_ddl(table, column, to)
    }

    fn name_fault(&self, name: &str) -> Option<String> {
        self.memory.name_fault(name)
    }

    fn misfits(&self, column: &ColumnDef, data: &Column) -> Vec<(usize, String)> {
        self.memory.misfits(column, data)
    }

    fn change_logs(&self, tables: &[Logged]) -> Result<Vec<ChangeLog>> {
        self.memory.change_logs(tables)
    }

    async fn capture_faults(&self, tables: &[TableName]) -> Result<Vec<String>> {
        self.memory.capture_faults(tables).await
    }

    async fn own_triggers(&self) -> Result<Vec<String>> {
        self.memory.own_triggers().await
    }

    async fn objects(&self, names: &[TableName]) -> Result<Vec<Object>> {
        self.memory.objects(names).await
    }

    /// Anybody may bring a pair in step: what must hold holds though two do at once; but what one has read is not to come
    /// when its deletion is forgotten, which takes days elsewhere.
    async fn lock(&self, name: &str) -> Result<Option<Box<dyn Lock>>> {
        if name.starts_with("pair ") && !self.locks { Ok(Some(Box::new(NoLock))) } else { self.memory.lock(name).await }
    }

    async fn numbered_upto(&self, table: &Table) -> Result<Option<i64>> {
        self.memory.numbered_upto(table).await
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        yield_now().await;
        self.memory.snapshot().await
    }

    async fn target(&self) -> Result<Box<dyn Target>> {
        let target = self.memory.target().await?;
        Ok(Box::new(PacedTarget { target, db: self.clone(), options: WriteOptions::default(), early: None }))
    }
}

/// A connection.
pub struct PacedTarget {
    pub target: Box<dyn Target>,
    pub db: Paced,
    /// Of the open transaction.
    pub options: WriteOptions,
    /// Where a broken rule has it read what stood before.
    pub early: Option<Box<dyn Target>>,
}

#[async_trait]
impl Lookup for PacedTarget {
    async fn lookup(&mut self, table: &Arc<Table>, keys: &Batch, lock: RowLock) -> Result<Batch> {
        yield_now().await;
        match self.db.broken {
            Some(broken) => broken.lookup(self, table, keys, lock).await,
            None => self.target.lookup(table, keys, lock).await,
        }
    }

    async fn lookup_where(&mut self, table: &Arc<Table>, keys: &Batch, condition: &str) -> Result<Batch> {
        yield_now().await;
        self.target.lookup_where(table, keys, condition).await
    }

    async fn count(&mut self, table: &Arc<Table>, keys: &Batch) -> Result<u64> {
        yield_now().await;
        self.target.count(table, keys).await
    }

    async fn scan(&mut self, table: &Arc<Table>, above: Option<(usize, i64)>, limit: usize) -> Result<Batch> {
        yield_now().await;
        let found = self.target.scan(table, above, limit).await?;
        Ok(self.db.broken.map_or_else(|| found.clone(), |broken| broken.scanned(table, above, &found)))
    }

    async fn now(&mut self) -> Result<i64> {
        self.target.now().await
    }
}

#[async_trait]
impl Target for PacedTarget {
    async fn stamp(&mut self) -> Result<Option<String>> {
        yield_now().await;
        self.target.stamp().await
    }

    async fn begin(&mut self, options: WriteOptions) -> Result<()> {
        yield_now().await;
        (self.options, self.early) = (options, None);
        match self.db.broken {
            Some(broken) => broken.begin(self, options).await,
            None => self.target.begin(options).await,
        }
    }

    async fn write(&mut self, mode: WriteMode, batch: &Batch) -> Result<u64> {
        yield_now().await;
        match self.db.broken {
            Some(broken) => broken.write(self, mode, batch).await,
            None => self.target.write(mode, batch).await,
        }
    }

    async fn flush(&mut self) -> Result<()> {
        self.target.flush().await
    }

    async fn savepoint(&mut self) -> Result<()> {
        self.target.savepoint().await
    }

    async fn rollback_to_savepoint(&mut self) -> Result<()> {
        self.target.rollback_to_savepoint().await
    }

    async fn renumber(&mut self, table: &Table, column: usize, from: i64, to: Option<i64>) -> Result<i64> {
        yield_now().await;
        self.target.renumber(table, column, from, to).await
    }

    async fn commit(&mut self) -> Result<()> {
        yield_now().await;
        let committed = self.target.commit().await;
        // Committed, and the answer lost.
        yield_now().await;
        committed
    }

    async fn rollback(&mut self) -> Result<()> {
        self.target.rollback().await
    }

    async fn execute(&mut self, statement: &str) -> Result<()> {
        yield_now().await;
        self.target.execute(statement).await
    }

    async fn count_on(&mut self, table: &Table, last: i64) -> Result<()> {
        self.target.count_on(table, last).await
    }

    async fn verify(&mut self, tables: &[Arc<Table>]) -> Result<Vec<String>> {
        self.target.verify(tables).await
    }
}
