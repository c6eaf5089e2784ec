//! Writing: one connection, explicit transactions, prepared statements that are used again.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::config::DbConfig;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Statement, ToSql};

use super::connect::Worker;
use super::ddl::{quote, quote_table};
use super::error::{during, translate};
use super::types::{AsIs, Binder};
use super::{catalog, indexes, keyless};
use crate::engine::{Error, ErrorKind, Result, Target, WriteMode, WriteOptions, by_table, exchanged, orphans_told};
use crate::model::{Batch, Cell, Column, ColumnDef, Table, TableName};

/// A connection that writes.
pub(super) struct FileTarget {
    pub(super) worker: Worker,
    /// Tables that this transaction has inserted into.
    begun: Vec<TableName>,
    /// Statements that make the triggers and indexes again which this transaction has dropped.
    dropped: Vec<String>,
    /// How many of either there were at the savepoint.
    point: (usize, usize),
    /// Inserts held back, so that the thread need not be woken for each batch.
    held: Vec<Batch>,
    held_bytes: usize,
}

/// Bytes of rows that are held back.
const HELD_BYTES: usize = 2 << 20;

impl FileTarget {
    /// Writes over this connection.
    pub(super) fn new(worker: Worker) -> Self {
        Self { worker, begun: Vec::new(), dropped: Vec::new(), point: (0, 0), held: Vec::new(), held_bytes: 0 }
    }

    /// Writes what is held back.
    pub(super) async fn send(&mut self) -> Result<()> {
        let held = self.take_held();
        if held.is_empty() {
            return Ok(());
        }
        let mut begun = Vec::new();
        for batch in &held {
            if !self.begun.contains(&batch.table.name) {
                self.begun.push(batch.table.name.clone());
                begun.push(batch.table.clone());
            }
        }
        let work = move |conn: &mut Connection| {
            let mut dropped = Vec::new();
            for table in &begun {
                let failed = |e| during(format_args!("cannot write table {}", table.name))(e);
                dropped.extend(indexes::drop_for_load(conn, table).map_err(failed)?);
            }
            held.iter().try_for_each(|batch| write(conn, WriteMode::Insert, batch).map(drop))?;
            Ok(dropped)
        };
        self.dropped.extend(self.worker.call(work).await?);
        Ok(())
    }

    fn take_held(&mut self) -> Vec<Batch> {
        self.held_bytes = 0;
        std::mem::take(&mut self.held)
    }

    fn forget(&mut self) {
        self.take_held();
        self.begun.clear();
        self.dropped.clear();
        self.point = (0, 0);
    }
}

/// One statement of a write: which columns of how many rows are bound, in the order of its parameters.
struct Shape {
    sql: String,
    binds: Vec<usize>,
    rows: usize,
}

/// Rows and parameters of one INSERT at most. A statement costs as much as a few rows do; beyond
/// these numbers nothing more is gained.
const INSERT_ROWS: usize = 32;
const INSERT_PARAMETERS: usize = 512;

/// A name of the row number that no column hides.
fn rowid_name(table: &Table) -> Result<&'static str> {
    ["rowid", "_rowid_", "oid"]
        .into_iter()
        .find(|name| !table.columns.iter().any(|c| c.name.eq_ignore_ascii_case(name)))
        .ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                format!("table {} has neither a key nor a free name for its row number", table.name),
            )
        })
}

fn no_key(table: &Table) -> Error {
    Error::new(ErrorKind::Unsupported, format!("table {} has no key to find rows by", table.name))
}

/// `"a" = ?n` by bytes, whatever the column's collation.
fn matches_column(table: &Table, at: usize, parameter: usize) -> String {
    let column = &table.columns[at];
    let collate = if column.collation.is_some() { " COLLATE BINARY" } else { "" };
    format!("{}{collate} = ?{parameter}", quote(&column.name))
}

impl Shape {
    /// The statement for rows in which these columns are present; for INSERT of up to `rows` at once.
    fn new(mode: WriteMode, table: &Table, present: &[usize], rows: usize) -> Result<Self> {
        let name = quote_table(&table.name);
        let key = table.row_key().map(|k| k.columns);
        match mode {
            WriteMode::Insert => Ok(Self::insert(&name, table, present, rows)),
            WriteMode::Update => {
                let key = key.ok_or_else(|| no_key(table))?;
                Ok(Self::update(&name, table, present, &key))
            }
            WriteMode::Delete => {
                let binds = key.ok_or_else(|| no_key(table))?;
                let condition: Vec<String> =
                    binds.iter().enumerate().map(|(n, &at)| matches_column(table, at, n + 1)).collect();
                Ok(Self { sql: format!("DELETE FROM {name} WHERE {}", condition.join(" AND ")), binds, rows: 1 })
            }
        }
    }

