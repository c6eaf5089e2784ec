//! Finding and reading the file; the only place that knows the parsers.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::check::check;
use super::checked::Config;
use super::interpolate::{Filled, Sources};
use super::raw::RawConfig;
use super::{ConfigError, suggestion};
use crate::runtime::settings_folder;

const NAMES: [&str; 4] = ["rowferry.yaml", "rowferry.yml", "rowferry.toml", "rowferry.json"];

/// The language of a configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// YAML, and JSON, which YAML contains.
    Yaml,
    /// TOML.
    Toml,
}

/// The configuration file to use: the one given, the one `ROWFERRY_CONFIG` names, `rowferry.yaml`
/// (`.yml`, `.toml`, `.json`) in the current folder, then in the user's configuration folder. The
/// first two are not asked whether they exist: [`load`] says so when they do not.
#[must_use]
pub fn find(explicit: Option<&Path>) -> Option<PathBuf> {
    find_in(explicit, Path::new(""), &|name| std::env::var_os(name))
}

pub(super) fn find_in(
    explicit: Option<&Path>,
    current: &Path,
    variable: &dyn Fn(&str) -> Option<OsString>,
) -> Option<PathBuf> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    if let Some(path) = explicit {
        return Some(path.to_owned());
    }
    if let Some(path) = variable("ROWFERRY_CONFIG") {
        return Some(path.into());
    }
    let folders = [Some(current.to_owned()), settings_folder(&variable).map(|folder| folder.join("rowferry"))];
    folders.into_iter().flatten().flat_map(|folder| NAMES.map(|name| folder.join(name))).find(|path| path.is_file())
}

/// Reads and checks a configuration file. Relative paths in it are relative to its folder.
///
/// # Errors
/// One message with file, line and what to do; nothing was touched.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    load_with(path, &|name| std::env::var_os(name))
}

pub(super) fn load_with(path: &Path, variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Config, ConfigError> {
    let shown = path.display();
    let format = match path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
        Some("yaml" | "yml" | "json") => Format::Yaml,
        Some("toml") => Format::Toml,
        _ => {
            return Err(ConfigError::new(format!(
                "{shown}: the name of a configuration ends in .yaml, .yml, .toml or .json"
            )));
        }
    };
    let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => ConfigError::new(format!(
            "there is no configuration file {shown}; `rowferry init` writes one, `-c FILE` names another"
        )),
        ErrorKind::InvalidData => ConfigError::new(format!("{shown} is not UTF-8 text; save it as UTF-8")),
        _ => ConfigError::new(format!("{shown} cannot be read: {error}")),
    })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let folder = std::path::absolute(folder)
        .or_else(|_| std::env::current_dir().map(|current| current.join(folder)))
        .unwrap_or_else(|_| folder.to_owned());
    parse_with(&text, format, &shown.to_string(), &folder, variable)
}

/// Reads and checks a configuration that is already in memory; `name` stands for the file in
/// messages, `folder` is what relative paths are relative to.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, format: Format, name: &str, folder: &Path) -> Result<Config, ConfigError> {
    parse_with(text, format, name, folder, &|name| std::env::var_os(name))
}

