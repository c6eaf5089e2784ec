//! What loses data elsewhere, through the whole program between real databases: each engine beside a SQLite file, and
//! beside a second database of its own.

use crate::support::{Engine, Output, TestDb, assert_equal, rowferry_in, rows, some};

/// Databases that a config brings in step two by two, all tables both ways.
struct Sites {
    dbs: Vec<TestDb>,
    folder: tempfile::TempDir,
    /// Whether the databases' own triggers are accepted where they cannot be silenced.
    forced: bool,
}

impl Sites {
    fn new(engines: &[Engine], edges: &[(usize, usize)], tables: &str) -> Self {
        let sites = Self {
            dbs: engines.iter().map(|&engine| TestDb::new(engine)).collect(),
            folder: tempfile::tempdir().expect("a folder"),
            forced: false,
        };
        let databases: String =
            sites.dbs.iter().enumerate().map(|(at, db)| format!("  d{at}: {{ url: \"{}\" }}\n", db.url())).collect();
        let sync = |(a, b): &(usize, usize)| {
            format!("  s{a}{b}: {{ source: d{a}, target: d{b}, direction: bidirectional, tables: [{tables}] }}\n")
        };
        let syncs: String = edges.iter().map(sync).collect();
        let text = format!("node: test\ndatabases:\n{databases}syncs:\n{syncs}");
        std::fs::write(sites.folder.path().join("rowferry.yaml"), text).expect("the config");
        sites
    }

    fn run(&self) -> Output {
        let force: &[&str] = if self.forced { &["--force"] } else { &[] };
        rowferry_in(self.folder.path(), &[&["sync", "--format", "json"], force].concat())
    }

    /// What one round of all syncs wrote.
    #[track_caller]
    fn sync(&self) -> u64 {
        let output = self.run();
        assert_eq!(output.code, 0, "{:?}: {}{}", self.engines(), output.stderr, output.stdout);
        let reports = output.json();
        let tables = reports.as_array().expect("a list").iter().flat_map(|r| r["tables"].as_array().expect("tables"));
        let written = |t: &serde_json::Value| {
            ["inserted", "updated", "deleted"].iter().map(|what| t[what].as_u64().expect("a count")).sum::<u64>()
        };
        tables.map(written).sum()
    }

    /// Rounds until nothing is written any more, at most as many as there are sites; then all hold the same.
    #[track_caller]
    fn come_to_rest(&self) {
        for _ in 0..=self.dbs.len() {
            if self.sync() == 0 {
                for other in &self.dbs[1..] {
                    assert_equal(&self.dbs[0], other);
                }
                return;
            }
        }
        panic!("{:?} never come to rest", self.engines());
    }

    fn engines(&self) -> Vec<Engine> {
        self.dbs.iter().map(TestDb::engine).collect()
    }

    fn conflicts(&self) -> Vec<String> {
        self.dbs.iter().map(|db| db.value("SELECT count(*) FROM _rowferry_conflicts")).collect()
    }
}

/// Each engine in front of a file, and in front of another database of its own; in an ordinary run half of these.
#[track_caller]
fn pairs(tables: &str) -> Vec<Sites> {
    let engines = Engine::available();
    let alike = engines.iter().filter(|engine| **engine != Engine::Sqlite).map(|&engine| [engine, engine]);
    let files = engines.iter().map(|&engine| [engine, Engine::Sqlite]);
    let chosen = some(engines.len(), files.chain(alike));
    chosen.into_iter().map(|two| Sites::new(&two, &[(0, 1)], tables)).collect()
}

const NOTES: &str = "CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, note VARCHAR(40))";

#[test]
fn what_commits_late_arrives_late_and_nothing_waits_for_it() {
    for sites in pairs("t").into_iter().filter(|sites| sites.dbs[0].engine() != Engine::Sqlite) {
        let [from, to] = &sites.dbs[..] else { unreachable!() };
        from.execute(&format!("{NOTES}; INSERT INTO t VALUES (1, 'first')"));
        sites.sync();
        let (late, sleeper, undone) = (from.session(), from.session(), from.session());
        sleeper.query("BEGIN");
        sleeper.query("SELECT count(*) FROM t");
        late.query("BEGIN");
        late.query("INSERT INTO t VALUES (100, 'written first, committed last')");
        undone.query("BEGIN");
        undone.query("INSERT INTO t VALUES (200, 'never')");
        for n in 2..6 {
            from.execute(&format!("INSERT INTO t VALUES ({n}, 'meanwhile')"));
            assert_eq!(sites.sync(), 1, "{:?}: the row that was committed, at once", sites.engines());
            assert_eq!(to.value("SELECT count(*) FROM t"), n.to_string());
        }
        undone.query("ROLLBACK");
        assert_eq!(sites.sync(), 0);
        late.query("COMMIT");
        assert_eq!(sites.sync(), 1, "{:?}: what committed late", sites.engines());
        assert_eq!(to.value("SELECT note FROM t WHERE id = 100"), "written first, committed last");
        assert_equal(from, to);
        sleeper.query("COMMIT");
    }
}

