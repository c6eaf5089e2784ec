//! What a sync needs before it runs.

use std::sync::Arc;
use std::time::Duration;

use super::super::answer::{Problem, Reply};
use super::super::auth::{Access, Needs, Way};
use super::super::router::Call;
use super::super::rows::the_database;
use super::{answer, damaged, forbidden, must_hold, must_open, opened};
use crate::engine::{Database, Error, ErrorKind, ReadRequest, Result, Selection};
use crate::jobs::waiting;
use crate::model::{BatchLimits, Table, TableName};
use crate::peer::{About, Asked, Prepared, Preparing, Reader, WireCaptured, WireOptions, WireOrigin, WirePlan, Writer};
use crate::pipeline::{
    Captured, Endpoint as _, LocalEndpoint, Origin, Plan, PlanOptions, exact_pattern, matches_pattern,
};
use crate::site;

/// For who waits for something new.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Answers one question.
pub(in super::super) async fn prepare(call: Call) -> Reply {
    let reader = Reader::new(&call.body).map_err(damaged)?;
    let About { database: name, ask } = reader.head::<About<Preparing>>().map_err(damaged)?;
    let access = call.access()?;
    let name = the_database(&call.config, access, Some(&name))?;
    let database = call.node.databases.get(&call.config, &name).await?;
    let here = Here { call: &call, access, name: &name, database: &database };
    let mut plan = None;
    let prepared = match ask {
        Preparing::Origin(options) => here.origin(options).await?,
        Preparing::Check(asked) => here.check(asked).await?,
        Preparing::Plan(origin, options, make) => {
            let (prepared, made) = here.plan(*origin, options, make).await?;
            plan = made;
            prepared
        }
        Preparing::Capture(tables, merged) => here.capture(tables, merged).await?,
        Preparing::Captured => here.told(LocalEndpoint::new(&database, &call.node.stop).captured().await),
        Preparing::Forms(tables) => here.forms(tables).await?,
        Preparing::News(tables, since, wait) => here.news(tables, since, wait).await?,
        Preparing::Pending(sync, read) => here.pending(&sync, read).await?,
        Preparing::Count(table) => here.count(&table).await?,
        Preparing::Alive(half) => {
            call.sessions.touch(half, access);
            Prepared::Done
        }
        Preparing::Lock(lock) => here.lock(&lock).await?,
        Preparing::Unlock(id) => {
            call.sessions.unlock(&access.name, id);
            Prepared::Done
        }
        Preparing::Held(id) => Prepared::Lock(call.sessions.held(&access.name, id).await.then_some(id)),
    };
    let mut writer = Writer::new(reader.nonce, &prepared);
    for table in plan.iter().flat_map(|plan: &Plan| &plan.tables) {
        writer.batch(&table.fill.values());
    }
    Ok(answer(writer.finish()))
}

/// A database, and who asks.
struct Here<'a> {
    call: &'a Call,
    access: &'a Access,
    name: &'a str,
    database: &'a Arc<dyn Database>,
}

/// An answer, or why the caller may not have one.
type Answered<T> = std::result::Result<T, Problem>;

