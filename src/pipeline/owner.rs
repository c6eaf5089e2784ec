//! Who brings two databases in step: one process at a time, with as many syncs between the two as it likes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio_util::sync::CancellationToken;

use super::persist::{HOLD_TRIES, persist};
use crate::engine::{Database, Error, ErrorKind, Lock, Result};
use crate::runtime::{Backoff, random};

/// Those of this process, by what they own. A lock belongs to a connection, and the syncs of a process share it.
static OWNERS: Mutex<BTreeMap<String, Weak<Owner>>> = Mutex::new(BTreeMap::new());

/// The right to bring two databases in step. It ends with the last that shares it.
pub(super) struct Owner(tokio::sync::Mutex<Box<dyn Lock>>);

impl Owner {
    /// That of these two.
    ///
    /// # Errors
    /// `Busy` when another process has it.
    pub(super) async fn take(
        source: &Arc<dyn Database>,
        target: &Arc<dyn Database>,
        stop: &CancellationToken,
    ) -> Result<Arc<Self>> {
        let ends = (source.identity().await?, target.identity().await?);
        // The same from either end, and held at one that both would choose.
        let (at, name) = if ends.0 < ends.1 {
            (source, format!("pair {} {}", ends.0, ends.1))
        } else {
            (target, format!("pair {} {}", ends.1, ends.0))
        };
        let owner = persist(stop, || Self::share(at.as_ref(), &name)).await?;
        owner.ok_or_else(|| {
            let (source, target) = (source.label(), target.label());
            Error::new(
                ErrorKind::Busy,
                format!(
                    "another rowferry is bringing {source} and {target} in step; wait until it is done, then run this \
                     again"
                ),
            )
        })
    }

    /// `None` when another process keeps it.
    async fn share(at: &dyn Database, name: &str) -> Result<Option<Arc<Self>>> {
        // A server notices only after a moment that the holder has died.
        for tried in 1..=HOLD_TRIES {
            let known = OWNERS.lock().unwrap_or_else(PoisonError::into_inner).get(name).and_then(Weak::upgrade);
            if let Some(known) = known
                && known.is_held().await
            {
                return Ok(Some(known));
            }
            if let Some(lock) = at.lock(name).await? {
                let owner = Arc::new(Self(tokio::sync::Mutex::new(lock)));
                let mut owners = OWNERS.lock().unwrap_or_else(PoisonError::into_inner);
                owners.retain(|_, owner| owner.strong_count() > 0);
                owners.insert(name.to_owned(), Arc::downgrade(&owner));
                return Ok(Some(owner));
            }
            tokio::time::sleep(Backoff::ROWS.wait(tried, random())).await;
        }
        Ok(None)
    }

    /// Whether it is held still.
    pub(super) async fn is_held(&self) -> bool {
        match self.0.try_lock() {
            Ok(mut lock) => lock.is_held().await,
            // Another sync is asking, and will be told.
            Err(_) => true,
        }
    }
}
