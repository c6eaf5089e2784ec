//! The demo's API, where it was asked for: a node over its two databases.

use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::cli::output::Output;
use crate::cli::serve::state_place;
use crate::config::{Format, Role, parse};
use crate::engine::{Error, ErrorKind, Result};
use crate::http;
use crate::jobs::Node;
use crate::state::{State, new_key};

/// A node that answers until it is ended.
pub(super) struct Api {
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

impl Api {
    /// Starts it and says where it is; its sync is run by the demo.
    pub(super) async fn start(dir: &Path, listen: &str, output: &Output) -> Result<Self> {
        let text = [
            "node: head-office",
            "state: sqlite:demo-state.db",
            "databases: { head-office: { url: 'sqlite:head-office.db' }, branch: { url: 'sqlite:branch.db' } }",
            "syncs:",
            "  shop: { source: head-office, target: branch, direction: bidirectional, tables: [customers, products] }",
            &format!("listen: {}", serde_json::Value::from(listen)),
        ]
        .join("\n");
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        let config = parse(&text, Format::Yaml, "--listen", &dir);
        let config = Arc::new(config.map_err(|e| Error::new(ErrorKind::Usage, e.to_string()))?);
        let state = State::open(&state_place(&config)).await?;
        let key = new_key(Role::Viewer)?;
        state.add_key("demo", &key.record).await?;
        let server = http::bind(&config, &state).await?;
        let url = server.url();
        output.news(format!("   {} listens on {url}", config.node));
        output.news(format!("   curl -H 'X-API-Key: {}' {url}/api/status", key.key));
        let stop = CancellationToken::new();
        let node = Arc::new(Node::new(config, state, stop.clone()));
        Ok(Self { serving: tokio::spawn(server.run(node)), stop })
    }

    pub(super) async fn end(self) -> Result<()> {
        self.stop.cancel();
        self.serving.await.map_err(|e| Error::new(ErrorKind::Protocol, format!("the server died: {e}")))
    }
}
