//! Where the tables are, at the target, that foreign keys refer to.

use std::collections::BTreeMap;

use crate::engine::{Database, ErrorKind, Result};
use crate::model::{Table, TableName};

/// A table's name at the target, by the name that foreign keys of the source call it by; what is missing here is not
/// at the target and will not be.
pub(super) type Parents = BTreeMap<TableName, TableName>;

/// Looks up the parents of these tables, each with its name at the target: among themselves, then at the target.
pub(super) async fn parents(
    source: &dyn Database,
    target: &dyn Database,
    tables: &[(Table, TableName)],
) -> Result<Parents> {
    let letters = source.abilities().table_names;
    let folded = |name: &TableName| (name.schema.clone(), letters.fold(&name.name));
    let planned: BTreeMap<_, &TableName> = tables.iter().map(|(table, name)| (folded(&table.name), name)).collect();
    let mut parents = Parents::new();
    for key in tables.iter().flat_map(|(table, _)| &table.foreign_keys) {
        if parents.contains_key(&key.parent) {
            continue;
        }
        if let Some(&name) = planned.get(&folded(&key.parent)) {
            parents.insert(key.parent.clone(), name.clone());
        } else if is_there(target, &key.parent).await? {
            parents.insert(key.parent.clone(), key.parent.clone());
        }
    }
    Ok(parents)
}

async fn is_there(target: &dyn Database, name: &TableName) -> Result<bool> {
    if target.name_fault(&name.name).is_some() {
        return Ok(false);
    }
    match target.describe(name).await {
        // Some engines say so of a schema that they do not have.
        Err(e) if e.kind == ErrorKind::SchemaMismatch => Ok(false),
        found => Ok(found?.is_some()),
    }
}
