//! Connections and requests, up to the handlers: bounds, keys, limits, the log.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::answer::{Answer, Content, Problem};
use super::auth::{Keyring, Needs, authorize, shown};
use super::body::{Line, Outgoing, read};
use super::limit::Buckets;
use super::peer::Sessions;
use super::router::{self, Call};
use super::tls::Certificate;
use crate::config::Config;
use crate::engine::{Error, ErrorKind, Result};
use crate::jobs::Node;
use crate::peer::{Encoder, Encoding};
use crate::state::State;

/// Connections at a time.
const CONNECTIONS_MAX: usize = 8192;
/// For the head of a request, and between two requests of a connection.
const HEAD_TIME_MAX: Duration = Duration::from_mins(1);
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// For requests under way when the node is asked to stop.
const STOP_TIME_MAX: Duration = Duration::from_secs(20);
/// Bodies that are held in memory at a time.
const BODIES_MAX: usize = 16;
/// A body that is smaller needs no place among those; it is not packed.
const SMALL_MAX: u64 = 64 << 10;
/// Requests with a wrong key in a minute, from one address.
const WRONG_KEYS_MAX: u32 = 30;
/// Answers below this size are not worth packing.
const PACKED_MIN: usize = 1024;

/// A server that listens, and does not answer yet.
pub struct Server {
    listener: TcpListener,
    certificate: Option<Arc<Certificate>>,
}

/// Listens where the configuration says.
///
/// # Errors
/// `Usage` where the address cannot be had or the certificate cannot be used.
pub async fn bind(config: &Config, state: &State) -> Result<Server> {
    let certificate = match &config.tls {
        Some(tls) => Some(Arc::new(Certificate::open(tls, state).await?)),
        None => None,
    };
    let listener = TcpListener::bind(&config.listen)
        .await
        .map_err(|e| Error::new(ErrorKind::Usage, format!("listen: {} cannot be listened on: {e}", config.listen)))?;
    Ok(Server { listener, certificate })
}

/// What requests share.
struct Gate {
    node: Arc<Node>,
    keyring: Keyring,
    requests: Buckets<String>,
    wrong: Buckets<IpAddr>,
    bodies: Semaphore,
    sessions: Arc<Sessions>,
}

