//! Single rows by key, and bookkeeping in its order.
//!
//! Keys go into a temporary table, which the table is joined with: one statement for any number of
//! them, and SQLite's own rules for affinities and collations. Locks are the file's: a transaction
//! that writes has waited for them when it began.

use std::fmt::Write as _;
use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, Statement};

use super::ddl::{quote, quote_table};
use super::error::during;
use super::log::{NOW, as_read};
use super::target::FileTarget;
use super::types::{Binder, push};
use crate::engine::{Error, ErrorKind, Looked, Lookup, Result, RowLock};
use crate::model::{Batch, Column, ColumnDef, Table};

/// The keys that are looked up.
const KEYS: &str = "temp._rowferry_keys";

/// Whether the first column of some index is among these, so that rows are found by it.
fn is_indexed(table: &Table, columns: &[usize]) -> bool {
    let first = table.primary_key.iter().filter_map(|key| key.columns.first().copied());
    let others = table.indexes.iter().filter(|index| index.native.is_none());
    let others = others.filter_map(|index| table.column(&index.columns.first()?.name));
    first.chain(others).any(|at| columns.contains(&at))
}

/// Whether a row is what the table's own collations find under these columns; else keys differ
/// when their bytes do. rowferry's tables hold the keys of a table that told them apart so.
fn by_own_collation(table: &Table, columns: &[usize]) -> bool {
    let has = |at: usize| columns.contains(&at);
    table.name.name.starts_with("_rowferry_")
        || table.primary_key.as_ref().is_some_and(|key| key.columns.iter().all(|&at| has(at)))
        || table.indexes.iter().any(|index| {
            index.unique
                && index.native.is_none()
                && index.columns.iter().all(|c| table.column(&c.name).is_some_and(has))
        })
}

/// The statements of one lookup.
pub(super) struct Join {
    /// Makes the table of keys.
    pub(super) make: String,
    /// Puts one key into it.
    insert: String,
    /// Rows that agree with one.
    pub(super) select: String,
}

impl Join {
    pub(super) fn new(table: &Table, columns: &[usize]) -> Self {
        let name = quote_table(&table.name);
        let own = by_own_collation(table, columns);
        let (mut made, mut index, mut agree) = (Vec::new(), Vec::new(), Vec::new());
        for (n, &at) in columns.iter().enumerate() {
            let column = &table.columns[at];
            let here = format!("{name}.{}", quote(&column.name));
            made.push(format!("{here} AS _rowferry_k{n}"));
            // IS, since NULL agrees with NULL; the table's column in front gives the collation.
            agree.push(format!("{here} IS k._rowferry_k{n}"));
            match &column.collation {
                Some(collation) if own => index.push(format!("_rowferry_k{n} COLLATE {}", quote(collation))),
                Some(_) => {
                    agree.push(format!("{here} IS k._rowferry_k{n} COLLATE BINARY"));
                    index.push(format!("_rowferry_k{n}"));
                }
                None => index.push(format!("_rowferry_k{n}")),
            }
        }
        let wanted = table.columns.iter().map(|c| as_read(c, format!("{name}.{}", quote(&c.name))));
        let wanted: Vec<String> = wanted.collect();
        // CROSS JOIN keeps its order: the right side is the one that has an index.
        let from = if is_indexed(table, columns) {
            format!("{KEYS} AS k CROSS JOIN {name}")
        } else {
            format!("{name} CROSS JOIN {KEYS} AS k")
        };
        Self {
            // Made from the table, so that the columns have its affinities.
            make: format!(
                "DROP TABLE IF EXISTS {KEYS}; CREATE TEMP TABLE _rowferry_keys AS SELECT {} FROM {name} LIMIT 0; \
                 CREATE UNIQUE INDEX temp._rowferry_keys_told_apart ON _rowferry_keys ({})",
                made.join(", "),
                index.join(", ")
            ),
            // Two spellings of one key find one row.
            insert: format!("INSERT OR IGNORE INTO {KEYS} VALUES ({})", vec!["?"; columns.len()].join(", ")),
            select: format!("SELECT {} FROM {from} ON {}", wanted.join(", "), agree.join(" AND ")),
        }
    }
}

fn lookup(conn: &Connection, table: &Arc<Table>, keys: &Batch, condition: Option<&str>) -> Result<Batch> {
    let mut join = given(conn, table, keys)?;
    if let Some(condition) = condition {
        // Its names are the table's: the columns of the keys have names that no user's column has.
        let _ = write!(join.select, " WHERE ({condition}\n)");
    }
    let looking = || format!("cannot look up rows of table {}", table.name);
    let mut select = conn.prepare(&join.select).map_err(during(looking()))?;
    let found = collect(&mut select, table, &[])?;
    drop(select);
    conn.execute_batch(&format!("DROP TABLE {KEYS}")).map_err(during(looking()))?;
    Ok(found)
}

fn count(conn: &Connection, table: &Arc<Table>, keys: &Batch) -> Result<u64> {
    let counting = || format!("cannot count rows of table {}", table.name);
    let sql = format!("SELECT count(*) FROM ({})", given(conn, table, keys)?.select);
    let count: i64 = conn.query_row(&sql, [], |row| row.get(0)).map_err(during(counting()))?;
    conn.execute_batch(&format!("DROP TABLE {KEYS}")).map_err(during(counting()))?;
    Ok(count.unsigned_abs())
}

