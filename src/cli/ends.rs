//! The databases at the ends of incremental syncs, and what is captured there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{connect, sync};
use crate::config::{Capture, Config, Conflict, Direction, Endpoint, Mode, Sync, TableMapping};
use crate::engine::{Database, Error, ErrorKind, Result};
use crate::model::TableName;
use crate::pipeline::matching_tables;

/// A database as the end of incremental syncs.
pub(crate) struct End {
    /// Its name in the config.
    pub(crate) name: String,
    pub(crate) database: Arc<dyn Database>,
    /// The tables that the syncs want captured.
    pub(crate) tables: BTreeSet<TableName>,
    /// Those of them that a sync merges column by column.
    pub(crate) merged: BTreeSet<TableName>,
    /// Tables that they name and that are not there yet.
    pub(crate) absent: BTreeSet<String>,
}

impl End {
    fn new(name: &str, database: Arc<dyn Database>) -> Self {
        Self {
            name: name.to_owned(),
            database,
            tables: BTreeSet::new(),
            merged: BTreeSet::new(),
            absent: BTreeSet::new(),
        }
    }
}

/// The incremental syncs of these names, or all that are enabled.
pub(crate) fn incremental<'a>(config: &'a Config, names: &[String]) -> Result<Vec<&'a Sync>> {
    let mut syncs = sync::chosen(config, names)?;
    if let Some(other) = syncs.iter().find(|s| !names.is_empty() && s.mode != Mode::Incremental) {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("sync {} captures nothing: only syncs of mode: incremental do", other.name),
        ));
    }
    syncs.retain(|s| s.mode == Mode::Incremental);
    if syncs.is_empty() {
        return Err(Error::new(ErrorKind::Usage, "the config has no enabled sync of mode: incremental"));
    }
    syncs.iter().try_for_each(|sync| notices(sync))?;
    Ok(syncs)
}

/// Refuses the ways to notice changes that do not exist yet, or not here.
pub(crate) fn notices(sync: &Sync) -> Result<()> {
    let refused = match (sync.capture, sync.direction, &sync.target) {
        (Capture::Log, ..) => "capture: log is not supported yet; write capture: trigger or leave it out",
        (Capture::Timestamp, Direction::Bidirectional, _) => {
            "capture: timestamp goes one way, since nothing is kept where it reads; write direction: push or pull, or \
             capture: trigger"
        }
        (Capture::Timestamp, Direction::Pull, Endpoint::Peer { .. }) => {
            "capture: timestamp of a peer's database is not supported yet; write capture: trigger, or let the peer push"
        }
        (Capture::Timestamp, ..) if sync.tables.iter().any(|table| table.conflict == Conflict::MergeColumns) => {
            "capture: timestamp does not say which columns were written, so there is nothing to merge by; write capture: \
             trigger, or another conflict than merge-columns"
        }
        _ => return Ok(()),
    };
    Err(Error::new(ErrorKind::Unsupported, format!("sync {}: {refused}", sync.name)))
}

/// The database that a sync only reads, without putting anything into it.
pub(crate) fn only_read(sync: &Sync) -> Option<&str> {
    match (&sync.target, sync.direction) {
        _ if sync.capture != Capture::Timestamp || sync.mode != Mode::Incremental => None,
        (_, Direction::Push) => Some(&sync.source),
        (Endpoint::Database(target), _) => Some(target),
        (Endpoint::Peer { .. }, _) => None,
    }
}

/// Names of the databases of this config at the ends of a sync.
pub(crate) fn names(sync: &Sync) -> impl Iterator<Item = &str> {
    let target = match &sync.target {
        Endpoint::Database(name) => Some(name.as_str()),
        Endpoint::Peer { .. } => None,
    };
    std::iter::once(sync.source.as_str()).chain(target)
}

/// The databases that may hold records of syncs: all that the config names, also those of syncs that it has no more.
/// One whose file is still to be made has none.
pub(crate) async fn recording(config: &Config) -> Result<Vec<(&str, Arc<dyn Database>)>> {
    let mut databases = Vec::new();
    for (name, database) in &config.databases {
        if database.file().is_none_or(std::path::Path::exists) {
            databases.push((name.as_str(), connect::named(config, name, false).await?));
        }
    }
    Ok(databases)
}

