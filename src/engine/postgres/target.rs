//! Writing: COPY straight into the table, or into a temporary one that a statement then applies.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::SinkExt as _;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{CopyInSink, Statement};

use super::codec::{Wire, encode, encode_text};
use super::connect::Session;
use super::lookup::{given, values};
use super::types::{bare, ident, literal, table_name};
use super::{Shared, error, log};
use crate::engine::{Error, ErrorKind, Result, Target, WriteMode, WriteOptions, by_table, exchanged, orphans_told};
use crate::model::{Batch, Cell, Column, Table, TableName};

/// Rows up to which a statement takes the values with it.
const FEW: usize = 32;
/// Bytes sent at a time.
const CHUNK: usize = 256 * 1024;

/// A COPY that is under way.
struct OpenCopy {
    sink: Pin<Box<CopyInSink<Bytes>>>,
    /// Positions in the batch and how each travels.
    columns: Vec<(usize, Wire)>,
    statement: String,
    table: TableName,
    binary: bool,
    buffer: Vec<u8>,
    rows: u64,
}

/// A connection that writes.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    /// It goes back when nothing is open in it.
    pub(super) session: Arc<Session>,
    /// Whether the transaction reads at one point.
    pub(super) point: bool,
    copy: Option<OpenCopy>,
    /// Temporary tables of this transaction by the select that made them.
    staging: HashMap<String, String>,
    numbered: u64,
    in_transaction: bool,
    /// Statements that look at many tables, by their text: the server keeps the plan.
    pub(super) looks: HashMap<String, Statement>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.in_transaction && self.copy.is_none() {
            self.shared.written.put(self.session.clone());
        }
    }
}

impl Writer {
    /// Opens one.
    pub(super) async fn open(shared: Arc<Shared>) -> Result<Self> {
        let session = match shared.written.take().filter(|session| !session.client.is_closed()) {
            Some(session) => session,
            None => Arc::new(shared.connector.lasting(&shared.schema).await?),
        };
        let (staging, looks) = (HashMap::new(), HashMap::new());
        Ok(Self { shared, session, point: false, copy: None, staging, numbered: 0, in_transaction: false, looks })
    }

    async fn run(&self, sql: &str) -> Result<()> {
        self.session.client.batch_execute(sql).await.map_err(|e| error::from(&e))
    }

