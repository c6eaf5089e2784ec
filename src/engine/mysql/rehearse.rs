//! Making tables as temporary ones, so that a plan is refused before anything of it is done.

use std::sync::Arc;

use mysql_async::{Conn, prelude::Queryable};

use super::super::{Error, ErrorKind, Result, TableDdl};
use super::error::convert;
use super::source::table_sql;
use crate::model::Table;

/// See [`super::super::Database::rehearse`]. Statements that a temporary table cannot take (full text
/// indexes, foreign keys) come after the first and are not tried.
pub(super) async fn rehearse(conn: &mut Conn, label: &str, tables: &[(Arc<Table>, TableDdl)]) -> Result<()> {
    for (table, ddl) in tables {
        let Some(rest) = ddl.create.first().and_then(|sql| sql.strip_prefix("CREATE TABLE ")) else { continue };
        match conn.query_drop(format!("CREATE TEMPORARY TABLE {rest}")).await.map_err(convert) {
            Ok(()) => {
                let drop = format!("DROP TEMPORARY TABLE {}", table_sql(&table.name));
                conn.query_drop(drop).await.map_err(convert)?;
            }
            // An account may be allowed to make tables and no temporary ones.
            Err(e) if e.kind == ErrorKind::Denied => return Ok(()),
            Err(e) if e.is_transient() => return Err(e),
            Err(e) => {
                let what = format!("table {} cannot be made at {label}, nothing was changed: {e}", table.name);
                return Err(Error::new(ErrorKind::SchemaMismatch, what));
            }
        }
    }
    Ok(())
}
