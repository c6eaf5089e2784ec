//! Changes of one end to the other: the first run brings the rows that were never changed under capture, every run
//! brings what has a version.

use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::merge::is_flood;
use super::run::{Report, TableReport};
use crate::apply::Applied;
use crate::capture::interrupted;
use crate::conflict::FirstRun;
use crate::endpoint::{
    Basis, Differing, Fault, Folded, Keys, Outcome, Outstanding, Parcel, Place, Receiver, Resumed, Route, Sender,
    Start, Unnamed,
};
use crate::engine::{Error, ErrorKind, Result};
use crate::model::{Batch, BatchLimits, Vector};
use crate::runtime::{Backoff, STEP, random};

/// How changes are brought over.
#[derive(Clone)]
pub struct ChangeOptions {
    /// Bounds of a parcel.
    pub limits: BatchLimits,
    /// Whether more than half of a table may be deleted.
    pub force: bool,
    /// Whether all rows are compared, besides what is said to have changed.
    pub full: bool,
    /// Asked to stop.
    pub stop: CancellationToken,
}

/// How often rows are asked for that are being written, or tried that are held.
pub(super) const TRIES: u32 = 8;
/// Changes set aside that are tried once more in one run; the others have their turn in the next.
const ASIDE_MAX: usize = 1_000;
/// Deletions below this are no flood of any table.
const DELETED_MIN: u64 = 50;
/// Keys that are looked at together.
const KEYS: usize = 2_000;
/// Bytes of a parcel in those of a batch.
const PARCEL_BATCHES: usize = 4;

/// Two ends that are about to go on.
pub struct Direction<'a> {
    /// The end that sends.
    pub from: &'a mut dyn Sender,
    /// The end that receives.
    pub to: &'a mut dyn Receiver,
    /// What both were opened for.
    pub route: &'a Route,
}

/// What both ends say before anything moves.
#[derive(Debug, Clone)]
pub struct Agreed {
    /// Where each table goes on.
    pub starts: Vec<Start>,
    /// Tables that are sent with other columns than when all rows were last compared.
    pub widened: Vec<usize>,
    /// By table, what the sending end has forgotten of deleted rows of which the receiving end may not have heard.
    pub forgotten: Vec<Vector>,
}

/// Where each table goes on. Of a way that is `alone` the receiving end is asked too whether it was restored; where changes
/// go back, their way asks.
///
/// # Errors
/// `CursorLost` when one of the two turned out to be a database that was restored: both have to be opened anew.
pub async fn agree(ends: &mut Direction<'_>, alone: bool) -> Result<Agreed> {
    if alone && let Some(seen) = ends.from.seen().await? {
        ends.to.judge(seen).await?;
    }
    let mut standing = ends.to.cursors().await?;
    loop {
        match ends.from.resume(&standing).await? {
            Resumed::At(starts, forgotten) => {
                let goes_on = |at: &usize| matches!(starts[*at], Start::Place(_));
                let widened = |at: &usize| standing.tables[*at].is_some_and(|standing| standing.widened) && goes_on(at);
                let widened = (0..starts.len()).filter(widened).collect();
                return Ok(Agreed { starts, widened, forgotten });
            }
            Resumed::ReaderRestored => {
                let before = std::mem::replace(&mut standing, ends.to.cursors().await?);
                // Another run may have gone on meanwhile.
                if standing == before {
                    ends.to.renew().await?;
                    return Err(Error::new(
                        ErrorKind::CursorLost,
                        format!(
                            "{} was restored: it had read more of {} than it knows of; it goes on under another name",
                            ends.route.to.label, ends.route.from.label
                        ),
                    ));
                }
            }
        }
    }
}

/// Of tables that are sent with other columns than before: what stands in those that are new, and is other at the
/// receiving end or not there, counts as written at the sending end. Both ends are to have each other's changes before. A
/// change of the columns alone sends nothing.
///
/// # Errors
/// What an end says.
pub async fn widen(ends: &mut Direction<'_>, tables: &[usize], options: &ChangeOptions) -> Outcome<()> {
    for &table in tables {
        vouch(ends, table, (Differing::Poorer, true), options).await?;
    }
    Ok(())
}

