//! The rules of a Sidecar.
//!
//! Source: pkg/config/validation/validation.go in istio/istio.

use std::collections::BTreeSet;

use super::{Report, Validate, names};
use crate::api::{
    CaptureMode, IstioEgressListener, IstioIngressListener, OutboundTrafficPolicy,
    OutboundTrafficPolicyMode, ServerTLSMode, ServerTLSSettings, Sidecar,
};

impl Validate for Sidecar {
    fn validate(spec: &Self, report: &mut Report<'_, Self>) {
        report.workload_selector(spec.workload_selector.as_ref());
        let is_empty = spec.egress.is_empty()
            && spec.ingress.is_empty()
            && spec.outbound_traffic_policy.is_none()
            && spec.inbound_connection_pool.is_none();
        if is_empty {
            let message = "expected egress, ingress, outboundTrafficPolicy or \
                           inboundConnectionPool";
            report.error("", "sidecar-empty", message);
        }
        report.ingress(spec);
        report.egress(spec);
        if let Some(pool) = &spec.inbound_connection_pool {
            report.connection_pool("inboundConnectionPool", pool);
        }
        if let Some(policy) = &spec.outbound_traffic_policy {
            report.outbound_policy(policy);
        }
    }
}

impl Report<'_, Sidecar> {
    fn ingress(&mut self, spec: &Sidecar) {
        let mut numbers = BTreeSet::new();
        for (index, listener) in spec.ingress.iter().enumerate() {
            let path = format!("ingress[{index}]");
            self.ingress_listener(&path, listener);
            let Some(port) = &listener.port else { continue };
            if !numbers.insert(port.number) {
                let message = format!("{} is the port of an earlier listener", port.number);
                self.error(&format!("{path}.port.number"), "port", message);
            }
        }
    }

    fn ingress_listener(&mut self, path: &str, listener: &IstioIngressListener) {
        let Some(port) = &listener.port else {
            return self.error(
                &format!("{path}.port"),
                "port",
                "expected a port, found none",
            );
        };
        self.listener_port(&format!("{path}.port"), port, false);
        self.bind(&format!("{path}.bind"), &listener.bind);
        if !is_default_endpoint(&listener.default_endpoint) {
            let message = format!(
                "expected 127.0.0.1:PORT, 0.0.0.0:PORT, [::1]:PORT, [::]:PORT or unix:// and a \
                 path, found {:?}",
                listener.default_endpoint
            );
            self.error(
                &format!("{path}.defaultEndpoint"),
                "default-endpoint",
                message,
            );
        }
        if let Some(tls) = &listener.tls {
            self.ingress_tls(&format!("{path}.tls"), tls, &port.protocol);
        }
        if let Some(pool) = &listener.connection_pool {
            let path = format!("{path}.connectionPool");
            self.connection_pool(&path, pool);
            if pool.http.is_some() && !names::is_http(&port.protocol) {
                let message = "has no effect on a port that is not HTTP";
                self.warn(&format!("{path}.http"), "connection-pool", message);
            }
        }
    }

    fn ingress_tls(&mut self, path: &str, tls: &ServerTLSSettings, protocol: &str) {
        const CODE: &str = "ingress-tls";
        if !names::is_tls(protocol) {
            let message = format!("protocol {protocol:?} has no TLS; use TLS or HTTPS");
            self.error(path, CODE, message);
        }
        for (field, is_there) in [
            ("httpsRedirect", tls.https_redirect),
            ("subjectAltNames", !tls.subject_alt_names.is_empty()),
            ("credentialName", !tls.credential_name.is_empty()),
            ("credentialNames", !tls.credential_names.is_empty()),
            ("tlsCertificates", !tls.tls_certificates.is_empty()),
        ] {
            if is_there {
                let message = "not supported for a Sidecar";
                self.error(&format!("{path}.{field}"), CODE, message);
            }
        }
        if matches!(
            tls.mode,
            ServerTLSMode::IstioMutual | ServerTLSMode::AutoPassthrough
        ) {
            let message = "expected SIMPLE, MUTUAL, OPTIONAL_MUTUAL or PASSTHROUGH";
            self.error(&format!("{path}.mode"), CODE, message);
        }
        self.server_tls(path, tls);
    }

    fn egress(&mut self, spec: &Sidecar) {
        const CODE: &str = "egress";
        let mut numbers = BTreeSet::new();
        let mut sockets = BTreeSet::new();
        let mut earlier_hosts = Vec::new();
        let mut has_catch_all = false;
        for (index, listener) in spec.egress.iter().enumerate() {
            let path = format!("egress[{index}]");
            self.egress_listener(&path, listener);
            if listener.port.is_none() {
                if has_catch_all {
                    let message = "only one listener can be without a port";
                    self.error(&path, CODE, message);
                } else if index + 1 != spec.egress.len() {
                    let message = "a listener without a port must be the last one";
                    self.error(&path, CODE, message);
                }
                has_catch_all = true;
            }
            let is_unix = listener.bind.starts_with("unix://");
            if is_unix && !sockets.insert(&listener.bind) {
                let message = format!("{:?} is bound by an earlier listener", listener.bind);
                self.error(&format!("{path}.bind"), CODE, message);
            }
            if let Some(port) = listener.port.as_ref().filter(|_| !is_unix)
                && !numbers.insert(port.number)
            {
                let message = format!("{} is the port of an earlier listener", port.number);
                self.error(&format!("{path}.port.number"), "port", message);
            }
            self.egress_hosts(&path, listener, &mut earlier_hosts);
        }
    }

    fn egress_listener(&mut self, path: &str, listener: &IstioEgressListener) {
        self.bind(&format!("{path}.bind"), &listener.bind);
        let is_unix = listener.bind.starts_with("unix://");
        if let Some(port) = &listener.port {
            self.listener_port(&format!("{path}.port"), port, is_unix);
            if !port.name.is_empty() {
                let message = "a name for people; nothing depends on it";
                self.note(&format!("{path}.port.name"), "ignored", message);
            }
        }
        if is_unix && listener.capture_mode == CaptureMode::Iptables {
            let message = "a unix socket cannot be captured; use NONE";
            self.error(&format!("{path}.captureMode"), "egress", message);
        }
        if listener.hosts.is_empty() {
            self.error(
                &format!("{path}.hosts"),
                "no-hosts",
                "expected hosts, found none",
            );
        }
    }

    /// Hosts of one listener; `earlier_hosts` are those of the ones before it without a port.
    fn egress_hosts<'a>(
        &mut self,
        path: &str,
        listener: &'a IstioEgressListener,
        earlier_hosts: &mut Vec<&'a str>,
    ) {
        const CODE: &str = "egress-host";
        let first = earlier_hosts.len();
        for (index, host) in listener.hosts.iter().enumerate() {
            let field = format!("{path}.hosts[{index}]");
            if let Some(problem) = find_egress_host_problem(host) {
                self.error(&field, CODE, problem);
                continue;
            }
            let own = earlier_hosts.get(first..).unwrap_or_default();
            if let Some(earlier) = own.iter().find(|earlier| covers(earlier, host)) {
                let message = format!("has no effect: {earlier:?} covers it");
                self.warn(&field, CODE, message);
            } else if host == "*/*"
                && listener
                    .hosts
                    .iter()
                    .any(|h| h != host && !h.starts_with('~'))
            {
                let message = "\"*/*\" is everything; the other hosts have no effect";
                self.warn(&field, CODE, message);
            }
            earlier_hosts.push(host);
        }
    }

    fn outbound_policy(&mut self, policy: &OutboundTrafficPolicy) {
        const PATH: &str = "outboundTrafficPolicy";
        const CODE: &str = "outbound-policy";
        if policy.mode == OutboundTrafficPolicyMode::AllowAnyDynamicDns {
            let message = "ALLOW_ANY_DYNAMIC_DNS is for the mesh only; use a ServiceEntry with \
                           resolution DYNAMIC_DNS";
            self.error(&format!("{PATH}.mode"), CODE, message);
        }
        let Some(proxy) = &policy.egress_proxy else {
            return;
        };
        let path = format!("{PATH}.egressProxy");
        if policy.mode != OutboundTrafficPolicyMode::AllowAny {
            self.error(&path, CODE, "needs mode ALLOW_ANY");
        }
        if let Some(problem) = names::find_domain_problem(&proxy.host) {
            self.error(&format!("{path}.host"), CODE, problem);
        }
        self.optional_label(&format!("{path}.subset"), &proxy.subset);
        match proxy.port {
            None => self.error(&format!("{path}.port"), CODE, "expected a port, found none"),
            Some(port) => self.port(&format!("{path}.port.number"), port.number),
        }
    }
}

