//! A peer's table that is written as it is elsewhere: what it is asked, and how.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio_util::sync::DropGuard;

use super::link::Link;
use super::message::{About, Told, path};
use super::session::{Answer, Session, patience};
use crate::endpoint::codec::{Damaged, Writer};
use crate::endpoint::{Rewrite, Rewriter, Rewritten};
use crate::engine::{Result, WriteMode};
use crate::model::{Batch, ColumnDef, Table, TableName};

/// Bytes of rows that are sent at a time.
const SENT_BYTES: usize = 2 << 20;

/// [`Rewrite`]. Of the table only names are told. What new rows are filled with stands behind the head, as one row.
#[derive(Debug, Serialize, Deserialize)]
pub struct WireRewrite {
    /// The start of the node that it was made for.
    pub instance: u128,
    /// The table.
    pub table: TableName,
    /// The columns that are given.
    pub columns: Vec<String>,
    /// Those by which rows are found; none: by all of them.
    pub key: Option<Vec<usize>>,
    /// What is filled.
    pub filled: Vec<ColumnDef>,
    patience: u64,
}

impl WireRewrite {
    /// What is told of it to the node of this start, which is to answer within so many milliseconds.
    #[must_use]
    pub fn of(rewrite: &Rewrite, instance: u128, patience: u64) -> Self {
        Self {
            instance,
            table: rewrite.table.name.clone(),
            columns: rewrite.table.columns.iter().map(|column| column.name.clone()).collect(),
            key: rewrite.table.primary_key.as_ref().map(|key| key.columns.clone()),
            filled: rewrite.fill.columns().to_vec(),
            patience,
        }
    }

    /// How long an answer may take.
    #[must_use]
    pub fn patience(&self) -> Duration {
        patience(self.patience)
    }
}

/// What a table is asked that is written, see [`Rewriter`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rewriting {
    /// Opens it.
    Open(Box<About<WireRewrite>>),
    /// Rows follow, a batch for each of these.
    Put(Vec<WriteMode>),
    /// All of them are to be written.
    Write,
    /// Whether all holds; whether rows have gone.
    Verify(bool),
    /// What came of the last that was not done in time.
    Wait,
    /// It is not needed any more.
    Close,
}

/// A peer's table.
pub(super) struct RemoteRewriter {
    session: Session,
    table: Arc<Table>,
    found_by: Arc<Table>,
    /// What is to be sent.
    waiting: Vec<(WriteMode, Batch)>,
    bytes: usize,
    _alive: DropGuard,
}

impl RemoteRewriter {
    pub(super) async fn open(link: Arc<Link>, (database, instance): (String, u128), rewrite: &Rewrite) -> Result<Self> {
        let mut session = Session::new(link, path::ROWS, 1);
        let ask = WireRewrite::of(rewrite, instance, session.patience());
        let open = Rewriting::Open(Box::new(About { database: database.clone(), ask }));
        session.open(&open, &|writer: &mut Writer| writer.batch(&rewrite.fill.values())).await?;
        let alive = session.keep_alive(database);
        Ok(Self {
            session,
            table: rewrite.table.clone(),
            found_by: rewrite.found_by(),
            waiting: Vec::new(),
            bytes: 0,
            _alive: alive,
        })
    }

    async fn call(&mut self, ask: Rewriting, behind: impl Fn(&mut Writer) + Sync) -> Result<Answer> {
        self.session.ask(&ask, behind, &Rewriting::Wait).await
    }

    async fn send(&mut self) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        let rows = std::mem::take(&mut self.waiting);
        let ask = Rewriting::Put(rows.iter().map(|(mode, _)| *mode).collect());
        match self.call(ask, |writer| rows.iter().for_each(|(_, batch)| writer.batch(batch))).await?.told {
            Told::Done => Ok(()),
            _ => Err(self.session.senseless().into()),
        }
    }
}

impl Drop for RemoteRewriter {
    fn drop(&mut self) {
        self.session.close(&Rewriting::Close);
    }
}

#[async_trait]
impl Rewriter for RemoteRewriter {
    async fn put(&mut self, mode: WriteMode, rows: Batch) -> Result<()> {
        self.bytes += rows.size();
        self.waiting.push((mode, rows));
        if self.bytes > SENT_BYTES { self.send().await } else { Ok(()) }
    }

    async fn write(&mut self) -> Result<Rewritten> {
        self.send().await?;
        let answer = self.call(Rewriting::Write, |_| {}).await?;
        let Told::Rewritten([inserted, updated, deleted], refused) = &answer.told else {
            return Err(self.session.senseless().into());
        };
        let refused = self.session.read(&answer, |reader| {
            let one = |(mode, reasons): &(WriteMode, Vec<String>)| {
                let table = if *mode == WriteMode::Delete { &self.found_by } else { &self.table };
                let batch = reader.batch(table)?;
                if batch.rows() == reasons.len() { Ok((*mode, batch, reasons.clone())) } else { Err(Damaged) }
            };
            refused.iter().map(one).collect()
        })?;
        Ok(Rewritten { inserted: *inserted, updated: *updated, deleted: *deleted, refused })
    }

    async fn verify(&mut self, gone: bool) -> Result<Vec<String>> {
        match self.call(Rewriting::Verify(gone), |_| {}).await?.told {
            Told::Problems(problems) => Ok(problems),
            _ => Err(self.session.senseless().into()),
        }
    }
}
