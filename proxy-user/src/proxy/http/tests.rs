//! Whole requests through a real client, the proxy and real upstreams.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::testing::*;
use crate::snapshot::HttpRoute;
use crate::snapshot::clusters::{ClusterRef, UpstreamProtocol};
use crate::snapshot::matchers::StringMatcher;
use crate::snapshot::policy::{
    AbortWith, CorsPolicy, FaultPolicy, HeaderOps, HeaderTemplate, MirrorPolicy, RetryOn,
    RetryPolicy, TemplatePart,
};
use crate::snapshot::routes::{PathRewrite, RouteAction, UnknownHost};

const ALWAYS: u32 = 1_000_000;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn retrying(on: RetryOn, attempts: u32) -> Option<Arc<RetryPolicy>> {
    Some(Arc::new(RetryPolicy {
        on,
        attempts,
        backoff_base: ms(1),
        backoff_cap: ms(10),
        ..RetryPolicy::default()
    }))
}

fn action(route: &mut HttpRoute) -> &mut crate::snapshot::routes::ForwardAction {
    match &mut route.action {
        RouteAction::Forward(action) => action,
        RouteAction::Redirect(_)
        | RouteAction::DirectResponse { .. }
        | RouteAction::NotHonoured(_) => panic!("a forwarding route"),
    }
}

fn set(name: &'static str, value: &str) -> HeaderOps {
    HeaderOps {
        set: vec![(
            HeaderName::from_static(name),
            HeaderTemplate(vec![TemplatePart::Literal(value.into())]),
        )],
        ..HeaderOps::default()
    }
}

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

/// Checklist id A112, and the timeout of a body that has begun.
#[tokio::test]
async fn a112_the_route_timeout_answers_504() {
    local(async {
        let upstream = Upstream::hanging().await;
        let mut route = forward(cluster(&[upstream.address]));
        route.timeout = Some(ms(100));
        let mesh = Mesh::start(vec![route]).await;
        let answer = mesh.send(request("POST", "/", &[], "body")).await;
        assert_eq!(
            (answer.code(), &*answer.body),
            (504, "upstream request timeout")
        );
        let record = mesh.record().await;
        assert_eq!(
            (record.flags.text(), &*record.details),
            ("UT".into(), "response_timeout")
        );
        assert_eq!(
            upstream.seen()[0].header("x-envoy-expected-rq-timeout-ms"),
            Some("100")
        );
    })
    .await;
}

/// Checklist id A114.
#[tokio::test]
async fn a114_per_try_timeouts_are_retried_under_reset_only() {
    local(async {
        for (on, tries, flags) in [(RetryOn::RESET, 3, "URX,UT"), (RetryOn::DEFAULT, 1, "UT")] {
            let upstream = Upstream::hanging().await;
            let mut route = forward(cluster(&[upstream.address]));
            route.retry = Some(Arc::new(RetryPolicy {
                on,
                per_try_timeout: Some(ms(50)),
                backoff_base: ms(1),
                backoff_cap: ms(10),
                ..RetryPolicy::default()
            }));
            let mesh = Mesh::start(vec![route]).await;
            let answer = mesh.send(request("POST", "/", &[], "again")).await;
            assert_eq!(answer.code(), 504, "{flags}");
            let record = mesh.record().await;
            assert_eq!(record.flags.text(), flags);
            assert_eq!(record.details, "upstream_per_try_timeout");
            let seen = upstream.seen();
            assert_eq!(seen.len(), tries, "{flags}");
            assert!(seen.iter().all(|seen| &seen.body[..] == b"again")); // replayed whole
        }
    })
    .await;
}

/// Checklist id A118: a refused connection is retried elsewhere; all refused gives URX,UF.
#[tokio::test]
async fn a118_refused_connections_are_retried_by_default() {
    local(async {
        let (upstream, refused) = (Upstream::text("ok").await, closed_port().await);
        let mesh = Mesh::start(vec![forward(cluster(&[refused, upstream.address]))]).await;
        for _ in 0..20 {
            assert_eq!(mesh.send(get("/")).await.code(), 200);
        }
        let mesh = Mesh::start(vec![forward(cluster(&[refused]))]).await;
        let answer = mesh.send(get("/")).await;
        assert_eq!(answer.code(), 503);
        assert!(answer.body.contains("retried and the latest reset reason"));
        let record = mesh.record().await;
        assert_eq!(
            (record.flags.text(), record.retry_count),
            ("URX,UF".into(), 2)
        );
    })
    .await;
}

