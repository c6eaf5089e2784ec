//! Single rows by key, and bookkeeping in its order.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;

use super::store::{Row, Stored, table};
use super::target::Writer;
use crate::engine::{Lookup, Result, RowLock};
use crate::model::{Batch, Cell, Column, Table};

#[async_trait]
impl Lookup for Writer {
    /// One transaction writes at a time, so that no row is ever held by another.
    async fn lookup(&mut self, wanted: &Arc<Table>, keys: &Batch, _lock: RowLock) -> Result<Batch> {
        self.within(|transaction| {
            let held = table(&transaction.tables, &wanted.name)?;
            let columns = keys.table.columns.iter().map(|c| held.position(&c.name)).collect::<Result<Vec<usize>>>()?;
            let mut found = Vec::new();
            for row in 0..keys.rows() {
                let values: Vec<(usize, Stored)> =
                    columns.iter().enumerate().map(|(at, &c)| (c, Stored::new(keys.cell(row, at)))).collect();
                found.extend(held.find_all(&values));
            }
            shown(wanted, |name| held.position(name), &found)
        })
    }

    async fn scan(&mut self, wanted: &Arc<Table>, above: Option<(usize, i64)>, limit: usize) -> Result<Batch> {
        self.within(|transaction| {
            let held = table(&transaction.tables, &wanted.name)?;
            let mut rows: Vec<Row> = held.rows.values().cloned().collect();
            if let Some((column, bound)) = above {
                let column = held.position(&wanted.columns[column].name)?;
                let number = |row: &Row| match row[column].cell() {
                    Cell::Int(number) => number,
                    _ => i64::MIN,
                };
                rows.retain(|row| number(row) > bound);
                rows.sort_by_key(number);
            }
            rows.truncate(limit);
            shown(wanted, |name| held.position(name), &rows)
        })
    }

    async fn now(&mut self) -> Result<i64> {
        Ok(self.store.now.load(Ordering::Relaxed))
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
