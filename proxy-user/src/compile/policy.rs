//! The effective policy of one (port, subset), and its compiled form.
//! Start at [`effective`], then [`compile_policy`].
//!
//! Source: Istio, pilot/pkg/networking/util/util.go (`MergeSubsetTrafficPolicy`),
//! pilot/pkg/networking/core/cluster_traffic_policy.go.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use crate::api::{
    self, ClientTLSMode, ConnectionPoolSettings, ConsistentHashLB, H2UpgradePolicy,
    LoadBalancerSettings, SimpleLB, TrafficPolicy,
};
use crate::settings::{MeshKeepalive, MeshSettings};
use crate::snapshot::clusters::UpstreamProtocol;
use crate::snapshot::listeners::Protocol;
use crate::snapshot::policy::{
    ClusterPolicy, ConnectionPool, ConsistentHash, HashKey, HashTable, IDLE_TIMEOUT_DEFAULT,
    LoadBalancer, OutlierDetection, PartsPerMillion, RetryBudget, TcpKeepalive, UpstreamTls,
};

use super::mesh::DefaultTrafficPolicy;

/// Envoy's and Istio's defaults of consistent hashing.
const RING_SIZE_DEFAULT: u64 = 1024;
const MAGLEV_SIZE_DEFAULT: u64 = 65_537;

/// The blocks that act on one (port, subset), each whole from one place.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Blocks<'a> {
    pub(crate) load_balancer: Option<&'a LoadBalancerSettings>,
    pub(crate) connection_pool: Option<&'a ConnectionPoolSettings>,
    pub(crate) outlier: Option<&'a api::OutlierDetection>,
    pub(crate) tls: Option<&'a api::ClientTLSSettings>,
    pub(crate) tunnel: Option<&'a api::TunnelSettings>,
    pub(crate) proxy_protocol: Option<&'a api::ProxyProtocol>,
    pub(crate) retry_budget: Option<&'a api::RetryBudget>,
}

/// The blocks of a DestinationRule for `port`, overlaid by those of a subset.
pub(crate) fn effective<'a>(
    destination: Option<&'a TrafficPolicy>,
    subset: Option<&'a TrafficPolicy>,
    port: u16,
) -> Blocks<'a> {
    let base = destination.map(|policy| for_port(policy, port));
    let Some(policy) = subset else {
        return base.unwrap_or_default();
    };
    let Some(base) = base else {
        return for_port(policy, port);
    };
    if let Some(at_port) = port_level(policy, port) {
        // All four come from the port's entry, the omitted ones as defaults.
        return Blocks {
            tunnel: base.tunnel,
            proxy_protocol: base.proxy_protocol,
            retry_budget: base.retry_budget,
            ..at_port
        };
    }
    let own = whole(policy);
    Blocks {
        load_balancer: own.load_balancer.or(base.load_balancer),
        connection_pool: own.connection_pool.or(base.connection_pool),
        outlier: own.outlier.or(base.outlier),
        tls: own.tls.or(base.tls),
        tunnel: own.tunnel.or(base.tunnel),
        proxy_protocol: own.proxy_protocol.or(base.proxy_protocol),
        retry_budget: own.retry_budget.or(base.retry_budget),
    }
}

/// The entry of `portLevelSettings` for `port` alone, else all blocks of the policy.
fn for_port(policy: &TrafficPolicy, port: u16) -> Blocks<'_> {
    port_level(policy, port).unwrap_or_else(|| whole(policy))
}

/// Place of the entry of `portLevelSettings` for `port`.
pub(crate) fn port_level_place(policy: &TrafficPolicy, port: u16) -> Option<usize> {
    let mut entries = policy.port_level_settings.iter();
    entries.position(|entry| entry.port.is_some_and(|p| p.number == u32::from(port)))
}

fn port_level(policy: &TrafficPolicy, port: u16) -> Option<Blocks<'_>> {
    let entry = policy
        .port_level_settings
        .get(port_level_place(policy, port)?)?;
    Some(Blocks {
        load_balancer: entry.load_balancer.as_ref(),
        connection_pool: entry.connection_pool.as_ref(),
        outlier: entry.outlier_detection.as_ref(),
        tls: entry.tls.as_ref(),
        ..Blocks::default()
    })
}

