//! Who may come in, and whom to tell: keys, webhooks, the older clients.

use std::collections::BTreeMap;

use super::super::checked::*;
use super::super::raw::{Direction, Event, RawKey, RawKeyless, RawSeed, RawSeeds, RawWebhook};
use super::super::values::Network;
use super::super::{ConfigError, suggestion};
use super::sync::{check_tables, known_sync};
use super::{Result, fail};

fn networks(at: &str, texts: &[String]) -> Result<Vec<Network>> {
    let parse = |text: &String| text.parse().map_err(|error| ConfigError::new(format!("{at}: {error}")));
    texts.iter().map(parse).collect()
}

pub(super) fn check_keys(raw: Vec<RawKey>, databases: &BTreeMap<String, DatabaseConfig>) -> Result<Vec<ApiKey>> {
    let mut keys: Vec<ApiKey> = Vec::new();
    for raw in raw {
        let at = format!("api key '{}'", raw.name);
        if raw.name.trim().is_empty() {
            return fail("a key under api.keys has an empty name; name it");
        }
        if raw.key.expose().trim().is_empty() {
            return fail(format!("{at} is empty; `rowferry keys create` makes one"));
        }
        if keys.iter().any(|key| key.name == raw.name) {
            return fail(format!("{at} is there twice; rename one"));
        }
        if let Some(same) = keys.iter().find(|key| key.key == raw.key) {
            return fail(format!("{at} is the same key as '{}'; give each its own", same.name));
        }
        let mut tables = BTreeMap::new();
        for (database, entries) in raw.tables.0 {
            known_database(&at, &database, databases)?;
            let entries = entries.into_iter().map(|entry| KeyTable { table: entry.0.table, filter: entry.0.filter });
            let entries: Vec<KeyTable> = entries.collect();
            if entries.is_empty() || entries.iter().any(|entry| entry.table.trim().is_empty()) {
                return fail(format!("{at} has a table without a name under '{database}'; name it"));
            }
            tables.insert(database, entries);
        }
        keys.push(ApiKey {
            key: raw.key,
            role: raw.role,
            direction: raw.direction.unwrap_or(Direction::Bidirectional),
            from: networks(&at, &raw.from.unwrap_or_default())?,
            tables,
            name: raw.name,
        });
    }
    Ok(keys)
}

fn known_database(at: &str, name: &str, databases: &BTreeMap<String, DatabaseConfig>) -> Result<()> {
    if databases.contains_key(name) {
        return Ok(());
    }
    let hint = suggestion(name, databases.keys().map(String::as_str));
    fail(format!("{at}: there is no database '{name}' under databases; {hint}"))
}

pub(super) fn check_webhook(raw: RawWebhook) -> Result<Webhook> {
    let scheme = raw.url.expose().split("://").next().unwrap_or_default();
    if !matches!(scheme, "https" | "http") || url::Url::parse(raw.url.expose()).is_err() {
        return fail("a webhook's url must begin with https:// or http://");
    }
    let on = raw.on.unwrap_or_else(|| vec![Event::Failure, Event::Conflict, Event::Quarantine]);
    if on.is_empty() {
        return fail("a webhook's on is empty; write failure, conflict, quarantine or success, or leave it out");
    }
    Ok(Webhook { url: raw.url, secret: raw.secret, on })
}

fn check_prefix(at: &str, prefix: Option<String>) -> Result<String> {
    let prefix = prefix.unwrap_or_default();
    let prefix = prefix.trim_end_matches('/');
    if !prefix.is_empty() && !prefix.starts_with('/') {
        return fail(format!("{at}: prefix '{prefix}' must begin with '/'"));
    }
    Ok(prefix.to_owned())
}

fn check_keyless(at: &str, raw: Option<RawKeyless>) -> Result<Option<Keyless>> {
    let Some(raw) = raw else { return Ok(None) };
    if raw.from.is_empty() {
        return fail(format!("{at}: keyless needs the addresses that it holds for; write from: [127.0.0.1/32]"));
    }
    Ok(Some(Keyless { from: networks(at, &raw.from)?, role: raw.role }))
}

pub(super) fn check_seeds(
    raw: RawSeeds,
    databases: &BTreeMap<String, DatabaseConfig>,
    names: &[String],
) -> Result<Seeds> {
    let seed = |at: &str, raw: Option<RawSeed>| -> Result<Option<Seed>> {
        let Some(raw) = raw else { return Ok(None) };
        known_database(at, &raw.database, databases)?;
        let syncs = raw.syncs.unwrap_or_default();
        syncs.iter().try_for_each(|name| known_sync(at, name, names))?;
        let conflict = raw.conflict.unwrap_or_default();
        Ok(Some(Seed {
            database: raw.database,
            tables: check_tables(at, raw.tables, conflict, false)?,
            conflict,
            syncs,
            prefix: check_prefix(at, raw.prefix)?,
            key_in_query: raw.key_in_query.unwrap_or(false),
            keyless: check_keyless(at, raw.keyless)?,
        }))
    };
    let db_taxi = match raw.db_taxi {
        None => None,
        Some(raw) => {
            let at = "seed 'db_taxi'";
            known_database(at, &raw.local, databases)?;
            let (prefix, keyless) = (check_prefix(at, raw.prefix)?, check_keyless(at, raw.keyless)?);
            Some(TaxiSeed { local: raw.local, prefix, keyless })
        }
    };
    let slave_to_prod = match raw.slave_to_prod {
        None => None,
        Some(raw) => {
            let at = "seed 'slave_to_prod'";
            known_sync(at, &raw.sync, names)?;
            Some(SlaveToProdSeed {
                sync: raw.sync,
                public_url: raw.public_url,
                signing_keys: raw.signing_keys.unwrap_or_default(),
                manual_get: raw.manual_get.unwrap_or(false),
                prefix: check_prefix(at, raw.prefix)?,
                keyless: check_keyless(at, raw.keyless)?,
            })
        }
    };
    Ok(Seeds {
        nunez: seed("seed 'nunez'", raw.nunez)?,
        laravel: seed("seed 'laravel'", raw.laravel)?,
        campus_link: seed("seed 'campus_link'", raw.campus_link)?,
        db_taxi,
        slave_to_prod,
    })
}
