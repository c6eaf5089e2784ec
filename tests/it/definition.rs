//! What belongs to a table besides columns, keys and rows: carried to the same engine, else told.

use crate::support::{Engine, TestDb, rowferry, rowferry_in, rows, unlike};

#[track_caller]
fn copy(a: &TestDb, b: &TestDb, more: &[&str]) -> String {
    let mut typed = vec!["copy", a.url(), b.url()];
    typed.extend(more);
    let output = rowferry(&typed);
    assert_eq!(output.code, 0, "{:?} -> {:?}: {}", a.engine(), b.engine(), output.stderr);
    output.stdout
}

/// What the plan says about each table.
#[track_caller]
fn told(a: &TestDb, b: &TestDb) -> String {
    copy(a, b, &["--dry-run"])
}

/// Copies, compares, copies again: nothing is left to do.
#[track_caller]
fn travels(a: &TestDb, b: &TestDb) {
    copy(a, b, &[]);
    let output = rowferry(&["diff", a.url(), b.url(), "--rows"]);
    assert_eq!(output.code, 0, "{}\n{}", output.stdout, output.stderr);
    copy(a, b, &["--mode", "mirror"]);
}

#[track_caller]
fn refuses(b: &TestDb, sql: &str) {
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| b.execute(sql)));
    assert!(caught.is_err(), "{:?} takes {sql}", b.engine());
}

#[test]
fn sqlite_keeps_its_own_words() {
    let (a, b) = (TestDb::new(Engine::Sqlite), TestDb::new(Engine::Sqlite));
    a.execute(
        "CREATE TABLE s (k TEXT PRIMARY KEY COLLATE NOCASE, n INTEGER CHECK (n > 0), x ANY, twice INT AS (n * 2) STORED) STRICT, WITHOUT ROWID;
         INSERT INTO s (k, n, x) VALUES ('a', 1, '007'), ('b', 2, 7), ('c', 3, x'00'), ('d', 4, 1.5);
         CREATE TABLE plain (id INTEGER PRIMARY KEY, x ANY, v TEXT GENERATED ALWAYS AS (upper(w)) VIRTUAL, w TEXT,
                             CONSTRAINT short CHECK (length(w) < 9));
         INSERT INTO plain (id, w) VALUES (1, 'w'), (2, NULL)",
    );
    travels(&a, &b);
    assert_eq!(b.value("SELECT strict + wr FROM pragma_table_list('s')"), "2");
    let types = b.query("SELECT typeof(x) FROM s ORDER BY k");
    let expected = ["text", "integer", "blob", "real"].map(|t| vec![Some(t.to_owned())]);
    assert_eq!(types, expected);
    b.execute("UPDATE s SET n = 5 WHERE k = 'A'");
    assert_eq!(b.value("SELECT twice FROM s WHERE k = 'a'"), "10");
    refuses(&b, "INSERT INTO s (k, n) VALUES ('e', -1)");
    refuses(&b, "INSERT INTO s (k, n) VALUES ('e', 'text')");
    refuses(&b, "INSERT INTO plain (w) VALUES ('much too long')");
    assert_eq!(b.value("SELECT v FROM plain WHERE id = 1"), "W");
}

#[test]
fn sqlite_tells_what_it_leaves_out() {
    let (a, b) = (TestDb::new(Engine::Sqlite), TestDb::new(Engine::Sqlite));
    a.execute(
        "CREATE VIRTUAL TABLE words USING fts5 (body);
         INSERT INTO words VALUES ('one two');
         CREATE TABLE t (id INTEGER PRIMARY KEY, n INT UNIQUE ON CONFLICT REPLACE);
         CREATE TRIGGER tr AFTER INSERT ON t BEGIN SELECT 1; END",
    );
    // The plan says so, and the run that makes the tables.
    for said in [told(&a, &b), copy(&a, &b, &[])] {
        assert!(said.contains("virtual one, fts5 (body)"), "{said}");
        assert!(said.contains("ON CONFLICT clauses") && said.contains("triggers tr"), "{said}");
        assert!(!said.contains("words_data"), "its storage is no table of the user's: {said}");
    }
    assert!(!copy(&a, &b, &[]).contains("left out"), "they are there");
    travels(&a, &b);
    let c = TestDb::new(Engine::Sqlite);
    let run = rowferry(&["copy", a.url(), c.url(), "--format", "json"]).json();
    let table = run["tables"].as_array().and_then(|tables| tables.iter().find(|t| t["table"] == "t")).expect("it");
    assert!(table["notes"].to_string().contains("ON CONFLICT"), "{run}");
}

