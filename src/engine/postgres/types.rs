//! Quoting, the type table, mapping of columns and DDL.

use crate::engine::{MappedColumn, TableDdl};
use crate::model::{Cell, Column, ColumnDef, DefaultValue, Identity, LogicalType, Table, TableName, Value};

/// An identifier, quoted.
pub(super) fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string constant, quoted; it means the same under any setting.
pub(super) fn literal(text: &str) -> String {
    if text.contains('\\') {
        return format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"));
    }
    format!("'{}'", text.replace('\'', "''"))
}

/// A table's full name, quoted.
pub(super) fn table_name(own: &str, name: &TableName) -> String {
    let schema = if name.schema.is_empty() { own } else { &name.schema };
    format!("{}.{}", ident(schema), ident(&name.name))
}

/// The meaning of a built-in type as `format_type` spells it; `None` for any other.
pub(super) fn builtin(native: &str) -> Option<LogicalType> {
    let (name, numbers) = split(native);
    let n = numbers.first().and_then(|n| u32::try_from(*n).ok());
    let digits = u8::try_from(n.unwrap_or(6)).unwrap_or(6);
    Some(match name.as_str() {
        "boolean" => LogicalType::Bool,
        "smallint" => LogicalType::Int { bits: 16, unsigned: false },
        "integer" => LogicalType::Int { bits: 32, unsigned: false },
        "bigint" => LogicalType::Int { bits: 64, unsigned: false },
        "real" => LogicalType::Float { bits: 32 },
        "double precision" => LogicalType::Float { bits: 64 },
        "numeric" => match (n, numbers.get(1)) {
            // A scale below zero or above the precision is kept in `native` only.
            (Some(p), Some(s)) if *s >= 0 => LogicalType::Decimal { precision: Some(p), scale: u32::try_from(*s).ok() },
            _ => LogicalType::Decimal { precision: None, scale: None },
        },
        "text" => LogicalType::Text { max: None, fixed: false },
        "character varying" => LogicalType::Text { max: n, fixed: false },
        "character" => LogicalType::Text { max: Some(n.unwrap_or(1)), fixed: true },
        "bytea" => LogicalType::Binary { max: None, fixed: false },
        "date" => LogicalType::Date,
        "time without time zone" => LogicalType::Time { digits },
        "time with time zone" => LogicalType::TimeTz { digits },
        "timestamp without time zone" => LogicalType::Timestamp { digits, zoned: false },
        "timestamp with time zone" => LogicalType::Timestamp { digits, zoned: true },
        "uuid" => LogicalType::Uuid,
        "json" => LogicalType::Json { binary: false },
        "jsonb" => LogicalType::Json { binary: true },
        "bit" => LogicalType::Bits { len: Some(n.unwrap_or(1)), varying: false },
        "bit varying" => LogicalType::Bits { len: n, varying: true },
        _ if name.starts_with("interval") => LogicalType::Interval,
        _ => return None,
    })
}

/// `numeric(10,2)` → `numeric` and its numbers; the words after the parentheses stay.
fn split(native: &str) -> (String, Vec<i64>) {
    let Some((head, rest)) = native.split_once('(') else { return (native.to_owned(), Vec::new()) };
    let (inside, tail) = rest.split_once(')').unwrap_or((rest, ""));
    (format!("{}{tail}", head.trim_end()), inside.split(',').filter_map(|n| n.trim().parse().ok()).collect())
}

/// A native text without its bounds. A quoted name is left as it is, since nothing says what is a bound there.
pub(super) fn bare(native: &str) -> String {
    if let Some(element) = native.strip_suffix("[]") {
        return format!("{}[]", bare(element));
    }
    if native.contains('"') {
        return native.to_owned();
    }
    let (name, _) = split(native);
    match name.as_str() {
        // Alone, these words mean a length of one.
        "bit" => "\"bit\"".to_owned(),
        "character" => "bpchar".to_owned(),
        _ if name.starts_with("interval") => "interval".to_owned(),
        _ => name,
    }
}

