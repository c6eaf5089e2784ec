//! The process dies, a connection is lost, two run at once: the same command ends equal, nothing stays behind.

use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rowferry::engine::{OpenOptions, open};
use rowferry::runtime::Failpoint;

use crate::support::{Cut, Engine, Relay, TestDb, assert_equal, long, program, rowferry};

/// Parents and children with a key, an index, a unique column and a foreign key.
fn family(rows: u32) -> TestDb {
    let db = TestDb::new(Engine::Sqlite);
    db.execute(&format!(
        "CREATE TABLE parent (id INTEGER PRIMARY KEY, code VARCHAR(20) NOT NULL UNIQUE);
         CREATE TABLE child (id INTEGER PRIMARY KEY, parent INTEGER NOT NULL REFERENCES parent (id), note VARCHAR(60));
         CREATE INDEX child_note ON child (note);
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
         INSERT INTO parent SELECT i, 'code ' || i FROM n;
         INSERT INTO child SELECT id, ({rows} + 1) - id, 'note ' || (id % 97) FROM parent;"
    ));
    db
}

/// Runs a copy that dies at the failpoint, then the same one again.
fn dies_and_ends_equal(point: Failpoint, engine: Engine) {
    let (source, target) = (family(300), TestDb::new(engine));
    let merges = matches!(point, Failpoint::MergeWritten | Failpoint::MergeCommitted);
    if merges {
        assert_eq!(rowferry(&["copy", source.url(), target.url()]).code, 0);
        source.execute("UPDATE child SET note = 'new' WHERE id % 3 = 0; DELETE FROM child WHERE id % 10 = 1");
    }
    let args = ["copy", source.url(), target.url(), "--mode", if merges { "mirror" } else { "full" }];
    let folder = tempfile::tempdir().expect("a folder");
    let died = program(folder.path(), &args).env("ROWFERRY_FAILPOINT", point.name()).output().expect("the program");
    assert_eq!(died.status.code(), None, "{} is never reached on {engine:?}: {died:?}", point.name());
    let again = rowferry(&args);
    assert_eq!(again.code, 0, "after {} on {engine:?}: {again:?}", point.name());
    assert_equal(&source, &target);
    assert_eq!(target.traces(), Vec::<String>::new(), "after {} on {engine:?}", point.name());
    assert_eq!(indexes(&target), indexes(&whole(&source, engine)), "after {} on {engine:?}", point.name());
}

fn whole(source: &TestDb, engine: Engine) -> TestDb {
    let target = TestDb::new(engine);
    assert_eq!(rowferry(&["copy", source.url(), target.url()]).code, 0);
    target
}

/// Both ends were written since they last met; the sync dies where it first reaches the
/// failpoint, the next where it reaches it again, and so on until one does not die.
fn dies_in_a_sync(point: Failpoint, engine: Engine) {
    let (source, target) = (family(40), TestDb::new(engine));
    let folder = tempfile::tempdir().expect("a folder");
    let config = format!(
        "node: test\ndatabases:\n  a: {{ url: \"{}\" }}\n  b: {{ url: \"{}\" }}\nsyncs:\n  \
         both: {{ source: a, target: b, direction: bidirectional, tables: [parent, child] }}\n",
        source.url(),
        target.url()
    );
    std::fs::write(folder.path().join("rowferry.yaml"), config).expect("written");
    assert_eq!(program(folder.path(), &["sync"]).output().expect("the program").status.code(), Some(0));
    source.execute("UPDATE child SET note = 'a' WHERE id < 20; DELETE FROM child WHERE id = 40");
    target.execute("UPDATE child SET note = 'b' WHERE id > 15 AND id < 30");
    target.execute("INSERT INTO parent VALUES (41, 'forty-one')");
    target.execute("INSERT INTO child VALUES (41, 41, 'new')");
    let mut died = 0;
    loop {
        // One later each time: what dies before a commit would else never get past the first.
        let name = format!("{}:{}", point.name(), died + 1);
        let run = program(folder.path(), &["sync"]).env("ROWFERRY_FAILPOINT", &name).output().expect("the program");
        match run.status.code() {
            None => died += 1,
            Some(0) => break,
            code => panic!("{name} on {engine:?}: {code:?} {run:?}"),
        }
        assert!(died < 50, "{name} on {engine:?}: it never comes to an end");
    }
    assert!(died > 0, "{} is never reached on {engine:?}", point.name());
    assert_equal(&source, &target);
    assert_eq!(source.value("SELECT count(*) FROM child WHERE note = 'b'"), "14", "the later writes win");
    assert_eq!(source.value("SELECT count(*) FROM child"), "40");
}

