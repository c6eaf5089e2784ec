//! What an application does in one transaction.

use std::sync::Arc;

use rowferry::engine::{ErrorKind, Result, RowLock, Target, WriteMode, WriteOptions};

use super::node::{Node, ROWS_MAX, Row, batch, row_of};
use super::oracle::{Place, Written, second};
use super::scenario::{Shape, Write};

/// One transaction of an application.
pub struct Application<'a> {
    node: &'a Node,
    target: Box<dyn Target>,
    name: String,
    written: Vec<Written>,
}

impl<'a> Application<'a> {
    /// Begins a transaction; what it writes bears this name.
    pub async fn begin(node: &'a Node, name: usize) -> Result<Self> {
        let mut target = node.db.target().await?;
        target.begin(WriteOptions::default()).await?;
        Ok(Self { node, target, name: name.to_string(), written: Vec::new() })
    }

    /// Ends it; what it wrote.
    pub async fn commit(mut self) -> Result<Vec<Written>> {
        self.target.commit().await?;
        // A row that came and went was never there.
        self.written.retain(|w| w.found.is_some() || w.left.is_some() || w.emptied);
        if self.node.shape == Shape::Merged {
            // A column that was left as it was is not written.
            self.written.retain(|w| w.found != w.left || w.whole);
        }
        Ok(self.written)
    }

    async fn row(&mut self, table: usize, key: i64) -> Result<Option<Row>> {
        let whole = &self.node.tables[table];
        let keys = batch(&Arc::new(whole.project(&[0])), key, None);
        let found = self.target.lookup(whole, &keys, RowLock::Wait).await?;
        Ok((found.rows() > 0).then(|| row_of(&found, 0).1))
    }

    /// Notes what became of a row. What was written before capture began is a row of the first meeting.
    async fn note(&mut self, place: Place, found: Option<&Row>, left: Option<&Row>) -> Result<()> {
        if !self.node.captures(place.0).await? {
            return Ok(());
        }
        let shape = self.node.shape;
        let names = |row: Option<&Row>| row.map(|row| row.names(shape));
        let (found, left) = (names(found), names(left));
        let whole = shape == Shape::Merged && found.is_some() && !self.node.is_known(place.1).await?;
        let width = if shape == Shape::Merged { 2 } else { 1 };
        for (at, place) in [place, second(place)].into_iter().enumerate().take(width) {
            let name = |names: &Option<Vec<String>>| names.as_ref().map(|names| names[at].clone());
            match self.written.iter_mut().find(|w| w.place == place) {
                Some(written) => written.left = name(&left),
                None => self.written.push(Written {
                    site: self.node.at,
                    place,
                    found: name(&found),
                    left: name(&left),
                    emptied: false,
                    undone: false,
                    whole,
                }),
            }
        }
        Ok(())
    }

    async fn put(&mut self, table: usize, key: i64, middle: Option<i64>) -> Result<()> {
        let found = self.row(table, key).await?;
        let row = Row { middle, note: format!("w{}-{key}", self.name) };
        let mode = if found.is_some() { WriteMode::Update } else { WriteMode::Insert };
        self.target.write(mode, &batch(&self.node.tables[table], key, Some(&row))).await?;
        self.note((table, key), found.as_ref(), Some(&row)).await
    }

    /// A value that no other write has.
    fn unique(&self) -> i64 {
        let (transaction, operation) = self.name.split_once('.').expect("a write has a name");
        transaction.parse::<i64>().unwrap() * 100 + operation.parse::<i64>().unwrap()
    }

    /// The column in the middle alone.
    async fn change_middle(&mut self, table: usize, key: i64) -> Result<()> {
        let Some(found) = self.row(table, key).await? else { return Ok(()) };
        let part = Arc::new(self.node.tables[table].project(&[0, 1]));
        let row = Row { middle: Some(self.unique()), ..found.clone() };
        self.target.write(WriteMode::Update, &batch(&part, key, Some(&row))).await?;
        self.note((table, key), Some(&found), Some(&row)).await
    }

    /// The note alone.
    async fn touch(&mut self, table: usize, key: i64) -> Result<()> {
        let Some(found) = self.row(table, key).await? else { return Ok(()) };
        let whole = &self.node.tables[table];
        let part = Arc::new(whole.project(&[0, whole.columns.len() - 1]));
        let row = Row { note: format!("w{}-{key}", self.name), ..found.clone() };
        self.target.write(WriteMode::Update, &batch(&part, key, Some(&row))).await?;
        self.note((table, key), Some(&found), Some(&row)).await
    }

