//! What a person may want to see of a run: conflicts with both images, changes that were refused. Written in the
//! transaction that they belong to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Terms;
use crate::conflict::{Decision, FirstRun, Policy, Relation, Rule, Side};
use crate::engine::{Result, RowLock, Target, WriteMode};
use crate::model::{Batch, Cell, Column, ColumnDef, Entry, Table, Version, parse, render};
use crate::site::{Book, Books, Site};

/// A row of a batch.
pub type Row<'a> = (&'a Batch, usize);

/// What is to be recorded at the end of a batch of changes.
pub struct Records {
    sync: String,
    /// Whether the receiving end is the sync's target.
    to_target: bool,
    policy: &'static str,
    books: Arc<Books>,
    conflicts: Vec<Column>,
    quarantine: Vec<Column>,
}

impl Records {
    /// None yet, for a sync and its direction.
    #[must_use]
    pub fn new(site: &Site, sync: &str, to_target: bool, terms: Terms) -> Self {
        let empty = |table: &Table| vec![Column::default(); table.columns.len()];
        Self {
            sync: sync.to_owned(),
            to_target,
            policy: name(terms, to_target),
            conflicts: empty(&site.books.conflicts),
            quarantine: empty(&site.books.quarantine),
            books: site.books.clone(),
        }
    }

    /// A conflict: what stood here and what came, the decision, and both entries.
    pub fn conflict(
        &mut self,
        key: Row<'_>,
        ours: Option<Row<'_>>,
        theirs: Option<Row<'_>>,
        decision: &Decision,
        (local, incoming): (Option<&Entry>, &Entry),
    ) {
        let open = self.policy == "manual" || matches!(decision.relation, Relation::TwoRows { .. });
        let winner = match decision.row {
            _ if open => "open",
            side if (side == Side::Local) == self.to_target => "target",
            _ => "source",
        };
        let (source, target) = if self.to_target { (theirs, ours) } else { (ours, theirs) };
        // Both versions name the conflict, so that it is one wherever the two meet and however often.
        let versions = [local.map_or(Version::BASE, |e| e.version), incoming.version];
        let (one, other) = (versions[0].min(versions[1]), versions[0].max(versions[1]));
        let id =
            crate::model::text_digest(&format!("{} {} {} {one} {other}", self.sync, key.0.table.name, object(key)));
        let texts =
            [id, self.sync.clone(), key.0.table.name.to_string(), object(key), self.policy.into(), winner.into()];
        for (column, text) in self.conflicts.iter_mut().zip(&texts) {
            column.push_bytes(text.as_bytes());
        }
        push_image(&mut self.conflicts[6], source);
        push_image(&mut self.conflicts[7], target);
    }

    /// A change that the receiving end refused.
    pub fn refused(&mut self, key: Row<'_>, row: Option<Row<'_>>, entry: &Entry, reason: &str) {
        let texts =
            [self.quarantine_id(key), self.sync.clone(), key.0.table.name.to_string(), object(key), reason.to_owned()];
        for (column, text) in self.quarantine.iter_mut().zip(&texts) {
            column.push_bytes(text.as_bytes());
        }
        push_image(&mut self.quarantine[5], row);
        self.quarantine[6].push_bytes(&entry.version.to_bytes());
    }

    /// Takes back what was refused under these keys before: what comes now takes its place.
    pub async fn withdraw(&self, target: &mut dyn Target, keys: &Batch) -> Result<()> {
        let quarantine = &self.books.quarantine;
        if keys.rows() == 0 || target.scan(quarantine, None, 1).await?.rows() == 0 {
            return Ok(());
        }
        let mut ids = Column::default();
        for row in 0..keys.rows() {
            ids.push_bytes(self.quarantine_id((keys, row)).as_bytes());
        }
        let ids = Batch::new(Arc::new(quarantine.project(&[0])), vec![ids]);
        let there = target.lookup(quarantine, &ids, RowLock::None).await?;
        if there.rows() > 0 {
            target.write(WriteMode::Delete, &there).await?;
        }
        Ok(())
    }

    /// One for each row and direction, so that a later refusal replaces an earlier one.
    fn quarantine_id(&self, key: Row<'_>) -> String {
        let way = if self.to_target { "push" } else { "pull" };
        crate::model::text_digest(&format!("{} {way} {} {}", self.sync, key.0.table.name, object(key)))
    }

    /// Writes them, with the time. One that is there already, of an earlier try, is replaced.
    pub async fn write(mut self, target: &mut dyn Target) -> Result<()> {
        let now = target.now().await?;
        for (columns, at) in [(&mut self.conflicts, 8), (&mut self.quarantine, 7)] {
            for _ in 0..columns[0].len() {
                columns[at].push_int(now);
            }
        }
        for (table, columns) in [(&self.books.conflicts, self.conflicts), (&self.books.quarantine, self.quarantine)] {
            let batch = last_of_each(&Batch::new(table.clone(), columns));
            if batch.rows() == 0 {
                continue;
            }
            let keys = Batch::new(Arc::new(table.project(&[0])), vec![batch.columns()[0].clone()]);
            let there = target.lookup(table, &keys, RowLock::None).await?;
            if there.rows() > 0 {
                target.write(WriteMode::Delete, &there).await?;
            }
            target.write(WriteMode::Insert, &batch).await?;
            target.flush().await?;
        }
        Ok(())
    }
}

