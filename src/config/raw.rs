//! What may be written in a configuration file. The comments are the descriptions in the JSON Schema.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::values::{Every, Ordered, Secret, Size, Span};

/// The configuration of a rowferry node.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(title = "rowferry configuration")]
pub(super) struct RawConfig {
    /// The name of this node, which other nodes see. Default: the host's name.
    pub(super) node: Option<String>,
    /// Address and port of the API. Elsewhere than on loopback it needs `tls` or `insecure: true`.
    pub(super) listen: Option<String>,
    /// Allows plain HTTP elsewhere than on loopback.
    pub(super) insecure: Option<bool>,
    /// Certificate and key of the API, or `self-signed`.
    pub(super) tls: Option<RawTls>,
    /// Where the node keeps its own state: sqlite:… or postgres://… (shared by several workers).
    pub(super) state: Option<Secret>,
    /// Time zone of schedules, and of naive timestamps unless a database says otherwise. Default: UTC.
    pub(super) timezone: Option<String>,
    /// What is logged, and how.
    pub(super) log: Option<RawLog>,
    /// What clients may send.
    pub(super) limits: Option<RawLimits>,
    /// The databases that this node reaches itself, by name.
    pub(super) databases: Ordered<RawDatabase>,
    /// Other nodes, by a name that holds in this file.
    pub(super) peers: Ordered<RawPeer>,
    /// Who may use the API.
    pub(super) api: Option<RawApi>,
    /// What holds for every sync that does not say otherwise.
    pub(super) defaults: Option<RawDefaults>,
    /// What is kept in step, by name; run in this order.
    pub(super) syncs: Ordered<RawSync>,
    /// Who is told when something happens.
    pub(super) webhooks: Option<Vec<RawWebhook>>,
    /// Interfaces for clients of the systems that rowferry takes the place of.
    pub(super) seeds: Option<RawSeeds>,
}

/// `self-signed`, or files.
#[derive(Debug)]
pub(super) enum RawTls {
    SelfSigned,
    Files(RawTlsFiles),
}

/// A certificate chain and its key, as PEM files.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TlsFiles")]
pub(super) struct RawTlsFiles {
    /// PEM file with the certificate chain.
    pub(super) cert: String,
    /// PEM file with the private key.
    pub(super) key: String,
}

/// What is logged, and how.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Log")]
pub(super) struct RawLog {
    /// The least important messages that are still written. Default: info.
    pub(super) level: Option<LogLevel>,
    /// For people or for machines. Default: text.
    pub(super) format: Option<LogFormat>,
}

/// Importance of a log message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What failed.
    Error,
    /// What needs attention.
    Warn,
    /// What happens.
    #[default]
    Info,
    /// How it happens.
    Debug,
    /// Everything.
    Trace,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON document a line.
    Json,
}

/// What clients may send.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Limits")]
pub(super) struct RawLimits {
    /// The largest body of a request, decoded. Default: 256MiB.
    pub(super) body: Option<Size>,
    /// Requests a minute for each key. Default: 600.
    pub(super) requests_per_minute: Option<u32>,
}

/// A database that this node reaches itself.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Database")]
pub(super) struct RawDatabase {
    /// sqlite:PATH, mysql://, mariadb:// or postgres://; TLS and timeouts as query parameters.
    pub(super) url: Secret,
    /// Time zone of its naive timestamps. Default: the node's.
    pub(super) timezone: Option<String>,
}

/// Another node.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Peer")]
pub(super) struct RawPeer {
    /// Where it listens: https://…, or http://… on loopback.
    pub(super) url: String,
    /// The key that it knows this node by.
    pub(super) api_key: Option<Secret>,
    /// How long a request may take. Default: 30s.
    pub(super) timeout: Option<Span>,
    /// PEM file with the certificate authority that vouches for it.
    pub(super) ca: Option<String>,
    /// SHA-256 of its certificate, in hexadecimal.
    pub(super) pin: Option<String>,
    /// Allows plain HTTP elsewhere than on loopback.
    pub(super) insecure: Option<bool>,
    /// What runs there. Default: rowferry.
    pub(super) kind: Option<PeerKind>,
}

