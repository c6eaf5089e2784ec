//! What the target makes of rows: who reads it meanwhile, by which keys they are told apart, into which tables and schemas
//! they go, and what is shown of it.

use std::collections::BTreeSet;

use crate::support::{Engine, TestDb, assert_equal, output, rowferry, rowferry_in, start, unlike};

/// All rows of both tables at their target: how many, and of which generations.
const VIEW: &str = "SELECT count(*), min(gen), max(gen) FROM";

/// A reader that asks again and again while a mirror runs sees each table as it was or as it is to be.
#[test]
fn a_reader_beside_a_mirror_sees_no_table_in_between() {
    for b in TestDb::on_all() {
        let a = TestDb::new(Engine::Sqlite);
        let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 6000)";
        a.execute(&format!(
            "CREATE TABLE keyed (id INTEGER PRIMARY KEY, gen INTEGER, note VARCHAR(40)); \
             CREATE TABLE counted (gen INTEGER, note VARCHAR(40)); \
             INSERT INTO keyed {rows} SELECT i, 1, 'note ' || i FROM n; \
             INSERT INTO counted {rows} SELECT 1, 'note ' || i FROM n"
        ));
        let first = rowferry(&["copy", a.url(), b.url()]);
        assert_eq!(first.code, 0, "{first:?}");
        // Every row changes; a third of the keys is gone, and more come.
        a.execute(&format!(
            "UPDATE keyed SET gen = 2; UPDATE counted SET gen = 2; DELETE FROM keyed WHERE id % 3 = 0; \
             INSERT INTO keyed {rows} SELECT i + 6000, 2, 'note ' || i FROM n; INSERT INTO counted {rows} SELECT 2, NULL FROM n"
        ));
        for table in ["keyed", "counted"] {
            let reader = b.session();
            let look = || reader.query(&format!("{VIEW} {table}")).concat().into_iter().flatten().collect::<Vec<_>>();
            let mut mirror = start(&["copy", a.url(), b.url(), "--mode", "mirror", "--force", "--tables", table]);
            let (mut seen, mut looks) = (BTreeSet::new(), 0);
            while !mirror.is_over() {
                seen.insert(look());
                looks += 1;
            }
            seen.insert(look());
            let run = mirror.end();
            assert_eq!(run.code, 0, "{:?}: {run:?}", b.engine());
            let after = if table == "keyed" { "10000" } else { "12000" };
            let whole = [vec![after, "2", "2"], vec!["6000", "1", "1"]]
                .map(|view| view.into_iter().map(str::to_owned).collect());
            assert_eq!(seen, BTreeSet::from(whole), "{:?}, {table}, in {looks} looks", b.engine());
        }
        assert_equal(&a, &b);
    }
}

/// A table at the target whose key takes capitals for small letters.
fn folding(engine: Engine) -> TestDb {
    let db = TestDb::new(engine);
    match engine {
        Engine::Sqlite => db.execute("CREATE TABLE t (k TEXT COLLATE NOCASE PRIMARY KEY, n INTEGER)"),
        Engine::Mariadb | Engine::Mysql => {
            db.execute("CREATE TABLE t (k VARCHAR(20) COLLATE utf8mb4_general_ci PRIMARY KEY, n INT)");
        }
        Engine::Postgres => db.execute(
            "CREATE COLLATION folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
             CREATE TABLE t (k VARCHAR(20) COLLATE folded PRIMARY KEY, n INT)",
        ),
    }
    db
}

/// What a copy rejects, by key.
fn rejected(a: &TestDb, b: &TestDb, mode: &str) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let run = rowferry_in(folder.path(), &["copy", a.url(), b.url(), "--mode", mode]);
    let rejects = std::fs::read_to_string(folder.path().join("rowferry-rejects.jsonl")).unwrap_or_default();
    let lines = rejects.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let keys: Vec<String> = lines.map(|line| line["key"]["k"].as_str().expect("a key").to_owned()).collect();
    assert_eq!(run.code, i32::from(!keys.is_empty()), "{:?}: {run:?}", b.engine());
    keys
}

