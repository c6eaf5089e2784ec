//! A site of the demo: a database with its node.

use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::{CancellationToken, DropGuard};

use super::super::serve::state_place;
use crate::config::{Config, Format, Role, parse};
use crate::engine::{Error, ErrorKind, Result};
use crate::http;
use crate::jobs::Node;
use crate::state::{State, new_key};

/// What both sites sync.
const TABLES: &str = "[customers, products]";

/// A node that answers until it is ended.
pub(super) struct Site {
    /// Where it listens.
    pub(super) url: String,
    /// Whose node it is.
    pub(super) node: Arc<Node>,
    serving: tokio::task::JoinHandle<()>,
    /// With this value the node stops, however the demo ends.
    stop: DropGuard,
}

impl Site {
    async fn start(config: Config) -> Result<Self> {
        let config = Arc::new(config);
        let state = State::open(&state_place(&config)).await?;
        let server = http::bind(&config, &state).await?;
        let (url, stop) = (server.url(), CancellationToken::new());
        let node = Arc::new(Node::new(config, state, stop.clone()));
        Ok(Self { url, serving: tokio::spawn(server.run(node.clone())), node, stop: stop.drop_guard() })
    }

    /// The branch, which head office knows by this key. It listens where the system has a port to spare.
    pub(super) async fn branch(dir: &Path, key: &str) -> Result<Self> {
        let tables = format!("{{ branch: {TABLES} }}");
        let text = [
            "node: branch",
            "listen: 127.0.0.1:0",
            "state: sqlite:branch-state.db",
            "databases: { branch: { url: 'sqlite:branch.db' } }",
            &format!("api: {{ keys: [{{ name: head-office, key: {key}, role: peer, tables: {tables} }}] }}"),
        ]
        .join("\n");
        Self::start(configuration(dir, &text)?).await
    }

    /// Head office, whose API listens here.
    pub(super) async fn office(dir: &Path, listen: &str, branch: &Self, key: &str) -> Result<Self> {
        Self::start(office(dir, listen, branch, key)?).await
    }

    /// Tells head office where the branch listens since it is back.
    pub(super) fn meets(&self, dir: &Path, listen: &str, branch: &Self, key: &str) -> Result<()> {
        self.node.set_config(Arc::new(office(dir, listen, branch, key)?));
        Ok(())
    }

    /// A key for who wants to look, under a name of its own.
    pub(super) async fn viewer(&self) -> Result<String> {
        let key = new_key(Role::Viewer)?;
        self.node.state.add_key("demo", &key.record).await?;
        Ok(key.key)
    }

    /// It stops; requests under way end.
    pub(super) async fn end(self) -> Result<()> {
        drop(self.stop);
        self.serving.await.map_err(|e| Error::new(ErrorKind::Protocol, format!("the server died: {e}")))
    }
}

fn office(dir: &Path, listen: &str, branch: &Site, key: &str) -> Result<Config> {
    let (listen, url) = (serde_json::Value::from(listen), &branch.url);
    let text = [
        "node: head-office",
        &format!("listen: {listen}"),
        "state: sqlite:demo-state.db",
        "databases: { head-office: { url: 'sqlite:head-office.db' } }",
        &format!("peers: {{ branch: {{ url: '{url}', api_key: {key} }} }}"),
        "syncs:",
        &format!("  shop: {{ source: head-office, target: branch, direction: bidirectional, tables: {TABLES} }}"),
    ]
    .join("\n");
    configuration(dir, &text)
}

fn configuration(dir: &Path, text: &str) -> Result<Config> {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    parse(text, Format::Yaml, "--listen", &dir).map_err(|e| Error::new(ErrorKind::Usage, e.to_string()))
}
