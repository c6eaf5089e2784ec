//! Log → versions: takes what the triggers noted out of a change log and gives the rows their versions.
//!
//! Every line that is visible is taken, whatever its order, so that one that commits late is simply taken
//! later. A fold reads the log, then takes the site's numbers, then reads the rows and the entries. What an application
//! writes after the log was read is given a version that its next fold finds unchanged. What rowferry itself writes it
//! writes under the numbers' lock, so a row and its entry agree: a row read before would pass for another content than
//! its entry says, and get a version that nobody wrote.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::facets::unwritten;
use super::{Fault, Outcome};
use crate::conflict::{Folded, Origin, Written, anew, fold};
use crate::engine::{ChangeLog, Error, ErrorKind, Looked, Result, RowLock, Target, WriteMode, WriteOptions};
use crate::model::{Batch, Cell, Column, Digest, Entry, Table, cell_digests, row_digest};
use crate::runtime::Failpoint;
use crate::site::{Book, Entries, KeyId, Known, Site, decode, key_id, read};

/// Entries that are looked through at a time.
const ENTRIES: usize = 2_000;
/// Keys of a first piece, before it is known how large rows are.
const PIECE: usize = 100;
/// Bytes of rows that are read at once to learn their digests.
const ROWS_BYTES: usize = 4 << 20;

/// What one transaction has folded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Part {
    /// Whether there is more.
    pub more: bool,
    /// Lines that say that rows are gone; those of a table that was emptied at once count as very many.
    pub deletions: u64,
}

/// What only reads, at one point.
const POINT: WriteOptions =
    WriteOptions { silence_triggers: false, defer_foreign_keys: false, labelled: false, point: true };

/// Which of these tables hold a row, or one above a bound, at the point at which the transaction reads, which has read
/// nothing yet. Where one of them cannot be read, all are said to: whoever then reads it is told.
pub(super) async fn holding<'a>(
    tables: impl Iterator<Item = (&'a Arc<Table>, Option<(usize, i64)>)>,
    target: &mut dyn Target,
) -> Result<Vec<bool>> {
    let looked: Vec<Looked> = tables.map(|(table, above)| Looked { table: table.clone(), above }).collect();
    match target.holding(&looked).await {
        Err(e) if e.kind != ErrorKind::Unreachable => {
            target.rollback().await?;
            target.begin(POINT).await?;
            Ok(vec![true; looked.len()])
        }
        found => found,
    }
}

/// Folds what is in the logs of these tables, each named by its place in the sync, as much as one transaction takes. What
/// one transaction wrote to several of them is taken together: the logs are read at one
/// point.
pub async fn fold_part(site: &Site, tables: &[(usize, &Arc<Book>)], target: &mut dyn Target) -> Outcome<Part> {
    let (mut written, more) = read_logs(tables, target, site.database.abilities().log_lines).await?;
    // Whoever would write to an idle database must not hold its lock for it.
    if written.is_empty() {
        return Ok(Part::default());
    }
    target.begin(WriteOptions::default()).await?;
    let folded = async {
        for noted in &mut written {
            noted.add_unnamed(target).await.map_err(|e| folding(e, &noted.book)).map_err(Fault::at(noted.at))?;
        }
        fold_keys(site, &written, target).await?;
        for noted in &written {
            target.write(WriteMode::Delete, &noted.taken).await.map_err(Fault::at(noted.at))?;
        }
        Ok(())
    };
    if let Err(fault) = folded.await {
        // The connection may be what failed; dropping it rolls back too.
        let _ = target.rollback().await;
        return Err(fault);
    }
    Failpoint::FoldWritten.reach();
    target.commit().await?;
    Failpoint::FoldCommitted.reach();
    Ok(Part { more, deletions: written.iter().fold(0, |sum, noted| noted.deletions().saturating_add(sum)) })
}

/// Folds all that is in the logs of these tables.
pub async fn fold_tables(site: &Site, tables: &[(usize, &Arc<Book>)], target: &mut dyn Target) -> Outcome<()> {
    while fold_part(site, tables, target).await?.more {}
    Ok(())
}

/// What was noted and has no version yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Lines of the logs.
    pub lines: u64,
    /// As [`Part::deletions`].
    pub deletions: u64,
}

