//! The catalogue: tables, columns, keys, indexes, references, triggers.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension as _};

use super::ddl::{SAME_ENGINE, STRICT, WITHOUT_ROWID, quote};
use super::definition;
use super::error::during;
use super::types::{AUTOINCREMENT, STRICT_ANY, may_convert, parse};
use crate::engine::Result;
use crate::model::{
    ColumnDef, DefaultValue, Dialect, ForeignKey, ForeignKeyAction, Identity, Index, IndexColumn, Key, LogicalType,
    Table, TableName,
};

/// The user's tables, sorted by their bytes. Virtual tables' own storage is left out.
pub(super) fn tables(conn: &Connection) -> Result<Vec<String>> {
    let sql = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'virtual') \
               AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT LIKE '\\_rowferry\\_%' ESCAPE '\\' \
               ORDER BY name COLLATE BINARY";
    rows(conn, sql, [], |r| r.get(0)).map_err(during("cannot list the tables"))
}

/// Ours.
pub(super) fn own_tables(conn: &Connection) -> Result<Vec<String>> {
    let sql = "SELECT name FROM main.sqlite_master WHERE type = 'table' AND name LIKE '\\_rowferry\\_%' ESCAPE '\\'";
    rows(conn, sql, [], |r| r.get(0)).map_err(during("cannot list the tables"))
}

fn rows<T, P: rusqlite::Params>(
    conn: &Connection,
    sql: &str,
    params: P,
    read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    conn.prepare(sql)?.query_map(params, read)?.collect()
}

/// A table; `None` when there is none of this name.
pub(super) fn describe(conn: &Connection, name: &TableName) -> Result<Option<Table>> {
    if !name.schema.is_empty() && name.schema != "main" {
        return Ok(None);
    }
    read_table(conn, name).map_err(during(format_args!("cannot describe table {name}")))
}

struct RawColumn {
    name: String,
    declared: String,
    not_null: bool,
    default: Option<String>,
    key_position: usize,
    hidden: i64,
}

fn read_table(conn: &Connection, name: &TableName) -> rusqlite::Result<Option<Table>> {
    let spelled: Option<String> = conn
        .query_row(
            "SELECT name FROM main.sqlite_master WHERE type = 'table' AND name = ?1 COLLATE NOCASE \
             ORDER BY name = ?1 DESC",
            [&name.name],
            |r| r.get(0),
        )
        .optional()?;
    let Some(spelled) = spelled else { return Ok(None) };
    let (dialect, mut computed) = read_dialect(conn, &spelled)?;
    let strict = dialect.options.iter().any(|o| o == STRICT);
    let raw = rows(
        conn,
        "SELECT name, type, \"notnull\", dflt_value, pk, hidden FROM pragma_table_xinfo(?1, 'main') \
         WHERE hidden <> 1 ORDER BY cid",
        [&spelled],
        |r| {
            Ok(RawColumn {
                name: r.get(0)?,
                declared: r.get::<_, Option<String>>(1)?.unwrap_or_default(),
                not_null: r.get(2)?,
                default: r.get(3)?,
                key_position: r.get::<_, i64>(4)?.try_into().unwrap_or(0),
                hidden: r.get(5)?,
            })
        },
    )?;
    let mut key: Vec<(usize, usize)> =
        raw.iter().enumerate().filter(|(_, c)| c.key_position > 0).map(|(at, c)| (c.key_position, at)).collect();
    key.sort_unstable();
    let key_columns: Vec<usize> = key.iter().map(|(_, at)| *at).collect();
    let (indexes, key_has_index) = read_indexes(conn, &spelled)?;
    // The table's own row number: its key needs no index.
    let rowid = match key_columns.as_slice() {
        [only] if !key_has_index && raw[*only].declared.eq_ignore_ascii_case("INTEGER") => Some(*only),
        _ => None,
    };
    let mut columns = raw
        .iter()
        .enumerate()
        .map(|(at, c)| read_column(conn, &spelled, c, rowid == Some(at)))
        .collect::<rusqlite::Result<Vec<_>>>()?;
    for column in &mut columns {
        if strict && column.logical == LogicalType::Any {
            STRICT_ANY.clone_into(&mut column.native);
        }
        if column.generated {
            column.dialect = computed.remove(&column.name.to_ascii_lowercase());
        }
    }
    // SQLite lets NULL into a primary key that is not INTEGER. Nearly no table has one: where none
    // does, the key tells its rows apart.
    for &at in &key_columns {
        if columns[at].nullable && !has_null(conn, &spelled, &raw[at].name)? {
            columns[at].nullable = false;
        }
    }
    Ok(Some(Table {
        name: TableName::new(spelled.clone()),
        columns,
        primary_key: (!key_columns.is_empty()).then_some(Key { columns: key_columns }),
        indexes,
        foreign_keys: read_foreign_keys(conn, &spelled)?,
        triggers: rows(
            conn,
            "SELECT name FROM main.sqlite_master WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE \
             AND name NOT LIKE '\\_rowferry\\_%' ESCAPE '\\' ORDER BY name",
            [&spelled],
            |r| r.get(0),
        )?,
        dialect,
    }))
}

