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
use crate::snapshot::routes::{
    ForwardAction, HttpRoute, L4Destination, RouteAction, TcpRoute, TlsRoute, VirtualHost,
};
use crate::snapshot::{Cluster, ClusterRef};

use super::kernel_view::KernelClusters;
use super::registry::{Service, ServiceKind};
use super::route::is_catch_all;

/// All requests, in parts per million.
const ALWAYS: u32 = 1_000_000;

/// The plan in both planes' words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Planned {
    /// For people, `get` and the proxy.
    pub(crate) path: PathPlan,
    /// For the maps.
    pub(crate) kernel: KernelPlan,
}

/// What becomes of a proxied destination while the proxy is gone.
struct Degraded {
    form: DegradedForm,
    reason: &'static str,
    action: KernelAction,
}

impl Degraded {
    fn pass(reason: &'static str) -> Self {
        Self {
            form: DegradedForm::Pass,
            reason,
            action: KernelAction::Pass,
        }
    }

    fn deny(reason: &'static str) -> Self {
        Self {
            form: DegradedForm::Deny,
            reason,
            action: KernelAction::Refuse,
        }
    }

    fn split(reason: &'static str, entries: Arc<[SplitEntry]>) -> Self {
        Self {
            form: DegradedForm::L4,
            reason,
            action: KernelAction::Split(entries),
        }
    }
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
fn untouched_reason(
    service: Option<&Service>,
    destinations: &[L4Destination],
) -> Option<&'static str> {
    let ([only], Some(service)) = (destinations, service) else {
        return None;
    };
    let ClusterRef::Known(cluster) = &only.cluster else {
        return None;
    };
    if !cluster.variant.is_empty() {
        return None;
    }
    match (service.kind, cluster.discovery) {
        (ServiceKind::Kubernetes, _) => Some("no Istio object names it"),
        (ServiceKind::ServiceEntry, Discovery::OriginalDst { port: None }) => {
            Some("goes where it was dialled")
        }
        (
            ServiceKind::ServiceEntry,
            Discovery::OriginalDst { port: Some(_) } | Discovery::Endpoints,
        ) => None,
    }
}

/// The form of a destination whose rules the kernel cannot follow at all.
fn degrade_to_pass<'d>(
    service: Option<&Service>,
    destinations: impl IntoIterator<Item = &'d L4Destination>,
) -> Degraded {
    let clusters = destinations.into_iter().map(|entry| &entry.cluster);
    match deny_reason(service, clusters) {
        Some(reason) => Degraded::deny(reason),
        None => Degraded::pass("its rules need the connection's bytes"),
    }
}

/// The weights and subsets of one L4 route, without limits and timeouts.
fn degrade_l4(
    service: Option<&Service>,
    destinations: &[L4Destination],
    clusters: &mut KernelClusters,
) -> Degraded {
    let refs = destinations.iter().map(|entry| &entry.cluster);
    if let Some(reason) = deny_reason(service, refs) {
        return Degraded::deny(reason);
    }
    let is_plain = untouched_reason(service, destinations).is_some();
    if is_plain {
        return Degraded::pass("no Istio object names it");
    }
    match split(destinations, clusters, Strictness::L4Part) {
        Ok(entries) => Degraded::split("weights and subsets without limits and timeouts", entries),
        Err(reason) => Degraded::pass(reason),
    }
}

