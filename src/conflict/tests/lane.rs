//! One key at three sites, and the feeds between them, beside an oracle that knows the whole history.
//!
//! A feed delivers what the sending site holds when it is asked: the entry and the row, never a log of operations.
//! Beside each row stands the truth about it: the *set* of writes that its content includes. Neither vectors nor
//! versions are asked for it.

use std::collections::BTreeMap;

use super::rules::Rules;
use crate::conflict::{Folded, Origin, Policy, Relation, Rule, Side, Written};
use crate::model::{Clock, Digest, Entry, Site};

pub(super) const SITES: usize = 3;
/// What the clocks of the sites show, for ever. Versions rise by one where the wall clock does not: the first two sites
/// often give the same clock, the third is ahead of both.
const WALL: [u8; SITES] = [0, 0, 7];
/// Writes of one site that can be told apart.
const WRITES: usize = 6;
const BASE: u8 = 18;
const _: () = assert!(BASE as usize == SITES * WRITES);

/// Two columns, or no row.
pub(super) type Row = Option<(u8, u8)>;
/// A set of writes, a bit for each.
type Writes = u32;

/// What may happen to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// An application leaves this row, or none. `folded`: what was written before was folded first.
    Write {
        site: usize,
        row: Row,
        folded: bool,
    },
    Arrive(Arrival),
}

/// What may arrive next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Arrival {
    /// What waits at `from` comes to `to`. `folded`: the site folded its log first; else a key that was written since
    /// is left out of the batch, and the cursor passes it. `kept`: the batch can come again.
    Batch { from: usize, to: usize, folded: bool, kept: bool },
    /// The batch that was kept comes once more, late.
    Again,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Truth {
    /// The writes that this content includes or has beaten.
    seen: Writes,
    /// The write that gave the content, or [`BASE`].
    current: u8,
}

impl Truth {
    fn has_seen(self, write: u8) -> bool {
        write == BASE || self.seen & (1 << write) != 0
    }
}

/// What was written since the last fold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Log {
    inserted: bool,
    deleted: bool,
}

/// The key at one site.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Spot {
    row: Row,
    entry: Option<Entry>,
    log: Option<Log>,
    /// The row when it was last folded or applied.
    before: Row,
    truth: Truth,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Message {
    from: usize,
    to: usize,
    row: Row,
    entry: Entry,
    truth: Truth,
}

/// What the oracle remembers of all writes, wherever they were made.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct History {
    made: [u8; SITES],
    /// Its own clock of each write.
    clock: [u8; SITES * WRITES],
    /// What each write had seen.
    seen: [Writes; SITES * WRITES],
    /// Writes that somebody replaced having seen them, that lost a recorded conflict, or whose content survived.
    accounted: Writes,
}

impl History {
    /// A new write, by someone who has seen these, above that clock.
    fn make(&mut self, site: usize, seen: Writes, above: u8) -> Truth {
        assert!(usize::from(self.made[site]) < WRITES, "too many writes to tell them apart");
        let write = u8::try_from(site * WRITES).expect("small") + self.made[site];
        let at = usize::from(write);
        self.made[site] += 1;
        self.clock[at] = WALL[site].max(above + 1);
        self.seen[at] = seen;
        self.accounted |= seen;
        Truth { seen: seen | 1 << write, current: write }
    }

    /// `last-write-wins`.
    fn rank(&self, write: u8) -> (u8, Site) {
        let at = usize::from(write);
        if write == BASE { (0, Site::NONE) } else { (self.clock[at], site(at / WRITES)) }
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Lane {
    spots: [Spot; SITES],
    /// By sender and receiver: whether the `seq` is above the receiver's cursor.
    waiting: [[bool; SITES]; SITES],
    history: History,
    /// A batch of the past that can arrive again.
    kept: Option<Message>,
    /// Whether one was kept.
    has_kept: bool,
    /// The site that wins every conflict that it meets; `None`: the last write does.
    preferred: Option<usize>,
}

/// The first site's id is the highest: the order of ids is not that of names.
fn site(at: usize) -> Site {
    Site { id: u64::try_from(9 - at).expect("small"), epoch: 1 }
}

fn origin(at: usize) -> Origin {
    Origin { site: site(at), now: WALL[at].into(), floor: Clock::ZERO }
}

fn digest(row: Row) -> Option<Digest> {
    row.map(|(a, b)| Digest(u128::from(a) << 8 | u128::from(b)))
}

fn require(holds: bool, fault: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(fault.to_owned()) }
}

impl Lane {
    /// A row that stands at all sites since before capture, or none.
    pub(super) fn new(row: Row, preferred: Option<usize>) -> Self {
        let truth = Truth { seen: 0, current: BASE };
        let spot = Spot { row, entry: None, log: None, before: row, truth };
        Self {
            spots: std::array::from_fn(|_| spot.clone()),
            waiting: Default::default(),
            history: History::default(),
            kept: None,
            has_kept: false,
            preferred,
        }
    }

