//! An empty database of one engine, and how the clauses make tables, write and read.

use std::sync::Arc;

use rowferry::engine::memory::Memory;
use rowferry::engine::{
    Database, Error, OpenOptions, ReadRequest, Result, Selection, Target, WriteMode, WriteOptions, open,
};
use rowferry::model::{
    Batch, BatchLimits, Cell, Column, ColumnDef, Key, LogicalType, Table, TableName, Value, decimal_parts, fit, render,
};

use crate::support::{Engine, TestDb};

/// A row with each value as text; `None` is NULL.
pub type Row = Vec<Option<String>>;

/// Enough for all rows of a clause in one batch.
pub const LIMITS: BatchLimits = BatchLimits { rows: 100_000, bytes: 1 << 26 };

/// A database that goes away with this value.
pub struct Subject {
    pub db: Arc<dyn Database>,
    server: Option<TestDb>,
    memory: Option<Memory>,
}

impl Subject {
    /// In memory, of this name.
    pub fn in_memory(name: &str) -> Self {
        let memory = Memory::new(name);
        Self { db: Arc::new(memory.clone()), server: None, memory: Some(memory) }
    }

    /// On a server or in a file; `None` where the run was told to leave that engine out.
    pub async fn new(engine: Engine) -> Option<Self> {
        if engine.is_left_out() {
            return None;
        }
        let server = TestDb::new(engine);
        let db = open(server.url(), &OpenOptions { create: true, ..OpenOptions::default() })
            .await
            .expect("the database opens");
        Some(Self { db, server: Some(server), memory: None })
    }

    /// What is written from now on is later than what was: SQLite's clock counts milliseconds, that of a database in
    /// memory stands still.
    pub fn later(&self) {
        match &self.memory {
            Some(memory) => memory.set_now(1_000_000),
            None => std::thread::sleep(std::time::Duration::from_millis(5)),
        }
    }

    /// Its server, for what needs SQL.
    pub fn server(&self) -> &TestDb {
        self.server.as_ref().expect("a clause that needs SQL")
    }

    /// Whether it is a SQLite file.
    pub fn is_file(&self) -> bool {
        self.server.as_ref().is_some_and(|s| s.engine() == Engine::Sqlite)
    }

    /// The table, mapped and made; its description is what was mapped.
    pub async fn make(&self, wanted: &Table) -> Made {
        let mut mapped = wanted.clone();
        mapped.columns = wanted.columns.iter().map(|c| self.db.map_column(wanted, c).column).collect();
        let ddl = self.db.ddl(&mapped);
        assert_eq!(ddl.left_out, Vec::<String>::new(), "{}", wanted.name);
        let mut target = self.db.target().await.expect("a connection");
        for statement in ddl.create.iter().chain(&ddl.after_rows).chain(&ddl.foreign_keys) {
            target.execute(statement).await.unwrap_or_else(|e| panic!("{e}\nin: {statement}"));
        }
        let table = self.db.describe(&wanted.name).await.expect("it is described").expect("it is there");
        self.assert_as_mapped(&table, &mapped);
        Made { wanted: wanted.clone(), table: Arc::new(table) }
    }

    /// A description says what was mapped (its type text may be another spelling), and is exact here.
    fn assert_as_mapped(&self, described: &Table, mapped: &Table) {
        assert_eq!(described.columns.len(), mapped.columns.len());
        for (described_column, wanted) in described.columns.iter().zip(&mapped.columns) {
            let spelled = ColumnDef { native: described_column.native.clone(), ..wanted.clone() };
            assert_eq!(*described_column, spelled, "{} is as it was mapped", mapped.name);
            let again = self.db.map_column(described, described_column);
            assert_eq!((&again.column, &again.loss), (described_column, &None), "{} would stay", mapped.name);
        }
    }

    /// A transaction that has begun.
    pub async fn begun(&self) -> Box<dyn Target> {
        let mut target = self.db.target().await.expect("a connection");
        target.begin(WriteOptions { defer_foreign_keys: true, ..WriteOptions::default() }).await.expect("it begins");
        target
    }

    /// Writes and commits.
    pub async fn write(&self, mode: WriteMode, made: &Made, rows: &[Vec<Value>]) -> Result<u64> {
        let mut target = self.begun().await;
        let count = target.write(mode, &made.batch(rows)).await?;
        target.commit().await?;
        Ok(count)
    }

    /// Reads at a point of its own.
    pub async fn read(&self, request: &ReadRequest) -> Result<Vec<Batch>> {
        let snapshot = self.db.snapshot().await?;
        let mut source = snapshot.source().await?;
        source.check(request).await?;
        let mut stream = source.read(request).await?;
        let mut batches = Vec::new();
        while let Some(batch) = stream.next().await? {
            assert!(batch.rows() > 0, "a batch is never empty");
            batches.push(batch);
        }
        Ok(batches)
    }

