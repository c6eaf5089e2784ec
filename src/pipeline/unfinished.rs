//! What an unfinished copy has made: one small table in the target, written and read like any other.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::engine::{Database, Error, ErrorKind, ReadRequest, Result, Selection, Target, WriteMode, WriteOptions};
use crate::model::{Batch, BatchLimits, Cell, Column, ColumnDef, Key, LogicalType, Table, TableName};

/// The table's name.
const NOTES: &str = "_rowferry_copy";

/// The table as it stands here, if it does.
///
/// # Errors
/// `SchemaMismatch` where it is somebody else's.
async fn notes(target: &dyn Database) -> Result<Option<Table>> {
    let table = target.describe(&name()).await?;
    let text = |column: &ColumnDef| column.name == "name" && matches!(column.logical, LogicalType::Text { .. });
    if table.as_ref().is_some_and(|table| !matches!(table.columns.as_slice(), [column] if text(column))) {
        return Err(Error::new(
            ErrorKind::SchemaMismatch,
            format!(
                "{} has a table {NOTES} that this rowferry did not make, and keeps a table of its own under that name while \
                 it copies: give it another name, or drop it",
                target.label()
            ),
        ));
    }
    Ok(table)
}

/// The table's name.
pub(super) fn name() -> TableName {
    TableName::new(NOTES)
}

/// Tables that an unfinished copy has made here.
pub(super) async fn tables(target: &dyn Database) -> Result<BTreeSet<String>> {
    let Some(table) = notes(target).await? else { return Ok(BTreeSet::new()) };
    let request = ReadRequest {
        table: Arc::new(table),
        filter: None,
        rows: Selection::All,
        ordered: false,
        limits: BatchLimits { rows: 1000, bytes: 1 << 20 },
    };
    let snapshot = target.snapshot().await?;
    let mut source = snapshot.source().await?;
    let mut stream = source.read(&request).await?;
    let mut names = BTreeSet::new();
    while let Some(batch) = stream.next().await? {
        names.extend((0..batch.rows()).filter_map(|row| match batch.cell(row, 0) {
            Cell::Bytes(name) => std::str::from_utf8(name).map(str::to_owned).ok(),
            _ => None,
        }));
    }
    Ok(names)
}

/// The notes, made where they are missing.
pub(super) async fn begin(target: &dyn Database) -> Result<Arc<Table>> {
    if let Some(table) = notes(target).await? {
        return Ok(Arc::new(table));
    }
    // Every engine's longest names, schema and table, fit.
    let mut column = ColumnDef::new("name", LogicalType::Text { max: Some(600), fixed: false });
    column.nullable = false;
    let mut table = Table::new(name(), vec![column]);
    table.primary_key = Some(Key { columns: vec![0] });
    table.columns = vec![target.map_column(&table, &table.columns[0]).column];
    let ddl = target.ddl(&table);
    let mut writer = target.target().await?;
    for sql in ddl.create.iter().chain(&ddl.after_rows) {
        writer.execute(sql).await?;
    }
    Ok(Arc::new(table))
}

/// Notes tables that are about to be made, in the transaction that is open.
pub(super) async fn note<'a>(
    writer: &mut dyn Target,
    notes: &Arc<Table>,
    names: impl Iterator<Item = &'a TableName>,
) -> Result<()> {
    let mut column = Column::default();
    names.for_each(|name| column.push_bytes(name.to_string().as_bytes()));
    let batch = Batch::new(notes.clone(), vec![column]);
    // An earlier run may have noted them, and died before they were made.
    writer.write(WriteMode::Delete, &batch).await?;
    writer.write(WriteMode::Insert, &batch).await?;
    writer.flush().await
}

/// The notes of these tables go; with the last of all notes their table goes too.
pub(super) async fn end(target: &dyn Database, done: &BTreeSet<String>) -> Result<()> {
    let Some(table) = notes(target).await? else { return Ok(()) };
    let noted = tables(target).await?;
    let mut writer = target.target().await?;
    if noted.is_subset(done) {
        return writer.execute(&target.drop_ddl(&table.name)).await;
    }
    let mut column = Column::default();
    noted.intersection(done).for_each(|name| column.push_bytes(name.as_bytes()));
    writer.begin(WriteOptions::default()).await?;
    writer.write(WriteMode::Delete, &Batch::new(Arc::new(table), vec![column])).await?;
    writer.commit().await
}
