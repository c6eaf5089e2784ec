//! Into a table whose rows are told apart by other columns than its key: those that the sync names. NULL agrees with NULL
//! there, and what stands under them twice, at either end, is nobody's match: such rows go to the rejects, and nothing is
//! changed for them.
//!
//! The source is read twice: only after the first time it is known which of its rows are one of several. Each row then
//! looks for its match, and changes it by the target's own key.

use std::collections::HashMap;
use std::sync::Arc;

use super::TableProgress;
use super::load::without_misfits;
use super::merge::{Tally, read_source, refuse_flood, try_again};
use super::plan::{Matched, Mode, TablePlan};
use super::run::Context;
use crate::apply::{Retry, put};
use crate::capture::{interrupted, read};
use crate::compare::compared_as;
use crate::engine::{Error, ErrorKind, ReadRequest, Result, RowLock, Selection, Target, WriteMode};
use crate::model::{Batch, Column, Digest, LogicalType, equal_cells, row_digest};

/// Rows that can be matched: so many keys are held in memory, some 50 MiB of them.
const KEYS_MAX: usize = 2_000_000;

/// Where the columns of a plan stand in the whole table at the target.
struct Places<'a> {
    plan: &'a TablePlan,
    /// For each column that is sent.
    there: Vec<usize>,
    /// The columns by which rows are matched.
    key: Vec<usize>,
    /// The target's own key.
    own: &'a [usize],
    /// Of those that are sent, the ones that a row that stands gets.
    changed: Vec<usize>,
    /// The same, with what each is compared as.
    compared: Vec<(usize, LogicalType)>,
}

impl<'a> Places<'a> {
    fn new(plan: &'a TablePlan, matched: &'a Matched) -> Self {
        let there: Vec<usize> = plan.target.columns.iter().filter_map(|c| plan.whole.column(&c.name)).collect();
        let changes = |at: &usize| {
            let column = &plan.target.columns[*at];
            !column.generated && !matched.key.contains(at) && !matched.own.contains(&there[*at])
        };
        let changed: Vec<usize> = (0..there.len()).filter(changes).collect();
        Self {
            compared: compared_as(&plan.source, &plan.target, changed.iter().copied()),
            key: matched.key.iter().map(|&at| there[at]).collect(),
            own: &matched.own,
            changed,
            there,
            plan,
        }
    }

    /// Rows of the target that get what rows of the source hold, found by the target's own key.
    fn updates(&self, rows: &[(usize, usize)], batch: &Batch, found: &Batch) -> Batch {
        let places: Vec<usize> =
            self.own.iter().copied().chain(self.changed.iter().map(|&at| self.there[at])).collect();
        let mut columns = vec![Column::default(); places.len()];
        for &(row, there) in rows {
            let own = self.own.iter().map(|&at| found.cell(there, at));
            let given = self.changed.iter().map(|&at| batch.cell(row, at));
            columns.iter_mut().zip(own.chain(given)).for_each(|(column, cell)| column.push_cell(cell));
        }
        Batch::new(Arc::new(self.plan.whole.project(&places)), columns)
    }

    fn differs(&self, (batch, row): (&Batch, usize), (found, there): (&Batch, usize)) -> bool {
        let equal = |(at, logical): &(usize, LogicalType)| {
            equal_cells(logical, batch.cell(row, *at), found.cell(there, self.there[*at]))
        };
        !self.compared.iter().all(equal)
    }
}