    async fn copy(&mut self, into: &str, batch: &Batch) -> Result<()> {
        let table = &batch.table;
        let columns: Vec<(usize, Wire)> =
            written(table).into_iter().map(|c| (c, Wire::of(&table.columns[c].logical))).collect();
        let binary = columns.iter().all(|(_, w)| *w != Wire::Cast);
        let names: Vec<String> = columns.iter().map(|(c, _)| ident(&table.columns[*c].name)).collect();
        let format = if binary { "binary" } else { "text" };
        let statement = format!("COPY {into} ({}) FROM STDIN (FORMAT {format})", names.join(", "));
        if self.copy.as_ref().is_some_and(|c| c.statement != statement) {
            self.finish().await?;
        }
        if self.copy.is_none() {
            let sink = self.session.client.copy_in(&statement).await.map_err(|e| error::from(&e))?;
            let mut buffer = Vec::with_capacity(CHUNK + CHUNK / 4);
            if binary {
                buffer.extend_from_slice(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
            }
            let name = table.name.clone();
            self.copy =
                Some(OpenCopy { sink: Box::pin(sink), columns, statement, table: name, binary, buffer, rows: 0 });
        }
        let mut scratch = Vec::new();
        for row in 0..batch.rows() {
            let Some(copy) = &mut self.copy else { return Ok(()) };
            if let Err(e) = encode_row(copy, batch, row, &mut scratch) {
                // Dropping the sink fails the COPY at the server too.
                self.copy = None;
                return Err(e.context(format_args!("table {}", batch.table.name)));
            }
            if copy.buffer.len() >= CHUNK {
                let mut rest = Bytes::from(std::mem::replace(&mut copy.buffer, Vec::with_capacity(CHUNK + CHUNK / 4)));
                // In pieces: the driver copies what it is given.
                while let Some(copy) = self.copy.as_mut().filter(|_| !rest.is_empty()) {
                    let piece = rest.split_to(rest.len().min(2 * CHUNK));
                    if copy.sink.send(piece).await.is_err() {
                        // The reason comes with the end of the COPY.
                        self.finish().await?;
                        return Err(Error::new(ErrorKind::Unreachable, "PostgreSQL ended a COPY early"));
                    }
                }
            }
        }
        Ok(())
    }

    /// Ends the COPY that is under way; its errors surface here.
    pub(super) async fn finish(&mut self) -> Result<()> {
        let Some(mut copy) = self.copy.take() else { return Ok(()) };
        if copy.binary {
            copy.buffer.extend_from_slice(&(-1_i16).to_be_bytes());
        }
        let buffer = std::mem::take(&mut copy.buffer);
        if !buffer.is_empty() {
            // An error here repeats itself, with its reason, in `finish`.
            let _ = copy.sink.send(Bytes::from(buffer)).await;
        }
        let taken = copy.sink.as_mut().finish().await.map_err(|e| error::from(&e).of_table(&copy.table.name))?;
        if taken != copy.rows {
            return Err(Error::new(
                ErrorKind::Constraint,
                format!("table {} took {taken} of {} rows: a trigger of it drops rows", copy.table, copy.rows),
            ));
        }
        Ok(())
    }

    /// Copies a batch into a temporary table of the target's column types.
    async fn stage(&mut self, batch: &Batch) -> Result<String> {
        self.finish().await?;
        let table = &batch.table;
        let names: Vec<String> = written(table).into_iter().map(|c| ident(&table.columns[c].name)).collect();
        let select = format!("SELECT {} FROM {}", names.join(", "), table_name(&self.shared.schema, &table.name));
        let staging = if let Some(name) = self.staging.get(&select) {
            let name = name.clone();
            self.run(&format!("TRUNCATE {name}")).await?;
            name
        } else {
            self.numbered += 1;
            let name = format!("pg_temp._rowferry_s{}", self.numbered);
            self.run(&format!(
                "CREATE TEMP TABLE _rowferry_s{} ON COMMIT DROP AS {select} WITH NO DATA",
                self.numbered
            ))
            .await?;
            self.staging.insert(select, name.clone());
            name
        };
        self.copy(&staging, batch).await?;
        self.finish().await?;
        Ok(staging)
    }

    async fn update(&mut self, batch: &Batch) -> Result<u64> {
        let table = batch.table.clone();
        let key = table.row_key().ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, format!("table {} has no key to find rows by", table.name))
        })?;
        if batch.rows() <= FEW {
            return self.update_few(batch, &key.columns).await;
        }
        let staging = self.stage(batch).await?;
        let name = table_name(&self.shared.schema, &table.name);
        let sets: Vec<String> = written(&table)
            .into_iter()
            .filter(|c| !key.columns.contains(c))
            .map(|c| ident(&table.columns[c].name))
            .map(|c| format!("{c} = s.{c}"))
            .collect();
        let same = matching(&table, &key.columns);
        if sets.is_empty() {
            let sql = format!("SELECT count(*) FROM {name} t, {staging} s WHERE {same}");
            let row = self.session.client.query_one(&sql, &[]).await.map_err(|e| error::from(&e))?;
            return Ok(row.get::<_, i64>(0).unsigned_abs());
        }
        // By the index: a join alone may read the whole table.
        let by_key = match &*key.columns {
            [one] => format!(" AND t.{0} = ANY (ARRAY(SELECT {0} FROM {staging}))", ident(&table.columns[*one].name)),
            _ => String::new(),
        };
        let sets = sets.join(", ");
        self.change(&table, &format!("UPDATE {name} t SET {sets} FROM {staging} s WHERE {same}{by_key}")).await
    }

    /// Without a temporary table, which costs more than a few rows do.
    async fn update_few(&mut self, batch: &Batch, key: &[usize]) -> Result<u64> {
        self.finish().await?;
        let table = batch.table.clone();
        let columns = written(&table);
        let given = values(batch, &columns).map_err(|e| e.context(format_args!("table {}", table.name)))?;
        let name = table_name(&self.shared.schema, &table.name);
        let pairs = |set: bool, between: &str| {
            let wanted = columns.iter().enumerate().filter(|(_, c)| set != key.contains(c));
            let pairs = wanted.map(|(at, &c)| {
                let (left, column) = (if set { "" } else { "t." }, &table.columns[c]);
                format!("{left}{} = s.k{}::{}", ident(&column.name), at + 1, bare(&column.native))
            });
            pairs.collect::<Vec<_>>().join(between)
        };
        let (sets, same) = (pairs(true, ", "), pairs(false, " AND "));
        let sql = if sets.is_empty() {
            format!("SELECT FROM {name} t, {} WHERE {same}", given.0)
        } else {
            format!("UPDATE {name} t SET {sets} FROM {} WHERE {same}", given.0)
        };
        let arrays: Vec<(&(dyn ToSql + Sync), Type)> = given.1.iter().map(|a| (a as _, Type::TEXT_ARRAY)).collect();
        let done = self.session.client.execute_typed(&sql, &arrays).await;
        done.map_err(|e| error::from(&e).of_table(&table.name.name))
    }

    async fn delete(&mut self, batch: &Batch) -> Result<u64> {
        let table = batch.table.clone();
        let name = table_name(&self.shared.schema, &table.name);
        let Some(key) = table.row_key() else { return self.delete_keyless(batch, &name).await };
        // Only the key is needed, and a delete may carry nothing else.
        let keys = Batch::new(
            Arc::new(table.project(&key.columns)),
            key.columns.iter().map(|&c| batch.columns()[c].clone()).collect(),
        );
        self.finish().await?;
        let mut deleted = 0;
        for given in given(&table, &keys)? {
            let same = &given.same;
            // A row key is never NULL.
            let Some(list) = &given.keys else { continue };
            let sql = if log::is_log(&table) {
                // Each line is fetched from its place: a join might read all lines to find these.
                format!(
                    "DELETE FROM {name} WHERE ctid = ANY (ARRAY(SELECT f.ctid FROM {list}, \
                     LATERAL (SELECT t.ctid FROM {name} t WHERE {same} OFFSET 0) f))"
                )
            } else {
                format!("DELETE FROM {name} t WHERE {}", given.condition())
            };
            let done = self.session.client.execute_typed(&sql, &given.parameters()).await;
            deleted += done.map_err(|e| error::from(&e).of_table(&table.name.name))?;
        }
        Ok(deleted)
    }

    /// Rows are told apart by their text as a row, which exists for every type and can be hashed.
    async fn delete_keyless(&mut self, batch: &Batch, name: &str) -> Result<u64> {
        let table = batch.table.clone();
        let staging = self.stage(batch).await?;
        let columns: Vec<String> = written(&table).into_iter().map(|c| ident(&table.columns[c].name)).collect();
        let text = format!("ROW({})::text COLLATE \"C\"", columns.join(", "));
        let sql = format!(
            "WITH given AS (SELECT k, row_number() OVER (PARTITION BY k) AS n FROM (SELECT {text} AS k FROM {staging}) g), \
             held AS (SELECT c, o, k, row_number() OVER (PARTITION BY k) AS n FROM \
             (SELECT ctid AS c, tableoid AS o, {text} AS k FROM {name}) h WHERE k IN (SELECT k FROM given)) \
             DELETE FROM {name} t USING held JOIN given ON held.k = given.k AND held.n = given.n \
             WHERE t.ctid = held.c AND t.tableoid = held.o"
        );
        self.change(&table, &sql).await
    }

    async fn change(&self, table: &Table, sql: &str) -> Result<u64> {
        let done = self.session.client.execute_typed(sql, &[]).await;
        done.map_err(|e| error::from(&e).of_table(&table.name.name))
    }

    async fn number_past(&self, table: &Table, column: &str) -> Result<()> {
        let fail = |e: tokio_postgres::Error| error::from(&e);
        let name = table_name(&self.shared.schema, &table.name);
        let found = self
            .session
            .client
            .query_one("SELECT pg_get_serial_sequence($1, $2)", &[&name, &column])
            .await
            .map_err(fail)?;
        let Some(sequence) = found.get::<_, Option<String>>(0) else { return Ok(()) };
        let column = ident(column);
        let literal = literal(&sequence);
        let sql = format!(
            "SELECT setval(q.seqrelid, f.last) FROM pg_sequence q, {sequence} s, LATERAL (SELECT CASE WHEN q.seqincrement > 0 \
             THEN max({column}) ELSE min({column}) END::bigint FROM {name}) f(last) \
             WHERE q.seqrelid = {literal}::regclass AND f.last BETWEEN q.seqmin AND q.seqmax \
             AND ((f.last - s.last_value) * sign(q.seqincrement) > 0 OR (f.last = s.last_value AND NOT s.is_called))"
        );
        self.session.client.query(&sql, &[]).await.map_err(fail)?;
        Ok(())
    }

    /// The next number of a column: its sequence's, else one above the highest.
    async fn next_number(&self, table: &Table, column: usize) -> Result<i64> {
        self.number_past(table, &table.columns[column].name).await?;
        let name = table_name(&self.shared.schema, &table.name);
        let sql = format!(
            "SELECT coalesce(nextval(pg_get_serial_sequence({}, {})::regclass), (SELECT max({}) + 1 FROM {name}))",
            literal(&name),
            literal(&table.columns[column].name),
            ident(&table.columns[column].name)
        );
        let next = self.session.client.query_one(&sql, &[]).await.map_err(|e| error::from(&e))?;
        Ok(next.get(0))
    }

    /// One statement that gives a row another number together with what refers to it: foreign keys are checked when it
    /// has ended.
    async fn renumbering(&self, name: &str, table: &Table, column: usize, (from, to): (i64, i64)) -> Result<String> {
        let number = ident(&table.columns[column].name);
        // What refers to it, and to what refers to it by the same number.
        let sql = format!(
            "WITH RECURSIVE c(rel, num) AS (SELECT attrelid, attnum FROM pg_attribute \
             WHERE attrelid = {name}::regclass AND attname = {column} \
             UNION SELECT k.conrelid, u.own FROM c, pg_constraint k, unnest(k.conkey, k.confkey) u(own, other) \
             WHERE k.contype = 'f' AND k.conparentid = 0 AND k.confrelid = c.rel AND u.other = c.num) \
             SELECT a.attrelid = {name}::regclass, a.attrelid::regclass::text, a.attname, \
             a.attidentity = 'a' FROM c JOIN pg_attribute a ON a.attrelid = c.rel AND a.attnum = c.num",
            name = literal(name),
            column = literal(&table.columns[column].name),
        );
        let found = self.session.client.query(&sql, &[]).await.map_err(|e| error::from(&e))?;
        let (mut columns, mut always) = (Vec::new(), false);
        for row in found {
            let (own, child, of): (bool, String, String) = (row.get(0), row.get(1), ident(row.get(2)));
            always |= of == number && own && row.get::<_, bool>(3);
            columns.push((if own { name.to_owned() } else { child }, of));
        }
        let mut parts = Vec::new();
        for (child, mut columns) in by_table(columns) {
            if always && child == name {
                // Such a column takes no number in an UPDATE.
                let all: Vec<String> = table.columns.iter().filter(|c| !c.generated).map(|c| ident(&c.name)).collect();
                let values = all.iter().map(|c| match () {
                    () if *c == number => to.to_string(),
                    () if columns.contains(c) => format!("CASE WHEN {c} = {from} THEN {to} ELSE {c} END"),
                    () => c.clone(),
                });
                let values: Vec<String> = values.collect();
                parts.push(format!("DELETE FROM {child} WHERE {number} = {from} RETURNING *"));
                parts.push(format!(
                    "INSERT INTO {child} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM p{}",
                    all.join(", "),
                    values.join(", "),
                    parts.len() - 1
                ));
                columns.retain(|c| *c != number);
                if columns.is_empty() {
                    continue;
                }
                let (set, of) = exchanged(&columns, from, to);
                parts.push(format!("UPDATE {child} SET {set} WHERE ({of}) AND {number} <> {from}"));
                continue;
            }
            let (set, of) = exchanged(&columns, from, to);
            parts.push(format!("UPDATE {child} SET {set} WHERE {of}"));
        }
        let parts: Vec<String> = parts.iter().enumerate().map(|(n, part)| format!("p{n} AS ({part})")).collect();
        Ok(format!("WITH {} SELECT 1", parts.join(", ")))
    }

    async fn orphans(&self, table: &Table) -> Result<Vec<String>> {
        let mut out = Vec::new();
        for key in &table.foreign_keys {
            let present: Vec<String> = key.columns.iter().map(|c| format!("c.{} IS NOT NULL", ident(c))).collect();
            let same: Vec<String> = key
                .columns
                .iter()
                .zip(&key.parent_columns)
                .map(|(c, p)| format!("p.{} = c.{}", ident(p), ident(c)))
                .collect();
            let (child, parent) =
                (table_name(&self.shared.schema, &table.name), table_name(&self.shared.schema, &key.parent));
            let (present, same) = (present.join(" AND "), same.join(" AND "));
            // Whoever is deleting one of the parents is waited for: that statement has not seen the children. To keep
            // a row needs the right to change one.
            let may = "SELECT has_any_column_privilege($1::text::regclass, 'UPDATE')";
            let may = self.session.client.query_one(may, &[&parent]).await.map_err(|e| error::from(&e))?;
            if may.get(0) {
                let kept = format!(
                    "SELECT count(*) FROM (SELECT 1 FROM {parent} p WHERE EXISTS (SELECT 1 FROM {child} c WHERE {same}) \
                     FOR KEY SHARE OF p) kept"
                );
                self.session.client.query_one(&kept, &[]).await.map_err(|e| error::from(&e))?;
            }
            let sql = format!(
                "SELECT count(*) FROM {child} c WHERE {present} AND NOT EXISTS (SELECT 1 FROM {parent} p WHERE {same})"
            );
            let count: i64 = self.session.client.query_one(&sql, &[]).await.map_err(|e| error::from(&e))?.get(0);
            if let Some(count) = u64::try_from(count).ok().filter(|n| *n > 0) {
                out.push(orphans_told(&table.name, count, &key.columns.join(", "), &key.parent));
            }
        }
        Ok(out)
    }
}

