//! Ends that are open at a peer. Each call has a number, so that one that comes twice is done once; one that finds its end
//! gone, which has done nothing then, opens it anew and is sent again.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::link::{Answered, Link, Pieces, nonce};
use super::message::{About, Numbered, Preparing, Receiving, Sending, Told, WirePlace, applied, path};
use super::remote::exchange;
use crate::apply::Applied;
use crate::capture::{FittedBatch, Reading, interrupted};
use crate::endpoint::codec::{Damaged, Nonce, Reader, Writer};
use crate::endpoint::{
    Basis, Current, Differing, Fault, Folded, Keys, Mapping, Outcome, Outstanding, Parcel, Place, Receiver, Resumed,
    Route, Seen, Sender, Standings, Unnamed,
};
use crate::engine::{Error, ErrorKind, Result};
use crate::model::{Batch, BatchLimits, Table, Vector};

/// An answer that takes longer is asked for once more.
const PATIENCE_MAX: Duration = Duration::from_secs(10);
/// Between two words of who has an end open and asks it nothing.
const ALIVE: Duration = Duration::from_secs(20);

/// How long an answer may take that was to be there after so many milliseconds.
pub(super) fn patience(told: u64) -> Duration {
    Duration::from_millis(told).clamp(Duration::from_millis(100), PATIENCE_MAX)
}

/// An end that is open at a peer.
pub(super) struct Session {
    pub(super) link: Arc<Link>,
    path: &'static str,
    /// Tables that it is about.
    tables: usize,
    id: u128,
    number: u64,
    /// Whether nobody knows any more how the last call ended.
    broken: bool,
}

/// An answer, with what stands behind its head.
pub(super) struct Answer {
    pub(super) told: Told,
    pub(super) body: Vec<u8>,
}

impl Session {
    pub(super) fn new(link: Arc<Link>, path: &'static str, tables: usize) -> Self {
        Self { link, path, tables, id: 0, number: 0, broken: true }
    }

    pub(super) fn senseless(&self) -> Fault {
        self.link.error(ErrorKind::Protocol, "it answers something else than it was asked").into()
    }

    pub(super) fn damaged(&self) -> impl Fn(Damaged) -> Fault + use<> {
        let link = self.link.clone();
        move |e| link.error(ErrorKind::Protocol, format!("its answer makes no sense: {e}")).into()
    }

    /// Opens the end, unless it is open.
    pub(super) async fn open<T: Serialize>(&mut self, open: &T, fill: &(impl Fn(&mut Writer) + Sync)) -> Outcome<()> {
        if !self.broken {
            return Ok(());
        }
        (self.id, self.number) = (nonce(), 0);
        match self.send(open, fill).await? {
            Some(Answer { told: Told::Done, .. }) => {
                self.broken = false;
                Ok(())
            }
            _ => Err(self.senseless()),
        }
    }

    /// A call; `None`: the end is not open there any more.
    pub(super) async fn send<T: Serialize>(
        &mut self,
        ask: &T,
        behind: &(impl Fn(&mut Writer) + Sync),
    ) -> Outcome<Option<Answer>> {
        let (nonce, body) = self.body(ask, behind);
        // Until an answer is there, nobody knows.
        self.broken = true;
        let Answered::Body(body) = self.link.call(self.path, nonce, body).await? else { return Ok(None) };
        let told = Reader::new(&body).and_then(|reader| reader.head()).map_err(self.damaged())?;
        self.broken = false;
        self.number += 1;
        match told {
            Told::Failed(table, kind, message) => {
                let table = table.filter(|&at| at < self.tables);
                Err(Fault { table, error: Error::new(kind.into(), message) })
            }
            told => Ok(Some(Answer { told, body })),
        }
    }

    fn body<T: Serialize>(&self, ask: &T, behind: &impl Fn(&mut Writer)) -> (Nonce, Vec<u8>) {
        let nonce = nonce();
        let mut writer = Writer::new(nonce, &Numbered { session: self.id, number: self.number, ask });
        behind(&mut writer);
        (nonce, writer.finish())
    }

    /// A call to an end that is opened first where it has to be.
    async fn call<T: Serialize>(
        &mut self,
        (open, route): (&T, &Route),
        ask: &T,
        behind: impl Fn(&mut Writer) + Sync,
    ) -> Outcome<Answer> {
        for _ in 0..2 {
            self.open(open, &|writer: &mut Writer| fills(route, writer)).await?;
            if let Some(answer) = self.send(ask, &behind).await? {
                return Ok(answer);
            }
        }
        Err(self.link.error(ErrorKind::Unreachable, "it forgets at once what it was told").into())
    }

