//! Change logs: tables that triggers write the keys of changed rows into.
//!
//! The triggers run inside whatever SQLite the application has, so that they are plain SQL of
//! version 3.24, name no function but built-in ones, and insert only where nothing can conflict.
//!
//! `REPLACE` removes rows without a delete trigger's knowing. Before a row comes in, those that it
//! would push out are therefore touched: looked up by each unique index, with its own expressions,
//! collations and condition. Rows pushed out by the hidden number of a table without an INTEGER
//! PRIMARY KEY go by unseen.

use std::collections::BTreeSet;

use super::Sqlite;
use super::ddl::{SAME_ENGINE, literal, quote};
use super::error::during;
use super::types::{Affinity, affinity};
use crate::engine::{ChangeLog, Error, ErrorKind, Logged, Object, Result};
use crate::model::{ColumnDef, Index, Key, LogicalType, Table, TableName};

/// The log's own key.
const ID: &str = "_rowferry_id";

/// Microseconds since 1970 by SQLite's clock, which counts milliseconds.
pub(super) const NOW: &str = "CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER) * 1000";

/// When a line was written, as the triggers note it: telling it in whole microseconds is left to who reads the line.
const NOTED: &str = "julianday('now')";

/// What is selected to read `column`, of which `sql` is the value.
pub(super) fn as_read(column: &ColumnDef, sql: String) -> String {
    if column.name == ChangeLog::WALL {
        return format!(
            "CASE typeof({sql}) WHEN 'real' THEN CAST(round(({sql} - 2440587.5) * 86400000.0) AS INTEGER) * 1000 \
             ELSE {sql} END"
        );
    }
    sql
}

pub(super) fn change_logs(tables: &[Logged]) -> Result<Vec<ChangeLog>> {
    tables.iter().map(change_log).collect()
}

pub(super) async fn own_triggers(database: &Sqlite) -> Result<Vec<String>> {
    let sql = "SELECT name FROM main.sqlite_master WHERE type = 'trigger' AND name LIKE '\\_rowferry\\_%' ESCAPE '\\' \
               ORDER BY name COLLATE BINARY";
    database
        .catalogue
        .call(move |conn| {
            let names = conn.prepare(sql).and_then(|mut s| s.query_map([], |r| r.get(0))?.collect());
            names.map_err(during("cannot list the triggers"))
        })
        .await
}

/// Triggers go along with a table that is renamed, and go with one that is dropped.
pub(super) async fn objects(database: &Sqlite, names: &[TableName]) -> Result<Vec<Object>> {
    let names = names.to_vec();
    let sql = "SELECT lower(tbl_name), name FROM main.sqlite_master WHERE type = 'trigger' \
               AND name LIKE '\\_rowferry\\_%' ESCAPE '\\' ORDER BY name COLLATE BINARY";
    database
        .catalogue
        .call(move |conn| {
            let rows = conn.prepare(sql).and_then(|mut s| s.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect());
            let rows: Vec<(String, String)> = rows.map_err(during("cannot list the triggers"))?;
            let of = |name: &TableName| {
                let own = rows.iter().filter(|(on, _)| *on == name.name.to_ascii_lowercase());
                let which = own.map(|(_, trigger)| trigger.as_str()).collect::<Vec<_>>().join(" ");
                Object { which, made: String::new() }
            };
            Ok(names.iter().map(of).collect())
        })
        .await
}

