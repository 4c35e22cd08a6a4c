//! Compiled values in a few words, for people.

use crate::settings::duration;
use crate::snapshot::clusters::{Discovery, UpstreamProtocol};
use crate::snapshot::endpoints::{Health, Locality};
use crate::snapshot::listeners::{DegradedForm, PathPlan, Protocol, TrafficPath};
use crate::snapshot::matchers::{HttpMatch, StringMatcher};
use crate::snapshot::policy::{
    AbortWith, ConnectionPool, FaultPolicy, HashKey, HeaderOps, LoadBalancer, RetryPolicy,
    UpstreamTls,
};
use crate::snapshot::routes::{
    ForwardAction, HttpRoute, PathRewrite, RedirectPath, RouteAction, WeightedDestination,
};
use crate::snapshot::{Cluster, ClusterRef, OnProxyDown, Provenance};

use super::view::{PlanView, WeightView};

/// `file:line` of a compiled value.
pub(super) fn origin(provenance: Option<&Provenance>) -> Option<String> {
    provenance.map(|provenance| provenance.origin.to_string())
}

/// `kind/namespace/name` of the object behind a compiled value, empty without one.
pub(super) fn object(provenance: Option<&Provenance>) -> String {
    provenance
        .map(|provenance| provenance.object.to_string())
        .unwrap_or_default()
}

/// Name of a protocol as Kubernetes' `appProtocol` writes it.
pub(super) fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http => "http",
        Protocol::Http2 => "http2",
        Protocol::Grpc => "grpc",
        Protocol::GrpcWeb => "grpc-web",
        Protocol::HttpProxy => "http_proxy",
        Protocol::Https => "https",
        Protocol::Tls => "tls",
        Protocol::Tcp => "tcp",
        Protocol::Mongo => "mongo",
        Protocol::Redis => "redis",
        Protocol::Mysql => "mysql",
        Protocol::Udp => "udp",
        Protocol::Auto => "auto",
    }
}

pub(super) fn upstream_protocol(protocol: UpstreamProtocol) -> &'static str {
    match protocol {
        UpstreamProtocol::Http1 => "http/1.1",
        UpstreamProtocol::Http2 => "http/2",
        UpstreamProtocol::SameAsClient => "as client",
        UpstreamProtocol::Tcp => "tcp",
    }
}

pub(super) fn health(health: Health) -> &'static str {
    match health {
        Health::Healthy => "healthy",
        Health::Unhealthy => "unhealthy",
    }
}

/// `region/zone/subzone` without empty ends.
pub(super) fn locality(locality: &Locality) -> String {
    let text = format!("{}/{}/{}", locality.region, locality.zone, locality.subzone);
    text.trim_end_matches('/').to_owned()
}

pub(super) fn on_proxy_down(on_proxy_down: OnProxyDown) -> &'static str {
    match on_proxy_down {
        OnProxyDown::Degrade => "degrade",
        OnProxyDown::Pass => "pass",
        OnProxyDown::Deny => "deny",
    }
}

pub(super) fn path(path: TrafficPath) -> &'static str {
    match path {
        TrafficPath::Kernel => "kernel",
        TrafficPath::Proxy => "proxy",
        TrafficPath::Untouched => "untouched",
    }
}

pub(super) fn plan(plan: &PathPlan) -> PlanView {
    let degraded = match plan.degraded {
        DegradedForm::L4 => "l4",
        DegradedForm::Pass => "pass",
        DegradedForm::Deny => "deny",
    };
    PlanView {
        path: path(plan.path).to_owned(),
        reason: plan.reason.to_string(),
        degraded: degraded.to_owned(),
        degraded_reason: plan.degraded_reason.to_string(),
    }
}

/// Where a cluster's endpoints come from.
pub(super) fn discovery(cluster: &Cluster) -> String {
    let names = || {
        let named = cluster.dns.iter().flat_map(|dns| &dns.named);
        let names: Vec<String> = named
            .map(|named| format!("{}:{}", named.name, named.port))
            .collect();
        names.join(",")
    };
    match cluster.discovery {
        Discovery::Endpoints => "listed".to_owned(),
        Discovery::Dns => format!("dns {}", names()),
        Discovery::LogicalDns => format!("first dns answer {}", names()),
        Discovery::DynamicDns { port } => format!("dns of the request, port {port}"),
        Discovery::OriginalDst { port: None } => "as dialled".to_owned(),
        Discovery::OriginalDst { port: Some(port) } => format!("as dialled, port {port}"),
    }
}