/// Columns that are written: not the generated ones.
fn written(table: &Table) -> Vec<usize> {
    (0..table.columns.len()).filter(|&c| !table.columns[c].generated).collect()
}

fn matching(table: &Table, key: &[usize]) -> String {
    let parts = key.iter().map(|&c| ident(&table.columns[c].name)).map(|c| format!("t.{c} = s.{c}"));
    parts.collect::<Vec<_>>().join(" AND ")
}

fn encode_row(copy: &mut OpenCopy, batch: &Batch, row: usize, scratch: &mut Vec<u8>) -> Result<()> {
    copy.rows += 1;
    if copy.binary {
        let count =
            i16::try_from(copy.columns.len()).map_err(|_| Error::new(ErrorKind::Protocol, "too many columns"))?;
        copy.buffer.extend_from_slice(&count.to_be_bytes());
    }
    for (at, (column, wire)) in copy.columns.iter().enumerate() {
        let cell = batch.cell(row, *column);
        if copy.binary {
            encode(*wire, cell, &mut copy.buffer)?;
        } else {
            if at > 0 {
                copy.buffer.push(b'\t');
            }
            encode_text(*wire, cell, scratch, &mut copy.buffer)?;
        }
    }
    if !copy.binary {
        copy.buffer.push(b'\n');
    }
    Ok(())
}

