//! Measures `rowferry copy` and `rowferry diff` beside the engines' own tools, in alternation and
//! on the same rows; contents are compared after each copy. `./bench.sh` runs it.

use std::error::Error;
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error>>;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/performance.md");
const BEGIN: &str = "<!-- figures -->\n";
const END: &str = "<!-- end of figures -->";

fn main() {
    // `cargo test --benches` passes no servers, and nothing here is a test.
    let (Ok(postgres), Ok(maria)) = (std::env::var("ROWFERRY_TEST_POSTGRES"), std::env::var("ROWFERRY_TEST_MARIADB"))
    else {
        eprintln!("no servers: run ./bench.sh");
        return;
    };
    let write = std::env::args().any(|a| a == "--write");
    if let Err(e) = Bench::new(&postgres, &maria).and_then(|mut b| b.run(write)) {
        eprintln!("bench: {e}");
        std::process::exit(1);
    }
}

fn number(name: &str, default: u32) -> u32 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// Where rows are or go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Postgres,
    Maria,
    Sqlite,
}

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
    Pair { name: "PostgreSQL → PostgreSQL, table made", from: End::Postgres, to: End::Postgres, create: true, floor: Floor::Pipe, must: 1.1, aim: 1.4 },
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

/// What one run of the program took.
struct Run {
    took: Duration,
    /// Peak resident memory in KiB.
    peak: u64,
}

struct Bench {
    folder: tempfile::TempDir,
    postgres: String,
    maria: String,
    /// Options that connect the MariaDB client programs.
    maria_options: Vec<String>,
    rows: u32,
    rounds: usize,
}

impl Bench {
    fn new(postgres: &str, maria: &str) -> Outcome<Self> {
        let url = |u: &str| u.rsplit_once('/').map(|(head, _)| head.to_owned()).ok_or("a URL without a database");
        let maria = url(maria)?;
        let (user, host) = maria.rsplit('/').next().and_then(|r| r.split_once('@')).ok_or("a URL without a user")?;
        let (host, port) = host.split_once(':').ok_or("a URL without a port")?;
        let maria_options =
            vec!["--no-defaults".into(), format!("--user={user}"), format!("--host={host}"), format!("--port={port}")];
        let folder = tempfile::tempdir()?;
        // The server writes its files here as a user of its own.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(folder.path(), mode)?;
        Ok(Self {
            folder,
            postgres: url(postgres)?,
            maria,
            maria_options,
            rows: number("ROWFERRY_BENCH_ROWS", 200_000),
            rounds: number("ROWFERRY_BENCH_ROUNDS", 3).max(1) as usize,
        })
    }

    // --- the ends ---

    fn url(&self, end: End, target: bool) -> String {
        let name = if target { "bench_b" } else { "bench_a" };
        match end {
            End::Postgres => format!("{}/{name}", self.postgres),
            End::Maria => format!("{}/{name}", self.maria),
            End::Sqlite => format!("sqlite:{}", self.file(target).display()),
        }
    }

    fn file(&self, target: bool) -> PathBuf {
        self.folder.path().join(if target { "b.db" } else { "a.db" })
    }

