//! Two rows of one key, merged column by column.
//!
//! Whether the row stands, the higher version says. Of rows that stand, each column is joined by itself: the value of
//! the later write. So what two sites wrote to different columns is all there in the end, in any order of arrival, and a
//! column that both wrote is a conflict of its own.
//!
//! A tombstone has no columns: nobody keeps the values of a row that is gone. So where a row was deleted here and
//! changed there, one of the two is lost as a whole, and recorded; a column of a third writer that met the tombstone
//! first is lost with it, and recorded too, though a later write may bring the row back. All sites still end equal:
//! once everybody has heard of every write, the row stands everywhere or nowhere, and its columns only grow.
//!
//! Tried and found wrong:
//! - *The higher version, per column the higher clock, a tombstone with the rest.* D deletes at 6.5, X writes one column
//!   at 7, Y another at 6. D and Y, then X: Y's column was lost to D, and the tombstone has none to give. X and Y, then
//!   D: it is there. The two do not become equal unless columns that one side lost are taken back from the other, which
//!   is why columns are joined also where a write is known.
//! - *A version that is known is content that is known.* One version may stand for different merges. What is looked up
//!   are the writes that the columns are of; and two rows of one version may be in conflict.

use std::cmp::Ordering;

use super::decide::{higher, joined, preferred, two_rows};
use super::{Decision, Origin, Relation, Side};
use crate::model::{Entry, Facet, Version};

/// Merges what a feed brings for a key that has an entry here.
pub(super) fn merge(local: &Entry, incoming: &Entry, generated_keys: bool, origin: &Origin) -> Decision {
    let two = two_rows(local, incoming).filter(|_| generated_keys);
    let relation = relation(local, incoming, two);
    let (row, mut entry) = match relation {
        Relation::TwoRows { .. } => (Side::Local, local.clone()),
        // The other row was deleted, which says nothing of this one.
        Relation::Newer if two == Some(relation) => (Side::Incoming, joined(incoming, local)),
        Relation::Known if two == Some(relation) => (Side::Local, joined(local, incoming)),
        // Two rows older than capture: one of them gets a version, as old as can be.
        Relation::Conflict if unversioned(local, incoming) => {
            (Side::Local, preferred(local, incoming, Side::Local, 0, origin))
        }
        _ if local.digest.is_some() && incoming.digest.is_some() && local.columns.len() == incoming.columns.len() => {
            return join_columns(relation, local, incoming);
        }
        _ => higher(local, incoming),
    };
    if local.digest == incoming.digest {
        entry.digest = local.digest;
    }
    let changed = entry != *local;
    Decision::of_row(relation, row, entry, changed)
}

/// `two`: how they stand to each other as two rows.
fn relation(local: &Entry, incoming: &Entry, two: Option<Relation>) -> Relation {
    let knows = |one: &Entry, other: &Entry| heads(other).all(|version| one.vector.holds(version));
    if unversioned(local, incoming) && local.digest != incoming.digest {
        Relation::Conflict
    } else if knows(local, incoming) {
        Relation::Known
    } else if knows(incoming, local) {
        Relation::Newer
    } else if local.digest == incoming.digest {
        Relation::Equal
    } else if let Some(two) = two {
        two
    } else if clashes(local, incoming) {
        Relation::Conflict
    } else {
        Relation::Merged
    }
}

fn unversioned(local: &Entry, incoming: &Entry) -> bool {
    local.version.is_base() && incoming.version.is_base()
}

/// The writes that a content is of.
fn heads(entry: &Entry) -> impl Iterator<Item = Version> {
    // Without columns the row is one.
    let whole = entry.columns.is_empty().then_some(entry.version);
    entry.columns.iter().map(|facet| facet.version).chain(whole)
}

/// Whether both sides wrote a column, neither knowing of the other, and not the same to it; or one deleted what the
/// other wrote.
fn clashes(local: &Entry, incoming: &Entry) -> bool {
    let both_stand = local.digest.is_some() && incoming.digest.is_some();
    let clash = |(ours, theirs): (&Facet, &Facet)| {
        let knew = local.vector.holds(theirs.version) || incoming.vector.holds(ours.version);
        !knew && ours.digest != theirs.digest
    };
    !both_stand
        || local.columns.len() != incoming.columns.len()
        || local.columns.iter().zip(&incoming.columns).any(clash)
}

/// Each column with the facet and the value of its later write. Where nobody wrote it, and yet the two differ, it goes with
/// the row that knows of the other, else with the later: so it went when the two rows first met.
fn join_columns(relation: Relation, local: &Entry, incoming: &Entry) -> Decision {
    // Whose row it is that nobody has written is no news.
    let (row, mut entry) =
        if unversioned(local, incoming) { (Side::Local, joined(local, incoming)) } else { higher(local, incoming) };
    let unwritten = match relation {
        Relation::Known => Side::Local,
        Relation::Newer => Side::Incoming,
        _ => row,
    };
    let both = local.columns.iter().zip(&incoming.columns);
    let side = |(ours, theirs): (&Facet, &Facet)| match theirs.version.cmp(&ours.version) {
        Ordering::Greater => Side::Incoming,
        Ordering::Equal if theirs.digest != ours.digest => unwritten,
        _ => Side::Local,
    };
    let facet = |(ours, theirs)| if side((ours, theirs)) == Side::Incoming { *theirs } else { *ours };
    entry.columns = both.clone().map(facet).collect();
    let differ = both.clone().filter(|(ours, theirs)| ours.digest != theirs.digest);
    let sides: Vec<Side> = differ.map(side).collect();
    let all = |one: Side| sides.iter().all(|side| *side == one);
    let (row, columns) = if all(Side::Local) {
        (Side::Local, None)
    } else if all(Side::Incoming) {
        (Side::Incoming, None)
    } else {
        (row, Some(both.map(side).collect()))
    };
    entry.digest = match row {
        Side::Local => local.digest,
        Side::Incoming => incoming.digest,
    };
    let changed = entry != *local || columns.is_some();
    Decision { relation, row, columns, entry, changed }
}