/// The native text for a meaning, and what is lost.
fn native_of(column: &ColumnDef) -> (String, Option<String>) {
    let text = || "text".to_owned();
    let native = match &column.logical {
        LogicalType::Bool => "boolean".to_owned(),
        LogicalType::Int { bits, unsigned } => match (bits, unsigned) {
            (8, _) | (16, false) => "smallint",
            (16, true) | (24, _) | (32, false) => "integer",
            (64, true) if column.identity.is_none() => "numeric(20,0)",
            _ => "bigint",
        }
        .to_owned(),
        LogicalType::Float { bits: 32 } => "real".to_owned(),
        LogicalType::Float { .. } => "double precision".to_owned(),
        LogicalType::Decimal { precision: Some(p), scale: Some(s) } if (1..=1000).contains(p) && s <= p => {
            format!("numeric({p},{s})")
        }
        LogicalType::Decimal { .. } => "numeric".to_owned(),
        LogicalType::Text { max: Some(n), fixed } if (1..=10_485_760).contains(n) => {
            format!("{}({n})", if *fixed { "character" } else { "character varying" })
        }
        LogicalType::Binary { .. } => "bytea".to_owned(),
        LogicalType::Bits { len: Some(n), varying: false } if *n > 0 => format!("bit({n})"),
        LogicalType::Bits { len: Some(n), .. } if *n > 0 => format!("bit varying({n})"),
        LogicalType::Bits { .. } => "bit varying".to_owned(),
        LogicalType::Uuid => "uuid".to_owned(),
        LogicalType::Date => "date".to_owned(),
        LogicalType::Time { digits } => format!("time{} without time zone", precision(*digits)),
        LogicalType::TimeTz { digits } => format!("time{} with time zone", precision(*digits)),
        LogicalType::Timestamp { digits, zoned } => {
            format!("timestamp{} {} time zone", precision(*digits), if *zoned { "with" } else { "without" })
        }
        LogicalType::Duration { .. } | LogicalType::Interval => "interval".to_owned(),
        LogicalType::Json { binary: false } => "json".to_owned(),
        LogicalType::Json { binary: true } => "jsonb".to_owned(),
        LogicalType::Any => return (text(), Some("the storage class of each value".to_owned())),
        _ => text(),
    };
    (native, None)
}

fn precision(digits: u8) -> String {
    if digits >= 6 { String::new() } else { format!("({digits})") }
}

/// Whether the native text of a column is this engine's; one that is not built in is a type of the
/// user's own.
fn is_ours(column: &ColumnDef) -> bool {
    !column.native.is_empty() && builtin(&column.native).is_none_or(|logical| logical == column.logical)
}

/// What this engine makes of a column.
pub(super) fn map_column(_table: &Table, column: &ColumnDef) -> MappedColumn {
    let ours = is_ours(column);
    let (native, loss) = if ours { (column.native.clone(), None) } else { native_of(column) };
    let logical = if ours {
        column.logical.clone()
    } else {
        builtin(&native).unwrap_or(LogicalType::Text { max: None, fixed: false })
    };
    let default = match &column.default {
        Some(DefaultValue::Expression(_)) if !ours => None,
        // Its sequence serves other columns too, and is not taken along.
        Some(DefaultValue::Expression(words)) if words.contains("nextval(") => None,
        other => other.clone(),
    };
    let identity = column.identity.filter(|_| matches!(logical, LogicalType::Int { .. }));
    let text = matches!(logical, LogicalType::Text { .. });
    let mapped = ColumnDef {
        name: column.name.clone(),
        logical,
        native,
        nullable: column.nullable,
        default,
        generated: ours && column.dialect.is_some() && column.generated,
        dialect: column.dialect.clone().filter(|_| ours),
        identity,
        collation: column.collation.clone().filter(|_| ours),
        binary_order: (text && !ours) || column.binary_order,
    };
    MappedColumn { column: mapped, loss }
}

