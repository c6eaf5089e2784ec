//! Two ends of an incremental sync: what they need is put in place, then changes go the ways that it says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ends::{Captured, Endpoint, LocalEndpoint};
use super::owner::Owner;
use super::plan::{ColumnChoice, Mode, Plan, PlanOptions, TablePlan, exact_pattern, matches_pattern};
use super::run::{Report, TableReport};
use super::sync::{Agreed, ChangeOptions, Direction, agree, reunite, run_changes, table_of, widen};
use crate::conflict::{FirstRun, Policy, Rule, Side};
use crate::endpoint::{Fault, Filter, Mapping, Receiver, Route, Sender, Start};
use crate::engine::{Database, Error, ErrorKind, Lock, Result};
use crate::model::{BatchLimits, Site, Table, TableName, tells_moments};
use crate::runtime::STEP;

/// Who prevails at a conflict, by the sync's own names for its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preference {
    /// The higher version.
    Later,
    /// Of each column the higher version.
    Columns,
    /// The sync's source.
    Source,
    /// The sync's target.
    Target,
    /// Neither: a person decides.
    Manual,
    /// Whoever receives, which goes one way only.
    Keep,
}

/// What holds for one table of a sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableTerms {
    /// How its conflicts are settled.
    pub conflict: Preference,
    /// Whether rows that both ends insert under one generated number are one row.
    pub one_row: bool,
    /// The column that says when a row was written.
    pub stamp: Stamp,
    /// The column that says that a row was deleted, by its name at the source.
    pub soft_delete: Option<String>,
}

/// The column that says when a row was written, by its name at the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stamp {
    /// `updated_at`, where there is one that can tell moments.
    UpdatedAt,
    /// None.
    None,
    /// This one.
    Column(String),
}

impl Stamp {
    /// Its place among the columns of a table at the source, which go along with those at the target.
    fn place(&self, source: &Table, target: &Table) -> Result<Option<usize>> {
        let name = match self {
            Self::UpdatedAt => "updated_at",
            Self::None => return Ok(None),
            Self::Column(name) => name,
        };
        let found = source.column(name);
        let tells = |at: &usize| [source, target].iter().all(|table| tells_moments(&table.columns[*at].logical));
        match found.filter(tells) {
            None if *self != Self::UpdatedAt => {
                let what = if found.is_some() { "tells no moments" } else { "is none of its synced columns" };
                Err(Error::new(ErrorKind::SchemaMismatch, format!("timestamp: {name} {what}")))
            }
            at => Ok(at),
        }
    }
}

/// An incremental sync.
#[derive(Clone)]
pub struct PairOptions {
    /// Its name.
    pub name: String,
    /// What is synced, seen from the source.
    pub plan: PlanOptions,
    /// Whether the source's changes go to the target.
    pub push: bool,
    /// Whether the target's changes go to the source.
    pub pull: bool,
    /// How conflicts are settled.
    pub conflict: Preference,
    /// Tables of which the sync says something else, by name at the source.
    pub tables: BTreeMap<String, TableTerms>,
    /// How rows are settled that differ when the two meet for the first time: a side, or [`Preference::Manual`].
    pub first_run: Preference,
    /// Bounds of a batch.
    pub limits: BatchLimits,
    /// Whether each run compares all rows, besides what is said to have changed.
    pub full: bool,
    /// Asked to stop.
    pub stop: CancellationToken,
}

impl PairOptions {
    /// What holds for a table, by its name at the source.
    fn terms(&self, name: &TableName) -> TableTerms {
        let (stamp, soft_delete) = (Stamp::UpdatedAt, None);
        let all = TableTerms { conflict: self.conflict, one_row: false, stamp, soft_delete };
        self.tables.get(&name.to_string()).cloned().unwrap_or(all)
    }

    /// The column that says that a row of a table, by its name at the source, was deleted, as the end that sends calls it.
    fn soft_delete(&self, name: &TableName) -> Option<String> {
        let column = self.terms(name).soft_delete?;
        let choice = self.plan.columns.get(&name.to_string()).filter(|_| self.pull);
        Some(choice.and_then(|choice| choice.rename.get(&column)).unwrap_or(&column).clone())
    }
}

/// Both ends with all that they need in place.
pub struct Pair {
    pub(super) source: Held,
    pub(super) target: Held,
    pub(super) there: Plan,
    pub(super) back: Option<Plan>,
    pub(super) options: PairOptions,
    /// Tables that cannot take part, by name at the source.
    refused: Vec<(TableName, Error)>,
    looked: Looked,
    /// Where both are at hand: no other process brings these two in step while this lives.
    owner: Option<Arc<Owner>>,
    /// Where a peer has one of them, nobody else does while these live: as long as a run takes.
    turn: Vec<Box<dyn Lock>>,
    /// Both ends as the last run left them; none after an error, or between runs with a peer.
    open: Option<Open>,
}