/// What the table alone says of itself, and the words of its computed columns by their folded name.
fn read_dialect(conn: &Connection, table: &str) -> rusqlite::Result<(Dialect, BTreeMap<String, String>)> {
    let (kind, without_rowid, strict, sql) = conn.query_row(
        "SELECT l.type, l.wr, l.strict, m.sql FROM pragma_table_list(?1) l JOIN main.sqlite_master m \
         ON m.type = 'table' AND m.name = l.name WHERE l.schema = 'main'",
        [table],
        |r| Ok((r.get::<_, String>(0)?, r.get::<_, bool>(1)?, r.get::<_, bool>(2)?, r.get::<_, String>(3)?)),
    )?;
    let mut dialect = Dialect::default();
    if kind == "virtual" {
        let words = sql.to_ascii_uppercase().find(" USING ").map_or("", |at| sql[at + 7..].trim());
        dialect.left_out.push(format!("that the table is a virtual one, {words}: it becomes an ordinary table"));
        return Ok((dialect, BTreeMap::new()));
    }
    dialect.options.extend(strict.then(|| STRICT.to_owned()));
    dialect.options.extend(without_rowid.then(|| WITHOUT_ROWID.to_owned()));
    let definition = definition::read(&sql);
    dialect.left_out.extend(definition.left_out.into_iter().map(str::to_owned));
    dialect.constraints = definition.checks;
    Ok((dialect, definition.generated.into_iter().map(|(n, words)| (n.to_ascii_lowercase(), words)).collect()))
}

fn has_null(conn: &Connection, table: &str, column: &str) -> rusqlite::Result<bool> {
    let sql = format!("SELECT EXISTS (SELECT 1 FROM main.{} WHERE {} IS NULL)", quote(table), quote(column));
    conn.query_row(&sql, [], |r| r.get(0))
}

fn read_column(conn: &Connection, table: &str, raw: &RawColumn, rowid: bool) -> rusqlite::Result<ColumnDef> {
    let (_, collation, _, _, counted) = conn.column_metadata(Some("main"), table, raw.name.as_str())?;
    let collation =
        collation.and_then(|c| c.to_str().ok()).filter(|c| !c.eq_ignore_ascii_case("BINARY")).map(str::to_owned);
    // The pragma leaves the words of a generated column in its type.
    let declared = raw.declared.trim();
    let declared = declared.strip_suffix("GENERATED ALWAYS").map_or(declared, str::trim);
    let logical = parse(declared);
    let native = if rowid && counted {
        AUTOINCREMENT.to_owned()
    } else if may_convert(declared, &logical) {
        format!("{declared}{SAME_ENGINE}")
    } else {
        declared.to_owned()
    };
    let generated = matches!(raw.hidden, 2 | 3);
    Ok(ColumnDef {
        name: raw.name.clone(),
        default: raw.default.as_deref().filter(|_| !generated).and_then(|text| read_default(text, &logical)),
        logical,
        native,
        nullable: !raw.not_null && !rowid,
        generated,
        dialect: None,
        identity: rowid.then_some(Identity::ByDefault),
        binary_order: collation.is_none(),
        collation,
    })
}

fn read_default(text: &str, logical: &LogicalType) -> Option<DefaultValue> {
    let text = text.trim();
    let upper = text.to_ascii_uppercase();
    let quoted = |q: char| {
        text.strip_prefix(q)
            .and_then(|t| t.strip_suffix(q))
            .map(|t| t.replace(&format!("{q}{q}"), &q.to_string()))
            .filter(|t| text == format!("{q}{}{q}", t.replace(q, &format!("{q}{q}"))))
    };
    let literal = match upper.as_str() {
        "NULL" => return None,
        "CURRENT_TIMESTAMP" | "CURRENT_DATE" | "CURRENT_TIME" => return Some(DefaultValue::Now),
        "TRUE" => Some("true".to_owned()),
        "FALSE" => Some("false".to_owned()),
        _ if text.parse::<f64>().is_ok_and(f64::is_finite) => Some(text.to_owned()),
        _ => quoted('\'').or_else(|| quoted('"')),
    };
    Some(match literal {
        Some(l) if *logical == LogicalType::Bool => {
            DefaultValue::Literal(if matches!(l.as_str(), "1" | "true" | "t") { "true" } else { "false" }.to_owned())
        }
        Some(l) => DefaultValue::Literal(l),
        None => DefaultValue::Expression(format!("{text}{SAME_ENGINE}")),
    })
}

