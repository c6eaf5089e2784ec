//! SQLite: a file, one writer, any number of readers.
//!
//! Its calls block, so each connection lives on a thread of its own (`connect`); values have a
//! type each, so that `types` decides what is stored and what a stored value means.

pub mod broken;
mod catalog;
mod connect;
mod ddl;
mod definition;
mod error;
mod indexes;
mod keyless;
mod lock;
mod log;
mod lookup;
mod rights;
mod source;
mod target;
#[cfg(test)]
mod tests;
mod types;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;

use self::connect::{Access, Pool, Settings, Worker};
use crate::engine::{
    Abilities, ChangeLog, Database, Error, ErrorKind, Letters, Lock, Logged, MappedColumn, Object, OpenOptions, Result,
    Snapshot, TableDdl, Target, earliest_reading,
};
use crate::model::{Column, ColumnDef, Table, TableName, Zone};

/// A SQLite file.
pub struct Sqlite {
    settings: Arc<Settings>,
    version: String,
    catalogue: Worker,
    readers: Arc<Pool>,
    writers: Arc<Pool>,
    /// Whether the file was made by opening it.
    made: bool,
    zone: Zone,
}

impl Drop for Sqlite {
    /// A file that was made and never written to is nothing; leaving it would look like a database.
    fn drop(&mut self) {
        let path = &self.settings.path;
        if self.made && std::fs::metadata(path).is_ok_and(|m| m.len() == 0) {
            // Another program may hold it; then it stays.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Opens a file by `sqlite:PATH`, `sqlite://PATH` or `sqlite:///absolute/path`.
///
/// # Errors
/// `Usage` for a wrong URL or a file that is no database, `Unreachable` for a missing file.
pub async fn open(url: &str, options: &OpenOptions) -> Result<Sqlite> {
    let settings = Arc::new(connect::parse_url(url)?);
    let access = if options.create { Access::Create } else { Access::Catalogue };
    let made = options.create && !settings.path.exists();
    let catalogue = Worker::start(settings.clone(), access).await?;
    Ok(Sqlite {
        readers: Pool::new(settings.clone(), Access::Read),
        writers: Pool::new(settings.clone(), Access::Write),
        settings,
        version: format!("SQLite {}", rusqlite::version()),
        catalogue,
        made,
        zone: options.zone.clone(),
    })
}

#[async_trait]
impl Database for Sqlite {
    fn label(&self) -> &str {
        &self.settings.label
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn zone(&self) -> &Zone {
        &self.zone
    }

    fn abilities(&self) -> Abilities {
        Abilities {
            product: "sqlite",
            writers: 1,
            shared_snapshot: false,
            silences_triggers: true,
            transactional_ddl: true,
            table_names: Letters::FoldAscii,
            column_names: Letters::FoldAscii,
            // About three seconds: an index is built at the end of the transaction that fills the empty
            // table, and other programs wait about five seconds for a lock.
            load_bytes: 256 << 20,
            log_lines: 2_000,
        }
    }

    async fn identity(&self) -> Result<String> {
        Ok(connect::identity(&self.settings.path))
    }

    async fn tables(&self, schema: Option<&str>) -> Result<Vec<TableName>> {
        if let Some(other) = schema.filter(|s| !s.is_empty() && *s != "main") {
            return Err(Error::new(
                ErrorKind::SchemaMismatch,
                format!("SQLite has no schemas, so there is no schema {other} in {}", self.settings.label),
            ));
        }
        let names = self.catalogue.call(|conn| catalog::tables(conn)).await?;
        Ok(names.into_iter().map(TableName::new).collect())
    }

    async fn describe(&self, name: &TableName) -> Result<Option<Table>> {
        Ok(self.describe_all(std::slice::from_ref(name)).await?.pop().flatten())
    }

    async fn describe_all(&self, names: &[TableName]) -> Result<Vec<Option<Table>>> {
        let names = names.to_vec();
        self.catalogue.call(move |conn| catalog::describe(conn, &names)).await
    }

    async fn taken(&self, names: &[TableName]) -> Result<BTreeMap<TableName, String>> {
        let names = names.to_vec();
        self.catalogue.call(move |conn| catalog::taken(conn, &names)).await
    }

    async fn reading_hinders(&self) -> Result<Option<String>> {
        let wal = self.catalogue.call(|conn| connect::is_wal(conn)).await?;
        let label = &self.settings.label;
        Ok((!wal).then(|| {
            format!(
                "{label} is not in WAL mode: while a table of it is read, those who write to it wait, by their busy time-out; \
                 PRAGMA journal_mode = WAL ends that"
            )
        }))
    }

    async fn own_tables(&self) -> Result<BTreeSet<TableName>> {
        let names = self.catalogue.call(|conn| catalog::own_tables(conn)).await?;
        Ok(names.into_iter().map(TableName::new).collect())
    }

    fn map_column(&self, table: &Table, column: &ColumnDef) -> MappedColumn {
        types::map_column(table, column)
    }

    fn ddl(&self, table: &Table) -> TableDdl {
        ddl::ddl(table)
    }

    async fn rehearse(&self, tables: &[(Arc<Table>, TableDdl)]) -> Result<()> {
        let tables = tables.to_vec();
        self.catalogue.call(move |_| ddl::rehearse(&tables)).await
    }

    fn drop_ddl(&self, name: &TableName) -> String {
        format!("DROP TABLE {}", ddl::quote_table(name))
    }

    fn alter_column_ddl(&self, table: &TableName, column: &str, to: &ColumnDef) -> Vec<String> {
        // Values have types here, and columns only names.
        let names = [column, &to.name].map(ddl::quote);
        let renamed = column != to.name;
        let sql = format!("ALTER TABLE {} RENAME COLUMN {} TO {}", ddl::quote_table(table), names[0], names[1]);
        renamed.then_some(sql).into_iter().collect()
    }

    fn name_fault(&self, name: &str) -> Option<String> {
        if name.contains('\0') {
            return Some("SQLite's names cannot hold a NUL".to_owned());
        }
        let own = name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("sqlite_"));
        own.then(|| "SQLite keeps names that begin with sqlite_ for itself".to_owned())
    }

    fn misfits(&self, column: &ColumnDef, data: &Column) -> Vec<(usize, String)> {
        types::misfits(column, data)
    }

    fn since(&self, column: &ColumnDef, moment: i64) -> Option<String> {
        let reading = earliest_reading(&column.logical, &self.zone, moment)?;
        // Texts of several forms, numbers too: what SQLite cannot read is for others to judge. A day for its zone, which
        // a text may name.
        let at = format!("julianday({})", ddl::quote(&column.name));
        Some(format!(
            "{at} IS NULL OR typeof({}) <> 'text' OR {at} >= julianday('{reading}') - 1",
            ddl::quote(&column.name)
        ))
    }

    fn unset(&self, column: &ColumnDef) -> Option<String> {
        Some(super::unset(&ddl::quote(&column.name), &column.logical))
    }

    fn change_logs(&self, tables: &[Logged]) -> Result<Vec<ChangeLog>> {
        log::change_logs(tables)
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
        lock::lock(&self.settings.path, name)
    }

    async fn numbered_upto(&self, table: &Table) -> Result<Option<i64>> {
        let table = table.clone();
        self.catalogue.call(move |conn| catalog::numbered_upto(conn, &table)).await
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(source::FilePoint(self.readers.clone())))
    }

    async fn target(&self) -> Result<Box<dyn Target>> {
        Ok(Box::new(target::FileTarget::new(self.writers.worker().await?)))
    }
}
