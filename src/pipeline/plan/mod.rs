//! What a run will do, decided before the first row moves.

mod columns;
mod pair;
mod parents;
mod select;
mod shape;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::unfinished;
use crate::apply::Fill;
use crate::engine::{Database, Error, ErrorKind, Letters, ReadRequest, Result, Selection, TableDdl};
use crate::model::{BatchLimits, ColumnDef, Key, Shift, Table, TableName, Zone};
use crate::runtime::STEP;

pub use columns::ColumnChoice;
pub use pair::{Matched, agree_on_key, paired};
pub use select::{exact_pattern, matches_pattern, matching_tables, not_a_table, select_tables};

use columns::{Chosen, unsent};
use pair::{match_by, pair_columns, refuse_lacking};
use parents::{Parents, parents};
use select::{one, refuse_idle, sort_parents_first};
use shape::{Wanted, missing_parts, plain, refuse_names, refuse_twins};

/// Whether rows that exist only at the target stay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// They stay.
    #[default]
    Full,
    /// They go.
    Mirror,
}

/// What to plan for.
#[derive(Debug, Clone, Default)]
pub struct PlanOptions {
    /// Names or globs; empty: all tables of the source's schema.
    pub tables: Vec<String>,
    /// Names or globs to leave out.
    pub exclude: Vec<String>,
    /// Mode of every table.
    pub mode: Mode,
    /// Conditions by table name, in the source's SQL.
    pub filters: Vec<(String, String)>,
    /// Whether missing tables are made.
    pub create: bool,
    /// Whether declared losses are accepted.
    pub allow_loss: bool,
    /// Whether user triggers that cannot be silenced are accepted.
    pub force: bool,
    /// Name at the target, by name at the source, where they differ.
    pub renamed: BTreeMap<String, TableName>,
    /// Columns by name at the source, of tables that do not take part with all.
    pub columns: BTreeMap<String, ColumnChoice>,
    /// Columns by which rows are matched instead of a key, by name at the source.
    pub matched: BTreeMap<String, Vec<String>>,
    /// Columns that say that a row was deleted, by table at the source.
    pub soft_deletes: BTreeMap<String, String>,
    /// Whether rows are counted, which takes a read of each table or of an index.
    pub count: bool,
    /// Whether the plan is one of many for an arrangement that lasts, while tables change: one that does not fit is left
    /// out with its reason, and so is a column that may be NULL and that the target does not have yet.
    pub lasting: bool,
}

/// What will happen to one table.
#[derive(Debug, Clone)]
pub struct TablePlan {
    /// The table at the source, with the columns that are read.
    pub source: Arc<Table>,
    /// The table at the target: the same columns in the same order.
    pub target: Arc<Table>,
    /// The whole table at the target.
    pub whole: Arc<Table>,
    /// What new rows get there besides.
    pub fill: Fill,
    /// The key rows are told apart by, the same positions on both sides; `None`: by whole rows.
    pub key: Option<Key>,
    /// Where rows are matched by other columns.
    pub matched: Option<Matched>,
    /// How the table is made where it is missing, or what is missing of it after an interrupted run.
    pub ddl: Option<TableDdl>,
    /// The table at the target with all keys and indexes that it has in the end.
    pub finished: Arc<Table>,
    /// Whether the table is missing.
    pub create: bool,
    /// Condition at the source.
    pub filter: Option<String>,
    /// Rows that will be read.
    pub rows: u64,
    /// Columns whose type differs, as (name, from, to).
    pub mapped: Vec<(String, String, String)>,
    /// What cannot be kept.
    pub losses: Vec<String>,
    /// What could surprise.
    pub notes: Vec<String>,
    /// For each column how its clock readings change on the way.
    pub shifts: Arc<[Option<Shift>]>,
}

impl TablePlan {
    /// What the table at the target lacks now. What a dead run was building there may have come since the plan was
    /// made: its server lets it end.
    pub(super) async fn missing(&self, target: &dyn Database) -> Result<TableDdl> {
        let have = target.describe(&self.target.name).await?;
        Ok(target.ddl(&have.map_or_else(|| (*self.finished).clone(), |have| missing_parts(&self.finished, &have))))
    }
}

