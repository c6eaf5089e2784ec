//! Deletions of which nothing needs to be kept any more.
//!
//! A tombstone goes when it is older than the retention and every reader of its table has passed it. How old it is tells
//! its number: now and then the site notes which number is the last one. What goes is walked through in the order of the
//! numbers, so that an entry is looked at once and no table is looked through; what is left of it is the table's *floor*.
//! A reader that was not heard of for longer than the retention is given up, and compares all rows when it comes back.
//!
//! Numbered [`super::Known::PARTED`] are no deletions: these stay.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::cursors::number;
use super::readers::ReaderState;
use super::{Book, Site, decode, read_row};
use crate::engine::{ErrorKind, Looked, Lookup, Result, RowLock, Target, WriteMode, WriteOptions};
use crate::model::{Batch, Cell, Clock, Column, Version};

/// Entries that are looked at in one transaction, while nobody else is given numbers.
const PIECE: usize = 500;
/// Transactions of one look; the rest has its turn in the next run.
const PIECES: usize = 10;
/// So many moments are noted in the time for which tombstones are kept.
const MOMENTS: i64 = 8;
/// So often is looked in that time.
const LOOKS: i64 = 64;
/// More moments than that there never are.
const MOMENTS_MAX: usize = 1_000;

impl Site {
    /// The highest clocks among the purged tombstones of these tables; without those that have purged none.
    pub async fn floors(
        &self,
        target: &mut dyn Lookup,
        tables: impl Iterator<Item = u32>,
    ) -> Result<HashMap<u32, Clock>> {
        let mut numbers = Column::default();
        tables.for_each(|n| numbers.push_int(n.into()));
        let keys = Batch::new(Arc::new(self.books.floors.project(&[0])), vec![numbers]);
        let found = target.lookup(&self.books.floors, &keys, RowLock::None).await?;
        Ok(floors(&found).into_iter().map(|(n, floor)| (n, floor.version.clock)).collect())
    }

    /// Those of these tables that have purged deletions of which this other site may not have heard: it does not read them,
    /// or was given up.
    pub async fn forgetful(&self, target: &mut dyn Lookup, of: u64, tables: &[u32]) -> Result<HashSet<u32>> {
        let mut numbers = Column::default();
        tables.iter().for_each(|n| numbers.push_int((*n).into()));
        let keys = Batch::new(Arc::new(self.books.floors.project(&[0])), vec![numbers]);
        let purged = floors(&target.lookup(&self.books.floors, &keys, RowLock::None).await?);
        let purged = purged.into_iter().filter(|(_, floor)| floor.version.clock > Clock::ZERO);
        let purged: Vec<(u32, i64)> = purged.map(|(n, floor)| (n, floor.position)).collect();
        if purged.is_empty() {
            return Ok(HashSet::new());
        }
        let readers = self.readers(target).await?;
        let heard = |(n, upto): &(u32, i64)| {
            readers.iter().any(|r| r.site == of && r.table == *n && r.position.is_some_and(|at| at >= *upto))
        };
        Ok(purged.into_iter().filter(|one| !heard(one)).map(|(n, _)| n).collect())
    }
}

/// How far a table is purged.
#[derive(Debug, Clone, Copy)]
struct Floor {
    position: i64,
    version: Version,
}

fn floors(found: &Batch) -> HashMap<u32, Floor> {
    let floor = |row| match [0, 1, 2].map(|column| found.cell(row, column)) {
        [Cell::Int(n), Cell::Int(position), Cell::Bytes(version)] => {
            let version = Version::from_bytes(version).ok()?;
            Some((u32::try_from(n).ok()?, Floor { position, version }))
        }
        _ => None,
    };
    (0..found.rows()).filter_map(floor).collect()
}

/// Looks now and then which tombstones may go.
#[derive(Debug)]
pub struct Purge {
    /// For how long they are kept, in microseconds.
    keep: i64,
    /// When it last looked and was done.
    looked: Option<i64>,
}

impl Purge {
    /// Keeps tombstones for so long.
    #[must_use]
    pub fn after(keep: Duration) -> Self {
        Self { keep: i64::try_from(keep.as_micros()).unwrap_or(i64::MAX).max(1), looked: None }
    }

    /// How long the note of a reader that stands still is good enough: who is there is to be heard of often enough.
    #[must_use]
    pub fn heard(&self) -> i64 {
        (self.keep / MOMENTS).min(super::readers::DAY)
    }

    /// Lets go what nobody needs, if by this time of the database's clock it is time to look; outside a transaction. Nothing
    /// depends on it: what goes wrong is tried again.
    ///
    /// # Errors
    /// `Unreachable`.
    pub async fn look(&mut self, site: &Site, target: &mut dyn Target, now: i64) -> Result<()> {
        if self.looked.is_some_and(|at| (0..self.keep / LOOKS).contains(&now.saturating_sub(at))) {
            return Ok(());
        }
        match self.try_look(site, target, now).await {
            Err(e) if e.kind != ErrorKind::Unreachable => {
                target.rollback().await?;
                tracing::debug!("old deletions are kept for now: {e}");
                Ok(())
            }
            done => done,
        }
    }

