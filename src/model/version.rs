//! Who wrote a row last, and which writes its content includes.
//!
//! A [`Version`] names one write to one row: when (a [`Clock`]) and where (a [`Site`]). A [`Vector`] says which writes
//! a content includes. The [`Entry`] of a row holds both, and lives as long as the row or its tombstone.
//!
//! The binary forms compare byte by byte as the values do, so that a database can order and index them as they are: 20
//! bytes for a version, 20 for each site of a vector. The text forms do so too and serve where people or JSON read.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::Digest;

/// A database that takes part in syncs. A restored one goes on under its next epoch: the clocks that it gives out
/// again must not pass for those that others have seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site {
    /// Random, never 0.
    pub id: u64,
    /// Counts restores.
    pub epoch: u32,
}

impl Site {
    /// Nobody: the site of [`Version::BASE`].
    pub const NONE: Self = Self { id: 0, epoch: 0 };

    /// That of a database that keeps no books, by a name of its own: the versions of its rows are the stamps that they
    /// carry. No other gets that far in counting its epochs.
    #[must_use]
    pub fn stamped(name: &str) -> Self {
        Self { id: xxhash_rust::xxh3::xxh3_64(name.as_bytes()).max(1), epoch: u32::MAX }
    }

    /// Of a database that keeps no books, the site that deletions there are known by.
    #[must_use]
    pub fn deletions(self) -> Self {
        Self { epoch: self.epoch.saturating_sub(1), ..self }
    }

    /// Whether it keeps no books.
    #[must_use]
    pub fn is_stamped(self) -> bool {
        self.epoch == u32::MAX
    }
}

/// A hybrid logical clock in one number, as cheap as an integer column: microseconds since 1970 of the *write*, and
/// wherever that would not be above the version replaced, one microsecond more than it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Clock(u64);

impl Clock {
    /// Before every write.
    pub const ZERO: Self = Self(0);
    /// The last wall time that is believed: the end of the year 9999. Beyond it there is room for 2^62 ticks.
    const WALL_MAX: i64 = 253_402_300_799_999_999;
    /// How far a write may lie ahead of the clock that its own database shows when it is folded: one day.
    const AHEAD_MAX: i64 = 24 * 3600 * 1_000_000;

    /// The clock of a local write that replaces what stands at `above`.
    ///
    /// `wall` is the time of the write, `now` that of the fold, both in microseconds by the same database's clock. A
    /// wrong clock is taken as it is. Only a stamp that even this clock calls absurd (an application may set its
    /// session's time) is cut, here, before anyone has seen it.
    #[must_use]
    pub fn of_write(wall: i64, now: i64, above: Self) -> Self {
        let believed = wall.min(now.saturating_add(Self::AHEAD_MAX)).clamp(0, Self::WALL_MAX);
        Self(believed.unsigned_abs().max(above.0 + 1))
    }

    /// The one of so many microseconds, as [`Self::micros`] told it; the last there is for one that none tells.
    #[must_use]
    pub fn of_micros(micros: u64) -> Self {
        Self(micros.min((1 << 63) - 2))
    }

    /// One tick later.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Microseconds since 1970, more or less.
    #[must_use]
    pub fn micros(self) -> u64 {
        self.0
    }
}

/// One write to one row. The order is total: by clock, then by site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// When.
    pub clock: Clock,
    /// Where.
    pub site: Site,
}

/// Bytes or text that are no version or vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a row's version: the bookkeeping is damaged or of a newer rowferry")]
pub struct BadVersion;

impl Version {
    /// The version of a row that nobody has written since capture began, and the birth of a row older than that. Every
    /// vector holds it.
    pub const BASE: Self = Self { clock: Clock::ZERO, site: Site::NONE };

    /// As [`Self::BASE`], of a row that is known to have stood at this site: wherever it was brought since, who meets it
    /// can tell whose row it is.
    #[must_use]
    pub const fn base(site: Site) -> Self {
        Self { clock: Clock::ZERO, site }
    }

    /// Whether nobody has written the row since capture began.
    #[must_use]
    pub fn is_base(self) -> bool {
        self.clock == Clock::ZERO
    }

    /// Length of the binary form.
    pub const BYTES: usize = 20;
    /// Length of the text form.
    const TEXT: usize = 16 + 1 + 16 + 1 + 8;

