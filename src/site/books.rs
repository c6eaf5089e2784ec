//! Rowferry's own tables in a database, as tables like any other: each engine makes and writes them
//! by the same path as the user's.

use std::sync::Arc;

use super::facets::Faceted;
use crate::engine::{ChangeLog, Database, Logged};
use crate::model::{Column, ColumnDef, Index, IndexColumn, Key, LogicalType, Table, TableName, Version};

/// Whole numbers.
const NUMBER: LogicalType = LogicalType::Int { bits: 64, unsigned: false };
/// Names: short enough for a key on every engine.
const NAME: LogicalType = LogicalType::Text { max: Some(160), fixed: false };
const TEXT: LogicalType = LogicalType::Text { max: None, fixed: false };
const BYTES: LogicalType = LogicalType::Binary { max: None, fixed: false };

fn bytes(max: usize) -> LogicalType {
    LogicalType::Binary { max: u32::try_from(max).ok(), fixed: false }
}

fn filled(name: &str, logical: LogicalType) -> ColumnDef {
    ColumnDef { nullable: false, ..ColumnDef::new(name, logical) }
}

/// A table of ours in the types of its database; the first `key` columns are its primary key.
fn own(database: &dyn Database, name: &str, columns: Vec<ColumnDef>, key: usize) -> Arc<Table> {
    let mut table = Table::new(TableName::new(name), columns);
    table.primary_key = Some(Key { columns: (0..key).collect() });
    table.columns = table.columns.iter().map(|column| database.map_column(&table, column).column).collect();
    Arc::new(table)
}

/// An index by the site's numbers.
fn by_seq(name: &str, column: &str) -> Index {
    Index {
        name: name.to_owned(),
        columns: vec![IndexColumn { name: column.to_owned(), descending: false }],
        unique: false,
        constraint: false,
        native: None,
    }
}

/// The tables that a site has once.
#[derive(Debug, Clone)]
pub struct Books {
    /// One row: who this site is, and the last `seq` that it gave out. Whoever gives out the next holds its lock.
    pub site: Arc<Table>,
    /// The tables that are logged, each with the number under which it was last emptied at once, 0: never.
    pub tables: Arc<Table>,
    /// How far this site has taken in what other sites have.
    pub cursors: Arc<Table>,
    /// Conflicts with both images.
    pub conflicts: Arc<Table>,
    /// Changes that this site refused.
    pub quarantine: Arc<Table>,
    /// Changes that could not be taken in yet; of the shape of [`Self::quarantine`].
    pub waiting: Arc<Table>,
    /// Rows that came through a condition at another site.
    pub shared: Arc<Table>,
    /// For each time that numbers were given out the last of them, with a token that nobody can guess: a database that
    /// was restored and counts again gives out other tokens.
    pub marks: Arc<Table>,
    /// Who reads this site's changes, and how far.
    pub readers: Arc<Table>,
    /// Rows that gave up their number, or are to: `n number birth moved_to done seq clock`.
    pub moves: Arc<Table>,
    /// What each logged table has forgotten of rows that were deleted: `n upto floor last at`.
    pub floors: Arc<Table>,
    /// The form in which each logged table was last found, and the number under which it was last told that rows were
    /// written unseen, 0: never.
    pub forms: Arc<Table>,
}

/// Changes that were set aside.
fn aside() -> Vec<ColumnDef> {
    vec![
        filled("id", NAME),
        filled("sync", TEXT),
        filled("table_name", TEXT),
        filled("row_key", TEXT),
        filled("reason", TEXT),
        ColumnDef::new("image", TEXT),
        filled("version", bytes(Version::BYTES)),
        filled("at", NUMBER),
    ]
}

impl Books {
    /// Names of the columns of [`Self::site`], in order: `one id epoch seq format`.
    pub const SITE: &'static str = "_rowferry_site";
    /// The place of `seq` among the columns of [`Self::site`].
    pub const SEQ: usize = 3;

