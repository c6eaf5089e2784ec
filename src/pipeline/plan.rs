//! What a run will do, decided before the first row moves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::engine::{Database, Error, ErrorKind, ReadRequest, Result, Selection, TableDdl};
use crate::model::{BatchLimits, DefaultValue, Key, LogicalType, Table, TableName, convertible};

/// Whether rows that exist only at the target stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They stay.
    Full,
    /// They go.
    Mirror,
}

/// What to plan for.
#[derive(Debug, Clone)]
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
}

/// The columns of a table that take part.
#[derive(Debug, Clone, Default)]
pub struct ColumnChoice {
    /// Only these.
    pub only: Option<Vec<String>>,
    /// Not these.
    pub exclude: Vec<String>,
}

/// What will happen to one table.
#[derive(Debug, Clone)]
pub struct TablePlan {
    /// The table at the source, with the columns that are read.
    pub source: Arc<Table>,
    /// The table at the target: the same columns in the same order.
    pub target: Arc<Table>,
    /// The key rows are told apart by, the same positions on both sides; `None`: by whole rows.
    pub key: Option<Key>,
    /// How the table is made where it is missing, or what is missing of it after an interrupted run.
    pub ddl: Option<TableDdl>,
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
}

/// Bookkeeping of an unfinished copy in the target: names of the tables that it has made.
pub(super) const MARKER: &str = "_rowferry_copy";

/// Matches a name against a glob of `*` and `?`.
#[must_use]
pub fn matches_pattern(pattern: &str, name: &str) -> bool {
    let (p, n): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut i, mut j, mut star) = (0, 0, None);
    while j < n.len() {
        if i < p.len() && p[i] == '*' {
            star = Some((i, j));
            i += 1;
        } else if i < p.len() && (p[i] == '?' || p[i] == n[j]) {
            i += 1;
            j += 1;
        } else if let Some((star_i, star_j)) = star {
            i = star_i + 1;
            j = star_j + 1;
            star = Some((star_i, star_j + 1));
        } else {
            return false;
        }
    }
    p[i..].iter().all(|c| *c == '*')
}

/// The tables of a database that are named, or match a glob, and are not excluded.
///
/// # Errors
/// `SchemaMismatch` for a name that is no table; globs may match nothing only beside others that do.
pub async fn select_tables(database: &dyn Database, wanted: &[String], exclude: &[String]) -> Result<Vec<Table>> {
    let own = database.tables(None).await?;
    let mut names: BTreeSet<TableName> = BTreeSet::new();
    if wanted.is_empty() {
        names.extend(own.iter().cloned());
    }
    for pattern in wanted {
        let mut found: Vec<TableName> =
            own.iter().filter(|n| n.name == *pattern || matches_pattern(pattern, &n.name)).cloned().collect();
        if found.is_empty()
            && let Some((schema, rest)) = pattern.split_once('.')
        {
            found = database.tables(Some(schema)).await?;
            found.retain(|n| n.name == rest || matches_pattern(rest, &n.name));
        }
        if found.is_empty() {
            let known: Vec<&str> = own.iter().map(|n| n.name.as_str()).collect();
            return Err(Error::new(
                ErrorKind::SchemaMismatch,
                format!("{} has no table '{pattern}'{}", database.label(), nearest(pattern, &known)),
            ));
        }
        names.extend(found);
    }
    names.retain(|n| !exclude.iter().any(|x| matches_pattern(x, &n.name) || matches_pattern(x, &n.to_string())));
    let mut tables = Vec::with_capacity(names.len());
    for name in names {
        // A table may be dropped between the listing and this.
        if let Some(table) = database.describe(&name).await? {
            tables.push(table);
        }
    }
    if tables.is_empty() {
        return Err(Error::new(ErrorKind::SchemaMismatch, format!("{} has no table to read", database.label())));
    }
    Ok(tables)
}

/// A hint with the nearest known name.
pub(crate) fn nearest(name: &str, known: &[&str]) -> String {
    known
        .iter()
        .map(|k| (strsim::damerau_levenshtein(name, k), k))
        .filter(|(distance, k)| *distance <= 2.max(k.len() / 3))
        .min()
        .map(|(_, k)| format!("; did you mean '{k}'?"))
        .unwrap_or_default()
}

