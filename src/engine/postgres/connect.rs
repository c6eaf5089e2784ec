//! URL, TLS and pinned sessions.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{CancelToken, Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error;
use super::types::{ident, literal};
use crate::engine::{Error, ErrorKind, Result};

/// Settings that make what is read and written independent of the server's and the account's.
const PINNED: &str = "SET timezone = 'UTC'; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = iso_8601; \
    SET extra_float_digits = 3; SET bytea_output = hex; SET xmloption = content; SET statement_timeout = 0; \
    SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET client_min_messages = warning; \
    SET standard_conforming_strings = on; SET client_encoding = 'UTF8'; SET lc_monetary = 'C'; \
    SET default_transaction_read_only = off";

/// Where and how to connect.
pub(super) struct Connector {
    config: Config,
    tls: Option<MakeRustlsConnect>,
    timeout: Duration,
    /// The schema that the URL names.
    pub(super) schema: Option<String>,
    /// The URL without secrets.
    pub(super) label: String,
    place: String,
}

/// A connection with its driver task. Dropping it ends the session in order; what is open in it
/// is rolled back by the server.
pub(super) struct Session {
    /// The driver's handle.
    pub(super) client: Client,
    task: JoinHandle<()>,
    tls: Option<MakeRustlsConnect>,
}

impl Session {
    /// Ends the session at once, also in the middle of a result.
    pub(super) fn kill(self) {
        let token: CancelToken = self.client.cancel_token();
        let tls = self.tls.clone();
        self.task.abort();
        // The server notices a closed socket only when it next writes: a long sort must be told.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = match tls {
                    Some(tls) => token.cancel_query(tls).await,
                    None => token.cancel_query(NoTls).await,
                };
            });
        }
    }
}

impl Connector {
    /// Reads the URL.
    pub(super) fn parse(url: &str) -> Result<Self> {
        let own = OwnParameters::split(url);
        let wrong = |why: String| Error::new(ErrorKind::Usage, format!("the PostgreSQL URL cannot be used: {why}"));
        let mut config = Config::from_str(&own.url).map_err(|e| {
            let cause = std::error::Error::source(&e).map(|c| format!(": {c}")).unwrap_or_default();
            wrong(format!("{e}{cause}"))
        })?;
        if config.get_hosts().is_empty() {
            config.host("localhost");
        }
        if config.get_user().is_none() {
            config.user(std::env::var("USER").unwrap_or_else(|_| "postgres".to_owned()));
        }
        if config.get_application_name().is_none() {
            config.application_name("rowferry");
        }
        let timeout = config.get_connect_timeout().copied().unwrap_or(Duration::from_secs(10));
        config.connect_timeout(timeout);
        let verify = match own.sslmode.as_deref() {
            Some("verify-full") => Verify::Name,
            Some("verify-ca") => Verify::Chain,
            // As libpq does: with a root certificate given, `require` checks the chain.
            Some("require") if own.root.is_some() => Verify::Chain,
            None | Some("disable" | "allow" | "prefer" | "require") => Verify::Nothing,
            Some(other) => {
                return Err(wrong(format!(
                    "sslmode '{other}' is none of disable, prefer, require, verify-ca, verify-full"
                )));
            }
        };
        let tls = match config.get_ssl_mode() {
            SslMode::Disable => None,
            _ => Some(tls(verify, own.root.as_deref())?),
        };
        let place = place(&config);
        Ok(Self { config, tls, timeout, schema: own.schema, label: label(url), place })
    }

    /// A pinned session.
    pub(super) async fn session(&self, schema: Option<&str>) -> Result<Session> {
        let connect = async {
            if let Some(tls) = &self.tls {
                let (client, connection) = self.config.connect(tls.clone()).await?;
                Ok::<_, tokio_postgres::Error>((client, tokio::spawn(async move { drop(connection.await) })))
            } else {
                let (client, connection) = self.config.connect(NoTls).await?;
                Ok((client, tokio::spawn(async move { drop(connection.await) })))
            }
        };
        let (client, task) = match tokio::time::timeout(self.timeout, connect).await {
            Err(_) => return Err(self.unreachable(&format!("no answer within {} s", self.timeout.as_secs()))),
            Ok(Err(error)) => return Err(self.refused(&error)),
            Ok(Ok(pair)) => pair,
        };
        let session = Session { client, task, tls: self.tls.clone() };
        let mut pinned = PINNED.to_owned();
        if let Some(schema) = schema {
            pinned.push_str("; SET search_path = ");
            pinned.push_str(&ident(schema));
        }
        session.client.batch_execute(&pinned).await.map_err(|e| error::from(&e))?;
        Ok(session)
    }

    fn unreachable(&self, why: &str) -> Error {
        let place = &self.place;
        Error::new(
            ErrorKind::Unreachable,
            format!("PostgreSQL at {place} cannot be reached: {why}; check host, port and that the server runs"),
        )
    }

    fn refused(&self, error: &tokio_postgres::Error) -> Error {
        let database = self.config.get_dbname().or(self.config.get_user()).unwrap_or_default();
        let (place, user) = (&self.place, self.config.get_user().unwrap_or_default());
        match error.code().map(tokio_postgres::error::SqlState::code) {
            Some("3D000") => Error::new(
                ErrorKind::Usage,
                format!("PostgreSQL at {place} has no database '{database}': create it or correct the URL"),
            ),
            Some(code) if code.starts_with("28") => Error::new(
                ErrorKind::Denied,
                format!(
                    "PostgreSQL at {place} refused the user '{user}': {}; check user, password and pg_hba.conf",
                    error.as_db_error().map_or("", |d| d.message())
                ),
            ),
            Some(_) => error::from(error).context(format_args!("connecting to {place}")),
            None => {
                let cause = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
                if error.to_string().contains("password missing") || cause.contains("password missing") {
                    return Error::new(
                        ErrorKind::Denied,
                        format!("PostgreSQL at {place} asks for a password of '{user}' and the URL has none"),
                    );
                }
                self.unreachable(&cause)
            }
        }
    }

