//! Reads one VirtualService: hosts and destinations get their full names, delegates their place.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::api::{
    HTTPMatchRequest, HTTPRoute, Object, ObjectKey, ObjectSet, RouteDestination, VirtualService,
    re2,
};
use crate::settings::MeshSettings;
use crate::snapshot::matchers::HttpMatch;
use crate::snapshot::routes::{HttpRoute, WeightedDestination};

use super::delegate::merge_rule;
use super::host;
use super::ledger::{Ledger, patterns_in, patterns_of};
use super::matcher::depends_on_client;
use super::rule::{Place, Problems};
use super::virtual_service::{HttpRule, L4Match, L4Rule, MatchElement, MeshRules, destinations_of};
use super::visibility::ExportTo;

/// What reading one VirtualService needs.
pub(crate) struct RuleReader<'a> {
    /// For delegates.
    pub(crate) objects: &'a ObjectSet,
    /// Domain and default visibility.
    pub(crate) mesh: &'a MeshSettings,
    /// Asked before rules multiply by delegation.
    pub(crate) ledger: &'a Ledger,
}

impl RuleReader<'_> {
    fn export_to(&self, object: &Object<VirtualService>) -> ExportTo {
        ExportTo::parse(
            object.spec.export_to.iter().map(String::as_str),
            &object.meta.namespace,
            &self.mesh.default_virtual_service_export_to,
        )
    }

    /// One VirtualService with hosts; `index` is its place among those of the mesh.
    pub(crate) fn read(
        &self,
        object: &Arc<Object<VirtualService>>,
        index: usize,
        problems: &mut Problems,
    ) -> MeshRules {
        let spec = &object.spec;
        let hosts = spec
            .hosts
            .iter()
            .map(|host| Arc::from(self.full_name(host, object)))
            .collect();
        let mut http = Vec::with_capacity(spec.http.len());
        for (at, rule) in self.http_rules(object).into_iter().enumerate() {
            match &spec.http[at].delegate {
                Some(delegate) => {
                    let key = ObjectKey::new(
                        match delegate.namespace.as_str() {
                            "" => object.meta.namespace.clone(),
                            namespace => namespace.into(),
                        },
                        &delegate.name,
                    );
                    http.extend(self.delegated(&rule, &key, problems));
                }
                None => http.push(rule),
            }
        }
        let tls = self.tls_rules(object, problems);
        let tcp = self.tcp_rules(object, problems);
        let depends_on_client = http
            .iter()
            .flat_map(|rule| &rule.matches)
            .any(|element| depends_on_client(&element.spec))
            || tls
                .iter()
                .chain(&tcp)
                .flat_map(|rule| &rule.matches)
                .any(L4Match::depends_on_client);
        let http_destinations = http.iter().flat_map(|rule| destinations_of(&rule.spec));
        let l4_destinations = tls.iter().chain(&tcp).flat_map(|rule| {
            rule.route
                .iter()
                .filter_map(|entry| entry.destination.as_ref())
        });
        let mut destinations: BTreeMap<String, BTreeSet<u16>> = BTreeMap::new();
        for destination in http_destinations.chain(l4_destinations) {
            let port = destination.port.map_or(0, |selector| selector.number);
            destinations
                .entry(destination.host.clone())
                .or_default()
                .insert(u16::try_from(port).unwrap_or_default());
        }
        let gateways = self.gateway_names(&spec.gateways, object);
        let text = u64::from(object.source.len_bytes());
        MeshRules {
            cost_bytes: text + http.iter().map(cost_bytes).sum::<u64>(),
            index,
            gateways: gateways.into_iter().map(Arc::from).collect(),
            object: Arc::clone(object),
            hosts,
            export_to: self.export_to(object),
            depends_on_client,
            destinations,
            http,
            tls,
            tcp,
        }
    }

    /// The rules of the delegate `key` below `root`; a missing one yields nothing.
    fn delegated(
        &self,
        root: &HttpRule,
        key: &ObjectKey,
        problems: &mut Problems,
    ) -> Vec<HttpRule> {
        let root_namespace = root.place.object.meta.namespace.as_str();
        let place = root.place.field("delegate");
        let found = self
            .objects
            .virtual_services
            .get(key)
            .filter(|object| object.spec.hosts.is_empty());
        let Some(object) = found else {
            problems.warning(
                "missing-delegate",
                &place,
                format!("there is no VirtualService {key} without hosts; this rule is left out"),
            );
            return Vec::new();
        };
        if !self.export_to(object).includes(root_namespace) {
            problems.error(
                "hidden-delegate",
                &place,
                format!("VirtualService {key} is not exported to {root_namespace}; this rule is left out, add the namespace to its exportTo"),
            );
            return Vec::new();
        }
        let leaves = object.spec.http.iter();
        let elements: usize = leaves
            .map(|leaf| root.matches.len().max(1) * leaf.matches.len().max(1))
            .sum();
        let is_affordable = self
            .ledger
            .charge_values::<MatchElement>(root_namespace, elements)
            && self.ledger.charge_regexes(root_namespace, &object.spec);
        if !is_affordable {
            return Vec::new();
        }
        let mut merged = Vec::new();
        for leaf in self.http_rules(object) {
            let is_nested = !leaf.has_action();
            if is_nested {
                continue;
            }
            match merge_rule(root, &leaf) {
                Some(rule) => merged.push(rule),
                None => problems.warning(
                    "delegate-conflict",
                    &leaf.place,
                    format!(
                        "its match excludes that of {} of {}; this rule is left out there",
                        root.place.path,
                        root.place.object.reference()
                    ),
                ),
            }
        }
        merged
    }

    /// The http rules of one object, names expanded.
    fn http_rules(&self, object: &Arc<Object<VirtualService>>) -> Vec<HttpRule> {
        let rule = |(at, written): (usize, &HTTPRoute)| {
            let place = Place::new(object, format!("http[{at}]"));
            let mut spec = written.clone();
            let matches = std::mem::take(&mut spec.matches)
                .into_iter()
                .enumerate()
                .map(|(at, mut spec)| {
                    spec.gateways = self.gateway_names(&spec.gateways, object);
                    MatchElement {
                        spec,
                        place: place.entry("match", at),
                    }
                })
                .collect();
            self.expand_destinations(&mut spec, object);
            HttpRule {
                spec,
                matches,
                place,
            }
        };
        object.spec.http.iter().enumerate().map(rule).collect()
    }

    fn expand_destinations(&self, spec: &mut HTTPRoute, object: &Object<VirtualService>) {
        let in_routes = spec
            .route
            .iter_mut()
            .filter_map(|entry| entry.destination.as_mut());
        let in_mirrors = spec
            .mirrors
            .iter_mut()
            .filter_map(|entry| entry.destination.as_mut());
        for destination in in_routes.chain(in_mirrors).chain(spec.mirror.as_mut()) {
            destination.host = self.full_name(&destination.host, object);
        }
    }

    fn tls_rules(
        &self,
        object: &Arc<Object<VirtualService>>,
        problems: &mut Problems,
    ) -> Vec<L4Rule> {
        let mut rules = Vec::with_capacity(object.spec.tls.len());
        for (at, written) in object.spec.tls.iter().enumerate() {
            let place = Place::new(object, format!("tls[{at}]"));
            let mut matches = Vec::with_capacity(written.matches.len());
            for (at, element) in written.matches.iter().enumerate() {
                let place = place.entry("match", at);
                let lower = |name: &String| Arc::from(name.to_ascii_lowercase());
                matches.extend(l4_match(
                    element.sni_hosts.iter().map(lower).collect(),
                    &element.destination_subnets,
                    HTTPMatchRequest {
                        port: element.port,
                        source_labels: element.source_labels.clone(),
                        gateways: self.gateway_names(&element.gateways, object),
                        source_namespace: element.source_namespace.clone(),
                        ..HTTPMatchRequest::default()
                    },
                    &place,
                    problems,
                ));
            }
            // A rule without match is refused by validation; it must not match everything.
            if !matches.is_empty() {
                let route = self.expand_l4(&written.route, object);
                rules.push(L4Rule {
                    matches,
                    route,
                    place,
                });
            }
        }
        rules
    }

    fn tcp_rules(
        &self,
        object: &Arc<Object<VirtualService>>,
        problems: &mut Problems,
    ) -> Vec<L4Rule> {
        let mut rules = Vec::with_capacity(object.spec.tcp.len());
        for (at, written) in object.spec.tcp.iter().enumerate() {
            let place = Place::new(object, format!("tcp[{at}]"));
            let mut matches = Vec::with_capacity(written.matches.len());
            for (at, element) in written.matches.iter().enumerate() {
                matches.extend(l4_match(
                    Vec::new(),
                    &element.destination_subnets,
                    HTTPMatchRequest {
                        port: element.port,
                        source_labels: element.source_labels.clone(),
                        gateways: self.gateway_names(&element.gateways, object),
                        source_namespace: element.source_namespace.clone(),
                        ..HTTPMatchRequest::default()
                    },
                    &place.entry("match", at),
                    problems,
                ));
            }
            if written.matches.is_empty() || !matches.is_empty() {
                let route = self.expand_l4(&written.route, object);
                rules.push(L4Rule {
                    matches,
                    route,
                    place,
                });
            }
        }
        rules
    }

    fn expand_l4(
        &self,
        route: &[RouteDestination],
        object: &Object<VirtualService>,
    ) -> Vec<RouteDestination> {
        let mut route = route.to_vec();
        for destination in route
            .iter_mut()
            .filter_map(|entry| entry.destination.as_mut())
        {
            destination.host = self.full_name(&destination.host, object);
        }
        route
    }

    fn gateway_names(&self, names: &[String], object: &Object<VirtualService>) -> Vec<String> {
        let names = names.iter();
        names
            .map(|name| host::gateway_name(name, &object.meta.namespace))
            .collect()
    }

    fn full_name(&self, name: &str, object: &Object<VirtualService>) -> String {
        host::expand(name, &object.meta.namespace, &self.mesh.domain).to_ascii_lowercase()
    }
}

