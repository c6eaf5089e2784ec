//! The servers' own replication of one table: stopped while rows are written, then timed until it has caught up.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::ends::Bench;
use crate::process::{ok, text};

/// Replication of a table that has no trigger.
pub trait Native {
    /// The table at the source.
    fn table(&self) -> &str;
    /// From now on nothing arrives.
    fn stop(&mut self) -> Outcome<()>;
    /// Goes on; the seconds until all that was written before has arrived.
    fn catch_up(&mut self) -> Outcome<f64>;
}

/// The table that is replicated.
const TABLE: &str = "replicated";

/// What tells whether everything has arrived.
const CONTENT: &str = "SELECT count(*), sum(customer), sum(seller) FROM";

fn same(there: &str, here: &str) -> Outcome<()> {
    if there == here { Ok(()) } else { Err(format!("replication has not brought everything: {there}, {here}").into()) }
}

/// How long replication may take.
const PATIENCE: Duration = Duration::from_mins(5);

/// Logical replication from one database to another of the server.
pub struct Postgres<'a> {
    bench: &'a Bench,
}

impl<'a> Postgres<'a> {
    pub fn start(bench: &'a Bench) -> Outcome<Self> {
        let this = Self { bench };
        this.remove();
        let make = format!("CREATE TABLE {TABLE} (LIKE orders INCLUDING ALL)");
        ok(&mut bench.psql("bench_a", &format!("{make}; INSERT INTO {TABLE} SELECT * FROM orders")))?;
        ok(&mut bench.psql("bench_a", &format!("CREATE PUBLICATION bench FOR TABLE {TABLE}")))?;
        ok(&mut bench.psql("bench_a", "SELECT pg_create_logical_replication_slot('bench', 'pgoutput')"))?;
        ok(&mut bench.psql("bench_b", &format!("DROP TABLE IF EXISTS {TABLE}; {}", made()?)))?;
        let at = bench.server_address();
        let sql = format!(
            "CREATE SUBSCRIPTION bench CONNECTION '{at} dbname=bench_a' PUBLICATION bench \
             WITH (create_slot = false, slot_name = 'bench', copy_data = true)"
        );
        ok(&mut bench.psql("bench_b", &sql))?;
        let rows = text(&mut bench.psql("bench_a", &format!("SELECT count(*) FROM {TABLE}")))?;
        let started = Instant::now();
        while text(&mut bench.psql("bench_b", &format!("SELECT count(*) FROM {TABLE}")))? != rows {
            wait(started)?;
        }
        Ok(this)
    }

    fn remove(&self) {
        // What is not there is not removed.
        for (database, sql) in [
            ("bench_b", "ALTER SUBSCRIPTION bench DISABLE"),
            ("bench_b", "DROP SUBSCRIPTION bench"),
            ("bench_a", "DROP PUBLICATION IF EXISTS bench"),
            ("bench_a", "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"),
            ("bench_a", "DROP TABLE IF EXISTS replicated"),
            ("bench_b", "DROP TABLE IF EXISTS replicated"),
        ] {
            let _ = text(&mut self.bench.psql(database, sql));
        }
    }
}

impl Drop for Postgres<'_> {
    fn drop(&mut self) {
        self.remove();
    }
}

/// The table's statement, as the bench has it.
fn made() -> Outcome<String> {
    let (table, index) = crate::tables::ORDERS.ddl.split_once(';').ok_or("a table without an index")?;
    Ok(format!(
        "{}; {}",
        table.replacen("orders", TABLE, 1),
        index.replacen("orders_placed ON orders", "replicated_placed ON replicated", 1)
    ))
}

fn wait(started: Instant) -> Outcome<()> {
    if started.elapsed() > PATIENCE {
        return Err("replication did not catch up".into());
    }
    std::thread::sleep(Duration::from_millis(5));
    Ok(())
}

impl Native for Postgres<'_> {
    fn table(&self) -> &str {
        TABLE
    }

    fn stop(&mut self) -> Outcome<()> {
        ok(&mut self.bench.psql("bench_b", "ALTER SUBSCRIPTION bench DISABLE"))?;
        let started = Instant::now();
        let active = "SELECT count(*) FROM pg_replication_slots WHERE active";
        while text(&mut self.bench.psql("bench_a", active))? != "0" {
            wait(started)?;
        }
        Ok(())
    }

    fn catch_up(&mut self) -> Outcome<f64> {
        let upto = text(&mut self.bench.psql("bench_a", "SELECT pg_current_wal_insert_lsn()"))?;
        let started = Instant::now();
        ok(&mut self.bench.psql("bench_b", "ALTER SUBSCRIPTION bench ENABLE"))?;
        let reached =
            format!("SELECT confirmed_flush_lsn >= '{upto}' FROM pg_replication_slots WHERE slot_name = 'bench'");
        while text(&mut self.bench.psql("bench_a", &reached))? != "t" {
            wait(started)?;
        }
        let seconds = started.elapsed().as_secs_f64();
        let content = format!("{CONTENT} {TABLE}");
        same(&text(&mut self.bench.psql("bench_a", &content))?, &text(&mut self.bench.psql("bench_b", &content))?)?;
        Ok(seconds)
    }
}

