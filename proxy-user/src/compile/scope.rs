//! Scopes: this node's pods, grouped by what they may see. Start at [`Scopes::build`].
//!
//! Pods of one namespace whose relevant labels and Sidecar are equal share one
//! [`ClientView`]; relevant are labels that some selector asks for.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::api::{ObjectKey, ObjectSet};
use crate::finding::{Finding, Severity};
use crate::settings::CompileSettings;
use crate::snapshot::listeners::Protocol;

use super::matcher::MESH;
use super::registry::workload::node_of;
use super::registry::{Labels, Service};
use super::sidecar::{SidecarIndex, SidecarView};

/// A group of client pods with one view of the mesh.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClientView {
    /// Stable name: the same view has the same key in every snapshot.
    pub(crate) key: Arc<str>,
    /// Namespace of the pods; empty for [`Self::shared`].
    pub(crate) namespace: Arc<str>,
    /// Their labels, as far as a VirtualService or DestinationRule asks for them.
    pub(crate) labels: Labels,
    /// The Sidecar that applies, if any.
    pub(crate) sidecar: Option<Arc<SidecarView>>,
    /// REGISTRY_ONLY, by the Sidecar or the mesh.
    pub(crate) is_registry_only: bool,
    /// The Gateway that serves, as `namespace/name`; `None` for clients of the mesh.
    pub(crate) gateway: Option<Arc<str>>,
}

impl ClientView {
    /// A client without namespace, labels and Sidecar, that sees what is public:
    /// the base that the views of real clients stand on.
    pub(crate) fn shared(is_registry_only: bool) -> Self {
        Self {
            is_registry_only,
            ..Self::default()
        }
    }

    /// Whether the Sidecar, if any, imports `service`; `exportTo` is not asked.
    pub(crate) fn imports_service(&self, service: &Service) -> bool {
        match &self.sidecar {
            Some(sidecar) => sidecar.imports_service(&self.namespace, service),
            None => true,
        }
    }

    /// Whether the Sidecar, if any, imports this port of `service`.
    pub(crate) fn imports_port(&self, service: &Service, port: u16) -> bool {
        match &self.sidecar {
            Some(sidecar) => sidecar.imports_port(&self.namespace, service, port),
            None => true,
        }
    }

    /// Whether the Sidecar, if any, imports a VirtualService of `namespace` with
    /// these hosts (expanded, lower case) on `port`, or with `None` on any.
    pub(crate) fn imports_virtual_service<'a, I>(
        &self,
        namespace: &str,
        hosts: I,
        port: Option<u16>,
    ) -> bool
    where
        I: IntoIterator<Item = &'a str>,
    {
        match &self.sidecar {
            Some(sidecar) => {
                sidecar.imports_virtual_service(&self.namespace, namespace, hosts, port)
            }
            None => true,
        }
    }

    /// What the Sidecar says that is spoken on `port`; `None` leaves it to each service.
    pub(crate) fn protocol_of(&self, port: u16) -> Option<Protocol> {
        self.sidecar.as_ref()?.protocol_of(port)
    }

    /// The name by which `gateways` of a VirtualService mean this client.
    pub(crate) fn gateway_name(&self) -> &str {
        self.gateway.as_deref().unwrap_or(MESH)
    }

    /// Whether all of `selector` are among the labels. Only for selectors of
    /// VirtualServices (`sourceLabels`) and DestinationRules: other labels are not kept.
    pub(crate) fn has_labels(&self, selector: &Labels) -> bool {
        is_subset(selector, &self.labels)
    }
}

/// Whether all of `selector` are among `labels`.
pub(crate) fn is_subset(selector: &Labels, labels: &Labels) -> bool {
    labels.contains_all(selector)
}

/// The groups of this node's pods.
#[derive(Debug, Default)]
pub(crate) struct Scopes {
    /// In key order; the index is the [`crate::net::ScopeId`].
    pub(crate) clients: Vec<Arc<ClientView>>,
    /// Index of each pod's group.
    pub(crate) by_pod: HashMap<ObjectKey, usize>,
}

