//! Wall clocks of different places: what a naive timestamp of one database reads at another.

use jiff::Timestamp;
use jiff::tz::{AmbiguousOffset, TimeZone};

use super::{Cell, Column, LogicalType as T, Misfit, Value, render, temporal};

/// The zone in which a database's naive timestamps stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    name: String,
    rules: TimeZone,
}

impl Default for Zone {
    /// UTC.
    fn default() -> Self {
        Self { name: "UTC".to_owned(), rules: TimeZone::UTC }
    }
}

impl Zone {
    /// The zone of this name, as the time zone database of the Internet has it: `Africa/Lagos`, `UTC`.
    ///
    /// # Errors
    /// A sentence part for a name that is none.
    pub fn named(name: &str) -> Result<Self, String> {
        let rules =
            TimeZone::get(name).map_err(|_| format!("'{name}' is no time zone; one looks like Africa/Lagos"))?;
        Ok(Self { name: name.to_owned(), rules })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The instant at which the clock shows this, the earlier of two. Both in microseconds since 1970-01-01 00:00:00.
    fn instant(&self, wall: i64) -> Result<i64, String> {
        let reading = Timestamp::from_microsecond(wall).map_err(|_| self.beyond())?;
        let ambiguous = self.rules.to_ambiguous_timestamp(TimeZone::UTC.to_datetime(reading));
        if matches!(ambiguous.offset(), AmbiguousOffset::Gap { .. }) {
            return Err(format!("the clocks of {} never showed this time", self.name));
        }
        ambiguous.earlier().map(Timestamp::as_microsecond).map_err(|_| self.beyond())
    }

    /// What the clock shows at this instant.
    fn wall(&self, instant: i64) -> Result<i64, String> {
        let at = Timestamp::from_microsecond(instant).map_err(|_| self.beyond())?;
        let wall = instant + i64::from(self.rules.to_offset(at).seconds()) * 1_000_000;
        // The second of two instants that read alike would come back as the first.
        if self.instant(wall)? == instant {
            Ok(wall)
        } else {
            Err(format!("the clocks of {} showed this time twice, and this is the second", self.name))
        }
    }

    fn beyond(&self) -> String {
        format!("no zone's clock is known that far from today, and {} is not UTC", self.name)
    }
}

/// Whether values of such a column can say when a row changed, be it as text.
#[must_use]
pub fn tells_moments(logical: &T) -> bool {
    matches!(logical, T::Timestamp { .. } | T::Text { .. } | T::Any)
}

/// The moment that a value tells, in microseconds since 1970; a reading without a zone is one of `zone`.
#[must_use]
pub fn moment(logical: &T, cell: Cell<'_>, zone: &Zone) -> Option<i64> {
    let text = |text: &str| {
        let (micros, offset) = temporal::parse_timestamp(text)?;
        match offset {
            Some(seconds) => Some(micros - seconds * 1_000_000),
            None => zone.instant(micros).ok(),
        }
    };
    match (cell, logical) {
        (Cell::Int(micros), T::Timestamp { zoned: true, .. }) => Some(micros),
        (Cell::Int(micros), T::Timestamp { zoned: false, .. }) => zone.instant(micros).ok(),
        (Cell::Bytes(bytes), T::Text { .. }) => text(std::str::from_utf8(bytes).ok()?),
        (Cell::Escape(Value::Text(value)), _) => text(value),
        _ => None,
    }
}

/// How the timestamps of a column change between two databases. Exact both ways: what would not
/// come back as it was does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shift {
    /// Where they are wall clock readings, the clock's zone; else they are instants.
    from: Option<Zone>,
    to: Option<Zone>,
}

impl Shift {
    /// The change that values of type `from` in a database of zone `zone_from` need; `None`: none.
    #[must_use]
    pub fn between(from: &T, zone_from: &Zone, to: &T, zone_to: &Zone) -> Option<Self> {
        let clock = |logical: &T, zone: &Zone| match logical {
            T::Timestamp { zoned: false, .. } => Some(Some(zone.clone())),
            T::Timestamp { zoned: true, .. } => Some(None),
            _ => None,
        };
        let (from, to) = (clock(from, zone_from)?, clock(to, zone_to)?);
        let utc = |clock: &Option<Zone>| clock.as_ref().is_none_or(|zone| zone.rules == TimeZone::UTC);
        let same = from == to || (utc(&from) && utc(&to));
        (!same).then_some(Self { from, to })
    }

