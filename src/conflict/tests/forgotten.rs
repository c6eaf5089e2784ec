//! Tombstones that are purged, and a site that comes back later than that: every short history of one key at two sites,
//! then all rows are compared. Beside each row stands the truth: which writes its content has seen.

use crate::conflict::{
    Decision, FirstRun, Folded, Origin, Policy, Relation, Rule, Side, Standing, Written, decide, emptied, fold,
    forgotten, recorded, reunite,
};
use crate::model::{Clock, Digest, Entry, Site, Version};

/// What the clocks of the two sites show, for ever.
const WALLS: [[i64; 2]; 3] = [[5, 5], [5, 50], [50, 5]];
/// Steps of a history, before the two compare.
const STEPS: usize = if cfg!(debug_assertions) { 5 } else { 6 };

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// An application leaves a row, or none.
    Write(usize, bool),
    /// What the site has goes to the other.
    Deliver(usize),
    /// Its tombstone goes; if the other has not passed it, that one is given up.
    Purge(usize),
}

const ALL: [Step; 8] = [
    Step::Write(0, true),
    Step::Write(0, false),
    Step::Write(1, true),
    Step::Write(1, false),
    Step::Deliver(0),
    Step::Deliver(1),
    Step::Purge(0),
    Step::Purge(1),
];

/// How the history begins.
#[derive(Debug, Clone, Copy)]
enum Start {
    Empty,
    /// One row at both since before capture; `true`: the second got it from the first.
    Standing(bool),
}

/// A content by the write that left it; 0: that of the row older than capture.
type Content = Option<usize>;

#[derive(Debug, Clone)]
struct Spot {
    row: Content,
    entry: Option<Entry>,
    /// The writes that its content includes or has beaten, a bit for each.
    seen: u32,
    floor: Clock,
    /// Whether the other has not got what it has.
    waits: bool,
    /// Whether it gave the other up.
    gave_up: bool,
    /// Whether a record says that a person has to decide.
    open: bool,
}

#[derive(Debug, Clone)]
struct World {
    walls: [i64; 2],
    spots: [Spot; 2],
    /// Content and what had been seen, by write.
    writes: Vec<(bool, u32)>,
    met: Vec<[Content; 2]>,
    /// The writes that inserted a row.
    born: Vec<usize>,
}

fn site(at: usize) -> Site {
    Site { id: if at == 0 { 9 } else { 8 }, epoch: 1 }
}

impl World {
    fn new(start: Start, walls: [i64; 2]) -> Self {
        let (row, entry) = match start {
            Start::Empty => (None, [None, None]),
            Start::Standing(false) => (Some(0), [None, None]),
            Start::Standing(true) => (Some(0), [None, Some(Entry::standing_at(site(0), Digest(0)))]),
        };
        let [first, second] = entry.map(|entry| Spot {
            row,
            entry,
            seen: 0,
            floor: Clock::ZERO,
            waits: false,
            gave_up: false,
            open: false,
        });
        Self { walls, spots: [first, second], writes: vec![(true, 0)], met: Vec::new(), born: Vec::new() }
    }

    fn origin(&self, at: usize) -> Origin {
        Origin { site: site(at), now: self.walls[at], floor: self.spots[at].floor }
    }

    fn digest(content: Content) -> Option<Digest> {
        content.map(|write| Digest(write as u128))
    }

    /// The entry of what stands here.
    fn local(&self, at: usize) -> Option<Entry> {
        let spot = &self.spots[at];
        spot.entry.clone().or_else(|| Self::digest(spot.row).map(|digest| Entry::standing_at(site(at), digest)))
    }

    /// Whether this step can be taken.
    fn take(&mut self, step: Step) -> bool {
        let apart = self.spots.iter().any(|spot| spot.gave_up);
        match step {
            Step::Write(at, stands) => {
                if !stands && self.spots[at].row.is_none() {
                    return false;
                }
                let (origin, born, write) = (self.origin(at), self.spots[at].row.is_none(), self.writes.len());
                let row = stands.then_some(write);
                let written = Written { wall: origin.now, born, digest: Self::digest(row), columns: &[] };
                let Folded::New(entry) = fold(self.spots[at].entry.as_ref(), &written, &origin) else { return false };
                let spot = &mut self.spots[at];
                self.writes.push((stands, spot.seen | 1));
                if born {
                    self.born.push(write);
                }
                (spot.row, spot.entry, spot.seen, spot.waits) = (row, Some(entry), spot.seen | 1 << write | 1, true);
            }
            // Nobody hears of the other meanwhile.
            Step::Deliver(_) if apart => return false,
            Step::Deliver(from) => {
                if !self.spots[from].waits {
                    return false;
                }
                self.deliver(from, None);
            }
            Step::Purge(at) => {
                let spot = &mut self.spots[at];
                let Some(gone) = spot.entry.take_if(|entry| entry.digest.is_none()) else { return false };
                spot.floor = spot.floor.max(gone.version.clock);
                spot.gave_up |= spot.waits;
                spot.waits = false;
            }
        }
        true
    }