/// What runs at a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PeerKind {
    /// A rowferry node.
    #[default]
    Rowferry,
    /// The Laravel sync API.
    Laravel,
    /// The Nunez sync server.
    Nunez,
    /// The Campus-Link server.
    CampusLink,
}

/// Who may use the API.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Api")]
pub(super) struct RawApi {
    /// Keys besides those that `rowferry keys create` stores.
    pub(super) keys: Vec<RawKey>,
}

/// A key of the API.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Key")]
pub(super) struct RawKey {
    /// The name that logs show.
    pub(super) name: String,
    /// The key itself; best as ${VARIABLE} or ${file:/path}.
    pub(super) key: Secret,
    /// What its owner may do.
    pub(super) role: Role,
    /// For peers: who may send rows. Default: bidirectional.
    pub(super) direction: Option<Direction>,
    /// Address ranges that requests must come from. Default: anywhere.
    pub(super) from: Option<Vec<String>>,
    /// For peers: the tables, by database. Default: none.
    #[serde(default)]
    pub(super) tables: Ordered<Vec<RawKeyTable>>,
}

/// What the owner of a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything.
    Admin,
    /// Starting, stopping and resolving.
    Operator,
    /// Looking.
    Viewer,
    /// Exchanging rows of its tables.
    Peer,
}

/// A table that a key opens: its name, or an object.
#[derive(Debug)]
pub(super) struct RawKeyTable(pub(super) RawKeyTableObject);

/// A table that a key opens.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "KeyTable")]
pub(super) struct RawKeyTableObject {
    /// The table.
    pub(super) table: String,
    /// Only rows that meet this condition, in the database's own SQL.
    #[serde(rename = "where")]
    pub(super) filter: Option<String>,
}

/// What holds for every sync that does not say otherwise.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Defaults")]
pub(super) struct RawDefaults {
    /// Rows of a batch. Default: 1000.
    pub(super) batch_size: Option<u32>,
    /// Tables, or ranges of one table, at the same time. Default: 4.
    pub(super) concurrency: Option<u32>,
    /// How often a failed job is tried again. Default: 3.
    pub(super) retries: Option<u32>,
    /// The pause before a failed job is tried again. Default: 30s.
    pub(super) retry_delay: Option<Span>,
    /// How long a job may take. Default: 1h.
    pub(super) job_timeout: Option<Span>,
    /// How long jobs, conflicts and events are kept. Default: 30d.
    pub(super) keep_history: Option<Span>,
    /// How long deletions are remembered for sites that were away. Default: 90d.
    pub(super) keep_tombstones: Option<Span>,
}

/// Which way rows go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From source to target.
    #[default]
    Push,
    /// From target to source.
    Pull,
    /// Both ways.
    Bidirectional,
}

/// Which rows a run moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// What changed since the last run.
    #[default]
    Incremental,
    /// Every row; rows that only the target has stay.
    Full,
    /// Afterwards the target equals the source; rows that only the target has go.
    Mirror,
}

/// How changes are noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Capture {
    /// The best that rights and tables allow.
    #[default]
    Auto,
    /// Triggers on the synced tables.
    Trigger,
    /// A column that says when a row changed; blind to deletes.
    Timestamp,
    /// The database's own log.
    Log,
}

/// Who wins when both sides changed a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Conflict {
    /// The later change.
    #[default]
    LastWriteWins,
    /// Column by column; the later change where both changed the same column.
    MergeColumns,
    /// The source.
    SourceWins,
    /// The target.
    TargetWins,
    /// One-way only: the row that is already at the target.
    KeepExisting,
    /// Nobody, until a person decides.
    Manual,
}

/// Who wins at the first run where rows differ and no timestamp column tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FirstRun {
    /// Nobody, until a person decides.
    Manual,
    /// The source.
    SourceWins,
    /// The target.
    TargetWins,
}

/// What happens when two sites give the same number to different rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Ids {
    /// The row born later gets a new number.
    Rekey,
    /// They are one row.
    Same,
    /// Each site takes its numbers from its own range.
    Ranges,
}