/// What stands from the parenthesis on in `CREATE INDEX name ON table (...) WHERE ...`, which is
/// free of the two names.
fn index_tail(sql: &str) -> Option<&str> {
    let mut end_quote: Option<char> = None;
    for (at, c) in sql.char_indices() {
        match (end_quote, c) {
            (Some(q), c) if q == c => end_quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'' | '`') => end_quote = Some(c),
            (None, '[') => end_quote = Some(']'),
            (None, '(') => return Some(&sql[at..]),
            _ => {}
        }
    }
    None
}

/// The indexes besides the primary key's, and whether that has one.
fn read_indexes(conn: &Connection, table: &str) -> rusqlite::Result<(Vec<Index>, bool)> {
    let list = rows(
        conn,
        "SELECT l.name, l.\"unique\", l.origin, l.partial, m.sql FROM pragma_index_list(?1, 'main') l \
         LEFT JOIN main.sqlite_master m ON m.type = 'index' AND m.name = l.name ORDER BY l.seq DESC",
        [table],
        |r| {
            Ok((
                r.get::<_, String>(0)?,
                r.get::<_, bool>(1)?,
                r.get::<_, String>(2)?,
                r.get::<_, bool>(3)?,
                r.get::<_, Option<String>>(4)?,
            ))
        },
    )?;
    let key_has_index = list.iter().any(|l| l.2 == "pk");
    let mut out = Vec::new();
    for (name, unique, _, partial, sql) in list.into_iter().filter(|l| l.2 != "pk") {
        let mut special = partial;
        let columns = rows(
            conn,
            "SELECT x.name, x.\"desc\", x.coll FROM pragma_index_xinfo(?1, 'main') x WHERE x.key = 1 ORDER BY x.seqno",
            [&name],
            |r| Ok((r.get::<_, Option<String>>(0)?, r.get(1)?, r.get::<_, Option<String>>(2)?)),
        )?;
        let (mut kept, mut words) = (Vec::new(), Vec::new());
        for (column, descending, collation) in columns {
            let Some(column) = column else {
                special = true;
                continue;
            };
            let (_, own, ..) = conn.column_metadata(Some("main"), table, column.as_str())?;
            let own = own.and_then(|c| c.to_str().ok()).unwrap_or("BINARY");
            let collation = collation.unwrap_or_default();
            special |= !collation.eq_ignore_ascii_case(own);
            let order = if descending { " DESC" } else { "" };
            words.push(format!("{} COLLATE {}{order}", quote(&column), quote(&collation)));
            kept.push(IndexColumn { name: column, descending });
        }
        // Of a constraint there is no text: its columns and their collations are all it says.
        let tail =
            || sql.as_deref().and_then(index_tail).map_or_else(|| format!("({})", words.join(", ")), str::to_owned);
        let native = special.then(|| format!("{}{SAME_ENGINE}", tail()));
        out.push(Index { name, columns: kept, unique, constraint: false, native });
    }
    Ok((out, key_has_index))
}

fn read_foreign_keys(conn: &Connection, table: &str) -> rusqlite::Result<Vec<ForeignKey>> {
    let list = rows(
        conn,
        "SELECT id, \"table\", \"from\", \"to\", on_update, on_delete FROM pragma_foreign_key_list(?1, 'main') \
         ORDER BY id DESC, seq",
        [table],
        |r| {
            Ok((
                r.get::<_, i64>(0)?,
                r.get::<_, String>(1)?,
                r.get::<_, String>(2)?,
                r.get::<_, Option<String>>(3)?,
                r.get::<_, String>(4)?,
                r.get::<_, String>(5)?,
            ))
        },
    )?;
    let mut out: Vec<ForeignKey> = Vec::new();
    let mut last = None;
    for (id, parent, from, to, on_update, on_delete) in list {
        if last != Some(id) {
            last = Some(id);
            out.push(ForeignKey {
                name: String::new(),
                columns: Vec::new(),
                parent: TableName::new(parent),
                parent_columns: Vec::new(),
                on_delete: ForeignKeyAction::from_sql(&on_delete),
                on_update: ForeignKeyAction::from_sql(&on_update),
            });
        }
        if let Some(key) = out.last_mut() {
            key.columns.push(from);
            key.parent_columns.extend(to);
        }
    }
    // A reference without columns means the parent's primary key: other engines want it said.
    for key in out.iter_mut().filter(|k| k.parent_columns.is_empty()) {
        key.parent_columns = rows(
            conn,
            "SELECT name FROM pragma_table_info(?1, 'main') WHERE pk > 0 ORDER BY pk",
            [&key.parent.name],
            |r| r.get(0),
        )?;
    }
    Ok(out)
}
