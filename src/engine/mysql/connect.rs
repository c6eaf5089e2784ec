//! URLs, connections and their sessions.

use std::time::Duration;

use mysql_async::{Conn, Opts, OptsBuilder, SslOpts, prelude::Queryable};
use url::Url;

use super::super::{Error, ErrorKind, Result};
use super::error::convert;

/// How TLS is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SslMode {
    Disabled,
    Preferred,
    Required,
    VerifyCa,
    VerifyIdentity,
}

/// What a URL says.
#[derive(Clone)]
pub(super) struct Settings {
    opts: Opts,
    /// The URL without its password.
    pub(super) label: String,
    /// `host:port` or the socket's path.
    endpoint: String,
    /// The database.
    pub(super) database: String,
    timeout: Duration,
    /// Plain options to fall back to when the server offers no TLS and it was only preferred.
    plain: Option<Opts>,
}

/// What the server is.
#[derive(Debug, Clone)]
pub(super) struct Flavor {
    /// `MariaDB 10.11.6` or `MySQL 8.0.36`.
    pub(super) version: String,
    /// Whether it is MariaDB.
    pub(super) mariadb: bool,
    /// Its version.
    pub(super) number: (u16, u16, u16),
    /// Whether `LOAD DATA LOCAL` is allowed.
    pub(super) local_infile: bool,
    /// Longest packet.
    pub(super) max_packet: usize,
}

impl Flavor {
    /// The collation under which equal means equal bytes.
    pub(super) fn binary_collation(&self) -> &'static str {
        if self.mariadb {
            "utf8mb4_nopad_bin"
        } else if self.number >= (8, 0, 17) {
            "utf8mb4_0900_bin"
        } else {
            "utf8mb4_bin"
        }
    }

    /// Whether there is a UUID type.
    pub(super) fn has_uuid(&self) -> bool {
        self.mariadb && self.number >= (10, 7, 0)
    }
}

fn usage(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Usage, message)
}

fn decode(text: &str, what: &str) -> Result<String> {
    let hex = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let raw = text.as_bytes();
    let mut out = Vec::with_capacity(raw.len());
    let mut at = 0;
    while at < raw.len() {
        let pair =
            (raw[at] == b'%' && at + 2 < raw.len()).then(|| Some(hex(raw[at + 1])? << 4 | hex(raw[at + 2])?)).flatten();
        if let Some(byte) = pair {
            out.push(byte);
            at += 3;
        } else {
            out.push(raw[at]);
            at += 1;
        }
    }
    String::from_utf8(out).map_err(|_| usage(format!("the {what} in the database URL is not UTF-8")))
}

/// Reads a URL.
pub(super) fn settings(url: &str) -> Result<Settings> {
    let parsed = Url::parse(url).map_err(|e| usage(format!("the database URL cannot be read: {e}")))?;
    let database = decode(parsed.path().trim_start_matches('/'), "database name")?;
    if database.is_empty() {
        return Err(usage("the database URL names no database: mysql://user@host:3306/DATABASE"));
    }
    let host = parsed.host_str().filter(|h| !h.is_empty()).unwrap_or("127.0.0.1");
    let host = decode(host.trim_start_matches('[').trim_end_matches(']'), "host")?;
    let port = parsed.port().unwrap_or(3306);
    let user = decode(parsed.username(), "user name")?;
    let password = parsed.password().map(|p| decode(p, "password")).transpose()?;
    let (mut mode, mut ca, mut socket, mut timeout) = (SslMode::Preferred, None, None, 10_u64);
    for (key, value) in parsed.query_pairs() {
        match key.as_ref() {
            "ssl-mode" => {
                mode = match value.to_ascii_lowercase().as_str() {
                    "disabled" => SslMode::Disabled,
                    "preferred" => SslMode::Preferred,
                    "required" => SslMode::Required,
                    "verify_ca" => SslMode::VerifyCa,
                    "verify_identity" => SslMode::VerifyIdentity,
                    _ => {
                        return Err(usage(
                            "ssl-mode in the database URL must be disabled, preferred, required, verify_ca or verify_identity",
                        ));
                    }
                }
            }
            "ssl-ca" => ca = Some(value.into_owned()),
            "socket" => socket = Some(value.into_owned()),
            "connect_timeout" => {
                timeout = value
                    .parse()
                    .map_err(|_| usage("connect_timeout in the database URL must be a number of seconds"))?;
            }
            _ => return Err(usage(format!("the database URL has an unknown parameter '{key}'"))),
        }
    }
    let local = socket.is_some() || matches!(host.as_str(), "localhost" | "127.0.0.1" | "::1");
    let builder = OptsBuilder::default()
        .ip_or_hostname(host.clone())
        .tcp_port(port)
        .user((!user.is_empty()).then_some(user.clone()))
        .pass(password)
        .db_name(Some(database.clone()))
        .prefer_socket(false)
        .socket(socket.clone())
        .client_found_rows(true);
    let plain: Opts = builder.clone().into();
    let ssl = SslOpts::default();
    let ssl = match &ca {
        Some(file) => ssl.with_root_certs(vec![std::path::PathBuf::from(file).into()]),
        None => ssl,
    };
    let ssl = match mode {
        SslMode::Disabled => None,
        SslMode::Preferred if local => None,
        SslMode::Preferred | SslMode::Required => Some(ssl.with_danger_accept_invalid_certs(true)),
        SslMode::VerifyCa => Some(ssl.with_danger_skip_domain_validation(true)),
        SslMode::VerifyIdentity => Some(ssl),
    };
    let fallback = (mode == SslMode::Preferred && ssl.is_some()).then(|| plain.clone());
    let endpoint = socket.unwrap_or_else(|| format!("{host}:{port}"));
    let mut shown = parsed.clone();
    let _ = shown.set_password(None);
    Ok(Settings {
        opts: builder.ssl_opts(ssl).into(),
        label: shown.to_string(),
        endpoint,
        database,
        timeout: Duration::from_secs(timeout.max(1)),
        plain: fallback,
    })
}

