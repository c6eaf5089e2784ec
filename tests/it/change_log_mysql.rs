//! What change logs must stand on MySQL and MariaDB alone: cascades that fire no trigger, modes, locks, engines.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use mysql_async::prelude::Queryable;
use rowferry::engine::{self, ChangeLog, Database, ErrorKind, Logged, OpenOptions, RowLock, WriteMode, WriteOptions};
use rowferry::model::{Batch, Cell, Column, Table, TableName};

use crate::support::{Engine, TestDb};

/// Each of these runs on both servers; MySQL may be missing.
macro_rules! on_both {
    ($($name:ident)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            for engine in [Engine::Mariadb, Engine::Mysql] {
                if Engine::available().contains(&engine) {
                    clause::$name(TestDb::new(engine)).await;
                }
            }
        })*
    };
}

on_both! {
    descendants_are_logged_down_every_level
    a_row_that_refers_to_its_own_table_takes_its_tree_along
    keys_that_follow_a_parent_are_logged_old_and_new
    a_table_that_follows_one_that_is_not_logged_is_refused
    keys_that_only_lax_modes_take_are_logged
    triggers_of_the_user_stay_and_run
    tables_without_transactions_are_refused
    float_keys_are_refused
    taking_lines_out_waits_for_no_open_transaction
    looking_up_waits_for_no_other_row
    a_label_ends_with_its_transaction
    a_log_of_another_shape_stops_the_install
}

struct Fixture {
    database: Arc<dyn Database>,
    tables: Vec<Arc<Table>>,
    logs: Vec<ChangeLog>,
    db: TestDb,
}

async fn described(db: &TestDb, ddl: &str, names: &[&str]) -> (Arc<dyn Database>, Vec<Logged>) {
    db.execute(ddl);
    let database = engine::open(db.url(), &OpenOptions::default()).await.unwrap();
    let mut logged = Vec::new();
    for (n, name) in (1..).zip(names) {
        let table = Arc::new(database.describe(&TableName::new(*name)).await.unwrap().unwrap());
        logged.push(Logged { n, key: table.row_key().unwrap(), table });
    }
    (database, logged)
}

impl Fixture {
    async fn new(db: TestDb, ddl: &str, names: &[&str]) -> Self {
        let (database, logged) = described(&db, ddl, names).await;
        let logs = database.change_logs(&logged).unwrap();
        let mut target = database.target().await.unwrap();
        for sql in logs.iter().flat_map(|log| &log.install) {
            target.execute(sql).await.unwrap_or_else(|e| panic!("{e}: {sql}"));
        }
        Self { database, tables: logged.into_iter().map(|l| l.table).collect(), logs, db }
    }

    /// Operation and key of each line, once each, sorted; they are taken out.
    fn take(&self, at: usize) -> Vec<String> {
        let key = &self.logs[at].table.columns[2].name;
        let log = format!("_rowferry_log_{}", at + 1);
        let rows = self.db.query(&format!("SELECT DISTINCT CONCAT(_rowferry_op, `{key}`) FROM {log} ORDER BY 1"));
        self.db.execute(&format!("DELETE FROM {log}"));
        rows.into_iter().flatten().flatten().collect()
    }

    fn numbers(&self, at: usize, numbers: impl IntoIterator<Item = i64>) -> Batch {
        let mut column = Column::default();
        for n in numbers {
            column.push_int(n);
        }
        Batch::new(Arc::new(self.tables[at].project(&[0])), vec![column])
    }
}

/// An application in the middle of a transaction.
async fn holding(db: &TestDb, sql: &str) -> mysql_async::Conn {
    let mut conn = mysql_async::Conn::from_url(db.url()).await.unwrap();
    conn.query_drop("START TRANSACTION").await.unwrap();
    conn.query_drop(sql).await.unwrap();
    conn
}

mod clause {
    use super::*;

