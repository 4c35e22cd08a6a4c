//! Answers that Mizzen gives itself: status, body, flags and code details of each cause.
//!
//! The texts and codes are Envoy's, so that what reads them keeps working (Envoy
//! documentation, "Response code details" and "Response flags"). For gRPC requests
//! they become trailers-only responses (`Http::Utility::sendLocalReply`).

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, SERVER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::proxy::upstream::{Kind, TrafficError};
use crate::telemetry::ResponseFlags;

/// `server` of answers that no upstream gave.
pub(crate) const SERVER_NAME: HeaderValue = HeaderValue::from_static("mizzen");
/// `grpc-status`.
pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// `grpc-message`.
pub(crate) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const ENVOY_OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");
const TEXT_PLAIN: HeaderValue = HeaderValue::from_static("text/plain");
const APPLICATION_GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// One answer of our own, before it is given the form that the client expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalReply {
    /// HTTP status for clients that do not speak gRPC.
    pub(crate) status: StatusCode,
    /// `text/plain`; empty sends no content-type.
    pub(crate) body: Bytes,
    /// Response flags.
    pub(crate) flags: ResponseFlags,
    /// Envoy's code details.
    pub(crate) details: Cow<'static, str>,
    /// Further headers.
    pub(crate) headers: HeaderMap,
    /// `grpc-status` for gRPC clients, where it is not mapped from the status.
    pub(crate) grpc_status: Option<u8>,
    /// The connection cannot be used again.
    pub(crate) closes: bool,
}

impl LocalReply {
    /// A reply with a text.
    pub(crate) fn new(
        status: StatusCode,
        body: &'static str,
        flags: ResponseFlags,
        details: &'static str,
    ) -> Self {
        Self {
            status,
            body: Bytes::from_static(body.as_bytes()),
            flags,
            details: Cow::Borrowed(details),
            headers: HeaderMap::new(),
            grpc_status: None,
            closes: false,
        }
    }

