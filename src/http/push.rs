//! `POST /api/push`: rows of any client, in one transaction: all of them or none.
//!
//! A row carries no version. Its stamp, the table's timestamp column, is compared with the stored row's; without one the
//! arrival counts. Accepted, it is a local write like an application's: triggers note it, its fold gives it a version above
//! the one that it replaces. An older one changes nothing, and is recorded once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use hyper::{StatusCode, header};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::answer::{Answer, Problem, Reply};
use super::router::Call;
use super::rows::{self, DELETED, Opened, read_cell, stamp, stamp_column};
use crate::apply::{Records, Terms, write_splitting};
use crate::capture::{FittedBatch, Shape, fit_batch, fold_tables};
use crate::conflict::{Decision, Policy, Relation, Rule, Side};
use crate::engine::{Error, ErrorKind, RowLock, Target, WriteMode, WriteOptions};
use crate::model::{Batch, Cell, Clock, Column, Entry, Version, row_digest};
use crate::site::{self, Book, KeyId, Site, key_id};

/// Rows of a push.
const ROWS_MAX: usize = 100_000;
/// Bad rows that are named.
const FAULTS_MAX: usize = 100;
/// How often rows are tried that the application holds.
const TRIES: u32 = 8;
/// What records of older rows are of, in place of a sync.
const RECORDED_AS: &str = "/api/push";

/// The body, with values as they were written.
#[derive(Deserialize)]
struct Pushed {
    table: String,
    data: Vec<BTreeMap<String, Box<RawValue>>>,
    #[serde(default)]
    database: Option<String>,
}

/// A row that is refused.
struct Fault {
    row: usize,
    column: Option<String>,
    reason: String,
}

/// Rows that give the same columns, for one kind of write.
struct Group {
    deleted: bool,
    batch: Batch,
    /// The place of each row in the request.
    places: Vec<usize>,
}

/// What rows of a group agree in: how often their keys came before, whether they are gone, and the columns given.
type Sort = (usize, bool, Vec<usize>);

/// What became of them.
#[derive(Default)]
struct Counts {
    inserted: u64,
    updated: u64,
    deleted: u64,
    unchanged: u64,
    older: u64,
}

/// Why a try came to nothing.
enum Failed {
    /// These rows are to blame.
    Rows(Vec<Fault>),
    /// An older row can be recorded only once the bookkeeping is there.
    Unrecorded,
    Error(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// Takes rows in.
pub(super) async fn push(call: Call) -> Reply {
    let mime = call.headers.get(header::CONTENT_TYPE).map_or(&b"application/json"[..], |value| value.as_bytes());
    if !mime.to_ascii_lowercase().starts_with(b"application/json") {
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "rows are taken as application/json"));
    }
    let pushed: Pushed = serde_json::from_slice(&call.body)
        .map_err(|e| Problem::malformed(format!("the body is not {{\"table\": NAME, \"data\": [ROW, …]}}: {e}")))?;
    if pushed.data.len() > ROWS_MAX {
        let what = format!("a push takes at most {ROWS_MAX} rows; send them in parts");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, what));
    }
    let opened = rows::open(&call, pushed.database.as_deref(), &pushed.table).await?;
    if opened.grant.filter.is_some() {
        let what = format!("this key opens only some rows of {}, to which a push cannot be held yet", pushed.table);
        return Err(Problem::new(StatusCode::FORBIDDEN, what));
    }
    let total = pushed.data.len();
    let groups = group(&opened, &pushed.data).map_err(|faults| refused(&faults))?;
    let mut tried = 0;
    let counts = loop {
        tried += 1;
        match once(&opened, &groups).await {
            Ok(counts) => break counts,
            Err(Failed::Rows(faults)) => return Err(refused(&faults)),
            Err(Failed::Unrecorded) => drop(site::install(&opened.database, &[]).await?),
            Err(Failed::Error(e)) if e.kind == ErrorKind::Busy && tried < TRIES => {
                tokio::time::sleep(crate::runtime::Backoff::ROWS.wait(tried, crate::runtime::random())).await;
            }
            Err(Failed::Error(e)) => return Err(e.into()),
        }
    };
    let numbered = opened.key.columns.iter().any(|&at| opened.table.columns[at].identity.is_some());
    if counts.inserted > 0 && numbered {
        // Numbers that the database gives out go on behind those that came.
        opened.database.target().await?.verify(std::slice::from_ref(&opened.table)).await?;
    }
    let Counts { inserted, updated, deleted, unchanged, older } = counts;
    Ok(Answer::json(&json!({ "success": true, "table": pushed.table, "result": { "inserted": inserted,
        "updated": updated, "deleted": deleted, "unchanged": unchanged, "older": older, "total": total } }))
    .with_rows(total))
}

/// 422 with the rows and the reasons.
fn refused(faults: &[Fault]) -> Problem {
    let listed: Vec<_> = faults
        .iter()
        .take(FAULTS_MAX)
        .map(|fault| json!({ "row": fault.row, "column": fault.column, "reason": fault.reason }))
        .collect();
    let first = faults.first().map(|fault| {
        let column = fault.column.as_deref().map(|column| format!(", column {column}")).unwrap_or_default();
        format!("; row {}{column}: {}", fault.row, fault.reason)
    });
    let what = format!("nothing was written: {} rows are refused{}", faults.len(), first.unwrap_or_default());
    Problem::refused(what).with("rows", listed.into()).with("refused", faults.len().into())
}

