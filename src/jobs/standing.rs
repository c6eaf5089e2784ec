//! How syncs stand, honestly: what is pending is counted in the logs and versions of the databases themselves.

use serde::{Deserialize, Serialize};

use super::Databases;
use crate::config::{Config, Direction, Endpoint, Mode, Sync};
use crate::engine::{Error, ErrorKind, Result, WriteOptions};
use crate::model::{Cell, Version};
use crate::pipeline::matches_pattern;
use crate::site::{self, Book, Site};
use crate::state::{Kind, State};

/// A sync whose changes wait longer is behind.
const BEHIND_MS: i64 = 60_000;
/// Changes of a table whose age is looked at: the oldest are among the first.
const AGES_MAX: usize = 1000;

/// What the node notes of a sync after its rounds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncRecord {
    /// When a round last succeeded; RFC 3339.
    pub success: Option<String>,
    /// Why the last round did not.
    pub error: Option<String>,
    /// Since when there was no success.
    pub since: Option<String>,
    /// Whether an end could not be reached.
    pub offline: bool,
    /// When it is tried again.
    pub next_try: Option<String>,
}

impl SyncRecord {
    pub(super) fn succeeded(&mut self) {
        *self = Self { success: Some(now()), ..Self::default() };
    }

    /// Notes a failure; whether it is another than before.
    pub(super) fn failed(&mut self, error: &Error, wait: std::time::Duration) -> bool {
        let other = self.error.as_deref() != Some(error.message());
        self.error = Some(error.message().to_owned());
        self.offline = error.kind == ErrorKind::Unreachable;
        self.since.get_or_insert_with(now);
        let next = jiff::Timestamp::now() + jiff::SignedDuration::try_from(wait).unwrap_or_default();
        self.next_try = Some(seconds(next));
        other
    }
}

fn now() -> String {
    seconds(jiff::Timestamp::now())
}

fn seconds(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The condition of a sync, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// Nothing is pending anywhere.
    InSync,
    /// Changes are on their way.
    Pending,
    /// Changes wait for more than a minute, or rows stand in quarantine or in open conflicts.
    Behind,
    /// An end cannot be reached.
    Offline,
    /// It has not run yet.
    Waiting,
    /// Its last round failed.
    Failed,
}

/// How a sync stands.
#[derive(Debug, Clone, Serialize)]
pub struct SyncStanding {
    /// The sync.
    pub sync: String,
    /// In a word.
    pub state: Condition,
    /// Changes that have not arrived at the other end yet; `None` where they cannot be counted now.
    pub pending: Option<u64>,
    /// How long the oldest of them has waited.
    pub lag_ms: Option<i64>,
    /// Rows that an end refused.
    pub quarantined: u64,
    /// Conflicts that a person has to settle.
    pub open_conflicts: u64,
    /// When a round last succeeded.
    pub last_success: Option<String>,
    /// Why the last round did not.
    pub last_error: Option<String>,
    /// Since when there was no success.
    pub since: Option<String>,
    /// When it is tried again.
    pub next_try: Option<String>,
}

/// How the enabled syncs of a configuration stand, in the order of the file.
///
/// # Errors
/// What the node's own store says. A database that is away is told in the standing.
pub async fn standing(config: &Config, state: &State, databases: &Databases) -> Result<Vec<SyncStanding>> {
    let mut all = Vec::new();
    for sync in config.syncs.iter().filter(|sync| sync.enabled) {
        let record: Option<SyncRecord> = state.get(Kind::Sync, &sync.name).await?;
        let counted = count(config, sync, databases).await;
        all.push(told(sync, record, counted));
    }
    Ok(all)
}

/// What stands in the databases of a sync.
#[derive(Debug, Default)]
struct Counted {
    /// Some table was never read by the other end.
    unread: bool,
    pending: u64,
    oldest: Option<i64>,
    now: i64,
    quarantined: u64,
    open: u64,
}

fn told(sync: &Sync, record: Option<SyncRecord>, counted: Result<Option<Counted>>) -> SyncStanding {
    let ran = record.is_some();
    let record = record.unwrap_or_default();
    let mut standing = SyncStanding {
        sync: sync.name.clone(),
        state: Condition::Waiting,
        pending: None,
        lag_ms: None,
        quarantined: 0,
        open_conflicts: 0,
        last_success: record.success,
        last_error: record.error,
        since: record.since,
        next_try: record.next_try,
    };
    match counted {
        Ok(Some(counted)) => {
            standing.pending = Some(counted.pending);
            standing.lag_ms = Some(counted.oldest.map_or(0, |at| ((counted.now - at) / 1000).max(0)));
            standing.quarantined = counted.quarantined;
            standing.open_conflicts = counted.open;
            let late = standing.lag_ms.is_some_and(|lag| lag > BEHIND_MS);
            let set_aside = counted.quarantined + counted.open > 0;
            standing.state = match () {
                () if record.offline => Condition::Offline,
                () if standing.last_error.is_some() => Condition::Failed,
                () if counted.unread => Condition::Waiting,
                () if late || set_aside => Condition::Behind,
                () if counted.pending > 0 => Condition::Pending,
                () => Condition::InSync,
            };
        }
        // What has no log is in step as far as its last run went, and nobody knows since.
        Ok(None) => {
            standing.state = match () {
                () if record.offline => Condition::Offline,
                () if standing.last_error.is_some() => Condition::Failed,
                () if ran => Condition::Pending,
                () => Condition::Waiting,
            };
        }
        Err(e) => {
            standing.state = if e.kind == ErrorKind::Unreachable { Condition::Offline } else { Condition::Failed };
            standing.last_error.get_or_insert_with(|| e.message().to_owned());
        }
    }
    standing
}

