//! A database, its clock, and what stands in it.

use std::cell::Cell as Shared;
use std::collections::BTreeMap;
use std::sync::Arc;

use rowferry::engine::memory::{Backup, Memory};
use rowferry::engine::{Database, Result, WriteMode, WriteOptions};
use rowferry::model::{
    Batch, Cell, Column, Digest, Entry, ForeignKey, ForeignKeyAction, Identity, Index, IndexColumn, Site, Table,
    TableName,
};
use rowferry::site::{Books, Moved, decode, open};

use super::broken::Broken;
use super::oracle::{Met, Place};
use super::paced::Paced;
use super::scenario::{Scenario, Shape};
use crate::contract::subject::{INT, TEXT, plain, table};

pub const ROWS_MAX: usize = 10_000;

pub struct Node {
    pub at: usize,
    pub memory: Memory,
    /// What rowferry and applications use.
    pub db: Arc<dyn Database>,
    pub tables: Vec<Arc<Table>>,
    pub shape: Shape,
    /// What its clock is off by, in microseconds.
    pub skew: Shared<i64>,
    /// Tables of which it is known that their writes are noted.
    captured: Shared<[bool; 2]>,
}

/// A row: what the column between key and note holds, where there is one, and the name of the content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub middle: Option<i64>,
    pub note: String,
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
                native: None,
            });
            vec![plain("p"), child]
        }
        Shape::Merged => vec![table("m", &[("id", INT), ("x", INT), ("note", TEXT)], &[0])],
        Shape::Numbered => {
            let mut one = plain("n");
            one.columns[0].identity = Some(Identity::ByDefault);
            vec![one]
        }
    }
}

