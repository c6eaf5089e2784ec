//! The type table: declared types to [`LogicalType`] and back, and the values between.
//!
//! SQLite keeps any value in any column; a declared type only sets an *affinity* that may convert
//! what is stored (`'007'` becomes 7 in a NUMERIC column). The names made here are chosen by the
//! affinity that changes nothing.

use std::fmt::Write as _;

use rusqlite::types::{ToSqlOutput, ValueRef};

use super::ddl::{SAME_ENGINE, STRICT, WITHOUT_ROWID};
use crate::engine::MappedColumn;
use crate::model::{
    Cell, Column, ColumnDef, DefaultValue, Identity, LogicalType, Plain, Table, Value, VarBytes, decimal_parts, padded,
    temporal,
};

/// How a column converts what is stored, by SQLite's rules for names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Affinity {
    Integer,
    Text,
    Blob,
    Real,
    Numeric,
}

/// The affinity of a declared type (<https://sqlite.org/datatype3.html#determination_of_column_affinity>).
pub(super) fn affinity(declared: &str) -> Affinity {
    if declared == STRICT_ANY {
        return Affinity::Blob;
    }
    let name = plain(declared).to_ascii_uppercase();
    let has = |words: &[&str]| words.iter().any(|w| name.contains(w));
    if has(&["INT"]) {
        Affinity::Integer
    } else if has(&["CHAR", "CLOB", "TEXT"]) {
        Affinity::Text
    } else if name.is_empty() || has(&["BLOB"]) {
        Affinity::Blob
    } else if has(&["REAL", "FLOA", "DOUB"]) {
        Affinity::Real
    } else {
        Affinity::Numeric
    }
}

/// The declared type without our own marks.
pub(super) fn plain(native: &str) -> &str {
    if native == STRICT_ANY {
        return "ANY";
    }
    native.trim_end_matches(SAME_ENGINE).trim()
}

/// The name without its arguments, and the arguments.
fn split(declared: &str) -> (String, Vec<u32>) {
    let upper = plain(declared).to_ascii_uppercase();
    let (base, args) = match (upper.find('('), upper.rfind(')')) {
        (Some(open), Some(close)) if open < close => {
            let args = upper[open + 1..close].split(',').filter_map(|a| a.trim().parse().ok()).collect();
            (format!("{} {}", &upper[..open], &upper[close + 1..]), args)
        }
        _ => (upper, Vec::new()),
    };
    (base.split_whitespace().collect::<Vec<_>>().join(" "), args)
}

const fn int(bits: u8) -> LogicalType {
    LogicalType::Int { bits, unsigned: false }
}

const fn unsigned(bits: u8) -> LogicalType {
    LogicalType::Int { bits, unsigned: true }
}

