//! URLs, connections and their sessions.

use std::time::Duration;

use mysql_async::{Conn, Opts, OptsBuilder, SslOpts, prelude::Queryable};
use url::Url;

use super::super::{Error, ErrorKind, Result, tls};
use super::error::{convert, kind_of};

/// How TLS is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SslMode {
    Disabled,
    Preferred,
    Required,
    VerifyCa,
    VerifyIdentity,
}

impl SslMode {
    const ALL: [(&str, Self); 5] = [
        ("disabled", Self::Disabled),
        ("preferred", Self::Preferred),
        ("required", Self::Required),
        ("verify_ca", Self::VerifyCa),
        ("verify_identity", Self::VerifyIdentity),
    ];

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, mode)| mode)
    }

    fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, mode)| *mode == self).map_or("", |(name, _)| name)
    }
}

/// What the driver needs for TLS of this kind.
fn ssl_opts(mode: SslMode, ca: Option<String>) -> Result<SslOpts> {
    let mut ssl = SslOpts::default();
    if let Some(file) = ca {
        tls::authorities("ssl-ca", &file)?;
        // As the servers' own clients do: who is named is trusted, and nobody else.
        ssl = ssl.with_root_certs(vec![std::path::PathBuf::from(file).into()]).with_disable_built_in_roots(true);
    }
    Ok(match mode {
        SslMode::Disabled | SslMode::Preferred | SslMode::Required => ssl.with_danger_accept_invalid_certs(true),
        // The driver (0.37) knows a wrong name by the word NotValidForName in the error's text, and the
        // TLS library writes the expected name there instead; so that word is the name to expect.
        SslMode::VerifyCa => ssl
            .with_danger_skip_domain_validation(true)
            .with_danger_tls_hostname_override(Some("NotValidForName.invalid")),
        SslMode::VerifyIdentity => ssl,
    })
}

/// What a URL says.
#[derive(Clone)]
pub(super) struct Settings {
    opts: Opts,
    /// The URL without its password.
    pub(super) label: String,
    user: String,
    /// `host:port` or the socket's path.
    endpoint: String,
    /// The database.
    pub(super) database: String,
    timeout: Duration,
    mode: SslMode,
    /// What to try when `opts` failed and TLS is only preferred: the other of TLS and plain text.
    second: Option<Opts>,
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
    /// Whether table names that differ only in case are one.
    pub(super) folds_tables: bool,
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

    /// Whether an index can be of an expression.
    pub(super) fn has_expression_indexes(&self) -> bool {
        !self.mariadb && self.number >= (8, 0, 13)
    }

