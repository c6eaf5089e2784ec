//! The table that the target would make, and what of the source's is left out.

use std::collections::BTreeMap;

use super::Ends;
use super::parents::Parents;
use crate::engine::{Database, Error, ErrorKind, Letters, Result};
use crate::model::{ColumnDef, DefaultValue, ForeignKey, LogicalType, Table, TableName};

/// What the target makes of a table.
pub(super) struct Wanted {
    /// The table as the target would make it.
    pub table: Table,
    /// What cannot be kept of its values.
    pub losses: Vec<String>,
    /// What is left out of its definition, and what could surprise.
    pub notes: Vec<String>,
}

/// The table as `target` would make it from `source`'s.
pub(super) fn wanted(
    target: &dyn Database,
    source: &Table,
    name: &TableName,
    ends: Ends,
    parents: &mut Parents,
) -> Wanted {
    let (mut losses, mut notes) = (Vec::new(), Vec::new());
    let original = source;
    let source = &carried(source, ends, &mut notes);
    let mut table = source.clone();
    table.name = name.clone();
    if !table.triggers.is_empty() {
        notes.push(format!("left out: triggers {}", table.triggers.join(", ")));
        table.triggers.clear();
    }
    for (n, key) in table.foreign_keys.iter_mut().enumerate() {
        key.name = parents.key_name(&name.name, n + 1, &key.name);
    }
    table.foreign_keys.retain_mut(|key| {
        let Some(parent) = parents.get(&key.parent) else {
            notes.push(format!(
                "left out: foreign key {} of {name}, because {} is not there; copy {1} before it or with it, or add the key by hand later",
                key.name, key.parent
            ));
            return false;
        };
        key.parent.clone_from(parent);
        true
    });
    table.columns = source
        .columns
        .iter()
        .zip(&original.columns)
        .map(|(column, original)| {
            let mapped = target.map_column(source, column);
            if let Some(loss) = mapped.loss {
                losses.push(format!("{}.{}: {loss}", source.name, column.name));
            }
            notes.extend(lost_words(column, &mapped.column));
            if column.identity.is_some()
                && column.logical == (LogicalType::Int { bits: 64, unsigned: true })
                && matches!(mapped.column.logical, LogicalType::Int { unsigned: false, .. })
            {
                notes.push(format!(
                    "{} is {} at the target, where numbers end at {}: rows with higher ones are rejected",
                    column.name,
                    mapped.column.native,
                    i64::MAX
                ));
            }
            if original.generated && !mapped.column.generated {
                let words = original.dialect.as_ref().map_or(String::new(), |words| format!(" ({words})"));
                let name = &column.name;
                notes.push(format!("{name} is computed at the source{words}; at the target it is an ordinary column"));
            }
            mapped.column
        })
        .collect();
    if !ends.one_engine {
        // An engine that lets NULL into a primary key is alone with that.
        for &at in table.primary_key.iter().flat_map(|k| &k.columns).filter(|&&at| source.columns[at].nullable) {
            table.columns[at].nullable = false;
            notes.push(format!("rows with NULL in {}, of the primary key, are rejected", source.columns[at].name));
        }
    }
    Wanted { table, losses, notes }
}

/// What of a column its own engine's other database does not take over.
fn lost_words(from: &ColumnDef, to: &ColumnDef) -> Vec<String> {
    let mut out = Vec::new();
    if from.default.is_some() && to.default.is_none() && !to.generated && to.identity.is_none() {
        out.push(format!("left out: the default of {}", from.name));
    }
    match (&from.collation, &to.collation) {
        (Some(a), None) => out.push(format!("left out: the collation {a} of {}", from.name)),
        (Some(a), Some(b)) if a != b => out.push(format!("the collation {a} of {} becomes {b}", from.name)),
        _ => {}
    }
    out
}

