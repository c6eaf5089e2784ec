//! What was written together arrives together, whatever the table.

use std::path::Path;

use crate::support::{Engine, TestDb, assert_equal, program, rowferry_in};

/// Tables of orders and their lines, at the first database.
fn orders(engine: Engine) -> [TestDb; 2] {
    let [a, b] = [TestDb::new(engine), TestDb::new(engine)];
    a.execute("CREATE TABLE orders (id INTEGER NOT NULL PRIMARY KEY, note VARCHAR(20))");
    a.execute(
        "CREATE TABLE items (id INTEGER NOT NULL PRIMARY KEY, orders_id INTEGER NOT NULL, \
         FOREIGN KEY (orders_id) REFERENCES orders (id))",
    );
    a.execute("INSERT INTO orders VALUES (1, 'one'), (2, 'two')");
    a.execute("INSERT INTO items VALUES (11, 1), (12, 1), (21, 2)");
    [a, b]
}

fn config(folder: &Path, [a, b]: &[TestDb; 2], settings: &str) {
    let text = format!(
        "node: test\ndatabases:\n  a: {{ url: \"{}\" }}\n  b: {{ url: \"{}\" }}\n{settings}syncs:\n  \
         s: {{ source: a, target: b, direction: push, tables: [orders, items] }}\n",
        a.url(),
        b.url()
    );
    std::fs::write(folder.join("rowferry.yaml"), text).expect("written");
}

#[test]
fn what_one_transaction_wrote_to_two_tables_is_one_transaction_there() {
    for engine in Engine::available() {
        let ends = orders(engine);
        let folder = tempfile::tempdir().expect("a folder");
        config(folder.path(), &ends, "");
        assert_eq!(rowferry_in(folder.path(), &["sync"]).code, 0);
        ends[0].execute(
            "BEGIN; DELETE FROM items WHERE orders_id = 1; DELETE FROM orders WHERE id = 1; \
             INSERT INTO orders VALUES (3, 'three'); INSERT INTO items VALUES (31, 3), (32, 3); COMMIT",
        );
        // It dies when its first transaction at the other end is committed.
        let died = program(folder.path(), &["sync"]).env("ROWFERRY_FAILPOINT", "changes-committed").output();
        assert_eq!(died.expect("the program").status.code(), None, "{engine:?}: it never came to the failpoint");
        assert_equal(&ends[0], &ends[1]);
        assert_eq!(rowferry_in(folder.path(), &["sync"]).code, 0);
        assert_equal(&ends[0], &ends[1]);
    }
}

#[test]
fn a_parcel_ends_with_a_whole_transaction() {
    for engine in Engine::available() {
        let ends = orders(engine);
        let folder = tempfile::tempdir().expect("a folder");
        config(folder.path(), &ends, "defaults: { batch_size: 2 }\n");
        assert_eq!(rowferry_in(folder.path(), &["sync"]).code, 0);
        for at in 3..8 {
            ends[0]
                .execute(&format!("INSERT INTO orders VALUES ({at}, 'more'); INSERT INTO items VALUES ({at}, {at})"));
            // Taken up by itself, and not sent.
            let run = program(folder.path(), &["sync"]).env("ROWFERRY_FAILPOINT", "fold-committed").output();
            assert_eq!(run.expect("the program").status.code(), None);
        }
        ends[0].execute("DELETE FROM items WHERE orders_id = 1");
        ends[0].execute("DELETE FROM orders WHERE id = 1");
        let mut died = 0;
        loop {
            let point = format!("changes-committed:{}", died + 1);
            let run = program(folder.path(), &["sync"]).env("ROWFERRY_FAILPOINT", point).output().expect("the program");
            let orphans = ends[1].value("SELECT count(*) FROM items WHERE orders_id NOT IN (SELECT id FROM orders)");
            assert_eq!(orphans, "0", "{engine:?}: lines of orders that are not there, after {died} deaths");
            match run.status.code() {
                None => died += 1,
                Some(0) => break,
                code => panic!("{engine:?}: {code:?} {run:?}"),
            }
        }
        assert!(died > 1, "{engine:?}: it was all one parcel");
        assert_equal(&ends[0], &ends[1]);
    }
}