/// Matches, and writes what differs, in the open transaction.
pub(super) async fn merge_matched(
    context: &Context,
    (plan, at): (&TablePlan, usize),
    matched: &Matched,
    target: &mut dyn Target,
    tally: &mut Tally,
) -> Result<()> {
    let progress = &context.progress.tables[at];
    let places = Places::new(plan, matched);
    let known = keys(context, plan, matched).await?;
    let mut retry = Retry::default();
    let (mut there, mut extra) = (0, 0);
    if context.mode == Mode::Mirror {
        (there, extra) = remove_others(context, &places, &known, target, (&mut retry, tally)).await?;
    }
    let mut reading = read_source(context, plan, false).await?;
    while let Some(fitted) = reading.recv().await {
        if context.options.stop.is_cancelled() {
            return Err(interrupted());
        }
        let fitted = fitted?;
        TableProgress::add(&progress.read, fitted.batch.rows() as u64);
        let batch = without_misfits(context, fitted, progress)?;
        let reject = |row: usize, end: &str| {
            TableProgress::add(&progress.quarantined, 1);
            context.options.rejects.add(&batch, row, &format!("several rows of the {end} have these key values"))
        };
        let id = |row: usize| row_digest(&batch, row, &matched.key);
        let (single, several): (Vec<usize>, Vec<usize>) =
            (0..batch.rows()).partition(|row| known.get(&id(*row)) != Some(&true));
        several.into_iter().try_for_each(|row| reject(row, "source"))?;
        let keys = batch.select(single.iter().copied());
        let keys = matched.key.iter().map(|&at| keys.columns()[at].clone()).collect();
        let keys = Batch::new(Arc::new(plan.whole.project(&places.key)), keys);
        let found = target.lookup(&plan.whole, &keys, RowLock::None).await?;
        let mut matches: HashMap<Digest, Vec<usize>> = HashMap::new();
        for row in 0..found.rows() {
            matches.entry(row_digest(&found, row, &places.key)).or_default().push(row);
        }
        let (mut new, mut changed) = (Vec::new(), Vec::new());
        for row in single {
            match matches.get(&id(row)).map(Vec::as_slice) {
                None | Some([]) => new.push(row),
                Some(&[there]) if places.differs((&batch, row), (&found, there)) => changed.push((row, there)),
                Some([_]) => {}
                Some(_) => reject(row, "target")?,
            }
        }
        for (mode, rows) in [
            (WriteMode::Update, places.updates(&changed, &batch, &found)),
            (WriteMode::Insert, plan.fill.complete(batch.select(new.into_iter()))),
        ] {
            if rows.rows() > 0 {
                tally.add(mode, put(target, mode, rows, &mut retry).await?);
            }
        }
    }
    try_again(context, plan, target, retry, progress, tally).await?;
    refuse_flood(context.options.force, plan, there, extra)
}

/// The keys of the source's rows, and whether several rows have one.
async fn keys(context: &Context, plan: &TablePlan, matched: &Matched) -> Result<HashMap<Digest, bool>> {
    let mut keys = HashMap::new();
    let mut reading = read_source(context, plan, false).await?;
    while let Some(fitted) = reading.recv().await {
        let batch = fitted?.batch;
        for row in 0..batch.rows() {
            keys.entry(row_digest(&batch, row, &matched.key)).and_modify(|several| *several = true).or_insert(false);
        }
        if keys.len() > KEYS_MAX {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "{} has more than {KEYS_MAX} rows, too many to be matched by key: nothing was changed; give both tables \
                     the same primary key and leave key out",
                    plan.source.name
                ),
            ));
        }
    }
    Ok(keys)
}

/// Deletes the rows that match none of the source's; how many there were, and how many went.
async fn remove_others(
    context: &Context,
    places: &Places<'_>,
    known: &HashMap<Digest, bool>,
    target: &mut dyn Target,
    (retry, tally): (&mut Retry, &mut Tally),
) -> Result<(u64, u64)> {
    let (whole, width) = (&places.plan.whole, places.own.len());
    let wanted: Vec<usize> = places.own.iter().chain(&places.key).copied().collect();
    let key: Vec<usize> = (width..wanted.len()).collect();
    let request = ReadRequest {
        table: Arc::new(whole.project(&wanted)),
        filter: None,
        rows: Selection::All,
        ordered: false,
        limits: context.options.limits,
    };
    let snapshot = context.target.snapshot().await?;
    let mut reading = read(snapshot.source().await?, request, None, context.options.stop.clone());
    let own = Arc::new(whole.project(places.own));
    let (mut there, mut extra) = (0, 0);
    while let Some(fitted) = reading.recv().await {
        let batch = fitted?.batch;
        let others = (0..batch.rows()).filter(|row| !known.contains_key(&row_digest(&batch, *row, &key)));
        let others = batch.select(others.collect::<Vec<_>>().into_iter());
        there += batch.rows() as u64;
        extra += others.rows() as u64;
        if others.rows() > 0 {
            let others = Batch::new(own.clone(), others.columns()[..width].to_vec());
            tally.add(WriteMode::Delete, put(target, WriteMode::Delete, others, retry).await?);
        }
    }
    Ok((there, extra))
}
