//! Whole requests through a real client, the proxy and real upstreams: timeouts,
//! retries, faults, mirrors, CORS.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use http_body_util::{BodyExt, Full};

use super::testing::*;
use crate::snapshot::clusters::ClusterRef;
use crate::snapshot::matchers::StringMatcher;
use crate::snapshot::policy::{
    AbortWith, ConsistentHash, CorsPolicy, FaultPolicy, HashKey, HashTable, LoadBalancer,
    MirrorPolicy, RetryOn, RetryPolicy,
};

const ALWAYS: u32 = 1_000_000;

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

/// Checklist id A113: back-off and attempts count.
#[tokio::test]
async fn a113_the_route_timeout_covers_all_retries() {
    local(async {
        let upstream = Upstream::start(|_, _| ready(503, "")).await;
        let mut route = forward(cluster(&[upstream.address]));
        route.timeout = Some(ms(100));
        route.retry = Some(Arc::new(RetryPolicy {
            on: RetryOn::FIVE_XX,
            attempts: 1000,
            backoff_base: ms(30),
            backoff_cap: ms(300),
            ..RetryPolicy::default()
        }));
        let mesh = Mesh::start(vec![route]).await;
        assert_eq!(mesh.send(get("/")).await.code(), 504);
        assert_eq!(mesh.record().await.details, "response_timeout");
    })
    .await;
}

/// A response that has begun breaks off at the timeout, with its code.
#[tokio::test]
async fn a_response_that_has_begun_breaks_off_at_the_route_timeout() {
    local(async {
        let upstream = Upstream::start(|_, _| {
            let frames = futures_util::stream::once(std::future::ready(Ok(
                http_body::Frame::data(Bytes::from_static(b"begun")),
            )));
            let endless = futures_util::StreamExt::chain(frames, futures_util::stream::pending());
            let body = BodyExt::boxed(http_body_util::StreamBody::new(endless));
            Box::pin(std::future::ready(http::Response::new(body)))
        })
        .await;
        let mut route = forward(cluster(&[upstream.address]));
        route.timeout = Some(ms(100));
        let mesh = Mesh::start(vec![route]).await;
        let answer = mesh.send(get("/")).await;
        assert_eq!((answer.code(), &*answer.body), (200, "begun"));
        assert!(answer.is_broken_off);
        let record = mesh.record().await;
        assert_eq!(
            (record.response_code, record.flags.text()),
            (200, "UT".into())
        );
    })
    .await;
}

/// Checklist ids A123 and A124.
#[tokio::test]
async fn a123_a124_retries_avoid_hosts_and_read_grpc_status() {
    local(async {
        // All see one counter, so the first host that is asked fails, whichever it is.
        let failing = || Upstream::start(|_, _| ready(503, ""));
        let (first, second) = (failing().await, failing().await);
        let mut route = forward(cluster(&[first.address, second.address]));
        route.retry = retrying(RetryOn::FIVE_XX, 1);
        let mesh = Mesh::start(vec![route]).await;
        for _ in 0..10 {
            mesh.send(get("/")).await;
        }
        let (first, second) = (first.seen().len(), second.seen().len());
        assert_eq!(first + second, 20);
        // The same host twice needs six equal picks: 10 requests differ by 2 at most, in
        // all but one of many runs.
        assert!(first.abs_diff(second) <= 4, "{first} {second}");

        let upstream = Upstream::start(|number, _| {
            let mut response = http::Response::new(Full::new(Bytes::new()).boxed());
            let status = if number == 0 { "14" } else { "0" };
            let headers = response.headers_mut();
            headers.insert("grpc-status", HeaderValue::from_static(status));
            Box::pin(std::future::ready(response))
        })
        .await;
        let mut route = forward(cluster(&[upstream.address]));
        route.retry = retrying(RetryOn::GRPC_UNAVAILABLE, 2);
        let mesh = Mesh::start(vec![route]).await;
        let answer = mesh.send(get("/")).await;
        assert_eq!(answer.headers["grpc-status"], "0");
        assert_eq!(upstream.seen().len(), 2);
    })
    .await;
}

