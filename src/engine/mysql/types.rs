//! The type table: the server's type texts, what they mean, what becomes of other engines' columns.

use super::super::{MappedColumn, TableDdl};
use super::catalog::is_binary_order;
use super::connect::{Flavor, literal, quote};
use super::source::{is_geometry, table_sql};
use crate::model::{Cell, Column, ColumnDef, DefaultValue, ForeignKeyAction, Index, LogicalType, Table, temporal};

/// Labels of `enum(...)`: quotes are doubled, backslashes escape.
fn labels(text: &str) -> Option<Vec<String>> {
    let mut out = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        if chars.next()? != '\'' {
            return None;
        }
        let mut label = String::new();
        loop {
            match chars.next()? {
                '\'' if chars.peek() == Some(&'\'') => {
                    chars.next();
                    label.push('\'');
                }
                '\'' => break,
                '\\' => label.push(match chars.next()? {
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    '0' => '\0',
                    c => c,
                }),
                c => label.push(c),
            }
        }
        out.push(label);
        match chars.next() {
            None => return Some(out),
            Some(',') => {}
            Some(_) => return None,
        }
    }
}

/// What a type text means; `None` for one that this engine does not write.
pub(super) fn parse_type(native: &str, flavor: &Flavor) -> Option<LogicalType> {
    let (word, rest) = native.split_at(native.find(['(', ' ']).unwrap_or(native.len()));
    let (inner, tail) = match rest.strip_prefix('(') {
        Some(r) => r.rfind(')').map(|at| (&r[..at], &r[at + 1..]))?,
        None => ("", rest),
    };
    let unsigned = tail.contains("unsigned");
    let number = || inner.trim().parse::<u32>().ok();
    let digits = || u8::try_from(number().unwrap_or(0)).unwrap_or(6);
    let int = |bits| Some(LogicalType::Int { bits, unsigned });
    match word {
        "tinyint" if inner == "1" && !unsigned => Some(LogicalType::Bool),
        "tinyint" => int(8),
        "smallint" => int(16),
        "mediumint" => int(24),
        "int" => int(32),
        "bigint" => int(64),
        "year" => Some(LogicalType::Int { bits: 16, unsigned: true }),
        "float" => Some(LogicalType::Float { bits: 32 }),
        "double" => Some(LogicalType::Float { bits: 64 }),
        "decimal" => {
            let (p, s) = inner.split_once(',').unwrap_or((inner, "0"));
            Some(LogicalType::Decimal { precision: Some(p.trim().parse().ok()?), scale: Some(s.trim().parse().ok()?) })
        }
        "bit" => Some(LogicalType::Bits { len: Some(number().unwrap_or(1)), varying: false }),
        "date" => Some(LogicalType::Date),
        "time" => Some(LogicalType::Duration { digits: digits() }),
        "datetime" => Some(LogicalType::Timestamp { digits: digits(), zoned: false }),
        "timestamp" => Some(LogicalType::Timestamp { digits: digits(), zoned: true }),
        "char" => Some(LogicalType::Text { max: Some(number().unwrap_or(1)), fixed: true }),
        "varchar" => Some(LogicalType::Text { max: Some(number()?), fixed: false }),
        "tinytext" | "text" | "mediumtext" | "longtext" => Some(LogicalType::Text { max: None, fixed: false }),
        "binary" => Some(LogicalType::Binary { max: Some(number().unwrap_or(1)), fixed: true }),
        "varbinary" => Some(LogicalType::Binary { max: Some(number()?), fixed: false }),
        "tinyblob" => Some(LogicalType::Binary { max: Some(255), fixed: false }),
        "blob" => Some(LogicalType::Binary { max: Some(65_535), fixed: false }),
        "mediumblob" => Some(LogicalType::Binary { max: Some(16_777_215), fixed: false }),
        "longblob" => Some(LogicalType::Binary { max: None, fixed: false }),
        // Numbers of 32 bits, one behind the other.
        "vector" if flavor.has_vector() => Some(LogicalType::Binary { max: None, fixed: false }),
        word if is_geometry(word) => Some(LogicalType::Binary { max: None, fixed: false }),
        "json" => Some(LogicalType::Json { binary: !flavor.mariadb }),
        "uuid" if flavor.has_uuid() => Some(LogicalType::Uuid),
        "enum" => Some(LogicalType::Enum { labels: labels(inner)? }),
        "set" => Some(LogicalType::Set { labels: labels(inner)? }),
        _ => None,
    }
}

