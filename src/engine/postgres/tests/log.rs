//! Change logs and lookups: what is this engine's alone. What they promise on every engine is tested with all of them.

use super::*;
use crate::engine::{ChangeLog, Logged, RowLock};
use crate::model::{Column, Key};

/// The logs of these tables, numbered from 1, by their row keys.
async fn logs(db: &Postgres, names: &[&str]) -> (Vec<Arc<Table>>, Vec<ChangeLog>) {
    let mut logged = Vec::new();
    for (n, name) in (1..).zip(names) {
        let table = Arc::new(db.describe(&TableName::new(*name)).await.unwrap().unwrap());
        logged.push(Logged { n, key: table.row_key().unwrap(), table });
    }
    let logs = db.change_logs(&logged).unwrap();
    (logged.into_iter().map(|l| l.table).collect(), logs)
}

async fn run(db: &Postgres, sql: &str) {
    db.target().await.unwrap().execute(sql).await.unwrap();
}

async fn install(db: &Postgres, log: &ChangeLog) {
    for sql in &log.install {
        run(db, sql).await;
    }
}

/// Takes the lines of the first log: operation and this expression over the key columns.
async fn take(db: &Postgres, key: &str) -> Vec<String> {
    let sql = format!(
        "WITH gone AS (DELETE FROM _rowferry_log_1 RETURNING concat(_rowferry_op, ' ', {key}) AS line) \
         SELECT line FROM gone ORDER BY line COLLATE \"C\""
    );
    texts(db, &sql).await
}

async fn own(db: &Postgres) -> Vec<String> {
    db.own_triggers().await.unwrap()
}

