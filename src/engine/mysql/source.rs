//! Reading: prepared statements, so that values come in the binary protocol and floats exact.

use std::sync::Arc;

use async_trait::async_trait;
use mysql_async::{BinaryProtocol, Conn, QueryResult, Value as Raw, prelude::Queryable};

use super::super::filter::{self, Quoting};
use super::super::{BatchStream, Error, ErrorKind, ReadRequest, Result, Selection, Snapshot, Source, no_stretch};
use super::codec::{key_expression, key_literal};
use super::connect::{Settings, connect, quote};
use super::error::convert;
use crate::model::{Batch, BatchBuilder, Column, ColumnDef, LogicalType, Table, TableName, Value, temporal};

/// As the pinned session's `sql_mode` has it.
const QUOTING: Quoting = Quoting { escaping: "'\"", backtick: true, bracket: false, dollar: false, hash: true };

/// A consistent point per source; the server has none to share.
pub(super) struct Point {
    pub(super) settings: Settings,
}

#[async_trait]
impl Snapshot for Point {
    async fn source(&self) -> Result<Box<dyn Source>> {
        let mut conn = connect(&self.settings, "REPEATABLE READ").await?;
        conn.query_drop("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY").await.map_err(convert)?;
        Ok(Box::new(Reader { conn }))
    }
}

struct Reader {
    conn: Conn,
}

/// The table's name in SQL.
pub(super) fn table_sql(name: &TableName) -> String {
    if name.schema.is_empty() { quote(&name.name) } else { format!("{}.{}", quote(&name.schema), quote(&name.name)) }
}

/// Whether a type is one of geometries. Their values are the server's own bytes: the number of the system of reference, in
/// four bytes of which the lowest comes first, then WKB.
pub(super) fn is_geometry(native: &str) -> bool {
    const NAMES: [&str; 9] = [
        "geometry",
        "point",
        "linestring",
        "polygon",
        "multipoint",
        "multilinestring",
        "multipolygon",
        "geometrycollection",
        "geomcollection",
    ];
    NAMES.contains(&native)
}

fn bound(table: &Table, columns: &[usize], values: &[Value], above: bool) -> Result<String> {
    if values.len() != columns.len() {
        return Err(Error::new(
            ErrorKind::Protocol,
            format!("a key bound of {} has the wrong number of values", table.name),
        ));
    }
    let terms: Vec<(String, String)> = columns
        .iter()
        .zip(values)
        .map(|(&c, v)| (key_expression(&table.columns[c]), key_literal(&table.columns[c], v)))
        .collect();
    // Above: (a > x OR (a = x AND b > y)); up to: the same with <, and the last may be equal.
    let mut out = String::new();
    for (at, (expression, value)) in terms.iter().enumerate().rev() {
        let last = at + 1 == terms.len();
        out = match (last, above) {
            (true, true) => format!("{expression} > {value}"),
            (true, false) => format!("{expression} <= {value}"),
            // The redundant first term lets the index on the leading column be used.
            (false, true) => format!("({expression} >= {value} AND ({expression} > {value} OR ({out})))"),
            (false, false) => format!("({expression} <= {value} AND ({expression} < {value} OR ({out})))"),
        };
    }
    Ok(out)
}

/// Whether a type has a label that reads like the value that is none of its labels.
fn has_empty_label(logical: &LogicalType) -> bool {
    matches!(logical, LogicalType::Enum { labels } if labels.iter().any(String::is_empty))
}

/// The columns as [`put_row`] takes them.
pub(super) fn column_list(table: &Table) -> String {
    let item = |c: &ColumnDef| {
        let name = quote(&c.name);
        if has_empty_label(&c.logical) {
            format!("IF({name} + 0 = 0, CHAR(0 USING utf8mb4), CONVERT({name} USING utf8mb4))")
        } else {
            name
        }
    };
    table.columns.iter().map(item).collect::<Vec<_>>().join(", ")
}

