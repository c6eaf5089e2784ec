//! Rows as an Arrow stream (the IPC format, without compression), so that data tools read a table straight from a node.
//! It is only written: nothing here decodes what came over a network.
//!
//! | type | Arrow |
//! |---|---|
//! | boolean, whole numbers, floats | the same, with their widths and signs |
//! | decimals of 38 digits at most | `Decimal128` |
//! | day · day and time · with a zone | `Date32` · `Timestamp(µs)` · `Timestamp(µs, UTC)` |
//! | time of day · length of time | `Time64(µs)` · `Duration(µs)` |
//! | bytes · UUID | `Binary` · `FixedSizeBinary(16)`, `arrow.uuid` |
//! | all others, other decimals among them | `Utf8`, as JSON answers have them |
//!
//! What a column's type cannot hold (`NaN` among decimals, a text that SQLite keeps among numbers) is NULL in its column
//! and stands in `_escape`, a JSON object of such values by column.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::builder::{BinaryBuilder, BooleanBuilder, FixedSizeBinaryBuilder, PrimitiveBuilder, StringBuilder};
use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, DurationMicrosecondType, Float32Type, Float64Type, Int8Type,
    Int16Type, Int32Type, Int64Type, Time64MicrosecondType, TimestampMicrosecondType, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, DataType, Field, Schema, TimeUnit};

use crate::engine::{Error, ErrorKind, Result};
use crate::model::{Batch, Cell, Column, LogicalType as T, Table, render};

/// The type of such a body.
pub(super) const MIME: &str = "application/vnd.apache.arrow.stream";

/// What does not stand in its column.
const ESCAPE: &str = "_escape";

/// Digits of the widest decimals.
const DIGITS_MAX: u32 = 38;

/// The microseconds that an Arrow time of day may have.
const DAY: i64 = 24 * 3600 * 1_000_000;

/// A stream that is being written.
pub(super) struct Encoder {
    writer: StreamWriter<Vec<u8>>,
    schema: Arc<Schema>,
    /// Whether it says of rows that they are gone.
    deletes: bool,
}

impl Encoder {
    /// One of rows of this table, the name of which is told with the cursor that leads on; with `deleted` a last column of
    /// this name says which rows are gone.
    ///
    /// # Errors
    /// `Unsupported` for a table that has columns of our names.
    pub(super) fn new(name: &str, table: &Table, deleted: Option<&str>, cursor: Option<String>) -> Result<Self> {
        let own = [Some(ESCAPE), deleted];
        if let Some(taken) = table.columns.iter().find(|column| own.contains(&Some(&column.name))) {
            let what = format!("{name} has a column {}, which an Arrow stream needs itself; take JSON", taken.name);
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        let mut fields: Vec<Field> = table.columns.iter().map(|column| field(&column.name, &column.logical)).collect();
        fields.push(Field::new(ESCAPE, DataType::Utf8, true));
        fields.extend(deleted.map(|name| Field::new(name, DataType::Boolean, false)));
        let mut metadata = HashMap::from([("rowferry.table".to_owned(), name.to_owned())]);
        metadata.extend(cursor.map(|cursor| ("rowferry.cursor".to_owned(), cursor)));
        let schema = Arc::new(Schema::new_with_metadata(fields, metadata));
        let writer = StreamWriter::try_new(Vec::new(), &schema).map_err(|e| fault(&e))?;
        Ok(Self { writer, schema, deletes: deleted.is_some() })
    }

    /// Rows; of some, at these places, only the key counts: they are gone.
    ///
    /// # Errors
    /// `Protocol` where they cannot be written.
    pub(super) fn rows(&mut self, batch: &Batch, gone: &[usize]) -> Result<()> {
        let mut escapes = Escapes(vec![serde_json::Map::new(); batch.rows()]);
        let columns = batch.table.columns.iter().zip(batch.columns());
        let mut arrays: Vec<ArrayRef> =
            columns.map(|(column, data)| array(&column.name, &column.logical, data, &mut escapes)).collect();
        arrays.push(escapes.array());
        if self.deletes {
            let mut deleted = BooleanBuilder::with_capacity(batch.rows());
            (0..batch.rows()).for_each(|row| deleted.append_value(gone.contains(&row)));
            arrays.push(Arc::new(deleted.finish()));
        }
        let batch = RecordBatch::try_new(self.schema.clone(), arrays).map_err(|e| fault(&e))?;
        self.writer.write(&batch).map_err(|e| fault(&e))
    }

    /// What was written since it was asked last.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(self.writer.get_mut())
    }

    /// That was all.
    ///
    /// # Errors
    /// As above.
    pub(super) fn end(&mut self) -> Result<()> {
        self.writer.finish().map_err(|e| fault(&e))
    }
}