    /// Big-endian clock, site and epoch.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.clock.0.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.site.id.to_be_bytes());
        bytes[16..].copy_from_slice(&self.site.epoch.to_be_bytes());
        bytes
    }

    /// Reads the binary form.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadVersion> {
        let (clock, rest) = bytes.split_first_chunk::<8>().ok_or(BadVersion)?;
        let (id, epoch) = rest.split_first_chunk::<8>().ok_or(BadVersion)?;
        let epoch: [u8; 4] = epoch.try_into().map_err(|_| BadVersion)?;
        Self::new(u64::from_be_bytes(*clock), u64::from_be_bytes(*id), u32::from_be_bytes(epoch))
    }

    /// Refuses a clock that leaves no room for the next write, and a clock of nobody.
    fn new(clock: u64, id: u64, epoch: u32) -> Result<Self, BadVersion> {
        let version = Self { clock: Clock(clock), site: Site { id, epoch } };
        let sound = if id == 0 { version == Self::BASE } else { clock < 1 << 63 };
        if sound { Ok(version) } else { Err(BadVersion) }
    }
}

/// `clock-site-epoch`, hexadecimal and of fixed width.
impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:016x}-{:08x}", self.clock.0, self.site.id, self.site.epoch)
    }
}

impl FromStr for Version {
    type Err = BadVersion;

    fn from_str(text: &str) -> Result<Self, BadVersion> {
        let digits = |part: &str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let parts: Vec<&str> = text.split('-').collect();
        match parts[..] {
            [clock, id, epoch] if text.len() == Self::TEXT && parts.iter().all(|p| digits(p)) => {
                let number = |part| u64::from_str_radix(part, 16).map_err(|_| BadVersion);
                let epoch = u32::from_str_radix(epoch, 16).map_err(|_| BadVersion)?;
                Self::new(number(clock)?, number(id)?, epoch)
            }
            _ => Err(BadVersion),
        }
    }
}

/// Which writes to a row its content includes: of each site the last, and with it all before it.
///
/// One clock per site suffices because a site's writes to a row follow one another: each is made upon the one before.
/// Clock 0 stands for the row that was there before capture.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Vector(Vec<Version>);

impl Vector {
    /// Whether the content includes this write.
    #[must_use]
    pub fn holds(&self, version: Version) -> bool {
        version.clock <= self.0.iter().find(|last| last.site == version.site).map_or(Clock::ZERO, |last| last.clock)
    }

    /// Takes one write in.
    pub fn add(&mut self, version: Version) {
        if version == Version::BASE {
            return;
        }
        match self.0.binary_search_by_key(&version.site, |last| last.site) {
            Ok(at) => self.0[at] = self.0[at].max(version),
            Err(at) => self.0.insert(at, version),
        }
    }

    /// Takes all writes of another in.
    pub fn join(&mut self, other: &Self) {
        other.0.iter().for_each(|version| self.add(*version));
    }

    /// Whether the content includes the row as it stood at this site before capture, in whatever epoch: it does when that
    /// site has written it since.
    #[must_use]
    pub fn holds_row_of(&self, site: Site) -> bool {
        self.0.iter().any(|last| last.site.id == site.id)
    }

    /// When the latest of them was made. It need not be the one that gave the content: a row that was deleted leaves its
    /// number to another, whose vector has seen that. Whoever writes next must be above it, or the write would pass for known.
    #[must_use]
    pub fn latest(&self) -> Clock {
        self.0.iter().map(|version| version.clock).max().unwrap_or(Clock::ZERO)
    }

    /// The last write of each site, by site.
    #[must_use]
    pub fn versions(&self) -> &[Version] {
        &self.0
    }

    /// The binary forms of its versions, one after the other.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|version| version.to_bytes()).collect()
    }

    /// Reads the binary form.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadVersion> {
        Self::new(bytes.chunks(Version::BYTES).map(Version::from_bytes).collect::<Result<_, _>>()?)
    }

    fn new(versions: Vec<Version>) -> Result<Self, BadVersion> {
        let sorted = versions.is_sorted_by(|a, b| a.site < b.site);
        if sorted && !versions.contains(&Version::BASE) { Ok(Self(versions)) } else { Err(BadVersion) }
    }
}

