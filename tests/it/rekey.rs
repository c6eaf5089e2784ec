//! Two sites that are apart give one number to two rows: both stay, one under another number, with all that refers to it.

use serde_json::json;

use crate::support::{Engine, PAIR, RING, STAR, Sites, TestDb, in_turn, pairs, rows, threes};

const SYNC: &str = "tables: [customers, orders, items, staff]";

/// A shop: customers with their orders, orders with their items, staff that refers to itself. `always`: numbers that the
/// application cannot choose, where the engine has such.
fn shop(db: &TestDb, always: bool) {
    let id = match db.engine() {
        Engine::Sqlite => "INTEGER PRIMARY KEY AUTOINCREMENT",
        Engine::Postgres if always => "INTEGER GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        Engine::Postgres => "SERIAL PRIMARY KEY",
        _ => "INTEGER AUTO_INCREMENT PRIMARY KEY",
    };
    db.execute(&format!(
        "CREATE TABLE customers (id {id}, name VARCHAR(20) NOT NULL, email VARCHAR(40) UNIQUE);
         CREATE TABLE orders (id {id}, customer INTEGER NOT NULL, payer INTEGER, what VARCHAR(20) NOT NULL,
             FOREIGN KEY (customer) REFERENCES customers (id), FOREIGN KEY (payer) REFERENCES customers (id));
         CREATE TABLE items (order_id INTEGER NOT NULL, n INTEGER NOT NULL, what VARCHAR(20), PRIMARY KEY (order_id, n),
             FOREIGN KEY (order_id) REFERENCES orders (id) ON DELETE CASCADE);
         CREATE TABLE staff (id {id}, name VARCHAR(20) NOT NULL, boss INTEGER, FOREIGN KEY (boss) REFERENCES staff (id))"
    ));
}

/// A customer with an order of theirs, and someone who is their own boss, as the application writes them.
fn register(db: &TestDb, name: &str) {
    let of = |table: &str, by: &str| format!("SELECT id FROM {table} WHERE {by}");
    let customer = of("customers", &format!("name = '{name}'"));
    let boss = of("staff", &format!("name = 'b.{name}'")).replace("SELECT id", &format!("SELECT '{name}', id"));
    db.execute(&format!(
        "INSERT INTO customers (name, email) VALUES ('{name}', '{name}@example.org');
         INSERT INTO orders (customer, payer, what) {};
         INSERT INTO items (order_id, n, what) {};
         INSERT INTO staff (name) VALUES ('b.{name}');
         INSERT INTO staff (name, boss) {boss};
         UPDATE staff SET boss = id WHERE name = 'b.{name}'",
        customer.replace("SELECT id", &format!("SELECT id, id, 'of {name}'")),
        of("orders", &format!("what = 'of {name}'")).replace("SELECT id", &format!("SELECT id, 1, 'for {name}'")),
    ));
}

/// Who has what, by names alone.
const WHO: &str = "SELECT c.name, o.what, i.what, p.name FROM customers c LEFT JOIN orders o ON o.customer = c.id \
                   LEFT JOIN items i ON i.order_id = o.id LEFT JOIN customers p ON p.id = o.payer ORDER BY c.name, o.what";
const BOSSES: &str = "SELECT s.name, b.name FROM staff s JOIN staff b ON b.id = s.boss ORDER BY s.name";

fn of(name: &str) -> String {
    format!("{name} of {name} for {name} {name}")
}

/// Sites that hold one shop, with Ann in it, and know each other.
fn shops(mut sites: Sites, always: bool) -> Sites {
    sites.dbs.iter_mut().for_each(|db| shop(db, always));
    register(&sites.dbs[0], "ann");
    sites.come_to_rest();
    sites
}

