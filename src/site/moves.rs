//! Rows that gave up the number that they were inserted under, and those that are to: what a site knows of them. It is
//! told to other sites like the entries of rows, in the order of the site's numbers.

use std::sync::Arc;

use super::Site;
use super::cursors::number;
use crate::engine::{Lookup, Result, RowLock, Target, WriteMode};
use crate::model::{Batch, Cell, Clock, Column, Move, Version};

/// A move as a site knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Number of the table.
    pub table: u32,
    /// What is known.
    pub step: Move,
    /// Whether there is nothing more to be done about it here.
    pub done: bool,
    /// The number under which it was noted.
    pub seq: i64,
    /// What was known under the number that it gave up went no further than this; [`Clock::ZERO`] where it never stood here.
    pub clock: Clock,
}

/// Moves that are read at a time. There is one for each row that ever met another under its number.
const MOVES: usize = 10_000;

impl Site {
    /// The moves that were noted above a number, in their order, all of them.
    pub async fn moves_above(&self, target: &mut dyn Lookup, above: i64) -> Result<Vec<Moved>> {
        let (mut moves, mut above) = (Vec::new(), above);
        loop {
            let found = target.scan(&self.books.moves, Some((5, above)), MOVES).await?;
            for row in 0..found.rows() {
                let moved = self.read_move(&found, row)?;
                above = moved.seq;
                moves.push(moved);
            }
            if found.rows() < MOVES {
                return Ok(moves);
            }
        }
    }

    /// What is known of rows that were inserted under these numbers of tables.
    pub async fn moves_of(&self, target: &mut dyn Lookup, numbers: &[(u32, i64)]) -> Result<Vec<Moved>> {
        let (mut table, mut number) = (Column::default(), Column::default());
        for (n, of) in numbers {
            table.push_int((*n).into());
            number.push_int(*of);
        }
        let keys = Batch::new(Arc::new(self.books.moves.project(&[0, 1])), vec![table, number]);
        let found = target.lookup(&self.books.moves, &keys, RowLock::None).await?;
        (0..found.rows()).map(|row| self.read_move(&found, row)).collect()
    }

    /// Whether any row of this site ever moved, or is to.
    pub async fn has_moves(&self, target: &mut dyn Lookup) -> Result<bool> {
        Ok(target.scan(&self.books.moves, None, 1).await?.rows() > 0)
    }

    /// Notes a move in place of what was known of that row, under a number of its own, which is given back.
    /// `clock`: see [`Moved::clock`].
    pub async fn note_move(
        &self,
        target: &mut dyn Target,
        (table, step): (u32, Move),
        done: bool,
        clock: Clock,
    ) -> Result<i64> {
        let seq = self.take_numbers(target, 1).await?;
        let row = self.row(Moved { table, step, done, seq, clock });
        let keys = Batch::new(Arc::new(self.books.moves.project(&[0, 1, 2])), row.columns()[..3].to_vec());
        let there = target.lookup(&self.books.moves, &keys, RowLock::None).await?;
        target.write(if there.rows() > 0 { WriteMode::Update } else { WriteMode::Insert }, &row).await?;
        target.flush().await?;
        Ok(seq)
    }

    /// Notes that there is nothing more to be done about a move here.
    pub async fn done(&self, target: &mut dyn Target, moved: &Moved) -> Result<()> {
        target.write(WriteMode::Update, &self.row(Moved { done: true, ..*moved })).await.map(drop)
    }

    /// What was known under the keys that rows gave up went no further than this.
    pub(super) async fn moved(&self, target: &mut dyn Lookup) -> Result<Clock> {
        if !self.has_moves(target).await? {
            return Ok(Clock::ZERO);
        }
        let moves = self.moves_above(target, i64::MIN).await?;
        Ok(moves.iter().map(|moved| moved.clock).max().unwrap_or(Clock::ZERO))
    }

    fn row(&self, moved: Moved) -> Batch {
        let Moved { table, step, done, seq, clock } = moved;
        let (mut birth, mut to) = (Column::default(), Column::default());
        birth.push_bytes(&step.birth.to_bytes());
        to.push_cell(step.to.map_or(Cell::Null, Cell::Int));
        let clock = number(i64::try_from(clock.micros()).unwrap_or(i64::MAX));
        let columns =
            vec![number(table.into()), number(step.number), birth, to, number(done.into()), number(seq), clock];
        Batch::new(self.books.moves.clone(), columns)
    }

    fn read_move(&self, batch: &Batch, row: usize) -> Result<Moved> {
        let damaged = || self.damaged(&self.books.moves);
        let int = |column: usize| match batch.cell(row, column) {
            Cell::Int(value) => Ok(value),
            _ => Err(damaged()),
        };
        let Cell::Bytes(birth) = batch.cell(row, 2) else { return Err(damaged()) };
        let to = match batch.cell(row, 3) {
            Cell::Null => None,
            _ => Some(int(3)?),
        };
        Ok(Moved {
            table: u32::try_from(int(0)?).map_err(|_| damaged())?,
            step: Move { number: int(1)?, birth: Version::from_bytes(birth).map_err(|_| damaged())?, to },
            done: int(4)? != 0,
            seq: int(5)?,
            clock: Clock::of_micros(int(6)?.unsigned_abs()),
        })
    }
}
