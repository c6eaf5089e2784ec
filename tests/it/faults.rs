//! What goes wrong: each fault has its exit code and one sentence that names what it concerns,
//! leaves nothing half done, and the same command ends equal once the fault is gone.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rowferry::engine::{ErrorKind, OpenOptions, ReadRequest, Selection, open};
use rowferry::model::{BatchLimits, TableName};

use crate::support::{
    Engine, Held, Output, Server, TestDb, long, may_mount, output, program, rowferry, rowferry_in, start,
};

/// Two tables of plain rows; `wide` fills the disk.
fn source_on(engine: Engine, rows: u32, width: usize) -> TestDb {
    let db = TestDb::new(engine);
    db.execute("CREATE TABLE small (id INT NOT NULL PRIMARY KEY, note VARCHAR(20))");
    db.execute("INSERT INTO small VALUES (1, 'a'), (2, 'b')");
    db.execute("CREATE TABLE wide (id INT NOT NULL PRIMARY KEY, note TEXT NOT NULL)");
    let note = "w".repeat(width);
    let all: Vec<u32> = (1..=rows).collect();
    for part in all.chunks(1000) {
        let values: Vec<String> = part.iter().map(|id| format!("({id}, '{note}')")).collect();
        db.execute(&format!("INSERT INTO wide VALUES {}", values.join(", ")));
    }
    db
}

fn source(rows: u32, width: usize) -> TestDb {
    source_on(Engine::Sqlite, rows, width)
}

fn servers() -> Vec<Engine> {
    Engine::available().into_iter().filter(|e| *e != Engine::Sqlite).collect()
}

#[track_caller]
fn assert_told(run: &Output, code: i32, words: &[&str]) {
    assert_eq!(run.code, code, "{run:?}");
    for word in words {
        assert!(run.stderr.contains(word), "no '{word}' in {run:?}");
    }
    let said = run.stderr.lines().filter(|line| !line.contains("; trying again in "));
    assert_eq!(said.count(), 1, "{run:?}");
}

/// The same command ends well, and both sides are equal then.
#[track_caller]
fn ends_equal(command: &[&str]) {
    let run = rowferry(command);
    assert_eq!(run.code, 0, "{command:?}: {run:?}");
    let run = rowferry(&["diff", command[1], command[2], "--rows"]);
    assert_eq!(run.code, 0, "{command:?}: {run:?}");
}

/// Waits until this is so.
#[track_caller]
fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_mins(1);
    while !so() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn tables(db: &TestDb) -> Vec<String> {
    let sql = match db.engine() {
        Engine::Sqlite => "SELECT name FROM sqlite_master WHERE type = 'table'",
        Engine::Postgres => {
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        }
        Engine::Mariadb | Engine::Mysql => {
            "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()"
        }
    };
    db.query(sql).into_iter().flatten().flatten().collect()
}

// --- URLs ---

#[test]
fn a_url_that_leads_nowhere_says_which_part_is_wrong() {
    let source = source(1, 1);
    let mut wrong = vec![
        ("shop".to_owned(), 2, "'shop' is no database URL"),
        ("/srv/shop.db".to_owned(), 2, "'/srv/shop.db' is no database URL"),
        ("C:\\shop.db".to_owned(), 2, "sqlite:C:\\shop.db"),
        ("postgres://u:p@w@h/d".to_owned(), 2, "%40"),
        ("oracle://u@h/d".to_owned(), 2, "'oracle' is no database URL"),
        ("sqlite:".to_owned(), 2, "names no file"),
        ("sqlite:a.db?mode=ro".to_owned(), 2, "parameter 'mode'"),
        ("postgres://u@h:port/d".to_owned(), 2, "`port`"),
        ("postgres://u@h:99999/d".to_owned(), 2, "`port`"),
        ("postgres://u@h/d?color=red".to_owned(), 2, "`color`"),
        ("mysql://u@h:port/d".to_owned(), 2, "port"),
        ("mysql://u@h:99999/d".to_owned(), 2, "port"),
        ("mysql://u@h/d?color=red".to_owned(), 2, "'color'"),
        ("mysql://u@h/".to_owned(), 2, "names no database"),
        ("mariadb://u@h".to_owned(), 2, "names no database"),
        ("postgres://u@no-such-host.invalid/d".to_owned(), 3, "no-such-host.invalid:5432"),
        ("mysql://u@no-such-host.invalid/d".to_owned(), 3, "no-such-host.invalid:3306"),
        ("postgres://u@127.0.0.1:1/d".to_owned(), 3, "127.0.0.1:1"),
        ("mysql://u@127.0.0.1:1/d".to_owned(), 3, "127.0.0.1:1"),
        ("sqlite:/no/such/folder/a.db".to_owned(), 3, "/no/such/folder/a.db"),
    ];
    for engine in servers() {
        let url = TestDb::new(engine).url().to_owned();
        // That database is dropped again.
        wrong.push((url, 2, "has no database 't"));
    }
    for (url, code, words) in &wrong {
        assert_told(&rowferry(&["copy", source.url(), url]), *code, &[words]);
        assert_told(&rowferry(&["diff", url, source.url()]), *code, &[words]);
    }
}

