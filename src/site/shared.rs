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

/// What is known of the columns of a table that both ends have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetColumns {
    /// Whether anything is: all rows were compared once.
    pub noted: bool,
    /// The places of those that one of the ends lacked, or kept to itself, when all rows were last compared.
    pub new: Vec<usize>,
    /// Whether there were others then.
    pub went: bool,
}

/// Where the condition itself stands: no key's digest in practice.
const CONDITION: KeyId = Digest(0);
/// Where it stands which columns both ends had when all rows were last compared.
const COLUMNS: KeyId = Digest(2);

/// A text as a number that tells it from others.
fn number(text: &str) -> i64 {
    let digest = text_digest(text);
    i64::from_str_radix(&digest[..15], 16).unwrap_or(0)
}

/// The number of a set of columns, in whatever order.
fn set_of(names: &[&str]) -> i64 {
    let mut names = names.to_vec();
    names.sort_unstable();
    number(&names.join("\0"))
}

/// Where it stands which set a column belongs to.
fn named(column: &str) -> KeyId {
    Digest(u128::from_str_radix(&text_digest(&format!("column\0{column}")), 16).unwrap_or(0))
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
        let noted = self.numbers(target, tables.iter().map(|(through, _)| (*through, CONDITION))).await?;
        let same = |(through, condition): &(Through, Option<String>)| {
            noted.get(&(through.table, CONDITION)).copied() == condition.as_deref().map(number)
        };
        Ok(tables.iter().map(same).collect())
    }

    /// What is known of the columns of these tables that both ends have, each with its names here.
    pub async fn met_columns(
        &self,
        target: &mut dyn Lookup,
        tables: &[(Through, Vec<&str>)],
    ) -> Result<Vec<MetColumns>> {
        let sets = tables.iter().map(|(through, _)| (*through, COLUMNS));
        let noted = self.numbers(target, sets).await?;
        let set = |through: &Through| noted.get(&(through.table, COLUMNS)).copied();
        let others = tables.iter().filter(|(through, names)| set(through).is_some_and(|set| set != set_of(names)));
        let others = others.flat_map(|(through, names)| names.iter().map(|name| (*through, named(name))));
        let others: Vec<(Through, KeyId)> = others.collect();
        let of = if others.is_empty() { HashMap::new() } else { self.numbers(target, others.into_iter()).await? };
        let met = |(through, names): &(Through, Vec<&str>)| {
            let Some(set) = set(through) else { return MetColumns { noted: false, new: Vec::new(), went: false } };
            if set == set_of(names) {
                return MetColumns { noted: true, new: Vec::new(), went: false };
            }
            let is_new = |name: &str| of.get(&(through.table, named(name))) != Some(&set);
            let old: Vec<&str> = names.iter().copied().filter(|name| !is_new(name)).collect();
            let new = (0..names.len()).filter(|&at| is_new(names[at])).collect();
            MetColumns { noted: true, new, went: set != set_of(&old) }
        };
        Ok(tables.iter().map(met).collect())
    }

    /// Notes that these are the columns that both ends have, and that all rows were compared with them.
    pub async fn note_columns(&self, target: &mut dyn Target, tables: &[(Through, Vec<&str>)]) -> Result<()> {
        for (through, names) in tables {
            // Each with the set that it belongs to: whatever is left there of an older one counts no more.
            let ids: Vec<KeyId> = std::iter::once(COLUMNS).chain(names.iter().map(|name| named(name))).collect();
            let there = self.numbers(target, ids.iter().map(|id| (*through, *id))).await?;
            let there: Vec<KeyId> = there.into_keys().map(|(_, id)| id).collect();
            self.part_with(target, *through, &there).await?;
            self.note_numbers(target, *through, &ids, set_of(names)).await?;
        }
        Ok(())
    }

    /// The numbers that stand under these ids for these tables of one other site, by table and id.
    async fn numbers(
        &self,
        target: &mut dyn Lookup,
        wanted: impl Iterator<Item = (Through, KeyId)>,
    ) -> Result<HashMap<(u32, KeyId), i64>> {
        let mut keys = vec![Column::default(); 3];
        for (through, id) in wanted {
            push_key(&mut keys, through, id);
        }
        let keys = Batch::new(Arc::new(self.books.shared.project(&[0, 1, 2])), keys);
        let found = target.lookup(&self.books.shared, &keys, RowLock::None).await?;
        let noted = |row| match [1, 2, 3].map(|column| found.cell(row, column)) {
            [Cell::Int(table), Cell::Bytes(id), Cell::Int(number)] => {
                let id = Digest(u128::from_be_bytes(id.try_into().ok()?));
                Some(((u32::try_from(table).ok()?, id), number))
            }
            _ => None,
        };
        Ok((0..found.rows()).filter_map(noted).collect())
    }

    async fn note_numbers(&self, target: &mut dyn Target, through: Through, ids: &[KeyId], value: i64) -> Result<()> {
        let mut columns = self.share_keys(through, ids.iter().copied()).into_columns();
        let mut column = Column::default();
        for _ in ids {
            column.push_int(value);
        }
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
                self.note_numbers(target, *through, &[CONDITION], number(condition)).await?;
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
