//! Where two databases differ, row by row, wherever they are: each is asked as a [`crate::endpoint::Comparand`].

mod table;

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::endpoint::{Comparison, Half, join};
use crate::engine::{Database, Error, ErrorKind, Result};
use crate::model::{BatchLimits, ColumnDef, Table, TableName};
use crate::pipeline::{
    Endpoint, LocalEndpoint, Mode, Origin, Plan, PlanOptions, exact_pattern, known, matches_pattern, name_at,
    not_a_table, paired, pattern_of, plan_between,
};
use crate::runtime::STEP;
use table::Told;

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

/// A column that one side alone has, so that it was not compared.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ColumnDiff {
    /// Its name.
    pub name: String,
    /// `only_a` or `only_b`.
    pub kind: &'static str,
}

/// One table's outcome.
#[derive(Debug, Clone, serde::Serialize)]
pub struct TableDiff {
    /// Its name.
    pub table: String,
    /// Whether both sides hold the same columns and rows.
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
    /// Columns that one side alone has, but for computed ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<ColumnDiff>,
    /// Why the table cannot be compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What of it is not seen, for it is behind a peer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl TableDiff {
    fn none(name: &TableName) -> Self {
        Self {
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
            columns: Vec::new(),
            reason: None,
            notes: Vec::new(),
        }
    }

    /// One that only one side has, with all of its rows.
    fn lone(name: &TableName, half: Half, rows: u64) -> Self {
        let (rows_a, rows_b, reason) = match half {
            Half::A => (rows, 0, "only A has this table"),
            Half::B => (0, rows, "only B has this table"),
        };
        let all = Self { rows_a, rows_b, only_a: rows_a, only_b: rows_b, differing: rows, ..Self::none(name) };
        Self { equal: false, reason: Some(reason.to_owned()), ..all }
    }
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
    /// Names or globs to leave out.
    pub exclude: Vec<String>,
    /// Whether each row is listed.
    pub rows: bool,
    /// Bounds of a batch.
    pub limits: BatchLimits,
    /// Asked to stop.
    pub stop: CancellationToken,
}

/// As [`diff`], of two databases at hand.
///
/// # Errors
/// As there.
pub async fn diff_at_hand(a: &Arc<dyn Database>, b: &Arc<dyn Database>, options: &DiffOptions) -> Result<Diff> {
    diff(&LocalEndpoint::new(a, &options.stop), &LocalEndpoint::new(b, &options.stop), options).await
}

/// Compares. Columns are those that both have; each value of A is put into the form of B's column first.
///
/// # Errors
/// `SchemaMismatch` for a name that neither side has; what either side says.
pub async fn diff(a: &dyn Endpoint, b: &dyn Endpoint, options: &DiffOptions) -> Result<Diff> {
    let (ours, theirs) = wanted(a, b, options).await?;
    let (ours, theirs) = (told(a, &ours).await?, told(b, &theirs).await?);
    if let (Some(ours), Some(theirs)) = (&ours, &theirs)
        && ours.product == theirs.product
        && ours.identity == theirs.identity
    {
        let what = format!("{} and {} are one database: there is nothing to compare", a.label(), b.label());
        return Err(Error::new(ErrorKind::Usage, what));
    }
    let mut tables = Vec::new();
    let of = |origin: &Option<Origin>| origin.iter().flat_map(|o| o.tables.clone()).collect::<Vec<Table>>();
    let (at_a, mut at_b) = (of(&ours), of(&theirs));
    for table in at_a {
        let there = name_at(a.product() == b.product(), &table.name);
        let same = |other: &Table| {
            let letters = theirs.as_ref().map(|o| o.table_names);
            let fold = |name: &str| letters.map(|letters| letters.fold(name));
            other.name.schema == there.schema && fold(&other.name.name) == fold(&there.name)
        };
        let (Some(at), Some(ours), Some(theirs)) = (at_b.iter().position(same), &ours, &theirs) else {
            let rows = a.count(&table.name).await?;
            tables.push(TableDiff::lone(&table.name, Half::A, rows));
            continue;
        };
        let found = compare_as((a, ours), (b, theirs), (&table, &at_b.remove(at)), options).await;
        tables.push(found.map_err(|e| e.of_table(&table.name))?);
    }
    for table in at_b {
        let rows = b.count(&table.name).await?;
        tables.push(TableDiff::lone(&table.name, Half::B, rows));
    }
    tables.sort_by(|x, y| x.table.cmp(&y.table));
    Ok(Diff { equal: tables.iter().all(|t| t.equal), tables })
}

