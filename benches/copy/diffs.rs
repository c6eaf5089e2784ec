//! `rowferry diff` of equal tables and of tables with a thousand scattered rows that differ, beside what
//! compares without it.

use std::fmt::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::ends::{Bench, End, Side};
use crate::process::{Background, ok, rowferry, text};
use crate::tables::ORDERS;
use crate::{Outcome, median};

/// Rows that differ, evenly scattered.
const DIFFERENT: u32 = 1_000;

/// Both ends, each at its own side.
type Ends = ((End, Side), (End, Side));

const PAIRS: [(&str, Ends); 4] = [
    ("PostgreSQL and PostgreSQL", ((End::Postgres, Side::Source), (End::Postgres, Side::Target))),
    ("MariaDB and PostgreSQL", ((End::Maria, Side::Source), (End::Postgres, Side::Target))),
    ("MariaDB and MariaDB", ((End::Maria, Side::Source), (End::Maria, Side::Target))),
    ("SQLite and SQLite", ((End::Sqlite, Side::Source), (End::Sqlite, Side::Target))),
];

pub fn diffs(bench: &Bench) -> Outcome<String> {
    bench.fill_all(ORDERS, bench.rows)?;
    for end in [End::Postgres, End::Maria, End::Sqlite] {
        bench.remove(ORDERS, end, Side::Target)?;
        bench.copy(ORDERS, (end, Side::Source), (end, Side::Target))?;
    }
    let peers = peers();
    if peers.iter().any(|p| p.name == DATA_DIFF) {
        // It cannot do without a password, which the server's own account has not.
        let user = "CREATE USER IF NOT EXISTS bench IDENTIFIED BY 'x'; GRANT ALL ON *.* TO bench";
        ok(&mut bench.mysql(user))?;
    }
    let node = Behind::start(bench)?;
    let pairs: Vec<(&str, Ends)> = PAIRS.into_iter().filter(|(name, _)| bench.wants(name)).collect();
    let mut found = vec![Vec::new(); pairs.len()];
    for different in [false, true] {
        if different {
            change(bench)?;
        }
        for (at, &(name, (a, b))) in pairs.iter().enumerate() {
            eprintln!("diff of {name}{}", if different { ", 1000 rows differ" } else { "" });
            let code = i32::from(different);
            let urls = (bench.url(a.0, a.1), bench.url(b.0, b.1));
            let ours = timed(bench, || {
                rowferry(&["diff", &urls.0, &urls.1, "--tables", "orders", "-q"], bench.folder(), &[code]).map(drop)
            })?;
            found[at].push(("rowferry".to_owned(), ours));
            let other = format!("office/{}", Behind::name(b.0));
            let behind = timed(bench, || {
                rowferry(&["diff", &urls.0, &other, "--tables", "orders", "-q"], &node.folder, &[code]).map(drop)
            })?;
            found[at].push(("rowferry, the second behind a peer".to_owned(), behind));
            for peer in &peers {
                if let Some(rate) = beside(bench, peer, (a, b))? {
                    found[at].push((peer.name.to_owned(), rate));
                }
            }
        }
    }
    let mut out = format!(
        "{} rows of `orders`, in rows/s; `diff` reads both sides in full.\n\n\
         | pair | tool | equal | {DIFFERENT} rows differ | rowferry is, equal | with differences |\n|---|---|--:|--:|--:|--:|\n",
        bench.rows
    );
    for ((name, _), rates) in pairs.iter().zip(found) {
        let (equal, differ) = rates.split_at(rates.len() / 2);
        for ((tool, e), (_, d)) in equal.iter().zip(differ) {
            writeln!(
                out,
                "| {name} | {tool} | {e:.0} | {d:.0} | {:.2} × | {:.2} × |",
                equal[0].1 / e,
                differ[0].1 / d
            )?;
        }
    }
    if !peers.iter().any(|p| p.name == DATA_DIFF) {
        out.push_str("\ndata-diff was not at hand.\n");
    }
    Ok(out)
}

/// A node with the databases at the targets, and a folder whose configuration knows it.
struct Behind {
    folder: PathBuf,
    _node: Background,
}

