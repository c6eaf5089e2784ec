//! Snapshots, counts, order, ranges, limits, and what happened to a table meanwhile.

use std::cmp::Ordering;
use std::sync::Arc;

use rowferry::engine::{ErrorKind, ReadRequest, Selection, WriteMode};
use rowferry::model::{Batch, BatchLimits, ColumnDef, LogicalType as L, Table, TableName, Value, cell_order};

use super::subject::{INT, Made, Subject, TEXT, kind, note, plain, table};

super::on_all! {
    keys_come_in_order_and_ranges_partition_them
    a_batch_keeps_its_limits
    a_stream_dropped_early_leaves_the_source_usable
    a_snapshot_stays
    reading_holds_no_writer_up
    count_check_and_read_agree
    order_needs_a_key
    a_table_that_vanished_is_told_never_empty
    a_column_that_vanished_is_told
    only_the_columns_asked_for_come
}

super::on_servers! {
    a_filter_is_a_condition_of_its_own
}

fn texts<const N: usize>(texts: [&str; N]) -> Vec<Value> {
    texts.map(|t| Value::Bytes(t.as_bytes().to_vec())).to_vec()
}

fn ints<const N: usize>(values: [i64; N]) -> Vec<Value> {
    values.map(Value::Int).to_vec()
}

/// Key types with values in no order at all.
fn keys() -> Vec<(L, Vec<Value>)> {
    let words = texts([
        "b", "B", "a", "A", "", "aa", "a b", "ä", "Ä", "z", "Z", "é", "e", "日本", "日", "😀", "\u{ffee}", "~", "_",
        "0", "10", "9", "a'b", "a\\b", "ß", "ss",
    ]);
    let moments = ints([0, -1_000_000, 1_700_000_000_000_000, 1_699_999_999_000_000, 1_000_000, 2_000_000]);
    let zoned = ints([1_700_000_000_000_000, 1_699_999_999_000_000, 1_000_000, 2_000_000_000_000_000]);
    let bytes = [vec![], vec![0], vec![0, 0], vec![255], vec![1, 255], vec![39], vec![92, 48], vec![128], vec![127]];
    let uuid = |first: u8, last: u8| Value::Bytes(std::iter::once(first).chain([7; 14]).chain([last]).collect());
    vec![
        (INT, ints([3, -1, 0, i64::MAX, i64::MIN, 10, 9, 2])),
        (L::Int { bits: 16, unsigned: false }, ints([3, -1, 0, 32_767, -32_768])),
        (L::Int { bits: 64, unsigned: true }, [9, 10, 0, u64::MAX, 1 << 63, 100].map(Value::UInt).to_vec()),
        (TEXT, words.clone()),
        (L::Text { max: Some(9), fixed: false }, words),
        (L::Text { max: Some(4), fixed: true }, texts(["b", "B", "ab", "a", "A", "é", "日"])),
        (L::Binary { max: Some(9), fixed: false }, bytes.map(Value::Bytes).to_vec()),
        (L::Uuid, vec![uuid(200, 1), uuid(3, 255), uuid(3, 1), uuid(0, 0), uuid(127, 9), uuid(16, 160)]),
        (
            L::Decimal { precision: Some(30), scale: Some(2) },
            texts(["9", "10", "-10.00", "-9.50", "-9", "0", "0.07", "10.25", "100000000000000000000", "-0.01", "-100"]),
        ),
        (L::Decimal { precision: Some(6), scale: Some(2) }, texts(["9", "10", "-10.00", "-9.50", "0", "0.07"])),
        (L::Date, ints([0, 19_782, -1, -719_162, 2_932_896, 1])),
        (L::Timestamp { digits: 6, zoned: false }, moments.clone()),
        (L::Timestamp { digits: 0, zoned: true }, zoned),
        (L::Time { digits: 3 }, ints([1_000, 0, 86_399_000_000, 43_200_000_000])),
        (L::Bool, ints([1, 0])),
        (L::Enum { labels: vec!["b".into(), "a".into(), "C".into()] }, texts(["b", "a", "C"])),
    ]
}

