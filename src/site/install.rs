//! Puts the bookkeeping into a database, finds it there, takes it out again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::form::{Form, Reformed, keep, kept_forms};
use super::{Book, Books, FORMAT, Site, SiteRow, read_row};
use crate::engine::{
    ChangeLog, Database, Error, ErrorKind, Lock, Logged, Object, Result, RowLock, Target, WriteMode, WriteOptions,
};
use crate::model::{self, Batch, Cell, Column, ColumnDef, Table, TableName, text_digest};
use crate::runtime::{Backoff, random};

/// More tables than this are not logged in one database.
pub(super) const TABLES_MAX: usize = 100_000;
/// The place in the list of logged tables of what is noted of their facets.
pub(super) const FACETS: usize = 5;
/// About fifteen seconds.
const LOCK_TRIES: u32 = 34;

/// The site that a database is; `None` when capture was never installed there.
///
/// # Errors
/// `Unsupported` for the bookkeeping of a newer rowferry.
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
    let (mut logged, mut lost) = (Vec::with_capacity(listed.rows()), Vec::new());
    let (numbers, names): (Vec<u32>, Vec<TableName>) =
        (0..listed.rows()).map(|at| listed_table(&listed, at)).collect::<Result<Vec<_>>>()?.into_iter().unzip();
    let tables = database.describe_all(&names).await?;
    for ((n, name), table) in numbers.into_iter().zip(names).zip(tables) {
        match table.ok_or_else(|| gone(database.as_ref(), &name)).and_then(|t| logged_table(database.as_ref(), n, t)) {
            Ok(table) => logged.push(table),
            Err(e) => lost.push((name, e)),
        }
    }
    logged.sort_by_key(|table| table.n);
    let site = assemble(database, row, books, logged)?.with_facets(&faceted_in(&listed)?.into_keys().collect());
    Ok(Some(Site { lost, ..site }))
}

/// The captured tables that cannot take part as they are, and why; none where capture is not installed, or only being so.
///
/// # Errors
/// What the database says.
pub async fn lost(database: &Arc<dyn Database>) -> Result<Vec<(TableName, Error)>> {
    let Some(listed) = list(database, &Books::new(database.as_ref())).await? else { return Ok(Vec::new()) };
    let (numbers, names): (Vec<u32>, Vec<TableName>) =
        (0..listed.rows()).map(|at| listed_table(&listed, at)).collect::<Result<Vec<_>>>()?.into_iter().unzip();
    let tables = database.describe_all(&names).await?;
    let fault = |((n, name), table): ((u32, TableName), Option<Table>)| {
        let table =
            table.ok_or_else(|| gone(database.as_ref(), &name)).and_then(|t| logged_table(database.as_ref(), n, t));
        Some((name, table.err()?))
    };
    Ok(numbers.into_iter().zip(names).zip(tables).filter_map(fault).collect())
}

/// The captured tables of whose columns facets are kept; none where capture is not installed, or only being so.
///
/// # Errors
/// What the database says.
pub async fn faceted(database: &Arc<dyn Database>) -> Result<BTreeSet<TableName>> {
    let listed = list(database, &Books::new(database.as_ref())).await?;
    listed.map_or_else(|| Ok(BTreeSet::new()), |listed| Ok(faceted_in(&listed)?.into_values().collect()))
}

/// Those of a list, by number.
fn faceted_in(listed: &Batch) -> Result<BTreeMap<u32, TableName>> {
    let kept = (0..listed.rows()).filter(|&at| listed.cell(at, FACETS) != Cell::Bytes(b""));
    kept.map(|at| listed_table(listed, at)).collect()
}

/// The list of captured tables.
async fn list(database: &Arc<dyn Database>, books: &Books) -> Result<Option<Batch>> {
    if database.describe(&books.tables.name).await?.is_none() {
        return Ok(None);
    }
    let mut target = database.target().await?;
    target.begin(WriteOptions { point: true, ..WriteOptions::default() }).await?;
    let listed = target.scan(&books.tables, None, TABLES_MAX).await;
    target.rollback().await?;
    listed.map(Some)
}

/// A missing table is an error and never an empty one.
fn gone(database: &dyn Database, name: &TableName) -> Error {
    Error::new(
        ErrorKind::SchemaMismatch,
        format!(
            "{name} was captured in {} and is gone; nothing is deleted elsewhere for that: put it back, or take it out of \
             the sync",
            database.label()
        ),
    )
}

