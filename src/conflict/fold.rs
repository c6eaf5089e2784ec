//! Log → version: what was written to a key since its last fold, however often, becomes one version.

use crate::model::{Clock, Digest, Entry, Facet, Site, Vector, Version};

/// The site that gives a version, at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    /// The site with its epoch.
    pub site: Site,
    /// What the database's clock shows now, in microseconds since 1970.
    pub now: i64,
    /// What its versions are above in any case: the highest clock of what it has forgotten.
    pub floor: Clock,
}

impl Origin {
    /// A new version of this site, above what it replaces.
    #[must_use]
    pub fn version(&self, wall: i64, above: Clock) -> Version {
        Version { clock: Clock::of_write(wall, self.now, above.max(self.floor)), site: self.site }
    }
}

/// What the log says of one key, and what stands there now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written<'a> {
    /// When it was last written, in microseconds since 1970 by the database's clock.
    pub wall: i64,
    /// Whether an insert was logged and nothing that says that a row stood there before it.
    pub born: bool,
    /// Digest of the row that stands there now; `None` when there is none.
    pub digest: Option<Digest>,
    /// Digests of its values, where rows are merged column by column; else none.
    pub columns: &'a [Digest],
}

/// The outcome of a fold. **Either way the key gets a new `seq`**: while its log was not yet folded, it may have been
/// left out of a batch whose cursor has passed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Folded {
    /// The content is what it was: the entry stays.
    Same,
    /// The content is another: the entry that takes the place of the one before.
    New(Entry),
}

/// Folds what was written to one key. `previous` is its entry; `None` when it has none: no row stood there, or one
/// older than capture.
///
/// A key that is gone gets a tombstone even if it had no entry: whether its row was older than capture or came and went
/// between two folds, the log cannot tell. A row under a tombstone is a new birth. One that stood before and stands now
/// is the same row, though it may have been deleted and inserted in between, as `REPLACE` does.
#[must_use]
pub fn fold(previous: Option<&Entry>, written: &Written<'_>, origin: &Origin) -> Folded {
    if previous.is_some_and(|entry| entry.digest == written.digest) {
        return Folded::Same;
    }
    let mut entry = anew(previous, written, origin);
    // A column that holds what it held keeps its facet, however often it was written.
    let before = previous.map_or(&[][..], |previous| &previous.columns);
    let held = entry.columns.iter_mut().zip(before).filter(|(facet, before)| facet.digest == before.digest);
    held.for_each(|(facet, before)| *facet = *before);
    Folded::New(entry)
}

/// What stands under a key as a write of this site to all its columns, also where its entry says so already: whoever has
/// it otherwise takes this for the newer.
#[must_use]
pub fn anew(previous: Option<&Entry>, written: &Written<'_>, origin: &Origin) -> Entry {
    let above = previous.map_or(origin.floor, Entry::latest);
    let version = origin.version(written.wall, above);
    let birth = match previous {
        Some(entry) if entry.digest.is_some() || written.digest.is_none() => entry.birth,
        None if !written.born => Version::BASE,
        _ => version,
    };
    let mut vector = previous.map_or_else(Vector::default, |entry| entry.vector.clone());
    if let Some(entry) = previous {
        // Also of a row that nobody had written: whose it was.
        vector.add(entry.version);
    }
    vector.add(version);
    let columns = written.columns.iter().filter(|_| written.digest.is_some());
    let columns = columns.map(|&digest| Facet { version, digest }).collect();
    Entry { version, birth, vector, digest: written.digest, columns }
}
