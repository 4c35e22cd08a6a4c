//! HTTP/1.1 byte by byte: what clients may send, what endpoints read and answer.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

use super::testing::*;
use crate::snapshot::policy::RetryOn;

/// An endpoint that serves each connection by `serve`.
async fn endpoint<F: Future<Output = ()> + 'static>(
    serve: impl Fn(TcpStream) -> F + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            spawn_local(serve(stream));
        }
    });
    address
}

/// An endpoint that answers every head with `answer` and keeps the heads.
async fn answering(answer: &'static str) -> (SocketAddr, Rc<RefCell<Vec<String>>>) {
    let heads: Rc<RefCell<Vec<String>>> = Rc::default();
    let seen = Rc::clone(&heads);
    let address = endpoint(move |mut stream| {
        let seen = Rc::clone(&seen);
        async move {
            while let Some(head) = read_head(&mut stream).await {
                seen.borrow_mut().push(head);
                stream.write_all(answer.as_bytes()).await.expect("written");
            }
        }
    })
    .await;
    (address, heads)
}

/// Bytes up to the next empty line; `None` at the end.
async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Checklist id A068 and the refusals of Envoy's codec: status, body, details, `DPE`, the end
/// of the connection.
#[tokio::test]
async fn a068_what_is_no_request_is_refused_with_the_words_of_envoy() {
    const BAD: (u16, &str) = (400, "Bad Request");
    const LARGE: (u16, &str) = (431, "Request Header Fields Too Large");
    let many = format!(
        "GET / HTTP/1.1\r\nhost: a\r\n{}\r\n",
        "x: y\r\n".repeat(100)
    );
    let large = format!(
        "GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n",
        "y".repeat(61_500)
    );
    let endless = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}", "y".repeat(70_000));
    local(async {
        let (address, heads) = answering(OK).await;
        for (text, (code, body), details) in [
            ("GET / HTTP/1.2\r\nhost: a\r\n\r\n", (426, "Upgrade Required"), "low_version"),
            ("GET / HTTP/2.0\r\nhost: a\r\n\r\n", (426, "Upgrade Required"), "low_version"),
            ("GET / HTTP/1.0\r\nhost: a\r\n\r\n", (426, "Upgrade Required"), "low_version"),
            (&many, LARGE, "http1.too_many_headers"),
            (&large, LARGE, "http1.headers_too_large"),
            (&endless, LARGE, "http1.headers_too_large"),
            (
                "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
                BAD,
                "http1.content_length_and_chunked_not_allowed",
            ),
            (
                "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n",
                (501, "Not Implemented"),
                "http1.invalid_transfer_encoding",
            ),
            (
                "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\nx",
                BAD,
                "http1.codec_error",
            ),
            ("GET / HTTP/1.1\r\nhost : a\r\n\r\n", BAD, "http1.codec_error"),
            ("GET / HTTP/1.1\r\n host: a\r\n\r\n", BAD, "http1.codec_error"),
            ("GET / HTTP/1.1\r\nhost: a\r\nx: \x01\r\n\r\n", BAD, "http1.invalid_characters"),
            ("GET /\x01 HTTP/1.1\r\nhost: a\r\n\r\n", BAD, "http1.invalid_characters"),
            ("GET /é HTTP/1.1\r\nhost: a\r\n\r\n", BAD, "http1.codec_error"),
            ("GET /a b HTTP/1.1\r\nhost: a\r\n\r\n", BAD, "http1.codec_error"),
            ("QUERY / HTTP/1.1\r\nhost: a\r\n\r\n", BAD, "http1.codec_error"),
            ("get / HTTP/1.1\r\nhost: a\r\n\r\n", BAD, "http1.codec_error"),
            ("GET / HTTP/1.1\r\nhost: a<b\r\n\r\n", BAD, "http.invalid_authority"),
        ] {
            let mesh = Mesh::start(vec![forward(cluster(&[address]))]).await;
            let answer = mesh.raw(text).await;
            let shown = &text[..text.len().min(60)];
            let line = format!("HTTP/1.1 {code} {body}\r\n");
            assert!(answer.starts_with(&line), "{shown:?}: {answer}");
            assert!(answer.ends_with(&format!("\r\n\r\n{body}")), "{shown:?}: {answer}");
            for header in ["connection: close", "content-type: text/plain", "date: "] {
                assert!(answer.contains(header), "{shown:?}: {answer}");
            }
            let record = mesh.record().await;
            let got = (record.response_code, &*record.details, record.flags.text());
            assert_eq!(got, (code, details, "DPE".into()), "{shown:?}");
        }
        assert_eq!(heads.borrow().len(), 0);
    })
    .await;
}

