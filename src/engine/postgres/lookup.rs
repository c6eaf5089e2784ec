//! Single rows by key, and bookkeeping in its order.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt as _, pin_mut};
use tokio_postgres::types::{FromSql, ToSql, Type};

use super::catalog::select_list;
use super::codec::{Wire, decode, write_text};
use super::source::unmoved;
use super::target::Writer;
use super::types::{bare, ident, table_name};
use super::{error, log};
use crate::engine::{Error, ErrorKind, Looked, Lookup, Result, RowLock};
use crate::model::{Batch, Cell, Column, ColumnDef, LogicalType, Table};

/// Keys that are NULL in the same columns, as a statement takes them: an array of text for each column that is not.
pub(super) struct Given {
    /// What stands after FROM, `s`; `None` where all columns are NULL.
    pub(super) keys: Option<String>,
    /// The condition under which a row of `t` agrees with one of the keys.
    pub(super) same: String,
    /// Where keys are of one plain column: this column of `t`, and all keys as an array of its type.
    one: Option<(String, String)>,
    arrays: Vec<Vec<String>>,
}

impl Given {
    /// The condition under which a row of `t` agrees with any of the keys. Not a join: two keys may be one to the engine,
    /// and a row comes once.
    pub(super) fn condition(&self) -> String {
        match (&self.one, &self.keys) {
            // By the index, however many keys there are: a list that the planner knows may have it read the whole table.
            (Some((name, keys)), _) => format!("{name} = ANY (ARRAY({keys}))"),
            (None, Some(keys)) => format!("EXISTS (SELECT FROM {keys} WHERE {})", self.same),
            (None, None) => self.same.clone(),
        }
    }

    /// The parameters, in order.
    pub(super) fn parameters(&self) -> Vec<(&(dyn ToSql + Sync), Type)> {
        self.arrays.iter().map(|array| (array as _, Type::TEXT_ARRAY)).collect()
    }
}

/// The keys by which of their columns are NULL: `=` finds no NULL, and `IS NOT DISTINCT FROM` uses no index.
pub(super) fn given(table: &Table, keys: &Batch) -> Result<Vec<Given>> {
    let mut groups: BTreeMap<Vec<bool>, Vec<usize>> = BTreeMap::new();
    for row in 0..keys.rows() {
        let nulls = (0..keys.columns().len()).map(|c| matches!(keys.cell(row, c), Cell::Null | Cell::Absent));
        groups.entry(nulls.collect()).or_default().push(row);
    }
    groups.into_iter().map(|(nulls, rows)| group(table, keys, &nulls, &rows)).collect()
}

fn group(table: &Table, keys: &Batch, nulls: &[bool], rows: &[usize]) -> Result<Given> {
    let (mut parts, mut casts, mut arrays) = (Vec::new(), Vec::new(), Vec::new());
    let mut one = None;
    for (at, (key, null)) in keys.table.columns.iter().zip(nulls).enumerate() {
        let column = table.column(&key.name).map(|c| &table.columns[c]).ok_or_else(|| {
            Error::new(ErrorKind::SchemaMismatch, format!("table {} has no column {}", table.name, key.name))
        })?;
        if *null {
            parts.push(format!("t.{} IS NULL", ident(&column.name)));
            continue;
        }
        arrays.push(texts(keys, at, rows).map_err(|e| e.context(format_args!("a key of table {}", table.name)))?);
        casts.push(format!("${}::text[]", arrays.len()));
        let Equality { same, plain } = equality(table, column, &keys.table, &format!("s.k{}", arrays.len()));
        if let (Some(native), [_], true) = (plain, &*keys.table.columns, leads(table, &column.name)) {
            let list = format!("SELECT s.k1::{native} FROM unnest($1::text[]) AS s(k1)");
            one = Some((format!("t.{}", ident(&column.name)), list));
        }
        parts.push(same);
    }
    let names: Vec<String> = (1..=arrays.len()).map(|at| format!("k{at}")).collect();
    let list = (!arrays.is_empty()).then(|| format!("unnest({}) AS s({})", casts.join(", "), names.join(", ")));
    Ok(Given { keys: list, same: parts.join(" AND "), one, arrays })
}

