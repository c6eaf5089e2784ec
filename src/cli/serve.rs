//! `rowferry serve`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::args::Args;
use super::output::Output;
use super::{Outcome, connect, recover, sync};
use crate::config::{self, Config, DatabaseConfig, Mode, Role, Sync};
use crate::engine::{Error, ErrorKind, Result};
use crate::http;
use crate::jobs::{Node, Prepare, Round, keep_running};
use crate::model::Zone;
use crate::pipeline::{Pair, Report};
use crate::runtime::{Hangup, notify};
use crate::state::{State, new_key};

pub(crate) async fn run(args: &Args, output: &Output, stop: CancellationToken) -> Result<Outcome> {
    let (path, config) = connect::configuration_at(args)?;
    let config = Arc::new(config);
    let mut hangup = Hangup::new().map_err(|e| Error::new(ErrorKind::Protocol, format!("no signals: {e}")))?;
    let state = State::open(&state_place(&config)).await?;
    let server = http::bind(&config, &state).await?;
    first_key(&config, &state, output).await?;
    if config.insecure && config.tls.is_none() {
        tracing::warn!(
            "insecure: true: keys and rows cross the network as they are, unless something in front protects them"
        );
    }
    let url = server.url();
    output.line(format!("{} listens on {url}", config.node));
    if let Some(pin) = server.pin() {
        output.line(format!("certificate sha256: {pin}"));
    }
    output.document(&serde_json::json!({ "node": config.node, "url": url, "pin": server.pin() }));
    let node = Arc::new(Node::new(config, state, stop.clone()));
    let serving = tokio::spawn(server.run(node.clone()));
    told("READY=1");
    let prepare: Arc<dyn Prepare> = Arc::new(FromConfig { node: Some(node.clone()), files: recover::Files::default() });
    while !stop.is_cancelled() {
        let (config, round) = (node.config(), stop.child_token());
        let syncs = keep_running(&node, &config, &prepare, &round);
        let mut syncs = std::pin::pin!(syncs);
        let mut ended = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = syncs.as_mut(), if !ended => ended = true,
                () = hangup.wait() => {
                    told("RELOADING=1");
                    let taken = reload(&path, &node);
                    told("READY=1");
                    if taken {
                        break;
                    }
                }
            }
        }
        round.cancel();
        if !ended {
            syncs.await;
        }
    }
    told("STOPPING=1");
    serving
        .await
        .map_err(|e| Error::new(ErrorKind::Protocol, format!("the server ended by a mistake of ours: {e}")))?;
    Ok(Outcome::Done)
}

/// Where the node keeps its own store.
pub(crate) fn state_place(config: &Config) -> DatabaseConfig {
    DatabaseConfig { url: config.state.clone(), timezone: Zone::default() }
}

/// Tells the service manager, if one wants to know.
fn told(state: &str) {
    if let Some(socket) = config::notify_socket() {
        notify(&socket, state);
    }
}

/// Without any key nobody could come in: one for an admin is made, and printed this once.
async fn first_key(config: &Config, state: &State, output: &Output) -> Result<()> {
    if !config.api_keys.is_empty() || !state.keys().await?.is_empty() {
        return Ok(());
    }
    let issued = new_key(Role::Admin)?;
    state.add_key("admin", &issued.record).await?;
    output.line(format!("there was no key yet; this one, for an admin, is shown only now: {}", issued.key));
    output.document(&serde_json::json!({ "name": "admin", "role": Role::Admin, "key": issued.key }));
    Ok(())
}

/// Reads the configuration again; whether it was taken. One that cannot be used leaves the old one in force.
fn reload(path: &Path, node: &Node) -> bool {
    let old = node.config();
    match config::load(path) {
        Ok(new) => {
            if (&new.listen, &new.tls, new.state.expose()) != (&old.listen, &old.tls, old.state.expose()) {
                tracing::warn!("listen, tls and state are taken from the configuration at the next start only");
            }
            node.set_config(Arc::new(new));
            tracing::info!("the configuration was read again and is in force");
            true
        }
        Err(e) => {
            tracing::error!("the configuration was read again and cannot be used, the one before stays in force: {e}");
            false
        }
    }
}

/// Syncs as the configuration has them.
pub(super) struct FromConfig {
    /// The node that runs them, if one does.
    pub(super) node: Option<Arc<Node>>,
    /// The files at their ends.
    pub(super) files: recover::Files,
}

#[async_trait]
impl Prepare for FromConfig {
    async fn prepare(&self, config: &Config, sync: &Sync, stop: &CancellationToken) -> Result<Box<dyn Round>> {
        sync::supported(sync)?;
        if let Some(node) = &self.node {
            self.files.put_right(config, sync, node, stop).await?;
        }
        if sync.mode == Mode::Incremental {
            let pair = sync::pair(config, sync, sync::Manner::default(), stop).await?;
            if let Some(node) = self.node.as_ref().filter(|_| pair.peer().is_some()) {
                let whose = format!("sync {} of this node", sync.name);
                pair.routes().iter().try_for_each(|route| node.terms.settle(&whose, route))?;
            }
            let seen = Seen { config: config.clone(), sync: sync.clone(), node: self.node.clone() };
            return Ok(Box::new(Incremental { pair, stood: None, seen: Some(seen) }));
        }
        let seen = Seen { config: config.clone(), sync: sync.clone(), node: self.node.clone() };
        Ok(Box::new(Whole { seen, stop: stop.clone() }))
    }
}

/// A sync of a node, whose files are known to hold rows once a round went well.
struct Seen {
    config: Config,
    sync: Sync,
    node: Option<Arc<Node>>,
}

impl Seen {
    async fn note(&self) -> Result<()> {
        match &self.node {
            Some(node) => recover::note(&self.config, &self.sync, Some(&node.state)).await,
            None => Ok(()),
        }
    }
}

/// A pair that stays ready, and where its ends stood before its last round.
struct Incremental {
    pair: Pair,
    stood: Option<(i64, i64)>,
    /// What is to be noted after the first round that went well.
    seen: Option<Seen>,
}

#[async_trait]
impl Round for Incremental {
    async fn run(&mut self) -> Result<Report> {
        self.stood = Some(self.pair.news(None, Duration::ZERO).await?);
        let report = self.pair.run().await?;
        if report.error.is_none()
            && let Some(seen) = self.seen.take()
        {
            seen.note().await?;
        }
        Ok(report)
    }

    fn peer(&self) -> Option<(u64, u32)> {
        self.pair.peer().map(|site| (site.id, site.epoch))
    }

    async fn wait(&mut self, longest: Duration) -> Option<Result<()>> {
        let stood = self.stood?;
        Some(self.pair.news(Some(stood), longest).await.map(drop))
    }
}

/// A full or mirror sync, planned anew each time.
struct Whole {
    seen: Seen,
    stop: CancellationToken,
}

#[async_trait]
impl Round for Whole {
    async fn run(&mut self) -> Result<Report> {
        let Seen { config, sync, .. } = &self.seen;
        let report = sync::run_one(config, sync, sync::Manner::default(), &Output::silent(), &self.stop).await?;
        self.seen.note().await?;
        Ok(report)
    }

    fn peer(&self) -> Option<(u64, u32)> {
        None
    }

    async fn wait(&mut self, _longest: Duration) -> Option<Result<()>> {
        None
    }
}
