//! Transactions, counts, refusals, verification.

use std::sync::Arc;

use rowferry::engine::{ErrorKind, Result, Target, WriteMode, WriteOptions};
use rowferry::model::{
    Batch, Column, DefaultValue, ForeignKey, ForeignKeyAction, Identity, Index, IndexColumn, Table, TableName, Value,
};

use super::subject::{INT, Made, Row, Subject, TEXT, kind, note, plain, table};
use crate::support::Engine;

super::on_all! {
    writes_tell_the_rows_affected
    an_insert_never_overwrites
    what_a_constraint_refuses_is_told_by_the_flush
    rows_without_a_key_are_deleted_one_for_each_given
    savepoints_hold_and_a_commit_is_durable
    a_dropped_target_has_written_nothing
    after_an_error_a_rollback_makes_it_usable
    nothing_is_seen_before_the_commit
    an_absent_value_is_left_as_it_is
    foreign_keys_wait_when_told_to
    verify_names_orphans
    verify_sets_the_numbering_past_the_highest
    a_wide_update_finds_each_row
}

super::on_servers! {
    triggers_are_silent_when_told_to_be
    generated_columns_are_skipped
}

const CHECKED: WriteOptions =
    WriteOptions { silence_triggers: false, defer_foreign_keys: false, labelled: false, point: false };
const DEFERRED: WriteOptions = WriteOptions { defer_foreign_keys: true, ..CHECKED };

/// Writes inside the transaction until the server has accepted it.
async fn accepted(target: &mut dyn Target, mode: WriteMode, batch: &Batch) -> Result<u64> {
    let count = target.write(mode, batch).await?;
    target.flush().await.map(|()| count)
}

async fn writes_tell_the_rows_affected(s: &Subject) {
    let t = s.make(&plain("t")).await;
    assert_eq!(s.write(WriteMode::Insert, &t, &[note(1, "a"), note(2, "b"), note(3, "c")]).await.unwrap(), 3);
    assert_eq!(s.write(WriteMode::Insert, &t, &[]).await.unwrap(), 0);
    // Found counts, changed or not; what is not there does not.
    assert_eq!(s.write(WriteMode::Update, &t, &[note(1, "a"), note(2, "B"), note(9, "z")]).await.unwrap(), 2);
    assert_eq!(s.rows(&t).await, t.expected(&[note(1, "a"), note(2, "B"), note(3, "c")]));
    assert_eq!(s.write(WriteMode::Delete, &t, &[note(1, "not looked at"), note(9, "")]).await.unwrap(), 1);
    assert_eq!(s.rows(&t).await, t.expected(&[note(2, "B"), note(3, "c")]));
    // A table of nothing but its key.
    let k = s.make(&table("k", &[("id", INT)], &[0])).await;
    s.write(WriteMode::Insert, &k, &[vec![Value::Int(1)]]).await.unwrap();
    assert_eq!(s.write(WriteMode::Update, &k, &[vec![Value::Int(1)], vec![Value::Int(2)]]).await.unwrap(), 1);
}

async fn a_wide_update_finds_each_row(s: &Subject) {
    let t = s.make(&plain("t")).await;
    let rows = |text: &str| (1..=300).map(|id| note(id, text)).collect::<Vec<_>>();
    s.write(WriteMode::Insert, &t, &rows("old")).await.unwrap();
    assert_eq!(s.write(WriteMode::Update, &t, &rows("new")).await.unwrap(), 300);
    assert_eq!(s.write(WriteMode::Update, &t, &rows("new")).await.unwrap(), 300, "unchanged rows are found too");
    assert_eq!(s.rows(&t).await, t.expected(&rows("new")));
    assert_eq!(s.write(WriteMode::Delete, &t, &rows("")).await.unwrap(), 300);
    assert_eq!(s.rows(&t).await, Vec::<Row>::new());
}

async fn an_insert_never_overwrites(s: &Subject) {
    let t = s.make(&plain("t")).await;
    s.write(WriteMode::Insert, &t, &[note(1, "first")]).await.unwrap();
    for rows in [[note(2, "new"), note(1, "second")], [note(3, "twice"), note(3, "twice")]] {
        assert_eq!(kind(s.write(WriteMode::Insert, &t, &rows).await), Some(ErrorKind::Constraint));
        assert_eq!(s.rows(&t).await, t.expected(&[note(1, "first")]));
    }
}

