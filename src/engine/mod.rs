//! The only place that names a database product.
//!
//! An engine is four small traits: [`Database`] opens connections and knows the dialect,
//! [`Source`] reads, [`Target`] writes. Chunking, ordering, retrying, comparing and progress are
//! written once, above.

mod error;
mod filter;
mod idle;
pub mod memory;
pub mod mysql;
pub mod postgres;
pub mod sqlite;
mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::Arc;

use async_trait::async_trait;

pub use error::{Error, ErrorKind, Result};
pub use sqlite::broken as files;

use crate::model::{Batch, BatchLimits, Column, ColumnDef, Key, LogicalType, Table, TableName, Value, Zone, temporal};

/// What this engine would do with a column of any engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedColumn {
    /// The column as this engine would have it: its own `native` type text, and the logical type
    /// that its reader would then report.
    pub column: ColumnDef,
    /// What cannot be kept, in one sentence part ("the spelling of JSON text"); `None`: exact.
    /// A narrower type whose values are each checked is exact.
    pub loss: Option<String>,
}

/// Statements that make a table, in three steps.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TableDdl {
    /// Before the rows: the table, with the keys that must exist from the start.
    pub create: Vec<String>,
    /// After the rows: keys and indexes that are built faster over all rows at once.
    pub after_rows: Vec<String>,
    /// After the rows of all tables: foreign keys. Empty where they are part of `create`.
    pub foreign_keys: Vec<String>,
    /// What could not be carried over (an expression index of another engine), for the plan.
    pub left_out: Vec<String>,
}

/// Which rows to read.
#[derive(Debug, Clone, PartialEq)]
pub enum Selection {
    /// Every row.
    All,
    /// Rows whose key is above `after` (exclusive) and not above `upto` (inclusive), in the order
    /// of [`crate::model::cell_order`] over the key's columns. Only with a row key.
    Range {
        /// Lower bound, excluded.
        after: Option<Vec<Value>>,
        /// Upper bound, included.
        upto: Option<Vec<Value>>,
    },
    /// Rows that lie in a stretch of the table as it is stored: one of those of [`Source::stretches`].
    Stretch {
        /// The engine's own number of the first place.
        from: u64,
        /// That of the first place behind it; the last stretch has no end.
        upto: Option<u64>,
    },
}

/// What to read.
#[derive(Debug, Clone)]
pub struct ReadRequest {
    /// The table, as [`Database::describe`] gave it, with only the columns wanted.
    pub table: Arc<Table>,
    /// A condition in the engine's own SQL, put in parentheses after WHERE.
    pub filter: Option<String>,
    /// Which rows.
    pub rows: Selection,
    /// Whether rows must come ordered by the row key ([`Table::row_key`]) in the order of
    /// [`crate::model::cell_order`]; an error when there is no row key.
    pub ordered: bool,
    /// Bounds of each batch.
    pub limits: BatchLimits,
}

/// How a write changes rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WriteMode {
    /// Rows that are not there. The engine's own bulk path. One that is there already is a
    /// `Constraint` error, never an overwrite.
    Insert,
    /// Rows that are there, found by the row key; all other columns are set.
    Update,
    /// Rows that are there, found by the row key (or, without one, by all columns, NULL-safe, one row
    /// deleted for each row given).
    Delete,
}

/// How a transaction of a target is to behave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Do not run the user's own triggers, where the engine can do that.
    pub silence_triggers: bool,
    /// Do not check foreign keys row by row: [`Target::verify`] does at the end.
    pub defer_foreign_keys: bool,
    /// Mark what the change logs take down of this transaction's writes as rowferry's own
    /// ([`ChangeLog::LABEL`]), or keep it out of them where the engine can do only that.
    pub labelled: bool,
    /// Only read, at one point. It holds up nobody who writes (in SQLite outside WAL mode: nobody for longer than it
    /// takes, so it should be short).
    pub point: bool,
}

impl WriteOptions {
    /// Rows are written as they stand elsewhere, where all that follows from them has happened already: triggers are
    /// silenced and foreign keys left to the end.
    pub const QUIET: Self = Self { silence_triggers: true, defer_foreign_keys: true, labelled: false, point: false };
}

/// What to do about the locks of rows that are looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowLock {
    /// Read what is committed.
    None,
    /// Lock each row until the transaction ends, as a write would, and wait for those that hold it.
    Wait,
    /// As [`Self::Wait`], but rows that another transaction holds are left out. An engine that locks whole files has
    /// waited when the transaction began.
    SkipHeld,
    /// Keep each row from being deleted until the transaction ends, as one that refers to it would; rows that another
    /// transaction is deleting, or holds in any other way that the engine cannot tell from that, are left out.
    Keep,
}

