//! The types that all engines' column types are mapped to, and the carrier of each.

use std::fmt;

/// What a column means, whatever engine holds it. The carrier is how [`crate::model::Column`]
/// holds a value of it; anything that the carrier cannot hold is a [`crate::model::Value`] escape.
///
/// | type | carrier |
/// |---|---|
/// | `Bool` | `Int` 0 or 1 |
/// | `Int` (signed, or unsigned below 64 bits) | `Int` |
/// | `Int { bits: 64, unsigned: true }` | `UInt` |
/// | `Float` | `Float`; a 32-bit value widened, which is exact |
/// | `Decimal` | `Bytes`: text `-?digits[.digits]`, no exponent, no leading zero but a single one, scale kept as the source shows it; or `NaN`, `Infinity`, `-Infinity` |
/// | `Text`, `Json`, `Enum`, `Set`, `Other`, `Array` | `Bytes`: UTF-8 |
/// | `Binary` | `Bytes` |
/// | `Bits` | `Bytes`: the characters `0` and `1`, most significant first |
/// | `Uuid` | `Bytes`: 16 bytes |
/// | `Date` | `Int`: days since 1970-01-01, proleptic Gregorian |
/// | `Timestamp` | `Int`: microseconds since 1970-01-01 00:00:00; UTC when `zoned`, else as it stands |
/// | `Time` (of day), `Duration` | `Int`: microseconds |
/// | `TimeTz`, `Interval` | `Bytes`: canonical text |
/// | `Any` | `Null` column of escapes: each value has its own type |
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum LogicalType {
    /// True or false.
    Bool,
    /// Whole number of 8, 16, 24, 32 or 64 bits.
    Int {
        /// Width.
        bits: u8,
        /// Whether negative numbers are excluded.
        unsigned: bool,
    },
    /// IEEE 754 number of 32 or 64 bits.
    Float {
        /// Width.
        bits: u8,
    },
    /// Exact decimal; both `None` for one without limit.
    Decimal {
        /// Digits in all.
        precision: Option<u32>,
        /// Digits after the point.
        scale: Option<u32>,
    },
    /// Text of at most `max` characters. `fixed`: blank-padded by the engine; the padding is not
    /// part of the value.
    Text {
        /// Characters at most; `None`: the engine's limit.
        max: Option<u32>,
        /// `char(n)`.
        fixed: bool,
    },
    /// Bytes, at most `max` of them. `fixed`: always exactly `max`.
    Binary {
        /// Bytes at most.
        max: Option<u32>,
        /// `binary(n)`.
        fixed: bool,
    },
    /// String of `len` bits (at most, when `varying`).
    Bits {
        /// Bits; `None`: no limit.
        len: Option<u32>,
        /// Whether shorter values are allowed.
        varying: bool,
    },
    /// 16 bytes.
    Uuid,
    /// Calendar day.
    Date,
    /// Time of day, `digits` after the second.
    Time {
        /// Digits after the second, 0 to 6.
        digits: u8,
    },
    /// Time of day with an offset; text `HH:MM:SS[.f]±HH[:MM[:SS]]`.
    TimeTz {
        /// Digits after the second, 0 to 6.
        digits: u8,
    },
    /// Signed length of time, `digits` after the second.
    Duration {
        /// Digits after the second, 0 to 6.
        digits: u8,
    },
    /// Day and time. `zoned`: an instant; else a wall clock's reading.
    Timestamp {
        /// Digits after the second, 0 to 6.
        digits: u8,
        /// Whether it names an instant.
        zoned: bool,
    },
    /// Months, days and microseconds, text `P1Y2M3DT4H5M6.7S` as PostgreSQL's iso_8601 style writes it.
    Interval,
    /// JSON text. `binary`: the engine keeps the document, not its spelling (spaces, key order,
    /// duplicate keys).
    Json {
        /// Whether spelling is lost at rest.
        binary: bool,
    },
    /// One of these labels.
    Enum {
        /// Labels in order.
        labels: Vec<String>,
    },
    /// Any of these labels, comma-separated in their order.
    Set {
        /// Labels in order.
        labels: Vec<String>,
    },
    /// An array, as the text that its engine writes.
    Array {
        /// The engine's own type text, `int4[]`.
        native: String,
    },
    /// A type of one engine that others do not have, as the text that its engine writes.
    Other {
        /// The engine's own type text.
        native: String,
    },
    /// Each value has its own storage class.
    Any,
}

impl fmt::Display for LogicalType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bounded = |f: &mut fmt::Formatter<'_>, name: &str, max: &Option<u32>| match max {
            Some(n) => write!(f, "{name}({n})"),
            None => f.write_str(name),
        };
        match self {
            Self::Bool => f.write_str("boolean"),
            Self::Int { bits, unsigned } => {
                write!(f, "{}whole number of {bits} bits", if *unsigned { "unsigned " } else { "" })
            }
            Self::Float { bits } => write!(f, "float of {bits} bits"),
            Self::Decimal { precision: Some(p), scale: Some(s) } => write!(f, "decimal({p},{s})"),
            Self::Decimal { .. } => f.write_str("decimal"),
            Self::Text { max, fixed: true } => bounded(f, "char", max),
            Self::Text { max, fixed: false } => bounded(f, "text", max),
            Self::Binary { max, .. } => bounded(f, "binary", max),
            Self::Bits { len, .. } => bounded(f, "bits", len),
            Self::Uuid => f.write_str("uuid"),
            Self::Date => f.write_str("date"),
            Self::Time { digits } => write!(f, "time({digits})"),
            Self::TimeTz { digits } => write!(f, "time({digits}) with zone"),
            Self::Duration { digits } => write!(f, "duration({digits})"),
            Self::Timestamp { digits, zoned: false } => write!(f, "timestamp({digits})"),
            Self::Timestamp { digits, zoned: true } => write!(f, "instant({digits})"),
            Self::Interval => f.write_str("interval"),
            Self::Json { .. } => f.write_str("json"),
            Self::Enum { labels } => write!(f, "enum({} labels)", labels.len()),
            Self::Set { labels } => write!(f, "set({} labels)", labels.len()),
            Self::Array { native } | Self::Other { native } => f.write_str(native),
            Self::Any => f.write_str("any"),
        }
    }
}