    /// The column with its values as they read at the other end, and the rows that cannot be told
    /// there, which keep their original as text. `logical` is the type at this end.
    #[must_use]
    pub fn apply(&self, logical: &T, data: Column) -> (Column, Vec<Misfit>) {
        let mut out = Column::default();
        let mut misfits = Vec::new();
        for row in 0..data.len() {
            match data.cell(row) {
                Cell::Int(at) => match self.shifted(at) {
                    Ok(at) => out.push_int(at),
                    Err(why) => {
                        misfits.push((row, why));
                        out.push_escape(render(logical, data.cell(row)).map_or(Value::Null, Value::Text));
                    }
                },
                other => out.push_cell(other),
            }
        }
        (out, misfits)
    }

    fn shifted(&self, at: i64) -> Result<i64, String> {
        let instant = self.from.as_ref().map_or(Ok(at), |zone| zone.instant(at))?;
        self.to.as_ref().map_or(Ok(instant), |zone| zone.wall(instant))
    }

    /// For the plan: what happens to the values.
    #[must_use]
    pub fn describe(&self) -> String {
        let side =
            |zone: &Option<Zone>| zone.as_ref().map_or("an instant".to_owned(), |z| format!("the clock of {}", z.name));
        format!("{} becomes {}", side(&self.from), side(&self.to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAIVE: T = T::Timestamp { digits: 6, zoned: false };
    const ZONED: T = T::Timestamp { digits: 6, zoned: true };
    const HOUR: i64 = 3_600_000_000;

    fn column(values: &[i64]) -> Column {
        let mut column = Column::default();
        for value in values {
            column.push_int(*value);
        }
        column
    }

    fn one(shift: &Shift, value: i64) -> Result<i64, String> {
        let (out, misfits) = shift.apply(&NAIVE, column(&[value]));
        match (out.cell(0), misfits.into_iter().next()) {
            (Cell::Int(at), None) => Ok(at),
            (_, Some((_, why))) => Err(why),
            (other, None) => panic!("{other:?}"),
        }
    }

    #[test]
    fn clocks_differ_by_their_zones() {
        let (lagos, utc) = (Zone::named("Africa/Lagos").unwrap(), Zone::default());
        let there = Shift::between(&NAIVE, &lagos, &ZONED, &utc).unwrap();
        assert_eq!(one(&there, 10 * HOUR), Ok(9 * HOUR));
        let back = Shift::between(&ZONED, &utc, &NAIVE, &lagos).unwrap();
        assert_eq!(one(&back, 9 * HOUR), Ok(10 * HOUR));
        assert_eq!(one(&Shift::between(&NAIVE, &lagos, &NAIVE, &utc).unwrap(), HOUR), Ok(0));
        assert_eq!(Shift::between(&NAIVE, &lagos, &NAIVE, &lagos), None);
        assert_eq!(Shift::between(&NAIVE, &utc, &ZONED, &lagos), None);
        assert_eq!(Shift::between(&ZONED, &lagos, &ZONED, &utc), None);
        assert_eq!(Shift::between(&T::Date, &lagos, &ZONED, &utc), None);
        assert!(Zone::named("Lagos").unwrap_err().contains("Lagos"));
    }

    #[test]
    fn what_would_not_come_back_does_not_fit() {
        let (berlin, utc) = (Zone::named("Europe/Berlin").unwrap(), Zone::default());
        let there = Shift::between(&NAIVE, &berlin, &ZONED, &utc).unwrap();
        let back = Shift::between(&ZONED, &utc, &NAIVE, &berlin).unwrap();
        // 2024-03-31: 02:00 to 03:00 is left out; 2024-10-27: it comes twice.
        let (spring, autumn) = (1_711_843_200_000_000, 1_729_987_200_000_000);
        assert!(one(&there, spring + 5 * HOUR / 2).unwrap_err().contains("never"));
        assert_eq!(one(&there, autumn + 5 * HOUR / 2), Ok(autumn + HOUR / 2));
        assert_eq!(one(&back, autumn + HOUR / 2), Ok(autumn + 5 * HOUR / 2));
        assert!(one(&back, autumn + 3 * HOUR / 2).unwrap_err().contains("twice"));
        assert!(one(&there, i64::MAX / 2).unwrap_err().contains("far"));
        for hours in 0..20_000 {
            let at = spring + hours * HOUR;
            if let Ok(wall) = one(&back, at) {
                assert_eq!(one(&there, wall), Ok(at));
            }
        }
    }

    #[test]
    fn nulls_and_values_beyond_the_type_stay() {
        let lagos = Zone::named("Africa/Lagos").unwrap();
        let mut data = Column::default();
        data.push_null();
        data.push_escape(Value::Text("infinity".to_owned()));
        let shift = Shift::between(&NAIVE, &lagos, &ZONED, &lagos).unwrap();
        let (out, misfits) = shift.apply(&NAIVE, data);
        assert!(misfits.is_empty());
        assert_eq!((out.cell(0), out.cell(1)), (Cell::Null, Cell::Escape(&Value::Text("infinity".to_owned()))));
    }
}
