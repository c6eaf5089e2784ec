//! What goes back: a JSON document, rows as they come, or a problem (RFC 9457) that says what to do.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use hyper::StatusCode;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use crate::engine::{Error, ErrorKind};

/// A part of a body that is sent as it comes. One that ends without [`Part::End`] was cut off, and is sent as such.
pub enum Part {
    /// Some bytes.
    Bytes(Bytes),
    /// It is whole.
    End,
}

/// What a request is answered with.
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The type of the body.
    pub mime: &'static str,
    /// The body.
    pub content: Content,
    /// Seconds after which to ask again.
    pub retry_after: Option<u64>,
    /// The only methods that this path knows.
    pub allow: Option<String>,
    /// Rows that were exchanged, for the log.
    pub rows: Arc<AtomicU64>,
}

/// A body.
pub enum Content {
    /// All of it.
    Whole(Vec<u8>),
    /// As it comes.
    Stream(mpsc::Receiver<Part>),
}

impl Answer {
    /// A JSON document.
    #[must_use]
    pub fn json(document: &Value) -> Self {
        Self::whole(StatusCode::OK, "application/json", document.to_string().into_bytes())
    }

    /// These bytes.
    #[must_use]
    pub fn whole(status: StatusCode, mime: &'static str, body: Vec<u8>) -> Self {
        let content = Content::Whole(body);
        Self { status, mime, content, retry_after: None, allow: None, rows: Arc::default() }
    }

    /// What comes through a channel.
    #[must_use]
    pub fn stream(mime: &'static str, parts: mpsc::Receiver<Part>, rows: Arc<AtomicU64>) -> Self {
        let content = Content::Stream(parts);
        Self { status: StatusCode::OK, mime, content, retry_after: None, allow: None, rows }
    }

    /// The same, with the number of rows for the log.
    #[must_use]
    pub fn with_rows(mut self, rows: usize) -> Self {
        self.rows = Arc::new(AtomicU64::new(rows as u64));
        self
    }
}

/// Why a request was not granted. No secret may be put into it.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    members: Map<String, Value>,
    retry_after: Option<u64>,
    allow: Option<String>,
}

impl Problem {
    /// A problem with this sentence.
    #[must_use]
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), members: Map::new(), retry_after: None, allow: None }
    }

    /// Malformed.
    #[must_use]
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// Understood but refused.
    #[must_use]
    pub fn refused(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }

    /// The same, with one more member.
    #[must_use]
    pub fn with(mut self, name: &str, value: Value) -> Self {
        self.members.insert(name.to_owned(), value);
        self
    }

    /// The same; it may go well after these seconds.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The same; these are the methods that the path knows.
    #[must_use]
    pub fn allowing(mut self, methods: String) -> Self {
        self.allow = Some(methods);
        self
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let (status, retry_after) = match error.kind {
            ErrorKind::Unreachable => (StatusCode::SERVICE_UNAVAILABLE, Some(10)),
            ErrorKind::Busy | ErrorKind::Interrupted => (StatusCode::SERVICE_UNAVAILABLE, Some(1)),
            ErrorKind::Full => (StatusCode::INSUFFICIENT_STORAGE, None),
            ErrorKind::CursorLost => (StatusCode::CONFLICT, None),
            ErrorKind::Constraint
            | ErrorKind::BadData
            | ErrorKind::SchemaMismatch
            | ErrorKind::Unsupported
            | ErrorKind::Usage => (StatusCode::UNPROCESSABLE_ENTITY, None),
            ErrorKind::Denied | ErrorKind::Protocol => (StatusCode::INTERNAL_SERVER_ERROR, None),
        };
        Self { retry_after, ..Self::new(status, error.message()) }
    }
}

impl From<Problem> for Answer {
    fn from(problem: Problem) -> Self {
        let mut document = json!({
            "type": "about:blank",
            "title": problem.status.canonical_reason().unwrap_or("Error"),
            "status": problem.status.as_u16(),
            "detail": problem.detail,
            "success": false,
            "error": problem.detail,
        });
        if let Some(members) = document.as_object_mut() {
            members.extend(problem.members);
        }
        Self {
            retry_after: problem.retry_after,
            allow: problem.allow,
            ..Self::whole(problem.status, "application/problem+json", document.to_string().into_bytes())
        }
    }
}

/// What a handler comes to.
pub type Reply = Result<Answer, Problem>;
