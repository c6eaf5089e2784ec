//! Whether a value of one column can stand in another, unchanged, and its form there.
//!
//! Checked here, before anything is bound: servers in their strictest mode still round, cut and pad.

use super::text::{duration_to_interval, parse, render, shorten};
use super::{Cell, Column, LogicalType as T, Value, decimal_parts, temporal};

/// A row that does not fit, with the reason.
pub type Misfit = (usize, String);

/// Whether any value of `from` could stand in `to`; a plan with a pair that cannot is refused.
#[must_use]
pub fn convertible(from: &T, to: &T) -> bool {
    same_carrier(from, to) || via_text(from, to) || bytes_to_bytes(from, to)
}

/// The column with its values in the form of `to`, and the rows that do not fit. At those the
/// original stands as text, for the rejects: the caller takes the rows out.
///
/// `same_engine`: whether both ends are one product, so that a value beyond its type (an infinite
/// date, text in a whole number's column) may pass as it is.
#[must_use]
pub fn fit(from: &T, to: &T, data: Column, same_engine: bool) -> (Column, Vec<Misfit>) {
    if same_engine && from == to {
        // What the engine took once it takes again: SQLite holds 20 characters in a VARCHAR(10).
        return (data, Vec::new());
    }
    if same_carrier(from, to) && !data.has_escapes() {
        if is_unlimited(to) {
            return (data, Vec::new());
        }
        let misfits: Vec<Misfit> =
            (0..data.len()).filter_map(|row| check(to, data.cell(row)).err().map(|why| (row, why))).collect();
        return (data, misfits);
    }
    let mut out = Column::default();
    let mut misfits = Vec::new();
    for row in 0..data.len() {
        if let Err(why) = convert(from, to, data.cell(row), same_engine, &mut out) {
            misfits.push((row, why));
            out.push_escape(render(from, data.cell(row)).map_or(Value::Null, Value::Text));
        }
    }
    (out, misfits)
}

fn convert(from: &T, to: &T, cell: Cell<'_>, same_engine: bool, out: &mut Column) -> Result<(), String> {
    match cell {
        Cell::Null | Cell::Absent => out.push_cell(cell),
        Cell::Escape(value) if *to == T::Any => out.push_escape(value.clone()),
        Cell::Escape(value) => return convert_escape(from, to, value, same_engine, out),
        _ if *to == T::Any => out.push_escape(to_any(from, cell)),
        _ if same_carrier(from, to) || bytes_to_bytes(from, to) => {
            check(to, cell)?;
            out.push_cell(cell);
        }
        Cell::Int(micros) if matches!((from, to), (T::Duration { .. } | T::Time { .. }, T::Interval)) => {
            out.push_bytes(duration_to_interval(micros).as_bytes());
        }
        Cell::Bytes(v) if matches!(from, T::Text { .. }) && std::str::from_utf8(v).is_err() => {
            return Err("it is no valid UTF-8".to_owned());
        }
        _ if via_text(from, to) => {
            let text = render(from, cell).unwrap_or_default();
            through_text(from, to, &text, out)?;
        }
        _ => return Err(format!("a {from} cannot become a {to}")),
    }
    Ok(())
}

/// Parses into a scratch column first, so that a value that fails its check leaves no trace.
fn through_text(from: &T, to: &T, text: &str, out: &mut Column) -> Result<(), String> {
    let mut one = Column::default();
    parse(to, text, &mut one)?;
    let cell = one.cell(0);
    check(to, cell)?;
    // From text (and into floats) the way back must give the same text, or something was lost.
    let strict = matches!(from, T::Text { .. }) || matches!(to, T::Float { .. });
    if strict && !same_text(from, to, text, cell) {
        return Err(format!("'{}' would become '{}'", shorten(text), render(to, cell).unwrap_or_default()));
    }
    out.push_cell(cell);
    Ok(())
}

fn same_text(from: &T, to: &T, text: &str, cell: Cell<'_>) -> bool {
    let back = render(to, cell).unwrap_or_default();
    let number = |t: &str| decimal_parts(t).map(|(n, w, f)| (n, w.to_owned(), f.to_owned()));
    back == text
        || (matches!(from, T::Decimal { .. } | T::Int { .. })
            && number(&back).is_some()
            && number(&back) == number(text))
}