/// A table whose `code` is unique and whose `must` is not null.
fn strict() -> Table {
    let mut table = table("strict", &[("id", INT), ("code", INT), ("must", INT)], &[0]);
    table.columns[2].nullable = false;
    table.indexes.push(Index {
        name: "strict_code".to_owned(),
        columns: vec![IndexColumn { name: "code".to_owned(), descending: false }],
        unique: true,
        constraint: false,
        native: None,
    });
    table
}

fn three(id: i64, code: Option<i64>, must: Option<i64>) -> Vec<Value> {
    [Some(id), code, must].map(|v| v.map_or(Value::Null, Value::Int)).to_vec()
}

async fn what_a_constraint_refuses_is_told_by_the_flush(s: &Subject) {
    let t = s.make(&strict()).await;
    // NULLs of a unique key are distinct.
    let rows = [three(1, Some(7), Some(0)), three(2, None, Some(0)), three(3, None, Some(0))];
    s.write(WriteMode::Insert, &t, &rows).await.unwrap();
    for (mode, row) in [
        (WriteMode::Insert, three(4, Some(7), Some(0))),
        (WriteMode::Update, three(2, Some(7), Some(0))),
        (WriteMode::Insert, three(4, Some(8), None)),
        (WriteMode::Update, three(2, Some(8), None)),
    ] {
        let mut target = s.begun().await;
        target.savepoint().await.unwrap();
        let error = accepted(target.as_mut(), mode, &t.batch(std::slice::from_ref(&row))).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Constraint, "{mode:?} {row:?}: {error}");
        assert!(error.message().contains("strict"), "it names the table: {error}");
        // The rest of the transaction goes on.
        target.rollback_to_savepoint().await.unwrap();
        accepted(target.as_mut(), WriteMode::Update, &t.batch(&rows)).await.unwrap();
        target.commit().await.unwrap();
        assert_eq!(s.rows(&t).await, t.expected(&rows));
    }
}

async fn rows_without_a_key_are_deleted_one_for_each_given(s: &Subject) {
    let t = s.make(&table("t", &[("a", TEXT), ("b", INT)], &[])).await;
    let row = |a: Option<&str>, b: Option<i64>| {
        vec![a.map_or(Value::Null, |a| Value::Text(a.to_owned())), b.map_or(Value::Null, Value::Int)]
    };
    let (x, none, half) = (row(Some("x"), Some(1)), row(None, None), row(Some("x"), None));
    let all = [x.clone(), x.clone(), x.clone(), none.clone(), none.clone(), half.clone(), row(Some("X"), Some(1))];
    s.write(WriteMode::Insert, &t, &all).await.unwrap();
    let gone = [x.clone(), none.clone(), x.clone(), row(Some("not there"), Some(1))];
    assert_eq!(s.write(WriteMode::Delete, &t, &gone).await.unwrap(), 3);
    let mut left = t.expected(&[x, none, half, row(Some("X"), Some(1))]);
    left.sort();
    assert_eq!(s.rows(&t).await, left);
    assert_eq!(kind(s.write(WriteMode::Update, &t, &all[..1]).await), Some(ErrorKind::Unsupported));
}

