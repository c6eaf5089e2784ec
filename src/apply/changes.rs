//! Changes → endpoint: decides under locks, writes rows, entries and records in one transaction.
//!
//! The order matters. Rows are locked first; what was noted of them before is folded in a later statement, so that it
//! is seen; then the site's numbers are taken, the entries read and the decision made. Deciding before the locks loses
//! local writes without a trace.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::Fill;
use super::moves::note_move;
use super::record::Records;
use super::retry::{Retry, put};
use super::sharing::{Sharing, What};
use crate::capture::{
    Changes, Fault, FittedBatch, Noted, Outcome, Shape, births, fit_batch, fold_keys, lines_of, number,
};
use crate::conflict::{
    Decision, FirstRun, Folded, Origin, Policy, Relation, Rule, Side, Standing, Unmet, Written, are_two, decide,
    emptied, first_run, fold, part, unmet,
};
use crate::engine::{ChangeLog, Error, ErrorKind, Result, RowLock, Target, WriteMode};
use crate::model::{Batch, Cell, Column, Digest, Entry, Facet, Move, Table, Version, cell_digests, moment, row_digest};
use crate::site::{Book, Entries, KeyId, Known, Site, Through, key_id, read};

/// What a batch of changes did to a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Rows inserted.
    pub inserted: u64,
    /// Rows updated.
    pub updated: u64,
    /// Rows deleted.
    pub deleted: u64,
    /// Conflicts, settled or left open.
    pub conflicts: u64,
    /// Changes that wait because someone holds their row.
    pub held: u64,
    /// Changes that wait since another row has their number, or the one that they refer to.
    pub apart: u64,
}

impl Applied {
    /// With what came of others.
    pub fn add(&mut self, other: Self) {
        self.inserted += other.inserted;
        self.updated += other.updated;
        self.deleted += other.deleted;
        self.conflicts += other.conflicts;
        self.held += other.held;
        self.apart += other.apart;
    }
}

/// What a table's changes are taken into.
pub struct Intake {
    /// The site.
    pub site: Site,
    /// What it keeps of the table.
    pub book: Arc<Book>,
    /// The form of the changes' rows: the columns that are synced.
    pub rows: Shape,
    /// The form of the changes' keys.
    pub keys: Shape,
    /// What new rows get besides.
    pub fill: Fill,
    /// Where only rows come that meet a condition.
    pub through: Option<Through>,
    /// What its rows refer to.
    pub parents: Vec<Parent>,
    /// The column of the changes' rows that says when a row was written.
    pub stamp: Option<usize>,
    /// Whose changes they are.
    pub sender: crate::model::Site,
    /// The columns of the changes' rows of which neither end has what the other holds.
    pub unmet: Vec<NewColumn>,
}

/// A column that both ends have of late.
#[derive(Debug, Clone)]
pub struct NewColumn {
    /// Its place in the changes' rows.
    pub at: usize,
    /// What a row gets there by itself here, and at the sending end.
    pub unwritten: [Option<Column>; 2],
}

impl NewColumn {
    /// Whether each of these values, the one here and the one that comes, is more than what a row gets by itself.
    #[must_use]
    pub fn hold(&self, cells: [Cell<'_>; 2]) -> [bool; 2] {
        let holds = |side: usize| {
            let unwritten = self.unwritten[side].as_ref().map(|unwritten| unwritten.cell(0));
            cells[side] != Cell::Null && unwritten != Some(cells[side])
        };
        [holds(0), holds(1)]
    }
}

/// A table that rows of another refer to.
pub struct Parent {
    /// Where the reference stands in the changes' rows.
    pub columns: Vec<usize>,
    /// The columns referred to, in that order.
    pub table: Arc<Table>,
}

/// Changes of one table, on their way in.
#[derive(Clone, Copy)]
pub struct Incoming<'a> {
    /// The table's place among those of the sync.
    pub at: usize,
    /// Where they go.
    pub intake: &'a Intake,
    /// What they are.
    pub changes: &'a Changes,
    /// On which terms.
    pub terms: Terms,
    /// Which rows of other tables its rows refer to.
    pub referred: &'a [Referred<'a>],
}

/// What a column of changes means by the numbers that refer to rows of another table.
pub struct Referred<'a> {
    /// The column of the changes' rows.
    pub column: usize,
    /// What is kept of that table here.
    pub book: &'a Arc<Book>,
    /// For each row of the changes the birth of the row that it means.
    pub births: &'a [Version],
}

/// On which terms changes are taken in.
#[derive(Debug, Clone, Copy)]
pub enum Terms {
    /// They were written under capture.
    Written(Rule),
    /// The two ends meet for the first time: rows that differ are a conflict, though neither was written under capture.
    Meeting(FirstRun, Rule),
}

impl Terms {
    fn policy(self) -> Policy {
        let (Self::Written(rule) | Self::Meeting(_, rule)) = self;
        rule.policy
    }