/// The type text as it can stand in a statement (labels with their backslashes escaped).
pub(super) fn native_of(native: &str, logical: &LogicalType) -> String {
    let list = |labels: &[String]| labels.iter().map(|l| literal(l)).collect::<Vec<_>>().join(",");
    match logical {
        LogicalType::Enum { labels } => format!("enum({})", list(labels)),
        LogicalType::Set { labels } => format!("set({})", list(labels)),
        _ => native.to_owned(),
    }
}

fn is_text(logical: &LogicalType) -> bool {
    matches!(logical, LogicalType::Text { .. } | LogicalType::Enum { .. } | LogicalType::Set { .. })
}

/// Whether a collation is one of this product family, so that the column is too.
fn own_collation(column: &ColumnDef) -> bool {
    column
        .collation
        .as_deref()
        .is_some_and(|c| c.contains('_') && (c.ends_with("_ci") || c.ends_with("_bin") || c.ends_with("_cs")))
}

/// The collation here for one of the other product of the family.
fn collation_here(collation: &str, flavor: &Flavor) -> String {
    let foreign = if flavor.mariadb {
        collation.contains("_0900_")
    } else {
        collation.contains("nopad") || collation.contains("uca1400")
    };
    if !foreign {
        collation.to_owned()
    } else if collation.ends_with("_bin") {
        flavor.binary_collation().to_owned()
    } else if flavor.mariadb {
        "utf8mb4_unicode_520_nopad_ci".to_owned()
    } else {
        "utf8mb4_0900_ai_ci".to_owned()
    }
}

/// Bytes of an index left for each string column of a key that has this column; `None`: in no key.
fn key_share(table: &Table, column: &ColumnDef) -> Option<u32> {
    let position = table.column(&column.name)?;
    let wide = |i: &usize| {
        matches!(
            table.columns[*i].logical,
            LogicalType::Text { .. }
                | LogicalType::Binary { .. }
                | LogicalType::Decimal { precision: None, .. }
                | LogicalType::Interval
                | LogicalType::TimeTz { .. }
                | LogicalType::Array { .. }
                | LogicalType::Other { .. }
                | LogicalType::Json { .. }
                | LogicalType::Any
                | LogicalType::Bits { .. }
                | LogicalType::Uuid
        )
    };
    let named = |names: Vec<&String>| -> Vec<usize> { names.into_iter().filter_map(|n| table.column(n)).collect() };
    let primary = table.primary_key.iter().map(|k| k.columns.clone());
    let unique = table.indexes.iter().filter(|i| i.unique).map(|i| named(i.columns.iter().map(|c| &c.name).collect()));
    let foreign = table.foreign_keys.iter().map(|f| named(f.columns.iter().collect()));
    let shares = primary.chain(unique).chain(foreign).filter(|k| k.contains(&position)).map(|key| {
        let strings = u32::try_from(key.iter().filter(|i| wide(i)).count()).unwrap_or(16).max(1);
        let others = u32::try_from(key.len()).unwrap_or(16).saturating_sub(strings) * 16;
        (3072_u32.saturating_sub(others)) / strings
    });
    shares.min()
}

/// Whether the bounded text columns together outgrow a row.
fn crowded(table: &Table) -> bool {
    let size = |c: &ColumnDef| match c.logical {
        LogicalType::Text { max: Some(n), .. } if n <= 16_383 => u64::from(n) * 4,
        LogicalType::Binary { max: Some(n), .. } if n <= 65_000 => u64::from(n),
        _ => 16,
    };
    table.columns.iter().map(size).sum::<u64>() > 60_000
}