/// Both ends, open in each direction.
struct Open {
    ways: Vec<Way>,
    /// Tables that cannot take part.
    refused: Report,
}

impl Open {
    async fn new(
        (source, target): (&Held, &Held),
        (there, back): (&Plan, Option<&Plan>),
        options: &PairOptions,
    ) -> Result<Self> {
        let mut open = Self { ways: Vec::new(), refused: Report::nothing() };
        if let Some(back) = back {
            open.ways.push(Way::open(target, source, back, options, false, &mut open.refused).await?);
        }
        if options.push {
            open.ways.push(Way::open(source, target, there, options, true, &mut open.refused).await?);
        }
        if !source.captured.doubted.is_empty() {
            // What was written there unseen gets versions before others write over it.
            open.ways.reverse();
        }
        Ok(open)
    }
}

/// An end, and what it captures.
pub(super) struct Held {
    pub(super) endpoint: Arc<dyn Endpoint>,
    pub(super) captured: Captured,
}

impl Held {
    /// The same end, which may go on under another name.
    async fn look_again(&mut self) -> Result<()> {
        self.captured = self.endpoint.captured().await?;
        Ok(())
    }
}

impl Pair {
    /// As [`Self::between`], of two databases at hand.
    ///
    /// # Errors
    /// Those of [`Self::between`].
    pub async fn prepare(source: &Arc<dyn Database>, target: &Arc<dyn Database>, options: PairOptions) -> Result<Self> {
        let end = |database| -> Arc<dyn Endpoint> { Arc::new(LocalEndpoint::new(database, &options.stop)) };
        Self::between(end(source), end(target), options.clone()).await
    }

    /// Makes missing tables at the ends that take rows in, puts the bookkeeping into both databases, and plans both ways.
    ///
    /// # Errors
    /// What stands against it at a table: no key, different keys at the two ends, a loss that is not allowed.
    pub async fn between(source: Arc<dyn Endpoint>, target: Arc<dyn Endpoint>, options: PairOptions) -> Result<Self> {
        let owner = match (source.database(), target.database()) {
            (Some(source), Some(target)) => Some(Owner::take(source, target, &options.stop).await?),
            _ => None,
        };
        Ok(Self { owner, ..Self::beside(source, target, options).await? })
    }

    /// As [`Self::between`], for what a person decides of single rows while someone else may bring the two in step: each
    /// of these changes is taken in under the locks of any other.
    ///
    /// # Errors
    /// Those of [`Self::between`].
    pub async fn beside(source: Arc<dyn Endpoint>, target: Arc<dyn Endpoint>, options: PairOptions) -> Result<Self> {
        let Planned { there, back, from, to, refused } = plan_both(source.as_ref(), target.as_ref(), &options).await?;
        let source = Held { endpoint: source, captured: from };
        let target = Held { endpoint: target, captured: to };
        let looked = Looked::new(&source, &target, &there).await?;
        Ok(Self { source, target, there, back, options, refused, looked, owner: None, turn: Vec::new(), open: None })
    }

    /// Plans anew where something of the tables is other than it was when this was last done.
    async fn look_at_forms(&mut self) -> Result<()> {
        if self.looked.is_fresh() {
            return Ok(());
        }
        let now = Looked::new(&self.source, &self.target, &self.there).await?;
        if now.forms == self.looked.forms {
            self.looked = now;
            return Ok(());
        }
        tracing::info!("sync {}: its tables are not what they were; it is planned anew", self.options.name);
        self.open = None;
        let planned = plan_both(self.source.endpoint.as_ref(), self.target.endpoint.as_ref(), &self.options).await?;
        let Planned { there, back, from, to, refused } = planned;
        (self.there, self.back, self.refused) = (there, back, refused);
        (self.source.captured, self.target.captured) = (from, to);
        self.looked = Looked::new(&self.source, &self.target, &self.there).await?;
        Ok(())
    }

