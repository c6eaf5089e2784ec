//! What a person decides: a conflict's row is written anew at both ends, a refused change is tried once more.
//!
//! A resolution is an ordinary change with a new version above both, which travels on like any other. It gets its
//! version at the end whose row is kept (an image that comes back: where it was recorded) and is then taken in at the
//! other, under the same locks as ever. Killed in between, the conflict still stands as it was and is resolved again.

use std::sync::Arc;

use super::pair::{Pair, plan_back, reversed, route};
use super::plan::{Plan, PlanOptions};
use super::sync::TRIES;
use crate::apply::{Fill, Settled, image, key_of, row_of};
use crate::capture::Changes;
use crate::conflict::Origin;
use crate::endpoint::{
    Basis, Current, End, Keys, LocalReceiver, LocalSender, Mapping, Parcel, Place, Receiver, Route, Sender,
};
use crate::engine::{Error, ErrorKind, Result, WriteOptions};
use crate::model::{Batch, Clock, Digest, Entry, Facet, TableName, Vector};
use crate::runtime::{Backoff, random};
use crate::site::{Conflict, Site, key_id};

/// Changes set aside that are looked through for one.
const ASIDE_MAX: usize = 100_000;

/// Whose row a person keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// That of the sync's source.
    Source,
    /// That of the sync's target.
    Target,
}

impl Pair {
    /// Settles a conflict that the sync's target (`at_target`) or its source recorded. An open one keeps what stands at
    /// that end now; of one that was settled the recorded image comes back. Both ends have that row afterwards, and
    /// the records of both say so.
    ///
    /// # Errors
    /// `SchemaMismatch` when the table is no longer synced or has changed since, `Busy` when an application writes the
    /// row meanwhile, `Constraint` when an end refuses it.
    pub async fn resolve(&self, conflict: &Conflict, at_target: bool, keep: Keep) -> Result<()> {
        let (source_site, target_site) = (self.source.endpoint.site()?, self.target.endpoint.site()?);
        let backwards;
        let back = if let Some(back) = &self.back {
            back
        } else {
            backwards = self.backwards().await?;
            &backwards
        };
        let mut source = Seat::open(&source_site, self.route(&self.there, true), &self.options).await?;
        let mut target = Seat::open(&target_site, self.route(back, false), &self.options).await?;
        let open = conflict.winner == "open";
        let (recorder, other) = if at_target { (&mut target, &mut source) } else { (&mut source, &mut target) };
        recorder.find(&conflict.table, &self.options.name)?;
        other.find(&recorder.mapping().to.name.to_string(), &self.options.name)?;
        let key = recorder.key(&conflict.key)?;
        let here = recorder.current(&Keys::Sent(key.clone())).await?.changes;
        let there = other.current(&Keys::Received(key.clone())).await?.changes;

        let from_target = if open { keep == Keep::Target } else { at_target };
        let first_records = from_target == at_target;
        let (first, second) = if first_records { (&mut *recorder, &mut *other) } else { (&mut *other, &mut *recorder) };
        let (ours, theirs) = if first_records { (&here, &there) } else { (&there, &here) };
        let rows = match (open, keep) {
            (true, _) => ours.rows.clone(),
            (false, Keep::Source) => first.recorded(&conflict.source)?,
            (false, Keep::Target) => first.recorded(&conflict.target)?,
        };
        let own_key = if first_records { key.clone() } else { ours.keys.clone() };
        if own_key.rows() == 0 {
            return Err(changed(&conflict.table));
        }
        let change = first.above(own_key.clone(), ours, theirs, rows).await?;
        first.write(change).await?;
        let now = first.current(&Keys::Sent(own_key)).await?;
        second.take(first, now.clone()).await?;

        // What the first end's own triggers made of it is what both have now.
        let (kept, lost) = (shown(&now.changes), shown(if open { theirs } else { ours }));
        let (winner, source_image, target_image) = match keep {
            Keep::Source => ("source", &kept, &lost),
            Keep::Target => ("target", &lost, &kept),
        };
        let sync = &self.options.name;
        let settled = Settled { id: &conflict.id, sync, winner, source: source_image, target: target_image };
        let other_key = other.current(&Keys::Received(key.clone())).await?.changes.keys;
        recorder.settle(&settled, &key).await?;
        other.settle(&settled, &other_key).await
    }

