//! A row that comes where there is neither row nor tombstone under its key: was it never here, or was it deleted so long
//! ago that its tombstone was purged?

use super::{Decision, FirstRun, Origin, Relation, Standing, first_run};
use crate::model::{Entry, Site, Vector, Version};

/// The tombstone that may have stood under the key of a row that comes when all rows are compared; `None`: none did, the
/// row is new here. Not asked
/// of what a feed brings from a site that has heard of all deletions: what it sends was never here.
///
/// A purged tombstone was above all that it knew, and no purged one is above the floor. So a row that was born above the
/// floor was never deleted here; one that was born before may have been, also if it was written since. `first` is the site
/// that sends where the two meet for the first time: what stood there by itself cannot have been here, whatever was written
/// to it above the floor.
///
/// Of the row's writes it knows those of its own site, as far as the floor reaches: whoever wrote them had nothing left of
/// them but the tombstone.
#[must_use]
pub fn forgotten(incoming: &Entry, first: Option<Site>, origin: &Origin) -> Option<Entry> {
    let since = if first.is_some() { incoming.version } else { incoming.birth };
    let unknown = first.is_some_and(|site| incoming.version == Version::base(site));
    let version = Version { clock: origin.floor, site: origin.site };
    if version.is_base() || unknown || incoming.digest.is_none() || since.clock > origin.floor {
        return None;
    }
    Some(tombstone(version))
}

/// The tombstone of a key of which only a record says that its row was deleted here: a conflict with what comes, which a
/// person has to settle.
#[must_use]
pub fn recorded(origin: &Origin) -> Entry {
    tombstone(Version { clock: origin.floor, site: origin.site })
}

fn tombstone(version: Version) -> Entry {
    let mut vector = Vector::default();
    vector.add(version);
    Entry { version, birth: Version::BASE, vector, digest: None, columns: Vec::new() }
}

/// Settles a row against such a tombstone, as a first run does: neither knows the other, unless the row is this site's own
/// and comes back. What becomes of it is written, so that whoever sent the row hears of it; where a person has to decide
/// nothing is, and the record alone stands for the deletion.
#[must_use]
pub fn reunite(tombstone: &Entry, incoming: Standing<'_>, rule: FirstRun, origin: &Origin) -> Decision {
    let here = Standing { entry: tombstone, stamp: None };
    let mut decision = first_run(Some(here), incoming, rule, origin);
    decision.changed = decision.relation != Relation::Conflict || rule != FirstRun::Manual;
    decision
}
