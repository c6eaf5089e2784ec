//! What is equal, and digests that agree with it: two values have one digest exactly when they are equal, on whatever
//! engines they stand.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::{Batch, Cell, LogicalType, Value, cell_order, decimal_parts};

/// A 128-bit digest (XXH3). Not cryptographic: it tells honest rows apart, not forged ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord, Hash)]
pub struct Digest(pub u128);

/// Digest of a set of rows: their number and the *sum* of their digests. A sum, not XOR: two rows
/// with the same change would cancel out under XOR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RangeDigest {
    /// Rows.
    pub rows: u64,
    /// Sum of their digests, modulo 2^128.
    pub sum: u128,
}

impl RangeDigest {
    /// Takes a row in.
    pub fn add(&mut self, digest: Digest) {
        self.rows += 1;
        self.sum = self.sum.wrapping_add(digest.0);
    }

    /// That of these rows.
    #[must_use]
    pub fn of(digests: &[Digest]) -> Self {
        let mut all = Self::default();
        for digest in digests {
            all.add(*digest);
        }
        all
    }
}

/// Whether two cells of one type say the same: decimals by number, binary JSON by document, any
/// NaN like any other.
#[must_use]
pub fn equal_cells(logical: &LogicalType, a: Cell<'_>, b: Cell<'_>) -> bool {
    match (a, b) {
        (Cell::Float(a), Cell::Float(b)) if a.is_nan() && b.is_nan() => true,
        (Cell::Bytes(a), Cell::Bytes(b)) if a == b => true,
        (Cell::Bytes(a), Cell::Bytes(b)) if *logical == DOCUMENT => document(a).is_some_and(|a| document(b) == Some(a)),
        _ => cell_order(logical, a, b) == Ordering::Equal,
    }
}

/// Digest of one row over these columns.
#[must_use]
pub fn row_digest(batch: &Batch, row: usize, columns: &[usize]) -> Digest {
    let mut text = Text::default();
    for &column in columns {
        text.cell(&batch.table.columns[column].logical, batch.cell(row, column));
    }
    text.finish()
}

/// Digests of single values of one row, of these columns.
#[must_use]
pub fn cell_digests(batch: &Batch, row: usize, columns: &[usize]) -> Vec<Digest> {
    let mut text = Text::default();
    let digest = |&column: &usize| {
        text.cell(&batch.table.columns[column].logical, batch.cell(row, column));
        text.finish()
    };
    columns.iter().map(digest).collect()
}

/// Digests of the rows of a batch over these columns, each taken for one of the type beside it: those of two rows are
/// equal exactly when [`equal_cells`] finds them equal in each column.
#[must_use]
pub fn row_digests(batch: &Batch, columns: &[(usize, LogicalType)]) -> Vec<Digest> {
    let mut text = Text::default();
    let digest = |row| {
        for (column, logical) in columns {
            text.cell(logical, batch.cell(row, *column));
        }
        text.finish()
    };
    (0..batch.rows()).map(digest).collect()
}

/// A name for a text, of 32 hexadecimal digits.
#[must_use]
pub fn text_digest(text: &str) -> String {
    format!("{:032x}", xxh3_128(text.as_bytes()))
}

const DOCUMENT: LogicalType = LogicalType::Json { binary: true };

/// Bytes that are put together before they are digested: short rows are digested at once, which is the quick way.
const TOGETHER: usize = 2 << 10;

/// The canonical text of a row. Each value is preceded by its kind, and strings by their length, so that no two
/// different rows have the same text.
#[derive(Default)]
struct Text {
    bytes: Vec<u8>,
    /// What stands before these bytes, in a row that is longer.
    long: Option<Box<Xxh3>>,
}

