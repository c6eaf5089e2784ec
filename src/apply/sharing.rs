//! What a condition at the sending end means here: of the rows that stand here only those are concerned that came
//! through it, or that the sending end knows to be its own.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::conflict::{Decision, Relation, Side};
use crate::engine::{Lookup, Result, Target, WriteMode};
use crate::model::{Batch, Entry};
use crate::site::{Book, Entries, KeyId, Known, Share, Site, Through};

/// What came for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// A row that meets the condition.
    Row,
    /// The row stands at the sending end, and does not meet the condition.
    Left,
    /// The row was deleted there.
    Deleted,
}

/// The shared rows among the keys at hand, and what becomes of them.
pub(super) struct Sharing {
    through: Through,
    shares: HashMap<KeyId, Share>,
    new: Vec<(KeyId, Share)>,
    parted: Vec<KeyId>,
    leaves: HashSet<KeyId>,
}

impl Sharing {
    pub(super) async fn read(
        site: &Site,
        target: &mut dyn Lookup,
        through: Through,
        ids: impl Iterator<Item = KeyId>,
    ) -> Result<Self> {
        let shares = site.shares(target, through, ids).await?;
        Ok(Self { through, shares, new: Vec::new(), parted: Vec::new(), leaves: HashSet::new() })
    }

    /// As `decide` says, where it concerns the row here at all. A row that has left leaves here too, without a
    /// tombstone, if it came from there and nothing was written here since.
    pub(super) fn decide(
        &mut self,
        (id, what): (KeyId, What),
        local: Option<&Entry>,
        incoming: &Entry,
        decide: impl Fn(&Entry) -> Decision,
    ) -> Decision {
        let known = |l: &Entry| !l.version.is_base() && incoming.vector.holds(l.version);
        let share = self.shares.get(&id).copied();
        let stands = local.filter(|l| l.digest.is_some());
        let untouched = || {
            let entry = local.unwrap_or(incoming).clone();
            Decision { relation: Relation::Known, row: Side::Local, columns: None, entry, changed: false }
        };
        if what == What::Row {
            let mut decision = decide(incoming);
            if share.is_none() {
                self.new.push((id, if stands.is_some() { Share::Met } else { Share::Brought }));
                // What this end has is later, and was not told before, since nobody knew that it was shared.
                let later = local.is_some_and(|l| l.version != incoming.version);
                decision.changed |= decision.relation == Relation::Known && later;
            }
            return decision;
        }
        if share.is_none() && !local.is_some_and(known) {
            return untouched();
        }
        if what == What::Deleted {
            let decision = decide(incoming);
            if decision.row == Side::Incoming || stands.is_none() {
                self.parted.push(id);
            }
            return decision;
        }
        let Some(row) = stands else {
            self.parted.push(id);
            return untouched();
        };
        let gone = Entry { digest: None, columns: Vec::new(), ..incoming.clone() };
        let mut decision = if incoming.vector.holds(row.version) {
            Decision { relation: Relation::Newer, row: Side::Incoming, columns: None, entry: gone, changed: false }
        } else {
            decide(&gone)
        };
        if decision.row == Side::Local {
            return decision;
        }
        self.parted.push(id);
        if share != Some(Share::Brought) && row.version.is_base() {
            return untouched();
        }
        self.leaves.insert(id);
        decision.changed = false;
        decision
    }

    /// The row stays after all.
    pub(super) fn keep(&mut self, id: KeyId) {
        self.leaves.remove(&id);
        self.parted.retain(|parted| *parted != id);
    }

    /// Writes what became of them.
    pub(super) async fn write(
        mut self,
        (site, book): (&Site, &Arc<Book>),
        target: &mut dyn Target,
        known: &HashMap<KeyId, Known>,
        refused: impl Fn(KeyId) -> bool,
        (keys, ids): (&Batch, &[(KeyId, usize)]),
    ) -> Result<()> {
        self.new.retain(|(id, _)| !refused(*id));
        let shared: Vec<KeyId> = self.parted.into_iter().filter(|id| self.shares.contains_key(id)).collect();
        site.part_with(target, self.through, &shared).await?;
        site.share(target, self.through, &self.new).await?;
        let mut entries = Entries::new(book);
        for (id, at) in ids.iter().filter(|(id, _)| self.leaves.contains(id)) {
            let Some(known) = known.get(id) else { continue };
            let entry = Entry { digest: None, columns: Vec::new(), ..known.entry.clone() };
            entries.push(keys, *at, &Known { entry, seq: Known::PARTED });
        }
        target.write(WriteMode::Update, &entries.batch()).await?;
        target.flush().await?;
        Ok(())
    }
}
