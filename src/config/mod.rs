//! The configuration: from a YAML, TOML or JSON file to [`Config`], in which nothing is left to check.
//!
//! The flow is `find` → `load` → raw form (what may be written, with its JSON Schema) → checked form.
//! `${VAR}` and `${file:…}` are put in on the way in, so that nothing below sees them. No other area
//! reads the environment or a configuration file.

mod check;
mod checked;
mod import;
mod interpolate;
mod load;
mod raw;
mod values;

#[cfg(test)]
mod tests;

use std::fmt;

pub use checked::{
    ApiKey, Config, DatabaseConfig, Defaults, Endpoint, KeyTable, Keyless, Limits, Log, Peer, Seed, Seeds,
    SlaveToProdSeed, StampColumn, Sync, TableMapping, TaxiSeed, Tls, Webhook, When,
};
pub use import::{BLANK, Imported, import};
pub use load::{Format, find, load, parse};
pub use raw::{Capture, Conflict, Direction, Event, FirstRun, Ids, LogFormat, LogLevel, Mode, PeerKind, Role};
pub use values::{Network, Secret, parse_duration, parse_size};

/// Why a configuration cannot be used: one message for people. Leads to exit code 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// What is wrong, where, and what to do.
    pub message: String,
}

impl ConfigError {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}

/// The JSON Schema (2020-12) of the configuration, for editors.
#[must_use]
pub fn schema() -> String {
    let schema = schemars::schema_for!(raw::RawConfig);
    format!("{:#}\n", schema.as_value())
}

/// A commented `rowferry.yaml` to start from. It needs no variable and loads as it is.
#[must_use]
pub fn template() -> &'static str {
    include_str!("template.yaml")
}

/// Where a service manager wants to be told how the program stands.
#[must_use]
pub fn notify_socket() -> Option<std::ffi::OsString> {
    std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty())
}

/// The way out to other nodes, as the environment says.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    /// `HTTPS_PROXY`. A password may stand in it.
    pub https: Option<String>,
    /// `NO_PROXY`: hosts that are reached without it.
    pub none: String,
}

/// The proxies that the environment names.
#[must_use]
pub fn proxies() -> Proxies {
    let named = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let either = |name: &str| named(name).or_else(|| named(&name.to_lowercase()));
    Proxies { https: either("HTTPS_PROXY"), none: either("NO_PROXY").unwrap_or_default() }
}

/// The known name nearest to a mistyped one, if any is near.
fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&name.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(likeness, _)| *likeness >= 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// "did you mean 'x'?", or what there is to choose from.
fn suggestion<'a>(name: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    if let Some(near) = nearest(name, known.clone()) {
        return format!("did you mean '{near}'?");
    }
    let all: Vec<&str> = known.into_iter().collect();
    if all.is_empty() { "there is none".to_owned() } else { format!("known here: {}", all.join(", ")) }
}
