//! The rules of WorkloadEntry, also as an endpoint of a ServiceEntry, and of WorkloadGroup.
//!
//! Source: pkg/config/validation/validation.go in istio/istio, and the CRD's rules.

use super::{Report, Validate, names};
use crate::api::{ReadinessProbe, Resource, WorkloadEntry, WorkloadGroup};

/// The CRD's limits.
const ADDRESS_LEN_MAX: usize = 256;
const NETWORK_LEN_MAX: usize = 2048;
const SERVICE_ACCOUNT_LEN_MAX: usize = 253;
const PORTS_MAX: usize = 128;
const LABELS_MAX: usize = 256;

impl Validate for WorkloadEntry {
    fn validate(spec: &Self, report: &mut Report<'_, Self>) {
        report.workload_entry("", spec);
        let address = spec.address.as_str();
        let is_good = address.is_empty()
            || address.starts_with("unix://")
            || names::is_ip(address)
            || names::find_domain_problem(address).is_none();
        if !is_good {
            let message = format!(
                "expected an IP address, a domain name or unix:// and a path, found {address:?}"
            );
            report.error("address", "address", message);
        }
    }
}

impl<S: Resource> Report<'_, S> {
    /// What is common to WorkloadEntries and endpoints of ServiceEntries.
    pub(super) fn workload_entry(&mut self, path: &str, entry: &WorkloadEntry) {
        const CODE: &str = "address";
        let at = |field: &str| {
            if path.is_empty() {
                field.to_owned()
            } else {
                format!("{path}.{field}")
            }
        };
        let address = at("address");
        match (entry.address.as_str(), entry.network.as_str()) {
            ("", "") => self.error(&address, CODE, "expected address or network, found none"),
            ("", _) => {
                let message = "no address: the entry stands for its network's gateway";
                self.warn(&address, CODE, message);
            }
            (_, _) => {}
        }
        if let Some(path) = entry.address.strip_prefix("unix://") {
            if let Some(problem) = names::find_unix_path_problem(path) {
                self.error(&address, CODE, problem);
            }
            if !entry.ports.is_empty() {
                self.error(&at("ports"), "port", "a unix socket has no ports");
            }
        }
        for (name, number) in &entry.ports {
            let field = at(&format!("ports.{name}"));
            self.label(&field, name);
            self.port(&field, *number);
        }
        self.labels(&at("labels"), &entry.labels);
        for (field, len, len_max) in [
            ("address", entry.address.len(), ADDRESS_LEN_MAX),
            ("network", entry.network.len(), NETWORK_LEN_MAX),
            ("locality", entry.locality.len(), NETWORK_LEN_MAX),
            (
                "serviceAccount",
                entry.service_account.len(),
                SERVICE_ACCOUNT_LEN_MAX,
            ),
        ] {
            if len > len_max {
                let message = format!("at most {len_max} characters, found {len}");
                self.error(&at(field), "too-long", message);
            }
        }
        for (field, count, count_max) in [
            ("ports", entry.ports.len(), PORTS_MAX),
            ("labels", entry.labels.len(), LABELS_MAX),
        ] {
            if count > count_max {
                self.error(
                    &at(field),
                    "too-many",
                    format!("at most {count_max}, found {count}"),
                );
            }
        }
    }
}

impl Validate for WorkloadGroup {
    fn validate(spec: &Self, report: &mut Report<'_, Self>) {
        if let Some(metadata) = &spec.metadata {
            report.labels("metadata.labels", &metadata.labels);
        }
        match &spec.template {
            None => report.error("template", "template", "expected a template, found none"),
            Some(template) => {
                report.labels("template.labels", &template.labels);
                for (name, number) in &template.ports {
                    report.port(&format!("template.ports.{name}"), *number);
                }
            }
        }
        if let Some(probe) = &spec.probe {
            report.probe(probe);
        }
    }
}

impl Report<'_, WorkloadGroup> {
    fn probe(&mut self, probe: &ReadinessProbe) {
        const CODE: &str = "probe";
        for (field, number) in [
            ("initialDelaySeconds", probe.initial_delay_seconds),
            ("timeoutSeconds", probe.timeout_seconds),
            ("periodSeconds", probe.period_seconds),
            ("successThreshold", probe.success_threshold),
            ("failureThreshold", probe.failure_threshold),
        ] {
            if number < 0 {
                let message = format!("expected at least 0, found {number}");
                self.error(&format!("probe.{field}"), CODE, message);
            }
        }
        let methods = [
            probe.http_get.is_some(),
            probe.tcp_socket.is_some(),
            probe.exec.is_some(),
            probe.grpc.is_some(),
        ];
        match methods.into_iter().filter(|is_set| *is_set).count() {
            0 => self.error("probe", CODE, "expected httpGet, tcpSocket, exec or grpc"),
            1 => {}
            _ => {
                let message = "only one of httpGet, tcpSocket, exec and grpc can be set";
                self.error("probe", CODE, message);
            }
        }
        if let Some(http) = &probe.http_get {
            self.port("probe.httpGet.port", http.port);
            if !matches!(http.scheme.as_str(), "" | "HTTP" | "HTTPS") {
                let message = format!("expected HTTP or HTTPS, found {:?}", http.scheme);
                self.error("probe.httpGet.scheme", CODE, message);
            }
            for (index, header) in http.http_headers.iter().enumerate() {
                if !names::is_token(&header.name) {
                    let message = format!("{:?} is no name of a header", header.name);
                    self.error(
                        &format!("probe.httpGet.httpHeaders[{index}].name"),
                        CODE,
                        message,
                    );
                }
            }
        }
        if let Some(tcp) = &probe.tcp_socket {
            self.port("probe.tcpSocket.port", tcp.port);
        }
        if probe
            .exec
            .as_ref()
            .is_some_and(|exec| exec.command.is_empty())
        {
            self.error("probe.exec.command", CODE, "expected a command, found none");
        }
    }
}
