//! A lock among processes. SQLite has none to give, and a file beside the database would stay
//! behind; so the system's folder for temporary files holds it, under the database's real path.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use async_trait::async_trait;
use xxhash_rust::xxh3::xxh3_64;

use crate::engine::{Error, ErrorKind, Lock, Result};

/// Ends with the file's handle, also when the process dies.
struct FileLock {
    _file: File,
}

#[async_trait]
impl Lock for FileLock {
    async fn is_held(&mut self) -> bool {
        true
    }
}

/// The lock of this name for the database of this path. `None` when another process has it.
pub(super) fn lock(database: &Path, name: &str) -> Result<Option<Box<dyn Lock>>> {
    let real = std::fs::canonicalize(database).unwrap_or_else(|_| database.to_owned());
    let key = xxh3_64(format!("{name}\0{}", real.display()).as_bytes());
    let path = std::env::temp_dir().join(format!("rowferry-{key:016x}.lock"));
    let failed = |e: std::io::Error| {
        Error::new(ErrorKind::Denied, format!("the lock file {} cannot be used: {e}", path.display()))
    };
    // Another account may have made it; to lock it, reading is enough.
    let file = File::open(&path)
        .or_else(|_| OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path))
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Box::new(FileLock { _file: file }))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(failed(e)),
    }
}
