//! The sites, what is done to them, and what must hold when all is quiet.

use std::cell::{Cell as Shared, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use rowferry::engine::memory::Memory;
use rowferry::engine::{Database, Error, ErrorKind, RowLock, Target, WriteMode, WriteOptions};
use rowferry::model::{
    Batch, BatchLimits, Cell, Column, Entry, ForeignKey, ForeignKeyAction, Index, IndexColumn, Table, TableName,
};
use rowferry::pipeline::{Pair, PairOptions, PlanOptions, Preference, Report};
use rowferry::site::{Books, decode, open};
use tokio_util::sync::CancellationToken;

use super::oracle::{Met, Oracle, Place, Written};
use super::paced::Paced;
use super::scenario::{Scenario, Shape, SiteWrite, Step, Write};
use crate::contract::subject::{INT, TEXT, plain, table};

/// Far from 1970, so that no skew reaches it.
const EPOCH: i64 = 1_700_000_000_000_000;
const ROWS_MAX: usize = 10_000;
/// No sync of so few rows has so many points.
const POINTS_MAX: usize = 100_000;

/// A database and its clock.
struct Node {
    memory: Memory,
    db: Arc<dyn Database>,
    tables: Vec<Arc<Table>>,
    skew: i64,
}

struct World<'a> {
    scenario: &'a Scenario,
    nodes: Vec<Node>,
    oracle: RefCell<Oracle>,
    now: Shared<i64>,
}

type Fault = String;

fn fault(what: &str) -> impl Fn(Error) -> Fault + '_ {
    move |e| format!("{what}: {e}")
}

/// A row: what the column between key and note holds, where there is one, and the name of the content.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    middle: Option<i64>,
    note: String,
}

/// Plays it from an empty world.
pub async fn play(scenario: &Scenario) -> Result<(), Fault> {
    let world = World::new(scenario).await.map_err(fault("making the world"))?;
    for step in &scenario.steps {
        Box::pin(world.step(step)).await?;
    }
    world.quieten().await?;
    world.check().await
}

fn tables(shape: Shape) -> Vec<Table> {
    match shape {
        Shape::Unique => {
            let mut one = table("t", &[("id", INT), ("u", INT), ("note", TEXT)], &[0]);
            one.indexes.push(Index {
                name: "t_u".to_owned(),
                columns: vec![IndexColumn { name: "u".to_owned(), descending: false }],
                unique: true,
                constraint: false,
                native: None,
            });
            vec![one]
        }
        Shape::Family => {
            let mut child = table("c", &[("id", INT), ("parent", INT), ("note", TEXT)], &[0]);
            child.foreign_keys.push(ForeignKey {
                name: "c_parent".to_owned(),
                columns: vec!["parent".to_owned()],
                parent: TableName::new("p"),
                parent_columns: vec!["id".to_owned()],
                on_delete: ForeignKeyAction::NoAction,
                on_update: ForeignKeyAction::NoAction,
            });
            vec![plain("p"), child]
        }
    }
}

fn batch(table: &Arc<Table>, key: i64, row: Option<&Row>) -> Batch {
    let mut columns = vec![Column::default(); table.columns.len()];
    for (column, def) in columns.iter_mut().zip(&table.columns) {
        match (def.name.as_str(), row) {
            ("id", _) => column.push_int(key),
            ("note", Some(row)) => column.push_bytes(row.note.as_bytes()),
            (_, Some(Row { middle: Some(middle), .. })) => column.push_int(*middle),
            _ => column.push_null(),
        }
    }
    Batch::new(table.clone(), columns)
}

fn row_of(batch: &Batch, at: usize) -> (i64, Row) {
    let cell = |name: &str| batch.table.column(name).map_or(Cell::Null, |column| batch.cell(at, column));
    let Cell::Int(key) = cell("id") else { unreachable!("a key is a number") };
    let middle = match (cell("u"), cell("parent")) {
        (Cell::Int(middle), _) | (_, Cell::Int(middle)) => Some(middle),
        _ => None,
    };
    let Cell::Bytes(note) = cell("note") else { unreachable!("each row has a name") };
    (key, Row { middle, note: String::from_utf8(note.to_vec()).unwrap() })
}