pub fn batch(table: &Arc<Table>, key: i64, row: Option<&Row>) -> Batch {
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

pub fn row_of(batch: &Batch, at: usize) -> (i64, Row) {
    let cell = |name: &str| batch.table.column(name).map_or(Cell::Null, |column| batch.cell(at, column));
    let Cell::Int(key) = cell("id") else { unreachable!("a key is a number") };
    let middle = ["u", "parent", "x"].into_iter().find_map(|name| match cell(name) {
        Cell::Int(middle) => Some(middle),
        _ => None,
    });
    let Cell::Bytes(note) = cell("note") else { unreachable!("each row has a name") };
    (key, Row { middle, note: String::from_utf8(note.to_vec()).unwrap() })
}

impl Row {
    /// The names of its contents: that of each column where they are merged, else that of the row.
    pub fn names(&self, shape: Shape) -> Vec<String> {
        let middle = || self.middle.map_or("nothing".to_owned(), |middle| middle.to_string());
        std::iter::once(self.note.clone()).chain((shape == Shape::Merged).then(middle)).collect()
    }
}

impl Node {
    pub async fn new(scenario: &Scenario, at: usize, broken: Option<Broken>) -> Result<Self> {
        let memory = Memory::new(&format!("{at}"));
        // Who has the lower number is part of the seed.
        let id = (scenario.seed.wrapping_add(1))
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .rotate_left(7 * u32::try_from(at).unwrap())
            | 1;
        let site = Site { id, epoch: 1 };
        let db: Arc<dyn Database> = Arc::new(Paced { memory: memory.clone(), site, broken });
        let mut target = db.target().await?;
        let books = Books::new(db.as_ref());
        let mut wanted = tables(scenario.shape);
        for one in &mut wanted {
            one.columns = one.columns.iter().map(|c| db.map_column(one, c).column).collect();
        }
        let wanted: Vec<Arc<Table>> = wanted.into_iter().map(Arc::new).collect();
        for one in wanted.iter().chain([&books.site, &books.marks]) {
            for sql in db.ddl(one).create {
                target.execute(&sql).await?;
            }
        }
        let mut columns = vec![Column::default(); 5];
        columns[0].push_int(1);
        columns[1].push_bytes(format!("{id:016x}").as_bytes());
        // The first number is given out where capture is installed. What a broken rule shows is known of runs that begin
        // before it, in which a site without any number passes for one that was never read.
        let first = i64::from(scenario.shape == Shape::Numbered);
        [1, first, 1].iter().zip(2..).for_each(|(number, column): (_, usize)| columns[column].push_int(*number));
        let mut mark = vec![Column::default(); 2];
        [1, i64::from(site.epoch)].iter().zip(&mut mark).for_each(|(number, column)| column.push_int(*number));
        target.begin(WriteOptions::default()).await?;
        target.write(WriteMode::Insert, &Batch::new(books.site.clone(), columns)).await?;
        if first > 0 {
            target.write(WriteMode::Insert, &Batch::new(books.marks.clone(), mark)).await?;
        }
        for (key, note) in &scenario.first[at] {
            let row = Row { middle: None, note: note.clone() };
            target.write(WriteMode::Insert, &batch(&wanted[0], *key, Some(&row))).await?;
        }
        target.commit().await?;
        Ok(Self {
            at,
            memory,
            db,
            tables: wanted,
            shape: scenario.shape,
            skew: Shared::new(scenario.skews[at]),
            captured: Shared::default(),
        })
    }

    /// Another content stands here from now on.
    pub fn restore(&self, backup: &Backup) {
        self.memory.restore(backup);
        self.captured.set(<[bool; 2]>::default());
    }

    /// All that stands in a table of rowferry's or the application's.
    pub async fn all(&self, table: &Arc<Table>) -> Result<Batch> {
        let mut target = self.memory.target().await?;
        target.begin(WriteOptions { point: true, ..WriteOptions::default() }).await?;
        target.scan(table, None, ROWS_MAX).await
    }

    pub async fn rows(&self) -> Result<BTreeMap<Place, Row>> {
        let mut rows = BTreeMap::new();
        for (at, table) in self.tables.iter().enumerate() {
            let found = self.all(table).await?;
            rows.extend((0..found.rows()).map(|row| row_of(&found, row)).map(|(key, row)| ((at, key), row)));
        }
        Ok(rows)
    }

    /// The entries of the rows and tombstones; rows that were never written have that of [`Entry::base`].
    pub async fn entries(&self, rows: &BTreeMap<Place, Row>) -> Result<BTreeMap<Place, String>> {
        let site = open(&self.db).await?.expect("it is a site");
        let shown = |entry: &Entry| {
            if entry.version.is_base() {
                return "older than capture".to_owned();
            }
            let gone = if entry.digest.is_none() { " gone" } else { "" };
            let columns: Vec<String> = entry.columns.iter().map(|facet| facet.version.to_string()).collect();
            let Entry { version, birth, vector, .. } = entry;
            format!("{version} born {birth} knows {vector} columns {columns:?}{gone}")
        };
        let base = shown(&Entry::base(Digest::default()));
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

    /// What is known of rows that got another number, without the numbers under which it was noted.
    pub async fn moves(&self) -> Result<Vec<Moved>> {
        let site = open(&self.db).await?.expect("it is a site");
        let mut target = self.memory.target().await?;
        target.begin(WriteOptions::default()).await?;
        let moves = site.moves_above(target.as_mut(), i64::MIN).await;
        target.rollback().await?;
        Ok(moves?.into_iter().map(|moved| Moved { seq: 0, ..moved }).collect())
    }

    /// Texts of a table of rowferry's own, row by row.
    async fn texts(&self, table: &Arc<Table>) -> Result<Vec<Vec<Option<String>>>> {
        if self.memory.describe(&table.name).await?.is_none() {
            return Ok(Vec::new());
        }
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

    pub async fn conflicts(&self) -> Result<Vec<Met>> {
        let columns = |image: &Option<String>| -> Option<Vec<String>> {
            let row: serde_json::Value = serde_json::from_str(image.as_ref()?).unwrap();
            let middle = row["x"].as_str().map(|middle| middle.parse().unwrap());
            Some(Row { middle, note: row["note"].as_str().unwrap().to_owned() }.names(self.shape))
        };
        let contents = |images: [Option<Vec<String>>; 2]| {
            let width = images.iter().flatten().map(Vec::len).max().unwrap_or(1);
            let of = |at: usize| images.clone().map(|image| image.map(|columns| columns[at].clone()));
            (0..width).map(of).collect()
        };
        let records = self.texts(&Books::new(self.db.as_ref()).conflicts).await?;
        let met = records.iter().map(|r| Met {
            place: self.place(r[2].as_ref(), r[3].as_ref()),
            contents: contents([columns(&r[6]), columns(&r[7])]),
            policy: r[4].clone().unwrap(),
            open: r[5].as_deref() == Some("open"),
        });
        Ok(met.collect())
    }

    /// Whether a row of the only table has a version.
    pub async fn is_known(&self, key: i64) -> Result<bool> {
        let Some(versions) = self.memory.describe(&TableName::new("_rowferry_versions_1")).await? else {
            return Ok(false);
        };
        let digest = versions.column("_rowferry_digest").expect("a column of ours");
        let all = self.all(&Arc::new(versions)).await?;
        let stands = |row| all.cell(row, 0) == Cell::Int(key) && all.cell(row, digest) != Cell::Null;
        Ok((0..all.rows()).any(stands))
    }

    /// What is set aside here: in quarantine, or waiting.
    pub async fn aside(&self, book: &Arc<Table>) -> Result<BTreeMap<Place, String>> {
        let records = self.texts(book).await?;
        Ok(records.iter().map(|r| (self.place(r[2].as_ref(), r[3].as_ref()), r[4].clone().unwrap())).collect())
    }

    /// The last number given out.
    pub async fn seq(&self) -> Result<i64> {
        let found = self.all(&Books::new(self.db.as_ref()).site).await?;
        let Cell::Int(seq) = found.cell(0, 3) else { unreachable!("a number") };
        Ok(seq)
    }

    /// Whether writes to a table are noted. Whoever has written to it asks: nobody changes that while he is at work.
    pub async fn captures(&self, table: usize) -> Result<bool> {
        let mut captured = self.captured.get();
        if !captured[table] && self.memory.describe(&Books::new(&self.memory).tables.name).await?.is_some() {
            let (db, there) = (Arc::new(self.memory.clone()) as Arc<dyn Database>, self.memory.own_triggers().await?);
            let site = open(&db).await?;
            let book = site.as_ref().and_then(|site| site.book(&self.tables[table].name));
            captured[table] = book.is_some_and(|book| book.log.triggers.iter().all(|name| there.contains(name)));
            self.captured.set(captured);
        }
        Ok(captured[table])
    }

    /// The keys of which the logs have lines that no version knows of; `None` stands for all of a table.
    pub async fn noted(&self) -> Result<Vec<Option<Place>>> {
        if self.memory.describe(&Books::new(&self.memory).tables.name).await?.is_none() {
            return Ok(Vec::new());
        }
        let Some(site) = open(&self.db).await? else { return Ok(Vec::new()) };
        let mut noted = Vec::new();
        for book in &site.tables {
            let table = self.tables.iter().position(|table| table.name == book.logged.table.name).expect("a table");
            let lines = self.all(&book.log.table).await?;
            let key = lines.table.column("id").expect("the key");
            noted.extend((0..lines.rows()).map(|row| match lines.cell(row, key) {
                Cell::Int(key) => Some((table, key)),
                _ => None,
            }));
        }
        Ok(noted)
    }

    /// A backup older than capture does not say who it is.
    pub async fn rename(&self, number: usize) -> Result<()> {
        let books = Books::new(&self.memory);
        if self.memory.describe(&books.tables.name).await?.is_some() {
            return Ok(());
        }
        let mut target = self.memory.target().await?;
        target.begin(WriteOptions::default()).await?;
        let mut columns = target.scan(&books.site, None, 1).await?.into_columns();
        let mut name = Column::default();
        name.push_bytes(format!("{:08x}{number:08x}", self.at + 1).as_bytes());
        columns[1] = name;
        target.write(WriteMode::Update, &Batch::new(books.site.clone(), columns)).await?;
        target.commit().await
    }
}
