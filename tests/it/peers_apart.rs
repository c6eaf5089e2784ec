//! Nodes that were apart: a bad network between three of them, a database that was put back from a backup, a laptop that
//! was made from the image of another.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::support::{Engine, Fault, Node, TestDb, Wire, assert_equal, node, rowferry_in, wait};

const KEY: &str = "canary-of-a-laptop";
const BOSS: &str = "canary-of-the-boss";
const TABLE: &str = "CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, note VARCHAR(40))";

fn office(folder: &Path, db: &TestDb) -> Node {
    if db.engine() == Engine::Sqlite {
        db.execute("PRAGMA user_version = 1");
    }
    node(
        folder,
        &format!(
            "node: office\nlisten: 127.0.0.1:0\ndatabases:\n  main: {{ url: \"{}\" }}\napi:\n  keys:\n\
             \x20   - {{ name: laptops, key: {KEY}, role: peer, tables: {{ main: [t] }} }}\n",
            db.url()
        ),
    )
}

fn laptop(folder: &Path, db: &TestDb, office: &str, every: &str) {
    let text = format!(
        "node: laptop\nlisten: 127.0.0.1:0\ndatabases:\n  app: {{ url: \"{}\" }}\npeers:\n  office: {{ url: \
         \"http://{office}\", api_key: {KEY}, timeout: 2s }}\napi: {{ keys: [{{ name: boss, key: {BOSS}, role: admin }}] }}\n\
         syncs:\n  shop: {{ source: app, target: office, direction: bidirectional, {every} tables: [t] }}\n",
        db.url()
    );
    std::fs::write(folder.join("rowferry.yaml"), text).expect("the config");
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn standing(node: &Node) -> Value {
    node.get("/api/status", BOSS).json()["syncs"][0].clone()
}

/// Numbers that come again with the same seed.
fn dice(mut seed: u64) -> impl FnMut(u64) -> u64 {
    move |below| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    }
}

/// Three engines in a star, all written while the network does what it likes; then it heals.
#[test]
fn three_nodes_end_equal_after_a_bad_network() {
    let engines = Engine::available();
    let of = |at: usize| TestDb::new(engines[at % engines.len()]);
    for seed in 1..=if crate::support::long() { 20 } else { 2_u64 } {
        let (main, laptops) = (of(1), [of(0), of(2)]);
        laptops[0].execute(&format!("{TABLE}; INSERT INTO t VALUES (1, 'one'), (2, 'two'), (3, 'three')"));
        let folders = [folder(), folder(), folder()];
        let at_office = office(folders[0].path(), &main);
        let wires = [Wire::new(&at_office.address), Wire::new(&at_office.address)];
        let mut nodes = Vec::new();
        for (at, db) in laptops.iter().enumerate() {
            laptop(folders[at + 1].path(), db, &wires[at].address, "every: live,");
            nodes.push(Node::start(folders[at + 1].path()));
            wait("in sync at first", || (standing(&nodes[at])["state"] == "in-sync").then_some(()));
        }
        for (at, wire) in wires.iter().enumerate() {
            let mut dice = dice(seed * 2 + at as u64 + 1);
            wire.plan(move |_| match dice(30) {
                0 => Some(Fault::Late(Duration::from_millis(dice(300)))),
                1 => Some(Fault::RequestCut(usize::try_from(dice(600)).unwrap_or(0))),
                2 => Some(Fault::AnswerCut(usize::try_from(dice(600)).unwrap_or(0))),
                3 => Some(Fault::Twice),
                4 => Some(Fault::Again),
                5 => Some(Fault::OldAnswer),
                6 => Some(Fault::Portal),
                _ => None,
            });
        }
        let all = [&main, &laptops[0], &laptops[1]];
        let mut dice = dice(seed + 100);
        for round in 0..40_u64 {
            let site = usize::try_from(dice(3)).unwrap_or(0);
            let own = 1000 * (site as u64 + 1) + round;
            all[site].execute(&format!("INSERT INTO t VALUES ({own}, 'round {round}')"));
            if site < 2 {
                // Rows 1 and 2 are each written at one site alone: no conflict is to be found.
                all[site].execute(&format!("UPDATE t SET note = 'round {round}' WHERE id = {}", site + 1));
            }
            std::thread::sleep(Duration::from_millis(dice(60)));
        }
        for wire in &wires {
            wire.plan(|_| None);
        }
        let said = || nodes.iter().map(|node| format!("{}\n{}\n", standing(node), node.said())).collect::<String>();
        let well = || nodes.iter().all(|node| standing(node)["state"] == "in-sync");
        let equal = || all.iter().all(|db| db.value("SELECT count(*) FROM t") == "43") && well();
        let limit = std::time::Instant::now() + Duration::from_mins(1);
        while !equal() {
            assert!(std::time::Instant::now() < limit, "seed {seed}: {}", said());
            std::thread::sleep(Duration::from_millis(100));
        }
        for db in &laptops {
            assert_equal(db, &main);
        }
        for db in all {
            assert_eq!(db.value("SELECT count(*) FROM _rowferry_conflicts"), "0", "seed {seed}");
            assert_eq!(db.value("SELECT epoch FROM _rowferry_site"), "1", "seed {seed}: {}", said());
        }
    }
}

fn file(db: &TestDb) -> PathBuf {
    db.url().trim_start_matches("sqlite:").into()
}