/// What a declared type means.
pub(super) fn parse(declared: &str) -> LogicalType {
    let (base, args) = split(declared);
    let first = args.first().copied();
    let digits = first.and_then(|d| u8::try_from(d).ok()).filter(|d| *d <= 6).unwrap_or(6);
    match base.as_str() {
        "" | "ANY" | "ANY_BLOB" => LogicalType::Any,
        "BOOLEAN" | "BOOL" => LogicalType::Bool,
        "TINYINT" if args == [1] => LogicalType::Bool,
        "TINYINT" | "INT1" => int(8),
        "SMALLINT" | "INT2" => int(16),
        "MEDIUMINT" | "INT3" => int(24),
        "INT4" => int(32),
        "UNSIGNED_INT8" => unsigned(8),
        "UNSIGNED_INT16" => unsigned(16),
        "UNSIGNED_INT24" => unsigned(24),
        "UNSIGNED_INT32" => unsigned(32),
        "UNSIGNED64_TEXT" => unsigned(64),
        "FLOAT32" => LogicalType::Float { bits: 32 },
        "NUMERIC" | "DECIMAL" | "DEC" | "NUMBER" | "DECIMAL_TEXT" => match args.as_slice() {
            [p] => LogicalType::Decimal { precision: Some(*p), scale: Some(0) },
            [p, s] => LogicalType::Decimal { precision: Some(*p), scale: Some(*s) },
            _ => LogicalType::Decimal { precision: None, scale: None },
        },
        "BPCHAR" => LogicalType::Text { max: first, fixed: true },
        "STRING" => LogicalType::Text { max: first, fixed: false },
        "BLOB" | "VARBINARY" | "BINARY VARYING" => LogicalType::Binary { max: first, fixed: false },
        "BINARY" => LogicalType::Binary { max: first, fixed: first.is_some() },
        "BITS_TEXT" => LogicalType::Bits { len: first, varying: false },
        "VARBITS_TEXT" => LogicalType::Bits { len: first, varying: true },
        "UUID" | "GUID" | "UNIQUEIDENTIFIER" => LogicalType::Uuid,
        "DATE" => LogicalType::Date,
        "TIME" | "TIME WITHOUT TIME ZONE" => LogicalType::Time { digits },
        "TIMETZ" | "TIME WITH TIME ZONE" => LogicalType::TimeTz { digits },
        "DURATION" => LogicalType::Duration { digits },
        "DATETIME" | "TIMESTAMP" | "TIMESTAMP WITHOUT TIME ZONE" => LogicalType::Timestamp { digits, zoned: false },
        "TIMESTAMPTZ" | "TIMESTAMP WITH TIME ZONE" => LogicalType::Timestamp { digits, zoned: true },
        "PERIOD_TEXT" => LogicalType::Interval,
        "JSON" | "JSON_TEXT" => LogicalType::Json { binary: false },
        "JSONB" | "JSONB_TEXT" => LogicalType::Json { binary: true },
        _ => match affinity(declared) {
            Affinity::Integer => int(64),
            Affinity::Text => LogicalType::Text { max: first, fixed: false },
            Affinity::Blob => LogicalType::Binary { max: first, fixed: false },
            Affinity::Real => LogicalType::Float { bits: 64 },
            // A name that says nothing: each value is taken as it is.
            Affinity::Numeric => LogicalType::Any,
        },
    }
}

fn with(name: &str, arg: Option<u32>) -> String {
    arg.map_or_else(|| name.to_owned(), |n| format!("{name}({n})"))
}

/// Digits up to which NUMERIC keeps every value: what a double holds exactly.
const EXACT_DIGITS: u32 = 15;

/// The declared type that keeps every value of this type. Nothing here is a loss.
fn declared_for(logical: &LogicalType) -> String {
    match logical {
        LogicalType::Bool => "BOOLEAN".to_owned(),
        LogicalType::Int { bits: 64, unsigned: true } => "UNSIGNED64_TEXT".to_owned(),
        LogicalType::Int { bits, unsigned: true } => format!("UNSIGNED_INT{bits}"),
        LogicalType::Int { bits, .. } => match bits {
            8 => "TINYINT",
            16 => "SMALLINT",
            24 => "MEDIUMINT",
            32 => "INT4",
            _ => "BIGINT",
        }
        .to_owned(),
        LogicalType::Float { bits: 32 } => "FLOAT32".to_owned(),
        LogicalType::Float { .. } => "DOUBLE".to_owned(),
        LogicalType::Decimal { precision: Some(p), scale: Some(s) } if *p <= EXACT_DIGITS => {
            format!("NUMERIC({p},{s})")
        }
        LogicalType::Decimal { precision: Some(p), scale: Some(s) } => format!("DECIMAL_TEXT({p},{s})"),
        LogicalType::Decimal { .. } => "DECIMAL_TEXT".to_owned(),
        LogicalType::Text { max: None, .. } => "TEXT".to_owned(),
        LogicalType::Text { max, fixed } => with(if *fixed { "BPCHAR" } else { "VARCHAR" }, *max),
        LogicalType::Binary { max: None, .. } => "BLOB".to_owned(),
        LogicalType::Binary { max, fixed } => with(if *fixed { "BINARY" } else { "VARBINARY" }, *max),
        LogicalType::Bits { len, varying } => with(if *varying { "VARBITS_TEXT" } else { "BITS_TEXT" }, *len),
        LogicalType::Uuid => "UUID".to_owned(),
        LogicalType::Date => "DATE".to_owned(),
        LogicalType::Time { digits } => format!("TIME({digits})"),
        LogicalType::TimeTz { digits } => format!("TIMETZ({digits})"),
        LogicalType::Duration { digits } => format!("DURATION({digits})"),
        LogicalType::Timestamp { digits, zoned: false } => format!("DATETIME({digits})"),
        LogicalType::Timestamp { digits, zoned: true } => format!("TIMESTAMPTZ({digits})"),
        LogicalType::Interval => "PERIOD_TEXT".to_owned(),
        LogicalType::Json { binary: false } => "JSON_TEXT".to_owned(),
        LogicalType::Json { binary: true } => "JSONB_TEXT".to_owned(),
        LogicalType::Any => "ANY_BLOB".to_owned(),
        LogicalType::Enum { .. } | LogicalType::Set { .. } | LogicalType::Array { .. } | LogicalType::Other { .. } => {
            "TEXT".to_owned()
        }
    }
}