    /// `stamps`: what the timestamp column of the row here and of the incoming one says.
    fn decide(self, local: Option<&Entry>, incoming: &Entry, stamps: [Option<i64>; 2], origin: &Origin) -> Decision {
        match self {
            Self::Written(rule) => decide(local, incoming, rule, origin),
            // Born under capture, they are told apart as they are at any other time.
            Self::Meeting(_, rule) if rule.generated_keys && local.is_some_and(|local| are_two(local, incoming)) => {
                decide(local, incoming, rule, origin)
            }
            Self::Meeting(first, rule) => {
                let [ours, theirs] = stamps;
                let standing = local.map(|entry| Standing { entry, stamp: ours });
                let met = first_run(standing, Standing { entry: incoming, stamp: theirs }, first, origin);
                // They met elsewhere: what is merged column by column then is not all in one of the two.
                let merges = rule.policy == Policy::MergeColumns && met.relation != Relation::Conflict;
                if merges { decide(local, incoming, rule, origin) } else { met }
            }
        }
    }
}

/// A change in the receiver's form.
struct Change {
    id: KeyId,
    /// Row of the keys.
    at: usize,
    /// Row of the rows; `None` for a tombstone.
    row: Option<usize>,
    /// The row as it came.
    came: Option<usize>,
    entry: Entry,
    /// Whether the row stands at the sending end without meeting the condition.
    left: bool,
}

impl Change {
    fn what(&self) -> What {
        match self.row {
            Some(_) => What::Row,
            None if self.left => What::Left,
            None => What::Deleted,
        }
    }
}

/// Changes in the receiver's form.
struct Fitted {
    keys: Batch,
    rows: Batch,
    changes: Vec<Change>,
    /// What does not fit: row of the keys, and why.
    misfits: Vec<(usize, String)>,
}

/// The rows that stand under the keys of a batch, locked.
struct Held {
    rows: Batch,
    places: HashMap<KeyId, usize>,
}

/// Changes of one table on their way: fitted, their rows locked; then decided.
struct Staged<'a> {
    incoming: Incoming<'a>,
    fitted: Fitted,
    standing: Held,
    known: HashMap<KeyId, Known>,
    /// By place in the changes that were fitted.
    decisions: Vec<Decision>,
    sharing: Option<Sharing>,
    /// Rows that are to give up their numbers.
    moves: Vec<Move>,
    retry: Retry,
    applied: Applied,
}

/// Takes changes of several tables in, parents before children, inside the open transaction, which is labelled. What
/// became of each, in their order.
///
/// # Errors
/// `Busy` when someone else holds a row, or facets are kept of a table now ([`Site::faceted_since`]): nothing of it may be
/// kept then.
pub async fn apply(
    site: &Site,
    target: &mut dyn Target,
    incoming: &[Incoming<'_>],
    records: &mut Records,
) -> Outcome<Vec<Applied>> {
    let mut all = Vec::with_capacity(incoming.len());
    for one in incoming {
        all.push(stage(*one, target, records).await.map_err(Fault::at(one.at))?);
    }
    fold_noted(site, &all, target).await?;
    // What others wrote before they let go of it is seen by the statements that follow.
    site.lock_numbers(target).await?;
    let since = site.faceted_since(target, incoming.iter().map(|one| &one.intake.book)).await?;
    if let Some(one) = incoming.iter().find(|one| since.contains(&one.intake.book.logged.n)) {
        let table = &one.intake.book.logged.table.name;
        let message = format!("another sync has begun to merge the columns of {table} meanwhile");
        return Err(Fault::at(one.at)(Error::new(ErrorKind::Busy, message)));
    }
    let origin = Origin { site: site.id, now: target.now().await?, floor: site.floor(target).await? };
    for staged in &mut all {
        staged.decide(target, &origin, records).await.map_err(Fault::at(staged.incoming.at))?;
    }
    for staged in all.iter_mut().rev() {
        staged.write_deletes(target).await.map_err(Fault::at(staged.incoming.at))?;
    }
    let mut applied = Vec::with_capacity(all.len());
    for mut staged in all {
        staged.finish(target, &origin, records).await.map_err(Fault::at(staged.incoming.at))?;
        applied.push(staged.applied);
    }
    Ok(applied)
}

async fn stage<'a>(incoming: Incoming<'a>, target: &mut dyn Target, records: &mut Records) -> Result<Staged<'a>> {
    let Incoming { intake, changes, .. } = incoming;
    let mut applied = Applied::default();
    let fitted = intake.fit(changes);
    records.withdraw(target, &fitted.keys).await?;
    for (at, reason) in &fitted.misfits {
        let row = changes.row_of[*at].map(|row| (&fitted.rows, row));
        records.refused((&fitted.keys, *at), row, &changes.entries[*at], reason);
    }
    let (standing, held) = intake.lock(target, &fitted.keys).await?;
    // A row that someone else holds is not waited for: whoever waits while it holds others may be an application's
    // deadlock.
    let mut fitted = fitted;
    let (wait, go): (Vec<Change>, Vec<Change>) = fitted.changes.drain(..).partition(|c| held.contains(&c.id));
    fitted.changes = go;
    for change in wait {
        applied.held += 1;
        let row = change.row.map(|row| (&fitted.rows, row));
        records.waits((&fitted.keys, change.at), row, &change.entry, "another transaction holds the row");
    }
    Ok(Staged {
        incoming,
        fitted,
        standing,
        known: HashMap::new(),
        decisions: Vec::new(),
        sharing: None,
        moves: Vec::new(),
        retry: Retry::default(),
        applied,
    })
}

