//! Tables as information_schema describes them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use mysql_async::{Conn, Value, prelude::Queryable};

use super::super::Result;
use super::connect::{Flavor, quote};
use super::error::convert;
use super::source::{is_geometry, table_sql};
use super::types::{REF_SYSTEM_ID, native_of, parse_type};
use crate::model::{
    ColumnDef, DefaultValue, Dialect, ForeignKey, ForeignKeyAction, Identity, Index, IndexColumn, Key, LogicalType,
    Table, TableName,
};

/// What the catalogue says of a table: its name, kind, options and comment.
type TableRow = (String, String, Option<String>, Option<String>);
/// Of a column, after the table's name: name, type, default, extra, whether it may be NULL, collation, expression, comment,
/// system of reference.
type ColumnRow =
    (String, String, String, Option<String>, String, String, Option<String>, Option<String>, String, Option<u32>);
/// Of a part of an index, after the table's name: index, not unique, column, order, length, kind, expression.
type IndexRow = (String, String, i64, Option<String>, Option<String>, Option<u64>, String, Option<String>);
/// Of a column of a foreign key, after the table's name: key, column, and schema, table and column that it refers to.
type ReferenceRow = (String, String, String, String, String, String);

/// More tables than this of one schema are read together with all the others of it.
const SINGLY_MAX: usize = 12;

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

/// What stands under these names and is no table.
pub(super) async fn taken(
    conn: &mut Conn,
    flavor: &Flavor,
    own: &str,
    names: &[TableName],
) -> Result<BTreeMap<TableName, String>> {
    let schema = |name: &TableName| if name.schema.is_empty() { own.to_owned() } else { name.schema.clone() };
    let folded = |name: &str| if flavor.folds_tables { name.to_lowercase() } else { name.to_owned() };
    let mut out = BTreeMap::new();
    for space in names.iter().map(schema).collect::<BTreeSet<_>>() {
        let sql = "SELECT table_name, LOWER(table_type) FROM information_schema.tables WHERE table_schema = ? \
                   AND table_type IN ('VIEW', 'SEQUENCE')";
        let others: Vec<(String, String)> = conn.exec(sql, (&space,)).await.map_err(convert)?;
        let others: HashMap<String, String> = others.into_iter().map(|(name, what)| (folded(&name), what)).collect();
        let here = names.iter().filter(|name| schema(name) == space);
        out.extend(here.filter_map(|name| Some((name.clone(), others.get(&folded(&name.name))?.clone()))));
    }
    Ok(out)
}

