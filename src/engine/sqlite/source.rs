//! Reading: the connection's thread steps rows and hands filled batches over.

use std::cmp::Ordering;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use async_trait::async_trait;
use rusqlite::types::ToSqlOutput;
use rusqlite::{Connection, Statement};
use tokio::sync::mpsc;

use super::connect::{Pool, Worker};
use super::ddl::{quote, quote_table};
use super::error::{during, translate};
use super::types::{Affinity, Binder, affinity, push};
use crate::engine::filter::{self, Quoting};
use crate::engine::{BatchStream, Error, ErrorKind, ReadRequest, Result, Selection, Snapshot, Source, no_stretch};
use crate::model::{Batch, BatchBuilder, BatchLimits, Cell, Column, ColumnDef, LogicalType, Table, Value, cell_order};

const QUOTING: Quoting = Quoting { escaping: "", backtick: true, bracket: true, dollar: false, hash: false };

/// Each source has a connection and a point of its own.
pub(super) struct FilePoint(pub Arc<Pool>);

#[async_trait]
impl Snapshot for FilePoint {
    async fn source(&self) -> Result<Box<dyn Source>> {
        Ok(Box::new(FileSource { worker: self.0.worker().await? }))
    }
}

struct FileSource {
    worker: Worker,
}

/// In WAL mode a reader hinders nobody, so that all reads of a source see one point. In the other
/// modes a read transaction keeps writers from committing: there it ends with each statement.
fn hold_point(conn: &Connection) -> rusqlite::Result<()> {
    if conn.is_autocommit() {
        let mode: String = conn.query_row("PRAGMA journal_mode", [], |r| r.get(0))?;
        if mode.eq_ignore_ascii_case("wal") {
            conn.execute_batch("BEGIN")?;
        }
    }
    Ok(())
}

/// An expression whose order is that of [`cell_order`]: for a column as it is wherever possible,
/// so that its index serves.
fn order_expression(column: &ColumnDef, operand: &str, far_years: bool) -> String {
    let is_number_text = affinity(&column.native) == Affinity::Text
        && matches!(column.logical, LogicalType::Decimal { .. } | LogicalType::Int { .. });
    if is_number_text {
        return decimal_order(operand);
    }
    if far_years && is_dated(column) {
        return date_order(operand);
    }
    if column.collation.is_some() { format!("{operand} COLLATE BINARY") } else { operand.to_owned() }
}

/// Whether the column's values are texts that begin with a date.
fn is_dated(column: &ColumnDef) -> bool {
    matches!(column.logical, LogicalType::Date | LogicalType::Timestamp { .. })
}

/// Whether a key of the table has a date whose text is not ordered as it is: one of a year before 0 or beyond 9999.
fn has_far_years(conn: &Connection, request: &ReadRequest) -> rusqlite::Result<bool> {
    let table = &*request.table;
    let ordered = request.ordered || request.rows != Selection::All;
    let key = table.row_key().filter(|_| ordered).map_or_else(Vec::new, |key| key.columns);
    let dated = key.iter().map(|&at| &table.columns[at]).filter(|column| is_dated(column));
    let far: Vec<String> = dated
        .map(|column| quote(&column.name))
        .map(|name| format!("(typeof({name}) = 'text' AND substr({name}, 5, 1) <> '-')"))
        .collect();
    if far.is_empty() {
        return Ok(false);
    }
    let sql = format!("SELECT EXISTS (SELECT 1 FROM {} WHERE {})", quote_table(&table.name), far.join(" OR "));
    conn.query_row(&sql, [], |row| row.get(0))
}

/// Text that sorts by bytes as the dates and moments do, of any year.
fn date_order(x: &str) -> String {
    let year = format!("CAST(substr({x}, 1, instr({x}, '-') - 1) AS INTEGER)");
    let dash = format!("instr(substr({x}, 2), '-')");
    let before = format!("CAST(substr({x}, 2, {dash} - 1) AS INTEGER)");
    format!(
        "CASE WHEN {x} = '-infinity' THEN '0' WHEN {x} = 'infinity' THEN '3' \
         WHEN substr({x}, 1, 1) = '-' THEN '1' || printf('%07d', 9999999 - {before}) || substr({x}, {dash} + 1) \
         ELSE '2' || printf('%07d', {year}) || substr({x}, instr({x}, '-')) END"
    )
}

