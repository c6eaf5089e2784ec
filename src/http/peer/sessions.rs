//! Ends that peers have opened, each for one route: a call finds its end as the call before left it. One that is not
//! called for a while is closed; whoever comes back opens it anew, and has lost nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::StatusCode;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::super::answer::{Answer, Part, Problem, Reply};
use super::super::auth::{Access, Way};
use super::super::router::Call;
use super::super::rows::the_database;
use super::route::{Refused, route};
use super::worker::Worker;
use super::{answer, damaged};
use crate::capture::Reading;
use crate::compare::Buckets;
use crate::endpoint::{
    Current, Fault, Keys, Leaves, LocalComparand, LocalReceiver, LocalRewriter, LocalSender, Outcome, Parcel, Place,
    Receiver as _, Rewrite, Route, Sender as _, Standings, Unnamed,
};
use crate::engine::{Database, Error, ErrorKind, Lock};
use crate::model::{Batch, Table};
use crate::peer::{
    About, Damaged, MIME, Nonce, Numbered, Piece, Reader, Receiving, Sending, Told, WirePlace, WireRoute,
    WireStandings, Writer, basis,
};
use crate::runtime::random;
use crate::site;
use crate::state::Grant;

/// An end that is not called for longer is closed.
const IDLE_MAX: Duration = Duration::from_mins(1);
/// A lock whose holder says nothing for longer is given away.
const LOCK_MAX: Duration = Duration::from_secs(15);
/// Ends and locks that one key has open.
const OPEN_MAX: usize = 200;
/// Halves of comparisons that one key has open: each holds some megabytes of rows.
pub(super) const HALVES_MAX: usize = 16;
/// Tables that one key writes at a time, as they are elsewhere.
pub(super) const REWRITERS_MAX: usize = 32;
/// Keys or rows that are asked for at a time.
const LIMIT_MAX: usize = 100_000;
/// Closed ends that are remembered.
const CLOSED_MAX: usize = 100_000;

/// What is open.
pub(in super::super) struct Sessions {
    /// Which start of the node this is.
    pub(super) instance: u128,
    open: Mutex<HashMap<u128, Arc<Session>>>,
    /// Ends that are closed, so that none is opened again by a request that comes a second time.
    closed: Mutex<VecDeque<u128>>,
    locks: Mutex<HashMap<u128, Held>>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { instance: new_id(), open: Mutex::default(), closed: Mutex::default(), locks: Mutex::default() }
    }
}

/// An end, and whose it is.
struct Session {
    key: String,
    database: String,
    /// What the key opened when it was opened.
    grants: Vec<Grant>,
    /// How many of its kind one key may have open.
    most: usize,
    used: Mutex<Instant>,
    work: tokio::sync::Mutex<Work>,
}

/// The end itself.
pub(super) struct Work {
    pub(super) end: End,
    /// The number of the next call.
    next: u64,
    /// The answer to the last one, for who did not get it.
    last: Vec<u8>,
}

pub(super) enum End {
    Sender(LocalSender, Arc<Route>),
    Receiver(LocalReceiver, Arc<Route>),
    Half(Worker<LocalComparand>, Arc<Table>),
    Rewriter(Worker<LocalRewriter>, Arc<Rewrite>),
}

struct Held {
    key: String,
    name: String,
    lock: Arc<tokio::sync::Mutex<Box<dyn Lock>>>,
    heard: Instant,
}

fn new_id() -> u128 {
    u128::from(random()) << 64 | u128::from(random())
}

fn gone() -> Problem {
    Problem::new(StatusCode::GONE, "this end is not open here; nothing was done")
}

