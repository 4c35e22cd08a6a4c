//! Headers of one hop: what is joined, dropped and added on the mesh client hop.
//!
//! Sources: RFC 9110 section 7.6.1 (hop-by-hop), Envoy documentation, "HTTP header
//! manipulation" and "Router filter", Istio's sidecar defaults. One pass over the
//! names finds what must go, since most requests have nothing of it.

use std::time::Duration;

use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, ORIGIN,
    REFERER, TE, TRANSFER_ENCODING, UPGRADE, USER_AGENT, VIA,
};
use http::{HeaderMap, HeaderName, HeaderValue};

/// `x-request-id`.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// `x-forwarded-for`.
pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `x-forwarded-proto`.
pub(crate) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// `x-envoy-attempt-count`.
pub(crate) const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
/// `x-envoy-expected-rq-timeout-ms`.
pub(crate) const EXPECTED_TIMEOUT: HeaderName =
    HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
/// `x-envoy-original-path`.
pub(crate) const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
/// `x-envoy-original-host`.
pub(crate) const ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");
/// `x-envoy-internal`.
pub(crate) const INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");
/// `x-envoy-upstream-service-time`.
const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
/// `grpc-timeout`.
pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Headers whose lines are joined with `,` on receipt (Envoy's inline headers).
const JOINED: [HeaderName; 13] = [
    ACCEPT,
    ACCEPT_ENCODING,
    AUTHORIZATION,
    CACHE_CONTROL,
    CONTENT_TYPE,
    GRPC_TIMEOUT,
    ORIGIN,
    REFERER,
    USER_AGENT,
    VIA,
    HeaderName::from_static("x-client-trace-id"),
    FORWARDED_FOR,
    REQUEST_ID,
];

/// Dropped unread: no request of a mesh client counts as internal, and the
/// decorator names Envoy's own span.
const DROPPED: [HeaderName; 14] = [
    HeaderName::from_static("x-envoy-upstream-rq-timeout-ms"),
    HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms"),
    HeaderName::from_static("x-envoy-max-retries"),
    HeaderName::from_static("x-envoy-retry-on"),
    HeaderName::from_static("x-envoy-retry-grpc-on"),
    HeaderName::from_static("x-envoy-retriable-status-codes"),
    HeaderName::from_static("x-envoy-retriable-header-names"),
    HeaderName::from_static("x-envoy-upstream-rq-timeout-alt-response"),
    HeaderName::from_static("x-envoy-force-trace"),
    HeaderName::from_static("x-envoy-decorator-operation"),
    HeaderName::from_static("x-forwarded-client-cert"),
    INTERNAL,
    EXPECTED_TIMEOUT,
    ATTEMPT_COUNT,
];

/// Joins repeated lines of the well-known single-value headers.
pub(crate) fn join_lines(headers: &mut HeaderMap) {
    // `len` counts lines, `keys_len` names: equal means that nothing is repeated.
    if headers.len() == headers.keys_len() {
        return;
    }
    for name in &JOINED {
        if headers.get_all(name).iter().count() < 2 {
            continue;
        }
        let lines: Vec<&[u8]> = headers
            .get_all(name)
            .iter()
            .map(HeaderValue::as_bytes)
            .collect();
        if let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b","[..])) {
            headers.insert(name, joined);
        }
    }
}

/// Removes what ends at this hop and what a mesh client may not ask for.
///
/// `keeps_upgrade`: this is a WebSocket handshake, whose `connection` and `upgrade`
/// reach the upstream.
pub(crate) fn strip_request(headers: &mut HeaderMap, keeps_upgrade: bool) {
    let found = scan(headers);
    if found.is_hop_by_hop {
        strip_hop_by_hop(headers, found, keeps_upgrade);
    }
    if found.is_controlled {
        for name in &DROPPED {
            headers.remove(name);
        }
    }
}

/// Adds what every request carries on this hop.
pub(crate) fn add_request(headers: &mut HeaderMap) {
    headers
        .entry(FORWARDED_PROTO)
        .or_insert(HeaderValue::from_static("http"));
    if !headers.contains_key(REQUEST_ID) {
        let mut buffer = uuid::Uuid::encode_buffer();
        let text = uuid::Uuid::new_v4().hyphenated().encode_lower(&mut buffer);
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(REQUEST_ID, value);
        }
    }
}

