//! The demo's second part: two sites that write at the same time, one of which goes offline for a while.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::site::Site;
use super::write;
use crate::capture::interrupted;
use crate::cli::copy::BATCH_BYTES;
use crate::cli::output::Output;
use crate::cli::sync;
use crate::config::Role;
use crate::engine::{Database, Error, ErrorKind, OpenOptions, Result, open};
use crate::model::BatchLimits;
use crate::pipeline::{Endpoint, Keep, LocalEndpoint, Pair, PairOptions, PlanOptions, Preference, Report};
use crate::runtime::random;
use crate::site::{Conflict, conflicts};
use crate::state::new_key;

/// What happened, for the summary.
#[derive(Debug, Default)]
pub(super) struct Story {
    pub(super) writes: [u64; 2],
    pub(super) changes: u64,
    pub(super) conflicts: usize,
    pub(super) won: [usize; 2],
    pub(super) offline: Duration,
}

/// Between two syncs while both are online.
const PAUSE: Duration = Duration::from_millis(400);
/// Between two writes of a site.
const BREATH: Duration = Duration::from_millis(25);
/// Customers that both sites know and write.
const SHARED: u64 = 120;
/// Conflicts that are shown one by one.
const SHOWN: usize = 5;

/// The time is divided in three: both online, the branch offline, both online again.
pub(super) async fn tell(
    (dir, listen): (&Path, &str),
    (office, branch): (&Arc<dyn Database>, &Arc<dyn Database>),
    seconds: u32,
    output: &Output,
    stop: &CancellationToken,
) -> Result<Story> {
    let third = Duration::from_secs(seconds.into()) / 3;
    let started = Instant::now();
    let say = |text: String| output.news(format!("   {:4.1} s  {text}", started.elapsed().as_secs_f64()));
    let key = new_key(Role::Peer)?.key;
    let mut there = Site::branch(dir, &key).await?;
    let here = Site::office(dir, listen, &there, &key).await?;
    for site in [&here, &there] {
        output.news(format!("   {} listens on {}", site.node.config().node, site.url));
    }
    output.news(format!("   curl -H 'X-API-Key: {}' {}/api/status", here.viewer().await?, here.url));
    let mut pair = meet(&here, stop).await?;
    let mut story = Story::default();
    story.changes += moved(&pair.run().await?);

    let writers = [Writer::start(office, "head office", 1), Writer::start(branch, "branch", 2)];
    while started.elapsed() < third {
        pause(PAUSE, stop).await?;
        story.changes += round(&mut pair, &say).await?;
    }
    pair.part().await;
    drop(pair);
    there.end().await?;
    say("the branch goes offline; both go on writing".to_owned());
    let away = Instant::now();
    let before = [writers[0].count(), writers[1].count()];
    // Whatever the dice say, there is one row that both write meanwhile.
    for (writer, name) in writers.iter().zip(["head office", "branch"]) {
        writer.write(format!("UPDATE customers SET note = '{name}, while apart' WHERE id = 1")).await?;
    }
    match meet(&here, stop).await {
        Err(e) if e.kind == ErrorKind::Unreachable => {
            say("sync: the branch cannot be reached, and changes wait".to_owned());
        }
        Err(e) => return Err(e),
        Ok(_) => return Err(Error::new(ErrorKind::Protocol, "a node that has stopped was reached")),
    }
    pause(third.saturating_sub(away.elapsed()), stop).await?;
    there = Site::branch(dir, &key).await?;
    here.meets(dir, listen, &there, &key)?;
    pair = meet(&here, stop).await?;
    story.offline = away.elapsed();
    let alone = [writers[0].count() - before[0], writers[1].count() - before[1]];
    say(format!("the branch is back after {} writes there and {} at head office", alone[1], alone[0]));
    while started.elapsed() < third * 3 {
        story.changes += round(&mut pair, &say).await?;
        pause(PAUSE, stop).await?;
    }
    for (at, writer) in writers.into_iter().enumerate() {
        story.writes[at] = writer.end().await?;
    }
    loop {
        let rest = moved(&pair.run().await?);
        story.changes += rest;
        if rest == 0 {
            break;
        }
    }
    let found = recorded(office, branch).await?;
    story.conflicts = found.len();
    story.won = ["source", "target"].map(|end| found.iter().filter(|c| c.winner == end).count());
    show(&found, output);
    if let Some(one) = found.iter().find(|c| c.source.is_object() && c.target.is_object()) {
        bring_back(&mut pair, (office, branch), one, (output, stop)).await?;
    }
    pair.part().await;
    drop(pair);
    there.end().await?;
    here.end().await?;
    Ok(story)
}

/// Head office meets the branch, as its configuration says.
async fn meet(office: &Site, stop: &CancellationToken) -> Result<Pair> {
    let config = office.node.config();
    let shop = config.sync("shop").ok_or_else(|| Error::new(ErrorKind::Protocol, "the demo's sync is gone"))?;
    sync::pair(&config, shop, sync::Manner::default(), stop).await
}

fn options(stop: &CancellationToken) -> PairOptions {
    let tables = ["customers", "products"].map(str::to_owned).to_vec();
    PairOptions {
        name: "shop".to_owned(),
        plan: PlanOptions { tables, ..PlanOptions::default() },
        push: true,
        pull: true,
        conflict: Preference::Later,
        tables: BTreeMap::new(),
        first_run: Preference::Manual,
        limits: BatchLimits { rows: 1000, bytes: BATCH_BYTES },
        full: false,
        stop: stop.clone(),
    }
}