/// A load balancer as DestinationRule names it.
pub(super) fn load_balancer(cluster: &Cluster) -> String {
    if let Discovery::OriginalDst { port } = cluster.discovery {
        return match port {
            Some(port) => format!("ORIGINAL_DST port {port}"),
            None => "ORIGINAL_DST".to_owned(),
        };
    }
    match &cluster.policy.load_balancer {
        LoadBalancer::LeastRequest => "LEAST_REQUEST".to_owned(),
        LoadBalancer::RoundRobin => "ROUND_ROBIN".to_owned(),
        LoadBalancer::Random => "RANDOM".to_owned(),
        LoadBalancer::Passthrough => "PASSTHROUGH".to_owned(),
        LoadBalancer::ConsistentHash(hash) => match &hash.key {
            HashKey::Header(name) => format!("consistentHash header {name}"),
            HashKey::Cookie { name, .. } => format!("consistentHash cookie {name}"),
            HashKey::SourceIp => "consistentHash source ip".to_owned(),
            HashKey::Query(name) => format!("consistentHash query {name}"),
        },
    }
}

/// What a cluster's policy sets apart from the defaults, under the user's names.
pub(super) fn limits(cluster: &Cluster) -> Vec<String> {
    let pool = &cluster.policy.pool;
    let default = ConnectionPool::default();
    let mut limits = Vec::new();
    let mut number = |name: &str, value: u32, usual: u32| {
        if value != usual {
            limits.push(format!("{name}={value}"));
        }
    };
    number(
        "maxConnections",
        pool.max_connections,
        default.max_connections,
    );
    number(
        "http1MaxPendingRequests",
        pool.max_pending_requests,
        default.max_pending_requests,
    );
    number("http2MaxRequests", pool.max_requests, default.max_requests);
    number("maxRetries", pool.max_retries, default.max_retries);
    number(
        "maxRequestsPerConnection",
        pool.max_requests_per_connection,
        default.max_requests_per_connection,
    );
    let mut time = |name: &str, value: Option<std::time::Duration>, is_set: bool| {
        if let Some(value) = value.filter(|_| is_set) {
            limits.push(format!("{name}={}", duration::text(value)));
        }
    };
    time(
        "connectTimeout",
        Some(pool.connect_timeout),
        pool.connect_timeout != default.connect_timeout,
    );
    time(
        "http.idleTimeout",
        pool.http_idle_timeout,
        pool.http_idle_timeout != default.http_idle_timeout,
    );
    time(
        "tcp.idleTimeout",
        pool.tcp_idle_timeout,
        pool.tcp_idle_timeout != default.tcp_idle_timeout,
    );
    time("maxConnectionDuration", pool.max_connection_duration, true);
    if let Some(outlier) = &cluster.policy.outlier {
        limits.push(format!("consecutive5xxErrors={}", outlier.consecutive_5xx));
        limits.push(format!(
            "baseEjectionTime={}",
            duration::text(outlier.base_ejection_time)
        ));
    }
    if cluster.policy.tls == UpstreamTls::NotHonoured {
        limits.push("tls=not honoured".to_owned());
    }
    limits
}

/// A matcher as `exact x`, `prefix x` or `regex x`.
pub(super) fn string_matcher(matcher: &StringMatcher) -> String {
    match matcher {
        StringMatcher::Exact(text) => format!("exact {text}"),
        StringMatcher::Prefix(text) => format!("prefix {text}"),
        StringMatcher::ExactIgnoreCase(text) => format!("exact {text} (any case)"),
        StringMatcher::PrefixIgnoreCase(text) => format!("prefix {text} (any case)"),
        StringMatcher::Regex(regex) => {
            let pattern = regex.as_str();
            let written = pattern
                .strip_prefix(r"\A(?:")
                .and_then(|rest| rest.strip_suffix(r")\z"));
            format!("regex {}", written.unwrap_or(pattern))
        }
    }
}

/// All conditions of one element of `match`, joined by commas.
pub(super) fn http_match(element: &HttpMatch) -> String {
    let mut parts = Vec::new();
    for (name, matcher) in [
        ("uri", &element.uri),
        ("scheme", &element.scheme),
        ("method", &element.method),
        ("authority", &element.authority),
    ] {
        if let Some(matcher) = matcher {
            parts.push(format!("{name} {}", string_matcher(matcher)));
        }
    }
    for header in &element.headers {
        parts.push(condition(
            "header",
            header.name.as_str(),
            header.value.as_ref(),
            header.is_negated,
        ));
    }
    for header in &element.pseudo_headers {
        parts.push(condition(
            "header",
            header.name.as_str(),
            header.value.as_ref(),
            header.is_negated,
        ));
    }
    for param in &element.query_params {
        parts.push(condition("query", &param.name, param.value.as_ref(), false));
    }
    if parts.is_empty() {
        return "everything".to_owned();
    }
    parts.join(", ")
}

