//! The rules against an oracle: every short history in every order of arrival. And each rule broken: it must show.

mod digest;
mod explore;
mod first_run;
mod fold;
mod judge;
mod lane;
mod part;
mod policies;
mod rules;
mod unmet;
mod world;

use std::time::Instant;
use std::{env, thread};

use explore::{Count, Pairs, Scope, all, sample};
use lane::Settling;
use rules::{BROKEN, BROKEN_MERGES, Broken, Sound};
use world::Start;

const MESH: Pairs = &[(0, 1), (1, 0), (1, 2), (2, 1), (2, 0), (0, 2)];
const CHAIN: Pairs = &[(0, 1), (1, 0), (1, 2), (2, 1)];
const RING: Pairs = &[(0, 1), (1, 2), (2, 0)];
const STAR: Pairs = &[(0, 1), (1, 0), (0, 2), (2, 0)];

const STARTS: [Start; 3] = [Start::Empty, Start::Standing, Start::Born];

/// All sites exchange with all, with up to three batches between the writes. What a ring or a chain delivers is part of
/// that: a place is checked as soon as everything has arrived along either.
fn scope(start: Start, writes: usize, again: bool) -> Scope {
    let quiet = &[RING, CHAIN, MESH];
    Scope { start, writes, batches: 3, pairs: MESH, quiet, settling: Settling::Last, again }
}

/// All others exchange with the first site, which wins.
fn centred(start: Start, writes: usize) -> Scope {
    Scope { start, writes, batches: 3, pairs: STAR, quiet: &[STAR], settling: Settling::Site(0), again: false }
}

fn is_long() -> bool {
    !cfg!(debug_assertions) || env::var("ROWFERRY_TEST_LONG").is_ok_and(|long| long == "1")
}

fn count(writes: usize, again: bool) -> Count {
    let begun = Instant::now();
    let of = |start| all(scope(start, writes, again), &Sound).unwrap_or_else(|fault| panic!("{fault}"));
    let total = thread::scope(|threads| {
        let counts = STARTS.map(|start| threads.spawn(move || of(start)));
        counts.into_iter().map(|count| count.join().expect("no fault")).fold(Count::default(), Count::plus)
    });
    let (histories, pairs, seconds) = (total.histories, total.pairs, begun.elapsed().as_secs());
    println!("{writes} writes: {histories} histories, {pairs} pairs of history and order, {seconds} s");
    total
}

/// In a release build or with `ROWFERRY_TEST_LONG=1` all histories of up to 4 writes, and those of up to 3 with a batch
/// that comes twice; else those of up to 2.
#[test]
fn every_history_in_every_order_ends_as_the_oracle_says() {
    let total = if is_long() { count(3, true).plus(count(4, false)) } else { count(2, false) };
    assert!(total.pairs >= 100_000, "only {} pairs", total.pairs);
}

/// `source-wins` from a centre, or `target-wins` towards it: what the centre keeps is a new write, and all end with it.
#[test]
fn a_preferred_centre_wins_and_all_sites_end_equal() {
    for start in STARTS {
        let count =
            all(centred(start, if is_long() { 3 } else { 2 }), &Sound).unwrap_or_else(|fault| panic!("{fault}"));
        println!("a centre, {start:?}: {} histories, {} pairs", count.histories, count.pairs);
    }
}

fn merged(start: Start, writes: usize, again: bool) -> Scope {
    Scope { settling: Settling::Columns, ..scope(start, writes, again) }
}

/// What two sites write to different columns is all there in the end; what both write to one is a conflict, settled by
/// the later. A row that was deleted here and changed there stands everywhere or nowhere.
#[test]
fn merged_columns_are_all_there_in_every_order() {
    let writes = if is_long() { 3 } else { 2 };
    for scope in STARTS.map(|start| merged(start, writes, writes == 3)) {
        let count = all(scope, &Sound).unwrap_or_else(|fault| panic!("{scope:?}: {fault}"));
        println!("columns, {:?}: {} histories, {} pairs", scope.start, count.histories, count.pairs);
    }
}

/// Longer histories than can all be gone through.
#[test]
fn sampled_histories_end_as_the_oracle_says() {
    let seeds = if is_long() { 50_000 } else { 500 };
    let all = |start| {
        [RING, CHAIN, MESH].into_iter().flat_map(move |pairs| {
            [scope(start, 5, true), merged(start, 5, true)].map(|scope| Scope { pairs, ..scope })
        })
    };
    for scope in STARTS.into_iter().flat_map(all) {
        for seed in 0..seeds / 18 {
            sample(scope, &Sound, seed).unwrap_or_else(|fault| panic!("{scope:?}, seed {seed}: {fault}"));
        }
    }
}

#[test]
fn each_broken_rule_shows_in_some_history() {
    for broken in BROKEN {
        let scopes = |writes| STARTS.map(move |start| scope(start, writes, false));
        assert_shows(broken, (1..=3).flat_map(scopes));
    }
    for broken in BROKEN_MERGES {
        let scopes = |writes| STARTS.map(move |start| merged(start, writes, false));
        assert_shows(broken, (1..=3).flat_map(scopes));
    }
    let centred = |writes| STARTS.into_iter().map(move |start| centred(start, writes));
    assert_shows(Broken::PreferenceMintsNothing, (1..=3).flat_map(centred));
}

fn assert_shows(broken: Broken, mut scopes: impl Iterator<Item = Scope>) {
    let fault = scopes.find_map(|scope| all(scope, &broken).err());
    println!("{broken:?}: {}", fault.unwrap_or_else(|| panic!("{broken:?} passes for sound")));
}
