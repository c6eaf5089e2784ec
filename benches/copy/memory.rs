//! Peak memory of `rowferry copy`: that it does not follow the number of rows, and what large rows take.

use std::fmt::Write as _;

use crate::Outcome;
use crate::ends::{Bench, End, Side};
use crate::tables::{HUGE, LARGE, NARROW, Sample};

/// Each engine as source and as target.
const RING: [(&str, End, End); 4] = [
    ("PostgreSQL → MariaDB", End::Postgres, End::Maria),
    ("MariaDB → SQLite", End::Maria, End::Sqlite),
    ("SQLite → PostgreSQL", End::Sqlite, End::Postgres),
    ("PostgreSQL → SQLite", End::Postgres, End::Sqlite),
];

/// Bounds: growth from the smaller to the tenfold table, and MiB with rows of a mebibyte.
const GROWTH: f64 = 1.2;
const LARGE_PEAK: u64 = 128;

pub fn memory(bench: &Bench) -> Outcome<String> {
    let few = bench.rows * 5 / 2;
    let small = peaks(bench, NARROW, few)?;
    let big = peaks(bench, NARROW, few * 10)?;
    let large = peaks(bench, LARGE, 200)?;
    let huge = peaks(bench, HUGE, 3)?;
    let mut out = format!(
        "Peak memory in MiB.\n\n| pair | {few} rows | {} rows | growth, must {GROWTH} | 200 rows of 1 MiB, must {LARGE_PEAK} | 3 rows of 64 MiB |\n\
         |---|--:|--:|--:|--:|--:|\n",
        few * 10
    );
    for (at, (name, ..)) in ring(bench).enumerate() {
        let (Peak::Copied(a), Peak::Copied(b)) = (&small[at], &big[at]) else {
            return Err("narrow rows were refused".into());
        };
        #[allow(clippy::cast_precision_loss, reason = "MiB")]
        let growth = *b as f64 / *a as f64;
        let verdict = |missed: bool| if missed { " (missed)" } else { "" };
        let over = matches!(large[at], Peak::Copied(n) if n >= LARGE_PEAK);
        writeln!(
            out,
            "| {name} | {a} | {b} | {growth:.2}{} | {}{} | {} |",
            verdict(growth > GROWTH),
            large[at].text(),
            verdict(over),
            huge[at].text()
        )?;
    }
    Ok(out)
}

fn ring(bench: &Bench) -> impl Iterator<Item = (&'static str, End, End)> {
    RING.into_iter().filter(|(name, ..)| bench.wants(name))
}

/// What became of a copy.
enum Peak {
    /// All rows arrived; MiB.
    Copied(u64),
    /// The copy said that rows are missing.
    Refused,
}

impl Peak {
    fn text(&self) -> String {
        match self {
            Self::Copied(mib) => mib.to_string(),
            Self::Refused => "refused by name".to_owned(),
        }
    }
}

fn peaks(bench: &Bench, table: Sample, rows: u32) -> Outcome<Vec<Peak>> {
    bench.fill_all(table, rows)?;
    ring(bench)
        .map(|(name, from, to)| {
            bench.remove(table, to, Side::Target)?;
            eprintln!("memory: {name}");
            Ok(match bench.copy(table, (from, Side::Source), (to, Side::Target)) {
                Ok(run) => {
                    bench.diff(table, (from, Side::Source), (to, Side::Target))?;
                    Peak::Copied(run.peak.div_ceil(1024))
                }
                Err(e) => {
                    eprintln!("{e}");
                    Peak::Refused
                }
            })
        })
        .collect()
}