    /// Those of this database.
    #[must_use]
    pub fn new(database: &dyn Database) -> Self {
        let table = |name: &str, columns: Vec<ColumnDef>, key: usize| own(database, name, columns, key);
        Self {
            site: table(
                Self::SITE,
                vec![
                    filled("one", NUMBER),
                    filled("id", NAME),
                    filled("epoch", NUMBER),
                    filled("seq", NUMBER),
                    filled("format", NUMBER),
                ],
                1,
            ),
            tables: table(
                "_rowferry_tables",
                vec![
                    filled("n", NUMBER),
                    filled("table_schema", NAME),
                    filled("table_name", NAME),
                    // A digest of the statements that put its log and triggers in place.
                    filled("made", NAME),
                    filled("emptied", NUMBER),
                    // Whether its versions keep facets of the columns: a digest of these, once all rows have theirs.
                    filled("facets", NAME),
                ],
                1,
            ),
            cursors: table(
                "_rowferry_cursors",
                vec![
                    filled("source", NAME),
                    filled("n", NUMBER),
                    filled("epoch", NUMBER),
                    filled("position", NUMBER),
                    filled("token", NUMBER),
                ],
                2,
            ),
            marks: table("_rowferry_marks", vec![filled("position", NUMBER), filled("token", NUMBER)], 1),
            readers: table(
                "_rowferry_readers",
                vec![
                    filled("reader", NAME),
                    filled("reader_n", NUMBER),
                    filled("reader_epoch", NUMBER),
                    filled("n", NUMBER),
                    filled("epoch", NUMBER),
                    filled("position", NUMBER),
                    filled("at", NUMBER),
                ],
                2,
            ),
            conflicts: table(
                "_rowferry_conflicts",
                vec![
                    filled("id", NAME),
                    filled("sync", TEXT),
                    filled("table_name", TEXT),
                    filled("row_key", TEXT),
                    filled("policy", TEXT),
                    filled("winner", TEXT),
                    ColumnDef::new("source", TEXT),
                    ColumnDef::new("target", TEXT),
                    filled("at", NUMBER),
                ],
                1,
            ),
            quarantine: table("_rowferry_quarantine", aside(), 1),
            waiting: table("_rowferry_waiting", aside(), 1),
            forms: table(
                "_rowferry_forms",
                vec![filled("n", NUMBER), filled("form", TEXT), filled("doubted", NUMBER)],
                1,
            ),
            floors: table(
                "_rowferry_floors",
                vec![
                    filled("n", NUMBER),
                    filled("upto", NUMBER),
                    filled("floor", BYTES),
                    filled("last", NUMBER),
                    filled("at", NUMBER),
                ],
                1,
            ),
            moves: {
                let mut moves = (*table(
                    "_rowferry_moves",
                    vec![
                        filled("n", NUMBER),
                        filled("number", NUMBER),
                        filled("birth", bytes(Version::BYTES)),
                        ColumnDef::new("moved_to", NUMBER),
                        filled("done", NUMBER),
                        filled("seq", NUMBER),
                        filled("clock", NUMBER),
                    ],
                    3,
                ))
                .clone();
                moves.indexes.push(by_seq("_rowferry_seq_moves", "seq"));
                Arc::new(moves)
            },
            shared: table(
                "_rowferry_shared",
                vec![filled("source", NAME), filled("n", NUMBER), filled("id", bytes(16)), filled("brought", NUMBER)],
                3,
            ),
        }
    }

    /// All of them, in the order in which they are made.
    #[must_use]
    pub fn all(&self) -> [&Arc<Table>; 12] {
        [
            &self.site,
            &self.tables,
            &self.forms,
            &self.marks,
            &self.readers,
            &self.cursors,
            &self.conflicts,
            &self.quarantine,
            &self.waiting,
            &self.shared,
            &self.moves,
            &self.floors,
        ]
    }
}

/// What a site keeps of one table: the log of its writes, and the versions of its rows.
#[derive(Debug, Clone)]
pub struct Book {
    /// The table.
    pub logged: Logged,
    /// Where writes to it are noted.
    pub log: ChangeLog,
    /// The entries of its rows: the key's columns, then version, birth, vector, digest, seq, facets.
    pub versions: Arc<Table>,
    /// Where facets of its columns are kept: those that make its content.
    pub facets: Option<Vec<Faceted>>,
    /// The key's columns alone.
    pub keys: Arc<Table>,
}

impl Book {
    /// That of a logged table.
    #[must_use]
    pub fn new(database: &dyn Database, logged: Logged, log: ChangeLog) -> Self {
        let key: Vec<ColumnDef> = logged
            .key
            .columns
            .iter()
            .map(|&at| ColumnDef {
                nullable: false,
                default: None,
                generated: false,
                dialect: None,
                identity: None,
                ..logged.table.columns[at].clone()
            })
            .collect();
        let width = key.len();
        let mut columns = key;
        columns.extend([
            filled("_rowferry_version", bytes(Version::BYTES)),
            filled("_rowferry_birth", bytes(Version::BYTES)),
            filled("_rowferry_vector", BYTES),
            ColumnDef::new("_rowferry_digest", bytes(16)),
            filled("_rowferry_seq", NUMBER),
            ColumnDef::new("_rowferry_columns", BYTES),
        ]);
        let mut versions = (*own(database, &format!("_rowferry_versions_{}", logged.n), columns, width)).clone();
        versions.name.schema.clone_from(&logged.table.name.schema);
        versions.indexes.push(by_seq(&format!("_rowferry_seq_{}", logged.n), "_rowferry_seq"));
        let keys = Arc::new(logged.table.project(&logged.key.columns));
        Self { logged, log, versions: Arc::new(versions), facets: None, keys }
    }

    /// The same, with facets of its columns.
    #[must_use]
    pub fn with_facets(mut self) -> Self {
        let content = self.logged.table.columns.iter().filter(|column| !column.generated);
        self.facets = Some(content.map(Faceted::of).collect());
        self
    }

    /// The key's column in the table, where it is one whole number, which rows can be given anew.
    #[must_use]
    pub fn number(&self) -> Option<usize> {
        let [column] = self.logged.key.columns[..] else { return None };
        matches!(self.logged.table.columns[column].logical, LogicalType::Int { .. }).then_some(column)
    }

    /// Number of key columns; they come first in `versions` and in `keys`.
    #[must_use]
    pub fn width(&self) -> usize {
        self.keys.columns.len()
    }

    /// Position of the digest in `versions`; NULL: the row was deleted.
    #[must_use]
    pub fn digest(&self) -> usize {
        self.width() + 3
    }

    /// Position of `seq` in `versions`.
    #[must_use]
    pub fn seq(&self) -> usize {
        self.width() + 4
    }

    /// Empty columns for the keys of some rows.
    #[must_use]
    pub fn no_keys(&self) -> Vec<Column> {
        vec![Column::default(); self.width()]
    }
}
