//! The two ends of an incremental sync, as whoever drives it knows them: a database at hand, or one behind the API of
//! a peer.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::Progress;
use super::persist::{Claim, free, persist};
use super::plan::{Origin, Plan, PlanOptions, check, matching_tables, plan_from};
use super::run::{RunOptions, run};
use crate::apply::Rejects;
use crate::capture::install;
use crate::endpoint::{
    Comparand, Comparison, End, Half, LocalComparand, LocalReceiver, LocalRewriter, LocalSender, Receiver, Rewrite,
    Rewriter, Route, Sender,
};
use crate::engine::{Database, Error, ErrorKind, Lock, Result};
use crate::model::{BatchLimits, Table, TableName, text_digest};
use crate::site::{Site, Watcher, faceted, lost, open};

/// A site with the tables that it captures.
#[derive(Debug, Clone)]
pub struct Captured {
    /// Who it is.
    pub end: End,
    /// The tables, each with all of its columns.
    pub tables: Vec<Arc<Table>>,
    /// Captured tables that cannot take part as they are, and why.
    pub lost: Vec<(TableName, Error)>,
    /// Tables of which rows were just found to have been written unseen.
    pub doubted: Vec<TableName>,
    /// Columns that tables no longer have since they are captured.
    pub dropped: Vec<(TableName, Vec<String>)>,
}

impl Captured {
    /// What a site captures.
    #[must_use]
    pub fn of(site: &Site) -> Self {
        Self {
            end: End::of(site),
            tables: site.tables.iter().map(|book| book.logged.table.clone()).collect(),
            lost: site.lost.clone(),
            doubted: site.doubted.clone(),
            dropped: site.dropped.clone(),
        }
    }

    /// Whether a table had this column and has it no more.
    #[must_use]
    pub fn has_dropped(&self, table: &TableName, column: &str) -> bool {
        self.dropped.iter().any(|(of, columns)| of == table && columns.iter().any(|name| name == column))
    }

    /// A captured table.
    #[must_use]
    pub fn table(&self, name: &TableName) -> Option<&Arc<Table>> {
        self.tables.iter().find(|table| table.name == *name)
    }
}

/// A database that takes part in a sync, wherever it is.
///
/// A plan is made where the rows arrive, from what the other end tells of its tables.
#[async_trait]
pub trait Endpoint: Send + Sync {
    /// What people call it.
    fn label(&self) -> &str;
    /// The product behind it.
    fn product(&self) -> &str;
    /// How far its node's clock is ahead of this one's, in microseconds; none where the database is at hand.
    fn clock_ahead(&self) -> Option<i64> {
        None
    }
    /// Whether others may bring it in step as well, so that it is held no longer than a run takes.
    fn is_shared(&self) -> bool;
    /// The tables whose names match a pattern.
    async fn matching(&self, pattern: &str) -> Result<Vec<TableName>>;
    /// The tables that these options choose, as the other end plans for them.
    async fn origin(&self, options: &PlanOptions) -> Result<Origin>;
    /// Whether what is planned can be read here: conditions, columns. Rows are counted where they are at hand.
    async fn check(&self, plan: &mut Plan, count: bool) -> Result<()>;
    /// Plans what comes from there. Tables that are missing here are made first when the options allow it.
    async fn plan(&self, from: &Origin, options: &PlanOptions, make: bool) -> Result<Plan>;
    /// The last number that the site has given out, once it is above `since` or one of these captured tables was written
    /// to; after `longest` in any case. With [`i64::MIN`] at once.
    async fn news(&self, tables: &[TableName], since: i64, longest: Duration) -> Result<i64>;
    /// Captures these tables, besides those that are captured already; of those that are `merged`, with facets of their
    /// columns.
    async fn capture(&self, tables: &[TableName], merged: &[TableName]) -> Result<Captured>;
    /// What is captured; it may go on under another name since.
    async fn captured(&self) -> Result<Captured>;
    /// The captured tables that cannot take part as they are, and why; none where nothing is captured yet.
    async fn lost(&self) -> Result<Vec<(TableName, Error)>>;
    /// A text that is another one once something of these tables is: columns, keys, triggers, the table itself, whether
    /// facets of its columns are kept.
    async fn forms(&self, tables: &[TableName]) -> Result<String>;
    /// The database, where it is at hand.
    fn database(&self) -> Option<&Arc<dyn Database>>;
    /// The lock of this name at this end.
    async fn lock(&self, name: &str, stop: &CancellationToken, held: String) -> Result<Box<dyn Lock>>;
    /// What sends from here.
    async fn sender(&self, route: &Arc<Route>, stop: &CancellationToken) -> Result<Box<dyn Sender>>;
    /// What receives here.
    async fn receiver(&self, route: &Arc<Route>) -> Result<Box<dyn Receiver>>;
    /// How many rows a table has.
    async fn count(&self, table: &TableName) -> Result<u64>;
    /// One half of the comparison of a table; `b` is the other's database where this is A and B is at hand.
    async fn comparand(
        &self,
        comparison: &Arc<Comparison>,
        half: Half,
        b: Option<&Arc<dyn Database>>,
    ) -> Result<Box<dyn Comparand>>;
    /// What writes a table as another end has it.
    async fn rewriter(&self, rewrite: &Arc<Rewrite>) -> Result<Box<dyn Rewriter>>;
    /// Nothing more is wanted for now: what was said to the other side without waiting has time to arrive.
    async fn part(&self);
    /// The site, where it is at hand.
    ///
    /// # Errors
    /// `Unsupported` for one that is not.
    fn site(&self) -> Result<Site>;
}