/// Keys, indexes and foreign keys, by name.
fn indexes(db: &TestDb) -> Vec<Vec<Option<String>>> {
    db.query(match db.engine() {
        Engine::Sqlite => "SELECT type, tbl_name, name, sql FROM sqlite_master ORDER BY 1, 2, 3",
        Engine::Postgres => {
            "SELECT 'c', conrelid::regclass::text, conname::text, pg_get_constraintdef(oid) FROM pg_constraint \
             WHERE connamespace = 'public'::regnamespace \
             UNION ALL SELECT 'i', tablename::text, indexname::text, indexdef FROM pg_indexes WHERE schemaname = 'public' \
             ORDER BY 1, 2, 3"
        }
        Engine::Mariadb | Engine::Mysql => {
            "SELECT 'i', table_name, index_name, CONCAT(non_unique, column_name, seq_in_index) \
             FROM information_schema.statistics WHERE table_schema = DATABASE() \
             UNION ALL SELECT 'f', table_name, constraint_name, delete_rule \
             FROM information_schema.referential_constraints WHERE constraint_schema = DATABASE() ORDER BY 1, 2, 3, 4"
        }
    })
}

#[test]
fn dies_before_and_after_each_lasting_effect() {
    for (nth, engine) in Engine::available().into_iter().enumerate() {
        // In an ordinary run every second one, and the others at the next engine.
        let points = Failpoint::ALL.iter().enumerate().filter(|(at, _)| long() || (at + nth) % 2 == 0);
        for (_, &point) in points {
            match point {
                // SQLite's foreign keys are part of its tables.
                Failpoint::ForeignKeyAdded if engine == Engine::Sqlite => {}
                Failpoint::FoldWritten
                | Failpoint::FoldCommitted
                | Failpoint::ChangesWritten
                | Failpoint::ChangesCommitted => dies_in_a_sync(point, engine),
                _ => dies_and_ends_equal(point, engine),
            }
        }
    }
}

/// Ends the server's sessions of rowferry in this database that do something just now.
fn end_sessions(target: &TestDb) -> bool {
    if target.engine() == Engine::Postgres {
        let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                   WHERE datname = current_database() AND application_name = 'rowferry' AND query LIKE 'COPY%'";
        return target.value(sql) != "0";
    }
    let busy = target.query(
        "SELECT id FROM information_schema.processlist WHERE db = DATABASE() \
         AND (info LIKE 'LOAD DATA%' OR info LIKE 'INSERT INTO%') AND info NOT LIKE '%_rowferry_copy%'",
    );
    for id in busy.iter().flatten().flatten() {
        // It may have ended by itself.
        let _ = target.attempt(&format!("KILL {id}"));
    }
    !busy.is_empty()
}

