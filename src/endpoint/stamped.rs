//! A database that sends without any bookkeeping of its own: a column says when each row was written.
//!
//! The place of a table is the latest stamp that was read, as the source wrote it. What commits late carries an earlier
//! one, so rows are read once more for a while; that changes nothing where they have not changed. Deletions leave no
//! stamp, and are not seen: where all rows are compared, the receiving end lists those that came from here
//! ([`Sender::bury`]), and what is told of their keys comes first among the changes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::local::{empty, own_keys};
use super::mapping::Conditions;
use super::{
    Current, Fault, Folded, Keys, Outcome, Parcel, Place, Resumed, Route, Seen, Sender, Standing, Standings, Start,
};
use crate::capture::{Changes, FittedBatch, Reading, read as read_rows};
use crate::engine::{Database, Error, ErrorKind, ReadRequest, Result, RowLock, Selection, Target, WriteOptions};
use crate::model::{Batch, BatchLimits, Clock, Digest, Entry, Vector, Version, moment, row_digest, tells_moments};
use crate::site::{KeyId, key_id};

/// For so long after a stamp was first read, rows with one that much earlier are read again: a transaction that is open
/// for longer may go by unseen. Microseconds.
const LOOK_BACK: i64 = 10 * 60 * 1_000_000;
/// A stamp that lies further in the future is no time of a write, and nothing is measured by it.
const AHEAD_MAX: i64 = 24 * 3600 * 1_000_000;

/// Keys of rows that a comparison has found, at most: they are held in memory, some 100 MiB of them.
const NAMED_MAX: usize = 2_000_000;

/// Keys that are read together.
const KEYS: usize = 2_000;

/// What only reads.
const POINT: WriteOptions =
    WriteOptions { silence_triggers: false, defer_foreign_keys: false, labelled: false, point: true };

/// A database whose rows carry the time at which they were written.
pub struct StampedSender {
    database: Arc<dyn Database>,
    route: Arc<Route>,
    connection: Box<dyn Target>,
    /// The place of each table's stamp among its columns.
    stamps: Vec<Result<usize>>,
    /// Where a column that says when a row was deleted stands among those that are sent.
    deletions: Vec<Option<usize>>,
    conditions: Vec<Conditions>,
    /// The latest stamps of tables that were read whole.
    loaded: HashMap<usize, Arc<AtomicI64>>,
    /// Tables that were read whole and not yet by their stamps.
    meeting: HashSet<usize>,
    /// Where the tables went on at the beginning.
    starts: Vec<Place>,
    /// What comparisons of all rows have found.
    named: HashMap<usize, Named>,
    feed: Option<Feed>,
    stop: CancellationToken,
}

/// Keys of rows of one table, in this end's form.
#[derive(Default)]
struct Named {
    /// Under which nothing stands, or nothing that meets the condition.
    gone: Vec<Batch>,
    /// Which the receiving end has otherwise, or lacks.
    others: Vec<Batch>,
    /// Batches that were told; whoever gets them may still ask what is gone.
    told: usize,
}

impl Named {
    fn len(&self) -> usize {
        self.gone.iter().chain(&self.others).map(Batch::rows).sum()
    }

    fn next(&self) -> Option<&Batch> {
        self.gone.iter().chain(&self.others).nth(self.told)
    }
}

/// Tables that are read one after another.
struct Feed {
    tables: Vec<usize>,
    at: usize,
    open: Option<Window>,
}

/// What is read of one table.
struct Window {
    rows: Reading,
    /// Rows with an earlier stamp are not meant.
    from: i64,
    /// The latest stamp so far.
    latest: i64,
    now: i64,
}

