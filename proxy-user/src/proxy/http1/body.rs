//! Bodies of any length, decoded. Pure: bytes in, pieces out.

use bytes::{Bytes, BytesMut};

use super::chunked::Chunked;
pub(crate) use super::length::BodyLength;

/// Not the body that its head had announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed chunked body")]
pub(crate) struct Malformed;

/// What a decoder found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Bytes of the body, at least one.
    Data(Bytes),
    /// Nothing before more bytes come.
    NeedsMore,
    /// The body is whole.
    End,
}

/// Reads one body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decoder {
    /// So many bytes are left.
    Exact(u64),
    /// By chunks.
    Chunked(ChunkedBody),
    /// Until the peer closes.
    UntilClose,
}

/// A chunked body under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChunkedBody(Chunked);

impl Decoder {
    /// For a body of this length.
    pub(crate) fn new(length: BodyLength) -> Self {
        match length {
            BodyLength::Empty => Self::Exact(0),
            BodyLength::Exact(left) => Self::Exact(left),
            BodyLength::Chunked => Self::Chunked(ChunkedBody(Chunked::Size)),
            BodyLength::UntilClose => Self::UntilClose,
        }
    }

    /// The next piece, taken from `pending`.
    ///
    /// # Errors
    /// [`Malformed`].
    pub(crate) fn next(&mut self, pending: &mut BytesMut) -> Result<Piece, Malformed> {
        match self {
            Self::Exact(0) => Ok(Piece::End),
            Self::Exact(_) | Self::UntilClose if pending.is_empty() => Ok(Piece::NeedsMore),
            Self::Exact(left) => {
                let len =
                    usize::try_from(*left).map_or(pending.len(), |left| left.min(pending.len()));
                *left -= len as u64;
                Ok(Piece::Data(pending.split_to(len).freeze()))
            }
            Self::UntilClose => Ok(Piece::Data(pending.split().freeze())),
            Self::Chunked(body) => body.0.next(pending),
        }
    }

    /// Reads an end that has already come, so that the last piece is known as such.
    ///
    /// # Errors
    /// [`Malformed`].
    pub(crate) fn settle(&mut self, pending: &mut BytesMut) -> Result<(), Malformed> {
        match self {
            Self::Chunked(body) => body.0.skip_framing(pending),
            Self::Exact(_) | Self::UntilClose => Ok(()),
        }
    }

    /// The peer has closed: whether the body is whole by that.
    pub(crate) fn ends_with_connection(self) -> bool {
        self == Self::UntilClose
    }

    /// Every byte was read.
    pub(crate) fn is_done(self) -> bool {
        match self {
            Self::Exact(left) => left == 0,
            Self::Chunked(body) => body.0.is_done(),
            Self::UntilClose => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_bodies_leave_what_follows() {
        let mut pending = BytesMut::from(&b"dataGET"[..]);
        let mut decoder = Decoder::new(BodyLength::Exact(4));
        let data = Piece::Data(Bytes::from_static(b"data"));
        assert_eq!(decoder.next(&mut pending), Ok(data));
        assert!(decoder.is_done());
        assert_eq!(decoder.next(&mut pending), Ok(Piece::End));
        assert_eq!(&pending[..], b"GET");
    }

    #[test]
    fn the_end_of_a_chunked_body_is_seen_with_its_last_piece() {
        for (rest, expected) in [
            ("\r\n0\r\n\r\n", Ok(true)),
            ("\r\n0\r\n", Ok(false)),
            ("\r\n2\r\nab", Ok(false)),
            ("", Ok(false)),
            ("x", Err(Malformed)),
        ] {
            let mut pending = BytesMut::from(&b"1\r\nx"[..]);
            let mut decoder = Decoder::new(BodyLength::Chunked);
            let data = Piece::Data(Bytes::from_static(b"x"));
            assert_eq!(decoder.next(&mut pending), Ok(data));
            pending.extend_from_slice(rest.as_bytes());
            let settled = decoder.settle(&mut pending);
            assert_eq!(settled.map(|()| decoder.is_done()), expected, "{rest:?}");
        }
    }
}