/// A run's plan: tables with parents before children.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The tables.
    pub tables: Vec<TablePlan>,
    /// Mode of all.
    pub mode: Mode,
    /// Whether tables must go one after another, parents first.
    pub serial: bool,
    /// What could surprise, beyond single tables.
    pub notes: Vec<String>,
    /// Triggers that would run once more for what is written: they need to be accepted.
    pub noisy: Option<String>,
    /// Tables that do not fit, by name at the source, where the others go on.
    pub refused: Vec<(TableName, Error)>,
}

/// What is known of a database that rows come from, and of the tables that are meant: enough to plan for them wherever
/// they go.
#[derive(Debug, Clone)]
pub struct Origin {
    /// What people call it.
    pub label: String,
    /// Text that no other database has.
    pub identity: String,
    /// The engine.
    pub product: String,
    /// Product and version, for people.
    pub version: String,
    /// Which names of its tables are one.
    pub table_names: Letters,
    /// The zone in which its naive timestamps stand.
    pub zone: Zone,
    /// The tables.
    pub tables: Vec<Table>,
    /// Conditions, by table, that rows have to meet to be sent from there at all.
    pub conditions: BTreeMap<String, String>,
    /// What could surprise.
    pub notes: Vec<String>,
}

impl Origin {
    /// That of a database, with the tables that the options choose.
    ///
    /// # Errors
    /// `SchemaMismatch` for a name that is no table.
    pub async fn of(source: &dyn Database, options: &PlanOptions) -> Result<Self> {
        // What an arrangement that lasts leaves out may be gone.
        if !options.lasting {
            refuse_idle(source, &options.exclude).await?;
        }
        Ok(Self {
            tables: select_tables(source, &options.tables, &options.exclude).await?,
            label: source.label().to_owned(),
            identity: source.identity().await?,
            product: source.abilities().product.to_owned(),
            version: source.version().to_owned(),
            table_names: source.abilities().table_names,
            zone: source.zone().clone(),
            conditions: BTreeMap::new(),
            notes: notes(source, options).await?,
        })
    }
}

/// How alike the two databases are.
#[derive(Debug, Clone, Copy)]
struct Ends {
    /// One engine of ours.
    one_engine: bool,
    /// One product too: its own words mean the same at both.
    one_product: bool,
}

impl Ends {
    fn of(source: &Origin, target: &dyn Database) -> Self {
        let one_engine = source.product == target.abilities().product;
        // `MariaDB 10.11` and `MySQL 9.7` are one engine and two products.
        let product = |version: &str| version.split(' ').next().unwrap_or_default().to_owned();
        Self { one_engine, one_product: one_engine && product(&source.version) == product(target.version()) }
    }
}

/// Plans a run.
///
/// # Errors
/// `SchemaMismatch` and `Usage` name the table and the column and say what to do; nothing has been
/// touched then.
pub async fn plan(source: &dyn Database, target: &dyn Database, options: &PlanOptions) -> Result<Plan> {
    let origin = Origin::of(source, options).await?;
    let mut plan = plan_from(&origin, target, options).await?;
    leave_deleted(source, &origin, &mut plan, options);
    check(source, &mut plan, options.count).await?;
    Ok(plan)
}

/// Leaves out rows of which a column says that they are deleted.
pub(super) fn leave_deleted(source: &dyn Database, origin: &Origin, plan: &mut Plan, options: &PlanOptions) {
    for table in &mut plan.tables {
        let name = table.source.name.to_string();
        let whole = origin.tables.iter().find(|whole| whole.name == table.source.name);
        let column =
            options.soft_deletes.get(&name).zip(whole).and_then(|(name, whole)| Some((whole, whole.column(name)?)));
        let Some(alive) = column.and_then(|(whole, at)| source.unset(&whole.columns[at])) else { continue };
        table.filter = Some(match &table.filter {
            Some(filter) => format!("({filter}) AND {alive}"),
            None => alive,
        });
    }
}

/// Has the source look at what it will be asked, and count the rows.
///
/// # Errors
/// What it says to a condition or a column.
pub async fn check(source: &dyn Database, plan: &mut Plan, count: bool) -> Result<()> {
    let snapshot = source.snapshot().await?;
    let mut reader = snapshot.source().await?;
    for table in &mut plan.tables {
        let request = ReadRequest {
            table: table.source.clone(),
            filter: table.filter.clone(),
            rows: Selection::All,
            ordered: false,
            limits: BatchLimits { rows: 1, bytes: 1 },
        };
        reader.check(&request).await.map_err(|e| e.of_table(&table.source.name))?;
        if count {
            table.rows = reader.count(&table.source, table.filter.as_deref()).await?;
        }
    }
    Ok(())
}

