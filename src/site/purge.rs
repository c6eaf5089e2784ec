//! Deletions of which nothing needs to be kept any more.
//!
//! A tombstone goes when it is older than the retention and every reader of its table has passed it. How old it is tells
//! its number: of each table it is noted which number was the last at some moment, and what is below it is old once that
//! moment is. What goes is walked through in the order of the numbers, so that an entry is looked at once and no table is
//! looked through. What stays of it is the table's [`Forgotten`].

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::cursors::number;
use super::install::TABLES_MAX;
use super::{Book, Site, decode, read_row};
use crate::engine::{ErrorKind, Lookup, Result, RowLock, Target, WriteMode, WriteOptions};
use crate::model::{Batch, Cell, Clock, Column, Vector};

/// Entries that are looked at in one run, while nobody else is given numbers.
const PIECE: usize = 2_000;
/// Records of changes set aside that are looked through at a time.
const RECORDS: usize = 1_000;

/// What a table has forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forgotten {
    /// Up to this number tombstones have gone: a reader that has not passed it may not have heard of them.
    pub upto: i64,
    /// All that was known of the rows that they stood for. A row that was born otherwise was never deleted here.
    pub floor: Vector,
    /// What has a number up to this one was there at that moment of the database's clock.
    there: (i64, i64),
}

impl Site {
    /// For how long tombstones are kept where nothing else is said.
    pub const KEEP: Duration = Duration::from_hours(90 * 24);

    /// In microseconds.
    fn keep(&self) -> i64 {
        i64::try_from(self.keep_tombstones.as_micros()).unwrap_or(i64::MAX)
    }

    /// How long the note of a reader that stands still is good enough: who is there is to be heard of often enough.
    pub(super) fn heard(&self) -> i64 {
        const DAY: i64 = 24 * 3600 * 1_000_000;
        (self.keep() / 8).min(DAY)
    }

    /// Whether a reader that was last heard of then is given up.
    pub(super) fn is_silent(&self, at: i64, now: i64) -> bool {
        now.saturating_sub(at) > self.keep()
    }

    /// What tables have forgotten, by their numbers.
    pub async fn forgotten(&self, target: &mut dyn Lookup) -> Result<HashMap<u32, Forgotten>> {
        let found = target.scan(&self.books.floors, None, TABLES_MAX).await?;
        let mut tables = HashMap::new();
        for row in 0..found.rows() {
            let [Cell::Int(n), Cell::Int(upto), Cell::Bytes(floor), Cell::Int(last), Cell::Int(at)] =
                [0, 1, 2, 3, 4].map(|column| found.cell(row, column))
            else {
                return Err(self.damaged(&self.books.floors));
            };
            let (Ok(n), Ok(floor)) = (u32::try_from(n), Vector::from_bytes(floor)) else {
                return Err(self.damaged(&self.books.floors));
            };
            tables.insert(n, Forgotten { upto, floor, there: (last, at) });
        }
        Ok(tables)
    }

    /// What versions of this site have to be above: nothing is known any more under keys that rows gave up, or whose
    /// tombstones have gone, and a write to one of them must not pass for one that others have seen there.
    pub async fn floor(&self, target: &mut dyn Lookup) -> Result<Clock> {
        let forgotten = self.forgotten(target).await?;
        let floor = forgotten.values().map(|table| table.floor.latest()).max().unwrap_or(Clock::ZERO);
        Ok(floor.max(self.moved(target).await?))
    }

    /// Takes over what another site has forgotten of a table: of these deletions nobody tells this one any more, so it has
    /// to doubt what comes from others as if it had let them go itself. In a transaction of its own.
    pub async fn inherit(&self, target: &mut dyn Target, table: u32, floor: &Vector) -> Result<()> {
        target.begin(WriteOptions::default()).await?;
        let done = async {
            let last = self.wait_for_turn(target).await?;
            let (before, now) = (self.forgotten(target).await?.remove(&table), target.now().await?);
            let there = before.is_some();
            let mut after = before.unwrap_or_else(|| Forgotten::none(last, now));
            after.floor.join(floor);
            self.set_forgotten(target, &[(table, there, after)]).await
        };
        let done = done.await;
        end(target, done).await
    }

