//! Ends that are databases at hand.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::mapping::{Conditions, shifts};
use super::{
    Basis, Current, Differing, End, Fault, Folded, Keys, Mapping, Mark, Outcome, Outstanding, Parcel, Place, Receiver,
    Resumed, Route, Seen, Sender, Standing, Standings, Start,
};
use crate::apply::{
    Applied, Incoming, Intake, NewColumn, Parent, Records, Referred, Terms, apply, count_aside, keys_aside, move_rows,
    note_moves, redirect,
};
use crate::capture::{
    Changes, FittedBatch, Now, Part, Reading, Reference, Shape, Wanted, Which, backlog, bury, came, changes, changes_of,
    deleted, fit_batch, fold_part, fold_tables, read as read_rows, vouch, written,
};
use crate::compare::{compared_as, equal_rows};
use crate::engine::{
    ChangeLog, Database, Error, ErrorKind, Looked, ReadRequest, Result, RowLock, Selection, Target, WriteOptions,
};
use crate::model::{Batch, BatchLimits, Cell, Column, ForeignKey, Table, TableName};
use crate::runtime::{Backoff, Failpoint, random};
use crate::site::{Book, Cursor, MetColumns, Reader, Site, Through, Verdict, key_id};

/// What apply does to a transaction: the logs take its writes down as ours, triggers and keys wait.
const LABELLED: WriteOptions =
    WriteOptions { silence_triggers: true, defer_foreign_keys: true, labelled: true, point: false };

/// What only reads.
const POINT: WriteOptions =
    WriteOptions { silence_triggers: false, defer_foreign_keys: false, labelled: false, point: true };

/// Lines of logs that are folded while changes are read, at most: each time these are looked through for keys.
const LINES_ASIDE_MAX: u64 = 500_000;
/// Deletions that are no flood of any table.
const DELETIONS_FEW: u64 = 50;

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
    /// For each table which of its columns refer to rows by numbers that may be two rows'.
    references: Vec<Vec<Reference>>,
    conditions: Vec<Conditions>,
    /// Whether logs are folded in parts; not known before one is larger than a part.
    in_parts: Option<bool>,
    /// Deletions that were folded in parts.
    deletions: u64,
    stop: CancellationToken,
}

impl LocalSender {
    /// Opens one.
    ///
    /// # Errors
    /// Those of a new connection.
    pub async fn open(site: &Site, route: &Arc<Route>, stop: &CancellationToken) -> Result<Self> {
        let books = books(site, &route.tables, |mapping| &mapping.from);
        Ok(Self {
            connection: site.database.target().await?,
            references: references(route, &books),
            conditions: (route.tables.iter())
                .map(|mapping| mapping.conditions(site.database.as_ref()))
                .collect::<Result<_>>()?,
            books,
            site: site.clone(),
            route: route.clone(),
            in_parts: None,
            deletions: 0,
            stop: stop.clone(),
        })
    }

    /// A table of the reader's, and where it says that it stands.
    fn reader(&self, standing: &Standing, book: &Book) -> (Reader, Option<Cursor>) {
        let reader = Reader { site: self.route.to.site, number: standing.number, table: book.logged.n };
        let cursor = standing.at.map(|(epoch, place)| Cursor {
            source: crate::model::Site { id: self.site.id.id, epoch },
            table: standing.number,
            position: place.position,
            token: place.token,
        });
        (reader, cursor)
    }

    /// Folds as much as one transaction takes.
    async fn fold_once(&mut self, tables: &[Place]) -> Outcome<Part> {
        let books = self.books_of(tables)?;
        let books: Vec<(usize, &Arc<Book>)> = books.iter().map(|(at, book)| (*at, book)).collect();
        let mut tried = 0;
        loop {
            match fold_part(&self.site, &books, self.connection.as_mut()).await {
                Err(fault) if fault.error.kind == ErrorKind::Busy && tried + 1 < TRIES => {
                    tried += 1;
                    pause(tried).await;
                }
                result => return result,
            }
        }
    }

    /// Whether what is noted may be folded while changes are read.
    async fn goes_in_parts(&mut self, tables: &[Place]) -> Outcome<bool> {
        if let Some(known) = self.in_parts {
            return Ok(known);
        }
        let books = self.books_of(tables)?;
        let books: Vec<(usize, &Arc<Book>)> = books.iter().map(|(at, book)| (*at, book)).collect();
        let backlog = backlog(&books, self.connection.as_mut()).await?;
        let in_parts = backlog.lines <= LINES_ASIDE_MAX && backlog.deletions <= DELETIONS_FEW;
        self.in_parts = Some(in_parts);
        Ok(in_parts)
    }

    fn books_of(&self, tables: &[Place]) -> Outcome<Vec<(usize, Arc<Book>)>> {
        tables.iter().map(|at| Ok((at.table, self.book(at.table)?.clone()))).collect()
    }