impl Server {
    /// Where it listens, as a URL; with port 0 in the configuration the system has chosen one.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        self.listener.local_addr().map_or_else(|_| scheme.to_owned(), |address| format!("{scheme}://{address}"))
    }

    /// SHA-256 of its certificate, for the other side to pin.
    #[must_use]
    pub fn pin(&self) -> Option<&str> {
        self.certificate.as_ref().map(|certificate| certificate.pin.as_str())
    }

    /// Answers until the node is asked to stop; then requests under way have some time to end.
    pub async fn run(self, node: Arc<Node>) {
        let gate = Arc::new(Gate {
            node: node.clone(),
            keyring: Keyring::new(),
            requests: Buckets::new(),
            wrong: Buckets::new(),
            bodies: Semaphore::new(BODIES_MAX),
            sessions: Arc::default(),
        });
        let (connections, places) = (TaskTracker::new(), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
        let mut refresh = tokio::time::interval(Duration::from_secs(5));
        loop {
            let accepted = tokio::select! {
                () = node.stop.cancelled() => break,
                _ = refresh.tick() => {
                    self.certificate.iter().for_each(|certificate| certificate.refresh());
                    gate.sessions.sweep();
                    continue;
                }
                accepted = self.listener.accept() => accepted,
            };
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(e) => {
                    // One that was gone before it was taken, or no descriptor left: others may go well.
                    tracing::warn!("a connection could not be taken: {e}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            // Without a place the connection closes at once, which the other side tries again.
            let Ok(place) = places.clone().try_acquire_owned() else { continue };
            let _ = stream.set_nodelay(true);
            let (gate, certificate) = (gate.clone(), self.certificate.clone());
            connections.spawn(async move {
                let _place = place;
                match certificate {
                    None => converse(gate, stream, from).await,
                    Some(certificate) => {
                        let acceptor = tokio_rustls::TlsAcceptor::from(certificate.current());
                        match tokio::time::timeout(HANDSHAKE_TIME_MAX, acceptor.accept(stream)).await {
                            Ok(Ok(stream)) => converse(gate, stream, from).await,
                            Ok(Err(e)) => tracing::debug!("no TLS with {}: {e}", from.ip()),
                            Err(_) => tracing::debug!("no TLS with {}: it took too long", from.ip()),
                        }
                    }
                }
            });
        }
        drop(self.listener);
        connections.close();
        if tokio::time::timeout(STOP_TIME_MAX, connections.wait()).await.is_err() {
            tracing::warn!("requests that took longer than {} s were cut off", STOP_TIME_MAX.as_secs());
        }
    }
}

/// The requests of one connection.
async fn converse(gate: Arc<Gate>, stream: impl AsyncRead + AsyncWrite + Unpin, from: SocketAddr) {
    let stop = gate.node.stop.clone();
    let service = hyper::service::service_fn(move |request| {
        let gate = gate.clone();
        async move { Ok::<_, Infallible>(respond(&gate, request, from.ip().to_canonical()).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(e) = ended {
        tracing::debug!("the connection of {} ended: {e}", from.ip());
    }
}

/// Answers one request, and has it logged: never with its key or its query.
async fn respond(gate: &Gate, request: Request<Incoming>, from: IpAddr) -> Response<Outgoing> {
    let started = Instant::now();
    let method = request.method().as_str().to_owned();
    let path = request.uri().path().to_owned();
    let accepted = request.headers().get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    let encoding = Encoding::accepted(accepted.unwrap_or_default());
    let mut key = "none".to_owned();
    let answer = grant(gate, request, from, &mut key).await.unwrap_or_else(Answer::from);
    let known = router::ROUTES.iter().any(|route| route.path == path);
    let line = Line {
        // What is no route may hold anything, a key too.
        path: if known { path } else { "(no route)".to_owned() },
        method,
        key,
        from,
        status: answer.status.as_u16(),
        rows: answer.rows.clone(),
        started,
        whole: false,
    };
    send(answer, encoding, line)
}

async fn grant(
    gate: &Gate,
    request: Request<Incoming>,
    from: IpAddr,
    key: &mut String,
) -> std::result::Result<Answer, Problem> {
    let (head, body) = request.into_parts();
    let found = router::find(head.method.as_str(), head.uri.path());
    // What is no route still needs a key: nobody learns without one what there is.
    let needs = found.as_ref().map_or(Needs::Tables, |route| route.needs);
    let query: Vec<(String, String)> =
        url::form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let config = gate.node.config();
    let mut caller = None;
    if needs != Needs::Nothing {
        let keys = gate.keyring.keys(&config, &gate.node.state).await?;
        let at = match authorize(&keys, needs, shown(&head.headers), from) {
            Ok(at) => at,
            Err(problem) => {
                let wrong = shown(&head.headers).is_some();
                if wrong && let Err(seconds) = gate.wrong.take(&from, WRONG_KEYS_MAX) {
                    let what = "too many requests that were not let in; wait";
                    return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, what).retry_after(seconds));
                }
                return Err(problem);
            }
        };
        caller = at.map(|at| (keys, at));
    }
    if let Some((keys, at)) = &caller {
        key.clone_from(&keys[*at].name);
    }
    if caller.is_some() && found.as_ref().map_or(true, |route| route.is_counted()) {
        gate.requests.take(key, config.limits.requests_per_minute).map_err(|seconds| {
            let what = format!(
                "key '{key}' has made more than {} requests in a minute (limits.requests_per_minute)",
                config.limits.requests_per_minute
            );
            Problem::new(StatusCode::TOO_MANY_REQUESTS, what).retry_after(seconds)
        })?;
    }
    if query
        .iter()
        .any(|(name, _)| matches!(name.to_ascii_lowercase().as_str(), "api_key" | "apikey" | "key" | "token"))
    {
        let what = "a key in a URL stands in logs and histories: send it as X-API-Key";
        return Err(Problem::malformed(what));
    }
    let route = found?;
    let mut contents = Vec::new();
    let mut place = None;
    if route.method == "POST" {
        // Bodies are held whole, so that only so many large ones may come at a time.
        let small = head.headers.get(header::CONTENT_ENCODING).is_none()
            && body.size_hint().upper().is_some_and(|bytes| bytes <= SMALL_MAX);
        if !small {
            let wait = tokio::time::timeout(Duration::from_secs(10), gate.bodies.acquire()).await;
            place = Some(wait.ok().and_then(std::result::Result::ok).ok_or_else(|| {
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many bodies at a time").retry_after(2)
            })?);
        }
        contents = read(&head.headers, body, config.limits.body_bytes).await?;
    }
    let (node, sessions) = (gate.node.clone(), gate.sessions.clone());
    let call = Call { node, config, sessions, caller, query, headers: head.headers, body: contents };
    let answer = router::run(route, call).await;
    drop(place);
    answer
}

fn send(answer: Answer, encoding: Encoding, line: Line) -> Response<Outgoing> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(answer.mime));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    let mut text = |name, text: Option<String>| {
        if let Some(value) = text.and_then(|text| HeaderValue::from_str(&text).ok()) {
            headers.insert(name, value);
        }
    };
    text(header::RETRY_AFTER, answer.retry_after.map(|seconds| seconds.to_string()));
    text(header::ALLOW, answer.allow);
    if answer.status == StatusCode::UNAUTHORIZED {
        text(header::WWW_AUTHENTICATE, Some("Bearer".to_owned()));
    }
    let small = matches!(&answer.content, Content::Whole(bytes) if bytes.len() < PACKED_MIN);
    let encoding = if small { Encoding::Identity } else { encoding };
    let (encoding, encoder) =
        Encoder::new(encoding).map_or((Encoding::Identity, Encoder::Identity), |encoder| (encoding, encoder));
    text(header::CONTENT_ENCODING, encoding.name().map(str::to_owned));
    let body = match answer.content {
        Content::Whole(bytes) => {
            let Ok(bytes) = pack(encoder, bytes) else {
                let mut response = Response::new(Outgoing::whole(Vec::new(), line));
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                return response;
            };
            Outgoing::whole(bytes, line)
        }
        Content::Stream(parts) => Outgoing::stream(parts, encoder, line),
    };
    let mut response = Response::new(body);
    *response.status_mut() = answer.status;
    *response.headers_mut() = headers;
    response
}

fn pack(mut encoder: Encoder, bytes: Vec<u8>) -> std::io::Result<Vec<u8>> {
    if matches!(encoder, Encoder::Identity) {
        return Ok(bytes);
    }
    let mut packed = encoder.push(&bytes)?;
    packed.extend(encoder.finish()?);
    Ok(packed)
}
