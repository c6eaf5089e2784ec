//! Requests to a peer. Only a whole answer of a rowferry node, to this very request, is one; whatever else comes back,
//! a login page of a network in between or half of an answer, means that the peer was not reached.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

use super::encoding::{Decoder, Encoder, Encoding};
use super::message::MIME;
use super::proxy::Proxy;
use super::tls;
use crate::config::{Peer, Proxies, Secret};
use crate::endpoint::codec::{Nonce, Reader};
use crate::engine::{Error, ErrorKind, Result};
use crate::runtime::random;

/// Contents of an answer, or of one piece of a stream.
const ANSWER_MAX: u64 = 512 << 20;
/// The text of an answer that is none of ours.
const PROBLEM_MAX: u64 = 64 << 10;
/// A body below this size is not worth packing.
const PACKED_MIN: usize = 4 << 10;
/// A connection that was not used for longer may have been closed by now.
const IDLE_MAX: Duration = Duration::from_secs(30);
const IDLE_CONNECTIONS: usize = 8;
const FAREWELL_MAX: Duration = Duration::from_secs(2);

/// The way to a peer. It keeps connections for the next requests.
pub struct Link {
    /// The peer's name in the configuration.
    name: String,
    url: String,
    host: String,
    port: u16,
    path: String,
    key: Option<Secret>,
    timeout: Duration,
    tls: Option<Arc<rustls::ClientConfig>>,
    proxy: Option<Proxy>,
    idle: Mutex<Vec<(Instant, SendRequest<Whole>)>>,
    /// What is still to be said although nobody waits for an answer.
    farewells: TaskTracker,
}

/// A new name for an exchange or an end.
#[must_use]
pub(super) fn nonce() -> Nonce {
    u128::from(random()) << 64 | u128::from(random())
}

/// What an exchange came to.
pub(super) enum Answered {
    /// The body of an answer of ours.
    Body(Vec<u8>),
    /// The end that was called is not open there any more; nothing was done.
    Gone,
}

impl Link {
    /// To this peer.
    ///
    /// # Errors
    /// `Usage` where its certificate's settings or the proxy cannot be used.
    pub fn new(name: &str, peer: &Peer, proxies: &Proxies) -> Result<Self> {
        let about = |e: Error| e.context(format!("peer '{name}'"));
        let wrong = || Error::new(ErrorKind::Usage, format!("peer '{name}': its url cannot be read"));
        let url = url::Url::parse(&peer.url).map_err(|_| wrong())?;
        let host = url.host_str().ok_or_else(wrong)?.trim_matches(['[', ']']).to_owned();
        let secure = url.scheme() == "https";
        Ok(Self {
            name: name.to_owned(),
            url: peer.url.clone(),
            port: url.port_or_known_default().ok_or_else(wrong)?,
            path: url.path().trim_end_matches('/').to_owned(),
            key: peer.api_key.clone(),
            timeout: peer.timeout,
            tls: if secure { Some(tls::client(peer).map_err(about)?) } else { None },
            proxy: if secure { Proxy::towards(&host, proxies).map_err(about)? } else { None },
            idle: Mutex::default(),
            farewells: TaskTracker::new(),
            host,
        })
    }