/// Polls so often at most.
async fn within<F: Future>(points: usize, work: F) -> Option<F::Output> {
    let mut work = pin!(work);
    let mut left = points;
    std::future::poll_fn(|context| {
        left = match left.checked_sub(1) {
            Some(left) => left,
            None => return Poll::Ready(None),
        };
        work.as_mut().poll(context).map(Some)
    })
    .await
}

async fn after<F: Future>(points: usize, work: F) -> F::Output {
    for _ in 0..points {
        tokio::task::yield_now().await;
    }
    work.await
}

impl Node {
    async fn new(scenario: &Scenario, at: usize) -> rowferry::engine::Result<Self> {
        let memory = Memory::new(&format!("{at}"));
        let db: Arc<dyn Database> = Arc::new(Paced(memory.clone()));
        let mut target = db.target().await?;
        let books = Books::new(db.as_ref());
        let mut wanted = tables(scenario.shape);
        for one in &mut wanted {
            one.columns = one.columns.iter().map(|c| db.map_column(one, c).column).collect();
        }
        let wanted: Vec<Arc<Table>> = wanted.into_iter().map(Arc::new).collect();
        for one in wanted.iter().chain([&books.site]) {
            for sql in db.ddl(one).create {
                target.execute(&sql).await?;
            }
        }
        // Who has the lower number is part of the seed.
        let id = (scenario.seed.wrapping_add(1))
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .rotate_left(7 * u32::try_from(at).unwrap());
        let mut columns = vec![Column::default(); 5];
        columns[0].push_int(1);
        columns[1].push_bytes(format!("{:016x}", id | 1).as_bytes());
        [1, 0, 1].iter().zip(2..).for_each(|(number, column): (_, usize)| columns[column].push_int(*number));
        target.begin(WriteOptions::default()).await?;
        target.write(WriteMode::Insert, &Batch::new(books.site.clone(), columns)).await?;
        for (key, note) in &scenario.first[at] {
            let row = Row { middle: None, note: note.clone() };
            target.write(WriteMode::Insert, &batch(&wanted[0], *key, Some(&row))).await?;
        }
        target.commit().await?;
        Ok(Self { memory, db, tables: wanted, skew: scenario.skews[at] })
    }

    /// All that stands in a table of rowferry's or the application's.
    async fn all(&self, table: &Arc<Table>) -> rowferry::engine::Result<Batch> {
        let mut target = self.db.target().await?;
        target.begin(WriteOptions { point: true, ..WriteOptions::default() }).await?;
        target.scan(table, None, ROWS_MAX).await
    }

    async fn rows(&self) -> rowferry::engine::Result<BTreeMap<Place, Row>> {
        let mut rows = BTreeMap::new();
        for (at, table) in self.tables.iter().enumerate() {
            let found = self.all(table).await?;
            rows.extend((0..found.rows()).map(|row| row_of(&found, row)).map(|(key, row)| ((at, key), row)));
        }
        Ok(rows)
    }

    /// The entries of the rows and tombstones; rows that were never written have that of [`Entry::base`].
    async fn entries(&self, rows: &BTreeMap<Place, Row>) -> rowferry::engine::Result<BTreeMap<Place, String>> {
        let site = open(&self.db).await?.expect("it is a site");
        let shown = |entry: &Entry| {
            let gone = if entry.digest.is_none() { " gone" } else { "" };
            format!("{} born {} knows {}{gone}", entry.version, entry.birth, entry.vector)
        };
        let base = shown(&Entry::base(rowferry::model::Digest::default()));
        let mut entries: BTreeMap<Place, String> = rows.keys().map(|place| (*place, base.clone())).collect();
        for (at, table) in self.tables.iter().enumerate() {
            let Some(book) = site.book(&table.name) else { continue };
            let found = self.all(&book.versions).await?;
            for row in 0..found.rows() {
                let Cell::Int(key) = found.cell(row, 0) else { unreachable!("a key is a number") };
                entries.insert((at, key), shown(&decode(book, &found, row)?.entry));
            }
        }
        Ok(entries)
    }

    /// Texts of a table of rowferry's own, row by row.
    async fn texts(&self, table: &Arc<Table>) -> rowferry::engine::Result<Vec<Vec<Option<String>>>> {
        let found = self.all(table).await?;
        let text = |row, column| match found.cell(row, column) {
            Cell::Bytes(bytes) => String::from_utf8(bytes.to_vec()).ok(),
            _ => None,
        };
        Ok((0..found.rows()).map(|row| (0..found.columns().len()).map(|c| text(row, c)).collect()).collect())
    }

