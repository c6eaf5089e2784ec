//! Which column and which key of one table is which of the other's.

use std::collections::BTreeSet;

use super::select::nearest;
use crate::engine::{Error, ErrorKind, Result};
use crate::model::{Column, ColumnDef, Index, Key, LogicalType, Table, convertible};

/// Two tables as they are compared: each with the columns of the first, in one order, and with the key that rows of
/// both are told apart by.
///
/// # Errors
/// `SchemaMismatch` for a column that the second lacks, or that holds something else there; `target` is what people call
/// the database of the second.
pub fn paired(target: &str, first: &Table, second: &Table) -> Result<(Table, Table, Option<Key>)> {
    let pairs = pair_columns(target, first, second, (&[], &mut Vec::new()))?;
    let (from, to): (Vec<usize>, Vec<usize>) = pairs.into_iter().unzip();
    let (mut first, mut second) = (first.project(&from), second.project(&to));
    let key = agree_on_key(&mut first, &mut second);
    Ok((first, second, key))
}

/// Leaves both tables the one key that rows of both are told apart by, or none.
#[must_use]
pub fn agree_on_key(source: &mut Table, target: &mut Table) -> Option<Key> {
    let key = common_key(source, target);
    for table in [source, target] {
        table.primary_key.clone_from(&key);
        if key.is_none() {
            table.indexes.retain(|i| !i.unique);
        }
        for &column in key.iter().flat_map(|k| &k.columns) {
            table.columns[column].nullable = false;
        }
    }
    key
}

/// Columns that both tables have, as positions; a column that only the source has is an error, unless it may wait.
pub(super) fn pair_columns(
    target: &str,
    source: &Table,
    have: &Table,
    (may_wait, notes): (&[bool], &mut Vec<String>),
) -> Result<Vec<(usize, usize)>> {
    let known: Vec<&str> = have.columns.iter().map(|c| c.name.as_str()).collect();
    let mut pairs: Vec<(usize, usize)> = Vec::new();
    for (at, column) in source.columns.iter().enumerate() {
        let found = have
            .column(&column.name)
            .or_else(|| have.columns.iter().position(|c| c.name.eq_ignore_ascii_case(&column.name)));
        let Some(there) = found else {
            if column.generated {
                notes
                    .push(format!("{} is computed at the source and not at the target; it is not copied", column.name));
                continue;
            }
            if may_wait.get(at) == Some(&true) {
                notes.push(format!("column {} is left out until {target} has it too", column.name));
                continue;
            }
            return Err(Error::new(
                ErrorKind::SchemaMismatch,
                format!(
                    "{} of {} has no column '{}', which the source has{}; add it, or leave the column out",
                    have.name,
                    target,
                    column.name,
                    nearest(&column.name, &known)
                ),
            ));
        };
        let other = &have.columns[there];
        if let Some(&(twin, _)) = pairs.iter().find(|&&(_, taken)| taken == there) {
            return Err(Error::new(
                ErrorKind::SchemaMismatch,
                format!(
                    "columns {} and {} of table {} are one column at {}, {}; leave one of them out or rename it",
                    source.columns[twin].name, column.name, source.name, target, other.name
                ),
            ));
        }
        if !convertible(&column.logical, &other.logical) {
            return Err(Error::new(
                ErrorKind::SchemaMismatch,
                format!(
                    "{}.{} is {} at the source and {} at the target; no value of the one can stand in the other",
                    source.name, column.name, column.logical, other.logical
                ),
            ));
        }
        pairs.push((at, there));
    }
    Ok(pairs)
}

/// Other columns than a key by which rows of two tables are matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matched {
    /// Their places among the columns that are sent.
    pub key: Vec<usize>,
    /// The places of the target's own key in the whole table there.
    pub own: Vec<usize>,
}

