//! Gateways: which pods serve them, what those listen on and where that leads. Start at
//! [`build`].
//!
//! A pod is a gateway workload when the selector of some Gateway selects it, whatever its
//! namespace; Gateways without a selector are served by all of these. Source: Istio,
//! pilot/pkg/model/gateway.go and pilot/pkg/networking/core/gateway.go.

mod bind;
mod check;
mod merge;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::api::{self, Object, ObjectKey, ObjectSet, Pod, in_creation_order};
use crate::finding::Finding;
use crate::settings::CompileSettings;
use crate::snapshot::GatewayView;

use super::registry::workload::{node_of, pod_ips};
use super::registry::{Labels, Registry, ServiceKind};
use super::route::Router;
use super::scope::{ClientView, is_subset, key_of, labels_asked_for, relevant_labels};
use super::virtual_service::VirtualServices;

use bind::Binder;
use merge::Listener;

/// What gateways are made from.
#[derive(Clone, Copy)]
pub(crate) struct GatewayContext<'a> {
    /// Gateways, pods and secrets.
    pub(crate) objects: &'a ObjectSet,
    /// The node and the mesh.
    pub(crate) settings: &'a CompileSettings,
    /// Services.
    pub(crate) registry: &'a Registry,
    /// Those that name gateways.
    pub(crate) virtual_services: &'a VirtualServices,
}

type Gateway = Arc<Object<api::Gateway>>;

/// Pods of one namespace that serve the same Gateways in the same way.
struct Workload<'a> {
    /// As which its services and rules are looked up.
    client: ClientView,
    /// In conflict order.
    gateways: Vec<&'a Gateway>,
    /// Where their Services lead a port of theirs to.
    target_ports: BTreeMap<u16, u16>,
    pods: Vec<&'a ObjectKey>,
}

/// The gateway workloads of this node. What is left out of them, and what leads nowhere, is a
/// finding.
pub(crate) fn build(
    context: &GatewayContext<'_>,
    router: &mut Router<'_, '_>,
    findings: &mut Vec<Finding>,
) -> Vec<Arc<GatewayView>> {
    check::check_selectors(context.objects, findings);
    check::check_references(context, router.problems);
    let mut views = Vec::new();
    for (key, workload) in workloads(context) {
        let target_of = |port: u16| workload.target_ports.get(&port).copied().unwrap_or(port);
        let listeners = merge::merge(&workload.gateways, target_of, findings);
        check::check_ports(&workload, &listeners, findings);
        check::check_credentials(context.objects, &workload, &listeners, findings);
        views.push(Arc::new(view(context, &key, &workload, &listeners, router)));
    }
    views
}

fn view(
    context: &GatewayContext<'_>,
    key: &str,
    workload: &Workload<'_>,
    listeners: &[Listener<'_>],
    router: &mut Router<'_, '_>,
) -> GatewayView {
    let mut binder = Binder {
        registry: context.registry,
        virtual_services: context.virtual_services,
        workload: &workload.client,
        router,
    };
    let gateways = workload.gateways.iter();
    let pods = workload.pods.iter();
    GatewayView {
        key: Arc::from(key),
        namespace: Arc::clone(&workload.client.namespace),
        pods: pods.map(|pod| Arc::from(pod.to_string())).collect(),
        gateways: gateways.map(|gateway| name_of(gateway)).collect(),
        listeners: listeners
            .iter()
            .map(|listener| binder.listener(listener))
            .collect(),
    }
}

/// The name by which VirtualServices mean a Gateway.
fn name_of(gateway: &Object<api::Gateway>) -> Arc<str> {
    Arc::from(gateway.key().to_string())
}

fn workloads<'a>(context: &GatewayContext<'a>) -> BTreeMap<String, Workload<'a>> {
    let (objects, settings) = (context.objects, context.settings);
    let gateways = in_creation_order(&objects.gateways);
    let mut workloads: BTreeMap<String, Workload<'a>> = BTreeMap::new();
    if gateways.is_empty() {
        return workloads;
    }
    let asked = labels_asked_for(objects);
    for (key, pod) in &objects.pods {
        if node_of(pod, &settings.node) != settings.node {
            continue;
        }
        let selected = selecting(&gateways, &pod.meta.labels);
        if selected.is_empty() {
            continue;
        }
        let target_ports = target_ports(context.registry, key, pod, &selected);
        let labels = relevant_labels(&pod.meta.labels, &asked);
        let group = group_key(&key.namespace, &labels, &selected, &target_ports);
        let workload = workloads.entry(group).or_insert_with(|| Workload {
            client: ClientView {
                key: Arc::from(key_of(&key.namespace, &labels)),
                namespace: Arc::from(key.namespace.as_str()),
                labels,
                ..ClientView::default()
            },
            gateways: selected,
            target_ports,
            pods: Vec::new(),
        });
        workload.pods.push(key);
    }
    workloads
}

/// The Gateways that a pod serves; none unless the selector of one of them names it.
fn selecting<'a>(gateways: &[&'a Gateway], labels: &Labels) -> Vec<&'a Gateway> {
    let selects = |gateway: &&&Gateway| is_subset(&gateway.spec.selector, labels);
    let selected: Vec<&Gateway> = gateways.iter().filter(selects).copied().collect();
    let is_gateway = selected
        .iter()
        .any(|gateway| !gateway.spec.selector.is_empty());
    if is_gateway { selected } else { Vec::new() }
}

/// Ports of `gateways` that Services of the pod lead to another port of it.
fn target_ports(
    registry: &Registry,
    key: &ObjectKey,
    pod: &Object<Pod>,
    gateways: &[&Gateway],
) -> BTreeMap<u16, u16> {
    let servers = gateways.iter().flat_map(|gateway| &gateway.spec.servers);
    let ports = servers.filter_map(port_number);
    let ports: BTreeSet<u16> = ports.collect();
    let ips = pod_ips(pod);
    let mut targets = BTreeMap::new();
    let services = registry.in_namespace(&key.namespace);
    for service in services.filter(|service| service.kind == ServiceKind::Kubernetes) {
        for (port, endpoints) in service.ports.iter().zip(&service.endpoints) {
            let mut own = endpoints.iter();
            let own = own.find(|endpoint| ips.contains(&endpoint.address.ip()));
            if let Some(own) = own.filter(|_| ports.contains(&port.number)) {
                // Of several Services the oldest decides.
                targets.entry(port.number).or_insert(own.address.port());
            }
        }
    }
    targets
}

fn port_number(server: &api::Server) -> Option<u16> {
    u16::try_from(server.port.as_ref()?.number).ok()
}

fn group_key(
    namespace: &str,
    labels: &Labels,
    gateways: &[&Gateway],
    target_ports: &BTreeMap<u16, u16>,
) -> String {
    let names: Vec<String> = gateways.iter().map(|g| g.key().to_string()).collect();
    let mut key = format!("{} for {}", key_of(namespace, labels), names.join("+"));
    for (port, target) in target_ports {
        if port != target {
            key.push_str(&format!(" {port}->{target}"));
        }
    }
    key
}