/// Whether a column declared so may change a value of its type. Another engine's type text can
/// read the same (`numeric`), so that such a text is kept only with our catalogue's mark.
pub(super) fn may_convert(declared: &str, logical: &LogicalType) -> bool {
    let affinity = affinity(declared);
    match logical {
        LogicalType::Decimal { precision, scale } => {
            affinity != Affinity::Text && (precision.is_none_or(|p| p > EXACT_DIGITS) || scale.is_none())
        }
        LogicalType::Text { .. } | LogicalType::Json { .. } => affinity != Affinity::Text,
        LogicalType::Any => affinity != Affinity::Blob,
        _ => false,
    }
}

/// Whether SQLite's grammar takes this as a type: words, then at most two numbers in parentheses.
/// `timestamp(3) with time zone` of another engine reads well but is none.
fn stands_in_ddl(native: &str) -> bool {
    let text = plain(native);
    let (words, args) = text.split_once('(').map_or((text, None), |(w, a)| (w, Some(a)));
    let upper = words.to_ascii_uppercase();
    words.chars().all(|c| c.is_alphanumeric() || c == '_' || c == ' ')
        && !upper.split(' ').any(|w| w.starts_with("WITH"))
        && args.is_none_or(|a| {
            a.strip_suffix(')')
                .is_some_and(|a| a.split(',').count() <= 2 && a.split(',').all(|n| n.trim().parse::<u32>().is_ok()))
        })
}

/// What SQLite makes of a column.
pub(super) fn map_column(table: &Table, column: &ColumnDef) -> MappedColumn {
    let mut out = column.clone();
    let position = table.column(&column.name);
    let sole_key = table.primary_key.as_ref().is_some_and(|k| k.columns.len() == 1 && Some(k.columns[0]) == position);
    let is_number = matches!(column.logical, LogicalType::Int { .. });
    if column.identity.is_some() && sole_key && is_number {
        // Only a column declared exactly so is numbered by SQLite.
        let counted = column.native == AUTOINCREMENT;
        out.native = if counted { AUTOINCREMENT.to_owned() } else { "INTEGER".to_owned() };
        out.identity = Some(Identity::ByDefault);
        out.nullable = false;
        out.default = None;
    } else {
        out.identity = None;
        // A number that the database does not give out here is no longer counted.
        let counted = column.native == AUTOINCREMENT;
        let own = !column.native.is_empty() && !counted && parse(&column.native) == column.logical;
        if !own
            || !stands_in_ddl(&column.native)
            || (may_convert(&column.native, &column.logical) && !column.native.ends_with(SAME_ENGINE))
        {
            out.native = declared_for(&column.logical);
        }
        let rowid = !table.dialect.options.iter().any(|o| o == WITHOUT_ROWID);
        if plain(&out.native).eq_ignore_ascii_case("INTEGER") && sole_key && rowid {
            // Without a number of its own the key must not become one.
            let strict = table.dialect.options.iter().any(|o| o == STRICT);
            if strict { "INT" } else { "BIGINT" }.clone_into(&mut out.native);
        }
    }
    out.logical = parse(&out.native);
    out.collation =
        column.collation.clone().filter(|c| ["NOCASE", "RTRIM"].iter().any(|own| c.eq_ignore_ascii_case(own)));
    out.binary_order = out.collation.is_none();
    // Without its words a generated column becomes an ordinary one with the values that it had.
    out.generated = column.generated && column.dialect.is_some();
    if let Some(DefaultValue::Expression(text)) = &out.default
        && !text.ends_with(SAME_ENGINE)
    {
        out.default = None;
    }
    MappedColumn { column: out, loss: None }
}

/// Type text of a column of a STRICT table that takes each value as it is: elsewhere `ANY` would
/// make numbers of texts.
pub(super) const STRICT_ANY: &str = "ANY /*strict*/";

/// Type text of a rowid alias that never uses a number twice.
pub(super) const AUTOINCREMENT: &str = "INTEGER AUTOINCREMENT";

// ---------------------------------------------------------------- reading

