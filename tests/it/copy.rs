//! Rows move: every pair of engines, modes, resume, what is refused.

use std::process::{Command, Stdio};
use std::time::Duration;

use rowferry::sample;

use crate::support::{Engine, Node, TestDb, assert_equal, long, rowferry, rowferry_in, some, start, unlike, wait};

/// The sample shop in a new SQLite database.
fn shop() -> TestDb {
    let db = TestDb::new(Engine::Sqlite);
    db.execute(sample::shop_schema());
    let rows: Vec<String> = sample::rows(1, 7).collect();
    db.execute(&format!("BEGIN; {}; COMMIT", rows.join(";\n")));
    db
}

#[track_caller]
fn copy(from: &TestDb, to: &TestDb, more: &[&str]) -> serde_json::Value {
    let mut args = vec!["copy", from.url(), to.url(), "--format", "json"];
    args.extend(more);
    let output = rowferry(&args);
    assert_eq!(output.code, 0, "{:?} -> {:?}: {}\n{}", from.engine(), to.engine(), output.stderr, output.stdout);
    output.json()
}

/// SQLite → A → B → SQLite: each pair creates the shop from the other's catalogue, and nothing
/// changes on the way there and back.
fn shop_travels(first: Engine, second: Engine) {
    let (shop, a, b, back) = (shop(), TestDb::new(first), TestDb::new(second), TestDb::new(Engine::Sqlite));
    // MySQL keeps a JSON document and not its spelling, which is declared and must be allowed.
    let respelled = [first, second].contains(&Engine::Mysql);
    let allow: &[&str] = if respelled { &["--allow-loss"] } else { &[] };
    copy(&shop, &a, allow);
    copy(&a, &b, allow);
    copy(&b, &back, allow);
    assert_equal(&a, &b);
    assert_equal(&b, &a);
    if !respelled {
        assert_equal(&shop, &back);
    }
    for db in [&a, &b, &back] {
        assert_eq!(db.traces(), Vec::<String>::new(), "a finished copy leaves nothing at {:?}", db.engine());
    }
    let again = copy(&a, &b, &["--mode", "mirror"]);
    for table in again["tables"].as_array().expect("tables") {
        for written in ["inserted", "updated", "deleted"] {
            assert_eq!(table[written], 0, "{first:?} -> {second:?}, a second run writes nothing: {table}");
        }
    }
}

macro_rules! pairs {
    ($($name:ident: $a:ident, $b:ident;)*) => {$(
        #[test]
        fn $name() {
            let available = Engine::available();
            if available.contains(&Engine::$a) && available.contains(&Engine::$b) {
                shop_travels(Engine::$a, Engine::$b);
            }
        }
    )*};
}

pairs! {
    sqlite_to_sqlite: Sqlite, Sqlite;
    sqlite_to_postgres: Sqlite, Postgres;
    sqlite_to_mariadb: Sqlite, Mariadb;
    sqlite_to_mysql: Sqlite, Mysql;
    postgres_to_sqlite: Postgres, Sqlite;
    postgres_to_postgres: Postgres, Postgres;
    postgres_to_mariadb: Postgres, Mariadb;
    postgres_to_mysql: Postgres, Mysql;
    mariadb_to_sqlite: Mariadb, Sqlite;
    mariadb_to_postgres: Mariadb, Postgres;
    mariadb_to_mariadb: Mariadb, Mariadb;
    mariadb_to_mysql: Mariadb, Mysql;
    mysql_to_sqlite: Mysql, Sqlite;
    mysql_to_postgres: Mysql, Postgres;
    mysql_to_mariadb: Mysql, Mariadb;
    mysql_to_mysql: Mysql, Mysql;
}

const PLAIN: &str = "CREATE TABLE t (id INT PRIMARY KEY, note VARCHAR(20), amount NUMERIC(12,2))";

#[test]
fn mirror_writes_only_what_differs_and_full_keeps_what_only_the_target_has() {
    for b in &TestDb::on_all() {
        let a = TestDb::new(Engine::Sqlite);
        a.execute(PLAIN);
        b.execute(PLAIN);
        for id in 1..=10 {
            a.execute(&format!("INSERT INTO t VALUES ({id}, 'row {id}', {id}.50)"));
            b.execute(&format!("INSERT INTO t VALUES ({}, 'row {}', {}.50)", id + 2, id + 2, id + 2));
        }
        b.execute("UPDATE t SET note = 'other' WHERE id = 5");
        let report = copy(&a, b, &["--mode", "full"]);
        let t = &report["tables"][0];
        assert_eq!((&t["inserted"], &t["updated"], &t["deleted"]), (&2.into(), &1.into(), &0.into()), "{report}");
        assert_eq!(b.value("SELECT count(*) FROM t"), "12");
        let report = copy(&a, b, &["--mode", "mirror"]);
        let t = &report["tables"][0];
        assert_eq!((&t["inserted"], &t["updated"], &t["deleted"]), (&0.into(), &0.into(), &2.into()), "{report}");
        assert_equal(&a, b);
    }
}

#[test]
fn rows_that_exchange_a_unique_value_arrive() {
    for b in &TestDb::on_all() {
        let a = TestDb::new(Engine::Sqlite);
        let ddl = "CREATE TABLE t (id INT PRIMARY KEY, code VARCHAR(20) NOT NULL UNIQUE)";
        a.execute(ddl);
        b.execute(ddl);
        a.execute("INSERT INTO t VALUES (1, 'x'), (2, 'y'), (3, 'z')");
        b.execute("INSERT INTO t VALUES (1, 'y'), (2, 'z'), (3, 'x')");
        copy(&a, b, &["--mode", "mirror"]);
        assert_equal(&a, b);
    }
}

#[test]
fn a_table_without_key_is_counted_and_a_second_run_adds_nothing() {
    for b in &TestDb::on_all() {
        let a = TestDb::new(Engine::Sqlite);
        a.execute("CREATE TABLE log (at DATE, what TEXT); INSERT INTO log VALUES ('2024-02-29', 'a'), ('2024-02-29', 'a'), (NULL, NULL), (NULL, 'ü')");
        copy(&a, b, &[]);
        assert_eq!(b.value("SELECT count(*) FROM log"), "4");
        copy(&a, b, &[]);
        assert_eq!(b.value("SELECT count(*) FROM log"), "4", "a second run on {:?}", b.engine());
        a.execute("INSERT INTO log VALUES (NULL, NULL); DELETE FROM log WHERE what = 'ü'");
        assert_eq!(rowferry(&["diff", a.url(), b.url()]).code, 1);
        copy(&a, b, &["--mode", "mirror"]);
        assert_equal(&a, b);
    }
}