/// Text that sorts by bytes as the decimals sort by size: sign, number of whole digits, digits;
/// for negative numbers all of that the other way round.
fn decimal_order(x: &str) -> String {
    let digits = format!("ltrim({x}, '-')");
    let digits = format!("CASE WHEN instr({x}, '.') > 0 THEN rtrim(rtrim({digits}, '0'), '.') ELSE {digits} END");
    let whole = format!("(instr(({digits}) || '.', '.') - 1)");
    let mut mirrored = format!("({digits})");
    for (digit, letter) in ('0'..='9').zip(('a'..='j').rev()) {
        mirrored = format!("replace({mirrored}, '{digit}', '{letter}')");
    }
    format!(
        "CASE WHEN {x} = '-Infinity' THEN '0' WHEN {x} = 'Infinity' THEN '3' WHEN {x} = 'NaN' THEN '4' \
         WHEN substr({x}, 1, 1) = '-' THEN '1' || printf('%06d', 999999 - {whole}) || {mirrored} || '~' \
         ELSE '2' || printf('%06d', {whole}) || ({digits}) END"
    )
}

/// A cell for a key value, which carriers hold without their type.
pub(super) fn value_cell<'a>(logical: &LogicalType, value: &'a Value) -> Cell<'a> {
    match (logical, value) {
        (_, Value::Null) => Cell::Null,
        (LogicalType::Any, value) => Cell::Escape(value),
        (_, Value::Int(v)) => Cell::Int(*v),
        (_, Value::UInt(v)) => Cell::UInt(*v),
        (_, Value::Float(v)) => Cell::Float(*v),
        (_, Value::Bytes(v)) => Cell::Bytes(v),
        (_, value @ Value::RawText(_)) => Cell::Escape(value),
        (_, value @ Value::Text(_)) => Cell::Escape(value),
    }
}

/// A statement and the key columns of its rows.
struct Plan {
    sql: String,
    /// Values to bind, in order, with their column.
    bounds: Vec<(usize, Value)>,
    /// Positions of the key, where order matters.
    key: Vec<usize>,
    ordered: bool,
}

fn plan(request: &ReadRequest, far_years: bool) -> Result<Plan> {
    let table = &*request.table;
    let mut sql = String::from("SELECT ");
    for (at, column) in table.columns.iter().enumerate() {
        let _ = write!(sql, "{}{}", if at > 0 { ", " } else { "" }, quote(&column.name));
    }
    let _ = write!(sql, " FROM {}", quote_table(&table.name));
    if let Selection::Stretch { .. } = request.rows {
        return Err(no_stretch(table));
    }
    let ranged = matches!(request.rows, Selection::Range { .. });
    let key = match (request.ordered || ranged, table.row_key()) {
        (false, _) => Vec::new(),
        (true, Some(key)) => key.columns,
        (true, None) => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("table {} has no key to read it in order by", table.name),
            ));
        }
    };
    let mut conditions: Vec<String> = request.filter.iter().map(|f| format!("({f}\n)")).collect();
    let mut bounds = Vec::new();
    if let Selection::Range { after, upto } = &request.rows {
        for (values, operator) in [(after, ">"), (upto, "<=")] {
            let Some(values) = values else { continue };
            if values.len() != key.len() {
                return Err(Error::new(ErrorKind::Protocol, format!("a bound of {} does not fit its key", table.name)));
            }
            let (mut left, mut right) = (Vec::new(), Vec::new());
            for (&at, value) in key.iter().zip(values) {
                bounds.push((at, value.clone()));
                let column = &table.columns[at];
                left.push(order_expression(column, &quote(&column.name), far_years));
                right.push(order_expression(column, &format!("?{}", bounds.len()), far_years));
            }
            conditions.push(format!("({}) {operator} ({})", left.join(", "), right.join(", ")));
        }
    }
    if !conditions.is_empty() {
        let _ = write!(sql, " WHERE {}", conditions.join(" AND "));
    }
    if request.ordered {
        let columns = key.iter().map(|&at| &table.columns[at]);
        let order: Vec<String> =
            columns.map(|column| order_expression(column, &quote(&column.name), far_years)).collect();
        let _ = write!(sql, " ORDER BY {}", order.join(", "));
    }
    Ok(Plan { sql, bounds, key, ordered: request.ordered })
}