/// The catch-all route of a virtual host, if all of it stays with the dialled service.
fn degrade_http(
    service: &Service,
    port: u16,
    host: &VirtualHost,
    clusters: &mut KernelClusters,
) -> Degraded {
    let all = host.routes.iter().filter_map(forward).flat_map(refs);
    if let Some(reason) = deny_reason(Some(service), all) {
        return Degraded::deny(reason);
    }
    let is_aborted = |route: &HttpRoute| {
        let abort = route.fault.as_ref().and_then(|fault| fault.abort);
        abort.is_some_and(|(share, _)| share >= ALWAYS)
    };
    if !host.routes.is_empty() && host.routes.iter().all(is_aborted) {
        return Degraded::deny("every route aborts all requests");
    }
    let catch_all = host.routes.iter().find(|route| is_catch_all(route));
    let Some(forward) = catch_all.and_then(forward) else {
        return Degraded::pass("no catch-all route that forwards");
    };
    let stays = forward
        .destinations
        .iter()
        .all(|entry| match &entry.cluster {
            ClusterRef::Known(cluster) => cluster.host == service.host && cluster.port == port,
            ClusterRef::Missing(name) => is_cluster_of(name, service, port),
            ClusterRef::NotHonoured(_) => false,
        });
    if !stays {
        return Degraded::pass("the catch-all route leads to another service");
    }
    let destinations: Vec<L4Destination> = forward
        .destinations
        .iter()
        .map(|entry| L4Destination {
            weight: entry.weight,
            cluster: entry.cluster.clone(),
        })
        .collect();
    let is_whole = matches!(destinations.as_slice(), [only] if is_whole_service(&only.cluster));
    if is_whole && service.kind == ServiceKind::Kubernetes {
        return Degraded::pass("the catch-all route is the service itself");
    }
    match split(&destinations, clusters, Strictness::L4Part) {
        Ok(entries) => Degraded::split("weights and subsets of the catch-all route", entries),
        Err(reason) => Degraded::pass(reason),
    }
}

fn is_cluster_of(name: &str, service: &Service, port: u16) -> bool {
    let host_and_port = name.strip_prefix("outbound|").and_then(|rest| {
        let (number, rest) = rest.split_once('|')?;
        let (_, host) = rest.split_once('|')?;
        Some((host, number.parse::<u16>().ok()?))
    });
    host_and_port == Some((&*service.host, port))
}

fn is_whole_service(cluster: &ClusterRef) -> bool {
    match cluster {
        ClusterRef::Known(cluster) => cluster.subset.is_empty(),
        ClusterRef::Missing(_) | ClusterRef::NotHonoured(_) => false,
    }
}

fn forward(route: &HttpRoute) -> Option<&ForwardAction> {
    match &route.action {
        RouteAction::Forward(forward) => Some(forward),
        RouteAction::Redirect(_)
        | RouteAction::DirectResponse { .. }
        | RouteAction::NotHonoured(_) => None,
    }
}

fn refs(forward: &ForwardAction) -> impl Iterator<Item = &ClusterRef> {
    forward.destinations.iter().map(|entry| &entry.cluster)
}

/// Why passing or splitting would leak or bypass something, if so.
fn deny_reason<'c>(
    service: Option<&Service>,
    clusters: impl IntoIterator<Item = &'c ClusterRef>,
) -> Option<&'static str> {
    let is_external = service.is_some_and(|service| service.is_external);
    clusters.into_iter().find_map(|cluster| match cluster {
        ClusterRef::Known(cluster) if cluster.policy.tls == UpstreamTls::NotHonoured => {
            Some("TLS origination")
        }
        ClusterRef::NotHonoured(_) => Some("a destination needs what is not honoured yet"),
        // What is meant to leave by a gateway of the mesh must not leave by itself.
        ClusterRef::Known(cluster)
            if is_external && service.is_some_and(|service| service.host != cluster.host) =>
        {
            Some("egress gateway")
        }
        ClusterRef::Known(_) | ClusterRef::Missing(_) => None,
    })
}

/// What a split must keep of a cluster's policy.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Strictness {
    /// Everything: the kernel does it instead of the proxy.
    Exact,
    /// Weights, subsets and endpoints: better than nothing.
    L4Part,
}

/// The destinations as a split in the kernel, or why that cannot be.
fn split(
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
    if !fits_slots(cluster) {
        return Err("endpoint weights need more than 256 slots");
    }
    if strictness == Strictness::L4Part {
        return Ok(());
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
