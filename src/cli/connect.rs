//! From what was typed to a database.

use std::sync::Arc;

use super::args::Args;
use crate::engine::{Database, Error, ErrorKind, OpenOptions, Result, open};

/// Opens a URL, or a database that the config names.
pub(crate) async fn database(_args: &Args, name: &str, create: bool) -> Result<Arc<dyn Database>> {
    if !name.contains(':') {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("'{name}' is no database URL; one looks like sqlite:shop.db or postgres://user@host/shop"),
        ));
    }
    open(name, &OpenOptions { create }).await
}
