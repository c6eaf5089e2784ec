//! `rowferry copy` beside the fastest thing that the engines themselves offer, in turns.

use std::fmt::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::ends::{Bench, End, Side};
use crate::process::{Run, children, ok, piped};
use crate::tables::{ORDERS, Sample, WIDE};
use crate::{Outcome, median};

/// What stands beside rowferry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Floor {
    /// Binary `COPY | COPY`.
    Pipe,
    /// `SELECT … INTO OUTFILE`, then `LOAD DATA`.
    Outfile,
    /// `LOAD DATA` alone, from a file that is there.
    Load,
    /// `mysqldump | mysql`.
    Dump,
    /// `INSERT … SELECT` over ATTACH.
    Attach,
}

impl Floor {
    fn name(self) -> &'static str {
        match self {
            Self::Pipe => "`COPY \\| COPY`, PostgreSQL to PostgreSQL",
            Self::Outfile => "`INTO OUTFILE` + `LOAD DATA`",
            Self::Load => "`LOAD DATA` alone",
            Self::Dump => "`mysqldump \\| mysql`",
            Self::Attach => "`INSERT … SELECT`, SQLite to SQLite",
        }
    }
}

struct Pair {
    name: &'static str,
    from: End,
    to: End,
    /// Whether rowferry makes the table itself.
    create: bool,
    floor: Floor,
    must: f64,
    aim: f64,
}

#[rustfmt::skip]
const PAIRS: &[Pair] = &[
    Pair { name: "PostgreSQL → PostgreSQL", from: End::Postgres, to: End::Postgres, create: false, floor: Floor::Pipe, must: 0.85, aim: 1.0 },
    Pair { name: "PostgreSQL → PostgreSQL", from: End::Postgres, to: End::Postgres, create: true, floor: Floor::Pipe, must: 1.1, aim: 1.4 },
    Pair { name: "MariaDB → MariaDB", from: End::Maria, to: End::Maria, create: false, floor: Floor::Outfile, must: 0.8, aim: 1.0 },
    Pair { name: "MariaDB → MariaDB", from: End::Maria, to: End::Maria, create: false, floor: Floor::Dump, must: 1.4, aim: 1.4 },
    Pair { name: "SQLite → SQLite", from: End::Sqlite, to: End::Sqlite, create: false, floor: Floor::Attach, must: 0.35, aim: 0.6 },
    Pair { name: "SQLite → PostgreSQL", from: End::Sqlite, to: End::Postgres, create: false, floor: Floor::Pipe, must: 0.79, aim: 1.0 },
    Pair { name: "MariaDB → PostgreSQL", from: End::Maria, to: End::Postgres, create: false, floor: Floor::Pipe, must: 0.7, aim: 1.0 },
    Pair { name: "PostgreSQL → MariaDB", from: End::Postgres, to: End::Maria, create: false, floor: Floor::Load, must: 0.8, aim: 1.0 },
    Pair { name: "SQLite → MariaDB", from: End::Sqlite, to: End::Maria, create: false, floor: Floor::Load, must: 0.8, aim: 1.0 },
    Pair { name: "PostgreSQL → SQLite", from: End::Postgres, to: End::Sqlite, create: false, floor: Floor::Attach, must: 0.21, aim: 0.32 },
    Pair { name: "MariaDB → SQLite", from: End::Maria, to: End::Sqlite, create: false, floor: Floor::Attach, must: 0.21, aim: 0.32 },
];

const HEAD: &str = "\
| pair | rowferry, rows/s | beside | rows/s | ratio | must | aim | peak memory | processor, rowferry | servers | beside | servers |
|---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|
";

pub fn orders(bench: &Bench) -> Outcome<String> {
    copies(bench, ORDERS, bench.rows)
}

pub fn wide(bench: &Bench) -> Outcome<String> {
    copies(bench, WIDE, bench.rows.min(200_000))
}

fn copies(bench: &Bench, table: Sample, rows: u32) -> Outcome<String> {
    bench.fill_all(table, rows)?;
    let file = bench.folder().join(format!("{}.tsv", table.name));
    ok(&mut bench.mysql(&format!("SELECT * FROM bench_a.{} INTO OUTFILE '{}'", table.name, file.display())))?;
    let mut out = format!("{rows} rows of `{}`.\n\n{HEAD}", table.name);
    // A table without an index is made as fast as it is filled.
    let fits = |pair: &&Pair| bench.wants(pair.name) && (!pair.create || table.ddl.contains("CREATE INDEX"));
    let pairs: Vec<&Pair> = PAIRS.iter().filter(fits).collect();
    for pair in &pairs {
        let line = pair_line(bench, table, rows, pair)?;
        eprint!("{line}");
        out.push_str(&line);
    }
    out.push_str("\nEach tool beside itself, as a control: ");
    let mut controls = Vec::new();
    let floors = [(Floor::Pipe, End::Postgres), (Floor::Load, End::Maria), (Floor::Attach, End::Sqlite)];
    for (floor, to) in floors.into_iter().filter(|(_, to)| pairs.iter().any(|pair| pair.to == *to)) {
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for _ in 0..bench.rounds {
            for times in [&mut first, &mut second] {
                bench.reset(table, to, true)?;
                times.push(floor_run(bench, table, floor)?.took);
            }
        }
        controls.push(format!("{} {:.2}", floor.name(), rate(rows, &first) / rate(rows, &second)));
    }
    writeln!(out, "{}.", controls.join("; "))?;
    Ok(out)
}

