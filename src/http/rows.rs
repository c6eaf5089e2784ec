//! Rows as JSON, both ways: what a client names is looked up in the catalogue, and never put into SQL.

use std::sync::Arc;

use hyper::StatusCode;

use super::answer::Problem;
use super::auth::Access;
use super::router::Call;
use crate::config::{Config, Role};
use crate::engine::Database;
use crate::model::{
    Batch, Cell, Column, ColumnDef, Key, LogicalType as T, Shift, Table, Value, Zone, moment, parse, render,
    render_float, shorten, tells_moments, temporal,
};
use crate::state::Grant;

/// The database that a request is about: the one that it names, else the only one that the key opens, or that there is.
pub(super) fn the_database(config: &Config, access: &Access, named: Option<&str>) -> Result<String, Problem> {
    let opened: Vec<&String> =
        if access.role == Role::Peer { access.tables.keys().collect() } else { config.databases.keys().collect() };
    match (named, opened.as_slice()) {
        (Some(name), opened) => {
            opened.iter().find(|known| **known == name).map(|name| (*name).clone()).ok_or_else(|| {
                Problem::new(StatusCode::NOT_FOUND, format!("there is no database '{name}' for this key"))
            })
        }
        (None, [only]) => Ok((*only).clone()),
        (None, []) => Err(Problem::new(StatusCode::FORBIDDEN, "this key opens no database")),
        (None, _) => Err(Problem::malformed("there are several databases: name one with database=NAME")),
    }
}

/// Marks a row of which only the key counts: it is gone.
pub(super) const DELETED: &str = "_deleted";

/// A table that a request names, as the catalogue has it, and what the key opens of it.
pub(super) struct Opened {
    pub(super) database: Arc<dyn Database>,
    pub(super) table: Arc<Table>,
    pub(super) key: Key,
    pub(super) grant: Grant,
}

/// The table of this name, when the key opens it. A name that is not in the catalogue goes no further than here.
pub(super) async fn open(call: &Call, named: Option<&str>, table: &str) -> Result<Opened, Problem> {
    let access = call.access()?;
    let name = the_database(&call.config, access, named)?;
    let closed =
        || Problem::new(StatusCode::FORBIDDEN, format!("key '{}' does not open the table {table}", access.name));
    let grant = access.grant(&name, table).ok_or_else(closed)?;
    let database = call.node.databases.get(&call.config, &name).await?;
    let missing = || Problem::new(StatusCode::NOT_FOUND, format!("there is no table {table} in database '{name}'"));
    let known =
        database.tables(None).await?.into_iter().find(|known| known.to_string() == table).ok_or_else(missing)?;
    let table = Arc::new(database.describe(&known).await?.ok_or_else(missing)?);
    let key = table.row_key().ok_or_else(|| {
        let what = format!("the rows of {} cannot be told apart: it has no key that is never NULL", table.name);
        Problem::refused(what)
    })?;
    Ok(Opened { database, table, key, grant })
}

/// The column that says when a row changed.
pub(super) fn stamp_column(table: &Table) -> Option<usize> {
    table.column("updated_at").filter(|&at| tells_moments(&table.columns[at].logical))
}

/// What a cell of that column says, in microseconds since 1970; a reading without a zone is one of `zone`.
pub(super) fn stamp(table: &Table, column: usize, cell: Cell<'_>, zone: &Zone) -> Option<i64> {
    moment(&table.columns[column].logical, cell, zone)
}

const WALL: T = T::Timestamp { digits: 6, zoned: false };
const INSTANT: T = T::Timestamp { digits: 6, zoned: true };

/// The instant at which a clock of `zone` shows this.
pub(super) fn instant(wall: i64, zone: &Zone) -> Option<i64> {
    shifted(wall, &WALL, zone, &INSTANT, &Zone::default()).ok()
}

fn shifted(micros: i64, from: &T, zone_from: &Zone, to: &T, zone_to: &Zone) -> Result<i64, String> {
    let Some(shift) = Shift::between(from, zone_from, to, zone_to) else { return Ok(micros) };
    let mut one = Column::default();
    one.push_int(micros);
    let (one, misfits) = shift.apply(from, one);
    match (one.cell(0), misfits.into_iter().next()) {
        (Cell::Int(micros), None) => Ok(micros),
        (_, why) => Err(why.map(|(_, why)| why).unwrap_or_default()),
    }
}

