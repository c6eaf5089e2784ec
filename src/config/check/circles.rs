//! What several syncs ask of one table, and cannot all have.
//!
//! Each sync that prefers one end says of a table at two databases which of them is right. Followed from database to
//! database, these must not lead back: then every row would be overturned for ever.

use std::collections::BTreeSet;

use super::super::checked::*;
use super::super::raw::{Conflict, Direction, Mode};
use super::{Result, fail};

/// A table at one end.
type Place = (String, String);

/// Whether a sync puts its source before its target; `None`: neither.
type Rule = fn(&Sync, &TableMapping) -> Option<bool>;

/// One end of a table is preferred to the other.
struct Arrow<'a> {
    from: Place,
    to: Place,
    sync: &'a str,
}

/// Refuses circles of preferences, `keep-existing` both ways and `mirror` both ways.
pub(super) fn no_circle_of_rows(syncs: &[Sync]) -> Result<()> {
    let rules: [(Rule, &str); 3] = [
        (
            preferred,
            "conflict prefers each of them to the next, in a circle, so no row could come to rest; take one preference out",
        ),
        (kept, "conflict: keep-existing goes round, so rows that differ would differ for ever; keep it one way"),
        (
            mirrored,
            "mode: mirror goes round, so each would delete what only another has; let one of them be the source",
        ),
    ];
    for (rule, why) in rules {
        if let Some((table, names)) = circle(&arrows(syncs, rule)) {
            let names: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
            return fail(format!("the syncs {} meet at table '{table}': {why}", names.join(", ")));
        }
    }
    Ok(())
}

/// Whether the sync's source is preferred to its target; `None`: neither is.
fn preferred(sync: &Sync, table: &TableMapping) -> Option<bool> {
    match table.conflict {
        _ if sync.mode != Mode::Incremental => None,
        Conflict::SourceWins => Some(true),
        Conflict::TargetWins => Some(false),
        _ => None,
    }
}

fn kept(sync: &Sync, table: &TableMapping) -> Option<bool> {
    (table.conflict == Conflict::KeepExisting).then_some(sync.direction != Direction::Pull)
}

fn mirrored(sync: &Sync, _: &TableMapping) -> Option<bool> {
    (sync.mode == Mode::Mirror).then_some(sync.direction != Direction::Pull)
}

fn arrows(syncs: &[Sync], rule: Rule) -> Vec<Arrow<'_>> {
    let syncs: Vec<&Sync> = syncs.iter().filter(|sync| sync.enabled).collect();
    // A pattern stands for every table that the file names and for those that it does not.
    let named: BTreeSet<&str> =
        syncs.iter().flat_map(|sync| &sync.tables).flat_map(|t| [t.source.as_str(), t.target.as_str()]).collect();
    let mut arrows = Vec::new();
    for sync in syncs {
        let target = match &sync.target {
            Endpoint::Database(name) => name.clone(),
            Endpoint::Peer { peer, database } => format!("{peer}/{}", database.as_deref().unwrap_or_default()),
        };
        for table in &sync.tables {
            let Some(source_first) = rule(sync, table) else { continue };
            let names: Vec<(&str, &str)> = if table.is_pattern() {
                named.iter().filter(|name| matches(&table.source, name)).map(|name| (*name, *name)).collect()
            } else {
                vec![(table.source.as_str(), table.target.as_str())]
            };
            for (at_source, at_target) in names {
                let ends = [(sync.source.clone(), at_source.to_owned()), (target.clone(), at_target.to_owned())];
                let [one, other] = ends;
                let (from, to) = if source_first { (one, other) } else { (other, one) };
                arrows.push(Arrow { from, to, sync: &sync.name });
            }
        }
    }
    arrows
}

/// Whether a pattern in which `*` stands for anything matches.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// A circle: the table where it was found, and the syncs that make it.
fn circle<'a>(arrows: &[Arrow<'a>]) -> Option<(String, BTreeSet<&'a str>)> {
    // Takes away, again and again, what leads nowhere or comes from nowhere; what is left are circles.
    let mut rest: Vec<&Arrow<'a>> = arrows.iter().collect();
    loop {
        let (from, to): (BTreeSet<&Place>, BTreeSet<&Place>) = rest.iter().map(|a| (&a.from, &a.to)).unzip();
        let before = rest.len();
        rest.retain(|arrow| from.contains(&arrow.to) && to.contains(&arrow.from));
        if rest.len() == before {
            break;
        }
    }
    rest.first().map(|arrow| (arrow.from.1.clone(), rest.iter().map(|arrow| arrow.sync).collect()))
}
