//! CORS on forwarding routes (VirtualService `corsPolicy`, Envoy's CORS filter).
//!
//! Never rejects: a preflight of an allowed origin is answered, every other request
//! goes on, and responses to allowed origins get headers.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::snapshot::policy::CorsPolicy;

/// What the policy does with one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CorsDecision {
    /// Goes on; its response stays as it is.
    Untouched,
    /// Answered here: 200, empty body, these headers.
    Preflight(HeaderMap),
    /// Goes on; the response is for this allowed origin.
    Actual(HeaderValue),
}

/// Decides by received headers.
pub(crate) fn decide(policy: &CorsPolicy, method: &Method, headers: &HeaderMap) -> CorsDecision {
    let Some(origin) = headers.get(ORIGIN) else {
        return CorsDecision::Untouched;
    };
    let is_allowed = policy
        .allow_origins
        .iter()
        .any(|matcher| matcher.is_match(b"*") || matcher.is_match(origin.as_bytes()));
    let requested = headers
        .get(ACCESS_CONTROL_REQUEST_METHOD)
        .filter(|requested| !requested.is_empty() && method == Method::OPTIONS);
    match (requested, is_allowed) {
        (Some(requested), true) => {
            let mut reply = preflight(policy, requested, headers);
            reply.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            put(
                &mut reply,
                ACCESS_CONTROL_EXPOSE_HEADERS,
                &policy.expose_headers,
            );
            CorsDecision::Preflight(reply)
        }
        (Some(requested), false) if policy.ignore_unmatched_preflights => {
            CorsDecision::Preflight(preflight(policy, requested, headers))
        }
        (None, true) => CorsDecision::Actual(origin.clone()),
        (_, false) => CorsDecision::Untouched,
    }
}

/// Headers that every answered preflight has.
fn preflight(policy: &CorsPolicy, requested: &HeaderValue, headers: &HeaderMap) -> HeaderMap {
    let mut reply = HeaderMap::new();
    if policy.allow_credentials {
        reply.insert(
            ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        );
    }
    if &*policy.allow_methods == "*" {
        reply.insert(ACCESS_CONTROL_ALLOW_METHODS, requested.clone());
    } else {
        put(
            &mut reply,
            ACCESS_CONTROL_ALLOW_METHODS,
            &policy.allow_methods,
        );
    }
    if &*policy.allow_headers == "*" {
        let requested = headers.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned();
        reply.insert(
            ACCESS_CONTROL_ALLOW_HEADERS,
            requested.unwrap_or(HeaderValue::from_static("")),
        );
    } else {
        put(
            &mut reply,
            ACCESS_CONTROL_ALLOW_HEADERS,
            &policy.allow_headers,
        );
    }
    if let Some(seconds) = policy.max_age_secs {
        reply.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(seconds));
    }
    reply
}