/// See [`super::super::Database::numbered_upto`]. By what the server would make the table from: what it tells of it elsewhere
/// may be a day old.
pub(super) async fn numbered_upto(conn: &mut Conn, table: &Table) -> Result<Option<i64>> {
    if table.columns.iter().all(|column| column.identity.is_none()) {
        return Ok(None);
    }
    let sql = format!("SHOW CREATE TABLE {}", table_sql(&table.name));
    let made: Option<(String, String)> = conn.query_first(sql).await.map_err(convert)?;
    let made = made.map_or_else(String::new, |(_, made)| made);
    let options = made.lines().find(|line| line.starts_with(") ENGINE=")).unwrap_or_default();
    // A comment stands behind it.
    let next = options.split(' ').take(4).find_map(|word| word.strip_prefix("AUTO_INCREMENT="));
    Ok(next.and_then(|next| next.parse::<i64>().ok()).map(|next| next - 1))
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

/// Tables in the order of their names, or `None`.
pub(super) async fn describe(
    conn: &mut Conn,
    flavor: &Flavor,
    own: &str,
    names: &[TableName],
) -> Result<Vec<Option<Table>>> {
    let schema = |name: &TableName| if name.schema.is_empty() { own.to_owned() } else { name.schema.clone() };
    let mut of_schema: BTreeMap<String, usize> = BTreeMap::new();
    for name in names {
        *of_schema.entry(schema(name)).or_default() += 1;
    }
    let mut whole = HashMap::new();
    for (schema, _) in of_schema.into_iter().filter(|(_, tables)| *tables > SINGLY_MAX) {
        let known = Known::read(conn, flavor, &schema, None).await?;
        whole.insert(schema, known);
    }
    let mut tables = Vec::with_capacity(names.len());
    for name in names {
        let schema = schema(name);
        tables.push(match whole.get(&schema) {
            Some(known) => known.table(flavor, own, name),
            None => Known::read(conn, flavor, &schema, Some(&name.name)).await?.table(flavor, own, name),
        });
    }
    Ok(tables)
}

/// What the catalogue says of tables, by their names as they are spelled: it compares names without regard to case even
/// where they are two.
struct Known {
    tables: HashMap<String, TableRow>,
    columns: HashMap<String, Vec<ColumnRow>>,
    /// Names and texts of checks.
    checks: HashMap<String, Vec<(String, String, String)>>,
    indexes: HashMap<String, Vec<IndexRow>>,
    references: HashMap<String, Vec<ReferenceRow>>,
    /// What becomes of rows whose parent goes or changes, by table and key.
    rules: HashMap<(String, String), (String, String)>,
    triggers: HashMap<String, Vec<(String, String)>>,
}

impl Known {
    /// Of one table, or of all of a schema.
    async fn read(conn: &mut Conn, flavor: &Flavor, schema: &str, table: Option<&str>) -> Result<Self> {
        // With a name that it knows, the server need not look at the others.
        let of = |column: &str| table.map_or_else(String::new, |_| format!(" AND {column} = ?"));
        let at: Vec<Value> = std::iter::once(schema).chain(table).map(Value::from).collect();
        let sql = format!(
            "SELECT table_name, table_type, create_options, table_comment FROM information_schema.tables \
             WHERE table_schema = ?{} AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED')",
            of("table_name")
        );
        let tables: Vec<TableRow> = conn.exec(sql, at.clone()).await.map_err(convert)?;
        let srid = if flavor.mariadb { "NULL" } else { "c.srs_id" };
        let sql = format!(
            "SELECT c.table_name, c.column_name, c.column_type, c.column_default, c.extra, c.is_nullable, \
             c.collation_name, c.generation_expression, c.column_comment, {srid} FROM information_schema.columns c \
             WHERE c.table_schema = ?{} ORDER BY c.table_name, c.ordinal_position",
            of("c.table_name")
        );
        let mut columns: Vec<ColumnRow> = conn.exec(sql, at.clone()).await.map_err(convert)?;
        if flavor.mariadb && columns.iter().any(|row| is_geometry(&row.2)) {
            systems_of_reference(conn, (of("g_table_name"), at.clone()), &mut columns).await?;
        }
        let (from, name) = if flavor.mariadb {
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
            "SELECT {name}, k.constraint_name, k.check_clause FROM {from} WHERE k.constraint_schema = ?{} \
             ORDER BY k.constraint_name",
            of(name)
        );
        let mut checks: Vec<(String, String, String)> = conn.exec(sql, at.clone()).await.map_err(convert)?;
        if !flavor.mariadb {
            // MySQL prints quotes and backslashes escaped once more.
            for (_, _, clause) in &mut checks {
                *clause = unescape(clause);
            }
        }
        let expression = if flavor.has_expression_indexes() { "expression" } else { "NULL" };
        let sql = format!(
            "SELECT table_name, index_name, non_unique, column_name, collation, sub_part, index_type, {expression} \
             FROM information_schema.statistics WHERE table_schema = ?{} ORDER BY table_name, index_name, seq_in_index",
            of("table_name")
        );
        let indexes = conn.exec(sql, at.clone()).await.map_err(convert)?;
        let sql = format!(
            "SELECT k.table_name, k.constraint_name, k.column_name, k.referenced_table_schema, k.referenced_table_name, \
             k.referenced_column_name FROM information_schema.key_column_usage k WHERE k.table_schema = ?{} \
             AND k.referenced_table_name IS NOT NULL ORDER BY k.table_name, k.constraint_name, k.ordinal_position",
            of("k.table_name")
        );
        let references = conn.exec(sql, at.clone()).await.map_err(convert)?;
        // Joined here: the server would go through all of the one for each row of the other.
        let sql = format!(
            "SELECT table_name, constraint_name, delete_rule, update_rule \
             FROM information_schema.referential_constraints WHERE constraint_schema = ?{}",
            of("table_name")
        );
        let rules: Vec<(String, String, String, String)> = conn.exec(sql, at.clone()).await.map_err(convert)?;
        let sql = format!(
            "SELECT event_object_table, trigger_name FROM information_schema.triggers WHERE event_object_schema = ?{} \
             ORDER BY trigger_name",
            of("event_object_table")
        );
        let triggers = conn.exec(sql, at).await.map_err(convert)?;
        Ok(Self {
            tables: tables.into_iter().map(|row| (row.0.clone(), row)).collect(),
            columns: by_table(columns, |row: &ColumnRow| &row.0),
            checks: by_table(checks, |row| &row.0),
            indexes: by_table(indexes, |row: &IndexRow| &row.0),
            references: by_table(references, |row: &ReferenceRow| &row.0),
            rules: rules.into_iter().map(|(table, key, delete, update)| ((table, key), (delete, update))).collect(),
            triggers: by_table(triggers, |row: &(String, String)| &row.0),
        })
    }

    /// One of them.
    fn table(&self, flavor: &Flavor, own: &str, name: &TableName) -> Option<Table> {
        let folded = |told: &&TableRow| flavor.folds_tables && told.0.to_lowercase() == name.name.to_lowercase();
        let told = self.tables.get(&name.name).or_else(|| self.tables.values().find(folded))?;
        let found = told.0.as_str();
        let (columns, checks) = (rows(&self.columns, found), rows(&self.checks, found));
        // MariaDB's JSON is LONGTEXT with a check that names its column.
        let json = checks.iter().filter_map(|(_, _, clause)| json_column(clause).filter(|_| flavor.mariadb));
        let json: HashSet<String> = json.collect();
        let mut table = Table {
            name: TableName::qualified(&name.schema, found),
            columns: columns.iter().map(|row| column(flavor, row.clone(), &json)).collect(),
            primary_key: None,
            indexes: Vec::new(),
            foreign_keys: self.foreign_keys(own, found),
            loud: Vec::new(),
            triggers: rows(&self.triggers, found).iter().map(|(_, trigger)| trigger.clone()).collect(),
            dialect: dialect(flavor, told, columns, checks),
        };
        table.triggers.retain(|trigger| !trigger.starts_with("_rowferry_"));
        indexes(rows(&self.indexes, found), &mut table);
        Some(table)
    }

    fn foreign_keys(&self, own: &str, found: &str) -> Vec<ForeignKey> {
        let mut out: Vec<ForeignKey> = Vec::new();
        for (table, name, column, schema, parent, parent_column) in rows(&self.references, found).iter().cloned() {
            let Some((on_delete, on_update)) = self.rules.get(&(table, name.clone())) else { continue };
            if out.last().is_none_or(|f| f.name != name) {
                out.push(ForeignKey {
                    name,
                    columns: Vec::new(),
                    parent: if schema == own { TableName::new(parent) } else { TableName::qualified(schema, parent) },
                    parent_columns: Vec::new(),
                    on_delete: ForeignKeyAction::from_sql(on_delete),
                    on_update: ForeignKeyAction::from_sql(on_update),
                    native: None,
                });
            }
            if let Some(key) = out.last_mut() {
                key.columns.push(column);
                key.parent_columns.push(parent_column);
            }
        }
        out
    }
}

fn by_table<T>(all: Vec<T>, table: impl Fn(&T) -> &String) -> HashMap<String, Vec<T>> {
    let mut sorted: HashMap<String, Vec<T>> = HashMap::new();
    for row in all {
        sorted.entry(table(&row).clone()).or_default().push(row);
    }
    sorted
}

/// Those of a table.
fn rows<'a, T>(sorted: &'a HashMap<String, Vec<T>>, table: &str) -> &'a [T] {
    sorted.get(table).map_or(&[], Vec::as_slice)
}

