//! `rowferry sync`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::args::{Args, SyncArgs};
use super::copy::{BATCH_BYTES, print_report, tell_rejects, watched};
use super::output::{Output, complain};
use super::serve::FromConfig;
use super::{Outcome, connect, ends, recover};
use crate::apply::Rejects;
use crate::config::{
    Config, Conflict, Direction, Endpoint, FirstRun, Ids, Mode as SyncMode, StampColumn, Sync, TableMapping,
};
use crate::engine::{Database, Error, ErrorKind, Result};
use crate::jobs::{Follow, Outcomes, Prepare};
use crate::model::{BatchLimits, TableName};
use crate::peer::RemoteEndpoint;
use crate::pipeline::{
    ColumnChoice, Endpoint as SyncEnd, Lacking, LocalEndpoint, Mode, Pair, PairOptions, Plan, PlanOptions, Preference,
    Report, RunOptions, Stamp, StampedEndpoint, TableTerms, bring, lacking, matches_pattern, plan_between,
};

/// How syncs are run.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Manner {
    /// Whether more than half of a table may be deleted.
    pub(crate) force: bool,
    /// Whether all rows are compared.
    pub(crate) full: bool,
}

pub(crate) async fn run(args: &Args, typed: &SyncArgs, output: &Output, stop: CancellationToken) -> Result<Outcome> {
    let config = connect::configuration(args)?;
    let syncs = chosen(&config, &typed.names)?;
    for sync in &syncs {
        supported(sync)?;
    }
    if typed.watch {
        followable(&syncs)?;
    }
    if typed.watch && !typed.full {
        return watch(config.clone(), &syncs, output, &stop).await;
    }
    let manner = Manner { force: typed.force, full: typed.full };
    let mut succeeded: BTreeSet<&str> = BTreeSet::new();
    let mut documents = Vec::new();
    let mut short = false;
    let mut ran = 0;
    let mut fault: Option<ErrorKind> = None;
    for sync in &syncs {
        let waits =
            sync.after.iter().find(|name| syncs.iter().any(|s| s.name == **name) && !succeeded.contains(name.as_str()));
        if let Some(name) = waits {
            output.line(format!("{}: not run, because {name} did not succeed", sync.name));
            documents.push(serde_json::json!({ "sync": sync.name, "status": "failed", "tables": [], "seconds": 0.0,
                "error": format!("{name} did not succeed") }));
            short = true;
            continue;
        }
        output.news(format!("{}:", sync.name));
        match run_one(&config, sync, manner, output, &stop).await {
            Ok(report) => {
                ran += 1;
                print_report(&report, output);
                if report.status == "succeeded" {
                    succeeded.insert(&sync.name);
                    recover::note(&config, sync, None).await?;
                } else {
                    short = true;
                    if let Some(error) = report.fault() {
                        let error = error.context(format!("sync {}", sync.name));
                        complain(error.message());
                        // Whatever else it is, it ran and fell short.
                        let told = matches!(error.kind, ErrorKind::Unreachable | ErrorKind::Interrupted);
                        fault = fault.or(told.then_some(error.kind));
                    }
                }
                let mut document = serde_json::to_value(&report).unwrap_or_default();
                document["sync"] = sync.name.clone().into();
                documents.push(document);
            }
            Err(e) if e.kind == ErrorKind::Interrupted => return Err(e),
            Err(e) => {
                documents
                    .push(serde_json::json!({ "sync": sync.name, "status": "failed", "tables": [], "seconds": 0.0,
                    "error": e.message() }));
                fault.get_or_insert(e.kind);
                complain(e.context(format!("sync {}", sync.name)).message());
            }
        }
    }
    if typed.watch {
        for document in &documents {
            output.document(document);
        }
        return watch(config.clone(), &syncs, output, &stop).await;
    }
    output.document(&documents);
    Ok(ending(fault, short, ran, syncs.len()))
}

/// How a round of `all` syncs ended, of which `ran` ran: the first fault's own code only where no other sync has
/// written, so that 2 and 3 never stand for a round that did something.
fn ending(fault: Option<ErrorKind>, short: bool, ran: usize, all: usize) -> Outcome {
    match fault {
        Some(ErrorKind::Interrupted) => Outcome::Failed(ErrorKind::Interrupted),
        Some(kind) if ran == 0 || all == 1 => Outcome::Failed(kind),
        None if !short => Outcome::Done,
        _ => Outcome::Short,
    }
}

