//! Where two databases differ, row by row.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::capture::{Reading, Shape, read};
use crate::compare::{Buckets, Merge, Surplus, compared_as, equal_cells};
use crate::engine::{Database, Error, ErrorKind, ReadRequest, Result, Selection, Snapshot};
use crate::model::{Batch, BatchLimits, Cell, Table, TableName, render};
use crate::pipeline::{Mode, Plan, PlanOptions, TablePlan, exact_pattern, matching_tables, name_at, plan};

/// One row that differs.
#[derive(Debug, Clone, serde::Serialize)]
pub struct RowDiff {
    /// Its key; for a table without one, the whole row.
    pub key: serde_json::Map<String, serde_json::Value>,
    /// `changed`, `only_a` or `only_b`.
    pub kind: &'static str,
    /// Columns that differ, for `changed`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
}

/// One table's outcome.
#[derive(Debug, Clone, serde::Serialize)]
pub struct TableDiff {
    /// Its name.
    pub table: String,
    /// Whether both sides hold the same rows.
    pub equal: bool,
    /// Rows of A.
    pub rows_a: u64,
    /// Rows of B.
    pub rows_b: u64,
    /// Rows that differ: the sum of the four below.
    pub differing: u64,
    /// Rows that only A has.
    pub only_a: u64,
    /// Rows that only B has.
    pub only_b: u64,
    /// Rows of one key that are not the same.
    pub changed: u64,
    /// Rows of A that B cannot hold, whether it has their key or not.
    pub unfit: u64,
    /// Each of them, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<Vec<RowDiff>>,
    /// Why the table cannot be compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The whole outcome.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Diff {
    /// Whether all tables are equal.
    pub equal: bool,
    /// The tables.
    pub tables: Vec<TableDiff>,
}

/// What to compare.
pub struct DiffOptions {
    /// Names or globs; empty: the tables of A, and those that only B has.
    pub tables: Vec<String>,
    /// Whether each row is listed.
    pub rows: bool,
    /// Bounds of a batch.
    pub limits: BatchLimits,
    /// Asked to stop.
    pub stop: CancellationToken,
}

/// Compares. Columns are those of A; each value of A is put into the form of B's column first.
///
/// # Errors
/// `SchemaMismatch` for a name that neither side has; what either side says.
pub async fn diff(a: &Arc<dyn Database>, b: &Arc<dyn Database>, options: &DiffOptions) -> Result<Diff> {
    if a.abilities().product == b.abilities().product && a.identity().await? == b.identity().await? {
        let what = format!("{} and {} are one database: there is nothing to compare", a.label(), b.label());
        return Err(Error::new(ErrorKind::Usage, what));
    }
    let (ours, theirs) = wanted(a.as_ref(), b.as_ref(), &options.tables).await?;
    let letters = b.abilities().table_names;
    let same = |ours: &TableName, theirs: &TableName| {
        let there = name_at(a.as_ref(), b.as_ref(), ours);
        there.schema == theirs.schema && letters.fold(&there.name) == letters.fold(&theirs.name)
    };
    let (known, unknown): (Vec<_>, Vec<_>) = ours.iter().partition(|a| theirs.iter().any(|b| same(a, b)));
    let mut tables: Vec<TableDiff> = unknown.into_iter().map(|n| missing(n, "only A has this table")).collect();
    let lone = theirs.iter().filter(|b| !ours.iter().any(|a| same(a, b)));
    tables.extend(lone.map(|n| missing(n, "only B has this table")));
    let both: Vec<String> = known.into_iter().map(pattern_of).collect();
    if !both.is_empty() {
        let plan = plan(a.as_ref(), b.as_ref(), &comparison(both)).await?;
        tables.extend(compare(a, b, &plan, options).await?);
    }
    tables.sort_by(|x, y| x.table.cmp(&y.table));
    Ok(Diff { equal: tables.iter().all(|t| t.equal), tables })
}

/// The tables of both sides that are asked for.
async fn wanted(
    a: &dyn Database,
    b: &dyn Database,
    patterns: &[String],
) -> Result<(BTreeSet<TableName>, BTreeSet<TableName>)> {
    let (own_a, own_b) = (a.tables(None).await?, b.tables(None).await?);
    if patterns.is_empty() {
        return Ok((own_a.into_iter().collect(), own_b.into_iter().collect()));
    }
    let (mut ours, mut theirs) = (BTreeSet::new(), BTreeSet::new());
    for pattern in patterns {
        let (in_a, in_b) = (matching_tables(a, &own_a, pattern).await?, matching_tables(b, &own_b, pattern).await?);
        if in_a.is_empty() && in_b.is_empty() {
            let what = format!("neither {} nor {} has a table '{pattern}'", a.label(), b.label());
            return Err(Error::new(ErrorKind::SchemaMismatch, what));
        }
        // What B calls by a bare name is asked for by its name at A.
        let at_b: BTreeSet<TableName> = in_a.iter().map(|n| name_at(a, b, n)).filter(|n| own_b.contains(n)).collect();
        ours.extend(in_a);
        theirs.extend(in_b);
        theirs.extend(at_b);
    }
    Ok((ours, theirs))
}

