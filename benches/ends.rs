//! The databases that rows are copied between.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Outcome;
use crate::process::{Run, ok, rowferry, server, text};
use crate::tables::Sample;

/// Where rows are or go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Postgres,
    Maria,
    Sqlite,
}

/// One of two databases in each engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Source,
    Target,
}

/// The servers, and a folder for files.
pub struct Bench {
    folder: tempfile::TempDir,
    postgres: String,
    maria: String,
    /// Options that connect the MariaDB client programs.
    pub maria_options: Vec<String>,
    /// Process ids of both servers.
    servers: [String; 2],
    pub rows: u32,
    pub rounds: usize,
    /// Part of the names of the pairs that are measured.
    only: String,
}

fn number(name: &str, default: u32) -> u32 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

impl Bench {
    pub fn new(postgres: &str, maria: &str) -> Outcome<Self> {
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
        let mut this = Self {
            folder,
            postgres: url(postgres)?,
            maria,
            maria_options,
            servers: Default::default(),
            rows: number("ROWFERRY_BENCH_ROWS", 200_000),
            rounds: number("ROWFERRY_BENCH_ROUNDS", 3).max(1) as usize,
            only: std::env::var("ROWFERRY_BENCH_PAIRS").unwrap_or_default(),
        };
        let data = text(&mut this.psql("postgres", "SHOW data_directory"))?;
        let pid = |file: &str| -> Outcome<String> {
            Ok(std::fs::read_to_string(file)?.lines().next().unwrap_or_default().trim().to_owned())
        };
        this.servers = [pid(&format!("{data}/postmaster.pid"))?, pid(&text(&mut this.mysql("SELECT @@pid_file"))?)?];
        for name in ["bench_a", "bench_b"] {
            ok(&mut this.psql("postgres", &format!("DROP DATABASE IF EXISTS {name}")))?;
            ok(&mut this.psql("postgres", &format!("CREATE DATABASE {name}")))?;
            ok(&mut this
                .mysql(&format!("DROP DATABASE IF EXISTS {name}; CREATE DATABASE {name} CHARACTER SET utf8mb4")))?;
        }
        Ok(this)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Whether a pair of this name is to be measured.
    pub fn wants(&self, pair: &str) -> bool {
        pair.contains(&self.only)
    }

    /// Whether the page keeps the lines of other pairs.
    pub fn chooses(&self) -> bool {
        !self.only.is_empty()
    }

    pub fn url(&self, end: End, side: Side) -> String {
        let name = if side == Side::Target { "bench_b" } else { "bench_a" };
        match end {
            End::Postgres => format!("{}/{name}", self.postgres),
            End::Maria => format!("{}/{name}", self.maria),
            End::Sqlite => format!("sqlite:{}", self.file(side).display()),
        }
    }

    /// The host, port and user of PostgreSQL as a connection string has them.
    pub fn server_address(&self) -> String {
        let at = self.postgres.rsplit('/').next().unwrap_or_default();
        let (user, host) = at.split_once('@').unwrap_or(("postgres", at));
        let (host, port) = host.split_once(':').unwrap_or((host, "5432"));
        format!("host={host} port={port} user={user}")
    }

    /// User, host and port of MariaDB.
    pub fn maria_account(&self) -> [&str; 3] {
        ["--user=", "--host=", "--port="]
            .map(|name| self.maria_options.iter().find_map(|o| o.strip_prefix(name)).unwrap_or_default())
    }

    pub fn file(&self, side: Side) -> PathBuf {
        self.folder().join(if side == Side::Target { "b.db" } else { "a.db" })
    }

    pub fn psql(&self, database: &str, sql: &str) -> Command {
        let mut c = Command::new("psql");
        c.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql])
            .arg(format!("{}/{database}", self.postgres));
        c
    }

    pub fn mysql(&self, sql: &str) -> Command {
        let mut c = Command::new("mysql");
        c.args(&self.maria_options).args(["--batch", "--skip-column-names", "--execute", sql]);
        c
    }

    pub fn copy(&self, table: Sample, from: (End, Side), to: (End, Side)) -> Outcome<Run> {
        let (from, to) = (self.url(from.0, from.1), self.url(to.0, to.1));
        rowferry(&["copy", &from, &to, "--tables", table.name, "-q"], self.folder(), &[0])
    }

    /// Compares all contents; ends the measurement unless they are equal.
    pub fn diff(&self, table: Sample, from: (End, Side), to: (End, Side)) -> Outcome<Run> {
        let (from, to) = (self.url(from.0, from.1), self.url(to.0, to.1));
        rowferry(&["diff", &from, &to, "--tables", table.name, "-q"], self.folder(), &[0])
    }

    /// Processor time of the servers so far, in seconds.
    pub fn servers_cpu(&self) -> f64 {
        self.servers.iter().map(|pid| server(pid)).sum()
    }

    /// Makes and fills the table at PostgreSQL's source.
    pub fn fill(&self, table: Sample, rows: u32) -> Outcome<()> {
        eprintln!("{}: {rows} rows", table.name);
        ok(&mut self.psql("bench_a", &format!("DROP TABLE IF EXISTS {}; {}", table.name, table.ddl)))?;
        ok(&mut self.psql("bench_a", &table.fill.replace("$rows", &rows.to_string())))?;
        ok(&mut self.psql("bench_a", &format!("VACUUM ANALYZE {}", table.name)))
    }

    /// Fills the table at the source of every engine.
    pub fn fill_all(&self, table: Sample, rows: u32) -> Outcome<()> {
        self.fill(table, rows)?;
        for end in [End::Maria, End::Sqlite] {
            self.remove(table, end, Side::Source)?;
            self.copy(table, (End::Postgres, Side::Source), (end, Side::Source))?;
            self.diff(table, (End::Postgres, Side::Source), (end, Side::Source))?;
        }
        Ok(())
    }

    /// Takes the table away.
    pub fn remove(&self, table: Sample, end: End, side: Side) -> Outcome<()> {
        let (name, drop) = (if side == Side::Target { "bench_b" } else { "bench_a" }, "DROP TABLE IF EXISTS");
        match end {
            End::Postgres => ok(&mut self.psql(name, &format!("{drop} {}", table.name)))?,
            End::Maria => ok(&mut self.mysql(&format!("{drop} {name}.{}", table.name)))?,
            End::Sqlite => {
                let _ = std::fs::remove_file(self.file(side));
            }
        }
        Ok(())
    }

    /// Makes the target's table, empty, as it is at the source of the same engine, or takes it away.
    pub fn reset(&self, table: Sample, end: End, present: bool) -> Outcome<()> {
        self.remove(table, end, Side::Target)?;
        match end {
            _ if !present => {}
            End::Postgres => ok(&mut self.psql("bench_b", table.ddl))?,
            End::Maria => ok(&mut self.mysql(&format!("CREATE TABLE bench_b.{0} LIKE bench_a.{0}", table.name)))?,
            End::Sqlite => {
                let source = rusqlite::Connection::open(self.file(Side::Source))?;
                let mut statement =
                    source.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY type DESC")?;
                let all = statement.query_map([], |r| r.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
                rusqlite::Connection::open(self.file(Side::Target))?.execute_batch(&all.join(";\n"))?;
            }
        }
        ok(&mut self.psql("postgres", "CHECKPOINT"))?;
        ok(&mut Command::new("sync"))
    }

    /// What was measured where, in a sentence.
    pub fn conditions(&self) -> Outcome<String> {
        let postgres = text(&mut self.psql("postgres", "SHOW server_version"))?;
        let maria = text(&mut self.mysql("SELECT version()"))?;
        Ok(format!(
            "Medians of {} rounds, {} cores for the servers and the program together, durable settings. PostgreSQL {}, \
             MariaDB {}, SQLite {}.",
            self.rounds,
            std::thread::available_parallelism()?,
            postgres.split_whitespace().next().unwrap_or_default(),
            maria.split('-').next().unwrap_or_default(),
            rusqlite::version(),
        ))
    }
}
