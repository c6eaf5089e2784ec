//! `rowferry quarantine`.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::args::{Args, QuarantineCommand};
use super::output::{Output, columns};
use super::{Outcome, connect, ends, sync};
use crate::config::Config;
use crate::engine::{Database, Error, ErrorKind, Result};
use crate::site::{Quarantined, discard, quarantine};

/// A refused change and the database that refused it.
struct Found {
    name: String,
    database: Arc<dyn Database>,
    change: Quarantined,
}

pub(crate) async fn run(
    args: &Args,
    command: &QuarantineCommand,
    output: &Output,
    stop: CancellationToken,
) -> Result<Outcome> {
    let config = connect::configuration(args)?;
    let found = recorded(&config).await?;
    match command {
        QuarantineCommand::Retry { ids } => return retry(&config, &found, ids, output, &stop).await,
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
    for (name, database) in ends::recording(config).await? {
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

/// Tries again what stands under these ids, or all of it.
async fn retry(
    config: &Config,
    found: &[Found],
    ids: &[String],
    output: &Output,
    stop: &CancellationToken,
) -> Result<Outcome> {
    for id in ids {
        named(found, id)?;
    }
    let wanted: Vec<&Found> = found.iter().filter(|one| ids.is_empty() || ids.contains(&one.change.id)).collect();
    // One pair of databases at a time, whose tables go one after another.
    let mut places: BTreeMap<(&str, &str), BTreeMap<&str, Vec<serde_json::Value>>> = BTreeMap::new();
    for one in &wanted {
        let tables = places.entry((&one.change.sync, &one.name)).or_default();
        tables.entry(&one.change.table).or_default().push(one.change.key.clone());
    }
    for ((name, database), tables) in places {
        let by = ends::recorded_by(config, name)?;
        let pair = sync::pair_beside(config, by, stop).await?;
        for (table, keys) in tables {
            pair.retry(database != by.source, table, &keys).await.map_err(|e| e.context(format!("sync {name}")))?;
        }
    }
    let left = recorded(config).await?;
    let stays: Vec<&Found> = left.iter().filter(|l| wanted.iter().any(|w| w.change.id == l.change.id)).collect();
    let written = wanted.len() - stays.len();
    output.document(&serde_json::json!({ "written": written,
        "refused": stays.iter().map(|one| document(one)).collect::<Vec<_>>() }));
    for Found { name, change: c, .. } in &stays {
        output.line(format!("{}: {name} refuses {} {} again: {}", c.id, c.table, c.key, c.reason));
    }
    output.line(format!("{written} of {} written", wanted.len()));
    Ok(if stays.is_empty() { Outcome::Done } else { Outcome::Short })
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
