//! Values as SQL literals and as fields of `LOAD DATA`: the two texts that this engine writes.

use std::fmt::Write as _;

use super::connect::quote;
use crate::model::{Cell, ColumnDef, LogicalType, Value, padded, temporal};

/// How a column's values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A number without quotes.
    Number,
    /// A number of bits.
    Bits,
    /// A year: four digits, for `'0'` would be 2000.
    Year,
    /// Text.
    Text,
    /// Bytes, as hexadecimal digits.
    Bytes,
    /// Day number.
    Date,
    /// Microseconds as day and time.
    Timestamp(u8),
    /// Microseconds as time.
    Time(u8),
    /// 16 bytes as text with dashes.
    Uuid,
}

impl Form {
    /// That of a column.
    pub(super) fn of(column: &ColumnDef) -> Self {
        match &column.logical {
            LogicalType::Int { .. } if column.native.starts_with("year") => Self::Year,
            LogicalType::Bool | LogicalType::Int { .. } | LogicalType::Float { .. } | LogicalType::Decimal { .. } => {
                Self::Number
            }
            LogicalType::Bits { .. } => Self::Bits,
            LogicalType::Binary { .. } => Self::Bytes,
            LogicalType::Uuid => Self::Uuid,
            LogicalType::Date => Self::Date,
            LogicalType::Timestamp { digits, .. } => Self::Timestamp(*digits),
            LogicalType::Time { digits } | LogicalType::Duration { digits } => Self::Time(*digits),
            _ => Self::Text,
        }
    }

    /// What a `LOAD DATA` field must go through, as a function of the variable; `None`: straight in.
    pub(super) fn load_expression(self, variable: &str) -> Option<String> {
        match self {
            Self::Bytes => Some(format!("UNHEX({variable})")),
            Self::Bits => Some(format!("CAST({variable} AS UNSIGNED)")),
            _ => None,
        }
    }
}

/// Writes values; keeps a scratch text so that no value costs an allocation.
#[derive(Default)]
pub(super) struct Writer {
    scratch: String,
}

/// Writing into a `String` cannot fail.
fn ignore(_: std::fmt::Result) {}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

fn hex(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(bytes.iter().flat_map(|b| [HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]));
}

fn is_number(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'.'))
}

impl Writer {
    /// The text of a number or time of this form into the scratch.
    fn render(&mut self, form: Form, cell: Cell<'_>) {
        let out = &mut self.scratch;
        out.clear();
        match (form, cell) {
            (Form::Date, Cell::Int(v)) => temporal::write_date(out, v),
            (Form::Timestamp(digits), Cell::Int(v)) => temporal::write_timestamp(out, v, digits),
            (Form::Time(digits), Cell::Int(v)) => temporal::write_duration(out, v, digits),
            (Form::Year, Cell::Int(v)) => ignore(write!(out, "{v:04}")),
            (_, Cell::Int(v)) => ignore(write!(out, "{v}")),
            (_, Cell::UInt(v)) => ignore(write!(out, "{v}")),
            // The shortest text that reads back as the same number.
            (_, Cell::Float(v)) => ignore(write!(out, "{v:e}")),
            (Form::Bits, Cell::Bytes(v)) => {
                let number = v.iter().fold(0_u64, |n, b| n << 1 | u64::from(*b == b'1'));
                ignore(write!(out, "{number}"));
            }
            (Form::Uuid, Cell::Bytes(v)) => {
                for (at, byte) in v.iter().enumerate() {
                    out.push_str(if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" });
                    ignore(write!(out, "{byte:02x}"));
                }
            }
            _ => {}
        }
    }

    /// Appends a field of `LOAD DATA`.
    pub(super) fn field(&mut self, form: Form, cell: Cell<'_>, out: &mut Vec<u8>) {
        match (form, cell) {
            (_, Cell::Null | Cell::Absent) => out.extend_from_slice(b"\\N"),
            (form, Cell::Escape(value)) => self.field(escape_form(form, value), value_cell(value), out),
            (Form::Bytes, Cell::Bytes(v)) => hex(out, v),
            (Form::Text | Form::Number, Cell::Bytes(v)) => escape_field(out, v),
            (Form::Date | Form::Timestamp(_) | Form::Time(_) | Form::Year, Cell::Bytes(v)) => escape_field(out, v),
            (Form::Number, Cell::Int(v)) => {
                if v < 0 {
                    out.push(b'-');
                }
                let (digits, from) = padded(v.unsigned_abs(), 1);
                out.extend_from_slice(&digits[from..]);
            }
            (form, cell) => {
                self.render(form, cell);
                out.extend_from_slice(self.scratch.as_bytes());
            }
        }
    }

    /// Appends an SQL literal.
    pub(super) fn literal(&mut self, form: Form, cell: Cell<'_>, out: &mut Vec<u8>) {
        match (form, cell) {
            (_, Cell::Null) => out.extend_from_slice(b"NULL"),
            (_, Cell::Absent) => out.extend_from_slice(b"DEFAULT"),
            (form, Cell::Escape(value)) => self.literal(escape_form(form, value), value_cell(value), out),
            (Form::Bytes, Cell::Bytes(v)) => {
                out.extend_from_slice(b"x'");
                hex(out, v);
                out.push(b'\'');
            }
            // A decimal in quotes would be compared as a float.
            (Form::Number, Cell::Bytes(v)) if is_number(v) => out.extend_from_slice(v),
            (Form::Date | Form::Timestamp(_) | Form::Time(_), Cell::Int(_)) | (Form::Uuid, Cell::Bytes(_)) => {
                self.render(form, cell);
                out.push(b'\'');
                out.extend_from_slice(self.scratch.as_bytes());
                out.push(b'\'');
            }
            (Form::Bits, Cell::Bytes(_)) | (_, Cell::Int(_) | Cell::UInt(_) | Cell::Float(_)) => {
                self.render(if form == Form::Year { Form::Number } else { form }, cell);
                out.extend_from_slice(self.scratch.as_bytes());
            }
            (_, Cell::Bytes(v)) => {
                out.push(b'\'');
                escape_literal(out, v);
                out.push(b'\'');
            }
        }
    }
}

fn escape_form(form: Form, value: &Value) -> Form {
    match value {
        Value::Bytes(_) | Value::RawText(_) => Form::Bytes,
        Value::Text(_) if form != Form::Bits && form != Form::Bytes => Form::Text,
        Value::Text(_) => Form::Bytes,
        _ => Form::Number,
    }
}

fn value_cell(value: &Value) -> Cell<'_> {
    match value {
        Value::Null => Cell::Null,
        Value::Int(v) => Cell::Int(*v),
        Value::UInt(v) => Cell::UInt(*v),
        Value::Float(v) => Cell::Float(*v),
        Value::Text(v) => Cell::Bytes(v.as_bytes()),
        Value::Bytes(v) | Value::RawText(v) => Cell::Bytes(v),
    }
}

