//! The checked form that the rest of the program works with: every name refers to something, every default is filled in, paths are absolute.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::Zone;

use super::raw::{Capture, Conflict, Direction, Event, FirstRun, Ids, LogFormat, LogLevel, Mode, PeerKind, Role};
use super::values::{Network, Secret};
use super::{ConfigError, suggestion};

/// A configuration in which nothing is left to check.
#[derive(Debug, Clone)]
pub struct Config {
    /// The folder of the file; relative paths were relative to it.
    pub folder: PathBuf,
    /// The node's name.
    pub node: String,
    /// Host and port of the API.
    pub listen: String,
    /// Whether plain HTTP is allowed elsewhere than on loopback.
    pub insecure: bool,
    /// Certificate of the API.
    pub tls: Option<Tls>,
    /// URL of the state store.
    pub state: Secret,
    /// Time zone of schedules.
    pub timezone: Zone,
    /// Logging.
    pub log: Log,
    /// What clients may send.
    pub limits: Limits,
    /// Databases by name.
    pub databases: BTreeMap<String, DatabaseConfig>,
    /// Peers by name.
    pub peers: BTreeMap<String, Peer>,
    /// Keys of the API.
    pub api_keys: Vec<ApiKey>,
    /// What holds where a sync says nothing; also how long history is kept.
    pub defaults: Defaults,
    /// Syncs in the order of the file.
    pub syncs: Vec<Sync>,
    /// Webhooks.
    pub webhooks: Vec<Webhook>,
    /// Interfaces for the seeds' clients.
    pub seeds: Seeds,
}

impl Config {
    /// The sync of this name.
    #[must_use]
    pub fn sync(&self, name: &str) -> Option<&Sync> {
        self.syncs.iter().find(|sync| sync.name == name)
    }

    /// The database of this name.
    ///
    /// # Errors
    /// When there is none; the message names the nearest.
    pub fn database(&self, name: &str) -> Result<&DatabaseConfig, ConfigError> {
        self.databases.get(name).ok_or_else(|| {
            ConfigError::new(format!(
                "there is no database '{name}' under databases; {}",
                suggestion(name, self.databases.keys().map(String::as_str))
            ))
        })
    }
}

/// Where the API's certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// Made by the node; the other side pins it.
    SelfSigned,
    /// PEM files.
    Files {
        /// Certificate chain.
        cert: PathBuf,
        /// Private key.
        key: PathBuf,
    },
}

/// Logging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// The least important messages written.
    pub level: LogLevel,
    /// Their form.
    pub format: LogFormat,
}

/// What clients may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest decoded body.
    pub body_bytes: u64,
    /// Requests a minute for each key.
    pub requests_per_minute: u32,
}

/// A database that this node reaches itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseConfig {
    /// Its URL; the path of an SQLite file is absolute.
    pub url: Secret,
    /// Time zone of its naive timestamps.
    pub timezone: Zone,
}

impl DatabaseConfig {
    /// The file, of SQLite.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        let rest = self.url.expose().strip_prefix("sqlite:")?;
        Some(Path::new(rest.split_once('?').map_or(rest, |(path, _)| path)))
    }
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Where it listens, without a slash at the end.
    pub url: String,
    /// The key that it knows this node by.
    pub api_key: Option<Secret>,
    /// How long a request may take.
    pub timeout: Duration,
    /// PEM file of the authority that vouches for it.
    pub ca: Option<PathBuf>,
    /// SHA-256 of its certificate: 64 hexadecimal digits in lower case.
    pub pin: Option<String>,
    /// Whether plain HTTP is allowed elsewhere than on loopback.
    pub insecure: bool,
    /// What runs there.
    pub kind: PeerKind,
}

/// A key of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// The name that logs show.
    pub name: String,
    /// The key.
    pub key: Secret,
    /// What its owner may do.
    pub role: Role,
    /// Who may send rows.
    pub direction: Direction,
    /// Where requests must come from; empty: anywhere.
    pub from: Vec<Network>,
    /// Tables by database.
    pub tables: BTreeMap<String, Vec<KeyTable>>,
}

/// A table that a key opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyTable {
    /// The table.
    pub table: String,
    /// Only rows that meet this condition.
    pub filter: Option<String>,
}

/// What holds where a sync says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Defaults {
    /// Rows of a batch.
    pub batch_size: usize,
    /// Tables, or ranges of one table, at the same time.
    pub concurrency: usize,
    /// How often a failed job is tried again.
    pub retries: u32,
    /// The pause before that.
    pub retry_delay: Duration,
    /// How long a job may take.
    pub job_timeout: Duration,
    /// How long jobs, conflicts and events are kept.
    pub keep_history: Duration,
    /// How long deletions are remembered.
    pub keep_tombstones: Duration,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            batch_size: 1000,
            concurrency: 4,
            retries: 3,
            retry_delay: Duration::from_secs(30),
            job_timeout: Duration::from_hours(1),
            keep_history: Duration::from_hours(30 * 24),
            keep_tombstones: Duration::from_hours(90 * 24),
        }
    }
}

