//! Order of values, the same on every engine.

use std::cmp::Ordering;

use super::{Cell, LogicalType, Value, temporal};

/// Splits a canonical decimal text into sign, whole digits without leading zeros and fraction
/// digits without trailing zeros; `None` for NaN and the infinities.
#[must_use]
pub fn decimal_parts(text: &str) -> Option<(bool, &str, &str)> {
    let (negative, rest) = text.strip_prefix('-').map_or((false, text), |r| (true, r));
    if !rest.as_bytes().first().is_some_and(u8::is_ascii_digit) {
        return None;
    }
    let (whole, fraction) = rest.split_once('.').unwrap_or((rest, ""));
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    Some((negative && !(whole.is_empty() && fraction.is_empty()), whole, fraction))
}

fn order_decimal(a: &str, b: &str) -> Ordering {
    let rank = |t: &str| match t {
        "-Infinity" => 0,
        "Infinity" => 2,
        "NaN" => 3,
        _ => 1,
    };
    match (decimal_parts(a), decimal_parts(b)) {
        (Some((an, aw, af)), Some((bn, bw, bf))) => {
            if an != bn {
                return if an { Ordering::Less } else { Ordering::Greater };
            }
            let size = aw.len().cmp(&bw.len()).then_with(|| aw.cmp(bw)).then_with(|| af.cmp(bf));
            if an { size.reverse() } else { size }
        }
        _ => rank(a).cmp(&rank(b)).then_with(|| a.cmp(b)),
    }
}

/// Order of two cells of one logical type: NULL first, numbers by size, dates and moments by time
/// (those beside the carrier too: infinities, days that there are not), everything else by the bytes
/// of its carrier. Readers that are asked for key order deliver this order.
#[must_use]
pub fn cell_order(logical: &LogicalType, a: Cell<'_>, b: Cell<'_>) -> Ordering {
    match (a, b) {
        (Cell::Int(a), Cell::Int(b)) => a.cmp(&b),
        (Cell::UInt(a), Cell::UInt(b)) => a.cmp(&b),
        (Cell::Int(a), Cell::UInt(b)) => i128::from(a).cmp(&i128::from(b)),
        (Cell::UInt(a), Cell::Int(b)) => i128::from(a).cmp(&i128::from(b)),
        (Cell::Float(a), Cell::Float(b)) => a.total_cmp(&b),
        (Cell::Bytes(a), Cell::Bytes(b)) => {
            if matches!(logical, LogicalType::Decimal { .. })
                && let (Ok(a), Ok(b)) = (std::str::from_utf8(a), std::str::from_utf8(b))
            {
                return order_decimal(a, b);
            }
            a.cmp(b)
        }
        (Cell::Null | Cell::Absent, _) | (_, Cell::Null | Cell::Absent) => rank(a).cmp(&rank(b)),
        _ => match (moment(logical, a), moment(logical, b)) {
            (Some(x), Some(y)) => x.cmp(&y).then_with(|| order_escapes(a, b)),
            _ => order_escapes(a, b),
        },
    }
}

fn order_escapes(a: Cell<'_>, b: Cell<'_>) -> Ordering {
    match (a, b) {
        (Cell::Escape(a), Cell::Escape(b)) => order_value(a, b),
        _ => rank(a).cmp(&rank(b)),
    }
}

/// Where a date or a moment, of the carrier or beside it, stands among all others: its count, and
/// whether it is that moment itself (`true`) or stands before it: of `2024-00-15` and `2023-02-30`
/// the next day that there is. `None` where the text is no date at all, or the column none of dates.
fn moment(logical: &LogicalType, cell: Cell<'_>) -> Option<(i128, bool)> {
    let unit = match logical {
        LogicalType::Date => 1,
        LogicalType::Timestamp { .. } => i128::from(temporal::DAY),
        _ => return None,
    };
    let text = match cell {
        Cell::Int(v) => return Some((i128::from(v), true)),
        Cell::Escape(Value::Text(text)) => text.as_str(),
        _ => return None,
    };
    match text {
        "-infinity" => return Some((i128::MIN, true)),
        "infinity" => return Some((i128::MAX, true)),
        _ => {}
    }
    let (date, time) = text.split_once(' ').unwrap_or((text, "00:00"));
    if let Some(day) = temporal::parse_date(date) {
        let micros = if unit == 1 { 0 } else { i128::from(temporal::parse_time(time)?) };
        return Some((i128::from(day) * unit + micros, true));
    }
    let mut parts = date.split('-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    let first = match (month, day) {
        (0, _) => temporal::days(year, 1, 1),
        (_, 0) => temporal::days(year, u32::try_from(month).ok()?, 1),
        (12, _) => temporal::days(year + 1, 1, 1),
        _ => temporal::days(year, u32::try_from(month).ok()? + 1, 1),
    };
    Some((i128::from(first?) * unit, false))
}