#[test]
fn many_rows_without_key_are_mirrored_with_their_copies_and_nulls() {
    let numbers = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 19999) ";
    for b in &TestDb::on_all() {
        let a = TestDb::new(Engine::Sqlite);
        a.execute("CREATE TABLE log (at DATE, what TEXT, size INTEGER, share REAL, raw BLOB)");
        let rows = "SELECT iif(i % 7, '2024-02-29', NULL), iif(i % 11, 'Was ' || i / 2, NULL), i / 2, i / 6.0, x'00ff'";
        a.execute(&format!("INSERT INTO log {numbers} {rows} FROM n"));
        // Twice as many of these at the target: half of them are to stay.
        a.execute(
            "INSERT INTO log VALUES (NULL, 'x', -1, 0.1, NULL), (NULL, 'x', -1, 0.1, NULL), (NULL, 'X', -1, 0.1, NULL)",
        );
        copy(&a, b, &[]);
        b.execute("INSERT INTO log SELECT * FROM log WHERE size = -1");
        b.execute("UPDATE log SET size = size + 50000 WHERE size >= 0");
        let report = copy(&a, b, &["--mode", "mirror", "--force"]);
        assert_eq!(report["tables"][0]["deleted"], 20_003, "{:?}: {report}", b.engine());
        assert_equal(&a, b);
        let again = copy(&a, b, &["--mode", "mirror"]);
        assert_eq!((&again["tables"][0]["deleted"], &again["tables"][0]["inserted"]), (&0.into(), &0.into()));
    }
}

#[test]
fn an_emptied_source_does_not_empty_the_target() {
    for b in &TestDb::on_all() {
        let a = TestDb::new(Engine::Sqlite);
        a.execute(PLAIN);
        b.execute(PLAIN);
        for id in 0..150 {
            b.execute(&format!("INSERT INTO t VALUES ({id}, 'n', 1)"));
        }
        let output = rowferry(&["copy", a.url(), b.url(), "--mode", "mirror"]);
        assert_eq!(output.code, 1, "{}", output.stderr);
        assert!(output.stderr.contains("--force"), "{}", output.stderr);
        assert_eq!(b.value("SELECT count(*) FROM t"), "150", "nothing was deleted on {:?}", b.engine());
        copy(&a, b, &["--mode", "mirror", "--force"]);
        assert_eq!(b.value("SELECT count(*) FROM t"), "0");
    }
}

#[test]
fn what_does_not_fit_is_rejected_by_name_and_the_rest_arrives() {
    for b in &TestDb::on_all() {
        if b.engine() == Engine::Sqlite {
            continue;
        }
        let a = TestDb::new(Engine::Sqlite);
        a.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, n NUMERIC, s TEXT)");
        a.execute(
            "INSERT INTO t VALUES (1, 1.5, 'ok'), (2, 1.234, 'too fine'), (3, 2, 'much too long'), (4, NULL, NULL)",
        );
        b.execute("CREATE TABLE t (id INT PRIMARY KEY, n NUMERIC(6,2), s VARCHAR(8))");
        let dir = tempfile::tempdir().expect("a folder");
        let output = rowferry_in(dir.path(), &["copy", a.url(), b.url(), "--format", "json"]);
        assert_eq!(output.code, 1, "{}", output.stderr);
        assert_eq!(output.json()["tables"][0]["quarantined"], 2);
        assert_eq!(b.query("SELECT id FROM t ORDER BY id"), [[Some("1".to_owned())], [Some("4".to_owned())]]);
        let rejects = std::fs::read_to_string(dir.path().join("rowferry-rejects.jsonl")).expect("the rejects");
        assert!(rejects.contains("1.234") && rejects.contains("\"id\":\"3\""), "{rejects}");
    }
}

#[test]
fn killed_at_any_moment_the_same_command_ends_equal() {
    let moments: &[u64] = if long() { &[15, 60, 150, 400, 900] } else { &[60, 400] };
    let shop = shop();
    let moments = unlike().into_iter().flat_map(|pair| moments.iter().map(move |ms| (pair, *ms)));
    for ((from, to), ms) in some(5, moments) {
        // MySQL keeps a JSON document and not its spelling.
        let allow: &[&str] = if [from, to].contains(&Engine::Mysql) { &["--allow-loss"] } else { &[] };
        let source = TestDb::new(from);
        copy(&shop, &source, allow);
        let target = TestDb::new(to);
        let run = start(&[&["copy", source.url(), target.url(), "--batch-size", "50"], allow].concat());
        std::thread::sleep(Duration::from_millis(ms));
        run.kill();
        copy(&source, &target, allow);
        assert_equal(&source, &target);
        for db in [&source, &target] {
            assert_eq!(db.traces(), Vec::<String>::new(), "{from:?} -> {to:?} after {ms} ms");
        }
    }
}

#[test]
fn what_is_wrong_is_said_in_one_sentence_with_the_right_code() {
    let db = TestDb::new(Engine::Sqlite);
    db.execute(PLAIN);
    let dir = tempfile::tempdir().expect("a folder");
    let (letter, content) = (dir.path().join("letter.txt"), "Dear reader, this is no database at all. ".repeat(60));
    std::fs::write(&letter, &content).expect("written");
    let no_database = format!("sqlite:{}", letter.display());
    let config = dir.path().join("typo.yaml");
    std::fs::write(&config, "node: test\ndatabases:\n  a: { url: 'sqlite:a.db' }\nsynks: {}\n").expect("written");
    let config = config.display().to_string();
    let url = db.url();
    let fresh = format!("sqlite:{}", dir.path().join("new.db").display());
    for (args, code, word) in [
        (vec!["copy", "oracle://x", url], 2, "oracle"),
        (vec!["copy", url, "nowhere"], 2, "nowhere"),
        (vec!["copy", "sqlite:/does/not/exist.db", &fresh], 3, "exist.db"),
        (vec!["copy", url, &fresh, "--tables", "tt"], 2, "did you mean 't'"),
        (vec!["copy", url, &fresh, "--where", "t=no_such = 1"], 2, "no_such"),
        (vec!["copy", url, &fresh, "--where", "t"], 2, "--where"),
        (vec!["copy", url, &fresh, "--where", "t=id<5", "--where", "t=id>15"], 2, "twice for t"),
        (vec!["copy", url, &fresh, "--no-create"], 3, "new.db"),
        (vec!["copy", &no_database, &fresh], 2, "letter.txt"),
        (vec!["copy", url, &no_database], 2, "letter.txt"),
        (vec!["diff", url, &no_database], 2, "letter.txt"),
        (vec!["diff", url, "postgres://u@127.0.0.1:1/x"], 3, "127.0.0.1:1"),
        (vec!["diff", url, "mysql://u@127.0.0.1:1/x"], 3, "127.0.0.1:1"),
        (vec!["sync"], 2, "rowferry init"),
        (vec!["-c", &config, "check"], 2, "line 4: "),
        (vec!["-c", &config, "sync"], 2, "did you mean 'syncs'"),
    ] {
        let output = rowferry_in(dir.path(), &args);
        assert_eq!(output.code, code, "{args:?}: {}", output.stderr);
        assert!(output.stderr.contains(word), "{args:?}: {}", output.stderr);
        assert_eq!(output.stderr.trim_end().lines().count(), 1, "{args:?}: {}", output.stderr);
    }
    assert_eq!(std::fs::read_to_string(&letter).expect("the letter"), content, "it is as it was");
}

