//! `rowferry capture`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::args::{Args, CaptureCommand};
use super::ends::{self, End};
use super::output::Output;
use super::{Outcome, connect};
use crate::capture;
use crate::config::{Config, Mode};
use crate::engine::Result;
use crate::site::{self, Book, ReaderState, Site};

pub(crate) async fn run(args: &Args, command: &CaptureCommand, output: &Output) -> Result<Outcome> {
    let config = connect::configuration(args)?;
    match command {
        CaptureCommand::Install { syncs } => install(&config, syncs, output).await,
        CaptureCommand::Status { syncs } => status(&config, syncs, output).await,
        CaptureCommand::Remove { syncs } => remove(&config, syncs, output).await,
    }
}

async fn install(config: &Config, names: &[String], output: &Output) -> Result<Outcome> {
    let mut documents = Vec::new();
    for end in ends::ends(config, &ends::incremental(config, names)?).await? {
        let before: BTreeSet<String> = end.database.own_triggers().await?.into_iter().collect();
        let tables: Vec<_> = end.tables.iter().cloned().collect();
        let merged: Vec<_> = end.merged.iter().cloned().collect();
        let site = capture::install(&end.database, &tables, &merged).await.map_err(|e| e.context(database(&end)))?;
        head(&end, Some(&site), output);
        let wanted: Vec<&Book> = end.tables.iter().filter_map(|name| site.book(name)).map(AsRef::as_ref).collect();
        let rows: Vec<Value> = wanted.into_iter().map(|book| installed(book, &before, output)).collect();
        for table in &end.absent {
            output.line(format!("  {table}: not there yet; it is captured once it is"));
        }
        documents.push(json!({ "database": end.name, "url": end.database.label(), "site": identity(&site),
            "tables": rows, "absent": end.absent }));
    }
    output.document(&json!({ "databases": documents }));
    Ok(Outcome::Done)
}

/// Says what was done for one table.
fn installed(book: &Book, before: &BTreeSet<String>, output: &Output) -> Value {
    let triggers = &book.log.triggers;
    let (state, words) = match triggers.iter().filter(|name| before.contains(*name)).count() {
        0 => ("installed", "put in place"),
        n if n == triggers.len() => ("unchanged", "in place already"),
        _ => ("completed", "completed"),
    };
    let (name, n) = (&book.logged.table.name, book.logged.n);
    output.line(format!("  {name}: log {n} and {} triggers {words}", triggers.len()));
    json!({ "table": name.to_string(), "log": n, "triggers": triggers, "state": state })
}

async fn status(config: &Config, names: &[String], output: &Output) -> Result<Outcome> {
    let any = config.syncs.iter().any(|s| s.enabled && s.mode == Mode::Incremental);
    let mut all = Vec::new();
    if any || !names.is_empty() {
        all = ends::ends(config, &ends::incremental(config, names)?).await?;
    }
    if names.is_empty() {
        for name in config.databases.keys() {
            if all.iter().all(|end| end.name != *name) {
                all.push(ends::end(config, name).await?);
            }
        }
    }
    let (mut documents, mut complete) = (Vec::new(), true);
    for end in all {
        let (document, whole) = match site::open(&end.database).await {
            Ok(site) => {
                head(&end, site.as_ref(), output);
                end_status(&end, site.as_ref(), output).await?
            }
            Err(e) if e.is_transient() => return Err(e.context(database(&end))),
            // What is in place cannot be read: that is what is to be told.
            Err(e) => {
                output.line(format!("{} ({}): {e}", database(&end), end.database.label()));
                let url = end.database.label();
                (json!({ "database": end.name, "url": url, "error": e.message() }), false)
            }
        };
        documents.push(document);
        complete &= whole;
    }
    output.document(&json!({ "complete": complete, "databases": documents }));
    Ok(if complete { Outcome::Done } else { Outcome::Short })
}

