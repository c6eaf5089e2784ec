//! What a plan leaves out, makes differently or refuses, and says so.

use crate::support::{Engine, TestDb, program, rowferry, rowferry_in};

#[test]
fn a_foreign_key_without_its_parent_is_left_out() {
    for source in [Engine::Sqlite, Engine::Postgres] {
        for b in TestDb::on_all() {
            let a = TestDb::new(source);
            a.execute(
                "CREATE TABLE parent (id INTEGER PRIMARY KEY); \
                 CREATE TABLE child (id INTEGER PRIMARY KEY, up INTEGER REFERENCES child (id), of INTEGER, \
                 CONSTRAINT x FOREIGN KEY (of) REFERENCES parent (id)); \
                 INSERT INTO parent VALUES (7); INSERT INTO child VALUES (1, NULL, 7), (2, 1, 7)",
            );
            let alone = ["copy", a.url(), b.url(), "--tables", "child"];
            let plan = rowferry(&[&alone[..], &["--dry-run"]].concat());
            assert_eq!(plan.code, 0, "{}", plan.stderr);
            assert!(
                plan.stdout.contains("left out: foreign key")
                    && plan.stdout.contains("copy parent before it or with it"),
                "{plan:?}"
            );
            let output = rowferry(&alone);
            assert_eq!(output.code, 0, "{source:?} -> {:?}: {output:?}", b.engine());
            assert!(b.traces().is_empty(), "{:?}", b.traces());
            // The reference to itself is kept: its rows cannot dangle.
            let checked = if b.engine() == Engine::Sqlite { "PRAGMA foreign_keys = ON; " } else { "" };
            assert!(b.attempt(&format!("{checked}INSERT INTO child VALUES (9, 8, 7)")).is_err(), "{:?}", b.engine());
            assert_eq!(rowferry(&["copy", a.url(), b.url()]).code, 0);
        }
    }
}

#[test]
fn a_foreign_key_to_a_table_that_is_at_the_target_is_kept() {
    for b in TestDb::on_all() {
        let a = TestDb::new(Engine::Sqlite);
        a.execute(
            "CREATE TABLE parent (id INTEGER PRIMARY KEY); \
             CREATE TABLE c1 (id INTEGER PRIMARY KEY, of INTEGER REFERENCES parent (id)); \
             CREATE TABLE c2 (id INTEGER PRIMARY KEY, of INTEGER REFERENCES PARENT (id)); \
             INSERT INTO parent VALUES (7); INSERT INTO c1 VALUES (1, 7)",
        );
        for tables in ["parent", "c1", "*"] {
            let output = rowferry(&["copy", a.url(), b.url(), "--tables", tables]);
            assert_eq!(output.code, 0, "{:?}: {output:?}", b.engine());
        }
        let checked = if b.engine() == Engine::Sqlite { "PRAGMA foreign_keys = ON; " } else { "" };
        for child in ["c1", "c2"] {
            let orphan = b.attempt(&format!("{checked}INSERT INTO {child} VALUES (2, 8)"));
            assert!(orphan.is_err(), "{child} of {:?}", b.engine());
        }
    }
}

#[test]
fn a_foreign_key_that_cannot_be_made_after_the_rows_is_no_refusal() {
    let (a, b) = (TestDb::new(Engine::Postgres), TestDb::new(Engine::Postgres));
    a.execute(
        "CREATE TABLE parent (id INT PRIMARY KEY); \
         CREATE TABLE child (id INT PRIMARY KEY, of INT REFERENCES parent); INSERT INTO child VALUES (1, NULL)",
    );
    b.execute("CREATE TABLE parent (id INT)");
    let output = rowferry(&["copy", a.url(), b.url()]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("adding the foreign keys of child"), "{output:?}");
    b.execute("ALTER TABLE parent ADD PRIMARY KEY (id)");
    assert_eq!(rowferry(&["copy", a.url(), b.url()]).code, 0);
    assert!(b.traces().is_empty(), "{:?}", b.traces());
    assert!(b.attempt("INSERT INTO child VALUES (2, 8)").is_err());
}

