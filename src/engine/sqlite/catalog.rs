//! The catalogue: tables, columns, keys, indexes, references, triggers.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension};

use super::ddl::{SAME_ENGINE, STRICT, WITHOUT_ROWID, quote};
use super::definition::{self, Definition};
use super::error::{during, translate};
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

/// Whether SQLite keeps in mind which numbers it has given out to this table.
pub(super) fn counts(table: &Table) -> bool {
    table.columns.iter().any(|column| column.native == AUTOINCREMENT)
}

/// See [`super::super::Database::numbered_upto`].
pub(super) fn numbered_upto(conn: &Connection, table: &Table) -> Result<Option<i64>> {
    if !counts(table) {
        return Ok(None);
    }
    let sql = "SELECT seq FROM main.sqlite_sequence WHERE name = ?1 COLLATE NOCASE";
    conn.query_row(sql, [&table.name.name], |row| row.get(0)).optional().map_err(|e| translate(&e))
}

/// Ours.
pub(super) fn own_tables(conn: &Connection) -> Result<Vec<String>> {
    let sql = "SELECT name FROM main.sqlite_master WHERE type = 'table' AND name LIKE '\\_rowferry\\_%' ESCAPE '\\'";
    rows(conn, sql, [], |r| r.get(0)).map_err(during("cannot list the tables"))
}

/// What stands under these names and is no table.
pub(super) fn taken(conn: &Connection, names: &[TableName]) -> Result<BTreeMap<TableName, String>> {
    let sql = "SELECT lower(name), type FROM main.sqlite_master WHERE type IN ('view', 'index')";
    let others = rows(conn, sql, [], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?)));
    let others: BTreeMap<String, String> = others.map_err(during("cannot read the catalogue"))?.into_iter().collect();
    let own = names.iter().filter(|name| name.schema.is_empty() || name.schema == "main");
    let found = |name: &TableName| Some((name.clone(), others.get(&name.name.to_ascii_lowercase())?.clone()));
    Ok(own.filter_map(found).collect())
}

fn rows<T, P: rusqlite::Params>(
    conn: &Connection,
    sql: &str,
    params: P,
    read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    conn.prepare(sql)?.query_map(params, read)?.collect()
}

/// These tables; `None` for a name of which there is none.
pub(super) fn describe(conn: &Connection, names: &[TableName]) -> Result<Vec<Option<Table>>> {
    let only = if let [one] = names { Some(one.name.as_str()) } else { None };
    let texts = Texts::read(conn, only).map_err(during("cannot read the catalogue"))?;
    let described = |name: &TableName| {
        if !name.schema.is_empty() && name.schema != "main" {
            return Ok(None);
        }
        let table = texts.tables.get(&name.name.to_ascii_lowercase()).map(|said| read_table(conn, said, &texts));
        table.transpose().map_err(during(format_args!("cannot describe table {name}")))
    };
    names.iter().map(described).collect()
}

/// What the schema table says. It has no index, so that it is read once, however many tables are described.
#[derive(Default)]
struct Texts {
    /// Tables by their folded name.
    tables: BTreeMap<String, Said>,
    /// Definitions of indexes by their name.
    indexes: BTreeMap<String, String>,
    /// The user's triggers by the folded name of their table.
    triggers: BTreeMap<String, Vec<String>>,
}

/// What it says of one table.
#[derive(Default)]
struct Said {
    name: String,
    sql: String,
    is_virtual: bool,
    without_rowid: bool,
    strict: bool,
}

impl Texts {
    /// Of one table, or of all.
    fn read(conn: &Connection, only: Option<&str>) -> rusqlite::Result<Self> {
        let mut texts = Self::default();
        let mut statement = conn.prepare(
            "SELECT type, name, tbl_name, sql FROM main.sqlite_master \
             WHERE ?1 IS NULL OR tbl_name = ?1 COLLATE NOCASE ORDER BY name",
        )?;
        let mut said = statement.query([only])?;
        while let Some(row) = said.next()? {
            let (kind, name, of): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let sql = row.get::<_, Option<String>>(3)?.unwrap_or_default();
            match kind.as_str() {
                "table" => {
                    texts.tables.insert(of.to_ascii_lowercase(), Said { name, sql, ..Said::default() });
                }
                // That of a constraint has no text.
                "index" if !sql.is_empty() => drop(texts.indexes.insert(name, sql)),
                "trigger" if !name.to_ascii_lowercase().starts_with("_rowferry_") => {
                    texts.triggers.entry(of.to_ascii_lowercase()).or_default().push(name);
                }
                _ => {}
            }
        }
        let list = if only.is_some() { "pragma_table_list(?1)" } else { "pragma_table_list" };
        let sql = format!("SELECT name, type, wr, strict FROM {list} WHERE schema = 'main' AND ?1 IS ?1");
        let mut statement = conn.prepare(&sql)?;
        let mut listed = statement.query([only])?;
        while let Some(row) = listed.next()? {
            if let Some(said) = texts.tables.get_mut(&row.get::<_, String>(0)?.to_ascii_lowercase()) {
                said.is_virtual = row.get::<_, String>(1)? == "virtual";
                (said.without_rowid, said.strict) = (row.get(2)?, row.get(3)?);
            }
        }
        Ok(texts)
    }
}

struct RawColumn {
    name: String,
    declared: String,
    not_null: bool,
    default: Option<String>,
    key_position: usize,
    hidden: i64,
}