/// A database at hand.
pub struct LocalEndpoint {
    database: Arc<dyn Database>,
    site: Mutex<Option<Site>>,
    /// Who looks for news, between two looks.
    watcher: Mutex<Option<Watcher>>,
    stop: CancellationToken,
    keep_tombstones: Duration,
}

impl LocalEndpoint {
    /// This one.
    #[must_use]
    pub fn new(database: &Arc<dyn Database>, stop: &CancellationToken) -> Self {
        let (site, watcher) = (Mutex::new(None), Mutex::new(None));
        Self { database: database.clone(), site, watcher, stop: stop.clone(), keep_tombstones: Site::KEEP }
    }

    /// The same, where tombstones are kept for so long.
    #[must_use]
    pub fn keeping(self, keep_tombstones: Duration) -> Self {
        Self { keep_tombstones, ..self }
    }

    fn keep(&self, site: Site) -> Captured {
        let site = Site { keep_tombstones: self.keep_tombstones, ..site };
        let captured = Captured::of(&site);
        *self.site.lock().unwrap_or_else(PoisonError::into_inner) = Some(site);
        captured
    }

    fn take_watcher(&self) -> Option<Watcher> {
        self.watcher.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Makes the tables of a plan that are missing, without rows.
    async fn make(&self, plan: &Plan) -> Result<()> {
        let claim = Claim::take(&self.database, &self.stop).await?;
        let options = RunOptions {
            concurrency: 1,
            limits: BatchLimits { rows: 1, bytes: 1 },
            force: false,
            schema_only: true,
            rejects: Arc::new(Rejects::new(PathBuf::new())),
            stop: self.stop.clone(),
        };
        // Nothing is read for that.
        let tables = plan.tables.iter().map(|table| (table.source.name.to_string(), 0));
        let report = run(&self.database, &claim, plan, options, Progress::new(tables)).await?;
        for table in &report.tables {
            table.notes.iter().for_each(|note| tracing::warn!("table {}: {note}", table.table));
        }
        Ok(())
    }
}

#[async_trait]
impl Endpoint for LocalEndpoint {
    fn label(&self) -> &str {
        self.database.label()
    }

    fn product(&self) -> &str {
        self.database.abilities().product
    }

    fn is_shared(&self) -> bool {
        false
    }

    async fn matching(&self, pattern: &str) -> Result<Vec<TableName>> {
        matching_tables(self.database.as_ref(), &self.database.tables(None).await?, pattern).await
    }

    async fn origin(&self, options: &PlanOptions) -> Result<Origin> {
        Origin::of(self.database.as_ref(), options).await
    }

    async fn check(&self, plan: &mut Plan, count: bool) -> Result<()> {
        check(self.database.as_ref(), plan, count).await
    }

