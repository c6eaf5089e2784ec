//! Who wrote what upon what: known to nobody but the test.

use std::collections::{BTreeMap, BTreeSet};

/// A row's place: table and key.
pub type Place = (usize, i64);

/// Where rows are merged column by column, the place of the second column of a row; the first has that of the row.
pub fn second((table, key): Place) -> Place {
    (table + 100, key)
}

/// One write of one row by an application: the content that it found and the one that it left, by their names; `None`
/// where no row stood, or stands. The same twice: written, and left as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Where.
    pub site: usize,
    pub place: Place,
    pub found: Option<String>,
    pub left: Option<String>,
    /// Whether the row went because all went at once.
    pub emptied: bool,
    /// It may be there or not. Its site was restored to a state before it: it is there if others had heard of it. Or all
    /// rows went at once, and nobody had written this one since capture began: then whoever wrote it elsewhere, or
    /// brings it from a first meeting, meets nothing.
    pub undone: bool,
    /// Whether the row had no version yet, so that what is written then is the whole row.
    pub whole: bool,
}

/// A conflict that some site has recorded: the contents that met, and the policy.
#[derive(Debug, Clone)]
pub struct Met {
    pub place: Place,
    /// By column, where these are merged.
    pub contents: Vec<[Option<String>; 2]>,
    pub policy: String,
    /// Whether it waits for a person.
    pub open: bool,
}

impl Met {
    /// What met at a place.
    fn at(&self, place: Place) -> Option<&[Option<String>; 2]> {
        let second = self.contents.get(1).filter(|_| second(self.place) == place);
        if self.place == place { self.contents.first() } else { second }
    }

    /// Whether a person or a preference has settled it, not the clocks.
    fn is_preferred(&self) -> bool {
        !["last-write-wins", "merge-columns"].contains(&self.policy.as_str())
    }
}

/// All that was written, and what came of it.
#[derive(Debug, Default)]
pub struct Oracle {
    pub written: Vec<Written>,
    /// Conflicts whose records went when a site was restored.
    pub forgotten: Vec<Met>,
    /// Where a write may get two versions: a copy of its database knew of it no more than that its key was written.
    pub twice: BTreeSet<Place>,
}

impl Oracle {
    fn changes(&self) -> impl Iterator<Item = &Written> {
        self.written.iter().filter(|w| w.found != w.left)
    }

    /// Whether someone wrote this content over itself: where the row had no version that is a write like any other.
    fn is_affirmed(&self, place: Place, content: &str) -> bool {
        self.written.iter().any(|w| w.place == place && w.found == w.left && w.left.as_deref() == Some(content))
    }

    /// Whether the content `later` was made upon `earlier`, directly or over others. Contents have names of their own, so
    /// nothing but an absent row stands twice.
    fn descends(&self, place: Place, later: &str, earlier: &str) -> bool {
        let mut at = later;
        while let Some(written) =
            self.changes().find(|w| w.place == place && w.left.as_deref() == Some(at) && w.found.is_some())
        {
            at = written.found.as_deref().unwrap();
            if at == earlier {
                return true;
            }
        }
        false
    }

    /// Takes down what a transaction wrote.
    pub fn commit(&mut self, written: Vec<Written>, lone_writer: bool) {
        for mut one in written {
            // That another site wrote the same over it may not have been heard of here.
            let told = |w: &Written| w.site == one.site || w.found != w.left;
            let versioned = self.written.iter().any(|w| w.place == one.place && w.left == one.found && told(w));
            one.undone = one.emptied && one.left.is_none() && !versioned && !lone_writer;
            self.written.push(one);
        }
    }

    /// What a site wrote after so many writes of all may be gone.
    pub fn undo(&mut self, site: usize, after: usize) {
        self.written.iter_mut().skip(after).filter(|w| w.site == site).for_each(|w| w.undone = true);
    }

    /// How often a row was born under this key.
    pub fn births(&self, place: Place) -> usize {
        self.written.iter().filter(|w| w.place == place && w.found.is_none()).count()
    }

