//! Changes → endpoint: decides under locks, writes rows, entries and records in one transaction.
//!
//! The order matters. Rows are locked first; what was noted of them before is folded in a later statement, so that it
//! is seen; then the site's numbers are taken, the entries read and the decision made. Deciding before the locks loses
//! local writes without a trace.

use std::collections::HashMap;
use std::sync::Arc;

use super::record::Records;
use super::retry::{Retry, put};
use crate::capture::{Changes, FittedBatch, Lines, Shape, fit_batch, fold_keys};
use crate::conflict::{
    Decision, FirstRun, Folded, Origin, Policy, Relation, Rule, Side, Standing, Written, decide, first_run, fold,
};
use crate::engine::{ChangeLog, Error, ErrorKind, Result, RowLock, Target, WriteMode};
use crate::model::{Batch, Cell, Clock, Digest, Entry, Table, row_digest};
use crate::site::{Book, Entries, KeyId, Known, Site, key_id, read};

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
    /// Those of them that are left open.
    pub open: u64,
    /// Changes that were refused.
    pub quarantined: u64,
}

/// The receiving end of a table.
pub struct Receiver {
    /// The site.
    pub site: Site,
    /// What it keeps of the table.
    pub book: Arc<Book>,
    /// The form of the changes' rows: the columns that are synced.
    pub rows: Shape,
    /// The form of the changes' keys.
    pub keys: Shape,
}

/// On which terms changes are taken in.
#[derive(Debug, Clone, Copy)]
pub enum Terms {
    /// They were written under capture.
    Written(Rule),
    /// The two ends meet for the first time: rows that differ are a conflict, though neither was written under capture.
    Meeting(FirstRun),
}

impl Terms {
    /// Whether a person has to settle it.
    fn leaves_open(self, relation: Relation) -> bool {
        let manual =
            matches!(self, Self::Written(Rule { policy: Policy::Manual, .. }) | Self::Meeting(FirstRun::Manual));
        matches!(relation, Relation::TwoRows { .. }) || (manual && relation == Relation::Conflict)
    }

