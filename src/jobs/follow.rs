//! A sync that goes on: round after round, soon after something moved, more rarely while nothing does; one that fails is
//! tried again for ever.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::capture::interrupted;
use crate::config::{Config, Sync};
use crate::engine::{Error, ErrorKind, Result};
use crate::pipeline::Report;
use crate::runtime::{Backoff, Pace, random};

/// Ends of a sync with a longer pause are let go meanwhile, so that others may bring them in step.
const HELD_MAX: Duration = Duration::from_secs(10);
/// A live sync has a round at least this often: for what its ends do not tell as something new.
const NEWS_MAX: Duration = Duration::from_secs(10);
/// And this often while rows wait or stand in quarantine, for nobody tells when what is in their way goes.
const ASIDE_MAX: Duration = Duration::from_secs(1);
/// How often it is asked whether a sync that another waits for has had its first round.
const ASKED: Duration = Duration::from_millis(50);

/// Makes syncs ready to run.
#[async_trait]
pub trait Prepare: Send + std::marker::Sync {
    /// The sync with both ends reached, and all that it needs in place.
    async fn prepare(&self, config: &Config, sync: &Sync, stop: &CancellationToken) -> Result<Box<dyn Round>>;
}

/// A sync that is ready. It owns its ends until it is dropped.
#[async_trait]
pub trait Round: Send {
    /// Brings over what there is.
    async fn run(&mut self) -> Result<Report>;
    /// The site at the other end, where that is a peer's.
    fn peer(&self) -> Option<(u64, u32)>;
    /// Waits until something was written since before the last round that is worth another, `longest` in any case; `None`
    /// where that is not known otherwise than by a round.
    async fn wait(&mut self, longest: Duration) -> Option<Result<()>>;
}

/// How the last round of each sync of several that go on went, for those that wait for others; `None`: it had none yet.
#[derive(Clone, Default)]
pub struct Outcomes(Arc<Mutex<HashMap<String, Option<bool>>>>);

impl Outcomes {
    fn note(&self, sync: &str, outcome: Option<bool>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(sync.to_owned(), outcome);
    }

    /// The first of these that has not succeeded, and whether it has failed.
    fn unfulfilled(&self, names: &[String]) -> Option<(String, bool)> {
        let outcomes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.iter().find_map(|name| match outcomes.get(name) {
            // One that does not go on by itself is not waited for.
            None | Some(Some(true)) => None,
            Some(outcome) => Some((name.clone(), outcome.is_some())),
        })
    }
}

/// A sync that goes on.
pub struct Follow {
    config: Arc<Config>,
    sync: Sync,
    prepare: Arc<dyn Prepare>,
    /// Between two rounds; `None`: as soon as something changes.
    pause: Option<Duration>,
    /// No round is longer.
    limit: Option<Duration>,
    outcomes: Outcomes,
    stop: CancellationToken,
    ready: Option<Box<dyn Round>>,
    /// Rounds in a row that failed.
    failures: u32,
    /// When something last moved.
    moved: Instant,
    /// How long the next round can wait for something new, where the last one went well and moved nothing.
    rest: Option<Duration>,
    /// Whether the last round came because something was told as new.
    woken: bool,
    /// Rounds in a row in which its ends could not be made ready.
    unready: u32,
}

/// What became of one round.
pub struct Turn {
    /// What it brought over, or why it ended.
    pub result: Result<Report>,
    /// Whether anything moved.
    pub moved: bool,
    /// The site at the other end, where that is a peer's.
    pub peer: Option<(u64, u32)>,
    /// Rounds in a row in which its ends could not be made ready.
    pub unready: u32,
    /// When the next one is due.
    pub wait: Duration,
}

