//! rowferry keeps SQLite, MySQL/MariaDB and PostgreSQL databases in step.
//!
//! The areas in reading order, which is the layer order: an area uses only areas above it.
//!
//! - [`model`]: the nouns: names, types, tables, batches; no I/O
//! - [`config`]: the only reader of configuration and environment
//! - [`engine`]: the only place that names a database product
//! - [`capture`]: endpoint → batches
//! - [`compare`]: two sides of a table → the rows that differ
//! - [`apply`]: batches → endpoint
//! - [`pipeline`]: one source joined to one target; one path for everything
//! - [`diff`]: where two databases differ
//! - [`sample`]: a shop's tables and rows, for the demo and the tests
//! - [`cli`]: one file per command

pub mod apply;
pub mod capture;
pub mod cli;
pub mod compare;
pub mod config;
pub mod diff;
pub mod engine;
pub mod model;
pub mod pipeline;
pub mod sample;
