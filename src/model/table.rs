//! A table as the catalogue describes it, free of any engine's spelling.

use serde::{Deserialize, Serialize};

use super::{Column, LogicalType, TableName, parse};

/// One column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnDef {
    /// Name as the catalogue spells it.
    pub name: String,
    /// What it means.
    pub logical: LogicalType,
    /// The engine's own type text, ready to stand in DDL of the same engine.
    pub native: String,
    /// Whether NULL is allowed.
    pub nullable: bool,
    /// What a row gets that does not say.
    pub default: Option<DefaultValue>,
    /// Computed by the database: read and compared, never written.
    pub generated: bool,
    /// What only the engine's own words can say of it, ready to stand behind the type in DDL of the
    /// same engine: how it is computed, what an update does to it.
    pub dialect: Option<String>,
    /// Numbered by the database.
    pub identity: Option<Identity>,
    /// The engine's collation name where it is not the table's ordinary one.
    pub collation: Option<String>,
    /// Text only: equal means equal bytes here (no case folding, no accents folding, no padding).
    pub binary_order: bool,
}

impl ColumnDef {
    /// A nullable column without default, for tests and for building tables by hand.
    #[must_use]
    pub fn new(name: &str, logical: LogicalType) -> Self {
        Self {
            name: name.to_owned(),
            logical,
            native: String::new(),
            nullable: true,
            default: None,
            generated: false,
            dialect: None,
            identity: None,
            collation: None,
            binary_order: true,
        }
    }

    /// What a row that does not say gets here where that is a constant, as a value of this type.
    #[must_use]
    pub fn constant(&self, logical: &LogicalType) -> Option<Column> {
        let Some(DefaultValue::Literal(text)) = &self.default else { return None };
        let mut value = Column::default();
        parse(logical, text, &mut value).is_ok().then_some(value)
    }
}

/// What only a table's own engine can say of it, in its own words; carried to the same engine only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dialect {
    /// Checks and the like, each as it stands between the parentheses of CREATE TABLE.
    pub constraints: Vec<String>,
    /// Words behind the parentheses.
    pub options: Vec<String>,
    /// What is carried nowhere, in words for people.
    pub left_out: Vec<String>,
}

/// A column's default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DefaultValue {
    /// A constant, as text in the canonical form of the column's type (`true`/`false` for booleans).
    Literal(String),
    /// The time of the statement.
    Now,
    /// Anything else, in the engine's own words; carried to the same engine only.
    Expression(String),
}

/// How the database numbers a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Identity {
    /// A given value is taken, an absent one numbered (AUTO_INCREMENT, serial, BY DEFAULT, rowid).
    ByDefault,
    /// PostgreSQL's `GENERATED ALWAYS`: a given value needs OVERRIDING SYSTEM VALUE.
    Always,
}

/// A primary or unique key that rows can be told apart by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Positions in [`Table::columns`], in key order.
    pub columns: Vec<usize>,
}

/// An index or unique constraint besides the primary key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// Name in its database.
    pub name: String,
    /// What it covers.
    pub columns: Vec<IndexColumn>,
    /// Whether it is unique.
    pub unique: bool,
    /// Whether it was declared as a constraint, where the engine tells the two apart.
    pub constraint: bool,
    /// The engine's own definition where it has expressions, a condition or a method that the
    /// other fields cannot say; such an index is carried to the same engine only.
    pub native: Option<String>,
}

/// A column of an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexColumn {
    /// Column name.
    pub name: String,
    /// Descending order.
    pub descending: bool,
}

/// What happens to children.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ForeignKeyAction {
    /// Refused at the end of the statement or transaction.
    NoAction,
    /// Refused at once.
    Restrict,
    /// Children follow.
    Cascade,
    /// Children lose the reference.
    SetNull,
    /// Children get the default.
    SetDefault,
}

impl ForeignKeyAction {
    /// The SQL words, the same in every engine.
    #[must_use]
    pub fn sql(self) -> &'static str {
        match self {
            Self::NoAction => "NO ACTION",
            Self::Restrict => "RESTRICT",
            Self::Cascade => "CASCADE",
            Self::SetNull => "SET NULL",
            Self::SetDefault => "SET DEFAULT",
        }
    }

    /// Reads the SQL words; anything unknown is `NO ACTION`, the standard's default.
    #[must_use]
    pub fn from_sql(words: &str) -> Self {
        match words.to_ascii_uppercase().as_str() {
            "RESTRICT" => Self::Restrict,
            "CASCADE" => Self::Cascade,
            "SET NULL" => Self::SetNull,
            "SET DEFAULT" => Self::SetDefault,
            _ => Self::NoAction,
        }
    }
}