impl Follow {
    /// A sync that has not begun to.
    #[must_use]
    pub fn new(
        (config, sync): (&Arc<Config>, &Sync),
        prepare: &Arc<dyn Prepare>,
        (pause, limit): (Option<Duration>, Option<Duration>),
        outcomes: &Outcomes,
        stop: &CancellationToken,
    ) -> Self {
        outcomes.note(&sync.name, None);
        Self {
            config: config.clone(),
            sync: sync.clone(),
            prepare: prepare.clone(),
            pause,
            limit,
            outcomes: outcomes.clone(),
            stop: stop.clone(),
            ready: None,
            failures: 0,
            moved: Instant::now(),
            rest: None,
            woken: false,
            unready: 0,
        }
    }

    /// One round, once those that it waits for have had theirs; `None` when it was asked to stop meanwhile.
    pub async fn round(&mut self) -> Option<Turn> {
        let began = Instant::now();
        let result = self.run().await;
        if result.as_ref().is_err_and(|e| e.kind == ErrorKind::Interrupted) {
            return None;
        }
        self.outcomes.note(&self.sync.name, Some(result.is_ok()));
        let peer = self.ready.as_deref().and_then(Round::peer);
        let moved = result
            .as_ref()
            .is_ok_and(|report| report.tables.iter().any(|t| t.inserted + t.updated + t.deleted + t.conflicts > 0));
        let wait = if result.is_ok() {
            self.failures = 0;
            if moved {
                self.moved = Instant::now();
            }
            self.pause.unwrap_or_else(|| Pace::LIVE.wait(self.moved.elapsed(), began.elapsed()))
        } else {
            // Whatever half is left of it is opened anew.
            self.ready = None;
            self.failures = self.failures.saturating_add(1);
            Backoff::CONNECTION.wait(self.failures, random())
        };
        if wait > HELD_MAX {
            self.ready = None;
        }
        let quiet = result.as_ref().ok().filter(|_| !moved && self.pause.is_none());
        self.rest = quiet.map(|report| {
            let aside = report.tables.iter().any(|table| table.waiting + table.quarantined > 0);
            if aside { ASIDE_MAX } else { NEWS_MAX }
        });
        Some(Turn { result, moved, peer, unready: self.unready, wait })
    }

    /// Waits until the next round is due, or until asked to stop. What is live and quiet waits until its ends have
    /// something, where they can tell.
    pub async fn pause(&mut self, wait: Duration) {
        let (ready, woken) = (self.ready.as_mut(), &mut self.woken);
        let again = std::mem::take(woken);
        let due = async {
            if let (Some(round), Some(longest)) = (ready, self.rest) {
                // What was told as new and moved nothing may be told again at once.
                if again {
                    tokio::time::sleep(wait).await;
                }
                *woken = matches!(round.wait(longest).await, Some(Ok(())));
            }
            // When it cannot be told any more, the next round says why.
            if !*woken {
                tokio::time::sleep(wait).await;
            }
        };
        tokio::select! {
            () = due => {}
            () = self.stop.cancelled() => {}
        }
    }

    async fn run(&mut self) -> Result<Report> {
        while let Some((other, failed)) = self.outcomes.unfulfilled(&self.sync.after) {
            if failed {
                return Err(Error::new(ErrorKind::Busy, format!("waits for sync {other}, which did not succeed")));
            }
            tokio::time::sleep(ASKED).await;
            if self.stop.is_cancelled() {
                return Err(interrupted());
            }
        }
        let limit = self.limit;
        let work = async {
            if self.ready.is_none() {
                self.unready += 1;
                self.ready = Some(self.prepare.prepare(&self.config, &self.sync, &self.stop).await?);
                self.unready = 0;
            }
            let Some(round) = self.ready.as_mut() else {
                return Err(Error::new(ErrorKind::Protocol, "nothing is ready"));
            };
            round.run().await
        };
        let report = match limit {
            None => work.await?,
            Some(limit) => tokio::time::timeout(limit, work).await.map_err(|_| {
                Error::new(ErrorKind::Busy, format!("a round took longer than job_timeout ({} s)", limit.as_secs()))
            })??,
        };
        match report.fault() {
            Some(fault) => Err(fault),
            None => Ok(report),
        }
    }
}