#[test]
fn syncs_of_the_config_run_in_order_and_by_direction() {
    let (a, b) = (TestDb::new(Engine::Sqlite), TestDb::new(Engine::Sqlite));
    a.execute(PLAIN);
    b.execute("CREATE TABLE other (id INTEGER PRIMARY KEY)");
    a.execute("INSERT INTO t VALUES (1, 'x', 1.50), (2, 'y', 2.50)");
    let dir = tempfile::tempdir().expect("a folder");
    let config = format!(
        "node: test\ndatabases:\n  a: {{ url: \"{}\" }}\n  b: {{ url: \"{}\" }}\nsyncs:\n  \
         there: {{ source: a, target: b, direction: push, mode: mirror, tables: [{{ source: t, where: \"id = 2\" }}] }}\n",
        a.url(),
        b.url()
    );
    std::fs::write(dir.path().join("rowferry.yaml"), config).expect("written");
    let output = rowferry_in(dir.path(), &["check"]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    let output = rowferry_in(dir.path(), &["sync", "--format", "json"]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert_eq!(output.json()[0]["sync"], "there");
    assert_eq!(b.query("SELECT id, note FROM t"), [[Some("2".to_owned()), Some("y".to_owned())]]);
}

#[test]
fn the_demo_ends_equal() {
    let temporary = tempfile::tempdir().expect("a folder");
    let folder = tempfile::tempdir().expect("a folder");
    let mut demo =
        crate::support::program(folder.path(), &["demo", "--scale", "1", "--seconds", "3", "--format", "json"]);
    // No proxy is gone through on the way to oneself, and nothing stays behind.
    demo.env("TMPDIR", temporary.path())
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .env("HTTPS_PROXY", "http://127.0.0.1:1");
    let output = crate::support::output(&mut demo);
    assert_eq!(output.code, 0, "{}", output.stderr);
    for left in [temporary.path(), folder.path()] {
        let files = std::fs::read_dir(left).expect("a folder").map(|file| file.expect("a file").path());
        // Those by which processes lock a file stay, empty.
        let left: Vec<_> = files.filter(|path| path.extension().is_none_or(|end| end != "lock")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    let told = output.json();
    assert_eq!(told["equal"], true, "{told}");
    assert_eq!(told["differed"], 8, "{told}");
    for written in [&told["writes"]["head_office"], &told["writes"]["branch"], &told["changes"], &told["conflicts"]] {
        assert!(written.as_u64() > Some(0), "{told}");
    }
}

#[test]
fn the_demo_answers_while_it_runs_and_leaves_its_files_where_it_was_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let args = ["demo", "--scale", "1", "--seconds", "3", "--dir", "here", "--listen", "127.0.0.1:0"];
    let node = Node::of(folder.path(), &args);
    node.wait_for("curl -H");
    let said = node.said();
    let key = said.split("X-API-Key: ").nth(1).and_then(|rest| rest.split('\'').next()).expect("a key").to_owned();
    let answer = node.get("/api/status", &key);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(node.get("/api/status", "no key").status, 401);
    // The other one is a node of its own, which nobody reaches while it is offline.
    node.wait_for("the branch cannot be reached, and changes wait");
    node.wait_for("the branch is back");
    node.wait_for("Both databases are equal");
    assert!(folder.path().join("here/branch.db").is_file());
    let again = rowferry_in(folder.path(), &args);
    assert_eq!(again.code, 2, "{again:?}");
    assert!(again.stderr.contains("exists already"), "{again:?}");
}

#[test]
fn rows_enter_existing_tables_with_cycles_and_numbering_goes_on() {
    for b in &TestDb::on_all() {
        let a = TestDb::new(Engine::Sqlite);
        a.execute(
            "CREATE TABLE dep (id INTEGER PRIMARY KEY, head INTEGER REFERENCES emp (id));
             CREATE TABLE emp (id INTEGER PRIMARY KEY, dep INTEGER REFERENCES dep (id) ON DELETE CASCADE,
                               boss INTEGER REFERENCES emp (id) ON DELETE SET NULL);
             INSERT INTO dep VALUES (1, NULL), (2, NULL);
             INSERT INTO emp VALUES (1, 1, NULL), (2, 2, 1), (30, 1, 2);
             UPDATE dep SET head = 3 - id;",
        );
        copy(&a, b, &["--schema-only"]);
        assert_eq!(b.value("SELECT count(*) FROM emp"), "0");
        copy(&a, b, &[]);
        assert_equal(&a, b);
        b.execute("INSERT INTO emp (dep) VALUES (2)");
        assert_eq!(b.value("SELECT max(id) FROM emp"), "31", "numbering goes on at {:?}", b.engine());
        // The keys are real: a child without parent is refused, a deleted parent takes its children.
        b.execute("DELETE FROM emp WHERE id = 31");
        a.execute("PRAGMA foreign_keys = OFF; INSERT INTO emp VALUES (99, 77, NULL)");
        let output = rowferry(&["copy", a.url(), b.url(), "--format", "json"]);
        assert_eq!(output.code, 1, "an orphan is told at {:?}: {}", b.engine(), output.stdout);
        assert!(output.stdout.contains("emp") && output.stdout.contains("dep"), "{}", output.stdout);
    }
}

#[test]
fn triggers_of_the_target_do_not_run_twice() {
    for b in &TestDb::on_all() {
        let a = TestDb::new(Engine::Sqlite);
        let tables = "CREATE TABLE t (id INT NOT NULL PRIMARY KEY); CREATE TABLE audit (id INT NOT NULL PRIMARY KEY)";
        a.execute(tables);
        a.execute("INSERT INTO t VALUES (1), (2); INSERT INTO audit VALUES (1), (2)");
        b.execute(tables);
        let silent = match b.engine() {
            Engine::Sqlite => {
                b.execute("CREATE TRIGGER tr AFTER INSERT ON t BEGIN INSERT INTO audit VALUES (new.id); END");
                true
            }
            Engine::Postgres => {
                b.execute("CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO audit VALUES (new.id); RETURN new; END'");
                b.execute("CREATE TRIGGER tr AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()");
                true
            }
            Engine::Mariadb | Engine::Mysql => {
                b.execute("CREATE TRIGGER tr AFTER INSERT ON t FOR EACH ROW INSERT INTO audit VALUES (new.id)");
                false
            }
        };
        if silent {
            copy(&a, b, &[]);
            assert_equal(&a, b);
        } else {
            let output = rowferry(&["copy", a.url(), b.url()]);
            assert_eq!(output.code, 2, "{}", output.stderr);
            assert!(output.stderr.contains("t (tr)"), "{}", output.stderr);
            let plan = rowferry(&["copy", a.url(), b.url(), "--dry-run"]);
            assert!(plan.stdout.contains("t (tr): the run needs --force"), "{plan:?}");
            let plan = rowferry(&["copy", a.url(), b.url(), "--dry-run", "--force"]);
            assert!(!plan.stdout.contains("needs --force"), "{plan:?}");
            assert_eq!(b.value("SELECT count(*) FROM t"), "0", "nothing was touched");
        }
    }
}

/// PostgreSQL's `ENABLE ALWAYS` triggers run where all others are silenced.
#[test]
fn triggers_that_cannot_be_silenced_are_told() {
    let (a, b) = (TestDb::new(Engine::Sqlite), TestDb::new(Engine::Postgres));
    a.execute("CREATE TABLE t (id INT NOT NULL PRIMARY KEY, v TEXT); INSERT INTO t VALUES (1, 'a')");
    b.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v text); \
         CREATE FUNCTION loud() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN new.v := upper(new.v); RETURN new; END'; \
         CREATE TRIGGER usual BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION loud(); \
         CREATE TRIGGER always BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION loud(); \
         ALTER TABLE t ENABLE ALWAYS TRIGGER always",
    );
    let output = rowferry(&["copy", a.url(), b.url()]);
    assert_eq!(output.code, 2, "{output:?}");
    assert!(output.stderr.contains("t (always)"), "{}", output.stderr);
    assert_eq!(b.value("SELECT count(*) FROM t"), "0", "nothing was touched");
    copy(&a, &b, &["--force"]);
    b.execute("ALTER TABLE t ENABLE TRIGGER always");
    copy(&a, &b, &["--mode", "mirror"]);
    assert_equal(&a, &b);
}

#[cfg(unix)]
#[test]
fn interrupted_it_says_so_and_the_same_command_resumes() {
    let shop = TestDb::new(Engine::Sqlite);
    shop.execute(sample::shop_schema());
    let rows: Vec<String> = sample::rows(6, 7).collect();
    shop.execute(&format!("BEGIN; {}; COMMIT", rows.join(";\n")));
    let target = TestDb::new(Engine::Postgres);
    let mut child = Command::new(env!("CARGO_BIN_EXE_rowferry"))
        .args(["copy", shop.url(), target.url(), "--batch-size", "20"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program");
    // As soon as the first table is there, and long before the last row is.
    while target.value("SELECT count(*) FROM pg_class WHERE relname = '_rowferry_copy'") == "0" {
        std::thread::sleep(Duration::from_millis(5));
    }
    let asked = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(asked.success());
    assert_eq!(child.wait().expect("ended").code(), Some(130));
    assert_eq!(target.own_tables(), ["_rowferry_copy".to_owned()], "it is known as unfinished");
    copy(&shop, &target, &[]);
    assert_equal(&shop, &target);
    assert_eq!(target.traces(), Vec::<String>::new());
}

/// Rows come slowly, since the server waits at each, so that what writes is idle.
#[test]
fn several_connections_read_a_large_table_that_comes_slowly() {
    let (source, target) = (TestDb::new(Engine::Postgres), TestDb::new(Engine::Sqlite));
    let reader = format!("{}_reader", source.name());
    source.execute(&format!(
        "CREATE TABLE large (id int PRIMARY KEY, pad text NOT NULL); ALTER TABLE large ALTER pad SET STORAGE EXTERNAL; \
         INSERT INTO large SELECT i, repeat('x', 700000) FROM generate_series(1, 200) i; \
         CREATE ROLE {reader} LOGIN; GRANT SELECT ON large TO {reader}; \
         ALTER TABLE large ENABLE ROW LEVEL SECURITY; CREATE POLICY slow ON large USING (pg_sleep(0.04) IS NOT NULL)"
    ));
    let url = source.url().replace("postgres@", &format!("{reader}@")) + "?options=-c%20row_security=on";
    let mut running = start(&["copy", &url, target.url()]);
    let readers = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE usename = '{reader}' AND query LIKE 'COPY%' AND state = 'active'"
    );
    let mut most = 0;
    while !running.is_over() {
        most = most.max(source.value(&readers).parse::<usize>().expect("a number"));
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = running.end();
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(most > 1, "{most} connection read");
    assert_eq!(
        target.value("SELECT count(*) || ' ' || sum(id) || ' ' || sum(length(pad)) FROM large"),
        "200 20100 140000000"
    );
    source.execute(&format!("DROP OWNED BY {reader}; DROP ROLE {reader}"));
}

#[test]
fn the_rejects_hold_the_original_and_a_mirror_goes_on() {
    for b in &TestDb::on_all() {
        if b.engine() == Engine::Sqlite {
            continue;
        }
        let a = TestDb::new(Engine::Sqlite);
        a.execute("CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, n INTEGER)");
        a.execute("INSERT INTO t VALUES ('a', 'not a number'), ('much too long', 2), ('z', 3)");
        b.execute("CREATE TABLE t (id VARCHAR(4) NOT NULL PRIMARY KEY, n INT)");
        b.execute("INSERT INTO t VALUES ('a', 1), ('q', 1), ('z', 1)");
        let dir = tempfile::tempdir().expect("a folder");
        let output = rowferry_in(dir.path(), &["copy", a.url(), b.url(), "--mode", "mirror"]);
        assert_eq!(output.code, 1, "{}", output.stderr);
        let rejects = std::fs::read_to_string(dir.path().join("rowferry-rejects.jsonl")).expect("the rejects");
        assert!(rejects.contains("not a number") && rejects.contains("much too long"), "{rejects}");
        assert!(!rejects.contains("; n: "), "one reason for one value: {rejects}");
        // The row that could not be updated stays, the one that the source lacks goes.
        let rows: Vec<String> = b.query("SELECT id FROM t ORDER BY id").into_iter().flatten().flatten().collect();
        assert_eq!(rows, ["a", "z"], "{:?}", b.engine());
        assert_eq!(b.value("SELECT n FROM t WHERE id = 'z'"), "3");
    }
}

#[test]
fn a_rejects_file_is_shared_by_copies_and_never_takes_the_place_of_another_file() {
    let (a, other, b) = (TestDb::new(Engine::Sqlite), TestDb::new(Engine::Sqlite), TestDb::new(Engine::Postgres));
    a.execute(
        "CREATE TABLE r (id INTEGER PRIMARY KEY, d DATE); INSERT INTO r VALUES (1, 'yesterday'), (2, '2020-01-01')",
    );
    other.execute("CREATE TABLE s (id INTEGER PRIMARY KEY, d DATE); INSERT INTO s VALUES (1, 'tomorrow')");
    let dir = tempfile::tempdir().expect("a folder");
    let run = |args: &[&str]| rowferry_in(dir.path(), args);
    let file = dir.path().join("rowferry-rejects.jsonl");
    let held = || std::fs::read_to_string(&file).unwrap_or_default();
    for _ in 0..2 {
        assert_eq!(run(&["copy", a.url(), b.url()]).code, 1);
        assert_eq!(run(&["copy", other.url(), b.url()]).code, 1);
        assert!(
            held().lines().count() == 2 && held().contains("yesterday") && held().contains("tomorrow"),
            "{}",
            held()
        );
    }
    // The last line of a run that died does not stop the next.
    std::fs::write(&file, format!("{}{{\"key\":{{\"id\":\"1", held())).expect("a line that was cut");
    a.execute("UPDATE r SET d = '2021-01-01'");
    assert_eq!(run(&["copy", a.url(), b.url()]).code, 0);
    assert!(held().lines().count() == 1 && held().contains("tomorrow"), "{}", held());
    other.execute("UPDATE s SET d = '2021-01-01'");
    assert_eq!(run(&["copy", other.url(), b.url()]).code, 0);
    assert!(!file.exists(), "nothing is left to say");

    a.execute("INSERT INTO r VALUES (3, 'today')");
    let path = a.url().trim_start_matches("sqlite:");
    for precious in [path, "notes.txt", "list.json"] {
        std::fs::write(dir.path().join("notes.txt"), "to be kept").expect("notes");
        std::fs::write(dir.path().join("list.json"), "{\"a\": 1}\n").expect("a list");
        let before = std::fs::read(dir.path().join(precious)).expect("it is there");
        let output = run(&["copy", a.url(), b.url(), "--rejects", precious]);
        assert_eq!(output.code, 2, "{precious}: {output:?}");
        assert!(output.stderr.contains("something else than rejected rows"), "{}", output.stderr);
        assert!(std::fs::read(dir.path().join(precious)).expect("it is there") == before, "{precious}");
    }
}

#[test]
fn a_mirror_that_leaves_orphans_elsewhere_says_so() {
    for b in &TestDb::on_all() {
        let a = TestDb::new(Engine::Sqlite);
        a.execute("CREATE TABLE a (id INT NOT NULL PRIMARY KEY); INSERT INTO a VALUES (1)");
        b.execute("CREATE TABLE a (id INT NOT NULL PRIMARY KEY); INSERT INTO a VALUES (1), (9)");
        b.execute("CREATE TABLE child (id INT NOT NULL PRIMARY KEY, a INT, FOREIGN KEY (a) REFERENCES a (id) ON DELETE CASCADE)");
        b.execute("INSERT INTO child VALUES (1, 9)");
        let output = rowferry(&["copy", a.url(), b.url(), "--mode", "mirror", "--format", "json"]);
        assert_eq!(output.code, 1, "{:?}: {}", b.engine(), output.stdout);
        assert!(output.json()["problems"][0].as_str().is_some_and(|p| p.contains("child")), "{}", output.stdout);
    }
}

#[test]
fn a_database_is_not_written_onto_itself_however_its_url_is_spelled() {
    for b in &TestDb::on_all() {
        b.execute("CREATE TABLE t (id INT NOT NULL PRIMARY KEY); INSERT INTO t VALUES (1), (2)");
        let spelled = match b.engine() {
            Engine::Sqlite => b.url().replacen("sqlite:", "sqlite://", 1),
            _ => b.url().replacen("127.0.0.1", "localhost", 1),
        };
        let output = rowferry(&["copy", b.url(), &spelled, "--mode", "mirror", "--where", "t=id < 2"]);
        assert_eq!(output.code, 2, "{:?}: {}", b.engine(), output.stdout);
        assert!(output.stderr.contains("one database"), "{}", output.stderr);
        assert_eq!(b.value("SELECT count(*) FROM t"), "2");
    }
}

#[test]
fn a_file_with_two_names_is_one_database() {
    let a = TestDb::new(Engine::Sqlite);
    a.execute("CREATE TABLE t (id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1), (2)");
    let path = std::path::Path::new(a.url().trim_start_matches("sqlite:"));
    let other = path.with_extension("other");
    std::fs::hard_link(path, &other).expect("a second name");
    let other = format!("sqlite:{}", other.display());
    let output = rowferry(&["copy", a.url(), &other, "--mode", "mirror", "--where", "t=id < 2"]);
    assert_eq!(output.code, 2, "{output:?}");
    assert!(output.stderr.contains("one database"), "{}", output.stderr);
    assert_eq!(a.value("SELECT count(*) FROM t"), "2");
}

#[test]
fn a_rejects_file_that_cannot_be_written_is_told_before_anything_is_made() {
    let folder = tempfile::tempdir().expect("a folder");
    for b in TestDb::on_all() {
        let a = TestDb::new(Engine::Sqlite);
        a.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, at DATE); INSERT INTO t VALUES (1, 'no date')");
        for path in [folder.path().join("no/such/rejects.jsonl"), folder.path().to_owned()] {
            let path = path.display().to_string();
            let output = rowferry(&["copy", a.url(), b.url(), "--rejects", &path]);
            assert_eq!(output.code, 2, "{:?}: {output:?}", b.engine());
            assert!(output.stderr.contains(&format!("the rejects file {path} cannot be written")), "{output:?}");
            b.execute("CREATE TABLE t (x INT)"); // was not made
            b.execute("DROP TABLE t");
        }
        a.execute("DELETE FROM t");
        let path = folder.path().join("unused.jsonl");
        let typed = path.display().to_string();
        assert_eq!(rowferry(&["copy", a.url(), b.url(), "--rejects", &typed]).code, 0);
        assert!(!path.exists(), "there was nothing to say");
    }
}

#[test]
fn clocks_of_databases_in_different_zones_tell_the_same_moments() {
    for b in TestDb::on_all().iter().filter(|db| db.engine() != Engine::Sqlite) {
        let a = TestDb::new(Engine::Sqlite);
        a.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, at TIMESTAMP)");
        // In Berlin 02:30 of the last Sunday in March does not come, and in October it comes twice.
        a.execute(
            "INSERT INTO t VALUES (1, '2024-01-15 12:00:00'), (2, '2024-07-15 12:00:00.5'), (3, NULL),
                                  (4, '2024-03-31 02:30:00'), (5, '2024-10-27 02:30:00')",
        );
        let (zoned, seen) = match b.engine() {
            Engine::Postgres => {
                ("timestamptz", "SELECT to_char(at AT TIME ZONE 'UTC', 'MM-DD HH24:MI:SS.MS') FROM t WHERE id = 2")
            }
            _ => (
                "timestamp(6) NULL",
                "SELECT DATE_FORMAT(CONVERT_TZ(at, @@session.time_zone, '+00:00'), '%m-%d %H:%i:%s.500') FROM t WHERE id = 2",
            ),
        };
        b.execute(&format!("CREATE TABLE t (id INTEGER PRIMARY KEY, at {zoned})"));
        let dir = tempfile::tempdir().expect("a folder");
        let config = format!(
            "node: test\ndatabases:\n  a: {{ url: \"{}\", timezone: Europe/Berlin }}\n  b: {{ url: \"{}\" }}\n\
             syncs:\n  there: {{ source: a, target: b, direction: push, mode: full, tables: [t] }}\n",
            a.url(),
            b.url()
        );
        std::fs::write(dir.path().join("rowferry.yaml"), config).expect("written");
        let output = rowferry_in(dir.path(), &["copy", "a", "b", "--format", "json"]);
        assert_eq!(output.code, 1, "{:?}: {}", b.engine(), output.stderr);
        assert_eq!(output.json()["tables"][0]["quarantined"], 1, "{}", output.stdout);
        let rejects = std::fs::read_to_string(dir.path().join("rowferry-rejects.jsonl")).expect("the rejects");
        assert!(rejects.contains("never showed this time"), "{rejects}");
        assert_eq!(b.value(seen), "07-15 10:00:00.500", "{:?}", b.engine());
        a.execute("DELETE FROM t WHERE id = 4");
        assert_eq!(rowferry_in(dir.path(), &["diff", "a", "b"]).code, 0, "the same moments at {:?}", b.engine());
        let back = format!("sqlite:{}", dir.path().join("back.db").display());
        let config = format!(
            "node: test\ndatabases:\n  b: {{ url: \"{}\" }}\n  back: {{ url: \"{back}\", timezone: Europe/Berlin }}\n\
             syncs:\n  there: {{ source: b, target: back, direction: push, mode: full, tables: [t] }}\n",
            b.url()
        );
        std::fs::write(dir.path().join("rowferry.yaml"), config).expect("written");
        rusqlite::Connection::open(dir.path().join("back.db"))
            .and_then(|c| c.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, at TIMESTAMP)"))
            .expect("a table");
        let output = rowferry_in(dir.path(), &["sync"]);
        assert_eq!(output.code, 0, "{:?}: {}{}", b.engine(), output.stdout, output.stderr);
        let output = rowferry(&["diff", a.url(), &back, "--rows"]);
        assert_eq!(output.code, 0, "there and back from {:?}: {}", b.engine(), output.stdout);
    }
}

#[test]
fn decimals_that_are_shown_with_zeros_in_front_are_the_numbers_they_are() {
    for engine in [Engine::Mariadb, Engine::Mysql].into_iter().filter(|e| !e.is_left_out()) {
        let a = TestDb::new(engine);
        a.execute(
            "CREATE TABLE t (id DECIMAL(20,0) UNSIGNED ZEROFILL PRIMARY KEY, n DECIMAL(20,2) UNSIGNED ZEROFILL); \
             INSERT INTO t VALUES (0, 0), (7, 0.05), (100, 12.50), (12345678901234567890, 123456789012345678.90)",
        );
        let b = TestDb::new(Engine::Sqlite);
        copy(&a, &b, &[]);
        assert_eq!(
            b.value("SELECT group_concat(id || ' ' || n, ', ') FROM t WHERE length(id) < 5"),
            "0 0.00, 7 0.05, 100 12.50"
        );
        assert_eq!(copy(&a, &b, &[])["tables"][0]["updated"], 0, "a second run finds them equal");
        assert_equal(&a, &b);
    }
}

#[test]
fn text_that_is_no_utf8_stays_text_in_sqlite_and_is_rejected_elsewhere() {
    let a = TestDb::new(Engine::Sqlite);
    a.execute(
        "CREATE TABLE t (k TEXT PRIMARY KEY, v TEXT); \
         INSERT INTO t VALUES (CAST(x'ff' AS TEXT), 'one'), ('two', CAST(x'610062c3' AS TEXT)), ('three', x'c3'), ('four', 'é'); \
         CREATE TABLE u (k INT PRIMARY KEY, n INT, b BLOB, d DATE, j JSON, x)",
    );
    a.execute("INSERT INTO u SELECT 1, t, t, t, t, t FROM (SELECT CAST(x'37ff' AS TEXT) AS t)");
    a.execute("INSERT INTO u SELECT t, 1, t, NULL, NULL, t FROM (SELECT CAST(x'37fe' AS TEXT) AS t)");
    let seen = "SELECT group_concat(typeof(k) || hex(k) || typeof(v) || hex(v)) FROM (SELECT * FROM t ORDER BY k)";
    let others = "SELECT typeof(k), hex(k), typeof(n), hex(n), typeof(b), hex(b), typeof(d), hex(d), typeof(j), hex(j), \
                  typeof(x), hex(x) FROM u ORDER BY k";
    for b in TestDb::on_all() {
        let dir = tempfile::tempdir().expect("a folder");
        let output = rowferry_in(dir.path(), &["copy", a.url(), b.url(), "--allow-loss", "--format", "json"]);
        if b.engine() == Engine::Sqlite {
            assert_eq!(output.code, 0, "{output:?}");
            assert_eq!(b.value(seen), a.value(seen));
            assert_eq!(b.query(others), a.query(others));
            assert_eq!(copy(&a, &b, &["--mode", "mirror"])["tables"][0]["inserted"], 0);
            assert_equal(&a, &b);
        } else {
            assert_eq!(output.code, 1, "{:?}: {output:?}", b.engine());
            assert_eq!(output.json()["tables"][0]["quarantined"], 3, "{:?}: {output:?}", b.engine());
            assert_eq!(output.json()["tables"][1]["quarantined"], 2, "{:?}: {output:?}", b.engine());
            assert_eq!(b.value("SELECT v FROM t"), "é", "{:?}", b.engine());
            let rejects = std::fs::read_to_string(dir.path().join("rowferry-rejects.jsonl")).expect("the rejects");
            assert!(rejects.contains("\"k\":\"ff\"") && rejects.contains("\"v\":\"610062c3\""), "{rejects}");
        }
    }
}

/// Whatever stands under the name of the table that an unfinished copy has, it is told and left alone.
#[test]
fn a_foreign_table_of_our_name_is_told() {
    for b in &TestDb::on_all() {
        let a = TestDb::new(Engine::Sqlite);
        a.execute("CREATE TABLE t (id INT NOT NULL PRIMARY KEY); INSERT INTO t VALUES (1)");
        let foreign = [
            ("CREATE TABLE _rowferry_copy (id INT, x VARCHAR(20))", "DROP TABLE _rowferry_copy"),
            ("CREATE TABLE _rowferry_copy (name INT)", "DROP TABLE _rowferry_copy"),
            ("CREATE VIEW _rowferry_copy AS SELECT 1 AS id", "DROP VIEW _rowferry_copy"),
        ];
        for (make, drop) in foreign {
            b.execute(make);
            for more in [&[][..], &["--dry-run"]] {
                let output = rowferry(&[&["copy", a.url(), b.url(), "--format", "json"], more].concat());
                let said = output.json()["error"]["message"].to_string();
                assert_eq!(output.code, 2, "{make} {:?}: {output:?}", b.engine());
                assert!(said.contains("_rowferry_copy"), "{make} {:?}: {output:?}", b.engine());
            }
            b.execute(drop);
        }
        copy(&a, b, &[]);
    }
}

#[test]
fn what_stands_in_a_tables_way_is_found_before_anything_is_made() {
    for b in &TestDb::on_all() {
        let a = TestDb::new(Engine::Sqlite);
        a.execute("CREATE TABLE a (id INT NOT NULL PRIMARY KEY); CREATE TABLE t (id INT NOT NULL PRIMARY KEY)");
        b.execute("CREATE VIEW t AS SELECT 1 AS id");
        for more in [&[][..], &["--dry-run"], &["--no-create", "--tables", "t"], &["--schema-only"]] {
            let output = rowferry(&[&["copy", a.url(), b.url()], more].concat());
            assert_eq!(output.code, 2, "{more:?} {:?}: {output:?}", b.engine());
            assert!(output.stderr.contains("t is a view there"), "{more:?} {:?}: {output:?}", b.engine());
        }
        assert_eq!(b.traces(), Vec::<String>::new(), "{:?}", b.engine());
        b.attempt("SELECT * FROM a").expect_err("table a was not made");
        copy(&a, b, &["--exclude", "t"]);
    }
    let (a, b) = (TestDb::new(Engine::Sqlite), TestDb::new(Engine::Postgres));
    a.execute("CREATE TABLE t (id INT NOT NULL PRIMARY KEY)");
    for (make, what, drop) in [
        ("CREATE SEQUENCE t", "a sequence", "DROP SEQUENCE t"),
        ("CREATE MATERIALIZED VIEW t AS SELECT 1", "a materialized view", "DROP MATERIALIZED VIEW t"),
        ("CREATE TYPE t AS ENUM ('a')", "a type", "DROP TYPE t"),
        ("CREATE TABLE o (id INT); CREATE INDEX t ON o (id)", "an index", "DROP TABLE o"),
    ] {
        b.execute(make);
        let output = rowferry(&["copy", a.url(), b.url()]);
        assert_eq!(output.code, 2, "{what}: {output:?}");
        assert!(output.stderr.contains(&format!("t is {what} there")), "{what}: {output:?}");
        b.execute(drop);
    }
}

#[test]
fn names_that_are_no_tables_are_told_for_what_they_are() {
    for a in &TestDb::on_all() {
        a.execute("CREATE TABLE t (id INT NOT NULL PRIMARY KEY)");
        a.execute("CREATE VIEW v AS SELECT id FROM t");
        let b = TestDb::new(Engine::Sqlite);
        for (typed, said) in [
            (["--tables", "v"], "has no table 'v': v is a view"),
            (["--tables", "tt"], "has no table 'tt'; did you mean 't'?"),
            (["--exclude", "tt"], "exclude: "),
            (["--exclude", "x*"], "has no table 'x*'"),
        ] {
            let output = rowferry(&[&["copy", a.url(), b.url()], &typed[..]].concat());
            assert_eq!(output.code, 2, "{typed:?} {:?}: {output:?}", a.engine());
            assert!(output.stderr.contains(said), "{typed:?} {:?}: {output:?}", a.engine());
        }
    }
}

#[test]
fn a_comma_of_a_name_is_escaped() {
    let (a, b) = (TestDb::new(Engine::Sqlite), TestDb::new(Engine::Sqlite));
    a.execute("CREATE TABLE \"a,b\" (id INT); CREATE TABLE a (id INT); CREATE TABLE c (id INT)");
    let report = copy(&a, &b, &["--tables", r"a\,b,c"]);
    let tables: Vec<&str> =
        report["tables"].as_array().expect("tables").iter().filter_map(|t| t["table"].as_str()).collect();
    assert_eq!(tables, ["a,b", "c"]);
}

#[test]
fn the_document_names_the_file_of_the_rejects() {
    let (a, b) = (TestDb::new(Engine::Sqlite), TestDb::new(Engine::Sqlite));
    a.execute("CREATE TABLE t (id INT NOT NULL PRIMARY KEY, s TEXT); INSERT INTO t VALUES (1, 'ok'), (2, 'too long')");
    b.execute("CREATE TABLE t (id INT NOT NULL PRIMARY KEY, s TEXT CHECK (length(s) < 5))");
    let folder = tempfile::tempdir().expect("a folder");
    let run =
        |more: &[&str]| rowferry_in(folder.path(), &[&["copy", a.url(), b.url(), "--format", "json"], more].concat());
    let output = run(&["--rejects", "aside.jsonl"]);
    assert_eq!((output.code, &output.json()["rejects"]), (1, &"aside.jsonl".into()), "{output:?}");
    a.execute("DELETE FROM t WHERE id = 2");
    assert_eq!(run(&[]).json().get("rejects"), None);
}

#[test]
fn a_label_that_is_empty_is_told_from_the_value_that_is_no_label() {
    for from in [Engine::Mariadb, Engine::Mysql].into_iter().filter(|engine| Engine::available().contains(engine)) {
        let source = TestDb::new(from);
        source.execute(
            "SET sql_mode = '';
             CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, v ENUM('a', '') CHARACTER SET latin1);
             INSERT INTO t VALUES (1, 'a'), (2, ''), (3, 'none'), (4, NULL)",
        );
        assert_eq!(source.value("SELECT GROUP_CONCAT(v + 0 ORDER BY id) FROM t"), "1,2,0");
        for target in TestDb::on_all() {
            let to = target.engine();
            let folder = tempfile::tempdir().expect("a folder");
            let output = rowferry_in(folder.path(), &["copy", source.url(), target.url()]);
            assert_eq!(output.code, 1, "{from:?} -> {to:?}: {output:?}");
            let rejects = std::fs::read_to_string(folder.path().join("rowferry-rejects.jsonl")).expect("rejects");
            assert_eq!(rejects.lines().count(), 1, "{from:?} -> {to:?}: {rejects}");
            assert!(rejects.contains("\"id\":\"3\"") && rejects.contains("v: "), "{from:?} -> {to:?}: {rejects}");
            let rows: Vec<Option<String>> = target.query("SELECT v FROM t ORDER BY id").concat();
            assert_eq!(rows, [Some("a".to_owned()), Some(String::new()), None], "{from:?} -> {to:?}");
            if matches!(to, Engine::Mariadb | Engine::Mysql) {
                assert_eq!(target.value("SELECT v + 0 FROM t WHERE id = 2"), "2", "{from:?} -> {to:?}");
            }
        }
    }
}