    /// Keeps other nodes from bringing these two in step. The name is the same from either end, and so is the end that it
    /// is held at.
    async fn take_turn(&mut self) -> Result<()> {
        if self.owner.is_some() || !self.turn.is_empty() {
            return Ok(());
        }
        let (source, target) = (&self.source, &self.target);
        let ids = (source.captured.end.site.id, target.captured.end.site.id);
        if ids.0 == ids.1 {
            return Err(Error::new(
                ErrorKind::Usage,
                format!(
                    "{} and {} are one site: one is the other, or a copy of it; run 'rowferry capture remove' where the copy \
                     is, then this again",
                    source.endpoint.label(),
                    target.endpoint.label()
                ),
            ));
        }
        let at = if ids.0 <= ids.1 { source } else { target };
        let name = format!("pair {:016x} {:016x}", ids.0.min(ids.1), ids.0.max(ids.1));
        let held = format!(
            "another rowferry is bringing {} and {} in step; wait until it is done, then run this again",
            source.endpoint.label(),
            target.endpoint.label()
        );
        let mut turn = Vec::new();
        // A peer knows of us no more than our key, so that two processes of ours take turns here first.
        if at.endpoint.is_shared() {
            let own = if std::ptr::eq(at, source) { target } else { source };
            turn.push(own.endpoint.lock(&format!("{name} driven"), &self.options.stop, held.clone()).await?);
        }
        turn.push(at.endpoint.lock(&name, &self.options.stop, held).await?);
        self.turn = turn;
        Ok(())
    }

    /// Waits until one of the ends was written to since a moment, `longest` in any case; that moment is now where there is
    /// none. Comes back with what to give the next time.
    ///
    /// # Errors
    /// What the databases say.
    pub async fn news(&mut self, since: Option<(i64, i64)>, longest: Duration) -> Result<(i64, i64)> {
        let (source, target) = (&self.source, &self.target);
        let (ours, theirs) = (names(&self.there, |t| &t.source.name), names(&self.there, |t| &t.target.name));
        let Some((here, there)) = since else {
            let here = source.endpoint.news(&ours, i64::MIN, Duration::ZERO).await?;
            return Ok((here, target.endpoint.news(&theirs, i64::MIN, Duration::ZERO).await?));
        };
        // Of an end that only receives no news is wanted.
        tokio::select! {
            number = source.endpoint.news(&ours, here, longest), if self.options.push => Ok((number?, there)),
            number = target.endpoint.news(&theirs, there, longest), if self.options.pull => Ok((here, number?)),
            () = self.options.stop.cancelled() => Ok((here, there)),
        }
    }

    /// What goes between the two, each direction.
    #[must_use]
    pub fn routes(&self) -> Vec<Route> {
        let ends = (&self.source.captured, &self.target.captured);
        let there = self.options.push.then(|| route(ends.0, ends.1, &self.there, &self.options, true).0);
        let back = self.back.as_ref().map(|back| route(ends.1, ends.0, back, &self.options, false).0);
        there.into_iter().chain(back).collect()
    }

    /// The site at the target, where others bring it in step too.
    #[must_use]
    pub fn peer(&self) -> Option<Site> {
        self.target.endpoint.is_shared().then_some(self.target.captured.end.site)
    }

    /// Lets the other one go, until the next run.
    pub async fn part(&mut self) {
        self.turn.clear();
        self.open = None;
        self.source.endpoint.part().await;
        self.target.endpoint.part().await;
    }

    /// Brings the changes of each end to the other, as far as the sync goes: first those of the target, then those of
    /// the source.
    ///
    /// # Errors
    /// What concerns no single table.
    pub async fn run(&mut self) -> Result<Report> {
        let started = Instant::now();
        self.take_turn().await?;
        let report = self.run_anew().await;
        if self.owner.is_none() {
            // Others have their turn.
            (self.open, self.turn) = (None, Vec::new());
        }
        let mut report = report?;
        report.seconds = started.elapsed().as_secs_f64();
        Ok(report)
    }

    async fn run_anew(&mut self) -> Result<Report> {
        for tried in 1.. {
            match self.run_once().await {
                // It goes on under another name, which is no fault.
                Err(e) if e.kind == ErrorKind::CursorLost && tried < REOPENED_MAX => {
                    tracing::warn!("{e}");
                    self.source.look_again().await?;
                    self.target.look_again().await?;
                    self.turn.clear();
                    self.take_turn().await?;
                }
                done => return done,
            }
        }
        Ok(Report::nothing())
    }

