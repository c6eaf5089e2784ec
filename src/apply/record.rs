//! What a person may want to see of a run: conflicts with both images, changes that were refused. Written in the
//! transaction that they belong to.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::Terms;
use crate::conflict::{Decision, FirstRun, Policy, Relation, Rule, Side};
use crate::engine::{Result, RowLock, Target, WriteMode};
use crate::model::{Batch, Cell, Column, ColumnDef, Entry, Table, Version, parse, render, text_digest};
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
    waiting: Vec<Column>,
    /// Conflicts of the keys at hand that are open, by id.
    open: HashMap<String, Batch>,
}

impl Records {
    /// None yet, for a sync and its direction.
    #[must_use]
    pub fn new(site: &Site, sync: &str, to_target: bool) -> Self {
        let empty = |table: &Table| vec![Column::default(); table.columns.len()];
        Self {
            sync: sync.to_owned(),
            to_target,
            policy: "",
            conflicts: empty(&site.books.conflicts),
            quarantine: empty(&site.books.quarantine),
            waiting: empty(&site.books.waiting),
            open: HashMap::new(),
            books: site.books.clone(),
        }
    }

    /// What follows is of a row with these terms, of which a timestamp column says this, here and at the other end.
    pub fn under(&mut self, terms: Terms, [ours, theirs]: [Option<i64>; 2]) {
        let told = matches!(terms, Terms::Meeting(..)) && ours.is_some() && theirs.is_some() && ours != theirs;
        self.policy = if told { "timestamp" } else { name(terms, self.to_target) };
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
        let open =
            self.policy == "manual" || matches!(decision.relation, Relation::TwoRows { .. }) || self.is_open(key);
        let winner = match decision.row {
            _ if open => "open",
            _ if decision.columns.is_some() => "merged",
            side if (side == Side::Local) == self.to_target => "target",
            _ => "source",
        };
        let (source, target) = if self.to_target { (theirs, ours) } else { (ours, theirs) };
        // Both versions name the conflict, so that it is one wherever the two meet and however often.
        let versions = [local.map_or(Version::BASE, |e| e.version), incoming.version];
        let (one, other) = (versions[0].min(versions[1]), versions[0].max(versions[1]));
        // One version may stand for different merges.
        let merges = self.policy == "merge-columns";
        let known = local.into_iter().chain([incoming]).filter(|_| merges);
        let vectors: BTreeSet<String> = known.map(|entry| format!(" {}", entry.vector)).collect();
        let id = if open {
            self.row_id(key)
        } else {
            let vectors: String = vectors.into_iter().collect();
            text_digest(&format!("{} {} {} {one} {other}{vectors}", self.sync, key.0.table.name, object(key)))
        };
        let policy = self.open_policy(key).unwrap_or_else(|| self.policy.to_owned());
        let texts = [id, self.sync.clone(), key.0.table.name.to_string(), object(key), policy, winner.into()];
        for (column, text) in self.conflicts.iter_mut().zip(&texts) {
            column.push_bytes(text.as_bytes());
        }
        push_image(&mut self.conflicts[6], source);
        push_image(&mut self.conflicts[7], target);
    }

    /// A row that gave up the number of this key, as it stands now, under its new one: what the other end has under the
    /// old one waits.
    pub async fn moved(&mut self, key: Row<'_>, now: Row<'_>, target: &mut dyn Target) -> Result<()> {
        let id = self.row_id(key);
        let of = key.0.select(std::iter::once(key.1));
        let waiting = of_keys(target, &self.books.waiting, &of, |key| self.row_id(key)).await?;
        let keeps = if self.to_target { "source" } else { "target" };
        let (table, object_of) = (key.0.table.name.to_string(), object(key));
        let texts = [
            text_digest(&format!("{id} {}", object(now))),
            self.sync.clone(),
            table,
            object_of,
            "rekey".into(),
            keeps.into(),
        ];
        for (column, text) in self.conflicts.iter_mut().zip(&texts) {
            column.push_bytes(text.as_bytes());
        }
        let (ours, theirs) = if self.to_target { (7, 6) } else { (6, 7) };
        push_image(&mut self.conflicts[ours], Some(now));
        if waiting.rows() > 0 {
            self.conflicts[theirs].push_cell(waiting.cell(0, 5));
        } else {
            self.conflicts[theirs].push_null();
        }
        Ok(())
    }