/// Whether an index leads to the rows that have a value in this column.
fn leads(table: &Table, column: &str) -> bool {
    table.primary_key.iter().filter_map(|key| key.columns.first()).any(|&at| table.columns[at].name == column)
        || table.indexes.iter().any(|i| i.native.is_none() && i.columns.first().is_some_and(|c| c.name == column))
}

/// All values of some columns as a statement takes them: what stands after FROM (`s`, columns `k1` on, as text), and its
/// parameters.
pub(super) fn values(batch: &Batch, columns: &[usize]) -> Result<(String, Vec<Vec<Option<String>>>)> {
    let mut arrays = Vec::with_capacity(columns.len());
    for &at in columns {
        let wire = Wire::of(&batch.table.columns[at].logical);
        let text = |row: usize| {
            let mut text = Vec::new();
            let some = write_text(wire, batch.cell(row, at), &mut text)?;
            let text =
                String::from_utf8(text).map_err(|_| Error::new(ErrorKind::BadData, "text that is no valid UTF-8"))?;
            Ok(some.then_some(text))
        };
        arrays.push((0..batch.rows()).map(text).collect::<Result<_>>()?);
    }
    let casts: Vec<String> = (1..=columns.len()).map(|n| format!("${n}::text[]")).collect();
    let names: Vec<String> = (1..=columns.len()).map(|n| format!("k{n}")).collect();
    Ok((format!("unnest({}) AS s({})", casts.join(", "), names.join(", ")), arrays))
}

fn texts(keys: &Batch, column: usize, rows: &[usize]) -> Result<Vec<String>> {
    let wire = Wire::of(&keys.table.columns[column].logical);
    rows.iter()
        .map(|&row| {
            let mut text = Vec::new();
            write_text(wire, keys.cell(row, column), &mut text)?;
            String::from_utf8(text).map_err(|_| Error::new(ErrorKind::BadData, "text that is no valid UTF-8"))
        })
        .collect()
}

/// How a column of `t` is compared with a key's.
struct Equality {
    same: String,
    /// The type in which its own equality says it all.
    plain: Option<String>,
}

/// Equality as the column's index has it; by bytes besides, where that would find more and no unique key says that
/// what it finds is one.
fn equality(table: &Table, column: &ColumnDef, keys: &Table, given: &str) -> Equality {
    let name = format!("t.{}", ident(&column.name));
    let bytes = format!("{name}::text COLLATE \"C\" = {given}");
    let Some(native) = comparable(column) else { return Equality { same: bytes, plain: None } };
    let same = format!("{name} = {given}::{native}");
    if column.binary_order || !matches!(column.logical, LogicalType::Text { .. }) || unique(table, column, keys) {
        // An array of arrays would be taken apart down to their elements.
        let plain = Some(native).filter(|native| !native.ends_with(']'));
        return Equality { same, plain };
    }
    Equality { same: format!("{same} AND {bytes}"), plain: None }
}

/// The type to compare a column in, without bounds that would cut or round a key; `None` for a type without an
/// equality, or with one that means something else (the area of a box).
fn comparable(column: &ColumnDef) -> Option<String> {
    const UNEQUAL: &[&str] = &["xml", "point", "line", "lseg", "box", "path", "polygon", "circle"];
    let wire = Wire::of(&column.logical);
    Some(match &column.logical {
        LogicalType::Json { binary: false } => return None,
        LogicalType::Text { fixed: true, .. } => "bpchar".to_owned(),
        LogicalType::Text { .. } if column.binary_order || column.collation.is_some() => "text".to_owned(),
        _ => match wire.type_name(&column.logical) {
            Some(name) => name.to_owned(),
            None => Some(bare(&column.native)).filter(|name| !UNEQUAL.contains(&name.as_str()))?,
        },
    })
}

