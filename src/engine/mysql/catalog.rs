//! Tables as information_schema describes them.

use std::collections::{BTreeMap, HashSet};

use mysql_async::{Conn, prelude::Queryable};

use super::super::Result;
use super::connect::{Flavor, quote};
use super::error::convert;
use super::types::{native_of, parse_type};
use crate::model::{
    ColumnDef, DefaultValue, ForeignKey, ForeignKeyAction, Identity, Index, IndexColumn, Key, LogicalType, Table,
    TableName,
};

type ColumnRow = (String, String, Option<String>, String, String, Option<String>, Option<String>);

/// Names of the user's tables.
pub(super) async fn tables(conn: &mut Conn, own: &str, schema: Option<&str>) -> Result<Vec<TableName>> {
    let names: Vec<String> = conn
        .exec(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = ? \
             AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED')",
            (schema.unwrap_or(own),),
        )
        .await
        .map_err(convert)?;
    let mut out: Vec<TableName> = names
        .into_iter()
        .filter(|n| !n.starts_with("_rowferry_"))
        .map(|name| schema.map_or_else(|| TableName::new(&name), |s| TableName::qualified(s, &name)))
        .collect();
    out.sort();
    Ok(out)
}

/// A table, or `None`.
pub(super) async fn describe(conn: &mut Conn, flavor: &Flavor, own: &str, name: &TableName) -> Result<Option<Table>> {
    let schema = if name.schema.is_empty() { own } else { &name.schema };
    let at = (schema, name.name.as_str());
    let rows: Vec<ColumnRow> = conn
        .exec(
            "SELECT c.column_name, c.column_type, c.column_default, c.extra, c.is_nullable, c.collation_name, \
             c.generation_expression FROM information_schema.columns c \
             JOIN information_schema.tables t ON t.table_schema = c.table_schema AND t.table_name = c.table_name \
             WHERE c.table_schema = ? AND c.table_name = ? AND t.table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') \
             ORDER BY c.ordinal_position",
            at,
        )
        .await
        .map_err(convert)?;
    if rows.is_empty() {
        return Ok(None);
    }
    let json = json_columns(conn, flavor, at).await?;
    let columns: Vec<ColumnDef> = rows.into_iter().map(|row| column(flavor, row, &json)).collect();
    let mut table = Table {
        name: name.clone(),
        columns,
        primary_key: None,
        indexes: Vec::new(),
        foreign_keys: foreign_keys(conn, own, at).await?,
        triggers: Vec::new(),
    };
    indexes(conn, at, &mut table).await?;
    table.triggers = conn
        .exec(
            "SELECT trigger_name FROM information_schema.triggers WHERE event_object_schema = ? \
             AND event_object_table = ? ORDER BY trigger_name",
            at,
        )
        .await
        .map_err(convert)?
        .into_iter()
        .filter(|n: &String| !n.starts_with("_rowferry_"))
        .collect();
    Ok(Some(table))
}

/// MariaDB's JSON is LONGTEXT with a check that names its column.
async fn json_columns(conn: &mut Conn, flavor: &Flavor, at: (&str, &str)) -> Result<HashSet<String>> {
    if !flavor.mariadb {
        return Ok(HashSet::new());
    }
    let clauses: Vec<String> = conn
        .exec(
            "SELECT check_clause FROM information_schema.check_constraints WHERE constraint_schema = ? AND table_name = ?",
            at,
        )
        .await
        .map_err(convert)?;
    let name = |clause: String| {
        let inner = clause.strip_prefix("json_valid(`")?.strip_suffix("`)")?;
        Some(inner.replace("``", "`"))
    };
    Ok(clauses.into_iter().filter_map(name).collect())
}

