//! Request and response heads: bytes in, header maps out, refused as Istio's sidecars
//! refuse them. Start at [`take_request`].
//!
//! `httparse` reads the lines; what it refuses and Envoy does not is mended first (`repair`),
//! and what it lets through and Envoy does not is refused here. Source: Envoy's HTTP/1
//! codec, RFC 9112.

use std::cell::RefCell;
use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};

use super::length::{self, BodyLength};
use super::repair::repair;

/// Sum of names and values, as Envoy's `max_request_headers_kb` of Istio's default.
pub(crate) const HEADERS_MAX_BYTES: usize = 60 * 1024;
/// Header lines, Envoy's `max_headers_count`.
pub(crate) const HEADERS_MAX_LINES: usize = 100;
/// A head with colon, blank and line end per header, and its first line's other words.
const HEAD_MAX_BYTES: usize = HEADERS_MAX_BYTES + 4 * HEADERS_MAX_LINES + 64;
/// Empty lines before a request line, which RFC 9112 2.2 lets a server skip.
const EMPTY_LINES_MAX_BYTES: usize = 16;
/// Headers that a hop adds; room for them saves growing the map.
const ROOM_FOR_MORE: usize = 3;
/// Emptied maps that a thread keeps for its next heads, and the largest that is kept.
const SPARE_MAPS_MAX: usize = 64;
const SPARE_MAP_MAX_LINES: usize = 48;

thread_local! {
    static SPARE_MAPS: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
}

/// Gives the memory of a map that nobody needs to a later head.
pub(crate) fn recycle(mut headers: HeaderMap) {
    if headers.capacity() > SPARE_MAP_MAX_LINES {
        return;
    }
    headers.clear();
    SPARE_MAPS.with_borrow_mut(|spare| {
        if spare.len() < SPARE_MAPS_MAX {
            spare.push(headers);
        }
    });
}

fn empty_map(lines: usize) -> HeaderMap {
    let spare = SPARE_MAPS.with_borrow_mut(Vec::pop);
    spare.unwrap_or_else(|| HeaderMap::with_capacity(lines + ROOM_FOR_MORE))
}

/// Why bytes are no head that we take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeadError {
    /// Against the grammar.
    #[error("malformed head")]
    Malformed,
    /// Control characters in the target or a value.
    #[error("control characters in the head")]
    InvalidCharacters,
    /// A request line of another HTTP version.
    #[error("not HTTP/1.1")]
    Version,
    /// More than [`HEADERS_MAX_BYTES`].
    #[error("the head is too large")]
    TooLarge,
    /// More than [`HEADERS_MAX_LINES`].
    #[error("the head has too many lines")]
    TooManyLines,
    /// Content-length beside transfer-encoding.
    #[error("content-length beside transfer-encoding")]
    LengthAndChunked,
    /// Transfer-encoding other than one `chunked`.
    #[error("transfer-encoding other than chunked")]
    TransferEncoding,
}

/// A request's head, of HTTP/1.1 or HTTP/2.
#[derive(Debug, Clone)]
pub(crate) struct RequestHead {
    /// As received.
    pub(crate) version: Version,
    /// Any token.
    pub(crate) method: Method,
    /// Path and query as received, or `*`; empty where there is none (CONNECT).
    pub(crate) target: Bytes,
    /// The target's own authority (absolute form, CONNECT), or `:authority`.
    pub(crate) authority: Option<HeaderValue>,
    /// All lines.
    pub(crate) headers: HeaderMap,
}

impl RequestHead {
    /// The target as text: only printable ASCII comes this far.
    pub(crate) fn target_text(&self) -> &str {
        std::str::from_utf8(&self.target).unwrap_or_default()
    }
}

/// What a head says about its message and connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Framing {
    /// Of the body.
    pub(crate) length: BodyLength,
    /// The connection may serve another message.
    pub(crate) keeps_alive: bool,
}

/// A response's head.
#[derive(Debug, Clone)]
pub(crate) struct ResponseHead {
    /// Status.
    pub(crate) status: StatusCode,
    /// All lines.
    pub(crate) headers: HeaderMap,
    /// Of its body.
    pub(crate) framing: Framing,
}

/// Takes a request head from `pending`; `None` while it is not whole.
///
/// # Errors
/// Bytes that are no head, as soon as that is clear.
pub(crate) fn take_request(
    pending: &mut BytesMut,
) -> Result<Option<(RequestHead, Framing)>, HeadError> {
    skip_empty_lines(pending)?;
    take(pending, parse_request)
}

/// Takes the head of a response to a request with this method; `None` while it is not whole.
///
/// # Errors
/// Bytes that are no head.
pub(crate) fn take_response(
    pending: &mut BytesMut,
    method: &Method,
) -> Result<Option<ResponseHead>, HeadError> {
    take(pending, |head| parse_response(head, method))
}

/// What reading a head gives: the head, why it is refused, or why it cannot be read.
type Parsed<T> = Result<Result<T, HeadError>, httparse::Error>;