/// A stored value with its own type.
fn escape(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(v) => Value::Int(v),
        ValueRef::Real(v) => Value::Float(v),
        ValueRef::Text(t) => {
            std::str::from_utf8(t).map_or_else(|_| Value::RawText(t.to_vec()), |t| Value::Text(t.to_owned()))
        }
        ValueRef::Blob(b) => Value::Bytes(b.to_vec()),
    }
}

/// Appends a stored value: exactly when it is of the column's type in any of its usual forms, else
/// as an escape.
pub(super) fn push(column: &mut Column, logical: &LogicalType, value: &ValueRef<'_>) {
    let pushed = match *value {
        ValueRef::Null => {
            column.push_null();
            true
        }
        ValueRef::Integer(v) => push_integer(column, logical, v),
        ValueRef::Real(v) => push_real(column, logical, v),
        ValueRef::Text(bytes) => match (std::str::from_utf8(bytes), logical) {
            (Ok(text), _) => push_text(column, logical, text),
            // SQLite takes any bytes for text; other engines' misfits refuse them.
            (Err(_), LogicalType::Text { .. }) => {
                column.push_bytes(bytes);
                true
            }
            (Err(_), _) => false,
        },
        ValueRef::Blob(bytes) => match logical {
            LogicalType::Binary { .. } => {
                column.push_bytes(bytes);
                true
            }
            LogicalType::Uuid if bytes.len() == 16 => {
                column.push_bytes(bytes);
                true
            }
            _ => false,
        },
    };
    if !pushed {
        column.push_escape(escape(*value));
    }
}

fn in_width(v: i64, bits: u8, unsigned: bool) -> bool {
    match (bits, unsigned) {
        (64.., _) => true,
        (_, true) => v >= 0 && v < 1_i64 << bits,
        (_, false) => v >= -(1_i64 << (bits - 1)) && v < 1_i64 << (bits - 1),
    }
}

fn push_integer(column: &mut Column, logical: &LogicalType, v: i64) -> bool {
    match logical {
        LogicalType::Bool if v == 0 || v == 1 => column.push_int(v),
        LogicalType::Int { bits: 64, unsigned: true } => match u64::try_from(v) {
            Ok(v) => column.push_uint(v),
            Err(_) => return false,
        },
        LogicalType::Int { bits, unsigned } if in_width(v, *bits, *unsigned) => column.push_int(v),
        LogicalType::Float { .. } => match as_exact_float(v) {
            Some(v) => column.push_float(v),
            None => return false,
        },
        LogicalType::Decimal { scale, .. } => column.push_bytes_with(|out| {
            let mut text = format!("{v}");
            pad(&mut text, 0, scale.unwrap_or(0));
            out.extend_from_slice(text.as_bytes());
        }),
        // A JSON document that is a number, in a column of numeric affinity.
        LogicalType::Json { .. } => column.push_bytes(v.to_string().as_bytes()),
        _ => return false,
    }
    true
}

fn as_exact_float(v: i64) -> Option<f64> {
    #[allow(clippy::cast_precision_loss, reason = "checked: up to 2^53 every whole number is a double")]
    (v.unsigned_abs() <= 1 << 53).then_some(v as f64)
}

fn push_real(column: &mut Column, logical: &LogicalType, v: f64) -> bool {
    match logical {
        LogicalType::Float { bits: 32 } => {
            #[allow(clippy::cast_possible_truncation, reason = "the comparison tells whether it was exact")]
            let exact = f64::from(v as f32).to_bits() == v.to_bits();
            if !exact {
                return false;
            }
            column.push_float(v);
        }
        LogicalType::Float { .. } => column.push_float(v),
        LogicalType::Decimal { scale, .. } => {
            if let Some(scale) = *scale
                && let Some(units) = units_of(v, scale)
            {
                column.push_bytes_with(|out| write_units(out, units, scale));
                return true;
            }
            let Some(text) = decimal_of(v, *scale) else { return false };
            column.push_bytes(text.as_bytes());
        }
        _ => return false,
    }
    true
}

/// The decimal of `scale` digits that is this double, as a whole number of its last digit; `None`:
/// there is none, or it must be found the long way.
///
/// What divides back to the double is its decimal, for a division of two exact numbers gives the
/// nearest double, and no two decimals of up to 15 digits have the same one.
fn units_of(v: f64, scale: u32) -> Option<i64> {
    let power = POWERS.get(scale as usize)?;
    let units = (v * power).round();
    #[allow(clippy::cast_possible_truncation, reason = "a whole number below 10^15")]
    (units.abs() < 1e15 && (units / power).to_bits() == v.to_bits()).then_some(units as i64)
}