/// Makes a database a site and logs these tables, besides those that it logs already.
///
/// What is in place stays; what is missing is added, so that an installation that was interrupted is completed. Where
/// triggers were missing, switched off or on another table, or a table is another than it was, rows of it may have been
/// written unseen: that is noted in its log ([`Site::doubted`]).
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
    // Also of those that are gone, or get another, the numbers are taken.
    let taken = listing_of(target.as_mut(), &books).await?.keys().max().copied().unwrap_or(0);
    let mut rekeyed = BTreeSet::new();
    for (n, kept) in kept_forms(target.as_mut(), &books).await? {
        let Some(at) = site.tables.iter().position(|book| book.logged.n == n) else { continue };
        let now = Form::of(&site.tables[at].logged, &Object::default());
        // What is kept of a table that is not whole yet has no key.
        if kept.key.is_empty() || kept.key == now.key {
            continue;
        }
        let name = site.tables[at].logged.table.name.clone();
        let same = rekey(&site, at, &kept, &now, target.as_mut()).await;
        // While a key column has another name than its triggers know, writes are noted or fail: none goes unseen.
        if !same.map_err(|e| e.context(format!("capture of {name}")))? {
            site.tables.remove(at);
            ours = database.own_tables().await?;
            rekeyed.insert(name);
        }
    }
    let mut logged: Vec<Logged> = site.tables.iter().map(|book| book.logged.clone()).collect();
    let (lost, listed) = (std::mem::take(&mut site.lost), listing_of(target.as_mut(), &books).await?);
    let wanted: Vec<TableName> =
        tables.iter().chain(&rekeyed).filter(|name| lost.iter().all(|(lost, _)| lost != *name)).cloned().collect();
    add_tables(database, &mut logged, &wanted, taken).await?;
    let there = database.own_triggers().await?;
    let row = SiteRow { id: site.id.id, epoch: site.id.epoch.into(), seq: 0, format: FORMAT };
    let faceted = site.tables.iter().filter(|book| book.facets.is_some()).map(|book| book.logged.n).collect();
    site = Site { lost, ..assemble(database, row, books, logged)?.with_facets(&faceted) };
    let kept = kept_forms(target.as_mut(), &site.books).await?;
    let names: Vec<TableName> = site.tables.iter().map(|book| book.logged.table.name.clone()).collect();
    let mut now: Vec<Form> = forms_of(database.as_ref(), &site.tables, &names).await?;
    let mut installed = Vec::new();
    for (at, book) in site.tables.iter().enumerate() {
        let (n, name) = (book.logged.n, &book.logged.table.name);
        let made = text_digest(&book.log.install.join(";"));
        let before = listed.get(&n);
        let whole = book.log.triggers.iter().all(|name| there.contains(name))
            && [&book.log.table.name, &book.versions.name].into_iter().all(|name| ours.contains(name));
        let other = kept.get(&n).is_some_and(|form| form.is_of_another(&now[at]));
        // A table that was never whole is only being installed.
        let doubted = (before.is_some() && (!whole || other)) || rekeyed.contains(name);
        // What is in place is left alone: its statements would wait for whoever has the table in a transaction, and the
        // application behind them.
        if before == Some(&made) && !doubted {
            continue;
        }
        if doubted {
            // Until it is noted in the log.
            let unknown = Form { object: None, ..kept.get(&n).cloned().unwrap_or_default() };
            keep(target.as_mut(), &site.books, &[(n, unknown)]).await?;
        }
        let run = async {
            make(database.as_ref(), target.as_mut(), &mut ours, &book.versions).await?;
            let unhook = book.log.unhook.iter().filter(|_| doubted);
            for sql in unhook.chain(&book.log.install).chain(doubted.then_some(&book.log.doubt)) {
                target.execute(sql).await?;
            }
            Ok(())
        };
        run.await.map_err(|e: Error| e.context(format!("capture of {name}")))?;
        if doubted {
            site.doubted.push(name.clone());
        }
        installed.push(at);
        // Last, so that a table that is listed has all that it needs.
        if before != Some(&made) {
            target.begin(WriteOptions::default()).await?;
            let listed = listing(&site.books, &book.logged, &made);
            if before.is_some() {
                // When it was last emptied stays, and what is noted of its facets.
                let part = Arc::new(site.books.tables.project(&[0, 1, 2, 3]));
                let columns = listed.columns()[..4].to_vec();
                target.write(WriteMode::Update, &Batch::new(part, columns)).await?;
            } else {
                target.write(WriteMode::Insert, &listed).await?;
            }
            target.commit().await?;
        }
    }
    // Triggers that were just made are others.
    let again: Vec<TableName> = installed.iter().map(|&at| names[at].clone()).collect();
    let books: Vec<Arc<Book>> = installed.iter().map(|&at| site.tables[at].clone()).collect();
    for (at, form) in installed.into_iter().zip(forms_of(database.as_ref(), &books, &again).await?) {
        now[at] = form;
    }
    let mut changed: Vec<(u32, Form)> = Vec::new();
    for (book, now) in site.tables.iter().zip(now) {
        let (n, table, columns) = (book.logged.n, book.logged.table.name.clone(), now.columns.clone());
        let form = now.after(kept.get(&n));
        if !form.dropped.is_empty() {
            site.dropped.push((table.clone(), form.dropped.clone()));
        }
        if form.columns != columns {
            site.reformed.push(Reformed { table: table.clone(), before: form.columns.clone() });
        }
        if site.doubted.contains(&table) || kept.get(&n) != Some(&form) {
            changed.push((n, form));
        }
    }
    if !changed.is_empty() {
        keep(target.as_mut(), &site.books, &changed).await?;
    }
    Ok(site)
}