fn parse_request(head: &Bytes) -> Parsed<(RequestHead, Framing)> {
    let mut lines = [const { MaybeUninit::uninit() }; HEADERS_MAX_LINES];
    let mut request = httparse::Request::new(&mut []);
    let status = request.parse_with_uninit_headers(head, &mut lines)?;
    Ok(check_whole(status, head).and_then(|()| request_of(head, &request)))
}

fn request_of(
    head: &Bytes,
    request: &httparse::Request<'_, '_>,
) -> Result<(RequestHead, Framing), HeadError> {
    let (Some(method), Some(target), Some(version)) =
        (request.method, request.path, request.version)
    else {
        return Err(HeadError::Malformed);
    };
    check_target(target.as_bytes())?;
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| HeadError::Malformed)?;
    let (authority, target) = split_target(head, target, &method)?;
    let (headers, named) = header_map(head, request.headers, target.len())?;
    let version = version_of(version);
    let framing = Framing {
        length: match named.length {
            true => length::of_request(&headers)?,
            false => BodyLength::Empty,
        },
        // What follows a CONNECT may be meant for its tunnel.
        keeps_alive: keeps_alive(version, &headers, named) && method != Method::CONNECT,
    };
    let head = RequestHead {
        version,
        method,
        target,
        authority,
        headers,
    };
    Ok((head, framing))
}

fn parse_response(head: &Bytes, method: &Method) -> Parsed<ResponseHead> {
    let mut lines = [const { MaybeUninit::uninit() }; HEADERS_MAX_LINES];
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let status = config.parse_response_with_uninit_headers(&mut response, head, &mut lines)?;
    Ok(check_whole(status, head).and_then(|()| response_of(head, &response, method)))
}

fn response_of(
    head: &Bytes,
    response: &httparse::Response<'_, '_>,
    method: &Method,
) -> Result<ResponseHead, HeadError> {
    let (Some(code), Some(version)) = (response.code, response.version) else {
        return Err(HeadError::Malformed);
    };
    let status = StatusCode::from_u16(code).map_err(|_| HeadError::Malformed)?;
    let (headers, named) = header_map(head, response.headers, 0)?;
    let version = version_of(version);
    let length = length::of_response(method, status, version, &headers)?;
    let keeps_alive = keeps_alive(version, &headers, named) && length != BodyLength::UntilClose;
    Ok(ResponseHead {
        status,
        headers,
        framing: Framing {
            length,
            keeps_alive,
        },
    })
}

fn keeps_alive(version: Version, headers: &HeaderMap, named: Named) -> bool {
    match (named.connection, version) {
        (false, Version::HTTP_11) => true,
        _ => length::keeps_alive(version, headers),
    }
}

fn version_of(minor: u8) -> Version {
    match minor {
        0 => Version::HTTP_10,
        _ => Version::HTTP_11,
    }
}

fn skip_empty_lines(pending: &mut BytesMut) -> Result<(), HeadError> {
    let is_line_end = |byte: &&u8| matches!(**byte, b'\r' | b'\n');
    let empty = pending.iter().take_while(is_line_end).count();
    if empty > EMPTY_LINES_MAX_BYTES {
        return Err(HeadError::Malformed);
    }
    if empty < pending.len() {
        pending.advance(empty);
    }
    Ok(())
}

/// Takes and reads everything up to the empty line, mended where Envoy would take it.
fn take<T>(
    pending: &mut BytesMut,
    parse: impl Fn(&Bytes) -> Parsed<T>,
) -> Result<Option<T>, HeadError> {
    let Some(len) = head_len(pending) else {
        if pending.len() > HEAD_MAX_BYTES {
            return Err(HeadError::TooLarge);
        }
        return match is_hopeless(pending, parse) {
            Some(error) => Err(error),
            None => Ok(None),
        };
    };
    if len > HEAD_MAX_BYTES {
        return Err(HeadError::TooLarge);
    }
    let head = pending.split_to(len).freeze();
    let error = match parse(&head) {
        Ok(read) => return read.map(Some),
        Err(error) => error,
    };
    let Some(repaired) = repair(&head) else {
        return Err(reason(error, &head));
    };
    let repaired = Bytes::from(repaired);
    match parse(&repaired) {
        Ok(read) => read.map(Some),
        Err(error) => Err(reason(error, &repaired)),
    }
}

/// Why a part of a head never becomes one; only a whole line can be wrong for good.
fn is_hopeless<T>(part: &[u8], parse: impl Fn(&Bytes) -> Parsed<T>) -> Option<HeadError> {
    memchr::memchr(b'\n', part)?;
    let part = Bytes::copy_from_slice(part);
    let error = parse(&part).err()?;
    repair(&part).is_none().then(|| reason(error, &part))
}

/// Bytes up to and with the empty line that ends a head.
fn head_len(bytes: &[u8]) -> Option<usize> {
    memchr::memchr_iter(b'\n', bytes).find_map(|at| match bytes.get(at + 1..) {
        Some([b'\n', ..]) => Some(at + 2),
        Some([b'\r', b'\n', ..]) => Some(at + 3),
        Some(_) | None => None,
    })
}

