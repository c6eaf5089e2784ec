//! Writing: beside others, each row and value in its own hands until the end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;

use super::log::{Trigger, line};
use super::store::{Held, KeyValue, Row, Stored, Tables, missing, table};
use super::transaction::{Others, Store, Transaction, Turn, free, protocol};
use super::types::Statement;
use crate::engine::{Error, ErrorKind, Result, Target, WriteMode, WriteOptions, by_table, orphans_told};
use crate::model::{Batch, Cell, Column, ColumnDef, DefaultValue, Table, TableName, parse};

/// No statement waits for another transaction longer than this.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// A connection that writes.
pub(super) struct Writer {
    pub(super) store: Arc<Store>,
    /// The open transaction.
    transaction: Option<u64>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end();
    }
}

impl Writer {
    /// Opens one.
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self { store, transaction: None }
    }

    fn end(&mut self) {
        if let Some(number) = self.transaction.take() {
            self.store.state().end(number);
            self.store.ended.notify_waiters();
        }
    }

    fn commit_now(&mut self) {
        if let Some(number) = self.transaction.take() {
            self.store.state().commit(number);
            self.store.ended.notify_waiters();
        }
    }

    /// Does this in the transaction, as often as it takes until nobody is in its way.
    pub(super) async fn within<T>(
        &mut self,
        mut work: impl FnMut(&Others<'_>, &mut Transaction) -> Result<Turn<T>>,
    ) -> Result<T> {
        let number = self.transaction.ok_or_else(|| protocol("there is no transaction"))?;
        loop {
            let ended = self.store.ended.notified();
            match self.store.state().within(number, &mut work)? {
                Turn::Done(done) => return Ok(done),
                Turn::Wait(_) => {}
            }
            if tokio::time::timeout(WAIT_MAX, ended).await.is_err() {
                self.store.state().fail(number);
                return Err(Error::new(ErrorKind::Busy, "another transaction holds what this one needs"));
            }
        }
    }

    /// Does this in the transaction, or in one of its own where there is none.
    pub(super) async fn alone<T>(
        &mut self,
        work: impl FnMut(&Others<'_>, &mut Transaction) -> Result<Turn<T>> + Send,
    ) -> Result<T> {
        if self.transaction.is_some() {
            return self.within(work).await;
        }
        self.transaction = Some(self.store.state().begin(WriteOptions::default()));
        let done = self.within(work).await;
        match done {
            Ok(_) => self.commit_now(),
            Err(_) => self.end(),
        }
        done
    }
}

/// The tables that a statement changes.
fn tables_of(statement: &Statement) -> Vec<&TableName> {
    match statement {
        Statement::Create(made) => vec![&made.name],
        Statement::Drop(name) | Statement::Empty(name) | Statement::Doubt(name) => vec![name],
        Statement::Log { table, log, .. } => vec![table, &log.name],
        Statement::Unlog { table, log } => vec![table, log],
    }
}

/// Runs a statement with its tables in hand.
fn run(others: &Others<'_>, own: &mut Transaction, statement: &Statement, now: i64) -> Result<Turn<()>> {
    for name in tables_of(statement) {
        free!(others.of_table(name));
    }
    match statement {
        Statement::Create(made) => {
            if own.view(others.committed, &made.name).is_ok() {
                let message = format!("there is a table {} already", made.name);
                return Err(Error::new(ErrorKind::SchemaMismatch, message));
            }
            own.set(others.committed, &made.name, Some(Held::new(made.clone())?));
        }
        Statement::Drop(name) => {
            own.view(others.committed, name)?;
            own.set(others.committed, name, None);
        }
        Statement::Empty(name) => {
            let held = own.view(others.committed, name)?.emptied();
            let trigger = held.trigger.clone();
            own.set(others.committed, name, Some(held));
            if let Some(trigger) = trigger {
                note(others, own, &trigger, (None, b'X'), now)?;
            }
        }
        Statement::Doubt(name) => {
            if let Some(trigger) = own.view(others.committed, name)?.trigger.clone() {
                note(others, own, &trigger, (None, b'?'), now)?;
            }
        }
        Statement::Log { table: name, log, key } => {
            let mut held = (*own.view(others.committed, name)?).clone();
            let key = key.iter().map(|c| held.position(c)).collect::<Result<Vec<usize>>>()?;
            held.trigger = Some(Trigger { log: log.name.clone(), key });
            if own.view(others.committed, &log.name).is_err() {
                own.set(others.committed, &log.name, Some(Held::new(log.clone())?));
            }
            own.set(others.committed, name, Some(held));
        }
        Statement::Unlog { table: name, log } => {
            if let Ok(held) = own.view(others.committed, name) {
                let mut held = (*held).clone();
                held.trigger = None;
                own.set(others.committed, name, Some(held));
            }
            if own.view(others.committed, log).is_ok() {
                own.set(others.committed, log, None);
            }
        }
    }
    Ok(Turn::Done(()))
}

/// Gives a row another number, with what refers to it.
fn renumber(
    (others, own): (&Others<'_>, &mut Transaction),
    (name, column): (&TableName, &str),
    (from, to): (i64, i64),
    now: i64,
) -> Result<Turn<()>> {
    let mut columns = vec![(name.clone(), column.to_owned())];
    let (mut next, tables) = (0, own.tables(others.committed));
    while let Some((parent, of)) = columns.get(next).cloned() {
        for held in tables.values() {
            for key in held.table.foreign_keys.iter().filter(|key| key.parent == parent) {
                let refers = key.columns.iter().zip(&key.parent_columns).filter(|(_, parent)| **parent == of);
                let found: Vec<_> = refers.map(|(own, _)| (held.table.name.clone(), own.clone())).collect();
                columns.extend(found.into_iter().filter(|found| !columns.contains(found)).collect::<Vec<_>>());
            }
        }
        next += 1;
    }
    for (name, columns) in by_table(columns) {
        let held = own.view(others.committed, &name)?;
        let columns = columns.iter().map(|c| held.position(c)).collect::<Result<Vec<usize>>>()?;
        for (&number, row) in &held.rows {
            let old = row.clone();
            let mut changed = (*old).clone();
            for &at in columns.iter().filter(|&&at| old[at].cell() == Cell::Int(from)) {
                changed[at] = Stored::new(Cell::Int(to));
            }
            let moves = columns.iter().any(|&at| old[at].cell() == Cell::Int(from));
            if !moves {
                continue;
            }
            free!(others.of_row(&name, number));
            let new = Arc::new(changed);
            let (given, taken): (Vec<_>, Vec<_>) = (held.key_values(&old).collect(), held.key_values(&new).collect());
            let (mut moved, new_ones) = (without(&given, &taken), without(&taken, &given));
            free!(others.of_keys(&name, &new_ones));
            moved.extend(new_ones);
            own.part(others.committed, &name).write(number, Some(new.clone()), moved)?;
            if let Some(trigger) = &held.trigger {
                note(others, own, trigger, (Some(&old), b'D'), now)?;
                note(others, own, trigger, (Some(&new), b'U'), now)?;
            }
        }
    }
    Ok(Turn::Done(()))
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

fn without(these: &[(usize, KeyValue)], those: &[(usize, KeyValue)]) -> Vec<(usize, KeyValue)> {
    these.iter().filter(|key| !those.contains(key)).cloned().collect()
}

/// Writes the row of a batch, with what its table's trigger notes; how many rows it found.
fn write_row(
    (others, own): (&Others<'_>, &mut Transaction),
    mode: WriteMode,
    batch: &Batch,
    row: usize,
    now: i64,
) -> Result<Turn<u64>> {
    let name = &batch.table.name;
    let part = own.part(others.committed, name);
    let held = part.view.as_deref().ok_or_else(|| missing(name))?;
    let columns = written(held, &batch.table)?;
    let (operation, number, old, new) = if mode == WriteMode::Insert {
        (b'I', held.next_row(), None, Some(new_row(held, batch, &columns, row)?))
    } else {
        let Some(number) = held.find(&wanted(batch, &columns, row)) else { return Ok(Turn::Done(0)) };
        free!(others.of_row(name, number));
        let old = held.rows[&number].clone();
        let mut changed = (*old).clone();
        for &(at, column) in columns.iter().filter(|(at, _)| batch.cell(row, *at) != Cell::Absent) {
            changed[column] = Stored::new(batch.cell(row, at));
        }
        let new = (mode == WriteMode::Update).then(|| Arc::new(changed));
        (if new.is_some() { b'U' } else { b'D' }, number, Some(old), new)
    };
    let keys = |row: Option<&Row>| row.map(|row| held.key_values(row).collect::<Vec<_>>()).unwrap_or_default();
    let (given, taken) = (keys(old.as_ref()), keys(new.as_ref()));
    let (mut moved, new_ones) = (without(&given, &taken), without(&taken, &given));
    free!(others.of_keys(name, &new_ones));
    moved.extend(new_ones);
    let (trigger, noted) = (held.trigger.clone(), new.clone().or(old));
    part.write(number, new, moved)?;
    if let (Some(trigger), Some(noted)) = (trigger, noted) {
        note(others, own, &trigger, (Some(&noted), operation), now)?;
    }
    Ok(Turn::Done(1))
}

/// Notes what was done to a row, or to all of them.
fn note(
    others: &Others<'_>,
    own: &mut Transaction,
    trigger: &Trigger,
    (row, operation): (Option<&Row>, u8),
    now: i64,
) -> Result<()> {
    let labelled = own.options.labelled;
    let log = own.part(others.committed, &trigger.log);
    match log.view.clone() {
        Some(held) => log.write(held.next_row(), Some(line(&held, trigger, row, operation, now, labelled)), Vec::new()),
        None => Ok(()),
    }
}

fn new_row(held: &Held, batch: &Batch, columns: &[(usize, usize)], row: usize) -> Result<Row> {
    let mut values: Vec<Option<Stored>> = vec![None; held.table.columns.len()];
    for &(at, column) in columns {
        let cell = batch.cell(row, at);
        values[column] = (cell != Cell::Absent).then(|| Stored::new(cell));
    }
    let table = held.table.clone();
    let filled = values.into_iter().zip(&table.columns).map(|(value, column)| match value {
        Some(value) => Ok(value),
        None if column.identity.is_some() => {
            let mut number = Column::default();
            parse(&column.logical, &held.next_number().to_string(), &mut number)
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
        let count = held.rows.values().filter(is_orphan).count() as u64;
        if count > 0 {
            out.push(orphans_told(&held.table.name, count, &key.columns.join(", "), &key.parent));
        }
    }
    Ok(out)
}

fn verify(others: &Others<'_>, own: &mut Transaction, wanted: &[Arc<Table>]) -> Result<Vec<String>> {
    let tables = own.tables(others.committed);
    let mut out = Vec::new();
    for wanted in wanted {
        let held = table(&tables, &wanted.name)?;
        out.extend(orphans(&tables, held)?);
        if let Some(column) = held.table.columns.iter().position(|c| c.identity.is_some()) {
            held.number_above(column);
        }
    }
    Ok(out)
}

/// Whether a transaction may end so: what it wrote refers to nothing that is not there, and nothing refers to what it
/// took away.
fn sound(others: &Others<'_>, own: &mut Transaction) -> Result<()> {
    if own.options.defer_foreign_keys {
        return Ok(());
    }
    let tables = own.tables(others.committed);
    let touched = |held: &&Arc<Held>| {
        let parents = held.table.foreign_keys.iter().map(|key| &key.parent);
        parents.chain([&held.table.name]).any(|name| own.has_written(name))
    };
    for held in tables.values().filter(touched) {
        if let Some(orphan) = orphans(&tables, held)?.first() {
            return Err(Error::new(ErrorKind::Constraint, orphan.clone()));
        }
    }
    Ok(())
}

#[async_trait]
impl Target for Writer {
    async fn stamp(&mut self) -> Result<Option<String>> {
        Ok(Some(self.store.state().stamp().to_string()))
    }

    async fn begin(&mut self, options: WriteOptions) -> Result<()> {
        if self.transaction.is_some() {
            return Err(protocol("there is a transaction already"));
        }
        self.transaction = Some(self.store.state().begin(options));
        Ok(())
    }

    async fn write(&mut self, mode: WriteMode, batch: &Batch) -> Result<u64> {
        let now = self.store.now.load(Ordering::Relaxed);
        let (mut row, mut affected) = (0, 0);
        self.within(|others, own| {
            own.view(others.committed, &batch.table.name)?;
            if own.only_reads() {
                return Err(protocol("a transaction that only reads cannot write"));
            }
            if mode == WriteMode::Update && batch.table.row_key().is_none() {
                let message = format!("table {} has no key to find rows by", batch.table.name);
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
            while row < batch.rows() {
                match write_row((others, own), mode, batch, row, now)? {
                    Turn::Done(found) => affected += found,
                    Turn::Wait(holder) => return Ok(Turn::Wait(holder)),
                }
                row += 1;
            }
            Ok(Turn::Done(affected))
        })
        .await
    }

    async fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    async fn savepoint(&mut self) -> Result<()> {
        let number = self.transaction.ok_or_else(|| protocol("there is no transaction"))?;
        self.store.state().savepoint(number, true)
    }

    async fn rollback_to_savepoint(&mut self) -> Result<()> {
        let number = self.transaction.ok_or_else(|| protocol("there is no transaction"))?;
        self.store.state().savepoint(number, false)?;
        self.store.ended.notify_waiters();
        Ok(())
    }

    async fn renumber(&mut self, table: &Table, column: usize, from: i64, to: Option<i64>) -> Result<i64> {
        let now = self.store.now.load(Ordering::Relaxed);
        let (name, column) = (&table.name, &table.columns[column].name);
        self.within(|others, own| {
            let held = own.view(others.committed, name)?;
            held.number_above(held.position(column)?);
            let to = to.unwrap_or_else(|| held.next_number());
            free!(renumber((others, own), (name, column), (from, to), now).map(|turn| match turn {
                Turn::Done(()) => None,
                Turn::Wait(holder) => Some(holder),
            })?);
            held.number_past(to);
            Ok(Turn::Done(to))
        })
        .await
    }

    async fn commit(&mut self) -> Result<()> {
        self.within(|others, own| sound(others, own).map(Turn::Done)).await?;
        self.commit_now();
        Ok(())
    }

    async fn rollback(&mut self) -> Result<()> {
        self.end();
        Ok(())
    }

    async fn execute(&mut self, statement: &str) -> Result<()> {
        let statement = Statement::parse(statement)?;
        let now = self.store.now.load(Ordering::Relaxed);
        self.alone(|others, own| run(others, own, &statement, now)).await
    }

    async fn count_on(&mut self, _table: &Table, _last: i64) -> Result<()> {
        Ok(())
    }

    async fn verify(&mut self, tables: &[Arc<Table>]) -> Result<Vec<String>> {
        self.alone(|others, own| verify(others, own, tables).map(Turn::Done)).await
    }
}