fn whole(policy: &TrafficPolicy) -> Blocks<'_> {
    Blocks {
        load_balancer: policy.load_balancer.as_ref(),
        connection_pool: policy.connection_pool.as_ref(),
        outlier: policy.outlier_detection.as_ref(),
        tls: policy.tls.as_ref(),
        tunnel: policy.tunnel.as_ref(),
        proxy_protocol: policy.proxy_protocol.as_ref(),
        retry_budget: policy.retry_budget.as_ref(),
    }
}

impl<'a> Blocks<'a> {
    /// The mesh's blocks where there is none, also without any DestinationRule.
    pub(crate) fn or_default(self, mesh: &'a DefaultTrafficPolicy) -> Self {
        Self {
            connection_pool: self.connection_pool.or(mesh.connection_pool.as_ref()),
            outlier: self.outlier.or(mesh.outlier_detection.as_ref()),
            ..self
        }
    }

    /// What the blocks ask for that is not honoured yet: every connection to the
    /// cluster is refused rather than sent in another form.
    pub(crate) fn not_honoured(&self) -> Option<&'static str> {
        if self
            .tls
            .is_some_and(|tls| tls.mode != ClientTLSMode::Disable)
        {
            return Some("tls");
        }
        if self.tunnel.is_some() {
            return Some("tunnel");
        }
        self.proxy_protocol.map(|_| "proxyProtocol")
    }

    /// DestinationRule `minHealthPercent`: unhealthy endpoints are then not listed at all.
    pub(crate) fn drops_unhealthy(&self) -> bool {
        self.outlier
            .is_some_and(|outlier| outlier.min_health_percent > 0)
    }
}

/// The compiled form, with Istio's defaults filled in.
pub(crate) fn compile_policy(blocks: &Blocks<'_>, mesh: &MeshSettings) -> ClusterPolicy {
    let mut pool = compile_pool(blocks.connection_pool, mesh);
    pool.retry_budget = blocks.retry_budget.map(compile_retry_budget);
    let is_foreign_tls = blocks
        .tls
        .is_some_and(|tls| tls.mode != ClientTLSMode::Disable);
    ClusterPolicy {
        load_balancer: compile_balancer(blocks.load_balancer),
        pool,
        outlier: blocks.outlier.map(compile_outlier),
        tls: if is_foreign_tls {
            UpstreamTls::NotHonoured
        } else {
            UpstreamTls::Plain
        },
    }
}

fn compile_balancer(settings: Option<&LoadBalancerSettings>) -> LoadBalancer {
    let Some(settings) = settings else {
        return LoadBalancer::LeastRequest;
    };
    if let Some(hash) = settings.consistent_hash.as_ref().and_then(compile_hash) {
        return LoadBalancer::ConsistentHash(Arc::new(hash));
    }
    match settings.simple.unwrap_or_default() {
        SimpleLB::Unspecified | SimpleLB::LeastConn | SimpleLB::LeastRequest => {
            LoadBalancer::LeastRequest
        }
        SimpleLB::Random => LoadBalancer::Random,
        SimpleLB::RoundRobin => LoadBalancer::RoundRobin,
        SimpleLB::Passthrough => LoadBalancer::Passthrough,
    }
}

/// What Kubernetes' `sessionAffinity: ClientIP` amounts to.
pub(crate) fn source_ip_hash() -> LoadBalancer {
    LoadBalancer::ConsistentHash(Arc::new(ConsistentHash {
        key: HashKey::SourceIp,
        table: HashTable::Ring {
            minimum_size: RING_SIZE_DEFAULT,
        },
    }))
}

