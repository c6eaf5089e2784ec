//! One source joined to one target: plan, run. One path for a copy, a full or mirror sync and a repair.
//!
//! A table that is new or empty is filled by the engine's bulk path; one that holds rows is
//! compared in key order and only what differs is written. So an interrupted run needs no cursor to
//! be resumed: what has arrived is equal and stays, the rest is written.

mod load;
mod merge;
mod plan;
mod progress;
mod run;

pub use plan::{ColumnChoice, Mode, Plan, PlanOptions, TablePlan, matches_pattern, plan, select_tables, shapes};
pub use progress::{Progress, TableProgress};
pub use run::{Report, RunOptions, TableReport, run};