fn convert_escape(from: &T, to: &T, value: &Value, same_engine: bool, out: &mut Column) -> Result<(), String> {
    if *from != T::Any && same_engine && from == to {
        out.push_escape(value.clone());
        return Ok(());
    }
    let (own, cell) = match value {
        Value::Null => {
            out.push_null();
            return Ok(());
        }
        Value::Int(v) => (T::Int { bits: 64, unsigned: false }, Cell::Int(*v)),
        Value::UInt(v) => (T::Int { bits: 64, unsigned: true }, Cell::UInt(*v)),
        Value::Float(v) => (T::Float { bits: 64 }, Cell::Float(*v)),
        Value::Text(v) => (T::Text { max: None, fixed: false }, Cell::Bytes(v.as_bytes())),
        Value::RawText(_) => return Err("it is text that is no valid UTF-8".to_owned()),
        Value::Bytes(v) => (T::Binary { max: None, fixed: false }, Cell::Bytes(v)),
    };
    convert(&own, to, cell, false, out)
        .map_err(|_| format!("'{}' is no {to}", shorten(&render(&own, cell).unwrap_or_default())))
}

fn to_any(from: &T, cell: Cell<'_>) -> Value {
    match (from, cell) {
        (T::Bool | T::Int { .. }, Cell::Int(v)) => Value::Int(v),
        (T::Float { .. }, Cell::Float(v)) => Value::Float(v),
        (T::Binary { .. }, Cell::Bytes(v)) => Value::Bytes(v.to_vec()),
        _ => render(from, cell).map_or(Value::Null, Value::Text),
    }
}

fn texty(t: &T) -> bool {
    matches!(
        t,
        T::Text { .. }
            | T::Json { .. }
            | T::Enum { .. }
            | T::Set { .. }
            | T::Other { .. }
            | T::Array { .. }
            | T::Interval
            | T::TimeTz { .. }
            | T::Bits { .. }
    )
}

fn same_carrier(from: &T, to: &T) -> bool {
    match (from, to) {
        (T::Any, T::Any) => true,
        (T::Bool | T::Int { .. }, T::Bool | T::Int { .. }) => unsigned64(from) == unsigned64(to),
        (T::Float { .. }, T::Float { .. })
        | (T::Decimal { .. }, T::Decimal { .. })
        | (T::Date, T::Date)
        | (T::Timestamp { .. }, T::Timestamp { .. })
        | (T::Time { .. } | T::Duration { .. }, T::Time { .. } | T::Duration { .. })
        | (T::Uuid, T::Uuid)
        | (T::Binary { .. }, T::Binary { .. }) => true,
        _ => texty(from) && texty(to),
    }
}

fn unsigned64(t: &T) -> bool {
    matches!(t, T::Int { bits: 64, unsigned: true })
}

fn bytes_to_bytes(from: &T, to: &T) -> bool {
    matches!((from, to), (T::Uuid, T::Binary { .. }) | (T::Binary { .. }, T::Uuid))
}

fn via_text(from: &T, to: &T) -> bool {
    let number = |t: &T| matches!(t, T::Bool | T::Int { .. } | T::Decimal { .. } | T::Float { .. });
    let moment = |t: &T| matches!(t, T::Date | T::Timestamp { .. });
    let length = |t: &T| matches!(t, T::Time { .. } | T::Duration { .. } | T::Interval);
    let binary = |t: &T| matches!(t, T::Binary { .. });
    (number(from) && number(to))
        || (moment(from) && moment(to))
        || (length(from) && length(to))
        || *from == T::Any
        || *to == T::Any
        || (texty(from) && !binary(to))
        || (texty(to) && !binary(from))
}

/// Whether [`check`] has nothing to say of any value.
fn is_unlimited(to: &T) -> bool {
    matches!(
        to,
        T::Int { bits: 64, unsigned: false }
            | T::Float { bits: 64 }
            | T::Decimal { precision: None, .. }
            | T::Text { max: None, .. }
            | T::Binary { max: None, .. }
            | T::Json { .. }
            | T::Date
            | T::Timestamp { digits: 6.., .. }
    )
}

