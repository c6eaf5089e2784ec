//! How syncs stand, honestly: what is pending is counted in the logs and versions of the databases themselves.

use serde::{Deserialize, Serialize};

use super::Databases;
use super::counting::{Counted, count};
use crate::config::{Config, Sync};
use crate::engine::{Error, ErrorKind, Result};
use crate::state::{Kind, State};

/// A sync whose changes wait longer is behind.
const BEHIND_MS: i64 = 60_000;

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
    /// Which site was met, where the other end is a peer's: id and epoch.
    #[serde(default)]
    pub peer: Option<(u64, u32)>,
}

impl SyncRecord {
    pub(super) fn succeeded(&mut self) {
        *self = Self { success: Some(now()), peer: self.peer, ..Self::default() };
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
        let counted = count(config, sync, databases, record.as_ref()).await;
        all.push(told(sync, record, counted));
    }
    Ok(all)
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
            standing.pending = Some(counted.pending + counted.aside.waiting);
            standing.lag_ms = Some(counted.age.map_or(0, |age| age / 1000));
            standing.quarantined = counted.aside.quarantined;
            standing.open_conflicts = counted.aside.open;
            let late = standing.lag_ms.is_some_and(|lag| lag > BEHIND_MS);
            let set_aside = counted.aside.quarantined + counted.aside.open > 0;
            let unreached = counted.away.as_ref().is_some_and(|e| e.kind == ErrorKind::Unreachable);
            standing.last_error = standing.last_error.take().or(counted.away.map(|e| e.message().to_owned()));
            standing.state = match () {
                () if record.offline || unreached => Condition::Offline,
                () if standing.last_error.is_some() => Condition::Failed,
                () if counted.unread => Condition::Waiting,
                () if late || set_aside => Condition::Behind,
                () if counted.pending + counted.aside.waiting > 0 => Condition::Pending,
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