/// Overwrites what an upstream response says to an allowed origin; what the policy
/// does not set stays.
pub(crate) fn finish_response(policy: &CorsPolicy, origin: HeaderValue, headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    if policy.allow_credentials {
        headers.insert(
            ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        );
    }
    put(
        headers,
        ACCESS_CONTROL_EXPOSE_HEADERS,
        &policy.expose_headers,
    );
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if value.is_empty() {
        return;
    }
    // Validation has refused lists that are no header value.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::matchers::StringMatcher;

    fn policy() -> CorsPolicy {
        CorsPolicy {
            allow_origins: vec![StringMatcher::Exact("o".into())],
            allow_methods: "GET,POST".into(),
            allow_headers: "*".into(),
            expose_headers: "x-exposed".into(),
            max_age_secs: Some(60),
            allow_credentials: true,
            ignore_unmatched_preflights: false,
        }
    }

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    fn preflight_from(origin: &'static str) -> HeaderMap {
        headers(&[("origin", origin), ("access-control-request-method", "PUT")])
    }

    /// Checklist id A138.
    #[test]
    fn a138_a_preflight_of_an_allowed_origin_is_answered() {
        let asked = headers(&[
            ("origin", "o"),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "x-a"),
        ]);
        let expected = headers(&[
            ("access-control-allow-origin", "o"),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-methods", "GET,POST"), // the list, whatever was asked
            ("access-control-allow-headers", "x-a"),      // `*` echoes
            ("access-control-max-age", "60"),
            ("access-control-expose-headers", "x-exposed"),
        ]);
        let decision = decide(&policy(), &Method::OPTIONS, &asked);
        assert_eq!(decision, CorsDecision::Preflight(expected));
    }

    #[test]
    fn stars_echo_and_empty_lists_are_left_out() {
        let policy = CorsPolicy {
            allow_origins: vec![StringMatcher::Exact("*".into())], // allows every origin
            allow_methods: "*".into(),
            allow_headers: "".into(),
            expose_headers: "".into(),
            max_age_secs: None,
            allow_credentials: false,
            ignore_unmatched_preflights: false,
        };
        let expected = headers(&[
            ("access-control-allow-origin", "p"), // never `*`
            ("access-control-allow-methods", "PUT"),
        ]);
        let decision = decide(&policy, &Method::OPTIONS, &preflight_from("p"));
        assert_eq!(decision, CorsDecision::Preflight(expected));
        let policy = CorsPolicy {
            allow_headers: "*".into(),
            ..policy
        };
        let CorsDecision::Preflight(reply) =
            decide(&policy, &Method::OPTIONS, &preflight_from("p"))
        else {
            panic!("a preflight");
        };
        assert_eq!(reply["access-control-allow-headers"], ""); // nothing was asked
    }

    /// Checklist id A139.
    #[test]
    fn a139_a_preflight_of_another_origin_is_forwarded_or_ignored() {
        let asked = preflight_from("p");
        assert_eq!(
            decide(&policy(), &Method::OPTIONS, &asked),
            CorsDecision::Untouched
        );
        let ignoring = CorsPolicy {
            ignore_unmatched_preflights: true,
            ..policy()
        };
        let CorsDecision::Preflight(reply) = decide(&ignoring, &Method::OPTIONS, &asked) else {
            panic!("answered here");
        };
        assert!(!reply.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
        assert!(!reply.contains_key(ACCESS_CONTROL_EXPOSE_HEADERS));
        assert_eq!(reply[ACCESS_CONTROL_MAX_AGE], "60");
    }

    /// Checklist ids A140 and A141.
    #[test]
    fn a140_a141_other_requests_are_forwarded() {
        let from_o = headers(&[("origin", "o")]);
        let actual = CorsDecision::Actual(HeaderValue::from_static("o"));
        for (name, method, asked, expected) in [
            (
                "A140: not allowed",
                Method::GET,
                headers(&[("origin", "p")]),
                CorsDecision::Untouched,
            ),
            ("allowed", Method::GET, from_o.clone(), actual.clone()),
            (
                "A141: OPTIONS without Request-Method",
                Method::OPTIONS,
                from_o,
                actual.clone(),
            ),
            (
                "an empty Request-Method is none",
                Method::OPTIONS,
                headers(&[("origin", "o"), ("access-control-request-method", "")]),
                actual,
            ),
            (
                "no Origin",
                Method::OPTIONS,
                HeaderMap::new(),
                CorsDecision::Untouched,
            ),
        ] {
            assert_eq!(decide(&policy(), &method, &asked), expected, "{name}");
        }
    }

    #[test]
    fn responses_to_allowed_origins_are_overwritten_where_the_policy_speaks() {
        let mut response = headers(&[
            ("access-control-allow-origin", "*"),
            ("access-control-allow-methods", "upstream"),
        ]);
        finish_response(&policy(), HeaderValue::from_static("o"), &mut response);
        assert_eq!(
            response,
            headers(&[
                ("access-control-allow-origin", "o"),
                ("access-control-allow-methods", "upstream"),
                ("access-control-allow-credentials", "true"),
                ("access-control-expose-headers", "x-exposed"),
            ])
        );
    }
}