/// A table whose writes are to be logged.
#[derive(Debug, Clone)]
pub struct Logged {
    /// Number of its log among those of the database, from 1: names have bounds, numbers fit.
    pub n: u32,
    /// The table, whole, as [`Database::describe`] gave it.
    pub table: Arc<Table>,
    /// The key that its rows are told apart by.
    pub key: Key,
}

/// The change log of one table: where its triggers write down which keys were written, and nothing else.
///
/// Each line holds, besides the logged table's key columns under their own names and types (any of them may be NULL),
/// the columns named here. Lines are taken out by [`WriteMode::Delete`], found by the log's own row key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeLog {
    /// The log, as it is read: with a row key of its own, which need not be a column of the catalogue.
    pub table: Arc<Table>,
    /// Statements that put the log and its triggers in place, in this order, in one transaction where DDL is part of
    /// one. They may run again; none of them waits for a lock longer than a second.
    pub install: Vec<String>,
    /// Names of the triggers that `install` makes.
    pub triggers: Vec<String>,
    /// Statements that remove the triggers from wherever they stand, so that `install` can make them anew where they
    /// belong; empty where it does so by itself. They may run again.
    pub unhook: Vec<String>,
    /// The statement that adds a line which says that rows were written unseen.
    pub doubt: String,
    /// Statements that remove triggers and log without a trace. They may run again.
    pub remove: Vec<String>,
}

/// A table itself, whatever its name and its form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Object {
    /// A text that is another one once another table stands under its name, a trigger of ours on it is another, or it or a
    /// partition of it came, went or was emptied, as far as the engine can tell.
    pub which: String,
    /// A text that is another one when the table was made anew with all its rows, which changes `which` too; empty where
    /// that leaves `which` as it is.
    pub made: String,
}

impl ChangeLog {
    /// Column: `I` a row was inserted under this key, `U` it was updated, `D` deleted, `T` it may be gone (a statement
    /// that replaces rows touched it), `X` every row is gone (the key is NULL), `?` any row may be another or gone (the
    /// key is NULL).
    pub const OPERATION: &'static str = "_rowferry_op";
    /// Column: when, in microseconds since 1970 by the database's clock; of a type whose carrier is `Int`.
    pub const WALL: &'static str = "_rowferry_at";
    /// Column: 1 for what rowferry itself wrote ([`WriteOptions::labelled`]), else 0 or NULL.
    pub const LABEL: &'static str = "_rowferry_label";
}

/// Which names an engine takes for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Letters {
    /// Each letter counts.
    Exact,
    /// Capitals of A to Z count as small ones.
    FoldAscii,
    /// All capitals count as small ones.
    Fold,
}

impl Letters {
    /// The form in which two names are equal exactly when the engine takes them for one.
    #[must_use]
    pub fn fold(self, name: &str) -> String {
        match self {
            Self::Exact => name.to_owned(),
            Self::FoldAscii => name.to_ascii_lowercase(),
            Self::Fold => name.to_lowercase(),
        }
    }
}

/// What an engine can and cannot do: asked by the pipeline instead of the product's name.
#[derive(Debug, Clone, Copy)]
pub struct Abilities {
    /// Short name of the product, the same for all versions; two ends with one name are one engine.
    pub product: &'static str,
    /// Writers at a time that make sense (1 for SQLite).
    pub writers: usize,
    /// Whether several [`Source`]s opened with one [`Database::snapshot`] see the same rows.
    pub shared_snapshot: bool,
    /// Whether user triggers at the target can be kept from running.
    pub silences_triggers: bool,
    /// Whether DDL is part of a transaction.
    pub transactional_ddl: bool,
    /// Which names of tables are one.
    pub table_names: Letters,
    /// Which names of columns are one.
    pub column_names: Letters,
    /// Contents of one transaction of a load, about, in bytes.
    pub load_bytes: usize,
    /// Lines of change logs that one transaction takes up: few where it locks a whole file meanwhile.
    pub log_lines: usize,
}

/// Held until it is dropped, or its connection ends: see [`Database::lock`].
#[async_trait]
pub trait Lock: Send + Sync {
    /// Whether it is held still.
    async fn is_held(&mut self) -> bool;
}