async fn savepoints_hold_and_a_commit_is_durable(s: &Subject) {
    let t = s.make(&plain("t")).await;
    let one = |id: i64| t.batch(&[note(id, "x")]);
    let mut target = s.begun().await;
    target.write(WriteMode::Insert, &one(1)).await.unwrap();
    target.savepoint().await.unwrap();
    target.write(WriteMode::Insert, &one(2)).await.unwrap();
    target.rollback_to_savepoint().await.unwrap();
    target.write(WriteMode::Insert, &one(3)).await.unwrap();
    target.flush().await.unwrap();
    // It stays set: as often as wanted.
    target.rollback_to_savepoint().await.unwrap();
    target.rollback_to_savepoint().await.unwrap();
    target.write(WriteMode::Insert, &one(4)).await.unwrap();
    // Set anew, what came before is kept.
    target.savepoint().await.unwrap();
    target.write(WriteMode::Delete, &one(1)).await.unwrap();
    target.write(WriteMode::Update, &t.batch(&[note(4, "changed")])).await.unwrap();
    target.rollback_to_savepoint().await.unwrap();
    target.write(WriteMode::Insert, &one(5)).await.unwrap();
    target.commit().await.unwrap();
    assert_eq!(s.rows(&t).await, t.expected(&[note(1, "x"), note(4, "x"), note(5, "x")]));
    // The connection goes on; a rollback without a transaction harms nobody.
    target.rollback().await.unwrap();
    target.begin(DEFERRED).await.unwrap();
    target.write(WriteMode::Insert, &one(6)).await.unwrap();
    target.rollback().await.unwrap();
    target.rollback().await.unwrap();
    drop(target);
    assert_eq!(s.rows(&t).await.len(), 3);
}

async fn a_dropped_target_has_written_nothing(s: &Subject) {
    let t = s.make(&plain("t")).await;
    let mut target = s.begun().await;
    accepted(target.as_mut(), WriteMode::Insert, &t.batch(&[note(1, "x")])).await.unwrap();
    drop(target);
    // The same row can be written, so the lock on it is gone too.
    assert_eq!(s.write(WriteMode::Insert, &t, &[note(1, "y")]).await.unwrap(), 1);
    assert_eq!(s.rows(&t).await, t.expected(&[note(1, "y")]));
}

async fn after_an_error_a_rollback_makes_it_usable(s: &Subject) {
    let t = s.make(&plain("t")).await;
    s.write(WriteMode::Insert, &t, &[note(1, "x")]).await.unwrap();
    let mut target = s.begun().await;
    accepted(target.as_mut(), WriteMode::Insert, &t.batch(&[note(2, "x")])).await.unwrap();
    accepted(target.as_mut(), WriteMode::Insert, &t.batch(&[note(1, "x")])).await.unwrap_err();
    target.rollback().await.unwrap();
    assert_eq!(s.rows(&t).await, t.expected(&[note(1, "x")]));
    target.begin(DEFERRED).await.unwrap();
    target.write(WriteMode::Insert, &t.batch(&[note(3, "x")])).await.unwrap();
    target.commit().await.unwrap();
    assert_eq!(s.rows(&t).await, t.expected(&[note(1, "x"), note(3, "x")]));
}

async fn nothing_is_seen_before_the_commit(s: &Subject) {
    let t = s.make(&plain("t")).await;
    s.write(WriteMode::Insert, &t, &[note(1, "x")]).await.unwrap();
    let mut target = s.begun().await;
    accepted(target.as_mut(), WriteMode::Insert, &t.batch(&[note(2, "x")])).await.unwrap();
    accepted(target.as_mut(), WriteMode::Update, &t.batch(&[note(1, "y")])).await.unwrap();
    assert_eq!(s.rows(&t).await, t.expected(&[note(1, "x")]));
    target.commit().await.unwrap();
    assert_eq!(s.rows(&t).await, t.expected(&[note(1, "y"), note(2, "x")]));
}

/// Rows of which `None` is no part.
fn partial(table: &Arc<Table>, rows: &[Vec<Option<Value>>]) -> Batch {
    let mut columns = vec![Column::default(); table.columns.len()];
    for row in rows {
        for ((column, def), value) in columns.iter_mut().zip(&table.columns).zip(row) {
            match value {
                None => column.push_absent(),
                Some(value) => column.push_cell(super::subject::cell(&def.logical, value)),
            }
        }
    }
    Batch::new(table.clone(), columns)
}

