//! Log → versions: takes what the triggers noted out of a change log and gives the rows their versions.
//!
//! Every line that is visible is taken, whatever its order, so that one that commits late is simply taken
//! later. A fold reads the log, then the rows, then takes the site's numbers and reads the entries: a row
//! that is written after its log was read is given a version that its next fold finds unchanged.

use std::collections::HashMap;
use std::sync::Arc;

use crate::conflict::{Folded, Origin, Written, fold};
use crate::engine::{ChangeLog, Error, ErrorKind, Result, RowLock, Target, WriteMode, WriteOptions};
use crate::model::{Batch, Cell, Clock, Column, Digest, Entry, row_digest};
use crate::runtime::Failpoint;
use crate::site::{Book, Entries, KeyId, Known, Site, key_id, read};

/// Lines taken in one transaction.
const LINES_MAX: usize = 20_000;

/// Folds what is in the log of a table; the keys that got a number, none when the log was empty.
pub async fn fold_table(site: &Site, book: &Arc<Book>, target: &mut dyn Target) -> Result<u64> {
    let mut keys = 0;
    loop {
        // Whoever would write to an idle database must not hold its lock for it.
        target.begin(WriteOptions { point: true, ..WriteOptions::default() }).await?;
        let waiting = target.scan(&book.log.table, None, 1).await?.rows() > 0;
        target.rollback().await?;
        if !waiting {
            return Ok(keys);
        }
        target.begin(WriteOptions::default()).await?;
        match fold_lines(site, book, target).await {
            Ok((lines, folded)) => {
                Failpoint::FoldWritten.reach();
                target.commit().await?;
                Failpoint::FoldCommitted.reach();
                keys += folded;
                if lines < LINES_MAX {
                    return Ok(keys);
                }
            }
            Err(e) => {
                // The connection may be what failed; dropping it rolls back too.
                let _ = target.rollback().await;
                return Err(e.context(format!("folding the changes of {}", book.logged.table.name)));
            }
        }
    }
}

async fn fold_lines(site: &Site, book: &Arc<Book>, target: &mut dyn Target) -> Result<(usize, u64)> {
    let lines = target.scan(&book.log.table, None, LINES_MAX).await?;
    let written = Lines::read(book, &lines)?;
    let keys = fold_keys(site, book, target, &written).await?;
    target.write(WriteMode::Delete, &lines).await?;
    Ok((lines.rows(), keys))
}

/// Gives the keys of these lines their versions, in the open transaction. The lines themselves stay.
pub(crate) async fn fold_keys(site: &Site, book: &Arc<Book>, target: &mut dyn Target, written: &Lines) -> Result<u64> {
    if written.keys.rows() == 0 {
        return Ok(0);
    }
    let standing = rows_by_key(book, &target.lookup(&book.logged.table, &written.keys, RowLock::None).await?);
    let now = target.now().await?;
    let first = site.take_numbers(target, written.keys.rows()).await?;
    let known = read(target, book, &written.keys).await?;
    let origin = Origin { site: site.id, now, floor: Clock::ZERO };
    let (mut new, mut changed) = (Entries::new(book), Entries::new(book));
    for (row, (id, line)) in written.lines.iter().enumerate() {
        let seq = first + i64::try_from(row).unwrap_or(0);
        let previous = known.get(id);
        let digest = standing.get(id).copied();
        let told = Written { wall: line.wall, born: line.born && !line.stood, digest };
        let entry = if line.ours_alone {
            // Loaded by rowferry without a version: it counts as older than any.
            previous.map_or_else(|| base(digest), |known| Some(known.entry.clone()))
        } else {
            match fold(previous.map(|known| &known.entry), &told, &origin) {
                Folded::Same => previous.map(|known| known.entry.clone()),
                Folded::New(entry) => Some(entry),
            }
        };
        let Some(entry) = entry else { continue };
        let batch = if previous.is_some() { &mut changed } else { &mut new };
        batch.push(&written.keys, row, &Known { entry, seq });
    }
    target.write(WriteMode::Update, &changed.batch()).await?;
    target.write(WriteMode::Insert, &new.batch()).await?;
    target.flush().await?;
    Ok(written.keys.rows() as u64)
}

fn base(digest: Option<Digest>) -> Option<Entry> {
    digest.map(Entry::base)
}

/// Digests of rows by their keys.
pub(crate) fn rows_by_key(book: &Book, rows: &Batch) -> HashMap<KeyId, Digest> {
    let columns = content(book);
    (0..rows.rows()).map(|row| (key_id(rows, row, &book.logged.key.columns), row_digest(rows, row, &columns))).collect()
}

/// The columns that make a row's content: what the database computes follows from the others.
pub(crate) fn content(book: &Book) -> Vec<usize> {
    let table = &book.logged.table;
    (0..table.columns.len()).filter(|&c| !table.columns[c].generated).collect()
}

/// What the log says of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Line {
    wall: i64,
    /// An insert was noted.
    born: bool,
    /// Something was noted that says that a row stood there before.
    stood: bool,
    /// Nothing was noted but what rowferry itself wrote.
    ours_alone: bool,
}

/// Lines of a log by their keys.
pub(crate) struct Lines {
    /// Each key once.
    pub(crate) keys: Batch,
    /// The keys in the order of `keys`.
    lines: Vec<(KeyId, Line)>,
}

impl Lines {
    /// Sorts the lines of a log by key.
    pub(crate) fn read(book: &Book, lines: &Batch) -> Result<Self> {
        let log = &book.log.table;
        let column = |name: &str| {
            log.column(name).ok_or_else(|| Error::new(ErrorKind::Protocol, format!("{} has no {name}", log.name)))
        };
        let key: Vec<usize> = book.keys.columns.iter().map(|c| column(&c.name)).collect::<Result<_>>()?;
        let (operation, wall, label) =
            (column(ChangeLog::OPERATION)?, column(ChangeLog::WALL)?, column(ChangeLog::LABEL)?);
        let mut columns: Vec<Column> = book.no_keys();
        let mut places: HashMap<KeyId, usize> = HashMap::new();
        let mut found: Vec<(KeyId, Line)> = Vec::new();
        for row in 0..lines.rows() {
            if lines.cell(row, operation) == Cell::Bytes(b"X") {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!(
                        "{} was truncated, which cannot be followed yet: empty it at the other ends too, then take capture \
                         out with 'rowferry capture remove' and sync again, which compares all rows",
                        book.logged.table.name
                    ),
                ));
            }
            if key.iter().any(|&c| lines.cell(row, c) == Cell::Null) {
                // No row is found by such a key, so none was given a version by it.
                continue;
            }
            let id = key_id(lines, row, &key);
            let at = *places.entry(id).or_insert_with(|| {
                for (column, &c) in columns.iter_mut().zip(&key) {
                    column.push_cell(lines.cell(row, c));
                }
                found.push((id, Line { wall: i64::MIN, born: false, stood: false, ours_alone: true }));
                found.len() - 1
            });
            let line = &mut found[at].1;
            line.ours_alone &= lines.cell(row, label) == Cell::Int(1);
            if let Cell::Int(micros) = lines.cell(row, wall) {
                line.wall = line.wall.max(micros);
            }
            match lines.cell(row, operation) {
                Cell::Bytes(b"I") => line.born = true,
                Cell::Bytes(b"D" | b"T") => line.stood = true,
                _ => {}
            }
        }
        Ok(Self { keys: Batch::new(book.keys.clone(), columns), lines: found })
    }
}