    /// The tables that were emptied at once after the place given, or doubted.
    async fn unnamed(&mut self, tables: &[Place]) -> Outcome<Folded> {
        let books = self.books_of(tables)?;
        self.connection.begin(POINT).await?;
        let (site, target) = (&self.site, self.connection.as_mut());
        let noted = async { Ok::<_, Error>((site.emptied(target).await?, site.doubted(target).await?)) }.await;
        self.connection.rollback().await?;
        let (emptied, doubted) = noted?;
        let since = |noted: &HashMap<u32, i64>| {
            let later = |(place, (_, book)): &(&Place, &(usize, Arc<Book>))| {
                noted.get(&book.logged.n).is_some_and(|seq| *seq > place.position)
            };
            tables.iter().zip(&books).filter(later).map(|(place, _)| place.table).collect()
        };
        Ok(Folded { emptied: since(&emptied), doubted: since(&doubted), more: false, many_deletions: true })
    }

    fn book(&self, at: usize) -> Outcome<&Arc<Book>> {
        self.books[at].as_ref().map_err(|e| Fault::at(at)(e.clone()))
    }
}

/// Which columns of each table refer to rows of another of the route under a number that two sites may have given, by
/// themselves or by what they refer to.
fn references(route: &Route, books: &[Result<Arc<Book>>]) -> Vec<Vec<Reference>> {
    let whole = |at: usize| books[at].as_ref().ok();
    let number = |at: usize| {
        let book = whole(at).filter(|_| route.tables[at].rule.generated_keys)?;
        Some(book.logged.table.columns[book.number()?].name.clone())
    };
    // What a column of a table refers to, as the place of a table and one of its columns.
    let parents = |at: usize, column: &str| -> Vec<(usize, String)> {
        let keys = whole(at).map_or(&[][..], |book| &book.logged.table.foreign_keys);
        let of = |key: &ForeignKey| {
            let nth = key.columns.iter().position(|own| own == column)?;
            let parent = route.tables.iter().position(|mapping| mapping.from.name == key.parent)?;
            Some((parent, key.parent_columns.get(nth)?.clone()))
        };
        keys.iter().filter_map(of).collect()
    };
    let of_column = |at: usize, column: usize| {
        let (mut found, mut references) = (parents(at, &route.tables[at].from.columns[column].name), Vec::new());
        let mut next = 0;
        while let Some((parent, of)) = found.get(next).cloned() {
            let further: Vec<_> = parents(parent, &of).into_iter().filter(|one| !found.contains(one)).collect();
            if further.is_empty() && number(parent).as_ref() == Some(&of) {
                references.extend(whole(parent).map(|book| Reference { column, parent, book: book.clone() }));
            }
            found.extend(further);
            next += 1;
        }
        references
    };
    let of_table =
        |at: usize| (0..route.tables[at].from.columns.len()).flat_map(|column| of_column(at, column)).collect();
    (0..route.tables.len()).map(of_table).collect()
}

/// A reader of a site as a whole, and what it has seen.
fn as_reader(site: &Site, reader: crate::model::Site, seen: Option<Seen>) -> (Reader, Option<Cursor>) {
    let table = Cursor::SEEN;
    let cursor = seen.map(|(epoch, Mark { position, token })| Cursor {
        source: crate::model::Site { id: site.id.id, epoch },
        table,
        position,
        token,
    });
    (Reader { site: reader, number: table, table }, cursor)
}

fn seen(cursor: &Cursor) -> Seen {
    (cursor.source.epoch, Mark { position: cursor.position, token: cursor.token })
}

/// A site goes on under another name, since another has read what it does not have; says so.
async fn renewed(site: &Site, target: &mut dyn Target, superseded: bool, reader: &str) -> Error {
    let label = site.database.label();
    match site.renew(target, superseded).await {
        Err(e) => e,
        Ok(()) => Error::new(
            ErrorKind::CursorLost,
            format!(
                "{label} was restored, or is a copy of another database: {reader} has read changes that it does not have; \
                 it goes on under another name, and all rows are compared"
            ),
        ),
    }
}

/// The receiver's keys in the form that they have at the sender, and which of them: under what has none, no row stands.
pub(super) fn own_keys(
    database: &Arc<dyn Database>,
    route: &Route,
    mapping: &Mapping,
    keys: &Batch,
) -> (Batch, Vec<usize>) {
    let shape = Shape {
        table: mapping.from_keys.clone(),
        database: Some(database.clone()),
        same_engine: route.same_product(),
        shifts: shifts((&mapping.to_keys, &route.to.zone), (&mapping.from_keys, &route.from.zone)),
    };
    let FittedBatch { batch, misfits } = fit_batch(keys.clone(), &shape);
    let fits: Vec<usize> = (0..batch.rows()).filter(|row| !misfits.iter().any(|m| m.0 == *row)).collect();
    (batch.select(fits.iter().copied()), fits)
}

