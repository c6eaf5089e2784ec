//! Tables as information_schema describes them.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use mysql_async::{Conn, prelude::Queryable};

use super::super::Result;
use super::connect::{Flavor, quote};
use super::error::convert;
use super::source::is_hex_text;
use super::types::{REF_SYSTEM_ID, native_of, parse_type};
use crate::model::{
    ColumnDef, DefaultValue, Dialect, ForeignKey, ForeignKeyAction, Identity, Index, IndexColumn, Key, LogicalType,
    Table, TableName,
};

type ColumnRow = (String, String, Option<String>, String, String, Option<String>, Option<String>, Option<u32>);

/// The catalogue compares names without regard to case even where they are two: of what it finds,
/// only what is spelled so belongs to the table.
fn spelled(column: &str) -> String {
    format!("{column} = ? AND CAST({column} AS BINARY) = CAST(? AS BINARY)")
}

/// Schema and table, as the placeholders of [`spelled`] want them.
type At<'a> = (&'a str, &'a str, &'a str);

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

/// Ours, in all schemas.
pub(super) async fn own_tables(conn: &mut Conn, own: &str) -> Result<BTreeSet<TableName>> {
    let sql = "SELECT table_schema, table_name FROM information_schema.tables WHERE table_name LIKE '\\_rowferry\\_%'";
    let names: Vec<(String, String)> = conn.query(sql).await.map_err(convert)?;
    let named = |(schema, name): (String, String)| {
        if schema == own { TableName::new(name) } else { TableName::qualified(schema, name) }
    };
    Ok(names.into_iter().map(named).collect())
}

/// A table, or `None`.
pub(super) async fn describe(conn: &mut Conn, flavor: &Flavor, own: &str, name: &TableName) -> Result<Option<Table>> {
    let schema = if name.schema.is_empty() { own } else { &name.schema };
    let Some(found) = find(conn, flavor, schema, &name.name).await? else { return Ok(None) };
    let at = (schema, found.as_str(), found.as_str());
    let srid = if flavor.mariadb { "NULL" } else { "c.srs_id" };
    let rows: Vec<ColumnRow> = conn
        .exec(
            format!(
                "SELECT c.column_name, c.column_type, c.column_default, c.extra, c.is_nullable, c.collation_name, \
                 c.generation_expression, {srid} FROM information_schema.columns c \
                 WHERE c.table_schema = ? AND {} ORDER BY c.ordinal_position",
                spelled("c.table_name")
            ),
            at,
        )
        .await
        .map_err(convert)?;
    let json = json_columns(conn, flavor, at).await?;
    let mut columns: Vec<ColumnDef> = rows.into_iter().map(|row| column(flavor, row, &json)).collect();
    if flavor.mariadb && columns.iter().any(|column| is_hex_text(&column.logical)) {
        systems_of_reference(conn, at, &mut columns).await?;
    }
    let mut table = Table {
        name: TableName::qualified(&name.schema, &found),
        columns,
        primary_key: None,
        indexes: Vec::new(),
        foreign_keys: foreign_keys(conn, own, at).await?,
        triggers: Vec::new(),
        dialect: dialect(conn, flavor, at).await?,
    };
    indexes(conn, flavor, at, &mut table).await?;
    table.triggers = conn
        .exec(
            format!(
                "SELECT trigger_name FROM information_schema.triggers WHERE event_object_schema = ? \
                 AND {} ORDER BY trigger_name",
                spelled("event_object_table")
            ),
            at,
        )
        .await
        .map_err(convert)?
        .into_iter()
        .filter(|n: &String| !n.starts_with("_rowferry_"))
        .collect();
    Ok(Some(table))
}

/// The table's name as it is spelled.
async fn find(conn: &mut Conn, flavor: &Flavor, schema: &str, name: &str) -> Result<Option<String>> {
    let found: Vec<String> = conn
        .exec(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = ? AND table_name = ? \
             AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED')",
            (schema, name),
        )
        .await
        .map_err(convert)?;
    Ok(found.into_iter().find(|f| f == name || (flavor.folds_tables && f.to_lowercase() == name.to_lowercase())))
}

