//! The canonical text of a value of each type, and back: what people, rejects and rare conversions use.

use std::fmt::Write as _;

use super::{Cell, Column, LogicalType, Value, decimal_parts, temporal};

/// Text of a cell of this type; `None` for NULL and absent. Bytes are hexadecimal.
#[must_use]
pub fn render(logical: &LogicalType, cell: Cell<'_>) -> Option<String> {
    let mut out = String::new();
    match cell {
        Cell::Null | Cell::Absent => return None,
        Cell::Int(v) => match logical {
            LogicalType::Bool => out.push_str(if v == 0 { "false" } else { "true" }),
            LogicalType::Date => temporal::write_date(&mut out, v),
            LogicalType::Timestamp { digits, zoned } => {
                temporal::write_timestamp(&mut out, v, *digits);
                if *zoned {
                    out.push_str("+00:00");
                }
            }
            LogicalType::Time { digits } | LogicalType::Duration { digits } => {
                temporal::write_duration(&mut out, v, *digits);
            }
            _ => {
                let _ = write!(out, "{v}");
            }
        },
        Cell::UInt(v) => {
            let _ = write!(out, "{v}");
        }
        Cell::Float(v) => out = render_float(v, matches!(logical, LogicalType::Float { bits: 32 })),
        Cell::Bytes(v) => match logical {
            LogicalType::Uuid if v.len() == 16 => {
                for (i, byte) in v.iter().enumerate() {
                    if matches!(i, 4 | 6 | 8 | 10) {
                        out.push('-');
                    }
                    let _ = write!(out, "{byte:02x}");
                }
            }
            LogicalType::Binary { .. } | LogicalType::Uuid => write_hex(&mut out, v),
            _ => match std::str::from_utf8(v) {
                Ok(text) => out.push_str(text),
                Err(_) => write_hex(&mut out, v),
            },
        },
        Cell::Escape(v) => return render_value(v),
    }
    Some(out)
}

fn write_hex(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
}

fn render_value(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Int(v) => Some(v.to_string()),
        Value::UInt(v) => Some(v.to_string()),
        Value::Float(v) => Some(render_float(*v, false)),
        Value::Text(v) => Some(v.clone()),
        Value::Bytes(v) | Value::RawText(v) => render(&LogicalType::Binary { max: None, fixed: false }, Cell::Bytes(v)),
    }
}

/// Shortest text that reads back as the same number, without exponent where Rust's `Display` has none.
#[must_use]
pub fn render_float(v: f64, single: bool) -> String {
    if v.is_nan() {
        return "NaN".into();
    }
    if v.is_infinite() {
        return if v > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    #[allow(clippy::cast_possible_truncation, reason = "a 32-bit column's value was widened from 32 bits")]
    if single { (v as f32).to_string() } else { v.to_string() }
}

/// Reads canonical text as a value of this type and appends it; `Err` says why it is none.
pub fn parse(logical: &LogicalType, text: &str, out: &mut Column) -> Result<(), String> {
    let wrong = || format!("'{}' is no {logical}", shorten(text));
    match logical {
        LogicalType::Bool => match text {
            "true" | "1" => out.push_int(1),
            "false" | "0" => out.push_int(0),
            _ => return Err(wrong()),
        },
        LogicalType::Int { bits: 64, unsigned: true } => {
            out.push_uint(whole(text).and_then(|t| t.parse().ok()).ok_or_else(wrong)?);
        }
        LogicalType::Int { .. } => out.push_int(whole(text).and_then(|t| t.parse().ok()).ok_or_else(wrong)?),
        LogicalType::Float { .. } => {
            let value: f64 = text.parse().map_err(|_| wrong())?;
            out.push_float(value);
        }
        LogicalType::Decimal { .. } => {
            let plain = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-'));
            if !(plain && decimal_parts(text).is_some() || matches!(text, "NaN" | "Infinity" | "-Infinity")) {
                return Err(wrong());
            }
            out.push_bytes(text.as_bytes());
        }
        LogicalType::Uuid => {
            let digits: String = text.chars().filter(|c| *c != '-').collect();
            if digits.len() != 32 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(wrong());
            }
            let number = u128::from_str_radix(&digits, 16).map_err(|_| wrong())?;
            out.push_bytes(&number.to_be_bytes());
        }
        LogicalType::Date => match temporal::parse_timestamp(text) {
            Some((micros, None)) if micros.rem_euclid(temporal::DAY) == 0 => {
                out.push_int(micros.div_euclid(temporal::DAY));
            }
            _ => return Err(wrong()),
        },
        LogicalType::Timestamp { .. } => {
            let (micros, offset) = temporal::parse_timestamp(text).ok_or_else(wrong)?;
            out.push_int(micros - offset.unwrap_or(0) * 1_000_000);
        }
        LogicalType::Time { .. } => {
            let clock = temporal::parse_time(text).and_then(|v| i64::try_from(v).ok());
            let micros = clock.or_else(|| iso_duration(text)).filter(|v| (0..=temporal::DAY).contains(v));
            out.push_int(micros.ok_or_else(wrong)?);
        }
        LogicalType::Duration { .. } => {
            let micros = temporal::parse_duration(text).or_else(|| iso_duration(text)).ok_or_else(wrong)?;
            out.push_int(micros);
        }
        LogicalType::Binary { .. } => return Err(wrong()),
        LogicalType::Any => out.push_escape(Value::Text(text.to_owned())),
        _ => out.push_bytes(text.as_bytes()),
    }
    Ok(())
}

