//! Quoting and the statements that make a table.

use std::fmt::Write as _;
use std::sync::Arc;

use rusqlite::Connection;
use xxhash_rust::xxh3::xxh3_64;

use super::error::translate;
use super::types::{AUTOINCREMENT, plain};
use crate::engine::{Error, ErrorKind, Result, TableDdl};
use crate::model::{ColumnDef, DefaultValue, ForeignKey, Index, LogicalType, Table, TableName};

/// Stands after text that only SQLite's own catalogue can have given: SQLite reads it as a comment.
pub(super) const SAME_ENGINE: &str = " /*sqlite*/";

/// Options of a table that holds each column to its type, and of one that is its own key's index.
pub(super) const STRICT: &str = "STRICT";
pub(super) const WITHOUT_ROWID: &str = "WITHOUT ROWID";

/// An identifier, quoted.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A table's name, quoted.
pub(super) fn quote_table(name: &TableName) -> String {
    if name.schema.is_empty() { quote(&name.name) } else { format!("{}.{}", quote(&name.schema), quote(&name.name)) }
}

/// A text literal.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn quoted_list<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(|n| quote(n)).collect::<Vec<_>>().join(", ")
}

/// `None`: there are no words for it here.
fn default_sql(column: &ColumnDef, default: &DefaultValue) -> Option<String> {
    Some(match default {
        DefaultValue::Now => match column.logical {
            LogicalType::Date => "CURRENT_DATE".to_owned(),
            LogicalType::Time { .. } | LogicalType::Duration { .. } => "CURRENT_TIME".to_owned(),
            // The usual word gives no offset, which an instant must have.
            LogicalType::Timestamp { zoned: true, .. } => "(strftime('%Y-%m-%d %H:%M:%f+00:00', 'now'))".to_owned(),
            LogicalType::Timestamp { .. } => "CURRENT_TIMESTAMP".to_owned(),
            _ => return None,
        },
        DefaultValue::Expression(text) => format!("({})", text.trim_end_matches(SAME_ENGINE)),
        DefaultValue::Literal(text) => match &column.logical {
            LogicalType::Bool => if matches!(text.as_str(), "true" | "1" | "t") { "1" } else { "0" }.to_owned(),
            LogicalType::Int { unsigned: true, bits: 64 } => literal(text),
            LogicalType::Int { .. } | LogicalType::Float { .. } if text.parse::<f64>().is_ok_and(f64::is_finite) => {
                text.clone()
            }
            LogicalType::Decimal { .. }
                if text.parse::<f64>().is_ok_and(f64::is_finite) && !plain(&column.native).contains("TEXT") =>
            {
                text.clone()
            }
            _ => literal(text),
        },
    })
}

fn column_sql(column: &ColumnDef, rowid: bool) -> String {
    let mut sql = quote(&column.name);
    if rowid {
        sql.push_str(" INTEGER PRIMARY KEY");
        if column.native == AUTOINCREMENT {
            sql.push_str(" AUTOINCREMENT");
        }
        return sql;
    }
    let _ = write!(sql, " {}", plain(&column.native));
    if !column.nullable {
        sql.push_str(" NOT NULL");
    }
    if let Some(collation) = &column.collation {
        let _ = write!(sql, " COLLATE {}", quote(collation));
    }
    if let Some(words) = &column.dialect {
        let _ = write!(sql, " {words}");
    }
    if let Some(default) = column.default.as_ref().and_then(|default| default_sql(column, default)) {
        let _ = write!(sql, " DEFAULT {default}");
    }
    sql
}

fn foreign_key_sql(key: &ForeignKey) -> String {
    let name = if key.name.is_empty() { String::new() } else { format!("CONSTRAINT {} ", quote(&key.name)) };
    let parent_columns = if key.parent_columns.is_empty() {
        String::new()
    } else {
        format!(" ({})", quoted_list(key.parent_columns.iter()))
    };
    // A reference cannot leave its file, so that the parent has no schema in front.
    format!(
        "{name}FOREIGN KEY ({}) REFERENCES {}{parent_columns} {}",
        quoted_list(key.columns.iter()),
        quote(&key.parent.name),
        key.rules()
    )
}

