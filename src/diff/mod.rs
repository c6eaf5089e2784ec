//! Where two databases differ, row by row.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::capture::{Shape, read};
use crate::compare::{Buckets, Merge, Surplus, compared_as, equal_cells};
use crate::engine::{Database, Error, ErrorKind, ReadRequest, Result, Selection, Snapshot};
use crate::model::{Batch, BatchLimits, Cell, render};
use crate::pipeline::{Mode, Plan, PlanOptions, TablePlan, plan};

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
    /// Rows that differ.
    pub differing: u64,
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
pub async fn diff(a: &Arc<dyn Database>, b: &Arc<dyn Database>, options: &DiffOptions) -> Result<Diff> {
    let mut tables = Vec::new();
    let mut names = a.tables(None).await?;
    if options.tables.is_empty() {
        let theirs = b.tables(None).await?;
        for name in &theirs {
            if !names.contains(name) {
                tables.push(missing(name, "only B has this table"));
            }
        }
        names.retain(|name| {
            let there = theirs.contains(name);
            if !there {
                tables.push(missing(name, "only A has this table"));
            }
            there
        });
        if names.is_empty() {
            return Ok(Diff { equal: tables.is_empty(), tables });
        }
    }
    let wanted =
        if options.tables.is_empty() { names.iter().map(|n| n.name.clone()).collect() } else { options.tables.clone() };
    let plan = plan(a.as_ref(), b.as_ref(), &comparison(wanted)).await?;
    let (left, right) = (a.snapshot().await?, b.snapshot().await?);
    let same_engine = a.abilities().product == b.abilities().product;
    for table in &plan.tables {
        let work = Comparison { table, left: left.as_ref(), right: right.as_ref(), b, same_engine, options };
        let found = match &table.key {
            Some(_) => work.keyed().await,
            None => work.keyless().await,
        };
        tables.push(found.map_err(|e| e.context(format!("comparing {}", table.source.name)))?);
    }
    tables.sort_by(|x, y| x.table.cmp(&y.table));
    Ok(Diff { equal: tables.iter().all(|t| t.equal), tables })
}

fn missing(name: &crate::model::TableName, reason: &str) -> TableDiff {
    TableDiff {
        table: name.to_string(),
        equal: false,
        rows_a: 0,
        rows_b: 0,
        differing: 0,
        rows: None,
        reason: Some(reason.to_owned()),
    }
}

fn comparison(tables: Vec<String>) -> PlanOptions {
    PlanOptions {
        tables,
        exclude: Vec::new(),
        mode: Mode::Mirror,
        filters: Vec::new(),
        create: false,
        allow_loss: true,
        force: true,
        renamed: std::collections::BTreeMap::new(),
        columns: std::collections::BTreeMap::new(),
    }
}

/// The plan that makes the second database equal to the first, over the tables of a comparison.
pub async fn repair_plan(from: &dyn Database, to: &dyn Database, tables: Vec<String>) -> Result<Plan> {
    plan(from, to, &comparison(tables)).await
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
    async fn readings(&self, ordered: bool) -> Result<(crate::capture::Reading, crate::capture::Reading)> {
        let request = |table: &Arc<crate::model::Table>| ReadRequest {
            table: table.clone(),
            filter: None,
            rows: Selection::All,
            ordered,
            limits: self.options.limits,
        };
        let shape = Shape { table: self.table.target.clone(), database: self.b.clone(), same_engine: self.same_engine };
        let stop = &self.options.stop;
        Ok((
            read(self.left.source().await?, request(&self.table.source), Some(shape), stop.clone()),
            read(self.right.source().await?, request(&self.table.target), None, stop.clone()),
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
            let unfit: std::collections::BTreeSet<usize> = step.unfit.iter().map(|m| m.0).collect();
            let matched = step.equal + step.changed.len() as u64;
            out.rows_a += matched + (step.only_a.len() + unfit.len()) as u64;
            out.rows_b += matched + step.only_b.len() as u64;
            out.differing += (step.only_a.len() + step.only_b.len() + step.changed.len() + unfit.len()) as u64;
            let Some(rows) = &mut out.rows else { continue };
            if let Some(a) = a {
                rows.extend(step.only_a.iter().map(|&r| named(a, r, &key.columns, "only_a")));
                for row in unfit {
                    let mut one = named(a, row, &key.columns, "changed");
                    one.columns = step
                        .unfit
                        .iter()
                        .filter(|m| m.0 == row)
                        .map(|m| self.table.target.columns[m.1].name.clone())
                        .collect();
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
        out.equal = out.differing == 0;
        Ok(out)
    }

    /// Digests first; rows only where they differ.
    async fn keyless(&self) -> Result<TableDiff> {
        let all: Vec<usize> = (0..self.table.target.columns.len()).collect();
        let mut out = self.empty();
        let (mut ours, mut theirs) = (Buckets::default(), Buckets::default());
        let (mut a, mut b) = self.readings(false).await?;
        let mut unfit = 0;
        while let Some(fitted) = a.recv().await {
            let fitted = fitted?;
            out.rows_a += fitted.batch.rows() as u64;
            let misfits: std::collections::BTreeSet<usize> = fitted.misfits.iter().map(|m| m.0).collect();
            unfit += misfits.len() as u64;
            ours.add(&fitted.batch, (0..fitted.batch.rows()).filter(|r| !misfits.contains(r)), &all);
        }
        while let Some(fitted) = b.recv().await {
            let batch = fitted?.batch;
            out.rows_b += batch.rows() as u64;
            theirs.add(&batch, 0..batch.rows(), &all);
        }
        let differing = ours.differing(&theirs);
        if !differing.contains(&true) && unfit == 0 {
            out.equal = true;
            return Ok(out);
        }
        let mut surplus = Surplus::new(differing);
        let (mut a, mut b) = self.readings(false).await?;
        while let Some(fitted) = a.recv().await {
            let fitted = fitted?;
            let misfits: std::collections::BTreeSet<usize> = fitted.misfits.iter().map(|m| m.0).collect();
            let rows = (0..fitted.batch.rows()).filter(|r| !misfits.contains(r));
            surplus.add(&fitted.batch, rows, &all, 1);
        }
        while let Some(fitted) = b.recv().await {
            let batch = fitted?.batch;
            surplus.add(&batch, 0..batch.rows(), &all, -1);
        }
        surplus.settle();
        let (only_a, only_b) = surplus.totals();
        out.differing = only_a + only_b + unfit;
        out.equal = out.differing == 0;
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
        Ok(out)
    }

    fn empty(&self) -> TableDiff {
        TableDiff {
            table: self.table.source.name.to_string(),
            equal: true,
            rows_a: 0,
            rows_b: 0,
            differing: 0,
            rows: self.options.rows.then(Vec::new),
            reason: None,
        }
    }
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
