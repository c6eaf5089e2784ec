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
use crate::engine::{Logged, Lookup, Object, Result, RowLock, Target, WriteMode, WriteOptions};
use crate::model::{Batch, Cell, Column, ColumnDef, TableName, text_digest};

/// What is kept of a table's form.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Form {
    /// The columns that the digests of its rows cover.
    pub(super) columns: Vec<FormColumn>,
    /// The key's columns.
    pub(super) key: Vec<FormColumn>,
    /// Columns that were dropped since it was first captured.
    #[serde(default)]
    pub(super) dropped: Vec<String>,
    /// A digest of what [`crate::engine::Database::objects`] says; none while it is doubted and not yet noted in the log.
    pub(super) object: Option<String>,
    /// When it was last made anew.
    #[serde(default)]
    pub(super) made: String,
}

/// A column of a form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormColumn {
    /// Its name.
    pub name: String,
    /// Its type, in the engine's own words.
    pub native: String,
}

impl FormColumn {
    fn of(column: &ColumnDef) -> Self {
        Self { name: column.name.clone(), native: column.native.clone() }
    }
}

/// A table that has other columns than those that the digests of its rows cover: they are to be made anew, and no row
/// counts as written for that. Then [`Site::keep_columns`] is to be told.
#[derive(Debug, Clone)]
pub struct Reformed {
    /// The table.
    pub table: TableName,
    /// The columns that they cover.
    pub before: Vec<FormColumn>,
}

impl Form {
    /// That of a table as it is.
    pub(super) fn of(logged: &Logged, object: &Object) -> Self {
        let table = &logged.table;
        let columns = table.columns.iter().filter(|column| !column.generated);
        Self {
            columns: columns.map(FormColumn::of).collect(),
            key: logged.key.columns.iter().map(|&at| FormColumn::of(&table.columns[at])).collect(),
            dropped: Vec::new(),
            object: Some(text_digest(&object.which)),
            made: object.made.clone(),
        }
    }

    /// What is to be kept of this form after that one: its columns only once the digests cover them.
    pub(super) fn after(self, kept: Option<&Self>) -> Self {
        let Some(kept) = kept.filter(|kept| !kept.columns.is_empty()) else { return self };
        let gone = kept.columns.iter().map(|column| &column.name).chain(&kept.dropped);
        let mut dropped: Vec<String> =
            gone.filter(|name| self.columns.iter().all(|c| c.name != **name)).cloned().collect();
        dropped.sort();
        dropped.dedup();
        Self { columns: kept.columns.clone(), dropped, ..self }
    }

    /// For each key column that is another now, and nothing more than that, its old name and its place in the key; `None`
    /// where the key is of other columns.
    pub(super) fn changed_key(&self, now: &Self) -> Option<Vec<(String, usize)>> {
        let has = |form: &Self, name: &String| form.columns.iter().any(|column| column.name == *name);
        let same = |(old, new): (&FormColumn, &FormColumn)| {
            old.name == new.name || (!has(now, &old.name) && !has(self, &new.name) && old.native == new.native)
        };
        let alike = self.key.len() == now.key.len() && self.key.iter().zip(&now.key).all(same);
        let changed = self.key.iter().zip(&now.key).enumerate().filter(|(_, (old, new))| old != new);
        alike.then(|| changed.map(|(at, (old, _))| (old.name.clone(), at)).collect())
    }

    /// Whether it is another table, or rows of it came or went with a part of it.
    pub(super) fn is_of_another(&self, now: &Self) -> bool {
        self.object != now.object && (self.object.is_none() || self.made == now.made)
    }
}

/// What is kept of the tables' forms, by number. What cannot be read says nothing.
async fn forms(target: &mut dyn Lookup, books: &Books) -> Result<HashMap<u32, Form>> {
    let found = target.scan(&books.forms, None, TABLES_MAX).await?;
    let form = |row| match (found.cell(row, 0), found.cell(row, 1)) {
        (Cell::Int(n), Cell::Bytes(text)) => Some((u32::try_from(n).ok()?, serde_json::from_slice(text).ok()?)),
        _ => None,
    };
    Ok((0..found.rows()).filter_map(form).collect())
}

/// As [`forms`], at a point of its own.
pub(super) async fn kept_forms(target: &mut dyn Target, books: &Books) -> Result<HashMap<u32, Form>> {
    target.begin(WriteOptions { point: true, ..WriteOptions::default() }).await?;
    let kept = forms(target, books).await;
    target.rollback().await?;
    kept
}

/// As [`keep_forms`], in a transaction of its own.
pub(super) async fn keep(target: &mut dyn Target, books: &Books, forms: &[(u32, Form)]) -> Result<()> {
    target.begin(WriteOptions::default()).await?;
    keep_forms(target, books, forms).await?;
    target.commit().await
}

/// Keeps forms, in the open transaction; when a table was last doubted stays.
async fn keep_forms(target: &mut dyn Target, books: &Books, forms: &[(u32, Form)]) -> Result<()> {
    let mut keys = Column::default();
    for (n, _) in forms {
        keys.push_int((*n).into());
    }
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

    /// Notes that the digests of a table's rows cover the columns that it has now.
    ///
    /// # Errors
    /// What the database says.
    pub async fn keep_columns(&self, target: &mut dyn Target, table: &TableName) -> Result<()> {
        let Some(book) = self.book(table) else { return Ok(()) };
        let kept = kept_forms(target, &self.books).await?;
        let Some(kept) = kept.get(&book.logged.n) else { return Ok(()) };
        let form = Form { columns: Form::of(&book.logged, &Object::default()).columns, ..kept.clone() };
        keep(target, &self.books, &[(book.logged.n, form)]).await
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