/// What was noted of these keys before they were locked becomes their versions first.
async fn fold_noted(site: &Site, all: &[Staged<'_>], target: &mut dyn Target) -> Outcome<()> {
    let mut written = Vec::new();
    for staged in all {
        let Incoming { at, intake, .. } = staged.incoming;
        let lines = staged.noted(target).await.map_err(Fault::at(at))?;
        if lines.rows() > 0 {
            let mut noted = Noted::new(at, &intake.book, lines).map_err(Fault::at(at))?;
            noted.add_unnamed(target).await.map_err(Fault::at(at))?;
            written.push(noted);
        }
    }
    if !written.is_empty() {
        fold_keys(site, &written, target).await?;
    }
    for noted in &written {
        target.write(WriteMode::Delete, &noted.taken).await.map_err(Fault::at(noted.at))?;
    }
    Ok(())
}

impl Staged<'_> {
    /// The log's lines of the keys at hand; and where no row stands under one of them, those that say that all rows went at
    /// once.
    async fn noted(&self, target: &mut dyn Target) -> Result<Batch> {
        let book = &self.incoming.intake.book;
        let mut lines = lines_of(book, target, &self.fitted.keys).await?;
        if self.fitted.changes.iter().any(|change| !self.stands(change)) {
            let mut nothing = book.no_keys();
            nothing.iter_mut().for_each(Column::push_null);
            let of_all = Batch::new(book.keys.clone(), nothing);
            lines.append(&target.lookup(&book.log.table, &of_all, RowLock::None).await?);
        }
        Ok(lines)
    }

    async fn decide(&mut self, target: &mut dyn Target, origin: &Origin, records: &mut Records) -> Result<()> {
        let Incoming { intake, terms, .. } = self.incoming;
        let (fitted, standing, is_part) = (&self.fitted, &self.standing, intake.is_part());
        if let Some(through) = intake.through {
            let ids = fitted.changes.iter().map(|change| change.id);
            self.sharing = Some(Sharing::read(&intake.site, target, through, ids).await?);
        }
        self.known = read(target, &intake.book, &fitted.keys).await?;
        let came = |change: &&Change| {
            let alive = self.known.get(&change.id).is_some_and(|known| known.entry.digest.is_some());
            alive && !standing.places.contains_key(&change.id)
        };
        intake.refuse_newcomers(target, &fitted.keys, fitted.changes.iter().filter(came).map(|c| c.at)).await?;
        let columns = intake.columns();
        for change in &fitted.changes {
            let known = self.known.get(&change.id);
            let local = intake.local(known.filter(|known| !known.is_parted()), standing, change.id, &columns);
            // What was here when its row left comes back from others that got it from here.
            let returns = |known: &Known| known.is_parted() && known.entry.vector.holds(change.entry.version);
            if self.sharing.is_none() && known.is_some_and(returns) {
                let (relation, row, entry) = (Relation::Known, Side::Local, change.entry.clone());
                self.decisions.push(Decision { relation, row, columns: None, entry, changed: false });
                continue;
            }
            let stamps = intake.stamps(standing, change, &fitted.rows);
            records.under(terms, stamps);
            let decide = |incoming: &Entry| {
                if local.is_none()
                    && let Some(decision) = emptied(incoming, origin)
                {
                    return decision;
                }
                let decision = terms.decide(local.as_ref(), incoming, stamps, origin);
                let decision = if is_part { part(decision, local.as_ref(), incoming, origin) } else { decision };
                let columns = intake.unmet(standing, change, &fitted.rows);
                let terms = (terms.policy(), intake.sender, origin);
                unmet(decision, (local.as_ref(), incoming), &columns, terms)
            };
            let mut decision = match &mut self.sharing {
                Some(sharing) => sharing.decide((change.id, change.what()), local.as_ref(), &change.entry, decide),
                None => decide(&change.entry),
            };
            let key = (&fitted.keys, change.at);
            if let (Relation::TwoRows { moves }, Some(local)) = (decision.relation, &local)
                && intake.moves()
            {
                // It waits until the one that was born later has got another number where it was born; or what both refer to
                // has.
                if let Some(number) = intake.number(&fitted.keys, change.at) {
                    let birth = if moves == Side::Local { local.birth } else { change.entry.birth };
                    self.moves.push(Move { number, birth, to: None });
                }
                self.applied.apart += 1;
                let row = change.row.map(|row| (&fitted.rows, row));
                records.waits(
                    key,
                    row,
                    &change.entry,
                    "another row has its number here; one of the two is to get a new one",
                );
                if let Some(sharing) = &mut self.sharing {
                    sharing.keep(change.id);
                }
                self.decisions.push(decision);
                continue;
            }
            let clash = matches!(decision.relation, Relation::Conflict | Relation::TwoRows { .. });
            if !clash {
                records.settle(key, decision.row);
            } else if let Some(local) = local.as_ref().filter(|_| records.is_open(key)) {
                // A person decides: until then both sides keep theirs, whatever is written to them.
                (decision.row, decision.columns, decision.changed) = (Side::Local, None, false);
                decision.entry = local.clone();
                if let Some(sharing) = &mut self.sharing {
                    sharing.keep(change.id);
                }
            } else {
                self.applied.conflicts += 1;
            }
            if clash {
                let ours = standing.places.get(&change.id).map(|&row| (&standing.rows, row));
                let theirs = change.row.map(|row| (&fitted.rows, row));
                records.conflict(key, ours, theirs, &decision, (local.as_ref(), &change.entry));
            }
            self.decisions.push(decision);
        }
        self.merge_rows();
        Ok(())
    }

    /// Makes the rows of which some columns are the local ones: they are written as the others that win.
    fn merge_rows(&mut self) {
        let Fitted { rows, changes, .. } = &mut self.fitted;
        let content = self.incoming.intake.content();
        let mut merged = vec![Column::default(); rows.columns().len()];
        let before = rows.rows();
        for (change, decision) in changes.iter_mut().zip(&mut self.decisions) {
            let (Some(sides), Some(row)) = (&decision.columns, change.row) else { continue };
            let Some(&there) = self.standing.places.get(&change.id) else { continue };
            let mut of_content = content.iter().zip(sides).peekable();
            for (at, column) in merged.iter_mut().enumerate() {
                let side = of_content.next_if(|(content, _)| **content == at).map(|(_, side)| *side);
                let own = self.standing.rows.table.column(&rows.table.columns[at].name);
                column.push_cell(match own.filter(|_| side == Some(Side::Local)) {
                    Some(own) => self.standing.rows.cell(there, own),
                    None => rows.cell(row, at),
                });
            }
            (decision.row, change.row) = (Side::Incoming, Some(before + merged[0].len() - 1));
        }
        if merged[0].is_empty() {
            return;
        }
        rows.append(&Batch::new(rows.table.clone(), merged));
        for (change, decision) in changes.iter().zip(&mut self.decisions) {
            if let (Some(_), Some(row)) = (&decision.columns, change.row) {
                decision.entry.digest = Some(row_digest(rows, row, &content));
            }
        }
    }

    fn wins(&self) -> impl Iterator<Item = &Change> {
        let decided = self.fitted.changes.iter().zip(&self.decisions);
        decided.filter(|(_, decision)| decision.row == Side::Incoming).map(|(change, _)| change)
    }

    fn stands(&self, change: &Change) -> bool {
        self.standing.places.contains_key(&change.id)
    }

    async fn put(&mut self, target: &mut dyn Target, mode: WriteMode, batch: Batch) -> Result<()> {
        if batch.rows() > 0 {
            self.applied.count(mode, put(target, mode, batch, &mut self.retry).await?);
        }
        Ok(())
    }

    async fn write_deletes(&mut self, target: &mut dyn Target) -> Result<()> {
        let gone: Vec<usize> = self.wins().filter(|c| c.row.is_none() && self.stands(c)).map(|c| c.at).collect();
        let gone = self.fitted.keys.select(gone.into_iter());
        self.put(target, WriteMode::Delete, gone).await
    }

    /// Writes the rows of the changes that win; what the target refuses, by key, with its words.
    async fn write_rows(
        &mut self,
        target: &mut dyn Target,
        orphans: &HashMap<KeyId, String>,
    ) -> Result<HashMap<KeyId, String>> {
        let wins = || self.wins().filter(|c| !orphans.contains_key(&c.id));
        let changed: Vec<usize> = wins().filter(|c| self.stands(c)).filter_map(|c| c.row).collect();
        let new: Vec<usize> = wins().filter(|c| !self.stands(c)).filter_map(|c| c.row).collect();
        let (changed, new) = (self.fitted.rows.select(changed.into_iter()), self.fitted.rows.select(new.into_iter()));
        self.put(target, WriteMode::Update, changed).await?;
        self.put(target, WriteMode::Insert, self.incoming.intake.fill.complete(new)).await?;
        let whole = &self.incoming.intake.book.logged.table;
        let outcome = std::mem::take(&mut self.retry).finish(target, whole).await?;
        for (mode, rows) in outcome.written {
            self.applied.count(mode, rows);
        }
        let book = &self.incoming.intake.book;
        let refused = outcome.refused.into_iter().map(|(_, batch, refused)| {
            let key: Vec<usize> = book.keys.columns.iter().filter_map(|c| batch.table.column(&c.name)).collect();
            (key_id(&batch, refused.row, &key), refused.reason)
        });
        let refused: HashMap<KeyId, String> = refused.collect();
        let taken = self.wins().filter(|c| c.row.is_some() && !self.stands(c) && refused.contains_key(&c.id));
        let taken: Vec<usize> = taken.map(|c| c.at).collect();
        if !taken.is_empty() {
            // A key that an application has taken since the rows were locked is no fault of the row: it meets it.
            let taken = self.fitted.keys.select(taken.into_iter());
            if target.lookup(&book.logged.table, &taken, RowLock::None).await?.rows() > 0 {
                let message = format!("rows of {} were inserted meanwhile", book.logged.table.name);
                return Err(Error::new(ErrorKind::Busy, message));
            }
        }
        Ok(refused)
    }

    /// Rows that win and refer to a row that is not there or on its way out, though its table has been written: they
    /// wait for it.
    async fn orphans(&mut self, target: &mut dyn Target) -> Result<HashMap<KeyId, String>> {
        let rows = &self.fitted.rows;
        let mut orphans = HashMap::new();
        for Parent { columns, table } in &self.incoming.intake.parents {
            let id = |row: usize| key_id(rows, row, columns);
            let refers = |row: &usize| columns.iter().all(|&c| rows.cell(*row, c) != Cell::Null);
            let mut wanted: BTreeMap<KeyId, usize> = BTreeMap::new();
            for row in self.wins().filter_map(|c| c.row).filter(refers) {
                wanted.insert(id(row), row);
            }
            // Rows may refer to others of their own table, which are written with them.
            let whole = &self.incoming.intake.book.logged.table.name;
            if table.name == *whole {
                let at: Option<Vec<usize>> = table.columns.iter().map(|c| rows.table.column(&c.name)).collect();
                for row in at.iter().flat_map(|at| self.wins().filter_map(|c| c.row).map(|row| key_id(rows, row, at))) {
                    wanted.remove(&row);
                }
            }
            if wanted.is_empty() {
                continue;
            }
            let keys = rows.select(wanted.values().copied());
            let keys = columns.iter().map(|&c| keys.columns()[c].clone()).collect();
            // Kept until the end: a deletion that is under way cannot know of these rows.
            let found = target.lookup(table, &Batch::new(table.clone(), keys), RowLock::Keep).await?;
            let all: Vec<usize> = (0..table.columns.len()).collect();
            for row in 0..found.rows() {
                wanted.remove(&key_id(&found, row, &all));
            }
            // What is another spelling to us may be the same key to the database.
            let mut missing = HashSet::new();
            for (id, row) in wanted {
                let key = columns.iter().map(|&c| rows.select(std::iter::once(row)).columns()[c].clone()).collect();
                if target.lookup(table, &Batch::new(table.clone(), key), RowLock::Keep).await?.rows() == 0 {
                    missing.insert(id);
                }
            }
            for change in self.wins() {
                if let Some(row) = change.row.filter(refers)
                    && missing.contains(&id(row))
                {
                    orphans.insert(
                        change.id,
                        format!("the row of {} that it refers to is not there, or is being deleted", table.name),
                    );
                }
            }
        }
        let others = self.others(target).await?;
        self.applied.apart += others.len() as u64;
        orphans.extend(others);
        Ok(orphans)
    }

    /// Rows that win and mean another row than the one that stands here under the number that they refer to.
    async fn others(&self, target: &mut dyn Target) -> Result<HashMap<KeyId, String>> {
        let mut others = HashMap::new();
        for Referred { column, book, births: meant } in self.incoming.referred {
            let refers = |change: &&Change| {
                let birth = meant[change.came?];
                let number = number(self.fitted.rows.cell(change.row?, *column))?;
                (!birth.is_base()).then_some((number, birth))
            };
            let numbers = self.wins().filter_map(|change| refers(&change)).map(|(number, _)| number);
            let standing = births(book, numbers, target).await?;
            for change in self.wins() {
                if let Some((number, birth)) = refers(&change)
                    && let Some((other, true)) = standing.get(&number)
                    && *other != birth
                    && !other.is_base()
                {
                    let table = &book.logged.table.name;
                    others.insert(
                        change.id,
                        format!("row {number} of {table} is another one here; one of the two is to get a new number"),
                    );
                }
            }
        }
        Ok(others)
    }

    /// Rows, entries, records.
    async fn finish(&mut self, target: &mut dyn Target, origin: &Origin, records: &mut Records) -> Result<()> {
        for step in std::mem::take(&mut self.moves) {
            note_move(&self.incoming.intake.site, target, &self.incoming.intake.book, step).await?;
        }
        let orphans = self.orphans(target).await?;
        for (id, reason) in &orphans {
            let Some(change) = self.fitted.changes.iter().find(|change| change.id == *id) else { continue };
            let row = change.row.map(|row| (&self.fitted.rows, row));
            records.waits((&self.fitted.keys, change.at), row, &change.entry, reason);
        }
        let mut refused = self.write_rows(target, &orphans).await?;
        let came = self.fitted.changes.iter().filter(|c| !self.stands(c) && refused.contains_key(&c.id));
        self.incoming.intake.refuse_newcomers(target, &self.fitted.keys, came.map(|c| c.at)).await?;
        for change in &self.fitted.changes {
            let Some(reason) = refused.get(&change.id) else { continue };
            let row = change.row.map(|row| (&self.fitted.rows, row));
            records.refused((&self.fitted.keys, change.at), row, &change.entry, reason);
        }
        refused.extend(orphans);
        let settled: Vec<(&Change, &Decision)> = self
            .fitted
            .changes
            .iter()
            .zip(&self.decisions)
            .filter(|(change, decision)| decision.changed && !refused.contains_key(&change.id))
            .collect();
        let intake = self.incoming.intake;
        intake.write_entries(target, &self.fitted.keys, &settled, &self.known, origin).await?;
        if let Some(sharing) = self.sharing.take() {
            let ids: Vec<(KeyId, usize)> = self.fitted.changes.iter().map(|change| (change.id, change.at)).collect();
            let keys = (&self.fitted.keys, &*ids);
            let refused = |id| refused.contains_key(&id);
            sharing.write((&intake.site, &intake.book), target, &self.known, refused, keys).await?;
        }
        intake.drop_own_lines(target, &self.fitted.keys).await
    }
}

