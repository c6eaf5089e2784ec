//! Names: twins, names that do not fit, globs, and names that would break a line.

use crate::support::{Engine, TestDb, rowferry};

#[track_caller]
fn refused(a: &str, b: &str, words: &[&str]) {
    let output = rowferry(&["copy", a, b]);
    assert_eq!(output.code, 2, "{}\n{}", output.stderr, output.stdout);
    for word in words {
        assert!(output.stderr.contains(word), "{word}: {}", output.stderr);
    }
}

#[test]
fn tables_that_differ_only_in_case_are_two() {
    let a = TestDb::new(Engine::Mariadb);
    a.execute("CREATE TABLE T (id INT PRIMARY KEY, only_upper INT, CONSTRAINT c CHECK (only_upper > 0))");
    a.execute("CREATE TABLE t (id INT PRIMARY KEY, only_lower VARCHAR(5), KEY k (only_lower))");
    a.execute("INSERT INTO T VALUES (1, 7)");
    a.execute("INSERT INTO t VALUES (1, 'x'), (2, 'y')");
    for b in [TestDb::new(Engine::Mariadb), TestDb::new(Engine::Postgres)] {
        let output = rowferry(&["copy", a.url(), b.url()]);
        assert_eq!(output.code, 0, "{:?}: {}", b.engine(), output.stderr);
        let quote = if b.engine() == Engine::Postgres { "\"" } else { "`" };
        assert_eq!(b.value(&format!("SELECT only_upper FROM {quote}T{quote}")), "7");
        assert_eq!(b.value("SELECT count(only_lower) FROM t"), "2");
        assert_eq!(rowferry(&["diff", a.url(), b.url()]).code, 0);
    }
}

#[test]
fn twins_are_refused_before_anything_is_made() {
    let a = TestDb::new(Engine::Postgres);
    a.execute("CREATE TABLE \"Order\" (id INT PRIMARY KEY); CREATE TABLE \"order\" (id INT PRIMARY KEY)");
    let b = TestDb::new(Engine::Sqlite);
    refused(a.url(), b.url(), &["Order", "order", "differ only in case"]);
    assert!(!std::path::Path::new(b.url().trim_start_matches("sqlite:")).exists(), "nothing was made");

    let a = TestDb::new(Engine::Postgres);
    a.execute("CREATE TABLE first (id INT PRIMARY KEY); CREATE TABLE t (id INT PRIMARY KEY, \"Ä\" INT, \"ä\" INT, \"A\" INT, \"a\" INT)");
    for b in TestDb::on_all().iter().filter(|b| b.engine() != Engine::Postgres) {
        let letters = if b.engine() == Engine::Sqlite { ["A", "a"] } else { ["Ä", "ä"] };
        refused(a.url(), b.url(), &[letters[0], letters[1], "table t"]);
        b.execute("CREATE TABLE first (x INT)"); // was not made
    }
    // Into a table that is there, too.
    let b = TestDb::new(Engine::Sqlite);
    b.execute("CREATE TABLE first (id INT PRIMARY KEY); CREATE TABLE t (id INT PRIMARY KEY, A INT, Ä INT, ä INT)");
    refused(a.url(), b.url(), &["columns A and a of table t are one column"]);
}