/// Matches rows by these columns of the source. What the target itself puts into the rest of its key stays its own.
pub(super) fn match_by(
    target: &str,
    columns: &[String],
    source: &Table,
    have: &Table,
    pairs: &mut Vec<(usize, usize)>,
    notes: &mut Vec<String>,
) -> Result<Matched> {
    let known: Vec<&str> = source.columns.iter().map(|c| c.name.as_str()).collect();
    let at = |name: &String| {
        source.column(name).ok_or_else(|| {
            let hint = nearest(name, &known);
            let sentence = format!("{} has no column '{name}' to match rows by, or it is left out{hint}", source.name);
            Error::new(ErrorKind::SchemaMismatch, sentence)
        })
    };
    let wanted = columns.iter().map(at).collect::<Result<Vec<usize>>>()?;
    let own = have.row_key().ok_or_else(|| {
        Error::new(
            ErrorKind::SchemaMismatch,
            format!(
                "{} of {target} has no key that is never NULL, by which a row that matches could be changed; give it a \
                 primary key",
                have.name
            ),
        )
    })?;
    pairs.retain(|(from, there)| {
        let column = &have.columns[*there];
        let gives = column.identity.is_some() || column.default.is_some();
        let kept = wanted.contains(from) || !own.columns.contains(there) || !gives;
        if !kept {
            notes.push(format!("{} stays the target's own: rows are matched by {}", column.name, columns.join(", ")));
        }
        kept
    });
    let place = |at: &usize| pairs.iter().position(|(from, _)| from == at);
    Ok(Matched { key: wanted.iter().filter_map(place).collect(), own: own.columns })
}

/// Refuses a target whose new rows would lack a value.
pub(super) fn refuse_lacking(have: &Table, pairs: &[(usize, usize)], filled: &[(ColumnDef, Column)]) -> Result<()> {
    for (there, column) in have.columns.iter().enumerate() {
        let given = pairs.iter().any(|&(_, t)| t == there) || filled.iter().any(|(f, _)| f.name == column.name);
        if !given && !column.nullable && column.default.is_none() && column.identity.is_none() && !column.generated {
            return Err(Error::new(
                ErrorKind::SchemaMismatch,
                format!(
                    "{}.{} at the target must not be NULL and has no default, and the source has no such column; give it a \
                     default, or in a sync a value under fill",
                    have.name, column.name
                ),
            ));
        }
    }
    Ok(())
}

/// The key of both tables: the target's, where the source has one of the same columns and both
/// order its values alike. The source's may hold NULL: such rows are put aside, as they cannot
/// stand in the target's.
fn common_key(source: &Table, target: &Table) -> Option<Key> {
    let set = |k: &Key| -> BTreeSet<usize> { k.columns.iter().copied().collect() };
    let b = target.row_key()?;
    let key = match source.row_key() {
        Some(a) if set(&a) == set(&b) => a,
        _ => {
            let unique = source.indexes.iter().filter(|i| i.unique && i.native.is_none());
            let columns = |i: &Index| i.columns.iter().map(|c| source.column(&c.name)).collect::<Option<BTreeSet<_>>>();
            let known = source.primary_key.as_ref().is_some_and(|k| set(k) == set(&b))
                || unique.map(columns).any(|columns| columns == Some(set(&b)));
            known.then_some(b)?
        }
    };
    let alike = key.columns.iter().all(|&c| class(&source.columns[c].logical) == class(&target.columns[c].logical));
    alike.then_some(key)
}

/// Types whose canonical orders agree have one class.
fn class(logical: &LogicalType) -> u8 {
    match logical {
        LogicalType::Bool | LogicalType::Int { .. } | LogicalType::Decimal { .. } => 1,
        LogicalType::Float { .. } => 2,
        LogicalType::Date => 3,
        LogicalType::Timestamp { .. } => 4,
        LogicalType::Time { .. } | LogicalType::Duration { .. } => 5,
        LogicalType::Any => 6,
        // A uuid's text is lower-case hexadecimal, ordered like its bytes; its bytes may be binary.
        LogicalType::Binary { .. } => 8,
        _ => 7,
    }
}
