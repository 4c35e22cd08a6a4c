//! The rules of what one HTTP route of a VirtualService does besides forwarding:
//! retries, faults, copies, cross-origin policy, redirects, answers, rewrites.
//!
//! Source: pkg/config/validation/virtualservice.go and validation.go in istio/istio.

use super::{Report, names};
use crate::api::{
    CorsPolicy, FaultAbort, FaultDelay, HTTPDirectResponse, HTTPFaultInjection, HTTPRedirect,
    HTTPRetry, HTTPRewrite, HTTPRoute, Percent, StringMatch, VirtualService, grpc_status_number,
};

/// Largest body of a fixed answer, and the size from which it is said to be large, in bytes.
const BODY_LEN_MAX_BYTES: usize = 1 << 20;
const BODY_LEN_LARGE_BYTES: usize = 100 << 10;

impl Report<'_, VirtualService> {
    /// `retries`.
    pub(super) fn retries(&mut self, path: &str, retries: &HTTPRetry) {
        const CODE: &str = "retries";
        if retries.attempts < 0 {
            let message = format!("expected at least 0, found {}", retries.attempts);
            self.error(&format!("{path}.attempts"), CODE, message);
        }
        if retries.attempts == 0 {
            for (field, is_set) in [
                ("perTryTimeout", retries.per_try_timeout.is_some()),
                ("retryOn", !retries.retry_on.is_empty()),
                (
                    "retryRemoteLocalities",
                    retries.retry_remote_localities.is_some(),
                ),
            ] {
                if is_set {
                    let message = "has no effect without attempts; set attempts to 1 or more";
                    self.error(&format!("{path}.{field}"), CODE, message);
                }
            }
        }
        self.duration(&format!("{path}.perTryTimeout"), retries.per_try_timeout);
        self.duration(&format!("{path}.backoff"), retries.backoff);
        if retries.retry_on.is_empty() {
            return;
        }
        for item in retries.retry_on.split(',') {
            if !is_retry_condition(item) {
                let message = format!(
                    "unknown condition {item:?}; expected conditions of Envoy's retry policy or \
                     status codes, separated by commas without blanks"
                );
                self.error(&format!("{path}.retryOn"), CODE, message);
            }
        }
    }

    /// `fault`.
    pub(super) fn fault(&mut self, path: &str, fault: &HTTPFaultInjection) {
        if fault.delay.is_none() && fault.abort.is_none() {
            self.error(path, "fault", "expected delay or abort, found none");
        }
        if let Some(delay) = &fault.delay {
            self.fault_delay(&format!("{path}.delay"), delay);
        }
        if let Some(abort) = &fault.abort {
            self.fault_abort(&format!("{path}.abort"), abort);
        }
    }

    fn fault_delay(&mut self, path: &str, delay: &FaultDelay) {
        const CODE: &str = "fault";
        self.fault_share(&format!("{path}.percentage"), delay.percentage);
        if delay
            .percent
            .is_some_and(|percent| !(0..=100).contains(&percent))
        {
            self.error(
                &format!("{path}.percent"),
                CODE,
                "expected a percentage from 0 to 100",
            );
        }
        if delay.exponential_delay.is_some() {
            let message = "not supported by Istio; use fixedDelay";
            self.error(&format!("{path}.exponentialDelay"), CODE, message);
        } else if delay.fixed_delay.is_none() {
            self.error(path, CODE, "expected fixedDelay, found none");
        }
        self.duration(&format!("{path}.fixedDelay"), delay.fixed_delay);
    }

    fn fault_abort(&mut self, path: &str, abort: &FaultAbort) {
        const CODE: &str = "fault";
        self.fault_share(&format!("{path}.percentage"), abort.percentage);
        let kinds = [
            abort.http_status.is_some(),
            abort.grpc_status.is_some(),
            abort.http2_error.is_some(),
        ];
        match kinds.into_iter().filter(|is_set| *is_set).count() {
            0 => self.warn(
                path,
                CODE,
                "no httpStatus and no grpcStatus: nothing is aborted",
            ),
            1 => {}
            _ => self.error(
                path,
                CODE,
                "only one of httpStatus and grpcStatus can be set",
            ),
        }
        if abort
            .http_status
            .is_some_and(|status| !(200..=600).contains(&status))
        {
            let message = "expected a status from 200 to 600";
            self.error(&format!("{path}.httpStatus"), CODE, message);
        }
        if let Some(status) = &abort.grpc_status
            && grpc_status_number(status).is_none()
        {
            let message = format!("unknown status {status:?}; expected one such as UNAVAILABLE");
            self.error(&format!("{path}.grpcStatus"), CODE, message);
        }
        if abort.http2_error.is_some() {
            let message = "not supported by Istio; use httpStatus or grpcStatus";
            self.error(&format!("{path}.http2Error"), CODE, message);
        }
    }

    fn fault_share(&mut self, field: &str, share: Option<Percent>) {
        let is_good =
            |share: Percent| share.value == 0.0 || (0.0001..=100.0).contains(&share.value);
        if let Some(share) = share.filter(|share| !is_good(*share)) {
            let message = format!(
                "expected 0, or a percentage from 0.0001 to 100, found {}",
                share.value
            );
            self.error(field, "percentage", message);
        }
    }

    /// `mirror` and `mirrors`.
    pub(super) fn mirrors(&mut self, path: &str, route: &HTTPRoute) {
        if route.mirror.is_some() && !route.mirrors.is_empty() {
            let message = "only one of mirror and mirrors can be set";
            self.error(&format!("{path}.mirrors"), "mirror", message);
        }
        if route.mirror.is_some() {
            self.destination(&format!("{path}.mirror"), route.mirror.as_ref());
        }
        if let Some(percent) = route.mirror_percent {
            let field = format!("{path}.mirrorPercent");
            self.warn(&field, "deprecated", "deprecated; use mirrorPercentage");
            if percent > 100 {
                self.error(&field, "percentage", "expected a percentage from 0 to 100");
            }
        }
        self.mirror_share(&format!("{path}.mirrorPercentage"), route.mirror_percentage);
        for (index, mirror) in route.mirrors.iter().enumerate() {
            let path = format!("{path}.mirrors[{index}]");
            self.destination(&format!("{path}.destination"), mirror.destination.as_ref());
            self.mirror_share(&format!("{path}.percentage"), mirror.percentage);
        }
    }

    fn mirror_share(&mut self, field: &str, share: Option<Percent>) {
        if share.is_some_and(|share| !(0.0..=100.0).contains(&share.value)) {
            self.error(field, "percentage", "expected a percentage from 0 to 100");
        }
    }

    /// `corsPolicy`.
    pub(super) fn cors(&mut self, path: &str, cors: &CorsPolicy) {
        const CODE: &str = "cors";
        const METHODS: [&str; 10] = [
            "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*",
        ];
        for (index, origin) in cors.allow_origins.iter().enumerate() {
            let field = format!("{path}.allowOrigins[{index}]");
            match origin {
                StringMatch::Exact(text) | StringMatch::Prefix(text) if !text.is_empty() => {}
                StringMatch::Regex(regex) => self.regex(&format!("{field}.regex"), regex),
                StringMatch::Present | StringMatch::Exact(_) | StringMatch::Prefix(_) => {
                    self.error(&field, CODE, "expected an origin, found nothing");
                }
            }
        }
        for (index, method) in cors.allow_methods.iter().enumerate() {
            if !METHODS.contains(&method.as_str()) {
                let message = format!("unknown method {method:?}; expected * or upper case");
                self.error(&format!("{path}.allowMethods[{index}]"), CODE, message);
            }
        }
        for (list, headers) in [
            ("allowHeaders", &cors.allow_headers),
            ("exposeHeaders", &cors.expose_headers),
        ] {
            for (index, name) in headers.iter().enumerate() {
                if !names::is_token(name) {
                    let message = format!("{name:?} is no name of a header");
                    self.error(&format!("{path}.{list}[{index}]"), CODE, message);
                }
            }
        }
        let field = format!("{path}.maxAge");
        self.duration(&field, cors.max_age);
        if cors
            .max_age
            .is_some_and(|age| age.get().subsec_nanos() != 0)
        {
            self.error(&field, CODE, "expected whole seconds");
        }
    }

    /// `redirect`.
    pub(super) fn redirect(&mut self, path: &str, redirect: &HTTPRedirect, route: &HTTPRoute) {
        const CODE: &str = "redirect";
        if let Some(prefix) = &redirect.prefix_rewrite {
            let field = format!("{path}.prefixRewrite");
            if !redirect.uri.is_empty() {
                self.error(&field, CODE, "only one of uri and prefixRewrite can be set");
            }
            let is_prefix = |uri: &Option<StringMatch>| matches!(uri, Some(StringMatch::Prefix(_)));
            if !prefix.is_empty() && route.matches.iter().any(|m| !is_prefix(&m.uri)) {
                let message = "needs a uri prefix in every match of the route";
                self.error(&field, CODE, message);
            }
        }
        let is_empty = redirect.uri.is_empty()
            && redirect.prefix_rewrite.is_none()
            && redirect.authority.is_empty()
            && redirect.scheme.is_empty()
            && redirect.port.is_none()
            && redirect.derive_port.is_none();
        if is_empty {
            self.error(
                path,
                CODE,
                "expected uri, prefixRewrite, authority, scheme or port",
            );
        }
        if redirect.redirect_code != 0 && !(300..=399).contains(&redirect.redirect_code) {
            let message = format!(
                "expected a code from 300 to 399, found {}",
                redirect.redirect_code
            );
            self.error(&format!("{path}.redirectCode"), CODE, message);
        }
        if !matches!(redirect.scheme.as_str(), "" | "http" | "https") {
            let message = format!("expected http or https, found {:?}", redirect.scheme);
            self.error(&format!("{path}.scheme"), CODE, message);
        }
        if let Some(port) = redirect.port {
            self.port(&format!("{path}.port"), port);
            if redirect.derive_port.is_some() {
                let message = "only one of port and derivePort can be set";
                self.error(&format!("{path}.derivePort"), CODE, message);
            }
        }
    }

    /// `directResponse`.
    pub(super) fn direct_response(&mut self, path: &str, response: &HTTPDirectResponse) {
        const CODE: &str = "direct-response";
        if !(200..=600).contains(&response.status) {
            let message = format!(
                "expected a status from 200 to 600, found {}",
                response.status
            );
            self.error(&format!("{path}.status"), CODE, message);
        }
        let Some(body) = &response.body else { return };
        if body.string.is_some() && body.bytes.is_some() {
            let message = "only one of string and bytes can be set";
            self.error(&format!("{path}.body"), CODE, message);
        }
        // Base64 has four characters for three bytes.
        let len_bytes = body.string.as_ref().map_or(0, String::len)
            + body
                .bytes
                .as_ref()
                .map_or(0, |text| text.trim_end_matches('=').len() * 3 / 4);
        if len_bytes > BODY_LEN_MAX_BYTES {
            self.error(
                &format!("{path}.body"),
                CODE,
                "the body is larger than 1 MiB",
            );
        } else if len_bytes > BODY_LEN_LARGE_BYTES {
            let message = "the body is larger than 100 KiB, and part of every configuration";
            self.warn(&format!("{path}.body"), CODE, message);
        }
        if let Some(bytes) = &body.bytes
            && !is_base64(bytes)
        {
            self.error(&format!("{path}.body.bytes"), CODE, "expected base64");
        }
    }

    /// `rewrite`.
    pub(super) fn rewrite(&mut self, path: &str, rewrite: &HTTPRewrite) {
        const CODE: &str = "rewrite";
        let Some(regex) = &rewrite.uri_regex_rewrite else {
            if rewrite.uri.is_empty() && rewrite.authority.is_empty() {
                self.error(path, CODE, "expected uri, authority or uriRegexRewrite");
            }
            return;
        };
        let path = format!("{path}.uriRegexRewrite");
        if !rewrite.uri.is_empty() {
            self.error(
                &path,
                CODE,
                "only one of uri and uriRegexRewrite can be set",
            );
        }
        self.regex(&format!("{path}.match"), &regex.pattern);
        if regex.rewrite.is_empty() {
            self.error(
                &format!("{path}.rewrite"),
                CODE,
                "expected a replacement, found nothing",
            );
        }
    }
}

/// Whether `item` is a condition of Envoy's retry policy or a status code that has a name.
fn is_retry_condition(item: &str) -> bool {
    const CONDITIONS: [&str; 16] = [
        "5xx",
        "gateway-error",
        "reset",
        "reset-before-request",
        "connect-failure",
        "retriable-4xx",
        "refused-stream",
        "retriable-status-codes",
        "retriable-headers",
        "envoy-ratelimited",
        "http3-post-connect-failure",
        "cancelled",
        "deadline-exceeded",
        "internal",
        "resource-exhausted",
        "unavailable",
    ];
    let is_code = || {
        let code = item
            .parse::<u16>()
            .ok()
            .and_then(|code| http::StatusCode::from_u16(code).ok());
        code.is_some_and(|code| code.canonical_reason().is_some())
    };
    CONDITIONS.contains(&item) || is_code()
}

fn is_base64(text: &str) -> bool {
    let padding = text.len() - text.trim_end_matches('=').len();
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || b"+/-_".contains(&byte);
    padding <= 2 && text.len().is_multiple_of(4) && text.trim_end_matches('=').bytes().all(is_digit)
}