/// The rows in parts that each leave the same columns as they are; `None` is the batch as it is.
fn by_absence(batch: &Batch) -> Vec<Option<Batch>> {
    if !batch.columns().iter().any(Column::has_absent) {
        return vec![None];
    }
    let mut groups: BTreeMap<Vec<usize>, Vec<usize>> = BTreeMap::new();
    for row in 0..batch.rows() {
        let present = (0..batch.columns().len()).filter(|&c| batch.cell(row, c) != Cell::Absent).collect();
        groups.entry(present).or_default().push(row);
    }
    let part = |(present, rows): (Vec<usize>, Vec<usize>)| {
        let some = batch.select(rows.into_iter());
        let columns = present.iter().map(|&c| some.columns()[c].clone()).collect();
        Some(Batch::new(Arc::new(batch.table.project(&present)), columns))
    };
    groups.into_iter().map(part).collect()
}

#[async_trait]
impl Target for Writer {
    async fn stamp(&mut self) -> Result<Option<String>> {
        // Whatever writes has a number, and is in a snapshot whether it has ended.
        let sql = "SELECT pg_current_snapshot()::text";
        let row = self.session.client.query_typed_one(sql, &[]).await.map_err(|e| error::from(&e))?;
        Ok(row.get(0))
    }

    async fn begin(&mut self, options: WriteOptions) -> Result<()> {
        self.staging.clear();
        self.point = options.point;
        // The first statement fixes the point.
        let mut sql = String::from(if options.point {
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT 1"
        } else {
            "BEGIN ISOLATION LEVEL READ COMMITTED"
        });
        if options.labelled {
            sql.push_str("; ");
            sql.push_str(log::LABEL);
        }
        if options.silence_triggers || options.defer_foreign_keys {
            // The replica role stops user triggers and foreign key checks alike.
            sql.push_str(if self.shared.replica_role {
                "; SET LOCAL session_replication_role = replica"
            } else {
                "; SET CONSTRAINTS ALL DEFERRED"
            });
        }
        self.in_transaction = true;
        self.run(&sql).await
    }

