//! Why traffic failed, in one value that logs, metrics, replies and retries share.

use std::fmt;
use std::net::SocketAddr;

use http::StatusCode;

use crate::telemetry::ResponseFlags;

/// Which of the two connections of a proxy failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The application that connected to us.
    Downstream,
    /// The endpoint that we connect to.
    Upstream,
}

/// What happened. Texts and flags are Envoy's (access log `RESPONSE_FLAGS`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The cluster has no endpoint that may be chosen.
    NoHealthyUpstream,
    /// The name that the request asks for has no address.
    DnsFailed,
    /// A circuit breaker is open; never retried.
    Overflow,
    /// The connection could not be made: refused, unreachable, no socket.
    ConnectFailed,
    /// The connection was not made in time.
    ConnectTimeout,
    /// The connection was not tried: the client's namespace is the host's, and the address is
    /// the host's alone (see [`crate::net::SocketFactory::forbids`]).
    Forbidden,
    /// Closed or reset by TCP before the response head was complete.
    ConnectionTermination,
    /// HTTP/2 RST_STREAM, or a GOAWAY that abandons the stream.
    RemoteReset,
    /// HTTP/2 REFUSED_STREAM: the request was certainly not processed.
    RefusedStream,
    /// What came back is not HTTP, or is cut inside its head.
    ProtocolError,
    /// The request body that we were sending failed: the client's fault.
    RequestBody,
}

/// A failure of one attempt to reach an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrafficError {
    /// Whose fault.
    pub side: Side,
    /// What happened.
    pub kind: Kind,
    /// The endpoint, once one was chosen.
    pub upstream: Option<SocketAddr>,
    /// The operating system's or the library's words; for logs only.
    pub cause: Option<Box<str>>,
    /// The request head may have reached the endpoint.
    pub is_request_sent: bool,
}

impl TrafficError {
    /// A failure of the upstream side, before anything was sent.
    #[must_use]
    pub fn upstream(kind: Kind, upstream: Option<SocketAddr>) -> Self {
        Self {
            side: Side::Upstream,
            kind,
            upstream,
            cause: None,
            is_request_sent: false,
        }
    }

    /// The same with the cause in words.
    #[must_use]
    pub fn because(mut self, cause: impl fmt::Display) -> Self {
        self.cause = Some(cause.to_string().into_boxed_str());
        self
    }

    /// The response flag of this failure (Envoy `RESPONSE_FLAGS`).
    #[must_use]
    pub fn flags(&self) -> ResponseFlags {
        match self.kind {
            Kind::NoHealthyUpstream => ResponseFlags::UH,
            Kind::DnsFailed => ResponseFlags::DF,
            Kind::Overflow => ResponseFlags::UO,
            Kind::ConnectFailed | Kind::ConnectTimeout | Kind::Forbidden => ResponseFlags::UF,
            Kind::ConnectionTermination => ResponseFlags::UC,
            Kind::RemoteReset | Kind::RefusedStream => ResponseFlags::UR,
            Kind::ProtocolError => ResponseFlags::UPE,
            Kind::RequestBody => ResponseFlags::DC,
        }
    }

    /// The status of the local reply for this failure.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self.kind {
            Kind::ProtocolError => StatusCode::BAD_GATEWAY,
            Kind::RequestBody => StatusCode::BAD_REQUEST,
            Kind::NoHealthyUpstream
            | Kind::DnsFailed
            | Kind::Overflow
            | Kind::ConnectFailed
            | Kind::ConnectTimeout
            | Kind::Forbidden
            | Kind::ConnectionTermination
            | Kind::RemoteReset
            | Kind::RefusedStream => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Envoy's reset reason, as local replies print it; `None` for a cluster
    /// without endpoints and a name without address, whose replies have texts of their own.
    #[must_use]
    pub fn reset_reason(&self) -> Option<&'static str> {
        match self.kind {
            Kind::NoHealthyUpstream | Kind::DnsFailed => None,
            Kind::Overflow => Some("overflow"),
            Kind::ConnectFailed => Some("remote connection failure"),
            Kind::ConnectTimeout => Some("connection timeout"),
            Kind::Forbidden => Some("host network guard"),
            Kind::ConnectionTermination => Some("connection termination"),
            Kind::RemoteReset => Some("remote reset"),
            Kind::RefusedStream => Some("remote refused stream reset"),
            Kind::ProtocolError => Some("protocol error"),
            Kind::RequestBody => Some("local reset"),
        }
    }

    /// The connection was never made (Envoy retry condition `connect-failure`).
    #[must_use]
    pub fn is_connect_failure(&self) -> bool {
        matches!(
            self.kind,
            Kind::ConnectFailed | Kind::ConnectTimeout | Kind::Forbidden
        )
    }
}

impl fmt::Display for TrafficError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let without_reason = if self.kind == Kind::DnsFailed {
            "DNS resolution failure"
        } else {
            "no healthy upstream"
        };
        f.write_str(self.reset_reason().unwrap_or(without_reason))?;
        if let Some(upstream) = self.upstream {
            write!(f, " ({upstream})")?;
        }
        if let Some(cause) = &self.cause {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl std::error::Error for TrafficError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_has_the_flag_status_and_reason_of_envoy() {
        for (kind, flags, status, reason) in [
            (Kind::NoHealthyUpstream, ResponseFlags::UH, 503, None),
            (Kind::DnsFailed, ResponseFlags::DF, 503, None),
            (Kind::Overflow, ResponseFlags::UO, 503, Some("overflow")),
            (
                Kind::ConnectFailed,
                ResponseFlags::UF,
                503,
                Some("remote connection failure"),
            ),
            (
                Kind::ConnectTimeout,
                ResponseFlags::UF,
                503,
                Some("connection timeout"),
            ),
            (
                Kind::Forbidden,
                ResponseFlags::UF,
                503,
                Some("host network guard"),
            ),
            (
                Kind::ConnectionTermination,
                ResponseFlags::UC,
                503,
                Some("connection termination"),
            ),
            (
                Kind::RemoteReset,
                ResponseFlags::UR,
                503,
                Some("remote reset"),
            ),
            (
                Kind::RefusedStream,
                ResponseFlags::UR,
                503,
                Some("remote refused stream reset"),
            ),
            (
                Kind::ProtocolError,
                ResponseFlags::UPE,
                502,
                Some("protocol error"),
            ),
        ] {
            let error = TrafficError::upstream(kind, None);
            assert_eq!(error.flags(), flags, "{kind:?}");
            assert_eq!(error.status().as_u16(), status, "{kind:?}");
            assert_eq!(error.reset_reason(), reason, "{kind:?}");
        }
    }
}
