//! A database whose every call is a point at which others run, or at which the process dies.

use std::sync::Arc;

use async_trait::async_trait;
use rowferry::engine::memory::Memory;
use rowferry::engine::{
    Abilities, ChangeLog, Database, Lock, Logged, Lookup, MappedColumn, Result, RowLock, Snapshot, TableDdl, Target,
    WriteMode, WriteOptions,
};
use rowferry::model::{Batch, Column, ColumnDef, Table, TableName, Zone};
use tokio::task::yield_now;

/// In memory, but not all at once.
pub struct Paced(pub Memory);

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
        self.0.label()
    }

    fn version(&self) -> &str {
        self.0.version()
    }

    fn abilities(&self) -> Abilities {
        self.0.abilities()
    }

    fn zone(&self) -> &Zone {
        self.0.zone()
    }

    async fn identity(&self) -> Result<String> {
        self.0.identity().await
    }

    async fn tables(&self, schema: Option<&str>) -> Result<Vec<TableName>> {
        self.0.tables(schema).await
    }

    async fn describe(&self, name: &TableName) -> Result<Option<Table>> {
        self.0.describe(name).await
    }

    fn map_column(&self, table: &Table, column: &ColumnDef) -> MappedColumn {
        self.0.map_column(table, column)
    }

    fn ddl(&self, table: &Table) -> TableDdl {
        self.0.ddl(table)
    }

    async fn rehearse(&self, tables: &[(Arc<Table>, TableDdl)]) -> Result<()> {
        self.0.rehearse(tables).await
    }

    fn drop_ddl(&self, name: &TableName) -> String {
        self.0.drop_ddl(name)
    }

    fn name_fault(&self, name: &str) -> Option<String> {
        self.0.name_fault(name)
    }

    fn misfits(&self, column: &ColumnDef, data: &Column) -> Vec<(usize, String)> {
        self.0.misfits(column, data)
    }

    fn change_logs(&self, tables: &[Logged]) -> Result<Vec<ChangeLog>> {
        self.0.change_logs(tables)
    }

    async fn own_triggers(&self) -> Result<Vec<String>> {
        self.0.own_triggers().await
    }

    /// Anybody may bring a pair in step: what must hold holds though two do at once.
    async fn lock(&self, name: &str) -> Result<Option<Box<dyn Lock>>> {
        if name.starts_with("pair ") { Ok(Some(Box::new(NoLock))) } else { self.0.lock(name).await }
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        yield_now().await;
        self.0.snapshot().await
    }

    async fn target(&self) -> Result<Box<dyn Target>> {
        Ok(Box::new(PacedTarget(self.0.target().await?)))
    }
}

struct PacedTarget(Box<dyn Target>);

#[async_trait]
impl Lookup for PacedTarget {
    async fn lookup(&mut self, table: &Arc<Table>, keys: &Batch, lock: RowLock) -> Result<Batch> {
        yield_now().await;
        self.0.lookup(table, keys, lock).await
    }

    async fn scan(&mut self, table: &Arc<Table>, above: Option<(usize, i64)>, limit: usize) -> Result<Batch> {
        yield_now().await;
        self.0.scan(table, above, limit).await
    }

    async fn now(&mut self) -> Result<i64> {
        self.0.now().await
    }
}

#[async_trait]
impl Target for PacedTarget {
    async fn begin(&mut self, options: WriteOptions) -> Result<()> {
        yield_now().await;
        self.0.begin(options).await
    }

    async fn write(&mut self, mode: WriteMode, batch: &Batch) -> Result<u64> {
        yield_now().await;
        self.0.write(mode, batch).await
    }

    async fn flush(&mut self) -> Result<()> {
        self.0.flush().await
    }

    async fn savepoint(&mut self) -> Result<()> {
        self.0.savepoint().await
    }

    async fn rollback_to_savepoint(&mut self) -> Result<()> {
        self.0.rollback_to_savepoint().await
    }

    async fn commit(&mut self) -> Result<()> {
        yield_now().await;
        let committed = self.0.commit().await;
        // Committed, and the answer lost.
        yield_now().await;
        committed
    }

    async fn rollback(&mut self) -> Result<()> {
        self.0.rollback().await
    }

    async fn execute(&mut self, statement: &str) -> Result<()> {
        yield_now().await;
        self.0.execute(statement).await
    }

    async fn verify(&mut self, tables: &[Arc<Table>]) -> Result<Vec<String>> {
        self.0.verify(tables).await
    }
}
