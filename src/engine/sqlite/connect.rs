//! URLs, opening, and the thread that each connection lives on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, InterruptHandle, OpenFlags};
use tokio::sync::{mpsc, oneshot};

use super::error::during;
use crate::engine::{Error, ErrorKind, Result};

/// What a URL says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    /// The file.
    pub path: PathBuf,
    /// The URL, for people.
    pub label: String,
    /// How long to wait for another program's lock.
    pub busy: Duration,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Makes the file where it is missing.
    Create,
    /// Looks at the catalogue. May write, because a journal left by a crash is rolled back by
    /// whoever opens the file next, and a read-only connection cannot do that.
    Catalogue,
    /// Reads rows.
    Read,
    /// Writes rows.
    Write,
}

fn usage(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Usage, message)
}

/// `%41` to `A`; anything that is no escape stays.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .filter(|h| h.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|h| u8::from_str_radix(h, 16).ok());
        if let Some(byte) = hex {
            out.push(byte);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

/// Reads `sqlite:PATH`, `sqlite://PATH`, `sqlite:///absolute`, each with `?busy_timeout=MS`.
pub(super) fn parse_url(url: &str) -> Result<Settings> {
    let rest = url.strip_prefix("sqlite:").ok_or_else(|| usage(format!("'{url}' does not begin with sqlite:")))?;
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = path.strip_prefix("//").map_or_else(|| path.to_owned(), percent_decoded);
    if path.is_empty() || path == ":memory:" {
        return Err(usage(format!("'{url}' names no file: write sqlite:PATH (a database in memory cannot be shared)")));
    }
    let mut busy = Duration::from_secs(5);
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match name {
            "busy_timeout" => {
                let ms: u32 =
                    value.parse().map_err(|_| usage(format!("busy_timeout='{value}' is no number of milliseconds")))?;
                busy = Duration::from_millis(ms.into());
            }
            other => {
                return Err(usage(format!("sqlite: does not know the parameter '{other}'; it knows busy_timeout")));
            }
        }
    }
    Ok(Settings { label: format!("sqlite:{path}"), path: PathBuf::from(path), busy })
}

/// Opens a connection. Blocking.
pub(super) fn connect(settings: &Settings, access: Access) -> Result<Connection> {
    if access != Access::Create && !settings.path.exists() {
        return Err(Error::new(
            ErrorKind::Unreachable,
            format!("there is no file {}: check the path in the URL", settings.path.display()),
        ));
    }
    let flags = match access {
        Access::Create => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
        Access::Catalogue | Access::Write => OpenFlags::SQLITE_OPEN_READ_WRITE,
        Access::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
    } | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(&settings.path, flags).map_err(during(&settings.label))?;
    prepare(&conn, settings, access).map_err(during(&settings.label))?;
    Ok(conn)
}

fn prepare(conn: &Connection, settings: &Settings, access: Access) -> rusqlite::Result<()> {
    conn.busy_timeout(settings.busy)?;
    conn.set_prepared_statement_cache_capacity(64);
    match access {
        Access::Catalogue | Access::Create => {}
        Access::Read => {
            // Else a quoted name that is no column would be taken for a text.
            conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
            // Sorting large tables must not fill the memory.
            conn.execute_batch("PRAGMA temp_store = FILE; PRAGMA query_only = ON")?;
        }
        Access::Write => conn.execute_batch("PRAGMA temp_store = FILE; PRAGMA cache_size = -32768")?,
    }
    // Also tells a file that is no database.
    conn.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))
}

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// A connection on a thread of its own: SQLite's calls block. Dropping it interrupts what runs
/// and closes the connection, which rolls back.
pub(super) struct Worker {
    jobs: mpsc::Sender<Job>,
    interrupt: Arc<InterruptHandle>,
    settings: Arc<Settings>,
    /// The file that was opened.
    file: Option<FileId>,
}

/// What tells a file from another that has taken its name since.
type FileId = (u64, u64);

/// That of the file at this path; `None` where the system tells no such thing.
fn file_id(path: &Path) -> Option<FileId> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}

/// What is the same for all paths that lead to one file, also where it has several names.
pub(super) fn identity(path: &Path) -> String {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        if let Ok(file) = std::fs::metadata(path)
            && file.nlink() > 1
        {
            return format!("file {} of device {}", file.ino(), file.dev());
        }
    }
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

impl Worker {
    /// Opens a connection on a new thread.
    pub(super) async fn start(settings: Arc<Settings>, access: Access) -> Result<Self> {
        let (jobs, mut queue) = mpsc::channel::<Job>(4);
        let (ready, opened) = oneshot::channel();
        let opening = settings.clone();
        std::thread::Builder::new()
            .name("sqlite".to_owned())
            .spawn(move || {
                let mut conn = match connect(&opening, access) {
                    Ok(conn) => conn,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                if ready.send(Ok(conn.get_interrupt_handle())).is_err() {
                    return;
                }
                while let Some(job) = queue.blocking_recv() {
                    job(&mut conn);
                }
            })
            .map_err(|e| Error::new(ErrorKind::Busy, format!("cannot start a thread for SQLite: {e}")))?;
        let interrupt = Arc::new(opened.await.map_err(|_| gone())??);
        let file = file_id(&settings.path);
        Ok(Self { jobs, interrupt, settings, file })
    }

    /// Whether the path still leads to the file that was opened: what is written to one that was put aside or replaced
    /// is lost.
    pub(super) fn same_file(&self) -> Result<()> {
        if file_id(&self.settings.path) == self.file {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Unreachable,
            format!("{} was removed or replaced by another file while it was in use", self.settings.label),
        ))
    }

    /// Runs this on the connection's thread.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.spawn(move |conn| drop(reply.send(work(conn)))).await?;
        let done = answer.await.map_err(|_| gone())?;
        // Which disk is full, and what may not be written, is told by the file.
        let of_the_file = |kind| matches!(kind, ErrorKind::Full | ErrorKind::Denied);
        done.map_err(|e| if of_the_file(e.kind) { e.context(&self.settings.label) } else { e })
    }

    /// Hands this to the connection's thread without waiting for it.
    pub(super) async fn spawn(&self, work: impl FnOnce(&mut Connection) + Send + 'static) -> Result<()> {
        self.jobs.send(Box::new(work)).await.map_err(|_| gone())
    }

    /// Stops the statement that runs, if one does.
    pub(super) fn interrupt(&self) {
        self.interrupt.interrupt();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.interrupt.interrupt();
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::Protocol, "the thread of a SQLite connection ended unexpectedly; please report this")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let path = |u: &str| parse_url(u).map(|s| s.path.display().to_string());
        assert_eq!(path("sqlite:a b.db").unwrap(), "a b.db");
        assert_eq!(path("sqlite://a.db").unwrap(), "a.db");
        assert_eq!(path("sqlite:///x/a%20b.db").unwrap(), "/x/a b.db");
        assert_eq!(path("sqlite:100%25.db").unwrap(), "100%25.db");
        assert_eq!(parse_url("sqlite:a?busy_timeout=7").unwrap().busy, Duration::from_millis(7));
        for bad in ["sqlite:", "sqlite::memory:", "sqlite:a?x=1", "sqlite:a?busy_timeout=soon"] {
            assert_eq!(parse_url(bad).unwrap_err().kind, ErrorKind::Usage, "{bad}");
        }
    }
}