/// A name that fits into 63 bytes; what is cut off is told apart by a hash.
fn fit(name: &str) -> String {
    if name.len() <= 63 {
        return name.to_owned();
    }
    let hash = format!("_{:016x}", xxhash_rust::xxh3::xxh3_64(name.as_bytes()));
    let mut end = 63 - hash.len();
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{hash}", &name[..end])
}

/// A name of an index or constraint, unique in its schema.
fn derived(table: &TableName, name: &str) -> String {
    if name.starts_with(&table.name) && name.len() > table.name.len() {
        fit(name)
    } else {
        fit(&format!("{}_{name}", table.name))
    }
}

/// Statements that create a table.
pub(super) fn ddl(own: &str, table: &Table) -> TableDdl {
    let mut out = TableDdl::default();
    let name = table_name(own, &table.name);
    let schema = &table.name.schema;
    if !schema.is_empty() {
        // IF NOT EXISTS would ask for the right to make it even where it is there.
        out.create.push(format!(
            "DO $rowferry$ BEGIN IF to_regnamespace({}) IS NULL THEN CREATE SCHEMA {}; END IF; END $rowferry$",
            literal(&ident(schema)),
            ident(schema)
        ));
    }
    let mut columns = Vec::new();
    for column in &table.columns {
        if let LogicalType::Enum { labels } = &column.logical {
            let labels: Vec<String> = labels.iter().map(|l| literal(l)).collect();
            out.create.push(format!(
                "DO $rowferry$ BEGIN IF to_regtype({}) IS NULL THEN CREATE TYPE {} AS ENUM ({}); END IF; END $rowferry$",
                literal(&column.native), column.native, labels.join(", ")
            ));
        }
        columns.push(column_ddl(column));
    }
    columns.extend(table.dialect.constraints.iter().cloned());
    out.create.push(format!("CREATE TABLE {name} ({})", columns.join(", ")));
    out.left_out.extend(table.dialect.options.iter().chain(&table.dialect.left_out).cloned());
    let wordless = |c: &&ColumnDef| c.default == Some(DefaultValue::Now) && !tells_time(&c.logical);
    out.left_out.extend(table.columns.iter().filter(wordless).map(|c| format!("the default of column {}", c.name)));
    if let Some(key) = &table.primary_key {
        let list: Vec<String> = key.columns.iter().map(|&c| ident(&table.columns[c].name)).collect();
        out.after_rows.push(format!("ALTER TABLE {name} ADD PRIMARY KEY ({})", list.join(", ")));
    }
    for index in &table.indexes {
        let unique = if index.unique { "UNIQUE " } else { "" };
        let index_name = ident(&derived(&table.name, &index.name));
        match &index.native {
            None if index.constraint => {
                let list: Vec<String> = index.columns.iter().map(|c| ident(&c.name)).collect();
                let sql = format!("ALTER TABLE {name} ADD CONSTRAINT {index_name} UNIQUE ({})", list.join(", "));
                out.after_rows.push(sql);
            }
            Some(native) if index.constraint => {
                out.after_rows.push(format!("ALTER TABLE {name} ADD CONSTRAINT {index_name} {native}"));
            }
            None => {
                let list: Vec<String> = index
                    .columns
                    .iter()
                    .map(|c| format!("{}{}", ident(&c.name), if c.descending { " DESC" } else { "" }))
                    .collect();
                out.after_rows.push(format!("CREATE {unique}INDEX {index_name} ON {name} ({})", list.join(", ")));
            }
            Some(native) => match native.split_once(" USING ") {
                Some((_, rest)) if native.starts_with("CREATE ") && native.contains(" ON ") => {
                    out.after_rows.push(format!("CREATE {unique}INDEX {index_name} ON {name} USING {rest}"));
                }
                _ => out.left_out.push(format!("index {} of {}: {native}", index.name, table.name)),
            },
        }
    }
    for (at, key) in table.foreign_keys.iter().enumerate() {
        let list = |names: &[String]| names.iter().map(|n| ident(n)).collect::<Vec<_>>().join(", ");
        // Unlike an index's, its name need be unique in its table only.
        let key_name = if key.name.is_empty() { format!("{}_fk{}", table.name.name, at + 1) } else { key.name.clone() };
        let parent_columns =
            if key.parent_columns.is_empty() { String::new() } else { format!(" ({})", list(&key.parent_columns)) };
        out.foreign_keys.push(format!(
            "ALTER TABLE {name} ADD CONSTRAINT {} FOREIGN KEY ({}) REFERENCES {}{parent_columns} {}",
            ident(&fit(&key_name)),
            list(&key.columns),
            table_name(own, &key.parent),
            key.rules(),
        ));
    }
    out
}

