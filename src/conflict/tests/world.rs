//! Two keys, and what applications do to them at three sites.

use super::digest::{Map, digest};
use super::judge::Judge;
use super::lane::{Arrival, Lane, SITES, Settling, Step};

pub(super) const KEYS: usize = 2;

/// What an application does. The values are few, so that sites often come to the same content, or write what stands
/// there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Insert,
    Update,
    PartialUpdate,
    Delete,
    /// To the other key.
    ChangeKey,
}

const OPS: [Op; 5] = [Op::Insert, Op::Update, Op::PartialUpdate, Op::Delete, Op::ChangeKey];

/// What may happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// An application writes. `folded`: what the site wrote to these keys before was folded first; else the two writes
    /// become one version.
    Write { site: usize, key: usize, op: Op, folded: bool },
    /// A batch of both keys arrives.
    Arrive(Arrival),
}

/// How a history begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    Empty,
    /// The first key stands at all sites since before capture.
    Standing,
    /// The first key was inserted at the first site under capture, and all sites have it.
    Born,
}

/// Every key that was met. What follows from a step is worked out once: many worlds differ in one key only.
pub(super) struct Lanes<'a> {
    pub(super) judge: Judge<'a>,
    all: Vec<Lane>,
    numbers: Map<u128, usize>,
    after: Map<(usize, Step), usize>,
}

impl<'a> Lanes<'a> {
    pub(super) fn new(judge: Judge<'a>) -> Self {
        Self { judge, all: Vec::new(), numbers: Map::default(), after: Map::default() }
    }

    pub(super) fn get(&self, lane: usize) -> &Lane {
        &self.all[lane]
    }

    fn number(&mut self, lane: Lane) -> usize {
        let next = self.all.len();
        let number = *self.numbers.entry(digest(&lane)).or_insert(next);
        if number == next {
            self.all.push(lane);
        }
        number
    }

    fn after(&mut self, lane: usize, step: Step) -> Result<usize, String> {
        if let Some(after) = self.after.get(&(lane, step)) {
            return Ok(*after);
        }
        let mut next = self.all[lane];
        next.take(step, &self.judge)?;
        let next = self.number(next);
        self.after.insert((lane, step), next);
        Ok(next)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) keys: [usize; KEYS],
    merges: bool,
    written: [bool; KEYS],
    key_changed: bool,
    /// Whether the keys differ, but for their names, before the first write.
    keys_differ: bool,
}

impl World {
    pub(super) fn new(start: Start, lanes: &mut Lanes) -> Self {
        let judge = &lanes.judge;
        let first = match start {
            Start::Empty => Lane::new(None, judge),
            Start::Standing => Lane::new(Some((0, 0)), judge),
            Start::Born => Lane::born(judge),
        };
        let second = Lane::new(None, judge);
        let merges = judge.settling == Settling::Columns;
        let keys = [first, second].map(|lane| lanes.number(lane));
        Self { keys, merges, written: [false; KEYS], key_changed: false, keys_differ: start != Start::Empty }
    }

    /// Whether this is more than two histories of one key beside each other: these are enumerated by themselves, for no
    /// rule sees two keys.
    pub(super) fn is_one_history(&self) -> bool {
        self.key_changed || self.written != [true; KEYS]
    }

    /// The writes that can happen here, one for all that differ in the names of the keys only. The last of those `left`
    /// makes it one history.
    pub(super) fn writes(&self, left: usize, lanes: &Lanes) -> Vec<Event> {
        let mut events = Vec::new();
        let keys = if self.keys_differ || self.written != [false; KEYS] { KEYS } else { 1 };
        for (site, key) in (0..SITES).flat_map(|site| (0..keys).map(move |key| (site, key))) {
            let (here, there) = (lanes.get(self.keys[key]), lanes.get(self.keys[1 - key]));
            for op in OPS {
                let possible = match op {
                    Op::Insert => here.row(site).is_none(),
                    Op::Update | Op::PartialUpdate | Op::Delete => here.row(site).is_some(),
                    Op::ChangeKey => here.row(site).is_some() && there.row(site).is_none(),
                };
                let one_history = self.key_changed || op == Op::ChangeKey || !self.written[1 - key];
                let logged = here.is_logged(site) || op == Op::ChangeKey && there.is_logged(site);
                let folds: &[bool] = if logged { &[true, false] } else { &[true] };
                if possible && (left > 1 || one_history) {
                    events.extend(folds.iter().map(|&folded| Event::Write { site, key, op, folded }));
                }
            }
        }
        events
    }

    /// The batches that can arrive here; `keep`: also so that one can come again.
    pub(super) fn arrivals(&self, pairs: &[(usize, usize)], keep: bool, lanes: &Lanes) -> Vec<Event> {
        let [mut all, other] = self.keys.map(|key| lanes.get(key).arrivals(pairs, keep));
        let first = all.len();
        all.extend(other.into_iter().filter(|arrival| !all[..first].contains(arrival)).collect::<Vec<_>>());
        all.into_iter().map(Event::Arrive).collect()
    }

    pub(super) fn apply(&mut self, event: Event, lanes: &mut Lanes) -> Result<(), String> {
        let (site, key, op, folded) = match event {
            Event::Arrive(arrival) => {
                for key in &mut self.keys {
                    *key = lanes.after(*key, Step::Arrive(arrival))?;
                }
                return Ok(());
            }
            Event::Write { site, key, op, folded } => (site, key, op, folded),
        };
        let own = u8::try_from(site).expect("small") + 1;
        let before = lanes.get(self.keys[key]).row(site);
        let row = match op {
            Op::Insert => Some((0, 0)),
            // Where columns are merged, each of the two kinds of update writes one of them.
            Op::Update if self.merges => before.map(|(_, b)| (own, b)),
            Op::Update => Some((own, own)),
            Op::PartialUpdate => before.map(|(a, _)| (a, 9)),
            Op::Delete | Op::ChangeKey => None,
        };
        let other = (op == Op::ChangeKey).then_some((1 - key, before));
        for (key, row) in [(key, row)].into_iter().chain(other) {
            self.keys[key] = lanes.after(self.keys[key], Step::Write { site, row, folded })?;
            self.written[key] = true;
        }
        self.key_changed |= op == Op::ChangeKey;
        Ok(())
    }
}
