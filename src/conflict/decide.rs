//! What a feed brings for a key meets what stands there.

use super::merge::merge;
use super::{Origin, Policy, Rule, Side};
use crate::model::{Entry, Version};

/// How an incoming entry stands to the local one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// The local content includes the incoming write.
    Known,
    /// The incoming content includes the local write, or nothing stands here.
    Newer,
    /// Neither knew of the other, and both came to the same content.
    Equal,
    /// Neither knew of the other, and no column was changed by both.
    Merged,
    /// Two sites gave one number to two rows. This one was born later, and gets another number at the site where it was
    /// born; what meets it elsewhere waits until that move arrives.
    TwoRows {
        /// The one that moves.
        moves: Side,
    },
    /// Neither knew of the other: recorded, and settled by the policy.
    Conflict,
}

/// What becomes of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// How the two stood to each other.
    pub relation: Relation,
    /// Whose row stands there afterwards: the incoming one is written, the local one stays as it is.
    pub row: Side,
    /// Where columns were merged: whose value each of them has, when they are not all that of `row`. The digest of the
    /// entry is then that of neither.
    pub columns: Option<Vec<Side>>,
    /// The entry afterwards.
    pub entry: Entry,
    /// Whether anything of the entry changed. Then it gets a new `seq` and travels on; if not, its way ends here, which
    /// ends every ring.
    pub changed: bool,
}

/// Settles what a feed brings for a key. `local` is the entry of the key, that of [`Entry::base`] for a row without
/// one, and `None` where there is neither row nor tombstone.
///
/// `origin` gives the version that a preference mints.
#[must_use]
pub fn decide(local: Option<&Entry>, incoming: &Entry, rule: Rule, origin: &Origin) -> Decision {
    let unseen = is_unseen_deletion(incoming);
    if unseen && !local.is_some_and(|local| local.is_of(incoming.version.site)) {
        // What stands here is another's row.
        return Decision::of_row(Relation::Known, Side::Local, local.unwrap_or(incoming).clone(), false);
    }
    let Some(local) = local else {
        return Decision::of_row(Relation::Newer, Side::Incoming, incoming.clone(), true);
    };
    let restamped = restamped(local, incoming);
    let incoming = restamped.as_ref().unwrap_or(incoming);
    if rule.policy == Policy::MergeColumns {
        return merge(local, incoming, rule.generated_keys, origin);
    }
    let relation = relation(local, incoming, rule.generated_keys);
    let (row, mut entry) = match relation {
        Relation::Known => (Side::Local, joined(local, incoming)),
        Relation::Newer => {
            // Stamps are read more than once, and rows that were loaded have none yet.
            let again = incoming.version.site.is_stamped() && incoming.digest == local.digest;
            (if again { Side::Local } else { Side::Incoming }, joined(incoming, local))
        }
        Relation::Equal => (Side::Local, higher(local, incoming).1),
        Relation::TwoRows { .. } => (Side::Local, local.clone()),
        Relation::Merged | Relation::Conflict => settle(local, incoming, rule.policy, origin),
    };
    if unseen && relation == Relation::Conflict && row == Side::Local && rule.policy != Policy::Manual {
        // Or it would meet that deletion again and again.
        entry.vector.add(Version { site: incoming.version.site.deletions(), ..incoming.version });
    }
    let changed = entry != *local;
    Decision::of_row(relation, row, entry, changed)
}

/// Whether this says that a row is gone from a database that keeps no books: nobody knows when it went.
fn is_unseen_deletion(incoming: &Entry) -> bool {
    incoming.version.site.is_stamped() && incoming.version.is_base() && incoming.digest.is_none()
}

/// What comes from a database that keeps no books, upon what stands here, where that is what was brought from there before:
/// whatever is otherwise there now is later, also without a later stamp (it was written twice within a second, or its clock
/// was put back). A deletion is as old as it can be. `None`: nothing speaks for that.
fn restamped(local: &Entry, incoming: &Entry) -> Option<Entry> {
    let site = incoming.version.site;
    if !site.is_stamped() || local.digest == incoming.digest {
        return None;
    }
    let last = local.vector.versions().iter().find(|version| version.site == site).map_or(Version::base(site), |v| *v);
    // A row of which only a part came has a version of this site's, one tick later.
    let untouched = local.version == last || local.version.clock.micros() == last.clock.micros() + 1;
    let version = match untouched {
        true if incoming.version > last => incoming.version,
        true => Version { clock: local.version.clock.next(), site },
        false if is_unseen_deletion(incoming) => Version { clock: last.clock.next(), site },
        false => return None,
    };
    let mut entry = Entry { version, ..incoming.clone() };
    entry.vector.add(version);
    if untouched {
        entry.vector.add(local.version);
    }
    Some(entry)
}