/// Whether a type is the user's own, so that a database may lack it.
pub(super) fn is_users(column: &ColumnDef) -> bool {
    builtin(&column.native).is_none()
}

fn column_ddl(column: &ColumnDef) -> String {
    let mut sql = format!("{} {}", ident(&column.name), column.native);
    if let Some(collation) = &column.collation {
        sql.push_str(&format!(" COLLATE {}", ident(collation)));
    }
    if let Some(words) = column.dialect.as_ref().filter(|_| column.identity.is_none()) {
        sql.push_str(&format!(" {words}"));
    }
    match column.identity {
        Some(identity) => {
            let given = if identity == Identity::Always { "ALWAYS" } else { "BY DEFAULT" };
            sql.push_str(&format!(" GENERATED {given} AS IDENTITY"));
            // How it counts, where that is not as usual.
            sql.extend(column.dialect.iter().map(|words| format!(" {words}")));
        }
        None => match &column.default {
            Some(DefaultValue::Literal(text)) => sql.push_str(&format!(" DEFAULT {}", literal(text))),
            Some(DefaultValue::Now) if tells_time(&column.logical) => sql.push_str(" DEFAULT CURRENT_TIMESTAMP"),
            Some(DefaultValue::Now) => {}
            Some(DefaultValue::Expression(text)) => sql.push_str(&format!(" DEFAULT ({text})")),
            None => {}
        },
    }
    if !column.nullable {
        sql.push_str(" NOT NULL");
    }
    sql
}

/// Days of 4713-11-24 BC (Julian day 0) and of the day after the latest date.
const FIRST_DAY: i64 = -2_440_588;
const DATE_END: i64 = 2_147_483_494 - 2_440_588;

