//! Retries, faults, mirror shares and CORS of one rule.
//!
//! Source: Istio pilot/pkg/networking/core/route/retry/retry.go and route.go.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use crate::api;
use crate::snapshot::matchers::StringMatcher;
use crate::snapshot::policy::{
    AbortWith, CorsPolicy, FaultPolicy, PartsPerMillion, RetryOn, RetryPolicy,
};

use super::matcher::compile_string;
use super::rule::{Place, Problems};

/// All requests.
const ALL: PartsPerMillion = 1_000_000;
/// Parts per million of one percent.
const PPM_PER_PERCENT: u32 = 10_000;

/// A timeout; unset and zero mean none.
pub(crate) fn timeout(written: Option<api::Duration>) -> Option<Duration> {
    written
        .map(api::Duration::get)
        .filter(|time| !time.is_zero())
}

/// `skips_hosts_by_default`: whether hosts already tried are skipped where the rule does not
/// say; Istio's answer is no for a single destination with consistent hashing.
pub(crate) fn compile_retry(
    retries: Option<&api::HTTPRetry>,
    skips_hosts_by_default: bool,
    place: &Place,
    problems: &mut Problems,
) -> RetryPolicy {
    let default = RetryPolicy {
        skip_previous_hosts: skips_hosts_by_default,
        ..RetryPolicy::default()
    };
    let Some(retries) = retries else {
        return default;
    };
    let attempts = u32::try_from(retries.attempts).unwrap_or(0);
    let (on, status_codes) = parse_retry_on(&retries.retry_on, place, problems);
    let (backoff_base, backoff_cap) = match timeout(retries.backoff) {
        Some(base) => (base, base.saturating_mul(10)),
        None => (default.backoff_base, default.backoff_cap),
    };
    RetryPolicy {
        attempts,
        on,
        status_codes,
        per_try_timeout: timeout(retries.per_try_timeout),
        backoff_base,
        backoff_cap,
        skip_previous_hosts: retries
            .retry_ignore_previous_hosts
            .unwrap_or(skips_hosts_by_default),
        remote_localities: retries.retry_remote_localities.unwrap_or(false),
    }
}

/// Comma separated conditions; status codes among them switch on `retriable-status-codes`.
fn parse_retry_on(text: &str, place: &Place, problems: &mut Problems) -> (RetryOn, Vec<u16>) {
    let items = || {
        text.split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
    };
    if items().next().is_none() {
        return (RetryOn::DEFAULT, Vec::new());
    }
    let mut on = RetryOn::default();
    let mut codes = Vec::new();
    for item in items() {
        if let Some(code) = known_status(item) {
            on = on.union(RetryOn::STATUS_CODES);
            codes.push(code);
            continue;
        }
        match retry_condition(item) {
            Some(condition) => on = on.union(condition),
            None => problems.error(
                "retry-on",
                &place.field("retries.retryOn"),
                format!("{item:?} is no condition that is honoured; the rule acts without it"),
            ),
        }
    }
    codes.sort_unstable();
    codes.dedup();
    (on, codes)
}

fn known_status(item: &str) -> Option<u16> {
    let status = StatusCode::from_u16(item.parse().ok()?).ok()?;
    status.canonical_reason().map(|_| status.as_u16())
}

/// Envoy's `x-envoy-retry-on` and `x-envoy-retry-grpc-on`. Retries by response header are
/// never on, since Istio has no field for the header's name; HTTP/3 is not spoken.
fn retry_condition(item: &str) -> Option<RetryOn> {
    Some(match item {
        "5xx" => RetryOn::FIVE_XX,
        "gateway-error" => RetryOn::GATEWAY_ERROR,
        "reset" => RetryOn::RESET,
        "reset-before-request" => RetryOn::RESET_BEFORE_REQUEST,
        "connect-failure" => RetryOn::CONNECT_FAILURE,
        "refused-stream" => RetryOn::REFUSED_STREAM,
        "retriable-4xx" => RetryOn::RETRIABLE_4XX,
        "retriable-status-codes" => RetryOn::STATUS_CODES,
        "envoy-ratelimited" => RetryOn::RATE_LIMITED,
        "cancelled" => RetryOn::GRPC_CANCELLED,
        "deadline-exceeded" => RetryOn::GRPC_DEADLINE_EXCEEDED,
        "internal" => RetryOn::GRPC_INTERNAL,
        "resource-exhausted" => RetryOn::GRPC_RESOURCE_EXHAUSTED,
        "unavailable" => RetryOn::GRPC_UNAVAILABLE,
        "retriable-headers" | "http3-post-connect-failure" => RetryOn::default(),
        _ => return None,
    })
}