// --- rights ---

/// An account with rights on this database alone, which goes with this value.
struct Account<'d> {
    db: &'d TestDb,
    user: String,
}

impl<'d> Account<'d> {
    fn new(db: &'d TestDb, rights: &[&str]) -> Self {
        let name = db.url().rsplit('/').next().expect("a name").to_owned();
        let user = format!("{name}_low");
        db.execute(&match db.engine() {
            Engine::Postgres => format!("CREATE ROLE {user} LOGIN; GRANT USAGE ON SCHEMA public TO {user}"),
            _ => format!("CREATE USER {user}@'%'"),
        });
        let to = if db.engine() == Engine::Postgres { user.clone() } else { format!("{user}@'%'") };
        for right in rights {
            db.execute(&format!("GRANT {right} TO {to}"));
        }
        Self { db, user }
    }

    fn url(&self) -> String {
        let (scheme, rest) = self.db.url().split_once("://").expect("a URL");
        let (_, place) = rest.split_once('@').expect("an account");
        format!("{scheme}://{}@{place}", self.user)
    }

    fn grant(&self, right: &str) {
        let to = if self.db.engine() == Engine::Postgres { self.user.clone() } else { format!("{}@'%'", self.user) };
        self.db.execute(&format!("GRANT {right} TO {to}"));
    }
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        match self.db.engine() {
            Engine::Postgres => self.db.execute(&format!("DROP OWNED BY {0}; DROP ROLE {0}", self.user)),
            _ => self.db.execute(&format!("DROP USER {}@'%'", self.user)),
        }
    }
}

#[test]
fn a_table_that_may_not_be_read_is_named_and_nothing_is_touched() {
    for engine in servers() {
        let from = source_on(engine, 5, 5);
        let account = Account::new(&from, &["SELECT ON small"]);
        let to = TestDb::new(Engine::Sqlite);
        let command = ["copy", &account.url(), to.url(), "--tables", "small,wide"];
        // MySQL and MariaDB do not even show it.
        assert_told(&rowferry(&command), 2, &["wide"]);
        assert_eq!(tables(&to), Vec::<String>::new(), "{engine:?}");
        account.grant("SELECT ON wide");
        ends_equal(&command);
    }
}

#[test]
fn a_table_whose_policies_hide_rows_is_refused_unless_that_is_asked_for() {
    let from = source_on(Engine::Postgres, 5, 5);
    from.execute("ALTER TABLE wide ENABLE ROW LEVEL SECURITY");
    let account = Account::new(&from, &["SELECT ON small", "SELECT ON wide"]);
    from.execute(&format!("CREATE POLICY hides ON wide TO {} USING (id > 3)", account.user));
    let url = account.url();
    let to = TestDb::new(Engine::Sqlite);
    assert_eq!(rowferry(&["copy", from.url(), to.url()]).code, 0, "its owner sees all rows");
    for command in [&["copy", &url, to.url(), "--mode", "mirror", "--force"][..], &["diff", &url, to.url()]] {
        assert_told(&rowferry(command), 2, &["wide", "row-level security", "BYPASSRLS"]);
        assert_eq!(to.value("SELECT count(*) FROM wide"), "5", "nothing was deleted");
    }
    let asked = format!("{url}?options=-c%20row_security=on");
    assert_eq!(rowferry(&["copy", &asked, to.url(), "--mode", "mirror", "--force"]).code, 0);
    assert_eq!(to.value("SELECT count(*) FROM wide"), "2");
}

#[test]
fn a_table_that_may_not_be_written_is_named_and_the_others_arrive() {
    for engine in servers() {
        let from = source(5, 5);
        let to = TestDb::new(engine);
        to.execute("CREATE TABLE small (id INT NOT NULL PRIMARY KEY, note VARCHAR(20))");
        to.execute("CREATE TABLE wide (id INT NOT NULL PRIMARY KEY, note TEXT NOT NULL)");
        let all = "SELECT, INSERT, UPDATE, DELETE";
        let account = Account::new(&to, &[&format!("{all} ON small"), "SELECT ON wide"]);
        let url = account.url();
        let command = ["copy", from.url(), &url];
        assert_told(&rowferry(&command), 1, &["table wide", "denied", "grant"]);
        assert_eq!(to.value("SELECT count(*) FROM small"), "2", "{engine:?}");
        assert_eq!(to.value("SELECT count(*) FROM wide"), "0", "{engine:?}");
        account.grant(&format!("{all} ON wide"));
        ends_equal(&command);
    }
}