    fn deliver(&mut self, from: usize, again: Option<(FirstRun, &Rules)>) {
        self.spots[from].waits = false;
        if let Some(incoming) = self.spots[from].entry.clone() {
            self.meet(from, &incoming, again);
        }
    }

    /// The rows of one are compared with the other's, which settles so what may have been deleted there.
    fn compare(&mut self, from: usize, rule: FirstRun, rules: &Rules) {
        let (Some(incoming), to) = (self.local(from), 1 - from) else { return };
        if self.spots[from].row.is_some() && self.spots[from].row != self.spots[to].row {
            self.meet(from, &incoming, Some((rule, rules)));
        }
    }

    fn meet(&mut self, from: usize, incoming: &Entry, again: Option<(FirstRun, &Rules)>) {
        let to = 1 - from;
        let (origin, local) = (self.origin(to), self.local(to));
        let (ours, theirs) = (self.spots[to].row, self.spots[from].row);
        let rule = Rule { policy: Policy::LastWriteWins, generated_keys: false };
        let met = match (&local, theirs) {
            (None, Some(_)) if self.spots[to].open => Some((recorded(&origin), Some(FirstRun::Manual))),
            (None, Some(_)) => again.and_then(|(rule, rules)| {
                let rule = (incoming.version.clock <= origin.floor).then_some(rule);
                Some((rules.forgotten(incoming, &origin)?, rule))
            }),
            _ => None,
        };
        let decision = match &met {
            _ if local.is_none() && emptied(incoming, &origin).is_some() => emptied(incoming, &origin).expect("it is"),
            Some((tombstone, Some(rule))) => {
                reunite(tombstone, Standing { entry: incoming, stamp: None }, *rule, &origin)
            }
            Some((tombstone, None)) => decide(Some(tombstone), incoming, rule, &origin),
            None => decide(local.as_ref(), incoming, rule, &origin),
        };
        let Decision { relation, row, changed, .. } = decision;
        let seen = self.spots[from].seen;
        let spot = &mut self.spots[to];
        let clash = relation == Relation::Conflict;
        spot.open = clash && met.is_some_and(|(_, rule)| rule == Some(FirstRun::Manual));
        if clash {
            self.met.push([ours, theirs]);
        }
        if spot.open {
            return;
        }
        spot.seen |= seen;
        if row == Side::Incoming {
            spot.row = theirs;
        }
        if changed {
            spot.entry = Some(Entry { digest: Self::digest(spot.row), ..decision.entry });
            spot.waits = true;
        }
    }

    /// Both come together again, this one sending first: what was written goes both ways, and whoever was given up is
    /// compared once it has said what it wrote.
    fn come_back(&mut self, first: usize, rule: FirstRun, rules: &Rules) -> Result<(), &'static str> {
        for from in [first, 1 - first] {
            let again = self.spots[1 - from].gave_up;
            self.deliver(from, again.then_some((rule, rules)));
            if again {
                self.compare(from, rule, rules);
            }
        }
        for turn in 0.. {
            if self.spots.iter().all(|spot| !spot.waits) {
                break;
            }
            if turn > 8 {
                return Err("it goes round and round");
            }
            let from = if self.spots[0].waits { 0 } else { 1 };
            self.deliver(from, None);
        }
        self.check()
    }

    fn check(&self) -> Result<(), &'static str> {
        let recorded = |content: usize| self.met.iter().flatten().any(|met| *met == Some(content));
        if self.spots.iter().any(|spot| spot.open) {
            return Ok(());
        }
        if self.spots[0].row != self.spots[1].row {
            return Err("the two differ");
        }
        if let Some(stands) = self.spots[0].row {
            let seen = |seen: u32| seen & 1 << stands != 0;
            if self.writes.iter().any(|(alive, before)| !alive && seen(*before)) && !recorded(stands) {
                return Err("what was deleted came back without a record");
            }
            // A deletion that nobody wrote upon, where no row was born since: one that was never heard of.
            let born = self.born.iter().any(|write| *write > 0);
            let known = |at: usize| self.writes.iter().any(|(_, before)| before & 1 << at != 0);
            let lost = |(at, (alive, _)): (usize, &(bool, u32))| !alive && !known(at);
            let met = self.met.iter().flatten().any(Option::is_none);
            if self.writes.iter().enumerate().any(lost) && !met && !born {
                return Err("a deletion is lost without a record");
            }
        }
        for (write, (alive, _)) in self.writes.iter().enumerate().skip(1) {
            let replaced = self.writes.iter().any(|(_, before)| before & 1 << write != 0);
            if *alive && !replaced && self.spots[0].row != Some(write) && !recorded(write) {
                return Err("a write is lost without a record");
            }
        }
        let knew = |one: usize, other: usize| self.writes[one].1 & 1 << other != 0;
        // An insert does not know any more what its own site has forgotten.
        let forgets = self.spots.iter().any(|spot| spot.floor != Clock::ZERO);
        for met in self.met.iter().filter(|_| !forgets) {
            if let [Some(one), Some(other)] = *met
                && (knew(one, other) || knew(other, one))
            {
                return Err("a false conflict");
            }
        }
        Ok(())
    }
}

