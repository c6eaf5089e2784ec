//! Writing: one connection, explicit transactions, prepared statements that are used again.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::connect::Worker;
use super::ddl::{quote, quote_table};
use super::error::during;
use super::types::Binder;
use crate::engine::{Error, ErrorKind, Result, Target, WriteMode, WriteOptions};
use crate::model::{Batch, Cell, Column, Table};

/// A connection that writes.
pub(super) struct FileTarget {
    pub(super) worker: Worker,
}

/// One statement of a write: which columns are bound, in the order of its parameters.
struct Shape {
    sql: String,
    binds: Vec<usize>,
}

/// A name of the row number that no column hides.
fn rowid_name(table: &Table) -> Result<&'static str> {
    ["rowid", "_rowid_", "oid"]
        .into_iter()
        .find(|name| !table.columns.iter().any(|c| c.name.eq_ignore_ascii_case(name)))
        .ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                format!("table {} has neither a key nor a free name for its row number", table.name),
            )
        })
}

/// `"a" = ?n` by bytes, whatever the column's collation.
fn matches_column(table: &Table, at: usize, operator: &str, parameter: usize) -> String {
    let column = &table.columns[at];
    let collate = if column.collation.is_some() { " COLLATE BINARY" } else { "" };
    format!("{}{collate} {operator} ?{parameter}", quote(&column.name))
}

impl Shape {
    /// The statement for rows in which these columns are present.
    fn new(mode: WriteMode, table: &Table, present: &[usize]) -> Result<Self> {
        let name = quote_table(&table.name);
        let key = table.row_key().map(|k| k.columns);
        match mode {
            WriteMode::Insert => Ok(Self::insert(&name, table, present)),
            WriteMode::Update => {
                let key = key.ok_or_else(|| {
                    Error::new(ErrorKind::Unsupported, format!("table {} has no key to find rows by", table.name))
                })?;
                Ok(Self::update(&name, table, present, &key))
            }
            WriteMode::Delete => {
                let (binds, operator) = key.clone().map_or_else(|| (present.to_vec(), "IS"), |key| (key, "="));
                let condition: Vec<String> =
                    binds.iter().enumerate().map(|(n, &at)| matches_column(table, at, operator, n + 1)).collect();
                let condition = condition.join(" AND ");
                let sql = if key.is_some() {
                    format!("DELETE FROM {name} WHERE {condition}")
                } else {
                    let rowid = rowid_name(table)?;
                    format!("DELETE FROM {name} WHERE {rowid} = (SELECT {rowid} FROM {name} WHERE {condition} LIMIT 1)")
                };
                Ok(Self { sql, binds })
            }
        }
    }

    fn insert(name: &str, table: &Table, present: &[usize]) -> Self {
        let binds: Vec<usize> = present.iter().copied().filter(|&c| !table.columns[c].generated).collect();
        if binds.is_empty() {
            return Self { sql: format!("INSERT OR ABORT INTO {name} DEFAULT VALUES"), binds };
        }
        let columns: Vec<String> = binds.iter().map(|&c| quote(&table.columns[c].name)).collect();
        let marks = vec!["?"; binds.len()].join(", ");
        // ABORT even where the table says ON CONFLICT REPLACE.
        Self { sql: format!("INSERT OR ABORT INTO {name} ({}) VALUES ({marks})", columns.join(", ")), binds }
    }

    fn update(name: &str, table: &Table, present: &[usize], key: &[usize]) -> Self {
        let mut binds: Vec<usize> =
            present.iter().copied().filter(|c| !key.contains(c) && !table.columns[*c].generated).collect();
        let mut set: Vec<String> =
            binds.iter().enumerate().map(|(n, &c)| format!("{} = ?{}", quote(&table.columns[c].name), n + 1)).collect();
        if set.is_empty() {
            // Nothing but the key: the statement still tells whether the row is there.
            let only = quote(&table.columns[key[0]].name);
            set.push(format!("{only} = {only}"));
        }
        let first = binds.len() + 1;
        let condition: Vec<String> =
            key.iter().enumerate().map(|(n, &c)| matches_column(table, c, "=", first + n)).collect();
        binds.extend_from_slice(key);
        Self { sql: format!("UPDATE OR ABORT {name} SET {} WHERE {}", set.join(", "), condition.join(" AND ")), binds }
    }
}

/// Columns whose value at a row is given.
fn present(batch: &Batch, row: usize) -> impl Iterator<Item = usize> + '_ {
    (0..batch.columns().len()).filter(move |&c| !matches!(batch.cell(row, c), Cell::Absent))
}

fn write(conn: &Connection, mode: WriteMode, batch: &Batch) -> Result<u64> {
    let table = &*batch.table;
    let binders: Vec<Binder> = table.columns.iter().map(Binder::new).collect();
    let mut scratch = String::new();
    let mut affected = 0;
    let complete = !batch.columns().iter().any(Column::has_absent);
    let mut row = 0;
    while row < batch.rows() {
        let given: Vec<usize> = present(batch, row).collect();
        let shape = Shape::new(mode, table, &given)?;
        let writing = || format!("cannot write table {}", table.name);
        let mut statement = conn.prepare_cached(&shape.sql).map_err(during(writing()))?;
        // Rows of one shape follow each other nearly always: one statement for all of them.
        while row < batch.rows() && (complete || present(batch, row).eq(given.iter().copied())) {
            for (n, &column) in shape.binds.iter().enumerate() {
                let stored = binders[column].stored(batch.cell(row, column), &mut scratch);
                statement.raw_bind_parameter(n + 1, stored).map_err(during(writing()))?;
            }
            affected += statement.raw_execute().map_err(during(writing()))? as u64;
            row += 1;
        }
    }
    Ok(affected)
}