#[test]
fn references_keep_what_only_their_engine_says_of_them() {
    let (a, b) = (TestDb::new(Engine::Sqlite), TestDb::new(Engine::Sqlite));
    a.execute(
        "CREATE TABLE p (id INTEGER PRIMARY KEY);
         CREATE TABLE c (id INTEGER PRIMARY KEY, now INT REFERENCES p, later INT REFERENCES p DEFERRABLE INITIALLY DEFERRED)",
    );
    travels(&a, &b);
    refuses(&b, "PRAGMA foreign_keys = ON; INSERT INTO c VALUES (1, 7, NULL)");
    b.execute("PRAGMA foreign_keys = ON; BEGIN; INSERT INTO c VALUES (1, NULL, 7); INSERT INTO p VALUES (7); COMMIT");
    let plan = told(&a, &TestDb::new(Engine::Postgres));
    assert!(plan.contains("left out: DEFERRABLE INITIALLY DEFERRED of the foreign key on later"), "{plan}");

    let (a, b) = (TestDb::new(Engine::Postgres), TestDb::new(Engine::Postgres));
    a.execute(
        "CREATE TABLE p (a INT, b INT, PRIMARY KEY (a, b)); CREATE TABLE odd (id INT PRIMARY KEY DEFERRABLE); \
         CREATE TABLE c (id INT PRIMARY KEY, a INT, b INT, x INT, y INT, \
         CONSTRAINT later FOREIGN KEY (a, b) REFERENCES p ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED, \
         CONSTRAINT whole FOREIGN KEY (x, y) REFERENCES p MATCH FULL ON UPDATE CASCADE)",
    );
    assert!(told(&a, &b).contains("left out: that its primary key is deferrable"), "{}", told(&a, &b));
    travels(&a, &b);
    let keys = "SELECT string_agg(conname || ' ' || pg_get_constraintdef(oid), E'\\n' ORDER BY conname) \
                FROM pg_constraint WHERE contype = 'f'";
    assert_eq!(a.value(keys), b.value(keys));
    b.execute("BEGIN; INSERT INTO c (id, a, b) VALUES (1, 1, 1); INSERT INTO p VALUES (1, 1); COMMIT");
    refuses(&b, "INSERT INTO c (id, x) VALUES (2, 1)");
    let plan = told(&a, &TestDb::new(Engine::Mariadb));
    assert!(plan.contains("left out: MATCH FULL of the foreign key on x, y"), "{plan}");
    // PostgreSQL 15 and later can set some columns only.
    let a = TestDb::new(Engine::Postgres);
    a.execute("CREATE TABLE p (a INT, b INT, PRIMARY KEY (a, b))");
    let sets = "CREATE TABLE c (id INT PRIMARY KEY, a INT NOT NULL, \"b,\" INT, \
                FOREIGN KEY (a, \"b,\") REFERENCES p ON DELETE SET NULL (\"b,\"))";
    if a.attempt(sets).is_ok() {
        let b = TestDb::new(Engine::Postgres);
        a.execute("INSERT INTO p VALUES (1, 1); INSERT INTO c VALUES (1, 1, 1)");
        travels(&a, &b);
        assert_eq!(a.value(keys), b.value(keys));
    }
}

#[test]
fn indexes_of_expressions_are_built_again_where_they_can_be() {
    if Engine::Mysql.is_left_out() {
        return;
    }
    let (a, b) = (TestDb::new(Engine::Mysql), TestDb::new(Engine::Mysql));
    a.execute(
        "CREATE TABLE t (id INT PRIMARY KEY, name VARCHAR(20), n INT, KEY low ((lower(name))), \
         UNIQUE KEY it ((concat(name, 'it''s')), n DESC))",
    );
    a.execute("INSERT INTO t VALUES (1, 'A', 1), (2, 'B', 1)");
    travels(&a, &b);
    let expressions = "SELECT group_concat(expression ORDER BY index_name) FROM information_schema.statistics \
                       WHERE table_schema = DATABASE() AND expression IS NOT NULL";
    assert_eq!(a.value(expressions), b.value(expressions));
    refuses(&b, "INSERT INTO t VALUES (3, 'A', 1)");
    for other in TestDb::on_all().into_iter().filter(|other| other.engine() != Engine::Mysql) {
        let plan = told(&a, &other);
        assert!(plan.contains("left out: index low") && plan.contains("left out: index it"), "{plan}");
        travels(&a, &other);
    }
}

