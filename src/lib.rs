//! rowferry keeps SQLite, MySQL/MariaDB and PostgreSQL databases in step.
//!
//! The areas in reading order, which is the layer order: an area uses only areas above it.
//!
//! - [`model`]: the nouns: names, types, tables, batches
//! - [`engine`]: the only place that names a database product

pub mod engine;
pub mod model;
pub mod sample;
