//! Values to and from the binary and the text format of COPY.

use crate::engine::{Error, ErrorKind, Result};
use crate::model::temporal::{self, DAY};
use crate::model::{Cell, Column, LogicalType, Value, shorten};

/// Days from 1970-01-01 to PostgreSQL's epoch, 2000-01-01.
const EPOCH_DAYS: i64 = 10_957;
const EPOCH_MICROS: i64 = EPOCH_DAYS * DAY;

/// How a column travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Numeric,
    /// UTF-8 as it stands: text, varchar, json, enum labels.
    Text,
    /// `char(n)`: the padding is taken off.
    Padded,
    Bytea,
    Date,
    Time,
    Timestamp,
    Uuid,
    Jsonb,
    /// Not binary: as the text that the server writes.
    Cast,
}

impl Wire {
    /// The way of a column that this engine described.
    pub(super) fn of(logical: &LogicalType) -> Self {
        match logical {
            LogicalType::Bool => Self::Bool,
            LogicalType::Int { bits: 8 | 16, .. } => Self::Int2,
            LogicalType::Int { bits: 24 | 32, .. } => Self::Int4,
            LogicalType::Int { .. } => Self::Int8,
            LogicalType::Float { bits: 32 } => Self::Float4,
            LogicalType::Float { .. } => Self::Float8,
            LogicalType::Decimal { .. } => Self::Numeric,
            LogicalType::Text { fixed: true, .. } => Self::Padded,
            LogicalType::Text { .. } | LogicalType::Json { binary: false } | LogicalType::Enum { .. } => Self::Text,
            LogicalType::Json { binary: true } => Self::Jsonb,
            LogicalType::Binary { .. } => Self::Bytea,
            LogicalType::Date => Self::Date,
            LogicalType::Time { .. } => Self::Time,
            LogicalType::Timestamp { .. } => Self::Timestamp,
            LogicalType::Uuid => Self::Uuid,
            _ => Self::Cast,
        }
    }

    /// The type that reads the text of [`write_text`] without a bound that would check or cut it; `None` where the
    /// way alone does not tell.
    pub(super) fn type_name(self, logical: &LogicalType) -> Option<&'static str> {
        Some(match self {
            Self::Text | Self::Padded | Self::Cast => return None,
            Self::Numeric => "numeric",
            Self::Timestamp if matches!(logical, LogicalType::Timestamp { zoned: true, .. }) => "timestamptz",
            Self::Timestamp => "timestamp",
            Self::Time => "time",
            Self::Bool => "boolean",
            Self::Int2 => "int2",
            Self::Int4 => "int4",
            Self::Int8 => "int8",
            Self::Float4 => "float4",
            Self::Float8 => "float8",
            Self::Bytea => "bytea",
            Self::Date => "date",
            Self::Uuid => "uuid",
            Self::Jsonb => "jsonb",
        })
    }
}

fn wrong(what: &str) -> Error {
    Error::new(ErrorKind::Protocol, format!("PostgreSQL sent a value that cannot be read: {what}"))
}

fn fixed<const N: usize>(field: &[u8]) -> Result<[u8; N]> {
    field.try_into().map_err(|_| wrong("unexpected length"))
}

/// Reads one field that is not NULL.
pub(super) fn decode(wire: Wire, field: &[u8], out: &mut Column) -> Result<()> {
    match wire {
        Wire::Bool => out.push_int(i64::from(fixed::<1>(field)?[0] != 0)),
        Wire::Int2 => out.push_int(i64::from(i16::from_be_bytes(fixed(field)?))),
        Wire::Int4 => out.push_int(i64::from(i32::from_be_bytes(fixed(field)?))),
        Wire::Int8 | Wire::Time => out.push_int(i64::from_be_bytes(fixed(field)?)),
        Wire::Float4 => out.push_float(f64::from(f32::from_be_bytes(fixed(field)?))),
        Wire::Float8 => out.push_float(f64::from_be_bytes(fixed(field)?)),
        Wire::Numeric => {
            let mut result = Ok(());
            out.push_bytes_with(|data| result = decode_numeric(field, data));
            result?;
        }
        Wire::Text | Wire::Cast | Wire::Bytea | Wire::Uuid => out.push_bytes(field),
        Wire::Padded => {
            let end = field.iter().rposition(|&b| b != b' ').map_or(0, |at| at + 1);
            out.push_bytes(&field[..end]);
        }
        Wire::Jsonb => match field.split_first() {
            Some((1, text)) => out.push_bytes(text),
            _ => return Err(wrong("unknown version of jsonb")),
        },
        Wire::Date => match i32::from_be_bytes(fixed(field)?) {
            i32::MAX => out.push_escape(Value::Text("infinity".to_owned())),
            i32::MIN => out.push_escape(Value::Text("-infinity".to_owned())),
            days => out.push_int(i64::from(days) + EPOCH_DAYS),
        },
        Wire::Timestamp => match i64::from_be_bytes(fixed(field)?) {
            i64::MAX => out.push_escape(Value::Text("infinity".to_owned())),
            i64::MIN => out.push_escape(Value::Text("-infinity".to_owned())),
            micros => match micros.checked_add(EPOCH_MICROS) {
                Some(micros) => out.push_int(micros),
                None => out.push_escape(Value::Text(far_text(micros))),
            },
        },
    }
    Ok(())
}

