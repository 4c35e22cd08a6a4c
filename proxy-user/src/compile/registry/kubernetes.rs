//! Kubernetes Services and EndpointSlices.
//!
//! Source: Istio, pilot/pkg/serviceregistry/kube (conversion.go,
//! controller/endpointslice.go, endpoint_builder.go).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::api::{self, EndpointConditions, EndpointSlice, Object, ObjectKey, in_creation_order};
use crate::compile::{origin_of, provenance};
use crate::finding::Severity;
use crate::snapshot::endpoints::Health;
use crate::snapshot::listeners::Protocol;
use crate::snapshot::{Endpoint, Workload};

use super::build::{Builder, EndpointMap, SERVICE_NAME_LABEL, SliceEndpoints};
use super::workload::{self, EntryRecord};
use super::{Alias, ExportTo, Resolution, Service, ServiceKind, ServicePort, protocol};

const EXPORT_TO_ANNOTATION: &str = "networking.istio.io/exportTo";

/// What an endpoint's conditions mean for new traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Healthy,
    /// Not ready and not terminating: listed for priorities, never chosen.
    Unhealthy,
    /// Never used. Draining for persistent sessions is off by default in Istio.
    Gone,
}

fn state_of(conditions: &EndpointConditions) -> State {
    match (conditions.ready, conditions.terminating) {
        (Some(true) | None, _) => State::Healthy,
        (Some(false), Some(false)) => State::Unhealthy,
        // Kubernetes, EndpointConditions: unknown `terminating` of an endpoint that
        // is not ready is read as terminating by Istio.
        (Some(false), Some(true) | None) => State::Gone,
    }
}

impl<'a> Builder<'a> {
    pub(super) fn read_services(&mut self) {
        for object in in_creation_order(&self.objects.services) {
            if object.spec.service_type == "ExternalName" {
                self.read_alias(object);
            } else {
                self.read_service(object);
            }
        }
        self.report_lost_slices();
    }

    fn read_alias(&mut self, object: &'a Arc<Object<api::Service>>) {
        let target = object.spec.external_name.trim_end_matches('.');
        if target.is_empty() {
            self.findings.push(object.finding(
                Severity::Error,
                "external-name-missing",
                "externalName",
                "a Service of type ExternalName names no host; set externalName",
            ));
            return;
        }
        self.aliases.push(Arc::new(Alias {
            host: self.service_host(object),
            namespace: self.texts.get(&object.meta.namespace),
            target: Arc::from(target.to_ascii_lowercase()),
            ports: object.spec.ports.iter().map(|port| port.port).collect(),
            export_to: self.service_export_to(object),
        }));
    }

    fn read_service(&mut self, object: &'a Arc<Object<api::Service>>) {
        let is_headless = object.spec.cluster_ip == "None"
            || object
                .spec
                .cluster_ips
                .first()
                .is_some_and(|ip| ip == "None");
        let addresses = if is_headless {
            Vec::new()
        } else {
            self.cluster_ips(object)
        };
        if addresses.is_empty() && !is_headless {
            self.findings.push(object.finding(
                Severity::Warning,
                "no-cluster-ip",
                "clusterIP",
                "has no clusterIP: HTTP finds it by Host alone, other connections pass \
                 untouched; give the address that clients dial",
            ));
        }
        let ports = self.service_ports(object);
        let namespace = object.meta.namespace.as_str();
        let key = (namespace, object.meta.name.as_str());
        let slices = self.slices.get(&key).map(Vec::as_slice).unwrap_or_default();
        let listed: usize = slices.iter().map(|slice| slice.spec.endpoints.len()).sum();
        if !(self.ledger).charge_values::<Endpoint>(namespace, listed.saturating_mul(ports.len())) {
            return;
        }
        let endpoints = ports
            .iter()
            .map(|port| self.port_endpoints(object, port))
            .collect();
        let service = Service {
            index: 0,
            host: self.service_host(object),
            namespace: self.texts.get(&object.meta.namespace),
            name: Arc::from(object.meta.name.as_str()),
            kind: ServiceKind::Kubernetes,
            created: object.meta.creation_timestamp,
            addresses,
            allocated: Vec::new(),
            named: vec![Vec::new(); ports.len()],
            dead_ports: Vec::new(),
            may_allocate: false,
            ports,
            resolution: if is_headless {
                Resolution::Headless
            } else {
                Resolution::Endpoints
            },
            export_to: self.service_export_to(object),
            is_external: false,
            has_client_ip_affinity: object.spec.session_affinity == "ClientIP",
            aliases: Vec::new(),
            endpoints,
            provenance: provenance(object.as_ref(), ""),
        };
        self.services.push(service);
    }