/// The tables of both sides that are asked for.
async fn wanted(
    a: &dyn Endpoint,
    b: &dyn Endpoint,
    options: &DiffOptions,
) -> Result<(BTreeSet<TableName>, BTreeSet<TableName>)> {
    let (mut ours, mut theirs) = (BTreeSet::new(), BTreeSet::new());
    let all = ["*".to_owned()];
    let same_product = a.product() == b.product();
    for pattern in if options.tables.is_empty() { &all } else { options.tables.as_slice() } {
        let (in_a, in_b) = (a.matching(pattern).await?, b.matching(pattern).await?);
        if in_a.is_empty() && in_b.is_empty() && !options.tables.is_empty() {
            return Err(neither(a, b, pattern).await?);
        }
        // What B calls by a bare name is asked for by its name at A.
        for name in in_a.iter().filter(|name| !in_b.contains(name)) {
            theirs.extend(b.matching(&pattern_of(&name_at(same_product, name))).await?);
        }
        ours.extend(in_a);
        theirs.extend(in_b);
    }
    for pattern in &options.exclude {
        if a.matching(pattern).await?.is_empty() && b.matching(pattern).await?.is_empty() {
            return Err(neither(a, b, pattern).await?.context("exclude"));
        }
    }
    let excluded = |name: &TableName| {
        options.exclude.iter().any(|x| matches_pattern(x, &name.name) || matches_pattern(x, &name.to_string()))
    };
    ours.retain(|name| !excluded(name));
    theirs.retain(|name| !excluded(name));
    if ours.is_empty() && theirs.is_empty() {
        let what = format!("neither {} nor {} has a table to compare", a.label(), b.label());
        return Err(Error::new(ErrorKind::SchemaMismatch, what));
    }
    Ok((ours, theirs))
}

/// That neither side has a table of this name, with what stands there instead where that can be seen.
async fn neither(a: &dyn Endpoint, b: &dyn Endpoint, pattern: &str) -> Result<Error> {
    let mut instead = None;
    for database in [a, b].into_iter().filter_map(Endpoint::database) {
        instead = instead.or(not_a_table(database.as_ref(), pattern).await?);
    }
    let instead = instead.map_or(String::new(), |what| format!(": {what}"));
    let what = format!("neither {} nor {} has a table '{pattern}'{instead}", a.label(), b.label());
    Ok(Error::new(ErrorKind::SchemaMismatch, what))
}

/// What an end tells of these tables; `None` where it is asked about none.
async fn told(end: &dyn Endpoint, names: &BTreeSet<TableName>) -> Result<Option<Origin>> {
    if names.is_empty() { Ok(None) } else { known(end, names.iter()).await.map(Some) }
}