impl Intake {
    /// Whether a row that has another's key is to get another key: its number, or with the number that it refers to.
    fn moves(&self) -> bool {
        let table = &self.book.logged.table;
        let refers = |at: &usize| table.foreign_keys.iter().any(|key| key.columns.contains(&table.columns[*at].name));
        self.book.number().is_some() || self.book.logged.key.columns.iter().any(refers)
    }

    /// The number that is the key of a row of `keys`, where it is one that can be given anew.
    fn number(&self, keys: &Batch, row: usize) -> Option<i64> {
        let column = &self.book.logged.table.columns[self.book.number()?];
        // One that is another's number too follows that one.
        let follows = self.book.logged.table.foreign_keys.iter().any(|key| key.columns.contains(&column.name));
        if follows {
            return None;
        }
        number(keys.cell(row, 0))
    }

    /// The columns of the changes' rows that make their content.
    fn content(&self) -> Vec<usize> {
        let columns = &self.rows.table.columns;
        (0..columns.len()).filter(|&at| !columns[at].generated).collect()
    }

    /// The columns of the table that its digests and facets are of.
    fn columns(&self) -> Columns {
        let table = &self.book.logged.table;
        let synced = self.rows.table.columns.iter().filter(|c| !c.generated).filter_map(|c| table.column(&c.name));
        let (synced, whole) = (synced.collect::<Vec<_>>(), crate::capture::content(&self.book));
        let told = whole.iter().map(|at| synced.iter().position(|synced| synced == at)).collect();
        let places = synced.iter().filter_map(|at| whole.binary_search(at).ok()).collect();
        Columns { synced, whole, told, places }
    }

