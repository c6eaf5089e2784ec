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
    #[inline]
    pub fn push(&mut self, bytes: &[u8]) {
        self.data.extend_from_slice(bytes);
        self.ends.push(self.data.len());
    }

    /// Appends one; the first is taken over as it is.
    fn push_owned(&mut self, bytes: Vec<u8>) {
        if self.data.is_empty() {
            self.data = bytes;
            self.ends.push(self.data.len());
        } else {
            self.push(&bytes);
        }
    }

    /// Appends one that `write` appends to the buffer; it must only append.
    #[inline]
    pub fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.data);
        self.ends.push(self.data.len());
    }

    /// Takes the last one off.
    fn pop(&mut self) {
        self.ends.pop();
        self.data.truncate(self.ends.last().copied().unwrap_or(0));
        // A large one leaves no room behind that nothing fills.
        if self.data.capacity() > 2 * self.data.len() + OWNED {
            self.data.shrink_to_fit();
        }
    }

    /// The one at `row`.
    #[inline]
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

/// Bytes from which a value is worth being taken over rather than copied.
const OWNED: usize = 64 << 10;

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
    /// Bytes that the rows need beside a number each: of texts, bytes and escapes.
    beside: usize,
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
        #[inline]
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
    #[inline]
    pub fn push_bytes(&mut self, value: &[u8]) {
        self.beside += value.len();
        self.bytes().push(value);
        self.state.push(State::Present);
    }

    /// Appends a value of the `Bytes` carrier that `write` appends to the buffer.
    #[inline]
    pub fn push_bytes_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let bytes = self.bytes();
        let before = bytes.size();
        bytes.push_with(write);
        self.beside += bytes.size() - before;
        self.state.push(State::Present);
    }

    /// Appends a value of the `Bytes` carrier that nobody else needs, without a copy of a large one.
    pub fn push_bytes_owned(&mut self, value: Vec<u8>) {
        if value.len() < OWNED {
            return self.push_bytes(&value);
        }
        self.beside += value.len();
        self.bytes().push_owned(value);
        self.state.push(State::Present);
    }

    #[inline]
    fn bytes(&mut self) -> &mut VarBytes {
        let rows = self.state.len();
        let carrier = self.carrier.get_or_insert_with(|| {
            let mut bytes = VarBytes::default();
            (0..rows).for_each(|_| bytes.push(b""));
            Carrier::Bytes(bytes)
        });
        match carrier {
            Carrier::Bytes(bytes) => bytes,
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
        self.beside += match &value {
            Value::Text(t) => t.len(),
            Value::Bytes(b) | Value::RawText(b) => b.len(),
            _ => 8,
        };
        self.escapes.push((self.state.len(), value));
        self.push_filler(State::Escape);
    }

    /// Takes the last value off and puts it into another column.
    fn move_last(&mut self, into: &mut Self) {
        let Some(row) = self.len().checked_sub(1) else { return };
        let before = into.beside;
        into.push_cell(self.cell(row));
        self.beside -= into.beside - before;
        if self.state.pop() == Some(State::Escape) {
            self.escapes.pop();
        }
        match &mut self.carrier {
            None => {}
            Some(Carrier::Int(v)) => drop(v.pop()),
            Some(Carrier::UInt(v)) => drop(v.pop()),
            Some(Carrier::Float(v)) => drop(v.pop()),
            Some(Carrier::Bytes(v)) => v.pop(),
        }
    }

    /// An empty one with room for as much as this one holds, but not for more than so many bytes.
    fn another(&self, bytes: usize) -> Self {
        let rows = self.len().min(bytes);
        let carrier = self.carrier.as_ref().map(|carrier| match carrier {
            Carrier::Int(_) => Carrier::Int(Vec::with_capacity(rows)),
            Carrier::UInt(_) => Carrier::UInt(Vec::with_capacity(rows)),
            Carrier::Float(_) => Carrier::Float(Vec::with_capacity(rows)),
            Carrier::Bytes(v) => Carrier::Bytes(VarBytes {
                // Texts are not always as long as those before.
                data: Vec::with_capacity((v.size() + v.size() / 8).min(bytes)),
                ends: Vec::with_capacity(rows),
            }),
        });
        Self { carrier, state: Vec::with_capacity(rows), ..Self::default() }
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

    /// All values, where none is NULL, absent or outside the column's type.
    #[must_use]
    pub fn plain(&self) -> Option<Plain<'_>> {
        if self.state.iter().any(|state| *state != State::Present) {
            return None;
        }
        Some(match self.carrier.as_ref()? {
            Carrier::Int(v) => Plain::Int(v),
            Carrier::UInt(v) => Plain::UInt(v),
            Carrier::Float(v) => Plain::Float(v),
            Carrier::Bytes(v) => Plain::Bytes(v),
        })
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

    /// Bytes held, roughly: each row is counted with a number and its state.
    #[must_use]
    pub fn size(&self) -> usize {
        self.state.len() * 9 + self.beside
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

/// The values of a column of which each row has one of its type, as they lie in memory.
#[derive(Debug, Clone, Copy)]
pub enum Plain<'a> {
    /// The `Int` carrier.
    Int(&'a [i64]),
    /// The `UInt` carrier.
    UInt(&'a [u64]),
    /// The `Float` carrier.
    Float(&'a [f64]),
    /// The `Bytes` carrier.
    Bytes(&'a VarBytes),
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
        let mut rest: Vec<Column> = self.columns.iter().map(|column| column.another(self.limits.bytes)).collect();
        if too_much {
            self.columns.iter_mut().zip(&mut rest).for_each(|(column, rest)| column.move_last(rest));
        }
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
        let sizes: Vec<usize> = batches.iter().map(Batch::size).collect();
        assert_eq!(sizes, [2 * 18 + 3, 18 + 500 + 6, 3 * 18 + 3, 18 + 1], "what was taken off is not counted twice");
    }

    #[test]
    fn a_value_taken_over_is_what_a_copied_one_is() {
        let values = [vec![], vec![b'a'; OWNED], vec![], vec![b'b'; OWNED + 1], vec![b'c']];
        let (mut owned, mut copied) = (Column::default(), Column::default());
        for column in [&mut owned, &mut copied] {
            column.push_null();
        }
        for value in &values {
            owned.push_bytes_owned(value.clone());
            copied.push_bytes(value);
        }
        assert!((0..=values.len()).all(|row| owned.cell(row) == copied.cell(row)));
        assert_eq!(owned.size(), copied.size());
        assert_eq!(owned.size(), 6 * 9 + 2 * OWNED + 2);
    }
}
