//! Writing: `LOAD DATA LOCAL` from our own memory where the server allows it, else long INSERTs.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use mysql_async::{Conn, prelude::Queryable};

use super::super::{Error, ErrorKind, Result, Target, WriteMode, WriteOptions, by_table, exchanged, orphans_told};
use super::catalog::numbered_upto;
use super::codec::{Form, Writer};
use super::connect::{Flavor, LOCK_WAIT, SQL_MODE, literal, quote};
use super::error::{convert, kind_of};
use super::log;
use super::source::table_sql;
use crate::model::{Batch, Cell, Table, TableName};

/// Bytes gathered for one bulk statement.
const BULK: usize = 2 << 20;
/// Bytes of one network packet of a `LOAD DATA`.
const CHUNK: usize = 256 << 10;
/// Updates from which a temporary table pays.
const MANY: usize = 50;
/// Rows that a statement takes in or finds.
pub(super) const TEMPORARY: &str = "`_rowferry_u`";

/// A connection that writes.
pub(super) struct Sink {
    pub(super) conn: Conn,
    pub(super) flavor: Flavor,
    pub(super) writer: Writer,
    pub(super) pending: Option<Pending>,
    pub(super) active: bool,
    /// Whether the change logs are told that the transaction is ours.
    pub(super) labelled: bool,
}

/// Inserts held back.
pub(super) struct Pending {
    table: Arc<Table>,
    /// A `LOAD DATA`, or an INSERT with its rows.
    sql: Vec<u8>,
    /// What is to be loaded; its fields are made while the server takes them in.
    load: Option<Vec<Batch>>,
    bytes: usize,
    rows: u64,
}

/// The fields of a `LOAD DATA`, packet by packet.
struct Fields {
    batches: std::vec::IntoIter<Batch>,
    columns: Vec<(usize, Form)>,
    writer: Writer,
    batch: Option<Batch>,
    row: usize,
    /// What is left of a long row.
    rest: Bytes,
}

impl Fields {
    fn new(batches: Vec<Batch>, columns: Vec<(usize, Form)>) -> Self {
        let (batches, writer, rest) = (batches.into_iter(), Writer::default(), Bytes::new());
        Self { batches, columns, writer, batch: None, row: 0, rest }
    }

    fn fill(&mut self) -> Vec<u8> {
        let mut out = Vec::with_capacity(CHUNK + CHUNK / 8);
        while out.len() < CHUNK {
            let Some(batch) = self.batch.as_ref().filter(|batch| self.row < batch.rows()) else {
                self.batch = self.batches.next();
                self.row = 0;
                if self.batch.is_none() {
                    break;
                }
                continue;
            };
            write_row(&mut self.writer, true, batch, self.row, &self.columns, &mut out);
            self.row += 1;
        }
        out
    }
}

impl Iterator for Fields {
    type Item = std::io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            self.rest = self.fill().into();
        }
        let length = self.rest.len().min(2 * CHUNK);
        (length > 0).then(|| Ok(self.rest.split_to(length)))
    }
}

/// Appends a row: of a `LOAD DATA`, or of an INSERT.
fn write_row(writer: &mut Writer, load: bool, batch: &Batch, row: usize, columns: &[(usize, Form)], out: &mut Vec<u8>) {
    if !load {
        out.push(b'(');
    }
    for (n, &(at, form)) in columns.iter().enumerate() {
        if n > 0 {
            out.push(if load { b'\t' } else { b',' });
        }
        let cell = batch.cell(row, at);
        if load {
            writer.field(form, cell, out);
            continue;
        }
        // Only NULL is numbered: DEFAULT is a 0, which is taken as it is.
        let unnumbered = matches!(cell, Cell::Absent) && batch.table.columns[at].identity.is_some();
        writer.literal(form, if unnumbered { Cell::Null } else { cell }, out);
    }
    out.push(if load { b'\n' } else { b')' });
}

/// Positions of the columns that are written, with their forms.
pub(super) fn written(table: &Table) -> Vec<(usize, Form)> {
    table.columns.iter().enumerate().filter(|(_, c)| !c.generated).map(|(i, c)| (i, Form::of(c))).collect()
}

/// Whether a value of these columns is not given.
fn any_absent(batch: &Batch, columns: &[(usize, Form)]) -> bool {
    columns.iter().any(|&(at, _)| batch.columns()[at].has_absent())
}