    async fn write(&mut self, mode: WriteMode, batch: &Batch) -> Result<u64> {
        if batch.rows() == 0 {
            return Ok(0);
        }
        match mode {
            WriteMode::Insert => {
                let name = table_name(&self.shared.schema, &batch.table.name);
                for part in by_absence(batch) {
                    self.copy(&name, part.as_ref().unwrap_or(batch)).await?;
                }
                Ok(batch.rows() as u64)
            }
            WriteMode::Update => {
                let mut found = 0;
                for part in by_absence(batch) {
                    found += self.update(part.as_ref().unwrap_or(batch)).await?;
                }
                Ok(found)
            }
            WriteMode::Delete => self.delete(batch).await,
        }
    }

    async fn flush(&mut self) -> Result<()> {
        self.finish().await
    }

    async fn savepoint(&mut self) -> Result<()> {
        self.finish().await?;
        self.run("SAVEPOINT rowferry").await
    }

    async fn rollback_to_savepoint(&mut self) -> Result<()> {
        self.copy = None;
        self.staging.clear();
        self.run("ROLLBACK TO SAVEPOINT rowferry").await
    }

    async fn renumber(&mut self, table: &Table, column: usize, from: i64, to: Option<i64>) -> Result<i64> {
        self.finish().await?;
        let name = table_name(&self.shared.schema, &table.name);
        let to = match to {
            Some(to) => to,
            None => self.next_number(table, column).await?,
        };
        self.run(&self.renumbering(&name, table, column, (from, to)).await?).await?;
        self.number_past(table, &table.columns[column].name).await?;
        Ok(to)
    }