impl StampedSender {
    /// Opens one.
    ///
    /// # Errors
    /// Those of a new connection.
    pub async fn open(database: &Arc<dyn Database>, route: &Arc<Route>, stop: &CancellationToken) -> Result<Self> {
        let stamp = |mapping: &super::Mapping| {
            mapping.stamp.ok_or_else(|| {
                Error::new(
                    ErrorKind::SchemaMismatch,
                    "capture: timestamp needs a column that says when a row was written, and is synced: call it \
                     updated_at, or name it with timestamp: COLUMN"
                        .to_owned(),
                )
            })
        };
        let deletion = |mapping: &super::Mapping| {
            let at = mapping.from.column(&mapping.soft_delete.as_ref()?.name)?;
            Some(at).filter(|&at| tells_moments(&mapping.from.columns[at].logical))
        };
        Ok(Self {
            connection: database.target().await?,
            deletions: route.tables.iter().map(deletion).collect(),
            conditions: (route.tables.iter())
                .map(|mapping| mapping.conditions(database.as_ref()))
                .collect::<Result<_>>()?,
            stamps: route.tables.iter().map(stamp).collect(),
            database: database.clone(),
            route: route.clone(),
            loaded: HashMap::new(),
            meeting: HashSet::new(),
            starts: (0..route.tables.len()).map(|table| Place { table, position: 0, token: 0 }).collect(),
            named: HashMap::new(),
            feed: None,
            stop: stop.clone(),
        })
    }

    fn stamp(&self, table: usize) -> Outcome<usize> {
        self.stamps[table].clone().map_err(Fault::at(table))
    }

    /// When a row was written or deleted, as far as it says.
    fn moment(&self, table: usize, rows: &Batch, row: usize) -> Outcome<Option<i64>> {
        let said = |at: usize| moment(&rows.table.columns[at].logical, rows.cell(row, at), self.database.zone());
        Ok(said(self.stamp(table)?).max(self.deletions[table].and_then(said)))
    }

    /// A condition that all rows meet that were written or deleted since a moment, and few others; `None`: there is none.
    fn since(&self, table: usize, stamp: usize, moment: i64) -> Option<String> {
        let columns = &self.route.tables[table].from.columns;
        let written = self.database.since(&columns[stamp], moment)?;
        let (Some(at), Some(alive)) = (self.deletions[table], &self.conditions[table].alive) else {
            return Some(written);
        };
        let deleted = self.database.since(&columns[at], moment)?;
        Some(format!("({written}) OR (NOT ({alive}) AND ({deleted}))"))
    }

    async fn now(&mut self) -> Result<i64> {
        self.connection.begin(POINT).await?;
        let now = self.connection.now().await;
        self.connection.rollback().await?;
        now
    }

    /// The latest stamp that was read of a table, and the earliest that is read from there.
    fn bounds(&self, place: Place, now: i64) -> (i64, i64) {
        let loaded = self.loaded.get(&place.table).map_or(i64::MIN, |latest| latest.load(Ordering::Relaxed));
        let latest = if place.position == 0 { loaded.max(0) } else { place.position };
        let settled = place.position != 0 && now.saturating_sub(place.token) > LOOK_BACK;
        (latest, if settled { latest + 1 } else { latest - LOOK_BACK })
    }

    /// Keys of rows of which a column says that they were deleted since what was read last.
    async fn marked(&mut self, table: usize, alive: &str) -> Outcome<Batch> {
        let stamp = self.stamp(table)?;
        let now = self.now().await?;
        let (_, from) = self.bounds(self.starts[table], now);
        let since = self.since(table, stamp, from).map_or_else(String::new, |since| format!(" AND ({since})"));
        let keys = self.route.tables[table].from_keys.clone();
        let request = ReadRequest {
            filter: Some(format!("NOT ({alive}){since}")),
            table: keys.clone(),
            rows: Selection::All,
            ordered: false,
            limits: BatchLimits { rows: KEYS, bytes: usize::MAX },
        };
        let snapshot = self.database.snapshot().await?;
        let mut rows = read_rows(snapshot.source().await?, request, None, self.stop.clone());
        let mut marked = empty(&keys);
        while let Some(batch) = rows.recv().await {
            marked.append(&batch.map_err(Fault::at(table))?.batch);
            if marked.rows() >= NAMED_MAX {
                break;
            }
        }
        Ok(marked)
    }

    /// Begins to read a table where it goes on.
    async fn window(&mut self, place: Place, limits: BatchLimits) -> Outcome<Window> {
        let (table, stamp) = (place.table, self.stamp(place.table)?);
        self.meeting.remove(&table);
        let now = self.now().await?;
        let (latest, from) = self.bounds(place, now);
        let mapping = &self.route.tables[table];
        let request = ReadRequest {
            filter: self.since(table, stamp, from),
            table: mapping.from.clone(),
            rows: Selection::All,
            ordered: false,
            limits,
        };
        let snapshot = self.database.snapshot().await?;
        let rows = read_rows(snapshot.source().await?, request, None, self.stop.clone());
        Ok(Window { rows, from, latest, now })
    }