/// Runs incremental syncs again and again, side by side, until it is asked to stop. One that fails is tried again, ever
/// more rarely, and does not stop the others; what cannot go well at all is told by its first round, which ends it all.
async fn watch(config: Config, syncs: &[&Sync], output: &Output, stop: &CancellationToken) -> Result<Outcome> {
    let (outcomes, prepare) = (
        Outcomes::default(),
        Arc::new(FromConfig { node: None, files: recover::Files::default() }) as Arc<dyn Prepare>,
    );
    // Ends with this function, however it ends.
    let stop = stop.child_token();
    let _ending = stop.clone().drop_guard();
    let config = Arc::new(config);
    let follow =
        |sync: &&Sync| (sync.name.clone(), Follow::new((&config, sync), &prepare, (None, None), &outcomes, &stop));
    let followed: Vec<(String, Follow)> = syncs.iter().map(follow).collect();
    let (tell, mut told) = mpsc::channel(followed.len());
    let mut tasks = JoinSet::new();
    for (name, mut follow) in followed {
        let (tell, stop) = (tell.clone(), stop.clone());
        tasks.spawn(async move {
            let mut first = true;
            while !stop.is_cancelled()
                && let Some(turn) = follow.round().await
            {
                let (wait, well) = (turn.wait, turn.result.is_ok());
                if (first || turn.moved || turn.result.is_err())
                    && tell.send((name.clone(), first, turn)).await.is_err()
                {
                    break;
                }
                first &= !well;
                follow.pause(wait).await;
            }
        });
    }
    drop(tell);
    while let Some((name, first, turn)) = told.recv().await {
        match turn.result {
            Ok(report) => print_round(&name, &report, output),
            // Another brings the two in step. Whoever is only at the capture of a database is done soon.
            Err(e) if first && (!e.is_transient() || (turn.unready >= REFUSED && e.kind == ErrorKind::Busy)) => {
                return Err(e.context(format!("sync {name}")));
            }
            Err(e) => tracing::warn!("sync {name}: {e}; trying again in {:.1} s", turn.wait.as_secs_f64()),
        }
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|e| Error::new(ErrorKind::Protocol, format!("a sync ended by a mistake of ours: {e}")))?;
    }
    Ok(Outcome::Done)
}

/// Refuses to follow what does not follow changes.
fn followable(syncs: &[&Sync]) -> Result<()> {
    let Some(other) = syncs.iter().find(|sync| sync.mode != SyncMode::Incremental) else { return Ok(()) };
    Err(Error::new(
        ErrorKind::Usage,
        format!("sync {}: --watch follows changes, which mode: full and mirror do not; name the others", other.name),
    ))
}

/// So often in a row another holds what a sync needs before it is given up: one that is only being installed is ready soon.
const REFUSED: u32 = 3;

fn print_round(name: &str, report: &Report, output: &Output) {
    let mut document = serde_json::to_value(report).unwrap_or_default();
    document["sync"] = name.into();
    output.document(&document);
    let changes: u64 = report.tables.iter().map(|t| t.inserted + t.updated + t.deleted).sum();
    let conflicts: u64 = report.tables.iter().map(|t| t.conflicts).sum();
    output.news(format!("{name}: {changes} changes, {conflicts} conflicts"));
}

/// The syncs of these names, or all that are enabled, in the order of the file.
pub(crate) fn chosen<'a>(config: &'a Config, names: &[String]) -> Result<Vec<&'a Sync>> {
    for name in names {
        if config.sync(name).is_none() {
            let known: Vec<&str> = config.syncs.iter().map(|s| s.name.as_str()).collect();
            return Err(Error::new(
                ErrorKind::Usage,
                format!("the config has no sync '{name}'; it has {}", known.join(", ")),
            ));
        }
    }
    let wanted = |s: &&Sync| if names.is_empty() { s.enabled } else { names.contains(&s.name) };
    let syncs: Vec<&Sync> = config.syncs.iter().filter(wanted).collect();
    if syncs.is_empty() {
        return Err(Error::new(ErrorKind::Usage, "the config has no enabled sync to run"));
    }
    Ok(in_order(syncs))
}