    /// Tries refused changes of one table and direction once more, as their rows stand now. Table and keys are those
    /// that the end recorded that refused them.
    ///
    /// # Errors
    /// What the databases say. What is refused again is no error: it stays in quarantine.
    pub async fn retry(&self, to_target: bool, table: &str, keys: &[serde_json::Value]) -> Result<()> {
        let plan = if to_target { Some(&self.there) } else { self.back.as_ref() };
        let plan = plan.ok_or_else(|| unsynced(table, &self.options.name))?;
        let (from, to) = if to_target { (&self.source, &self.target) } else { (&self.target, &self.source) };
        let (from, to) = (from.endpoint.site()?, to.endpoint.site()?);
        let mut sender = Seat::open(&from, self.route(plan, to_target), &self.options).await?;
        let named = |mapping: &Mapping| mapping.to.name.to_string() == table;
        sender.table = sender.route.tables.iter().position(named).ok_or_else(|| unsynced(table, &self.options.name))?;
        let theirs = &sender.mapping().to_keys;
        let mut columns = vec![crate::model::Column::default(); theirs.columns.len()];
        for key in keys {
            let key = key_of(key, theirs).ok_or_else(|| changed(table))?;
            columns.iter_mut().zip(&key).for_each(|(column, part)| column.push_cell(part.cell(0)));
        }
        let keys = Batch::new(theirs.clone(), columns);
        let current = sender.current(&Keys::Received(keys)).await?;
        let mut receiver = LocalReceiver::open(&to, &sender.route).await?;
        receiver.take(&current.parcel(sender.table), Basis::Written).await?;
        Ok(())
    }

    /// The way back, of a sync that has none: only to carry what a person decided.
    async fn backwards(&self) -> Result<Plan> {
        let back = reversed(&self.source.captured, &self.options.plan, &self.there);
        // What a person decided goes back whatever condition its row meets.
        let options = PlanOptions { allow_loss: true, filters: Vec::new(), ..back };
        plan_back(self.source.endpoint.as_ref(), self.target.endpoint.as_ref(), &options).await
    }

    fn route(&self, plan: &Plan, push: bool) -> Arc<Route> {
        let (from, to) = if push { (&self.source, &self.target) } else { (&self.target, &self.source) };
        Arc::new(route(&from.captured, &to.captured, plan, &self.options, push).0)
    }
}

/// One end of a table, as it sends to the other.
struct Seat<'a> {
    site: &'a Site,
    route: Arc<Route>,
    sender: LocalSender,
    /// The table's place in the route.
    table: usize,
}

impl<'a> Seat<'a> {
    async fn open(site: &'a Site, route: Arc<Route>, options: &super::PairOptions) -> Result<Self> {
        Ok(Self { site, sender: LocalSender::open(site, &route, &options.stop).await?, route, table: 0 })
    }

    fn mapping(&self) -> &Mapping {
        &self.route.tables[self.table]
    }

    /// Goes to the table that has this name here.
    fn find(&mut self, name: &str, sync: &str) -> Result<()> {
        let named = |mapping: &Mapping| mapping.from.name.to_string() == name;
        self.table = self.route.tables.iter().position(named).ok_or_else(|| unsynced(name, sync))?;
        Ok(())
    }

    /// A key that this end recorded.
    fn key(&self, recorded: &serde_json::Value) -> Result<Batch> {
        let keys = &self.mapping().from_keys;
        let key = key_of(recorded, keys).ok_or_else(|| changed(&self.mapping().from.name.to_string()))?;
        Ok(Batch::new(keys.clone(), key))
    }

    /// The rows of an image that this end recorded: one, or none when it was deleted.
    fn recorded(&self, recorded: &serde_json::Value) -> Result<Batch> {
        let table = &self.mapping().from;
        row_of(recorded, table).map_err(|why| {
            let message = format!("the recorded row does not fit {} any more ({why}); write it by hand", table.name);
            Error::new(ErrorKind::SchemaMismatch, message)
        })
    }

    /// What stands here under keys, with its versions.
    async fn current(&mut self, keys: &Keys) -> Result<Current> {
        for _ in 0..TRIES {
            self.sender.fold(&[Place { table: self.table, position: i64::MAX, token: 0 }]).await?;
            let current = self.sender.current(self.table, keys).await?;
            if current.left_out.is_empty() {
                return Ok(current);
            }
        }
        Err(written(&self.mapping().from.name))
    }

