//! VirtualService, as networking.istio.io defines it.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Duration, Kind, Labels, NoStatus, Percent, PortSelector, Resource, StringMatch};

/// How requests and connections for some hosts are routed.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct VirtualService {
    /// Hosts that clients address; empty in a delegate.
    pub hosts: Vec<String>,
    /// Gateways it binds to, and `mesh`; empty means `mesh` alone.
    pub gateways: Vec<String>,
    /// Routes for HTTP, in order.
    pub http: Vec<HTTPRoute>,
    /// Routes for TLS by SNI, in order.
    pub tls: Vec<TLSRoute>,
    /// Routes for TCP, in order.
    pub tcp: Vec<TCPRoute>,
    /// Namespaces that may use it.
    pub export_to: Vec<String>,
}

impl Resource for VirtualService {
    const KIND: Kind = Kind::VirtualService;
    type Status = NoStatus;
}

/// One HTTP rule: conditions and what happens.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HTTPRoute {
    /// Name for logs and metrics.
    pub name: String,
    /// Alternatives, any of which suffices; empty matches all.
    #[serde(rename = "match")]
    pub matches: Vec<HTTPMatchRequest>,
    /// Weighted destinations.
    pub route: Vec<HTTPRouteDestination>,
    /// Answer with a redirect instead.
    pub redirect: Option<HTTPRedirect>,
    /// Answer with a fixed response instead.
    pub direct_response: Option<HTTPDirectResponse>,
    /// The rules of another VirtualService instead.
    pub delegate: Option<Delegate>,
    /// Changes to path and authority.
    pub rewrite: Option<HTTPRewrite>,
    /// Limit for the whole request.
    pub timeout: Option<Duration>,
    /// Retry policy.
    pub retries: Option<HTTPRetry>,
    /// Injected delays and errors.
    pub fault: Option<HTTPFaultInjection>,
    /// One copy of the traffic.
    pub mirror: Option<Destination>,
    /// Several copies of the traffic.
    pub mirrors: Vec<HTTPMirrorPolicy>,
    /// Share of `mirror`, whole percents, deprecated.
    pub mirror_percent: Option<u32>,
    /// Share of `mirror`.
    pub mirror_percentage: Option<Percent>,
    /// Cross-origin policy.
    pub cors_policy: Option<CorsPolicy>,
    /// Header operations.
    pub headers: Option<Headers>,
}

/// Conditions on one request, all of which must hold.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HTTPMatchRequest {
    /// Name for logs and metrics.
    pub name: String,
    /// Path without query.
    pub uri: Option<StringMatch>,
    /// `http` or `https`.
    pub scheme: Option<StringMatch>,
    /// Method.
    pub method: Option<StringMatch>,
    /// Host.
    pub authority: Option<StringMatch>,
    /// Headers by lower-case name.
    pub headers: BTreeMap<String, StringMatch>,
    /// Destination port; 0 for any.
    pub port: u32,
    /// Labels of the client.
    pub source_labels: Labels,
    /// Gateways, in place of the VirtualService's.
    pub gateways: Vec<String>,
    /// Query parameters by name.
    pub query_params: BTreeMap<String, StringMatch>,
    /// Compare `uri` without regard to case.
    pub ignore_uri_case: bool,
    /// Headers that must not match.
    pub without_headers: BTreeMap<String, StringMatch>,
    /// Namespace of the client.
    pub source_namespace: String,
    /// Prefix for statistics of the route.
    pub stat_prefix: String,
}

/// One weighted destination of an HTTP rule.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HTTPRouteDestination {
    /// Where to.
    pub destination: Option<Destination>,
    /// Relative weight.
    pub weight: i32,
    /// Header operations for this destination.
    pub headers: Option<Headers>,
}

/// A service, and optionally its subset and port.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Destination {
    /// Name in the service registry.
    pub host: String,
    /// Subset by its DestinationRule name; empty for all endpoints.
    pub subset: String,
    /// Port of the service; absent if it has one.
    pub port: Option<PortSelector>,
}

/// A redirect.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HTTPRedirect {
    /// New path.
    pub uri: String,
    /// New beginning of the path, in place of what matched.
    pub prefix_rewrite: Option<String>,
    /// New host.
    pub authority: String,
    /// New port.
    pub port: Option<u32>,
    /// How the port is found.
    pub derive_port: Option<RedirectPortSelection>,
    /// New scheme.
    pub scheme: String,
    /// Status code; 0 means 301.
    pub redirect_code: u32,
}

/// How a redirect finds its port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RedirectPortSelection {
    /// 80 for http, 443 for https.
    #[default]
    FromProtocolDefault,
    /// That of the request.
    FromRequestPort,
}

/// A fixed answer.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HTTPDirectResponse {
    /// Status code.
    pub status: u32,
    /// Body, empty if absent.
    pub body: Option<HTTPBody>,
}

/// The body of a fixed answer: one of the two.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HTTPBody {
    /// As text.
    pub string: Option<String>,
    /// As base64.
    pub bytes: Option<String>,
}

/// Names the VirtualService whose rules take this one's place.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Delegate {
    /// Its name.
    pub name: String,
    /// Its namespace; empty for the same.
    pub namespace: String,
}

