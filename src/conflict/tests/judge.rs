//! The rules under test, each answer kept: the same few entries meet very often.

use std::cell::RefCell;
use std::collections::HashMap;

use super::digest::Map;
use super::lane::{Row, SITES, Settling, WALL, digest, origin};
use super::rules::Rules;
use crate::conflict::{Decision, Folded, Policy, Relation, Rule, Side, Written};
use crate::model::{Digest, Entry, Facet, Version};

/// An entry by its number.
pub(super) type Number = u32;

/// What came of two entries that met.
#[derive(Clone, Copy)]
pub(super) struct Met {
    pub(super) is_conflict: bool,
    pub(super) row: Row,
    pub(super) entry: Number,
    pub(super) changed: bool,
    /// Whether the same once more changes nothing.
    pub(super) once: bool,
}

/// Local and incoming entry, policy, site.
type Meeting = (Option<Number>, Number, u8, usize);
/// Previous entry, row, whether it was born, site.
type Fold = (Option<Number>, Row, bool, usize);

pub(super) struct Judge<'a> {
    rules: &'a dyn Rules,
    pub(super) settling: Settling,
    entries: RefCell<(Vec<Entry>, HashMap<Entry, Number>)>,
    met: RefCell<Map<Meeting, Met>>,
    folded: RefCell<Map<Fold, (Option<Number>, bool)>>,
    algebra: RefCell<Map<[Option<Number>; SITES], Option<&'static str>>>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(rules: &'a dyn Rules, settling: Settling) -> Self {
        let (entries, met) = (RefCell::default(), RefCell::default());
        Self { rules, settling, entries, met, folded: RefCell::default(), algebra: RefCell::default() }
    }

    pub(super) fn are_sound(&self) -> bool {
        self.rules.are_sound()
    }

    fn merges(&self) -> bool {
        self.settling == Settling::Columns
    }

    fn number(&self, entry: &Entry) -> Number {
        let (all, numbers) = &mut *self.entries.borrow_mut();
        let next = Number::try_from(all.len()).expect("few entries");
        if let Some(number) = numbers.get(entry) {
            return *number;
        }
        all.push(entry.clone());
        numbers.insert(entry.clone(), next);
        next
    }

    pub(super) fn entry(&self, number: Number) -> Entry {
        self.entries.borrow().0[usize::try_from(number).expect("a place")].clone()
    }

    /// The entry of a row that nobody has written since capture began. Where columns are merged it has its facets.
    pub(super) fn base(&self, row: Row) -> Option<Number> {
        let facet = |digest| Facet { version: Version::BASE, digest };
        let columns = self.columns(row).into_iter().map(facet).collect();
        digest(row).map(|whole| self.number(&Entry { columns, ..Entry::base(whole) }))
    }

    /// The digests of a row's columns, where they are merged; each tells the value.
    fn columns(&self, row: Row) -> Vec<Digest> {
        let digests = |(a, b): (u8, u8)| vec![Digest(u128::from(a) << 8), Digest(b.into())];
        row.filter(|_| self.merges()).map_or_else(Vec::new, digests)
    }

    /// The entry after a fold, and whether the key gets a new `seq`.
    pub(super) fn fold(&self, previous: Option<Number>, row: Row, born: bool, site: usize) -> (Option<Number>, bool) {
        let key = (previous, row, born, site);
        if let Some(known) = self.folded.borrow().get(&key) {
            return *known;
        }
        let before = previous.map(|number| self.entry(number));
        let columns = self.columns(row);
        let written = Written { wall: WALL[site].into(), born, digest: digest(row), columns: &columns };
        let folded = self.rules.fold(before.as_ref(), &written, &origin(site));
        let announced = self.rules.announces(&folded);
        let after = match folded {
            Folded::Same => previous,
            Folded::New(entry) => Some(self.number(&entry)),
        };
        self.folded.borrow_mut().insert(key, (after, announced));
        (after, announced)
    }

    /// What a site makes of an entry that comes.
    pub(super) fn meet(&self, local: Option<Number>, incoming: Number, policy: Policy, site: usize) -> Met {
        let code = match policy {
            Policy::LastWriteWins => 0,
            Policy::MergeColumns => 1,
            Policy::Prefer(Side::Local) => 2,
            Policy::Prefer(Side::Incoming) => 3,
            Policy::KeepExisting | Policy::Manual => unreachable!("no search is about them"),
        };
        let key = (local, incoming, code, site);
        if let Some(known) = self.met.borrow().get(&key) {
            return *known;
        }
        let (ours, theirs) = (local.map(|number| self.entry(number)), self.entry(incoming));
        let (decision, row) = self.decide(ours.as_ref(), &theirs, policy, site);
        let (again, _) = self.decide(Some(&decision.entry), &theirs, policy, site);
        let met = Met {
            is_conflict: decision.relation == Relation::Conflict,
            row,
            entry: self.number(&decision.entry),
            changed: decision.changed,
            once: again.entry == decision.entry && again.relation != Relation::Conflict && again.columns.is_none(),
        };
        self.met.borrow_mut().insert(key, met);
        met
    }

    /// With the row that a decision leaves, and its digest.
    fn decide(&self, local: Option<&Entry>, incoming: &Entry, policy: Policy, site: usize) -> (Decision, Row) {
        let rule = Rule { policy, generated_keys: false };
        let mut decision = self.rules.decide(local, incoming, rule, &origin(site));
        let (here, there) = (local.and_then(|entry| row_of(entry.digest)), row_of(incoming.digest));
        let row = match (&decision.columns, here, there) {
            (Some(sides), Some(here), Some(there)) => {
                let of = |at: usize, here: u8, there: u8| if sides[at] == Side::Incoming { there } else { here };
                Some((of(0, here.0, there.0), of(1, here.1, there.1)))
            }
            _ if decision.row == Side::Incoming => there,
            _ => here,
        };
        decision.entry.digest = digest(row);
        (decision, row)
    }

    /// The entries of the sites, met directly: neither the order of two nor the grouping of three makes a difference.
    pub(super) fn check_algebra(&self, entries: [Option<Number>; SITES]) -> Result<(), String> {
        if let Some(known) = self.algebra.borrow().get(&entries) {
            return known.map_or(Ok(()), |fault| Err(fault.to_owned()));
        }
        let fault = self.algebra_fault(&entries.into_iter().flatten().map(|n| self.entry(n)).collect::<Vec<_>>());
        self.algebra.borrow_mut().insert(entries, fault);
        fault.map_or(Ok(()), |fault| Err(fault.to_owned()))
    }

    fn algebra_fault(&self, entries: &[Entry]) -> Option<&'static str> {
        let policy = if self.merges() { Policy::MergeColumns } else { Policy::LastWriteWins };
        let meet = |a: &Entry, b: &Entry| self.decide(Some(a), b, policy, 0).0;
        for (at, a) in entries.iter().enumerate() {
            for b in &entries[at..] {
                let (here, there) = (meet(a, b), meet(b, a));
                if here.entry != there.entry {
                    return Some("not commutative");
                }
                if (here.relation == Relation::Conflict) != (there.relation == Relation::Conflict) {
                    return Some("one side sees a conflict, the other none");
                }
            }
        }
        let [a, b, c] = entries else { return None };
        // A column that met a tombstone is lost with its row.
        if self.merges() && entries.iter().any(|entry| entry.digest.is_none()) {
            return None;
        }
        let (left, right) = (meet(&meet(a, b).entry, c), meet(a, &meet(b, c).entry));
        (left.entry != right.entry).then_some("not associative")
    }
}

fn row_of(digest: Option<Digest>) -> Row {
    let part = |part: u128| u8::try_from(part & 0xff).expect("a byte");
    digest.map(|digest| (part(digest.0 >> 8), part(digest.0)))
}
