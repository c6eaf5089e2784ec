//! Facets of columns: where rows are merged column by column, who wrote each of them last stands beside a row's version.
//!
//! A facet is kept under the name of its column, so that it holds when the table gets other columns besides.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::install::{FACETS, TABLES_MAX};
use super::{Book, Site};
use crate::engine::{Lookup, Result, RowLock, Target, WriteMode};
use crate::model::{
    BadVersion, Batch, Cell, Column, ColumnDef, Digest, Facet, Table, TableName, Version, cell_digests,
};

/// A column of which facets are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Faceted {
    /// Its name among the facets.
    name: u64,
    /// Digest of what a row holds there that got the column since, until somebody writes it.
    unwritten: Digest,
}

impl Faceted {
    pub(super) fn of(column: &ColumnDef) -> Self {
        let null = || {
            let mut null = Column::default();
            null.push_null();
            null
        };
        let value = column.constant(&column.logical).unwrap_or_else(null);
        let table = Table::new(TableName::new(""), vec![column.clone()]);
        let digests = cell_digests(&Batch::new(Arc::new(table), vec![value]), 0, &[0]);
        Self { name: xxh3_64(column.name.as_bytes()), unwritten: digests[0] }
    }
}

/// The versions of the facets, each once, with their number before them; then for each facet its column, which of the
/// versions, and its digest.
pub(super) fn to_bytes(columns: &[Faceted], facets: &[Facet]) -> Vec<u8> {
    let mut versions: Vec<Version> = Vec::new();
    let mut places = Vec::with_capacity(facets.len() * FACET);
    for (Faceted { name, .. }, facet) in columns.iter().zip(facets) {
        let at = versions.iter().position(|version| *version == facet.version).unwrap_or_else(|| {
            versions.push(facet.version);
            versions.len() - 1
        });
        places.extend(name.to_be_bytes());
        places.extend(number(at).to_be_bytes());
        places.extend(facet.digest.0.to_be_bytes());
    }
    let mut bytes = number(versions.len()).to_be_bytes().to_vec();
    bytes.extend(versions.iter().flat_map(|version| version.to_bytes()));
    bytes.extend(places);
    bytes
}

/// Engines have far fewer columns.
fn number(at: usize) -> u16 {
    u16::try_from(at).unwrap_or(u16::MAX)
}

/// Length of a facet.
const FACET: usize = 8 + 2 + 16;

/// The facets of these columns. One that has none is of a column that the table got since, and that nobody has written.
pub(super) fn from_bytes(columns: &[Faceted], bytes: &[u8]) -> std::result::Result<Vec<Facet>, BadVersion> {
    let (count, rest) = bytes.split_first_chunk::<2>().ok_or(BadVersion)?;
    let (versions, places) =
        rest.split_at_checked(usize::from(u16::from_be_bytes(*count)) * Version::BYTES).ok_or(BadVersion)?;
    let versions =
        versions.chunks(Version::BYTES).map(Version::from_bytes).collect::<std::result::Result<Vec<_>, _>>()?;
    let unwritten = |column: &Faceted| Facet { version: Version::BASE, digest: column.unwritten };
    let mut facets: Vec<Facet> = columns.iter().map(unwritten).collect();
    for (at, place) in places.chunks(FACET).enumerate() {
        let (name, place) = place.split_first_chunk::<8>().ok_or(BadVersion)?;
        let (version, digest) = place.split_first_chunk::<2>().ok_or(BadVersion)?;
        let version = *versions.get(usize::from(u16::from_be_bytes(*version))).ok_or(BadVersion)?;
        let digest = Digest(u128::from_be_bytes(digest.try_into().map_err(|_| BadVersion)?));
        let name = u64::from_be_bytes(*name);
        // As a rule they stand in the order of the columns.
        let is = |column: &Faceted| column.name == name;
        let found = if columns.get(at).is_some_and(is) { Some(at) } else { columns.iter().position(is) };
        if let Some(found) = found {
            facets[found] = Facet { version, digest };
        }
    }
    Ok(facets)
}

impl Site {
    /// The same, with facets of the columns of these tables, given by number.
    #[must_use]
    pub fn with_facets(mut self, tables: &BTreeSet<u32>) -> Self {
        for book in self.tables.iter_mut().filter(|book| tables.contains(&book.logged.n)) {
            *book = Arc::new((**book).clone().with_facets());
        }
        self
    }

