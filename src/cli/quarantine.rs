//! `rowferry quarantine`.

use std::sync::Arc;

use super::args::{Args, QuarantineCommand};
use super::output::{Output, columns};
use super::{Outcome, connect, ends};
use crate::config::Config;
use crate::engine::{Database, Error, ErrorKind, Result};
use crate::site::{Quarantined, discard, quarantine};

/// A refused change and the database that refused it.
struct Found {
    name: String,
    database: Arc<dyn Database>,
    change: Quarantined,
}

pub(crate) async fn run(args: &Args, command: &QuarantineCommand, output: &Output) -> Result<Outcome> {
    let found = recorded(&connect::configuration(args)?).await?;
    match command {
        QuarantineCommand::List => list(&found, output),
        QuarantineCommand::Show { id } => show(named(&found, id)?, output),
        QuarantineCommand::Discard { id } => {
            let one = named(&found, id)?;
            discard(&one.database, id).await?;
            output.document(&document(one));
            output.line(format!(
                "discarded the change of {} {}; the row's next change is tried again",
                one.change.table, one.change.key
            ));
        }
    }
    Ok(Outcome::Done)
}

/// What the databases of the syncs refused, the oldest first.
async fn recorded(config: &Config) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for name in ends::recording(config) {
        let database = connect::named(config, name, false).await?;
        let changes = quarantine(&database).await.map_err(|e| e.context(format!("database '{name}'")))?;
        found.extend(changes.into_iter().map(|change| Found {
            name: name.to_owned(),
            database: database.clone(),
            change,
        }));
    }
    found.sort_by(|a, b| (&a.change.at, &a.change.id).cmp(&(&b.change.at, &b.change.id)));
    Ok(found)
}

fn named<'a>(found: &'a [Found], id: &str) -> Result<&'a Found> {
    found.iter().find(|one| one.change.id == id).ok_or_else(|| {
        Error::new(
            ErrorKind::Usage,
            format!("no database of the config has {id} in quarantine; 'rowferry quarantine list' names what is"),
        )
    })
}

fn document(found: &Found) -> serde_json::Value {
    let mut document = serde_json::to_value(&found.change).unwrap_or_default();
    document["database"] = found.name.clone().into();
    document
}

fn list(found: &[Found], output: &Output) {
    output.document(&found.iter().map(document).collect::<Vec<_>>());
    if found.is_empty() {
        output.line("nothing is in quarantine");
        return;
    }
    let mut rows = vec![["id", "at", "database", "sync", "table", "key", "reason"].map(str::to_owned).to_vec()];
    rows.extend(found.iter().map(|Found { name, change: c, .. }| {
        let texts = [&c.id, &c.at, name, &c.sync, &c.table, &c.key.to_string(), &c.reason];
        texts.map(ToString::to_string).to_vec()
    }));
    for line in columns(&rows) {
        output.line(line);
    }
}

fn show(found: &Found, output: &Output) {
    output.document(&document(found));
    let change = &found.change;
    output.line(format!("{} of sync {}, table {} of database {}", change.id, change.sync, change.table, found.name));
    output.line(format!("key     {}", change.key));
    output.line(format!("at      {}", change.at));
    output.line(format!("reason  {}", change.reason));
    let image = if change.image.is_null() { "to be deleted".to_owned() } else { change.image.to_string() };
    output.line(format!("row     {image}"));
}
