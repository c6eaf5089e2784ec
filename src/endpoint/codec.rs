//! The bytes that nodes exchange: a head in JSON, behind it rows column by column, around both what tells a whole body of
//! ours from anything else.
//!
//! Whoever reads knows the table and takes only what its types allow: nothing that comes over a network decides how
//! much memory is taken before the bytes for it are there.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_128;

use super::comparison::Leaves;
use crate::capture::{Changes, Meant};
use crate::compare::{BUCKETS, Buckets};
use crate::model::{
    Batch, Cell, Column, Digest, Entry, Facet, LogicalType, Move, RangeDigest, Table, Value, Vector, Version,
    decimal_parts,
};

/// What bodies begin with: a name and a version of the form.
const MAGIC: &[u8; 8] = b"rowferr\x01";
const DIGEST: usize = 16;
/// Rows of a batch.
pub const ROWS_MAX: usize = 1 << 20;
/// Bytes of a move.
const MOVE: usize = 8 + Version::BYTES + 1 + 8;
/// Columns that a change may say the writer of.
const FACETS_MAX: usize = 4096;
/// Sites that may have written one row.
const VECTOR_MAX: usize = 4096;

/// Names one exchange: an answer repeats that of its request.
pub type Nonce = u128;

/// Bytes that are no whole body of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the body is no whole body of a rowferry node")]
pub struct Damaged;

type Result<T> = std::result::Result<T, Damaged>;