/// A second server that follows the first one's binary log.
pub struct Maria<'a> {
    bench: &'a Bench,
    server: Child,
    folder: PathBuf,
    socket: PathBuf,
}

impl<'a> Maria<'a> {
    pub fn start(bench: &'a Bench) -> Outcome<Self> {
        let programs = PathBuf::from(std::env::var("ROWFERRY_TEST_BIN")?);
        // The server runs as another user, who owns the folder that the other servers have theirs in.
        let folder = bench.folder().join("replica");
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder)?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(&folder, mode)?;
        let (data, socket) = (folder.join("data"), folder.join("s"));
        ok(Command::new(programs.join("mariadb-install-db")).args([
            "--no-defaults",
            "--force",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--skip-name-resolve",
            &format!("--datadir={}", data.display()),
        ]))?;
        let server = Command::new(programs.join("mariadbd"))
            .args(["--no-defaults", "--skip-networking", "--server-id=77", "--innodb-flush-log-at-trx-commit=1"])
            .args([
                format!("--datadir={}", data.display()),
                format!("--socket={}", socket.display()),
                format!("--tmpdir={}", folder.display()),
                format!("--pid-file={}", folder.join("pid").display()),
                format!("--replicate-do-table=bench_a.{TABLE}"),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let this = Self { bench, server, folder, socket };
        let started = Instant::now();
        while this.run("SELECT 1").is_err() {
            wait(started)?;
        }
        ok(&mut bench.mysql(&format!(
            "DROP TABLE IF EXISTS bench_a.{TABLE}; CREATE TABLE bench_a.{TABLE} LIKE bench_a.orders"
        )))?;
        let made = text(&mut bench.mysql(&format!("SHOW CREATE TABLE bench_a.{TABLE}")))?;
        let made = made.split_once('\t').ok_or("no statement")?.1.replace("\\n", "\n");
        this.run(&format!("CREATE DATABASE bench_a CHARACTER SET utf8mb4; USE bench_a; {made}"))?;
        let state = text(&mut bench.mysql("SHOW MASTER STATUS"))?;
        let mut state = state.split('\t');
        let (file, position) = (state.next().unwrap_or_default(), state.next().unwrap_or_default());
        let [user, host, port] = bench.maria_account();
        this.run(&format!(
            "CHANGE MASTER TO MASTER_HOST='{host}', MASTER_PORT={port}, MASTER_USER='{user}', MASTER_LOG_FILE='{file}', \
             MASTER_LOG_POS={position}"
        ))?;
        ok(&mut bench.mysql(&format!("INSERT INTO bench_a.{TABLE} SELECT * FROM bench_a.orders")))?;
        let mut this = this;
        this.catch_up()?;
        Ok(this)
    }

    fn run(&self, sql: &str) -> Outcome<String> {
        let mut c = Command::new("mysql");
        c.args(["--no-defaults", "--user=root", "--batch", "--skip-column-names"])
            .arg(format!("--socket={}", self.socket.display()))
            .args(["--execute", sql]);
        text(&mut c)
    }
}

impl Drop for Maria<'_> {
    fn drop(&mut self) {
        let _ = self.run("SHUTDOWN");
        let started = Instant::now();
        while self.server.try_wait().is_ok_and(|ended| ended.is_none()) && started.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
        let _ = text(&mut self.bench.mysql(&format!("DROP TABLE IF EXISTS bench_a.{TABLE}")));
    }
}

impl Native for Maria<'_> {
    fn table(&self) -> &str {
        TABLE
    }

    fn stop(&mut self) -> Outcome<()> {
        self.run("STOP SLAVE").map(drop)
    }

    fn catch_up(&mut self) -> Outcome<f64> {
        let state = text(&mut self.bench.mysql("SHOW MASTER STATUS"))?;
        let mut state = state.split('\t');
        let (file, position) = (state.next().unwrap_or_default(), state.next().unwrap_or_default());
        let started = Instant::now();
        self.run("START SLAVE")?;
        let reached = self.run(&format!("SELECT MASTER_POS_WAIT('{file}', {position}, {})", PATIENCE.as_secs()))?;
        if reached == "NULL" || reached == "-1" {
            return Err(format!("replication did not catch up: {}", self.run("SHOW SLAVE STATUS")?).into());
        }
        let seconds = started.elapsed().as_secs_f64();
        let content = format!("{CONTENT} bench_a.{TABLE}");
        same(&text(&mut self.bench.mysql(&content))?, &self.run(&content)?)?;
        Ok(seconds)
    }
}
