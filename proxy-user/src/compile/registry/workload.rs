//! Who is behind an address: the words that telemetry reports and subsets select by.
//!
//! Source: Istio, pkg/kube/labels and pilot/pkg/serviceregistry (workload names),
//! pilot/pkg/serviceregistry/util/label `AugmentLabels` (labels of subsets).

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::api::{Node, Object, ObjectMeta, Pod, Text, WorkloadEntry};
use crate::snapshot::Workload;
use crate::snapshot::endpoints::Locality;

use super::Labels;

/// Label that overrides a workload's locality, with dots for slashes.
const LOCALITY_LABEL: &str = "istio-locality";
/// Name of the only cluster, as Istio calls it by default.
const CLUSTER_NAME: &str = "Kubernetes";

/// Texts that repeat thousands of times (labels, namespaces), kept once.
#[derive(Debug, Default)]
pub(super) struct Interner {
    texts: HashSet<Arc<str>>,
    localities: HashSet<Arc<Locality>>,
}

impl Interner {
    /// The shared copy of `text`.
    pub(super) fn get(&mut self, text: &str) -> Arc<str> {
        if text.is_empty() {
            return Arc::default();
        }
        if let Some(known) = self.texts.get(text) {
            return Arc::clone(known);
        }
        let fresh: Arc<str> = Arc::from(text);
        self.texts.insert(Arc::clone(&fresh));
        fresh
    }

    fn locality(&mut self, locality: Locality) -> Arc<Locality> {
        if let Some(known) = self.localities.get(&locality) {
            return Arc::clone(known);
        }
        let fresh = Arc::new(locality);
        self.localities.insert(Arc::clone(&fresh));
        fresh
    }
}

/// A pod as the registry sees it.
#[derive(Debug, Clone)]
pub(super) struct PodRecord {
    /// Identity and labels.
    pub(super) workload: Arc<Workload>,
    /// Running, not terminating.
    pub(super) is_alive: bool,
    /// Its condition `Ready`; a pod without conditions counts as ready.
    pub(super) is_ready: bool,
}

/// Reads a pod; `default_node` is the name of this node, for a pod that names none.
pub(super) fn of_pod(
    pod: &Object<Pod>,
    default_node: &str,
    node: Option<&Object<Node>>,
    texts: &mut Interner,
) -> PodRecord {
    let node_name = node_of(pod, default_node);
    let locality = locality_of(None, &pod.meta.labels, node, texts);
    let own_name = pod.meta.name.shared();
    let name = match owner_name(&pod.meta) {
        name if *name == **own_name => Arc::clone(own_name),
        name => texts.get(name),
    };
    let workload = Workload {
        name: Arc::clone(own_name),
        workload: name,
        namespace: Arc::clone(pod.meta.namespace.shared()),
        node: texts.get(node_name),
        labels: Arc::clone(pod.meta.labels.shared()),
        locality,
    };
    let phase = pod.status.phase.as_str();
    let ready = pod.status.conditions.iter().find(|c| c.kind == "Ready");
    PodRecord {
        workload: Arc::new(workload),
        is_alive: pod.meta.deletion_timestamp.is_none() && !matches!(phase, "Succeeded" | "Failed"),
        is_ready: ready.is_none_or(|condition| condition.status == "True"),
    }
}

/// `status.podIPs`, else `status.podIP`; what is no address is left out.
pub(in crate::compile) fn pod_ips(pod: &Object<Pod>) -> Vec<IpAddr> {
    let listed = pod.status.pod_ips.iter().map(|entry| &*entry.ip);
    let mut ips: Vec<IpAddr> = listed.filter_map(|ip| ip.parse().ok()).collect();
    if ips.is_empty() {
        ips.extend(pod.status.pod_ip.parse::<IpAddr>());
    }
    ips
}

/// The node of a pod; one without `nodeName` counts as this node's.
pub(in crate::compile) fn node_of<'a>(pod: &'a Object<Pod>, default_node: &'a str) -> &'a str {
    match pod.spec.node_name.as_str() {
        "" => default_node,
        name => name,
    }
}

/// A WorkloadEntry or one endpoint of a ServiceEntry, with the name and labels it goes by.
#[derive(Debug, Clone, Copy)]
pub(super) struct EntryRecord<'a> {
    /// The fields.
    pub(super) entry: &'a WorkloadEntry,
    /// Name for telemetry; empty for what is outside the mesh, which Istio reports as unknown.
    pub(super) name: &'a str,
    /// Namespace of the object.
    pub(super) namespace: &'a Text,
    /// Labels that subsets select by.
    pub(super) labels: &'a Labels,
}

