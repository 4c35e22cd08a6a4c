//! Which data plane takes a destination's connections, why, and what is left of its rules
//! while the proxy is gone. Start at [`plan_l4`] and [`plan_http`].
//!
//! The kernel decides at `connect()`: it knows destination, port and client, nothing of the
//! bytes. Whatever needs more, or needs to watch the connection, takes the proxy.

use std::sync::Arc;

use crate::snapshot::clusters::Discovery;
use crate::snapshot::kernel_view::{
    KernelAction, KernelPlan, SPLIT_MAX, SplitEntry, SplitTarget, WEIGHT_SLOTS_MAX,
};
use crate::snapshot::listeners::{DegradedForm, PathPlan, TrafficPath};
use crate::snapshot::policy::{HashKey, LoadBalancer, UpstreamTls};
use crate::snapshot::routes::{L4Destination, TcpRoute, TlsRoute, VirtualHost};
use crate::snapshot::{Cluster, ClusterRef};

use super::degraded::{Degraded, degrade_http, degrade_l4, degrade_to_pass};
use super::kernel_view::KernelClusters;
use super::registry::{Service, ServiceKind};

/// The plan in both planes' words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Planned {
    /// For people, `get` and the proxy.
    pub(crate) path: PathPlan,
    /// For the maps.
    pub(crate) kernel: KernelPlan,
}

/// Plan of a declared TCP port, or of a TLS port without a condition on the server name.
/// `service` is `None` where several services share the port.
pub(crate) fn plan_l4(
    service: Option<&Service>,
    routes: &[TcpRoute],
    clusters: &mut KernelClusters,
) -> Planned {
    let [only] = routes else {
        return proxied(
            "destinationSubnets on a listener of several addresses",
            degrade_to_pass(service, destinations(routes)),
        );
    };
    if only.provenance.is_none()
        && let Some(reason) = untouched_reason(service, &only.destinations)
    {
        return Planned {
            path: PathPlan {
                path: TrafficPath::Untouched,
                reason: Arc::from(reason),
                degraded: DegradedForm::Pass,
                degraded_reason: Arc::from(reason),
            },
            kernel: KernelPlan {
                action: KernelAction::Pass,
                degraded: KernelAction::Pass,
                deny_when_stale: false,
            },
        };
    }
    match split(&only.destinations, clusters, Strictness::Exact) {
        Ok(entries) => {
            let reason = "decided by destination, port and client alone";
            let action = KernelAction::Split(entries);
            Planned {
                path: PathPlan {
                    path: TrafficPath::Kernel,
                    reason: Arc::from(reason),
                    degraded: DegradedForm::L4,
                    degraded_reason: Arc::from("needs no proxy"),
                },
                kernel: KernelPlan {
                    degraded: action.clone(),
                    action,
                    deny_when_stale: false,
                },
            }
        }
        Err(reason) => {
            let degraded = degrade_l4(service, &only.destinations, clusters);
            proxied(reason, degraded)
        }
    }
}

/// Plan of a TLS port; rules that ask for the server name need its first bytes.
pub(crate) fn plan_tls(
    service: Option<&Service>,
    routes: &[TlsRoute],
    clusters: &mut KernelClusters,
) -> Planned {
    let has_conditions = routes
        .iter()
        .any(|route| !(route.sni_hosts.is_empty() && route.destination_subnets.is_empty()));
    if has_conditions {
        let all = routes.iter().flat_map(|route| &route.destinations);
        return proxied("routed by SNI", degrade_to_pass(service, all));
    }
    let routes: Vec<TcpRoute> = routes
        .iter()
        .map(|route| TcpRoute {
            destination_subnets: Vec::new(),
            destinations: route.destinations.clone(),
            total_weight: route.total_weight,
            provenance: route.provenance.clone(),
        })
        .collect();
    plan_l4(service, &routes, clusters)
}

/// Plan of an address that belongs to `service` where bytes may be HTTP.
pub(crate) fn plan_http(
    service: &Service,
    port: u16,
    reason: &'static str,
    host: &VirtualHost,
    tcp: &[TcpRoute],
    clusters: &mut KernelClusters,
) -> Planned {
    // An undeclared port without http rules is, as far as rules go, a TCP port.
    let degraded = match tcp {
        [only] if host.provenance.is_none() => {
            degrade_l4(Some(service), &only.destinations, clusters)
        }
        _ => degrade_http(service, port, host, clusters),
    };
    proxied(reason, degraded)
}

/// Plan of any address on a port that some service declares as HTTP.
pub(crate) fn plan_port_wide(is_registry_only: bool) -> Planned {
    let degraded = if is_registry_only {
        Degraded::deny("REGISTRY_ONLY: the address belongs to no service")
    } else {
        Degraded::pass("the address belongs to no service")
    };
    proxied("HTTP by Host", degraded)
}

fn proxied(reason: &'static str, degraded: Degraded) -> Planned {
    Planned {
        path: PathPlan {
            path: TrafficPath::Proxy,
            reason: Arc::from(reason),
            degraded: degraded.form,
            degraded_reason: Arc::from(degraded.reason),
        },
        kernel: KernelPlan {
            action: KernelAction::Proxy,
            deny_when_stale: degraded.form == DegradedForm::Deny,
            degraded: degraded.action,
        },
    }
}