#[test]
fn geometries_stay_in_their_system_of_reference() {
    for engine in Engine::available().into_iter().filter(|e| matches!(e, Engine::Mariadb | Engine::Mysql)) {
        let (a, b) = (TestDb::new(engine), TestDb::new(engine));
        let word = if engine == Engine::Mysql { "SRID 4326" } else { "REF_SYSTEM_ID=4326" };
        a.execute(&format!(
            "CREATE TABLE t (id INT PRIMARY KEY, g POINT {word} NOT NULL, h GEOMETRY {word}, any_of GEOMETRY)"
        ));
        a.execute(
            "INSERT INTO t VALUES (1, ST_GeomFromText('POINT(10 20)', 4326), NULL, ST_GeomFromText('POINT(1 2)', 0))",
        );
        travels(&a, &b);
        let seen = if engine == Engine::Mysql {
            "SELECT group_concat(coalesce(srs_id, 'any') ORDER BY ordinal_position) FROM information_schema.columns \
             WHERE table_schema = DATABASE() AND column_name <> 'id'"
        } else {
            "SELECT group_concat(srid ORDER BY srid DESC) FROM information_schema.geometry_columns \
             WHERE g_table_schema = DATABASE()"
        };
        assert_eq!(a.value(seen), b.value(seen), "{engine:?}");
        assert!(b.value(seen).starts_with("4326,4326"), "{engine:?}: {}", b.value(seen));
        let plan = told(&a, &TestDb::new(Engine::Sqlite));
        assert!(plan.contains(&format!("left out: {word} of g")), "{plan}");
    }
}

#[test]
fn a_value_that_is_no_label_is_rejected_by_name() {
    for engine in Engine::available().into_iter().filter(|e| matches!(e, Engine::Mariadb | Engine::Mysql)) {
        let (a, b) = (TestDb::new(engine), TestDb::new(engine));
        a.execute("CREATE TABLE t (id INT PRIMARY KEY, e ENUM('a', 'b'), f ENUM('', 'b'))");
        a.execute("INSERT IGNORE INTO t VALUES (1, 'no label', ''), (2, 'a', ''), (3, NULL, 'b')");
        let folder = tempfile::tempdir().expect("a folder");
        let output = rowferry_in(folder.path(), &["copy", a.url(), b.url(), "--format", "json"]);
        assert_eq!((output.code, &output.json()["tables"][0]["quarantined"]), (1, &1.into()), "{output:?}");
        let rejects = std::fs::read_to_string(folder.path().join("rowferry-rejects.jsonl")).expect("the rejects");
        assert!(rejects.contains("e: '' is none of the labels"), "{rejects}");
        assert_eq!(b.value("SELECT count(*) FROM t"), "2", "{engine:?}");
    }
}

#[test]
fn mariadb_and_mysql_keep_their_own_words() {
    for engine in Engine::available().into_iter().filter(|e| matches!(e, Engine::Mariadb | Engine::Mysql)) {
        let (a, b) = (TestDb::new(engine), TestDb::new(engine));
        a.execute(
            "CREATE TABLE t (id INT PRIMARY KEY, n INT, note VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_swedish_ci, \
             at TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3), \
             twice INT GENERATED ALWAYS AS (n * 2) STORED, said VARCHAR(40) AS (concat(note, '''s \\\\ ')) VIRTUAL, \
             CONSTRAINT positive CHECK (n > 0 AND note <> 'it''s')) COMMENT 'hear'",
        );
        a.execute("INSERT INTO t (id, n, note) VALUES (1, 1, 'x'), (2, 2, NULL)");
        assert!(told(&a, &b).contains("left out: comments"), "{}", told(&a, &b));
        travels(&a, &b);
        b.execute("UPDATE t SET at = '2000-01-01 00:00:00'");
        b.execute("UPDATE t SET n = 5 WHERE id = 1");
        assert_eq!(b.value("SELECT twice FROM t WHERE id = 1"), "10");
        assert_eq!(b.value("SELECT at > '2001-01-01' FROM t WHERE id = 1"), "1");
        assert_eq!(b.value("SELECT said FROM t WHERE id = 1"), "x's \\ ");
        assert_eq!(b.value("SELECT count(*) FROM t WHERE note = 'X'"), "1");
        refuses(&b, "INSERT INTO t (id, n) VALUES (9, -1)");
        let to = TestDb::new(Engine::Postgres);
        let plan = told(&a, &to);
        for word in ["CHECK", "ON UPDATE CURRENT_TIMESTAMP(3) of at", "twice is computed", "capitals"] {
            assert!(plan.contains(word), "{word}: {plan}");
        }
        travels(&a, &to);
    }
}