/// In which system of reference MariaDB's geometries are. Few tables have any, and this opens the tables.
async fn systems_of_reference(
    conn: &mut Conn,
    (of, at): (String, Vec<Value>),
    columns: &mut [ColumnRow],
) -> Result<()> {
    let sql = format!(
        "SELECT g_table_name, g_geometry_column, CAST(srid AS UNSIGNED) FROM information_schema.geometry_columns \
         WHERE g_table_schema = ?{of} AND srid <> 0"
    );
    let found: Vec<(String, String, u32)> = conn.exec(sql, at).await.map_err(convert)?;
    for (table, name, srid) in found {
        for row in columns.iter_mut().filter(|row| row.0 == table && row.1 == name) {
            row.9 = Some(srid);
        }
    }
    Ok(())
}

/// The column of a check that says no more than that it holds JSON.
fn json_column(clause: &str) -> Option<String> {
    let inner = clause.strip_prefix("json_valid(`")?.strip_suffix("`)")?;
    Some(inner.replace("``", "`"))
}

/// Checks, and what is left out.
fn dialect(flavor: &Flavor, told: &TableRow, columns: &[ColumnRow], checks: &[(String, String, String)]) -> Dialect {
    let mut out = Dialect::default();
    for (_, name, clause) in checks {
        if !flavor.mariadb || json_column(clause).is_none() {
            out.constraints.push(format!("CONSTRAINT {} CHECK ({clause})", quote(name)));
        }
    }
    let (_, kind, options, comment) = told;
    let parted = options.as_ref().is_some_and(|o| o.contains("partitioned"));
    let commented = comment.as_ref().is_some_and(|c| !c.is_empty()) || columns.iter().any(|c| !c.8.is_empty());
    out.left_out.extend(parted.then(|| "partitions".to_owned()));
    out.left_out.extend((kind == "SYSTEM VERSIONED").then(|| "the history of its rows".to_owned()));
    out.left_out.extend(commented.then(|| "comments".to_owned()));
    out
}

