//! Tables and their rows: shared, and copied by whoever writes.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{self, AtomicI64, AtomicU64};

use super::log::Trigger;
use crate::engine::{Error, ErrorKind, Result};
use crate::model::{Cell, Key, LogicalType, Table, TableName, Value, cell_order, render, shorten};

/// All tables at one point.
pub(super) type Tables = BTreeMap<TableName, Arc<Held>>;

/// The table of this name.
pub(super) fn table<'a>(tables: &'a Tables, name: &TableName) -> Result<&'a Arc<Held>> {
    tables.get(name).ok_or_else(|| missing(name))
}

/// There is none.
pub(super) fn missing(name: &TableName) -> Error {
    Error::new(ErrorKind::SchemaMismatch, format!("there is no table {name}"))
}

/// A value at rest, exactly as its cell was.
#[derive(Debug, Clone)]
pub(super) enum Stored {
    /// Of the column's type.
    Own(Value),
    /// Beyond it.
    Escape(Value),
}

impl Stored {
    pub(super) const NULL: Self = Self::Own(Value::Null);

    /// A copy of a cell.
    pub(super) fn new(cell: Cell<'_>) -> Self {
        match cell {
            Cell::Escape(value) => Self::Escape(value.clone()),
            cell => Self::Own(cell.to_value()),
        }
    }

    /// As a batch shows it.
    pub(super) fn cell(&self) -> Cell<'_> {
        match self {
            Self::Own(Value::Null) => Cell::Null,
            Self::Own(Value::Int(v)) => Cell::Int(*v),
            Self::Own(Value::UInt(v)) => Cell::UInt(*v),
            Self::Own(Value::Float(v)) => Cell::Float(*v),
            Self::Own(Value::Bytes(v)) => Cell::Bytes(v),
            Self::Own(value @ (Value::Text(_) | Value::RawText(_))) | Self::Escape(value) => Cell::Escape(value),
        }
    }

    fn is_null(&self) -> bool {
        self.cell() == Cell::Null
    }
}

/// A row: one value for each column of its table.
pub(super) type Row = Arc<Vec<Stored>>;

/// Values of key columns, in the order of [`cell_order`].
#[derive(Clone)]
pub(super) struct KeyValue(Arc<Vec<(LogicalType, Stored)>>);

impl Ord for KeyValue {
    fn cmp(&self, other: &Self) -> Ordering {
        let pairs = self.0.iter().zip(other.0.iter());
        pairs.fold(Ordering::Equal, |order, ((logical, a), (_, b))| {
            order.then_with(|| cell_order(logical, a.cell(), b.cell()))
        })
    }
}

impl PartialOrd for KeyValue {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for KeyValue {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for KeyValue {}

/// A key that no two rows share.
#[derive(Clone)]
struct Unique {
    columns: Vec<usize>,
    rows: BTreeMap<KeyValue, u64>,
}

/// What a table has given out, to whatever transaction: never twice, whether or not that one commits.
#[derive(Default)]
struct Given {
    /// Numbers of rows.
    rows: AtomicU64,
    /// The last number given to a row that came without one.
    numbered: AtomicI64,
}

/// A table with its rows.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) table: Arc<Table>,
    /// Where its writes are noted.
    pub(super) trigger: Option<Trigger>,
    /// By the order in which they came.
    pub(super) rows: BTreeMap<u64, Row>,
    unique: Vec<Unique>,
    given: Arc<Given>,
}

impl Held {
    /// An empty table.
    pub(super) fn new(table: Table) -> Result<Self> {
        let primary = table.primary_key.iter().map(|key| Some(key.columns.clone()));
        let others = table.indexes.iter().filter(|i| i.unique);
        let others = others.map(|i| i.columns.iter().map(|c| table.column(&c.name)).collect());
        let keys: Option<Vec<Vec<usize>>> = primary.chain(others).collect();
        let keys = keys.filter(|k| k.iter().flatten().all(|&c| c < table.columns.len())).ok_or_else(|| {
            Error::new(
                ErrorKind::SchemaMismatch,
                format!("a key of {} names a column that it does not have", table.name),
            )
        })?;
        let unique = keys.into_iter().map(|columns| Unique { columns, rows: BTreeMap::new() }).collect();
        Ok(Self { table: Arc::new(table), trigger: None, rows: BTreeMap::new(), unique, given: Arc::default() })
    }

    /// The same without its rows.
    pub(super) fn emptied(&self) -> Self {
        let unique = self.unique.iter().map(|u| Unique { columns: u.columns.clone(), rows: BTreeMap::new() });
        Self { rows: BTreeMap::new(), unique: unique.collect(), ..self.clone() }
    }

    /// A number for a row that comes.
    pub(super) fn next_row(&self) -> u64 {
        self.given.rows.fetch_add(1, atomic::Ordering::Relaxed)
    }

    /// A value for a column that numbers itself.
    pub(super) fn next_number(&self) -> i64 {
        self.given.numbered.fetch_add(1, atomic::Ordering::Relaxed) + 1
    }

    /// Whatever numbers itself goes on above the highest number in this column.
    pub(super) fn number_above(&self, column: usize) {
        self.given.numbered.fetch_max(self.highest(column), atomic::Ordering::Relaxed);
    }

    /// Gives out numbers above this one from now on.
    pub(super) fn number_past(&self, number: i64) {
        self.given.numbered.fetch_max(number, atomic::Ordering::Relaxed);
    }

