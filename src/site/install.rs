//! Puts the bookkeeping into a database, finds it there, takes it out again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Book, Books, FORMAT, Site, SiteRow, read_row};
use crate::engine::{
    ChangeLog, Database, Error, ErrorKind, Lock, Logged, Result, RowLock, Target, WriteMode, WriteOptions,
};
use crate::model::{self, Batch, Cell, Column, Table, TableName, text_digest};
use crate::runtime::{Backoff, random};

/// More tables than this are not logged in one database.
pub(super) const TABLES_MAX: usize = 100_000;
/// The place in the list of logged tables of what is noted of their marks.
const MARKED: usize = 5;
/// About fifteen seconds.
const LOCK_TRIES: u32 = 34;

/// The site that a database is; `None` when capture was never installed there.
///
/// # Errors
/// `Unsupported` for the bookkeeping of a newer rowferry, `SchemaMismatch` for a logged table that is gone.
pub async fn open(database: &Arc<dyn Database>) -> Result<Option<Site>> {
    let books = Books::new(database.as_ref());
    if database.describe(&books.site.name).await?.is_none() {
        return Ok(None);
    }
    let mut target = database.target().await?;
    target.begin(WriteOptions { point: true, ..WriteOptions::default() }).await?;
    let row = read_row(target.as_mut(), &books.site, RowLock::None).await?;
    let listed = target.scan(&books.tables, None, TABLES_MAX).await?;
    target.rollback().await?;
    if row.format > FORMAT {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("the bookkeeping in {} is of a newer rowferry; use that one", database.label()),
        ));
    }
    let mut logged = Vec::with_capacity(listed.rows());
    let (numbers, names): (Vec<u32>, Vec<TableName>) =
        (0..listed.rows()).map(|at| listed_table(&listed, at)).collect::<Result<Vec<_>>>()?.into_iter().unzip();
    let tables = database.describe_all(&names).await?;
    for ((n, name), table) in numbers.into_iter().zip(names).zip(tables) {
        let table = table.ok_or_else(|| {
            Error::new(
                ErrorKind::SchemaMismatch,
                format!(
                    "{name} was logged in {} and is gone; take it out with 'rowferry capture remove'",
                    database.label()
                ),
            )
        })?;
        logged.push(logged_table(database.as_ref(), n, table)?);
    }
    logged.sort_by_key(|table| table.n);
    let marked = (0..listed.rows()).filter(|&at| listed.cell(at, MARKED) != Cell::Bytes(b""));
    let marked = marked.map(|at| Ok(listed_table(&listed, at)?.0)).collect::<Result<BTreeSet<u32>>>()?;
    Ok(Some(assemble(database, row, books, logged)?.with_marks(&marked)))
}

/// Makes a database a site and logs these tables, besides those that it logs already.
///
/// What is in place stays; what is missing is added, so that an installation that was interrupted is completed.
pub async fn install(database: &Arc<dyn Database>, tables: &[TableName]) -> Result<Site> {
    let _lock = lock(database).await?;
    let books = Books::new(database.as_ref());
    let mut target = database.target().await?;
    let mut ours = database.own_tables().await?;
    for table in books.all() {
        make(database.as_ref(), target.as_mut(), &mut ours, table).await?;
    }
    target.begin(WriteOptions::default()).await?;
    if target.scan(&books.site, None, 1).await?.rows() == 0 {
        // A first number, so that whoever has read everything stands somewhere.
        let row = SiteRow { id: random().max(1), epoch: 1, seq: 1, format: FORMAT };
        target.write(WriteMode::Insert, &row.batch(&books.site)).await?;
        let site = assemble(database, row, books.clone(), Vec::new())?;
        site.mark(target.as_mut(), row.seq).await?;
    }
    target.commit().await?;
    let mut site = open(database).await?.ok_or_else(|| {
        Error::new(ErrorKind::Protocol, format!("the bookkeeping in {} vanished while it was made", database.label()))
    })?;
    let mut logged: Vec<Logged> = site.tables.iter().map(|book| book.logged.clone()).collect();
    add_tables(database, &mut logged, tables).await?;
    let listed = listing_of(target.as_mut(), &books).await?;
    let there = database.own_triggers().await?;
    let row = SiteRow { id: site.id.id, epoch: site.id.epoch.into(), seq: 0, format: FORMAT };
    let marked = site.tables.iter().filter(|book| book.marked.is_some()).map(|book| book.logged.n).collect();
    site = assemble(database, row, books, logged)?.with_marks(&marked);
    for book in &site.tables {
        make(database.as_ref(), target.as_mut(), &mut ours, &book.versions).await?;
        let made = text_digest(&book.log.install.join(";"));
        let before = listed.get(&book.logged.n);
        // What is in place is left alone: its statements would wait for whoever has the table in a transaction, and the
        // application behind them.
        if before == Some(&made)
            && book.log.triggers.iter().all(|name| there.contains(name))
            && ours.contains(&book.log.table.name)
        {
            continue;
        }
        for sql in &book.log.install {
            target.execute(sql).await.map_err(|e| e.context(format!("capture of {}", book.logged.table.name)))?;
        }
        // Last, so that a table that is listed has all that it needs.
        if before != Some(&made) {
            target.begin(WriteOptions::default()).await?;
            let listed = listing(&site.books, &book.logged, &made);
            if before.is_some() {
                // When it was last emptied stays.
                let part = Arc::new(site.books.tables.project(&[0, 1, 2, 3]));
                let columns = listed.columns()[..4].to_vec();
                target.write(WriteMode::Update, &Batch::new(part, columns)).await?;
            } else {
                target.write(WriteMode::Insert, &listed).await?;
            }
            target.commit().await?;
        }
    }
    Ok(site)
}