/// The keys under which a site refuses what a sync brings to a table.
pub async fn refused_keys(target: &mut dyn Target, site: &Site, sync: &str, book: &Book) -> Result<Batch> {
    let quarantine = &site.books.quarantine;
    let mut wanted = vec![Column::default(); 2];
    wanted[0].push_bytes(sync.as_bytes());
    wanted[1].push_bytes(book.logged.table.name.to_string().as_bytes());
    let wanted = Batch::new(Arc::new(quarantine.project(&[1, 2])), wanted);
    let found = target.lookup(quarantine, &wanted, RowLock::None).await?;
    let mut keys = book.no_keys();
    let mut seen = BTreeSet::new();
    for row in 0..found.rows() {
        let Cell::Bytes(text) = found.cell(row, 3) else { continue };
        // A sync whose ends were exchanged since may have refused it in both directions.
        if !seen.insert(text.to_vec()) {
            continue;
        }
        // A key that cannot stand here is not looked for again.
        let Some(key) = serde_json::from_slice(text).ok().and_then(|text| key_of(&text, &book.keys)) else { continue };
        keys.iter_mut().zip(&key).for_each(|(column, part)| column.push_cell(part.cell(0)));
    }
    Ok(Batch::new(book.keys.clone(), keys))
}

/// Reads a key that was recorded; `None` when the table has another.
pub(crate) fn key_of(object: &serde_json::Value, table: &Table) -> Option<Vec<Column>> {
    let part = |column: &ColumnDef| {
        let mut part = Column::default();
        parse(&column.logical, object.get(&column.name)?.as_str()?, &mut part).ok()?;
        Some(part)
    };
    table.columns.iter().map(part).collect()
}

/// The row of an image that was recorded, none of null; the error says what the table has otherwise now.
pub(crate) fn row_of(recorded: &serde_json::Value, table: &Arc<Table>) -> std::result::Result<Batch, String> {
    let mut columns = vec![Column::default(); table.columns.len()];
    if !recorded.is_null() {
        for (column, data) in table.columns.iter().zip(&mut columns) {
            match recorded.get(&column.name) {
                _ if column.generated => data.push_null(),
                Some(serde_json::Value::Null) => data.push_null(),
                Some(serde_json::Value::String(text)) => parse(&column.logical, text, data)?,
                _ => return Err(format!("it has no column {}", column.name)),
            }
        }
    }
    Ok(Batch::new(table.clone(), columns))
}

/// The rows without those that a later one of the same id replaces.
fn last_of_each(batch: &Batch) -> Batch {
    let mut last = BTreeMap::new();
    for row in 0..batch.rows() {
        if let Cell::Bytes(id) = batch.cell(row, 0) {
            last.insert(id.to_vec(), row);
        }
    }
    let rows: Vec<usize> = last.into_values().collect();
    batch.select(rows.into_iter())
}

/// The name of the policy in the configuration.
fn name(terms: Terms, to_target: bool) -> &'static str {
    match terms {
        Terms::Written(Rule { policy: Policy::LastWriteWins, .. }) => "last-write-wins",
        Terms::Written(Rule { policy: Policy::Manual, .. }) | Terms::Meeting(FirstRun::Manual) => "manual",
        Terms::Written(Rule { policy: Policy::Prefer(side), .. }) | Terms::Meeting(FirstRun::Prefer(side)) => {
            if (side == Side::Local) == to_target { "target-wins" } else { "source-wins" }
        }
    }
}

fn push_image(column: &mut Column, row: Option<Row<'_>>) {
    match row {
        Some(row) => column.push_bytes(object(row).as_bytes()),
        None => column.push_null(),
    }
}

/// A key or a row as it stands in the records.
pub(super) fn object(row: Row<'_>) -> String {
    image(row).to_string()
}

/// A row as a JSON object, each value as its canonical text.
pub(crate) fn image((batch, row): Row<'_>) -> serde_json::Value {
    let value = |at: usize| match batch.cell(row, at) {
        Cell::Null | Cell::Absent => serde_json::Value::Null,
        cell => render(&batch.table.columns[at].logical, cell).map_or(serde_json::Value::Null, Into::into),
    };
    let members: serde_json::Map<String, serde_json::Value> =
        batch.table.columns.iter().enumerate().map(|(at, column)| (column.name.clone(), value(at))).collect();
    serde_json::Value::Object(members)
}
