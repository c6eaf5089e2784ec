//! Two ends that each have a column which the other lacks, and a third that has both columns of one of them.

use crate::conflict::Folded;
use crate::conflict::{Decision, Origin, Policy, Relation, Rule, Side, Written, decide, fold, part};
use crate::model::{Clock, Digest, Entry, Site};

const RULE: Rule = Rule { policy: Policy::LastWriteWins, generated_keys: false };

fn origin(id: u64) -> Origin {
    Origin { site: Site { id, epoch: 1 }, now: 1_000, floor: Clock::ZERO }
}

fn written(previous: Option<&Entry>, id: u64, digest: u128, wall: i64) -> Entry {
    match fold(
        previous,
        &Written { wall, born: previous.is_none(), digest: Some(Digest(digest)), columns: &[] },
        &origin(id),
    ) {
        Folded::New(entry) => entry,
        Folded::Same => unreachable!("another digest each time"),
    }
}

/// What site `id` makes of `incoming`, of which it lacks columns; `digest` is that of the common columns of its row.
fn taken(local: Option<&Entry>, digest: Option<u128>, incoming: (&Entry, u128), id: u64) -> Decision {
    let local = local.map(|entry| Entry { digest: digest.map(Digest), ..entry.clone() });
    let incoming = Entry { digest: Some(Digest(incoming.1)), ..incoming.0.clone() };
    let decision = decide(local.as_ref(), &incoming, RULE, &origin(id));
    part(decision, local.as_ref(), &incoming, &origin(id))
}

#[test]
fn what_is_written_gets_a_version_of_the_site_that_wrote_it() {
    let a = written(None, 1, 7, 500);
    let at_b = taken(None, None, (&a, 70), 2);
    assert_eq!((at_b.row, at_b.entry.version.site.id), (Side::Incoming, 2));
    assert!(at_b.entry.version > a.version && at_b.entry.vector.holds(a.version));
}

#[test]
fn two_ends_that_lack_each_others_columns_come_to_rest() {
    let mut ends = [written(None, 1, 7, 500), written(None, 2, 8, 400)];
    let mut quiet = 0;
    for turn in 0..10 {
        let (from, to) = (turn % 2, (turn + 1) % 2);
        // Both have come to the same common part at the first exchange.
        let common = if turn == 0 { [70, 80] } else { [70, 70] };
        let decision = taken(Some(&ends[to]), Some(common[to]), (&ends[from], common[from]), [1, 2][to]);
        quiet = if decision.changed { 0 } else { quiet + 1 };
        ends[to] = decision.entry;
    }
    assert!(quiet >= 6, "they still exchange the same row: {ends:?}");
}

#[test]
fn sites_that_differ_in_the_column_that_is_left_out_hear_of_each_other() {
    // A writes; B and C take it in, and differ in the column that A lacks. B wrote it while nobody looked.
    let a = written(None, 1, 7, 500);
    let b = written(None, 2, 8, 400);
    let at_b = taken(Some(&b), Some(80), (&a, 70), 2);
    let at_c = taken(None, None, (&a, 70), 3);
    let (b, c) = (at_b.entry, at_c.entry);
    let b = Entry { digest: Some(Digest(1)), ..b };
    let c = Entry { digest: Some(Digest(2)), ..c };
    let [one, other] = [decide(Some(&b), &c, RULE, &origin(2)), decide(Some(&c), &b, RULE, &origin(3))];
    assert_eq!([one.relation, other.relation], [Relation::Conflict; 2]);
    assert_eq!(one.entry.version, other.entry.version, "both end with one of them");
    // Without a version of their own they would pass for one.
    let one = decide(Some(&Entry { digest: Some(Digest(1)), ..a.clone() }), &a, RULE, &origin(2));
    assert_eq!(one.relation, Relation::Known);
}
