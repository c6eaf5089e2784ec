//! URL and pinned sessions.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{CancelToken, Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error;
use super::gate::Gate;
use super::tls::{self, Verify};
use super::types::{ident, literal};
use crate::engine::{Error, ErrorKind, Result, tls::fault};

/// Settings that make what is read and written independent of the server's and the account's. Compiling a statement
/// costs more than any of ours gains by it.
const PINNED: &str = "SET timezone = 'UTC'; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = iso_8601; \
    SET extra_float_digits = 3; SET bytea_output = hex; SET xmloption = content; SET statement_timeout = 0; \
    SET lock_timeout = '60s'; SET idle_in_transaction_session_timeout = 0; SET client_min_messages = warning; \
    SET standard_conforming_strings = on; SET client_encoding = 'UTF8'; SET lc_monetary = 'C'; \
    SET default_transaction_read_only = off; SET jit = off; SET tcp_keepalives_idle = 30; \
    SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3";

/// A table whose policies would hide rows from us is refused: what is not seen would be missing at the target, or in a
/// mirror be deleted there.
const WHOLE: &str = "; SET row_security = off";

/// What servers from 14 on have, and not on every system, for a session that writes: a long statement ends soon after
/// its client has died, for the next run would wait for what it holds; and nobody ends the session because it is idle.
const WATCHED: [&str; 2] = ["SET client_connection_check_interval = '2s'", "SET idle_session_timeout = 0"];

/// Told when a URL has a parameter that neither the driver nor we know.
const KNOWN: &str = "; it may be schema, sslmode, sslrootcert, connect_timeout, application_name, options, host, \
    hostaddr, port, user, password, dbname, target_session_attrs, channel_binding, load_balance_hosts, \
    tcp_user_timeout, keepalives, keepalives_idle, keepalives_interval, keepalives_retries";

