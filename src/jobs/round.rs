//! Syncs that run by themselves: how each of them goes is noted in the node's store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Node;
use super::follow::{Follow, Outcomes, Prepare, Turn};
use super::standing::SyncRecord;
use crate::config::{Config, When};
use crate::state::Kind;

/// A round that changes nothing of the record is noted this rarely.
const NOTED_AGAIN: Duration = Duration::from_secs(5);

/// Runs the syncs of this configuration that run by themselves, until it is asked to stop.
pub async fn keep_running(
    node: &Arc<Node>,
    config: &Arc<Config>,
    prepare: &Arc<dyn Prepare>,
    stop: &CancellationToken,
) {
    let outcomes = Outcomes::default();
    let mut kept = Vec::new();
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
        let bounds = (pause, Some(sync.settings.job_timeout));
        let follow = Follow::new((config, sync), prepare, bounds, &outcomes, stop);
        kept.push(Kept { node: node.clone(), sync: sync.name.clone(), follow, stop: stop.clone() });
    }
    // All of them are known now to those that wait for others.
    let mut tasks = JoinSet::new();
    for kept in kept {
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
    /// Its name.
    sync: String,
    follow: Follow,
    stop: CancellationToken,
}

impl Kept {
    async fn run(mut self) {
        let mut record: SyncRecord =
            self.node.state.get(Kind::Sync, &self.sync).await.ok().flatten().unwrap_or_default();
        let mut noted = None::<Instant>;
        while !self.stop.is_cancelled() {
            let before = record.clone();
            let Some(Turn { result, wait, peer, .. }) = self.follow.round().await else { break };
            record.peer = peer.or(record.peer);
            match result {
                Ok(_) => record.succeeded(),
                Err(e) => {
                    if record.failed(&e, wait) {
                        tracing::warn!("sync {}: {e}; tried again by itself", self.sync);
                    }
                }
            }
            if before.error.is_some() && record.error.is_none() {
                tracing::info!("sync {}: goes on", self.sync);
            }
            let news = before.error != record.error || before.next_try != record.next_try;
            if news || noted.is_none_or(|at| at.elapsed() > NOTED_AGAIN) {
                match self.node.state.put(Kind::Sync, &self.sync, &record).await {
                    Ok(()) => noted = Some(Instant::now()),
                    Err(e) => tracing::warn!("sync {}: how it stands could not be noted: {e}", self.sync),
                }
            }
            self.follow.pause(wait).await;
        }
        // Nobody is left to tell.
        let _ = self.node.state.put(Kind::Sync, &self.sync, &record).await;
    }
}