/// Makes an upstream response one of this hop. `service_time`: from the end of the
/// request to the response head, retries included.
pub(crate) fn finish_response(headers: &mut HeaderMap, service_time: Duration, is_upgrade: bool) {
    let found = scan(headers);
    if found.is_hop_by_hop {
        strip_hop_by_hop(headers, found, is_upgrade);
    }
    let millis = u64::try_from(service_time.as_millis()).unwrap_or(u64::MAX);
    headers.insert(SERVICE_TIME, number(millis));
}

/// A number as a value; small ones, which are most, without an allocation.
pub(crate) fn number(number: u64) -> HeaderValue {
    const SMALL: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    let small = usize::try_from(number).ok().and_then(|at| SMALL.get(at));
    small.map_or_else(
        || HeaderValue::from(number),
        |text| HeaderValue::from_static(text),
    )
}

/// Makes a 1xx answer of an upstream one of this hop.
pub(crate) fn strip_informational(headers: &mut HeaderMap) {
    let found = scan(headers);
    if found.is_hop_by_hop {
        strip_hop_by_hop(headers, found, false);
    }
}

/// What one pass over the names found.
#[derive(Debug, Clone, Copy)]
struct Found {
    is_hop_by_hop: bool,
    /// Of hop-by-hop headers only a `connection` that names nothing but itself, and
    /// `transfer-encoding`.
    is_plain: bool,
    is_controlled: bool,
}

fn scan(headers: &HeaderMap) -> Found {
    let mut found = Found {
        is_hop_by_hop: false,
        is_plain: true,
        is_controlled: false,
    };
    for (name, value) in headers {
        let text = name.as_str();
        let is_hop_by_hop = match text.as_bytes().first() {
            Some(b'x') => {
                found.is_controlled |=
                    text.starts_with("x-envoy-") || text == "x-forwarded-client-cert";
                false
            }
            Some(b'c') if text == "connection" => {
                let value = value.as_bytes();
                found.is_hop_by_hop = true;
                !value.eq_ignore_ascii_case(b"keep-alive") && !value.eq_ignore_ascii_case(b"close")
            }
            Some(b't') if text == "transfer-encoding" => {
                found.is_hop_by_hop = true;
                false
            }
            Some(b'k') => text == "keep-alive",
            Some(b'p') => text == "proxy-connection",
            Some(b't') => matches!(text, "te" | "trailer"),
            Some(b'u') => text == "upgrade",
            Some(_) | None => false,
        };
        found.is_hop_by_hop |= is_hop_by_hop;
        found.is_plain &= !is_hop_by_hop;
    }
    found
}

fn strip_hop_by_hop(headers: &mut HeaderMap, found: Found, keeps_upgrade: bool) {
    if !keeps_upgrade && found.is_plain {
        headers.remove(CONNECTION);
        headers.remove(TRANSFER_ENCODING);
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|token| HeaderName::try_from(token.trim()).ok())
        .filter(|name| !(keeps_upgrade && *name == UPGRADE) && *name != TE)
        .collect();
    for name in named {
        headers.remove(name);
    }
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
    headers.remove(TRANSFER_ENCODING);
    if headers.contains_key(TE) && !wants_trailers(headers) {
        headers.remove(TE);
    }
    headers.remove(CONNECTION);
    if keeps_upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    } else {
        headers.remove(UPGRADE);
    }
}

fn wants_trailers(headers: &HeaderMap) -> bool {
    headers
        .get_all(TE)
        .iter()
        .all(|line| line.as_bytes().eq_ignore_ascii_case(b"trailers"))
}

/// gRPC by content type: `application/grpc`, alone or with a suffix or parameter
/// (gRPC over HTTP/2, "Content-Type").
pub(crate) fn is_grpc(content_type: &HeaderValue) -> bool {
    let Some(rest) = content_type.as_bytes().strip_prefix(b"application/grpc") else {
        return false;
    };
    matches!(rest.first(), None | Some(b'+' | b';'))
}

