//! `rowferry conflicts`.

use std::collections::BTreeMap;

use tokio_util::sync::CancellationToken;

use super::args::{Args, ConflictsCommand, KeepArg};
use super::output::{Output, columns};
use super::{Outcome, connect, ends, sync};
use crate::config::Config;
use crate::engine::{Error, ErrorKind, Result};
use crate::pipeline::Keep;
use crate::site::{Conflict, conflicts};

pub(crate) async fn run(
    args: &Args,
    command: &ConflictsCommand,
    output: &Output,
    stop: CancellationToken,
) -> Result<Outcome> {
    let config = connect::configuration(args)?;
    let found = recorded(&config).await?;
    match command {
        ConflictsCommand::List => list(&found, output),
        ConflictsCommand::Show { id } => show(&named(&found, id)?.conflict, output),
        ConflictsCommand::Resolve { id, keep } => resolve(&config, named(&found, id)?, *keep, output, &stop).await?,
    }
    Ok(Outcome::Done)
}

/// A conflict and the database that recorded it.
struct Found {
    database: String,
    conflict: Conflict,
}

/// Those that the databases have, the oldest first; one that both ends recorded is one.
async fn recorded(config: &Config) -> Result<Vec<Found>> {
    let mut found = BTreeMap::new();
    for (name, database) in ends::recording(config).await? {
        for conflict in conflicts(&database).await.map_err(|e| e.context(format!("database '{name}'")))? {
            found.entry(conflict.id.clone()).or_insert(Found { database: name.to_owned(), conflict });
        }
    }
    let mut found: Vec<Found> = found.into_values().collect();
    found.sort_by(|a, b| (&a.conflict.at, &a.conflict.id).cmp(&(&b.conflict.at, &b.conflict.id)));
    Ok(found)
}

fn named<'a>(found: &'a [Found], id: &str) -> Result<&'a Found> {
    found.iter().find(|one| one.conflict.id == id).ok_or_else(|| {
        Error::new(
            ErrorKind::Usage,
            format!("no database of the config has a conflict {id}; 'rowferry conflicts list' names them"),
        )
    })
}

async fn resolve(
    config: &Config,
    found: &Found,
    keep: KeepArg,
    output: &Output,
    stop: &CancellationToken,
) -> Result<()> {
    let Found { database, conflict } = found;
    if conflict.policy == REKEYED {
        return Err(Error::new(
            ErrorKind::Usage,
            format!(
                "conflict {} has no loser: both rows of {} stand, the {}'s under another number than {}",
                conflict.id,
                conflict.table,
                if conflict.winner == "source" { "target" } else { "source" },
                conflict.key
            ),
        ));
    }
    let (keep, winner) = match keep {
        KeepArg::Source => (Some(Keep::Source), "source"),
        KeepArg::Target => (Some(Keep::Target), "target"),
        KeepArg::Merged => (None, "merged"),
    };
    if conflict.winner == winner {
        output.document(conflict);
        output.line(format!("{}: {} stands already; nothing was written", conflict.id, whose(winner)));
        return Ok(());
    }
    let keep = keep.ok_or_else(|| {
        Error::new(
            ErrorKind::Usage,
            format!(
                "conflict {} has no merged row to keep: its policy is {}, its outcome {}; keep the row of the source or of \
                 the target",
                conflict.id, conflict.policy, conflict.winner
            ),
        )
    })?;
    let by = ends::recorded_by(config, &conflict.sync)?;
    let pair = sync::pair_beside(config, by, stop).await?;
    pair.resolve(conflict, *database != by.source, keep).await.map_err(|e| e.context(format!("sync {}", by.name)))?;
    let after = recorded(config).await?;
    let now = &named(&after, &conflict.id)?.conflict;
    output.document(now);
    output.line(format!("{}: both ends have the {winner}'s row of {} {}", now.id, now.table, now.key));
    Ok(())
}

fn list(found: &[Found], output: &Output) {
    output.document(&found.iter().map(|one| &one.conflict).collect::<Vec<_>>());
    if found.is_empty() {
        output.line("no conflicts");
        return;
    }
    let mut rows = vec![["id", "at", "sync", "table", "key", "policy", "winner"].map(str::to_owned).to_vec()];
    rows.extend(found.iter().map(|Found { conflict: c, .. }| {
        let texts = [&c.id, &c.at, &c.sync, &c.table, &c.key.to_string(), &c.policy, &c.winner];
        texts.map(ToString::to_string).to_vec()
    }));
    for line in columns(&rows) {
        output.line(line);
    }
}

/// The policy of a conflict that was settled by another number for one of the two rows.
const REKEYED: &str = "rekey";

fn whose(winner: &str) -> String {
    if winner == "merged" { "the merged row".to_owned() } else { format!("the {winner}'s row") }
}

fn show(conflict: &Conflict, output: &Output) {
    output.document(conflict);
    output.line(format!("{} of sync {}, table {}", conflict.id, conflict.sync, conflict.table));
    output.line(format!("key     {}", conflict.key));
    output.line(format!("at      {}", conflict.at));
    output.line(match conflict.winner.as_str() {
        "open" => format!("policy  {}; both sides keep theirs until 'rowferry conflicts resolve'", conflict.policy),
        "merged" => format!("policy  {}; of each column the later write stands", conflict.policy),
        winner if conflict.policy == REKEYED => {
            format!("policy  {REKEYED}; both rows stand, and the {winner}'s has kept its number")
        }
        winner => format!("policy  {}; the {winner} won", conflict.policy),
    });
    for (name, image) in [("source", &conflict.source), ("target", &conflict.target)] {
        output.line(format!("{name}  {}", if image.is_null() { "deleted".to_owned() } else { image.to_string() }));
    }
}
