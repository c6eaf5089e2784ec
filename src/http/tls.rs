//! The server's certificate: files that are read again when they change, or one that the node makes for itself.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};

use crate::config::{Config, Tls};
use crate::engine::{Error, ErrorKind, Result};
use crate::peer::fingerprint;
use crate::state::{Kind, State};

/// What TLS is served with.
pub(super) struct Certificate {
    source: Source,
    current: RwLock<Arc<ServerConfig>>,
    /// SHA-256 of the certificate.
    pub(super) pin: String,
}

enum Source {
    Own,
    Files { cert: PathBuf, key: PathBuf, read: RwLock<Option<SystemTime>> },
}

/// The certificate that the node made for itself, as the state keeps it.
#[derive(Serialize, Deserialize)]
struct OwnCertificate {
    certificate: String,
    key: String,
}

/// What another node pins: the certificate that this one made for itself; `None` where others vouch for it.
///
/// # Errors
/// What stands against making one.
pub async fn own_pin(config: &Config, state: &State) -> Result<Option<String>> {
    match &config.tls {
        Some(Tls::SelfSigned) => Certificate::open(&Tls::SelfSigned, state).await.map(|own| Some(own.pin)),
        _ => Ok(None),
    }
}

impl Certificate {
    /// As the configuration says; a certificate of the node's own is made once and kept in its state.
    pub(super) async fn open(tls: &Tls, state: &State) -> Result<Self> {
        match tls {
            Tls::Files { cert, key } => {
                let (config, pin) = from_files(cert, key)?;
                let read = RwLock::new(changed(cert, key));
                let source = Source::Files { cert: cert.clone(), key: key.clone(), read };
                Ok(Self { source, current: RwLock::new(Arc::new(config)), pin })
            }
            Tls::SelfSigned => {
                const NAME: &str = "certificate";
                let own = if let Some(own) = state.get::<OwnCertificate>(Kind::Node, NAME).await? {
                    own
                } else {
                    let own = make()?;
                    state.put(Kind::Node, NAME, &own).await?;
                    own
                };
                let bad = |e: &dyn std::fmt::Display| {
                    Error::new(ErrorKind::BadData, format!("the certificate in the state cannot be read: {e}"))
                };
                let chain = CertificateDer::from_pem_slice(own.certificate.as_bytes()).map_err(|e| bad(&e))?;
                let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).map_err(|e| bad(&e))?;
                let (config, pin) = served(vec![chain], key).map_err(|e| bad(&e))?;
                Ok(Self { source: Source::Own, current: RwLock::new(Arc::new(config)), pin })
            }
        }
    }

    /// What the next connection is served with.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads files again that have changed; those that cannot be used leave the old ones in force.
    pub(super) fn refresh(&self) {
        let Source::Files { cert, key, read } = &self.source else { return };
        let now = changed(cert, key);
        if *read.read().unwrap_or_else(PoisonError::into_inner) == now {
            return;
        }
        *read.write().unwrap_or_else(PoisonError::into_inner) = now;
        match from_files(cert, key) {
            Ok((config, pin)) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                tracing::info!("serving the certificate that is now in {} (sha256 {pin})", cert.display());
            }
            Err(e) => tracing::warn!("the certificate stays the one before: {e}"),
        }
    }
}

/// When one of the files last changed.
fn changed(cert: &Path, key: &Path) -> Option<SystemTime> {
    let at = |path: &Path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    at(cert).max(at(key))
}

fn from_files(cert: &Path, key: &Path) -> Result<(ServerConfig, String)> {
    let bad = |path: &Path, e: &dyn std::fmt::Display| {
        Error::new(ErrorKind::Usage, format!("tls: {} cannot be used: {e}", path.display()))
    };
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
        .map_err(|e| bad(cert, &e))?;
    if chain.is_empty() {
        return Err(bad(cert, &"it holds no certificate in PEM form"));
    }
    let own = PrivateKeyDer::from_pem_file(key).map_err(|e| bad(key, &e))?;
    served(chain, own).map_err(|e| bad(cert, &e))
}

fn served(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> std::result::Result<(ServerConfig, String), rustls::Error> {
    let pin = chain.first().map(|first| fingerprint(first)).unwrap_or_default();
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((config, pin))
}

fn make() -> Result<OwnCertificate> {
    let names = vec!["rowferry".to_owned(), "localhost".to_owned()];
    let made = rcgen::generate_simple_self_signed(names)
        .map_err(|e| Error::new(ErrorKind::Protocol, format!("no certificate can be made: {e}")))?;
    Ok(OwnCertificate { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() })
}
