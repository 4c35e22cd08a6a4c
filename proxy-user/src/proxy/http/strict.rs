//! What is refused before any route is looked at.
//!
//! Works on a head that was read; what is no head at all ([`HeadError`]) is refused with
//! the same words. The codes are those of Envoy's HTTP/1 codec (Envoy documentation,
//! "Response code details"). Start at [`check`].

use http::header::HOST;
use http::{HeaderValue, Method, StatusCode, Version};

use super::local_reply::LocalReply;
use super::normalize::PathRefusal;
use crate::proxy::http1::head::{HEADERS_MAX_BYTES, HEADERS_MAX_LINES, HeadError, RequestHead};
use crate::telemetry::ResponseFlags;

/// Why a head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No Host line and no `:authority`.
    MissingHost,
    /// Host with a blank, a non-ASCII byte or a delimiter.
    InvalidAuthority,
    /// Older than HTTP/1.1.
    LowVersion,
    /// More bytes than [`HEADERS_MAX_BYTES`].
    HeadersTooLarge,
    /// More lines than [`HEADERS_MAX_LINES`].
    TooManyHeaders,
    /// Against the grammar, two content-length lines, an unknown method, ...
    Codec,
    /// Control characters in the target or a value.
    InvalidCharacters,
    /// Content-length beside transfer-encoding.
    LengthAndChunked,
    /// Transfer-encoding other than one `chunked`.
    TransferEncoding,
    /// `%00` in the path.
    PathNormalization,
    /// `*` as the path.
    AbsolutePath,
}

impl From<PathRefusal> for Refusal {
    fn from(refusal: PathRefusal) -> Self {
        match refusal {
            PathRefusal::NormalizationFailed => Self::PathNormalization,
            PathRefusal::AbsolutePathRejected => Self::AbsolutePath,
        }
    }
}

impl From<HeadError> for Refusal {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::Malformed => Self::Codec,
            HeadError::InvalidCharacters => Self::InvalidCharacters,
            HeadError::Version => Self::LowVersion,
            HeadError::TooLarge => Self::HeadersTooLarge,
            HeadError::TooManyLines => Self::TooManyHeaders,
            HeadError::LengthAndChunked => Self::LengthAndChunked,
            HeadError::TransferEncoding => Self::TransferEncoding,
        }
    }
}

impl Refusal {
    /// The answer; the connection ends with it, except where only the path is at fault.
    pub(crate) fn reply(self) -> LocalReply {
        let none = ResponseFlags::default();
        let dpe = ResponseFlags::DPE;
        let too_large = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        let (status, body, flags, details) = match self {
            Self::MissingHost => (StatusCode::BAD_REQUEST, "", none, "missing_host_header"),
            Self::PathNormalization => (
                StatusCode::BAD_REQUEST,
                "",
                none,
                "path_normalization_failed",
            ),
            Self::AbsolutePath => (StatusCode::NOT_FOUND, "", none, "absolute_path_rejected"),
            Self::InvalidAuthority => (
                StatusCode::BAD_REQUEST,
                "Bad Request",
                dpe,
                "http.invalid_authority",
            ),
            Self::LowVersion => (
                StatusCode::UPGRADE_REQUIRED,
                "Upgrade Required",
                dpe,
                "low_version",
            ),
            Self::HeadersTooLarge => (
                too_large,
                "Request Header Fields Too Large",
                dpe,
                "http1.headers_too_large",
            ),
            Self::TooManyHeaders => (
                too_large,
                "Request Header Fields Too Large",
                dpe,
                "http1.too_many_headers",
            ),
            Self::Codec => (
                StatusCode::BAD_REQUEST,
                "Bad Request",
                dpe,
                "http1.codec_error",
            ),
            Self::InvalidCharacters => (
                StatusCode::BAD_REQUEST,
                "Bad Request",
                dpe,
                "http1.invalid_characters",
            ),
            Self::LengthAndChunked => (
                StatusCode::BAD_REQUEST,
                "Bad Request",
                dpe,
                "http1.content_length_and_chunked_not_allowed",
            ),
            Self::TransferEncoding => (
                StatusCode::NOT_IMPLEMENTED,
                "Not Implemented",
                dpe,
                "http1.invalid_transfer_encoding",
            ),
        };
        LocalReply {
            closes: !matches!(self, Self::PathNormalization | Self::AbsolutePath),
            ..LocalReply::new(status, body, flags, details)
        }
    }
}