fn fault(e: &ArrowError) -> Error {
    Error::new(ErrorKind::Protocol, format!("rows could not be written as an Arrow stream: {e}"))
}

fn field(name: &str, logical: &T) -> Field {
    let field = Field::new(name, data_type(logical), true);
    match logical {
        T::Uuid => field.with_metadata(HashMap::from([("ARROW:extension:name".to_owned(), "arrow.uuid".to_owned())])),
        _ => field,
    }
}

fn data_type(logical: &T) -> DataType {
    match logical {
        T::Bool => DataType::Boolean,
        T::Int { bits: 8, unsigned: false } => DataType::Int8,
        T::Int { bits: 16, unsigned: false } => DataType::Int16,
        T::Int { bits: 24 | 32, unsigned: false } => DataType::Int32,
        T::Int { unsigned: false, .. } => DataType::Int64,
        T::Int { bits: 8, .. } => DataType::UInt8,
        T::Int { bits: 16, .. } => DataType::UInt16,
        T::Int { bits: 24 | 32, .. } => DataType::UInt32,
        T::Int { .. } => DataType::UInt64,
        T::Float { bits: 32 } => DataType::Float32,
        T::Float { .. } => DataType::Float64,
        T::Decimal { .. } => {
            decimal(logical).map_or(DataType::Utf8, |(digits, scale)| DataType::Decimal128(digits, scale))
        }
        T::Date => DataType::Date32,
        T::Time { .. } => DataType::Time64(TimeUnit::Microsecond),
        T::Duration { .. } => DataType::Duration(TimeUnit::Microsecond),
        T::Timestamp { zoned, .. } => DataType::Timestamp(TimeUnit::Microsecond, zoned.then(|| "UTC".into())),
        T::Binary { .. } => DataType::Binary,
        T::Uuid => DataType::FixedSizeBinary(16),
        _ => DataType::Utf8,
    }
}

/// Digits and scale of a decimal that Arrow readers take.
fn decimal(logical: &T) -> Option<(u8, i8)> {
    match logical {
        T::Decimal { precision: Some(digits @ 1..=DIGITS_MAX), scale: Some(scale) } if scale <= digits => {
            Some((u8::try_from(*digits).ok()?, i8::try_from(*scale).ok()?))
        }
        _ => None,
    }
}

/// Values that do not stand in their columns, by row.
struct Escapes(Vec<serde_json::Map<String, serde_json::Value>>);

impl Escapes {
    fn add(&mut self, row: usize, column: &str, logical: &T, cell: Cell<'_>) {
        self.0[row].insert(column.to_owned(), render(logical, cell).unwrap_or_default().into());
    }

    fn array(self) -> ArrayRef {
        let mut texts = StringBuilder::new();
        for row in self.0 {
            texts.append_option((!row.is_empty()).then(|| serde_json::Value::Object(row).to_string()));
        }
        Arc::new(texts.finish())
    }
}

/// The values of a column; what it cannot hold becomes an escape.
fn array(name: &str, logical: &T, data: &Column, escapes: &mut Escapes) -> ArrayRef {
    let mut column = Values { name, logical, data, escapes };
    match data_type(logical) {
        DataType::Boolean => {
            let mut builder = BooleanBuilder::with_capacity(data.len());
            column.each(
                |cell, _| match cell {
                    Cell::Int(v @ (0 | 1)) => Some(v == 1),
                    _ => None,
                },
                |value| builder.append_option(value),
            );
            Arc::new(builder.finish())
        }
        DataType::Int8 => column.primitive::<Int8Type>(whole),
        DataType::Int16 => column.primitive::<Int16Type>(whole),
        DataType::Int32 => column.primitive::<Int32Type>(whole),
        DataType::Int64 => column.primitive::<Int64Type>(whole),
        DataType::UInt8 => column.primitive::<UInt8Type>(whole),
        DataType::UInt16 => column.primitive::<UInt16Type>(whole),
        DataType::UInt32 => column.primitive::<UInt32Type>(whole),
        DataType::UInt64 => column.primitive::<UInt64Type>(whole),
        #[allow(clippy::cast_possible_truncation, reason = "it was widened from one")]
        DataType::Float32 => column.primitive::<Float32Type>(|cell| match cell {
            Cell::Float(v) => Some(v as f32),
            _ => None,
        }),
        DataType::Float64 => column.primitive::<Float64Type>(|cell| match cell {
            Cell::Float(v) => Some(v),
            _ => None,
        }),
        DataType::Decimal128(digits, scale) => {
            let values = column.collect::<Decimal128Type>(|cell| match cell {
                Cell::Bytes(text) => unscaled(text, digits, scale),
                _ => None,
            });
            Arc::new(values.with_data_type(DataType::Decimal128(digits, scale)).finish())
        }
        DataType::Date32 => column.primitive::<Date32Type>(whole),
        DataType::Time64(_) => column.primitive::<Time64MicrosecondType>(|cell| match cell {
            // Some engines know 24:00:00, Arrow does not.
            Cell::Int(v @ 0..DAY) => Some(v),
            _ => None,
        }),
        DataType::Duration(_) => column.primitive::<DurationMicrosecondType>(whole),
        kind @ DataType::Timestamp(..) => {
            Arc::new(column.collect::<TimestampMicrosecondType>(whole).with_data_type(kind).finish())
        }
        DataType::Binary => {
            let mut builder = BinaryBuilder::new();
            column.each(bytes, |value: Option<&[u8]>| builder.append_option(value));
            Arc::new(builder.finish())
        }
        DataType::FixedSizeBinary(size) => {
            let mut builder = FixedSizeBinaryBuilder::with_capacity(data.len(), size);
            column.each(
                |cell, _| bytes(cell, logical).filter(|bytes| bytes.len() == 16),
                |value: Option<&[u8]>| match value {
                    // Sixteen bytes are what it holds.
                    Some(bytes) => drop(builder.append_value(bytes)),
                    None => builder.append_null(),
                },
            );
            Arc::new(builder.finish())
        }
        _ => {
            let mut builder = StringBuilder::new();
            column.each(|cell, logical| render(logical, cell), |value| builder.append_option(value));
            Arc::new(builder.finish())
        }
    }
}

