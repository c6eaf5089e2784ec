//! Writing: on a copy of the tables, which a commit makes the tables of all.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use tokio::sync::OwnedMutexGuard;

use super::log::{Trigger, line};
use super::store::{Held, Row, Store, Stored, Tables, table};
use super::types::Statement;
use crate::engine::{Error, ErrorKind, Result, Target, WriteMode, WriteOptions};
use crate::model::{Batch, Cell, Column, ColumnDef, DefaultValue, Table, TableName, parse};

/// A connection that writes.
pub(super) struct Writer {
    pub(super) store: Arc<Store>,
    transaction: Option<Transaction>,
}

pub(super) struct Transaction {
    pub(super) tables: Tables,
    /// The tables as they were when it began.
    before: Arc<Tables>,
    savepoint: Option<Tables>,
    /// Nothing more is taken until it is rolled back.
    failed: bool,
    options: WriteOptions,
    _turn: OwnedMutexGuard<()>,
}

impl Transaction {
    /// Whether this table or one that it refers to was written.
    fn touches(&self, held: &Held) -> bool {
        let written = |name: &TableName| match (self.before.get(name), self.tables.get(name)) {
            (Some(before), Some(now)) => !Arc::ptr_eq(before, now),
            (before, now) => before.is_some() || now.is_some(),
        };
        written(&held.table.name) || held.table.foreign_keys.iter().any(|key| written(&key.parent))
    }
}

fn protocol(message: &str) -> Error {
    Error::new(ErrorKind::Protocol, message)
}

impl Writer {
    /// Opens one.
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self { store, transaction: None }
    }

    /// The transaction, which must stand.
    fn open(&mut self) -> Result<&mut Transaction> {
        match &mut self.transaction {
            None => Err(protocol("there is no transaction")),
            Some(t) if t.failed => Err(protocol("the transaction has failed and can only be rolled back")),
            Some(t) => Ok(t),
        }
    }

    /// Does this in the transaction, which fails with it.
    pub(super) fn within<T>(&mut self, work: impl FnOnce(&mut Transaction) -> Result<T>) -> Result<T> {
        let transaction = self.open()?;
        let result = work(transaction);
        transaction.failed = result.is_err();
        result
    }
}

fn run(tables: &mut Tables, statement: Statement) -> Result<()> {
    match statement {
        Statement::Create(made) => {
            if tables.contains_key(&made.name) {
                let message = format!("there is a table {} already", made.name);
                return Err(Error::new(ErrorKind::SchemaMismatch, message));
            }
            tables.insert(made.name.clone(), Arc::new(Held::new(made)?));
        }
        Statement::Drop(name) => {
            table(tables, &name)?;
            tables.remove(&name);
        }
        Statement::Log { table: name, log, key } => {
            let key = key.iter().map(|c| table(tables, &name)?.position(c)).collect::<Result<Vec<usize>>>()?;
            if let Some(held) = tables.get_mut(&name) {
                Arc::make_mut(held).trigger = Some(Trigger { log: log.name.clone(), key });
            }
            if !tables.contains_key(&log.name) {
                tables.insert(log.name.clone(), Arc::new(Held::new(log)?));
            }
        }
        Statement::Unlog { table: name, log } => {
            if let Some(held) = tables.get_mut(&name) {
                Arc::make_mut(held).trigger = None;
            }
            tables.remove(&log);
        }
    }
    Ok(())
}

/// A batch's columns that are written, as (position in the batch, position in the table).
fn written(held: &Held, batch: &Table) -> Result<Vec<(usize, usize)>> {
    let columns = batch.columns.iter().enumerate().filter(|(_, c)| !c.generated);
    columns.map(|(at, c)| Ok((at, held.position(&c.name)?))).collect()
}