fn select(request: &ReadRequest) -> Result<String> {
    let table = &request.table;
    let key = table.row_key();
    if let Selection::Stretch { .. } = request.rows {
        return Err(no_stretch(table));
    }
    let mut conditions = Vec::new();
    if let Some(filter) = &request.filter {
        // A line of its own: a comment at the end of the filter must not swallow the parenthesis.
        conditions.push(format!("({filter}\n)"));
    }
    let need_key = || {
        key.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, format!("table {} has no key to read it in order by", table.name))
        })
    };
    if let Selection::Range { after, upto } = &request.rows {
        let key = need_key()?;
        if let Some(values) = after {
            conditions.push(bound(table, &key.columns, values, true)?);
        }
        if let Some(values) = upto {
            conditions.push(bound(table, &key.columns, values, false)?);
        }
    }
    let mut sql = format!("SELECT {} FROM {}", column_list(table), table_sql(&table.name));
    if !conditions.is_empty() {
        sql += &format!(" WHERE {}", conditions.join(" AND "));
    }
    if request.ordered || matches!(request.rows, Selection::Range { .. }) {
        let terms: Vec<String> = need_key()?.columns.iter().map(|&c| key_expression(&table.columns[c])).collect();
        sql += &format!(" ORDER BY {}", terms.join(", "));
    }
    Ok(sql)
}

#[async_trait]
impl Source for Reader {
    async fn count(&mut self, table: &Table, filter: Option<&str>) -> Result<u64> {
        let condition = filter.map_or(String::new(), |f| format!(" WHERE ({f}\n)"));
        let sql = format!("SELECT COUNT(*) FROM {}{condition}", table_sql(&table.name));
        let rows: Option<u64> =
            self.conn.query_first(sql).await.map_err(|e| convert(e).context(format!("table {}", table.name)))?;
        rows.ok_or_else(|| Error::new(ErrorKind::Protocol, "a count has no row"))
    }

    async fn check(&mut self, request: &ReadRequest) -> Result<()> {
        request.filter.as_deref().map_or(Ok(()), |f| filter::check(f, QUOTING))?;
        let sql = select(request)?;
        let statement =
            self.conn.prep(sql).await.map_err(|e| convert(e).context(format!("table {}", request.table.name)))?;
        self.conn.close(statement).await.map_err(convert)
    }

    async fn read<'a>(&'a mut self, request: &ReadRequest) -> Result<Box<dyn BatchStream + 'a>> {
        let sql = select(request)?;
        let table = request.table.clone();
        let result =
            self.conn.exec_iter(sql, ()).await.map_err(|e| convert(e).context(format!("table {}", table.name)))?;
        let builder = BatchBuilder::new(table.clone(), request.limits);
        Ok(Box::new(Rows { result, table, builder, done: false }))
    }
}

struct Rows<'a> {
    result: QueryResult<'a, 'static, BinaryProtocol>,
    table: Arc<Table>,
    builder: BatchBuilder,
    done: bool,
}

#[async_trait]
impl BatchStream for Rows<'_> {
    async fn next(&mut self) -> Result<Option<Batch>> {
        while !self.done {
            let row = self.result.next().await.map_err(|e| convert(e).context(format!("table {}", self.table.name)))?;
            let Some(row) = row else {
                self.done = true;
                break;
            };
            put_row(&self.table, row, &mut self.builder.columns)?;
            if self.builder.end_row() {
                return Ok(self.builder.take());
            }
        }
        Ok(self.builder.take())
    }
}

/// Appends a row as it came in the binary protocol.
pub(super) fn put_row(table: &Table, row: mysql_async::Row, columns: &mut [Column]) -> Result<()> {
    for ((value, column), definition) in row.unwrap_raw().into_iter().zip(columns).zip(&table.columns) {
        put(column, &definition.logical, value.unwrap_or(Raw::NULL))?;
    }
    Ok(())
}

