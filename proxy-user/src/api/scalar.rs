//! Small values that several kinds share: durations, times, percentages, matchers.

use std::fmt;
use std::str::FromStr;
use std::time;

use serde::Deserialize;

use super::Labels;

/// A length of time as Istio writes it: Go style (`1h30m`, `250ms`) or protobuf
/// style (`1.5s`). Zero is kept; what a field allows is a matter of validation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(pub time::Duration);

/// What a duration looks like, for messages.
const DURATION: &str = "a duration such as \"250ms\"";

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Duration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(DURATION)
            }

            fn visit_newtype_struct<D: serde::Deserializer<'de>>(
                self,
                deserializer: D,
            ) -> Result<Duration, D::Error> {
                deserializer.deserialize_str(self)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Duration, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_newtype_struct(DURATION, Visitor)
    }
}

impl Duration {
    /// The value for the standard library's timers.
    pub fn get(self) -> time::Duration {
        self.0
    }
}

impl From<Duration> for time::Duration {
    fn from(duration: Duration) -> Self {
        duration.0
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// Text that is no duration. `Display` says what is expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {DURATION}, \"1.5s\" or \"1h30m\", found {0:?}")]
pub struct BadDuration(String);

impl FromStr for Duration {
    type Err = BadDuration;

    /// Source: Go `time.ParseDuration`, without the sign. A bare `0` is a duration there too.
    fn from_str(text: &str) -> Result<Self, BadDuration> {
        parse_duration_nanos(text)
            .map(|nanos| Self(time::Duration::from_nanos(nanos)))
            .ok_or_else(|| BadDuration(text.to_owned()))
    }
}

/// Nanoseconds of a Go-style duration, `None` for anything else and beyond 292 years.
fn parse_duration_nanos(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut total: u64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let number_len = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .filter(|&len| len > 0)?;
        let (number, after) = rest.split_at(number_len);
        let unit_len = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        let unit_nanos: u64 = match unit {
            "h" => 3_600_000_000_000,
            "m" => 60_000_000_000,
            "s" => 1_000_000_000,
            "ms" => 1_000_000,
            "us" | "µs" | "μs" => 1_000,
            "ns" => 1,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let whole: u64 = if whole.is_empty() {
            0
        } else {
            whole.parse().ok()?
        };
        total = total.checked_add(whole.checked_mul(unit_nanos)?)?;
        total = total.checked_add(fraction_nanos(fraction, unit_nanos)?)?;
        rest = after;
    }
    i64::try_from(total).ok()?;
    Some(total)
}

/// The digits after the point, as nanoseconds; digits beyond a nanosecond are cut.
fn fraction_nanos(fraction: &str, unit_nanos: u64) -> Option<u64> {
    let mut scale = unit_nanos;
    let mut nanos = 0;
    for digit in fraction.chars() {
        scale /= 10;
        nanos += u64::from(digit.to_digit(10)?) * scale;
    }
    Some(nanos)
}

/// Seconds since 1970, read from RFC 3339 text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Timestamp(pub i64);

/// Text that is no RFC 3339 time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a time such as \"2026-01-31T12:00:00Z\", found {0:?}")]
pub struct BadTimestamp(String);

impl TryFrom<String> for Timestamp {
    type Error = BadTimestamp;

    fn try_from(text: String) -> Result<Self, BadTimestamp> {
        parse_rfc3339_seconds(&text)
            .map(Self)
            .ok_or(BadTimestamp(text))
    }
}

/// Seconds since 1970 of `YYYY-MM-DDThh:mm:ss[.fff](Z|±hh:mm)`; parts of a second are cut.
fn parse_rfc3339_seconds(text: &str) -> Option<i64> {
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        digits
            .bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| digits.parse().ok())?
    };
    let byte = |at: usize| text.as_bytes().get(at).copied();
    let separators = byte(4) == Some(b'-')
        && byte(7) == Some(b'-')
        && matches!(byte(10), Some(b'T' | b't' | b' '))
        && byte(13) == Some(b':')
        && byte(16) == Some(b':');
    if !separators {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut zone = text.get(19..)?;
    if let Some(fraction) = zone.strip_prefix('.') {
        let digits = fraction.find(|c: char| !c.is_ascii_digit())?;
        zone = fraction.get(digits..)?;
    }
    let offset_seconds = match zone {
        "Z" | "z" => 0,
        _ => parse_offset_seconds(zone)?,
    };
    let days = days_since_1970(year, month, day);
    Some(days * 86_400 + hour * 3_600 + minute * 60 + second - offset_seconds)
}

/// `+hh:mm` or `-hh:mm` in seconds.
fn parse_offset_seconds(zone: &str) -> Option<i64> {
    let sign = match zone.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let (hours, minutes) = (hours.parse::<u8>().ok()?, minutes.parse::<u8>().ok()?);
    Some(sign * (i64::from(hours) * 3_600 + i64::from(minutes) * 60))
}

/// Days from 1970-01-01 in the Gregorian calendar, counted in years that begin in March.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// A percentage, `0.0..=100.0`. Source: Istio `Percent`.
#[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Percent {
    /// The percentage; its resolution is 0.0001.
    pub value: f64,
}

