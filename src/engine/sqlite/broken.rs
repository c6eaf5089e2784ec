//! Files that are missing or damaged: what is wrong with one, putting it aside, and making a new one from what can still
//! be read of it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::ddl::quote;
use super::error::translate;
use crate::engine::{Error, ErrorKind, Result};

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// It is not there, or holds nothing at all.
    Missing,
    /// It is no database, or not a whole one; in SQLite's words.
    Corrupt(String),
}

/// What came of a file that was made anew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// Whether there is one.
    pub made: bool,
    /// What could not be brought over, a sentence each.
    pub lost: Vec<String>,
}

/// What stands beside a file and belongs to it, by its ending.
const BESIDE: [&str; 3] = ["-journal", "-wal", "-shm"];

async fn task<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Error::new(ErrorKind::Protocol, format!("a look at a file ended by a mistake of ours: {e}")))?
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// What is wrong with a file; `None`: it can be read from one end to the other. `indexes`: whether they are compared with
/// their tables too.
pub async fn damage(path: &Path, indexes: bool) -> Result<Option<Damage>> {
    let path = path.to_owned();
    task(move || {
        // A file without a byte is what SQLite leaves of a database that was never written.
        if !std::fs::metadata(&path).is_ok_and(|file| file.len() > 0) {
            return Ok(Some(Damage::Missing));
        }
        let look = || -> rusqlite::Result<String> {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let conn = Connection::open_with_flags(&path, flags)?;
            let pragma = if indexes { "PRAGMA integrity_check(1)" } else { "PRAGMA quick_check(1)" };
            conn.query_row(pragma, [], |row| row.get(0))
        };
        match look() {
            Ok(said) if said == "ok" => Ok(None),
            Ok(said) => Ok(Some(Damage::Corrupt(said.lines().last().unwrap_or_default().to_owned()))),
            Err(e) if is_damage(&e) => Ok(Some(Damage::Corrupt(e.to_string()))),
            Err(e) => Err(translate(&e).context(path.display())),
        }
    })
    .await
}

fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// The URL of a file.
#[must_use]
pub fn url(path: &Path) -> String {
    format!("sqlite:{}", path.display())
}

/// Copies a file with its journal, so that whatever is done with the copy leaves the file as it was.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::copy(from, to).map_err(|e| unusable(to, &e))?;
    for ending in ["-journal", "-wal"] {
        let journal = beside(from, ending);
        if journal.exists() {
            std::fs::copy(&journal, beside(to, ending)).map_err(|e| unusable(&journal, &e))?;
        }
    }
    Ok(())
}

/// Renames a file with its journal. The journal goes first: one left alone would be taken for that of the next file of
/// this name, and be played into it.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    for ending in BESIDE.into_iter().chain([""]) {
        let (from, to) = (beside(from, ending), beside(to, ending));
        if from.exists() {
            std::fs::rename(&from, &to).map_err(|e| unusable(&from, &e))?;
        }
    }
    Ok(())
}

/// Removes a file with its journal.
pub fn remove(path: &Path) {
    for ending in BESIDE.into_iter().chain([""]) {
        // What is not there need not go.
        let _ = std::fs::remove_file(beside(path, ending));
    }
}

fn unusable(path: &Path, e: &std::io::Error) -> Error {
    let kind = match e.kind() {
        std::io::ErrorKind::StorageFull => ErrorKind::Full,
        std::io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        _ => ErrorKind::Unreachable,
    };
    Error::new(kind, format!("{}: {e}", path.display()))
}

/// Makes a new file with the tables, indexes, views and triggers of another, and the rows of all tables but `without`,
/// as far as they can be read. Nothing of rowferry's own goes along.
pub async fn salvage(broken: &Path, fresh: &Path, without: &BTreeSet<String>) -> Result<Salvaged> {
    let (broken, fresh, without) = (broken.to_owned(), fresh.to_owned(), without.clone());
    task(move || {
        let mut salvaged = Salvaged::default();
        match rebuilt(&broken, &fresh, &without, &mut salvaged) {
            Err(e) if is_damage(&e) => {
                remove(&fresh);
                let sentence = format!("its catalogue cannot be read ({e}), so what no sync brings is lost");
                Ok(Salvaged { made: false, lost: vec![sentence] })
            }
            Err(e) => Err(translate(&e).context(fresh.display())),
            Ok(()) => Ok(Salvaged { made: true, ..salvaged }),
        }
    })
    .await
}

/// An object of a catalogue.
struct Object {
    kind: String,
    name: String,
    sql: String,
}