/// A mirror looks into the tables that refer to its own, and writes nothing there, not even the next number.
#[test]
fn a_mirror_needs_no_right_to_number_tables_that_take_no_part() {
    let (from, to) = (TestDb::new(Engine::Sqlite), TestDb::new(Engine::Postgres));
    from.execute("CREATE TABLE p (id INTEGER PRIMARY KEY, s TEXT); INSERT INTO p VALUES (1, 'a'), (2, 'b')");
    to.execute(
        "CREATE TABLE p (id SERIAL PRIMARY KEY, s TEXT); \
         CREATE TABLE c (id SERIAL PRIMARY KEY, p INT REFERENCES p); INSERT INTO p VALUES (1, 'a'), (3, 'c')",
    );
    let rights = ["SELECT, INSERT, UPDATE, DELETE ON p", "SELECT ON c", "SELECT, UPDATE ON SEQUENCE p_id_seq"];
    let account = Account::new(&to, &rights);
    let url = account.url();
    let command = ["copy", from.url(), &url, "--tables", "p", "--mode", "mirror"];
    let output = rowferry(&command);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(to.value("SELECT string_agg(id::text, ' ' ORDER BY id) FROM p"), "1 2");
    to.execute("INSERT INTO p (s) VALUES ('next')");
    assert_eq!(to.value("SELECT max(id) FROM p"), "3", "the numbers go on behind the last one");
}

#[test]
fn an_account_that_may_create_nothing_touches_nothing() {
    for engine in servers() {
        let from = source(5, 5);
        let to = TestDb::new(engine);
        if engine == Engine::Postgres {
            // Before version 15 everybody might.
            to.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC");
        }
        let account = Account::new(&to, &[]);
        let (nothing, all) = match engine {
            Engine::Postgres => ("USAGE ON SCHEMA public", "CREATE ON SCHEMA public"),
            _ => ("SELECT ON *", "ALL ON *"),
        };
        account.grant(nothing);
        let url = account.url();
        let command = ["copy", from.url(), &url];
        assert_told(&rowferry(&command), 2, &["denied", "grant"]);
        assert_eq!(tables(&to), Vec::<String>::new(), "{engine:?}");
        account.grant(all);
        ends_equal(&command);
    }
}

// --- SQLite files ---

fn path(db: &TestDb) -> &Path {
    Path::new(db.url().trim_start_matches("sqlite:"))
}

/// Runs a shell script whose mounts go with it; `$ROWFERRY` is the program.
fn in_mounts(script: &str) -> Output {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script]);
    output(command.env("ROWFERRY", env!("CARGO_BIN_EXE_rowferry")).stdin(std::process::Stdio::null()))
}

#[test]
fn a_read_only_file_is_read_and_not_written() {
    if !may_mount() {
        return;
    }
    let (a, b, c) = (source(50, 5), TestDb::new(Engine::Sqlite), TestDb::new(Engine::Sqlite));
    b.execute("CREATE TABLE kept (id INTEGER PRIMARY KEY)");
    let folder = path(&b).parent().expect("a folder").display();
    let copy = |from: &str, to: &str| {
        in_mounts(&format!("mount --bind -o ro {folder} {folder} && exec $ROWFERRY copy {from} {to}"))
    };
    assert_told(&copy(a.url(), b.url()), 2, &["test.db", "readonly", "permissions"]);
    assert_eq!(tables(&b), ["kept"]);
    assert_told(&copy(a.url(), &format!("sqlite:{folder}/new.db")), 3, &["new.db", "folder"]);
    let read = copy(b.url(), c.url());
    assert_eq!(read.code, 0, "{read:?}");
    ends_equal(&["copy", b.url(), c.url()]);
    // To read a file in WAL mode, its folder must be written.
    b.execute("PRAGMA journal_mode = WAL");
    assert_told(&copy(b.url(), c.url()), 3, &["test.db", "WAL"]);
    b.execute("DROP TABLE kept");
    ends_equal(&["copy", a.url(), b.url()]);
}

#[test]
fn a_damaged_file_ends_the_copy_and_a_restored_one_finishes_it() {
    let a = source(3000, 200);
    let whole = std::fs::read(path(&a)).expect("the file");
    let middle = whole.len() / 2;
    let mut garbled = whole.clone();
    garbled[middle..middle + 64 * 1024].fill(0xA5);
    let text = b"Dear reader, this is no database at all. ".repeat(100);
    let cases: [(&[u8], i32, &[&str]); 4] = [
        (&whole[..middle], 1, &["test.db", "damaged"]),
        (&garbled, 1, &["wide", "damaged"]),
        (&text, 2, &["test.db", "not a database", "check the path"]),
        (&whole[..50], 1, &["test.db", "damaged"]),
    ];
    for (content, code, words) in cases {
        let b = TestDb::new(Engine::Postgres);
        std::fs::write(path(&a), content).expect("written");
        let command = ["copy", a.url(), b.url()];
        assert_told(&rowferry(&command), code, words);
        std::fs::write(path(&a), &whole).expect("written");
        ends_equal(&command);
    }
}

