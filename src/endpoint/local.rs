//! Ends that are databases at hand.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::mapping::shifts;
use super::{Basis, Current, End, Fault, Keys, Mapping, Outcome, Parcel, Place, Receiver, Route, Sender};
use crate::apply::{Applied, Incoming, Intake, Records, Terms, apply, refused_keys};
use crate::capture::{
    FittedBatch, Reading, Shape, Wanted, changes, changes_of, fit_batch, fold_tables, read as read_rows,
};
use crate::compare::{compared_as, equal_rows};
use crate::conflict::Rule;
use crate::engine::{Error, ErrorKind, ReadRequest, Result, RowLock, Selection, Target, WriteOptions};
use crate::model::{Batch, BatchLimits, Table};
use crate::runtime::{Backoff, Failpoint, random};
use crate::site::{Book, Cursor, Site, key_id};

/// What apply does to a transaction: the logs take its writes down as ours, triggers and keys wait.
const LABELLED: WriteOptions =
    WriteOptions { silence_triggers: true, defer_foreign_keys: true, labelled: true, point: false };

/// What only reads.
const POINT: WriteOptions =
    WriteOptions { silence_triggers: false, defer_foreign_keys: false, labelled: false, point: true };

/// How often a parcel is tried that meets rows which an application holds.
const TRIES: u32 = 8;

impl End {
    /// That of a site.
    #[must_use]
    pub fn of(site: &Site) -> Self {
        let database = &site.database;
        Self {
            site: site.id,
            label: database.label().to_owned(),
            product: database.abilities().product.to_owned(),
            zone: database.zone().clone(),
        }
    }
}

/// What is kept of each table of a route at one of its ends; an error for one that is not captured there.
fn books(site: &Site, tables: &[Mapping], end: impl Fn(&Mapping) -> &Arc<Table>) -> Vec<Result<Arc<Book>>> {
    let book = |mapping| {
        let name = &end(mapping).name;
        site.book(name).cloned().ok_or_else(|| {
            Error::new(
                ErrorKind::SchemaMismatch,
                format!("{name} of {} is not captured; run 'rowferry capture install'", site.database.label()),
            )
        })
    };
    tables.iter().map(book).collect()
}

/// A database that sends.
pub struct LocalSender {
    site: Site,
    route: Arc<Route>,
    connection: Box<dyn Target>,
    books: Vec<Result<Arc<Book>>>,
    stop: CancellationToken,
}

impl LocalSender {
    /// Opens one.
    ///
    /// # Errors
    /// Those of a new connection.
    pub async fn open(site: &Site, route: &Arc<Route>, stop: &CancellationToken) -> Result<Self> {
        Ok(Self {
            connection: site.database.target().await?,
            books: books(site, &route.tables, |mapping| &mapping.from),
            site: site.clone(),
            route: route.clone(),
            stop: stop.clone(),
        })
    }

    fn book(&self, at: usize) -> Outcome<&Arc<Book>> {
        self.books[at].as_ref().map_err(|e| Fault::at(at)(e.clone()))
    }

    /// The receiver's keys in the form that they have here, and which of them: under what has none, no row stands.
    fn own_keys(&self, mapping: &Mapping, keys: &Batch) -> (Batch, Vec<usize>) {
        let shape = Shape {
            table: mapping.from_keys.clone(),
            database: self.site.database.clone(),
            same_engine: self.route.same_product(),
            shifts: shifts((&mapping.to_keys, &self.route.to.zone), (&mapping.from_keys, &self.route.from.zone)),
        };
        let FittedBatch { batch, misfits } = fit_batch(keys.clone(), &shape);
        let fits: Vec<usize> = (0..batch.rows()).filter(|row| !misfits.iter().any(|m| m.0 == *row)).collect();
        (batch.select(fits.iter().copied()), fits)
    }
}

#[async_trait]
impl Sender for LocalSender {
    async fn fold(&mut self, tables: &[usize]) -> Outcome<()> {
        let books = tables.iter().map(|&at| Ok((at, self.book(at)?.clone()))).collect::<Outcome<Vec<_>>>()?;
        let books: Vec<(usize, &Arc<Book>)> = books.iter().map(|(at, book)| (*at, book)).collect();
        for tried in 1.. {
            match fold_tables(&self.site, &books, self.connection.as_mut()).await {
                Err(fault) if fault.error.kind == ErrorKind::Busy && tried < TRIES => pause(tried).await,
                done => return done,
            }
        }
        Ok(())
    }