/// Checklist id A073 on the wire, and what else Envoy accepts and how it goes on.
#[tokio::test]
async fn a073_what_is_accepted_reaches_the_endpoint_in_one_form() {
    local(async {
        for (text, line, has, has_not) in [
            ("GET /<\">`?<\"> HTTP/1.1\r\nhost: a\r\n\r\n", "GET /%3C%22%3E%60?<\"> HTTP/1.1", "host: a\r\n", "content-length"),
            ("GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n\t 2\r\n\r\n", "GET / HTTP/1.1", "x: 1 2\r\n", "\t"),
            ("GET / HTTP/1.1\r\nhost: a\r\nx: 1\r2\r\n\r\n", "GET / HTTP/1.1", "x: 12\r\n", "\r2"),
            ("GET / HTTP/1.1\nhost: a\nX_Y: 1\n\n", "GET / HTTP/1.1", "x_y: 1\r\n", "X_Y"),
            ("GET http://b/p HTTP/1.1\r\nhost: a\r\n\r\n", "GET /p HTTP/1.1", "host: b\r\n", "host: a"),
            ("DELETE / HTTP/1.1\r\nhost: a\r\n\r\n", "DELETE / HTTP/1.1", "host: a\r\n", "content-length"),
            ("POST / HTTP/1.1\r\nhost: a\r\n\r\n", "POST / HTTP/1.1", "content-length: 0\r\n", "chunked"),
            ("GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n", "GET / HTTP/1.1", "content-length: 0\r\n", "chunked"),
            ("GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nab", "GET / HTTP/1.1", "content-length: 2\r\n", "chunked"),
            ("PUT / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: Chunked\r\n\r\n1;e\r\nx\r\n0\r\nt: 1\r\n\r\n", "PUT / HTTP/1.1", "transfer-encoding: chunked\r\n", "content-length"),
            ("GET / HTTP/1.1\r\nhost: a\r\nexpect: other\r\n\r\n", "GET / HTTP/1.1", "expect: other\r\n", "close"),
            ("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", "GET / HTTP/1.1", "host: a\r\n", "close"),
        ] {
            let (address, heads) = answering(OK).await;
            let mesh = Mesh::start(vec![forward(cluster(&[address]))]).await;
            let answer = mesh.raw(text).await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{text:?}: {answer}");
            let head = heads.borrow()[0].clone();
            assert!(head.starts_with(&format!("{line}\r\n")), "{text:?}: {head}");
            assert!(head.contains(has), "{text:?}: {head}");
            assert!(!head.contains(has_not), "{text:?}: {head}");
        }
    })
    .await;
}

/// `expect: 100-continue` is the endpoint's to answer, and other 1xx answers pass too.
#[tokio::test]
async fn a_100_comes_from_the_endpoint_only_and_a_103_passes() {
    local(async {
        let address = endpoint(|mut stream| async move {
            let head = read_head(&mut stream).await.expect("a head");
            assert!(head.contains("expect: 100-continue\r\n"), "{head}");
            tokio::time::sleep(ms(50)).await;
            let early = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\nconnection: close\r\n\r\n";
            stream.write_all(early.as_bytes()).await.expect("written");
            let mut body = [0; 4];
            stream.read_exact(&mut body).await.expect("a body");
            assert_eq!(&body, b"data");
            stream.write_all(OK.as_bytes()).await.expect("written");
        })
        .await;
        let mesh = Mesh::start(vec![forward(cluster(&[address]))]).await;
        let mut client = mesh.connect().await;
        let head = "POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";
        client.write_all(head.as_bytes()).await.expect("written");
        let early = tokio::time::timeout(ms(20), client.readable()).await;
        assert!(early.is_err(), "nothing before the endpoint has answered");
        for expected in ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"] {
            assert_eq!(read_head(&mut client).await.as_deref(), Some(expected));
        }
        client.write_all(b"data").await.expect("written");
        let answer = read_head(&mut client).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    })
    .await;
}