#[track_caller]
fn assert_all(sites: &Sites, names: &[&str]) {
    sites.assert_rows(WHO, &names.iter().map(|name| of(name)).collect::<Vec<_>>().join(", "));
    let mut bosses: Vec<String> = names.iter().map(|name| format!("b.{name} b.{name}")).collect();
    bosses.extend(names.iter().map(|name| format!("{name} b.{name}")));
    bosses.sort_unstable();
    sites.assert_rows(BOSSES, &bosses.join(", "));
}

#[test]
fn rows_that_two_sites_insert_under_one_number_both_stay_with_what_refers_to_them() {
    for (nth, sites) in pairs(SYNC).into_iter().enumerate() {
        let sites = shops(sites, nth % 2 == 0);
        register(&sites.dbs[0], "bob");
        register(&sites.dbs[1], "cid");
        // Both are changed before they meet.
        sites.dbs[0].execute("UPDATE customers SET email = 'b@example.org' WHERE name = 'bob'");
        sites.dbs[1].execute("UPDATE customers SET email = 'c@example.org' WHERE name = 'cid'");
        sites.come_to_rest();
        assert_all(&sites, &["ann", "bob", "cid"]);
        // The one that was born first has kept its number, and the record says which is which.
        sites.assert_rows("SELECT id FROM customers WHERE name = 'bob'", "2");
        let conflicts = sites.conflicts();
        let customers: Vec<_> = conflicts.iter().filter(|c| c["table"] == "customers").collect();
        assert_eq!(customers.len(), 1, "{conflicts:?}");
        let [conflict] = customers[..] else { unreachable!() };
        assert_eq!((&conflict["policy"], &conflict["winner"]), (&json!("rekey"), &json!("source")), "{conflict}");
        assert_eq!(conflict["key"], json!({"id": "2"}));
        assert_eq!(conflict["source"]["name"], json!("bob"), "{conflict}");
        let new = rows(&sites.dbs[0], "SELECT id FROM customers WHERE name = 'cid'");
        assert_eq!(
            (&conflict["target"]["name"], &conflict["target"]["id"]),
            (&json!("cid"), &json!(new)),
            "{conflict}"
        );
        assert!(conflicts.iter().all(|c| c["winner"] != "open"), "{conflicts:?}");
        // Nobody is given a number twice.
        register(&sites.dbs[0], "dan");
        sites.come_to_rest();
        register(&sites.dbs[1], "eve");
        sites.come_to_rest();
        assert_all(&sites, &["ann", "bob", "cid", "dan", "eve"]);
    }
}

#[test]
fn a_third_site_moves_what_it_wrote_for_the_row_that_moves() {
    for (nth, three) in threes().into_iter().enumerate() {
        // Each three in one of the two orders, or in both.
        for edges in in_turn(nth, [RING, STAR]) {
            let sites = shops(Sites::new(&three, edges, SYNC), nth % 2 == 0);
            // Of the middle one, which is where the two meet first in a star.
            register(&sites.dbs[0], "bob");
            register(&sites.dbs[2], "cid");
            let both = |name| {
                format!("INSERT INTO orders (customer, what) SELECT id, 'later' FROM customers WHERE name = '{name}'")
            };
            let (first, second) = if edges == RING { ("s12", "s01") } else { ("s21", "s01") };
            sites.sync(&[first]);
            // It has the row that was born later, and writes an order for it, and changes it.
            sites.dbs[1].execute(&both("cid"));
            sites.dbs[1].execute("UPDATE customers SET email = 'new@example.org' WHERE name = 'cid'");
            sites.run(&["sync", second]);
            sites.settle();
            let cid = "SELECT c.email, o.what FROM customers c JOIN orders o ON o.customer = c.id WHERE c.name = 'cid' ORDER BY 2";
            sites.assert_rows(cid, "new@example.org later, new@example.org of cid");
            sites.assert_rows(
                "SELECT what FROM orders o JOIN customers c ON c.id = o.customer WHERE c.name = 'bob'",
                "of bob",
            );
            sites.assert_rows("SELECT id FROM customers WHERE name = 'bob'", "2");
            let conflicts = sites.conflicts();
            assert!(conflicts.iter().all(|c| c["policy"] == "rekey"), "{conflicts:?}");
        }
    }
}