async fn an_absent_value_is_left_as_it_is(s: &Subject) {
    let mut wanted = table("t", &[("id", INT), ("a", INT), ("b", INT)], &[0]);
    wanted.columns[1].default = Some(DefaultValue::Literal("7".to_owned()));
    let t = s.make(&wanted).await;
    let value = |v: i64| Some(Value::Int(v));
    let mut target = s.begun().await;
    let rows = [vec![value(1), None, value(1)], vec![value(2), value(2), None], vec![value(3), None, None]];
    assert_eq!(accepted(target.as_mut(), WriteMode::Insert, &partial(&t.table, &rows)).await.unwrap(), 3);
    let rows = [vec![value(1), value(5), None], vec![value(2), None, value(5)], vec![value(3), None, None]];
    assert_eq!(accepted(target.as_mut(), WriteMode::Update, &partial(&t.table, &rows)).await.unwrap(), 3);
    target.commit().await.unwrap();
    let expected = [three(1, Some(5), Some(1)), three(2, Some(2), Some(5)), three(3, Some(7), None)];
    assert_eq!(s.rows(&t).await, t.expected(&expected));
    let mut target = s.begun().await;
    let key_alone = partial(&t.table, &[vec![value(1), None, None]]);
    assert_eq!(accepted(target.as_mut(), WriteMode::Delete, &key_alone).await.unwrap(), 1);
}

/// A parent, and a child that refers to it by two columns.
async fn family(s: &Subject) -> (Made, Made) {
    let parent = s.make(&table("parent", &[("a", INT), ("b", INT)], &[0, 1])).await;
    let mut child = table("child", &[("id", INT), ("pa", INT), ("pb", INT)], &[0]);
    child.foreign_keys.push(ForeignKey {
        name: "child_parent".to_owned(),
        columns: vec!["pa".to_owned(), "pb".to_owned()],
        parent: TableName::new("parent"),
        parent_columns: vec!["a".to_owned(), "b".to_owned()],
        on_delete: ForeignKeyAction::NoAction,
        on_update: ForeignKeyAction::NoAction,
        native: None,
    });
    (parent, s.make(&child).await)
}

async fn foreign_keys_wait_when_told_to(s: &Subject) {
    let (parent, child) = family(s).await;
    let orphan = child.batch(&[three(1, Some(1), Some(2))]);
    let mut target = s.db.target().await.unwrap();
    target.begin(CHECKED).await.unwrap();
    let refused = match accepted(target.as_mut(), WriteMode::Insert, &orphan).await {
        Ok(_) => target.commit().await,
        Err(error) => Err(error),
    };
    assert_eq!(kind(refused), Some(ErrorKind::Constraint), "checked by the commit at the latest");
    target.rollback().await.unwrap();
    target.begin(DEFERRED).await.unwrap();
    accepted(target.as_mut(), WriteMode::Insert, &orphan).await.unwrap();
    accepted(target.as_mut(), WriteMode::Insert, &parent.batch(&[vec![Value::Int(1), Value::Int(2)]])).await.unwrap();
    target.commit().await.unwrap();
    assert_eq!(s.rows(&child).await, child.expected(&[three(1, Some(1), Some(2))]));
    // The setting is the transaction's, not the connection's.
    target.begin(CHECKED).await.unwrap();
    let refused = match accepted(target.as_mut(), WriteMode::Insert, &child.batch(&[three(2, Some(9), Some(9))])).await
    {
        Ok(_) => target.commit().await,
        Err(error) => Err(error),
    };
    assert_eq!(kind(refused), Some(ErrorKind::Constraint));
}

async fn verify_names_orphans(s: &Subject) {
    let (parent, child) = family(s).await;
    s.write(WriteMode::Insert, &parent, &[vec![Value::Int(1), Value::Int(2)]]).await.unwrap();
    // A reference with a NULL in it refers to nothing.
    let good = [three(1, Some(1), Some(2)), three(2, None, Some(9)), three(3, None, None)];
    let bad = [three(4, Some(2), Some(1)), three(5, Some(1), Some(9))];
    s.write(WriteMode::Insert, &child, &good).await.unwrap();
    let tables = [parent.table.clone(), child.table.clone()];
    let mut target = s.db.target().await.unwrap();
    assert_eq!(target.verify(&tables).await.unwrap(), Vec::<String>::new());
    target.begin(DEFERRED).await.unwrap();
    target.write(WriteMode::Insert, &child.batch(&bad)).await.unwrap();
    let inside = target.verify(&tables).await.unwrap();
    target.commit().await.unwrap();
    for found in [inside, target.verify(&tables).await.unwrap()] {
        assert_eq!(found.len(), 1, "one sentence for each reference: {found:?}");
        assert!(found[0].contains("child") && found[0].contains("parent") && found[0].contains('2'), "{found:?}");
    }
    assert_eq!(target.verify(&tables[..1]).await.unwrap(), Vec::<String>::new());
}