    fn psql(&self, database: &str, sql: &str) -> Command {
        let mut c = Command::new("psql");
        c.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql])
            .arg(format!("{}/{database}", self.postgres));
        c
    }

    fn mysql(&self, sql: &str) -> Command {
        let mut c = Command::new("mysql");
        c.args(&self.maria_options).args(["--batch", "--skip-column-names", "--execute", sql]);
        c
    }

    fn prepare(&self) -> Outcome<()> {
        for name in ["bench_a", "bench_b"] {
            ok(&mut self.psql("postgres", &format!("DROP DATABASE IF EXISTS {name}")))?;
            ok(&mut self.psql("postgres", &format!("CREATE DATABASE {name}")))?;
            ok(&mut self
                .mysql(&format!("DROP DATABASE IF EXISTS {name}; CREATE DATABASE {name} CHARACTER SET utf8mb4")))?;
        }
        ok(&mut self.psql("bench_a", TABLE))?;
        ok(&mut self.psql("bench_b", TABLE))?;
        ok(&mut self.psql("bench_a", &ROWS.replace("$rows", &self.rows.to_string())))?;
        ok(&mut self.psql("bench_a", "VACUUM ANALYZE orders"))?;
        for end in [End::Maria, End::Sqlite] {
            rowferry(&["copy", &self.url(End::Postgres, false), &self.url(end, false), "-q"], self.folder.path())?;
            rowferry(&["diff", &self.url(End::Postgres, false), &self.url(end, false), "-q"], self.folder.path())?;
        }
        let out = self.folder.path().join("floor.tsv");
        ok(&mut self.mysql(&format!("SELECT * FROM bench_a.orders INTO OUTFILE '{}'", out.display())))?;
        Ok(())
    }

    /// Makes the target's table empty, or takes it away.
    fn reset(&self, end: End, present: bool) -> Outcome<()> {
        match end {
            End::Postgres if present => {
                ok(&mut self.psql("bench_b", &format!("DROP TABLE IF EXISTS orders; {TABLE}")))?;
            }
            End::Postgres => ok(&mut self.psql("bench_b", "DROP TABLE IF EXISTS orders"))?,
            End::Maria => {
                ok(&mut self
                    .mysql("DROP TABLE IF EXISTS bench_b.orders; CREATE TABLE bench_b.orders LIKE bench_a.orders"))?;
            }
            End::Sqlite => {
                let _ = std::fs::remove_file(self.file(true));
                let source = rusqlite::Connection::open(self.file(false))?;
                let mut statement =
                    source.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY type DESC")?;
                let all = statement.query_map([], |r| r.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
                rusqlite::Connection::open(self.file(true))?.execute_batch(&all.join(";\n"))?;
            }
        }
        ok(&mut self.psql("postgres", "CHECKPOINT"))?;
        ok(&mut Command::new("sync"))
    }

    // --- what is measured ---

    fn floor(&self, floor: Floor) -> Outcome<Duration> {
        let tsv = self.folder.path().join("floor.tsv");
        let load = format!("LOAD DATA INFILE '{}' INTO TABLE bench_b.orders CHARACTER SET utf8mb4", tsv.display());
        let started = Instant::now();
        match floor {
            Floor::Pipe => piped(
                &mut self.psql("bench_a", "COPY orders TO STDOUT (FORMAT binary)"),
                &mut self.psql("bench_b", "COPY orders FROM STDIN (FORMAT binary)"),
            )?,
            Floor::Outfile => {
                let out = self.folder.path().join("again.tsv");
                ok(&mut self.mysql(&format!("SELECT * FROM bench_a.orders INTO OUTFILE '{}'", out.display())))?;
                ok(&mut self.mysql(&load.replace("floor.tsv", "again.tsv")))?;
                let took = started.elapsed();
                std::fs::remove_file(out)?;
                return Ok(took);
            }
            Floor::Load => ok(&mut self.mysql(&load))?,
            Floor::Dump => {
                let mut dump = Command::new("mysqldump");
                dump.args(&self.maria_options).args(["--single-transaction", "--no-create-info", "bench_a", "orders"]);
                let mut into = Command::new("mysql");
                into.args(&self.maria_options).arg("bench_b");
                piped(&mut dump, &mut into)?;
            }
            Floor::Attach => {
                let c = rusqlite::Connection::open(self.file(true))?;
                c.execute("ATTACH ?1 AS a", [self.file(false).display().to_string()])?;
                c.execute("INSERT INTO main.orders SELECT * FROM a.orders", [])?;
            }
        }
        Ok(started.elapsed())
    }

    fn run(&mut self, write: bool) -> Outcome<()> {
        eprintln!("making {} rows in each source", self.rows);
        self.prepare()?;
        let mut out = String::from(
            "| pair | rowferry, rows/s | beside | rows/s | ratio | must | aim | peak memory | diff, rows/s |\n\
             |---|--:|---|--:|--:|--:|--:|--:|--:|\n",
        );
        for pair in PAIRS {
            let line = self.pair(pair)?;
            eprint!("{line}");
            out.push_str(&line);
        }
        let text = format!("{}\n\n{out}", self.conditions()?);
        println!("{text}");
        if write {
            let page = std::fs::read_to_string(PAGE)?;
            let (head, rest) = page.split_once(BEGIN).ok_or("docs/performance.md has no place for figures")?;
            let (_, tail) = rest.split_once(END).ok_or("docs/performance.md has no place for figures")?;
            std::fs::write(PAGE, format!("{head}{BEGIN}{text}{END}{tail}"))?;
        }
        Ok(())
    }

    fn pair(&self, pair: &Pair) -> Outcome<String> {
        let (from, to) = (self.url(pair.from, false), self.url(pair.to, true));
        let (mut ours, mut theirs, mut diffs, mut peak) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for _ in 0..self.rounds {
            self.reset(pair.to, true)?;
            theirs.push(self.floor(pair.floor)?);
            rowferry(&["diff", &from, &to, "-q"], self.folder.path())?;
            self.reset(pair.to, !pair.create)?;
            let run = rowferry(&["copy", &from, &to, "-q"], self.folder.path())?;
            ours.push(run.took);
            peak = peak.max(run.peak);
            let run = rowferry(&["diff", &from, &to, "-q"], self.folder.path())?;
            diffs.push(run.took);
            peak = peak.max(run.peak);
        }
        let (ours, theirs, diff) = (self.rate(ours), self.rate(theirs), self.rate(diffs));
        let ratio = ours / theirs;
        let verdict = if ratio + 0.005 < pair.must {
            " (missed)"
        } else if ratio + 0.005 < pair.aim {
            ""
        } else {
            " (aim met)"
        };
        let mut line = String::new();
        writeln!(
            line,
            "| {} | {ours:.0} | {} | {theirs:.0} | {ratio:.2}{verdict} | {:.2} | {:.2} | {} MiB | {diff:.0} |",
            pair.name,
            pair.floor.name(),
            pair.must,
            pair.aim,
            peak.div_ceil(1024),
        )?;
        Ok(line)
    }

    /// Rows a second at the median time.
    fn rate(&self, mut times: Vec<Duration>) -> f64 {
        times.sort();
        f64::from(self.rows) / times[times.len() / 2].as_secs_f64()
    }

    fn conditions(&self) -> Outcome<String> {
        let postgres = text(&mut self.psql("postgres", "SHOW server_version"))?;
        let maria = text(&mut self.mysql("SELECT version()"))?;
        let cores = std::thread::available_parallelism()?;
        Ok(format!(
            "{} rows, medians of {} rounds, {cores} cores for the servers and the program together, durable settings. \
             PostgreSQL {}, MariaDB {}, SQLite {}.",
            self.rows,
            self.rounds,
            postgres.split_whitespace().next().unwrap_or_default(),
            maria.split('-').next().unwrap_or_default(),
            rusqlite::version(),
        ))
    }
}

