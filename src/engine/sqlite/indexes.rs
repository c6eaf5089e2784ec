//! Indexes that a load drops and builds again in its own transaction: over all rows at once they cost
//! a fraction of what it takes to keep them up row by row. Nobody ever sees the table without them,
//! and a rollback or a crash leaves them as they were.

use rusqlite::Connection;

use super::ddl::{quote, quote_table};
use crate::model::Table;

/// Drops the indexes of an empty table that can wait, and returns the statements that make them again.
///
/// One that can refuse a row (unique, partial or of an expression) stays, so that the row is found.
/// Where there are statistics all stay: an index takes its own with it.
pub(super) fn drop_for_load(conn: &Connection, table: &Table) -> rusqlite::Result<Vec<String>> {
    let is_empty = format!("SELECT NOT EXISTS (SELECT 1 FROM {})", quote_table(&table.name));
    if !conn.query_row(&is_empty, [], |r| r.get::<_, bool>(0))? {
        return Ok(Vec::new());
    }
    let mut statement = conn.prepare_cached(
        "SELECT l.name, s.sql FROM pragma_index_list(?1) l JOIN sqlite_schema s ON s.type = 'index' AND s.name = l.name \
         WHERE NOT l.\"unique\" AND NOT l.partial AND s.sql IS NOT NULL \
         AND NOT EXISTS (SELECT 1 FROM pragma_index_info(l.name) i WHERE i.name IS NULL) \
         AND NOT EXISTS (SELECT 1 FROM sqlite_schema WHERE name LIKE 'sqlite\\_stat_' ESCAPE '\\')",
    )?;
    let indexes: Vec<(String, String)> =
        statement.query_map([&table.name.name], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
    indexes
        .into_iter()
        .map(|(name, sql)| conn.execute_batch(&format!("DROP INDEX {}", quote(&name))).map(|()| sql))
        .collect()
}
