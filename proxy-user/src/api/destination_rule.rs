//! DestinationRule, as networking.istio.io defines it.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Duration, Kind, LabelSelector, Labels, NoStatus, PortSelector, Resource};

/// How connections to a service are made, and its subsets.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct DestinationRule {
    /// Name in the service registry, wildcards allowed.
    pub host: String,
    /// Policy for all ports and subsets.
    pub traffic_policy: Option<TrafficPolicy>,
    /// Named parts of the service.
    pub subsets: Vec<Subset>,
    /// Namespaces that may use it.
    pub export_to: Vec<String>,
    /// Clients of its own namespace that use it.
    pub workload_selector: Option<LabelSelector>,
}

impl Resource for DestinationRule {
    const KIND: Kind = Kind::DestinationRule;
    type Status = NoStatus;
}

/// A named part of a service: the endpoints with these labels.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Subset {
    /// Name for routes.
    pub name: String,
    /// All of these must be among the endpoint's labels.
    pub labels: Labels,
    /// Policy that replaces the rule's, block by block.
    pub traffic_policy: Option<TrafficPolicy>,
}

/// Policy of connections.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TrafficPolicy {
    /// How an endpoint is chosen.
    pub load_balancer: Option<LoadBalancerSettings>,
    /// Limits.
    pub connection_pool: Option<ConnectionPoolSettings>,
    /// When an endpoint is left out for a while.
    pub outlier_detection: Option<OutlierDetection>,
    /// TLS towards the endpoint.
    pub tls: Option<ClientTLSSettings>,
    /// Policies of single ports, each in place of this one.
    pub port_level_settings: Vec<PortTrafficPolicy>,
    /// Carry TCP inside HTTP.
    pub tunnel: Option<TunnelSettings>,
    /// PROXY protocol towards the endpoint.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Limit of concurrent retries, relative to the load.
    pub retry_budget: Option<RetryBudget>,
}

/// Policy of one port.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PortTrafficPolicy {
    /// The service port.
    pub port: Option<PortSelector>,
    /// How an endpoint is chosen.
    pub load_balancer: Option<LoadBalancerSettings>,
    /// Limits.
    pub connection_pool: Option<ConnectionPoolSettings>,
    /// When an endpoint is left out for a while.
    pub outlier_detection: Option<OutlierDetection>,
    /// TLS towards the endpoint.
    pub tls: Option<ClientTLSSettings>,
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct LoadBalancerSettings {
    /// One of the simple algorithms.
    pub simple: Option<SimpleLB>,
    /// By a hash of something in the request.
    pub consistent_hash: Option<ConsistentHashLB>,
    /// By locality.
    pub locality_lb_setting: Option<LocalityLbSetting>,
    /// By zone.
    pub zone_aware_lb_setting: Option<ZoneAwareLbSetting>,
    /// Length of the warm-up, deprecated.
    pub warmup_duration_secs: Option<Duration>,
    /// Less traffic for endpoints that are new.
    pub warmup: Option<WarmupConfiguration>,
}

/// The simple algorithms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SimpleLB {
    /// As `LeastRequest`.
    #[default]
    Unspecified,
    /// Old name of `LeastRequest`.
    LeastConn,
    /// Uniform.
    Random,
    /// Whatever address the client dialled.
    Passthrough,
    /// In turn.
    RoundRobin,
    /// The less busy one of two.
    LeastRequest,
}

/// Choice by a hash; exactly one source of the key.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ConsistentHashLB {
    /// Key: this header.
    pub http_header_name: Option<String>,
    /// Key: this cookie.
    pub http_cookie: Option<HTTPCookie>,
    /// Key: the client's address.
    pub use_source_ip: Option<bool>,
    /// Key: this query parameter.
    pub http_query_parameter_name: Option<String>,
    /// Use a hash ring.
    pub ring_hash: Option<RingHash>,
    /// Use Maglev's table.
    pub maglev: Option<Maglev>,
    /// Size of the ring, deprecated.
    pub minimum_ring_size: Option<u64>,
}

/// A cookie as the key, made if absent and `ttl` is set.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HTTPCookie {
    /// Name.
    pub name: String,
    /// Path of a cookie that is made.
    pub path: String,
    /// Life of a cookie that is made; zero for a session cookie.
    pub ttl: Option<Duration>,
    /// Further attributes of a cookie that is made.
    pub attributes: Vec<HTTPCookieAttribute>,
}

/// One attribute of a cookie.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HTTPCookieAttribute {
    /// Name.
    pub name: String,
    /// Value, may be empty.
    pub value: String,
}

/// A hash ring.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RingHash {
    /// Least number of points; absent means 1024.
    pub minimum_ring_size: Option<u64>,
}

/// Maglev's table.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Maglev {
    /// Size, a prime.
    pub table_size: Option<u64>,
}

/// Choice by locality.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct LocalityLbSetting {
    /// Shares by origin.
    pub distribute: Vec<LocalityDistribute>,
    /// Where a region's traffic goes when it fails.
    pub failover: Vec<LocalityFailover>,
    /// Labels whose equality makes an endpoint preferred.
    pub failover_priority: Vec<String>,
    /// Absent means the mesh's setting.
    pub enabled: Option<bool>,
}

/// Shares of traffic from one origin.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct LocalityDistribute {
    /// Origin, `region/zone/subzone` with a final `*`.
    pub from: String,
    /// Percent by destination.
    pub to: BTreeMap<String, u32>,
}

/// Where a region's traffic goes when it fails.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct LocalityFailover {
    /// The region that fails.
    pub from: String,
    /// The region that takes over.
    pub to: String,
}