fn bind_bounds(statement: &mut Statement<'_>, table: &Table, plan: &Plan) -> rusqlite::Result<()> {
    let mut scratch = String::new();
    for (index, (at, value)) in plan.bounds.iter().enumerate() {
        let column = &table.columns[*at];
        let stored: ToSqlOutput<'_> = Binder::new(column).stored(value_cell(&column.logical, value), &mut scratch);
        statement.raw_bind_parameter(index + 1, stored)?;
    }
    Ok(())
}

/// Watches that keys come in order and in the one form that order and search rely on. SQLite lets
/// any value stand in any column, so that this cannot be known beforehand.
struct KeyWatch {
    key: Vec<(usize, Binder)>,
    ordered: bool,
    last: Vec<Column>,
}

impl KeyWatch {
    fn check(&mut self, table: &Table, row: &rusqlite::Row<'_>, columns: &[Column]) -> Result<()> {
        for (at, binder) in &self.key {
            let column = &columns[*at];
            let stored = row.get_ref(*at).map_err(|e| translate(&e))?;
            if !binder.is_usual_form(column.cell(column.len() - 1), stored) {
                return Err(Error::new(
                    ErrorKind::BadData,
                    format!(
                        "table {} has a value in its key column {} that is not in the usual form of its type ({}), so that rows \
                         cannot be ordered by it: write it in that form",
                        table.name, table.columns[*at].name, table.columns[*at].logical
                    ),
                ));
            }
        }
        if self.ordered { self.check_order(table, columns) } else { Ok(()) }
    }

    fn check_order(&mut self, table: &Table, columns: &[Column]) -> Result<()> {
        let row = self.key.first().map_or(0, |(at, _)| columns[*at].len() - 1);
        let mut order = Ordering::Equal;
        for (slot, (at, _)) in self.key.iter().enumerate() {
            let before = match (row.checked_sub(1), self.last.get(slot)) {
                (Some(before), _) => columns[*at].cell(before),
                (None, Some(last)) => last.cell(0),
                (None, None) => return Ok(()),
            };
            order = order.then_with(|| cell_order(&table.columns[*at].logical, before, columns[*at].cell(row)));
        }
        if order == Ordering::Greater {
            return Err(Error::new(
                ErrorKind::BadData,
                format!(
                    "table {} has key values of several types, which cannot be ordered as other engines do",
                    table.name
                ),
            ));
        }
        Ok(())
    }

    fn keep_last(&mut self, batch: &Batch) {
        let Some(row) = batch.rows().checked_sub(1).filter(|_| self.ordered) else { return };
        self.last = self
            .key
            .iter()
            .map(|(at, _)| {
                let mut column = Column::default();
                column.push_cell(batch.cell(row, *at));
                column
            })
            .collect();
    }
}

/// What goes over to the stream; `None` tells an end from a thread that died.
type Sent = Result<Option<Batch>>;

/// Whether nothing more is to be read while this batch is on its way: its row is larger than batches are.
fn is_large(batch: &Batch, limits: BatchLimits) -> bool {
    batch.size() > limits.bytes.saturating_mul(2)
}

/// `go` tells that the batch after a large one is wanted.
fn run(conn: &Connection, request: &ReadRequest, out: &mpsc::Sender<Sent>, go: &Receiver<()>) -> Result<()> {
    let table = &request.table;
    let failed = |e| during(format_args!("cannot read table {}", table.name))(e);
    hold_point(conn).map_err(failed)?;
    let plan = plan(request, has_far_years(conn, request).map_err(failed)?)?;
    let mut statement = conn.prepare_cached(&plan.sql).map_err(failed)?;
    bind_bounds(&mut statement, table, &plan).map_err(failed)?;
    let mut builder = BatchBuilder::new(table.clone(), request.limits);
    let mut watch = KeyWatch {
        key: plan.key.iter().map(|&at| (at, Binder::new(&table.columns[at]))).collect(),
        ordered: plan.ordered,
        last: Vec::new(),
    };
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next().map_err(failed)? {
        for (at, column) in table.columns.iter().enumerate() {
            // Where it lies: to move as a whole what was just written in parts takes longer than to read it.
            match row.get_ref(at) {
                Ok(ref value) => push(&mut builder.columns[at], &column.logical, value),
                Err(e) => return Err(failed(e)),
            }
        }
        if !watch.key.is_empty() {
            watch.check(table, row, &builder.columns)?;
        }
        if builder.end_row()
            && let Some(batch) = builder.take()
        {
            watch.keep_last(&batch);
            let large = is_large(&batch, request.limits);
            if out.blocking_send(Ok(Some(batch))).is_err() || (large && go.recv().is_err()) {
                return Ok(());
            }
        }
    }
    if let Some(batch) = builder.take() {
        let _ = out.blocking_send(Ok(Some(batch)));
    }
    Ok(())
}

