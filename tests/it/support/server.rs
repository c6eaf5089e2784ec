//! A server of a test's own, which the test may configure, kill and start again.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::database::{Engine, attempt};

/// PostgreSQL or MariaDB in a temporary folder. It ends with this value.
pub struct Server {
    engine: Engine,
    folder: tempfile::TempDir,
    options: Vec<String>,
    /// Shell commands that run before the server in a mount namespace of its own.
    mounts: String,
    port: u16,
    child: Option<Child>,
}

impl Server {
    /// Makes the server's data; [`Self::start`] starts it. `None`, said in a line, where `test.sh`
    /// did not lend its programs.
    pub fn new(engine: Engine) -> Option<Self> {
        let required = std::env::var("ROWFERRY_TEST_DBS").is_ok_and(|v| v == "required");
        let Some(programs) = std::env::var_os("ROWFERRY_TEST_BIN") else {
            assert!(!required, "ROWFERRY_TEST_BIN is not set: run ./test.sh");
            eprintln!("left out: this test starts a server of its own, with the programs that ./test.sh lends");
            return None;
        };
        let programs = PathBuf::from(programs);
        let folder = tempfile::tempdir().expect("a temporary folder");
        open_to_all(folder.path());
        let data = folder.path().join("data");
        let mut install = if engine == Engine::Postgres {
            let mut install = Command::new(programs.join("initdb"));
            install.args(["-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "-D"]);
            install.arg(&data);
            install
        } else {
            let mut install = Command::new(programs.join("mariadb-install-db"));
            install.args(["--no-defaults", "--force", "--skip-test-db", "--skip-name-resolve"]);
            install.arg("--auth-root-authentication-method=normal").arg(format!("--datadir={}", data.display()));
            install
        };
        let made = install.stdin(Stdio::null()).output().expect("the server's data can be made");
        assert!(made.status.success(), "{engine:?}: {}", String::from_utf8_lossy(&made.stderr));
        Some(Self { engine, folder, options: Vec::new(), mounts: String::new(), port: 0, child: None })
    }

    /// Adds options of the command line.
    pub fn options(mut self, options: &[String]) -> Self {
        self.options.extend_from_slice(options);
        self
    }

    /// Lets these shell commands run first, in a mount namespace that the server alone has.
    pub fn mounts(mut self, commands: String) -> Self {
        self.mounts = commands;
        self
    }

    /// Its folder; the data is in `data`.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts it and waits until it answers.
    pub fn start(&mut self) {
        let first = self.port == 0;
        for _ in 0..20 {
            if self.port == 0 {
                let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
                self.port = free.local_addr().expect("its address").port();
            }
            let mut child = self.spawn();
            let until = Instant::now() + Duration::from_mins(1);
            while child.try_wait().expect("the server's state").is_none() {
                assert!(Instant::now() < until, "{:?} does not answer: {}", self.engine, self.log());
                if attempt(self.engine, &self.url("", self.admin()), "SELECT 1").is_ok() {
                    self.child = Some(child);
                    return;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            // Another process may have taken the port, or one that was killed may still be leaving.
            if first {
                self.port = 0;
            }
        }
        panic!("{:?} does not start: {}", self.engine, self.log());
    }

    fn spawn(&self) -> Child {
        let programs = PathBuf::from(std::env::var_os("ROWFERRY_TEST_BIN").expect("lent programs"));
        let folder = self.folder.path().display();
        let (program, arguments) = match self.engine {
            Engine::Postgres => (
                "postgres",
                vec![
                    "-D".to_owned(),
                    format!("{folder}/data"),
                    format!("--port={}", self.port),
                    "--listen_addresses=127.0.0.1".to_owned(),
                    format!("--unix_socket_directories={folder}"),
                    "--fsync=off".to_owned(),
                ],
            ),
            _ => (
                "mariadbd",
                vec![
                    "--no-defaults".to_owned(),
                    format!("--datadir={folder}/data"),
                    format!("--port={}", self.port),
                    "--bind-address=127.0.0.1".to_owned(),
                    format!("--socket={folder}/s"),
                    format!("--tmpdir={folder}"),
                    "--skip-name-resolve".to_owned(),
                    "--innodb-flush-method=nosync".to_owned(),
                    "--local-infile=1".to_owned(),
                ],
            ),
        };
        let mut command = if self.mounts.is_empty() {
            Command::new(programs.join(program))
        } else {
            let mut command = Command::new("unshare");
            command.args(["--mount", "--propagation", "private", "sh", "-c"]);
            command.arg(format!("{} && exec \"$@\"", self.mounts)).arg("sh").arg(programs.join(program));
            command
        };
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_file()).expect("a log");
        let error_log = log.try_clone().expect("a log");
        command.args(arguments).args(&self.options).stdin(Stdio::null()).stdout(log).stderr(error_log);
        command.spawn().expect("the server's program")
    }

    /// Ends it as a power cut does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Nothing is left to do when it is gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// A URL of it for rowferry; `account` is `user`, `user:password` or nothing for the administrator.
    pub fn url(&self, account: &str, database: &str) -> String {
        let (scheme, administrator) =
            if self.engine == Engine::Postgres { ("postgres", "postgres") } else { ("mysql", "root") };
        let account = if account.is_empty() { administrator } else { account };
        format!("{scheme}://{account}@127.0.0.1:{}/{database}", self.port)
    }

    /// The administrators' database.
    fn admin(&self) -> &'static str {
        if self.engine == Engine::Postgres { "postgres" } else { "mysql" }
    }

    /// How many rows this query has in that database, as far as it answers.
    pub fn rows(&self, database: &str, sql: &str) -> usize {
        attempt(self.engine, &self.url("", database), sql).map_or(0, |rows| rows.len())
    }

    /// Runs statements as the administrator; in the administrators' database when `database` is empty.
    pub fn execute(&self, database: &str, sql: &str) {
        let database = if database.is_empty() { self.admin() } else { database };
        attempt(self.engine, &self.url("", database), sql).unwrap_or_else(|e| panic!("{e}\nin: {sql}"));
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The servers run as another user when the tests run as root.
fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("permissions");
}