fn whole<N: TryFrom<i64> + TryFrom<u64>>(cell: Cell<'_>) -> Option<N> {
    match cell {
        Cell::Int(v) => N::try_from(v).ok(),
        Cell::UInt(v) => N::try_from(v).ok(),
        _ => None,
    }
}

fn bytes<'a>(cell: Cell<'a>, _: &T) -> Option<&'a [u8]> {
    match cell {
        Cell::Bytes(bytes) => Some(bytes),
        _ => None,
    }
}

/// A decimal's text as a whole number of units of its scale.
fn unscaled(text: &[u8], digits: u8, scale: i8) -> Option<i128> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let (scale, fraction) = (usize::try_from(scale).ok()?, fraction.trim_end_matches('0'));
    if fraction.len() > scale {
        return None;
    }
    let value: i128 = format!("{whole}{fraction}{}", "0".repeat(scale - fraction.len())).parse().ok()?;
    (value.unsigned_abs() < 10_u128.pow(digits.into())).then_some(value)
}

/// One column's values.
struct Values<'a, 'e> {
    name: &'a str,
    logical: &'a T,
    data: &'a Column,
    escapes: &'e mut Escapes,
}

impl<'a> Values<'a, '_> {
    fn each<V>(&mut self, take: impl Fn(Cell<'a>, &'a T) -> Option<V>, mut put: impl FnMut(Option<V>)) {
        for row in 0..self.data.len() {
            let cell = self.data.cell(row);
            let value = match cell {
                Cell::Null | Cell::Absent => None,
                cell => take(cell, self.logical),
            };
            if value.is_none() && !matches!(cell, Cell::Null | Cell::Absent) {
                self.escapes.add(row, self.name, self.logical, cell);
            }
            put(value);
        }
    }

    fn collect<P: ArrowPrimitiveType>(&mut self, take: impl Fn(Cell<'a>) -> Option<P::Native>) -> PrimitiveBuilder<P> {
        let mut builder = PrimitiveBuilder::<P>::with_capacity(self.data.len());
        self.each(|cell, _| take(cell), |value| builder.append_option(value));
        builder
    }

    fn primitive<P: ArrowPrimitiveType>(&mut self, take: impl Fn(Cell<'a>) -> Option<P::Native>) -> ArrayRef {
        Arc::new(self.collect::<P>(take).finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_exact_or_none() {
        for (text, digits, scale, value) in [
            ("12.50", 5, 2, Some(1250)),
            ("-0.5", 5, 2, Some(-50)),
            ("1.5000", 5, 2, Some(150)),
            ("1.505", 5, 2, None),
            ("1000", 5, 2, None),
            ("-999.99", 5, 2, Some(-99999)),
            ("NaN", 5, 2, None),
            ("Infinity", 5, 2, None),
            ("99999999999999999999999999999999999999", 38, 0, Some(10_i128.pow(38) - 1)),
        ] {
            assert_eq!(unscaled(text.as_bytes(), digits, scale), value, "{text}");
        }
    }
}
