//! Reading: binary COPY at one snapshot.

use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio_postgres::{Client, CopyOutStream};

use super::catalog::{ALONE, select_list};
use super::codec::{Wire, decode, write_text};
use super::connect::Session;
use super::gate::Gate;
use super::types::{ident, literal, table_name};
use super::{Shared, error};
use crate::engine::filter::{self, Quoting};
use crate::engine::{BatchStream, Error, ErrorKind, ReadRequest, Result, Selection, Snapshot, Source};
use crate::model::{Batch, BatchBuilder, Cell, ColumnDef, Table, Value};

const QUOTING: Quoting = Quoting { escaping: "", backtick: false, bracket: false, dollar: true, hash: false };
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// A transaction that keeps its snapshot alive for others.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    id: String,
    _session: Session,
}

impl Keeper {
    /// Opens one.
    pub(super) async fn open(shared: Arc<Shared>) -> Result<Self> {
        let session = shared.session().await?;
        session.client.batch_execute(BEGIN).await.map_err(|e| error::from(&e))?;
        let row = session.client.query_one("SELECT pg_export_snapshot()", &[]).await.map_err(|e| error::from(&e))?;
        Ok(Self { shared, id: row.get(0), _session: session })
    }
}

#[async_trait]
impl Snapshot for Keeper {
    async fn source(&self) -> Result<Box<dyn Source>> {
        let mut reader = Reader { shared: self.shared.clone(), snapshot: self.id.clone(), session: None };
        reader.session().await?;
        Ok(Box::new(reader))
    }
}

/// A connection that reads at a snapshot. After an error or a stream that was dropped early the
/// session is given up and the next use opens another at the same snapshot.
struct Reader {
    shared: Arc<Shared>,
    snapshot: String,
    session: Option<Session>,
}

impl Reader {
    async fn session(&mut self) -> Result<&Session> {
        if self.session.is_none() {
            let session = self.shared.session().await?;
            let begin = format!("{BEGIN}; SET TRANSACTION SNAPSHOT {}", literal(&self.snapshot));
            session.client.batch_execute(&begin).await.map_err(|e| {
                // The snapshot ends with the connection that holds it: whatever is said of it, that one is gone.
                let mut error = error::from(&e).context("joining the snapshot");
                error.kind = ErrorKind::Unreachable;
                error
            })?;
            self.session = Some(session);
        }
        self.session.as_ref().ok_or_else(|| Error::new(ErrorKind::Protocol, "no session"))
    }

    fn failed(&mut self, table: &Table, error: &tokio_postgres::Error) -> Error {
        self.session = None;
        error::from(error).context(format_args!("reading table {}", table.name))
    }
}

#[async_trait]
impl Source for Reader {
    async fn count(&mut self, table: &Table, filter: Option<&str>) -> Result<u64> {
        let sql = format!("SELECT count(*) FROM {}{}", from(&self.shared, table), condition(filter, Vec::new()));
        let answer = self.session().await?.client.query_one(&sql, &[]).await;
        let row = answer.map_err(|e| self.failed(table, &e))?;
        Ok(row.get::<_, i64>(0).unsigned_abs())
    }