fn condition(kind: &str, name: &str, value: Option<&StringMatcher>, is_negated: bool) -> String {
    let without = if is_negated { "without " } else { "" };
    match value {
        Some(value) => format!("{without}{kind} {name} {}", string_matcher(value)),
        None => format!("{without}{kind} {name} present"),
    }
}

/// A weighted destination.
pub(super) fn weight(weight: u32, cluster: &ClusterRef) -> WeightView {
    let state = match cluster {
        ClusterRef::Known(_) => "known",
        ClusterRef::Missing(_) => "missing",
        ClusterRef::NotHonoured(_) => "not honoured",
    };
    WeightView {
        weight,
        cluster: cluster.name().to_string(),
        state: state.to_owned(),
    }
}

/// What a route does when it does not forward.
pub(super) fn action(action: &RouteAction) -> Option<String> {
    match action {
        RouteAction::Forward(_) => None,
        RouteAction::Redirect(redirect) => {
            let mut text = format!("redirect {}", redirect.status.as_u16());
            if let Some(authority) = &redirect.authority {
                text += &format!(" authority={authority}");
            }
            match &redirect.path {
                RedirectPath::Keep => {}
                RedirectPath::Full(uri) => text += &format!(" uri={uri}"),
                RedirectPath::Prefix(prefix) => text += &format!(" prefixRewrite={prefix}"),
            }
            Some(text)
        }
        RouteAction::DirectResponse { status, body } => Some(format!(
            "directResponse {} ({} bytes)",
            status.as_u16(),
            body.len()
        )),
        RouteAction::NotHonoured(field) => Some(format!("503, {field} is not honoured")),
    }
}

/// Timeout, retries, faults, mirrors, rewrites and header operations of a route.
pub(super) fn policies(route: &HttpRoute) -> Vec<String> {
    let mut policies = Vec::new();
    if let Some(timeout) = route.timeout {
        policies.push(format!("timeout={}", duration::text(timeout)));
    }
    let usual = RetryPolicy::default();
    if let Some(retry) = route.retry.as_deref().filter(|retry| **retry != usual) {
        policies.push(format!("retries={}", retry.attempts));
        if let Some(timeout) = retry.per_try_timeout {
            policies.push(format!("perTryTimeout={}", duration::text(timeout)));
        }
    }
    if let Some(fault) = route.fault.as_deref() {
        policies.extend(faults(fault));
    }
    for mirror in &route.mirrors {
        policies.push(format!(
            "mirror={} {}%",
            mirror.cluster.name(),
            percent(mirror.share)
        ));
    }
    if route.cors.is_some() {
        policies.push("cors".to_owned());
    }
    if let RouteAction::Forward(forward) = &route.action {
        policies.extend(rewrites(forward));
    }
    let has_headers = |destination: &WeightedDestination| {
        !destination.request_headers.is_empty() || !destination.response_headers.is_empty()
    };
    let on_destination = match &route.action {
        RouteAction::Forward(forward) => forward.destinations.iter().any(has_headers),
        RouteAction::Redirect(_)
        | RouteAction::DirectResponse { .. }
        | RouteAction::NotHonoured(_) => false,
    };
    if on_destination
        || [&route.request_headers, &route.response_headers]
            .into_iter()
            .any(|operations: &HeaderOps| !operations.is_empty())
    {
        policies.push("headers".to_owned());
    }
    policies
}

fn faults(fault: &FaultPolicy) -> Vec<String> {
    let mut faults = Vec::new();
    if let Some((share, delay)) = fault.delay {
        faults.push(format!(
            "delay={} {}%",
            duration::text(delay),
            percent(share)
        ));
    }
    if let Some((share, abort)) = fault.abort {
        let with = match abort {
            AbortWith::Http(status) => status.as_u16().to_string(),
            AbortWith::Grpc(status) => format!("grpc {status}"),
        };
        faults.push(format!("abort={with} {}%", percent(share)));
    }
    faults
}

fn rewrites(forward: &ForwardAction) -> Vec<String> {
    let mut rewrites = Vec::new();
    match &forward.path_rewrite {
        None => {}
        Some(PathRewrite::Prefix(to)) => rewrites.push(format!("rewrite prefix to {to}")),
        Some(PathRewrite::Full(to)) => rewrites.push(format!("rewrite path to {to}")),
        Some(PathRewrite::Regex {
            pattern,
            replacement,
        }) => rewrites.push(format!("rewrite {} to {replacement}", pattern.as_str())),
    }
    if forward.authority.is_some() {
        rewrites.push("rewrite authority".to_owned());
    }
    rewrites
}

/// Parts per million as a percentage.
fn percent(parts: u32) -> f64 {
    f64::from(parts) / 10_000.0
}
