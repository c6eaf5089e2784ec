//! `rowferry recover`: a SQLite file that is missing, damaged or emptied is set aside and made anew, from what can be read
//! of it and from what its syncs bring.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::args::{Args, RecoverArgs};
use super::copy::print_report;
use super::output::Output;
use super::{Outcome, connect, ends, serve, sync};
use crate::apply::Rejects;
use crate::config::{Config, DatabaseConfig, Direction, Endpoint, Mode, Secret, Sync};
use crate::engine::files::{self, Damage};
use crate::engine::{Database, Error, ErrorKind, Looked, OpenOptions, Result, RowLock, WriteOptions, open};
use crate::jobs::Node;
use crate::model::{Batch, TableName, Zone};
use crate::peer::RemoteEndpoint;
use crate::pipeline::matches_pattern;
use crate::site;
use crate::state::{Kind, State};

/// Rows of bookkeeping that are read at a time.
const LINES: usize = 100_000;

/// How a database is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "reason")]
pub(super) enum Condition {
    Healthy,
    Missing,
    /// No synced table holds a row, although some did. Whether deletions were noted in it.
    Empty(bool),
    Corrupt(String),
}

impl Condition {
    fn sentence(&self) -> String {
        match self {
            Self::Healthy => "nothing is wrong".to_owned(),
            Self::Missing => "its file is missing".to_owned(),
            Self::Empty(_) => "no synced table holds a row, although some did".to_owned(),
            Self::Corrupt(reason) => format!("its file is damaged: {reason}"),
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Missing => "missing",
            Self::Empty(_) => "empty",
            Self::Corrupt(_) => "corrupt",
        }
    }
}

pub(crate) async fn run(args: &Args, typed: &RecoverArgs, output: &Output, stop: CancellationToken) -> Result<Outcome> {
    let config = connect::configuration(args)?;
    let state = State::open(&serve::state_place(&config)).await?;
    let (mut documents, mut short) = (Vec::new(), false);
    for name in chosen(&config, &typed.databases)? {
        let about = |e: Error| e.context(format!("database '{name}'"));
        let condition = condition(&config, &state, name, true).await.map_err(about)?;
        output.line(format!("database '{name}': {}", condition.sentence()));
        let mut document = json!({ "database": name, "state": condition.word(), "reason": condition.sentence() });
        if condition != Condition::Healthy || typed.force {
            let recovered = if typed.check {
                short = true;
                Recovered::default()
            } else {
                rebuild(&config, name, &condition, output, &stop).await.map_err(about)?
            };
            short |= !recovered.lost.is_empty();
            for lost in &recovered.lost {
                output.line(format!("  {lost}"));
            }
            if let Some(unsent) = &recovered.unsent {
                output.line(format!("  changes that could not be sent are in {}", unsent.display()));
            }
            document["set_aside"] = json!(recovered.set_aside);
            document["unsent"] = json!(recovered.unsent);
            document["lost"] = json!(recovered.lost);
        }
        documents.push(document);
    }
    if documents.is_empty() {
        output.line("no sync has a SQLite file as an end: there is nothing to recover");
    }
    output.document(&Value::from(documents));
    Ok(if short { Outcome::Short } else { Outcome::Done })
}

/// The databases of these names, or all that are files and ends of syncs.
fn chosen<'a>(config: &'a Config, names: &'a [String]) -> Result<Vec<&'a str>> {
    let usage = |message: String| Err(Error::new(ErrorKind::Usage, message));
    for name in names {
        let database = config.database(name).map_err(|e| Error::new(ErrorKind::Usage, e.to_string()))?;
        if database.file().is_none() {
            return usage(format!(
                "database '{name}' is no SQLite file: restore it by its server's own means, then run 'rowferry sync'"
            ));
        }
        if syncs(config, name).next().is_none() {
            return usage(format!("no enabled sync has database '{name}' as an end, so nothing can bring its rows"));
        }
    }
    let files = config.databases.iter().filter(|(_, database)| database.file().is_some());
    let all = files.map(|(name, _)| name.as_str()).filter(|name| syncs(config, name).next().is_some());
    Ok(all.filter(|name| names.is_empty() || names.iter().any(|typed| typed == name)).collect())
}

/// The enabled syncs of which this database is an end.
fn syncs<'a>(config: &'a Config, name: &'a str) -> impl Iterator<Item = &'a Sync> {
    config.syncs.iter().filter(move |sync| sync.enabled && ends::names(sync).any(|end| end == name))
}

/// Whether a sync brings rows into this database, and whether it takes some out.
fn ways(sync: &Sync, name: &str) -> (bool, bool) {
    let (out, into) =
        if sync.source == name { (Direction::Push, Direction::Pull) } else { (Direction::Pull, Direction::Push) };
    (sync.direction != out, sync.direction != into)
}