/// Powers of ten as doubles, all exact.
const POWERS: [f64; EXACT_DIGITS as usize + 1] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

/// Writes 1234 of scale 2 as `12.34`.
fn write_units(out: &mut Vec<u8>, units: i64, scale: u32) {
    if units < 0 {
        out.push(b'-');
    }
    let power = 10_u64.pow(scale);
    let (digits, from) = padded(units.unsigned_abs() / power, 1);
    out.extend_from_slice(&digits[from..]);
    if scale > 0 {
        out.push(b'.');
        let (digits, from) = padded(units.unsigned_abs() % power, scale as usize);
        out.extend_from_slice(&digits[from..]);
    }
}

/// Zeros up to `scale` digits after the point, of which `present` are there.
fn pad(text: &mut String, present: usize, scale: u32) {
    if present == 0 && scale > 0 {
        text.push('.');
    }
    for _ in present..scale as usize {
        text.push('0');
    }
}

/// The shortest decimal that is this double, with `scale` digits; `None` when it has more.
fn decimal_of(v: f64, scale: Option<u32>) -> Option<String> {
    if v.is_infinite() {
        return Some(if v > 0.0 { "Infinity" } else { "-Infinity" }.to_owned());
    }
    let mut text = String::new();
    let _ = write!(text, "{}", if v == 0.0 { 0.0 } else { v });
    let present = text.split_once('.').map_or(0, |(_, f)| f.len());
    if let Some(scale) = scale {
        if present > scale as usize {
            return None;
        }
        pad(&mut text, present, scale);
    }
    Some(text)
}

fn is_decimal(text: &str) -> bool {
    if matches!(text, "NaN" | "Infinity" | "-Infinity") {
        return true;
    }
    let rest = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = rest.split_once('.').map_or((rest, None), |(w, f)| (w, Some(f)));
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    digits(whole) && fraction.is_none_or(digits) && (whole.len() == 1 || !whole.starts_with('0'))
}

/// 16 bytes of a UUID with or without hyphens.
fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let bytes = text.as_bytes();
    let hyphens = match bytes.len() {
        36 => true,
        32 => false,
        _ => return None,
    };
    let mut out = [0_u8; 16];
    let mut nibbles = 0;
    for (at, &b) in bytes.iter().enumerate() {
        if hyphens && matches!(at, 8 | 13 | 18 | 23) {
            if b != b'-' {
                return None;
            }
            continue;
        }
        let digit = u8::try_from(char::from(b).to_digit(16)?).ok()?;
        let slot = out.get_mut(nibbles / 2)?;
        *slot = *slot << 4 | digit;
        nibbles += 1;
    }
    (nibbles == 32).then_some(out)
}

fn write_uuid(out: &mut String, bytes: &[u8]) {
    for (at, b) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        let _ = write!(out, "{b:02x}");
    }
}

fn push_text(column: &mut Column, logical: &LogicalType, text: &str) -> bool {
    let number = match logical {
        LogicalType::Text { .. }
        | LogicalType::Json { .. }
        | LogicalType::Enum { .. }
        | LogicalType::Set { .. }
        | LogicalType::Array { .. }
        | LogicalType::Other { .. } => {
            column.push_bytes(text.as_bytes());
            return true;
        }
        LogicalType::Decimal { .. } if is_decimal(text) => {
            column.push_bytes(text.as_bytes());
            return true;
        }
        LogicalType::Bits { .. } if text.bytes().all(|b| b == b'0' || b == b'1') => {
            column.push_bytes(text.as_bytes());
            return true;
        }
        LogicalType::Interval if text.starts_with(['P', '-']) => {
            column.push_bytes(text.as_bytes());
            return true;
        }
        LogicalType::TimeTz { .. } if is_time_with_zone(text) => {
            column.push_bytes(text.as_bytes());
            return true;
        }
        LogicalType::Uuid => {
            let Some(bytes) = parse_uuid(text) else { return false };
            column.push_bytes(&bytes);
            return true;
        }
        LogicalType::Int { bits: 64, unsigned: true } => {
            // Only the usual spelling: another one would not come back the same.
            let Some(v) = text.parse::<u64>().ok().filter(|v| v.to_string() == text) else { return false };
            column.push_uint(v);
            return true;
        }
        LogicalType::Bool => match text {
            "true" | "t" | "TRUE" => Some(1),
            "false" | "f" | "FALSE" => Some(0),
            _ => None,
        },
        LogicalType::Date => temporal::parse_date(text),
        LogicalType::Time { .. } => {
            temporal::parse_time(text).and_then(|v| i64::try_from(v).ok()).filter(|v| *v <= temporal::DAY)
        }
        LogicalType::Duration { .. } => temporal::parse_duration(text),
        LogicalType::Timestamp { zoned, .. } => match (temporal::parse_timestamp(text), zoned) {
            (Some((micros, None)), false) => Some(micros),
            (Some((micros, Some(east))), true) => micros.checked_sub(east * 1_000_000),
            _ => None,
        },
        _ => None,
    };
    if let Some(number) = number {
        column.push_int(number);
    }
    number.is_some()
}