/// What the logs of these tables hold.
pub async fn backlog(tables: &[(usize, &Arc<Book>)], target: &mut dyn Target) -> Outcome<Backlog> {
    target.begin(POINT).await?;
    let count = async {
        let mut backlog = Backlog::default();
        for &(at, book) in tables {
            let log = &book.log.table;
            let Some(operation) = log.column(ChangeLog::OPERATION) else { continue };
            let operation = Arc::new(log.project(&[operation]));
            for (operations, weight) in [("IU", 0), ("DT", 1), ("X?", u64::MAX)] {
                let mut column = Column::default();
                operations.bytes().for_each(|letter| column.push_bytes(&[letter]));
                let lines = target.count(log, &Batch::new(operation.clone(), vec![column])).await;
                let lines = lines.map_err(Fault::at(at))?;
                backlog.lines += lines;
                backlog.deletions = backlog.deletions.saturating_add(lines.saturating_mul(weight));
            }
        }
        Ok::<_, Fault>(backlog)
    };
    let count = count.await;
    let ended = target.rollback().await;
    let count = count?;
    ended?;
    Ok(count)
}

/// What the logs hold at one point, at most so many lines; and whether there may be more.
async fn read_logs(
    tables: &[(usize, &Arc<Book>)],
    target: &mut dyn Target,
    most: usize,
) -> Outcome<(Vec<Noted>, bool)> {
    target.begin(POINT).await?;
    let read = async {
        let holding = holding(tables.iter().map(|(_, book)| (&book.log.table, None)), target).await?;
        let (mut written, mut left) = (Vec::new(), most);
        for (&(at, book), holds) in tables.iter().zip(holding) {
            if left == 0 {
                break;
            }
            if !holds {
                continue;
            }
            let taken = target.scan(&book.log.table, None, left).await.map_err(Fault::at(at))?;
            left -= taken.rows().min(left);
            if taken.rows() > 0 {
                written.push(Noted::new(at, book, taken).map_err(Fault::at(at))?);
            }
        }
        Ok::<_, Fault>((written, left == 0))
    };
    let read = read.await;
    let ended = target.rollback().await;
    let read = read?;
    ended?;
    Ok(read)
}

/// Lines of the log of one table.
pub(crate) struct Noted {
    /// The table's place among those of the sync.
    pub(crate) at: usize,
    book: Arc<Book>,
    lines: Lines,
    /// The lines as they stand in the log.
    pub(crate) taken: Batch,
}

impl Noted {
    /// Sorts them by key.
    pub(crate) fn new(at: usize, book: &Arc<Book>, taken: Batch) -> Result<Self> {
        Ok(Self { at, book: book.clone(), lines: Lines::read(book, &taken)?, taken })
    }

    fn deletions(&self) -> u64 {
        let gone = self.lines.noted.iter().filter(|(_, line)| line.gone).count() as u64;
        if self.lines.emptied.is_some() { u64::MAX } else { gone }
    }

    /// What lines that name no row say of rows that are known: where the table was emptied at once, those that do not stand
    /// there any more are gone; where rows were written unseen, those that are not what they were known to be were written.
    pub(crate) async fn add_unnamed(&mut self, target: &mut dyn Target) -> Result<()> {
        let Some(wall) = self.lines.emptied else { return Ok(()) };
        let (book, mut above) = (self.book.clone(), i64::MIN);
        let named: HashSet<KeyId> = self.lines.noted.iter().map(|(id, _)| *id).collect();
        let key: Vec<usize> = (0..book.width()).collect();
        loop {
            let versions = target.scan(&book.versions, Some((book.seq(), above)), ENTRIES).await?;
            let keys = Batch::new(book.keys.clone(), versions.columns()[..book.width()].to_vec());
            let standing = digests(&book, &keys, target).await?;
            for row in 0..versions.rows() {
                let known = decode(&book, &versions, row)?;
                above = known.seq;
                let id = key_id(&keys, row, &key);
                let stands = standing.get(&id).copied();
                if named.contains(&id) || known.is_parted() || known.entry.digest == stands {
                    continue;
                }
                if stands.is_none() {
                    self.lines.push(&keys, row, id, Line::gone(wall));
                } else if self.lines.doubted {
                    self.lines.push(&keys, row, id, Line::UNSEEN);
                }
            }
            if versions.rows() < ENTRIES {
                return Ok(());
            }
        }
    }
}

