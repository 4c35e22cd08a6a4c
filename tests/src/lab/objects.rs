//! The Kubernetes objects that describe a lab, as YAML documents.
//!
//! Every scalar is written as a JSON string, which YAML reads as the same text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use super::network::{NODE_V4, NODE_V6, VirtualPort};
use super::node::NODE_NAME;
use super::pod::Pod;
use super::spec::{Attachment, PodSpec, ServiceSpec};

/// A service with the virtual addresses that the lab gave it.
#[derive(Debug, Clone)]
pub(super) struct LabService {
    /// What was asked for.
    pub(super) spec: ServiceSpec,
    /// Its virtual addresses, by family.
    pub(super) addresses: Vec<IpAddr>,
}

impl LabService {
    /// Whether the service selects a pod.
    fn selects(&self, pod: &PodSpec) -> bool {
        pod.is_listed
            && pod.namespace == self.spec.namespace
            && !self.spec.selector.is_empty()
            && self
                .spec
                .selector
                .iter()
                .all(|(key, value)| pod.labels.get(key) == Some(value))
    }
}

/// The namespaces in use, and the node.
pub(super) fn cluster_yaml(namespaces: &[String]) -> String {
    let mut text = String::new();
    for namespace in namespaces {
        let _ = write!(
            text,
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {namespace:?}\n  labels:\n    \
             kubernetes.io/metadata.name: {namespace:?}\n---\n"
        );
    }
    let _ = write!(
        text,
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: {NODE_NAME:?}\n  labels:\n    \
         kubernetes.io/hostname: {NODE_NAME:?}\n    \
         topology.kubernetes.io/region: \"lab\"\n    topology.kubernetes.io/zone: \"lab-a\"\n\
         status:\n  addresses:\n  - type: InternalIP\n    address: \"{NODE_V4}\"\n  \
         - type: InternalIP\n    address: \"{NODE_V6}\"\n"
    );
    text
}

/// All services.
pub(super) fn services_yaml(services: &[LabService]) -> String {
    let mut text = String::new();
    for LabService { spec, addresses } in services {
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: {:?}\n  namespace: {:?}\n\
             spec:\n  clusterIP: \"{}\"\n  clusterIPs:\n",
            spec.name,
            spec.namespace,
            addresses
                .first()
                .map(ToString::to_string)
                .unwrap_or_default(),
        );
        for address in addresses {
            let _ = writeln!(text, "  - \"{address}\"");
        }
        text.push_str("  ports:\n");
        for port in &spec.ports {
            let _ = write!(
                text,
                "  - name: {:?}\n    port: {}\n    targetPort: {}\n    protocol: {}\n",
                port.name, port.port, port.target_port, port.protocol
            );
            if let Some(app_protocol) = &port.app_protocol {
                let _ = writeln!(text, "    appProtocol: {app_protocol:?}");
            }
        }
        text.push_str("  selector:\n");
        write_map(&mut text, 4, &spec.selector);
    }
    text
}

/// One EndpointSlice per service and family.
pub(super) fn endpoint_slices_yaml(
    services: &[LabService],
    pods: &[std::sync::Arc<Pod>],
) -> String {
    let mut text = String::new();
    for service in services {
        for (family, is_v4) in [("IPv4", true), ("IPv6", false)] {
            if !service
                .addresses
                .iter()
                .any(|address| address.is_ipv4() == is_v4)
            {
                continue;
            }
            let spec = &service.spec;
            let _ = write!(
                text,
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  \
                 name: \"{}-{}\"\n  namespace: {:?}\n  labels:\n    \
                 kubernetes.io/service-name: {:?}\naddressType: {family}\nports:\n",
                spec.name,
                family.to_lowercase(),
                spec.namespace,
                spec.name
            );
            for port in &spec.ports {
                let _ = write!(
                    text,
                    "- name: {:?}\n  port: {}\n  protocol: {}\n",
                    port.name, port.target_port, port.protocol
                );
                if let Some(app_protocol) = &port.app_protocol {
                    let _ = writeln!(text, "  appProtocol: {app_protocol:?}");
                }
            }
            text.push_str("endpoints:\n");
            let before = text.len();
            for pod in pods.iter().filter(|pod| service.selects(pod.spec())) {
                for address in pod
                    .addresses()
                    .iter()
                    .filter(|address| address.is_ipv4() == is_v4)
                {
                    write_endpoint(&mut text, pod, *address);
                }
            }
            if text.len() == before {
                text.truncate(text.len() - 1);
                text.push_str(" []\n");
            }
        }
    }
    text
}