/// Reads in key order, a few rows at a time; the key of each row as the engine gave it.
async fn ordered(s: &Subject, made: &Made, rows: Selection) -> Vec<(Batch, usize)> {
    let request = ReadRequest { rows, limits: BatchLimits { rows: 3, bytes: 1 << 20 }, ..made.request(true) };
    let batches = s.read(&request).await.unwrap_or_else(|e| panic!("{}: {e}", made.wanted.name));
    batches.into_iter().flat_map(|b| (0..b.rows()).map(move |row| (b.clone(), row)).collect::<Vec<_>>()).collect()
}

async fn check_key(s: &Subject, wanted: &Table, rows: &[Vec<Value>]) {
    let made = s.make(wanted).await;
    s.write(WriteMode::Insert, &made, rows).await.unwrap_or_else(|e| panic!("{:?}: {e}", wanted.columns));
    let key = made.table.row_key().expect("a key").columns;
    let all = ordered(s, &made, Selection::All).await;
    assert_eq!(all.len(), rows.len());
    let order = |(a, row_a): &(Batch, usize), (b, row_b): &(Batch, usize)| {
        key.iter().fold(Ordering::Equal, |order, &c| {
            order.then_with(|| cell_order(&made.table.columns[c].logical, a.cell(*row_a, c), b.cell(*row_b, c)))
        })
    };
    let values = |(batch, row): &(Batch, usize)| batch.values(*row, &key);
    for pair in all.windows(2) {
        let why = format!(
            "{} is not before {:?} and {:?}",
            made.table.columns[key[0]].native,
            values(&pair[0]),
            values(&pair[1])
        );
        assert_eq!(order(&pair[0], &pair[1]), Ordering::Less, "{why}");
    }
    // Cut at every third key: each row is in exactly one range.
    let cuts: Vec<Vec<Value>> = all.iter().step_by(3).map(values).collect();
    let after = std::iter::once(None).chain(cuts.iter().cloned().map(Some));
    let upto = cuts.iter().cloned().map(Some).chain([None]);
    let mut union = Vec::new();
    for (n, (after, upto)) in after.zip(upto).enumerate() {
        let range = ordered(s, &made, Selection::Range { after: after.clone(), upto: upto.clone() }).await;
        let wanted = if n == 0 { 1 } else { 3.min(all.len() - (n - 1) * 3 - 1) };
        assert_eq!(range.len(), wanted, "{:?} from {after:?} to {upto:?}", made.table.columns[key[0]].native);
        union.extend(range.iter().map(values));
    }
    assert_eq!(union, all.iter().map(values).collect::<Vec<_>>(), "all of them once");
}

async fn keys_come_in_order_and_ranges_partition_them(s: &Subject) {
    for (n, (logical, values)) in keys().into_iter().enumerate() {
        let rows: Vec<Vec<Value>> = values.into_iter().zip(0..).map(|(v, at)| vec![v, Value::Int(at)]).collect();
        check_key(s, &table(&format!("t{n}"), &[("k", logical), ("v", INT)], &[0]), &rows).await;
    }
    // Equal prefixes; the key's order is not the columns'.
    let words = texts(["a", "A", "ab", ""]);
    let numbers = [0, 2, 4, 1, 3].map(Value::Int);
    let pairs: Vec<Vec<Value>> =
        numbers.iter().flat_map(|n| words.iter().map(|w| vec![n.clone(), w.clone()])).collect();
    let short = L::Text { max: Some(5), fixed: false };
    check_key(s, &table("c1", &[("n", INT), ("t", short.clone())], &[1, 0]), &pairs).await;
    check_key(s, &table("c2", &[("n", INT), ("t", short)], &[0, 1]), &pairs).await;
}

async fn filled(s: &Subject, rows: i64) -> Made {
    let made = s.make(&plain("t")).await;
    let rows: Vec<Vec<Value>> = (1..=rows).map(|id| note(id, &format!("row {id}"))).collect();
    s.write(WriteMode::Insert, &made, &rows).await.unwrap();
    made
}