/// Compares one table that both have.
async fn compare_as(
    (a, ours): (&dyn Endpoint, &Origin),
    (b, theirs): (&dyn Endpoint, &Origin),
    (table, other): (&Table, &Table),
    options: &DiffOptions,
) -> Result<TableDiff> {
    let alone = columns_alone(table, other);
    let only_a = |name: &str| alone.iter().any(|c| c.kind == "only_a" && c.name == name);
    let shared: Vec<usize> = (0..table.columns.len()).filter(|&at| !only_a(&table.columns[at].name)).collect();
    if shared.is_empty() {
        let (rows_a, rows_b) = (a.count(&table.name).await?, b.count(&other.name).await?);
        let reason = Some("they have no column in common".to_owned());
        return Ok(TableDiff { equal: false, rows_a, rows_b, columns: alone, reason, ..TableDiff::none(&table.name) });
    }
    let (table, other, key) = paired(b.label(), &table.project(&shared), other)?;
    let condition = |origin: &Origin, table: &Table| origin.conditions.get(&table.name.to_string()).cloned();
    let comparison = Comparison {
        products: (ours.product.clone(), theirs.product.clone()),
        zones: (ours.zone.clone(), theirs.zone.clone()),
        filters: (condition(ours, &table), condition(theirs, &other)),
        a: Arc::new(table),
        b: Arc::new(other),
        key,
        written: false,
        limits: options.limits,
    };
    let told = |end: &dyn Endpoint, filter: &Option<String>| {
        filter
            .as_ref()
            .map(|only| format!("of {} only rows that meet its key's condition are seen: {only}", end.label()))
    };
    let notes = told(a, &comparison.filters.0).into_iter().chain(told(b, &comparison.filters.1)).collect();
    let found = compare_one(a, b, comparison, options).await?;
    Ok(TableDiff { notes, equal: found.equal && alone.is_empty(), columns: alone, ..found })
}

/// Columns that one of both tables has and the other lacks; what is computed says nothing that the others do not.
fn columns_alone(a: &Table, b: &Table) -> Vec<ColumnDiff> {
    let lacking = |one: &Table, other: &Table, kind: &'static str| -> Vec<ColumnDiff> {
        let missing =
            |c: &&ColumnDef| !c.generated && !other.columns.iter().any(|o| o.name.eq_ignore_ascii_case(&c.name));
        one.columns.iter().filter(missing).map(|c| ColumnDiff { name: c.name.clone(), kind }).collect()
    };
    let mut alone = lacking(a, b, "only_a");
    alone.extend(lacking(b, a, "only_b"));
    alone
}

async fn compare_one(
    a: &dyn Endpoint,
    b: &dyn Endpoint,
    comparison: Comparison,
    options: &DiffOptions,
) -> Result<TableDiff> {
    tracing::info!(target: STEP, "table {}: its rows are compared", comparison.a.name);
    let comparison = Arc::new(comparison);
    let mut left = a.comparand(&comparison, Half::A, b.database()).await?;
    let mut right = b.comparand(&comparison, Half::B, None).await?;
    let mut told = Told::new(&comparison, options.rows);
    join(&comparison, left.as_mut(), right.as_mut(), &mut told).await?;
    let found = told.done();
    let TableDiff { table, rows_a, rows_b, differing, .. } = &found;
    tracing::info!(target: STEP, "table {table}: {rows_a} rows in A, {rows_b} in B, {differing} differ");
    Ok(found)
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
    let product = |database: &Arc<dyn Database>| database.abilities().product.to_owned();
    let ends = (LocalEndpoint::new(a, &options.stop), LocalEndpoint::new(b, &options.stop));
    let mut out = Vec::with_capacity(plan.tables.len());
    for table in &plan.tables {
        let comparison = Comparison {
            a: table.source.clone(),
            b: table.target.clone(),
            key: table.key.clone(),
            products: (product(a), product(b)),
            zones: (a.zone().clone(), b.zone().clone()),
            filters: (table.filter.clone(), None),
            written: false,
            limits: options.limits,
        };
        let found = compare_one(&ends.0, &ends.1, comparison, options).await;
        out.push(found.map_err(|e| e.of_table(&table.source.name))?);
    }
    Ok(out)
}

/// The plan that makes the second end equal to the first, over the tables that both have and that differ; `None` when
/// there are none.
///
/// # Errors
/// As [`plan_between`].
pub async fn repair_plan(from: &dyn Endpoint, to: &dyn Endpoint, found: &Diff) -> Result<Option<Plan>> {
    let differing = found.tables.iter().filter(|t| t.differing > 0 && t.reason.is_none());
    let tables: Vec<String> = differing.map(|t| exact_pattern(&t.table)).collect();
    if tables.is_empty() {
        return Ok(None);
    }
    let repair = PlanOptions {
        tables,
        mode: Mode::Mirror,
        allow_loss: true,
        force: true,
        count: true,
        ..PlanOptions::default()
    };
    plan_between(from, to, &repair, false).await.map(Some)
}