async fn dial(settings: &Settings) -> Result<Conn> {
    let attempt = |opts: Opts| tokio::time::timeout(settings.timeout, Conn::new(opts));
    let first = attempt(settings.opts.clone()).await;
    let answer = match (first, &settings.plain) {
        (Ok(Err(mysql_async::Error::Driver(_) | mysql_async::Error::Io(_))), Some(plain)) => {
            attempt(plain.clone()).await
        }
        (first, _) => first,
    };
    let at = &settings.endpoint;
    match answer {
        Ok(Ok(conn)) => Ok(conn),
        Ok(Err(mysql_async::Error::Server(e))) if e.code == 1049 => Err(Error::new(
            ErrorKind::SchemaMismatch,
            format!("{at} has no database '{}': create it, or correct the URL", settings.database),
        )),
        Ok(Err(mysql_async::Error::Server(e))) => {
            Err(convert(mysql_async::Error::Server(e)).context(format!("cannot log in at {at}")))
        }
        Ok(Err(e)) => Err(Error::new(
            ErrorKind::Unreachable,
            format!(
                "cannot reach the database at {at} ({}): is it running, and are host and port right?",
                convert(e).message()
            ),
        )),
        Err(_) => Err(Error::new(
            ErrorKind::Unreachable,
            format!("the database at {at} did not answer within {} s", settings.timeout.as_secs()),
        )),
    }
}

/// A connection with a pinned session.
pub(super) async fn connect(settings: &Settings, isolation: &str) -> Result<Conn> {
    let mut conn = dial(settings).await?;
    for sql in [
        "SET NAMES utf8mb4".to_owned(),
        "SET SESSION time_zone = '+00:00', \
         sql_mode = 'STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION', \
         autocommit = 1, sql_safe_updates = 0, sql_select_limit = DEFAULT, unique_checks = 1, \
         innodb_lock_wait_timeout = 30, lock_wait_timeout = 60, \
         net_read_timeout = 3600, net_write_timeout = 3600, wait_timeout = 28800"
            .to_owned(),
        format!("SET SESSION TRANSACTION ISOLATION LEVEL {isolation}"),
    ] {
        conn.query_drop(sql).await.map_err(convert)?;
    }
    Ok(conn)
}

/// Asks the server what it is.
pub(super) async fn flavor(conn: &mut Conn) -> Result<Flavor> {
    let row: Option<(String, i64, u64)> =
        conn.query_first("SELECT VERSION(), @@local_infile, @@max_allowed_packet").await.map_err(convert)?;
    let (text, local, packet) = row.ok_or_else(|| Error::new(ErrorKind::Protocol, "the server tells no version"))?;
    let mariadb = text.to_ascii_lowercase().contains("mariadb");
    let digits: String = text.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    let mut parts = digits.split('.').map(|p| p.parse::<u16>().unwrap_or(0));
    let mut part = || parts.next().unwrap_or(0);
    let number = (part(), part(), part());
    let product = if mariadb { "MariaDB" } else { "MySQL" };
    let least = if mariadb { (10, 4, 0) } else { (8, 0, 0) };
    if number < least {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("{product} {digits} is too old: {}.{} or newer is needed", least.0, least.1),
        ));
    }
    Ok(Flavor {
        version: format!("{product} {digits}"),
        mariadb,
        number,
        local_infile: local == 1,
        max_packet: usize::try_from(packet).unwrap_or(usize::MAX),
    })
}

/// Quotes an identifier.
pub(super) fn quote(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// Quotes a string literal (the session keeps backslash escapes on).
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}