/// The values by which the rows of a batch are found.
fn wanted(batch: &Batch, columns: &[(usize, usize)], row: usize) -> Vec<(usize, Stored)> {
    let key = batch.table.row_key();
    let given = |at: usize| match &key {
        Some(key) => key.columns.contains(&at),
        None => batch.cell(row, at) != Cell::Absent,
    };
    // In the key's own order, which is that of the index.
    let rank = |at: usize| key.as_ref().and_then(|k| k.columns.iter().position(|&c| c == at)).unwrap_or(at);
    let mut out: Vec<(usize, usize)> = columns.iter().copied().filter(|(at, _)| given(*at)).collect();
    out.sort_by_key(|(at, _)| rank(*at));
    out.into_iter().map(|(at, column)| (column, Stored::new(batch.cell(row, at)))).collect()
}

/// Writes, and notes each row with what was done to it.
fn write(held: &mut Held, mode: WriteMode, batch: &Batch, noted: &mut Vec<(u8, Row)>) -> Result<u64> {
    let columns = written(held, &batch.table)?;
    if mode == WriteMode::Update && batch.table.row_key().is_none() {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("table {} has no key to find rows by", batch.table.name),
        ));
    }
    let mut affected = 0;
    for row in 0..batch.rows() {
        if mode == WriteMode::Insert {
            let new = new_row(held, batch, &columns, row)?;
            held.insert(new.clone())?;
            noted.push((b'I', new));
            affected += 1;
            continue;
        }
        let Some(number) = held.find(&wanted(batch, &columns, row)) else { continue };
        affected += 1;
        if mode == WriteMode::Delete {
            noted.push((b'D', held.rows[&number].clone()));
            held.remove(number);
            continue;
        }
        let mut changed = (*held.rows[&number]).clone();
        for &(at, column) in columns.iter().filter(|(at, _)| batch.cell(row, *at) != Cell::Absent) {
            changed[column] = Stored::new(batch.cell(row, at));
        }
        let changed = Arc::new(changed);
        held.replace(number, changed.clone())?;
        noted.push((b'U', changed));
    }
    Ok(affected)
}

fn new_row(held: &mut Held, batch: &Batch, columns: &[(usize, usize)], row: usize) -> Result<Row> {
    let mut values: Vec<Option<Stored>> = vec![None; held.table.columns.len()];
    for &(at, column) in columns {
        let cell = batch.cell(row, at);
        values[column] = (cell != Cell::Absent).then(|| Stored::new(cell));
    }
    let table = held.table.clone();
    let filled = values.into_iter().zip(&table.columns).map(|(value, column)| match value {
        Some(value) => Ok(value),
        None if column.identity.is_some() => {
            held.numbered += 1;
            let mut number = Column::default();
            parse(&column.logical, &held.numbered.to_string(), &mut number)
                .map_err(|why| Error::new(ErrorKind::BadData, format!("{}.{}: {why}", table.name, column.name)))?;
            Ok(Stored::new(number.cell(0)))
        }
        None => default_of(column),
    });
    Ok(Arc::new(filled.collect::<Result<Vec<Stored>>>()?))
}

fn default_of(column: &ColumnDef) -> Result<Stored> {
    let Some(DefaultValue::Literal(text)) = &column.default else { return Ok(Stored::NULL) };
    let mut value = Column::default();
    parse(&column.logical, text, &mut value).map_err(|why| Error::new(ErrorKind::BadData, why))?;
    Ok(Stored::new(value.cell(0)))
}

/// One sentence for each reference of the table that has orphans.
fn orphans(tables: &Tables, held: &Held) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for key in &held.table.foreign_keys {
        let columns = key.columns.iter().map(|c| held.position(c)).collect::<Result<Vec<usize>>>()?;
        let parent = tables.get(&key.parent);
        let there = match parent {
            Some(parent) => key.parent_columns.iter().map(|c| parent.position(c)).collect::<Result<Vec<usize>>>()?,
            None => Vec::new(),
        };
        let is_orphan = |row: &&Row| {
            let wanted = || there.iter().zip(&columns).map(|(&p, &c)| (p, row[c].clone())).collect::<Vec<_>>();
            columns.iter().all(|&c| row[c].cell() != Cell::Null) && parent.is_none_or(|p| p.find(&wanted()).is_none())
        };
        let count = held.rows.values().filter(is_orphan).count();
        if count > 0 {
            out.push(format!(
                "table {}: {count} {} in {} that {} not there (columns {})",
                held.table.name,
                if count == 1 { "row refers to a row" } else { "rows refer to rows" },
                key.parent,
                if count == 1 { "is" } else { "are" },
                key.columns.join(", ")
            ));
        }
    }
    Ok(out)
}

