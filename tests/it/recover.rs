//! `recover`, and a node that starts with a broken file.

use std::fs;
use std::path::PathBuf;

use crate::support::{Engine, Node, Output, TestDb, assert_equal, node, rowferry_in, wait};

/// A master on one engine and a SQLite file `shop.db` that is synced with it.
struct Shop {
    folder: tempfile::TempDir,
    master: TestDb,
}

const TABLES: &str = "CREATE TABLE items (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(200)); \
                      CREATE TABLE sales (id INTEGER NOT NULL PRIMARY KEY, item INTEGER, note VARCHAR(200))";

impl Shop {
    fn new(engine: Engine, direction: &str) -> Self {
        let (folder, master) = (tempfile::tempdir().expect("a folder"), TestDb::new(engine));
        let config = format!(
            "node: shop\ndatabases:\n  shop: {{ url: \"sqlite:shop.db\" }}\n  master: {{ url: \"{}\" }}\nsyncs:\n  \
             s: {{ source: shop, target: master, direction: {direction}, tables: [items, sales] }}\n",
            master.url()
        );
        fs::write(folder.path().join("rowferry.yaml"), config).expect("written");
        let shop = Self { folder, master };
        shop.sql(&format!("{TABLES}; CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT); \
             INSERT INTO settings VALUES ('till', '3'); CREATE INDEX by_item ON sales (item); \
             CREATE VIEW sold AS SELECT item, count(*) AS n FROM sales GROUP BY item; \
             CREATE TRIGGER no_ghosts BEFORE INSERT ON sales WHEN NEW.item IS NULL BEGIN SELECT RAISE(ABORT, 'no item'); END"));
        shop.master.execute(TABLES);
        let many: Vec<String> = (1..=2000).map(|id| format!("({id}, '{}')", "item ".repeat(20))).collect();
        shop.master.execute(&format!("INSERT INTO items VALUES {}", many.join(", ")));
        if direction == "push" {
            shop.sql("INSERT INTO items VALUES (1, 'own')");
        }
        shop.sync(0);
        shop
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("shop.db")
    }

    fn sql(&self, sql: &str) {
        rusqlite::Connection::open(self.path()).expect("opened").execute_batch(sql).expect("executed");
    }

    fn value(&self, sql: &str) -> String {
        let conn = rusqlite::Connection::open(self.path()).expect("opened");
        conn.query_row(sql, [], |row| row.get::<_, rusqlite::types::Value>(0))
            .map(|value| match value {
                rusqlite::types::Value::Integer(n) => n.to_string(),
                rusqlite::types::Value::Text(text) => text,
                other => format!("{other:?}"),
            })
            .expect("a value")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        rowferry_in(self.folder.path(), arguments)
    }

    #[track_caller]
    fn sync(&self, code: i32) {
        let output = self.run(&["sync"]);
        assert_eq!(output.code, code, "{}{}", output.stdout, output.stderr);
    }

    #[track_caller]
    fn recovers(&self, arguments: &[&str], code: i32) -> String {
        let output = self.run(&[&["recover"], arguments].concat());
        let said = output.stdout + &output.stderr;
        assert_eq!(output.code, code, "{said}");
        said
    }

    /// The files that were set aside.
    fn aside(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.folder.path()).expect("read").map(|file| file.expect("a file").path());
        let mut aside: Vec<PathBuf> = files.filter(|path| path.display().to_string().contains(".broken-")).collect();
        aside.sort();
        aside
    }

    /// Overwrites the page on which a table begins, and the middle of those that follow it where `all`.
    fn damage(&self, table: &str) -> Vec<u8> {
        let page: usize =
            self.value(&format!("SELECT rootpage FROM sqlite_schema WHERE name = '{table}'")).parse().expect("a page");
        let size: usize = self.value("PRAGMA page_size").parse().expect("a size");
        let mut bytes = fs::read(self.path()).expect("read");
        bytes[(page - 1) * size..(page - 1) * size + 100].fill(0xA5);
        fs::write(self.path(), &bytes).expect("written");
        bytes
    }

    #[track_caller]
    fn is_whole(&self) {
        assert_eq!(self.value("PRAGMA integrity_check"), "ok");
        self.sync(0);
        for table in ["items", "sales"] {
            let count = format!("SELECT count(*) FROM {table}");
            assert_eq!(self.value(&count), self.master.value(&count), "{table}");
        }
    }
}