/// The sync that recorded something.
pub(crate) fn recorded_by<'a>(config: &'a Config, sync: &str) -> Result<&'a Sync> {
    config.sync(sync).ok_or_else(|| {
        let sentence =
            format!("this is a record of sync {sync}, which the config has no more; put the sync back first");
        Error::new(ErrorKind::Usage, sentence)
    })
}

/// The databases at the ends of these syncs, by name.
pub(crate) async fn ends(config: &Config, syncs: &[&Sync]) -> Result<Vec<End>> {
    let mut ends: BTreeMap<&str, End> = BTreeMap::new();
    let mut captured: BTreeSet<&str> = BTreeSet::new();
    for sync in syncs {
        // A file that the sync would make counts as an empty one.
        for (name, from) in names(sync).zip([Direction::Push, Direction::Pull]) {
            if !ends.contains_key(name) {
                ends.insert(name, End::new(name, sync::at_hand(config, sync, name, from).await?));
            }
        }
        let only_read = only_read(sync);
        captured.extend(names(sync).filter(|name| Some(*name) != only_read));
        let before = only_read.and_then(|name| ends.get(name)).map(|end| (end.tables.clone(), end.absent.clone()));
        for mapping in &sync.tables {
            let found = add(&mut ends, &sync.source, &mapping.source, &[]).await?;
            let Endpoint::Database(target) = &sync.target else {
                merged(&mut ends, mapping, &sync.source, found);
                continue;
            };
            let there = match mapping.is_pattern() {
                true if found.is_empty() => {
                    let there = add(&mut ends, target, &mapping.target, &[]).await?;
                    add(&mut ends, &sync.source, "", &there).await?;
                    if !there.is_empty() {
                        for end in ends.values_mut() {
                            end.absent.remove(&mapping.source);
                        }
                    }
                    there
                }
                true => add(&mut ends, target, "", &found).await?,
                false => add(&mut ends, target, &mapping.target, &[]).await?,
            };
            if found.is_empty() && there.is_empty() {
                return Err(nowhere(sync, mapping));
            }
            merged(&mut ends, mapping, &sync.source, found);
            merged(&mut ends, mapping, target, there);
        }
        if let Some(end) = only_read.and_then(|name| ends.get_mut(name))
            && let Some((tables, absent)) = before
        {
            (end.tables, end.absent) = (tables, absent);
        }
    }
    ends.retain(|name, _| captured.contains(name));
    Ok(ends.into_values().collect())
}

/// Notes the tables of a mapping that are merged column by column.
fn merged(ends: &mut BTreeMap<&str, End>, mapping: &TableMapping, name: &str, tables: Vec<TableName>) {
    if let Some(end) = ends.get_mut(name).filter(|_| mapping.conflict == Conflict::MergeColumns) {
        end.merged.extend(tables);
    }
}

/// A database of which nothing is wanted.
pub(crate) async fn end(config: &Config, name: &str) -> Result<End> {
    Ok(End::new(name, connect::named(config, name, false).await?))
}

/// Adds the tables that match, or those of these names, to what is wanted of a database; those that are there.
async fn add(ends: &mut BTreeMap<&str, End>, name: &str, pattern: &str, same: &[TableName]) -> Result<Vec<TableName>> {
    let Some(end) = ends.get_mut(name) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    if pattern.is_empty() {
        for table in same {
            match end.database.describe(table).await? {
                Some(table) => found.push(table.name),
                None => drop(end.absent.insert(table.to_string())),
            }
        }
    } else {
        let own = end.database.tables(None).await?;
        found = matching_tables(end.database.as_ref(), &own, pattern).await?;
        if found.is_empty() {
            end.absent.insert(pattern.to_owned());
        }
    }
    end.tables.extend(found.iter().cloned());
    Ok(found)
}

fn nowhere(sync: &Sync, mapping: &TableMapping) -> Error {
    let what = if mapping.is_pattern() { "no table that matches" } else { "no table" };
    Error::new(
        ErrorKind::SchemaMismatch,
        format!("sync {}: there is {what} {} at either end", sync.name, mapping.source),
    )
}