    /// Names of tables of which something waits, was refused, or is a conflict that is open: what stands there, or stood,
    /// may be asked for again.
    pub async fn aside(&self, target: &mut dyn Lookup) -> Result<BTreeSet<String>> {
        let books = &self.books;
        let mut tables = BTreeSet::new();
        for (table, columns, open) in [
            (&books.conflicts, [2, 5, 8], true),
            (&books.quarantine, [2, 3, 7], false),
            (&books.waiting, [2, 3, 7], false),
        ] {
            let (records, mut above) = (Arc::new(table.project(&columns)), i64::MIN);
            loop {
                let found = target.scan(&records, Some((2, above)), RECORDS).await?;
                for row in 0..found.rows() {
                    if let Cell::Int(at) = found.cell(row, 2) {
                        above = at;
                    }
                    if let Cell::Bytes(name) = found.cell(row, 0)
                        && (!open || found.cell(row, 1) == Cell::Bytes(b"open"))
                    {
                        tables.insert(String::from_utf8_lossy(name).into_owned());
                    }
                }
                if found.rows() < RECORDS {
                    break;
                }
            }
        }
        Ok(tables)
    }

    /// Lets go what nobody needs any more, a piece of it, outside a transaction. Nothing depends on it: what goes wrong is
    /// tried again.
    ///
    /// # Errors
    /// `Unreachable`.
    pub async fn purge(&self, target: &mut dyn Target) -> Result<()> {
        target.begin(WriteOptions { point: true, ..WriteOptions::default() }).await?;
        let due = self.due(target).await;
        target.rollback().await?;
        match due {
            Ok(false) => return Ok(()),
            Ok(true) => {}
            Err(e) => return Err(e),
        }
        target.begin(WriteOptions::default()).await?;
        let done = self.purge_piece(target).await;
        match end(target, done).await {
            Err(e) if e.kind != ErrorKind::Unreachable => {
                tracing::debug!("old deletions are kept for now: {e}");
                Ok(())
            }
            done => done,
        }
    }

    /// Whether there is a table of which anything may go, or is to be noted.
    async fn due(&self, target: &mut dyn Target) -> Result<bool> {
        let (tables, now) = (self.forgotten(target).await?, target.now().await?);
        let last = self.last_number(target).await?;
        if self.tables.iter().any(|book| !tables.contains_key(&book.logged.n)) {
            return Ok(true);
        }
        if tables.values().any(|table| table.there.1 > now) {
            return Ok(true);
        }
        let old: Vec<&Forgotten> = tables.values().filter(|table| table.is_old(now, self.keep())).collect();
        if old.iter().any(|table| table.upto >= table.there.0 && table.there.0 < last) {
            return Ok(true);
        }
        if old.iter().all(|table| table.upto >= table.there.0) {
            return Ok(false);
        }
        let (held, silent) = self.held(target, now).await?;
        let aside = self.aside(target).await?;
        let goes = |book: &&Arc<Book>| {
            tables.get(&book.logged.n).is_some_and(|t| old.contains(&t) && t.upto < t.bound(book, &held))
        };
        Ok(silent || self.tables.iter().any(|book| goes(&book) && !aside.contains(&book.logged.table.name.to_string())))
    }

    /// How far all readers of each table are that were heard of, by number; and whether others have to be given up.
    async fn held(&self, target: &mut dyn Lookup, now: i64) -> Result<(HashMap<u32, i64>, bool)> {
        let (mut held, mut silent) = (HashMap::new(), false);
        for reader in self.readers(target).await? {
            let Some(position) = reader.position else { continue };
            if self.is_silent(reader.at, now) {
                silent = true;
            } else {
                held.entry(reader.table).and_modify(|upto: &mut i64| *upto = position.min(*upto)).or_insert(position);
            }
        }
        Ok((held, silent))
    }