fn rank(cell: Cell<'_>) -> u8 {
    match cell {
        Cell::Absent => 0,
        Cell::Null => 1,
        Cell::Int(_) | Cell::UInt(_) => 2,
        Cell::Float(_) => 3,
        Cell::Bytes(_) => 4,
        Cell::Escape(_) => 5,
    }
}

/// SQLite's order of storage classes: NULL, numbers, text, blob.
fn order_value(a: &Value, b: &Value) -> Ordering {
    let class = |v: &Value| match v {
        Value::Null => 0,
        Value::Int(_) | Value::UInt(_) | Value::Float(_) => 1,
        Value::Text(_) | Value::RawText(_) => 2,
        Value::Bytes(_) => 3,
    };
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => a.cmp(b),
        (Value::UInt(a), Value::UInt(b)) => a.cmp(b),
        (Value::Int(a), Value::UInt(b)) => i128::from(*a).cmp(&i128::from(*b)),
        (Value::UInt(a), Value::Int(b)) => i128::from(*a).cmp(&i128::from(*b)),
        (Value::Float(a), Value::Float(b)) => a.total_cmp(b),
        #[allow(clippy::cast_precision_loss, reason = "an order between unlike numbers needs no more")]
        (Value::Int(a), Value::Float(b)) => (*a as f64).total_cmp(b).then(Ordering::Less),
        #[allow(clippy::cast_precision_loss, reason = "an order between unlike numbers needs no more")]
        (Value::Float(a), Value::Int(b)) => a.total_cmp(&(*b as f64)).then(Ordering::Greater),
        #[allow(clippy::cast_precision_loss, reason = "an order between unlike numbers needs no more")]
        (Value::UInt(a), Value::Float(b)) => (*a as f64).total_cmp(b).then(Ordering::Less),
        #[allow(clippy::cast_precision_loss, reason = "an order between unlike numbers needs no more")]
        (Value::Float(a), Value::UInt(b)) => a.total_cmp(&(*b as f64)).then(Ordering::Greater),
        (Value::Bytes(a), Value::Bytes(b)) => a.cmp(b),
        _ => class(a).cmp(&class(b)).then_with(|| text(a).cmp(&text(b))),
    }
}

/// The bytes of a text.
fn text(value: &Value) -> Option<&[u8]> {
    match value {
        Value::Text(text) => Some(text.as_bytes()),
        Value::RawText(bytes) => Some(bytes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_beside_the_carrier_stand_where_engines_sort_them() {
        let text = |t: &str| Value::Text(t.to_owned());
        let stamp = LogicalType::Timestamp { digits: 6, zoned: false };
        let first = temporal::days(2024, 1, 1).unwrap_or(0);
        for (logical, unit) in [(LogicalType::Date, 1), (stamp, temporal::DAY)] {
            let escapes =
                ["-infinity", "0000-00-00", "2023-02-29", "2024-00-00", "2024-00-15", "2024-01-00", "infinity"];
            let escapes: Vec<Value> = escapes.into_iter().map(text).collect();
            let after = |n: usize| Cell::Escape(&escapes[n]);
            let ascending = [
                Cell::Null,
                after(0),
                after(1),
                Cell::Int((first - 307) * unit),
                after(2),
                Cell::Int((first - 306) * unit),
                after(3),
                after(4),
                after(5),
                Cell::Int(first * unit),
                Cell::Int(i64::MAX),
                after(6),
            ];
            for (i, a) in ascending.iter().enumerate() {
                for (j, b) in ascending.iter().enumerate() {
                    assert_eq!(cell_order(&logical, *a, *b), i.cmp(&j), "{a:?} {b:?} {logical:?}");
                }
            }
        }
        let late = [text("294247-01-10 05:00:00"), text("294276-12-31 23:59:59.999999")];
        let stamp = LogicalType::Timestamp { digits: 6, zoned: true };
        assert_eq!(cell_order(&stamp, Cell::Int(i64::MAX), Cell::Escape(&late[0])), Ordering::Less);
        assert_eq!(cell_order(&stamp, Cell::Escape(&late[1]), Cell::Escape(&late[0])), Ordering::Greater);
    }
}