fn is_time_with_zone(text: &str) -> bool {
    text.find(['+', '-']).is_some_and(|at| {
        temporal::parse_time(&text[..at]).is_some()
            && text[at + 1..].bytes().all(|b| b.is_ascii_digit() || b == b':')
            && text.len() > at + 2
    })
}

// ---------------------------------------------------------------- writing

/// What binding needs to know of a column.
#[derive(Debug, Clone)]
pub(super) struct Binder {
    logical: LogicalType,
    affinity: Affinity,
    digits: u8,
}

/// A column's values that are stored as they lie in memory, so that none needs a look.
pub(super) enum AsIs<'a> {
    Int(&'a [i64]),
    Real(&'a [f64]),
    Text(&'a VarBytes),
    Blob(&'a VarBytes),
}

impl Binder {
    pub(super) fn new(column: &ColumnDef) -> Self {
        // Where no digits are declared, as few as the value needs: SQLite's own functions write so.
        let digits = if column.native.contains('(') {
            match column.logical {
                LogicalType::Time { digits }
                | LogicalType::Duration { digits }
                | LogicalType::Timestamp { digits, .. } => digits,
                _ => 0,
            }
        } else {
            0
        };
        Self { logical: column.logical.clone(), affinity: affinity(&column.native), digits }
    }

    /// All values of a column as [`Self::stored`] would give them, where that changes none.
    pub(super) fn as_is<'a>(&self, column: &'a Column) -> Option<AsIs<'a>> {
        match (column.plain()?, &self.logical) {
            (Plain::Float(values), _) => Some(AsIs::Real(values)),
            (Plain::Int(values), LogicalType::Int { .. } | LogicalType::Bool) => Some(AsIs::Int(values)),
            (Plain::Bytes(values), LogicalType::Binary { .. }) => Some(AsIs::Blob(values)),
            (Plain::Bytes(values), LogicalType::Text { .. } | LogicalType::Json { .. }) => Some(AsIs::Text(values)),
            _ => None,
        }
    }

    /// The form in which a value is stored; `scratch` holds text that is made for it.
    pub(super) fn stored<'a>(&self, cell: Cell<'a>, scratch: &'a mut String) -> ToSqlOutput<'a> {
        scratch.clear();
        let value = match cell {
            Cell::Null | Cell::Absent => ValueRef::Null,
            Cell::Int(v) => {
                if !self.write_int(v, scratch) {
                    return ToSqlOutput::Borrowed(ValueRef::Integer(v));
                }
                ValueRef::Text(scratch.as_bytes())
            }
            Cell::UInt(v) => {
                if self.affinity != Affinity::Text
                    && let Ok(v) = i64::try_from(v)
                {
                    return ToSqlOutput::Borrowed(ValueRef::Integer(v));
                }
                let _ = write!(scratch, "{v}");
                ValueRef::Text(scratch.as_bytes())
            }
            Cell::Float(v) => ValueRef::Real(v),
            Cell::Bytes(bytes) => match &self.logical {
                LogicalType::Binary { .. } | LogicalType::Any => ValueRef::Blob(bytes),
                LogicalType::Uuid => {
                    write_uuid(scratch, bytes);
                    ValueRef::Text(scratch.as_bytes())
                }
                LogicalType::Decimal { .. } if self.affinity != Affinity::Text => numeric_of(bytes),
                _ => ValueRef::Text(bytes),
            },
            Cell::Escape(value) => match value {
                Value::Null => ValueRef::Null,
                Value::Int(v) => ValueRef::Integer(*v),
                Value::UInt(v) => {
                    let _ = write!(scratch, "{v}");
                    ValueRef::Text(scratch.as_bytes())
                }
                Value::Float(v) => ValueRef::Real(*v),
                Value::Text(t) => ValueRef::Text(t.as_bytes()),
                Value::Bytes(b) => ValueRef::Blob(b),
                Value::RawText(b) => ValueRef::Text(b),
            },
        };
        ToSqlOutput::Borrowed(value)
    }

    /// Writes the text of a type that SQLite keeps as text; false: the number itself is stored.
    fn write_int(&self, v: i64, out: &mut String) -> bool {
        match &self.logical {
            LogicalType::Date => temporal::write_date(out, v),
            LogicalType::Time { .. } => temporal::write_time(out, v.unsigned_abs(), self.digits),
            LogicalType::Duration { .. } => temporal::write_duration(out, v, self.digits),
            LogicalType::Timestamp { zoned, .. } => {
                temporal::write_timestamp(out, v, self.digits);
                if *zoned {
                    out.push_str("+00:00");
                }
            }
            _ => return false,
        }
        true
    }

    /// Whether a stored key value has the one form that this engine writes, by which it can be
    /// found and ordered.
    pub(super) fn is_usual_form(&self, cell: Cell<'_>, stored: ValueRef<'_>) -> bool {
        let formed = matches!(
            self.logical,
            LogicalType::Bool
                | LogicalType::Uuid
                | LogicalType::Date
                | LogicalType::Time { .. }
                | LogicalType::Duration { .. }
                | LogicalType::Timestamp { .. }
        );
        if !formed || matches!(cell, Cell::Escape(_) | Cell::Null) {
            return true;
        }
        let mut scratch = String::new();
        matches!(self.stored(cell, &mut scratch), ToSqlOutput::Borrowed(usual) if usual == stored)
    }
}

/// A decimal of at most 15 digits as a whole number of its last digit, and its scale.
fn short_decimal(bytes: &[u8]) -> Option<(i64, u32)> {
    let (sign, text) = bytes.strip_prefix(b"-").map_or((1, bytes), |rest| (-1, rest));
    if text.len() > EXACT_DIGITS as usize || !text.first()?.is_ascii_digit() {
        return None;
    }
    let (mut units, mut scale) = (0, None);
    for byte in text {
        match byte {
            b'0'..=b'9' => {
                units = units * 10 + i64::from(byte - b'0');
                scale = scale.map(|digits| digits + 1);
            }
            b'.' if scale.is_none() => scale = Some(0),
            _ => return None,
        }
    }
    Some((sign * units, scale.unwrap_or(0)))
}

/// The number that a NUMERIC column would make of this text, if it is the same; else the text.
fn numeric_of(bytes: &[u8]) -> ValueRef<'_> {
    if let Some((units, scale)) = short_decimal(bytes) {
        let power = 10_i64.pow(scale);
        #[allow(
            clippy::cast_precision_loss,
            reason = "below 10^15; see units_of for why the quotient is the decimal"
        )]
        return if units % power == 0 {
            ValueRef::Integer(units / power)
        } else {
            ValueRef::Real(units as f64 / POWERS[scale as usize])
        };
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return ValueRef::Text(bytes) };
    let Some((negative, whole, fraction)) = decimal_parts(text) else { return ValueRef::Text(bytes) };
    if fraction.is_empty() && whole.len() <= 19 {
        let whole = if whole.is_empty() { "0" } else { whole };
        if let Ok(v) = whole.parse::<i64>() {
            return ValueRef::Integer(if negative { -v } else { v });
        }
    }
    match text.parse::<f64>() {
        Ok(v) if same_number(v, text) => ValueRef::Real(v),
        _ => ValueRef::Text(bytes),
    }
}

