//! `sync --watch`: syncs that go on side by side, until they are stopped; and what is noticed while nothing happens.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rowferry::engine::{OpenOptions, open};
use rowferry::model::TableName;
use rowferry::pipeline::{Endpoint as _, LocalEndpoint};
use rowferry::site::{Watcher, install};
use tokio_util::sync::CancellationToken;

use crate::support::{Engine, TestDb, command, rowferry_in};

/// A watch beside the test, and what it said so far. It is killed when this goes.
struct Watch {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Watch {
    fn start(folder: &Path) -> Self {
        Self::of(folder, &[])
    }

    /// With these arguments besides.
    fn of(folder: &Path, syncs: &[&str]) -> Self {
        let mut command = command(folder);
        let mut child = command
            .args(["sync", "--watch"])
            .args(syncs)
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

/// With `--full` all rows are compared once before it goes on.
#[test]
fn all_rows_are_compared_before_a_watch_goes_on() {
    let (a, b) = (TestDb::new(Engine::Sqlite), TestDb::new(Engine::Postgres));
    a.execute("CREATE TABLE t (id INT NOT NULL PRIMARY KEY, updated_at DATETIME)");
    a.execute("INSERT INTO t VALUES (1, '2026-03-01 10:00:00'), (2, '2026-03-01 10:00:00')");
    let folder = tempfile::tempdir().expect("a folder");
    let config = format!(
        "node: test\ndatabases:\n  a: {{ url: \"{}\" }}\n  b: {{ url: \"{}\" }}\nsyncs:\n  \
         s: {{ source: a, target: b, direction: push, capture: timestamp, tables: [t] }}\n",
        a.url(),
        b.url()
    );
    std::fs::write(folder.path().join("rowferry.yaml"), config).expect("written");
    assert_eq!(rowferry_in(folder.path(), &["sync"]).code, 0);
    a.execute("DELETE FROM t WHERE id = 1");
    let mut watch = Watch::of(folder.path(), &["--full"]);
    watch.until("the deletion", |_| b.value("SELECT count(*) FROM t") == "1");
    a.execute("INSERT INTO t VALUES (3, '2026-03-01 11:00:00')");
    watch.brings(&b, "t", 3);
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

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_finds_what_was_committed_and_nothing_else() {
    for engine in Engine::available() {
        let a = TestDb::new(engine);
        tables(&a, &["t", "u", "elsewhere"]);
        let database = open(a.url(), &OpenOptions::default()).await.expect("reached");
        let names = ["t", "u"].map(TableName::new);
        let site = install(&database, &names).await.expect("captured");
        let mut watcher = Watcher::open(&site, &names).await.expect("a connection");
        let mut last = watcher.last_number().await.expect("a number");
        for _ in 0..2 {
            assert!(!watcher.finds(last).await.expect("an answer"), "{engine:?}: nothing happened");
        }
        for (sql, found) in [
            ("INSERT INTO t VALUES (2)", true),
            ("UPDATE u SET id = 3", true),
            ("DELETE FROM u", true),
            ("INSERT INTO elsewhere VALUES (2)", false),
            ("CREATE TABLE another (id INT NOT NULL PRIMARY KEY)", false),
        ] {
            a.execute(sql);
            // Until someone has brought it on.
            for _ in 0..2 {
                assert_eq!(watcher.finds(last).await.expect("an answer"), found, "{engine:?}: {sql}");
            }
            let logs = site.tables.iter().map(|book| format!("DELETE FROM {}", book.log.table.name));
            a.execute(&logs.collect::<Vec<_>>().join("; "));
            assert!(!watcher.finds(last).await.expect("an answer"), "{engine:?}: {sql} was taken up");
        }
        // What is open is no news, neither when it is rolled back; when it commits, it is.
        let writer = a.session();
        for (end, found) in [("ROLLBACK", false), ("COMMIT", true)] {
            writer.query("BEGIN");
            writer.query("INSERT INTO t VALUES (9)");
            if engine != Engine::Sqlite {
                assert!(!watcher.finds(last).await.expect("an answer"), "{engine:?}: it is not there yet");
            }
            writer.query(end);
            assert_eq!(watcher.finds(last).await.expect("an answer"), found, "{engine:?}: {end}");
        }
        // Numbers that another process has given out.
        a.execute("DELETE FROM _rowferry_log_1; UPDATE _rowferry_site SET seq = seq + 1");
        assert!(watcher.finds(last).await.expect("an answer"), "{engine:?}: a number");
        last += 1;
        assert!(!watcher.finds(last).await.expect("an answer"), "{engine:?}: it is known");
        // Where nothing comes, the wait is over when it has lasted.
        let end = LocalEndpoint::new(&database, &CancellationToken::new());
        end.captured().await.expect("captured");
        assert_eq!(end.news(&names, last, Duration::from_millis(50)).await.expect("an answer"), last);
    }
}

/// A whole round at the latest comes after so long; what is noticed by a look comes much sooner.
const ROUND: Duration = Duration::from_secs(10);

#[test]
fn what_happens_while_nothing_happens_is_noticed() {
    for engine in Engine::available() {
        let [a, b, c] = [0; 3].map(|_| TestDb::new(engine));
        for db in [&a, &b, &c] {
            db.execute("CREATE TABLE t (id INT NOT NULL PRIMARY KEY, note VARCHAR(20))");
        }
        for db in [&a, &b] {
            db.execute("CREATE TABLE u (id INT NOT NULL PRIMARY KEY, note VARCHAR(20) UNIQUE)");
            db.execute("CREATE TABLE orders (id INT NOT NULL PRIMARY KEY)");
            db.execute(
                "CREATE TABLE items (id INT NOT NULL PRIMARY KEY, orders_id INT, \
                 FOREIGN KEY (orders_id) REFERENCES orders (id))",
            );
        }
        let all = tempfile::tempdir().expect("a folder");
        let (urls, push) = ([a.url(), b.url(), c.url()], "direction: push");
        let config = format!(
            "node: test\ndatabases:\n  a: {{ url: \"{}\" }}\n  b: {{ url: \"{}\" }}\n  c: {{ url: \"{}\" }}\nsyncs:\n  \
             ab: {{ source: a, target: b, direction: bidirectional, conflict: manual, tables: [t] }}\n  \
             bc: {{ source: b, target: c, {push}, tables: [t] }}\n  us: {{ source: a, target: b, {push}, tables: [u] }}\n  \
             items: {{ source: a, target: b, {push}, tables: [items] }}\n",
            urls[0], urls[1], urls[2]
        );
        std::fs::write(all.path().join("rowferry.yaml"), config).expect("written");
        let run = |args: &[&str]| rowferry_in(all.path(), args);
        let sides = || [&a, &b, &c].map(|db| db.value("SELECT max(note) FROM t WHERE id = 1"));

        a.execute("INSERT INTO t VALUES (1, 'first')");
        assert_eq!(run(&["sync"]).code, 0, "{engine:?}");
        a.execute("UPDATE t SET note = 'at A'");
        b.execute("UPDATE t SET note = 'at B'");
        assert_eq!(run(&["sync", "ab"]).code, 1, "{engine:?}: a conflict");

        let mut watch = Watch::start(all.path());
        watch.until("what stands at B", |_| c.value("SELECT max(note) FROM t WHERE id = 1") == "at B");
        let began = Instant::now();
        // Long enough that it only looks.
        let rest = || std::thread::sleep(Duration::from_millis(300));

        rest();
        a.execute("INSERT INTO t VALUES (2, 'A')");
        watch.brings(&b, "t", 2);
        watch.brings(&c, "t", 2);
        rest();
        b.execute("INSERT INTO t VALUES (3, 'B')");
        watch.brings(&a, "t", 3);
        watch.brings(&c, "t", 3);

        // A person settles a conflict, in a process of its own.
        rest();
        let list = run(&["conflicts", "list", "--format", "json"]).json();
        let resolved = run(&["conflicts", "resolve", list[0]["id"].as_str().expect("an id"), "--keep", "source"]);
        assert_eq!(resolved.code, 0, "{engine:?}: {resolved:?} {:?}", run(&["quarantine", "list", "--format", "json"]));
        watch.until("what was settled", |_| sides() == ["at A"; 3]);

        // What is in the way of a row goes, and nobody tells of it.
        b.execute("INSERT INTO u VALUES (100, 'taken')");
        a.execute("INSERT INTO u VALUES (1, 'taken')");
        watch.until("its refusal", |_| b.value("SELECT count(*) FROM _rowferry_quarantine") == "1");
        rest();
        b.execute("DELETE FROM u WHERE id = 100");
        watch.brings(&b, "u", 1);
        a.execute("INSERT INTO orders VALUES (7); INSERT INTO items VALUES (1, 7)");
        watch.until("the child that waits", |_| b.value("SELECT count(*) FROM _rowferry_waiting") == "1");
        rest();
        b.execute("INSERT INTO orders VALUES (7)");
        watch.brings(&b, "items", 1);

        // Of each of these five nobody would know before the next whole round.
        let took = began.elapsed();
        assert!(took < ROUND * 5 / 2, "{engine:?}: changes were only noticed by whole rounds: {took:?}");
    }
}
