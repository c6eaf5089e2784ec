//! The first meeting of two databases that both hold rows.

use super::{Decision, Origin, Relation, Side, decide};
use crate::model::Entry;

/// What stands under a key on one side when a pair first meets.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// Its entry; that of [`Entry::base`] for a row without one.
    pub entry: &'a Entry,
    /// What the table's timestamp column says, in microseconds since 1970.
    pub stamp: Option<i64>,
}

/// Who survives where two rows differ and no timestamp column tells the later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstRun {
    /// This side.
    Prefer(Side),
    /// Neither: both stay until a person decides.
    Manual,
}

/// Settles one key of a first run.
///
/// A row without a version is not older than any here, as [`decide`](decide()) takes it: it stood there by itself. So
/// rows that differ have not seen each other, unless a real version says so (both sides may have met elsewhere), or it
/// did not stand there by itself: a first run that was interrupted brought it, or one that went the other way, and
/// whoever wrote it since where it comes from knows it. The outcome is a new version above both, as old as the row that wins, so that it does not beat what a third site wrote
/// since. Where only the row that wins has a version it keeps it, since nothing can overturn it: the other end, which
/// settles the same, would give a second version to one content, which whoever writes at this end does not know. Under `manual` a row without a version gets one, lest the other side's next write pass for having seen it;
/// the key stays out of the pair's feed while the conflict is open.
#[must_use]
pub fn first_run(local: Option<Standing<'_>>, incoming: Standing<'_>, rule: FirstRun, origin: &Origin) -> Decision {
    let Some(local) = local else {
        let entry = incoming.entry.clone();
        return Decision::of_row(Relation::Newer, Side::Incoming, entry, true);
    };
    let (ours, theirs) = (local.entry, incoming.entry);
    let (relation, row, entry) = if knows(ours, theirs) {
        (Relation::Known, Side::Local, decide::joined(ours, theirs))
    } else if knows(theirs, ours) {
        (Relation::Newer, Side::Incoming, decide::joined(theirs, ours))
    } else if ours.digest == theirs.digest {
        let mut entry =
            if theirs.version.is_base() { decide::joined(ours, theirs) } else { decide::higher(ours, theirs).1 };
        if theirs.version.site.is_stamped() {
            // Nobody else will tell when that row has gone.
            entry.vector.add(theirs.version);
        }
        (Relation::Equal, Side::Local, entry)
    } else {
        let (row, entry) = match later(&local, &incoming).map_or(rule, FirstRun::Prefer) {
            FirstRun::Prefer(side) => {
                let (winner, loser, stamp) = match side {
                    Side::Local => (ours, theirs, local.stamp),
                    Side::Incoming => (theirs, ours, incoming.stamp),
                };
                let stands = loser.version.is_base() && !winner.version.is_base();
                let entry = if stands {
                    told_apart(decide::joined(winner, loser), loser)
                } else {
                    decide::preferred(ours, theirs, side, stamp.unwrap_or(0), origin)
                };
                (side, entry)
            }
            FirstRun::Manual => (Side::Local, versioned(&local, origin)),
        };
        (Relation::Conflict, row, entry)
    };
    let changed = entry != *ours;
    Decision::of_row(relation, row, entry, changed)
}

fn knows(one: &Entry, other: &Entry) -> bool {
    if other.version.is_base() {
        !one.version.is_base() && one.vector.holds_row_of(other.version.site)
    } else {
        one.vector.holds(other.version)
    }
}

fn later(local: &Standing<'_>, incoming: &Standing<'_>) -> Option<Side> {
    let (ours, theirs) = (local.stamp?, incoming.stamp?);
    (ours != theirs).then_some(if ours > theirs { Side::Local } else { Side::Incoming })
}

fn versioned(standing: &Standing<'_>, origin: &Origin) -> Entry {
    let mut entry = standing.entry.clone();
    if entry.version.is_base() {
        entry.vector.add(entry.version);
        entry.version = origin.version(standing.stamp.unwrap_or(0), entry.latest());
        entry.vector.add(entry.version);
        entry.columns.iter_mut().for_each(|facet| facet.version = entry.version);
    }
    entry
}

/// Also columns that nobody wrote are the winner's, where the loser had them otherwise.
fn told_apart(mut winner: Entry, loser: &Entry) -> Entry {
    let both = winner.columns.iter_mut().zip(&loser.columns);
    both.filter(|(ours, theirs)| ours.digest != theirs.digest && ours.version.is_base())
        .for_each(|(facet, _)| facet.version = winner.version);
    winner
}