    async fn changes(&mut self, after: &[Place], limits: BatchLimits) -> Outcome<Parcel> {
        let books = after.iter().map(|place| self.book(place.table).cloned()).collect::<Outcome<Vec<_>>>()?;
        let wanted = after.iter().zip(&books).map(|(place, book)| Wanted {
            at: place.table,
            book,
            columns: &self.route.tables[place.table].from,
            after: place.position,
        });
        let wanted: Vec<Wanted<'_>> = wanted.collect();
        let read = changes(&self.site, &wanted, self.connection.as_mut(), limits).await?;
        let place = |place: &Place| Place { position: place.position.max(read.position), ..*place };
        let tables = after.iter().map(|place| place.table).zip(read.tables);
        Ok(Parcel {
            changes: tables.filter(|(_, changes)| !changes.entries.is_empty()).collect(),
            places: after.iter().map(place).collect(),
            more: read.more,
        })
    }

    async fn current(&mut self, table: usize, keys: &Keys) -> Outcome<Current> {
        let mapping = &self.route.tables[table];
        let (batch, fits) = match keys {
            Keys::Sent(keys) => (keys.clone(), (0..keys.rows()).collect()),
            Keys::Received(keys) => self.own_keys(mapping, keys),
        };
        let book = self.book(table)?.clone();
        let batch = Batch::new(book.keys.clone(), batch.into_columns());
        let (changes, left_out) =
            changes_of(&book, &mapping.from, self.connection.as_mut(), &batch).await.map_err(Fault::at(table))?;
        Ok(Current { changes, left_out: left_out.into_iter().map(|row| fits[row]).collect() })
    }

    async fn rows(&mut self, table: usize, limits: BatchLimits) -> Outcome<Reading> {
        let mapping = &self.route.tables[table];
        let request =
            ReadRequest { table: mapping.from.clone(), filter: None, rows: Selection::All, ordered: true, limits };
        let snapshot = self.site.database.snapshot().await?;
        Ok(read_rows(snapshot.source().await?, request, None, self.stop.clone()))
    }
}

/// A database that receives.
pub struct LocalReceiver {
    site: Site,
    route: Arc<Route>,
    connection: Box<dyn Target>,
    intakes: Vec<Result<Intake>>,
}

impl LocalReceiver {
    /// Opens one.
    ///
    /// # Errors
    /// Those of a new connection.
    pub async fn open(site: &Site, route: &Arc<Route>) -> Result<Self> {
        let books = books(site, &route.tables, |mapping| &mapping.to);
        let intake = |(book, mapping): (Result<Arc<Book>>, &Mapping)| {
            let shape = |from: &Arc<Table>, to: &Arc<Table>| Shape {
                table: to.clone(),
                database: site.database.clone(),
                same_engine: route.same_product(),
                shifts: shifts((from, &route.from.zone), (to, &route.to.zone)),
            };
            book.map(|book| Intake {
                site: site.clone(),
                book,
                rows: shape(&mapping.from, &mapping.to),
                keys: shape(&mapping.from_keys, &mapping.to_keys),
            })
        };
        Ok(Self {
            connection: site.database.target().await?,
            intakes: books.into_iter().zip(&route.tables).map(intake).collect(),
            site: site.clone(),
            route: route.clone(),
        })
    }

    fn intake(&self, at: usize) -> Outcome<&Intake> {
        intake(&self.intakes, at)
    }

    async fn take_once(&mut self, parcel: &Parcel, basis: Basis) -> Outcome<Vec<Applied>> {
        let route = &self.route;
        let terms = |mapping: &Mapping| match basis {
            // Rows under one number that the databases gave out are two rows when each site gave it to its own.
            Basis::Written => {
                Terms::Written(Rule { generated_keys: route.rule.generated_keys && mapping.numbered, ..route.rule })
            }
            Basis::Meeting => Terms::Meeting(route.first_run),
        };
        let mut incoming = Vec::with_capacity(parcel.changes.len());
        for (at, changes) in &parcel.changes {
            let terms = terms(&route.tables[*at]);
            incoming.push(Incoming { at: *at, intake: intake(&self.intakes, *at)?, changes, terms });
        }
        let all = match basis {
            Basis::Written => Terms::Written(route.rule),
            Basis::Meeting => Terms::Meeting(route.first_run),
        };
        let mut records = Records::new(&self.site, &route.sync, route.to_target, all);
        let target = self.connection.as_mut();
        let applied = apply(&self.site, target, &incoming, &mut records).await?;
        records.write(target).await?;
        for place in &parcel.places {
            let table = intake(&self.intakes, place.table)?.book.logged.n;
            self.site.set_cursor(target, Cursor { source: route.from.site, table, position: place.position }).await?;
        }
        Ok(applied)
    }