/// Text of a moment, in the server's own count, that is above what 64 bits hold from 1970 on: the
/// last 30 years of PostgreSQL's range, up to 294276-12-31.
fn far_text(micros: i64) -> String {
    let mut text = String::new();
    temporal::write_date(&mut text, micros.div_euclid(DAY) + EPOCH_DAYS);
    text.push(' ');
    temporal::write_time(&mut text, micros.rem_euclid(DAY).unsigned_abs(), 0);
    text
}

/// The server's count of such a moment.
fn far_micros(text: &str) -> Option<i64> {
    let (day, time) = text.split_once(' ')?;
    let day = temporal::parse_date(day)? - EPOCH_DAYS;
    let micros = day.checked_mul(DAY)?.checked_add(i64::try_from(temporal::parse_time(time)?).ok()?)?;
    (micros.checked_add(EPOCH_MICROS).is_none() && far_text(micros) == text).then_some(micros)
}

/// Whether the server has a moment that this text, beside the column's type, stands for.
pub(super) fn is_moment(text: &str) -> bool {
    matches!(text, "infinity" | "-infinity") || far_micros(text).is_some()
}

/// Binary numeric to canonical text.
pub(super) fn decode_numeric(field: &[u8], out: &mut Vec<u8>) -> Result<()> {
    if field.len() < 8 || !field.len().is_multiple_of(2) {
        return Err(wrong("short numeric"));
    }
    let word = |at: usize| u16::from_be_bytes([field[at * 2], field[at * 2 + 1]]);
    let count = usize::from(word(0));
    let weight = i64::from(i16::from_be_bytes([field[2], field[3]]));
    if field.len() != 8 + count * 2 {
        return Err(wrong("numeric of another length than it says"));
    }
    match word(2) {
        0 => {}
        0x4000 => out.push(b'-'),
        0xC000 => {
            return {
                out.extend_from_slice(b"NaN");
                Ok(())
            };
        }
        0xD000 => {
            return {
                out.extend_from_slice(b"Infinity");
                Ok(())
            };
        }
        0xF000 => {
            return {
                out.extend_from_slice(b"-Infinity");
                Ok(())
            };
        }
        _ => return Err(wrong("unknown sign of numeric")),
    }
    let group = |at: i64| usize::try_from(at).ok().filter(|&at| at < count).map_or(0, |at| word(4 + at));
    if weight < 0 {
        out.push(b'0');
    } else {
        for at in 0..=weight {
            push_group(out, group(at), at == 0);
        }
    }
    let scale = usize::from(word(3));
    if scale > 0 {
        out.push(b'.');
        let end = out.len() + scale;
        let mut at = weight + 1;
        while out.len() < end {
            push_group(out, group(at), false);
            at += 1;
        }
        out.truncate(end);
    }
    Ok(())
}

fn push_group(out: &mut Vec<u8>, group: u16, first: bool) {
    let mut started = !first;
    for unit in [1000, 100, 10, 1] {
        let digit = group / unit % 10;
        if digit != 0 || started || unit == 1 {
            started = true;
            out.push(b'0' + u8::try_from(digit).unwrap_or(0));
        }
    }
}