/// Names and texts of the table's checks.
async fn checks(conn: &mut Conn, flavor: &Flavor, at: At<'_>) -> Result<Vec<(String, String)>> {
    let (from, table) = if flavor.mariadb {
        ("information_schema.check_constraints k", "k.table_name")
    } else {
        (
            "information_schema.check_constraints k JOIN information_schema.table_constraints t \
             ON t.constraint_schema = k.constraint_schema AND t.constraint_name = k.constraint_name \
             AND t.constraint_type = 'CHECK'",
            "t.table_name",
        )
    };
    let sql = format!(
        "SELECT k.constraint_name, k.check_clause FROM {from} WHERE k.constraint_schema = ? AND {} \
         ORDER BY k.constraint_name",
        spelled(table)
    );
    let found: Vec<(String, String)> = conn.exec(sql, at).await.map_err(convert)?;
    // MySQL prints quotes and backslashes escaped once more.
    let text = |clause: String| if flavor.mariadb { clause } else { unescape(&clause) };
    Ok(found.into_iter().map(|(name, clause)| (name, text(clause))).collect())
}

/// In which system of reference MariaDB's geometries are. Few tables have any, and this opens the table.
async fn systems_of_reference(conn: &mut Conn, at: At<'_>, columns: &mut [ColumnDef]) -> Result<()> {
    let sql = format!(
        "SELECT g_geometry_column, CAST(srid AS UNSIGNED) FROM information_schema.geometry_columns \
         WHERE g_table_schema = ? AND {} AND srid <> 0",
        spelled("g_table_name")
    );
    let found: Vec<(String, u32)> = conn.exec(sql, at).await.map_err(convert)?;
    for (name, srid) in found {
        for column in columns.iter_mut().filter(|column| column.name == name) {
            let more = column.dialect.take().map_or(String::new(), |words| format!(" {words}"));
            column.dialect = Some(format!("{REF_SYSTEM_ID}={srid}{more}"));
        }
    }
    Ok(())
}

/// The column of a check that says no more than that it holds JSON.
fn json_column(clause: &str) -> Option<String> {
    let inner = clause.strip_prefix("json_valid(`")?.strip_suffix("`)")?;
    Some(inner.replace("``", "`"))
}

/// MariaDB's JSON is LONGTEXT with a check that names its column.
async fn json_columns(conn: &mut Conn, flavor: &Flavor, at: At<'_>) -> Result<HashSet<String>> {
    if !flavor.mariadb {
        return Ok(HashSet::new());
    }
    Ok(checks(conn, flavor, at).await?.iter().filter_map(|(_, clause)| json_column(clause)).collect())
}

/// Checks, and what is left out.
async fn dialect(conn: &mut Conn, flavor: &Flavor, at: At<'_>) -> Result<Dialect> {
    let mut out = Dialect::default();
    for (name, clause) in checks(conn, flavor, at).await? {
        if !flavor.mariadb || json_column(&clause).is_none() {
            out.constraints.push(format!("CONSTRAINT {} CHECK ({clause})", quote(&name)));
        }
    }
    let told: Option<(String, Option<String>, Option<String>)> = conn
        .exec_first(
            format!(
                "SELECT t.table_type, t.create_options, t.table_comment FROM information_schema.tables t \
                 WHERE t.table_schema = ? AND {}",
                spelled("t.table_name")
            ),
            at,
        )
        .await
        .map_err(convert)?;
    // A statement of its own: as part of the other one it would read the whole catalogue.
    let comments: Option<i64> = conn
        .exec_first(
            format!(
                "SELECT COUNT(*) FROM information_schema.columns c WHERE c.table_schema = ? AND {} \
                 AND c.column_comment <> ''",
                spelled("c.table_name")
            ),
            at,
        )
        .await
        .map_err(convert)?;
    if let Some((kind, options, comment)) = told {
        let parted = options.is_some_and(|o| o.contains("partitioned"));
        out.left_out.extend(parted.then(|| "partitions".to_owned()));
        out.left_out.extend((kind == "SYSTEM VERSIONED").then(|| "the history of its rows".to_owned()));
        out.left_out.extend(
            (comments.is_some_and(|n| n > 0) || comment.is_some_and(|c| !c.is_empty())).then(|| "comments".to_owned()),
        );
    }
    Ok(out)
}