#[test]
fn numbers_of_a_sequence_go_on_at_the_target() {
    let (a, b) = (TestDb::new(Engine::Postgres), TestDb::new(Engine::Postgres));
    a.execute(
        "CREATE SEQUENCE own; CREATE SEQUENCE both_use; \
         CREATE TABLE t (id INT PRIMARY KEY DEFAULT nextval('own')); INSERT INTO t VALUES (41); \
         CREATE TABLE u (id INT PRIMARY KEY DEFAULT nextval('both_use')); \
         CREATE TABLE v (id INT PRIMARY KEY DEFAULT nextval('both_use'))",
    );
    let plan = rowferry(&["copy", a.url(), b.url(), "--dry-run"]);
    assert_eq!(plan.stdout.matches("left out: the default of id").count(), 2, "{plan:?}");
    let output = rowferry(&["copy", a.url(), b.url()]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(b.value("INSERT INTO t DEFAULT VALUES RETURNING id"), "42");
    assert!(b.attempt("INSERT INTO u DEFAULT VALUES").is_err());
}

#[test]
fn foreign_keys_keep_their_names_in_postgres() {
    let (a, b) = (TestDb::new(Engine::Postgres), TestDb::new(Engine::Postgres));
    a.execute(
        "CREATE TABLE p (id INT PRIMARY KEY); \
         CREATE TABLE c (id INT PRIMARY KEY, of INT CONSTRAINT belongs REFERENCES p)",
    );
    assert_eq!(rowferry(&["copy", a.url(), b.url()]).code, 0);
    assert_eq!(b.value("SELECT conname FROM pg_constraint WHERE contype = 'f'"), "belongs");
}

#[test]
fn only_columns_that_fold_capitals_are_told_to_lose_that() {
    let a = TestDb::new(Engine::Mariadb);
    a.execute(
        "CREATE TABLE t (id INT PRIMARY KEY, exact VARCHAR(9) COLLATE utf8mb4_bin, loose VARCHAR(9) COLLATE utf8mb4_general_ci)",
    );
    for b in [TestDb::new(Engine::Sqlite), TestDb::new(Engine::Postgres)] {
        let plan = rowferry(&["copy", a.url(), b.url(), "--dry-run"]);
        assert!(plan.stdout.contains("capitals count as other letters in loose"), "{plan:?}");
    }
    let a = TestDb::new(Engine::Postgres);
    a.execute("CREATE EXTENSION citext");
    a.execute("CREATE TABLE t (id INT PRIMARY KEY, loose CITEXT, exact TEXT)");
    for b in TestDb::on_all() {
        if b.engine() == Engine::Postgres {
            let output = rowferry(&["copy", a.url(), b.url()]);
            assert_eq!(output.code, 2, "{output:?}");
            assert!(output.stderr.contains("the type citext (CREATE EXTENSION citext)"), "{output:?}");
            continue;
        }
        let plan = rowferry(&["copy", a.url(), b.url(), "--dry-run"]);
        let told: Vec<_> = plan.stdout.lines().filter(|l| l.contains("capitals count as other letters in")).collect();
        assert!(told.len() == 1 && told[0].ends_with("in loose"), "{plan:?}");
    }
}

#[test]
fn all_types_that_are_missing_are_told_at_once() {
    let (a, b) = (TestDb::new(Engine::Postgres), TestDb::new(Engine::Postgres));
    a.execute("CREATE DOMAIN positive AS int; CREATE TYPE place AS (street text)");
    a.execute("CREATE TABLE s (id positive PRIMARY KEY); CREATE TABLE t (id INT PRIMARY KEY, home place)");
    let output = rowferry(&["copy", a.url(), b.url()]);
    assert_eq!(output.code, 2, "{output:?}");
    for words in ["column id of table s has the type positive", "column home of table t has the type place"] {
        assert!(output.stderr.contains(words), "{output:?}");
    }
}

#[test]
fn a_table_without_columns_is_refused_where_there_are_none() {
    let a = TestDb::new(Engine::Postgres);
    a.execute("CREATE TABLE bare (); CREATE TABLE t (id INT PRIMARY KEY)");
    for b in TestDb::on_all() {
        let output = rowferry(&["copy", a.url(), b.url()]);
        if b.engine() == Engine::Postgres {
            assert_eq!(output.code, 0, "{output:?}");
            continue;
        }
        assert_eq!(output.code, 2, "{output:?}");
        assert!(output.stderr.contains("table bare has no columns"), "{output:?}");
        assert!(output.stderr.contains("--exclude 'bare'"), "{output:?}");
        assert_eq!(rowferry(&["copy", a.url(), b.url(), "--exclude", "bare"]).code, 0);
    }
}

/// Names of foreign keys, in order.
fn foreign_keys(db: &TestDb) -> Vec<String> {
    let sql = if db.engine() == Engine::Postgres {
        "SELECT conname::text FROM pg_constraint WHERE contype = 'f' ORDER BY 1"
    } else {
        "SELECT constraint_name FROM information_schema.referential_constraints WHERE constraint_schema = DATABASE() ORDER BY 1"
    };
    db.query(sql).into_iter().flatten().flatten().collect()
}

#[test]
fn foreign_keys_keep_their_names_where_these_are_free() {
    let a = TestDb::new(Engine::Postgres);
    a.execute(
        "CREATE TABLE p (id INT PRIMARY KEY); \
         CREATE TABLE b (id INT PRIMARY KEY, of INT CONSTRAINT belongs REFERENCES p, up INT CONSTRAINT taken REFERENCES p); \
         CREATE TABLE c (id INT PRIMARY KEY, of INT CONSTRAINT \"Belongs\" REFERENCES p, \
                         up INT CONSTRAINT \"🚲 of c\" REFERENCES p); \
         CREATE INDEX \"🚲\" ON c (up)",
    );
    for b in TestDb::on_all().into_iter().filter(|b| matches!(b.engine(), Engine::Mariadb | Engine::Mysql)) {
        b.execute(
            "CREATE TABLE other (id INT PRIMARY KEY, x INT, CONSTRAINT taken FOREIGN KEY (x) REFERENCES other (id))",
        );
        let folder = tempfile::tempdir().expect("a folder");
        let command = ["copy", a.url(), b.url()];
        // What a dead run has named keeps its name.
        let died = program(folder.path(), &command).env("ROWFERRY_FAILPOINT", "foreign-key-added").output();
        assert_eq!(died.expect("the program").status.code(), None);
        let output = rowferry(&command);
        assert_eq!(output.code, 0, "{output:?}");
        let names = foreign_keys(&b);
        assert_eq!(names.len(), 5, "{names:?}");
        for name in ["b_taken", "belongs", "c_Belongs", "taken"] {
            assert!(names.contains(&name.to_owned()), "{name} of {names:?} at {:?}", b.engine());
        }
        assert!(names.iter().any(|name| name.starts_with(" of c_")), "{names:?}");
    }
}

#[test]
fn what_is_left_out_is_told_again_when_a_copy_goes_on() {
    for b in TestDb::on_all() {
        let a = TestDb::new(Engine::Sqlite);
        a.execute(
            "CREATE TABLE parent (id INTEGER PRIMARY KEY); \
             CREATE TABLE child (id INTEGER PRIMARY KEY, of INTEGER REFERENCES parent (id)); INSERT INTO parent VALUES (7); INSERT INTO child VALUES (1, 7)",
        );
        let command = ["copy", a.url(), b.url(), "--tables", "child"];
        let folder = tempfile::tempdir().expect("a folder");
        let died = program(folder.path(), &command).env("ROWFERRY_FAILPOINT", "load-committed").output();
        assert_eq!(died.expect("the program").status.code(), None);
        let plan = rowferry(&[&command[..], &["--dry-run"]].concat());
        assert!(plan.stdout.contains("exists") && plan.stdout.contains("left out: foreign key"), "{plan:?}");
        assert_eq!(rowferry(&command).code, 0);
        let plan = rowferry(&[&command[..], &["--dry-run"]].concat());
        assert!(!plan.stdout.contains("left out"), "a finished table is as it is: {plan:?}");
    }
}

#[test]
fn tables_of_other_schemas_are_told_and_go_where_there_are_none() {
    let a = TestDb::new(Engine::Postgres);
    a.execute(
        "CREATE TABLE own (id INT PRIMARY KEY); CREATE SCHEMA s2; CREATE SCHEMA \"s*3\"; CREATE SCHEMA none; \
         CREATE TABLE s2.p (id INT PRIMARY KEY); CREATE TABLE s2.c (id INT PRIMARY KEY, p INT REFERENCES s2.p); \
         CREATE TABLE \"s*3\".p (id INT PRIMARY KEY); \
         INSERT INTO s2.p VALUES (1), (2); INSERT INTO s2.c VALUES (1, 2)",
    );
    for b in TestDb::on_all() {
        let plan = rowferry(&["copy", a.url(), b.url(), "--dry-run"]);
        assert!(plan.stdout.contains("--tables 's2.*'") && plan.stdout.contains("--tables 's\\*3.*'"), "{plan:?}");
        assert!(!plan.stdout.contains("schema none"), "{plan:?}");
        let renamed = rowferry(&["copy", a.url(), b.url(), "--tables", "s2.p", "--dry-run"]);
        assert_eq!(renamed.stdout.contains("s2.p -> p"), b.engine() != Engine::Postgres, "{renamed:?}");
        // A schema that is missing is made with its tables.
        if b.engine() != Engine::Postgres {
            let both = rowferry(&["copy", a.url(), b.url(), "--tables", "s2.p,s\\*3.p"]);
            assert_eq!(both.code, 2, "{both:?}");
            assert!(both.stderr.contains("tables s*3.p and s2.p would be one table"), "{both:?}");
        }
        let run = rowferry(&["copy", a.url(), b.url(), "--tables", "s2.*"]);
        assert_eq!(run.code, 0, "{:?}: {run:?}", b.engine());
        assert!(!run.stdout.contains("take no part"), "{run:?}");
        let at = if b.engine() == Engine::Postgres { "s2.c" } else { "c" };
        assert_eq!(b.value(&format!("SELECT p FROM {at}")), "2", "{:?}", b.engine());
        let equal = rowferry(&["diff", a.url(), b.url(), "--tables", "s2.*"]);
        assert_eq!(equal.code, 0, "{:?}: {equal:?}", b.engine());
        b.execute(&format!("DELETE FROM {at}"));
        let repair = rowferry(&["diff", a.url(), b.url(), "--tables", "s2.*", "--repair", "a-to-b"]);
        assert_eq!(repair.code, 0, "{:?}: {repair:?}", b.engine());
    }
}

#[test]
fn a_foreign_key_that_does_not_hold_is_made_by_the_run_that_finds_it_whole() {
    for b in TestDb::on_all().iter().filter(|db| db.engine() != Engine::Sqlite) {
        let a = TestDb::new(Engine::Sqlite);
        a.execute(
            "PRAGMA foreign_keys = OFF; CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE other (id INTEGER PRIMARY KEY); \
             CREATE TABLE c (id INTEGER PRIMARY KEY, p INTEGER REFERENCES p (id)); \
             INSERT INTO p VALUES (1); INSERT INTO c VALUES (1, 1), (2, 99)",
        );
        let command = ["copy", a.url(), b.url()];
        // A run of another table in between must not forget it, nor may any say that all is well.
        for tables in ["*", "other", "*"] {
            let output = rowferry(&[&command[..], &["--tables", tables]].concat());
            assert_eq!(output.code, i32::from(tables == "*"), "{:?}: {output:?}", b.engine());
            assert_eq!(output.stdout.contains("a foreign key of c does not hold"), tables == "*", "{output:?}");
        }
        a.execute("INSERT INTO p VALUES (99)");
        let output = rowferry(&command);
        assert_eq!(output.code, 0, "{:?}: {output:?}", b.engine());
        assert!(b.traces().is_empty(), "{:?}", b.traces());
        assert!(b.attempt("INSERT INTO c VALUES (3, 98)").is_err(), "{:?}", b.engine());
    }
}

#[test]
fn a_copy_of_other_tables_leaves_an_interrupted_one_to_be_finished() {
    for b in TestDb::on_all() {
        let a = TestDb::new(Engine::Sqlite);
        a.execute(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER, UNIQUE (n)); INSERT INTO t VALUES (1, 5); \
             CREATE TABLE u (id INTEGER PRIMARY KEY)",
        );
        let folder = tempfile::tempdir().expect("a folder");
        let mut killed = program(folder.path(), &["copy", a.url(), b.url(), "--tables", "t"]);
        let died = killed.env("ROWFERRY_FAILPOINT", "tables-made").output().expect("the program");
        assert!(!died.status.success(), "{died:?}");
        assert_eq!(rowferry(&["copy", a.url(), b.url(), "--tables", "u"]).code, 0);
        assert_eq!(rowferry(&["copy", a.url(), b.url()]).code, 0);
        assert!(b.traces().is_empty(), "{:?}", b.traces());
        assert!(b.attempt("INSERT INTO t VALUES (2, 5)").is_err(), "the unique key is there: {:?}", b.engine());
    }
}