#[async_trait]
impl Sender for LocalSender {
    async fn resume(&mut self, reader: &Standings) -> Result<Resumed> {
        (self.in_parts, self.deletions) = (None, 0);
        let (mut tables, mut readers) = (Vec::new(), Vec::new());
        for (table, (standing, book)) in reader.tables.iter().zip(&self.books).enumerate() {
            // Without those that take no part at either end.
            let (Some(standing), Ok(book)) = (standing, book) else { continue };
            tables.push(table);
            readers.push(self.reader(standing, book));
        }
        readers.push(as_reader(&self.site, self.route.to.site, reader.seen));
        let target = self.connection.as_mut();
        target.begin(POINT).await?;
        let judged = async {
            self.site.itself(target).await?;
            self.site.judge(target, &readers).await
        }
        .await;
        target.rollback().await?;
        let judged = judged?;
        let worst = |verdict| judged.contains(&verdict);
        if worst(Verdict::Restored) || worst(Verdict::Superseded) {
            return Err(renewed(&self.site, target, worst(Verdict::Superseded), &self.route.to.label).await);
        }
        if worst(Verdict::ReaderRestored) {
            return Ok(Resumed::ReaderRestored);
        }
        let mut starts = vec![Start::Not; reader.tables.len()];
        let mut noted = Vec::with_capacity(judged.len());
        if let Some((whole, Some(cursor))) = readers.pop()
            && cursor.source.epoch == self.site.id.epoch
        {
            noted.push((whole, cursor.position));
        }
        for ((table, (read, _)), verdict) in tables.into_iter().zip(readers).zip(judged) {
            let standing = reader.tables[table].and_then(|standing| standing.at);
            starts[table] = match (standing, verdict) {
                (None, _) => Start::Never,
                (Some((_, place)), Verdict::Fits) => Start::Place(place),
                _ => Start::Lost,
            };
            let position = if let Start::Place(place) = starts[table] { place.position } else { 0 };
            noted.push((read, position));
        }
        self.site.note_readers(target, &noted).await?;
        Ok(Resumed::At(starts))
    }

    async fn seen(&mut self) -> Result<Option<Seen>> {
        let target = self.connection.as_mut();
        target.begin(POINT).await?;
        let cursors = self.site.cursors(target, self.route.to.site.id, [Cursor::SEEN].into_iter()).await;
        target.rollback().await?;
        Ok(cursors?.get(&Cursor::SEEN).map(seen))
    }

    async fn fold(&mut self, tables: &[Place]) -> Outcome<Folded> {
        while self.fold_once(tables).await?.more {}
        self.unnamed(tables).await
    }

    async fn fold_part(&mut self, tables: &[Place]) -> Outcome<Folded> {
        let Part { more, deletions } = self.fold_once(tables).await?;
        self.deletions = self.deletions.saturating_add(deletions);
        let many = self.deletions > DELETIONS_FEW;
        if many {
            self.deletions = 0;
        }
        if more && (many || !self.goes_in_parts(tables).await?) {
            self.in_parts = None;
            return self.fold(tables).await;
        }
        if !more {
            (self.in_parts, self.deletions) = (None, 0);
        }
        Ok(Folded { more, many_deletions: many, ..self.unnamed(tables).await? })
    }

    async fn bury(&mut self, table: usize, keys: &Batch) -> Outcome<()> {
        let book = self.book(table)?.clone();
        let (keys, _) = own_keys(&self.site.database, &self.route, &self.route.tables[table], keys);
        let keys = Batch::new(book.keys.clone(), keys.into_columns());
        bury(&self.site, table, &book, &keys, self.connection.as_mut()).await
    }

    async fn vouch(&mut self, table: usize, keys: &Batch, all: bool) -> Outcome<()> {
        let book = self.book(table)?.clone();
        let keys = Batch::new(book.keys.clone(), keys.columns().to_vec());
        vouch(&self.site, (table, &book), &keys, all, self.connection.as_mut()).await
    }

    async fn changes(&mut self, after: &[Place], limits: BatchLimits) -> Outcome<Parcel> {
        let books = after.iter().map(|place| self.book(place.table).cloned()).collect::<Outcome<Vec<_>>>()?;
        let wanted = after.iter().zip(&books).map(|(place, book)| Wanted {
            at: place.table,
            book,
            columns: &self.route.tables[place.table].from,
            which: which((&self.route, place.table), &self.conditions, book),
            references: &self.references[place.table],
            after: place.position,
            renumbered: self.route.tables[place.table].rule.generated_keys,
        });
        let wanted: Vec<Wanted<'_>> = wanted.collect();
        let read = changes(&self.site, &wanted, self.connection.as_mut(), limits).await?;
        let place = |place: &Place| {
            if read.upto.position > place.position {
                Place { position: read.upto.position, token: read.upto.token, ..*place }
            } else {
                *place
            }
        };
        let tables = after.iter().map(|place| place.table).zip(read.tables);
        Ok(Parcel {
            changes: tables.filter(|(_, changes)| !changes.is_empty()).collect(),
            places: after.iter().map(place).collect(),
            seen: Some(read.upto).filter(|mark| mark.position > 0),
            more: read.more,
        })
    }

