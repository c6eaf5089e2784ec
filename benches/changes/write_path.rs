//! What the triggers cost an application that writes, beside a hand-written trigger that notes the key alone.

use std::fmt::Write as _;
use std::time::Instant;

use super::app::App;
use super::{SYNC, configure, uninstall};
use crate::ends::{Bench, End, Side};
use crate::process::rowferry;
use crate::tables::ORDERS;
use crate::{Outcome, median};

/// Tables of the same rows: without a trigger, with a hand-written one, with rowferry's.
const TABLES: [&str; 3] = ["orders_plain", "orders_hand", "orders"];

/// Rows of each table before the first write, and single writes of one slice.
const ROWS: u32 = 20_000;
const SINGLE: i64 = 600;
const BULK: i64 = 1000;

/// Slices of each table and kind in a round: short, so that what else the machine does meets all alike.
const SLICES: usize = 15;

const MUST: f64 = 1.15;

pub fn write_path(bench: &Bench) -> Outcome<String> {
    bench.fill_all(ORDERS, ROWS)?;
    let mut out = String::from(
        "Inserts, updates and deletes in equal parts, in microseconds a row; commits do not wait for the disk. Beside: a \
         row trigger that writes the key into a table with a number of its own.\n\n\
         | engine | transactions | no trigger | hand-written | rowferry | ratio | must | aim |\n|---|---|--:|--:|--:|--:|--:|--:|\n",
    );
    for end in [End::Postgres, End::Maria, End::Sqlite] {
        prepare(bench, end)?;
        let mut app = App::open(bench, end, Side::Source)?;
        app.relaxed()?;
        let mut times = vec![[Vec::new(), Vec::new(), Vec::new()], [Vec::new(), Vec::new(), Vec::new()]];
        for slice in 0..SLICES * bench.rounds {
            for (kind, times) in times.iter_mut().enumerate() {
                for at in 0..TABLES.len() {
                    // Who goes first changes from slice to slice.
                    let table = (at + slice) % TABLES.len();
                    let started = Instant::now();
                    let rows =
                        if kind == 0 { singles(&mut app, TABLES[table])? } else { bulk(&mut app, TABLES[table])? };
                    times[table].push(started.elapsed().as_secs_f64() * 1e6 / f64::from(rows));
                }
            }
            for log in ["hand_log", "_rowferry_log_1"] {
                app.batch(&format!("DELETE FROM {log}"))?;
            }
            if end == End::Postgres {
                app.batch("VACUUM orders_plain, orders_hand, orders, hand_log, _rowferry_log_1")?;
            }
        }
        app.durable()?;
        for (kind, times) in ["of one row", "of 1000 rows"].into_iter().zip(times) {
            let [plain, hand, ours] = times.map(median);
            let ratio = ours / hand;
            let aim = if kind == "of 1000 rows" && end == End::Postgres { 0.7 } else { 1.0 };
            let verdict = if ratio > MUST + 0.005 {
                " (missed)"
            } else if ratio > aim + 0.005 {
                ""
            } else {
                " (aim met)"
            };
            writeln!(
                out,
                "| {} | {kind} | {plain:.2} | {hand:.2} | {ours:.2} | {ratio:.2}{verdict} | {MUST} | {aim} |",
                end.name()
            )?;
        }
        uninstall(bench)?;
    }
    Ok(out)
}

fn singles(app: &mut App, table: &str) -> Outcome<u32> {
    let sql = statements(table);
    for n in 0..SINGLE / 3 {
        let id = i64::from(ROWS) + 1 + n;
        app.execute(&sql[0], &[id, id])?;
        app.execute(&sql[1], &[1 + n * 7, 1 + n * 7])?;
        app.execute(&sql[2], &[id, id])?;
    }
    Ok(u32::try_from(SINGLE)?)
}

fn bulk(app: &mut App, table: &str) -> Outcome<u32> {
    let first = i64::from(ROWS) + 1;
    let sql = statements(table);
    app.execute(&sql[0], &[first, first + BULK - 1])?;
    app.execute(&sql[1], &[1, BULK])?;
    app.execute(&sql[2], &[first, first + BULK - 1])?;
    Ok(u32::try_from(3 * BULK)?)
}

/// Insert, update and delete of the rows between two keys.
fn statements(table: &str) -> [String; 3] {
    let columns = "customer, seller, amount, currency, reference, note, paid, details, placed";
    [
        format!(
            "INSERT INTO {table} (id, {columns}) SELECT id + {ROWS}, {columns} FROM orders_plain \
             WHERE id >= ? - {ROWS} AND id <= ? - {ROWS}"
        ),
        format!("UPDATE {table} SET customer = customer + 1 WHERE id >= ? AND id <= ?"),
        format!("DELETE FROM {table} WHERE id >= ? AND id <= ?"),
    ]
}

/// Makes the tables and their triggers.
fn prepare(bench: &Bench, end: End) -> Outcome<()> {
    bench.reset(ORDERS, end, true)?;
    let mut app = App::open(bench, end, Side::Source)?;
    for table in ["orders_plain", "orders_hand"] {
        match end {
            End::Postgres => app.batch(&format!("CREATE TABLE {table} (LIKE orders INCLUDING ALL)"))?,
            End::Maria => app.batch(&format!("CREATE TABLE {table} LIKE orders"))?,
            End::Sqlite => {
                let source = rusqlite::Connection::open(bench.file(Side::Source))?;
                let sql: String =
                    source.query_row("SELECT sql FROM sqlite_master WHERE name = 'orders'", [], |r| r.get(0))?;
                app.batch(&sql.replacen("\"orders\"", &format!("\"{table}\""), 1))?;
                app.batch(&format!("CREATE INDEX {table}_placed ON {table} (placed)"))?;
            }
        }
        app.batch(&format!("INSERT INTO {table} SELECT * FROM orders"))?;
    }
    hand_written(&mut app, end)?;
    configure(bench, end, end, &["orders".to_owned()])?;
    rowferry(&["capture", "install", SYNC, "-q"], bench.folder(), &[0])?;
    if end == End::Postgres {
        app.batch("VACUUM ANALYZE")?;
    }
    Ok(())
}

/// What one writes who wants to know which rows changed.
fn hand_written(app: &mut App, end: End) -> Outcome<()> {
    let events = [("insert", "NEW"), ("update", "NEW"), ("delete", "OLD")];
    match end {
        End::Postgres => {
            app.batch("CREATE TABLE hand_log (n bigserial PRIMARY KEY, id bigint NOT NULL)")?;
            for (event, row) in events {
                app.batch(&format!(
                    "CREATE FUNCTION hand_{event}() RETURNS trigger LANGUAGE plpgsql AS \
                     'BEGIN INSERT INTO hand_log (id) VALUES ({row}.id); RETURN NULL; END'; \
                     CREATE TRIGGER hand_{event} AFTER {event} ON orders_hand FOR EACH ROW EXECUTE FUNCTION hand_{event}()"
                ))?;
            }
        }
        End::Maria | End::Sqlite => {
            app.batch(if end == End::Maria {
                "CREATE TABLE hand_log (n BIGINT AUTO_INCREMENT PRIMARY KEY, id BIGINT NOT NULL)"
            } else {
                "CREATE TABLE hand_log (n INTEGER PRIMARY KEY, id BIGINT NOT NULL)"
            })?;
            for (event, row) in events {
                app.batch(&format!(
                    "CREATE TRIGGER hand_{event} AFTER {event} ON orders_hand FOR EACH ROW \
                     BEGIN INSERT INTO hand_log (id) VALUES ({row}.id); END"
                ))?;
            }
        }
    }
    Ok(())
}