    fn insert(name: &str, table: &Table, present: &[usize], rows: usize) -> Self {
        let binds: Vec<usize> = present.iter().copied().filter(|&c| !table.columns[c].generated).collect();
        if binds.is_empty() {
            return Self { sql: format!("INSERT OR FAIL INTO {name} DEFAULT VALUES"), binds, rows: 1 };
        }
        let rows = rows.min(INSERT_PARAMETERS / binds.len()).max(1);
        let columns: Vec<String> = binds.iter().map(|&c| quote(&table.columns[c].name)).collect();
        let marks = vec![format!("({})", vec!["?"; binds.len()].join(", ")); rows].join(", ");
        // FAIL even where the table says ON CONFLICT REPLACE. Not ABORT, which would keep a journal
        // for each statement of many rows: who writes has a savepoint to go back to.
        Self { sql: format!("INSERT OR FAIL INTO {name} ({}) VALUES {marks}", columns.join(", ")), binds, rows }
    }

    fn update(name: &str, table: &Table, present: &[usize], key: &[usize]) -> Self {
        let mut binds: Vec<usize> =
            present.iter().copied().filter(|c| !key.contains(c) && !table.columns[*c].generated).collect();
        let mut set: Vec<String> =
            binds.iter().enumerate().map(|(n, &c)| format!("{} = ?{}", quote(&table.columns[c].name), n + 1)).collect();
        if set.is_empty() {
            // Nothing but the key: the statement still tells whether the row is there.
            let only = quote(&table.columns[key[0]].name);
            set.push(format!("{only} = {only}"));
        }
        let first = binds.len() + 1;
        let condition: Vec<String> =
            key.iter().enumerate().map(|(n, &c)| matches_column(table, c, first + n)).collect();
        binds.extend_from_slice(key);
        let sql = format!("UPDATE OR ABORT {name} SET {} WHERE {}", set.join(", "), condition.join(" AND "));
        Self { sql, binds, rows: 1 }
    }
}

/// Columns whose value at a row is given.
fn present(batch: &Batch, row: usize) -> impl Iterator<Item = usize> + '_ {
    (0..batch.columns().len()).filter(move |&c| !matches!(batch.cell(row, c), Cell::Absent))
}

fn write(conn: &Connection, mode: WriteMode, batch: &Batch) -> Result<u64> {
    let complete = !batch.columns().iter().any(Column::has_absent);
    let bounds: Vec<Bound<'_>> = batch.table.columns.iter().zip(batch.columns()).map(Bound::new).collect();
    let mut affected = 0;
    let mut row = 0;
    while row < batch.rows() {
        // Rows of one shape follow each other nearly always.
        let given: Vec<usize> = present(batch, row).collect();
        let alike = |row: &usize| complete || present(batch, *row).eq(given.iter().copied());
        let end = row + (row..batch.rows()).take_while(alike).count();
        affected += if mode == WriteMode::Delete && batch.table.row_key().is_none() {
            let table = &*batch.table;
            let failed = |e| during(format_args!("cannot write table {}", table.name))(e);
            keyless::delete(conn, batch, row..end, &given, rowid_name(table)?).map_err(failed)?
        } else {
            write_alike(conn, mode, (batch, &bounds), row..end, &given)?
        };
        row = end;
    }
    Ok(affected)
}

/// A column of a batch, and how its values are bound.
struct Bound<'a> {
    column: &'a Column,
    binder: Binder,
    as_is: Option<AsIs<'a>>,
}