    async fn run_once(&mut self) -> Result<Report> {
        if let Some(owner) = &self.owner
            && !owner.is_held().await
        {
            return Err(Error::new(
                ErrorKind::Unreachable,
                format!(
                    "the connection that keeps others from bringing {} and {} in step was lost",
                    self.source.endpoint.label(),
                    self.target.endpoint.label()
                ),
            ));
        }
        self.look_at_forms().await?;
        let mut open = match self.open.take() {
            Some(open) => open,
            None => Open::new((&self.source, &self.target), (&self.there, self.back.as_ref()), &self.options).await?,
        };
        let mut report = open.refused.clone();
        self.refused.iter().for_each(|(table, e)| report.refuse(table, e.clone()));
        // Before anything moves: a database that was restored must not give out versions under its old name.
        let mut starts = Vec::with_capacity(open.ways.len());
        let alone = open.ways.len() == 1;
        for way in &mut open.ways {
            starts.push(agree(&mut way.ends(), alone).await?);
        }
        let options = ChangeOptions {
            limits: self.options.limits,
            force: self.options.plan.force,
            full: self.options.full,
            stop: self.options.stop.clone(),
        };
        report.join(reunite_ways(&mut open.ways, &mut starts, &options).await?);
        let mut ran = run_ways(&mut open.ways, &starts, (&self.options.name, &options)).await?;
        for _ in 0..APART_MAX {
            if !ran.are_rows_apart() || ran.error.is_some() || open.ways.len() < 2 {
                break;
            }
            // Rows that have one number at both ends: one of them has got another, of which the other end hears now.
            let mut starts = Vec::with_capacity(open.ways.len());
            for way in &mut open.ways {
                starts.push(agree(&mut way.ends(), false).await?);
            }
            ran = ran.then(run_ways(&mut open.ways, &starts, (&self.options.name, &options)).await?);
        }
        for (way, agreed) in open.ways.iter().zip(&mut starts) {
            let failed = |at: usize| {
                let name = table_of(&way.route, at);
                ran.tables.iter().any(|table| table.table == name && table.error.is_some())
            };
            agreed.widened.retain(|&at| !failed(at));
        }
        report.join(ran);
        if starts.iter().any(|agreed| !agreed.widened.is_empty()) {
            report.join(run_widened(&mut open.ways, &starts, &options).await?);
        }
        if report.error.is_none() {
            self.open = Some(open);
        }
        Ok(report)
    }
}

/// Whatever is needed of both ends.
struct Planned {
    there: Plan,
    back: Option<Plan>,
    from: Captured,
    to: Captured,
    refused: Vec<(TableName, Error)>,
}

async fn plan_both(source: &dyn Endpoint, target: &dyn Endpoint, options: &PairOptions) -> Result<Planned> {
    let plan = PlanOptions { lasting: true, ..options.plan.clone() };
    let (plan, mut refused) = without_lost(&plan, source.lost().await?, target.lost().await?);
    let options = PairOptions { plan, ..options.clone() };
    if options.plan.tables.is_empty() && !refused.is_empty() {
        let nothing = Plan {
            tables: Vec::new(),
            mode: Mode::Full,
            serial: false,
            notes: Vec::new(),
            noisy: None,
            refused: Vec::new(),
        };
        let (from, to) = (source.capture(&[], &[]).await?, target.capture(&[], &[]).await?);
        return Ok(Planned { there: nothing, back: None, from, to, refused });
    }
    if options.pull
        && let Some(Lacking { back, .. }) = lacking(source, target, &options.plan).await?
    {
        source.plan(&target.origin(&back).await?, &back, true).await?;
    }
    let forward = forward(&options);
    let mut there = target.plan(&source.origin(&forward).await?, &forward, options.push).await?;
    refused.append(&mut there.refused);
    source.check(&mut there, false).await?;
    let merges = |table: &&TablePlan| options.terms(&table.source.name).conflict == Preference::Columns;
    let merged = |name: fn(&TablePlan) -> &TableName| -> Vec<TableName> {
        there.tables.iter().filter(merges).map(|table| name(table).clone()).collect()
    };
    let from = source.capture(&names(&there, |t| &t.source.name), &merged(|t| &t.source.name)).await?;
    let to = target.capture(&names(&there, |t| &t.target.name), &merged(|t| &t.target.name)).await?;
    if options.push {
        refuse(&mut there, &mut refused, |table| misfit((&from, &to), table, &options.plan.columns));
    }
    let mut back = None;
    if options.pull && !there.tables.is_empty() {
        let soft = |table: &TablePlan| Some((table.target.name.to_string(), options.soft_delete(&table.source.name)?));
        let soft_deletes = there.tables.iter().filter_map(soft).collect();
        let options_back = PlanOptions { soft_deletes, ..reversed(&from, &options.plan, &there) };
        let planned = plan_back(source, target, &options_back).await;
        let both = !options_back.filters.is_empty() && options.push;
        let mut planned = planned.map_err(|e| if both { e.context(BOTH_WAYS) } else { e })?;
        let mut waiting = std::mem::take(&mut planned.refused);
        refuse(&mut planned, &mut waiting, |table| misfit((&to, &from), table, &options_back.columns));
        // One that cannot go one way goes neither way.
        for (name, e) in waiting {
            refuse(&mut there, &mut refused, |table| (table.target.name == name).then(|| e.clone()));
        }
        let refused = |table: &TablePlan| there.tables.iter().all(|t| t.target.name != table.source.name);
        planned.tables.retain(|table| !refused(table));
        back = Some(planned);
    }
    let plans = back.iter().chain([&there]);
    for (table, note) in plans.flat_map(|plan| &plan.tables).flat_map(|t| t.notes.iter().map(move |note| (t, note))) {
        if note.contains(" is left out until ") {
            tracing::warn!("sync {}: table {}: {note}", options.name, table.source.name);
        }
    }
    Ok(Planned { there, back, from, to, refused })
}

