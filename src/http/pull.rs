//! `GET /api/pull`: rows as they are read, page by page where that was asked for, or what changed since a cursor.
//!
//! Without `limit` everything is streamed; no more than some batches are ever held. A body that ends without its last
//! brace was cut off: what it would take to finish it did not happen.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc;

use super::answer::{Answer, Part, Problem, Reply};
use super::arrow::{self, Encoder};
use super::router::Call;
use super::rows::{self, Opened, stamp, stamp_column};
use super::since;
use crate::capture::{Changes, Wanted, Which, changes, fold_tables};
use crate::engine::{ReadRequest, Result, Selection, Target, WriteOptions};
use crate::model::{Batch, BatchLimits, Column, Table, Value, text_digest};
use crate::site::{self, Book, Site};

/// Rows and bytes that are read at a time.
const LIMITS: BatchLimits = BatchLimits { rows: 1000, bytes: 4 << 20 };
/// Rows of a page at most.
const PAGE_MAX: usize = 100_000;
/// How far before `since` is looked, in microseconds: a transaction that committed late carries an earlier stamp.
const LOOK_BACK: i64 = 10_000_000;

/// Where a client stands, as an opaque text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Cursor {
    /// The table that it is of.
    table: String,
    /// The site and its epoch, and the number up to which its changes were told; none where it is not captured.
    feed: Option<(String, u32, i64)>,
    /// The key of the last row of a page; `None`: all pages were told.
    after: Option<Vec<Value>>,
    since: Option<i64>,
}

impl Cursor {
    fn write(&self) -> String {
        let text = serde_json::to_string(self).unwrap_or_default();
        text.bytes().map(|byte| format!("{byte:02x}")).collect()
    }

    fn read(text: &str, table: &str) -> std::result::Result<Self, Problem> {
        let wrong = || Problem::malformed("this cursor is none of this table's; pull without one");
        let digit = |at: usize| text.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(digit).collect();
        let cursor: Self = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).ok_or_else(wrong)?;
        if cursor.table == text_digest(table) { Ok(cursor) } else { Err(wrong()) }
    }
}

/// Rows of a table.
pub(super) async fn pull(call: Call) -> Reply {
    let Some(table) = call.parameter("table") else {
        return Err(Problem::malformed("name a table: /api/pull?table=NAME"));
    };
    let form = Form::asked(&call)?;
    let opened = rows::open(&call, call.parameter("database"), table).await?;
    let limit = call.parameter("limit").map(str::parse::<usize>).transpose();
    let limit = limit.ok().filter(|limit| limit.is_none_or(|n| (1..=PAGE_MAX).contains(&n)));
    let Some(limit) = limit else {
        return Err(Problem::malformed(format!("limit must be a number from 1 to {PAGE_MAX}")));
    };
    if form == Form::Arrow && limit.is_some() {
        return Err(Problem::refused("an Arrow stream comes as a whole; leave limit out, or take JSON"));
    }
    let cursor = call.parameter("cursor").map(|text| Cursor::read(text, table)).transpose()?;
    let asked = call.parameter("since").map(|text| {
        since::parse(text, opened.database.zone(), jiff::Timestamp::now().as_microsecond()).ok_or_else(|| {
            Problem::malformed(
                "since is no moment; write 2026-03-01T10:00:00Z, 2026-03-01 10:00:00, 2026-03-01, seconds or \
                 milliseconds since 1970, or an age such as 15m",
            )
        })
    });
    let since = match (&cursor, asked.transpose()?) {
        (Some(_), Some(_)) => return Err(Problem::malformed("since and cursor exclude each other; send one")),
        (Some(cursor), None) => cursor.since,
        (None, asked) => asked.map(|at| at.saturating_sub(LOOK_BACK)),
    };
    if since.is_some() && stamp_column(&opened.table).is_none() {
        let what = format!("{table} has no column updated_at that tells when a row changed; use the cursor");
        return Err(Problem::refused(what));
    }
    let site = site::open(&opened.database).await?;
    let captured = site.and_then(|site| {
        let book = site.book(&opened.table.name)?.clone();
        // Which changes a condition holds for the log cannot tell.
        opened.grant.filter.is_none().then_some((site, book))
    });
    let puller = Puller { opened, limit, since, form, name: table.to_owned() };
    match cursor {
        Some(Cursor { feed: Some(feed), after: None, .. }) => {
            let (site, book) =
                captured.filter(|(site, _)| feed.0 == site_name(site) && feed.1 == site.id.epoch).ok_or_else(|| {
                    Problem::new(
                        StatusCode::CONFLICT,
                        "this cursor holds no more: pull without one, which brings all rows",
                    )
                })?;
            puller.changed(site, book, feed.2).await
        }
        Some(Cursor { after: None, .. }) => Err(Problem::malformed("this cursor leads nowhere; pull without one")),
        Some(Cursor { after, feed, .. }) => puller.standing(after, feed).await,
        None => {
            let mut feed = None;
            if let Some((site, book)) = captured {
                let mut target = puller.opened.database.target().await?;
                fold_tables(&site, &[(0, &book)], target.as_mut()).await.map_err(|fault| fault.error)?;
                let position = last_number(&site, target.as_mut()).await?;
                feed = Some((site_name(&site), site.id.epoch, position));
            }
            puller.standing(None, feed).await
        }
    }
}

