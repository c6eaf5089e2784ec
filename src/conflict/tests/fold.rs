//! Who wrote which column, as a fold says.

use crate::conflict::{Folded, Origin, Written, anew, fold};
use crate::model::{Clock, Digest, Entry, Facet, Site, Version};

const ORIGIN: Origin = Origin { site: Site { id: 1, epoch: 0 }, now: 1_000, floor: Clock::ZERO };

#[test]
fn a_write_is_one_to_the_columns_that_it_changed_and_what_is_vouched_for_one_to_all() {
    let facet = |digest| Facet { version: Version::BASE, digest: Digest(digest) };
    let before = Entry { columns: vec![facet(1), facet(2)], ..Entry::base(Digest(12)) };
    let columns = [Digest(1), Digest(3)];
    let written = Written { wall: 500, born: false, digest: Some(Digest(13)), columns: &columns };
    let Folded::New(entry) = fold(Some(&before), &written, &ORIGIN) else { panic!("the content is another") };
    assert_eq!(entry.columns, [facet(1), Facet { version: entry.version, digest: Digest(3) }]);
    let vouched = anew(Some(&before), &written, &ORIGIN);
    assert!(vouched.columns.iter().all(|facet| facet.version == vouched.version));
    let gone = Written { digest: None, columns: &[], ..written };
    assert_eq!(anew(Some(&entry), &gone, &ORIGIN).columns, []);
}

#[test]
fn a_write_is_above_all_that_the_row_has_seen_and_all_that_was_forgotten() {
    // A row whose number was another's, deleted later than this one was written: its vector has seen that.
    let seen = Version { clock: Clock::of_micros(900), site: ORIGIN.site };
    let mut before = Entry::standing_at(ORIGIN.site, Digest(1));
    before.version = Version { clock: Clock::of_micros(300), site: Site { id: 2, epoch: 0 } };
    before.vector.add(before.version);
    before.vector.add(seen);
    let written = Written { wall: 500, born: false, digest: Some(Digest(2)), columns: &[] };
    let Folded::New(entry) = fold(Some(&before), &written, &ORIGIN) else { panic!("the content is another") };
    assert!(entry.version > seen, "{entry:?} would pass for known where {seen:?} was heard of");
    let floor = Origin { floor: Clock::of_micros(2_000), ..ORIGIN };
    let Folded::New(entry) = fold(None, &Written { born: true, ..written }, &floor) else { panic!("it is new") };
    assert!(entry.version.clock > floor.floor);
}
