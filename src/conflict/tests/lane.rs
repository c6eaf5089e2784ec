//! One key at three sites, and the feeds between them, beside an oracle that knows the whole history.
//!
//! A feed delivers what the sending site holds when it is asked: the entry and the row, never a log of operations.
//! Beside each row stands the truth about it: the *set* of writes that its content includes. Neither vectors nor
//! versions are asked for it.

use std::collections::BTreeMap;

use super::judge::{Judge, Number};
use crate::conflict::{Origin, Policy, Side};
use crate::model::{Clock, Digest, Site, Version};

pub(super) const SITES: usize = 3;
/// What the clocks of the sites show, for ever. Versions rise by one where the wall clock does not: the first two sites
/// often give the same clock, the third is ahead of both.
pub(super) const WALL: [u8; SITES] = [0, 0, 7];
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

/// Who wins a conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Settling {
    /// The last write.
    Last,
    /// The last write, of each column by itself.
    Columns,
    /// This site, in every conflict that it meets; elsewhere the last write.
    Site(usize),
}

impl Settling {
    /// What holds where something comes from one site to another.
    fn policy(self, from: usize, to: usize) -> Policy {
        match self {
            Self::Site(site) if site == to => Policy::Prefer(Side::Local),
            Self::Site(site) if site == from => Policy::Prefer(Side::Incoming),
            Self::Site(_) | Self::Last => Policy::LastWriteWins,
            Self::Columns => Policy::MergeColumns,
        }
    }
}