#[test]
fn a_missing_file_is_made_anew() {
    for engine in Engine::available() {
        let shop = Shop::new(engine, "bidirectional");
        assert!(shop.recovers(&["--check"], 0).contains("nothing is wrong"));
        fs::remove_file(shop.path()).expect("removed");
        assert!(shop.recovers(&["--check"], 1).contains("database 'shop': its file is missing"));
        assert!(!shop.path().exists(), "only looked at");
        if engine == Engine::Sqlite {
            // One that an earlier attempt made whole, before it was killed, is taken.
            let conn = rusqlite::Connection::open(shop.folder.path().join("shop.db.rebuilt")).expect("opened");
            conn.execute_batch("CREATE TABLE settings (name TEXT); INSERT INTO settings VALUES ('saved')")
                .expect("made");
        }
        shop.recovers(&[], 0);
        shop.is_whole();
        assert!(shop.aside().is_empty());
        let saved = shop.value("SELECT count(*) FROM sqlite_schema WHERE name = 'settings'");
        assert_eq!(saved, u8::from(engine == Engine::Sqlite).to_string());
    }
}

/// What was written in it goes out first, with its deletions and conflicts; the rest of the file comes along.
#[test]
fn a_damaged_file_is_set_aside_and_made_anew_and_nothing_that_can_be_read_is_lost() {
    for engine in Engine::available() {
        let shop = Shop::new(engine, "bidirectional");
        shop.sql(
            "INSERT INTO sales VALUES (1, 7, 'unsent'); DELETE FROM items WHERE id = 2000; \
                  CREATE TABLE scratch (id INTEGER PRIMARY KEY, x TEXT); INSERT INTO scratch VALUES (1, 'x')",
        );
        shop.master.execute("INSERT INTO sales VALUES (2, 8, 'meanwhile')");
        let broken = shop.damage("scratch");
        let checked = shop.recovers(&["--check"], 1);
        assert!(checked.contains("its file is damaged"), "{checked}");
        let said = shop.recovers(&[], 1);
        assert!(said.contains("table scratch: not all of its rows can be read"), "{said}");
        let aside = shop.aside();
        assert_eq!(aside.len(), 1, "{aside:?}");
        assert!(fs::read(&aside[0]).expect("read") == broken, "as it was found");
        shop.is_whole();
        assert_eq!(shop.master.value("SELECT note FROM sales WHERE id = 1"), "unsent");
        assert_eq!(shop.master.value("SELECT count(*) FROM items WHERE id = 2000"), "0", "the deletion went out");
        assert_eq!(shop.value("SELECT note FROM sales WHERE id = 2"), "meanwhile");
        assert_eq!(shop.value("SELECT value FROM settings"), "3", "a table that no sync brings");
        assert_eq!(shop.value("SELECT n FROM sold WHERE item = 7"), "1");
        assert_eq!(shop.value("SELECT count(*) FROM sqlite_schema WHERE name IN ('by_item', 'no_ghosts')"), "2");
        assert!(shop.recovers(&["--check"], 0).contains("nothing is wrong"));
    }
}