/// Checks the head, and gives the authority that routing uses (the target's own, else
/// Host; several Host lines joined with `,`).
///
/// # Errors
/// The first reason for which the head is refused.
pub(crate) fn check(head: &RequestHead) -> Result<HeaderValue, Refusal> {
    if head.version != Version::HTTP_2 {
        if head.version != Version::HTTP_11 {
            return Err(Refusal::LowVersion);
        }
        if !is_known_method(&head.method) {
            return Err(Refusal::Codec);
        }
        // Reading the head has counted its lines and bytes.
        return authority(head);
    }
    if head.headers.len() > HEADERS_MAX_LINES {
        return Err(Refusal::TooManyHeaders);
    }
    let bytes: usize = head
        .headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    if bytes > HEADERS_MAX_BYTES {
        return Err(Refusal::HeadersTooLarge);
    }
    authority(head)
}

fn authority(head: &RequestHead) -> Result<HeaderValue, Refusal> {
    if let Some(authority) = &head.authority {
        valid_authority(authority.as_bytes())?;
        return Ok(authority.clone());
    }
    let mut lines = head.headers.get_all(HOST).iter();
    let Some(first) = lines.next() else {
        return Err(Refusal::MissingHost);
    };
    let mut joined = String::new();
    let first_text = valid_authority(first.as_bytes())?;
    for line in lines {
        if joined.is_empty() {
            joined.push_str(first_text);
        }
        joined.push(',');
        joined.push_str(valid_authority(line.as_bytes())?);
    }
    if joined.is_empty() {
        return Ok(first.clone());
    }
    HeaderValue::try_from(joined).map_err(|_| Refusal::InvalidAuthority)
}

fn valid_authority(value: &[u8]) -> Result<&str, Refusal> {
    let is_bad = |byte: &u8| {
        !(b'!'..=b'~').contains(byte)
            || matches!(byte, b'/' | b'?' | b'#' | b'\\' | b'"' | b'<' | b'>')
    };
    if value.iter().any(is_bad) {
        return Err(Refusal::InvalidAuthority);
    }
    std::str::from_utf8(value).map_err(|_| Refusal::InvalidAuthority)
}

