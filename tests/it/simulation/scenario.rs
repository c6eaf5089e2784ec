//! What happens, drawn from a seed.

use std::fmt;

/// A stream of numbers that is the same on every machine (splitmix64).
pub struct Random(pub u64);

impl Random {
    /// From 0 to `limit` - 1.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let limit = u64::try_from(limit).unwrap();
        usize::try_from((mixed ^ (mixed >> 31)) % limit).unwrap()
    }

    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

/// What an application does to rows, which are named by their key.
#[derive(Debug, Clone, Copy)]
pub enum Write {
    /// A row that is not there, with a value in the column between key and note.
    Insert(i64, i64),
    /// All columns.
    Update(i64, i64),
    /// All columns but the one in the middle.
    Partial(i64),
    /// What stands there once more: noted, and nothing new.
    Same(i64),
    Delete(i64),
    DeleteAndInsert(i64, i64),
    /// The row goes on under another key.
    Move(i64, i64),
    /// The column in the middle alone.
    Middle(i64),
    /// Two rows exchange their values in the middle.
    Swap(i64, i64),
    /// All rows at once, by a statement that names none.
    Empty,
}

/// A write, and how many steps the transaction stays open before it.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    pub after: usize,
    /// Which of the tables.
    pub table: usize,
    pub write: Write,
}

/// What begins.
#[derive(Debug, Clone)]
pub enum Deed {
    /// An application's transaction, which stays open `open` steps after its last write.
    Transaction { site: usize, operations: Vec<Operation>, open: usize, rolls_back: bool },
    /// A sync; the process dies after so many turns.
    Sync { edge: usize, turned: bool, push_only: bool, dies_after: Option<usize> },
    /// What was taken in comes again, though others came since: both ends believe that the receiving one is where it was
    /// before.
    Again { edge: usize, turned: bool },
    /// What stands at a site is kept.
    Backup { site: usize },
    /// What was last kept takes the place of what stands there; the process and all connections end.
    Restore { site: usize },
    /// The same with what stands at another site now.
    Clone { from: usize, to: usize },
    /// Someone sets a site's clock, in microseconds off the others'.
    Clock { site: usize, skew: i64 },
}

/// One thing after the other, each while those before may be under way.
#[derive(Debug, Clone)]
pub struct Step {
    /// Names what is written here: no other step has it.
    pub name: usize,
    pub deed: Deed,
    /// How far time went on since the step before, in microseconds.
    pub later: i64,
    /// How many turns all that is under way has before the next step, whose, the dice say.
    pub turns: usize,
}

/// What the tables look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One table with a unique column besides its key.
    Unique,
    /// A parent and its children.
    Family,
    /// One table whose database numbers its rows: two sites' rows under one number are two.
    Numbered,
    /// One table whose rows are merged column by column.
    Merged,
}

/// A whole run.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub seed: u64,
    pub sites: usize,
    pub edges: Vec<(usize, usize)>,
    pub shape: Shape,
    /// What each site's clock is off by, in microseconds.
    pub skews: Vec<i64>,
    /// Rows that stand at each site before the first sync: key, and the name of the content.
    pub first: Vec<Vec<(i64, String)>>,
    /// Rows of a batch.
    pub batch: usize,
    /// One site alone is written.
    pub lone_writer: bool,
    /// Who wins where rows differ when two sites first meet: a person, or else the source.
    pub manual: bool,
    /// For how long tombstones are kept, in microseconds.
    pub keep: i64,
    pub steps: Vec<Step>,
}

const KEYS: usize = 6;
/// As many turns as are needed.
pub const ALL: usize = 1_000_000;
const DAY: i64 = 86_400_000_000;
pub const YEAR: i64 = DAY * 365;
/// Without end, or less than what passes in a run: some ten seconds to a minute.
pub const KEEPS: [i64; 4] = [100 * YEAR, 2_000_000, 4_000_000, 10_000_000];
const SKEWS: [i64; 6] = [0, 0, 3_600_000_000, -3_600_000_000, YEAR, -10 * YEAR];
/// So much happens in a run, at least.
pub const OPERATIONS_MIN: usize = 200;
pub const SYNCS_MIN: usize = 50;

/// A star, a chain, a ring or a mesh.
fn edges(random: &mut Random, sites: usize) -> Vec<(usize, usize)> {
    let chain = (1..sites).map(|site| (site - 1, site));
    match random.below(4) {
        0 => star(sites),
        1 => chain.collect(),
        2 if sites > 2 => chain.chain([(sites - 1, 0)]).collect(),
        _ => (0..sites).flat_map(|a| (a + 1..sites).map(move |b| (a, b))).collect(),
    }
}

fn star(sites: usize) -> Vec<(usize, usize)> {
    (1..sites).map(|site| (0, site)).collect()
}

fn first_rows(random: &mut Random, sites: usize) -> Vec<Vec<(i64, String)>> {
    let mut rows = vec![Vec::new(); sites];
    let kind = random.below(4);
    for key in 1..=i64::try_from(random.below(KEYS)).unwrap() {
        for (site, rows) in rows.iter_mut().enumerate() {
            match kind {
                0 if site > 0 => {}
                // Equal rows, at all sites or at some.
                1 | 2 if random.once_in(3) => {}
                3 => rows.push((key, format!("first-{key}-{site}"))),
                _ => rows.push((key, format!("first-{key}"))),
            }
        }
    }
    rows
}

