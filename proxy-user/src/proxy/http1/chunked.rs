//! Chunked bodies, decoded (RFC 9112 section 7.1). Pure: bytes in, pieces out.
//!
//! Extensions are skipped, trailers are checked and dropped, as Istio's sidecars do. Line
//! ends are CR LF and nothing else: what another parser reads differently is refused.

use bytes::{Buf, Bytes, BytesMut};

use super::body::{Malformed, Piece};
use super::head::{HEADERS_MAX_BYTES, HEADERS_MAX_LINES, is_token};

/// A size line with its extensions; longer ones are refused.
const SIZE_LINE_MAX_BYTES: usize = 4096;
/// Hexadecimal digits of a 64-bit size.
const SIZE_MAX_DIGITS: usize = 16;

/// Where in a chunked body the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunked {
    /// In a size line.
    Size,
    /// In a chunk with so many bytes left.
    Data(u64),
    /// In the line end behind a chunk.
    DataEnd,
    /// In the trailers: what of them was seen.
    Trailers { lines: usize, bytes: usize },
    /// Behind the body.
    Done,
}

impl Chunked {
    /// The next piece. Takes what it has read from `pending`.
    ///
    /// # Errors
    /// No chunked body.
    pub(super) fn next(&mut self, pending: &mut BytesMut) -> Result<Piece, Malformed> {
        self.skip_framing(pending)?;
        match *self {
            Self::Done => Ok(Piece::End),
            Self::Data(left) if !pending.is_empty() => {
                let len =
                    usize::try_from(left).map_or(pending.len(), |left| left.min(pending.len()));
                let data = pending.split_to(len).freeze();
                *self = match left - len as u64 {
                    0 => Self::DataEnd,
                    left => Self::Data(left),
                };
                Ok(Piece::Data(data))
            }
            Self::Size | Self::Data(_) | Self::DataEnd | Self::Trailers { .. } => {
                Ok(Piece::NeedsMore)
            }
        }
    }

    /// Reads size lines, line ends and trailers that are there, up to the next data.
    ///
    /// # Errors
    /// No chunked body.
    pub(super) fn skip_framing(&mut self, pending: &mut BytesMut) -> Result<(), Malformed> {
        loop {
            match *self {
                Self::Data(_) | Self::Done => return Ok(()),
                Self::Size => {
                    let Some(line) = take_line(pending, SIZE_LINE_MAX_BYTES)? else {
                        return Ok(());
                    };
                    *self = match parse_size(&line)? {
                        0 => Self::Trailers { lines: 0, bytes: 0 },
                        size => Self::Data(size),
                    };
                }
                Self::DataEnd => {
                    if pending.first().is_some_and(|byte| *byte != b'\r')
                        || pending.get(1).is_some_and(|byte| *byte != b'\n')
                    {
                        return Err(Malformed);
                    }
                    if pending.len() < 2 {
                        return Ok(());
                    }
                    pending.advance(2);
                    *self = Self::Size;
                }
                Self::Trailers { lines, bytes } => {
                    let left = HEADERS_MAX_BYTES.saturating_sub(bytes);
                    let Some(line) = take_line(pending, left)? else {
                        return Ok(());
                    };
                    if line.is_empty() {
                        *self = Self::Done;
                        return Ok(());
                    }
                    check_trailer(&line)?;
                    if lines == HEADERS_MAX_LINES {
                        return Err(Malformed);
                    }
                    *self = Self::Trailers {
                        lines: lines + 1,
                        bytes: bytes + line.len(),
                    };
                }
            }
        }
    }

    /// Behind the last byte.
    pub(super) fn is_done(self) -> bool {
        self == Self::Done
    }
}

/// A whole line without its CR LF, if it is there.
fn take_line(pending: &mut BytesMut, max_bytes: usize) -> Result<Option<Bytes>, Malformed> {
    let Some(at) = memchr::memchr(b'\n', pending) else {
        if pending.len() > max_bytes {
            return Err(Malformed);
        }
        return Ok(None);
    };
    if at > max_bytes {
        return Err(Malformed);
    }
    let mut line = pending.split_to(at + 1).freeze();
    line.truncate(at);
    if line.last() != Some(&b'\r') {
        return Err(Malformed);
    }
    line.truncate(at - 1);
    let is_bad = |byte: &u8| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f;
    if line.iter().any(is_bad) {
        return Err(Malformed);
    }
    Ok(Some(line))
}

