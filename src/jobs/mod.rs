//! A node at work: its databases, the syncs that it runs by itself, and how they stand.

mod counting;
mod databases;
mod follow;
mod node;
mod round;
mod standing;
mod terms;

pub use counting::{Waiting, waiting};
pub use databases::Databases;
pub use follow::{Follow, Outcomes, Prepare, Round, Turn};
pub use node::Node;
pub use round::keep_running;
pub use standing::{Condition, SyncRecord, SyncStanding, standing};
pub use terms::Terms;
