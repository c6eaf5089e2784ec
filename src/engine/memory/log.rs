//! Change logs: what the other engines' triggers do, the writer does here itself.

use std::sync::Arc;

use super::store::{Held, Row, Stored};
use super::types::{Statement, map_column};
use crate::engine::{ChangeLog, Logged};
use crate::model::{Cell, ColumnDef, Identity, Key, LogicalType, Table, TableName};

const NUMBER: LogicalType = LogicalType::Int { bits: 64, unsigned: false };

/// The change logs of these tables.
pub(super) fn change_logs(tables: &[Logged]) -> Vec<ChangeLog> {
    tables.iter().map(change_log).collect()
}

fn change_log(logged: &Logged) -> ChangeLog {
    let text = LogicalType::Text { max: Some(1), fixed: false };
    let id =
        ColumnDef { nullable: false, identity: Some(Identity::ByDefault), ..ColumnDef::new("_rowferry_id", NUMBER) };
    let mut columns = vec![id];
    let key = logged.key.columns.iter().map(|&c| &logged.table.columns[c]);
    columns.extend(key.map(|c| ColumnDef { nullable: true, identity: None, default: None, ..c.clone() }));
    columns.extend([
        ColumnDef::new(ChangeLog::OPERATION, text),
        ColumnDef::new(ChangeLog::WALL, NUMBER),
        ColumnDef::new(ChangeLog::LABEL, NUMBER),
    ]);
    let columns = columns.iter().map(|column| map_column(column).column).collect();
    let mut table = Table::new(TableName::new(format!("_rowferry_log_{}", logged.n)), columns);
    table.primary_key = Some(Key { columns: vec![0] });
    let key = logged.key.columns.iter().map(|&c| logged.table.columns[c].name.clone()).collect();
    let logged = logged.table.name.clone();
    let install = Statement::Log { table: logged.clone(), log: table.clone(), key };
    let doubt = Statement::Doubt(logged.clone()).text();
    let remove = Statement::Unlog { table: logged, log: table.name.clone() };
    ChangeLog {
        triggers: vec![format!("{}_write", table.name)],
        table: Arc::new(table),
        install: vec![install.text()],
        unhook: Vec::new(),
        doubt,
        remove: vec![remove.text()],
    }
}

/// Where the writes to a table are noted.
#[derive(Debug, Clone)]
pub(super) struct Trigger {
    /// The log.
    pub(super) log: TableName,
    /// Positions of the key in the logged table.
    pub(super) key: Vec<usize>,
}

/// A line for one write of a row, or without a row for one of all rows.
pub(super) fn line(log: &Held, trigger: &Trigger, row: Option<&Row>, operation: u8, now: i64, labelled: bool) -> Row {
    let mut values = vec![Stored::new(Cell::Int(log.next_number()))];
    values.extend(trigger.key.iter().map(|&c| row.map_or(Stored::NULL, |row| row[c].clone())));
    values.push(Stored::new(Cell::Bytes(&[operation])));
    values.push(Stored::new(Cell::Int(now)));
    values.push(Stored::new(Cell::Int(labelled.into())));
    Arc::new(values)
}