/// A row that stood here before capture comes back from where it was brought, and nothing is known of it here any more:
/// it went when all rows went at once, by a statement that names none. It gets its tombstone now. `None`: it is another's
/// row.
#[must_use]
pub fn emptied(incoming: &Entry, origin: &Origin) -> Option<Decision> {
    if incoming.version != Version::base(origin.site) || incoming.digest.is_none() {
        return None;
    }
    let mut entry = Entry { digest: None, columns: Vec::new(), ..incoming.clone() };
    entry.vector.add(entry.version);
    entry.version = origin.version(origin.now, incoming.version.clock);
    entry.vector.add(entry.version);
    Some(Decision::of_row(Relation::Known, Side::Local, entry, true))
}

impl Decision {
    /// One that leaves the row as one of the two sides had it.
    #[must_use]
    pub fn of_row(relation: Relation, row: Side, entry: Entry, changed: bool) -> Self {
        Self { relation, row, columns: None, entry, changed }
    }
}

/// How two entries of one key stand to each other.
#[must_use]
pub fn relation(local: &Entry, incoming: &Entry, generated_keys: bool) -> Relation {
    let unversioned = local.version.is_base() && incoming.version.is_base();
    if unversioned && local.digest != incoming.digest {
        // Two rows older than capture, brought here from two sides: neither says which is older.
        Relation::Conflict
    } else if local.vector.holds(incoming.version) {
        Relation::Known
    } else if incoming.vector.holds(local.version) {
        Relation::Newer
    } else if local.digest == incoming.digest {
        Relation::Equal
    } else if generated_keys && let Some(relation) = two_rows(local, incoming) {
        relation
    } else {
        Relation::Conflict
    }
}

/// Whether entries under one number are those of two rows, and both were born since capture began.
#[must_use]
pub fn are_two(one: &Entry, other: &Entry) -> bool {
    two_rows(one, other).is_some()
}

/// How two rows under one number stand to each other, where they are two: neither side knew that the other's was born.
/// One that was deleted has left the number to the other.
pub(super) fn two_rows(local: &Entry, incoming: &Entry) -> Option<Relation> {
    if local.vector.holds(incoming.birth) || incoming.vector.holds(local.birth) {
        return None;
    }
    Some(match (local.digest, incoming.digest) {
        (None, _) => Relation::Newer,
        (_, None) => Relation::Known,
        _ => Relation::TwoRows { moves: if local.birth > incoming.birth { Side::Local } else { Side::Incoming } },
    })
}

pub(super) fn settle(local: &Entry, incoming: &Entry, policy: Policy, origin: &Origin) -> (Side, Entry) {
    match policy {
        // Without a version there is no later one, and both ends would keep theirs: this one gets one, as old as can be.
        Policy::LastWriteWins if local.version.is_base() && incoming.version.is_base() => {
            (Side::Local, preferred(local, incoming, Side::Local, 0, origin))
        }
        Policy::LastWriteWins | Policy::MergeColumns => higher(local, incoming),
        Policy::KeepExisting => (Side::Local, joined(local, incoming)),
        Policy::Prefer(side) => (side, preferred(local, incoming, side, origin.now, origin)),
        // Not joined: whatever knew both would pass for the outcome of a decision that nobody has taken.
        Policy::Manual => (Side::Local, local.clone()),
    }
}

/// One side's row under a new version above both.
pub(super) fn preferred(local: &Entry, incoming: &Entry, side: Side, wall: i64, origin: &Origin) -> Entry {
    let (winner, loser) = match side {
        Side::Local => (local, incoming),
        Side::Incoming => (incoming, local),
    };
    let mut entry = joined(winner, loser);
    entry.vector.add(winner.version);
    entry.version = origin.version(wall, entry.latest());
    entry.vector.add(entry.version);
    entry.columns.iter_mut().for_each(|facet| facet.version = entry.version);
    entry
}

/// Whose version is higher, and the entry of both.
pub(super) fn higher(local: &Entry, incoming: &Entry) -> (Side, Entry) {
    if local.version >= incoming.version {
        (Side::Local, joined(local, incoming))
    } else {
        (Side::Incoming, joined(incoming, local))
    }
}

/// The survivor, which now includes what the other has seen.
pub(super) fn joined(survivor: &Entry, other: &Entry) -> Entry {
    let mut entry = survivor.clone();
    entry.vector.join(&other.vector);
    entry
}
