//! What the program needs of the machine and nothing of databases: waiting times, chance, failpoints, the system.

mod backoff;
mod failpoint;
mod pace;
mod random;
mod system;

/// Where the log tells the steps of a run: at every level what `-v` adds to it, and nothing that must be known without.
pub const STEP: &str = "rowferry::step";

pub use backoff::Backoff;
pub use failpoint::Failpoint;
pub use pace::Pace;
pub use random::{random, simulate_random};
pub use system::{
    FileId, Hangup, asked_to_end, file_id, notify, owners_alone, private_file, settings_folder, stands_at,
};