impl Scenario {
    /// The run of a seed.
    pub fn of(seed: u64) -> Self {
        Self::drawn(seed, None)
    }

    /// The run of a seed in which rows are merged column by column.
    pub fn merged(seed: u64) -> Self {
        Self::drawn(seed, Some(Shape::Merged))
    }

    fn drawn(seed: u64, shape: Option<Shape>) -> Self {
        let mut random = Random(seed.wrapping_mul(0x5851_F42D_4C95_7F2D));
        let sites = 2 + random.below(3);
        let edges = edges(&mut random, sites);
        let lone_writer = random.once_in(5);
        let mut scenario = Self {
            seed,
            sites,
            skews: (0..sites).map(|_| SKEWS[random.below(SKEWS.len())]).collect(),
            shape: [Shape::Family, Shape::Family, Shape::Unique, Shape::Unique, Shape::Unique, Shape::Numbered]
                [random.below(6)],
            manual: random.once_in(4),
            keep: KEEPS[usize::try_from(seed).unwrap() % KEEPS.len()],
            first: if lone_writer { vec![Vec::new(); sites] } else { first_rows(&mut random, sites) },
            batch: 1 + random.below(4),
            lone_writer,
            edges,
            steps: Vec::new(),
        };
        scenario.shape = shape.unwrap_or(scenario.shape);
        if scenario.shape == Shape::Numbered {
            scenario.keep = KEEPS[0];
        }
        let (mut operations, mut syncs) = (0, 0);
        while operations < OPERATIONS_MIN || syncs < SYNCS_MIN {
            let deed = scenario.deed(&mut random);
            match &deed {
                Deed::Transaction { operations: more, .. } => operations += more.len(),
                Deed::Sync { .. } => syncs += 1,
                _ => {}
            }
            let later = [0, 1, 1_000_000][random.below(3)];
            let turns = [0, 10, 60, ALL][random.below(4)];
            let turns = if turns == ALL { ALL } else { random.below(turns + 1) };
            scenario.steps.push(Step { name: scenario.steps.len(), deed, later, turns });
        }
        scenario
    }

    /// Whether tombstones are purged in this run.
    pub fn purges(&self) -> bool {
        self.keep < DAY
    }

    fn deed(&self, random: &mut Random) -> Deed {
        match random.below(40) {
            0..18 => Deed::Transaction {
                site: self.writer(random),
                operations: (0..=random.below(7)).map(|_| self.operation(random)).collect(),
                open: [0, 0, 1, 2, 8][random.below(5)],
                rolls_back: random.once_in(10),
            },
            18..36 => Deed::Sync {
                edge: random.below(self.edges.len()),
                turned: random.once_in(3),
                // What one way takes for one row the other would take for two.
                push_only: random.once_in(4) && self.shape != Shape::Numbered && !self.purges(),
                dies_after: random.once_in(3).then(|| 1 + random.below(150)),
            },
            36 | 37 => Deed::Again { edge: random.below(self.edges.len()), turned: random.once_in(2) },
            38 => Deed::Clock { site: random.below(self.sites), skew: SKEWS[random.below(SKEWS.len())] },
            _ => self.accident(random),
        }
    }

    /// Not with one alone who writes: what he wrote since the backup and what he writes then did not know each other.
    fn accident(&self, random: &mut Random) -> Deed {
        let site = random.below(self.sites);
        let other = 1 + random.below(self.sites - 1);
        match random.below(6) {
            0 if !self.lone_writer && self.clones() && site > 0 && site != other => {
                Deed::Clone { from: site, to: other }
            }
            1 | 2 if !self.lone_writer => Deed::Restore { site },
            _ => Deed::Backup { site },
        }
    }

    /// Two copies of one site are noticed where both meet a third that has read one of them.
    fn clones(&self) -> bool {
        self.sites > 2 && self.edges == star(self.sites) && !self.purges()
    }

    fn writer(&self, random: &mut Random) -> usize {
        if self.lone_writer { 0 } else { random.below(self.sites) }
    }

    fn operation(&self, random: &mut Random) -> Operation {
        let key = |random: &mut Random| i64::try_from(1 + random.below(KEYS)).unwrap();
        let (one, two) = (key(random), key(random));
        let write = match random.below(45) {
            // Few write whole rows.
            8..12 | 32..34 | 40..44 if self.shape == Shape::Merged => Write::Middle(one),
            12..16 | 34..36 if self.shape == Shape::Merged => Write::Partial(one),
            0..8 => Write::Insert(one, two),
            8..16 => Write::Update(one, two),
            16..24 => Write::Partial(one),
            24..28 => Write::Same(one),
            28..32 => Write::Delete(one),
            32..36 => Write::DeleteAndInsert(one, two),
            36..40 => Write::Move(one, two),
            40..44 => Write::Swap(one, two),
            _ => Write::Empty,
        };
        Operation {
            after: [0, 0, 0, 0, 1, 3][random.below(6)],
            table: if self.shape == Shape::Family { random.below(2) } else { 0 },
            write,
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sites, edges, shape, skews, first, batch, lone_writer, manual, keep, steps, .. } = self;
        writeln!(f, "{sites} sites, {edges:?}, {shape:?}, skews {skews:?}, batch {batch}")?;
        writeln!(f, "lone {lone_writer}, manual {manual}, keep {keep}")?;
        writeln!(f, "first {first:?}")?;
        steps.iter().try_for_each(|step| writeln!(f, "  {step:?}"))
    }
}