impl Percent {
    /// Parts per million, rounded down; what is beyond `0.0..=100.0` is cut to it.
    pub fn parts_per_million(self) -> u32 {
        let parts = (self.value * 10_000.0).floor().clamp(0.0, 1_000_000.0);
        // The clamp makes it fit; NaN becomes 0.
        parts as u32
    }
}

/// A port by number. Source: Istio `PortSelector`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PortSelector {
    /// The port number; 0 when it was not written.
    pub number: u32,
}

/// How a text is compared; always with the whole text, and case-sensitive.
/// Source: Istio `StringMatch`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "StringMatchFields")]
pub enum StringMatch {
    /// Nothing was written (`{}`): whatever is present matches.
    #[default]
    Present,
    /// Equal.
    Exact(String),
    /// Begins with.
    Prefix(String),
    /// RE2 expression that must match from the first to the last character.
    Regex(String),
}

/// The fields of a one-of, before it is known that there is one.
#[derive(Deserialize)]
#[serde(
    rename = "StringMatch",
    rename_all = "camelCase",
    default,
    deny_unknown_fields
)]
#[derive(Default)]
struct StringMatchFields {
    exact: Option<String>,
    prefix: Option<String>,
    regex: Option<String>,
}

impl TryFrom<StringMatchFields> for StringMatch {
    type Error = &'static str;

    fn try_from(fields: StringMatchFields) -> Result<Self, Self::Error> {
        match (fields.exact, fields.prefix, fields.regex) {
            (None, None, None) => Ok(Self::Present),
            (Some(text), None, None) => Ok(Self::Exact(text)),
            (None, Some(text), None) => Ok(Self::Prefix(text)),
            (None, None, Some(text)) => Ok(Self::Regex(text)),
            _ => Err("exactly one of exact, prefix and regex can be set"),
        }
    }
}

/// A port by number or by name, as Kubernetes' `targetPort`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum IntOrString {
    /// A port number.
    Int(i64),
    /// The name of a container's port.
    String(String),
}

impl<'de> Deserialize<'de> for IntOrString {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = IntOrString;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or a name")
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<IntOrString, E> {
                Ok(IntOrString::Int(number))
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<IntOrString, E> {
                i64::try_from(number)
                    .map(IntOrString::Int)
                    .map_err(E::custom)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<IntOrString, E> {
                Ok(IntOrString::String(text.to_owned()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Workloads by labels, as Sidecar, ServiceEntry and EnvoyFilter write it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct WorkloadSelector {
    /// All of these must be among the workload's labels.
    pub labels: Labels,
}

/// Workloads by labels, as DestinationRule and the security kinds write it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct LabelSelector {
    /// All of these must be among the workload's labels.
    pub match_labels: Labels,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_go_style_and_nothing_else() {
        for (text, expected_nanos) in [
            ("10s", Some(10_000_000_000)),
            ("250ms", Some(250_000_000)),
            ("1.5s", Some(1_500_000_000)),
            ("1h30m", Some(5_400_000_000_000)),
            (".5s", Some(500_000_000)),
            ("0s", Some(0)),
            ("0", Some(0)),
            ("5", None),   // no unit
            ("5d", None),  // no such unit
            ("-1s", None), // no duration is negative
            ("1 s", None), // no blanks
            ("s", None),
            ("", None),
            (".s", None),
            ("1.2.3s", None),
            ("9999999999h", None), // beyond what fits
        ] {
            assert_eq!(parse_duration_nanos(text), expected_nanos, "{text:?}");
        }
    }

    #[test]
    fn times_are_rfc_3339() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2026-08-27T10:20:30Z", Some(1_787_826_030)),
            ("2000-02-29T00:00:00.123Z", Some(951_782_400)),
            ("1970-01-01T01:00:00+01:00", Some(0)),
            ("1970-01-01", None),
            ("1970-13-01T00:00:00Z", None),
            ("yesterday", None),
            ("1970-01-01T00:00:00", None), // no zone
        ] {
            assert_eq!(parse_rfc3339_seconds(text), expected, "{text:?}");
        }
    }

    #[test]
    fn percentages_have_four_decimals() {
        for (value, parts) in [
            (100.0, 1_000_000),
            (0.0001, 1),
            (0.000_09, 0), // below the resolution
            (33.333_333, 333_333),
            (250.0, 1_000_000),
            (-1.0, 0),
            (f64::NAN, 0),
        ] {
            assert_eq!(Percent { value }.parts_per_million(), parts, "{value}");
        }
    }
}
