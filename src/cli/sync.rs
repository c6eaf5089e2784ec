//! `rowferry sync`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio_util::sync::CancellationToken;

use super::args::{Args, SyncArgs};
use super::copy::{BATCH_BYTES, print_report};
use super::output::Output;
use super::{Outcome, connect};
use crate::apply::Rejects;
use crate::config::{Config, Direction, Endpoint, Mode as SyncMode, Sync, TableMapping};
use crate::engine::{Database, Error, ErrorKind, Result};
use crate::model::{BatchLimits, TableName};
use crate::pipeline::{
    ColumnChoice, Mode, Plan, PlanOptions, Progress, Report, RunOptions, matches_pattern, plan, run as run_plan,
};

pub(crate) async fn run(args: &Args, typed: &SyncArgs, output: &Output, stop: CancellationToken) -> Result<Outcome> {
    let config = connect::configuration(args)?;
    let syncs = chosen(&config, &typed.names)?;
    for sync in &syncs {
        supported(sync)?;
    }
    let mut succeeded: BTreeSet<&str> = BTreeSet::new();
    let mut documents = Vec::new();
    let mut outcome = Outcome::Done;
    let mut fault: Option<Error> = None;
    for sync in &syncs {
        let waits =
            sync.after.iter().find(|name| syncs.iter().any(|s| s.name == **name) && !succeeded.contains(name.as_str()));
        if let Some(name) = waits {
            output.line(format!("{}: not run, because {name} did not succeed", sync.name));
            documents.push(serde_json::json!({ "sync": sync.name, "status": "failed", "tables": [], "seconds": 0.0,
                "error": format!("{name} did not succeed") }));
            outcome = Outcome::Short;
            continue;
        }
        output.line(format!("{}:", sync.name));
        match run_one(&config, sync, typed.force, output, &stop).await {
            Ok(report) => {
                print_report(&report, output);
                if report.status == "succeeded" {
                    succeeded.insert(&sync.name);
                } else {
                    outcome = Outcome::Short;
                    if let Some(kind) = report.error {
                        let first = report.tables.iter().find_map(|t| t.error.clone()).unwrap_or_default();
                        fault.get_or_insert(Error::new(kind, first).context(format!("sync {}", sync.name)));
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
                outcome = Outcome::Short;
                fault.get_or_insert(e.context(format!("sync {}", sync.name)));
            }
        }
    }
    output.document(&documents);
    fault.map_or(Ok(outcome), Err)
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
    Ok(syncs)
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
        return unsupported("mode: incremental");
    }
    if matches!(sync.target, Endpoint::Peer { .. }) {
        return unsupported("a peer as target");
    }
    for table in &sync.tables {
        if !table.rename.is_empty() || !table.fill.is_empty() || table.key.is_some() || table.soft_delete.is_some() {
            return unsupported(&format!("rename, fill, key or soft_delete (table {})", table.source));
        }
    }
    Ok(())
}

/// Both ends of a sync in the direction in which rows go.
pub(crate) async fn ends(config: &Config, sync: &Sync) -> Result<(Arc<dyn Database>, Arc<dyn Database>)> {
    let Endpoint::Database(other) = &sync.target else {
        return Err(Error::new(ErrorKind::Unsupported, "a peer as target is not supported yet"));
    };
    let (from, to) = if sync.direction == Direction::Pull { (other, &sync.source) } else { (&sync.source, other) };
    Ok((connect::named(config, from, false).await?, connect::named(config, to, sync.create).await?))
}

/// The plan of a full or mirror sync.
pub(crate) async fn sync_plan(sync: &Sync, from: &dyn Database, to: &dyn Database, force: bool) -> Result<Plan> {
    let pull = sync.direction == Direction::Pull;
    let ends = |t: &TableMapping| {
        if pull { (t.target.clone(), t.source.clone()) } else { (t.source.clone(), t.target.clone()) }
    };
    let mut options = PlanOptions {
        tables: sync.tables.iter().map(|t| ends(t).0).collect(),
        exclude: Vec::new(),
        mode: if sync.mode == SyncMode::Mirror { Mode::Mirror } else { Mode::Full },
        filters: Vec::new(),
        create: sync.create,
        allow_loss: sync.allow_loss,
        force,
        renamed: BTreeMap::new(),
        columns: BTreeMap::new(),
    };
    let own = from.tables(None).await?;
    for table in &sync.tables {
        let (at, to) = ends(table);
        let names: Vec<String> = if table.is_pattern() {
            own.iter().filter(|n| matches_pattern(&at, &n.name)).map(|n| n.name.clone()).collect()
        } else {
            vec![at.clone()]
        };
        for name in names {
            if let Some(filter) = &table.filter {
                options.filters.push((name.clone(), filter.clone()));
            }
            if table.columns.is_some() || !table.exclude.is_empty() {
                let choice = ColumnChoice { only: table.columns.clone(), exclude: table.exclude.clone() };
                options.columns.insert(name.clone(), choice);
            }
            if at != to && !table.is_pattern() {
                options.renamed.insert(name, TableName::new(to.clone()));
            }
        }
    }
    plan(from, to, &options).await
}

async fn run_one(
    config: &Config,
    sync: &Sync,
    force: bool,
    output: &Output,
    stop: &CancellationToken,
) -> Result<Report> {
    let (from, to) = ends(config, sync).await?;
    let plan = sync_plan(sync, from.as_ref(), to.as_ref(), force).await?;
    let progress = Progress::new(plan.tables.iter().map(|t| (t.source.name.to_string(), t.rows)));
    let watch = output.watch(&progress);
    let options = RunOptions {
        concurrency: sync.settings.concurrency,
        limits: BatchLimits { rows: sync.settings.batch_size, bytes: BATCH_BYTES },
        force,
        schema_only: false,
        rejects: Arc::new(Rejects::new(config.folder.join(format!("{}-rejects.jsonl", sync.name)))),
        stop: stop.clone(),
    };
    let rejects = options.rejects.clone();
    let report = run_plan(&from, &to, &plan, options, progress.clone()).await;
    drop(watch);
    let moved: u64 = progress.tables.iter().map(|t| t.read.load(Ordering::Relaxed)).sum();
    tracing::info!("sync {} has read {moved} rows", sync.name);
    if rejects.count() > 0 {
        output.line(format!("{} rows could not be written; they are in {}", rejects.count(), rejects.path().display()));
    }
    report
}
