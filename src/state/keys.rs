//! Keys of the API: 256 random bits, shown once, kept as their digest.

use std::collections::BTreeMap;

use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};

use super::{Kind, NAME_MAX, State};
use crate::config::{Direction, Network, Role};
use crate::engine::{Error, ErrorKind, Result};

/// What every key of ours begins with, so that one that was lost can be searched for.
const PREFIX: &str = "rowferry_";

/// A table that a key opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The table.
    pub table: String,
    /// Only rows that meet this condition.
    #[serde(rename = "where", skip_serializing_if = "Option::is_none", default)]
    pub filter: Option<String>,
}

/// What is kept of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// SHA-256 of the key, in hexadecimal. The key has 256 random bits, so that nothing is gained by salt.
    pub digest: String,
    /// What its owner may do.
    pub role: Role,
    /// Who may send rows.
    pub direction: Direction,
    /// Where requests must come from; empty: anywhere.
    pub from: Vec<String>,
    /// Tables by database.
    pub tables: BTreeMap<String, Vec<Grant>>,
    /// When it was made; RFC 3339.
    pub created: String,
}

/// A key that was just made: shown once.
pub struct Issued {
    /// The key itself.
    pub key: String,
    /// What is kept of it.
    pub record: KeyRecord,
}

/// The digest that a key is kept and found by.
#[must_use]
pub fn digest_of(key: &str) -> String {
    digest(&SHA256, key.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A new key for this role, without tables and open to every address.
///
/// # Errors
/// Where the system gives no random bits.
pub fn new_key(role: Role) -> Result<Issued> {
    let mut bits = [0; 32];
    SystemRandom::new()
        .fill(&mut bits)
        .map_err(|_| Error::new(ErrorKind::Protocol, "the system gives no random bits for a key"))?;
    let key = format!("{PREFIX}{}", bits.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    let record = KeyRecord {
        digest: digest_of(&key),
        role,
        direction: Direction::Bidirectional,
        from: Vec::new(),
        tables: BTreeMap::new(),
        created: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    };
    Ok(Issued { key, record })
}

impl State {
    /// Keeps a key under this name.
    ///
    /// # Errors
    /// `Usage` when the name is taken or is none, or an address range cannot be read.
    pub async fn add_key(&self, name: &str, record: &KeyRecord) -> Result<()> {
        let refuse = |message: String| Err(Error::new(ErrorKind::Usage, message));
        if name.trim().is_empty() || name.chars().count() > NAME_MAX as usize || name.chars().any(char::is_control) {
            return refuse(format!("a key needs a name of 1 to {NAME_MAX} characters"));
        }
        if let Some(why) = record.from.iter().find_map(|text| text.parse::<Network>().err()) {
            return refuse(why);
        }
        if self.get::<KeyRecord>(Kind::Key, name).await?.is_some() {
            return refuse(format!("there is a key '{name}' already; revoke it first, or take another name"));
        }
        self.put(Kind::Key, name, record).await
    }

    /// The keys by name.
    ///
    /// # Errors
    /// What the database says.
    pub async fn keys(&self) -> Result<Vec<(String, KeyRecord)>> {
        self.list(Kind::Key).await
    }
}
