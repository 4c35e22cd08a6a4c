//! Retries: what is retried and how long to wait (VirtualService `retries`, Envoy
//! documentation, "x-envoy-retry-on", "x-envoy-retry-grpc-on" and back-off).

use std::time::Duration;

use http::{HeaderMap, HeaderName, StatusCode};

use crate::proxy::http::local_reply::GRPC_STATUS;
use crate::proxy::upstream::{Kind, TrafficError};
use crate::snapshot::policy::{RetryOn, RetryPolicy};

/// Bodies up to this many bytes are kept for a further attempt.
pub(crate) const BODY_MAX_BYTES: usize = 1024 * 1024;

const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

/// How one attempt ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Outcome<'a> {
    /// With a response head.
    Response(StatusCode, &'a HeaderMap),
    /// Without one.
    Failed(&'a TrafficError),
    /// Its own timeout.
    PerTryTimeout,
}

/// Whether the policy's conditions cover this outcome. Attempts left, buffered body
/// and retry breaker are the caller's.
pub(crate) fn is_retriable(policy: &RetryPolicy, outcome: Outcome<'_>) -> bool {
    let on = |condition| policy.on.contains(condition);
    match outcome {
        Outcome::Response(status, headers) => is_response_retriable(policy, status, headers),
        Outcome::PerTryTimeout => {
            on(RetryOn::FIVE_XX) || on(RetryOn::GATEWAY_ERROR) || on(RetryOn::RESET)
        }
        Outcome::Failed(error)
            if matches!(
                error.kind,
                Kind::Overflow | Kind::NoHealthyUpstream | Kind::RequestBody
            ) =>
        {
            false
        }
        Outcome::Failed(error) => {
            on(RetryOn::FIVE_XX)
                || on(RetryOn::GATEWAY_ERROR)
                || on(RetryOn::RESET)
                || (on(RetryOn::RESET_BEFORE_REQUEST) && !error.is_request_sent)
                || (on(RetryOn::CONNECT_FAILURE) && error.is_connect_failure())
                || (on(RetryOn::REFUSED_STREAM) && error.kind == Kind::RefusedStream)
        }
    }
}

fn is_response_retriable(policy: &RetryPolicy, status: StatusCode, headers: &HeaderMap) -> bool {
    let on = |condition| policy.on.contains(condition);
    if headers.contains_key(&RATE_LIMITED) {
        return on(RetryOn::RATE_LIMITED);
    }
    let code = status.as_u16();
    if (on(RetryOn::FIVE_XX) && status.is_server_error())
        || (on(RetryOn::GATEWAY_ERROR) && matches!(code, 502..=504))
        || (on(RetryOn::RETRIABLE_4XX) && code == 409)
        || (on(RetryOn::STATUS_CODES) && policy.status_codes.contains(&code))
    {
        return true;
    }
    match grpc_status(headers) {
        Some(1) => on(RetryOn::GRPC_CANCELLED),
        Some(4) => on(RetryOn::GRPC_DEADLINE_EXCEEDED),
        Some(8) => on(RetryOn::GRPC_RESOURCE_EXHAUSTED),
        Some(13) => on(RetryOn::GRPC_INTERNAL),
        Some(14) => on(RetryOn::GRPC_UNAVAILABLE),
        Some(_) | None => false,
    }
}

/// `grpc-status` of a header or trailer section.
pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

/// The wait before retry number `retry` (1, 2, ...) is uniform below this.
pub(crate) fn backoff_limit(policy: &RetryPolicy, retry: u32) -> Duration {
    let doubled = 1_u32
        .checked_shl(retry.saturating_sub(1))
        .and_then(|factor| policy.backoff_base.checked_mul(factor));
    doubled.map_or(policy.backoff_cap, |doubled| {
        doubled.min(policy.backoff_cap)
    })
}

/// The wait before retry number `retry`. `ticket`: uniform over 0..1.
pub(crate) fn backoff(policy: &RetryPolicy, retry: u32, ticket: f64) -> Duration {
    backoff_limit(policy, retry).mul_f64(ticket.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn policy(on: RetryOn) -> RetryPolicy {
        RetryPolicy {
            on,
            ..RetryPolicy::default()
        }
    }

    fn response_retriable(
        on: RetryOn,
        code: u16,
        headers: &[(&'static str, &'static str)],
    ) -> bool {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect();
        let status = StatusCode::from_u16(code).expect("a status");
        let policy = RetryPolicy {
            status_codes: vec![409, 503],
            ..policy(on)
        };
        is_retriable(&policy, Outcome::Response(status, &headers))
    }

    /// Checklist ids A117, A121, A122 and A124: each condition on responses.
    #[test]
    fn conditions_on_responses() {
        let grpc = |status| [("grpc-status", status)];
        for (on, code, headers, expected) in [
            (RetryOn::FIVE_XX, 500, &[][..], true),
            (RetryOn::FIVE_XX, 499, &[], false),
            (RetryOn::GATEWAY_ERROR, 502, &[], true),
            (RetryOn::GATEWAY_ERROR, 504, &[], true),
            (RetryOn::GATEWAY_ERROR, 500, &[], false),
            (RetryOn::RESET, 503, &[], false), // a response is no reset
            (RetryOn::RETRIABLE_4XX, 409, &[], true),
            (RetryOn::RETRIABLE_4XX, 429, &[], false),
            (RetryOn::STATUS_CODES, 409, &[], true), // A121
            (RetryOn::STATUS_CODES, 500, &[], false),
            (RetryOn::GRPC_UNAVAILABLE, 200, &grpc("14"), true), // A124
            (RetryOn::GRPC_UNAVAILABLE, 200, &grpc("13"), false),
            (RetryOn::GRPC_CANCELLED, 200, &grpc("1"), true),
            (RetryOn::GRPC_DEADLINE_EXCEEDED, 200, &grpc("4"), true),
            (RetryOn::GRPC_INTERNAL, 200, &grpc("13"), true),
            (RetryOn::GRPC_RESOURCE_EXHAUSTED, 200, &grpc("8"), true),
            (
                RetryOn::RATE_LIMITED,
                429,
                &[("x-envoy-ratelimited", "true")],
                true,
            ),
            (
                RetryOn::FIVE_XX,
                503,
                &[("x-envoy-ratelimited", "true")],
                false,
            ), // otherwise never
        ] {
            assert_eq!(
                response_retriable(on, code, headers,),
                expected,
                "{on:?} {code}"
            );
        }
        // A117 and A122: the default conditions leave 503 and 500 alone.
        let plain = RetryPolicy::default();
        for code in [500, 502, 503] {
            let status = StatusCode::from_u16(code).expect("a status");
            assert!(!is_retriable(
                &plain,
                Outcome::Response(status, &HeaderMap::new())
            ));
        }
    }

    #[test]
    fn conditions_on_missing_responses() {
        use Kind as K;
        for (on, kind, is_request_sent, expected) in [
            (RetryOn::FIVE_XX, K::ConnectionTermination, true, true),
            (RetryOn::FIVE_XX, K::ProtocolError, true, true),
            (RetryOn::GATEWAY_ERROR, K::RemoteReset, true, true),
            (RetryOn::RESET, K::ConnectionTermination, true, true),
            (RetryOn::RESET, K::ConnectFailed, false, true),
            (RetryOn::RESET_BEFORE_REQUEST, K::ConnectFailed, false, true),
            (
                RetryOn::RESET_BEFORE_REQUEST,
                K::ConnectionTermination,
                true,
                false,
            ),
            (RetryOn::CONNECT_FAILURE, K::ConnectFailed, false, true),
            (RetryOn::CONNECT_FAILURE, K::ConnectTimeout, false, true),
            (
                RetryOn::CONNECT_FAILURE,
                K::ConnectionTermination,
                true,
                false,
            ),
            (RetryOn::REFUSED_STREAM, K::RefusedStream, true, true),
            (RetryOn::REFUSED_STREAM, K::RemoteReset, true, false),
            (RetryOn::FIVE_XX, K::Overflow, false, false), // A127: overflow never
            (RetryOn::DEFAULT, K::ConnectionTermination, true, false), // UC is not in the defaults
            (RetryOn::DEFAULT, K::ConnectFailed, false, true),
            (RetryOn::DEFAULT, K::RefusedStream, true, true),
        ] {
            let error = TrafficError {
                is_request_sent,
                ..TrafficError::upstream(kind, None)
            };
            let outcome = Outcome::Failed(&error);
            assert_eq!(
                is_retriable(&policy(on), outcome),
                expected,
                "{on:?} {kind:?}"
            );
        }
    }

    /// Checklist id A114: which conditions cover the timeout of one attempt.
    #[test]
    fn a114_per_try_timeouts_need_5xx_gateway_error_or_reset() {
        for (on, expected) in [
            (RetryOn::FIVE_XX, true),
            (RetryOn::GATEWAY_ERROR, true),
            (RetryOn::RESET, true),
            (RetryOn::DEFAULT, false),
            (RetryOn::STATUS_CODES, false),
        ] {
            assert_eq!(
                is_retriable(&policy(on), Outcome::PerTryTimeout),
                expected,
                "{on:?}"
            );
        }
    }

    /// Checklist id A125: the ranges of the waits.
    #[test]
    fn a125_waits_double_up_to_the_cap() {
        let limits = |base: u64| {
            let policy = RetryPolicy {
                backoff_base: Duration::from_millis(base),
                backoff_cap: Duration::from_millis(base * 10),
                ..RetryPolicy::default()
            };
            [1, 2, 3, 4, 5, 40].map(|retry| backoff_limit(&policy, retry).as_millis())
        };
        assert_eq!(limits(25), [25, 50, 100, 200, 250, 250]);
        assert_eq!(limits(100), [100, 200, 400, 800, 1000, 1000]);
        let policy = RetryPolicy::default();
        assert_eq!(backoff(&policy, 1, 0.0), Duration::ZERO);
        assert!(backoff(&policy, 2, 0.999) < Duration::from_millis(50));
    }
}