/// See [`super::super::Database::map_column`].
pub(super) fn map_column(flavor: &Flavor, table: &Table, column: &ColumnDef) -> MappedColumn {
    let mut out = column.clone();
    let own = own_native(flavor, column);
    out.generated = own && column.generated && column.dialect.is_some();
    out.dialect = column.dialect.clone().filter(|_| own);
    if matches!(out.default, Some(DefaultValue::Expression(_))) && !own {
        out.default = None;
    }
    if own {
        if flavor.mariadb && out.native == "geomcollection" {
            // MySQL's newer word for it.
            "geometrycollection".clone_into(&mut out.native);
        }
        out.collation = column.collation.as_deref().map(|c| collation_here(c, flavor));
        if is_text(&out.logical) && out.collation.is_none() {
            out.collation = Some(flavor.binary_collation().to_owned());
        }
        out.binary_order = out.collation.as_deref().is_none_or(is_binary_order);
        return MappedColumn { column: out, loss: None };
    }
    let (native, loss) = native_for(flavor, column, key_share(table, column), crowded(table));
    out.logical = parse_type(&native, flavor).unwrap_or_else(|| LogicalType::Other { native: native.clone() });
    out.native = native;
    out.collation = is_text(&out.logical).then(|| flavor.binary_collation().to_owned());
    out.binary_order = out.collation.as_deref().is_none_or(is_binary_order);
    if out.identity.is_some() {
        out.identity = Some(crate::model::Identity::ByDefault);
    }
    MappedColumn { column: out, loss }
}

fn own_native(flavor: &Flavor, column: &ColumnDef) -> bool {
    if column.native.is_empty() || parse_type(&column.native, flavor).as_ref() != Some(&column.logical) {
        // A type of this product alone is kept where its name can only be ours.
        return matches!(&column.logical, LogicalType::Other { native } if *native == column.native
            && flavor.mariadb && matches!(native.as_str(), "inet4" | "inet6"));
    }
    // Plain words that other engines have too, with wider limits there.
    !matches!(column.native.as_str(), "text" | "tinytext" | "mediumtext")
        && !column.native.starts_with("varchar")
        && !column.native.starts_with("char")
        || own_collation(column)
}

fn native_for(flavor: &Flavor, column: &ColumnDef, share: Option<u32>, crowded: bool) -> (String, Option<String>) {
    let long = |max: Option<u32>| -> String {
        match (max, share) {
            (Some(n), Some(bytes)) => format!("varchar({})", n.min(bytes / 4).max(1)),
            (None, Some(bytes)) => format!("varchar({})", bytes / 4),
            (Some(n), None) if n <= 16_383 && !(crowded && n > 255) => format!("varchar({})", n.max(1)),
            _ => "longtext".to_owned(),
        }
    };
    let exact = |native: String| (native, None);
    match &column.logical {
        LogicalType::Bool => exact("tinyint(1)".to_owned()),
        LogicalType::Int { bits, unsigned } => {
            let word = match bits {
                8 => "tinyint",
                16 => "smallint",
                24 => "mediumint",
                32 => "int",
                _ => "bigint",
            };
            exact(format!("{word}{}", if *unsigned { " unsigned" } else { "" }))
        }
        LogicalType::Float { bits: 32 } => exact("float".to_owned()),
        LogicalType::Float { .. } => exact("double".to_owned()),
        LogicalType::Decimal { precision: Some(p), scale }
            if (*p).max(scale.unwrap_or(0)) <= 65 && scale.unwrap_or(0) <= 30 =>
        {
            let scale = scale.unwrap_or(0);
            exact(format!("decimal({},{scale})", (*p).max(scale)))
        }
        LogicalType::Decimal { precision: None, .. } => exact("decimal(65,30)".to_owned()),
        LogicalType::Decimal { precision, .. } => exact(long(precision.map(|p| p.saturating_add(3)))),
        LogicalType::Text { max: Some(n), fixed: true } if *n <= 255 && share.is_none_or(|b| b / 4 >= *n) => {
            exact(format!("char({n})"))
        }
        LogicalType::Text { max, .. } => exact(long(*max)),
        LogicalType::Binary { max: Some(n), fixed: true } if *n <= 255 => exact(format!("binary({n})")),
        LogicalType::Binary { max, .. } => exact(match (max, share) {
            (Some(n), Some(bytes)) => format!("varbinary({})", (*n).min(bytes).max(1)),
            (None, Some(bytes)) => format!("varbinary({})", bytes.min(767)),
            (Some(n), None) if *n <= 65_000 && !(crowded && *n > 255) => format!("varbinary({})", (*n).max(1)),
            _ => "longblob".to_owned(),
        }),
        LogicalType::Bits { len: Some(n), varying: false } if (1..=64).contains(n) => exact(format!("bit({n})")),
        LogicalType::Bits { len, .. } => exact(long(*len)),
        // As a key it would not be ordered by its bytes, and ranges of it could not use its index.
        LogicalType::Uuid if flavor.has_uuid() && share.is_none() => exact("uuid".to_owned()),
        LogicalType::Uuid => exact("char(36)".to_owned()),
        LogicalType::Date => exact("date".to_owned()),
        LogicalType::Time { digits } | LogicalType::Duration { digits } => exact(format!("time({digits})")),
        LogicalType::Timestamp { digits, zoned: false } => exact(format!("datetime({digits})")),
        LogicalType::Timestamp { digits, zoned: true } => exact(format!("timestamp({digits})")),
        LogicalType::Json { binary } => {
            // MySQL keeps a number that is no whole one of 64 bits as a double.
            let loss = match (flavor.mariadb, binary) {
                (true, _) => None,
                (false, true) => Some("digits of JSON numbers beyond a double"),
                (false, false) => Some("the spelling of JSON text"),
            };
            ("json".to_owned(), loss.map(str::to_owned))
        }
        LogicalType::Enum { labels } if labels.iter().all(|l| !l.ends_with(' ')) => {
            exact(native_of("", &column.logical))
        }
        LogicalType::Set { labels }
            if labels.len() <= 64 && labels.iter().all(|l| !l.ends_with(' ') && !l.contains(',')) =>
        {
            exact(native_of("", &column.logical))
        }
        LogicalType::Any => (long(None), Some("the storage class of each value".to_owned())),
        _ => exact(long(None)),
    }
}