/// Reads a WorkloadEntry or one endpoint of a ServiceEntry.
pub(super) fn of_entry(record: EntryRecord<'_>, texts: &mut Interner) -> Arc<Workload> {
    let EntryRecord {
        entry,
        name,
        namespace,
        labels,
    } = record;
    let place = Workload {
        labels: Arc::clone(labels.shared()),
        locality: locality_of(Some(&entry.locality), labels, None, texts),
        ..Workload::default()
    };
    if name.is_empty() {
        return Arc::new(place);
    }
    let name = texts.get(name);
    Arc::new(Workload {
        name: Arc::clone(&name),
        workload: name,
        namespace: Arc::clone(namespace.shared()),
        ..place
    })
}

/// Labels of a WorkloadEntry: those of its metadata over those of its spec.
pub(super) fn entry_labels(entry: &Object<WorkloadEntry>) -> Labels {
    entry.spec.labels.overlaid_by(&entry.meta.labels)
}

/// Name of the workload that made a pod: a Deployment for a ReplicaSet with the
/// pod's template hash, a CronJob for a Job that ends in its time, else the owner.
fn owner_name(meta: &ObjectMeta) -> &str {
    let managing = meta.owner_references.iter().find(|owner| owner.controller);
    let Some(owner) = managing.or(meta.owner_references.first()) else {
        return &meta.name;
    };
    match owner.kind.as_str() {
        "ReplicaSet" => {
            let hash = meta.labels.get("pod-template-hash");
            let stem = owner.name.rsplit_once('-');
            match (stem, hash) {
                (Some((stem, suffix)), Some(hash)) if suffix == hash => stem,
                _ => &owner.name,
            }
        }
        "Job" => match owner.name.rsplit_once('-') {
            // CronJobs append the scheduled time in minutes since 1970.
            Some((stem, suffix))
                if suffix.len() >= 8 && suffix.bytes().all(|b| b.is_ascii_digit()) =>
            {
                stem
            }
            _ => &owner.name,
        },
        _ => &owner.name,
    }
}

/// Locality as the endpoint writes it, else its label, else its node's labels.
fn locality_of(
    written: Option<&str>,
    labels: &Labels,
    node: Option<&Object<Node>>,
    texts: &mut Interner,
) -> Arc<Locality> {
    let label = labels
        .get(LOCALITY_LABEL)
        .map(|text| text.replace('.', "/"));
    let text = written.filter(|text| !text.is_empty()).or(label.as_deref());
    if let Some(text) = text {
        let mut parts = text.splitn(3, '/');
        let mut next = || texts.get(parts.next().unwrap_or_default());
        let locality = Locality {
            region: next(),
            zone: next(),
            subzone: next(),
        };
        return texts.locality(locality);
    }
    let mut of_node = |names: [&str; 2]| {
        let labels = node.map(|node| &node.meta.labels);
        let value = labels.and_then(|labels| names.iter().find_map(|&name| labels.get(name)));
        texts.get(value.unwrap_or_default())
    };
    let locality = Locality {
        region: of_node([
            "topology.kubernetes.io/region",
            "failure-domain.beta.kubernetes.io/region",
        ]),
        zone: of_node([
            "topology.kubernetes.io/zone",
            "failure-domain.beta.kubernetes.io/zone",
        ]),
        subzone: of_node(["topology.istio.io/subzone", "topology.istio.io/subzone"]),
    };
    texts.locality(locality)
}

/// Whether a subset with these labels contains the workload: all of them are among
/// its labels or those that Istio derives from its place.
pub(in crate::compile) fn is_selected(selector: &Labels, workload: &Workload) -> bool {
    selector
        .iter()
        .all(|(name, value)| subset_label(workload, name) == Some(value))
}

fn subset_label<'a>(workload: &'a Workload, name: &str) -> Option<&'a str> {
    let derived: &str = match name {
        "topology.kubernetes.io/region" => &workload.locality.region,
        "topology.kubernetes.io/zone" => &workload.locality.zone,
        "topology.istio.io/subzone" => &workload.locality.subzone,
        "topology.istio.io/cluster" => CLUSTER_NAME,
        "kubernetes.io/hostname" => &workload.node,
        _ => "",
    };
    if !derived.is_empty() {
        return Some(derived);
    }
    workload.label(name).map(|value| &**value)
}

#[cfg(test)]
#[path = "workload_tests.rs"]
mod tests;
