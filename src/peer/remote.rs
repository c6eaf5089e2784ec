//! The database of a peer as an end of a sync: every question goes over the wire, and is answered there by the database
//! at hand.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::comparing::RemoteComparand;
use super::link::{Answered, Link, nonce};
use super::message::{
    About, Asked, Hello, PROTOCOL, Prepared, Preparing, Receiving, Sending, Welcome, WireOptions, WireOrigin, WirePlan,
    WireRoute, path,
};
use super::rewriting::RemoteRewriter;
use super::session::{RemoteReceiver, RemoteSender};
use crate::apply::Fill;
use crate::endpoint::codec::{Reader, Writer};
use crate::endpoint::{Comparand, Comparison, Half, Receiver, Rewrite, Rewriter, Route, Sender};
use crate::engine::{Database, Error, ErrorKind, Lock, Result};
use crate::model::{Key, Table, TableName};
use crate::pipeline::{Captured, Endpoint, Origin, Plan, PlanOptions, TablePlan, matches_pattern};
use crate::runtime::{Backoff, random};
use crate::site::{SetAside, Site};

/// Clocks that are further apart than this many microseconds are told at each meeting.
const AHEAD_MAX: i64 = 10_000_000;

fn now() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}

/// How far a clock is ahead, for people.
#[must_use]
pub fn clock_told(ahead: i64) -> String {
    let tenths = ahead.unsigned_abs() / 100_000;
    format!("{}.{} s {}", tenths / 10, tenths % 10, if ahead < 0 { "behind that" } else { "ahead of that" })
}

/// About three seconds in all.
const LOCK_TRIES: u32 = 10;

/// A peer's database.
pub struct RemoteEndpoint {
    link: Arc<Link>,
    /// Who answered.
    pub welcome: Welcome,
    /// How far its clock was ahead of this node's then, in microseconds, about.
    pub ahead: i64,
    label: String,
}

impl RemoteEndpoint {
    /// Greets a peer and meets one of its databases; `None`: the one that the key opens.
    ///
    /// # Errors
    /// What stands against it: `Unreachable`, `Denied` for a key that opens nothing there, `Unsupported` for a node of
    /// another protocol.
    pub async fn meet(link: Arc<Link>, node: &str, database: Option<&str>) -> Result<Self> {
        let hello = Hello { protocol: PROTOCOL, node: node.to_owned(), database: database.map(str::to_owned) };
        let asked = now();
        let body = exchange(&link, path::HANDSHAKE, &hello).await?;
        let welcome: Welcome = head(&link, &body)?;
        let ahead = welcome.now.saturating_sub(asked.midpoint(now()));
        if welcome.protocol != PROTOCOL {
            return Err(link.error(
                ErrorKind::Unsupported,
                format!(
                    "it speaks version {} of the protocol and this node version {PROTOCOL}; bring both to one version",
                    welcome.protocol
                ),
            ));
        }
        let label = format!("{}/{}", link.name(), welcome.database);
        if ahead.abs() > AHEAD_MAX {
            tracing::warn!(
                "the clock of {label} is {} of this node: of two writes to one row the wrong one may count as the later; \
                 set the clock that is wrong",
                clock_told(ahead)
            );
        }
        Ok(Self { link, welcome, ahead, label })
    }

    async fn ask(&self, ask: Preparing) -> Result<(Prepared, Vec<u8>)> {
        let about = About { database: self.welcome.database.clone(), ask };
        let body = exchange(&self.link, path::PREPARE, &about).await?;
        match head(&self.link, &body)? {
            Prepared::Failed(kind, message) => Err(Error::new(kind.into(), message)),
            prepared => Ok((prepared, body)),
        }
    }

    fn senseless(&self) -> Error {
        self.link.error(ErrorKind::Protocol, "it answers something else than it was asked")
    }
}

/// Asks with a head alone.
pub(super) async fn exchange(link: &Link, path: &str, head: &impl serde::Serialize) -> Result<Vec<u8>> {
    let nonce = nonce();
    match link.call(path, nonce, Writer::new(nonce, head).finish()).await? {
        Answered::Body(body) => Ok(body),
        Answered::Gone => Err(link.error(ErrorKind::Unreachable, "it does not answer what it was asked")),
    }
}

fn head<T: serde::de::DeserializeOwned>(link: &Link, body: &[u8]) -> Result<T> {
    let read = Reader::new(body).and_then(|reader| reader.head());
    read.map_err(|e| link.error(ErrorKind::Protocol, format!("its answer makes no sense to this version: {e}")))
}

#[async_trait]
impl Endpoint for RemoteEndpoint {
    fn label(&self) -> &str {
        &self.label
    }