/// A page of a synced table is gone, and with it what was written there: what can be read is written down.
#[test]
fn what_cannot_be_sent_is_written_down() {
    let shop = Shop::new(Engine::Sqlite, "bidirectional");
    shop.sql("INSERT INTO sales VALUES (1, 7, 'unsent'); UPDATE items SET name = 'unsent too' WHERE id = 1");
    shop.damage("items");
    let said = shop.recovers(&[], 1);
    assert!(said.contains("not all that it had not sent yet could be sent"), "{said}");
    let unsent = shop.aside().into_iter().find(|path| path.display().to_string().ends_with(".unsent.jsonl"));
    let lines = fs::read_to_string(unsent.expect("a file of them")).expect("read");
    let line = lines.lines().find(|line| line.contains("\"table\":\"items\"")).expect("a line of it");
    assert!(line.contains("cannot be read"), "{line}");
    let sale = lines.lines().any(|line| line.contains("unsent"));
    assert!(sale || shop.master.value("SELECT count(*) FROM sales WHERE id = 1") == "1", "sent or written down");
    shop.is_whole();
}

#[test]
fn a_file_that_is_no_database_any_more_is_made_anew() {
    for garbage in [b"not a database at all, only words".to_vec(), vec![0; 8192], Vec::new()] {
        let shop = Shop::new(Engine::Sqlite, "bidirectional");
        fs::write(shop.path(), &garbage).expect("written");
        let lost = i32::from(!garbage.is_empty());
        let said = shop.recovers(&[], lost);
        assert_eq!(said.contains("what no sync brings is lost"), lost == 1, "{said}");
        assert_eq!(shop.aside().len(), usize::from(!garbage.is_empty()));
        shop.is_whole();
    }
}

#[test]
fn an_emptied_database_is_filled_again_and_its_source_is_not_emptied() {
    let shop = Shop::new(Engine::Sqlite, "bidirectional");
    shop.sql("INSERT INTO sales VALUES (1, 7, 'x')");
    shop.sync(0);
    shop.sql("DELETE FROM sales");
    assert!(shop.recovers(&["--check"], 0).contains("nothing is wrong"), "one empty table is healthy");
    shop.sql("DELETE FROM items");
    assert!(shop.recovers(&["--check"], 1).contains("no synced table holds a row, although some did"));
    shop.recovers(&[], 0);
    assert_eq!(shop.value("SELECT count(*) FROM items"), "2000");
    assert_eq!(shop.value("SELECT count(*) FROM sales"), "1");
    shop.is_whole();
    assert_eq!(shop.aside().len(), 1);
}

/// A fresh file in place of the old one, as an installer leaves it.
#[test]
fn a_file_that_was_replaced_by_an_empty_one_is_noticed() {
    let shop = Shop::new(Engine::Sqlite, "bidirectional");
    fs::remove_file(shop.path()).expect("removed");
    shop.sql(TABLES);
    assert!(shop.recovers(&["--check"], 1).contains("although some did"));
    shop.recovers(&[], 0);
    shop.is_whole();
}

#[test]
fn nothing_is_touched_while_its_source_is_away_or_where_there_is_none() {
    let shop = Shop::new(Engine::Sqlite, "bidirectional");
    let broken = shop.damage("items");
    let config = shop.folder.path().join("rowferry.yaml");
    let text = fs::read_to_string(&config).expect("read");
    fs::write(&config, text.replace(shop.master.url(), "postgres://nobody@127.0.0.1:1/nothing")).expect("written");
    let said = shop.recovers(&[], 3);
    assert!(said.contains("database 'shop'") && said.contains("'master'"), "{said}");
    assert!(fs::read(shop.path()).expect("read") == broken && shop.aside().is_empty());

    let shop = Shop::new(Engine::Sqlite, "push");
    let broken = shop.damage("items");
    let said = shop.recovers(&[], 1);
    assert!(said.contains("no sync brings rows into it") && said.contains("nothing was touched"), "{said}");
    assert!(fs::read(shop.path()).expect("read") == broken && shop.aside().is_empty());
}

#[test]
fn a_healthy_one_is_rebuilt_only_when_forced() {
    let shop = Shop::new(Engine::Sqlite, "bidirectional");
    shop.sql("INSERT INTO sales VALUES (1, 7, 'unsent')");
    let document: serde_json::Value =
        serde_json::from_str(&shop.run(&["recover", "--format", "json"]).stdout).expect("a document");
    assert_eq!(document[0]["state"], "healthy");
    assert!(shop.aside().is_empty());
    shop.recovers(&["--force"], 0);
    assert_eq!(shop.aside().len(), 1);
    assert_eq!(shop.master.value("SELECT note FROM sales WHERE id = 1"), "unsent");
    shop.is_whole();
    assert_equal_items(&shop);
}

