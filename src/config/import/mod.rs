//! Configurations of the systems that rowferry takes the place of → a `rowferry.yaml`.
//!
//! What the old file does not say stands as a marked blank, so that the result passes the check and a search for
//! [`BLANK`] finds all that is left to do. Besides the file comes a list of what replaces each old command, line of a
//! crontab and URL.

mod constants;
mod draft;
mod json;
mod laravel;
mod nunez;
mod schedule;
mod taxi;
mod two_laptops;

use std::collections::BTreeMap;
use std::path::Path;

use self::draft::Draft;
use super::ConfigError;

/// Stands where the old file says nothing.
pub const BLANK: &str = "FILL-IN";

/// A configuration made from another system's.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The system that the file was of.
    pub system: &'static str,
    /// The text of a `rowferry.yaml`.
    pub yaml: String,
    /// How many blanks it has.
    pub blanks: usize,
    /// What was typed, scheduled or called, and what takes its place.
    pub replaces: Vec<(String, String)>,
    /// What could not be taken over, and why.
    pub notes: Vec<String>,
}

/// Reads a `config.json`, `.env`, `.env.local`, `config.yaml` or `config.php` and writes it anew.
///
/// # Errors
/// When it cannot be read or is of none of these systems.
pub fn import(path: &Path) -> Result<Imported, ConfigError> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|e| ConfigError::new(format!("{shown} cannot be read: {e}")))?;
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let draft = translate(&name, text.trim_start_matches('\u{feff}'))
        .map_err(|error| ConfigError::new(format!("{shown}: {}", error.message)))?;
    Ok(draft.finish(&shown.to_string()))
}

fn translate(name: &str, text: &str) -> Result<Draft, ConfigError> {
    let unknown = || {
        ConfigError::new(
            "this is a configuration of none of the systems that init --from knows: config.json (Nunez), .env \
             (Laravel), config.yaml or a JSON body (DB-Taxi), .env.local (slave to production), config.php (two laptops)",
        )
    };
    let extension = name.rsplit('.').next().unwrap_or_default();
    match extension {
        "json" => {
            let json = json::relaxed(text).map_err(|why| ConfigError::new(format!("it is no JSON: {why}")))?;
            taxi::from_json(&json).or_else(|| nunez::from(&json)).ok_or_else(unknown)
        }
        "yaml" | "yml" => {
            let options = serde_saphyr::options! { with_snippet: false };
            let yaml: serde_json::Value = serde_saphyr::from_str_with_options(text, options)
                .map_err(|e| ConfigError::new(format!("it is no YAML: {}", e.without_snippet())))?;
            taxi::from_yaml(&yaml).ok_or_else(unknown)
        }
        "php" => two_laptops::from(&constants::of_php(text)).ok_or_else(unknown),
        _ => {
            let variables = constants::of_environment(text);
            let told = |names: &[&str]| names.iter().any(|name| variables.contains_key(*name));
            if variables.keys().any(|name| name.starts_with("QSTASH_")) || told(&["SUPABASE_SERVICE_ROLE_KEY"]) {
                Ok(schedule::from(&variables))
            } else if told(&["APP_MODE", "MASTER_URL", "SYNC_API_KEY"]) {
                Ok(laravel::from(&variables))
            } else {
                Err(unknown())
            }
        }
    }
}

/// Names and values of an old file.
type Constants = BTreeMap<String, String>;

/// A value that is there and not empty.
fn value<'a>(constants: &'a Constants, name: &str) -> Option<&'a str> {
    constants.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests;