/// The size of a chunk, before blanks and extensions.
fn parse_size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line
        .iter()
        .take_while(|byte| byte.is_ascii_hexdigit())
        .count();
    if digits == 0 || digits > SIZE_MAX_DIGITS {
        return Err(Malformed);
    }
    let (size, rest) = line.split_at(digits);
    let mut rest = rest
        .iter()
        .skip_while(|byte| matches!(**byte, b' ' | b'\t'));
    if rest.next().is_some_and(|byte| *byte != b';') {
        return Err(Malformed);
    }
    let size = std::str::from_utf8(size).map_err(|_| Malformed)?;
    u64::from_str_radix(size, 16).map_err(|_| Malformed)
}

fn check_trailer(line: &[u8]) -> Result<(), Malformed> {
    let colon = line
        .iter()
        .position(|byte| *byte == b':')
        .ok_or(Malformed)?;
    let name = line.get(..colon).unwrap_or_default();
    if is_token(name) {
        Ok(())
    } else {
        Err(Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `bytes` in pieces of `step`: the body, or where it is malformed or cut.
    fn decode(bytes: &[u8], step: usize) -> Result<(Vec<u8>, usize), &'static str> {
        let (mut decoder, mut pending, mut body) = (Chunked::Size, BytesMut::new(), Vec::new());
        let mut input = bytes.chunks(step);
        loop {
            match decoder.next(&mut pending) {
                Ok(Piece::Data(data)) => body.extend_from_slice(&data),
                Ok(Piece::NeedsMore) => match input.next() {
                    Some(more) => pending.extend_from_slice(more),
                    None => return Err("cut"),
                },
                Ok(Piece::End) => {
                    let rest: usize = input.map(<[u8]>::len).sum();
                    return Ok((body, pending.len() + rest));
                }
                Err(Malformed) => return Err("malformed"),
            }
        }
    }

    #[test]
    fn bodies_decode_the_same_however_they_are_cut() {
        let long = format!("1;{}\r\nx\r\n0\r\n\r\n", "y".repeat(SIZE_LINE_MAX_BYTES));
        let many = format!("0\r\n{}\r\n", "a: b\r\n".repeat(HEADERS_MAX_LINES + 1));
        for (text, expected) in [
            ("0\r\n\r\n", Ok(("", 0))),
            ("4\r\ndata\r\n0\r\n\r\n", Ok(("data", 0))),
            ("4\r\ndata\r\n0\r\n\r\nGET", Ok(("data", 3))), // the next request stays
            ("A\r\n0123456789\r\n00\r\n\r\n", Ok(("0123456789", 0))),
            ("4;a=b;c\r\ndata\r\n0;x\r\n\r\n", Ok(("data", 0))), // extensions
            ("4 ;a\r\ndata\r\n0 \r\n\r\n", Ok(("data", 0))),
            ("1\r\nx\r\n0\r\na: b\r\nc:\r\n\r\n", Ok(("x", 0))), // trailers
            ("zz\r\n", Err("malformed")),
            ("\r\n", Err("malformed")),
            ("-1\r\n", Err("malformed")),
            ("0x4\r\ndata\r\n", Err("malformed")),
            ("11111111111111111\r\n", Err("malformed")), // more than 64 bits
            ("4\ndata\r\n0\r\n\r\n", Err("malformed")),  // bare LF
            ("4\r\ndata\n0\r\n\r\n", Err("malformed")),
            ("4\r\ndataX\r\n", Err("malformed")),
            ("4\r\rdata\r\n", Err("malformed")), // bare CR
            ("4;\x00\r\ndata\r\n", Err("malformed")),
            ("0\r\nno colon\r\n\r\n", Err("malformed")),
            ("0\r\n: x\r\n\r\n", Err("malformed")),
            ("0\r\na: b\n\r\n", Err("malformed")),
            ("4\r\nda", Err("cut")),
            (&long, Err("malformed")),
            (&many, Err("malformed")),
        ] {
            for step in [1, 2, 3, 7, usize::MAX] {
                let decoded = decode(text.as_bytes(), step);
                let expected = expected.map(|(body, rest)| (body.as_bytes().to_vec(), rest));
                let shown = &text[..text.len().min(40)];
                assert_eq!(decoded, expected, "{shown:?} by {step}");
            }
        }
    }
}