/// The IANA HTTP Method Registry, as Envoy's HTTP/1 codec accepts it.
fn is_known_method(method: &Method) -> bool {
    matches!(
        method.as_str(),
        "GET"
            | "POST"
            | "PUT"
            | "DELETE"
            | "HEAD"
            | "OPTIONS"
            | "PATCH"
            | "CONNECT"
            | "TRACE"
            | "ACL"
            | "BASELINE-CONTROL"
            | "BIND"
            | "CHECKIN"
            | "CHECKOUT"
            | "COPY"
            | "LABEL"
            | "LINK"
            | "LOCK"
            | "MERGE"
            | "MKACTIVITY"
            | "MKCALENDAR"
            | "MKCOL"
            | "MKREDIRECTREF"
            | "MKWORKSPACE"
            | "MOVE"
            | "ORDERPATCH"
            | "PRI"
            | "PROPFIND"
            | "PROPPATCH"
            | "REBIND"
            | "REPORT"
            | "SEARCH"
            | "UNBIND"
            | "UNCHECKOUT"
            | "UNLINK"
            | "UNLOCK"
            | "UPDATE"
            | "UPDATEREDIRECTREF"
            | "VERSION-CONTROL"
    )
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::proxy::http1::head::take_request;

    fn head(method: &str, target: &str, headers: &[(&str, &str)]) -> RequestHead {
        let mut text = format!("{method} {target} HTTP/1.1\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        let (head, _) = take_request(&mut BytesMut::from(text.as_bytes()))
            .expect("a good head")
            .expect("a whole head");
        head
    }

    #[test]
    fn malformed_heads_are_refused_with_their_reason() {
        let host = ("host", "a");
        for (name, head, expected) in [
            ("no Host", head("GET", "/", &[]), Refusal::MissingHost),
            (
                "blank in Host",
                head("GET", "/", &[("host", "a b")]),
                Refusal::InvalidAuthority,
            ),
            (
                "slash in Host",
                head("GET", "/", &[("host", "a/b")]),
                Refusal::InvalidAuthority,
            ),
            ("unknown method", head("FOO", "/", &[host]), Refusal::Codec),
            (
                "A068: lower-case method",
                head("get", "/", &[host]),
                Refusal::Codec,
            ),
            ("M-SEARCH", head("M-SEARCH", "/", &[host]), Refusal::Codec),
        ] {
            assert_eq!(check(&head).err(), Some(expected), "{name}");
        }
        let mut old = head("GET", "/", &[host]);
        old.version = Version::HTTP_10;
        assert_eq!(check(&old).err(), Some(Refusal::LowVersion));
    }

    #[test]
    fn size_limits_are_those_of_envoy() {
        let mut many = head("GET", "/", &[("host", "a")]);
        many.version = Version::HTTP_2;
        for _ in 0..99 {
            many.headers.append("x", "y".parse().expect("value"));
        }
        assert!(check(&many).is_ok()); // exactly 100 lines
        many.headers.append("x", "y".parse().expect("value"));
        assert_eq!(check(&many).err(), Some(Refusal::TooManyHeaders));
        let mut large = head("GET", "/", &[("host", "a")]);
        large.version = Version::HTTP_2;
        let value = "y".repeat(HEADERS_MAX_BYTES);
        large.headers.append("x", value.parse().expect("value"));
        assert_eq!(check(&large).err(), Some(Refusal::HeadersTooLarge));
    }

    #[test]
    fn the_authority_is_the_targets_own_else_host() {
        for (head, expected) in [
            (head("GET", "/", &[("host", "a:80")]), "a:80"),
            (head("GET", "http://b/x", &[("host", "a")]), "b"), // absolute form replaces Host
            (head("GET", "/", &[("host", "a"), ("host", "a")]), "a,a"), // joined, matches only `*`
            (head("GET", "/", &[("host", "")]), ""),
            (head("GET", "/", &[("host", "u@%_,x")]), "u@%_,x"),
            (
                head(
                    "POST",
                    "/",
                    &[("host", "a"), ("transfer-encoding", "Chunked")],
                ),
                "a",
            ),
            (head("OPTIONS", "*", &[("host", "a")]), "a"), // refused later, as a path
        ] {
            assert_eq!(check(&head).expect("accepted"), expected);
        }
    }

    #[test]
    fn refusals_carry_the_reason_phrase_and_close() {
        for (refusal, status, body, flags) in [
            (Refusal::MissingHost, 400, "", "-"),
            (Refusal::InvalidAuthority, 400, "Bad Request", "DPE"),
            (Refusal::LowVersion, 426, "Upgrade Required", "DPE"),
            (Refusal::TransferEncoding, 501, "Not Implemented", "DPE"),
            (Refusal::LengthAndChunked, 400, "Bad Request", "DPE"),
            (Refusal::InvalidCharacters, 400, "Bad Request", "DPE"),
            (
                Refusal::TooManyHeaders,
                431,
                "Request Header Fields Too Large",
                "DPE",
            ),
            (Refusal::PathNormalization, 400, "", "-"),
            (Refusal::AbsolutePath, 404, "", "-"),
        ] {
            let reply = refusal.reply();
            assert_eq!(reply.status.as_u16(), status, "{refusal:?}");
            assert_eq!(reply.body, body, "{refusal:?}");
            assert_eq!(reply.flags.text(), flags, "{refusal:?}");
            let is_about_path = flags == "-" && refusal != Refusal::MissingHost;
            assert_eq!(reply.closes, !is_about_path, "{refusal:?}");
        }
    }
}