    /// Says something that needs no answer: what does not arrive, the peer finds out by itself.
    pub(super) fn farewell(self: &Arc<Self>, path: &'static str, nonce: Nonce, body: Vec<u8>) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let link = self.clone();
            self.farewells.spawn_on(async move { link.call(path, nonce, body).await.map(drop) }, &runtime);
        }
    }

    /// Waits until all of that is said, for a moment at most.
    pub(super) async fn part(&self) {
        self.farewells.close();
        let _ = tokio::time::timeout(FAREWELL_MAX, self.farewells.wait()).await;
        self.farewells.reopen();
    }

    /// The peer's name in the configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How long a request may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// An error about this peer.
    pub(super) fn error(&self, kind: ErrorKind, what: impl std::fmt::Display) -> Error {
        Error::new(kind, format!("peer '{}' at {}: {what}", self.name, self.url))
    }

    fn away(&self, what: impl std::fmt::Display) -> Error {
        self.error(ErrorKind::Unreachable, what)
    }

    /// Asks, and reads the whole answer.
    pub(super) async fn call(&self, path: &str, nonce: Nonce, body: Vec<u8>) -> Result<Answered> {
        let (mut response, connection) = self.request(path, body).await?;
        if response.status() == StatusCode::GONE && is_problem(&response) {
            return Ok(Answered::Gone);
        }
        if !is_ours(&response) {
            return Err(self.refused(response).await);
        }
        let contents = self.read(&mut response, ANSWER_MAX).await?;
        if Reader::new(&contents).ok().is_none_or(|reader| reader.nonce != nonce) {
            return Err(self.away("what came is not the whole answer to what was asked"));
        }
        self.keep(connection);
        Ok(Answered::Body(contents))
    }

    /// Asks for what comes piece by piece.
    pub(super) async fn stream(&self, path: &str, body: Vec<u8>) -> Result<Option<Pieces>> {
        let (response, connection) = self.request(path, body).await?;
        if response.status() == StatusCode::GONE && is_problem(&response) {
            return Ok(None);
        }
        if !is_ours(&response) {
            return Err(self.refused(response).await);
        }
        let decoder = self.decoder(&response, ANSWER_MAX)?;
        let pieces = Pieces { response, decoder, buffer: Vec::new(), timeout: self.timeout, _connection: connection };
        Ok(Some(pieces))
    }

    async fn request(&self, path: &str, body: Vec<u8>) -> Result<(Response<Incoming>, SendRequest<Whole>)> {
        let work = async {
            let mut connection = match self.kept() {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            let (encoding, packed) = pack(body).map_err(|e| self.away(e))?;
            let mut request = Request::post(format!("{}{path}", self.path))
                .header(header::HOST, self.authority())
                .header(header::CONTENT_TYPE, MIME)
                .header(header::ACCEPT, MIME)
                .header(header::ACCEPT_ENCODING, "zstd")
                .header(header::USER_AGENT, concat!("rowferry/", env!("CARGO_PKG_VERSION")));
            if let Some(name) = encoding.name() {
                request = request.header(header::CONTENT_ENCODING, name);
            }
            if let Some(key) = &self.key {
                request = request.header("x-api-key", key.expose());
            }
            let request = request
                .body(Whole(Some(packed.into())))
                .map_err(|_| self.error(ErrorKind::Usage, "its url or api_key cannot stand in a request"))?;
            let response =
                connection.send_request(request).await.map_err(|e| self.away(format!("it broke off: {e}")))?;
            Ok((response, connection))
        };
        tokio::time::timeout(self.timeout, work).await.map_err(|_| self.late())?
    }

    fn late(&self) -> Error {
        self.away(format!("no answer within {} s", self.timeout.as_secs_f64()))
    }

    fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{host}:{}", self.port)
    }

    /// A connection that was used before and is open still.
    fn kept(&self) -> Option<SendRequest<Whole>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(at, connection)| at.elapsed() < IDLE_MAX && connection.is_ready() && !connection.is_closed());
        idle.pop().map(|(_, connection)| connection)
    }

    fn keep(&self, connection: SendRequest<Whole>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_CONNECTIONS {
            idle.push((Instant::now(), connection));
        }
    }

    async fn connect(&self) -> Result<SendRequest<Whole>> {
        let stream = match &self.proxy {
            Some(proxy) => proxy.connect(&self.host, self.port).await.map_err(|e| self.away(e))?,
            None => TcpStream::connect((self.host.as_str(), self.port))
                .await
                .map_err(|e| self.away(format!("it cannot be reached: {e}")))?,
        };
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else { return self.converse(stream).await };
        let name = ServerName::try_from(self.host.clone())
            .map_err(|_| self.error(ErrorKind::Usage, "its host's name is none that a certificate can hold"))?;
        let stream = tokio_rustls::TlsConnector::from(tls.clone())
            .connect(name, stream)
            .await
            .map_err(|e| self.away(format!("its certificate or TLS is not accepted: {e}")))?;
        self.converse(stream).await
    }

    async fn converse<S>(&self, stream: S) -> Result<SendRequest<Whole>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|e| self.away(e))?;
        tokio::spawn(async move {
            // Whoever waits for an answer is told.
            let _ = connection.await;
        });
        Ok(sender)
    }

    fn decoder(&self, response: &Response<Incoming>, max: u64) -> Result<Decoder> {
        let encoding = response.headers().get(header::CONTENT_ENCODING);
        let encoding = encoding.map_or(Some(Encoding::Identity), |name| name.to_str().ok().and_then(Encoding::named));
        let encoding = encoding.ok_or_else(|| self.away("its answer is packed in an unknown way"))?;
        Decoder::new(encoding, max).map_err(|e| self.away(e))
    }

    async fn read(&self, response: &mut Response<Incoming>, max: u64) -> Result<Vec<u8>> {
        let mut decoder = self.decoder(response, max)?;
        while let Some(bytes) = next(response.body_mut(), self.timeout).await.map_err(|why| self.away(why))? {
            decoder.push(&bytes).map_err(|_| self.away("its answer cannot be unpacked, or is too large"))?;
        }
        decoder.finish().map_err(|_| self.away("its answer cannot be unpacked, or is too large"))
    }

    /// What an answer means that is none of those expected.
    async fn refused(&self, mut response: Response<Incoming>) -> Error {
        let status = response.status();
        if !is_problem(&response) {
            let mime = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("nothing");
            let mime: String = mime.chars().filter(|c| !c.is_control()).take(60).collect();
            return self.away(format!(
                "what answers there is no rowferry node (status {}, {mime}): perhaps a page of the network in between",
                status.as_u16()
            ));
        }
        let body = match self.read(&mut response, PROBLEM_MAX).await {
            Ok(body) => body,
            Err(e) => return e,
        };
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let detail: String = problem["detail"].as_str().unwrap_or_default().chars().take(1000).collect();
        let kind = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ErrorKind::Denied,
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => ErrorKind::Unsupported,
            StatusCode::UNPROCESSABLE_ENTITY | StatusCode::BAD_REQUEST => ErrorKind::SchemaMismatch,
            StatusCode::PAYLOAD_TOO_LARGE => ErrorKind::Usage,
            StatusCode::TOO_MANY_REQUESTS => ErrorKind::Busy,
            _ => ErrorKind::Unreachable,
        };
        self.error(kind, format!("{detail} (status {})", status.as_u16()))
    }
}

