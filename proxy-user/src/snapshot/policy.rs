//! Traffic policies, as compiled values with their defaults filled in.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, StatusCode};

use super::clusters::ClusterRef;

/// Parts per million, the resolution of Istio's `Percent` (0.0001 %).
pub type PartsPerMillion = u32;

/// Effective DestinationRule policy of one cluster (Istio 4.3: port level, subset, top).
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterPolicy {
    /// How an endpoint is chosen.
    pub load_balancer: LoadBalancer,
    /// Limits and timeouts of connections.
    pub pool: ConnectionPool,
    /// Ejection of failing endpoints.
    pub outlier: Option<OutlierDetection>,
    /// TLS towards the endpoints.
    pub tls: UpstreamTls,
}

impl Default for ClusterPolicy {
    fn default() -> Self {
        Self {
            load_balancer: LoadBalancer::LeastRequest,
            pool: ConnectionPool::default(),
            outlier: None,
            tls: UpstreamTls::Plain,
        }
    }
}

/// DestinationRule `loadBalancer` (Envoy's behaviour for each).
#[derive(Debug, Clone, PartialEq)]
pub enum LoadBalancer {
    /// Two random picks with replacement, fewer active requests wins; weighted
    /// round robin by weight / (active + 1) where weights differ. Istio's default.
    LeastRequest,
    /// Weighted round robin from a random start.
    RoundRobin,
    /// Uniform, weights ignored.
    Random,
    /// To the original destination.
    Passthrough,
    /// Ring hash or maglev.
    ConsistentHash(Arc<ConsistentHash>),
}

/// Consistent hashing: what is hashed, and the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsistentHash {
    /// The key.
    pub key: HashKey,
    /// Ring (minimum size) or maglev (table size).
    pub table: HashTable,
}

/// DestinationRule `consistentHash` keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    /// All lines of this header.
    Header(HeaderName),
    /// A cookie; generated when absent and `ttl` is set.
    Cookie {
        /// Cookie name.
        name: Arc<str>,
        /// Cookie path.
        path: Option<Arc<str>>,
        /// `Some(0)` is a session cookie; `None` is never generated.
        ttl: Option<Duration>,
        /// Further attributes, name and value.
        attributes: Vec<(Arc<str>, Arc<str>)>,
    },
    /// Client address.
    SourceIp,
    /// First value of this query parameter.
    Query(Arc<str>),
}

/// Envoy's two consistent-hash tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashTable {
    /// Ring hash with at least this many points.
    Ring {
        /// `minimumRingSize`, default 1024.
        minimum_size: u64,
    },
    /// Maglev with a table of this (prime) size.
    Maglev {
        /// `tableSize`, default 65537.
        table_size: u64,
    },
}

/// DestinationRule `connectionPool`, with Istio's defaults; per client pod and cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionPool {
    /// Connections to the cluster; each endpoint may always have one.
    pub max_connections: u32,
    /// TCP connect, including TLS.
    pub connect_timeout: Duration,
    /// The object set `connectTimeout` itself, so the kernel path is out.
    pub has_explicit_connect_timeout: bool,
    /// Requests waiting for a connection.
    pub max_pending_requests: u32,
    /// Active requests.
    pub max_requests: u32,
    /// Concurrent retries.
    pub max_retries: u32,
    /// Replaces `max_retries` when set.
    pub retry_budget: Option<RetryBudget>,
    /// Close a connection after this many requests; 0 = unlimited.
    pub max_requests_per_connection: u32,
    /// Streams per HTTP/2 connection.
    pub max_concurrent_streams: u32,
    /// Close a pooled connection with no active request after this.
    pub http_idle_timeout: Option<Duration>,
    /// End a TCP session without bytes after this; `None` never.
    pub tcp_idle_timeout: Option<Duration>,
    /// The object set the TCP idle timeout itself.
    pub has_explicit_tcp_idle_timeout: bool,
    /// Maximum age of a connection.
    pub max_connection_duration: Option<Duration>,
    /// Socket keepalive.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Speak HTTP/2 to this destination on ports declared HTTP/1.1 too.
    pub h2_upgrade: bool,
    /// Speak what the client spoke.
    pub use_client_protocol: bool,
    /// HTTP/2 PING: interval and timeout.
    pub http2_keepalive: Option<(Duration, Duration)>,
}

/// 1 h, Envoy's default of both idle timeouts.
pub const IDLE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(3600);
/// 10 s, MeshConfig `connectTimeout`.
pub const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