fn begin(conn: &Connection, options: WriteOptions) -> Result<()> {
    let starting = "cannot begin a transaction";
    // Both settings are ignored inside a transaction.
    conn.pragma_update(None, "foreign_keys", !options.defer_foreign_keys).map_err(during(starting))?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, !options.silence_triggers)
        .map_err(during(starting))?;
    conn.execute_batch("BEGIN IMMEDIATE").map_err(during(starting))
}

/// The savepoint, when one is set.
const SAVEPOINT: &str = "rowferry_point";

fn savepoint(conn: &Connection) -> Result<()> {
    if conn.is_autocommit() {
        return Err(Error::new(ErrorKind::Protocol, "a savepoint needs a transaction"));
    }
    // Released if it is there: else it would pile up.
    let _ = conn.execute_batch(&format!("RELEASE {SAVEPOINT}"));
    conn.execute_batch(&format!("SAVEPOINT {SAVEPOINT}")).map_err(during("cannot set a savepoint"))
}

fn orphans(conn: &Connection, table: &Table) -> Result<Vec<String>> {
    let checking = || format!("cannot check the references of table {}", table.name);
    let mut statement = conn
        .prepare(
            "SELECT c.parent, c.fkid, count(*), (SELECT group_concat(\"from\", ', ') FROM \
             pragma_foreign_key_list(?1) l WHERE l.id = c.fkid) FROM pragma_foreign_key_check(?1) c GROUP BY 1, 2",
        )
        .map_err(during(checking()))?;
    let found = statement
        .query_map([&table.name.name], |r| {
            let (parent, count, columns): (String, i64, Option<String>) = (r.get(0)?, r.get(2)?, r.get(3)?);
            Ok(format!(
                "table {}: {count} {} in {parent} that {} not there (columns {})",
                table.name,
                if count == 1 { "row refers to a row" } else { "rows refer to rows" },
                if count == 1 { "is" } else { "are" },
                columns.unwrap_or_default()
            ))
        })
        .and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>);
    found.map_err(during(checking()))
}

#[async_trait]
impl Target for FileTarget {
    async fn begin(&mut self, options: WriteOptions) -> Result<()> {
        self.worker.call(move |conn| begin(conn, options)).await
    }

    async fn write(&mut self, mode: WriteMode, batch: &Batch) -> Result<u64> {
        // A copy of a few large vectors, so that the thread owns what it reads.
        let batch = batch.clone();
        self.worker.call(move |conn| write(conn, mode, &batch)).await
    }

    async fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    async fn savepoint(&mut self) -> Result<()> {
        self.worker.call(|conn| savepoint(conn)).await
    }

    async fn rollback_to_savepoint(&mut self) -> Result<()> {
        let sql = format!("ROLLBACK TO {SAVEPOINT}");
        self.worker.call(move |conn| conn.execute_batch(&sql).map_err(during("cannot go back to the savepoint"))).await
    }

    async fn commit(&mut self) -> Result<()> {
        self.worker.call(|conn| conn.execute_batch("COMMIT").map_err(during("cannot commit"))).await
    }

    async fn rollback(&mut self) -> Result<()> {
        self.worker
            .call(|conn| {
                // Some errors (a full disk) have rolled back already.
                if conn.is_autocommit() {
                    return Ok(());
                }
                conn.execute_batch("ROLLBACK").map_err(during("cannot roll back"))
            })
            .await
    }

    async fn execute(&mut self, sql: &str) -> Result<()> {
        let sql = sql.to_owned();
        self.worker.call(move |conn| conn.execute_batch(&sql).map_err(during("a statement failed"))).await
    }

    async fn query_text(&mut self, sql: &str) -> Result<Vec<String>> {
        let sql = sql.to_owned();
        self.worker.call(move |conn| query_text(conn, &sql).map_err(during("a query failed"))).await
    }

    async fn verify(&mut self, tables: &[Arc<Table>]) -> Result<Vec<String>> {
        // Numbering needs nothing: SQLite notes each number that is inserted.
        let tables = tables.to_vec();
        self.worker
            .call(move |conn| {
                let mut out = Vec::new();
                for table in &tables {
                    out.extend(orphans(conn, table)?);
                }
                Ok(out)
            })
            .await
    }
}

fn query_text(conn: &Connection, sql: &str) -> rusqlite::Result<Vec<String>> {
    use rusqlite::types::ValueRef;
    let mut statement = conn.prepare(sql)?;
    let rows = statement.query_map([], |r| {
        Ok(match r.get_ref(0)? {
            ValueRef::Null => String::new(),
            ValueRef::Integer(v) => v.to_string(),
            ValueRef::Real(v) => v.to_string(),
            ValueRef::Text(b) | ValueRef::Blob(b) => String::from_utf8_lossy(b).into_owned(),
        })
    })?;
    rows.collect()
}