fn pattern_of(name: &TableName) -> String {
    let schema = if name.schema.is_empty() { String::new() } else { format!("{}.", exact_pattern(&name.schema)) };
    format!("{schema}{}", exact_pattern(&name.name))
}

/// Compares the tables of a plan, all of which both sides have; rows of A only where they pass the
/// plan's conditions.
///
/// # Errors
/// What either side says.
pub async fn compare(
    a: &Arc<dyn Database>,
    b: &Arc<dyn Database>,
    plan: &Plan,
    options: &DiffOptions,
) -> Result<Vec<TableDiff>> {
    let (left, right) = (a.snapshot().await?, b.snapshot().await?);
    let same_engine = a.abilities().product == b.abilities().product;
    let mut out = Vec::with_capacity(plan.tables.len());
    for table in &plan.tables {
        let work = Comparison { table, left: left.as_ref(), right: right.as_ref(), b, same_engine, options };
        let found = match &table.key {
            Some(_) => work.keyed().await,
            None => work.keyless().await,
        };
        out.push(found.map_err(|e| e.of_table(&table.source.name))?);
    }
    Ok(out)
}

fn empty(name: &TableName) -> TableDiff {
    TableDiff {
        table: name.to_string(),
        equal: true,
        rows_a: 0,
        rows_b: 0,
        differing: 0,
        only_a: 0,
        only_b: 0,
        changed: 0,
        unfit: 0,
        rows: None,
        reason: None,
    }
}

fn missing(name: &TableName, reason: &str) -> TableDiff {
    TableDiff { equal: false, reason: Some(reason.to_owned()), ..empty(name) }
}

fn comparison(tables: Vec<String>) -> PlanOptions {
    PlanOptions { tables, mode: Mode::Mirror, allow_loss: true, force: true, count: true, ..PlanOptions::default() }
}

/// The plan that makes the second database equal to the first, over the tables that both have and
/// that differ; `None` when there are none.
///
/// # Errors
/// As [`plan`].
pub async fn repair_plan(from: &dyn Database, to: &dyn Database, found: &Diff) -> Result<Option<Plan>> {
    let differing = found.tables.iter().filter(|t| !t.equal && t.reason.is_none());
    let names: Vec<String> = differing.map(|t| exact_pattern(&t.table)).collect();
    if names.is_empty() { Ok(None) } else { plan(from, to, &comparison(names)).await.map(Some) }
}

struct Comparison<'a> {
    table: &'a TablePlan,
    left: &'a dyn Snapshot,
    right: &'a dyn Snapshot,
    b: &'a Arc<dyn Database>,
    same_engine: bool,
    options: &'a DiffOptions,
}

