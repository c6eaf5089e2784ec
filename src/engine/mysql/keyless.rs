//! Deleting rows of a table without a key: one pass over the table for a batch, however many rows it has.

use super::super::{Error, ErrorKind, Result};
use super::codec::Form;
use super::connect::quote;
use super::source::{is_geometry, table_sql};
use super::target::{Sink, TEMPORARY, no_key, written};
use crate::model::{Batch, ColumnDef, LogicalType, Table};

/// How many of each row are to go, by the row's digest.
const GIVEN: &str = "`_rowferry_g`";
/// Copies beyond those, which stay.
const KEPT: &str = "`_rowferry_k`";

/// The text that two values have in common only when they are the same in every byte.
fn exact(column: &ColumnDef) -> String {
    let name = quote(&column.name);
    match &column.logical {
        // As text, FLOAT alone has six digits.
        LogicalType::Float { .. } => format!("{name} * 1e0"),
        LogicalType::Bits { .. } => format!("{name} + 0"),
        LogicalType::Binary { .. } if is_geometry(&column.native) => format!("HEX({name})"),
        LogicalType::Text { .. }
        | LogicalType::Binary { .. }
        | LogicalType::Enum { .. }
        | LogicalType::Set { .. }
        | LogicalType::Json { binary: false } => format!("CAST({name} AS BINARY)"),
        _ => format!("CAST({name} AS CHAR)"),
    }
}

/// The digest of a row: of the digests of its values, so that no text outgrows a packet.
fn digest(table: &Table, columns: &[(usize, Form)]) -> String {
    let one = |&(at, _): &(usize, Form)| {
        let column = &table.columns[at];
        format!("IF({} IS NULL, '-', SHA2({}, 256))", quote(&column.name), exact(column))
    };
    format!("UNHEX(SHA2(CONCAT({}), 256))", columns.iter().map(one).collect::<Vec<_>>().join(", "))
}

impl Sink {
    /// Deletes as many copies of each row as are given, equal in every written column and byte. No statement can
    /// name one of several equal rows: all of them go, and those that are to stay come back.
    pub(super) async fn delete_keyless(&mut self, batch: &Batch) -> Result<u64> {
        let table = batch.table.clone();
        let columns = written(&table);
        if columns.is_empty() || columns.iter().any(|&(at, _)| batch.columns()[at].has_absent()) {
            return Err(no_key(&table));
        }
        self.gather(batch, &columns).await?;
        let (name, digest) = (table_sql(&table.name), digest(&table, &columns));
        let list = columns.iter().map(|&(at, _)| quote(&table.columns[at].name)).collect::<Vec<_>>().join(", ");
        let found = format!("{name} t STRAIGHT_JOIN {GIVEN} g ON g._rowferry_digest = {digest}");
        let drop = format!("DROP TEMPORARY TABLE IF EXISTS {TEMPORARY}, {GIVEN}, {KEPT}");
        let count = format!(
            "CREATE TEMPORARY TABLE {GIVEN} (_rowferry_digest BINARY(32) NOT NULL PRIMARY KEY, \
             _rowferry_n BIGINT NOT NULL) ENGINE=InnoDB AS SELECT {digest} AS _rowferry_digest, \
             COUNT(*) AS _rowferry_n FROM {TEMPORARY} GROUP BY 1"
        );
        self.run(count.as_bytes(), &table).await?;
        let keep = format!("CREATE TEMPORARY TABLE {KEPT} ENGINE=InnoDB AS SELECT {list} FROM {name} LIMIT 0");
        self.run(keep.as_bytes(), &table).await?;
        let keep = format!(
            "INSERT INTO {KEPT} ({list}) SELECT {list} FROM (SELECT {list}, _rowferry_n, \
             ROW_NUMBER() OVER (PARTITION BY _rowferry_digest) AS _rowferry_i FROM {found}) f \
             WHERE _rowferry_i > _rowferry_n"
        );
        let kept = self.run(keep.as_bytes(), &table).await?;
        let gone = self.run(format!("DELETE t FROM {found}").as_bytes(), &table).await?;
        if kept > 0 {
            let back = format!("INSERT INTO {name} ({list}) SELECT {list} FROM {KEPT}");
            self.run(back.as_bytes(), &table).await?;
        }
        self.run(drop.as_bytes(), &table).await?;
        gone.checked_sub(kept).filter(|&deleted| deleted <= batch.rows() as u64).ok_or_else(|| {
            let message = format!("table {}: another session changed rows while they were deleted", table.name);
            Error::new(ErrorKind::Busy, message)
        })
    }
}
