//! Rows that came here through a condition, or met their equals here: what the other end says of them concerns these
//! and no others that stand here under the same keys.

use std::collections::HashMap;
use std::sync::Arc;

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

    /// Whether this is the condition that the rows came through so far; `None`: all came.
    pub async fn is_condition(
        &self,
        target: &mut dyn Lookup,
        through: Through,
        condition: Option<&str>,
    ) -> Result<bool> {
        let found = self.condition(target, through).await?;
        let noted = (found.rows() > 0).then(|| found.cell(0, 3));
        Ok(noted == condition.map(|condition| Cell::Int(number(condition))))
    }

    /// Notes the condition that the rows come through.
    pub async fn set_condition(
        &self,
        target: &mut dyn Target,
        through: Through,
        condition: Option<&str>,
    ) -> Result<()> {
        if self.is_condition(target, through, condition).await? {
            return Ok(());
        }
        self.part_with(target, through, &[CONDITION]).await?;
        let Some(condition) = condition else { return Ok(()) };
        let mut columns = self.share_keys(through, std::iter::once(CONDITION)).into_columns();
        let mut column = Column::default();
        column.push_int(number(condition));
        columns.push(column);
        target.write(WriteMode::Insert, &Batch::new(self.books.shared.clone(), columns)).await?;
        target.flush().await
    }

    async fn condition(&self, target: &mut dyn Lookup, through: Through) -> Result<Batch> {
        let key = self.share_keys(through, std::iter::once(CONDITION));
        target.lookup(&self.books.shared, &key, RowLock::None).await
    }

    fn share_keys(&self, through: Through, ids: impl Iterator<Item = KeyId>) -> Batch {
        let mut columns = vec![Column::default(); 3];
        for id in ids {
            columns[0].push_bytes(format!("{:016x}", through.site.id).as_bytes());
            columns[1].push_int(through.table.into());
            columns[2].push_bytes(&id.0.to_be_bytes());
        }
        Batch::new(Arc::new(self.books.shared.project(&[0, 1, 2])), columns)
    }
}