/// A body that is being written.
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// One with this head.
    #[must_use]
    pub fn new(nonce: Nonce, head: &impl Serialize) -> Self {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(nonce.to_le_bytes());
        // What is put there always becomes JSON.
        let head = serde_json::to_vec(head).unwrap_or_default();
        let mut writer = Self { bytes };
        writer.len(head.len());
        writer.bytes.extend(head);
        writer
    }

    fn len(&mut self, len: usize) {
        // More than this is beyond every limit on bodies, and is refused where it is read.
        self.bytes.extend(u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
    }

    /// Adds rows.
    pub fn batch(&mut self, batch: &Batch) {
        self.len(batch.rows());
        for column in batch.columns() {
            self.column(column);
        }
    }

    fn column(&mut self, column: &Column) {
        let cells = || (0..column.len()).map(|row| column.cell(row));
        let whole = !column.has_null() && !column.has_absent() && !column.has_escapes();
        self.bytes.push(u8::from(!whole));
        if !whole {
            self.bytes.extend(cells().map(|cell| match cell {
                Cell::Null => NULL,
                Cell::Absent => ABSENT,
                Cell::Escape(_) => ESCAPE,
                _ => PRESENT,
            }));
        }
        for cell in cells() {
            match cell {
                Cell::Int(v) => self.bytes.extend(v.to_le_bytes()),
                Cell::UInt(v) => self.bytes.extend(v.to_le_bytes()),
                Cell::Float(v) => self.bytes.extend(v.to_bits().to_le_bytes()),
                Cell::Bytes(v) => self.len(v.len()),
                Cell::Escape(v) => self.escape(v),
                Cell::Null | Cell::Absent => {}
            }
        }
        for cell in cells() {
            if let Cell::Bytes(v) = cell {
                self.bytes.extend(v);
            }
        }
    }

    fn escape(&mut self, value: &Value) {
        match value {
            Value::Null => self.bytes.push(0),
            Value::Int(v) => {
                self.bytes.push(1);
                self.bytes.extend(v.to_le_bytes());
            }
            Value::UInt(v) => {
                self.bytes.push(2);
                self.bytes.extend(v.to_le_bytes());
            }
            Value::Float(v) => {
                self.bytes.push(3);
                self.bytes.extend(v.to_bits().to_le_bytes());
            }
            Value::Text(v) => {
                self.bytes.push(4);
                self.len(v.len());
                self.bytes.extend(v.as_bytes());
            }
            Value::Bytes(v) => {
                self.bytes.push(5);
                self.len(v.len());
                self.bytes.extend(v);
            }
            Value::RawText(v) => {
                self.bytes.push(6);
                self.len(v.len());
                self.bytes.extend(v);
            }
        }
    }

    /// Adds changes.
    pub fn changes(&mut self, changes: &Changes) {
        self.batch(&changes.keys);
        self.batch(&changes.rows);
        for ((entry, row), left) in changes.entries.iter().zip(&changes.row_of).zip(&changes.left) {
            self.entry(entry);
            // 0 stands for none.
            self.len(row.map_or(0, |row| row + 1));
            self.bytes.push(u8::from(*left));
        }
        self.len(changes.moves.len());
        for Move { number, birth, to } in &changes.moves {
            self.bytes.extend(number.to_le_bytes());
            self.bytes.extend(birth.to_bytes());
            self.bytes.push(u8::from(to.is_some()));
            self.bytes.extend(to.unwrap_or(0).to_le_bytes());
        }
        self.len(changes.meant.len());
        for Meant { column, parent, births } in &changes.meant {
            self.len(*column);
            self.len(*parent);
            for birth in births {
                self.bytes.extend(birth.to_bytes());
            }
        }
    }

    /// Adds leaves of a comparison.
    pub fn leaves(&mut self, leaves: &Leaves) {
        self.batch(&leaves.upto);
        self.bytes.extend(leaves.first.to_le_bytes());
        self.len(leaves.digests.len());
        for digest in &leaves.digests {
            self.bytes.push(u8::from(digest.is_some()));
            if let Some(digest) = digest {
                self.sum(*digest);
            }
        }
    }

    /// Adds what was counted of a table.
    pub fn buckets(&mut self, buckets: &Buckets) {
        buckets.sums().iter().for_each(|sum| self.sum(*sum));
    }

    fn sum(&mut self, digest: RangeDigest) {
        self.bytes.extend(digest.rows.to_le_bytes());
        self.bytes.extend(digest.sum.to_le_bytes());
    }

    fn entry(&mut self, entry: &Entry) {
        self.bytes.extend(entry.version.to_bytes());
        self.bytes.extend(entry.birth.to_bytes());
        self.len(entry.vector.versions().len());
        self.bytes.extend(entry.vector.to_bytes());
        self.bytes.push(u8::from(entry.digest.is_some()));
        if let Some(digest) = entry.digest {
            self.bytes.extend(digest.0.to_le_bytes());
        }
        self.len(entry.columns.len());
        for facet in &entry.columns {
            self.bytes.extend(facet.version.to_bytes());
            self.bytes.extend(facet.digest.0.to_le_bytes());
        }
    }

    /// The body.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        let digest = xxh3_128(&self.bytes);
        self.bytes.extend(digest.to_le_bytes());
        self.bytes
    }
}

const PRESENT: u8 = 0;
const NULL: u8 = 1;
const ABSENT: u8 = 2;
const ESCAPE: u8 = 3;

