//! The nouns: names, types, tables, batches, versions. No I/O, no async, no product's name.

mod batch;
mod canonical;
mod digest;
mod fit;
mod name;
mod table;
mod text;
mod types;
mod value;
mod version;
mod zone;

pub use batch::{Batch, BatchBuilder, BatchLimits, Cell, Column, Plain, VarBytes};
pub use canonical::{cell_order, decimal_parts};
pub use digest::{Digest, RangeDigest, cell_digests, equal_cells, row_digest, row_digests, text_digest};
pub use fit::{Misfit, convertible, fit};
pub use name::TableName;
pub use table::{
    ColumnDef, DefaultValue, Dialect, ForeignKey, ForeignKeyAction, Identity, Index, IndexColumn, Key, Table,
};
pub use text::{parse, render, render_float, shorten};
pub use types::LogicalType;
pub use value::{Value, padded, temporal};
pub use version::{BadVersion, Clock, Entry, Facet, Move, Site, Vector, Version};
pub use zone::{Shift, Zone, moment, tells_moments};
