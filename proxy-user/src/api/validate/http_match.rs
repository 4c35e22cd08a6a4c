//! The rules of the conditions of a VirtualService's routes, and of its TLS and
//! TCP routes.
//!
//! Source: pkg/config/validation/virtualservice.go in istio/istio.

use super::virtual_service::Surroundings;
use super::{Report, names};
use crate::api::{
    HTTPMatchRequest, L4MatchAttributes, RouteDestination, StringMatch, TCPRoute,
    TLSMatchAttributes, TLSRoute, VirtualService,
};

impl Report<'_, VirtualService> {
    /// The conditions at `path` of an HTTP route.
    pub(super) fn http_match(
        &mut self,
        path: &str,
        condition: &HTTPMatchRequest,
        around: Surroundings<'_>,
    ) {
        for (field, string_match, empty_prefix_is_allowed) in [
            ("uri", &condition.uri, true),
            ("scheme", &condition.scheme, false),
            ("method", &condition.method, false),
            ("authority", &condition.authority, false),
        ] {
            if let Some(string_match) = string_match {
                self.string_match(
                    &format!("{path}.{field}"),
                    string_match,
                    empty_prefix_is_allowed,
                );
            }
        }
        for (field, headers) in [
            ("headers", &condition.headers),
            ("withoutHeaders", &condition.without_headers),
        ] {
            for (name, string_match) in headers {
                self.header_match(
                    &format!("{path}.{field}.{name}"),
                    name,
                    string_match,
                    around,
                );
            }
        }
        for (name, string_match) in &condition.headers {
            if *string_match == StringMatch::Regex("*".to_owned()) {
                let message = "\"*\" is no regular expression; write {} to ask for the header";
                self.error(&format!("{path}.headers.{name}.regex"), "regex", message);
            }
        }
        for (name, string_match) in &condition.query_params {
            self.string_match(&format!("{path}.queryParams.{name}"), string_match, false);
        }
        self.client(
            path,
            condition.port,
            &condition.source_labels,
            &condition.gateways,
            &condition.source_namespace,
        );
    }

    fn header_match(
        &mut self,
        field: &str,
        name: &str,
        string_match: &StringMatch,
        around: Surroundings<'_>,
    ) {
        if !names::is_match_header_name(name) {
            self.error(
                field,
                "header-name",
                format!("{name:?} is no name of a header"),
            );
        }
        if names::is_claim(name) && !around.is_gateway_only {
            let message = "claims can be matched at gateways only; do not bind to the mesh";
            self.error(field, "claim", message);
        }
        // The text of this case has a message of its own.
        if *string_match != StringMatch::Regex("*".to_owned()) {
            self.string_match(field, string_match, false);
        }
    }

    /// What conditions say about the client and the port.
    fn client(
        &mut self,
        path: &str,
        port: u32,
        source_labels: &crate::api::Labels,
        gateways: &[String],
        source_namespace: &str,
    ) {
        self.optional_port(&format!("{path}.port"), port);
        self.labels(&format!("{path}.sourceLabels"), source_labels);
        self.gateway_names(&format!("{path}.gateways"), gateways);
        self.optional_label(&format!("{path}.sourceNamespace"), source_namespace);
    }

    /// One TLS route at `path`.
    pub(super) fn tls_route(&mut self, path: &str, route: &TLSRoute, around: Surroundings<'_>) {
        if route.matches.is_empty() {
            let message = "expected a match with sniHosts, found none";
            self.error(path, "tls-match", message);
        }
        for (index, condition) in route.matches.iter().enumerate() {
            self.tls_match(&format!("{path}.match[{index}]"), condition, around);
        }
        self.destinations(path, &route.route);
    }

    fn tls_match(&mut self, path: &str, condition: &TLSMatchAttributes, around: Surroundings<'_>) {
        if condition.sni_hosts.is_empty() {
            self.error(path, "sni-host", "expected sniHosts, found none");
        }
        for (index, sni) in condition.sni_hosts.iter().enumerate() {
            let field = format!("{path}.sniHosts[{index}]");
            if names::is_ip(sni) {
                let message = "clients send no server name for an address; this never matches";
                self.warn(&field, "sni-host", message);
                continue;
            }
            let is_known = around.hosts.iter().any(|host| names::is_subset(sni, host));
            if !is_known {
                let message = format!("{sni:?} is not covered by the hosts of this object");
                self.error(&field, "sni-host", message);
            } else if !sni.starts_with("outbound_.") {
                self.wildcard_domain(&field, sni);
            }
        }
        self.subnets(
            &format!("{path}.destinationSubnets"),
            &condition.destination_subnets,
        );
        self.client(
            path,
            condition.port,
            &condition.source_labels,
            &condition.gateways,
            &condition.source_namespace,
        );
    }

    /// One TCP route at `path`.
    pub(super) fn tcp_route(&mut self, path: &str, route: &TCPRoute) {
        for (index, condition) in route.matches.iter().enumerate() {
            self.tcp_match(&format!("{path}.match[{index}]"), condition);
        }
        self.destinations(path, &route.route);
    }

    fn tcp_match(&mut self, path: &str, condition: &L4MatchAttributes) {
        self.subnets(
            &format!("{path}.destinationSubnets"),
            &condition.destination_subnets,
        );
        if !condition.source_subnet.is_empty() {
            self.subnets(
                &format!("{path}.sourceSubnet"),
                std::slice::from_ref(&condition.source_subnet),
            );
            let message = "ignored, as by Istio: the rule acts on every client; use sourceLabels \
                           or sourceNamespace";
            self.warn(&format!("{path}.sourceSubnet"), "ignored", message);
        }
        self.client(
            path,
            condition.port,
            &condition.source_labels,
            &condition.gateways,
            &condition.source_namespace,
        );
    }

    fn destinations(&mut self, path: &str, destinations: &[RouteDestination]) {
        let path = format!("{path}.route");
        if destinations.is_empty() {
            self.error(&path, "no-action", "expected a route, found none");
        }
        for (index, destination) in destinations.iter().enumerate() {
            let field = format!("{path}[{index}].destination");
            self.destination(&field, destination.destination.as_ref());
        }
        self.weights(
            &path,
            destinations.iter().map(|destination| destination.weight),
        );
    }
}
