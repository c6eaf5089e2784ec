//! Where things are: listening, databases, peers.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use super::super::checked::*;
use super::super::raw::RawPeer;
use super::super::values::Secret;
use super::{Result, fail, positive};

pub(super) fn endpoint_name(at: &str, name: &str) -> Result<()> {
    if name.is_empty() || name.contains(['/', ':']) || name.contains(char::is_whitespace) {
        return fail(format!("{at}: a name has at least one character and no '/', ':' or space; rename it"));
    }
    Ok(())
}

pub(super) fn database_url(at: &str, url: &Secret, folder: &Path) -> Result<Secret> {
    let text = url.expose();
    let scheme = text.split(':').next().unwrap_or_default();
    match scheme {
        "sqlite" => Ok(Secret::new(file_url(at, text, folder)?)),
        "mysql" | "mariadb" | "postgres" | "postgresql" => match url::Url::parse(text) {
            Ok(parsed) if parsed.has_host() => Ok(url.clone()),
            // libpq's form for sockets: no host, or several, is left to the engine.
            _ if scheme.starts_with("postgres") && text.contains("://") => Ok(url.clone()),
            Ok(_) => fail(format!("{at}: its url names no host; write {scheme}://USER:PASSWORD@HOST/DATABASE")),
            Err(error) => fail(format!(
                "{at}: its url cannot be read ({error}); write {scheme}://USER:PASSWORD@HOST/DATABASE and \
                 percent-encode special characters of the password"
            )),
        },
        _ => fail(format!("{at}: its url must begin with sqlite:, mysql://, mariadb://, postgres:// or postgresql://")),
    }
}

/// The URL of a file, whose path is absolute; the query stays.
fn file_url(at: &str, url: &str, folder: &Path) -> Result<String> {
    let rest = url.strip_prefix("sqlite:").unwrap_or(url);
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let (path, query) = rest.find('?').map_or((rest, ""), |at| rest.split_at(at));
    if path.is_empty() {
        return fail(format!("{at}: its url names no file; write sqlite:PATH"));
    }
    if path == ":memory:" {
        return fail(format!("{at}: a database in memory is gone when its connection closes; write sqlite:PATH"));
    }
    Ok(format!("sqlite:{}{query}", folder.join(path).display()))
}

pub(super) fn state_url(url: &Secret, folder: &Path) -> Result<Secret> {
    match url.expose().split(':').next() {
        Some("sqlite" | "postgres" | "postgresql") => database_url("state", url, folder),
        _ => fail("state must be sqlite:PATH or postgres://…"),
    }
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

pub(super) fn check_listen(listen: &str, guarded: bool) -> Result<()> {
    let parts = listen.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    let Some((host, _)) = parts.filter(|(host, _)| !host.is_empty()) else {
        return fail(format!("listen: '{listen}' is no address with a port; write one such as 127.0.0.1:8080"));
    };
    if !guarded && !is_loopback(host) {
        return fail(format!(
            "listen: {listen} is reached from elsewhere, so it needs tls (cert and key, or self-signed); \
             or write insecure: true where something in front does that"
        ));
    }
    Ok(())
}

pub(super) fn check_peer(at: &str, raw: RawPeer, folder: &Path) -> Result<Peer> {
    let insecure = raw.insecure.unwrap_or(false);
    let url = match url::Url::parse(&raw.url) {
        Ok(url) if url.has_host() => url,
        _ => return fail(format!("{at}: its url cannot be read; write https://HOST")),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return fail(format!("{at}: a url with a password shows in logs; use api_key"));
    }
    match url.scheme() {
        "https" => {}
        "http" if insecure || url.host_str().is_some_and(is_loopback) => {}
        "http" => {
            return fail(format!("{at}: http shows keys and rows to the network; write https://, or insecure: true"));
        }
        _ => return fail(format!("{at}: its url must begin with https:// (or http:// on loopback)")),
    }
    let pin = raw.pin.map(|pin| check_pin(at, &pin)).transpose()?;
    Ok(Peer {
        url: raw.url.trim_end_matches('/').to_owned(),
        api_key: raw.api_key,
        timeout: raw.timeout.map_or(Ok(Duration::from_secs(30)), |span| positive(at, "timeout", span.0))?,
        ca: raw.ca.map(|file| folder.join(file)),
        pin,
        insecure,
        kind: raw.kind.unwrap_or_default(),
    })
}

fn check_pin(at: &str, pin: &str) -> Result<String> {
    let digits: String = pin.trim_start_matches("sha256:").chars().filter(|c| *c != ':').collect();
    if digits.len() != 64 || !digits.chars().all(|c| c.is_ascii_hexdigit()) {
        return fail(format!("{at}: pin is the SHA-256 of the certificate, 64 hexadecimal digits"));
    }
    Ok(digits.to_ascii_lowercase())
}