    async fn deleted(&mut self, after: Place, limit: usize) -> Outcome<(Batch, Place)> {
        let book = self.book(after.table)?.clone();
        let from = self.route.tables[after.table].from_keys.clone();
        self.connection.begin(POINT).await?;
        let alive = self.conditions[after.table].alive.as_deref();
        let found = deleted(&book, self.connection.as_mut(), (after.position, limit), alive).await;
        self.connection.rollback().await?;
        let (keys, position) = found.map_err(Fault::at(after.table))?;
        Ok((Batch::new(from, keys.into_columns()), Place { position, ..after }))
    }

    async fn current(&mut self, table: usize, keys: &Keys) -> Outcome<Current> {
        let mapping = &self.route.tables[table];
        let (batch, fits) = match keys {
            Keys::Sent(keys) => (keys.clone(), (0..keys.rows()).collect()),
            Keys::Received(keys) => own_keys(&self.site.database, &self.route, mapping, keys),
        };
        let book = self.book(table)?.clone();
        let batch = Batch::new(book.keys.clone(), batch.into_columns());
        let wanted = Wanted {
            at: table,
            book: &book,
            columns: &mapping.from,
            which: which((&self.route, table), &self.conditions, &book),
            references: &self.references[table],
            after: 0,
            renumbered: mapping.rule.generated_keys,
        };
        let now = changes_of(&self.site, &wanted, self.connection.as_mut(), &batch).await;
        let Now { changes, left_out, last: seen } = now.map_err(Fault::at(table))?;
        Ok(Current { changes, left_out: left_out.into_iter().map(|row| fits[row]).collect(), seen })
    }

    async fn rows(&mut self, table: usize, limits: BatchLimits) -> Outcome<Reading> {
        let mapping = &self.route.tables[table];
        let filter = self.conditions[table].meeting.clone();
        let request = ReadRequest { table: mapping.from.clone(), filter, rows: Selection::All, ordered: true, limits };
        let snapshot = self.site.database.snapshot().await?;
        Ok(read_rows(snapshot.source().await?, request, None, self.stop.clone()))
    }
}

/// Which rows of a table go out.
fn which<'a>((route, table): (&Route, usize), conditions: &'a [Conditions], book: &Book) -> Which<'a> {
    let Conditions { meeting, alive } = &conditions[table];
    let Some(condition) = meeting else { return Which::All };
    if route.tables[table].filter.as_ref().is_some_and(|filter| filter.returning) {
        return Which::Returning(condition, Through { site: route.to.site, table: book.logged.n });
    }
    Which::Meeting { condition, alive: alive.as_deref() }
}