/// After a 1xx answer has gone to the client nothing is tried again.
#[tokio::test]
async fn an_attempt_that_has_informed_the_client_is_the_last() {
    local(async {
        let failing = "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 503 x\r\ncontent-length: 0\r\n\r\n";
        let (address, heads) = answering(failing).await;
        let mut route = forward(cluster(&[address]));
        route.retry = retrying(RetryOn::FIVE_XX, 3);
        let mesh = Mesh::start(vec![route]).await;
        let answer = mesh.raw("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(
            answer.starts_with("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 503 "),
            "{answer}"
        );
        assert_eq!(heads.borrow().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_request_is_passed_on_and_ends_both_connections() {
    local(async {
        let address = endpoint(|mut stream| async move {
            read_head(&mut stream).await.expect("a head");
            let answer = "HTTP/1.1 413 x\r\ncontent-length: 4\r\n\r\nmuch";
            stream.write_all(answer.as_bytes()).await.expect("written");
            // The proxy gives up on the request: the rest of it never comes.
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            assert!(rest.len() < 1_000_000);
        })
        .await;
        let mesh = Mesh::start(vec![forward(cluster(&[address]))]).await;
        let mut client = mesh.connect().await;
        let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nstart";
        client.write_all(head.as_bytes()).await.expect("written");
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("the end");
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert!(answer.ends_with("\r\n\r\nmuch"), "{answer}");
    })
    .await;
}

/// What an endpoint may not send: never guessed at, never left for the next answer.
#[tokio::test]
async fn ambiguous_answers_are_refused_and_what_is_left_over_is_never_the_next_answer() {
    local(async {
        for text in [
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx: a\x01b\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\n\r\n", // nobody asked
        ] {
            let (address, _) = answering(text).await;
            let mesh = Mesh::start(vec![forward(cluster(&[address]))]).await;
            let answer = mesh.send(get("/")).await;
            assert_eq!(answer.code(), 502, "{text:?}");
            assert_eq!(mesh.record().await.flags.text(), "UPE", "{text:?}");
        }
        let two = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
        let (address, heads) = answering(two).await;
        let mesh = Mesh::start(vec![forward(cluster(&[address]))]).await;
        for _ in 0..3 {
            assert_eq!(mesh.send(get("/")).await.body, "ok");
        }
        assert_eq!(heads.borrow().len(), 3);
    })
    .await;
}

#[tokio::test]
async fn answers_keep_their_form() {
    local(async {
        for (method, text, has, has_not, body) in [
            (
                "GET",
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nt: 1\r\n\r\n",
                "transfer-encoding: chunked\r\n",
                "t: 1",
                "2\r\nok\r\n0\r\n\r\n",
            ),
            (
                "HEAD",
                "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n",
                "content-length: 9\r\n",
                "chunked",
                "",
            ),
            (
                "GET",
                "HTTP/1.1 304 x\r\ncontent-length: 9\r\n\r\n",
                "content-length: 9\r\n",
                "chunked",
                "",
            ),
            (
                "GET",
                "HTTP/1.1 204 x\r\n\r\n",
                "HTTP/1.1 204 No Content\r\n",
                "content-length",
                "",
            ),
            (
                "GET",
                "HTTP/1.1 299 x\r\ncontent-length: 0\r\ndate: then\r\n\r\n",
                "date: then\r\n",
                "GMT",
                "",
            ),
            (
                "GET",
                "HTTP/1.1 200 OK\r\nserver: s\r\nkeep-alive: 1\r\ncontent-length: 1\r\n\r\nx",
                "server: s\r\n",
                "keep-alive",
                "x",
            ),
        ] {
            let (address, _) = answering(text).await;
            let mesh = Mesh::start(vec![forward(cluster(&[address]))]).await;
            let answer = mesh
                .raw(&format!("{method} / HTTP/1.1\r\nhost: a\r\n\r\n"))
                .await;
            let (head, rest) = answer.split_once("\r\n\r\n").expect("a head");
            let head = format!("{head}\r\n");
            assert!(
                head.contains(has) && !head.contains(has_not),
                "{text:?}: {head}"
            );
            assert_eq!(rest, body, "{text:?}");
        }
        // A body that ends with its connection is chunked for the client.
        let address = endpoint(|mut stream| async move {
            read_head(&mut stream).await.expect("a head");
            stream
                .write_all(b"HTTP/1.1 200 OK\r\n\r\nall")
                .await
                .expect("written");
        })
        .await;
        let mesh = Mesh::start(vec![forward(cluster(&[address]))]).await;
        let answer = mesh.raw("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(
            answer.contains("transfer-encoding: chunked\r\n"),
            "{answer}"
        );
        assert!(answer.ends_with("3\r\nall\r\n0\r\n\r\n"), "{answer}");
    })
    .await;
}

/// Envoy looks at a `grpc-status` header of any response.
#[tokio::test]
async fn the_default_policy_reads_grpc_status_of_plain_requests_too() {
    local(async {
        let address = endpoint(|mut stream| async move {
            for answer in [
                "HTTP/1.1 200 OK\r\ngrpc-status: 14\r\ncontent-length: 0\r\n\r\n",
                OK,
            ] {
                let head = read_head(&mut stream).await.expect("a head");
                let attempt = if answer == OK { 2 } else { 1 };
                assert!(
                    head.contains(&format!("x-envoy-attempt-count: {attempt}\r\n")),
                    "{head}"
                );
                stream.write_all(answer.as_bytes()).await.expect("written");
            }
        })
        .await;
        let mesh = Mesh::start(vec![forward(cluster(&[address]))]).await;
        assert_eq!(mesh.send(get("/")).await.body, "ok");
        assert_eq!(mesh.record().await.retry_count, 1);
    })
    .await;
}

/// An endpoint that writes much before it has read much: the upload goes on although the
/// client takes nothing of the answer yet.
#[tokio::test]
async fn an_upload_goes_on_while_the_answer_waits_for_the_client() {
    const LEN: usize = 16 << 20;
    local(async {
        let address = endpoint(|mut stream| async move {
            read_head(&mut stream).await.expect("a head");
            let (mut read, mut write) = stream.into_split();
            let writing = async {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LEN}\r\n\r\n");
                write.write_all(head.as_bytes()).await.expect("written");
                write.write_all(&vec![b'x'; LEN]).await.expect("written");
            };
            let reading = async {
                let mut body = vec![0; LEN];
                read.read_exact(&mut body).await.expect("the body");
            };
            tokio::join!(writing, reading);
        })
        .await;
        let mesh = Mesh::start(vec![forward(cluster(&[address]))]).await;
        let mut client = mesh.connect().await;
        let work = async {
            let head = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {LEN}\r\n\r\n");
            client.write_all(head.as_bytes()).await.expect("written");
            client.write_all(&vec![b'y'; LEN]).await.expect("written");
            read_head(&mut client).await.expect("an answer");
            let mut body = vec![0; LEN];
            client.read_exact(&mut body).await.expect("a body");
        };
        tokio::time::timeout(ms(20_000), work)
            .await
            .expect("no side waits for ever");
    })
    .await;
}

#[tokio::test]
async fn an_answer_during_the_drain_says_that_it_is_the_last() {
    local(async {
        let upstream = Upstream::start(|_, _| {
            Box::pin(async {
                tokio::time::sleep(ms(100)).await;
                ready(200, "ok").await
            })
        })
        .await;
        let mesh = Mesh::start(vec![forward(cluster(&[upstream.address]))]).await;
        let mut client = mesh.connect().await;
        let two = "GET / HTTP/1.1\r\nhost: a\r\n\r\n".repeat(2);
        client.write_all(two.as_bytes()).await.expect("written");
        while upstream.seen().is_empty() {
            tokio::time::sleep(ms(5)).await;
        }
        mesh.drain();
        let mut answers = String::new();
        client.read_to_string(&mut answers).await.expect("the end");
        assert!(answers.contains("connection: close\r\n"), "{answers}");
        assert_eq!(answers.matches("HTTP/1.1 200").count(), 1, "{answers}");
    })
    .await;
}

/// Requests that come at once are answered in order, and their order is the endpoint's.
#[tokio::test]
async fn requests_in_one_packet_are_served_one_after_the_other() {
    local(async {
        let (address, heads) = answering(OK).await;
        let mesh = Mesh::start(vec![forward(cluster(&[address]))]).await;
        let request = |number: usize| match number % 2 {
            0 => format!("GET /{number} HTTP/1.1\r\nhost: a\r\n\r\n"),
            _ => format!(
                "GET /{number} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
        };
        let all: String = (0..50).map(request).collect();
        let answers = mesh.raw(&all).await;
        assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 50);
        let paths: Vec<String> = heads
            .borrow()
            .iter()
            .filter_map(|head| head.split(' ').nth(1).map(str::to_owned))
            .collect();
        let expected: Vec<String> = (0..50).map(|number| format!("/{number}")).collect();
        assert_eq!(paths, expected);
    })
    .await;
}
