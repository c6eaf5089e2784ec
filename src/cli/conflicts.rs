//! `rowferry conflicts`.

use std::collections::BTreeMap;

use super::args::{Args, ConflictsCommand};
use super::output::{Output, columns};
use super::{Outcome, connect, ends};
use crate::config::Config;
use crate::engine::{Error, ErrorKind, Result};
use crate::site::{Conflict, conflicts};

pub(crate) async fn run(args: &Args, command: &ConflictsCommand, output: &Output) -> Result<Outcome> {
    let found = recorded(&connect::configuration(args)?).await?;
    match command {
        ConflictsCommand::List => list(&found, output),
        ConflictsCommand::Show { id } => {
            let one = found.iter().find(|conflict| conflict.id == *id).ok_or_else(|| {
                Error::new(
                    ErrorKind::Usage,
                    format!("no database of the config has a conflict {id}; 'rowferry conflicts list' names them"),
                )
            })?;
            show(one, output);
        }
    }
    Ok(Outcome::Done)
}

/// Those that the databases of the syncs have, the oldest first; one that both ends recorded is one.
async fn recorded(config: &Config) -> Result<Vec<Conflict>> {
    let mut found = BTreeMap::new();
    for name in ends::recording(config) {
        let database = connect::named(config, name, false).await?;
        for conflict in conflicts(&database).await.map_err(|e| e.context(format!("database '{name}'")))? {
            found.entry(conflict.id.clone()).or_insert(conflict);
        }
    }
    let mut found: Vec<Conflict> = found.into_values().collect();
    found.sort_by(|a, b| (&a.at, &a.id).cmp(&(&b.at, &b.id)));
    Ok(found)
}

fn list(found: &[Conflict], output: &Output) {
    output.document(&found);
    if found.is_empty() {
        output.line("no conflicts");
        return;
    }
    let mut rows = vec![["id", "at", "sync", "table", "key", "policy", "winner"].map(str::to_owned).to_vec()];
    rows.extend(found.iter().map(|c| {
        let texts = [&c.id, &c.at, &c.sync, &c.table, &c.key.to_string(), &c.policy, &c.winner];
        texts.map(ToString::to_string).to_vec()
    }));
    for line in columns(&rows) {
        output.line(line);
    }
}

fn show(conflict: &Conflict, output: &Output) {
    output.document(conflict);
    output.line(format!("{} of sync {}, table {}", conflict.id, conflict.sync, conflict.table));
    output.line(format!("key     {}", conflict.key));
    output.line(format!("at      {}", conflict.at));
    output.line(match conflict.winner.as_str() {
        "open" => format!("policy  {}; both sides keep theirs", conflict.policy),
        winner => format!("policy  {}; the {winner} won", conflict.policy),
    });
    for (name, image) in [("source", &conflict.source), ("target", &conflict.target)] {
        output.line(format!("{name}  {}", if image.is_null() { "deleted".to_owned() } else { image.to_string() }));
    }
}