/// A duration as PostgreSQL's iso_8601 interval style writes it.
#[must_use]
pub fn duration_to_interval(micros: i64) -> String {
    if micros == 0 {
        return "PT0S".into();
    }
    let sign = if micros < 0 { "-" } else { "" };
    let total = micros.unsigned_abs();
    let (hours, minutes, rest) = (total / 3_600_000_000, total / 60_000_000 % 60, total % 60_000_000);
    let mut out = String::from("PT");
    if hours > 0 {
        let _ = write!(out, "{sign}{hours}H");
    }
    if minutes > 0 {
        let _ = write!(out, "{sign}{minutes}M");
    }
    if rest > 0 {
        let _ = write!(out, "{sign}{}", rest / 1_000_000);
        if !rest.is_multiple_of(1_000_000) {
            let fraction = format!("{:06}", rest % 1_000_000);
            let _ = write!(out, ".{}", fraction.trim_end_matches('0'));
        }
        out.push('S');
    }
    out
}

/// Reads an interval of hours, minutes and seconds alone; one with days or months is no length of time.
fn iso_duration(text: &str) -> Option<i64> {
    let mut rest = text.strip_prefix("PT")?;
    let mut micros: i64 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| c.is_ascii_alphabetic())?;
        let (number, unit) = (&rest[..end], rest.as_bytes()[end]);
        let (negative, number) = number.strip_prefix('-').map_or((false, number), |n| (true, n));
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let whole: i64 = whole.parse().ok()?;
        let size: i64 = match unit {
            b'H' => 3_600_000_000,
            b'M' => 60_000_000,
            b'S' => 1_000_000,
            _ => return None,
        };
        if fraction.len() > 6 || (!fraction.is_empty() && unit != b'S') {
            return None;
        }
        let part: i64 = if fraction.is_empty() { 0 } else { format!("{fraction:0<6}").parse().ok()? };
        let value = whole.checked_mul(size)?.checked_add(part)?;
        micros = micros.checked_add(if negative { -value } else { value })?;
        rest = &rest[end + 1..];
    }
    Some(micros)
}

/// The whole-number part of a decimal text whose fraction is zero.
fn whole(text: &str) -> Option<&str> {
    match text.split_once('.') {
        Some((whole, fraction)) if fraction.bytes().all(|b| b == b'0') => Some(whole),
        Some(_) => None,
        None => Some(text),
    }
}

/// Text of at most 60 characters, for messages.
#[must_use]
pub fn shorten(text: &str) -> String {
    if text.chars().count() <= 60 { text.to_owned() } else { text.chars().take(57).chain("...".chars()).collect() }
}