    async fn try_look(&mut self, site: &Site, target: &mut dyn Target, now: i64) -> Result<()> {
        for _ in 0..PIECES {
            target.begin(WriteOptions::default()).await?;
            let more = self.piece(site, target).await?;
            target.commit().await?;
            if !more {
                self.looked = Some(now);
                break;
            }
        }
        Ok(())
    }

    /// One transaction: whether there is more. Whoever begins to read notes that under the same lock.
    async fn piece(&self, site: &Site, target: &mut dyn Target) -> Result<bool> {
        let last = read_row(target, &site.books.site, RowLock::Wait).await?.seq;
        let now = target.now().await?;
        let ripe = self.note_moment(site, target, now, last).await?;
        let silent = |reader: &ReaderState| now.saturating_sub(reader.at) > self.keep;
        let readers = site.readers(target).await?;
        site.give_up(target, readers.iter().filter(|reader| silent(reader) && reader.position.is_some())).await?;
        let Some(ripe) = ripe else { return Ok(false) };
        // One that has no place at present is at the beginning.
        let held = |table: u32| {
            let of = readers.iter().filter(|reader| reader.table == table && !silent(reader));
            of.map(|reader| reader.position.unwrap_or(0)).min().unwrap_or(i64::MAX)
        };
        let purged = floors(&target.scan(&site.books.floors, None, super::install::TABLES_MAX).await?);
        let from = |book: &Book| purged.get(&book.logged.n).map_or(0, |floor| floor.position);
        let due = site.tables.iter().map(|book| (book, held(book.logged.n).min(ripe)));
        let due: Vec<(&Arc<Book>, i64)> = due.filter(|(book, upto)| from(book) < *upto).collect();
        let looked =
            due.iter().map(|(book, _)| Looked { table: book.versions.clone(), above: Some((book.seq(), from(book))) });
        let holding = target.holding(&looked.collect::<Vec<_>>()).await?;
        let mut left = PIECE;
        for ((book, upto), _) in due.into_iter().zip(holding).filter(|(_, holds)| *holds) {
            left -= purge(site, target, (book, purged.get(&book.logged.n).copied()), upto, left).await?.min(left);
            if left == 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Notes the last number, when it is time to; the highest one that is old enough.
    async fn note_moment(&self, site: &Site, target: &mut dyn Target, now: i64, last: i64) -> Result<Option<i64>> {
        let book = &site.books.moments;
        let found = target.scan(book, None, MOMENTS_MAX).await?;
        let moment = |row: usize| match (found.cell(row, 0), found.cell(row, 1)) {
            (Cell::Int(position), Cell::Int(at)) => (position, at),
            _ => (i64::MAX, i64::MAX),
        };
        let ripe = |row: &usize| now.saturating_sub(moment(*row).1) >= self.keep;
        let ripe = (0..found.rows()).filter(ripe).map(|row| moment(row).0).max();
        let old: Vec<usize> = (0..found.rows()).filter(|&row| ripe.is_some_and(|ripe| moment(row).0 < ripe)).collect();
        if !old.is_empty() {
            target.write(WriteMode::Delete, &found.select(old.into_iter())).await?;
        }
        // A clock that was set back does not keep everything for ever.
        let newest = (0..found.rows()).map(moment).max();
        let fresh = |at: i64| (0..(self.keep / MOMENTS).max(1)).contains(&now.saturating_sub(at));
        if newest.is_none_or(|(position, at)| position < last && !fresh(at)) {
            target.write(WriteMode::Insert, &Batch::new(book.clone(), vec![number(last), number(now)])).await?;
        }
        Ok(ripe)
    }
}

/// Lets the tombstones of a table go up to a number, of so many entries at most; how many it has looked at.
async fn purge(
    site: &Site,
    target: &mut dyn Target,
    (book, before): (&Arc<Book>, Option<Floor>),
    upto: i64,
    most: usize,
) -> Result<usize> {
    let mut floor = before.unwrap_or(Floor { position: 0, version: Version { clock: Clock::ZERO, site: site.id } });
    let found = target.scan(&book.versions, Some((book.seq(), floor.position)), most).await?;
    let mut gone = Vec::new();
    floor.position = upto;
    for row in 0..found.rows() {
        let known = decode(book, &found, row)?;
        if known.seq > upto {
            break;
        }
        if found.rows() == most {
            floor.position = known.seq;
        }
        if known.entry.digest.is_none() {
            let seen = known.entry.vector.versions().iter().chain([&known.entry.version]).map(|version| version.clock);
            floor.version.clock = seen.fold(floor.version.clock, Ord::max);
            gone.push(row);
        }
    }
    if !gone.is_empty() {
        target.write(WriteMode::Delete, &found.select(gone.into_iter())).await?;
    }
    let mut version = Column::default();
    version.push_bytes(&floor.version.to_bytes());
    let columns = vec![number(book.logged.n.into()), number(floor.position), version];
    let mode = if before.is_some() { WriteMode::Update } else { WriteMode::Insert };
    target.write(mode, &Batch::new(site.books.floors.clone(), columns)).await?;
    target.flush().await?;
    Ok(found.rows())
}
