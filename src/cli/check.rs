//! `rowferry check`.

use tokio_util::sync::CancellationToken;

use super::args::Args;
use super::copy::{plan_document, print_tables};
use super::ends::{self, End};
use super::output::Output;
use super::{Outcome, connect, sync};
use crate::config::{Config, Direction, Endpoint, Mode, Sync};
use crate::engine::{Error, Result};
use crate::model::{ForeignKey, ForeignKeyAction};
use crate::peer::clock_told;
use crate::pipeline::{Plan, TablePlan};
use crate::site;

pub(crate) async fn run(args: &Args, names: &[String], output: &Output) -> Result<Outcome> {
    let config = connect::configuration(args)?;
    let syncs = if names.is_empty() && config.syncs.is_empty() { Vec::new() } else { sync::chosen(&config, names)? };
    let meant = |name: &&String| names.is_empty() || syncs.iter().any(|sync| ends::names(sync).any(|end| end == *name));
    let mut first: Option<Error> = None;
    let mut databases = Vec::new();
    for name in config.databases.keys().filter(meant) {
        if to_be_made(&config, names, name) {
            output.line(format!("{name}: the file does not exist yet; the sync will make it"));
            databases.push(serde_json::json!({ "database": name, "exists": false }));
            continue;
        }
        match connect::named(&config, name, false).await {
            Ok(database) => {
                let tables = database.tables(None).await?.len();
                output.line(format!("{name}: {}, {}, {tables} tables", database.label(), database.version()));
                let hinders = database.reading_hinders().await?;
                if let Some(note) = &hinders {
                    output.line(format!("       note: {note}"));
                }
                databases.push(serde_json::json!({ "database": name, "url": database.label(),
                    "version": database.version(), "tables": tables, "notes": hinders.as_slice() }));
            }
            Err(e) => {
                output.line(format!("{name}: {e}"));
                databases.push(serde_json::json!({ "database": name, "error": e.message() }));
                first.get_or_insert(e);
            }
        }
    }
    let mut documents = Vec::new();
    if config.syncs.is_empty() {
        output.line("the config has no syncs yet");
    } else {
        for one in syncs {
            output.line("");
            output.line(format!("sync {}:", one.name));
            match plan_of(&config, one).await {
                Ok((plans, capture, ahead)) => {
                    if let Some(ahead) = ahead {
                        output.line(format!("  the peer's clock is {} of this node", clock_told(ahead)));
                    }
                    for plan in &plans {
                        print_tables(plan, output);
                    }
                    let refused: Vec<_> = plans.iter().flat_map(|plan| &plan.refused).collect();
                    for (table, e) in &refused {
                        output.line(format!("  {table}: {e}"));
                    }
                    for note in plans.iter().flat_map(|plan| &plan.tables).flat_map(unlike) {
                        output.line(format!("       note: {note}"));
                    }
                    if let Some((table, e)) = refused.first() {
                        first.get_or_insert(e.clone().of_table(table).context(format!("sync {}", one.name)));
                    }
                    for end in &capture {
                        print_capture(end, output);
                    }
                    let tables: Vec<_> = plans.iter().flat_map(|plan| &plan.tables).map(plan_document).collect();
                    let mut document = serde_json::json!({ "sync": one.name, "tables": tables });
                    if let Some(ahead) = ahead {
                        document["clock_offset_ms"] = (ahead / 1000).into();
                    }
                    if one.mode == Mode::Incremental {
                        document["capture"] = capture.iter().map(capture_document).collect();
                    }
                    documents.push(document);
                }
                Err(e) => {
                    output.line(format!("  {e}"));
                    documents.push(serde_json::json!({ "sync": one.name, "error": e.message() }));
                    let named = format!("sync {}", one.name);
                    first.get_or_insert(if e.message().starts_with(&named) { e } else { e.context(named) });
                }
            }
        }
    }
    output.document(&serde_json::json!({ "databases": databases, "syncs": documents }));
    first.map_or(Ok(Outcome::Done), Err)
}

/// Whether this is a SQLite file that is not there, and that one of these syncs would make.
fn to_be_made(config: &Config, names: &[String], database: &str) -> bool {
    let missing = config.databases[database].file().is_some_and(|path| !path.exists());
    let makes = |sync: &&Sync| {
        let takes = |name: &str, from: Direction| name == database && sync.direction != from;
        let target = matches!(&sync.target, Endpoint::Database(name) if takes(name, Direction::Pull));
        sync.create && (target || takes(&sync.source, Direction::Push))
    };
    missing && sync::chosen(config, names).is_ok_and(|syncs| syncs.iter().any(makes))
}

