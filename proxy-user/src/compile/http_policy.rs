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

/// The policy of a rule. `default`: where the rule has none; whether hosts already tried are
/// skipped is taken from it where the rule does not say.
pub(crate) fn compile_retry(
    retries: Option<&api::HTTPRetry>,
    default: &RetryPolicy,
    place: &Place,
    problems: &mut Problems,
) -> RetryPolicy {
    read_retry(retries, default, |item| {
        problems.error(
            "retry-on",
            &place.field("retries.retryOn"),
            format!("{item:?} is no condition that is honoured; the rule acts without it"),
        );
    })
}

/// Like [`compile_retry`]; `on_unknown` is told conditions that are not known.
pub(crate) fn read_retry(
    retries: Option<&api::HTTPRetry>,
    default: &RetryPolicy,
    on_unknown: impl FnMut(&str),
) -> RetryPolicy {
    let Some(retries) = retries else {
        return default.clone();
    };
    let builtin = RetryPolicy::default();
    let attempts = u32::try_from(retries.attempts).unwrap_or(0);
    let (on, status_codes) = parse_retry_on(&retries.retry_on, on_unknown);
    let (backoff_base, backoff_cap) = match timeout(retries.backoff) {
        Some(base) => (base, base.saturating_mul(10)),
        None => (builtin.backoff_base, builtin.backoff_cap),
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
            .unwrap_or(default.skip_previous_hosts),
        remote_localities: retries.retry_remote_localities.unwrap_or(false),
    }
}

/// Comma separated conditions; status codes among them switch on `retriable-status-codes`.
fn parse_retry_on(text: &str, mut on_unknown: impl FnMut(&str)) -> (RetryOn, Vec<u16>) {
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
            None => on_unknown(item),
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
        let number = api::grpc_status_number(name);
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
#[path = "http_policy_tests.rs"]
mod tests;