#[test]
fn a_locked_file_is_told_and_left() {
    let (a, b) = (source(50, 5), TestDb::new(Engine::Sqlite));
    b.execute("CREATE TABLE kept (id INTEGER PRIMARY KEY)");
    let url = format!("{}?busy_timeout=50", b.url());
    let command = ["copy", a.url(), &url];
    let other = Held::new(&b);
    other.execute("BEGIN IMMEDIATE; INSERT INTO kept VALUES (1)").expect("a lock");
    assert_told(&rowferry(&command), 1, &["locked", "busy_timeout"]);
    drop(other);
    wait_until("the lock is gone", || Held::new(&b).execute("BEGIN IMMEDIATE").is_ok());
    assert_eq!(tables(&b), ["kept"]);
    b.execute("DROP TABLE kept");
    ends_equal(&command);
}

/// There a reader keeps every commit waiting; whoever waits long enough gets through, and the plan says so.
#[test]
fn a_file_that_is_not_in_wal_mode_makes_its_writers_wait_and_the_plan_says_so() {
    let (a, b) = (source(20_000, 100), TestDb::new(Engine::Postgres));
    b.execute("CREATE TABLE wide (id INT PRIMARY KEY, note TEXT NOT NULL)");
    let command = ["copy", a.url(), b.url(), "--tables", "wide"];
    let folder = tempfile::tempdir().expect("a folder");
    let config = format!(
        "node: test\ndatabases:\n  a: {{ url: \"{}\" }}\n  b: {{ url: \"{}\" }}\n\
         syncs:\n  one: {{ source: a, target: b, direction: push, mode: full, tables: [wide] }}\n",
        a.url(),
        b.url()
    );
    std::fs::write(folder.path().join("rowferry.yaml"), config).expect("the config");
    let told = || {
        let said = |output: Output| output.stdout.contains("is not in WAL mode: while a table of it is read");
        (said(rowferry(&[&command[..], &["--dry-run"]].concat())), said(rowferry_in(folder.path(), &["check"])))
    };
    assert_eq!(told(), (true, true));
    let writer = rusqlite::Connection::open(path(&a)).expect("the file");
    let write = |wait: Duration| {
        writer.busy_timeout(wait).expect("a time-out");
        writer.execute_batch("UPDATE small SET note = 'new'")
    };
    let other = Held::new(&b);
    // It may be looked into, so that the rows are on their way when they have to wait.
    other.execute("BEGIN; LOCK TABLE wide IN EXCLUSIVE MODE").expect("a lock");
    let mut run = start(&command);
    wait_until("the reader keeps the writer waiting", || {
        assert!(!run.is_over(), "it cannot write");
        write(Duration::ZERO).is_err()
    });
    drop(other);
    write(Duration::from_mins(1)).expect("its turn comes");
    let run = run.end();
    assert_eq!(run.code, 0, "{run:?}");
    a.execute("PRAGMA journal_mode = WAL");
    assert_eq!(told(), (false, false));
}

#[test]
fn a_full_disk_under_a_file_is_told_and_more_room_finishes_the_copy() {
    if !may_mount() {
        return;
    }
    let a = source(4000, 500);
    let folder = tempfile::tempdir().expect("a folder");
    let disk = folder.path().display();
    let copy = format!("$ROWFERRY copy {} sqlite:{disk}/b.db", a.url());
    let run = in_mounts(&format!(
        "mount -t tmpfs -o size=1m tmpfs {disk} && {copy}; echo exit $?; mount -o remount,size=100m {disk} && \
         {copy} && $ROWFERRY diff {} sqlite:{disk}/b.db && echo equal",
        a.url()
    ));
    assert_told(&run, 0, &["full", "free some space", "wide"]);
    assert!(run.stdout.contains("exit 1") && run.stdout.contains("equal"), "{run:?}");
}

#[test]
fn tables_that_a_full_disk_kept_from_beginning_say_so() {
    if !may_mount() {
        return;
    }
    let a = TestDb::new(Engine::Sqlite);
    for name in ["t", "u", "v"] {
        a.execute(&format!(
            "CREATE TABLE {name} (id INTEGER PRIMARY KEY, s TEXT);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000)
             INSERT INTO {name} SELECT i, hex(zeroblob(500)) FROM n"
        ));
    }
    let folder = tempfile::tempdir().expect("a folder");
    let disk = folder.path().display();
    let run = in_mounts(&format!(
        "mount -t tmpfs -o size=1m tmpfs {disk} && $ROWFERRY copy {} sqlite:{disk}/b.db --format json",
        a.url()
    ));
    let report = run.json();
    let told: Vec<&str> =
        report["tables"].as_array().expect("tables").iter().filter_map(|t| t["error"].as_str()).collect();
    let kept = told.iter().filter(|e| e.contains(": not begun, because of another: table ") && e.contains("full"));
    assert_eq!((run.code, told.len(), kept.count()), (1, 3, 2), "{run:?}");
}

// --- servers ---