    /// A call to an end that was opened and is not opened again: one that was closed knows no more what it was told. What
    /// takes the other side long is waited for.
    pub(super) async fn ask<T: Serialize>(
        &mut self,
        ask: &T,
        behind: impl Fn(&mut Writer) + Sync,
        wait: &T,
    ) -> Result<Answer> {
        let mut answer = self.send(ask, &behind).await?;
        while let Some(Answer { told: Told::Working, .. }) = answer {
            answer = self.send(wait, &|_: &mut Writer| {}).await?;
        }
        answer
            .ok_or_else(|| self.link.error(ErrorKind::Unreachable, "it does not know any more what it was told before"))
    }

    /// What stands behind an answer's head.
    pub(super) fn read<T>(
        &self,
        answer: &Answer,
        read: impl FnOnce(&mut Reader<'_>) -> std::result::Result<T, Damaged>,
    ) -> Result<T> {
        let whole = || {
            let mut reader = Reader::new(&answer.body)?;
            let contents = read(&mut reader)?;
            reader.end()?;
            Ok(contents)
        };
        whole().map_err(|e| self.damaged()(e).into())
    }

    /// Says again and again that the end is needed, until what is returned is dropped: others may take their time while
    /// this one is asked nothing.
    pub(super) fn keep_alive(&self, database: String) -> DropGuard {
        let (link, id, alive) = (self.link.clone(), self.id, CancellationToken::new());
        let told = alive.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = told.cancelled() => return,
                    () = tokio::time::sleep(ALIVE) => {
                        let about = About { database: database.clone(), ask: Preparing::Alive(id) };
                        // One that is lost is noticed by whoever asks it next.
                        let _ = exchange(&link, path::PREPARE, &about).await;
                    }
                }
            }
        });
        alive.drop_guard()
    }

    /// How long an answer of this end may take, in milliseconds.
    pub(super) fn patience(&self) -> u64 {
        u64::try_from((self.link.timeout() / 3).as_millis()).unwrap_or(0)
    }

    /// Says that the end is not needed any more.
    pub(super) fn close<T: Serialize>(&mut self, close: &T) {
        if self.broken {
            return;
        }
        let (nonce, body) = self.body(close, &|_: &mut Writer| {});
        self.link.farewell(self.path, nonce, body);
    }
}

/// What new rows are filled with, one row for each table.
fn fills(route: &Route, writer: &mut Writer) {
    for mapping in &route.tables {
        writer.batch(&mapping.fill.values());
    }
}

/// One batch behind the head, and nothing more.
fn batch(body: &[u8], table: &Arc<Table>) -> std::result::Result<Batch, Damaged> {
    let mut reader = Reader::new(body)?;
    let batch = reader.batch(table)?;
    reader.end()?;
    Ok(batch)
}

/// Places of tables that the route has.
fn places(route: &Route, places: Vec<WirePlace>) -> std::result::Result<Vec<Place>, Damaged> {
    let places: Vec<Place> = places.into_iter().map(Place::from).collect();
    if places.iter().all(|place| place.table < route.tables.len()) { Ok(places) } else { Err(Damaged) }
}

/// A peer's database that sends.
pub(super) struct RemoteSender {
    session: Session,
    route: Arc<Route>,
    open: Sending,
    stop: CancellationToken,
}

impl RemoteSender {
    pub(super) async fn open(
        link: Arc<Link>,
        route: Arc<Route>,
        open: Sending,
        stop: CancellationToken,
    ) -> Result<Self> {
        let mut session = Session::new(link, path::CHANGES, route.tables.len());
        session.open(&open, &|writer: &mut Writer| fills(&route, writer)).await?;
        Ok(Self { session, route, open, stop })
    }

    async fn call(&mut self, ask: Sending, behind: impl Fn(&mut Writer) + Sync) -> Outcome<Answer> {
        self.session.call((&self.open, &self.route), &ask, behind).await
    }

    fn table(&self, at: usize) -> &Mapping {
        &self.route.tables[at]
    }
}

impl Drop for RemoteSender {
    fn drop(&mut self) {
        self.session.close(&Sending::Close);
    }
}