/// `None` for a block without a usable key, which validation reports.
fn compile_hash(settings: &ConsistentHashLB) -> Option<ConsistentHash> {
    let key = if let Some(name) = &settings.http_header_name {
        HashKey::Header(HeaderName::from_bytes(name.as_bytes()).ok()?)
    } else if let Some(cookie) = &settings.http_cookie {
        let attributes = cookie.attributes.iter();
        HashKey::Cookie {
            name: Arc::from(cookie.name.as_str()),
            path: Some(cookie.path.as_str())
                .filter(|path| !path.is_empty())
                .map(Arc::from),
            ttl: cookie.ttl.map(api::Duration::get),
            attributes: attributes
                .map(|a| (Arc::from(a.name.as_str()), Arc::from(a.value.as_str())))
                .collect(),
        }
    } else if settings.use_source_ip == Some(true) {
        HashKey::SourceIp
    } else {
        HashKey::Query(Arc::from(settings.http_query_parameter_name.as_deref()?))
    };
    let table = match (&settings.maglev, &settings.ring_hash) {
        (Some(maglev), _) => HashTable::Maglev {
            table_size: positive(maglev.table_size).unwrap_or(MAGLEV_SIZE_DEFAULT),
        },
        (None, ring) => {
            let size = ring
                .as_ref()
                .and_then(|ring| positive(ring.minimum_ring_size));
            let size = size.or_else(|| positive(settings.minimum_ring_size));
            HashTable::Ring {
                minimum_size: size.unwrap_or(RING_SIZE_DEFAULT),
            }
        }
    };
    Some(ConsistentHash { key, table })
}

fn positive(value: Option<u64>) -> Option<u64> {
    value.filter(|value| *value > 0)
}

/// Limits of the API are signed; zero (and what validation refuses) means the default.
fn limit(value: i32, default: u32) -> u32 {
    u32::try_from(value)
        .ok()
        .filter(|value| *value > 0)
        .unwrap_or(default)
}

fn compile_pool(settings: Option<&ConnectionPoolSettings>, mesh: &MeshSettings) -> ConnectionPool {
    let mut pool = ConnectionPool {
        connect_timeout: mesh.connect_timeout,
        ..ConnectionPool::default()
    };
    let tcp_idle = settings
        .and_then(|settings| settings.tcp.as_ref())
        .and_then(|tcp| tcp.idle_timeout.map(api::Duration::get));
    if let Some(tcp) = settings.and_then(|settings| settings.tcp.as_ref()) {
        pool.max_connections = limit(tcp.max_connections, u32::MAX);
        if let Some(timeout) = tcp.connect_timeout.map(api::Duration::get) {
            pool.connect_timeout = timeout;
            pool.has_explicit_connect_timeout = true;
        }
        if let Some(idle) = tcp_idle {
            pool.tcp_idle_timeout = Some(idle).filter(|idle| !idle.is_zero());
            pool.has_explicit_tcp_idle_timeout = true;
        }
        pool.max_connection_duration = tcp.max_connection_duration.map(api::Duration::get);
    }
    let own = settings.and_then(|settings| settings.tcp.as_ref()?.tcp_keepalive.as_ref());
    pool.tcp_keepalive = compile_keepalive(own, mesh);
    let http = settings.and_then(|settings| settings.http.as_ref());
    // HTTP pools take their own idle timeout, else that of TCP, else an hour.
    let http_idle = http.and_then(|http| http.idle_timeout.map(api::Duration::get));
    let idle = http_idle.or(tcp_idle).unwrap_or(IDLE_TIMEOUT_DEFAULT);
    pool.http_idle_timeout = Some(idle).filter(|idle| !idle.is_zero());
    let Some(http) = http else {
        return pool;
    };
    pool.max_pending_requests = limit(http.http1_max_pending_requests, u32::MAX);
    pool.max_requests = limit(http.http2_max_requests, u32::MAX);
    pool.max_retries = limit(http.max_retries, u32::MAX);
    pool.max_requests_per_connection = limit(http.max_requests_per_connection, 0);
    pool.max_concurrent_streams = limit(http.max_concurrent_streams, pool.max_concurrent_streams);
    pool.use_client_protocol = http.use_client_protocol;
    pool.http2_keepalive = http.http2_keep_alive.as_ref().and_then(|keepalive| {
        let interval = keepalive.interval?.get();
        Some((
            interval,
            keepalive.timeout.map_or(interval, api::Duration::get),
        ))
    });
    pool
}

