//! What a sync of many tables takes when nothing has changed.

use std::fmt::Write as _;

use super::app::App;
use super::{configure, sync, uninstall};
use crate::ends::{Bench, End, Side};
use crate::{Outcome, median};

const TABLES: u32 = 1000;
const MUST_MS: f64 = 50.0;
const AIM_MS: f64 = 5.0;

pub fn idle(bench: &Bench) -> Outcome<String> {
    let mut out = format!(
        "{TABLES} tables of three rows, nothing changed: `rowferry sync` from start to exit; must {MUST_MS} ms, aim \
         {AIM_MS}.\n\n| pair | first run | a run |\n|---|--:|--:|\n"
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
        let verdict = match run {
            m if m > MUST_MS => " (missed)",
            m if m > AIM_MS => "",
            _ => " (aim met)",
        };
        writeln!(out, "| {0} → {0} | {1:.1} s | {run:.0} ms{verdict} |", end.name(), first.as_secs_f64())?;
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