/// The table without what only its own engine, or its own product, understands.
fn carried(source: &Table, ends: Ends, notes: &mut Vec<String>) -> Table {
    let mut table = source.clone();
    if !ends.one_product {
        let dialect = std::mem::take(&mut table.dialect);
        let parts = dialect.constraints.into_iter().chain(dialect.options).chain(dialect.left_out);
        let keys = table.foreign_keys.iter_mut().filter_map(ForeignKey::give_up_native);
        notes.extend(parts.chain(keys).map(|what| format!("left out: {what}")));
        for column in &mut table.columns {
            let words = column.dialect.take().filter(|_| !column.generated);
            notes.extend(words.map(|words| format!("left out: {words} of {}", column.name)));
        }
    }
    if ends.one_engine {
        return table;
    }
    // Those of bytes that pad with spaces have an order of their own too, and know capitals.
    let folding = |c: &&ColumnDef| !c.binary_order && !c.collation.as_ref().is_some_and(|name| name.ends_with("_bin"));
    let folded: Vec<&str> = table.columns.iter().filter(folding).map(|c| c.name.as_str()).collect();
    if !folded.is_empty() {
        notes.push(format!("left out: collations, so that capitals count as other letters in {}", folded.join(", ")));
    }
    for column in &mut table.columns {
        column.native.clear();
        column.collation = None;
        if let Some(DefaultValue::Expression(text)) = &column.default {
            notes.push(format!(
                "left out: the default of {}, an expression of the source's SQL: {}",
                column.name,
                plain(text)
            ));
            column.default = None;
        }
    }
    table.indexes.retain(|index| {
        if index.native.is_some() {
            notes.push(format!("left out: index {}, which only the source's engine can build", index.name));
        }
        index.native.is_none()
    });
    table
}

/// A text of the source's catalogue without the comment by which its engine knows it again.
pub(super) fn plain(text: &str) -> &str {
    text.strip_suffix("*/").and_then(|t| t.rsplit_once(" /*")).map_or(text, |(text, _)| text)
}

/// Names that the target takes for one are told before anything is made.
pub(super) fn refuse_twins(target: &dyn Database, tables: &[(Table, TableName)]) -> Result<()> {
    let abilities = target.abilities();
    let mut seen: BTreeMap<(String, String), &TableName> = BTreeMap::new();
    for (source, name) in tables {
        let folded = (name.schema.clone(), abilities.table_names.fold(&name.name));
        if let Some(twin) = seen.insert(folded, &source.name) {
            if twin.name == source.name.name {
                return Err(Error::new(
                    ErrorKind::SchemaMismatch,
                    format!(
                        "tables {twin} and {} would be one table at {}, which does not have their schemas; copy them \
                         one by one into databases of their own",
                        source.name,
                        target.label()
                    ),
                ));
            }
            return Err(twins(target, &format!("tables {twin} and {}", source.name), "table"));
        }
    }
    Ok(())
}

/// The same for the columns of a table that is to be made.
fn refuse_twin_columns(target: &dyn Database, table: &Table) -> Result<()> {
    let letters: Letters = target.abilities().column_names;
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for column in &table.columns {
        if let Some(twin) = seen.insert(letters.fold(&column.name), &column.name) {
            let what = format!("columns {twin} and {} of table {}", column.name, table.name);
            return Err(twins(target, &what, "column"));
        }
    }
    Ok(())
}

fn twins(target: &dyn Database, which: &str, what: &str) -> Error {
    let label = target.label();
    Error::new(
        ErrorKind::SchemaMismatch,
        format!("{which} differ only in case and would be one {what} at {label}; leave one of them out or rename it"),
    )
}

/// A name that the target cannot hold is told before anything is made, never cut.
pub(super) fn refuse_names(target: &dyn Database, table: &Table) -> Result<()> {
    let columns = table.columns.iter().map(|c| ("column", c.name.as_str()));
    for (what, name) in std::iter::once(("table", table.name.name.as_str())).chain(columns) {
        let Some(fault) = target.name_fault(name) else { continue };
        let of = if what == "table" { String::new() } else { format!(" of table {}", table.name) };
        let label = target.label();
        return Err(Error::new(
            ErrorKind::SchemaMismatch,
            format!("{what} {name}{of} cannot be made at {label}: {fault}; leave it out or rename it"),
        ));
    }
    refuse_twin_columns(target, table)
}

/// `wanted` without what `have` has already.
pub(super) fn missing_parts(wanted: &Table, have: &Table) -> Table {
    let mut rest = wanted.clone();
    if have.primary_key.is_some() {
        rest.primary_key = None;
    }
    let names = |index: &crate::model::Index| -> (bool, Vec<String>) {
        (index.unique, index.columns.iter().map(|c| c.name.clone()).collect())
    };
    rest.indexes.retain(|i| !have.indexes.iter().any(|h| names(h) == names(i)));
    rest.foreign_keys.retain(|f| !have.foreign_keys.iter().any(|h| h.columns == f.columns && h.parent == f.parent));
    rest
}