    fn place(&self, table: Option<&String>, key: Option<&String>) -> Place {
        let at = self.tables.iter().position(|t| Some(&t.name.to_string()) == table).unwrap();
        let key: serde_json::Value = serde_json::from_str(key.unwrap()).unwrap();
        (at, key["id"].as_str().unwrap().parse().unwrap())
    }

    async fn conflicts(&self) -> rowferry::engine::Result<Vec<Met>> {
        let note = |image: &Option<String>| {
            let row: serde_json::Value = serde_json::from_str(image.as_ref()?).unwrap();
            Some(row["note"].as_str().unwrap().to_owned())
        };
        let records = self.texts(&Books::new(self.db.as_ref()).conflicts).await?;
        let met = records.iter().map(|r| Met {
            place: self.place(r[2].as_ref(), r[3].as_ref()),
            contents: [note(&r[6]), note(&r[7])],
            policy: r[4].clone().unwrap(),
        });
        Ok(met.collect())
    }

    /// What is set aside here: in quarantine, or waiting.
    async fn aside(&self, book: &Arc<Table>) -> rowferry::engine::Result<BTreeMap<Place, String>> {
        let records = self.texts(book).await?;
        Ok(records.iter().map(|r| (self.place(r[2].as_ref(), r[3].as_ref()), r[4].clone().unwrap())).collect())
    }

    /// The last number given out.
    async fn seq(&self) -> rowferry::engine::Result<i64> {
        let found = self.all(&Books::new(self.db.as_ref()).site).await?;
        let Cell::Int(seq) = found.cell(0, 3) else { unreachable!("a number") };
        Ok(seq)
    }
}

/// One transaction of an application.
struct Application<'a> {
    node: &'a Node,
    target: Box<dyn Target>,
    name: usize,
    written: Vec<Written>,
}

impl Application<'_> {
    async fn row(&mut self, table: usize, key: i64) -> rowferry::engine::Result<Option<Row>> {
        let whole = &self.node.tables[table];
        let keys = batch(&Arc::new(whole.project(&[0])), key, None);
        let found = self.target.lookup(whole, &keys, RowLock::Wait).await?;
        Ok((found.rows() > 0).then(|| row_of(&found, 0).1))
    }

    /// Notes what becomes of a row.
    fn note(&mut self, place: Place, found: Option<&Row>, left: Option<&Row>) {
        let name = |row: Option<&Row>| row.map(|row| row.note.clone());
        match self.written.iter_mut().find(|w| w.place == place) {
            Some(written) => written.left = name(left),
            None => self.written.push(Written { place, found: name(found), left: name(left) }),
        }
    }

    async fn put(&mut self, table: usize, key: i64, middle: Option<i64>) -> rowferry::engine::Result<()> {
        let found = self.row(table, key).await?;
        let row = Row { middle, note: format!("w{}-{key}", self.name) };
        let mode = if found.is_some() { WriteMode::Update } else { WriteMode::Insert };
        self.target.write(mode, &batch(&self.node.tables[table], key, Some(&row))).await?;
        self.note((table, key), found.as_ref(), Some(&row));
        Ok(())
    }

    /// The note alone.
    async fn touch(&mut self, table: usize, key: i64) -> rowferry::engine::Result<()> {
        let Some(found) = self.row(table, key).await? else { return Ok(()) };
        let whole = &self.node.tables[table];
        let part = Arc::new(whole.project(&[0, whole.columns.len() - 1]));
        let row = Row { note: format!("w{}-{key}", self.name), ..found.clone() };
        self.target.write(WriteMode::Update, &batch(&part, key, Some(&row))).await?;
        self.note((table, key), Some(&found), Some(&row));
        Ok(())
    }

    async fn delete(&mut self, table: usize, key: i64) -> rowferry::engine::Result<bool> {
        let Some(found) = self.row(table, key).await? else { return Ok(false) };
        let tables = &self.node.tables;
        if table == 0 && tables.len() > 1 {
            let children = self.target.scan(&tables[1], None, ROWS_MAX).await?;
            for (child, row) in (0..children.rows()).map(|at| row_of(&children, at)) {
                if row.middle == Some(key) {
                    self.target.write(WriteMode::Delete, &batch(&tables[1], child, Some(&row))).await?;
                    self.note((1, child), Some(&row), None);
                }
            }
        }
        self.target.write(WriteMode::Delete, &batch(&tables[table], key, Some(&found))).await?;
        self.note((table, key), Some(&found), None);
        Ok(true)
    }

    /// What the column in the middle may hold.
    async fn middle(&mut self, table: usize, value: i64) -> rowferry::engine::Result<Option<i64>> {
        let family = self.node.tables.len() > 1;
        let there = !family || table == 1 && self.row(0, value).await?.is_some();
        Ok(there.then_some(value))
    }

    async fn write(&mut self, table: usize, write: Write) -> rowferry::engine::Result<()> {
        match write {
            Write::Insert(key, value) if self.row(table, key).await?.is_none() => {
                let middle = self.middle(table, value).await?;
                self.put(table, key, middle).await?;
            }
            Write::Update(key, value) if self.row(table, key).await?.is_some() => {
                let middle = self.middle(table, value).await?;
                self.put(table, key, middle).await?;
            }
            Write::Partial(key) => self.touch(table, key).await?,
            Write::Delete(key) => drop(self.delete(table, key).await?),
            Write::DeleteAndInsert(key, value) => {
                if self.delete(table, key).await? {
                    let middle = self.middle(table, value).await?;
                    self.put(table, key, middle).await?;
                }
            }
            Write::Move(from, to) if self.row(table, to).await?.is_none() => {
                let moved = self.row(table, from).await?;
                if self.delete(table, from).await? {
                    self.put(table, to, moved.and_then(|row| row.middle)).await?;
                }
            }
            Write::Swap(one, two) if one != two => {
                if let (Some(a), Some(b)) = (self.row(table, one).await?, self.row(table, two).await?) {
                    self.put(table, one, None).await?;
                    self.put(table, two, a.middle).await?;
                    self.put(table, one, b.middle).await?;
                }
            }
            Write::Insert(..) | Write::Update(..) | Write::Move(..) | Write::Swap(..) => {}
        }
        Ok(())
    }
}

