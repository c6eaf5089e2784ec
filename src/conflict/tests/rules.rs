//! The rules under test, and broken ones: the tests must tell them apart.

use crate::conflict::{Decision, Folded, Origin, Relation, Rule, Side, Written, decide, fold};
use crate::model::{Clock, Digest, Entry, Vector, Version};

pub(super) trait Rules {
    /// A broken rule must show in what it does; what it keeps to itself is looked at in sound ones alone.
    fn are_sound(&self) -> bool {
        false
    }

    fn fold(&self, previous: Option<&Entry>, written: &Written<'_>, origin: &Origin) -> Folded {
        fold(previous, written, origin)
    }

    /// Whether a fold gives the key a new `seq`.
    fn announces(&self, _: &Folded) -> bool {
        true
    }

    fn decide(&self, local: Option<&Entry>, incoming: &Entry, rule: Rule, origin: &Origin) -> Decision {
        decide(local, incoming, rule, origin)
    }
}

pub(super) struct Sound;

impl Rules for Sound {
    fn are_sound(&self) -> bool {
        true
    }
}

/// One rule broken, the others sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// A conflict is found where neither vector includes the other.
    VectorAgainstVector,
    /// The higher version is newer, the lower one known.
    VersionsAlone,
    /// As above, but the same site's writes only: what a third site passed on is not looked up.
    OwnVersionAlone,
    NoJoinWhenKnown,
    NoJoinWhenTaken,
    NoJoinWhenEqual,
    NoJoinAfterConflict,
    /// Of two equal clocks the local write wins.
    TiesStayLocal,
    /// The lower version survives.
    FirstWriteWins,
    /// Equal contents of two sites are a conflict.
    EqualContentsConflict,
    /// A write that changed nothing gets a version.
    FoldIgnoresDigest,
    /// A write gets its wall time, even if it is below the version replaced.
    ClockNotRaised,
    /// A new version has seen nothing but itself.
    FoldForgetsVector,
    /// A new version keeps the vector of the one before, without itself.
    FoldLeavesItselfOut,
    /// An entry that did not change travels on.
    AlwaysAnnounced,
    /// An entry travels on only when its row changed.
    JoinNotAnnounced,
    /// A fold that changed nothing gives no new `seq`.
    SameNotAnnounced,
    /// A tombstone is known to whoever has the row.
    DeletesIgnored,
    /// A tombstone beats a row, whatever was written later.
    DeletesWin,
    /// A row that is inserted again has not seen its tombstone.
    TombstoneForgotten,
    /// A preferred row keeps its version.
    PreferenceMintsNothing,
    /// The higher version's row stands as a whole.
    RowsNotColumns,
    /// Of a row whose version is known nothing is looked at.
    ColumnsOfTheKnownLeftOut,
    /// The columns of whichever is newer stand.
    ColumnsOfTheNewer,
    /// An update counts as a write also to the columns that it left as they were.
    AllColumnsWritten,
    /// A new facet has seen nothing but itself.
    ColumnsForgetVector,
}

/// Those that show where columns are merged.
pub(super) const BROKEN_MERGES: [Broken; 9] = [
    Broken::RowsNotColumns,
    Broken::ColumnsOfTheKnownLeftOut,
    Broken::ColumnsOfTheNewer,
    Broken::AllColumnsWritten,
    Broken::ColumnsForgetVector,
    Broken::NoJoinWhenKnown,
    Broken::NoJoinAfterConflict,
    Broken::JoinNotAnnounced,
    Broken::DeletesIgnored,
];

/// Those that show where the last write wins.
pub(super) const BROKEN: [Broken; 20] = [
    Broken::VectorAgainstVector,
    Broken::VersionsAlone,
    Broken::OwnVersionAlone,
    Broken::NoJoinWhenKnown,
    Broken::NoJoinWhenTaken,
    Broken::NoJoinWhenEqual,
    Broken::NoJoinAfterConflict,
    Broken::TiesStayLocal,
    Broken::FirstWriteWins,
    Broken::EqualContentsConflict,
    Broken::FoldIgnoresDigest,
    Broken::ClockNotRaised,
    Broken::FoldForgetsVector,
    Broken::FoldLeavesItselfOut,
    Broken::AlwaysAnnounced,
    Broken::JoinNotAnnounced,
    Broken::SameNotAnnounced,
    Broken::DeletesIgnored,
    Broken::DeletesWin,
    Broken::TombstoneForgotten,
];

impl Rules for Broken {
    fn fold(&self, previous: Option<&Entry>, written: &Written<'_>, origin: &Origin) -> Folded {
        match (self, fold(previous, written, origin)) {
            (Self::FoldIgnoresDigest, Folded::Same) => {
                let unlike = previous.map(|entry| Entry { digest: other_digest(entry), ..entry.clone() });
                match fold(unlike.as_ref(), written, origin) {
                    Folded::New(entry) => Folded::New(entry),
                    Folded::Same => unreachable!("the digests differ"),
                }
            }
            (Self::ClockNotRaised, Folded::New(mut entry)) => {
                let clock = Clock::of_write(written.wall, origin.now, Clock::ZERO);
                entry.version = Version { clock, ..entry.version };
                entry.vector = previous.map_or_else(Vector::default, |entry| entry.vector.clone());
                entry.vector.add(entry.version);
                Folded::New(entry)
            }
            (Self::AllColumnsWritten, Folded::New(mut entry)) => {
                entry.columns.iter_mut().for_each(|facet| facet.version = entry.version);
                Folded::New(entry)
            }
            (Self::FoldForgetsVector | Self::ColumnsForgetVector, Folded::New(entry)) => Folded::New(alone(entry)),
            (Self::TombstoneForgotten, Folded::New(entry)) if previous.is_some_and(|p| p.digest.is_none()) => {
                Folded::New(alone(entry))
            }
            (Self::FoldLeavesItselfOut, Folded::New(mut entry)) => {
                entry.vector = previous.map_or_else(Vector::default, |entry| entry.vector.clone());
                Folded::New(entry)
            }
            (_, folded) => folded,
        }
    }

