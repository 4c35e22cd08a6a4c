//! The rules of a VirtualService as a whole: hosts, gateways, which sections.
//!
//! Source: pkg/config/validation/virtualservice.go in istio/istio.

use super::names;
use super::{Report, Validate};
use crate::api::VirtualService;

/// What the rules of a VirtualService need to know about it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surroundings<'a> {
    /// Hosts of the VirtualService.
    pub(super) hosts: &'a [String],
    /// Without hosts, it can only be the delegate of another one.
    pub(super) is_delegate: bool,
    /// Bound to gateways and not to the mesh.
    pub(super) is_gateway_only: bool,
}

impl Validate for VirtualService {
    fn validate(spec: &Self, report: &mut Report<'_, Self>) {
        let is_mesh = spec.gateways.is_empty() || spec.gateways.iter().any(|name| name == "mesh");
        let surroundings = Surroundings {
            hosts: &spec.hosts,
            is_delegate: spec.hosts.is_empty(),
            is_gateway_only: !is_mesh,
        };
        report.export_to(&spec.export_to, false);
        report.gateway_names("gateways", &spec.gateways);
        if spec.http.is_empty() && spec.tls.is_empty() && spec.tcp.is_empty() {
            report.error(
                "",
                "no-routes",
                "expected http, tls or tcp routes, found none",
            );
        }
        if surroundings.is_delegate {
            report.delegate(spec);
        }
        report.hosts(spec, is_mesh);
        for (index, route) in spec.http.iter().enumerate() {
            report.http_route(&format!("http[{index}]"), route, surroundings);
        }
        for (index, route) in spec.tls.iter().enumerate() {
            report.tls_route(&format!("tls[{index}]"), route, surroundings);
        }
        for (index, route) in spec.tcp.iter().enumerate() {
            report.tcp_route(&format!("tcp[{index}]"), route);
        }
        report.unreachable(spec);
    }
}

impl Report<'_, VirtualService> {
    fn delegate(&mut self, spec: &VirtualService) {
        for (field, is_there) in [
            ("gateways", !spec.gateways.is_empty()),
            ("tls", !spec.tls.is_empty()),
            ("tcp", !spec.tcp.is_empty()),
        ] {
            if is_there {
                let message = "not allowed without hosts: a delegate has http routes only";
                self.error(field, "delegate", message);
            }
        }
    }

    fn hosts(&mut self, spec: &VirtualService, is_mesh: bool) {
        let may_name_clusters = !is_mesh
            && spec
                .tls
                .iter()
                .flat_map(|route| &route.matches)
                .any(|m| !m.sni_hosts.is_empty());
        for (index, host) in spec.hosts.iter().enumerate() {
            let field = format!("hosts[{index}]");
            if host == "*" && is_mesh {
                let message = "\"*\" is not allowed for the mesh; name the hosts, or bind to \
                               gateways only";
                self.error(&field, "host", message);
            } else if !(names::is_ip(host) || may_name_clusters && is_cluster_name(host)) {
                self.wildcard_domain(&field, host);
            }
            let earlier = spec
                .hosts
                .iter()
                .take(index)
                .find(|earlier| names::overlap(earlier, host));
            if let Some(earlier) = earlier {
                let message = format!("{host:?} overlaps {earlier:?} of the same object");
                self.error(&field, "hosts-overlap", message);
            }
        }
    }

    /// References to gateways: `mesh`, `name`, `namespace/name`.
    pub(super) fn gateway_names(&mut self, field: &str, gateways: &[String]) {
        const CODE: &str = "gateway-name";
        for (index, gateway) in gateways.iter().enumerate() {
            let field = format!("{field}[{index}]");
            let Some((namespace, name)) = gateway.split_once('/') else {
                if let Some(problem) = names::find_domain_problem(gateway) {
                    self.error(&field, CODE, problem);
                } else if let Some((name, rest)) = gateway.split_once('.') {
                    let namespace = rest.split('.').next().unwrap_or(rest);
                    let message =
                        format!("the form {gateway:?} is deprecated; write {namespace}/{name}");
                    self.warn(&field, CODE, message);
                }
                continue;
            };
            if !names::is_dns_label(namespace) || !names::is_dns_label(name) {
                let message = format!("expected namespace/name, found {gateway:?}");
                self.error(&field, CODE, message);
            }
        }
    }
}

/// `outbound_.<port>_.<subset>_.<host>`, the name under which a gateway that
/// passes TLS on by itself knows a cluster.
fn is_cluster_name(host: &str) -> bool {
    host.strip_prefix("outbound_.")
        .and_then(|rest| rest.split_once("_._."))
        .is_some_and(|(port, host)| {
            port.parse::<u16>().is_ok() && names::find_wildcard_domain_problem(host).is_none()
        })
}
