//! Syncs with their tables, and what they have in common.

use std::collections::{BTreeMap, BTreeSet};

use super::super::checked::*;
use super::super::raw::{Conflict, Direction, FirstRun, Mode, RawDefaults, RawSync, RawTable};
use super::super::suggestion;
use super::super::values::Every;
use super::{Result, at_least_one, fail, positive};

pub(super) fn check_defaults(raw: &RawDefaults) -> Result<Defaults> {
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

pub(super) fn check_sync(
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
    let keeps = conflict == Conflict::KeepExisting;
    let first_run = raw.first_run.unwrap_or(match direction {
        Direction::Push if keeps => FirstRun::TargetWins,
        Direction::Pull if keeps => FirstRun::SourceWins,
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
    if mode == Mode::Incremental {
        tables.iter().try_for_each(|table| filter_is_synced(&at, table))?;
    }
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

pub(super) fn known_sync(at: &str, name: &str, names: &[String]) -> Result<()> {
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

/// Refuses a filter on a column that is left out: whether a row that changed belongs at the other end could not be told
/// there.
fn filter_is_synced(at: &str, table: &TableMapping) -> Result<()> {
    let Some(filter) = &table.filter else { return Ok(()) };
    let unsynced = table.exclude.iter().find(|column| mentions(filter, column));
    match unsynced {
        Some(column) => fail(format!(
            "{at}, table '{}': where asks for '{column}', which exclude leaves out; sync that column too, or filter by another",
            table.source
        )),
        None => Ok(()),
    }
}

/// Whether a condition names a column: as a word, bare or quoted, outside of its texts.
pub(super) fn mentions(filter: &str, column: &str) -> bool {
    let outside: String =
        filter.split('\'').step_by(2).flat_map(|part| [part, " ? "]).collect::<String>().to_lowercase();
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    let column = column.to_lowercase();
    outside
        .match_indices(&column)
        .any(|(at, found)| !outside[..at].ends_with(word) && !outside[at + found.len()..].starts_with(word))
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

pub(super) fn check_tables(
    at: &str,
    raw: Vec<RawTable>,
    conflict: Conflict,
    both_ways: bool,
) -> Result<Vec<TableMapping>> {
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

/// Refuses two syncs that would bring different rows of one table to one place: what leaves one condition is what the
/// other has brought.
pub(super) fn one_condition(syncs: &[Sync]) -> Result<()> {
    let incremental: Vec<&Sync> = syncs.iter().filter(|sync| sync.mode == Mode::Incremental).collect();
    let is_part = |table: &TableMapping| table.filter.is_some() || table.soft_delete.is_some();
    for (at, one) in incremental.iter().enumerate() {
        for other in &incremental[..at] {
            if (&one.source, &one.target) != (&other.source, &other.target) {
                continue;
            }
            let both = one.tables.iter().flat_map(|a| other.tables.iter().map(move |b| (a, b)));
            let mut clash = both.filter(|(a, b)| a.target == b.target && (is_part(a) || is_part(b)));
            if let Some((table, _)) = clash.next() {
                return fail(format!(
                    "syncs '{}' and '{}' both bring '{}' from '{}', at least one of them by a condition; make them one, \
                     with both conditions joined by OR",
                    other.name, one.name, table.target, one.source
                ));
            }
        }
    }
    Ok(())
}

/// Refuses syncs that wait for each other. Takes away, again and again, those that wait for none
/// of the rest; what cannot be taken away is a circle or waits for one.
pub(super) fn no_circle(syncs: &[Sync]) -> Result<()> {
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
