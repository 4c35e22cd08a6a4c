use super::*;

fn request(text: impl AsRef<[u8]>) -> Result<Option<(RequestHead, Framing)>, HeadError> {
    take_request(&mut BytesMut::from(text.as_ref()))
}

/// What upstream would read of one request: its authority, target and one header.
fn read(text: &[u8]) -> Result<String, HeadError> {
    let (head, framing) = request(text)?.expect("a whole head");
    let authority = head
        .authority
        .as_ref()
        .map_or("-", |value| value.to_str().unwrap_or("?"));
    let value = head.headers.get("x").map_or("-".into(), |value| {
        String::from_utf8_lossy(value.as_bytes())
    });
    Ok(format!(
        "{authority} {} {value} {:?}",
        head.target_text(),
        framing.length
    ))
}

/// Rows of Envoy's HTTP/1 codec as Istio's sidecars configure it.
#[test]
fn request_heads_are_read_or_refused_as_envoy_does() {
    use HeadError::*;
    let accepted: &[(&[u8], &str)] = &[
        (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", "- / - Empty"),
        (b"\r\n\r\nGET / HTTP/1.1\r\n\r\n", "- / - Empty"), // empty lines first
        (b"GET / HTTP/1.1\nx: 1\n\n", "- / 1 Empty"),       // bare LF
        (b"GET / HTTP/1.1\r\nx: a\r\n  b\r\n\r\n", "- / a b Empty"), // obs-fold
        (b"GET / HTTP/1.1\r\nx: a\rb\r\n\r\n", "- / ab Empty"), // bare CR
        (b"GET / HTTP/1.1\r\nx: \xe9\r\n\r\n", "- / \u{fffd} Empty"),
        (b"GET / HTTP/1.1\r\nx:\r\n\r\n", "- /  Empty"),
        (
            b"GET /<>\"{}|`^\\ HTTP/1.1\r\n\r\n",
            "- /<>\"{}|`^\\ - Empty",
        ),
        (b"GET /?<>\" HTTP/1.1\r\n\r\n", "- /?<>\" - Empty"),
        (
            b"GET http://b:1/p?q HTTP/1.1\r\nhost: a\r\n\r\n",
            "b:1 /p?q - Empty",
        ),
        (b"GET HTTPS://b HTTP/1.1\r\n\r\n", "b / - Empty"),
        (b"GET http://b?q HTTP/1.1\r\n\r\n", "b /?q - Empty"),
        (b"OPTIONS * HTTP/1.1\r\n\r\n", "- * - Empty"),
        (b"CONNECT a:1 HTTP/1.1\r\n\r\n", "a:1  - Empty"),
        (
            b"POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc",
            "- / - Exact(3)",
        ),
        (
            b"POST / HTTP/1.1\r\ntransfer-encoding: CHUNKED\r\n\r\n",
            "- / - Chunked",
        ),
        (b"GET / HTTP/1.1\r\nx_y: 1\r\nx: 2\r\n\r\n", "- / 2 Empty"),
    ];
    for (text, expected) in accepted {
        let shown = String::from_utf8_lossy(text);
        assert_eq!(read(text).as_deref(), Ok(*expected), "{shown:?}");
    }
    let refused: &[(&[u8], HeadError)] = &[
        (b"GET / HTTP/1.2\r\n\r\n", Version),
        (b"GET / HTTP/2.0\r\n\r\n", Version),
        (b"GET / HTTP/0.9\r\n\r\n", Version),
        (b"GET / http/1.1\r\n\r\n", Malformed),
        (b"GET /\r\n\r\n", Malformed),
        (b"GET / a HTTP/1.1\r\n\r\n", Malformed), // blank in the target
        (b"GET /\xc3\xa4 HTTP/1.1\r\n\r\n", Malformed),
        (b"GET a HTTP/1.1\r\n\r\n", Malformed), // no leading slash
        (b"GET a:80 HTTP/1.1\r\n\r\n", Malformed),
        (b"GET ftp://a/ HTTP/1.1\r\n\r\n", Malformed),
        (b"GET http:///x HTTP/1.1\r\n\r\n", Malformed),
        (b"G\x01T / HTTP/1.1\r\n\r\n", Malformed),
        (b"GET /\x00 HTTP/1.1\r\n\r\n", InvalidCharacters),
        (b"GET /\x7f HTTP/1.1\r\n\r\n", InvalidCharacters),
        (b"GET / HTTP/1.1\r\nx: a\x00b\r\n\r\n", InvalidCharacters),
        (b"GET / HTTP/1.1\r\nx: a\x1fb\r\n\r\n", InvalidCharacters),
        (b"GET / HTTP/1.1\r\nx : a\r\n\r\n", Malformed), // blank before the colon
        (b"GET / HTTP/1.1\r\n: a\r\n\r\n", Malformed),
        (b"GET / HTTP/1.1\r\nx(: a\r\n\r\n", Malformed),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", Malformed),
        (b"GET / HTTP/1.1\r\n x: a\r\n\r\n", Malformed), // blank before the first header
        (
            b"POST / HTTP/1.1\r\ncontent-length: 1, 1\r\n\r\n",
            Malformed,
        ),
        (
            b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            LengthAndChunked,
        ),
        (
            b"POST / HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n",
            TransferEncoding,
        ),
        // A fold hides nothing: it is joined before the length is read.
        (
            b"POST / HTTP/1.1\r\ncontent-length: 1\r\n 2\r\n\r\n",
            Malformed,
        ),
        (
            b"POST / HTTP/1.1\r\ntransfer-encoding:\r\n gzip\r\n\r\n",
            TransferEncoding,
        ),
        (
            b"\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            Malformed,
        ),
    ];
    for (text, expected) in refused {
        let shown = String::from_utf8_lossy(text);
        assert_eq!(read(text), Err(*expected), "{shown:?}");
    }
}

#[test]
fn what_never_becomes_a_head_is_refused_before_its_end() {
    for (text, expected) in [
        ("GET / HTTP/1.1\r\nx: a", Ok(true)),
        ("GET / HTTP/1.1\r\nx: a\r\n b", Ok(true)), // folded, so wait for the rest
        ("GET / HTTP/1.1\r\nno colon\r\n", Err(HeadError::Malformed)),
        ("nonsense\r\n", Err(HeadError::Malformed)),
        ("GET / HTTP/1.3\r\n", Err(HeadError::Version)),
    ] {
        let found = request(text).map(|found| found.is_none());
        assert_eq!(found, expected, "{text:?}");
    }
}

#[test]
fn sizes_are_limited_as_in_envoy() {
    let lines = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(count));
    assert!(request(lines(HEADERS_MAX_LINES)).is_ok());
    let too_many = request(lines(HEADERS_MAX_LINES + 1));
    assert_eq!(too_many.err(), Some(HeadError::TooManyLines));
    let value = |len: usize| format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(len));
    assert!(request(value(HEADERS_MAX_BYTES - 2)).is_ok());
    let too_large = request(value(HEADERS_MAX_BYTES));
    assert_eq!(too_large.err(), Some(HeadError::TooLarge));
    let endless = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(HEAD_MAX_BYTES));
    assert_eq!(request(endless).err(), Some(HeadError::TooLarge));
}