fn column(flavor: &Flavor, row: ColumnRow, json: &HashSet<String>) -> ColumnDef {
    let (name, native, default, extra, nullable, collation, expression) = row;
    let is_json = native == "longtext" && json.contains(&name);
    let logical = if is_json {
        LogicalType::Json { binary: false }
    } else {
        parse_type(&native, flavor).unwrap_or_else(|| LogicalType::Other { native: native.clone() })
    };
    let generated = expression.is_some_and(|e| !e.is_empty());
    let extra = extra.to_ascii_lowercase();
    ColumnDef {
        native: if is_json { "json".to_owned() } else { native_of(&native, &logical) },
        nullable: nullable == "YES",
        default: default.filter(|_| !generated).and_then(|d| parse_default(&d, &extra, flavor.mariadb, &logical)),
        generated,
        identity: extra.contains("auto_increment").then_some(Identity::ByDefault),
        binary_order: is_json || collation.as_deref().is_none_or(is_binary_order),
        collation: collation.filter(|_| !is_json),
        logical,
        name,
    }
}

/// Whether a collation orders by UTF-8 bytes and never pads.
pub(super) fn is_binary_order(collation: &str) -> bool {
    matches!(
        collation,
        "binary"
            | "utf8mb4_nopad_bin"
            | "utf8mb4_0900_bin"
            | "utf8mb3_nopad_bin"
            | "utf8_nopad_bin"
            | "ascii_nopad_bin"
    )
}

/// Takes one level of backslashes off.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, chars.clone().next()) {
            ('\\', Some(next @ ('\'' | '\\'))) => {
                out.push(next);
                chars.next();
            }
            _ => out.push(c),
        }
    }
    out
}

fn unquote(text: &str) -> Option<String> {
    let inner = text.strip_prefix('\'')?.strip_suffix('\'')?;
    let mut out = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' => out.push(chars.next()?),
            '\\' => match chars.next()? {
                'n' => out.push('\n'),
                'r' => out.push('\r'),
                't' => out.push('\t'),
                '0' => out.push('\0'),
                other => out.push(other),
            },
            other => out.push(other),
        }
    }
    Some(out)
}

/// Reads a default. MariaDB gives an expression's text, MySQL the bare value and a flag.
pub(super) fn parse_default(text: &str, extra: &str, mariadb: bool, logical: &LogicalType) -> Option<DefaultValue> {
    let lower = text.to_ascii_lowercase();
    let number = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit() || b"+-.e".contains(&b));
    let bits = |t: &str| t.strip_prefix("b'").and_then(|t| t.strip_suffix('\'')).map(str::to_owned);
    let literal = |t: String| match (logical, t.as_str()) {
        (LogicalType::Bool, "0") => DefaultValue::Literal("false".to_owned()),
        (LogicalType::Bool, "1") => DefaultValue::Literal("true".to_owned()),
        (LogicalType::Binary { .. }, _) => {
            let hex: String = t.bytes().map(|b| format!("{b:02x}")).collect();
            DefaultValue::Expression(format!("x'{hex}'"))
        }
        _ => DefaultValue::Literal(t),
    };
    let now =
        lower.starts_with("current_timestamp") || lower == "now()" || lower == "curdate()" || lower == "curtime()";
    if let Some(bits) = bits(text) {
        return Some(DefaultValue::Literal(bits));
    }
    if mariadb {
        return if lower == "null" {
            None
        } else if let Some(value) = unquote(text) {
            Some(literal(value))
        } else if number(text) {
            Some(literal(text.to_owned()))
        } else if now {
            Some(DefaultValue::Now)
        } else {
            Some(DefaultValue::Expression(text.to_owned()))
        };
    }
    if extra.contains("default_generated") {
        // MySQL prints the text of a literal as _charset'…', with the quotes escaped once more.
        let text = unescape(text);
        if let Some((_, quoted)) = text.strip_prefix('_').and_then(|t| t.split_once('\''))
            && let Some(value) = unquote(&format!("'{quoted}"))
        {
            return Some(literal(value));
        }
        if number(&text) {
            return Some(literal(text));
        }
        return Some(if now { DefaultValue::Now } else { DefaultValue::Expression(text) });
    }
    Some(literal(text.to_owned()))
}

