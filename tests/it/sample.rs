//! The sample database is sound: what the demo and the other tests build on.

use rowferry::sample;

use crate::support::{Engine, TestDb};

fn filled(seed: u64) -> TestDb {
    let database = TestDb::new(Engine::Sqlite);
    // foreign keys on: the order of the statements must suit them
    let mut sql = format!("PRAGMA foreign_keys = ON; BEGIN;\n{}", sample::shop_schema());
    for statement in sample::rows(1, seed) {
        sql += &statement;
        sql += ";\n";
    }
    database.execute(&(sql + "COMMIT;"));
    database
}

#[test]
fn loads_with_every_reference_kept() {
    let database = filled(7);
    assert_eq!(database.query("PRAGMA foreign_key_check"), Vec::<Vec<Option<String>>>::new());
    assert_eq!(database.value("PRAGMA integrity_check"), "ok");
    let tables = database.query("SELECT name FROM sqlite_schema WHERE type = 'table'");
    assert!(tables.len() >= 30, "{} tables", tables.len());
    for table in tables.into_iter().flatten().flatten() {
        let rows = database.value(&format!("SELECT count(*) FROM \"{table}\""));
        assert_ne!(rows, "0", "{table} has rows");
    }
    let headless = database.value("SELECT count(*) FROM departments WHERE head_id IS NULL");
    assert_eq!(headless, "0", "the cycle is closed");
    let twins = "SELECT count(*) FROM (SELECT 1 FROM access_log GROUP BY at, login, path, status HAVING count(*) > 1)";
    assert_ne!(database.value(twins), "0", "rows that occur twice");
}

#[test]
fn values_have_the_form_of_their_declared_type() {
    let database = filled(7);
    for (what, sql) in [
        (
            "order totals",
            r#"SELECT count(*) FROM "order" o WHERE abs(total - (SELECT sum(quantity * unit_price) FROM order_items WHERE order_id = o.id)) > 0.001"#,
        ),
        ("money", "SELECT count(*) FROM products WHERE typeof(price) NOT IN ('integer', 'real')"),
        ("dates", "SELECT count(*) FROM employees WHERE date(hired_on) IS NOT hired_on"),
        ("moments", "SELECT count(*) FROM customers WHERE datetime(updated_at) IS NOT updated_at"),
        ("zoned moments", r#"SELECT count(*) FROM "order" WHERE datetime(placed_at) IS NULL"#),
        ("JSON", "SELECT count(*) FROM products WHERE NOT json_valid(attributes)"),
        ("JSON", "SELECT count(*) FROM suppliers WHERE NOT json_valid(contact)"),
        ("UUIDs", "SELECT count(*) FROM payments WHERE typeof(id) <> 'text' OR length(id) <> 36"),
        ("pictures", "SELECT count(*) FROM product_pictures WHERE typeof(picture) <> 'blob'"),
        ("text", "SELECT count(*) FROM addresses WHERE typeof(postcode) NOT IN ('text', 'null')"),
    ] {
        assert_eq!(database.value(sql), "0", "{what}: {sql}");
    }
}

#[test]
fn the_seed_decides_the_rows() {
    let all = |scale, seed| sample::rows(scale, seed).collect::<Vec<_>>();
    assert_eq!(all(1, 5), all(1, 5));
    assert_ne!(all(1, 5), all(1, 6));
    assert!(all(2, 5).len() > all(1, 5).len());
}