#[test]
fn keys_that_the_target_takes_for_one_are_rejected_by_name() {
    for engine in Engine::available() {
        let (a, b) = (TestDb::new(Engine::Sqlite), folding(engine));
        let rows = || b.query("SELECT n FROM t ORDER BY n").concat().into_iter().flatten().collect::<String>();
        a.execute("CREATE TABLE t (k VARCHAR(20) PRIMARY KEY, n INTEGER)");
        a.execute("INSERT INTO t VALUES ('A', 1), ('a', 2), ('b', 3), ('É', 4), ('e', 5)");
        // É is a letter of its own save for general_ci, which takes e for it.
        let e = matches!(engine, Engine::Mariadb | Engine::Mysql);
        let all: &[&str] = if e { &["a", "e"] } else { &["a"] };
        // Into the empty table, into what is there then, and as a mirror.
        for mode in ["full", "full", "mirror"] {
            let mut keys = rejected(&a, &b, mode);
            keys.sort_unstable();
            assert_eq!(keys, all, "{engine:?}, {mode}");
            assert_eq!(rows(), if e { "134" } else { "1345" }, "{engine:?}, {mode}");
        }
        // One that the target has in other letters: another row, which only a mirror may take away.
        a.execute("DELETE FROM t WHERE n <> 1");
        b.execute("DELETE FROM t; INSERT INTO t VALUES ('a', 9)");
        assert_eq!(rejected(&a, &b, "full"), ["A"], "{engine:?}");
        assert_eq!(rows(), "9", "{engine:?}");
        assert!(rejected(&a, &b, "mirror").is_empty(), "{engine:?}");
        assert_eq!(rows(), "1", "{engine:?}");
        assert_equal(&a, &b);
    }
}

/// The source's keys are in an order of their own, in which capitals stand beside small letters.
#[test]
fn keys_that_fold_at_the_source_are_mirrored() {
    for (from, to) in unlike() {
        let (a, b) = (folding(from), TestDb::new(to));
        a.execute("INSERT INTO t VALUES ('B', 1), ('a', 2), ('É', 3), ('c', 4), ('D', 5), ('f', 6)");
        for (change, deleted) in [
            ("UPDATE t SET n = n", 0),
            ("DELETE FROM t WHERE n IN (2, 5)", 2),
            ("INSERT INTO t VALUES ('A', 7), ('e1', 8)", 0),
        ] {
            a.execute(change);
            let run = rowferry(&["copy", a.url(), b.url(), "--mode", "mirror", "--format", "json"]);
            assert_eq!(run.code, 0, "{from:?} -> {to:?}: {change}: {run:?}");
            assert_eq!(run.json()["tables"][0]["deleted"], deleted, "{from:?} -> {to:?}: {run:?}");
            assert_equal(&a, &b);
        }
        assert_eq!(b.value("SELECT n FROM t WHERE k = 'A'"), "7", "{from:?} -> {to:?}");
    }
}

#[test]
fn two_schemas_of_one_database_are_source_and_target() {
    let db = TestDb::new(Engine::Postgres);
    db.execute(
        "CREATE SCHEMA one; CREATE SCHEMA \"Two\"; CREATE TABLE public.p (of_nobody INT); SET search_path = one; \
         CREATE TYPE mood AS ENUM ('ok', 'bad'); \
         CREATE TABLE p (id INT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name TEXT UNIQUE NOT NULL); \
         CREATE TABLE c (id SERIAL PRIMARY KEY, p INT REFERENCES p ON DELETE CASCADE, c INT REFERENCES c, m mood); \
         INSERT INTO p (name) VALUES ('a'), ('b'); INSERT INTO c (p, c, m) VALUES (1, NULL, 'ok'), (2, 1, 'bad')",
    );
    let (one, two) = (format!("{}?schema=one", db.url()), format!("{}?schema=Two", db.url()));
    let run = |args: &[&str], code: i32| {
        let run = rowferry(args);
        assert_eq!(run.code, code, "{args:?}: {run:?}");
        run
    };
    run(&["copy", &one, &two], 0);
    run(&["diff", &one, &two], 0);
    // Types, references and numbers of its own: none leads back to the source.
    let own = "SELECT count(*) FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_class p ON p.oid = k.confrelid \
               WHERE c.relnamespace = '\"Two\"'::regnamespace AND p.relnamespace = c.relnamespace";
    assert_eq!(db.value(own), "2");
    assert_eq!(db.value("SELECT pg_typeof(m) FROM \"Two\".c WHERE id = 2"), "\"Two\".mood");
    assert_eq!(db.value("INSERT INTO \"Two\".p (name) VALUES ('c') RETURNING id"), "3");
    assert_eq!(db.value("SELECT count(*) FROM one.p"), "2");
    run(&["diff", &one, &two, "--tables", "p"], 1);
    run(&["diff", &one, &two, "--repair", "b-to-a"], 0);
    assert_eq!(db.value("SELECT name FROM one.p WHERE id = 3"), "c");
    db.execute("DELETE FROM one.p WHERE id = 2");
    run(&["copy", &one, &two, "--mode", "mirror"], 0);
    run(&["diff", &two, &one], 0);
    assert_eq!(db.value("SELECT count(*) FROM \"Two\".c"), "1");
    assert_eq!(db.traces(), Vec::<String>::new());
    let onto_itself = run(&["copy", &one, &one], 2);
    assert!(onto_itself.stderr.contains("cannot be written onto itself"), "{onto_itself:?}");
    let missing = run(&["copy", &format!("{}?schema=none", db.url()), &two], 2);
    assert!(missing.stderr.contains("has no schema 'none'"), "{missing:?}");
}

