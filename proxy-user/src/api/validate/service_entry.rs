//! The rules of a ServiceEntry.
//!
//! Source: pkg/config/validation/validation.go in istio/istio, and the CRD's rules.

use std::collections::BTreeSet;

use super::{Report, Validate, names};
use crate::api::{Location, Resolution, ServiceEntry, ServicePort, WorkloadEntry};

/// The CRD's limits.
const HOSTS_MAX: usize = 256;
const ADDRESSES_MAX: usize = 256;
const ADDRESS_LEN_MAX: usize = 64;
const PORTS_MAX: usize = 256;
const ENDPOINTS_MAX: usize = 4096;

/// Label that sends a service's traffic to a waypoint.
const WAYPOINT_LABEL: &str = "istio.io/use-waypoint";

impl Validate for ServiceEntry {
    fn validate(spec: &Self, report: &mut Report<'_, Self>) {
        report.export_to(&spec.export_to, true);
        report.entry_hosts(spec);
        report.addresses(spec);
        report.entry_ports(spec);
        report.workload_selector(spec.workload_selector.as_ref());
        if spec.workload_selector.is_some() && !spec.endpoints.is_empty() {
            let message = "only one of workloadSelector and endpoints can be set";
            report.error("endpoints", "endpoints", message);
        }
        if spec.endpoints.len() > ENDPOINTS_MAX {
            report.error(
                "endpoints",
                "too-many",
                format!("at most {ENDPOINTS_MAX} endpoints"),
            );
        }
        for (index, endpoint) in spec.endpoints.iter().enumerate() {
            report.workload_entry(&format!("endpoints[{index}]"), endpoint);
        }
        match spec.resolution {
            Resolution::None => report.resolution_none(spec),
            Resolution::Static => report.resolution_static(spec),
            Resolution::Dns | Resolution::DnsRoundRobin => report.resolution_dns(spec),
            Resolution::DynamicDns => report.resolution_dynamic(spec),
        }
    }
}

