//! Which columns of a table take part, and what they are called at the target.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::PlanOptions;
use super::select::{choose_columns, nearest};
use crate::engine::{Database, Error, ErrorKind, Result};
use crate::model::{Column, ColumnDef, ForeignKey, LogicalType, Table, parse};

/// The columns of a table that take part.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ColumnChoice {
    /// Only these.
    pub only: Option<Vec<String>>,
    /// Not these.
    pub exclude: Vec<String>,
    /// Name at the target, by name at the source, where they differ.
    pub rename: BTreeMap<String, String>,
    /// What new rows get in columns of the target that the source does not send.
    pub fill: BTreeMap<String, Value>,
}

impl ColumnChoice {
    /// The same choice for rows that go the other way.
    #[must_use]
    pub fn reversed(self) -> Self {
        let there = |name: String| self.rename.get(&name).cloned().unwrap_or(name);
        Self {
            only: self.only.map(|names| names.into_iter().map(there).collect()),
            exclude: self.exclude.into_iter().map(there).collect(),
            rename: self.rename.iter().map(|(from, to)| (to.clone(), from.clone())).collect(),
            fill: self.fill,
        }
    }
}

/// A table without the column that says which of its rows were deleted, where the target's has none of that name.
///
/// # Errors
/// `SchemaMismatch` for a name that is no column, or one that is always set.
pub(super) fn unsent(table: Table, existing: Option<&Table>, options: &PlanOptions) -> Result<Table> {
    let name = table.name.to_string();
    let Some(column) = options.soft_deletes.get(&name) else { return Ok(table) };
    let known: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
    let Some(at) = table.column(column) else {
        let sentence = format!("{name} has no column '{column}', which soft_delete names{}", nearest(column, &known));
        return Err(Error::new(ErrorKind::SchemaMismatch, sentence));
    };
    let ColumnDef { nullable, logical, .. } = &table.columns[at];
    if !nullable && !matches!(logical, LogicalType::Bool | LogicalType::Int { .. }) {
        let sentence = format!(
            "{name}.{column} is never NULL, so that each row would count as deleted; soft_delete names a column that is set \
             when a row is deleted"
        );
        return Err(Error::new(ErrorKind::SchemaMismatch, sentence));
    }
    let choice = options.columns.get(&name);
    let there = choice.and_then(|choice| choice.rename.get(column)).unwrap_or(column);
    let named = choice.is_some_and(|c| c.only.is_some() || c.exclude.contains(column) || c.rename.contains_key(column));
    let lacks = |have: &Table| !have.columns.iter().any(|c| c.name.eq_ignore_ascii_case(there));
    if named || !existing.is_some_and(lacks) {
        return Ok(table);
    }
    Ok(table.project(&(0..table.columns.len()).filter(|other| *other != at).collect::<Vec<_>>()))
}

/// A table with the columns that take part.
pub(super) struct Chosen {
    /// As it is read.
    pub table: Table,
    /// The same columns as the target calls them, then those that it fills.
    pub there: Table,
    /// What it fills them with, in that order.
    pub fill: Vec<Value>,
    /// How many of the filled columns the source has too, and keeps to itself.
    own: Vec<bool>,
    /// Names of columns that the choice names one by one.
    named: Vec<String>,
}

impl Chosen {
    /// What these choices make of a table.
    ///
    /// # Errors
    /// `SchemaMismatch` for a name that is no column, `Usage` for one that is said twice.
    pub(super) fn new(whole: Table, choices: &BTreeMap<String, ColumnChoice>) -> Result<Self> {
        let Some(choice) = choices.get(&whole.name.to_string()) else {
            let there = renamed(&whole, choices);
            return Ok(Self { there, table: whole, fill: Vec::new(), own: Vec::new(), named: Vec::new() });
        };
        let table = choose_columns(&whole, choice)?;
        let known: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
        if let Some(name) = choice.rename.keys().find(|name| table.column(name).is_none()) {
            let sentence =
                format!("{} has no column '{name}' to rename, or it is left out{}", table.name, nearest(name, &known));
            return Err(Error::new(ErrorKind::SchemaMismatch, sentence));
        }
        let mut there = renamed(&table, choices);
        for (at, column) in there.columns.iter().enumerate() {
            if there.columns[..at].iter().any(|other| other.name == column.name) {
                let sentence = format!("two columns of {} would be {} at the target", table.name, column.name);
                return Err(Error::new(ErrorKind::Usage, sentence));
            }
        }
        let (mut fill, mut own) = (Vec::new(), Vec::new());
        let source = renamed(&whole, choices);
        for (name, value) in &choice.fill {
            if there.column(name).is_some() {
                let sentence = format!("column {name} of {} is sent and filled; leave it out, or fill", table.name);
                return Err(Error::new(ErrorKind::Usage, sentence));
            }
            let kept = source.column(name).map(|at| &source.columns[at]).filter(|column| !column.generated);
            own.push(kept.is_some());
            let made = ColumnDef::new(name, type_of(value));
            there.columns.push(kept.map_or(made, |column| ColumnDef {
                default: None,
                identity: None,
                dialect: None,
                ..column.clone()
            }));
            fill.push(value.clone());
        }
        let named = choice.only.iter().flatten().chain(choice.rename.keys()).cloned().collect();
        Ok(Self { table, there, fill, own, named })
    }