/// Takes tables out of a plan of which this says why they cannot go on.
fn refuse(plan: &mut Plan, refused: &mut Vec<(TableName, Error)>, why: impl Fn(&TablePlan) -> Option<Error>) {
    plan.tables.retain(|table| {
        let why = why(table);
        refused.extend(why.clone().map(|e| (table.source.name.clone(), e)));
        why.is_none()
    });
}

/// Why a table waits although the columns that both ends have fit: one that was synced is gone where rows arrive, or one
/// seems to have been given another name.
fn misfit(
    (from, to): (&Captured, &Captured),
    plan: &TablePlan,
    choices: &BTreeMap<String, ColumnChoice>,
) -> Option<Error> {
    let (source, target) = (from.table(&plan.source.name)?, to.table(&plan.target.name)?);
    let choice = choices.get(&source.name.to_string());
    let chosen = |name: &String| {
        choice.is_none_or(|c| c.only.as_ref().is_none_or(|only| only.contains(name)) && !c.exclude.contains(name))
    };
    let there = |name: &String| choice.and_then(|c| c.rename.get(name)).unwrap_or(name).clone();
    let columns = source.columns.iter().filter(|c| !c.generated && plan.source.column(&c.name).is_none());
    let left_out: Vec<&String> = columns.map(|column| &column.name).filter(|name| chosen(name)).collect();
    let (from_label, to_label) = (&from.end.label, &to.end.label);
    let sentence = if let Some(name) = left_out.iter().find(|name| to.has_dropped(&target.name, &there(name))) {
        format!(
            "column {name} was dropped in {to_label}, and {from_label} has it still: add it again, drop it there too, or \
             name it under exclude"
        )
    } else {
        let gone = target.columns.iter().map(|column| &column.name).find(|name| {
            plan.target.column(name).is_none() && source.column(name).is_none() && from.has_dropped(&source.name, name)
        });
        let (gone, new) = (gone?, left_out.first()?);
        format!(
            "column {gone} is gone in {from_label}, and {new} is new there: give the table in {to_label} the same columns, \
             or say under rename or exclude what goes where"
        )
    };
    Some(Error::new(ErrorKind::SchemaMismatch, sentence))
}

/// Leaves out captured tables that cannot take part at one of the ends: one that is gone must not be made anew.
fn without_lost(
    options: &PlanOptions,
    source: Vec<(TableName, Error)>,
    target: Vec<(TableName, Error)>,
) -> (PlanOptions, Vec<(TableName, Error)>) {
    let at_source = |name: TableName| {
        let told = options.renamed.iter().find(|(_, there)| there.name == name.name);
        told.map_or(name, |(source, _)| TableName::new(source.clone()))
    };
    let target = target.into_iter().map(|(name, e)| (at_source(name), e));
    let mut rest = options.clone();
    let mut refused: Vec<(TableName, Error)> = Vec::new();
    for (name, e) in source.into_iter().chain(target) {
        let matches = |pattern: &String| matches_pattern(pattern, &name.name) || *pattern == exact_pattern(&name.name);
        if !options.tables.iter().any(matches)
            || options.exclude.iter().any(matches)
            || refused.iter().any(|(other, _)| *other == name)
        {
            continue;
        }
        rest.tables.retain(|pattern| *pattern != exact_pattern(&name.name));
        rest.exclude.push(exact_pattern(&name.name));
        rest.filters.retain(|(table, _)| *table != name.name);
        refused.push((name, e));
    }
    (rest, refused)
}

/// When it was last looked whether the tables are what they were.
struct Looked {
    /// Of both ends.
    forms: [String; 2],
    at: Instant,
    cost: Duration,
}

impl Looked {
    /// Between two looks, at least.
    const PAUSE: Duration = Duration::from_secs(1);
    /// Between two looks, at most.
    const PAUSE_MAX: Duration = Duration::from_secs(10);
    /// What a look costs is no more than this part of the time, as long as that is not more often.
    const PART: u32 = 100;

