//! One half of a comparison, of a database at hand.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;

use super::comparison::{Comparand, Comparison, Counted, Followed, Half, LEAF_ROWS, LEAVES_MAX, Leaves, ROWS_BYTES};
use crate::capture::{FittedBatch, Shape, read_and};
use crate::compare::{Buckets, bucket, expect_order, rows_upto};
use crate::engine::{Database, Error, ErrorKind, ReadRequest, Result, Selection, Snapshot};
use crate::model::{Batch, Column, Digest, Key, RangeDigest, Table, row_digests};

/// Rows with their digests.
struct Digested {
    fitted: FittedBatch,
    digests: Vec<Digest>,
}

impl Digested {
    fn rows(&self) -> usize {
        self.digests.len()
    }

    /// Bytes of some of its rows, about.
    fn size(&self, rows: &Range<usize>) -> usize {
        self.fitted.batch.size() * rows.len() / self.rows().max(1)
    }
}

/// Some rows of a batch.
type Piece = (Arc<Digested>, Range<usize>);

/// A database at hand, as one half of a comparison.
pub struct LocalComparand {
    snapshot: Box<dyn Snapshot>,
    request: ReadRequest,
    comparison: Arc<Comparison>,
    /// What the rows are put into.
    shape: Option<Shape>,
    stop: CancellationToken,
    reading: Option<Receiver<Result<Digested>>>,
    /// Leading: the leaves that were told of last and the time before.
    told: VecDeque<(u64, Piece)>,
    /// The number of the next leaf, and of the first that was told of last.
    next: u64,
    last: u64,
    /// Leading: where the leaf before ended.
    end: Option<(Arc<Digested>, usize)>,
    /// Following: the batch at hand, and the next row.
    at: Option<Arc<Digested>>,
    row: usize,
    /// The buckets whose rows are handed out.
    wanted: Vec<bool>,
}

impl LocalComparand {
    /// Opens one; `b` is the other's database where this is A and B is at hand too.
    ///
    /// # Errors
    /// Those of a new connection.
    pub async fn open(
        database: &Arc<dyn Database>,
        comparison: &Arc<Comparison>,
        half: Half,
        b: Option<&Arc<dyn Database>>,
        stop: &CancellationToken,
    ) -> Result<Self> {
        let (table, filter, shape) = match half {
            Half::A => (comparison.a.clone(), comparison.filters.0.clone(), Some(comparison.shape(b))),
            Half::B => (comparison.b.clone(), comparison.filters.1.clone(), None),
        };
        let (ordered, limits) = (comparison.key.is_some(), comparison.limits);
        let mut this = Self {
            snapshot: database.snapshot().await?,
            request: ReadRequest { table, filter, rows: Selection::All, ordered, limits },
            comparison: comparison.clone(),
            shape,
            stop: stop.clone(),
            reading: None,
            told: VecDeque::new(),
            next: 0,
            last: 0,
            end: None,
            at: None,
            row: 0,
            wanted: Vec::new(),
        };
        if ordered {
            // Both ends read at once, before the first word is said.
            this.start().await?;
        }
        Ok(this)
    }

    async fn start(&mut self) -> Result<()> {
        let compared = self.comparison.compared();
        let digest = move |fitted: FittedBatch| Digested { digests: row_digests(&fitted.batch, &compared), fitted };
        self.reading = None;
        let source = self.snapshot.source().await?;
        self.reading = Some(read_and(source, self.request.clone(), self.shape.clone(), self.stop.clone(), digest));
        Ok(())
    }

    async fn read(&mut self) -> Result<Option<Digested>> {
        match &mut self.reading {
            Some(reading) => reading.recv().await.transpose(),
            None => Ok(None),
        }
    }

    fn key(&self) -> Result<&Key> {
        let key = self.comparison.key.as_ref();
        key.ok_or_else(|| Error::new(ErrorKind::Protocol, "a table without a key has no leaves"))
    }