/// The parser must see the same end as we do: two readings of one head may be smuggling.
fn check_whole(status: httparse::Status<usize>, head: &[u8]) -> Result<(), HeadError> {
    match status {
        httparse::Status::Complete(len) if len == head.len() => Ok(()),
        httparse::Status::Complete(_) | httparse::Status::Partial => Err(HeadError::Malformed),
    }
}

fn reason(error: httparse::Error, head: &[u8]) -> HeadError {
    match error {
        httparse::Error::TooManyHeaders => HeadError::TooManyLines,
        httparse::Error::Version if names_other_version(head) => HeadError::Version,
        httparse::Error::HeaderName
        | httparse::Error::HeaderValue
        | httparse::Error::NewLine
        | httparse::Error::Status
        | httparse::Error::Token
        | httparse::Error::Version => {
            if has_control_character(head) {
                HeadError::InvalidCharacters
            } else {
                HeadError::Malformed
            }
        }
    }
}

/// A request line whose third and last word is `HTTP/` and two digits around a dot.
fn names_other_version(head: &[u8]) -> bool {
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut words = line.split(|byte| *byte == b' ').skip(2);
    let (version, more) = (words.next(), words.next());
    let digits = version.and_then(|version| version.strip_prefix(b"HTTP/"));
    more.is_none() && matches!(digits, Some([b'0'..=b'9', b'.', b'0'..=b'9']))
}

/// In the target or a value; in a name or method it is one malformed token among others.
fn has_control_character(head: &[u8]) -> bool {
    let mut lines = head.split(|byte| *byte == b'\n');
    let is_control = |byte: &u8| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f;
    let request_line = lines.next().unwrap_or_default();
    let request_line = request_line.strip_suffix(b"\r").unwrap_or(request_line);
    let mut words = request_line.splitn(2, |byte| *byte == b' ');
    let (method, rest) = (words.next().unwrap_or_default(), words.next());
    if is_token(method) && rest.is_some_and(|rest| rest.iter().any(is_control)) {
        return true;
    }
    lines.any(|line| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (name, value) = (parts.next().unwrap_or_default(), parts.next());
        is_token(name) && value.is_some_and(|value| value.iter().any(is_control))
    })
}

/// RFC 9110, 5.6.2.
pub(super) fn is_token(text: &[u8]) -> bool {
    !text.is_empty()
        && text
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

fn check_target(target: &[u8]) -> Result<(), HeadError> {
    if target.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        return Ok(());
    }
    if target.iter().any(u8::is_ascii_control) {
        return Err(HeadError::InvalidCharacters);
    }
    Err(HeadError::Malformed)
}

/// The forms of RFC 9112 3.2: authority and path of a request target.
fn split_target(
    head: &Bytes,
    target: &str,
    method: &Method,
) -> Result<(Option<HeaderValue>, Bytes), HeadError> {
    let value = |text: &str| {
        HeaderValue::from_maybe_shared(head.slice_ref(text.as_bytes()))
            .map_err(|_| HeadError::Malformed)
    };
    if *method == Method::CONNECT {
        return Ok((Some(value(target)?), Bytes::new()));
    }
    if target.starts_with('/') || target == "*" {
        return Ok((None, head.slice_ref(target.as_bytes())));
    }
    let has_scheme = |scheme: &str| {
        let start = target.as_bytes().get(..scheme.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(scheme.as_bytes()))
    };
    let rest = match (has_scheme("http://"), has_scheme("https://")) {
        (true, _) => target.get("http://".len()..),
        (_, true) => target.get("https://".len()..),
        (false, false) => None,
    };
    let rest = rest.ok_or(HeadError::Malformed)?;
    let (authority, path) = match rest.find(['/', '?', '#']) {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    if authority.is_empty() {
        return Err(HeadError::Malformed);
    }
    let path = if path.starts_with('/') {
        head.slice_ref(path.as_bytes())
    } else {
        Bytes::from(format!("/{path}"))
    };
    Ok((Some(value(authority)?), path))
}

/// Headers that a head has, so that most need not be looked for.
#[derive(Debug, Clone, Copy, Default)]
struct Named {
    /// Content-length or transfer-encoding.
    length: bool,
    connection: bool,
}

/// Copies no value: each is a slice of the head.
fn header_map(
    head: &Bytes,
    lines: &[httparse::Header<'_>],
    target_len_bytes: usize,
) -> Result<(HeaderMap, Named), HeadError> {
    let mut headers = empty_map(lines.len());
    let mut named = Named::default();
    let mut bytes = target_len_bytes;
    for line in lines {
        bytes += line.name.len() + line.value.len();
        let name =
            HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| HeadError::Malformed)?;
        match line.name.len() {
            10 => named.connection |= name == CONNECTION,
            14 => named.length |= name == CONTENT_LENGTH,
            17 => named.length |= name == TRANSFER_ENCODING,
            _ => {}
        }
        let value = if line.value.is_empty() {
            HeaderValue::from_static("")
        } else {
            HeaderValue::from_maybe_shared(head.slice_ref(line.value))
                .map_err(|_| HeadError::InvalidCharacters)?
        };
        headers.append(name, value);
    }
    if bytes > HEADERS_MAX_BYTES {
        return Err(HeadError::TooLarge);
    }
    Ok((headers, named))
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