    pub async fn descendants_are_logged_down_every_level(db: TestDb) {
        let ddl = "CREATE TABLE a (id INT PRIMARY KEY);
            CREATE TABLE b (id INT PRIMARY KEY, a INT, FOREIGN KEY (a) REFERENCES a (id) ON DELETE CASCADE);
            CREATE TABLE c (id INT PRIMARY KEY, b INT, FOREIGN KEY (b) REFERENCES b (id) ON DELETE CASCADE);
            CREATE TABLE d (id INT PRIMARY KEY, c INT, FOREIGN KEY (c) REFERENCES c (id) ON DELETE SET NULL);
            INSERT INTO a VALUES (1), (2); INSERT INTO b VALUES (11, 1), (12, 1), (13, 2);
            INSERT INTO c VALUES (21, 11), (22, 12), (23, 13); INSERT INTO d VALUES (31, 21), (32, 22), (33, 23);";
        let logs = Fixture::new(db, ddl, &["a", "b", "c", "d"]).await;
        logs.db.execute("DELETE FROM a WHERE id = 1");
        let seen: Vec<Vec<String>> = (0..4).map(|at| logs.take(at)).collect();
        assert_eq!(seen, [vec!["D1"], vec!["D11", "D12"], vec!["D21", "D22"], vec!["U31", "U32"]]);
        logs.db.execute("REPLACE INTO a VALUES (2)");
        let seen: Vec<Vec<String>> = (0..4).map(|at| logs.take(at)).collect();
        assert_eq!(seen, [vec!["D2", "I2"], vec!["D13"], vec!["D23"], vec!["U33"]]);
    }

    pub async fn a_row_that_refers_to_its_own_table_takes_its_tree_along(db: TestDb) {
        let ddl = "CREATE TABLE t (id INT PRIMARY KEY, up INT, FOREIGN KEY (up) REFERENCES t (id) ON DELETE CASCADE);
            INSERT INTO t VALUES (1, NULL), (2, 1), (3, 1), (4, 2), (5, 4), (6, NULL), (7, 6);";
        let logs = Fixture::new(db, ddl, &["t"]).await;
        logs.db.execute("DELETE FROM t WHERE id = 1");
        assert_eq!(logs.take(0), ["D1", "D2", "D3", "D4", "D5"]);
        logs.db.execute("UPDATE t SET up = NULL WHERE id = 7");
        assert_eq!(logs.take(0), ["U7"]);
    }

    pub async fn keys_that_follow_a_parent_are_logged_old_and_new(db: TestDb) {
        let ddl = "CREATE TABLE p (id INT PRIMARY KEY, v INT);
            CREATE TABLE c (p INT, n INT, PRIMARY KEY (p, n), FOREIGN KEY (p) REFERENCES p (id) ON UPDATE CASCADE);
            CREATE TABLE s (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES p (id) ON UPDATE SET NULL);
            INSERT INTO p VALUES (1, 0), (2, 0); INSERT INTO c VALUES (1, 1), (2, 1); INSERT INTO s VALUES (5, 1), (6, 2);";
        let logs = Fixture::new(db, ddl, &["p", "c", "s"]).await;
        logs.db.execute("UPDATE p SET v = 1");
        assert_eq!((logs.take(0), logs.take(1), logs.take(2)), (vec!["U1".into(), "U2".into()], vec![], vec![]));
        logs.db.execute("UPDATE p SET id = 9 WHERE id = 1");
        assert_eq!(logs.take(0), ["D1", "I9"]);
        assert_eq!(logs.take(1), ["D1", "I9"]);
        assert_eq!(logs.take(2), ["U5"]);
    }