#[test]
fn numbers_that_end_sooner_at_the_target_are_told() {
    for from in [Engine::Mariadb, Engine::Mysql].into_iter().filter(|engine| Engine::available().contains(engine)) {
        let source = TestDb::new(from);
        source.execute("CREATE TABLE t (id BIGINT UNSIGNED NOT NULL PRIMARY KEY AUTO_INCREMENT, v INTEGER)");
        source.execute("INSERT INTO t VALUES (1, 1), (9223372036854775808, 2)");
        for target in TestDb::on_all() {
            let plan = rowferry(&["copy", source.url(), target.url(), "--dry-run"]).stdout;
            let ends = !matches!(target.engine(), Engine::Mariadb | Engine::Mysql);
            assert_eq!(plan.contains("numbers end at 9223372036854775807"), ends, "{:?}: {plan}", target.engine());
        }
    }
}

/// A table that numbers its rows and never gives a number out twice.
fn numbered(engine: Engine) -> &'static str {
    match engine {
        Engine::Sqlite => "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, v VARCHAR(20))",
        Engine::Postgres => "CREATE TABLE t (id BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, v VARCHAR(20))",
        Engine::Mariadb | Engine::Mysql => "CREATE TABLE t (id BIGINT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(20))",
    }
}

fn next_number(db: &TestDb) -> u64 {
    db.execute("INSERT INTO t (v) VALUES ('next')");
    db.value("SELECT max(id) FROM t").parse().expect("a number")
}