impl Sessions {
    /// Closes what nobody has used for a while.
    pub(in super::super) fn sweep(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = |session: &Session| {
            let used = session.used.lock().unwrap_or_else(PoisonError::into_inner);
            used.elapsed() >= IDLE_MAX && session.work.try_lock().is_ok()
        };
        let idle: Vec<u128> = open.iter().filter(|(_, session)| idle(session)).map(|(id, _)| *id).collect();
        for id in idle {
            open.remove(&id);
            self.remember(id);
        }
        drop(open);
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, held| held.heard.elapsed() < LOCK_MAX);
    }

    fn find(&self, id: u128, access: &Access) -> Result<Arc<Session>, Problem> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let session = open.get(&id).filter(|session| session.key == access.name).cloned().ok_or_else(gone)?;
        // What was opened with rights that are gone is not used any more.
        let still = session.grants.iter().all(|g| access.grant(&session.database, &g.table).as_ref() == Some(g));
        if !still {
            open.remove(&id);
            self.remember(id);
            return Err(gone());
        }
        *session.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        Ok(session)
    }

    /// An end is needed still.
    pub(super) fn touch(&self, id: u128, access: &Access) {
        // One that is gone is noticed by who asks it.
        let _ = self.find(id, access);
    }

    fn add(&self, id: u128, session: Session) -> Result<(), Problem> {
        self.sweep();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (key, most) = (&session.key, session.most);
        if open.values().filter(|other| other.key == *key && other.most == most).count() >= most {
            let what = format!("key '{key}' has {most} ends open here; they close when they are not used");
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, what).retry_after(10));
        }
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if open.contains_key(&id) || closed.contains(&id) {
            return Err(gone());
        }
        drop(closed);
        open.insert(id, Arc::new(session));
        Ok(())
    }

    fn close(&self, id: u128) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        self.remember(id);
    }

    fn remember(&self, id: u128) {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if closed.len() >= CLOSED_MAX {
            closed.pop_front();
        }
        closed.push_back(id);
    }

    /// Keeps a lock for a peer, as long as it says that it lives.
    pub(super) fn keep_lock(&self, (key, name): &(&str, String), lock: Box<dyn Lock>) -> Result<u128, Problem> {
        self.sweep();
        let id = new_id();
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if locks.values().filter(|other| other.key == *key).count() >= OPEN_MAX {
            let what = format!("key '{key}' holds {OPEN_MAX} locks here");
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, what).retry_after(10));
        }
        let lock = Arc::new(tokio::sync::Mutex::new(lock));
        let (key, name) = ((*key).to_owned(), name.clone());
        locks.insert(id, Held { key, name, lock, heard: Instant::now() });
        Ok(id)
    }

    /// The lock of this name that this key holds already, under a new id: who had the old one has it no more.
    pub(super) fn take_over(&self, (key, name): &(&str, String)) -> Option<u128> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        let old = locks.iter().find(|(_, held)| held.key == *key && held.name == *name).map(|(id, _)| *id)?;
        let (id, held) = (new_id(), locks.remove(&old)?);
        locks.insert(id, Held { heard: Instant::now(), ..held });
        Some(id)
    }

    /// Gives a lock back.
    pub(super) fn unlock(&self, key: &str, id: u128) {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if locks.get(&id).is_some_and(|held| held.key == key) {
            locks.remove(&id);
        }
    }

    /// Whether a lock is held still, whose holder has just said that it lives.
    pub(super) async fn held(&self, key: &str, id: u128) -> bool {
        self.sweep();
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(held) = locks.get_mut(&id).filter(|held| held.key == key) else { return false };
            held.heard = Instant::now();
            held.lock.clone()
        };
        lock.lock().await.is_held().await
    }
}

/// A call to an end that sends.
pub(in super::super) async fn send(call: Call) -> Reply {
    through::<Sending>(call, Way::Out).await
}

/// A call to an end that receives.
pub(in super::super) async fn receive(call: Call) -> Reply {
    through::<Receiving>(call, Way::In).await
}

/// Who opens an end, and of which database.
pub(super) struct Opener<'a> {
    pub(super) call: &'a Call,
    pub(super) access: &'a Access,
    pub(super) way: Way,
    pub(super) name: &'a str,
    pub(super) database: &'a Arc<dyn Database>,
}

/// What is asked of one kind of end.
pub(super) trait Asked: DeserializeOwned + Send + 'static {
    /// What it is opened for.
    type Subject: Send;
    /// How many of them one key may have open.
    const MOST: usize = OPEN_MAX;
    /// What to open it for.
    fn opens(self) -> Result<About<Self::Subject>, Self>;
    /// The start of the node that this was made for.
    fn instance(subject: &Self::Subject) -> u128;
    /// Opens it; with what the key opens for it.
    fn open<'a>(
        opener: Opener<'a>,
        subject: Self::Subject,
        reader: &'a mut Reader<'_>,
    ) -> impl Future<Output = Result<(End, Vec<Grant>), Refused>> + Send + 'a;
    /// Whether it is to be closed.
    fn closes(&self) -> bool;
    /// Has the end do it, with what stands behind the head.
    fn run<'a>(
        self,
        work: &'a mut Work,
        reader: &'a mut Reader<'_>,
    ) -> impl Future<Output = Result<Outcome<Done>, Damaged>> + Send + 'a;
}

