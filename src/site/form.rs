//! The form in which a logged table was last found: by it a later look tells what was done to it meanwhile.
//!
//! Rows that were written while no trigger saw it are *doubted*: the table's log gets a line that says so, once its triggers
//! are in place again. The fold of that line compares all rows that have an entry with it; of the others only whoever reads
//! this site can say which it has otherwise.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::cursors::number;
use super::install::TABLES_MAX;
use super::{Books, Site};
use crate::engine::{Logged, Lookup, Result, RowLock, Target, WriteMode};
use crate::model::{Batch, Cell, Column, text_digest};

/// What is kept of a table's form.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Form {
    /// The columns that make a row's content.
    pub(super) columns: Vec<FormColumn>,
    /// Names of the key's columns.
    pub(super) key: Vec<String>,
    /// A digest of what [`crate::engine::Database::objects`] says; none while it is doubted and not yet noted in the log.
    pub(super) object: Option<String>,
}

/// A column of a form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FormColumn {
    pub(super) name: String,
    /// Its type, in the engine's own words.
    pub(super) native: String,
}

impl Form {
    /// That of a table as it is.
    pub(super) fn of(logged: &Logged, object: &str) -> Self {
        let table = &logged.table;
        let columns = table.columns.iter().filter(|column| !column.generated);
        Self {
            columns: columns.map(|c| FormColumn { name: c.name.clone(), native: c.native.clone() }).collect(),
            key: logged.key.columns.iter().map(|&at| table.columns[at].name.clone()).collect(),
            object: Some(text_digest(object)),
        }
    }

    /// Whether it is another table, or rows of it came or went with a part of it.
    pub(super) fn is_of_another(&self, now: &Self) -> bool {
        self.object != now.object
    }
}

/// What is kept of the tables' forms, by number. What cannot be read says nothing.
pub(super) async fn forms(target: &mut dyn Lookup, books: &Books) -> Result<HashMap<u32, Form>> {
    let found = target.scan(&books.forms, None, TABLES_MAX).await?;
    let form = |row| match (found.cell(row, 0), found.cell(row, 1)) {
        (Cell::Int(n), Cell::Bytes(text)) => Some((u32::try_from(n).ok()?, serde_json::from_slice(text).ok()?)),
        _ => None,
    };
    Ok((0..found.rows()).filter_map(form).collect())
}

/// Keeps forms, in the open transaction; when a table was last doubted stays.
pub(super) async fn keep_forms(target: &mut dyn Target, books: &Books, forms: &[(u32, Form)]) -> Result<()> {
    let mut keys = Column::default();
    forms.iter().for_each(|(n, _)| keys.push_int((*n).into()));
    let keys = Batch::new(Arc::new(books.forms.project(&[0])), vec![keys]);
    let found = target.lookup(&books.forms, &keys, RowLock::None).await?;
    let there: HashMap<i64, i64> = (0..found.rows())
        .filter_map(|row| match (found.cell(row, 0), found.cell(row, 2)) {
            (Cell::Int(n), Cell::Int(doubted)) => Some((n, doubted)),
            _ => None,
        })
        .collect();
    for mode in [WriteMode::Update, WriteMode::Insert] {
        let mut columns = vec![Column::default(); 3];
        for (n, form) in forms {
            let doubted = there.get(&i64::from(*n));
            if doubted.is_some() == (mode == WriteMode::Update) {
                columns[0].push_int((*n).into());
                columns[1].push_bytes(serde_json::to_string(form).unwrap_or_default().as_bytes());
                columns[2].push_int(doubted.copied().unwrap_or(0));
            }
        }
        if !columns[0].is_empty() {
            target.write(mode, &Batch::new(books.forms.clone(), columns)).await?;
        }
    }
    target.flush().await
}

impl Site {
    /// Notes that rows of a table were written unseen before this number was given out, in the transaction that gives it
    /// out.
    pub async fn set_doubted(&self, target: &mut dyn Target, table: u32, seq: i64) -> Result<()> {
        let key = Batch::new(Arc::new(self.books.forms.project(&[0])), vec![number(table.into())]);
        let Some(found) = self.one(target, &key).await? else { return Ok(()) };
        let mut columns = found.into_columns();
        columns[2] = number(seq);
        target.write(WriteMode::Update, &Batch::new(self.books.forms.clone(), columns)).await.map(drop)
    }

    /// The numbers under which tables were last doubted, by the tables' own numbers; without those that never were.
    pub async fn doubted(&self, target: &mut dyn Lookup) -> Result<HashMap<u32, i64>> {
        let part = Arc::new(self.books.forms.project(&[0, 2]));
        let found = target.scan(&part, Some((1, 0)), TABLES_MAX).await?;
        let doubted = |row| match (found.cell(row, 0), found.cell(row, 1)) {
            (Cell::Int(table), Cell::Int(seq)) => Some((u32::try_from(table).ok()?, seq)),
            _ => None,
        };
        Ok((0..found.rows()).filter_map(doubted).collect())
    }
}