    async fn purge_piece(&self, target: &mut dyn Target) -> Result<()> {
        let last = self.wait_for_turn(target).await?;
        let now = target.now().await?;
        self.give_up(target, now).await?;
        let (held, _) = self.held(target, now).await?;
        let aside = self.aside(target).await?;
        let (before, mut after, mut left) = (self.forgotten(target).await?, Vec::new(), PIECE);
        for book in &self.tables {
            let n = book.logged.n;
            let Some(known) = before.get(&n) else {
                after.push((n, false, Forgotten::none(last, now)));
                continue;
            };
            let mut table = known.clone();
            if table.there.1 > now {
                // The clock was set back: it is not known how old anything is.
                table.there = (last, now);
                after.push((n, true, table));
                continue;
            }
            if !table.is_old(now, self.keep()) {
                continue;
            }
            if left > 0 && !aside.contains(&book.logged.table.name.to_string()) {
                let bound = table.bound(book, &held);
                left -= table.purge(target, book, bound, left).await?.min(left);
            }
            if table.upto >= table.there.0 {
                table.there = (last, now);
            }
            if table != *known {
                after.push((n, true, table));
            }
        }
        self.set_forgotten(target, &after).await
    }

    /// Until this transaction ends nobody else is given numbers, and whoever begins to read waits. The last number.
    async fn wait_for_turn(&self, target: &mut dyn Target) -> Result<i64> {
        Ok(read_row(target, &self.books.site, RowLock::Wait).await?.seq)
    }

    /// Each with its number, and whether there is a row of it.
    async fn set_forgotten(&self, target: &mut dyn Target, tables: &[(u32, bool, Forgotten)]) -> Result<()> {
        for mode in [WriteMode::Update, WriteMode::Insert] {
            for (n, _, table) in tables.iter().filter(|(_, there, _)| *there == (mode == WriteMode::Update)) {
                let mut floor = Column::default();
                floor.push_bytes(&table.floor.to_bytes());
                let (last, at) = table.there;
                let columns = vec![number((*n).into()), number(table.upto), floor, number(last), number(at)];
                target.write(mode, &Batch::new(self.books.floors.clone(), columns)).await?;
            }
        }
        target.flush().await
    }
}

/// Keeps what was done, or nothing of it.
async fn end(target: &mut dyn Target, done: Result<()>) -> Result<()> {
    match done {
        Ok(()) => target.commit().await,
        Err(e) => {
            // The connection may be what failed; dropping it rolls back too.
            let _ = target.rollback().await;
            Err(e)
        }
    }
}

impl Forgotten {
    /// Nothing yet.
    fn none(last: i64, now: i64) -> Self {
        Self { upto: 0, floor: Vector::default(), there: (last, now) }
    }

    /// Whether the moment is old enough.
    fn is_old(&self, now: i64, keep: i64) -> bool {
        now.saturating_sub(self.there.1) >= keep
    }

    /// Up to which number tombstones may go.
    fn bound(&self, book: &Book, held: &HashMap<u32, i64>) -> i64 {
        held.get(&book.logged.n).map_or(self.there.0, |held| self.there.0.min(*held))
    }

    /// Lets the tombstones go up to a number, of so many entries at most; how many it has looked at. Entries without a
    /// number are no deletions.
    async fn purge(&mut self, target: &mut dyn Target, book: &Arc<Book>, bound: i64, most: usize) -> Result<usize> {
        if self.upto >= bound {
            return Ok(0);
        }
        let found = target.scan(&book.versions, Some((book.seq(), self.upto)), most).await?;
        let (mut gone, mut upto) = (Vec::new(), bound);
        for row in 0..found.rows() {
            let known = decode(book, &found, row)?;
            if known.seq > bound {
                break;
            }
            if row + 1 == most {
                upto = known.seq;
            }
            if known.entry.digest.is_none() {
                self.floor.join(&known.entry.vector);
                self.floor.add(known.entry.version);
                gone.push(row);
            }
        }
        self.upto = upto;
        if !gone.is_empty() {
            target.write(WriteMode::Delete, &found.select(gone.into_iter())).await?;
        }
        Ok(found.rows())
    }
}