#[test]
fn postgres_keeps_its_own_words() {
    let (a, b) = (TestDb::new(Engine::Postgres), TestDb::new(Engine::Postgres));
    a.execute(
        "CREATE TABLE t (id INT PRIMARY KEY, code TEXT COLLATE \"C\" UNIQUE, n INT CHECK (n > 0), period int4range, \
         twice INT GENERATED ALWAYS AS (n * 2) STORED, CONSTRAINT pair UNIQUE (id, n) DEFERRABLE, \
         CONSTRAINT apart EXCLUDE USING gist (period WITH &&)); \
         COMMENT ON COLUMN t.n IS 'hear'; \
         INSERT INTO t VALUES (1, 'a', 1, '[1,3)'), (2, 'b', 2, '[3,5)')",
    );
    assert!(told(&a, &b).contains("left out: comments"));
    travels(&a, &b);
    let constraints = "SELECT conname, contype, condeferrable FROM pg_constraint WHERE conrelid = 't'::regclass \
                       AND contype <> 'n' ORDER BY contype, condeferrable";
    let kinds =
        |db: &TestDb| -> Vec<_> { db.query(constraints).into_iter().map(|r| (r[1].clone(), r[2].clone())).collect() };
    assert_eq!(kinds(&a), kinds(&b));
    assert_eq!(b.value("SELECT collname FROM pg_collation k JOIN pg_attribute a ON a.attcollation = k.oid WHERE a.attrelid = 't'::regclass AND attname = 'code'"), "C");
    b.execute("UPDATE t SET n = 7 WHERE id = 1");
    assert_eq!(b.value("SELECT twice FROM t WHERE id = 1"), "14");
    refuses(&b, "UPDATE t SET n = 0");
    refuses(&b, "INSERT INTO t VALUES (3, 'c', 1, '[2,4)')");
}

#[test]
fn children_of_an_inherited_table_are_not_copied_twice() {
    let (a, b) = (TestDb::new(Engine::Postgres), TestDb::new(Engine::Postgres));
    a.execute(
        "CREATE TABLE parent (id INT PRIMARY KEY); CREATE TABLE child (more INT) INHERITS (parent); \
         INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2, 2); \
         CREATE TABLE days (at DATE PRIMARY KEY) PARTITION BY RANGE (at); \
         CREATE TABLE days_1 PARTITION OF days FOR VALUES FROM ('2024-01-01') TO ('2025-01-01'); \
         INSERT INTO days VALUES ('2024-05-05')",
    );
    let plan = told(&a, &b);
    assert!(plan.contains("inherits from parent") && plan.contains("PARTITION BY RANGE (at)"), "{plan}");
    travels(&a, &b);
    assert_eq!(b.value("SELECT count(*) FROM parent"), "1");
    assert_eq!(b.value("SELECT count(*) FROM days"), "1");
}

#[test]
fn types_of_the_users_own_are_kept_or_named() {
    let a = TestDb::new(Engine::Postgres);
    let types = "CREATE TYPE addr AS (street text, no int); CREATE DOMAIN posint AS int CHECK (VALUE > 0); \
                 CREATE TYPE mood AS ENUM ('sad', 'ok')";
    a.execute(types);
    a.execute(
        "CREATE TABLE aaa (id INT PRIMARY KEY); \
         CREATE TABLE t (id posint PRIMARY KEY, home addr, moods mood[], spans int4multirange, r daterange); \
         INSERT INTO t VALUES (1, '(\"a, b\",5)', '{sad,ok}', '{[1,3),[5,9)}', '[2024-01-01,infinity)')",
    );
    let b = TestDb::new(Engine::Postgres);
    let output = rowferry(&["copy", a.url(), b.url()]);
    assert_eq!(output.code, 2, "{}", output.stderr);
    assert!(output.stderr.contains("column id of table t has the type posint"), "{}", output.stderr);
    b.execute("CREATE TABLE aaa (x INT)"); // was not made
    b.execute("DROP TABLE aaa");
    b.execute(types);
    travels(&a, &b);
    assert_eq!(b.value("SELECT (home).no FROM t"), "5");
    refuses(&b, "INSERT INTO t (id) VALUES (-1)");
    for other in TestDb::on_all().iter().filter(|b| b.engine() != Engine::Postgres) {
        travels(&a, other);
    }
}

#[test]
fn a_definition_that_the_target_cannot_make_is_refused_before_anything_is_made() {
    let (a, b) = (TestDb::new(Engine::Postgres), TestDb::new(Engine::Postgres));
    a.execute(
        "CREATE FUNCTION ours(int) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT $1 > 0'; \
         CREATE TABLE aaa (id INT PRIMARY KEY); CREATE TABLE t (id INT PRIMARY KEY CHECK (ours(id)))",
    );
    let output = rowferry(&["copy", a.url(), b.url()]);
    assert_eq!(output.code, 2, "{}", output.stderr);
    assert!(output.stderr.contains("table t cannot be made") && output.stderr.contains("ours"), "{}", output.stderr);
    assert_eq!(b.value("SELECT count(*) FROM pg_class WHERE relname IN ('aaa', 't', '_rowferry_copy')"), "0");
}