/// Where and how to connect.
pub(super) struct Connector {
    config: Config,
    tls: Option<MakeRustlsConnect>,
    /// As the URL says it.
    sslmode: String,
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
    /// Keeps the driver.
    pub(super) gate: Arc<Gate>,
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
            let known = if cause.contains("unknown option") { KNOWN } else { "" };
            wrong(format!("{e}{cause}{known}"))
        })?;
        if config.get_hosts().iter().any(|host| matches!(host, Host::Tcp(name) if name.contains('@'))) {
            return Err(wrong("an '@' in the user or the password must be written as %40".to_owned()));
        }
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
        let sslmode = own.sslmode.unwrap_or_else(|| "prefer".to_owned());
        let verify = match sslmode.as_str() {
            "verify-full" => Verify::Name,
            "verify-ca" => Verify::Chain,
            // As libpq does: with a root certificate given, `require` checks the chain.
            "require" if own.root.is_some() => Verify::Chain,
            "disable" | "allow" | "prefer" | "require" => Verify::Nothing,
            other => {
                return Err(wrong(format!(
                    "sslmode '{other}' is none of disable, prefer, require, verify-ca, verify-full"
                )));
            }
        };
        let tls = match config.get_ssl_mode() {
            SslMode::Disable => None,
            _ => Some(tls::connector(verify, own.root.as_deref())?),
        };
        let place = place(&config);
        Ok(Self { config, tls, sslmode, timeout, schema: own.schema, label: label(url), place })
    }

    /// A pinned session.
    pub(super) async fn session(&self, schema: Option<&str>) -> Result<Session> {
        let gate = Arc::new(Gate::default());
        let connect = async {
            if let Some(tls) = &self.tls {
                let (client, connection) = self.config.connect(tls.clone()).await?;
                Ok::<_, tokio_postgres::Error>((client, tokio::spawn(gate.clone().drive(connection))))
            } else {
                let (client, connection) = self.config.connect(NoTls).await?;
                Ok((client, tokio::spawn(gate.clone().drive(connection))))
            }
        };
        let (client, task) = match tokio::time::timeout(self.timeout, connect).await {
            Err(_) => return Err(self.unreachable(&format!("no answer within {} s", self.timeout.as_secs()))),
            Ok(Err(error)) => return Err(self.refused(&error)),
            Ok(Ok(pair)) => pair,
        };
        let session = Session { client, task, gate, tls: self.tls.clone() };
        let mut pinned = PINNED.to_owned();
        // Who sets it in the URL wants just the rows that the account may see.
        if !self.config.get_options().is_some_and(|o| o.contains("row_security")) {
            pinned.push_str(WHOLE);
        }
        if let Some(schema) = schema {
            pinned.push_str("; SET search_path = ");
            pinned.push_str(&ident(schema));
        }
        session.client.batch_execute(&pinned).await.map_err(|e| self.lost(error::from(&e)))?;
        Ok(session)
    }

    fn unreachable(&self, why: &str) -> Error {
        let place = &self.place;
        Error::new(
            ErrorKind::Unreachable,
            format!("PostgreSQL at {place} cannot be reached: {why}; check host, port and that the server runs"),
        )
    }

    /// The same error; that of a connection which the server or the network ended names the database.
    pub(super) fn lost(&self, error: Error) -> Error {
        if error.kind != ErrorKind::Unreachable
            || error.message().contains(&self.place)
            || error.message().contains(&self.label)
        {
            return error;
        }
        let advice =
            if error.message().contains("try again") { "" } else { "; try again when the server can be reached" };
        let what = format!("the connection to {} was lost: {}{advice}", self.label, error.message());
        Error::new(error.kind, what)
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
            Some(_) => {
                let mut other = error::from(error).context(format_args!("connecting to {place}"));
                // Too many connections, for one: nothing has begun, and the place cannot be reached now.
                if other.kind == ErrorKind::Busy {
                    other.kind = ErrorKind::Unreachable;
                }
                other
            }
            None => self.unanswered(error),
        }
    }

    /// No connection, and no word of the server about it.
    fn unanswered(&self, error: &tokio_postgres::Error) -> Error {
        let (place, user) = (&self.place, self.config.get_user().unwrap_or_default());
        if let Some(why) = fault(error, "sslrootcert") {
            return Error::new(ErrorKind::Unreachable, format!("PostgreSQL at {place}: {why}"));
        }
        let cause = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
        if cause.contains("password missing") || error.to_string().contains("password missing") {
            return Error::new(
                ErrorKind::Denied,
                format!("PostgreSQL at {place} asks for a password of '{user}' and the URL has none"),
            );
        }
        if cause.contains("server does not support TLS") {
            return Error::new(
                ErrorKind::Unreachable,
                format!(
                    "PostgreSQL at {place} offers no TLS, which sslmode={} asks for: \
                     turn ssl on at the server, or allow plain text with sslmode=prefer",
                    self.sslmode
                ),
            );
        }
        self.unreachable(&cause)
    }

    /// A session that writes, or holds a lock.
    pub(super) async fn lasting(&self, schema: &str) -> Result<Session> {
        let session = self.session(Some(schema)).await?;
        for sql in WATCHED {
            // A server that cannot do it goes without; a lost connection shows itself with the next statement.
            let _ = session.client.batch_execute(sql).await;
        }
        Ok(session)
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
                // libpq's word for the authorities that everybody trusts.
                "sslrootcert" if value == "system" => own.root = None,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_keep_no_password() {
        assert_eq!(label("postgres://u:p@h/d?password=x&schema=s"), "postgres://u@h/d?schema=s");
        assert_eq!(label("postgres://u:p@q@h/d"), "postgres://u@h/d");
    }

    #[test]
    fn a_connection_that_was_ended_is_told_with_its_database() {
        let connector = Connector::parse("postgres://u:secret@h/shop").unwrap();
        let ended = "PostgreSQL: terminating connection due to administrator command (SQLSTATE 57P01)";
        let told = connector.lost(Error::new(error::kind("57P01"), ended));
        assert_eq!(told.kind, ErrorKind::Unreachable);
        assert_eq!(
            told.message(),
            format!(
                "the connection to postgres://u@h/shop was lost: {ended}; try again when the server can be reached"
            )
        );
        assert_eq!(connector.lost(told.clone()).message().matches("was lost").count(), 1);
        assert_eq!(connector.lost(Error::new(ErrorKind::Denied, "no")).message(), "no");
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
        let told = Connector::parse("postgres://u:s3cr@et@h/d").err().unwrap();
        assert!(told.message().contains("%40") && !told.message().contains("et@"), "{told}");
    }

    #[test]
    fn an_unknown_parameter_is_answered_with_those_that_exist() {
        let error = Connector::parse("postgres://h/d?sslmod=require").err().unwrap();
        assert_eq!(error.kind, ErrorKind::Usage);
        assert!(error.message().contains("sslmod`") && error.message().contains("sslrootcert"), "{error}");
        for known in KNOWN.trim_start_matches("; it may be ").split(", ") {
            let value = match known {
                "sslmode" | "channel_binding" => "prefer",
                "load_balance_hosts" => "random",
                "target_session_attrs" => "any",
                "hostaddr" => "127.0.0.1",
                _ => "1",
            };
            if let Err(e) = Connector::parse(&format!("postgres:///d?host=h&{known}={value}")) {
                assert!(!e.message().contains("unknown option"), "{known}: {e}");
            }
        }
    }
}
