//! A node at work: its databases, the syncs that it runs by itself, and how they stand.

mod databases;
mod node;
mod round;
mod standing;

pub use databases::Databases;
pub use node::Node;
pub use round::{Prepare, Round, keep_running};
pub use standing::{Condition, SyncRecord, SyncStanding, standing};
