//! The server's codes and what to do about each: one table.

use crate::engine::{Error, ErrorKind};

/// What a SQLSTATE calls for.
pub(super) fn kind(code: &str) -> ErrorKind {
    match code {
        "3D000" | "42601" => ErrorKind::Usage,
        "57P01" | "57P02" | "57P03" | "57P05" | "25P03" => ErrorKind::Unreachable,
        "40001" | "40P01" | "55P03" | "53300" | "53400" | "57014" | "55006" => ErrorKind::Busy,
        "42501" | "25006" => ErrorKind::Denied,
        "53100" => ErrorKind::Full,
        "42P01" | "42703" | "54011" | "42704" | "42883" | "42P10" | "42804" | "3F000" | "428C9" => {
            ErrorKind::SchemaMismatch
        }
        "22P04" => ErrorKind::Protocol,
        _ => match code.get(..2) {
            Some("08") => ErrorKind::Unreachable,
            Some("28") => ErrorKind::Denied,
            Some("23" | "44") => ErrorKind::Constraint,
            Some("22" | "54") => ErrorKind::BadData,
            Some("0A") => ErrorKind::Unsupported,
            Some("40") => ErrorKind::Busy,
            Some("53") => ErrorKind::Busy,
            Some("58") => ErrorKind::Unreachable,
            _ => ErrorKind::Protocol,
        },
    }
}

/// The driver's error as ours, with the server's own words.
pub(super) fn from(error: &tokio_postgres::Error) -> Error {
    let Some(db) = error.as_db_error() else {
        let kind = if broken(error) { ErrorKind::Unreachable } else { ErrorKind::Protocol };
        let cause = std::error::Error::source(error).map(|c| format!(": {c}")).unwrap_or_default();
        let hint = if kind == ErrorKind::Unreachable { "; try again when the server can be reached" } else { "" };
        return Error::new(
            kind,
            format!("PostgreSQL: {error}{cause}{hint}").replace(&format!("{cause}{cause}"), &cause),
        );
    };
    let mut text = String::from("PostgreSQL: ");
    if let Some(table) = db.table() {
        text.push_str(&format!("table {table}: "));
    }
    text.push_str(db.message());
    for part in [db.detail(), db.where_(), db.hint()].into_iter().flatten() {
        text.push_str(": ");
        // A COPY context quotes the whole line; the start of it names the row well enough.
        text.extend(part.chars().take(400).map(|c| if c == '\n' { ' ' } else { c }));
    }
    text.push_str(&format!(" (SQLSTATE {})", db.code().code()));
    if db.code().code() == "42501" {
        text.push_str(if db.message().contains("row-level security") {
            ": use the table's owner or a role with BYPASSRLS, or take what the account may see with \
             ?options=-c%20row_security=on in the URL"
        } else {
            ": grant the account this right"
        });
    }
    Error::new(kind(db.code().code()), text)
}

fn broken(error: &tokio_postgres::Error) -> bool {
    if error.is_closed() {
        return true;
    }
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if inner.is::<std::io::Error>() {
            return true;
        }
        cause = inner.source();
    }
    let text = error.to_string();
    text.starts_with("error connecting") || text.starts_with("error communicating") || text.contains("timeout")
}
