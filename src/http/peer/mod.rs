//! What other nodes ask: who is there, what a sync needs before it runs, and the calls of an end that sends or receives.
//!
//! Nothing that a peer says becomes SQL: tables and columns are looked up in the catalogue, types are taken from there,
//! and a condition is taken only where the key has it (or is an admin's).

mod comparing;
mod prepare;
mod rewriting;
mod route;
mod sessions;
mod worker;

use hyper::StatusCode;

use super::answer::{Answer, Problem, Reply};
use super::auth::Access;
use super::router::Call;
use super::rows::the_database;
use crate::engine::{Database, Result};
use crate::model::{TableName, text_digest};
use crate::peer::{Damaged, Hello, MIME, PROTOCOL, Reader, Welcome, Writer};
use crate::site;

pub(super) use comparing::compare;
pub(super) use prepare::prepare;
pub(super) use rewriting::rewrite;
pub(super) use sessions::{Sessions, receive, send, snapshot};

/// Tables whose form is told in a greeting.
const TOLD_MAX: usize = 500;

fn damaged(_: Damaged) -> Problem {
    Problem::malformed("this is no whole body of a rowferry node of this version")
}

/// An answer of ours.
fn answer(body: Vec<u8>) -> Answer {
    Answer::whole(StatusCode::OK, MIME, body)
}

/// Why a peer may not do this.
fn forbidden(what: impl Into<String>) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, what)
}

/// Greets.
pub(super) async fn handshake(call: Call) -> Reply {
    let reader = Reader::new(&call.body).map_err(damaged)?;
    let hello: Hello = reader.head().map_err(damaged)?;
    if hello.protocol != PROTOCOL {
        return Err(Problem::refused(format!(
            "this node speaks version {PROTOCOL} of the protocol, and {} version {}; bring both to one version",
            hello.node, hello.protocol
        )));
    }
    let access = call.access()?;
    let name = the_database(&call.config, access, hello.database.as_deref())?;
    let database = call.node.databases.get(&call.config, &name).await?;
    let site = site::open(&database).await?.map(|site| (site.id.id, site.id.epoch));
    let welcome = Welcome {
        protocol: PROTOCOL,
        node: call.config.node.clone(),
        product: database.abilities().product.to_owned(),
        tables: told(database.as_ref(), access, &name).await?,
        database: name,
        site,
        now: jiff::Timestamp::now().as_microsecond(),
        instance: call.sessions.instance,
        compares: true,
        rewrites: true,
    };
    Ok(answer(Writer::new(reader.nonce, &welcome).finish()))
}

/// The tables that a key opens, the first of them with a digest of their form.
async fn told(database: &dyn Database, access: &Access, name: &str) -> Result<Vec<(String, String)>> {
    let mut told = Vec::new();
    for (at, table) in opened(database, access, name).await?.into_iter().enumerate() {
        let described = if at < TOLD_MAX { database.describe(&table).await? } else { None };
        let form = described.map(|described| text_digest(&serde_json::to_string(&described).unwrap_or_default()));
        told.push((table.to_string(), form.unwrap_or_default()));
    }
    Ok(told)
}

/// The tables of a database that a key opens.
async fn opened(database: &dyn Database, access: &Access, name: &str) -> Result<Vec<TableName>> {
    let all = database.tables(None).await?;
    Ok(all.into_iter().filter(|table| access.grant(name, &table.to_string()).is_some()).collect())
}

/// Whether a key opens a table, which then has no name of ours.
fn must_open(access: &Access, database: &str, table: &TableName) -> std::result::Result<crate::state::Grant, Problem> {
    let grant = access.grant(database, &table.to_string()).filter(|_| !table.name.starts_with("_rowferry_"));
    grant.ok_or_else(|| forbidden(format!("key '{}' does not open the table {table} of '{database}'", access.name)))
}

/// Whether rows of a table may be sent under a condition: under that of the key, or under any for an admin.
fn must_hold(
    access: &Access,
    database: &str,
    table: &TableName,
    condition: Option<&str>,
) -> std::result::Result<(), Problem> {
    let grant = must_open(access, database, table)?;
    if access.is_admin() || grant.filter.as_deref() == condition {
        return Ok(());
    }
    Err(forbidden(match &grant.filter {
        Some(_) => format!("key '{}' opens only rows of {table} that meet its own condition", access.name),
        None => format!(
            "a condition on rows of {table} that are sent from here has to stand in key '{}' (where), word for word: \
             no other node's SQL is run here",
            access.name
        ),
    }))
}