#[test]
fn keys_that_change_and_rows_that_are_made_anew_are_what_they_became() {
    for sites in pairs("t") {
        let [a, b] = &sites.dbs[..] else { unreachable!() };
        a.execute(&format!("{NOTES}; INSERT INTO t VALUES (1, 'one'), (2, 'two'), (3, 'three'), (4, 'four')"));
        sites.come_to_rest();
        // A key that changes, two that are exchanged, a row that goes and comes, one that comes and goes.
        a.execute("UPDATE t SET id = 10 WHERE id = 1");
        a.execute(
            "UPDATE t SET id = -1 WHERE id = 2; UPDATE t SET id = 2 WHERE id = 3; UPDATE t SET id = 3 WHERE id = -1",
        );
        b.execute("DELETE FROM t WHERE id = 4; INSERT INTO t VALUES (4, 'anew')");
        b.execute("INSERT INTO t VALUES (5, 'short'); DELETE FROM t WHERE id = 5");
        sites.come_to_rest();
        assert_eq!(
            rows(a, "SELECT id, note FROM t ORDER BY id"),
            "2 three, 3 two, 4 anew, 10 one",
            "{:?}",
            sites.engines()
        );
        assert_eq!(sites.conflicts(), ["0", "0"], "{:?}", sites.engines());
        // A deleted row comes back neither by itself nor with an older write of the other end's.
        a.execute("DELETE FROM t WHERE id = 10");
        sites.come_to_rest();
        sites.come_to_rest();
        assert_eq!(b.value("SELECT count(*) FROM t WHERE id = 10"), "0");
        b.execute("INSERT INTO t VALUES (10, 'meant')");
        sites.come_to_rest();
        assert_eq!(a.value("SELECT note FROM t WHERE id = 10"), "meant", "{:?}", sites.engines());
    }
}

#[test]
fn rows_that_exchange_a_unique_value_do_so_at_the_other_end() {
    for sites in pairs("t") {
        let [a, b] = &sites.dbs[..] else { unreachable!() };
        a.execute(
            "CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, code VARCHAR(10) NOT NULL, \
             CONSTRAINT one_code UNIQUE (code)); INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd')",
        );
        sites.come_to_rest();
        // Two exchange theirs; a chain moves up, and the last value goes to a new row.
        a.execute("UPDATE t SET code = 'x' WHERE id = 1; UPDATE t SET code = 'a' WHERE id = 2; UPDATE t SET code = 'b' WHERE id = 1");
        b.execute(
            "UPDATE t SET code = 'e' WHERE id = 4; UPDATE t SET code = 'd' WHERE id = 3; INSERT INTO t VALUES (5, 'c')",
        );
        sites.come_to_rest();
        assert_eq!(rows(a, "SELECT id, code FROM t ORDER BY id"), "1 b, 2 a, 3 d, 4 e, 5 c", "{:?}", sites.engines());
    }
}

#[test]
fn what_a_parent_takes_along_goes_at_the_other_end_too() {
    for sites in pairs("parent, child, grandchild, loose") {
        let [a, b] = &sites.dbs[..] else { unreachable!() };
        a.execute(
            "CREATE TABLE parent (id INTEGER NOT NULL PRIMARY KEY, note VARCHAR(10));
             CREATE TABLE child (id INTEGER NOT NULL PRIMARY KEY, parent INTEGER NOT NULL,
                 FOREIGN KEY (parent) REFERENCES parent (id) ON DELETE CASCADE ON UPDATE CASCADE);
             CREATE TABLE grandchild (id INTEGER NOT NULL PRIMARY KEY, child INTEGER NOT NULL,
                 FOREIGN KEY (child) REFERENCES child (id) ON DELETE CASCADE);
             CREATE TABLE loose (id INTEGER NOT NULL PRIMARY KEY, parent INTEGER,
                 FOREIGN KEY (parent) REFERENCES parent (id) ON DELETE SET NULL);
             INSERT INTO parent VALUES (1, 'goes'), (2, 'moves'), (3, 'stays');
             INSERT INTO child VALUES (11, 1), (12, 1), (21, 2), (31, 3);
             INSERT INTO grandchild VALUES (111, 11), (211, 21);
             INSERT INTO loose VALUES (1, 1), (3, 3)",
        );
        sites.come_to_rest();
        let keys = if a.engine() == Engine::Sqlite { "PRAGMA foreign_keys = ON; " } else { "" };
        a.execute(&format!("{keys}DELETE FROM parent WHERE id = 1; UPDATE parent SET id = 20 WHERE id = 2"));
        sites.come_to_rest();
        let engines = sites.engines();
        assert_eq!(rows(b, "SELECT id FROM parent ORDER BY id"), "3, 20", "{engines:?}");
        assert_eq!(rows(b, "SELECT id, parent FROM child ORDER BY id"), "21 20, 31 3", "{engines:?}");
        assert_eq!(rows(b, "SELECT id, child FROM grandchild ORDER BY id"), "211 21", "{engines:?}");
        assert_eq!(rows(b, "SELECT id, parent FROM loose ORDER BY id"), "1 NULL, 3 3", "{engines:?}");
        assert_eq!(sites.conflicts(), ["0", "0"], "{engines:?}");
    }
}

