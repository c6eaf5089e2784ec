//! rowferry keeps SQLite, MySQL/MariaDB and PostgreSQL databases in step.
//!
//! The areas in reading order, which is the layer order: an area uses only areas above it.
//!
//! - [`runtime`]: waiting times, chance and failpoints; knows nothing of databases
//! - [`model`]: the nouns: names, types, tables, batches, versions; no I/O
//! - [`conflict`]: what becomes of a row that was written at several sites; pure
//! - [`config`]: the only reader of configuration and environment
//! - [`engine`]: the only place that names a database product
//! - [`site`]: a database that takes part in syncs: who it is, what it knows of its rows
//! - [`state`]: what a node keeps for itself: keys, how its syncs stand
//! - [`capture`]: endpoint → batches
//! - [`compare`]: two sides of a table → the rows that differ
//! - [`apply`]: batches → endpoint
//! - [`endpoint`]: what a sync asks of the end that sends and of the end that receives
//! - [`pipeline`]: one source joined to one target; one path for everything
//! - [`diff`]: where two databases differ
//! - [`peer`]: nodes among each other, and a peer's database as an end of a sync
//! - [`jobs`]: a node at work: syncs that run by themselves
//! - [`http`]: a node to the outside: the whole API
//! - [`sample`]: a shop's tables and rows, for the demo and the tests
//! - [`cli`]: one file per command

pub mod apply;
pub mod capture;
pub mod cli;
pub mod compare;
pub mod config;
pub mod conflict;
pub mod diff;
pub mod endpoint;
pub mod engine;
pub mod http;
pub mod jobs;
pub mod model;
pub mod peer;
pub mod pipeline;
pub mod runtime;
pub mod sample;
pub mod site;
pub mod state;