/// Whether a cell, already in the carrier of `to`, is within its limits.
fn check(to: &T, cell: Cell<'_>) -> Result<(), String> {
    match (to, cell) {
        (T::Bool, Cell::Int(v)) if !(0..=1).contains(&v) => Err(format!("{v} is neither true nor false")),
        (T::Int { bits, unsigned }, Cell::Int(v)) if *bits < 64 || *unsigned => {
            let (low, high) = if *unsigned {
                (0, if *bits >= 63 { i64::MAX } else { (1_i64 << bits) - 1 })
            } else {
                (-(1_i64 << (bits - 1)), (1_i64 << (bits - 1)) - 1)
            };
            if (low..=high).contains(&v) { Ok(()) } else { Err(format!("{v} is out of range for {to}")) }
        }
        #[allow(clippy::cast_possible_truncation, reason = "the comparison is about what the cast loses")]
        (T::Float { bits: 32 }, Cell::Float(v)) if !v.is_nan() && f64::from(v as f32).to_bits() != v.to_bits() => {
            Err(format!("{v} does not fit into 32 bits"))
        }
        (T::Decimal { precision: Some(p), scale: Some(s) }, Cell::Bytes(v)) => check_decimal(v, *p, *s),
        (T::Text { max: Some(max), .. }, Cell::Bytes(v)) if v.len() > *max as usize => {
            let chars = String::from_utf8_lossy(v).chars().count();
            if chars <= *max as usize { Ok(()) } else { Err(format!("{chars} characters do not fit into {to}")) }
        }
        (T::Binary { max: Some(max), fixed }, Cell::Bytes(v))
            if v.len() > *max as usize || (*fixed && v.len() != *max as usize) =>
        {
            Err(format!("{} bytes do not fit into {to}", v.len()))
        }
        (T::Uuid, Cell::Bytes(v)) if v.len() != 16 => Err(format!("{} bytes are no uuid", v.len())),
        (T::Bits { len, varying }, Cell::Bytes(v)) => {
            let fits = len.is_none_or(|n| v.len() == n as usize || (*varying && v.len() < n as usize));
            if fits && v.iter().all(|b| matches!(b, b'0' | b'1')) {
                Ok(())
            } else {
                Err(format!("'{}' does not fit into {to}", shorten(&String::from_utf8_lossy(v))))
            }
        }
        (T::Timestamp { digits, .. } | T::Time { digits } | T::Duration { digits }, Cell::Int(v)) => {
            let unit = 10_i64.pow(6 - u32::from((*digits).min(6)));
            if v % unit != 0 {
                return Err(format!("a fraction of a second is finer than {to} holds"));
            }
            if matches!(to, T::Time { .. }) && !(0..=temporal::DAY).contains(&v) {
                return Err("a length of time is no time of day".to_owned());
            }
            Ok(())
        }
        (T::TimeTz { digits }, Cell::Bytes(v)) if fraction_digits(v) > usize::from(*digits) => {
            Err(format!("a fraction of a second is finer than {to} holds"))
        }
        (T::Enum { labels }, Cell::Bytes(v)) if !labels.iter().any(|l| l.as_bytes() == v) => {
            Err(format!("'{}' is none of the labels", shorten(&String::from_utf8_lossy(v))))
        }
        (T::Set { labels }, Cell::Bytes(v)) => {
            let text = String::from_utf8_lossy(v);
            if text.is_empty() || text.split(',').all(|part| labels.iter().any(|l| l == part)) {
                Ok(())
            } else {
                Err(format!("'{}' has a label that is not in the set", shorten(&text)))
            }
        }
        _ => Ok(()),
    }
}

/// Digits after the point that say something, in a text like `12:00:00.50+01`.
fn fraction_digits(text: &[u8]) -> usize {
    let fraction = text.iter().skip_while(|b| **b != b'.').skip(1).take_while(|b| b.is_ascii_digit());
    fraction.zip(1..).filter(|(digit, _)| **digit != b'0').map(|(_, place)| place).last().unwrap_or(0)
}

fn check_decimal(value: &[u8], precision: u32, scale: u32) -> Result<(), String> {
    let text = std::str::from_utf8(value).map_err(|_| "a decimal that is no text".to_owned())?;
    match decimal_parts(text) {
        Some((_, whole, fraction))
            if whole.len() <= (precision.saturating_sub(scale)) as usize && fraction.len() <= scale as usize =>
        {
            Ok(())
        }
        // PostgreSQL's numeric(p,s) holds NaN but no infinity; other engines' misfits refuse it.
        None if text == "NaN" => Ok(()),
        _ => Err(format!("{} does not fit into decimal({precision},{scale})", shorten(text))),
    }
}