/// Canonical decimal text to binary numeric, appended.
pub(super) fn encode_numeric(text: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let special: Option<u16> = match text {
        b"NaN" => Some(0xC000),
        b"Infinity" => Some(0xD000),
        b"-Infinity" => Some(0xF000),
        _ => None,
    };
    if let Some(sign) = special {
        out.extend_from_slice(&[0, 0, 0, 0]);
        out.extend_from_slice(&sign.to_be_bytes());
        out.extend_from_slice(&[0, 0]);
        return Ok(());
    }
    let bad = || {
        Error::new(
            ErrorKind::BadData,
            format!("'{}' is no decimal", String::from_utf8_lossy(&text[..text.len().min(40)])),
        )
    };
    let (negative, rest) = text.strip_prefix(b"-").map_or((false, text), |r| (true, r));
    let point = rest.iter().position(|&b| b == b'.');
    let (whole, fraction) = point.map_or((rest, &rest[..0]), |at| (&rest[..at], &rest[at + 1..]));
    if whole.is_empty() || !whole.iter().chain(fraction).all(u8::is_ascii_digit) {
        return Err(bad());
    }
    let start = whole.iter().position(|&b| b != b'0').unwrap_or(whole.len());
    let whole = &whole[start..];
    let scale = u16::try_from(fraction.len()).ok().filter(|&s| s <= 16_383).ok_or_else(bad)?;

    let header = out.len();
    out.extend_from_slice(&[0; 8]);
    let (mut count, mut zeros): (usize, usize) = (0, 0);
    let mut weight = i64::try_from(whole.len().div_ceil(4)).map_err(|_| bad())? - 1;
    // Zeros at the end wait: they are written only when another digit follows.
    let mut push = |group: u16| {
        if group == 0 {
            if count == 0 {
                weight -= 1;
            } else {
                zeros += 1;
            }
            return;
        }
        for _ in 0..zeros {
            out.extend_from_slice(&[0, 0]);
        }
        count += zeros + 1;
        zeros = 0;
        out.extend_from_slice(&group.to_be_bytes());
    };
    let number = |digits: &[u8]| digits.iter().fold(0_u16, |n, d| n * 10 + u16::from(d - b'0'));
    let (head, tail) = whole.split_at(whole.len() % 4);
    if !head.is_empty() {
        push(number(head));
    }
    tail.chunks(4).for_each(|c| push(number(c)));
    for chunk in fraction.chunks(4) {
        let shift = [1, 1000, 100, 10, 1][chunk.len()];
        push(number(chunk) * shift);
    }
    if count == 0 {
        weight = 0;
    }
    let count = u16::try_from(count).map_err(|_| bad())?;
    let weight = i16::try_from(weight).map_err(|_| bad())?;
    let sign: u16 = if negative && count > 0 { 0x4000 } else { 0 };
    out[header..header + 2].copy_from_slice(&count.to_be_bytes());
    out[header + 2..header + 4].copy_from_slice(&weight.to_be_bytes());
    out[header + 4..header + 6].copy_from_slice(&sign.to_be_bytes());
    out[header + 6..header + 8].copy_from_slice(&scale.to_be_bytes());
    Ok(())
}

fn unfit(wire: Wire, cell: Cell<'_>) -> Error {
    let shown = match cell {
        Cell::Int(v) => v.to_string(),
        Cell::UInt(v) => v.to_string(),
        Cell::Float(v) => v.to_string(),
        Cell::Escape(Value::Text(v)) => shorten(v),
        Cell::Bytes(v) => shorten(&String::from_utf8_lossy(v)),
        _ => "of another kind".to_owned(),
    };
    let kind = format!("{wire:?}").to_lowercase();
    Error::new(ErrorKind::BadData, format!("the value {shown} does not fit into a column of kind {kind}"))
}

fn infinity(value: &Value) -> Option<bool> {
    match value {
        Value::Text(t) if t == "infinity" => Some(true),
        Value::Text(t) if t == "-infinity" => Some(false),
        _ => None,
    }
}

