//! Tables that were emptied at once, by a statement that names no row. Rows that have an entry get their tombstones when
//! that is folded; of rows older than capture nothing is known here, so whoever reads this site has to say which it has.

use std::sync::Arc;

use super::Site;
use super::cursors::number;
use crate::engine::{Lookup, Result, RowLock, Target, WriteMode};
use crate::model::{Batch, Cell};

impl Site {
    /// Notes that a table was emptied when this number was given out, in the transaction that gives it out.
    pub async fn set_emptied(&self, target: &mut dyn Target, table: u32, seq: i64) -> Result<()> {
        let Some(found) = self.one(target, &self.table_key(table)).await? else { return Ok(()) };
        let mut columns = found.into_columns();
        columns[4] = number(seq);
        target.write(WriteMode::Update, &Batch::new(self.books.tables.clone(), columns)).await.map(drop)
    }

    /// The number under which a table was last emptied; 0: never.
    pub async fn emptied(&self, target: &mut dyn Lookup, table: u32) -> Result<i64> {
        let found = target.lookup(&self.books.tables, &self.table_key(table), RowLock::None).await?;
        Ok(match found.rows() {
            1 => match found.cell(0, 4) {
                Cell::Int(seq) => seq,
                _ => 0,
            },
            _ => 0,
        })
    }

    fn table_key(&self, table: u32) -> Batch {
        Batch::new(Arc::new(self.books.tables.project(&[0])), vec![number(table.into())])
    }
}