#[test]
fn a_number_whose_row_is_gone_is_not_given_out_again() {
    for source in TestDb::on_all() {
        source.execute(numbered(source.engine()));
        source.execute("INSERT INTO t (v) VALUES ('a'), ('b'), ('c'), ('d'), ('e')");
        source.execute("DELETE FROM t WHERE id > 2");
        // Every second target in an ordinary run, the others with the table there before.
        let (all, at) = (Engine::available(), source.engine() as usize);
        for made in [false, true] {
            let chosen = all.iter().enumerate().filter(|(to, _)| long() || (to + at) % 2 == usize::from(made));
            for target in chosen.map(|(_, engine)| TestDb::new(*engine)) {
                let (from, to) = (source.engine(), target.engine());
                // SQLite alone keeps that in mind only where a table is made to.
                if to == Engine::Sqlite && from != to && !made {
                    continue;
                }
                if made {
                    target.execute(numbered(to));
                }
                copy(&source, &target, &[]);
                copy(&source, &target, &["--mode", "mirror"]);
                assert_eq!(next_number(&target), 6, "{from:?} -> {to:?}, made before: {made}");
                // Where the target is further it stays so.
                target.execute("INSERT INTO t (id, v) VALUES (50, 'far')");
                target.execute("DELETE FROM t WHERE id = 50");
                copy(&source, &target, &["--mode", "mirror"]);
                let next = next_number(&target);
                // PostgreSQL's sequence knows nothing of numbers that were given to it.
                assert_eq!(
                    next,
                    if to == Engine::Postgres { 7 } else { 51 },
                    "{from:?} -> {to:?}, made before: {made}"
                );
            }
        }
    }
}