/// The table names of a sync's mappings at this end.
fn tables_of<'a>(sync: &'a Sync, name: &'a str) -> impl Iterator<Item = (&'a str, bool)> {
    let at_source = sync.source == name;
    sync.tables.iter().map(move |t| (if at_source { t.source.as_str() } else { t.target.as_str() }, t.is_pattern()))
}

/// The tables of this database that these syncs mean.
async fn synced<'a>(
    database: &dyn Database,
    name: &str,
    syncs: impl Iterator<Item = &'a Sync>,
) -> Result<BTreeSet<TableName>> {
    let all = database.tables(None).await?;
    let mut found = BTreeSet::new();
    for sync in syncs {
        for (wanted, pattern) in tables_of(sync, name) {
            let means =
                |table: &&TableName| if pattern { matches_pattern(wanted, &table.name) } else { table.name == wanted };
            found.extend(all.iter().filter(means).cloned());
        }
    }
    Ok(found)
}

/// How the file of a database is. `thorough`: its indexes are looked at too.
pub(super) async fn condition(config: &Config, state: &State, name: &str, thorough: bool) -> Result<Condition> {
    let Some(file) = file(config, name)? else { return Ok(Condition::Healthy) };
    match files::damage(&file, thorough).await? {
        Some(Damage::Missing) => return Ok(Condition::Missing),
        Some(Damage::Corrupt(reason)) => return Ok(Condition::Corrupt(reason)),
        None => {}
    }
    let database = connect::named(config, name, false).await?;
    if holds(&database, name, config).await? {
        return Ok(Condition::Healthy);
    }
    let noted = noted(&database).await?;
    let held = noted || state.get::<Value>(Kind::Database, name).await?.is_some();
    Ok(if held { Condition::Empty(noted) } else { Condition::Healthy })
}

/// Whether it takes part as a site that has given out numbers: it held rows, and deletions of them are among its changes.
async fn noted(database: &Arc<dyn Database>) -> Result<bool> {
    let Some(site) = site::open(database).await? else { return Ok(false) };
    let mut target = database.target().await?;
    target.begin(WriteOptions { point: true, ..WriteOptions::default() }).await?;
    let last = site.last_number(target.as_mut()).await;
    target.rollback().await?;
    Ok(last? > 0)
}

/// Whether any synced table of a database holds a row.
async fn holds(database: &Arc<dyn Database>, name: &str, config: &Config) -> Result<bool> {
    let names: Vec<TableName> = synced(database.as_ref(), name, syncs(config, name)).await?.into_iter().collect();
    let tables = database.describe_all(&names).await?.into_iter().flatten();
    let looked: Vec<Looked> = tables.map(|table| Looked { table: Arc::new(table), above: None }).collect();
    let mut target = database.target().await?;
    target.begin(WriteOptions { point: true, ..WriteOptions::default() }).await?;
    let holding = target.holding(&looked).await;
    target.rollback().await?;
    Ok(holding?.contains(&true))
}

/// Notes of the files that a sync brings rows into that they hold some, so that it is known when they do not any more.
pub(super) async fn note(config: &Config, sync: &Sync, state: Option<&State>) -> Result<()> {
    for name in ends::names(sync).filter(|name| ways(sync, name).0) {
        if file(config, name)?.is_none_or(|file| !file.exists()) {
            continue;
        }
        let state = match state {
            Some(state) => state.clone(),
            None => State::open(&serve::state_place(config)).await?,
        };
        if state.get::<Value>(Kind::Database, name).await?.is_some() {
            continue;
        }
        let database = connect::named(config, name, false).await?;
        if holds(&database, name, config).await? {
            state.put(Kind::Database, name, &json!({ "held_rows": true })).await?;
        }
    }
    Ok(())
}

fn file(config: &Config, name: &str) -> Result<Option<PathBuf>> {
    let database = config.database(name).map_err(|e| Error::new(ErrorKind::Usage, e.to_string()))?;
    Ok(database.file().map(Path::to_owned))
}

/// The files of a node that were looked at since it started, by the names of their databases.
#[derive(Default)]
pub(super) struct Files(Mutex<BTreeSet<String>>);

