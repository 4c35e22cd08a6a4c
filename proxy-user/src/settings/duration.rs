//! Durations in settings: Go style, as Istio writes them (`60s`, `1m30s`, `250ms`).

use std::time::Duration;

/// Units with their length in nanoseconds, those with a longer name first.
const UNITS: [(&str, u64); 7] = [
    ("ms", 1_000_000),
    ("us", 1_000),
    ("µs", 1_000),
    ("ns", 1),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
];

/// Reads a duration such as `60s`, `1m30s`, `1.5s` or `0`. Source: Go `time.ParseDuration`.
///
/// # Errors
/// Text without a unit, with an unknown one, or longer than 584 years.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("expected a duration such as \"60s\" or \"250ms\", found {text:?}");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .filter(|len| *len > 0)
            .ok_or_else(wrong)?;
        let (number, after) = rest.split_at(digits);
        let (unit, nanos) = UNITS
            .iter()
            .find(|(unit, _)| after.starts_with(unit))
            .ok_or_else(wrong)?;
        let part = part_nanos(number, *nanos).ok_or_else(wrong)?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = &after[unit.len()..];
    }
    if text.is_empty() {
        return Err(wrong());
    }
    Ok(Duration::from_nanos(total))
}

/// Nanoseconds of a decimal number of units; digits below a nanosecond are cut.
fn part_nanos(number: &str, unit_nanos: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let mut total = whole.checked_mul(unit_nanos)?;
    let mut scale = unit_nanos;
    for digit in fraction.chars() {
        scale /= 10;
        total = total.checked_add(u64::from(digit.to_digit(10)?) * scale)?;
    }
    Some(total)
}

/// The shortest text in one unit that [`parse`] reads back: `60s`, `250ms`.
#[must_use]
pub fn text(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    for (unit, length) in [("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)] {
        if nanos.is_multiple_of(length) {
            return format!("{}{unit}", nanos / length);
        }
    }
    format!("{nanos}ns")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_in_go_style() {
        for (given, expected) in [
            ("60s", Some("60s")),
            ("1m30s", Some("90s")),
            ("1.5s", Some("1500ms")),
            ("250ms", Some("250ms")),
            ("0", Some("0s")),
            ("10us", Some("10us")),
            ("1ns", Some("1ns")),
            ("60", None), // no unit
            ("", None),
            ("s", None),
            (".s", None),
            ("1.2.3s", None),
            ("-1s", None),
            ("9999999999h", None), // does not fit
        ] {
            let parsed = parse(given).ok().map(text);
            assert_eq!(parsed.as_deref(), expected, "{given:?}");
        }
    }
}
