//! The entry of fuzzers: foreign bytes through everything that reads a request head
//! before a route is known.

use http::HeaderMap;

use super::headers;
use super::normalize::normalize;
use super::strict;
use super::upgrade;
use crate::proxy::http1;
use crate::proxy::policy::timeout;

/// Reads `bytes` as HTTP/1.1 in every way, and takes the first request as far as one goes
/// before routing. Returns how many header lines are left; refused heads have none.
pub fn fuzz_entry(bytes: &[u8]) -> usize {
    read(bytes).map_or(0, |headers| headers.len())
}

fn read(bytes: &[u8]) -> Option<HeaderMap> {
    let head = http1::read_all(bytes)?;
    // Whatever the codec lets through must not surprise the normaliser.
    normalize(head.target_text()).ok()?;
    strict::check(&head).ok()?;
    let is_websocket =
        upgrade::requested(head.version, &head.headers) == upgrade::Upgrade::WebSocket;
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
