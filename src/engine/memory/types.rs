//! Columns keep the type that they have elsewhere; statements are what they do, as JSON.

use serde::{Deserialize, Serialize};

use crate::engine::{Error, ErrorKind, MappedColumn, Result, TableDdl};
use crate::model::{ColumnDef, DefaultValue, Identity, Table, TableName};

/// What this engine makes of a column: the same, ordered by bytes.
pub(super) fn map_column(column: &ColumnDef) -> MappedColumn {
    let mut out = column.clone();
    out.native = column.logical.to_string();
    out.collation = None;
    out.binary_order = true;
    out.generated = false;
    out.identity = column.identity.map(|_| Identity::ByDefault);
    // Nobody here computes anything.
    out.default = out.default.filter(|d| matches!(d, DefaultValue::Literal(_)) && !column.generated);
    MappedColumn { column: out, loss: None }
}

/// A statement of this engine.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Statement {
    /// Makes a table with all its keys, indexes and references.
    Create(Table),
    /// Drops a table with its rows.
    Drop(TableName),
    /// Takes out all rows of a table at once.
    Empty(TableName),
    /// From now on notes the keys of rows that are written. May run again.
    Log {
        /// The table that is logged.
        table: TableName,
        /// The log, made where it is missing.
        log: Table,
        /// Names of the key's columns.
        key: Vec<String>,
    },
    /// Notes that rows were written unseen.
    Doubt(TableName),
    /// Notes them no longer, and drops the log. May run again.
    Unlog {
        /// The table that was logged.
        table: TableName,
        /// The log.
        log: TableName,
    },
}

impl Statement {
    /// Its text.
    pub(super) fn text(&self) -> String {
        // Names, texts and numbers alone: nothing that JSON lacks.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a text.
    pub(super) fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|e| {
            Error::new(
                ErrorKind::Usage,
                format!("this is no statement for a database in memory, which has no SQL: {e}"),
            )
        })
    }
}

/// The statement that makes a table.
pub(super) fn ddl(table: &Table) -> TableDdl {
    let mut table = table.clone();
    table.triggers.clear();
    let mut left_out = Vec::new();
    table.indexes.retain(|index| {
        if index.native.is_some() {
            left_out.push(format!("index {} of {}: it is written in another engine's words", index.name, table.name));
        }
        index.native.is_none()
    });
    TableDdl { create: vec![Statement::Create(table).text()], left_out, ..TableDdl::default() }
}
