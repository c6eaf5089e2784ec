//! Locks by name.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use crate::engine::Lock;

/// The names that are held.
#[derive(Debug, Default)]
pub(super) struct Locks(Arc<Mutex<BTreeSet<String>>>);

impl Locks {
    /// Takes a name; `None` when it is held.
    pub(super) fn take(&self, name: &str) -> Option<Box<dyn Lock>> {
        let free = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        free.then(|| Box::new(Held { names: self.0.clone(), name: name.to_owned() }) as Box<dyn Lock>)
    }
}

struct Held {
    names: Arc<Mutex<BTreeSet<String>>>,
    name: String,
}

#[async_trait]
impl Lock for Held {
    async fn is_held(&mut self) -> bool {
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}