/// Checklist ids A117, A120, A121, A122 and A126.
#[tokio::test]
async fn a117_a120_a121_a126_responses_are_retried_as_the_policy_says() {
    local(async {
        let codes = |codes: Vec<u16>| RetryPolicy {
            on: RetryOn::STATUS_CODES,
            status_codes: codes,
            attempts: 3,
            backoff_base: ms(1),
            backoff_cap: ms(10),
            ..RetryPolicy::default()
        };
        let five_xx = RetryPolicy {
            on: RetryOn::FIVE_XX,
            ..codes(vec![])
        };
        let default = RetryPolicy::default();
        for (name, policy, answers, code, tries, flags) in [
            ("A120", five_xx.clone(), [500, 500, 500, 500], 500, 4, "URX"),
            ("5xx, then well", five_xx, [503, 200, 0, 0], 200, 2, "-"),
            ("A121", codes(vec![503, 409]), [409, 200, 0, 0], 200, 2, "-"),
            (
                "A121: 500",
                codes(vec![503, 409]),
                [500, 200, 0, 0],
                500,
                1,
                "-",
            ),
            ("A117", default, [503, 200, 0, 0], 503, 1, "-"),
        ] {
            let upstream = Upstream::start(move |number, _| ready(answers[number], "")).await;
            let mut route = forward(cluster(&[upstream.address]));
            route.retry = Some(Arc::new(policy));
            let mesh = Mesh::start(vec![route]).await;
            let answer = mesh.send(request("POST", "/", &[], "body")).await;
            assert_eq!(answer.code(), code, "{name}");
            let counts: Vec<_> = upstream
                .seen()
                .iter()
                .map(|seen| seen.header("x-envoy-attempt-count").map(str::to_owned))
                .collect();
            let expected: Vec<_> = (1..=tries).map(|count| Some(count.to_string())).collect();
            assert_eq!(counts, expected, "{name}"); // A126
            assert_eq!(mesh.record().await.flags.text(), flags, "{name}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_beyond_one_mebibyte_is_sent_once() {
    local(async {
        for (len, tries) in [(1024 * 1024, 2), (1024 * 1024 + 1, 1)] {
            let upstream =
                Upstream::start(|number, _| ready(if number == 0 { 500 } else { 200 }, "")).await;
            let mut route = forward(cluster(&[upstream.address]));
            route.retry = retrying(RetryOn::FIVE_XX, 3);
            let mesh = Mesh::start(vec![route]).await;
            mesh.send(request("POST", "/", &[], &"x".repeat(len))).await;
            let seen = upstream.seen();
            assert_eq!(seen.len(), tries, "{len}");
            assert!(seen.iter().all(|seen| seen.body.len() == len), "{len}");
        }
    })
    .await;
}

/// Checklist ids A128, A131, A132 and A133.
#[tokio::test]
async fn a128_a131_a132_faults_come_before_everything() {
    local(async {
        let upstream = Upstream::text("ok").await;
        let mut route = forward(cluster(&[upstream.address]));
        route.timeout = Some(ms(50)); // A133: does not run during the delay
        route.fault = Some(Arc::new(FaultPolicy {
            delay: Some((ALWAYS, ms(150))),
            abort: None,
        }));
        let mesh = Mesh::start(vec![route]).await;
        let start = Instant::now();
        assert_eq!(mesh.send(get("/")).await.code(), 200);
        assert!(start.elapsed() >= ms(150));
        assert_eq!(mesh.record().await.flags.text(), "DI");
        let seen = upstream.seen().len();
        let grpc = [("content-type", "application/grpc")];
        for (with, headers, code, grpc_status, body) in [
            (
                AbortWith::Http(StatusCode::SERVICE_UNAVAILABLE),
                &[][..],
                503,
                None,
                "fault filter abort",
            ),
            (AbortWith::Grpc(14), &[], 200, None, "fault filter abort"),
            (AbortWith::Grpc(14), &grpc, 200, Some("14"), ""),
        ] {
            let mut route = forward(cluster(&[upstream.address]));
            route.retry = retrying(RetryOn::FIVE_XX, 3);
            route.fault = Some(Arc::new(FaultPolicy {
                delay: None,
                abort: Some((ALWAYS, with)),
            }));
            let mesh = Mesh::start(vec![route]).await;
            let answer = mesh.send(request("GET", "/", headers, "")).await;
            assert_eq!((answer.code(), &*answer.body), (code, body));
            let status = answer.headers.get("grpc-status");
            assert_eq!(
                status.map(HeaderValue::as_bytes),
                grpc_status.map(str::as_bytes)
            );
            assert_eq!(mesh.record().await.flags.text(), "FI");
        }
        assert_eq!(upstream.seen().len(), seen); // A132: never reached
    })
    .await;
}

/// Checklist ids A134, A135 and A137.
#[tokio::test]
async fn a134_a135_a137_mirrors_get_one_copy_and_bother_nobody() {
    local(async {
        let main = Upstream::start(|number, _| ready(if number < 2 { 500 } else { 200 }, "")).await;
        let copied = Upstream::hanging().await;
        let mut route = forward(cluster(&[main.address]));
        route.retry = retrying(RetryOn::FIVE_XX, 3);
        for target in [
            ClusterRef::Known(Arc::new(cluster(&[copied.address]))),
            ClusterRef::Known(Arc::new(cluster(&[closed_port().await]))),
            ClusterRef::Missing("gone".into()),
        ] {
            route.mirrors.push(MirrorPolicy {
                cluster: target,
                share: ALWAYS,
            });
        }
        let mesh = Mesh::start(vec![route]).await;
        let answer = mesh.send(request("POST", "/", &[], "data")).await;
        assert_eq!(answer.code(), 200);
        for _ in 0..200 {
            if !copied.seen().is_empty() {
                break;
            }
            tokio::time::sleep(ms(10)).await;
        }
        assert_eq!((main.seen().len(), copied.seen().len()), (3, 1));
        let (sent, copy) = (&main.seen()[0], &copied.seen()[0]);
        assert_eq!(&copy.body[..], b"data");
        for (name, value) in [
            ("host", Some("a")),
            ("x-envoy-internal", Some("true")),
            ("x-forwarded-for", Some("10.0.0.7")),
            ("x-request-id", sent.header("x-request-id")),
        ] {
            assert_eq!(copy.header(name), value, "{name}");
        }
    })
    .await;
}

/// Checklist ids A138 and A140.
#[tokio::test]
async fn a138_a140_cors_answers_preflights_and_marks_responses() {
    local(async {
        let upstream = Upstream::text("ok").await;
        let mut route = forward(cluster(&[upstream.address]));
        route.response_headers = set("access-control-allow-origin", "overwritten by cors");
        route.cors = Some(Arc::new(CorsPolicy {
            allow_origins: vec![StringMatcher::Exact("o".into())],
            allow_methods: "GET".into(),
            allow_headers: "".into(),
            expose_headers: "".into(),
            max_age_secs: None,
            allow_credentials: false,
            ignore_unmatched_preflights: false,
        }));
        let mesh = Mesh::start(vec![route]).await;
        let preflight = [("origin", "o"), ("access-control-request-method", "GET")];
        let answer = mesh.send(request("OPTIONS", "/", &preflight, "")).await;
        assert_eq!((answer.code(), upstream.seen().len()), (200, 0));
        assert_eq!(answer.headers["access-control-allow-origin"], "o");
        assert_eq!(mesh.record().await.details, "cors_response");
        let answer = mesh.send(request("GET", "/", &[("origin", "o")], "")).await;
        assert_eq!(answer.headers["access-control-allow-origin"], "o");
        assert_eq!(upstream.seen().len(), 1);
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
        let upstream = Upstream::text("message").await;
        let mut grpc = cluster(&[upstream.address]);
        grpc.protocol = UpstreamProtocol::Http2;
        let mesh = Mesh::start(vec![forward(grpc)]).await;
        let headers = [("content-type", "application/grpc"), ("te", "trailers")];
        let call = || request("POST", "http://a/s/m", &headers, "ask");
        let answer = mesh.send_http2(call()).await;
        assert_eq!((answer.code(), &*answer.body), (200, "message"));
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
        assert_eq!(Method::GET, "GET");
    })
    .await;
}