/// What [`install`] would put in place for these tables, by table; changes nothing.
///
/// # Errors
/// `Unsupported` for a table whose changes cannot be captured, `SchemaMismatch` for one that is not there.
pub async fn planned(database: &Arc<dyn Database>, tables: &[TableName]) -> Result<Vec<(Logged, ChangeLog)>> {
    let mut logged: Vec<Logged> = match open(database).await? {
        Some(site) => site.tables.iter().map(|book| book.logged.clone()).collect(),
        None => Vec::new(),
    };
    add_tables(database, &mut logged, tables).await?;
    let logs = database.change_logs(&logged)?;
    let mut planned: Vec<_> = logged.into_iter().zip(logs).collect();
    planned.retain(|(logged, _)| tables.contains(&logged.table.name));
    Ok(planned)
}

/// Adds those that are not logged yet, each with a number of its own.
async fn add_tables(database: &Arc<dyn Database>, logged: &mut Vec<Logged>, tables: &[TableName]) -> Result<()> {
    let mut known: BTreeSet<TableName> = logged.iter().map(|l| l.table.name.clone()).collect();
    let new: Vec<TableName> = tables.iter().filter(|name| known.insert((*name).clone())).cloned().collect();
    let described = database.describe_all(&new).await?;
    for (name, table) in new.iter().zip(described) {
        let table = table.ok_or_else(|| {
            Error::new(ErrorKind::SchemaMismatch, format!("{} has no table {name} to capture", database.label()))
        })?;
        let n = logged.iter().map(|l| l.n).max().unwrap_or(0) + 1;
        logged.push(logged_table(database.as_ref(), n, table)?);
    }
    Ok(())
}

/// Takes all of it out, whatever state it is in: also what an installation that was interrupted left, and that of
/// tables that are gone. Returns the names of the tables that were captured.
///
/// # Errors
/// What the database says, and when triggers of tables that are gone are left.
pub async fn remove(database: &Arc<dyn Database>) -> Result<Vec<TableName>> {
    let _lock = lock(database).await?;
    let books = Books::new(database.as_ref());
    let mut target = database.target().await?;
    let mut logged = listed(database, target.as_mut(), &books).await?;
    let names = logged.iter().map(|l| l.table.name.clone()).collect();
    // One that is not listed yet was being made.
    let next = logged.iter().map(|l| l.n).max().unwrap_or(0) + 1;
    logged.extend(remains(database.as_ref(), next, None).await?);
    for log in database.change_logs(&logged)? {
        for sql in &log.remove {
            target.execute(sql).await?;
        }
    }
    let versions = logged.iter().map(|l| versions_name(l.n, &l.table.name.schema));
    for name in versions.chain(books.all().into_iter().rev().map(|table| table.name.clone())) {
        if database.describe(&name).await?.is_some() {
            target.execute(&database.drop_ddl(&name)).await?;
        }
    }
    match database.own_triggers().await?.as_slice() {
        [] => Ok(names),
        left => Err(Error::new(
            ErrorKind::SchemaMismatch,
            format!(
                "triggers of tables that are gone are still in {}, drop them: {}",
                database.label(),
                left.join(", ")
            ),
        )),
    }
}

/// The tables that are listed as logged; of one that is gone, as much as its removal needs.
async fn listed(database: &Arc<dyn Database>, target: &mut dyn Target, books: &Books) -> Result<Vec<Logged>> {
    if database.describe(&books.tables.name).await?.is_none() {
        return Ok(Vec::new());
    }
    target.begin(WriteOptions { point: true, ..WriteOptions::default() }).await?;
    let rows = target.scan(&books.tables, None, TABLES_MAX).await?;
    target.rollback().await?;
    let mut logged = Vec::with_capacity(rows.rows());
    for at in 0..rows.rows() {
        let (n, name) = listed_table(&rows, at)?;
        match database.describe(&name).await? {
            Some(table) if table.row_key().is_some() => logged.push(logged_table(database.as_ref(), n, table)?),
            _ => logged.extend(remains(database.as_ref(), n, Some(name)).await?),
        }
    }
    Ok(logged)
}

