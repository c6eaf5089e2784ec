//! Versions → changes: what a site has that a reader has not seen yet, in the order of its numbers.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::fold::{fitting, holding, rows_by_key};
use super::{Fault, Outcome};
use crate::engine::{Error, Result, RowLock, Target, WriteOptions};
use crate::model::{self, Batch, BatchLimits, Cell, Column, ColumnDef, Digest, Entry, Facet, Move, Table, Version};
use crate::site::{Book, KeyId, Known, Mark, Site, Through, decode, key_id, read};

/// Changes of one table, as one point of its site shows them.
#[derive(Debug, Clone)]
pub struct Changes {
    /// The keys, each once.
    pub keys: Batch,
    /// The entries of the keys, in their order.
    pub entries: Vec<Entry>,
    /// The rows that stand under those keys that are alive, with the columns asked for.
    pub rows: Batch,
    /// For each key its row in `rows`; `None` for a tombstone.
    pub row_of: Vec<Option<usize>>,
    /// For each key whether its row stands and is none of those that are sent: it does not meet their condition.
    pub left: Vec<bool>,
    /// Rows of the table that gave up their number, or are to: known before the rows are taken in.
    pub moves: Vec<Move>,
    /// Which rows those of `rows` refer to, where two may stand under one number.
    pub meant: Vec<Meant>,
}

/// What the rows of a table mean by a number that refers to a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meant {
    /// The column that refers.
    pub column: usize,
    /// The place of the table that it refers to among those of the sync.
    pub parent: usize,
    /// For each row the birth of the row that it refers to; [`Version::BASE`] where nothing is known of that.
    pub births: Vec<Version>,
}

/// A column whose numbers refer to a table of which two rows may stand under one number.
#[derive(Clone)]
pub struct Reference {
    /// See [`Meant::column`].
    pub column: usize,
    /// See [`Meant::parent`].
    pub parent: usize,
    /// What is kept of that table.
    pub book: Arc<Book>,
}

impl Changes {
    /// Whether they say nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.moves.is_empty()
    }

    /// None, of a table with these keys and columns.
    #[must_use]
    pub fn none(keys: &Arc<Table>, columns: &Arc<Table>) -> Self {
        let empty = |table: &Arc<Table>| Batch::new(table.clone(), vec![Column::default(); table.columns.len()]);
        Self::of(empty(keys), empty(columns))
    }

    /// As [`Self::none`], with keys and rows of which nothing is said yet.
    #[must_use]
    pub fn of(keys: Batch, rows: Batch) -> Self {
        let (moves, meant) = (Vec::new(), Vec::new());
        Self { keys, entries: Vec::new(), rows, row_of: Vec::new(), left: Vec::new(), moves, meant }
    }

    /// Those that are to be told, and their rows except those that have left.
    pub(crate) fn picked(&self, told: &[bool]) -> Self {
        let kept: Vec<usize> = (0..told.len()).filter(|&at| told[at]).collect();
        let row = |at: &usize| self.row_of[*at].filter(|_| !self.left[*at]);
        let mut next = 0..;
        let rows: Vec<usize> = kept.iter().filter_map(row).collect();
        let births = |meant: &Meant| Meant { births: rows.iter().map(|&row| meant.births[row]).collect(), ..*meant };
        Self {
            entries: kept.iter().map(|&at| self.entries[at].clone()).collect(),
            row_of: kept.iter().map(|at| row(at).and_then(|_| next.next())).collect(),
            left: kept.iter().map(|&at| self.left[at]).collect(),
            meant: self.meant.iter().map(births).collect(),
            ..Self::of(self.keys.select(kept.iter().copied()), self.rows.select(rows.iter().copied()))
        }
    }

    /// A row that has left was deleted.
    pub(crate) fn delete(&mut self, at: usize) {
        let entry = &mut self.entries[at];
        (entry.digest, entry.columns) = (None, Vec::new());
        self.left[at] = false;
    }

    fn append(&mut self, other: Self) {
        let before = self.rows.rows();
        self.keys.append(&other.keys);
        self.rows.append(&other.rows);
        self.entries.extend(other.entries);
        self.left.extend(other.left);
        self.row_of.extend(other.row_of.into_iter().map(|row| row.map(|row| row + before)));
    }
}