/// Checklist id A127, and a retry that the breaker forbids.
#[tokio::test]
async fn a127_overflow_is_never_retried_and_forbidden_retries_say_uo() {
    local(async {
        let upstream = Upstream::start(|_, _| ready(503, "busy")).await;
        for (max_requests, max_retries, flags, body) in
            [(0, 9, "UO", None), (9, 0, "UO", Some("busy"))]
        {
            let mut limited = cluster(&[upstream.address]);
            limited.policy.pool.max_requests = max_requests;
            limited.policy.pool.max_retries = max_retries;
            let mut route = forward(limited);
            route.retry = retrying(RetryOn::FIVE_XX, 3);
            let mesh = Mesh::start(vec![route]).await;
            let answer = mesh.send(get("/")).await;
            assert_eq!(answer.code(), 503);
            let is_overloaded = answer.headers.contains_key("x-envoy-overloaded");
            assert_eq!(is_overloaded, body.is_none());
            assert!(body.is_none_or(|body| answer.body == body));
            let record = mesh.record().await;
            assert_eq!((record.flags.text(), record.retry_count), (flags.into(), 0));
        }
        assert_eq!(upstream.seen().len(), 1);
    })
    .await;
}

/// Checklist ids A130 and A136: shares, within 4.5 standard deviations.
#[tokio::test]
async fn a130_a136_shares_are_drawn_per_request() {
    local(async {
        let (main, copied) = (Upstream::text("ok").await, Upstream::text("").await);
        let mut route = forward(cluster(&[main.address]));
        route.fault = Some(Arc::new(FaultPolicy {
            delay: None,
            abort: Some((ALWAYS / 2, AbortWith::Http(StatusCode::IM_A_TEAPOT))),
        }));
        route.mirrors.push(MirrorPolicy {
            cluster: ClusterRef::Known(Arc::new(cluster(&[copied.address]))),
            share: ALWAYS / 4,
        });
        let mesh = Mesh::start(vec![route]).await;
        let mut aborted = 0;
        for _ in 0..400 {
            aborted += usize::from(mesh.send(get("/")).await.code() == 418);
        }
        tokio::time::sleep(ms(200)).await;
        let (passed, copies) = (main.seen().len(), copied.seen().len());
        assert_eq!(passed + aborted, 400);
        assert!(aborted.abs_diff(200) <= 45, "{aborted}"); // sd 10
        assert!(copies.abs_diff(passed / 4) <= 28, "{copies} of {passed}"); // sd 6.1
    })
    .await;
}

/// A cookie that the policy asks for is set once and then decides.
#[tokio::test]
async fn a_hash_cookie_is_set_when_it_is_missing() {
    local(async {
        let upstream = Upstream::text("ok").await;
        let mut hashed = cluster(&[upstream.address]);
        hashed.policy.load_balancer = LoadBalancer::ConsistentHash(Arc::new(ConsistentHash {
            key: HashKey::Cookie {
                name: "s".into(),
                path: Some("/".into()),
                ttl: Some(Duration::ZERO),
                attributes: vec![],
            },
            table: HashTable::Ring { minimum_size: 64 },
        }));
        let mesh = Mesh::start(vec![forward(hashed)]).await;
        let answer = mesh.send(get("/")).await;
        let cookie = answer.headers["set-cookie"].to_str().expect("ASCII");
        assert!(
            cookie.starts_with("s=\"") && cookie.ends_with("\"; Path=/; HttpOnly"),
            "{cookie}"
        );
        let answer = mesh
            .send(request("GET", "/", &[("cookie", "s=v")], ""))
            .await;
        assert!(!answer.headers.contains_key("set-cookie"));
    })
    .await;
}

/// A mirror gets a body beyond the retry buffer whole.
#[tokio::test]
async fn a_large_body_is_mirrored_whole() {
    local(async {
        let (main, copied) = (Upstream::text("ok").await, Upstream::text("").await);
        let mut route = forward(cluster(&[main.address]));
        route.mirrors.push(MirrorPolicy {
            cluster: ClusterRef::Known(Arc::new(cluster(&[copied.address]))),
            share: ALWAYS,
        });
        let mesh = Mesh::start(vec![route]).await;
        mesh.send(request("POST", "/", &[], &"x".repeat(3 << 20)))
            .await;
        for _ in 0..200 {
            if !copied.seen().is_empty() {
                break;
            }
            tokio::time::sleep(ms(10)).await;
        }
        assert_eq!(copied.seen()[0].body.len(), 3 << 20);
    })
    .await;
}