/// What an end has done: the head of the answer, and what stands behind it.
pub(super) struct Done {
    pub(super) told: Told,
    pub(super) behind: Behind,
    pub(super) rows: usize,
}

pub(super) enum Behind {
    Nothing,
    Batches(Vec<Batch>),
    Changes(Vec<crate::capture::Changes>),
    Leaves(Leaves),
    Buckets(Buckets),
}

impl Done {
    pub(super) fn of(told: Told) -> Self {
        Self { told, behind: Behind::Nothing, rows: 0 }
    }
}

/// Done to its end, whether the caller waits for it or not: half of a call would leave an end in the middle.
pub(super) async fn through<A: Asked>(call: Call, way: Way) -> Reply {
    let work = tokio::spawn(async move { answered::<A>(&call, way).await });
    work.await.unwrap_or_else(|e| {
        tracing::error!("a call of a peer ended by a mistake of ours: {e}");
        Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "a mistake of this node's; its log says more"))
    })
}

async fn answered<A: Asked>(call: &Call, way: Way) -> Reply {
    let mut reader = Reader::new(&call.body).map_err(damaged)?;
    let Numbered { session: id, number, ask } = reader.head::<Numbered<A>>().map_err(damaged)?;
    let ask = match ask.opens() {
        Ok(about) => return open::<A>(call, way, (id, number), about, reader).await,
        Err(ask) => ask,
    };
    let access = call.access()?;
    let session = call.sessions.find(id, access)?;
    let mut work = session.work.lock().await;
    if number + 1 == work.next && Reader::new(&work.last).is_ok_and(|last| last.nonce == reader.nonce) {
        return Ok(answer(work.last.clone()));
    }
    if number != work.next {
        return Err(gone());
    }
    if ask.closes() {
        call.sessions.close(id);
        return Ok(answer(Writer::new(reader.nonce, &Told::Done).finish()));
    }
    let nonce = reader.nonce;
    let done = ask.run(&mut work, &mut reader).await.map_err(damaged)?;
    let (body, rows) = written(nonce, done);
    work.next += 1;
    work.last.clone_from(&body);
    *session.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    Ok(answer(body).with_rows(rows))
}

fn written(nonce: Nonce, done: Outcome<Done>) -> (Vec<u8>, usize) {
    let Done { told, behind, rows } = done.unwrap_or_else(|fault| Done::of(fault.into()));
    let mut writer = Writer::new(nonce, &told);
    match behind {
        Behind::Nothing => {}
        Behind::Batches(batches) => batches.iter().for_each(|batch| writer.batch(batch)),
        Behind::Changes(changes) => changes.iter().for_each(|changes| writer.changes(changes)),
        Behind::Leaves(leaves) => writer.leaves(&leaves),
        Behind::Buckets(buckets) => writer.buckets(&buckets),
    }
    (writer.finish(), rows)
}

async fn open<A: Asked>(
    call: &Call,
    way: Way,
    (id, number): (u128, u64),
    about: About<A::Subject>,
    mut reader: Reader<'_>,
) -> Reply {
    let access = call.access()?;
    let nonce = reader.nonce;
    if A::instance(&about.ask) != call.sessions.instance {
        return Err(gone());
    }
    let opened = opened::<A>(call, access, way, about, &mut reader).await;
    let told = match opened {
        Ok(_) if number != 0 => return Err(gone()),
        Ok(session) => {
            call.sessions.add(id, session)?;
            Told::Done
        }
        Err(Refused::Problem(problem)) => return Err(problem),
        Err(Refused::Error(error)) => Fault::from(error).into(),
    };
    Ok(answer(Writer::new(nonce, &told).finish()))
}

async fn opened<A: Asked>(
    call: &Call,
    access: &Access,
    way: Way,
    about: About<A::Subject>,
    reader: &mut Reader<'_>,
) -> Result<Session, Refused> {
    let name = the_database(&call.config, access, Some(&about.database))?;
    let database = call.node.databases.get(&call.config, &name).await?;
    let opener = Opener { call, access, way, name: &name, database: &database };
    let (end, grants) = A::open(opener, about.ask, reader).await?;
    Ok(Session {
        key: access.name.clone(),
        grants,
        most: A::MOST,
        used: Mutex::new(Instant::now()),
        work: tokio::sync::Mutex::new(Work { end, next: 1, last: Vec::new() }),
        database: name,
    })
}

