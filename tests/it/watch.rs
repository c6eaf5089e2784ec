//! `sync --watch`: syncs that go on side by side, until they are stopped.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::{Engine, TestDb, command, rowferry_in};

/// A watch beside the test, and what it said so far. It is killed when this goes.
struct Watch {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Watch {
    fn start(folder: &Path) -> Self {
        let mut command = command(folder);
        let mut child = command
            .args(["sync", "--watch"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let (said, errors) = (Arc::<Mutex<String>>::default(), child.stderr.take().expect("its errors"));
        let heard = said.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                heard.lock().expect("no panic").push_str(&format!("{line}\n"));
            }
        });
        Self { child, said }
    }

    fn said(&self) -> String {
        self.said.lock().expect("no panic").clone()
    }

    /// Waits until this holds, while the program goes on.
    #[track_caller]
    fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let limit = Instant::now() + Duration::from_mins(1);
        while !holds(self) {
            assert!(self.child.try_wait().expect("its state").is_none(), "it ended: {}", self.said());
            assert!(Instant::now() < limit, "{what} never comes: {}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until a row of this number stands in a table.
    #[track_caller]
    fn brings(&mut self, to: &TestDb, table: &str, id: i64) {
        let sql = format!("SELECT count(*) FROM {table} WHERE id = {id}");
        let there = || to.attempt(&sql).is_ok() && to.value(&sql) == "1";
        self.until(&format!("row {id} of {table}"), |_| there());
    }

    /// As Ctrl-C does; how it ended.
    #[cfg(unix)]
    fn interrupt(mut self) -> Option<i32> {
        let asked = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().expect("kill");
        assert!(asked.success());
        self.child.wait().expect("ended").code()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder whose config has these databases, and an incremental sync of each of these tables from `a` to the database
/// named.
fn folder(databases: &[(&str, &str)], syncs: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let databases: String = databases.iter().map(|(name, url)| format!("  {name}: {{ url: \"{url}\" }}\n")).collect();
    let syncs: String = (syncs.iter())
        .map(|(table, to)| format!("  of_{table}: {{ source: a, target: {to}, direction: push, tables: [{table}] }}\n"))
        .collect();
    let config = format!("node: test\ndatabases:\n{databases}syncs:\n{syncs}");
    std::fs::write(folder.path().join("rowferry.yaml"), config).expect("written");
    folder
}

fn tables(db: &TestDb, names: &[&str]) {
    for name in names {
        db.execute(&format!("CREATE TABLE {name} (id INT NOT NULL PRIMARY KEY); INSERT INTO {name} VALUES (1)"));
    }
}

const AWAY: &str = "postgres://nobody@127.0.0.1:1/nothing?connect_timeout=2";

#[test]
fn syncs_go_on_side_by_side_whatever_becomes_of_one_of_them() {
    for engine in Engine::available() {
        let (a, b) = (TestDb::new(engine), TestDb::new(Engine::Sqlite));
        tables(&a, &["s", "t", "u"]);
        // Two of them between the same two databases.
        let all = folder(&[("a", a.url()), ("b", b.url()), ("c", AWAY)], &[("s", "c"), ("t", "b"), ("u", "b")]);
        let mut watch = Watch::start(all.path());
        for table in ["t", "u"] {
            watch.brings(&b, table, 1);
        }
        for id in 2..5 {
            for table in ["t", "u"] {
                a.execute(&format!("INSERT INTO {table} VALUES ({id})"));
                watch.brings(&b, table, id);
            }
        }
        watch.until("what it says of the one that is away", |watch| watch.said().contains("sync of_s: "));
        #[cfg(unix)]
        assert_eq!(watch.interrupt(), Some(0), "{engine:?}");
    }
}

#[test]
fn a_second_process_on_the_same_sync_is_refused() {
    for engine in Engine::available() {
        let (a, b) = (TestDb::new(engine), TestDb::new(Engine::Sqlite));
        tables(&a, &["t"]);
        let all = folder(&[("a", a.url()), ("b", b.url())], &[("t", "b")]);
        let mut watch = Watch::start(all.path());
        watch.brings(&b, "t", 1);
        for args in [&["sync", "--watch"][..], &["sync"]] {
            let second = rowferry_in(all.path(), args);
            assert_eq!(second.code, 1, "{engine:?}: {second:?}");
            assert!(second.stderr.contains("another rowferry is bringing"), "{engine:?}: {second:?}");
        }
        a.execute("INSERT INTO t VALUES (2)");
        watch.brings(&b, "t", 2);
    }
}

#[test]
fn a_lost_connection_is_made_again() {
    for engine in Engine::available() {
        let ended = match engine {
            Engine::Sqlite => continue,
            Engine::Postgres => {
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() \
                 AND pid <> pg_backend_pid()"
            }
            Engine::Mariadb | Engine::Mysql => {
                "SELECT CONCAT('KILL ', id) FROM information_schema.processlist WHERE db = DATABASE() \
                 AND id <> CONNECTION_ID()"
            }
        };
        let (a, b) = (TestDb::new(engine), TestDb::new(Engine::Sqlite));
        tables(&a, &["t"]);
        let all = folder(&[("a", a.url()), ("b", b.url())], &[("t", "b")]);
        let mut watch = Watch::start(all.path());
        watch.brings(&b, "t", 1);
        for row in a.query(ended) {
            if let Some(kill) = row[0].as_ref().filter(|text| text.starts_with("KILL")) {
                // It may have gone by itself.
                let _ = a.attempt(kill);
            }
        }
        a.execute("INSERT INTO t VALUES (2)");
        watch.brings(&b, "t", 2);
        watch.until("what it says of it", |watch| watch.said().contains("trying again"));
    }
}

#[cfg(unix)]
#[test]
fn a_file_that_was_replaced_is_not_written_to_any_more() {
    let (a, b) = (TestDb::new(Engine::Sqlite), tempfile::tempdir().expect("a folder"));
    tables(&a, &["t"]);
    let (file, aside) = (b.path().join("b.db"), b.path().join("aside.db"));
    let all = folder(&[("a", a.url()), ("b", &format!("sqlite:{}", file.display()))], &[("t", "b")]);
    let rows = |path: &Path| {
        let db = rusqlite::Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).ok();
        let count = |db: rusqlite::Connection| db.query_row("SELECT count(*) FROM t", [], |r| r.get::<_, i64>(0)).ok();
        db.and_then(count).unwrap_or(0)
    };
    let mut watch = Watch::start(all.path());
    watch.until("a row", |_| rows(&file) == 1);
    a.execute("INSERT INTO t VALUES (2)");
    watch.until("another", |_| rows(&file) == 2);
    a.execute("INSERT INTO t VALUES (3)");
    watch.until("a third", |_| rows(&file) == 3);
    // A copy that is put in place of it, as whoever restores a backup does.
    std::fs::copy(&file, &aside).expect("copied");
    std::fs::rename(&aside, &file).expect("renamed");
    watch.until("what it says of it", |watch| watch.said().contains("trying again"));
    a.execute("INSERT INTO t VALUES (4)");
    watch.until("the next row", |_| rows(&file) == 4);
}