/// What is known of a key of which nothing is known.
struct Rules(fn(&Entry, &Origin) -> Option<Entry>);

impl Rules {
    fn forgotten(&self, incoming: &Entry, origin: &Origin) -> Option<Entry> {
        (self.0)(incoming, origin)
    }
}

const SOUND: Rules = Rules(|incoming, origin| forgotten(incoming, None, origin));

/// Goes through all histories; how many ended, and the first fault.
fn all(rules: &Rules) -> Result<u64, String> {
    let starts = [Start::Empty, Start::Standing(false), Start::Standing(true)];
    let mut ended = 0;
    for (start, walls) in starts.into_iter().flat_map(|start| WALLS.map(|walls| (start, walls))) {
        go_on(&World::new(start, walls), &mut Vec::new(), rules, &mut ended)
            .map_err(|fault| format!("{start:?}, {walls:?}: {fault}"))?;
    }
    Ok(ended)
}

fn go_on(world: &World, way: &mut Vec<Step>, rules: &Rules, ended: &mut u64) -> Result<(), String> {
    for rule in [FirstRun::Prefer(Side::Local), FirstRun::Prefer(Side::Incoming), FirstRun::Manual] {
        for first in 0..2 {
            *ended += 1;
            let told = |fault| format!("{fault} after {way:?}, {first} first, {rule:?}");
            world.clone().come_back(first, rule, rules).map_err(told)?;
        }
    }
    if way.len() == STEPS {
        return Ok(());
    }
    for step in ALL {
        let mut next = world.clone();
        if next.take(step) {
            way.push(step);
            go_on(&next, way, rules, ended)?;
            way.pop();
        }
    }
    Ok(())
}

#[test]
fn what_comes_back_after_its_tombstone_is_settled_and_recorded() {
    let ended = all(&SOUND).unwrap_or_else(|fault| panic!("{fault}"));
    println!("{ended} histories with purged tombstones");
    assert!(ended > 10_000, "only {ended}");
}

#[test]
fn each_broken_rule_about_what_is_forgotten_shows() {
    let above = |incoming: &Entry, origin: &Origin| {
        let low = Origin { floor: Clock::of_write(1, 1, Clock::ZERO), ..*origin };
        forgotten(incoming, None, &low)
    };
    let always = |incoming: &Entry, origin: &Origin| {
        let gone = forgotten(&Entry { version: Version::BASE, ..incoming.clone() }, None, origin)?;
        Some(Entry { version: incoming.version, vector: incoming.vector.clone(), ..gone })
    };
    let broken: [(&str, fn(&Entry, &Origin) -> Option<Entry>); 3] =
        [("never", |_, _| None), ("low", above), ("always", always)];
    for (what, rule) in broken {
        let fault = all(&Rules(rule)).expect_err(what);
        println!("{what}: {fault}");
    }
}

/// Who meets the network for the first time brings rows that nobody can have deleted; of those that were written under
/// capture, or came to it from elsewhere, that is not known.
#[test]
fn rows_of_a_new_site_are_new() {
    let (origin, new) = (Origin { site: site(0), now: 5, floor: Clock::of_write(9, 9, Clock::ZERO) }, site(1));
    let own = Entry::standing_at(new, Digest(1));
    assert!(forgotten(&own, Some(new), &origin).is_none());
    assert!(forgotten(&own, None, &origin).is_some(), "both had it once");
    assert!(forgotten(&Entry::standing_at(Site { id: 3, epoch: 1 }, Digest(1)), Some(new), &origin).is_some());
    let later = Entry { version: Origin { site: new, ..origin }.version(0, origin.floor), ..own.clone() };
    assert!(forgotten(&later, Some(new), &origin).is_none(), "above the floor");
    assert!(forgotten(&own, None, &Origin { floor: Clock::ZERO, ..origin }).is_none(), "nothing was purged");
    assert!(forgotten(&Entry { digest: None, ..own }, None, &origin).is_none(), "no row");
}