/// Plans what comes from elsewhere; what only the database there can tell is asked of it by `check`.
///
/// # Errors
/// Those of [`plan`].
pub async fn plan_from(source: &Origin, target: &dyn Database, options: &PlanOptions) -> Result<Plan> {
    for (name, _) in &options.filters {
        if !source.tables.iter().any(|t| t.name.to_string() == *name) {
            return Err(Error::new(
                ErrorKind::SchemaMismatch,
                format!("a condition names '{name}', which is no table of this copy"),
            ));
        }
    }
    let ends = Ends::of(source, target);
    let one_database = ends.one_engine && source.identity == target.identity().await?;
    let ours = unfinished::tables(target).await?;
    let renamed = |t: &Table| {
        let told = options.renamed.get(&t.name.to_string()).cloned();
        told.unwrap_or_else(|| name_at(ends.one_engine, &t.name))
    };
    let tables = sort_parents_first(source.tables.clone());
    let tables: Vec<(Table, TableName)> = tables.into_iter().map(|t| (renamed(&t), t)).map(|(n, t)| (t, n)).collect();
    refuse_twins(target, &tables)?;
    let mut parents = parents(source.table_names, target, &tables).await?;
    let mut plans = Vec::with_capacity(tables.len());
    let mut there = existing(target, tables.iter().map(|(_, name)| name)).await?;
    let taken = taken(target, tables.iter().map(|(_, name)| name).filter(|name| !there.contains_key(*name))).await?;
    if let Some(what) = taken.get(&unfinished::name()) {
        return Err(in_the_way(target, &unfinished::name(), what));
    }
    let mut refused = Vec::new();
    for (table, name) in tables {
        let own = table.name.clone();
        let existing = there.remove(&name);
        if one_database && name == table.name {
            return Err(Error::new(
                ErrorKind::Usage,
                format!(
                    "source and target are one database, {}, and {name} cannot be written onto itself",
                    target.label()
                ),
            ));
        }
        let plan = match taken.get(&name) {
            Some(what) => Err(in_the_way(target, &name, what)),
            None => unsent(table, existing.as_ref(), options).and_then(|table| {
                let chosen = Chosen::new(table, &options.columns)?;
                let matched = options.matched.get(&chosen.table.name.to_string()).map(Vec::as_slice);
                let terms = (options.create, options.lasting, ends, &source.zone, &mut parents);
                plan_table(target, &chosen, (&name, matched), existing, &ours, terms)
            }),
        };
        let mut plan = match plan {
            Err(e) if options.lasting && matches!(e.kind, ErrorKind::SchemaMismatch | ErrorKind::Unsupported) => {
                refused.push((own, e));
                continue;
            }
            plan => plan?,
        };
        let name = plan.source.name.to_string();
        let told = options.filters.iter().find(|(n, _)| *n == name).map(|(_, filter)| filter);
        plan.filter = told.or_else(|| source.conditions.get(&name)).cloned();
        plans.push(plan);
    }
    let made = plans.iter().filter(|p| p.create).filter_map(|p| Some((p.target.clone(), p.ddl.clone()?)));
    target.rehearse(&made.collect::<Vec<_>>()).await?;
    let losses: Vec<String> = plans.iter().flat_map(|p| p.losses.iter().cloned()).collect();
    if !losses.is_empty() && !options.allow_loss {
        return Err(Error::new(
            ErrorKind::Usage,
            format!(
                "this would not be exact, so nothing was moved: {}; allow it with --allow-loss, for a sync with allow_loss: true",
                losses.join("; ")
            ),
        ));
    }
    let silent = target.abilities().silences_triggers;
    let noisy: Vec<String> = plans
        .iter()
        .map(|p| (&p.target.name, if silent { &p.target.loud } else { &p.target.triggers }))
        .filter(|(_, triggers)| !triggers.is_empty())
        .map(|(table, triggers)| format!("{table} ({})", triggers.join(", ")))
        .collect();
    let noisy = (!noisy.is_empty()).then(|| {
        format!(
            "triggers of {} would run once more for rows that they have already run for, and {} cannot silence them: {}",
            target.label(),
            target.version(),
            noisy.join("; ")
        )
    });
    if let Some(noisy) = noisy.as_ref().filter(|_| !options.force) {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("{noisy}; drop them for the copy, leave the tables out, or accept it with --force"),
        ));
    }
    let serial = !silent && plans.iter().any(|p| !p.create && !p.target.foreign_keys.is_empty());
    tell(source, target, &plans);
    Ok(Plan { tables: plans, mode: options.mode, serial, notes: source.notes.clone(), noisy, refused })
}