/// Counts what is pending in both directions of a sync between two databases; `None` where no log tells.
async fn count(config: &Config, sync: &Sync, databases: &Databases) -> Result<Option<Counted>> {
    let Endpoint::Database(other) = &sync.target else { return Ok(None) };
    if sync.mode != Mode::Incremental {
        return Ok(None);
    }
    let (source, target) = (databases.get(config, &sync.source).await?, databases.get(config, other).await?);
    let mut counted = Counted::default();
    for database in [&source, &target] {
        counted.quarantined += site::quarantine(database).await?.iter().filter(|q| q.sync == sync.name).count() as u64;
        let open = site::conflicts(database).await?;
        counted.open += open.iter().filter(|c| c.sync == sync.name && c.winner == "open").count() as u64;
    }
    let (Some(source), Some(target)) = (site::open(&source).await?, site::open(&target).await?) else {
        return Ok(Some(Counted { unread: true, ..counted }));
    };
    if sync.direction != Direction::Pull {
        one_way(sync, &source, &target, false, &mut counted).await?;
    }
    if sync.direction != Direction::Push {
        one_way(sync, &target, &source, true, &mut counted).await?;
    }
    Ok(Some(counted))
}

/// What `from` has that `to` has not taken in. The log is counted first, then the cursor is read, then the versions are
/// counted: whatever was written before and has not arrived is in one of the counts.
async fn one_way(sync: &Sync, from: &Site, to: &Site, back: bool, counted: &mut Counted) -> Result<()> {
    let snapshot = from.database.snapshot().await?;
    let mut source = snapshot.source().await?;
    let (mut reading, mut taking) = (from.database.target().await?, to.database.target().await?);
    let mut found = false;
    for (ours, theirs) in books(sync, from, to, back) {
        found = true;
        counted.pending += source.count(&ours.log.table, None).await?;
        let point = WriteOptions { point: true, ..WriteOptions::default() };
        taking.begin(point).await?;
        let cursors = to.cursors(taking.as_mut(), from.id.id, std::iter::once(theirs.logged.n)).await?;
        taking.rollback().await?;
        let Some(cursor) = cursors.get(&theirs.logged.n).filter(|cursor| cursor.source == from.id) else {
            counted.unread = true;
            continue;
        };
        reading.begin(point).await?;
        let unread = reading.scan(&ours.versions, Some((ours.seq(), cursor.position)), AGES_MAX).await?;
        let lines = reading.scan(&ours.log.table, None, AGES_MAX).await?;
        counted.now = reading.now().await?;
        reading.rollback().await?;
        counted.pending += if unread.rows() < AGES_MAX {
            unread.rows() as u64
        } else {
            source.count(&ours.versions, Some(&format!("_rowferry_seq > {}", cursor.position))).await?
        };
        let versions = (0..unread.rows()).filter_map(|row| match unread.cell(row, ours.width()) {
            Cell::Bytes(bytes) => {
                Version::from_bytes(bytes).ok().and_then(|version| i64::try_from(version.clock.micros()).ok())
            }
            _ => None,
        });
        let wall = ours.log.table.column(crate::engine::ChangeLog::WALL);
        let noted = (0..lines.rows()).filter_map(|row| match lines.cell(row, wall?) {
            Cell::Int(at) => Some(at),
            _ => None,
        });
        // A row without a version of its own has no age.
        let oldest = versions.chain(noted).filter(|at| *at > 0).min();
        counted.oldest = [counted.oldest, oldest].into_iter().flatten().min();
    }
    counted.unread |= !found;
    Ok(())
}

/// The tables of a sync that are captured at both ends.
fn books<'a>(sync: &'a Sync, from: &'a Site, to: &'a Site, back: bool) -> Vec<(&'a Book, &'a Book)> {
    let mut pairs = Vec::new();
    for mapping in &sync.tables {
        let (here, there) = if back { (&mapping.target, &mapping.source) } else { (&mapping.source, &mapping.target) };
        for ours in &from.tables {
            let name = &ours.logged.table.name.name;
            let theirs = if mapping.is_pattern() {
                matches_pattern(here, name).then_some(name)
            } else {
                (name == here).then_some(there)
            };
            let theirs = theirs.and_then(|theirs| to.tables.iter().find(|book| book.logged.table.name.name == *theirs));
            pairs.extend(theirs.map(|theirs| (ours.as_ref(), theirs.as_ref())));
        }
    }
    pairs
}
