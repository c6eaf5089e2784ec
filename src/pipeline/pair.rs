//! Two databases of an incremental sync: what they need is put in place, then changes go the ways that it says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::Progress;
use super::owner::Owner;
use super::persist::Claim;
use super::plan::{ColumnChoice, Plan, PlanOptions, TablePlan, exact_pattern, matches_pattern, matching_tables, plan};
use super::run::{Report, RunOptions, run};
use super::sync::{ChangeOptions, Direction, agree, run_changes};
use crate::apply::Rejects;
use crate::conflict::{FirstRun, Policy, Rule, Side};
use crate::endpoint::{End, Filter, LocalReceiver, LocalSender, Mapping, Route};
use crate::engine::{Database, Error, ErrorKind, Result};
use crate::model::{BatchLimits, Table, TableName, tells_moments};
use crate::site::{Site, install, open};

/// Who prevails at a conflict, by the sync's own names for its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preference {
    /// The higher version.
    Later,
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
    /// How rows are settled that differ when the two meet for the first time. Not [`Preference::Later`].
    pub first_run: Preference,
    /// Bounds of a batch.
    pub limits: BatchLimits,
    /// Asked to stop.
    pub stop: CancellationToken,
}

/// Both ends with all that they need in place.
pub struct Pair {
    pub(super) source: Site,
    pub(super) target: Site,
    pub(super) there: Plan,
    pub(super) back: Option<Plan>,
    pub(super) options: PairOptions,
    /// No other process brings these two in step while this lives.
    owner: Arc<Owner>,
    /// Both ends as the last run left them; none after an error.
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
        (source, target): (&Site, &Site),
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
        Ok(open)
    }
}

impl Pair {
    /// Makes missing tables at the ends that take rows in, puts the bookkeeping into both databases, and plans both ways.
    ///
    /// # Errors
    /// What stands against it at a table: no key, different keys at the two ends, a loss that is not allowed.
    pub async fn prepare(source: &Arc<dyn Database>, target: &Arc<dyn Database>, options: PairOptions) -> Result<Self> {
        let owner = Owner::take(source, target, &options.stop).await?;
        let there = match make_tables(source, target, &options).await? {
            Some(planned) => planned,
            None => plan(source.as_ref(), target.as_ref(), &forward(&options)).await?,
        };
        let from = install(source, &names(&there, |t| &t.source.name)).await?;
        let to = install(target, &names(&there, |t| &t.target.name)).await?;
        let back = if options.pull {
            let back = reversed(source.as_ref(), &options.plan, &there).await?;
            let planned = plan(target.as_ref(), source.as_ref(), &back).await;
            Some(planned.map_err(|e| if back.filters.is_empty() || !options.push { e } else { e.context(BOTH_WAYS) })?)
        } else {
            None
        };
        Ok(Self { source: from, target: to, there, back, options, owner, open: None })
    }