    /// For each column that is read whether it may be left out until the target has it.
    pub(super) fn may_wait(&self, lasting: bool) -> Vec<bool> {
        let columns = self.table.columns.iter();
        columns.map(|column| lasting && column.nullable && !self.named.contains(&column.name)).collect()
    }

    /// The filled columns as the target has them, each with its value.
    pub(super) fn filled(&self, target: &dyn Database, have: &Table) -> Result<Vec<(ColumnDef, Column)>> {
        let sent = self.table.columns.len();
        let mut filled = Vec::new();
        for ((column, value), own) in self.there.columns[sent..].iter().zip(&self.fill).zip(&self.own) {
            let Some(at) = have.column(&column.name) else {
                // It may be meant for the way back.
                if *own {
                    continue;
                }
                let known: Vec<&str> = have.columns.iter().map(|c| c.name.as_str()).collect();
                let hint = nearest(&column.name, &known);
                let sentence =
                    format!("{} of {} has no column '{}' to fill{hint}", have.name, target.label(), column.name);
                return Err(Error::new(ErrorKind::SchemaMismatch, sentence));
            };
            let column = &have.columns[at];
            let cell = cell(target, column, value).map_err(|why| {
                let sentence = format!("{}.{} cannot be filled with {value}: {why}", have.name, column.name);
                Error::new(ErrorKind::Usage, sentence)
            })?;
            filled.push((column.clone(), cell));
        }
        Ok(filled)
    }
}

/// One value of a column.
fn cell(target: &dyn Database, column: &ColumnDef, value: &Value) -> std::result::Result<Column, String> {
    let mut cell = Column::default();
    match value {
        Value::Null if column.nullable => cell.push_null(),
        Value::Null => return Err("it must not be NULL".to_owned()),
        Value::String(text) => parse(&column.logical, text, &mut cell)?,
        other => parse(&column.logical, &other.to_string(), &mut cell)?,
    }
    match target.misfits(column, &cell).pop() {
        Some((_, why)) => Err(why),
        None => Ok(cell),
    }
}

/// The type of a column that is made for a value alone.
fn type_of(value: &Value) -> LogicalType {
    match value {
        Value::Bool(_) => LogicalType::Bool,
        Value::Number(number) if number.is_i64() => LogicalType::Int { bits: 64, unsigned: false },
        Value::Number(_) => LogicalType::Decimal { precision: Some(38), scale: Some(10) },
        _ => LogicalType::Text { max: None, fixed: false },
    }
}

/// The table under the names that its columns and those of its parents have at the target. What only the source's own
/// words say of renamed columns is left out.
fn renamed(table: &Table, choices: &BTreeMap<String, ColumnChoice>) -> Table {
    let names = |of: &str| choices.get(of).map(|choice| &choice.rename).filter(|names| !names.is_empty());
    let rename = |names: Option<&BTreeMap<String, String>>, name: &mut String| {
        if let Some(new) = names.and_then(|names| names.get(name)) {
            name.clone_from(new);
        }
    };
    let mut table = table.clone();
    for key in &mut table.foreign_keys {
        let parent = names(&key.parent.to_string());
        key.parent_columns.iter_mut().for_each(|name| rename(parent, name));
    }
    let own = names(&table.name.to_string());
    if own.is_none() {
        return table;
    }
    table.foreign_keys.iter_mut().flat_map(|key| &mut key.columns).for_each(|name| rename(own, name));
    table.indexes.iter_mut().flat_map(|index| &mut index.columns).for_each(|column| rename(own, &mut column.name));
    let dialect = &mut table.dialect;
    dialect.left_out.extend(dialect.constraints.drain(..).map(|c| format!("{c}, as columns are renamed")));
    let keys = table.foreign_keys.iter_mut().filter_map(ForeignKey::give_up_native);
    dialect.left_out.extend(keys.map(|words| format!("{words}, as columns are renamed")));
    table.indexes.retain(|index| {
        if index.native.is_some() {
            dialect.left_out.push(format!("index {}, as columns are renamed", index.name));
        }
        index.native.is_none()
    });
    for column in &mut table.columns {
        rename(own, &mut column.name);
        if column.generated {
            column.dialect = None;
        }
    }
    table
}