#[test]
fn a_full_disk_under_a_server_is_told_and_more_room_finishes_the_copy() {
    if !may_mount() {
        return;
    }
    let Some(server) = Server::new(Engine::Postgres) else { return };
    let disk = server.folder().join("disk");
    std::fs::create_dir(&disk).expect("a folder");
    let disk = disk.display().to_string();
    let owner = std::fs::metadata(server.folder().join("data")).expect("the data").uid();
    let server = server.options(&["--temp_tablespaces=pg_default".to_owned()]);
    let mut server = server.mounts(format!("mount -t tmpfs -o size=40m,uid={owner},mode=700 tmpfs {disk}"));
    server.start();
    server.execute("", &format!("CREATE TABLESPACE disk LOCATION '{disk}'"));
    server.execute("", "CREATE DATABASE d TABLESPACE disk");
    // What the first run wrote in vain keeps its room until the server tidies up, so that the rest must do.
    server.execute("d", "CREATE TABLE filler AS SELECT repeat('x', 1000) AS x FROM generate_series(1, 24000)");
    let (a, url) = (source(9000, 1800), server.url("", "d"));
    let command = ["copy", a.url(), &url];
    // Whichever table writes when the room ends is the one that is named.
    assert_told(&rowferry(&command), 1, &["rowferry: table ", "No space left on device"]);
    server.execute("d", "DROP TABLE filler");
    ends_equal(&command);
}

/// The tables of a database of MariaDB are files in a folder, which is a disk of its own here.
#[test]
fn a_full_disk_under_the_tables_of_mariadb_is_told_and_more_room_finishes_the_copy() {
    if !may_mount() {
        return;
    }
    let Some(server) = Server::new(Engine::Mariadb) else { return };
    let disk = server.folder().join("data").join("d");
    std::fs::create_dir(&disk).expect("a folder");
    let owner = std::fs::metadata(server.folder().join("data")).expect("the data").uid();
    let mount = format!("mount -t tmpfs -o size=32m,uid={owner},mode=700 tmpfs {}", disk.display());
    let mut server = server.mounts(mount);
    server.start();
    server.execute("d", "CREATE TABLE filler ENGINE=MyISAM AS SELECT repeat('x', 1000) AS x FROM seq_1_to_28000");
    let (a, url) = (source(4000, 1000), server.url("", "d"));
    let command = ["copy", a.url(), &url];
    // Whichever table writes when the room ends is the one that is named.
    assert_told(&rowferry(&command), 1, &["rowferry: table ", "is full", "free some space at the server"]);
    server.execute("d", "DROP TABLE filler");
    ends_equal(&command);
}

/// Without `LOAD DATA LOCAL` a row travels in one packet, and the server takes none that is longer than it allows.
#[test]
fn a_row_that_the_servers_packet_cannot_hold_is_rejected_by_name() {
    let Some(server) = Server::new(Engine::Mariadb) else { return };
    let (packet, row) = if long() { (16, 64) } else { (1, 4) };
    let mut server = server.options(&["--local-infile=0".to_owned(), format!("--max-allowed-packet={packet}M")]);
    server.start();
    server.execute("", "CREATE DATABASE d");
    let (a, url) = (TestDb::new(Engine::Sqlite), server.url("", "d"));
    a.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, b BLOB); INSERT INTO t VALUES (1, x'01'), (3, x'03')");
    a.execute(&format!("INSERT INTO t VALUES (2, zeroblob({}))", row << 20));
    let folder = tempfile::tempdir().expect("a folder");
    let run = rowferry_in(folder.path(), &["copy", a.url(), &url, "--format", "json"]);
    assert_eq!((run.code, &run.json()["tables"][0]["quarantined"]), (1, &1.into()), "{run:?}");
    let rejects = std::fs::read_to_string(folder.path().join("rowferry-rejects.jsonl")).expect("the rejects");
    let rejected: serde_json::Value = serde_json::from_str(&rejects).expect("one line of JSON");
    assert_eq!((&rejected["table"], &rejected["key"]["id"]), (&"t".into(), &"2".into()));
    let reason = rejected["reason"].as_str().expect("a reason");
    assert!(reason.contains("max_allowed_packet"), "{reason}");
    assert_eq!((server.rows("d", "SELECT 1 FROM t"), server.rows("d", "SELECT 1 FROM t WHERE id = 2")), (2, 0));
}

#[test]
fn values_longer_than_a_servers_packet_are_read_as_they_were_written() {
    let Some(server) = Server::new(Engine::Mariadb) else { return };
    let mut server = server.options(&["--max-allowed-packet=1M".to_owned()]);
    server.start();
    server.execute("", "CREATE DATABASE d");
    let (a, back, url) = (TestDb::new(Engine::Sqlite), TestDb::new(Engine::Sqlite), server.url("", "d"));
    a.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, b BLOB); INSERT INTO t VALUES (1, randomblob(5000000))");
    let command = ["copy", a.url(), &url];
    let run = rowferry(&command);
    assert_eq!(run.code, 0, "{run:?}");
    ends_equal(&command);
    assert_eq!(rowferry(&["copy", &url, back.url()]).code, 0);
    assert_eq!(back.value("SELECT hex(b) FROM t"), a.value("SELECT hex(b) FROM t"));
}

/// Where a server of this kind lists its connections.
fn processes(engine: Engine) -> &'static str {
    if engine == Engine::Mysql { "performance_schema.processlist" } else { "information_schema.processlist" }
}

