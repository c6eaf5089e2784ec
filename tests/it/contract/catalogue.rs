//! Opening, identity, names, descriptions, DDL.

use rowferry::engine::{ErrorKind, OpenOptions, WriteMode, open};
use rowferry::model::{
    ColumnDef, DefaultValue, ForeignKey, ForeignKeyAction, Identity, Index, IndexColumn, LogicalType, Table, TableName,
};

use super::subject::{INT, Subject, TEXT, kind, note, plain, table};
use super::values::every_type;
use crate::support::{Engine, TestDb};

super::on_all! {
    a_missing_table_is_none
    tables_are_sorted_and_without_ours
    a_table_made_from_its_description_is_described_the_same
    hostile_names_are_names
    a_column_mapped_twice_is_the_same
    what_is_dropped_is_gone
}

super::on_servers! {
    identity_is_that_of_the_database
    views_and_systems_tables_are_no_tables
    what_cannot_be_opened_is_told
}

fn options() -> OpenOptions {
    OpenOptions::default()
}

async fn a_missing_table_is_none(s: &Subject) {
    s.make(&plain("there")).await;
    assert_eq!(s.db.describe(&TableName::new("not there")).await.unwrap(), None);
    assert_eq!(s.db.describe(&TableName::qualified("nowhere", "there")).await.unwrap(), None);
    assert_ne!(s.db.describe(&TableName::new("there")).await.unwrap(), None);
}

async fn tables_are_sorted_and_without_ours(s: &Subject) {
    assert_eq!(s.db.tables(None).await.unwrap(), []);
    for name in ["m", "äpfel", "Zebra", "_rowferry_x", "a", "_rowferry"] {
        s.make(&plain(name)).await;
    }
    let names: Vec<String> = s.db.tables(None).await.unwrap().into_iter().map(|n| n.to_string()).collect();
    assert_eq!(names, ["Zebra", "_rowferry", "a", "m", "äpfel"]);
}

async fn what_is_dropped_is_gone(s: &Subject) {
    for name in ["kept", "drop \"`me"] {
        s.make(&plain(name)).await;
    }
    let statement = s.db.drop_ddl(&TableName::new("drop \"`me"));
    s.db.target().await.unwrap().execute(&statement).await.unwrap();
    assert_eq!(s.db.tables(None).await.unwrap(), [TableName::new("kept")]);
}

/// Two tables that use all that a description can say.
fn family() -> [Table; 2] {
    let short = LogicalType::Text { max: Some(20), fixed: false };
    let mut parent = table("parent", &[("a", INT), ("b", short.clone()), ("c", TEXT)], &[1, 0]);
    parent.columns[2].default = Some(DefaultValue::Literal("it's \\ \"so\"".to_owned()));
    let mut child = table(
        "child",
        &[("id", INT), ("pa", INT), ("pb", short.clone()), ("code", short), ("flag", LogicalType::Bool), ("me", INT)],
        &[0],
    );
    child.columns[0].identity = Some(Identity::ByDefault);
    child.columns[3].nullable = false;
    child.columns[4].default = Some(DefaultValue::Literal("true".to_owned()));
    let index = |name: &str, columns: &[(&str, bool)], unique| Index {
        name: name.to_owned(),
        columns: columns.iter().map(|(n, d)| IndexColumn { name: (*n).to_owned(), descending: *d }).collect(),
        unique,
        constraint: false,
        native: None,
    };
    child.indexes = vec![
        index("child_code", &[("code", false)], true),
        index("child_pair", &[("pb", false), ("pa", false)], false),
        index("child_down", &[("flag", true), ("code", false)], false),
        index("child_me", &[("me", false)], false),
    ];
    let reference = |name: &str, columns: &[&str], parent: &str, there: &[&str], on_delete| ForeignKey {
        name: name.to_owned(),
        columns: columns.iter().map(|c| (*c).to_owned()).collect(),
        parent: TableName::new(parent),
        parent_columns: there.iter().map(|c| (*c).to_owned()).collect(),
        on_delete,
        on_update: ForeignKeyAction::NoAction,
        native: None,
    };
    child.foreign_keys = vec![
        reference("child_parent", &["pb", "pa"], "parent", &["b", "a"], ForeignKeyAction::Cascade),
        reference("child_self", &["me"], "child", &["id"], ForeignKeyAction::SetNull),
    ];
    [parent, child]
}

