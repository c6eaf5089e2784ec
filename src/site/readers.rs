//! Who reads a site's changes, and whether what a reader says of its place can be true.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use super::cursors::push_site;
use super::{Cursor, Site, SiteRow, read_row};
use crate::engine::{ErrorKind, Lookup, Result, RowLock, Target, WriteMode, WriteOptions};
use crate::model::{self, Batch, Cell, Column};
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

    /// Whether the places of tables of one other site that read this one can be true, in their order.
    pub async fn judge(&self, target: &mut dyn Lookup, readers: &[(Reader, Option<Cursor>)]) -> Result<Vec<Verdict>> {
        let noted = self.noted(target, readers.iter().map(|(reader, _)| *reader)).await?;
        // Nearly all stand at one place.
        let mut given: HashMap<(i64, i64), bool> = HashMap::new();
        let mut verdicts = Vec::with_capacity(readers.len());
        for (reader, cursor) in readers {
            let known = noted.get(&reader.number).filter(|noted| noted.epoch == i64::from(self.id.epoch));
            let itself = known.filter(|noted| noted.reader_epoch == i64::from(reader.site.epoch));
            verdicts.push(match cursor {
                None if itself.is_some_and(|noted| noted.position > 0) => Verdict::ReaderRestored,
                None => Verdict::Fits,
                Some(cursor) => {
                    let place = (cursor.position, cursor.token);
                    if cursor.source.epoch == self.id.epoch && !given.contains_key(&place) {
                        given.insert(place, self.has_given(target, place).await?);
                    }
                    self.verdict(*cursor, (known, itself), given.get(&place) == Some(&true))
                }
            });
        }
        Ok(verdicts)
    }

    /// What is to be said of a place that this site has given out, or has not, and of what it has noted of the reader, in
    /// whatever epoch that was then, and of the reader as it is now.
    fn verdict(&self, cursor: Cursor, (known, itself): (Option<&Noted>, Option<&Noted>), given: bool) -> Verdict {
        let knows_less = |noted: &Noted| noted.position > cursor.position;
        match (cursor.source.epoch.cmp(&self.id.epoch), itself) {
            (Ordering::Greater, _) => Verdict::Superseded,
            (Ordering::Less, _) => Verdict::Lost,
            (Ordering::Equal, Some(noted)) if noted.position == Self::GONE => Verdict::Lost,
            // Whether such a place was given out nobody knows any more: marks are kept from the places on where readers are.
            (Ordering::Equal, Some(noted)) if knows_less(noted) => Verdict::ReaderRestored,
            (Ordering::Equal, None) if known.is_some_and(knows_less) => Verdict::Lost,
            (Ordering::Equal, _) if !given => Verdict::Restored,
            (Ordering::Equal, Some(_)) => Verdict::Fits,
            (Ordering::Equal, None) => Verdict::Lost,
        }
    }

    /// How far a site was with a table of this one's when it last spoke, in this epoch; `None`: it never read it.
    pub async fn read_upto(&self, target: &mut dyn Lookup, site: u64, table: u32) -> Result<Option<i64>> {
        let found = target.scan(&self.books.readers, None, READERS_MAX).await?;
        let mut name = Column::default();
        push_site(&mut name, site);
        let position = |row| match [3, 4, 5].map(|column| found.cell(row, column)) {
            [Cell::Int(read), Cell::Int(epoch), Cell::Int(position)]
                if found.cell(row, 0) == name.cell(0)
                    && read == i64::from(table)
                    && epoch == i64::from(self.id.epoch)
                    && position != Self::GONE =>
            {
                Some(position)
            }
            _ => None,
        };
        Ok((0..found.rows()).filter_map(position).max())
    }

    /// What is noted of tables of one other site, by their numbers there.
    async fn noted(
        &self,
        target: &mut dyn Lookup,
        readers: impl Iterator<Item = Reader>,
    ) -> Result<HashMap<u32, Noted>> {
        let mut columns = vec![Column::default(); 2];
        for reader in readers {
            push_site(&mut columns[0], reader.site.id);
            columns[1].push_int(reader.number.into());
        }
        let keys = Batch::new(Arc::new(self.books.readers.project(&[0, 1])), columns);
        let found = target.lookup(&self.books.readers, &keys, RowLock::None).await?;
        let noted = |row| match [1, 2, 4, 5, 6].map(|column| found.cell(row, column)) {
            [Cell::Int(number), Cell::Int(reader_epoch), Cell::Int(epoch), Cell::Int(position), Cell::Int(at)] => {
                Some((u32::try_from(number).ok()?, Noted { reader_epoch, epoch, position, at }))
            }
            _ => None,
        };
        Ok((0..found.rows()).filter_map(noted).collect())
    }

    /// Notes how far readers are, in a transaction of its own when any of them has moved; then forgets what no reader
    /// needs.
    pub async fn note_readers(&self, target: &mut dyn Target, readers: &[(Reader, i64)]) -> Result<()> {
        match self.note_readers_once(target, readers).await {
            // Another sync between the same two sites has just noted the same one.
            Err(e) if e.kind == ErrorKind::Constraint => self.note_readers_once(target, readers).await,
            noted => noted,
        }
    }

    async fn note_readers_once(&self, target: &mut dyn Target, readers: &[(Reader, i64)]) -> Result<()> {
        target.begin(WriteOptions { point: true, ..WriteOptions::default() }).await?;
        let stale = self.stale(target, readers).await;
        target.rollback().await?;
        let (stale, now) = stale?;
        if stale.is_empty() {
            return Ok(());
        }
        target.begin(WriteOptions::default()).await?;
        let written = async {
            for mode in [WriteMode::Update, WriteMode::Insert] {
                let of = stale.iter().filter(|(.., there)| *there == (mode == WriteMode::Update));
                let rows = self.reader_rows(of.map(|(reader, position, _)| (*reader, *position)), now);
                if rows.rows() > 0 {
                    target.write(mode, &rows).await?;
                }
            }
            target.flush().await?;
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
        let all = self.noted(target, readers.iter().map(|(reader, _)| *reader)).await?;
        for &(reader, position) in readers {
            let noted = all.get(&reader.number);
            let fresh = noted.is_some_and(|n| {
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

    fn reader_rows(&self, readers: impl Iterator<Item = (Reader, i64)>, now: i64) -> Batch {
        let mut columns = vec![Column::default(); 7];
        for (reader, position) in readers {
            push_site(&mut columns[0], reader.site.id);
            let numbers = [
                i64::from(reader.number),
                i64::from(reader.site.epoch),
                i64::from(reader.table),
                i64::from(self.id.epoch),
                position,
                now,
            ];
            columns[1..].iter_mut().zip(numbers).for_each(|(column, number)| column.push_int(number));
        }
        Batch::new(self.books.readers.clone(), columns)
    }

    /// How far the slowest of the readers is.
    pub async fn lowest_reader(&self, target: &mut dyn Lookup) -> Result<i64> {
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