    async fn commit(&mut self) -> Result<()> {
        self.finish().await?;
        self.staging.clear();
        // COMMIT of a failed transaction answers ROLLBACK without an error.
        let answer = self.session.client.batch_execute("SELECT 1").await;
        answer.map_err(|e| error::from(&e).context("nothing was committed"))?;
        self.run("COMMIT").await?;
        self.in_transaction = false;
        Ok(())
    }

    async fn rollback(&mut self) -> Result<()> {
        self.copy = None;
        self.staging.clear();
        if self.in_transaction {
            self.run("ROLLBACK").await?;
            self.in_transaction = false;
        }
        Ok(())
    }

    async fn execute(&mut self, sql: &str) -> Result<()> {
        self.finish().await?;
        self.run(sql).await
    }

    async fn count_on(&mut self, table: &Table, last: i64) -> Result<()> {
        self.finish().await?;
        let Some(column) = table.columns.iter().find(|column| column.identity.is_some()) else { return Ok(()) };
        let fail = |e: tokio_postgres::Error| error::from(&e).of_table(&table.name.name);
        let client = &self.session.client;
        let name = table_name(&self.shared.schema, &table.name);
        let found = client.query_one("SELECT pg_get_serial_sequence($1, $2)", &[&name, &column.name]).await;
        let Some(sequence) = found.map_err(fail)?.get::<_, Option<String>>(0) else { return Ok(()) };
        let sql = format!(
            "SELECT setval(q.seqrelid, $1) FROM pg_sequence q, {sequence} s WHERE q.seqrelid = {}::regclass \
             AND q.seqincrement > 0 AND $1 BETWEEN q.seqmin AND q.seqmax \
             AND ($1 > s.last_value OR ($1 = s.last_value AND NOT s.is_called))",
            literal(&sequence)
        );
        client.query(&sql, &[&last]).await.map(drop).map_err(fail)
    }

    async fn verify(&mut self, tables: &[Arc<Table>]) -> Result<Vec<String>> {
        self.finish().await?;
        let mut out = Vec::new();
        for table in tables {
            for column in table.columns.iter().filter(|c| c.identity.is_some()) {
                self.number_past(table, &column.name).await?;
            }
            out.extend(self.orphans(table).await?);
        }
        Ok(out)
    }
}