/// Opens an end of a sync.
async fn open_routed(
    opener: Opener<'_>,
    told: WireRoute,
    reader: &mut Reader<'_>,
) -> Result<(End, Vec<Grant>), Refused> {
    let Opener { call, access, way, name, database } = opener;
    let site = site::open(database).await?.ok_or_else(|| {
        Error::new(
            ErrorKind::CursorLost,
            format!("nothing of '{name}' is captured any more; the sync has to look again"),
        )
    })?;
    let site = site::Site { keep_tombstones: call.config.defaults.keep_tombstones, ..site };
    let route = route((access, name), &site, way, told, reader)?;
    call.node.terms.settle(&format!("sync {} of the owner of key '{}'", route.sync, access.name), &route)?;
    let own = |mapping: &crate::endpoint::Mapping| {
        let table = if way == Way::Out { &mapping.from.name } else { &mapping.to.name };
        access.grant(name, &table.to_string())
    };
    let grants = route.tables.iter().filter_map(own).collect();
    let end = match way {
        Way::Out => End::Sender(LocalSender::open(&site, &route, &call.node.stop).await?, route),
        Way::In => End::Receiver(LocalReceiver::open(&site, &route).await?, route),
    };
    Ok((end, grants))
}

/// Tables and places of the route, each table at most once.
fn places(route: &Route, told: Vec<WirePlace>) -> Result<Vec<Place>, Damaged> {
    let places: Vec<Place> = told.into_iter().map(Place::from).collect();
    let twice = places.iter().enumerate().any(|(at, p)| places[..at].iter().any(|other| other.table == p.table));
    if twice || places.iter().any(|place| place.table >= route.tables.len()) { Err(Damaged) } else { Ok(places) }
}

/// How far the other end is with each table of the route.
fn standings(route: &Route, told: WireStandings) -> Result<Standings, Damaged> {
    let standing = Standings::from(told);
    if standing.tables.len() == route.tables.len() { Ok(standing) } else { Err(Damaged) }
}

fn table(route: &Route, at: usize) -> Result<usize, Damaged> {
    if at < route.tables.len() { Ok(at) } else { Err(Damaged) }
}

impl Asked for Sending {
    type Subject = WireRoute;

    fn instance(subject: &WireRoute) -> u128 {
        subject.instance
    }

    async fn open(opener: Opener<'_>, told: WireRoute, reader: &mut Reader<'_>) -> Result<(End, Vec<Grant>), Refused> {
        open_routed(opener, told, reader).await
    }

    fn opens(self) -> Result<About<WireRoute>, Self> {
        match self {
            Self::Open(about) => Ok(*about),
            other => Err(other),
        }
    }

    fn closes(&self) -> bool {
        matches!(self, Self::Close)
    }

