//! What `rowferry sync` and `rowferry check` say of the syncs of a file, and how they end.

use std::path::Path;

use crate::support::{Engine, TestDb, rowferry_in};

/// A folder whose `rowferry.yaml` names `databases` and copies the tables `t` of these pairs.
fn folder(databases: &[(&str, &str)], syncs: &[(&str, &str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let databases: String = databases.iter().map(|(name, url)| format!("  {name}: {{ url: \"{url}\" }}\n")).collect();
    let syncs: String = syncs
        .iter()
        .map(|(name, source, target)| {
            format!("  {name}: {{ source: {source}, target: {target}, direction: push, mode: full, tables: [t] }}\n")
        })
        .collect();
    write(folder.path(), &format!("databases:\n{databases}syncs:\n{syncs}"));
    folder
}

fn write(folder: &Path, config: &str) {
    std::fs::write(folder.join("rowferry.yaml"), config).expect("the config");
}

fn source() -> TestDb {
    let db = TestDb::new(Engine::Sqlite);
    db.execute("CREATE TABLE t (id INT NOT NULL PRIMARY KEY, n INT); INSERT INTO t VALUES (1, 1), (2, 2)");
    db
}

const AWAY: &str = "postgres://nobody@127.0.0.1:1/nothing?connect_timeout=2";

#[test]
fn a_round_that_wrote_ends_with_1_whatever_failed_in_it() {
    let (a, b, empty) = (source(), TestDb::new(Engine::Sqlite), TestDb::new(Engine::Sqlite));
    empty.execute("CREATE TABLE other (id INT)");
    let databases = [("a", a.url()), ("b", b.url()), ("empty", empty.url()), ("away", AWAY)];
    let all = folder(&databases, &[("lost", "a", "away"), ("good", "a", "b"), ("bad", "empty", "b")]);
    let output = rowferry_in(all.path(), &["sync"]);
    assert_eq!(output.code, 1, "{output:?}");
    assert_eq!(b.value("SELECT count(*) FROM t"), "2");
    for name in ["lost", "bad"] {
        assert_eq!(output.stderr.matches(&format!("sync {name}: ")).count(), 1, "{}", output.stderr);
    }
    assert_eq!(output.stderr.lines().count(), 2, "{}", output.stderr);
    for (name, code) in [("lost", 3), ("bad", 2)] {
        let output = rowferry_in(all.path(), &["sync", name]);
        assert_eq!((output.code, output.stderr.lines().count()), (code, 1), "{name}: {output:?}");
    }
}

#[test]
fn a_file_that_the_sync_will_make_is_no_fault_of_the_config() {
    let a = source();
    let all = folder(&[("a", a.url()), ("b", "sqlite:b.db")], &[("one", "a", "b")]);
    let output = rowferry_in(all.path(), &["check"]);
    assert_eq!(output.code, 0, "{output:?}");
    assert!(output.stdout.contains("b: the file does not exist yet; the sync will make it"), "{}", output.stdout);
    assert!(!all.path().join("b.db").exists());
    let other = folder(&[("a", "sqlite:a.db"), ("b", a.url())], &[("one", "a", "b")]);
    assert_eq!(rowferry_in(other.path(), &["check"]).code, 3, "nothing makes the sending side");
}

#[test]
fn log_lines_read_like_every_other_sentence() {
    let (a, b) = (source(), TestDb::new(Engine::Sqlite));
    let all = folder(&[("a", a.url()), ("b", b.url())], &[("one", "a", "b")]);
    let output = rowferry_in(all.path(), &["sync", "-v"]);
    assert_eq!(output.code, 0, "{output:?}");
    assert!(output.stderr.lines().all(|line| line.starts_with("rowferry: info: ")), "{output:?}");
    assert!(output.stderr.contains("rowferry: info: sync one has read 2 rows\n"), "{output:?}");
}

#[test]
fn quiet_runs_say_nothing_when_all_went_well() {
    let (a, b) = (source(), TestDb::new(Engine::Sqlite));
    let all = folder(&[("a", a.url()), ("b", b.url())], &[("one", "a", "b")]);
    for arguments in [vec!["-q", "sync"], vec!["-q", "copy", a.url(), b.url()]] {
        let output = rowferry_in(all.path(), &arguments);
        assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (0, "", ""), "{arguments:?}");
        let output = rowferry_in(all.path(), &[arguments, vec!["--format", "json"]].concat());
        assert!(output.json().is_array() || output.json()["status"] == "succeeded", "{output:?}");
    }
    b.execute("DROP TABLE t; CREATE TABLE t (id INT NOT NULL PRIMARY KEY, n INT CHECK (n < 2))");
    let output = rowferry_in(all.path(), &["-q", "sync"]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stdout.contains("one row could not be written"), "{output:?}");
}

#[test]
fn the_written_config_works_once_the_databases_are_there() {
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(rowferry_in(folder.path(), &["init"]).code, 0);
    let path = folder.path().join("rowferry.yaml");
    let text = std::fs::read_to_string(&path).expect("the config");
    let (a, b) = (TestDb::new(Engine::Sqlite), TestDb::new(Engine::Sqlite));
    a.execute("CREATE TABLE customers (id INT NOT NULL PRIMARY KEY, name TEXT); INSERT INTO customers VALUES (1, 'x')");
    write(folder.path(), &text.replace("sqlite:app.db", a.url()).replace("sqlite:copy.db", b.url()));
    for command in ["check", "sync", "check"] {
        let output = rowferry_in(folder.path(), &[command]);
        assert_eq!(output.code, 0, "{command}: {output:?}");
    }
    assert_eq!(b.value("SELECT name FROM customers"), "x");
    for named in text.split("`rowferry ").skip(1).filter_map(|rest| rest.split('`').next()) {
        let words = named.split(' ').chain(["--help"]).collect::<Vec<_>>();
        assert_eq!(rowferry_in(folder.path(), &words).code, 0, "`rowferry {named}` is no command");
    }
}

#[test]
fn another_systems_config_is_translated_once_and_for_its_owner_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let old = "APP_MODE=slave\nMASTER_URL=https://master.example.com\nSYNC_API_KEY=k\n";
    std::fs::write(folder.path().join(".env"), old).expect("written");
    let output = rowferry_in(folder.path(), &["init", "--from", ".env"]);
    assert_eq!(output.code, 0, "{output:?}");
    for words in ["wrote rowferry.yaml from .env (Laravel)", "php artisan sync:run", "rowferry sync inventory sales"] {
        assert!(output.stdout.contains(words), "{words}: {}", output.stdout);
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let written = std::fs::metadata(folder.path().join("rowferry.yaml")).expect("the config");
        assert_eq!(written.permissions().mode() & 0o777, 0o600);
    }
    let again = rowferry_in(folder.path(), &["init", "--from", ".env"]);
    assert_eq!(again.code, 2, "{again:?}");
    assert!(again.stderr.contains("exists already"), "{again:?}");
    let other = rowferry_in(folder.path(), &["-c", "other.yaml", "--format", "json", "init", "--from", ".env"]);
    assert_eq!((other.code, &other.json()["blanks"]), (0, &serde_json::json!(0)), "{other:?}");
    let missing = rowferry_in(folder.path(), &["init", "--from", "nothing.env"]);
    assert_eq!(missing.code, 2, "{missing:?}");
    // What it says is read as a configuration, whose database is not here.
    let sync = rowferry_in(folder.path(), &["sync", "sales"]);
    assert_eq!(sync.code, 3, "{sync:?}");
    assert!(sync.stderr.contains("sync sales"), "{sync:?}");
}