#[test]
fn null_in_a_primary_key_is_rejected_and_the_key_stays() {
    for b in TestDb::on_all().iter().filter(|b| b.engine() != Engine::Sqlite) {
        let a = TestDb::new(Engine::Sqlite);
        a.execute(
            "CREATE TABLE t (k TEXT PRIMARY KEY, n INT); INSERT INTO t VALUES (NULL, 1), ('b', 2), (NULL, 3), ('a', 4)",
        );
        let plan = told(&a, b);
        assert!(plan.contains("rows with NULL in k, of the primary key, are rejected"), "{plan}");
        for _ in 0..2 {
            let output = rowferry(&["copy", a.url(), b.url(), "--format", "json"]);
            assert_eq!(output.code, 1, "{}", output.stderr);
            assert_eq!(output.json()["tables"][0]["quarantined"], 2, "{}", output.stdout);
            assert_eq!(b.value("SELECT count(*) FROM t"), "2");
        }
        refuses(b, "INSERT INTO t VALUES ('a', 5)");
        let output = rowferry(&["diff", a.url(), b.url(), "--format", "json"]);
        assert_eq!((output.code, &output.json()["tables"][0]["differing"]), (1, &2.into()), "{}", output.stdout);
    }
}

#[test]
fn moments_at_the_ends_of_time_travel_or_are_rejected_by_name() {
    let a = TestDb::new(Engine::Postgres);
    a.execute(
        "CREATE TABLE t (at timestamp PRIMARY KEY, zoned timestamptz, day date); \
         INSERT INTO t VALUES ('-infinity', 'infinity', '-infinity'), ('4713-11-24 00:00:00 BC', '4713-11-24 00:00:00+00 BC', '4713-11-24 BC'), \
         ('2024-01-01', '2024-01-01', '2024-01-01'), ('294247-01-10 04:00:54.775807', '294247-01-10 04:00:54.775808+00', '5874897-12-31'), \
         ('294276-12-31 23:59:59.999999', '294276-12-31 23:59:59.999999+00', 'infinity'), ('infinity', NULL, NULL)",
    );
    let b = TestDb::new(Engine::Postgres);
    travels(&a, &b);
    let rows = "SELECT at::text, zoned::text, day::text FROM t ORDER BY at";
    assert_eq!(a.query(rows), b.query(rows));
    // One side lacks a key at an end: the others are not taken for different ones.
    b.execute("DELETE FROM t WHERE at IN ('-infinity', '294276-12-31 23:59:59.999999')");
    let output = rowferry(&["diff", a.url(), b.url(), "--format", "json"]);
    let table = &output.json()["tables"][0];
    assert_eq!((&table["only_a"], &table["only_b"], &table["changed"]), (&2.into(), &0.into(), &0.into()), "{table}");
    travels(&a, &b);
    for b in TestDb::on_all().iter().filter(|b| b.engine() != Engine::Postgres) {
        let output = rowferry(&["copy", a.url(), b.url(), "--format", "json"]);
        assert_eq!(output.code, 1, "{:?}: {}", b.engine(), output.stderr);
        assert_eq!(output.json()["tables"][0]["read"], 6, "{:?}: {}", b.engine(), output.stdout);
    }
}

#[test]
fn invisible_columns_are_copied_and_stay_invisible() {
    for engine in Engine::available().into_iter().filter(|e| matches!(e, Engine::Mariadb | Engine::Mysql)) {
        let (a, b) = (TestDb::new(engine), TestDb::new(engine));
        a.execute(
            "CREATE TABLE t (id INT PRIMARY KEY, secret INT INVISIBLE, \
             at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP INVISIBLE, \
             twice INT GENERATED ALWAYS AS (secret * 2) VIRTUAL INVISIBLE)",
        );
        a.execute(
            "INSERT INTO t (id, secret, at) VALUES (1, 7, '2001-02-03 04:05:06'), (2, NULL, '2001-01-01 00:00:00')",
        );
        travels(&a, &b);
        assert_eq!(b.query("SELECT * FROM t WHERE id = 1"), [[Some("1".to_owned())]], "{engine:?}");
        assert_eq!(
            b.value("SELECT CONCAT(secret, ' ', at, ' ', twice) FROM t WHERE id = 1"),
            "7 2001-02-03 04:05:06 14"
        );
        b.execute("UPDATE t SET secret = 8 WHERE id = 1");
        assert_eq!(b.value("SELECT at > '2002-01-01' FROM t WHERE id = 1"), "1", "{engine:?}");
        for other in TestDb::on_all().into_iter().filter(|other| other.engine() != engine) {
            assert!(told(&a, &other).contains("INVISIBLE of secret"), "{}", told(&a, &other));
            travels(&a, &other);
            assert_eq!(other.query("SELECT * FROM t WHERE id = 2").concat().len(), 4, "{:?}", other.engine());
        }
    }
}

