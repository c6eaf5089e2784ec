//! `GET /api/metadata`: the tables that the caller may exchange, with their columns.

use serde_json::{Value, json};

use super::answer::{Answer, Problem, Reply};
use super::router::Call;
use super::rows::the_database;
use crate::config::Role;
use crate::model::Table;
use crate::site;

/// Tables, by name, of one database.
pub(super) async fn metadata(call: Call) -> Reply {
    let access = call.access()?;
    let name = the_database(&call.config, access, call.parameter("database"))?;
    let database = call.node.databases.get(&call.config, &name).await?;
    let captured = site::open(&database).await?;
    let mut tables = Vec::new();
    for table in database.tables(None).await? {
        if access.role == Role::Peer && access.grant(&name, &table.to_string()).is_none() {
            continue;
        }
        let Some(table) = database.describe(&table).await? else { continue };
        let is_captured = captured.as_ref().is_some_and(|site| site.book(&table.name).is_some());
        tables.push(described(&table, is_captured));
    }
    let wanted = call.parameter("table");
    if let Some(wanted) = wanted {
        tables.retain(|table| table["table"] == wanted);
        if tables.is_empty() {
            return Err(Problem::new(hyper::StatusCode::NOT_FOUND, format!("there is no table {wanted} for this key")));
        }
    }
    Ok(Answer::json(&json!({ "success": true, "node": call.config.node, "database": name, "tables": tables })))
}

fn described(table: &Table, captured: bool) -> Value {
    let key: Vec<&str> = table
        .row_key()
        .map(|key| key.columns.iter().map(|&at| table.columns[at].name.as_str()).collect())
        .unwrap_or_default();
    let columns: Vec<Value> = table
        .columns
        .iter()
        .map(|column| {
            json!({ "name": column.name, "type": column.logical.to_string(), "native": column.native,
                "nullable": column.nullable, "generated": column.generated })
        })
        .collect();
    json!({ "table": table.name.to_string(), "key": key, "columns": columns, "captured": captured })
}