    /// What is noted of the tables' facets, by number; without those of which none are kept.
    ///
    /// # Errors
    /// What the database says.
    pub async fn noted_facets(&self, target: &mut dyn Lookup) -> Result<HashMap<u32, String>> {
        let part = Arc::new(self.books.tables.project(&[0, FACETS]));
        let found = target.scan(&part, None, TABLES_MAX).await?;
        let noted = |row| match (found.cell(row, 0), found.cell(row, 1)) {
            (Cell::Int(n), Cell::Bytes(noted)) if !noted.is_empty() => {
                Some((u32::try_from(n).ok()?, String::from_utf8_lossy(noted).into_owned()))
            }
            _ => None,
        };
        Ok((0..found.rows()).filter_map(noted).collect())
    }

    /// Those of these tables of whose columns facets are kept although it is not said so here: another sync has begun with
    /// that since this was opened. Whoever writes entries asks, with the numbers' lock; until it is let go nobody begins.
    ///
    /// # Errors
    /// What the database says.
    pub async fn faceted_since(
        &self,
        target: &mut dyn Lookup,
        books: impl Iterator<Item = &Arc<Book>>,
    ) -> Result<BTreeSet<u32>> {
        let mut numbers = Column::default();
        books.filter(|book| book.facets.is_none()).for_each(|book| numbers.push_int(book.logged.n.into()));
        if numbers.is_empty() {
            return Ok(BTreeSet::new());
        }
        let part = Arc::new(self.books.tables.project(&[0, FACETS]));
        let numbers = Batch::new(Arc::new(part.project(&[0])), vec![numbers]);
        let found = target.lookup(&part, &numbers, RowLock::None).await?;
        let kept = |row: &usize| found.cell(*row, 1) != Cell::Bytes(b"");
        let number = |row| if let Cell::Int(n) = found.cell(row, 0) { u32::try_from(n).ok() } else { None };
        Ok((0..found.rows()).filter(kept).filter_map(number).collect())
    }

    /// Notes that of a table.
    ///
    /// # Errors
    /// What the database says.
    pub async fn note_facets(&self, target: &mut dyn Target, table: u32, noted: &str) -> Result<()> {
        let mut columns = vec![Column::default(); 2];
        columns[0].push_int(table.into());
        columns[1].push_bytes(noted.as_bytes());
        let part = Arc::new(self.books.tables.project(&[0, FACETS]));
        target.write(WriteMode::Update, &Batch::new(part, columns)).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Clock, LogicalType, Site};

    fn columns<const N: usize>(names: [&str; N]) -> [Faceted; N] {
        names.map(|name| Faceted::of(&ColumnDef::new(name, LogicalType::Bool)))
    }

    fn facet(clock: i64, digest: u128) -> Facet {
        let site = Site { id: 7, epoch: 1 };
        Facet { version: Version { clock: Clock::of_write(clock, clock, Clock::ZERO), site }, digest: Digest(digest) }
    }

    #[test]
    fn facets_come_back_and_those_of_other_columns_hold() {
        let known = columns(["a", "b", "c", "d"]);
        let facets = [facet(5, 1), facet(9, 2), facet(5, 3), facet(5, 4)];
        let bytes = to_bytes(&known, &facets);
        assert_eq!(bytes.len(), 2 + 2 * Version::BYTES + 4 * FACET, "a version that columns share stands once");
        assert_eq!(from_bytes(&known, &bytes), Ok(facets.to_vec()));
        let now = columns(["d", "new", "b"]);
        let unwritten = Facet { version: Version::BASE, digest: now[1].unwritten };
        assert_eq!(from_bytes(&now, &bytes), Ok(vec![facets[3], unwritten, facets[1]]));
    }

    #[test]
    fn damaged_facets_are_refused() {
        let known = columns(["a", "b"]);
        let bytes = to_bytes(&known, &[facet(5, 1), facet(9, 2)]);
        for bad in [&bytes[..1], &bytes[..20], &bytes[..bytes.len() - 1], &[bytes.clone(), vec![0]].concat()] {
            assert_eq!(from_bytes(&known, bad), Err(BadVersion));
        }
        let mut beyond = bytes;
        let at = beyond.len() - 17;
        beyond[at] = 2;
        assert_eq!(from_bytes(&known, &beyond), Err(BadVersion), "a version that is not there");
    }
}