fn start(into: &str, table: &Arc<Table>, columns: &[(usize, Form)], load: bool) -> Pending {
    let name = |at: usize| quote(&table.columns[at].name);
    let sql = if load {
        let mut targets = Vec::new();
        let mut sets = Vec::new();
        for &(at, form) in columns {
            let variable = format!("@_rowferry_{at}");
            match form.load_expression(&variable) {
                Some(expression) => {
                    sets.push(format!("{} = {expression}", name(at)));
                    targets.push(variable);
                }
                // With a SET clause, MariaDB numbers a row whose 0 came by field: it must come by SET too.
                None if table.columns[at].identity.is_some() => {
                    sets.push(format!("{} = {variable}", name(at)));
                    targets.push(variable);
                }
                None => targets.push(name(at)),
            }
        }
        let sets = if sets.is_empty() { String::new() } else { format!(" SET {}", sets.join(", ")) };
        format!(
            "LOAD DATA LOCAL INFILE 'rowferry' INTO TABLE {into} CHARACTER SET utf8mb4 \
             FIELDS TERMINATED BY '\\t' ESCAPED BY '\\\\' LINES TERMINATED BY '\\n' ({}){sets}",
            targets.join(", ")
        )
    } else {
        let names: Vec<String> = columns.iter().map(|&(at, _)| name(at)).collect();
        format!("INSERT INTO {into} ({}) VALUES ", names.join(", "))
    };
    Pending { table: table.clone(), sql: sql.into_bytes(), load: load.then(Vec::new), bytes: 0, rows: 0 }
}

pub(super) fn in_table(error: Error, table: &Table) -> Error {
    error.context(format!("table {}", table.name))
}

impl Sink {
    pub(super) async fn run(&mut self, sql: &[u8], table: &Table) -> Result<u64> {
        let text = self.conn.query_iter(sql).await.map_err(|e| in_table(convert(e), table))?;
        let affected = text.affected_rows();
        text.drop_result().await.map_err(|e| in_table(convert(e), table))?;
        Ok(affected)
    }

    async fn insert(&mut self, into: Option<&str>, batch: &Batch) -> Result<()> {
        let columns = written(&batch.table);
        let same = self
            .pending
            .as_ref()
            .is_some_and(|p| into.is_none() && (Arc::ptr_eq(&p.table, &batch.table) || *p.table == *batch.table));
        if !same {
            self.send().await?;
        }
        // Without a written column there is no field to load; an absent value needs DEFAULT.
        let load = self.flavor.local_infile && !columns.is_empty() && !any_absent(batch, &columns);
        if self.pending.as_ref().is_some_and(|p| p.load.is_some() != load) {
            self.send().await?;
        }
        let name = into.map_or_else(|| table_sql(&batch.table.name), str::to_owned);
        if load {
            let pending = self.pending.get_or_insert_with(|| start(&name, &batch.table, &columns, load));
            pending.load.get_or_insert_default().push(batch.clone());
            pending.rows += batch.rows() as u64;
            pending.bytes += batch.size();
        } else {
            self.insert_rows(&name, batch, &columns).await?;
        }
        if into.is_some() || self.pending.as_ref().is_some_and(|p| p.bytes >= BULK) {
            self.send().await?;
        }
        Ok(())
    }

    /// Appends rows to an INSERT, or to several where one would be too long.
    async fn insert_rows(&mut self, name: &str, batch: &Batch, columns: &[(usize, Form)]) -> Result<()> {
        let limit = BULK.min(self.flavor.max_packet.saturating_sub(1024));
        let mut one = Vec::new();
        for row in 0..batch.rows() {
            one.clear();
            write_row(&mut self.writer, false, batch, row, columns, &mut one);
            let full = self.pending.as_ref().is_some_and(|p| p.rows > 0 && p.sql.len() + one.len() + 1 > limit);
            if full {
                self.send().await?;
            }
            if one.len() + 4096 > self.flavor.max_packet {
                return Err(Error::new(
                    ErrorKind::BadData,
                    format!(
                        "table {}: a row of {} bytes is longer than the server's max_allowed_packet of {} bytes",
                        batch.table.name,
                        one.len(),
                        self.flavor.max_packet
                    ),
                ));
            }
            let pending = self.pending.get_or_insert_with(|| start(name, &batch.table, columns, false));
            if pending.rows > 0 {
                pending.sql.push(b',');
            }
            pending.sql.extend_from_slice(&one);
            pending.rows += 1;
        }
        Ok(())
    }