/// The other end of a sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A database of this file.
    Database(String),
    /// A peer.
    Peer {
        /// Its name in this file.
        peer: String,
        /// One of its databases; `None`: the one that the key opens.
        database: Option<String>,
    },
}

/// When a sync runs by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// Only when asked.
    Asked,
    /// At the times of a cron expression.
    Cron(String),
    /// With this pause between two rounds.
    Interval(Duration),
    /// As soon as something changes.
    Live,
}

/// A lasting arrangement between two databases.
#[derive(Debug, Clone)]
pub struct Sync {
    /// Its name.
    pub name: String,
    /// A database of this file.
    pub source: String,
    /// The other end.
    pub target: Endpoint,
    /// Whether it runs at all.
    pub enabled: bool,
    /// Which way rows go.
    pub direction: Direction,
    /// Which rows a run moves.
    pub mode: Mode,
    /// How changes are noticed.
    pub capture: Capture,
    /// Who wins.
    pub conflict: Conflict,
    /// Who wins at the first run; the default for the direction is filled in.
    pub first_run: FirstRun,
    /// Whether missing tables are created.
    pub create: bool,
    /// Whether columns may be mapped to types that cannot keep every value.
    pub allow_loss: bool,
    /// Syncs that must have succeeded in the same round.
    pub after: Vec<String>,
    /// When it runs.
    pub when: When,
    /// Batch size, concurrency, retries and timeout of this sync.
    pub settings: Defaults,
    /// Its tables, never empty. A `source` with `*` is a pattern.
    pub tables: Vec<TableMapping>,
}

/// Which column says when a row changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StampColumn {
    /// `updated_at` where there is one.
    Auto,
    /// None, even where there is one.
    None,
    /// This one.
    Named(String),
}

/// A table of a sync.
#[derive(Debug, Clone, PartialEq)]
pub struct TableMapping {
    /// At the source.
    pub source: String,
    /// At the target.
    pub target: String,
    /// Only these columns.
    pub columns: Option<Vec<String>>,
    /// All but these columns.
    pub exclude: Vec<String>,
    /// Source column → target column.
    pub rename: BTreeMap<String, String>,
    /// Values of columns that only the receiving table has.
    pub fill: BTreeMap<String, serde_json::Value>,
    /// Only rows that meet this condition.
    pub filter: Option<String>,
    /// Columns that tell rows apart; `None`: the primary key.
    pub key: Option<Vec<String>>,
    /// Equal generated keys; `None`: the default for table and direction.
    pub ids: Option<Ids>,
    /// Which column says when a row changed.
    pub timestamp: StampColumn,
    /// The column that marks a row as deleted.
    pub soft_delete: Option<String>,
    /// Who wins; the sync's policy is filled in.
    pub conflict: Conflict,
}

impl TableMapping {
    /// Whether `source` is a pattern such as `c_*`.
    #[must_use]
    pub fn is_pattern(&self) -> bool {
        self.source.contains('*')
    }
}

/// Who is told when something happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Where the message goes (it may hold a token).
    pub url: Secret,
    /// Signs each message.
    pub secret: Option<Secret>,
    /// What is told.
    pub on: Vec<Event>,
}

/// Interfaces for the seeds' clients.
#[derive(Debug, Clone, Default)]
pub struct Seeds {
    /// The Nunez sync server.
    pub nunez: Option<Seed>,
    /// The Laravel sync API.
    pub laravel: Option<Seed>,
    /// The Campus-Link server.
    pub campus_link: Option<Seed>,
    /// DB-Taxi.
    pub db_taxi: Option<TaxiSeed>,
    /// The slave-to-production sync.
    pub slave_to_prod: Option<SlaveToProdSeed>,
}

/// An interface to tables of one database.
#[derive(Debug, Clone)]
pub struct Seed {
    /// The database.
    pub database: String,
    /// Its tables, never empty.
    pub tables: Vec<TableMapping>,
    /// Who wins.
    pub conflict: Conflict,
    /// The syncs of its trigger and status routes.
    pub syncs: Vec<String>,
    /// A path before the routes: empty, or `/x` without a slash at the end.
    pub prefix: String,
    /// Whether keys may come in the query.
    pub key_in_query: bool,
    /// What clients without a key may do.
    pub keyless: Option<Keyless>,
}

/// The interface of DB-Taxi.
#[derive(Debug, Clone)]
pub struct TaxiSeed {
    /// The database whose server has the local databases.
    pub local: String,
    /// A path before the routes.
    pub prefix: String,
    /// What clients without a key may do.
    pub keyless: Option<Keyless>,
}

/// The interface of the slave-to-production sync.
#[derive(Debug, Clone)]
pub struct SlaveToProdSeed {
    /// The sync that it triggers.
    pub sync: String,
    /// The address that signatures were made for.
    pub public_url: Option<String>,
    /// Keys of which one must have signed.
    pub signing_keys: Vec<Secret>,
    /// Whether a GET by hand triggers as well.
    pub manual_get: bool,
    /// A path before the routes.
    pub prefix: String,
    /// What clients without a key may do.
    pub keyless: Option<Keyless>,
}

/// What clients without a key may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyless {
    /// Where they come from.
    pub from: Vec<Network>,
    /// The role that they then have.
    pub role: Role,
}