/// The text forms of its versions with commas between them.
impl fmt::Display for Vector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(at, version)| {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{version}")
        })
    }
}

impl FromStr for Vector {
    type Err = BadVersion;

    fn from_str(text: &str) -> Result<Self, BadVersion> {
        let parts = text.split(',').filter(|_| !text.is_empty());
        Self::new(parts.map(str::parse).collect::<Result<_, _>>()?)
    }
}

/// Who wrote a column of a row last, and what was left there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Facet {
    /// The write.
    pub version: Version,
    /// Digest of the value.
    pub digest: Digest,
}

/// What one site knows of one row, present or deleted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The write that gave the row its content.
    pub version: Version,
    /// The write that inserted the row: tells two rows under one key apart. [`Version::BASE`] when older than capture.
    pub birth: Version,
    /// The writes that the content includes, its own among them.
    pub vector: Vector,
    /// Digest of the content; `None` when the row is deleted and this is its tombstone.
    pub digest: Option<Digest>,
    /// Where rows are merged column by column, one for each column of the content; a tombstone has none.
    pub columns: Vec<Facet>,
}

impl Entry {
    /// That of a row that nobody has written since capture began.
    #[must_use]
    pub fn base(digest: Digest) -> Self {
        let vector = Vector::default();
        Self { version: Version::BASE, birth: Version::BASE, vector, digest: Some(digest), columns: Vec::new() }
    }

    /// Whether the content includes a write of this site, or the row as it stood there.
    #[must_use]
    pub fn is_of(&self, site: Site) -> bool {
        self.version.site.id == site.id || self.vector.holds_row_of(site)
    }

    /// Whether the row came from a database that keeps no books, or stood there too when the two met, and was not found to
    /// be gone there since.
    #[must_use]
    pub fn stands_at(&self, site: Site) -> bool {
        let last =
            |site| self.vector.versions().iter().find(|version| version.site == site).map(|version| version.clock);
        self.is_of(site) && last(site.deletions()).is_none_or(|gone| last(site).is_some_and(|last| last > gone))
    }

    /// Whether no more is known than that a row was deleted here.
    #[must_use]
    pub fn is_bare_deletion(&self) -> bool {
        self.digest.is_none() && self.vector.versions() == [self.version]
    }

    /// The clock that the next write to it must be above.
    #[must_use]
    pub fn latest(&self) -> Clock {
        self.version.clock.max(self.vector.latest())
    }

    /// As [`Self::base`], of a row that stands at this site.
    #[must_use]
    pub fn standing_at(site: Site, digest: Digest) -> Self {
        Self { version: Version::base(site), ..Self::base(digest) }
    }
}