/// A body that is being read.
pub struct Reader<'a> {
    /// The exchange that it belongs to.
    pub nonce: Nonce,
    head: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Looks whether it is whole and one of ours.
    ///
    /// # Errors
    /// [`Damaged`].
    pub fn new(body: &'a [u8]) -> Result<Self> {
        let (contents, digest) = body.split_last_chunk::<DIGEST>().ok_or(Damaged)?;
        if u128::from_le_bytes(*digest) != xxh3_128(contents) {
            return Err(Damaged);
        }
        let rest = contents.strip_prefix(MAGIC.as_slice()).ok_or(Damaged)?;
        let mut reader = Self { nonce: 0, head: &[], rest };
        reader.nonce = u128::from_le_bytes(reader.chunk()?);
        let head = reader.len()?;
        reader.head = reader.take(head)?;
        Ok(reader)
    }

    /// The head.
    ///
    /// # Errors
    /// [`Damaged`] where it is another than expected.
    pub fn head<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(self.head).map_err(|_| Damaged)
    }

    /// Whether nothing more stands there.
    ///
    /// # Errors
    /// [`Damaged`] where something does.
    pub fn end(&self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(Damaged) }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Damaged)?;
        self.rest = rest;
        Ok(taken)
    }

    fn chunk<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Damaged)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8> {
        self.chunk::<1>().map(|[byte]| byte)
    }

    fn flag(&mut self) -> Result<bool> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Damaged),
        }
    }

    fn len(&mut self) -> Result<usize> {
        usize::try_from(u32::from_le_bytes(self.chunk()?)).map_err(|_| Damaged)
    }

    /// So many things of at least `each` bytes: no more than there can be.
    fn count(&mut self, each: usize) -> Result<usize> {
        let count = self.len()?;
        if count.checked_mul(each).is_some_and(|bytes| bytes <= self.rest.len()) { Ok(count) } else { Err(Damaged) }
    }

    /// Rows of this table.
    ///
    /// # Errors
    /// [`Damaged`] where they are none.
    pub fn batch(&mut self, table: &Arc<Table>) -> Result<Batch> {
        // Each value takes a byte at least.
        let rows = self.count(table.columns.len().max(1))?;
        if rows > ROWS_MAX {
            return Err(Damaged);
        }
        let columns: Vec<Column> =
            table.columns.iter().map(|column| self.column(&column.logical, rows)).collect::<Result<_>>()?;
        let batch = Batch::new(table.clone(), columns);
        if batch.rows() == rows { Ok(batch) } else { Err(Damaged) }
    }

    fn column(&mut self, logical: &LogicalType, rows: usize) -> Result<Column> {
        let states = if self.flag()? { Some(self.take(rows)?) } else { None };
        let state = |row: usize| states.map_or(PRESENT, |states| states[row]);
        let carrier = Carrier::of(logical);
        let mut column = Column::default();
        let mut values = Vec::new();
        for row in 0..rows {
            values.push(match state(row) {
                NULL => Read::Null,
                ABSENT => Read::Absent,
                ESCAPE => Read::Escape(self.escape()?),
                PRESENT => match carrier {
                    Carrier::Int => Read::Int(i64::from_le_bytes(self.chunk()?)),
                    Carrier::UInt => Read::UInt(u64::from_le_bytes(self.chunk()?)),
                    Carrier::Float => Read::Float(f64::from_bits(u64::from_le_bytes(self.chunk()?))),
                    Carrier::Bytes => Read::Bytes(self.len()?),
                    Carrier::None => return Err(Damaged),
                },
                _ => return Err(Damaged),
            });
        }
        for value in values {
            match value {
                Read::Null => column.push_null(),
                Read::Absent => column.push_absent(),
                Read::Escape(value) => column.push_escape(value),
                Read::Int(v) if is_whole(logical, v) => column.push_int(v),
                Read::UInt(v) => column.push_uint(v),
                Read::Float(v) => column.push_float(v),
                Read::Bytes(len) => {
                    let bytes = self.take(len)?;
                    if !is_text(logical, bytes) {
                        return Err(Damaged);
                    }
                    column.push_bytes(bytes);
                }
                Read::Int(_) => return Err(Damaged),
            }
        }
        Ok(column)
    }

    fn escape(&mut self) -> Result<Value> {
        Ok(match self.byte()? {
            0 => Value::Null,
            1 => Value::Int(i64::from_le_bytes(self.chunk()?)),
            2 => Value::UInt(u64::from_le_bytes(self.chunk()?)),
            3 => Value::Float(f64::from_bits(u64::from_le_bytes(self.chunk()?))),
            4 => {
                let len = self.len()?;
                Value::Text(std::str::from_utf8(self.take(len)?).map_err(|_| Damaged)?.to_owned())
            }
            5 => {
                let len = self.len()?;
                Value::Bytes(self.take(len)?.to_vec())
            }
            6 => {
                let len = self.len()?;
                Value::RawText(self.take(len)?.to_vec())
            }
            _ => return Err(Damaged),
        })
    }

    /// Changes of a table with these keys and columns.
    ///
    /// # Errors
    /// [`Damaged`] where they are none.
    pub fn changes(&mut self, keys: &Arc<Table>, columns: &Arc<Table>) -> Result<Changes> {
        let (keys, rows) = (self.batch(keys)?, self.batch(columns)?);
        let mut changes = Changes::of(keys, rows);
        for _ in 0..changes.keys.rows() {
            let entry = self.entry()?;
            let row = self.len()?.checked_sub(1);
            let left = self.flag()?;
            // A row that stands is sent, or has left; under a tombstone there is none.
            let sound = match row {
                Some(row) => row < changes.rows.rows() && !left,
                None => entry.digest.is_none() || left,
            };
            if !sound || (entry.digest.is_none() && row.is_some()) {
                return Err(Damaged);
            }
            changes.entries.push(entry);
            changes.row_of.push(row);
            changes.left.push(left);
        }
        for _ in 0..self.count(MOVE)? {
            let (number, birth) = (i64::from_le_bytes(self.chunk()?), self.version()?);
            let (known, to) = (self.flag()?, i64::from_le_bytes(self.chunk()?));
            changes.moves.push(Move { number, birth, to: known.then_some(to) });
        }
        for _ in 0..self.count(2)? {
            let (column, parent) = (self.len()?, self.len()?);
            let births = (0..changes.rows.rows()).map(|_| self.version()).collect::<Result<_>>()?;
            if column >= columns.columns.len() {
                return Err(Damaged);
            }
            changes.meant.push(Meant { column, parent, births });
        }
        Ok(changes)
    }

    /// Leaves of a comparison whose rows are told apart by these columns.
    ///
    /// # Errors
    /// [`Damaged`] where they are none.
    pub fn leaves(&mut self, keys: &Arc<Table>) -> Result<Leaves> {
        let (upto, first) = (self.batch(keys)?, u64::from_le_bytes(self.chunk()?));
        let count = self.count(1)?;
        let digest = |_| Ok(if self.flag()? { Some(self.sum()?) } else { None });
        let digests = (0..count).map(digest).collect::<Result<Vec<_>>>()?;
        // No more of them than a number can count.
        let sound = (upto.rows()..=upto.rows() + 1).contains(&count) && first.checked_add(count as u64).is_some();
        if sound { Ok(Leaves { first, upto, digests }) } else { Err(Damaged) }
    }

    /// What was counted of a table.
    ///
    /// # Errors
    /// [`Damaged`] where it is not that.
    pub fn buckets(&mut self) -> Result<Buckets> {
        let sums = (0..BUCKETS).map(|_| self.sum()).collect::<Result<_>>()?;
        Buckets::of(sums).ok_or(Damaged)
    }

    fn sum(&mut self) -> Result<RangeDigest> {
        Ok(RangeDigest { rows: u64::from_le_bytes(self.chunk()?), sum: u128::from_le_bytes(self.chunk()?) })
    }

    fn version(&mut self) -> Result<Version> {
        Version::from_bytes(&self.chunk::<{ Version::BYTES }>()?).map_err(|_| Damaged)
    }

    fn entry(&mut self) -> Result<Entry> {
        let (version, birth) = (self.version()?, self.version()?);
        let sites = self.count(Version::BYTES)?;
        let vector = Vector::from_bytes(self.take(sites * Version::BYTES)?).map_err(|_| Damaged)?;
        let digest = if self.flag()? { Some(self.digest()?) } else { None };
        let facets = self.count(Version::BYTES + DIGEST)?;
        if sites > VECTOR_MAX || facets > FACETS_MAX {
            return Err(Damaged);
        }
        let facet = |_| Ok(Facet { version: self.version()?, digest: self.digest()? });
        let columns = (0..facets).map(facet).collect::<Result<_>>()?;
        Ok(Entry { version, birth, vector, digest, columns })
    }

    fn digest(&mut self) -> Result<Digest> {
        Ok(Digest(u128::from_le_bytes(self.chunk()?)))
    }
}