#[test]
fn rows_that_a_replace_removes_are_gone_everywhere() {
    for engine in Engine::available() {
        let sites = Sites::new(&[Engine::Sqlite, engine], &[(0, 1)], "t");
        let [a, b] = &sites.dbs[..] else { unreachable!() };
        a.execute(
            "CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, code VARCHAR(10), CONSTRAINT one_code UNIQUE (code));
             INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')",
        );
        sites.come_to_rest();
        a.execute("REPLACE INTO t VALUES (1, 'b'); UPDATE OR REPLACE t SET code = 'c' WHERE id = 1");
        sites.come_to_rest();
        assert_eq!(rows(b, "SELECT id, code FROM t ORDER BY id"), "1 c", "{engine:?}");
    }
}

/// A trigger that changes what is written, at one end only: what it makes of a row is that end's own change, and both
/// ends hold it in the end. One that writes elsewhere does so once.
#[test]
fn what_the_applications_own_triggers_write_is_written_once() {
    for mut sites in pairs("t, audit") {
        let silent = |engine: &Engine| !matches!(engine, Engine::Mariadb | Engine::Mysql);
        sites.forced = !sites.engines().iter().all(silent);
        let [a, b] = &sites.dbs[..] else { unreachable!() };
        a.execute(&format!("{NOTES}; CREATE TABLE audit (id VARCHAR(60) NOT NULL PRIMARY KEY, what VARCHAR(40))"));
        sites.come_to_rest();
        for db in [a, b] {
            let id = match db.engine() {
                Engine::Sqlite => "lower(hex(randomblob(8)))",
                Engine::Postgres => "md5(random()::text || clock_timestamp()::text)",
                Engine::Mariadb | Engine::Mysql => "uuid()",
            };
            let body = format!("INSERT INTO audit VALUES ({id}, NEW.note)");
            db.execute(&match db.engine() {
                Engine::Sqlite => format!("CREATE TRIGGER audits AFTER INSERT ON t BEGIN {body}; END"),
                Engine::Postgres => format!(
                    "CREATE FUNCTION audits() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NULL; END $$; \
                     CREATE TRIGGER audits AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION audits()"
                ),
                Engine::Mariadb | Engine::Mysql => {
                    format!("CREATE TRIGGER audits AFTER INSERT ON t FOR EACH ROW {body}")
                }
            });
        }
        a.execute("INSERT INTO t VALUES (1, 'from a')");
        b.execute("INSERT INTO t VALUES (2, 'from b')");
        sites.come_to_rest();
        // Where triggers cannot be silenced, a row that arrives is audited there as well.
        let audited = a.value("SELECT count(*) FROM audit");
        let expected = 2 + sites.engines().iter().filter(|engine| !silent(engine)).count();
        assert_eq!(audited, expected.to_string(), "{:?}", sites.engines());
    }
}

#[test]
fn a_clock_that_is_years_ahead_does_not_win_for_years() {
    let engines = Engine::available();
    for engine in engines.into_iter().filter(|engine| matches!(engine, Engine::Mariadb | Engine::Mysql)) {
        let sites = Sites::new(&[engine, Engine::Sqlite], &[(0, 1)], "t");
        let [ahead, right] = &sites.dbs[..] else { unreachable!() };
        ahead.execute(&format!("{NOTES}; INSERT INTO t VALUES (1, 'one'), (2, 'two')"));
        sites.come_to_rest();
        // Three years.
        ahead.execute("SET timestamp = UNIX_TIMESTAMP() + 94608000; UPDATE t SET note = 'ahead' WHERE id = 1");
        sites.come_to_rest();
        right.execute("UPDATE t SET note = 'later' WHERE id = 1");
        sites.come_to_rest();
        assert_eq!(ahead.value("SELECT note FROM t WHERE id = 1"), "later", "{engine:?}: it had seen what it replaced");
        right.execute("DELETE FROM t WHERE id = 1");
        sites.come_to_rest();
        assert_eq!(ahead.value("SELECT count(*) FROM t"), "1", "{engine:?}");
        assert_eq!(sites.conflicts(), ["0", "0"], "{engine:?}: no two wrote without knowing of each other");
    }
}