/// Changes to path and authority.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HTTPRewrite {
    /// New path, or new prefix where the match is by prefix.
    pub uri: String,
    /// New authority.
    pub authority: String,
    /// Change the path by a regular expression.
    pub uri_regex_rewrite: Option<RegexRewrite>,
}

/// A substitution by regular expression.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RegexRewrite {
    /// RE2 expression.
    #[serde(rename = "match")]
    pub pattern: String,
    /// Replacement, with `\1` for groups.
    pub rewrite: String,
}

/// When and how often a request is tried again.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HTTPRetry {
    /// Tries after the first; 0 turns retries off.
    pub attempts: i32,
    /// Limit for each try.
    pub per_try_timeout: Option<Duration>,
    /// Conditions, comma separated.
    pub retry_on: String,
    /// Whether other localities may be tried.
    pub retry_remote_localities: Option<bool>,
    /// Whether hosts that failed are avoided.
    pub retry_ignore_previous_hosts: Option<bool>,
    /// Base of the wait between tries.
    pub backoff: Option<Duration>,
}

/// Injected faults.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HTTPFaultInjection {
    /// Delay before the request goes on.
    pub delay: Option<FaultDelay>,
    /// Error instead of the request.
    pub abort: Option<FaultAbort>,
}

/// An injected delay.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct FaultDelay {
    /// Share in whole percents, deprecated.
    pub percent: Option<i32>,
    /// How long.
    pub fixed_delay: Option<Duration>,
    /// Not supported by Istio.
    pub exponential_delay: Option<Duration>,
    /// Share of requests; absent means all.
    pub percentage: Option<Percent>,
}

/// An injected error.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct FaultAbort {
    /// HTTP status code.
    pub http_status: Option<i32>,
    /// Name of a gRPC status.
    pub grpc_status: Option<String>,
    /// Not supported by Istio.
    pub http2_error: Option<String>,
    /// Share of requests; absent means all.
    pub percentage: Option<Percent>,
}

/// A copy of the traffic.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HTTPMirrorPolicy {
    /// Where to.
    pub destination: Option<Destination>,
    /// Share of requests; absent means all.
    pub percentage: Option<Percent>,
}

/// Cross-origin policy.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CorsPolicy {
    /// Origins as exact texts, deprecated.
    pub allow_origin: Vec<String>,
    /// Origins that may read answers.
    pub allow_origins: Vec<StringMatch>,
    /// Methods.
    pub allow_methods: Vec<String>,
    /// Request headers.
    pub allow_headers: Vec<String>,
    /// Response headers that scripts may read.
    pub expose_headers: Vec<String>,
    /// How long a preflight's answer may be kept.
    pub max_age: Option<Duration>,
    /// Whether credentials may be sent.
    pub allow_credentials: Option<bool>,
    /// What happens to preflights that match no origin.
    pub unmatched_preflights: UnmatchedPreflights,
}

/// What happens to preflights that match no origin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum UnmatchedPreflights {
    /// As `Forward`.
    #[default]
    Unspecified,
    /// They go to the upstream.
    Forward,
    /// They are answered here.
    Ignore,
}

/// Header operations on request and response.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Headers {
    /// On the request, before it goes on.
    pub request: Option<HeaderOperations>,
    /// On the response, before it goes back.
    pub response: Option<HeaderOperations>,
}

/// Header operations.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HeaderOperations {
    /// Replace.
    pub set: BTreeMap<String, String>,
    /// Append.
    pub add: BTreeMap<String, String>,
    /// Remove.
    pub remove: Vec<String>,
}

/// One rule for TLS connections.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TLSRoute {
    /// Alternatives, any of which suffices.
    #[serde(rename = "match")]
    pub matches: Vec<TLSMatchAttributes>,
    /// Weighted destinations.
    pub route: Vec<RouteDestination>,
}

/// Conditions on one TLS connection, all of which must hold.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TLSMatchAttributes {
    /// Server names, wildcards allowed.
    pub sni_hosts: Vec<String>,
    /// Destination addresses or networks.
    pub destination_subnets: Vec<String>,
    /// Destination port; 0 for any.
    pub port: u32,
    /// Labels of the client.
    pub source_labels: Labels,
    /// Gateways, in place of the VirtualService's.
    pub gateways: Vec<String>,
    /// Namespace of the client.
    pub source_namespace: String,
}

/// One rule for TCP connections.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TCPRoute {
    /// Alternatives, any of which suffices; empty matches all.
    #[serde(rename = "match")]
    pub matches: Vec<L4MatchAttributes>,
    /// Weighted destinations.
    pub route: Vec<RouteDestination>,
}

/// Conditions on one TCP connection, all of which must hold.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct L4MatchAttributes {
    /// Destination addresses or networks.
    pub destination_subnets: Vec<String>,
    /// Destination port; 0 for any.
    pub port: u32,
    /// Read and ignored, as Istio does.
    pub source_subnet: String,
    /// Labels of the client.
    pub source_labels: Labels,
    /// Gateways, in place of the VirtualService's.
    pub gateways: Vec<String>,
    /// Namespace of the client.
    pub source_namespace: String,
}

/// One weighted destination of a TLS or TCP rule.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RouteDestination {
    /// Where to.
    pub destination: Option<Destination>,
    /// Relative weight.
    pub weight: i32,
}
