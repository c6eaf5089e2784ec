//! `rowferry copy` and `rowferry diff` beside the engines' own tools.

pub mod copies;
pub mod diffs;
pub mod memory;