/// A database that receives.
pub struct LocalReceiver {
    site: Site,
    route: Arc<Route>,
    connection: Box<dyn Target>,
    intakes: Vec<Result<Intake>>,
    /// Whether nothing is doubted that has not been folded.
    certain: bool,
    /// Whether there may be rows that are to give up their numbers here.
    moving: bool,
    /// By table the columns that are sent and were not when all rows were last compared; `None`: not looked yet.
    new_columns: Option<Vec<Vec<NewColumn>>>,
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
                database: Some(site.database.clone()),
                same_engine: route.same_product(),
                shifts: shifts((from, &route.from.zone), (to, &route.to.zone)),
            };
            intakes.push(match book {
                Ok(book) => Ok(Intake {
                    site: site.clone(),
                    parents: parents(site, &book, &mapping.to).await?,
                    through: mapping.is_entered().then_some(Through { site: route.from.site, table: book.logged.n }),
                    book,
                    rows: shape(&mapping.from, &mapping.to),
                    keys: shape(&mapping.from_keys, &mapping.to_keys),
                    fill: mapping.fill.clone(),
                    stamp: mapping.stamp,
                    sender: route.from.site,
                    unmet: Vec::new(),
                }),
                Err(e) => Err(e),
            });
        }
        let (connection, route) = (site.database.target().await?, route.clone());
        Ok(Self { connection, intakes, site: site.clone(), route, certain: false, moving: false, new_columns: None })
    }

    fn intake(&self, at: usize) -> Outcome<&Intake> {
        intake(&self.intakes, at)
    }

    /// Folds tables of which rows were written unseen: what stands there passes for what it was otherwise. Not before both
    /// ends have agreed who they are: a database that was restored gives out no versions under its old name.
    async fn fold_doubted(&mut self) -> Outcome<()> {
        let books: Vec<(usize, Arc<Book>)> = (self.intakes.iter().enumerate())
            .filter_map(|(at, intake)| Some((at, intake.as_ref().ok()?.book.clone())))
            .collect();
        let logs: Vec<Looked> =
            books.iter().map(|(_, book)| Looked { table: book.log.table.clone(), above: None }).collect();
        self.connection.begin(POINT).await?;
        let doubted = async {
            let holding = self.connection.holding(&logs).await?;
            let mut doubted = Vec::new();
            for ((at, book), _) in books.iter().zip(&holding).filter(|(_, holds)| **holds) {
                let mut nothing = book.no_keys();
                nothing.iter_mut().for_each(Column::push_null);
                let of_all = Batch::new(book.keys.clone(), nothing);
                let lines = self.connection.lookup(&book.log.table, &of_all, RowLock::None).await?;
                let operation = lines.table.column(ChangeLog::OPERATION);
                let says = |row| operation.is_some_and(|at| lines.cell(row, at) == Cell::Bytes(b"?"));
                if (0..lines.rows()).any(says) {
                    doubted.push((*at, book));
                }
            }
            Ok::<_, Error>(doubted)
        }
        .await;
        self.connection.rollback().await?;
        let doubted = doubted?;
        if !doubted.is_empty() {
            fold_tables(&self.site, &doubted, self.connection.as_mut()).await?;
        }
        self.certain = true;
        Ok(())
    }

    /// Sees to rows that are to give up their numbers here; only to those that have `given` theirs up elsewhere.
    async fn move_rows(&mut self, given: bool) -> Outcome<()> {
        let site = self.site.clone();
        while self.moving {
            self.connection.begin(POINT).await?;
            let moves = site.moves_above(self.connection.as_mut(), i64::MIN).await;
            self.connection.rollback().await?;
            let mut moves = moves?;
            moves.retain(|moved| !given || moved.step.to.is_some());
            let mut any = false;
            for (at, intake) in self.intakes.iter().enumerate() {
                let Ok(Intake { book, through, .. }) = intake else { continue };
                let records = || Records::new(&site, &self.route.sync, self.route.to_target);
                let moved = move_rows((&site, book, *through), self.connection.as_mut(), &moves, records).await;
                any |= moved.map_err(Fault::at(at))?;
            }
            if !any {
                self.moving = given;
                break;
            }
            // One that had to wait for another may go on now.
        }
        Ok(())
    }

    async fn take_once(&mut self, parcel: &Parcel, basis: Basis) -> Outcome<Vec<Applied>> {
        let route = &self.route;
        let terms = |mapping: &Mapping| match basis {
            Basis::Written => Terms::Written(mapping.rule),
            Basis::Meeting => Terms::Meeting(route.first_run, mapping.rule),
        };
        let target = self.connection.as_mut();
        let books: Vec<Option<Arc<Book>>> =
            self.intakes.iter().map(|intake| intake.as_ref().ok().map(|intake| intake.book.clone())).collect();
        let moves = self.site.has_moves(target).await?;
        let mut redirected = Vec::with_capacity(parcel.changes.len());
        for (at, changes) in &parcel.changes {
            let book = &intake(&self.intakes, *at)?.book;
            redirected.push(if moves {
                redirect(&self.site, target, changes, (book, &books)).await.map_err(Fault::at(*at))?
            } else {
                None
            });
        }
        let told = || parcel.changes.iter().zip(&redirected);
        let first: Vec<_> = told().map(|((at, told), other)| (*at, other.as_ref().map_or(told, |o| &o.changes))).collect();
        let after = told().enumerate();
        let after = after.filter_map(|(nth, ((at, _), other))| Some((nth, (*at, other.as_ref()?.after.as_ref()?))));
        let (late, after): (Vec<usize>, Vec<_>) = after.unzip();
        let (ends, mut records) = ((&self.intakes[..], &books[..]), Records::new(&self.site, &route.sync, route.to_target));
        let terms = |at: usize| terms(&route.tables[at]);
        let mut applied = apply_all(&self.site, target, ends, terms, &first, &mut records).await?;
        if !late.is_empty() {
            let applied_late = apply_all(&self.site, target, ends, terms, &after, &mut records).await?;
            late.into_iter().zip(applied_late).for_each(|(nth, late)| applied[nth].add(late));
        }
        records.write(target).await?;
        let all = |Mark { position, token }| Cursor { source: route.from.site, table: Cursor::SEEN, position, token };
        let mut cursors: Vec<Cursor> = parcel.seen.map(all).into_iter().collect();
        if !parcel.places.is_empty() {
            let (mut conditions, mut columns) = (Vec::new(), Vec::new());
            for &Place { table: at, position, token } in &parcel.places {
                let (source, table) = (route.from.site, intake(&self.intakes, at)?.book.logged.n);
                conditions.push((Through { site: source, table }, route.entering(at)));
                columns.push((Through { site: source, table }, columns_of(&route.tables[at])));
                cursors.push(Cursor { source, table, position, token });
            }
            self.site.set_conditions(target, &conditions).await?;
            let met = self.site.met_columns(target, &columns).await?;
            let first = columns.into_iter().zip(met).filter(|(_, met)| !met.noted).map(|(columns, _)| columns);
            self.site.note_columns(target, &first.collect::<Vec<_>>()).await?;
        }
        self.site.set_cursors(target, &cursors).await?;
        Ok(applied)
    }

    /// Looks which columns both ends have that one of them lacked when all rows were last compared. Those that went are
    /// forgotten at once: when they come back, nobody knows what was written there meanwhile.
    async fn look_at_columns(&mut self) -> Result<()> {
        let site = self.route.from.site;
        let (mut at, mut columns) = (Vec::new(), Vec::new());
        for (table, (intake, mapping)) in self.intakes.iter().zip(&self.route.tables).enumerate() {
            let Ok(intake) = intake else { continue };
            at.push(table);
            columns.push((Through { site, table: intake.book.logged.n }, columns_of(mapping)));
        }
        let target = self.connection.as_mut();
        target.begin(POINT).await?;
        let met = self.site.met_columns(target, &columns).await;
        target.rollback().await?;
        let met = met?;
        let gone = columns.into_iter().zip(&met).filter(|(_, met)| met.went && met.new.is_empty());
        let gone: Vec<(Through, Vec<&str>)> = gone.map(|(columns, _)| columns).collect();
        note_columns(&self.site, target, &gone).await?;
        let mut all = vec![Vec::new(); self.intakes.len()];
        for (table, MetColumns { new, went, .. }) in at.into_iter().zip(met) {
            let Mapping { from, to, .. } = &self.route.tables[table];
            let unwritten = |table: &Table, at: usize| table.columns[at].constant(&to.columns[at].logical);
            let new = new.into_iter().map(|at| NewColumn { at, unwritten: [unwritten(to, at), unwritten(from, at)] });
            all[table] = new.collect();
            // What takes another's place may be the same column under another name, and stamps tell nothing apart.
            if let Ok(intake) = &mut self.intakes[table] {
                intake.unmet = if went || site.is_stamped() { Vec::new() } else { all[table].clone() };
            }
        }
        self.new_columns = Some(all);
        Ok(())
    }

    /// Of tables of which facets are kept now, it keeps them too.
    async fn take_facets_up(&mut self) -> Result<()> {
        let target = self.connection.as_mut();
        target.begin(POINT).await?;
        let books = self.intakes.iter().filter_map(|intake| Some(&intake.as_ref().ok()?.book));
        let since = self.site.faceted_since(target, books).await;
        target.rollback().await?;
        let since = since?;
        for intake in self.intakes.iter_mut().flatten().filter(|intake| since.contains(&intake.book.logged.n)) {
            intake.book = Arc::new((*intake.book).clone().with_facets());
        }
        Ok(())
    }

    /// An end that was opened anew has not looked yet.
    async fn know_columns(&mut self) -> Result<()> {
        if self.new_columns.is_none() { self.look_at_columns().await } else { Ok(()) }
    }

    /// As [`Receiver::cursors`], by the books. Under another condition than so far a table was not read at all.
    async fn read_cursors(&mut self) -> Result<Standings> {
        let site = self.route.from.site;
        let numbers: Vec<(usize, u32)> = (self.intakes.iter().enumerate())
            .filter_map(|(at, intake)| Some((at, intake.as_ref().ok()?.book.logged.n)))
            .collect();
        let conditions: Vec<(Through, Option<String>)> =
            numbers.iter().map(|&(at, table)| (Through { site, table }, self.route.entering(at))).collect();
        let target = self.connection.as_mut();
        // Whoever took it for another gave it another name: what it says of itself is not for its old one.
        self.site.itself(target).await?;
        let same = self.site.are_conditions(target, &conditions).await?;
        let cursors = (numbers.iter().map(|(_, table)| *table)).chain([Cursor::SEEN]);
        let cursors = self.site.cursors(target, site.id, cursors).await?;
        let seen = cursors.get(&Cursor::SEEN).map(seen);
        let mut standing = vec![None; self.intakes.len()];
        for ((table, number), same) in numbers.into_iter().zip(same) {
            let cursor = cursors.get(&number).filter(|_| same);
            let at = cursor.map(|c| (c.source.epoch, Place { table, position: c.position, token: c.token }));
            let widened = self.new_columns.as_ref().is_some_and(|tables| !tables[table].is_empty());
            standing[table] = Some(Standing { number, at, widened });
        }
        Ok(Standings { tables: standing, seen })
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

/// The columns that are sent, by their names at the end that receives.
fn columns_of(mapping: &Mapping) -> Vec<&str> {
    mapping.to.columns.iter().map(|column| column.name.as_str()).collect()
}

/// In a transaction of its own.
async fn note_columns(site: &Site, target: &mut dyn Target, tables: &[(Through, Vec<&str>)]) -> Result<()> {
    if tables.is_empty() {
        return Ok(());
    }
    target.begin(WriteOptions::default()).await?;
    match site.note_columns(target, tables).await {
        Ok(()) => target.commit().await,
        Err(e) => {
            target.rollback().await?;
            Err(e)
        }
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
    async fn cursors(&mut self) -> Result<Standings> {
        self.look_at_columns().await?;
        self.connection.begin(POINT).await?;
        let stood = self.read_cursors().await;
        let moves = self.site.moves_above(self.connection.as_mut(), i64::MIN).await;
        self.connection.rollback().await?;
        let stood = stood?;
        // What an earlier run has left. A row that someone holds keeps nobody but its own table.
        self.moving = moves?.iter().any(|moved| !moved.done);
        match self.move_rows(false).await {
            Err(fault) if fault.error.kind != ErrorKind::Busy => Err(fault.error),
            _ => Ok(stood),
        }
    }

    async fn judge(&mut self, seen: Seen) -> Result<()> {
        let reader = as_reader(&self.site, self.route.from.site, Some(seen));
        let target = self.connection.as_mut();
        target.begin(POINT).await?;
        let judged = self.site.judge(target, &[reader]).await;
        target.rollback().await?;
        match judged?.first() {
            Some(verdict @ (Verdict::Restored | Verdict::Superseded)) => {
                let superseded = *verdict == Verdict::Superseded;
                Err(renewed(&self.site, target, superseded, &self.route.from.label).await)
            }
            _ => Ok(()),
        }
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

    async fn differing(&mut self, table: usize, rows: &Batch, how: Differing) -> Outcome<Vec<usize>> {
        self.know_columns().await?;
        let mapping = self.route.tables[table].clone();
        let notes = self.intake(table)?.through.is_some() || self.route.from.site.is_stamped();
        if how == Differing::Meeting && notes {
            return Ok((0..rows.rows()).collect());
        }
        let FittedBatch { batch: rows, misfits } = fit_batch(rows.clone(), &self.intake(table)?.rows);
        let key = &mapping.key.columns;
        let unfit: HashSet<usize> = misfits.iter().map(|m| m.0).collect();
        let fits: Vec<usize> = (0..rows.rows()).filter(|row| !unfit.contains(row)).collect();
        let columns = key.iter().map(|&at| rows.columns()[at].clone()).collect();
        let keys = Batch::new(mapping.to_keys.clone(), columns);
        let found = self.standing(table, &keys.select(fits.into_iter())).await?;
        let places: HashMap<_, usize> = (0..found.rows()).map(|row| (key_id(&found, row, key), row)).collect();
        let compared = compared_as(&mapping.from, &mapping.to, 0..mapping.to.columns.len());
        let new_columns = self.new_columns.as_ref().map_or(&[][..], |tables| &tables[table]);
        let differs = |row: &usize| {
            let there = places.get(&key_id(&rows, *row, key));
            if how == Differing::Poorer {
                let richer = |new: &NewColumn| {
                    let (theirs, equal) = (rows.cell(*row, new.at), std::slice::from_ref(&compared[new.at]));
                    let other = |&there: &usize| {
                        // What somebody wrote is more than what nobody did.
                        let weaker = new.hold([found.cell(there, new.at), theirs]) == [true, false];
                        !weaker && !equal_rows(equal, &rows, *row, &found, there)
                    };
                    theirs != Cell::Null && there.is_some_and(other)
                };
                return !unfit.contains(row) && new_columns.iter().any(richer);
            }
            unfit.contains(row) || there.is_none_or(|&there| !equal_rows(&compared, &rows, *row, &found, there))
        };
        Ok((0..rows.rows()).filter(differs).collect())
    }

    async fn unversioned(
        &mut self,
        table: usize,
        after: Option<&Batch>,
        limit: usize,
    ) -> Outcome<(Batch, Option<Batch>)> {
        let mapping = self.route.tables[table].clone();
        let book = self.intake(table)?.book.clone();
        let keys = mapping.to_keys.clone();
        let ordered = keys.row_key().map_or_else(Vec::new, |key| key.columns);
        let bound = after.filter(|after| after.rows() > 0).map(|after| after.values(after.rows() - 1, &ordered));
        let request = ReadRequest {
            table: keys.clone(),
            filter: None,
            rows: Selection::Range { after: bound, upto: None },
            ordered: true,
            limits: BatchLimits { rows: limit, bytes: usize::MAX },
        };
        let snapshot = self.site.database.snapshot().await?;
        let mut source = snapshot.source().await?;
        let page = source.read(&request).await.map_err(Fault::at(table))?.next().await.map_err(Fault::at(table))?;
        let Some(page) = page else { return Ok((after.map_or_else(|| empty(&keys), |a| a.select(0..0)), None)) };
        let (from, target) = (self.route.from.site, self.connection.as_mut());
        target.begin(POINT).await?;
        let found = async {
            if from.is_stamped() { came(&book, target, &page, from).await } else { written(&book, target, &page).await }
        };
        let found = found.await;
        target.rollback().await?;
        let found = found.map_err(Fault::at(table))?;
        let all: Vec<usize> = (0..page.columns().len()).collect();
        let meant = |row: &usize| found.contains(&key_id(&page, *row, &all)) == from.is_stamped();
        let meant: Vec<usize> = (0..page.rows()).filter(meant).collect();
        Ok((page.select(meant.into_iter()), Some(page.select(std::iter::once(page.rows() - 1)))))
    }

    async fn take(&mut self, parcel: &Parcel, basis: Basis) -> Outcome<Vec<Applied>> {
        if !self.certain {
            self.fold_doubted().await?;
        }
        for (at, changes) in parcel.changes.iter().filter(|(_, changes)| !changes.moves.is_empty()) {
            let book = self.intake(*at)?.book.clone();
            note_moves(&self.site, self.connection.as_mut(), &book, &changes.moves).await.map_err(Fault::at(*at))?;
        }
        self.moving |= parcel.changes.iter().any(|(_, changes)| !changes.moves.is_empty());
        self.move_rows(true).await?;
        self.know_columns().await?;
        for tried in 1.. {
            self.connection.begin(LABELLED).await?;
            match self.take_once(parcel, basis).await {
                Ok(applied) => {
                    Failpoint::ChangesWritten.reach();
                    self.connection.commit().await?;
                    Failpoint::ChangesCommitted.reach();
                    // What has its number waits by now, and is told with it.
                    self.moving |= applied.iter().any(|applied| applied.apart > 0);
                    self.move_rows(false).await?;
                    return Ok(applied);
                }
                Err(fault) => {
                    self.connection.rollback().await?;
                    if fault.error.kind != ErrorKind::Busy || tried >= TRIES {
                        return Err(fault);
                    }
                    self.take_facets_up().await?;
                    pause(tried).await;
                }
            }
        }
        Ok(Vec::new())
    }

    async fn settle(&mut self, tables: &[usize]) -> Result<()> {
        let source = self.route.from.site;
        let settled = tables.iter().filter_map(|&at| {
            let table = self.intakes[at].as_ref().ok()?.book.logged.n;
            Some((Through { site: source, table }, columns_of(&self.route.tables[at])))
        });
        let settled: Vec<(Through, Vec<&str>)> = settled.collect();
        note_columns(&self.site, self.connection.as_mut(), &settled).await?;
        self.new_columns = None;
        Ok(())
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

    async fn verify(&mut self, came: &[usize], went: &[usize]) -> Result<Vec<String>> {
        if came.is_empty() && went.is_empty() {
            return Ok(Vec::new());
        }
        let gone: HashSet<&TableName> = went.iter().map(|&at| &self.route.tables[at].to.name).collect();
        let mut tables = Vec::new();
        for (at, intake) in self.intakes.iter().enumerate() {
            let Ok(Intake { book, .. }) = intake else { continue };
            let mut table = (*book.logged.table).clone();
            table.foreign_keys.retain(|key| gone.contains(&key.parent));
            if came.contains(&at) || !table.foreign_keys.is_empty() {
                tables.push(Arc::new(table));
            }
        }
        self.connection.verify(&tables).await
    }
}

/// Takes changes of tables in, each named by its place in the route, inside the open transaction.
async fn apply_all(
    site: &Site,
    target: &mut dyn Target,
    (intakes, books): (&[Result<Intake>], &[Option<Arc<Book>>]),
    terms: impl Fn(usize) -> Terms,
    changes: &[(usize, &Changes)],
    records: &mut Records,
) -> Outcome<Vec<Applied>> {
    let referred: Vec<Vec<Referred<'_>>> = changes
        .iter()
        .map(|(_, changes)| {
            let of = changes.meant.iter().filter_map(|meant| {
                let book = books.get(meant.parent)?.as_ref()?;
                Some(Referred { column: meant.column, book, births: &meant.births })
            });
            of.collect()
        })
        .collect();
    let mut incoming = Vec::with_capacity(changes.len());
    for (&(at, changes), referred) in changes.iter().zip(&referred) {
        incoming.push(Incoming { at, intake: intake(intakes, at)?, changes, terms: terms(at), referred });
    }
    apply(site, target, &incoming, records).await
}

pub(super) fn empty(table: &Arc<Table>) -> Batch {
    Batch::new(table.clone(), vec![Column::default(); table.columns.len()])
}

async fn pause(tried: u32) {
    let wait: Duration = Backoff::ROWS.wait(tried, random());
    tokio::time::sleep(wait).await;
}