#[test]
fn heads_are_taken_one_by_one() {
    let mut pending = BytesMut::from(&b"GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\nGET"[..]);
    for expected in ["/1", "/2"] {
        let (head, _) = take_request(&mut pending).expect("good").expect("whole");
        assert_eq!(head.target_text(), expected);
    }
    assert!(take_request(&mut pending).expect("good so far").is_none());
    assert_eq!(&pending[..], b"GET");
}

#[test]
fn response_heads_are_read_or_refused() {
    let response = |text: &str| take_response(&mut BytesMut::from(text.as_bytes()), &Method::GET);
    for (text, length, keeps_alive) in [
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n",
            BodyLength::Exact(2),
            true,
        ),
        ("HTTP/1.1 200 \r\n\r\n", BodyLength::UntilClose, false),
        ("HTTP/1.1 204\r\n\r\n", BodyLength::Empty, true),
        (
            "HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
            BodyLength::Empty,
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            BodyLength::Empty,
            false,
        ),
        (
            "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n",
            BodyLength::Empty,
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx: a\r\n b\r\n\r\n",
            BodyLength::Empty,
            true,
        ),
    ] {
        let head = response(text).expect("good").expect("whole");
        let framing = Framing {
            length,
            keeps_alive,
        };
        assert_eq!(head.framing, framing, "{text:?}");
    }
    for text in [
        "nonsense\r\n\r\n",
        "HTTP/1.1 099 x\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
    ] {
        assert!(response(text).is_err(), "{text:?}");
    }
    assert!(response("HTTP/1.1 200 O").expect("good so far").is_none());
}