fn rebuilt(broken: &Path, fresh: &Path, without: &BTreeSet<String>, salvaged: &mut Salvaged) -> rusqlite::Result<()> {
    let old = Connection::open(broken)?;
    let number = |name: &str| old.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0));
    let mut settings = String::new();
    for name in ["page_size", "auto_vacuum", "user_version", "application_id"] {
        settings += &format!("PRAGMA {name} = {};", number(name)?);
    }
    let encoding: String = old.query_row("PRAGMA encoding", [], |row| row.get(0))?;
    let journal: String = old.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    let objects = objects(&old)?;
    let new = Connection::open(fresh)?;
    new.execute_batch(&format!("PRAGMA encoding = '{encoding}'; {settings} PRAGMA foreign_keys = OFF"))?;
    if journal == "wal" {
        new.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    }
    new.execute_batch("BEGIN")?;
    let of =
        |kinds: &'static [&'static str]| objects.iter().filter(move |object| kinds.contains(&object.kind.as_str()));
    for object in of(&["table", "virtual"]) {
        make(&new, object, salvaged);
    }
    for object in of(&["table"]).filter(|object| !without.contains(&object.name)) {
        match copy_rows(&old, &new, &object.name) {
            Ok(()) => {}
            Err(e) if is_damage(&e) => {
                salvaged.lost.push(format!("table {}: not all of its rows can be read", object.name));
            }
            Err(e) => return Err(e),
        }
    }
    keep_numbering(&old, &new)?;
    for object in of(&["index", "view", "trigger"]) {
        make(&new, object, salvaged);
    }
    new.execute_batch("COMMIT")
}

/// Everything but what SQLite or rowferry makes by itself, in the order in which it was made.
fn objects(old: &Connection) -> rusqlite::Result<Vec<Object>> {
    let sql = "SELECT CASE WHEN sql LIKE 'CREATE VIRTUAL%' THEN 'virtual' ELSE type END, name, sql FROM sqlite_schema \
               WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
               AND name NOT LIKE '\\_rowferry\\_%' ESCAPE '\\' \
               AND tbl_name NOT LIKE '\\_rowferry\\_%' ESCAPE '\\' \
               AND name NOT IN (SELECT name FROM pragma_table_list WHERE type = 'shadow') ORDER BY rowid";
    let mut statement = old.prepare(sql)?;
    let rows = statement.query_map([], |row| Ok(Object { kind: row.get(0)?, name: row.get(1)?, sql: row.get(2)? }))?;
    rows.collect()
}

fn make(new: &Connection, object: &Object, salvaged: &mut Salvaged) {
    match new.execute_batch(&object.sql) {
        Ok(()) if object.kind == "virtual" => {
            salvaged.lost.push(format!("virtual table {}: made anew and empty; fill it again", object.name));
        }
        Ok(()) => {}
        Err(e) => salvaged.lost.push(format!("{} {}: cannot be made ({e})", object.kind, object.name)),
    }
}

/// Row by row, in the order of their numbers from the lowest until one cannot be read, then from the highest.
fn copy_rows(old: &Connection, new: &Connection, table: &str) -> rusqlite::Result<()> {
    let mut columns = old.prepare("SELECT name FROM pragma_table_xinfo(?1) WHERE hidden = 0")?;
    let columns: Vec<String> = columns.query_map([table], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let numbered = !columns.iter().any(|name| name.eq_ignore_ascii_case("rowid"))
        && old.prepare(&format!("SELECT rowid FROM {}", quote(table))).is_ok();
    let named: Vec<String> =
        numbered.then(|| "rowid".to_owned()).into_iter().chain(columns.iter().map(|c| quote(c))).collect();
    let (named, marks) = (named.join(", "), vec!["?"; named.len()].join(", "));
    let mut insert = new.prepare(&format!("INSERT INTO {} ({named}) VALUES ({marks})", quote(table)))?;
    let mut pass = |rest: &str, last: &mut i64| -> rusqlite::Result<()> {
        let mut read = old.prepare(&format!("SELECT {named} FROM {} {rest}", quote(table)))?;
        let width = read.column_count();
        let mut rows = read.query([])?;
        while let Some(row) = rows.next()? {
            let values = (0..width).map(|at| row.get::<_, rusqlite::types::Value>(at));
            insert.execute(rusqlite::params_from_iter(values.collect::<rusqlite::Result<Vec<_>>>()?))?;
            if numbered {
                *last = row.get(0)?;
            }
        }
        Ok(())
    };
    let mut last = i64::MIN;
    let order = if numbered { "ORDER BY rowid" } else { "" };
    let done = pass(order, &mut last);
    if done.as_ref().is_err_and(is_damage) && numbered {
        // How far this comes is as good as it gets.
        let after = if last == i64::MIN { String::new() } else { format!("WHERE rowid > {last}") };
        match pass(&format!("{after} ORDER BY rowid DESC"), &mut 0) {
            Err(e) if !is_damage(&e) => return Err(e),
            _ => {}
        }
    }
    done
}

/// Numbers that were given out once are not given out again.
fn keep_numbering(old: &Connection, new: &Connection) -> rusqlite::Result<()> {
    let there = |conn: &Connection| {
        conn.query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'sqlite_sequence'", [], |row| {
            row.get::<_, i64>(0)
        })
    };
    if there(old)? == 0 || there(new)? == 0 {
        return Ok(());
    }
    let mut read =
        old.prepare("SELECT name, seq FROM sqlite_sequence WHERE name NOT LIKE '\\_rowferry\\_%' ESCAPE '\\'")?;
    let mut rows = read.query([])?;
    while let Some(row) = rows.next()? {
        let (name, seq) = (row.get::<_, String>(0)?, row.get::<_, i64>(1)?);
        new.execute("DELETE FROM sqlite_sequence WHERE name = ?1", [&name])?;
        new.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?1, ?2)", rusqlite::params![name, seq])?;
    }
    Ok(())
}