    /// Sends what is held back.
    pub(super) async fn send(&mut self) -> Result<()> {
        let Some(pending) = self.pending.take() else { return Ok(()) };
        let Pending { table, sql, load, rows, .. } = pending;
        let Some(batches) = load else {
            let affected = self.run(&sql, &table).await?;
            return same_count(&table, rows, affected);
        };
        let fields = Fields::new(batches, written(&table));
        // Only this stream is ever served, whatever file the server asks for, and only once.
        self.conn.set_infile_handler(async move { Ok(stream::iter(fields).boxed()) });
        let (affected, warnings) = {
            let result = self.conn.query_iter(sql).await.map_err(|e| in_table(convert(e), &table))?;
            let counts = (result.affected_rows(), result.warnings());
            result.drop_result().await.map_err(|e| in_table(convert(e), &table))?;
            counts
        };
        // LOCAL makes errors warnings and skips duplicates: nothing short of a clean load will do.
        if affected != rows || warnings > 0 {
            let told: Vec<(String, u16, String)> = self.conn.query("SHOW WARNINGS LIMIT 64").await.map_err(convert)?;
            if let Some((_, code, message)) = told.into_iter().find(|(level, ..)| level != "Note") {
                let kind = match kind_of(code) {
                    ErrorKind::Protocol => ErrorKind::BadData,
                    kind => kind,
                };
                return Err(in_table(Error::new(kind, format!("the server says: {message} (error {code})")), &table));
            }
            same_count(&table, rows, affected)?;
        }
        Ok(())
    }

    fn assignments(&mut self, batch: &Batch, row: usize, columns: &[(usize, Form)], out: &mut Vec<u8>) -> bool {
        let mut first = true;
        for &(at, form) in columns {
            let cell = batch.cell(row, at);
            if cell == Cell::Absent {
                continue;
            }
            out.extend_from_slice(if first { b"" } else { b", " });
            first = false;
            out.extend_from_slice(quote(&batch.table.columns[at].name).as_bytes());
            out.extend_from_slice(b" = ");
            self.writer.literal(form, cell, out);
        }
        !first
    }

    async fn update(&mut self, batch: &Batch) -> Result<u64> {
        let table = batch.table.clone();
        let key = table.row_key().ok_or_else(|| no_key(&table))?;
        let columns = written(&table);
        let others: Vec<(usize, Form)> = columns.iter().copied().filter(|(at, _)| !key.columns.contains(at)).collect();
        if batch.rows() >= MANY
            && !any_absent(batch, &columns)
            && key.columns.iter().all(|&k| !table.columns[k].generated)
        {
            return self.update_many(batch, &key.columns, &columns, &others).await;
        }
        let mut found = 0;
        let keys: Vec<(usize, Form)> = key.columns.iter().map(|&k| (k, Form::of(&table.columns[k]))).collect();
        for row in 0..batch.rows() {
            let mut sql = format!("UPDATE {} SET ", table_sql(&table.name)).into_bytes();
            if !self.assignments(batch, row, &others, &mut sql) {
                let name = quote(&table.columns[keys[0].0].name);
                sql.extend_from_slice(format!("{name} = {name}").as_bytes());
            }
            sql.extend_from_slice(b" WHERE ");
            self.with_key(batch, row, &keys, &mut sql);
            found += self.run(&sql, &table).await?;
        }
        Ok(found)
    }

    async fn update_many(
        &mut self,
        batch: &Batch,
        keys: &[usize],
        columns: &[(usize, Form)],
        others: &[(usize, Form)],
    ) -> Result<u64> {
        let table = batch.table.clone();
        let name = |at: usize| quote(&table.columns[at].name);
        let mut set: Vec<String> = others.iter().map(|&(at, _)| format!("t.{0} = u.{0}", name(at))).collect();
        if set.is_empty() {
            set.push(format!("t.{0} = t.{0}", name(keys[0])));
        }
        self.gather(batch, columns).await?;
        let sql = format!("UPDATE {} SET {}", joined(&table, keys), set.join(", "));
        let found = self.run(sql.as_bytes(), &table).await?;
        self.run(format!("DROP TEMPORARY TABLE {TEMPORARY}").as_bytes(), &table).await?;
        Ok(found)
    }