    async fn run(self, work: &mut Work, reader: &mut Reader<'_>) -> Result<Outcome<Done>, Damaged> {
        let End::Sender(end, route) = &mut work.end else { return Err(Damaged) };
        let route = route.clone();
        let done = match self {
            Self::Open(_) | Self::Close | Self::Rows(..) => return Err(Damaged),
            Self::Resume(told) => {
                let standing = standings(&route, told)?;
                end.resume(&standing).await.map(|resumed| Done::of(resumed.into())).map_err(Fault::from)
            }
            Self::Seen => {
                let seen = end.seen().await.map_err(Fault::from);
                seen.map(|seen| Done::of(Told::Seen(seen.map(|(epoch, mark)| (epoch, mark.into())))))
            }
            Self::Fold(told) => {
                let folded = end.fold(&places(&route, told)?).await;
                folded.map(|folded| Done::of(Told::Folded(folded.emptied, folded.doubted)))
            }
            Self::Bury(at, forgotten) => {
                let keys = reader.batch(&route.tables[table(&route, at)?].to_keys)?;
                end.bury(at, &keys, forgotten).await.map(|gone| Done::of(Told::Buried(gone)))
            }
            Self::Vouch(at, all) => {
                let keys = reader.batch(&route.tables[table(&route, at)?].from_keys)?;
                end.vouch(at, &keys, all).await.map(|()| Done::of(Told::Done))
            }
            Self::Changes(told, limits) => {
                let parcel = end.changes(&places(&route, told)?, limits.into()).await;
                parcel.map(|Parcel { changes, places, seen, more }| {
                    let (tables, changes): (Vec<usize>, Vec<_>) = changes.into_iter().unzip();
                    let rows = changes.iter().map(|changes| changes.entries.len()).sum();
                    let places = places.into_iter().map(WirePlace::from).collect();
                    let told = Told::Parcel(tables, places, seen.map(Into::into), more);
                    Done { told, behind: Behind::Changes(changes), rows }
                })
            }
            Self::Deleted(place, limit) => {
                let place: Place = place.into();
                table(&route, place.table)?;
                end.deleted(place, limit.min(LIMIT_MAX)).await.map(|(keys, place)| {
                    let told = Told::Deleted(place.into());
                    Done { told, rows: keys.rows(), behind: Behind::Batches(vec![keys]) }
                })
            }
            Self::Current(at, received) => {
                let mapping = &route.tables[table(&route, at)?];
                let keys = if received {
                    Keys::Received(reader.batch(&mapping.to_keys)?)
                } else {
                    Keys::Sent(reader.batch(&mapping.from_keys)?)
                };
                end.current(at, &keys).await.map(|Current { changes, left_out, seen }| Done {
                    told: Told::Current(left_out, seen.map(Into::into)),
                    rows: changes.entries.len(),
                    behind: Behind::Changes(vec![changes]),
                })
            }
        };
        reader.end()?;
        Ok(done)
    }
}

impl Asked for Receiving {
    type Subject = WireRoute;

    fn instance(subject: &WireRoute) -> u128 {
        subject.instance
    }

    async fn open(opener: Opener<'_>, told: WireRoute, reader: &mut Reader<'_>) -> Result<(End, Vec<Grant>), Refused> {
        open_routed(opener, told, reader).await
    }

    fn opens(self) -> Result<About<WireRoute>, Self> {
        match self {
            Self::Open(about) => Ok(*about),
            other => Err(other),
        }
    }

    fn closes(&self) -> bool {
        matches!(self, Self::Close)
    }

    async fn run(self, work: &mut Work, reader: &mut Reader<'_>) -> Result<Outcome<Done>, Damaged> {
        let End::Receiver(end, route) = &mut work.end else { return Err(Damaged) };
        let route = route.clone();
        let done: Outcome<Done> = match self {
            Self::Open(_) | Self::Close => return Err(Damaged),
            Self::Cursors => {
                let standings = end.cursors().await.map_err(Fault::from);
                standings.map(|standings| Done::of(Told::Cursors(standings.into())))
            }
            Self::Judge(epoch, mark) => {
                end.judge((epoch, mark.into())).await.map_err(Fault::from).map(|()| Done::of(Told::Done))
            }
            Self::Renew => end.renew().await.map_err(Fault::from).map(|()| Done::of(Told::Done)),
            Self::Rows(at, by_key) => {
                let keys = if by_key { Some(reader.batch(&route.tables[table(&route, at)?].from_keys)?) } else { None };
                end.rows(table(&route, at)?, keys.as_ref()).await.map(|rows| Done::of(Told::Count(rows)))
            }
            Self::Differing(at, how) => {
                let rows = reader.batch(&route.tables[table(&route, at)?].from)?;
                let differing = end.differing(at, &rows, how.into()).await;
                differing.map(|differing| Done { rows: rows.rows(), ..Done::of(Told::Differing(differing)) })
            }
            Self::Unnamed(at, forgotten, after, limit) => {
                let which = match forgotten {
                    None => Unnamed::Unversioned,
                    Some((floor, met)) => Unnamed::Forgotten(floor.try_into().map_err(|_| Damaged)?, met),
                };
                let keys = &route.tables[table(&route, at)?].to_keys;
                let after = if after { Some(reader.batch(keys)?) } else { None };
                end.unnamed(at, &which, after.as_ref(), limit.clamp(1, LIMIT_MAX)).await.map(|(keys, next)| {
                    let told = Told::Unnamed(next.is_some());
                    Done { told, rows: 0, behind: Behind::Batches(std::iter::once(keys).chain(next).collect()) }
                })
            }
            Self::Inherit(at, floor) => {
                let floor = floor.try_into().map_err(|_| Damaged)?;
                end.inherit(table(&route, at)?, &floor).await.map(|()| Done::of(Told::Done))
            }
            Self::Take(tables, told, seen, meeting) => {
                let mut changes = Vec::with_capacity(tables.len().min(route.tables.len()));
                for at in tables {
                    let mapping = &route.tables[table(&route, at)?];
                    if changes.iter().any(|(other, _)| *other == at) {
                        return Err(Damaged);
                    }
                    changes.push((at, reader.changes(&mapping.from_keys, &mapping.from)?));
                }
                let seen = seen.map(Into::into);
                let parcel = Parcel { changes, places: places(&route, told)?, seen, more: false };
                let rows = parcel.changes.iter().map(|(_, changes)| changes.entries.len()).sum();
                let taken = end.take(&parcel, basis(meeting)).await;
                taken.map(|applied| Done { rows, ..Done::of(Told::taken(&applied)) })
            }
            Self::Settle(tables) => {
                for &at in &tables {
                    table(&route, at)?;
                }
                end.settle(&tables).await.map_err(Fault::from).map(|()| Done::of(Told::Done))
            }
            Self::Aside(at, limit) => end.aside(table(&route, at)?, limit.min(LIMIT_MAX)).await.map(|keys| Done {
                told: Told::Keys,
                rows: 0,
                behind: Behind::Batches(vec![keys]),
            }),
            Self::Outstanding => {
                end.outstanding().await.map_err(Fault::from).map(|all| Done::of(Told::outstanding(&all)))
            }
            Self::Verify(came, went) => {
                for &at in came.iter().chain(&went) {
                    table(&route, at)?;
                }
                end.verify(&came, &went).await.map_err(Fault::from).map(|problems| Done::of(Told::Problems(problems)))
            }
        };
        reader.end()?;
        Ok(done)
    }
}