/// The order of the file, except that one which waits for another comes after it. The config has no circle.
fn in_order(syncs: Vec<&Sync>) -> Vec<&Sync> {
    let (mut rest, mut ordered): (Vec<&Sync>, Vec<&Sync>) = (syncs, Vec::new());
    while !rest.is_empty() {
        let waits = |sync: &Sync| rest.iter().any(|other| sync.after.contains(&other.name));
        let next = rest.iter().position(|sync| !waits(sync)).unwrap_or(0);
        ordered.push(rest.remove(next));
    }
    ordered
}

/// What this version cannot do yet is refused before anything runs.
pub(crate) fn supported(sync: &Sync) -> Result<()> {
    let unsupported = |what: &str| {
        Err(Error::new(
            ErrorKind::Unsupported,
            format!("sync {}: {what} is not supported yet; nothing was run", sync.name),
        ))
    };
    if sync.mode == SyncMode::Incremental {
        ends::notices(sync)?;
        for table in &sync.tables {
            if matches!(table.ids, Some(Ids::Ranges)) {
                return unsupported(&format!("ids: ranges (table {})", table.source));
            }
        }
    }
    for table in &sync.tables {
        if sync.direction == Direction::Bidirectional && table.soft_delete.is_some() {
            return Err(Error::new(
                ErrorKind::Usage,
                format!(
                    "sync {}, table {}: soft_delete goes one way, since a row that the other end deletes has no column to say \
                     so; write direction: push or pull, or leave it out: the column is synced like any other then",
                    sync.name, table.source
                ),
            ));
        }
        if table.key.is_some() && sync.mode == SyncMode::Incremental {
            return unsupported(&format!(
                "key (table {}) with mode: incremental (mode: full and mirror match rows by it)",
                table.source
            ));
        }
        if table.key.is_some() && matches!(sync.target, Endpoint::Peer { .. }) {
            return unsupported(&format!("key (table {}) with a peer", table.source));
        }
    }
    Ok(())
}

/// Both ends of a sync in the direction in which rows go.
pub(crate) fn in_direction<'a>(sync: &Sync, (source, target): Ends<'a>) -> Ends<'a> {
    if sync.direction == Direction::Pull { (target, source) } else { (source, target) }
}

/// Two ends.
type Ends<'a> = (&'a dyn SyncEnd, &'a dyn SyncEnd);

/// The database at hand that an incremental sync has as its end. A missing file where rows only come from would pass for
/// an empty one.
pub(crate) async fn at_hand(config: &Config, sync: &Sync, name: &str, from: Direction) -> Result<Arc<dyn Database>> {
    connect::named(config, name, sync.create && sync.direction != from).await
}

/// Source and target of an incremental sync.
pub(crate) async fn both(config: &Config, sync: &Sync, stop: &CancellationToken) -> Result<Both> {
    let end = |name: &str, database: &Arc<dyn Database>| -> Arc<dyn SyncEnd> {
        if ends::only_read(sync) == Some(name) {
            Arc::new(StampedEndpoint::new(database, &sync.name, stop))
        } else {
            Arc::new(LocalEndpoint::new(database, stop))
        }
    };
    let source = at_hand(config, sync, &sync.source, Direction::Push).await?;
    let target: Arc<dyn SyncEnd> = match &sync.target {
        Endpoint::Database(name) => end(name, &at_hand(config, sync, name, Direction::Pull).await?),
        Endpoint::Peer { peer, database } => {
            let link = connect::peer(config, peer)?;
            Arc::new(RemoteEndpoint::meet(link, &config.node, database.as_deref()).await?)
        }
    };
    Ok((end(&sync.source, &source), target))
}

/// Source and target.
type Both = (Arc<dyn SyncEnd>, Arc<dyn SyncEnd>);

/// The plan of a full or mirror sync, from one end to the other; whether to accept what is to be accepted, and whether to
/// make at a peer what is missing. `count`: with the rows counted.
pub(crate) async fn sync_plan(
    sync: &Sync,
    (from, to): Ends<'_>,
    (force, make): (bool, bool),
    count: bool,
) -> Result<Plan> {
    let pull = sync.direction == Direction::Pull;
    let own = if patterns(sync) { from.matching("*").await? } else { Vec::new() };
    let options = PlanOptions { count, ..plan_options(sync, &own, (pull, force)) };
    plan_between(from, to, &options, make).await
}