    pub(super) fn service_host(&self, object: &Object<api::Service>) -> Arc<str> {
        let (name, namespace) = (&object.meta.name, &object.meta.namespace);
        Arc::from(format!(
            "{name}.{namespace}.svc.{}",
            self.settings.mesh.domain
        ))
    }

    fn service_export_to(&self, object: &Object<api::Service>) -> ExportTo {
        let annotation = object.meta.annotations.get(EXPORT_TO_ANNOTATION);
        let list = annotation.map(|text| text.split(',')).into_iter().flatten();
        let mesh_default = &self.settings.mesh.default_service_export_to;
        ExportTo::parse(list, &object.meta.namespace, mesh_default)
    }

    fn cluster_ips(&mut self, object: &Object<api::Service>) -> Vec<IpNet> {
        let spec = &object.spec;
        let listed: Vec<(String, &str)> = if spec.cluster_ips.is_empty() {
            vec![("clusterIP".to_owned(), spec.cluster_ip.as_str())]
        } else {
            let field = |at: usize| format!("clusterIPs[{at}]");
            let ips = spec.cluster_ips.iter().enumerate();
            ips.map(|(at, ip)| (field(at), ip.as_str())).collect()
        };
        let mut addresses = Vec::new();
        for (field, text) in listed.iter().filter(|(_, text)| !text.is_empty()) {
            match text.parse::<IpAddr>() {
                Ok(ip) if !ip.is_unspecified() => addresses.push(IpNet::from(ip)),
                Ok(_) | Err(_) => self.findings.push(object.finding(
                    Severity::Error,
                    "bad-cluster-ip",
                    field,
                    format!("{text:?} is no address that clients could dial"),
                )),
            }
        }
        addresses
    }

    /// The TCP ports; a number that stands twice counts once.
    fn service_ports(&mut self, object: &Object<api::Service>) -> Vec<ServicePort> {
        let mut ports: Vec<ServicePort> = Vec::new();
        for (at, spec) in object.spec.ports.iter().enumerate() {
            let app_protocol = spec.app_protocol.as_deref();
            let found =
                protocol::of_kubernetes_port(&spec.protocol, app_protocol, &spec.name, spec.port);
            let is_known = ports.iter().any(|port| port.number == spec.port);
            if found == Protocol::Udp || spec.port == 0 || is_known {
                continue;
            }
            if found == Protocol::Auto && !spec.name.is_empty() {
                self.findings.push(object.finding(
                    Severity::Info,
                    "port-name",
                    &format!("ports[{at}].name"),
                    format!(
                        "{} names no protocol: what clients send decides; begin it with the \
                         protocol, as in http-{}, or set appProtocol",
                        spec.name, spec.name
                    ),
                ));
            }
            let target_port = match &spec.target_port {
                Some(api::IntOrString::Int(number)) => u16::try_from(*number).ok(),
                Some(api::IntOrString::String(_)) | None => None,
            };
            ports.push(ServicePort {
                number: spec.port,
                name: self.texts.get(&spec.name),
                protocol: found,
                target_port,
            });
        }
        ports
    }

    /// Endpoints of every port; findings about the ports themselves are not repeated.
    pub(super) fn service_endpoints(&mut self, object: &'a Object<api::Service>) -> SliceEndpoints {
        let known = self.findings.len();
        let ports = self.service_ports(object);
        self.findings.truncate(known);
        let of_port = |port: &ServicePort| (port.number, self.port_endpoints(object, port));
        ports.iter().map(of_port).collect()
    }

    fn port_endpoints(
        &mut self,
        object: &'a Object<api::Service>,
        port: &ServicePort,
    ) -> Vec<Endpoint> {
        let mut found = EndpointMap::default();
        let key = (object.meta.namespace.as_str(), object.meta.name.as_str());
        let slices = self.slices.get(&key).cloned().unwrap_or_default();
        // Oldest first: where two slices list one endpoint, the newer one stays.
        for slice in slices {
            self.slice_endpoints(object, slice, port, &mut found);
        }
        self.entry_endpoints(object, port, &mut found);
        // Names are for resolution DNS only.
        found.into_parts().0
    }

