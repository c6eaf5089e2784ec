//! Tables that were emptied at once, by a statement that names no row. Rows that have an entry get their tombstones when
//! that is folded; of rows older than capture nothing is known here, so whoever reads this site has to say which it has.

use std::collections::HashMap;
use std::sync::Arc;

use super::Site;
use super::cursors::number;
use super::install::TABLES_MAX;
use crate::engine::{Lookup, Result, Target, WriteMode};
use crate::model::{Batch, Cell};

impl Site {
    /// Notes that a table was emptied when this number was given out, in the transaction that gives it out.
    pub async fn set_emptied(&self, target: &mut dyn Target, table: u32, seq: i64) -> Result<()> {
        let Some(found) = self.one(target, &self.table_key(table)).await? else { return Ok(()) };
        let mut columns = found.into_columns();
        columns[4] = number(seq);
        target.write(WriteMode::Update, &Batch::new(self.books.tables.clone(), columns)).await.map(drop)
    }

    /// The numbers under which tables were last emptied, by the tables' own numbers; without those that never were.
    pub async fn emptied(&self, target: &mut dyn Lookup) -> Result<HashMap<u32, i64>> {
        let part = Arc::new(self.books.tables.project(&[0, 4]));
        let found = target.scan(&part, Some((1, 0)), TABLES_MAX).await?;
        let emptied = |row| match (found.cell(row, 0), found.cell(row, 1)) {
            (Cell::Int(table), Cell::Int(seq)) => Some((u32::try_from(table).ok()?, seq)),
            _ => None,
        };
        Ok((0..found.rows()).filter_map(emptied).collect())
    }

    fn table_key(&self, table: u32) -> Batch {
        Batch::new(Arc::new(self.books.tables.project(&[0])), vec![number(table.into())])
    }
}