async fn a_batch_keeps_its_limits(s: &Subject) {
    let made = s.make(&plain("t")).await;
    let rows: Vec<Vec<Value>> = (1..=20).map(|id| note(id, &"x".repeat(if id == 10 { 9_000 } else { 10 }))).collect();
    s.write(WriteMode::Insert, &made, &rows).await.unwrap();
    let by_rows = ReadRequest { limits: BatchLimits { rows: 3, bytes: 1 << 20 }, ..made.request(true) };
    let counts: Vec<usize> = s.read(&by_rows).await.unwrap().iter().map(Batch::rows).collect();
    assert_eq!(counts, [3, 3, 3, 3, 3, 3, 2]);
    let by_bytes = ReadRequest { limits: BatchLimits { rows: 1000, bytes: 200 }, ..made.request(true) };
    let batches = s.read(&by_bytes).await.unwrap();
    assert!(
        batches.iter().all(|b| b.rows() == 1 || b.size() <= 200),
        "{:?}",
        batches.iter().map(Batch::size).collect::<Vec<_>>()
    );
    assert!(batches.iter().any(|b| b.rows() > 2), "as many as fit");
    assert_eq!(
        batches.iter().filter(|b| b.size() > 9_000).map(Batch::rows).collect::<Vec<_>>(),
        [1],
        "the large one is alone"
    );
    assert_eq!(batches.iter().flat_map(|b| made.shown(b)).collect::<Vec<_>>(), made.expected(&rows));
}

async fn a_stream_dropped_early_leaves_the_source_usable(s: &Subject) {
    let made = filled(s, 3_000).await;
    let few = ReadRequest { limits: BatchLimits { rows: 2, bytes: 1 << 20 }, ..made.request(true) };
    let snapshot = s.db.snapshot().await.unwrap();
    let mut source = snapshot.source().await.unwrap();
    for _ in 0..3 {
        let mut stream = source.read(&few).await.unwrap();
        assert_eq!(stream.next().await.unwrap().map(|b| b.rows()), Some(2));
        drop(stream);
        assert_eq!(source.count(&made.table, None).await.unwrap(), 3_000);
    }
    let mut stream = source.read(&made.request(false)).await.unwrap();
    assert_eq!(stream.next().await.unwrap().map(|b| b.rows()), Some(3_000));
    assert!(stream.next().await.unwrap().is_none());
    assert!(stream.next().await.unwrap().is_none(), "the end stays the end");
}

/// A file lets readers and writers pass each other in this mode alone.
fn let_pass(s: &Subject) {
    if s.is_file() {
        s.server().execute("PRAGMA journal_mode = WAL");
    }
}

async fn a_snapshot_stays(s: &Subject) {
    let_pass(s);
    let made = filled(s, 3).await;
    let snapshot = s.db.snapshot().await.unwrap();
    let mut first = snapshot.source().await.unwrap();
    assert_eq!(first.count(&made.table, None).await.unwrap(), 3);
    s.write(WriteMode::Insert, &made, &[note(4, "later")]).await.unwrap();
    s.write(WriteMode::Update, &made, &[note(1, "changed")]).await.unwrap();
    let before: Vec<Vec<Value>> = (1..=3).map(|id| note(id, &format!("row {id}"))).collect();
    let mut sources = vec![first];
    if s.db.abilities().shared_snapshot {
        sources.push(snapshot.source().await.unwrap());
    }
    for source in &mut sources {
        assert_eq!(source.count(&made.table, None).await.unwrap(), 3);
        let batch = source.read(&made.request(true)).await.unwrap().next().await.unwrap().unwrap();
        assert_eq!(made.shown(&batch), made.expected(&before));
    }
    assert_eq!(s.rows(&made).await.len(), 4, "a new point sees it");
}

