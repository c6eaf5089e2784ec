//! How far a site has taken in what another has: written in the transaction that takes it in.

use std::collections::HashMap;
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

impl Cursor {
    /// In place of a table's number: of all that was ever taken in from that site, whether or not a table's cursor has
    /// passed it. What a first run or a second try brings has versions that no cursor has passed yet; a source that was
    /// restored to before these is to be told from one that was not.
    pub const SEEN: u32 = 0;

    /// Whether this place, of the same site, is not before the other.
    fn has_passed(&self, other: &Self) -> bool {
        self.source.epoch == other.source.epoch && self.position >= other.position
    }
}

impl Site {
    /// Where this site stands in the feed of `source`, whatever epoch that was in, by its own tables of these numbers;
    /// without those that never read it.
    pub async fn cursors(
        &self,
        target: &mut dyn Lookup,
        source: u64,
        tables: impl Iterator<Item = u32>,
    ) -> Result<HashMap<u32, Cursor>> {
        let found = target.lookup(&self.books.cursors, &self.cursor_keys(source, tables), RowLock::None).await?;
        let cursor = |row| match [1, 2, 3, 4].map(|column| found.cell(row, column)) {
            [Cell::Int(table), Cell::Int(epoch), Cell::Int(position), Cell::Int(token)] => {
                let (table, epoch) = (u32::try_from(table).ok()?, u32::try_from(epoch).ok()?);
                Some((table, Cursor { source: model::Site { id: source, epoch }, table, position, token }))
            }
            _ => None,
        };
        Ok((0..found.rows()).filter_map(cursor).collect())
    }

    /// Notes places in the feed of one site, in the open transaction. What was seen stays seen.
    pub async fn set_cursors(&self, target: &mut dyn Target, cursors: &[Cursor]) -> Result<()> {
        let Some(source) = cursors.first().map(|cursor| cursor.source.id) else { return Ok(()) };
        let there = self.cursors(target, source, cursors.iter().map(|cursor| cursor.table)).await?;
        for mode in [WriteMode::Update, WriteMode::Insert] {
            let of = cursors.iter().filter(|c| there.contains_key(&c.table) == (mode == WriteMode::Update));
            let passed = |c: &&Cursor| there.get(&c.table).is_some_and(|there| there.has_passed(c));
            let of: Vec<&Cursor> = of.filter(|c| c.table != Cursor::SEEN || !passed(c)).collect();
            if of.is_empty() {
                continue;
            }
            let mut columns = self.cursor_keys(source, of.iter().map(|cursor| cursor.table)).into_columns();
            columns.extend([Column::default(), Column::default(), Column::default()]);
            for cursor in of {
                let numbers = [i64::from(cursor.source.epoch), cursor.position, cursor.token];
                columns[2..].iter_mut().zip(numbers).for_each(|(column, number)| column.push_int(number));
            }
            target.write(mode, &Batch::new(self.books.cursors.clone(), columns)).await?;
        }
        target.flush().await
    }

    fn cursor_keys(&self, source: u64, tables: impl Iterator<Item = u32>) -> Batch {
        let mut columns = vec![Column::default(); 2];
        for table in tables {
            push_site(&mut columns[0], source);
            columns[1].push_int(table.into());
        }
        Batch::new(Arc::new(self.books.cursors.project(&[0, 1])), columns)
    }
}

/// One number.
pub(super) fn number(value: i64) -> Column {
    let mut column = Column::default();
    column.push_int(value);
    column
}

/// Adds the id of a site as it stands in the books.
pub(super) fn push_site(column: &mut Column, id: u64) {
    column.push_bytes(format!("{id:016x}").as_bytes());
}