fn column(flavor: &Flavor, row: ColumnRow, json: &HashSet<String>) -> ColumnDef {
    let (name, native, default, extra, nullable, collation, expression, srid) = row;
    let is_json = native == "longtext" && json.contains(&name);
    let logical = if is_json {
        LogicalType::Json { binary: false }
    } else {
        parse_type(&native, flavor).unwrap_or_else(|| LogicalType::Other { native: native.clone() })
    };
    let expression = expression.filter(|e| !e.is_empty());
    let generated = expression.is_some();
    let extra = extra.to_ascii_lowercase();
    let words = match expression {
        Some(expression) => {
            let expression = if flavor.mariadb { expression } else { unescape(&expression) };
            let kept = if extra.contains("virtual") { "VIRTUAL" } else { "STORED" };
            Some(format!("GENERATED ALWAYS AS ({expression}) {kept}"))
        }
        None => extra.split_once("on update ").map(|(_, moment)| {
            let moment = moment.split([' ', ',']).next().unwrap_or_default();
            format!("ON UPDATE {}", moment.to_ascii_uppercase())
        }),
    };
    let srid = srid.map(|srid| format!("SRID {srid}"));
    let words: Vec<String> =
        words.into_iter().chain(srid).chain(extra.contains("invisible").then(|| "INVISIBLE".to_owned())).collect();
    let dialect = (!words.is_empty()).then(|| words.join(" "));
    ColumnDef {
        native: if is_json { "json".to_owned() } else { native_of(&native, &logical) },
        nullable: nullable == "YES",
        default: default.filter(|_| !generated).and_then(|d| parse_default(&d, &extra, flavor.mariadb, &logical)),
        generated,
        dialect,
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

async fn indexes(conn: &mut Conn, flavor: &Flavor, at: At<'_>, table: &mut Table) -> Result<()> {
    type Row = (String, i64, Option<String>, Option<String>, Option<u64>, String, Option<String>);
    let expression = if flavor.has_expression_indexes() { "expression" } else { "NULL" };
    let rows: Vec<Row> = conn
        .exec(
            format!(
                "SELECT index_name, non_unique, column_name, collation, sub_part, index_type, {expression} FROM \
                 information_schema.statistics WHERE table_schema = ? AND {} ORDER BY index_name, seq_in_index",
                spelled("table_name")
            ),
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
        // Of an expression there is no column.
        let columns: Vec<IndexColumn> = parts
            .iter()
            .filter_map(|p| Some(IndexColumn { name: p.2.clone()?, descending: p.3.as_deref() == Some("D") }))
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
                    let expression = p.6.as_ref().map(|text| format!("({})", unescape(text)));
                    let part = expression.unwrap_or_else(|| quote(p.2.as_deref().unwrap_or_default()));
                    let length = p.4.filter(|_| p.5 != "SPATIAL").map_or(String::new(), |n| format!("({n})"));
                    let order = if p.3.as_deref() == Some("D") { " DESC" } else { "" };
                    format!("{part}{length}{order}")
                })
                .collect();
            format!("{kind}INDEX {} ({})", quote(&name), list.join(", "))
        });
        table.indexes.push(Index { name, columns, unique, constraint: false, native });
    }
    Ok(())
}

async fn foreign_keys(conn: &mut Conn, own: &str, at: At<'_>) -> Result<Vec<ForeignKey>> {
    type Row = (String, String, String, String, String, String, String);
    let rows: Vec<Row> = conn
        .exec(
            format!(
                "SELECT k.constraint_name, k.column_name, k.referenced_table_schema, k.referenced_table_name, \
                 k.referenced_column_name, r.delete_rule, r.update_rule FROM information_schema.key_column_usage k \
                 JOIN information_schema.referential_constraints r ON r.constraint_schema = k.constraint_schema \
                 AND r.constraint_name = k.constraint_name \
                 AND CAST(r.table_name AS BINARY) = CAST(k.table_name AS BINARY) \
                 WHERE k.table_schema = ? AND {} AND k.referenced_table_name IS NOT NULL \
                 ORDER BY k.constraint_name, k.ordinal_position",
                spelled("k.table_name")
            ),
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
                native: None,
            });
        }
        if let Some(key) = out.last_mut() {
            key.columns.push(column);
            key.parent_columns.push(parent_column);
        }
    }
    Ok(out)
}
