//! A change that lacks columns of the table that it comes to.

use super::{Decision, Origin, Relation, Side};
use crate::model::Entry;

/// What becomes of a key where the change has a part of the row's columns: what then stands is a row that nobody has
/// written, and so gets a new version of this site, above both. Under the incoming one two sites would hold different
/// rows, and neither would hear of the other's.
///
/// Nothing is written where that part is the same already. Nothing is minted for what is only our own row on its way
/// back, one tick later: two ends that each lack columns of the other would never come to rest.
#[must_use]
pub fn part(decision: Decision, local: Option<&Entry>, incoming: &Entry, origin: &Origin) -> Decision {
    let takes = matches!(decision.relation, Relation::Newer | Relation::Equal)
        || decision.row == Side::Incoming
        || decision.columns.is_some();
    if !takes || incoming.digest.is_none() || decision.entry.version.is_base() {
        return decision;
    }
    let same = local.filter(|local| local.digest == incoming.digest);
    let comes_back = |local: &Entry| {
        incoming.vector.holds(local.version) && incoming.version.clock.micros() == local.version.clock.micros() + 1
    };
    let mut decision = decision;
    if same.is_some() {
        decision.row = Side::Local;
    }
    if same.is_some_and(comes_back) {
        return decision;
    }
    let wall = i64::try_from(incoming.version.clock.micros()).unwrap_or(i64::MAX);
    decision.entry.version = origin.version(wall, decision.entry.latest());
    decision.entry.vector.add(decision.entry.version);
    decision.changed = true;
    decision
}