/// A body as it is sent.
fn pack(body: Vec<u8>) -> std::io::Result<(Encoding, Vec<u8>)> {
    if body.len() < PACKED_MIN {
        return Ok((Encoding::Identity, body));
    }
    let mut packer = Encoder::new(Encoding::Zstd)?;
    let mut packed = packer.push(&body)?;
    packed.extend(packer.finish()?);
    Ok((Encoding::Zstd, packed))
}

fn has_type(response: &Response<Incoming>, mime: &str) -> bool {
    response.headers().get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes() == mime.as_bytes())
}

fn is_ours(response: &Response<Incoming>) -> bool {
    response.status() == StatusCode::OK && has_type(response, MIME)
}

fn is_problem(response: &Response<Incoming>) -> bool {
    has_type(response, "application/problem+json")
}

/// The next bytes of a body; `None` at its end.
async fn next(body: &mut Incoming, timeout: Duration) -> std::result::Result<Option<Bytes>, String> {
    loop {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
        let frame = tokio::time::timeout(timeout, frame)
            .await
            .map_err(|_| format!("nothing more of its answer came within {} s", timeout.as_secs_f64()))?;
        match frame {
            None => return Ok(None),
            Some(Err(e)) => return Err(format!("its answer was cut off: {e}")),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// An answer that comes piece by piece, each with its length before it.
pub(super) struct Pieces {
    response: Response<Incoming>,
    decoder: Decoder,
    buffer: Vec<u8>,
    timeout: Duration,
    _connection: SendRequest<Whole>,
}

impl Pieces {
    /// The next piece. That there is none left is never how a whole stream ends: it says so itself.
    pub(super) async fn next(&mut self) -> std::result::Result<Vec<u8>, String> {
        loop {
            if let Some((len, rest)) = self.buffer.split_first_chunk::<4>() {
                let len = u32::from_le_bytes(*len) as usize;
                if len as u64 > ANSWER_MAX {
                    return Err("its answer is too large".to_owned());
                }
                if rest.len() >= len {
                    let piece = rest[..len].to_vec();
                    self.buffer.drain(..4 + len);
                    return Ok(piece);
                }
            }
            let Some(bytes) = next(self.response.body_mut(), self.timeout).await? else {
                return Err("its answer was cut off".to_owned());
            };
            let unpacked = self.decoder.push(&bytes).and_then(|()| self.decoder.take());
            self.buffer.append(&mut unpacked.map_err(|_| "its answer cannot be unpacked, or is too large".to_owned())?);
        }
    }
}

/// A body that is at hand.
struct Whole(Option<Bytes>);

impl Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}