/// The table as `target` would make it from `source`'s, its losses and what could not be carried.
#[must_use]
pub fn shapes(
    target: &dyn Database,
    source: &Table,
    name: &TableName,
    same_engine: bool,
    notes: &mut Vec<String>,
) -> (Table, Vec<String>) {
    let mut losses = Vec::new();
    let neutral = if same_engine { source.clone() } else { without_dialect(source, notes) };
    let source = &neutral;
    let mut table = source.clone();
    table.name = name.clone();
    table.triggers.clear();
    for (n, key) in table.foreign_keys.iter_mut().enumerate() {
        // Named by place, so that what an interrupted run left over keeps its name.
        if key.name.is_empty() {
            key.name = format!("{}_fk{}", name.name, n + 1);
        }
    }
    table.columns = source
        .columns
        .iter()
        .map(|column| {
            let mapped = target.map_column(source, column);
            if let Some(loss) = mapped.loss {
                losses.push(format!("{}.{}: {loss}", source.name, column.name));
            }
            mapped.column
        })
        .collect();
    (table, losses)
}

/// The table without what only its own engine understands.
fn without_dialect(source: &Table, notes: &mut Vec<String>) -> Table {
    let mut table = source.clone();
    for column in &mut table.columns {
        column.native.clear();
        column.collation = None;
        if let Some(DefaultValue::Expression(text)) = &column.default {
            notes.push(format!("left out: the default of {}, an expression of the source's SQL: {text}", column.name));
            column.default = None;
        }
        if column.generated {
            notes.push(format!("{} is computed at the source; at the target it is an ordinary column", column.name));
        }
    }
    table.indexes.retain(|index| {
        if index.native.is_some() {
            notes.push(format!("left out: index {}, which only the source's engine can build", index.name));
        }
        index.native.is_none()
    });
    table
}

/// Plans a run.
///
/// # Errors
/// `SchemaMismatch` and `Usage` name the table and the column and say what to do; nothing has been
/// touched then.
pub async fn plan(source: &dyn Database, target: &dyn Database, options: &PlanOptions) -> Result<Plan> {
    let tables = select_tables(source, &options.tables, &options.exclude).await?;
    for (name, _) in &options.filters {
        if !tables.iter().any(|t| t.name.to_string() == *name) {
            return Err(Error::new(
                ErrorKind::SchemaMismatch,
                format!("a condition names '{name}', which is no table of this copy"),
            ));
        }
    }
    let tables = tables
        .into_iter()
        .map(|table| match options.columns.get(&table.name.to_string()) {
            Some(choice) => choose_columns(&table, choice),
            None => Ok(table),
        })
        .collect::<Result<Vec<Table>>>()?;
    let same_engine = source.abilities().product == target.abilities().product;
    let one_database = same_engine && source.identity().await? == target.identity().await?;
    let ours = unfinished(target).await?;
    let snapshot = source.snapshot().await?;
    let mut reader = snapshot.source().await?;
    let mut plans = Vec::with_capacity(tables.len());
    for table in sort_parents_first(tables) {
        let name = options.renamed.get(&table.name.to_string()).cloned().unwrap_or_else(|| table.name.clone());
        if one_database && name == table.name {
            return Err(Error::new(
                ErrorKind::Usage,
                format!(
                    "source and target are one database, {}, and {name} cannot be written onto itself",
                    target.label()
                ),
            ));
        }
        let existing = target.describe(&name).await?;
        let mut plan = plan_table(target, table, name, existing, &ours, (options.create, same_engine))?;
        plan.filter =
            options.filters.iter().find(|(n, _)| *n == plan.source.name.to_string()).map(|(_, filter)| filter.clone());
        let request = ReadRequest {
            table: plan.source.clone(),
            filter: plan.filter.clone(),
            rows: Selection::All,
            ordered: false,
            limits: BatchLimits { rows: 1, bytes: 1 },
        };
        reader.check(&request).await.map_err(|e| e.context(format!("reading {}", plan.source.name)))?;
        plan.rows = reader.count(&plan.source, plan.filter.as_deref()).await?;
        plans.push(plan);
    }
    let losses: Vec<String> = plans.iter().flat_map(|p| p.losses.iter().cloned()).collect();
    if !losses.is_empty() && !options.allow_loss {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("this would not be exact, so nothing was moved: {}; allow it with --allow-loss", losses.join("; ")),
        ));
    }
    let silent = target.abilities().silences_triggers;
    let noisy: Vec<String> = plans
        .iter()
        .filter(|p| !silent && !p.target.triggers.is_empty())
        .map(|p| format!("{} ({})", p.target.name, p.target.triggers.join(", ")))
        .collect();
    if !noisy.is_empty() && !options.force {
        return Err(Error::new(
            ErrorKind::Usage,
            format!(
                "triggers of {} would run once more for rows that they have already run for, and {} cannot silence them: \
                 {}; drop them for the copy, leave the tables out, or accept it with --force",
                target.label(),
                target.version(),
                noisy.join("; ")
            ),
        ));
    }
    let serial = !silent && plans.iter().any(|p| !p.create && !p.target.foreign_keys.is_empty());
    Ok(Plan { tables: plans, mode: options.mode, serial })
}