impl<'a> Bound<'a> {
    fn new((of, column): (&ColumnDef, &'a Column)) -> Self {
        let binder = Binder::new(of);
        Self { column, as_is: binder.as_is(column), binder }
    }
}

fn bind(
    statement: &mut Statement<'_>,
    places: impl Iterator<Item = usize>,
    values: impl IntoIterator<Item: ToSql>,
) -> rusqlite::Result<()> {
    places.zip(values).try_for_each(|(place, value)| statement.raw_bind_parameter(place, value))
}

/// Writes rows in which the same columns are present, many by one statement and the last few singly.
fn write_alike(
    conn: &Connection,
    mode: WriteMode,
    (batch, bounds): (&Batch, &[Bound<'_>]),
    mut rows: Range<usize>,
    given: &[usize],
) -> Result<u64> {
    let table = &*batch.table;
    let failed = |e| during(format_args!("cannot write table {}", table.name))(e);
    let mut scratch = String::new();
    let mut affected = 0;
    while !rows.is_empty() {
        let shape = Shape::new(mode, table, given, if rows.len() < INSERT_ROWS { 1 } else { INSERT_ROWS })?;
        let mut statement = conn.prepare_cached(&shape.sql).map_err(failed)?;
        while rows.len() >= shape.rows && !rows.is_empty() {
            // Column by column, as the values lie in memory.
            let these = rows.start..rows.start + shape.rows;
            for (n, &at) in shape.binds.iter().enumerate() {
                let places = (n + 1..).step_by(shape.binds.len());
                let bound = match &bounds[at].as_is {
                    Some(AsIs::Int(values)) => bind(&mut statement, places, &values[these.clone()]),
                    Some(AsIs::Real(values)) => bind(&mut statement, places, &values[these.clone()]),
                    Some(AsIs::Blob(values)) => bind(&mut statement, places, these.clone().map(|row| values.get(row))),
                    Some(AsIs::Text(values)) => {
                        let text = |row| ToSqlOutput::Borrowed(ValueRef::Text(values.get(row)));
                        bind(&mut statement, places, these.clone().map(text))
                    }
                    None => {
                        let Bound { column, binder, .. } = &bounds[at];
                        places.zip(these.clone()).try_for_each(|(place, row)| {
                            statement.raw_bind_parameter(place, binder.stored(column.cell(row), &mut scratch))
                        })
                    }
                };
                bound.map_err(failed)?;
            }
            affected += statement.raw_execute().map_err(failed)? as u64;
            rows.start += shape.rows;
        }
    }
    Ok(affected)
}

/// Begins; with the statements that make again what was dropped for this transaction.
fn begin(conn: &Connection, options: WriteOptions) -> Result<Vec<String>> {
    let failed = |e| during("cannot begin a transaction")(e);
    // This setting is ignored inside a transaction.
    conn.pragma_update(None, "foreign_keys", !options.defer_foreign_keys).map_err(failed)?;
    // The point is that of the first read.
    let begin = if options.point { "BEGIN; SELECT count(*) FROM main.sqlite_master" } else { "BEGIN IMMEDIATE" };
    conn.execute_batch(begin).map_err(failed)?;
    let noted = options.silence_triggers && !options.labelled && is_captured(conn).map_err(failed)?;
    // A line cannot be told to be ours where the application's own SQLite writes it: none is written.
    let triggers = noted || (!options.silence_triggers && !options.labelled);
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, triggers).map_err(failed)?;
    if noted { silence_singly(conn).map_err(failed) } else { Ok(Vec::new()) }
}

/// Whether change logs are kept here.
fn is_captured(conn: &Connection) -> rusqlite::Result<bool> {
    let own = "SELECT EXISTS (SELECT 1 FROM main.sqlite_master WHERE type = 'trigger' AND name LIKE '\\_rowferry\\_%' \
               ESCAPE '\\')";
    conn.query_row(own, [], |row| row.get(0))
}

/// Silences the user's triggers where those of change logs have to run: SQLite knows all of them or none, so they are
/// dropped in the transaction and made again at its end. Nobody else ever sees the database without them.
fn silence_singly(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let others = "SELECT name, sql FROM main.sqlite_master WHERE type = 'trigger' AND name NOT LIKE '\\_rowferry\\_%' \
                  ESCAPE '\\' ORDER BY rowid";
    let found: Vec<(String, String)> =
        conn.prepare(others)?.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
    for (name, _) in &found {
        conn.execute_batch(&format!("DROP TRIGGER main.{}", quote(name)))?;
    }
    Ok(found.into_iter().map(|(_, sql)| sql).collect())
}

/// The savepoint, when one is set.
const SAVEPOINT: &str = "rowferry_point";

fn savepoint(conn: &Connection) -> Result<()> {
    if conn.is_autocommit() {
        return Err(Error::new(ErrorKind::Protocol, "a savepoint needs a transaction"));
    }
    // Released if it is there: else it would pile up.
    let _ = conn.execute_batch(&format!("RELEASE {SAVEPOINT}"));
    conn.execute_batch(&format!("SAVEPOINT {SAVEPOINT}")).map_err(during("cannot set a savepoint"))
}

fn orphans(conn: &Connection, table: &Table) -> Result<Vec<String>> {
    if table.foreign_keys.is_empty() {
        return Ok(Vec::new());
    }
    let checking = || format!("cannot check the references of table {}", table.name);
    let mut statement = conn
        .prepare(
            "SELECT c.parent, c.fkid, count(*), (SELECT group_concat(\"from\", ', ') FROM \
             pragma_foreign_key_list(?1) l WHERE l.id = c.fkid) FROM pragma_foreign_key_check(?1) c GROUP BY 1, 2",
        )
        .map_err(during(checking()))?;
    let found = statement
        .query_map([&table.name.name], |r| {
            let (parent, count, columns): (String, i64, Option<String>) = (r.get(0)?, r.get(2)?, r.get(3)?);
            Ok(orphans_told(&table.name, count.unsigned_abs(), &columns.unwrap_or_default(), &parent))
        })
        .and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>);
    found.map_err(during(checking()))
}

fn renumber(conn: &Connection, (table, column): (&str, &str), from: i64, to: Option<i64>) -> rusqlite::Result<i64> {
    let numbered = conn
        .query_row("SELECT count(*) FROM sqlite_master WHERE name = 'sqlite_sequence'", [], |r| r.get::<_, i64>(0))?
        > 0;
    let given = if numbered { "(SELECT seq FROM sqlite_sequence WHERE lower(name) = lower(?1))" } else { "0 * ?1" };
    let (name, number) = (quote(table), quote(column));
    let next = format!("SELECT max(coalesce((SELECT max({number}) FROM {name}), 0), coalesce({given}, 0)) + 1");
    let to = match to {
        Some(to) => to,
        None => conn.query_row(&next, [table], |r| r.get(0))?,
    };
    // A reference without columns is one to the primary key, in the order of that.
    let mut referring = conn.prepare(
        "SELECT t.name, k.\"from\" FROM main.sqlite_master t, pragma_foreign_key_list(t.name) k WHERE t.type = 'table' \
         AND lower(k.\"table\") = lower(?1) AND lower(coalesce(k.\"to\", (SELECT i.name FROM pragma_table_info(?1) i \
         WHERE i.pk = k.seq + 1))) = lower(?2)",
    )?;
    let mut columns = vec![(table.to_owned(), column.to_owned())];
    let mut next = 0;
    while let Some((parent, of)) = columns.get(next).cloned() {
        let found = referring.query_map([parent, of], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?)))?;
        for found in found {
            let (child, of) = found?;
            let found = (if child.eq_ignore_ascii_case(table) { table.to_owned() } else { child }, of);
            if !columns.contains(&found) {
                columns.push(found);
            }
        }
        next += 1;
    }
    // Those that refer to it first, so that whatever is to happen to them finds none that does.
    columns.reverse();
    conn.execute_batch("PRAGMA defer_foreign_keys = ON")?;
    for (child, columns) in by_table(columns) {
        let columns: Vec<String> = columns.iter().map(|c| quote(c)).collect();
        let (set, of) = exchanged(&columns, from, to);
        conn.execute(&format!("UPDATE {} SET {set} WHERE {of}", quote(&child)), [])?;
    }
    if numbered {
        conn.execute("UPDATE sqlite_sequence SET seq = max(seq, ?2) WHERE lower(name) = lower(?1)", (table, to))?;
    }
    Ok(to)
}