/// A logged table, or one of another name in its place, by the keys that its versions have.
async fn remains(database: &dyn Database, n: u32, name: Option<TableName>) -> Result<Option<Logged>> {
    let schema = name.as_ref().map(|name| name.schema.as_str()).unwrap_or_default();
    let Some(versions) = database.describe(&versions_name(n, schema)).await? else { return Ok(None) };
    let Some(key) = versions.row_key() else { return Ok(None) };
    let mut table = versions.project(&key.columns);
    table.name = name.unwrap_or(versions.name);
    let key = model::Key { columns: (0..key.columns.len()).collect() };
    Ok(Some(Logged { n, table: Arc::new(table), key }))
}

fn versions_name(n: u32, schema: &str) -> TableName {
    TableName { schema: schema.to_owned(), name: format!("_rowferry_versions_{n}") }
}

/// Whoever has it is done soon: the syncs of one process that begin together, for one.
async fn lock(database: &Arc<dyn Database>) -> Result<Box<dyn Lock>> {
    for tried in 1..=LOCK_TRIES {
        if let Some(lock) = database.lock("capture").await? {
            return Ok(lock);
        }
        tokio::time::sleep(Backoff::ROWS.wait(tried, random())).await;
    }
    let busy = format!("another rowferry is at the capture of {}; run this again when it is done", database.label());
    Err(Error::new(ErrorKind::Busy, busy))
}

/// Makes a table unless it is among those that are there.
async fn make(
    database: &dyn Database,
    target: &mut dyn Target,
    there: &mut BTreeSet<TableName>,
    table: &Arc<Table>,
) -> Result<()> {
    if !there.insert(table.name.clone()) {
        return Ok(());
    }
    let ddl = database.ddl(table);
    for sql in ddl.create.iter().chain(&ddl.after_rows) {
        target.execute(sql).await.map_err(|e| e.context(format!("making {}", table.name)))?;
    }
    Ok(())
}

fn assemble(database: &Arc<dyn Database>, row: SiteRow, books: Books, logged: Vec<Logged>) -> Result<Site> {
    let epoch = u32::try_from(row.epoch).map_err(|_| Error::new(ErrorKind::BadData, "a site with a negative epoch"))?;
    let logs = database.change_logs(&logged)?;
    let tables =
        logged.into_iter().zip(logs).map(|(logged, log)| Arc::new(Book::new(database.as_ref(), logged, log))).collect();
    Ok(Site { database: database.clone(), id: model::Site { id: row.id, epoch }, books: Arc::new(books), tables })
}

fn logged_table(database: &dyn Database, n: u32, table: Table) -> Result<Logged> {
    let key = table.row_key().ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            format!(
                "{} of {} has no key that is never NULL, so its changes cannot be told apart: give it a primary key, or \
                 sync it with mode: full or mirror",
                table.name,
                database.label()
            ),
        )
    })?;
    Ok(Logged { n, table: Arc::new(table), key })
}

/// What was put in place for each table that is listed, by number.
async fn listing_of(target: &mut dyn Target, books: &Books) -> Result<BTreeMap<u32, String>> {
    target.begin(WriteOptions { point: true, ..WriteOptions::default() }).await?;
    let rows = target.scan(&books.tables, None, TABLES_MAX).await?;
    target.rollback().await?;
    let made = |row: usize| match rows.cell(row, 3) {
        Cell::Bytes(made) => String::from_utf8_lossy(made).into_owned(),
        _ => String::new(),
    };
    (0..rows.rows()).map(|row| Ok((listed_table(&rows, row)?.0, made(row)))).collect()
}

fn listing(books: &Books, logged: &Logged, made: &str) -> Batch {
    let mut columns = vec![Column::default(); 6];
    columns[4].push_int(0);
    columns[MARKED].push_bytes(b"");
    columns[0].push_int(logged.n.into());
    columns[1].push_bytes(logged.table.name.schema.as_bytes());
    columns[2].push_bytes(logged.table.name.name.as_bytes());
    columns[3].push_bytes(made.as_bytes());
    Batch::new(books.tables.clone(), columns)
}

fn listed_table(listed: &Batch, row: usize) -> Result<(u32, TableName)> {
    let text = |column: usize| match listed.cell(row, column) {
        Cell::Bytes(bytes) => String::from_utf8(bytes.to_vec()).ok(),
        _ => None,
    };
    let n = match listed.cell(row, 0) {
        Cell::Int(n) => u32::try_from(n).ok(),
        _ => None,
    };
    match (n, text(1), text(2)) {
        (Some(n), Some(schema), Some(name)) => Ok((n, TableName { schema, name })),
        _ => Err(Error::new(ErrorKind::BadData, format!("{} is damaged", listed.table.name))),
    }
}