/// Ends the connections that rowferry has to this database, by way of another one; how many there were.
fn cut(killer: &Held, db: &TestDb) -> usize {
    if db.engine() == Engine::Postgres {
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE datname = current_database() AND application_name = 'rowferry'";
        return db.query(sql).len();
    }
    let list = processes(db.engine());
    let others = db.query(&format!("SELECT id FROM {list} WHERE db = DATABASE() AND id <> CONNECTION_ID()"));
    // One that has ended meanwhile is no fault.
    others.into_iter().flatten().flatten().filter(|id| killer.execute(&format!("KILL {id}")).is_ok()).count()
}

#[test]
fn a_connection_that_is_cut_costs_nothing_but_another_run() {
    let moments = if long() { 12 } else { 3 };
    let shapes: Vec<(Engine, bool)> = servers().into_iter().flat_map(|e| [(e, true), (e, false)]).collect();
    for (engine, at_target) in shapes {
        let rows = 12_000;
        let elsewhere = TestDb::new(engine);
        let killer = Held::new(&elsewhere);
        let a = if at_target { source(rows, 100) } else { source_on(engine, rows, 100) };
        let mut hits = 0;
        for moment in 0..moments {
            let b = TestDb::new(if at_target { engine } else { Engine::Sqlite });
            let command = ["copy", a.url(), b.url(), "--batch-size", "20"];
            let (mut run, side) = (start(&command), if at_target { &b } else { &a });
            // The first moment is the first connection; the others come one by one after the last table was made.
            let mut looks = 0;
            while !run.is_over() {
                looks += usize::from(moment > 0 && (looks > 0 || tables(&b).contains(&"wide".to_owned())));
                if looks >= moment && cut(&killer, side) > 0 {
                    hits += 1;
                    break;
                }
            }
            let run = run.end();
            assert!([0, 3].contains(&run.code), "{engine:?}: {run:?}");
            ends_equal(&command);
        }
        assert!(hits > 0, "{engine:?}: no connection was ever cut");
    }
}

#[test]
fn a_server_that_restarts_in_the_middle_costs_nothing_but_another_run() {
    for engine in [Engine::Postgres, Engine::Mariadb] {
        let Some(mut server) = Server::new(engine) else { return };
        server.start();
        server.execute("", "CREATE DATABASE d");
        server.execute("", "CREATE DATABASE e");
        let a = source(20_000, 100);
        let (there, back) = (server.url("", "d"), server.url("", "e"));
        let first = ["copy", a.url(), &there, "--batch-size", "20"];
        let second = ["copy", &there, &back, "--batch-size", "20"];
        for command in [first, second] {
            let run = start(&command);
            // The rows have begun to arrive when the first table is there.
            let target = command[2].rsplit('/').next().expect("a name");
            let made = format!(
                "SELECT 1 FROM information_schema.tables WHERE table_schema IN ('{target}', 'public') AND table_name = 'wide'"
            );
            wait_until("the first table", || server.rows(target, &made) > 0);
            server.kill();
            server.start();
            let run = run.end();
            assert!([0, 3].contains(&run.code), "{engine:?}: {run:?}");
            ends_equal(&command);
        }
    }
}

/// A server that stays away is waited for, about half a minute.
#[test]
fn a_target_that_goes_away_and_stays_away_is_told_in_one_sentence() {
    if !long() {
        return;
    }
    let goes_away = |engine| {
        let Some(mut server) = Server::new(engine) else { return };
        server.start();
        server.execute("", "CREATE DATABASE d");
        let (a, url) = (source(20_000, 100), server.url("", "d"));
        let command = ["copy", a.url(), &url, "--batch-size", "20"];
        let run = start(&command);
        let made =
            "SELECT 1 FROM information_schema.tables WHERE table_schema IN ('d', 'public') AND table_name = 'wide'";
        wait_until("the table", || server.rows("d", made) > 0);
        server.kill();
        let place = url.rsplit_once('@').and_then(|(_, place)| place.strip_suffix("/d")).expect("a place");
        assert_told(&run.end(), 3, &[place, "reach", "host", "port"]);
        server.start();
        ends_equal(&command);
    };
    std::thread::scope(|scope| {
        for engine in [Engine::Postgres, Engine::Mariadb] {
            scope.spawn(move || goes_away(engine));
        }
    });
}

/// Whether a connection of rowferry waits for a lock.
fn waits(db: &TestDb) -> bool {
    let sql = match db.engine() {
        Engine::Postgres => {
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'".to_owned()
        }
        // InnoDB's own list of waits is stale while somebody looks at it often.
        engine => format!(
            "SELECT 1 FROM {} WHERE db = DATABASE() AND command = 'Query' AND time >= 1 AND info LIKE '%wide%'
             AND id <> CONNECTION_ID()",
            processes(engine)
        ),
    };
    !db.query(&sql).is_empty()
}

fn lock(engine: Engine) -> &'static str {
    if engine == Engine::Postgres { "BEGIN; LOCK TABLE wide" } else { "LOCK TABLES wide WRITE" }
}

