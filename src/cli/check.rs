//! `rowferry check`.

use super::args::Args;
use super::copy::{plan_document, print_tables};
use super::output::Output;
use super::{Outcome, connect, sync};
use crate::engine::{Error, Result};

pub(crate) async fn run(args: &Args, names: &[String], output: &Output) -> Result<Outcome> {
    let config = connect::configuration(args)?;
    let mut first: Option<Error> = None;
    let mut databases = Vec::new();
    for name in config.databases.keys() {
        match connect::named(&config, name, false).await {
            Ok(database) => {
                let tables = database.tables(None).await?.len();
                output.line(format!("{name}: {}, {}, {tables} tables", database.label(), database.version()));
                databases.push(serde_json::json!({ "database": name, "url": database.label(),
                    "version": database.version(), "tables": tables }));
            }
            Err(e) => {
                output.line(format!("{name}: {e}"));
                databases.push(serde_json::json!({ "database": name, "error": e.message() }));
                first.get_or_insert(e);
            }
        }
    }
    let mut syncs = Vec::new();
    if config.syncs.is_empty() {
        output.line("the config has no syncs yet");
    } else {
        for one in sync::chosen(&config, names)? {
            output.line(format!("\nsync {}:", one.name));
            match plan_of(&config, one).await {
                Ok(plan) => {
                    print_tables(&plan, output);
                    let tables: Vec<_> = plan.tables.iter().map(plan_document).collect();
                    syncs.push(serde_json::json!({ "sync": one.name, "tables": tables }));
                }
                Err(e) => {
                    output.line(format!("  {e}"));
                    syncs.push(serde_json::json!({ "sync": one.name, "error": e.message() }));
                    first.get_or_insert(e.context(format!("sync {}", one.name)));
                }
            }
        }
    }
    output.document(&serde_json::json!({ "databases": databases, "syncs": syncs }));
    first.map_or(Ok(Outcome::Done), Err)
}

async fn plan_of(config: &crate::config::Config, one: &crate::config::Sync) -> Result<crate::pipeline::Plan> {
    sync::supported(one)?;
    let (from, to) = sync::ends(config, one).await?;
    sync::sync_plan(one, from.as_ref(), to.as_ref(), false).await
}