/// Appends a field of binary COPY, length first.
pub(super) fn encode(wire: Wire, cell: Cell<'_>, out: &mut Vec<u8>) -> Result<()> {
    let at = out.len();
    if matches!(cell, Cell::Null | Cell::Absent) {
        out.extend_from_slice(&(-1_i32).to_be_bytes());
        return Ok(());
    }
    out.extend_from_slice(&[0; 4]);
    let no = || unfit(wire, cell);
    match (wire, cell) {
        (Wire::Bool, Cell::Int(v @ (0 | 1))) => out.push(u8::from(v == 1)),
        (Wire::Int2, Cell::Int(v)) => out.extend_from_slice(&i16::try_from(v).map_err(|_| no())?.to_be_bytes()),
        (Wire::Int4, Cell::Int(v)) => out.extend_from_slice(&i32::try_from(v).map_err(|_| no())?.to_be_bytes()),
        (Wire::Int8, Cell::UInt(v)) => out.extend_from_slice(&i64::try_from(v).map_err(|_| no())?.to_be_bytes()),
        (Wire::Int8 | Wire::Time, Cell::Int(v)) => out.extend_from_slice(&v.to_be_bytes()),
        (Wire::Float4, Cell::Float(v)) => out.extend_from_slice(&narrow(v).ok_or_else(no)?.to_be_bytes()),
        (Wire::Float8, Cell::Float(v)) => out.extend_from_slice(&v.to_be_bytes()),
        (Wire::Numeric, Cell::Bytes(v)) => encode_numeric(v, out)?,
        (Wire::Jsonb, Cell::Bytes(v)) => {
            out.push(1);
            out.extend_from_slice(v);
        }
        (Wire::Uuid, Cell::Bytes(v)) if v.len() == 16 => out.extend_from_slice(v),
        (Wire::Text | Wire::Padded | Wire::Bytea | Wire::Cast, Cell::Bytes(v)) => out.extend_from_slice(v),
        (Wire::Date, Cell::Int(v)) => {
            let days = v.checked_sub(EPOCH_DAYS).and_then(|d| i32::try_from(d).ok()).ok_or_else(no)?;
            out.extend_from_slice(&days.to_be_bytes());
        }
        (Wire::Timestamp, Cell::Int(v)) => {
            out.extend_from_slice(&v.checked_sub(EPOCH_MICROS).ok_or_else(no)?.to_be_bytes());
        }
        (Wire::Date, Cell::Escape(v)) => {
            let days = if infinity(v).ok_or_else(no)? { i32::MAX } else { i32::MIN };
            out.extend_from_slice(&days.to_be_bytes());
        }
        (Wire::Timestamp, Cell::Escape(v)) => {
            let micros = match (infinity(v), v) {
                (Some(later), _) => Some(if later { i64::MAX } else { i64::MIN }),
                (None, Value::Text(text)) => far_micros(text),
                _ => None,
            };
            out.extend_from_slice(&micros.ok_or_else(no)?.to_be_bytes());
        }
        _ => return Err(no()),
    }
    let length = i32::try_from(out.len() - at - 4).map_err(|_| no())?;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

/// A 32-bit float that is exactly `value`.
#[allow(clippy::cast_possible_truncation, reason = "checked by widening it back")]
fn narrow(value: f64) -> Option<f32> {
    let narrow = value as f32;
    (value.is_nan() || f64::from(narrow).to_bits() == value.to_bits()).then_some(narrow)
}

/// Appends the text that the server's input function reads; `false` for NULL.
pub(super) fn write_text(wire: Wire, cell: Cell<'_>, out: &mut Vec<u8>) -> Result<bool> {
    use std::io::Write as _;
    let no = || unfit(wire, cell);
    match (wire, cell) {
        (_, Cell::Null | Cell::Absent) => return Ok(false),
        (Wire::Bool, Cell::Int(v @ (0 | 1))) => out.push(if v == 1 { b't' } else { b'f' }),
        (Wire::Int2 | Wire::Int4 | Wire::Int8, Cell::Int(v)) => drop(write!(out, "{v}")),
        (Wire::Int8, Cell::UInt(v)) => drop(write!(out, "{v}")),
        (Wire::Float4 | Wire::Float8, Cell::Float(v)) if v.is_nan() => out.extend_from_slice(b"NaN"),
        (Wire::Float4 | Wire::Float8, Cell::Float(v)) if v.is_infinite() => {
            out.extend_from_slice(if v > 0.0 { b"Infinity" } else { b"-Infinity" });
        }
        (Wire::Float4, Cell::Float(v)) => drop(write!(out, "{:e}", narrow(v).ok_or_else(no)?)),
        (Wire::Float8, Cell::Float(v)) => drop(write!(out, "{v:e}")),
        (Wire::Numeric | Wire::Text | Wire::Padded | Wire::Jsonb | Wire::Cast, Cell::Bytes(v)) => {
            out.extend_from_slice(v);
        }
        (Wire::Bytea, Cell::Bytes(v)) => {
            out.extend_from_slice(b"\\x");
            push_hex(v, out);
        }
        (Wire::Uuid, Cell::Bytes(v)) if v.len() == 16 => push_hex(v, out),
        (Wire::Time, Cell::Int(v)) => {
            let mut text = String::new();
            temporal::write_time(&mut text, u64::try_from(v).map_err(|_| no())?, 0);
            out.extend_from_slice(text.as_bytes());
        }
        (Wire::Date, Cell::Int(v)) => write_day(v, None, out),
        (Wire::Timestamp, Cell::Int(v)) => write_day(v.div_euclid(DAY), Some(v.rem_euclid(DAY).unsigned_abs()), out),
        (Wire::Timestamp, Cell::Escape(Value::Text(text))) if far_micros(text).is_some() => {
            out.extend_from_slice(format!("{text}+00").as_bytes());
        }
        (Wire::Date | Wire::Timestamp, Cell::Escape(v)) => {
            out.extend_from_slice(if infinity(v).ok_or_else(no)? { b"infinity" } else { b"-infinity" });
        }
        _ => return Err(no()),
    }
    Ok(true)
}

/// PostgreSQL writes years before 1 as `BC`, not with a sign.
fn write_day(days: i64, micros: Option<u64>, out: &mut Vec<u8>) {
    use std::fmt::Write as _;
    let (year, month, day) = temporal::civil(days);
    let shown = if year > 0 { year } else { 1 - year };
    let mut text = String::new();
    let _ = write!(text, "{shown:04}-{month:02}-{day:02}");
    if let Some(micros) = micros {
        text.push(' ');
        temporal::write_time(&mut text, micros, 0);
        // The session's zone is UTC, and a stamp without zone ignores the offset.
        text.push_str("+00");
    }
    if year <= 0 {
        text.push_str(" BC");
    }
    out.extend_from_slice(text.as_bytes());
}

fn push_hex(bytes: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.push(HEX[usize::from(byte >> 4)]);
        out.push(HEX[usize::from(byte & 15)]);
    }
}

