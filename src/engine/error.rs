//! One error for all engines; its kinds are named by what to do about it.

use std::fmt;

/// What went wrong, by the reaction that it calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// No connection, or it broke: try again later. Exit code 3.
    Unreachable,
    /// A lock, a deadlock, too many connections: try again soon.
    Busy,
    /// The account may not do this: an operator must act. Exit code 2 before anything was touched.
    Denied,
    /// A row that a constraint refuses (unique, foreign key, check, not null).
    Constraint,
    /// A position in a change feed that does not exist any more.
    CursorLost,
    /// A table or column is missing or of another shape. Exit code 2.
    SchemaMismatch,
    /// This engine or version cannot do it. Exit code 2.
    Unsupported,
    /// A value that the engine refuses or that cannot be read.
    BadData,
    /// An answer that makes no sense, or a mistake of ours.
    Protocol,
    /// No space left.
    Full,
    /// A usage or configuration error: nothing was touched. Exit code 2.
    Usage,
    /// Stopped on request. Exit code 130.
    Interrupted,
}

/// An error with one sentence for people: what happened, to what, and what to do.
#[derive(Debug, Clone)]
pub struct Error {
    /// The reaction it calls for.
    pub kind: ErrorKind,
    message: String,
}

/// Result of an engine's work.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of this kind with this sentence. Never put a password into it.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// The same error, with what was being done put before it unless it stands there already.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        let prefix = format!("{what}: ");
        if !self.message.starts_with(&prefix) {
            self.message.insert_str(0, &prefix);
        }
        self
    }

    /// The same error, told to be about this table unless it says so already.
    #[must_use]
    pub fn of_table(self, name: impl fmt::Display) -> Self {
        let table = format!("table {name}");
        if self.message.contains(&table) { self } else { self.context(table) }
    }

    /// The sentence.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether the same work may succeed when it is tried again.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self.kind, ErrorKind::Unreachable | ErrorKind::Busy)
    }

    /// Whether a single row may be to blame, so that splitting the batch can find it.
    #[must_use]
    pub fn is_row_fault(&self) -> bool {
        matches!(self.kind, ErrorKind::Constraint | ErrorKind::BadData)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
