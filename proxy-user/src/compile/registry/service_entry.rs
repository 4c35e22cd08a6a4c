//! ServiceEntries, with WorkloadEntries and Pods that they select.
//!
//! Source: Istio, pilot/pkg/serviceregistry/serviceentry (conversion.go, controller.go).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::api::{self, Location, Object, ServiceEntry, in_creation_order};
use crate::compile::provenance;
use crate::compile::scope::is_subset;
use crate::finding::Severity;
use crate::snapshot::Endpoint;
use crate::snapshot::dns::NamedEndpoint;
use crate::snapshot::endpoints::Health;
use crate::snapshot::listeners::Protocol;

use super::build::{Builder, EndpointMap, in_namespace};
use super::workload::{self, EntryRecord};
use super::{DeadPort, ExportTo, Labels, Resolution, Service, ServiceKind, ServicePort, protocol};

/// One ServiceEntry, read once for all of its hosts.
struct Entry<'a> {
    object: &'a Arc<Object<ServiceEntry>>,
    resolution: Resolution,
    export_to: ExportTo,
    ports: Vec<ServicePort>,
    /// Of each port.
    endpoints: Vec<EndpointMap>,
}

impl Entry<'_> {
    /// Whether the ports of both become one service.
    fn merges_with(&self, other: &Self) -> bool {
        self.resolution == other.resolution
            && self.export_to == other.export_to
            && self.object.meta.labels == other.object.meta.labels
            && self.object.spec.workload_selector == other.object.spec.workload_selector
    }
}

impl<'a> Builder<'a> {
    pub(super) fn read_service_entries(&mut self) {
        let mut entries: Vec<Entry<'a>> = Vec::new();
        for object in in_creation_order(&self.objects.service_entries) {
            entries.extend(self.read_entry(object));
        }
        let mut by_host: BTreeMap<(&str, String), Vec<usize>> = BTreeMap::new();
        for (index, entry) in entries.iter().enumerate() {
            for host in &entry.object.spec.hosts {
                let key = (
                    entry.object.meta.namespace.as_str(),
                    host.to_ascii_lowercase(),
                );
                let indices = by_host.entry(key).or_default();
                if indices.last() != Some(&index) {
                    indices.push(index);
                }
            }
        }
        for ((_, host), indices) in &by_host {
            let members: Vec<&Entry<'a>> = indices
                .iter()
                .filter_map(|&index| entries.get(index))
                .collect();
            self.read_host(host, &members);
        }
        self.report_protocols(&entries);
    }