/// Appends a field of text COPY; `scratch` is reused.
pub(super) fn encode_text(wire: Wire, cell: Cell<'_>, scratch: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<()> {
    scratch.clear();
    if !write_text(wire, cell, scratch)? {
        out.extend_from_slice(b"\\N");
        return Ok(());
    }
    for &byte in scratch.iter() {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => out.push(byte),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(text: &str) -> String {
        let (mut binary, mut back) = (Vec::new(), Vec::new());
        encode_numeric(text.as_bytes(), &mut binary).unwrap();
        decode_numeric(&binary, &mut back).unwrap();
        String::from_utf8(back).unwrap()
    }

    #[test]
    fn numerics_come_back() {
        for text in [
            "0",
            "0.00",
            "1",
            "-1",
            "10000",
            "0.0001",
            "-0.00010",
            "123456789.987654321",
            "NaN",
            "Infinity",
            "-Infinity",
            "100000000.0",
        ] {
            assert_eq!(round(text), text);
        }
        assert_eq!(round("-0.0"), "0.0");
        let mut seed = 7_u64;
        let mut next = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for _ in 0..5000 {
            let mut text = String::new();
            let (whole, fraction) = (next(30), next(30));
            for i in 0..=whole {
                let digit = if next(2) == 0 { 0 } else { next(10) };
                if i == 0 && whole > 0 {
                    text.push_str(&(digit.max(1)).to_string());
                } else {
                    text.push_str(&digit.to_string());
                }
            }
            if fraction > 0 {
                text.push('.');
                (0..fraction).for_each(|_| text.push_str(&(if next(2) == 0 { 0 } else { next(10) }).to_string()));
            }
            if next(2) == 0 && text.bytes().any(|b| (b'1'..=b'9').contains(&b)) {
                text.insert(0, '-');
            }
            assert_eq!(round(&text), text);
        }
        assert!(encode_numeric(b"1e5", &mut Vec::new()).is_err());
        assert!(encode_numeric(b"", &mut Vec::new()).is_err());
    }

    #[test]
    fn text_copy_escapes() {
        let (mut scratch, mut out) = (Vec::new(), Vec::new());
        encode_text(Wire::Text, Cell::Bytes(b"a\\b\tc\nd\r"), &mut scratch, &mut out).unwrap();
        encode_text(Wire::Date, Cell::Int(temporal::days(-43, 3, 15).unwrap()), &mut scratch, &mut out).unwrap();
        assert_eq!(out, b"a\\\\b\\tc\\nd\\r0044-03-15 BC");
    }
}