fn write_endpoint(text: &mut String, pod: &Pod, address: IpAddr) {
    let is_ready = pod.spec().is_ready;
    let _ = write!(
        text,
        "- addresses: [\"{address}\"]\n  nodeName: {NODE_NAME:?}\n  conditions:\n    \
         ready: {is_ready}\n    serving: {is_ready}\n    terminating: false\n  targetRef:\n    \
         kind: Pod\n    name: {:?}\n    namespace: {:?}\n    uid: {:?}\n",
        pod.spec().name,
        pod.spec().namespace,
        pod.uid()
    );
}

/// All pods that have an object.
pub(super) fn pods_yaml(pods: &[std::sync::Arc<Pod>]) -> String {
    let mut text = String::new();
    for pod in pods.iter().filter(|pod| pod.spec().is_listed) {
        let spec = pod.spec();
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {:?}\n  namespace: {:?}\n  \
             uid: {:?}\n",
            spec.name,
            spec.namespace,
            pod.uid()
        );
        for (field, map) in [("labels", &spec.labels), ("annotations", &spec.annotations)] {
            if !map.is_empty() {
                let _ = writeln!(text, "  {field}:");
                write_map(&mut text, 4, map);
            }
        }
        let _ = writeln!(text, "spec:\n  nodeName: {NODE_NAME:?}");
        if spec.attachment == Attachment::HostNetwork {
            text.push_str("  hostNetwork: true\n");
        }
        text.push_str("status:\n  phase: Running\n");
        if let Some(first) = pod.addresses().first() {
            let _ = writeln!(text, "  podIP: \"{first}\"\n  podIPs:");
        }
        for address in pod.addresses() {
            let _ = writeln!(text, "  - ip: \"{address}\"");
        }
    }
    text
}

fn write_map(text: &mut String, indent: usize, map: &BTreeMap<String, String>) {
    for (key, value) in map {
        let _ = writeln!(text, "{:indent$}{key:?}: {value:?}", "");
    }
}

/// The hosts file of one namespace's pods: every service under all its names.
///
/// Source: Kubernetes, "DNS for Services and Pods": the search list makes the short
/// names work, inside their own namespace alone for the first.
pub(super) fn hosts_file(namespace: &str, services: &[LabService], extra: &str) -> String {
    let mut text = String::from("127.0.0.1 localhost\n::1 localhost\n");
    for LabService { spec, addresses } in services {
        for address in addresses {
            let (name, of) = (&spec.name, &spec.namespace);
            let _ = write!(
                text,
                "{address} {name}.{of}.svc.cluster.local {name}.{of}.svc {name}.{of}"
            );
            if of == namespace {
                let _ = write!(text, " {name}");
            }
            text.push('\n');
        }
    }
    text.push_str(extra);
    text
}

/// What the service proxy must translate.
pub(super) fn virtual_ports(
    services: &[LabService],
    pods: &[std::sync::Arc<Pod>],
) -> Vec<VirtualPort> {
    let mut ports = Vec::new();
    for service in services {
        for &address in &service.addresses {
            for port in &service.spec.ports {
                let endpoints = pods
                    .iter()
                    .filter(|pod| service.selects(pod.spec()) && pod.spec().is_ready)
                    .flat_map(|pod| pod.addresses().iter().copied())
                    .filter(|endpoint| endpoint.is_ipv4() == address.is_ipv4())
                    .map(|endpoint| (endpoint, port.target_port))
                    .collect();
                ports.push(VirtualPort {
                    address,
                    protocol: if port.protocol == "UDP" { "udp" } else { "tcp" },
                    port: port.port,
                    endpoints,
                });
            }
        }
    }
    ports
}