    async fn stretches(&mut self, table: &Table, bytes: u64) -> Result<Vec<Selection>> {
        // Servers before 14 would look at every page for each stretch. Tables of other kinds have no pages of their own,
        // or none that tell where a row lies.
        let sql = format!(
            "SELECT pg_relation_size(c.oid) / current_setting('block_size')::bigint, pg_table_size(c.oid) \
             FROM pg_class c JOIN pg_am m ON m.oid = c.relam WHERE c.oid = {}::regclass AND c.relkind = 'r' AND m.amname = 'heap' \
             AND current_setting('server_version_num')::int >= 140000",
            literal(&table_name(&self.shared.schema, &table.name))
        );
        let answer = self.session().await?.client.query_opt(&sql, &[]).await;
        let Some(row) = answer.map_err(|e| self.failed(table, &e))? else { return Ok(vec![Selection::All]) };
        // Of the size also what lies beside the pages: large values.
        let (pages, size) = (row.get::<_, i64>(0).unsigned_abs(), row.get::<_, i64>(1).unsigned_abs());
        let step = (pages.saturating_mul(bytes) / size.max(1)).max(1);
        // What was added since lies behind the last page that is counted; the point shows none of it.
        let starts: Vec<u64> = (0..pages).step_by(usize::try_from(step).unwrap_or(usize::MAX)).collect();
        if starts.len() < 2 {
            return Ok(vec![Selection::All]);
        }
        let ends = starts.iter().skip(1).map(|end| Some(*end)).chain([None]);
        Ok(starts.iter().zip(ends).map(|(from, upto)| Selection::Stretch { from: *from, upto }).collect())
    }

    async fn check(&mut self, request: &ReadRequest) -> Result<()> {
        request.filter.as_deref().map_or(Ok(()), |f| filter::check(f, QUOTING))?;
        let sql = select(&self.shared, request)?;
        // Preparing alone asks for no right on the table; planning it for a run does.
        let answer = self.session().await?.client.query(&format!("EXPLAIN {sql}"), &[]).await;
        answer.map(drop).map_err(|e| self.failed(&request.table, &e))
    }

    async fn read<'a>(&'a mut self, request: &ReadRequest) -> Result<Box<dyn BatchStream + 'a>> {
        let sql = format!("COPY ({}) TO STDOUT (FORMAT binary)", select(&self.shared, request)?);
        let shared = self.shared.clone();
        let session = self.session().await?;
        let (client, gate) = (&session.client, session.gate.clone());
        // Before the first row, so that nobody is told of rows that only seem to be gone.
        // No LOCK TABLE: that asks for a right on the whole table, where one on columns may be all there is.
        let lock = format!("SELECT FROM {} LIMIT 0", from(&shared, &request.table));
        if let Err(e) = client.batch_execute(&lock).await {
            return Err(self.failed(&request.table, &e));
        }
        unmoved(client, &shared, &request.table).await?;
        let answer = client.copy_out(&sql).await;
        let stream = answer.map_err(|e| self.failed(&request.table, &e))?;
        let wires = request.table.columns.iter().map(|c| Wire::of(&c.logical)).collect();
        Ok(Box::new(Rows {
            reader: self,
            stream: Box::pin(stream),
            gate,
            builder: BatchBuilder::new(request.table.clone(), request.limits),
            wires,
            table: request.table.clone(),
            rest: Vec::new(),
            chunk: Bytes::new(),
            started: false,
            ended: false,
            over: false,
        }))
    }
}

/// A point shows a table that was truncated or rewritten since as empty, and one that was made since too. Once the
/// table is locked, as reading it does, neither can happen any more.
pub(super) async fn unmoved(client: &Client, shared: &Shared, table: &Table) -> Result<()> {
    let name = literal(&table_name(&shared.schema, &table.name));
    // `pg_class` as it was at the point, and what holds now.
    let sql = format!(
        "SELECT count(*) FROM (SELECT {name}::regclass::oid UNION SELECT relid FROM pg_partition_tree({name})) r(oid) \
         LEFT JOIN pg_class c USING (oid) WHERE c.oid IS NULL OR c.relfilenode <> pg_relation_filenode(r.oid)"
    );
    let row = client.query_one(&sql, &[]).await.map_err(|e| error::from(&e))?;
    if row.get::<_, i64>(0) == 0 {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Busy,
        format!("table {} was truncated or made anew while it was read: read it again", table.name),
    ))
}

/// The table without those that inherit from it: each is a table of its own.
fn from(shared: &Shared, table: &Table) -> String {
    let only = if table.dialect.options.iter().any(|o| o == ALONE) { "ONLY " } else { "" };
    format!("{only}{}", table_name(&shared.schema, &table.name))
}