#[async_trait]
impl Sender for RemoteSender {
    async fn resume(&mut self, reader: &Standings) -> Result<Resumed> {
        let answer = self.call(Sending::Resume(reader.clone().into()), |_| {}).await?;
        match answer.told {
            Told::Resumed(None) => Ok(Resumed::ReaderRestored),
            Told::Resumed(Some((starts, forgotten)))
                if [starts.len(), forgotten.len()] == [self.route.tables.len(); 2] =>
            {
                let forgotten =
                    forgotten.into_iter().map(|floor| floor.try_into().map_err(|_| self.session.senseless()));
                let forgotten = forgotten.collect::<Outcome<Vec<Vector>>>()?;
                Ok(Resumed::At(starts.into_iter().map(Into::into).collect(), forgotten))
            }
            _ => Err(self.session.senseless().into()),
        }
    }

    async fn seen(&mut self) -> Result<Option<Seen>> {
        match self.call(Sending::Seen, |_| {}).await?.told {
            Told::Seen(seen) => Ok(seen.map(|(epoch, mark)| (epoch, mark.into()))),
            _ => Err(self.session.senseless().into()),
        }
    }

    async fn fold(&mut self, tables: &[Place]) -> Outcome<Folded> {
        let answer = self.call(Sending::Fold(tables.iter().map(|place| (*place).into()).collect()), |_| {}).await?;
        let known = |tables: &[usize]| tables.iter().all(|&at| at < self.route.tables.len());
        match answer.told {
            Told::Folded(emptied, doubted) if known(&emptied) && known(&doubted) => {
                Ok(Folded { emptied, doubted, more: false, many_deletions: true })
            }
            _ => Err(self.session.senseless()),
        }
    }

    async fn bury(&mut self, table: usize, keys: &Batch, forgotten: bool) -> Outcome<Vec<usize>> {
        match self.call(Sending::Bury(table, forgotten), |writer| writer.batch(keys)).await?.told {
            Told::Buried(gone) if gone.iter().all(|&row| row < keys.rows()) => Ok(gone),
            _ => Err(self.session.senseless()),
        }
    }

    async fn vouch(&mut self, table: usize, keys: &Batch, all: bool) -> Outcome<()> {
        match self.call(Sending::Vouch(table, all), |writer| writer.batch(keys)).await?.told {
            Told::Done => Ok(()),
            _ => Err(self.session.senseless()),
        }
    }

    async fn changes(&mut self, after: &[Place], limits: BatchLimits) -> Outcome<Parcel> {
        let ask = Sending::Changes(after.iter().map(|place| (*place).into()).collect(), limits.into());
        let answer = self.call(ask, |_| {}).await?;
        let Told::Parcel(tables, at, seen, more) = answer.told else { return Err(self.session.senseless()) };
        let route = &self.route;
        let read = || {
            let mut reader = Reader::new(&answer.body)?;
            let mut changes = Vec::with_capacity(tables.len());
            for &at in &tables {
                let mapping = route.tables.get(at).ok_or(Damaged)?;
                changes.push((at, reader.changes(&mapping.from_keys, &mapping.from)?));
            }
            reader.end()?;
            Ok(Parcel { changes, places: places(route, at)?, seen: seen.map(Into::into), more })
        };
        read().map_err(self.session.damaged())
    }

    async fn deleted(&mut self, after: Place, limit: usize) -> Outcome<(Batch, Place)> {
        let answer = self.call(Sending::Deleted(after.into(), limit), |_| {}).await?;
        let Told::Deleted(place) = answer.told else { return Err(self.session.senseless()) };
        let keys = batch(&answer.body, &self.table(after.table).from_keys).map_err(self.session.damaged())?;
        Ok((keys, Place { table: after.table, ..place.into() }))
    }

    async fn current(&mut self, table: usize, keys: &Keys) -> Outcome<Current> {
        let (received, keys) = match keys {
            Keys::Sent(keys) => (false, keys),
            Keys::Received(keys) => (true, keys),
        };
        let answer = self.call(Sending::Current(table, received), |writer| writer.batch(keys)).await?;
        let Told::Current(left_out, seen) = answer.told else { return Err(self.session.senseless()) };
        let mapping = self.table(table);
        let read = || {
            let mut reader = Reader::new(&answer.body)?;
            let changes = reader.changes(&mapping.from_keys, &mapping.from)?;
            reader.end()?;
            if left_out.iter().any(|&row| row >= keys.rows()) { Err(Damaged) } else { Ok(changes) }
        };
        let changes = read().map_err(self.session.damaged())?;
        Ok(Current { changes, left_out, seen: seen.map(Into::into) })
    }

