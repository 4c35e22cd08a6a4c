//! Timeouts of one request: the route's, gRPC's own, one attempt's.
//!
//! Sources: VirtualService `timeout` and `retries.perTryTimeout`, Envoy documentation,
//! "How do I configure timeouts?", gRPC over HTTP/2 (`Timeout`).

use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use crate::proxy::http::headers::GRPC_TIMEOUT;

/// Bounds of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Timeouts {
    /// From the end of the request to the end of the response; `None` never.
    pub(crate) whole: Option<Duration>,
    /// One attempt, from connected and sent to the response head.
    pub(crate) per_try: Option<Duration>,
}

/// The bounds that act, and the `grpc-timeout` that the upstream must see when the
/// client's own was capped.
pub(crate) fn effective(
    route: Option<Duration>,
    per_try: Option<Duration>,
    grpc: Option<Duration>,
) -> (Timeouts, Option<HeaderValue>) {
    let (whole, rewritten) = match (route, grpc) {
        (Some(route), Some(grpc)) if grpc.is_zero() || grpc > route => {
            (Some(route), Some(grpc_value(route)))
        }
        (_, Some(grpc)) if !grpc.is_zero() => (Some(grpc), None),
        (route, _) => (route, None),
    };
    let per_try = per_try.filter(|per_try| whole.is_none_or(|whole| *per_try < whole));
    (Timeouts { whole, per_try }, rewritten)
}

/// `x-envoy-expected-rq-timeout-ms` of an attempt that starts `elapsed` after the
/// request ended.
pub(crate) fn expected(timeouts: Timeouts, elapsed: Duration) -> Option<Duration> {
    let left = timeouts.whole.map(|whole| whole.saturating_sub(elapsed));
    match (left, timeouts.per_try) {
        (Some(left), Some(per_try)) => Some(left.min(per_try)),
        (left, per_try) => left.or(per_try),
    }
}

/// The client's `grpc-timeout`: at most eight digits and a unit.
pub(crate) fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// The finest unit that fits eight digits.
fn grpc_value(timeout: Duration) -> HeaderValue {
    const DIGITS_MAX: u128 = 99_999_999;
    let text = if timeout.as_millis() <= DIGITS_MAX {
        format!("{}m", timeout.as_millis())
    } else if u128::from(timeout.as_secs()) <= DIGITS_MAX {
        format!("{}S", timeout.as_secs())
    } else {
        format!("{}H", (timeout.as_secs() / 3600).min(99_999_999))
    };
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("99999999H"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_smaller_of_route_and_grpc_timeout_acts() {
        for (route, grpc, whole, rewritten) in [
            (None, None, None, None),
            (Some(ms(1000)), None, Some(ms(1000)), None),
            (None, Some(ms(50)), Some(ms(50)), None), // uncapped
            (Some(ms(1000)), Some(ms(50)), Some(ms(50)), None),
            (
                Some(ms(1000)),
                Some(ms(5000)),
                Some(ms(1000)),
                Some("1000m"),
            ), // capped and rewritten
            (Some(ms(1000)), Some(ms(0)), Some(ms(1000)), Some("1000m")), // zero is infinite
            (None, Some(ms(0)), None, None),
        ] {
            let (timeouts, header) = effective(route, None, grpc);
            assert_eq!(timeouts.whole, whole, "{route:?} {grpc:?}");
            let header = header.as_ref().map(|value| value.to_str().expect("ASCII"));
            assert_eq!(header, rewritten, "{route:?} {grpc:?}");
        }
    }

    #[test]
    fn a_per_try_timeout_not_below_the_whole_is_ignored() {
        for (whole, per_try, expected) in [
            (Some(ms(1000)), Some(ms(200)), Some(ms(200))),
            (Some(ms(200)), Some(ms(200)), None),
            (Some(ms(200)), Some(ms(300)), None),
            (None, Some(ms(300)), Some(ms(300))),
        ] {
            assert_eq!(effective(whole, per_try, None).0.per_try, expected);
        }
    }

    #[test]
    fn the_expected_timeout_is_what_this_attempt_has_left() {
        for (whole, per_try, elapsed, left) in [
            (Some(ms(1000)), None, ms(300), Some(ms(700))),
            (Some(ms(1000)), Some(ms(200)), ms(300), Some(ms(200))),
            (Some(ms(1000)), Some(ms(200)), ms(900), Some(ms(100))),
            (None, Some(ms(200)), ms(900), Some(ms(200))),
            (None, None, ms(900), None),
        ] {
            let timeouts = Timeouts { whole, per_try };
            assert_eq!(expected(timeouts, elapsed), left);
        }
    }

    #[test]
    fn grpc_timeouts_are_read_as_the_protocol_says() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("100m", Some(ms(100))),
            ("7u", Some(Duration::from_micros(7))),
            ("8n", Some(Duration::from_nanos(8))),
            ("123456789S", None), // nine digits
            ("S", None),
            ("", None),
            ("1", None),
            ("-1S", None),
            ("1s", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(GRPC_TIMEOUT, HeaderValue::from_static(text));
            assert_eq!(grpc_timeout(&headers), expected, "{text}");
        }
    }
}
