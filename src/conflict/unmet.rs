//! Columns that two ends have both of late: neither has what the other's rows hold there.

use super::decide::settle;
use super::{Decision, Origin, Policy, Relation, Side};
use crate::model::{Entry, Site, Version};

/// What the two rows hold in a column. NULL and what a row gets by itself is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmet {
    /// Both ends had the column before, or both rows hold the same there, or the one here nothing.
    Nothing,
    /// The one here alone holds something.
    Ours,
    /// Each holds something else.
    Both,
}

/// What becomes of a key where `columns` of the row, in the order of its content, were not sent before. That an incoming
/// row includes the write that stands here says nothing of these: `sender` took that in without them. So they are not
/// overwritten by nothing, which makes a row that nobody has written, under a version of this site; and where both ends
/// hold something, neither knew of the other's, which is a conflict.
///
/// What `sender` alone has written it knows whole, and so what nobody has written under capture.
#[must_use]
pub fn unmet(
    decision: Decision,
    (local, incoming): (Option<&Entry>, &Entry),
    columns: &[Unmet],
    (policy, sender, origin): (Policy, Site, &Origin),
) -> Decision {
    let Some(local) = local.filter(|local| local.digest.is_some() && incoming.digest.is_some()) else {
        return decision;
    };
    let mut decision = decision;
    let of_others = |version: Version| !version.is_base() && version.site.id != sender.id;
    if decision.relation != Relation::Conflict && !incoming.columns.is_empty() {
        // Each column goes by its own write: nothing is overwritten by nothing.
        let clash = local.columns.iter().zip(&incoming.columns).zip(columns).any(|((ours, theirs), column)| {
            *column == Unmet::Both && theirs.version > ours.version && of_others(ours.version)
        });
        if clash {
            decision.relation = Relation::Conflict;
        }
        return decision;
    }
    // Its version may be that of a row of `sender`'s that is this one on its way back.
    let others = local.vector.versions().iter().any(|version| of_others(*version));
    if decision.relation != Relation::Newer || decision.row != Side::Incoming || !others {
        return decision;
    }
    if columns.contains(&Unmet::Both) {
        let (row, entry) = settle(local, incoming, policy, origin);
        let changed = entry != *local;
        return Decision::of_row(Relation::Conflict, row, entry, changed);
    }
    if columns.contains(&Unmet::Ours) {
        let side = |column: &Unmet| if *column == Unmet::Ours { Side::Local } else { Side::Incoming };
        decision.columns = Some(columns.iter().map(side).collect());
        let wall = i64::try_from(incoming.version.clock.micros()).unwrap_or(i64::MAX);
        decision.entry.version = origin.version(wall, decision.entry.latest());
        decision.entry.vector.add(decision.entry.version);
        decision.changed = true;
    }
    decision
}