    fn decide(self, local: Option<&Entry>, incoming: &Entry, origin: &Origin) -> Decision {
        match self {
            Self::Written(rule) => decide(local, incoming, rule, origin),
            Self::Meeting(rule) => {
                let standing = |entry| Standing { entry, stamp: None };
                first_run(local.map(standing), standing(incoming), rule, origin)
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
    entry: Entry,
}

/// The changes of a batch in the receiver's form.
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

impl Receiver {
    /// Takes changes in, inside the open transaction, which is labelled.
    ///
    /// # Errors
    /// `Busy` when someone else holds a row: nothing of the batch may be kept then.
    pub async fn apply(
        &self,
        target: &mut dyn Target,
        changes: &Changes,
        terms: Terms,
        records: &mut Records,
    ) -> Result<Applied> {
        let mut applied = Applied::default();
        let fitted = self.fit(changes);
        records.withdraw(target, &fitted.keys).await?;
        for (at, reason) in &fitted.misfits {
            applied.quarantined += 1;
            let row = changes.row_of[*at].map(|row| (&fitted.rows, row));
            records.refused((&fitted.keys, *at), row, &changes.entries[*at].entry, reason);
        }
        let standing = self.lock(target, &fitted.keys).await?;
        self.fold_noted(target, &fitted.keys).await?;
        let known = read(target, &self.book, &fitted.keys).await?;
        let origin = Origin { site: self.site.id, now: target.now().await?, floor: Clock::ZERO };
        let mut settled = Vec::with_capacity(fitted.changes.len());
        for change in &fitted.changes {
            let local = self.local(known.get(&change.id), &standing, change.id);
            let decision = terms.decide(local.as_ref(), &change.entry, &origin);
            if matches!(decision.relation, Relation::Conflict | Relation::TwoRows { .. }) {
                applied.conflicts += 1;
                applied.open += u64::from(terms.leaves_open(decision.relation));
                let ours = standing.places.get(&change.id).map(|&row| (&standing.rows, row));
                let theirs = change.row.map(|row| (&fitted.rows, row));
                records.conflict((&fitted.keys, change.at), ours, theirs, &decision, (local.as_ref(), &change.entry));
            }
            settled.push((change, decision));
        }
        let refused = self.write_rows(target, &fitted, &standing, &settled, &mut applied).await?;
        for (id, reason) in &refused {
            let Some((change, _)) = settled.iter().find(|(change, _)| change.id == *id) else { continue };
            applied.quarantined += 1;
            let row = change.row.map(|row| (&fitted.rows, row));
            records.refused((&fitted.keys, change.at), row, &change.entry, reason);
        }
        settled.retain(|(change, decision)| decision.changed && !refused.contains_key(&change.id));
        self.write_entries(target, &fitted, &settled, &known, &origin).await?;
        self.drop_own_lines(target, &fitted.keys).await?;
        Ok(applied)
    }

    /// Positions of the synced columns in the table, in the order of the rows' columns.
    fn synced(&self) -> Vec<usize> {
        let whole = &self.book.logged.table;
        self.rows.table.columns.iter().filter(|c| !c.generated).filter_map(|c| whole.column(&c.name)).collect()
    }

    fn fit(&self, changes: &Changes) -> Fitted {
        let FittedBatch { batch: keys, misfits: unfit_keys } = fit_batch(changes.keys.clone(), &self.keys);
        let keys = by_name(&keys, &self.book.keys);
        let FittedBatch { batch: rows, misfits: unfit_rows } = fit_batch(changes.rows.clone(), &self.rows);
        let key: Vec<usize> = (0..keys.columns().len()).collect();
        let content: Vec<usize> = (0..rows.columns().len()).filter(|&c| !rows.table.columns[c].generated).collect();
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
            let digest = row.map(|row| row_digest(&out.rows, row, &content));
            let entry = Entry { digest, ..known.entry.clone() };
            out.changes.push(Change { id: key_id(&out.keys, at, &key), at, row, entry });
        }
        out
    }

    /// Locks the rows that stand under these keys; a row that someone else holds is not waited for, since whoever waits
    /// while it holds others may be an application's deadlock.
    async fn lock(&self, target: &mut dyn Target, keys: &Batch) -> Result<Held> {
        let table = &self.book.logged.table;
        let held = target.lookup(table, keys, RowLock::SkipHeld).await?.rows();
        let rows = target.lookup(table, keys, RowLock::None).await?;
        if rows.rows() > held {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("{} rows of {} are held by another transaction", rows.rows() - held, table.name),
            ));
        }
        let key = &self.book.logged.key.columns;
        let places = (0..rows.rows()).map(|row| (key_id(&rows, row, key), row)).collect();
        Ok(Held { rows, places })
    }

    /// What was noted of these keys before they were locked becomes their versions first.
    async fn fold_noted(&self, target: &mut dyn Target, keys: &Batch) -> Result<()> {
        let lines = target.lookup(&self.book.log.table, keys, RowLock::None).await?;
        if lines.rows() > 0 {
            fold_keys(&self.site, &self.book, target, &Lines::read(&self.book, &lines)?).await?;
            target.write(WriteMode::Delete, &lines).await?;
        }
        Ok(())
    }

    /// The local entry, its digest that of the synced columns.
    fn local(&self, known: Option<&Known>, standing: &Held, id: KeyId) -> Option<Entry> {
        let digest = standing.places.get(&id).map(|&row| row_digest(&standing.rows, row, &self.synced()));
        match (known, digest) {
            (Some(known), digest) => Some(Entry { digest, ..known.entry.clone() }),
            (None, Some(digest)) => Some(Entry::base(digest)),
            (None, None) => None,
        }
    }

