//! What differs between operating systems: files that only their owner reads, words to the service manager, signals.

use std::io;
use std::path::Path;

/// Makes the file if it is not there, and lets nobody but its owner read or write it. On Windows a file has the rights of
/// its folder.
///
/// # Errors
/// What the system says.
pub fn private_file(path: &Path) -> io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
        let file = options.mode(0o600).open(path)?;
        file.set_permissions(std::fs::Permissions::from_mode(0o600))
    }
    #[cfg(not(unix))]
    options.open(path).map(drop)
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