#[async_trait]
impl Target for FileTarget {
    async fn stamp(&mut self) -> Result<Option<String>> {
        self.worker.same_file()?;
        let read = |conn: &mut Connection| conn.query_row("PRAGMA data_version", [], |r| r.get::<_, i64>(0));
        let version = self.worker.call(move |conn| read(conn).map_err(during("cannot look for changes"))).await?;
        Ok(Some(version.to_string()))
    }

    async fn begin(&mut self, options: WriteOptions) -> Result<()> {
        self.worker.same_file()?;
        self.forget();
        self.dropped = self.worker.call(move |conn| begin(conn, options)).await?;
        Ok(())
    }

    async fn write(&mut self, mode: WriteMode, batch: &Batch) -> Result<u64> {
        // Shares its columns, so that the thread owns what it reads.
        let batch = batch.clone();
        if mode == WriteMode::Insert {
            let rows = batch.rows() as u64;
            self.held_bytes += batch.size();
            self.held.push(batch);
            if self.held_bytes >= HELD_BYTES {
                self.send().await?;
            }
            return Ok(rows);
        }
        self.send().await?;
        self.worker.call(move |conn| write(conn, mode, &batch)).await
    }

    async fn flush(&mut self) -> Result<()> {
        self.send().await
    }

    async fn savepoint(&mut self) -> Result<()> {
        self.send().await?;
        self.point = (self.begun.len(), self.dropped.len());
        self.worker.call(|conn| savepoint(conn)).await
    }

