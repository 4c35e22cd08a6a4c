//! Whole requests through a real client, the proxy and real upstreams: routing, heads,
//! bodies, connections.

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::testing::*;
use crate::snapshot::clusters::{ClusterRef, UpstreamProtocol};
use crate::snapshot::policy::{HeaderTemplate, RetryOn, TemplatePart};
use crate::snapshot::routes::{PathRewrite, RouteAction, UnknownHost};

/// Checklist id A080, and the headers of this hop.
#[tokio::test]
async fn a080_a_request_reaches_the_endpoint_with_this_hops_headers() {
    local(async {
        let upstream = Upstream::text("hello").await;
        let mesh = Mesh::start(vec![forward(cluster(&[upstream.address]))]).await;
        let headers = [
            ("x-envoy-retry-on", "5xx"),
            ("connection", "x-mine"),
            ("x-mine", "1"),
        ];
        let answer = mesh
            .send(request("POST", "/p/../q?x=1", &headers, "data"))
            .await;
        assert_eq!((answer.code(), &*answer.body), (200, "hello"));
        assert!(answer.headers.contains_key("x-envoy-upstream-service-time"));
        assert!(!answer.headers.contains_key("server")); // none is forged
        let seen = &upstream.seen()[0];
        assert_eq!(seen.head.uri, "/q?x=1");
        assert_eq!(&seen.body[..], b"data");
        for (name, value) in [
            ("host", Some("a")),
            ("content-length", Some("4")),
            ("x-forwarded-proto", Some("http")),
            ("x-envoy-attempt-count", Some("1")),
            ("x-envoy-retry-on", None),
            ("x-mine", None),
            ("x-forwarded-for", None),
            ("transfer-encoding", None),
        ] {
            assert_eq!(seen.header(name), value, "{name}");
        }
        let record = mesh.record().await;
        assert_eq!(
            (record.response_code, &*record.details),
            (200, "via_upstream")
        );
        assert_eq!((record.bytes_received, record.bytes_sent), (4, 5));
        assert_eq!(record.upstream_host, Some(upstream.address));
        assert_eq!(record.flags.text(), "-");
        assert_eq!(record.request_id.as_deref(), seen.header("x-request-id"));
        assert_eq!(record.downstream_remote.ip().to_string(), "10.0.0.7");
    })
    .await;
}

/// Checklist ids A044, A050, A051 and A119: answers without an upstream.
#[tokio::test]
async fn a044_a050_a051_a119_each_cause_has_its_code_and_flag() {
    local(async {
        let refused = closed_port().await;
        let mut once = forward(cluster(&[refused]));
        once.retry = retrying(RetryOn::DEFAULT, 0);
        let missing = forward_ref(ClusterRef::Missing("outbound|80|v9|a".into()));
        let not_honoured = forward_ref(ClusterRef::NotHonoured("outbound|80||tls".into()));
        for (routes, code, flags, details) in [
            (vec![], 404, "NR", "route_not_found"),
            (vec![missing], 503, "NC", "cluster_not_found"),
            (vec![not_honoured], 503, "-", "not_honoured"),
            (
                vec![forward(cluster(&[]))],
                503,
                "UH",
                "no_healthy_upstream",
            ),
            (
                vec![once], // A119: no retry
                503,
                "UF",
                "upstream_reset_before_response_started{remote_connection_failure",
            ),
        ] {
            let mesh = Mesh::start(routes).await;
            let answer = mesh.send(get("/")).await;
            let record = mesh.record().await;
            assert_eq!(
                (answer.code(), record.response_code),
                (code, code),
                "{details}"
            );
            assert_eq!(record.flags.text(), flags, "{details}");
            assert!(
                record.details.starts_with(details),
                "{details}: {}",
                record.details
            );
            assert_eq!(answer.headers["server"], "mizzen");
        }
    })
    .await;
}

/// Checklist ids A047 and A048.
#[tokio::test]
async fn a047_a048_unknown_hosts_pass_through_or_are_refused() {
    local(async {
        let upstream = Upstream::text("straight").await;
        let mesh = Mesh::without_hosts(UnknownHost::Passthrough, upstream.address).await;
        let answer = mesh.send(get("/")).await;
        assert_eq!((answer.code(), &*answer.body), (200, "straight"));
        let record = mesh.record().await;
        assert_eq!(
            record.upstream_cluster.as_deref(),
            Some("PassthroughCluster")
        );
        let mesh = Mesh::without_hosts(UnknownHost::BlackHole, upstream.address).await;
        let answer = mesh.send(get("/")).await;
        assert_eq!((answer.code(), &*answer.body), (502, ""));
        let record = mesh.record().await;
        assert_eq!(&*record.service.service_name, "BlackHoleCluster");
    })
    .await;
}