    /// Puts these columns of a batch into a temporary table that has them as the batch's table has.
    pub(super) async fn gather(&mut self, batch: &Batch, columns: &[(usize, Form)]) -> Result<()> {
        let table = &batch.table;
        let list: Vec<String> = columns.iter().map(|&(at, _)| quote(&table.columns[at].name)).collect();
        self.run(format!("DROP TEMPORARY TABLE IF EXISTS {TEMPORARY}").as_bytes(), table).await?;
        let create = format!(
            "CREATE TEMPORARY TABLE {TEMPORARY} ENGINE=InnoDB AS SELECT {} FROM {} LIMIT 0",
            list.join(", "),
            table_sql(&table.name)
        );
        self.run(create.as_bytes(), table).await?;
        self.insert(Some(TEMPORARY), batch).await
    }

    async fn delete(&mut self, batch: &Batch) -> Result<u64> {
        let table = batch.table.clone();
        let Some(key) = table.row_key() else { return self.delete_keyless(batch).await };
        let keys: Vec<(usize, Form)> = key.columns.iter().map(|&k| (k, Form::of(&table.columns[k]))).collect();
        if batch.rows() >= MANY && key.columns.iter().all(|&k| !table.columns[k].generated) {
            let of_key = Arc::new(table.project(&key.columns));
            let columns = key.columns.iter().map(|&k| batch.columns()[k].clone()).collect();
            let all: Vec<(usize, Form)> = keys.iter().enumerate().map(|(at, &(_, form))| (at, form)).collect();
            self.gather(&Batch::new(of_key, columns), &all).await?;
            // With IN and a list the server may read the whole table, and wait for rows that the application holds.
            let deleted =
                self.run(format!("DELETE t FROM {}", joined(&table, &key.columns)).as_bytes(), &table).await?;
            self.run(format!("DROP TEMPORARY TABLE {TEMPORARY}").as_bytes(), &table).await?;
            return Ok(deleted);
        }
        let mut deleted = 0;
        for row in 0..batch.rows() {
            let mut sql = format!("DELETE FROM {} WHERE ", table_sql(&table.name)).into_bytes();
            self.with_key(batch, row, &keys, &mut sql);
            deleted += self.run(&sql, &table).await?;
        }
        Ok(deleted)
    }

    /// The condition that finds a row by its key.
    fn with_key(&mut self, batch: &Batch, row: usize, keys: &[(usize, Form)], out: &mut Vec<u8>) {
        for (n, &(at, form)) in keys.iter().enumerate() {
            out.extend_from_slice(if n > 0 { b" AND " } else { b"" });
            out.extend_from_slice(quote(&batch.table.columns[at].name).as_bytes());
            out.extend_from_slice(b" = ");
            self.writer.literal(form, batch.cell(row, at), out);
        }
    }

    /// A variable of the session outlives its transaction.
    async fn unlabel(&mut self) -> Result<()> {
        if std::mem::take(&mut self.labelled) { self.execute("SET @rowferry_label = NULL").await } else { Ok(()) }
    }
}

/// Rows of so many columns that one list of values may have. From 1,000 values MariaDB makes a table of the list and
/// joins it by part of the key only; MySQL gives up its index where the list outgrows a memory bound.
pub(super) fn rows_at_once(columns: usize) -> usize {
    (900 / columns.max(1)).max(1)
}

/// The hint that has rows found by the unique key of exactly these columns, if there is one.
pub(super) fn force_index(table: &Table, columns: &[usize]) -> Option<String> {
    let same = |key: &[usize]| key.len() == columns.len() && key.iter().all(|c| columns.contains(c));
    let unique = || {
        table.indexes.iter().filter(|i| i.unique && i.native.is_none()).find(|i| {
            let key: Option<Vec<usize>> = i.columns.iter().map(|c| table.column(&c.name)).collect();
            key.is_some_and(|key| same(&key))
        })
    };
    let name = match &table.primary_key {
        Some(key) if same(&key.columns) => "PRIMARY",
        _ => &unique()?.name,
    };
    Some(format!(" FORCE INDEX ({})", quote(name)))
}

/// The temporary table `u` and what it finds in the table `t`: by the key's index alone, and so without waiting for
/// other rows.
fn joined(table: &Table, keys: &[usize]) -> String {
    let on: Vec<String> = keys.iter().map(|&k| format!("t.{0} = u.{0}", quote(&table.columns[k].name))).collect();
    let hint = force_index(table, keys).unwrap_or_default();
    format!("{TEMPORARY} u STRAIGHT_JOIN {} t{hint} ON {}", table_sql(&table.name), on.join(" AND "))
}

pub(super) fn no_key(table: &Table) -> Error {
    Error::new(ErrorKind::Unsupported, format!("table {} has no key to find its rows by", table.name))
}

