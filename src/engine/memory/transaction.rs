//! Transactions that stand beside each other: what each has written and locked, and who waits for whom.
//!
//! READ COMMITTED, as the servers have it. A statement sees what is committed when it begins and what its own
//! transaction has written. A row that was written or locked, and a value of a unique key that was given or taken away,
//! is held until the transaction ends; whoever needs it waits, and sees the row anew then. Whoever would wait for
//! someone who waits for him is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::store::{Held, KeyValue, Row, Tables, table};
use crate::engine::{Error, ErrorKind, Result, WriteOptions};
use crate::model::TableName;

/// What the clones of a database share.
#[derive(Default)]
pub(super) struct Store {
    state: Mutex<State>,
    /// What the database's clock shows, in microseconds since 1970.
    pub(super) now: AtomicI64,
    /// Told whenever a transaction ends.
    pub(super) ended: Notify,
}

/// Tables and open transactions.
#[derive(Default)]
pub(super) struct State {
    committed: Arc<Tables>,
    open: BTreeMap<u64, Transaction>,
    begun: u64,
    /// How often what is committed was replaced.
    replaced: u64,
}

impl Store {
    /// The tables as last committed.
    pub(super) fn committed(&self) -> Arc<Tables> {
        self.state().committed.clone()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a statement went on, or has to wait for a transaction.
pub(super) enum Turn<T> {
    Done(T),
    Wait(u64),
}

/// Goes on to the caller with the transaction that has to be waited for.
macro_rules! free {
    ($holder:expr) => {
        if let Some(holder) = $holder {
            return Ok(Turn::Wait(holder));
        }
    };
}
pub(super) use free;

impl State {
    /// Opens a transaction; its number.
    pub(super) fn begin(&mut self, options: WriteOptions) -> u64 {
        self.begun += 1;
        let point = options.point.then(|| self.committed.clone());
        self.open.insert(self.begun, Transaction { options, point, ..Transaction::default() });
        self.begun
    }

    /// Another number whenever something was committed.
    pub(super) fn stamp(&self) -> u64 {
        self.replaced
    }

    /// Ends a transaction without keeping anything of it.
    pub(super) fn end(&mut self, number: u64) {
        self.open.remove(&number);
    }

    /// Makes what a transaction sees what all see, and ends it.
    pub(super) fn commit(&mut self, number: u64) {
        if let Some(mut transaction) = self.open.remove(&number) {
            self.committed = Arc::new(transaction.tables(&self.committed));
            self.replaced += 1;
        }
    }

    /// Puts other tables in place of all; open transactions are gone.
    pub(super) fn restore(&mut self, tables: Arc<Tables>) {
        self.committed = tables;
        self.replaced += 1;
        self.open.clear();
    }

    /// Does a part of a statement in a transaction; one that is refused can only be rolled back.
    pub(super) fn within<T>(
        &mut self,
        number: u64,
        work: impl FnOnce(&Others<'_>, &mut Transaction) -> Result<Turn<T>>,
    ) -> Result<Turn<T>> {
        let Some(mut own) = self.open.remove(&number) else { return Err(protocol("the transaction is gone")) };
        own.waits_for = None;
        let others = Others { committed: &self.committed, open: &self.open };
        let result = if own.failed {
            Err(protocol("the transaction has failed and can only be rolled back"))
        } else {
            work(&others, &mut own)
        };
        let result = match result {
            Ok(Turn::Wait(holder)) if others.waits(holder, number) => Err(Error::new(
                ErrorKind::Busy,
                "two transactions wait for each other; this one was ended so that the other can go on",
            )),
            Ok(Turn::Wait(holder)) => {
                own.waits_for = Some(holder);
                Ok(Turn::Wait(holder))
            }
            other => other,
        };
        own.failed |= result.is_err();
        self.open.insert(number, own);
        result
    }

    /// The transaction waits no longer: it is refused.
    pub(super) fn fail(&mut self, number: u64) {
        if let Some(own) = self.open.get_mut(&number) {
            (own.failed, own.waits_for) = (true, None);
        }
    }

    /// Sets the savepoint, or takes everything back to it.
    pub(super) fn savepoint(&mut self, number: u64, set: bool) -> Result<()> {
        let own = self.open.get_mut(&number).filter(|own| !(set && own.failed));
        let own = own.ok_or_else(|| protocol("there is no transaction to set a savepoint in"))?;
        if set {
            own.savepoint = Some(own.parts.clone());
        } else {
            own.parts = own.savepoint.clone().ok_or_else(|| protocol("no savepoint is set"))?;
            own.failed = false;
        }
        Ok(())
    }
}

pub(super) fn protocol(message: &str) -> Error {
    Error::new(ErrorKind::Protocol, message)
}

/// What a transaction finds: the tables as committed, and whoever else is at work.
pub(super) struct Others<'a> {
    pub(super) committed: &'a Arc<Tables>,
    open: &'a BTreeMap<u64, Transaction>,
}

impl Others<'_> {
    /// Whoever holds something of a table for which this holds.
    fn holder(&self, name: &TableName, holds: impl Fn(&Part) -> bool) -> Option<u64> {
        let holds = |own: &Transaction| own.parts.get(name).is_some_and(&holds);
        self.open.iter().find(|(_, own)| holds(own)).map(|(number, _)| *number)
    }

    /// Whoever holds a row.
    pub(super) fn of_row(&self, name: &TableName, row: u64) -> Option<u64> {
        self.holder(name, |part| part.shut || part.rows.contains(&row))
    }

    /// Whoever gave away or took one of these values.
    pub(super) fn of_keys(&self, name: &TableName, keys: &[(usize, KeyValue)]) -> Option<u64> {
        self.holder(name, |part| part.shut || keys.iter().any(|key| part.keys.contains(key)))
    }

    /// Whoever is at work in the table at all.
    pub(super) fn of_table(&self, name: &TableName) -> Option<u64> {
        self.holder(name, |part| part.shut || !part.rows.is_empty())
    }

    /// Whether this transaction waits for that one, directly or over others.
    fn waits(&self, mut number: u64, wanted: u64) -> bool {
        while number != wanted {
            match self.open.get(&number).and_then(|own| own.waits_for) {
                Some(next) => number = next,
                None => return false,
            }
        }
        true
    }
}

/// A transaction that is open.
#[derive(Default)]
pub(super) struct Transaction {
    pub(super) options: WriteOptions,
    /// What it reads, if only that.
    point: Option<Arc<Tables>>,
    parts: BTreeMap<TableName, Part>,
    savepoint: Option<BTreeMap<TableName, Part>>,
    /// Nothing more is taken until it is rolled back.
    failed: bool,
    waits_for: Option<u64>,
}

/// What a transaction has of one table.
#[derive(Clone, Default)]
pub(super) struct Part {
    /// What was committed when it last looked; `None`: there was no such table.
    base: Option<Arc<Held>>,
    /// That with its own writes; `None`: it dropped the table.
    pub(super) view: Option<Arc<Held>>,
    /// What became of each row that it wrote.
    written: BTreeMap<u64, Option<Row>>,
    /// Rows that it holds.
    rows: BTreeSet<u64>,
    /// Values of unique keys that it holds.
    keys: BTreeSet<(usize, KeyValue)>,
    /// Whether it holds the whole table.
    shut: bool,
}

impl Part {
    /// Looks again at what others have committed.
    fn look(&mut self, committed: Option<&Arc<Held>>) {
        let same = match (&self.base, committed) {
            (Some(base), Some(now)) => Arc::ptr_eq(base, now),
            (base, now) => base.is_none() && now.is_none(),
        };
        // Of a table that it holds as a whole nobody else has committed anything.
        if same || self.shut {
            return;
        }
        self.base = committed.cloned();
        self.view = committed.cloned();
        if let Some(view) = self.view.as_mut().filter(|_| !self.written.is_empty()) {
            let view = Arc::make_mut(view);
            for number in self.written.keys() {
                view.remove(*number);
            }
            for (number, row) in &self.written {
                if let Some(row) = row {
                    view.place(*number, row.clone());
                }
            }
        }
    }