fn default_sql(column: &ColumnDef, left_out: &mut Vec<String>) -> Option<String> {
    let wide = matches!(column.logical, LogicalType::Json { .. } | LogicalType::Text { max: None, .. })
        || column.native.ends_with("blob");
    let plain = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
    let sql = match (column.default.as_ref()?, &column.logical) {
        (DefaultValue::Literal(t), LogicalType::Bool) => {
            if matches!(t.as_str(), "true" | "t" | "1") { "1" } else { "0" }.to_owned()
        }
        (DefaultValue::Literal(t), LogicalType::Bits { .. }) => {
            format!("b'{}'", t.replace(|c| c != '0' && c != '1', ""))
        }
        (
            DefaultValue::Literal(t),
            LogicalType::Int { .. } | LogicalType::Float { .. } | LogicalType::Decimal { .. },
        ) if plain(t) => t.clone(),
        (DefaultValue::Literal(t), _) if wide => format!("({})", literal(t)),
        (DefaultValue::Literal(t), _) => literal(t),
        (DefaultValue::Now, LogicalType::Timestamp { digits, .. }) => format!("CURRENT_TIMESTAMP({digits})"),
        (DefaultValue::Now, LogicalType::Date) => "(CURRENT_DATE)".to_owned(),
        (DefaultValue::Now, LogicalType::Time { .. } | LogicalType::Duration { .. }) => "(CURRENT_TIME)".to_owned(),
        (DefaultValue::Now, _) => {
            left_out.push(format!("the default of column {}", column.name));
            return None;
        }
        (DefaultValue::Expression(t), _) => format!("({t})"),
    };
    Some(sql)
}

/// MariaDB's word for a geometry's system of reference, which stands at once behind the type.
pub(super) const REF_SYSTEM_ID: &str = "REF_SYSTEM_ID";

pub(super) fn column_sql(column: &ColumnDef, numbered: bool, left_out: &mut Vec<String>) -> String {
    let mut sql = format!("{} {}", quote(&column.name), column.native);
    if let Some(collation) = column.collation.as_ref().filter(|_| is_text(&column.logical)) {
        let charset = collation.split('_').next().unwrap_or_default();
        sql += &format!(" CHARACTER SET {charset} COLLATE {collation}");
    }
    let words = column.dialect.as_deref().unwrap_or_default();
    if column.generated {
        // How it is computed stands at once behind the type.
        return format!("{sql} {words}{}", if column.nullable { "" } else { " NOT NULL" });
    }
    let (attribute, words) = if words.starts_with(REF_SYSTEM_ID) { (words, "") } else { ("", words) };
    if !attribute.is_empty() {
        sql += &format!(" {attribute}");
    }
    sql += if column.nullable { " NULL" } else { " NOT NULL" };
    if numbered {
        sql += " AUTO_INCREMENT";
    } else if let Some(default) = default_sql(column, left_out) {
        sql += &format!(" DEFAULT {default}");
    } else if column.nullable {
        sql += " DEFAULT NULL";
    }
    if words.is_empty() { sql } else { format!("{sql} {words}") }
}