/// A reference to another table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignKey {
    /// Constraint name; empty where the engine has none.
    pub name: String,
    /// Columns here.
    pub columns: Vec<String>,
    /// The other table.
    pub parent: TableName,
    /// Columns there.
    pub parent_columns: Vec<String>,
    /// On delete of the parent.
    pub on_delete: ForeignKeyAction,
    /// On update of the parent's key.
    pub on_update: ForeignKeyAction,
    /// What stands behind the parent's columns in the engine's own words, where the actions do not say it all: it is
    /// deferrable, matches in full, sets some columns only. Carried to the same engine only.
    pub native: Option<String>,
}

impl ForeignKey {
    /// What stands behind the parent's columns in DDL.
    #[must_use]
    pub fn rules(&self) -> String {
        self.native.clone().unwrap_or_else(|| self.actions())
    }

    fn actions(&self) -> String {
        format!("ON DELETE {} ON UPDATE {}", self.on_delete.sql(), self.on_update.sql())
    }

    /// Gives up what only its own engine can say of it; returns that in words for people.
    pub fn give_up_native(&mut self) -> Option<String> {
        let words = self.native.take()?.replace(&self.actions(), "");
        let words: Vec<&str> = words.split_whitespace().collect();
        Some(format!("{} of the foreign key on {}", words.join(" "), self.columns.join(", ")))
    }
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Its name.
    pub name: TableName,
    /// Its columns in order.
    pub columns: Vec<ColumnDef>,
    /// Primary key, if there is one.
    pub primary_key: Option<Key>,
    /// Other indexes and unique constraints.
    pub indexes: Vec<Index>,
    /// References.
    pub foreign_keys: Vec<ForeignKey>,
    /// Names of the user's own triggers.
    pub triggers: Vec<String>,
    /// Names of those of them that run also where others are silenced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loud: Vec<String>,
    /// What its engine alone understands.
    pub dialect: Dialect,
}

impl Table {
    /// A table of these columns and nothing else, for building tables by hand.
    #[must_use]
    pub fn new(name: TableName, columns: Vec<ColumnDef>) -> Self {
        Self {
            name,
            columns,
            primary_key: None,
            indexes: Vec::new(),
            foreign_keys: Vec::new(),
            triggers: Vec::new(),
            loud: Vec::new(),
            dialect: Dialect::default(),
        }
    }

    /// The key that rows are told apart by: the primary key, else the first unique index whose
    /// columns are all not null. `None`: rows are told apart by all their columns, and counted.
    #[must_use]
    pub fn row_key(&self) -> Option<Key> {
        if let Some(key) = &self.primary_key {
            // SQLite allows NULL in a primary key that is not INTEGER; such a key tells nothing apart.
            if key.columns.iter().all(|&c| !self.columns[c].nullable) {
                return Some(key.clone());
            }
        }
        self.indexes.iter().filter(|i| i.unique && i.native.is_none()).find_map(|index| {
            let columns: Option<Vec<usize>> =
                index.columns.iter().map(|c| self.column(&c.name).filter(|&i| !self.columns[i].nullable)).collect();
            columns.map(|columns| Key { columns })
        })
    }

    /// Position of a column.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.name == name)
    }

    /// This table with only the columns at these positions, in this order. Keys, indexes and
    /// references that need a column left out are left out too; so is, of fewer columns, what only
    /// the engine's own words say of them, which may name any column.
    #[must_use]
    pub fn project(&self, positions: &[usize]) -> Self {
        let at = |old: usize| positions.iter().position(|&p| p == old);
        let has = |name: &String| positions.iter().any(|&p| &self.columns[p].name == name);
        let mut columns: Vec<ColumnDef> = positions.iter().map(|&p| self.columns[p].clone()).collect();
        let mut dialect = self.dialect.clone();
        if columns.len() < self.columns.len() {
            dialect.left_out.extend(dialect.constraints.drain(..).map(|c| format!("{c}, as columns are left out")));
            columns.iter_mut().filter(|c| c.generated).for_each(|c| c.dialect = None);
        }
        Self {
            name: self.name.clone(),
            columns,
            primary_key: self.primary_key.as_ref().and_then(|k| {
                k.columns.iter().map(|&c| at(c)).collect::<Option<Vec<_>>>().map(|columns| Key { columns })
            }),
            indexes: self.indexes.iter().filter(|i| i.columns.iter().all(|c| has(&c.name))).cloned().collect(),
            foreign_keys: self.foreign_keys.iter().filter(|f| f.columns.iter().all(&has)).cloned().collect(),
            triggers: self.triggers.clone(),
            loud: self.loud.clone(),
            dialect,
        }
    }
}