impl Text {
    fn put(&mut self, bytes: &[u8]) {
        if self.bytes.len() + bytes.len() > TOGETHER {
            let long = self.long.get_or_insert_with(|| Box::new(Xxh3::new()));
            long.update(&self.bytes);
            self.bytes.clear();
            if bytes.len() > TOGETHER {
                long.update(bytes);
                return;
            }
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The digest; the text is empty again.
    fn finish(&mut self) -> Digest {
        let digest = match self.long.take() {
            Some(mut long) => {
                long.update(&self.bytes);
                long.digest128()
            }
            None => xxh3_128(&self.bytes),
        };
        self.bytes.clear();
        Digest(digest)
    }

    fn number(&mut self, kind: u8, v: i128) {
        let mut bytes = [kind; 17];
        bytes[1..].copy_from_slice(&v.to_le_bytes());
        self.put(&bytes);
    }

    fn float(&mut self, kind: u8, v: f64) {
        let mut bytes = [kind; 9];
        bytes[1..].copy_from_slice(&v.to_bits().to_le_bytes());
        self.put(&bytes);
    }

    fn string(&mut self, kind: u8, v: &[u8]) {
        let mut bytes = [kind; 9];
        bytes[1..].copy_from_slice(&(v.len() as u64).to_le_bytes());
        self.put(&bytes);
        self.put(v);
    }

    fn cell(&mut self, logical: &LogicalType, cell: Cell<'_>) {
        match cell {
            Cell::Null => self.put(b"0"),
            Cell::Absent => self.put(b"a"),
            Cell::Int(v) => self.number(b'n', v.into()),
            Cell::UInt(v) => self.number(b'n', v.into()),
            // Every NaN is one NaN: engines do not keep the payload.
            Cell::Float(v) => self.float(b'f', if v.is_nan() { f64::NAN } else { v }),
            Cell::Bytes(v) => match logical {
                // A decimal counts without the zeros that do not change it.
                LogicalType::Decimal { .. }
                    if let Some((negative, whole, fraction)) = std::str::from_utf8(v).ok().and_then(decimal_parts) =>
                {
                    self.string(if negative { b'-' } else { b'+' }, whole.as_bytes());
                    self.string(b'.', fraction.as_bytes());
                }
                logical
                    if *logical == DOCUMENT
                        && let Some(Digest(document)) = document(v) =>
                {
                    self.put(b"j");
                    self.put(&document.to_le_bytes());
                }
                _ => self.string(b'b', v),
            },
            Cell::Escape(value) => {
                self.put(b"e");
                match value {
                    Value::Null => self.put(b"0"),
                    Value::Int(v) => self.number(b'n', (*v).into()),
                    Value::UInt(v) => self.number(b'n', (*v).into()),
                    Value::Float(v) => self.float(b'f', *v),
                    Value::Text(v) => self.string(b't', v.as_bytes()),
                    Value::Bytes(v) => self.string(b'b', v),
                    Value::RawText(v) => self.string(b't', v),
                }
            }
        }
    }
}

/// Digest of a JSON document, without what does not belong to it: space between its parts, the order of an object's
/// members, the spelling of text and of fractions. `None` for what is no JSON.
fn document(text: &[u8]) -> Option<Digest> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let digest = Part.deserialize(&mut json).ok()?;
    json.end().ok()?;
    Some(digest)
}

/// A part of a document, of which only the digest is kept.
struct Part;

impl<'de> DeserializeSeed<'de> for Part {
    type Value = Digest;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Digest, D::Error> {
        json.deserialize_any(self)
    }
}

fn part(fill: impl FnOnce(&mut Text)) -> Digest {
    let mut text = Text::default();
    fill(&mut text);
    text.finish()
}

impl<'de> Visitor<'de> for Part {
    type Value = Digest;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Digest, E> {
        Ok(part(|text| text.put(b"0")))
    }