/// Writes a row as a JSON object. Numbers are numbers where they stay exact (whole ones and floats), decimals, moments
/// and documents are text, bytes are hexadecimal.
pub(super) fn write_row(out: &mut Vec<u8>, batch: &Batch, row: usize) {
    out.push(b'{');
    for (at, column) in batch.table.columns.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_text(out, &column.name);
        out.push(b':');
        write_cell(out, &column.logical, batch.cell(row, at));
    }
    out.push(b'}');
}

/// A key that is gone, as a JSON object.
pub(super) fn write_deleted(out: &mut Vec<u8>, keys: &Batch, row: usize) {
    write_row(out, keys, row);
    out.pop();
    out.extend_from_slice(b",\"_deleted\":true}");
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    // Text always becomes JSON.
    let _ = serde_json::to_writer(out, text);
}

fn write_cell(out: &mut Vec<u8>, logical: &T, cell: Cell<'_>) {
    let number = |v: f64| v.is_finite().then(|| serde_json::Number::from_f64(v)).flatten();
    let plain = match (cell, logical) {
        (Cell::Null | Cell::Absent | Cell::Escape(Value::Null), _) => Some("null".to_owned()),
        (Cell::Int(v @ (0 | 1)), T::Bool) => Some((v == 1).to_string()),
        (Cell::Int(v), T::Int { .. }) => Some(v.to_string()),
        (Cell::UInt(v), _) => Some(v.to_string()),
        (Cell::Float(v), T::Float { bits: 32 }) if v.is_finite() => Some(render_float(v, true)),
        (Cell::Float(v), _) => number(v).map(|v| v.to_string()),
        (Cell::Escape(Value::Int(v)), _) => Some(v.to_string()),
        (Cell::Escape(Value::UInt(v)), _) => Some(v.to_string()),
        (Cell::Escape(Value::Float(v)), _) => number(*v).map(|v| v.to_string()),
        _ => None,
    };
    match plain {
        Some(text) => out.extend_from_slice(text.as_bytes()),
        None => write_text(out, &render(logical, cell).unwrap_or_default()),
    }
}

/// Reads a JSON value for a column; `Err` says why it is none. A number keeps the digits that were sent.
pub(super) fn read_cell(column: &ColumnDef, zone: &Zone, raw: &str, out: &mut Column) -> Result<(), String> {
    let logical = &column.logical;
    let text = match raw.as_bytes().first() {
        Some(b'n') => {
            out.push_null();
            return Ok(());
        }
        Some(b'"') => serde_json::from_str::<String>(raw).map_err(|_| "the text cannot be read".to_owned())?,
        Some(b'{' | b'[') if matches!(logical, T::Json { .. } | T::Text { .. }) => raw.to_owned(),
        Some(b'{' | b'[') => return Err(format!("an object or array is no {logical}")),
        _ => {
            let moment = matches!(logical, T::Date | T::Timestamp { .. } | T::Time { .. } | T::Binary { .. } | T::Uuid);
            if moment {
                return Err(format!("{} is no {logical}; send it as text", shorten(raw)));
            }
            if *logical == T::Any {
                out.push_escape(of_any(raw)?);
                return Ok(());
            }
            raw.to_owned()
        }
    };
    match logical {
        T::Binary { .. } => {
            out.push_bytes(&bytes(&text).ok_or_else(|| format!("'{}' is not hexadecimal", shorten(&text)))?);
            Ok(())
        }
        T::Timestamp { zoned, .. } => {
            let wrong = || format!("'{}' is no {logical}", shorten(&text));
            let (micros, offset) = temporal::parse_timestamp(text.trim()).ok_or_else(wrong)?;
            let utc = offset.map(|seconds| micros - seconds * 1_000_000);
            out.push_int(match (utc, zoned) {
                (Some(utc), true) => utc,
                (None, false) => micros,
                (Some(utc), false) => shifted(utc, &INSTANT, &Zone::default(), &WALL, zone)?,
                (None, true) => shifted(micros, &WALL, zone, &INSTANT, &Zone::default())?,
            });
            Ok(())
        }
        T::Float { .. } if text.parse::<f64>().is_ok_and(f64::is_infinite) && raw.starts_with(|c| c != '"') => {
            Err(format!("{} is beyond a {logical}", shorten(raw)))
        }
        T::Decimal { .. } if text.contains(['e', 'E']) && !text.ends_with(['y', 'N']) => {
            Err(format!("'{}' is no {logical}; write it without an exponent", shorten(&text)))
        }
        _ => parse(logical, &text, out),
    }
}