    fn announces(&self, folded: &Folded) -> bool {
        *self != Self::SameNotAnnounced || *folded != Folded::Same
    }

    fn decide(&self, local: Option<&Entry>, incoming: &Entry, rule: Rule, origin: &Origin) -> Decision {
        let mut decision = decide(local, incoming, rule, origin);
        let Some(local) = local else { return decision };
        let survivor = if decision.row == Side::Incoming { incoming } else { local };
        let unjoined = match self {
            Self::NoJoinWhenKnown => decision.relation == Relation::Known,
            Self::NoJoinWhenTaken => decision.relation == Relation::Newer,
            Self::NoJoinWhenEqual => decision.relation == Relation::Equal,
            Self::NoJoinAfterConflict => decision.relation == Relation::Conflict,
            _ => false,
        };
        if unjoined {
            let higher = local.version.max(incoming.version);
            let entry =
                if decision.relation == Relation::Equal && higher == incoming.version { incoming } else { survivor };
            return decided(decision.relation, decision.row, entry.clone(), local);
        }
        let higher = if local.version >= incoming.version { Side::Local } else { Side::Incoming };
        let columns_of = |side: Side| {
            let whose = if side == Side::Incoming { incoming } else { local };
            let entry = Entry { columns: whose.columns.clone(), digest: whose.digest, ..decision.entry.clone() };
            decided(decision.relation, side, entry, local)
        };
        match self {
            Self::RowsNotColumns if decision.relation == Relation::Merged => columns_of(higher),
            Self::ColumnsOfTheKnownLeftOut if decision.relation == Relation::Known => columns_of(Side::Local),
            Self::ColumnsOfTheNewer if decision.relation == Relation::Newer => columns_of(Side::Incoming),
            Self::VectorAgainstVector => {
                let (known, newer) = (includes(local, incoming), includes(incoming, local));
                let relation = match (known, newer) {
                    (true, _) => Relation::Known,
                    (_, true) => Relation::Newer,
                    _ if local.digest == incoming.digest => Relation::Equal,
                    _ => Relation::Conflict,
                };
                let row = if relation == Relation::Equal { Side::Local } else { higher };
                decided(relation, row, decision.entry, local)
            }
            Self::VersionsAlone => match higher {
                Side::Local => decided(Relation::Known, Side::Local, decision.entry, local),
                Side::Incoming => decided(Relation::Newer, Side::Incoming, decision.entry, local),
            },
            Self::OwnVersionAlone if decision.relation == Relation::Newer => {
                let direct = local.version.site == incoming.version.site || local.version.is_base();
                let relation = if direct { Relation::Newer } else { Relation::Conflict };
                Decision { relation, ..decision }
            }
            Self::TiesStayLocal if decision.relation == Relation::Conflict => {
                if local.version.clock == incoming.version.clock {
                    let entry = Entry { vector: decision.entry.vector, ..local.clone() };
                    return decided(Relation::Conflict, Side::Local, entry, local);
                }
                decision
            }
            Self::FirstWriteWins if decision.relation == Relation::Conflict => {
                let (row, loser) = match higher {
                    Side::Local => (Side::Incoming, incoming),
                    Side::Incoming => (Side::Local, local),
                };
                let entry = Entry { vector: decision.entry.vector, ..loser.clone() };
                decided(Relation::Conflict, row, entry, local)
            }
            Self::EqualContentsConflict if decision.relation == Relation::Equal => {
                decided(Relation::Conflict, higher, decision.entry, local)
            }
            Self::PreferenceMintsNothing if decision.relation == Relation::Conflict => {
                let mut entry = survivor.clone();
                entry.vector.join(&local.vector);
                entry.vector.join(&incoming.vector);
                decided(Relation::Conflict, decision.row, entry, local)
            }
            Self::AlwaysAnnounced => Decision { changed: true, ..decision },
            Self::JoinNotAnnounced => {
                decision.changed &= local.version != decision.entry.version;
                decision
            }
            Self::DeletesIgnored if incoming.digest.is_none() && local.digest.is_some() => {
                decided(Relation::Known, Side::Local, local.clone(), local)
            }
            Self::DeletesWin if decision.relation == Relation::Conflict => {
                let Some((row, dead)) = [(Side::Local, local), (Side::Incoming, incoming)]
                    .into_iter()
                    .find(|(_, entry)| entry.digest.is_none())
                else {
                    return decision;
                };
                let entry = Entry { vector: decision.entry.vector, ..dead.clone() };
                decided(Relation::Conflict, row, entry, local)
            }
            _ => decision,
        }
    }
}

fn decided(relation: Relation, row: Side, entry: Entry, local: &Entry) -> Decision {
    let changed = entry != *local;
    Decision { relation, row, columns: None, entry, changed }
}

fn includes(one: &Entry, other: &Entry) -> bool {
    other.vector.versions().iter().all(|version| one.vector.holds(*version))
}

fn alone(mut entry: Entry) -> Entry {
    entry.vector = Vector::default();
    entry.vector.add(entry.version);
    entry
}

fn other_digest(entry: &Entry) -> Option<Digest> {
    entry.digest.map(|digest| Digest(!digest.0))
}