    /// The URL names a schema that is not there.
    pub(super) fn missing_schema(&self, schema: &str) -> Error {
        Error::new(
            ErrorKind::Usage,
            format!("the database at {} has no schema {}: create it or correct the URL", self.place, literal(schema)),
        )
    }
}

/// Our own parameters, taken out of the URL.
struct OwnParameters {
    url: String,
    schema: Option<String>,
    root: Option<String>,
    sslmode: Option<String>,
}

impl OwnParameters {
    fn split(url: &str) -> Self {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let mut own = Self { url: base.to_owned(), schema: None, root: None, sslmode: None };
        let mut rest = Vec::new();
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            // Percent signs only: a plus stands for itself, as in libpq.
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = url::form_urlencoded::parse(format!("v={}", value.replace('+', "%2B")).as_bytes())
                .next()
                .map(|(_, v)| v.into_owned())
                .unwrap_or_default();
            match key {
                "schema" => own.schema = Some(value),
                "sslrootcert" => own.root = Some(value),
                "sslmode" => {
                    let driver = match value.as_str() {
                        "verify-ca" | "verify-full" | "require" => "require",
                        "disable" => "disable",
                        _ => "prefer",
                    };
                    rest.push(format!("sslmode={driver}"));
                    own.sslmode = Some(value);
                }
                _ => rest.push(pair.to_owned()),
            }
        }
        if !rest.is_empty() {
            own.url = format!("{base}?{}", rest.join("&"));
        }
        own
    }
}

fn place(config: &Config) -> String {
    let hosts = config.get_hosts().iter().enumerate().map(|(i, host)| {
        let port = config.get_ports().get(i).or(config.get_ports().first()).copied().unwrap_or(5432);
        match host {
            Host::Tcp(name) => format!("{name}:{port}"),
            Host::Unix(path) => format!("{}:{port}", path.display()),
        }
    });
    hosts.collect::<Vec<_>>().join(", ")
}

fn label(url: &str) -> String {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let (scheme, rest) = base.split_once("://").unwrap_or(("postgres", base));
    let rest = match rest.rsplit_once('@') {
        Some((account, place)) => format!("{}@{place}", account.split(':').next().unwrap_or_default()),
        None => rest.to_owned(),
    };
    let kept: Vec<&str> =
        query.split('&').filter(|p| !p.is_empty() && !p.to_ascii_lowercase().starts_with("pass")).collect();
    let mark = if kept.is_empty() { "" } else { "?" };
    format!("{scheme}://{rest}{mark}{}", kept.join("&"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verify {
    Nothing,
    Chain,
    Name,
}

fn tls(verify: Verify, root: Option<&str>) -> Result<MakeRustlsConnect> {
    let provider = Arc::new(ring::default_provider());
    let wrong = |what: String| Error::new(ErrorKind::Usage, what);
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| wrong(format!("TLS cannot be set up: {e}")))?;
    let inner = if verify == Verify::Nothing {
        None
    } else {
        let mut roots = RootCertStore::empty();
        if let Some(file) = root {
            let bad = |e: &dyn std::fmt::Display| wrong(format!("sslrootcert '{file}' cannot be used: {e}"));
            for certificate in CertificateDer::pem_file_iter(file).map_err(|e| bad(&e))? {
                roots.add(certificate.map_err(|e| bad(&e))?).map_err(|e| bad(&e))?;
            }
        } else {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        let inner =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().map_err(|e| {
                wrong(format!("sslrootcert '{}' holds no usable certificate: {e}", root.unwrap_or_default()))
            })?;
        Some(inner)
    };
    let verifier = Arc::new(Verifier { verify, inner, provider });
    Ok(MakeRustlsConnect::new(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()))
}

/// The modes of libpq: `require` encrypts without checking, `verify-ca` checks the chain,
/// `verify-full` also the name.
#[derive(Debug)]
struct Verifier {
    verify: Verify,
    inner: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let Some(inner) = &self.inner else { return Ok(ServerCertVerified::assertion()) };
        match inner.verify_server_cert(end, between, name, ocsp, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.verify == Verify::Chain => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_keep_no_password() {
        assert_eq!(label("postgres://u:p@h/d?password=x&schema=s"), "postgres://u@h/d?schema=s");
        assert_eq!(label("postgres://u:p@q@h/d"), "postgres://u@h/d");
    }

    #[test]
    fn own_parameters_are_taken_out() {
        let c =
            Connector::parse("postgres://u:p%20w@h:1234/d?schema=a%20b&sslmode=verify-full&connect_timeout=3").unwrap();
        assert_eq!(c.schema.as_deref(), Some("a b"));
        assert_eq!(c.config.get_ssl_mode(), SslMode::Require);
        assert_eq!(c.timeout.as_secs(), 3);
        assert_eq!(c.place, "h:1234");
        assert!(Connector::parse("postgres://h/d?sslmode=maybe").is_err());
    }
}