/// The table with the columns of a choice, every name of which must exist.
fn choose_columns(table: &Table, choice: &ColumnChoice) -> Result<Table> {
    let known: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
    for name in choice.only.iter().flatten().chain(&choice.exclude) {
        if table.column(name).is_none() {
            return Err(Error::new(
                ErrorKind::SchemaMismatch,
                format!("{} has no column '{name}'{}", table.name, nearest(name, &known)),
            ));
        }
    }
    let wanted =
        |name: &String| choice.only.as_ref().is_none_or(|o| o.contains(name)) && !choice.exclude.contains(name);
    let positions: Vec<usize> = (0..table.columns.len()).filter(|&i| wanted(&table.columns[i].name)).collect();
    Ok(table.project(&positions))
}

/// Tables that an unfinished copy has made here.
async fn unfinished(target: &dyn Database) -> Result<BTreeSet<String>> {
    let marker = TableName::new(MARKER);
    if target.describe(&marker).await?.is_none() {
        return Ok(BTreeSet::new());
    }
    let mut writer = target.target().await?;
    let names = writer.query_text(&format!("SELECT name FROM {MARKER}")).await?;
    Ok(names.into_iter().filter_map(|hex| from_hex(&hex)).collect())
}

pub(super) fn to_hex(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

fn from_hex(hex: &str) -> Option<String> {
    let bytes: Option<Vec<u8>> =
        (0..hex.len()).step_by(2).map(|i| hex.get(i..i + 2).and_then(|h| u8::from_str_radix(h, 16).ok())).collect();
    String::from_utf8(bytes?).ok()
}

fn plan_table(
    target: &dyn Database,
    source: Table,
    name: TableName,
    existing: Option<Table>,
    ours: &BTreeSet<String>,
    (may_create, same_engine): (bool, bool),
) -> Result<TablePlan> {
    let mut carried = Vec::new();
    let (wanted, losses) = shapes(target, &source, &name, same_engine, &mut carried);
    let interrupted = ours.contains(&name.to_string());
    let create = existing.is_none();
    if create && !may_create {
        return Err(Error::new(
            ErrorKind::SchemaMismatch,
            format!("{} has no table '{name}', and creating tables was not allowed", target.label()),
        ));
    }
    if create {
        refuse_names(target, &wanted)?;
    }
    let mut notes = if create { carried } else { Vec::new() };
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
    let pairs = pair_columns(target, &source, &have, &mut notes)?;
    let (from, to): (Vec<usize>, Vec<usize>) = pairs.into_iter().unzip();
    let (mut from_table, mut to_table) = (source.project(&from), have.project(&to));
    if create || interrupted {
        // The keys that the finished table will have; they are not all there while rows arrive.
        to_table.primary_key.clone_from(&wanted.project(&to).primary_key);
        to_table.indexes = wanted.project(&to).indexes;
    }
    let key = common_key(&from_table, &to_table);
    for table in [&mut from_table, &mut to_table] {
        table.primary_key.clone_from(&key);
        if key.is_none() {
            table.indexes.retain(|i| !i.unique);
        }
        for &column in key.iter().flat_map(|k| &k.columns) {
            table.columns[column].nullable = false;
        }
    }
    if key.is_none() {
        notes.push("no common key: rows are told apart by all their columns, and counted".into());
    }
    let mapped = from_table
        .columns
        .iter()
        .zip(&to_table.columns)
        .filter(|(a, b)| a.logical != b.logical || !a.native.eq_ignore_ascii_case(&b.native))
        .map(|(a, b)| (a.name.clone(), describe_type(a), describe_type(b)))
        .collect();
    Ok(TablePlan {
        source: Arc::new(from_table),
        target: Arc::new(to_table),
        key,
        ddl,
        create,
        filter: None,
        rows: 0,
        mapped,
        losses,
        notes,
    })
}

/// A name that the target cannot hold is told before anything is made, never cut.
fn refuse_names(target: &dyn Database, table: &Table) -> Result<()> {
    let columns = table.columns.iter().map(|c| c.name.as_str());
    for name in std::iter::once(table.name.name.as_str()).chain(columns) {
        if let Some(fault) = target.name_fault(name) {
            return Err(Error::new(
                ErrorKind::SchemaMismatch,
                format!(
                    "'{name}' of table {} cannot be made at {}: {fault}; leave it out or rename it",
                    table.name,
                    target.label()
                ),
            ));
        }
    }
    Ok(())
}

fn describe_type(column: &crate::model::ColumnDef) -> String {
    if column.native.is_empty() { column.logical.to_string() } else { column.native.clone() }
}

/// `wanted` without what `have` has already.
fn missing_parts(wanted: &Table, have: &Table) -> Table {
    let mut rest = wanted.clone();
    if have.primary_key.is_some() {
        rest.primary_key = None;
    }
    let names = |index: &crate::model::Index| -> (bool, Vec<String>) {
        (index.unique, index.columns.iter().map(|c| c.name.clone()).collect())
    };
    rest.indexes.retain(|i| !have.indexes.iter().any(|h| names(h) == names(i)));
    rest.foreign_keys.retain(|f| !have.foreign_keys.iter().any(|h| h.columns == f.columns && h.parent == f.parent));
    rest
}

/// Columns that both tables have, as positions; a column that only the source has is an error.
fn pair_columns(
    target: &dyn Database,
    source: &Table,
    have: &Table,
    notes: &mut Vec<String>,
) -> Result<Vec<(usize, usize)>> {
    let known: Vec<&str> = have.columns.iter().map(|c| c.name.as_str()).collect();
    let mut pairs = Vec::new();
    for (at, column) in source.columns.iter().enumerate() {
        let found = have
            .column(&column.name)
            .or_else(|| have.columns.iter().position(|c| c.name.eq_ignore_ascii_case(&column.name)));
        let Some(there) = found else {
            if column.generated {
                notes
                    .push(format!("{} is computed at the source and not at the target; it is not copied", column.name));
                continue;
            }
            return Err(Error::new(
                ErrorKind::SchemaMismatch,
                format!(
                    "{} of {} has no column '{}', which the source has{}; add it, or leave the column out",
                    have.name,
                    target.label(),
                    column.name,
                    nearest(&column.name, &known)
                ),
            ));
        };
        let other = &have.columns[there];
        if !convertible(&column.logical, &other.logical) {
            return Err(Error::new(
                ErrorKind::SchemaMismatch,
                format!(
                    "{}.{} is {} at the source and {} at the target; no value of the one can stand in the other",
                    source.name, column.name, column.logical, other.logical
                ),
            ));
        }
        pairs.push((at, there));
    }
    for (there, column) in have.columns.iter().enumerate() {
        let given = pairs.iter().any(|&(_, t)| t == there);
        if !given && !column.nullable && column.default.is_none() && column.identity.is_none() && !column.generated {
            return Err(Error::new(
                ErrorKind::SchemaMismatch,
                format!(
                    "{}.{} at the target must not be NULL and has no default, and the source has no such column; give it a default",
                    have.name, column.name
                ),
            ));
        }
    }
    Ok(pairs)
}

/// The key of both tables: the target's, where the source has one of the same columns and both
/// order its values alike.
fn common_key(source: &Table, target: &Table) -> Option<Key> {
    let (a, b) = (source.row_key()?, target.row_key()?);
    let set = |k: &Key| -> BTreeSet<usize> { k.columns.iter().copied().collect() };
    let key = if set(&a) == set(&b) {
        a
    } else {
        // The source may know the target's key as one of its unique indexes.
        let unique = source.indexes.iter().any(|i| {
            i.unique
                && i.columns.iter().map(|c| source.column(&c.name)).collect::<Option<BTreeSet<_>>>() == Some(set(&b))
        });
        if !unique || b.columns.iter().any(|&c| source.columns[c].nullable) {
            return None;
        }
        b
    };
    let alike = key.columns.iter().all(|&c| class(&source.columns[c].logical) == class(&target.columns[c].logical));
    alike.then_some(key)
}

/// Types whose canonical orders agree have one class.
fn class(logical: &LogicalType) -> u8 {
    match logical {
        LogicalType::Bool | LogicalType::Int { .. } | LogicalType::Decimal { .. } => 1,
        LogicalType::Float { .. } => 2,
        LogicalType::Date => 3,
        LogicalType::Timestamp { .. } => 4,
        LogicalType::Time { .. } | LogicalType::Duration { .. } => 5,
        LogicalType::Any => 6,
        // A uuid's text is lower-case hexadecimal, ordered like its bytes; its bytes may be binary.
        LogicalType::Binary { .. } => 8,
        _ => 7,
    }
}

/// Parents before children; tables of a cycle in the order of their names.
fn sort_parents_first(tables: Vec<Table>) -> Vec<Table> {
    let mut rest = tables;
    let mut sorted: Vec<Table> = Vec::with_capacity(rest.len());
    while !rest.is_empty() {
        let names: BTreeSet<TableName> = rest.iter().map(|t| t.name.clone()).collect();
        let free = |t: &Table| t.foreign_keys.iter().all(|f| f.parent == t.name || !names.contains(&f.parent));
        let at = rest.iter().position(free).unwrap_or(0);
        sorted.push(rest.remove(at));
    }
    sorted
}