    fn product(&self) -> &str {
        &self.welcome.product
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn clock_ahead(&self) -> Option<i64> {
        Some(self.ahead)
    }

    async fn matching(&self, pattern: &str) -> Result<Vec<TableName>> {
        let names = self.welcome.tables.iter().map(|(name, _)| name);
        Ok(names.filter(|name| matches_pattern(pattern, name)).map(TableName::new).collect())
    }

    async fn origin(&self, options: &PlanOptions) -> Result<Origin> {
        match self.ask(Preparing::Origin(WireOptions::of(options))).await?.0 {
            Prepared::Origin(origin) => origin.origin(&self.welcome.node),
            _ => Err(self.senseless()),
        }
    }

    async fn check(&self, plan: &mut Plan, _count: bool) -> Result<()> {
        let asked = |table: &TablePlan| Asked {
            table: table.source.name.clone(),
            columns: table.source.columns.iter().map(|column| column.name.clone()).collect(),
            filter: table.filter.clone(),
        };
        self.ask(Preparing::Check(plan.tables.iter().map(asked).collect())).await.map(drop)
    }

    async fn plan(&self, from: &Origin, options: &PlanOptions, make: bool) -> Result<Plan> {
        let origin = Box::new(WireOrigin::of(from.clone()));
        let (Prepared::Plan(tables, refused), body) =
            self.ask(Preparing::Plan(origin, WireOptions::of(options), make)).await?
        else {
            return Err(self.senseless());
        };
        let mut reader = Reader::new(&body).map_err(|_| self.senseless())?;
        let tables = tables.into_iter().map(|table| {
            let filled = Arc::new(Table::new(table.target.name.clone(), table.filled.clone()));
            let values = reader.batch(&filled).map_err(|_| self.senseless())?;
            planned(table, values.into_columns()).ok_or_else(|| self.senseless())
        });
        let tables = tables.collect::<Result<Vec<_>>>()?;
        let refused = refused.into_iter().map(|(table, kind, said)| (table, Error::new(kind.into(), said))).collect();
        Ok(Plan { tables, mode: options.mode, serial: false, notes: Vec::new(), noisy: None, refused })
    }

    async fn news(&self, tables: &[TableName], since: i64, longest: Duration) -> Result<i64> {
        // An answer has to be there in time.
        let wait = longest.min(self.link.timeout() / 2);
        let ask = Preparing::News(tables.to_vec(), since, u64::try_from(wait.as_millis()).unwrap_or(0));
        match self.ask(ask).await?.0 {
            Prepared::News(number) => Ok(number),
            _ => Err(self.senseless()),
        }
    }

    async fn capture(&self, tables: &[TableName], merged: &[TableName]) -> Result<Captured> {
        match self.ask(Preparing::Capture(tables.to_vec(), merged.to_vec())).await?.0 {
            Prepared::Captured(captured) => self.named(captured.captured()?),
            _ => Err(self.senseless()),
        }
    }

    async fn captured(&self) -> Result<Captured> {
        match self.ask(Preparing::Captured).await?.0 {
            Prepared::Captured(captured) => self.named(captured.captured()?),
            _ => Err(self.senseless()),
        }
    }

    async fn forms(&self, tables: &[TableName]) -> Result<String> {
        match self.ask(Preparing::Forms(tables.to_vec())).await?.0 {
            Prepared::Forms(forms) => Ok(forms),
            _ => Err(self.senseless()),
        }
    }

    async fn lost(&self) -> Result<Vec<(TableName, Error)>> {
        // Before anything was captured there is nothing that could be lost.
        if self.welcome.site.is_none() {
            return Ok(Vec::new());
        }
        Ok(self.captured().await?.lost)
    }

    fn database(&self) -> Option<&Arc<dyn Database>> {
        None
    }

    async fn lock(&self, name: &str, stop: &CancellationToken, held: String) -> Result<Box<dyn Lock>> {
        for tried in 1..=LOCK_TRIES {
            match self.ask(Preparing::Lock(name.to_owned())).await?.0 {
                Prepared::Lock(Some(id)) => {
                    return Ok(Box::new(RemoteLock::new(self.link.clone(), self.welcome.database.clone(), id)));
                }
                Prepared::Lock(None) => {}
                _ => return Err(self.senseless()),
            }
            tokio::select! {
                () = tokio::time::sleep(Backoff::ROWS.wait(tried, random())) => {}
                () = stop.cancelled() => return Err(crate::capture::interrupted()),
            }
        }
        Err(Error::new(ErrorKind::Busy, held))
    }

    async fn sender(&self, route: &Arc<Route>, stop: &CancellationToken) -> Result<Box<dyn Sender>> {
        let open = Sending::Open(Box::new(self.about(route)));
        Ok(Box::new(RemoteSender::open(self.link.clone(), route.clone(), open, stop.clone()).await?))
    }

    async fn receiver(&self, route: &Arc<Route>) -> Result<Box<dyn Receiver>> {
        let open = Receiving::Open(Box::new(self.about(route)));
        Ok(Box::new(RemoteReceiver::open(self.link.clone(), route.clone(), open).await?))
    }

    async fn count(&self, table: &TableName) -> Result<u64> {
        match self.ask(Preparing::Count(table.clone())).await?.0 {
            Prepared::Count(rows) => Ok(rows),
            _ => Err(self.senseless()),
        }
    }

    async fn comparand(
        &self,
        comparison: &Arc<Comparison>,
        half: Half,
        _b: Option<&Arc<dyn Database>>,
    ) -> Result<Box<dyn Comparand>> {
        let there = (self.welcome.database.clone(), self.welcome.instance);
        Ok(Box::new(RemoteComparand::open(self.link.clone(), there, comparison.clone(), half).await?))
    }

    async fn rewriter(&self, rewrite: &Arc<Rewrite>) -> Result<Box<dyn Rewriter>> {
        if !self.welcome.rewrites {
            let what = "its version of rowferry is older than this one and has no table written as it is elsewhere; bring \
                        both to one version";
            return Err(self.link.error(ErrorKind::Unsupported, what));
        }
        let there = (self.welcome.database.clone(), self.welcome.instance);
        Ok(Box::new(RemoteRewriter::open(self.link.clone(), there, rewrite).await?))
    }

    async fn part(&self) {
        self.link.part().await;
    }

    fn site(&self) -> Result<Site> {
        let what = "what stands at a peer is settled there, or by the next sync; use the peer's own node";
        Err(self.link.error(ErrorKind::Unsupported, what))
    }
}

impl RemoteEndpoint {
    /// Whether it can be compared with something.
    ///
    /// # Errors
    /// `Unsupported` for a node of an older version, which cannot.
    pub fn must_compare(&self) -> Result<()> {
        if self.welcome.compares {
            return Ok(());
        }
        let what = "its version of rowferry is older than this one and compares nothing; bring both to one version";
        Err(self.link.error(ErrorKind::Unsupported, what))
    }