/// Whether the column is part of a unique key that the columns of `keys` hold all of. A log's key columns are one of
/// the table that is logged.
fn unique(table: &Table, column: &ColumnDef, keys: &Table) -> bool {
    if log::is_log(table) {
        return true;
    }
    let primary = table.primary_key.iter().map(|key| key.columns.iter().map(|&c| &table.columns[c].name).collect());
    let others = table.indexes.iter().filter(|index| index.unique && index.native.is_none());
    let others = others.map(|index| index.columns.iter().map(|c| &c.name).collect());
    primary
        .chain(others)
        .any(|key: Vec<&String>| key.contains(&&column.name) && key.iter().all(|name| keys.column(name).is_some()))
}

/// A value as it travels.
struct Field<'a>(Option<&'a [u8]>);

impl<'a> FromSql<'a> for Field<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> std::result::Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(Some(raw)))
    }

    fn from_sql_null(_: &Type) -> std::result::Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(None))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// Runs a query whose select list is that of `table`, and appends its rows.
async fn collect(writer: &Writer, table: &Table, sql: &str, given: Option<&Given>, out: &mut [Column]) -> Result<()> {
    let fail = |e: tokio_postgres::Error| error::from(&e).context(format_args!("reading table {}", table.name));
    let wires: Vec<Wire> = table.columns.iter().map(|c| Wire::of(&c.logical)).collect();
    let parameters = given.map(Given::parameters).unwrap_or_default();
    let rows = writer.session.client.query_typed_raw(sql, parameters).await.map_err(fail)?;
    pin_mut!(rows);
    while let Some(row) = rows.next().await {
        let row = row.map_err(fail)?;
        for (at, (wire, column)) in wires.iter().zip(out.iter_mut()).enumerate() {
            match row.try_get::<_, Field>(at).map_err(fail)? {
                Field(Some(field)) => decode(*wire, field, column)?,
                Field(None) => column.push_null(),
            }
        }
    }
    if writer.point { unmoved(&writer.session.client, &writer.shared, table).await } else { Ok(()) }
}

#[async_trait]
impl Lookup for Writer {
    async fn lookup(&mut self, table: &Arc<Table>, keys: &Batch, lock: RowLock) -> Result<Batch> {
        self.find(table, keys, lock, None).await
    }

    async fn lookup_where(&mut self, table: &Arc<Table>, keys: &Batch, condition: &str) -> Result<Batch> {
        self.find(table, keys, RowLock::None, Some(condition)).await
    }

    async fn count(&mut self, table: &Arc<Table>, keys: &Batch) -> Result<u64> {
        self.finish().await?;
        let fail = |e: tokio_postgres::Error| error::from(&e).context(format_args!("counting rows of {}", table.name));
        let name = table_name(&self.shared.schema, &table.name);
        let mut count = 0;
        for given in given(table, keys)? {
            let sql = format!("SELECT count(*) FROM {name} t WHERE {}", given.condition());
            let row = self.session.client.query_typed_one(&sql, &given.parameters()).await.map_err(fail)?;
            count += row.try_get::<_, i64>(0).map_err(fail)?.unsigned_abs();
        }
        Ok(count)
    }

    async fn scan(&mut self, table: &Arc<Table>, above: Option<(usize, i64)>, limit: usize) -> Result<Batch> {
        self.finish().await?;
        let order = above.map(|(column, than)| (ident(&table.columns[column].name), than));
        let order =
            order.map_or(String::new(), |(name, than)| format!(" WHERE {name} > '{than}'::bigint ORDER BY {name}"));
        let name = table_name(&self.shared.schema, &table.name);
        let sql = format!("SELECT {} FROM {name}{order} LIMIT {limit}", select_list(table));
        let mut columns = vec![Column::default(); table.columns.len()];
        collect(self, table, &sql, None, &mut columns).await?;
        Ok(Batch::new(table.clone(), columns))
    }

