//! Two databases that both hold rows meet for the first time.

use crate::conflict::{
    Decision, FirstRun, Folded, Origin, Policy, Relation, Rule, Side, Standing, Written, decide, first_run, fold,
};
use crate::model::{Clock, Digest, Entry, Facet, Site, Version};

const ORIGIN: Origin = Origin { site: Site { id: 1, epoch: 0 }, now: 1_000, floor: Clock::ZERO };

fn base(content: u128) -> Entry {
    Entry::base(Digest(content))
}

/// Written at `site` upon `before`.
fn upon(before: &Entry, site: u64, content: Option<u128>) -> Entry {
    let mut entry = Entry { digest: content.map(Digest), ..before.clone() };
    let origin = Origin { site: Site { id: site, epoch: 0 }, ..ORIGIN };
    entry.version = origin.version(0, before.version.clock);
    entry.vector.add(entry.version);
    entry
}

fn meet(local: (&Entry, Option<i64>), incoming: (&Entry, Option<i64>), rule: FirstRun) -> Decision {
    let [local, incoming] = [local, incoming].map(|(entry, stamp)| Standing { entry, stamp });
    first_run(Some(local), incoming, rule, &ORIGIN)
}

#[test]
fn equal_rows_are_one_row_and_adopt_a_version_that_one_side_has() {
    let (plain, written) = (base(1), upon(&base(0), 2, Some(1)));
    let same = meet((&plain, Some(5)), (&base(1), Some(9)), FirstRun::Manual);
    assert_eq!((same.relation, same.row, same.changed), (Relation::Equal, Side::Local, false));
    let adopted = meet((&plain, None), (&written, None), FirstRun::Manual);
    assert_eq!((adopted.row, adopted.changed, &adopted.entry), (Side::Local, true, &written));
    assert!(!meet((&written, None), (&plain, None), FirstRun::Manual).changed);
}

#[test]
fn a_row_that_only_the_other_has_comes_over_as_it_is() {
    let (plain, gone) = (base(1), upon(&base(0), 2, None));
    for entry in [&plain, &gone] {
        let taken = first_run(None, Standing { entry, stamp: None }, FirstRun::Manual, &ORIGIN);
        assert_eq!((taken.row, taken.changed, &taken.entry), (Side::Incoming, true, entry));
    }
}

/// An unversioned row would pass for older than any under the rules of a later run.
#[test]
fn differing_rows_have_not_seen_each_other_and_the_outcome_is_above_both() {
    let (plain, written, gone) = (base(1), upon(&base(0), 2, Some(2)), upon(&base(0), 3, None));
    for (local, incoming) in [(&plain, &written), (&written, &plain), (&plain, &gone), (&written, &gone)] {
        for (side, winner) in [(Side::Local, local), (Side::Incoming, incoming)] {
            let settled = meet((local, None), (incoming, None), FirstRun::Prefer(side));
            assert_eq!((settled.relation, settled.row), (Relation::Conflict, side));
            assert_eq!(settled.entry.digest, winner.digest);
            let loser = if side == Side::Local { incoming } else { local };
            assert!(loser.version < settled.entry.version);
            if loser.version.is_base() && !winner.version.is_base() {
                assert_eq!(settled.entry.version, winner.version, "one content has one version at both ends");
            } else {
                assert_eq!(settled.entry.version.site, ORIGIN.site);
                assert!(winner.version < settled.entry.version && settled.changed);
            }
            assert!([local, incoming].iter().all(|entry| settled.entry.vector.holds(entry.version)));
        }
    }
}

#[test]
fn the_later_timestamp_wins_before_the_preferred_side_and_its_version_is_as_old() {
    let (ours, theirs) = (base(1), base(2));
    let settled = meet((&ours, Some(500)), (&theirs, Some(400)), FirstRun::Prefer(Side::Incoming));
    assert_eq!((settled.row, settled.entry.version.clock.micros()), (Side::Local, 500));
    let settled = meet((&ours, Some(300)), (&theirs, Some(400)), FirstRun::Manual);
    assert_eq!((settled.row, settled.entry.version.clock.micros()), (Side::Incoming, 400));
    for unknown in [None, Some(300)] {
        let settled = meet((&ours, Some(300)), (&theirs, unknown), FirstRun::Prefer(Side::Incoming));
        assert_eq!(settled.row, Side::Incoming, "nothing tells the later");
    }
}