    /// Following: whether there is a row at hand.
    async fn fill(&mut self) -> Result<bool> {
        while self.at.as_ref().is_none_or(|batch| self.row >= batch.rows()) {
            self.at = self.read().await?.map(Arc::new);
            self.row = 0;
            if self.at.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// One leaf of a batch: what is told of it. Its last row with a key that fits is its bound.
    fn leaf(&mut self, batch: &Arc<Digested>, rows: Range<usize>, keys: &mut [Column]) -> Result<Option<RangeDigest>> {
        let key = self.key()?.clone();
        let misfits = &batch.fitted.misfits;
        let here = misfits.partition_point(|m| m.0 < rows.start)..misfits.partition_point(|m| m.0 < rows.end);
        let misfits = &misfits[here];
        let fits = |row: &usize| !misfits.iter().any(|m| m.0 == *row && key.columns.contains(&m.1));
        let cells = &batch.fitted.batch;
        if let (Some((before, end)), Some(first)) = (&self.end, rows.clone().find(fits)) {
            expect_order(&key, (&before.fitted.batch, *end), (cells, first))?;
        }
        let last = rows.clone().rev().find(fits);
        for (column, &at) in keys.iter_mut().zip(&key.columns) {
            match last {
                Some(row) => column.push_cell(cells.cell(row, at)),
                None => column.push_null(),
            }
        }
        if let Some(row) = last {
            self.end = Some((batch.clone(), row));
        }
        self.told.push_back((self.next, (batch.clone(), rows.clone())));
        self.next += 1;
        Ok(misfits.is_empty().then(|| RangeDigest::of(&batch.digests[rows])))
    }
}

fn select(pieces: impl IntoIterator<Item = Piece>) -> impl Iterator<Item = Batch> {
    pieces.into_iter().map(|(batch, rows)| batch.fitted.batch.select(rows))
}

#[async_trait]
impl Comparand for LocalComparand {
    async fn leaves(&mut self) -> Result<Leaves> {
        let forgotten = self.last;
        self.told.retain(|(number, _)| *number >= forgotten);
        self.last = self.next;
        let keys: Arc<Table> = self.comparison.keys();
        let mut upto = vec![Column::default(); keys.columns.len()];
        let mut leaves = Vec::new();
        let (mut bytes, size) = (0, LEAF_ROWS.min(self.request.limits.rows).max(1));
        while leaves.len() < LEAVES_MAX && bytes < ROWS_BYTES {
            let Some(batch) = self.read().await? else {
                leaves.push(Some(RangeDigest::default()));
                break;
            };
            bytes += batch.fitted.batch.size();
            let batch = Arc::new(batch);
            for start in (0..batch.rows()).step_by(size) {
                leaves.push(self.leaf(&batch, start..batch.rows().min(start + size), &mut upto)?);
            }
        }
        Ok(Leaves { first: self.last, upto: Batch::new(keys, upto), digests: leaves })
    }

    async fn rows(&mut self, leaves: &[u64]) -> Result<Vec<FittedBatch>> {
        let wanted = self.told.iter().filter(|(number, _)| leaves.contains(number));
        let rows: Vec<_> = wanted.map(|(_, (batch, rows))| batch.fitted.part(rows.clone())).collect();
        if rows.len() == leaves.len() {
            return Ok(rows);
        }
        Err(Error::new(ErrorKind::Protocol, "rows were asked for that were not told of just now"))
    }

    async fn follow(&mut self, leaves: &Leaves) -> Result<Followed> {
        let key = self.key()?.clone();
        let mut out = Followed::default();
        let mut said = 0;
        for (at, told) in leaves.digests.iter().enumerate() {
            let mut sum = RangeDigest::default();
            let mut differs = told.is_none();
            // Rows that are not handed out as long as they may all be the same.
            let (mut held, mut held_bytes): (Vec<Piece>, usize) = (Vec::new(), 0);
            while self.fill().await? {
                let Some(batch) = self.at.clone() else { break };
                let within = if at < leaves.upto.rows() {
                    rows_upto(&key, &batch.fitted.batch, self.row, (&leaves.upto, at))
                } else {
                    batch.rows() - self.row
                };
                let rows = self.row..self.row + within;
                let part = RangeDigest::of(&batch.digests[rows.clone()]);
                sum = RangeDigest { rows: sum.rows + part.rows, sum: sum.sum.wrapping_add(part.sum) };
                held_bytes += batch.size(&rows);
                self.row = rows.end;
                let ended = rows.end < batch.rows();
                if within > 0 {
                    held.push((batch, rows));
                }
                differs = differs || told.is_some_and(|told| sum.rows > told.rows) || held_bytes > ROWS_BYTES;
                if ended {
                    break;
                }
                if differs {
                    out.rows.extend(select(held.drain(..)));
                    said += std::mem::take(&mut held_bytes);
                    if said >= ROWS_BYTES {
                        out.within = true;
                        return Ok(out);
                    }
                }
            }
            let same = !differs && *told == Some(sum);
            if !same {
                said += held_bytes;
                out.rows.extend(select(held));
            }
            out.same.push(same);
            if said >= ROWS_BYTES {
                break;
            }
        }
        Ok(out)
    }

    async fn count(&mut self) -> Result<Counted> {
        self.start().await?;
        let mut counted = Counted { buckets: Buckets::default(), unfit: 0 };
        while let Some(Digested { fitted, digests }) = self.read().await? {
            let unfit = fitted.unfit();
            counted.unfit += unfit.len() as u64;
            let fits = (0..digests.len()).filter(|row| !unfit.contains(row));
            counted.buckets.add(fits.map(|row| digests[row]));
        }
        Ok(counted)
    }

    async fn pick(&mut self, buckets: &[bool]) -> Result<()> {
        self.wanted = buckets.to_vec();
        self.start().await
    }

    async fn picked(&mut self) -> Result<Option<FittedBatch>> {
        while let Some(Digested { fitted, digests }) = self.read().await? {
            let unfit = fitted.unfit();
            let wanted = |digest: &Digest| self.wanted.get(bucket(*digest)).copied().unwrap_or_default();
            let rows: Vec<usize> =
                (0..digests.len()).filter(|row| unfit.contains(row) || wanted(&digests[*row])).collect();
            if rows.is_empty() {
                continue;
            }
            let misfits = fitted.misfits.into_iter();
            let misfits = misfits.filter_map(|(row, column, why)| Some((rows.binary_search(&row).ok()?, column, why)));
            return Ok(Some(FittedBatch {
                misfits: misfits.collect(),
                batch: fitted.batch.select(rows.iter().copied()),
            }));
        }
        Ok(None)
    }
}