    async fn holding(&mut self, tables: &[Looked]) -> Result<Vec<bool>> {
        self.finish().await?;
        let mut holding = vec![false; tables.len()];
        for (piece, first) in tables.chunks(LOOKED_MAX).zip((0..).step_by(LOOKED_MAX)) {
            for at in self.look(piece).await? {
                holding[first + at] = true;
            }
        }
        Ok(holding)
    }

    async fn now(&mut self) -> Result<i64> {
        self.finish().await?;
        let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
        let row = self.session.client.query_typed_one(sql, &[]).await.map_err(|e| error::from(&e))?;
        Ok(row.get(0))
    }
}

/// Tables that one statement looks at, and those from which on it is worth to have the server keep its plan, which takes
/// it ten times as long to make as to carry out.
const LOOKED_MAX: usize = 1000;
const LOOKED_MANY: usize = 8;
/// Plans that are kept.
const PLANS_MAX: usize = 8;

impl Writer {
    /// Which of these tables hold a row, by their place.
    async fn look(&mut self, tables: &[Looked]) -> Result<Vec<usize>> {
        let one = |(at, looked): (usize, &Looked)| {
            let bound = looked.above.map_or(String::new(), |(column, _)| {
                format!(" WHERE {} > ($1::bigint[])[{}]", ident(&looked.table.columns[column].name), at + 1)
            });
            format!("(SELECT {at} FROM {}{bound} LIMIT 1)", table_name(&self.shared.schema, &looked.table.name))
        };
        let mut sql = tables.iter().enumerate().map(one).collect::<Vec<_>>().join(" UNION ALL ");
        // Always said, so that there is a parameter.
        sql.push_str(" UNION ALL SELECT NULL::int WHERE $1::bigint[] IS NULL");
        let bounds: Vec<i64> = tables.iter().map(|looked| looked.above.map_or(0, |(_, than)| than)).collect();
        let fail = |e: tokio_postgres::Error| error::from(&e).context("looking which tables hold something");
        let client = &self.session.client;
        let rows = if tables.len() < LOOKED_MANY {
            client.query_typed(&sql, &[(&bounds, Type::INT8_ARRAY)]).await.map_err(fail)?
        } else {
            let kept = if let Some(kept) = self.looks.get(&sql) {
                kept.clone()
            } else {
                let made = client.prepare_typed(&sql, &[Type::INT8_ARRAY]).await.map_err(fail)?;
                if self.looks.len() >= PLANS_MAX {
                    self.looks.clear();
                }
                self.looks.insert(sql, made.clone());
                made
            };
            client.batch_execute("SET plan_cache_mode = force_generic_plan").await.map_err(fail)?;
            let rows = client.query(&kept, &[&bounds]).await.map_err(fail)?;
            client.batch_execute("SET plan_cache_mode = auto").await.map_err(fail)?;
            rows
        };
        Ok(rows.iter().filter_map(|row| usize::try_from(row.get::<_, i32>(0)).ok()).collect())
    }

    /// The rows that agree with one of the keys and meet the condition.
    async fn find(
        &mut self,
        table: &Arc<Table>,
        keys: &Batch,
        lock: RowLock,
        condition: Option<&str>,
    ) -> Result<Batch> {
        self.finish().await?;
        let lock = match lock {
            RowLock::None => "",
            RowLock::Wait => " FOR UPDATE OF t",
            RowLock::SkipHeld => " FOR UPDATE OF t SKIP LOCKED",
            RowLock::Keep => " FOR KEY SHARE OF t SKIP LOCKED",
        };
        let (name, list) = (table_name(&self.shared.schema, &table.name), select_list(table));
        // By its own name inside, so that a condition may call it so.
        let from = condition.map_or(format!("{name} t"), |c| format!("(SELECT * FROM {name} WHERE ({c}\n)) t"));
        let mut columns = vec![Column::default(); table.columns.len()];
        for given in given(table, keys)? {
            let sql = format!("SELECT {list} FROM {from} WHERE {}{lock}", given.condition());
            collect(self, table, &sql, Some(&given), &mut columns).await?;
        }
        Ok(Batch::new(table.clone(), columns))
    }
}