async fn reading_holds_no_writer_up(s: &Subject) {
    let_pass(s);
    let made = filled(s, 2_000).await;
    let mut source = s.db.snapshot().await.unwrap().source().await.unwrap();
    let few = ReadRequest { limits: BatchLimits { rows: 2, bytes: 1 << 20 }, ..made.request(true) };
    let mut stream = source.read(&few).await.unwrap();
    let mut seen = made.shown(&stream.next().await.unwrap().unwrap());
    assert_eq!(s.write(WriteMode::Update, &made, &[note(1, "x"), note(2_000, "x")]).await.unwrap(), 2);
    assert_eq!(s.write(WriteMode::Delete, &made, &[note(1_999, "")]).await.unwrap(), 1);
    while let Some(batch) = stream.next().await.unwrap() {
        seen.extend(made.shown(&batch));
    }
    let before: Vec<Vec<Value>> = (1..=2_000).map(|id| note(id, &format!("row {id}"))).collect();
    assert_eq!(seen, made.expected(&before), "and what is read is of one point");
}

async fn count_check_and_read_agree(s: &Subject) {
    let made = s.make(&plain("t")).await;
    let mut source = s.db.snapshot().await.unwrap().source().await.unwrap();
    assert_eq!(source.count(&made.table, None).await.unwrap(), 0);
    source.check(&made.request(true)).await.unwrap();
    assert!(source.read(&made.request(true)).await.unwrap().next().await.unwrap().is_none());
    drop(source);
    s.write(WriteMode::Insert, &made, &[note(1, "a"), note(2, "")]).await.unwrap();
    let mut source = s.db.snapshot().await.unwrap().source().await.unwrap();
    source.check(&made.request(false)).await.unwrap();
    assert_eq!(source.count(&made.table, None).await.unwrap(), 2);
    assert_eq!(s.rows(&made).await, made.expected(&[note(1, "a"), note(2, "")]));
}

async fn a_filter_is_a_condition_of_its_own(s: &Subject) {
    let made = filled(s, 10).await;
    let filtered = |filter: &str| ReadRequest { filter: Some(filter.to_owned()), ..made.request(true) };
    let snapshot = s.db.snapshot().await.unwrap();
    let mut source = snapshot.source().await.unwrap();
    for filter in ["id <= 4", "id = 1 OR id = 2 OR id IN (3, 4)"] {
        assert_eq!(
            source.count(&made.table, Some(filter)).await.unwrap_or_else(|e| panic!("{filter}: {e}")),
            4,
            "{filter}"
        );
        source.check(&filtered(filter)).await.unwrap();
        let range = Selection::Range { after: Some(vec![Value::Int(1)]), upto: Some(vec![Value::Int(9)]) };
        let ranged = ReadRequest { rows: range, ..filtered(filter) };
        let rows: usize = s.read(&ranged).await.unwrap().iter().map(Batch::rows).sum();
        assert_eq!(rows, 3, "{filter}");
    }
    for more in ["id < 5 -- a comment", "id < 5 /* one */", "id < 5) OR (id > 0", "id < 5; DELETE FROM t"] {
        assert_eq!(kind(source.check(&filtered(more)).await), Some(ErrorKind::Usage), "{more}");
    }
    assert_eq!(kind(source.check(&filtered("nowhere = 1")).await), Some(ErrorKind::SchemaMismatch));
    assert_eq!(kind(source.check(&filtered("id = ")).await), Some(ErrorKind::Usage));
    assert_eq!(source.count(&made.table, None).await.unwrap(), 10, "it is usable afterwards");
}

async fn order_needs_a_key(s: &Subject) {
    let made = s.make(&table("t", &[("a", INT)], &[])).await;
    assert_eq!(made.table.row_key(), None);
    let mut source = s.db.snapshot().await.unwrap().source().await.unwrap();
    source.check(&made.request(false)).await.unwrap();
    let range = Selection::Range { after: None, upto: Some(vec![Value::Int(1)]) };
    for request in [made.request(true), ReadRequest { rows: range, ..made.request(false) }] {
        assert_eq!(kind(source.check(&request).await), Some(ErrorKind::Unsupported));
        assert_eq!(kind(source.read(&request).await.map(drop)), Some(ErrorKind::Unsupported));
    }
}