fn change_log(logged: &Logged) -> Result<ChangeLog> {
    let table = log_table(logged)?;
    let (name, logged_name) = (&table.name.name, quote(&logged.table.name.name));
    let parts = Parts::new(logged, name);
    let events = [
        ("insert", format!("AFTER INSERT ON {logged_name}"), vec![parts.append("NEW", "I")]),
        ("update", format!("AFTER UPDATE ON {logged_name}"), vec![parts.append("NEW", "U")]),
        (
            "move",
            format!("AFTER UPDATE{} ON {logged_name} WHEN {}", parts.moving(), parts.moved()),
            vec![parts.append("OLD", "D")],
        ),
        ("delete", format!("AFTER DELETE ON {logged_name}"), vec![parts.append("OLD", "D")]),
        ("replace", format!("BEFORE INSERT ON {logged_name}"), parts.touches(None)),
        ("update_replace", format!("BEFORE UPDATE{} ON {logged_name}", parts.replacing()), parts.touches(Some("OLD"))),
    ];

    let mut install = vec![create_sql(&table), check_sql(&table)];
    let (mut triggers, mut remove) = (Vec::new(), Vec::new());
    for (event, when, statements) in events {
        let trigger = format!("_rowferry_{event}_{}", logged.n);
        let drop = format!("DROP TRIGGER IF EXISTS {}", quote(&trigger));
        install.push(drop.clone());
        remove.push(drop);
        if !statements.is_empty() {
            install.push(format!(
                "CREATE TRIGGER {} {when}\nBEGIN\n  {};\nEND",
                quote(&trigger),
                statements.join(";\n  ")
            ));
            triggers.push(trigger);
        }
    }
    remove.push(format!("DROP TABLE IF EXISTS {}", quote(name)));
    let doubt = format!(
        "INSERT INTO {} ({}, {}) VALUES ('?', {NOTED})",
        quote(name),
        quote(ChangeLog::OPERATION),
        quote(ChangeLog::WALL)
    );
    Ok(ChangeLog { install, triggers, unhook: Vec::new(), doubt, remove, table: table.into() })
}

/// The log as it is read: its own key, the key columns, what each line says besides.
fn log_table(logged: &Logged) -> Result<Table> {
    let own = [ID, ChangeLog::OPERATION, ChangeLog::WALL, ChangeLog::LABEL];
    let mut columns = vec![ColumnDef { nullable: false, ..own_column(ID, "INTEGER", 64) }];
    for &at in &logged.key.columns {
        let column = &logged.table.columns[at];
        if own.iter().any(|name| name.eq_ignore_ascii_case(&column.name)) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "table {}: its key column {} has a name that rowferry uses itself",
                    logged.table.name, column.name
                ),
            ));
        }
        let (default, identity) = (None, None);
        columns.push(ColumnDef { nullable: true, generated: false, default, identity, ..column.clone() });
    }
    let text = LogicalType::Text { max: None, fixed: false };
    columns.push(ColumnDef { native: "TEXT".to_owned(), ..ColumnDef::new(ChangeLog::OPERATION, text) });
    columns.push(own_column(ChangeLog::WALL, "BIGINT", 64));
    columns.push(own_column(ChangeLog::LABEL, "TINYINT", 8));
    let name = TableName { name: format!("_rowferry_log_{}", logged.n), ..logged.table.name.clone() };
    Ok(Table { primary_key: Some(Key { columns: vec![0] }), ..Table::new(name, columns) })
}

fn own_column(name: &str, native: &str, bits: u8) -> ColumnDef {
    ColumnDef { native: native.to_owned(), ..ColumnDef::new(name, LogicalType::Int { bits, unsigned: false }) }
}

fn create_sql(table: &Table) -> String {
    // Key columns without a type: what the logged table holds is kept as it stands there.
    let columns = table.columns[1..].iter().map(|column| match &column.collation {
        Some(collation) => format!("{} COLLATE {}", quote(&column.name), quote(collation)),
        None => quote(&column.name),
    });
    let columns: Vec<String> = columns.collect();
    format!(
        "CREATE TABLE IF NOT EXISTS {} ({} INTEGER PRIMARY KEY, {})",
        quote(&table.name.name),
        quote(ID),
        columns.join(", ")
    )
}

/// Fails when a log of another key is there already: its triggers would fail the application.
fn check_sql(table: &Table) -> String {
    let name = quote(&table.name.name);
    let columns: Vec<String> = table.columns.iter().map(|c| format!("{name}.{}", quote(&c.name))).collect();
    format!("SELECT {} FROM {name} LIMIT 0", columns.join(", "))
}

/// What the triggers of one log are put together from.
struct Parts<'a> {
    table: &'a Table,
    key: Vec<&'a ColumnDef>,
    /// `INSERT INTO log (columns)`.
    insert: String,
}