/// Whether an egress host imports everything that a later one does.
fn covers(earlier: &str, later: &str) -> bool {
    if earlier.starts_with('~') || later.starts_with('~') {
        return earlier == later;
    }
    let (Some((earlier_ns, earlier)), Some((later_ns, later))) =
        (earlier.split_once('/'), later.split_once('/'))
    else {
        return false;
    };
    (earlier_ns == "*" || earlier_ns == later_ns) && names::is_subset(later, earlier)
}

fn find_egress_host_problem(host: &str) -> Option<String> {
    let Some((namespace, name)) = host.split_once('/') else {
        return Some(format!("expected namespace/dns, found {host:?}"));
    };
    // ~ns/dns takes out again; ~/dns does so for every namespace.
    let namespace = match namespace.strip_prefix('~') {
        Some("") => "*",
        Some(rest) => rest,
        None => namespace,
    };
    if !matches!(namespace, "*" | ".") && !names::is_dns_label(namespace) {
        return Some(format!(
            "expected \"*\", \".\" or a namespace before /, found {host:?}"
        ));
    }
    if name == "*" {
        return None;
    }
    if names::is_partial_wildcard(name) {
        return Some(format!(
            "{name:?}: a wildcard stands for whole labels, as *.example.com"
        ));
    }
    if let Some(problem) = names::find_wildcard_domain_problem(name) {
        return Some(problem);
    }
    (!name.contains('.')).then(|| format!("{name:?} is a short name; write the whole name"))
}

/// The forms of an ingress listener's `defaultEndpoint`; empty is the pod's own address.
fn is_default_endpoint(endpoint: &str) -> bool {
    if endpoint.is_empty() {
        return true;
    }
    if let Some(path) = endpoint.strip_prefix("unix://") {
        return names::find_unix_path_problem(path).is_none();
    }
    ["127.0.0.1:", "0.0.0.0:", "[::1]:", "[::]:"]
        .iter()
        .find_map(|address| endpoint.strip_prefix(address))
        .is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port != 0))
}