    /// Whether the table has columns that are not synced.
    fn is_part(&self) -> bool {
        is_part(&self.book, &self.rows.table)
    }

    fn fit(&self, changes: &Changes) -> Fitted {
        let FittedBatch { batch: keys, misfits: unfit_keys } = fit_batch(changes.keys.clone(), &self.keys);
        let keys = by_name(&keys, &self.book.keys);
        let FittedBatch { batch: rows, misfits: unfit_rows } = fit_batch(changes.rows.clone(), &self.rows);
        let key: Vec<usize> = (0..keys.columns().len()).collect();
        let content = self.content();
        let facets = |entry: &Entry| self.book.facets.is_some() && entry.columns.len() == self.rows.table.columns.len();
        let mut out = Fitted { keys, rows, changes: Vec::new(), misfits: Vec::new() };
        for (at, known) in changes.entries.iter().enumerate() {
            let row = changes.row_of[at];
            let unfit = unfit_keys
                .iter()
                .find(|m| m.0 == at)
                .map(|m| (&self.keys, m))
                .or_else(|| row.and_then(|row| unfit_rows.iter().find(|m| m.0 == row)).map(|m| (&self.rows, m)));
            if let Some((shape, (_, column, why))) = unfit {
                out.misfits.push((at, format!("{}: {why}", shape.table.columns[*column].name)));
                continue;
            }
            let left = changes.left[at];
            let digest = row.map(|row| row_digest(&out.rows, row, &content));
            // The digests are those of the values in the form that they have here.
            let columns = row.filter(|_| facets(known)).map(|row| {
                let digests = cell_digests(&out.rows, row, &content).into_iter().zip(&content);
                digests.map(|(digest, &at)| Facet { digest, ..known.columns[at] }).collect()
            });
            let entry = Entry { digest, columns: columns.unwrap_or_default(), ..known.clone() };
            out.changes.push(Change { id: key_id(&out.keys, at, &key), at, row, came: row, entry, left });
        }
        out
    }

