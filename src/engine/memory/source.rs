//! Reading: at a list of tables that nobody changes any more.

use std::cmp::Ordering;
use std::sync::Arc;

use async_trait::async_trait;

use super::store::{Held, Row, Stored, Tables, table};
use crate::engine::{BatchStream, Error, ErrorKind, ReadRequest, Result, Selection, Snapshot, Source, no_stretch};
use crate::model::{Batch, BatchBuilder, Cell, Key, LogicalType, Table, Value, cell_order};

/// The tables as they stood.
pub(super) struct Point(pub(super) Arc<Tables>);

#[async_trait]
impl Snapshot for Point {
    async fn source(&self) -> Result<Box<dyn Source>> {
        Ok(Box::new(Reader(self.0.clone())))
    }
}

struct Reader(Arc<Tables>);

pub(super) fn refuse_filter(table: &Table, filter: Option<&str>) -> Result<()> {
    match filter {
        None => Ok(()),
        Some(filter) => Err(Error::new(
            ErrorKind::Unsupported,
            format!("a database in memory has no SQL, so that {} cannot be read where {filter}", table.name),
        )),
    }
}

/// What a request says, in positions of the table at rest.
struct Plan {
    held: Arc<Held>,
    columns: Vec<usize>,
    key: Key,
}

fn plan(tables: &Tables, request: &ReadRequest) -> Result<Plan> {
    let wanted = &request.table;
    refuse_filter(wanted, request.filter.as_deref())?;
    let held = table(tables, &wanted.name)?.clone();
    let columns = wanted.columns.iter().map(|c| held.position(&c.name)).collect::<Result<Vec<usize>>>()?;
    let key = match wanted.row_key() {
        Some(key) => Key { columns: key.columns.iter().map(|&c| columns[c]).collect() },
        None if request.ordered || request.rows != Selection::All => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("table {} has no key to read it in order by", wanted.name),
            ));
        }
        None => Key { columns: Vec::new() },
    };
    Ok(Plan { held, columns, key })
}

/// A key value as a cell: outside a column of any type, bounds hold what carriers hold.
fn bound_cell<'a>(logical: &LogicalType, value: &'a Value) -> Cell<'a> {
    match (logical, value) {
        (_, Value::Null) => Cell::Null,
        (LogicalType::Any, value) => Cell::Escape(value),
        (_, Value::Text(text)) => Cell::Bytes(text.as_bytes()),
        (_, Value::Int(v)) => Cell::Int(*v),
        (_, Value::UInt(v)) => Cell::UInt(*v),
        (_, Value::Float(v)) => Cell::Float(*v),
        (_, Value::Bytes(v)) => Cell::Bytes(v),
        (_, value @ Value::RawText(_)) => Cell::Escape(value),
    }
}

impl Plan {
    fn order_to(&self, row: &Row, bound: &[Value]) -> Ordering {
        self.key.columns.iter().zip(bound).fold(Ordering::Equal, |order, (&c, value)| {
            let logical = &self.held.table.columns[c].logical;
            order.then_with(|| cell_order(logical, row[c].cell(), bound_cell(logical, value)))
        })
    }

    /// The rows of the request in its order.
    fn rows(&self, request: &ReadRequest) -> Result<Vec<Row>> {
        if let Selection::Stretch { .. } = request.rows {
            return Err(no_stretch(&self.held.table));
        }
        let mut rows: Vec<Row> = self.held.rows.values().cloned().collect();
        if let Selection::Range { after, upto } = &request.rows {
            for bound in [after, upto].into_iter().flatten() {
                if bound.len() != self.key.columns.len() {
                    let name = &self.held.table.name;
                    return Err(Error::new(ErrorKind::Protocol, format!("a bound of {name} does not fit its key")));
                }
            }
            rows.retain(|row| {
                after.as_ref().is_none_or(|bound| self.order_to(row, bound) == Ordering::Greater)
                    && upto.as_ref().is_none_or(|bound| self.order_to(row, bound) != Ordering::Greater)
            });
        }
        if request.ordered {
            rows.sort_by(|a, b| self.held.order(&self.key, a, b));
        }
        Ok(rows)
    }
}

#[async_trait]
impl Source for Reader {
    async fn count(&mut self, wanted: &Table, filter: Option<&str>) -> Result<u64> {
        refuse_filter(wanted, filter)?;
        Ok(table(&self.0, &wanted.name)?.rows.len() as u64)
    }

    async fn check(&mut self, request: &ReadRequest) -> Result<()> {
        plan(&self.0, request).map(drop)
    }

    async fn read<'a>(&'a mut self, request: &ReadRequest) -> Result<Box<dyn BatchStream + 'a>> {
        let plan = plan(&self.0, request)?;
        let left = plan.rows(request)?.into_iter();
        Ok(Box::new(Rows {
            left,
            columns: plan.columns,
            builder: BatchBuilder::new(request.table.clone(), request.limits),
        }))
    }
}

struct Rows {
    left: std::vec::IntoIter<Row>,
    columns: Vec<usize>,
    builder: BatchBuilder,
}

#[async_trait]
impl BatchStream for Rows {
    async fn next(&mut self) -> Result<Option<Batch>> {
        for row in self.left.by_ref() {
            for (out, &column) in self.builder.columns.iter_mut().zip(&self.columns) {
                out.push_cell(Stored::cell(&row[column]));
            }
            if self.builder.end_row() {
                break;
            }
        }
        Ok(self.builder.take())
    }
}