    /// Puts a row under a number, or takes it out; it and what it has in unique keys are held from now on.
    pub(super) fn write(&mut self, number: u64, row: Option<Row>, keys: Vec<(usize, KeyValue)>) -> Result<()> {
        let Some(view) = &mut self.view else { return Ok(()) };
        let view = Arc::make_mut(view);
        match &row {
            Some(row) => view.put(number, row.clone())?,
            None => view.remove(number),
        }
        self.written.insert(number, row);
        self.rows.insert(number);
        self.keys.extend(keys);
        Ok(())
    }

    /// Holds rows.
    pub(super) fn hold(&mut self, numbers: &[u64]) {
        self.rows.extend(numbers);
    }
}

impl Transaction {
    /// What it has of a table, seen anew.
    pub(super) fn part(&mut self, committed: &Tables, name: &TableName) -> &mut Part {
        let part = self.parts.entry(name.clone()).or_default();
        part.look(committed.get(name));
        part
    }

    /// A table as it sees it.
    pub(super) fn view(&mut self, committed: &Tables, name: &TableName) -> Result<Arc<Held>> {
        if let Some(point) = &self.point {
            return table(point, name).cloned();
        }
        match self.parts.get_mut(name) {
            Some(part) => {
                part.look(committed.get(name));
                part.view.clone().ok_or_else(|| super::store::missing(name))
            }
            None => table(committed, name).cloned(),
        }
    }

    /// Makes, changes or drops a table, which is its own alone from now on.
    pub(super) fn set(&mut self, committed: &Tables, name: &TableName, view: Option<Held>) {
        let part = self.part(committed, name);
        (part.view, part.shut) = (view.map(Arc::new), true);
    }

    /// All tables as it sees them.
    pub(super) fn tables(&mut self, committed: &Tables) -> Tables {
        let mut tables = committed.clone();
        for (name, part) in self.parts.iter_mut().filter(|(_, part)| part.shut || !part.written.is_empty()) {
            part.look(committed.get(name));
            match &part.view {
                Some(view) => tables.insert(name.clone(), view.clone()),
                None => tables.remove(name),
            };
        }
        tables
    }

    /// Whether it has written a table.
    pub(super) fn has_written(&self, name: &TableName) -> bool {
        self.parts.get(name).is_some_and(|part| part.shut || !part.written.is_empty())
    }

    /// Whether it only reads.
    pub(super) fn only_reads(&self) -> bool {
        self.point.is_some()
    }
}
