//! What differs between operating systems: files that only their owner reads, what tells files apart, where
//! settings are kept, words to the service manager, signals.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// Where programs keep their user's settings, by what the environment says.
pub fn settings_folder(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if cfg!(windows) {
        return variable("APPDATA").map(PathBuf::from);
    }
    let home = || variable("HOME").map(|home| Path::new(&home).join(".config"));
    variable("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home)
}

/// Makes the file if it is not there, and lets nobody but its owner read or write it. On Windows a file has the rights of
/// its folder.
///
/// # Errors
/// What the system says.
pub fn private_file(path: &Path) -> io::Result<()> {
    let file = owners_alone(std::fs::OpenOptions::new().append(true).create(true)).open(path)?;
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    drop(file);
    Ok(())
}

/// A file that is made so is its owner's alone. On Windows it has the rights of its folder.
pub fn owners_alone(options: &mut std::fs::OpenOptions) -> &mut std::fs::OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

/// What tells a file from another that has taken its name since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    /// Where it is.
    pub device: u64,
    /// Its number there.
    pub number: u64,
}

/// Whether this file is the one that stands under that name.
#[cfg(unix)]
#[must_use]
pub fn stands_at(file: &std::fs::File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let same =
        |there: std::fs::Metadata| file.metadata().is_ok_and(|f| (f.dev(), f.ino()) == (there.dev(), there.ino()));
    std::fs::metadata(path).is_ok_and(same)
}

/// Whether this file is the one that stands under that name: elsewhere one that is open cannot go.
#[cfg(not(unix))]
#[must_use]
pub fn stands_at(_file: &std::fs::File, _path: &Path) -> bool {
    true
}

/// That of the file at this path, and how many names it has; `None` where there is no file or the system tells no such
/// thing.
#[must_use]
pub fn file_id(path: &Path) -> Option<(FileId, u64)> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let file = std::fs::metadata(path).ok()?;
        Some((FileId { device: file.dev(), number: file.ino() }, file.nlink()))
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}

/// Waits until the process is asked to end: by Ctrl-C, or by SIGTERM where there is such a thing.
pub async fn asked_to_end() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    if let Ok(mut end) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        tokio::select! {
            _ = interrupt => {}
            _ = end.recv() => {}
        }
        return;
    }
    let _ = interrupt.await;
}

/// Tells the service manager how it stands (`READY=1`, `STOPPING=1`), where `socket` is what it put into
/// `NOTIFY_SOCKET`. What cannot be told is no fault of ours.
#[cfg(unix)]
pub fn notify(socket: &std::ffi::OsStr, state: &str) {
    let Ok(datagram) = std::os::unix::net::UnixDatagram::unbound() else { return };
    #[cfg(target_os = "linux")]
    if let Some(name) = std::os::unix::ffi::OsStrExt::as_bytes(socket).strip_prefix(b"@") {
        use std::os::linux::net::SocketAddrExt as _;
        if let Ok(address) = std::os::unix::net::SocketAddr::from_abstract_name(name) {
            let _ = datagram.send_to_addr(state.as_bytes(), &address);
        }
        return;
    }
    let _ = datagram.send_to(state.as_bytes(), Path::new(socket));
}

/// Only Unix has such a service manager.
#[cfg(not(unix))]
pub fn notify(_: &std::ffi::OsStr, _: &str) {}

/// Asked, by SIGHUP, to read the configuration again.
#[derive(Debug)]
pub struct Hangup {
    #[cfg(unix)]
    signal: tokio::signal::unix::Signal,
}

impl Hangup {
    /// From now on the signal no longer ends the process.
    ///
    /// # Errors
    /// What the system says.
    pub fn new() -> io::Result<Self> {
        #[cfg(unix)]
        {
            Ok(Self { signal: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())? })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Waits for the next one; for ever where there are none.
    pub async fn wait(&mut self) {
        #[cfg(unix)]
        if self.signal.recv().await.is_some() {
            return;
        }
        std::future::pending::<()>().await;
    }
}