#[test]
fn a_table_with_too_many_columns_is_a_refusal() {
    let columns: Vec<String> = (0..1700).map(|n| format!("c{n} INTEGER")).collect();
    for b in TestDb::on_all().iter().filter(|db| db.engine() != Engine::Sqlite) {
        let a = TestDb::new(Engine::Sqlite);
        a.execute(&format!("CREATE TABLE t (id INTEGER PRIMARY KEY, {})", columns.join(", ")));
        let output = rowferry(&["copy", a.url(), b.url()]);
        assert_eq!(output.code, 2, "{:?}: {output:?}", b.engine());
        assert!(output.stderr.contains("table t") && output.stderr.contains("nothing was changed"), "{output:?}");
    }
}

#[test]
fn a_loss_is_refused_unless_it_is_allowed() {
    let a = TestDb::new(Engine::Sqlite);
    a.execute(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v ANY); CREATE TABLE u (id INTEGER PRIMARY KEY); \
         INSERT INTO t VALUES (1, 'a'), (2, 2)",
    );
    for b in TestDb::on_all().into_iter().filter(|b| b.engine() != Engine::Sqlite) {
        let folder = tempfile::tempdir().expect("a folder");
        let run = |typed: &[&str], code: i32| {
            let output = rowferry_in(folder.path(), typed);
            assert_eq!(output.code, code, "{typed:?}, {:?}: {output:?}", b.engine());
            output
        };
        let config = |allow: &str| {
            let text = format!(
                "node: test\ndatabases:\n  a: {{ url: \"{}\" }}\n  b: {{ url: \"{}\" }}\n\
                 syncs:\n  one: {{ source: a, target: b, direction: push, mode: mirror, tables: [t, u]{allow} }}\n",
                a.url(),
                b.url()
            );
            std::fs::write(folder.path().join("rowferry.yaml"), text).expect("the config");
        };
        config("");
        let command = ["copy", a.url(), b.url()];
        for (refused, allowed) in [(&command[..], "--allow-loss"), (&["sync"], "allow_loss: true")] {
            let output = run(refused, 2);
            for words in ["t.v: the storage class of each value", "nothing was moved", allowed] {
                assert!(output.stderr.contains(words), "{words}: {output:?}");
            }
            for table in ["t", "u"] {
                b.attempt(&format!("SELECT * FROM {table}")).expect_err("it was not made");
            }
            assert_eq!(b.traces(), Vec::<String>::new(), "{:?}", b.engine());
        }
        let plan = run(&[&command[..], &["--dry-run"]].concat(), 0);
        assert!(plan.stdout.contains("the run needs --allow-loss"), "{plan:?}");
        let allowing = [&command[..], &["--allow-loss"]].concat();
        let plan = run(&[&allowing[..], &["--dry-run"]].concat(), 0);
        assert!(!plan.stdout.contains("the run needs"), "{plan:?}");
        run(&allowing, 0);
        assert_eq!(b.value("SELECT count(*) FROM t"), "2");
        b.execute("DROP TABLE t");
        config(", allow_loss: true");
        run(&["sync"], 0);
        assert_eq!(b.value("SELECT count(*) FROM t"), "2");
    }
}
