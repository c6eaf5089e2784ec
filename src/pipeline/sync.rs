//! Changes of one site to another: the first run brings the rows that were never changed under capture, every run
//! brings what has a version.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::plan::{Plan, TablePlan};
use super::run::{Report, TableReport};
use crate::apply::{Applied, Receiver, Records, Terms, refused_keys};
use crate::capture::{
    Changes, FittedBatch, Shape, changes, changes_of, fit_batch, fold_table, interrupted, read as read_rows,
};
use crate::compare::{Merge, Step, compared_as};
use crate::conflict::{FirstRun, Rule};
use crate::engine::{Error, ErrorKind, ReadRequest, Result, Selection, Snapshot, Target, WriteOptions};
use crate::model::{Batch, BatchLimits, ColumnDef, Shift, Table};
use crate::runtime::{Backoff, Failpoint, random};
use crate::site::{Book, Cursor, Site};

/// How changes are brought over.
#[derive(Clone)]
pub struct ChangeOptions {
    /// The sync's name, for the records.
    pub sync: String,
    /// Whether the receiving end is the sync's target.
    pub to_target: bool,
    /// How conflicts are settled.
    pub rule: Rule,
    /// How rows are settled that differ when the two meet for the first time.
    pub first_run: FirstRun,
    /// Bounds of a batch.
    pub limits: BatchLimits,
    /// Asked to stop.
    pub stop: CancellationToken,
}

/// What apply does to a transaction: the logs take its writes down as ours, triggers and keys wait.
const LABELLED: WriteOptions =
    WriteOptions { silence_triggers: true, defer_foreign_keys: true, labelled: true, point: false };

/// How often a batch is tried that meets rows which an application holds.
const TRIES: u32 = 8;

/// Brings the changes of `from` to `to`, table by table; one that fails does not stop the others.
pub async fn run_changes(from: &Site, to: &Site, plan: &Plan, options: &ChangeOptions) -> Result<Report> {
    let started = Instant::now();
    let (mut source, mut target) = (from.database.target().await?, to.database.target().await?);
    let mut tables = Vec::with_capacity(plan.tables.len());
    let mut first_error: Option<Error> = None;
    for table in &plan.tables {
        if options.stop.is_cancelled() {
            return Err(interrupted());
        }
        let mut report = TableReport { table: table.source.name.to_string(), ..TableReport::default() };
        let run = TableRun::new(from, to, table, options);
        let result = match run {
            Ok(run) => run.run(source.as_mut(), target.as_mut(), &mut report).await,
            Err(e) => Err(e),
        };
        if let Err(e) = result {
            let e = e.context(format!("table {}", table.source.name));
            if matches!(e.kind, ErrorKind::Unreachable | ErrorKind::Full | ErrorKind::Interrupted) {
                return Err(e);
            }
            report.error = Some(e.message().to_owned());
            first_error.get_or_insert(e);
            // What the failed table left open must not reach the next one.
            source.rollback().await?;
            target.rollback().await?;
        }
        tables.push(report);
    }
    let written: Vec<Arc<Table>> = plan
        .tables
        .iter()
        .zip(&tables)
        .filter(|(_, report)| report.inserted + report.updated + report.deleted > 0)
        .filter_map(|(table, _)| to.book(&table.target.name).map(|book| book.logged.table.clone()))
        .collect();
    let problems = if written.is_empty() { Vec::new() } else { target.verify(&written).await? };
    let clean = first_error.is_none() && problems.is_empty() && tables.iter().all(|t| t.quarantined + t.open == 0);
    Ok(Report {
        status: if clean { "succeeded" } else { "failed" },
        tables,
        seconds: started.elapsed().as_secs_f64(),
        problems,
        error: first_error.map(|e| e.kind),
    })
}

/// One table of a run.
struct TableRun<'a> {
    from: &'a Site,
    to: &'a Site,
    plan: &'a TablePlan,
    options: &'a ChangeOptions,
    source: Arc<Book>,
    /// The form of the source's keys.
    source_keys: Shape,
    receiver: Receiver,
}

impl<'a> TableRun<'a> {
    fn new(from: &'a Site, to: &'a Site, plan: &'a TablePlan, options: &'a ChangeOptions) -> Result<Self> {
        let book = |site: &Site, table: &Table| {
            site.book(&table.name).cloned().ok_or_else(|| {
                Error::new(
                    ErrorKind::SchemaMismatch,
                    format!(
                        "{} of {} is not captured; run 'rowferry capture install'",
                        table.name,
                        site.database.label()
                    ),
                )
            })
        };
        let (source, target) = (book(from, &plan.source)?, book(to, &plan.target)?);
        let same_engine = from.database.abilities().product == to.database.abilities().product;
        let shape = |table: Arc<Table>, shifts: Arc<[Option<Shift>]>| Shape {
            table,
            database: to.database.clone(),
            same_engine,
            shifts,
        };
        let keys = target_keys(&source, &target, plan)?;
        let at = source.keys.columns.iter().filter_map(|c| plan.source.column(&c.name));
        let key_shifts = at.map(|at| plan.shifts[at].clone()).collect();
        let back = |(theirs, ours): (&ColumnDef, &ColumnDef)| {
            Shift::between(&theirs.logical, to.database.zone(), &ours.logical, from.database.zone())
        };
        let source_keys = Shape {
            table: source.keys.clone(),
            database: from.database.clone(),
            same_engine,
            shifts: keys.columns.iter().zip(&source.keys.columns).map(back).collect(),
        };
        let receiver = Receiver {
            site: to.clone(),
            book: target,
            rows: shape(plan.target.clone(), plan.shifts.clone()),
            keys: shape(keys, key_shifts),
        };
        Ok(Self { from, to, plan, options, source, source_keys, receiver })
    }