    /// The rows that stand under these keys.
    async fn find(&self, target: &mut dyn Target, keys: &Batch) -> Result<Held> {
        let rows = target.lookup(&self.book.logged.table, keys, RowLock::None).await?;
        let key = &self.book.logged.key.columns;
        let places = (0..rows.rows()).map(|row| (key_id(&rows, row, key), row)).collect();
        Ok(Held { rows, places })
    }

    /// Locks the rows that stand under these keys, and tells which of them someone else holds.
    async fn lock(&self, target: &mut dyn Target, keys: &Batch) -> Result<(Held, HashSet<KeyId>)> {
        let table = &self.book.logged.table;
        let key = &self.book.logged.key.columns;
        // What is locked stays as it was when it was locked; only of the others is it not known yet whether they stand.
        let rows = target.lookup(table, keys, RowLock::SkipHeld).await?;
        let places: HashMap<KeyId, usize> = (0..rows.rows()).map(|row| (key_id(&rows, row, key), row)).collect();
        let all: Vec<usize> = (0..keys.columns().len()).collect();
        let others: Vec<usize> =
            (0..keys.rows()).filter(|&row| !places.contains_key(&key_id(keys, row, &all))).collect();
        let mut held = HashSet::new();
        if !others.is_empty() {
            let others = target.lookup(table, &keys.select(others.into_iter()), RowLock::None).await?;
            held.extend((0..others.rows()).map(|row| key_id(&others, row, key)).filter(|id| !places.contains_key(id)));
        }
        Ok((Held { rows, places }, held))
    }