/// Appends a value as it came.
fn put(column: &mut Column, logical: &LogicalType, value: Raw) -> Result<()> {
    match (logical, value) {
        (_, Raw::NULL) => column.push_null(),
        (LogicalType::Bool, Raw::Int(v)) if v != 0 && v != 1 => column.push_escape(Value::Int(v)),
        (LogicalType::Int { bits: 64, unsigned: true }, Raw::Int(v)) => {
            column.push_uint(u64::try_from(v).map_err(|_| odd(logical))?);
        }
        (LogicalType::Int { bits: 64, unsigned: true }, Raw::UInt(v)) => column.push_uint(v),
        (LogicalType::Bool | LogicalType::Int { .. }, Raw::Int(v)) => column.push_int(v),
        (LogicalType::Bool | LogicalType::Int { .. }, Raw::UInt(v)) => {
            column.push_int(i64::try_from(v).map_err(|_| odd(logical))?);
        }
        (LogicalType::Float { .. }, Raw::Float(v)) => column.push_float(f64::from(v)),
        (LogicalType::Float { .. }, Raw::Double(v)) => column.push_float(v),
        (LogicalType::Bits { len, .. }, Raw::Bytes(v)) => push_bits(column, &v, len.unwrap_or(64)),
        (LogicalType::Uuid, Raw::Bytes(v)) => match uuid_bytes(&v) {
            Some(bytes) => column.push_bytes(&bytes),
            None => column.push_escape(Value::Text(String::from_utf8_lossy(&v).into_owned())),
        },
        (LogicalType::Date | LogicalType::Timestamp { .. }, Raw::Date(y, mo, d, h, mi, s, us)) => {
            push_date(column, logical, (y, mo, d), (h, mi, s, us));
        }
        (LogicalType::Duration { .. } | LogicalType::Time { .. }, Raw::Time(negative, days, h, m, s, us)) => {
            let seconds = ((i64::from(days) * 24 + i64::from(h)) * 60 + i64::from(m)) * 60 + i64::from(s);
            let micros = seconds * 1_000_000 + i64::from(us);
            column.push_int(if negative { -micros } else { micros });
        }
        (
            LogicalType::Bool
            | LogicalType::Int { .. }
            | LogicalType::Float { .. }
            | LogicalType::Date
            | LogicalType::Timestamp { .. }
            | LogicalType::Duration { .. }
            | LogicalType::Time { .. },
            _,
        ) => return Err(odd(logical)),
        (LogicalType::Decimal { .. }, Raw::Bytes(v)) => column.push_bytes(unfilled(&v)),
        (LogicalType::Enum { .. }, Raw::Bytes(v)) if v == [0] && has_empty_label(logical) => {
            column.push_escape(Value::Bytes(v));
        }
        (_, Raw::Bytes(v)) => column.push_bytes_owned(v),
        _ => return Err(odd(logical)),
    }
    Ok(())
}

fn odd(logical: &LogicalType) -> Error {
    Error::new(
        ErrorKind::Protocol,
        format!("the server sent a value that is no {logical}: the table changed while it was read?"),
    )
}

/// Without the zeros that ZEROFILL puts before a decimal.
fn unfilled(digits: &[u8]) -> &[u8] {
    let zeros = digits.windows(2).take_while(|pair| pair[0] == b'0' && pair[1].is_ascii_digit()).count();
    &digits[zeros..]
}

fn push_bits(column: &mut Column, bytes: &[u8], len: u32) {
    let number = bytes.iter().fold(0_u64, |n, b| n << 8 | u64::from(*b));
    column.push_bytes_with(|out| out.extend((0..len.min(64)).rev().map(|i| b'0' + u8::from(number >> i & 1 == 1))));
}

fn push_date(column: &mut Column, logical: &LogicalType, (y, mo, d): (u16, u8, u8), (h, mi, s, us): (u8, u8, u8, u32)) {
    let day = temporal::days(i64::from(y), u32::from(mo), u32::from(d)).filter(|_| y > 0);
    let seconds = (i64::from(h) * 60 + i64::from(mi)) * 60 + i64::from(s);
    match (day, logical) {
        (Some(day), LogicalType::Date) => column.push_int(day),
        (Some(day), _) => column.push_int(day * temporal::DAY + seconds * 1_000_000 + i64::from(us)),
        (None, LogicalType::Date) => column.push_escape(Value::Text(format!("{y:04}-{mo:02}-{d:02}"))),
        (None, LogicalType::Timestamp { digits, .. }) => {
            let mut text = format!("{y:04}-{mo:02}-{d:02} ");
            let micros = u64::try_from(seconds).unwrap_or(0) * 1_000_000 + u64::from(us);
            temporal::write_time(&mut text, micros, *digits);
            column.push_escape(Value::Text(text));
        }
        (None, _) => column.push_null(),
    }
}

fn uuid_bytes(text: &[u8]) -> Option<[u8; 16]> {
    let mut out = [0_u8; 16];
    let mut digits = text.iter().filter(|b| **b != b'-').map(|b| char::from(*b).to_digit(16));
    for byte in &mut out {
        let (high, low) = (digits.next()??, digits.next()??);
        *byte = u8::try_from(high << 4 | low).ok()?;
    }
    digits.next().is_none().then_some(out)
}
