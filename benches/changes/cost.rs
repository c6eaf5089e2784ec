//! That a sync costs what has changed, and not what there is.

use std::fmt::Write as _;

use super::app::App;
use super::{configure, sync, uninstall};
use crate::ends::{Bench, End, Side};
use crate::tables::NARROW;
use crate::{Outcome, median};

/// Changes of one sync.
const CHANGES: u32 = 1000;
const MUST: f64 = 1.2;

pub fn cost(bench: &Bench) -> Outcome<String> {
    let sizes = [bench.rows / 20, bench.rows * 50];
    let mut out = format!(
        "A sync of {CHANGES} scattered updates, from start to exit; must {MUST} times at most.\n\n\
         | pair | {} rows | {} rows | ratio |\n|---|--:|--:|--:|\n",
        sizes[0], sizes[1]
    );
    for end in [End::Postgres, End::Sqlite] {
        let mut took = Vec::new();
        for rows in sizes {
            bench.fill(NARROW, rows)?;
            if end != End::Postgres {
                bench.remove(NARROW, end, Side::Source)?;
                bench.copy(NARROW, (End::Postgres, Side::Source), (end, Side::Source))?;
            }
            bench.remove(NARROW, end, Side::Target)?;
            bench.copy(NARROW, (end, Side::Source), (end, Side::Target))?;
            configure(bench, end, end, &["narrow".to_owned()])?;
            sync(bench)?;
            let mut app = App::open(bench, end, Side::Source)?;
            let mut times = Vec::new();
            // One more than is counted: the first finds caches cold.
            for round in 0..=bench.rounds * 3 {
                for n in 0..CHANGES {
                    let id = 1 + (u64::from(n) * 7919 * 1009 + u64::try_from(round)?) % u64::from(rows);
                    if n == 0 {
                        app.batch("BEGIN")?;
                    }
                    app.execute("UPDATE narrow SET a = a + 1 WHERE id = ?", &[i64::try_from(id)?])?;
                }
                app.batch("COMMIT")?;
                let run = sync(bench)?;
                if round > 0 {
                    times.push(run.took.as_secs_f64() * 1000.0);
                }
            }
            bench.diff(NARROW, (end, Side::Source), (end, Side::Target))?;
            drop(app);
            took.push(median(times));
            uninstall(bench)?;
        }
        let ratio = took[1] / took[0];
        let verdict = if ratio > MUST + 0.005 { " (missed)" } else { "" };
        writeln!(out, "| {0} → {0} | {1:.0} ms | {2:.0} ms | {ratio:.2}{verdict} |", end.name(), took[0], took[1])?;
    }
    Ok(out)
}