    /// How many changes wait there after these places, how long the oldest has, in microseconds, and what is set aside
    /// there under the name of a sync.
    ///
    /// # Errors
    /// What the peer says.
    pub async fn pending(&self, sync: &str, read: Vec<(TableName, i64)>) -> Result<(u64, Option<i64>, SetAside)> {
        match self.ask(Preparing::Pending(sync.to_owned(), read)).await?.0 {
            Prepared::Pending(pending, age, aside) => Ok((pending, age, aside)),
            _ => Err(self.senseless()),
        }
    }

    fn about(&self, route: &Route) -> About<WireRoute> {
        About { database: self.welcome.database.clone(), ask: WireRoute::of(route, self.welcome.instance) }
    }

    /// Under the name that it has here.
    fn named(&self, mut captured: Captured) -> Result<Captured> {
        captured.end.label.clone_from(&self.label);
        Ok(captured)
    }
}

/// A table of a plan that was made at the other node; `None` where it makes no sense.
fn planned(table: WirePlan, filled: Vec<crate::model::Column>) -> Option<TablePlan> {
    let (source, target) = (super::guard::guarded(table.source).ok()?, super::guard::guarded(table.target).ok()?);
    let same = source.columns.len() == target.columns.len();
    let inside = table.key.iter().flatten().all(|&at| at < source.columns.len());
    if !same || !inside || filled.iter().any(|column| column.len() != 1) {
        return None;
    }
    let fill = Fill::new(&target, table.filled.into_iter().zip(filled).collect());
    let (shifts, target) = (vec![None; source.columns.len()].into(), Arc::new(target));
    Some(TablePlan {
        source: Arc::new(source),
        whole: target.clone(),
        finished: target.clone(),
        target,
        fill,
        key: table.key.map(|columns| Key { columns }),
        matched: None,
        ddl: None,
        create: false,
        filter: table.filter,
        rows: 0,
        mapped: Vec::new(),
        losses: Vec::new(),
        notes: table.notes,
        shifts,
    })
}

/// A lock at a peer, which gives it away when it hears nothing for some seconds.
struct RemoteLock {
    link: Arc<Link>,
    database: String,
    id: u128,
    alive: CancellationToken,
}

/// Between two words of a holder.
const ALIVE: Duration = Duration::from_secs(4);

impl RemoteLock {
    fn new(link: Arc<Link>, database: String, id: u128) -> Self {
        let alive = CancellationToken::new();
        let lock = Self { link, database, id, alive: alive.clone() };
        let (link, database) = (lock.link.clone(), lock.database.clone());
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = alive.cancelled() => break,
                    () = tokio::time::sleep(ALIVE) => {
                        let about = About { database: database.clone(), ask: Preparing::Held(id) };
                        // One that is lost is noticed by whoever asks for it.
                        let _ = exchange(&link, path::PREPARE, &about).await;
                    }
                }
            }
        });
        lock
    }
}

#[async_trait]
impl Lock for RemoteLock {
    async fn is_held(&mut self) -> bool {
        let about = About { database: self.database.clone(), ask: Preparing::Held(self.id) };
        let Ok(body) = exchange(&self.link, path::PREPARE, &about).await else { return false };
        matches!(head(&self.link, &body), Ok(Prepared::Lock(Some(_))))
    }
}

impl Drop for RemoteLock {
    fn drop(&mut self) {
        self.alive.cancel();
        let (nonce, about) = (nonce(), About { database: self.database.clone(), ask: Preparing::Unlock(self.id) });
        self.link.farewell(path::PREPARE, nonce, Writer::new(nonce, &about).finish());
    }
}
