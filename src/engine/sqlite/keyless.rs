//! Deleting rows of a table without a key: one pass over the table for a batch, however many rows it has.

use std::ops::Range;

use rusqlite::Connection;

use super::ddl::{quote, quote_table};
use super::types::Binder;
use crate::model::{Batch, Table};

/// The given rows, as the table itself would store them.
const ROWS: &str = "temp._rowferry_u";
/// How many of each.
const GIVEN: &str = "temp._rowferry_g";

/// Deletes as many copies of each row as are given, equal in these columns by bytes, whatever their collation.
pub(super) fn delete(
    conn: &Connection,
    batch: &Batch,
    rows: Range<usize>,
    columns: &[usize],
    rowid: &str,
) -> rusqlite::Result<u64> {
    let table = &*batch.table;
    stage(conn, batch, rows, columns)?;
    let (name, names) = (quote_table(&table.name), names(table, columns));
    conn.execute_batch(&format!(
        "CREATE TABLE {GIVEN} AS SELECT {0}, count(*) AS _rowferry_n FROM {ROWS} GROUP BY {0};
         CREATE INDEX temp._rowferry_i ON _rowferry_g ({0})",
        names.join(", ")
    ))?;
    let same: Vec<String> = names.iter().map(|c| format!("t.{c} COLLATE BINARY IS g.{c}")).collect();
    let sql = format!(
        "DELETE FROM {name} WHERE {rowid} IN (SELECT r FROM (SELECT t.{rowid} AS r, g._rowferry_n AS n, \
         row_number() OVER (PARTITION BY g.rowid) AS i FROM {name} t CROSS JOIN {GIVEN} g ON {}) WHERE i <= n)",
        same.join(" AND ")
    );
    let deleted = conn.execute(&sql, [])?;
    conn.execute_batch(&format!("DROP TABLE {GIVEN}; DROP TABLE {ROWS}"))?;
    Ok(deleted as u64)
}

fn names(table: &Table, columns: &[usize]) -> Vec<String> {
    columns.iter().map(|&c| quote(&table.columns[c].name)).collect()
}

fn stage(conn: &Connection, batch: &Batch, rows: Range<usize>, columns: &[usize]) -> rusqlite::Result<()> {
    let table = &*batch.table;
    let (name, names) = (quote_table(&table.name), names(table, columns).join(", "));
    conn.execute_batch(&format!("CREATE TABLE {ROWS} AS SELECT {names} FROM {name} LIMIT 0"))?;
    let marks = vec!["?"; columns.len()].join(", ");
    let mut statement = conn.prepare(&format!("INSERT INTO {ROWS} VALUES ({marks})"))?;
    let binders: Vec<Binder> = columns.iter().map(|&c| Binder::new(&table.columns[c])).collect();
    let mut scratch = String::new();
    for row in rows {
        for (at, (binder, &column)) in binders.iter().zip(columns).enumerate() {
            statement.raw_bind_parameter(at + 1, binder.stored(batch.cell(row, column), &mut scratch))?;
        }
        statement.raw_execute()?;
    }
    Ok(())
}
