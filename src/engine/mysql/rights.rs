//! Whether this account may capture tables.

use std::collections::BTreeSet;

use mysql_async::prelude::Queryable as _;

use super::Mysql;
use super::error::convert;
use crate::engine::Result;
use crate::model::TableName;

/// What capture needs in its database.
const NEEDED: [&str; 7] = ["SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "DROP", "TRIGGER"];

/// See [`crate::engine::Database::capture_faults`].
pub(super) async fn capture_faults(database: &Mysql, tables: &[TableName]) -> Result<Vec<String>> {
    let mut conn = database.ask().await?;
    let mut faults = Vec::new();
    // What comes with a role is not told there.
    let role: Option<Option<String>> = conn.query_first("SELECT CURRENT_ROLE()").await.unwrap_or_default();
    let plain = role.flatten().is_none_or(|role| role == "NONE");
    let granted: Vec<String> = conn
        .query(
            "SELECT privilege_type FROM information_schema.user_privileges UNION \
             SELECT privilege_type FROM information_schema.schema_privileges WHERE DATABASE() LIKE table_schema",
        )
        .await
        .map_err(convert)?;
    let granted: BTreeSet<String> = granted.into_iter().map(|right| right.to_uppercase()).collect();
    let missing: Vec<&str> = NEEDED.into_iter().filter(|right| !granted.contains(*right)).collect();
    if plain && !missing.is_empty() {
        faults.push(format!(
            "the account lacks rights that capture needs: GRANT {} ON `{}`.* TO it",
            missing.join(", "),
            database.settings.database
        ));
    }
    let server: Option<(i64, i64)> =
        conn.query_first("SELECT @@log_bin, @@log_bin_trust_function_creators").await.map_err(convert)?;
    if plain && server == Some((1, 0)) && !granted.contains("SUPER") {
        faults.push(
            "the server keeps a binary log and lets only administrators make triggers: set \
             log_bin_trust_function_creators = 1 there, or install capture once with such an account"
                .to_owned(),
        );
    }
    let engines: Vec<(String, String)> = conn
        .query(
            "SELECT t.table_name, t.engine FROM information_schema.tables t JOIN information_schema.engines e \
             ON e.engine = t.engine WHERE t.table_schema = DATABASE() AND e.transactions <> 'YES'",
        )
        .await
        .map_err(convert)?;
    for (table, engine) in engines.into_iter().filter(|(table, _)| tables.iter().any(|t| t.name == *table)) {
        faults.push(format!(
            "{table} is of engine {engine}, which keeps rows after a rollback, so no log of it can be right: ALTER TABLE \
             {table} ENGINE=InnoDB"
        ));
    }
    if plain && !granted.contains("PROCESS") {
        faults.push(
            "TRUNCATE fires no trigger, and without the right PROCESS only a comparison shows it: GRANT PROCESS ON *.* TO \
             the account"
                .to_owned(),
        );
    }
    database.asked(conn);
    Ok(faults)
}
