//! What a sync of many tables takes when nothing, or next to nothing, has changed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Instant;

use rowferry::engine::{OpenOptions, open};
use rowferry::model::{BatchLimits, TableName};
use rowferry::pipeline::{Pair, PairOptions, PlanOptions, Preference};
use rowferry::site::{self, Watcher};
use tokio_util::sync::CancellationToken;

use super::app::App;
use super::{SYNC, configure, sync, uninstall};
use crate::ends::{Bench, End, Side};
use crate::{Outcome, median};

const TABLES: u32 = 1000;
const MUST_MS: f64 = 50.0;
const AIM_MS: f64 = 5.0;

pub fn idle(bench: &Bench) -> Outcome<String> {
    let mut out = format!(
        "{TABLES} tables of three rows. A look: what `sync --watch` and `serve` do again and again while nothing happens, at \
         each database that sends; must {MUST_MS} ms, aim {AIM_MS}; first when somebody has written something else to it \
         meanwhile, then when nobody has. Beside it a round that finds one row in one of the tables, and `rowferry sync` from start to exit, \
         which reads both catalogues and looks after all that is installed.\n\n\
         | pair | a look | a look, all quiet | one row | a process, nothing new | the first one |\n\
         |---|--:|--:|--:|--:|--:|\n"
    );
    for end in [End::Postgres, End::Maria, End::Sqlite] {
        let names: Vec<String> = (1..=TABLES).map(|n| format!("idle_{n}")).collect();
        for side in [Side::Source, Side::Target] {
            let mut app = App::open(bench, end, side)?;
            app.relaxed()?;
            for name in &names {
                app.batch(&format!("CREATE TABLE {name} (id BIGINT NOT NULL PRIMARY KEY, a INT)"))?;
                app.batch(&format!("INSERT INTO {name} VALUES (1, 1), (2, 2), (3, 3)"))?;
            }
            app.durable()?;
        }
        configure(bench, end, end, &names)?;
        let first = sync(bench)?.took;
        let mut runs = Vec::new();
        for _ in 0..bench.rounds {
            runs.push(sync(bench)?.took.as_secs_f64());
        }
        let run = median(runs) * 1000.0;
        let [look, quiet, row] = rounds(bench, end, &names)?;
        let verdict = match look {
            m if m > MUST_MS => " (missed)",
            m if m > AIM_MS => "",
            _ => " (aim met)",
        };
        writeln!(
            out,
            "| {0} → {0} | {look:.1} ms{verdict} | {quiet:.1} ms | {row:.0} ms | {run:.0} ms | {1:.1} s |",
            end.name(),
            first.as_secs_f64()
        )?;
        uninstall(bench)?;
        for side in [Side::Source, Side::Target] {
            let mut app = App::open(bench, end, side)?;
            app.relaxed()?;
            for name in &names {
                app.batch(&format!("DROP TABLE {name}"))?;
            }
            app.durable()?;
        }
    }
    Ok(out)
}

/// How often each is timed.
const ROUNDS: i64 = 20;

/// Milliseconds of a look that finds nothing after something was written elsewhere, of one after nothing was, and of a
/// round that finds a row in one of the tables.
fn rounds(bench: &Bench, end: End, names: &[String]) -> Outcome<[f64; 3]> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut app = App::open(bench, end, Side::Source)?;
    let options = PairOptions {
        name: SYNC.to_owned(),
        plan: PlanOptions { tables: names.to_vec(), ..PlanOptions::default() },
        push: true,
        pull: false,
        conflict: Preference::Later,
        tables: BTreeMap::new(),
        first_run: Preference::Source,
        limits: BatchLimits { rows: 1000, bytes: 1 << 20 },
        full: false,
        stop: CancellationToken::new(),
    };
    let (mut pair, mut watcher) = runtime.block_on(async {
        let source = open(&bench.url(end, Side::Source), &OpenOptions::default()).await?;
        let target = open(&bench.url(end, Side::Target), &OpenOptions::default()).await?;
        let pair = Pair::prepare(&source, &target, options).await?;
        let watched: Vec<TableName> = names.iter().map(TableName::new).collect();
        let site = site::open(&source).await?.ok_or("the source is no site")?;
        Outcome::Ok((pair, Watcher::open(&site, &watched).await?))
    })?;
    let (mut looks, mut quiet, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    app.batch("CREATE TABLE elsewhere (id BIGINT NOT NULL PRIMARY KEY)")?;
    for round in 0..=ROUNDS {
        app.batch(&format!("INSERT INTO idle_7 VALUES ({}, 1)", 100 + round))?;
        let began = Instant::now();
        let report = runtime.block_on(pair.run())?;
        let mut took = vec![began.elapsed()];
        if report.status != "succeeded" {
            return Err(format!("a round failed: {report:?}").into());
        }
        let last = runtime.block_on(watcher.last_number())?;
        app.batch(&format!("INSERT INTO elsewhere VALUES ({round})"))?;
        for _ in 0..2 {
            let began = Instant::now();
            if runtime.block_on(watcher.finds(last))? {
                return Err("a look found what was brought already".into());
            }
            took.push(began.elapsed());
        }
        // The first ones open connections.
        if round > 0 {
            for (times, took) in [&mut rows, &mut looks, &mut quiet].into_iter().zip(took) {
                times.push(took.as_secs_f64() * 1000.0);
            }
        }
    }
    app.batch("DROP TABLE elsewhere")?;
    Ok([looks, quiet, rows].map(median))
}
