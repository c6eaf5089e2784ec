//! Each configuration under `examples/` does what its page says.

use std::path::{Path, PathBuf};

use crate::support::{Engine, Node, Output, TestDb, assert_equal, command, output, wait};

/// An example, with the databases that its variables name.
struct Example<'a> {
    folder: PathBuf,
    databases: Vec<(&'static str, &'a TestDb)>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

impl Example<'_> {
    fn run(&self, args: &[&str]) -> Output {
        let mut command = command(&self.folder);
        command.args(["-c", "rowferry.yaml"]).args(args);
        for (name, db) in &self.databases {
            command.env(name, db.url());
        }
        output(&mut command)
    }

    #[track_caller]
    fn done(&self, args: &[&str]) {
        let output = self.run(args);
        assert_eq!(output.code, 0, "{args:?} in {}: {output:?}", self.folder.display());
    }
}

fn example<'a>(name: &str, databases: &[(&'static str, &'a TestDb)]) -> Example<'a> {
    Example { folder: folder().join(name), databases: databases.to_vec() }
}

fn two(engine: Engine) -> [TestDb; 2] {
    [TestDb::new(engine), TestDb::new(engine)]
}

const USERS: &str =
    "CREATE TABLE users (id INT NOT NULL PRIMARY KEY, name VARCHAR(40) NOT NULL, api_token VARCHAR(40));
    CREATE TABLE orders (id INT NOT NULL PRIMARY KEY, user_id INT NOT NULL, total DECIMAL(10,2) NOT NULL,
        FOREIGN KEY (user_id) REFERENCES users (id));";

#[test]
fn each_example_is_run_here_and_named_on_the_page() {
    let text = include_str!("examples.rs");
    let page = std::fs::read_to_string(folder().join("README.md")).expect("the page");
    let mut count = 0;
    for entry in std::fs::read_dir(folder()).expect("the folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            assert!(text.contains(&format!("example(\"{name}\"")), "nothing runs {name}");
            assert!(page.contains(&format!("({name}/README.md)")), "the page does not name {name}");
            assert!(path.join("README.md").is_file(), "{name} has no page");
            count += 1;
        }
    }
    assert!(count >= 6, "{count} examples");
}

#[test]
fn two_laptops() {
    let [a, b] = two(Engine::Mariadb);
    let number = "id INT NOT NULL AUTO_INCREMENT PRIMARY KEY";
    a.execute(&format!(
        "CREATE TABLE clients ({number}, name VARCHAR(40)); CREATE TABLE riders ({number}, name VARCHAR(40), rating INT);
         CREATE TABLE drivers ({number}, name VARCHAR(40)); CREATE TABLE notifications ({number}, body TEXT);
         CREATE TABLE bookings ({number}, rider INT NOT NULL, status VARCHAR(20), FOREIGN KEY (rider) REFERENCES riders (id));
         INSERT INTO riders (name) VALUES ('Ada'); INSERT INTO bookings (rider, status) VALUES (1, 'new')"
    ));
    let laptops = example("two-laptops", &[("LAPTOP_A", &a), ("LAPTOP_B", &b)]);
    laptops.done(&["check"]);
    laptops.done(&["sync"]);
    assert_equal(&a, &b);
    // Apart, both give the number 2 to a rider, and one of them takes a booking for hers.
    a.execute("INSERT INTO riders (name) VALUES ('Bola'); UPDATE bookings SET status = 'taken'");
    b.execute("INSERT INTO riders (name) VALUES ('Chi')");
    b.execute("INSERT INTO bookings (rider, status) SELECT id, 'hers' FROM riders WHERE name = 'Chi'");
    b.execute("UPDATE riders SET rating = 5 WHERE id = 1");
    laptops.done(&["sync"]);
    assert_equal(&a, &b);
    assert_eq!(a.value("SELECT count(*) FROM riders"), "3");
    let booked = "SELECT name FROM riders JOIN bookings ON bookings.rider = riders.id WHERE status = 'hers'";
    assert_eq!(a.value(booked), "Chi");
}

#[test]
fn head_office() {
    let (head, lagos, kano) = (TestDb::new(Engine::Postgres), TestDb::new(Engine::Sqlite), TestDb::new(Engine::Sqlite));
    head.execute(
        "CREATE TABLE products (sku VARCHAR(20) NOT NULL PRIMARY KEY, price NUMERIC(10,2) NOT NULL);
         CREATE TABLE sales (id VARCHAR(20) NOT NULL PRIMARY KEY, sku VARCHAR(20) NOT NULL, pieces INT NOT NULL);
         INSERT INTO products VALUES ('soap', 1.50), ('rice', 20)",
    );
    for branch in [&lagos, &kano] {
        branch.execute(
            "CREATE TABLE sales (id VARCHAR(20) NOT NULL PRIMARY KEY, sku VARCHAR(20) NOT NULL, pieces INT NOT NULL)",
        );
    }
    let shop = example("head-office", &[("HEAD", &head), ("LAGOS", &lagos), ("KANO", &kano)]);
    shop.done(&["sync"]);
    lagos.execute("INSERT INTO sales VALUES ('L-1', 'soap', 3); UPDATE products SET price = 9 WHERE sku = 'soap'");
    kano.execute("INSERT INTO sales VALUES ('K-1', 'rice', 1)");
    head.execute("UPDATE products SET price = 1.75 WHERE sku = 'soap'");
    shop.done(&["sync"]);
    shop.done(&["sync"]);
    for branch in [&lagos, &kano] {
        assert_eq!(branch.value("SELECT count(*) FROM sales"), "2");
        assert_eq!(
            branch.value("SELECT price FROM products WHERE sku = 'soap'"),
            "1.75",
            "the head office sets prices"
        );
    }
}