fn condition(filter: Option<&str>, mut parts: Vec<String>) -> String {
    if let Some(filter) = filter {
        // A line of its own: a comment at the end of the filter must not swallow the parenthesis.
        parts.insert(0, format!("(\n{filter}\n)"));
    }
    if parts.is_empty() { String::new() } else { format!(" WHERE {}", parts.join(" AND ")) }
}

fn select(shared: &Shared, request: &ReadRequest) -> Result<String> {
    let table = &request.table;
    let name = from(shared, table);
    let ranged = matches!(request.rows, Selection::Range { .. });
    let key = match table.row_key() {
        Some(key) => key.columns,
        None if request.ordered || ranged => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("table {} has no key to read it in order by", table.name),
            ));
        }
        None => Vec::new(),
    };
    let order: Vec<String> = key.iter().map(|&c| order_expression(shared, &table.columns[c])).collect();
    let mut parts = Vec::new();
    if let Selection::Range { after, upto } = &request.rows {
        for (bound, sign) in [(after, ">"), (upto, "<=")] {
            if let Some(values) = bound {
                parts.push(format!("({}) {sign} ({})", order.join(", "), bounds(table, &key, values)?));
            }
        }
    }
    if let Selection::Stretch { from, upto } = &request.rows {
        parts.push(format!("ctid >= '({from},0)'::tid"));
        parts.extend(upto.map(|page| format!("ctid < '({page},0)'::tid")));
    }
    let order = if request.ordered { format!(" ORDER BY {}", order.join(", ")) } else { String::new() };
    Ok(format!("SELECT {} FROM {name}{}{order}", select_list(table), condition(request.filter.as_deref(), parts)))
}

/// The expression whose order is that of the carrier. Where the column's own order is that
/// already, the bare column, so that an index serves it.
fn order_expression(shared: &Shared, column: &ColumnDef) -> String {
    let name = ident(&column.name);
    match Wire::of(&column.logical) {
        Wire::Text | Wire::Padded | Wire::Cast => {
            let collation = column.collation.as_deref().unwrap_or(&shared.collation);
            if matches!(collation, "C" | "POSIX") && column.native == "text" {
                return name;
            }
            format!("{name}::text COLLATE \"C\"")
        }
        _ => name,
    }
}

fn bounds(table: &Table, key: &[usize], values: &[Value]) -> Result<String> {
    if key.len() != values.len() {
        return Err(Error::new(
            ErrorKind::Protocol,
            format!("a bound of table {} has another number of columns than its key", table.name),
        ));
    }
    let mut out = Vec::new();
    for (&at, value) in key.iter().zip(values) {
        let column = &table.columns[at];
        let wire = Wire::of(&column.logical);
        let mut text = Vec::new();
        let cell = match value {
            Value::Int(v) => Cell::Int(*v),
            Value::UInt(v) => Cell::UInt(*v),
            Value::Float(v) => Cell::Float(*v),
            Value::Bytes(v) => Cell::Bytes(v),
            other => Cell::Escape(other),
        };
        let written = write_text(wire, cell, &mut text)?;
        let text = String::from_utf8(text).ok().filter(|t| written && !t.contains('\0'));
        let text = text.ok_or_else(|| {
            Error::new(ErrorKind::BadData, format!("a key value of table {} is NULL or no text", table.name))
        })?;
        // Texts of all kinds are ordered as such.
        let cast = wire.type_name(&column.logical).unwrap_or("text");
        out.push(format!("{}::{cast}", literal(&text)));
    }
    Ok(out.join(", "))
}

struct Rows<'a> {
    reader: &'a mut Reader,
    stream: Pin<Box<CopyOutStream>>,
    /// Shut behind a large row until the next is wanted.
    gate: Arc<Gate>,
    builder: BatchBuilder,
    wires: Vec<Wire>,
    table: Arc<Table>,
    /// The start of a row whose end has not come yet.
    rest: Vec<u8>,
    chunk: Bytes,
    started: bool,
    ended: bool,
    /// The answer was read to its end; the driver must not be asked again.
    over: bool,
}

