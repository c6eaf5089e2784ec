//! What a node keeps for itself, beside the databases that it brings in step: its identity, the keys of its API, how its
//! syncs stand.
//!
//! It is one table of JSON documents, each with a kind and a name, in a database of the node's own, which is made and
//! written as any other. Positions in feeds are *not* here: they stand in the database that took the changes in.

mod keys;

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Mutex, MutexGuard};

use crate::config::DatabaseConfig;
use crate::engine::{Database, Error, ErrorKind, OpenOptions, Result, RowLock, Target, WriteMode, WriteOptions, open};
use crate::model::{Batch, Cell, Column, ColumnDef, Key, LogicalType, Table, TableName};
use crate::runtime::private_file;

pub use keys::{Grant, Issued, KeyRecord, digest_of, new_key};

/// More documents than this are not read.
const DOCUMENTS_MAX: usize = 100_000;

/// The longest name of a document, in characters: short enough for a key on every engine.
pub const NAME_MAX: u32 = 160;

/// What a document is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The node itself.
    Node,
    /// A key of the API.
    Key,
    /// How a sync stands.
    Sync,
    /// What was seen of a database.
    Database,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Key => "key",
            Self::Sync => "sync",
            Self::Database => "database",
        }
    }
}

/// The store. A clone is the same one.
#[derive(Clone)]
pub struct State {
    database: Arc<dyn Database>,
    table: Arc<Table>,
    /// One connection, opened at need; one that failed is not used again.
    connection: Arc<Mutex<Option<Box<dyn Target>>>>,
}

impl State {
    /// Opens the store at this place, and makes it there if need be: a file that nobody but its owner reads.
    ///
    /// # Errors
    /// What stands against it, said to be about the state.
    pub async fn open(place: &DatabaseConfig) -> Result<Self> {
        let about = |e: Error| e.context("state");
        if let Some(file) = place.file() {
            private_file(file).map_err(|e| {
                Error::new(ErrorKind::Usage, format!("state: {} cannot be written: {e}", file.display()))
            })?;
        }
        let options = OpenOptions { create: true, ..OpenOptions::default() };
        let database = open(place.url.expose(), &options).await.map_err(about)?;
        let table = table(database.as_ref());
        if database.describe(&table.name).await.map_err(about)?.is_none() {
            let mut target = database.target().await.map_err(about)?;
            let ddl = database.ddl(&table);
            for sql in ddl.create.iter().chain(&ddl.after_rows) {
                target.execute(sql).await.map_err(about)?;
            }
        }
        Ok(Self { database, table, connection: Arc::default() })
    }

    /// A document.
    pub async fn get<T: DeserializeOwned>(&self, kind: Kind, name: &str) -> Result<Option<T>> {
        let mut open = self.begin().await?;
        let found = open.target.lookup(&self.table, &self.key(kind, name), RowLock::None).await?;
        open.commit().await?;
        if found.rows() == 0 { Ok(None) } else { Ok(Some(self.document(&found, 0)?)) }
    }

    /// Writes a document, in place of the one of this name.
    pub async fn put(&self, kind: Kind, name: &str, document: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(document).map_err(|e| Error::new(ErrorKind::Protocol, e.to_string()))?;
        let key = self.key(kind, name);
        let mut columns = key.clone().into_columns();
        let mut documents = Column::default();
        documents.push_bytes(text.as_bytes());
        columns.push(documents);
        let row = Batch::new(self.table.clone(), columns);
        let mut open = self.begin().await?;
        let there = open.target.lookup(&self.table, &key, RowLock::Wait).await?.rows() > 0;
        open.target.write(if there { WriteMode::Update } else { WriteMode::Insert }, &row).await?;
        open.commit().await
    }

    /// Removes a document; whether it was there.
    pub async fn remove(&self, kind: Kind, name: &str) -> Result<bool> {
        let mut open = self.begin().await?;
        let there = open.target.lookup(&self.table, &self.key(kind, name), RowLock::Wait).await?;
        if there.rows() > 0 {
            open.target.write(WriteMode::Delete, &there).await?;
        }
        open.commit().await?;
        Ok(there.rows() > 0)
    }

    /// All documents of a kind with their names, by name.
    pub async fn list<T: DeserializeOwned>(&self, kind: Kind) -> Result<Vec<(String, T)>> {
        let mut open = self.begin().await?;
        let all = open.target.scan(&self.table, None, DOCUMENTS_MAX).await?;
        open.commit().await?;
        let mut found = Vec::new();
        for row in 0..all.rows() {
            if all.cell(row, 0) == Cell::Bytes(kind.word().as_bytes())
                && let Cell::Bytes(name) = all.cell(row, 1)
            {
                found.push((String::from_utf8_lossy(name).into_owned(), self.document(&all, row)?));
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }

    /// A transaction on the one connection, which is taken out meanwhile: one that fails, or whose work is given up, is
    /// not used again.
    async fn begin(&self) -> Result<Open<'_>> {
        let mut place = self.connection.lock().await;
        let mut target = match place.take() {
            Some(target) => target,
            None => self.database.target().await?,
        };
        target.begin(WriteOptions::default()).await?;
        Ok(Open { place, target })
    }

    fn key(&self, kind: Kind, name: &str) -> Batch {
        let mut columns = vec![Column::default(); 2];
        columns[0].push_bytes(kind.word().as_bytes());
        columns[1].push_bytes(name.as_bytes());
        Batch::new(Arc::new(self.table.project(&[0, 1])), columns)
    }

    fn document<T: DeserializeOwned>(&self, batch: &Batch, row: usize) -> Result<T> {
        let read = |bytes: &[u8]| serde_json::from_slice(bytes).ok();
        let Cell::Bytes(bytes) = batch.cell(row, 2) else { return Err(self.damaged()) };
        read(bytes).ok_or_else(|| self.damaged())
    }

    fn damaged(&self) -> Error {
        let message = format!("the state in {} is damaged or of a newer rowferry", self.database.label());
        Error::new(ErrorKind::BadData, message)
    }
}

/// `kind name document`, in the types of its database.
fn table(database: &dyn Database) -> Arc<Table> {
    let column = |name: &str, max| ColumnDef {
        nullable: false,
        ..ColumnDef::new(name, LogicalType::Text { max, fixed: false })
    };
    let columns = vec![column("kind", Some(20)), column("name", Some(NAME_MAX)), column("document", None)];
    let mut table = Table::new(TableName::new("_rowferry_state"), columns);
    table.primary_key = Some(Key { columns: vec![0, 1] });
    table.columns = table.columns.iter().map(|column| database.map_column(&table, column).column).collect();
    Arc::new(table)
}

/// A transaction under way.
struct Open<'a> {
    place: MutexGuard<'a, Option<Box<dyn Target>>>,
    target: Box<dyn Target>,
}

impl Open<'_> {
    async fn commit(mut self) -> Result<()> {
        self.target.commit().await?;
        *self.place = Some(self.target);
        Ok(())
    }
}