async fn last_number(site: &Site, target: &mut dyn Target) -> Result<i64> {
    target.begin(WriteOptions { point: true, ..WriteOptions::default() }).await?;
    let position = site.last_number(target).await?;
    target.rollback().await?;
    Ok(position)
}

/// Changes in their order, with the keys of rows that are gone, and which those are.
fn with_deleted(table: &Arc<Table>, found: &Changes) -> (Batch, Vec<usize>) {
    let (mut columns, mut gone) = (vec![Column::default(); table.columns.len()], Vec::new());
    for (at, row) in found.row_of.iter().enumerate() {
        gone.extend(row.is_none().then_some(at));
        for (column, data) in table.columns.iter().zip(&mut columns) {
            match (row, found.keys.table.column(&column.name)) {
                (Some(row), _) => match found.rows.table.column(&column.name) {
                    Some(from) => data.push_cell(found.rows.cell(*row, from)),
                    None => data.push_null(),
                },
                (None, Some(from)) => data.push_cell(found.keys.cell(at, from)),
                (None, None) => data.push_null(),
            }
        }
    }
    (Batch::new(table.clone(), columns), gone)
}

fn site_name(site: &Site) -> String {
    format!("{:016x}", site.id.id)
}

/// What rows go out as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Arrow,
}

impl Form {
    fn asked(call: &Call) -> std::result::Result<Self, Problem> {
        let accepted =
            call.headers.get(hyper::header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let kinds = accepted.split(',').map(|kind| kind.split(';').next().unwrap_or_default().trim());
        let mut kinds = kinds.filter(|kind| kind.starts_with("application/vnd.apache.arrow"));
        match kinds.next() {
            None => Ok(Self::Json),
            Some(arrow::MIME) => Ok(Self::Arrow),
            Some(other) => {
                let what = format!("rows go out as JSON or as {}, not as {other}", arrow::MIME);
                Err(Problem::new(StatusCode::NOT_ACCEPTABLE, what))
            }
        }
    }
}

/// A pull whose parameters are checked.
struct Puller {
    opened: Opened,
    form: Form,
    limit: Option<usize>,
    since: Option<i64>,
    name: String,
}

/// The body of a pull as it is written.
struct Body {
    send: mpsc::Sender<Part>,
    rows: Arc<AtomicU64>,
    piece: Vec<u8>,
    written: usize,
    arrow: Option<Encoder>,
}

/// Nobody reads any more.
struct Gone;

impl Body {
    fn row(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.piece.extend_from_slice(if self.written == 0 { b"\n" } else { b",\n" });
        write(&mut self.piece);
        self.written += 1;
    }