    /// Writes the rows of the changes that win; what the target refuses, by key, with its words.
    async fn write_rows(
        &self,
        target: &mut dyn Target,
        fitted: &Fitted,
        standing: &Held,
        settled: &[(&Change, Decision)],
        applied: &mut Applied,
    ) -> Result<HashMap<KeyId, String>> {
        let stands = |change: &Change| standing.places.contains_key(&change.id);
        let wins = settled.iter().filter(|(_, d)| d.row == Side::Incoming).map(|(change, _)| *change);
        let gone: Vec<usize> = wins.clone().filter(|c| c.row.is_none() && stands(c)).map(|c| c.at).collect();
        let changed: Vec<usize> = wins.clone().filter(|c| stands(c)).filter_map(|c| c.row).collect();
        let new: Vec<usize> = wins.filter(|c| !stands(c)).filter_map(|c| c.row).collect();
        let mut retry = Retry::default();
        for (mode, batch) in [
            (WriteMode::Delete, fitted.keys.select(gone.into_iter())),
            (WriteMode::Update, fitted.rows.select(changed.into_iter())),
            (WriteMode::Insert, fitted.rows.select(new.into_iter())),
        ] {
            if batch.rows() > 0 {
                applied.count(mode, put(target, mode, batch, &mut retry).await?);
            }
        }
        let outcome = retry.finish(target).await?;
        for (mode, rows) in outcome.written {
            applied.count(mode, rows);
        }
        let refused = outcome.refused.into_iter().map(|(batch, refused)| {
            let key: Vec<usize> = self.book.keys.columns.iter().filter_map(|c| batch.table.column(&c.name)).collect();
            (key_id(&batch, refused.row, &key), refused.reason)
        });
        Ok(refused.collect())
    }

    /// Writes the entries that changed, each with the digest of what now stands.
    async fn write_entries(
        &self,
        target: &mut dyn Target,
        fitted: &Fitted,
        settled: &[(&Change, Decision)],
        known: &HashMap<KeyId, Known>,
        origin: &Origin,
    ) -> Result<()> {
        if settled.is_empty() {
            return Ok(());
        }
        let keys = fitted.keys.select(settled.iter().map(|(change, _)| change.at));
        let rows = target.lookup(&self.book.logged.table, &keys, RowLock::None).await?;
        let key = &self.book.logged.key.columns;
        let places: HashMap<KeyId, usize> = (0..rows.rows()).map(|row| (key_id(&rows, row, key), row)).collect();
        let (synced, whole) = (self.synced(), crate::capture::content(&self.book));
        let first = self.site.take_numbers(target, settled.len()).await?;
        let (mut new, mut changed) = (Entries::new(&self.book), Entries::new(&self.book));
        for (row, (change, decision)) in settled.iter().enumerate() {
            let digest = |columns: &[usize]| places.get(&change.id).map(|&at| row_digest(&rows, at, columns));
            let entry = as_it_stands(decision.entry.clone(), digest(&synced), digest(&whole), origin);
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
        let lines = target.lookup(log, keys, RowLock::None).await?;
        let Some(label) = log.column(ChangeLog::LABEL) else { return Ok(()) };
        let ours: Vec<usize> = (0..lines.rows()).filter(|&row| lines.cell(row, label) == Cell::Int(1)).collect();
        if !ours.is_empty() {
            target.write(WriteMode::Delete, &lines.select(ours.into_iter())).await?;
        }
        Ok(())
    }
}

/// The columns of `table`, in its order.
fn by_name(batch: &Batch, table: &Arc<Table>) -> Batch {
    let at = table.columns.iter().filter_map(|c| batch.table.column(&c.name));
    Batch::new(table.clone(), at.map(|at| batch.columns()[at].clone()).collect())
}

/// The entry of a row that was written. What the target's own triggers made of it is a new version of this site, or two
/// sites would hold different rows under one version.
fn as_it_stands(mut entry: Entry, synced: Option<Digest>, whole: Option<Digest>, origin: &Origin) -> Entry {
    let written = Written { wall: origin.now, born: false, digest: synced };
    if let Folded::New(other) = fold(Some(&entry), &written, origin) {
        entry = other;
    }
    entry.digest = whole;
    entry
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