    /// These rows as a write of this end that knows all that either end has.
    async fn above(&self, keys: Batch, ours: &Changes, theirs: &Changes, rows: Batch) -> Result<Changes> {
        let mut connection = self.site.database.target().await?;
        connection.begin(WriteOptions { point: true, ..WriteOptions::default() }).await?;
        let read =
            async { Ok::<_, Error>((connection.now().await?, self.site.floor(connection.as_mut()).await?)) }.await;
        connection.rollback().await?;
        let (now, floor) = read?;
        let own = ours.entries.first();
        let known: Vec<&Entry> = own.into_iter().chain(&theirs.entries).collect();
        let above = known.iter().map(|entry| entry.latest()).max().unwrap_or(Clock::ZERO);
        let version = Origin { site: self.site.id, now, floor }.version(now, above);
        // A row under a tombstone is a new one.
        let stands = own.filter(|entry| entry.digest.is_some() || rows.rows() == 0);
        let birth = stands.map_or(version, |entry| entry.birth);
        let mut vector = Vector::default();
        for entry in known {
            vector.join(&entry.vector);
        }
        vector.add(version);
        let facet = Facet { version, digest: Digest::default() };
        Ok(Changes {
            // The row is kept as a whole.
            entries: vec![Entry { version, birth, vector, digest: None, columns: vec![facet; rows.columns().len()] }],
            row_of: vec![(rows.rows() > 0).then_some(0)],
            left: vec![false],
            ..Changes::of(keys, rows)
        })
    }

    /// Takes in a change in this end's own form.
    async fn write(&self, change: Changes) -> Result<()> {
        let whole = self.site.book(&self.mapping().from.name).map(|book| book.logged.table.clone());
        let whole = whole.unwrap_or_else(|| self.mapping().from.clone());
        let table = &self.mapping().from;
        let own = Route {
            from: End::of(self.site),
            to: End::of(self.site),
            tables: vec![Mapping::new(
                (&whole, table),
                (&whole, table),
                Fill::new(table, Vec::new()),
                self.mapping().rule,
            )?],
            ..(*self.route).clone()
        };
        let mut receiver = LocalReceiver::open(self.site, &Arc::new(own)).await?;
        let parcel = Parcel { changes: vec![(0, change)], places: Vec::new(), seen: None, more: false };
        self.taken(&mut receiver, &parcel).await
    }

    /// Takes in what the other end sends.
    async fn take(&self, other: &Seat<'_>, now: Current) -> Result<()> {
        let mut receiver = LocalReceiver::open(self.site, &other.route).await?;
        self.taken(&mut receiver, &now.parcel(other.table)).await
    }

    async fn taken(&self, receiver: &mut LocalReceiver, parcel: &Parcel) -> Result<()> {
        let Some((at, change)) = parcel.changes.first() else { return Ok(()) };
        let table = &self.mapping().from.name;
        let id = |keys: &Batch, row| key_id(keys, row, &(0..keys.columns().len()).collect::<Vec<_>>());
        let key = id(&change.keys, 0);
        for tried in 1..=TRIES {
            let applied = receiver.take(parcel, Basis::Written).await?;
            if applied.iter().any(|a| a.conflicts > 0) {
                return Err(written(table));
            }
            let aside = receiver.aside(*at, ASIDE_MAX).await?;
            if (0..aside.rows()).all(|row| id(&aside, row) != key) {
                return Ok(());
            }
            // Once more also when nobody held it from this one: a run beside it may have set it aside since this one
            // held it.
            if tried > 1 && applied.iter().all(|a| a.held == 0) {
                let message = format!("{table} refuses the row; 'rowferry quarantine list' says why");
                return Err(Error::new(ErrorKind::Constraint, message));
            }
            tokio::time::sleep(Backoff::ROWS.wait(tried, random())).await;
        }
        Err(written(table))
    }

    async fn settle(&self, settled: &Settled<'_>, key: &Batch) -> Result<()> {
        let mut connection = self.site.database.target().await?;
        connection.begin(WriteOptions::default()).await?;
        settled.write(connection.as_mut(), self.site, &self.mapping().from.name, key).await?;
        connection.commit().await
    }
}

/// The image of one row, null when there is none.
fn shown(change: &Changes) -> serde_json::Value {
    if change.rows.rows() == 0 { serde_json::Value::Null } else { image((&change.rows, 0)) }
}

fn unsynced(table: &str, sync: &str) -> Error {
    let message = format!("sync {sync} does not bring table {table} there any more; put it back into the config first");
    Error::new(ErrorKind::SchemaMismatch, message)
}

fn changed(table: &str) -> Error {
    Error::new(ErrorKind::SchemaMismatch, format!("the key of {table} is another than when this was recorded"))
}

fn written(table: &TableName) -> Error {
    let message = format!("the row of {table} is being written; look at it again, then run this again");
    Error::new(ErrorKind::Busy, message)
}