/// A point that several sources read at; engine-specific text, empty where there is none.
/// It holds until it is dropped.
#[async_trait]
pub trait Snapshot: Send + Sync {
    /// A new connection that reads at this point (where [`Abilities::shared_snapshot`], else at a
    /// consistent point of its own, fixed at its first read).
    async fn source(&self) -> Result<Box<dyn Source>>;
}

/// A reachable database.
///
/// Contract: methods may be called concurrently; each takes what connections it needs and gives
/// them back. Names come from the catalogue and are quoted by the engine. A missing table is
/// `None` or `SchemaMismatch`, never empty.
#[async_trait]
pub trait Database: Send + Sync {
    /// The URL without its secrets.
    fn label(&self) -> &str;
    /// Product and version, for people.
    fn version(&self) -> &str;
    /// What it can do.
    fn abilities(&self) -> Abilities;
    /// The zone in which its naive timestamps stand.
    fn zone(&self) -> &Zone;
    /// Text that is the same for two connections exactly when they reach one database and schema,
    /// however their URLs spell it.
    async fn identity(&self) -> Result<String>;
    /// Names of the user's tables of this database's own schema, without views, system tables and
    /// `_rowferry_*`, sorted. With `pattern_schema`, those of that schema.
    async fn tables(&self, schema: Option<&str>) -> Result<Vec<TableName>>;
    /// A table with columns, keys, indexes, references and user triggers; `None` when missing.
    async fn describe(&self, name: &TableName) -> Result<Option<Table>>;
    /// As [`Self::describe`], of many tables, none twice, in their order: what the catalogue knows is asked of all at once.
    async fn describe_all(&self, names: &[TableName]) -> Result<Vec<Option<Table>>> {
        let mut tables = Vec::with_capacity(names.len());
        for name in names {
            tables.push(self.describe(name).await?);
        }
        Ok(tables)
    }
    /// What stands under these names and is no table, in a word (`view`): no table can be made there. Nothing is told of
    /// names that are free or a table's.
    async fn taken(&self, names: &[TableName]) -> Result<BTreeMap<TableName, String>> {
        let _ = names;
        Ok(BTreeMap::new())
    }
    /// Names of rowferry's own tables, in whatever schema.
    async fn own_tables(&self) -> Result<BTreeSet<TableName>>;
    /// What this engine would make of a column of `table` (a table of any engine, this one's too).
    /// Its `native` text is this engine's own or empty. Pure.
    fn map_column(&self, table: &Table, column: &ColumnDef) -> MappedColumn;
    /// Statements that create `table`, whose columns have been through [`Self::map_column`].
    /// Names of indexes and constraints are made to fit, those of indexes to be unique too. Pure.
    fn ddl(&self, table: &Table) -> TableDdl;
    /// Whether these tables could be made here by their statements up to the foreign keys. Leaves
    /// nothing behind; where the engine cannot try, it says yes. The error names table and reason.
    async fn rehearse(&self, tables: &[(Arc<Table>, TableDdl)]) -> Result<()>;
    /// Names of foreign keys that are taken here, in small letters, where one name may stand only once in a database;
    /// `None` where such names belong to their table.
    async fn foreign_key_names(&self) -> Result<Option<BTreeSet<String>>> {
        Ok(None)
    }
    /// Whom the reading of a table here keeps waiting, in one sentence; `None`: nobody.
    async fn reading_hinders(&self) -> Result<Option<String>> {
        Ok(None)
    }
    /// Schemas of this database besides its own that hold tables of the user, sorted.
    async fn other_schemas(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
    /// The statement that drops a table. Pure.
    fn drop_ddl(&self, name: &TableName) -> String;
    /// The statements that give a column of one of our own tables another name or another type that holds its values.
    /// None of them waits for a lock longer than a second. Pure.
    fn alter_column_ddl(&self, table: &TableName, column: &str, to: &ColumnDef) -> Vec<String>;
    /// Why a table, column or index of this name cannot be made here; `None`: it can. Pure.
    fn name_fault(&self, name: &str) -> Option<String>;
    /// Rows of `data` that a column here would change or refuse although they have its logical
    /// type, with the reason (NUL in text, a year out of range, -0.0). Pure; called before each
    /// write, so it must be quick for the ordinary case.
    fn misfits(&self, column: &ColumnDef, data: &Column) -> Vec<(usize, String)>;
    /// A condition that all rows meet whose timestamp `column` tells no moment, or one that is not before `moment`
    /// (microseconds since 1970), and few others; `None`: this engine has none for such a column. Pure.
    fn since(&self, column: &ColumnDef, moment: i64) -> Option<String> {
        let _ = (column, moment);
        None
    }
    /// A condition that those rows meet in which a column is not set: it holds NULL, or where it holds numbers or truth
    /// values 0 or false; `None`: this engine has none. Pure.
    fn unset(&self, column: &ColumnDef) -> Option<String> {
        let _ = column;
        None
    }
    /// The change logs of these tables, in their order: of all that are logged here, since a write to one may change
    /// rows of another. Names of what they are made of begin with `_rowferry_`. Pure.
    ///
    /// # Errors
    /// `Unsupported` where writes to a table would go by unseen.
    fn change_logs(&self, tables: &[Logged]) -> Result<Vec<ChangeLog>>;
    /// What stands against capturing these tables with this account: a right that is missing, a setting of the server, a
    /// table of another kind. One sentence each, which says what to do. Changes nothing.
    async fn capture_faults(&self, tables: &[TableName]) -> Result<Vec<String>>;
    /// The triggers of rowferry's own that are in place and switched on, by name, sorted.
    async fn own_triggers(&self) -> Result<Vec<String>>;
    /// Which table stands under each of these names; of one that is not there nothing is told.
    async fn objects(&self, names: &[TableName]) -> Result<Vec<Object>>;
    /// The lock of this name in this database and schema, which one holder among all processes has
    /// until it drops it or dies; `None` when another has it. It leaves nothing behind.
    async fn lock(&self, name: &str) -> Result<Option<Box<dyn Lock>>>;
    /// The last number that this table has given out by itself, or that its numbering was told of, whether or not a row holds
    /// it still. `None`: it numbers nothing, has given out nothing, or this engine or account cannot tell.
    async fn numbered_upto(&self, table: &Table) -> Result<Option<i64>>;
    /// Opens a point to read at.
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>>;
    /// A connection to write with.
    async fn target(&self) -> Result<Box<dyn Target>>;
}

/// A table that is asked whether it holds a row.
#[derive(Debug, Clone)]
pub struct Looked {
    /// The table.
    pub table: Arc<Table>,
    /// Only rows count that hold more than this in this whole-number column, which has an index.
    pub above: Option<(usize, i64)>,
}

/// Single rows, and bookkeeping in its order, inside the open transaction: each call sees what is committed when it
/// begins and what the transaction itself has written (with [`WriteOptions::point`]: one point throughout).
#[async_trait]
pub trait Lookup: Send {
    /// The rows of `table` that agree with a row of `keys` in all columns of `keys`, which `table` has under the same
    /// names (NULL agrees with NULL); in no particular order. `keys` has no row twice.
    async fn lookup(&mut self, table: &Arc<Table>, keys: &Batch, lock: RowLock) -> Result<Batch>;
    /// As [`Self::lookup`] without locks, those rows only that meet `condition`, in the engine's own SQL (one that
    /// [`Source::check`] has let pass).
    async fn lookup_where(&mut self, table: &Arc<Table>, keys: &Batch, condition: &str) -> Result<Batch>;
    /// How many rows [`Self::lookup`] would find.
    async fn count(&mut self, table: &Arc<Table>, keys: &Batch) -> Result<u64>;
    /// At most `limit` rows of `table`: those that hold in the whole-number column `above.0` more than `above.1`, by
    /// that column ascending; without `above` any rows, in no particular order.
    async fn scan(&mut self, table: &Arc<Table>, above: Option<(usize, i64)>, limit: usize) -> Result<Batch>;
    /// For each of these tables whether it holds a row; with a bound, one that holds more than that in a whole-number
    /// column. Those that are looked at may be many, and nearly all without one: it costs far less than a scan of each.
    /// It may be asked outside of a transaction too, and answers as of one point in any case.
    async fn holding(&mut self, tables: &[Looked]) -> Result<Vec<bool>> {
        let mut holding = Vec::with_capacity(tables.len());
        for looked in tables {
            holding.push(self.scan(&looked.table, looked.above, 1).await?.rows() > 0);
        }
        Ok(holding)
    }
    /// What the database's clock shows, in microseconds since 1970.
    async fn now(&mut self) -> Result<i64>;
}

/// A connection that reads.
///
/// Contract: one stream at a time; dropping a stream before its end is allowed and stops the
/// reading. Never locks writers. A value is delivered exactly or as an escape, never changed.
#[async_trait]
pub trait Source: Send {
    /// Rows that match, exactly.
    async fn count(&mut self, table: &Table, filter: Option<&str>) -> Result<u64>;
    /// The table in stretches of about so many bytes, which together hold each row of it once, for several sources of one
    /// point to read side by side. One, [`Selection::All`], where the engine has no such point or the table no such
    /// places.
    async fn stretches(&mut self, table: &Table, bytes: u64) -> Result<Vec<Selection>> {
        let _ = (table, bytes);
        Ok(vec![Selection::All])
    }
    /// Prepares the request without reading: unknown column, bad filter.
    async fn check(&mut self, request: &ReadRequest) -> Result<()>;
    /// Starts reading.
    async fn read<'a>(&'a mut self, request: &ReadRequest) -> Result<Box<dyn BatchStream + 'a>>;
}