/// Copies runs between the bytes that need a backslash.
fn escaped(out: &mut Vec<u8>, bytes: &[u8], escape: impl Fn(u8) -> Option<u8>) {
    let mut from = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if let Some(letter) = escape(*byte) {
            out.extend_from_slice(&bytes[from..at]);
            out.extend_from_slice(&[b'\\', letter]);
            from = at + 1;
        }
    }
    out.extend_from_slice(&bytes[from..]);
}

fn escape_field(out: &mut Vec<u8>, bytes: &[u8]) {
    escaped(out, bytes, |b| match b {
        b'\\' => Some(b'\\'),
        b'\t' => Some(b't'),
        b'\n' => Some(b'n'),
        0 => Some(b'0'),
        _ => None,
    });
}

fn escape_literal(out: &mut Vec<u8>, bytes: &[u8]) {
    escaped(out, bytes, |b| match b {
        b'\\' => Some(b'\\'),
        b'\'' => Some(b'\''),
        0 => Some(b'0'),
        _ => None,
    });
}

/// Whether a column's key order must be forced to that of its UTF-8 bytes.
fn by_bytes(column: &ColumnDef) -> bool {
    match &column.logical {
        LogicalType::Text { .. } => !column.binary_order,
        LogicalType::Enum { .. }
        | LogicalType::Set { .. }
        | LogicalType::Json { .. }
        | LogicalType::Other { .. }
        | LogicalType::Uuid => true,
        _ => false,
    }
}

/// The expression that orders a key column as [`crate::model::cell_order`] does.
pub(super) fn key_expression(column: &ColumnDef) -> String {
    let name = quote(&column.name);
    if matches!(column.logical, LogicalType::Uuid) {
        format!("CAST(CAST({name} AS CHAR(36)) AS BINARY)")
    } else if by_bytes(column) {
        format!("CAST(CONVERT({name} USING utf8mb4) AS BINARY)")
    } else {
        name
    }
}

/// A key value to compare that expression with.
pub(super) fn key_literal(column: &ColumnDef, value: &Value) -> String {
    let mut out = Vec::new();
    let mut writer = Writer::default();
    let form = Form::of(column);
    if by_bytes(column) {
        let mut text = Vec::new();
        match (form, value) {
            (Form::Uuid, Value::Bytes(v)) => {
                writer.render(form, Cell::Bytes(v));
                text.extend_from_slice(writer.scratch.as_bytes());
            }
            (_, Value::Bytes(v) | Value::RawText(v)) => text.extend_from_slice(v),
            (_, Value::Text(v)) => text.extend_from_slice(v.as_bytes()),
            (_, value) => writer.literal(Form::Number, value_cell(value), &mut text),
        }
        writer.literal(Form::Bytes, Cell::Bytes(&text), &mut out);
    } else {
        writer.literal(form, value_cell(value), &mut out);
    }
    String::from_utf8_lossy(&out).into_owned()
}
