//! The nouns: names, types, tables, batches. No I/O, no async, no product's name.

mod batch;
mod canonical;
mod name;
mod table;
mod types;
mod value;

pub use batch::{Batch, BatchBuilder, BatchLimits, Cell, Column, VarBytes};
pub use canonical::{Digest, RangeDigest, cell_order, decimal_parts, row_digest};
pub use name::TableName;
pub use table::{ColumnDef, DefaultValue, ForeignKey, ForeignKeyAction, Identity, Index, IndexColumn, Key, Table};
pub use types::LogicalType;
pub use value::{Value, temporal};