    async fn rollback_to_savepoint(&mut self) -> Result<()> {
        self.take_held();
        self.begun.truncate(self.point.0);
        self.dropped.truncate(self.point.1);
        let sql = format!("ROLLBACK TO {SAVEPOINT}");
        self.worker.call(move |conn| conn.execute_batch(&sql).map_err(during("cannot go back to the savepoint"))).await
    }

    async fn renumber(&mut self, table: &Table, column: usize, from: i64, to: Option<i64>) -> Result<i64> {
        self.send().await?;
        let (table, column) = (table.name.name.clone(), table.columns[column].name.clone());
        self.worker
            .call(move |conn| {
                renumber(conn, (&table, &column), from, to)
                    .map_err(during(format_args!("cannot give row {from} of table {table} another number")))
            })
            .await
    }

    async fn commit(&mut self) -> Result<()> {
        self.send().await?;
        let dropped = std::mem::take(&mut self.dropped).join(";\n");
        self.worker
            .call(move |conn| {
                conn.execute_batch(&dropped)
                    .map_err(during("cannot make the triggers and indexes of a table again"))?;
                conn.execute_batch("COMMIT").map_err(during("cannot commit"))
            })
            .await
    }

    async fn rollback(&mut self) -> Result<()> {
        self.forget();
        self.worker
            .call(|conn| {
                // Some errors (a full disk) have rolled back already.
                if conn.is_autocommit() {
                    return Ok(());
                }
                conn.execute_batch("ROLLBACK").map_err(during("cannot roll back"))
            })
            .await
    }

    async fn execute(&mut self, sql: &str) -> Result<()> {
        self.send().await?;
        let sql = sql.to_owned();
        self.worker.call(move |conn| conn.execute_batch(&sql).map_err(during("a statement failed"))).await
    }

    async fn count_on(&mut self, table: &Table, last: i64) -> Result<()> {
        self.send().await?;
        let table = table.clone();
        self.worker
            .call(move |conn| {
                if catalog::numbered_upto(conn, &table)?.unwrap_or(i64::MIN) >= last || !catalog::counts(&table) {
                    return Ok(());
                }
                // The list has no index of its own that a conflict could be told by.
                let told = || -> rusqlite::Result<()> {
                    let name = &table.name.name;
                    let there = conn.execute(
                        "UPDATE main.sqlite_sequence SET seq = ?2 WHERE name = ?1 COLLATE NOCASE",
                        rusqlite::params![name, last],
                    )?;
                    if there == 0 {
                        let sql = "INSERT INTO main.sqlite_sequence (name, seq) SELECT name, ?2 FROM main.sqlite_schema \
                                   WHERE type = 'table' AND name = ?1 COLLATE NOCASE";
                        conn.execute(sql, rusqlite::params![name, last])?;
                    }
                    Ok(())
                };
                told().map_err(|e| translate(&e).of_table(&table.name))
            })
            .await
    }

    async fn verify(&mut self, tables: &[Arc<Table>]) -> Result<Vec<String>> {
        self.send().await?;
        // Numbering needs nothing: SQLite notes each number that is inserted.
        let tables = tables.to_vec();
        self.worker
            .call(move |conn| {
                let mut out = Vec::new();
                for table in &tables {
                    out.extend(orphans(conn, table)?);
                }
                Ok(out)
            })
            .await
    }
}
