//! Every `rowferry` command that the README and the guide show is run as it stands there, in the order of its page; what
//! a command needs is put in place before it.

use std::collections::VecDeque;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Engine, Output, TestDb, command, output, rowferry_in};

/// The commands of a page, without their remarks.
fn commands(page: &str) -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).expect("the page");
    let mut commands: Vec<String> = Vec::new();
    for line in text.lines() {
        if let Some(typed) = line.strip_prefix("$ rowferry ") {
            let typed = typed.split(" #").next().unwrap_or(typed).trim();
            commands.push(typed.to_owned());
        }
    }
    assert!(!commands.is_empty(), "{page} shows no command");
    commands
}

/// A shell splits it, as it would what is typed; the program is the one that is tested.
fn shell(folder: &Path, typed: &str) -> Command {
    let program = command(folder);
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("exec \"$0\" {typed}")).arg(program.get_program()).current_dir(folder);
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

/// Commands of a page, to be run one after another.
struct Page {
    name: &'static str,
    left: VecDeque<String>,
    folder: tempfile::TempDir,
    /// What stands on the page, and what stands for it here.
    here: Vec<(&'static str, String)>,
}

impl Page {
    fn new(name: &'static str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { name, left: commands(name).into(), folder, here: Vec::new() }
    }

    fn config(&self, text: &str) {
        std::fs::write(self.folder.path().join("rowferry.yaml"), text).expect("the config");
    }

    /// The next command, which must be this one.
    #[track_caller]
    fn next(&mut self, expected: &str) -> Command {
        let typed = self.left.pop_front().unwrap_or_else(|| panic!("{} does not show {expected}", self.name));
        assert_eq!(typed, expected, "the commands of {} are others than those run here", self.name);
        let typed = self.here.iter().fold(typed, |typed, (there, here)| typed.replace(there, here));
        shell(self.folder.path(), &typed)
    }

    #[track_caller]
    fn run(&mut self, expected: &str, code: i32) -> Output {
        let output = output(&mut self.next(expected));
        assert_eq!(output.code, code, "{}: rowferry {expected}: {output:?}", self.name);
        output
    }

    /// Starts the next command, waits until this is so, and asks it to stop.
    #[cfg(unix)]
    #[track_caller]
    fn run_until(&mut self, expected: &str, so: impl Fn() -> bool, meanwhile: impl FnOnce(&mut Self)) {
        let mut child =
            self.next(expected).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
        let deadline = Instant::now() + Duration::from_mins(1);
        while !so() {
            assert!(Instant::now() < deadline, "rowferry {expected} goes on to no end");
            assert!(child.try_wait().expect("a state").is_none(), "rowferry {expected} ended by itself");
            std::thread::sleep(Duration::from_millis(20));
        }
        meanwhile(self);
        let stopped = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill");
        assert!(stopped.success());
        child.wait().expect("an end");
    }

    #[track_caller]
    fn end(self) {
        assert!(self.left.is_empty(), "{} shows what is not run here: {:?}", self.name, self.left);
    }