/// A lasting arrangement between two databases.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Sync")]
pub(super) struct RawSync {
    /// A database.
    pub(super) source: String,
    /// A database, a peer (the one database that its key opens), or PEER/DATABASE.
    pub(super) target: String,
    /// Whether it runs at all. Default: true.
    pub(super) enabled: Option<bool>,
    /// Which way rows go. Default: push.
    pub(super) direction: Option<Direction>,
    /// Which rows a run moves. Default: incremental.
    pub(super) mode: Option<Mode>,
    /// How changes are noticed. Default: auto.
    pub(super) capture: Option<Capture>,
    /// Who wins when both sides changed a row. Default: last-write-wins.
    pub(super) conflict: Option<Conflict>,
    /// Who wins at the first run where rows differ and no timestamp column tells. Default: the
    /// sending side; manual when bidirectional.
    pub(super) first_run: Option<FirstRun>,
    /// Whether missing tables are created at the receiving end. Default: true.
    pub(super) create: Option<bool>,
    /// Whether columns may be mapped to types that cannot keep every value. Default: false.
    pub(super) allow_loss: Option<bool>,
    /// Runs only when these syncs have succeeded in the same round.
    pub(super) after: Option<Vec<String>>,
    /// When it runs, as a cron expression: minute, hour, day, month, weekday.
    pub(super) schedule: Option<String>,
    /// Instead of `schedule`: the pause between two rounds, or `live`.
    pub(super) every: Option<Every>,
    /// Rows of a batch, for this sync.
    pub(super) batch_size: Option<u32>,
    /// Tables, or ranges of one table, at the same time, for this sync.
    pub(super) concurrency: Option<u32>,
    /// How often a failed job is tried again, for this sync.
    pub(super) retries: Option<u32>,
    /// The pause before a failed job is tried again, for this sync.
    pub(super) retry_delay: Option<Span>,
    /// How long a job may take, for this sync.
    pub(super) job_timeout: Option<Span>,
    /// The tables: names, patterns such as 'c_*', or objects.
    pub(super) tables: Option<Vec<RawTable>>,
}

/// A table of a sync: its name, or an object.
#[derive(Debug)]
pub(super) struct RawTable(pub(super) RawTableObject);

/// A table of a sync.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Table")]
pub(super) struct RawTableObject {
    /// The table at the source.
    pub(super) source: String,
    /// The table at the target. Default: the same name.
    pub(super) target: Option<String>,
    /// Only these columns.
    pub(super) columns: Option<Vec<String>>,
    /// All columns but these.
    pub(super) exclude: Option<Vec<String>>,
    /// Columns with another name at the target.
    pub(super) rename: Option<BTreeMap<String, String>>,
    /// Values of columns that only the receiving table has.
    pub(super) fill: Option<BTreeMap<String, serde_json::Value>>,
    /// Only rows that meet this condition, in the source's own SQL.
    #[serde(rename = "where")]
    pub(super) filter: Option<String>,
    /// Columns that tell rows apart, instead of the primary key.
    pub(super) key: Option<Vec<String>>,
    /// What happens when two sites give the same number to different rows.
    pub(super) ids: Option<Ids>,
    /// The column that says when a row changed; `none` for none. Default: updated_at where there is one.
    pub(super) timestamp: Option<String>,
    /// The column that marks a row as deleted.
    pub(super) soft_delete: Option<String>,
    /// Who wins when both sides changed a row of this table. Default: the sync's.
    pub(super) conflict: Option<Conflict>,
}

/// Who is told when something happens.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Webhook")]
pub(super) struct RawWebhook {
    /// Where the message goes.
    pub(super) url: Secret,
    /// Signs each message.
    pub(super) secret: Option<Secret>,
    /// What is told. Default: failure, conflict and quarantine.
    pub(super) on: Option<Vec<Event>>,
}

/// What a webhook is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// A job failed.
    Failure,
    /// Both sides changed a row.
    Conflict,
    /// A row was set aside.
    Quarantine,
    /// A job succeeded.
    Success,
}

/// Interfaces for clients of the systems that rowferry takes the place of.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Seeds")]
pub(super) struct RawSeeds {
    /// The Nunez sync server.
    pub(super) nunez: Option<RawSeed>,
    /// The Laravel sync API.
    pub(super) laravel: Option<RawSeed>,
    /// The Campus-Link server.
    pub(super) campus_link: Option<RawSeed>,
    /// DB-Taxi.
    pub(super) db_taxi: Option<RawTaxi>,
    /// The slave-to-production sync.
    pub(super) slave_to_prod: Option<RawSlaveToProd>,
}

