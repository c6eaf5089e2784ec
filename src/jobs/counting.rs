//! What waits in the logs and versions of the databases of a sync.

use std::sync::Arc;
use std::time::Duration;

use super::Databases;
use super::standing::SyncRecord;
use crate::config::{Capture, Config, Direction, Endpoint, Mode, Peer, Sync, proxies};
use crate::engine::{Database, Error, ErrorKind, Result, Source, Target, WriteOptions};
use crate::model::{Cell, TableName, Version};
use crate::peer::{Link, RemoteEndpoint};
use crate::pipeline::matches_pattern;
use crate::site::{self, Book, SetAside, Site};

/// Changes of a table whose age is looked at: the oldest are among the first.
const AGES_MAX: usize = 1000;
/// For a peer that is asked how it stands.
const ASK_MAX: Duration = Duration::from_secs(3);

/// What stands in the databases of a sync.
#[derive(Debug, Default)]
pub(super) struct Counted {
    /// Some table was never read by the other end.
    pub(super) unread: bool,
    pub(super) pending: u64,
    /// How long the oldest of it has waited, in microseconds.
    pub(super) age: Option<i64>,
    pub(super) aside: SetAside,
    /// Why the other end could not be asked what it has.
    pub(super) away: Option<Error>,
}

impl Counted {
    fn add(&mut self, waiting: Waiting) {
        self.pending += waiting.pending;
        self.age = self.age.max(waiting.age);
    }
}

/// What of a table waits for a reader.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Lines and versions.
    pub pending: u64,
    /// How long the oldest of them has waited, in microseconds by the database's clock.
    pub age: Option<i64>,
}

/// Counts what is pending in both directions of a sync; `None` where no log tells.
pub(super) async fn count(
    config: &Config,
    sync: &Sync,
    databases: &Databases,
    record: Option<&SyncRecord>,
) -> Result<Option<Counted>> {
    if sync.mode != Mode::Incremental || sync.capture == Capture::Timestamp {
        return Ok(None);
    }
    let other = match &sync.target {
        Endpoint::Database(other) => other,
        Endpoint::Peer { peer, database } => {
            let source = databases.get(config, &sync.source).await?;
            let afar = Afar { config, sync, peer, database: database.as_deref() };
            return afar.count(&source, record.and_then(|record| record.peer)).await.map(Some);
        }
    };
    let (source, target) = (databases.get(config, &sync.source).await?, databases.get(config, other).await?);
    let mut counted = Counted::default();
    match (site::open(&source).await?, site::open(&target).await?) {
        (Some(source), Some(target)) => {
            if sync.direction != Direction::Pull {
                one_way(sync, &source, &target, false, &mut counted).await?;
            }
            if sync.direction != Direction::Push {
                one_way(sync, &target, &source, true, &mut counted).await?;
            }
        }
        _ => counted.unread = true,
    }
    // At last: what a cursor passes without becoming a row is set aside in the same transaction.
    for database in [&source, &target] {
        counted.aside += site::set_aside(database, &sync.name).await?;
    }
    Ok(Some(counted))
}

/// Versions of a table after a place, which were not counted in its log before. The log is counted first, then the
/// reader's cursor is read, then this: whatever was written before and has not arrived is in one of the counts.
///
/// # Errors
/// What the database says.
pub async fn waiting(book: &Book, position: i64, source: &mut dyn Source, reading: &mut dyn Target) -> Result<Waiting> {
    reading.begin(WriteOptions { point: true, ..WriteOptions::default() }).await?;
    let unread = reading.scan(&book.versions, Some((book.seq(), position)), AGES_MAX).await?;
    let lines = reading.scan(&book.log.table, None, AGES_MAX).await?;
    let now = reading.now().await?;
    reading.rollback().await?;
    let pending = if unread.rows() < AGES_MAX {
        unread.rows() as u64
    } else {
        source.count(&book.versions, Some(&format!("_rowferry_seq > {position}"))).await?
    };
    let versions = (0..unread.rows()).filter_map(|row| match unread.cell(row, book.width()) {
        Cell::Bytes(bytes) => {
            Version::from_bytes(bytes).ok().and_then(|version| i64::try_from(version.clock.micros()).ok())
        }
        _ => None,
    });
    let wall = book.log.table.column(crate::engine::ChangeLog::WALL);
    let noted = (0..lines.rows()).filter_map(|row| match lines.cell(row, wall?) {
        Cell::Int(at) => Some(at),
        _ => None,
    });
    // A row without a version of its own has no age.
    let oldest = versions.chain(noted).filter(|at| *at > 0).min();
    Ok(Waiting { pending, age: oldest.map(|oldest| (now - oldest).max(0)) })
}

/// A sync whose other end is a peer's.
struct Afar<'a> {
    config: &'a Config,
    sync: &'a Sync,
    peer: &'a str,
    database: Option<&'a str>,
}