    async fn hand_on(&mut self) -> std::result::Result<(), Gone> {
        self.rows.store(self.written as u64, Ordering::Relaxed);
        if let Some(arrow) = &mut self.arrow {
            self.piece = arrow.take();
        }
        let piece = Bytes::from(std::mem::take(&mut self.piece));
        let sent = tokio::time::timeout(std::time::Duration::from_mins(1), self.send.send(Part::Bytes(piece)));
        // A client that takes nothing for a minute holds up a transaction of the database.
        sent.await.map_err(|_| Gone)?.map_err(|_| Gone)
    }

    /// Rows of a batch, of which some are gone.
    fn encoded(&mut self, batch: &Batch, gone: &[usize]) -> Result<()> {
        if let Some(arrow) = self.arrow.as_mut().filter(|_| batch.rows() > 0) {
            arrow.rows(batch, gone)?;
            self.written += batch.rows();
        }
        Ok(())
    }

    async fn end(mut self, more: bool, cursor: Option<Cursor>) -> Result<()> {
        if let Some(arrow) = &mut self.arrow {
            arrow.end()?;
        } else {
            let cursor = cursor.map(|cursor| cursor.write());
            let end = format!("],\"count\":{},\"more\":{more},\"cursor\":{}}}\n", self.written, json!(cursor));
            self.piece.extend_from_slice(end.as_bytes());
        }
        if self.hand_on().await.is_ok() {
            // Nobody may be left who wants to know.
            let _ = self.send.send(Part::End).await;
        }
        Ok(())
    }
}

impl Puller {
    /// The body and its answer. An Arrow stream says at its beginning where it leads on; `deletes`: and of rows that they
    /// are gone.
    fn body(&self, feed: Option<&(String, u32, i64)>, deletes: bool) -> Result<(Body, Answer)> {
        let (send, receive) = mpsc::channel(2);
        let rows = Arc::new(AtomicU64::new(0));
        if self.form == Form::Arrow {
            let cursor = self.cursor(feed.cloned(), None).map(|cursor| cursor.write());
            let arrow = Encoder::new(&self.name, &self.opened.table, deletes.then_some(rows::DELETED), cursor)?;
            let answer = Answer::stream(arrow::MIME, receive, rows.clone());
            return Ok((Body { send, rows, piece: Vec::new(), written: 0, arrow: Some(arrow) }, answer));
        }
        let now = jiff::Timestamp::now().to_string();
        let head = json!({ "success": true, "table": self.name, "timestamp": now }).to_string();
        let mut piece = head.into_bytes();
        piece.pop();
        piece.extend_from_slice(b",\"data\":[");
        let answer = Answer::stream("application/json", receive, rows.clone());
        Ok((Body { send, rows, piece, written: 0, arrow: None }, answer))
    }

    fn cursor(&self, feed: Option<(String, u32, i64)>, after: Option<Vec<Value>>) -> Option<Cursor> {
        (feed.is_some() || after.is_some()).then(|| Cursor {
            table: text_digest(&self.name),
            feed,
            since: self.since.filter(|_| after.is_some()),
            after,
        })
    }

