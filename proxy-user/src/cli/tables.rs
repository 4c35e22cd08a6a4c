//! Which columns the views have as tables.

use super::output::Row;
use crate::admin::view::{
    ClusterView, ConnectionView, EndpointView, FindingView, ListenerView, MapView, PlanView,
    PodView, RouteView, ServiceView,
};

fn text(value: Option<&impl ToString>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

fn plan(plan: Option<&PlanView>) -> [String; 2] {
    let Some(plan) = plan else {
        return [String::new(), String::new()];
    };
    [
        with_reason(&plan.path, &plan.reason),
        with_reason(&plan.degraded, &plan.degraded_reason),
    ]
}

fn with_reason(what: &str, reason: &str) -> String {
    if reason.is_empty() {
        what.to_owned()
    } else {
        format!("{what} ({reason})")
    }
}

impl Row for ServiceView {
    const TITLES: &'static [&'static str] =
        &["HOST", "NAMESPACE", "KIND", "ADDRESSES", "PORTS", "ORIGIN"];

    fn cells(&self) -> Vec<String> {
        let ports: Vec<String> = self
            .ports
            .iter()
            .map(|port| format!("{}/{}", port.number, port.protocol))
            .collect();
        let allocated = self
            .allocated
            .iter()
            .map(|address| format!("{address} (auto)"));
        let addresses: Vec<String> = self.addresses.iter().cloned().chain(allocated).collect();
        vec![
            self.host.clone(),
            self.namespace.clone(),
            self.kind.clone(),
            addresses.join(","),
            ports.join(","),
            text(self.origin.as_ref()),
        ]
    }
}

impl Row for ClusterView {
    const TITLES: &'static [&'static str] = &[
        "CLUSTER",
        "RULE",
        "ENDPOINTS",
        "DISCOVERY",
        "BALANCER",
        "LIMITS",
        "PATH",
        "ORIGIN",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.rule.clone(),
            format!("{}/{}", self.healthy, self.endpoints),
            self.discovery.clone(),
            self.load_balancer.clone(),
            self.limits.join(","),
            self.reasons.join("; "),
            text(self.origin.as_ref()),
        ]
    }
}

impl Row for EndpointView {
    const TITLES: &'static [&'static str] = &[
        "ADDRESS", "CLUSTER", "RULE", "HEALTH", "WEIGHT", "WORKLOAD", "NODE", "LOCALITY",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.address.clone(),
            self.cluster.clone(),
            self.rule.clone(),
            self.health.clone(),
            self.weight.to_string(),
            self.workload.clone(),
            self.node.clone(),
            self.locality.clone(),
        ]
    }
}

impl Row for RouteView {
    const TITLES: &'static [&'static str] = &[
        "SCOPE", "KIND", "PLACE", "HOST", "#", "NAME", "MATCH", "ACTION", "POLICIES", "PATH",
        "DEGRADED", "ORIGIN",
    ];

    fn cells(&self) -> Vec<String> {
        let sum: u32 = self.destinations.iter().map(|entry| entry.weight).sum();
        let destinations: Vec<String> = self
            .destinations
            .iter()
            .map(|entry| {
                let state = match &*entry.state {
                    "known" => String::new(),
                    state => format!(" ({state})"),
                };
                if self.destinations.len() == 1 {
                    format!("{}{state}", entry.cluster)
                } else {
                    format!("{}/{sum} {}{state}", entry.weight, entry.cluster)
                }
            })
            .collect();
        let [path, degraded] = plan(self.path.as_ref());
        vec![
            self.scope.clone(),
            self.kind.clone(),
            self.place.clone(),
            self.host.clone(),
            self.index.to_string(),
            self.name.clone(),
            if self.matches.is_empty() {
                "everything".to_owned()
            } else {
                self.matches.join(" | ")
            },
            match &self.action {
                Some(action) => action.clone(),
                None => destinations.join(", "),
            },
            self.policies.join(","),
            path,
            degraded,
            text(self.origin.as_ref()),
        ]
    }
}

impl Row for ListenerView {
    const TITLES: &'static [&'static str] = &[
        "SCOPE", "ADDRESS", "SERVICE", "PROTOCOL", "PATH", "DEGRADED", "ORIGIN",
    ];

    fn cells(&self) -> Vec<String> {
        let [path, degraded] = plan(self.plan.as_ref());
        vec![
            self.scope.clone(),
            self.address.clone(),
            self.service.clone(),
            self.protocol.clone(),
            if self.is_hidden {
                "hidden".to_owned()
            } else {
                path
            },
            degraded,
            text(self.origin.as_ref()),
        ]
    }
}

impl Row for PodView {
    const TITLES: &'static [&'static str] = &[
        "NAMESPACE",
        "NAME",
        "STATE",
        "IPS",
        "SCOPE",
        "WORKER",
        "CONNECTIONS",
        "LISTENERS",
        "ON-PROXY-DOWN",
        "UID",
    ];

    fn cells(&self) -> Vec<String> {
        // Mostly the same port in both families.
        let mut ports = self.listener_ports.clone();
        ports.dedup();
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        vec![
            self.namespace.clone(),
            self.name.clone(),
            self.state.clone(),
            self.ips.join(","),
            self.scope.clone(),
            text(self.worker.as_ref()),
            self.connections.to_string(),
            ports.join(","),
            self.on_proxy_down.clone(),
            self.uid.clone(),
        ]
    }
}

impl Row for ConnectionView {
    const TITLES: &'static [&'static str] = &[
        "POD",
        "CLIENT",
        "DESTINATION",
        "UPSTREAM",
        "PROTOCOL",
        "PATH",
        "AGE",
        "RECEIVED",
        "SENT",
        "CLUSTER",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.pod.clone(),
            self.client.clone(),
            self.destination.clone(),
            text(self.upstream.as_ref()),
            self.protocol.clone(),
            self.path.clone(),
            format!("{:.1}s", self.age_ms as f64 / 1000.0),
            text(self.bytes_received.as_ref()),
            text(self.bytes_sent.as_ref()),
            text(self.cluster.as_ref()),
        ]
    }
}

impl Row for MapView {
    const TITLES: &'static [&'static str] = &["MAP", "ENTRIES", "CAPACITY"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            text(self.entries.as_ref()),
            self.capacity.to_string(),
        ]
    }
}

impl Row for FindingView {
    const TITLES: &'static [&'static str] = &["FINDING"];

    fn cells(&self) -> Vec<String> {
        vec![self.text.clone()]
    }
}