#[test]
fn dates_of_any_year_are_keys_in_sqlite() {
    let days = [
        "-4712-01-01",
        "-0044-12-15",
        "-0044-03-15",
        "0000-02-29",
        "2024-02-29",
        "9999-12-31",
        "10000-01-01",
        "123456-07-08",
    ];
    let insert = |db: &TestDb, day: &str| db.execute(&format!("INSERT INTO t VALUES ('{day}', '{day} 01:02:03', 1)"));
    for b in TestDb::on_all().iter().filter(|b| matches!(b.engine(), Engine::Sqlite | Engine::Postgres)) {
        let a = TestDb::new(Engine::Sqlite);
        a.execute("CREATE TABLE t (day DATE, at TIMESTAMP, n INT, PRIMARY KEY (day, at))");
        for day in days {
            insert(&a, day);
        }
        travels(&a, b);
        assert_eq!(b.value("SELECT count(*) FROM t"), days.len().to_string());
        a.execute(
            "DELETE FROM t WHERE day IN ('-0044-12-15', '123456-07-08'); UPDATE t SET n = 2 WHERE day = '9999-12-31'",
        );
        insert(&a, "-0001-01-01");
        insert(&a, "54321-01-01");
        let run = rowferry(&["copy", a.url(), b.url(), "--mode", "mirror", "--format", "json"]);
        let table = &run.json()["tables"][0];
        let counts = ["inserted", "updated", "deleted"].map(|what| table[what].as_u64());
        assert_eq!((run.code, counts), (0, [Some(2), Some(1), Some(2)]), "{:?}: {run:?}", b.engine());
        travels(&a, b);
    }
}

#[test]
fn a_time_of_day_that_stands_in_an_interval_is_found_equal_from_both_sides() {
    let (a, b) = (TestDb::new(Engine::Postgres), TestDb::new(Engine::Sqlite));
    a.execute("CREATE TABLE t (id INT PRIMARY KEY, at INTERVAL)");
    a.execute("INSERT INTO t VALUES (1, '07:45:00'), (2, '00:00:00.5'), (3, NULL), (4, '00:00:00')");
    b.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, at TIME)");
    travels(&a, &b);
    assert_eq!(b.value("SELECT at FROM t WHERE id = 1"), "07:45:00");
    travels(&b, &a);
    a.execute("INSERT INTO t VALUES (5, '25:00:00'), (6, '-1:00:00'), (7, '1 day'), (8, '07:45:01')");
    let run = rowferry(&["copy", a.url(), b.url(), "--format", "json"]);
    assert_eq!((run.code, &run.json()["tables"][0]["quarantined"]), (1, &3.into()), "{run:?}");
}

#[test]
fn a_unique_constraint_of_another_collation_is_made_again() {
    let (a, b) = (TestDb::new(Engine::Sqlite), TestDb::new(Engine::Sqlite));
    a.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, \"w'x\" TEXT, UNIQUE (v COLLATE nocase, \"w'x\" DESC))");
    a.execute("INSERT INTO t VALUES (1, 'a', 'b')");
    let output = rowferry(&["copy", a.url(), b.url()]);
    assert_eq!(output.code, 0, "{output:?}");
    assert!(b.attempt("INSERT INTO t VALUES (2, 'A', 'b')").is_err(), "its collation is kept");
    assert!(b.attempt("INSERT INTO t VALUES (2, 'A', 'B')").is_ok());
}

#[test]
fn a_default_is_the_same_value_there() {
    let (a, b) = (TestDb::new(Engine::Sqlite), TestDb::new(Engine::Sqlite));
    a.execute(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, d DEFAULT -1.5e3, h DEFAULT true, i DEFAULT 7, s DEFAULT '7', \
         z BLOB DEFAULT 7, x BLOB DEFAULT x'00ff')",
    );
    copy(&a, &b, &[]);
    let shown = "SELECT quote(d), quote(h), quote(i), quote(s), quote(z), quote(x) FROM t";
    for db in [&a, &b] {
        db.execute("INSERT INTO t (id) VALUES (1)");
        assert_eq!(rows(db, shown), "-1500.0 1 7 '7' 7 X'00FF'", "{}", db.url());
    }
    let family: Vec<Engine> =
        Engine::available().into_iter().filter(|engine| matches!(engine, Engine::Mysql | Engine::Mariadb)).collect();
    for (&from, &to) in family.iter().flat_map(|from| family.iter().map(move |to| (from, to))) {
        let (a, b) = (TestDb::new(from), TestDb::new(to));
        a.execute("CREATE TABLE t (id INT PRIMARY KEY, e BINARY(2) DEFAULT 'ab', v VARBINARY(20) DEFAULT 'hello')");
        copy(&a, &b, &[]);
        b.execute("INSERT INTO t (id) VALUES (1)");
        assert_eq!(rows(&b, "SELECT hex(e), hex(v) FROM t"), "6162 68656C6C6F", "{from:?} -> {to:?}");
    }
}