/// Runs a copy and ends what it does at the server; whether it met that at all: a session may be done by then.
fn ended_and_made_again(source: &TestDb, engine: Engine) -> bool {
    let target = TestDb::new(engine);
    let folder = tempfile::tempdir().expect("a folder");
    let mut child = program(folder.path(), &["copy", source.url(), target.url()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program");
    let deadline = Instant::now() + Duration::from_mins(1);
    while !end_sessions(&target) {
        assert_eq!(child.try_wait().expect("a state"), None, "it ended before it was caught at {engine:?}");
        assert!(Instant::now() < deadline, "it never wrote to {engine:?}");
    }
    let output = child.wait_with_output().expect("an end");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{engine:?}: {said}");
    assert_equal(source, &target);
    assert_eq!(target.traces(), Vec::<String>::new());
    said.contains("trying again in")
}

#[test]
fn a_lost_connection_is_made_again() {
    let source = family(150_000);
    for engine in Engine::available().into_iter().filter(|engine| *engine != Engine::Sqlite) {
        assert!((0..5).any(|_| ended_and_made_again(&source, engine)), "{engine:?}: it never noticed");
    }
}

/// A copy whose connection is cut; what it said.
fn cut_copy(engine: Engine, at_target: bool, cut: Option<Cut>) -> (Relay, String) {
    let lite = family(60);
    let served = TestDb::new(engine);
    if !at_target {
        assert_eq!(rowferry(&["copy", lite.url(), served.url()]).code, 0);
    }
    let relay = Relay::new(engine, served.url(), cut);
    let new = TestDb::new(Engine::Sqlite);
    let (from, to) = if at_target { (lite.url(), relay.url()) } else { (relay.url(), new.url()) };
    let run = rowferry(&["copy", from, to]);
    // What a command meets when it first connects is told at once.
    if run.code == 3 && relay.hit() == Some(0) {
        assert_eq!(rowferry(&["copy", from, to]).code, 0, "{engine:?} {cut:?}");
    } else {
        assert_eq!(run.code, 0, "{engine:?} {cut:?} at connection {:?}: {run:?}", relay.hit());
    }
    let (source, target) = if at_target { (&lite, &served) } else { (&served, &new) };
    assert_equal(source, target);
    assert_eq!(target.traces(), Vec::<String>::new(), "{engine:?} {cut:?}");
    assert_eq!(indexes(target), indexes(&whole(source, target.engine())), "{engine:?} {cut:?}");
    (relay, run.stderr)
}

/// Over all of a copy's messages to the server, or some of them that lie evenly.
#[test]
fn a_connection_that_is_lost_at_any_message_is_made_again() {
    let shapes = Engine::available().into_iter().filter(|e| *e != Engine::Sqlite).flat_map(|e| [(e, true), (e, false)]);
    for (engine, at_target) in shapes {
        let messages = cut_copy(engine, at_target, None).0.messages();
        let step = if long() { 1 } else { messages.div_ceil(4) };
        let moments: Vec<usize> = (1..=messages).step_by(step).collect();
        let next = AtomicUsize::new(0);
        let again = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    while let Some(&message) = moments.get(next.fetch_add(1, Ordering::Relaxed)) {
                        for (delivered, all) in [(message % 2 == 0, false), (message % 2 == 1, true)] {
                            let said = cut_copy(engine, at_target, Some(Cut { message, delivered, all })).1;
                            again.fetch_add(usize::from(said.contains("trying again in")), Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        let again = again.into_inner();
        assert!(again > moments.len() / 2, "{engine:?}: {again} of {} noticed it", 2 * moments.len());
    }
}

#[test]
fn one_writes_to_a_database_at_a_time() {
    let source = family(10);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for target in TestDb::on_all() {
        assert_eq!(rowferry(&["copy", source.url(), target.url()]).code, 0);
        source.execute("UPDATE child SET note = note || '!'");
        let held = runtime.block_on(async {
            let database = open(target.url(), &OpenOptions { create: false, ..OpenOptions::default() })
                .await
                .expect("the database");
            database.lock("tables").await.expect("a lock").expect("that nobody has")
        });
        for args in
            [&["copy", source.url(), target.url()][..], &["diff", source.url(), target.url(), "--repair", "a-to-b"]]
        {
            let output = rowferry(args);
            assert_eq!(output.code, 1, "{:?}: {output:?}", target.engine());
            assert!(output.stderr.contains("another rowferry is writing to"), "{}", output.stderr);
        }
        drop(held);
        let free = || {
            runtime.block_on(async {
                let database = open(target.url(), &OpenOptions { create: false, ..OpenOptions::default() })
                    .await
                    .expect("the database");
                database.lock("tables").await.expect("an answer").is_some()
            })
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !free() {
            assert!(Instant::now() < deadline, "a dropped lock stays held on {:?}", target.engine());
        }
        assert_eq!(rowferry(&["copy", source.url(), target.url()]).code, 0);
        assert_equal(&source, &target);
    }
}

/// Set in the processes that take turns, to the folder of the database.
const TURNS: &str = "ROWFERRY_TEST_TURNS";

/// Takes the lock of a SQLite file again and again, and sees to it that nobody else has it too.
fn take_turns(folder: &std::path::Path) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let url = format!("sqlite:{}", folder.join("db").display());
        let database = open(&url, &OpenOptions { create: true, ..OpenOptions::default() }).await.expect("it opens");
        let mut turns = 0;
        while turns < 400 {
            let Some(held) = database.lock("turns").await.expect("an answer") else { continue };
            let inside = folder.join("inside");
            std::fs::File::create_new(&inside).expect("nobody else has the lock");
            std::fs::remove_file(&inside).expect("it is there");
            drop(held);
            turns += 1;
        }
    });
}

#[test]
fn a_lock_file_goes_with_its_lock_and_two_never_have_one_lock() {
    if let Some(folder) = std::env::var_os(TURNS) {
        return take_turns(std::path::Path::new(&folder));
    }
    let (folder, temporary) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    std::fs::File::create(folder.path().join("db")).expect("an empty database");
    let name = "crash::a_lock_file_goes_with_its_lock_and_two_never_have_one_lock";
    let racers: Vec<std::process::Child> = (0..3)
        .map(|_| {
            std::process::Command::new(std::env::current_exe().expect("this program"))
                .args([name, "--exact"])
                .env(TURNS, folder.path())
                .env("TMPDIR", temporary.path())
                .stdout(Stdio::null())
                .spawn()
                .expect("it starts")
        })
        .collect();
    for mut racer in racers {
        assert!(racer.wait().expect("an end").success(), "each has all its turns, alone");
    }
    let left: Vec<_> = std::fs::read_dir(temporary.path()).expect("a folder").collect();
    assert!(left.is_empty(), "{left:?}");
    // One of a process that died is in nobody's way, and goes too.
    let source = family(3);
    let target = TestDb::new(Engine::Sqlite);
    let args = ["copy", source.url(), target.url()];
    let run = |failpoint: Option<&str>| {
        let mut command = program(folder.path(), &args);
        command.env("TMPDIR", temporary.path());
        if let Some(point) = failpoint {
            command.env("ROWFERRY_FAILPOINT", point);
        }
        command.output().expect("the program").status.code()
    };
    assert_eq!(run(Some("load-written")), None, "it dies");
    assert!(std::fs::read_dir(temporary.path()).expect("a folder").count() > 0, "what it held stays");
    assert_eq!(run(None), Some(0));
    assert_eq!(std::fs::read_dir(temporary.path()).expect("a folder").count(), 0, "a run leaves nothing behind");
}