/// Sorts rows by the columns that they give; a key that comes again goes into a later group.
fn group(opened: &Opened, data: &[BTreeMap<String, Box<RawValue>>]) -> Result<Vec<Group>, Vec<Fault>> {
    let table = &opened.table;
    let mut faults = Vec::new();
    let mut sorted: BTreeMap<Sort, (Vec<Column>, Vec<usize>)> = BTreeMap::new();
    let mut seen: HashMap<KeyId, usize> = HashMap::new();
    let keys = Arc::new(table.project(&opened.key.columns));
    for (place, row) in data.iter().enumerate() {
        let before = faults.len();
        let deleted = row.get(DELETED).is_some_and(|value| value.get() == "true");
        let (mut given, mut cells) = (Vec::new(), Vec::new());
        for (name, value) in row.iter().filter(|(name, _)| *name != DELETED) {
            let fault = |reason: String| Fault { row: place, column: Some(name.clone()), reason };
            let Some(at) = table.column(name) else {
                faults.push(fault("the table has no such column".to_owned()));
                continue;
            };
            if table.columns[at].generated {
                continue; // the database computes it
            }
            let mut cell = Column::default();
            match read_cell(&table.columns[at], opened.database.zone(), value.get(), &mut cell) {
                Ok(()) => {
                    given.push(at);
                    cells.push(cell);
                }
                Err(reason) => faults.push(fault(reason)),
            }
        }
        for &at in &opened.key.columns {
            let name = &table.columns[at].name;
            let there = given.iter().position(|&given| given == at).is_some_and(|n| cells[n].cell(0) != Cell::Null);
            if !there && row.contains_key(name) == given.contains(&at) {
                let reason = "it is part of the key, and missing".to_owned();
                faults.push(Fault { row: place, column: Some(name.clone()), reason });
            }
        }
        if faults.len() > before {
            continue;
        }
        let key: Vec<Column> = opened
            .key
            .columns
            .iter()
            .filter_map(|at| given.iter().position(|given| given == at).map(|n| cells[n].clone()))
            .collect();
        let all: Vec<usize> = (0..key.len()).collect();
        let times = seen.entry(key_id(&Batch::new(keys.clone(), key), 0, &all)).or_default();
        let mut order: Vec<usize> = (0..given.len()).collect();
        order.sort_by_key(|&n| given[n]);
        let columns: Vec<usize> = order.iter().map(|&n| given[n]).collect();
        let width = columns.len();
        let (batch, places) =
            sorted.entry((*times, deleted, columns)).or_insert_with(|| (vec![Column::default(); width], Vec::new()));
        for (column, &n) in batch.iter_mut().zip(&order) {
            column.push_cell(cells[n].cell(0));
        }
        places.push(place);
        *times += 1;
    }
    let mut groups = Vec::with_capacity(sorted.len());
    for ((_, deleted, given), (columns, places)) in sorted {
        let shape = Shape {
            table: Arc::new(table.project(&given)),
            database: Some(opened.database.clone()),
            same_engine: false,
            shifts: vec![None; given.len()].into(),
        };
        let FittedBatch { batch, misfits } = fit_batch(Batch::new(shape.table.clone(), columns), &shape);
        let fault = |(row, column, reason): (usize, usize, String)| Fault {
            row: places[row],
            column: Some(shape.table.columns[column].name.clone()),
            reason,
        };
        faults.extend(misfits.into_iter().map(fault));
        groups.push(Group { deleted, batch, places });
    }
    faults.sort_by_key(|fault| fault.row);
    if faults.is_empty() { Ok(groups) } else { Err(faults) }
}

/// One try, in one transaction.
async fn once(opened: &Opened, groups: &[Group]) -> Result<Counts, Failed> {
    let mut target = opened.database.target().await?;
    let site = site::open(&opened.database).await?;
    let book = site.as_ref().and_then(|site| site.book(&opened.table.name));
    if let (Some(site), Some(book)) = (&site, book) {
        // What was deleted has its tombstone then.
        fold_tables(site, &[(0, book)], target.as_mut()).await.map_err(|fault| fault.error)?;
    }
    target.begin(WriteOptions::default()).await?;
    let mut writing = Writing { opened, site: site.as_ref(), book, counts: Counts::default(), faults: Vec::new() };
    let mut result = Ok(());
    for group in groups {
        result = writing.write(target.as_mut(), group).await;
        if result.is_err() {
            break;
        }
    }
    if result.is_err() || !writing.faults.is_empty() {
        // The connection may be what failed; dropping it rolls back too.
        let _ = target.rollback().await;
        result?;
        writing.faults.sort_by_key(|fault| fault.row);
        return Err(Failed::Rows(writing.faults));
    }
    target.commit().await?;
    Ok(writing.counts)
}