/// What of a row a write can give: its two columns, and that it stands or not.
const PARTS: usize = 3;
/// The last part.
const STANDING: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Truth {
    /// The writes that this content includes or has beaten.
    seen: Writes,
    /// The last write that gave the content, or [`BASE`].
    current: u8,
    /// The write that gave each column. All of them the last one, but where columns are merged.
    columns: [u8; 2],
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Spot {
    row: Row,
    entry: Option<Number>,
    log: Option<Log>,
    /// The row when it was last folded or applied.
    before: Row,
    truth: Truth,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Message {
    from: usize,
    to: usize,
    row: Row,
    entry: Number,
    truth: Truth,
}

/// What the oracle remembers of all writes, wherever they were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct History {
    made: [u8; SITES],
    /// Its own clock of each write.
    clock: [u8; SITES * WRITES],
    /// What each write had seen.
    seen: [Writes; SITES * WRITES],
    /// Which parts of the row each write gave, a bit for each.
    gave: [u8; SITES * WRITES],
    /// By part: writes that somebody replaced having seen them, that lost a recorded conflict, or whose content survived.
    accounted: [Writes; PARTS],
    /// Whether a row that was deleted stood again because a write elsewhere won. Then it stands as that write knew it.
    revived: bool,
}

impl History {
    /// A new write, by someone who has seen this, above it: it gives these parts of the row.
    fn make(&mut self, site: usize, before: Truth, above: u8, gave: [bool; PARTS]) -> Truth {
        assert!(usize::from(self.made[site]) < WRITES, "too many writes to tell them apart");
        let write = u8::try_from(site * WRITES).expect("small") + self.made[site];
        let at = usize::from(write);
        self.made[site] += 1;
        self.clock[at] = WALL[site].max(above + 1);
        self.seen[at] = before.seen;
        let deletes = gave == [false, false, true];
        for (part, gives) in gave.into_iter().enumerate() {
            self.gave[at] |= u8::from(gives) << part;
            if gives || deletes || part == STANDING {
                self.accounted[part] |= before.seen;
            }
        }
        let column = |at: usize| if gave[at] || deletes { write } else { before.columns[at] };
        Truth { seen: before.seen | 1 << write, current: write, columns: [column(0), column(1)] }
    }

    fn gives(&self, write: u8, part: usize) -> bool {
        self.gave[usize::from(write)] & (1 << part) != 0
    }

    /// `last-write-wins`.
    fn rank(&self, write: u8) -> (u8, Site) {
        let at = usize::from(write);
        if write == BASE { (0, Site::NONE) } else { (self.clock[at], site(at / WRITES)) }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Lane {
    spots: [Spot; SITES],
    /// A bit for each sender and receiver: whether the `seq` is above the receiver's cursor.
    waiting: u16,
    history: History,
    /// A batch of the past that can arrive again.
    kept: Option<Message>,
    /// Whether one was kept.
    has_kept: bool,
}

const fn bit(from: usize, to: usize) -> u16 {
    1 << (from * SITES + to)
}

/// The first site's id is the highest: the order of ids is not that of names.
fn site(at: usize) -> Site {
    Site { id: u64::try_from(9 - at).expect("small"), epoch: 1 }
}

pub(super) fn origin(at: usize) -> Origin {
    Origin { site: site(at), now: WALL[at].into(), floor: Clock::ZERO }
}

pub(super) fn digest(row: Row) -> Option<Digest> {
    row.map(|(a, b)| Digest(u128::from(a) << 8 | u128::from(b)))
}

fn require(holds: bool, fault: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(fault.to_owned()) }
}

impl Lane {
    /// A row that stands at all sites since before capture, or none.
    pub(super) fn new(row: Row, judge: &Judge) -> Self {
        let truth = Truth { seen: 0, current: BASE, columns: [BASE; 2] };
        // Where columns are merged, a row has its facets since capture was installed.
        let entry = judge.base(row).filter(|_| judge.settling == Settling::Columns);
        let spot = Spot { row, entry, log: None, before: row, truth };
        Self { spots: [spot; SITES], waiting: 0, history: History::default(), kept: None, has_kept: false }
    }

    /// A row that was inserted at the first site under capture, and that all sites have.
    pub(super) fn born(judge: &Judge) -> Self {
        let mut lane = Self::new(None, judge);
        lane.write(0, Some((0, 0)));
        lane.fold(0, judge);
        Self { spots: [lane.spots[0]; SITES], waiting: 0, ..lane }
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
        folded && pairs.iter().all(|&(from, to)| self.waiting & bit(from, to) == 0)
    }

    /// What can arrive between these pairs of sites.
    pub(super) fn arrivals(&self, pairs: &[(usize, usize)], keep: bool) -> Vec<Arrival> {
        let mut all = Vec::new();
        for &(from, to) in pairs {
            let (waits, logged) = (self.waiting & bit(from, to) != 0, self.is_logged(from));
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

    pub(super) fn take(&mut self, step: Step, judge: &Judge) -> Result<(), String> {
        match step {
            Step::Arrive(arrival) => return self.arrive(arrival, judge),
            Step::Write { site, row, folded } => {
                if folded {
                    self.fold(site, judge);
                }
                self.write(site, row);
            }
        }
        Ok(())
    }

    fn arrive(&mut self, arrival: Arrival, judge: &Judge) -> Result<(), String> {
        let message = match arrival {
            Arrival::Again => self.kept.take(),
            Arrival::Batch { from, to, folded, kept } => {
                if folded {
                    self.fold(from, judge);
                }
                let message = self.read(from, to);
                if kept {
                    self.has_kept = true;
                    self.kept = message;
                }
                message
            }
        };
        message.map_or(Ok(()), |message| self.receive(message, judge))
    }

    /// What a batch brings: nothing while the log is not folded; the next fold gives the key a new `seq`.
    fn read(&mut self, from: usize, to: usize) -> Option<Message> {
        let waited = self.waiting & bit(from, to) != 0;
        self.waiting &= !bit(from, to);
        let spot = &self.spots[from];
        let entry = spot.entry.filter(|_| waited && spot.log.is_none())?;
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

    fn fold(&mut self, site: usize, judge: &Judge) {
        let spot = &mut self.spots[site];
        let Some(log) = spot.log.take() else { return };
        if spot.row != spot.before || spot.entry.is_none() {
            let above = self.history.rank(spot.truth.current).0;
            let gave = match (spot.before, spot.row) {
                _ if judge.settling != Settling::Columns => [true; PARTS],
                (_, None) => [false, false, true],
                (None, Some(_)) => [true, true, false],
                (Some(before), Some(now)) => [before.0 != now.0, before.1 != now.1, false],
            };
            spot.truth = self.history.make(site, spot.truth, above, gave);
            spot.before = spot.row;
        }
        let (entry, announced) = judge.fold(spot.entry, spot.row, log.inserted && !log.deleted, site);
        spot.entry = entry;
        if announced {
            self.announce(site);
        }
    }

    /// The key gets a new `seq`.
    fn announce(&mut self, site: usize) {
        (0..SITES).filter(|to| *to != site).for_each(|to| self.waiting |= bit(site, to));
    }

    fn receive(&mut self, message: Message, judge: &Judge) -> Result<(), String> {
        let Message { from, to, row, entry: incoming, truth: theirs } = message;
        self.fold(to, judge);
        let policy = judge.settling.policy(from, to);
        let merges = judge.settling == Settling::Columns;
        let (spot, history) = (&mut self.spots[to], &mut self.history);
        let local = spot.entry.or_else(|| judge.base(spot.row));
        let ours = spot.truth;
        let met = judge.meet(local, incoming, policy, to);

        let heads = |truth: Truth, row: Row| match row {
            Some(_) if merges => truth.columns,
            _ => [truth.current; 2],
        };
        let known = local.is_some() && heads(theirs, row).iter().all(|write| ours.has_seen(*write));
        let newer = !known && (local.is_none() || heads(ours, spot.row).iter().all(|write| theirs.has_seen(*write)));
        let (knew, both) = (known || newer, spot.row.is_some() && row.is_some());
        let apart = |at: usize| !ours.has_seen(theirs.columns[at]) && !theirs.has_seen(ours.columns[at]);
        let clash = match (spot.row, row) {
            (Some(here), Some(there)) if merges => here.0 != there.0 && apart(0) || here.1 != there.1 && apart(1),
            (here, there) => here != there,
        };
        let conflict = !knew && clash;
        match (met.is_conflict, conflict) {
            (true, false) => return Err("a false conflict".into()),
            (false, true) => return Err("a missed conflict".into()),
            _ => {}
        }
        let later = |ours: u8, theirs: u8| history.rank(theirs) > history.rank(ours);
        let theirs_win = match policy {
            _ if knew && !(merges && both) => newer,
            Policy::Prefer(side) if conflict => side == Side::Incoming,
            _ => later(ours.current, theirs.current),
        };
        let (winner, mut expected) = if theirs_win { (theirs, row) } else { (ours, spot.row) };
        let mut columns = if local.is_none() { theirs.columns } else { winner.columns };
        if let (true, Some(here), Some(there)) = (merges, spot.row, row) {
            let sides = [0, 1].map(|at| later(ours.columns[at], theirs.columns[at]));
            columns = [0, 1].map(|at| if sides[at] { theirs.columns[at] } else { ours.columns[at] });
            expected = Some((if sides[0] { there.0 } else { here.0 }, if sides[1] { there.1 } else { here.1 }));
        }
        let survivor = met.row;
        require(survivor == expected, "the policy names another row")?;
        if !knew {
            history.revived |= merges && !both && survivor.is_some();
            let after = Truth { seen: 0, current: winner.current, columns };
            for (part, accounted) in history.accounted.iter_mut().enumerate() {
                let of = |truth: Truth| if part == STANDING || !both { truth.current } else { truth.columns[part] };
                let lost = [of(ours), of(theirs)].into_iter().filter(|write| *write != of(after) && *write != BASE);
                lost.for_each(|write| *accounted |= 1 << write);
            }
            if merges && !both {
                let loser = if theirs_win { ours } else { theirs };
                loser.columns.iter().filter(|write| **write != BASE).for_each(|write| {
                    history.accounted.iter_mut().for_each(|part| *part |= 1 << *write);
                });
            }
        }
        let seen = ours.seen | theirs.seen;
        spot.truth = Truth { seen, current: winner.current, columns };
        if conflict && matches!(policy, Policy::Prefer(_)) {
            let above = history.rank(ours.current).0.max(history.rank(theirs.current).0);
            spot.truth = history.make(to, spot.truth, above, [true; PARTS]);
        }
        (spot.row, spot.before) = (survivor, survivor);
        require(met.once, "the second time is not as the first")?;
        spot.entry = Some(met.entry);
        if met.changed {
            self.announce(to);
        }
        Ok(())
    }

    /// Once everything has arrived: all sites are equal, no write is lost, nothing replaced or deleted is back.
    pub(super) fn check_quiet(&self, judge: &Judge) -> Result<(), String> {
        let (first, history) = (&self.spots[0], &self.history);
        for other in &self.spots[1..] {
            require(other.row == first.row, "two sites hold different rows")?;
            require(other.entry == first.entry, "two sites hold different entries of one row")?;
        }
        let Truth { seen, current, columns } = first.truth;
        let of_seen = |write: &u8| seen & (1 << write) != 0;
        let made: u32 = history.made.iter().map(|made| u32::from(*made)).sum();
        require(seen.count_ones() == made, "a write was not heard of")?;
        let last = (0..BASE).filter(of_seen).max_by_key(|write| history.rank(*write));
        require(last.unwrap_or(BASE) == current, "another write is above the one that won")?;
        for (part, accounted) in history.accounted.into_iter().enumerate() {
            let stands = if part == STANDING || first.row.is_none() { current } else { columns[part] };
            let gives = |write: &u8| of_seen(write) && history.gives(*write, part);
            let lost = |write: &u8| gives(write) && *write != stands && accounted & (1 << write) == 0;
            require(!(0..BASE).any(|write| lost(&write)), "a write is lost without a record")?;
            // A row that was brought back stands as the write knew it that brought it back.
            if history.revived || stands == BASE || part == STANDING && judge.settling == Settling::Columns {
                continue;
            }
            let replaces = |write: u8| history.gives(write, part) || history.gives(write, STANDING);
            let knowing = |write: &u8| history.seen[usize::from(*write)] & (1 << stands) != 0 && replaces(*write);
            require(!(0..BASE).any(|w| knowing(&w)), "a row is back that someone replaced or deleted having seen it")?;
            if first.row.is_some() {
                let last = (0..BASE).filter(gives).max_by_key(|write| history.rank(*write));
                require(last == Some(stands), "another write is above the one that won a column")?;
            }
        }
        Ok(())
    }

    /// Once everything has arrived: the vector holds exactly the writes that the content includes, and the version is
    /// the highest of them.
    pub(super) fn check_vector(&self, judge: &Judge) -> Result<(), String> {
        let (Spot { entry, truth, .. }, history) = (&self.spots[0], &self.history);
        let Some(entry) = entry.map(|number| judge.entry(number)) else { return Ok(()) };
        let each = (0..BASE).filter(|write| truth.seen & (1 << write) != 0).map(|write| history.rank(write));
        let vector = each.map(|(clock, site)| (site, clock.into())).collect::<BTreeMap<_, u64>>();
        let held = entry.vector.versions().iter().map(|version| (version.site, version.clock.micros()));
        require(held.collect::<BTreeMap<_, _>>() == vector, "the vector holds other writes than the content includes")?;
        let highest = entry.vector.versions().iter().max().copied().unwrap_or(Version::BASE);
        require(highest == entry.version, "the version is not the vector's highest")
    }

    /// The entries of the sites.
    pub(super) fn entries(&self) -> [Option<Number>; SITES] {
        self.spots.map(|spot| spot.entry)
    }
}