/// What was read of a value; of bytes so far their length.
enum Read {
    Null,
    Absent,
    Escape(Value),
    Int(i64),
    UInt(u64),
    Float(f64),
    Bytes(usize),
}

/// How values of a type are held.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Carrier {
    None,
    Int,
    UInt,
    Float,
    Bytes,
}

impl Carrier {
    fn of(logical: &LogicalType) -> Self {
        use LogicalType as T;
        match logical {
            T::Int { bits: 64, unsigned: true } => Self::UInt,
            T::Bool | T::Int { .. } | T::Date | T::Time { .. } | T::Duration { .. } | T::Timestamp { .. } => Self::Int,
            T::Float { .. } => Self::Float,
            T::Any => Self::None,
            _ => Self::Bytes,
        }
    }
}

/// Days beyond those of any engine.
const DAYS_MAX: i64 = 2_200_000_000;

/// Whether a number is one of this type.
fn is_whole(logical: &LogicalType, v: i64) -> bool {
    match logical {
        LogicalType::Bool => v == 0 || v == 1,
        LogicalType::Int { bits, unsigned: true } => v >= 0 && v.checked_shr((*bits).into()).unwrap_or(0) == 0,
        LogicalType::Int { bits, unsigned: false } if *bits < 64 => {
            let half = 1_i64 << bits.saturating_sub(1).min(62);
            (-half..half).contains(&v)
        }
        LogicalType::Date => (-DAYS_MAX..=DAYS_MAX).contains(&v),
        _ => true,
    }
}

