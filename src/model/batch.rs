//! The unit that is read, sent, applied and acknowledged: typed columns of one table.

use std::sync::Arc;

use super::{Table, Value};

/// Bounds of a batch; whichever is reached first ends it.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// Rows at most.
    pub rows: usize,
    /// Bytes of contents at most, but always at least one row.
    pub bytes: usize,
}

/// Byte strings end to end: one allocation for a column, not one for each value.
#[derive(Debug, Clone, Default)]
pub struct VarBytes {
    data: Vec<u8>,
    ends: Vec<usize>,
}

impl VarBytes {
    /// Appends one.
    pub fn push(&mut self, bytes: &[u8]) {
        self.data.extend_from_slice(bytes);
        self.ends.push(self.data.len());
    }

    /// Appends one that `write` appends to the buffer; it must only append.
    pub fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.data);
        self.ends.push(self.data.len());
    }

    /// Takes the last one off.
    fn pop(&mut self) {
        self.ends.pop();
        self.data.truncate(self.ends.last().copied().unwrap_or(0));
    }

    /// The one at `row`.
    #[must_use]
    pub fn get(&self, row: usize) -> &[u8] {
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        &self.data[start..self.ends[row]]
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes held.
    #[must_use]
    pub fn size(&self) -> usize {
        self.data.len()
    }
}

/// The typed vector of a column. NULLs and escapes have a filler at their place.
#[derive(Debug, Clone)]
enum Carrier {
    Int(Vec<i64>),
    UInt(Vec<u64>),
    Float(Vec<f64>),
    Bytes(VarBytes),
}

/// One column of a batch. The carrier follows from the first value that is pushed.
#[derive(Debug, Clone, Default)]
pub struct Column {
    carrier: Option<Carrier>,
    /// One per row: what stands there.
    state: Vec<State>,
    /// Values outside the column's type, by row, ascending.
    escapes: Vec<(usize, Value)>,
    escape_bytes: usize,
    has_absent: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Present,
    Null,
    Absent,
    Escape,
}