fn same_count(table: &Table, wanted: u64, affected: u64) -> Result<()> {
    if affected == wanted {
        return Ok(());
    }
    let message = format!("table {}: the server took {affected} of {wanted} rows", table.name);
    Err(Error::new(ErrorKind::Constraint, message))
}

#[async_trait]
impl Target for Sink {
    async fn stamp(&mut self) -> Result<Option<String>> {
        // The server counts what it commits, but also what only reads.
        Ok(None)
    }

    async fn begin(&mut self, options: WriteOptions) -> Result<()> {
        self.pending = None;
        let checks = u8::from(!options.defer_foreign_keys);
        let label = if options.labelled { "1" } else { "NULL" };
        // An install that stopped half-way has left its own mode and time-out.
        self.execute(&format!(
            "SET SESSION foreign_key_checks = {checks}, sql_mode = '{SQL_MODE}', lock_wait_timeout = {LOCK_WAIT}, \
             @rowferry_label = {label}"
        ))
        .await?;
        self.labelled = options.labelled;
        if options.point {
            self.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").await?;
            self.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY").await?;
        } else {
            self.execute("START TRANSACTION").await?;
        }
        self.active = true;
        Ok(())
    }

    async fn write(&mut self, mode: WriteMode, batch: &Batch) -> Result<u64> {
        if batch.rows() == 0 {
            return Ok(0);
        }
        if mode == WriteMode::Insert {
            self.insert(None, batch).await?;
            return Ok(batch.rows() as u64);
        }
        self.send().await?;
        if mode == WriteMode::Update { self.update(batch).await } else { self.delete(batch).await }
    }

    async fn flush(&mut self) -> Result<()> {
        self.send().await
    }

    async fn savepoint(&mut self) -> Result<()> {
        self.send().await?;
        self.execute("SAVEPOINT rowferry").await
    }

    async fn rollback_to_savepoint(&mut self) -> Result<()> {
        self.pending = None;
        self.execute("ROLLBACK TO SAVEPOINT rowferry").await
    }

    async fn renumber(&mut self, table: &Table, column: usize, from: i64, to: Option<i64>) -> Result<i64> {
        self.send().await?;
        let (name, number) = (table_sql(&table.name), quote(&table.columns[column].name));
        let to = if let Some(to) = to {
            to
        } else {
            let next = format!("SELECT max({number}) + 1 FROM {name}");
            let next: Option<Option<i64>> = self.conn.query_first(next).await.map_err(convert)?;
            next.flatten().unwrap_or(1)
        };
        let own = (table.name.schema.clone(), table.name.name.clone(), table.columns[column].name.clone());
        let mut columns = vec![own];
        let mut next = 0;
        while let Some((schema, parent, of)) = columns.get(next).cloned() {
            let referring = format!(
                "SELECT CASE WHEN table_schema = database() THEN '' ELSE table_schema END, table_name, column_name \
                 FROM information_schema.key_column_usage WHERE referenced_table_schema = {} \
                 AND referenced_table_name = {} AND referenced_column_name = {}",
                if schema.is_empty() { "database()".to_owned() } else { literal(&schema) },
                literal(&parent),
                literal(&of)
            );
            let referring: Vec<(String, String, String)> = self.conn.query(referring).await.map_err(convert)?;
            for found in referring {
                if !columns.contains(&found) {
                    columns.push(found);
                }
            }
            next += 1;
        }
        let quoted =
            |(schema, name, column): (String, String, String)| (table_sql(&TableName { schema, name }), quote(&column));
        let columns: Vec<(String, String)> = columns.into_iter().map(quoted).collect();
        // An UPDATE leaves the counter as it is, an INSERT moves it on, even one that is taken back: nobody is given this
        // number from now on.
        let others = table.columns.iter().filter(|c| !c.generated).map(|c| quote(&c.name));
        let others: Vec<String> = others.collect();
        let values = others.iter().map(|c| if *c == number { to.to_string() } else { c.clone() });
        let copy = format!(
            "INSERT IGNORE INTO {name} ({}) SELECT {} FROM {name} WHERE {number} = {from}",
            others.join(", "),
            values.collect::<Vec<_>>().join(", ")
        );
        self.execute("SAVEPOINT rowferry").await?;
        self.run(copy.as_bytes(), table).await?;
        self.execute("ROLLBACK TO SAVEPOINT rowferry").await?;
        // Those that refer to it are all given the new number here.
        self.execute("SET SESSION foreign_key_checks = 0").await?;
        for (child, columns) in by_table(columns) {
            let (set, of) = exchanged(&columns, from, to);
            self.run(format!("UPDATE {child} SET {set} WHERE {of}").as_bytes(), table).await?;
        }
        self.execute("SET SESSION foreign_key_checks = 1").await?;
        Ok(to)
    }

