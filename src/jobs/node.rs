//! What the parts of a running node share.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::{Databases, Terms};
use crate::config::Config;
use crate::state::State;

/// A running node.
pub struct Node {
    config: RwLock<Arc<Config>>,
    /// Its own store.
    pub state: State,
    /// Its databases.
    pub databases: Databases,
    /// What was said of the pairs of sites that it takes part in.
    pub terms: Terms,
    /// When it started.
    pub started: Instant,
    /// Asked to stop.
    pub stop: CancellationToken,
}

impl Node {
    /// A node with this configuration.
    #[must_use]
    pub fn new(config: Arc<Config>, state: State, stop: CancellationToken) -> Self {
        Self {
            config: RwLock::new(config),
            state,
            databases: Databases::default(),
            terms: Terms::default(),
            started: Instant::now(),
            stop,
        }
    }

    /// The configuration that is in force.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on this one is in force.
    pub fn set_config(&self, config: Arc<Config>) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
    }
}