    async fn new(source: &Held, target: &Held, plan: &Plan) -> Result<Self> {
        let started = Instant::now();
        let (from, to) = (names(plan, |t| &t.source.name), names(plan, |t| &t.target.name));
        let (from, to) = tokio::join!(source.endpoint.forms(&from), target.endpoint.forms(&to));
        Ok(Self { forms: [from?, to?], at: Instant::now(), cost: started.elapsed() })
    }

    fn is_fresh(&self) -> bool {
        self.at.elapsed() < (self.cost * Self::PART).clamp(Self::PAUSE, Self::PAUSE_MAX)
    }
}

/// Sees to rows of either end whose deletion the other may have forgotten. A table of which that fails takes no part.
async fn reunite_ways(ways: &mut [Way], agreed: &mut [Agreed], options: &ChangeOptions) -> Result<Report> {
    let mut report = Report::nothing();
    for one in 0..ways.len() {
        for table in 0..agreed[one].forgotten.len() {
            let floor = std::mem::take(&mut agreed[one].forgotten[table]);
            if floor.versions().is_empty() {
                continue;
            }
            let (before, rest) = ways.split_at_mut(one);
            let Some((way, after)) = rest.split_first_mut() else { break };
            let Mapping { from, to, .. } = &way.route.tables[table];
            let (name, route) = (table_of(&way.route, table), way.route.clone());
            let turned = |mapping: &Mapping| mapping.from.name == to.name && mapping.to.name == from.name;
            let mut back = before.iter_mut().chain(after).next();
            let at = back.as_ref().and_then(|back| back.route.tables.iter().position(turned));
            let mut turned = back.as_mut().map(|back| back.ends());
            let there = turned.as_mut().zip(at);
            tracing::info!(
                "table {name} of {}: deletions that {} has forgotten are looked for",
                route.to.label,
                route.from.label
            );
            let other = (0..agreed.len()).find(|other| *other != one);
            let met = other
                .zip(at)
                .is_some_and(|(other, at)| matches!(agreed[other].starts[at], Start::Place(_) | Start::Lost));
            match reunite(&mut way.ends(), there, (table, &floor, met), options).await {
                Ok(done) => report.join(done),
                Err(Fault { table: None, error }) => return Err(error),
                Err(Fault { error, .. }) => {
                    report.refuse_named(&name, error);
                    agreed[one].starts[table] = Start::Not;
                    if let Some((other, at)) = other.zip(at) {
                        agreed[other].starts[at] = Start::Not;
                    }
                }
            }
        }
    }
    Ok(report)
}

/// Each direction in its turn.
async fn run_ways(ways: &mut [Way], starts: &[Agreed], (name, options): (&str, &ChangeOptions)) -> Result<Report> {
    let mut report = Report::nothing();
    for (way, agreed) in ways.iter_mut().zip(starts) {
        let mut ends = way.ends();
        let (from, to) = (&ends.route.from.label, &ends.route.to.label);
        tracing::info!(target: STEP, "sync {name}: changes of {from} go to {to}");
        let brought = run_changes(&mut ends, &agreed.starts, options).await?;
        for TableReport { table, read, inserted, updated, deleted, .. } in &brought.tables {
            tracing::info!(
                target: STEP,
                "sync {name}: table {table}: {read} changes read, {inserted} inserted, {updated} updated, {deleted} deleted"
            );
        }
        report.join(brought);
    }
    Ok(report)
}

/// How often both directions are run once more where rows of both ends have one number.
const APART_MAX: u32 = 2;

/// A pair that turns out to be restored twice in one run has other troubles.
const REOPENED_MAX: u32 = 4;

/// Each end has the other's changes: what stands in columns that are new to the sync is brought, once.
async fn run_widened(ways: &mut [Way], agreed: &[Agreed], options: &ChangeOptions) -> Result<Report> {
    let mut report = Report::nothing();
    // All rows were compared already where that was asked.
    let options = &ChangeOptions { full: false, ..options.clone() };
    for (way, Agreed { widened, .. }) in ways.iter_mut().zip(agreed) {
        widen(&mut way.ends(), widened, options).await.map_err(|fault| fault.error)?;
    }
    // What differs has its version: it is a change like any other, whatever becomes of this run.
    for (way, Agreed { widened, .. }) in ways.iter_mut().zip(agreed) {
        if !widened.is_empty() {
            way.receiver.settle(widened).await?;
        }
    }
    for way in ways.iter_mut() {
        let Agreed { starts, .. } = agree(&mut way.ends(), false).await?;
        report.join(run_changes(&mut way.ends(), &starts, options).await?);
    }
    Ok(report)
}

/// Both ends of one direction.
struct Way {
    sender: Box<dyn Sender>,
    receiver: Box<dyn Receiver>,
    route: Arc<Route>,
}

