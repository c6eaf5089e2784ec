//! A sync is killed at random moments while applications write at both ends, and started again: both end equal, and
//! each write that an application was told of is there, was overwritten by one that had seen it, or stands in the
//! record of a conflict.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::random::Random;
use crate::support::{Engine, TestDb, assert_equal, long, program, rowferry_in};

/// What an application wrote and was told of.
#[derive(Debug)]
struct Write {
    key: String,
    /// What it wrote, like no other write; `None`: it deleted the row.
    value: Option<String>,
    /// What stood there.
    upon: Option<String>,
}

/// Rows that both applications write.
const SHARED: u64 = 12;

/// Writes until it is told to stop; all that was committed.
fn application(db: &TestDb, side: &str, seed: u64, stop: &AtomicBool) -> Vec<Write> {
    let (session, mut dice, mut done) = (db.session(), Random(seed), Vec::new());
    let begin = if db.engine() == Engine::Sqlite { "BEGIN IMMEDIATE" } else { "BEGIN" };
    let lock = if db.engine() == Engine::Sqlite { "" } else { " FOR UPDATE" };
    while !stop.load(Ordering::Relaxed) {
        let n = done.len();
        let value = format!("{side}{n}");
        let mut writes = Vec::new();
        session.query(begin);
        for _ in 0..=dice.below(2) {
            let what = dice.below(10);
            let key = if what < 4 { format!("{side}-{n}") } else { format!("both-{}", dice.below(SHARED)) };
            if writes.iter().any(|w: &Write| w.key == key) {
                continue;
            }
            let stands = session.query(&format!("SELECT val FROM t WHERE id = '{key}'{lock}"));
            let upon = stands.first().map(|row| row[0].clone().expect("a value"));
            let (sql, value) = match (&upon, what) {
                (None, _) if what >= 4 => continue,
                (None, _) => (format!("INSERT INTO t (id, val) VALUES ('{key}', '{value}')"), Some(value.clone())),
                (Some(_), 9) if side == "a" => (format!("DELETE FROM t WHERE id = '{key}'"), None),
                (Some(_), _) => (format!("UPDATE t SET val = '{value}' WHERE id = '{key}'"), Some(value.clone())),
            };
            session.query(&sql);
            writes.push(Write { key, value, upon });
        }
        session.query("COMMIT");
        done.extend(writes);
        std::thread::sleep(Duration::from_millis(2 + dice.below(12)));
    }
    done
}

/// Starts the sync again and again and kills it within `longest` of its start, so many times.
fn kill(folder: &std::path::Path, times: u32, dice: &mut Random, longest: Duration) {
    let mut killed = 0;
    let until = Instant::now() + Duration::from_mins(10);
    while killed < times {
        assert!(Instant::now() < until, "killed only {killed} times");
        let mut child = program(folder, &["-q", "sync"]).spawn().expect("the program");
        let micros = u64::try_from(longest.as_micros()).expect("a short time").max(1);
        std::thread::sleep(Duration::from_micros(dice.below(micros)));
        if child.try_wait().expect("its state").is_none() {
            child.kill().expect("killed");
            killed += 1;
        }
        child.wait().expect("it ended");
    }
}

/// Syncs until nothing moves any more.
fn come_to_rest(folder: &std::path::Path) {
    for _ in 0..20 {
        let output = rowferry_in(folder, &["sync", "--format", "json"]);
        let report = output.json();
        let t = &report[0]["tables"][0];
        let moved: u64 = ["inserted", "updated", "deleted"].iter().map(|w| t[w].as_u64().expect("a count")).sum();
        if output.code == 0 && moved == 0 {
            return;
        }
    }
    panic!("it never comes to rest: {:?}", rowferry_in(folder, &["sync"]));
}

/// Each write is there, was seen by a later one, or is in the record of a conflict.
fn assert_accounted(db: &[&TestDb; 2], writes: &[Write], seed: u64) {
    let rows: BTreeMap<String, String> = db[0]
        .query("SELECT id, val FROM t")
        .into_iter()
        .map(|row| (row[0].clone().expect("a key"), row[1].clone().expect("a value")))
        .collect();
    let seen: BTreeSet<&str> = writes.iter().filter_map(|w| w.upon.as_deref()).collect();
    let mut images = BTreeSet::new();
    for db in db {
        for row in
            db.query("SELECT row_key, coalesce(source, 'null'), coalesce(target, 'null') FROM _rowferry_conflicts")
        {
            let json = |at: usize| -> serde_json::Value {
                serde_json::from_str(row[at].as_deref().expect("text")).expect("JSON")
            };
            let key = json(0)["id"].as_str().expect("a key").to_owned();
            for image in [json(1), json(2)] {
                images.insert((key.clone(), image["val"].as_str().map(str::to_owned)));
            }
        }
    }
    for write in writes {
        let stands = rows.get(&write.key) == write.value.as_ref();
        let overwritten = write.value.as_deref().is_some_and(|value| seen.contains(value));
        let recorded = images.contains(&(write.key.clone(), write.value.clone()));
        assert!(stands || overwritten || recorded, "seed {seed}: lost without a trace: {write:?}");
    }
}

fn survives(engine: Engine, kills: u32, seed: u64) {
    let (a, b) = (TestDb::new(Engine::Sqlite), TestDb::new(engine));
    a.execute(
        "PRAGMA journal_mode = WAL; CREATE TABLE t (id VARCHAR(40) NOT NULL PRIMARY KEY, val VARCHAR(40) NOT NULL)",
    );
    for n in 0..SHARED {
        a.execute(&format!("INSERT INTO t VALUES ('both-{n}', 'first-{n}')"));
    }
    let folder = tempfile::tempdir().expect("a folder");
    let config = format!(
        "node: test\ndatabases:\n  a: {{ url: \"{}\" }}\n  b: {{ url: \"{}\" }}\nsyncs:\n  \
         t: {{ source: a, target: b, direction: bidirectional, batch_size: 7, tables: [t] }}\n",
        a.url(),
        b.url()
    );
    std::fs::write(folder.path().join("rowferry.yaml"), config).expect("written");
    assert_eq!(rowferry_in(folder.path(), &["sync"]).code, 0);
    let started = Instant::now();
    rowferry_in(folder.path(), &["sync"]);
    let longest = started.elapsed() * 2;
    let (stop, a, b) = (Arc::new(AtomicBool::new(false)), Arc::new(a), Arc::new(b));
    let writers = [("a", &a), ("b", &b)].map(|(side, db)| {
        let (db, stop) = (db.clone(), stop.clone());
        std::thread::spawn(move || application(&db, side, seed * 2 + u64::from(side == "b"), &stop))
    });
    kill(folder.path(), kills, &mut Random(seed), longest);
    stop.store(true, Ordering::Relaxed);
    let writes: Vec<Write> =
        writers.into_iter().flat_map(|writer| writer.join().expect("no statement of the application fails")).collect();
    assert!(writes.len() > 20, "{} writes", writes.len());
    come_to_rest(folder.path());
    assert_equal(&a, &b);
    assert_accounted(&[&a, &b], &writes, seed);
}

/// Two hundred kills over all engines when the long tests are asked for, a few otherwise.
#[test]
fn a_sync_that_is_killed_at_any_moment_loses_nothing() {
    let engines = Engine::available();
    let each = if long() { 200 / u32::try_from(engines.len()).expect("few engines") + 1 } else { 4 };
    for (seed, engine) in (11..).zip(engines) {
        survives(engine, each, seed);
    }
}