impl Default for ConnectionPool {
    fn default() -> Self {
        Self {
            max_connections: u32::MAX,
            connect_timeout: CONNECT_TIMEOUT_DEFAULT,
            has_explicit_connect_timeout: false,
            max_pending_requests: u32::MAX,
            max_requests: u32::MAX,
            max_retries: u32::MAX,
            retry_budget: None,
            max_requests_per_connection: 0,
            max_concurrent_streams: 1024,
            http_idle_timeout: Some(IDLE_TIMEOUT_DEFAULT),
            tcp_idle_timeout: Some(IDLE_TIMEOUT_DEFAULT),
            has_explicit_tcp_idle_timeout: false,
            max_connection_duration: None,
            tcp_keepalive: None,
            h2_upgrade: false,
            use_client_protocol: false,
            http2_keepalive: None,
        }
    }
}

/// DestinationRule `tcpKeepalive`; `None` leaves the kernel's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpKeepalive {
    /// Probes before giving up.
    pub probes: Option<u32>,
    /// Idle time before the first probe.
    pub time: Option<Duration>,
    /// Between probes.
    pub interval: Option<Duration>,
}

/// DestinationRule `retryBudget`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudget {
    /// Share of active and pending requests that may be retries.
    pub percent_ppm: PartsPerMillion,
    /// Always allowed.
    pub min_concurrency: u32,
    /// Requests started within this long count too.
    pub interval: Duration,
}

/// DestinationRule `outlierDetection`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlierDetection {
    /// 0 disables.
    pub consecutive_5xx: u32,
    /// 0 disables.
    pub consecutive_gateway_errors: u32,
    /// Count local-origin failures apart.
    pub split_local_origin: bool,
    /// Threshold for them.
    pub consecutive_local_origin_failures: u32,
    /// Exactly these codes count instead of 5xx, when not empty.
    pub error_codes: Vec<u16>,
    /// Sweep period.
    pub interval: Duration,
    /// First ejection's length.
    pub base_ejection_time: Duration,
    /// 0..=100.
    pub max_ejection_percent: u32,
    /// Panic threshold, 0..=100.
    pub min_health_percent: u32,
}

/// DestinationRule `tls.mode`, as far as it matters now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamTls {
    /// Plain text (absent or DISABLE).
    Plain,
    /// Anything else: HTTP answers 503 `not_honoured`, TCP is refused.
    NotHonoured,
}

/// VirtualService `retries`, or Istio's default policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Retries after the first try; 0 disables.
    pub attempts: u32,
    /// On what.
    pub on: RetryOn,
    /// Status codes of `retriable-status-codes`.
    pub status_codes: Vec<u16>,
    /// Bound of one attempt.
    pub per_try_timeout: Option<Duration>,
    /// Back-off base; the cap is ten times as much.
    pub backoff_base: Duration,
    /// Back-off cap.
    pub backoff_cap: Duration,
    /// Skip endpoints that were tried already.
    pub skip_previous_hosts: bool,
    /// `retryRemoteLocalities`.
    pub remote_localities: bool,
}

/// Envoy's retry conditions (`x-envoy-retry-on`, `x-envoy-retry-grpc-on`), one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetryOn(pub u32);

impl RetryOn {
    /// `5xx`.
    pub const FIVE_XX: Self = Self(1);
    /// `gateway-error`.
    pub const GATEWAY_ERROR: Self = Self(1 << 1);
    /// `reset`.
    pub const RESET: Self = Self(1 << 2);
    /// `reset-before-request`.
    pub const RESET_BEFORE_REQUEST: Self = Self(1 << 3);
    /// `connect-failure`.
    pub const CONNECT_FAILURE: Self = Self(1 << 4);
    /// `refused-stream`.
    pub const REFUSED_STREAM: Self = Self(1 << 5);
    /// `retriable-4xx`.
    pub const RETRIABLE_4XX: Self = Self(1 << 6);
    /// `retriable-status-codes`.
    pub const STATUS_CODES: Self = Self(1 << 7);
    /// `envoy-ratelimited`.
    pub const RATE_LIMITED: Self = Self(1 << 8);
    /// gRPC status 1.
    pub const GRPC_CANCELLED: Self = Self(1 << 9);
    /// gRPC status 4.
    pub const GRPC_DEADLINE_EXCEEDED: Self = Self(1 << 10);
    /// gRPC status 13.
    pub const GRPC_INTERNAL: Self = Self(1 << 11);
    /// gRPC status 8.
    pub const GRPC_RESOURCE_EXHAUSTED: Self = Self(1 << 12);
    /// gRPC status 14.
    pub const GRPC_UNAVAILABLE: Self = Self(1 << 13);

