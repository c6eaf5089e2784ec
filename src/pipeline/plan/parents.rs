//! What foreign keys meet at the target: where the tables are that they refer to, and which names are free.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::{Database, ErrorKind, Letters, Result};
use crate::model::{Table, TableName};

/// What is known of the target's side.
pub(super) struct Parents {
    /// A table's name at the target, by the name that foreign keys of the source call it by; what is missing here is
    /// not at the target and will not be.
    names: BTreeMap<TableName, TableName>,
    /// Names of foreign keys that are taken, where that matters.
    taken: Option<BTreeSet<String>>,
}

impl Parents {
    /// Where a parent is.
    pub(super) fn get(&self, parent: &TableName) -> Option<&TableName> {
        self.names.get(parent)
    }

    /// The name that the `n`th foreign key of `table` gets: its own while it is free, else with the table's before it.
    pub(super) fn key_name(&mut self, table: &str, n: usize, own: &str) -> String {
        // Named by place, so that what an interrupted run left over keeps its name.
        let own = if own.is_empty() { format!("{table}_fk{n}") } else { own.to_owned() };
        let Some(taken) = &mut self.taken else { return own };
        let longer = [own.clone(), format!("{table}_{own}")].into_iter();
        let numbered = (2..).map(|again| format!("{table}_{own}_{again}"));
        let mut free = longer.chain(numbered).filter(|name| taken.insert(name.to_lowercase()));
        free.next().unwrap_or(own)
    }
}

/// Looks up the parents of these tables, each with its name at the target: among themselves, by what counts as one name
/// there, then at the target.
pub(super) async fn parents(letters: Letters, target: &dyn Database, tables: &[(Table, TableName)]) -> Result<Parents> {
    let folded = |name: &TableName| (name.schema.clone(), letters.fold(&name.name));
    let planned: BTreeMap<_, &TableName> = tables.iter().map(|(table, name)| (folded(&table.name), name)).collect();
    let mut parents = BTreeMap::new();
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
    Ok(Parents { names: parents, taken: target.foreign_key_names().await? })
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