fn destinations(routes: &[TcpRoute]) -> impl Iterator<Item = &L4Destination> {
    routes.iter().flat_map(|route| &route.destinations)
}

/// Why nothing needs to be done for a service's own route, if so.
pub(super) fn untouched_reason(
    service: Option<&Service>,
    destinations: &[L4Destination],
) -> Option<&'static str> {
    let ([only], Some(service)) = (destinations, service) else {
        return None;
    };
    let ClusterRef::Known(cluster) = &only.cluster else {
        return None;
    };
    // Without a rule of its own it may still have a policy of the mesh.
    let has_mesh_policy =
        cluster.policy.pool.tcp_keepalive.is_some() || fits(cluster, Strictness::Exact).is_err();
    if !cluster.variant.is_empty() || has_mesh_policy {
        return None;
    }
    match (service.kind, cluster.discovery) {
        (ServiceKind::Kubernetes, _) => Some("no Istio object names it"),
        (ServiceKind::ServiceEntry, Discovery::OriginalDst { port: None }) => {
            Some("goes where it was dialled")
        }
        (
            ServiceKind::ServiceEntry,
            Discovery::OriginalDst { port: Some(_) }
            | Discovery::Endpoints
            | Discovery::Dns
            | Discovery::LogicalDns
            | Discovery::DynamicDns { .. },
        ) => None,
    }
}

/// What a split must keep of a cluster's policy.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Strictness {
    /// Everything: the kernel does it instead of the proxy.
    Exact,
    /// Weights, subsets and endpoints: better than nothing.
    L4Part,
}

/// The destinations as a split in the kernel, or why that cannot be.
pub(super) fn split(
    destinations: &[L4Destination],
    clusters: &mut KernelClusters,
    strictness: Strictness,
) -> Result<Arc<[SplitEntry]>, &'static str> {
    if destinations.len() > SPLIT_MAX {
        return Err("more than 16 weighted destinations");
    }
    for destination in destinations {
        if let ClusterRef::Known(cluster) = &destination.cluster {
            fits(cluster, strictness)?;
        }
    }
    let mut entries = Vec::with_capacity(destinations.len());
    for destination in destinations {
        let target = match &destination.cluster {
            ClusterRef::Known(cluster) => SplitTarget::Cluster(clusters.index_of(cluster)),
            ClusterRef::Missing(_) => SplitTarget::Refuse,
            ClusterRef::NotHonoured(_) => {
                return Err("a destination needs what is not honoured yet");
            }
        };
        entries.push(SplitEntry {
            weight: destination.weight,
            target,
        });
    }
    Ok(entries.into())
}

/// `Err` names the first policy that needs the proxy.
fn fits(cluster: &Cluster, strictness: Strictness) -> Result<(), &'static str> {
    let pool = &cluster.policy.pool;
    if cluster.policy.tls == UpstreamTls::NotHonoured {
        return Err("TLS origination");
    }
    if let LoadBalancer::ConsistentHash(hash) = &cluster.policy.load_balancer
        && hash.key != HashKey::SourceIp
        && strictness == Strictness::Exact
    {
        return Err("consistent hash of something other than the source address");
    }
    if matches!(cluster.discovery, Discovery::DynamicDns { .. }) {
        return Err("resolved for each request");
    }
    if !fits_slots(cluster) {
        return Err("endpoint weights need more than 256 slots");
    }
    if strictness == Strictness::L4Part {
        return Ok(());
    }
    if !has_even_names(cluster) {
        return Err("weights of names, each of which may have many addresses");
    }
    for (needs_proxy, reason) in [
        (pool.max_connections != u32::MAX, "maxConnections"),
        (pool.has_explicit_connect_timeout, "connectTimeout"),
        (pool.has_explicit_tcp_idle_timeout, "idleTimeout"),
        (
            pool.max_connection_duration.is_some(),
            "maxConnectionDuration",
        ),
        (cluster.policy.outlier.is_some(), "outlierDetection"),
    ] {
        if needs_proxy {
            return Err(reason);
        }
    }
    Ok(())
}

/// Whether all endpoints that DNS may give have one weight: how many slots others need is
/// known only with the answer.
fn has_even_names(cluster: &Cluster) -> bool {
    let Some(dns) = &cluster.dns else {
        return true;
    };
    let fixed = dns.fixed.iter().map(|endpoint| endpoint.weight);
    let mut weights = dns.named.iter().map(|named| named.weight).chain(fixed);
    let first = weights.next();
    weights.all(|weight| Some(weight) == first)
}

/// Whether the endpoints' weights, in lowest terms, fit the kernel's spread-out list.
fn fits_slots(cluster: &Cluster) -> bool {
    let set = cluster.endpoint_set();
    let is_even = set.endpoints.windows(2).all(|pair| match pair {
        [a, b] => a.weight == b.weight,
        _ => true,
    });
    if is_even {
        return true;
    }
    let weights = || {
        set.endpoints
            .iter()
            .map(|endpoint| u64::from(endpoint.weight))
    };
    let divisor = weights().fold(0, greatest_common_divisor).max(1);
    weights().map(|weight| weight / divisor).sum::<u64>() <= WEIGHT_SLOTS_MAX as u64
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 {
        return a;
    }
    greatest_common_divisor(b, a % b)
}