/// All rows of a table, piece by piece.
pub(in super::super) async fn snapshot(call: Call) -> Reply {
    let reader = Reader::new(&call.body).map_err(damaged)?;
    let Numbered { session: id, number, ask } = reader.head::<Numbered<Sending>>().map_err(damaged)?;
    let Sending::Rows(at, limits) = ask else { return Err(damaged(Damaged)) };
    let session = call.sessions.find(id, call.access()?)?;
    let mut work = session.work.lock().await;
    if number != work.next {
        return Err(gone());
    }
    let End::Sender(end, route) = &mut work.end else { return Err(damaged(Damaged)) };
    table(route, at).map_err(damaged)?;
    let rows = end.rows(at, limits.into()).await;
    (work.next, work.last) = (number + 1, Vec::new());
    let (parts, receive) = mpsc::channel(2);
    let counted = Arc::default();
    tokio::spawn(pump(rows, parts, reader.nonce, Arc::clone(&counted)));
    Ok(Answer::stream(MIME, receive, counted))
}

/// Hands rows on as they are read. Nobody may be left who wants them.
async fn pump(
    rows: Outcome<Reading>,
    parts: mpsc::Sender<Part>,
    nonce: Nonce,
    counted: Arc<std::sync::atomic::AtomicU64>,
) {
    let send = async |head: &Piece, batch: Option<&Batch>| {
        let mut writer = Writer::new(nonce, head);
        if let Some(batch) = batch {
            writer.batch(batch);
        }
        let piece = writer.finish();
        let Ok(len) = u32::try_from(piece.len()) else { return Err(()) };
        let bytes = [&len.to_le_bytes()[..], &piece].concat();
        parts.send(Part::Bytes(bytes.into())).await.map_err(drop)
    };
    let failed = |error: &Error| Told::from(Fault::from(error.clone()));
    let fail = |error: &Error| match failed(error) {
        Told::Failed(_, kind, message) => Piece::Failed(kind, message),
        _ => Piece::End(u64::MAX),
    };
    let work = async {
        let mut rows = match rows {
            Ok(rows) => rows,
            Err(fault) => return send(&fail(&fault.error), None).await,
        };
        let mut before = 0;
        while let Some(read) = rows.recv().await {
            match read {
                Ok(read) => {
                    counted.fetch_add(read.batch.rows() as u64, std::sync::atomic::Ordering::Relaxed);
                    send(&Piece::Rows(before), Some(&read.batch)).await?;
                }
                Err(error) => return send(&fail(&error), None).await,
            }
            before += 1;
        }
        send(&Piece::End(before), None).await
    };
    if work.await.is_ok() {
        let _ = parts.send(Part::End).await;
    }
}