/// The error of a read, whether it comes at once or with the first batch.
async fn read_error(s: &Subject, request: &ReadRequest) -> Option<ErrorKind> {
    let mut source = s.db.snapshot().await.unwrap().source().await.unwrap();
    let result = match source.read(request).await {
        Ok(mut stream) => stream.next().await.map(drop),
        Err(error) => Err(error),
    };
    kind(result)
}

async fn a_table_that_vanished_is_told_never_empty(s: &Subject) {
    let made = filled(s, 3).await;
    let mut held = s.db.snapshot().await.unwrap().source().await.unwrap();
    s.db.target().await.unwrap().execute(&s.db.drop_ddl(&TableName::new("t"))).await.unwrap();
    let mut source = s.db.snapshot().await.unwrap().source().await.unwrap();
    assert_eq!(kind(source.count(&made.table, None).await), Some(ErrorKind::SchemaMismatch));
    drop(source);
    let mut source = s.db.snapshot().await.unwrap().source().await.unwrap();
    assert_eq!(kind(source.check(&made.request(true)).await), Some(ErrorKind::SchemaMismatch));
    assert_eq!(read_error(s, &made.request(true)).await, Some(ErrorKind::SchemaMismatch));
    // At a point before that it is there, or it is told.
    match held.count(&made.table, None).await {
        Ok(rows) => assert_eq!(rows, 3),
        Err(error) => assert_eq!(error.kind, ErrorKind::SchemaMismatch, "{error}"),
    }
    for mode in [WriteMode::Insert, WriteMode::Update, WriteMode::Delete] {
        let written = s.write(mode, &made, &[note(1, "x")]).await;
        assert_eq!(kind(written), Some(ErrorKind::SchemaMismatch), "{mode:?}");
    }
    let verified = s.db.target().await.unwrap().verify(std::slice::from_ref(&made.table)).await;
    assert!(kind(verified).is_none_or(|k| k == ErrorKind::SchemaMismatch));
}

async fn a_column_that_vanished_is_told(s: &Subject) {
    let made = filled(s, 3).await;
    let mut wider = (*made.table).clone();
    wider.columns.push(ColumnDef { name: "gone".to_owned(), ..wider.columns[1].clone() });
    let wider = Made { wanted: wider.clone(), table: Arc::new(wider) };
    let mut source = s.db.snapshot().await.unwrap().source().await.unwrap();
    assert_eq!(kind(source.check(&wider.request(true)).await), Some(ErrorKind::SchemaMismatch));
    assert_eq!(read_error(s, &wider.request(true)).await, Some(ErrorKind::SchemaMismatch));
    let row = vec![Value::Int(3), Value::Text("x".to_owned()), Value::Text("y".to_owned())];
    for mode in [WriteMode::Insert, WriteMode::Update] {
        let written = s.write(mode, &wider, std::slice::from_ref(&row)).await;
        assert_eq!(kind(written), Some(ErrorKind::SchemaMismatch), "{mode:?}");
    }
    assert_eq!(s.rows(&made).await.len(), 3);
}

async fn only_the_columns_asked_for_come(s: &Subject) {
    let made = filled(s, 2).await;
    let request = ReadRequest { table: Arc::new(made.table.project(&[1])), ..made.request(false) };
    let batches = s.read(&request).await.unwrap();
    assert_eq!(batches.iter().map(|b| (b.columns().len(), b.rows())).collect::<Vec<_>>(), [(1, 2)]);
    let swapped = ReadRequest { table: Arc::new(made.table.project(&[1, 0])), ..made.request(true) };
    let batch = s.read(&swapped).await.unwrap().remove(0);
    assert_eq!(batch.values(1, &[0, 1]), [Value::Bytes(b"row 2".to_vec()), Value::Int(2)]);
}