/// Gives the keys of these lines their versions, in the open transaction. The lines themselves stay.
pub(crate) async fn fold_keys(site: &Site, written: &[Noted], target: &mut dyn Target) -> Outcome<()> {
    let now = target.now().await?;
    // An emptied table takes a number even if no row of it is known.
    let numbers = |noted: &Noted| noted.lines.keys.rows() + usize::from(noted.lines.emptied.is_some());
    let mut first = site.take_numbers(target, written.iter().map(numbers).sum()).await?;
    let origin = Origin { site: site.id, now, floor: site.floor(target).await? };
    let since = site.faceted_since(target, written.iter().map(|noted| &noted.book)).await?;
    for noted in written {
        let kept = since.contains(&noted.book.logged.n).then(|| Arc::new((*noted.book).clone().with_facets()));
        let book = kept.as_ref().unwrap_or(&noted.book);
        let result = fold_table(book, &noted.lines, first, &origin, target).await;
        result.map_err(|e| folding(e, &noted.book)).map_err(Fault::at(noted.at))?;
        first += i64::try_from(numbers(noted)).unwrap_or(0);
        if noted.lines.emptied.is_some() {
            site.set_emptied(target, noted.book.logged.n, first - 1).await.map_err(Fault::at(noted.at))?;
        }
        if noted.lines.doubted {
            site.set_doubted(target, noted.book.logged.n, first - 1).await.map_err(Fault::at(noted.at))?;
        }
    }
    Ok(())
}

/// Gives tombstones to those of these keys under which nothing stands and of which nothing is known: someone else has
/// rows there that went when the table was emptied, just now or, where that is `forgotten`, as long ago as can be. The
/// places of all of which no more is known then than that they went. In a transaction of its own.
pub async fn bury(
    site: &Site,
    table: (usize, &Arc<Book>),
    keys: &Batch,
    forgotten: bool,
    target: &mut dyn Target,
) -> Outcome<Vec<usize>> {
    let mut gone = Vec::new();
    give(site, table, keys, target, |row, known, stands, now| {
        if stands.is_none() && known.is_none_or(|known| !known.is_parted() && known.entry.is_bare_deletion()) {
            gone.push(row);
        }
        (known.is_none() && stands.is_none()).then(|| Line::gone(if forgotten { 0 } else { now }))
    })
    .await?;
    Ok(gone)
}

/// Gives what stands under these keys a new version, as old as can be: the other end has it otherwise, and nothing says
/// who wrote it. Only to rows that nobody has written under capture, or to `all`. In a transaction of its own.
pub async fn vouch(
    site: &Site,
    table: (usize, &Arc<Book>),
    keys: &Batch,
    all: bool,
    target: &mut dyn Target,
) -> Outcome<()> {
    give(site, table, keys, target, |_, known, stands, _| {
        let unwritten = known.is_none_or(|known| known.entry.version.is_base());
        (stands.is_some() && (all || unwritten)).then_some(Line { anew: true, ..Line::UNSEEN })
    })
    .await
}

/// Takes those of these keys for noted of which `line` says what, by their place, their entry, what stands there and the time.
async fn give(
    site: &Site,
    (at, book): (usize, &Arc<Book>),
    keys: &Batch,
    target: &mut dyn Target,
    mut line: impl FnMut(usize, Option<&Known>, Option<&Digest>, i64) -> Option<Line> + Send,
) -> Outcome<()> {
    target.begin(WriteOptions::default()).await?;
    let given = async {
        let known = read(target, book, keys).await.map_err(Fault::at(at))?;
        let standing = digests(book, keys, target).await.map_err(Fault::at(at))?;
        let now = target.now().await?;
        let mut noted = Noted { at, book: book.clone(), lines: Lines::none(book), taken: keys.select(0..0) };
        let all: Vec<usize> = (0..keys.columns().len()).collect();
        for row in 0..keys.rows() {
            let id = key_id(keys, row, &all);
            if let Some(line) = line(row, known.get(&id), standing.get(&id), now) {
                noted.lines.push(keys, row, id, line);
            }
        }
        fold_keys(site, &[noted], target).await
    };
    match given.await {
        Ok(()) => Ok(target.commit().await?),
        Err(fault) => {
            // The connection may be what failed; dropping it rolls back too.
            let _ = target.rollback().await;
            Err(fault)
        }
    }
}

fn folding(e: Error, book: &Book) -> Error {
    e.context(format!("folding the changes of {}", book.logged.table.name))
}