impl Files {
    /// Makes the files at the ends of a sync anew that are missing or damaged; once each. One whose rows were deleted while
    /// that was noted is left to a person: perhaps it was meant.
    ///
    /// # Errors
    /// What stands against it; it is tried again then.
    pub(super) async fn put_right(
        &self,
        config: &Config,
        sync: &Sync,
        node: &Node,
        stop: &CancellationToken,
    ) -> Result<()> {
        let mut looked = self.0.lock().await;
        for name in ends::names(sync).filter(|name| ways(sync, name).0) {
            if looked.contains(name) {
                continue;
            }
            let about = |e: Error| e.context(format!("database '{name}'"));
            let condition = condition(config, &node.state, name, false).await.map_err(about)?;
            let sentence = condition.sentence();
            match condition {
                Condition::Healthy => {}
                Condition::Empty(true) => tracing::warn!(
                    "database '{name}': {sentence}; if nobody meant that, 'rowferry recover {name}' brings them back"
                ),
                broken => {
                    // One that was never there is made by its first sync.
                    if broken == Condition::Missing && node.state.get::<Value>(Kind::Database, name).await?.is_none() {
                        continue;
                    }
                    tracing::warn!("database '{name}': {sentence}; it is rebuilt");
                    let recovered = rebuild(config, name, &broken, &Output::silent(), stop).await.map_err(about)?;
                    if let Some(aside) = &recovered.set_aside {
                        tracing::warn!("database '{name}': the old file was set aside as {}", aside.display());
                    }
                    if let Some(unsent) = &recovered.unsent {
                        tracing::error!(
                            "database '{name}': changes that could not be sent are in {}",
                            unsent.display()
                        );
                    }
                    for lost in &recovered.lost {
                        tracing::error!("database '{name}': {lost}");
                    }
                }
            }
            looked.insert(name.to_owned());
        }
        Ok(())
    }
}

/// What became of a database.
#[derive(Debug, Clone, Default)]
pub(super) struct Recovered {
    /// Where its file is now.
    pub(super) set_aside: Option<PathBuf>,
    /// Where changes are that were neither sent nor brought back.
    pub(super) unsent: Option<PathBuf>,
    /// What could not come back, a sentence each.
    pub(super) lost: Vec<String>,
}

/// A copy of a broken file to work with, so that the file itself stays as it was found.
struct WorkingCopy(PathBuf);

impl Drop for WorkingCopy {
    fn drop(&mut self) {
        files::remove(&self.0);
    }
}

/// The path with this ending.
fn ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Sends what was not sent yet, as far as it can be read, sets the file aside, makes a new one of the same form, and lets
/// the syncs fill it.
///
/// # Errors
/// `Unreachable` when where its rows come from cannot be reached; nothing was touched then.
pub(super) async fn rebuild(
    config: &Config,
    name: &str,
    condition: &Condition,
    output: &Output,
    stop: &CancellationToken,
) -> Result<Recovered> {
    let Some(path) = file(config, name)? else { return Ok(Recovered::default()) };
    let mut recovered = Recovered::default();
    let bringing: Vec<&Sync> = syncs(config, name).filter(|sync| ways(sync, name).0).collect();
    if bringing.is_empty() {
        recovered.lost.push("no sync brings rows into it: restore it from a backup; nothing was touched".to_owned());
        return Ok(recovered);
    }
    for sync in &bringing {
        sync::supported(sync)?;
        reach(config, sync, name).await?;
    }
    let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let aside =
        (0..).map(|n| ending(&path, &if n == 0 { format!(".broken-{now}") } else { format!(".broken-{now}-{n}") }));
    let aside = aside.into_iter().find(|aside| !aside.exists()).unwrap_or_else(|| ending(&path, ".broken"));
    let fresh = WorkingCopy(ending(&path, ".rebuilt"));
    // One that an earlier attempt made whole, before it ended.
    let mut made = *condition == Condition::Missing && files::damage(&fresh.0, false).await?.is_none();
    if *condition != Condition::Missing {
        files::remove(&fresh.0);
        let copy = WorkingCopy(ending(&path, ".copy"));
        files::remove(&copy.0);
        files::copy(&path, &copy.0)?;
        if !matches!(condition, Condition::Empty(_)) {
            let unsent = Rejects::new(ending(&aside, ".unsent.jsonl"));
            send(config, name, &copy.0, &bringing, &unsent, (output, stop), &mut recovered).await?;
            recovered.unsent = (unsent.count() > 0).then(|| unsent.path().to_owned());
        }
        let filled = match open_copy(&copy.0).await {
            Ok(database) => synced(database.as_ref(), name, bringing.iter().copied()).await.unwrap_or_default(),
            Err(_) => BTreeSet::new(),
        };
        let filled = filled.into_iter().map(|table| table.name).collect();
        let salvaged = files::salvage(&copy.0, &fresh.0, &filled).await?;
        made = salvaged.made;
        recovered.lost.extend(salvaged.lost);
        files::rename(&path, &aside)?;
        output.line(format!("  set aside as {}", aside.display()));
        recovered.set_aside = Some(aside);
    }
    if made {
        files::rename(&fresh.0, &path)?;
    }
    for sync in bringing {
        let sync = Sync { create: true, ..sync.clone() };
        output.line(format!("  sync {} brings its rows:", sync.name));
        let report = sync::run_one(config, &sync, sync::Manner::default(), output, stop).await;
        let report =
            report.map_err(|e| e.context("it is made anew and not filled yet; run 'rowferry sync' to go on"))?;
        print_report(&report, output);
        if let Some(fault) = report.fault() {
            recovered.lost.push(format!("sync {}: {fault}", sync.name));
        }
    }
    Ok(recovered)
}

