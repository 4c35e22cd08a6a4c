//! Findings about destinations of VirtualServices that lead nowhere.
//!
//! Source: Istio's analysers, pkg/config/analysis/msg/messages.yaml
//! (`ReferencedResourceNotFound`, `VirtualServiceDestinationPortSelectorRequired`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::api::Destination;
use crate::snapshot::GatewayView;

use super::cluster::{ClusterProblem, ClusterTable};
use super::registry::Registry;
use super::rule::{Place, Problems};
use super::scope::ClientView;
use super::virtual_service::{HttpRule, L4Rule, MeshRules, VirtualServices};

/// Checks every destination and mirror: for the mesh as the VirtualService's own namespace
/// sees it, for gateways as that of the pods that serve them does.
pub(crate) fn check(
    virtual_services: &VirtualServices,
    gateways: &[Arc<GatewayView>],
    registry: &Registry,
    clusters: &ClusterTable<'_>,
    problems: &mut Problems,
) {
    let mut check_as = |rules: &Arc<MeshRules>, namespace: &str, gateway: Option<Arc<str>>| {
        let client = ClientView {
            namespace: Arc::from(namespace),
            gateway,
            ..ClientView::default()
        };
        let mut checker = Checker {
            rules,
            client,
            registry,
            clusters,
            problems,
        };
        checker.check_hosts();
        for rule in &rules.http {
            checker.check_http(rule);
        }
        for rule in rules.tls.iter().chain(&rules.tcp) {
            checker.check_l4(rule);
        }
    };
    for rules in &virtual_services.all {
        check_as(rules, &rules.object.meta.namespace, None);
    }
    for rules in &virtual_services.at_gateways {
        let serving = gateways.iter().filter_map(|view| {
            let mut names = view.gateways.iter();
            let name = names.find(|name| rules.gateways.contains(name))?;
            Some((&view.namespace, name))
        });
        let serving: BTreeMap<_, _> = serving.collect();
        for (namespace, name) in &serving {
            check_as(rules, namespace, Some(Arc::clone(name)));
        }
        if let Some(name) = rules.gateways.first().filter(|_| serving.is_empty())
            && !rules.is_for_mesh()
        {
            let namespace = &rules.object.meta.namespace;
            check_as(rules, namespace, Some(Arc::clone(name)));
        }
    }
}

struct Checker<'a> {
    rules: &'a MeshRules,
    client: ClientView,
    registry: &'a Registry,
    clusters: &'a ClusterTable<'a>,
    problems: &'a mut Problems,
}

impl Checker<'_> {
    /// A host such as `reviews.prod` is no short form of a service.
    fn check_hosts(&mut self) {
        for (at, name) in self.rules.hosts.iter().enumerate() {
            if self.registry.candidates(name).next().is_some() {
                continue;
            }
            if let Some(meant) = self.registry.meant_by(name) {
                let place = Place::new(&self.rules.object, format!("hosts[{at}]"));
                self.problems.warning(
                    "dotted-host",
                    &place,
                    format!("a name with a dot is not expanded, write {}", meant.host),
                );
            }
        }
    }

    fn check_http(&mut self, rule: &HttpRule) {
        for (at, entry) in rule.spec.route.iter().enumerate() {
            if let Some(destination) = &entry.destination {
                let place = rule.place.entry("route", at).field("destination");
                self.check_destination(destination, &place);
            }
        }
        if let Some(mirror) = &rule.spec.mirror {
            self.check_destination(mirror, &rule.place.field("mirror"));
        }
        for (at, mirror) in rule.spec.mirrors.iter().enumerate() {
            if let Some(destination) = &mirror.destination {
                let place = rule.place.entry("mirrors", at).field("destination");
                self.check_destination(destination, &place);
            }
        }
    }

    fn check_l4(&mut self, rule: &L4Rule) {
        for (at, entry) in rule.route.iter().enumerate() {
            if let Some(destination) = &entry.destination {
                let place = rule.place.entry("route", at).field("destination");
                self.check_destination(destination, &place);
            }
        }
    }

    fn check_destination(&mut self, destination: &Destination, place: &Place) {
        let name = destination.host.as_str();
        let service = self.registry.find(&self.client, name);
        let is_named = destination.port.is_some();
        let port = match (&destination.port, service) {
            (Some(selector), _) => u16::try_from(selector.number).unwrap_or_default(),
            // Which port is dialled decides; any that the service has will do here.
            (None, Some(service)) => service.ports.first().map_or(0, |port| port.number),
            (None, None) => {
                let alias = self.registry.aliases.get(name);
                alias
                    .and_then(|alias| alias.ports.first().copied())
                    .unwrap_or_default()
            }
        };
        if let Some(problem) = self
            .clusters
            .problem(&self.client, name, port, &destination.subset)
        {
            self.report(&problem, destination, place);
        } else if !is_named && let Some(service) = service {
            self.check_unnamed_port(service.ports.len(), destination, place);
        }
    }

    fn report(&mut self, problem: &ClusterProblem, destination: &Destination, place: &Place) {
        match problem {
            // What was not given may exist elsewhere.
            ClusterProblem::UnknownHost { .. } => {
                let place = place.field("host");
                self.problems
                    .warning("unknown-host", &place, problem.to_string());
            }
            ClusterProblem::PortAbsent { .. } => {
                let place = place.field("port");
                self.problems
                    .error("unknown-port", &place, problem.to_string());
            }
            ClusterProblem::NothingToResolve { .. } => {
                let place = place.field("host");
                self.problems
                    .error("no-endpoints", &place, problem.to_string());
            }
            ClusterProblem::SubsetOfDynamic { .. } => {
                let place = place.field("subset");
                self.problems
                    .error("unknown-subset", &place, problem.to_string());
            }
            ClusterProblem::SubsetUndefined { .. } => {
                let place = place.field("subset");
                let message = problem.to_string();
                if self.clusters.has_rule(&self.client, &destination.host) {
                    self.problems.error("unknown-subset", &place, message);
                } else {
                    self.problems.warning("unknown-subset", &place, message);
                }
            }
        }
    }

    /// A destination without port takes the dialled one, which the service may not have.
    fn check_unnamed_port(&mut self, port_count: usize, destination: &Destination, place: &Place) {
        let governs_itself = self
            .rules
            .hosts
            .iter()
            .any(|host| **host == *destination.host);
        if port_count > 1 && !governs_itself {
            self.problems.error(
                "port-required",
                place,
                format!(
                    "{} has several ports; without port.number the dialled port is taken, name one",
                    destination.host
                ),
            );
            return;
        }
        // A gateway takes the only port that the service has.
        if governs_itself || self.rules.http.is_empty() || self.client.gateway.is_some() {
            return;
        }
        let Some(service) = self.registry.find(&self.client, &destination.host) else {
            return;
        };
        let dialled: BTreeSet<u16> = self
            .rules
            .hosts
            .iter()
            .filter_map(|host| self.registry.find(&self.client, host))
            .flat_map(|governed| governed.ports.iter().map(|port| port.number))
            .collect();
        let missing: Vec<String> = dialled
            .into_iter()
            .filter(|port| service.port(*port).is_none())
            .map(|port| port.to_string())
            .collect();
        if !missing.is_empty() {
            self.problems.warning(
                "port-required",
                place,
                format!("{} has no port {}, where these rules act: HTTP there gets 503; name the port by port.number", destination.host, missing.join(", ")),
            );
        }
    }
}