/// A value of a batch, borrowed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cell<'a> {
    /// SQL NULL.
    Null,
    /// Not part of this change (an unchanged large value, a delete that carries only its key).
    Absent,
    /// The `Int` carrier.
    Int(i64),
    /// The `UInt` carrier.
    UInt(u64),
    /// The `Float` carrier.
    Float(f64),
    /// The `Bytes` carrier.
    Bytes(&'a [u8]),
    /// A value outside its column's type.
    Escape(&'a Value),
}

macro_rules! push {
    ($name:ident, $variant:ident, $type:ty, $filler:expr, $doc:literal) => {
        #[doc = $doc]
        pub fn $name(&mut self, value: $type) {
            let rows = self.state.len();
            let carrier = self.carrier.get_or_insert_with(|| Carrier::$variant(vec![$filler; rows]));
            match carrier {
                Carrier::$variant(values) => {
                    values.push(value);
                    self.state.push(State::Present);
                }
                _ => unreachable!("a column has one carrier, by its logical type"),
            }
        }
    };
}

impl Column {
    push!(push_int, Int, i64, 0, "Appends a value of the `Int` carrier.");
    push!(push_uint, UInt, u64, 0, "Appends a value of the `UInt` carrier.");
    push!(push_float, Float, f64, 0.0, "Appends a value of the `Float` carrier.");

    /// Appends a value of the `Bytes` carrier.
    pub fn push_bytes(&mut self, value: &[u8]) {
        self.push_bytes_with(|data| data.extend_from_slice(value));
    }

    /// Appends a value of the `Bytes` carrier that `write` appends to the buffer.
    pub fn push_bytes_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let rows = self.state.len();
        let carrier = self.carrier.get_or_insert_with(|| {
            let mut bytes = VarBytes::default();
            (0..rows).for_each(|_| bytes.push(b""));
            Carrier::Bytes(bytes)
        });
        match carrier {
            Carrier::Bytes(bytes) => {
                bytes.push_with(write);
                self.state.push(State::Present);
            }
            _ => unreachable!("a column has one carrier, by its logical type"),
        }
    }

    /// Appends NULL.
    pub fn push_null(&mut self) {
        self.push_filler(State::Null);
    }

    /// Appends "absent".
    pub fn push_absent(&mut self) {
        self.has_absent = true;
        self.push_filler(State::Absent);
    }

    /// Appends a value outside the column's type.
    pub fn push_escape(&mut self, value: Value) {
        self.escape_bytes += match &value {
            Value::Text(t) => t.len(),
            Value::Bytes(b) => b.len(),
            _ => 8,
        };
        self.escapes.push((self.state.len(), value));
        self.push_filler(State::Escape);
    }

    /// Takes the last value off, as a column of its own.
    fn take_last(&mut self) -> Self {
        let mut last = Self::default();
        let Some(row) = self.len().checked_sub(1) else { return last };
        last.push_cell(self.cell(row));
        if self.state.pop() == Some(State::Escape) {
            self.escapes.pop();
            self.escape_bytes -= last.escape_bytes;
        }
        match &mut self.carrier {
            None => {}
            Some(Carrier::Int(v)) => drop(v.pop()),
            Some(Carrier::UInt(v)) => drop(v.pop()),
            Some(Carrier::Float(v)) => drop(v.pop()),
            Some(Carrier::Bytes(v)) => v.pop(),
        }
        last
    }

    fn push_filler(&mut self, state: State) {
        match &mut self.carrier {
            None => {}
            Some(Carrier::Int(v)) => v.push(0),
            Some(Carrier::UInt(v)) => v.push(0),
            Some(Carrier::Float(v)) => v.push(0.0),
            Some(Carrier::Bytes(v)) => v.push(b""),
        }
        self.state.push(state);
    }

    /// Appends a copy of a cell.
    pub fn push_cell(&mut self, cell: Cell<'_>) {
        match cell {
            Cell::Null => self.push_null(),
            Cell::Absent => self.push_absent(),
            Cell::Int(v) => self.push_int(v),
            Cell::UInt(v) => self.push_uint(v),
            Cell::Float(v) => self.push_float(v),
            Cell::Bytes(v) => self.push_bytes(v),
            Cell::Escape(v) => self.push_escape(v.clone()),
        }
    }

    /// The value at `row`.
    #[inline]
    #[must_use]
    pub fn cell(&self, row: usize) -> Cell<'_> {
        match self.state[row] {
            State::Null => Cell::Null,
            State::Absent => Cell::Absent,
            State::Escape => {
                let at = self.escapes.partition_point(|(r, _)| *r < row);
                Cell::Escape(&self.escapes[at].1)
            }
            State::Present => match &self.carrier {
                Some(Carrier::Int(v)) => Cell::Int(v[row]),
                Some(Carrier::UInt(v)) => Cell::UInt(v[row]),
                Some(Carrier::Float(v)) => Cell::Float(v[row]),
                Some(Carrier::Bytes(v)) => Cell::Bytes(v.get(row)),
                None => Cell::Null,
            },
        }
    }

    /// Whether a value is NULL.
    #[must_use]
    pub fn has_null(&self) -> bool {
        self.state.contains(&State::Null)
    }

    /// Whether a value is outside the column's type.
    #[must_use]
    pub fn has_escapes(&self) -> bool {
        !self.escapes.is_empty()
    }

    /// Whether a value is not part of its change.
    #[must_use]
    pub fn has_absent(&self) -> bool {
        self.has_absent
    }

    /// Rows pushed so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state.len()
    }

    /// Whether nothing was pushed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.state.is_empty()
    }

    /// Bytes held, roughly.
    #[must_use]
    pub fn size(&self) -> usize {
        let carrier = match &self.carrier {
            None => 0,
            Some(Carrier::Int(v)) => v.len() * 8,
            Some(Carrier::UInt(v)) => v.len() * 8,
            Some(Carrier::Float(v)) => v.len() * 8,
            Some(Carrier::Bytes(v)) => v.size() + v.len() * 8,
        };
        carrier + self.state.len() + self.escape_bytes
    }
}

impl Cell<'_> {
    /// A copy that owns its contents. `Bytes` become [`Value::Bytes`], absent becomes NULL.
    #[must_use]
    pub fn to_value(&self) -> Value {
        match self {
            Self::Null | Self::Absent => Value::Null,
            Self::Int(v) => Value::Int(*v),
            Self::UInt(v) => Value::UInt(*v),
            Self::Float(v) => Value::Float(*v),
            Self::Bytes(v) => Value::Bytes(v.to_vec()),
            Self::Escape(v) => (*v).clone(),
        }
    }
}

/// Rows of one table, column by column. `columns` are those of `table`, in its order. A clone
/// shares them.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The table as its reader described it (only the columns that were asked for).
    pub table: Arc<Table>,
    columns: Arc<Vec<Column>>,
    rows: usize,
}

impl Batch {
    /// Puts columns of equal length together.
    ///
    /// # Panics
    /// When the columns are not those of the table or of different length: a reader's mistake.
    #[must_use]
    pub fn new(table: Arc<Table>, columns: Vec<Column>) -> Self {
        let rows = columns.first().map_or(0, Column::len);
        assert!(
            columns.len() == table.columns.len() && columns.iter().all(|c| c.len() == rows),
            "a batch of {} has {} columns of unequal length",
            table.name,
            columns.len()
        );
        Self { table, columns: Arc::new(columns), rows }
    }

