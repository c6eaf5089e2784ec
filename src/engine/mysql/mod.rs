//! MySQL and MariaDB.

mod catalog;
mod codec;
mod connect;
mod error;
mod source;
mod target;
#[cfg(test)]
mod tests;
mod types;

use async_trait::async_trait;

use self::connect::{Flavor, Settings};
use super::{Abilities, Database, MappedColumn, OpenOptions, Result, Snapshot, TableDdl, Target};
use crate::model::{Column, ColumnDef, Table, TableName};

/// A database of a MySQL or MariaDB server.
pub struct Mysql {
    settings: Settings,
    flavor: Flavor,
}

/// Opens a database by its URL; connects once.
pub async fn open(url: &str, _options: &OpenOptions) -> Result<Mysql> {
    let settings = connect::settings(url)?;
    let mut conn = connect::connect(&settings, "READ COMMITTED").await?;
    let flavor = connect::flavor(&mut conn).await?;
    conn.disconnect().await.map_err(error::convert)?;
    Ok(Mysql { settings, flavor })
}

#[async_trait]
impl Database for Mysql {
    fn label(&self) -> &str {
        &self.settings.label
    }

    fn version(&self) -> &str {
        &self.flavor.version
    }

    fn abilities(&self) -> Abilities {
        Abilities {
            product: "mysql",
            writers: 4,
            shared_snapshot: false,
            silences_triggers: false,
            transactional_ddl: false,
        }
    }

    async fn identity(&self) -> Result<String> {
        let sql = "SELECT CONCAT_WS(':', @@hostname, @@port, @@datadir, DATABASE())";
        Ok(self.target().await?.query_text(sql).await?.concat())
    }

    async fn tables(&self, schema: Option<&str>) -> Result<Vec<TableName>> {
        let mut conn = connect::connect(&self.settings, "READ COMMITTED").await?;
        let tables = catalog::tables(&mut conn, &self.settings.database, schema).await?;
        conn.disconnect().await.map_err(error::convert)?;
        Ok(tables)
    }

    async fn describe(&self, name: &TableName) -> Result<Option<Table>> {
        let mut conn = connect::connect(&self.settings, "READ COMMITTED").await?;
        let table = catalog::describe(&mut conn, &self.flavor, &self.settings.database, name).await?;
        conn.disconnect().await.map_err(error::convert)?;
        Ok(table)
    }

    fn map_column(&self, table: &Table, column: &ColumnDef) -> MappedColumn {
        types::map_column(&self.flavor, table, column)
    }

    fn ddl(&self, table: &Table) -> TableDdl {
        types::ddl(table)
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
        }))
    }
}
