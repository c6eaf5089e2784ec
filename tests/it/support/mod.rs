//! What the tests share: a database of their own on each engine, servers of their own, and the
//! real program.

mod database;
mod held;
mod node;
mod program;
mod relay;
mod server;
mod session;
mod sites;
mod wire;

pub use database::{Engine, TestDb};
pub use held::Held;
pub use node::{Answer, Node, node, wait};
pub use program::{Output, Running, assert_equal, command, output, program, rowferry, rowferry_in, start};
pub use relay::{Cut, Relay};
pub use server::Server;
pub use session::Session;
pub use sites::{PAIR, RING, STAR, Sites, pairs, rows, threes};
pub use wire::{Fault, Wire};

/// Whether the long tests were asked for (`./test.sh --long`); what they repeat, others do a few times.
pub fn long() -> bool {
    std::env::var("ROWFERRY_TEST_LONG").is_ok_and(|v| v == "1")
}

/// In an ordinary run so many of these cases, spread over all of them and others at each place that asks; in long runs
/// all.
#[track_caller]
pub fn some<T>(count: usize, cases: impl IntoIterator<Item = T>) -> Vec<T> {
    let cases: Vec<T> = cases.into_iter().collect();
    let (all, first) = (cases.len(), std::panic::Location::caller().line() as usize);
    if long() || all <= count {
        return cases;
    }
    let chosen: Vec<usize> = (0..count).map(|n| (first + n * all / count) % all).collect();
    cases.into_iter().enumerate().filter(|(at, _)| chosen.contains(at)).map(|(_, case)| case).collect()
}

/// In an ordinary run one of these, in turn for each that asks; in long runs all.
pub fn in_turn<T>(nth: usize, cases: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut cases: Vec<T> = cases.into_iter().collect();
    if !long() {
        cases = vec![cases.swap_remove(nth % cases.len())];
    }
    cases
}

/// Engines two by two, never one with its like: each is once in front of another, and of all others in long runs.
pub fn unlike() -> Vec<(Engine, Engine)> {
    let there = Engine::available();
    let ring: Vec<Engine> = [Engine::Sqlite, Engine::Mariadb, Engine::Postgres, Engine::Mysql]
        .into_iter()
        .filter(|engine| there.contains(engine))
        .collect();
    let reach = if long() { ring.len() - 1 } else { 1 };
    let from = |at: usize| (1..=reach).map(move |step| (at, at + step));
    (0..ring.len()).flat_map(from).map(|(a, b)| (ring[a], ring[b % ring.len()])).collect()
}

/// Whether the tests may mount file systems; those that must say in a line when they may not.
pub fn may_mount() -> bool {
    let may = std::process::Command::new("unshare").args(["--mount", "true"]).status().is_ok_and(|s| s.success());
    if !may {
        eprintln!("left out: only root can mount the file system that this test needs");
    }
    may
}
