//! Table names.

use std::fmt;

/// A table's name as the catalogue spells it. `schema` is empty for a table of the database's own
/// schema (the one its URL names), so that the same table has the same name on every engine.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct TableName {
    /// Schema, empty for the database's own one.
    pub schema: String,
    /// The table's name.
    pub name: String,
}

impl TableName {
    /// A table of the database's own schema.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { schema: String::new(), name: name.into() }
    }

    /// A table of another schema.
    #[must_use]
    pub fn qualified(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.schema.is_empty() {
            write!(f, "{}.", self.schema)?;
        }
        f.write_str(&self.name)
    }
}
