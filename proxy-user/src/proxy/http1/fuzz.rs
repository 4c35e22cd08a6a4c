//! The entry of fuzzers: foreign bytes through every parser of this module.

use bytes::BytesMut;
use http::Method;

use super::body::{BodyLength, Decoder, Piece};
use super::head::{RequestHead, take_request, take_response};

/// Reads `bytes` as requests one after the other, as a response and as a chunked body;
/// gives the first request.
///
/// # Panics
/// If a body reads differently when it comes byte by byte.
pub(crate) fn read_all(bytes: &[u8]) -> Option<RequestHead> {
    let mut pending = BytesMut::from(bytes);
    let mut first = None;
    while let Ok(Some((head, framing))) = take_request(&mut pending) {
        first.get_or_insert(head);
        if read_body(Decoder::new(framing.length), &mut pending).is_none() {
            break;
        }
    }
    let mut pending = BytesMut::from(bytes);
    if let Ok(Some(head)) = take_response(&mut pending, &Method::GET) {
        read_body(Decoder::new(head.framing.length), &mut pending);
    }
    let whole = read_body(
        Decoder::new(BodyLength::Chunked),
        &mut BytesMut::from(bytes),
    );
    assert_eq!(whole, read_byte_by_byte(bytes), "one body, two readings");
    first
}

/// The whole body; `None` if it is cut or malformed.
fn read_body(mut decoder: Decoder, pending: &mut BytesMut) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        match decoder.next(pending).ok()? {
            Piece::Data(data) => body.extend_from_slice(&data),
            Piece::End => return Some(body),
            Piece::NeedsMore => return None,
        }
        decoder.settle(pending).ok()?;
    }
}

fn read_byte_by_byte(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut decoder = Decoder::new(BodyLength::Chunked);
    let (mut pending, mut body) = (BytesMut::new(), Vec::new());
    let mut input = bytes.iter();
    loop {
        match decoder.next(&mut pending).ok()? {
            Piece::Data(data) => body.extend_from_slice(&data),
            Piece::End => return Some(body),
            Piece::NeedsMore => pending.extend_from_slice(&[*input.next()?]),
        }
    }
}