#[async_trait]
impl Source for FileSource {
    async fn count(&mut self, table: &Table, filter: Option<&str>) -> Result<u64> {
        let condition = filter.map_or_else(String::new, |f| format!(" WHERE ({f}\n)"));
        let sql = format!("SELECT count(*) FROM {}{condition}", quote_table(&table.name));
        let name = table.name.clone();
        self.worker
            .call(move |conn| {
                let count = hold_point(conn).and_then(|()| conn.query_row(&sql, [], |r| r.get::<_, i64>(0)));
                count.map(i64::unsigned_abs).map_err(during(format_args!("cannot count table {name}")))
            })
            .await
    }

    async fn check(&mut self, request: &ReadRequest) -> Result<()> {
        request.filter.as_deref().map_or(Ok(()), |f| filter::check(f, QUOTING))?;
        let plan = plan(request, false)?;
        let table = request.table.clone();
        self.worker
            .call(move |conn| {
                conn.prepare(&plan.sql).map(drop).map_err(during(format_args!("cannot read table {}", table.name)))
            })
            .await
    }

    async fn read<'a>(&'a mut self, request: &ReadRequest) -> Result<Box<dyn BatchStream + 'a>> {
        // What cannot be asked for is told before anything is read.
        plan(request, false)?;
        let request = request.clone();
        let limits = request.limits;
        // One is read while one waits.
        let (out, batches) = mpsc::channel(1);
        let (go, wanted) = std::sync::mpsc::channel();
        self.worker
            .spawn(move |conn| {
                let end = run(conn, &request, &out, &wanted).map(|()| None);
                let _ = out.blocking_send(end);
            })
            .await?;
        Ok(Box::new(FileStream { source: self, batches, go, limits, large: false, ended: false }))
    }
}

struct FileStream<'a> {
    source: &'a FileSource,
    batches: mpsc::Receiver<Sent>,
    go: Sender<()>,
    limits: BatchLimits,
    /// Whether the thread waits to be told to go on.
    large: bool,
    ended: bool,
}

#[async_trait]
impl BatchStream for FileStream<'_> {
    async fn next(&mut self) -> Result<Option<Batch>> {
        if self.ended {
            return Ok(None);
        }
        if std::mem::take(&mut self.large) {
            // A thread that is gone is found out about below.
            let _ = self.go.send(());
        }
        let sent = self.batches.recv().await.unwrap_or_else(|| {
            Err(Error::new(
                ErrorKind::Protocol,
                "the thread that reads SQLite ended before the rows did; please report this",
            ))
        });
        self.ended = !matches!(sent, Ok(Some(_)));
        self.large = matches!(&sent, Ok(Some(batch)) if is_large(batch, self.limits));
        sent
    }
}

impl Drop for FileStream<'_> {
    fn drop(&mut self) {
        // A long sort or scan stops at once, not at its next full batch.
        if !self.ended {
            self.batches.close();
            self.source.worker.interrupt();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TableName;

    /// What a run of the thread hands over, told to go on so many times.
    fn sent(told: usize) -> usize {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("CREATE TABLE t (a TEXT); INSERT INTO t VALUES (printf('%.500c', 'x')), ('y'), ('z')")
            .unwrap();
        let columns = vec![ColumnDef::new("a", LogicalType::Text { max: None, fixed: false })];
        let request = ReadRequest {
            table: Arc::new(Table::new(TableName::new("t"), columns)),
            filter: None,
            rows: Selection::All,
            ordered: false,
            limits: BatchLimits { rows: 1, bytes: 100 },
        };
        let (out, mut batches) = mpsc::channel(4);
        let (go, wanted) = std::sync::mpsc::channel();
        (0..told).for_each(|_| go.send(()).unwrap());
        drop(go);
        run(&conn, &request, &out, &wanted).unwrap();
        drop(out);
        std::iter::from_fn(|| batches.blocking_recv()).count()
    }

    #[test]
    fn nothing_is_read_behind_a_large_row_until_it_is_wanted() {
        assert_eq!(sent(0), 1);
        assert_eq!(sent(1), 3, "only the large one waits");
    }
}