    /// Rows under one number that the databases gave out are two rows when each site gave it to its own.
    fn rule(&self) -> Rule {
        let numbered =
            |book: &Book| book.logged.key.columns.iter().any(|&c| book.logged.table.columns[c].identity.is_some());
        let generated_keys =
            self.options.rule.generated_keys && (numbered(&self.source) || numbered(&self.receiver.book));
        Rule { generated_keys, ..self.options.rule }
    }

    async fn run(&self, source: &mut dyn Target, target: &mut dyn Target, report: &mut TableReport) -> Result<()> {
        fold_table(self.from, &self.source, source).await?;
        let number = self.receiver.book.logged.n;
        target.begin(WriteOptions { point: true, ..WriteOptions::default() }).await?;
        let cursor = self.to.cursor(target, self.from.id, number).await?;
        target.rollback().await?;
        self.bring_changes(cursor, source, target, report).await?;
        self.bring_refused(source, target, report).await
    }

    async fn bring_changes(
        &self,
        cursor: Option<Cursor>,
        source: &mut dyn Target,
        target: &mut dyn Target,
        report: &mut TableReport,
    ) -> Result<()> {
        let number = self.receiver.book.logged.n;
        let mut position = if let Some(cursor) = cursor {
            cursor.position
        } else {
            self.first_run(source, target, report).await?;
            0
        };
        loop {
            if self.options.stop.is_cancelled() {
                return Err(interrupted());
            }
            let batch = changes(&self.source, &self.plan.source, source, position, self.options.limits.rows).await?;
            if batch.position == position && cursor.is_some() {
                return Ok(());
            }
            position = batch.position;
            let noted = Cursor { source: self.from.id, table: number, position };
            let terms = Terms::Written(self.rule());
            self.take_in(target, &batch, Some(noted), terms, report).await?;
            if !batch.more {
                return Ok(());
            }
        }
    }

    /// One transaction: rows, entries, records and cursor.
    async fn take_in(
        &self,
        target: &mut dyn Target,
        batch: &Changes,
        cursor: Option<Cursor>,
        terms: Terms,
        report: &mut TableReport,
    ) -> Result<()> {
        for tried in 1.. {
            target.begin(LABELLED).await?;
            match self.take_in_once(target, batch, cursor, terms).await {
                Ok(applied) => {
                    Failpoint::ChangesWritten.reach();
                    target.commit().await?;
                    Failpoint::ChangesCommitted.reach();
                    report.add(batch.entries.len(), applied);
                    return Ok(());
                }
                Err(e) => {
                    target.rollback().await?;
                    if e.kind != ErrorKind::Busy || tried >= TRIES {
                        return Err(e);
                    }
                    tokio::time::sleep(Backoff::ROWS.wait(tried, random())).await;
                }
            }
        }
        Ok(())
    }

    async fn take_in_once(
        &self,
        target: &mut dyn Target,
        batch: &Changes,
        cursor: Option<Cursor>,
        terms: Terms,
    ) -> Result<Applied> {
        let mut records = Records::new(self.to, &self.options.sync, self.options.to_target, terms);
        let applied = self.receiver.apply(target, batch, terms, &mut records).await?;
        records.write(target).await?;
        if let Some(cursor) = cursor {
            self.to.set_cursor(target, cursor).await?;
        }
        Ok(applied)
    }

    /// Compares all rows and brings over those that the receiving end lacks. Rows that differ are settled as the sync
    /// says, those that only the receiving end has stay. Equal rows are one row.
    async fn first_run(
        &self,
        source: &mut dyn Target,
        target: &mut dyn Target,
        report: &mut TableReport,
    ) -> Result<()> {
        let Some(key) = &self.plan.key else {
            return Err(Error::new(ErrorKind::Unsupported, "rows without a key cannot be told apart"));
        };
        let (left, right) = (self.from.database.snapshot().await?, self.to.database.snapshot().await?);
        let all = 0..self.plan.target.columns.len();
        let compared = compared_as(&self.plan.source, &self.plan.target, all);
        let mut join = Merge::new(
            self.reading(left.as_ref(), &self.plan.source, true).await?,
            self.reading(right.as_ref(), &self.plan.target, false).await?,
            key.clone(),
            compared,
        );
        while let Some((step, a, _)) = join.next().await? {
            if self.options.stop.is_cancelled() {
                return Err(interrupted());
            }
            let Some(a) = a else { continue };
            let rows: Vec<usize> = missing_or_different(&step);
            if !rows.is_empty() {
                self.meet(source, target, self.source_keys(a, &rows), report).await?;
            }
        }
        Ok(())
    }