/// The plan, for the log.
fn tell(source: &Origin, target: &dyn Database, plans: &[TablePlan]) {
    let (from, to) = (&source.label, target.label());
    let new = plans.iter().filter(|plan| plan.create).count();
    tracing::info!(target: STEP, "planned: {} tables of {from} for {to}, {new} of them to be made there", plans.len());
    for plan in plans {
        let (name, there) = (&plan.source.name, &plan.target.name);
        let what = if plan.create { "is made" } else { "is there" };
        let key: Vec<&str> =
            plan.key.iter().flat_map(|key| &key.columns).map(|&at| plan.source.columns[at].name.as_str()).collect();
        let key = if key.is_empty() { "whole rows".to_owned() } else { key.join(", ") };
        let columns = plan.source.columns.len();
        tracing::debug!(target: STEP, "table {name}: {there} {what}, {columns} columns, told apart by {key}");
        plan.filter.iter().for_each(|filter| tracing::debug!(target: STEP, "table {name}: only rows with {filter}"));
    }
}

/// Those tables of these names that are there.
async fn existing(
    target: &dyn Database,
    names: impl Iterator<Item = &TableName>,
) -> Result<BTreeMap<TableName, Table>> {
    // A name that cannot be there need not be looked for, and a server may stumble over it.
    let names: BTreeSet<TableName> = names.filter(|name| target.name_fault(&name.name).is_none()).cloned().collect();
    let names: Vec<TableName> = names.into_iter().collect();
    let tables = target.describe_all(&names).await?;
    Ok(names.into_iter().zip(tables).filter_map(|(name, table)| Some((name, table?))).collect())
}

/// What stands at the target, without being a table, under these names or that of a copy's own table.
async fn taken(target: &dyn Database, names: impl Iterator<Item = &TableName>) -> Result<BTreeMap<TableName, String>> {
    let mut names: Vec<TableName> = names.filter(|name| target.name_fault(&name.name).is_none()).cloned().collect();
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    names.push(unfinished::name());
    target.taken(&names).await
}

fn in_the_way(target: &dyn Database, name: &TableName, what: &str) -> Error {
    let label = target.label();
    Error::new(
        ErrorKind::SchemaMismatch,
        format!(
            "table {name} cannot be made at {label}: {name} is {} there; give it another name or drop it, or leave the table \
             out",
            one(what)
        ),
    )
}

/// What a run over all tables leaves out, as its user may not expect.
async fn notes(source: &dyn Database, options: &PlanOptions) -> Result<Vec<String>> {
    if !options.tables.is_empty() {
        return Ok(Vec::new());
    }
    let elsewhere = source.other_schemas().await?;
    let named = |schema: &String| {
        format!("the tables of schema {schema} take no part; name them with --tables '{}.*'", exact_pattern(schema))
    };
    Ok(elsewhere.iter().map(named).collect())
}

/// The name that a table has at a database, of the same product or of another, unless it is told otherwise. A schema
/// other than the own one means something to the same engine only.
#[must_use]
pub fn name_at(same_product: bool, name: &TableName) -> TableName {
    if same_product { name.clone() } else { TableName::new(name.name.clone()) }
}