/// Choice by zone.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ZoneAwareLbSetting {
    /// Absent means true.
    pub enabled: Option<bool>,
    /// Where a region's traffic goes when it fails.
    pub failover: Vec<LocalityFailover>,
    /// Labels whose equality makes an endpoint preferred.
    pub failover_priority: Vec<String>,
    /// Fewest hosts for it to act; absent means 6.
    pub min_cluster_size: Option<u64>,
}

/// Less traffic for endpoints that are new.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct WarmupConfiguration {
    /// How long an endpoint counts as new.
    pub duration: Option<Duration>,
    /// Share at the beginning, percent; absent means 10.
    pub minimum_percent: Option<f64>,
    /// Shape of the curve; absent means 1.
    pub aggression: Option<f64>,
}

/// Limits of connections.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ConnectionPoolSettings {
    /// For all connections.
    pub tcp: Option<TCPSettings>,
    /// For HTTP.
    pub http: Option<HTTPSettings>,
}

/// Limits of all connections; zero means the default.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TCPSettings {
    /// Most connections.
    pub max_connections: i32,
    /// Limit for making a connection.
    pub connect_timeout: Option<Duration>,
    /// Keep-alive of the socket.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Greatest age of a connection.
    pub max_connection_duration: Option<Duration>,
    /// Longest silence of a connection; zero means no limit.
    pub idle_timeout: Option<Duration>,
}

/// Keep-alive of the socket.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TcpKeepalive {
    /// Probes without an answer before the connection counts as dead.
    pub probes: u32,
    /// Silence before the first probe.
    pub time: Option<Duration>,
    /// Time between probes.
    pub interval: Option<Duration>,
}

/// Limits of HTTP; zero means the default.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HTTPSettings {
    /// Most requests that wait for a connection.
    pub http1_max_pending_requests: i32,
    /// Most active requests.
    pub http2_max_requests: i32,
    /// Requests after which a connection is closed.
    pub max_requests_per_connection: i32,
    /// Most concurrent retries.
    pub max_retries: i32,
    /// Longest silence of a pooled connection.
    pub idle_timeout: Option<Duration>,
    /// Whether HTTP/1.1 is upgraded to HTTP/2.
    pub h2_upgrade_policy: H2UpgradePolicy,
    /// Speak to the upstream what the client speaks.
    pub use_client_protocol: bool,
    /// Most streams per HTTP/2 connection.
    pub max_concurrent_streams: i32,
    /// HTTP/2 PING.
    pub http2_keep_alive: Option<Http2KeepAlive>,
}

/// HTTP/2 PING.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Http2KeepAlive {
    /// Time between pings.
    pub interval: Option<Duration>,
    /// Longest wait for the answer.
    pub timeout: Option<Duration>,
}

/// Whether HTTP/1.1 is upgraded to HTTP/2.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum H2UpgradePolicy {
    /// As the mesh says.
    #[default]
    Default,
    /// No.
    DoNotUpgrade,
    /// Yes.
    Upgrade,
}

/// When an endpoint is left out for a while.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct OutlierDetection {
    /// Deprecated, ignored by Istio.
    pub consecutive_errors: Option<i32>,
    /// Count failures of our own side by themselves.
    pub split_external_local_origin_errors: bool,
    /// Failures of our own side in a row.
    pub consecutive_local_origin_failures: Option<u32>,
    /// 502, 503 and 504 in a row.
    pub consecutive_gateway_errors: Option<u32>,
    /// 5xx in a row; absent means 5.
    #[serde(rename = "consecutive5xxErrors")]
    pub consecutive_5xx_errors: Option<u32>,
    /// Time between sweeps; absent means 10 s.
    pub interval: Option<Duration>,
    /// Length of the first ejection; absent means 30 s.
    pub base_ejection_time: Option<Duration>,
    /// Most endpoints out, percent; zero means 10.
    pub max_ejection_percent: i32,
    /// Healthy percent below which ejections are ignored.
    pub min_health_percent: i32,
    /// The codes that count as errors, in place of 5xx.
    pub outlier_detection_http_error_codes: Vec<u32>,
}

/// TLS towards the endpoint.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ClientTLSSettings {
    /// Whether, and with which certificate.
    pub mode: ClientTLSMode,
    /// File of the client's certificate.
    pub client_certificate: String,
    /// File of its key.
    pub private_key: String,
    /// File of the authorities that may sign the server's.
    pub ca_certificates: String,
    /// Secret that holds all of them.
    pub credential_name: String,
    /// Names, one of which the server's certificate must carry.
    pub subject_alt_names: Vec<String>,
    /// Server name to ask for.
    pub sni: String,
    /// Do not verify the server.
    pub insecure_skip_verify: Option<bool>,
    /// File of revoked certificates.
    pub ca_crl: String,
}

/// Whether TLS is used, and with which certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ClientTLSMode {
    /// No TLS.
    #[default]
    Disable,
    /// Verify the server.
    Simple,
    /// And show a certificate.
    Mutual,
    /// With the mesh's certificates.
    IstioMutual,
}

/// Carry TCP inside HTTP.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TunnelSettings {
    /// `CONNECT` (also if empty) or `POST`.
    pub protocol: String,
    /// Whom the tunnel's far end dials.
    pub target_host: String,
    /// On which port.
    pub target_port: u32,
}

/// PROXY protocol towards the endpoint.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ProxyProtocol {
    /// Text or binary.
    pub version: ProxyProtocolVersion,
}

/// Version of the PROXY protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ProxyProtocolVersion {
    /// Text.
    #[default]
    V1,
    /// Binary.
    V2,
}

/// Limit of concurrent retries, relative to the load.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RetryBudget {
    /// Percent of active and pending requests; absent means 20.
    pub percent: Option<f64>,
    /// Always allowed; absent means 3.
    pub min_retry_concurrency: Option<u32>,
    /// Requests started within it count too.
    pub budget_interval: Option<Duration>,
}
