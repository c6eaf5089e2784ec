//! The sites, what is done to them, and what must hold when all is quiet.

use std::cell::{Cell as Shared, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use rowferry::engine::memory::Backup;
use rowferry::engine::{Database, Error, ErrorKind, WriteMode, WriteOptions};
use rowferry::model::{Batch, BatchLimits, Cell, Column};
use rowferry::pipeline::{Pair, PairOptions, PlanOptions, Preference, Report};
use rowferry::site::{Books, Cursor, Moved, open};
use tokio_util::sync::CancellationToken;

use super::application::Application;
use super::broken::Broken;
use super::node::{Node, Row};
use super::oracle::{Oracle, Place, second};
use super::scenario::{ALL, Deed, Operation, Random, Scenario, Shape};
use super::schedule::{Parked, Tasks};

/// Far from 1970, so that no skew reaches it.
const EPOCH: i64 = 1_700_000_000_000_000;

struct World<'a> {
    scenario: &'a Scenario,
    nodes: Vec<Node>,
    oracle: RefCell<Oracle>,
    /// By site: what was last kept of it, and how many writes were known then.
    backups: RefCell<Vec<(Backup, usize)>>,
    now: Shared<i64>,
    /// The number of the step that is under way.
    step: Shared<usize>,
    parked: Parked,
    /// By edge, direction and way: what is in place need not be planned again each time.
    pairs: RefCell<BTreeMap<(usize, bool, bool), Pair>>,
    faults: RefCell<Vec<Fault>>,
    /// What was done, for the digest of a run.
    done: RefCell<Vec<String>>,
}

type Fault = String;

fn fault(what: &str) -> impl Fn(Error) -> Fault + '_ {
    move |e| format!("{what}: {e}")
}

/// Plays it from an empty world. What happened, as text.
pub async fn play(scenario: &Scenario, broken: Option<Broken>) -> Result<String, Fault> {
    let world = World::new(scenario, broken).await.map_err(fault("making the world"))?;
    let mut tasks = Tasks::default();
    for step in &scenario.steps {
        world.step.set(world.step.get() + 1);
        world.pass(step.later);
        world.begin(&mut tasks, step.name, &step.deed).await.map_err(fault("a step"))?;
        // Dice of its own, so that what follows stays what it is when a step is left out.
        tasks.run(&mut Random(scenario.seed ^ step.name as u64), step.turns, &world.parked).await;
        world.found()?;
    }
    world.step.set(usize::MAX);
    tasks.run(&mut Random(scenario.seed), ALL, &world.parked).await;
    drop(tasks);
    world.found()?;
    world.quieten().await?;
    world.check().await?;
    Ok(world.done.borrow().join("\n"))
}

impl<'a> World<'a> {
    async fn new(scenario: &'a Scenario, broken: Option<Broken>) -> rowferry::engine::Result<Self> {
        let mut nodes = Vec::new();
        for at in 0..scenario.sites {
            nodes.push(Node::new(scenario, at, broken).await?);
        }
        let backups = nodes.iter().map(|node| (node.memory.backup(), 0)).collect();
        let world = Self {
            scenario,
            backups: RefCell::new(backups),
            nodes,
            oracle: RefCell::default(),
            now: Shared::new(EPOCH),
            step: Shared::new(0),
            parked: Parked::default(),
            pairs: RefCell::default(),
            faults: RefCell::default(),
            done: RefCell::default(),
        };
        world.pass(0);
        Ok(world)
    }

    /// Time goes on.
    fn pass(&self, later: i64) {
        self.now.set(self.now.get() + later);
        self.nodes.iter().for_each(|node| node.memory.set_now(self.now.get() + node.skew.get()));
    }

    /// What was found so far.
    fn found(&self) -> Result<(), Fault> {
        let faults = self.faults.borrow();
        if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
    }

