//! The databases of a configuration, each opened once, at its first use.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::config::{Config, DatabaseConfig};
use crate::engine::{Database, Error, ErrorKind, OpenOptions, Result, open};

/// Open databases by name.
#[derive(Default)]
pub struct Databases {
    open: Mutex<HashMap<String, Opened>>,
}

/// A database, and what it was opened by.
type Opened = (DatabaseConfig, Arc<dyn Database>);

impl Databases {
    /// The database of this name. One whose URL is another since is opened anew.
    ///
    /// # Errors
    /// `Usage` where there is none of this name, and what stands against reaching it.
    pub async fn get(&self, config: &Config, name: &str) -> Result<Arc<dyn Database>> {
        let wanted = config.database(name).map_err(|e| Error::new(ErrorKind::Usage, e.to_string()))?;
        if let Some((known, database)) = self.open.lock().await.get(name)
            && known == wanted
        {
            return Ok(database.clone());
        }
        let options = OpenOptions { create: false, zone: wanted.timezone.clone() };
        let opened = open(wanted.url.expose(), &options).await.map_err(|e| e.context(format!("database '{name}'")))?;
        self.open.lock().await.insert(name.to_owned(), (wanted.clone(), opened.clone()));
        Ok(opened)
    }
}
