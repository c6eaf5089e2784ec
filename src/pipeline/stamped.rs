//! A database that only sends, and in which nothing is put: a column of each table says when its rows were written.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::ends::{Captured, Endpoint, LocalEndpoint};
use super::plan::{Origin, Plan, PlanOptions};
use crate::endpoint::{Comparand, Comparison, End, Half, Receiver, Rewrite, Rewriter, Route, Sender, StampedSender};
use crate::engine::{Database, Error, ErrorKind, Lock, Result};
use crate::model::{Site, TableName, text_digest};

/// Whether there is something new is told by a round alone: this long after the last one.
const LOOKS: Duration = Duration::from_secs(1);

/// A database at hand that sends what its timestamp columns tell.
pub struct StampedEndpoint {
    inner: LocalEndpoint,
    database: Arc<dyn Database>,
    sync: String,
    captured: Mutex<Option<Captured>>,
}

impl StampedEndpoint {
    /// This one, for a sync.
    #[must_use]
    pub fn new(database: &Arc<dyn Database>, sync: &str, stop: &CancellationToken) -> Self {
        let inner = LocalEndpoint::new(database, stop);
        Self { inner, database: database.clone(), sync: sync.to_owned(), captured: Mutex::new(None) }
    }

    fn only_sends(&self) -> Error {
        Error::new(
            ErrorKind::Unsupported,
            format!("capture: timestamp only reads {}; nothing is kept there to take rows in with", self.label()),
        )
    }
}

#[async_trait]
impl Endpoint for StampedEndpoint {
    fn label(&self) -> &str {
        self.inner.label()
    }

    fn product(&self) -> &str {
        self.inner.product()
    }

    fn is_shared(&self) -> bool {
        false
    }

    async fn matching(&self, pattern: &str) -> Result<Vec<TableName>> {
        self.inner.matching(pattern).await
    }

    async fn origin(&self, options: &PlanOptions) -> Result<Origin> {
        self.inner.origin(options).await
    }

    async fn check(&self, plan: &mut Plan, count: bool) -> Result<()> {
        self.inner.check(plan, count).await
    }

    async fn plan(&self, from: &Origin, options: &PlanOptions, make: bool) -> Result<Plan> {
        self.inner.plan(from, options, make).await
    }

    async fn news(&self, _tables: &[TableName], since: i64, longest: Duration) -> Result<i64> {
        tokio::time::sleep(LOOKS.min(longest)).await;
        Ok(since.saturating_add(1))
    }

    async fn capture(&self, tables: &[TableName], merged: &[TableName]) -> Result<Captured> {
        if let Some(table) = merged.first() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "{table} of {} cannot be merged column by column: capture: timestamp does not say which columns were \
                     written; write capture: trigger or another conflict policy",
                    self.label()
                ),
            ));
        }
        let described = self.database.describe_all(tables).await?;
        // The same in each run, and another for each sync and database: what its cursors are kept by.
        let id = Site::stamped(&format!("{} {}", self.sync, self.database.identity().await?));
        let end = End {
            site: id,
            label: self.label().to_owned(),
            product: self.database.abilities().product.to_owned(),
            zone: self.database.zone().clone(),
        };
        let captured = Captured {
            end,
            tables: described.into_iter().flatten().map(Arc::new).collect(),
            lost: Vec::new(),
            doubted: Vec::new(),
            dropped: Vec::new(),
        };
        *self.captured.lock().unwrap_or_else(PoisonError::into_inner) = Some(captured.clone());
        Ok(captured)
    }

    async fn captured(&self) -> Result<Captured> {
        let captured = self.captured.lock().unwrap_or_else(PoisonError::into_inner).clone();
        captured.ok_or_else(|| Error::new(ErrorKind::Protocol, "an end was used before its tables were looked at"))
    }

    async fn lost(&self) -> Result<Vec<(TableName, Error)>> {
        Ok(Vec::new())
    }

    async fn forms(&self, tables: &[TableName]) -> Result<String> {
        Ok(text_digest(&format!("{:?}", self.database.describe_all(tables).await?)))
    }

    fn database(&self) -> Option<&Arc<dyn Database>> {
        Some(&self.database)
    }

    async fn lock(&self, name: &str, stop: &CancellationToken, held: String) -> Result<Box<dyn Lock>> {
        self.inner.lock(name, stop, held).await
    }

    async fn sender(&self, route: &Arc<Route>, stop: &CancellationToken) -> Result<Box<dyn Sender>> {
        Ok(Box::new(StampedSender::open(&self.database, route, stop).await?))
    }

    async fn receiver(&self, _route: &Arc<Route>) -> Result<Box<dyn Receiver>> {
        Err(self.only_sends())
    }

    async fn count(&self, table: &TableName) -> Result<u64> {
        self.inner.count(table).await
    }

    async fn comparand(
        &self,
        comparison: &Arc<Comparison>,
        half: Half,
        b: Option<&Arc<dyn Database>>,
    ) -> Result<Box<dyn Comparand>> {
        self.inner.comparand(comparison, half, b).await
    }

    async fn rewriter(&self, rewrite: &Arc<Rewrite>) -> Result<Box<dyn Rewriter>> {
        self.inner.rewriter(rewrite).await
    }

    async fn part(&self) {}

    fn site(&self) -> Result<crate::site::Site> {
        Err(self.only_sends())
    }
}
