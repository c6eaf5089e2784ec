//! The way out through a proxy, where the environment names one.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::config::Proxies;
use crate::engine::{Error, ErrorKind, Result};

/// The longest head of a proxy's answer.
const HEAD_MAX: usize = 8 << 10;

/// A proxy that tunnels.
#[derive(Debug, Clone)]
pub(super) struct Proxy {
    host: String,
    port: u16,
    credentials: Option<String>,
}

impl Proxy {
    /// The one for this host; `None`: it is reached directly.
    ///
    /// # Errors
    /// `Usage` for one that cannot be read.
    pub(super) fn towards(host: &str, proxies: &Proxies) -> Result<Option<Self>> {
        let Some(named) = proxies.https.as_deref().filter(|_| !is_direct(host, &proxies.none)) else { return Ok(None) };
        // Without the text: a password may stand in it.
        let wrong = || Error::new(ErrorKind::Usage, "HTTPS_PROXY is no URL of a proxy; write http://HOST:PORT");
        let named = if named.contains("://") { named.to_owned() } else { format!("http://{named}") };
        let url = url::Url::parse(&named).map_err(|_| wrong())?;
        let (Some(host), "http") = (url.host_str(), url.scheme()) else { return Err(wrong()) };
        let text = |part: &str| percent_decoded(part);
        let credentials = (!url.username().is_empty()).then(|| {
            base64(format!("{}:{}", text(url.username()), text(url.password().unwrap_or_default())).as_bytes())
        });
        let port = url.port_or_known_default().unwrap_or(80);
        Ok(Some(Self { host: host.trim_matches(['[', ']']).to_owned(), port, credentials }))
    }

    /// A connection through it.
    pub(super) async fn connect(&self, host: &str, port: u16) -> Result<TcpStream> {
        let failed =
            |why: &str| Error::new(ErrorKind::Unreachable, format!("the proxy {}:{} {why}", self.host, self.port));
        let mut stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|e| failed(&format!("cannot be reached: {e}")))?;
        let shown = self.credentials.as_ref().map(|c| format!("Proxy-Authorization: Basic {c}\r\n"));
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let head =
            format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{}\r\n", shown.unwrap_or_default());
        stream.write_all(head.as_bytes()).await.map_err(|e| failed(&format!("broke off: {e}")))?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() >= HEAD_MAX {
                return Err(failed("answers with no head of HTTP"));
            }
            // Byte by byte: what follows is no longer the proxy's.
            answer.push(stream.read_u8().await.map_err(|e| failed(&format!("broke off: {e}")))?);
        }
        let status = String::from_utf8_lossy(&answer).split(' ').nth(1).unwrap_or_default().to_owned();
        if status == "200" { Ok(stream) } else { Err(failed(&format!("does not let this through (status {status})"))) }
    }
}

/// Whether a host is one of those that are reached without a proxy.
fn is_direct(host: &str, none: &str) -> bool {
    let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
    let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    loopback
        || none.split(',').map(|entry| entry.trim().to_ascii_lowercase()).filter(|entry| !entry.is_empty()).any(
            |entry| {
                let domain = entry.trim_start_matches('.');
                entry == "*" || host == domain || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
            },
        )
}

fn percent_decoded(text: &str) -> String {
    // A form's decoding, in which a plus is a space, after pluses were written out.
    let text = text.replace('+', "%2B");
    url::form_urlencoded::parse(text.as_bytes()).next().map(|(name, _)| name.into_owned()).unwrap_or_default()
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for at in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * at) & 63) as usize];
            out.push(if at <= three.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_need_no_proxy() {
        for (host, none, direct) in [
            ("db.example.com", "", false),
            ("db.example.com", "example.com", true),
            ("db.example.com", " .EXAMPLE.com , other", true),
            ("badexample.com", "example.com", false),
            ("db.example.com", "*", true),
            ("127.0.0.1", "", true),
            ("[::1]", "", true),
        ] {
            assert_eq!(is_direct(host, none), direct, "{host} {none}");
        }
        let proxies = Proxies { https: Some("http://me:p%40ss@proxy:3128".to_owned()), none: "near".to_owned() };
        assert!(Proxy::towards("near", &proxies).unwrap().is_none());
        let proxy = Proxy::towards("far", &proxies).unwrap().expect("a proxy");
        assert_eq!((proxy.host.as_str(), proxy.port, proxy.credentials), ("proxy", 3128, Some(base64(b"me:p@ss"))));
        let wrong = Proxies { https: Some("socks5://secret@x".to_owned()), none: String::new() };
        assert!(!Proxy::towards("far", &wrong).unwrap_err().message().contains("secret"));
    }

    #[test]
    fn credentials_in_letters() {
        for (text, letters) in [("", ""), ("a", "YQ=="), ("ab", "YWI="), ("abc", "YWJj"), ("a:b@c", "YTpiQGM=")] {
            assert_eq!(base64(text.as_bytes()), letters);
        }
    }
}