/// Whether bytes are of this type.
fn is_text(logical: &LogicalType, bytes: &[u8]) -> bool {
    use LogicalType as T;
    if matches!(logical, T::Binary { .. }) {
        return true;
    }
    if *logical == T::Uuid {
        return bytes.len() == 16;
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    match logical {
        T::Bits { .. } => text.bytes().all(|b| matches!(b, b'0' | b'1')),
        T::Decimal { .. } => {
            let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
            matches!(text, "NaN" | "Infinity" | "-Infinity")
                || (decimal_parts(text).is_some_and(|(_, whole, fraction)| digits(whole) && digits(fraction))
                    && !text.ends_with('.'))
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ColumnDef, TableName};

    fn types() -> Vec<LogicalType> {
        use LogicalType as T;
        vec![
            T::Int { bits: 64, unsigned: false },
            T::Bool,
            T::Int { bits: 64, unsigned: true },
            T::Int { bits: 24, unsigned: true },
            T::Float { bits: 64 },
            T::Decimal { precision: None, scale: None },
            T::Text { max: None, fixed: false },
            T::Binary { max: None, fixed: false },
            T::Bits { len: None, varying: true },
            T::Uuid,
            T::Date,
            T::Timestamp { digits: 6, zoned: true },
            T::Any,
        ]
    }

    fn table() -> Arc<Table> {
        let columns = types().into_iter().enumerate().map(|(at, t)| ColumnDef::new(&format!("c{at}"), t));
        Arc::new(Table::new(TableName::new("t"), columns.collect()))
    }

    fn keys() -> Arc<Table> {
        Arc::new(table().project(&[0, 6]))
    }

    fn rows() -> Batch {
        let mut columns = vec![Column::default(); types().len()];
        for (row, decimal) in (0_i64..).zip(["-0.10", "NaN", "12", "Infinity", "99999999999999999999.9"]) {
            columns[0].push_int(i64::MIN + row);
            columns[1].push_int(row % 2);
            columns[2].push_uint(u64::MAX - row.unsigned_abs());
            columns[3].push_int((1 << 24) - 1 - row);
            columns[4].push_float(if row == 3 { f64::NAN } else { -0.0 });
            columns[5].push_bytes(decimal.as_bytes());
            columns[6].push_bytes("naïve ☕".as_bytes());
            columns[7].push_bytes(&[0, 255, 0]);
            columns[8].push_bytes(b"0101");
            columns[9].push_bytes(&[7; 16]);
            columns[10].push_int(-719_529);
            columns[11].push_int(row);
            columns[12].push_escape(match row {
                0 => Value::Int(5),
                1 => Value::Text("five".to_owned()),
                2 => Value::Bytes(vec![0, 1]),
                3 => Value::Float(5.5),
                _ => Value::UInt(5),
            });
        }
        for (at, column) in columns.iter_mut().enumerate() {
            if at % 3 == 0 { column.push_null() } else { column.push_absent() }
        }
        Batch::new(table(), columns)
    }

    fn version(clock: u64, id: u64) -> Version {
        let mut bytes = [0; Version::BYTES];
        bytes[..8].copy_from_slice(&clock.to_be_bytes());
        bytes[8..16].copy_from_slice(&id.to_be_bytes());
        bytes[19] = 1;
        Version::from_bytes(&bytes).expect("a version")
    }

    fn changes() -> Changes {
        let rows = rows().select(0..2);
        let mut columns = vec![Column::default(); 2];
        for at in 0..4 {
            columns[0].push_int(at);
            columns[1].push_bytes(b"key");
        }
        let mut vector = Vector::default();
        vector.add(version(5, 1));
        vector.add(version(9, 2));
        let entry = |digest, facets| Entry {
            version: version(9, 2),
            birth: Version::BASE,
            vector: vector.clone(),
            digest,
            columns: vec![Facet { version: version(5, 1), digest: Digest(3) }; facets],
        };
        Changes {
            keys: Batch::new(keys(), columns),
            entries: vec![
                entry(Some(Digest(1)), 2),
                entry(Some(Digest(2)), 0),
                entry(None, 0),
                entry(Some(Digest(4)), 0),
            ],
            rows,
            row_of: vec![Some(1), Some(0), None, None],
            left: vec![false, false, false, true],
            moves: vec![
                Move { number: 5, birth: version(5, 1), to: Some(-9) },
                Move { number: i64::MAX, birth: version(9, 2), to: None },
            ],
            meant: vec![Meant { column: 1, parent: 3, births: vec![version(9, 2), Version::BASE] }],
        }
    }

    fn leaves() -> Leaves {
        let mut upto = vec![Column::default(); 2];
        upto[0].push_int(7);
        upto[1].push_bytes(b"key");
        upto.iter_mut().for_each(Column::push_null);
        let sum = |rows| Some(RangeDigest { rows, sum: u128::MAX - u128::from(rows) });
        Leaves { first: 12, upto: Batch::new(keys(), upto), digests: vec![sum(256), None, sum(0)] }
    }

    fn buckets() -> Buckets {
        let mut buckets = Buckets::default();
        buckets.add([Digest(5), Digest(u128::MAX), Digest(u128::MAX)].into_iter());
        buckets
    }

    fn body() -> Vec<u8> {
        let mut writer = Writer::new(77, &("head", 5));
        writer.batch(&rows());
        writer.changes(&changes());
        writer.leaves(&leaves());
        writer.finish()
    }

    type Contents = (Nonce, (String, u32), Batch, Changes, Leaves);

    fn read(body: &[u8]) -> Result<Contents> {
        let mut reader = Reader::new(body)?;
        let (nonce, head) = (reader.nonce, reader.head()?);
        let (batch, changes) = (reader.batch(&table())?, reader.changes(&keys(), &table())?);
        let leaves = reader.leaves(&keys())?;
        reader.end()?;
        Ok((nonce, head, batch, changes, leaves))
    }

    fn same(a: &Batch, b: &Batch) -> bool {
        let bits = |cell: Cell<'_>| match cell {
            Cell::Float(v) => format!("{}", v.to_bits()),
            other => format!("{other:?}"),
        };
        a.rows() == b.rows()
            && (0..a.rows()).all(|row| (0..a.columns().len()).all(|at| bits(a.cell(row, at)) == bits(b.cell(row, at))))
    }

    #[test]
    fn rows_and_changes_come_back_as_they_were() {
        let (nonce, head, batch, back, told) = read(&body()).expect("a body");
        assert_eq!((nonce, head), (77, ("head".to_owned(), 5)));
        assert!(same(&batch, &rows()));
        let sent = changes();
        assert!(same(&back.keys, &sent.keys) && same(&back.rows, &sent.rows));
        assert_eq!((back.entries, back.row_of, back.left), (sent.entries, sent.row_of, sent.left));
        assert_eq!((back.moves, back.meant), (sent.moves, sent.meant));
        assert!(same(&told.upto, &leaves().upto) && told.are_last());
        assert_eq!((told.first, told.digests), (12, leaves().digests));
    }

    #[test]
    fn buckets_come_back_as_they_were_or_not_at_all() {
        let mut writer = Writer::new(77, &());
        writer.buckets(&buckets());
        let body = writer.finish();
        assert_eq!(Reader::new(&body).and_then(|mut reader| reader.buckets()), Ok(buckets()));
        let contents = &body[..body.len() - DIGEST - 1];
        let cut = [contents, &xxh3_128(contents).to_le_bytes()].concat();
        assert_eq!(Reader::new(&cut).and_then(|mut reader| reader.buckets()), Err(Damaged));
    }

    #[test]
    fn a_cut_or_changed_body_is_none() {
        let whole = body();
        for len in 0..whole.len() {
            assert!(read(&whole[..len]).is_err(), "cut at {len}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x40;
            assert!(read(&changed).is_err(), "changed at {at}");
        }
    }

    /// What is sound by its digest and wrong in itself: from seeded changes of a sound body.
    #[test]
    fn whatever_comes_is_read_or_refused_within_its_own_size() {
        let whole = body();
        let contents = &whole[..whole.len() - DIGEST];
        let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
        let mut dice = move |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            usize::try_from(seed % (below.max(1) as u64)).unwrap_or(0)
        };
        let (mut read_well, mut refused) = (0, 0);
        for _ in 0..200_000 {
            let mut bytes = contents.to_vec();
            for _ in 0..=dice(3) {
                let at = MAGIC.len() + dice(bytes.len() - MAGIC.len());
                match dice(4) {
                    0 => bytes[at] = [0, 1, 2, 3, 0x7F, 0x80, 0xFF][dice(7)],
                    1 => bytes.truncate(at),
                    2 => bytes.insert(at, 0xFF),
                    _ => {
                        let end = (at + 4).min(bytes.len());
                        bytes[at..end].fill(0xFF);
                    }
                }
                if bytes.len() <= MAGIC.len() {
                    break;
                }
            }
            let digest = xxh3_128(&bytes);
            bytes.extend(digest.to_le_bytes());
            match read(&bytes) {
                Ok((_, _, batch, changes, leaves)) => {
                    read_well += 1;
                    assert!(leaves.digests.len() <= leaves.upto.rows() + 1);
                    let size = batch.size() + changes.rows.size() + changes.keys.size() + leaves.upto.size();
                    assert!(size <= 16 * bytes.len(), "{size} bytes of {}", bytes.len());
                }
                Err(Damaged) => refused += 1,
            }
        }
        assert!(read_well > 1_000 && refused > 1_000, "{read_well} read, {refused} refused");
    }
}
