//! Many sites from one seed: random writes, syncs, crashes and clocks in memory, then quiet, and what must hold then.
//!
//! The seed decides everything, so that a failure comes again; its steps are then left out one by one for as long as
//! it still fails, and what remains is printed. Not simulated, because it is not there yet: TRUNCATE, generated keys,
//! `merge-columns`, a `manual` first run, filters, chosen columns, purged tombstones, restored backups.

#![allow(clippy::unwrap_used, reason = "each function here is part of a test")]

mod oracle;
mod paced;
mod scenario;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use scenario::{Scenario, Shape, SiteWrite, Step, Write};

use crate::support::long;

/// Plays a scenario from an empty world; what does not hold afterwards.
fn play(scenario: &Scenario) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let played = catch_unwind(AssertUnwindSafe(|| runtime.block_on(world::play(scenario))));
    played.unwrap_or_else(|_| Err("it panicked".to_owned()))
}

/// Leaves out what is not needed to fail.
fn shrunk(mut scenario: Scenario) -> Scenario {
    let mut at = 0;
    while at < scenario.steps.len() {
        let mut fewer = scenario.clone();
        fewer.steps.remove(at);
        if play(&fewer).is_err() {
            scenario = fewer;
            at = 0;
        } else {
            at += 1;
        }
    }
    scenario
}

fn assert_holds(scenario: Scenario) {
    if let Err(first) = play(&scenario) {
        let seed = scenario.seed;
        let least = shrunk(scenario);
        let what = play(&least).err().unwrap_or(first);
        panic!("seed {seed} fails: {what}\nwith {least}");
    }
}

/// Seeds of a share of the whole, so that the shares run side by side.
fn seeds(share: u64) {
    let most = if long() { 10_000 } else { 400 };
    (share..most).step_by(2).for_each(|seed| assert_holds(Scenario::of(seed)));
}

#[test]
fn all_sites_end_equal_and_no_write_is_lost_even_seeds() {
    seeds(0);
}

#[test]
fn all_sites_end_equal_and_no_write_is_lost_odd_seeds() {
    seeds(1);
}

/// Two sites with these rows in their first table, each step after a sync.
fn two(shape: Shape, first: [&[(i64, &str)]; 2], writes: &[(usize, usize, Write)]) -> Scenario {
    let sync = Step::Sync { edge: 0, turned: false, push_only: false, dies_after: None, meanwhile: None, beside: None };
    let write = |(name, &(site, table, write)): (usize, &(usize, usize, Write))| {
        Step::Write(SiteWrite { site, table, write, later: 1, name })
    };
    Scenario {
        seed: 0,
        sites: 2,
        edges: vec![(0, 1)],
        shape,
        skews: vec![0, 0],
        first: first.map(|rows| rows.iter().map(|(key, name)| (*key, (*name).to_owned())).collect()).to_vec(),
        batch: 1,
        lone_writer: true,
        steps: writes.iter().enumerate().map(write).flat_map(|write| [sync.clone(), write]).collect(),
    }
}

#[test]
fn what_a_first_meeting_settled_has_one_version_at_both_ends() {
    assert_holds(two(Shape::Unique, [&[(1, "here")], &[(1, "there")]], &[(0, 0, Write::Partial(1))]));
}

#[test]
fn rows_of_different_batches_exchange_a_unique_value() {
    let writes = [(0, 0, Write::Insert(1, 1)), (0, 0, Write::Insert(2, 2)), (0, 0, Write::Swap(1, 2))];
    assert_holds(two(Shape::Unique, [&[], &[]], &writes));
}

/// The child arrives after its parent was deleted, and stands there alone; the next changes go on.
#[test]
fn a_child_without_its_parent_holds_up_nobody() {
    let mut scenario = two(
        Shape::Family,
        [&[(1, "parent")], &[(1, "parent")]],
        &[(0, 0, Write::Delete(1)), (1, 1, Write::Insert(1, 1)), (0, 0, Write::Insert(2, 0))],
    );
    // Both write before they sync.
    scenario.steps.remove(2);
    assert_holds(scenario);
}

#[test]
fn rows_older_than_capture_that_meet_in_a_feed_become_one() {
    assert_holds(Scenario::of(3439));
}