#[test]
fn under_manual_both_stay_with_versions_that_do_not_know_each_other() {
    let (ours, theirs) = (base(1), base(2));
    let open = meet((&ours, None), (&theirs, None), FirstRun::Manual);
    assert_eq!((open.relation, open.row, open.changed), (Relation::Conflict, Side::Local, true));
    assert_eq!((open.entry.digest, open.entry.version.site), (ours.digest, ORIGIN.site));
    let written = upon(&theirs, 2, Some(3));
    assert!(open.entry.version > Version::BASE && !written.vector.holds(open.entry.version));
    let open = meet((&written, None), (&ours, None), FirstRun::Manual);
    assert!(!open.changed, "it has a version already");
}

/// Where columns are merged, the later versions of two rows that nobody has settled do not mix what nobody wrote.
#[test]
fn columns_that_nobody_wrote_go_with_the_row_that_won() {
    let faceted = |entry: Entry, columns: [(Version, u128); 2]| {
        let columns = columns.map(|(version, digest)| Facet { version, digest: Digest(digest) });
        Entry { columns: columns.to_vec(), ..entry }
    };
    let written = upon(&base(1), 2, Some(2));
    let written = faceted(written.clone(), [(written.version, 9), (Version::BASE, 1)]);
    let plain = faceted(base(3), [(Version::BASE, 0), (Version::BASE, 3)]);
    let settled = meet((&plain, None), (&written, None), FirstRun::Prefer(Side::Incoming));
    assert_eq!((settled.row, settled.entry.version), (Side::Incoming, written.version));
    assert!(settled.entry.columns.iter().all(|facet| facet.version == written.version), "both are the winner's");
    let open = meet((&plain, None), (&written, None), FirstRun::Manual);
    assert!(open.entry.columns.iter().all(|facet| facet.version == open.entry.version));
    // A third that has the plain row takes the winner whole, and does not give its own columns back.
    let rule = Rule { policy: Policy::MergeColumns, generated_keys: false };
    let taken = decide(Some(&plain), &written, rule, &ORIGIN);
    assert_eq!((taken.relation, taken.row, taken.columns.clone()), (Relation::Newer, Side::Incoming, None));
    let kept = decide(Some(&written), &plain, rule, &ORIGIN);
    assert_eq!((kept.relation, kept.row, kept.columns), (Relation::Known, Side::Local, None));
    assert_eq!(taken.entry.columns, kept.entry.columns);
}

/// Three databases in a row become a ring while a change is under way: that is no difference of the first run.
#[test]
fn rows_that_met_elsewhere_keep_what_they_know() {
    let before = upon(&base(0), 2, Some(1));
    let after = upon(&before, 3, Some(2));
    let taken = meet((&before, Some(9)), (&after, Some(5)), FirstRun::Manual);
    assert_eq!((taken.relation, taken.row, &taken.entry), (Relation::Newer, Side::Incoming, &after));
    let kept = meet((&after, Some(5)), (&before, Some(9)), FirstRun::Manual);
    assert_eq!((kept.relation, kept.row, kept.changed), (Relation::Known, Side::Local, false));
}

/// By a first run that was interrupted, or by one that went the other way only.
#[test]
fn a_row_that_was_brought_is_known_to_whoever_wrote_it_where_it_came_from() {
    let brought = Entry::standing_at(Site { id: 2, epoch: 0 }, Digest(0));
    for written in [upon(&base(0), 2, Some(1)), upon(&base(0), 2, None)] {
        for rule in [FirstRun::Manual, FirstRun::Prefer(Side::Local), FirstRun::Prefer(Side::Incoming)] {
            let newer = meet((&brought, Some(9)), (&written, Some(5)), rule);
            assert_eq!((newer.relation, newer.row, &newer.entry), (Relation::Newer, Side::Incoming, &written));
            let known = meet((&written, Some(5)), (&brought, Some(9)), rule);
            assert_eq!((known.relation, known.row, known.changed), (Relation::Known, Side::Local, false));
        }
    }
    let elsewhere = upon(&base(0), 3, Some(1));
    assert_eq!(meet((&brought, None), (&elsewhere, None), FirstRun::Manual).relation, Relation::Conflict);
    let told = Written { wall: 0, born: false, digest: Some(Digest(1)), columns: &[] };
    let third = Origin { site: Site { id: 3, epoch: 0 }, ..ORIGIN };
    let Folded::New(upon_it) = fold(Some(&brought), &told, &third) else { panic!("another content") };
    assert_eq!(meet((&brought, None), (&upon_it, None), FirstRun::Manual).relation, Relation::Newer);
}