    async fn rows(&mut self, table: usize, limits: BatchLimits) -> Outcome<Reading> {
        let (session, route) = (&mut self.session, self.route.clone());
        for _ in 0..2 {
            session.open(&self.open, &|writer: &mut Writer| fills(&route, writer)).await?;
            let (nonce, body) = session.body(&Sending::Rows(table, limits.into()), &|_: &mut Writer| {});
            session.broken = true;
            if let Some(pieces) = session.link.stream(path::SNAPSHOT, body).await? {
                (session.broken, session.number) = (false, session.number + 1);
                let from = route.tables[table].from.clone();
                return Ok(read(session.link.clone(), pieces, nonce, from, self.stop.clone()));
            }
        }
        Err(session.link.error(ErrorKind::Unreachable, "it forgets at once what it was told").into())
    }
}

/// What a piece of a stream of rows says.
#[derive(Debug, Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Piece {
    /// Rows follow; so many pieces came before.
    Rows(u64),
    /// That was all; so many pieces came before.
    End(u64),
    /// It went wrong.
    Failed(super::message::WireKind, String),
}

/// Reads a stream of rows in a task of its own.
fn read(link: Arc<Link>, mut pieces: Pieces, nonce: Nonce, table: Arc<Table>, stop: CancellationToken) -> Reading {
    let (send, receive) = mpsc::channel(2);
    tokio::spawn(async move {
        let mut before = 0;
        loop {
            let piece = tokio::select! {
                piece = pieces.next() => piece,
                () = stop.cancelled() => {
                    let _ = send.send(Err(interrupted())).await;
                    return;
                }
            };
            let batch = match piece {
                Err(why) => Err(link.error(ErrorKind::Unreachable, why)),
                Ok(piece) => match rows(&piece, nonce, before, &table) {
                    Ok(Some(batch)) => Ok(batch),
                    Ok(None) => return,
                    Err(e) => Err(e.unwrap_or_else(|| {
                        link.error(ErrorKind::Unreachable, "what came is not the whole answer to what was asked")
                    })),
                },
            };
            before += 1;
            let failed = batch.is_err();
            let fitted = batch.map(|batch| FittedBatch { batch, misfits: Vec::new() });
            // Nobody may be left who wants them.
            if send.send(fitted).await.is_err() || failed {
                return;
            }
        }
    });
    receive
}

/// The rows of a piece; `None` at the end. An error without words is a damaged one.
fn rows(
    piece: &[u8],
    nonce: Nonce,
    before: u64,
    table: &Arc<Table>,
) -> std::result::Result<Option<Batch>, Option<Error>> {
    let mut reader = Reader::new(piece).map_err(|_| None)?;
    if reader.nonce != nonce {
        return Err(None);
    }
    match reader.head().map_err(|_| None)? {
        Piece::Rows(number) if number == before => reader.batch(table).map(Some).map_err(|_| None),
        Piece::End(number) if number == before => Ok(None),
        Piece::Failed(kind, message) => Err(Some(Error::new(kind.into(), message))),
        Piece::Rows(_) | Piece::End(_) => Err(None),
    }
}

/// A peer's database that receives.
pub(super) struct RemoteReceiver {
    session: Session,
    route: Arc<Route>,
    open: Receiving,
}

impl RemoteReceiver {
    pub(super) async fn open(link: Arc<Link>, route: Arc<Route>, open: Receiving) -> Result<Self> {
        let mut session = Session::new(link, path::APPLY, route.tables.len());
        session.open(&open, &|writer: &mut Writer| fills(&route, writer)).await?;
        Ok(Self { session, route, open })
    }

    async fn call(&mut self, ask: Receiving, behind: impl Fn(&mut Writer) + Sync) -> Outcome<Answer> {
        self.session.call((&self.open, &self.route), &ask, behind).await
    }

    fn table(&self, at: usize) -> &Mapping {
        &self.route.tables[at]
    }
}

impl Drop for RemoteReceiver {
    fn drop(&mut self) {
        self.session.close(&Receiving::Close);
    }
}

#[async_trait]
impl Receiver for RemoteReceiver {
    async fn cursors(&mut self) -> Result<Standings> {
        let answer = self.call(Receiving::Cursors, |_| {}).await?;
        let Told::Cursors(all) = answer.told else { return Err(self.session.senseless().into()) };
        let all = Standings::from(all);
        if all.tables.len() == self.route.tables.len() { Ok(all) } else { Err(self.session.senseless().into()) }
    }

    async fn judge(&mut self, (epoch, mark): Seen) -> Result<()> {
        match self.call(Receiving::Judge(epoch, mark.into()), |_| {}).await?.told {
            Told::Done => Ok(()),
            _ => Err(self.session.senseless().into()),
        }
    }