/// Whether the end of a sync that is not this database can be reached.
async fn reach(config: &Config, sync: &Sync, name: &str) -> Result<()> {
    match &sync.target {
        Endpoint::Peer { peer, database } => {
            let link = connect::peer(config, peer)?;
            RemoteEndpoint::meet(link, &config.node, database.as_deref()).await.map(drop)
        }
        Endpoint::Database(target) => {
            let other = if target == name { &sync.source } else { target };
            connect::named(config, other, false).await.map(drop)
        }
    }
}

async fn open_copy(copy: &Path) -> Result<Arc<dyn Database>> {
    open(&files::url(copy), &OpenOptions::default()).await
}

/// The syncs once more, with what can be read of the broken file: what was written there goes where it would have gone.
/// What stands in its way is written down.
async fn send(
    config: &Config,
    name: &str,
    copy: &Path,
    bringing: &[&Sync],
    unsent: &Rejects,
    (output, stop): (&Output, &CancellationToken),
    recovered: &mut Recovered,
) -> Result<()> {
    let mut config = config.clone();
    let zone = config.databases.get(name).map_or_else(Zone::default, |database| database.timezone.clone());
    let url = Secret::new(files::url(copy));
    config.databases.insert(name.to_owned(), DatabaseConfig { url, timezone: zone });
    for sync in bringing.iter().filter(|sync| sync.mode == Mode::Incremental && ways(sync, name).1) {
        let sync = Sync { create: false, ..(*sync).clone() };
        output.line(format!("  sync {} sends what was not sent yet:", sync.name));
        let fault = match sync::run_one(&config, &sync, sync::Manner::default(), output, stop).await {
            Ok(report) => {
                print_report(&report, output);
                report.fault()
            }
            Err(e) => Some(e),
        };
        let Some(fault) = fault else { continue };
        if matches!(fault.kind, ErrorKind::Unreachable | ErrorKind::Interrupted) {
            return Err(fault);
        }
        recovered.lost.push(format!("sync {}: not all that it had not sent yet could be sent ({fault})", sync.name));
        if let Err(e) = write_down(copy, name, &sync, unsent).await {
            recovered.lost.push(format!("sync {}: what it had not sent cannot be read ({e})", sync.name));
        }
    }
    Ok(())
}

/// Writes down the rows that were written since the other ends last read, as far as each can be read.
async fn write_down(copy: &Path, name: &str, sync: &Sync, unsent: &Rejects) -> Result<()> {
    let database = open_copy(copy).await?;
    let wanted = synced(database.as_ref(), name, std::iter::once(sync)).await?;
    let Some(site) = site::open(&database).await? else { return Ok(()) };
    let mut target = database.target().await?;
    let read = WriteOptions { point: true, ..WriteOptions::default() };
    target.begin(read).await?;
    let upto = site.lowest_reader(target.as_mut()).await;
    target.rollback().await?;
    let upto = upto?;
    for book in site.tables.iter().filter(|book| wanted.contains(&book.logged.table.name)) {
        let mut seen = BTreeSet::new();
        for (table, above) in [(&book.log.table, None), (&book.versions, Some((book.seq(), upto)))] {
            target.begin(read).await?;
            let lines = target.scan(table, above, LINES).await;
            target.rollback().await?;
            let Ok(lines) = lines else { continue };
            let at: Vec<usize> = book.keys.columns.iter().filter_map(|c| lines.table.column(&c.name)).collect();
            for row in 0..lines.rows() {
                let mut key = book.no_keys();
                for (column, at) in key.iter_mut().zip(&at) {
                    column.push_cell(lines.cell(row, *at));
                }
                let keys = Batch::new(book.keys.clone(), key);
                if !seen.insert(site::key_id(&keys, 0, &(0..book.width()).collect::<Vec<_>>())) {
                    continue;
                }
                target.begin(read).await?;
                let found = target.lookup(&book.logged.table, &keys, RowLock::None).await;
                target.rollback().await?;
                match found {
                    Ok(found) if found.rows() > 0 => unsent.add(&found, 0, "written, and not sent")?,
                    Ok(_) => unsent.add(&keys, 0, "deleted, and not sent")?,
                    Err(e) => unsent.add(&keys, 0, &format!("written, and cannot be read: {e}"))?,
                }
            }
        }
    }
    Ok(())
}