/// The forms in which these tables are.
async fn forms_of(database: &dyn Database, books: &[Arc<Book>], names: &[TableName]) -> Result<Vec<Form>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let objects = database.objects(names).await?;
    Ok(books.iter().zip(objects).map(|(book, object)| Form::of(&book.logged, &object)).collect())
}

/// Takes a table that was given another key in: where its columns have only other names or types, what is kept of its rows
/// is kept; else it is captured as one that was never captured, under another number.
async fn rekey(site: &Site, at: usize, kept: &Form, now: &Form, target: &mut dyn Target) -> Result<bool> {
    let (database, book) = (site.database.clone(), site.tables[at].clone());
    if let Some(changed) = kept.changed_key(now) {
        for (old, place) in changed {
            let to = &book.keys.columns[place];
            for (table, nullable) in [(&book.log.table.name, true), (&book.versions.name, false)] {
                let Some(there) = database.describe(table).await? else { continue };
                // An earlier attempt may have come so far.
                let from = if there.column(&old).is_some() { &old } else { &to.name };
                let to = ColumnDef {
                    nullable,
                    default: None,
                    generated: false,
                    dialect: None,
                    identity: None,
                    ..to.clone()
                };
                for sql in database.alter_column_ddl(table, from, &to) {
                    target.execute(&sql).await?;
                }
            }
        }
        return Ok(true);
    }
    let (n, name) = (book.logged.n, book.logged.table.name.clone());
    if let Some(old) = remains(database.as_ref(), n, Some(name.clone())).await? {
        for sql in database.change_logs(&[old])?.iter().flat_map(|log| &log.remove) {
            target.execute(sql).await?;
        }
    }
    if database.describe(&book.versions.name).await?.is_some() {
        target.execute(&database.drop_ddl(&book.versions.name)).await?;
    }
    target.begin(WriteOptions::default()).await?;
    for table in [&site.books.tables, &site.books.forms] {
        let mut number = Column::default();
        number.push_int(n.into());
        target.write(WriteMode::Delete, &Batch::new(Arc::new(table.project(&[0])), vec![number])).await?;
    }
    target.commit().await?;
    Ok(false)
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
    add_tables(database, &mut logged, tables, 0).await?;
    let logs = database.change_logs(&logged)?;
    let mut planned: Vec<_> = logged.into_iter().zip(logs).collect();
    planned.retain(|(logged, _)| tables.contains(&logged.table.name));
    Ok(planned)
}

/// Adds those that are not logged yet, each with a number of its own above `taken`.
async fn add_tables(
    database: &Arc<dyn Database>,
    logged: &mut Vec<Logged>,
    tables: &[TableName],
    taken: u32,
) -> Result<()> {
    let mut known: BTreeSet<TableName> = logged.iter().map(|l| l.table.name.clone()).collect();
    let new: Vec<TableName> = tables.iter().filter(|name| known.insert((*name).clone())).cloned().collect();
    let described = database.describe_all(&new).await?;
    for (name, table) in new.iter().zip(described) {
        let table = table.ok_or_else(|| {
            Error::new(ErrorKind::SchemaMismatch, format!("{} has no table {name} to capture", database.label()))
        })?;
        let n = logged.iter().map(|l| l.n).max().unwrap_or(0).max(taken) + 1;
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
    let mut logged = listed(database, &books).await?;
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
async fn listed(database: &Arc<dyn Database>, books: &Books) -> Result<Vec<Logged>> {
    let Some(rows) = list(database, books).await? else { return Ok(Vec::new()) };
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
    let (id, books) = (model::Site { id: row.id, epoch }, Arc::new(books));
    let (lost, doubted, reformed, dropped) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (database, keep_tombstones) = (database.clone(), Site::KEEP);
    Ok(Site { database, id, books, tables, lost, doubted, reformed, dropped, keep_tombstones })
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
    columns[0].push_int(logged.n.into());
    columns[1].push_bytes(logged.table.name.schema.as_bytes());
    columns[2].push_bytes(logged.table.name.name.as_bytes());
    columns[3].push_bytes(made.as_bytes());
    columns[4].push_int(0);
    columns[FACETS].push_bytes(b"");
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
