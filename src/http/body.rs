//! Bodies, in and out: within their bounds, packed as the other side wants, never held longer than need be.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::{HeaderMap, StatusCode, header};
use tokio::sync::mpsc;

use super::answer::{Part, Problem};
use crate::peer::{Decoder, Encoder, Encoding, TooMuch};

/// The longest pause within a body.
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// A body may take this long, and a second more for each of these many bytes.
const TIME_MAX: Duration = Duration::from_mins(1);
const BYTES_A_SECOND: u64 = 32 << 10;

/// Reads a body of at most `max` bytes of contents.
pub(super) async fn read(headers: &HeaderMap, mut body: Incoming, max: u64) -> Result<Vec<u8>, Problem> {
    let encoding = headers
        .get(header::CONTENT_ENCODING)
        .map_or(Some(Encoding::Identity), |value| value.to_str().ok().and_then(Encoding::named));
    let Some(encoding) = encoding else {
        let what = "bodies are taken as they are, or with Content-Encoding gzip or zstd";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, what));
    };
    let too_large = || {
        let what = format!("the body is larger than limits.body allows ({max} bytes, unpacked); send it in parts");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, what)
    };
    let because = |why| match why {
        TooMuch::Contents => too_large(),
        TooMuch::Damaged => Problem::malformed("the body cannot be unpacked as its Content-Encoding says"),
    };
    if body.size_hint().lower() > max {
        return Err(too_large());
    }
    let slow = || Problem::new(StatusCode::REQUEST_TIMEOUT, "the body came too slowly");
    let mut decoder =
        Decoder::new(encoding, max).map_err(|_| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no memory is left"))?;
    let (started, mut received) = (Instant::now(), 0_u64);
    loop {
        let next = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
        let Some(frame) = tokio::time::timeout(PAUSE_MAX, next).await.map_err(|_| slow())? else { break };
        let frame = frame.map_err(|_| Problem::malformed("the body was cut off"))?;
        let Ok(data) = frame.into_data() else { continue };
        received += data.len() as u64;
        if started.elapsed() > TIME_MAX + Duration::from_secs(received / BYTES_A_SECOND) {
            return Err(slow());
        }
        decoder.push(&data).map_err(because)?;
    }
    decoder.finish().map_err(because)
}

/// The line of a request in the log, written when its answer has gone, or been given up.
pub(super) struct Line {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) key: String,
    pub(super) from: std::net::IpAddr,
    pub(super) status: u16,
    pub(super) rows: Arc<AtomicU64>,
    pub(super) started: Instant,
    /// Whether all of the answer was handed on.
    pub(super) whole: bool,
}

impl Drop for Line {
    fn drop(&mut self) {
        let Self { method, path, key, from, status, rows, started, whole } = &*self;
        let (rows, ms) = (rows.load(Ordering::Relaxed), started.elapsed().as_millis());
        let cut = if *whole { "" } else { ", cut off" };
        tracing::info!(target: "rowferry::http", "{method} {path} {status}, key {key} from {from}, {rows} rows, {ms} ms{cut}");
    }
}

/// The body of an answer on its way.
pub(super) struct Outgoing {
    parts: Parts,
    encoder: Option<Encoder>,
    line: Line,
}

enum Parts {
    Whole(Option<Bytes>),
    Stream(mpsc::Receiver<Part>),
}

impl Outgoing {
    pub(super) fn whole(bytes: Vec<u8>, mut line: Line) -> Self {
        line.whole = bytes.is_empty();
        Self { parts: Parts::Whole(Some(bytes.into())), encoder: None, line }
    }

    pub(super) fn stream(parts: mpsc::Receiver<Part>, encoder: Encoder, line: Line) -> Self {
        Self { parts: Parts::Stream(parts), encoder: Some(encoder), line }
    }
}

impl hyper::body::Body for Outgoing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        loop {
            let part = match &mut this.parts {
                Parts::Whole(bytes) => {
                    this.line.whole = true;
                    return Poll::Ready(bytes.take().filter(|b| !b.is_empty()).map(|b| Ok(Frame::data(b))));
                }
                Parts::Stream(parts) => {
                    if this.encoder.is_none() {
                        return Poll::Ready(None);
                    }
                    ready!(parts.poll_recv(cx))
                }
            };
            let packed = match (part, &mut this.encoder) {
                (Some(Part::Bytes(bytes)), Some(Encoder::Identity)) => {
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                (Some(Part::Bytes(bytes)), Some(encoder)) => encoder.push(&bytes),
                (Some(Part::End), encoder) => {
                    this.line.whole = true;
                    encoder.take().map_or(Ok(Vec::new()), Encoder::finish)
                }
                // Whoever reads it must not take it for the whole.
                (None, _) | (_, None) => {
                    this.encoder = None;
                    return Poll::Ready(Some(Err(io::Error::other("the rows could not be read to their end"))));
                }
            };
            match packed {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => return Poll::Ready(Some(Ok(Frame::data(bytes.into())))),
                Err(e) => return Poll::Ready(Some(Err(e))),
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.parts {
            Parts::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Parts::Stream(_) => SizeHint::default(),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.parts {
            Parts::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Parts::Stream(_) => self.encoder.is_none(),
        }
    }
}
