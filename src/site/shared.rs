//! Rows that came here through a condition, or met their equals here: what the other end says of them concerns these
//! and no others that stand here under the same keys.

use std::collections::HashMap;
use std::sync::Arc;

use super::cursors::push_site;
use super::{KeyId, Site};
use crate::engine::{Lookup, Result, RowLock, Target, WriteMode};
use crate::model::{self, Batch, Cell, Column, Digest, text_digest};

/// A table here, and the site at whose condition its rows are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Through {
    /// The other site.
    pub site: model::Site,
    /// The table's number here.
    pub table: u32,
}

/// How a row came to be shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// It stood here by itself, and was found to be the other end's too.
    Met,
    /// It was brought.
    Brought,
}

/// Where the condition itself stands: no key's digest in practice.
const CONDITION: KeyId = Digest(0);
/// Where it stands which columns came when all rows were last compared.
const COLUMNS: KeyId = Digest(1);

/// A condition as a number that tells it from others.
fn number(condition: &str) -> i64 {
    let digest = text_digest(condition);
    i64::from_str_radix(&digest[..15], 16).unwrap_or(0)
}

impl Site {
    /// Which of these rows are shared, and how.
    pub async fn shares(
        &self,
        target: &mut dyn Lookup,
        through: Through,
        ids: impl Iterator<Item = KeyId>,
    ) -> Result<HashMap<KeyId, Share>> {
        let found = target.lookup(&self.books.shared, &self.share_keys(through, ids), RowLock::None).await?;
        let share = |row| match (found.cell(row, 2), found.cell(row, 3)) {
            (Cell::Bytes(id), Cell::Int(brought)) => {
                let id = Digest(u128::from_be_bytes(id.try_into().ok()?));
                Some((id, if brought == 0 { Share::Met } else { Share::Brought }))
            }
            _ => None,
        };
        Ok((0..found.rows()).filter_map(share).collect())
    }

    /// Notes rows that are shared from now on.
    pub async fn share(&self, target: &mut dyn Target, through: Through, rows: &[(KeyId, Share)]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut columns = self.share_keys(through, rows.iter().map(|(id, _)| *id)).into_columns();
        let mut how = Column::default();
        for (_, share) in rows {
            how.push_int((*share == Share::Brought).into());
        }
        columns.push(how);
        target.write(WriteMode::Insert, &Batch::new(self.books.shared.clone(), columns)).await?;
        target.flush().await
    }

    /// Forgets them.
    pub async fn part_with(&self, target: &mut dyn Target, through: Through, ids: &[KeyId]) -> Result<()> {
        if !ids.is_empty() {
            target.write(WriteMode::Delete, &self.share_keys(through, ids.iter().copied())).await?;
        }
        Ok(())
    }

    /// A row of a table has another key from now on.
    pub async fn share_as(&self, target: &mut dyn Target, table: u32, from: KeyId, to: KeyId) -> Result<()> {
        let shared = &self.books.shared;
        let (mut number, mut id) = (Column::default(), Column::default());
        number.push_int(table.into());
        id.push_bytes(&from.0.to_be_bytes());
        let keys = Batch::new(Arc::new(shared.project(&[1, 2])), vec![number, id]);
        let found = target.lookup(shared, &keys, RowLock::None).await?;
        if found.rows() == 0 {
            return Ok(());
        }
        target.write(WriteMode::Delete, &found).await?;
        let mut columns = found.columns().to_vec();
        columns[2] = Column::default();
        (0..found.rows()).for_each(|_| columns[2].push_bytes(&to.0.to_be_bytes()));
        target.write(WriteMode::Insert, &Batch::new(shared.clone(), columns)).await?;
        target.flush().await
    }