fn logical_of(flavor: &Flavor, native: &str) -> LogicalType {
    parse_type(native, flavor).unwrap_or_else(|| LogicalType::Other { native: native.to_owned() })
}

fn column(flavor: &Flavor, row: ColumnRow, json: &HashSet<String>) -> ColumnDef {
    let (_, name, native, default, extra, nullable, collation, expression, _, srid) = row;
    let is_json = native == "longtext" && json.contains(&name);
    let logical = if is_json { LogicalType::Json { binary: false } } else { logical_of(flavor, &native) };
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
    // MariaDB's stands at once behind the type.
    let (first, last) = match srid {
        Some(srid) if flavor.mariadb => (Some(format!("{REF_SYSTEM_ID}={srid}")), None),
        srid => (None, srid.map(|srid| format!("SRID {srid}"))),
    };
    let words: Vec<String> = first
        .into_iter()
        .chain(words)
        .chain(last)
        .chain(extra.contains("invisible").then(|| "INVISIBLE".to_owned()))
        .collect();
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
    // What the words say must be what the column holds: a text column may have any of them.
    let now = match logical {
        LogicalType::Timestamp { .. } => lower.starts_with("current_timestamp") || lower == "now()",
        LogicalType::Date => lower == "curdate()",
        LogicalType::Time { .. } | LogicalType::Duration { .. } => lower == "curtime()",
        _ => false,
    };
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
    // MySQL tells bytes by their digits, also where they were written as a text.
    if let (LogicalType::Binary { .. }, Some(hex)) = (logical, text.strip_prefix("0x")) {
        return Some(DefaultValue::Expression(format!("x'{}'", hex.to_ascii_lowercase())));
    }
    Some(literal(text.to_owned()))
}

fn indexes(rows: &[IndexRow], table: &mut Table) {
    let mut found: BTreeMap<&str, Vec<&IndexRow>> = BTreeMap::new();
    for row in rows {
        found.entry(&row.1).or_default().push(row);
    }
    for (name, parts) in found {
        let unique = parts[0].2 == 0;
        // Of an expression there is no column.
        let columns: Vec<IndexColumn> = parts
            .iter()
            .filter_map(|p| Some(IndexColumn { name: p.3.clone()?, descending: p.4.as_deref() == Some("D") }))
            .collect();
        if name == "PRIMARY" {
            let positions: Option<Vec<usize>> = columns.iter().map(|c| table.column(&c.name)).collect();
            table.primary_key = positions.map(|columns| Key { columns });
            continue;
        }
        let plain = parts.iter().all(|p| p.3.is_some() && p.5.is_none() && p.6 == "BTREE");
        let native = (!plain).then(|| {
            let kind = match parts[0].6.as_str() {
                "FULLTEXT" => "FULLTEXT ",
                "SPATIAL" => "SPATIAL ",
                _ if unique => "UNIQUE ",
                _ => "",
            };
            let list: Vec<String> = parts
                .iter()
                .map(|p| {
                    let expression = p.7.as_ref().map(|text| format!("({})", unescape(text)));
                    let part = expression.unwrap_or_else(|| quote(p.3.as_deref().unwrap_or_default()));
                    let length = p.5.filter(|_| p.6 != "SPATIAL").map_or(String::new(), |n| format!("({n})"));
                    let order = if p.4.as_deref() == Some("D") { " DESC" } else { "" };
                    format!("{part}{length}{order}")
                })
                .collect();
            format!("{kind}INDEX {} ({})", quote(name), list.join(", "))
        });
        table.indexes.push(Index { name: name.to_owned(), columns, unique, constraint: false, native });
    }
}