impl<'a> Parts<'a> {
    fn new(logged: &'a Logged, log: &str) -> Self {
        let key: Vec<&ColumnDef> = logged.key.columns.iter().map(|&at| &logged.table.columns[at]).collect();
        let mut names: Vec<String> = key.iter().map(|column| quote(&column.name)).collect();
        names.extend([ChangeLog::OPERATION, ChangeLog::WALL].map(quote));
        Self { table: &logged.table, key, insert: format!("INSERT INTO {} ({})", quote(log), names.join(", ")) }
    }

    /// The values of a line about the row that is called `row`.
    fn line(&self, row: &str, operation: &str) -> String {
        let mut values: Vec<String> = self.key.iter().map(|column| of(row, column)).collect();
        values.extend([literal(operation), NOTED.to_owned()]);
        values.join(", ")
    }

    fn append(&self, row: &str, operation: &str) -> String {
        format!("{} VALUES ({})", self.insert, self.line(row, operation))
    }

    /// ` OF columns`, where an update that sets none of them keeps the key: asked once a statement, not once a row. The
    /// row number can be set by more names than its column's; one that is no column's name matches nothing.
    fn moving(&self) -> String {
        if self.key.iter().any(|column| column.generated) {
            return String::new();
        }
        let names = self.key.iter().map(|column| column.name.as_str()).chain(["rowid", "oid", "_rowid_"]);
        format!(" OF {}", names.map(quote).collect::<Vec<_>>().join(", "))
    }

    /// Whether an update changed the key, byte by byte.
    fn moved(&self) -> String {
        let differs = self.key.iter().map(|column| {
            let (old, new) = (of("OLD", column), of("NEW", column));
            let bytes = format!("{old} IS NOT {new} COLLATE BINARY");
            // 1 and 1.0 are equal, but only such a column keeps both.
            let kinds = matches!(affinity(&column.native), Affinity::Blob | Affinity::Numeric);
            if kinds { format!("{bytes} OR typeof({old}) <> typeof({new})") } else { bytes }
        });
        differs.collect::<Vec<_>>().join(" OR ")
    }

    /// A line for each row that a replacing statement would remove; `old` is the row that it changes.
    fn touches(&self, old: Option<&str>) -> Vec<String> {
        let primary = self.table.primary_key.iter().map(|key| {
            let columns = key.columns.iter().map(|&at| &self.table.columns[at]).collect::<Vec<_>>();
            self.plain_touch(&columns, old)
        });
        let others = self.table.indexes.iter().filter(|index| index.unique).map(|index| match &index.native {
            Some(native) => self.special_touch(native, old),
            None => self.plain_touch(&self.indexed(index), old),
        });
        primary.chain(others).flatten().collect()
    }

    /// ` OF columns`, where an update that sets none of them replaces no row. The row number has
    /// more names than its column's, and generated columns change with others.
    fn replacing(&self) -> String {
        let unique = self.table.indexes.iter().filter(|index| index.unique);
        let primary = self.table.primary_key.iter().flat_map(|key| &key.columns).map(|&at| &self.table.columns[at]);
        let columns: Vec<&ColumnDef> = primary.chain(unique.clone().flat_map(|index| self.indexed(index))).collect();
        let touched = |column: &&ColumnDef| !column.generated && column.identity.is_none();
        let plain = unique.clone().all(|index| index.native.is_none());
        // The row number's own column is left out of the words only where it needs no touch.
        let numbered = |column: &&ColumnDef| column.identity.is_some() && self.key.as_slice() == [*column];
        if !plain || !columns.iter().all(|column| touched(column) || numbered(column)) {
            return String::new();
        }
        let names: BTreeSet<String> = columns.into_iter().filter(touched).map(|column| quote(&column.name)).collect();
        if names.is_empty() { String::new() } else { format!(" OF {}", Vec::from_iter(names).join(", ")) }
    }