impl Afar<'_> {
    /// What this end has for the other is counted here, by how far that one was when it last spoke; what the other has,
    /// there.
    async fn count(&self, database: &Arc<dyn Database>, met: Option<(u64, u32)>) -> Result<Counted> {
        let (sync, mut counted) = (self.sync, Counted::default());
        let met = match met {
            Some(met) => Some(met),
            None => match self.meet().await {
                Ok(there) => there.welcome.site,
                Err(e) => {
                    counted.away = Some(e);
                    None
                }
            },
        };
        let (Some(site), Some(met)) = (site::open(database).await?, met) else {
            counted.aside = site::set_aside(database, &sync.name).await?;
            return Ok(Counted { unread: true, ..counted });
        };
        if sync.direction != Direction::Pull {
            self.outgoing(&site, met, &mut counted).await?;
        }
        let mut read = Vec::new();
        if sync.direction != Direction::Push {
            read = self.read(&site, met).await?;
            counted.unread |= read.is_empty();
        }
        match self.meet().await {
            Ok(there) => match there.pending(&sync.name, read).await {
                Ok((pending, age, aside)) => {
                    counted.add(Waiting { pending, age });
                    counted.aside += aside;
                }
                Err(e) => counted.away = Some(e),
            },
            Err(e) => counted.away = Some(e),
        }
        counted.aside += site::set_aside(database, &sync.name).await?;
        Ok(counted)
    }

    fn books<'s>(&self, site: &'s Site) -> impl Iterator<Item = &'s Arc<Book>> {
        site.tables.iter().filter(|book| {
            let name = &book.logged.table.name.name;
            self.sync
                .tables
                .iter()
                .any(|t| if t.is_pattern() { matches_pattern(&t.source, name) } else { t.source == *name })
        })
    }

    async fn outgoing(&self, site: &Site, met: (u64, u32), counted: &mut Counted) -> Result<()> {
        let snapshot = site.database.snapshot().await?;
        let mut source = snapshot.source().await?;
        let mut reading = site.database.target().await?;
        let mut found = false;
        for book in self.books(site) {
            found = true;
            counted.pending += source.count(&book.log.table, None).await?;
            reading.begin(WriteOptions { point: true, ..WriteOptions::default() }).await?;
            let position = site.read_upto(reading.as_mut(), met.0, book.logged.n).await?;
            reading.rollback().await?;
            match position {
                Some(position) => counted.add(waiting(book, position, source.as_mut(), reading.as_mut()).await?),
                None => counted.unread = true,
            }
        }
        counted.unread |= !found;
        Ok(())
    }

    /// How far this end has read the other's tables, by the names that those have there.
    async fn read(&self, site: &Site, met: (u64, u32)) -> Result<Vec<(TableName, i64)>> {
        let mut reading = site.database.target().await?;
        let mut read = Vec::new();
        for book in self.books(site) {
            let name = &book.logged.table.name;
            let told =
                self.sync.tables.iter().find(|t| t.source == name.name).map(|t| TableName::new(t.target.clone()));
            reading.begin(WriteOptions { point: true, ..WriteOptions::default() }).await?;
            let cursors = site.cursors(reading.as_mut(), met.0, std::iter::once(book.logged.n)).await?;
            reading.rollback().await?;
            let cursor = cursors.get(&book.logged.n).filter(|cursor| cursor.source.epoch == met.1);
            let position = cursor.map_or(0, |cursor| cursor.position);
            read.push((told.unwrap_or_else(|| name.clone()), position));
        }
        Ok(read)
    }

    async fn meet(&self) -> Result<RemoteEndpoint> {
        let unknown = || Error::new(ErrorKind::Usage, format!("there is no peer '{}' under peers", self.peer));
        let peer = self.config.peers.get(self.peer).ok_or_else(unknown)?;
        let peer = Peer { timeout: peer.timeout.min(ASK_MAX), ..peer.clone() };
        let link = Arc::new(Link::new(self.peer, &peer, &proxies())?);
        RemoteEndpoint::meet(link, &self.config.node, self.database).await
    }
}

/// What `from` has that `to` has not taken in.
async fn one_way(sync: &Sync, from: &Site, to: &Site, back: bool, counted: &mut Counted) -> Result<()> {
    let snapshot = from.database.snapshot().await?;
    let mut source = snapshot.source().await?;
    let (mut reading, mut taking) = (from.database.target().await?, to.database.target().await?);
    let mut found = false;
    for (ours, theirs) in books(sync, from, to, back) {
        found = true;
        counted.pending += source.count(&ours.log.table, None).await?;
        let point = WriteOptions { point: true, ..WriteOptions::default() };
        taking.begin(point).await?;
        let cursors = to.cursors(taking.as_mut(), from.id.id, std::iter::once(theirs.logged.n)).await?;
        taking.rollback().await?;
        let Some(cursor) = cursors.get(&theirs.logged.n).filter(|cursor| cursor.source == from.id) else {
            counted.unread = true;
            continue;
        };
        counted.add(waiting(ours, cursor.position, source.as_mut(), reading.as_mut()).await?);
    }
    counted.unread |= !found;
    Ok(())
}

/// The tables of a sync that are captured at both ends.
fn books<'a>(sync: &'a Sync, from: &'a Site, to: &'a Site, back: bool) -> Vec<(&'a Book, &'a Book)> {
    let mut pairs = Vec::new();
    for mapping in &sync.tables {
        let (here, there) = if back { (&mapping.target, &mapping.source) } else { (&mapping.source, &mapping.target) };
        for ours in &from.tables {
            let name = &ours.logged.table.name.name;
            let theirs = if mapping.is_pattern() {
                matches_pattern(here, name).then_some(name)
            } else {
                (name == here).then_some(there)
            };
            let theirs = theirs.and_then(|theirs| to.tables.iter().find(|book| book.logged.table.name.name == *theirs));
            pairs.extend(theirs.map(|theirs| (ours.as_ref(), theirs.as_ref())));
        }
    }
    pairs
}