/// Batches in order.
#[async_trait]
pub trait BatchStream: Send {
    /// The next one, never empty; `None` at the end.
    async fn next(&mut self) -> Result<Option<Batch>>;
}

/// A connection that writes, in explicit transactions.
///
/// Contract: nothing is durable before [`Self::commit`] returns; after an error inside a
/// transaction only [`Self::rollback`] (or [`Self::rollback_to_savepoint`] where one was set) is
/// valid; dropping rolls back. A batch given to [`Self::write`] has the columns of the *target's*
/// table, already fitted.
#[async_trait]
pub trait Target: Lookup {
    /// Outside a transaction: a text of which two that are equal say that nobody else has committed anything to this
    /// database between them, at the cost of one short question; `None` where the engine cannot tell. What this
    /// connection itself has committed may or may not change it.
    ///
    /// # Errors
    /// `Unreachable` when the connection reaches another database than a new one would.
    async fn stamp(&mut self) -> Result<Option<String>>;
    /// Begins a transaction.
    ///
    /// # Errors
    /// `Unreachable` as with [`Self::stamp`], and what the database says.
    async fn begin(&mut self, options: WriteOptions) -> Result<()>;
    /// Writes a batch; returns the rows affected (for [`WriteMode::Update`], rows *found*, changed
    /// or not). Writes of consecutive inserts may be held back until [`Self::flush`]; errors of held
    /// back rows surface there. Generated columns of the batch are skipped.
    async fn write(&mut self, mode: WriteMode, batch: &Batch) -> Result<u64>;
    /// Everything written so far has reached the server and was accepted.
    async fn flush(&mut self) -> Result<()>;
    /// Sets the one savepoint anew (flushes first).
    async fn savepoint(&mut self) -> Result<()>;
    /// Back to the savepoint, which stays set.
    async fn rollback_to_savepoint(&mut self) -> Result<()>;
    /// Gives the row that has this number in a whole-number `column`, by itself a key of the table, the number `to`, with
    /// all that refers to it in whatever table of this database; without `to` the next one that the database would give
    /// out. The number is not given out again. Flushes first, unsets the savepoint; in a transaction that keeps foreign keys
    /// as they are. Returns the number.
    ///
    /// # Errors
    /// `Constraint` where a reference forbids it, or another row has that number.
    async fn renumber(&mut self, table: &Table, column: usize, from: i64, to: Option<i64>) -> Result<i64>;
    /// Flushes and commits.
    async fn commit(&mut self) -> Result<()>;
    /// Rolls back; harmless without a transaction.
    async fn rollback(&mut self) -> Result<()>;
    /// Runs a statement in the engine's own words, such as those of [`Database::ddl`], outside (or,
    /// where DDL is transactional, inside) a transaction.
    async fn execute(&mut self, statement: &str) -> Result<()>;
    /// Outside a transaction: has the numbering of this table go on behind `last`, unless it is further already or keeps no
    /// more than the highest number present.
    async fn count_on(&mut self, table: &Table, last: i64) -> Result<()>;
    /// After the rows of these tables: sets their numbering past the highest number present, and
    /// returns one sentence per foreign key that has orphans (empty: all hold).
    async fn verify(&mut self, tables: &[Arc<Table>]) -> Result<Vec<String>>;
}

