//! How long a row takes from its commit to the other end under `sync --watch`, and what watching costs while nothing
//! happens.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::app::App;
use super::{SYNC, configure, quantile, sync, uninstall};
use crate::Outcome;
use crate::ends::{Bench, End, Side};
use crate::process::{Background, server};
use crate::tables::ORDERS;

const PAIRS: [(End, End); 4] = [
    (End::Postgres, End::Postgres),
    (End::Maria, End::Maria),
    (End::Sqlite, End::Sqlite),
    (End::Postgres, End::Sqlite),
];

/// Rows whose way is timed, each some time after the one before: a person at a form, and a busy shop.
const SAMPLES: usize = 60;
const PAUSES: [(&str, u64); 2] = [("a row a second or so", 900), ("ten rows a second", 90)];

/// For how long nothing happens.
const IDLE: Duration = Duration::from_secs(10);

const MUST: f64 = 200.0;
const AIM: f64 = 10.0;

pub fn lag(bench: &Bench) -> Outcome<String> {
    bench.fill_all(ORDERS, 1000)?;
    let mut out = format!(
        "From the commit of a single row until a reader at the other end sees it, in milliseconds; must {MUST}, aim {AIM} \
         for the median. Idle: share of one core while nothing happens, must 1 %.\n\n\
         | pair | written | median | 99 of 100 | idle, rowferry | servers |\n|---|---|--:|--:|--:|--:|\n"
    );
    // Goes on from pair to pair: rows of one source are there still when it is the source again.
    let mut key = 10_000;
    for (from, to) in PAIRS {
        configure(bench, from, to, &["orders".to_owned()])?;
        bench.reset(ORDERS, to, true)?;
        sync(bench)?;
        let watch = Background::rowferry(&["sync", SYNC, "--watch", "-q"], bench.folder())?;
        let (mut writer, mut reader) = (App::open(bench, from, Side::Source)?, App::open(bench, to, Side::Target)?);
        let mut times = Vec::new();
        for (_, pause) in PAUSES {
            let samples = if pause > 500 { SAMPLES / 3 } else { SAMPLES };
            let mut found = Vec::new();
            for sample in 0..=samples {
                key += 1;
                let lag = one(&mut writer, &mut reader, key)?;
                // The first one may have waited for the program to start.
                if sample > 0 {
                    found.push(lag * 1000.0);
                }
                // Not in step with any clock of the program's.
                std::thread::sleep(Duration::from_millis(pause + (key.unsigned_abs() * 37) % (pause / 3)));
            }
            times.push(found);
        }
        std::thread::sleep(Duration::from_secs(3));
        let (before, servers) = (server(&watch.id()), bench.servers_cpu());
        std::thread::sleep(IDLE);
        let idle = (server(&watch.id()) - before) / IDLE.as_secs_f64() * 100.0;
        let servers = (bench.servers_cpu() - servers) / IDLE.as_secs_f64() * 100.0;
        watch.stop()?;
        drop((writer, reader));
        for ((written, _), times) in PAUSES.iter().zip(times) {
            let median = quantile(times.clone(), 0.5);
            let verdict = match median {
                m if m > MUST => " (missed)",
                m if m > AIM => "",
                _ => " (aim met)",
            };
            let late = if idle >= 1.0 { " (missed)" } else { "" };
            writeln!(
                out,
                "| {} → {} | {written} | {median:.1}{verdict} | {:.1} | {idle:.1} %{late} | {servers:.1} % |",
                from.name(),
                to.name(),
                quantile(times, 0.99),
            )?;
        }
        uninstall(bench)?;
    }
    Ok(out)
}

/// Seconds from the commit of a row until it is seen.
fn one(writer: &mut App, reader: &mut App, key: i64) -> Outcome<f64> {
    let columns = "customer, seller, amount, currency, reference, note, paid, details, placed";
    writer.batch(&format!("INSERT INTO orders (id, {columns}) SELECT {key}, {columns} FROM orders WHERE id = 1"))?;
    let started = Instant::now();
    let there = format!("SELECT max(id) FROM orders WHERE id = {key}");
    while reader.number(&there)? != key {
        if started.elapsed() > Duration::from_mins(1) {
            return Err("a row did not arrive within a minute".into());
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    Ok(started.elapsed().as_secs_f64())
}