/// Which rows of a table go to the other end.
#[derive(Debug, Clone, Copy)]
pub enum Which<'a> {
    /// All.
    All,
    /// Those that meet a condition; of the others it is said that they do not.
    Meeting {
        /// The condition.
        condition: &'a str,
        /// One that rows meet as long as nothing in them says that they were deleted: the others count as deleted.
        alive: Option<&'a str>,
    },
    /// Those that meet it, and those that came from the other end through it, whether they still do or not.
    Returning(&'a str, Through),
}

/// A table that is to be read.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// Its place among those of the sync.
    pub at: usize,
    /// What is kept of it.
    pub book: &'a Book,
    /// The columns wanted.
    pub columns: &'a Arc<Table>,
    /// Which rows.
    pub which: Which<'a>,
    /// Which of the columns refer to rows by numbers that may be two rows'.
    pub references: &'a [Reference],
    /// The number above which changes are wanted.
    pub after: i64,
    /// Whether rows of it may have got other numbers, so that whoever asks for single rows has to know.
    pub renumbered: bool,
}

/// More keys than this are not looked for in a log that is empty: a log has no index.
const FEW: usize = 32;

/// Changes of several tables at one point.
#[derive(Debug)]
pub struct Read {
    /// In the order in which they were wanted.
    pub tables: Vec<Changes>,
    /// The number up to which everything is here or will come again with a higher one, and what the site noted with it.
    pub upto: Mark,
    /// Whether the site has given out higher ones.
    pub more: bool,
}

