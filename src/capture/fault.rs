//! What went wrong, and whether one table alone is to blame, so that the others can go on.

use crate::engine::{Error, ErrorKind};

/// An error, with the table that it is about.
#[derive(Debug, Clone)]
pub struct Fault {
    /// The table's place among those of the sync; `None`: nothing goes on.
    pub table: Option<usize>,
    /// What happened.
    pub error: Error,
}

/// Result of work on several tables at once.
pub type Outcome<T> = std::result::Result<T, Fault>;

impl Fault {
    /// Blames this table, unless what happened would happen to every other.
    pub fn at(table: usize) -> impl Fn(Error) -> Self + Copy {
        move |error| {
            let all = matches!(
                error.kind,
                ErrorKind::Unreachable
                    | ErrorKind::Busy
                    | ErrorKind::Full
                    | ErrorKind::Interrupted
                    | ErrorKind::CursorLost
            );
            Self { table: (!all).then_some(table), error }
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self { table: None, error }
    }
}

/// For who has one table in hand, and knows which.
impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        fault.error
    }
}
