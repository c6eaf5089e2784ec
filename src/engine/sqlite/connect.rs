//! URLs, opening, and the thread that each connection lives on.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, InterruptHandle, OpenFlags};
use tokio::sync::{mpsc, oneshot};

use super::error::during;
use crate::engine::{Error, ErrorKind, Result};
use crate::runtime::{FileId, file_id};

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
        Access::Write => conn.execute_batch("PRAGMA temp_store = FILE; PRAGMA cache_size = -24576")?,
    }
    // Also tells a file that is no database.
    conn.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))
}

/// Whether readers and writers of the file pass each other.
pub(super) fn is_wal(conn: &Connection) -> Result<bool> {
    let mode: rusqlite::Result<String> = conn.query_row("PRAGMA journal_mode", [], |row| row.get(0));
    Ok(mode.map_err(during("cannot read the journal mode"))?.eq_ignore_ascii_case("wal"))
}

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// A connection on a thread of its own: SQLite's calls block. Dropping it interrupts what runs, rolls back, and closes
/// the connection or gives it back to its pool.
pub(super) struct Worker {
    handle: Handle,
    settings: Arc<Settings>,
    home: Option<Arc<Pool>>,
}

/// The way to a connection's thread, which ends when there is none left.
#[derive(Clone)]
struct Handle {
    jobs: mpsc::Sender<Job>,
    interrupt: Arc<InterruptHandle>,
    /// The file that was opened.
    file: Option<FileId>,
}

/// What is the same for all paths that lead to one file, also where it has several names.
pub(super) fn identity(path: &Path) -> String {
    match file_id(path) {
        Some((file, names)) if names > 1 => format!("file {} of device {}", file.number, file.device),
        _ => std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()).display().to_string(),
    }
}

/// The file at this path.
fn file_at(path: &Path) -> Option<FileId> {
    file_id(path).map(|(file, _)| file)
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
        let file = file_at(&settings.path);
        Ok(Self { handle: Handle { jobs, interrupt, file }, settings, home: None })
    }

    /// Whether the path still leads to the file that was opened: what is written to one that was put aside or replaced
    /// is lost.
    pub(super) fn same_file(&self) -> Result<()> {
        if file_at(&self.settings.path) == self.handle.file {
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
        self.handle.jobs.send(Box::new(work)).await.map_err(|_| gone())
    }

    /// Stops the statement that runs, if one does.
    pub(super) fn interrupt(&self) {
        self.handle.interrupt.interrupt();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.interrupt();
        let Some(home) = &self.home else { return };
        let mut idle = home.idle();
        if idle.len() < IDLE && self.handle.jobs.try_send(Box::new(|conn| drop(leave(conn)))).is_ok() {
            idle.push(self.handle.clone());
        }
    }
}

/// Connections of one kind to one file. Whoever opens one has to read the whole schema, so that those that are no
/// longer used are kept to be used again: many small tables would cost the square of their number otherwise.
pub(super) struct Pool {
    settings: Arc<Settings>,
    access: Access,
    idle: Mutex<Vec<Handle>>,
}

/// Connections that wait to be used again, at most.
const IDLE: usize = 4;

impl Pool {
    /// With no connection yet.
    pub(super) fn new(settings: Arc<Settings>, access: Access) -> Arc<Self> {
        Arc::new(Self { settings, access, idle: Mutex::default() })
    }

    /// A connection as if it were new, which comes back when it is dropped.
    pub(super) async fn worker(self: &Arc<Self>) -> Result<Worker> {
        while let Some(handle) = self.take() {
            let mut worker = Worker { handle, settings: self.settings.clone(), home: None };
            if worker.same_file().is_ok() && worker.call(|conn| renew(conn)).await.is_ok() {
                worker.home = Some(self.clone());
                return Ok(worker);
            }
        }
        let mut worker = Worker::start(self.settings.clone(), self.access).await?;
        worker.home = Some(self.clone());
        Ok(worker)
    }

    fn take(&self) -> Option<Handle> {
        self.idle().pop()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Handle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes back what a user of the connection has set.
fn renew(conn: &Connection) -> Result<()> {
    let failed = |e| during("cannot use a connection again")(e);
    leave(conn).map_err(failed)?;
    conn.pragma_update(None, "foreign_keys", true).map_err(failed)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true).map(drop).map_err(failed)
}

/// Ends what is open: a connection that nobody uses holds neither a lock nor pages in memory.
fn leave(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(if conn.is_autocommit() { "PRAGMA shrink_memory" } else { "ROLLBACK; PRAGMA shrink_memory" })
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

    #[tokio::test]
    async fn a_connection_is_used_again_as_if_it_were_new() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let settings = Arc::new(parse_url(&format!("sqlite:{}", path.display())).unwrap());
        let make = || connect(&settings, Access::Create).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
        make();
        let pool = Pool::new(settings.clone(), Access::Write);
        let first = pool.worker().await.unwrap();
        let leave_in_the_middle = |conn: &mut Connection| {
            conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).unwrap();
            conn.execute_batch("PRAGMA foreign_keys = OFF; BEGIN; INSERT INTO t VALUES (1)").unwrap();
            Ok(())
        };
        first.call(leave_in_the_middle).await.unwrap();
        drop(first);
        assert_eq!(pool.idle().len(), 1);
        let again = pool.worker().await.unwrap();
        assert_eq!(pool.idle().len(), 0, "it is the same one");
        let seen = |conn: &mut Connection| {
            let number = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
            let triggers = conn.db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER).unwrap();
            Ok((conn.is_autocommit(), triggers, number("PRAGMA foreign_keys"), number("SELECT count(*) FROM t")))
        };
        assert_eq!(again.call(seen).await.unwrap(), (true, true, 1, 0));
        let beside = pool.worker().await.unwrap();
        drop((again, beside));
        assert_eq!(pool.idle().len(), 2);
        std::fs::rename(&path, folder.path().join("aside.db")).unwrap();
        make();
        let other = pool.worker().await.unwrap();
        assert!(other.same_file().is_ok());
        assert_eq!(pool.idle().len(), 0, "those of the file that was put aside are gone");
    }
}