    /// Rows that came to these keys after those of the batch were locked are not held, and no decision was taken upon
    /// them.
    ///
    /// # Errors
    /// `Busy` when there is one: everything begins anew then.
    async fn refuse_newcomers(
        &self,
        target: &mut dyn Target,
        keys: &Batch,
        absent: impl Iterator<Item = usize>,
    ) -> Result<()> {
        let absent = keys.select(absent.collect::<Vec<_>>().into_iter());
        let table = &self.book.logged.table;
        if absent.rows() == 0 || target.lookup(table, &absent, RowLock::None).await?.rows() == 0 {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Busy,
            format!("rows of {} were inserted by another transaction meanwhile", table.name),
        ))
    }

    /// What the timestamp column says of the row that stands here and of the one that comes.
    fn stamps(&self, standing: &Held, change: &Change, rows: &Batch) -> [Option<i64>; 2] {
        let Some(column) = self.stamp.map(|at| &self.rows.table.columns[at]) else { return [None; 2] };
        let of = |batch: &Batch, row: Option<usize>| {
            let cell = batch.cell(row?, batch.table.column(&column.name)?);
            moment(&column.logical, cell, self.site.database.zone())
        };
        [of(&standing.rows, standing.places.get(&change.id).copied()), of(rows, change.row)]
    }

    /// What the row that stands here and the one that comes hold in columns that neither end has of the other; in the order
    /// of the content, and nothing where there are no such columns.
    fn unmet(&self, standing: &Held, change: &Change, rows: &Batch) -> Vec<Unmet> {
        let (Some(&there), Some(row)) = (standing.places.get(&change.id), change.row) else { return Vec::new() };
        if self.unmet.is_empty() {
            return Vec::new();
        }
        let whole = &standing.rows;
        let of = |at: &usize| {
            let new = self.unmet.iter().find(|new| new.at == *at)?;
            let own = whole.table.column(&rows.table.columns[*at].name)?;
            let same = cell_digests(rows, row, &[*at]) == cell_digests(whole, there, &[own]);
            match new.hold([whole.cell(there, own), rows.cell(row, *at)]) {
                [true, true] if !same => Some(Unmet::Both),
                [true, false] => Some(Unmet::Ours),
                _ => None,
            }
        };
        self.content().iter().map(|at| of(at).unwrap_or(Unmet::Nothing)).collect()
    }

    /// The local entry, its digest and its facets those of the synced columns.
    fn local(&self, known: Option<&Known>, standing: &Held, id: KeyId, columns: &Columns) -> Option<Entry> {
        let Columns { synced, places, .. } = columns;
        let row = standing.places.get(&id);
        let digest = row.map(|&row| row_digest(&standing.rows, row, synced));
        let facets = row.filter(|_| self.book.facets.is_some()).map(|&row| {
            let known = known.map_or(&[][..], |known| &known.entry.columns);
            let version = |place: usize| known.get(place).map_or(Version::BASE, |facet| facet.version);
            let digests = cell_digests(&standing.rows, row, synced).into_iter();
            digests.zip(places).map(|(digest, place)| Facet { version: version(*place), digest }).collect()
        });
        let columns = facets.unwrap_or_default();
        match (known, digest) {
            (Some(known), digest) => Some(Entry { digest, columns, ..known.entry.clone() }),
            (None, Some(digest)) => Some(Entry { columns, ..Entry::standing_at(self.site.id, digest) }),
            (None, None) => None,
        }
    }

    /// Writes the entries that changed, each with the digest of what now stands.
    async fn write_entries(
        &self,
        target: &mut dyn Target,
        keys: &Batch,
        settled: &[(&Change, &Decision)],
        known: &HashMap<KeyId, Known>,
        origin: &Origin,
    ) -> Result<()> {
        if settled.is_empty() {
            return Ok(());
        }
        let keys = keys.select(settled.iter().map(|(change, _)| change.at));
        let found = self.find(target, &keys).await?;
        let Columns { synced, whole, told, .. } = self.columns();
        let first = self.site.take_numbers(target, settled.len()).await?;
        let (mut new, mut changed) = (Entries::new(&self.book), Entries::new(&self.book));
        for (row, (change, decision)) in settled.iter().enumerate() {
            let at = found.places.get(&change.id).copied();
            let digest = |columns: &[usize]| at.map(|at| row_digest(&found.rows, at, columns));
            let digests = |columns: &[usize]| match at.filter(|_| self.book.facets.is_some()) {
                Some(at) => cell_digests(&found.rows, at, columns),
                None => Vec::new(),
            };
            let mut entry = as_it_stands(decision.entry.clone(), (digest(&synced), &digests(&synced)), origin);
            entry.digest = digest(&whole);
            let before = known.get(&change.id).map(|known| &known.entry);
            entry.columns = facets(&entry, before, &told, &digests(&whole));
            let seq = first + i64::try_from(row).unwrap_or(0);
            let batch = if known.contains_key(&change.id) { &mut changed } else { &mut new };
            batch.push(&keys, row, &Known { entry, seq });
        }
        target.write(WriteMode::Update, &changed.batch()).await?;
        target.write(WriteMode::Insert, &new.batch()).await?;
        target.flush().await
    }

    /// The log's lines of what was just written go; what the target's own triggers and cascades added stays, for the
    /// next fold.
    async fn drop_own_lines(&self, target: &mut dyn Target, keys: &Batch) -> Result<()> {
        let log = &self.book.log.table;
        let Some(label) = log.column(ChangeLog::LABEL) else { return Ok(()) };
        let key: Vec<usize> = self.book.keys.columns.iter().filter_map(|c| log.column(&c.name)).collect();
        let mut one = Column::default();
        one.push_int(1);
        // By the label: a log has no index, and few lines that are ours.
        let labelled = Batch::new(Arc::new(log.project(&[label])), vec![one]);
        let lines = target.lookup(log, &labelled, RowLock::None).await?;
        let all: Vec<usize> = (0..keys.columns().len()).collect();
        let written: HashSet<KeyId> = (0..keys.rows()).map(|row| key_id(keys, row, &all)).collect();
        let ours: Vec<usize> = (0..lines.rows()).filter(|&row| written.contains(&key_id(&lines, row, &key))).collect();
        if !ours.is_empty() {
            target.write(WriteMode::Delete, &lines.select(ours.into_iter())).await?;
        }
        Ok(())
    }
}