/// The plans, for an incremental sync what would be put into its databases, and how far a peer's clock is ahead.
async fn plan_of(config: &Config, one: &Sync) -> Result<(Vec<Plan>, Vec<Captured>, Option<i64>)> {
    sync::supported(one)?;
    let (source, target) = sync::both(config, one, &CancellationToken::new()).await?;
    if one.mode != Mode::Incremental {
        let ends = sync::in_direction(one, (source.as_ref(), target.as_ref()));
        return Ok((vec![sync::sync_plan(one, ends, (false, false), true).await?], Vec::new(), target.clock_ahead()));
    }
    let plans = sync::pair_plans(one, source.as_ref(), target.as_ref()).await?;
    let mut capture = Vec::new();
    for end in ends::ends(config, &[one]).await? {
        capture.push(captured(&end).await.map_err(|e| e.context(format!("database '{}'", end.name)))?);
    }
    if let Some(name) = ends::only_read(one) {
        let notes = vec![
            "nothing is put into it; deletions at the source are not seen, nor is a write that leaves the timestamp column \
             as it is"
                .to_owned(),
            format!("'rowferry sync {} --full' compares all rows, and finds both", one.name),
        ];
        capture.insert(0, Captured { database: name.to_owned(), by: "timestamp", tables: Vec::new(), notes });
    }
    Ok((plans, capture, target.clock_ahead()))
}

/// What of a table is other at the two ends of an incremental sync, so that it could surprise.
fn unlike(plan: &TablePlan) -> Vec<String> {
    let (source, target) = (&plan.source, &plan.target);
    let mut notes = Vec::new();
    let key = plan.key.iter().flat_map(|key| &key.columns);
    for (a, b) in key.map(|&at| (&source.columns[at], &target.columns[at])) {
        if a.binary_order != b.binary_order {
            let folds = if a.binary_order { target } else { source };
            notes.push(format!(
                "{}: keys that differ only in case, accents or spaces are one in {} of {} and two at the other end: give \
                 both the same collation, best one of bytes",
                source.name, b.name, folds.name
            ));
        }
    }
    if !source.triggers.is_empty() && !plan.whole.triggers.is_empty() {
        notes.push(format!(
            "{}: both ends have triggers of their own ({}; {}); a column that both set on every write never comes to rest: \
             leave it out under exclude, or drop one of them",
            source.name,
            source.triggers.join(", "),
            plan.whole.triggers.join(", ")
        ));
    }
    notes
}

/// What capture would be in a database.
struct Captured {
    database: String,
    /// `trigger` or `timestamp`.
    by: &'static str,
    /// Each table with the triggers that it would get.
    tables: Vec<(String, Vec<String>)>,
    /// What could surprise.
    notes: Vec<String>,
}

async fn captured(end: &End) -> Result<Captured> {
    let tables: Vec<_> = end.tables.iter().cloned().collect();
    let faults = end.database.capture_faults(&tables).await?;
    let logged = site::planned(&end.database, &end.tables.iter().cloned().collect::<Vec<_>>()).await?;
    let mut notes: Vec<String> =
        end.absent.iter().map(|table| format!("{table} is not there yet; it is captured once it is")).collect();
    let mut tables = Vec::with_capacity(logged.len());
    for (logged, log) in &logged {
        let table = &logged.table;
        if !table.triggers.is_empty() {
            notes.push(format!(
                "{}: what its own triggers change ({}) is captured and synced as well",
                table.name,
                table.triggers.join(", ")
            ));
        }
        notes.extend(table.foreign_keys.iter().filter(|key| cascades(key)).map(|key| {
            format!("{}: a change of {} changes or deletes its rows too, which then travels", table.name, key.parent)
        }));
        if end.merged.contains(&table.name) {
            notes.push(format!(
                "{}: who wrote each column last is kept beside each of its rows, also of those that stand there",
                table.name
            ));
        }
        tables.push((table.name.to_string(), log.triggers.clone()));
    }
    notes.extend(faults);
    if let Some(site) = site::open(&end.database).await? {
        for table in site::state(&site).await?.into_iter().filter(|table| !table.is_whole()) {
            let missing =
                format!("missing or switched off: {}; the next sync puts them back", table.missing.join(", "));
            notes.push(format!("{}: {}", table.table, table.fault.unwrap_or(missing)));
        }
    }
    Ok(Captured { database: end.name.clone(), by: "trigger", tables, notes })
}

fn cascades(key: &ForeignKey) -> bool {
    let acts = |action| !matches!(action, ForeignKeyAction::NoAction | ForeignKeyAction::Restrict);
    acts(key.on_delete) || acts(key.on_update)
}

fn print_capture(end: &Captured, output: &Output) {
    output.line(format!("  {}: capture by {}s", end.database, end.by));
    for (table, triggers) in &end.tables {
        output.line(format!("       {table}: a log, a table of versions, {} triggers", triggers.len()));
    }
    for note in &end.notes {
        output.line(format!("       note: {note}"));
    }
}

fn capture_document(end: &Captured) -> serde_json::Value {
    let table = |(table, triggers)| serde_json::json!({ "table": table, "triggers": triggers });
    serde_json::json!({ "database": end.database, "capture": end.by, "notes": end.notes,
        "tables": end.tables.iter().map(|(t, triggers)| table((t, triggers))).collect::<Vec<_>>() })
}