/// Keys of one column, each given by what pushes it.
fn keys(table: &Arc<Table>, column: usize, values: &[Cell<'_>]) -> Batch {
    let mut data = Column::default();
    for value in values {
        data.push_cell(*value);
    }
    Batch::new(Arc::new(table.project(&[column])), vec![data])
}

#[tokio::test]
async fn every_write_to_a_partition_is_logged() {
    let db = fresh("log_parts").await;
    run(
        &db,
        "CREATE TABLE p (id int, r int, v text, PRIMARY KEY (id, r)) PARTITION BY RANGE (r); \
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10); \
         CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id); \
         CREATE TABLE p2a PARTITION OF p2 FOR VALUES FROM (0) TO (10)",
    )
    .await;
    let (_, logs) = logs(&db, &["p"]).await;
    install(&db, &logs[0]).await;
    assert_eq!(own(&db).await, logs[0].triggers);
    run(&db, "INSERT INTO p VALUES (1, 1), (2, 11); INSERT INTO p1 VALUES (3, 3); UPDATE p2a SET v = 'x'").await;
    assert_eq!(take(&db, "id").await, ["I 1", "I 2", "I 3", "U 2"]);
    run(&db, "UPDATE p SET r = 12 WHERE id = 3; DELETE FROM p2 WHERE id = 2").await;
    assert_eq!(take(&db, "id, '-', r").await, ["D 2-11", "D 3-3", "I 3-12"]);
    run(&db, "TRUNCATE p2a").await;
    assert_eq!(take(&db, "id").await, ["X "]);

    // A new partition has row triggers by itself; that its truncation would go by unseen is told.
    run(&db, "CREATE TABLE p3 PARTITION OF p FOR VALUES FROM (20) TO (30); INSERT INTO p3 VALUES (4, 20)").await;
    assert_eq!(take(&db, "id").await, ["I 4"]);
    assert!(!own(&db).await.contains(&"_rowferry_truncate_1".to_owned()));
    install(&db, &logs[0]).await;
    assert_eq!(own(&db).await, logs[0].triggers);
    run(&db, "TRUNCATE p3").await;
    assert_eq!(take(&db, "id").await, ["X "]);
    run(&db, "ALTER TABLE p3 DISABLE TRIGGER ALL").await;
    assert_eq!(own(&db).await, Vec::<String>::new());
    install(&db, &logs[0]).await;
    assert_eq!(own(&db).await, logs[0].triggers);

    run(&db, "ALTER TABLE p DETACH PARTITION p3").await;
    run(&db, &logs[0].remove.join(";")).await;
    let left = "SELECT tgname FROM pg_trigger WHERE tgname LIKE '\\_rowferry%' UNION ALL \
                SELECT relname FROM pg_class WHERE relname LIKE '\\_rowferry%' UNION ALL \
                SELECT proname FROM pg_proc WHERE proname LIKE '\\_rowferry%'";
    assert_eq!(texts(&db, left).await, Vec::<String>::new());
    run(&db, "INSERT INTO p VALUES (5, 5); TRUNCATE p3").await;
}

#[tokio::test]
async fn rows_of_a_subscription_are_logged() {
    let (from, to) = (fresh("log_publisher").await, fresh("log_subscriber").await);
    for db in [&from, &to] {
        run(db, "CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    }
    let (_, logs) = logs(&to, &["t"]).await;
    install(&to, &logs[0]).await;
    let slot = format!("rf_log_{}", std::process::id());
    run(&from, "CREATE PUBLICATION p FOR TABLE t").await;
    run(&from, &format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await;
    let url = url::Url::parse(&server()).unwrap();
    run(
        &to,
        &format!(
            "CREATE SUBSCRIPTION s CONNECTION 'host={} port={} user={} dbname=rf_pg_log_publisher' PUBLICATION p \
             WITH (create_slot = false, slot_name = {slot}, copy_data = false)",
            url.host_str().unwrap(),
            url.port().unwrap(),
            url.username(),
        ),
    )
    .await;
    // Applied rows fire no statement triggers: those are no longer in place.
    assert_eq!(own(&to).await, ["_rowferry_key_1", "_rowferry_truncate_1"]);
    install(&to, &logs[0]).await;
    assert_eq!(own(&to).await, logs[0].triggers);
    run(
        &from,
        "INSERT INTO t VALUES (1, 'a'), (2, 'b'); UPDATE t SET v = 'c' WHERE id = 1; UPDATE t SET id = 3 WHERE id = 2",
    )
    .await;
    run(&from, "DELETE FROM t WHERE id = 3; INSERT INTO t VALUES (9, 'last')").await;
    while dump(&to, "t").await != ["(1,c)", "(9,last)"] {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let lines = take(&to, "id").await;
    run(&to, "DROP SUBSCRIPTION s").await;
    assert_eq!(lines, ["D 2", "D 3", "I 1", "I 2", "I 9", "U 1", "U 3"]);
    // Without the subscription it goes by statements again, whenever it is installed next.
    assert_eq!(own(&to).await, logs[0].triggers);
    install(&to, &logs[0]).await;
    assert_eq!(own(&to).await, logs[0].triggers);
}

#[tokio::test]
async fn nothing_that_the_application_sets_up_misleads_a_trigger() {
    let db = fresh("log_hostile").await;
    run(
        &db,
        r#"CREATE TABLE t (tg_op text, "new" int, old int, r int, _rowferry_rows int, "label" int, op int,
           "a'b\$rowferry$%s""" text, v int,
             PRIMARY KEY (tg_op, "new", old, r, _rowferry_rows, "label", op, "a'b\$rowferry$%s"""));
           CREATE SCHEMA evil; CREATE TABLE evil._rowferry_rows (tg_op text); CREATE TABLE evil._rowferry_log_1 (x int);
           CREATE FUNCTION evil.no(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT false';
           CREATE FUNCTION evil."left"(text, int) RETURNS text LANGUAGE sql AS $$SELECT 'evil'$$;
           CREATE OPERATOR evil.= (leftarg = text, rightarg = text, function = evil.no);
           CREATE OPERATOR evil.<> (leftarg = text, rightarg = text, function = evil.no)"#,
    )
    .await;
    let (_, logs) = logs(&db, &["t"]).await;
    install(&db, &logs[0]).await;
    run(
        &db,
        "SET search_path = evil, public, pg_catalog; SET session_replication_role = replica; \
         INSERT INTO public.t VALUES ('TRUNCATE', 1, 2, 3, 4, 5, 6, 'k', 0); UPDATE public.t SET v = 1; \
         UPDATE public.t SET \"new\" = 7; DELETE FROM public.t; TRUNCATE public.t",
    )
    .await;
    let key = r#"tg_op, "new", old, r, _rowferry_rows, "label", op, "a'b\$rowferry$%s""""#;
    let first = "TRUNCATE123456k";
    let second = "TRUNCATE723456k";
    assert_eq!(
        take(&db, key).await,
        [
            format!("D {first}"),
            format!("D {second}"),
            format!("I {first}"),
            format!("U {first}"),
            format!("U {second}"),
            "X ".to_owned()
        ]
    );
}

#[tokio::test]
async fn the_owner_of_a_table_needs_no_more_rights() {
    let db = fresh("log_owner").await;
    let role = format!("rf_log_owner_{}", std::process::id());
    run(&db, &format!("CREATE ROLE {role} LOGIN; CREATE SCHEMA own AUTHORIZATION {role}")).await;
    run(&db, &format!("CREATE SCHEMA other AUTHORIZATION {role}")).await;
    let mut url = url::Url::parse(&server()).unwrap();
    url.set_path("/rf_pg_log_owner");
    url.set_username(&role).unwrap();
    url.set_query(Some("schema=own"));
    let owner = open(url.as_str(), &OpenOptions::default()).await.unwrap();
    run(&owner, "CREATE TABLE other.t (id int PRIMARY KEY)").await;
    let table = Arc::new(owner.describe(&TableName::qualified("other", "t")).await.unwrap().unwrap());
    let logged = Logged { n: 1, key: table.row_key().unwrap(), table };
    let log = owner.change_logs(&[logged]).unwrap().remove(0);
    install(&owner, &log).await;
    run(&db, "INSERT INTO other.t VALUES (1)").await;
    assert_eq!(take(&owner, "id").await, ["I 1"]);
    assert_eq!(own(&owner).await, log.triggers);
    assert_eq!(own(&db).await, Vec::<String>::new(), "another schema has numbers of its own");
    run(&owner, &log.remove[0]).await;
    run(&db, &format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn keys_of_types_that_travel_as_text() {
    let db = fresh("log_types").await;
    run(
        &db,
        "CREATE TYPE mood AS ENUM ('sad', 'it''s \"ok\"'); \
         CREATE DOMAIN code AS varchar(3) NOT NULL CHECK (value <> ''); CREATE DOMAIN place AS inet NOT NULL",
    )
    .await;
    let types = [
        ("inet", "'10.0.0.1/8'"),
        ("place", "'::1'"),
        ("code", "'abc'"),
        ("mood", "'it''s \"ok\"'"),
        ("int4range", "'[1,5)'"),
        ("text[]", "ARRAY['a,b', NULL, 'q\"\\']"),
        ("numeric(10,2)[]", "'{1.50,NULL}'"),
        ("bit(3)", "'101'"),
        ("bit varying(5)", "''"),
        ("interval(3)", "'-1 year 2 days 00:00:01.5'"),
        ("time(2) with time zone", "'12:00+02:30'"),
        ("\"char\"", "'x'"),
        ("name", "'n'"),
        ("jsonb", "'{\"a\": [1, 2.50]}'"),
        ("macaddr", "'08:00:2b:01:02:03'"),
    ];
    for (native, value) in types {
        run(&db, &format!("CREATE TABLE t (k {native} PRIMARY KEY, v json)")).await;
        let (tables, logs) = logs(&db, &["t"]).await;
        install(&db, &logs[0]).await;
        run(&db, &format!("INSERT INTO t VALUES ({value}, '{{\"b\":1,  \"a\":2}}')")).await;
        let mut target = db.target().await.unwrap();
        target.begin(WriteOptions::default()).await.unwrap();
        let lines = target.scan(&logs[0].table, None, 10).await.unwrap();
        assert_eq!(lines.rows(), 1, "{native}");
        let found = keys(&tables[0], 0, &[lines.cell(0, 0)]);
        let row = target.lookup(&tables[0], &found, RowLock::Wait).await.unwrap();
        assert_eq!((row.rows(), row.cell(0, 1)), (1, Cell::Bytes(b"{\"b\":1,  \"a\":2}")), "{native}");
        // A column without an equality is looked up by its text.
        let by_value = keys(&tables[0], 1, &[row.cell(0, 1)]);
        assert_eq!(target.lookup(&tables[0], &by_value, RowLock::None).await.unwrap().rows(), 1, "{native}");
        assert_eq!(target.lookup(&logs[0].table, &found, RowLock::None).await.unwrap().rows(), 1, "{native}");
        assert_eq!(target.write(WriteMode::Delete, &row).await.unwrap(), 1, "{native}");
        assert_eq!(target.write(WriteMode::Delete, &lines).await.unwrap(), 1, "{native}");
        target.commit().await.unwrap();
        run(&db, "TRUNCATE t").await;
        assert_eq!(take(&db, "''").await, ["D ", "X "], "{native}");
        run(&db, &logs[0].remove.join(";")).await;
        run(&db, "DROP TABLE t").await;
    }
}

#[tokio::test]
async fn a_key_that_does_not_fit_finds_nothing() {
    let db = fresh("log_fit").await;
    run(
        &db,
        "CREATE TABLE t (a varchar(3), b numeric(4,2), c timestamp(0), d bit(2)); \
         INSERT INTO t VALUES ('abc', 1.01, '2000-01-01 00:00:01', B'10')",
    )
    .await;
    let table = Arc::new(db.describe(&TableName::new("t")).await.unwrap().unwrap());
    let second = 946_684_801_000_000;
    let mut target = db.target().await.unwrap();
    target.begin(WriteOptions::default()).await.unwrap();
    for (column, fits, other) in [
        (0, Cell::Bytes(b"abc"), Cell::Bytes(b"abcd")),
        (1, Cell::Bytes(b"1.01"), Cell::Bytes(b"1.005")),
        (2, Cell::Int(second), Cell::Int(second - 400_000)),
        (3, Cell::Bytes(b"10"), Cell::Bytes(b"101")),
    ] {
        for (value, rows) in [(fits, 1), (other, 0)] {
            let found = target.lookup(&table, &keys(&table, column, &[value]), RowLock::None).await.unwrap();
            assert_eq!(found.rows(), rows, "{value:?}");
        }
    }
    target.rollback().await.unwrap();
}

#[tokio::test]
async fn a_point_never_shows_a_truncated_table_as_empty() {
    let db = fresh("log_point").await;
    run(&db, "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)").await;
    run(&db, "INSERT INTO t VALUES (1); INSERT INTO u VALUES (1)").await;
    let t = Arc::new(db.describe(&TableName::new("t")).await.unwrap().unwrap());
    let u = Arc::new(db.describe(&TableName::new("u")).await.unwrap().unwrap());
    let mut target = db.target().await.unwrap();
    let point = WriteOptions { point: true, ..WriteOptions::default() };
    for change in ["TRUNCATE t", "DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY)"] {
        target.begin(point).await.unwrap();
        assert_eq!(target.scan(&u, None, 10).await.unwrap().rows(), 1);
        run(&db, change).await;
        let error = target.lookup(&t, &keys(&t, 0, &[Cell::Int(1)]), RowLock::None).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Busy, "{change}: {error}");
        target.rollback().await.unwrap();
        target.begin(point).await.unwrap();
        assert_eq!(target.scan(&t, None, 10).await.unwrap().rows(), 0, "{change}: the next point");
        target.rollback().await.unwrap();
    }
    target.begin(point).await.unwrap();
    let refused = target.execute("INSERT INTO t VALUES (2)").await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Denied, "{refused}");
    target.rollback().await.unwrap();
}

#[tokio::test]
async fn a_line_in_the_place_of_another_is_another() {
    let db = fresh("log_place").await;
    run(&db, "CREATE TABLE t (id int PRIMARY KEY)").await;
    let (_, logs) = logs(&db, &["t"]).await;
    install(&db, &logs[0]).await;
    run(&db, "ALTER TABLE _rowferry_log_1 SET (vacuum_truncate = off); INSERT INTO t VALUES (1)").await;
    let mut target = db.target().await.unwrap();
    target.begin(WriteOptions::default()).await.unwrap();
    let lines = target.scan(&logs[0].table, None, 10).await.unwrap();
    // Until the next statement the scan's snapshot keeps the place.
    target.execute("SELECT 1").await.unwrap();
    // Another reader takes the line meanwhile, and its place is given to the next.
    run(&db, "DELETE FROM _rowferry_log_1").await;
    run(&db, "VACUUM _rowferry_log_1").await;
    run(&db, "INSERT INTO t VALUES (2)").await;
    let mut other = db.target().await.unwrap();
    other.begin(WriteOptions::default()).await.unwrap();
    let now = other.scan(&logs[0].table, None, 10).await.unwrap();
    let place = logs[0].table.column("ctid").unwrap();
    assert_eq!(now.cell(0, place), lines.cell(0, place), "the same place");
    assert_eq!(target.write(WriteMode::Delete, &lines).await.unwrap(), 0);
    target.commit().await.unwrap();
    assert_eq!(take(&db, "id").await, ["I 2"]);
}

#[tokio::test]
async fn installing_gives_way_to_writers() {
    let db = fresh("log_locks").await;
    run(&db, "CREATE TABLE t (id int PRIMARY KEY, v int)").await;
    let (_, logs) = logs(&db, &["t"]).await;
    let mut writer = db.target().await.unwrap();
    writer.begin(WriteOptions::default()).await.unwrap();
    writer.execute("INSERT INTO t VALUES (1)").await.unwrap();
    let mut target = db.target().await.unwrap();
    let error = target.execute(&logs[0].install[0]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Busy, "{error}");
    assert_eq!(own(&db).await, Vec::<String>::new());
    writer.commit().await.unwrap();
    install(&db, &logs[0]).await;

    // Once in place, it waits for nobody; removing does, but not for long.
    writer.begin(WriteOptions::default()).await.unwrap();
    writer.execute("INSERT INTO t VALUES (2)").await.unwrap();
    target.begin(WriteOptions::default()).await.unwrap();
    target.execute(&logs[0].install[0]).await.unwrap();
    let own_stays = "DO $$ BEGIN ASSERT current_setting('lock_timeout') = '1min'; END $$";
    target.execute(own_stays).await.unwrap();
    target.commit().await.unwrap();
    let error = target.execute(&logs[0].remove[0]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Busy, "{error}");
    writer.commit().await.unwrap();
    assert_eq!(take(&db, "id").await, ["I 2"]);
}

#[tokio::test]
async fn what_would_break_the_log_is_refused() {
    let db = fresh("log_refused").await;
    run(&db, "CREATE TABLE t (id int PRIMARY KEY, a int UNIQUE NOT NULL, b int)").await;
    let (tables, logs) = logs(&db, &["t"]).await;
    install(&db, &logs[0]).await;
    // The key's type stays while it is logged; all else may change.
    let mut target = db.target().await.unwrap();
    let error = target.execute("ALTER TABLE t ALTER id TYPE bigint").await.unwrap_err();
    assert!(error.to_string().contains("_rowferry_key_1"), "{error}");
    run(&db, "ALTER TABLE t DROP b, ADD c text, ALTER a TYPE bigint; INSERT INTO t VALUES (1, 1, 'c')").await;
    assert_eq!(take(&db, "id").await, ["I 1"]);

    let other = Logged { n: 1, key: Key { columns: vec![1] }, table: tables[0].clone() };
    let other = db.change_logs(&[other]).unwrap().remove(0);
    let error = target.execute(&other.install[0]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::SchemaMismatch, "{error}");
    assert!(error.to_string().contains("remove it first"), "{error}");
    run(&db, "UPDATE t SET c = 'd'").await;
    assert_eq!(take(&db, "id").await, ["U 1"], "the log that stands goes on");

    run(&db, "CREATE TABLE heir () INHERITS (t)").await;
    let error = target.execute(&logs[0].install[0]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
}
