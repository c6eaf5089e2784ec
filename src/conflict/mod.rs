//! What becomes of a row that was written at several sites. Pure: no I/O, no clock, no randomness.
//!
//! [`fold`] makes a version of what the log says was written to a key; [`decide`] settles what a feed brings for it.
//! Both see one key at one site. That all sites end equal, with each conflict recorded and none invented, follows from
//! three properties of an entry under `last-write-wins`, which every step keeps:
//!
//! - its vector holds exactly the writes that its content includes or has beaten;
//! - its version is the highest of these, so that the join of two entries is again the entry of their union;
//! - it only grows: whatever a site has seen once it knows for ever, so that old and repeated batches change nothing.
//!
//! A write is in conflict with another when neither was made by someone who had seen the other, and only then. That is
//! told by looking each *version* up in the other's *vector*. Comparing vectors with each other tells something else
//! (whether both have heard the same gossip) and finds conflicts where a third site has long settled them.
//!
//! Tried and found wrong:
//! - *A purged tombstone leaves its vector behind for the table.* It would pass for knowledge of other keys. A site
//!   whose clock is years ahead deletes one row; the tombstone is purged, the clock set right; then this site and
//!   another insert under one key: the other's insert would seem to have seen the first and replace it without a
//!   record. So only the clock is left ([`Origin::floor`]), and an insert that meets a tombstone which its own site has
//!   purged is recorded as a conflict that it wins.
//! - *In a first run all rows that differ are differences.* Three sites in a chain become a ring while a change is
//!   under way: the first run between the ends would stop at a change that one of them only has not heard of yet. So
//!   what a real version says counts in [`first_run`] too; and so do births, where numbers are generated ([`are_two`]): the
//!   ends of a chain that becomes a ring may both have heard that one of two rows is to get another number.

mod decide;
mod first_run;
mod fold;
mod merge;
mod part;
mod policy;
#[cfg(test)]
mod tests;
mod unmet;

pub use decide::{Decision, Relation, are_two, decide, emptied, relation};
pub use first_run::{FirstRun, Standing, first_run};
pub use fold::{Folded, Origin, Written, anew, fold};
pub use part::part;
pub use policy::{Policy, Rule, Side};
pub use unmet::{Unmet, unmet};