/// What a table refers to, without the names, which the engine may change.
fn references(table: &Table) -> Vec<String> {
    let one = |f: &ForeignKey| {
        format!("{:?} {} {:?} {:?} {:?}", f.columns, f.parent, f.parent_columns, f.on_delete, f.on_update)
    };
    sorted(table.foreign_keys.iter().map(one))
}

/// Its indexes, without the names.
fn indexes(table: &Table) -> Vec<String> {
    sorted(table.indexes.iter().map(|i| format!("{:?} {} {:?}", i.columns, i.unique, i.native)))
}

fn sorted(texts: impl Iterator<Item = String>) -> Vec<String> {
    let mut out: Vec<String> = texts.collect();
    out.sort();
    out
}

async fn a_table_made_from_its_description_is_described_the_same(s: &Subject) {
    for wanted in family() {
        let made = s.make(&wanted).await.table;
        assert_eq!(made.primary_key, wanted.primary_key);
        assert_eq!(indexes(&made), indexes(&wanted), "{}", wanted.name);
        assert_eq!(references(&made), references(&wanted), "{}", wanted.name);
        // From the description alone, under another name: names of indexes must not collide. Those of foreign keys are
        // the database's in some engines, and a plan chooses free ones.
        let mut again = (*made).clone();
        again.name = TableName::new(format!("{}_2", wanted.name));
        for key in &mut again.foreign_keys {
            key.name.push_str("_2");
        }
        let copy = s.make(&again).await.table;
        assert_eq!((&copy.primary_key, indexes(&copy)), (&made.primary_key, indexes(&made)));
        assert_eq!(references(&copy), references(&made));
    }
}

async fn hostile_names_are_names(s: &Subject) {
    let long = "n".repeat(63);
    let longer = "é".repeat(32);
    let names = [
        "two words",
        "select",
        "\"we\"\"ird",
        "a`b",
        "it's",
        "😀 emoji",
        "a.b",
        "x]y[",
        "100% _",
        "back\\slash",
        "-- no",
        "größe",
        "?1 $1 :a @b",
        "tab\there",
        &long,
        &longer,
    ];
    let mut made = 0;
    for name in names {
        if let Some(fault) = s.db.name_fault(name) {
            assert!(!fault.is_empty());
            continue;
        }
        made += 1;
        let mut wanted = table(name, &[(name, INT), ("note", TEXT)], &[0]);
        wanted.indexes.push(Index {
            name: name.to_owned(),
            columns: vec![IndexColumn { name: name.to_owned(), descending: false }],
            unique: true,
            constraint: false,
            native: None,
        });
        let t = s.make(&wanted).await;
        assert_eq!((t.table.name.name.as_str(), t.table.columns[0].name.as_str()), (name, name));
        let rows = [note(1, "a"), note(2, "b")];
        assert_eq!(s.write(WriteMode::Insert, &t, &rows).await.unwrap(), 2, "{name}");
        assert_eq!(s.write(WriteMode::Update, &t, &[note(2, "c")]).await.unwrap(), 1, "{name}");
        assert_eq!(s.write(WriteMode::Delete, &t, &rows[..1]).await.unwrap(), 1, "{name}");
        assert_eq!(s.rows(&t).await, t.expected(&[note(2, "c")]), "{name}");
        assert!(s.db.tables(None).await.unwrap().contains(&TableName::new(name)), "{name}");
        assert_eq!(s.db.target().await.unwrap().verify(&[t.table]).await.unwrap(), Vec::<String>::new());
    }
    assert!(made >= names.len() - 2, "{made} of {} names could be made", names.len());
}