    /// What stands under these keys, as far as it meets the condition: the key's columns alone.
    async fn meeting(&mut self, table: usize, keys: &Batch) -> Outcome<Batch> {
        let condition = self.conditions[table].meeting.clone();
        self.under(table, keys, condition.as_deref()).await
    }

    /// The key's columns of what stands under these keys and meets a condition.
    async fn under(&mut self, table: usize, keys: &Batch, condition: Option<&str>) -> Outcome<Batch> {
        let mapping = &self.route.tables[table];
        self.connection.begin(POINT).await?;
        let found = match condition {
            None => self.connection.lookup(&mapping.from_keys, keys, RowLock::None).await,
            Some(condition) => self.connection.lookup_where(&mapping.from_keys, keys, condition).await,
        };
        self.connection.rollback().await?;
        found.map_err(Fault::at(table))
    }

    /// The changes that rows are. Those that do not meet the condition are said to have left; under the keys `gone` no row
    /// stands.
    async fn told(&mut self, table: usize, rows: Batch, gone: &Batch) -> Outcome<Changes> {
        let mapping = self.route.tables[table].clone();
        let columns: Vec<usize> = (0..mapping.from.columns.len()).collect();
        let (key, site) = (&mapping.key.columns, self.route.from.site);
        let keys = key.iter().map(|&at| rows.columns()[at].clone()).collect();
        let mut keys = Batch::new(mapping.from_keys.clone(), keys);
        let meets = match self.conditions[table].meeting {
            None => None,
            Some(_) => Some(ids(&self.meeting(table, &keys).await?)),
        };
        let left = |row| meets.as_ref().is_some_and(|meets| !meets.contains(&key_id(&rows, row, key)));
        let mut left: Vec<bool> = (0..rows.rows()).map(left).collect();
        let entry = |row| {
            let digest = row_digest(&rows, row, &columns);
            let base = Entry::standing_at(site, digest);
            let written = self.moment(table, &rows, row)?.filter(|_| !self.meeting.contains(&table));
            Ok(written.map_or(base.clone(), |at| {
                let version = Version { clock: Clock::of_write(at, i64::MAX, Clock::ZERO), site };
                let mut vector = Vector::default();
                vector.add(version);
                Entry { version, vector, ..base }
            }))
        };
        let mut entries: Vec<Entry> = (0..rows.rows()).map(entry).collect::<Outcome<_>>()?;
        let stay: Vec<usize> = (0..rows.rows()).filter(|&row| !left[row]).collect();
        let mut next = 0..;
        let mut row_of: Vec<Option<usize>> = left.iter().map(|left| if *left { None } else { next.next() }).collect();
        keys.append(gone);
        for _ in 0..gone.rows() {
            entries.push(Entry { digest: None, ..Entry::standing_at(site, Digest::default()) });
            left.push(false);
            row_of.push(None);
        }
        let mut changes = Changes { entries, row_of, left, ..Changes::of(keys, rows.select(stay.into_iter())) };
        if let Some(alive) = self.conditions[table].alive.clone().filter(|_| changes.left.contains(&true)) {
            let left = (0..changes.left.len()).filter(|&at| changes.left[at]).collect::<Vec<_>>();
            let asked = changes.keys.select(left.iter().copied());
            let alive = ids(&self.under(table, &asked, Some(&alive)).await?);
            let all: Vec<usize> = (0..asked.columns().len()).collect();
            let dead = |(row, _): &(usize, usize)| !alive.contains(&key_id(&asked, *row, &all));
            left.into_iter().enumerate().filter(dead).for_each(|(_, at)| changes.delete(at));
        }
        Ok(changes)
    }

    /// What stands under these keys; where `gone`, those too under which nothing does.
    async fn standing(&mut self, table: usize, keys: &Batch, gone: bool) -> Outcome<Changes> {
        let mapping = self.route.tables[table].clone();
        self.connection.begin(POINT).await?;
        let found = self.connection.lookup(&mapping.from, keys, RowLock::None).await;
        self.connection.rollback().await?;
        let found = found.map_err(Fault::at(table))?;
        let there: HashSet<_> = (0..found.rows()).map(|row| key_id(&found, row, &mapping.key.columns)).collect();
        let gone = if gone { without(keys, &there) } else { empty(&mapping.from_keys) };
        self.told(table, found, &gone).await
    }