/// Runs the tool beside; times are those of its processes.
fn floor_run(bench: &Bench, table: Sample, floor: Floor) -> Outcome<Run> {
    let name = table.name;
    let tsv = bench.folder().join(format!("{name}.tsv"));
    let load = |file: &str| format!("LOAD DATA INFILE '{file}' INTO TABLE bench_b.{name} CHARACTER SET utf8mb4");
    let (before, started) = (children(), Instant::now());
    let mut again = None;
    match floor {
        Floor::Pipe => piped(
            &mut bench.psql("bench_a", &format!("COPY {name} TO STDOUT (FORMAT binary)")),
            &mut bench.psql("bench_b", &format!("COPY {name} FROM STDIN (FORMAT binary)")),
        )?,
        Floor::Outfile => {
            let out = bench.folder().join("again.tsv");
            ok(&mut bench.mysql(&format!("SELECT * FROM bench_a.{name} INTO OUTFILE '{}'", out.display())))?;
            ok(&mut bench.mysql(&load(&out.display().to_string())))?;
            again = Some(out);
        }
        Floor::Load => ok(&mut bench.mysql(&load(&tsv.display().to_string())))?,
        Floor::Dump => {
            let mut dump = Command::new("mysqldump");
            dump.args(&bench.maria_options).args(["--single-transaction", "--no-create-info", "bench_a", name]);
            let mut into = Command::new("mysql");
            into.args(&bench.maria_options).arg("bench_b");
            piped(&mut dump, &mut into)?;
        }
        Floor::Attach => {
            let c = rusqlite::Connection::open(bench.file(Side::Target))?;
            c.execute("ATTACH ?1 AS a", [bench.file(Side::Source).display().to_string()])?;
            c.execute(&format!("INSERT INTO main.{name} SELECT * FROM a.{name}"), [])?;
        }
    }
    let run = Run { took: started.elapsed(), cpu: children() - before, peak: 0 };
    if let Some(file) = again {
        std::fs::remove_file(file)?;
    }
    Ok(run)
}

/// Runs of one side of a pair.
#[derive(Default)]
struct Runs {
    took: Vec<Duration>,
    cpu: Vec<f64>,
    servers: Vec<f64>,
    peak: u64,
}

impl Runs {
    fn add(&mut self, bench: &Bench, work: impl FnOnce() -> Outcome<Run>) -> Outcome<()> {
        let before = bench.servers_cpu();
        let run = work()?;
        self.servers.push(bench.servers_cpu() - before);
        self.took.push(run.took);
        self.cpu.push(run.cpu);
        self.peak = self.peak.max(run.peak);
        Ok(())
    }
}

fn pair_line(bench: &Bench, table: Sample, rows: u32, pair: &Pair) -> Outcome<String> {
    let (from, to) = ((pair.from, Side::Source), (pair.to, Side::Target));
    let (mut ours, mut theirs) = (Runs::default(), Runs::default());
    for _ in 0..bench.rounds {
        bench.reset(table, pair.to, true)?;
        theirs.add(bench, || floor_run(bench, table, pair.floor))?;
        bench.diff(table, from, to)?;
        bench.reset(table, pair.to, !pair.create)?;
        ours.add(bench, || bench.copy(table, from, to))?;
        bench.diff(table, from, to)?;
    }
    let (our_rate, their_rate) = (rate(rows, &ours.took), rate(rows, &theirs.took));
    let ratio = our_rate / their_rate;
    let verdict = if ratio + 0.005 < pair.must {
        " (missed)"
    } else if ratio + 0.005 < pair.aim {
        ""
    } else {
        " (aim met)"
    };
    let name = if pair.create { format!("{}, table made", pair.name) } else { pair.name.to_owned() };
    Ok(format!(
        "| {name} | {our_rate:.0} | {} | {their_rate:.0} | {ratio:.2}{verdict} | {:.2} | {:.2} | {} MiB | {:.2} s | {:.2} s | {:.2} s | {:.2} s |\n",
        pair.floor.name(),
        pair.must,
        pair.aim,
        ours.peak.div_ceil(1024),
        median(ours.cpu),
        median(ours.servers),
        median(theirs.cpu),
        median(theirs.servers),
    ))
}

/// Rows a second at the median time.
fn rate(rows: u32, times: &[Duration]) -> f64 {
    f64::from(rows) / median(times.iter().map(Duration::as_secs_f64).collect())
}
