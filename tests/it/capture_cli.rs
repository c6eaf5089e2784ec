//! The commands around incremental syncs: what they put in place, show and take out.

#![allow(clippy::unwrap_used, reason = "each function here is part of a test")]

use rowferry::engine::{OpenOptions, open};
use rowferry::model::BatchLimits;
use rowferry::pipeline::{Pair, PairOptions, PlanOptions, Preference, Report};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{Engine, Output, TestDb, rowferry_in};

/// Two databases with a config that syncs `t` between them.
struct Ends {
    a: TestDb,
    b: TestDb,
    folder: tempfile::TempDir,
}

impl Ends {
    fn new(engine: Engine, table_b: &str, extra: &str) -> Self {
        let (a, b) = (TestDb::new(engine), TestDb::new(Engine::Sqlite));
        a.execute("CREATE TABLE t (id INT NOT NULL PRIMARY KEY, s VARCHAR(20))");
        b.execute(table_b);
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "node: n\ndatabases:\n  a: {{ url: \"{}\" }}\n  b: {{ url: \"{}\" }}\nsyncs:\n  s:\n    source: a\n    \
             target: b\n    direction: bidirectional\n    mode: incremental\n{extra}    tables: [t]\n",
            a.url(),
            b.url()
        );
        std::fs::write(folder.path().join("rowferry.yaml"), config).unwrap();
        Self { a, b, folder }
    }

    fn on_all() -> Vec<Self> {
        Engine::available().into_iter().map(|engine| Self::new(engine, PLAIN, "")).collect()
    }

    fn run(&self, args: &[&str]) -> Output {
        rowferry_in(self.folder.path(), args)
    }

    /// The document of a command that ends with this code.
    #[track_caller]
    fn json(&self, code: i32, args: &[&str]) -> Value {
        let output = self.run(&[args, &["--format", "json"]].concat());
        assert_eq!(output.code, code, "{args:?} at {:?}: {output:?}", self.a.engine());
        output.json()
    }

    fn sync(&self) -> Report {
        let options = PairOptions {
            name: "s".to_owned(),
            plan: PlanOptions { tables: vec!["t".to_owned()], create: true, ..PlanOptions::default() },
            push: true,
            pull: true,
            conflict: Preference::Later,
            tables: std::collections::BTreeMap::new(),
            first_run: Preference::Manual,
            limits: BatchLimits { rows: 100, bytes: 1 << 20 },
            full: false,
            stop: CancellationToken::new(),
        };
        let work = async {
            let a = open(self.a.url(), &OpenOptions::default()).await.unwrap();
            let b = open(self.b.url(), &OpenOptions::default()).await.unwrap();
            Pair::prepare(&a, &b, options).await.unwrap().run().await.unwrap()
        };
        tokio::runtime::Runtime::new().unwrap().block_on(work)
    }
}

const PLAIN: &str = "CREATE TABLE t (id INT NOT NULL PRIMARY KEY, s VARCHAR(20))";

/// Everything that a database holds, by kind and name.
fn catalogue(db: &TestDb) -> Vec<Vec<Option<String>>> {
    db.query(match db.engine() {
        Engine::Sqlite => "SELECT type, name, coalesce(sql, '') FROM sqlite_master ORDER BY 1, 2",
        Engine::Postgres => {
            "SELECT 'relation', relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace UNION ALL \
             SELECT 'function', proname::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace UNION ALL \
             SELECT 'type', typname::text FROM pg_type WHERE typnamespace = 'public'::regnamespace UNION ALL \
             SELECT 'trigger', tgname::text FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2"
        }
        Engine::Mariadb | Engine::Mysql => {
            "SELECT 'table', table_name FROM information_schema.tables WHERE table_schema = DATABASE() UNION ALL \
             SELECT 'trigger', trigger_name FROM information_schema.triggers WHERE trigger_schema = DATABASE() \
             UNION ALL SELECT 'routine', routine_name FROM information_schema.routines \
             WHERE routine_schema = DATABASE() ORDER BY 1, 2"
        }
    })
}

/// Takes the insert trigger of the first log out of service; its name.
fn switch_off(db: &TestDb) -> &'static str {
    let (name, sql) = match db.engine() {
        Engine::Sqlite => ("_rowferry_insert_1", "DROP TRIGGER _rowferry_insert_1"),
        Engine::Postgres => ("_rowferry_insert_1", "ALTER TABLE t DISABLE TRIGGER _rowferry_insert_1"),
        Engine::Mariadb | Engine::Mysql => ("_rowferry_i_1", "DROP TRIGGER _rowferry_i_1"),
    };
    db.execute(sql);
    name
}

