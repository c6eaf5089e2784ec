//! What the program needs of the machine and nothing of databases: waiting times, chance, failpoints.

mod backoff;
mod failpoint;
mod random;

pub use backoff::Backoff;
pub use failpoint::Failpoint;
pub use random::random;