#[test]
fn a_sentence_says_a_sync_once() {
    let a = source();
    let all = folder(&[("a", a.url()), ("b", "sqlite:b.db")], &[]);
    let text = std::fs::read_to_string(all.path().join("rowferry.yaml")).expect("the config");
    let sync = "syncs:\n  one: { source: a, target: b, mode: incremental, capture: log, tables: [t] }\n";
    write(all.path(), &text.replace("syncs:\n", sync));
    for command in ["check", "sync"] {
        let output = rowferry_in(all.path(), &[command]);
        assert_eq!((output.code, output.stderr.matches("sync one").count()), (2, 1), "{output:?}");
    }
}

#[test]
fn a_sync_comes_after_those_that_it_waits_for_and_not_without_them() {
    let (a, b) = (source(), TestDb::new(Engine::Sqlite));
    let all = folder(&[("a", a.url()), ("b", b.url())], &[]);
    let text = std::fs::read_to_string(all.path().join("rowferry.yaml")).expect("the config");
    let sync = |name: &str, table: &str, after: &str| {
        format!("  {name}: {{ source: a, target: b, mode: full, tables: [{table}], after: [{after}] }}\n")
    };
    let syncs = |first: &str| ["syncs:\n", &sync("last", "t", "middle"), &sync("middle", "t", "first"), first].concat();
    write(all.path(), &text.replace("syncs:\n", &syncs(&sync("first", "t", ""))));
    let output = rowferry_in(all.path(), &["sync", "--format", "json"]);
    assert_eq!(output.code, 0, "{output:?}");
    let names: Vec<_> = output.json().as_array().expect("a list").iter().map(|one| one["sync"].clone()).collect();
    assert_eq!(names, ["first", "middle", "last"]);
    write(all.path(), &text.replace("syncs:\n", &syncs(&sync("first", "nowhere", ""))));
    let output = rowferry_in(all.path(), &["sync", "--format", "json"]);
    assert_ne!(output.code, 0, "{output:?}");
    let json = output.json();
    assert_eq!(json[1]["error"], "first did not succeed", "{json}");
    assert_eq!(json[2]["error"], "middle did not succeed", "{json}");
    assert_eq!(rowferry_in(all.path(), &["sync", "middle"]).code, 0, "asked for alone it waits for nothing");
}