#[test]
fn capture_is_installed_shown_and_removed_without_a_trace() {
    for pair in Ends::on_all() {
        let before = [catalogue(&pair.a), catalogue(&pair.b)];
        let status = pair.json(1, &["capture", "status"]);
        assert_eq!(status["databases"][0]["uncaptured"], json!(["t"]), "{status}");

        for state in ["installed", "unchanged"] {
            let done = pair.json(0, &["capture", "install"]);
            for database in done["databases"].as_array().unwrap() {
                assert_eq!(database["tables"][0]["state"], state, "{done}");
            }
        }
        pair.a.execute("INSERT INTO t VALUES (1, 'one')");
        let status = pair.json(0, &["capture", "status"]);
        let a = &status["databases"][0];
        assert_ne!(a["tables"][0]["unfolded"], json!(0), "{status}");
        assert_eq!(a["tables"][0]["log"], json!(1), "{status}");
        assert!(a["objects"].as_array().unwrap().contains(&json!("_rowferry_site")), "{status}");

        let name = switch_off(&pair.a);
        let told = pair.run(&["capture", "status", "s"]);
        assert_eq!(told.code, 1, "{told:?}");
        assert!(told.stdout.contains(name), "{told:?}");
        let done = pair.json(0, &["capture", "install", "s"]);
        assert_eq!(done["databases"][0]["tables"][0]["state"], "completed", "{done}");
        pair.json(0, &["capture", "status"]);

        let told = pair.run(&["capture", "remove"]);
        assert_eq!(told.code, 0, "{told:?}");
        assert!(told.stdout.contains("no sync had taken up"), "{told:?}");
        assert_eq!([catalogue(&pair.a), catalogue(&pair.b)], before, "{:?}", pair.a.engine());
        let again = pair.json(0, &["capture", "remove"]);
        assert_eq!(again["databases"][0]["removed"], json!([]), "{again}");
    }
}

#[test]
fn capture_that_is_damaged_is_removed_all_the_same() {
    for pair in Ends::on_all() {
        let other = |name| format!("CREATE TABLE {name} (id INT NOT NULL PRIMARY KEY)");
        pair.a.execute(&other("late"));
        let before = catalogue(&pair.a);
        pair.a.execute(&other("gone"));
        pair.b.execute(&other("gone"));
        let config = pair.folder.path().join("rowferry.yaml");
        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, text.replace("[t]", "[t, gone, late]")).unwrap();
        pair.json(0, &["capture", "install"]);
        pair.a.execute("DROP TABLE gone");
        let status = pair.json(1, &["capture", "status"]);
        let tables = status["databases"][0]["tables"].to_string();
        assert!(tables.contains("gone was captured") && tables.contains("is gone"), "{status}");
        // As an installation leaves it that dies before its last table is listed, and worse.
        pair.a.execute("DELETE FROM _rowferry_tables WHERE n = 3");
        pair.a.execute("DELETE FROM _rowferry_site");
        pair.json(1, &["capture", "status"]);
        let done = pair.json(0, &["capture", "remove"]);
        assert_eq!(done["databases"][0]["removed"].as_array().unwrap().len(), 2, "{done}");
        assert_eq!(catalogue(&pair.a), before, "{:?}", pair.a.engine());
    }
}

