use super::*;
use crate::api::{HTTPRetry, Percent, StringMatch};

fn retry(written: Option<HTTPRetry>) -> RetryPolicy {
    let mut problems = Problems::default();
    compile_retry(
        written.as_ref(),
        &RetryPolicy::default(),
        &Place::for_test("http[0]"),
        &mut problems,
    )
}

#[test]
fn a119_to_a122_retries() {
    let written = |attempts, retry_on: &str| {
        Some(HTTPRetry {
            attempts,
            retry_on: retry_on.to_owned(),
            ..HTTPRetry::default()
        })
    };
    for (written, attempts, on, codes) in [
        (None, 2, RetryOn::DEFAULT, vec![]), // Istio's default policy
        (written(0, ""), 0, RetryOn::DEFAULT, vec![]), // A119: no retries
        (written(-1, ""), 0, RetryOn::DEFAULT, vec![]),
        (written(3, "5xx"), 3, RetryOn::FIVE_XX, vec![]), // A120
        (written(2, ""), 2, RetryOn::DEFAULT, vec![]),    // A122
        (
            written(1, " 503, ,409,reset"), // A121: blanks and empty items
            1,
            RetryOn::STATUS_CODES.union(RetryOn::RESET),
            vec![409, 503],
        ),
    ] {
        let found = retry(written.clone());
        assert_eq!(
            (found.attempts, found.on, found.status_codes),
            (attempts, on, codes),
            "{written:?}"
        );
    }
}

#[test]
fn a125_backoff_is_capped_at_ten_times_its_base() {
    let backoff = "100ms".parse().expect("a duration");
    let found = retry(Some(HTTPRetry {
        attempts: 3,
        backoff: Some(backoff),
        ..HTTPRetry::default()
    }));
    assert_eq!(found.backoff_base, Duration::from_millis(100));
    assert_eq!(found.backoff_cap, Duration::from_secs(1));
    assert_eq!(retry(None).backoff_cap, Duration::from_millis(250));
}

#[test]
fn an_unknown_condition_is_left_out_and_reported() {
    let mut problems = Problems::default();
    let place = Place::for_test("http[0]");
    let written = HTTPRetry {
        attempts: 1,
        retry_on: "5xx,often".to_owned(),
        ..HTTPRetry::default()
    };
    let found = compile_retry(
        Some(&written),
        &RetryPolicy::default(),
        &place,
        &mut problems,
    );
    assert_eq!(found.on, RetryOn::FIVE_XX);
    assert_eq!(problems.into_findings().len(), 1);
}

#[test]
fn a129_a130_a131_faults_need_a_share() {
    let percent = |value| Some(Percent { value });
    let delay = |percentage, percent| api::HTTPFaultInjection {
        delay: Some(api::FaultDelay {
            percent,
            percentage,
            fixed_delay: Some("2s".parse().expect("a duration")),
            exponential_delay: None,
        }),
        abort: None,
    };
    let abort = |percentage, http_status, grpc: Option<&str>| api::HTTPFaultInjection {
        delay: None,
        abort: Some(api::FaultAbort {
            http_status,
            grpc_status: grpc.map(str::to_owned),
            http2_error: None,
            percentage,
        }),
    };
    let teapot = AbortWith::Http(StatusCode::IM_A_TEAPOT);
    let two_seconds = Duration::from_secs(2);
    for (written, expected_delay, expected_abort) in [
        (delay(percent(100.0), None), Some((ALL, two_seconds)), None),
        (delay(None, Some(10)), Some((100_000, two_seconds)), None), // deprecated
        (delay(None, None), None, None),                             // A129
        (
            abort(percent(50.0), Some(418), None),
            None,
            Some((500_000, teapot)),
        ),
        (abort(None, Some(418), None), None, None),
        (
            abort(percent(100.0), None, Some("UNAVAILABLE")),
            None,
            Some((ALL, AbortWith::Grpc(14))),
        ),
        (abort(percent(100.0), None, Some("unavailable")), None, None), // no such name
    ] {
        let mut problems = Problems::default();
        let found = compile_fault(&written, &Place::for_test("http[0]"), &mut problems);
        let found = found.unwrap_or_default();
        assert_eq!(found.delay, expected_delay, "{written:?}");
        assert_eq!(found.abort, expected_abort, "{written:?}");
    }
}

#[test]
fn a136_mirror_shares() {
    let route = |percentage: Option<f64>, percent| api::HTTPRoute {
        mirror_percentage: percentage.map(|value| Percent { value }),
        mirror_percent: percent,
        ..api::HTTPRoute::default()
    };
    for (written, expected) in [
        (route(None, None), ALL),
        (route(Some(25.0), None), 250_000),
        (route(Some(0.0), None), 0), // an explicit zero is off
        (route(Some(1.0), Some(50)), 10_000),
        (route(None, Some(50)), 500_000),
    ] {
        assert_eq!(mirror_share(&written), expected, "{written:?}");
    }
}

#[test]
fn a138_origins_and_joined_lists() {
    let written = api::CorsPolicy {
        allow_origins: vec![StringMatch::Exact("o".into())],
        allow_methods: vec!["GET".into(), "POST".into()],
        max_age: Some("24h".parse().expect("a duration")),
        ..api::CorsPolicy::default()
    };
    let mut problems = Problems::default();
    let place = Place::for_test("http[0]");
    let found = compile_cors(&written, &place, &mut problems);
    assert_eq!(&*found.allow_methods, "GET,POST");
    assert_eq!(&*found.allow_headers, ""); // no header is sent
    assert_eq!(found.max_age_secs, Some(86_400));
    assert!(found.allow_origins[0].is_match(b"o"));
    assert!(!found.allow_origins[0].is_match(b"p"));

    let star = api::CorsPolicy {
        allow_origin: vec!["*".into()],
        ..api::CorsPolicy::default()
    };
    let found = compile_cors(&star, &place, &mut problems);
    assert!(found.allow_origins[0].is_match(b"anything"));
}
