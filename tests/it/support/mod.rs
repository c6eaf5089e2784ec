//! What the tests share: a database of their own on each engine, and the real program.

mod database;
mod program;

pub use database::{Engine, TestDb};
pub use program::{Output, rowferry, rowferry_in};
