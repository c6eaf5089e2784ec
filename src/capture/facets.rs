//! Rows that stand before facets are kept of their columns: each gets its own, so that what is then written to one column
//! does not pass for a write to all of them.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::feed::lines_of;
use super::fold::{content, contents};
use crate::engine::{ReadRequest, Result, Selection, Target, WriteMode, WriteOptions};
use crate::model::{Batch, BatchLimits, Cell, Digest, Entry, Facet, TableName, Version, text_digest};
use crate::site::{Book, Entries, KeyId, Known, Site, key_id, read};

/// What is noted of a table some of whose rows may have no facets yet.
const BEGUN: &str = "begun";

/// Keeps facets of the columns of these tables from now on, besides those of which it does already, and gives them to the
/// rows that stand there; also anew, where the columns are others since. What has its facets costs a look; whatever this
/// is interrupted in is taken up again by the next call.
pub(super) async fn keep_facets(site: Site, tables: &[TableName]) -> Result<Site> {
    let tables: BTreeSet<&TableName> = tables.iter().collect();
    let wanted = site.tables.iter().filter(|book| book.facets.is_some() || tables.contains(&book.logged.table.name));
    let wanted: Vec<(u32, String)> = wanted.map(|book| (book.logged.n, columns(book))).collect();
    if wanted.is_empty() {
        return Ok(site);
    }
    let mut target = site.database.target().await?;
    target.begin(WriteOptions { point: true, ..WriteOptions::default() }).await?;
    let noted = site.noted_facets(target.as_mut()).await;
    target.rollback().await?;
    let noted = noted?;
    let lacking: Vec<(u32, String)> = wanted.into_iter().filter(|(n, columns)| noted.get(n) != Some(columns)).collect();
    for (n, _) in lacking.iter().filter(|(n, _)| !noted.contains_key(n)) {
        note(&site, *n, BEGUN, target.as_mut()).await?;
    }
    // Whoever folds from here on keeps those of what it folds; what others have begun meanwhile counts too.
    let kept: BTreeSet<u32> = noted.into_keys().chain(lacking.iter().map(|(n, _)| *n)).collect();
    let site = site.with_facets(&kept);
    for (n, columns) in lacking {
        let Some(book) = site.tables.iter().find(|book| book.logged.n == n) else { continue };
        let given = give_facets(&site, book, target.as_mut()).await;
        given.map_err(|e| e.context(format!("noting who wrote the columns of {}", book.logged.table.name)))?;
        note(&site, n, &columns, target.as_mut()).await?;
    }
    Ok(site)
}

/// What is noted of a table all of whose rows have facets of the columns that it has now.
fn columns(book: &Book) -> String {
    let columns = content(book).into_iter().map(|at| &book.logged.table.columns[at]);
    let columns: Vec<(&str, &str)> = columns.map(|column| (&*column.name, &*column.native)).collect();
    text_digest(&format!("{columns:?}"))
}

async fn note(site: &Site, table: u32, noted: &str, target: &mut dyn Target) -> Result<()> {
    target.begin(WriteOptions::default()).await?;
    site.note_facets(target, table, noted).await?;
    target.commit().await
}

async fn give_facets(site: &Site, book: &Arc<Book>, target: &mut dyn Target) -> Result<()> {
    let ordered = book.keys.row_key().map_or_else(Vec::new, |key| key.columns);
    // Of one transaction, as a fold's.
    let rows = site.database.abilities().log_lines;
    let mut after = None;
    loop {
        let request = ReadRequest {
            table: book.keys.clone(),
            filter: None,
            rows: Selection::Range { after, upto: None },
            ordered: true,
            limits: BatchLimits { rows, bytes: usize::MAX },
        };
        // No point is held meanwhile: in SQLite outside WAL mode it would be in our own way.
        let snapshot = site.database.snapshot().await?;
        let Some(keys) = snapshot.source().await?.read(&request).await?.next().await? else { return Ok(()) };
        drop(snapshot);
        after = Some(keys.values(keys.rows() - 1, &ordered));
        target.begin(WriteOptions::default()).await?;
        match give_some(site, book, &keys, target).await {
            Ok(()) => target.commit().await?,
            Err(e) => {
                // The connection may be what failed; dropping it rolls back too.
                let _ = target.rollback().await;
                return Err(e);
            }
        }
    }
}

/// Under the lock under which rowferry writes rows and entries. A row that has lines in the log was written: what its
/// columns held before nobody knows any more, and its fold takes all of them for written.
async fn give_some(site: &Site, book: &Arc<Book>, keys: &Batch, target: &mut dyn Target) -> Result<()> {
    site.lock_numbers(target).await?;
    let standing = contents(book, keys, target).await?;
    let lines = lines_of(book, target, keys).await?;
    let of_lines: Vec<usize> = book.keys.columns.iter().filter_map(|c| book.log.table.column(&c.name)).collect();
    let noted: HashSet<KeyId> = (0..lines.rows()).map(|row| key_id(&lines, row, &of_lines)).collect();
    let known = read(target, book, keys).await?;
    let all: Vec<usize> = (0..book.width()).collect();
    // Below those that are told to anybody, each its own.
    let lowest = target.scan(&book.versions, Some((book.seq(), i64::MIN)), 1).await?;
    let lowest = (lowest.rows() > 0).then(|| lowest.cell(0, book.seq()));
    let mut seq = if let Some(Cell::Int(lowest)) = lowest { lowest.min(Known::PARTED) } else { Known::PARTED };
    let (mut new, mut changed) = (Entries::new(book), Entries::new(book));
    for row in 0..keys.rows() {
        let id = key_id(keys, row, &all);
        let Some((digest, digests)) = standing.get(&id).filter(|_| !noted.contains(&id)) else { continue };
        match known.get(&id) {
            None => {
                seq -= 1;
                let columns = unwritten(digests);
                let entry = Entry { columns, ..Entry::standing_at(site.id, *digest) };
                new.push(keys, row, &Known { entry, seq });
            }
            Some(known) if known.entry.digest == Some(*digest) => {
                let mut entry = known.entry.clone();
                entry.columns.iter_mut().zip(digests).for_each(|(facet, digest)| facet.digest = *digest);
                if entry != known.entry {
                    changed.push(keys, row, &Known { entry, ..*known });
                }
            }
            Some(_) => {}
        }
    }
    target.write(WriteMode::Update, &changed.batch()).await?;
    target.write(WriteMode::Insert, &new.batch()).await?;
    target.flush().await
}

/// Facets of a row that nobody has written since capture began.
pub(crate) fn unwritten(digests: &[Digest]) -> Vec<Facet> {
    digests.iter().map(|digest| Facet { version: Version::BASE, digest: *digest }).collect()
}
