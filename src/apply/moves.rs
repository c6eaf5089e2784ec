//! Rows that give up their generated number: two sites that are apart give one number to two rows, and the one that was
//! born later gets another where it was born, with all that refers to it.
//!
//! A move is told like a change (`site::Moved`): every site that has the row moves it too, and what still comes under the
//! old number, from a site that has not heard of it, is taken for what it means ([`redirect`]). The row keeps its birth
//! and its version, for it is the same row.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::changes::as_it_stands;
use super::record::Records;
use crate::capture::{Changes, Noted, content, fold_keys, lines_of, number};
use crate::conflict::Origin;
use crate::engine::{Error, ErrorKind, Result, RowLock, Target, WriteMode, WriteOptions};
use crate::model::{Batch, Cell, Clock, Column, Move, Version, cell_digests, row_digest};
use crate::site::{Book, Entries, KeyId, Known, Moved, Site, Through, key_id, read};

/// Notes that a row is to give up its number, unless that is known.
///
/// # Errors
/// What the database says.
pub(super) async fn note_move(site: &Site, target: &mut dyn Target, book: &Book, step: Move) -> Result<()> {
    let n = book.logged.n;
    let known = site.moves_of(target, &[(n, step.number)]).await?;
    let known = known.iter().find(|known| known.step.birth == step.birth);
    let clock = known.map_or(Clock::ZERO, |known| known.clock);
    match (known.map(|known| known.step.to), step.to) {
        (None | Some(None), Some(_)) => drop(site.note_move(target, (n, step), false, Clock::ZERO).await?),
        // Only where it was born it gets a number.
        (None, None) => drop(site.note_move(target, (n, step), step.birth.site.id != site.id.id, Clock::ZERO).await?),
        // It was given two, since its site was restored in between: the lower one holds everywhere.
        (Some(Some(ours)), Some(theirs)) if ours != theirs => {
            let (low, high) = (ours.min(theirs), ours.max(theirs));
            if ours == high {
                site.note_move(target, (n, Move { to: Some(low), ..step }), false, clock).await?;
            }
            let again = Move { number: high, birth: step.birth, to: Some(low) };
            let there = site.moves_of(target, &[(n, high)]).await?;
            if !there.iter().any(|there| there.step == again) {
                site.note_move(target, (n, again), false, Clock::ZERO).await?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Notes what another site says of a table's moves, in a transaction of its own.
///
/// # Errors
/// What the database says.
pub async fn note_moves(site: &Site, target: &mut dyn Target, book: &Book, steps: &[Move]) -> Result<()> {
    target.begin(WriteOptions::default()).await?;
    let noted = async {
        site.lock_numbers(target).await?;
        for step in steps {
            note_move(site, target, book, *step).await?;
        }
        Ok(())
    }
    .await;
    ended(target, noted).await
}

async fn ended<T>(target: &mut dyn Target, done: Result<T>) -> Result<T> {
    match done {
        Ok(done) => target.commit().await.map(|()| done),
        Err(e) => {
            // The connection may be what failed; dropping it rolls back too.
            let _ = target.rollback().await;
            Err(e)
        }
    }
}

/// The changes of a table as this site would have said them.
pub struct Redirected {
    /// Each key once.
    pub changes: Changes,
    /// Of rows that others of these were told under the number of, which they have now: taken in after them.
    pub after: Option<Changes>,
}

/// The changes as this site would have said them, which knows of moves that the other one did not know of; `None`: they
/// stay as they are. `tables`: for each table of the sync what is kept of it here.
///
/// # Errors
/// What the database says.
pub async fn redirect(
    site: &Site,
    target: &mut dyn Target,
    changes: &Changes,
    (book, tables): (&Book, &[Option<Arc<Book>>]),
) -> Result<Option<Redirected>> {
    let mut out: Option<Changes> = None;
    let mut late = vec![false; changes.keys.rows()];
    if book.number().is_some() {
        let numbers = (0..changes.keys.rows()).map(|row| number(changes.keys.cell(row, 0)));
        let births = changes.entries.iter().map(|entry| entry.birth);
        let (keys, moved) = moved_on(site, target, (book, &changes.keys.columns()[0]), numbers.clone().zip(births)).await?;
        if !moved.is_empty() {
            // Another row may be told under the number, or the same one by who has heard of the move.
            let stay = numbers.enumerate().filter(|(row, _)| !moved.contains(row)).map(|(_, number)| number);
            let mut taken: HashSet<Option<i64>> = stay.collect();
            for &row in &moved {
                late[row] = !taken.insert(number(keys.cell(row)));
            }
            let column = changes.keys.table.columns[0].name.clone();
            let mut redirected = changes.clone();
            if let Some(at) = redirected.rows.table.column(&column) {
                let mut numbers = redirected.rows.columns()[at].clone();
                for &row in &moved {
                    if let Some(of) = redirected.row_of[row] {
                        numbers = with(&numbers, of, keys.cell(row));
                    }
                }
                redirected.rows = replaced(&redirected.rows, at, numbers);
            }
            redirected.keys = replaced(&redirected.keys, 0, keys);
            out = Some(redirected);
        }
    }
    for meant in &changes.meant {
        let Some(Some(parent)) = tables.get(meant.parent) else { continue };
        let rows = &changes.rows;
        let numbers = (0..rows.rows()).map(|row| number(rows.cell(row, meant.column)));
        let column = &rows.columns()[meant.column];
        let (column, moved) =
            moved_on(site, target, (parent, column), numbers.zip(meant.births.iter().copied())).await?;
        if !moved.is_empty() {
            let redirected = out.get_or_insert_with(|| changes.clone());
            redirected.rows = replaced(&redirected.rows, meant.column, column);
        }
    }
    Ok(out.map(|changes| {
        if !late.contains(&true) {
            return Redirected { changes, after: None };
        }
        let on_time: Vec<bool> = late.iter().map(|late| !late).collect();
        Redirected { changes: changes.picked(&on_time), after: Some(changes.picked(&late)) }
    }))
}

fn with(column: &Column, row: usize, cell: Cell<'_>) -> Column {
    let mut out = Column::default();
    for at in 0..column.len() {
        out.push_cell(if at == row { cell } else { column.cell(at) });
    }
    out
}

fn replaced(batch: &Batch, at: usize, column: Column) -> Batch {
    let mut columns = batch.columns().to_vec();
    columns[at] = column;
    Batch::new(batch.table.clone(), columns)
}

/// Numbers of rows with the births that they mean, as they are now; and which of them are others.
async fn moved_on(
    site: &Site,
    target: &mut dyn Target,
    (book, column): (&Book, &Column),
    meant: impl Iterator<Item = (Option<i64>, Version)> + Clone,
) -> Result<(Column, Vec<usize>)> {
    let mut known: HashMap<(i64, Version), i64> = HashMap::new();
    let mut asked: Vec<(u32, i64)> =
        meant.clone().filter(|(_, birth)| !birth.is_base()).filter_map(|(n, _)| Some((book.logged.n, n?))).collect();
    // A row may have moved more than once.
    loop {
        asked.sort_unstable();
        asked.dedup();
        if asked.is_empty() {
            break;
        }
        let found = site.moves_of(target, &asked).await?;
        let steps = found.into_iter().filter(|moved| moved.done).map(|moved| moved.step);
        let steps = steps.filter(|step| !known.contains_key(&(step.number, step.birth)));
        let steps: Vec<(Move, i64)> = steps.filter_map(|step| Some((step, step.to?))).collect();
        known.extend(steps.iter().map(|(step, to)| ((step.number, step.birth), *to)));
        asked = steps.iter().map(|(_, to)| (book.logged.n, *to)).collect();
    }
    let (mut out, mut moved) = (Column::default(), Vec::new());
    for (row, (at, birth)) in meant.enumerate() {
        let mut now = at;
        // What another site says may go round in a circle, which is to hold up nobody.
        for _ in 0..known.len() {
            let Some(to) = now.and_then(|now| known.get(&(now, birth))) else { break };
            now = Some(*to);
        }
        match now {
            Some(to) if now != at => {
                moved.push(row);
                out.push_int(to);
            }
            _ => out.push_cell(column.cell(row)),
        }
    }
    Ok((out, moved))
}

/// Sees to the moves of a table that are not done here. Whether any was.
///
/// # Errors
/// `Busy` where someone holds a row that is to move; what the database says, with the number.
pub async fn move_rows(
    (site, book, through): (&Site, &Arc<Book>, Option<Through>),
    target: &mut dyn Target,
    moves: &[Moved],
    records: impl Fn() -> Records + Sync,
) -> Result<bool> {
    let mut any = false;
    let of_table = || moves.iter().filter(|moved| moved.table == book.logged.n);
    for moved in of_table().filter(|moved| !moved.done) {
        // Where it stands, if it stands here: a move of a row that had moved before may have come first.
        let mut numbers = vec![moved.step.number];
        while let Some(before) = of_table().find(|other| {
            other.step.birth == moved.step.birth
                && other.step.to.is_some_and(|to| numbers.contains(&to))
                && !numbers.contains(&other.step.number)
        }) {
            numbers.push(before.step.number);
        }
        target.begin(WriteOptions::default()).await?;
        let done = move_row((site, book, through), target, (moved, &numbers), &records).await;
        let done =
            done.map_err(|e| e.context(format!("moving row {} of {}", moved.step.number, book.logged.table.name)));
        any |= ended(target, done).await?;
    }
    Ok(any)
}

/// Rows that hold the number, of the table itself or of one that refers to it: what is known of them goes along. They get
/// no version, or what another site has written to them meanwhile would be in conflict with the move.
struct Carried {
    book: Arc<Book>,
    /// The columns that hold the number or refer to it.
    columns: Vec<usize>,
    /// As they stood.
    rows: Batch,
    known: HashMap<KeyId, Known>,
}

impl Carried {
    /// Locks the rows that hold one of these numbers, and gives versions to what was noted of them before.
    async fn lock(
        site: &Site,
        target: &mut dyn Target,
        (book, columns): (&Arc<Book>, Vec<usize>),
        numbers: &[i64],
    ) -> Result<Self> {
        let table = &book.logged.table;
        let mut found: Option<Batch> = None;
        for &column in &columns {
            let mut number = Column::default();
            for of in numbers {
                number.push_int(*of);
            }
            let keys = Batch::new(Arc::new(table.project(&[column])), vec![number]);
            let rows = target.lookup(table, &keys, RowLock::SkipHeld).await?;
            if target.count(table, &keys).await? > rows.rows() as u64 {
                return Err(Error::new(ErrorKind::Busy, format!("another transaction holds a row of {}", table.name)));
            }
            match &mut found {
                Some(found) => {
                    let key = &book.logged.key.columns;
                    let there: Vec<KeyId> = (0..found.rows()).map(|row| key_id(found, row, key)).collect();
                    let new = (0..rows.rows()).filter(|&row| !there.contains(&key_id(&rows, row, key)));
                    found.append(&rows.select(new.collect::<Vec<_>>().into_iter()));
                }
                None => found = Some(rows),
            }
        }
        let rows = found.unwrap_or_else(|| Batch::new(table.clone(), vec![Column::default(); table.columns.len()]));
        let keys = keys_of(book, &rows);
        let lines = lines_of(book, target, &keys).await?;
        if lines.rows() > 0 {
            let noted = Noted::new(0, book, lines)?;
            fold_keys(site, std::slice::from_ref(&noted), target).await.map_err(|fault| fault.error)?;
            target.write(WriteMode::Delete, &noted.taken).await?;
        }
        site.lock_numbers(target).await?;
        let known = read(target, book, &keys).await?;
        Ok(Self { book: book.clone(), columns, rows, known })
    }

    /// The latest write that is known of them.
    fn latest(&self) -> Clock {
        self.known.values().map(|known| known.entry.latest()).max().unwrap_or(Clock::ZERO)
    }

    /// The rows as they are meant to be under the new number.
    fn moved(&self, from: i64, to: i64) -> Batch {
        let mut out = self.rows.clone();
        for &at in &self.columns {
            let mut column = Column::default();
            for row in 0..out.rows() {
                let cell = out.cell(row, at);
                column.push_cell(if cell == Cell::Int(from) { Cell::Int(to) } else { cell });
            }
            out = replaced(&out, at, column);
        }
        out
    }

    /// What is known of them stands under their new keys, once they have them. What a trigger made of them besides is a
    /// write of this site.
    async fn carry(self, site: &Site, target: &mut dyn Target, (from, to): (i64, i64)) -> Result<()> {
        let (meant, book) = (self.moved(from, to), &self.book);
        let (old, new) = (keys_of(book, &self.rows), keys_of(book, &meant));
        let origin = Origin { site: site.id, now: target.now().await?, floor: site.floor(target).await? };
        let (key, columns) = (&book.logged.key.columns, content(book));
        let stands = target.lookup(&book.logged.table, &new, RowLock::None).await?;
        let places: HashMap<KeyId, usize> = (0..stands.rows()).map(|row| (key_id(&stands, row, key), row)).collect();
        for keys in [&old, &new] {
            let lines = lines_of(book, target, keys).await?;
            target.write(WriteMode::Delete, &lines).await?;
            let there = target.lookup(&book.versions, keys, RowLock::None).await?;
            target.write(WriteMode::Delete, &there).await?;
        }
        let told = |batch: &Batch, row: usize| {
            let cells = if book.facets.is_some() { cell_digests(batch, row, &columns) } else { Vec::new() };
            (Some(row_digest(batch, row, &columns)), cells)
        };
        let first = site.take_numbers(target, self.rows.rows()).await?;
        let mut entries = Entries::new(book);
        for row in 0..self.rows.rows() {
            let Some(known) = self.known.get(&key_id(&self.rows, row, key)) else { continue };
            let mut entry = known.entry.clone();
            let (digest, cells) = told(&meant, row);
            entry.digest = digest;
            entry.columns.iter_mut().zip(cells).for_each(|(facet, digest)| facet.digest = digest);
            if let Some(&place) = places.get(&key_id(&meant, row, key)) {
                let (digest, cells) = told(&stands, place);
                entry = as_it_stands(entry, (digest, &cells), &origin);
            }
            entries.push(&new, row, &Known { entry, seq: first + i64::try_from(row).unwrap_or(0) });
            let id = |keys: &Batch| key_id(keys, row, &(0..book.width()).collect::<Vec<_>>());
            if id(&old) != id(&new) {
                site.share_as(target, book.logged.n, id(&old), id(&new)).await?;
            }
        }
        target.write(WriteMode::Insert, &entries.batch()).await?;
        target.flush().await
    }
}

fn keys_of(book: &Book, rows: &Batch) -> Batch {
    let columns = book.keys.columns.iter().filter_map(|column| rows.table.column(&column.name));
    Batch::new(book.keys.clone(), columns.map(|at| rows.columns()[at].clone()).collect())
}

/// The columns of captured tables that refer to a number, by themselves or by what they refer to, and its own: by table.
fn followers(site: &Site, book: &Arc<Book>, column: usize) -> Vec<(Arc<Book>, Vec<usize>)> {
    let mut found: Vec<(&Arc<Book>, usize)> = vec![(book, column)];
    let mut next = 0;
    while let Some(&(parent, of)) = found.get(next) {
        let (parent, of) = (&parent.logged.table, &parent.logged.table.columns[of].name);
        for child in &site.tables {
            let table = &child.logged.table;
            for key in table.foreign_keys.iter().filter(|key| key.parent == parent.name) {
                let own = key.columns.iter().zip(&key.parent_columns).filter(|(_, parent)| *parent == of);
                for at in own.filter_map(|(own, _)| table.column(own)) {
                    if !found.iter().any(|(book, column)| book.logged.n == child.logged.n && *column == at) {
                        found.push((child, at));
                    }
                }
            }
        }
        next += 1;
    }
    let mut tables: Vec<(Arc<Book>, Vec<usize>)> = Vec::new();
    for (book, column) in found {
        match tables.iter_mut().find(|(other, _)| other.logged.n == book.logged.n) {
            Some((_, columns)) => columns.push(column),
            None => tables.push((book.clone(), vec![column])),
        }
    }
    tables
}

async fn move_row(
    (site, book, through): (&Site, &Arc<Book>, Option<Through>),
    target: &mut dyn Target,
    (moved, numbers): (&Moved, &[i64]),
    records: &(impl Fn() -> Records + Sync),
) -> Result<bool> {
    let (Some(column), step, table) = (book.number(), moved.step, &book.logged.table) else { return Ok(false) };
    let mut followers = followers(site, book, column);
    let own = Carried::lock(site, target, (book, followers.remove(0).1), numbers).await?;
    let stands = (0..own.rows.rows()).find_map(|row| {
        let id = key_id(&own.rows, row, &book.logged.key.columns);
        let born = |known: &&Known| known.entry.birth == step.birth && !known.is_parted();
        own.known.get(&id).filter(born)?;
        let from = number(own.rows.cell(row, column)).filter(|number| numbers.contains(number))?;
        Some((from, id))
    });
    let shared = match (&stands, through) {
        (Some((.., id)), Some(through)) => !site.shares(target, through, std::iter::once(*id)).await?.is_empty(),
        _ => true,
    };
    let Some((from, _)) = stands.filter(|_| shared) else {
        // It never came here, or is gone.
        site.done(target, moved).await?;
        return Ok(true);
    };
    // And those of its own table that refer to it.
    let holds = |row: &usize| own.columns.iter().any(|&at| own.rows.cell(*row, at) == Cell::Int(from));
    let those: Vec<usize> = (0..own.rows.rows()).filter(holds).collect();
    let own = Carried { rows: own.rows.select(those.into_iter()), ..own };
    let key = |number: i64| {
        let mut key = Column::default();
        key.push_int(number);
        Batch::new(book.keys.clone(), vec![key])
    };
    if let Some(to) = step.to
        && target.lookup(table, &key(to), RowLock::None).await?.rows() > 0
    {
        // Whichever of these two was born later moves on.
        let other = read(target, book, &key(to)).await?.into_values().next();
        let other = other.map_or(Version::BASE, |known| known.entry.birth);
        if !other.is_base() {
            note_move(site, target, book, Move { number: to, birth: other.max(step.birth), to: None }).await?;
        }
        return Ok(false);
    }
    let mut carried = vec![own];
    for (child, columns) in followers {
        carried.push(Carried::lock(site, target, (&child, columns), &[from]).await?);
    }
    let to = target.renumber(table, column, from, step.to).await?;
    let clock = carried.iter().map(Carried::latest).max().unwrap_or(Clock::ZERO);
    site.note_move(target, (book.logged.n, Move { number: from, to: Some(to), ..step }), true, clock).await?;
    if from != step.number {
        site.done(target, moved).await?;
    }
    for carried in carried {
        carried.carry(site, target, (from, to)).await?;
    }
    if step.to.is_none() {
        let now = target.lookup(table, &key(to), RowLock::None).await?;
        let mut records = records();
        records.moved((&key(from), 0), (&now, 0), target).await?;
        records.write(target).await?;
    }
    tracing::info!(
        "table {}: row {from} is {to} now, since another site has inserted a row under its number",
        table.name
    );
    Ok(true)
}