/// Sees to rows of the receiving end whose deletion the sending end may have forgotten: before anything else goes either way,
/// so that none of them passes for new. Those of which nothing is known where they may have been deleted become deletions
/// there, as old as can be; each then meets its row as in a first run, at both ends where changes go `back`, with the table's
/// place there. `met`: whether the sending end has ever read the other. When this ends early, the receiving end stands where it stood, and it is done once more.
///
/// # Errors
/// What an end says.
pub async fn reunite(
    ends: &mut Direction<'_>,
    back: Option<(&mut Direction<'_>, usize)>,
    (table, floor, met): (usize, &Vector, bool),
    options: &ChangeOptions,
) -> Outcome<Report> {
    ends.to.inherit(table, floor).await?;
    let mut run = Run::of_table(ends, table, options);
    let mut back = back.map(|(ends, table)| (Run::of_table(ends, table, options), table));
    if let Some((back, _)) = &mut back {
        // What was inserted since is known to be that.
        back.from.fold(&back.places).await?;
    }
    let floor = &Unnamed::Forgotten(floor.clone(), met);
    // All are known before the first is told: a flood of them is refused like any other.
    if !options.force && run.route.first_run != FirstRun::Manual {
        run.bury(table, floor, None).await?;
        run.refuse_flood(Place { table, position: 0, token: 0 }).await?;
    }
    run.bury(table, floor, Some(&mut back)).await?;
    let mut report = Report::nothing();
    report.tables.push(run.reports.swap_remove(table));
    Ok(report)
}

/// Compares all rows: those that the receiving end has otherwise count as written at the sending end, where nobody has
/// written them under capture, or `all`. They are changes then.
async fn vouch(
    ends: &mut Direction<'_>,
    table: usize,
    (how, all): (Differing, bool),
    options: &ChangeOptions,
) -> Outcome<()> {
    let mut rows = ends.from.rows(table, options.limits).await?;
    while let Some(batch) = rows.recv().await {
        if options.stop.is_cancelled() {
            return Err(interrupted().into());
        }
        let rows = batch.map_err(Fault::at(table))?.batch;
        let differing = ends.to.differing(table, &rows, how).await?;
        if !differing.is_empty() {
            let keys = keys(ends.route, table, &rows).select(differing.into_iter());
            ends.from.vouch(table, &keys, all).await?;
        }
    }
    Ok(())
}

/// The keys of rows that were sent.
fn keys(route: &Route, table: usize, rows: &Batch) -> Batch {
    let mapping = &route.tables[table];
    let columns = mapping.key.columns.iter().map(|&at| rows.columns()[at].clone());
    Batch::new(mapping.from_keys.clone(), columns.collect())
}

/// A table's name in the reports of the sync: that at its source.
pub(super) fn table_of(route: &Route, at: usize) -> String {
    let mapping = &route.tables[at];
    (if route.to_target { &mapping.from } else { &mapping.to }).name.to_string()
}

/// Brings the changes of one end to the other, all tables of the route together, each from where [`agree`] says; one
/// that fails is left out, and the others go on.
///
/// # Errors
/// What concerns no single table.
pub async fn run_changes(ends: &mut Direction<'_>, starts: &[Start], options: &ChangeOptions) -> Result<Report> {
    let started = Instant::now();
    let mut run = Run::new(ends, starts, options);
    let moved = run.bring_all(starts).await?;
    let outstanding = run.bring_all_aside().await?;
    let Run { mut reports, error, .. } = run;
    let those = |of: fn(&TableReport) -> u64| -> Vec<usize> {
        reports.iter().enumerate().filter(|(_, report)| of(report) > 0).map(|(at, _)| at).collect()
    };
    let problems = ends.to.verify(&those(|t| t.inserted + t.updated), &those(|t| t.deleted)).await?;
    for (report, outstanding) in reports.iter_mut().zip(outstanding) {
        let Outstanding { open, quarantined, waiting } = outstanding;
        (report.open, report.quarantined, report.waiting) = (open, quarantined, waiting);
    }
    if moved {
        agree(ends, false).await?;
    }
    let clean = error.is_none()
        && problems.is_empty()
        && reports.iter().all(|report| report.quarantined + report.open + report.waiting == 0);
    Ok(Report {
        status: if clean { "succeeded" } else { "failed" },
        tables: reports,
        seconds: started.elapsed().as_secs_f64(),
        problems,
        rejects: None,
        error,
    })
}

/// What came of taking a parcel in and of what was done beside it.
struct Step {
    taken: Outcome<()>,
    folded: Option<Outcome<Folded>>,
    next: Option<Outcome<Parcel>>,
}

/// A run in one direction.
struct Run<'a> {
    from: &'a mut dyn Sender,
    to: &'a mut dyn Receiver,
    route: &'a Route,
    options: &'a ChangeOptions,
    /// The tables that go on, and how far they are.
    places: Vec<Place>,
    reports: Vec<TableReport>,
    error: Option<ErrorKind>,
    /// The tables of which no rows are to be asked for any more that went when they were emptied.
    buried: Vec<bool>,
    /// The tables of which no rows are to be looked for any more that were written unseen.
    compared: Vec<bool>,
}