fn read_table(conn: &Connection, said: &Said, texts: &Texts) -> rusqlite::Result<Table> {
    let spelled = &said.name;
    let (definition, dialect) = dialect(said);
    let mut computed: BTreeMap<String, String> =
        definition.generated.into_iter().map(|(name, words)| (name.to_ascii_lowercase(), words)).collect();
    let raw = rows(
        conn,
        "SELECT name, type, \"notnull\", dflt_value, pk, hidden FROM pragma_table_xinfo(?1, 'main') \
         WHERE hidden <> 1 ORDER BY cid",
        [spelled],
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
    let (indexes, key_has_index) = read_indexes(conn, spelled, &texts.indexes)?;
    // The table's own row number: its key needs no index.
    let rowid = match key_columns.as_slice() {
        [only] if !key_has_index && raw[*only].declared.eq_ignore_ascii_case("INTEGER") => Some(*only),
        _ => None,
    };
    let mut columns = raw
        .iter()
        .enumerate()
        .map(|(at, c)| read_column(conn, spelled, c, rowid == Some(at)))
        .collect::<rusqlite::Result<Vec<_>>>()?;
    for column in &mut columns {
        if said.strict && column.logical == LogicalType::Any {
            STRICT_ANY.clone_into(&mut column.native);
        }
        if column.generated {
            column.dialect = computed.remove(&column.name.to_ascii_lowercase());
        }
    }
    // SQLite lets NULL into a primary key that is not INTEGER. Nearly no table has one: where none
    // does, the key tells its rows apart.
    for &at in &key_columns {
        if columns[at].nullable && !has_null(conn, spelled, &raw[at].name)? {
            columns[at].nullable = false;
        }
    }
    Ok(Table {
        name: TableName::new(spelled.clone()),
        columns,
        primary_key: (!key_columns.is_empty()).then_some(Key { columns: key_columns }),
        indexes,
        foreign_keys: read_foreign_keys(conn, spelled, &definition.deferred)?,
        loud: Vec::new(),
        triggers: texts.triggers.get(&spelled.to_ascii_lowercase()).cloned().unwrap_or_default(),
        dialect,
    })
}

/// What the table alone says of itself.
fn dialect(said: &Said) -> (Definition, Dialect) {
    let mut dialect = Dialect::default();
    if said.is_virtual {
        let words = said.sql.to_ascii_uppercase().find(" USING ").map_or("", |at| said.sql[at + 7..].trim());
        dialect.left_out.push(format!("that the table is a virtual one, {words}: it becomes an ordinary table"));
        return (Definition::default(), dialect);
    }
    dialect.options.extend(said.strict.then(|| STRICT.to_owned()));
    dialect.options.extend(said.without_rowid.then(|| WITHOUT_ROWID.to_owned()));
    let mut definition = definition::read(&said.sql);
    dialect.left_out.extend(definition.left_out.iter().map(|&what| what.to_owned()));
    dialect.constraints = std::mem::take(&mut definition.checks);
    (definition, dialect)
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
        // What the word says must be what the column holds: a text column may have any of them.
        "CURRENT_TIMESTAMP" if matches!(logical, LogicalType::Timestamp { .. }) => return Some(DefaultValue::Now),
        "CURRENT_DATE" if *logical == LogicalType::Date => return Some(DefaultValue::Now),
        "CURRENT_TIME" if matches!(logical, LogicalType::Time { .. }) => return Some(DefaultValue::Now),
        "TRUE" => Some("true".to_owned()),
        "FALSE" => Some("false".to_owned()),
        _ if text.parse::<f64>().is_ok_and(f64::is_finite) => Some(text.to_owned()),
        _ => quoted('\'').or_else(|| quoted('"')),
    };
    // Where nothing converts it, a number is another value than its text.
    let kept = matches!(logical, LogicalType::Any | LogicalType::Binary { .. });
    let literal = literal.filter(|_| !kept || text.starts_with(['\'', '"']));
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
fn read_indexes(
    conn: &Connection,
    table: &str,
    texts: &BTreeMap<String, String>,
) -> rusqlite::Result<(Vec<Index>, bool)> {
    let list = rows(
        conn,
        "SELECT name, \"unique\", origin, partial FROM pragma_index_list(?1, 'main') ORDER BY seq DESC",
        [table],
        |r| Ok((r.get::<_, String>(0)?, r.get::<_, bool>(1)?, r.get::<_, String>(2)?, r.get::<_, bool>(3)?)),
    )?;
    let key_has_index = list.iter().any(|l| l.2 == "pk");
    let mut out = Vec::new();
    for (name, unique, _, partial) in list.into_iter().filter(|l| l.2 != "pk") {
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
        let tail = || {
            texts
                .get(&name)
                .and_then(|sql| index_tail(sql))
                .map_or_else(|| format!("({})", words.join(", ")), str::to_owned)
        };
        let native = special.then(|| format!("{}{SAME_ENGINE}", tail()));
        out.push(Index { name, columns: kept, unique, constraint: false, native });
    }
    Ok((out, key_has_index))
}

/// References in the order in which they stand, and which of them are `deferred`.
fn read_foreign_keys(conn: &Connection, table: &str, deferred: &[bool]) -> rusqlite::Result<Vec<ForeignKey>> {
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
                native: None,
            });
        }
        if let Some(key) = out.last_mut() {
            key.columns.push(from);
            key.parent_columns.extend(to);
        }
    }
    for (key, _) in out.iter_mut().zip(deferred).filter(|(_, deferred)| **deferred) {
        key.native = Some(format!("{} DEFERRABLE INITIALLY DEFERRED", key.rules()));
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
