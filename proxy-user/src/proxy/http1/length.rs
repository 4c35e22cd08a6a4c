//! How long a message's body is, by its head (RFC 9112 section 6), as strictly as Envoy.

use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Method, StatusCode, Version};

use super::head::HeadError;

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyLength {
    /// No body.
    Empty,
    /// So many bytes.
    Exact(u64),
    /// `transfer-encoding: chunked`.
    Chunked,
    /// Until the connection ends; responses only.
    UntilClose,
}

/// Of a request.
///
/// # Errors
/// Lengths that are malformed or contradict each other.
pub(crate) fn of_request(headers: &HeaderMap) -> Result<BodyLength, HeadError> {
    Ok(declared(headers)?.unwrap_or(BodyLength::Empty))
}

/// Of the response to a request with this method.
///
/// # Errors
/// As for requests.
pub(crate) fn of_response(
    method: &Method,
    status: StatusCode,
    version: Version,
    headers: &HeaderMap,
) -> Result<BodyLength, HeadError> {
    let has_none = status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || *method == Method::HEAD;
    if has_none {
        return Ok(BodyLength::Empty);
    }
    match declared(headers)? {
        // RFC 9112, 6.1: HTTP/1.0 has no transfer codings; a proxy before us may have guessed.
        Some(BodyLength::Chunked) if version == Version::HTTP_10 => Err(HeadError::Malformed),
        Some(length) => Ok(length),
        None => Ok(BodyLength::UntilClose),
    }
}

fn declared(headers: &HeaderMap) -> Result<Option<BodyLength>, HeadError> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = match (lengths.next(), lengths.next()) {
        (None, _) => None,
        (Some(line), None) => Some(parse_length(line.as_bytes())?),
        (Some(_), Some(_)) => return Err(HeadError::Malformed),
    };
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else {
        return Ok(length.map(|length| match length {
            0 => BodyLength::Empty,
            length => BodyLength::Exact(length),
        }));
    };
    // RFC 9112, 6.3: two lengths in one message may be smuggling; refuse, never guess.
    if length.is_some() {
        return Err(HeadError::LengthAndChunked);
    }
    if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Err(HeadError::TransferEncoding);
    }
    Ok(Some(BodyLength::Chunked))
}

/// Digits only: no sign, no list, not empty.
fn parse_length(text: &[u8]) -> Result<u64, HeadError> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(HeadError::Malformed);
    }
    let text = std::str::from_utf8(text).map_err(|_| HeadError::Malformed)?;
    text.parse().map_err(|_| HeadError::Malformed)
}

/// Whether the connection may serve another message after this one (RFC 9112 section 9.3).
pub(crate) fn keeps_alive(version: Version, headers: &HeaderMap) -> bool {
    if version == Version::HTTP_10 {
        return names(headers, "keep-alive") && !names(headers, "close");
    }
    !names(headers, "close")
}

fn names(headers: &HeaderMap, token: &str) -> bool {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &'static str)| {
            let value = HeaderValue::from_static(value);
            (HeaderName::from_static(name), value)
        };
        lines.iter().map(line).collect()
    }

    #[test]
    fn requests_say_one_length_or_none() {
        const CL: &str = "content-length";
        const TE: &str = "transfer-encoding";
        use HeadError::{LengthAndChunked, Malformed, TransferEncoding};
        for (lines, expected) in [
            (&[][..], Ok(BodyLength::Empty)),
            (&[(CL, "0")], Ok(BodyLength::Empty)),
            (&[(CL, "12")], Ok(BodyLength::Exact(12))),
            (&[(CL, "1"), (CL, "1")], Err(Malformed)), // even equal
            (&[(CL, "1,1")], Err(Malformed)),
            (&[(CL, "+1")], Err(Malformed)),
            (&[(CL, "-1")], Err(Malformed)),
            (&[(CL, "")], Err(Malformed)),
            (&[(CL, "0x1")], Err(Malformed)),
            (&[(CL, "99999999999999999999")], Err(Malformed)),
            (&[(TE, "chunked")], Ok(BodyLength::Chunked)),
            (&[(TE, "Chunked")], Ok(BodyLength::Chunked)),
            (&[(TE, "gzip, chunked")], Err(TransferEncoding)),
            (&[(TE, "identity")], Err(TransferEncoding)),
            (&[(TE, "")], Err(TransferEncoding)),
            (&[(TE, "chunked"), (TE, "chunked")], Err(TransferEncoding)),
            (&[(CL, "1"), (TE, "chunked")], Err(LengthAndChunked)),
            (&[(CL, "1"), (TE, "gzip")], Err(LengthAndChunked)),
        ] {
            assert_eq!(of_request(&headers(lines)), expected, "{lines:?}");
        }
    }

    #[test]
    fn responses_may_end_with_the_connection_and_some_have_no_body() {
        let length = &[("content-length", "5")][..];
        let chunked = &[("transfer-encoding", "chunked")][..];
        for (method, status, version, lines, expected) in [
            (
                Method::GET,
                200,
                Version::HTTP_11,
                length,
                Ok(BodyLength::Exact(5)),
            ),
            (
                Method::HEAD,
                200,
                Version::HTTP_11,
                length,
                Ok(BodyLength::Empty),
            ),
            (
                Method::GET,
                304,
                Version::HTTP_11,
                length,
                Ok(BodyLength::Empty),
            ),
            (
                Method::GET,
                204,
                Version::HTTP_11,
                &[],
                Ok(BodyLength::Empty),
            ),
            (
                Method::GET,
                103,
                Version::HTTP_11,
                &[],
                Ok(BodyLength::Empty),
            ),
            (
                Method::GET,
                200,
                Version::HTTP_11,
                chunked,
                Ok(BodyLength::Chunked),
            ),
            (
                Method::GET,
                200,
                Version::HTTP_10,
                chunked,
                Err(HeadError::Malformed),
            ),
            (
                Method::GET,
                200,
                Version::HTTP_11,
                &[],
                Ok(BodyLength::UntilClose),
            ),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            let found = of_response(&method, status, version, &headers(lines));
            assert_eq!(found, expected, "{method} {status} {lines:?}");
        }
    }

    #[test]
    fn close_ends_http_1_1_and_its_absence_http_1_0() {
        for (version, value, expected) in [
            (Version::HTTP_11, "keep-alive", true),
            (Version::HTTP_11, "x, Close", false),
            (Version::HTTP_10, "x", false),
            (Version::HTTP_10, "Keep-Alive", true),
        ] {
            let headers = headers(&[("connection", value)]);
            assert_eq!(keeps_alive(version, &headers), expected, "{value}");
        }
        assert!(keeps_alive(Version::HTTP_11, &HeaderMap::new()));
        assert!(!keeps_alive(Version::HTTP_10, &HeaderMap::new()));
    }
}