    /// Which of these tables' rows came through the condition given so far; `None`: all came.
    pub async fn are_conditions(
        &self,
        target: &mut dyn Lookup,
        tables: &[(Through, Option<String>)],
    ) -> Result<Vec<bool>> {
        let noted = self.numbers(target, tables.iter().map(|(through, _)| *through), CONDITION).await?;
        let same = |(through, condition): &(Through, Option<String>)| {
            noted.get(&through.table.into()).copied() == condition.as_deref().map(number)
        };
        Ok(tables.iter().map(same).collect())
    }

    /// Which of these tables get other columns than when all their rows were last compared.
    pub async fn are_other_columns(&self, target: &mut dyn Lookup, tables: &[(Through, String)]) -> Result<Vec<bool>> {
        let noted = self.numbers(target, tables.iter().map(|(through, _)| *through), COLUMNS).await?;
        let other = |(through, columns): &(Through, String)| {
            noted.get(&through.table.into()).is_some_and(|noted| *noted != number(columns))
        };
        Ok(tables.iter().map(other).collect())
    }

    /// Notes the columns that these tables get, where none are noted yet, or `anew`.
    pub async fn set_columns(&self, target: &mut dyn Target, tables: &[(Through, String)], anew: bool) -> Result<()> {
        let noted = self.numbers(target, tables.iter().map(|(through, _)| *through), COLUMNS).await?;
        for (through, columns) in tables {
            match noted.get(&through.table.into()) {
                Some(noted) if !anew || *noted == number(columns) => continue,
                Some(_) => self.part_with(target, *through, &[COLUMNS]).await?,
                None => {}
            }
            self.note_number(target, *through, COLUMNS, number(columns)).await?;
        }
        Ok(())
    }

    /// The numbers that stand there for these tables of one other site, by table.
    async fn numbers(
        &self,
        target: &mut dyn Lookup,
        tables: impl Iterator<Item = Through>,
        what: KeyId,
    ) -> Result<HashMap<i64, i64>> {
        let mut keys = vec![Column::default(); 3];
        for through in tables {
            push_key(&mut keys, through, what);
        }
        let keys = Batch::new(Arc::new(self.books.shared.project(&[0, 1, 2])), keys);
        let found = target.lookup(&self.books.shared, &keys, RowLock::None).await?;
        let noted = |row| match (found.cell(row, 1), found.cell(row, 3)) {
            (Cell::Int(table), Cell::Int(number)) => Some((table, number)),
            _ => None,
        };
        Ok((0..found.rows()).filter_map(noted).collect())
    }

    async fn note_number(&self, target: &mut dyn Target, through: Through, what: KeyId, value: i64) -> Result<()> {
        let mut columns = self.share_keys(through, std::iter::once(what)).into_columns();
        let mut column = Column::default();
        column.push_int(value);
        columns.push(column);
        target.write(WriteMode::Insert, &Batch::new(self.books.shared.clone(), columns)).await?;
        target.flush().await
    }

    /// Notes the conditions that the rows of these tables come through.
    pub async fn set_conditions(&self, target: &mut dyn Target, tables: &[(Through, Option<String>)]) -> Result<()> {
        let same = self.are_conditions(target, tables).await?;
        for ((through, condition), _) in tables.iter().zip(same).filter(|(_, same)| !same) {
            self.part_with(target, *through, &[CONDITION]).await?;
            if let Some(condition) = condition {
                self.note_number(target, *through, CONDITION, number(condition)).await?;
            }
        }
        Ok(())
    }

    fn share_keys(&self, through: Through, ids: impl Iterator<Item = KeyId>) -> Batch {
        let mut columns = vec![Column::default(); 3];
        for id in ids {
            push_key(&mut columns, through, id);
        }
        Batch::new(Arc::new(self.books.shared.project(&[0, 1, 2])), columns)
    }
}

fn push_key(columns: &mut [Column], through: Through, id: KeyId) {
    push_site(&mut columns[0], through.site.id);
    columns[1].push_int(through.table.into());
    columns[2].push_bytes(&id.0.to_be_bytes());
}