impl Way {
    async fn open(
        from: &Held,
        to: &Held,
        plan: &Plan,
        options: &PairOptions,
        push: bool,
        report: &mut Report,
    ) -> Result<Self> {
        let (route, refused) = route(&from.captured, &to.captured, plan, options, push);
        report.join(refused);
        let route = Arc::new(route);
        let sender = from.endpoint.sender(&route, &options.stop).await?;
        let receiver = to.endpoint.receiver(&route).await?;
        Ok(Self { sender, receiver, route })
    }

    fn ends(&mut self) -> Direction<'_> {
        Direction { from: self.sender.as_mut(), to: self.receiver.as_mut(), route: &self.route }
    }
}

fn names(plan: &Plan, name: impl Fn(&super::TablePlan) -> &TableName) -> Vec<TableName> {
    plan.tables.iter().map(|table| name(table).clone()).collect()
}

/// What both ends need to know, and a report of the tables that cannot take part.
pub(super) fn route(from: &Captured, to: &Captured, plan: &Plan, options: &PairOptions, push: bool) -> (Route, Report) {
    // Seen from who takes in: the sync's source sends when it is pushed.
    let side = |sync_source: bool| if sync_source == push { Side::Incoming } else { Side::Local };
    let rule = |terms: &TableTerms| {
        let policy = match terms.conflict {
            Preference::Later => Policy::LastWriteWins,
            Preference::Columns => Policy::MergeColumns,
            Preference::Source => Policy::Prefer(side(true)),
            Preference::Target => Policy::Prefer(side(false)),
            Preference::Manual => Policy::Manual,
            Preference::Keep => Policy::KeepExisting,
        };
        Rule { policy, generated_keys: options.push && options.pull && !terms.one_row }
    };
    let first_run = match options.first_run {
        Preference::Source => FirstRun::Prefer(side(true)),
        Preference::Target => FirstRun::Prefer(side(false)),
        Preference::Keep => FirstRun::Prefer(Side::Local),
        Preference::Later | Preference::Columns | Preference::Manual => FirstRun::Manual,
    };
    let mut report = Report::nothing();
    let mut tables = Vec::with_capacity(plan.tables.len());
    for table in &plan.tables {
        let whole = |end: &Captured, part: &Arc<Table>| end.table(&part.name).unwrap_or(part).clone();
        let (whole_from, whole_to) = (whole(from, &table.source), whole(to, &table.target));
        let name = if push { &table.source.name } else { &table.target.name };
        let ends = ((&*whole_from, &table.source), (&*whole_to, &table.target));
        let terms = options.terms(name);
        let (source, target) = if push { (ends.0.1, ends.1.1) } else { (ends.1.1, ends.0.1) };
        let soft_delete = options.soft_delete(name).and_then(|name| whole_from.column(&name));
        let soft_delete = soft_delete.map(|at| whole_from.columns[at].clone());
        let mapping = Mapping::new(ends.0, ends.1, table.fill.clone(), rule(&terms))
            .and_then(|mapping| Ok((mapping, terms.stamp.place(source, target)?)));
        match mapping {
            Ok((mapping, stamp)) => {
                let returning = options.push && !push;
                let filter = table.filter.clone().map(|condition| Filter { condition, returning });
                tables.push(Mapping { filter, soft_delete, stamp, ..mapping });
            }
            Err(e) => report.refuse(name, e),
        }
    }
    keys_with_numbers(&mut tables);
    let (from, to) = (from.end.clone(), to.end.clone());
    let route = Route { sync: options.name.clone(), to_target: push, from, to, tables, first_run };
    (route, report)
}

/// Two rows that have one key since they refer to two rows under one number are two as well.
fn keys_with_numbers(tables: &mut [Mapping]) {
    let follows = |tables: &[Mapping], at: usize| {
        let Mapping { from, to, key, .. } = &tables[at];
        let in_key = |table: &Table, name: &String| key.columns.iter().any(|&at| table.columns[at].name == *name);
        let follows = |table: &Arc<Table>, name: fn(&Mapping) -> &TableName| {
            table.foreign_keys.iter().any(|foreign| {
                let parent = tables.iter().find(|other| *name(other) == foreign.parent);
                parent.is_some_and(|parent| parent.rule.generated_keys)
                    && foreign.columns.iter().any(|c| in_key(table, c))
            })
        };
        follows(from, |mapping| &mapping.from.name) || follows(to, |mapping| &mapping.to.name)
    };
    while let Some(at) = (0..tables.len()).find(|&at| !tables[at].rule.generated_keys && follows(tables, at)) {
        tables[at].rule.generated_keys = true;
    }
}

/// Tables of a sync that its source lacks and its target has.
pub struct Lacking {
    /// What to plan for to make them at the source, from the target.
    pub back: PlanOptions,
    /// What is left to plan for the way there; `None`: nothing.
    pub there: Option<PlanOptions>,
}