impl<'a> World<'a> {
    async fn new(scenario: &'a Scenario) -> rowferry::engine::Result<Self> {
        let mut nodes = Vec::new();
        for at in 0..scenario.sites {
            nodes.push(Node::new(scenario, at).await?);
        }
        let world = Self { scenario, nodes, oracle: RefCell::default(), now: Shared::new(EPOCH) };
        world.set_clocks(0);
        Ok(world)
    }

    fn set_clocks(&self, later: i64) {
        self.now.set(self.now.get() + later);
        self.nodes.iter().for_each(|node| node.memory.set_now(self.now.get() + node.skew));
    }

    async fn step(&self, step: &Step) -> Result<(), Fault> {
        match step {
            Step::Write(write) => self.write(*write).await,
            Step::Sync { edge, turned, push_only, dies_after, meanwhile, beside } => {
                let points = dies_after.unwrap_or(POINTS_MAX);
                let synced = within(points, self.sync(*edge, *turned, *push_only));
                let write = async {
                    match meanwhile {
                        Some((points, write)) => after(*points, self.write(*write)).await,
                        None => Ok(()),
                    }
                };
                let other = async {
                    match beside {
                        Some(edge) => within(POINTS_MAX, self.sync(*edge, false, false)).await,
                        None => None,
                    }
                };
                let (synced, written, other) = tokio::join!(synced, write, other);
                written?;
                if synced.is_none() && dies_after.is_none() || other.is_none() && beside.is_some() {
                    return Err("a sync does not end".to_owned());
                }
                for result in [synced, other].into_iter().flatten() {
                    match result {
                        // Two at once are told to come again.
                        Err(e) if e.kind == ErrorKind::Busy => {}
                        Err(e) => return Err(fault("a sync")(e)),
                        Ok(report) => sound(&report)?,
                    }
                }
                Ok(())
            }
        }
    }

    /// What an application does; what the database refuses did not happen.
    async fn write(&self, write: SiteWrite) -> Result<(), Fault> {
        self.set_clocks(write.later);
        let node = &self.nodes[write.site];
        match self.transaction(node, write).await {
            Ok(written) => self.oracle.borrow_mut().written.extend(written),
            Err(e) if e.kind == ErrorKind::Constraint => {}
            Err(e) => return Err(fault("an application's write")(e)),
        }
        Ok(())
    }