    async fn begin<'w>(&'w self, tasks: &mut Tasks<'w>, name: usize, deed: &'w Deed) -> rowferry::engine::Result<()> {
        match deed {
            Deed::Transaction { site, operations, open, rolls_back } => {
                tasks.begin(ALL, self.transaction(name, *site, operations, *open, *rolls_back));
            }
            Deed::Sync { edge, turned, push_only, dies_after } => {
                let work = async move { self.judge(name, self.sync(*edge, *turned, *push_only).await) };
                tasks.begin(dies_after.unwrap_or(ALL), work);
            }
            Deed::Again { edge, turned } => self.again(*edge, *turned).await?,
            Deed::Clock { site, skew } => {
                self.nodes[*site].skew.set(*skew);
                self.pass(0);
            }
            Deed::Backup { site } => {
                let known = self.oracle.borrow().written.len();
                self.backups.borrow_mut()[*site] = (self.nodes[*site].memory.backup(), known);
            }
            Deed::Restore { site } => {
                let (backup, known) = self.backups.borrow()[*site].clone();
                self.replace(name, *site, &backup, known, tasks).await?;
            }
            Deed::Clone { from, to } => {
                tasks.run(&mut Random(name as u64), ALL, &self.parked).await;
                let backup = self.nodes[*from].memory.backup();
                self.replace(name, *to, &backup, 0, tasks).await?;
            }
        }
        Ok(())
    }

    /// Puts a backup in place of what stands at a site, which was written `known` writes ago. Whoever can go on ends first;
    /// the others die.
    async fn replace<'w>(
        &'w self,
        name: usize,
        site: usize,
        backup: &Backup,
        known: usize,
        tasks: &mut Tasks<'w>,
    ) -> rowferry::engine::Result<()> {
        tasks.run(&mut Random(name as u64), ALL, &self.parked).await;
        *tasks = Tasks::default();
        let node = &self.nodes[site];
        let recorded = node.conflicts().await?;
        node.restore(backup);
        node.rename(name).await?;
        let noted = node.noted().await?;
        let mut oracle = self.oracle.borrow_mut();
        oracle.forgotten.extend(recorded);
        oracle.undo(site, known);
        oracle.twice.extend(noted.into_iter().flatten());
        let edges = &self.scenario.edges;
        self.pairs.borrow_mut().retain(|(edge, ..), _| edges[*edge].0 != site && edges[*edge].1 != site);
        self.done.borrow_mut().push(format!("{name}: restored"));
        Ok(())
    }

    /// What an application does, as far as the database lets it; what is refused as a whole did not happen.
    async fn transaction(&self, name: usize, site: usize, operations: &[Operation], open: usize, rolls_back: bool) {
        let node = &self.nodes[site];
        let wait = |steps: usize| {
            let due = self.step.get().saturating_add(steps);
            self.parked.until(move || self.step.get() >= due)
        };
        let work = async {
            let mut application = Application::begin(node, name).await?;
            for (at, operation) in operations.iter().enumerate() {
                wait(operation.after).await;
                application.write(at, operation.table, operation.write).await?;
            }
            wait(open).await;
            if rolls_back {
                return Ok(());
            }
            let written = application.commit().await?;
            tracing::info!("step {name} wrote at site {site}: {written:?}");
            self.done.borrow_mut().push(format!("{name}: {written:?}"));
            self.oracle.borrow_mut().commit(written, self.scenario.lone_writer);
            Ok(())
        };
        match work.await {
            Ok(()) => {}
            Err(Error { kind: ErrorKind::Constraint | ErrorKind::Busy, .. }) => {
                self.done.borrow_mut().push(format!("{name}: refused"));
            }
            Err(e) => self.faults.borrow_mut().push(fault("an application's write")(e)),
        }
    }

    fn judge(&self, name: usize, result: rowferry::engine::Result<Report>) {
        let verdict = match &result {
            // Two at once are told to come again, and so is whoever meets what an application holds for long.
            Err(e) if e.kind == ErrorKind::Busy || is_first(e.message()) => Ok(()),
            Err(e) => Err(format!("a sync ends with: {e}")),
            Ok(report) => sound(report),
        };
        let told = result.map(|report| report.tables.iter().map(|t| (t.inserted, t.updated, t.deleted)).collect());
        self.done.borrow_mut().push(format!("{name}: {:?}", told.map_err(|e| e.kind) as Result<Vec<_>, _>));
        self.faults.borrow_mut().extend(verdict.err());
    }

    fn ends(&self, edge: usize, turned: bool) -> (usize, usize) {
        let (a, b) = self.scenario.edges[edge];
        if turned { (b, a) } else { (a, b) }
    }

    async fn sync(&self, edge: usize, turned: bool, push_only: bool) -> rowferry::engine::Result<Report> {
        let known = self.pairs.borrow_mut().remove(&(edge, turned, push_only));
        let mut pair = match known {
            Some(pair) => pair,
            None => self.prepare(edge, turned, push_only).await?,
        };
        tracing::info!("sync along edge {edge}{}", if turned { ", turned" } else { "" });
        let report = pair.run().await;
        self.tell().await?;
        self.pairs.borrow_mut().insert((edge, turned, push_only), pair);
        report
    }

    /// What stands at each site, for whoever looks at a run that fails.
    async fn tell(&self) -> rowferry::engine::Result<()> {
        if !tracing::enabled!(tracing::Level::INFO) {
            return Ok(());
        }
        for (at, node) in self.nodes.iter().enumerate() {
            let rows = node.rows().await?;
            tracing::info!("site {at}: {rows:?}");
            let known = if node.captures(0).await? { node.entries(&rows).await? } else { BTreeMap::new() };
            for (place, entry) in known {
                tracing::info!("  {place:?}: {entry}");
            }
        }
        Ok(())
    }

    async fn prepare(&self, edge: usize, turned: bool, push_only: bool) -> rowferry::engine::Result<Pair> {
        let (a, b) = self.ends(edge, turned);
        let merged = self.scenario.shape == Shape::Merged;
        let options = PairOptions {
            name: format!("edge {edge}"),
            plan: PlanOptions {
                tables: self.nodes[a].tables.iter().map(|table| table.name.to_string()).collect(),
                ..PlanOptions::default()
            },
            push: true,
            pull: !push_only,
            conflict: if merged { Preference::Columns } else { Preference::Later },
            tables: BTreeMap::new(),
            first_run: if self.scenario.manual { Preference::Manual } else { Preference::Source },
            limits: BatchLimits { rows: self.scenario.batch, bytes: 1 << 20 },
            full: false,
            stop: CancellationToken::new(),
        };
        Pair::prepare(&self.nodes[a].db, &self.nodes[b].db, options).await
    }

    /// Both ends believe that the receiving one is at the first place that the sending one still has a mark of.
    async fn again(&self, edge: usize, turned: bool) -> rowferry::engine::Result<()> {
        let (from, to) = self.ends(edge, turned);
        let (from, to) = (&self.nodes[from], &self.nodes[to]);
        for node in [from, to] {
            let books = Books::new(&node.memory);
            for book in [&books.readers, &books.cursors] {
                if node.memory.describe(&book.name).await?.is_none() {
                    return Ok(());
                }
            }
        }
        let (Some(source), Some(reader)) = (open(&from.db).await?, open(&to.db).await?) else { return Ok(()) };
        let marks = from.all(&source.books.marks).await?;
        let number = |row: usize, column: usize| match marks.cell(row, column) {
            Cell::Int(number) => number,
            _ => 0,
        };
        let Some(first) = (0..marks.rows()).min_by_key(|row| number(*row, 0)) else { return Ok(()) };
        let (position, token) = (number(first, 0), number(first, 1));
        let name = |id: u64| format!("{id:016x}");
        let mut ends = [from.memory.target().await?, to.memory.target().await?];
        let books = [(&source.books.readers, reader.id.id), (&reader.books.cursors, source.id.id)];
        for (target, (book, whose)) in ends.iter_mut().zip(books) {
            target.begin(WriteOptions::default()).await?;
            let all = target.scan(book, None, usize::MAX).await?;
            let at = book.column("position").expect("a column of ours");
            let epoch = i64::from(source.id.epoch);
            let ours = |row: &usize| {
                // That all was seen is not forgotten: else who sends could be restored to before it, and nobody knew.
                all.cell(*row, 0) == Cell::Bytes(name(whose).as_bytes())
                    && all.cell(*row, 1) != Cell::Int(i64::from(Cursor::SEEN))
                    && all.cell(*row, at - 1) == Cell::Int(epoch)
                    && matches!(all.cell(*row, at), Cell::Int(there) if there > position)
            };
            let ours = all.select((0..all.rows()).filter(ours).collect::<Vec<_>>().into_iter());
            let mut columns = ours.columns().to_vec();
            for (column, value) in [(Some(at), position), (book.column("token"), token)] {
                let mut same = Column::default();
                (0..ours.rows()).for_each(|_| same.push_int(value));
                if let Some(column) = column {
                    columns[column] = same;
                }
            }
            match target.write(WriteMode::Update, &Batch::new((*book).clone(), columns)).await {
                Ok(_) => {}
                // A sync is just writing it.
                Err(e) if e.kind == ErrorKind::Busy => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        // The note first: a reader that knows less than was noted passes for restored.
        for mut target in ends {
            target.commit().await?;
        }
        Ok(())
    }

    async fn seqs(&self) -> Result<Vec<i64>, Fault> {
        let mut seqs = Vec::new();
        for node in &self.nodes {
            seqs.push(node.seq().await.map_err(fault("reading the numbers"))?);
        }
        Ok(seqs)
    }

    /// What each site knows of its rows, and which of them have got another number.
    async fn known(&self) -> Result<Vec<(BTreeMap<Place, String>, Vec<Moved>)>, Fault> {
        let mut known = Vec::new();
        for node in &self.nodes {
            let rows = node.rows().await.map_err(fault("reading the rows"))?;
            known.push(if node.captures(0).await.map_err(fault("reading the rows"))? {
                let entries = node.entries(&rows).await.map_err(fault("reading the entries"))?;
                (entries, node.moves().await.map_err(fault("reading the moves"))?)
            } else {
                Default::default()
            });
        }
        Ok(known)
    }

    /// Syncs along all edges until nothing changes; then once more.
    async fn quieten(&self) -> Result<(), Fault> {
        for round in 0..4 + 4 * self.scenario.sites {
            let (before, known) = (self.seqs().await?, self.known().await?);
            let mut moved = 0;
            for edge in 0..self.scenario.edges.len() {
                let report = self.sync(edge, false, false).await.map_err(fault("a quiet sync"))?;
                sound(&report)?;
                moved += report.tables.iter().map(|t| t.inserted + t.updated + t.deleted).sum::<u64>();
            }
            if self.seqs().await? == before {
                return if moved == 0 { Ok(()) } else { Err("rows were written under no number".to_owned()) };
            }
            // In the first round what applications wrote over itself gets numbers.
            if round > 0 && self.known().await? == known {
                return Err("numbers were given out though nothing was new".to_owned());
            }
        }
        Err("it goes round and round".to_owned())
    }

    async fn check(&self) -> Result<(), Fault> {
        let reading = || fault("reading the end");
        let (mut rows, mut entries, mut met) = (Vec::new(), Vec::new(), Vec::new());
        let (mut refused, mut waiting) = (BTreeMap::new(), BTreeMap::new());
        let mut faults: Vec<String> = Vec::new();
        for (at, node) in self.nodes.iter().enumerate() {
            let stand = node.rows().await.map_err(reading())?;
            entries.push(node.entries(&stand).await.map_err(reading())?);
            rows.push(stand);
            met.extend(node.conflicts().await.map_err(reading())?);
            let books = Books::new(node.db.as_ref());
            refused.extend(node.aside(&books.quarantine).await.map_err(reading())?);
            waiting.extend(node.aside(&books.waiting).await.map_err(reading())?);
            let noted = node.noted().await.map_err(reading())?;
            if !noted.is_empty() {
                faults.push(format!("lines are left in the logs of {at}: {noted:?}"));
            }
        }
        if self.scenario.lone_writer {
            faults.extend(met.iter().map(|m| format!("one alone writes, and yet: {m:?}")));
            faults.extend(refused.iter().map(|r| format!("one alone writes, and yet: {r:?}")));
        }
        let open = met.iter().filter(|m| m.open).map(|m| m.place);
        if !self.scenario.manual {
            let one_row = |place: &Place| self.oracle.borrow().births(*place) < 2;
            faults.extend(open.clone().filter(one_row).map(|place| format!("{place:?}: one row alone was born")));
        }
        let exempt: BTreeSet<Place> = refused.keys().chain(waiting.keys()).copied().chain(open).collect();
        let (first, first_entries) = (&rows[0], &entries[0]);
        for (at, (rows, entries)) in rows.iter().zip(&entries).enumerate().skip(1) {
            let places: BTreeSet<&Place> = [first.keys(), rows.keys()]
                .into_iter()
                .flatten()
                .chain(entries.keys())
                .chain(first_entries.keys())
                .collect();
            for place in places.into_iter().filter(|place| !exempt.contains(place)) {
                if first.get(place) != rows.get(place) {
                    faults.push(format!("{place:?}: {:?} at 0, {:?} at {at}", first.get(place), rows.get(place)));
                }
                if first_entries.get(place) != entries.get(place) {
                    let (one, other) = (first_entries.get(place), entries.get(place));
                    faults.push(format!("{place:?}: {one:?} at 0, {other:?} at {at}"));
                }
            }
        }
        let names = |(place, row): (&Place, &Row)| {
            [*place, second(*place)].into_iter().zip(row.names(self.scenario.shape)).collect::<Vec<_>>()
        };
        let named = first.iter().flat_map(names).collect();
        let exempt = exempt.iter().flat_map(|place| [*place, second(*place)]).collect();
        let oracle = self.oracle.borrow();
        let found = if self.scenario.shape == Shape::Numbered {
            let (oracle, stand, met, exempt) = oracle.by_row(&named, &met, &exempt);
            if stand.len() < named.len() {
                faults.push(format!("one row stands under two numbers: {named:?}"));
            }
            let named = stand;
            oracle.faults(&named, &met, &exempt)
        } else {
            oracle.faults(&named, &met, &exempt)
        };
        faults.extend(found);
        if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
    }
}

/// A table that ends with an error, which is not that of a row, is a fault.
fn sound(report: &Report) -> Result<(), Fault> {
    match report.tables.iter().find_map(|table| table.error.as_ref()) {
        Some(error) if report.error == Some(ErrorKind::Busy) || is_first(error) => Ok(()),
        Some(error) => Err(format!("a sync ends with: {error}")),
        None => Ok(()),
    }
}

/// Two of one pair at once, which the pair's lock keeps apart elsewhere, may both be the first to note who reads: one of
/// them is refused, and comes again.
fn is_first(error: &str) -> bool {
    error.contains("table _rowferry_readers: there is a row")
}
