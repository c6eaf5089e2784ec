//! What the commands say, on which stream, in which form.

use std::process::{Command, Stdio};

use crate::support::{Engine, TestDb, rowferry, rowferry_in};

fn table(engine: Engine, rows: std::ops::Range<i32>) -> TestDb {
    let db = TestDb::new(engine);
    db.execute("CREATE TABLE t (id INT NOT NULL PRIMARY KEY, n NUMERIC(8,3))");
    let rows: Vec<String> = rows.map(|id| format!("({id}, 1.5)")).collect();
    if !rows.is_empty() {
        db.execute(&format!("INSERT INTO t VALUES {}", rows.join(", ")));
    }
    db
}

#[test]
fn a_dry_run_into_a_file_that_is_not_there_makes_none() {
    let (a, b) = (table(Engine::Sqlite, 0..3), TestDb::new(Engine::Sqlite));
    let output = rowferry(&["copy", a.url(), b.url(), "--dry-run"]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(output.stdout.contains("3 rows, create"), "{}", output.stdout);
    assert!(!std::path::Path::new(b.url().trim_start_matches("sqlite:")).exists());
}

#[test]
fn a_dry_mirror_counts_what_it_would_change() {
    for b in &TestDb::on_all() {
        let a = table(Engine::Sqlite, 0..10);
        b.execute("CREATE TABLE t (id INT NOT NULL PRIMARY KEY, n NUMERIC(6,2))");
        b.execute("INSERT INTO t VALUES (8, 1.5), (9, 2), (10, 1.5), (11, 1.5), (12, 1.5)");
        a.execute("UPDATE t SET n = 1.234 WHERE id IN (0, 8)");
        let plan = rowferry(&["copy", a.url(), b.url(), "--mode", "mirror", "--dry-run", "--format", "json"]);
        assert_eq!(plan.code, 0, "{}", plan.stderr);
        let run = rowferry(&["copy", a.url(), b.url(), "--mode", "mirror", "--format", "json"]);
        for counter in ["inserted", "updated", "deleted", "quarantined"] {
            let (told, done) =
                (plan.json()["tables"][0]["changes"][counter].clone(), run.json()["tables"][0][counter].clone());
            assert_eq!(told, done, "{counter} at {:?}", b.engine());
        }
        assert!(run.json()["tables"][0]["deleted"] == 3 && run.json()["tables"][0]["updated"] != 0, "{}", run.stdout);
    }
}

#[test]
fn a_refused_mirror_reports_nothing_written() {
    for b in TestDb::on_all() {
        let a = table(Engine::Sqlite, 0..1);
        let b = {
            drop(b.query("SELECT 1"));
            table(b.engine(), 500..700)
        };
        let output = rowferry(&["copy", a.url(), b.url(), "--mode", "mirror", "--format", "json"]);
        assert_eq!(output.code, 1, "{}", output.stderr);
        let table = &output.json()["tables"][0];
        assert_eq!((&table["inserted"], &table["deleted"]), (&0.into(), &0.into()), "{table}");
        assert_eq!(b.value("SELECT count(*) FROM t"), "200");
    }
}

#[test]
fn a_row_that_does_not_fit_and_is_not_there_is_one_that_only_a_has() {
    for b in &TestDb::on_all() {
        let a = table(Engine::Postgres, 1..4);
        b.execute("CREATE TABLE t (id INT NOT NULL PRIMARY KEY, n NUMERIC(6,2))");
        b.execute("INSERT INTO t VALUES (1, 1.5), (3, 1.5)");
        a.execute("UPDATE t SET n = 1.234 WHERE id > 1");
        let output = rowferry(&["diff", a.url(), b.url(), "--rows", "--format", "json"]);
        assert_eq!(output.code, 1, "{}", output.stderr);
        let table = &output.json()["tables"][0];
        let mut kinds: Vec<(String, String)> = table["rows"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|row| (row["key"]["id"].to_string(), row["kind"].as_str().unwrap_or_default().to_owned()))
            .collect();
        kinds.sort();
        let expected = [("2", "only_a"), ("3", "changed")].map(|(id, kind)| (id.to_owned(), kind.to_owned()));
        assert_eq!(kinds, expected, "{table}");
        assert_eq!((&table["rows_a"], &table["rows_b"]), (&3.into(), &2.into()), "{table}");
    }
}

#[test]
fn a_rejected_row_names_every_column_that_does_not_fit() {
    let (a, b) = (TestDb::new(Engine::Sqlite), TestDb::new(Engine::Postgres));
    a.execute(
        "CREATE TABLE t (id INT NOT NULL PRIMARY KEY, s TEXT, n TEXT); INSERT INTO t VALUES (1, 'too long', NULL)",
    );
    b.execute("CREATE TABLE t (id INT PRIMARY KEY, s VARCHAR(3), n TEXT NOT NULL)");
    let dir = tempfile::tempdir().expect("a folder");
    for _ in 0..2 {
        assert_eq!(rowferry_in(dir.path(), &["copy", a.url(), b.url()]).code, 1);
        let line = std::fs::read_to_string(dir.path().join("rowferry-rejects.jsonl")).expect("the rejects");
        assert!(line.contains("s: 8 characters do not fit") && line.contains("n: it must not be NULL"), "{line}");
        b.execute("INSERT INTO t VALUES (2, 'x', 'x') ON CONFLICT DO NOTHING"); // the next run compares
    }
}

#[test]
fn errors_are_one_document_too() {
    let a = table(Engine::Sqlite, 0..1);
    for (arguments, code, kind) in [
        (vec!["copy", "sqlite:/no/such/file.db", "sqlite:x.db"], 3, "unreachable"),
        (vec!["copy", a.url(), "sqlite:x.db", "--tables", "nix"], 2, "schema-mismatch"),
        (vec!["copy", a.url(), "sqlite:x.db", "--where", "t"], 2, "usage"),
        (vec!["diff", a.url()], 2, "usage"),
        (vec!["sync"], 2, "usage"),
    ] {
        let mut typed = vec!["--format", "json"];
        typed.extend(&arguments);
        let output = rowferry(&typed);
        assert_eq!(output.code, code, "{}", output.stderr);
        let error = &output.json()["error"];
        assert_eq!(error["kind"], kind, "{}", output.stdout);
        let message = error["message"].as_str().unwrap_or_default();
        let said = output.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(!message.is_empty() && said.contains(message), "{output:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_stdout_is_noticed_and_a_closed_one_is_not_the_commands_fault() {
    let (a, b) = (table(Engine::Sqlite, 0..1), table(Engine::Sqlite, 0..1));
    for arguments in [
        vec!["check", "--help"],
        vec!["init", "--schema"],
        vec!["man"],
        vec!["completions", "bash"],
        vec!["diff", a.url(), b.url()],
    ] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        let run = |stdout: Stdio| {
            let program = env!("CARGO_BIN_EXE_rowferry");
            Command::new(program).args(&arguments).stdout(stdout).stderr(Stdio::piped()).spawn().expect("the program")
        };
        let output = run(full.into()).wait_with_output().expect("its end");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        let mut child = run(Stdio::piped());
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("its end");
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{arguments:?}: {output:?}");
    }
}

#[test]
fn a_condition_stays_between_its_parentheses() {
    for a in &TestDb::on_all() {
        a.execute("CREATE TABLE t (id INT NOT NULL PRIMARY KEY, s VARCHAR(20))");
        a.execute("INSERT INTO t VALUES (1, 'a)'), (2, 'b;--')");
        for bad in
            ["t=id = 1) OR (1 = 1", "t=id = 1 -- x", "t=id = 1 /* x", "t=1; DROP TABLE t", "t=s = 'x", "t=(id = 1"]
        {
            let b = TestDb::new(Engine::Sqlite);
            let output = rowferry(&["copy", a.url(), b.url(), "--where", bad]);
            assert_eq!(output.code, 2, "{bad} at {:?}: {}", a.engine(), output.stderr);
            assert!(output.stderr.contains("the condition"), "{bad}: {}", output.stderr);
        }
        let b = TestDb::new(Engine::Sqlite);
        let output = rowferry(&["copy", a.url(), b.url(), "--where", "t=s = 'b;--' AND (id IN (2))"]);
        assert_eq!(output.code, 0, "{}", output.stderr);
        assert_eq!(b.value("SELECT count(*) FROM t"), "1");
    }
}

#[test]
fn a_sentence_says_a_table_once() {
    for a in &TestDb::on_all() {
        a.execute("CREATE TABLE big (id INT NOT NULL PRIMARY KEY)");
        let b = TestDb::new(Engine::Sqlite);
        let output = rowferry(&["copy", a.url(), b.url(), "--where", "big=nix = 1"]);
        assert_eq!(output.code, 2, "{}", output.stderr);
        assert_eq!(output.stderr.matches("table big").count(), 1, "{}", output.stderr);
    }
}

#[test]
fn a_dry_mirror_says_when_the_run_needs_force() {
    for (there, needs) in [(0..300, true), (0..150, false)] {
        let (a, b) = (table(Engine::Sqlite, 0..100), table(Engine::Sqlite, there));
        let typed = ["copy", a.url(), b.url(), "--mode", "mirror", "--dry-run"];
        let text = rowferry(&typed);
        assert_eq!((text.code, text.stdout.contains("the run needs --force")), (0, needs), "{text:?}");
        let document = rowferry(&[&typed[..], &["--format", "json"]].concat()).json();
        assert_eq!(document["tables"][0]["changes"]["needs_force"], needs, "{document}");
        let run = rowferry(&typed[..5]);
        assert_eq!(run.code, i32::from(needs), "{run:?}");
    }
}

#[test]
fn the_help_tells_what_urls_take() {
    for typed in [vec!["copy", "--help"], vec!["diff", "--help"], vec!["--help"], vec!["man"]] {
        let told = rowferry(&typed).stdout.replace("\\-", "-");
        for parameter in ["schema=NAME", "ssl-mode", "busy_timeout"] {
            assert!(told.contains(parameter), "{typed:?} names no {parameter}: {told}");
        }
    }
}

#[test]
fn a_repair_says_which_rows_cannot_stand_at_the_other_side() {
    let (a, b) = (TestDb::new(Engine::Sqlite), TestDb::new(Engine::Sqlite));
    a.execute(
        "CREATE TABLE t (id INT NOT NULL PRIMARY KEY, s VARCHAR(9)); INSERT INTO t VALUES (1, 'ok'), (2, 'too long')",
    );
    b.execute("CREATE TABLE t (id INT NOT NULL PRIMARY KEY, s VARCHAR(9) CHECK (length(s) < 5))");
    let output = rowferry(&["diff", a.url(), b.url(), "--repair", "a-to-b"]);
    assert_eq!(output.code, 1, "{output:?}");
    let told = output.stdout.lines().find(|line| line.starts_with("1 row cannot stand at the other side"));
    assert!(told.is_some_and(|line| line.contains("table t: ") && line.contains("length(s) < 5")), "{output:?}");
}

#[test]
fn the_steps_are_told_when_asked_for() {
    let (a, b) = (table(Engine::Sqlite, 0..3), TestDb::new(Engine::Postgres));
    let steps = |typed: &[&str], expected: &[&str]| {
        let output = rowferry(typed);
        assert_eq!(output.code, 0, "{output:?}");
        for step in expected {
            assert!(output.stderr.contains(step), "{step}: {output:?}");
        }
        output.stderr
    };
    let copy = ["copy", a.url(), b.url()];
    assert_eq!(steps(&copy, &[]), "");
    let told = ["is reached: SQLite", "planned: 1 tables", "table t: rows are compared", "table t: done: 3 rows read"];
    steps(&[&copy[..], &["-v"]].concat(), &told);
    b.execute("DROP TABLE t");
    let loud = steps(&[&copy[..], &["-vv"]].concat(), &["debug: CREATE TABLE", "3 rows are there for good"]);
    assert!(loud.contains("1 tables are made") && loud.contains("told apart by id"), "{loud}");
    steps(&["diff", a.url(), b.url(), "-v"], &["table t: its rows are compared", "3 rows in A, 3 in B, 0 differ"]);
}

#[test]
fn the_manual_page_has_the_options_of_all_commands() {
    let page = rowferry(&["man"]).stdout.replace("\\-", "-");
    for told in
        ["--where", "--repair", "--batch-size", "--mode", "--watch", ".SH ROWFERRY COPY", ".SH ROWFERRY KEYS CREATE"]
    {
        assert!(page.contains(told), "{told}: {page}");
    }
    assert_eq!(page.matches(r"\fB--format\fR \fI").count(), 1, "what all commands take is told once: {page}");
}

#[test]
fn quiet_is_quiet() {
    let (a, b) = (table(Engine::Sqlite, 0..3), table(Engine::Sqlite, 0..3));
    let output = rowferry(&["diff", a.url(), b.url(), "-q"]);
    assert_eq!((output.code, output.stdout + &output.stderr), (0, String::new()));
    b.execute("DELETE FROM t WHERE id = 1");
    let output = rowferry(&["diff", a.url(), b.url(), "-q", "--rows"]);
    assert_eq!((output.code, output.stdout + &output.stderr), (1, String::new()));
    let output = rowferry(&["demo", "-q", "--seconds", "1", "--scale", "1"]);
    assert_eq!((output.code, output.stdout + &output.stderr), (0, String::new()));
}

/// Parents stand before children, each with the key by which its rows are told apart and what becomes of its columns.
#[test]
fn a_plan_tells_the_order_the_keys_and_the_types() {
    let a = TestDb::new(Engine::Sqlite);
    a.execute(
        "CREATE TABLE a_child (id INTEGER PRIMARY KEY, up TEXT REFERENCES z_parent (code)); \
         CREATE TABLE z_parent (code TEXT PRIMARY KEY, v BLOB); CREATE TABLE loose (v TEXT)",
    );
    let b = TestDb::new(Engine::Mariadb);
    let plan = ["copy", a.url(), b.url(), "--dry-run"];
    let document = rowferry(&[&plan[..], &["--format", "json"]].concat()).json();
    let told = |what: &str| -> Vec<serde_json::Value> {
        document["tables"].as_array().expect("tables").iter().map(|table| table[what].clone()).collect()
    };
    assert_eq!(told("table"), ["loose", "z_parent", "a_child"]);
    assert_eq!(told("key"), [serde_json::Value::Null, serde_json::json!(["code"]), serde_json::json!(["id"])]);
    let text = rowferry(&plan).stdout;
    for line in [
        "  1. loose  0 rows, create, key: whole rows",
        "  2. z_parent  0 rows, create, key: code",
        "  3. a_child  0 rows, create, key: id",
        "       v: BLOB -> longblob",
        "       code: TEXT -> varchar(768)",
    ] {
        assert!(text.lines().any(|said| said == line), "no '{line}' in {text}");
    }
}

#[test]
fn completions_of_each_shell_know_commands_and_options() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let output = rowferry(&["completions", shell]);
        assert_eq!((output.code, output.stderr.as_str()), (0, ""), "{shell}");
        for word in ["copy", "conflicts", "where", "repair", "batch-size"] {
            assert!(output.stdout.contains(word), "{shell} does not know {word}");
        }
    }
}
