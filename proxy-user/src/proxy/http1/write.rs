//! Heads and bodies as bytes. Pure; `wire` sends them.
//!
//! A message's length is written from the body that is sent, never from headers: what
//! rules or peers put into `content-length` and `transfer-encoding` cannot split messages.

use std::io::IoSlice;

use bytes::{Buf, Bytes};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::date::write_date;
use super::target::Target;

/// Pieces up to this are copied behind the head, so that one plain write sends both.
const COPY_MAX_BYTES: usize = 8 * 1024;
/// Copied bytes that wait at most, before they are sent.
const BUFFER_MAX_BYTES: usize = 16 * 1024;
/// Room for an ordinary head and a small body.
const HEAD_ROOM_BYTES: usize = 768;

/// How a body's length is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SentLength {
    /// No body: `content-length` is sent as the headers have it (HEAD, 304, requests).
    None,
    /// No body, and nothing may say otherwise: 1xx and 204.
    Bare,
    /// So many bytes.
    Exact(u64),
    /// Chunked.
    Chunked,
}

impl SentLength {
    fn is_chunked(self) -> bool {
        self == Self::Chunked
    }
}

/// Writes the head of a request.
pub(crate) fn write_request(
    out: &mut Vec<u8>,
    (method, target, authority): (&Method, &Target, &HeaderValue),
    headers: &HeaderMap,
    length: SentLength,
) {
    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(target.as_str().as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    out.extend_from_slice(authority.as_bytes());
    out.extend_from_slice(b"\r\n");
    write_headers(out, headers, length);
    out.extend_from_slice(b"\r\n");
}

/// Writes the head of a response. `closes`: the connection ends with it.
pub(crate) fn write_response(
    out: &mut Vec<u8>,
    status: StatusCode,
    headers: &HeaderMap,
    length: SentLength,
    closes: bool,
) {
    write_status(out, status);
    let named = write_headers(out, headers, length);
    if !named.date {
        out.extend_from_slice(b"date: ");
        write_date(out);
        out.extend_from_slice(b"\r\n");
    }
    if closes && !named.connection {
        out.extend_from_slice(b"connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes a 1xx answer before the final one.
pub(crate) fn write_informational(out: &mut Vec<u8>, status: StatusCode, headers: &HeaderMap) {
    write_status(out, status);
    write_headers(out, headers, SentLength::Bare);
    out.extend_from_slice(b"\r\n");
}

fn write_status(out: &mut Vec<u8>, status: StatusCode) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    // Envoy's word for statuses that no document names.
    let reason = status.canonical_reason().unwrap_or("Unknown");
    out.extend_from_slice(reason.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Headers that were written.
#[derive(Debug, Clone, Copy, Default)]
struct Named {
    date: bool,
    connection: bool,
}

fn write_headers(out: &mut Vec<u8>, headers: &HeaderMap, length: SentLength) -> Named {
    let mut named = Named::default();
    for (name, value) in headers {
        let text = name.as_str();
        match text.len() {
            4 if name == HOST => continue,
            4 => named.date |= name == DATE,
            10 => named.connection |= name == CONNECTION,
            14 if name == CONTENT_LENGTH && length != SentLength::None => continue,
            17 if name == TRANSFER_ENCODING => continue,
            _ => {}
        }
        // Once for the line, not for each of its parts.
        out.reserve(text.len() + value.len() + 4);
        out.extend_from_slice(text.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    match length {
        SentLength::None | SentLength::Bare => {}
        SentLength::Exact(len) => {
            out.extend_from_slice(b"content-length: ");
            write_decimal(out, len);
            out.extend_from_slice(b"\r\n");
        }
        SentLength::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    named
}

fn write_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn write_hex(out: &mut Vec<u8>, number: usize) {
    let digits = (usize::BITS - number.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..digits).rev() {
        let value = (number >> (4 * digit) & 15) as u8;
        out.push(if value < 10 {
            b'0' + value
        } else {
            b'a' + value - 10
        });
    }
}

/// Bytes on their way to a peer: copied ones, then one large piece, then its end.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    buffer: Vec<u8>,
    /// Bytes of `buffer` that are sent.
    sent: usize,
    piece: Bytes,
    tail: &'static [u8],
}

impl Outgoing {
    /// Where a head is written to.
    pub(crate) fn head(&mut self) -> &mut Vec<u8> {
        if self.buffer.capacity() == 0 {
            self.buffer.reserve(HEAD_ROOM_BYTES);
        }
        &mut self.buffer
    }

    /// Everything is sent.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.buffer.len() - self.sent + self.piece.len() + self.tail.len()
    }

    /// Another piece may be added before these are sent.
    pub(crate) fn has_room(&self) -> bool {
        self.piece.is_empty() && self.tail.is_empty() && self.buffer.len() < BUFFER_MAX_BYTES
    }

    /// Adds a piece of a body; only while there is room.
    pub(crate) fn push(&mut self, data: Bytes, length: SentLength) {
        if data.is_empty() {
            return;
        }
        let is_chunked = length.is_chunked();
        if is_chunked {
            write_hex(&mut self.buffer, data.len());
            self.buffer.extend_from_slice(b"\r\n");
        }
        if data.len() > COPY_MAX_BYTES {
            self.piece = data;
            self.tail = if is_chunked { b"\r\n" } else { b"" };
            return;
        }
        self.buffer.extend_from_slice(&data);
        if is_chunked {
            self.buffer.extend_from_slice(b"\r\n");
        }
    }

    /// Adds the end of a body.
    pub(crate) fn push_end(&mut self, length: SentLength) {
        if !length.is_chunked() {
            return;
        }
        if self.piece.is_empty() && self.tail.is_empty() {
            self.buffer.extend_from_slice(b"0\r\n\r\n");
        } else {
            // The tail behind a large piece is a chunk's line end, or what is left of it.
            self.tail = match self.tail.len() {
                0 => b"0\r\n\r\n",
                1 => b"\n0\r\n\r\n",
                _ => b"\r\n0\r\n\r\n",
            };
        }
    }

    /// What waits, as one write takes it. Returns how many slices it filled.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; 3]) -> usize {
        let parts = [
            self.buffer.get(self.sent..).unwrap_or_default(),
            &self.piece,
            self.tail,
        ];
        let mut count = 0;
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            slices[count] = IoSlice::new(part);
            count += 1;
        }
        count
    }

    /// So many bytes were sent.
    pub(crate) fn advance(&mut self, len: usize) {
        let of_buffer = len.min(self.buffer.len() - self.sent);
        self.sent += of_buffer;
        let of_piece = (len - of_buffer).min(self.piece.len());
        self.piece.advance(of_piece);
        let of_tail = len - of_buffer - of_piece;
        self.tail = self.tail.get(of_tail..).unwrap_or_default();
        if self.sent == self.buffer.len() {
            self.buffer.clear();
            self.sent = 0;
        }
    }

    /// Forgets everything and gives the memory back.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(out: &Outgoing) -> String {
        let mut slices = [IoSlice::new(&[]); 3];
        let count = out.slices(&mut slices);
        let bytes = slices[..count].iter().flat_map(|slice| slice.iter());
        String::from_utf8(bytes.copied().collect()).expect("text")
    }

    #[test]
    fn lengths_come_from_the_body_and_not_from_headers() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("9"));
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert("x", HeaderValue::from_static("y"));
        let host = HeaderValue::from_static("h");
        for (length, expected) in [
            (SentLength::None, "content-length: 9\r\nx: y\r\n"),
            (SentLength::Bare, "x: y\r\n"),
            (SentLength::Exact(120), "x: y\r\ncontent-length: 120\r\n"),
            (
                SentLength::Chunked,
                "x: y\r\ntransfer-encoding: chunked\r\n",
            ),
        ] {
            let mut out = Vec::new();
            let target = Target::new("/a?b");
            write_request(&mut out, (&Method::GET, &target, &host), &headers, length);
            let text = String::from_utf8(out).expect("text");
            assert_eq!(
                text,
                format!("GET /a?b HTTP/1.1\r\nhost: h\r\n{expected}\r\n")
            );
        }
    }

    #[test]
    fn responses_have_a_date_and_say_when_they_close() {
        let mut out = Vec::new();
        let headers = HeaderMap::new();
        let status = StatusCode::from_u16(299).expect("a status");
        write_response(&mut out, status, &headers, SentLength::Exact(0), true);
        let text = String::from_utf8(out).expect("text");
        let before = "HTTP/1.1 299 Unknown\r\ncontent-length: 0\r\ndate: ";
        let rest = text.strip_prefix(before).expect("the date comes next");
        let (date, rest) = rest.split_at("Sun, 06 Nov 1994 08:49:37 GMT".len());
        assert!(date.ends_with(" GMT"), "{date}");
        assert_eq!(rest, "\r\nconnection: close\r\n\r\n");
    }

    #[test]
    fn pieces_go_out_in_order_however_little_is_sent_at_once() {
        let large = Bytes::from("z".repeat(COPY_MAX_BYTES + 1));
        for (length, step) in [
            (SentLength::Chunked, 1),
            (SentLength::Chunked, 5000),
            (SentLength::Exact(1), 3),
        ] {
            let mut out = Outgoing::default();
            out.head().extend_from_slice(b"head ");
            out.push(Bytes::from_static(b"small"), length);
            out.push(large.clone(), length);
            assert!(!out.has_room());
            out.push_end(length);
            let expected = match length {
                SentLength::Chunked => format!(
                    "head 5\r\nsmall\r\n2001\r\n{}\r\n0\r\n\r\n",
                    "z".repeat(8193)
                ),
                _ => format!("head small{}", "z".repeat(8193)),
            };
            let mut text = String::new();
            while !out.is_empty() {
                let now = sent(&out);
                let now = &now[..now.len().min(step)];
                text.push_str(now);
                out.advance(now.len());
            }
            assert_eq!(text, expected, "{length:?} by {step}");
        }
    }

    #[test]
    fn the_end_waits_behind_what_is_left_of_a_chunk() {
        let mut out = Outgoing::default();
        out.push(
            Bytes::from("z".repeat(COPY_MAX_BYTES + 1)),
            SentLength::Chunked,
        );
        out.advance(out.len() - 1);
        assert_eq!(sent(&out), "\n");
        out.push_end(SentLength::Chunked);
        assert_eq!(sent(&out), "\n0\r\n\r\n");
    }

    #[test]
    fn numbers_are_written_in_full() {
        for (number, decimal, hex) in [
            (0, "0", "0"),
            (15, "15", "f"),
            (16, "16", "10"),
            (8193, "8193", "2001"),
        ] {
            let (mut first, mut second) = (Vec::new(), Vec::new());
            write_decimal(&mut first, number as u64);
            write_hex(&mut second, number);
            assert_eq!(
                (&first[..], &second[..]),
                (decimal.as_bytes(), hex.as_bytes())
            );
        }
    }
}
