//! Builds the views from the snapshot: every scope, destination, route and cluster
//! once, in a deterministic order.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::node::PodState;
use super::route_views::virtual_hosts;
use super::view::{
    ClusterView, EndpointView, FindingView, ListenerView, PodView, PortView, ServiceView,
};
use super::{describe, gateway_views};
use crate::finding::Finding;
use crate::net::PodUid;
use crate::snapshot::clusters::ClusterKey;
use crate::snapshot::endpoints::Health;
use crate::snapshot::routes::{RouteAction, VirtualHost};
use crate::snapshot::{Capture, ClusterRef, Destination, ScopeView, Snapshot};

/// All services.
pub(super) fn services(snapshot: &Snapshot) -> Vec<ServiceView> {
    snapshot
        .services
        .iter()
        .map(|service| ServiceView {
            host: service.host.to_string(),
            namespace: service.namespace.to_string(),
            kind: service.kind.to_owned(),
            addresses: service.addresses.iter().map(|net| address(*net)).collect(),
            allocated: service.allocated.iter().map(ToString::to_string).collect(),
            ports: service
                .ports
                .iter()
                .map(|(number, name, protocol)| PortView {
                    number: *number,
                    name: name.to_string(),
                    protocol: describe::protocol(*protocol).to_owned(),
                })
                .collect(),
            origin: describe::origin(service.provenance.as_ref()),
        })
        .collect()
}

/// A network as text; one address without its prefix length.
fn address(net: ipnet::IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() {
        net.addr().to_string()
    } else {
        net.to_string()
    }
}

/// All clusters with the paths that lead to them.
pub(super) fn clusters(snapshot: &Snapshot) -> Vec<ClusterView> {
    let paths = paths_by_cluster(snapshot);
    snapshot
        .clusters
        .iter()
        .map(|cluster| {
            let endpoints = cluster.endpoint_set();
            let healthy = endpoints
                .endpoints
                .iter()
                .filter(|endpoint| endpoint.health == Health::Healthy)
                .count();
            let known = paths.get(&cluster.key());
            let texts = |pick: fn(&(&'static str, Arc<str>)) -> String| -> Vec<String> {
                let set: BTreeSet<String> = known.into_iter().flatten().map(pick).collect();
                set.into_iter().collect()
            };
            ClusterView {
                name: cluster.name.to_string(),
                rule: cluster.variant.to_string(),
                host: cluster.host.to_string(),
                port: cluster.port,
                subset: cluster.subset.to_string(),
                paths: texts(|(path, _)| (*path).to_owned()),
                reasons: texts(|(path, reason)| format!("{path}: {reason}")),
                protocol: describe::upstream_protocol(cluster.protocol).to_owned(),
                load_balancer: describe::load_balancer(cluster),
                discovery: describe::discovery(cluster),
                limits: describe::limits(cluster),
                healthy,
                endpoints: endpoints.endpoints.len(),
                origin: describe::origin(cluster.provenance.as_ref()),
            }
        })
        .collect()
}

/// Path and reason of every destination that may send to a cluster, by cluster.
type PathsByCluster = HashMap<ClusterKey, BTreeSet<(&'static str, Arc<str>)>>;

fn paths_by_cluster(snapshot: &Snapshot) -> PathsByCluster {
    let mut paths = PathsByCluster::new();
    for scope in all_scopes(snapshot) {
        for (_, destination) in destinations(scope) {
            let Some(destination) = destination else {
                continue;
            };
            let plan = (
                describe::path(destination.plan.path),
                Arc::clone(&destination.plan.reason),
            );
            for cluster in clusters_of(scope, destination) {
                paths.entry(cluster.key()).or_default().insert(plan.clone());
            }
        }
    }
    paths
}

/// The clusters that a destination's own routes name. For a table shared by a whole
/// port these are those of the virtual host of the destination's service.
fn clusters_of<'a>(
    scope: &'a ScopeView,
    destination: &'a Destination,
) -> Vec<&'a Arc<crate::snapshot::Cluster>> {
    let mut refs: Vec<&ClusterRef> = Vec::new();
    let l4 = destination
        .tcp
        .iter()
        .map(|route| &route.destinations)
        .chain(destination.tls.iter().map(|route| &route.destinations));
    for destinations in l4 {
        refs.extend(destinations.iter().map(|destination| &destination.cluster));
    }
    if let Some(table) = scope.route_table(destination) {
        let hosts: Vec<&Arc<VirtualHost>> = match &destination.service {
            Some(service) => table.find(service).into_iter().collect(),
            None => virtual_hosts(table)
                .into_iter()
                .filter_map(|(_, host)| host)
                .collect(),
        };
        for host in hosts {
            for route in &host.routes {
                if let RouteAction::Forward(forward) = &route.action {
                    refs.extend(forward.destinations.iter().map(|entry| &entry.cluster));
                }
            }
        }
    }
    refs.into_iter()
        .filter_map(|cluster| match cluster {
            ClusterRef::Known(cluster) => Some(cluster),
            ClusterRef::Missing(_) | ClusterRef::NotHonoured(_) => None,
        })
        .collect()
}

