//! From the raw form to the checked one. Each mistake is one sentence that names its place and what
//! to do.

mod access;
mod circles;
mod endpoint;
mod sync;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use crate::model::Zone;

use self::access::{check_keys, check_seeds, check_webhook};
use self::circles::no_circle_of_rows;
use self::endpoint::{check_listen, check_peer, database_url, endpoint_name, state_url};
use self::sync::{check_defaults, check_sync, no_circle, one_condition};
use super::ConfigError;
use super::checked::*;
use super::raw::{RawConfig, RawTls};
use super::values::Secret;

type Result<T> = std::result::Result<T, ConfigError>;

fn fail<T>(message: impl Into<String>) -> Result<T> {
    Err(ConfigError::new(message))
}

/// The checked form of `raw`.
pub(super) fn check(raw: RawConfig, folder: &Path, variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Config> {
    let timezone = match raw.timezone {
        Some(zone) => time_zone("timezone", &zone)?,
        None => Zone::default(),
    };
    let mut databases = BTreeMap::new();
    for (name, database) in raw.databases.0 {
        let at = format!("database '{name}'");
        endpoint_name(&at, &name)?;
        let url = database_url(&at, &database.url, folder)?;
        let timezone = database.timezone.map_or(Ok(timezone.clone()), |zone| time_zone(&at, &zone))?;
        databases.insert(name, DatabaseConfig { url, timezone });
    }
    let mut peers = BTreeMap::new();
    for (name, peer) in raw.peers.0 {
        let at = format!("peer '{name}'");
        endpoint_name(&at, &name)?;
        if databases.contains_key(&name) {
            return fail(format!("'{name}' is both a database and a peer; rename one of them"));
        }
        let peer = check_peer(&at, peer, folder)?;
        peers.insert(name, peer);
    }
    let defaults = check_defaults(&raw.defaults.unwrap_or_default())?;
    let names: Vec<String> = raw.syncs.0.iter().map(|(name, _)| name.clone()).collect();
    let mut syncs = Vec::new();
    for (name, sync) in raw.syncs.0 {
        syncs.push(check_sync(name, sync, &databases, &peers, &names, defaults)?);
    }
    no_circle(&syncs)?;
    no_circle_of_rows(&syncs)?;
    one_condition(&syncs)?;

    let listen = raw.listen.unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let insecure = raw.insecure.unwrap_or(false);
    let tls = raw.tls.map(|tls| match tls {
        RawTls::SelfSigned => Tls::SelfSigned,
        RawTls::Files(files) => Tls::Files { cert: folder.join(files.cert), key: folder.join(files.key) },
    });
    check_listen(&listen, tls.is_some() || insecure)?;
    let log = raw.log.unwrap_or_default();
    let limits = raw.limits.unwrap_or_default();
    let state = raw.state.unwrap_or_else(|| Secret::new("sqlite:rowferry-state.db"));
    Ok(Config {
        node: node_name(raw.node, variable)?,
        listen,
        insecure,
        tls,
        state: state_url(&state, folder)?,
        log: Log { level: log.level.unwrap_or_default(), format: log.format.unwrap_or_default() },
        limits: Limits {
            body_bytes: limits.body.map_or(256 << 20, |size| size.0),
            requests_per_minute: limits.requests_per_minute.unwrap_or(600),
        },
        api_keys: check_keys(raw.api.unwrap_or_default().keys, &databases)?,
        webhooks: raw.webhooks.unwrap_or_default().into_iter().map(check_webhook).collect::<Result<_>>()?,
        seeds: check_seeds(raw.seeds.unwrap_or_default(), &databases, &names)?,
        folder: folder.to_owned(),
        timezone,
        databases,
        peers,
        defaults,
        syncs,
    })
}

fn node_name(name: Option<String>, variable: &dyn Fn(&str) -> Option<OsString>) -> Result<String> {
    if let Some(name) = name {
        return if name.trim().is_empty() { fail("node is empty; give this node a name") } else { Ok(name) };
    }
    let host = ["HOSTNAME", "COMPUTERNAME"].iter().find_map(|name| variable(name)?.into_string().ok());
    let host = host.or_else(|| std::fs::read_to_string("/etc/hostname").ok());
    let host = host.map(|host| host.trim().to_owned()).filter(|host| !host.is_empty());
    Ok(host.unwrap_or_else(|| "rowferry".to_owned()))
}

/// Only the form: whether the zone exists is found out where times are computed.
fn time_zone(at: &str, zone: &str) -> Result<Zone> {
    Zone::named(zone).or_else(|why| fail(format!("{at}: {why}")))
}

fn positive(at: &str, key: &str, span: Duration) -> Result<Duration> {
    if span.is_zero() { fail(format!("{at}: {key} must be longer than nothing")) } else { Ok(span) }
}

fn at_least_one(at: &str, key: &str, number: u32) -> Result<usize> {
    if number == 0 {
        return fail(format!("{at}: {key} must be at least 1"));
    }
    usize::try_from(number).map_err(|_| ConfigError::new(format!("{at}: {key} is too large")))
}
