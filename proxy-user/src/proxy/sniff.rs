//! Which protocol a client speaks, by its first bytes; bounded in bytes and time.
//!
//! Pure part: [`sniff`]. Source: Istio protocol selection (automatic detection),
//! Envoy `http_inspector`: only a complete first line that ends in `HTTP/1.1`, or
//! the HTTP/2 preface, is HTTP.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// What the first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sniffed {
    /// A request line of HTTP/1.1.
    Http1,
    /// The connection preface of HTTP/2 (RFC 9113, 3.4).
    Http2,
    /// A TLS record of the handshake (RFC 8446, 5.1).
    Tls,
    /// Anything else.
    Other,
}

/// How reading the first bytes ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The bytes say what it is.
    Decided(Sniffed),
    /// Time is over; what was read is not enough to say.
    TimedOut,
    /// The client sent no more.
    Ended,
}

/// A first line longer than this is not HTTP (Envoy `http_inspector` reads as much).
const FIRST_LINE_MAX_BYTES: usize = 64 * 1024;
/// A ClientHello longer than this has no name for us (Envoy `tls_inspector`).
const CLIENT_HELLO_MAX_BYTES: usize = 64 * 1024;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const TLS_HANDSHAKE: u8 = 22;

/// What `bytes`, the first of a connection, are; `None` while more may decide otherwise.
#[must_use]
pub fn sniff(bytes: &[u8]) -> Option<Sniffed> {
    let first = *bytes.first()?;
    if first == TLS_HANDSHAKE {
        return Some(Sniffed::Tls);
    }
    if bytes.starts_with(PREFACE) {
        return Some(Sniffed::Http2);
    }
    if PREFACE.starts_with(bytes) {
        return None;
    }
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        let is_hopeless = bytes.len() >= FIRST_LINE_MAX_BYTES || !may_begin_request(bytes);
        return is_hopeless.then_some(Sniffed::Other);
    };
    let line = &bytes[..end];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    Some(if is_request_line(line) {
        Sniffed::Http1
    } else {
        Sniffed::Other
    })
}

/// Whether a line that is still incomplete may become a request line.
fn may_begin_request(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut parts = line.splitn(2, |byte| *byte == b' ');
    let method = parts.next().unwrap_or_default();
    let target = parts.next().unwrap_or_default();
    is_token(method) && target.iter().all(|byte| is_visible(*byte))
}

fn is_request_line(line: &[u8]) -> bool {
    line.strip_suffix(b" HTTP/1.1")
        .is_some_and(|start| start.contains(&b' ') && may_begin_request(start))
}

/// RFC 9110, 5.6.2.
fn is_token(text: &[u8]) -> bool {
    !text.is_empty()
        && text
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

fn is_visible(byte: u8) -> bool {
    matches!(byte, b' '..=b'~')
}

/// Reads into `buffer` until the bytes decide. `wait`: at most this long, `None` for
/// ever, zero only what has come already.
///
/// # Errors
/// What reading from the client reports.
pub(super) async fn read_protocol(
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
    wait: Option<Duration>,
) -> io::Result<Outcome> {
    read_until(stream, buffer, wait, |bytes| {
        sniff(bytes).map(Outcome::Decided)
    })
    .await
}

/// Reads a ClientHello as far as its server name, or until it is clear that there is none.
///
/// # Errors
/// What reading from the client reports.
pub(super) async fn read_client_hello(
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
) -> io::Result<Outcome> {
    read_until(
        stream,
        buffer,
        None,
        |bytes| match super::tls::parse_client_hello(bytes) {
            super::tls::ClientHello::Incomplete if bytes.len() < CLIENT_HELLO_MAX_BYTES => None,
            super::tls::ClientHello::Incomplete | super::tls::ClientHello::NotTls => {
                Some(Outcome::Decided(Sniffed::Other))
            }
            super::tls::ClientHello::Complete(_) => Some(Outcome::Decided(Sniffed::Tls)),
        },
    )
    .await
}

async fn read_until(
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
    wait: Option<Duration>,
    decide: impl Fn(&[u8]) -> Option<Outcome>,
) -> io::Result<Outcome> {
    let deadline = wait.map(|wait| Instant::now() + wait);
    loop {
        let read = stream.read_buf(buffer);
        let read_len = match deadline {
            None => read.await?,
            // The read is polled before the clock, so that zero takes what is there.
            Some(deadline) => match tokio::time::timeout_at(deadline, read).await {
                Ok(read) => read?,
                Err(_) => return Ok(Outcome::TimedOut),
            },
        };
        if read_len == 0 {
            return Ok(Outcome::Ended);
        }
        if let Some(outcome) = decide(buffer) {
            return Ok(outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checklist id A019's neighbourhood: what counts as HTTP on a sniffed port.
    #[test]
    fn only_a_complete_http_1_1_line_or_the_preface_is_http() {
        use Sniffed::{Http1, Http2, Other, Tls};
        let long = vec![b'a'; FIRST_LINE_MAX_BYTES];
        let rows: &[(&[u8], Option<Sniffed>)] = &[
            (b"", None),
            (b"GET / HTTP/1.1\r\n", Some(Http1)),
            (b"GET / HTTP/1.1\n", Some(Http1)),
            (b"FOO / HTTP/1.1\r\nx", Some(Http1)), // only the form counts
            (b"GET / HTTP/1.1\r", None),
            (b"GE", None), // still incomplete: keep waiting
            (b"GET /some/long", None),
            (b"GET / HTTP/1.0\r\n", Some(Other)),
            (b"GET / HTTP/1.2\r\n", Some(Other)),
            (b"GET /\r\n", Some(Other)), // HTTP/0.9
            (b"GET / http/1.1\r\n", Some(Other)),
            (b"HTTP/1.1\r\n", Some(Other)),
            (b"GET /\xc3\xa4 HTTP/1.1\r\n", Some(Other)),
            (b"GET /\xc3", Some(Other)),              // decides at once
            (b"\r\nGET / HTTP/1.1\r\n", Some(Other)), // empty line first
            (b"\r", Some(Other)),
            (b"{\"a\":1}", Some(Other)), // no method has a brace
            (b"\x00\x01", Some(Other)),
            (b"\x16\x03\x01", Some(Tls)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Http2)),
            (b"PRI * HTTP/2.0\r\n\r\nSM", None),
            (b"PRI * HTTP/2.0\r\nX", Some(Other)),
            (b"PRI / HTTP/1.1\r\n", Some(Http1)),
            (&long, Some(Other)),
        ];
        for (bytes, expected) in rows {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]);
            assert_eq!(sniff(bytes), *expected, "{text:?}");
        }
    }

    #[test]
    fn every_split_of_a_request_line_decides_the_same() {
        let line = b"POST /a?b=c HTTP/1.1\r\n";
        for end in 1..line.len() {
            assert_eq!(sniff(&line[..end]), None, "first {end} bytes");
        }
    }
}