/// Rows that a column here would refuse.
pub(super) fn misfits(column: &ColumnDef, data: &Column) -> Vec<(usize, String)> {
    type Check = fn(Cell<'_>) -> Option<&'static str>;
    let check: Check = match &column.logical {
        LogicalType::Text { fixed: true, .. } => |cell| match cell {
            Cell::Bytes(v) if v.last() == Some(&b' ') => Some("character(n) loses spaces at the end"),
            cell => text(cell),
        },
        LogicalType::Json { binary: true } => |cell| match cell {
            Cell::Bytes(v) if has_negative_zero(v) => Some("PostgreSQL's jsonb stores -0.0 as 0.0"),
            cell => text(cell),
        },
        LogicalType::Text { .. }
        | LogicalType::Json { .. }
        | LogicalType::Array { .. }
        | LogicalType::Other { .. }
        | LogicalType::Enum { .. } => text,
        LogicalType::Date => |cell| match cell {
            Cell::Int(d) if !(FIRST_DAY..DATE_END).contains(&d) => Some("the date is outside PostgreSQL's range"),
            cell => escape(cell),
        },
        LogicalType::Timestamp { .. } => |cell| match cell {
            Cell::Int(t) if t < FIRST_DAY * crate::model::temporal::DAY => Some("the time is before 4714 BC"),
            Cell::Escape(Value::Text(t)) if super::codec::is_moment(t) => None,
            cell => escape(cell),
        },
        LogicalType::Time { .. } => |cell| match cell {
            Cell::Int(t) if !(0..=crate::model::temporal::DAY).contains(&t) => Some("a time of day ends at 24:00"),
            Cell::Escape(_) => Some("the column does not hold a value of this kind"),
            _ => None,
        },
        _ => |cell| matches!(cell, Cell::Escape(_)).then_some("the column does not hold a value of this kind"),
    };
    (0..data.len()).filter_map(|row| check(data.cell(row)).map(|why| (row, why.to_owned()))).collect()
}

/// Whether a number of this document is a zero with a sign.
fn has_negative_zero(json: &[u8]) -> bool {
    let (mut quoted, mut at) = (false, 0);
    while let Some(&byte) = json.get(at) {
        match byte {
            b'\\' if quoted => at += 1,
            b'"' => quoted = !quoted,
            // Not the sign of an exponent.
            b'-' if !quoted && !matches!(at.checked_sub(1).map(|before| json[before]), Some(b'e' | b'E')) => {
                let mut digits = json[at + 1..].iter().take_while(|b| b.is_ascii_digit() || **b == b'.');
                if digits.all(|b| matches!(b, b'0' | b'.')) {
                    return true;
                }
            }
            _ => {}
        }
        at += 1;
    }
    false
}

fn text(cell: Cell<'_>) -> Option<&'static str> {
    match cell {
        Cell::Bytes(v) if v.contains(&0) => Some("PostgreSQL holds no NUL character in text"),
        Cell::Bytes(v) if !v.is_ascii() && std::str::from_utf8(v).is_err() => Some("it is no valid UTF-8"),
        Cell::Escape(_) => Some("the column does not hold a value of this kind"),
        _ => None,
    }
}

fn escape(cell: Cell<'_>) -> Option<&'static str> {
    match cell {
        Cell::Escape(Value::Text(t)) if t == "infinity" || t == "-infinity" => None,
        Cell::Escape(_) => Some("PostgreSQL has no such date"),
        _ => None,
    }
}

/// Whether columns of this type take the time of the statement for a default, each in its own form.
fn tells_time(logical: &LogicalType) -> bool {
    matches!(
        logical,
        LogicalType::Timestamp { .. } | LogicalType::Date | LogicalType::Time { .. } | LogicalType::TimeTz { .. }
    )
}

/// A default as the catalogue writes it.
pub(super) fn parse_default(text: &str, logical: &LogicalType) -> Option<DefaultValue> {
    let lower = text.to_ascii_lowercase();
    let now = match logical {
        LogicalType::Date => matches!(lower.as_str(), "current_date" | "now()" | "current_timestamp"),
        _ => tells_time(logical) && matches!(lower.as_str(), "now()" | "current_timestamp" | "transaction_timestamp()"),
    };
    if now {
        return Some(DefaultValue::Now);
    }
    let (constant, cast) = if let Some(rest) = text.strip_prefix('\'') {
        let mut end = None;
        let bytes = rest.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            if bytes[at] == b'\'' {
                if bytes.get(at + 1) == Some(&b'\'') {
                    at += 1;
                } else {
                    end = Some(at);
                    break;
                }
            }
            at += 1;
        }
        let Some(end) = end else { return Some(DefaultValue::Expression(text.to_owned())) };
        (rest[..end].replace("''", "'"), &rest[end + 1..])
    } else {
        let (head, cast) = text.find("::").map_or((text, ""), |at| text.split_at(at));
        let plain = head.strip_prefix('(').and_then(|h| h.strip_suffix(')')).unwrap_or(head);
        match plain {
            "NULL" => return None,
            "true" | "false" => {}
            _ if plain.parse::<f64>().is_ok()
                && plain.bytes().all(|b| b.is_ascii_digit() || b == b'-' || b == b'.') => {}
            _ => return Some(DefaultValue::Expression(text.to_owned())),
        }
        (plain.to_owned(), cast)
    };
    let is_cast = cast.is_empty()
        || (cast.starts_with("::") && cast.bytes().all(|b| b.is_ascii_alphanumeric() || b"_ \"():,.[]".contains(&b)));
    Some(if is_cast { DefaultValue::Literal(constant) } else { DefaultValue::Expression(text.to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults() {
        let lit = |t: &str| Some(DefaultValue::Literal(t.to_owned()));
        assert_eq!(parse_default("'it''s'::text", &LogicalType::Timestamp { digits: 6, zoned: true }), lit("it's"));
        assert_eq!(parse_default("'-5'::integer", &LogicalType::Timestamp { digits: 6, zoned: true }), lit("-5"));
        assert_eq!(parse_default("5", &LogicalType::Timestamp { digits: 6, zoned: true }), lit("5"));
        assert_eq!(parse_default("(-1)", &LogicalType::Timestamp { digits: 6, zoned: true }), lit("-1"));
        assert_eq!(parse_default("true", &LogicalType::Timestamp { digits: 6, zoned: true }), lit("true"));
        assert_eq!(parse_default("NULL::character varying", &LogicalType::Timestamp { digits: 6, zoned: true }), None);
        assert_eq!(parse_default("now()", &LogicalType::Timestamp { digits: 6, zoned: true }), Some(DefaultValue::Now));
        assert!(matches!(
            parse_default("('a'::text || 'b'::text)", &LogicalType::Timestamp { digits: 6, zoned: true }),
            Some(DefaultValue::Expression(_))
        ));
        assert!(matches!(
            parse_default("'a'::text || 'b'::text", &LogicalType::Timestamp { digits: 6, zoned: true }),
            Some(DefaultValue::Expression(_))
        ));
        assert!(matches!(
            parse_default("gen_random_uuid()", &LogicalType::Timestamp { digits: 6, zoned: true }),
            Some(DefaultValue::Expression(_))
        ));
    }

    #[test]
    fn zeros_with_a_sign_are_found_among_numbers_alone() {
        for json in ["-0", "-0.0", "[1,-0.00]", "{\"a\":-0e5}", "[\"\\\"\",-0.0]"] {
            assert!(has_negative_zero(json.as_bytes()), "{json}");
        }
        for json in ["0", "-0.1", "-10", "1e-0", "1E-00", "\"-0.0\"", "{\"-0\":\"\\\"-0\"}", "-1e-0"] {
            assert!(!has_negative_zero(json.as_bytes()), "{json}");
        }
    }

    #[test]
    fn quotes() {
        assert_eq!(ident("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal("a'b\\"), "E'a''b\\\\'");
    }

    #[test]
    fn bare_types_have_no_bounds() {
        for (native, expected) in [
            ("bit(3)", "\"bit\""),
            ("bit varying(3)[]", "bit varying[]"),
            ("character(2)[]", "bpchar[]"),
            ("time(3) with time zone", "time with time zone"),
            ("interval day to second(3)", "interval"),
            ("numeric(10,2)[]", "numeric[]"),
            ("\"we(i)rd\"", "\"we(i)rd\""),
            ("inet", "inet"),
        ] {
            assert_eq!(bare(native), expected);
        }
    }

    #[test]
    fn native_texts() {
        assert_eq!(builtin("timestamp(3) with time zone"), Some(LogicalType::Timestamp { digits: 3, zoned: true }));
        assert_eq!(builtin("numeric(10,2)"), Some(LogicalType::Decimal { precision: Some(10), scale: Some(2) }));
        assert_eq!(builtin("int"), None);
    }
}
