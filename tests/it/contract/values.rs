//! Every logical type, at its edges.

use rowferry::engine::WriteMode;
use rowferry::model::{Column, LogicalType as L, Value, fit, temporal};

use super::subject::{INT, Made, Subject, cell, table};

super::on_all! {
    edge_values_come_back
    what_is_called_a_misfit_is_not_written_otherwise
}

/// Every logical type, each with every shape of its parameters.
pub fn every_type() -> Vec<L> {
    let mut all = vec![L::Bool, L::Uuid, L::Date, L::Interval, L::Any];
    for bits in [8, 16, 24, 32, 64] {
        all.extend([L::Int { bits, unsigned: false }, L::Int { bits, unsigned: true }]);
    }
    all.extend([L::Float { bits: 32 }, L::Float { bits: 64 }]);
    for (precision, scale) in [(None, None), (Some(10), Some(2)), (Some(15), Some(0)), (Some(65), Some(30))] {
        all.push(L::Decimal { precision, scale });
    }
    for max in [None, Some(7)] {
        all.extend([
            L::Text { max, fixed: false },
            L::Binary { max, fixed: false },
            L::Bits { len: max, varying: true },
        ]);
    }
    all.extend([L::Text { max: Some(3), fixed: true }, L::Binary { max: Some(3), fixed: true }]);
    all.push(L::Bits { len: Some(3), varying: false });
    for digits in 0..=6 {
        all.extend([L::Time { digits }, L::TimeTz { digits }, L::Duration { digits }]);
        all.extend([L::Timestamp { digits, zoned: false }, L::Timestamp { digits, zoned: true }]);
    }
    all.extend([L::Json { binary: false }, L::Json { binary: true }]);
    let labels = vec!["b".to_owned(), "a".to_owned(), "it's \\ \"C\"".to_owned()];
    all.extend([L::Enum { labels: labels.clone() }, L::Set { labels }]);
    all
}

fn texts<const N: usize>(texts: [&str; N]) -> Vec<Value> {
    texts.map(|t| Value::Bytes(t.as_bytes().to_vec())).to_vec()
}

