//! rowferry keeps SQLite, MySQL/MariaDB and PostgreSQL databases in step.
//!
//! The areas in reading order, which is the layer order: an area uses only areas above it.
//!
//! - [`model`]: the nouns: names, types, tables, batches; no I/O
//! - [`engine`]: the only place that names a database product
//! - [`capture`]: endpoint → batches
//! - [`compare`]: two sides of a table → the rows that differ
//! - [`apply`]: batches → endpoint
//! - [`pipeline`]: one source joined to one target; one path for everything
//! - [`diff`]: where two databases differ
//! - [`cli`]: one file per command

pub mod model;

pub mod config;
pub mod engine;

pub mod capture;

pub mod compare;

pub mod apply;

pub mod pipeline;

pub mod diff;

pub mod cli;