/// The tables that only the target has, when missing tables are to be made; `None` where there is none.
///
/// # Errors
/// What the databases say.
pub async fn lacking(source: &dyn Endpoint, target: &dyn Endpoint, options: &PlanOptions) -> Result<Option<Lacking>> {
    if !options.create {
        return Ok(None);
    }
    let (mut rest, mut back) = (Vec::new(), Vec::new());
    let (mut renamed, mut columns) = (BTreeMap::new(), BTreeMap::new());
    for pattern in &options.tables {
        let own = source.matching(pattern).await?;
        let other_name = options.renamed.get(pattern);
        let there = other_name.map_or_else(|| pattern.clone(), |name| exact_pattern(&name.to_string()));
        let mut only_there = target.matching(&there).await?;
        // Of one table, whatever its schemas are called; of a glob, those whose names the source has not.
        only_there.retain(|name| {
            let one = other_name.is_some() || *pattern == exact_pattern(&name.name);
            let excluded = options.exclude.iter().any(|x| matches_pattern(x, &name.name));
            !excluded && if one { own.is_empty() } else { own.iter().all(|have| have.name != name.name) }
        });
        if !own.is_empty() || only_there.is_empty() {
            rest.push(pattern.clone());
        }
        for name in only_there {
            let local = other_name.map_or_else(|| name.name.clone(), |_| pattern.clone());
            if let Some(choice) = options.columns.get(&local) {
                columns.insert(name.to_string(), choice.clone().reversed());
            }
            back.push(exact_pattern(&name.to_string()));
            if local != name.name {
                renamed.insert(name.to_string(), TableName::new(local));
            }
        }
    }
    let there = (!rest.is_empty()).then(|| PlanOptions { tables: rest, ..options.clone() });
    let soft_deletes = BTreeMap::new();
    let back = PlanOptions { tables: back, filters: Vec::new(), renamed, columns, soft_deletes, ..options.clone() };
    Ok((!back.tables.is_empty()).then_some(Lacking { back, there }))
}

/// What to plan for the way there. A condition is asked where rows are sent, and tables are made where they arrive.
fn forward(options: &PairOptions) -> PlanOptions {
    let filters = if options.push { options.plan.filters.clone() } else { Vec::new() };
    PlanOptions { filters, create: options.plan.create && options.push, ..options.plan.clone() }
}

/// Where a condition is asked.
const BOTH_WAYS: &str = "on the way back, where each condition is asked too, in the target's own names";

/// The plan of the way back.
pub(super) async fn plan_back(source: &dyn Endpoint, target: &dyn Endpoint, options: &PlanOptions) -> Result<Plan> {
    let mut plan = source.plan(&target.origin(options).await?, options, false).await?;
    target.check(&mut plan, false).await?;
    Ok(plan)
}

/// What to plan for the way back.
pub(super) fn reversed(source: &Captured, options: &PlanOptions, there: &Plan) -> PlanOptions {
    let (mut columns, mut filters) = (BTreeMap::new(), Vec::new());
    for table in &there.tables {
        let name = table.source.name.to_string();
        let filter = options.filters.iter().find(|(of, _)| *of == name);
        filters.extend(filter.map(|(_, condition)| (table.target.name.to_string(), condition.clone())));
        if let Some(choice) = options.columns.get(&table.source.name.to_string()) {
            columns.insert(table.target.name.to_string(), way_back(source, choice, table));
        }
    }
    PlanOptions {
        tables: there.tables.iter().map(|table| table.target.name.to_string()).collect(),
        exclude: Vec::new(),
        filters,
        renamed: there
            .tables
            .iter()
            .filter(|table| table.source.name != table.target.name)
            .map(|table| (table.target.name.to_string(), table.source.name.clone()))
            .collect(),
        columns,
        create: false,
        ..options.clone()
    }
}

/// The columns that are sent, the other way; and those filled that the source has and is not sent.
fn way_back(source: &Captured, choice: &ColumnChoice, there: &TablePlan) -> ColumnChoice {
    let names = |table: &Table| table.columns.iter().map(|column| column.name.clone()).collect::<Vec<_>>();
    let (ours, theirs) = (names(&there.source), names(&there.target));
    let mut fill = choice.fill.clone();
    if let Some(whole) = source.table(&there.source.name) {
        fill.retain(|name, _| whole.column(name).is_some() && !ours.contains(name));
    }
    let rename = theirs.iter().cloned().zip(ours).filter(|(from, to)| from != to).collect();
    ColumnChoice { only: Some(theirs), exclude: Vec::new(), rename, fill }
}