/// Reads what has a higher number than asked for, in the order of the site's numbers, whatever the table: rows that
/// were written together come together as far as the limits reach. A key that has lines in the log is left out: its row
/// may be newer than its version, and its next fold gives it a new number.
pub async fn changes(
    site: &Site,
    tables: &[Wanted<'_>],
    target: &mut dyn Target,
    limits: BatchLimits,
) -> Outcome<Read> {
    target.begin(WriteOptions { point: true, ..WriteOptions::default() }).await?;
    let read = read_point(site, tables, target, limits).await;
    // The connection may be what failed; dropping it ends the transaction too.
    let ended = target.rollback().await;
    let read = read?;
    ended?;
    Ok(read)
}

/// The entries of one table that are read, with their keys.
struct Listed {
    keys: Batch,
    known: Vec<Known>,
}

async fn read_point(site: &Site, tables: &[Wanted<'_>], target: &mut dyn Target, limits: BatchLimits) -> Outcome<Read> {
    let above = |wanted: &Wanted<'_>| Some((wanted.book.seq(), wanted.after));
    let oldest = tables.iter().map(|wanted| wanted.after).min().unwrap_or(i64::MAX);
    let moves = (&site.books.moves, Some((5, oldest)));
    let looked = tables.iter().map(|wanted| (&wanted.book.versions, above(wanted))).chain([moves]);
    let mut holding = holding(looked, target).await?;
    let has_moves = holding.pop() == Some(true);
    let last = site.last_number(target).await?;
    let most = limits.rows.max(site.database.abilities().log_lines);
    let (listed, whole) = list(tables, &holding, target, last, most).await?;
    let mut order: Vec<(i64, usize, usize)> = Vec::new();
    for (table, list) in listed.iter().enumerate() {
        let within = list.known.iter().enumerate().filter(|(_, known)| known.seq <= whole);
        order.extend(within.map(|(row, known)| (known.seq, table, row)));
    }
    order.sort_unstable();
    let mut upto = end(site, target, &order, whole, limits.rows).await?;
    order.retain(|(seq, ..)| *seq <= upto.position);
    let mut read: Vec<Changes> = tables.iter().map(|w| Changes::none(&w.book.keys, w.columns)).collect();
    let (mut done, mut bytes) = (0, 0);
    while done < order.len() {
        let end = order.len().min(done + fitting(limits.bytes.saturating_sub(bytes), done, bytes));
        let piece = &order[done..end];
        for (table, wanted) in tables.iter().enumerate() {
            let rows: Vec<usize> = piece.iter().filter(|(_, of, _)| *of == table).map(|(.., row)| *row).collect();
            if rows.is_empty() {
                continue;
            }
            let keys = listed[table].keys.select(rows.iter().copied());
            let found = rows.iter().map(|&row| Some(listed[table].known[row].entry.clone())).collect();
            let (changes, _) = standing(site, (wanted.book, wanted.which), wanted.columns, target, &keys, found)
                .await
                .map_err(|e| reading(e, wanted.book))
                .map_err(Fault::at(wanted.at))?;
            bytes += changes.rows.size() + 1;
            read[table].append(changes);
        }
        done += piece.len();
        if bytes >= limits.bytes && done < order.len() {
            let position = order[done - 1].0;
            upto = Mark { position, token: site.mark_at(target, position).await?.map_or(0, |mark| mark.token) };
            break;
        }
    }
    for (wanted, read) in tables.iter().zip(&mut read) {
        read.meant = meant(wanted.references, &read.rows, target).await.map_err(Fault::at(wanted.at))?;
    }
    if has_moves {
        for moved in site.moves_above(target, oldest).await? {
            let told = |wanted: &Wanted<'_>| wanted.book.logged.n == moved.table && moved.seq > wanted.after;
            if let Some(table) = tables.iter().position(told).filter(|_| moved.seq <= upto.position) {
                read[table].moves.push(moved.step);
            }
        }
    }
    Ok(Read { tables: read, upto, more: upto.position < last })
}

/// Which rows these refer to.
async fn meant(references: &[Reference], rows: &Batch, target: &mut dyn Target) -> Result<Vec<Meant>> {
    let mut meant = Vec::with_capacity(references.len());
    for Reference { column, parent, book } in references.iter().filter(|_| rows.rows() > 0) {
        let numbers = (0..rows.rows()).filter_map(|row| number(rows.cell(row, *column)));
        let births = births(book, numbers, target).await?;
        let birth = |row| number(rows.cell(row, *column)).and_then(|number| births.get(&number));
        let births = (0..rows.rows()).map(|row| birth(row).map_or(Version::BASE, |(birth, _)| *birth)).collect();
        meant.push(Meant { column: *column, parent: *parent, births });
    }
    Ok(meant)
}

/// A whole number.
pub(crate) fn number(cell: Cell<'_>) -> Option<i64> {
    if let Cell::Int(number) = cell { Some(number) } else { None }
}

/// The births of the rows under these numbers, and whether they stand.
pub(crate) async fn births(
    book: &Book,
    numbers: impl Iterator<Item = i64>,
    target: &mut dyn Target,
) -> Result<HashMap<i64, (Version, bool)>> {
    let mut keys = Column::default();
    let distinct: BTreeSet<i64> = numbers.collect();
    for number in &distinct {
        keys.push_int(*number);
    }
    if distinct.is_empty() {
        return Ok(HashMap::new());
    }
    let versions = Arc::new(book.versions.project(&[0, 2, book.digest()]));
    let found = target.lookup(&versions, &Batch::new(book.keys.clone(), vec![keys]), RowLock::None).await?;
    let birth = |row| match (found.cell(row, 0), found.cell(row, 1)) {
        (Cell::Int(number), Cell::Bytes(birth)) => {
            Some((number, (Version::from_bytes(birth).ok()?, found.cell(row, 2) != Cell::Null)))
        }
        _ => None,
    };
    Ok((0..found.rows()).filter_map(birth).collect())
}

/// The entries of each table above the number asked for, `most` at most; and the number up to which that is all.
async fn list(
    tables: &[Wanted<'_>],
    holding: &[bool],
    target: &mut dyn Target,
    last: i64,
    most: usize,
) -> Outcome<(Vec<Listed>, i64)> {
    let (mut listed, mut whole) = (Vec::with_capacity(tables.len()), last);
    for (wanted, holds) in tables.iter().zip(holding) {
        let book = wanted.book;
        if !holds {
            listed.push(Listed { keys: Batch::new(book.keys.clone(), book.no_keys()), known: Vec::new() });
            continue;
        }
        let list = async {
            let versions = target.scan(&book.versions, Some((book.seq(), wanted.after)), most).await?;
            let known = (0..versions.rows()).map(|row| decode(book, &versions, row)).collect::<Result<Vec<_>>>()?;
            Ok(Listed { keys: Batch::new(book.keys.clone(), versions.columns()[..book.width()].to_vec()), known })
        };
        let list = list.await.map_err(|e| reading(e, book)).map_err(Fault::at(wanted.at))?;
        if list.known.len() >= most {
            whole = whole.min(list.known.last().map_or(last, |known| known.seq));
        }
        listed.push(list);
    }
    Ok((listed, whole))
}

/// Where a parcel of about `rows` rows ends: with a whole transaction of the site's, rather a larger one than a part.
async fn end(
    site: &Site,
    target: &mut dyn Target,
    order: &[(i64, usize, usize)],
    whole: i64,
    rows: usize,
) -> Result<Mark> {
    let cut = if order.len() > rows { order[rows - 1].0 } else { whole };
    if let Some((first, ..)) = order.first()
        && let Some(mark) = site.last_mark(target, first - 1, cut).await?
    {
        return Ok(mark);
    }
    Ok(match site.mark_at(target, cut).await? {
        Some(mark) if mark.position <= whole => mark,
        // The transaction is larger than any parcel.
        Some(Mark { token, .. }) => Mark { position: cut, token },
        None => Mark { position: cut, token: 0 },
    })
}

/// Keys of rows that were deleted, or do not meet the condition `alive`, by their entries above a number, at most `limit`
/// of these; and the number up to which that is all. Where they end no key comes back.
pub async fn deleted(
    book: &Book,
    target: &mut dyn Target,
    (mut after, limit): (i64, usize),
    alive: Option<&str>,
) -> Result<(Batch, i64)> {
    let width = book.width();
    let wanted: Vec<usize> = (0..width).chain([book.digest(), book.seq()]).collect();
    let wanted = Arc::new(book.versions.project(&wanted));
    loop {
        let versions = target.scan(&wanted, Some((width + 1, after)), limit).await?;
        let keys = Batch::new(book.keys.clone(), versions.columns()[..width].to_vec());
        let alive = match alive.filter(|_| keys.rows() > 0) {
            Some(alive) => Some(meeting(book, target, &keys, alive).await?),
            None => None,
        };
        let all = places(book);
        let dead = |row: usize| alive.as_ref().is_some_and(|alive| !alive.contains(&key_id(&keys, row, &all)));
        let gone = |row: &usize| versions.cell(*row, width) == Cell::Null || dead(*row);
        let gone: Vec<usize> = (0..versions.rows()).filter(gone).collect();
        if let Some(Cell::Int(seq)) = versions.rows().checked_sub(1).map(|last| versions.cell(last, width + 1)) {
            after = seq;
        }
        if !gone.is_empty() || versions.rows() < limit {
            return Ok((keys.select(gone.into_iter()), after));
        }
    }
}

fn reading(e: Error, book: &Book) -> Error {
    e.context(format!("reading the changes of {}", book.logged.table.name))
}

/// What stands under keys at one point.
#[derive(Debug)]
pub struct Now {
    /// The rows, with the entry of [`Entry::standing_at`] where a row has none.
    pub changes: Changes,
    /// The places of those keys that have lines in the log or whose entry is of another content: they are left out, and
    /// can be read once they are folded.
    pub left_out: Vec<usize>,
    /// What the site had given out then; none: nothing yet.
    pub last: Option<Mark>,
}

/// Reads what stands under these keys.
pub async fn changes_of(site: &Site, wanted: &Wanted<'_>, target: &mut dyn Target, keys: &Batch) -> Result<Now> {
    let Wanted { book, which, columns, references, renumbered, .. } = *wanted;
    target.begin(WriteOptions { point: true, ..WriteOptions::default() }).await?;
    let read = async {
        let last = site.last_number(target).await?;
        let last = site.mark_at(target, last).await?;
        let known = read(target, book, keys).await?;
        let entry = |row| {
            let known = known.get(&key_id(keys, row, &places(book))).filter(|known| !known.is_parted());
            known.map(|known| known.entry.clone())
        };
        let found = (0..keys.rows()).map(entry).collect();
        let (mut changes, left_out) = standing(site, (book, which), columns, target, keys, found).await?;
        changes.meant = meant(references, &changes.rows, target).await?;
        if renumbered && site.has_moves(target).await? {
            // Who meets this site for the first time would else take a row that has moved for another one.
            let moves = site.moves_above(target, i64::MIN).await?.into_iter();
            changes.moves = moves.filter(|moved| moved.table == book.logged.n).map(|moved| moved.step).collect();
        }
        Ok(Now { changes, left_out, last })
    }
    .await;
    // The connection may be what failed; dropping it ends the transaction too.
    let ended = target.rollback().await;
    let now = read.map_err(|e: Error| e.context(format!("reading rows of {}", book.logged.table.name)))?;
    ended?;
    Ok(now)
}

async fn standing(
    site: &Site,
    (book, which): (&Book, Which<'_>),
    columns: &Arc<Table>,
    target: &mut dyn Target,
    keys: &Batch,
    found: Vec<Option<Entry>>,
) -> Result<(Changes, Vec<usize>)> {
    let whole = target.lookup(&book.logged.table, keys, RowLock::None).await?;
    let unfolded = unfolded(book, target, keys).await?;
    let (changes, left_out) = as_versioned((site.id, book), columns, keys, found, &whole, &unfolded);
    Ok((chosen(site, book, which, target, changes).await?, left_out))
}

/// What is to be said of these changes to who gets only some rows.
async fn chosen(
    site: &Site,
    book: &Book,
    which: Which<'_>,
    target: &mut dyn Target,
    mut changes: Changes,
) -> Result<Changes> {
    let (condition, alive, through) = match which {
        Which::All => return Ok(changes),
        Which::Meeting { condition, alive } => (condition, alive, None),
        Which::Returning(condition, through) => (condition, None, Some(through)),
    };
    let meeting = meeting(book, target, &changes.keys, condition).await?;
    let ids: Vec<KeyId> = (0..changes.keys.rows()).map(|row| key_id(&changes.keys, row, &places(book))).collect();
    let Some(through) = through else {
        changes.left =
            ids.iter().zip(&changes.row_of).map(|(id, row)| row.is_some() && !meeting.contains(id)).collect();
        let mut changes = changes.picked(&vec![true; ids.len()]);
        if let Some(alive) = alive.filter(|_| changes.left.contains(&true)) {
            let left = (0..ids.len()).filter(|&at| changes.left[at]).collect::<Vec<_>>();
            let alive = self::meeting(book, target, &changes.keys.select(left.iter().copied()), alive).await?;
            left.into_iter().filter(|&at| !alive.contains(&ids[at])).for_each(|at| changes.delete(at));
        }
        return Ok(changes);
    };
    let others = ids.iter().copied().filter(|id| !meeting.contains(id));
    let shared = site.shares(target, through, others).await?;
    let told: Vec<bool> = ids.iter().map(|id| meeting.contains(id) || shared.contains_key(id)).collect();
    Ok(changes.picked(&told))
}

/// Those of the keys whose rows meet a condition.
async fn meeting(book: &Book, target: &mut dyn Target, keys: &Batch, condition: &str) -> Result<HashSet<KeyId>> {
    let found = target.lookup_where(&book.logged.table, keys, condition).await?;
    Ok((0..found.rows()).map(|row| key_id(&found, row, &book.logged.key.columns)).collect())
}

/// Those of the keys, in any order of their columns, that were written since capture began; each as it is given.
pub async fn written(book: &Book, target: &mut dyn Target, keys: &Batch) -> Result<HashSet<KeyId>> {
    let of = |found: &Batch| -> HashSet<KeyId> {
        let at: Vec<usize> = keys.table.columns.iter().filter_map(|c| found.table.column(&c.name)).collect();
        (0..found.rows()).map(|row| key_id(found, row, &at)).collect()
    };
    let versions = target.lookup(&book.versions, keys, RowLock::None).await?;
    let mut written = HashSet::new();
    for row in 0..versions.rows() {
        if !decode(book, &versions, row)?.entry.version.is_base() {
            written.extend(of(&versions.select(std::iter::once(row))));
        }
    }
    written.extend(of(&target.lookup(&book.log.table, keys, RowLock::None).await?));
    Ok(written)
}

/// Those of the keys, in any order of their columns, whose rows came from a site or stood there too when the two met; each
/// as it is given. Without those that were found to be gone there, and stay.
pub async fn came(book: &Book, target: &mut dyn Target, keys: &Batch, from: model::Site) -> Result<HashSet<KeyId>> {
    let versions = target.lookup(&book.versions, keys, RowLock::None).await?;
    let at: Vec<usize> = keys.table.columns.iter().filter_map(|c| versions.table.column(&c.name)).collect();
    let mut came = HashSet::new();
    for row in 0..versions.rows() {
        let entry = decode(book, &versions, row)?.entry;
        if entry.stands_at(from) {
            came.insert(key_id(&versions, row, &at));
        }
    }
    Ok(came)
}

/// The key's columns in batches of keys.
fn places(book: &Book) -> Vec<usize> {
    (0..book.width()).collect()
}

/// Those of the keys whose rows are what their entries say; and the places of those that are not.
fn as_versioned(
    (site, book): (model::Site, &Book),
    columns: &Arc<Table>,
    keys: &Batch,
    found: Vec<Option<Entry>>,
    whole: &Batch,
    unfolded: &HashSet<KeyId>,
) -> (Changes, Vec<usize>) {
    let digests = rows_by_key(book, whole);
    let rows: HashMap<KeyId, usize> =
        (0..whole.rows()).map(|row| (key_id(whole, row, &book.logged.key.columns), row)).collect();
    let (mut kept, mut left_out) = (Vec::with_capacity(found.len()), Vec::new());
    let key: Vec<usize> = places(book);
    let places = facet_places(book, columns);
    for (at, entry) in found.into_iter().enumerate() {
        let id = key_id(keys, at, &key);
        let stands: Option<Digest> = digests.get(&id).copied();
        match entry.or_else(|| stands.map(|digest| Entry::standing_at(site, digest))) {
            // A row that is not what its version says was written past the triggers, or is about to be folded.
            Some(mut entry) if !unfolded.contains(&id) && stands == entry.digest => {
                entry.columns = sent(&entry, &places);
                kept.push((at, entry, rows.get(&id).copied()));
            }
            None if !unfolded.contains(&id) => {}
            _ => left_out.push(at),
        }
    }
    let alive: Vec<usize> = kept.iter().filter_map(|(.., row)| *row).collect();
    let mut next = 0..;
    let row_of = kept.iter().map(|(.., row)| row.and_then(|_| next.next())).collect();
    let keys = keys.select(kept.iter().map(|(at, ..)| *at));
    let changes = Changes {
        left: vec![false; kept.len()],
        entries: kept.iter().map(|(_, entry, _)| entry.clone()).collect(),
        row_of,
        ..Changes::of(keys, project(whole, columns).select(alive.into_iter()))
    };
    (changes, left_out)
}

/// For each of these columns its place among those that have facets; nothing where none are kept.
fn facet_places(book: &Book, columns: &Table) -> Vec<Option<usize>> {
    let place = |column: &ColumnDef| {
        let whole = &book.logged.table;
        let at = whole.column(&column.name).filter(|&at| !whole.columns[at].generated)?;
        Some(whole.columns[..at].iter().filter(|column| !column.generated).count())
    };
    if book.facets.is_some() { columns.columns.iter().map(place).collect() } else { Vec::new() }
}

/// The facets of the columns that are sent. What the database computes is of the last write.
fn sent(entry: &Entry, places: &[Option<usize>]) -> Vec<Facet> {
    if entry.digest.is_none() {
        return Vec::new();
    }
    let whole =
        Facet { version: if entry.version.is_base() { Version::BASE } else { entry.version }, digest: Digest(0) };
    let facet = |place: &Option<usize>| place.and_then(|at| entry.columns.get(at)).copied().unwrap_or(whole);
    places.iter().map(facet).collect()
}

/// The lines that the log has of these keys.
pub(crate) async fn lines_of(book: &Book, target: &mut dyn Target, keys: &Batch) -> Result<Batch> {
    let log = &book.log.table;
    if keys.rows() > FEW {
        let any = target.scan(log, None, 1).await?;
        if any.rows() == 0 {
            return Ok(any);
        }
    }
    target.lookup(log, keys, RowLock::None).await
}

/// The keys that have lines in the log.
async fn unfolded(book: &Book, target: &mut dyn Target, keys: &Batch) -> Result<HashSet<KeyId>> {
    let log = &book.log.table;
    let lines = lines_of(book, target, keys).await?;
    let key: Vec<usize> = book.keys.columns.iter().filter_map(|c| log.column(&c.name)).collect();
    Ok((0..lines.rows()).map(|row| key_id(&lines, row, &key)).collect())
}

/// The columns of `table`, found by name.
fn project(batch: &Batch, table: &Arc<Table>) -> Batch {
    let columns: Vec<Column> = table
        .columns
        .iter()
        .filter_map(|c| batch.table.column(&c.name))
        .map(|at| batch.columns()[at].clone())
        .collect();
    Batch::new(table.clone(), columns)
}