/// What stands in a file of SQLite, as a backup holds it.
fn copy(db: &TestDb, to: &Path) {
    db.query("PRAGMA wal_checkpoint(TRUNCATE)");
    std::fs::copy(file(db), to).expect("copied");
}

#[test]
fn an_office_that_was_put_back_from_a_backup_gets_what_the_laptop_knows() {
    put_back(["bidirectional", "bidirectional"]);
}

/// It only takes in at first, so that nobody asks it for changes; and since the backup it took in nothing by which it would
/// be told.
#[test]
fn an_office_that_was_put_back_is_noticed_where_it_only_receives() {
    put_back(["pull", "push"]);
}

/// With the directions of the sync between the backup and that, and of the first one after it.
fn put_back([between, first]: [&str; 2]) {
    let (main, db) = (TestDb::new(Engine::Sqlite), TestDb::new(Engine::Sqlite));
    let (there, here) = (folder(), folder());
    db.execute(&format!("{TABLE}; INSERT INTO t VALUES (1, 'one'), (2, 'two')"));
    let at_office = office(there.path(), &main);
    let wire = Wire::new(&at_office.address);
    laptop(here.path(), &db, &wire.address, "");
    let config = here.path().join("rowferry.yaml");
    let text = std::fs::read_to_string(&config).expect("the config");
    let sync = |direction: &str| {
        std::fs::write(&config, text.replace("bidirectional", direction)).expect("written");
        let output = rowferry_in(here.path(), &["sync"]);
        assert_eq!(output.code, 0, "{output:?}");
        output.stderr
    };
    sync("bidirectional");
    sync("bidirectional");
    let backup = there.path().join("backup.db");
    copy(&main, &backup);
    db.execute("INSERT INTO t VALUES (3, 'sent after the backup')");
    main.execute("UPDATE t SET note = 'fetched after the backup' WHERE id = 2");
    sync(between);
    drop(at_office);
    for ending in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{ending}", file(&main).display()));
    }
    std::fs::copy(&backup, file(&main)).expect("restored");
    main.execute("INSERT INTO t VALUES (4, 'written after the restore')");
    let at_office = Node::start(there.path());
    wire.leads_to(&at_office.address);
    let said = sync(first);
    assert!(said.contains("restored"), "not noticed: {said}");
    sync("bidirectional");
    assert_equal(&main, &db);
    let notes = main.query("SELECT note FROM t ORDER BY id").into_iter().flatten().flatten().collect::<Vec<_>>();
    let expected = ["one", "fetched after the backup", "sent after the backup", "written after the restore"];
    let bare: Vec<&str> = notes.iter().map(|note| note.trim_matches('\'')).collect();
    assert_eq!(bare, expected);
    assert_eq!(sync("bidirectional"), "", "it comes to rest");
}

#[test]
fn a_laptop_made_from_the_image_of_another_is_told_apart() {
    let main = TestDb::new(Engine::Sqlite);
    let laptops = [TestDb::new(Engine::Sqlite), TestDb::new(Engine::Sqlite)];
    let (there, folders) = (folder(), [folder(), folder()]);
    laptops[0].execute(&format!("{TABLE}; INSERT INTO t VALUES (1, 'one'), (2, 'two')"));
    let at_office = office(there.path(), &main);
    for (folder, db) in folders.iter().zip(&laptops) {
        laptop(folder.path(), db, &at_office.address, "");
    }
    let sync = |at: usize| {
        let output = rowferry_in(folders[at].path(), &["sync"]);
        assert_eq!(output.code, 0, "{at}: {output:?}");
        output.stderr
    };
    sync(0);
    copy(&laptops[0], &file(&laptops[1]));
    laptops[0].execute("INSERT INTO t VALUES (3, 'first'); UPDATE t SET note = 'first' WHERE id = 1");
    laptops[1].execute("INSERT INTO t VALUES (4, 'second'); UPDATE t SET note = 'second' WHERE id = 2");
    let mut said = String::new();
    for _ in 0..4 {
        said += &sync(0);
        said += &sync(1);
    }
    assert!(said.contains("is a copy"), "not noticed: {said}");
    for db in &laptops {
        assert_equal(db, &main);
    }
    assert_eq!(main.value("SELECT count(*) FROM t WHERE note IN ('first', 'second')"), "4");
    let id = |db: &TestDb| db.value("SELECT id FROM _rowferry_site");
    assert_ne!(id(&laptops[0]), id(&laptops[1]), "two databases under one name");
}

/// A copy cannot be synced with what it is a copy of: nobody could say whose a write was.
#[test]
fn a_site_and_its_copy_are_not_brought_in_step() {
    let (main, db) = (TestDb::new(Engine::Sqlite), TestDb::new(Engine::Sqlite));
    let (there, here) = (folder(), folder());
    main.execute(&format!("{TABLE}; INSERT INTO t VALUES (1, 'one')"));
    let at_office = office(there.path(), &main);
    let other = TestDb::new(Engine::Sqlite);
    other.execute(TABLE);
    laptop(here.path(), &other, &at_office.address, "");
    assert_eq!(rowferry_in(here.path(), &["sync"]).code, 0);
    copy(&main, &file(&db));
    laptop(here.path(), &db, &at_office.address, "");
    let refused = rowferry_in(here.path(), &["sync"]);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.stderr.contains("are one site"), "{refused:?}");
}