    async fn transaction(&self, node: &Node, write: SiteWrite) -> rowferry::engine::Result<Vec<Written>> {
        let mut target = node.db.target().await?;
        target.begin(WriteOptions { defer_foreign_keys: true, ..WriteOptions::default() }).await?;
        // What is written before is a row of the first meeting.
        let captured = node.db.own_triggers().await?.len() == node.tables.len();
        let mut application = Application { node, target, name: write.name, written: Vec::new() };
        application.write(write.table, write.write).await?;
        let Application { mut target, mut written, .. } = application;
        target.commit().await?;
        written.retain(|w| captured && w.found != w.left);
        Ok(written)
    }

    async fn sync(&self, edge: usize, turned: bool, push_only: bool) -> rowferry::engine::Result<Report> {
        let (a, b) = self.scenario.edges[edge];
        let (a, b) = if turned { (b, a) } else { (a, b) };
        let options = PairOptions {
            name: format!("edge {edge}"),
            plan: PlanOptions {
                tables: self.nodes[a].tables.iter().map(|table| table.name.to_string()).collect(),
                ..PlanOptions::default()
            },
            push: true,
            pull: !push_only,
            conflict: Preference::Later,
            first_run: Preference::Source,
            limits: BatchLimits { rows: self.scenario.batch, bytes: 1 << 20 },
            stop: CancellationToken::new(),
        };
        Pair::prepare(&self.nodes[a].db, &self.nodes[b].db, options).await?.run().await
    }

    async fn seqs(&self) -> Result<Vec<i64>, Fault> {
        let mut seqs = Vec::new();
        for node in &self.nodes {
            seqs.push(node.seq().await.map_err(fault("reading the numbers"))?);
        }
        Ok(seqs)
    }

    /// Syncs along all edges until nothing changes; then once more.
    async fn quieten(&self) -> Result<(), Fault> {
        for _ in 0..4 + 4 * self.scenario.sites {
            let before = self.seqs().await?;
            let mut moved = 0;
            for edge in 0..self.scenario.edges.len() {
                let report = self.sync(edge, false, false).await.map_err(fault("a quiet sync"))?;
                sound(&report)?;
                moved += report.tables.iter().map(|t| t.inserted + t.updated + t.deleted + t.conflicts).sum::<u64>();
            }
            if self.seqs().await? == before {
                return if moved == 0 { Ok(()) } else { Err("rows were written under no number".to_owned()) };
            }
        }
        Err("it goes round and round".to_owned())
    }

    async fn check(&self) -> Result<(), Fault> {
        let reading = || fault("reading the end");
        let (mut rows, mut entries, mut met) = (Vec::new(), Vec::new(), Vec::new());
        let (mut refused, mut waiting) = (BTreeMap::new(), BTreeMap::new());
        for node in &self.nodes {
            let stand = node.rows().await.map_err(reading())?;
            entries.push(node.entries(&stand).await.map_err(reading())?);
            rows.push(stand);
            met.extend(node.conflicts().await.map_err(reading())?);
            let books = Books::new(node.db.as_ref());
            refused.extend(node.aside(&books.quarantine).await.map_err(reading())?);
            waiting.extend(node.aside(&books.waiting).await.map_err(reading())?);
        }
        let mut faults: Vec<String> = Vec::new();
        if self.scenario.lone_writer {
            let false_ones = met.iter().filter(|m| m.policy == "last-write-wins");
            faults.extend(false_ones.map(|m| format!("one alone writes, and yet: {m:?}")));
            faults.extend(refused.iter().map(|r| format!("one alone writes, and yet: {r:?}")));
        }
        let exempt: BTreeSet<Place> = refused.keys().chain(waiting.keys()).copied().collect();
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
        let named = first.iter().map(|(place, row)| (*place, row.note.clone())).collect();
        faults.extend(self.oracle.borrow().faults(&named, &met, &exempt));
        if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
    }
}

/// A table that ends with an error, which is not that of a row, is a fault.
fn sound(report: &Report) -> Result<(), Fault> {
    match report.tables.iter().find_map(|table| table.error.as_ref()) {
        Some(_) if report.error == Some(ErrorKind::Busy) => Ok(()),
        Some(error) => Err(format!("a sync ends with: {error}")),
        None => Ok(()),
    }
}