async fn fold_table(
    book: &Arc<Book>,
    written: &Lines,
    first: i64,
    origin: &Origin,
    target: &mut dyn Target,
) -> Result<()> {
    let standing = contents(book, &written.keys, target).await?;
    let known = read(target, book, &written.keys).await?;
    let (mut new, mut changed) = (Entries::new(book), Entries::new(book));
    for (row, (id, line)) in written.noted.iter().enumerate() {
        let seq = first + i64::try_from(row).unwrap_or(0);
        let previous = known.get(id);
        let seen = previous.filter(|known| !known.is_parted());
        let (digest, columns) = standing.get(id).map_or((None, &[][..]), |(digest, columns)| (Some(*digest), columns));
        // One that came and went is no other site's row, whether or not one stood there before it.
        let born = line.born && (!line.stood || digest.is_none());
        let told = Written { wall: line.wall, born, digest, columns };
        let entry = if line.ours_alone {
            // Loaded by rowferry without a version: it counts as older than any.
            seen.map_or_else(|| base(digest, columns), |known| Some(known.entry.clone()))
        } else if line.anew {
            Some(anew(seen.map(|known| &known.entry), &told, origin))
        } else {
            match fold(seen.map(|known| &known.entry), &told, origin) {
                Folded::Same => seen.map(|known| known.entry.clone()),
                Folded::New(entry) => Some(entry),
            }
        };
        let Some(entry) = entry else { continue };
        let batch = if previous.is_some() { &mut changed } else { &mut new };
        batch.push(&written.keys, row, &Known { entry, seq });
    }
    target.write(WriteMode::Update, &changed.batch()).await?;
    target.write(WriteMode::Insert, &new.batch()).await?;
    target.flush().await
}

/// How many keys to look up next, so that their rows are likely to fit: of rows whose size nobody knows yet, a few.
pub(super) fn fitting(room: usize, done: usize, bytes: usize) -> usize {
    bytes.checked_div(done).map_or(PIECE, |row| (room / row.max(1)).max(1))
}

/// Digests of the rows that stand under these keys.
async fn digests(book: &Book, keys: &Batch, target: &mut dyn Target) -> Result<HashMap<KeyId, Digest>> {
    digests_over(book, keys, &content(book), target).await
}

/// Digests over these columns of the rows that stand under these keys.
pub(super) async fn digests_over(
    book: &Book,
    keys: &Batch,
    columns: &[usize],
    target: &mut dyn Target,
) -> Result<HashMap<KeyId, Digest>> {
    standing(book, keys, target, |rows, row| row_digest(rows, row, columns)).await
}

/// Digests of the rows that stand under these keys and, where facets are kept, of their values.
pub(super) async fn contents(
    book: &Book,
    keys: &Batch,
    target: &mut dyn Target,
) -> Result<HashMap<KeyId, (Digest, Vec<Digest>)>> {
    let content = content(book);
    let digests = |rows: &Batch, row: usize| {
        let columns = if book.facets.is_some() { cell_digests(rows, row, &content) } else { Vec::new() };
        (row_digest(rows, row, &content), columns)
    };
    standing(book, keys, target, digests).await
}

/// What this says of each row that stands under these keys. The rows themselves are not all in memory at once.
async fn standing<T>(
    book: &Book,
    keys: &Batch,
    target: &mut dyn Target,
    say: impl Fn(&Batch, usize) -> T,
) -> Result<HashMap<KeyId, T>> {
    let (mut said, mut done, mut bytes) = (HashMap::with_capacity(keys.rows()), 0, 0);
    while done < keys.rows() {
        let upto = keys.rows().min(done + fitting(ROWS_BYTES, done, bytes));
        let rows = target.lookup(&book.logged.table, &keys.select(done..upto), RowLock::None).await?;
        bytes += rows.size() + 1;
        said.extend((0..rows.rows()).map(|row| (key_id(&rows, row, &book.logged.key.columns), say(&rows, row))));
        done = upto;
    }
    Ok(said)
}

fn base(digest: Option<Digest>, columns: &[Digest]) -> Option<Entry> {
    digest.map(|digest| Entry { columns: unwritten(columns), ..Entry::base(digest) })
}

/// Digests of rows by their keys.
pub(crate) fn rows_by_key(book: &Book, rows: &Batch) -> HashMap<KeyId, Digest> {
    let columns = content(book);
    by_key(book, rows, &columns).collect()
}