    /// The rows that stand under keys in this end's own form, by the keys.
    async fn standing(&mut self, at: usize, keys: &Batch) -> Outcome<Batch> {
        let table = self.intake(at)?.rows.table.clone();
        self.connection.begin(POINT).await?;
        let found = self.connection.lookup(&table, keys, RowLock::None).await;
        self.connection.rollback().await?;
        found.map_err(Fault::at(at))
    }
}

fn intake(intakes: &[Result<Intake>], at: usize) -> Outcome<&Intake> {
    intakes[at].as_ref().map_err(|e| Fault::at(at)(e.clone()))
}

#[async_trait]
impl Receiver for LocalReceiver {
    async fn cursors(&mut self) -> Result<Vec<Option<i64>>> {
        self.connection.begin(POINT).await?;
        let mut cursors = Vec::with_capacity(self.intakes.len());
        for intake in &self.intakes {
            let cursor = match intake {
                Ok(intake) => {
                    let number = intake.book.logged.n;
                    self.site.cursor(self.connection.as_mut(), self.route.from.site, number).await
                }
                Err(_) => Ok(None),
            };
            match cursor {
                Ok(cursor) => cursors.push(cursor.map(|cursor| cursor.position)),
                Err(e) => {
                    self.connection.rollback().await?;
                    return Err(e);
                }
            }
        }
        self.connection.rollback().await?;
        Ok(cursors)
    }

    async fn differing(&mut self, table: usize, rows: &Batch) -> Outcome<Vec<usize>> {
        let mapping = self.route.tables[table].clone();
        let FittedBatch { batch: rows, misfits } = fit_batch(rows.clone(), &self.intake(table)?.rows);
        let key = &mapping.key.columns;
        let unfit: HashSet<usize> = misfits.iter().map(|m| m.0).collect();
        let fits: Vec<usize> = (0..rows.rows()).filter(|row| !unfit.contains(row)).collect();
        let columns = key.iter().map(|&at| rows.columns()[at].clone()).collect();
        let keys = Batch::new(mapping.to_keys.clone(), columns);
        let found = self.standing(table, &keys.select(fits.into_iter())).await?;
        let places: HashMap<_, usize> = (0..found.rows()).map(|row| (key_id(&found, row, key), row)).collect();
        let compared = compared_as(&mapping.from, &mapping.to, 0..mapping.to.columns.len());
        let differs = |row: &usize| {
            let there = places.get(&key_id(&rows, *row, key));
            unfit.contains(row) || there.is_none_or(|&there| !equal_rows(&compared, &rows, *row, &found, there))
        };
        Ok((0..rows.rows()).filter(differs).collect())
    }

    async fn take(&mut self, parcel: &Parcel, basis: Basis) -> Outcome<Vec<Applied>> {
        for tried in 1.. {
            self.connection.begin(LABELLED).await?;
            match self.take_once(parcel, basis).await {
                Ok(applied) => {
                    Failpoint::ChangesWritten.reach();
                    self.connection.commit().await?;
                    Failpoint::ChangesCommitted.reach();
                    return Ok(applied);
                }
                Err(fault) => {
                    self.connection.rollback().await?;
                    if fault.error.kind != ErrorKind::Busy || tried >= TRIES {
                        return Err(fault);
                    }
                    pause(tried).await;
                }
            }
        }
        Ok(Vec::new())
    }

    async fn refused(&mut self, table: usize) -> Outcome<Batch> {
        let book = self.intake(table)?.book.clone();
        self.connection.begin(POINT).await?;
        let keys = refused_keys(self.connection.as_mut(), &self.site, &self.route.sync, &book).await;
        self.connection.rollback().await?;
        let keys = keys.map_err(Fault::at(table))?;
        let columns = &self.route.tables[table].to_keys;
        let at = columns.columns.iter().filter_map(|c| keys.table.column(&c.name));
        Ok(Batch::new(columns.clone(), at.map(|at| keys.columns()[at].clone()).collect()))
    }

    async fn verify(&mut self, tables: &[usize]) -> Result<Vec<String>> {
        let whole = tables.iter().filter_map(|&at| self.intakes[at].as_ref().ok());
        let whole: Vec<Arc<Table>> = whole.map(|intake| intake.book.logged.table.clone()).collect();
        if whole.is_empty() { Ok(Vec::new()) } else { self.connection.verify(&whole).await }
    }
}

async fn pause(tried: u32) {
    let wait: Duration = Backoff::ROWS.wait(tried, random());
    tokio::time::sleep(wait).await;
}