/// The name where the server can hold it, else one that tells of it.
fn fitting(name: &str) -> String {
    let held = |c: &char| *c != '\0' && u32::from(*c) <= 0xFFFF;
    if name.chars().count() <= 64 && name.chars().all(|c| held(&c)) && !name.ends_with(' ') {
        return name.to_owned();
    }
    let hash = xxhash_rust::xxh3::xxh3_64(name.as_bytes());
    format!("{}_{hash:016x}", name.chars().filter(held).take(47).collect::<String>())
}

fn index_list(table: &Table, index: &Index) -> String {
    let part = |c: &crate::model::IndexColumn| {
        let definition = table.column(&c.name).map(|i| &table.columns[i]);
        let long = definition.is_some_and(|d| {
            matches!(d.logical, LogicalType::Text { max: None, .. } | LogicalType::Json { .. })
                || d.native.ends_with("blob")
        });
        let wide = definition.is_some_and(|d| matches!(d.logical, LogicalType::Text { max: Some(n), .. } if n > 191));
        let length = if (long || wide) && !index.unique { "(191)" } else { "" };
        format!("{}{length}{}", quote(&c.name), if c.descending { " DESC" } else { "" })
    };
    index.columns.iter().map(part).collect::<Vec<_>>().join(", ")
}

/// Whether an index has parts that are computed.
fn of_expressions(native: &str) -> bool {
    native.contains(" ((") || native.contains(", (")
}

/// See [`super::super::Database::ddl`].
pub(super) fn ddl(table: &Table, expression_indexes: bool) -> TableDdl {
    let mut out = TableDdl::default();
    let name = table_sql(&table.name);
    let names =
        |positions: &[usize]| positions.iter().map(|&i| quote(&table.columns[i].name)).collect::<Vec<_>>().join(", ");
    // The server numbers one column, and only one that leads a key.
    let leads = |column: &ColumnDef| {
        let primary = table
            .primary_key
            .as_ref()
            .and_then(|k| k.columns.first())
            .is_some_and(|&c| table.columns[c].name == column.name);
        primary
            || table
                .indexes
                .iter()
                .any(|i| i.unique && i.native.is_none() && i.columns.first().is_some_and(|c| c.name == column.name))
    };
    let numbered =
        table.columns.iter().position(|c| c.identity.is_some() && matches!(c.logical, LogicalType::Int { .. }));
    let mut lines: Vec<String> = Vec::new();
    for (at, column) in table.columns.iter().enumerate() {
        lines.push(column_sql(column, numbered == Some(at), &mut out.left_out));
    }
    if let Some(key) = &table.primary_key {
        lines.push(format!("PRIMARY KEY ({})", names(&key.columns)));
    }
    if let Some(column) = numbered.map(|at| &table.columns[at]).filter(|c| !leads(c)) {
        lines.push(format!("INDEX ({})", quote(&column.name)));
    }
    lines.extend(table.dialect.constraints.iter().cloned());
    out.left_out.extend(table.dialect.left_out.iter().cloned());
    let mut later = Vec::new();
    for index in &table.indexes {
        let list = index_list(table, index);
        match &index.native {
            None if index.unique => lines.push(format!("UNIQUE INDEX {} ({list})", quote(&fitting(&index.name)))),
            None => later.push(format!("ADD INDEX {} ({list})", quote(&fitting(&index.name)))),
            Some(native)
                if native.contains("INDEX `")
                    && !native.starts_with("CREATE")
                    && (expression_indexes || !of_expressions(native)) =>
            {
                later.push(format!("ADD {native}"));
            }
            Some(_) => {
                out.left_out.push(format!("index {}, which is of another engine or has expressions", index.name));
            }
        }
    }
    out.create
        .push(format!("CREATE TABLE {name} (\n  {}\n) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4", lines.join(",\n  ")));
    if !later.is_empty() {
        out.after_rows.push(format!("ALTER TABLE {name} {}", later.join(", ")));
    }
    for key in &table.foreign_keys {
        let mut action = |action: ForeignKeyAction| match action {
            ForeignKeyAction::SetDefault => {
                out.left_out
                    .push(format!("SET DEFAULT of the reference to {}: a parent with children stays", key.parent));
                ForeignKeyAction::NoAction.sql()
            }
            other => other.sql(),
        };
        let (on_delete, on_update) = (action(key.on_delete), action(key.on_update));
        let list = |c: &[String]| c.iter().map(|c| quote(c)).collect::<Vec<_>>().join(", ");
        out.foreign_keys.push(format!(
            "ALTER TABLE {name} ADD CONSTRAINT {} FOREIGN KEY ({}) REFERENCES {} ({}) ON DELETE {on_delete} ON UPDATE {on_update}",
            quote(&fitting(&key.name)),
            list(&key.columns),
            table_sql(&key.parent),
            list(&key.parent_columns),
        ));
    }
    out
}