/// What a word of time means depends on its column: in a text it is kept to the letter or told, and never another's.
#[test]
fn defaults_that_tell_the_time_stay_what_they_are() {
    let source = TestDb::new(Engine::Sqlite);
    source.execute(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, d TEXT DEFAULT CURRENT_DATE, e TEXT DEFAULT CURRENT_TIME, \
         f TEXT DEFAULT CURRENT_TIMESTAMP, g DATE DEFAULT CURRENT_DATE, h DATETIME DEFAULT CURRENT_TIMESTAMP)",
    );
    for target in &TestDb::on_all() {
        let plan = told(&source, target);
        travels(&source, target);
        let same = target.engine() == Engine::Sqlite;
        assert_eq!(plan.contains("the default of d"), !same, "{:?}: {plan}", target.engine());
        target.execute("INSERT INTO t (id) VALUES (1)");
        let text = if same { "10 8 19" } else { "" };
        let lengths = "SELECT length(d) || ' ' || length(e) || ' ' || length(f) FROM t";
        let lengths = if same { target.value(lengths) } else { target.value("SELECT coalesce(max(d), '') FROM t") };
        assert_eq!(lengths, text, "{:?}", target.engine());
        assert_eq!(
            target.value("SELECT count(*) FROM t WHERE g IS NOT NULL AND h IS NOT NULL"),
            "1",
            "{:?}",
            target.engine()
        );
    }
    for source in TestDb::on_all().iter().filter(|db| matches!(db.engine(), Engine::Mariadb | Engine::Mysql)) {
        source.execute(
            "CREATE TABLE d (id INT PRIMARY KEY, f TIME DEFAULT (CURTIME()), g VARCHAR(40) DEFAULT (CURTIME()))",
        );
        for target in &TestDb::on_all() {
            let plan = told(source, target);
            travels(source, target);
            assert_eq!(plan.contains("the default of column f"), target.engine() == Engine::Postgres, "{plan}");
            target.execute("INSERT INTO d (id) VALUES (1)");
            if target.engine() != Engine::Postgres {
                assert_eq!(target.value("SELECT length(f) FROM d"), "8", "{:?}", target.engine());
            }
        }
    }
}

#[test]
fn postgres_counts_on_as_it_counted() {
    let (a, b) = (TestDb::new(Engine::Postgres), TestDb::new(Engine::Postgres));
    a.execute(
        "CREATE TABLE up (id int GENERATED ALWAYS AS IDENTITY (START 100 INCREMENT 5 MAXVALUE 1000 CYCLE CACHE 7) PRIMARY KEY, n int); \
         CREATE TABLE down (id bigint GENERATED BY DEFAULT AS IDENTITY (INCREMENT -1) PRIMARY KEY, n int); \
         CREATE TABLE usual (id serial PRIMARY KEY, n int); \
         INSERT INTO up (n) VALUES (1), (2); INSERT INTO down (n) VALUES (1), (2), (3); INSERT INTO usual (n) VALUES (1), (2)",
    );
    travels(&a, &b);
    // Of a sequence that hands out seven at a time, a new session gets the first that no other may have.
    for (table, next) in [("up", "135"), ("down", "-4"), ("usual", "3")] {
        assert_eq!(b.value(&format!("INSERT INTO {table} (n) VALUES (9) RETURNING id")), next, "{table}");
    }
    let options = "SELECT seqmax || ' ' || seqcache || ' ' || seqcycle FROM pg_sequence WHERE seqrelid = pg_get_serial_sequence('up', 'id')::regclass";
    assert_eq!(b.value(options), "1000 7 true");
    let other = TestDb::new(Engine::Sqlite);
    assert!(told(&a, &other).contains("START WITH 100 INCREMENT BY 5"), "it is told where it cannot be kept");
}

/// The index on (a, b DESC) of table child, as its server lists it.
fn descending(db: &TestDb) -> String {
    db.value(match db.engine() {
        Engine::Sqlite => {
            "SELECT group_concat(name || desc) FROM (SELECT x.name, x.desc FROM pragma_index_list('child') l, \
             pragma_index_xinfo(l.name) x WHERE x.name IN ('a', 'b') ORDER BY x.seqno)"
        }
        Engine::Postgres => {
            "SELECT string_agg(a.attname || (i.indoption[a.n - 1] & 1), ',' ORDER BY a.n) FROM pg_index i, \
             LATERAL (SELECT attname, attnum AS n FROM pg_attribute WHERE attrelid = i.indexrelid) a \
             WHERE indrelid = 'child'::regclass AND attname IN ('a', 'b')"
        }
        Engine::Mariadb | Engine::Mysql => {
            "SELECT GROUP_CONCAT(column_name, collation = 'D' ORDER BY seq_in_index) FROM information_schema.statistics \
             WHERE table_schema = DATABASE() AND table_name = 'child' AND column_name IN ('a', 'b')"
        }
    })
}