impl Report<'_, ServiceEntry> {
    fn entry_hosts(&mut self, spec: &ServiceEntry) {
        if spec.hosts.is_empty() {
            self.error("hosts", "no-hosts", "expected hosts, found none");
        }
        if spec.hosts.len() > HOSTS_MAX {
            self.error("hosts", "too-many", format!("at most {HOSTS_MAX} hosts"));
        }
        for (index, host) in spec.hosts.iter().enumerate() {
            let field = format!("hosts[{index}]");
            if host == "*" {
                self.error(&field, "host", "\"*\" is not allowed; name the hosts");
                continue;
            }
            self.wildcard_domain(&field, host);
            if names::is_partial_wildcard(host) && spec.resolution != Resolution::DynamicDns {
                let message = format!("{host:?} never matches; a wildcard stands for whole labels");
                self.warn(&field, "host", message);
            }
        }
        let cannot_tell_apart = spec
            .ports
            .iter()
            .find(|port| !names::is_http(&port.protocol) && !names::is_tls(&port.protocol));
        if let Some(port) = cannot_tell_apart
            && spec.resolution != Resolution::None
            && spec.hosts.len() > 1
        {
            let message = format!(
                "several hosts cannot be told apart on port {}, which is neither HTTP nor TLS",
                port.number
            );
            self.error("hosts", "host", message);
        }
    }

    fn addresses(&mut self, spec: &ServiceEntry) {
        const CODE: &str = "address";
        if spec.addresses.len() > ADDRESSES_MAX {
            self.error(
                "addresses",
                "too-many",
                format!("at most {ADDRESSES_MAX} addresses"),
            );
        }
        self.subnets("addresses", &spec.addresses);
        for (index, address) in spec.addresses.iter().enumerate() {
            let field = format!("addresses[{index}]");
            if address.len() > ADDRESS_LEN_MAX {
                self.error(
                    &field,
                    CODE,
                    format!("at most {ADDRESS_LEN_MAX} characters"),
                );
            }
            let takes_networks = matches!(spec.resolution, Resolution::None | Resolution::Static);
            if address.contains('/') && !takes_networks {
                let message = "a network needs resolution NONE or STATIC";
                self.error(&field, CODE, message);
            }
        }
    }

    fn entry_ports(&mut self, spec: &ServiceEntry) {
        if spec.ports.len() > PORTS_MAX {
            self.error("ports", "too-many", format!("at most {PORTS_MAX} ports"));
        }
        let (mut seen_names, mut seen_numbers) = (BTreeSet::new(), BTreeSet::new());
        for (index, port) in spec.ports.iter().enumerate() {
            let path = format!("ports[{index}]");
            self.entry_port(&path, port);
            if !seen_names.insert(&port.name) {
                let message = format!("{:?} is the name of an earlier port", port.name);
                self.error(&format!("{path}.name"), "port-name", message);
            }
            if !seen_numbers.insert(port.number) {
                let message = format!("{} is the number of an earlier port", port.number);
                self.error(&format!("{path}.number"), "port", message);
            }
        }
    }

    fn entry_port(&mut self, path: &str, port: &ServicePort) {
        self.label(&format!("{path}.name"), &port.name);
        self.port(&format!("{path}.number"), port.number);
        self.optional_port(&format!("{path}.targetPort"), port.target_port);
        if !port.protocol.is_empty() && !names::is_protocol(&port.protocol) {
            let message = format!("unknown protocol {:?}", port.protocol);
            self.error(&format!("{path}.protocol"), "protocol", message);
        }
    }

    fn resolution_none(&mut self, spec: &ServiceEntry) {
        if !spec.endpoints.is_empty() {
            let message = "resolution NONE goes where the client dials; remove the endpoints, or \
                           choose STATIC";
            self.error("endpoints", "endpoints", message);
        }
        if spec.workload_selector.is_some() {
            let message = "has no effect: resolution NONE goes where the client dials";
            self.warn("workloadSelector", "endpoints", message);
        }
    }

    fn resolution_static(&mut self, spec: &ServiceEntry) {
        const CODE: &str = "endpoints";
        for (index, endpoint) in spec.endpoints.iter().enumerate() {
            let path = format!("endpoints[{index}]");
            let is_unix = endpoint.address.starts_with("unix://");
            let is_gateway = endpoint.address.is_empty() && !endpoint.network.is_empty();
            if !is_unix && !is_gateway && !names::is_ip(&endpoint.address) {
                let message = format!(
                    "expected an IP address or unix:// and a path, found {:?}; for names choose \
                     resolution DNS",
                    endpoint.address
                );
                self.error(&format!("{path}.address"), CODE, message);
            }
            if is_unix && spec.ports.len() != 1 {
                let message = "a unix socket needs an entry with exactly one port";
                self.error(&format!("{path}.address"), CODE, message);
            }
            self.endpoint_ports(&path, endpoint, spec);
        }
    }

    fn resolution_dns(&mut self, spec: &ServiceEntry) {
        const CODE: &str = "endpoints";
        if spec.endpoints.is_empty() && spec.workload_selector.is_none() {
            for (index, host) in spec.hosts.iter().enumerate() {
                if names::find_domain_problem(host).is_some() {
                    let message = format!("{host:?} cannot be resolved; give endpoints");
                    self.error(&format!("hosts[{index}]"), CODE, message);
                }
            }
        }
        if spec.resolution == Resolution::DnsRoundRobin && spec.endpoints.len() > 1 {
            let message = "resolution DNS_ROUND_ROBIN has at most one endpoint";
            self.error("endpoints", CODE, message);
        }
        for (index, endpoint) in spec.endpoints.iter().enumerate() {
            let path = format!("endpoints[{index}]");
            let address = &endpoint.address;
            let is_gateway = address.is_empty() && !endpoint.network.is_empty();
            let is_good = names::is_ip(address) || names::find_domain_problem(address).is_none();
            if !is_good && !is_gateway {
                let message = format!("expected a domain name or an address, found {address:?}");
                self.error(&format!("{path}.address"), CODE, message);
            }
            self.endpoint_ports(&path, endpoint, spec);
        }
        let has_tcp = spec
            .ports
            .iter()
            .any(|port| port.protocol.eq_ignore_ascii_case("tcp"));
        if !spec.addresses.is_empty() && spec.hosts.len() > 1 && has_tcp {
            let message = "several hosts share the addresses, so that TCP goes to the first host";
            self.warn("addresses", "address", message);
        }
    }

    fn resolution_dynamic(&mut self, spec: &ServiceEntry) {
        const CODE: &str = "dynamic-dns";
        for (index, host) in spec.hosts.iter().enumerate() {
            if !host.starts_with('*') {
                let message = "resolution DYNAMIC_DNS is for wildcard hosts; choose DNS";
                self.error(&format!("hosts[{index}]"), CODE, message);
            }
        }
        for (field, is_there) in [
            ("addresses", !spec.addresses.is_empty()),
            ("endpoints", !spec.endpoints.is_empty()),
        ] {
            if is_there {
                self.error(field, CODE, "not allowed with resolution DYNAMIC_DNS");
            }
        }
        for (index, port) in spec.ports.iter().enumerate() {
            let protocol = port.protocol.to_ascii_lowercase();
            if !["http", "http2", "grpc", "tls"].contains(&protocol.as_str()) {
                let message = format!(
                    "expected HTTP, HTTP2, GRPC or TLS with resolution DYNAMIC_DNS, found {:?}",
                    port.protocol
                );
                self.error(&format!("ports[{index}].protocol"), CODE, message);
            }
        }
        let uses_waypoint = self.object.meta.labels.contains_key(WAYPOINT_LABEL);
        if spec.location == Location::MeshInternal && uses_waypoint {
            let message = "MESH_INTERNAL is not allowed with DYNAMIC_DNS and a waypoint";
            self.error("location", CODE, message);
        }
    }

    fn endpoint_ports(&mut self, path: &str, endpoint: &WorkloadEntry, spec: &ServiceEntry) {
        for name in endpoint.ports.keys() {
            if !spec.ports.iter().any(|port| port.name == *name) {
                let message = format!("{name:?} is none of the entry's ports");
                self.error(&format!("{path}.ports.{name}"), "endpoints", message);
            }
        }
    }
}