    /// Settles rows that differ at the first meeting, as they stand now, each with the version that it has: both ends
    /// may have met elsewhere.
    async fn meet(
        &self,
        source: &mut dyn Target,
        target: &mut dyn Target,
        mut keys: Batch,
        report: &mut TableReport,
    ) -> Result<()> {
        let terms = Terms::Meeting(self.options.first_run);
        for tried in 1.. {
            let (batch, left_out) = changes_of(&self.source, &self.plan.source, source, &keys).await?;
            self.take_in(target, &batch, None, terms, report).await?;
            if left_out.is_empty() {
                break;
            }
            if tried >= TRIES {
                return Err(Error::new(
                    ErrorKind::Busy,
                    format!("rows of {} are written faster than they can be read", self.plan.source.name),
                ));
            }
            keys = keys.select(left_out.into_iter());
            fold_table(self.from, &self.source, source).await?;
        }
        Ok(())
    }

    async fn reading(
        &self,
        snapshot: &dyn Snapshot,
        table: &Arc<Table>,
        fitted: bool,
    ) -> Result<crate::capture::Reading> {
        let request = ReadRequest {
            table: table.clone(),
            filter: None,
            rows: Selection::All,
            ordered: true,
            limits: self.options.limits,
        };
        let shape = fitted.then(|| self.receiver.rows.clone());
        Ok(read_rows(snapshot.source().await?, request, shape, self.options.stop.clone()))
    }

    /// The keys of rows in the receiver's form as the source has them; without those that it cannot have.
    fn source_keys(&self, batch: &Batch, rows: &[usize]) -> Batch {
        let theirs = &self.receiver.keys.table;
        let at = theirs.columns.iter().filter_map(|c| batch.table.column(&c.name));
        let columns = at.map(|at| batch.columns()[at].clone()).collect();
        let keys = Batch::new(theirs.clone(), columns).select(rows.iter().copied());
        let FittedBatch { batch: keys, misfits } = fit_batch(keys, &self.source_keys);
        let fits = |row: &usize| !misfits.iter().any(|m| m.0 == *row);
        keys.select((0..keys.rows()).filter(fits))
    }

    /// What the receiving end refused before is brought once more, as it stands now: what was in its way may be gone.
    async fn bring_refused(
        &self,
        source: &mut dyn Target,
        target: &mut dyn Target,
        report: &mut TableReport,
    ) -> Result<()> {
        target.begin(WriteOptions { point: true, ..WriteOptions::default() }).await?;
        let refused = refused_keys(target, self.to, &self.options.sync, &self.receiver.book).await?;
        target.rollback().await?;
        if refused.rows() == 0 {
            return Ok(());
        }
        let rows: Vec<usize> = (0..refused.rows()).collect();
        let keys = self.source_keys(&refused, &rows);
        let (batch, left_out) = changes_of(&self.source, &self.plan.source, source, &keys).await?;
        report.quarantined = (rows.len() - batch.entries.len() - left_out.len()) as u64;
        self.take_in(target, &batch, None, Terms::Written(self.rule()), report).await
    }
}

/// The rows of A that B lacks, has otherwise or cannot have, in their order.
fn missing_or_different(step: &Step) -> Vec<usize> {
    let unfit = step.unfit.iter().map(|(a, ..)| *a);
    let rows: BTreeSet<usize> =
        step.only_a.iter().copied().chain(step.changed.iter().map(|(a, _)| *a)).chain(unfit).collect();
    rows.into_iter().collect()
}

/// The key of the receiving table in the order of the changes' keys: both ends must tell rows apart by the same columns.
fn target_keys(source: &Book, target: &Book, plan: &TablePlan) -> Result<Arc<Table>> {
    let counterpart = |name: &str| plan.source.column(name).map(|at| plan.target.columns[at].name.clone());
    let theirs: Vec<Option<String>> = source.keys.columns.iter().map(|c| counterpart(&c.name)).collect();
    let positions: Option<Vec<usize>> =
        theirs.iter().map(|name| name.as_ref().and_then(|name| target.logged.table.column(name))).collect();
    match positions {
        Some(positions) if target.keys.columns.iter().all(|c| theirs.contains(&Some(c.name.clone()))) => {
            Ok(Arc::new(target.logged.table.project(&positions)))
        }
        _ => Err(Error::new(
            ErrorKind::SchemaMismatch,
            format!(
                "{} and {} tell their rows apart by different columns ({} and {}); give both the same key",
                source.logged.table.name,
                target.logged.table.name,
                names(&source.keys),
                names(&target.keys)
            ),
        )),
    }
}

fn names(table: &Table) -> String {
    table.columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ")
}
