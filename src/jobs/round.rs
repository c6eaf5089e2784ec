//! Syncs that run by themselves: round after round, soon after something moved, more rarely while nothing does; one that
//! fails is tried again for ever, and does not stop the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Node;
use super::standing::SyncRecord;
use crate::config::{Config, Sync, When};
use crate::engine::{Error, ErrorKind, Result};
use crate::pipeline::Report;
use crate::runtime::{Backoff, random};
use crate::state::Kind;

/// Between two looks of a live sync: at once after something moved, then ever more rarely.
const IDLE: Backoff = Backoff { first: Duration::from_millis(50), longest: Duration::from_secs(1) };
/// A round that changes nothing of the record is noted this rarely.
const NOTED_AGAIN: Duration = Duration::from_secs(5);
/// Ends of a sync with a longer pause are let go meanwhile, so that others may bring them in step.
const HELD_MAX: Duration = Duration::from_secs(10);

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
}

/// How the last round of each sync went, for those that wait for others.
type Outcomes = Arc<Mutex<HashMap<String, bool>>>;

/// Runs the syncs of this configuration that run by themselves, until it is asked to stop.
pub async fn keep_running(
    node: &Arc<Node>,
    config: &Arc<Config>,
    prepare: &Arc<dyn Prepare>,
    stop: &CancellationToken,
) {
    let outcomes = Outcomes::default();
    let mut tasks = JoinSet::new();
    for sync in config.syncs.iter().filter(|sync| sync.enabled) {
        let pause = match &sync.when {
            When::Asked => continue,
            When::Cron(_) => {
                tracing::warn!("sync {}: schedule is not supported yet; it does not run by itself", sync.name);
                continue;
            }
            When::Interval(pause) => Some(*pause),
            When::Live => None,
        };
        let kept = Kept {
            node: node.clone(),
            config: config.clone(),
            prepare: prepare.clone(),
            sync: sync.clone(),
            pause,
            outcomes: outcomes.clone(),
            stop: stop.clone(),
        };
        tasks.spawn(kept.run());
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(e) = ended {
            tracing::error!("a sync ended by a mistake of ours: {e}");
        }
    }
}

/// A sync that is kept running.
struct Kept {
    node: Arc<Node>,
    config: Arc<Config>,
    prepare: Arc<dyn Prepare>,
    sync: Sync,
    /// Between two rounds; `None`: as soon as something changes.
    pause: Option<Duration>,
    outcomes: Outcomes,
    stop: CancellationToken,
}

impl Kept {
    async fn run(self) {
        let mut record: SyncRecord =
            self.node.state.get(Kind::Sync, &self.sync.name).await.ok().flatten().unwrap_or_default();
        let (mut ready, mut failures, mut quiet, mut noted) = (None, 0_u32, 0_u32, None::<Instant>);
        while !self.stop.is_cancelled() {
            let before = record.clone();
            let wait = match self.round(&mut ready).await {
                Ok(moved) => {
                    failures = 0;
                    quiet = if moved { 0 } else { quiet.saturating_add(1) };
                    record.succeeded();
                    self.pause.unwrap_or_else(|| IDLE.wait(quiet.max(1), random()))
                }
                Err(e) if e.kind == ErrorKind::Interrupted => break,
                Err(e) => {
                    ready = None;
                    failures = failures.saturating_add(1);
                    let wait = Backoff::CONNECTION.wait(failures, random());
                    if record.failed(&e, wait) {
                        tracing::warn!("sync {}: {e}; tried again by itself", self.sync.name);
                    }
                    wait
                }
            };
            if before.error.is_some() && record.error.is_none() {
                tracing::info!("sync {}: goes on", self.sync.name);
            }
            self.outcomes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(self.sync.name.clone(), record.error.is_none());
            let news = before.error != record.error || before.next_try != record.next_try;
            if news || noted.is_none_or(|at| at.elapsed() > NOTED_AGAIN) {
                match self.node.state.put(Kind::Sync, &self.sync.name, &record).await {
                    Ok(()) => noted = Some(Instant::now()),
                    Err(e) => tracing::warn!("sync {}: how it stands could not be noted: {e}", self.sync.name),
                }
            }
            if wait > HELD_MAX {
                ready = None;
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.stop.cancelled() => {}
            }
        }
        // Nobody is left to tell.
        let _ = self.node.state.put(Kind::Sync, &self.sync.name, &record).await;
    }

    /// One round; whether anything moved.
    async fn round(&self, ready: &mut Option<Box<dyn Round>>) -> Result<bool> {
        let unfulfilled = {
            let outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
            self.sync.after.iter().find(|name| outcomes.get(*name).is_some_and(|well| !well)).cloned()
        };
        if let Some(other) = unfulfilled {
            return Err(Error::new(ErrorKind::Busy, format!("waits for sync {other}, which did not succeed")));
        }
        let work = async {
            if ready.is_none() {
                *ready = Some(self.prepare.prepare(&self.config, &self.sync, &self.stop).await?);
            }
            let Some(round) = ready.as_mut() else { return Err(Error::new(ErrorKind::Protocol, "nothing is ready")) };
            round.run().await
        };
        let limit = self.sync.settings.job_timeout;
        let report = tokio::time::timeout(limit, work).await.map_err(|_| {
            Error::new(ErrorKind::Busy, format!("a round took longer than job_timeout ({} s)", limit.as_secs()))
        })??;
        if let Some(fault) = report.fault() {
            return Err(fault);
        }
        Ok(report.tables.iter().any(|t| t.inserted + t.updated + t.deleted + t.conflicts + t.quarantined > 0))
    }
}