/// A row that gives up its generated number, since a row that another site inserted under it was born earlier. It is the
/// same row under both numbers: the move says so wherever it is told, and gives no version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Move {
    /// The number that it had.
    pub number: i64,
    /// Its birth: which of the rows under that number it is.
    pub birth: Version,
    /// The number that it got; `None`: it is to get one, at the site where it was born.
    pub to: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(clock: u64, id: u64, epoch: u32) -> Version {
        Version::new(clock, id, epoch).expect("a sound version")
    }

    /// Ascending; neighbours differ in one part, around each byte that could be put in the wrong order.
    fn ladder() -> Vec<Version> {
        let mut all = vec![Version::BASE];
        for clock in [0, 1, 255, 256, 1 << 52, (1 << 63) - 1] {
            for id in [1, 255, 256, u64::MAX] {
                all.extend([0, 1, 255, 256, u32::MAX].map(|epoch| version(clock, id, epoch)));
            }
        }
        all
    }

    #[test]
    fn both_forms_of_a_version_come_back_and_keep_the_order() {
        let all = ladder();
        assert!(all.is_sorted_by(|a, b| a < b));
        assert!(all.is_sorted_by(|a, b| a.to_bytes() < b.to_bytes()));
        assert!(all.is_sorted_by(|a, b| a.to_string() < b.to_string()));
        for one in all {
            assert_eq!(Version::from_bytes(&one.to_bytes()), Ok(one));
            assert_eq!(one.to_string().parse(), Ok(one));
        }
    }

    #[test]
    fn both_forms_of_a_vector_come_back() {
        let mut vector = Vector::default();
        for one in [version(7, 3, 1), version(5, 1, 0), version(9, 3, 0)] {
            assert_eq!(Vector::from_bytes(&vector.to_bytes()), Ok(vector.clone()));
            assert_eq!(vector.to_string().parse(), Ok(vector.clone()));
            vector.add(one);
        }
        assert_eq!(vector.versions(), [version(5, 1, 0), version(9, 3, 0), version(7, 3, 1)]);
        assert_eq!(vector.to_bytes().len(), 60);
    }

    #[test]
    fn damaged_forms_are_refused() {
        let good = version(7, 3, 1);
        let text = good.to_string();
        for bad in ["", "7-3-1", &text[1..], &text.replace('7', "G"), &text.replace('7', "+"), &format!("{text}0")] {
            assert_eq!(bad.parse::<Version>(), Err(BadVersion), "{bad}");
        }
        let bytes = good.to_bytes();
        assert_eq!(Version::from_bytes(&bytes[1..]), Err(BadVersion));
        assert_eq!(Version::from_bytes(&[0xff; 20]), Err(BadVersion), "no room for the next clock");
        let twice = [bytes, bytes].concat();
        assert_eq!(Vector::from_bytes(&twice), Err(BadVersion), "a site stands once");
        assert_eq!(Vector::from_bytes(&twice[..30]), Err(BadVersion));
        assert_eq!(Vector::from_bytes(&Version::BASE.to_bytes()), Err(BadVersion));
        assert_eq!(format!("{text},{text}").parse::<Vector>(), Err(BadVersion));
        assert_eq!(",".parse::<Vector>(), Err(BadVersion));
    }

    #[test]
    fn a_vector_holds_what_was_added_and_all_before_it_of_that_site_and_epoch() {
        let mut vector = Vector::default();
        assert!(vector.holds(Version::BASE));
        vector.add(Version::BASE);
        assert_eq!(vector, Vector::default());
        vector.add(version(5, 1, 0));
        vector.add(version(3, 1, 0));
        assert!(vector.holds(version(5, 1, 0)) && vector.holds(version(4, 1, 0)));
        assert!(!vector.holds(version(6, 1, 0)) && !vector.holds(version(1, 2, 0)) && !vector.holds(version(1, 1, 1)));
    }

    #[test]
    fn a_base_version_names_whose_row_it_is_and_every_vector_holds_it() {
        let (base, mut vector) = (Version::base(version(1, 7, 2).site), Vector::default());
        assert!(base.is_base() && Version::BASE.is_base() && !version(1, 7, 2).is_base());
        assert!(vector.holds(base) && !vector.holds_row_of(base.site));
        vector.add(base);
        assert!(vector.holds_row_of(version(1, 7, 3).site) && !vector.holds_row_of(version(1, 8, 2).site));
        assert!(!vector.holds(version(1, 7, 2)), "a row that was there is no write");
        assert_eq!(Vector::from_bytes(&vector.to_bytes()), Ok(vector));
    }

    #[test]
    fn joining_takes_the_later_of_each_site() {
        let of = |versions: &[Version]| {
            let mut vector = Vector::default();
            for one in versions {
                vector.add(*one);
            }
            vector
        };
        let (a, b) = (of(&[version(5, 1, 0), version(2, 2, 0)]), of(&[version(3, 1, 0), version(4, 3, 0)]));
        let joined = of(&[version(5, 1, 0), version(2, 2, 0), version(4, 3, 0)]);
        for (mut one, other) in [(a.clone(), &b), (b.clone(), &a)] {
            one.join(other);
            assert_eq!(one, joined);
        }
    }

    #[test]
    fn a_clock_is_above_what_it_replaces_and_the_absurd_is_cut() {
        let of = |wall, now, above| Clock::of_write(wall, now, Clock(above)).micros();
        assert_eq!(of(500, 600, 0), 500, "the time of the write, not of the fold");
        assert_eq!(of(500, 600, 700), 701, "whatever the wall clock says");
        assert_eq!(of(-5, 600, 0), 1, "above the base version, also before 1970");
        assert_eq!(of(1 << 62, 600, 0), 600 + 86_400_000_000);
        assert_eq!(of(1 << 61, 1 << 61, 0), 253_402_300_799_999_999);
    }
}
