//! `tls` and `tcp` rules to ordered routes of one listener.
//!
//! Source: Istio pilot/pkg/networking/core/tls.go (`buildSidecarOutboundTLSFilterChainOpts`,
//! `buildSidecarOutboundTCPFilterChainOpts`).

use std::collections::HashSet;
use std::sync::Arc;

use ipnet::IpNet;

use crate::api::{Destination, RouteDestination};
use crate::snapshot::ClusterRef;
use crate::snapshot::routes::{L4Destination, TcpRoute, TlsRoute};

use super::forward::relative_weights;
use super::host;
use super::registry::Service;
use super::route::Router;
use super::rule::Place;
use super::scope::ClientView;
use super::virtual_service::{L4Match, L4Rule, MeshRules};

impl Router<'_, '_> {
    /// Routes for bytes that are neither HTTP nor TLS on `port` of `service`, longest subnet
    /// first. The first rule without subnets ends the list; without one the service itself does.
    pub(crate) fn tcp_routes(
        &mut self,
        client: &ClientView,
        rules: Option<&MeshRules>,
        service: &Service,
        port: u16,
    ) -> Vec<TcpRoute> {
        let rules = rules.into_iter().flat_map(|rules| &rules.tcp);
        let (mut routes, last) = self.tcp_rule_routes(client, rules, port);
        routes.push(last.unwrap_or_else(|| self.default_tcp_route(client, service, port)));
        routes
    }

    /// Routes of `rules`, longest subnet first, and the first without subnets, which ends them.
    pub(crate) fn tcp_rule_routes<'m>(
        &mut self,
        client: &ClientView,
        rules: impl Iterator<Item = &'m L4Rule>,
        port: u16,
    ) -> (Vec<TcpRoute>, Option<TcpRoute>) {
        let mut routes = Vec::new();
        let mut last = None;
        for rule in rules {
            let applying: Vec<_> = rule
                .matches
                .iter()
                .filter(|element| element.applies_statically(client, port))
                .collect();
            let has_no_subnets = applying
                .iter()
                .any(|element| element.destination_subnets.is_empty());
            if rule.matches.is_empty() || has_no_subnets {
                last = Some(self.tcp_route(client, rule, Vec::new(), port));
                break;
            }
            for element in applying {
                for subnet in &element.destination_subnets {
                    routes.push(self.tcp_route(client, rule, vec![*subnet], port));
                }
            }
        }
        // Of two rules with one subnet the first wins, as `sort_by_key` keeps their order.
        routes.sort_by_key(|route: &TcpRoute| {
            let len = route
                .destination_subnets
                .first()
                .map_or(0, IpNet::prefix_len);
            std::cmp::Reverse(len)
        });
        (routes, last)
    }

    /// The service itself, whatever the client dialled.
    pub(crate) fn default_tcp_route(
        &mut self,
        client: &ClientView,
        service: &Service,
        port: u16,
    ) -> TcpRoute {
        TcpRoute {
            destination_subnets: Vec::new(),
            destinations: vec![L4Destination {
                weight: 1,
                cluster: self.clusters.resolve(client, &service.host, port, ""),
            }],
            total_weight: 1,
            provenance: None,
        }
    }

    /// Routes for TLS bytes on `port` of `service`: longest subnet first, then the most
    /// specific server name. Without any rule that applies, the service itself: by its
    /// address where the listener is bound to it (`has_address`), else by its name.
    pub(crate) fn tls_routes(
        &mut self,
        client: &ClientView,
        rules: Option<&MeshRules>,
        service: &Service,
        port: u16,
        has_address: bool,
    ) -> Vec<TlsRoute> {
        let mut routes = Vec::new();
        for rule in rules.into_iter().flat_map(|rules| &rules.tls) {
            let applying = rule
                .matches
                .iter()
                .filter(|element| element.applies_statically(client, port));
            for element in applying {
                let names = element.sni_hosts.clone();
                routes.push(self.tls_route(client, rule, element, names, port));
            }
        }
        if routes.is_empty() {
            let sni_hosts = if has_address {
                Vec::new()
            } else {
                vec![Arc::clone(&service.host)]
            };
            let cluster = self.clusters.resolve(client, &service.host, port, "");
            routes.push(TlsRoute {
                sni_hosts,
                destination_subnets: Vec::new(),
                destinations: vec![L4Destination { weight: 1, cluster }],
                total_weight: 1,
                provenance: None,
            });
        }
        routes
    }

    /// One element of a `tls` rule, for these server names.
    pub(crate) fn tls_route(
        &mut self,
        client: &ClientView,
        rule: &L4Rule,
        element: &L4Match,
        sni_hosts: Vec<Arc<str>>,
        port: u16,
    ) -> TlsRoute {
        let (destinations, total_weight) = self.l4_destinations(client, &rule.route, port);
        if total_weight == 0 {
            self.report_no_weight(&rule.place);
        }
        TlsRoute {
            sni_hosts,
            destination_subnets: element.destination_subnets.clone(),
            destinations,
            total_weight,
            provenance: Some(rule.place.provenance()),
        }
    }

    fn tcp_route(
        &mut self,
        client: &ClientView,
        rule: &L4Rule,
        destination_subnets: Vec<IpNet>,
        port: u16,
    ) -> TcpRoute {
        let (destinations, total_weight) = self.l4_destinations(client, &rule.route, port);
        if total_weight == 0 {
            self.report_no_weight(&rule.place);
        }
        TcpRoute {
            destination_subnets,
            destinations,
            total_weight,
            provenance: Some(rule.place.provenance()),
        }
    }

    fn report_no_weight(&mut self, place: &Place) {
        self.problems.error(
            "weights",
            &place.field("route"),
            "all weights are 0; connections are closed",
        );
    }

    fn l4_destinations(
        &mut self,
        client: &ClientView,
        written: &[RouteDestination],
        port: u16,
    ) -> (Vec<L4Destination>, u32) {
        let weights = relative_weights(written.iter().map(|entry| entry.weight));
        let mut destinations = Vec::with_capacity(written.len());
        for (entry, weight) in written.iter().zip(weights) {
            let Some(destination) = entry.destination.as_ref().filter(|_| weight > 0) else {
                continue;
            };
            let cluster = self.resolve_l4(client, destination, port);
            destinations.push(L4Destination { weight, cluster });
        }
        let total = destinations.iter().map(|entry| entry.weight).sum();
        (destinations, total)
    }

    /// Without a port of its own the destination's only port is meant, where it has exactly
    /// one, else the dialled one. Source: Istio `istio_route.GetDestinationCluster`.
    pub(super) fn resolve_l4(
        &mut self,
        client: &ClientView,
        destination: &Destination,
        port: u16,
    ) -> ClusterRef {
        let number = match destination.port {
            Some(selector) => u16::try_from(selector.number).unwrap_or_default(),
            None => {
                let service = self.registry.find(client, &destination.host);
                let single = service.and_then(|service| service.single_port());
                single.map_or(port, |only| only.number)
            }
        };
        self.clusters
            .resolve(client, &destination.host, number, &destination.subset)
    }
}