    /// A row that was inserted at the first site under capture, and that all sites have.
    pub(super) fn born(preferred: Option<usize>, rules: &dyn Rules) -> Self {
        let mut lane = Self::new(None, preferred);
        lane.write(0, Some((0, 0)));
        lane.fold(0, rules);
        lane.spots = std::array::from_fn(|_| lane.spots[0].clone());
        lane.waiting = Default::default();
        lane
    }

    pub(super) fn row(&self, site: usize) -> Row {
        self.spots[site].row
    }

    pub(super) fn is_logged(&self, site: usize) -> bool {
        self.spots[site].log.is_some()
    }

    /// Whether everything has arrived between these pairs of sites.
    pub(super) fn is_quiet(&self, pairs: &[(usize, usize)]) -> bool {
        let folded = self.spots.iter().all(|spot| spot.log.is_none());
        folded && pairs.iter().all(|&(from, to)| !self.waiting[from][to])
    }

    /// What can arrive between these pairs of sites.
    pub(super) fn arrivals(&self, pairs: &[(usize, usize)], keep: bool) -> Vec<Arrival> {
        let mut all = Vec::new();
        for &(from, to) in pairs {
            let (waits, logged) = (self.waiting[from][to], self.is_logged(from));
            if waits || logged {
                all.push(Arrival::Batch { from, to, folded: true, kept: false });
                if keep && !self.has_kept {
                    all.push(Arrival::Batch { from, to, folded: true, kept: true });
                }
            }
            if waits && logged {
                all.push(Arrival::Batch { from, to, folded: false, kept: false });
            }
        }
        if self.kept.is_some() {
            all.push(Arrival::Again);
        }
        all
    }

    pub(super) fn take(&mut self, step: Step, rules: &dyn Rules) -> Result<(), String> {
        match step {
            Step::Arrive(arrival) => return self.arrive(arrival, rules),
            Step::Write { site, row, folded } => {
                if folded {
                    self.fold(site, rules);
                }
                self.write(site, row);
            }
        }
        Ok(())
    }

    fn arrive(&mut self, arrival: Arrival, rules: &dyn Rules) -> Result<(), String> {
        let message = match arrival {
            Arrival::Again => self.kept.take(),
            Arrival::Batch { from, to, folded, kept } => {
                if folded {
                    self.fold(from, rules);
                }
                let message = self.read(from, to);
                if kept {
                    self.has_kept = true;
                    self.kept.clone_from(&message);
                }
                message
            }
        };
        message.map_or(Ok(()), |message| self.receive(message, rules))
    }

    /// What a batch brings: nothing while the log is not folded; the next fold gives the key a new `seq`.
    fn read(&mut self, from: usize, to: usize) -> Option<Message> {
        let waited = std::mem::take(&mut self.waiting[from][to]);
        let spot = &self.spots[from];
        let entry = spot.entry.clone().filter(|_| waited && spot.log.is_none())?;
        Some(Message { from, to, row: spot.row, entry, truth: spot.truth })
    }

    /// An application writes, and the trigger logs it.
    fn write(&mut self, site: usize, row: Row) {
        let spot = &mut self.spots[site];
        let log = spot.log.get_or_insert_default();
        log.inserted |= spot.row.is_none();
        log.deleted |= row.is_none();
        spot.row = row;
    }

    fn fold(&mut self, site: usize, rules: &dyn Rules) {
        let spot = &mut self.spots[site];
        let Some(log) = spot.log.take() else { return };
        if spot.row != spot.before || spot.entry.is_none() {
            let above = self.history.rank(spot.truth.current).0;
            spot.truth = self.history.make(site, spot.truth.seen, above);
            spot.before = spot.row;
        }
        let written = Written { wall: WALL[site].into(), born: log.inserted && !log.deleted, digest: digest(spot.row) };
        let folded = rules.fold(spot.entry.as_ref(), &written, &origin(site));
        let announced = rules.announces(&folded);
        if let Folded::New(entry) = folded {
            spot.entry = Some(entry);
        }
        if announced {
            self.announce(site);
        }
    }

    /// The key gets a new `seq`.
    fn announce(&mut self, site: usize) {
        (0..SITES).filter(|to| *to != site).for_each(|to| self.waiting[site][to] = true);
    }

    fn policy(&self, from: usize, to: usize) -> Policy {
        match self.preferred {
            Some(site) if site == to => Policy::Prefer(Side::Local),
            Some(site) if site == from => Policy::Prefer(Side::Incoming),
            _ => Policy::LastWriteWins,
        }
    }