/// About what one rule takes in each virtual host, texts apart, bytes.
fn cost_bytes(rule: &HttpRule) -> u64 {
    let matches = rule.matches.len() * size_of::<HttpMatch>();
    let destinations = rule.spec.route.len() * size_of::<WeightedDestination>();
    let elements = rule.matches.iter();
    let in_matches = elements.flat_map(|element| patterns_in(&element.spec));
    let patterns = in_matches.chain(patterns_of(&rule.spec));
    let regexes: u64 = patterns.map(re2::weight).sum();
    (size_of::<HttpRoute>() + matches + destinations) as u64 + regexes
}

/// `None` when a subnet cannot be read: an element without it would match too much.
fn l4_match(
    sni_hosts: Vec<Arc<str>>,
    subnets: &[String],
    statics: HTTPMatchRequest,
    place: &Place,
    problems: &mut Problems,
) -> Option<L4Match> {
    let mut destination_subnets = Vec::with_capacity(subnets.len());
    for (at, text) in subnets.iter().enumerate() {
        let Some(net) = parse_subnet(text) else {
            problems.error(
                "subnet",
                &place.entry("destinationSubnets", at),
                format!("{text:?} is no address and no network such as 10.0.0.0/8; this match never applies"),
            );
            return None;
        };
        destination_subnets.push(net);
    }
    Some(L4Match {
        sni_hosts,
        destination_subnets,
        statics,
    })
}

/// An address, or a network with its prefix length.
fn parse_subnet(text: &str) -> Option<IpNet> {
    let net = text.parse::<IpNet>().ok().map(|net| net.trunc());
    net.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}