/// A transaction that takes rows in.
struct Writing<'a> {
    opened: &'a Opened,
    site: Option<&'a Site>,
    book: Option<&'a Arc<Book>>,
    counts: Counts,
    faults: Vec<Fault>,
}

impl Writing<'_> {
    async fn write(&mut self, target: &mut dyn Target, group: &Group) -> Result<(), Failed> {
        let table = &self.opened.table;
        let key: Vec<usize> = self.opened.key.columns.clone();
        let given = |at: &usize| group.batch.table.column(&table.columns[*at].name);
        let at: Vec<usize> = key.iter().filter_map(given).collect();
        let keys =
            Batch::new(Arc::new(table.project(&key)), at.iter().map(|&at| group.batch.columns()[at].clone()).collect());
        let stored = target.lookup(table, &keys, RowLock::Wait).await?;
        let places: HashMap<KeyId, usize> = (0..stored.rows()).map(|row| (key_id(&stored, row, &key), row)).collect();
        let tombstones = match self.book {
            Some(book) => site::read(target, book, &keys).await?,
            None => HashMap::new(),
        };
        let (mut gone, mut changed, mut new, mut older) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for row in 0..group.batch.rows() {
            let id = key_id(&group.batch, row, &at);
            let stands = places.get(&id).copied();
            let ours = match stands {
                Some(row) => self.stamp(&stored, row),
                None => tombstones
                    .get(&id)
                    .filter(|known| known.entry.digest.is_none())
                    .and_then(|known| i64::try_from(known.entry.version.clock.micros()).ok()),
            };
            let theirs = self.stamp(&group.batch, row);
            let is_older = ours.zip(theirs).is_some_and(|(ours, theirs)| theirs < ours);
            match (stands, group.deleted) {
                (None, true) => self.counts.unchanged += 1,
                _ if is_older => older.push((row, stands)),
                (Some(_), true) => gone.push(row),
                (Some(there), false) if same(&group.batch, row, &stored, there) => self.counts.unchanged += 1,
                (Some(_), false) => changed.push(row),
                (None, false) => new.push(row),
            }
        }
        self.record(target, &keys, &group.batch, &stored, &older).await?;
        let whole = |rows: &[usize], batch: &Batch| batch.select(rows.iter().copied());
        for (mode, rows, batch) in [
            (WriteMode::Delete, &gone, whole(&gone, &keys)),
            (WriteMode::Update, &changed, whole(&changed, &group.batch)),
            (WriteMode::Insert, &new, whole(&new, &group.batch)),
        ] {
            if batch.rows() == 0 {
                continue;
            }
            let (written, refused) = write_splitting(target, mode, &batch).await?;
            for one in refused {
                let row = group.places[rows[one.row]];
                self.faults.push(Fault { row, column: None, reason: one.reason });
            }
            match mode {
                WriteMode::Insert => self.counts.inserted += written,
                WriteMode::Update => self.counts.updated += written,
                WriteMode::Delete => self.counts.deleted += written,
            }
        }
        Ok(())
    }

    fn stamp(&self, batch: &Batch, row: usize) -> Option<i64> {
        let column = stamp_column(&batch.table)?;
        stamp(&batch.table, column, batch.cell(row, column), self.opened.database.zone())
    }

    /// Notes rows that came too late, each image once.
    async fn record(
        &mut self,
        target: &mut dyn Target,
        keys: &Batch,
        batch: &Batch,
        stored: &Batch,
        older: &[(usize, Option<usize>)],
    ) -> Result<(), Failed> {
        self.counts.older += older.len() as u64;
        if older.is_empty() {
            return Ok(());
        }
        let Some(site) = self.site else { return Err(Failed::Unrecorded) };
        let rule = Rule { policy: Policy::LastWriteWins, generated_keys: false };
        let mut records = Records::new(site, RECORDED_AS, true);
        records.under(Terms::Written(rule), [None; 2]);
        let all: Vec<usize> = (0..batch.columns().len()).collect();
        for (row, stands) in older {
            // The image names the record, so that it is one however often it comes.
            let digest = row_digest(batch, *row, &all);
            let id = u64::try_from(digest.0 >> 64).unwrap_or_default().max(1);
            let version = Version {
                clock: Clock::of_write(self.stamp(batch, *row).unwrap_or(0), i64::MAX, Clock::ZERO),
                site: crate::model::Site { id, epoch: 0 },
            };
            let incoming = Entry { version, ..Entry::base(digest) };
            let decision = Decision::of_row(Relation::Conflict, Side::Local, incoming.clone(), false);
            let ours = stands.map(|row| (stored, row));
            records.conflict((keys, *row), ours, Some((batch, *row)), &decision, (None, &incoming));
        }
        records.write(target).await?;
        Ok(())
    }
}

/// Whether the columns that are given are what is stored.
fn same(batch: &Batch, row: usize, stored: &Batch, there: usize) -> bool {
    let columns: Option<Vec<usize>> =
        batch.table.columns.iter().map(|column| stored.table.column(&column.name)).collect();
    let all: Vec<usize> = (0..batch.columns().len()).collect();
    columns.is_some_and(|columns| row_digest(batch, row, &all) == row_digest(stored, there, &columns))
}