/// Values at the edges of a type, those that it does not hold among them.
fn edges(logical: &L) -> Vec<Value> {
    let ints = |values: &[i64]| values.iter().map(|v| Value::Int(*v)).collect::<Vec<_>>();
    let day = temporal::DAY;
    match logical {
        L::Bool => ints(&[0, 1]),
        L::Int { bits: 64, unsigned: true } => vec![Value::UInt(0), Value::UInt(u64::MAX)],
        L::Int { bits: 64, .. } => ints(&[i64::MIN, -1, 0, 9_007_199_254_740_993, i64::MAX]),
        L::Int { bits, unsigned: true } => ints(&[0, (1 << bits) - 1, 1 << bits]),
        L::Int { bits, .. } => ints(&[-(1 << (bits - 1)), (1 << (bits - 1)) - 1, 1 << (bits - 1)]),
        L::Float { bits: 32 } => [f32::MAX, 0.1, 16_777_216.0, f32::MIN_POSITIVE, -0.0, f32::NAN]
            .map(|v| Value::Float(f64::from(v)))
            .to_vec(),
        L::Float { .. } => {
            let odd = [-0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
            let even = [0.1, 5e-324, f64::MAX, f64::MIN_POSITIVE, 9_007_199_254_740_993.0, 1e15, 0.0];
            odd.into_iter().chain(even).map(Value::Float).collect()
        }
        L::Decimal { scale: Some(2), .. } => texts(["0.00", "-99999999.99", "1.50", "0.07", "NaN", "0.001"]),
        L::Decimal { scale: Some(0), .. } => texts(["0", "-999999999999999", "999999999999999", "0.5"]),
        L::Decimal { .. } => texts([
            "0",
            "1.50",
            "-0.000000000000000000000000000001",
            "99999999999999999999999999999999999.000000000000000000000000000001",
            "NaN",
            "-Infinity",
        ]),
        L::Text { .. } => texts(["", "007", "1e5", "ä€😀", "a\0b", " x", "x ", "NULL", "\\N", "a\tb\n", "eight ch"]),
        L::Binary { .. } => {
            let mut all = texts(["", "12", "abc", "\\x00"]);
            all.extend([vec![0, 255, 39], vec![0], vec![10, 13, 9, 92, 26]].map(Value::Bytes));
            all
        }
        L::Bits { .. } => texts(["010", "000", "111", ""]),
        L::Uuid => vec![Value::Bytes(vec![0; 16]), Value::Bytes((0..16).map(|b| b * 17).collect())],
        L::Date => ints(&[-719_162, 0, 19_782, 2_932_896, -719_528, 2_932_897, -2_000_000]),
        L::Time { .. } => ints(&[0, 1_000_000, 1, 123_456, day - 1_000_000, day]),
        L::TimeTz { .. } => texts(["12:00:00.5+02:30", "00:00:00-11", "23:59:59+00"]),
        L::Duration { .. } => ints(&[-838 * 3_600_000_000, 0, 1, day * 9 + 5, day * 400, 1_000_000]),
        L::Timestamp { .. } => ints(&[
            1_000_000,
            1_700_000_000_000_000,
            1_700_000_000_123_456,
            0,
            -1,
            -62_135_596_800_000_000,
            253_402_300_799_000_000,
            300_000_000_000_000_000,
        ]),
        L::Interval => texts(["P1Y2M3DT4H5M6.7S", "PT0S", "P-1Y-2M3DT-4H-5M-6S"]),
        L::Json { binary: false } => texts(["{ \"b\":1,  \"a\": 1.50 }", "[]", "null"]),
        L::Json { .. } => texts(["{\"a\": 1}", "123", "null", "[1, \"ä😀\"]", "\"x\""]),
        L::Enum { .. } => texts(["a", "b", "it's \\ \"C\"", "none"]),
        L::Set { .. } => texts(["", "a", "b,a", "none"]),
        L::Any => vec![
            Value::Int(7),
            Value::Float(1.0),
            Value::Text("007".into()),
            Value::Text(String::new()),
            Value::Bytes(vec![1]),
        ],
        L::Array { .. } | L::Other { .. } => Vec::new(),
    }
}

fn column(logical: &L, values: &[Value]) -> Column {
    let mut column = Column::default();
    for value in values {
        column.push_cell(cell(logical, value));
    }
    column
}

/// The values that the made column is said to hold.
fn held(s: &Subject, made: &Made, values: Vec<Value>) -> Vec<Value> {
    let (from, to) = (&made.wanted.columns[1].logical, &made.table.columns[1]);
    let (data, unfit) = fit(from, &to.logical, column(from, &values), false);
    let refused = s.db.misfits(to, &data);
    // A value that the wanted type itself does not hold is none of its edges.
    let (_, beyond) = fit(from, from, column(from, &values), false);
    let out = |row: usize| unfit.iter().chain(&refused).chain(&beyond).any(|(r, _)| *r == row);
    values.into_iter().enumerate().filter(|(row, _)| !out(*row)).map(|(_, v)| v).collect()
}

async fn edge_values_come_back(s: &Subject) {
    for (n, logical) in every_type().into_iter().enumerate() {
        let wanted = table(&format!("t{n}"), &[("id", INT), ("c", logical.clone())], &[0]);
        let exact = s.db.map_column(&wanted, &wanted.columns[1]).loss.is_none();
        let made = s.make(&wanted).await;
        let values = held(s, &made, edges(&logical));
        assert!(!values.is_empty(), "{logical:?} holds none of its values");
        let mut rows: Vec<Vec<Value>> = values.into_iter().zip(1..).map(|(v, id)| vec![Value::Int(id), v]).collect();
        rows.push(vec![Value::Int(99), Value::Null]);
        let written = s.write(WriteMode::Insert, &made, &rows).await;
        assert_eq!(written.unwrap_or_else(|e| panic!("{logical:?}: {e}")), rows.len() as u64, "{logical:?}");
        let got = s.rows(&made).await;
        if exact {
            assert_eq!(got, made.expected(&rows), "{logical:?} as {}", made.table.columns[1].native);
        } else {
            assert_eq!(got.len(), rows.len());
        }
        // The same by another way of writing.
        assert_eq!(s.write(WriteMode::Update, &made, &rows).await.unwrap(), rows.len() as u64, "{logical:?}");
        assert_eq!(s.rows(&made).await, got, "{logical:?}");
        assert_eq!(s.write(WriteMode::Delete, &made, &rows).await.unwrap(), rows.len() as u64, "{logical:?}");
    }
}

/// A value is held, or named: nothing in between, and the types' limits are where they are said to be.
async fn what_is_called_a_misfit_is_not_written_otherwise(s: &Subject) {
    let made = s.make(&table("t", &[("id", INT), ("c", L::Text { max: Some(7), fixed: false })], &[0])).await;
    let values = texts(["seven 7", "äöü€😀12", "", "eight ch"]);
    assert_eq!(held(s, &made, values.clone()), values[..3]);
    let made =
        s.make(&table("d", &[("id", INT), ("c", L::Decimal { precision: Some(4), scale: Some(2) })], &[0])).await;
    let values = texts(["99.99", "-99.99", "0.10", "100.00", "0.001"]);
    assert_eq!(held(s, &made, values.clone()), values[..3]);
}