    async fn plan(&self, from: &Origin, options: &PlanOptions, make: bool) -> Result<Plan> {
        let plan = plan_from(from, self.database.as_ref(), options).await?;
        if !make || plan.tables.iter().all(|table| !table.create && table.ddl.is_none()) {
            return Ok(plan);
        }
        self.make(&plan).await?;
        plan_from(from, self.database.as_ref(), options).await
    }

    async fn news(&self, tables: &[TableName], since: i64, longest: Duration) -> Result<i64> {
        let (site, started) = (self.site()?, Instant::now());
        loop {
            let began = Instant::now();
            // Taken out meanwhile: when this is dropped in the middle of a question, the connection goes with it.
            let mut watcher = match self.take_watcher().filter(|watcher| watcher.is_of(tables)) {
                Some(watcher) => watcher,
                None => Watcher::open(&site, tables).await?,
            };
            let found = since == i64::MIN || watcher.finds(since).await?;
            let number = if found { watcher.last_number().await? } else { since };
            let wait = watcher.pause(began.elapsed());
            *self.watcher.lock().unwrap_or_else(PoisonError::into_inner) = Some(watcher);
            if found || started.elapsed() + wait > longest {
                return Ok(number);
            }
            tokio::time::sleep(wait).await;
        }
    }

    async fn capture(&self, tables: &[TableName], merged: &[TableName]) -> Result<Captured> {
        Ok(self.keep(install(&self.database, tables, merged).await?))
    }

    async fn captured(&self) -> Result<Captured> {
        let site = open(&self.database).await?.ok_or_else(|| {
            Error::new(
                ErrorKind::SchemaMismatch,
                format!("the bookkeeping of {} vanished; run this again", self.label()),
            )
        })?;
        Ok(self.keep(site))
    }

    async fn forms(&self, tables: &[TableName]) -> Result<String> {
        if tables.is_empty() {
            return Ok(String::new());
        }
        let described = self.database.describe_all(tables).await?;
        let objects = self.database.objects(tables).await?;
        let triggers = self.database.own_triggers().await?;
        // A pair that was planned before does not keep them.
        let faceted: Vec<TableName> =
            faceted(&self.database).await?.into_iter().filter(|name| tables.contains(name)).collect();
        Ok(text_digest(&format!("{described:?} {objects:?} {triggers:?} {faceted:?}")))
    }

    async fn lost(&self) -> Result<Vec<(TableName, Error)>> {
        lost(&self.database).await
    }

    fn database(&self) -> Option<&Arc<dyn Database>> {
        Some(&self.database)
    }

    async fn lock(&self, name: &str, stop: &CancellationToken, held: String) -> Result<Box<dyn Lock>> {
        let lock = persist(stop, || free(self.database.as_ref(), name)).await?;
        lock.ok_or_else(|| Error::new(ErrorKind::Busy, held))
    }

    async fn sender(&self, route: &Arc<Route>, stop: &CancellationToken) -> Result<Box<dyn Sender>> {
        Ok(Box::new(LocalSender::open(&self.site()?, route, stop).await?))
    }

    async fn receiver(&self, route: &Arc<Route>) -> Result<Box<dyn Receiver>> {
        Ok(Box::new(LocalReceiver::open(&self.site()?, route).await?))
    }

    async fn count(&self, table: &TableName) -> Result<u64> {
        let described = self.database.describe(table).await?;
        let gone =
            || Error::new(ErrorKind::SchemaMismatch, format!("{} has no table '{table}' any more", self.label()));
        let described = described.ok_or_else(gone)?;
        self.database.snapshot().await?.source().await?.count(&described, None).await
    }

    async fn comparand(
        &self,
        comparison: &Arc<Comparison>,
        half: Half,
        b: Option<&Arc<dyn Database>>,
    ) -> Result<Box<dyn Comparand>> {
        Ok(Box::new(LocalComparand::open(&self.database, comparison, half, b, &self.stop).await?))
    }

    async fn rewriter(&self, rewrite: &Arc<Rewrite>) -> Result<Box<dyn Rewriter>> {
        Ok(Box::new(LocalRewriter::new(&self.database, rewrite, |_| true)))
    }

    async fn part(&self) {}

    fn site(&self) -> Result<Site> {
        let site = self.site.lock().unwrap_or_else(PoisonError::into_inner).clone();
        site.ok_or_else(|| Error::new(ErrorKind::Protocol, "a site was used before its tables were captured"))
    }
}
