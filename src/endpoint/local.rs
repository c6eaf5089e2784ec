//! Ends that are databases at hand.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::mapping::shifts;
use super::{
    Basis, Current, End, Fault, Keys, Mapping, Outcome, Outstanding, Parcel, Place, Receiver, Resumed, Route, Sender,
    Standing, Start,
};
use crate::apply::{Applied, Incoming, Intake, Parent, Records, Terms, apply, count_aside, keys_aside};
use crate::capture::{
    FittedBatch, Reading, Shape, Wanted, changes, changes_of, deleted, fit_batch, fold_tables, read as read_rows,
};
use crate::compare::{compared_as, equal_rows};
use crate::conflict::Rule;
use crate::engine::{Error, ErrorKind, ReadRequest, Result, RowLock, Selection, Target, WriteOptions};
use crate::model::{Batch, BatchLimits, Table};
use crate::runtime::{Backoff, Failpoint, random};
use crate::site::{Book, Cursor, Reader, Site, Verdict, key_id};

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
    async fn resume(&mut self, reader: &[Option<Standing>]) -> Result<Resumed> {
        let target = self.connection.as_mut();
        target.begin(POINT).await?;
        let judged = judge(&self.site, &self.route, &self.books, target, reader).await;
        target.rollback().await?;
        let judged = judged?;
        let worst = |verdict| judged.iter().any(|(_, v)| *v == verdict);
        if worst(Verdict::Restored) || worst(Verdict::Superseded) {
            self.site.renew(target, worst(Verdict::Superseded)).await?;
            return Err(Error::new(
                ErrorKind::CursorLost,
                format!(
                    "{} was restored, or is a copy of another database: {} has read changes that it does not have; it goes \
                     on under another name, and all rows are compared",
                    self.route.from.label, self.route.to.label
                ),
            ));
        }
        if worst(Verdict::ReaderRestored) {
            return Ok(Resumed::ReaderRestored);
        }
        let mut starts = vec![Start::Not; reader.len()];
        let mut readers = Vec::with_capacity(judged.len());
        for ((table, read), verdict) in judged {
            let standing = reader[table].and_then(|standing| standing.at);
            starts[table] = match (standing, verdict) {
                (None, _) => Start::Never,
                (Some((_, place)), Verdict::Fits) => Start::Place(place),
                _ => Start::Lost,
            };
            let position = if let Start::Place(place) = starts[table] { place.position } else { 0 };
            readers.push((read, position));
        }
        self.site.note_readers(target, &readers).await?;
        Ok(Resumed::At(starts))
    }

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
        let place = |place: &Place| {
            if read.position > place.position {
                Place { position: read.position, token: read.token, ..*place }
            } else {
                *place
            }
        };
        let tables = after.iter().map(|place| place.table).zip(read.tables);
        Ok(Parcel {
            changes: tables.filter(|(_, changes)| !changes.entries.is_empty()).collect(),
            places: after.iter().map(place).collect(),
            more: read.more,
        })
    }

    async fn deleted(&mut self, after: Place, limit: usize) -> Outcome<(Batch, Place)> {
        let book = self.book(after.table)?.clone();
        let from = self.route.tables[after.table].from_keys.clone();
        self.connection.begin(POINT).await?;
        let found = deleted(&book, self.connection.as_mut(), after.position, limit).await;
        self.connection.rollback().await?;
        let (keys, position) = found.map_err(Fault::at(after.table))?;
        Ok((Batch::new(from, keys.into_columns()), Place { position, ..after }))
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

/// What is to be said of each table's reader; without those that take no part at either end.
async fn judge(
    site: &Site,
    route: &Route,
    books: &[Result<Arc<Book>>],
    target: &mut dyn Target,
    standing: &[Option<Standing>],
) -> Result<Vec<((usize, Reader), Verdict)>> {
    let mut judged = Vec::with_capacity(standing.len());
    for (table, (standing, book)) in standing.iter().zip(books).enumerate() {
        let (Some(standing), Ok(book)) = (standing, book) else { continue };
        let reader = Reader { site: route.to.site, number: standing.number, table: book.logged.n };
        let cursor = standing.at.map(|(epoch, place)| Cursor {
            source: crate::model::Site { id: site.id.id, epoch },
            table: standing.number,
            position: place.position,
            token: place.token,
        });
        judged.push(((table, reader), site.judge(target, reader, cursor).await?));
    }
    Ok(judged)
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
        let mut intakes = Vec::with_capacity(books.len());
        for (book, mapping) in books.into_iter().zip(&route.tables) {
            let shape = |from: &Arc<Table>, to: &Arc<Table>| Shape {
                table: to.clone(),
                database: site.database.clone(),
                same_engine: route.same_product(),
                shifts: shifts((from, &route.from.zone), (to, &route.to.zone)),
            };
            intakes.push(match book {
                Ok(book) => Ok(Intake {
                    site: site.clone(),
                    parents: parents(site, &book, &mapping.to).await?,
                    book,
                    rows: shape(&mapping.from, &mapping.to),
                    keys: shape(&mapping.from_keys, &mapping.to_keys),
                }),
                Err(e) => Err(e),
            });
        }
        Ok(Self { connection: site.database.target().await?, intakes, site: site.clone(), route: route.clone() })
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
            let Place { position, token, .. } = *place;
            self.site.set_cursor(target, Cursor { source: route.from.site, table, position, token }).await?;
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

/// What the rows of a table refer to, by those of its columns that are synced.
async fn parents(site: &Site, book: &Book, rows: &Table) -> Result<Vec<Parent>> {
    let mut parents = Vec::new();
    for key in &book.logged.table.foreign_keys {
        let columns: Option<Vec<usize>> = key.columns.iter().map(|name| rows.column(name)).collect();
        let parent = match site.book(&key.parent) {
            Some(book) => Some((*book.logged.table).clone()),
            None => site.database.describe(&key.parent).await?,
        };
        let (Some(columns), Some(parent)) = (columns, parent) else { continue };
        let at: Option<Vec<usize>> = key.parent_columns.iter().map(|name| parent.column(name)).collect();
        parents.extend(at.map(|at| Parent { columns, table: Arc::new(parent.project(&at)) }));
    }
    Ok(parents)
}

fn intake(intakes: &[Result<Intake>], at: usize) -> Outcome<&Intake> {
    intakes[at].as_ref().map_err(|e| Fault::at(at)(e.clone()))
}

#[async_trait]
impl Receiver for LocalReceiver {
    async fn cursors(&mut self) -> Result<Vec<Option<Standing>>> {
        self.connection.begin(POINT).await?;
        let mut standing = Ok(Vec::with_capacity(self.intakes.len()));
        for (table, intake) in self.intakes.iter().enumerate() {
            let Ok(all) = &mut standing else { break };
            let Ok(intake) = intake else {
                all.push(None);
                continue;
            };
            let number = intake.book.logged.n;
            match self.site.cursor(self.connection.as_mut(), self.route.from.site.id, number).await {
                Ok(cursor) => all.push(Some(Standing {
                    number,
                    at: cursor.map(|c| (c.source.epoch, Place { table, position: c.position, token: c.token })),
                })),
                Err(e) => standing = Err(e),
            }
        }
        self.connection.rollback().await?;
        standing
    }

    async fn renew(&mut self) -> Result<()> {
        self.site.renew(self.connection.as_mut(), false).await
    }

    async fn rows(&mut self, table: usize, keys: Option<&Batch>) -> Outcome<u64> {
        let intake = self.intake(table)?;
        let Some(keys) = keys else {
            let whole = intake.book.logged.table.clone();
            let snapshot = self.site.database.snapshot().await?;
            return snapshot.source().await?.count(&whole, None).await.map_err(Fault::at(table));
        };
        let FittedBatch { batch, misfits } = fit_batch(keys.clone(), &intake.keys);
        let unfit: HashSet<usize> = misfits.iter().map(|m| m.0).collect();
        let fits: Vec<usize> = (0..batch.rows()).filter(|row| !unfit.contains(row)).collect();
        Ok(self.standing(table, &batch.select(fits.into_iter())).await?.rows() as u64)
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

    async fn aside(&mut self, table: usize, limit: usize) -> Outcome<Batch> {
        let book = self.intake(table)?.book.clone();
        self.connection.begin(POINT).await?;
        let keys = keys_aside(self.connection.as_mut(), &self.site, &self.route.sync, &book, limit).await;
        self.connection.rollback().await?;
        let keys = keys.map_err(Fault::at(table))?;
        let columns = &self.route.tables[table].to_keys;
        let at = columns.columns.iter().filter_map(|c| keys.table.column(&c.name));
        Ok(Batch::new(columns.clone(), at.map(|at| keys.columns()[at].clone()).collect()))
    }

    async fn outstanding(&mut self) -> Result<Vec<Outstanding>> {
        self.connection.begin(POINT).await?;
        let counted = count_aside(self.connection.as_mut(), &self.site, &self.route.sync).await;
        self.connection.rollback().await?;
        let counted = counted?;
        let of = |mapping: &Mapping| {
            let [open, quarantined, waiting] = counted.get(&mapping.to.name.to_string()).copied().unwrap_or_default();
            Outstanding { open, quarantined, waiting }
        };
        Ok(self.route.tables.iter().map(of).collect())
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