#[test]
fn master_slave() {
    let [master, slave] = two(Engine::Mariadb);
    master.execute(&format!(
        "{USERS} INSERT INTO users VALUES (1, 'Ada', 'm1'), (2, 'Bola', 'm2'); INSERT INTO orders VALUES (1, 1, 9.5)"
    ));
    slave.execute(&format!("{USERS} INSERT INTO users VALUES (2, 'old', 's2'), (3, 'own', 's3')"));
    let local = example("master-slave", &[("MASTER", &master), ("SLAVE", &slave)]);
    local.done(&["sync", "local"]);
    let rows = slave.query("SELECT id, name, coalesce(api_token, '-') FROM users ORDER BY id");
    let text: Vec<String> = rows.into_iter().flatten().flatten().collect();
    assert_eq!(text, ["1", "Ada", "-", "2", "Bola", "s2"]);
    assert_eq!(slave.value("SELECT count(*) FROM orders"), "1");
    master.execute("DELETE FROM orders");
    local.done(&["sync"]);
    assert_eq!(slave.value("SELECT count(*) FROM orders"), "0");
}

#[test]
fn master_master() {
    let [one, two] = two(Engine::Mariadb);
    one.execute(&format!("{USERS} INSERT INTO users VALUES (1, 'Ada', 'x'), (2, 'Bola', 'y')"));
    two.execute(&format!("{USERS} INSERT INTO users VALUES (1, 'other', 'x'), (3, 'Chi', 'z')"));
    let both = example("master-master", &[("ONE", &one), ("TWO", &two)]);
    both.done(&["sync"]);
    assert_equal(&one, &two);
    assert_eq!(two.value("SELECT name FROM users WHERE id = 1"), "Ada");
    one.execute("DELETE FROM users WHERE id = 2; INSERT INTO orders VALUES (1, 3, 4)");
    two.execute("UPDATE users SET name = 'Chidi' WHERE id = 3");
    both.done(&["sync"]);
    both.done(&["sync"]);
    assert_equal(&one, &two);
    assert_eq!(two.value("SELECT count(*) FROM users"), "2", "what is deleted stays deleted");
}

#[test]
fn three_environments() {
    let [production, recovery] = two(Engine::Mariadb);
    let staging = TestDb::new(Engine::Mariadb);
    production.execute(&format!("{USERS} INSERT INTO users VALUES (1, 'Ada', 'x')"));
    let all = [("PRODUCTION", &production), ("STAGING", &staging), ("RECOVERY", &recovery)];
    let environments = example("three-environments", &all);
    environments.done(&["sync"]);
    // Production is down: the second site is written. Tests write at staging.
    recovery.execute("INSERT INTO users VALUES (2, 'Bola', 'y')");
    staging.execute("INSERT INTO users VALUES (99, 'test', 't')");
    environments.done(&["sync"]);
    assert_equal(&production, &recovery);
    assert_equal(&production, &staging);
    assert_eq!(staging.value("SELECT count(*) FROM users"), "2");
}

#[test]
fn laravel_slave() {
    let [till, master] = two(Engine::Sqlite);
    let schema = "CREATE TABLE inventory (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, current_stock NUMERIC NOT NULL, updated_at DATETIME);
        CREATE TABLE company_settings (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, company_name VARCHAR NOT NULL);
        CREATE TABLE transactions (id VARCHAR(26) PRIMARY KEY NOT NULL, total_amount NUMERIC NOT NULL, status VARCHAR NOT NULL);
        CREATE TABLE inventory_adjustments (id VARCHAR(26) PRIMARY KEY NOT NULL, quantity_kg NUMERIC NOT NULL);";
    for db in [&till, &master] {
        db.execute(schema);
    }
    master.execute(
        "INSERT INTO inventory VALUES (1, 500, '2026-01-01 00:00:00'); INSERT INTO company_settings VALUES (1, 'Gas')",
    );
    let shop = example("laravel-slave", &[("TILL", &till), ("MASTER", &master)]);
    shop.done(&["sync"]);
    assert_eq!(till.value("SELECT company_name FROM company_settings"), "Gas");
    till.execute("INSERT INTO transactions VALUES ('t1', 12.5, 'paid'); UPDATE inventory SET current_stock = 1");
    master.execute("INSERT INTO transactions VALUES ('m1', 3, 'paid'); UPDATE inventory SET current_stock = 480");
    shop.done(&["sync", "sales", "inventory"]);
    assert_eq!(till.value("SELECT current_stock FROM inventory"), "480", "the master counts the stock");
    for db in [&till, &master] {
        assert_eq!(db.value("SELECT count(*) FROM transactions"), "2");
    }
    assert_equal(&till, &master);
}

