//! Every way a history can go on, or some of them.

use std::fmt;

use super::digest::{Map, digest};
use super::judge::Judge;
use super::lane::{Arrival, Lane, Settling, Step};
use super::rules::Rules;
use super::world::{Event, Lanes, Start, World};

/// Who sends to whom.
pub(super) type Pairs = &'static [(usize, usize)];

/// What is enumerated.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope {
    pub(super) start: Start,
    /// Writes at most.
    pub(super) writes: usize,
    /// Batches that arrive between the writes, at most.
    pub(super) batches: usize,
    pub(super) pairs: Pairs,
    /// Along which of these everything may have arrived: then all sites must be equal.
    pub(super) quiet: &'static [Pairs],
    pub(super) settling: Settling,
    /// Whether one of the batches that arrive after the last write comes again, at any time.
    pub(super) again: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) histories: u128,
    /// Of a history and an order in which the batches of each key arrive after it.
    pub(super) pairs: u128,
}

impl Count {
    pub(super) fn plus(self, other: Self) -> Self {
        Self { histories: self.histories + other.histories, pairs: self.pairs + other.pairs }
    }
}

/// Goes every way, and checks every place on it. Places that two ways share are gone on from once.
pub(super) fn all(scope: Scope, rules: &dyn Rules) -> Result<Count, Fault> {
    let mut lanes = Lanes::new(Judge::new(rules, scope.settling));
    let world = World::new(scope.start, &mut lanes);
    let mut search = Search { scope, lanes, worlds: Map::default(), orders: Map::default(), ended: Map::default() };
    search.histories(world, scope.writes, scope.batches)
}

/// What is wrong, and the way there.
pub(super) struct Fault {
    pub(super) reason: String,
    /// Last step first.
    way: Vec<String>,
}

impl Fault {
    fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), way: Vec::new() }
    }

    fn after(mut self, step: impl fmt::Debug) -> Self {
        self.way.push(format!("\n  {step:?}"));
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} after{}", self.reason, self.way.iter().rev().cloned().collect::<String>())
    }
}

struct Search<'a> {
    scope: Scope,
    lanes: Lanes<'a>,
    /// By key: in how many orders everything can arrive.
    ended: Map<usize, u128>,
    /// What can come after.
    worlds: Map<(World, usize, usize), Count>,
    /// By digest of a lane: in how many orders everything can arrive; `None` while one of them is being gone.
    orders: Map<u128, Option<u128>>,
}

impl Search<'_> {
    /// All histories that begin like this one.
    fn histories(&mut self, world: World, writes: usize, batches: usize) -> Result<Count, Fault> {
        let place = (world, writes, batches);
        if let Some(count) = self.worlds.get(&place) {
            return Ok(*count);
        }
        let mut count = self.ended(world)?;
        if writes > 0 {
            let arrivals = if batches > 0 { world.arrivals(self.scope.pairs, false, &self.lanes) } else { Vec::new() };
            for event in world.writes(writes, &self.lanes).into_iter().chain(arrivals) {
                count = count.plus(self.after(world, event, writes, batches).map_err(|fault| fault.after(event))?);
            }
        }
        self.worlds.insert(place, count);
        Ok(count)
    }

    fn after(&mut self, mut world: World, event: Event, writes: usize, batches: usize) -> Result<Count, Fault> {
        world.apply(event, &mut self.lanes).map_err(Fault::new)?;
        match event {
            Event::Arrive(_) => self.histories(world, writes, batches - 1),
            // What arrives after the last write is an order, not a history.
            Event::Write { .. } if writes == 1 => self.ended(world),
            Event::Write { .. } => self.histories(world, writes - 1, batches),
        }
    }

    /// The history that ends here, and each order in which everything can arrive.
    fn ended(&mut self, world: World) -> Result<Count, Fault> {
        if !world.is_one_history() {
            return Ok(Count::default());
        }
        let [first, second] = world.keys.map(|key| self.ended_key(key));
        Ok(Count { histories: 1, pairs: first? * second? })
    }

    fn ended_key(&mut self, key: usize) -> Result<u128, Fault> {
        if let Some(orders) = self.ended.get(&key) {
            return Ok(*orders);
        }
        let lane = *self.lanes.get(key);
        let orders = self.orders(&lane)?;
        self.ended.insert(key, orders);
        Ok(orders)
    }

    fn orders(&mut self, lane: &Lane) -> Result<u128, Fault> {
        let digest = digest(lane);
        match self.orders.get(&digest) {
            None => self.orders.insert(digest, None),
            Some(None) => return Err(Fault::new("batches go round without end")),
            Some(Some(orders)) => return Ok(*orders),
        };
        self.lanes.judge.check_algebra(lane.entries()).map_err(Fault::new)?;
        let mut orders = 0;
        if self.scope.quiet.iter().any(|pairs| lane.is_quiet(pairs)) {
            let judge = &self.lanes.judge;
            lane.check_quiet(judge).map_err(Fault::new)?;
            if judge.are_sound() {
                lane.check_vector(judge).map_err(Fault::new)?;
            }
        }
        orders += u128::from(lane.is_quiet(self.scope.pairs));
        for arrival in lane.arrivals(self.scope.pairs, self.scope.again) {
            orders += self.orders_after(lane, arrival).map_err(|fault| fault.after(arrival))?;
        }
        self.orders.insert(digest, Some(orders));
        Ok(orders)
    }

    fn orders_after(&mut self, lane: &Lane, arrival: Arrival) -> Result<u128, Fault> {
        let mut next = *lane;
        next.take(Step::Arrive(arrival), &self.lanes.judge).map_err(Fault::new)?;
        self.orders(&next)
    }
}

/// Goes one way, chosen by the seed.
pub(super) fn sample(scope: Scope, rules: &dyn Rules, seed: u64) -> Result<(), Fault> {
    let mut way = Vec::new();
    walk(scope, rules, &mut Dice(seed), &mut way).map_err(|reason| {
        let way = way.iter().rev().map(|event| format!("\n  {event:?}")).collect();
        Fault { reason, way }
    })
}

fn walk(scope: Scope, rules: &dyn Rules, dice: &mut Dice, way: &mut Vec<Event>) -> Result<(), String> {
    let mut lanes = Lanes::new(Judge::new(rules, scope.settling));
    let mut world = World::new(scope.start, &mut lanes);
    let mut writes_left = scope.writes;
    for _ in 0..1_000 {
        let arrivals = world.arrivals(scope.pairs, scope.again, &lanes);
        let writes = if writes_left > 0 { world.writes(usize::MAX, &lanes) } else { Vec::new() };
        let events = if arrivals.is_empty() || !writes.is_empty() && dice.below(2) == 0 { writes } else { arrivals };
        if events.is_empty() {
            return world.keys.iter().try_for_each(|key| lanes.get(*key).check_quiet(&lanes.judge));
        }
        let event = events[dice.below(events.len())];
        writes_left -= usize::from(matches!(event, Event::Write { .. }));
        way.push(event);
        world.apply(event, &mut lanes)?;
    }
    Err("batches go round without end".into())
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ mixed >> 31) % bound as u64).expect("below a usize")
    }
}
