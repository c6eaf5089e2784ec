//! What is said of where one table differs: how many rows, and, when asked for, which.

use std::sync::Arc;

use async_trait::async_trait;

use super::{RowDiff, TableDiff};
use crate::capture::FittedBatch;
use crate::compare::Step;
use crate::endpoint::{Comparison, Findings, Half};
use crate::engine::Result;
use crate::model::{Batch, Cell, Key, LogicalType, Value, equal_cells, render};

/// What was found so far.
pub(super) struct Told {
    comparison: Arc<Comparison>,
    compared: Vec<(usize, LogicalType)>,
    out: TableDiff,
    /// Rows without a key that only B has: they are listed after those of A.
    later: Vec<RowDiff>,
}

impl Told {
    /// Nothing yet; whether rows are listed.
    pub(super) fn new(comparison: &Arc<Comparison>, rows: bool) -> Self {
        let out = TableDiff { rows: rows.then(Vec::new), ..TableDiff::none(&comparison.a.name) };
        Self { compared: comparison.compared(), comparison: comparison.clone(), out, later: Vec::new() }
    }

    /// All of it.
    pub(super) fn done(mut self) -> TableDiff {
        self.out.rows.iter_mut().for_each(|rows| rows.append(&mut self.later));
        self.out.differing = self.out.only_a + self.out.only_b + self.out.changed + self.out.unfit;
        self.out.equal = self.out.differing == 0;
        self.out
    }

    fn count(&mut self, step: &Step) {
        let mut unfit: Vec<usize> = step.unfit.iter().map(|m| m.0).collect();
        unfit.dedup();
        let (matched, lone) = (step.equal + step.changed.len() as u64, step.unfit_only_a.len());
        self.out.rows_a += matched + (step.only_a.len() + unfit.len()) as u64;
        self.out.rows_b += matched + (step.only_b.len() + unfit.len() - lone) as u64;
        self.out.only_a += step.only_a.len() as u64;
        self.out.only_b += step.only_b.len() as u64;
        self.out.changed += step.changed.len() as u64;
        self.out.unfit += unfit.len() as u64;
    }

    fn name(&mut self, key: &Key, step: &Step, a: Option<&Batch>, b: Option<&Batch>) {
        let column = |at: usize| self.comparison.b.columns[at].name.clone();
        let mut rows = Vec::new();
        if let Some(a) = a {
            rows.extend(step.only_a.iter().map(|&r| named(a, r, &key.columns, "only_a")));
            for unfit in step.unfit.chunk_by(|one, next| one.0 == next.0) {
                let row = unfit[0].0;
                let kind = if step.unfit_only_a.contains(&row) { "only_a" } else { "changed" };
                let mut one = named(a, row, &key.columns, kind);
                one.columns = unfit.iter().filter(|_| kind == "changed").map(|m| column(m.1)).collect();
                rows.push(one);
            }
            if let Some(b) = b {
                for &(ra, rb) in &step.changed {
                    let mut one = named(a, ra, &key.columns, "changed");
                    let differ =
                        |(c, logical): &&(usize, LogicalType)| !equal_cells(logical, a.cell(ra, *c), b.cell(rb, *c));
                    one.columns = self.compared.iter().filter(differ).map(|(c, _)| column(*c)).collect();
                    rows.push(one);
                }
            }
        }
        if let Some(b) = b {
            rows.extend(step.only_b.iter().map(|&r| named(b, r, &key.columns, "only_b")));
        }
        self.out.rows.get_or_insert_default().extend(rows);
    }
}

#[async_trait]
impl Findings for Told {
    fn same(&mut self, rows: u64) {
        self.out.rows_a += rows;
        self.out.rows_b += rows;
    }

    async fn differ(&mut self, key: &Key, step: &Step, a: Option<&Batch>, b: Option<&Batch>) -> Result<()> {
        self.count(step);
        if self.out.rows.is_some() {
            self.name(key, step, a, b);
        }
        Ok(())
    }

    fn counted(&mut self, a: u64, unfit: u64, b: u64) {
        (self.out.rows_a, self.out.unfit, self.out.rows_b) = (a, unfit, b);
    }

    fn surplus(&mut self, only_a: u64, only_b: u64) -> Result<()> {
        (self.out.only_a, self.out.only_b) = (only_a, only_b);
        Ok(())
    }

    fn asks(&self, _half: Half) -> bool {
        self.out.rows.is_some()
    }

    async fn lone(&mut self, half: Half, fitted: &FittedBatch, rows: &[usize]) -> Result<()> {
        let all: Vec<usize> = (0..self.comparison.b.columns.len()).collect();
        if half == Half::B {
            self.later.extend(rows.iter().map(|&row| named(&fitted.batch, row, &all, "only_b")));
            return Ok(());
        }
        let mut rows: Vec<usize> = fitted.unfit().into_iter().chain(rows.iter().copied()).collect();
        rows.sort_unstable();
        let rows = rows.into_iter().map(|row| named(&fitted.batch, row, &all, "only_a"));
        self.out.rows.get_or_insert_default().extend(rows);
        Ok(())
    }
}

fn named(batch: &Batch, row: usize, columns: &[usize], kind: &'static str) -> RowDiff {
    let key = columns
        .iter()
        .map(|&c| {
            let column = &batch.table.columns[c];
            let value = match batch.cell(row, c) {
                Cell::Int(v) if render(&column.logical, Cell::Int(v)) == Some(v.to_string()) => v.into(),
                Cell::UInt(v) | Cell::Escape(&Value::UInt(v)) => v.into(),
                Cell::Escape(&Value::Int(v)) => v.into(),
                cell => render(&column.logical, cell).map_or(serde_json::Value::Null, Into::into),
            };
            (column.name.clone(), value)
        })
        .collect();
    RowDiff { key, kind, columns: Vec::new() }
}