/// The routes of several services on one listener: those with equal conditions only once,
/// then longest subnet and most specific server name first.
pub(crate) fn order_tls(routes: Vec<TlsRoute>) -> Vec<TlsRoute> {
    let mut seen: HashSet<(Vec<IpNet>, Option<Arc<str>>)> = HashSet::new();
    let mut ordered: Vec<TlsRoute> = Vec::with_capacity(routes.len());
    for route in routes {
        let names: Vec<Option<Arc<str>>> = if route.sni_hosts.is_empty() {
            vec![None]
        } else {
            route.sni_hosts.iter().cloned().map(Some).collect()
        };
        for name in names {
            if !seen.insert((route.destination_subnets.clone(), name.clone())) {
                continue;
            }
            ordered.push(TlsRoute {
                sni_hosts: name.into_iter().collect(),
                destination_subnets: route.destination_subnets.clone(),
                destinations: route.destinations.clone(),
                total_weight: route.total_weight,
                provenance: route.provenance.clone(),
            });
        }
    }
    let longest = |route: &TlsRoute| {
        let lens = route.destination_subnets.iter().map(IpNet::prefix_len);
        lens.max().unwrap_or(0)
    };
    ordered.sort_by(|a, b| {
        let by_name = match (a.sni_hosts.first(), b.sni_hosts.first()) {
            (Some(a), Some(b)) => host::by_specificity(a, b),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (None, None) => std::cmp::Ordering::Equal,
        };
        longest(b).cmp(&longest(a)).then(by_name)
    });
    ordered
}