    fn file(&self, name: &str, sql: &str) {
        let connection = rusqlite::Connection::open(self.folder.path().join(name)).expect("a file");
        connection.execute_batch(sql).expect("rows");
    }
}

#[test]
fn each_page_that_shows_commands_is_run_here() {
    let text = include_str!("docs.rs");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    for entry in std::fs::read_dir(folder).expect("the folder") {
        let path = entry.expect("an entry").path();
        let page = std::fs::read_to_string(&path).expect("a page");
        let name = format!("docs/{}", path.file_name().expect("a name").to_string_lossy());
        let run = text.contains(&format!("Page::new(\"{name}\")"));
        assert!(run || !page.contains("\n$ rowferry "), "nothing runs the commands of {name}");
    }
}

const SHOP: &str = "CREATE TABLE customers (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(40) NOT NULL);
     CREATE TABLE orders (id INTEGER NOT NULL PRIMARY KEY, customer INTEGER NOT NULL, total NUMERIC(10,2),
         FOREIGN KEY (customer) REFERENCES customers (id));
     INSERT INTO customers VALUES (1, 'Ada'), (2, 'Bola');
     INSERT INTO orders VALUES (1, 1, 9.50), (2, 2, 10.25)";

#[cfg(unix)]
#[test]
fn the_readme() {
    let mut page = Page::new("README.md");
    let (app, shop) = (TestDb::new(Engine::Postgres), TestDb::new(Engine::Mariadb));
    page.here = vec![
        ("postgres://me@localhost/app", app.url().to_owned()),
        ("mysql://me@localhost/shop", shop.url().to_owned()),
    ];
    page.file("app.db", SHOP);
    shop.execute(SHOP);
    shop.execute("CREATE TABLE order_items (id INT PRIMARY KEY); CREATE TABLE c_x (id INT PRIMARY KEY)");
    page.run("copy sqlite:app.db postgres://me@localhost/app", 0);
    page.run("copy mysql://me@localhost/shop sqlite:shop.db --tables 'orders,order_items,c_*'", 0);
    app.execute("INSERT INTO customers VALUES (3, 'only there')");
    page.run("copy sqlite:app.db postgres://me@localhost/app --mode mirror", 0);
    assert_eq!(app.value("SELECT count(*) FROM customers"), "2");
    page.run("copy sqlite:app.db postgres://me@localhost/app --dry-run", 0);
    page.run("diff sqlite:app.db postgres://me@localhost/app", 0);
    app.execute("UPDATE customers SET name = 'changed' WHERE id = 1");
    let rows = page.run("diff sqlite:app.db postgres://me@localhost/app --rows", 1);
    assert!(rows.stdout.contains("customers"), "{rows:?}");
    page.run("diff sqlite:app.db postgres://me@localhost/app --repair a-to-b", 0);

    page.run("init", 0);
    page.config(
        "node: test\ndatabases:\n  app: { url: \"sqlite:app.db\" }\n  copy: { url: \"sqlite:copy.db\" }\nsyncs:\n  \
         shop: { source: app, target: copy, direction: bidirectional, tables: [customers, orders] }\n",
    );
    page.run("check", 0);
    page.run("sync", 0);
    page.file("app.db", "INSERT INTO customers VALUES (3, 'Chi')");
    let copied = page.folder.path().join("copy.db");
    let arrived = || {
        let copy = rusqlite::Connection::open(&copied).expect("the file");
        copy.query_row("SELECT count(*) FROM customers", [], |row| row.get::<_, i64>(0)).is_ok_and(|rows| rows == 3)
    };
    page.run_until("sync --watch", arrived, |_| {});
    page.run("capture status", 0);
    page.run("conflicts list", 0);
    page.run("quarantine list", 0);
    page.end();
}

#[test]
fn changes() {
    let mut page = Page::new("docs/changes.md");
    let (app, prod) = (TestDb::new(Engine::Sqlite), TestDb::new(Engine::Postgres));
    app.execute(SHOP);
    page.config(&format!(
        "node: test\ndatabases:\n  app: {{ url: \"{}\" }}\n  prod: {{ url: \"{}\" }}\nsyncs:\n  \
         shop: {{ source: app, target: prod, direction: bidirectional, tables: [customers, orders] }}\n",
        app.url(),
        prod.url()
    ));
    page.run("check shop", 0);
    page.run("capture install shop", 0);
    page.run("sync shop", 0);
    app.execute("UPDATE customers SET name = 'at app' WHERE id = 1");
    prod.execute("UPDATE customers SET name = 'at prod' WHERE id = 1");
    let folder = page.folder.path().to_owned();
    let id_of = |what: &str| {
        let list = rowferry_in(&folder, &[what, "list", "--format", "json"]).json();
        list[0]["id"].as_str().expect("one is listed").to_owned()
    };
    assert_eq!(rowferry_in(&folder, &["sync"]).code, 0);
    page.here = vec![("ID", id_of("conflicts"))];
    page.run("conflicts list", 0);
    page.run("conflicts show ID", 0);
    page.run("conflicts resolve ID --keep source", 0);
    assert_eq!(prod.value("SELECT name FROM customers WHERE id = 1"), "at app");
    prod.execute("ALTER TABLE customers ADD CONSTRAINT short CHECK (length(name) < 20)");
    app.execute("INSERT INTO customers VALUES (9, 'longer than the other end takes')");
    assert_eq!(rowferry_in(&folder, &["sync"]).code, 1);
    page.here = vec![("ID", id_of("quarantine"))];
    page.run("quarantine list", 0);
    page.run("quarantine show ID", 0);
    page.run("quarantine retry", 1);
    page.here = vec![("ID", id_of("quarantine"))];
    page.run("quarantine discard ID", 0);
    page.end();
}

#[test]
fn recovering() {
    let mut page = Page::new("docs/recovering.md");
    let prod = TestDb::new(Engine::Postgres);
    prod.execute(SHOP);
    page.config(&format!(
        "node: test\ndatabases:\n  shop: {{ url: \"sqlite:shop.db\" }}\n  prod: {{ url: \"{}\" }}\nsyncs:\n  \
         shop: {{ source: shop, target: prod, direction: bidirectional, tables: [customers, orders] }}\n",
        prod.url()
    ));
    page.run("recover --check", 1);
    page.run("recover", 0);
    page.run("recover shop --force", 0);
    page.end();
}

/// What the page on troubles quotes is what the program says.
#[test]
fn troubles_are_told_in_the_words_of_the_program() {
    fn read(folder: &Path, all: &mut String) {
        for entry in std::fs::read_dir(folder).expect("the folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                read(&path, all);
            } else {
                all.push_str(&std::fs::read_to_string(&path).expect("a file"));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut source = String::new();
    read(&root.join("src"), &mut source);
    // Sentences go on behind a backslash.
    let source = source.split("\\\n").map(str::trim_start).collect::<String>();
    let page = std::fs::read_to_string(root.join("docs/troubleshooting.md")).expect("the page");
    let quoted: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert!(quoted.len() > 4, "{quoted:?}");
    for piece in quoted.iter().flat_map(|sentence| sentence.split('…')).map(str::trim) {
        assert!(source.contains(piece), "nothing says '{piece}'");
    }
}

#[test]
fn moving() {
    let mut page = Page::new("docs/moving.md");
    let old = r#"{"remoteEnvironments": {"production": {"url": "https://prod.example.com", "apiKey": "k", "syncMode": "push"}}}"#;
    std::fs::write(page.folder.path().join("config.json"), old).expect("written");
    let output = page.run("init --from config.json", 0);
    assert!(output.stdout.contains("what replaces what"), "{output:?}");
    page.end();
}

#[cfg(unix)]
#[test]
fn nodes() {
    let mut page = Page::new("docs/nodes.md");
    page.file(
        "app.db",
        "CREATE TABLE riders (id INTEGER NOT NULL PRIMARY KEY, name TEXT); INSERT INTO riders VALUES (1, 'Ada')",
    );
    page.config(
        "node: laptop-a\nlisten: 127.0.0.1:0\ndatabases:\n  app: { url: \"sqlite:app.db\" }\n  \
         copy: { url: \"sqlite:copy.db\" }\nsyncs:\n  \
         shop: { source: app, target: copy, direction: push, every: 1s, tables: [riders] }\n",
    );
    let copied = page.folder.path().join("copy.db");
    let arrived = || {
        let copy = rusqlite::Connection::open(&copied).expect("the file");
        copy.query_row("SELECT count(*) FROM riders", [], |row| row.get::<_, i64>(0)).is_ok_and(|rows| rows == 1)
    };
    page.run_until("serve", arrived, |page| {
        page.run("status", 0);
    });
    page.run("keys create branch-7 --role peer --table app/riders --table app/drivers --from 10.0.0.0/8", 0);
    let keys = page.run("keys list", 0);
    assert!(keys.stdout.contains("branch-7"), "{keys:?}");
    page.run("keys revoke branch-7", 0);
    page.end();
}