    fn receive(&mut self, message: Message, rules: &dyn Rules) -> Result<(), String> {
        let Message { from, to, row, entry: incoming, truth: theirs } = message;
        self.fold(to, rules);
        let policy = self.policy(from, to);
        let rule = Rule { policy, generated_keys: false };
        let (spot, history) = (&mut self.spots[to], &mut self.history);
        let local = spot.entry.clone().or_else(|| digest(spot.row).map(Entry::base));
        let ours = spot.truth;
        let decision = rules.decide(local.as_ref(), &incoming, rule, &origin(to));

        let known = local.is_some() && ours.has_seen(theirs.current);
        let newer = !known && (local.is_none() || theirs.has_seen(ours.current));
        let conflict = !known && !newer && spot.row != row;
        match (decision.relation == Relation::Conflict, conflict) {
            (true, false) => return Err("a false conflict".into()),
            (false, true) => return Err("a missed conflict".into()),
            _ => {}
        }
        let theirs_higher = history.rank(theirs.current) > history.rank(ours.current);
        let theirs_win = match policy {
            _ if known || newer => newer,
            Policy::Prefer(side) if conflict => side == Side::Incoming,
            _ => theirs_higher,
        };
        let (winner, loser, expected) = if theirs_win { (theirs, ours, row) } else { (ours, theirs, spot.row) };
        let survivor = if decision.row == Side::Incoming { row } else { spot.row };
        require(survivor == expected, "the policy names another row")?;
        if !known && !newer {
            history.accounted |= 1 << loser.current;
        }
        let seen = ours.seen | theirs.seen;
        spot.truth = Truth { seen, current: winner.current };
        if conflict && policy != Policy::LastWriteWins {
            let above = history.rank(ours.current).0.max(history.rank(theirs.current).0);
            spot.truth = history.make(to, seen, above);
        }
        (spot.row, spot.before) = (survivor, survivor);
        let again = rules.decide(Some(&decision.entry), &incoming, rule, &origin(to));
        let same = again.entry == decision.entry && again.relation != Relation::Conflict;
        require(same, "the second time is not as the first")?;
        spot.entry = Some(decision.entry);
        if decision.changed {
            self.announce(to);
        }
        Ok(())
    }

    /// Once everything has arrived: all sites are equal, no write is lost, nothing replaced or deleted is back.
    pub(super) fn check_quiet(&self) -> Result<(), String> {
        let (first, history) = (&self.spots[0], &self.history);
        for other in &self.spots[1..] {
            require(other.row == first.row, "two sites hold different rows")?;
            require(other.entry == first.entry, "two sites hold different entries of one row")?;
        }
        let Truth { seen, current } = first.truth;
        let of_seen = |write: &u8| seen & (1 << write) != 0;
        let made: u32 = history.made.iter().map(|made| u32::from(*made)).sum();
        require(seen.count_ones() == made, "a write was not heard of")?;
        let lost = (0..BASE).filter(of_seen).find(|write| *write != current && history.accounted & (1 << write) == 0);
        require(lost.is_none(), "a write is lost without a record")?;
        let knowing = history.seen.iter().find(|seen| current != BASE && **seen & (1 << current) != 0);
        require(knowing.is_none(), "a row is back that someone replaced or deleted having seen it")?;
        let last = (0..BASE).filter(of_seen).max_by_key(|write| history.rank(*write));
        require(last.unwrap_or(BASE) == current, "another write is above the one that won")
    }

    /// Once everything has arrived: the vector holds exactly the writes that the content includes, and the version is
    /// the highest of them.
    pub(super) fn check_vector(&self) -> Result<(), String> {
        let (Spot { entry, truth, .. }, history) = (&self.spots[0], &self.history);
        let Some(entry) = entry else { return Ok(()) };
        let each = (0..BASE).filter(|write| truth.seen & (1 << write) != 0).map(|write| history.rank(write));
        let vector = each.map(|(clock, site)| (site, clock.into())).collect::<BTreeMap<_, u64>>();
        let held = entry.vector.versions().iter().map(|version| (version.site, version.clock.micros()));
        require(held.collect::<BTreeMap<_, _>>() == vector, "the vector holds other writes than the content includes")?;
        require(entry.vector.versions().iter().max() == Some(&entry.version), "the version is not the vector's highest")
    }

    /// The entries of the sites, met directly: neither the order of two nor the grouping of three makes a difference.
    pub(super) fn check_algebra(&self, rules: &dyn Rules) -> Result<(), String> {
        let rule = Rule { policy: Policy::LastWriteWins, generated_keys: false };
        let meet = |a: &Entry, b: &Entry| rules.decide(Some(a), b, rule, &origin(0));
        let entries: Vec<&Entry> = self.spots.iter().filter_map(|spot| spot.entry.as_ref()).collect();
        for (at, a) in entries.iter().enumerate() {
            for b in &entries[at..] {
                let (here, there) = (meet(a, b), meet(b, a));
                require(here.entry == there.entry, "not commutative")?;
                let conflicts = [here, there].map(|decision| decision.relation == Relation::Conflict);
                require(conflicts[0] == conflicts[1], "one side sees a conflict, the other none")?;
            }
        }
        let [a, b, c] = entries[..] else { return Ok(()) };
        let (left, right) = (meet(&meet(a, b).entry, c), meet(a, &meet(b, c).entry));
        require(left.entry == right.entry, "not associative")
    }
}
