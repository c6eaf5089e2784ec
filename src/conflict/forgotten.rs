//! A row of which nothing is known at another site: was it never there, or was it deleted there so long ago that its
//! tombstone has gone?

use crate::model::{Entry, Site, Vector};

/// Whether the row of this entry, which stands at `own`, may have been deleted where all that is known of deleted rows is
/// that they were born and written like this: what such a tombstone stood for, it knew.
///
/// A row older than capture has no birth. One that stood at `own` by itself was there only if that site has `met` this one's
/// rows; any other came from somewhere.
#[must_use]
pub fn may_be_forgotten(entry: &Entry, floor: &Vector, own: Site, met: bool) -> bool {
    if !entry.birth.is_base() {
        return floor.holds(entry.birth);
    }
    let of_others = |site: Site| site != Site::NONE && site.id != own.id;
    let came = of_others(entry.version.site) || entry.vector.versions().iter().any(|version| of_others(version.site));
    met || came || floor.holds_row_of(own)
}