    fn visit_bool<E>(self, v: bool) -> Result<Digest, E> {
        Ok(part(|text| text.put(if v { b"y" } else { b"x" })))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Digest, E> {
        Ok(part(|text| text.number(b'n', v.into())))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Digest, E> {
        Ok(part(|text| text.number(b'n', v.into())))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Digest, E> {
        // Both zeros are one number.
        Ok(part(|text| text.float(b'f', if v == 0.0 { 0.0 } else { v })))
    }

    fn visit_str<E>(self, v: &str) -> Result<Digest, E> {
        Ok(part(|text| text.string(b't', v.as_bytes())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Digest, A::Error> {
        let mut text = Text::default();
        text.put(b"[");
        while let Some(Digest(part)) = parts.next_element_seed(Part)? {
            text.put(&part.to_le_bytes());
        }
        Ok(text.finish())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut parts: A) -> Result<Digest, A::Error> {
        let mut members: Vec<(Cow<'de, str>, Digest)> = Vec::new();
        while let Some(name) = parts.next_key_seed(Name)? {
            members.push((name, parts.next_value_seed(Part)?));
        }
        // Of two members of one name the last counts.
        members.reverse();
        members.sort_by(|(a, _), (b, _)| a.cmp(b));
        members.dedup_by(|(a, _), (b, _)| a == b);
        let mut text = Text::default();
        text.put(b"{");
        for (name, Digest(part)) in &members {
            text.string(b't', name.as_bytes());
            text.put(&part.to_le_bytes());
        }
        Ok(text.finish())
    }
}

/// The name of a member, borrowed where it is written plainly.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(v))
    }

    fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(v.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Column, ColumnDef, Table, TableName};

    /// Values of every kind, with those that are nearly the same.
    fn values() -> Vec<Column> {
        let mut all = Vec::new();
        let mut add = |fill: &dyn Fn(&mut Column)| {
            let mut column = Column::default();
            fill(&mut column);
            all.push(column);
        };
        add(&Column::push_null);
        add(&Column::push_absent);
        for v in [0, 1, -1, i64::MIN, i64::MAX, 19_000, 4_607_182_418_800_017_408] {
            add(&|c| c.push_int(v));
            add(&|c| c.push_escape(Value::Int(v)));
        }
        for v in [0, 1, u64::MAX, 1 << 63] {
            add(&|c| c.push_uint(v));
            add(&|c| c.push_escape(Value::UInt(v)));
        }
        for v in [0.0, -0.0, 1.0, f64::NAN, f64::from_bits(f64::NAN.to_bits() | 1), f64::INFINITY] {
            add(&|c| c.push_float(v));
            add(&|c| c.push_escape(Value::Float(v)));
        }
        let texts = [
            "",
            "0",
            "-0",
            "0.0",
            "-0.00",
            "1",
            "01",
            "1.0",
            "1.00",
            "-1",
            "10",
            "0.1",
            "NaN",
            "Infinity",
            "-Infinity",
            "a",
            "a ",
            "A",
            "t",
            "{}",
            "{ }",
            "[]",
            r#"{"a":1,"b":[1,2.50]}"#,
            r#"{"b": [1, 2.5], "a": 1}"#,
            r#"{"b": [2.5, 1], "a": 1}"#,
            r#"{"a":2,"a":1}"#,
            r#"{"a":1}"#,
            r#"{"\u0061":1}"#,
            r#"{"a":1.0}"#,
            r#"{"a":-0.0}"#,
            r#"{"a":0.0}"#,
            r#"{"a":null}"#,
            r#"{"a":true}"#,
            r#"{"a":false}"#,
            r#""a""#,
            "null",
            "true",
            "{",
            "1e400",
            "1e2",
            "100.0",
            "100",
            "18446744073709551615",
            "18446744073709551616.0",
            "infinity",
            "-infinity",
            "2024-00-15",
            "0000-00-00",
            "2024-01-01",
            "2024-01-01 00:00:00",
            "[[1],[2]]",
            "[[1,2]]",
            "[1,[2]]",
        ];
        for v in texts {
            add(&|c| c.push_bytes(v.as_bytes()));
            add(&|c| c.push_escape(Value::Text(v.to_owned())));
            add(&|c| c.push_escape(Value::Bytes(v.as_bytes().to_vec())));
        }
        add(&|c| c.push_bytes(&[0xFF, 0]));
        add(&|c| c.push_bytes(&[b'a'; 3000]));
        add(&|c| c.push_bytes(&[b'a'; 3001]));
        add(&|c| c.push_bytes(&[&[b' '; 5000][..], b"[]"].concat()));
        all
    }

    #[test]
    fn digests_are_equal_exactly_when_values_are() {
        use LogicalType as T;
        let types = [
            T::Bool,
            T::Int { bits: 64, unsigned: false },
            T::Int { bits: 64, unsigned: true },
            T::Float { bits: 64 },
            T::Decimal { precision: None, scale: None },
            T::Text { max: None, fixed: false },
            T::Binary { max: None, fixed: false },
            T::Json { binary: false },
            T::Json { binary: true },
            T::Date,
            T::Timestamp { digits: 6, zoned: false },
            T::Any,
        ];
        let values = values();
        let (mut equal, mut unequal) = (0, 0);
        for logical in types {
            let table = Arc::new(Table::new(TableName::new("t"), vec![ColumnDef::new("c", logical.clone())]));
            let compared = [(0, logical.clone())];
            let digests: Vec<Digest> = values
                .iter()
                .map(|column| row_digests(&Batch::new(table.clone(), vec![column.clone()]), &compared)[0])
                .collect();
            for (a, one) in values.iter().zip(&digests) {
                for (b, other) in values.iter().zip(&digests) {
                    let (a, b) = (a.cell(0), b.cell(0));
                    let same = equal_cells(&logical, a, b);
                    assert_eq!(same, one == other, "{logical}: {a:?} and {b:?}");
                    *(if same { &mut equal } else { &mut unequal }) += 1;
                }
            }
        }
        assert!(equal > 2_000 && unequal > 100_000, "{equal} pairs equal, {unequal} not");
    }

    #[test]
    fn documents_are_equal_as_they_were_when_read_whole() {
        for a in values() {
            for b in values() {
                let (Cell::Bytes(a), Cell::Bytes(b)) = (a.cell(0), b.cell(0)) else { continue };
                let read = |text| serde_json::from_slice::<serde_json::Value>(text).ok();
                let same = read(a).is_some_and(|a| read(b) == Some(a));
                assert_eq!(document(a).is_some_and(|a| document(b) == Some(a)), same, "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn rows_are_told_apart_whatever_stands_in_which_column() {
        let columns = ["a", "b"].map(|name| ColumnDef::new(name, LogicalType::Text { max: None, fixed: false }));
        let table = Arc::new(Table::new(TableName::new("t"), columns.to_vec()));
        let mut data = vec![Column::default(); 2];
        for (a, b) in [("ab", "c"), ("a", "bc"), ("abc", ""), ("", "abc"), ("b", "a"), ("a", "b")] {
            data[0].push_bytes(a.as_bytes());
            data[1].push_bytes(b.as_bytes());
        }
        let batch = Batch::new(table, data);
        let digests: Vec<Digest> = (0..batch.rows()).map(|row| row_digest(&batch, row, &[0, 1])).collect();
        for (at, digest) in digests.iter().enumerate() {
            assert!(!digests[..at].contains(digest));
        }
    }

    /// What lets a sum of weak digests, or an XOR of good ones, miss a difference: two rows with the same change.
    #[test]
    fn two_rows_with_the_same_change_do_not_cancel_out() {
        let table = Arc::new(Table::new(
            TableName::new("t"),
            ["id", "v"].map(|n| ColumnDef::new(n, LogicalType::Int { bits: 64, unsigned: false })).to_vec(),
        ));
        let rows = |rows: &[(i64, i64)]| {
            let mut data = vec![Column::default(); 2];
            for (id, v) in rows {
                data[0].push_int(*id);
                data[1].push_int(*v);
            }
            let batch = Batch::new(table.clone(), data);
            RangeDigest::of(&(0..rows.len()).map(|row| row_digest(&batch, row, &[0, 1])).collect::<Vec<_>>())
        };
        let before = rows(&[(1, 10), (2, 20), (3, 30), (4, 40)]);
        for changed in [
            [(1, 11), (2, 21), (3, 30), (4, 40)],
            [(1, 11), (2, 19), (3, 30), (4, 40)],
            [(1, 20), (2, 10), (3, 30), (4, 40)],
            [(1, 10), (2, 20), (3, 30), (3, 30)],
        ] {
            assert_ne!(rows(&changed), before, "{changed:?}");
        }
    }
}