/// `None` when nothing is ever injected: a share that is not written is no share.
pub(crate) fn compile_fault(
    fault: &api::HTTPFaultInjection,
    place: &Place,
    problems: &mut Problems,
) -> Option<FaultPolicy> {
    let place = place.field("fault");
    let delay = fault.delay.as_ref().and_then(|delay| {
        let share = match (delay.percentage, delay.percent) {
            (Some(percentage), _) => percentage.parts_per_million(),
            (None, percent) => whole_percents(percent.and_then(|value| u32::try_from(value).ok())),
        };
        let length = timeout(delay.fixed_delay)?;
        (share > 0).then_some((share, length))
    });
    let abort = fault.abort.as_ref().and_then(|abort| {
        let share = abort.percentage.map_or(0, api::Percent::parts_per_million);
        let answer = compile_abort(abort, &place.field("abort"), problems)?;
        (share > 0).then_some((share, answer))
    });
    let policy = FaultPolicy { delay, abort };
    (policy != FaultPolicy::default()).then_some(policy)
}

fn compile_abort(
    abort: &api::FaultAbort,
    place: &Place,
    problems: &mut Problems,
) -> Option<AbortWith> {
    if let Some(name) = &abort.grpc_status {
        let number = grpc_status_number(name);
        if number.is_none() {
            problems.error(
                "grpc-status",
                &place.field("grpcStatus"),
                format!(
                    "{name:?} is no gRPC status, use a name such as UNAVAILABLE; nothing is aborted"
                ),
            );
        }
        return number.map(AbortWith::Grpc);
    }
    let Some(status) = abort.http_status else {
        problems.warning(
            "fault-abort",
            place,
            "neither httpStatus nor grpcStatus is set; nothing is aborted",
        );
        return None;
    };
    let status = u16::try_from(status)
        .ok()
        .and_then(|status| StatusCode::from_u16(status).ok());
    if status.is_none() {
        problems.error(
            "http-status",
            &place.field("httpStatus"),
            "this is no status code; nothing is aborted",
        );
    }
    status.map(AbortWith::Http)
}

/// Source: <https://grpc.github.io/grpc/core/md_doc_statuscodes.html>.
fn grpc_status_number(name: &str) -> Option<u8> {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    let at = NAMES.iter().position(|known| *known == name)?;
    u8::try_from(at).ok()
}

fn whole_percents(percent: Option<u32>) -> PartsPerMillion {
    percent
        .unwrap_or(0)
        .min(100)
        .saturating_mul(PPM_PER_PERCENT)
}

/// Share of `mirror`: `mirrorPercentage`, else the deprecated `mirrorPercent`, else all.
pub(crate) fn mirror_share(route: &api::HTTPRoute) -> PartsPerMillion {
    match (route.mirror_percentage, route.mirror_percent) {
        (Some(percentage), _) => percentage.parts_per_million(),
        (None, Some(percent)) => whole_percents(Some(percent)),
        (None, None) => ALL,
    }
}

/// Share of one entry of `mirrors`.
pub(crate) fn mirrors_share(mirror: &api::HTTPMirrorPolicy) -> PartsPerMillion {
    mirror
        .percentage
        .map_or(ALL, api::Percent::parts_per_million)
}

/// Lists are joined here, so that a request only copies them.
pub(crate) fn compile_cors(
    cors: &api::CorsPolicy,
    place: &Place,
    problems: &mut Problems,
) -> CorsPolicy {
    let place = place.field("corsPolicy");
    let exact = |origin: &String| StringMatcher::Exact(origin.as_str().into());
    let mut allow_origins: Vec<StringMatcher> = Vec::new();
    if cors.allow_origins.is_empty() {
        allow_origins.extend(cors.allow_origin.iter().map(exact));
    }
    for (index, origin) in cors.allow_origins.iter().enumerate() {
        match compile_string(origin, false) {
            Ok(matcher) => allow_origins.extend(matcher),
            Err(bad) => problems.error(
                "regex",
                &place.entry("allowOrigins", index),
                format!("{bad}; this origin is not allowed"),
            ),
        }
    }
    // Envoy: a matcher that matches the literal text `*` allows every origin.
    if allow_origins.iter().any(|origin| origin.is_match(b"*")) {
        allow_origins = vec![StringMatcher::Prefix("".into())];
    }
    CorsPolicy {
        allow_origins,
        allow_methods: Arc::from(cors.allow_methods.join(",")),
        allow_headers: Arc::from(cors.allow_headers.join(",")),
        expose_headers: Arc::from(cors.expose_headers.join(",")),
        max_age_secs: cors.max_age.map(|age| age.get().as_secs()),
        allow_credentials: cors.allow_credentials.unwrap_or(false),
        ignore_unmatched_preflights: cors.unmatched_preflights == api::UnmatchedPreflights::Ignore,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{HTTPRetry, Percent, StringMatch};

    fn retry(written: Option<HTTPRetry>) -> RetryPolicy {
        let mut problems = Problems::default();
        compile_retry(
            written.as_ref(),
            true,
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
        let (on, _) = parse_retry_on("5xx,often", &place, &mut problems);
        assert_eq!(on, RetryOn::FIVE_XX);
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
}