impl Scopes {
    /// Groups the pods of this node. Conflicts of Sidecars are findings.
    pub(crate) fn build(
        objects: &ObjectSet,
        settings: &CompileSettings,
        findings: &mut Vec<Finding>,
    ) -> Self {
        let sidecars = SidecarIndex::build(objects, settings, findings);
        let asked = labels_asked_for(objects);
        let mut pods_by_key: BTreeMap<String, (ClientView, Vec<&ObjectKey>)> = BTreeMap::new();
        let mut conflicts = BTreeSet::new();
        for (key, pod) in &objects.pods {
            if node_of(pod, &settings.node) != settings.node {
                continue;
            }
            let (namespace, labels) = (pod.meta.namespace.as_str(), &pod.meta.labels);
            if let [first, later @ ..] = sidecars.selecting(namespace, labels).as_slice() {
                let pairs = later
                    .iter()
                    .map(|later| (Arc::clone(first), Arc::clone(later)));
                for (first, later) in pairs {
                    let place = (later.name.clone(), first.name.clone());
                    if conflicts.insert(place) {
                        findings.push(sidecar_conflict(&first, &later, key));
                    }
                }
            }
            let client = client_of(settings, &sidecars, namespace, labels, &asked);
            let group = pods_by_key.entry(client.key.to_string());
            group.or_insert_with(|| (client, Vec::new())).1.push(key);
        }
        let mut scopes = Self::default();
        for (client, pods) in pods_by_key.into_values() {
            let index = scopes.clients.len();
            scopes.clients.push(Arc::new(client));
            scopes
                .by_pod
                .extend(pods.into_iter().map(|pod| (pod.clone(), index)));
        }
        scopes
    }
}

fn sidecar_conflict(first: &SidecarView, later: &SidecarView, pod: &ObjectKey) -> Finding {
    let message = format!(
        "also selects Pod {pod}, which Sidecar {} selects; the older one is used there",
        first.name
    );
    Finding::new(Severity::Error, "sidecar-conflict", message)
        .with_object(later.provenance.object.clone())
        .with_origin(later.provenance.origin.clone())
        .with_field("workloadSelector")
}

/// Name and value of all labels that VirtualServices and DestinationRules ask clients for.
pub(crate) fn labels_asked_for(objects: &ObjectSet) -> HashSet<(&str, &str)> {
    let mut asked = HashSet::new();
    for object in objects.virtual_services.values() {
        let http = object.spec.http.iter().flat_map(|route| &route.matches);
        let tls = object.spec.tls.iter().flat_map(|route| &route.matches);
        let tcp = object.spec.tcp.iter().flat_map(|route| &route.matches);
        let selectors = (http.map(|m| &m.source_labels))
            .chain(tls.map(|m| &m.source_labels))
            .chain(tcp.map(|m| &m.source_labels));
        asked.extend(selectors.flat_map(Labels::iter));
    }
    for object in objects.destination_rules.values() {
        let selector = object.spec.workload_selector.iter();
        asked.extend(selector.flat_map(|selector| selector.match_labels.iter()));
    }
    asked
}

/// Those of `labels` that somebody asks for.
pub(crate) fn relevant_labels(labels: &Labels, asked: &HashSet<(&str, &str)>) -> Labels {
    labels
        .iter()
        .filter(|label| asked.contains(label))
        .collect()
}

/// `namespace`, or `namespace{name=value,...}` where labels matter.
pub(crate) fn key_of(namespace: &str, relevant: &Labels) -> String {
    if relevant.is_empty() {
        return namespace.to_owned();
    }
    let texts: Vec<String> = relevant.iter().map(|(n, v)| format!("{n}={v}")).collect();
    format!("{namespace}{{{}}}", texts.join(","))
}

fn client_of(
    settings: &CompileSettings,
    sidecars: &SidecarIndex,
    namespace: &str,
    labels: &Labels,
    asked: &HashSet<(&str, &str)>,
) -> ClientView {
    let relevant = relevant_labels(labels, asked);
    let sidecar = sidecars.find(namespace, labels).cloned();
    let mut key = key_of(namespace, &relevant);
    if let Some(sidecar) = &sidecar {
        key.push_str(&format!(" by {}", sidecar.name));
    }
    ClientView {
        key: Arc::from(key),
        namespace: Arc::from(namespace),
        labels: relevant,
        is_registry_only: sidecar
            .as_ref()
            .and_then(|sidecar| sidecar.is_registry_only)
            .unwrap_or(settings.mesh.is_registry_only),
        sidecar,
        gateway: None,
    }
}

#[cfg(test)]
#[path = "scope_tests.rs"]
mod tests;