    /// A change that the receiving end refused.
    pub fn refused(&mut self, key: Row<'_>, row: Option<Row<'_>>, entry: &Entry, reason: &str) {
        let texts = self.texts_aside(key, reason);
        push_aside(&mut self.quarantine, &texts, row, entry);
    }

    /// A change that has to wait.
    pub fn waits(&mut self, key: Row<'_>, row: Option<Row<'_>>, entry: &Entry, reason: &str) {
        let texts = self.texts_aside(key, reason);
        push_aside(&mut self.waiting, &texts, row, entry);
    }

    fn texts_aside(&self, key: Row<'_>, reason: &str) -> [String; 5] {
        [self.row_id(key), self.sync.clone(), key.0.table.name.to_string(), object(key), reason.to_owned()]
    }

    /// Takes back what was set aside under these keys before: what comes now takes its place. Looks which conflicts are
    /// open under them.
    pub async fn withdraw(&mut self, target: &mut dyn Target, keys: &Batch) -> Result<()> {
        for table in [&self.books.quarantine, &self.books.waiting] {
            let there = of_keys(target, table, keys, |key| self.row_id(key)).await?;
            if there.rows() > 0 {
                target.write(WriteMode::Delete, &there).await?;
            }
        }
        let there = of_keys(target, &self.books.conflicts, keys, |key| self.row_id(key)).await?;
        for row in 0..there.rows() {
            if let (Cell::Bytes(id), Cell::Bytes(b"open")) = (there.cell(row, 0), there.cell(row, WINNER)) {
                self.open.insert(String::from_utf8_lossy(id).into_owned(), there.select(std::iter::once(row)));
            }
        }
        Ok(())
    }

    /// Whether a conflict under this key waits for a person.
    #[must_use]
    pub fn is_open(&self, key: Row<'_>) -> bool {
        !self.open.is_empty() && self.open.contains_key(&self.row_id(key))
    }

    /// What left the conflict open that waits under this key.
    fn open_policy(&self, key: Row<'_>) -> Option<String> {
        match self.open.get(&self.row_id(key))?.cell(0, POLICY) {
            Cell::Bytes(policy) => Some(String::from_utf8_lossy(policy).into_owned()),
            _ => None,
        }
    }

    /// What was open under this key is settled: this side's row stands.
    pub fn settle(&mut self, key: Row<'_>, row: Side) {
        let Some(record) = self.open.remove(&self.row_id(key)) else { return };
        let winner = if (row == Side::Local) == self.to_target { "target" } else { "source" };
        for (at, column) in self.conflicts.iter_mut().enumerate().filter(|(at, _)| *at != AT) {
            if at == WINNER {
                column.push_bytes(winner.as_bytes());
            } else {
                column.push_cell(record.cell(0, at));
            }
        }
    }

    /// One for each row, so that what comes later replaces it, also where the sync's ends were exchanged meanwhile: of
    /// one row only one conflict is open, and only one change is set aside.
    fn row_id(&self, key: Row<'_>) -> String {
        text_digest(&format!("{} {} {}", self.sync, key.0.table.name, object(key)))
    }