/// Checklist ids A093, A094, A098 and A099: what the upstream reads.
#[tokio::test]
async fn a093_a094_a099_rewrites_and_operations_reach_the_upstream() {
    local(async {
        let upstream = Upstream::text("").await;
        let mut route = forward(cluster(&[upstream.address]));
        route.request_headers = set("x", "route");
        route.response_headers = set("y", "route");
        let action = action(&mut route);
        action.authority = Some(HeaderTemplate(vec![TemplatePart::Literal("h".into())]));
        action.path_rewrite = Some(PathRewrite::Prefix("/new/".into()));
        action.destinations[0].request_headers = set("x", "destination");
        let mesh = Mesh::start(vec![route]).await;
        let answer = mesh.send(get("/old?q=1")).await;
        assert_eq!(answer.headers["y"], "route");
        let seen = &upstream.seen()[0];
        assert_eq!(seen.head.uri, "/new/old?q=1");
        for (name, value) in [
            ("host", "h"),
            ("x-envoy-original-path", "/old?q=1"),
            ("x-envoy-original-host", "a"),
            ("x", "route"),
        ] {
            assert_eq!(seen.header(name), Some(value), "{name}");
        }
        assert_eq!(&*mesh.record().await.path, "/old?q=1");
    })
    .await;
}

/// Checklist id A110.
#[tokio::test]
async fn a110_direct_responses_need_no_upstream() {
    local(async {
        let mut route = forward(cluster(&[]));
        route.action = RouteAction::DirectResponse {
            status: StatusCode::SERVICE_UNAVAILABLE,
            body: Bytes::from_static(b"x"),
        };
        let mesh = Mesh::start(vec![route]).await;
        let answer = mesh.send(get("/")).await;
        assert_eq!((answer.code(), &*answer.body), (503, "x"));
        assert_eq!(answer.headers["content-type"], "text/plain");
        let head = mesh.send(request("HEAD", "/", &[], "")).await;
        assert_eq!((head.code(), &*head.body), (503, ""));
        let record = mesh.record().await;
        assert_eq!(
            (record.flags.text(), &*record.details),
            ("-".into(), "direct_response")
        );
    })
    .await;
}

/// gRPC over HTTP/2 both ways: trailers pass, and errors are trailers-only.
#[tokio::test]
async fn a053_grpc_passes_with_its_trailers_and_fails_as_grpc() {
    local(async {
        let upstream = Upstream::start(|_, _| {
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("5"));
            let body = Full::new(Bytes::from_static(b"\0\0\0\0\x02ab\0\0\0\0\0"))
                .with_trailers(std::future::ready(Some(Ok(trailers))));
            Box::pin(std::future::ready(http::Response::new(body.boxed())))
        })
        .await;
        let mut grpc = cluster(&[upstream.address]);
        grpc.protocol = UpstreamProtocol::Http2;
        let mesh = Mesh::start(vec![forward(grpc)]).await;
        let headers = [("content-type", "application/grpc"), ("te", "trailers")];
        let call = || request("POST", "http://a/s/m", &headers, "\0\0\0\0\u{1}x");
        let answer = mesh.send_http2(call()).await;
        assert_eq!(answer.code(), 200);
        assert_eq!(answer.body, "\0\0\0\0\u{2}ab\0\0\0\0\0");
        assert_eq!(answer.trailers.expect("trailers")["grpc-status"], "5");
        let record = mesh.record().await;
        assert_eq!(record.grpc_status, Some(5));
        assert_eq!((record.request_messages, record.response_messages), (1, 2));
        let seen = &upstream.seen()[0];
        assert_eq!(seen.head.version, http::Version::HTTP_2);
        assert_eq!(seen.head.uri, "http://a/s/m");
        assert_eq!(seen.header("te"), Some("trailers"));
        let mesh = Mesh::start(vec![forward(cluster(&[]))]).await;
        let answer = mesh.send_http2(call()).await;
        assert_eq!((answer.code(), &*answer.body), (200, ""));
        assert_eq!(answer.headers["grpc-status"], "14");
        let record = mesh.record().await;
        assert_eq!(
            (record.grpc_status, record.flags.text()),
            (Some(14), "UH".into())
        );
        assert!(answer.trailers.is_none());
    })
    .await;
}

