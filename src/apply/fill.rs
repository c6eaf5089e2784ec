//! What new rows get in columns that nobody sends.

use std::sync::Arc;

use crate::model::{Batch, Column, ColumnDef, Table};

/// Constant values for columns that the sending table does not have, or keeps to itself. A row gets them when it is
/// inserted and never again: what is written there later is the receiving end's own.
#[derive(Debug, Clone)]
pub struct Fill {
    /// The columns that are sent, then those that are filled.
    table: Arc<Table>,
    /// One value each.
    values: Vec<Column>,
}

impl Fill {
    /// That of a table with the columns that are sent, and the others each with its value.
    #[must_use]
    pub fn new(sent: &Table, filled: Vec<(ColumnDef, Column)>) -> Self {
        let mut table = sent.clone();
        let (columns, values): (Vec<ColumnDef>, Vec<Column>) = filled.into_iter().unzip();
        table.columns.extend(columns);
        Self { table: Arc::new(table), values }
    }

    /// The columns that are filled.
    #[must_use]
    pub fn columns(&self) -> &[ColumnDef] {
        &self.table.columns[self.table.columns.len() - self.values.len()..]
    }

    /// What they are filled with, as one row.
    #[must_use]
    pub fn values(&self) -> Batch {
        let table = Table::new(self.table.name.clone(), self.columns().to_vec());
        Batch::new(Arc::new(table), self.values.clone())
    }

    /// Rows that are to be inserted, with these values.
    #[must_use]
    pub fn complete(&self, batch: Batch) -> Batch {
        if self.values.is_empty() {
            return batch;
        }
        let rows = batch.rows();
        let mut columns = batch.into_columns();
        columns.extend(self.values.iter().map(|value| {
            let mut column = Column::default();
            (0..rows).for_each(|_| column.push_cell(value.cell(0)));
            column
        }));
        Batch::new(self.table.clone(), columns)
    }
}