    async fn commit(&mut self) -> Result<()> {
        self.send().await?;
        // Before, so that nothing can fail once the rows are durable.
        self.unlabel().await?;
        self.execute("COMMIT").await?;
        self.active = false;
        Ok(())
    }

    async fn rollback(&mut self) -> Result<()> {
        self.pending = None;
        if std::mem::take(&mut self.active) {
            self.execute("ROLLBACK").await?;
        }
        self.unlabel().await
    }

    async fn execute(&mut self, sql: &str) -> Result<()> {
        self.conn.query_drop(sql).await.map_err(|e| log::explained(sql, e))
    }

    async fn count_on(&mut self, table: &Table, last: i64) -> Result<()> {
        self.send().await?;
        let Some(next) = last.checked_add(1).filter(|_| table.columns.iter().any(|c| c.identity.is_some())) else {
            return Ok(());
        };
        if numbered_upto(&mut self.conn, table).await?.unwrap_or(0) >= last {
            return Ok(());
        }
        let sql = format!("ALTER TABLE {} AUTO_INCREMENT = {next}", table_sql(&table.name));
        self.conn.query_drop(sql).await.map_err(|e| in_table(convert(e), table))
    }

    async fn verify(&mut self, tables: &[Arc<Table>]) -> Result<Vec<String>> {
        // AUTO_INCREMENT follows the inserted numbers by itself.
        self.send().await?;
        let mut orphans = Vec::new();
        for table in tables {
            for key in &table.foreign_keys {
                let pairs: Vec<(String, String)> =
                    key.columns.iter().zip(&key.parent_columns).map(|(c, p)| (quote(c), quote(p))).collect();
                let on: Vec<String> = pairs.iter().map(|(c, p)| format!("c.{c} = p.{p}")).collect();
                let set: Vec<String> = pairs.iter().map(|(c, _)| format!("c.{c} IS NOT NULL")).collect();
                let sql = format!(
                    "SELECT COUNT(*) FROM {} c LEFT JOIN {} p ON {} WHERE {} AND p.{} IS NULL LOCK IN SHARE MODE",
                    table_sql(&table.name),
                    table_sql(&key.parent),
                    on.join(" AND "),
                    set.join(" AND "),
                    pairs.first().map_or("", |(_, p)| p.as_str()),
                );
                let count: Option<u64> = self.conn.query_first(sql).await.map_err(|e| in_table(convert(e), table))?;
                if let Some(count) = count.filter(|n| *n > 0) {
                    orphans.push(orphans_told(&table.name, count, &key.columns.join(", "), &key.parent));
                }
            }
        }
        Ok(orphans)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Column, ColumnDef, LogicalType, TableName};

    /// Packet by packet or at once, the fields are the same, and a long row comes in pieces.
    #[test]
    fn fields_come_in_packets() {
        let (int, text) =
            (LogicalType::Int { bits: 64, unsigned: false }, LogicalType::Text { max: None, fixed: false });
        let columns = vec![ColumnDef::new("a", int), ColumnDef::new("b", text)];
        let table = Arc::new(Table::new(TableName::new("t"), columns));
        let long = "tab\tline\n".repeat(CHUNK / 3);
        let batch = |rows: &[(i64, &str)]| {
            let (mut a, mut b) = (Column::default(), Column::default());
            for (number, text) in rows {
                a.push_int(*number);
                b.push_bytes(text.as_bytes());
            }
            Batch::new(table.clone(), vec![a, b])
        };
        let batches = vec![batch(&[(0, "x"), (i64::MIN, &long)]), batch(&[]), batch(&[(-7, ""), (10, "z")])];
        let packets: Vec<Bytes> = Fields::new(batches, written(&table)).map(|packet| packet.unwrap()).collect();
        let escaped = long.replace('\t', "\\t").replace('\n', "\\n");
        let expected = format!("0\tx\n{}\t{escaped}\n-7\t\n10\tz\n", i64::MIN);
        assert!(packets.concat() == expected.as_bytes(), "the fields differ");
        assert!(packets.len() > 2 && packets.iter().all(|packet| packet.len() <= 2 * CHUNK));
    }
}