    /// `None`: its endpoints are beyond the namespace's budget.
    fn read_entry(&mut self, object: &'a Arc<Object<ServiceEntry>>) -> Option<Entry<'a>> {
        let resolution = match object.spec.resolution {
            api::Resolution::None => Resolution::OriginalDst,
            api::Resolution::Static => Resolution::Endpoints,
            api::Resolution::Dns => Resolution::Dns,
            api::Resolution::DnsRoundRobin => Resolution::LogicalDns,
            api::Resolution::DynamicDns => Resolution::DynamicDns,
        };
        let mesh_default = &self.settings.mesh.default_service_export_to;
        let list = object.spec.export_to.iter().map(String::as_str);
        let mut ports: Vec<ServicePort> = Vec::new();
        for (at, port) in object.spec.ports.iter().enumerate() {
            let found = protocol::of_declared_port(&port.protocol);
            let Ok(number) = u16::try_from(port.number) else {
                continue;
            };
            if number == 0 || found == Protocol::Udp {
                continue;
            }
            if ports.iter().any(|known| known.number == number) {
                continue;
            }
            // An allocated address does not count: no client learns of it without DNS capture.
            if found.is_tcp() && object.spec.addresses.is_empty() {
                self.findings.push(object.finding(
                    Severity::Warning,
                    "tcp-without-address",
                    &format!("ports[{at}]"),
                    format!(
                        "a TCP port without addresses takes every connection to port {number} \
                         that no other service owns; give addresses"
                    ),
                ));
            }
            ports.push(ServicePort {
                number,
                name: self.texts.get(&port.name),
                protocol: found,
                target_port: u16::try_from(port.target_port)
                    .ok()
                    .filter(|port| *port != 0),
            });
        }
        let namespace = object.meta.namespace.as_str();
        let listed = match &object.spec.workload_selector {
            Some(_) => {
                in_namespace(&self.objects.workload_entries, namespace).count()
                    + in_namespace(&self.objects.pods, namespace).count()
            }
            None => object.spec.endpoints.len(),
        };
        // Once here, and once for each host's own list.
        let copies = object.spec.hosts.len().saturating_add(1);
        let count = listed.saturating_mul(ports.len()).saturating_mul(copies);
        if !self.ledger.charge_values::<Endpoint>(namespace, count) {
            return None;
        }
        let endpoints = match resolution {
            Resolution::Endpoints | Resolution::Dns | Resolution::LogicalDns => {
                let of_port = |port: &ServicePort| self.entry_port_endpoints(object, port);
                ports.iter().map(of_port).collect()
            }
            Resolution::OriginalDst | Resolution::Headless | Resolution::DynamicDns => {
                ports.iter().map(|_| EndpointMap::default()).collect()
            }
        };
        self.report_unix_endpoints(object);
        Some(Entry {
            object,
            resolution,
            export_to: ExportTo::parse(list, &object.meta.namespace, mesh_default),
            ports,
            endpoints,
        })
    }

    fn entry_port_endpoints(
        &mut self,
        object: &'a Object<ServiceEntry>,
        port: &ServicePort,
    ) -> EndpointMap {
        let mut found = EndpointMap::default();
        let namespace = &object.meta.namespace;
        let default_port = port.target_port.unwrap_or(port.number);
        if let Some(selector) = &object.spec.workload_selector {
            let takes_names = object.spec.resolution != api::Resolution::Static;
            for (entry, labels) in self.selected_entries(namespace, &selector.labels) {
                self.report_unusable(entry, &object.reference(), takes_names);
                let record = EntryRecord {
                    entry: &entry.spec,
                    name: &entry.meta.name,
                    namespace,
                    labels: &labels,
                };
                self.add_entry(record, port, &mut found);
            }
            self.add_pods(namespace, &selector.labels, default_port, &mut found);
            return found;
        }
        let is_external = object.spec.location == Location::MeshExternal;
        for entry in &object.spec.endpoints {
            let record = EntryRecord {
                entry,
                name: if is_external { "" } else { &object.meta.name },
                namespace,
                labels: &entry.labels,
            };
            self.add_entry(record, port, &mut found);
        }
        found
    }

    /// Adds one WorkloadEntry if its address is an IP or a name. Its port is the one it
    /// names for this service port, else the target port, else the service port.
    fn add_entry(&mut self, record: EntryRecord<'_>, port: &ServicePort, found: &mut EndpointMap) {
        let address = record.entry.address.as_str();
        if address.is_empty() || address.starts_with("unix:") {
            return;
        }
        let named = record.entry.ports.get(&*port.name).copied();
        let named = named.and_then(|number| u16::try_from(number).ok());
        let number = named.or(port.target_port).unwrap_or(port.number);
        let weight = record.entry.weight.max(1);
        let workload = workload::of_entry(record, &mut self.texts);
        match address.parse::<IpAddr>() {
            Ok(ip) => found.insert(Endpoint {
                address: SocketAddr::new(ip, number),
                weight,
                health: Health::Healthy,
                priority: 0,
                workload,
            }),
            Err(_) => found.insert_named(NamedEndpoint {
                name: self.texts.get(&address.to_ascii_lowercase()),
                port: number,
                weight,
                workload,
            }),
        }
    }

    /// Adds the pods of `namespace` that have these labels.
    fn add_pods(&self, namespace: &str, selector: &Labels, port: u16, found: &mut EndpointMap) {
        for (key, pod) in in_namespace(&self.objects.pods, namespace) {
            let record = self.pods.get(key).filter(|record| record.is_alive);
            let Some(record) = record.filter(|_| is_subset(selector, &pod.meta.labels)) else {
                continue;
            };
            // Istio takes a pod's first address.
            let Some(&ip) = workload::pod_ips(pod).first() else {
                continue;
            };
            found.insert(Endpoint {
                address: SocketAddr::new(ip, port),
                weight: 1,
                health: if record.is_ready {
                    Health::Healthy
                } else {
                    Health::Unhealthy
                },
                priority: 0,
                workload: Arc::clone(&record.workload),
            });
        }
    }

    /// Makes the services of one host from all entries of its namespace that
    /// define it, oldest first: those that agree share a service, the others stay
    /// behind, but endpoints of equal port names pool.
    fn read_host(&mut self, host: &str, members: &[&Entry<'a>]) {
        let mut leads: Vec<(&Entry<'a>, Vec<&Entry<'a>>)> = Vec::new();
        for member in members {
            match leads.iter_mut().find(|(lead, _)| lead.merges_with(member)) {
                Some((_, merged)) => merged.push(member),
                None => leads.push((member, vec![member])),
            }
        }
        for (at, (lead, merged)) in leads.iter().enumerate() {
            let may_allocate = merged.iter().all(|entry| takes_allocated(entry.object))
                && (!host.starts_with('*') || lead.resolution == Resolution::DynamicDns);
            let mut ports: Vec<ServicePort> = Vec::new();
            let mut addresses: Vec<IpNet> = Vec::new();
            let mut allocated: Vec<IpAddr> = Vec::new();
            for entry in merged {
                for port in &entry.ports {
                    if ports.iter().all(|known| known.number != port.number) {
                        ports.push(port.clone());
                    }
                }
                for address in self.entry_addresses(entry.object) {
                    if !addresses.contains(&address) {
                        addresses.push(address);
                    }
                }
                for ip in allocated_addresses(entry.object, host) {
                    if !allocated.contains(&ip) {
                        allocated.push(ip);
                    }
                }
            }
            let (endpoints, named) = ports
                .iter()
                .map(|port| {
                    let (endpoints, named) = pooled(members, host, &port.name);
                    // Only DNS resolves names; a list of addresses leaves them out.
                    let is_resolved = lead.resolution.takes_names();
                    (endpoints, if is_resolved { named } else { Vec::new() })
                })
                .unzip();
            let others = leads.iter().enumerate().filter(|(other, _)| *other != at);
            let dead_ports = others
                .flat_map(|(_, (_, merged))| merged)
                .flat_map(|entry| entry.ports.iter().map(move |port| (entry, port)))
                .filter(|(_, port)| ports.iter().all(|known| known.number != port.number))
                .map(|(entry, port)| DeadPort {
                    number: port.number,
                    protocol: port.protocol,
                    export_to: entry.export_to.clone(),
                })
                .collect();
            let place = lead
                .object
                .spec
                .hosts
                .iter()
                .position(|h| h.eq_ignore_ascii_case(host));
            let field = format!("spec.hosts[{}]", place.unwrap_or_default());
            self.services.push(Service {
                index: 0,
                host: Arc::from(host),
                namespace: self.texts.get(&lead.object.meta.namespace),
                name: Arc::from(lead.object.meta.name.as_str()),
                kind: ServiceKind::ServiceEntry,
                created: lead.object.meta.creation_timestamp,
                addresses,
                allocated,
                ports,
                resolution: lead.resolution,
                export_to: lead.export_to.clone(),
                is_external: lead.object.spec.location == Location::MeshExternal,
                has_client_ip_affinity: false,
                aliases: Vec::new(),
                endpoints,
                named,
                dead_ports,
                may_allocate,
                provenance: provenance(lead.object.as_ref(), &field),
            });
        }
    }

    fn entry_addresses(&mut self, object: &Object<ServiceEntry>) -> Vec<IpNet> {
        let mut found = Vec::new();
        for (at, text) in object.spec.addresses.iter().enumerate() {
            match parse_address(text) {
                Some(address) => found.push(address),
                None => self.findings.push(object.finding(
                    Severity::Error,
                    "bad-address",
                    &format!("addresses[{at}]"),
                    format!("{text:?} is neither an IP nor a network such as 10.0.0.0/8"),
                )),
            }
        }
        found
    }

    fn report_unix_endpoints(&mut self, object: &Object<ServiceEntry>) {
        for (at, entry) in object.spec.endpoints.iter().enumerate() {
            if entry.address.starts_with("unix:") {
                self.findings.push(object.finding(
                    Severity::Error,
                    "unix-endpoint",
                    &format!("endpoints[{at}].address"),
                    "this endpoint gets no traffic: sockets of the node are never reachable; give \
                     an address that pods can dial",
                ));
            }
        }
    }

    /// Several entries that name one host and port should agree about its protocol.
    fn report_protocols(&mut self, entries: &[Entry<'a>]) {
        let mut first: BTreeMap<(String, u16), (&Entry<'a>, Protocol)> = BTreeMap::new();
        for entry in entries {
            for host in &entry.object.spec.hosts {
                for port in &entry.ports {
                    let key = (host.to_ascii_lowercase(), port.number);
                    let (older, protocol) = *first.entry(key).or_insert((entry, port.protocol));
                    if protocol == port.protocol {
                        continue;
                    }
                    let name = older.object.reference();
                    self.findings.push(entry.object.finding(
                        Severity::Warning,
                        "protocol-conflict",
                        "ports",
                        format!(
                            "{name} declares another protocol for {host}:{}",
                            port.number
                        ),
                    ));
                }
            }
        }
    }
}

/// What a controller allocated for this host, where none is written and the entry neither
/// goes where the client dials nor opts out.
fn allocated_addresses(object: &Object<ServiceEntry>, host: &str) -> Vec<IpAddr> {
    if !takes_allocated(object) {
        return Vec::new();
    }
    let own = object
        .status
        .addresses
        .iter()
        .filter(|address| address.host.is_empty() || address.host.eq_ignore_ascii_case(host));
    own.filter_map(|address| address.value.parse().ok())
        .collect()
}

fn takes_allocated(object: &Object<ServiceEntry>) -> bool {
    let label = object
        .meta
        .labels
        .get("networking.istio.io/enable-autoallocate-ip");
    object.spec.addresses.is_empty()
        && object.spec.resolution != api::Resolution::None
        && label != Some("false")
}

/// Endpoints of all entries for ports of this name. An entry of resolution DNS that lists
/// none and selects none stands for its host itself.
fn pooled(
    members: &[&Entry<'_>],
    host: &str,
    port_name: &str,
) -> (Vec<Endpoint>, Vec<NamedEndpoint>) {
    let mut found = EndpointMap::default();
    for entry in members {
        let spec = &entry.object.spec;
        let stands_for_host = entry.resolution.takes_names()
            && spec.endpoints.is_empty()
            && spec.workload_selector.is_none()
            && !host.starts_with('*');
        for (port, endpoints) in entry.ports.iter().zip(&entry.endpoints) {
            if *port.name != *port_name {
                continue;
            }
            found.extend(endpoints);
            if stands_for_host {
                found.insert_named(NamedEndpoint {
                    name: Arc::from(host),
                    port: port.target_port.unwrap_or(port.number),
                    weight: 1,
                    workload: Arc::default(),
                });
            }
        }
    }
    found.into_parts()
}

/// One IP as a full-length network, or a network; not the unspecified address.
fn parse_address(text: &str) -> Option<IpNet> {
    let net: IpNet = match text.parse::<IpAddr>() {
        Ok(ip) => IpNet::from(ip),
        Err(_) => text.parse::<IpNet>().ok()?.trunc(),
    };
    let is_unspecified = net.addr().is_unspecified() && net.prefix_len() == net.max_prefix_len();
    (!is_unspecified).then_some(net)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_ips_or_networks() {
        for (text, expected) in [
            ("10.1.2.3", Some("10.1.2.3/32")),
            ("10.1.2.3/32", Some("10.1.2.3/32")),
            ("10.1.2.3/8", Some("10.0.0.0/8")), // host bits are cut
            ("fd00::1", Some("fd00::1/128")),
            ("0.0.0.0", None), // stands for no address in Istio
            ("example.com", None),
        ] {
            let found = parse_address(text).map(|net| net.to_string());
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }
}
