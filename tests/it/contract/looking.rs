//! Whether anything is there, and whether anything has happened: what is asked again and again.

use rowferry::engine::{Looked, WriteMode, WriteOptions};

use super::subject::{INT, Subject, TEXT, note, plain, table};

super::on_all! {
    tables_that_hold_something_are_told_from_those_that_do_not
    a_stamp_tells_that_something_was_committed
}

const POINT: WriteOptions =
    WriteOptions { silence_triggers: false, defer_foreign_keys: false, labelled: false, point: true };

/// More tables than are looked at one by one.
const MANY: usize = 20;

async fn tables_that_hold_something_are_told_from_those_that_do_not(subject: &Subject) {
    let mut made = Vec::new();
    for n in 0..MANY {
        made.push(subject.make(&table(&format!("t {n}"), &[("id", INT), ("note", TEXT)], &[0])).await);
    }
    let full = |n: usize| n % 3 == 1;
    for n in (0..MANY).filter(|n| full(*n)) {
        let id = i64::try_from(n).unwrap();
        subject.write(WriteMode::Insert, &made[n], &[note(id, "a"), note(id + 100, "b")]).await.unwrap();
    }
    let mut target = subject.db.target().await.unwrap();
    for few in [1, 3, MANY] {
        for above in [None, Some(-5), Some(107), Some(119)] {
            let looked: Vec<Looked> = made[..few]
                .iter()
                .map(|made| Looked { table: made.table.clone(), above: above.map(|than| (0, than)) })
                .collect();
            let wanted: Vec<bool> =
                (0..few).map(|n| full(n) && above.is_none_or(|than| i64::try_from(n).unwrap() + 100 > than)).collect();
            // Asked twice: an engine may keep what it made for the first time.
            for _ in 0..2 {
                target.begin(POINT).await.unwrap();
                assert_eq!(target.holding(&looked).await.unwrap(), wanted, "{few} above {above:?}");
                target.rollback().await.unwrap();
                assert_eq!(target.holding(&looked).await.unwrap(), wanted, "{few} above {above:?}, no transaction");
            }
        }
    }
    target.begin(POINT).await.unwrap();
    assert!(target.holding(&[]).await.unwrap().is_empty());
    target.rollback().await.unwrap();
}

async fn a_stamp_tells_that_something_was_committed(subject: &Subject) {
    let made = subject.make(&plain("t")).await;
    let mut watcher = subject.db.target().await.unwrap();
    let Some(first) = watcher.stamp().await.unwrap() else { return };
    let mut writer = subject.db.target().await.unwrap();
    writer.begin(WriteOptions::default()).await.unwrap();
    writer.write(WriteMode::Insert, &made.batch(&[note(1, "a")])).await.unwrap();
    writer.flush().await.unwrap();
    // Read while it is open: when it commits, another is due.
    let open = watcher.stamp().await.unwrap().unwrap();
    writer.commit().await.unwrap();
    let committed = watcher.stamp().await.unwrap().unwrap();
    assert_ne!(first, committed);
    assert_ne!(open, committed);
}
