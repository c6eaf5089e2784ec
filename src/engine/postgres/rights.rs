//! Whether this account may capture tables.

use super::{Postgres, error};
use crate::engine::Result;
use crate::model::TableName;

/// See [`crate::engine::Database::capture_faults`]. A trigger that is to fire for every session takes the table's owner,
/// and its function runs with the rights of who made it.
pub(super) async fn capture_faults(database: &Postgres, tables: &[TableName]) -> Result<Vec<String>> {
    let own = &database.shared.schema;
    let schemas: Vec<&str> =
        tables.iter().map(|t| if t.schema.is_empty() { own.as_str() } else { t.schema.as_str() }).collect();
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    let sql = "SELECT format('%I cannot make tables and functions in schema %s: GRANT CREATE ON SCHEMA %2$s TO %1$I', \
           current_user, quote_ident($1)) \
         WHERE NOT has_schema_privilege(current_user, $1, 'CREATE') \
       UNION ALL SELECT format('%I does not own %s, and only its owner %I can capture it: use that account, or GRANT %3$I \
           TO %1$I', current_user, c.oid::regclass, pg_get_userbyid(c.relowner)) \
         FROM unnest($2::text[], $3::text[]) w(schema, name) JOIN pg_namespace n ON n.nspname = w.schema \
         JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name \
         WHERE NOT pg_has_role(current_user, c.relowner, 'USAGE') \
       UNION ALL SELECT format('the function %s of an earlier capture belongs to %I, with whose rights it runs: use that \
           account, or run ''rowferry capture remove'' with it', p.oid::regprocedure, pg_get_userbyid(p.proowner)) \
         FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace \
         WHERE n.nspname = $1 AND left(p.proname::text, 14) = '_rowferry_log_' \
         AND NOT pg_has_role(current_user, p.proowner, 'USAGE')";
    let session = database.shared.ask().await?;
    let rows = session.client.query(sql, &[own, &schemas, &names]).await.map_err(|e| error::from(&e))?;
    database.shared.asked(session);
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