pub(super) fn parse_with(
    text: &str,
    format: Format,
    name: &str,
    folder: &Path,
    variable: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Config, ConfigError> {
    let sources = Sources { variable, folder };
    let raw = match format {
        Format::Yaml => read_yaml(text, &sources),
        Format::Toml => read_toml(text, &sources),
    }
    .map_err(|fault| {
        let line = fault.line.map_or(String::new(), |line| format!(", line {line}"));
        ConfigError::new(format!("{name}{line}: {}", fault.message))
    })?;
    check(raw, folder, variable).map_err(|error| ConfigError::new(format!("{name}: {}", error.message)))
}

struct Fault {
    line: Option<u64>,
    message: String,
}

fn read_yaml(text: &str, sources: &Sources<'_>) -> Result<RawConfig, Fault> {
    let blank = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    if text.trim_start_matches('\u{feff}').lines().all(blank) {
        return Ok(RawConfig::default());
    }
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::with_deserializer_from_str_with_options(text, options, |deserializer| {
        RawConfig::deserialize(Filled { inner: deserializer, sources })
    })
    .map_err(|error| {
        use serde_saphyr::Error as Saphyr;
        let error = error.without_snippet();
        let line = error.location().map(|at| at.line()).filter(|line| *line > 0);
        let message = match error {
            Saphyr::SerdeUnknownField { field, expected, .. } => unknown_key(field, expected),
            Saphyr::SerdeUnknownVariant { variant, expected, .. } => unknown_value(variant, expected),
            Saphyr::SerdeMissingField { field, .. } => missing_key(field),
            Saphyr::DuplicateMappingKey { key, .. } => {
                format!("the key '{}' is there twice; keep one", key.as_deref().unwrap_or("?"))
            }
            Saphyr::Message { msg, .. } => number_wanted(msg),
            other => number_wanted(&without_place(&other.to_string())),
        };
        Fault { line, message }
    })
}

/// The parser's text without its own "at line 3, column 5", which the message begins with already.
fn without_place(text: &str) -> String {
    let first = text.lines().next().unwrap_or(text);
    let first = first.strip_prefix("error: ").unwrap_or(first);
    let first = match first.strip_prefix("line ").and_then(|rest| rest.split_once(": ")) {
        Some((_, rest)) => rest,
        None => first,
    };
    first.split(" at line ").next().unwrap_or(first).to_owned()
}

fn read_toml(text: &str, sources: &Sources<'_>) -> Result<RawConfig, Fault> {
    let fault = |error: toml::de::Error| {
        let line = error.span().map(|span| {
            let before = text.get(..span.start).unwrap_or(text);
            1 + u64::try_from(before.matches('\n').count()).unwrap_or_default()
        });
        Fault { line, message: toml_message(error.message()) }
    };
    let mut raw = toml::Deserializer::parse(text)
        .and_then(|inner| RawConfig::deserialize(Filled { inner, sources }))
        .map_err(fault)?;
    // The parser sorts tables by name; the place of each name says which sync came first.
    let document = toml::de::DeTable::parse(text).map_err(fault)?;
    if let Some(syncs) = document.get_ref().get("syncs").and_then(|syncs| syncs.get_ref().as_table()) {
        let place = |name: &str| syncs.iter().find(|(key, _)| key.get_ref() == name).map(|(key, _)| key.span().start);
        raw.syncs.0.sort_by_key(|(name, _)| place(name));
    }
    Ok(raw)
}

/// Serde's sentence in ours; it puts names in backticks.
fn toml_message(text: &str) -> String {
    let names: Vec<&str> = text.split('`').skip(1).step_by(2).collect();
    match names.split_first() {
        Some((name, known)) if text.starts_with("unknown field") => unknown_key(name, known),
        Some((name, known)) if text.starts_with("unknown variant") => unknown_value(name, known),
        Some((name, _)) if text.starts_with("missing field") => missing_key(name),
        Some((name, _)) if text.starts_with("duplicate field") => format!("the key '{name}' is there twice; keep one"),
        _ if text.starts_with("duplicate key") => "this key is there twice; keep one".to_owned(),
        _ => number_wanted(text),
    }
}

/// The parsers name a type of Rust where a number is wanted; people are told which numbers are.
fn number_wanted(text: &str) -> String {
    if text.contains("u32") {
        return "this must be a whole number of at least 1 (retries may be 0)".to_owned();
    }
    text.to_owned()
}

fn unknown_key(name: &str, known: &[&str]) -> String {
    format!("unknown key '{name}'; {}", suggestion(name, known.iter().copied()))
}

fn unknown_value(value: &str, known: &[&str]) -> String {
    let choice = known.join(", ");
    match super::nearest(value, known.iter().copied()) {
        Some(near) => format!("unknown value '{value}'; did you mean '{near}'? It may be {choice}"),
        None => format!("unknown value '{value}'; it may be {choice}"),
    }
}

fn missing_key(name: &str) -> String {
    format!("the key '{name}' is missing here; add it")
}