/// Puts keys into the table of keys, and tells how the rows that agree with one are found.
fn given(conn: &Connection, table: &Arc<Table>, keys: &Batch) -> Result<Join> {
    let mut columns = Vec::new();
    for column in &keys.table.columns {
        columns.push(table.column(&column.name).ok_or_else(|| {
            let sentence = format!("table {} has no column {} to look rows up by", table.name, column.name);
            Error::new(ErrorKind::SchemaMismatch, sentence)
        })?);
    }
    let join = Join::new(table, &columns);
    let looking = || format!("cannot look up rows of table {}", table.name);
    conn.execute_batch(&join.make).map_err(during(looking()))?;
    let mut insert = conn.prepare(&join.insert).map_err(during(looking()))?;
    let binders: Vec<Binder> = columns.iter().map(|&at| Binder::new(&table.columns[at])).collect();
    let mut scratch = String::new();
    for row in 0..keys.rows() {
        for (n, binder) in binders.iter().enumerate() {
            let stored = binder.stored(keys.cell(row, n), &mut scratch);
            insert.raw_bind_parameter(n + 1, stored).map_err(during(looking()))?;
        }
        insert.raw_execute().map_err(during(looking()))?;
    }
    drop(insert);
    Ok(join)
}

/// What a row is called by must be in the one form that it can be found by.
fn unusual(table: &Table, column: &ColumnDef) -> Error {
    let sentence = format!(
        "table {} names a row by a value of {} that is not in the usual form of its type ({}), so that the row cannot be \
         found by it: write that row in the usual form, then delete this line",
        table.name, column.name, column.logical
    );
    Error::new(ErrorKind::BadData, sentence)
}

/// All rows of a statement whose parameters are bound; those of bookkeeping (with `forms` of its
/// columns) name rows of other tables.
fn collect(statement: &mut Statement<'_>, table: &Arc<Table>, forms: &[Binder]) -> Result<Batch> {
    let reading = || format!("cannot read table {}", table.name);
    let mut columns = vec![Column::default(); table.columns.len()];
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next().map_err(during(reading()))? {
        for (at, column) in table.columns.iter().enumerate() {
            let value = row.get_ref(at).map_err(during(reading()))?;
            push(&mut columns[at], &column.logical, &value);
            if let Some(binder) = forms.get(at) {
                let cells = &columns[at];
                if !binder.is_usual_form(cells.cell(cells.len() - 1), value) {
                    return Err(unusual(table, column));
                }
            }
        }
    }
    Ok(Batch::new(table.clone(), columns))
}

fn scan(conn: &Connection, table: &Arc<Table>, above: Option<(usize, i64)>, limit: usize) -> Result<Batch> {
    let reading = || format!("cannot read table {}", table.name);
    let wanted: Vec<String> = table.columns.iter().map(|c| as_read(c, quote(&c.name))).collect();
    let bound = above.map_or_else(String::new, |(at, _)| {
        let column = quote(&table.columns[at].name);
        format!(" WHERE {column} > ?1 ORDER BY {column}")
    });
    let sql = format!("SELECT {} FROM {}{bound} LIMIT {limit}", wanted.join(", "), quote_table(&table.name));
    let mut statement = conn.prepare_cached(&sql).map_err(during(reading()))?;
    if let Some((_, above)) = above {
        statement.raw_bind_parameter(1, above).map_err(during(reading()))?;
    }
    let forms: Vec<Binder> = table.columns.iter().map(Binder::new).collect();
    collect(&mut statement, table, &forms)
}

fn holds(conn: &Connection, Looked { table, above }: &Looked) -> Result<bool> {
    let bound =
        above.map_or_else(String::new, |(at, than)| format!(" WHERE {} > {than}", quote(&table.columns[at].name)));
    let sql = format!("SELECT EXISTS (SELECT 1 FROM {}{bound})", quote_table(&table.name));
    conn.query_row(&sql, [], |r| r.get(0)).map_err(during(format!("cannot read table {}", table.name)))
}

#[async_trait]
impl Lookup for FileTarget {
    async fn lookup(&mut self, table: &Arc<Table>, keys: &Batch, _lock: RowLock) -> Result<Batch> {
        self.send().await?;
        let (table, keys) = (table.clone(), keys.clone());
        self.worker.call(move |conn| lookup(conn, &table, &keys, None)).await
    }

    async fn lookup_where(&mut self, table: &Arc<Table>, keys: &Batch, condition: &str) -> Result<Batch> {
        self.send().await?;
        let (table, keys, condition) = (table.clone(), keys.clone(), condition.to_owned());
        self.worker.call(move |conn| lookup(conn, &table, &keys, Some(&condition))).await
    }

    async fn count(&mut self, table: &Arc<Table>, keys: &Batch) -> Result<u64> {
        let (table, keys) = (table.clone(), keys.clone());
        self.worker.call(move |conn| count(conn, &table, &keys)).await
    }

    async fn scan(&mut self, table: &Arc<Table>, above: Option<(usize, i64)>, limit: usize) -> Result<Batch> {
        self.send().await?;
        let table = table.clone();
        self.worker.call(move |conn| scan(conn, &table, above, limit)).await
    }

    async fn holding(&mut self, tables: &[Looked]) -> Result<Vec<bool>> {
        let tables = tables.to_vec();
        let all = move |conn: &mut Connection| {
            // A savepoint of its own, so that it is one point also where no transaction is open.
            let point = conn.savepoint().map_err(during("cannot look for changes"))?;
            tables.iter().map(|looked| holds(&point, looked)).collect()
        };
        self.worker.call(all).await
    }

    async fn now(&mut self) -> Result<i64> {
        let sql = format!("SELECT {NOW}");
        self.worker
            .call(move |conn| conn.query_row(&sql, [], |r| r.get(0)).map_err(during("cannot read the clock")))
            .await
    }
}
