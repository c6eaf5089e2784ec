//! What a site notes with the numbers that it gives out, so that a place in its feed can be told from one in a feed that
//! is not its own any more: that of a database which was restored and has counted on.

use super::Site;
use super::cursors::number;
use crate::engine::{Lookup, Result, RowLock, Target, WriteMode};
use crate::model::{Batch, Cell};
use crate::runtime::random;

/// The last of the numbers that a site had given out in one transaction, and what it has noted with that one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The number.
    pub position: i64,
    /// What the site has noted with it.
    pub token: i64,
}

/// Marks that are looked through at a time.
const MARKS_MAX: usize = 1_000;

impl Site {
    /// Notes that numbers up to `position` were given out, in the transaction that takes them.
    pub(super) async fn mark(&self, target: &mut dyn Target, position: i64) -> Result<()> {
        let token = i64::from_be_bytes(random().to_be_bytes());
        let mark = Batch::new(self.books.marks.clone(), vec![number(position), number(token)]);
        target.write(WriteMode::Insert, &mark).await.map(drop)
    }

    /// The first mark at or behind a position; `None` when no such number was given out.
    pub async fn mark_at(&self, target: &mut dyn Lookup, position: i64) -> Result<Option<Mark>> {
        let found = target.scan(&self.books.marks, Some((0, position - 1)), 1).await?;
        if found.rows() == 0 {
            return Ok(None);
        }
        Ok(match (found.cell(0, 0), found.cell(0, 1)) {
            (Cell::Int(position), Cell::Int(token)) => Some(Mark { position, token }),
            _ => None,
        })
    }

    /// The last mark behind `above` and not behind `upto`: the end of the last whole transaction between them.
    pub async fn last_mark(&self, target: &mut dyn Lookup, above: i64, upto: i64) -> Result<Option<Mark>> {
        let (mut last, mut above) = (None, above);
        loop {
            let found = target.scan(&self.books.marks, Some((0, above)), MARKS_MAX).await?;
            for row in 0..found.rows() {
                match (found.cell(row, 0), found.cell(row, 1)) {
                    (Cell::Int(position), Cell::Int(token)) if position <= upto => {
                        last = Some(Mark { position, token });
                        above = position;
                    }
                    _ => return Ok(last),
                }
            }
            if found.rows() < MARKS_MAX {
                return Ok(last);
            }
        }
    }

    /// Forgets marks that no reader stands at.
    pub(super) async fn forget_marks(&self, target: &mut dyn Target, below: i64) -> Result<()> {
        let found = target.scan(&self.books.marks, Some((0, i64::MIN)), MARKS_MAX).await?;
        let old = |row: &usize| matches!(found.cell(*row, 0), Cell::Int(position) if position < below);
        let old: Vec<usize> = (0..found.rows()).filter(old).collect();
        if !old.is_empty() {
            target.write(WriteMode::Delete, &found.select(old.into_iter())).await?;
        }
        Ok(())
    }

    /// Whether this number was given out by this site as it is now, with this token.
    pub(super) async fn has_given(&self, target: &mut dyn Lookup, (position, token): (i64, i64)) -> Result<bool> {
        Ok(self.mark_at(target, position).await?.is_some_and(|mark| mark.token == token))
    }

    /// One row of a book by its key.
    pub(super) async fn one(&self, target: &mut dyn Lookup, keys: &Batch) -> Result<Option<Batch>> {
        let table = self.books.all().into_iter().find(|table| table.name == keys.table.name);
        let Some(table) = table else { return Ok(None) };
        let found = target.lookup(table, keys, RowLock::None).await?;
        Ok((found.rows() > 0).then_some(found))
    }
}