/// Index names share one space with each other and with tables: a derived one has the table's name
/// in front and a hash behind, so that index `role` of `user` is not taken for table `user_role`.
fn index_name(table: &Table, index: &Index) -> String {
    let own = &index.name;
    let prefix = &table.name.name;
    let base = if own.is_empty() || own.starts_with("sqlite_autoindex_") {
        let columns: Vec<&str> = index.columns.iter().map(|c| c.name.as_str()).collect();
        columns.join("_")
    } else if own.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.starts_with('_')) {
        return own.clone();
    } else {
        own.clone()
    };
    let hash = xxh3_64(format!("{prefix}\0{base}").as_bytes()) & 0xffff_ffff;
    format!("{prefix}_{base}_{hash:08x}")
}

fn index_sql(table: &Table, index: &Index, name: &str) -> Option<String> {
    let what = if let Some(native) = &index.native {
        native.strip_suffix(SAME_ENGINE)?.to_owned()
    } else {
        let columns: Vec<String> = index
            .columns
            .iter()
            .map(|c| format!("{}{}", quote(&c.name), if c.descending { " DESC" } else { "" }))
            .collect();
        format!("({})", columns.join(", "))
    };
    // The schema stands before the index here, not before the table.
    let schema = if table.name.schema.is_empty() { String::new() } else { format!("{}.", quote(&table.name.schema)) };
    Some(format!(
        "CREATE {}INDEX {schema}{} ON {} {what}",
        if index.unique { "UNIQUE " } else { "" },
        quote(name),
        quote(&table.name.name)
    ))
}

/// Statements that create a table whose columns have been mapped.
pub(super) fn ddl(table: &Table) -> TableDdl {
    let mut out = TableDdl::default();
    let key: &[usize] = table.primary_key.as_ref().map_or(&[], |k| &k.columns);
    let rowid = |at: usize| key == [at] && table.columns[at].identity.is_some();
    let mut parts: Vec<String> = table.columns.iter().enumerate().map(|(at, c)| column_sql(c, rowid(at))).collect();
    if !key.is_empty() && !key.first().is_some_and(|&at| rowid(at)) {
        parts.push(format!("PRIMARY KEY ({})", quoted_list(key.iter().map(|&c| &table.columns[c].name))));
    }
    parts.extend(table.foreign_keys.iter().map(foreign_key_sql));
    parts.extend(table.dialect.constraints.iter().cloned());
    let options =
        if table.dialect.options.is_empty() { String::new() } else { format!(" {}", table.dialect.options.join(", ")) };
    out.create.push(format!("CREATE TABLE {} (\n  {}\n){options}", quote_table(&table.name), parts.join(",\n  ")));
    out.left_out.clone_from(&table.dialect.left_out);
    let wordless = |c: &&ColumnDef| c.default.as_ref().is_some_and(|default| default_sql(c, default).is_none());
    out.left_out.extend(table.columns.iter().filter(wordless).map(|c| format!("the default of column {}", c.name)));

    let mut names: Vec<String> = Vec::new();
    for index in &table.indexes {
        let mut name = index_name(table, index);
        while names.iter().any(|n| n.eq_ignore_ascii_case(&name)) {
            name.push_str("_2");
        }
        let Some(sql) = index_sql(table, index, &name) else {
            out.left_out
                .push(format!("index {} of {}: it is written in another engine's words", index.name, table.name));
            continue;
        };
        names.push(name);
        out.after_rows.push(sql);
    }
    out
}

/// Makes the tables in a database of their own in memory, where nothing of it stays.
pub(super) fn rehearse(tables: &[(Arc<Table>, TableDdl)]) -> Result<()> {
    let conn = Connection::open_in_memory().map_err(|e| translate(&e))?;
    for (table, ddl) in tables {
        for sql in ddl.create.iter().chain(&ddl.after_rows) {
            conn.execute_batch(sql).map_err(|e| {
                let why = translate(&e);
                let what = format!("table {} cannot be made by SQLite, nothing was changed: {why}", table.name);
                Error::new(ErrorKind::SchemaMismatch, what)
            })?;
        }
    }
    Ok(())
}
