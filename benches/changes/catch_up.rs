//! How fast a run takes up what was written meanwhile, beside the servers' own replication.

use std::time::Instant;

use super::app::App;
use super::replica::{Maria, Native, Postgres};
use super::{configure, sync, uninstall};
use crate::ends::{Bench, End, Side};
use crate::tables::ORDERS;
use crate::{Outcome, median};

/// What a pair is held to: times the rows a second of replication, and rows a second.
struct Pair {
    from: End,
    to: End,
    must: Option<(f64, f64)>,
    aim: f64,
}

const PAIRS: [Pair; 7] = [
    Pair { from: End::Postgres, to: End::Postgres, must: Some((1.0, 0.0)), aim: 2.0 },
    Pair { from: End::Maria, to: End::Maria, must: Some((1.0, 20_000.0)), aim: 1.5 },
    Pair { from: End::Sqlite, to: End::Sqlite, must: None, aim: 0.0 },
    Pair { from: End::Postgres, to: End::Maria, must: None, aim: 0.0 },
    Pair { from: End::Maria, to: End::Postgres, must: None, aim: 0.0 },
    Pair { from: End::Sqlite, to: End::Postgres, must: None, aim: 0.0 },
    Pair { from: End::Postgres, to: End::Sqlite, must: None, aim: 0.0 },
];

/// Rows of one transaction.
const KINDS: [u32; 2] = [1, 1000];

pub fn catch_up(bench: &Bench) -> Outcome<String> {
    bench.fill_all(ORDERS, bench.rows)?;
    let changes = bench.rows / 2;
    let mut out = format!(
        "{changes} changes to a table of {} rows, two thirds updates and one third inserts, each of another row, in rows/s. \
         Beside: logical replication of PostgreSQL, replication of MariaDB's binary log, each from its start to the last \
         row; commits at the receiving end wait for the disk.\n\n\
         | pair | transactions | rowferry | replication | ratio | must | aim | processor, rowferry | servers |\n\
         |---|---|--:|--:|--:|--:|--:|--:|--:|\n",
        bench.rows
    );
    let wanted = |pair: &&Pair| bench.wants(&format!("{} → {}", pair.from.name(), pair.to.name()));
    for pair in PAIRS.iter().filter(wanted) {
        for rows in KINDS {
            let line = line(bench, pair, rows, changes)?;
            eprint!("{line}");
            out.push_str(&line);
        }
    }
    Ok(out)
}

fn line(bench: &Bench, pair: &Pair, rows: u32, changes: u32) -> Outcome<String> {
    let mut native: Option<Box<dyn Native + '_>> = match (pair.from, pair.to) {
        (End::Postgres, End::Postgres) => Some(Box::new(Postgres::start(bench)?)),
        (End::Maria, End::Maria) => Some(Box::new(Maria::start(bench)?)),
        _ => None,
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let (mut cpu, mut servers) = (Vec::new(), Vec::new());
    configure(bench, pair.from, pair.to, &["orders".to_owned()])?;
    bench.reset(ORDERS, pair.to, true)?;
    sync(bench)?;
    let mut app = App::open(bench, pair.from, Side::Source)?;
    for round in 0..bench.rounds {
        if let Some(native) = &mut native {
            native.stop()?;
            write(&mut app, native.table(), pair.from, changes, rows, round)?;
            theirs.push(native.catch_up()?);
        }
        write(&mut app, "orders", pair.from, changes, rows, round)?;
        let before = bench.servers_cpu();
        let started = Instant::now();
        let run = sync(bench)?;
        ours.push(started.elapsed().as_secs_f64());
        cpu.push(run.cpu);
        servers.push(bench.servers_cpu() - before);
        bench.diff(ORDERS, (pair.from, Side::Source), (pair.to, Side::Target))?;
        // What was inserted goes again, so that the next round finds what this one found.
        app.batch(&format!("DELETE FROM orders WHERE id > {}", bench.rows))?;
        sync(bench)?;
        if let Some(native) = &mut native {
            app.batch(&format!("DELETE FROM {} WHERE id > {}", native.table(), bench.rows))?;
            native.catch_up()?;
        }
    }
    drop(app);
    uninstall(bench)?;
    let rate = |times: &[f64]| f64::from(changes) / median(times.to_vec());
    let ours = rate(&ours);
    let (mut beside, mut ratio) = ("–".to_owned(), "–".to_owned());
    let (mut must, mut aim) = ("–".to_owned(), "–".to_owned());
    if let (false, Some((times, least))) = (theirs.is_empty(), pair.must) {
        let theirs = rate(&theirs);
        let missed = ours / theirs + 0.005 < times || ours < least;
        let verdict = match missed {
            true => " (missed)",
            false if ours / theirs + 0.005 < pair.aim => "",
            false => " (aim met)",
        };
        beside = format!("{theirs:.0}");
        ratio = format!("{:.2}{verdict}", ours / theirs);
        must = if least > 0.0 { format!("{times:.1}, and {least:.0} rows/s") } else { format!("{times:.1}") };
        aim = format!("{:.1}", pair.aim);
    }
    let transactions = if rows == 1 { "of one row".to_owned() } else { format!("of {rows} rows") };
    Ok(format!(
        "| {} → {} | {transactions} | {ours:.0} | {beside} | {ratio} | {must} | {aim} | {:.2} s | {:.2} s |\n",
        pair.from.name(),
        pair.to.name(),
        median(cpu),
        median(servers),
    ))
}

/// Writes the changes, in transactions of so many rows.
fn write(app: &mut App, table: &str, end: End, changes: u32, rows: u32, round: usize) -> Outcome<()> {
    let columns = "customer, seller, amount, currency, reference, note, paid, details, placed";
    let (inserted, updated) = (changes / 3, changes - changes / 3);
    let last = app.number(&format!("SELECT max(id) FROM {table}"))?;
    let update = format!("UPDATE {table} SET customer = customer + 1, seller = {round} WHERE id >= ? AND id <= ?");
    let insert = format!(
        "INSERT INTO {table} (id, {columns}) SELECT id + {last}, {columns} FROM {table} WHERE id >= ? AND id <= ?"
    );
    app.relaxed()?;
    if end == End::Postgres && rows == 1 {
        // In the server: a round trip a row would take longer than all that is measured.
        let each = |sql: &str, upto: u32| {
            let sql = sql.replacen('?', "n", 1).replacen('?', "n", 1);
            format!("DO $$ BEGIN FOR n IN 1..{upto} LOOP {sql}; COMMIT; END LOOP; END $$")
        };
        app.batch(&each(&update, updated))?;
        app.batch(&each(&insert, inserted))?;
    } else if end == End::Maria && rows == 1 {
        for (sql, upto) in [(&update, updated), (&insert, inserted)] {
            let sql = sql.replacen('?', "n", 1).replacen('?', "n", 1);
            app.batch(&format!("BEGIN NOT ATOMIC FOR n IN 1..{upto} DO {sql}; END FOR; END"))?;
        }
    } else {
        for (sql, upto) in [(&update, updated), (&insert, inserted)] {
            let mut first = 1;
            while first <= upto {
                let end = (first + rows - 1).min(upto);
                app.execute(sql, &[first.into(), end.into()])?;
                first = end + 1;
            }
        }
    }
    app.durable()
}