    /// Takes note of keys that are to be told.
    fn name(&mut self, table: usize, which: fn(&mut Named) -> &mut Vec<Batch>, keys: Batch) -> Outcome<()> {
        let named = self.named.entry(table).or_default();
        if named.len() + keys.rows() > NAMED_MAX {
            let name = &self.route.tables[table].from.name;
            return Err(Fault::at(table)(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "more than {NAMED_MAX} rows of {name} are other at {}, too many to be compared beside the changes: \
                     nothing was changed; bring the table in step with mode: full or mirror",
                    self.route.to.label
                ),
            )));
        }
        if keys.rows() > 0 {
            which(named).push(keys);
        }
        Ok(())
    }
}

/// The keys, by what they are told apart by.
pub(super) fn ids(keys: &Batch) -> HashSet<KeyId> {
    let all: Vec<usize> = (0..keys.columns().len()).collect();
    (0..keys.rows()).map(|row| key_id(keys, row, &all)).collect()
}

/// Those of the keys that are none of these.
fn without(keys: &Batch, these: &HashSet<KeyId>) -> Batch {
    let all: Vec<usize> = (0..keys.columns().len()).collect();
    let others: Vec<usize> = (0..keys.rows()).filter(|&row| !these.contains(&key_id(keys, row, &all))).collect();
    keys.select(others.into_iter())
}

#[async_trait]
impl Sender for StampedSender {
    async fn resume(&mut self, reader: &Standings) -> Result<Resumed> {
        self.feed = None;
        self.named.clear();
        let start = |standing: &Option<Standing>| match standing {
            None => Start::Not,
            Some(Standing { at: None, .. }) => Start::Never,
            Some(Standing { at: Some((_, place)), .. }) => Start::Place(*place),
        };
        let place = |start: &mut Place, standing: &Option<Standing>| {
            let at = standing.and_then(|standing| standing.at);
            *start = at.map_or(Place { position: 0, token: 0, ..*start }, |(_, place)| place);
        };
        self.starts.iter_mut().zip(&reader.tables).for_each(|(start, standing)| place(start, standing));
        let starts: Vec<Start> = reader.tables.iter().map(start).collect();
        let nothing = vec![Vector::default(); starts.len()];
        Ok(Resumed::At(starts, nothing))
    }

    async fn seen(&mut self) -> Result<Option<Seen>> {
        Ok(None)
    }

    async fn fold(&mut self, _tables: &[Place]) -> Outcome<Folded> {
        Ok(Folded::default())
    }

    async fn bury(&mut self, table: usize, keys: &Batch, _forgotten: bool) -> Outcome<Vec<usize>> {
        let (keys, _) = own_keys(&self.database, &self.route, &self.route.tables[table], keys);
        let there = ids(&self.meeting(table, &keys).await?);
        self.name(table, |named| &mut named.gone, without(&keys, &there))?;
        Ok(Vec::new())
    }

    async fn vouch(&mut self, table: usize, keys: &Batch, _all: bool) -> Outcome<()> {
        self.name(table, |named| &mut named.others, keys.clone())
    }