#[test]
fn a_number_out_of_range_is_told_what_is_allowed() {
    for (name, text) in [("c.yaml", "defaults: { concurrency: -1 }"), ("c.toml", "defaults = { concurrency = -1 }")] {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join(name), text).expect("the config");
        let output = rowferry_in(folder.path(), &["check", "-c", name]);
        assert_eq!(output.code, 2, "{output:?}");
        assert!(output.stderr.contains("a whole number of at least 1"), "{output:?}");
    }
}

#[test]
fn a_check_of_one_sync_leaves_other_databases_alone() {
    let (a, b) = (source(), source());
    let databases = [("a", a.url()), ("b", b.url()), ("away", AWAY)];
    let all = folder(&databases, &[("good", "a", "b"), ("lost", "a", "away")]);
    let output = rowferry_in(all.path(), &["check", "good"]);
    assert_eq!(output.code, 0, "{output:?}");
    assert!(!output.stdout.contains("away"), "{output:?}");
    assert_eq!(rowferry_in(all.path(), &["check"]).code, 3);
    let output = rowferry_in(all.path(), &["check", "nope"]);
    assert_eq!((output.code, output.stdout.as_str()), (2, ""), "{output:?}");
    assert!(output.stderr.contains("no sync 'nope'"), "{output:?}");
}

#[test]
fn a_sync_tells_its_steps_when_asked() {
    let (a, b) = (source(), source());
    let all = folder(&[("a", a.url()), ("b", b.url())], &[("one", "a", "b")]);
    let output = rowferry_in(all.path(), &["sync", "-v"]);
    assert!(output.stderr.contains("table t: done: 2 rows read"), "{output:?}");
    let config = std::fs::read_to_string(all.path().join("rowferry.yaml")).expect("the config");
    write(all.path(), &config.replace("mode: full", "mode: incremental"));
    a.execute("INSERT INTO t VALUES (3, 3)");
    let output = rowferry_in(all.path(), &["sync", "-v"]);
    assert!(
        output.stderr.contains("sync one: changes of ") && output.stderr.contains("sync one: table t: "),
        "{output:?}"
    );
}