fn patterns(sync: &Sync) -> bool {
    sync.tables.iter().any(TableMapping::is_pattern)
}

/// The plans of an incremental sync: what goes there, and what the source lacks.
pub(crate) async fn pair_plans(sync: &Sync, source: &dyn SyncEnd, target: &dyn SyncEnd) -> Result<Vec<Plan>> {
    let options = plan_options(sync, &holders(sync, source, target).await?, (false, false));
    let pull = sync.direction != Direction::Push;
    let found = if pull { lacking(source, target, &options).await? } else { None };
    let Some(Lacking { back, there }) = found else { return Ok(vec![counted(source, target, &options).await?]) };
    let mut plans = vec![counted(target, source, &back).await?];
    if let Some(there) = there {
        plans.push(counted(source, target, &there).await?);
    }
    Ok(plans)
}

/// A plan that changes nothing, with the rows counted.
async fn counted(from: &dyn SyncEnd, to: &dyn SyncEnd, options: &PlanOptions) -> Result<Plan> {
    let mut plan = to.plan(&from.origin(options).await?, options, false).await?;
    from.check(&mut plan, true).await?;
    Ok(plan)
}

/// The tables that an incremental sync's patterns may mean: those that it takes in may be missing at the source yet.
async fn holders(sync: &Sync, source: &dyn SyncEnd, target: &dyn SyncEnd) -> Result<Vec<TableName>> {
    if !patterns(sync) {
        return Ok(Vec::new());
    }
    let mut known = source.matching("*").await?;
    if sync.direction != Direction::Push {
        known.extend(target.matching("*").await?);
    }
    Ok(known)
}

/// What to plan for; what patterns mean is looked for among `known`. `pull`: against the direction in which the sync
/// names its tables.
fn plan_options(sync: &Sync, known: &[TableName], (pull, force): (bool, bool)) -> PlanOptions {
    let ends = |t: &TableMapping| {
        if pull { (t.target.clone(), t.source.clone()) } else { (t.source.clone(), t.target.clone()) }
    };
    let mut options = PlanOptions {
        tables: sync.tables.iter().map(|t| ends(t).0).collect(),
        mode: if sync.mode == SyncMode::Mirror { Mode::Mirror } else { Mode::Full },
        create: sync.create,
        allow_loss: sync.allow_loss,
        force,
        lasting: sync.mode == SyncMode::Incremental,
        ..PlanOptions::default()
    };
    for table in &sync.tables {
        let (at, to) = ends(table);
        for name in names(table, &at, known) {
            if let Some(filter) = &table.filter {
                options.filters.push((name.clone(), filter.clone()));
            }
            let choice = ColumnChoice {
                only: table.columns.clone(),
                exclude: table.exclude.clone(),
                rename: table.rename.clone(),
                fill: table.fill.clone(),
            };
            if choice != ColumnChoice::default() {
                options.columns.insert(name.clone(), if pull { choice.reversed() } else { choice });
            }
            if let Some(key) = &table.key {
                // In the names of the end that sends.
                let there = |name: &String| table.rename.get(name).filter(|_| pull).unwrap_or(name).clone();
                options.matched.insert(name.clone(), key.iter().map(there).collect());
            }
            // An incremental sync plans the way there in any case.
            if let Some(column) = table.soft_delete.as_ref().filter(|_| pull || sync.direction != Direction::Pull) {
                let there = table.rename.get(column).filter(|_| pull).unwrap_or(column);
                options.soft_deletes.insert(name.clone(), there.clone());
            }
            if at != to && !table.is_pattern() {
                options.renamed.insert(name, TableName::new(to.clone()));
            }
        }
    }
    options
}

/// Names of the tables that a mapping means where they are called `at`.
fn names(table: &TableMapping, at: &str, known: &[TableName]) -> BTreeSet<String> {
    if !table.is_pattern() {
        return BTreeSet::from([at.to_owned()]);
    }
    known.iter().map(|name| name.name.clone()).filter(|name| matches_pattern(at, name)).collect()
}