/// Runs the program under test, which must end with exit code 0, and watches its memory.
fn rowferry(args: &[&str], folder: &Path) -> Outcome<Run> {
    let program = std::env::var("ROWFERRY_BENCH_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_rowferry").into());
    let errors = folder.join("stderr");
    let started = Instant::now();
    let mut child = Command::new(program)
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&errors)?)
        .spawn()?;
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let end = loop {
        if let Ok(text) = std::fs::read_to_string(&status) {
            let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
            let kib = line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok());
            peak = peak.max(kib.unwrap_or(0));
        }
        if let Some(end) = child.try_wait()? {
            break end;
        }
        std::thread::sleep(Duration::from_millis(4));
    };
    let took = started.elapsed();
    if !end.success() {
        return Err(format!("rowferry {}: {end}\n{}", args.join(" "), std::fs::read_to_string(errors)?).into());
    }
    Ok(Run { took, peak })
}

fn ok(command: &mut Command) -> Outcome<()> {
    text(command).map(drop)
}

fn text(command: &mut Command) -> Outcome<String> {
    let done = command.stdin(Stdio::null()).output().map_err(|e| format!("{command:?}: {e}"))?;
    if !done.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&done.stderr)).into());
    }
    Ok(String::from_utf8(done.stdout)?.trim().to_owned())
}

fn piped(from: &mut Command, to: &mut Command) -> Outcome<()> {
    let mut first = from.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let pipe = first.stdout.take().ok_or("no pipe")?;
    let second = to.stdin(pipe).stdout(Stdio::null()).status()?;
    if !first.wait()?.success() || !second.success() {
        return Err(format!("{from:?} | {to:?} failed").into());
    }
    Ok(())
}

const TABLE: &str = "CREATE TABLE orders (\
    id bigint PRIMARY KEY, customer int NOT NULL, seller int, amount numeric(12,2) NOT NULL, \
    currency char(3) NOT NULL, reference varchar(32) NOT NULL, note text NOT NULL, paid boolean NOT NULL, \
    details jsonb NOT NULL, placed timestamptz NOT NULL); CREATE INDEX orders_placed ON orders (placed)";

/// The same rows each time, in every database.
const ROWS: &str = "INSERT INTO orders SELECT n, (n * 7919) % 50000, \
    CASE WHEN n % 3 = 0 THEN NULL ELSE (n * 31) % 900 END, ((n * 104729) % 100000000)::numeric / 100, \
    (ARRAY['EUR','USD','GBP','JPY'])[1 + n % 4], 'R-' || upper(substr(md5(n::text), 1, 14)), \
    'Order ' || n || ', please ring the bell twice: ' || substr(md5('n' || n), 1, 20), n % 5 <> 0, \
    jsonb_build_object('items', n % 9, 'gift', n % 11 = 0, 'code', substr(md5('d' || n), 1, 8)), \
    timestamptz '2021-03-04 05:06:07.123456+00' + ((n * 7919) % 90000000) * interval '1 second' \
    FROM generate_series(1::bigint, $rows) AS g(n)";