#[test]
fn a_database_that_another_sync_needs_keeps_its_capture() {
    let pair = Ends::new(Engine::Sqlite, PLAIN, "");
    let config = pair.folder.path().join("rowferry.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    let other = format!("{text}  other:\n    source: a\n    target: b\n    mode: incremental\n    tables: [t]\n");
    std::fs::write(&config, other).unwrap();
    pair.json(0, &["capture", "install"]);
    let done = pair.json(0, &["capture", "remove", "s"]);
    assert_eq!(done["databases"][0]["kept_for"], json!(["other"]), "{done}");
    pair.json(0, &["capture", "status"]);
    pair.json(0, &["capture", "remove", "s", "other"]);
    assert_eq!(pair.a.traces(), Vec::<String>::new());
}

#[test]
fn what_is_asked_for_and_is_not_there_is_refused() {
    let pair = Ends::new(Engine::Sqlite, PLAIN, "    capture: log\n");
    for command in [vec!["capture", "install"], vec!["check"]] {
        let output = pair.run(&command);
        assert_eq!(output.code, 2, "{output:?}");
        assert!(output.stderr.starts_with("rowferry: sync s: capture: log is not supported yet"), "{output:?}");
    }
    assert_eq!(pair.run(&["capture", "install", "nix"]).code, 2);
    assert_eq!(pair.run(&["conflicts", "show", "nix"]).code, 2);
    assert_eq!(pair.run(&["quarantine", "discard", "nix"]).code, 2);
    assert_eq!(pair.json(0, &["conflicts", "list"]), json!([]));
    assert_eq!(pair.json(0, &["quarantine", "list"]), json!([]));
    assert_eq!(pair.a.traces(), Vec::<String>::new(), "nothing was touched");
}

#[test]
fn a_conflict_is_listed_with_both_images() {
    for pair in Ends::on_all() {
        pair.a.execute("INSERT INTO t VALUES (1, 'one')");
        pair.sync();
        pair.a.execute("UPDATE t SET s = 'at A'");
        // SQLite's clock counts milliseconds: within one of them nobody is later.
        std::thread::sleep(std::time::Duration::from_millis(5));
        pair.b.execute("UPDATE t SET s = 'at B'");
        pair.sync();
        let list = pair.json(0, &["conflicts", "list"]);
        assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
        let one = &list[0];
        assert_eq!((&one["sync"], &one["table"], &one["key"]), (&json!("s"), &json!("t"), &json!({"id": "1"})));
        assert_eq!((&one["source"]["s"], &one["target"]["s"]), (&json!("at A"), &json!("at B")), "{one}");
        assert_eq!((&one["policy"], &one["winner"]), (&json!("last-write-wins"), &json!("target")), "{one}");
        let at = one["at"].as_str().unwrap();
        assert!(at.starts_with("20") && at.ends_with('Z'), "a time of today in UTC: {at}");
        let id = one["id"].as_str().unwrap();
        assert_eq!(pair.json(0, &["conflicts", "show", id]), *one);
        let shown = pair.run(&["conflicts", "show", id]).stdout;
        assert!(shown.contains("at A") && shown.contains("at B") && shown.contains("the target won"), "{shown}");
    }
}

#[test]
fn a_refused_change_is_listed_replaced_healed_and_discarded() {
    for engine in Engine::available() {
        let pair = Ends::new(engine, "CREATE TABLE t (id INT NOT NULL PRIMARY KEY, s VARCHAR(3))", "");
        pair.a.execute("INSERT INTO t VALUES (1, 'one'), (2, 'two')");
        pair.sync();
        for text in ["long one", "longer one"] {
            pair.a.execute(&format!("UPDATE t SET s = '{text}' WHERE id = 1"));
            assert_eq!(pair.sync().tables[0].quarantined, 1, "{engine:?}");
            let list = pair.json(0, &["quarantine", "list"]);
            assert_eq!(list.as_array().unwrap().len(), 1, "the later one replaces: {list}");
            assert_eq!((&list[0]["image"]["s"], &list[0]["database"]), (&json!(text), &json!("b")), "{list}");
            assert!(list[0]["reason"].as_str().unwrap().starts_with("s: "), "{list}");
        }
        pair.a.execute("UPDATE t SET s = 'xyz' WHERE id = 2");
        pair.sync();
        assert_eq!(pair.json(0, &["quarantine", "list"]).as_array().unwrap().len(), 1, "another row heals nothing");
        pair.a.execute("UPDATE t SET s = 'eno' WHERE id = 1");
        pair.sync();
        assert_eq!(pair.b.value("SELECT s FROM t WHERE id = 1"), "eno");
        assert_eq!(pair.json(0, &["quarantine", "list"]), json!([]), "{engine:?}");

        pair.a.execute("UPDATE t SET s = 'long one' WHERE id = 1");
        pair.sync();
        let id = pair.json(0, &["quarantine", "list"])[0]["id"].as_str().unwrap().to_owned();
        assert!(pair.run(&["quarantine", "show", &id]).stdout.contains("long one"));
        pair.json(0, &["quarantine", "discard", &id]);
        assert_eq!(pair.json(0, &["quarantine", "list"]), json!([]));
    }
}

#[test]
fn check_says_what_would_be_put_in_place() {
    for pair in Ends::on_all() {
        pair.b.execute("CREATE TABLE seen (id INT); CREATE TRIGGER mine AFTER INSERT ON t BEGIN SELECT 1; END");
        let told = pair.json(0, &["check"]);
        let capture = &told["syncs"][0]["capture"];
        assert_eq!(capture[0]["tables"][0]["table"], "t", "{told}");
        assert!(!capture[0]["tables"][0]["triggers"].as_array().unwrap().is_empty(), "{told}");
        assert!(capture[1]["notes"].to_string().contains("mine"), "{told}");
        assert_eq!(pair.a.traces(), Vec::<String>::new(), "nothing is changed");
        assert!(pair.run(&["check"]).stdout.contains("t: a log, a table of versions"));
    }
}

#[test]
fn check_names_a_table_whose_rows_cannot_be_told_apart() {
    let pair = Ends::new(Engine::Sqlite, "CREATE TABLE t (id INT, s VARCHAR(20))", "");
    pair.a.execute("DROP TABLE t; CREATE TABLE t (id INT, s VARCHAR(20))");
    let output = pair.run(&["check"]);
    assert_eq!(output.code, 2, "{output:?}");
    assert!(output.stderr.contains("has no key"), "{output:?}");
}

/// Notes of `check` for the first database of the first sync.
fn check_notes(pair: &Ends) -> String {
    pair.json(0, &["check"])["syncs"][0]["capture"][0]["notes"].to_string()
}

#[test]
fn check_names_the_rights_that_capture_lacks() {
    for engine in Engine::available() {
        let pair = Ends::new(engine, PLAIN, "");
        let user = format!("few_{}", pair.a.name());
        let (make, words, drop) = match engine {
            Engine::Sqlite => continue,
            Engine::Postgres => (
                format!(
                    "CREATE ROLE {user} LOGIN; GRANT USAGE ON SCHEMA public TO {user}; GRANT SELECT ON t TO {user}"
                ),
                vec!["does not own t", "GRANT CREATE ON SCHEMA public"],
                format!("DROP OWNED BY {user}; DROP ROLE {user}"),
            ),
            Engine::Mariadb | Engine::Mysql => (
                format!(
                    "CREATE USER {user}@'%'; GRANT SELECT, INSERT, UPDATE, DELETE ON {}.* TO {user}@'%'",
                    pair.a.name()
                ),
                vec!["GRANT CREATE, DROP, TRIGGER ON", "log_bin_trust_function_creators", "GRANT PROCESS"],
                format!("DROP USER {user}@'%'"),
            ),
        };
        assert_eq!(check_notes(&pair), "[]", "{engine:?}: an administrator may all");
        pair.a.execute(&make);
        let config = pair.folder.path().join("rowferry.yaml");
        let text = std::fs::read_to_string(&config).unwrap();
        let (scheme, place) = (pair.a.url().split_once("://").unwrap().0, pair.a.url().split_once('@').unwrap().1);
        std::fs::write(&config, text.replace(pair.a.url(), &format!("{scheme}://{user}@{place}"))).unwrap();
        let notes = check_notes(&pair);
        pair.a.execute(&drop);
        for word in words {
            assert!(notes.contains(word), "{engine:?}: {word}: {notes}");
        }
    }
}

#[test]
fn check_names_what_a_rollback_leaves_and_what_the_ends_see_otherwise() {
    for engine in [Engine::Mariadb, Engine::Mysql] {
        if !Engine::available().contains(&engine) {
            continue;
        }
        let pair = Ends::new(engine, PLAIN, "");
        pair.a.execute("ALTER TABLE t ENGINE=MyISAM");
        assert!(check_notes(&pair).contains("ALTER TABLE t ENGINE=InnoDB"), "{engine:?}");
        pair.a.execute("DROP TABLE t; CREATE TABLE t (id VARCHAR(20) NOT NULL PRIMARY KEY, s VARCHAR(20)) COLLATE utf8mb4_general_ci");
        pair.b.execute("DROP TABLE t; CREATE TABLE t (id VARCHAR(20) NOT NULL PRIMARY KEY, s VARCHAR(20))");
        let told = pair.run(&["check"]).stdout;
        assert!(told.contains("keys that differ only in case, accents or spaces are one in id of t"), "{told}");
        pair.a.execute("CREATE TRIGGER mine BEFORE UPDATE ON t FOR EACH ROW SET NEW.s = 'x'");
        pair.b.execute("CREATE TRIGGER theirs AFTER INSERT ON t BEGIN SELECT 1; END");
        let told = pair.run(&["check"]).stdout;
        assert!(told.contains("both ends have triggers of their own (mine; theirs)"), "{told}");
    }
}

#[test]
fn check_tells_of_capture_that_is_not_whole() {
    for pair in Ends::on_all() {
        pair.json(0, &["capture", "install"]);
        let name = switch_off(&pair.a);
        let notes = check_notes(&pair);
        assert!(notes.contains(name) && notes.contains("missing or switched off"), "{notes}");
        pair.a.execute("DROP TABLE t");
        let status = pair.run(&["capture", "status"]);
        assert_eq!(status.code, 1, "{status:?}");
        assert!(status.stdout.contains("t was captured in") && status.stdout.contains("is gone"), "{status:?}");
    }
}