    /// Where nothing refers to its rows.
    async fn empty(&mut self, table: usize) -> Result<()> {
        let whole = &self.node.tables[table];
        if table + 1 < self.node.tables.len() {
            return Ok(());
        }
        self.target.execute(&self.node.memory.empty_sql(&whole.name)).await?;
        // Whoever empties a table has it alone: what others wrote to it is committed.
        let stood = self.node.all(whole).await?;
        let stood: Vec<_> = (0..stood.rows()).map(|at| row_of(&stood, at)).collect();
        let own = self.written.iter().filter(|w| w.place.0 == table).map(|w| w.place.1);
        let own: Vec<i64> = own.filter(|key| !stood.iter().any(|(stood, _)| stood == key)).collect();
        for (key, row) in stood {
            self.note((table, key), Some(&row), None).await?;
        }
        for key in own {
            self.note((table, key), None, None).await?;
        }
        let of_table = |w: &&mut Written| w.place.0 == table || w.place.0 == second((table, 0)).0;
        self.written.iter_mut().filter(of_table).for_each(|w| w.emptied = true);
        Ok(())
    }

    async fn delete(&mut self, table: usize, key: i64) -> Result<bool> {
        let Some(found) = self.row(table, key).await? else { return Ok(false) };
        let tables = &self.node.tables;
        if table == 0 && tables.len() > 1 {
            let children = self.target.scan(&tables[1], None, ROWS_MAX).await?;
            for child in (0..children.rows()).map(|at| row_of(&children, at).0) {
                // Someone else may have written it since.
                if let Some(row) = self.row(1, child).await?.filter(|row| row.middle == Some(key)) {
                    self.target.write(WriteMode::Delete, &batch(&tables[1], child, Some(&row))).await?;
                    self.note((1, child), Some(&row), None).await?;
                }
            }
        }
        self.target.write(WriteMode::Delete, &batch(&tables[table], key, Some(&found))).await?;
        self.note((table, key), Some(&found), None).await?;
        Ok(true)
    }

    /// What the column in the middle may hold.
    async fn middle(&mut self, table: usize, value: i64) -> Result<Option<i64>> {
        if self.node.shape == Shape::Merged {
            return Ok(Some(self.unique()));
        }
        let family = self.node.tables.len() > 1;
        let there = !family || table == 1 && self.row(0, value).await?.is_some();
        Ok(there.then_some(value))
    }

    /// One write, as far as what stands there lets it. What is refused did not happen.
    pub async fn write(&mut self, operation: usize, table: usize, write: Write) -> Result<()> {
        let written = self.written.clone();
        let transaction = self.name.split('.').next().unwrap_or_default();
        self.name = format!("{transaction}.{operation}");
        self.target.savepoint().await?;
        match self.put_through(table, write).await {
            Err(e) if e.kind == ErrorKind::Constraint => {
                self.written = written;
                self.target.rollback_to_savepoint().await
            }
            other => other,
        }
    }

    async fn put_through(&mut self, table: usize, write: Write) -> Result<()> {
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
            Write::Middle(key) => self.change_middle(table, key).await?,
            Write::Same(key) => {
                if let Some(found) = self.row(table, key).await? {
                    self.target.write(WriteMode::Update, &batch(&self.node.tables[table], key, Some(&found))).await?;
                    self.note((table, key), Some(&found), Some(&found)).await?;
                }
            }
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
                    let middle = match self.node.shape {
                        Shape::Merged => Some(self.unique()),
                        _ => moved.and_then(|row| row.middle),
                    };
                    self.put(table, to, middle).await?;
                }
            }
            Write::Swap(one, two) if one != two => {
                if let (Some(a), Some(b)) = (self.row(table, one).await?, self.row(table, two).await?) {
                    self.put(table, one, None).await?;
                    self.put(table, two, a.middle).await?;
                    self.put(table, one, b.middle).await?;
                }
            }
            Write::Empty => self.empty(table).await?,
            Write::Insert(..) | Write::Update(..) | Write::Move(..) | Write::Swap(..) => {}
        }
        Ok(())
    }
}
