//! Single rows by key, and bookkeeping in its order.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use mysql_async::prelude::Queryable;

use super::codec::{Form, key_expression, key_literal};
use super::connect::quote;
use super::error::convert;
use super::log::WALL;
use super::source::{column_list, put_row, table_sql};
use super::target::{Sink, force_index, in_table, rows_at_once};
use crate::engine::{Error, ErrorKind, Looked, Lookup, Result, RowLock};
use crate::model::{Batch, Cell, Column, LogicalType, Table};

/// How the rows of one lookup are found.
struct Search<'a> {
    table: &'a Table,
    keys: &'a Batch,
    /// Where each column of `keys` is in `table`.
    columns: Vec<usize>,
    /// The hint for the unique key of these columns.
    unique: Option<String>,
    /// That a collation holds different texts for one.
    folds: bool,
    /// That the columns are to be compared byte by byte, since no unique key says that those are one row.
    exact: bool,
    /// That an index leads to the rows: many short statements. Else one reads the whole table.
    indexed: bool,
}

impl<'a> Search<'a> {
    fn new(table: &'a Table, keys: &'a Batch) -> Result<Self> {
        let at = |name: &String| {
            table.column(name).ok_or_else(|| {
                Error::new(ErrorKind::SchemaMismatch, format!("table {} has no column {name}", table.name))
            })
        };
        let columns = keys.table.columns.iter().map(|c| at(&c.name)).collect::<Result<Vec<_>>>()?;
        let unique = force_index(table, &columns);
        let folds = |&c: &usize| {
            let column = &table.columns[c];
            matches!(column.logical, LogicalType::Text { .. }) && !column.binary_order
        };
        let folds = columns.iter().any(folds);
        let leads = |c: usize| columns.contains(&c);
        let indexed = table.primary_key.as_ref().and_then(|k| k.columns.first()).is_some_and(|&c| leads(c))
            || table.indexes.iter().any(|i| i.columns.first().and_then(|c| table.column(&c.name)).is_some_and(leads));
        Ok(Self { table, keys, exact: unique.is_none() && folds, unique, folds, columns, indexed })
    }

    /// The condition for these rows of the keys.
    fn condition(&self, sink: &mut Sink, rows: std::ops::Range<usize>) -> Vec<u8> {
        let (null, whole): (Vec<usize>, Vec<usize>) =
            rows.partition(|&row| (0..self.columns.len()).any(|c| self.keys.cell(row, c) == Cell::Null));
        let mut out = Vec::new();
        if !whole.is_empty() {
            let plain = !self.exact || self.indexed;
            if plain {
                self.list(sink, &whole, false, &mut out);
            }
            if self.exact {
                out.extend_from_slice(if plain { b" AND " } else { b"" });
                self.list(sink, &whole, true, &mut out);
            }
        }
        for row in null {
            out.extend_from_slice(if out.is_empty() { b"(" } else { b" OR (" });
            for at in 0..self.columns.len() {
                out.extend_from_slice(if at > 0 { b" AND " } else { b"" });
                out.extend_from_slice(self.expression(at, self.exact).as_bytes());
                out.extend_from_slice(b" <=> ");
                self.literal(sink, row, at, self.exact, &mut out);
            }
            out.push(b')');
        }
        out
    }

    fn list(&self, sink: &mut Sink, rows: &[usize], exact: bool, out: &mut Vec<u8>) {
        let names: Vec<String> = (0..self.columns.len()).map(|at| self.expression(at, exact)).collect();
        out.extend_from_slice(format!("({}) IN (", names.join(", ")).as_bytes());
        for (n, &row) in rows.iter().enumerate() {
            out.extend_from_slice(if n > 0 { b",(" } else { b"(" });
            for at in 0..self.columns.len() {
                out.extend_from_slice(if at > 0 { b"," } else { b"" });
                self.literal(sink, row, at, exact, out);
            }
            out.push(b')');
        }
        out.push(b')');
    }

    fn expression(&self, at: usize, exact: bool) -> String {
        let column = &self.table.columns[self.columns[at]];
        if exact { key_expression(column) } else { quote(&column.name) }
    }

    fn literal(&self, sink: &mut Sink, row: usize, at: usize, exact: bool, out: &mut Vec<u8>) {
        let column = &self.table.columns[self.columns[at]];
        match self.keys.cell(row, at) {
            cell if exact && cell != Cell::Null => {
                out.extend_from_slice(key_literal(column, &cell.to_value()).as_bytes());
            }
            cell => sink.writer.literal(Form::of(column), cell, out),
        }
    }
}

impl Sink {
    /// Appends the rows that a query gives.
    async fn rows(&mut self, sql: &[u8], table: &Table, columns: &mut [Column]) -> Result<()> {
        let told = |e| in_table(convert(e), table);
        let statement = self.conn.prep(sql).await.map_err(told)?;
        let mut result = self.conn.exec_iter(&statement, ()).await.map_err(told)?;
        while let Some(row) = result.next().await.map_err(told)? {
            put_row(table, row, columns)?;
        }
        drop(result);
        self.conn.close(statement).await.map_err(told)
    }

    /// Whether rows that others hold can be left out by one word.
    fn skips(&self) -> bool {
        !self.flavor.mariadb || self.flavor.number >= (10, 6, 0)
    }
}

/// Rows once each: two keys that a collation holds for one may have come in different statements.
fn once(sink: &mut Sink, batch: Batch, key: &[usize]) -> Batch {
    let mut seen = HashSet::new();
    let mut first = Vec::new();
    for row in 0..batch.rows() {
        let mut text = Vec::new();
        for &c in key {
            sink.writer.literal(Form::of(&batch.table.columns[c]), batch.cell(row, c), &mut text);
            text.push(b',');
        }
        if seen.insert(text) {
            first.push(row);
        }
    }
    if first.len() == batch.rows() { batch } else { batch.select(first.into_iter()) }
}