/// A JSON number or truth value in a column of any type.
fn of_any(raw: &str) -> Result<Value, String> {
    match raw {
        "true" => return Ok(Value::Int(1)),
        "false" => return Ok(Value::Int(0)),
        _ => {}
    }
    if let Ok(whole) = raw.parse() {
        return Ok(Value::Int(whole));
    }
    let wrong = || format!("{} does not come back as it was; send it as text", shorten(raw));
    let float: f64 = raw.parse().map_err(|_| wrong())?;
    let digits = raw.chars().filter(char::is_ascii_digit).count();
    if float.is_finite() && digits <= 17 { Ok(Value::Float(float)) } else { Err(wrong()) }
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    if !hex.len().is_multiple_of(2) || !hex.is_ascii() {
        return None;
    }
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TableName;

    #[test]
    fn values_come_back_as_they_were_sent() {
        let zone = Zone::named("Africa/Lagos").unwrap();
        let stamp = |zoned| T::Timestamp { digits: 6, zoned };
        let decimal = T::Decimal { precision: None, scale: None };
        let text = T::Text { max: None, fixed: false };
        let binary = T::Binary { max: None, fixed: false };
        for (logical, sent, told) in [
            (T::Int { bits: 64, unsigned: false }, "-9223372036854775808", "-9223372036854775808"),
            (T::Int { bits: 64, unsigned: true }, "18446744073709551615", "18446744073709551615"),
            (T::Int { bits: 32, unsigned: false }, "\"7\"", "7"),
            (decimal.clone(), "0.12345678901234567890123", "\"0.12345678901234567890123\""),
            (decimal.clone(), "\"12.50\"", "\"12.50\""),
            (T::Float { bits: 64 }, "1e300", "1e+300"),
            (T::Float { bits: 64 }, "\"NaN\"", "\"NaN\""),
            (T::Bool, "true", "true"),
            (T::Bool, "0", "false"),
            (binary, "\"00ff\"", "\"00ff\""),
            (text.clone(), "\"a\\u0000\\\"☕\"", "\"a\\u0000\\\"☕\""),
            (T::Json { binary: false }, "{\"a\": [1, 2]}", "\"{\\\"a\\\": [1, 2]}\""),
            (stamp(true), "\"2026-03-01T10:00:00Z\"", "\"2026-03-01 10:00:00.000000+00:00\""),
            (stamp(true), "\"2026-03-01 10:00:00\"", "\"2026-03-01 09:00:00.000000+00:00\""),
            (stamp(false), "\"2026-03-01T10:00:00Z\"", "\"2026-03-01 11:00:00.000000\""),
            (stamp(false), "\"2026-03-01 10:00:00\"", "\"2026-03-01 10:00:00.000000\""),
            (T::Any, "1.5", "1.5"),
            (text, "null", "null"),
        ] {
            let column = ColumnDef::new("c", logical.clone());
            let mut data = Column::default();
            read_cell(&column, &zone, sent, &mut data).unwrap_or_else(|why| panic!("{sent}: {why}"));
            let batch = Batch::new(Arc::new(Table::new(TableName::new("t"), vec![column])), vec![data]);
            let mut out = Vec::new();
            write_row(&mut out, &batch, 0);
            assert_eq!(String::from_utf8(out).unwrap(), format!("{{\"c\":{told}}}"), "{logical}");
        }
        for (logical, wrong) in [
            (T::Int { bits: 64, unsigned: false }, "1.5"),
            (T::Int { bits: 64, unsigned: false }, "\"x\""),
            (decimal, "1e3"),
            (T::Float { bits: 64 }, "1e999"),
            (stamp(true), "12"),
            (T::Bool, "2"),
            (T::Uuid, "[1]"),
        ] {
            let column = ColumnDef::new("c", logical.clone());
            assert!(read_cell(&column, &zone, wrong, &mut Column::default()).is_err(), "{logical} {wrong}");
        }
    }
}