/// Keys, references with what follows from them, defaults, what may not be NULL: told by what the target then does.
#[test]
fn the_definition_travels_to_another_engine() {
    for (from, to) in unlike() {
        let (a, b) = (TestDb::new(from), TestDb::new(to));
        a.execute(
            "CREATE TABLE parent (id INT NOT NULL PRIMARY KEY, code VARCHAR(20) NOT NULL UNIQUE, n INT DEFAULT 7, \
             s VARCHAR(20) DEFAULT 'it''s')",
        );
        a.execute(
            "CREATE TABLE child (id INT NOT NULL PRIMARY KEY, goes INT, clears INT, stays INT, a INT, b INT, \
             FOREIGN KEY (goes) REFERENCES parent (id) ON DELETE CASCADE ON UPDATE CASCADE, \
             FOREIGN KEY (clears) REFERENCES parent (id) ON DELETE SET NULL, \
             FOREIGN KEY (stays) REFERENCES parent (id) ON DELETE RESTRICT)",
        );
        a.execute("CREATE INDEX child_ab ON child (a, b DESC)");
        copy(&a, &b, &["--schema-only"]);
        let attempt = |sql: &str| {
            let checked = if to == Engine::Sqlite { "PRAGMA foreign_keys = ON; " } else { "" };
            b.attempt(&format!("{checked}{sql}"))
        };
        for taken in [
            "INSERT INTO parent (id, code) VALUES (1, 'a'), (2, 'b'), (3, 'c')",
            "INSERT INTO child (id, goes, clears, stays) VALUES (1, 1, NULL, NULL), (2, NULL, 2, NULL), (3, NULL, NULL, 3)",
            "UPDATE parent SET id = 10 WHERE id = 1",
        ] {
            attempt(taken).unwrap_or_else(|e| panic!("{from:?} -> {to:?}: {taken}: {e}"));
        }
        assert_eq!(rows(&b, "SELECT n, s FROM parent WHERE id = 2"), "7 it's", "{from:?} -> {to:?}");
        assert_eq!(b.value("SELECT goes FROM child WHERE id = 1"), "10", "{from:?} -> {to:?}");
        for refused in [
            "INSERT INTO parent (id, code) VALUES (4, NULL)",
            "INSERT INTO parent (id, code) VALUES (4, 'a')",
            "INSERT INTO parent (id, code) VALUES (2, 'd')",
            "INSERT INTO child (id, goes) VALUES (9, 99)",
            "INSERT INTO child (id, clears) VALUES (9, 99)",
            "INSERT INTO child (id, stays) VALUES (9, 99)",
            "UPDATE parent SET id = 20 WHERE id = 2",
            "DELETE FROM parent WHERE id = 3",
        ] {
            assert!(attempt(refused).is_err(), "{from:?} -> {to:?}: {refused}");
        }
        attempt("DELETE FROM parent WHERE id < 3 OR id = 10").expect("none of them stays");
        assert_eq!(rows(&b, "SELECT id, clears, stays FROM child ORDER BY id"), "2 NULL NULL, 3 NULL 3");
        assert_eq!(descending(&b), "a0,b1", "{from:?} -> {to:?}");
    }
}

/// A key has bounds there; each value is held against them, so that nothing is lost by it.
#[test]
fn a_unique_text_without_bounds_gets_some_and_what_is_longer_is_rejected_by_name() {
    let a = TestDb::new(Engine::Sqlite);
    a.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, u TEXT UNIQUE)");
    a.execute(&format!("INSERT INTO t VALUES (1, '{}'), (2, '{}'), (3, 'é')", "é".repeat(768), "é".repeat(769)));
    for b in TestDb::on_all().iter().filter(|b| matches!(b.engine(), Engine::Mariadb | Engine::Mysql)) {
        let plan = rowferry(&["copy", a.url(), b.url(), "--dry-run", "--format", "json"]).json();
        assert_eq!(plan["tables"][0]["not_exact"], serde_json::json!([]), "{plan}");
        let folder = tempfile::tempdir().expect("a folder");
        let run = rowferry_in(folder.path(), &["copy", a.url(), b.url()]);
        assert_eq!(run.code, 1, "{:?}: {run:?}", b.engine());
        let rejects = std::fs::read_to_string(folder.path().join("rowferry-rejects.jsonl")).expect("the rejects");
        assert!(rejects.lines().count() == 1 && rejects.contains("u: 769 characters"), "{rejects}");
        assert_eq!(rows(b, "SELECT id, CHAR_LENGTH(u) FROM t ORDER BY id"), "1 768, 3 1");
    }
}
