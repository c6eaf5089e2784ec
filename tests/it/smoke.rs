//! The servers answer, and the support works on each engine.

use crate::support::{Engine, TestDb, rowferry};

fn creates_fills_and_reads(engine: Engine) {
    let database = TestDb::new(engine);
    assert_eq!(database.engine(), engine);
    database.execute(
        "CREATE TABLE smoke (id INTEGER PRIMARY KEY, name VARCHAR(40));
         INSERT INTO smoke (id, name) VALUES (1, 'O''Brien ☕ 王');
         INSERT INTO smoke (id, name) VALUES (2, NULL);",
    );
    let rows = database.query("SELECT id, name FROM smoke ORDER BY id");
    let expected = [["1".into(), "O'Brien ☕ 王".to_owned()].map(Some).to_vec(), vec![Some("2".to_owned()), None]];
    assert_eq!(rows, expected);

    let other = TestDb::new(engine);
    other.execute("CREATE TABLE smoke (id INTEGER PRIMARY KEY)");
    assert_eq!(other.value("SELECT count(*) FROM smoke"), "0", "each test has a database of its own");
}

#[test]
fn sqlite_answers() {
    creates_fills_and_reads(Engine::Sqlite);
}

#[test]
fn mariadb_answers() {
    creates_fills_and_reads(Engine::Mariadb);
}

#[test]
fn postgres_answers() {
    creates_fills_and_reads(Engine::Postgres);
}

#[test]
fn mysql_answers_where_there_is_one() {
    if Engine::available().contains(&Engine::Mysql) {
        creates_fills_and_reads(Engine::Mysql);
    }
}

#[test]
fn a_database_is_gone_after_its_test() {
    let database = TestDb::new(Engine::Postgres);
    let name = database.url().rsplit('/').next().unwrap().to_owned();
    drop(database);
    let look = TestDb::new(Engine::Postgres);
    assert_eq!(look.value(&format!("SELECT count(*) FROM pg_database WHERE datname = '{name}'")), "0");
}

#[test]
fn the_program_starts() {
    assert_ne!(rowferry(&["--help"]).code, -1, "no signal ended it");
}