async fn a_column_mapped_twice_is_the_same(s: &Subject) {
    for logical in every_type() {
        let wanted = table("t", &[("c", logical.clone())], &[]);
        let once = s.db.map_column(&wanted, &wanted.columns[0]);
        let mut own = wanted.clone();
        own.columns = vec![once.column.clone()];
        let twice = s.db.map_column(&own, &once.column);
        assert_eq!(twice.column, once.column, "{logical:?}");
        assert_eq!(twice.loss, None, "{logical:?}: its own column is exact");
    }
    let key = ColumnDef { nullable: false, identity: Some(Identity::ByDefault), ..ColumnDef::new("id", INT) };
    let mut wanted = table("t", &[("id", INT)], &[0]);
    wanted.columns = vec![key];
    let mapped = s.db.map_column(&wanted, &wanted.columns[0]).column;
    assert_eq!(mapped.identity, Some(Identity::ByDefault));
}

async fn identity_is_that_of_the_database(s: &Subject) {
    s.make(&plain("t")).await;
    let url = s.server().url();
    let spelled = match s.server().engine() {
        Engine::Sqlite => url.replacen("sqlite:/", "sqlite:///./", 1),
        _ => url.replacen("127.0.0.1", "localhost", 1),
    };
    assert_ne!(spelled, url);
    let again = open(&spelled, &options()).await.unwrap();
    assert_eq!(again.identity().await.unwrap(), s.db.identity().await.unwrap());
    let other = TestDb::new(s.server().engine());
    let other = open(other.url(), &OpenOptions { create: true, ..OpenOptions::default() }).await.unwrap();
    assert_ne!(other.identity().await.unwrap(), s.db.identity().await.unwrap());
}

async fn views_and_systems_tables_are_no_tables(s: &Subject) {
    s.server().execute("CREATE TABLE t (id INT NOT NULL PRIMARY KEY); CREATE VIEW v AS SELECT id FROM t");
    assert_eq!(s.db.tables(None).await.unwrap(), [TableName::new("t")]);
    assert_eq!(s.db.describe(&TableName::new("v")).await.unwrap(), None);
}

async fn what_cannot_be_opened_is_told(s: &Subject) {
    let url = s.server().url();
    let at = |part: &str, other: &str| {
        let changed = url.replacen(part, other, 1);
        assert_ne!(changed, url);
        changed
    };
    let port = url.rsplit(':').next().and_then(|rest| rest.split('/').next()).unwrap_or_default().to_owned();
    let cases = match s.server().engine() {
        Engine::Sqlite => {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("text");
            std::fs::write(&path, "this is no database at all, ".repeat(100)).unwrap();
            let text = open(&format!("sqlite:{}", path.display()), &options()).await;
            assert_eq!(kind(text), Some(ErrorKind::Usage));
            vec![
                (at("test.db", "missing.db"), ErrorKind::Unreachable),
                (at("test.db", "test.db?colour=1"), ErrorKind::Usage),
            ]
        }
        engine => {
            let user = if engine == Engine::Postgres { "postgres@" } else { "root@" };
            vec![
                (at(&format!(":{port}/"), ":1/"), ErrorKind::Unreachable),
                (at(user, "nobody_of_that_name:x@"), ErrorKind::Denied),
                (format!("{url}_not_there"), ErrorKind::Usage),
                (format!("{url}?colour=1"), ErrorKind::Usage),
            ]
        }
    };
    for (url, wanted) in cases {
        let result = open(&url, &options()).await;
        let error = result.err().unwrap_or_else(|| panic!("{url} opens"));
        assert_eq!(error.kind, wanted, "{url}: {error}");
        assert!(!error.message().is_empty());
    }
    assert_eq!(kind(open("nosql://x", &options()).await), Some(ErrorKind::Usage));
}