    /// Writes them, with the time. One that is there already, of an earlier try, is replaced.
    pub async fn write(mut self, target: &mut dyn Target) -> Result<()> {
        let now = target.now().await?;
        for (columns, at) in [(&mut self.conflicts, AT), (&mut self.quarantine, 7), (&mut self.waiting, 7)] {
            for _ in 0..columns[0].len() {
                columns[at].push_int(now);
            }
        }
        for (table, columns) in [
            (&self.books.conflicts, self.conflicts),
            (&self.books.quarantine, self.quarantine),
            (&self.books.waiting, self.waiting),
        ] {
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

/// Columns of the conflicts.
const POLICY: usize = 4;
const WINNER: usize = 5;
const AT: usize = 8;
/// Records that are looked through at a time, without their images.
const RECORDS: usize = 10_000;

fn push_aside(columns: &mut [Column], texts: &[String; 5], row: Option<Row<'_>>, entry: &Entry) {
    for (column, text) in columns.iter_mut().zip(texts) {
        column.push_bytes(text.as_bytes());
    }
    push_image(&mut columns[5], row);
    columns[6].push_bytes(&entry.version.to_bytes());
}

/// The records of these keys in one of the books.
async fn of_keys(
    target: &mut dyn Target,
    table: &Arc<Table>,
    keys: &Batch,
    id: impl Fn(Row<'_>) -> String,
) -> Result<Batch> {
    if keys.rows() == 0 || target.scan(table, None, 1).await?.rows() == 0 {
        return Ok(Batch::new(table.clone(), vec![Column::default(); table.columns.len()]));
    }
    let mut ids = Column::default();
    for row in 0..keys.rows() {
        ids.push_bytes(id((keys, row)).as_bytes());
    }
    target.lookup(table, &Batch::new(Arc::new(table.project(&[0])), vec![ids]), RowLock::None).await
}

/// The keys under which a site has set aside what a sync brings to a table, those first that were tried longest ago.
pub async fn keys_aside(target: &mut dyn Target, site: &Site, sync: &str, book: &Book, limit: usize) -> Result<Batch> {
    let table = book.logged.table.name.to_string();
    let mut keys = book.no_keys();
    let mut seen = BTreeSet::new();
    for records in [&site.books.waiting, &site.books.quarantine] {
        let records = Arc::new(records.project(&[1, 2, 3, 7]));
        let mut above = i64::MIN;
        loop {
            let found = target.scan(&records, Some((3, above)), RECORDS).await?;
            for row in 0..found.rows() {
                if let Cell::Int(at) = found.cell(row, 3) {
                    above = at;
                }
                let ours = (found.cell(row, 0), found.cell(row, 1))
                    == (Cell::Bytes(sync.as_bytes()), Cell::Bytes(table.as_bytes()));
                let Cell::Bytes(text) = found.cell(row, 2) else { continue };
                // Nor is one tried twice that both waits and was refused.
                if !ours || seen.len() >= limit || !seen.insert(text.to_vec()) {
                    continue;
                }
                // A key that cannot stand here is not looked for again.
                let Some(key) = serde_json::from_slice(text).ok().and_then(|text| key_of(&text, &book.keys)) else {
                    continue;
                };
                keys.iter_mut().zip(&key).for_each(|(column, part)| column.push_cell(part.cell(0)));
            }
            if found.rows() < RECORDS || seen.len() >= limit {
                break;
            }
        }
    }
    Ok(Batch::new(book.keys.clone(), keys))
}

/// What people have to look at of a sync, by the table's name here: open conflicts, changes in quarantine, changes that
/// wait.
pub async fn count_aside(target: &mut dyn Target, site: &Site, sync: &str) -> Result<BTreeMap<String, [u64; 3]>> {
    let mut counts: BTreeMap<String, [u64; 3]> = BTreeMap::new();
    let books = &site.books;
    for (kind, table, columns) in [
        (0, &books.conflicts, &[1, 2, WINNER, AT][..]),
        (1, &books.quarantine, &[1, 2, 3, 7]),
        (2, &books.waiting, &[1, 2, 3, 7]),
    ] {
        let records = Arc::new(table.project(columns));
        let mut above = i64::MIN;
        loop {
            let found = target.scan(&records, Some((3, above)), RECORDS).await?;
            for row in 0..found.rows() {
                if let Cell::Int(at) = found.cell(row, 3) {
                    above = at;
                }
                let counts_here = kind != 0 || found.cell(row, 2) == Cell::Bytes(b"open");
                if let (Cell::Bytes(of), Cell::Bytes(name)) = (found.cell(row, 0), found.cell(row, 1))
                    && of == sync.as_bytes()
                    && counts_here
                {
                    counts.entry(String::from_utf8_lossy(name).into_owned()).or_default()[kind] += 1;
                }
            }
            if found.rows() < RECORDS {
                break;
            }
        }
    }
    Ok(counts)
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
        Terms::Written(Rule { policy: Policy::MergeColumns, .. }) => "merge-columns",
        Terms::Written(Rule { policy: Policy::KeepExisting, .. }) => "keep-existing",
        Terms::Written(Rule { policy: Policy::Manual, .. }) | Terms::Meeting(FirstRun::Manual, _) => "manual",
        Terms::Written(Rule { policy: Policy::Prefer(side), .. }) | Terms::Meeting(FirstRun::Prefer(side), _) => {
            if (side == Side::Local) == to_target {
                "target-wins"
            } else {
                "source-wins"
            }
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