    async fn changes(&mut self, after: &[Place], limits: BatchLimits) -> Outcome<Parcel> {
        let asked: Vec<usize> = after.iter().map(|place| place.table).collect();
        let next = |table: &usize| Some((*table, self.named.get(table)?.next()?.clone()));
        if let Some((table, keys)) = asked.iter().find_map(next) {
            // What was compared is read as it was written.
            self.meeting.remove(&table);
            let changes = self.standing(table, &keys, true).await?;
            self.named.entry(table).or_default().told += 1;
            return Ok(Parcel { changes: vec![(table, changes)], places: after.to_vec(), seen: None, more: true });
        }
        // Where a table was left out, what was read ahead may have gone with it.
        let mut feed = match self.feed.take().filter(|feed| feed.tables == asked) {
            Some(feed) => feed,
            None => Feed { tables: asked, at: 0, open: None },
        };
        let mut places = after.to_vec();
        while let Some(place) = places.get_mut(feed.at) {
            let table = place.table;
            let mut window = match feed.open.take() {
                Some(window) => window,
                None => self.window(*place, limits).await?,
            };
            let Some(batch) = window.rows.recv().await else {
                if window.latest > place.position {
                    *place = Place { position: window.latest, token: window.now, ..*place };
                }
                feed.at += 1;
                continue;
            };
            let rows = batch.map_err(Fault::at(table))?.batch;
            let moments = (0..rows.rows()).map(|row| self.moment(table, &rows, row)).collect::<Outcome<Vec<_>>>()?;
            let believed = moments.iter().flatten().filter(|at| **at <= window.now.saturating_add(AHEAD_MAX));
            window.latest = believed.fold(window.latest, |latest, at| latest.max(*at));
            let meant = (0..rows.rows()).filter(|&row| moments[row].is_none_or(|at| at >= window.from));
            let meant = rows.select(meant.collect::<Vec<_>>().into_iter());
            feed.open = Some(window);
            if meant.rows() > 0 {
                let none = self.route.tables[table].from_keys.clone();
                let changes = self.told(table, meant, &empty(&none)).await?;
                self.feed = Some(feed);
                return Ok(Parcel { changes: vec![(table, changes)], places, seen: None, more: true });
            }
        }
        Ok(Parcel { changes: Vec::new(), places, seen: None, more: false })
    }

    async fn deleted(&mut self, after: Place, _limit: usize) -> Outcome<(Batch, Place)> {
        let none = empty(&self.route.tables[after.table].from_keys);
        // No stamp is as early: so many batches were told.
        let told = usize::try_from(after.position.min(0).unsigned_abs()).unwrap_or(usize::MAX);
        let next = Place { position: after.position.min(0) - 1, ..after };
        let gone = self.named.get(&after.table).map_or(&[][..], |named| &named.gone);
        if let Some(batch) = gone.get(told) {
            return Ok((batch.clone(), next));
        }
        match self.conditions[after.table].alive.clone().filter(|_| told == gone.len()) {
            Some(alive) => Ok((self.marked(after.table, &alive).await?, next)),
            None => Ok((none, after)),
        }
    }

    async fn current(&mut self, table: usize, keys: &Keys) -> Outcome<Current> {
        let mapping = self.route.tables[table].clone();
        // Of what the receiving end has set aside it is said when it is gone. When the two meet nothing went yet.
        let (keys, gone) = match keys {
            Keys::Sent(keys) => (keys.clone(), false),
            Keys::Received(keys) => (own_keys(&self.database, &self.route, &mapping, keys).0, true),
        };
        let changes = self.standing(table, &keys, gone).await?;
        Ok(Current { changes, left_out: Vec::new(), seen: None })
    }

    async fn rows(&mut self, table: usize, limits: BatchLimits) -> Outcome<Reading> {
        let (mapping, stamp) = (&self.route.tables[table], self.stamp(table)?);
        let filter = self.conditions[table].meeting.clone();
        let request = ReadRequest { table: mapping.from.clone(), filter, rows: Selection::All, ordered: true, limits };
        let snapshot = self.database.snapshot().await?;
        let mut all = read_rows(snapshot.source().await?, request, None, self.stop.clone());
        let latest = Arc::new(AtomicI64::new(i64::MIN));
        self.loaded.insert(table, latest.clone());
        self.meeting.insert(table);
        let (logical, zone) = (mapping.from.columns[stamp].logical.clone(), self.database.zone().clone());
        let bound = self.now().await?.saturating_add(AHEAD_MAX);
        let (pass, rows) = mpsc::channel::<Result<FittedBatch>>(1);
        tokio::spawn(async move {
            while let Some(batch) = all.recv().await {
                if let Ok(FittedBatch { batch, .. }) = &batch {
                    let moments = (0..batch.rows()).filter_map(|row| moment(&logical, batch.cell(row, stamp), &zone));
                    latest.fetch_max(moments.filter(|at| *at <= bound).max().unwrap_or(i64::MIN), Ordering::Relaxed);
                }
                if pass.send(batch).await.is_err() {
                    return;
                }
            }
        });
        Ok(rows)
    }
}