    /// All that was written, by row and not by key: rows that two sites insert under one number are two, and one of them
    /// is moved. With what stands, what met and what is exempt likewise.
    pub fn by_row(
        &self,
        rows: &BTreeMap<Place, String>,
        met: &[Met],
        exempt: &BTreeSet<Place>,
    ) -> (Self, BTreeMap<Place, String>, Vec<Met>, BTreeSet<Place>) {
        let (mut row_of, mut born) = (BTreeMap::<&str, i64>::new(), 0);
        let mut written = self.written.clone();
        let mut exempt_rows = BTreeSet::new();
        for (one, of) in written.iter_mut().zip(&self.written) {
            let known = of.found.as_deref().and_then(|found| row_of.get(found).copied());
            let row = known.unwrap_or_else(|| {
                born += 1;
                born
            });
            row_of.extend(of.found.as_deref().into_iter().chain(of.left.as_deref()).map(|content| (content, row)));
            if exempt.contains(&of.place) {
                exempt_rows.insert((0, row));
            }
            one.place = (0, row);
        }
        // Rows that stood before capture began.
        for content in rows.values() {
            row_of.entry(content).or_insert_with(|| {
                born += 1;
                born
            });
        }
        let row = |content: &str| row_of.get(content).copied();
        let stand = rows.values().filter_map(|content| Some(((0, row(content)?), content.clone()))).collect();
        // Where one of two rows that met had made room for the other, its deletion met the row at the other site.
        let made_room = |met: &Met, rows: &BTreeSet<i64>| -> Vec<(i64, Option<String>)> {
            let here = || self.written.iter().zip(&written).enumerate().filter(|(_, (of, _))| of.place == met.place);
            let gone = here().filter(|(_, (of, one))| of.left.is_none() && rows.contains(&one.place.1));
            let gone = gone.filter(|(at, (of, one))| {
                here().any(|(later, (born, other))| {
                    let another = other.place != one.place && rows.contains(&other.place.1);
                    later > *at && born.site == of.site && born.found.is_none() && another
                })
            });
            gone.map(|(_, (of, one))| (one.place.1, of.found.clone())).collect()
        };
        let of_rows = |all: &[Met]| -> Vec<Met> {
            // Two rows that met are a conflict of both.
            let of_row = |met: &Met| {
                let contents = met.contents.first().into_iter().flatten().flatten();
                let rows: BTreeSet<i64> = contents.filter_map(|content| row(content)).collect();
                let gone = made_room(met, &rows).into_iter();
                let gone =
                    gone.map(|(row, found)| Met { place: (0, row), contents: vec![[found, None]], ..met.clone() });
                let both = rows.iter().map(|&row| Met { place: (0, row), ..met.clone() });
                both.chain(gone).collect::<Vec<_>>()
            };
            all.iter().filter(|met| met.policy != "rekey").flat_map(of_row).collect()
        };
        let twice = self.written.iter().zip(&written).filter(|(of, _)| self.twice.contains(&of.place));
        let twice = twice.map(|(_, one)| one.place).collect();
        let (forgotten, met) = (of_rows(&self.forgotten), of_rows(met));
        (Self { written, forgotten, twice }, stand, met, exempt_rows)
    }

    /// What of all this was lost, came back or was called a conflict without being one. `rows` are those that stand
    /// everywhere, `exempt` the places where a site holds something in quarantine.
    pub fn faults(&self, rows: &BTreeMap<Place, String>, met: &[Met], exempt: &BTreeSet<Place>) -> Vec<String> {
        let met: Vec<&Met> = met.iter().chain(&self.forgotten).collect();
        let mut faults = Vec::new();
        for written in self.changes().filter(|w| !exempt.contains(&w.place) && !w.undone) {
            let place = written.place;
            let at_place = || met.iter().filter_map(move |m| Some((m, m.at(place)?)));
            let preferred = at_place().any(|(m, _)| m.is_preferred());
            // A row that a deletion met stands as those knew it who wrote it later.
            let revived = at_place().any(|(m, c)| m.policy == "merge-columns" && c.contains(&None));
            if let Some(found) = &written.found
                && rows.get(&place) == Some(found)
                && !preferred
                && !revived
                && !self.is_affirmed(place, found)
            {
                faults.push(format!("{place:?}: {found} came back, though {:?} replaced it", written.left));
            }
            let replaced = match &written.left {
                Some(_) => self.changes().any(|w| w.place == place && w.found == written.left),
                None => self.changes().any(|w| w.place == place && w.found.is_none()),
            };
            let lost = at_place().any(|(_, contents)| contents.contains(&written.left));
            if !replaced && !lost && rows.get(&place) != written.left.as_ref() {
                faults.push(format!("{place:?}: {:?} is lost; {:?} stands there", written.left, rows.get(&place)));
            }
        }
        // Where a side was preferred, its content stands under a new version that those who wrote upon it did not know.
        let preferred: BTreeSet<Place> = met.iter().filter(|m| m.is_preferred()).map(|m| m.place).collect();
        let told = |m: &&Met| !preferred.contains(&m.place) && !self.twice.contains(&m.place);
        for met in met.into_iter().filter(told) {
            let knew = |(place, contents): (Place, &[Option<String>; 2])| match contents {
                [Some(one), Some(other)] => {
                    ![one, other].into_iter().any(|content| self.is_affirmed(place, content))
                        && (self.descends(place, one, other) || self.descends(place, other, one))
                }
                _ => false,
            };
            let places = [met.place, second(met.place)];
            let mut differing =
                places.into_iter().zip(&met.contents).filter(|(_, [one, other])| one != other).peekable();
            if differing.peek().is_some() && differing.all(knew) {
                faults.push(format!("{:?}: {:?} are no conflict", met.place, met.contents));
            }
        }
        faults
    }
}
