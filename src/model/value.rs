//! A single value that owns its contents: key bounds, escapes, rejects. Never on the fast path.

/// A value with its own type.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Value {
    /// SQL NULL.
    Null,
    /// A whole number, or whatever has the `Int` carrier.
    Int(i64),
    /// A whole number above `i64::MAX`, or whatever has the `UInt` carrier.
    UInt(u64),
    /// A float.
    Float(f64),
    /// UTF-8 text: also what an engine holds beyond a type, `0000-00-00`, `infinity`.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// Days and microseconds to text and back, for any year, without a time library (those end at 9999).
/// Calendar arithmetic after Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
pub mod temporal {
    /// Microseconds in a day.
    pub const DAY: i64 = 86_400_000_000;

    /// Year, month, day of a day number (days since 1970-01-01).
    #[must_use]
    pub fn civil(days: i64) -> (i64, u32, u32) {
        let z = days + 719_468;
        let era = z.div_euclid(146_097);
        let doe = z.rem_euclid(146_097);
        let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let day = u32::try_from(doy - (153 * mp + 2) / 5 + 1).unwrap_or(1);
        let month = u32::try_from(if mp < 10 { mp + 3 } else { mp - 9 }).unwrap_or(1);
        (yoe + era * 400 + i64::from(month <= 2), month, day)
    }

    /// Day number of a date; `None` when there is no such day.
    #[must_use]
    pub fn days(year: i64, month: u32, day: u32) -> Option<i64> {
        if !(1..=12).contains(&month) || day == 0 {
            return None;
        }
        let y = year - i64::from(month <= 2);
        let era = y.div_euclid(400);
        let yoe = y.rem_euclid(400);
        let mp = (i64::from(month) + 9) % 12;
        let doy = (153 * mp + 2) / 5 + i64::from(day) - 1;
        let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
        let days = era.checked_mul(146_097)?.checked_add(doe)? - 719_468;
        (civil(days) == (year, month, day)).then_some(days)
    }

    /// Writes `YYYY-MM-DD`; a year beyond four digits with all of them, one before 1 as `-NNNN`
    /// (astronomical: 0000 is 1 BC).
    pub fn write_date(out: &mut String, days: i64) {
        use std::fmt::Write as _;
        let (y, m, d) = civil(days);
        let sign = if y < 0 { "-" } else { "" };
        let _ = write!(out, "{sign}{:04}-{m:02}-{d:02}", y.unsigned_abs());
    }

    /// Writes `HH:MM:SS` of non-negative microseconds with the fraction cut to `digits`
    /// or, when that would lose something, to as many as it needs.
    pub fn write_time(out: &mut String, micros: u64, digits: u8) {
        use std::fmt::Write as _;
        let seconds = micros / 1_000_000;
        let _ = write!(out, "{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
        let mut fraction = micros % 1_000_000;
        let mut width = 6_usize;
        while width > usize::from(digits) && fraction.is_multiple_of(10) {
            fraction /= 10;
            width -= 1;
        }
        if width > 0 {
            let _ = write!(out, ".{fraction:0width$}");
        }
    }

    /// Writes `YYYY-MM-DD HH:MM:SS[.f]`.
    pub fn write_timestamp(out: &mut String, micros: i64, digits: u8) {
        write_date(out, micros.div_euclid(DAY));
        out.push(' ');
        write_time(out, micros.rem_euclid(DAY).unsigned_abs(), digits);
    }

    /// Writes `[-]HH:MM:SS[.f]`, hours beyond 24 as they are.
    pub fn write_duration(out: &mut String, micros: i64, digits: u8) {
        if micros < 0 {
            out.push('-');
        }
        write_time(out, micros.unsigned_abs(), digits);
    }

    /// Reads `[-]Y…Y-MM-DD` (at least four digits of year).
    #[must_use]
    pub fn parse_date(text: &str) -> Option<i64> {
        let (negative, rest) = text.strip_prefix('-').map_or((false, text), |r| (true, r));
        let mut parts = rest.split('-');
        let (y, m, d) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || y.len() < 4 || y.len() > 7 || m.len() != 2 || d.len() != 2 {
            return None;
        }
        if [y, m, d].iter().any(|p| !p.bytes().all(|b| b.is_ascii_digit())) {
            return None;
        }
        let year: i64 = y.parse().ok()?;
        days(if negative { -year } else { year }, m.parse().ok()?, d.parse().ok()?)
    }

    /// Reads `H…H:MM[:SS[.f]]` into microseconds; at most six digits of fraction.
    #[must_use]
    pub fn parse_time(text: &str) -> Option<u64> {
        let (clock, fraction) = text.split_once('.').map_or((text, ""), |(c, f)| (c, f));
        let mut parts = clock.split(':');
        let (h, m, s) = (parts.next()?, parts.next()?, parts.next().unwrap_or("00"));
        if parts.next().is_some() || h.len() < 2 || h.len() > 9 || m.len() != 2 || s.len() != 2 || fraction.len() > 6 {
            return None;
        }
        if [h, m, s, fraction].iter().any(|p| !p.bytes().all(|b| b.is_ascii_digit())) || text.ends_with('.') {
            return None;
        }
        let (h, m, s): (u64, u64, u64) = (h.parse().ok()?, m.parse().ok()?, s.parse().ok()?);
        if m > 59 || s > 59 {
            return None;
        }
        let micros: u64 = if fraction.is_empty() { 0 } else { format!("{fraction:0<6}").parse().ok()? };
        Some((h * 3600 + m * 60 + s) * 1_000_000 + micros)
    }

    /// Reads `[-]HH:MM:SS[.f]`.
    #[must_use]
    pub fn parse_duration(text: &str) -> Option<i64> {
        let (negative, rest) = text.strip_prefix('-').map_or((false, text), |r| (true, r));
        let micros = i64::try_from(parse_time(rest)?).ok()?;
        Some(if negative { -micros } else { micros })
    }

    /// Reads a date, optionally followed by a space or `T` and a time, optionally by `Z` or
    /// `±HH[:MM]`; the second is the offset in seconds east where one is given.
    #[must_use]
    pub fn parse_timestamp(text: &str) -> Option<(i64, Option<i64>)> {
        let Some(at) = text.find([' ', 'T']) else {
            return Some((parse_date(text)?.checked_mul(DAY)?, None));
        };
        let day = parse_date(&text[..at])?;
        let rest = &text[at + 1..];
        let (clock, offset) = if let Some(clock) = rest.strip_suffix('Z') {
            (clock, Some(0))
        } else if let Some(sign_at) = rest.find(['+', '-']) {
            let (clock, zone) = rest.split_at(sign_at);
            let zone_time = &zone[1..];
            let seconds = match zone_time.len() {
                2 => parse_time(&format!("{zone_time}:00"))?,
                4 if zone_time.is_ascii() => parse_time(&format!("{}:{}", &zone_time[..2], &zone_time[2..]))?,
                _ => parse_time(zone_time)?,
            } / 1_000_000;
            let seconds = i64::try_from(seconds).ok()?;
            (clock, Some(if zone.starts_with('-') { -seconds } else { seconds }))
        } else {
            (rest, None)
        };
        let time = i64::try_from(parse_time(clock)?).ok()?;
        if time >= DAY {
            return None;
        }
        Some((day.checked_mul(DAY)?.checked_add(time)?, offset))
    }
}