/// Bytes of a row from which the driver must not read ahead.
const LARGE: usize = 2 << 20;

/// What a look at the buffer found.
enum Found {
    Row(usize),
    End,
    More,
}

const HEADER: usize = 19;

fn look(data: &[u8]) -> Result<Found> {
    let Some(count) = data.first_chunk::<2>() else { return Ok(Found::More) };
    let Ok(count) = u16::try_from(i16::from_be_bytes(*count)) else { return Ok(Found::End) };
    let mut at = 2;
    for _ in 0..count {
        let Some(length) = data.get(at..).and_then(|d| d.first_chunk::<4>()) else { return Ok(Found::More) };
        at += 4;
        if let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) {
            at += length;
        }
        if at > data.len() {
            return Ok(Found::More);
        }
    }
    Ok(Found::Row(at))
}

fn row(data: &[u8], wires: &[Wire], builder: &mut BatchBuilder) -> Result<()> {
    let bad = || Error::new(ErrorKind::Protocol, "PostgreSQL sent a row that cannot be read");
    let count = data.first_chunk::<2>().map_or(0, |c| usize::from(u16::from_be_bytes(*c)));
    if count != wires.len() {
        return Err(bad());
    }
    let mut at = 2;
    for (wire, column) in wires.iter().zip(&mut builder.columns) {
        let length = data.get(at..).and_then(|d| d.first_chunk::<4>()).ok_or_else(bad)?;
        at += 4;
        if let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) {
            decode(*wire, data.get(at..at + length).ok_or_else(bad)?, column)?;
            at += length;
        } else {
            column.push_null();
        }
    }
    Ok(())
}

impl Rows<'_> {
    /// Decodes what is there; true when a batch is full.
    fn drain(&mut self) -> Result<bool> {
        if !self.rest.is_empty() {
            self.rest.extend_from_slice(&self.chunk);
            self.chunk = Bytes::new();
        }
        let joined = !self.rest.is_empty();
        let data: &[u8] = if joined { &self.rest } else { &self.chunk };
        let mut at = 0;
        let mut full = false;
        if !self.started && data.len() >= HEADER {
            self.started = true;
            at = HEADER;
        }
        while self.started && !full && !self.ended {
            match look(&data[at..])? {
                Found::Row(length) => {
                    row(&data[at..at + length], &self.wires, &mut self.builder)?;
                    at += length;
                    full = self.builder.end_row();
                }
                Found::End => self.ended = true,
                Found::More => break,
            }
        }
        if joined {
            self.rest.drain(..at);
        } else {
            let left = self.chunk.split_off(at);
            if full {
                self.chunk = left;
            } else {
                self.rest.extend_from_slice(&left);
                self.chunk = Bytes::new();
            }
        }
        Ok(full)
    }
}

#[async_trait]
impl BatchStream for Rows<'_> {
    async fn next(&mut self) -> Result<Option<Batch>> {
        while !self.over {
            if !self.ended && self.drain()? {
                return Ok(self.builder.take());
            }
            self.gate.open();
            match self.stream.next().await {
                Some(Ok(chunk)) => {
                    if chunk.len() > LARGE {
                        self.gate.shut();
                    }
                    self.chunk = chunk;
                }
                Some(Err(e)) => return Err(self.reader.failed(&self.table, &e)),
                None if self.ended => self.over = true,
                None => {
                    return Err(Error::new(
                        ErrorKind::Unreachable,
                        format!("reading table {}: the answer ended in the middle", self.table.name),
                    ));
                }
            }
        }
        Ok(self.builder.take())
    }
}

impl Drop for Rows<'_> {
    fn drop(&mut self) {
        self.gate.open();
        if !self.ended
            && let Some(session) = self.reader.session.take()
        {
            session.kill();
        }
    }
}