/// Columns of a table that rows of some of them come to, by their positions in it.
struct Columns {
    /// Those that are synced and not computed, in the order of the rows' columns.
    synced: Vec<usize>,
    /// All that make its content, which are those that have facets.
    whole: Vec<usize>,
    /// For each of these its place among those that are synced.
    told: Vec<Option<usize>>,
    /// For each that is synced its place among those that make the content.
    places: Vec<usize>,
}

/// Whether a table has columns that these rows lack.
fn is_part(book: &Book, rows: &Table) -> bool {
    book.logged.table.columns.iter().any(|column| !column.generated && rows.column(&column.name).is_none())
}

/// The columns of `table`, in its order.
fn by_name(batch: &Batch, table: &Arc<Table>) -> Batch {
    let at = table.columns.iter().filter_map(|c| batch.table.column(&c.name));
    Batch::new(table.clone(), at.map(|at| batch.columns()[at].clone()).collect())
}

/// The entry of a row that was written. What the target's own triggers made of it is a new version of this site, or two
/// sites would hold different rows under one version.
pub(super) fn as_it_stands(entry: Entry, (digest, columns): (Option<Digest>, &[Digest]), origin: &Origin) -> Entry {
    let written = Written { wall: origin.now, born: false, digest, columns };
    match fold(Some(&entry), &written, origin) {
        Folded::New(other) => other,
        Folded::Same => entry,
    }
}

/// The facets of a row that was written, by the digests of its values: those of the columns that are synced, which are
/// these of them, as its entry says; of the others those that they had `before`.
fn facets(entry: &Entry, before: Option<&Entry>, synced: &[Option<usize>], digests: &[Digest]) -> Vec<Facet> {
    let whole = if entry.version.is_base() { Version::BASE } else { entry.version };
    let version = |(at, digest): (usize, &Digest)| {
        let told = synced.get(at).copied().flatten().and_then(|at| entry.columns.get(at));
        match (told, before.and_then(|before| before.columns.get(at))) {
            (Some(told), Some(before)) if before.version <= told.version => told.version,
            (_, Some(before)) if before.digest == *digest => before.version,
            // A row that won as a whole won in each of its columns.
            (_, Some(_)) | (None, None) => whole,
            (Some(told), None) => told.version,
        }
    };
    digests.iter().enumerate().map(|one| Facet { version: version(one), digest: *one.1 }).collect()
}

impl Applied {
    fn count(&mut self, mode: WriteMode, rows: u64) {
        match mode {
            WriteMode::Insert => self.inserted += rows,
            WriteMode::Update => self.updated += rows,
            WriteMode::Delete => self.deleted += rows,
        }
    }
}