fn assert_equal_items(shop: &Shop) {
    let copy = TestDb::new(Engine::Sqlite);
    let made = rowferry_in(shop.folder.path(), &["copy", "shop", copy.url(), "--tables", "items,sales"]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    assert_equal(&copy, &shop.master);
}

#[test]
fn a_database_that_is_no_file_is_refused() {
    let shop = Shop::new(Engine::Sqlite, "bidirectional");
    assert!(shop.recovers(&["nowhere"], 2).contains("nowhere"));
    let config = shop.folder.path().join("rowferry.yaml");
    let text = fs::read_to_string(&config).expect("read");
    fs::write(&config, text.replace(shop.master.url(), "postgres://nobody@127.0.0.1:1/nothing")).expect("written");
    assert!(shop.recovers(&["master"], 2).contains("is no SQLite file"));
}

/// A node puts right what it finds broken when it starts.
#[test]
fn a_node_starts_with_a_damaged_file_and_makes_it_anew() {
    let shop = Shop::new(Engine::Sqlite, "bidirectional");
    let config = shop.folder.path().join("rowferry.yaml");
    let text = fs::read_to_string(&config).expect("read");
    let text = text.replace("node: shop", "node: shop\nlisten: 127.0.0.1:0").replace("tables:", "every: 1s, tables:");
    fs::write(&config, text).expect("written");
    shop.sql("INSERT INTO sales VALUES (1, 7, 'unsent')");
    shop.damage("settings");
    let _node = Node::start(shop.folder.path());
    wait("the unsent sale", || (shop.master.value("SELECT count(*) FROM sales WHERE id = 1") == "1").then_some(()));
    wait("the file set aside", || (shop.aside().len() == 1).then_some(()));
    shop.master.execute("INSERT INTO sales VALUES (2, 8, 'after')");
    let there = || {
        let conn = rusqlite::Connection::open(shop.path()).expect("opened");
        conn.query_row("SELECT count(*) FROM sales", [], |row| row.get::<_, i64>(0)).is_ok_and(|n| n == 2)
    };
    wait("the rows after it", || there().then_some(()));
    assert_eq!(shop.value("PRAGMA integrity_check"), "ok");
}

/// The source of truth may be another node's.
#[test]
fn a_damaged_file_is_made_anew_from_a_peer() {
    let shop = Shop::new(Engine::Postgres, "bidirectional");
    let there = tempfile::tempdir().expect("a folder");
    let office = node(
        there.path(),
        &format!(
            "node: office\nlisten: 127.0.0.1:0\ndatabases:\n  main: {{ url: \"{}\" }}\napi:\n  keys:\n    \
             - {{ name: shop, key: canary-of-the-shop, role: peer, tables: {{ main: [items, sales] }} }}\n",
            shop.master.url()
        ),
    );
    let text = format!(
        "node: shop\ndatabases:\n  shop: {{ url: \"sqlite:shop.db\" }}\npeers:\n  office: {{ url: \"http://{}\", \
         api_key: canary-of-the-shop }}\nsyncs:\n  s: {{ source: shop, target: office, direction: bidirectional, \
         tables: [items, sales] }}\n",
        office.address
    );
    fs::write(shop.folder.path().join("rowferry.yaml"), text).expect("written");
    shop.sync(0);
    shop.sql("INSERT INTO sales VALUES (1, 7, 'unsent')");
    shop.damage("settings");
    let said = shop.recovers(&[], 1);
    assert!(said.contains("table settings"), "{said}");
    assert_eq!(shop.master.value("SELECT note FROM sales WHERE id = 1"), "unsent");
    shop.is_whole();
}
