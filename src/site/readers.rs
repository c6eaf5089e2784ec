//! Who reads a site's changes, and whether what a reader says of its place can be true.

use std::cmp::Ordering;
use std::sync::Arc;

use super::cursors::{number, site_name};
use super::{Cursor, Site, SiteRow, read_row};
use crate::engine::{Lookup, Result, RowLock, Target, WriteMode, WriteOptions};
use crate::model::{self, Batch, Cell};
use crate::runtime::random;

/// Readers of one site: so many tables of other sites at most.
const READERS_MAX: usize = 100_000;
/// How long a reader may stand still before it is noted again that it is there.
const DAY: i64 = 24 * 3600 * 1_000_000;

/// A table of another site's that reads one of this site's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reader {
    /// The site.
    pub site: model::Site,
    /// Its own number of the table.
    pub number: u32,
    /// The number of the table that it reads here.
    pub table: u32,
}

/// What a reader's place tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on where it stands, or it never read.
    Fits,
    /// It stands in an earlier epoch, or it stayed away for too long: all rows have to be compared.
    Lost,
    /// It has read what this site never had: this database was restored, or replaced by an older copy.
    Restored,
    /// It has read a later epoch: another database goes on as this site.
    Superseded,
    /// It has read more than it knows: the reader was restored.
    ReaderRestored,
}

/// How far a reader is, as this site has noted it.
struct Noted {
    reader_epoch: i64,
    epoch: i64,
    position: i64,
    at: i64,
}

impl Site {
    /// The position of a reader that stayed away for so long that nothing is kept for it any more.
    const GONE: i64 = -1;

    /// Whether a reader's place can be true.
    pub async fn judge(&self, target: &mut dyn Lookup, reader: Reader, cursor: Option<Cursor>) -> Result<Verdict> {
        let epoch = i64::from(self.id.epoch);
        let noted = self.noted(target, reader).await?;
        let known = noted.filter(|n| n.reader_epoch == i64::from(reader.site.epoch) && n.epoch == epoch);
        let Some(cursor) = cursor else {
            let had = known.is_some_and(|noted| noted.position > 0);
            return Ok(if had { Verdict::ReaderRestored } else { Verdict::Fits });
        };
        Ok(match cursor.source.epoch.cmp(&self.id.epoch) {
            Ordering::Greater => Verdict::Superseded,
            Ordering::Less => Verdict::Lost,
            Ordering::Equal => match known {
                Some(noted) if noted.position == Self::GONE => Verdict::Lost,
                _ if !self.has_given(target, cursor.position, cursor.token).await? => Verdict::Restored,
                Some(noted) if noted.position > cursor.position => Verdict::ReaderRestored,
                Some(_) => Verdict::Fits,
                None => Verdict::Lost,
            },
        })
    }

    async fn noted(&self, target: &mut dyn Lookup, reader: Reader) -> Result<Option<Noted>> {
        let Some(found) = self.one(target, &self.reader_key(reader)).await? else { return Ok(None) };
        Ok(match [2, 4, 5, 6].map(|column| found.cell(0, column)) {
            [Cell::Int(reader_epoch), Cell::Int(epoch), Cell::Int(position), Cell::Int(at)] => {
                Some(Noted { reader_epoch, epoch, position, at })
            }
            _ => None,
        })
    }

    fn reader_key(&self, reader: Reader) -> Batch {
        let columns = vec![site_name(reader.site.id), number(reader.number.into())];
        Batch::new(Arc::new(self.books.readers.project(&[0, 1])), columns)
    }

    /// Notes how far readers are, in a transaction of its own when any of them has moved; then forgets what no reader
    /// needs.
    pub async fn note_readers(&self, target: &mut dyn Target, readers: &[(Reader, i64)]) -> Result<()> {
        target.begin(WriteOptions { point: true, ..WriteOptions::default() }).await?;
        let stale = self.stale(target, readers).await;
        target.rollback().await?;
        let (stale, now) = stale?;
        if stale.is_empty() {
            return Ok(());
        }
        target.begin(WriteOptions::default()).await?;
        let written = async {
            for (reader, position, there) in stale {
                let mut columns = self.reader_key(reader).into_columns();
                let numbers =
                    [i64::from(reader.site.epoch), i64::from(reader.table), i64::from(self.id.epoch), position, now];
                columns.extend(numbers.map(number));
                let row = Batch::new(self.books.readers.clone(), columns);
                target.write(if there { WriteMode::Update } else { WriteMode::Insert }, &row).await?;
                target.flush().await?;
            }
            let lowest = self.lowest_reader(target).await?;
            self.forget_marks(target, lowest).await
        };
        match written.await {
            Ok(()) => target.commit().await,
            Err(e) => {
                // The connection may be what failed; dropping it rolls back too.
                let _ = target.rollback().await;
                Err(e)
            }
        }
    }

    /// Those of the readers whose note is not what they say, whether there is one, and the time.
    async fn stale(
        &self,
        target: &mut dyn Lookup,
        readers: &[(Reader, i64)],
    ) -> Result<(Vec<(Reader, i64, bool)>, i64)> {
        let now = target.now().await?;
        let mut stale = Vec::new();
        for &(reader, position) in readers {
            let noted = self.noted(target, reader).await?;
            let fresh = noted.as_ref().is_some_and(|n| {
                (n.reader_epoch, n.epoch, n.position)
                    == (i64::from(reader.site.epoch), i64::from(self.id.epoch), position)
                    && now - n.at < DAY
            });
            if !fresh {
                stale.push((reader, position, noted.is_some()));
            }
        }
        Ok((stale, now))
    }

    /// How far the slowest of the readers is.
    async fn lowest_reader(&self, target: &mut dyn Lookup) -> Result<i64> {
        let found = target.scan(&self.books.readers, None, READERS_MAX).await?;
        let position = |row| match (found.cell(row, 4), found.cell(row, 5)) {
            // One that stands in an earlier epoch compares all rows anyway.
            (Cell::Int(epoch), Cell::Int(position)) if epoch == i64::from(self.id.epoch) && position != Self::GONE => {
                Some(position)
            }
            _ => None,
        };
        Ok((0..found.rows()).filter_map(position).min().unwrap_or(i64::MIN))
    }

    /// Goes on as another: under the next epoch, or, when another database goes on as this site, as a site of its own.
    /// What it writes from now on is told from what it wrote before. It has to be opened anew.
    pub async fn renew(&self, target: &mut dyn Target, superseded: bool) -> Result<()> {
        target.begin(WriteOptions::default()).await?;
        let renewed = async {
            let row = read_row(target, &self.books.site, RowLock::Wait).await?;
            // Someone else may have seen the same and done it.
            if (row.id, row.epoch) == (self.id.id, i64::from(self.id.epoch)) {
                let row = if superseded {
                    SiteRow { id: random().max(1), epoch: 1, ..row }
                } else {
                    SiteRow { epoch: row.epoch + 1, ..row }
                };
                target.write(WriteMode::Update, &row.batch(&self.books.site)).await?;
            }
            Ok(())
        };
        match renewed.await {
            Ok(()) => target.commit().await,
            Err(e) => {
                // The connection may be what failed; dropping it rolls back too.
                let _ = target.rollback().await;
                Err(e)
            }
        }
    }
}
