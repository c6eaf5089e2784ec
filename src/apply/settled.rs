//! What a person decided of a conflict, in the records of an end.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::record::object;
use crate::engine::{Result, RowLock, Target, WriteMode};
use crate::model::{Batch, Cell, Column, TableName};
use crate::site::Site;

/// The outcome of a conflict: who won, and what the two ends had.
#[derive(Debug, Clone, Copy)]
pub struct Settled<'a> {
    /// The conflict's id.
    pub id: &'a str,
    /// The sync.
    pub sync: &'a str,
    /// `source` or `target`.
    pub winner: &'a str,
    /// What the source had; null: deleted.
    pub source: &'a serde_json::Value,
    /// What the target had.
    pub target: &'a serde_json::Value,
}

impl Settled<'_> {
    /// Writes it where this end recorded the conflict, and where others of the same row are open: the one decision
    /// settles them all.
    ///
    /// # Errors
    /// What the database says.
    pub async fn write(&self, target: &mut dyn Target, site: &Site, table: &TableName, key: &Batch) -> Result<()> {
        let table = table.to_string();
        let by_id = self.find(target, site, &[(0, self.id)]).await?;
        // An end that never heard of the row has no key for it, and recorded nothing.
        let row = if key.rows() == 0 { String::new() } else { object((key, 0)) };
        let of_row = self.find(target, site, &[(1, self.sync), (2, &table), (3, &row)]).await?;
        let mut seen = BTreeSet::new();
        let mut columns = vec![Column::default(); by_id.table.columns.len()];
        for (found, all) in [(&by_id, true), (&of_row, false)] {
            for at in 0..found.rows() {
                let Cell::Bytes(id) = found.cell(at, 0) else { continue };
                let wanted = all || found.cell(at, 5) == Cell::Bytes(b"open");
                if !wanted || !seen.insert(id.to_vec()) {
                    continue;
                }
                for (c, column) in columns.iter_mut().enumerate() {
                    match c {
                        5 => column.push_bytes(self.winner.as_bytes()),
                        6 => push(column, self.source),
                        7 => push(column, self.target),
                        _ => column.push_cell(found.cell(at, c)),
                    }
                }
            }
        }
        let batch = Batch::new(by_id.table.clone(), columns);
        if batch.rows() > 0 {
            target.write(WriteMode::Update, &batch).await?;
        }
        Ok(())
    }

    async fn find(&self, target: &mut dyn Target, site: &Site, wanted: &[(usize, &str)]) -> Result<Batch> {
        let conflicts = &site.books.conflicts;
        let at: Vec<usize> = wanted.iter().map(|(at, _)| *at).collect();
        let mut columns = vec![Column::default(); wanted.len()];
        columns.iter_mut().zip(wanted).for_each(|(column, (_, text))| column.push_bytes(text.as_bytes()));
        target.lookup(conflicts, &Batch::new(Arc::new(conflicts.project(&at)), columns), RowLock::Wait).await
    }
}

fn push(column: &mut Column, image: &serde_json::Value) {
    if image.is_null() { column.push_null() } else { column.push_bytes(image.to_string().as_bytes()) }
}
