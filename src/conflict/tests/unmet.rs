//! A column that one end had before the other: what it holds there is nothing that the other knew of.

use crate::conflict::{Decision, Folded, Origin, Policy, Relation, Rule, Side, Unmet, Written, decide, fold, unmet};
use crate::model::{Clock, Digest, Entry, Site};

/// Those that know rows as wholes.
const POLICIES: [Policy; 4] =
    [Policy::LastWriteWins, Policy::Prefer(Side::Local), Policy::Prefer(Side::Incoming), Policy::Manual];

fn origin(id: u64) -> Origin {
    Origin { site: Site { id, epoch: 1 }, now: 1_000, floor: Clock::ZERO }
}

/// A write of site `id` to a row of these two columns.
fn written(previous: Option<&Entry>, id: u64, values: [u128; 2], wall: i64, merges: bool) -> Entry {
    let columns = values.map(Digest);
    let digest = Some(Digest(values[0] * 1_000 + values[1]));
    let columns = if merges { &columns[..] } else { &[] };
    match fold(previous, &Written { wall, born: previous.is_none(), digest, columns }, &origin(id)) {
        Folded::New(entry) => entry,
        Folded::Same => unreachable!("another digest each time"),
    }
}

/// What site 1 makes of `incoming` from site 2, where the second column is new.
fn taken(local: &Entry, incoming: &Entry, column: Unmet, policy: Policy) -> Decision {
    let rule = Rule { policy, generated_keys: false };
    let decision = decide(Some(local), incoming, rule, &origin(1));
    let columns = [Unmet::Nothing, column];
    unmet(decision, (Some(local), incoming), &columns, (policy, Site { id: 2, epoch: 1 }, &origin(1)))
}

#[test]
fn what_stands_there_is_kept_and_the_rest_taken_under_a_version_of_this_site() {
    for policy in POLICIES {
        let a = written(None, 1, [1, 7], 500, false);
        let b = written(Some(&a), 2, [2, 0], 600, false);
        let taken = taken(&a, &b, Unmet::Ours, policy);
        assert_eq!(taken.columns, Some(vec![Side::Incoming, Side::Local]), "{policy:?}");
        let entry = &taken.entry;
        assert!(entry.version.site.id == 1 && entry.version > b.version && taken.changed, "{policy:?}");
        assert!(entry.vector.holds(b.version) && entry.vector.holds(a.version), "{policy:?}");
    }
}

#[test]
fn what_both_hold_is_a_conflict_that_the_policy_settles() {
    let a = written(None, 1, [1, 7], 500, false);
    let b = written(Some(&a), 2, [2, 8], 600, false);
    for policy in POLICIES {
        let taken = taken(&a, &b, Unmet::Both, policy);
        let row =
            if matches!(policy, Policy::Prefer(Side::Local) | Policy::Manual) { Side::Local } else { Side::Incoming };
        assert_eq!((taken.relation, taken.row), (Relation::Conflict, row), "{policy:?}");
        assert_eq!(taken.entry.vector.holds(b.version), policy != Policy::Manual, "{policy:?}");
    }
}

#[test]
fn merged_columns_go_by_their_own_writes_and_what_both_wrote_is_a_conflict() {
    let a = written(None, 1, [1, 7], 500, true);
    let both = written(Some(&a), 2, [1, 8], 600, true);
    let taken_both = taken(&a, &both, Unmet::Both, Policy::MergeColumns);
    assert_eq!((taken_both.relation, taken_both.row), (Relation::Conflict, Side::Incoming));
    // The same on its way back is none.
    let back = taken(&both, &a, Unmet::Both, Policy::MergeColumns);
    assert_eq!((back.relation, back.row), (Relation::Known, Side::Local));
}

#[test]
fn what_the_sender_alone_has_written_or_nobody_is_taken_as_it_comes() {
    let b = written(None, 2, [1, 7], 500, false);
    let again = written(Some(&b), 2, [1, 8], 600, false);
    let base = Entry::standing_at(Site { id: 1, epoch: 1 }, Digest(5));
    let upon = written(Some(&base), 2, [1, 8], 600, false);
    for column in [Unmet::Ours, Unmet::Both, Unmet::Nothing] {
        for (local, incoming) in [(&b, &again), (&base, &upon)] {
            let taken = taken(local, incoming, column, Policy::LastWriteWins);
            assert_eq!(
                (taken.relation, taken.row, taken.columns),
                (Relation::Newer, Side::Incoming, None),
                "{column:?}"
            );
        }
    }
}
