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
    /// Bytes that a database takes for text although they are no UTF-8.
    RawText(Vec<u8>),
}

/// Decimal digits with zeros in front up to `width`, from the returned position on. Formatting
/// machinery costs several times as much, and this is done for each value.
#[must_use]
pub fn padded(mut value: u64, width: usize) -> ([u8; 20], usize) {
    let mut digits = [b'0'; 20];
    let mut from = digits.len();
    while value > 0 || digits.len() - from < width.max(1) {
        from -= 1;
        digits[from] += u8::try_from(value % 10).unwrap_or_default();
        value /= 10;
    }
    (digits, from)
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
        (day <= month_length(year, month)).then_some(days)
    }

    fn month_length(year: i64, month: u32) -> u32 {
        match month {
            2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    fn push_padded(out: &mut String, value: u64, width: usize) {
        let (digits, from) = super::padded(value, width);
        push_ascii(out, &digits[from..]);
    }

    fn push_ascii(out: &mut String, digits: &[u8]) {
        out.push_str(std::str::from_utf8(digits).unwrap_or_default());
    }

    /// The two digits of a number below 100.
    fn pair(value: u64) -> [u8; 2] {
        [value / 10, value % 10].map(|digit| b'0' + u8::try_from(digit % 10).unwrap_or_default())
    }

    /// Writes `YYYY-MM-DD`; a year beyond four digits with all of them, one before 1 as `-NNNN`
    /// (astronomical: 0000 is 1 BC).
    pub fn write_date(out: &mut String, days: i64) {
        let (y, m, d) = civil(days);
        let year = y.unsigned_abs();
        let ([m1, m2], [d1, d2]) = (pair(m.into()), pair(d.into()));
        if (0..=9999).contains(&y) {
            let ([y1, y2], [y3, y4]) = (pair(year / 100), pair(year % 100));
            return push_ascii(out, &[y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2]);
        }
        if y < 0 {
            out.push('-');
        }
        push_padded(out, year, 4);
        push_ascii(out, &[b'-', m1, m2, b'-', d1, d2]);
    }

    /// Writes `HH:MM:SS` of non-negative microseconds with the fraction cut to `digits`
    /// or, when that would lose something, to as many as it needs.
    pub fn write_time(out: &mut String, micros: u64, digits: u8) {
        let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
        if seconds < 360_000 {
            push_ascii(out, &pair(seconds / 3600));
        } else {
            push_padded(out, seconds / 3600, 2);
        }
        let ([m1, m2], [s1, s2]) = (pair(seconds / 60 % 60), pair(seconds % 60));
        let ([f1, f2], [f3, f4]) = (pair(fraction / 10_000), pair(fraction / 100 % 100));
        let [f5, f6] = pair(fraction % 100);
        let text = [b':', m1, m2, b':', s1, s2, b'.', f1, f2, f3, f4, f5, f6];
        let least = if digits == 0 { 6 } else { 7 + usize::from(digits.min(6)) };
        let needed = text.iter().rposition(|digit| *digit != b'0').map_or(0, |at| if at == 6 { 6 } else { at + 1 });
        push_ascii(out, &text[..needed.max(least)]);
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
        let bytes = rest.as_bytes();
        let (year, month_and_day) = bytes.split_at_checked(bytes.len().checked_sub(6)?)?;
        let [b'-', m1, m2, b'-', d1, d2] = *month_and_day else { return None };
        if !(4..=7).contains(&year.len()) {
            return None;
        }
        let year = i64::try_from(number(year)?).ok()?;
        let (month, day) = (number(&[m1, m2])?, number(&[d1, d2])?);
        days(if negative { -year } else { year }, u32::try_from(month).ok()?, u32::try_from(day).ok()?)
    }

    /// The number that up to 19 digits are; `None` where there is anything else.
    fn number(digits: &[u8]) -> Option<u64> {
        if digits.is_empty() || digits.len() > 19 {
            return None;
        }
        digits.iter().try_fold(0, |n, b| b.is_ascii_digit().then(|| n * 10 + u64::from(b - b'0')))
    }

    /// Reads `H…H:MM[:SS[.f]]` into microseconds; at most six digits of fraction.
    #[must_use]
    pub fn parse_time(text: &str) -> Option<u64> {
        let bytes = text.as_bytes();
        let hours = bytes.iter().position(|b| *b == b':').filter(|len| (2..=9).contains(len))?;
        let (m, rest) = match *bytes.get(hours + 1..)? {
            [m1, m2, ref rest @ ..] => (number(&[m1, m2])?, rest),
            _ => return None,
        };
        let (s, fraction) = match *rest {
            [] => (0, &[][..]),
            [b':', s1, s2] => (number(&[s1, s2])?, &[][..]),
            [b':', s1, s2, b'.', ref fraction @ ..] if (1..=6).contains(&fraction.len()) => {
                (number(&[s1, s2])?, fraction)
            }
            _ => return None,
        };
        if m > 59 || s > 59 {
            return None;
        }
        let micros = if fraction.is_empty() { 0 } else { number(fraction)? };
        let scale = 10_u64.pow(6 - u32::try_from(fraction.len()).ok()?);
        Some((number(&bytes[..hours])? * 3600 + m * 60 + s) * 1_000_000 + micros * scale)
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
        // Nearly always behind four digits of year.
        let usual = (text.as_bytes().get(10) == Some(&b' ')).then_some(10);
        let Some(at) = usual.or_else(|| text.find([' ', 'T'])) else {
            return Some((parse_date(text)?.checked_mul(DAY)?, None));
        };
        let day = parse_date(&text[..at])?;
        let rest = &text[at + 1..];
        let (clock, offset) = if let Some(clock) = rest.strip_suffix("+00:00").or_else(|| rest.strip_suffix('Z')) {
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

#[cfg(test)]
mod tests {
    use super::temporal::*;
    use super::*;

    #[test]
    fn digits_are_padded() {
        for value in [0, 7, 10, 99, 12345, u64::MAX] {
            for width in [0, 1, 2, 6, 20] {
                let (digits, from) = padded(value, width);
                assert_eq!(std::str::from_utf8(&digits[from..]).unwrap(), format!("{value:0width$}"));
            }
        }
    }

    #[test]
    fn moments_come_back() {
        let text = |micros, digits| {
            let mut out = String::new();
            write_timestamp(&mut out, micros, digits);
            out
        };
        assert_eq!(text(0, 0), "1970-01-01 00:00:00");
        assert_eq!(text(1_500_000, 0), "1970-01-01 00:00:01.5");
        assert_eq!(text(-1, 3), "1969-12-31 23:59:59.999999");
        assert_eq!(text(-62_198_755_200_000_000, 2), "-0001-01-01 00:00:00.00");
        assert_eq!(text(253_402_300_800_000_000, 0), "10000-01-01 00:00:00");
        for step in -2_000_i64..2_000 {
            let micros = step * 123_456_789_012_345;
            assert_eq!(parse_timestamp(&text(micros, 6)), Some((micros, None)), "{}", text(micros, 6));
            assert_eq!(parse_timestamp(&(text(micros, 0) + "-03:30")), Some((micros, Some(-12_600))));
        }
    }

    #[test]
    fn times_have_the_digits_that_are_asked_for_or_needed() {
        let shown = |micros, digits| {
            let mut out = String::new();
            write_time(&mut out, micros, digits);
            out
        };
        for micros in [0, 1, 10, 120_000, 999_999, 3_599_100_000, 86_399_999_990, 359_999_000_000, 3_020_399_500_000] {
            for digits in 0..=7 {
                let (seconds, fraction) = (micros / 1_000_000, format!("{:06}", micros % 1_000_000));
                let width = fraction.trim_end_matches('0').len().max(usize::from(digits).min(6));
                let point = if width > 0 { "." } else { "" };
                let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
                assert_eq!(shown(micros, digits), format!("{h:02}:{m:02}:{s:02}{point}{}", &fraction[..width]));
            }
        }
    }

    /// Each day of the calendar has one date, and no other date is one.
    #[test]
    fn days_and_dates_are_each_others() {
        for day in days(-401, 1, 1).unwrap()..days(2_001, 1, 1).unwrap() {
            let (year, month, of_month) = civil(day);
            assert_eq!(days(year, month, of_month), Some(day));
            let mut text = String::new();
            write_date(&mut text, day);
            assert_eq!(parse_date(&text), Some(day), "{text}");
        }
        let wrong =
            [(1900, 2, 29), (2000, 2, 30), (2023, 4, 31), (2023, 12, 32), (2023, 0, 1), (2023, 13, 1), (2023, 1, 0)];
        assert!(wrong.into_iter().all(|(year, month, day)| days(year, month, day).is_none()));
        assert!(days(2000, 2, 29).is_some() && days(1900, 2, 28).is_some());
    }

    #[test]
    fn what_is_no_time_is_told() {
        assert_eq!(parse_time("100:00"), Some(360_000_000_000));
        assert_eq!(parse_time("00:00:00.1"), Some(100_000));
        for wrong in [
            "",
            ":",
            "1:00",
            "00:0",
            "00:000",
            "00:60",
            "00:00:60",
            "00:00:",
            "00:00:00.",
            "00:00:00.1234567",
            "00:00.5",
            "0a:00",
            "00:+1",
        ] {
            assert_eq!(parse_time(wrong), None, "{wrong}");
        }
        for wrong in ["", "2000", "2000-1-01", "2000-02-30", "200-01-01", "20000000-01-01", "2000-01-01-", "+200-01-01"]
        {
            assert_eq!(parse_date(wrong), None, "{wrong}");
        }
    }
}