    /// Brings the changes of each end to the other, as far as the sync goes: first those of the target, then those of
    /// the source.
    ///
    /// # Errors
    /// What concerns no single table.
    pub async fn run(&mut self) -> Result<Report> {
        let started = Instant::now();
        for tried in 1.. {
            match self.run_once().await {
                Ok(mut report) => {
                    report.seconds = started.elapsed().as_secs_f64();
                    return Ok(report);
                }
                // It goes on under another name, which is no fault.
                Err(e) if e.kind == ErrorKind::CursorLost && tried < REOPENED_MAX => {
                    tracing::warn!("{e}");
                    self.source = reopened(&self.source).await?;
                    self.target = reopened(&self.target).await?;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(Report::nothing())
    }

    async fn run_once(&mut self) -> Result<Report> {
        if !self.owner.is_held().await {
            return Err(Error::new(
                ErrorKind::Unreachable,
                format!(
                    "the connection that keeps others from bringing {} and {} in step was lost",
                    self.source.database.label(),
                    self.target.database.label()
                ),
            ));
        }
        let mut open = match self.open.take() {
            Some(open) => open,
            None => Open::new((&self.source, &self.target), (&self.there, self.back.as_ref()), &self.options).await?,
        };
        let mut report = open.refused.clone();
        // Before anything moves: a database that was restored must not give out versions under its old name.
        let mut starts = Vec::with_capacity(open.ways.len());
        for way in &mut open.ways {
            starts.push(agree(&mut way.ends()).await?);
        }
        let options = ChangeOptions {
            limits: self.options.limits,
            force: self.options.plan.force,
            stop: self.options.stop.clone(),
        };
        for (way, starts) in open.ways.iter_mut().zip(&starts) {
            report.join(run_changes(&mut way.ends(), starts, &options).await?);
        }
        if report.error.is_none() {
            self.open = Some(open);
        }
        Ok(report)
    }
}

/// A pair that turns out to be restored twice in one run has other troubles.
const REOPENED_MAX: u32 = 4;

async fn reopened(site: &Site) -> Result<Site> {
    open(&site.database).await?.ok_or_else(|| {
        Error::new(
            ErrorKind::SchemaMismatch,
            format!("the bookkeeping of {} vanished; run this again", site.database.label()),
        )
    })
}

/// Both ends of one direction.
struct Way {
    sender: LocalSender,
    receiver: LocalReceiver,
    route: Arc<Route>,
}

impl Way {
    async fn open(
        from: &Site,
        to: &Site,
        plan: &Plan,
        options: &PairOptions,
        push: bool,
        report: &mut Report,
    ) -> Result<Self> {
        let (route, refused) = route(from, to, plan, options, push);
        report.join(refused);
        let route = Arc::new(route);
        let sender = LocalSender::open(from, &route, &options.stop).await?;
        let receiver = LocalReceiver::open(to, &route).await?;
        Ok(Self { sender, receiver, route })
    }

    fn ends(&mut self) -> Direction<'_> {
        Direction { from: &mut self.sender, to: &mut self.receiver, route: &self.route }
    }
}

fn names(plan: &Plan, name: impl Fn(&super::TablePlan) -> &TableName) -> Vec<TableName> {
    plan.tables.iter().map(|table| name(table).clone()).collect()
}

/// What both ends need to know, and a report of the tables that cannot take part.
pub(super) fn route(from: &Site, to: &Site, plan: &Plan, options: &PairOptions, push: bool) -> (Route, Report) {
    // Seen from who takes in: the sync's source sends when it is pushed.
    let side = |sync_source: bool| if sync_source == push { Side::Incoming } else { Side::Local };
    let terms = |name: &TableName| {
        let all = TableTerms { conflict: options.conflict, one_row: false, stamp: Stamp::UpdatedAt };
        options.tables.get(&name.to_string()).cloned().unwrap_or(all)
    };
    let rule = |terms: &TableTerms| {
        let policy = match terms.conflict {
            Preference::Later => Policy::LastWriteWins,
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
        Preference::Later | Preference::Manual => FirstRun::Manual,
    };
    let mut report = Report::nothing();
    let mut tables = Vec::with_capacity(plan.tables.len());
    for table in &plan.tables {
        let whole = |site: &Site, part: &Arc<Table>| {
            site.book(&part.name).map_or_else(|| part.clone(), |book| book.logged.table.clone())
        };
        let (whole_from, whole_to) = (whole(from, &table.source), whole(to, &table.target));
        let name = if push { &table.source.name } else { &table.target.name };
        let ends = ((&*whole_from, &table.source), (&*whole_to, &table.target));
        let terms = terms(name);
        let (source, target) = if push { (ends.0.1, ends.1.1) } else { (ends.1.1, ends.0.1) };
        let mapping = Mapping::new(ends.0, ends.1, table.fill.clone(), rule(&terms))
            .and_then(|mapping| Ok((mapping, terms.stamp.place(source, target)?)));
        match mapping {
            Ok((mapping, stamp)) => {
                let returning = options.push && !push;
                let filter = table.filter.clone().map(|condition| Filter { condition, returning });
                tables.push(Mapping { filter, stamp, ..mapping });
            }
            Err(e) => report.refuse(name, e),
        }
    }
    let route =
        Route { sync: options.name.clone(), to_target: push, from: End::of(from), to: End::of(to), tables, first_run };
    (route, report)
}

/// Makes the tables that an end which takes rows in lacks, without rows; the plan for the way there, where nothing had to
/// be made there.
async fn make_tables(
    source: &Arc<dyn Database>,
    target: &Arc<dyn Database>,
    options: &PairOptions,
) -> Result<Option<Plan>> {
    if options.pull
        && let Some(Lacking { back, .. }) = lacking(source.as_ref(), target.as_ref(), &options.plan).await?
    {
        make(target, source, &back, options).await?;
    }
    if options.push { make(source, target, &forward(options), options).await } else { Ok(None) }
}

async fn make(
    from: &Arc<dyn Database>,
    to: &Arc<dyn Database>,
    wanted: &PlanOptions,
    options: &PairOptions,
) -> Result<Option<Plan>> {
    let first = plan(from.as_ref(), to.as_ref(), wanted).await?;
    if first.tables.iter().all(|table| !table.create && table.ddl.is_none()) {
        return Ok(Some(first));
    }
    let claim = Claim::take(to, &options.stop).await?;
    let run_options = RunOptions {
        concurrency: 1,
        limits: options.limits,
        force: false,
        schema_only: true,
        rejects: Arc::new(Rejects::new(std::path::PathBuf::new())),
        stop: options.stop.clone(),
    };
    run(from, &claim, &first, run_options, Progress::new(std::iter::empty())).await?;
    Ok(None)
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
pub async fn lacking(source: &dyn Database, target: &dyn Database, options: &PlanOptions) -> Result<Option<Lacking>> {
    if !options.create {
        return Ok(None);
    }
    let (ours, theirs) = (source.tables(None).await?, target.tables(None).await?);
    let (mut rest, mut back) = (Vec::new(), Vec::new());
    let (mut renamed, mut columns) = (BTreeMap::new(), BTreeMap::new());
    for pattern in &options.tables {
        let own = matching_tables(source, &ours, pattern).await?;
        let other_name = options.renamed.get(pattern);
        let there = other_name.map_or_else(|| pattern.clone(), |name| exact_pattern(&name.to_string()));
        let mut only_there = matching_tables(target, &theirs, &there).await?;
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
    let back = PlanOptions { tables: back, filters: Vec::new(), renamed, columns, ..options.clone() };
    Ok((!back.tables.is_empty()).then_some(Lacking { back, there }))
}

/// What to plan for the way there. A condition is asked where rows are sent.
fn forward(options: &PairOptions) -> PlanOptions {
    let filters = if options.push { options.plan.filters.clone() } else { Vec::new() };
    PlanOptions { filters, create: options.plan.create && options.push, ..options.plan.clone() }
}

/// Where a condition is asked.
const BOTH_WAYS: &str = "on the way back, where each condition is asked too, in the target's own names";

/// What to plan for the way back.
pub(super) async fn reversed(source: &dyn Database, options: &PlanOptions, there: &Plan) -> Result<PlanOptions> {
    let (mut columns, mut filters) = (BTreeMap::new(), Vec::new());
    for table in &there.tables {
        let name = table.source.name.to_string();
        let filter = options.filters.iter().find(|(of, _)| *of == name);
        filters.extend(filter.map(|(_, condition)| (table.target.name.to_string(), condition.clone())));
        if let Some(choice) = options.columns.get(&table.source.name.to_string()) {
            columns.insert(table.target.name.to_string(), way_back(source, choice, table).await?);
        }
    }
    Ok(PlanOptions {
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
    })
}

/// The columns that are sent, the other way; and those filled that the source has and is not sent.
async fn way_back(source: &dyn Database, choice: &ColumnChoice, there: &TablePlan) -> Result<ColumnChoice> {
    let names = |table: &Table| table.columns.iter().map(|column| column.name.clone()).collect::<Vec<_>>();
    let (ours, theirs) = (names(&there.source), names(&there.target));
    let mut fill = choice.fill.clone();
    if let Some(whole) = source.describe(&there.source.name).await? {
        fill.retain(|name, _| whole.column(name).is_some() && !ours.contains(name));
    }
    let rename = theirs.iter().cloned().zip(ours).filter(|(from, to)| from != to).collect();
    Ok(ColumnChoice { only: Some(theirs), exclude: Vec::new(), rename, fill })
}
