//! Versions → changes: what a site has that a reader has not seen yet, in the order of its numbers.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::engine::{Error, Result, RowLock, Target, WriteOptions};
use crate::model::{Batch, Column, Digest, Entry, Table};
use crate::site::{Book, KeyId, Known, decode, key_id, read};

use super::fold::rows_by_key;

/// Changes of one table, as one snapshot of its site shows them.
pub struct Changes {
    /// The keys, each once.
    pub keys: Batch,
    /// The entries of the keys, in their order.
    pub entries: Vec<Known>,
    /// The rows that stand under those keys that are alive, with the columns asked for.
    pub rows: Batch,
    /// For each key its row in `rows`; `None` for a tombstone.
    pub row_of: Vec<Option<usize>>,
    /// The number up to which everything is here or will come again with a higher one.
    pub position: i64,
    /// Whether there may be more.
    pub more: bool,
}

/// Reads what has a higher number than `after`. A key that has lines in the log is left out: its row may be newer than
/// its version, and its next fold gives it a new number.
pub async fn changes(
    book: &Book,
    columns: &Arc<Table>,
    target: &mut dyn Target,
    after: i64,
    limit: usize,
) -> Result<Changes> {
    target.begin(WriteOptions { point: true, ..WriteOptions::default() }).await?;
    let read = read_point(book, columns, target, after, limit).await;
    // The connection may be what failed; dropping it ends the transaction too.
    let ended = target.rollback().await;
    let changes = read.map_err(|e| e.context(format!("reading the changes of {}", book.logged.table.name)))?;
    ended?;
    Ok(changes)
}

async fn read_point(
    book: &Book,
    columns: &Arc<Table>,
    target: &mut dyn Target,
    after: i64,
    limit: usize,
) -> Result<Changes> {
    let versions = target.scan(&book.versions, Some((book.seq(), after)), limit).await?;
    let keys = Batch::new(book.keys.clone(), versions.columns()[..book.width()].to_vec());
    let found: Vec<Known> = (0..versions.rows()).map(|row| decode(book, &versions, row)).collect::<Result<_>>()?;
    let position = found.last().map_or(after, |known| known.seq);
    let more = found.len() >= limit;
    let whole = target.lookup(&book.logged.table, &keys, RowLock::None).await?;
    let unfolded = unfolded(book, target, &keys).await?;
    let found = found.into_iter().map(Some).collect();
    let (changes, _) = as_versioned(book, columns, &keys, found, &whole, &unfolded);
    Ok(Changes { position, more, ..changes })
}

/// Reads what stands under these keys, with the entry of [`Entry::base`] where a row has none. Also the places of those
/// keys that have lines in the log or whose entry is of another content: they are left out, and can be read once
/// they are folded.
pub async fn changes_of(
    book: &Book,
    columns: &Arc<Table>,
    target: &mut dyn Target,
    keys: &Batch,
) -> Result<(Changes, Vec<usize>)> {
    target.begin(WriteOptions { point: true, ..WriteOptions::default() }).await?;
    let read = async {
        let known = read(target, book, keys).await?;
        let whole = target.lookup(&book.logged.table, keys, RowLock::None).await?;
        let unfolded = unfolded(book, target, keys).await?;
        let found = (0..keys.rows()).map(|row| known.get(&key_id(keys, row, &places(book))).cloned()).collect();
        Ok(as_versioned(book, columns, keys, found, &whole, &unfolded))
    }
    .await;
    // The connection may be what failed; dropping it ends the transaction too.
    let ended = target.rollback().await;
    let changes = read.map_err(|e: Error| e.context(format!("reading rows of {}", book.logged.table.name)))?;
    ended?;
    Ok(changes)
}

/// The key's columns in batches of keys.
fn places(book: &Book) -> Vec<usize> {
    (0..book.width()).collect()
}

/// Those of the keys whose rows are what their entries say; and the places of those that are not.
fn as_versioned(
    book: &Book,
    columns: &Arc<Table>,
    keys: &Batch,
    found: Vec<Option<Known>>,
    whole: &Batch,
    unfolded: &HashSet<KeyId>,
) -> (Changes, Vec<usize>) {
    let digests = rows_by_key(book, whole);
    let rows: HashMap<KeyId, usize> =
        (0..whole.rows()).map(|row| (key_id(whole, row, &book.logged.key.columns), row)).collect();
    let (mut kept, mut left_out) = (Vec::with_capacity(found.len()), Vec::new());
    for (at, known) in found.into_iter().enumerate() {
        let id = key_id(keys, at, &places(book));
        let stands: Option<Digest> = digests.get(&id).copied();
        let known = known.or_else(|| stands.map(|digest| Known { entry: Entry::base(digest), seq: 0 }));
        match known {
            // A row that is not what its version says was written past the triggers, or is about to be folded.
            Some(known) if !unfolded.contains(&id) && stands == known.entry.digest => {
                kept.push((at, known, rows.get(&id).copied()));
            }
            None if !unfolded.contains(&id) => {}
            _ => left_out.push(at),
        }
    }
    let alive: Vec<usize> = kept.iter().filter_map(|(.., row)| *row).collect();
    let mut next = 0..;
    let row_of = kept.iter().map(|(.., row)| row.and_then(|_| next.next())).collect();
    let changes = Changes {
        keys: keys.select(kept.iter().map(|(at, ..)| *at)),
        entries: kept.iter().map(|(_, known, _)| known.clone()).collect(),
        rows: project(whole, columns).select(alive.into_iter()),
        row_of,
        position: 0,
        more: false,
    };
    (changes, left_out)
}

/// The keys that have lines in the log.
async fn unfolded(book: &Book, target: &mut dyn Target, keys: &Batch) -> Result<HashSet<KeyId>> {
    let log = &book.log.table;
    let lines = target.lookup(log, keys, RowLock::None).await?;
    let key: Vec<usize> = book.keys.columns.iter().filter_map(|c| log.column(&c.name)).collect();
    Ok((0..lines.rows()).map(|row| key_id(&lines, row, &key)).collect())
}

/// The columns of `table`, found by name.
fn project(batch: &Batch, table: &Arc<Table>) -> Batch {
    let columns: Vec<Column> = table
        .columns
        .iter()
        .filter_map(|c| batch.table.column(&c.name))
        .map(|at| batch.columns()[at].clone())
        .collect();
    Batch::new(table.clone(), columns)
}