fn verify(tables: &mut Tables, wanted: &[Arc<Table>]) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for wanted in wanted {
        let held = table(tables, &wanted.name)?.clone();
        out.extend(orphans(tables, &held)?);
        let numbered = held.table.columns.iter().position(|c| c.identity.is_some()).map(|c| held.highest(c));
        if let Some(highest) = numbered.filter(|highest| *highest > held.numbered)
            && let Some(held) = tables.get_mut(&wanted.name)
        {
            Arc::make_mut(held).numbered = highest;
        }
    }
    Ok(out)
}

#[async_trait]
impl Target for Writer {
    async fn begin(&mut self, options: WriteOptions) -> Result<()> {
        if self.transaction.is_some() {
            return Err(protocol("there is a transaction already"));
        }
        let turn = self.store.turn.clone().lock_owned().await;
        let before = self.store.committed();
        let tables = (*before).clone();
        self.transaction = Some(Transaction { tables, before, savepoint: None, failed: false, options, _turn: turn });
        Ok(())
    }

    async fn write(&mut self, mode: WriteMode, batch: &Batch) -> Result<u64> {
        let now = self.store.now.load(Ordering::Relaxed);
        self.within(|t| {
            table(&t.tables, &batch.table.name)?;
            let Some(held) = t.tables.get_mut(&batch.table.name) else { return Ok(0) };
            let mut noted = Vec::new();
            let affected = write(Arc::make_mut(held), mode, batch, &mut noted)?;
            if let Some(trigger) = held.trigger.clone()
                && let Some(log) = t.tables.get_mut(&trigger.log)
            {
                let log = Arc::make_mut(log);
                for (operation, row) in noted {
                    log.insert(line(log, &trigger, &row, operation, now, t.options.labelled)?)?;
                    log.numbered += 1;
                }
            }
            Ok(affected)
        })
    }

    async fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    async fn savepoint(&mut self) -> Result<()> {
        self.within(|t| {
            t.savepoint = Some(t.tables.clone());
            Ok(())
        })
    }

    async fn rollback_to_savepoint(&mut self) -> Result<()> {
        let set = self.transaction.as_mut().and_then(|t| t.savepoint.clone().map(|tables| (t, tables)));
        let (transaction, tables) = set.ok_or_else(|| protocol("no savepoint is set"))?;
        transaction.tables = tables;
        transaction.failed = false;
        Ok(())
    }

    async fn commit(&mut self) -> Result<()> {
        self.within(|t| {
            if t.options.defer_foreign_keys {
                return Ok(());
            }
            for held in t.tables.values().filter(|held| t.touches(held)) {
                if let Some(orphan) = orphans(&t.tables, held)?.first() {
                    return Err(Error::new(ErrorKind::Constraint, orphan.clone()));
                }
            }
            Ok(())
        })?;
        if let Some(transaction) = self.transaction.take() {
            self.store.commit(transaction.tables);
        }
        Ok(())
    }

    async fn rollback(&mut self) -> Result<()> {
        self.transaction = None;
        Ok(())
    }

    async fn execute(&mut self, statement: &str) -> Result<()> {
        let statement = Statement::parse(statement)?;
        if self.transaction.is_some() {
            return self.within(|t| run(&mut t.tables, statement));
        }
        let _turn = self.store.turn.lock().await;
        let mut tables = (*self.store.committed()).clone();
        run(&mut tables, statement)?;
        self.store.commit(tables);
        Ok(())
    }

    async fn verify(&mut self, tables: &[Arc<Table>]) -> Result<Vec<String>> {
        if self.transaction.is_some() {
            return self.within(|t| verify(&mut t.tables, tables));
        }
        let _turn = self.store.turn.lock().await;
        let mut all = (*self.store.committed()).clone();
        let found = verify(&mut all, tables)?;
        self.store.commit(all);
        Ok(found)
    }
}