/// Two sites that first meet when others have synced for long: rows that were born under capture are told apart as ever, and
/// one that has another number already is not taken for another row.
#[test]
fn two_sites_that_meet_late_tell_rows_apart() {
    for (nth, three) in threes().into_iter().enumerate() {
        // Each three in one of the two ways, or in both.
        for knows in in_turn(nth, [false, true]) {
            let mut sites = Sites::new(&three, RING, SYNC);
            sites.dbs.iter_mut().for_each(|db| shop(db, nth % 2 == 0));
            register(&sites.dbs[0], "ann");
            sites.sync(&["s01"]);
            sites.sync(&["s12"]);
            register(&sites.dbs[0], "bob");
            register(&sites.dbs[if knows { 1 } else { 2 }], "cid");
            if knows {
                // The last one has got Cid under the number that Cid gives up then.
                sites.sync(&["s12"]);
                sites.sync(&["s01"]);
            }
            sites.run(&["sync", "s20"]);
            sites.settle();
            assert_all(&sites, &["ann", "bob", "cid"]);
            sites.assert_rows("SELECT id FROM customers WHERE name = 'bob'", "2");
            let conflicts = sites.conflicts();
            assert!(conflicts.iter().all(|c| c["policy"] == "rekey"), "{conflicts:?}");
        }
    }
}

#[test]
fn rows_that_come_before_what_they_refer_to_do_not_pass_to_another() {
    for three in threes() {
        let sites = shops(Sites::new(&three, STAR, SYNC), false);
        register(&sites.dbs[0], "bob");
        register(&sites.dbs[2], "cid");
        // The customer is written again, and so told after the order.
        sites.sync(&["s21"]);
        sites.dbs[2].execute("UPDATE customers SET email = 'c@example.org' WHERE name = 'cid'");
        sites.dbs[2].execute("UPDATE orders SET what = 'of cid, 2' WHERE what = 'of cid'");
        sites.settle();
        sites.assert_rows(
            "SELECT o.what FROM orders o JOIN customers c ON c.id = o.customer WHERE c.name = 'bob'",
            "of bob",
        );
        sites.assert_rows(
            "SELECT o.what FROM orders o JOIN customers c ON c.id = o.customer WHERE c.name = 'cid'",
            "of cid, 2",
        );
        let conflicts = sites.conflicts();
        assert!(conflicts.iter().all(|c| c["policy"] == "rekey"), "{conflicts:?}");
    }
}

#[test]
fn a_row_that_was_deleted_gives_its_number_up_to_the_other() {
    for sites in pairs(SYNC) {
        let sites = shops(sites, false);
        sites.dbs[0].execute("INSERT INTO customers (name) VALUES ('bob')");
        sites.dbs[1].execute("INSERT INTO customers (name) VALUES ('cid')");
        sites.dbs[0].execute("DELETE FROM customers WHERE name = 'bob'");
        sites.come_to_rest();
        sites.assert_rows("SELECT id, name FROM customers ORDER BY id", "1 ann, 2 cid");
        assert_eq!(sites.conflicts().len(), 0, "{:?}", sites.conflicts());
    }
}

#[test]
fn many_rows_of_both_sites_under_the_same_numbers_all_stay() {
    for engine in Engine::available() {
        let sites = shops(Sites::new(&[engine, engine], PAIR, SYNC), false);
        for n in 0..20 {
            register(&sites.dbs[0], &format!("a{n:02}"));
            register(&sites.dbs[1], &format!("b{n:02}"));
        }
        sites.come_to_rest();
        let names: Vec<String> = ["a", "b"].iter().flat_map(|of| (0..20).map(move |n| format!("{of}{n:02}"))).collect();
        let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
        names.insert(20, "ann");
        names.sort_unstable();
        assert_all(&sites, &names);
    }
}
