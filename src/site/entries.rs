//! Entries of rows as rows of the versions table.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Book, facets};
use crate::engine::{Error, ErrorKind, Lookup, Result, RowLock};
use crate::model::{Batch, Cell, Column, Digest, Entry, Facet, Vector, Version, row_digest};

/// A key as the digest of its values: what maps are built by.
pub type KeyId = Digest;

/// An entry where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The entry.
    pub entry: Entry,
    /// When it last changed, in the site's own count; [`Known::PARTED`] for the entry of a row that has left.
    pub seq: i64,
}

impl Known {
    /// The number of an entry that is told to nobody: its row left without being deleted, since it ceased to meet a
    /// condition. What other sites know of the row is no news here; whoever inserts one under its key has seen nothing
    /// of it.
    pub const PARTED: i64 = 0;

    /// Whether its row has left.
    #[must_use]
    pub fn is_parted(&self) -> bool {
        self.seq == Self::PARTED
    }
}

/// The key of a row of a batch whose columns at `key` are a key's.
#[must_use]
pub fn key_id(batch: &Batch, row: usize, key: &[usize]) -> KeyId {
    row_digest(batch, row, key)
}

/// The entries of these keys.
pub async fn read(target: &mut dyn Lookup, book: &Book, keys: &Batch) -> Result<HashMap<KeyId, Known>> {
    let found = target.lookup(&book.versions, keys, RowLock::None).await?;
    let key: Vec<usize> = (0..book.width()).collect();
    (0..found.rows()).map(|row| Ok((key_id(&found, row, &key), decode(book, &found, row)?))).collect()
}

/// The entry of a row of the versions table.
pub fn decode(book: &Book, batch: &Batch, row: usize) -> Result<Known> {
    let damaged = || {
        Error::new(
            ErrorKind::BadData,
            format!(
                "the bookkeeping of {} is damaged or of a newer rowferry; remove capture from this database and \
                 install it again",
                book.logged.table.name
            ),
        )
    };
    let at = book.width();
    let bytes = |column: usize| match batch.cell(row, column) {
        Cell::Bytes(bytes) => Ok(bytes),
        _ => Err(damaged()),
    };
    let version = |column: usize| Version::from_bytes(bytes(column)?).map_err(|_| damaged());
    let digest = match batch.cell(row, at + 3) {
        Cell::Null => None,
        Cell::Bytes(bytes) => Some(Digest(u128::from_be_bytes(bytes.try_into().map_err(|_| damaged())?))),
        _ => return Err(damaged()),
    };
    let Cell::Int(seq) = batch.cell(row, at + 4) else { return Err(damaged()) };
    let vector = Vector::from_bytes(bytes(at + 2)?).map_err(|_| damaged())?;
    let (version, birth) = (version(at)?, version(at + 1)?);
    let columns = match (&book.facets, batch.cell(row, at + 5)) {
        (Some(columns), Cell::Bytes(facets)) if digest.is_some() => {
            facets::from_bytes(columns, facets).map_err(|_| damaged())?
        }
        // Its version was given before facets were kept: it is of the whole row.
        (Some(columns), _) if digest.is_some() => {
            let version = if version.is_base() { Version::BASE } else { version };
            vec![Facet { version, digest: Digest::default() }; columns.len()]
        }
        _ => Vec::new(),
    };
    Ok(Known { entry: Entry { version, birth, vector, digest, columns }, seq })
}

/// Rows of the versions table, to be written.
pub struct Entries {
    book: Arc<Book>,
    columns: Vec<Column>,
}

impl Entries {
    /// None yet.
    #[must_use]
    pub fn new(book: &Arc<Book>) -> Self {
        Self { book: book.clone(), columns: vec![Column::default(); book.versions.columns.len()] }
    }

    /// Adds the entry of the key in `keys` at `row`.
    pub fn push(&mut self, keys: &Batch, row: usize, known: &Known) {
        let at = self.book.width();
        for column in 0..at {
            self.columns[column].push_cell(keys.cell(row, column));
        }
        let Entry { version, birth, vector, digest, columns } = &known.entry;
        self.columns[at].push_bytes(&version.to_bytes());
        self.columns[at + 1].push_bytes(&birth.to_bytes());
        self.columns[at + 2].push_bytes(&vector.to_bytes());
        match digest {
            Some(digest) => self.columns[at + 3].push_bytes(&digest.0.to_be_bytes()),
            None => self.columns[at + 3].push_null(),
        }
        self.columns[at + 4].push_int(known.seq);
        match &self.book.facets {
            Some(kept) if digest.is_some() && columns.len() == kept.len() => {
                self.columns[at + 5].push_bytes(&facets::to_bytes(kept, columns));
            }
            _ => self.columns[at + 5].push_null(),
        }
    }

    /// As a batch.
    #[must_use]
    pub fn batch(self) -> Batch {
        Batch::new(self.book.versions.clone(), self.columns)
    }
}
