//! `rowferry status`.

use super::args::Args;
use super::output::{Output, columns};
use super::serve::state_place;
use super::{Outcome, connect};
use crate::engine::Result;
use crate::jobs::{Condition, Databases, SyncStanding, standing};
use crate::state::State;

pub(crate) async fn run(args: &Args, output: &Output) -> Result<Outcome> {
    let config = connect::configuration(args)?;
    let state = State::open(&state_place(&config)).await?;
    let all = standing(&config, &state, &Databases::default()).await?;
    output.document(&all);
    if all.is_empty() {
        output.line("the config has no enabled sync");
        return Ok(Outcome::Done);
    }
    let mut rows = vec![["sync", "state", "pending", "oldest", "last success"].map(str::to_owned).to_vec()];
    rows.extend(all.iter().map(row));
    for row in columns(&rows) {
        output.line(row);
    }
    for one in &all {
        if let Some(error) = &one.last_error {
            let since = one.since.as_deref().map(|at| format!(" since {at}")).unwrap_or_default();
            let next = one.next_try.as_deref().map(|at| format!(", tried again at {at}")).unwrap_or_default();
            output.line(format!("{}{since}: {error}{next}", one.sync));
        }
        if one.quarantined + one.open_conflicts > 0 {
            output.line(format!(
                "{}: {} rows in quarantine, {} open conflicts",
                one.sync, one.quarantined, one.open_conflicts
            ));
        }
    }
    Ok(Outcome::Done)
}

fn row(one: &SyncStanding) -> Vec<String> {
    let state = match one.state {
        Condition::InSync => "in-sync",
        Condition::Pending => "pending",
        Condition::Behind => "behind",
        Condition::Offline => "offline",
        Condition::Waiting => "waiting",
        Condition::Failed => "failed",
    };
    let unknown = || "?".to_owned();
    let age = |ms: i64| format!("{}.{} s", ms / 1000, ms % 1000 / 100);
    vec![
        one.sync.clone(),
        state.to_owned(),
        one.pending.map_or_else(unknown, |n| n.to_string()),
        one.lag_ms.map_or_else(unknown, age),
        one.last_success.clone().unwrap_or_else(|| "never".to_owned()),
    ]
}