    /// Rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The columns.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The columns, owned; a copy where another batch shares them.
    #[must_use]
    pub fn into_columns(self) -> Vec<Column> {
        Arc::unwrap_or_clone(self.columns)
    }

    /// One value.
    #[inline]
    #[must_use]
    pub fn cell(&self, row: usize, column: usize) -> Cell<'_> {
        self.columns[column].cell(row)
    }

    /// Bytes held, roughly.
    #[must_use]
    pub fn size(&self) -> usize {
        self.columns.iter().map(Column::size).sum()
    }

    /// The rows at these positions, in this order.
    #[must_use]
    pub fn select(&self, rows: impl Iterator<Item = usize> + Clone) -> Self {
        let columns: Vec<Column> = self
            .columns
            .iter()
            .map(|column| {
                let mut out = Column::default();
                rows.clone().for_each(|row| out.push_cell(column.cell(row)));
                out
            })
            .collect();
        let count = rows.count();
        Self { table: self.table.clone(), columns: Arc::new(columns), rows: count }
    }

    /// Adds the rows of another batch with the same columns.
    pub fn append(&mut self, other: &Self) {
        if self.rows == 0 {
            self.columns = other.columns.clone();
        } else {
            for (column, more) in Arc::make_mut(&mut self.columns).iter_mut().zip(other.columns()) {
                (0..more.len()).for_each(|row| column.push_cell(more.cell(row)));
            }
        }
        self.rows += other.rows;
    }

    /// The values of one row at these columns.
    #[must_use]
    pub fn values(&self, row: usize, columns: &[usize]) -> Vec<Value> {
        columns.iter().map(|&c| self.cell(row, c).to_value()).collect()
    }
}

/// Fills batches up to their limits.
#[derive(Debug)]
pub struct BatchBuilder {
    table: Arc<Table>,
    limits: BatchLimits,
    /// The columns being filled; push exactly one value to each, then call [`Self::end_row`].
    pub columns: Vec<Column>,
    rows: usize,
}

impl BatchBuilder {
    /// An empty one.
    #[must_use]
    pub fn new(table: Arc<Table>, limits: BatchLimits) -> Self {
        let columns = vec![Column::default(); table.columns.len()];
        Self { table, limits, columns, rows: 0 }
    }

    /// Ends a row; true when the batch is full and must be taken.
    pub fn end_row(&mut self) -> bool {
        self.rows += 1;
        self.rows >= self.limits.rows || self.size() >= self.limits.bytes
    }

    fn size(&self) -> usize {
        self.columns.iter().map(Column::size).sum()
    }

    /// Takes what is there; `None` when there is no row. A last row that is too much stays behind as
    /// the first of the next batch.
    pub fn take(&mut self) -> Option<Batch> {
        if self.rows == 0 {
            return None;
        }
        let too_much = self.rows > 1 && self.size() > self.limits.bytes;
        let rest = if too_much {
            self.columns.iter_mut().map(Column::take_last).collect()
        } else {
            vec![Column::default(); self.table.columns.len()]
        };
        self.rows = usize::from(too_much);
        Some(Batch::new(self.table.clone(), std::mem::replace(&mut self.columns, rest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ColumnDef, LogicalType, TableName};

    #[test]
    fn a_row_that_is_too_much_goes_to_the_next_batch() {
        let columns = ["a", "b"].map(|name| ColumnDef::new(name, LogicalType::Text { max: None, fixed: false }));
        let table = Table::new(TableName::new("t"), columns.to_vec());
        let mut builder = BatchBuilder::new(Arc::new(table), BatchLimits { rows: 3, bytes: 100 });
        let texts = ["x", "yy", &"z".repeat(500), "w", "v", "u", "t"];
        let mut batches = Vec::new();
        for (row, text) in texts.iter().enumerate() {
            builder.columns[0].push_bytes(text.as_bytes());
            if row == 2 {
                builder.columns[1].push_escape(Value::Text("beyond".to_owned()));
            } else {
                builder.columns[1].push_null();
            }
            if builder.end_row() {
                batches.extend(builder.take());
            }
        }
        batches.extend(builder.take());
        assert!(builder.take().is_none());
        let rows: Vec<usize> = batches.iter().map(Batch::rows).collect();
        assert_eq!(rows, [2, 1, 3, 1], "the large one is alone");
        assert!(batches.iter().all(|b| b.rows() == 1 || b.size() <= 100));
        let all: Vec<Value> = batches.iter().flat_map(|b| (0..b.rows()).map(|r| b.cell(r, 0).to_value())).collect();
        assert_eq!(all, texts.map(|t| Value::Bytes(t.as_bytes().to_vec())));
        assert_eq!(batches[1].cell(0, 1), Cell::Escape(&Value::Text("beyond".to_owned())));
        assert!(!batches[0].columns()[1].has_escapes());
    }
}