fn by_key<'a>(book: &'a Book, rows: &'a Batch, columns: &'a [usize]) -> impl Iterator<Item = (KeyId, Digest)> + 'a {
    (0..rows.rows()).map(|row| (key_id(rows, row, &book.logged.key.columns), row_digest(rows, row, columns)))
}

/// The columns that make a row's content: what the database computes follows from the others.
pub(crate) fn content(book: &Book) -> Vec<usize> {
    let table = &book.logged.table;
    (0..table.columns.len()).filter(|&c| !table.columns[c].generated).collect()
}

/// What the log says of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Line {
    wall: i64,
    /// An insert was noted.
    born: bool,
    /// Something was noted that says that a row stood there before.
    stood: bool,
    /// A deletion was noted.
    gone: bool,
    /// Nothing was noted but what rowferry itself wrote.
    ours_alone: bool,
    /// What stands there gets a new version, whatever its entry says.
    anew: bool,
}

impl Line {
    const NONE: Self = Self { wall: i64::MIN, born: false, stood: false, gone: false, ours_alone: true, anew: false };
    /// Of a row that was written nobody knows when.
    const UNSEEN: Self = Self { wall: 0, stood: true, ours_alone: false, ..Self::NONE };

    /// Of a key whose row went.
    const fn gone(wall: i64) -> Self {
        Self { wall, stood: true, gone: true, ours_alone: false, ..Self::NONE }
    }
}

/// Lines of a log by their keys.
pub(crate) struct Lines {
    /// Each key once.
    pub(crate) keys: Batch,
    /// The keys in the order of `keys`.
    noted: Vec<(KeyId, Line)>,
    /// When the table was emptied at once, if it was.
    emptied: Option<i64>,
    /// Whether rows were written unseen; the table counts as emptied too then, nobody knows when.
    doubted: bool,
}

impl Lines {
    fn none(book: &Book) -> Self {
        Self { keys: Batch::new(book.keys.clone(), book.no_keys()), noted: Vec::new(), emptied: None, doubted: false }
    }

    /// Adds a key.
    fn push(&mut self, keys: &Batch, row: usize, id: KeyId, line: Line) {
        self.keys.append(&keys.select(std::iter::once(row)));
        self.noted.push((id, line));
    }

    /// Sorts the lines of a log by key.
    pub(crate) fn read(book: &Book, lines: &Batch) -> Result<Self> {
        let log = &book.log.table;
        let column = |name: &str| {
            log.column(name).ok_or_else(|| Error::new(ErrorKind::Protocol, format!("{} has no {name}", log.name)))
        };
        let key: Vec<usize> = book.keys.columns.iter().map(|c| column(&c.name)).collect::<Result<_>>()?;
        let (operation, wall, label) =
            (column(ChangeLog::OPERATION)?, column(ChangeLog::WALL)?, column(ChangeLog::LABEL)?);
        let mut columns: Vec<Column> = book.no_keys();
        let mut places: HashMap<KeyId, usize> = HashMap::new();
        let mut found: Vec<(KeyId, Line)> = Vec::new();
        let (mut emptied, mut doubted) = (None, false);
        for row in 0..lines.rows() {
            if lines.cell(row, operation) == Cell::Bytes(b"?") {
                (emptied, doubted) = (emptied.max(Some(0)), true);
                continue;
            }
            if lines.cell(row, operation) == Cell::Bytes(b"X") {
                if let Cell::Int(micros) = lines.cell(row, wall) {
                    emptied = emptied.max(Some(micros));
                }
                continue;
            }
            if key.iter().any(|&c| lines.cell(row, c) == Cell::Null) {
                // No row is found by such a key, so none was given a version by it.
                continue;
            }
            let id = key_id(lines, row, &key);
            let at = *places.entry(id).or_insert_with(|| {
                for (column, &c) in columns.iter_mut().zip(&key) {
                    column.push_cell(lines.cell(row, c));
                }
                found.push((id, Line::NONE));
                found.len() - 1
            });
            let line = &mut found[at].1;
            line.ours_alone &= lines.cell(row, label) == Cell::Int(1);
            if let Cell::Int(micros) = lines.cell(row, wall) {
                line.wall = line.wall.max(micros);
            }
            match lines.cell(row, operation) {
                Cell::Bytes(b"I") => line.born = true,
                Cell::Bytes(b"D" | b"T") => (line.stood, line.gone) = (true, true),
                _ => {}
            }
        }
        Ok(Self { keys: Batch::new(book.keys.clone(), columns), noted: found, emptied, doubted })
    }
}
