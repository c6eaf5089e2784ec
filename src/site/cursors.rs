//! How far a site has taken in what another has: written in the transaction that takes it in.

use std::sync::Arc;

use super::Site;
use crate::engine::{Lookup, Result, RowLock, Target, WriteMode};
use crate::model::{self, Batch, Cell, Column};

/// A place in the feed of one table of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The site that is read, as it was then.
    pub source: model::Site,
    /// The number of the receiving site's table.
    pub table: u32,
    /// The last number taken in.
    pub position: i64,
    /// What the source has noted with that number.
    pub token: i64,
}

impl Site {
    /// Where this site stands in the feed of `source`, whatever epoch that was in, for its table `table`. `None`: it
    /// never read it.
    pub async fn cursor(&self, target: &mut dyn Lookup, source: u64, table: u32) -> Result<Option<Cursor>> {
        let found = target.lookup(&self.books.cursors, &self.cursor_key(source, table), RowLock::None).await?;
        if found.rows() == 0 {
            return Ok(None);
        }
        Ok(match [2, 3, 4].map(|column| found.cell(0, column)) {
            [Cell::Int(epoch), Cell::Int(position), Cell::Int(token)] => u32::try_from(epoch)
                .ok()
                .map(|epoch| Cursor { source: model::Site { id: source, epoch }, table, position, token }),
            _ => None,
        })
    }

    /// Notes a place, in the open transaction.
    pub async fn set_cursor(&self, target: &mut dyn Target, cursor: Cursor) -> Result<()> {
        let key = self.cursor_key(cursor.source.id, cursor.table);
        let there = target.lookup(&self.books.cursors, &key, RowLock::None).await?.rows() > 0;
        let mut columns = key.into_columns();
        columns.extend([i64::from(cursor.source.epoch), cursor.position, cursor.token].map(number));
        let batch = Batch::new(self.books.cursors.clone(), columns);
        target.write(if there { WriteMode::Update } else { WriteMode::Insert }, &batch).await?;
        target.flush().await
    }

    fn cursor_key(&self, source: u64, table: u32) -> Batch {
        let columns = vec![site_name(source), number(table.into())];
        Batch::new(Arc::new(self.books.cursors.project(&[0, 1])), columns)
    }
}

/// One number.
pub(super) fn number(value: i64) -> Column {
    let mut column = Column::default();
    column.push_int(value);
    column
}

/// The id of a site as it stands in the books.
pub(super) fn site_name(id: u64) -> Column {
    let mut column = Column::default();
    column.push_bytes(format!("{id:016x}").as_bytes());
    column
}
