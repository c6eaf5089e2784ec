//! From the raw form to the checked one. Each mistake is one sentence that names its place and what
//! to do.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use super::checked::*;
use super::raw::{
    Conflict, Direction, Event, FirstRun, Mode, RawConfig, RawDefaults, RawKey, RawKeyless, RawPeer, RawSeed, RawSeeds,
    RawSync, RawTable, RawTls, RawWebhook,
};
use super::values::{Every, Network, Secret};
use super::{ConfigError, suggestion};

type Result<T> = std::result::Result<T, ConfigError>;

fn fail<T>(message: impl Into<String>) -> Result<T> {
    Err(ConfigError::new(message))
}

/// The checked form of `raw`.
pub(super) fn check(raw: RawConfig, folder: &Path, variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Config> {
    let timezone = match raw.timezone {
        Some(zone) => time_zone("timezone", zone)?,
        None => "UTC".to_owned(),
    };
    let mut databases = BTreeMap::new();
    for (name, database) in raw.databases.0 {
        let at = format!("database '{name}'");
        endpoint_name(&at, &name)?;
        let url = database_url(&at, &database.url, folder)?;
        let timezone = database.timezone.map_or(Ok(timezone.clone()), |zone| time_zone(&at, zone))?;
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

fn endpoint_name(at: &str, name: &str) -> Result<()> {
    if name.is_empty() || name.contains(['/', ':']) || name.contains(char::is_whitespace) {
        return fail(format!("{at}: a name has at least one character and no '/', ':' or space; rename it"));
    }
    Ok(())
}

/// Only the form: whether the zone exists is found out where times are computed.
fn time_zone(at: &str, zone: String) -> Result<String> {
    let form = |c: char| c.is_ascii_alphanumeric() || "/_+-:".contains(c);
    if zone.is_empty() || !zone.chars().all(form) {
        return fail(format!("{at}: '{zone}' is no time zone; write one such as UTC or Africa/Lagos"));
    }
    Ok(zone)
}

fn database_url(at: &str, url: &Secret, folder: &Path) -> Result<Secret> {
    let text = url.expose();
    let scheme = text.split(':').next().unwrap_or_default();
    match scheme {
        "sqlite" => Ok(Secret::new(file_url(at, text, folder)?)),
        "mysql" | "mariadb" | "postgres" | "postgresql" => match url::Url::parse(text) {
            Ok(parsed) if parsed.has_host() => Ok(url.clone()),
            // libpq's form for sockets: no host, or several, is left to the engine.
            _ if scheme.starts_with("postgres") && text.contains("://") => Ok(url.clone()),
            Ok(_) => fail(format!("{at}: its url names no host; write {scheme}://USER:PASSWORD@HOST/DATABASE")),
            Err(error) => fail(format!(
                "{at}: its url cannot be read ({error}); write {scheme}://USER:PASSWORD@HOST/DATABASE and \
                 percent-encode special characters of the password"
            )),
        },
        _ => fail(format!("{at}: its url must begin with sqlite:, mysql://, mariadb://, postgres:// or postgresql://")),
    }
}

/// The URL of a file, whose path is absolute; the query stays.
fn file_url(at: &str, url: &str, folder: &Path) -> Result<String> {
    let rest = url.strip_prefix("sqlite:").unwrap_or(url);
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let (path, query) = rest.find('?').map_or((rest, ""), |at| rest.split_at(at));
    if path.is_empty() {
        return fail(format!("{at}: its url names no file; write sqlite:PATH"));
    }
    if path == ":memory:" {
        return fail(format!("{at}: a database in memory is gone when its connection closes; write sqlite:PATH"));
    }
    Ok(format!("sqlite:{}{query}", folder.join(path).display()))
}

fn state_url(url: &Secret, folder: &Path) -> Result<Secret> {
    match url.expose().split(':').next() {
        Some("sqlite" | "postgres" | "postgresql") => database_url("state", url, folder),
        _ => fail("state must be sqlite:PATH or postgres://…"),
    }
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

fn check_listen(listen: &str, guarded: bool) -> Result<()> {
    let parts = listen.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    let Some((host, _)) = parts.filter(|(host, _)| !host.is_empty()) else {
        return fail(format!("listen: '{listen}' is no address with a port; write one such as 127.0.0.1:8080"));
    };
    if !guarded && !is_loopback(host) {
        return fail(format!(
            "listen: {listen} is reached from elsewhere, so it needs tls (cert and key, or self-signed); \
             or write insecure: true where something in front does that"
        ));
    }
    Ok(())
}

fn check_peer(at: &str, raw: RawPeer, folder: &Path) -> Result<Peer> {
    let insecure = raw.insecure.unwrap_or(false);
    let url = match url::Url::parse(&raw.url) {
        Ok(url) if url.has_host() => url,
        _ => return fail(format!("{at}: its url cannot be read; write https://HOST")),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return fail(format!("{at}: a url with a password shows in logs; use api_key"));
    }
    match url.scheme() {
        "https" => {}
        "http" if insecure || url.host_str().is_some_and(is_loopback) => {}
        "http" => {
            return fail(format!("{at}: http shows keys and rows to the network; write https://, or insecure: true"));
        }
        _ => return fail(format!("{at}: its url must begin with https:// (or http:// on loopback)")),
    }
    let pin = raw.pin.map(|pin| check_pin(at, &pin)).transpose()?;
    Ok(Peer {
        url: raw.url.trim_end_matches('/').to_owned(),
        api_key: raw.api_key,
        timeout: raw.timeout.map_or(Ok(Duration::from_secs(30)), |span| positive(at, "timeout", span.0))?,
        ca: raw.ca.map(|file| folder.join(file)),
        pin,
        insecure,
        kind: raw.kind.unwrap_or_default(),
    })
}

fn check_pin(at: &str, pin: &str) -> Result<String> {
    let digits: String = pin.trim_start_matches("sha256:").chars().filter(|c| *c != ':').collect();
    if digits.len() != 64 || !digits.chars().all(|c| c.is_ascii_hexdigit()) {
        return fail(format!("{at}: pin is the SHA-256 of the certificate, 64 hexadecimal digits"));
    }
    Ok(digits.to_ascii_lowercase())
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

fn check_defaults(raw: &RawDefaults) -> Result<Defaults> {
    let at = "defaults";
    let own = Defaults::default();
    Ok(Defaults {
        batch_size: raw.batch_size.map_or(Ok(own.batch_size), |n| at_least_one(at, "batch_size", n))?,
        concurrency: raw.concurrency.map_or(Ok(own.concurrency), |n| at_least_one(at, "concurrency", n))?,
        retries: raw.retries.unwrap_or(own.retries),
        retry_delay: raw.retry_delay.map_or(own.retry_delay, |span| span.0),
        job_timeout: raw.job_timeout.map_or(Ok(own.job_timeout), |span| positive(at, "job_timeout", span.0))?,
        keep_history: raw.keep_history.map_or(own.keep_history, |span| span.0),
        keep_tombstones: raw
            .keep_tombstones
            .map_or(Ok(own.keep_tombstones), |span| positive(at, "keep_tombstones", span.0))?,
    })
}

fn check_sync(
    name: String,
    raw: RawSync,
    databases: &BTreeMap<String, DatabaseConfig>,
    peers: &BTreeMap<String, Peer>,
    names: &[String],
    defaults: Defaults,
) -> Result<Sync> {
    let at = format!("sync '{name}'");
    if name.trim().is_empty() {
        return fail("a sync needs a name");
    }
    check_source(&at, &raw.source, databases, peers)?;
    let target = check_target(&at, &raw.target, databases, peers)?;
    if target == Endpoint::Database(raw.source.clone()) {
        return fail(format!("{at}: source and target are both '{}'; name two databases", raw.source));
    }
    let direction = raw.direction.unwrap_or_default();
    let mode = raw.mode.unwrap_or_default();
    let both_ways = direction == Direction::Bidirectional;
    if both_ways && mode != Mode::Incremental {
        let mode = if mode == Mode::Full { "full" } else { "mirror" };
        return fail(format!(
            "{at}: mode {mode} goes one way only; write direction: push or pull, or mode: incremental"
        ));
    }
    let conflict = raw.conflict.unwrap_or_default();
    let first_run = raw.first_run.unwrap_or(match direction {
        Direction::Push => FirstRun::SourceWins,
        Direction::Pull => FirstRun::TargetWins,
        Direction::Bidirectional => FirstRun::Manual,
    });
    let after = raw.after.unwrap_or_default();
    for other in &after {
        known_sync(&format!("{at}: after"), other, names)?;
    }
    let when = match (raw.schedule, raw.every) {
        (Some(_), Some(_)) => return fail(format!("{at} has both schedule and every; keep one")),
        (Some(cron), None) => When::Cron(check_cron(&at, &cron)?),
        (None, Some(Every::Live)) => When::Live,
        (None, Some(Every::Interval(pause))) => When::Interval(positive(&at, "every", pause)?),
        (None, None) => When::Asked,
    };
    if when == When::Live && mode != Mode::Incremental {
        return fail(format!("{at}: every: live follows changes, so it needs mode: incremental"));
    }
    let settings = Defaults {
        batch_size: raw.batch_size.map_or(Ok(defaults.batch_size), |n| at_least_one(&at, "batch_size", n))?,
        concurrency: raw.concurrency.map_or(Ok(defaults.concurrency), |n| at_least_one(&at, "concurrency", n))?,
        retries: raw.retries.unwrap_or(defaults.retries),
        retry_delay: raw.retry_delay.map_or(defaults.retry_delay, |span| span.0),
        job_timeout: raw.job_timeout.map_or(Ok(defaults.job_timeout), |span| positive(&at, "job_timeout", span.0))?,
        ..defaults
    };
    one_way_policy(&at, conflict, both_ways)?;
    let tables = check_tables(&at, raw.tables.unwrap_or_default(), conflict, both_ways)?;
    Ok(Sync {
        source: raw.source,
        target,
        enabled: raw.enabled.unwrap_or(true),
        direction,
        mode,
        capture: raw.capture.unwrap_or_default(),
        conflict,
        first_run,
        create: raw.create.unwrap_or(true),
        allow_loss: raw.allow_loss.unwrap_or(false),
        after,
        when,
        settings,
        tables,
        name,
    })
}

fn check_source(
    at: &str,
    source: &str,
    databases: &BTreeMap<String, DatabaseConfig>,
    peers: &BTreeMap<String, Peer>,
) -> Result<()> {
    if databases.contains_key(source) {
        return Ok(());
    }
    if peers.contains_key(source.split('/').next().unwrap_or(source)) {
        return fail(format!(
            "{at}: its source '{source}' is a peer; make it the target and write direction: pull to receive its rows"
        ));
    }
    let hint = suggestion(source, databases.keys().map(String::as_str));
    fail(format!("{at}: its source '{source}' is not under databases; {hint}"))
}

fn check_target(
    at: &str,
    target: &str,
    databases: &BTreeMap<String, DatabaseConfig>,
    peers: &BTreeMap<String, Peer>,
) -> Result<Endpoint> {
    if databases.contains_key(target) {
        return Ok(Endpoint::Database(target.to_owned()));
    }
    let (peer, database) = target.split_once('/').map_or((target, None), |(peer, database)| (peer, Some(database)));
    if !peers.contains_key(peer) {
        let known = databases.keys().chain(peers.keys()).map(String::as_str);
        let hint = suggestion(peer, known);
        return fail(format!("{at}: its target '{target}' is neither under databases nor under peers; {hint}"));
    }
    if database == Some("") {
        return fail(format!("{at}: its target '{target}' names no database after the '/'"));
    }
    Ok(Endpoint::Peer { peer: peer.to_owned(), database: database.map(str::to_owned) })
}

fn known_sync(at: &str, name: &str, names: &[String]) -> Result<()> {
    if names.iter().any(|known| known == name) {
        return Ok(());
    }
    fail(format!("{at}: there is no sync '{name}'; {}", suggestion(name, names.iter().map(String::as_str))))
}

fn one_way_policy(at: &str, conflict: Conflict, both_ways: bool) -> Result<()> {
    if both_ways && conflict == Conflict::KeepExisting {
        return fail(format!(
            "{at}: conflict keep-existing goes one way only; write another policy, or direction: push"
        ));
    }
    Ok(())
}

/// Only the form: five fields (six with seconds), or a name such as `@hourly`.
fn check_cron(at: &str, cron: &str) -> Result<String> {
    let fields: Vec<&str> = cron.split_whitespace().collect();
    let form = |field: &&str| field.chars().all(|c| c.is_ascii_alphanumeric() || "*/,-#?".contains(c));
    let named = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
    let good = named.contains(&cron.trim()) || (matches!(fields.len(), 5 | 6) && fields.iter().all(form));
    if good {
        return Ok(cron.trim().to_owned());
    }
    fail(format!(
        "{at}: schedule '{cron}' is no cron expression; write minute, hour, day, month and weekday, \
         such as \"*/15 * * * *\", or use every: 15m"
    ))
}

fn check_tables(at: &str, raw: Vec<RawTable>, conflict: Conflict, both_ways: bool) -> Result<Vec<TableMapping>> {
    if raw.is_empty() {
        return fail(format!("{at} names no table; list them under tables, or write tables: ['*'] for all"));
    }
    let tables =
        raw.into_iter().map(|table| check_table(at, table, conflict, both_ways)).collect::<Result<Vec<_>>>()?;
    let (mut sources, mut targets) = (BTreeSet::new(), BTreeSet::new());
    for table in &tables {
        if !sources.insert(&table.source) {
            return fail(format!("{at} has the table '{}' twice; keep one entry", table.source));
        }
        if !targets.insert(&table.target) {
            return fail(format!("{at} has two tables that go to '{}'; give one another target", table.target));
        }
    }
    Ok(tables)
}

fn check_table(at: &str, table: RawTable, conflict: Conflict, both_ways: bool) -> Result<TableMapping> {
    let raw = table.0;
    let source = raw.source;
    if source.trim().is_empty() {
        return fail(format!("{at} has a table without a name; name it or take the entry out"));
    }
    let at = format!("{at}, table '{source}'");
    let target = raw.target.unwrap_or_else(|| source.clone());
    if target.trim().is_empty() {
        return fail(format!("{at}: its target is empty; name it or leave it out"));
    }
    if source.contains('*') && target != source {
        return fail(format!("{at}: a pattern keeps the names of its tables; leave target out"));
    }
    for (key, list) in [("columns", &raw.columns), ("exclude", &raw.exclude), ("key", &raw.key)] {
        let Some(list) = list else { continue };
        if list.is_empty() || list.iter().any(|column| column.trim().is_empty()) {
            return fail(format!("{at}: {key} is empty or has an empty name; name columns or leave it out"));
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = list.iter().find(|column| !seen.insert(*column)) {
            return fail(format!("{at}: {key} has '{twice}' twice; keep one"));
        }
    }
    let exclude = raw.exclude.unwrap_or_default();
    if let Some(both) = raw.columns.iter().flatten().find(|column| exclude.contains(column)) {
        return fail(format!("{at}: '{both}' is under columns and under exclude; keep it in one of them"));
    }
    if let Some(key) = raw.key.iter().flatten().find(|column| exclude.contains(column)) {
        return fail(format!("{at}: '{key}' is part of the key and excluded; rows could not be told apart without it"));
    }
    let rename = raw.rename.unwrap_or_default();
    let mut seen = BTreeSet::new();
    if let Some(twice) = rename.values().find(|column| !seen.insert(*column)) {
        return fail(format!("{at}: two columns are renamed to '{twice}'; give one another name"));
    }
    let fill = raw.fill.unwrap_or_default();
    if let Some((column, _)) = fill.iter().find(|(_, value)| value.is_array() || value.is_object()) {
        return fail(format!("{at}: fill of '{column}' must be text, a number, true, false or null"));
    }
    if raw.filter.as_deref().is_some_and(|filter| filter.trim().is_empty()) {
        return fail(format!("{at}: where is empty; write a condition or leave it out"));
    }
    let conflict = raw.conflict.unwrap_or(conflict);
    one_way_policy(&at, conflict, both_ways)?;
    let timestamp = match raw.timestamp {
        None => StampColumn::Auto,
        Some(none) if none == "none" => StampColumn::None,
        Some(column) => StampColumn::Named(column),
    };
    Ok(TableMapping {
        source,
        target,
        columns: raw.columns,
        exclude,
        rename,
        fill,
        filter: raw.filter,
        key: raw.key,
        ids: raw.ids,
        timestamp,
        soft_delete: raw.soft_delete,
        conflict,
    })
}

/// Refuses syncs that wait for each other. Takes away, again and again, those that wait for none
/// of the rest; what cannot be taken away is a circle or waits for one.
fn no_circle(syncs: &[Sync]) -> Result<()> {
    let mut rest: Vec<&Sync> = syncs.iter().collect();
    loop {
        let before = rest.len();
        let waiting: BTreeSet<&str> = rest.iter().map(|sync| sync.name.as_str()).collect();
        rest.retain(|sync| sync.after.iter().any(|name| waiting.contains(name.as_str())));
        if rest.is_empty() {
            return Ok(());
        }
        if rest.len() == before {
            let names: Vec<String> = rest.iter().map(|sync| format!("'{}'", sync.name)).collect();
            return fail(format!("after goes round in a circle among the syncs {}; take one out", names.join(", ")));
        }
    }
}

fn networks(at: &str, texts: &[String]) -> Result<Vec<Network>> {
    let parse = |text: &String| text.parse().map_err(|error| ConfigError::new(format!("{at}: {error}")));
    texts.iter().map(parse).collect()
}

fn check_keys(raw: Vec<RawKey>, databases: &BTreeMap<String, DatabaseConfig>) -> Result<Vec<ApiKey>> {
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

fn check_webhook(raw: RawWebhook) -> Result<Webhook> {
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

fn check_seeds(raw: RawSeeds, databases: &BTreeMap<String, DatabaseConfig>, names: &[String]) -> Result<Seeds> {
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