#[test]
fn slave_to_production() {
    let db = TestDb::new(Engine::Postgres);
    db.execute(
        "CREATE SCHEMA slave; CREATE SCHEMA main;
         CREATE TABLE slave.\"Sheet 1\" (\"Tool Name\" TEXT, \"Vendor\" TEXT, \"Pricing / month\" NUMERIC(10,2), \"SSO?\" TEXT,
             \"Certifications (ISO & SOC)\" TEXT, \"Description\" TEXT);
         CREATE TABLE main.tools (id BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, tool_name TEXT NOT NULL,
             \"Vendor\" TEXT, monthly_price NUMERIC(10,2), \"SSO?\" TEXT, \"Certifications (ISO & SOC)\" TEXT,
             \"Description\" TEXT, owner TEXT);
         INSERT INTO slave.\"Sheet 1\" VALUES ('Saw', 'Acme', 12.5, 'yes', 'SOC 2', 'cuts'), ('Saw', 'Other', 3, NULL, '', 'cuts'),
             ('Drill', '', 4, 'no', '', 'drills'), ('Plane', 'Acme', 5, 'no', '', NULL);
         INSERT INTO main.tools (tool_name, \"Vendor\", monthly_price, owner) VALUES ('Own', 'Us', 1, 'Ada'),
             ('Saw', 'Acme', 10, 'Bola')",
    );
    let slave = example("slave-to-production", &[("DATABASE", &db)]);
    slave.done(&["check"]);
    slave.done(&["sync"]);
    let all =
        "SELECT concat_ws(' ', id, tool_name, \"Vendor\", monthly_price, \"SSO?\", owner) FROM main.tools ORDER BY id";
    let tools = || db.query(all).into_iter().flatten().flatten().collect::<Vec<_>>();
    assert_eq!(tools(), ["1 Own Us 1.00 Ada", "2 Saw Acme 12.50 yes Bola", "3 Saw Other 3.00"]);
    db.execute(
        "UPDATE slave.\"Sheet 1\" SET \"Vendor\" = 'Acme', \"SSO?\" = 'soon' WHERE \"Tool Name\" = 'Drill';
         DELETE FROM slave.\"Sheet 1\" WHERE \"Vendor\" = 'Other'",
    );
    slave.done(&["sync"]);
    assert_eq!(tools()[2..], ["3 Saw Other 3.00", "4 Drill Acme 4.00 soon"], "nothing is deleted");
}

#[test]
fn three_nodes() {
    let (office, a, b) = (TestDb::new(Engine::Postgres), TestDb::new(Engine::Sqlite), TestDb::new(Engine::Mariadb));
    a.execute(
        "CREATE TABLE riders (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(40));
         CREATE TABLE bookings (id VARCHAR(20) NOT NULL PRIMARY KEY, rider INTEGER NOT NULL, status VARCHAR(20),
             FOREIGN KEY (rider) REFERENCES riders (id));
         INSERT INTO riders VALUES (1, 'Ada'); INSERT INTO bookings VALUES ('A-1', 1, 'new')",
    );
    let files = example("three-nodes", &[]).folder;
    let start = |file: &str, variables: &[(&str, &str)]| {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::copy(files.join(file), folder.path().join(file)).expect("the file");
        let node = Node::with(folder.path(), &["-c", file, "serve"], variables);
        (node, folder)
    };
    let keys = ["a-key-of-laptop-a", "a-key-of-laptop-b"];
    let listen = ("LISTEN", "127.0.0.1:0");
    let (at_office, _folder) =
        start("office.yaml", &[listen, ("OFFICE", office.url()), ("KEY_A", keys[0]), ("KEY_B", keys[1])]);
    let url = format!("http://{}", at_office.address);
    let laptop = |name: &str, db: &TestDb, key: &str| {
        start("laptop.yaml", &[("LAPTOP", name), ("APP", db.url()), ("OFFICE_URL", &url), ("KEY", key)])
    };
    let _a = laptop("laptop-a", &a, keys[0]);
    wait("the rows at the office", || office.attempt("SELECT 1 / count(*) FROM bookings").ok());
    let _b = laptop("laptop-b", &b, keys[1]);
    let has = |db: &TestDb, what: &str| {
        let sql = format!("SELECT id FROM bookings WHERE status = '{what}'");
        db.attempt(&sql).ok().and_then(|()| (!db.query(&sql).is_empty()).then_some(()))
    };
    wait("the rows on the other laptop", || has(&b, "new"));
    b.execute("UPDATE bookings SET status = 'taken' WHERE id = 'A-1'");
    wait("its answer on the first", || has(&a, "taken"));
    assert_equal(&a, &office);
    assert_equal(&b, &office);
}
