//! Single meetings: what each policy does, which of two rows under one number moves, what a fold makes of a key.

use crate::conflict::{Decision, Folded, Origin, Policy, Relation, Rule, Side, Written, decide, emptied, fold};
use crate::model::{Clock, Digest, Entry, Site, Version};

const NOW: i64 = 1_000;

fn origin(id: u64) -> Origin {
    Origin { site: Site { id, epoch: 0 }, now: NOW, floor: Clock::ZERO }
}

fn written(previous: Option<&Entry>, site: u64, wall: i64, content: Option<u128>) -> Entry {
    let written = Written { wall, born: previous.is_none(), digest: content.map(Digest), columns: &[] };
    match fold(previous, &written, &origin(site)) {
        Folded::New(entry) => entry,
        Folded::Same => panic!("the contents are the same"),
    }
}

fn meet(policy: Policy, local: &Entry, incoming: &Entry, at: u64) -> Decision {
    decide(Some(local), incoming, Rule { policy, generated_keys: false }, &origin(at))
}

fn meet_generated(local: &Entry, incoming: &Entry) -> Relation {
    decide(Some(local), incoming, Rule { policy: Policy::LastWriteWins, generated_keys: true }, &origin(1)).relation
}

#[test]
fn a_preferred_side_wins_under_a_version_above_both_that_a_third_site_takes() {
    let base = Entry::base(Digest(0));
    let (low, high) = (written(Some(&base), 1, 10, Some(1)), written(Some(&base), 2, 5_000, Some(2)));
    let kept = meet(Policy::Prefer(Side::Local), &low, &high, 1);
    assert_eq!((kept.relation, kept.row, kept.changed), (Relation::Conflict, Side::Local, true));
    assert_eq!(kept.entry.digest, Some(Digest(1)));
    assert_eq!(kept.entry.version.clock.micros(), 5_001);
    // A third site has the one that lost: it takes the outcome without a conflict of its own.
    let third = meet(Policy::LastWriteWins, &high, &kept.entry, 3);
    assert_eq!((third.relation, third.row), (Relation::Newer, Side::Incoming));
    assert_eq!(third.entry, kept.entry);

    let taken = meet(Policy::Prefer(Side::Incoming), &low, &high, 1);
    assert_eq!((taken.row, taken.entry.digest), (Side::Incoming, Some(Digest(2))));
    // Both sites decided by themselves, for the same row: equal contents join.
    let there = meet(Policy::Prefer(Side::Local), &high, &low, 2);
    let joined = meet(Policy::Prefer(Side::Incoming), &taken.entry, &there.entry, 1);
    assert_eq!((joined.relation, joined.row), (Relation::Equal, Side::Local));
    assert_eq!(joined.entry, meet(Policy::Prefer(Side::Local), &there.entry, &taken.entry, 2).entry);
}

#[test]
fn a_manual_conflict_stays_open_until_a_write_that_has_seen_both() {
    let base = Entry::base(Digest(0));
    let (ours, theirs) = (written(Some(&base), 1, 10, Some(1)), written(Some(&base), 2, 20, Some(2)));
    for (local, incoming, at) in [(&ours, &theirs, 1), (&theirs, &ours, 2)] {
        let open = meet(Policy::Manual, local, incoming, at);
        assert_eq!((open.relation, open.row, open.changed), (Relation::Conflict, Side::Local, false));
        assert_eq!(open.entry, *local);
    }
    let later = written(Some(&ours), 1, 30, Some(3));
    assert_eq!(meet(Policy::Manual, &later, &theirs, 1).relation, Relation::Conflict, "it has not seen the other");
    let resolved = meet(Policy::Prefer(Side::Incoming), &later, &theirs, 1).entry;
    for other in [&ours, &theirs, &later] {
        let taken = meet(Policy::Manual, other, &resolved, 2);
        assert_eq!((taken.relation, taken.row), (Relation::Newer, Side::Incoming));
    }
}

#[test]
fn two_births_of_a_generated_key_are_two_rows_and_both_sites_move_the_same_one() {
    let (early, late) = (written(None, 1, 10, Some(1)), written(None, 2, 20, Some(2)));
    assert_eq!(meet_generated(&early, &late), Relation::TwoRows { moves: Side::Incoming });
    assert_eq!(meet_generated(&late, &early), Relation::TwoRows { moves: Side::Local });
    let (tie, moved) = (written(None, 2, 10, Some(2)), Relation::TwoRows { moves: Side::Incoming });
    assert_eq!(meet_generated(&early, &tie), moved, "of equal clocks the site decides");
    // Also when both were updated before they met: the birth counts, not the last write.
    let (early_updated, late_updated) = (written(Some(&early), 1, 90, Some(3)), written(Some(&late), 2, 50, Some(4)));
    assert_eq!(meet_generated(&early_updated, &late_updated), moved);
    // One that is gone was another row than the one that stands, and has left it the number.
    let gone = written(Some(&late), 2, 60, None);
    assert_eq!(meet_generated(&gone, &early), Relation::Newer);
    assert_eq!(meet_generated(&early, &gone), Relation::Known);
    assert_eq!(meet_generated(&early, &written(None, 2, 20, Some(1))), Relation::Equal);
}