/// The text of the earliest clock reading that a moment may have in a column of this type: a reading without a zone is up
/// to half a day off.
fn earliest_reading(logical: &LogicalType, zone: &Zone, moment: i64) -> Option<String> {
    const DAY: i64 = 24 * 3600 * 1_000_000;
    /// Years that all engines can read.
    const FIRST: i64 = -DAY * 365 * 100;
    let LogicalType::Timestamp { zoned, .. } = logical else { return None };
    let exact = *zoned || zone.name() == "UTC";
    let reading = if exact { moment } else { moment.saturating_sub(DAY) };
    let mut text = String::new();
    temporal::write_timestamp(&mut text, reading.max(FIRST), 6);
    Some(text)
}

/// The condition of [`Database::unset`], of a column by its quoted name.
fn unset(column: &str, logical: &LogicalType) -> String {
    match logical {
        LogicalType::Bool => format!("({column} IS NULL OR NOT {column})"),
        LogicalType::Int { .. } => format!("({column} IS NULL OR {column} = 0)"),
        _ => format!("{column} IS NULL"),
    }
}

/// The error of an engine without stretches that is asked for one.
fn no_stretch(table: &Table) -> Error {
    Error::new(ErrorKind::Protocol, format!("table {} has no stretches to be read by", table.name))
}