#[test]
fn a_star_a_chain_and_a_mesh_converge() {
    let engines = [Engine::Sqlite, Engine::Postgres, Engine::Mariadb, Engine::Sqlite];
    let star = [(1, 0), (2, 0), (3, 0)];
    let chain = [(0, 1), (1, 2), (2, 3)];
    let mesh = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)];
    for edges in [&star[..], &chain[..], &mesh[..]] {
        let sites = Sites::new(&engines, edges, "t");
        sites.dbs[edges[0].0].execute(NOTES);
        for n in 0..40 {
            sites.dbs[edges[0].0].execute(&format!("INSERT INTO t VALUES ({n}, 'row {n}')"));
        }
        for _ in 0..3 {
            sites.run();
        }
        sites.come_to_rest();
        assert_eq!(sites.dbs[0].value("SELECT count(*) FROM t"), "40", "{edges:?}");
        for round in 0..2 {
            for (at, db) in sites.dbs.iter().enumerate() {
                db.execute(&format!("UPDATE t SET note = '{at} in {round}' WHERE id % 5 = {at} OR id = 39"));
                db.execute(&format!("DELETE FROM t WHERE id = {}", 4 + 10 * round + 5 * (at % 2)));
                db.execute(&format!("INSERT INTO t VALUES ({}, 'new')", 100 + 10 * round + at));
            }
            sites.come_to_rest();
        }
        // Row 39 was written at all four, twice; the conflicts are known somewhere.
        let conflicts: u64 = sites.conflicts().iter().map(|n| n.parse::<u64>().expect("a count")).sum();
        assert!(conflicts >= 2, "{edges:?}: {conflicts}");
        let again = sites.sync();
        assert_eq!(again, 0, "{edges:?}: an echo");
    }
}

/// A laptop that joins has nothing yet, not even its file: it takes in what the office has, tables and all.
#[test]
fn a_source_without_tables_gets_them_from_the_target_that_has_them() {
    for sites in pairs("t, \"c_*\"") {
        let [laptop, office] = &sites.dbs[..] else { unreachable!() };
        office.execute(&format!(
            "{NOTES}; CREATE TABLE c_x (id INTEGER NOT NULL PRIMARY KEY, note VARCHAR(9) NOT NULL); \
             INSERT INTO t VALUES (1, 'one'); INSERT INTO c_x VALUES (7, 'seven')"
        ));
        let check = rowferry_in(sites.folder.path(), &["check"]);
        assert_eq!(check.code, 0, "{:?}: {check:?}", sites.engines());
        sites.come_to_rest();
        laptop.execute("INSERT INTO c_x VALUES (8, 'eight')");
        sites.come_to_rest();
        assert_eq!(rows(office, "SELECT id, note FROM c_x ORDER BY id"), "7 seven, 8 eight", "{:?}", sites.engines());
    }
}

/// A file that rows only come from is not made: it would pass for an empty one.
#[test]
fn a_file_that_only_gives_is_never_made() {
    let (gone, target) = (TestDb::new(Engine::Sqlite), TestDb::new(Engine::Sqlite));
    target.execute(&format!("{NOTES}; INSERT INTO t VALUES (1, 'one')"));
    let folder = tempfile::tempdir().expect("a folder");
    for ends in ["source: gone, target: there, direction: push", "source: there, target: gone, direction: pull"] {
        let text = format!(
            "node: test\ndatabases:\n  gone: {{ url: \"{}\" }}\n  there: {{ url: \"{}\" }}\nsyncs:\n  \
             s: {{ {ends}, tables: [t] }}\n",
            gone.url(),
            target.url()
        );
        std::fs::write(folder.path().join("rowferry.yaml"), text).expect("the config");
        let output = rowferry_in(folder.path(), &["sync"]);
        assert!(output.code == 3 && output.stderr.contains("there is no file"), "{ends}: {output:?}");
        assert_eq!(target.value("SELECT count(*) FROM t"), "1");
    }
}
