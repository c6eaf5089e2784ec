//! Moments in every form that people write.

use crate::config::parse_duration;
use crate::model::{Zone, temporal};

use super::rows::instant;

/// The moment, in microseconds since 1970. A reading without a zone is one of `zone`.
pub(super) fn parse(text: &str, zone: &Zone, now: i64) -> Option<i64> {
    let text = text.trim();
    if let Some(number) = text.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0) {
        // Seconds until the year 5138, milliseconds before; nobody means either with the other's.
        let scale = if number >= 1e14 {
            1.0
        } else if number >= 1e11 {
            1e3
        } else {
            1e6
        };
        #[allow(clippy::cast_possible_truncation, reason = "a fraction of a microsecond is none")]
        return Some((number * scale).min(9e18) as i64);
    }
    let age = text.strip_prefix('-').or_else(|| text.strip_suffix(" ago")).unwrap_or(text);
    if let Ok(age) = parse_duration(age) {
        return now.checked_sub(i64::try_from(age.as_micros()).ok()?);
    }
    // In a URL a '+' that was not escaped arrives as a space.
    let (head, tail) = text.rsplit_once(' ').unwrap_or((text, ""));
    let unescaped =
        tail.len() >= 4 && head.contains([' ', 'T']) && tail.bytes().all(|b| b.is_ascii_digit() || b == b':');
    let text = if unescaped { format!("{head}+{tail}") } else { text.to_owned() };
    let text = text.strip_suffix('z').map_or_else(|| text.clone(), |head| format!("{head}Z")).replace('t', "T");
    let text = text.replace(" UTC", "Z").replace(" Z", "Z");
    // Clocks that tell more than microseconds.
    let text = shortened(&text);
    let (micros, offset) = temporal::parse_timestamp(&text)?;
    match offset {
        Some(seconds) => Some(micros - seconds * 1_000_000),
        None => instant(micros, zone),
    }
}

/// At most six digits after the second.
fn shortened(text: &str) -> String {
    let Some(at) = text.find('.') else { return text.to_owned() };
    let digits = text[at + 1..].bytes().take_while(u8::is_ascii_digit).count();
    format!("{}{}", &text[..=at + digits.min(6)], &text[at + 1 + digits..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_moment_in_many_forms() {
        let (zone, now) = (Zone::named("Africa/Lagos").unwrap(), 1_772_359_500_000_000);
        let moment = Some(1_772_359_200_000_000);
        for text in [
            "2026-03-01T10:00:00Z",
            "2026-03-01t10:00:00z",
            "2026-03-01 10:00:00Z",
            "2026-03-01 10:00:00 UTC",
            "2026-03-01T10:00Z",
            "2026-03-01T10:00:00.000Z",
            "2026-03-01T10:00:00.000000000Z",
            "2026-03-01T11:00:00+01:00",
            "2026-03-01T11:00:00 01:00",
            "2026-03-01T11:00:00 0100",
            "2026-03-01T05:00:00-05:00",
            "2026-03-01 11:00:00",
            "2026-03-01T11:00:00",
            " 2026-03-01T11:00 ",
            "1772359200",
            "1772359200.0",
            "1772359200000",
            "1772359200000000",
            "5m",
            "-5m",
            "300s ago",
        ] {
            assert_eq!(parse(text, &zone, now), moment, "{text}");
        }
        assert_eq!(parse("2026-03-01", &Zone::default(), now), Some(1_772_323_200_000_000));
        assert_eq!(parse("0", &zone, now), Some(0));
        for wrong in
            ["", "yesterday", "2026-13-01", "2026-02-30T10:00:00Z", "-1", "inf", "10:00", "2026-03-01T25:00:00Z"]
        {
            assert_eq!(parse(wrong, &zone, now), None, "{wrong}");
        }
    }
}