fn preference(conflict: Conflict) -> Preference {
    match conflict {
        Conflict::SourceWins => Preference::Source,
        Conflict::TargetWins => Preference::Target,
        Conflict::Manual => Preference::Manual,
        Conflict::KeepExisting => Preference::Keep,
        Conflict::MergeColumns => Preference::Columns,
        Conflict::LastWriteWins => Preference::Later,
    }
}

/// Both ends of an incremental sync, ready to go on.
pub(crate) async fn pair(config: &Config, sync: &Sync, manner: Manner, stop: &CancellationToken) -> Result<Pair> {
    let ((source, target), options) = parts(config, sync, manner, stop).await?;
    Pair::between(source, target, options).await
}

/// Both ends of an incremental sync, for what a person decides, whether or not the sync is going on.
pub(crate) async fn pair_beside(config: &Config, sync: &Sync, stop: &CancellationToken) -> Result<Pair> {
    let ((source, target), options) = parts(config, sync, Manner::default(), stop).await?;
    Pair::beside(source, target, options).await
}

/// What an incremental sync needs.
async fn parts(config: &Config, sync: &Sync, manner: Manner, stop: &CancellationToken) -> Result<(Both, PairOptions)> {
    let (source, target) = both(config, sync, stop).await?;
    let known = holders(sync, source.as_ref(), target.as_ref()).await?;
    let plan = plan_options(sync, &known, (false, manner.force));
    let mut tables = BTreeMap::new();
    for mapping in &sync.tables {
        let terms = TableTerms {
            conflict: preference(mapping.conflict),
            one_row: matches!(mapping.ids, Some(Ids::Same)),
            stamp: match &mapping.timestamp {
                StampColumn::Auto => Stamp::UpdatedAt,
                StampColumn::None => Stamp::None,
                StampColumn::Named(column) => Stamp::Column(column.clone()),
            },
            soft_delete: mapping.soft_delete.clone(),
        };
        let named = names(mapping, &mapping.source, &known);
        tables.extend(named.into_iter().map(|name| (name, terms.clone())));
    }
    let options = PairOptions {
        name: sync.name.clone(),
        plan,
        push: sync.direction != Direction::Pull,
        pull: sync.direction != Direction::Push,
        conflict: preference(sync.conflict),
        tables,
        first_run: match sync.first_run {
            FirstRun::SourceWins => Preference::Source,
            FirstRun::TargetWins => Preference::Target,
            FirstRun::Manual => Preference::Manual,
        },
        limits: BatchLimits { rows: sync.settings.batch_size, bytes: BATCH_BYTES },
        full: manner.full,
        stop: stop.clone(),
    };
    Ok(((source, target), options))
}

pub(crate) async fn run_one(
    config: &Config,
    sync: &Sync,
    manner: Manner,
    output: &Output,
    stop: &CancellationToken,
) -> Result<Report> {
    if sync.mode == SyncMode::Incremental {
        let mut pair = pair(config, sync, manner, stop).await?;
        let report = pair.run().await;
        pair.part().await;
        return report;
    }
    let force = manner.force;
    let (source, target) = both(config, sync, stop).await?;
    let ends = in_direction(sync, (source.as_ref(), target.as_ref()));
    let options = RunOptions {
        concurrency: sync.settings.concurrency,
        limits: BatchLimits { rows: sync.settings.batch_size, bytes: BATCH_BYTES },
        force,
        schema_only: false,
        rejects: Arc::new(Rejects::new(config.folder.join(format!("{}-rejects.jsonl", sync.name)))),
        stop: stop.clone(),
    };
    let (rejects, mut watch) = (options.rejects.clone(), None);
    let plan = async |make| sync_plan(sync, ends, (force, make), output.is_watched()).await.map(Some);
    let report = bring(ends, options, plan, |plan| watched(plan, output, &mut watch)).await;
    drop(watch);
    tell_rejects(&rejects, output);
    let report = report?.unwrap_or_else(Report::nothing);
    let moved: u64 = report.tables.iter().map(|table| table.read).sum();
    tracing::info!("sync {} has read {moved} rows", sync.name);
    Ok(report)
}
