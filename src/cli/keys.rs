//! `rowferry keys`.

use super::args::{Args, KeysCommand};
use super::output::{Output, columns};
use super::serve::state_place;
use super::{Outcome, connect};
use crate::config::Config;
use crate::engine::{Error, ErrorKind, Result};
use crate::state::{Grant, KeyRecord, Kind, State, new_key};

pub(crate) async fn run(args: &Args, command: &KeysCommand, output: &Output) -> Result<Outcome> {
    let config = connect::configuration(args)?;
    let state = State::open(&state_place(&config)).await?;
    match command {
        KeysCommand::Create(typed) => {
            let mut issued = new_key(typed.role.into())?;
            issued.record.direction = typed.direction.into();
            issued.record.from.clone_from(&typed.from);
            grant(&config, &mut issued.record, &typed.tables, &typed.filters)?;
            is_taken(&config, &typed.name)?;
            state.add_key(&typed.name, &issued.record).await?;
            output.line(format!("key '{}', shown only now: {}", typed.name, issued.key));
            let mut document = document(&typed.name, &issued.record, "state");
            document["key"] = issued.key.into();
            output.document(&document);
        }
        KeysCommand::List => list(&config, &state, output).await?,
        KeysCommand::Revoke { name } => {
            if !state.remove(Kind::Key, name).await? {
                let place = if config.api_keys.iter().any(|key| key.name == *name) {
                    "it stands in the config: take it out there"
                } else {
                    "'rowferry keys list' shows those that there are"
                };
                return Err(Error::new(ErrorKind::Usage, format!("there is no stored key '{name}'; {place}")));
            }
            output.line(format!("key '{name}' opens nothing any more"));
            output.document(&serde_json::json!({ "revoked": name }));
        }
    }
    Ok(Outcome::Done)
}

/// Refuses a name that a key of the config has.
pub(super) fn is_taken(config: &Config, name: &str) -> Result<()> {
    if config.api_keys.iter().any(|key| key.name == name) {
        let what = format!("the config has a key '{name}' already; take another name");
        return Err(Error::new(ErrorKind::Usage, what));
    }
    Ok(())
}

/// Adds the tables that were typed as `DATABASE/TABLE`, and their conditions as `DATABASE/TABLE=EXPR`.
pub(super) fn grant(config: &Config, record: &mut KeyRecord, tables: &[String], filters: &[String]) -> Result<()> {
    let refuse = |message: String| Err(Error::new(ErrorKind::Usage, message));
    for typed in tables {
        let Some((database, table)) = typed.split_once('/').filter(|(_, table)| !table.is_empty()) else {
            return refuse(format!("--table {typed}: write DATABASE/TABLE, such as app/riders"));
        };
        config.database(database).map_err(|e| Error::new(ErrorKind::Usage, e.to_string()))?;
        let grants = record.tables.entry(database.to_owned()).or_default();
        grants.push(Grant { table: table.to_owned(), filter: None });
    }
    for typed in filters {
        let parts = typed.split_once('=').and_then(|(place, filter)| Some((place.split_once('/')?, filter.trim())));
        let found = parts.and_then(|((database, table), filter)| {
            let grant = record.tables.get_mut(database)?.iter_mut().find(|grant| grant.table == table)?;
            (!filter.is_empty()).then(|| grant.filter.replace(filter.to_owned()))
        });
        match found {
            None => {
                return refuse(format!("--where {typed}: write DATABASE/TABLE=EXPR for a table that --table names"));
            }
            // One of two would not hold.
            Some(Some(_)) => return refuse(format!("--where {typed}: this table has one already; join them with AND")),
            Some(None) => {}
        }
    }
    Ok(())
}

async fn list(config: &Config, state: &State, output: &Output) -> Result<()> {
    let mut documents = Vec::new();
    let mut rows = vec![["name", "role", "direction", "tables", "from", "kept in"].map(str::to_owned).to_vec()];
    for key in &config.api_keys {
        let record = KeyRecord {
            digest: String::new(),
            role: key.role,
            direction: key.direction,
            from: Vec::new(),
            tables: key
                .tables
                .iter()
                .map(|(name, tables)| {
                    let grant =
                        |t: &crate::config::KeyTable| Grant { table: t.table.clone(), filter: t.filter.clone() };
                    (name.clone(), tables.iter().map(grant).collect())
                })
                .collect(),
            created: String::new(),
        };
        rows.push(line(
            &key.name,
            &record,
            if key.from.is_empty() { "anywhere" } else { "as the config says" },
            "config",
        ));
        documents.push(document(&key.name, &record, "config"));
    }
    for (name, record) in state.keys().await? {
        let from = if record.from.is_empty() { "anywhere".to_owned() } else { record.from.join(" ") };
        rows.push(line(&name, &record, &from, "state"));
        documents.push(document(&name, &record, "state"));
    }
    if documents.is_empty() {
        output.line("there is no key yet; 'rowferry serve' makes one for an admin, 'rowferry keys create' any");
    } else {
        for row in columns(&rows) {
            output.line(row);
        }
    }
    output.document(&documents);
    Ok(())
}

fn line(name: &str, record: &KeyRecord, from: &str, kept: &str) -> Vec<String> {
    let tables: Vec<String> = record
        .tables
        .iter()
        .flat_map(|(database, grants)| grants.iter().map(move |grant| format!("{database}/{}", grant.table)))
        .collect();
    let word = |value: &dyn std::fmt::Debug| format!("{value:?}").to_lowercase();
    let tables = if tables.is_empty() { "none".to_owned() } else { tables.join(" ") };
    vec![name.to_owned(), word(&record.role), word(&record.direction), tables, from.to_owned(), kept.to_owned()]
}

/// What is known of a key: never the key, nor its digest.
fn document(name: &str, record: &KeyRecord, kept: &str) -> serde_json::Value {
    serde_json::json!({ "name": name, "role": record.role, "direction": record.direction, "from": record.from,
        "tables": record.tables, "created": record.created, "kept_in": kept })
}