#[test]
fn one_row_that_two_sites_knew_is_one_row() {
    let born = written(None, 1, 10, Some(1));
    let (here, there) = (written(Some(&born), 1, 20, Some(2)), written(Some(&born), 2, 30, Some(3)));
    assert_eq!(meet_generated(&here, &there), Relation::Conflict);
    // Two births that were joined because they were equal: whoever updates either has one row before him.
    let twin = written(None, 2, 15, Some(1));
    let joined = meet(Policy::LastWriteWins, &born, &twin, 1).entry;
    assert_eq!(meet_generated(&joined, &here), Relation::Conflict);
    // Rows older than capture stood on both sides before.
    let base = Entry::base(Digest(0));
    let (here, there) = (written(Some(&base), 1, 20, Some(2)), written(Some(&base), 2, 30, Some(3)));
    assert_eq!(meet_generated(&here, &there), Relation::Conflict);
}

#[test]
fn a_birth_lasts_as_long_as_its_row() {
    let born = written(None, 1, 10, Some(1));
    assert_eq!(born.birth, born.version);
    let updated = written(Some(&born), 2, 20, Some(2));
    let deleted = written(Some(&updated), 1, 30, None);
    assert_eq!([updated.birth, deleted.birth], [born.version; 2]);
    let again = written(Some(&deleted), 1, 40, Some(1));
    assert_eq!(again.birth, again.version);
    let standing = Written { wall: 10, born: false, digest: Some(Digest(1)), columns: &[] };
    let Folded::New(standing) = fold(None, &standing, &origin(1)) else { panic!("a first version") };
    assert_eq!(standing.birth, Version::BASE);
}

/// The first clock after a purge is above the tombstones that went, or the insert would lose to them where they still
/// stand. It does not pass for having seen them: the floor is the table's, and would cover writes to *other* keys that
/// never arrived here. A site deletes with a clock that is years ahead, the tombstone is purged, the clock is set
/// right; then that site and another each insert under one number. Were the floor in the vector, the second would pass
/// for having seen the first, and would replace it without a record.
#[test]
fn a_purged_tombstone_raises_the_clock_and_claims_nothing() {
    let gone = written(Some(&Entry::base(Digest(0))), 1, 900, None);
    let here = Origin { floor: gone.version.clock, ..origin(2) };
    let insert = Written { wall: 100, born: true, digest: Some(Digest(2)), columns: &[] };
    let Folded::New(inserted) = fold(None, &insert, &here) else { panic!("a first version") };
    assert!(inserted.version > gone.version);
    let elsewhere = written(None, 1, 50, Some(1));
    assert_eq!(meet(Policy::LastWriteWins, &elsewhere, &inserted, 1).relation, Relation::Conflict);
    assert_eq!(meet_generated(&elsewhere, &inserted), Relation::TwoRows { moves: Side::Incoming });
}

#[test]
fn a_restored_site_does_not_pass_for_known() {
    let lost = written(None, 1, 10, Some(1));
    let restored = Origin { site: Site { id: 1, epoch: 1 }, ..origin(1) };
    let insert = Written { wall: 10, born: true, digest: Some(Digest(2)), columns: &[] };
    let Folded::New(again) = fold(None, &insert, &restored) else { panic!("a first version") };
    assert_eq!(meet(Policy::LastWriteWins, &lost, &again, 2).relation, Relation::Conflict);
}

#[test]
fn a_row_of_ours_that_comes_back_where_nothing_is_known_of_it_is_gone() {
    let ours = Entry::standing_at(origin(1).site, Digest(0));
    let gone = emptied(&ours, &origin(1)).expect("it was ours");
    assert_eq!((gone.relation, gone.row, gone.changed, gone.entry.digest), (Relation::Known, Side::Local, true, None));
    assert_eq!(meet(Policy::LastWriteWins, &ours, &gone.entry, 2).relation, Relation::Newer, "it goes there too");
    let restored = Origin { site: Site { id: 1, epoch: 1 }, ..origin(1) };
    let others =
        [(&ours, origin(2)), (&ours, restored), (&gone.entry, origin(1)), (&Entry::base(Digest(0)), origin(1))];
    assert!(others.iter().all(|(entry, origin)| emptied(entry, origin).is_none()));
}