#[test]
fn a_locked_table_is_waited_for() {
    for engine in servers() {
        let (a, b) = (source(50, 5), TestDb::new(engine));
        b.execute("CREATE TABLE wide (id INT NOT NULL PRIMARY KEY, note TEXT NOT NULL)");
        let other = Held::new(&b);
        other.execute(lock(engine)).expect("a lock");
        let command = ["copy", a.url(), b.url()];
        let mut run = start(&command);
        wait_until("rowferry waits for the lock", || run.is_over() || waits(&b));
        drop(other);
        let run = run.end();
        assert_eq!(run.code, 0, "{engine:?}: {run:?}");
        ends_equal(&command);
    }
}

#[test]
fn a_table_that_stays_locked_is_named_in_the_end() {
    if !long() {
        return;
    }
    let stays_locked = |engine| {
        let (a, b) = (source(50, 5), TestDb::new(engine));
        b.execute("CREATE TABLE wide (id INT NOT NULL PRIMARY KEY, note TEXT NOT NULL)");
        let other = Held::new(&b);
        other.execute(lock(engine)).expect("a lock");
        let command = ["copy", a.url(), b.url()];
        // `Lock wait timeout`, `lock timeout`.
        assert_told(&rowferry(&command), 1, &["wide", "ock"]);
        drop(other);
        ends_equal(&command);
    };
    // A minute is waited three times.
    std::thread::scope(|scope| {
        for engine in servers() {
            scope.spawn(move || stays_locked(engine));
        }
    });
}

#[test]
fn of_two_that_wait_for_each_other_one_goes_on_and_nothing_is_lost() {
    for engine in servers() {
        let (a, b) = (source(200, 5), TestDb::new(engine));
        let command = ["copy", a.url(), b.url(), "--mode", "mirror"];
        assert_eq!(rowferry(&command).code, 0);
        a.execute("UPDATE wide SET note = 'new'");
        let application = Held::new(&b);
        application.execute("BEGIN").expect("a transaction");
        application.execute("UPDATE wide SET note = 'mine' WHERE id = 200").expect("a row");
        let mut run = start(&command);
        wait_until("rowferry waits for the row", || run.is_over() || waits(&b));
        // One of the two is refused now.
        let refused = application.execute("UPDATE wide SET note = 'mine' WHERE id = 1");
        let _ = application.execute("ROLLBACK");
        let run = run.end();
        if run.code != 0 {
            assert!(refused.is_ok(), "{engine:?}: both were refused: {refused:?}, {run:?}");
            assert_told(&run, 1, &["table wide", "eadlock"]);
        }
        ends_equal(&command);
    }
}

#[test]
fn a_key_that_the_server_builds_for_a_dead_run_is_taken_as_built() {
    if !servers().contains(&Engine::Postgres) {
        return;
    }
    let (source, target) = (source(10, 20), TestDb::new(Engine::Postgres));
    let command = ["copy", source.url(), target.url(), "--tables", "wide"];
    let folder = tempfile::tempdir().expect("a folder");
    let mut none = program(folder.path(), &command);
    let none = none.env("ROWFERRY_FAILPOINT", "tables-made").output().expect("the program");
    assert_eq!(none.status.code(), None, "it dies with the table made: {none:?}");
    // Rows go in beside this lock; the key has to wait for its end.
    let application = target.session();
    application.query("BEGIN");
    application.query("LOCK TABLE wide IN ROW EXCLUSIVE MODE");
    let mut first = start(&command);
    wait_until("the first run builds the key", || {
        assert!(!first.is_over(), "the key cannot be built");
        target.value(WAITING) == "1"
    });
    first.kill();
    let second = start(&command);
    wait_until("the second run waits for the table", || target.value(WAITING) != "1");
    application.query("COMMIT");
    let second = second.end();
    assert_eq!(second.code, 0, "{second:?}");
    let differences = rowferry(&["diff", source.url(), target.url(), "--tables", "wide"]);
    assert_eq!(differences.code, 0, "{differences:?}");
    let keys = "SELECT count(*) FROM pg_constraint WHERE contype = 'p' AND conrelid = 'wide'::regclass";
    assert_eq!(target.value(keys), "1");
}

/// How many connections wait for a lock in this database.
const WAITING: &str = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database \
                       WHERE d.datname = current_database() AND NOT l.granted";

#[test]
fn what_a_dead_run_was_building_soon_ends_and_does_not_hold_the_next_one() {
    if !servers().contains(&Engine::Postgres) {
        return;
    }
    let (source, target) = (source(10, 20), TestDb::new(Engine::Postgres));
    let version: u32 = target.value("SHOW server_version_num").parse().expect("a number");
    if version < 140_000 {
        eprintln!("left out: servers before PostgreSQL 14 do not notice that a client has died");
        return;
    }
    let command = ["copy", source.url(), target.url(), "--tables", "wide"];
    let folder = tempfile::tempdir().expect("a folder");
    let mut none = program(folder.path(), &command);
    let none = none.env("ROWFERRY_FAILPOINT", "tables-made").output().expect("the program");
    assert_eq!(none.status.code(), None, "it dies with the table made: {none:?}");
    let application = target.session();
    application.query("BEGIN");
    application.query("LOCK TABLE wide IN ROW EXCLUSIVE MODE");
    let mut run = start(&command);
    wait_until("the run builds the key", || {
        assert!(!run.is_over(), "the key cannot be built");
        target.value(WAITING) == "1"
    });
    run.kill();
    // It would wait for the application, and then build, for as long as that takes.
    wait_until("the server ends what the dead run began", || target.value(WAITING) == "0");
    application.query("COMMIT");
    ends_equal(&["copy", source.url(), target.url()]);
}

