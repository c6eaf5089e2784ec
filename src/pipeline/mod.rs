//! One source joined to one target: plan, run. One path for a copy, a full or mirror sync and a repair.
//!
//! A table that is new or empty is filled by the engine's bulk path; one that holds rows is
//! compared in key order and only what differs is written. So an interrupted run needs no cursor to
//! be resumed: what has arrived is equal and stays, the rest is written.

mod apart;
mod ends;
mod load;
mod matched;
mod merge;
mod owner;
mod pair;
mod persist;
mod plan;
mod progress;
mod resolve;
mod run;
mod stamped;
mod sync;
mod unfinished;

pub use apart::{bring, known, pattern_of, plan_between};
pub use ends::{Captured, Endpoint, LocalEndpoint};
pub(crate) use merge::is_flood;
pub use pair::{Lacking, Pair, PairOptions, Preference, Stamp, TableTerms, lacking};
pub use persist::{Claim, persist};
pub use plan::{
    ColumnChoice, Mode, Origin, Plan, PlanOptions, TablePlan, agree_on_key, exact_pattern, matches_pattern,
    matching_tables, name_at, not_a_table, paired, plan, plan_from, select_tables,
};
pub use progress::{Progress, TableProgress};
pub use resolve::Keep;
pub use run::{Report, RunOptions, TableReport, run};
pub use stamped::StampedEndpoint;
pub use sync::{Agreed, ChangeOptions, Direction, agree, run_changes, widen};
