//! SQLite's result codes to what to do about them: one table.

use rusqlite::ErrorCode;

use crate::engine::{Error, ErrorKind};

/// The reaction that a result code calls for, with advice for people.
fn kind_of(code: ErrorCode) -> (ErrorKind, &'static str) {
    match code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed => {
            (ErrorKind::Busy, "another program holds a lock on the file; try again, or raise busy_timeout")
        }
        ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied | ErrorCode::ReadOnly => {
            (ErrorKind::Denied, "check the permissions of the file and of its folder")
        }
        ErrorCode::ConstraintViolation => (ErrorKind::Constraint, ""),
        ErrorCode::NotADatabase => (ErrorKind::Usage, "check the path in the URL"),
        // Not a fault of one row: what else the file holds cannot be trusted.
        ErrorCode::DatabaseCorrupt => (
            ErrorKind::Protocol,
            "the file is damaged: restore it, or run 'rowferry recover' where a sync brings its rows",
        ),
        ErrorCode::TooBig | ErrorCode::TypeMismatch => (ErrorKind::BadData, ""),
        ErrorCode::DiskFull => (ErrorKind::Full, "free some space"),
        ErrorCode::OutOfMemory => (ErrorKind::Full, "no memory left"),
        ErrorCode::CannotOpen | ErrorCode::SystemIoFailure | ErrorCode::NoLargeFileSupport => (
            ErrorKind::Unreachable,
            "check the file and its folder; where the file is in WAL mode, the folder must be writable even to read",
        ),
        ErrorCode::SchemaChanged => (ErrorKind::SchemaMismatch, "the table was changed meanwhile; try again"),
        ErrorCode::OperationInterrupted => (ErrorKind::Interrupted, ""),
        _ => (ErrorKind::Protocol, ""),
    }
}

/// Turns SQLite's error into ours.
///
/// SQLite has one code for all mistakes in a statement, so that a missing table or column can only
/// be told by its words, which have been the same since version 3.0.
pub(super) fn translate(error: &rusqlite::Error) -> Error {
    let (code, message) = match error {
        rusqlite::Error::SqliteFailure(failure, message) => {
            (Some(failure.code), message.clone().unwrap_or_else(|| failure.to_string()))
        }
        rusqlite::Error::SqlInputError { error, msg, .. } => (Some(error.code), msg.clone()),
        other => (None, other.to_string()),
    };
    let (mut kind, advice) = code.map_or((ErrorKind::Protocol, ""), kind_of);
    if kind == ErrorKind::Protocol {
        let shape = ["no such table", "no such column", "has no column named", "foreign key mismatch"];
        if shape.iter().any(|words| message.contains(words)) {
            kind = ErrorKind::SchemaMismatch;
        } else if message.contains("syntax error") || message.contains("unrecognized token") {
            kind = ErrorKind::Usage;
        }
    }
    let sentence = if advice.is_empty() { message } else { format!("{message} ({advice})") };
    Error::new(kind, sentence)
}

/// For `map_err` with what was being done.
pub(super) fn during(what: impl std::fmt::Display) -> impl FnOnce(rusqlite::Error) -> Error {
    move |error| translate(&error).context(what)
}