/// An interface to tables of one database.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Seed")]
pub(super) struct RawSeed {
    /// The database that its clients read and write.
    pub(super) database: String,
    /// The tables that its clients get: names, or objects as in a sync.
    pub(super) tables: Vec<RawTable>,
    /// Who wins when a client and the database changed a row. Default: last-write-wins.
    pub(super) conflict: Option<Conflict>,
    /// The syncs that its trigger and status routes are about.
    pub(super) syncs: Option<Vec<String>>,
    /// A path before the routes.
    pub(super) prefix: Option<String>,
    /// Whether keys may come in the query, for clients that can do no other. Default: false.
    pub(super) key_in_query: Option<bool>,
    /// What clients without a key may do.
    pub(super) keyless: Option<RawKeyless>,
}

/// The interface of DB-Taxi.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Taxi")]
pub(super) struct RawTaxi {
    /// The database whose server has the databases that `local_db_name` means.
    pub(super) local: String,
    /// A path before the routes.
    pub(super) prefix: Option<String>,
    /// What clients without a key may do.
    pub(super) keyless: Option<RawKeyless>,
}

/// The interface of the slave-to-production sync.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "SlaveToProd")]
pub(super) struct RawSlaveToProd {
    /// The sync that it triggers.
    pub(super) sync: String,
    /// The address that signatures were made for.
    pub(super) public_url: Option<String>,
    /// Keys of which one must have signed a trigger.
    pub(super) signing_keys: Option<Vec<Secret>>,
    /// Whether a GET by hand triggers as well. Default: false.
    pub(super) manual_get: Option<bool>,
    /// A path before the routes.
    pub(super) prefix: Option<String>,
    /// What clients without a key may do.
    pub(super) keyless: Option<RawKeyless>,
}

/// What clients without a key may do. Forwarded requests never count.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Keyless")]
pub(super) struct RawKeyless {
    /// Address ranges that such requests come from.
    pub(super) from: Vec<String>,
    /// The role that they then have.
    pub(super) role: Role,
}

/// Deserializes and describes a value that is a string or an object; written by hand, so that an
/// unknown key inside the object keeps its line.
macro_rules! string_or_object {
    ($type:ident, $schema:literal, $expecting:literal, $object:ty, $wrap:expr, $text:expr, $string_schema:tt) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Either;
                impl<'de> Visitor<'de> for Either {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_str<E: Error>(self, value: &str) -> Result<$type, E> {
                        let read: fn(&str) -> Result<$type, String> = $text;
                        read(value).map_err(E::custom)
                    }

                    fn visit_u64<E: Error>(self, value: u64) -> Result<$type, E> {
                        self.visit_str(&value.to_string())
                    }

                    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<$type, A::Error> {
                        <$object>::deserialize(MapAccessDeserializer::new(map)).map($wrap)
                    }
                }
                deserializer.deserialize_any(Either)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $schema.into()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                json_schema!({ "anyOf": [$string_schema, generator.subschema_for::<$object>()] })
            }
        }
    };
}

string_or_object!(
    RawTls,
    "Tls",
    "self-signed, or an object with cert and key",
    RawTlsFiles,
    RawTls::Files,
    |text| match text {
        "self-signed" => Ok(RawTls::SelfSigned),
        _ => Err(format!("tls is 'self-signed' or {{ cert: FILE, key: FILE }}, not '{text}'")),
    },
    { "const": "self-signed" }
);

string_or_object!(
    RawTable,
    "TableEntry",
    "the name of a table, or an object with source",
    RawTableObject,
    RawTable,
    |text| Ok(RawTable(RawTableObject { source: text.to_owned(), ..RawTableObject::default() })),
    { "type": "string" }
);

string_or_object!(
    RawKeyTable,
    "KeyTableEntry",
    "the name of a table, or an object with table",
    RawKeyTableObject,
    RawKeyTable,
    |text| Ok(RawKeyTable(RawKeyTableObject { table: text.to_owned(), filter: None })),
    { "type": "string" }
);