/// Bytes of a header section as HTTP/1.1 would send it.
pub(crate) fn wire_len(headers: &HeaderMap) -> u64 {
    headers
        .iter()
        .map(|(name, value)| line_len(name, value))
        .sum()
}

/// Bytes of one line of it.
pub(crate) fn line_len(name: &HeaderName, value: &HeaderValue) -> u64 {
    (name.as_str().len() + value.len() + 4) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    value.parse().expect("a value"),
                )
            })
            .collect()
    }

    /// Checklist id A062, second half: the matcher then sees one line.
    #[test]
    fn a062_well_known_headers_are_joined_and_others_stay_apart() {
        let mut map = headers(&[("accept", "a"), ("accept", "b"), ("x", "a"), ("x", "b")]);
        join_lines(&mut map);
        assert_eq!(map.get_all(ACCEPT).iter().count(), 1);
        assert_eq!(map[ACCEPT], "a,b");
        assert_eq!(map.get_all("x").iter().count(), 2);
    }

    #[test]
    fn hop_by_hop_headers_end_here() {
        let mut map = headers(&[
            ("connection", "keep-alive, x-mine"),
            ("keep-alive", "timeout=5"),
            ("x-mine", "1"),
            ("proxy-connection", "close"),
            ("te", "gzip"),
            ("upgrade", "h2c"),
            ("transfer-encoding", "chunked"),
            ("accept", "*/*"),
        ]);
        strip_request(&mut map, false);
        assert_eq!(map, headers(&[("accept", "*/*")]));
        let mut map = headers(&[("connection", "TE"), ("te", "trailers")]);
        strip_request(&mut map, false);
        assert_eq!(map, headers(&[("te", "trailers")])); // gRPC needs it
    }

    #[test]
    fn a_websocket_handshake_keeps_its_two_headers() {
        let mut map = headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
        ]);
        strip_request(&mut map, true);
        assert_eq!(
            map,
            headers(&[("connection", "Upgrade"), ("upgrade", "websocket")])
        );
    }

    /// Checklist id A115, the header half.
    #[test]
    fn a115_control_headers_are_dropped_unread() {
        let mut map = headers(&[
            ("x-envoy-upstream-rq-timeout-ms", "100"),
            ("x-envoy-retry-on", "5xx"),
            ("x-envoy-max-retries", "9"),
            ("x-envoy-internal", "true"),
            ("x-envoy-attempt-count", "7"),
            ("x-envoy-expected-rq-timeout-ms", "1"),
            ("x-envoy-decorator-operation", "x"),
            ("x-forwarded-client-cert", "x"),
            ("x-envoy-original-path", "/kept"),
            ("x-forwarded-for", "10.0.0.1"),
        ]);
        strip_request(&mut map, false);
        assert_eq!(
            map,
            headers(&[
                ("x-envoy-original-path", "/kept"),
                ("x-forwarded-for", "10.0.0.1")
            ])
        );
    }

    #[test]
    fn proto_and_request_id_are_added_only_when_absent() {
        let mut map = HeaderMap::new();
        add_request(&mut map);
        assert_eq!(map[FORWARDED_PROTO], "http");
        assert_eq!(map[REQUEST_ID].len(), 36);
        assert!(!map.contains_key(FORWARDED_FOR)); // never created
        let received = headers(&[("x-forwarded-proto", "https"), ("x-request-id", "mine")]);
        let mut map = received.clone();
        add_request(&mut map);
        assert_eq!(map, received);
    }

    #[test]
    fn responses_lose_hop_headers_and_gain_the_service_time() {
        let mut map = headers(&[
            ("connection", "close"),
            ("server", "upstream"),
            ("x-envoy-upstream-service-time", "9"),
        ]);
        finish_response(&mut map, Duration::from_millis(12), false);
        assert_eq!(
            map,
            headers(&[
                ("server", "upstream"),
                ("x-envoy-upstream-service-time", "12")
            ])
        );
    }

    #[test]
    fn grpc_is_told_by_the_content_type() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            assert_eq!(
                is_grpc(&HeaderValue::from_static(value)),
                expected,
                "{value}"
            );
        }
    }
}