    pub async fn a_table_that_follows_one_that_is_not_logged_is_refused(db: TestDb) {
        let ddl = "CREATE TABLE p (id INT PRIMARY KEY);
            CREATE TABLE c (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES p (id) ON DELETE CASCADE);
            CREATE TABLE r (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES p (id));";
        let (database, logged) = described(&db, ddl, &["c", "r"]).await;
        let error = database.change_logs(&logged[..1]).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported);
        assert!(error.message().contains("table c") && error.message().contains("sync p too"), "{error}");
        assert!(database.change_logs(&logged[1..]).is_ok(), "a parent that changes no child need not be logged");
    }

    pub async fn keys_that_only_lax_modes_take_are_logged(db: TestDb) {
        let ddl = "CREATE TABLE t (d DATE, e ENUM('x'), PRIMARY KEY (d, e));";
        let logs = Fixture::new(db, ddl, &["t"]).await;
        logs.db.execute("SET sql_mode = ''; INSERT INTO t VALUES ('0000-00-00', 'x')");
        logs.db.execute("SET sql_mode = 'ALLOW_INVALID_DATES'; INSERT INTO t VALUES ('2024-02-31', 'none such')");
        logs.db.execute("DELETE FROM t");
        assert_eq!(logs.take(0), ["D0000-00-00", "D2024-02-31", "I0000-00-00", "I2024-02-31"]);
    }

    pub async fn triggers_of_the_user_stay_and_run(db: TestDb) {
        let ddl =
            "CREATE TABLE p (id INT PRIMARY KEY); CREATE TABLE seen (id INT AUTO_INCREMENT PRIMARY KEY, w CHAR(1));
            CREATE TABLE c (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES p (id) ON DELETE CASCADE);
            CREATE TRIGGER ti AFTER INSERT ON p FOR EACH ROW INSERT INTO seen (w) VALUES ('i');
            CREATE TRIGGER td BEFORE DELETE ON p FOR EACH ROW INSERT INTO seen (w) VALUES ('d');";
        let logs = Fixture::new(db, ddl, &["p", "c", "seen"]).await;
        logs.db.execute("INSERT INTO p VALUES (1); INSERT INTO c VALUES (2, 1); DELETE FROM p");
        assert_eq!(logs.db.value("SELECT GROUP_CONCAT(w ORDER BY id) FROM seen"), "i,d");
        assert_eq!((logs.take(0), logs.take(1)), (vec!["D1".into(), "I1".into()], vec!["D2".into(), "I2".into()]));
        assert_eq!(logs.take(2), ["I1", "I2"], "what they write is logged too");
        let table = logs.database.describe(&TableName::new("p")).await.unwrap().unwrap();
        assert_eq!(table.triggers, ["td", "ti"], "ours are not shown");
    }

    pub async fn tables_without_transactions_are_refused(db: TestDb) {
        let ddl = "CREATE TABLE t (id INT PRIMARY KEY) ENGINE=MyISAM;";
        let (database, logged) = described(&db, ddl, &["t"]).await;
        let log = database.change_logs(&logged).unwrap().remove(0);
        let error = database.target().await.unwrap().execute(&log.install[0]).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
        assert!(error.message().contains("ENGINE=InnoDB"), "{error}");
        assert_eq!(db.traces(), Vec::<String>::new());
    }

    pub async fn float_keys_are_refused(db: TestDb) {
        let (database, logged) = described(&db, "CREATE TABLE t (id FLOAT PRIMARY KEY);", &["t"]).await;
        let error = database.change_logs(&logged).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported);
        assert!(error.message().contains("table t: its key column id"), "{error}");
    }

    pub async fn taking_lines_out_waits_for_no_open_transaction(db: TestDb) {
        let logs = Fixture::new(db, "CREATE TABLE t (id INT PRIMARY KEY);", &["t"]).await;
        for count in [1, 3, 40, 600] {
            let all: Vec<String> = (0..count).map(|n| format!("({n})")).collect();
            logs.db.execute(&format!("INSERT INTO t VALUES {}", all.join(",")));
            // Its lines are among those that are taken out.
            let mut open = holding(&logs.db, "INSERT INTO t VALUES (-1), (-2)").await;
            // One by one: of a range some servers read the whole table, and wait for that transaction themselves.
            let each: Vec<String> = (0..count).map(|n| format!("DELETE FROM t WHERE id = {n}")).collect();
            logs.db.execute(&each.join(";"));
            let log = &logs.logs[0].table;
            let mut target = logs.database.target().await.unwrap();
            target.execute("SET SESSION innodb_lock_wait_timeout = 1").await.unwrap();
            target.begin(WriteOptions::default()).await.unwrap();
            let lines = target.scan(log, None, 20_000).await.unwrap();
            assert_eq!(lines.rows(), 2 * count);
            let most = lines.select(0..lines.rows() - 1);
            assert_eq!(target.write(WriteMode::Delete, &most).await.unwrap(), most.rows() as u64, "{count}");
            target.commit().await.unwrap();
            open.query_drop("ROLLBACK").await.unwrap();
            logs.take(0);
        }
    }

    pub async fn looking_up_waits_for_no_other_row(db: TestDb) {
        let ddl = "CREATE TABLE t (id INT PRIMARY KEY, v INT); INSERT INTO t VALUES (1, 1), (2, 2), (3, 3), (4, 4);";
        let logs = Fixture::new(db, ddl, &["t"]).await;
        let _open = holding(&logs.db, "UPDATE t SET v = 0 WHERE id = 2").await;
        let mut target = logs.database.target().await.unwrap();
        target.execute("SET SESSION innodb_lock_wait_timeout = 1").await.unwrap();
        target.begin(WriteOptions::default()).await.unwrap();
        let found = target.lookup(&logs.tables[0], &logs.numbers(0, [1, 3, 4]), RowLock::Wait).await.unwrap();
        assert_eq!(found.rows(), 3);
        let held = target.lookup(&logs.tables[0], &logs.numbers(0, [2]), RowLock::Wait).await.unwrap_err();
        assert_eq!(held.kind, ErrorKind::Busy);
        target.rollback().await.unwrap();
    }

    pub async fn a_label_ends_with_its_transaction(db: TestDb) {
        let logs = Fixture::new(db, "CREATE TABLE t (id INT PRIMARY KEY);", &["t"]).await;
        let mut target = logs.database.target().await.unwrap();
        let labels =
            |logs: &Fixture| logs.db.query("SELECT _rowferry_label FROM _rowferry_log_1 ORDER BY _rowferry_line");
        for commits in [true, false] {
            target.begin(WriteOptions { labelled: true, ..WriteOptions::default() }).await.unwrap();
            target.execute(&format!("INSERT INTO t VALUES ({})", i32::from(commits))).await.unwrap();
            if commits {
                target.commit().await.unwrap();
            } else {
                target.rollback().await.unwrap();
            }
            target.execute("REPLACE INTO t VALUES (7)").await.unwrap();
        }
        let seen = labels(&logs);
        assert_eq!(seen[0], [Some("1".to_owned())]);
        assert!(seen.len() > 2 && seen[1..].iter().all(|row| row[0].is_none()), "{seen:?}");
        assert_eq!(logs.logs[0].table.columns[1].name, ChangeLog::WALL);
        target.begin(WriteOptions::default()).await.unwrap();
        let lines = target.scan(&logs.logs[0].table, None, 1).await.unwrap();
        assert!(matches!(lines.cell(0, 1), Cell::Int(_)));
    }

    pub async fn a_log_of_another_shape_stops_the_install(db: TestDb) {
        db.execute("CREATE TABLE _rowferry_log_1 (other INT PRIMARY KEY)");
        let (database, logged) = described(&db, "CREATE TABLE t (id INT PRIMARY KEY);", &["t"]).await;
        let log = database.change_logs(&logged).unwrap().remove(0);
        let mut target = database.target().await.unwrap();
        let mut told = None;
        for sql in &log.install {
            if let Err(error) = target.execute(sql).await {
                told = Some(error.kind);
                break;
            }
        }
        assert_eq!(told, Some(ErrorKind::SchemaMismatch));
        assert_eq!(database.own_triggers().await.unwrap(), Vec::<String>::new(), "the application writes on");
        // What the install left of its own mode goes with the next transaction.
        target.begin(WriteOptions::default()).await.unwrap();
        // Fails, by a subquery of two rows, unless it is so.
        let own = "SELECT IF(@@sql_mode LIKE '%STRICT_ALL_TABLES%' AND @@lock_wait_timeout = 60, 1, \
                   (SELECT 1 UNION ALL SELECT 2))";
        target.execute(own).await.unwrap();
    }
}