    async fn renew(&mut self) -> Result<()> {
        match self.call(Receiving::Renew, |_| {}).await?.told {
            Told::Done => Ok(()),
            _ => Err(self.session.senseless().into()),
        }
    }

    async fn rows(&mut self, table: usize, keys: Option<&Batch>) -> Outcome<u64> {
        let behind = |writer: &mut Writer| keys.into_iter().for_each(|keys| writer.batch(keys));
        match self.call(Receiving::Rows(table, keys.is_some()), behind).await?.told {
            Told::Count(rows) => Ok(rows),
            _ => Err(self.session.senseless()),
        }
    }

    async fn differing(&mut self, table: usize, rows: &Batch, how: Differing) -> Outcome<Vec<usize>> {
        match self.call(Receiving::Differing(table, how.into()), |writer| writer.batch(rows)).await?.told {
            Told::Differing(differing) if differing.iter().all(|&row| row < rows.rows()) => Ok(differing),
            _ => Err(self.session.senseless()),
        }
    }

    async fn unnamed(
        &mut self,
        table: usize,
        which: &Unnamed,
        after: Option<&Batch>,
        limit: usize,
    ) -> Outcome<(Batch, Option<Batch>)> {
        let behind = |writer: &mut Writer| after.into_iter().for_each(|after| writer.batch(after));
        let forgotten = match which {
            Unnamed::Unversioned => None,
            Unnamed::Forgotten(floor, met) => Some((floor.into(), *met)),
        };
        let answer = self.call(Receiving::Unnamed(table, forgotten, after.is_some(), limit), behind).await?;
        let Told::Unnamed(more) = answer.told else { return Err(self.session.senseless()) };
        let keys = &self.table(table).to_keys;
        let read = || {
            let mut reader = Reader::new(&answer.body)?;
            let batch = reader.batch(keys)?;
            let next = if more { Some(reader.batch(keys)?) } else { None };
            reader.end()?;
            Ok((batch, next))
        };
        read().map_err(self.session.damaged())
    }

    async fn inherit(&mut self, table: usize, floor: &Vector) -> Outcome<()> {
        match self.call(Receiving::Inherit(table, floor.into()), |_| {}).await?.told {
            Told::Done => Ok(()),
            _ => Err(self.session.senseless()),
        }
    }

    async fn take(&mut self, parcel: &Parcel, basis: Basis) -> Outcome<Vec<Applied>> {
        let tables = parcel.changes.iter().map(|(at, _)| *at).collect();
        let places = parcel.places.iter().map(|place| (*place).into()).collect();
        let ask = Receiving::Take(tables, places, parcel.seen.map(Into::into), basis == Basis::Meeting);
        let behind = |writer: &mut Writer| parcel.changes.iter().for_each(|(_, changes)| writer.changes(changes));
        match self.call(ask, behind).await?.told {
            Told::Taken(all) if all.len() == parcel.changes.len() => Ok(all.into_iter().map(applied).collect()),
            _ => Err(self.session.senseless()),
        }
    }

    async fn settle(&mut self, tables: &[usize]) -> Result<()> {
        match self.call(Receiving::Settle(tables.to_vec()), |_| {}).await?.told {
            Told::Done => Ok(()),
            _ => Err(self.session.senseless().into()),
        }
    }

    async fn aside(&mut self, table: usize, limit: usize) -> Outcome<Batch> {
        let answer = self.call(Receiving::Aside(table, limit), |_| {}).await?;
        let Told::Keys = answer.told else { return Err(self.session.senseless()) };
        batch(&answer.body, &self.table(table).to_keys).map_err(self.session.damaged())
    }

    async fn outstanding(&mut self) -> Result<Vec<Outstanding>> {
        match self.call(Receiving::Outstanding, |_| {}).await?.told {
            Told::Outstanding(all) if all.len() == self.route.tables.len() => Ok(all
                .into_iter()
                .map(|[open, quarantined, waiting]| Outstanding { open, quarantined, waiting })
                .collect()),
            _ => Err(self.session.senseless().into()),
        }
    }

    async fn verify(&mut self, came: &[usize], went: &[usize]) -> Result<Vec<String>> {
        match self.call(Receiving::Verify(came.to_vec(), went.to_vec()), |_| {}).await?.told {
            Told::Problems(problems) => Ok(problems),
            _ => Err(self.session.senseless().into()),
        }
    }
}