#[test]
fn names_that_do_not_fit_are_told_by_the_plan() {
    let long = "n".repeat(64);
    let a = TestDb::new(Engine::Sqlite);
    a.execute("CREATE TABLE \"aaa\" (id INT PRIMARY KEY)");
    a.execute(&format!("CREATE TABLE \"{long}{long}\" (id INT PRIMARY KEY)"));
    for b in TestDb::on_all().iter().filter(|b| b.engine() != Engine::Sqlite) {
        refused(a.url(), b.url(), &[&long, "at most"]);
        b.execute("CREATE TABLE aaa (x INT)"); // was not made
        let output = rowferry(&["diff", a.url(), b.url(), "--tables", &format!("{long}*")]);
        assert_eq!(output.code, 1, "{}", output.stderr);
    }
    let a = TestDb::new(Engine::Sqlite);
    a.execute("CREATE TABLE \"🦀\" (\"🐚\" INT PRIMARY KEY)");
    refused(a.url(), TestDb::new(Engine::Mariadb).url(), &["🦀", "U+FFFF"]);
    assert_eq!(rowferry(&["copy", a.url(), TestDb::new(Engine::Postgres).url()]).code, 0);
    let a = TestDb::new(Engine::Postgres);
    a.execute("CREATE TABLE sqlite_own (id INT)");
    refused(a.url(), TestDb::new(Engine::Sqlite).url(), &["sqlite_own", "for itself"]);
}

#[test]
fn a_table_that_only_one_side_has_is_a_difference() {
    let (a, b) = (TestDb::new(Engine::Sqlite), TestDb::new(Engine::Sqlite));
    a.execute("CREATE TABLE x (id INT PRIMARY KEY); CREATE TABLE both (id INT PRIMARY KEY)");
    b.execute("CREATE TABLE y (id INT PRIMARY KEY); CREATE TABLE both (id INT PRIMARY KEY)");
    for (asked, said) in [("x", "only A has this table"), ("y", "only B has this table")] {
        let output = rowferry(&["diff", a.url(), b.url(), "--tables", asked]);
        assert_eq!(output.code, 1, "{}", output.stderr);
        assert!(output.stdout.contains(said), "{}", output.stdout);
    }
    assert_eq!(rowferry(&["diff", a.url(), b.url(), "--tables", "both"]).code, 0);
    let output = rowferry(&["diff", a.url(), b.url(), "--tables", "z"]);
    assert_eq!(output.code, 2, "{}", output.stderr);
    assert!(output.stderr.contains("'z'"), "{}", output.stderr);
}

#[test]
fn stars_in_names_are_escaped() {
    let (a, b) = (TestDb::new(Engine::Sqlite), TestDb::new(Engine::Sqlite));
    a.execute("CREATE TABLE \"a*\" (id INT PRIMARY KEY); CREATE TABLE ab (id INT PRIMARY KEY)");
    let output = rowferry(&["copy", a.url(), b.url(), "--tables", "a\\*", "--format", "json"]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert_eq!(output.json()["tables"].as_array().map(Vec::len), Some(1), "{}", output.stdout);
    // Compared as it is called, not as a glob: `ab` is missing at B and must not be asked for.
    let output = rowferry(&["diff", a.url(), b.url(), "--format", "json"]);
    assert_eq!(output.code, 1, "{}", output.stderr);
    assert_eq!(output.json()["tables"][0]["equal"], true, "{}", output.stdout);
}

#[test]
fn names_do_not_break_lines() {
    let (a, b) = (TestDb::new(Engine::Sqlite), TestDb::new(Engine::Sqlite));
    a.execute("CREATE TABLE \"two\nlines\u{1b}[31m\" (\"id\n\" INTEGER PRIMARY KEY)");
    a.execute("INSERT INTO \"two\nlines\u{1b}[31m\" VALUES (1)");
    for arguments in [vec!["copy", "--dry-run"], vec!["copy"], vec!["diff", "--rows"]] {
        let mut typed = vec![arguments[0], a.url(), b.url()];
        typed.extend(&arguments[1..]);
        let output = rowferry(&typed);
        assert_eq!(output.code, 0, "{}", output.stderr);
        assert!(output.stdout.contains("two\\nlines\\u{1b}[31m"), "{}", output.stdout);
        assert!(!output.stdout.contains('\u{1b}'), "{}", output.stdout);
    }
    let output = rowferry(&["copy", a.url(), b.url(), "--tables", "no\nsuch"]);
    assert_eq!(output.stderr.trim_end().lines().count(), 1, "{}", output.stderr);
}
