//! How far a site has taken in what another has: written in the transaction that takes it in.

use std::sync::Arc;

use super::Site;
use crate::engine::{Lookup, Result, RowLock, Target, WriteMode};
use crate::model::{self, Batch, Cell, Column};

/// A place in the feed of one table of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The site that is read.
    pub source: model::Site,
    /// The number of the receiving site's table.
    pub table: u32,
    /// The last number taken in.
    pub position: i64,
}

impl Site {
    /// Where this site stands in the feed of `source` for its table `table`. `None`: it never read it, or `source` was
    /// restored since and counts anew.
    pub async fn cursor(&self, target: &mut dyn Lookup, source: model::Site, table: u32) -> Result<Option<Cursor>> {
        let found = target.lookup(&self.books.cursors, &self.cursor_key(source, table), RowLock::None).await?;
        if found.rows() == 0 {
            return Ok(None);
        }
        Ok(match (found.cell(0, 2), found.cell(0, 3)) {
            (Cell::Int(epoch), Cell::Int(position)) if epoch == i64::from(source.epoch) => {
                Some(Cursor { source, table, position })
            }
            _ => None,
        })
    }

    /// Notes a place, in the open transaction.
    pub async fn set_cursor(&self, target: &mut dyn Target, cursor: Cursor) -> Result<()> {
        let key = self.cursor_key(cursor.source, cursor.table);
        let there = target.lookup(&self.books.cursors, &key, RowLock::None).await?.rows() > 0;
        let mut columns = key.into_columns();
        columns.extend([i64::from(cursor.source.epoch), cursor.position].map(|number| {
            let mut column = Column::default();
            column.push_int(number);
            column
        }));
        let batch = Batch::new(self.books.cursors.clone(), columns);
        target.write(if there { WriteMode::Update } else { WriteMode::Insert }, &batch).await?;
        target.flush().await
    }

    fn cursor_key(&self, source: model::Site, table: u32) -> Batch {
        let mut columns = vec![Column::default(); 2];
        columns[0].push_bytes(format!("{:016x}", source.id).as_bytes());
        columns[1].push_int(table.into());
        Batch::new(Arc::new(self.books.cursors.project(&[0, 1])), columns)
    }
}