    /// All rows, ordered by their key where there is one, else by their text.
    pub async fn rows(&self, made: &Made) -> Vec<Row> {
        let ordered = made.table.row_key().is_some();
        let batches = self.read(&made.request(ordered)).await.expect("it is read");
        let mut rows: Vec<Row> = batches.iter().flat_map(|b| made.shown(b)).collect();
        if !ordered {
            rows.sort();
        }
        rows
    }
}

/// A table at hand: as it was wanted and as it was made.
pub struct Made {
    pub wanted: Table,
    pub table: Arc<Table>,
}

impl Made {
    /// A batch of these rows, given as the wanted types hold them.
    pub fn batch(&self, rows: &[Vec<Value>]) -> Batch {
        let mut columns = vec![Column::default(); self.wanted.columns.len()];
        for row in rows {
            for ((column, def), value) in columns.iter_mut().zip(&self.wanted.columns).zip(row) {
                column.push_cell(cell(&def.logical, value));
            }
        }
        let fitted = columns.into_iter().enumerate().map(|(at, data)| {
            let (data, misfits) = fit(&self.wanted.columns[at].logical, &self.table.columns[at].logical, data, false);
            assert_eq!(misfits, [], "{}", self.wanted.columns[at].name);
            data
        });
        Batch::new(self.table.clone(), fitted.collect())
    }

    /// A request for all of it.
    pub fn request(&self, ordered: bool) -> ReadRequest {
        ReadRequest { table: self.table.clone(), filter: None, rows: Selection::All, ordered, limits: LIMITS }
    }

    /// The rows of a batch as text of the wanted types.
    pub fn shown(&self, batch: &Batch) -> Vec<Row> {
        let columns: Vec<Column> = (0..batch.columns().len())
            .map(|at| {
                let (from, to) = (&self.table.columns[at].logical, &self.wanted.columns[at].logical);
                fit(from, to, batch.columns()[at].clone(), from == to).0
            })
            .collect();
        let row = |row: usize| {
            columns.iter().zip(&self.wanted.columns).map(|(c, def)| text(&def.logical, c.cell(row))).collect()
        };
        (0..batch.rows()).map(row).collect()
    }

    /// Rows as text, to compare with.
    pub fn expected(&self, rows: &[Vec<Value>]) -> Vec<Row> {
        let row = |row: &Vec<Value>| {
            row.iter().zip(&self.wanted.columns).map(|(v, c)| text(&c.logical, cell(&c.logical, v))).collect()
        };
        rows.iter().map(row).collect()
    }
}

/// A value as a cell of this type.
pub fn cell<'a>(logical: &LogicalType, value: &'a Value) -> Cell<'a> {
    match value {
        Value::Null => Cell::Null,
        Value::RawText(_) => Cell::Escape(value),
        _ if *logical == LogicalType::Any => Cell::Escape(value),
        Value::Int(v) => Cell::Int(*v),
        Value::UInt(v) => Cell::UInt(*v),
        Value::Float(v) => Cell::Float(*v),
        Value::Text(v) => Cell::Bytes(v.as_bytes()),
        Value::Bytes(v) => Cell::Bytes(v),
    }
}

/// A cell as text, a decimal without the zeros that say nothing.
fn text(logical: &LogicalType, cell: Cell<'_>) -> Option<String> {
    let text = render(logical, cell)?;
    match (logical, cell, decimal_parts(&text)) {
        (LogicalType::Decimal { .. }, Cell::Bytes(_), Some((negative, whole, fraction))) => {
            Some(format!("{}{whole}.{fraction}", if negative { "-" } else { "" }))
        }
        (LogicalType::Any, Cell::Escape(value), _) => Some(format!("{value:?}")),
        (_, Cell::Escape(value), _) => Some(format!("beyond its type: {value:?}")),
        _ => Some(text),
    }
}

/// A table of these columns; those of the key are not null.
pub fn table(name: &str, columns: &[(&str, LogicalType)], key: &[usize]) -> Table {
    let mut columns: Vec<ColumnDef> =
        columns.iter().map(|(name, logical)| ColumnDef::new(name, logical.clone())).collect();
    for &at in key {
        columns[at].nullable = false;
    }
    Table {
        primary_key: (!key.is_empty()).then(|| Key { columns: key.to_vec() }),
        ..Table::new(TableName::new(name), columns)
    }
}

/// Number and text under a numeric key.
pub fn plain(name: &str) -> Table {
    table(name, &[("id", INT), ("note", TEXT)], &[0])
}

pub const INT: LogicalType = LogicalType::Int { bits: 64, unsigned: false };
pub const TEXT: LogicalType = LogicalType::Text { max: None, fixed: false };

/// A row of [`plain`].
pub fn note(id: i64, note: &str) -> Vec<Value> {
    vec![Value::Int(id), Value::Text(note.to_owned())]
}

/// The kind of an error, for comparing.
pub fn kind<T>(result: Result<T>) -> Option<rowferry::engine::ErrorKind> {
    result.err().map(|e: Error| e.kind)
}
