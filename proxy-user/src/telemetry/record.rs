//! What is known about a finished request or connection, on both paths.
//!
//! Metrics, access log and tap read these and nothing else, so they cannot disagree.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Envoy's response flags, as a set. Printed in Envoy's order, comma-joined, `-` if empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct ResponseFlags(pub u32);

impl ResponseFlags {
    /// No healthy upstream.
    pub const UH: Self = Self(1);
    /// Upstream connect failure.
    pub const UF: Self = Self(1 << 1);
    /// Circuit breaker overflow.
    pub const UO: Self = Self(1 << 2);
    /// No route, or no filter chain.
    pub const NR: Self = Self(1 << 3);
    /// Retry attempts exhausted.
    pub const URX: Self = Self(1 << 4);
    /// Cluster not found.
    pub const NC: Self = Self(1 << 5);
    /// Upstream timeout.
    pub const UT: Self = Self(1 << 6);
    /// Upstream closed the connection.
    pub const UC: Self = Self(1 << 7);
    /// Upstream reset.
    pub const UR: Self = Self(1 << 8);
    /// Local reset.
    pub const LR: Self = Self(1 << 9);
    /// Downstream disconnected.
    pub const DC: Self = Self(1 << 10);
    /// Downstream stream error.
    pub const DR: Self = Self(1 << 11);
    /// Delay injected.
    pub const DI: Self = Self(1 << 12);
    /// Abort injected.
    pub const FI: Self = Self(1 << 13);
    /// Rate limited locally.
    pub const RL: Self = Self(1 << 14);
    /// Downstream protocol error.
    pub const DPE: Self = Self(1 << 15);
    /// Upstream protocol error.
    pub const UPE: Self = Self(1 << 16);
    /// Connection duration limit.
    pub const DT: Self = Self(1 << 17);
    /// DNS failure.
    pub const DF: Self = Self(1 << 18);

    /// Both sets together.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// All bits of `other` are set.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Names in the order in which they are printed: `URX` and `DI` come first.
const FLAG_NAMES: [(ResponseFlags, &str); 19] = [
    (ResponseFlags::DI, "DI"),
    (ResponseFlags::URX, "URX"),
    (ResponseFlags::UH, "UH"),
    (ResponseFlags::UF, "UF"),
    (ResponseFlags::UO, "UO"),
    (ResponseFlags::NR, "NR"),
    (ResponseFlags::NC, "NC"),
    (ResponseFlags::UT, "UT"),
    (ResponseFlags::UC, "UC"),
    (ResponseFlags::UR, "UR"),
    (ResponseFlags::LR, "LR"),
    (ResponseFlags::DC, "DC"),
    (ResponseFlags::DR, "DR"),
    (ResponseFlags::FI, "FI"),
    (ResponseFlags::RL, "RL"),
    (ResponseFlags::DPE, "DPE"),
    (ResponseFlags::UPE, "UPE"),
    (ResponseFlags::DT, "DT"),
    (ResponseFlags::DF, "DF"),
];

impl ResponseFlags {
    /// The text of metrics and HTTP access logs: `URX,UF`, or `-`.
    #[must_use]
    pub fn text(self) -> Cow<'static, str> {
        let mut names = FLAG_NAMES
            .iter()
            .filter(|(flag, _)| self.contains(*flag))
            .map(|(_, name)| *name);
        let Some(first) = names.next() else {
            return Cow::Borrowed("-");
        };
        let rest: Vec<&str> = names.collect();
        if rest.is_empty() {
            return Cow::Borrowed(first);
        }
        Cow::Owned(
            std::iter::once(first)
                .chain(rest)
                .collect::<Vec<_>>()
                .join(","),
        )
    }
}

impl ResponseFlags {
    /// The text of TCP metrics and access logs: Envoy's TCP proxy lists the failure of
    /// the last attempt before `URX`, so `UF,URX`.
    #[must_use]
    pub fn connection_text(self) -> Cow<'static, str> {
        if !self.contains(Self::URX) || self == Self::URX {
            return self.text();
        }
        let others = Self(self.0 & !Self::URX.0);
        Cow::Owned(format!("{},URX", others.text()))
    }
}

/// The service that a request or connection was for (Istio labels `destination_service*`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DestinationLabels {
    /// FQDN, or `unknown`.
    pub service: Arc<str>,
    /// Short name, or `PassthroughCluster`, `BlackHoleCluster`.
    pub service_name: Arc<str>,
    /// Namespace, or `unknown`.
    pub service_namespace: Arc<str>,
}

/// Labels of a client or server workload (Istio labels `source_*`, `destination_*`).
/// A shared pointer per workload: equal pointers are equal labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WorkloadLabels {
    /// Workload name.
    pub workload: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// SPIFFE id, or `unknown`.
    pub principal: Arc<str>,
    /// Label `app`.
    pub app: Arc<str>,
    /// Label `version`.
    pub version: Arc<str>,
    /// Canonical service.
    pub canonical_service: Arc<str>,
    /// Canonical revision.
    pub canonical_revision: Arc<str>,
}

impl WorkloadLabels {
    /// A peer that nobody knows.
    #[must_use]
    pub fn unknown() -> Self {
        let unknown: Arc<str> = Arc::from("unknown");
        Self {
            workload: Arc::clone(&unknown),
            namespace: Arc::clone(&unknown),
            principal: Arc::clone(&unknown),
            app: Arc::clone(&unknown),
            version: Arc::clone(&unknown),
            canonical_service: unknown,
            canonical_revision: Arc::from("latest"),
        }
    }
}