/// Columns that hold a number and those that refer to it, each table once: of one statement for each.
fn by_table<T: PartialEq>(columns: Vec<(T, String)>) -> Vec<(T, Vec<String>)> {
    let mut tables: Vec<(T, Vec<String>)> = Vec::new();
    for (table, column) in columns {
        match tables.iter_mut().find(|(name, _)| *name == table) {
            Some((_, columns)) if columns.contains(&column) => {}
            Some((_, columns)) => columns.push(column),
            None => tables.push((table, vec![column])),
        }
    }
    tables
}

/// The assignments, and the condition, by which some columns of a table, quoted, exchange one number for another.
fn exchanged(columns: &[String], from: i64, to: i64) -> (String, String) {
    let set = columns.iter().map(|c| format!("{c} = CASE WHEN {c} = {from} THEN {to} ELSE {c} END"));
    let of = columns.iter().map(|c| format!("{c} = {from}"));
    (set.collect::<Vec<_>>().join(", "), of.collect::<Vec<_>>().join(" OR "))
}

/// The sentence of [`Target::verify`] about `count` rows of `table` whose parent is not there.
fn orphans_told(table: &TableName, count: u64, columns: &str, parent: &dyn Display) -> String {
    let (rows, are) = if count == 1 { ("row refers to a row", "is") } else { ("rows refer to rows", "are") };
    format!("table {table}: {count} {rows} in {parent} that {are} not there (columns {columns})")
}

/// What URLs look like, for people.
pub const URLS: &str = "URLs: sqlite:PATH, mysql:// or mariadb://USER:PASSWORD@HOST:PORT/DATABASE, postgres://… likewise. \
    After a '?' they take parameters in each driver's own names, joined by '&': sqlite: busy_timeout; mysql: ssl-mode, \
    ssl-ca, socket, connect_timeout; postgres: sslmode, sslrootcert, connect_timeout, and schema=NAME for a schema \
    other than the search path's first.";

/// How connections are opened.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// Whether a missing SQLite file is made.
    pub create: bool,
    /// The zone in which its naive timestamps stand.
    pub zone: Zone,
}

/// Opens a database by URL: `sqlite:PATH`, `mysql://`, `mariadb://`, `postgres://`, `postgresql://`.
/// Connects once, so that a wrong URL, a missing file or a refused password is told here.
///
/// # Errors
/// `Usage` for a URL that names no engine or a file that is no database, `Unreachable`, `Denied`.
pub async fn open(url: &str, options: &OpenOptions) -> Result<Arc<dyn Database>> {
    let scheme = url.split(':').next().unwrap_or_default();
    match scheme {
        "sqlite" => Ok(Arc::new(sqlite::open(url, options).await?)),
        "mysql" | "mariadb" => Ok(Arc::new(mysql::open(url, options).await?)),
        "postgres" | "postgresql" => Ok(Arc::new(postgres::open(url, options).await?)),
        // A path of Windows; anything else may be an account with its password.
        drive if drive.len() == 1 && url.get(2..).is_some_and(|path| path.starts_with(['\\', '/'])) => {
            Err(Error::new(ErrorKind::Usage, format!("'{url}' is no database URL: a SQLite file is sqlite:{url}")))
        }
        _ => Err(Error::new(
            ErrorKind::Usage,
            format!(
                "'{}' is no database URL: it must begin with sqlite:, mysql://, mariadb://, postgres:// or postgresql://",
                scheme.chars().take(40).collect::<String>()
            ),
        )),
    }
}