/// Each value of the mesh stands in where the rule has none.
fn compile_keepalive(own: Option<&api::TcpKeepalive>, mesh: &MeshSettings) -> Option<TcpKeepalive> {
    let all = mesh.tcp_keepalive;
    if own.is_none() && all == MeshKeepalive::default() {
        return None;
    }
    let probes = own.map(|own| own.probes).filter(|probes| *probes > 0);
    let time = own.and_then(|own| own.time).map(api::Duration::get);
    let interval = own.and_then(|own| own.interval).map(api::Duration::get);
    Some(TcpKeepalive {
        probes: probes.or(all.probes.map(u32::from)),
        time: time.or(all.time),
        interval: interval.or(all.interval),
    })
}

fn compile_retry_budget(budget: &api::RetryBudget) -> RetryBudget {
    let percent = api::Percent {
        value: budget.percent.unwrap_or(20.0),
    };
    let percent_ppm: PartsPerMillion = percent.parts_per_million();
    RetryBudget {
        percent_ppm,
        min_concurrency: budget.min_retry_concurrency.unwrap_or(3),
        interval: budget
            .budget_interval
            .map_or(Duration::ZERO, api::Duration::get),
    }
}

fn compile_outlier(settings: &api::OutlierDetection) -> OutlierDetection {
    let percent = |value: i32| u32::try_from(value).unwrap_or_default().min(100);
    let codes = settings.outlier_detection_http_error_codes.iter();
    OutlierDetection {
        consecutive_5xx: settings.consecutive_5xx_errors.unwrap_or(5),
        consecutive_gateway_errors: settings.consecutive_gateway_errors.unwrap_or(0),
        split_local_origin: settings.split_external_local_origin_errors,
        consecutive_local_origin_failures: settings.consecutive_local_origin_failures.unwrap_or(5),
        error_codes: codes.filter_map(|&code| u16::try_from(code).ok()).collect(),
        interval: settings
            .interval
            .map_or(Duration::from_secs(10), api::Duration::get),
        base_ejection_time: settings
            .base_ejection_time
            .map_or(Duration::from_secs(30), api::Duration::get),
        max_ejection_percent: match settings.max_ejection_percent {
            0 => 10,
            value => percent(value),
        },
        min_health_percent: percent(settings.min_health_percent),
    }
}

/// What is spoken to the endpoints of a port, and whether that was an upgrade.
pub(crate) fn upstream_protocol(
    port: Protocol,
    pool: Option<&ConnectionPoolSettings>,
    mesh: &MeshSettings,
) -> (UpstreamProtocol, bool) {
    let http = pool.and_then(|pool| pool.http.as_ref());
    let declared = match port {
        Protocol::Http2 | Protocol::Grpc | Protocol::GrpcWeb => UpstreamProtocol::Http2,
        Protocol::Http | Protocol::HttpProxy => UpstreamProtocol::Http1,
        Protocol::Auto => UpstreamProtocol::SameAsClient,
        Protocol::Https
        | Protocol::Tls
        | Protocol::Tcp
        | Protocol::Mongo
        | Protocol::Redis
        | Protocol::Mysql
        | Protocol::Udp => return (UpstreamProtocol::Tcp, false),
    };
    if http.is_some_and(|http| http.use_client_protocol) {
        return (UpstreamProtocol::SameAsClient, false);
    }
    let is_upgraded = match http.map(|http| http.h2_upgrade_policy).unwrap_or_default() {
        H2UpgradePolicy::Upgrade => true,
        H2UpgradePolicy::DoNotUpgrade => false,
        // The mesh's policy concerns ports that are declared HTTP only.
        H2UpgradePolicy::Default => mesh.h2_upgrade && declared == UpstreamProtocol::Http1,
    };
    if is_upgraded {
        return (UpstreamProtocol::Http2, true);
    }
    (declared, false)
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