impl Here<'_> {
    fn endpoint(&self) -> LocalEndpoint {
        LocalEndpoint::new(self.database, &self.call.node.stop)
    }

    /// The tables that the patterns choose among those that the key opens.
    async fn origin(&self, options: WireOptions) -> Answered<Prepared> {
        let options = options.options();
        let own = opened(self.database.as_ref(), self.access, self.name).await?;
        let mut names = Vec::new();
        for pattern in &options.tables {
            let found: Vec<&TableName> = own.iter().filter(|name| matches_pattern(pattern, &name.name)).collect();
            if found.is_empty() {
                let message = format!("'{}' has no table '{pattern}' that key '{}' opens", self.name, self.access.name);
                return Ok(Error::new(ErrorKind::SchemaMismatch, message).into());
            }
            names.extend(found.into_iter().map(|name| exact_pattern(&name.name)));
        }
        let options = PlanOptions { tables: names, ..options };
        Ok(match Origin::of(self.database.as_ref(), &options).await {
            Ok(origin) => {
                let conditions = origin.tables.iter().filter_map(|table| {
                    let name = table.name.to_string();
                    let condition = self.access.grant(self.name, &name)?.filter?;
                    Some((name, condition))
                });
                let conditions = conditions.collect();
                // Where a database is, is nobody's business elsewhere.
                let told = Origin { label: self.name.to_owned(), conditions, ..origin };
                Prepared::Origin(Box::new(WireOrigin::of(told)))
            }
            Err(e) => e.into(),
        })
    }

    async fn check(&self, asked: Vec<Asked>) -> Answered<Prepared> {
        for table in &asked {
            must_hold(self.access, self.name, &table.table, table.filter.as_deref())?;
        }
        Ok(self.readable(asked).await.map_or_else(Prepared::from, |()| Prepared::Done))
    }

    async fn readable(&self, asked: Vec<Asked>) -> Result<()> {
        let snapshot = self.database.snapshot().await?;
        let mut reader = snapshot.source().await?;
        for Asked { table: name, columns, filter } in asked {
            let table = self.described(&name).await?;
            let at: Option<Vec<usize>> = columns.iter().map(|column| table.column(column)).collect();
            let other = || Error::new(ErrorKind::SchemaMismatch, format!("'{}' has no such table {name}", self.name));
            let table = Arc::new(table.project(&at.ok_or_else(other)?));
            let limits = BatchLimits { rows: 1, bytes: 1 };
            let request = ReadRequest { table, filter, rows: Selection::All, ordered: false, limits };
            reader.check(&request).await.map_err(|e| e.of_table(&name))?;
        }
        Ok(())
    }

    async fn plan(&self, origin: WireOrigin, options: WireOptions, make: bool) -> Answered<(Prepared, Option<Plan>)> {
        if make && !self.access.may(Needs::Rows(Way::In)) {
            return Err(forbidden(format!("key '{}' only gets rows; it makes no tables here", self.access.name)));
        }
        let options = PlanOptions { create: make && options.creates(), ..options.options() };
        let origin = match origin.origin("of a peer") {
            Ok(origin) => origin,
            Err(e) => return Ok((e.into(), None)),
        };
        for table in &origin.tables {
            let same = origin.product == self.database.abilities().product;
            let own = if same { table.name.clone() } else { TableName::new(table.name.name.clone()) };
            must_open(self.access, self.name, options.renamed.get(&table.name.to_string()).unwrap_or(&own))?;
        }
        Ok(match self.endpoint().plan(&origin, &options, make).await {
            Ok(plan) => {
                let table = |table: &crate::pipeline::TablePlan| WirePlan {
                    source: (*table.source).clone(),
                    target: (*table.target).clone(),
                    filled: table.fill.columns().to_vec(),
                    key: table.key.as_ref().map(|key| key.columns.clone()),
                    filter: table.filter.clone(),
                    notes: table.notes.clone(),
                };
                let refused = plan.refused.iter().map(|(table, e)| crate::peer::refused(table, e));
                (Prepared::Plan(plan.tables.iter().map(table).collect(), refused.collect()), Some(plan))
            }
            Err(e) => (e.into(), None),
        })
    }

    async fn capture(&self, tables: Vec<TableName>, merged: Vec<TableName>) -> Answered<Prepared> {
        for table in tables.iter().chain(&merged) {
            must_open(self.access, self.name, table)?;
        }
        Ok(self.told(self.endpoint().capture(&tables, &merged).await))
    }

    async fn forms(&self, tables: Vec<TableName>) -> Answered<Prepared> {
        for table in &tables {
            must_open(self.access, self.name, table)?;
        }
        Ok(self.endpoint().forms(&tables).await.map_or_else(Prepared::from, Prepared::Forms))
    }

    async fn news(&self, tables: Vec<TableName>, since: i64, wait: u64) -> Answered<Prepared> {
        for table in &tables {
            must_open(self.access, self.name, table)?;
        }
        let endpoint = self.endpoint();
        let work = async {
            endpoint.captured().await?;
            endpoint.news(&tables, since, Duration::from_millis(wait).min(WAIT_MAX)).await
        };
        let news = tokio::select! {
            news = work => news,
            () = self.call.node.stop.cancelled() => Err(Error::new(ErrorKind::Unreachable, "this node is stopping")),
        };
        Ok(news.map_or_else(Prepared::from, Prepared::News))
    }

    async fn pending(&self, sync: &str, read: Vec<(TableName, i64)>) -> Answered<Prepared> {
        for (table, _) in &read {
            must_open(self.access, self.name, table)?;
        }
        let told = async {
            let (pending, age) = self.counted(read).await?;
            // At last: what a cursor passes without becoming a row is set aside in the same transaction.
            Ok::<_, Error>(Prepared::Pending(pending, age, site::set_aside(self.database, sync).await?))
        };
        Ok(told.await.unwrap_or_else(Prepared::from))
    }

    /// The rows of a table that the key opens.
    async fn count(&self, name: &TableName) -> Answered<Prepared> {
        let grant = must_open(self.access, self.name, name)?;
        if !self.access.may(Needs::Rows(Way::Out)) {
            return Err(forbidden(format!("key '{}' gets no rows from here", self.access.name)));
        }
        let count = async {
            let table = self.described(name).await?;
            self.database.snapshot().await?.source().await?.count(&table, grant.filter.as_deref()).await
        };
        Ok(count.await.map_or_else(Prepared::from, Prepared::Count))
    }

    async fn described(&self, name: &TableName) -> Result<Table> {
        let missing = || Error::new(ErrorKind::SchemaMismatch, format!("'{}' has no such table {name}", self.name));
        self.database.describe(name).await?.ok_or_else(missing)
    }

    async fn counted(&self, read: Vec<(TableName, i64)>) -> Result<(u64, Option<i64>)> {
        let Some(site) = site::open(self.database).await? else { return Ok((0, None)) };
        let snapshot = self.database.snapshot().await?;
        let mut source = snapshot.source().await?;
        let mut reading = self.database.target().await?;
        let (mut pending, mut age) = (0, None);
        for (table, position) in read {
            let Some(book) = site.book(&table) else { continue };
            pending += source.count(&book.log.table, None).await?;
            let waiting = waiting(book, position, source.as_mut(), reading.as_mut()).await?;
            pending += waiting.pending;
            age = age.max(waiting.age);
        }
        Ok((pending, age))
    }

    /// What is captured, as far as the key opens it.
    fn told(&self, captured: Result<Captured>) -> Prepared {
        match captured {
            Ok(mut captured) => {
                self.name.clone_into(&mut captured.end.label);
                let opened = |table: &TableName| self.access.grant(self.name, &table.to_string()).is_some();
                Prepared::Captured(Box::new(WireCaptured::of(&captured, opened)))
            }
            Err(e) => e.into(),
        }
    }

    /// A lock by which two nodes that drive one pair take turns, or that of who writes tables.
    async fn lock(&self, lock: &str) -> Answered<Prepared> {
        let plain = lock.len() <= 64 && lock.bytes().all(|b| b.is_ascii_alphanumeric() || b == b' ');
        // Whoever writes a table as it is elsewhere keeps others from it meanwhile.
        let writes = lock == "tables";
        if writes && !self.access.may(Needs::Rows(Way::In)) {
            return Err(forbidden(format!("key '{}' only gets rows; it writes none here", self.access.name)));
        }
        if !plain || !(writes || lock.starts_with("pair ")) {
            return Err(Problem::malformed("there is no such lock"));
        }
        let whose = (self.access.name.as_str(), format!("{} {lock}", self.name));
        // One that the same caller has was left over by a connection that broke: it takes it over.
        if let Some(id) = self.call.sessions.take_over(&whose) {
            return Ok(Prepared::Lock(Some(id)));
        }
        Ok(match self.database.lock(lock).await {
            Ok(Some(lock)) => Prepared::Lock(Some(self.call.sessions.keep_lock(&whose, lock)?)),
            Ok(None) => Prepared::Lock(None),
            Err(e) => e.into(),
        })
    }
}