    fn indexed(&self, index: &Index) -> Vec<&'a ColumnDef> {
        index.columns.iter().filter_map(|c| Some(&self.table.columns[self.table.column(&c.name)?])).collect()
    }

    /// Rows that agree in these columns; none is needed where such a row has the key of the new one.
    fn plain_touch(&self, columns: &[&ColumnDef], old: Option<&str>) -> Option<String> {
        let same_key = |key: &&ColumnDef| columns.contains(key) && key.collation.is_none();
        if self.key.iter().all(same_key) {
            return None;
        }
        let row = quote(&self.table.name.name);
        let mut conditions: Vec<String> =
            columns.iter().map(|column| format!("{} = {}", of(&row, column), of("NEW", column))).collect();
        if let Some(old) = old {
            let changed = columns.iter().map(|column| format!("{} IS NOT {}", of(old, column), of("NEW", column)));
            conditions.push(format!("({})", changed.collect::<Vec<_>>().join(" OR ")));
        }
        Some(self.touch(&row, &conditions))
    }

    /// The same for an index with expressions, collations or a condition of its own: these words
    /// are looked up in a row of the new values, too.
    fn special_touch(&self, native: &str, old: Option<&str>) -> Option<String> {
        let (expressions, condition) = index_parts(native.strip_suffix(SAME_ENGINE)?)?;
        let row = quote(&self.table.name.name);
        let values =
            self.table.columns.iter().map(|column| format!("{} AS {}", of("NEW", column), quote(&column.name)));
        let new = format!("(SELECT {})", values.collect::<Vec<_>>().join(", "));
        let holds = condition.map_or_else(String::new, |condition| format!(" WHERE {condition}"));
        let mut conditions: Vec<String> = condition.iter().map(|condition| format!("({condition})")).collect();
        conditions.extend(expressions.iter().map(|e| format!("{e} = (SELECT {e} FROM {new}{holds})")));
        if let Some(old) = old {
            let itself = self.key.iter().map(|column| format!("{} IS {}", of(&row, column), of(old, column)));
            conditions.push(format!("NOT ({})", itself.collect::<Vec<_>>().join(" AND ")));
        }
        Some(self.touch(&row, &conditions))
    }

    fn touch(&self, row: &str, conditions: &[String]) -> String {
        format!("{} SELECT {} FROM {row} WHERE {}", self.insert, self.line(row, "T"), conditions.join(" AND "))
    }
}

/// A column of a row: with the row's name in front nothing is taken for a text.
fn of(row: &str, column: &ColumnDef) -> String {
    format!("{row}.{}", quote(&column.name))
}

/// `(a, lower(b) DESC) WHERE c` to its expressions without their direction, and the condition.
fn index_parts(tail: &str) -> Option<(Vec<&str>, Option<&str>)> {
    let (mut expressions, mut start, mut depth) = (Vec::new(), 1, 0_u32);
    let mut end_quote: Option<char> = None;
    for (at, c) in tail.char_indices() {
        match (end_quote, c) {
            (Some(q), c) if q == c => end_quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'' | '`') => end_quote = Some(c),
            (None, '[') => end_quote = Some(']'),
            (None, '(') => depth += 1,
            (None, ',' | ')') if depth == 1 => {
                expressions.push(undirected(&tail[start..at]));
                start = at + 1;
                if c == ')' {
                    let rest = tail[start..].trim();
                    let condition = rest.get(..5).filter(|w| w.eq_ignore_ascii_case("WHERE")).map(|_| rest[5..].trim());
                    return Some((expressions, condition));
                }
            }
            (None, ')') => depth = depth.checked_sub(1)?,
            _ => {}
        }
    }
    None
}

fn undirected(expression: &str) -> &str {
    let text = expression.trim();
    let direction = text.rsplit(char::is_whitespace).next().unwrap_or_default();
    let has = ["ASC", "DESC"].iter().any(|word| direction.eq_ignore_ascii_case(word)) && direction.len() < text.len();
    if has { text[..text.len() - direction.len()].trim_end() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_taken_apart() {
        let parts = |tail| index_parts(tail).unwrap();
        assert_eq!(parts("(a)"), (vec!["a"], None));
        assert_eq!(parts("( a COLLATE NOCASE DESC, f(b, ')') asc )"), (vec!["a COLLATE NOCASE", "f(b, ')')"], None));
        assert_eq!(parts("(\"a,(\", [b]]) where x = (1)"), (vec!["\"a,(\"", "[b]]"], Some("x = (1)")));
        assert_eq!(parts("(asc)\nWHERE(a)"), (vec!["asc"], Some("(a)")));
        assert_eq!(index_parts("(a"), None);
    }
}