/// A mirror that took it for "all deleted" would empty its target.
#[test]
fn a_table_that_was_truncated_since_its_point_is_not_taken_for_an_empty_one() {
    if !servers().contains(&Engine::Postgres) {
        return;
    }
    let db = source_on(Engine::Postgres, 10, 5);
    db.execute("CREATE TABLE parted (id INT PRIMARY KEY) PARTITION BY RANGE (id)");
    db.execute("CREATE TABLE part_1 PARTITION OF parted FOR VALUES FROM (0) TO (10)");
    db.execute("INSERT INTO parted VALUES (1)");
    let changes = ["TRUNCATE wide", "TRUNCATE part_1", "ALTER TABLE small ALTER COLUMN id TYPE bigint"];
    tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
        let database = open(db.url(), &OpenOptions::default()).await.expect("the database");
        for (name, change) in ["wide", "parted", "small"].into_iter().zip(changes) {
            let table = database.describe(&TableName::new(name)).await.expect("an answer").expect("the table");
            let request = ReadRequest {
                table: Arc::new(table),
                filter: None,
                rows: Selection::All,
                ordered: false,
                limits: BatchLimits { rows: 100, bytes: 1 << 20 },
            };
            let point = database.snapshot().await.expect("a point");
            let mut before = point.source().await.expect("a source");
            let first = before.read(&request).await.expect("a stream").next().await.expect("rows");
            assert!(first.is_some(), "{name} has rows");
            drop(before);
            db.execute(change);
            let mut after = point.source().await.expect("a source");
            let error = after.read(&request).await.err().expect("no rows that only seem to be gone");
            assert_eq!(error.kind, ErrorKind::Busy, "{name}: {error}");
            let anew = database.snapshot().await.expect("a point");
            let mut later = anew.source().await.expect("a source");
            assert!(later.read(&request).await.is_ok(), "a point after the change reads {name}");
        }
    });
}

#[test]
fn a_repair_that_falls_short_ends_with_its_report() {
    for engine in servers() {
        let a = source(5, 5);
        let b = TestDb::new(engine);
        assert_eq!(rowferry(&["copy", a.url(), b.url()]).code, 0);
        b.execute("UPDATE small SET note = 'x'");
        b.execute("DELETE FROM wide");
        let account = Account::new(&b, &["SELECT, INSERT, UPDATE, DELETE ON small", "SELECT ON wide"]);
        let url = account.url();
        let run = rowferry(&["diff", a.url(), &url, "--repair", "a-to-b", "--format", "json"]);
        assert_told(&run, 1, &["table wide", "denied"]);
        let tables = &run.json()["tables"];
        assert_eq!((&tables[0]["differing"], &tables[1]["differing"]), (&0.into(), &5.into()), "{engine:?}: {run:?}");
        let run = rowferry(&["diff", a.url(), &url, "--repair", "a-to-b"]);
        assert_told(&run, 1, &["table wide", "denied"]);
        assert!(run.stdout.contains("after the repair:") && run.stdout.contains("they differ"), "{run:?}");
        account.grant("INSERT ON wide");
        assert_eq!(rowferry(&["diff", a.url(), &url, "--repair", "a-to-b"]).code, 0, "{engine:?}");
    }
}

/// Rows of 40 MiB in four tables, which are read side by side and could be written so.
#[test]
fn rows_of_tens_of_mebibytes_share_one_room() {
    if !long() {
        return;
    }
    for engine in servers().into_iter().filter(|e| *e != Engine::Mariadb) {
        let (a, b) = (TestDb::new(Engine::Sqlite), TestDb::new(engine));
        for table in 1..=4 {
            a.execute(&format!(
                "CREATE TABLE t{table} (id INTEGER PRIMARY KEY, picture BLOB); \
                 INSERT INTO t{table} VALUES (1, zeroblob({0})), (2, zeroblob({0})), (3, zeroblob({0}))",
                40 << 20
            ));
        }
        let mut run = start(&["copy", a.url(), b.url()]);
        let mut peak = 0;
        while !run.is_over() {
            peak = peak.max(run.peak_kib());
        }
        let run = run.end();
        assert_eq!(run.code, 0, "{engine:?}: {run:?}");
        eprintln!("{engine:?}: {} MiB", peak >> 10);
        assert!(peak >> 10 < 1200, "{engine:?}: {} MiB", peak >> 10);
    }
}