    /// The rows that stand, by key where they come page by page.
    async fn standing(self, after: Option<Vec<Value>>, feed: Option<(String, u32, i64)>) -> Reply {
        if after.as_ref().is_some_and(|values| values.len() != self.opened.key.columns.len()) {
            return Err(Problem::malformed("this cursor is none of this table's; pull without one"));
        }
        let paged = self.limit.is_some() || after.is_some();
        let request = ReadRequest {
            table: self.opened.table.clone(),
            filter: self.opened.grant.filter.clone(),
            rows: if paged { Selection::Range { after, upto: None } } else { Selection::All },
            ordered: paged,
            limits: BatchLimits { rows: self.limit.unwrap_or(LIMITS.rows).min(LIMITS.rows), ..LIMITS },
        };
        let snapshot = self.opened.database.snapshot().await?;
        let mut source = snapshot.source().await?;
        source.check(&request).await?;
        let (mut body, answer) = self.body(feed.as_ref(), false)?;
        tokio::spawn(async move {
            let _held = snapshot;
            let work = async {
                let mut stream = source.read(&request).await?;
                let mut last = None;
                while let Some(batch) = stream.next().await? {
                    if self.form == Form::Arrow {
                        let young: Vec<usize> = (0..batch.rows()).filter(|&row| self.is_since(&batch, row)).collect();
                        body.encoded(&batch.select(young.into_iter()), &[])?;
                        if body.hand_on().await.is_err() {
                            return Ok(());
                        }
                        continue;
                    }
                    for row in 0..batch.rows() {
                        if self.is_since(&batch, row) {
                            body.row(|out| rows::write_row(out, &batch, row));
                        }
                        if self.limit == Some(body.written) {
                            last = Some(batch.values(row, &self.opened.key.columns));
                            break;
                        }
                    }
                    if body.hand_on().await.is_err() {
                        return Ok(());
                    }
                    if last.is_some() {
                        break;
                    }
                }
                let more = last.is_some();
                let cursor = self.cursor(feed, last);
                body.end(more, cursor).await
            };
            told(work.await, &self.name);
        });
        Ok(answer)
    }

    /// Whether a row is as young as was asked for. One without a stamp may be.
    fn is_since(&self, batch: &Batch, row: usize) -> bool {
        let Some((since, column)) = self.since.zip(stamp_column(&batch.table)) else { return true };
        let zone = self.opened.database.zone();
        stamp(&batch.table, column, batch.cell(row, column), zone).is_none_or(|at| at >= since)
    }

    /// What changed since a number of the feed: rows, and keys of those that are gone.
    async fn changed(self, site: Site, book: Arc<Book>, after: i64) -> Reply {
        let mut target = self.opened.database.target().await?;
        fold_tables(&site, &[(0, &book)], target.as_mut()).await.map_err(|fault| fault.error)?;
        let last = self.form == Form::Arrow;
        // What comes after this number may be told here and once more by the next pull.
        let last = if last { Some(last_number(&site, target.as_mut()).await?.max(after)) } else { None };
        let feed = last.map(|last| (site_name(&site), site.id.epoch, last));
        let (mut body, answer) = self.body(feed.as_ref(), true)?;
        tokio::spawn(async move {
            let work = async {
                let (mut position, mut more) = (after, true);
                while more && self.limit.is_none_or(|limit| body.written < limit) {
                    let left = self.limit.map_or(LIMITS.rows, |limit| (limit - body.written).min(LIMITS.rows));
                    let limits = BatchLimits { rows: left, ..LIMITS };
                    let wanted = Wanted {
                        at: 0,
                        book: &book,
                        columns: &self.opened.table,
                        which: Which::All,
                        references: &[],
                        after: position,
                        renumbered: false,
                    };
                    let read = changes(&site, &[wanted], target.as_mut(), limits).await.map_err(|fault| fault.error)?;
                    for found in &read.tables {
                        if self.form == Form::Arrow {
                            let (batch, gone) = with_deleted(&self.opened.table, found);
                            body.encoded(&batch, &gone)?;
                            continue;
                        }
                        for (at, row) in found.row_of.iter().enumerate() {
                            body.row(|out| match row {
                                Some(row) => rows::write_row(out, &found.rows, *row),
                                None => rows::write_deleted(out, &found.keys, at),
                            });
                        }
                    }
                    (position, more) = (read.upto.position, read.more);
                    if body.hand_on().await.is_err() {
                        return Ok(());
                    }
                }
                let cursor = self.cursor(Some((site_name(&site), site.id.epoch, position)), None);
                body.end(more, cursor).await
            };
            told(work.await, &self.name);
        });
        Ok(answer)
    }
}

/// The client sees that its answer was cut off; why stands in the log.
fn told(ended: Result<()>, table: &str) {
    if let Err(e) = ended {
        tracing::warn!("a pull of {table} was cut off: {e}");
    }
}