fn same_number(v: f64, text: &str) -> bool {
    v.is_finite() && decimal_of(v, None).is_some_and(|shown| decimal_parts(&shown) == decimal_parts(text))
}

/// Whether SQLite would take this text for a number where the affinity is a number's.
fn looks_numeric(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let text = text.trim_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    text.bytes().any(|b| b.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'))
        && text.parse::<f64>().is_ok()
}

/// Why the value at a row cannot be kept here, if so.
fn misfit(column: &ColumnDef, affinity: Affinity, cell: Cell<'_>) -> Option<&'static str> {
    let converts = !matches!(affinity, Affinity::Text | Affinity::Blob);
    match (cell, &column.logical) {
        (Cell::Float(v), _) if v.is_nan() => Some("SQLite stores NaN as NULL"),
        (Cell::Float(v), _) if v == 0.0 && v.is_sign_negative() => Some("SQLite stores -0.0 as 0.0"),
        (Cell::Bytes(b), LogicalType::Decimal { .. }) if converts => match numeric_of(b) {
            ValueRef::Text(t) if looks_numeric(t) => Some("a NUMERIC column of SQLite rounds it to a double"),
            _ => None,
        },
        (Cell::Bytes(b), LogicalType::Json { .. }) if converts && looks_numeric(b) => {
            let same = std::str::from_utf8(b).is_ok_and(|t| t.parse::<i64>().is_ok_and(|v| v.to_string() == t));
            (!same).then_some("a column of this declared type spells the number anew")
        }
        (Cell::Bytes(b), LogicalType::Text { .. }) if converts && looks_numeric(b) => {
            Some("a column of this declared type turns it into a number")
        }
        (Cell::Escape(Value::Text(t)), _) if converts && looks_numeric(t.as_bytes()) => {
            Some("a column of this declared type turns it into a number")
        }
        (Cell::UInt(v), _) if affinity != Affinity::Text && i64::try_from(v).is_err() => {
            Some("it is above the largest whole number of SQLite")
        }
        _ => None,
    }
}

/// Rows that a column would change, see [`crate::engine::Database::misfits`].
pub(super) fn misfits(column: &ColumnDef, data: &Column) -> Vec<(usize, String)> {
    let affinity = affinity(&column.native);
    let may = match &column.logical {
        LogicalType::Float { .. } | LogicalType::Any => true,
        LogicalType::Int { bits: 64, unsigned: true } => affinity != Affinity::Text,
        logical => may_convert(&column.native, logical),
    };
    if !may {
        return Vec::new();
    }
    (0..data.len())
        .filter_map(|row| misfit(column, affinity, data.cell(row)).map(|why| (row, why.to_owned())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The short ways with decimals must give what the long ones give.
    #[test]
    fn short_decimals_are_the_long_ones() {
        let mut seed = 7_u64;
        let mut random = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            seed >> 11
        };
        let mut short = 0;
        for round in 0..200_000 {
            let (scale, size) = (u32::try_from(random() % 17).unwrap(), 10_u64.pow(1 + (round % 17)));
            #[allow(clippy::cast_precision_loss, reason = "any number will do")]
            let v = match round % 4 {
                0 => f64::from_bits(random() << 11 | random() >> 42),
                1 => (random() % size) as f64 / 10_f64.powi(i32::try_from(scale).unwrap()),
                2 => -((random() % size) as f64),
                _ => f64::from_bits(((random() % size) as f64 / 1e3).to_bits() + random() % 3),
            };
            if let Some(units) = units_of(v, scale) {
                let mut text = Vec::new();
                write_units(&mut text, units, scale);
                assert_eq!(
                    Some(String::from_utf8(text).unwrap()),
                    decimal_of(v, Some(scale)),
                    "{v:?} of scale {scale}"
                );
                short += 1;
            }
            if v.is_finite()
                && let Some(text) = decimal_of(v, None)
                && short_decimal(text.as_bytes()).is_some()
            {
                let same = match numeric_of(text.as_bytes()) {
                    ValueRef::Integer(whole) => whole.to_string() == text,
                    ValueRef::Real(stored) => stored.to_bits() == v.to_bits() && same_number(stored, &text),
                    _ => false,
                };
                assert!(same, "{text} becomes {:?}", numeric_of(text.as_bytes()));
            }
        }
        assert!(short > 20_000, "only {short} went the short way");
        assert_eq!(units_of(-0.0, 2), Some(0));
        for (text, value) in [("-0.00", 0), ("007.0", 7), ("5.", 5), ("-12", -12)] {
            assert_eq!(numeric_of(text.as_bytes()), ValueRef::Integer(value), "{text}");
        }
        for text in ["", "-", ".5", "1.2.3", "1e3", "+1", "0x1", "NaN"] {
            assert_eq!(numeric_of(text.as_bytes()), ValueRef::Text(text.as_bytes()));
        }
    }
}