/// As many tables as that are written side by side, and no more.
#[test]
fn tables_go_side_by_side_up_to_what_was_asked_for() {
    let names: Vec<String> = (1..=6).map(|n| format!("t{n}")).collect();
    let made: Vec<String> = names.iter().map(|name| format!("CREATE TABLE {name} (id INT PRIMARY KEY)")).collect();
    let a = TestDb::new(Engine::Sqlite);
    a.execute(&made.join("; "));
    for name in &names {
        a.execute(&format!("INSERT INTO {name} VALUES (1), (2)"));
    }
    let writing = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'COPY%' \
                   AND application_name = 'rowferry' AND wait_event_type = 'Lock'";
    for asked in ["3", "1"] {
        let b = TestDb::new(Engine::Postgres);
        b.execute(&made.join("; "));
        let other = b.session();
        other.query("BEGIN");
        other.query(&format!("LOCK TABLE {} IN EXCLUSIVE MODE", names.join(", ")));
        let mut run = start(&["copy", a.url(), b.url(), "--concurrency", asked]);
        wait("what is asked for", || {
            assert!(!run.is_over(), "nothing can be written");
            (b.value(writing) == asked).then_some(())
        });
        for _ in 0..20 {
            assert_eq!(b.value(writing), asked, "as many wait, and no more come");
        }
        other.query("COMMIT");
        let run = run.end();
        assert_eq!(run.code, 0, "{run:?}");
        assert_equal(&a, &b);
    }
}