async fn indexes(conn: &mut Conn, at: (&str, &str), table: &mut Table) -> Result<()> {
    type Row = (String, i64, Option<String>, Option<String>, Option<u64>, String);
    let rows: Vec<Row> = conn
        .exec(
            "SELECT index_name, non_unique, column_name, collation, sub_part, index_type FROM \
             information_schema.statistics WHERE table_schema = ? AND table_name = ? ORDER BY index_name, seq_in_index",
            at,
        )
        .await
        .map_err(convert)?;
    let mut found: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    for row in rows {
        found.entry(row.0.clone()).or_default().push(row);
    }
    for (name, parts) in found {
        let unique = parts[0].1 == 0;
        let columns: Vec<IndexColumn> = parts
            .iter()
            .map(|p| IndexColumn { name: p.2.clone().unwrap_or_default(), descending: p.3.as_deref() == Some("D") })
            .collect();
        if name == "PRIMARY" {
            let positions: Option<Vec<usize>> = columns.iter().map(|c| table.column(&c.name)).collect();
            table.primary_key = positions.map(|columns| Key { columns });
            continue;
        }
        let plain = parts.iter().all(|p| p.2.is_some() && p.4.is_none() && p.5 == "BTREE");
        let native = (!plain).then(|| {
            let kind = match parts[0].5.as_str() {
                "FULLTEXT" => "FULLTEXT ",
                "SPATIAL" => "SPATIAL ",
                _ if unique => "UNIQUE ",
                _ => "",
            };
            let list: Vec<String> = parts
                .iter()
                .map(|p| {
                    let length = p.4.filter(|_| p.5 != "SPATIAL").map_or(String::new(), |n| format!("({n})"));
                    format!("{}{length}", quote(p.2.as_deref().unwrap_or_default()))
                })
                .collect();
            // An expression index shows no column: there is nothing to carry it by.
            let whole = parts.iter().all(|p| p.2.is_some());
            if whole { format!("{kind}INDEX {} ({})", quote(&name), list.join(", ")) } else { String::new() }
        });
        table.indexes.push(Index { name, columns, unique, native });
    }
    Ok(())
}

async fn foreign_keys(conn: &mut Conn, own: &str, at: (&str, &str)) -> Result<Vec<ForeignKey>> {
    type Row = (String, String, String, String, String, String, String);
    let rows: Vec<Row> = conn
        .exec(
            "SELECT k.constraint_name, k.column_name, k.referenced_table_schema, k.referenced_table_name, \
             k.referenced_column_name, r.delete_rule, r.update_rule FROM information_schema.key_column_usage k \
             JOIN information_schema.referential_constraints r ON r.constraint_schema = k.constraint_schema \
             AND r.constraint_name = k.constraint_name AND r.table_name = k.table_name \
             WHERE k.table_schema = ? AND k.table_name = ? AND k.referenced_table_name IS NOT NULL \
             ORDER BY k.constraint_name, k.ordinal_position",
            at,
        )
        .await
        .map_err(convert)?;
    let mut out: Vec<ForeignKey> = Vec::new();
    for (name, column, schema, parent, parent_column, on_delete, on_update) in rows {
        if out.last().is_none_or(|f| f.name != name) {
            out.push(ForeignKey {
                name,
                columns: Vec::new(),
                parent: if schema == own { TableName::new(parent) } else { TableName::qualified(schema, parent) },
                parent_columns: Vec::new(),
                on_delete: ForeignKeyAction::from_sql(&on_delete),
                on_update: ForeignKeyAction::from_sql(&on_update),
            });
        }
        if let Some(key) = out.last_mut() {
            key.columns.push(column);
            key.parent_columns.push(parent_column);
        }
    }
    Ok(out)
}