/// `request_protocol` of the HTTP metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RequestProtocol {
    /// HTTP/1.x and HTTP/2 without gRPC.
    Http,
    /// gRPC by content type.
    Grpc,
}

/// One finished HTTP request, as the client hop reports it.
#[derive(Debug, Clone)]
pub struct RequestRecord {
    /// When the request head was complete.
    pub start: SystemTime,
    /// Until the last byte of the response.
    pub duration: Duration,
    /// The client pod.
    pub source: Arc<WorkloadLabels>,
    /// The endpoint's workload.
    pub destination: Arc<WorkloadLabels>,
    /// The service.
    pub service: Arc<DestinationLabels>,
    /// gRPC or not.
    pub protocol: RequestProtocol,
    /// `HTTP/1.1` or `HTTP/2`.
    pub http_version: &'static str,
    /// Method as received.
    pub method: Box<str>,
    /// Path and query as received.
    pub path: Box<str>,
    /// Host or `:authority` as received.
    pub authority: Box<str>,
    /// Status sent to the client; 0 if it went away first.
    pub response_code: u16,
    /// `grpc-status`, if any.
    pub grpc_status: Option<u32>,
    /// Response flags.
    pub flags: ResponseFlags,
    /// Envoy's code details: `via_upstream`, `route_not_found`, ...
    pub details: Cow<'static, str>,
    /// Cause of an upstream TLS or connect failure.
    pub upstream_failure: Option<Box<str>>,
    /// Body bytes from the client.
    pub bytes_received: u64,
    /// Body bytes to the client.
    pub bytes_sent: u64,
    /// Header bytes counted with the body for `istio_request_bytes`.
    pub request_bytes: u64,
    /// Header and body bytes for `istio_response_bytes`.
    pub response_bytes: u64,
    /// gRPC messages from the client.
    pub request_messages: u64,
    /// gRPC messages to the client.
    pub response_messages: u64,
    /// End of request to response headers.
    pub upstream_service_time: Option<Duration>,
    /// `x-forwarded-for` as received.
    pub forwarded_for: Option<Box<str>>,
    /// `user-agent`.
    pub user_agent: Option<Box<str>>,
    /// `x-request-id` as forwarded.
    pub request_id: Option<Box<str>>,
    /// Endpoint.
    pub upstream_host: Option<SocketAddr>,
    /// Cluster name.
    pub upstream_cluster: Option<Arc<str>>,
    /// Our address towards the endpoint.
    pub upstream_local: Option<SocketAddr>,
    /// The address the client dialled.
    pub downstream_local: SocketAddr,
    /// The client's address.
    pub downstream_remote: SocketAddr,
    /// Effective route name.
    pub route_name: Option<Arc<str>>,
    /// Retries made.
    pub retry_count: u32,
}

/// One TCP connection, on either path.
#[derive(Debug, Clone)]
pub struct ConnectionRecord {
    /// When it was accepted or decided.
    pub start: SystemTime,
    /// The client pod.
    pub source: Arc<WorkloadLabels>,
    /// The endpoint's workload.
    pub destination: Arc<WorkloadLabels>,
    /// The service.
    pub service: Arc<DestinationLabels>,
    /// Response flags.
    pub flags: ResponseFlags,
    /// Code details, `-` for none.
    pub details: Cow<'static, str>,
    /// Cause of a connect failure.
    pub upstream_failure: Option<Box<str>>,
    /// From the client.
    pub bytes_received: u64,
    /// To the client.
    pub bytes_sent: u64,
    /// Endpoint.
    pub upstream_host: Option<SocketAddr>,
    /// Cluster name.
    pub upstream_cluster: Option<Arc<str>>,
    /// Our address towards the endpoint.
    pub upstream_local: Option<SocketAddr>,
    /// The address the client dialled.
    pub downstream_local: SocketAddr,
    /// The client's address.
    pub downstream_remote: SocketAddr,
    /// SNI, if TLS was seen.
    pub server_name: Option<Box<str>>,
    /// Which data plane.
    pub path: ConnectionPath,
}

/// Which data plane a connection took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionPath {
    /// Decided in `connect()`.
    Kernel,
    /// Relayed by a worker.
    Proxy,
}

/// Where records go. The proxy and the kernel's event reader hold one each.
pub trait Recorder: Send + Sync {
    /// A request ended.
    fn request(&self, record: &RequestRecord);
    /// A TCP connection was opened (metrics only).
    fn connection_opened(&self, record: &ConnectionRecord);
    /// Bytes moved since the last report of a connection that is still open.
    fn connection_progress(&self, record: &ConnectionRecord, received: u64, sent: u64);
    /// A TCP connection ended; `received` and `sent` since the last progress report.
    fn connection_closed(
        &self,
        record: &ConnectionRecord,
        duration: Duration,
        received: u64,
        sent: u64,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_print_in_envoy_order() {
        for (flags, text) in [
            (ResponseFlags::default(), "-"),
            (ResponseFlags::UF.with(ResponseFlags::URX), "URX,UF"),
            (ResponseFlags::FI.with(ResponseFlags::DI), "DI,FI"),
            (ResponseFlags::NR, "NR"),
        ] {
            assert_eq!(flags.text(), text);
        }
    }

    #[test]
    fn connections_name_the_failure_before_the_limit() {
        for (flags, text) in [
            (ResponseFlags::default(), "-"),
            (ResponseFlags::UF.with(ResponseFlags::URX), "UF,URX"),
            (ResponseFlags::URX, "URX"),
            (ResponseFlags::UH, "UH"),
        ] {
            assert_eq!(flags.connection_text(), text);
        }
    }
}