async fn verify_sets_the_numbering_past_the_highest(s: &Subject) {
    let mut wanted = plain("t");
    wanted.columns[0].identity = Some(Identity::ByDefault);
    let t = s.make(&wanted).await;
    assert!(t.table.columns[0].identity.is_some());
    s.write(WriteMode::Insert, &t, &[note(3, "x"), note(41, "x"), note(0, "zero"), note(-5, "below")]).await.unwrap();
    let mut target = s.db.target().await.unwrap();
    target.verify(std::slice::from_ref(&t.table)).await.unwrap();
    target.begin(DEFERRED).await.unwrap();
    let unnumbered = partial(&t.table, &[vec![None, Some(Value::Text("numbered".to_owned()))]]);
    assert_eq!(accepted(target.as_mut(), WriteMode::Insert, &unnumbered).await.unwrap(), 1);
    target.commit().await.unwrap();
    let rows = s.rows(&t).await;
    let numbers: Vec<i64> = rows.iter().map(|r| r[0].as_deref().unwrap_or_default().parse().unwrap()).collect();
    assert_eq!(numbers[..4], [-5, 0, 3, 41], "a given number is taken as it is");
    assert!(numbers.len() == 5 && numbers[4] > 41, "{numbers:?}");
}

async fn triggers_are_silent_when_told_to_be(s: &Subject) {
    let t = s.make(&plain("t")).await;
    s.make(&table("log", &[("x", INT)], &[])).await;
    s.server().execute(match s.server().engine() {
        Engine::Sqlite => "CREATE TRIGGER tr AFTER INSERT ON t BEGIN INSERT INTO log VALUES (new.id); END",
        Engine::Postgres => {
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO log VALUES (new.id); RETURN new; END'; \
             CREATE TRIGGER tr AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()"
        }
        _ => "CREATE TRIGGER tr AFTER INSERT ON t FOR EACH ROW INSERT INTO log VALUES (new.id)",
    });
    let described = s.db.describe(&TableName::new("t")).await.unwrap().unwrap();
    assert_eq!(described.triggers, ["tr"]);
    let mut target = s.db.target().await.unwrap();
    for (id, silence_triggers) in [(1, true), (2, false), (3, true)] {
        target.begin(WriteOptions { silence_triggers, ..DEFERRED }).await.unwrap();
        target.write(WriteMode::Insert, &t.batch(&[note(id, "x")])).await.unwrap();
        target.commit().await.unwrap();
    }
    let ran: Vec<String> = s.server().query("SELECT x FROM log ORDER BY x").into_iter().flatten().flatten().collect();
    let silences = s.db.abilities().silences_triggers;
    if silences {
        assert!(!ran.contains(&"1".to_owned()) && !ran.contains(&"3".to_owned()), "{ran:?}");
    } else {
        assert_eq!(ran, ["1", "2", "3"]);
    }
}

async fn generated_columns_are_skipped(s: &Subject) {
    s.server().execute(
        "CREATE TABLE g (id BIGINT NOT NULL PRIMARY KEY, twice BIGINT GENERATED ALWAYS AS (id * 2) STORED, v BIGINT)",
    );
    let described = s.db.describe(&TableName::new("g")).await.unwrap().unwrap();
    assert_eq!(described.columns.iter().map(|c| c.generated).collect::<Vec<_>>(), [false, true, false]);
    let g = Made { wanted: described.clone(), table: Arc::new(described) };
    assert_eq!(s.write(WriteMode::Insert, &g, &[three(1, Some(99), Some(1)), three(2, None, None)]).await.unwrap(), 2);
    assert_eq!(s.write(WriteMode::Update, &g, &[three(2, Some(99), Some(5))]).await.unwrap(), 1);
    let expected = [three(1, Some(2), Some(1)), three(2, Some(4), Some(5))];
    assert_eq!(s.rows(&g).await, g.expected(&expected));
    assert_eq!(s.write(WriteMode::Delete, &g, &[three(1, None, None)]).await.unwrap(), 1);
}