/// Without a primary key a unique one tells rows apart: what differs is updated, and nothing comes twice.
#[test]
fn a_unique_key_serves_where_there_is_no_primary_key() {
    for b in TestDb::on_all() {
        let a = TestDb::new(Engine::Sqlite);
        a.execute(
            "CREATE TABLE t (a INTEGER NOT NULL, b VARCHAR(9) NOT NULL, n INTEGER); CREATE UNIQUE INDEX t_ab ON t (a, b); \
             INSERT INTO t VALUES (1, 'x', 1), (1, 'y', 2), (2, 'x', NULL)",
        );
        let run = |mode: &str| {
            let run = rowferry(&["copy", a.url(), b.url(), "--mode", mode, "--format", "json"]);
            assert_eq!(run.code, 0, "{:?}: {run:?}", b.engine());
            let table = run.json()["tables"][0].clone();
            ["inserted", "updated", "deleted"].map(|what| table[what].as_u64().expect("a count"))
        };
        assert_eq!(run("full"), [3, 0, 0], "{:?}", b.engine());
        a.execute("UPDATE t SET n = 3 WHERE b = 'y'; DELETE FROM t WHERE a = 2; INSERT INTO t VALUES (3, 'z', 4)");
        assert_eq!(run("full"), [1, 1, 0], "{:?}", b.engine());
        assert_eq!(run("mirror"), [0, 0, 1], "{:?}", b.engine());
        assert_eq!(run("full"), [0, 0, 0], "{:?}", b.engine());
        assert_equal(&a, &b);
    }
}

#[test]
fn tables_are_chosen_by_name_and_by_glob_and_not_made_unless_that_is_allowed() {
    let a = TestDb::new(Engine::Sqlite);
    a.execute(
        "CREATE TABLE orders (id INTEGER PRIMARY KEY); CREATE TABLE c_one (id INTEGER PRIMARY KEY); \
         CREATE TABLE c_two (id INTEGER PRIMARY KEY); CREATE TABLE other (id INTEGER PRIMARY KEY); INSERT INTO c_one VALUES (1)",
    );
    for b in TestDb::on_all() {
        b.execute("CREATE TABLE there (id INTEGER PRIMARY KEY)");
        let run = |more: &[&str]| rowferry(&[&["copy", a.url(), b.url(), "--format", "json"], more].concat());
        let refused = run(&["--tables", "c_one", "--no-create"]);
        assert_eq!(refused.code, 2, "{refused:?}");
        assert!(refused.stdout.contains("has no table 'c_one', and creating tables was not allowed"), "{refused:?}");
        let chosen = run(&["--tables", "orders,c_*", "--exclude", "*_two"]);
        let tables: Vec<_> =
            chosen.json()["tables"].as_array().expect("tables").iter().map(|t| t["table"].clone()).collect();
        assert_eq!(tables, ["c_one", "orders"], "{:?}: {chosen:?}", b.engine());
        assert_eq!(run(&["--tables", "c_one", "--no-create"]).code, 0, "{:?}", b.engine());
        let unknown = run(&["--tables", "orders,nix"]);
        assert!(unknown.code == 2 && unknown.stdout.contains("has no table 'nix'"), "{unknown:?}");
    }
}

/// On a terminal each table has a line with its rows, its rate and what is left; elsewhere there is none.
#[cfg(target_os = "linux")]
#[test]
fn progress_is_shown_on_a_terminal_alone() {
    let (a, b) = (TestDb::new(Engine::Sqlite), TestDb::new(Engine::Sqlite));
    a.execute(
        "CREATE TABLE t (id INTEGER PRIMARY KEY); \
         INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) SELECT i FROM n",
    );
    let folder = tempfile::tempdir().expect("a folder");
    let typed = format!("'{}' copy '{}' '{}'", env!("CARGO_BIN_EXE_rowferry"), a.url(), b.url());
    let mut terminal = std::process::Command::new("script");
    terminal.args(["-qec", &typed, "/dev/null"]).current_dir(folder.path()).env("TERM", "xterm").env_remove("NO_COLOR");
    let shown = output(&mut terminal);
    assert_eq!(shown.code, 0, "{shown:?}");
    // How far it was when it was last drawn is a matter of time.
    assert!(shown.stdout.contains("/100,000 rows") && shown.stdout.contains("\u{1b}["), "{shown:?}");
    let piped = rowferry(&["copy", a.url(), b.url()]);
    assert_eq!(piped.code, 0, "{piped:?}");
    assert!(!format!("{}{}", piped.stdout, piped.stderr).contains('\u{1b}'), "{piped:?}");
}