impl<'a> Run<'a> {
    fn new(ends: &'a mut Direction<'_>, starts: &[Start], options: &'a ChangeOptions) -> Self {
        let route = ends.route;
        let report = |at: usize| TableReport { table: table_of(route, at), ..TableReport::default() };
        let place = |(table, start): (usize, &Start)| match start {
            Start::Place(place) => *place,
            _ => Place { table, position: 0, token: 0 },
        };
        Run {
            from: ends.from,
            to: ends.to,
            route,
            options,
            places: starts.iter().enumerate().map(place).collect(),
            reports: (0..route.tables.len()).map(report).collect(),
            error: None,
            // Where the two meet for the first time, rows that only the receiving end has stay.
            buried: starts.iter().map(|start| !matches!(start, Start::Place(_))).collect(),
            // All rows are compared anyway.
            compared: starts.iter().map(|start| !matches!(start, Start::Place(_))).collect(),
        }
    }

    /// One of one table alone.
    fn of_table(ends: &'a mut Direction<'_>, table: usize, options: &'a ChangeOptions) -> Self {
        let places = vec![Place { table, position: 0, token: 0 }];
        Self { places, ..Self::new(ends, &[], options) }
    }
}

impl Run<'_> {
    /// The tables that go on.
    fn tables(&self) -> Vec<usize> {
        self.places.iter().map(|place| place.table).collect()
    }

    /// Leaves the table out that is to blame.
    fn leave_out(&mut self, fault: Fault) -> Result<()> {
        let Fault { table: Some(at), error } = fault else { return Err(fault.error) };
        let error = error.of_table(&self.reports[at].table);
        self.error.get_or_insert(error.kind);
        self.reports[at].error = Some(error.message().to_owned());
        self.places.retain(|place| place.table != at);
        Ok(())
    }

    fn go_on(&self) -> Result<()> {
        if self.options.stop.is_cancelled() { Err(interrupted()) } else { Ok(()) }
    }

    /// Whether the receiving end has moved on.
    async fn bring_all(&mut self, starts: &[Start]) -> Result<bool> {
        let meets = starts.iter().any(|start| matches!(start, Start::Never | Start::Lost));
        let unfolded = self.fold(meets || self.options.full).await?;
        if self.options.full {
            self.compare_all().await?;
        }
        let before = self.places.clone();
        for table in self.tables() {
            let basis = match starts[table] {
                Start::Place(_) | Start::Not => continue,
                Start::Never => Basis::Meeting,
                Start::Lost => Basis::Written,
            };
            if let Err(fault) = self.meet(table, basis).await {
                self.leave_out(fault)?;
            }
        }
        self.bring_changes(unfolded).await?;
        Ok(self.places.iter().any(|place| !before.contains(place)))
    }

    /// What people have to look at, once all that is set aside was brought once more.
    async fn bring_all_aside(&mut self) -> Result<Vec<Outstanding>> {
        let outstanding = self.to.outstanding().await?;
        let aside = |table: &usize| outstanding[*table].quarantined + outstanding[*table].waiting > 0;
        let tables: Vec<usize> = self.tables().into_iter().filter(aside).collect();
        if tables.is_empty() {
            return Ok(outstanding);
        }
        for table in tables {
            if let Err(fault) = self.bring_aside(table).await {
                self.leave_out(fault)?;
            }
        }
        self.to.outstanding().await
    }

    /// Gives versions to what was written, all of it or a part; whether there is more.
    async fn fold(&mut self, whole: bool) -> Result<bool> {
        loop {
            let folded =
                if whole { self.from.fold(&self.places).await } else { self.from.fold_part(&self.places).await };
            match folded {
                Ok(folded) => return self.folded(folded).await,
                Err(fault) => self.leave_out(fault)?,
            }
        }
    }

    async fn folded(&mut self, Folded { emptied, doubted, more, .. }: Folded) -> Result<bool> {
        for table in emptied {
            if std::mem::replace(&mut self.buried[table], true) {
                continue;
            }
            if let Err(fault) = self.bury(table, &Unnamed::Unversioned, None).await {
                self.leave_out(fault)?;
            }
        }
        for table in doubted {
            if std::mem::replace(&mut self.compared[table], true) || !self.tables().contains(&table) {
                continue;
            }
            let mut ends = Direction { from: &mut *self.from, to: &mut *self.to, route: self.route };
            if let Err(fault) = vouch(&mut ends, table, (Differing::Any, false), self.options).await {
                self.leave_out(fault)?;
            }
        }
        Ok(more)
    }

    /// As if rows of all tables had been written unseen. A sender that keeps books names the deletions of rows that it
    /// knows; what it does not know may be the receiving end's own. One without can name none.
    async fn compare_all(&mut self) -> Result<()> {
        let doubted = self.tables();
        let emptied = if self.route.from.site.is_stamped() { doubted.clone() } else { Vec::new() };
        self.folded(Folded { emptied, doubted, ..Folded::default() }).await.map(drop)
    }

    /// Rows that only the receiving end knows, and that went when the table was emptied, or so long ago that nobody knows.
    /// Where deletions and rows are to `meet`, that is with the other direction, if there is one.
    async fn bury(
        &mut self,
        table: usize,
        which: &Unnamed,
        mut meet: Option<&mut Option<(Run<'_>, usize)>>,
    ) -> Outcome<()> {
        let (mut after, limit) = (None, if meet.is_some() { KEYS.min(self.options.limits.rows) } else { KEYS });
        loop {
            self.go_on()?;
            let (keys, next) = self.to.unnamed(table, which, after.as_ref(), limit).await?;
            if keys.rows() > 0 {
                let gone = self.from.bury(table, &keys, *which != Unnamed::Unversioned).await?;
                if let Some(back) = meet.as_deref_mut().filter(|_| !gone.is_empty()) {
                    self.meet_deleted(table, keys.select(gone.into_iter()), back).await?;
                }
            }
            let Some(next) = next else { return Ok(()) };
            after = Some(next);
        }
    }

    /// Settles deletions against the rows of the receiving end, by keys in its form; then the other way round, so that what
    /// waits for a person does so at both ends.
    async fn meet_deleted(&mut self, table: usize, keys: Batch, back: &mut Option<(Run<'_>, usize)>) -> Outcome<()> {
        let current = self.from.current(table, &Keys::Received(keys.clone())).await?;
        if self.take_in(&current.parcel(table), Basis::Meeting).await? > 0 {
            let message = format!("rows of {} are being written; run this again", self.reports[table].table);
            return Err(Fault::at(table)(Error::new(ErrorKind::Busy, message)));
        }
        let Some((back, at)) = back else { return Ok(()) };
        let own = back.route.tables[*at].from_keys.clone();
        let place = |name: &str| keys.table.column(name);
        let columns = own.columns.iter().filter_map(|column| Some(keys.columns()[place(&column.name)?].clone()));
        let keys = Batch::new(own.clone(), columns.collect());
        back.bring(*at, keys, Basis::Meeting).await
    }

    /// Brings the changes that have a version; where `unfolded`, others get theirs meanwhile.
    async fn bring_changes(&mut self, mut unfolded: bool) -> Result<()> {
        let mut looked = self.options.force;
        // The next parcel, where it was read while the one before was taken in.
        let mut ahead: Option<Outcome<Parcel>> = None;
        while !self.places.is_empty() {
            self.go_on()?;
            let read = match ahead.take() {
                Some(read) => read,
                None => self.from.changes(&self.places, self.limits()).await,
            };
            let parcel = match read {
                Ok(parcel) => parcel,
                Err(fault) => {
                    self.leave_out(fault)?;
                    continue;
                }
            };
            let more = parcel.more || unfolded;
            if !more && parcel.changes.is_empty() && parcel.places == self.places {
                return Ok(());
            }
            if !looked {
                looked = true;
                if self.refuse_floods(&parcel, more).await? {
                    continue;
                }
            }
            let Step { taken, folded, next } = self.take_in_and_read(&parcel, unfolded).await;
            match folded {
                Some(Ok(folded)) => {
                    looked &= self.options.force || !folded.many_deletions;
                    unfolded = self.folded(folded).await?;
                }
                Some(Err(fault)) => self.leave_out(fault)?,
                None => {}
            }
            if let Err(fault) = taken {
                self.leave_out(fault)?;
                continue;
            }
            // Without those that were left out meanwhile.
            let on = |place: &&Place| self.places.iter().any(|own| own.table == place.table);
            self.places = parcel.places.iter().filter(on).copied().collect();
            if !more {
                return Ok(());
            }
            ahead = next.filter(|_| self.places.len() == parcel.places.len());
        }
        Ok(())
    }

    /// Bounds of a parcel: a transaction at the receiving end costs as much as hundreds of rows.
    fn limits(&self) -> BatchLimits {
        let BatchLimits { rows, bytes } = self.options.limits;
        BatchLimits { rows, bytes: bytes.saturating_mul(PARCEL_BATCHES) }
    }

    /// Takes a parcel in while the one behind it is read; what comes of that holds only if this one was taken in.
    async fn take_in_and_read(&mut self, parcel: &Parcel, unfolded: bool) -> Step {
        let limits = self.limits();
        let Self { from, to, .. } = self;
        let read = async {
            let folded = if unfolded { Some(from.fold_part(&parcel.places).await) } else { None };
            let reads = (parcel.more || unfolded) && !matches!(folded, Some(Err(_)));
            let next = if reads { Some(from.changes(&parcel.places, limits).await) } else { None };
            (folded, next)
        };
        let (taken, (folded, next)) = tokio::join!(to.take(parcel, Basis::Written), read);
        let taken = taken.map(|applied| self.count(parcel, &applied));
        Step { taken, folded, next }
    }

    fn count(&mut self, parcel: &Parcel, applied: &[Applied]) {
        for ((table, changes), applied) in parcel.changes.iter().zip(applied) {
            let (report, changes) = (&mut self.reports[*table], changes.entries.len());
            tracing::debug!(target: STEP, "table {}: {changes} changes were taken in", report.table);
            report.add(changes, *applied);
        }
    }

    /// Leaves tables out that would lose more than half of their rows; whether there are any.
    async fn refuse_floods(&mut self, first: &Parcel, more: bool) -> Result<bool> {
        let mut any = false;
        for place in self.places.clone() {
            let rows = first.changes.iter().find(|(table, _)| *table == place.table);
            let few = rows.is_none_or(|(_, changes)| (changes.entries.len() as u64) <= DELETED_MIN);
            if few && !more {
                continue;
            }
            if let Err(fault) = self.refuse_flood(place).await {
                self.leave_out(fault)?;
                any = true;
            }
        }
        Ok(any)
    }

    async fn refuse_flood(&mut self, start: Place) -> Outcome<()> {
        let (mut place, mut deleted) = (start, 0);
        loop {
            self.go_on()?;
            let (keys, next) = self.from.deleted(place, KEYS).await?;
            if keys.rows() == 0 {
                break;
            }
            deleted += self.to.rows(place.table, Some(&keys)).await?;
            place = next;
        }
        if deleted <= DELETED_MIN {
            return Ok(());
        }
        let there = self.to.rows(place.table, None).await?;
        if !is_flood(there, deleted) {
            return Ok(());
        }
        let name = &self.route.tables[place.table].to.name;
        Err(Fault::at(place.table)(Error::new(
            ErrorKind::Constraint,
            format!(
                "this would delete {deleted} of the {there} rows of {name} of {}, more than half; nothing was changed \
                 there. If that is right, run it with --force",
                self.route.to.label
            ),
        )))
    }

    /// How many changes wait for a row that someone holds.
    async fn take_in(&mut self, parcel: &Parcel, basis: Basis) -> Outcome<u64> {
        let applied = self.to.take(parcel, basis).await?;
        self.count(parcel, &applied);
        Ok(applied.iter().map(|applied| applied.held).sum())
    }

    /// Compares all rows of a table and brings over those that the receiving end lacks. Rows that differ are settled as
    /// the route says, those that only the receiving end has stay. Equal rows are one row.
    async fn meet(&mut self, table: usize, basis: Basis) -> Outcome<()> {
        let mut rows = self.from.rows(table, self.options.limits).await?;
        while let Some(batch) = rows.recv().await {
            self.go_on()?;
            let rows = batch.map_err(Fault::at(table))?.batch;
            let differing = self.to.differing(table, &rows, Differing::Meeting).await?;
            if !differing.is_empty() {
                let keys = keys(self.route, table, &rows).select(differing.into_iter());
                self.bring(table, keys, basis).await?;
            }
        }
        Ok(())
    }

    /// Settles rows that differ at the first meeting, as they stand now, each with the version that it has: both ends
    /// may have met elsewhere.
    async fn bring(&mut self, table: usize, mut keys: Batch, basis: Basis) -> Outcome<()> {
        for _ in 0..TRIES {
            let mut current = self.from.current(table, &Keys::Sent(keys.clone())).await?;
            let left_out = std::mem::take(&mut current.left_out);
            let parcel = current.parcel(table);
            self.take_in(&parcel, basis).await?;
            if left_out.is_empty() {
                return Ok(());
            }
            keys = keys.select(left_out.into_iter());
            let place = self.places.iter().find(|place| place.table == table).copied();
            self.from.fold(place.as_slice()).await?;
        }
        Err(Error::new(
            ErrorKind::Busy,
            format!("rows of {} are written faster than they can be read", self.reports[table].table),
        )
        .into())
    }

    /// What the receiving end has set aside is brought once more, as it stands now: what was in its way may be gone. What
    /// is held is waited for a moment.
    async fn bring_aside(&mut self, table: usize) -> Outcome<()> {
        for tried in 1..=TRIES {
            self.go_on()?;
            let aside = self.to.aside(table, ASIDE_MAX).await?;
            if aside.rows() == 0 {
                return Ok(());
            }
            let current = self.from.current(table, &Keys::Received(aside)).await?;
            let read = current.changes.entries.len();
            let parcel = current.parcel(table);
            let held = self.take_in(&parcel, Basis::Written).await?;
            if held == 0 || read == 0 {
                return Ok(());
            }
            tokio::time::sleep(Backoff::ROWS.wait(tried, random())).await;
        }
        Ok(())
    }
}