#[tokio::test]
async fn malformed_heads_are_answered_and_recorded() {
    local(async {
        let upstream = Upstream::text("ok").await;
        for (text, status, details) in [
            (
                "GET / HTTP/1.1\r\n\r\n",
                "400 Bad Request",
                "missing_host_header",
            ),
            (
                "GET / HTTP/1.0\r\nhost: a\r\n\r\n",
                "426 Upgrade Required",
                "low_version",
            ),
            (
                "FOO / HTTP/1.1\r\nhost: a\r\n\r\n",
                "400 Bad Request",
                "http1.codec_error",
            ),
            (
                "GET /%00 HTTP/1.1\r\nhost: a\r\n\r\n",
                "400 Bad Request",
                "path_normalization_failed",
            ),
            (
                "OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n",
                "404 Not Found",
                "absolute_path_rejected",
            ),
            (
                "CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n",
                "404 Not Found",
                "route_not_found",
            ),
            (
                "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: foo\r\n\r\n",
                "403 Forbidden",
                "upgrade_failed",
            ),
        ] {
            let mesh = Mesh::start(vec![forward(cluster(&[upstream.address]))]).await;
            let answer = mesh.raw(text).await;
            let line = answer.lines().next().unwrap_or("");
            assert!(line.ends_with(status), "{text:?}: {answer}");
            assert_eq!(mesh.record().await.details, details, "{text:?}");
        }
        assert!(upstream.seen().is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_client_that_half_closes_gets_its_answer_and_pipelined_requests_theirs() {
    local(async {
        let upstream = Upstream::start(|number, _| {
            Box::pin(async move {
                tokio::time::sleep(ms(100)).await;
                ready(200, ["first", "second"][number]).await
            })
        })
        .await;
        let mesh = Mesh::start(vec![forward(cluster(&[upstream.address]))]).await;
        let one = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let answer = mesh.raw(&format!("{one}{one}")).await;
        let (first, second) = (answer.find("first"), answer.find("second"));
        assert!(first.is_some() && first < second, "{answer}");
        for body in [
            "content-length: 4\r\n\r\ndata",
            "transfer-encoding: chunked\r\n\r\n4\r\ndata\r\n0\r\n\r\n",
        ] {
            let upstream = Upstream::text("got it").await;
            let mesh = Mesh::start(vec![forward(cluster(&[upstream.address]))]).await;
            let answer = mesh
                .raw(&format!("POST / HTTP/1.1\r\nhost: a\r\n{body}"))
                .await;
            assert!(answer.ends_with("got it"), "{body:?}: {answer}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_goes_away_is_recorded_as_dc() {
    local(async {
        let upstream = Upstream::hanging().await;
        let mesh = Mesh::start(vec![forward(cluster(&[upstream.address]))]).await;
        let mut stream = mesh.connect().await;
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .expect("written");
        while upstream.seen().is_empty() {
            tokio::time::sleep(ms(10)).await;
        }
        drop(stream);
        let record = mesh.record().await;
        assert_eq!(
            (record.response_code, record.flags.text()),
            (0, "DC".into())
        );
        assert_eq!(record.details, "downstream_remote_disconnect");
    })
    .await;
}

/// Checklist id A116: the tunnel outlives the route timeout.
#[tokio::test]
async fn a116_a_websocket_becomes_a_tunnel_that_no_timeout_cuts() {
    local(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::task::spawn_local(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.expect("a byte"));
            }
            let text = String::from_utf8_lossy(&head).to_lowercase();
            assert!(text.contains("upgrade: websocket") && text.contains("connection: upgrade"));
            let answer =
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
            stream.write_all(answer).await.expect("written");
            let mut data = [0; 4];
            stream.read_exact(&mut data).await.expect("four bytes");
            stream.write_all(&data).await.expect("written");
        });
        let mut route = forward(cluster(&[address]));
        route.timeout = Some(ms(50));
        let mesh = Mesh::start(vec![route]).await;
        let mut stream = mesh.connect().await;
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: WebSocket\r\n\r\n")
            .await
            .expect("written");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a byte"));
        }
        assert!(head.starts_with(b"HTTP/1.1 101"));
        tokio::time::sleep(ms(150)).await;
        stream.write_all(b"ping").await.expect("written");
        let mut echoed = String::new();
        stream.read_to_string(&mut echoed).await.expect("an echo");
        assert_eq!(echoed, "ping");
        drop(stream);
        let record = mesh.record().await;
        assert_eq!((record.response_code, record.bytes_received, record.bytes_sent), (101, 4, 4));
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_breaks_off_gives_its_flag() {
    local(async {
        for (answer, code, flags, is_broken_off) in [
            ("", 503, "UC", false), // closed without a word
            ("nonsense\r\n\r\n", 502, "UPE", false),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
                200,
                "UPE",
                true,
            ),
        ] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
                .await
                .expect("a port");
            let address = listener.local_addr().expect("an address");
            tokio::task::spawn_local(async move {
                loop {
                    let (mut stream, _) = listener.accept().await.expect("a connection");
                    let mut head = [0; 1024];
                    let _ = stream.read(&mut head).await;
                    stream.write_all(answer.as_bytes()).await.expect("written");
                }
            });
            let mesh = Mesh::start(vec![forward(cluster(&[address]))]).await;
            let got = mesh.send(request("GET", "/", &[], "")).await;
            assert_eq!(
                (got.code(), got.is_broken_off),
                (code, is_broken_off),
                "{answer:?}"
            );
            assert_eq!(mesh.record().await.flags.text(), flags, "{answer:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_reply_before_the_body_was_read_closes_the_connection() {
    local(async {
        let mesh = Mesh::start(vec![]).await;
        let answer = mesh
            .send(request("POST", "/", &[], &"x".repeat(100_000)))
            .await;
        assert_eq!(
            (answer.code(), &answer.headers["connection"]),
            (404, &HeaderValue::from_static("close"))
        );
        assert!(!mesh.send(get("/")).await.headers.contains_key("connection"));
    })
    .await;
}

#[tokio::test]
async fn a_body_that_is_malformed_or_cut_is_the_clients_fault() {
    local(async {
        let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\ndata\r\n";
        for (rest, code, flags) in [("zz\r\n", 400, "DPE"), ("", 0, "DC")] {
            let upstream = Upstream::hanging().await;
            let mesh = Mesh::start(vec![forward(cluster(&[upstream.address]))]).await;
            let mut stream = mesh.connect().await;
            stream.write_all(head.as_bytes()).await.expect("written");
            stream.write_all(rest.as_bytes()).await.expect("written");
            if rest.is_empty() {
                drop(stream);
            }
            let record = mesh.record().await;
            assert_eq!(
                (record.response_code, record.flags.text()),
                (code, flags.into()),
                "{rest:?}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn an_http2_stream_with_too_many_headers_is_reset() {
    local(async {
        let mesh = Mesh::start(vec![]).await;
        let mut request = request("GET", "http://a/", &[], "");
        for _ in 0..101 {
            let headers = request.headers_mut();
            headers.append("x", HeaderValue::from_static("y"));
        }
        assert!(mesh.try_send_http2(request).await.is_none());
        let record = mesh.record().await;
        assert_eq!(
            (record.response_code, record.flags.text()),
            (0, "DR".into())
        );
    })
    .await;
}

#[tokio::test]
async fn bytes_that_are_no_request_are_recorded_too() {
    local(async {
        let mesh = Mesh::start(vec![]).await;
        let answer = mesh.raw("GET / HTTP/1.1\r\nbad header\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        let record = mesh.record().await;
        assert_eq!(
            (record.flags.text(), &*record.details),
            ("DPE".into(), "http1.codec_error")
        );
    })
    .await;
}

#[tokio::test]
async fn a_draining_connection_ends_after_its_answer() {
    local(async {
        let upstream = Upstream::text("ok").await;
        let mesh = Mesh::start(vec![forward(cluster(&[upstream.address]))]).await;
        let mut stream = mesh.connect().await;
        let one = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        stream.write_all(one).await.expect("written");
        mesh.record().await;
        mesh.drain();
        let mut answer = String::new();
        // The idle connection closes by itself.
        stream.read_to_string(&mut answer).await.expect("the end");
        assert!(answer.ends_with("ok"), "{answer}");
    })
    .await;
}

/// More than the socket's buffers hold, so that bytes are left when the record closes.
#[tokio::test]
async fn a_client_that_half_closed_gets_a_large_answer_whole() {
    local(async {
        let upstream = Upstream::start(|_, _| {
            let body = Full::new(Bytes::from(vec![b'x'; 32 << 20]));
            Box::pin(std::future::ready(http::Response::new(body.boxed())))
        })
        .await;
        let mesh = Mesh::start(vec![forward(cluster(&[upstream.address]))]).await;
        let mut stream = mesh.connect().await;
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .expect("written");
        stream.shutdown().await.expect("shut down");
        tokio::time::sleep(ms(500)).await;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("an answer");
        assert!(answer.len() > 32 << 20, "{} bytes", answer.len());
    })
    .await;
}