impl Behind {
    fn name(end: End) -> &'static str {
        match end {
            End::Postgres => "postgres",
            End::Maria => "maria",
            End::Sqlite => "sqlite",
        }
    }

    fn start(bench: &Bench) -> Outcome<Self> {
        let (node, folder) = (bench.folder().join("node"), bench.folder().join("laptop"));
        std::fs::create_dir_all(&node)?;
        std::fs::create_dir_all(&folder)?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let key = "of-the-one-who-compares";
        let mut office =
            format!("node: office\nlisten: {address}\napi: {{ keys: [{{ name: bench, key: {key}, role: admin }}] }}\n");
        office += "databases:\n";
        for end in [End::Postgres, End::Maria, End::Sqlite] {
            writeln!(office, "  {}: {{ url: \"{}\" }}", Self::name(end), bench.url(end, Side::Target))?;
        }
        std::fs::write(node.join("rowferry.yaml"), office)?;
        let peer = format!("node: laptop\npeers: {{ office: {{ url: \"http://{address}\", api_key: {key} }} }}\n");
        std::fs::write(folder.join("rowferry.yaml"), peer)?;
        let started = Background::rowferry(&["serve"], &node)?;
        for _ in 0..200 {
            if TcpStream::connect(address).is_ok() {
                return Ok(Self { folder, _node: started });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err("the node did not start".into())
    }
}

/// Makes rows differ at every target.
fn change(bench: &Bench) -> Outcome<()> {
    let step = (bench.rows / DIFFERENT).max(1);
    let sql = |table: &str| format!("UPDATE {table} SET customer = customer + 1 WHERE id % {step} = 0");
    ok(&mut bench.psql("bench_b", &sql("orders")))?;
    ok(&mut bench.mysql(&sql("bench_b.orders")))?;
    rusqlite::Connection::open(bench.file(Side::Target))?.execute(&sql("orders"), [])?;
    Ok(())
}

const DATA_DIFF: &str = "data-diff";
const ORDERS_BUT_JSON: [&str; 8] = ["customer", "seller", "amount", "currency", "reference", "note", "paid", "placed"];

/// Another way to compare.
struct Peer {
    name: &'static str,
    program: String,
}

/// Those that are installed: `sqldiff` in PATH, data-diff where `ROWFERRY_BENCH_DATA_DIFF` says.
fn peers() -> Vec<Peer> {
    let mut out = vec![Peer { name: "`md5` of the rows in both servers at once", program: "psql".into() }];
    if Command::new("sqldiff").arg("--help").output().is_ok() {
        out.push(Peer { name: "sqldiff", program: "sqldiff".into() });
    }
    out.extend(std::env::var("ROWFERRY_BENCH_DATA_DIFF").ok().map(|program| Peer { name: DATA_DIFF, program }));
    out
}

/// Rows a second of a peer; `None` where it cannot compare these two.
fn beside(bench: &Bench, peer: &Peer, (a, b): Ends) -> Outcome<Option<f64>> {
    let work = || -> Outcome<()> {
        match peer.program.as_str() {
            "psql" => {
                let sql = "SELECT count(*), sum(('x' || left(md5(orders::text), 15))::bit(60)::bigint) FROM orders";
                let mut first = bench.psql("bench_a", sql).stdout(Stdio::null()).spawn()?;
                text(&mut bench.psql("bench_b", sql))?;
                first.wait()?;
            }
            "sqldiff" => ok(Command::new("sqldiff").args([bench.file(b.1), bench.file(a.1)]))?,
            program => {
                let mut command = Command::new(program);
                for end in [a, b] {
                    // It knows one spelling of the scheme, and wants a password, which the server does not ask for.
                    let url = bench.url(end.0, end.1).replacen("postgres:", "postgresql:", 1);
                    let (scheme, place) = url.split_once("://").unwrap_or_default();
                    let host = place.split_once('@').map_or(place, |(_, host)| host);
                    let user = if end.0 == End::Postgres { "postgres" } else { "bench" };
                    command.args([&format!("{scheme}://{user}:x@{host}"), "orders"]);
                }
                command.args(["-k", "id", "--stats"]);
                // It does not compare JSON of two engines.
                let columns = if a.0 == b.0 { &["%"][..] } else { &ORDERS_BUT_JSON };
                for column in columns {
                    command.args(["-c", column]);
                }
                // It ends with 0 whether rows differ or not, and when it gives up.
                let told = command.stdin(Stdio::null()).output()?;
                let told = String::from_utf8_lossy(&told.stderr);
                if let Some(error) = told.lines().find(|line| line.starts_with("ERROR")) {
                    return Err(format!("{program}: {error}").into());
                }
            }
        }
        Ok(())
    };
    let can = match peer.program.as_str() {
        "sqldiff" => a.0 == End::Sqlite && b.0 == End::Sqlite,
        "psql" => a.0 == End::Postgres && b.0 == End::Postgres,
        _ => a.0 != End::Sqlite && b.0 != End::Sqlite,
    };
    can.then(|| timed(bench, work)).transpose()
}

/// Rows a second at the median time.
fn timed(bench: &Bench, work: impl Fn() -> Outcome<()>) -> Outcome<f64> {
    let mut times = Vec::new();
    for _ in 0..bench.rounds {
        let started = Instant::now();
        work()?;
        times.push(started.elapsed().as_secs_f64());
    }
    Ok(f64::from(bench.rows) / median(times))
}