    /// Position of a column.
    pub(super) fn position(&self, name: &str) -> Result<usize> {
        self.table.column(name).ok_or_else(|| {
            Error::new(ErrorKind::SchemaMismatch, format!("table {} has no column {name}", self.table.name))
        })
    }

    /// Puts a row under a number, in place of what stood there.
    pub(super) fn put(&mut self, number: u64, row: Row) -> Result<()> {
        self.check(&row, number)?;
        self.remove(number);
        self.place(number, row);
        Ok(())
    }

    /// Takes a row out.
    pub(super) fn remove(&mut self, number: u64) {
        let Some(row) = self.rows.remove(&number) else { return };
        for unique in &mut self.unique {
            if let Some(value) = key_value(&self.table, &unique.columns, &row) {
                unique.rows.remove(&value);
            }
        }
    }

    /// As [`Self::put`], where nothing can forbid it.
    pub(super) fn place(&mut self, number: u64, row: Row) {
        for unique in &mut self.unique {
            if let Some(value) = key_value(&self.table, &unique.columns, &row) {
                unique.rows.insert(value, number);
            }
        }
        self.rows.insert(number, row);
    }

    /// What a row has in each unique key, told apart by the key's place; without those that hold a NULL.
    pub(super) fn key_values(&self, row: &Row) -> impl Iterator<Item = (usize, KeyValue)> {
        let values = self.unique.iter().map(|unique| key_value(&self.table, &unique.columns, row));
        values.enumerate().filter_map(|(at, value)| Some((at, value?))).collect::<Vec<_>>().into_iter()
    }

    /// Whether nothing forbids this row in place of `old`.
    fn check(&self, row: &Row, old: u64) -> Result<()> {
        let refused = |why: String| Err(Error::new(ErrorKind::Constraint, format!("table {}: {why}", self.table.name)));
        if let Some((column, _)) = self.table.columns.iter().zip(row.iter()).find(|(c, v)| !c.nullable && v.is_null()) {
            return refused(format!("{} must not be NULL", column.name));
        }
        for unique in &self.unique {
            let Some(value) = key_value(&self.table, &unique.columns, row) else { continue };
            if unique.rows.get(&value).is_some_and(|there| *there != old) {
                let parts = unique.columns.iter().map(|&c| {
                    let column = &self.table.columns[c];
                    let text = render(&column.logical, row[c].cell()).unwrap_or_default();
                    format!("{} = {}", column.name, shorten(&text))
                });
                return refused(format!("there is a row with {} already", parts.collect::<Vec<_>>().join(", ")));
            }
        }
        Ok(())
    }

    /// The first row with these values (each with its column), NULL being equal to NULL.
    pub(super) fn find(&self, wanted: &[(usize, Stored)]) -> Option<u64> {
        let columns: Vec<usize> = wanted.iter().map(|(column, _)| *column).collect();
        let logical = |column: usize| &self.table.columns[column].logical;
        if let Some(unique) = self.unique.iter().find(|u| u.columns == columns)
            && !wanted.iter().any(|(_, value)| value.is_null())
        {
            let value = wanted.iter().map(|(c, value)| (logical(*c).clone(), value.clone())).collect();
            return unique.rows.get(&KeyValue(Arc::new(value))).copied();
        }
        let equal = |row: &Row| {
            wanted.iter().all(|(c, value)| cell_order(logical(*c), row[*c].cell(), value.cell()) == Ordering::Equal)
        };
        self.rows.iter().find(|(_, row)| equal(row)).map(|(number, _)| *number)
    }

    /// All rows with these values, NULL being equal to NULL.
    pub(super) fn find_all(&self, wanted: &[(usize, Stored)]) -> Vec<u64> {
        let columns: Vec<usize> = wanted.iter().map(|(column, _)| *column).collect();
        if self.unique.iter().any(|u| u.columns == columns) && !wanted.iter().any(|(_, value)| value.is_null()) {
            return self.find(wanted).into_iter().collect();
        }
        let logical = |column: usize| &self.table.columns[column].logical;
        let equal = |row: &Row| {
            wanted.iter().all(|(c, value)| cell_order(logical(*c), row[*c].cell(), value.cell()) == Ordering::Equal)
        };
        self.rows.iter().filter(|(_, row)| equal(row)).map(|(number, _)| *number).collect()
    }

    /// Order of two rows by these columns.
    pub(super) fn order(&self, key: &Key, a: &Row, b: &Row) -> Ordering {
        key.columns.iter().fold(Ordering::Equal, |order, &c| {
            order.then_with(|| cell_order(&self.table.columns[c].logical, a[c].cell(), b[c].cell()))
        })
    }

    /// The highest whole number in a column.
    fn highest(&self, column: usize) -> i64 {
        let number = |row: &Row| match row[column].cell() {
            Cell::Int(v) => Some(v),
            Cell::UInt(v) => Some(i64::try_from(v).unwrap_or(i64::MAX)),
            _ => None,
        };
        self.rows.values().filter_map(number).max().unwrap_or(0)
    }
}

/// The key of a row; `None` where a part is NULL, which is equal to nothing.
fn key_value(table: &Table, columns: &[usize], row: &Row) -> Option<KeyValue> {
    let parts =
        columns.iter().map(|&c| (!row[c].is_null()).then(|| (table.columns[c].logical.clone(), row[c].clone())));
    parts.collect::<Option<Vec<_>>>().map(|parts| KeyValue(Arc::new(parts)))
}