/// All endpoints, cluster by cluster.
pub(super) fn endpoints(snapshot: &Snapshot) -> Vec<EndpointView> {
    let mut views = Vec::new();
    for cluster in &snapshot.clusters {
        for endpoint in &cluster.endpoint_set().endpoints {
            let workload = &endpoint.workload;
            views.push(EndpointView {
                cluster: cluster.name.to_string(),
                rule: cluster.variant.to_string(),
                address: endpoint.address.to_string(),
                weight: endpoint.weight,
                health: describe::health(endpoint.health).to_owned(),
                priority: endpoint.priority,
                workload: format!("{}/{}", workload.namespace, workload.name),
                node: workload.node.to_string(),
                locality: describe::locality(&workload.locality),
            });
        }
    }
    views
}

/// The scopes of pods, then the bases they stand on, each once.
pub(super) fn all_scopes(snapshot: &Snapshot) -> Vec<&ScopeView> {
    let mut scopes: Vec<&ScopeView> = Vec::new();
    let mut seen = HashSet::new();
    let mut bases = Vec::new();
    for scope in &snapshot.scopes {
        if seen.insert(Arc::as_ptr(scope)) {
            scopes.push(scope);
        }
        let mut base = scope.base.as_ref();
        while let Some(next) = base {
            if !seen.insert(Arc::as_ptr(next)) {
                break;
            }
            bases.push(&**next);
            base = next.base.as_ref();
        }
    }
    scopes.extend(bases);
    scopes
}

/// What a scope itself names, by address text; `None` hides the base's.
pub(super) fn destinations(scope: &ScopeView) -> Vec<(String, Option<&Arc<Destination>>)> {
    let mut exact: Vec<_> = scope.exact.iter().collect();
    exact.sort_by_key(|((ip, port), _)| (*ip, *port));
    let exact = exact.into_iter().map(|((ip, port), destination)| {
        let address = std::net::SocketAddr::new(*ip, *port);
        (address.to_string(), destination.as_ref())
    });
    let cidrs = scope
        .cidrs
        .iter()
        .map(|(net, port, destination)| (format!("{net}:{port}"), Some(destination)));
    let ports: BTreeMap<_, _> = scope.port_wide.iter().collect();
    let ports = ports
        .into_iter()
        .map(|(port, destination)| (format!("*:{port}"), destination.as_ref()));
    exact.chain(cidrs).chain(ports).collect()
}

/// What stands at each address and port, and what gateway pods listen on.
pub(super) fn listeners(snapshot: &Snapshot) -> Vec<ListenerView> {
    let mut views = Vec::new();
    for scope in all_scopes(snapshot) {
        for (address, destination) in destinations(scope) {
            views.push(ListenerView {
                scope: scope.key.to_string(),
                address,
                service: destination
                    .map(|destination| service_of(destination))
                    .unwrap_or_default(),
                protocol: destination
                    .map(|destination| describe::protocol(destination.protocol))
                    .unwrap_or_default()
                    .to_owned(),
                is_hidden: destination.is_none(),
                plan: destination.map(|destination| describe::plan(&destination.plan)),
                origin: destination
                    .and_then(|destination| describe::origin(destination.provenance.as_ref())),
            });
        }
    }
    views.extend(gateway_views::listeners(snapshot));
    views
}

pub(super) fn service_of(destination: &Destination) -> String {
    match &destination.service {
        Some(service) => service.to_string(),
        None => "*".to_owned(),
    }
}

/// All pods of this node with what is done with them.
pub(super) fn pods(snapshot: &Snapshot, states: &HashMap<PodUid, PodState>) -> Vec<PodView> {
    let mut views: Vec<PodView> = snapshot
        .pods
        .values()
        .map(|pod| {
            let live = states.get(&pod.uid).cloned().unwrap_or_default();
            let state = match &pod.capture {
                _ if !live.state.is_empty() => live.state,
                Capture::Captured => "waiting for cgroup".to_owned(),
                Capture::Untouched(reason) => reason.to_string(),
            };
            let scope = snapshot.scope(pod.scope);
            PodView {
                namespace: pod.workload.namespace.to_string(),
                name: pod.workload.name.to_string(),
                uid: pod.uid.to_string(),
                ips: pod.ips.iter().map(ToString::to_string).collect(),
                state,
                scope: scope.map(|scope| scope.key.to_string()).unwrap_or_default(),
                worker: live.worker,
                connections: live.connections,
                listener_ports: live.listener_ports,
                on_proxy_down: describe::on_proxy_down(pod.on_proxy_down).to_owned(),
            }
        })
        .collect();
    views.sort_by(|a, b| (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid)));
    views
}

/// A finding for JSON.
pub fn finding(finding: &Finding) -> FindingView {
    let object = finding.object.as_ref();
    let origin = finding.origin.as_ref();
    FindingView {
        file: origin.map(|origin| origin.file.to_string()),
        line: origin.map(|origin| origin.line).filter(|line| *line != 0),
        kind: object.map(|object| object.kind.to_string()),
        namespace: object.map(|object| object.namespace.to_string()),
        name: object.map(|object| object.name.to_string()),
        severity: finding.severity.to_string(),
        field: finding.field.clone(),
        message: finding.message.clone(),
        code: finding.code.to_owned(),
        text: finding.to_string(),
    }
}
