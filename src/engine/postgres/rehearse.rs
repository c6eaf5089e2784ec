//! Making tables and taking it back, so that a plan is refused before anything of it is done.

use std::sync::Arc;

use tokio_postgres::Client;

use super::{error, types};
use crate::engine::{Error, ErrorKind, Result, TableDdl};
use crate::model::Table;

/// See [`crate::engine::Database::rehearse`]. Foreign keys stay out: they would lock their parents.
pub(super) async fn rehearse(client: &Client, label: &str, tables: &[(Arc<Table>, TableDdl)]) -> Result<()> {
    let mut missing = Vec::new();
    for (table, ddl) in tables {
        // One by one: a server has room for the locks of some hundred tables.
        client.batch_execute("BEGIN; SET LOCAL lock_timeout = '5s'").await.map_err(|e| error::from(&e))?;
        let result = make(client, label, table, ddl).await;
        client.batch_execute("ROLLBACK").await.map_err(|e| error::from(&e))?;
        missing.extend(result?);
    }
    if !missing.is_empty() {
        return Err(Error::new(
            ErrorKind::SchemaMismatch,
            format!(
                "{}, and {label} lacks that, nothing was changed: make the types there first, or leave the tables out",
                missing.join(", ")
            ),
        ));
    }
    Ok(())
}

/// Makes a table; what types it is missing, in words.
async fn make(client: &Client, label: &str, table: &Table, ddl: &TableDdl) -> Result<Vec<String>> {
    let (types, made) = parts(ddl);
    run(client, label, table, types).await?;
    let missing = missing_types(client, table).await?;
    if missing.is_empty() {
        run(client, label, table, made).await?;
        run(client, label, table, &ddl.after_rows).await?;
    }
    Ok(missing)
}

/// The last statement makes the table; those before it make the types that it can bring along.
fn parts(ddl: &TableDdl) -> (&[String], &[String]) {
    ddl.create.split_at(ddl.create.len().saturating_sub(1))
}

async fn run(client: &Client, label: &str, table: &Table, statements: &[String]) -> Result<()> {
    for sql in statements {
        client.batch_execute(sql).await.map_err(|e| {
            let error = error::from(&e);
            // Whatever the server dislikes about a statement, it is the table that cannot be made.
            let kind = if error.kind == ErrorKind::Protocol { ErrorKind::SchemaMismatch } else { error.kind };
            Error::new(kind, format!("table {} cannot be made at {label}, nothing was changed: {error}", table.name))
        })?;
    }
    Ok(())
}

/// Columns of types that are not there, in words; with how to get those that an extension brings.
async fn missing_types(client: &Client, table: &Table) -> Result<Vec<String>> {
    let sql = "SELECT to_regtype($1::text) IS NOT NULL, \
               (SELECT name::text FROM pg_available_extensions WHERE name = $1::text)";
    let mut missing = Vec::new();
    for column in table.columns.iter().filter(|c| types::is_users(c)) {
        let row = client.query_one(sql, &[&column.native]).await.map_err(|e| error::from(&e))?;
        if row.get(0) {
            continue;
        }
        let how = row.get::<_, Option<String>>(1).map_or(String::new(), |name| format!(" (CREATE EXTENSION {name})"));
        missing.push(format!("column {} of table {} has the type {}{how}", column.name, table.name, column.native));
    }
    Ok(missing)
}
