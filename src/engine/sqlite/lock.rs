//! A lock among processes. SQLite has none to give, and a file beside the database would be in its way; so the system's
//! folder for temporary files holds it, under the database's real path. The file goes with the lock: whoever takes a
//! lock of a file that is no longer there under its name, since it went while he waited for nothing, begins anew.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use xxhash_rust::xxh3::xxh3_64;

use crate::engine::{Error, ErrorKind, Lock, Result};
use crate::runtime::stands_at;

/// Ends with the file's handle, also when the process dies; then the file stays until the next one has had the lock.
struct FileLock {
    file: File,
    path: PathBuf,
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Held still: nobody else takes it for his own meanwhile. Another account's file may stay.
        if stands_at(&self.file, &self.path) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
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
    loop {
        // Another account may have made it; to lock it, reading is enough.
        let file = File::open(&path)
            .or_else(|_| OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path))
            .map_err(failed)?;
        match file.try_lock() {
            // Each time that it does not stand, somebody else has had the lock and is done.
            Ok(()) if stands_at(&file, &path) => return Ok(Some(Box::new(FileLock { file, path }))),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
    }
}