impl Comparison<'_> {
    async fn readings(&self, ordered: bool) -> Result<(Reading, Reading)> {
        let request = |table: &Arc<Table>, filter: &Option<String>| ReadRequest {
            table: table.clone(),
            filter: filter.clone(),
            rows: Selection::All,
            ordered,
            limits: self.options.limits,
        };
        let shape = Shape {
            table: self.table.target.clone(),
            database: self.b.clone(),
            same_engine: self.same_engine,
            shifts: self.table.shifts.clone(),
        };
        let stop = &self.options.stop;
        Ok((
            read(self.left.source().await?, request(&self.table.source, &self.table.filter), Some(shape), stop.clone()),
            read(self.right.source().await?, request(&self.table.target, &None), None, stop.clone()),
        ))
    }

    async fn keyed(&self) -> Result<TableDiff> {
        let Some(key) = &self.table.key else {
            return Err(Error::new(ErrorKind::Protocol, "a keyed comparison of a table without key"));
        };
        let all = compared_as(&self.table.source, &self.table.target, 0..self.table.target.columns.len());
        let (a, b) = self.readings(true).await?;
        let mut join = Merge::new(a, b, key.clone(), all.clone());
        let mut out = self.empty();
        while let Some((step, a, b)) = join.next().await? {
            let unfit: BTreeSet<usize> = step.unfit.iter().map(|m| m.0).collect();
            let (matched, lone) = (step.equal + step.changed.len() as u64, step.unfit_only_a.len());
            out.rows_a += matched + (step.only_a.len() + unfit.len()) as u64;
            out.rows_b += matched + (step.only_b.len() + unfit.len() - lone) as u64;
            out.only_a += step.only_a.len() as u64;
            out.only_b += step.only_b.len() as u64;
            out.changed += step.changed.len() as u64;
            out.unfit += unfit.len() as u64;
            let Some(rows) = &mut out.rows else { continue };
            if let Some(a) = a {
                rows.extend(step.only_a.iter().map(|&r| named(a, r, &key.columns, "only_a")));
                for row in unfit {
                    let kind = if step.unfit_only_a.contains(&row) { "only_a" } else { "changed" };
                    let mut one = named(a, row, &key.columns, kind);
                    let columns = step.unfit.iter().filter(|m| m.0 == row && kind == "changed");
                    one.columns = columns.map(|m| self.table.target.columns[m.1].name.clone()).collect();
                    rows.push(one);
                }
                if let Some(b) = b {
                    for &(ra, rb) in &step.changed {
                        let mut one = named(a, ra, &key.columns, "changed");
                        one.columns = all
                            .iter()
                            .filter(|(c, logical)| !equal_cells(logical, a.cell(ra, *c), b.cell(rb, *c)))
                            .map(|(c, _)| self.table.target.columns[*c].name.clone())
                            .collect();
                        rows.push(one);
                    }
                }
            }
            if let Some(b) = b {
                rows.extend(step.only_b.iter().map(|&r| named(b, r, &key.columns, "only_b")));
            }
        }
        Ok(counted(out))
    }

    /// Digests first; rows only where they differ.
    async fn keyless(&self) -> Result<TableDiff> {
        let all: Vec<usize> = (0..self.table.target.columns.len()).collect();
        let mut out = self.empty();
        let (mut ours, mut theirs) = (Buckets::default(), Buckets::default());
        let (mut a, mut b) = self.readings(false).await?;
        while let Some(fitted) = a.recv().await {
            let fitted = fitted?;
            out.rows_a += fitted.batch.rows() as u64;
            let misfits: BTreeSet<usize> = fitted.misfits.iter().map(|m| m.0).collect();
            out.unfit += misfits.len() as u64;
            ours.add(&fitted.batch, (0..fitted.batch.rows()).filter(|r| !misfits.contains(r)), &all);
        }
        while let Some(fitted) = b.recv().await {
            let batch = fitted?.batch;
            out.rows_b += batch.rows() as u64;
            theirs.add(&batch, 0..batch.rows(), &all);
        }
        let differing = ours.differing(&theirs);
        if !differing.contains(&true) && out.unfit == 0 {
            return Ok(out);
        }
        let mut surplus = Surplus::new(differing);
        let (mut a, mut b) = self.readings(false).await?;
        while let Some(fitted) = a.recv().await {
            let fitted = fitted?;
            let misfits: BTreeSet<usize> = fitted.misfits.iter().map(|m| m.0).collect();
            let rows = (0..fitted.batch.rows()).filter(|r| !misfits.contains(r));
            surplus.add(&fitted.batch, rows, &all, 1);
        }
        while let Some(fitted) = b.recv().await {
            let batch = fitted?.batch;
            surplus.add(&batch, 0..batch.rows(), &all, -1);
        }
        surplus.settle();
        (out.only_a, out.only_b) = surplus.totals();
        if let Some(rows) = &mut out.rows {
            let (mut a, mut b) = self.readings(false).await?;
            while let Some(fitted) = a.recv().await {
                let fitted = fitted?;
                for row in 0..fitted.batch.rows() {
                    let misfit = fitted.misfits.iter().any(|m| m.0 == row);
                    if misfit || surplus.claim(&fitted.batch, row, &all, 1) {
                        rows.push(named(&fitted.batch, row, &all, "only_a"));
                    }
                }
            }
            while let Some(fitted) = b.recv().await {
                let batch = fitted?.batch;
                for row in (0..batch.rows()).filter(|&r| surplus.claim(&batch, r, &all, -1)).collect::<Vec<_>>() {
                    rows.push(named(&batch, row, &all, "only_b"));
                }
            }
        }
        Ok(counted(out))
    }

    fn empty(&self) -> TableDiff {
        TableDiff { rows: self.options.rows.then(Vec::new), ..empty(&self.table.source.name) }
    }
}

fn counted(mut out: TableDiff) -> TableDiff {
    out.differing = out.only_a + out.only_b + out.changed + out.unfit;
    out.equal = out.differing == 0;
    out
}

fn named(batch: &Batch, row: usize, columns: &[usize], kind: &'static str) -> RowDiff {
    let key = columns
        .iter()
        .map(|&c| {
            let column = &batch.table.columns[c];
            let value = match batch.cell(row, c) {
                Cell::Int(v) if render(&column.logical, Cell::Int(v)) == Some(v.to_string()) => v.into(),
                Cell::UInt(v) => v.into(),
                cell => render(&column.logical, cell).map_or(serde_json::Value::Null, Into::into),
            };
            (column.name.clone(), value)
        })
        .collect();
    RowDiff { key, kind, columns: Vec::new() }
}
