//! Single rows by key, and bookkeeping in its order.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;

use super::source::refuse_filter;
use super::store::{Row, Stored};
use super::target::Writer;
use super::transaction::{Turn, free};
use crate::engine::{Looked, Lookup, Result, RowLock};
use crate::model::{Batch, Cell, Column, Table};

#[async_trait]
impl Lookup for Writer {
    async fn lookup(&mut self, wanted: &Arc<Table>, keys: &Batch, lock: RowLock) -> Result<Batch> {
        let (mut key, mut found) = (0, Vec::new());
        self.within(|others, own| {
            let name = &wanted.name;
            let held = own.view(others.committed, name)?;
            let columns = keys.table.columns.iter().map(|c| held.position(&c.name)).collect::<Result<Vec<usize>>>()?;
            while key < keys.rows() {
                let values: Vec<(usize, Stored)> =
                    columns.iter().enumerate().map(|(at, &c)| (c, Stored::new(keys.cell(key, at)))).collect();
                let mut numbers = held.find_all(&values);
                match lock {
                    RowLock::None => {}
                    RowLock::Wait => free!(numbers.iter().find_map(|number| others.of_row(name, *number))),
                    RowLock::SkipHeld | RowLock::Keep => {
                        numbers.retain(|number| others.of_row(name, *number).is_none());
                    }
                }
                found.extend(numbers.iter().map(|number| held.rows[number].clone()));
                if lock != RowLock::None {
                    let part = own.part(others.committed, name);
                    part.hold(&numbers);
                }
                key += 1;
            }
            shown(wanted, |name| held.position(name), &found).map(Turn::Done)
        })
        .await
    }

    async fn lookup_where(&mut self, wanted: &Arc<Table>, _: &Batch, condition: &str) -> Result<Batch> {
        refuse_filter(wanted, Some(condition))?;
        Ok(Batch::new(wanted.clone(), vec![Column::default(); wanted.columns.len()]))
    }

    async fn count(&mut self, wanted: &Arc<Table>, keys: &Batch) -> Result<u64> {
        Ok(self.lookup(wanted, keys, RowLock::None).await?.rows() as u64)
    }

    async fn scan(&mut self, wanted: &Arc<Table>, above: Option<(usize, i64)>, limit: usize) -> Result<Batch> {
        self.within(|others, own| {
            let held = own.view(others.committed, &wanted.name)?;
            let mut rows: Vec<Row> = held.rows.values().cloned().collect();
            if let Some((column, bound)) = above {
                let column = held.position(&wanted.columns[column].name)?;
                rows.retain(|row| number(row, column) > bound);
                rows.sort_by_key(|row| number(row, column));
            }
            rows.truncate(limit);
            shown(wanted, |name| held.position(name), &rows).map(Turn::Done)
        })
        .await
    }

    async fn holding(&mut self, tables: &[Looked]) -> Result<Vec<bool>> {
        self.alone(|others, own| {
            let mut holding = Vec::with_capacity(tables.len());
            for Looked { table, above } in tables {
                let held = own.view(others.committed, &table.name)?;
                let holds = match above {
                    None => !held.rows.is_empty(),
                    Some((column, bound)) => {
                        let column = held.position(&table.columns[*column].name)?;
                        held.rows.values().any(|row| number(row, column) > *bound)
                    }
                };
                holding.push(holds);
            }
            Ok(Turn::Done(holding))
        })
        .await
    }

    async fn now(&mut self) -> Result<i64> {
        Ok(self.store.now.load(Ordering::Relaxed))
    }
}

/// What stands in a whole-number column.
fn number(row: &Row, column: usize) -> i64 {
    match row[column].cell() {
        Cell::Int(number) => number,
        _ => i64::MIN,
    }
}

/// Rows as a batch of the columns that are wanted.
fn shown(wanted: &Arc<Table>, position: impl Fn(&str) -> Result<usize>, rows: &[Row]) -> Result<Batch> {
    let mut columns = Vec::with_capacity(wanted.columns.len());
    for column in &wanted.columns {
        let at = position(&column.name)?;
        let mut out = Column::default();
        for row in rows {
            out.push_cell(row[at].cell());
        }
        columns.push(out);
    }
    Ok(Batch::new(wanted.clone(), columns))
}