/// Tables that one statement looks at.
const LOOKED_MAX: usize = 1000;

#[async_trait]
impl Lookup for Sink {
    async fn lookup(&mut self, table: &Arc<Table>, keys: &Batch, lock: RowLock) -> Result<Batch> {
        self.find(table, keys, lock, None).await
    }

    async fn lookup_where(&mut self, table: &Arc<Table>, keys: &Batch, condition: &str) -> Result<Batch> {
        self.find(table, keys, RowLock::None, Some(condition)).await
    }

    async fn count(&mut self, table: &Arc<Table>, keys: &Batch) -> Result<u64> {
        self.send().await?;
        if keys.rows() == 0 {
            return Ok(0);
        }
        let search = Search::new(table, keys)?;
        let condition = search.condition(self, 0..keys.rows());
        let head = format!("SELECT count(*) FROM {} WHERE ", table_sql(&table.name));
        let sql = [head.as_bytes(), &condition].concat();
        let count: Option<u64> = self.conn.query_first(sql).await.map_err(|e| in_table(convert(e), table))?;
        Ok(count.unwrap_or(0))
    }

    async fn scan(&mut self, table: &Arc<Table>, above: Option<(usize, i64)>, limit: usize) -> Result<Batch> {
        self.send().await?;
        let order = above.map_or(String::new(), |(column, least)| {
            let name = quote(&table.columns[column].name);
            format!(" WHERE {name} > {least} ORDER BY {name}")
        });
        let sql = format!("SELECT {} FROM {}{order} LIMIT {limit}", column_list(table), table_sql(&table.name));
        let mut found = vec![Column::default(); table.columns.len()];
        self.rows(sql.as_bytes(), table, &mut found).await?;
        Ok(Batch::new(table.clone(), found))
    }

    async fn holding(&mut self, tables: &[Looked]) -> Result<Vec<bool>> {
        self.send().await?;
        let mut holding = vec![false; tables.len()];
        for (piece, first) in tables.chunks(LOOKED_MAX).zip((0..).step_by(LOOKED_MAX)) {
            let one = |(at, looked): (usize, &Looked)| {
                let bound = looked.above.map_or(String::new(), |(column, than)| {
                    format!(" WHERE {} > {than}", quote(&looked.table.columns[column].name))
                });
                format!("(SELECT {at} FROM {}{bound} LIMIT 1)", table_sql(&looked.table.name))
            };
            let sql = piece.iter().enumerate().map(one).collect::<Vec<_>>().join(" UNION ALL ");
            let found: Vec<usize> = self.conn.query(sql).await.map_err(convert)?;
            for at in found {
                holding[first + at] = true;
            }
        }
        Ok(holding)
    }

    async fn now(&mut self) -> Result<i64> {
        let now: Option<i64> = self.conn.query_first(format!("SELECT {WALL}")).await.map_err(convert)?;
        now.ok_or_else(|| Error::new(ErrorKind::Protocol, "the server tells no time"))
    }
}

impl Sink {
    /// The rows that agree with one of the keys and meet the condition.
    async fn find(
        &mut self,
        table: &Arc<Table>,
        keys: &Batch,
        lock: RowLock,
        condition: Option<&str>,
    ) -> Result<Batch> {
        self.send().await?;
        let filter = condition.map_or(String::new(), |condition| format!("({condition}\n) AND "));
        let search = Search::new(table, keys)?;
        let one_by_one = matches!(lock, RowLock::SkipHeld | RowLock::Keep) && !self.skips();
        let most = match (one_by_one, search.indexed) {
            (true, _) => 1,
            (false, true) => rows_at_once(search.columns.len()),
            (false, false) => usize::MAX,
        };
        let bytes = self.flavor.max_packet / 2;
        let hint = search.unique.clone().unwrap_or_default();
        let head = format!("SELECT {} FROM {}{hint} WHERE {filter}(", column_list(table), table_sql(&table.name));
        let tail = match lock {
            RowLock::None => ")",
            RowLock::Wait => ") FOR UPDATE",
            RowLock::SkipHeld if one_by_one => ") FOR UPDATE NOWAIT",
            RowLock::SkipHeld => ") FOR UPDATE SKIP LOCKED",
            RowLock::Keep if one_by_one => ") LOCK IN SHARE MODE NOWAIT",
            RowLock::Keep if self.flavor.mariadb => ") LOCK IN SHARE MODE SKIP LOCKED",
            RowLock::Keep => ") FOR SHARE SKIP LOCKED",
        };
        let mut found = vec![Column::default(); table.columns.len()];
        let mut row = 0;
        let mut statements = 0;
        while row < keys.rows() {
            let mut upto = row.saturating_add(most).min(keys.rows());
            let mut condition = search.condition(self, row..upto);
            while condition.len() > bytes && upto > row + 1 {
                upto = row + (upto - row) / 2;
                condition = search.condition(self, row..upto);
            }
            let sql = [head.as_bytes(), &condition, tail.as_bytes()].concat();
            match self.rows(&sql, table, &mut found).await {
                Err(e) if one_by_one && e.kind == ErrorKind::Busy => {}
                told => told?,
            }
            row = upto;
            statements += 1;
        }
        let batch = Batch::new(table.clone(), found);
        let repeats = statements > 1 && search.folds && search.unique.is_some();
        Ok(if repeats { once(self, batch, &search.columns) } else { batch })
    }
}
