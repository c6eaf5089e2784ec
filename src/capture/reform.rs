//! A table got other columns: the digests of its rows are made anew, over the columns that it has now, and no row counts
//! as written for that.

use std::collections::HashSet;
use std::sync::Arc;

use super::feed::lines_of;
use super::fold::{content, digests_over};
use crate::engine::{Error, Result, Target, WriteMode, WriteOptions};
use crate::model::{Batch, Cell, Column};
use crate::site::{Book, KeyId, Reformed, Site, key_id};

/// Entries of one transaction.
const ENTRIES: usize = 2_000;

/// Makes the digests of a table's rows anew. What is noted in the log, and not folded yet, is left to its fold, which
/// then gives it a version: the write may have been to a column that no digest covered.
///
/// # Errors
/// What the database says.
pub(super) async fn reform(site: &Site, reformed: &Reformed, target: &mut dyn Target) -> Result<()> {
    let Some(book) = site.book(&reformed.table) else { return Ok(()) };
    // Rows that were written unseen are not to pass for what they were, as far as that can be told.
    let doubted = site.doubted.contains(&reformed.table);
    let before = if doubted { covered(book, reformed) } else { None };
    let mut above = Some(i64::MIN);
    while let Some(after) = above {
        target.begin(WriteOptions::default()).await?;
        match piece(site, book, before.as_deref(), after, target).await {
            Ok(next) => {
                target.commit().await?;
                above = next;
            }
            Err(e) => {
                // The connection may be what failed; dropping it rolls back too.
                let _ = target.rollback().await;
                return Err(e.context(format!("looking at the rows of {}", reformed.table)));
            }
        }
    }
    site.keep_columns(target, &reformed.table).await
}

/// The columns that the digests cover, where the table has them all as they were.
fn covered(book: &Book, reformed: &Reformed) -> Option<Vec<usize>> {
    let table = &book.logged.table;
    let at = |before: &crate::site::FormColumn| {
        table.column(&before.name).filter(|&at| table.columns[at].native == before.native)
    };
    reformed.before.iter().map(at).collect()
}

/// One piece, under the lock under which rowferry writes rows and entries; where to go on.
async fn piece(
    site: &Site,
    book: &Arc<Book>,
    before: Option<&[usize]>,
    above: i64,
    target: &mut dyn Target,
) -> Result<Option<i64>> {
    site.lock_numbers(target).await?;
    let versions = target.scan(&book.versions, Some((book.seq(), above)), ENTRIES).await?;
    let width = book.width();
    let keys = Batch::new(book.keys.clone(), versions.columns()[..width].to_vec());
    let all: Vec<usize> = (0..width).collect();
    let was = match before {
        Some(before) => Some(digests_over(book, &keys, before, target).await?),
        None => None,
    };
    let now = digests_over(book, &keys, &content(book), target).await?;
    let log = &book.log.table;
    let lines = lines_of(book, target, &keys).await?;
    let key: Vec<usize> = book.keys.columns.iter().filter_map(|c| log.column(&c.name)).collect();
    let noted: HashSet<KeyId> = (0..lines.rows()).map(|row| key_id(&lines, row, &key)).collect();
    let mut columns = vec![Column::default(); width + 1];
    for row in 0..versions.rows() {
        let id = key_id(&keys, row, &all);
        let Some(digest) = now.get(&id).filter(|_| !noted.contains(&id)) else { continue };
        let bytes = digest.0.to_be_bytes();
        let stands = match (versions.cell(row, book.digest()), &was) {
            (Cell::Bytes(entry), Some(was)) => was.get(&id).is_some_and(|was| was.0.to_be_bytes() == *entry),
            (Cell::Bytes(_), None) => true,
            // A row under a tombstone was written.
            _ => false,
        };
        if stands && versions.cell(row, book.digest()) != Cell::Bytes(&bytes) {
            (0..width).for_each(|c| columns[c].push_cell(keys.cell(row, c)));
            columns[width].push_bytes(&bytes);
        }
    }
    if !columns[width].is_empty() {
        let part: Vec<usize> = (0..width).chain([book.digest()]).collect();
        let part = Arc::new(book.versions.project(&part));
        target.write(WriteMode::Update, &Batch::new(part, columns)).await?;
    }
    if versions.rows() < ENTRIES {
        return Ok(None);
    }
    match versions.cell(versions.rows() - 1, book.seq()) {
        Cell::Int(seq) => Ok(Some(seq)),
        _ => Err(Error::new(crate::engine::ErrorKind::BadData, "an entry without a number")),
    }
}