/// See [`super::super::Database::misfits`].
pub(super) fn misfits(flavor: &Flavor, column: &ColumnDef, data: &Column) -> Vec<(usize, String)> {
    const SECOND: i64 = 1_000_000;
    let first_day = temporal::days(1, 1, 1).unwrap_or(0);
    let end_day = temporal::days(9999, 12, 31).unwrap_or(0) + 1;
    let bytes = match column.native.as_str() {
        "tinytext" => 255,
        "text" => 65_535,
        "mediumtext" => 16_777_215,
        _ => usize::MAX,
    };
    let most = (838 * 3600 + 59 * 60 + 59) * SECOND + if flavor.mariadb { 999_999 } else { 0 };
    let reason = |cell: Cell<'_>| -> Option<&'static str> {
        match (&column.logical, cell) {
            (LogicalType::Float { .. }, Cell::Float(v)) if flavor.mariadb && v == 0.0 && v.is_sign_negative() => {
                Some("MariaDB stores -0.0 as 0.0")
            }
            (LogicalType::Float { .. }, Cell::Float(v)) => {
                (!v.is_finite()).then_some("NaN and infinities cannot be stored")
            }
            (LogicalType::Decimal { .. }, Cell::Bytes(v)) => {
                (v.first() == Some(&b'N') || v.contains(&b'I')).then_some("NaN and infinities cannot be stored")
            }
            (LogicalType::Int { .. }, Cell::Int(v)) if column.native.starts_with("year") => {
                (v != 0 && !(1901..=2155).contains(&v)).then_some("the year is not between 1901 and 2155")
            }
            (LogicalType::Date, Cell::Int(v)) => {
                (!(first_day..end_day).contains(&v)).then_some("the year is not between 1 and 9999")
            }
            (LogicalType::Timestamp { zoned: false, .. }, Cell::Int(v)) => (!(first_day..end_day)
                .contains(&v.div_euclid(temporal::DAY)))
            .then_some("the year is not between 1 and 9999"),
            (LogicalType::Timestamp { zoned: true, .. }, Cell::Int(v)) => (!(SECOND..2_147_483_648 * SECOND)
                .contains(&v))
            .then_some("TIMESTAMP ends at 1970-01-01 and 2038-01-19"),
            (LogicalType::Duration { .. } | LogicalType::Time { .. }, Cell::Int(v)) => {
                (v > most || v < -most).then_some("TIME ends at 838:59:59")
            }
            // Strict modes take it no more, and nothing else would be written as strictly as it should.
            (LogicalType::Enum { labels }, Cell::Bytes([])) => {
                labels.iter().all(|label| !label.is_empty()).then_some("'' is none of the labels")
            }
            (LogicalType::Enum { .. }, Cell::Escape(_)) => Some("it is 0, which is none of the labels"),
            (LogicalType::Text { .. }, Cell::Bytes(v)) if std::str::from_utf8(v).is_err() => {
                Some("it is no valid UTF-8")
            }
            (LogicalType::Text { fixed: true, .. }, Cell::Bytes(v)) => {
                (v.last() == Some(&b' ')).then_some("CHAR loses spaces at the end")
            }
            (LogicalType::Text { .. }, Cell::Bytes(v)) => {
                (v.len() > bytes).then_some("the text has more bytes than its type holds")
            }
            _ => None,
        }
    };
    (0..data.len()).filter_map(|row| reason(data.cell(row)).map(|why| (row, why.to_owned()))).collect()
}