fn moved(report: &Report) -> u64 {
    report.tables.iter().map(|t| t.inserted + t.updated + t.deleted).sum()
}

/// One sync; says what it moved.
async fn round(pair: &mut Pair, say: &impl Fn(String)) -> Result<u64> {
    let report = pair.run().await?;
    let (changes, conflicts) = (moved(&report), report.tables.iter().map(|t| t.conflicts).sum::<u64>());
    let met = if conflicts > 0 { format!(", {conflicts} conflicts settled and recorded") } else { String::new() };
    say(format!("sync: {changes} changes brought over{met}"));
    Ok(changes)
}

async fn pause(time: Duration, stop: &CancellationToken) -> Result<()> {
    tokio::select! {
        () = tokio::time::sleep(time) => Ok(()),
        () = stop.cancelled() => Err(interrupted()),
    }
}

/// An application at one site.
struct Writer {
    database: Arc<dyn Database>,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<Result<()>>,
}

impl Writer {
    /// Changes customers and products that both know, and adds customers with numbers of its own.
    fn start(database: &Arc<dyn Database>, name: &'static str, site: u64) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (own, ends, count) = (database.clone(), stop.clone(), done.clone());
        let task = tokio::spawn(async move {
            while !ends.load(Ordering::Relaxed) {
                let n = count.load(Ordering::Relaxed);
                let row = 1 + random() % SHARED;
                let sql = match random() % 10 {
                    0 => format!(
                        "INSERT INTO customers (id, name) VALUES ({}, 'new at the {name}')",
                        site * 1_000_000 + n
                    ),
                    1 => format!("UPDATE products SET price = price + 1 WHERE id = {row}"),
                    2 => format!("UPDATE customers SET credit_limit = credit_limit + 10 WHERE id = {row}"),
                    _ => format!("UPDATE customers SET note = '{name}, call {n}' WHERE id = {row}"),
                };
                write(own.as_ref(), std::iter::once(sql)).await?;
                count.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(BREATH).await;
            }
            Ok(())
        });
        Self { database: database.clone(), stop, done, task }
    }

    /// Writes this besides.
    async fn write(&self, sql: String) -> Result<()> {
        write(self.database.as_ref(), std::iter::once(sql)).await?;
        self.done.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn count(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Lets it finish; how often it wrote.
    async fn end(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.map_err(|e| Error::new(ErrorKind::Protocol, format!("an application died: {e}")))??;
        Ok(self.done.load(Ordering::Relaxed))
    }
}

/// What either end recorded, each once.
async fn recorded(office: &Arc<dyn Database>, branch: &Arc<dyn Database>) -> Result<Vec<Conflict>> {
    let mut found = conflicts(office).await?;
    for conflict in conflicts(branch).await? {
        if found.iter().all(|known| known.id != conflict.id) {
            found.push(conflict);
        }
    }
    Ok(found)
}

fn show(found: &[Conflict], output: &Output) {
    output.news("");
    output.news("7. rowferry conflicts list: rows that both wrote, neither knowing of the other's write");
    for conflict in found.iter().take(SHOWN) {
        let end = if conflict.winner == "source" { "head office" } else { "branch" };
        output.news(format!("   {} {}: the {end} wrote later and won", conflict.table, conflict.key));
        for (name, image, other) in
            [("head office", &conflict.source, &conflict.target), ("branch     ", &conflict.target, &conflict.source)]
        {
            output.news(format!("     {name}  {}", difference(image, other)));
        }
    }
    if found.len() > SHOWN {
        output.news(format!("   … and {} more", found.len() - SHOWN));
    }
}

/// The columns of an image that the other has otherwise.
fn difference(image: &serde_json::Value, other: &serde_json::Value) -> String {
    let Some(columns) = image.as_object() else { return "deleted".to_owned() };
    let differs = columns.iter().filter(|(name, value)| other.get(name.as_str()) != Some(value));
    let texts: Vec<String> = differs.map(|(name, value)| format!("{name}: {value}")).collect();
    texts.join(", ")
}

async fn bring_back(
    pair: &mut Pair,
    (office, branch): (&Arc<dyn Database>, &Arc<dyn Database>),
    conflict: &Conflict,
    (output, stop): (&Output, &CancellationToken),
) -> Result<()> {
    let (keep, word, loser) = if conflict.winner == "source" {
        (Keep::Target, "target", "branch")
    } else {
        (Keep::Source, "source", "head office")
    };
    output.news("");
    output.news(format!("8. rowferry conflicts resolve {} --keep {word}: the {loser}'s row comes back", conflict.id));
    // What a person decides is written to both files at once. Either may have recorded it; the form of the images is the
    // same in both.
    let ends: [Arc<dyn Endpoint>; 2] = [office, branch].map(|end| Arc::new(LocalEndpoint::new(end, stop)) as _);
    let [source, target] = ends;
    Pair::beside(source, target, options(stop)).await?.resolve(conflict, true, keep).await?;
    let rest = pair.run().await?;
    output.news(format!(
        "   {} {} at both ends again; {} left to bring over",
        conflict.table,
        conflict.key,
        moved(&rest)
    ));
    Ok(())
}

/// Opens a file of the demo.
pub(super) async fn file(dir: &Path, name: &str) -> Result<Arc<dyn Database>> {
    open(&format!("sqlite:{}", dir.join(name).display()), &OpenOptions { create: true, ..OpenOptions::default() }).await
}