    /// The virtual host has no route for this request.
    pub(crate) fn route_not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "",
            ResponseFlags::NR,
            "route_not_found",
        )
    }

    /// The route names a service, port or subset that does not exist.
    pub(crate) fn cluster_not_found() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "",
            ResponseFlags::NC,
            "cluster_not_found",
        )
    }

    /// The route or cluster needs a field that Mizzen does not honour yet.
    pub(crate) fn not_honoured() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "not honoured yet by this version of mizzen",
            ResponseFlags::default(),
            "not_honoured",
        )
    }

    /// REGISTRY_ONLY: nobody knows the host.
    pub(crate) fn block_all() -> Self {
        Self::new(
            StatusCode::BAD_GATEWAY,
            "",
            ResponseFlags::default(),
            "direct_response",
        )
    }

    /// The cluster has no endpoint that may be used.
    pub(crate) fn no_healthy_upstream() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "no healthy upstream",
            ResponseFlags::UH,
            "no_healthy_upstream",
        )
    }

    /// The route timeout, or that of the last attempt.
    pub(crate) fn timeout(is_per_try: bool) -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "upstream request timeout",
            ResponseFlags::UT,
            if is_per_try {
                "upstream_per_try_timeout"
            } else {
                "response_timeout"
            },
        )
    }

    /// The name that the request asks for has no address (Envoy, dynamic forward proxy).
    pub(crate) fn dns_failure() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "DNS resolution failure",
            ResponseFlags::DF,
            "dns_resolution_failure",
        )
    }

    /// An injected abort with an HTTP status.
    pub(crate) fn fault_abort(status: StatusCode) -> Self {
        Self::new(
            status,
            "fault filter abort",
            ResponseFlags::FI,
            "fault_filter_abort",
        )
    }

    /// An injected abort with a gRPC status: plain 200 for other requests.
    pub(crate) fn fault_abort_grpc(grpc_status: u8) -> Self {
        Self {
            grpc_status: Some(grpc_status),
            ..Self::fault_abort(StatusCode::OK)
        }
    }

    /// `directResponse`.
    pub(crate) fn direct(status: StatusCode, body: Bytes) -> Self {
        Self {
            body,
            ..Self::new(status, "", ResponseFlags::default(), "direct_response")
        }
    }

    /// An upgrade that is not enabled.
    pub(crate) fn upgrade_failed() -> Self {
        Self {
            closes: true,
            ..Self::new(
                StatusCode::FORBIDDEN,
                "",
                ResponseFlags::default(),
                "upgrade_failed",
            )
        }
    }

    /// The client's request body broke off or was malformed.
    pub(crate) fn bad_body() -> Self {
        Self {
            closes: true,
            ..Self::new(
                StatusCode::BAD_REQUEST,
                "Bad Request",
                ResponseFlags::DPE,
                "http1.codec_error",
            )
        }
    }

    /// A rule leads a host-network pod to what is the host's alone.
    fn host_guard() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "mizzen leads no host-network pod to an address of the host itself",
            ResponseFlags::UF,
            "host_network_guard",
        )
    }

    /// The upstream did not answer. `has_retried` changes the text.
    pub(crate) fn upstream(error: &TrafficError, has_retried: bool) -> Self {
        let Some(reason) = error.reset_reason() else {
            return if error.kind == Kind::DnsFailed {
                Self::dns_failure()
            } else {
                Self::no_healthy_upstream()
            };
        };
        if error.kind == Kind::RequestBody {
            return Self::bad_body();
        }
        if error.kind == Kind::Forbidden {
            return Self::host_guard();
        }
        let before = if has_retried {
            "retried and the latest reset reason"
        } else {
            "reset reason"
        };
        let body = format!(
            "upstream connect error or disconnect/reset before headers. {before}: {reason}"
        );
        let mut headers = HeaderMap::new();
        if error.kind == Kind::Overflow {
            headers.insert(ENVOY_OVERLOADED, HeaderValue::from_static("true"));
        }
        Self {
            status: error.status(),
            body: Bytes::from(body),
            flags: error.flags(),
            details: Cow::Owned(format!(
                "upstream_reset_before_response_started{{{}}}",
                reset_detail(error, reason)
            )),
            headers,
            grpc_status: None,
            closes: false,
        }
    }

    /// Status, headers and body as this client expects them.
    pub(crate) fn into_response(self, is_grpc: bool) -> (StatusCode, HeaderMap, Bytes) {
        let mut headers = self.headers;
        headers.insert(SERVER, SERVER_NAME);
        if !is_grpc {
            if !self.body.is_empty() {
                headers.insert(CONTENT_TYPE, TEXT_PLAIN);
            }
            headers.insert(CONTENT_LENGTH, HeaderValue::from(self.body.len()));
            return (self.status, headers, self.body);
        }
        let grpc_status = self
            .grpc_status
            .unwrap_or_else(|| grpc_status_of(self.status));
        headers.insert(CONTENT_TYPE, APPLICATION_GRPC);
        headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(grpc_status)));
        if let Ok(message) = HeaderValue::from_str(&grpc_message(&self.body))
            && !message.is_empty()
        {
            headers.insert(GRPC_MESSAGE, message);
        }
        (StatusCode::OK, headers, Bytes::new())
    }
}

/// The reason as code details carry it: blanks become `_`, and a failed connect says why.
fn reset_detail(error: &TrafficError, reason: &str) -> String {
    let mut detail = reason.replace(' ', "_");
    if error.is_connect_failure()
        && let Some(cause) = &error.cause
    {
        detail.push_str("|delayed_connect_error:_");
        detail.push_str(&cause.replace(char::is_whitespace, "_"));
    }
    detail
}

/// gRPC status of an HTTP status (gRPC documentation, "HTTP to gRPC Status Code
/// Mapping", with Envoy's choice for the rest).
pub(crate) fn grpc_status_of(status: StatusCode) -> u8 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// `grpc-message`: printable ASCII except `%` as it is, the rest percent-encoded
/// (gRPC over HTTP/2, "Responses").
fn grpc_message(body: &[u8]) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(body.len());
    for &byte in body {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    out
}

#[cfg(test)]
#[path = "local_reply_tests.rs"]
mod tests;