    /// Istio's default conditions (pilot/pkg/networking/core/route/retry).
    pub const DEFAULT: Self = Self(
        Self::CONNECT_FAILURE.0
            | Self::REFUSED_STREAM.0
            | Self::GRPC_UNAVAILABLE.0
            | Self::GRPC_CANCELLED.0
            | Self::STATUS_CODES.0,
    );

    /// All bits of `other` are set.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets together.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Default for RetryPolicy {
    /// Istio's default policy: two retries of failed connects, 25 ms back-off.
    fn default() -> Self {
        Self {
            attempts: 2,
            on: RetryOn::DEFAULT,
            status_codes: Vec::new(),
            per_try_timeout: None,
            backoff_base: Duration::from_millis(25),
            backoff_cap: Duration::from_millis(250),
            skip_previous_hosts: true,
            remote_localities: false,
        }
    }
}

/// VirtualService `fault`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FaultPolicy {
    /// Share and length.
    pub delay: Option<(PartsPerMillion, Duration)>,
    /// Share and answer.
    pub abort: Option<(PartsPerMillion, AbortWith)>,
}

/// What an injected abort answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbortWith {
    /// HTTP status.
    Http(StatusCode),
    /// gRPC status number.
    Grpc(u8),
}

/// One mirror destination.
#[derive(Debug, Clone)]
pub struct MirrorPolicy {
    /// Where the copies go.
    pub cluster: ClusterRef,
    /// How many.
    pub share: PartsPerMillion,
}

/// VirtualService `corsPolicy`.
#[derive(Debug, Clone)]
pub struct CorsPolicy {
    /// Any of these allows the origin.
    pub allow_origins: Vec<super::matchers::StringMatcher>,
    /// Joined with `,`; empty = header omitted.
    pub allow_methods: Arc<str>,
    /// Joined with `,`.
    pub allow_headers: Arc<str>,
    /// Joined with `,`.
    pub expose_headers: Arc<str>,
    /// Whole seconds.
    pub max_age_secs: Option<u64>,
    /// `allowCredentials`.
    pub allow_credentials: bool,
    /// `unmatchedPreflights: IGNORE`.
    pub ignore_unmatched_preflights: bool,
}

/// Header operations of one level: all removes, then all sets, then all adds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderOps {
    /// Names to delete.
    pub remove: Vec<HeaderName>,
    /// Overwrite.
    pub set: Vec<(HeaderName, HeaderTemplate)>,
    /// Append.
    pub add: Vec<(HeaderName, HeaderTemplate)>,
}

impl HeaderOps {
    /// Nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}

/// A header value with Envoy substitution commands, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderTemplate(pub Vec<TemplatePart>);

/// One piece of a [`HeaderTemplate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplatePart {
    /// Text as it is.
    Literal(Arc<str>),
    /// `%REQ(name?alternative):max%`; pseudo headers keep their colon.
    RequestHeader {
        /// Header, lower case.
        name: Arc<str>,
        /// Used when the first is absent.
        alternative: Option<Arc<str>>,
        /// Cut to this many bytes.
        max_len_bytes: Option<usize>,
    },
    /// `%RESP(name?alternative):max%`.
    ResponseHeader {
        /// Header, lower case.
        name: Arc<str>,
        /// Used when the first is absent.
        alternative: Option<Arc<str>>,
        /// Cut to this many bytes.
        max_len_bytes: Option<usize>,
    },
    /// `%DOWNSTREAM_REMOTE_ADDRESS%`.
    DownstreamRemoteAddress,
    /// `%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%`.
    DownstreamRemoteAddressWithoutPort,
    /// `%DOWNSTREAM_LOCAL_ADDRESS%`.
    DownstreamLocalAddress,
    /// `%UPSTREAM_HOST%`.
    UpstreamHost,
    /// `%PROTOCOL%`.
    Protocol,
    /// `%RESPONSE_CODE%`.
    ResponseCode,
    /// `%START_TIME%` in ISO 8601 with milliseconds.
    StartTime,
    /// `%ROUTE_NAME%`.
    RouteName,
}