    /// Whether there is a VECTOR type.
    pub(super) fn has_vector(&self) -> bool {
        self.number >= if self.mariadb { (11, 7, 0) } else { (9, 0, 0) }
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

/// What we take in one piece: the protocol's most. A server's `max_allowed_packet` bounds what it takes, not what it
/// sends, and a longer value may have come into its tables in pieces.
const LONGEST_PACKET: usize = 1 << 30;

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
    let (mut mode, mut ca, mut socket, mut timeout) = (None, None, None, 10_u64);
    for (key, value) in parsed.query_pairs() {
        match key.as_ref() {
            "ssl-mode" => {
                mode = Some(SslMode::parse(&value).ok_or_else(|| {
                    let names = SslMode::ALL.map(|(name, _)| name).join(", ");
                    usage(format!("ssl-mode in the database URL must be one of {names}"))
                })?);
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
    // As the servers' own clients do: who names an authority wants it checked.
    let mode = mode.unwrap_or(if ca.is_some() { SslMode::VerifyCa } else { SslMode::Preferred });
    let local = matches!(host.as_str(), "localhost" | "127.0.0.1" | "::1");
    let builder = OptsBuilder::default()
        .ip_or_hostname(host.clone())
        .tcp_port(port)
        .user((!user.is_empty()).then_some(user.clone()))
        .pass(password)
        .db_name(Some(database.clone()))
        .prefer_socket(false)
        .socket(socket.clone())
        .max_allowed_packet(Some(LONGEST_PACKET))
        .client_found_rows(true);
    let plain: Opts = builder.clone().into();
    let secure: Opts = match mode {
        SslMode::Disabled => plain.clone(),
        _ => builder.ssl_opts(Some(ssl_opts(mode, ca)?)).into(),
    };
    // On one machine plain text goes first: it is faster, and nobody listens. Only an account that
    // must use TLS is refused there.
    let (opts, second) = match mode {
        SslMode::Preferred if socket.is_some() => (plain, None),
        SslMode::Preferred if local => (plain, Some(secure)),
        SslMode::Preferred => (secure, Some(plain)),
        _ => (secure, None),
    };
    let endpoint = socket.unwrap_or_else(|| format!("{host}:{port}"));
    let mut shown = parsed.clone();
    let _ = shown.set_password(None);
    Ok(Settings {
        opts,
        label: shown.to_string(),
        user,
        endpoint,
        database,
        timeout: Duration::from_secs(timeout.max(1)),
        mode,
        second,
    })
}

async fn dial(settings: &Settings) -> Result<Conn> {
    let attempt = |opts: Opts| tokio::time::timeout(settings.timeout, Conn::new(opts));
    let mut answer = attempt(settings.opts.clone()).await;
    if let (Ok(Err(error)), Some(second)) = (&answer, &settings.second) {
        let denied = matches!(error, mysql_async::Error::Server(e) if kind_of(e.code) == ErrorKind::Denied);
        let failed = matches!(error, mysql_async::Error::Driver(_) | mysql_async::Error::Io(_));
        let tls_first = settings.opts.ssl_opts().is_some();
        if if tls_first { failed } else { denied } {
            let other = attempt(second.clone()).await;
            // What the server said to the account tells more than that it has no TLS.
            if tls_first || matches!(other, Ok(Ok(_))) {
                answer = other;
            }
        }
    }
    match answer {
        Ok(result) => result.map_err(|e| refused(settings, e)),
        Err(_) => Err(Error::new(
            ErrorKind::Unreachable,
            format!("the database at {} did not answer within {} s", settings.endpoint, settings.timeout.as_secs()),
        )),
    }
}

/// Why there is no connection, and what to do.
fn refused(settings: &Settings, error: mysql_async::Error) -> Error {
    use mysql_async::{DriverError, Error as E};
    let (at, user, mode) = (&settings.endpoint, &settings.user, settings.mode.name());
    let unreachable = |text: String| Error::new(ErrorKind::Unreachable, text);
    if let Some(why) = tls::fault(&error, "ssl-ca") {
        return unreachable(format!("the database at {at}: {why}"));
    }
    match error {
        E::Server(e) if e.code == 1049 => Error::new(
            ErrorKind::Usage,
            format!("{at} has no database '{}': create it, or correct the URL", settings.database),
        ),
        E::Server(e) if kind_of(e.code) == ErrorKind::Denied => {
            let tls = if settings.mode == SslMode::Disabled { ", and whether it must use TLS" } else { "" };
            Error::new(
                ErrorKind::Denied,
                format!(
                    "the database at {at} refused the user '{user}': {} (error {}); \
                     check user, password and the account's rights{tls}",
                    e.message, e.code
                ),
            )
        }
        E::Server(e) => {
            let mut other = convert(E::Server(e)).context(format!("cannot log in at {at}"));
            // Too many connections, for one: nothing has begun, and the place cannot be reached now.
            if other.kind == ErrorKind::Busy {
                other.kind = ErrorKind::Unreachable;
            }
            other
        }
        // MySQL asks an account that it does not know to log in by any method, an outdated one too.
        E::Driver(DriverError::UnknownAuthPlugin { name }) => Error::new(
            ErrorKind::Denied,
            format!(
                "cannot log in at {at}: it does not know the account, or wants it to log in by {name}, which is outdated"
            ),
        ),
        E::Driver(DriverError::NoClientSslFlagFromServer) => unreachable(format!(
            "the database at {at} offers no TLS, which ssl-mode={mode} asks for: \
             turn TLS on at the server, or allow plain text with ssl-mode=preferred"
        )),
        other => unreachable(format!(
            "cannot reach the database at {at} ({}): is it running, and are host and port right?",
            convert(other).message()
        )),
    }
}

/// The session's own mode: what does not fit is refused, and a 0 is a 0.
pub(super) const SQL_MODE: &str = "STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION";
/// Seconds to wait for a table that others alter.
pub(super) const LOCK_WAIT: u32 = 60;
/// The same for a statement that others wait behind.
pub(super) const BRIEFLY: u32 = 1;

/// A connection with a pinned session.
pub(super) async fn connect(settings: &Settings, isolation: &str) -> Result<Conn> {
    let mut conn = dial(settings).await?;
    for sql in [
        "SET NAMES utf8mb4".to_owned(),
        format!(
            "SET SESSION time_zone = '+00:00', sql_mode = '{SQL_MODE}', \
             autocommit = 1, sql_safe_updates = 0, sql_select_limit = DEFAULT, unique_checks = 1, \
             innodb_lock_wait_timeout = 30, lock_wait_timeout = {LOCK_WAIT}, \
             net_read_timeout = 3600, net_write_timeout = 3600, wait_timeout = 28800"
        ),
        format!("SET SESSION TRANSACTION ISOLATION LEVEL {isolation}"),
    ] {
        conn.query_drop(sql).await.map_err(convert)?;
    }
    Ok(conn)
}

/// Asks the server what it is.
pub(super) async fn flavor(conn: &mut Conn) -> Result<Flavor> {
    let asked = "SELECT VERSION(), @@local_infile, @@max_allowed_packet, @@lower_case_table_names";
    let row: Option<(String, i64, u64, i64)> = conn.query_first(asked).await.map_err(convert)?;
    let (text, local, packet, lower) =
        row.ok_or_else(|| Error::new(ErrorKind::Protocol, "the server tells no version"))?;
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
        folds_tables: lower != 0,
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