fn plan_table(
    target: &dyn Database,
    chosen: &Chosen,
    (name, matched): (&TableName, Option<&[String]>),
    existing: Option<Table>,
    ours: &BTreeSet<String>,
    (may_create, lasting, ends, zone, parents): (bool, bool, Ends, &Zone, &mut Parents),
) -> Result<TablePlan> {
    let source = &chosen.table;
    let Wanted { table: wanted, losses, notes } = shape::wanted(target, &chosen.there, name, ends, parents);
    let interrupted = ours.contains(&name.to_string());
    let create = existing.is_none();
    if create && !may_create {
        return Err(Error::new(
            ErrorKind::SchemaMismatch,
            format!("{} has no table '{name}', and creating tables was not allowed", target.label()),
        ));
    }
    if create {
        if source.columns.is_empty() && !ends.one_engine {
            return Err(no_columns(target, &source.name));
        }
        refuse_names(target, &wanted)?;
    }
    // Of an interrupted run's table all is said again: nobody may have read it the first time.
    let mut notes = if create || interrupted { notes } else { Vec::new() };
    let ddl = if create {
        Some(target.ddl(&wanted))
    } else if interrupted {
        existing.as_ref().map(|have| target.ddl(&missing_parts(&wanted, have)))
    } else {
        None
    };
    if let Some(ddl) = &ddl {
        notes.extend(ddl.left_out.iter().map(|what| format!("left out: {what}")));
    }
    let losses = if create { losses } else { Vec::new() };
    let have = existing.unwrap_or_else(|| wanted.clone());
    let filled = chosen.filled(target, &have)?;
    notes.extend(filled.iter().map(|(column, _)| format!("{} of new rows is filled with a constant", column.name)));
    let sent = chosen.there.project(&(0..source.columns.len()).collect::<Vec<_>>());
    let mut pairs = pair_columns(target.label(), &sent, &have, (&chosen.may_wait(lasting), &mut notes))?;
    let matched = match matched {
        Some(columns) => Some(match_by(target.label(), columns, source, &have, &mut pairs, &mut notes)?),
        None => None,
    };
    refuse_lacking(&have, &pairs, &filled)?;
    let (from, to): (Vec<usize>, Vec<usize>) = pairs.into_iter().unzip();
    let (mut from_table, mut to_table) = (source.project(&from), have.project(&to));
    if create || interrupted {
        // The keys that the finished table will have; they are not all there while rows arrive.
        to_table.primary_key.clone_from(&wanted.project(&to).primary_key);
        to_table.indexes = wanted.project(&to).indexes;
    }
    let key = if matched.is_some() { None } else { agree_on_key(&mut from_table, &mut to_table) };
    if key.is_none() && matched.is_none() {
        notes.push("no common key: rows are told apart by all their columns, and counted".into());
    }
    let mapped = from_table
        .columns
        .iter()
        .zip(&to_table.columns)
        .filter(|(a, b)| {
            a.logical != b.logical || !a.name.eq_ignore_ascii_case(&b.name) || !a.native.eq_ignore_ascii_case(&b.native)
        })
        .map(|(a, b)| (under(a, b), describe_type(a), describe_type(b)))
        .collect();
    let shifts: Arc<[Option<Shift>]> = from_table
        .columns
        .iter()
        .zip(&to_table.columns)
        .map(|(a, b)| Shift::between(&a.logical, zone, &b.logical, target.zone()))
        .collect();
    let shifted = from_table.columns.iter().zip(shifts.iter());
    notes
        .extend(shifted.filter_map(|(column, shift)| Some(format!("{}: {}", column.name, shift.as_ref()?.describe()))));
    Ok(TablePlan {
        source: Arc::new(from_table),
        fill: Fill::new(&to_table, filled),
        target: Arc::new(to_table),
        whole: Arc::new(have),
        key,
        matched,
        ddl,
        finished: Arc::new(wanted),
        create,
        filter: None,
        rows: 0,
        mapped,
        losses,
        notes,
        shifts,
    })
}

fn no_columns(target: &dyn Database, name: &TableName) -> Error {
    let label = target.label();
    Error::new(
        ErrorKind::SchemaMismatch,
        format!("table {name} has no columns, and {label} has no such tables; leave it out with --exclude '{name}'"),
    )
}

/// What a column is called at both ends.
fn under(a: &ColumnDef, b: &ColumnDef) -> String {
    if a.name.eq_ignore_ascii_case(&b.name) { a.name.clone() } else { format!("{} as {}", a.name, b.name) }
}

fn describe_type(column: &ColumnDef) -> String {
    if column.native.is_empty() { column.logical.to_string() } else { plain(&column.native).to_owned() }
}
