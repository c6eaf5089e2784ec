//! From what was typed to a database or a configuration.

use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::args::Args;
use crate::config::{self, Config, PeerKind};
use crate::engine::{Database, Error, ErrorKind, OpenOptions, Result, open};
use crate::peer::{Link, RemoteEndpoint};
use crate::pipeline::{Endpoint, LocalEndpoint};
use crate::runtime::STEP;

/// The configuration of this call; a command that needs one fails without.
pub(crate) fn configuration(args: &Args) -> Result<Config> {
    configuration_at(args).map(|(_, config)| config)
}

/// The configuration with its file, to be read again.
pub(crate) fn configuration_at(args: &Args) -> Result<(PathBuf, Config)> {
    let path = config::find(args.config.as_deref()).ok_or_else(|| {
        Error::new(
            ErrorKind::Usage,
            "there is no rowferry.yaml here; write one with 'rowferry init', or name one with -c FILE",
        )
    })?;
    let config = config::load(&path).map_err(|e| Error::new(ErrorKind::Usage, e.to_string()))?;
    Ok((path, config))
}

/// Opens a URL, or a database that the config names.
pub(crate) async fn database(args: &Args, name: &str, create: bool) -> Result<Arc<dyn Database>> {
    if name.contains(':') {
        return told(open(name, &OpenOptions { create, ..OpenOptions::default() }).await?);
    }
    if config::find(args.config.as_deref()).is_none() {
        return Err(Error::new(
            ErrorKind::Usage,
            format!(
                "'{name}' is no database URL (one looks like sqlite:shop.db or postgres://user@host/shop), and there is no rowferry.yaml that could name it"
            ),
        ));
    }
    named(&configuration(args)?, name, create).await
}

/// Opens a database of the config.
pub(crate) async fn named(config: &Config, name: &str, create: bool) -> Result<Arc<dyn Database>> {
    let database = config.database(name).map_err(|e| Error::new(ErrorKind::Usage, e.to_string()))?;
    open(database.url.expose(), &OpenOptions { create, zone: database.timezone.clone() })
        .await
        .and_then(told)
        .map_err(|e| e.context(format!("database '{name}'")))
}

#[allow(clippy::unnecessary_wraps, reason = "it stands where a database is opened")]
fn told(database: Arc<dyn Database>) -> Result<Arc<dyn Database>> {
    tracing::info!(target: STEP, "{} is reached: {}", database.label(), database.version());
    Ok(database)
}

/// A database to be looked at: a URL, a name in the config, or `PEER/DATABASE`; a peer's name alone stands for the one
/// database that its key opens.
pub(crate) async fn endpoint(args: &Args, name: &str, stop: &CancellationToken) -> Result<Arc<dyn Endpoint>> {
    let (peer, database) = name.split_once('/').map_or((name, None), |(peer, database)| (peer, Some(database)));
    if !name.contains(':') && config::find(args.config.as_deref()).is_some() {
        let config = configuration(args)?;
        if config.peers.contains_key(peer) && !config.databases.contains_key(name) {
            let link = self::peer(&config, peer)?;
            let endpoint = RemoteEndpoint::meet(link, &config.node, database).await?;
            endpoint.must_compare()?;
            return Ok(Arc::new(endpoint));
        }
    }
    Ok(Arc::new(LocalEndpoint::new(&self::database(args, name, false).await?, stop)))
}

/// The way to a peer that the config names.
pub(crate) fn peer(config: &Config, name: &str) -> Result<Arc<Link>> {
    let usage = |message: String| Error::new(ErrorKind::Usage, message);
    let peer = config.peers.get(name).ok_or_else(|| usage(format!("there is no peer '{name}' under peers")))?;
    if peer.kind != PeerKind::Rowferry {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("peer '{name}': syncs with a node that is no rowferry are not supported yet"),
        ));
    }
    Ok(Arc::new(Link::new(name, peer, &config::proxies())?))
}