    fn slice_endpoints(
        &mut self,
        service: &Object<api::Service>,
        slice: &'a Object<EndpointSlice>,
        port: &ServicePort,
        found: &mut EndpointMap,
    ) {
        if slice.spec.address_type == "FQDN" {
            return;
        }
        let is_tcp = |transport: &str| transport.is_empty() || transport == "TCP";
        let mut ports = slice.spec.ports.iter();
        let matching = ports.find(|p| *p.name == *port.name && is_tcp(&p.protocol));
        let Some(number) = matching.and_then(|port| port.port) else {
            return;
        };
        let is_local_only = service.spec.internal_traffic_policy == "Local";
        for (at, endpoint) in slice.spec.endpoints.iter().enumerate() {
            let health = match state_of(&endpoint.conditions) {
                State::Healthy => Health::Healthy,
                State::Unhealthy => Health::Unhealthy,
                State::Gone => continue,
            };
            let Some(ip) = endpoint
                .addresses
                .first()
                .and_then(|text| text.parse().ok())
            else {
                continue;
            };
            let Some(workload) = self.endpoint_workload(slice, at, ip) else {
                continue;
            };
            let node = match endpoint.node_name.as_str() {
                "" => &*workload.node,
                name => name,
            };
            if is_local_only && node != self.settings.node {
                continue;
            }
            found.insert_only_at_ip(Endpoint {
                address: SocketAddr::new(ip, number),
                weight: 1,
                health,
                priority: 0,
                workload,
            });
        }
    }

    /// Who is behind an endpoint of a slice: the pod it names, or an unnamed
    /// workload. `None` while that pod is not known.
    fn endpoint_workload(
        &mut self,
        slice: &Object<EndpointSlice>,
        at: usize,
        ip: IpAddr,
    ) -> Option<Arc<Workload>> {
        let endpoint = slice.spec.endpoints.get(at)?;
        let pod = endpoint
            .target_ref
            .as_ref()
            .filter(|target| target.kind == "Pod");
        let Some(pod) = pod else {
            return Some(Arc::new(Workload {
                namespace: self.texts.get(&slice.meta.namespace),
                node: self.texts.get(&endpoint.node_name),
                ..Workload::default()
            }));
        };
        let namespace = match pod.namespace.as_str() {
            "" => slice.meta.namespace.as_str(),
            namespace => namespace,
        };
        let key = ObjectKey::new(namespace, &pod.name);
        if let Some(record) = self.pods.get(&key) {
            return Some(Arc::clone(&record.workload));
        }
        // Istio withholds the endpoint, so that nothing reaches it before its labels are known.
        let field = format!("endpoints[{at}].targetRef");
        self.findings.push(slice.finding(
            Severity::Warning,
            "endpoint-without-pod",
            &field,
            format!("{ip} gets no traffic until Pod {key}, which it names, is there"),
        ));
        None
    }

    /// WorkloadEntries that the service's selector selects.
    fn entry_endpoints(
        &mut self,
        object: &Object<api::Service>,
        port: &ServicePort,
        found: &mut EndpointMap,
    ) {
        if object.spec.selector.is_empty() {
            return;
        }
        for (entry, labels) in self.selected_entries(&object.meta.namespace, &object.spec.selector)
        {
            let Ok(ip) = entry.spec.address.parse::<IpAddr>() else {
                self.report_unusable(entry, &object.reference(), false);
                continue;
            };
            let listed = entry.spec.ports.get(&*port.name).copied();
            let listed = listed.and_then(|number| u16::try_from(number).ok());
            let number = listed.or(port.target_port).unwrap_or(port.number);
            let record = EntryRecord {
                entry: &entry.spec,
                name: &entry.meta.name,
                namespace: &entry.meta.namespace,
                labels: &labels,
            };
            found.insert(Endpoint {
                address: SocketAddr::new(ip, number),
                weight: entry.spec.weight.max(1),
                health: Health::Healthy,
                priority: 0,
                workload: workload::of_entry(record, &mut self.texts),
            });
        }
    }

    /// Slices that name no service, or one that is not there, give no endpoint to anybody.
    fn report_lost_slices(&mut self) {
        for slice in self.objects.endpoint_slices.values() {
            let message = match slice.meta.labels.get(SERVICE_NAME_LABEL) {
                Some(name) => {
                    let key = ObjectKey::new(&slice.meta.namespace, name);
                    if self.objects.services.contains_key(&key) {
                        continue;
                    }
                    format!("its endpoints belong to Service {key}, which is not there")
                }
                None => format!(
                    "its endpoints belong to no service; label it {SERVICE_NAME_LABEL}: NAME"
                ),
            };
            let mut finding =
                slice.finding(Severity::Warning, "slice-without-service", "", message);
            finding.origin = Some(origin_of(slice.as_ref(), "metadata.labels"));
            self.findings.push(finding);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_say_who_gets_traffic() {
        for (ready, terminating, expected) in [
            (Some(true), None, State::Healthy),
            (None, None, State::Healthy), // A022
            (None, Some(true), State::Healthy),
            (Some(true), Some(true), State::Healthy), // publishNotReadyAddresses
            (Some(false), Some(false), State::Unhealthy), // A021
            (Some(false), Some(true), State::Gone),   // A023
            (Some(false), None, State::Gone),
        ] {
            let conditions = EndpointConditions { ready, terminating };
            assert_eq!(state_of(&conditions), expected, "{ready:?} {terminating:?}");
        }
    }
}