/// What stands in one database, and whether it is all that should.
async fn end_status(end: &End, site: Option<&Site>, output: &Output) -> Result<(Value, bool)> {
    let (mut rows, mut objects, mut complete) = (Vec::new(), Vec::new(), true);
    if let Some(site) = site {
        for table in site::state(site).await? {
            let whole = table.is_whole();
            complete &= whole;
            let found = match &table.fault {
                Some(fault) => fault.clone(),
                None if whole => "complete".to_owned(),
                None => {
                    format!("missing or switched off: {}; run 'rowferry capture install'", table.missing.join(", "))
                }
            };
            output.line(format!("  {}: log {}, lines not taken up: {}, {found}", table.table, table.n, table.unfolded));
            let readers: Vec<Value> = table.readers.iter().map(|reader| read_by(reader, output)).collect();
            rows.push(json!({ "table": table.table.to_string(), "log": table.n, "complete": whole,
                "missing": table.missing, "unfolded": table.unfolded, "fault": table.fault, "readers": readers }));
        }
        objects = site::objects(site).await?;
        output.line(format!("  its own: {}", objects.join(", ")));
    }
    let captured = |name| site.is_some_and(|site| site.book(name).is_some());
    let uncaptured: Vec<String> = end.tables.iter().filter(|t| !captured(t)).map(ToString::to_string).collect();
    if !uncaptured.is_empty() {
        complete = false;
        output.line(format!("  not captured: {}; run 'rowferry capture install'", uncaptured.join(", ")));
    }
    for table in &end.absent {
        output.line(format!("  {table}: not there yet"));
    }
    let document = json!({ "database": end.name, "url": end.database.label(), "site": site.map(identity),
        "tables": rows, "uncaptured": uncaptured, "absent": end.absent, "objects": objects });
    Ok((document, complete))
}

/// Says how far another site has read a table.
fn read_by(reader: &ReaderState, output: &Output) -> Value {
    let heard = jiff::Timestamp::from_microsecond(reader.at).map_or_else(|_| "?".to_owned(), |at| at.to_string());
    let how = match (reader.given_up, reader.position) {
        (Some(at), _) => format!("given up at number {at}"),
        (None, Some(position)) => format!("up to number {position}"),
        (None, None) => "from an earlier state of this database, to be compared".to_owned(),
    };
    let site = format!("{:016x}", reader.site.id);
    output.line(format!("    read by site {site}: {how}, last heard of {heard}"));
    json!({ "site": site, "position": reader.position, "given_up": reader.given_up, "heard": heard })
}

async fn remove(config: &Config, names: &[String], output: &Output) -> Result<Outcome> {
    let mut databases: BTreeSet<&str> = config.databases.keys().map(String::as_str).collect();
    if !names.is_empty() {
        let named = ends::incremental(config, names)?;
        databases = named.iter().flat_map(|sync| ends::names(sync)).collect();
    }
    let mut documents = Vec::new();
    for name in databases {
        let end = ends::end(config, name).await?;
        let others = config.syncs.iter().filter(|s| {
            let wants = s.enabled && s.mode == Mode::Incremental && ends::names(s).any(|n| n == name);
            !names.is_empty() && !names.contains(&s.name) && wants
        });
        let kept: Vec<&str> = others.map(|s| s.name.as_str()).collect();
        let mut document = json!({ "database": name, "url": end.database.label(), "removed": [], "kept_for": kept });
        if kept.is_empty() {
            document["removed"] = taken_out(&end, output).await?;
        } else {
            output.line(format!("{}: left in place, because other syncs need it: {}", database(&end), kept.join(", ")));
        }
        documents.push(document);
    }
    output.document(&json!({ "databases": documents }));
    Ok(Outcome::Done)
}

/// Takes everything out of one database; the captured tables with what was noted of them and not taken up.
async fn taken_out(end: &End, output: &Output) -> Result<Value> {
    // Bookkeeping too damaged to be read is removed all the same.
    let states = match site::open(&end.database).await {
        Ok(Some(site)) => site::state(&site).await.unwrap_or_default(),
        _ => Vec::new(),
    };
    let tables = site::remove(&end.database).await.map_err(|e| e.context(database(end)))?;
    let mut rows = Vec::new();
    if tables.is_empty() {
        output.line(format!("{}: nothing of rowferry's is in it now", database(end)));
    } else {
        output.line(format!("{}: capture removed", database(end)));
    }
    for table in tables {
        let unfolded = states.iter().find(|s| s.table == table).map_or(0, |s| s.unfolded);
        let lost = match unfolded {
            0 => String::new(),
            n => format!("; lines of its log that no sync had taken up: {n}; the next first run compares all rows"),
        };
        output.line(format!("  {table}: log, versions and triggers removed{lost}"));
        rows.push(json!({ "table": table.to_string(), "unfolded": unfolded }));
    }
    Ok(rows.into())
}

fn head(end: &End, site: Option<&Site>, output: &Output) {
    let site = site.map_or("capture is not installed".to_owned(), |site| format!("site {}", identity(site)));
    output.line(format!("{} ({}): {site}", database(end), end.database.label()));
}

fn database(end: &End) -> String {
    format!("database '{}'", end.name)
}

fn identity(site: &Site) -> String {
    format!("{:016x}", site.id.id)
}
