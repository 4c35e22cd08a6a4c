//! The entry of fuzzers: foreign bytes through everything that reads a request head
//! before a route is known.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

use super::headers;
use super::normalize::normalize;
use super::strict::{self, HEADERS_MAX_LINES};
use super::upgrade;
use crate::proxy::policy::timeout;

/// Reads `bytes` as an HTTP/1.1 head and takes it as far as a request goes before
/// routing. Returns how many header lines are left; refused heads have none.
pub fn fuzz_entry(bytes: &[u8]) -> usize {
    read(bytes).map_or(0, |headers| headers.len())
}

fn read(bytes: &[u8]) -> Option<HeaderMap> {
    let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX_LINES + 8];
    let mut parsed = httparse::Request::new(&mut lines);
    if !parsed.parse(bytes).ok()?.is_complete() {
        return None;
    }
    let target = parsed.path?;
    // Whatever the library lets through must not surprise the normaliser.
    let normalized = normalize(target).ok()?;
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(parsed.method?.as_bytes()).ok()?;
    *request.uri_mut() = Uri::try_from(&*normalized).ok()?;
    *request.version_mut() = if parsed.version? == 1 {
        Version::HTTP_11
    } else {
        Version::HTTP_10
    };
    for line in parsed.headers.iter() {
        let name = HeaderName::from_bytes(line.name.as_bytes()).ok()?;
        let value = HeaderValue::from_bytes(line.value).ok()?;
        request.headers_mut().append(name, value);
    }
    let (head, ()) = request.into_parts();
    strict::check(&head).ok()?;
    let is_websocket = upgrade::requested(&head) == upgrade::Upgrade::WebSocket;
    let mut headers = head.headers;
    headers::join_lines(&mut headers);
    headers::strip_request(&mut headers, is_websocket);
    headers::add_request(&mut headers);
    std::hint::black_box(timeout::grpc_timeout(&headers));
    Some(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_heads_come_through_and_bad_ones_do_not() {
        for (bytes, expected) in [
            // `accept` stays, x-forwarded-proto and x-request-id are added, Host stays.
            (
                &b"GET /a/../b HTTP/1.1\r\nhost: a\r\naccept: x\r\n\r\n"[..],
                4,
            ),
            (b"GET / HTTP/1.1\r\n\r\n", 0),
            (b"GET /%00 HTTP/1.1\r\nhost: a\r\n\r\n", 0),
            (b"\xff\x00", 0),
        ] {
            assert_eq!(fuzz_entry(bytes), expected, "{bytes:?}");
        }
    }
}
