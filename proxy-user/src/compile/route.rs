//! VirtualService rules and services to virtual hosts with ordered routes. Start at
//! [`Router::virtual_host`].
//!
//! Equal virtual hosts are one `Arc`, whichever client asked first. Source: Istio
//! pilot/pkg/networking/core/route/route.go (`BuildHTTPRoutesForVirtualService`).

use std::collections::HashMap;
use std::sync::Arc;

use crate::api::{Destination, HTTPRoute};
use crate::snapshot::matchers::HttpMatch;
use crate::snapshot::policy::HeaderOps;
use crate::snapshot::routes::{
    ForwardAction, HttpRoute, RouteAction, VirtualHost, WeightedDestination,
};
use crate::snapshot::{Cluster, ClusterRef};

use super::action::{UriKind, compile_direct_response, compile_redirect};
use super::cluster::ClusterTable;
use super::forward::is_hashed;
use super::header_ops::{compile_request_ops, compile_response_ops};
use super::http_policy::compile_fault;
use super::matcher::{applies_statically, compile_match, uri_kind};
use super::mesh::MeshPolicies;
use super::registry::Registry;
use super::rule::{Place, Problems};
use super::scope::ClientView;
use super::virtual_service::{HttpRule, MatchElement, MeshRules, destinations_of};

/// Compiles rules for one client after the other.
#[derive(Debug)]
pub(crate) struct Router<'a, 'r> {
    /// Destinations become clusters here.
    pub(crate) clusters: &'a mut ClusterTable<'r>,
    /// Where services are looked up.
    pub(crate) registry: &'r Registry,
    /// What was found wrong.
    pub(crate) problems: &'a mut Problems,
    /// What acts where rules say nothing.
    pub(crate) policies: &'a MeshPolicies,
    hosts: HashMap<HostKey, Option<Arc<VirtualHost>>>,
}

/// All that a virtual host is made from.
#[derive(Debug, PartialEq, Eq, Hash)]
struct HostKey {
    host: Arc<str>,
    port: u16,
    /// The VirtualService, `None` for the service's own route.
    rules: Option<usize>,
    /// Which match elements apply to the client, in order.
    statics: Vec<bool>,
    clusters: Vec<ClusterIdentity>,
}

/// Which cluster a destination is for the client.
#[derive(Debug, PartialEq, Eq, Hash)]
enum ClusterIdentity {
    /// Address of the shared cluster.
    Known(*const Cluster),
    Missing(Arc<str>),
    NotHonoured(Arc<str>),
}

impl From<&ClusterRef> for ClusterIdentity {
    fn from(cluster: &ClusterRef) -> Self {
        match cluster {
            ClusterRef::Known(cluster) => Self::Known(Arc::as_ptr(cluster)),
            ClusterRef::Missing(name) => Self::Missing(Arc::clone(name)),
            ClusterRef::NotHonoured(name) => Self::NotHonoured(Arc::clone(name)),
        }
    }
}

impl<'a, 'r> Router<'a, 'r> {
    /// A router that has compiled nothing yet.
    pub(crate) fn new(
        clusters: &'a mut ClusterTable<'r>,
        registry: &'r Registry,
        policies: &'a MeshPolicies,
        problems: &'a mut Problems,
    ) -> Self {
        Self {
            clusters,
            registry,
            problems,
            policies,
            hosts: HashMap::new(),
        }
    }

    /// The virtual host of the service `host` on `port`: the routes of the VirtualService,
    /// or where none of them applies to the client, the service's own route.
    pub(crate) fn virtual_host(
        &mut self,
        client: &ClientView,
        rules: Option<&MeshRules>,
        host: &Arc<str>,
        port: u16,
    ) -> Arc<VirtualHost> {
        if let Some(rules) = rules
            && let Some(found) = self.rules_host(client, rules, host, port)
        {
            return found;
        }
        self.default_host(client, host, port)
    }

    /// The virtual host of the VirtualService alone, or `None` where no rule applies to
    /// the client on this port.
    pub(crate) fn rules_host(
        &mut self,
        client: &ClientView,
        rules: &MeshRules,
        host: &Arc<str>,
        port: u16,
    ) -> Option<Arc<VirtualHost>> {
        if rules.http.is_empty() {
            return None;
        }
        let elements = rules.http.iter().flat_map(|rule| &rule.matches);
        let statics = elements
            .map(|element| applies_statically(&element.spec, client, port))
            .collect();
        let clusters = rules
            .http
            .iter()
            .flat_map(|rule| destinations_of(&rule.spec))
            .map(|destination| ClusterIdentity::from(&self.resolve(client, destination, port)))
            .collect();
        let key = HostKey {
            host: Arc::clone(host),
            port,
            rules: Some(rules.index),
            statics,
            clusters,
        };
        if let Some(found) = self.hosts.get(&key) {
            return found.clone();
        }
        let owner = rules.object.meta.namespace.as_str();
        if !self.registry.ledger.charge_bytes(owner, rules.cost_bytes) {
            return None;
        }
        let routes = self.compile_rules(client, rules, port);
        let compiled = (!routes.is_empty()).then(|| {
            Arc::new(VirtualHost {
                name: Arc::from(format!("{host}:{port}")),
                routes,
                redirects_to_https: false,
                provenance: Some(Place::new(&rules.object, "http").provenance()),
            })
        });
        self.hosts.insert(key, compiled.clone());
        compiled
    }

    /// One route to the service itself.
    fn default_host(
        &mut self,
        client: &ClientView,
        host: &Arc<str>,
        port: u16,
    ) -> Arc<VirtualHost> {
        let cluster = self.clusters.resolve(client, host, port, "");
        let key = HostKey {
            host: Arc::clone(host),
            port,
            rules: None,
            statics: Vec::new(),
            clusters: vec![ClusterIdentity::from(&cluster)],
        };
        if let Some(Some(found)) = self.hosts.get(&key) {
            return Arc::clone(found);
        }
        let retry = Arc::clone(self.policies.retry(is_hashed(&cluster)));
        let destination = WeightedDestination {
            weight: 1,
            cluster,
            request_headers: HeaderOps::default(),
            response_headers: HeaderOps::default(),
            authority: None,
            provenance: None,
        };
        let route = HttpRoute {
            name: Arc::from("default"),
            matches: Vec::new(),
            action: RouteAction::Forward(ForwardAction {
                destinations: vec![destination],
                total_weight: 1,
                authority: None,
                path_rewrite: None,
            }),
            timeout: None,
            retry: Some(retry),
            fault: None,
            mirrors: Vec::new(),
            cors: None,
            request_headers: HeaderOps::default(),
            response_headers: HeaderOps::default(),
            provenance: None,
        };
        let compiled = Arc::new(VirtualHost {
            name: Arc::from(format!("{host}:{port}")),
            routes: vec![route],
            redirects_to_https: false,
            provenance: None,
        });
        self.hosts.insert(key, Some(Arc::clone(&compiled)));
        compiled
    }

    /// The cluster of a destination for a client that dialled `port`: without a port of its
    /// own a mesh client's HTTP destination has the dialled one, even where the service has
    /// exactly one other port (Istio's behaviour); a gateway's takes that one port.
    pub(super) fn resolve(
        &mut self,
        client: &ClientView,
        destination: &Destination,
        port: u16,
    ) -> ClusterRef {
        if client.gateway.is_some() {
            return self.resolve_l4(client, destination, port);
        }
        let number = destination.port.map_or(port, |selector| {
            u16::try_from(selector.number).unwrap_or_default()
        });
        self.clusters
            .resolve(client, &destination.host, number, &destination.subset)
    }

    /// The routes of a VirtualService that apply to the client on `port`, up to the first
    /// that matches everything.
    pub(crate) fn compile_rules(
        &mut self,
        client: &ClientView,
        rules: &MeshRules,
        port: u16,
    ) -> Vec<HttpRoute> {
        let mut routes = Vec::with_capacity(rules.http.len());
        for rule in &rules.http {
            let applying: Vec<&MatchElement> = rule
                .matches
                .iter()
                .filter(|element| applies_statically(&element.spec, client, port))
                .collect();
            if applying.is_empty() && !rule.matches.is_empty() {
                continue;
            }
            let before = routes.len();
            let groups = group_by_rewrite(&rule.spec, &applying);
            for (kind, elements) in groups {
                routes.extend(self.compile_route(client, rule, kind, &elements, port));
            }
            // Whatever stands behind a route that matches everything is never reached.
            if routes[before..].iter().any(is_catch_all) {
                break;
            }
        }
        routes
    }

    fn compile_route(
        &mut self,
        client: &ClientView,
        rule: &HttpRule,
        kind: UriKind,
        elements: &[&MatchElement],
        port: u16,
    ) -> Option<HttpRoute> {
        let mut matches: Vec<HttpMatch> = Vec::with_capacity(elements.len());
        for element in elements {
            matches.extend(compile_match(&element.spec, &element.place, self.problems));
            if matches.last().is_some_and(HttpMatch::is_catch_all) {
                break;
            }
        }
        if matches.is_empty() && !elements.is_empty() {
            return None;
        }
        let (spec, place) = (&rule.spec, &rule.place);
        let headers = spec.headers.as_ref();
        let request = compile_request_ops(
            headers.and_then(|headers| headers.request.as_ref()),
            &place.field("headers.request"),
            self.problems,
        );
        let response = compile_response_ops(
            headers.and_then(|headers| headers.response.as_ref()),
            &place.field("headers.response"),
            self.problems,
        );
        let mut route = HttpRoute {
            name: Arc::from(spec.name.as_str()),
            matches,
            action: RouteAction::NotHonoured(Arc::from("route")),
            timeout: None,
            retry: None,
            fault: spec
                .fault
                .as_ref()
                .and_then(|fault| compile_fault(fault, place, self.problems))
                .map(Arc::new),
            mirrors: Vec::new(),
            cors: None,
            request_headers: request.ops,
            response_headers: response,
            provenance: Some(place.provenance()),
        };
        if let Some(redirect) = &spec.redirect {
            route.action = compile_redirect(redirect, port, place, self.problems);
        } else if let Some(response) = &spec.direct_response {
            route.action = compile_direct_response(response, place, self.problems);
        } else if spec.route.is_empty() {
            return None;
        } else {
            self.forward(client, rule, kind, port, request.authority, &mut route);
        }
        Some(route)
    }
}

/// What `rewrite.uri` replaces depends on the element that matched, so a rule with elements
/// of both kinds becomes several routes, in order. Source: Istio makes one per element.
fn group_by_rewrite<'m>(
    spec: &HTTPRoute,
    elements: &[&'m MatchElement],
) -> Vec<(UriKind, Vec<&'m MatchElement>)> {
    let is_by_kind = spec
        .rewrite
        .as_ref()
        .is_some_and(|rewrite| !rewrite.uri.is_empty() && rewrite.uri_regex_rewrite.is_none());
    let mut groups: Vec<(UriKind, Vec<&MatchElement>)> = Vec::new();
    for element in elements {
        let kind = uri_kind(&element.spec);
        match groups.last_mut() {
            Some((known, group)) if *known == kind || !is_by_kind => group.push(element),
            Some(_) | None => groups.push((kind, vec![element])),
        }
    }
    if groups.is_empty() {
        groups.push((UriKind::Prefix, Vec::new()));
    }
    groups
}

/// Whether every request takes this route.
pub(crate) fn is_catch_all(route: &HttpRoute) -> bool {
    route.matches.is_empty() || route.matches.iter().any(HttpMatch::is_catch_all)
}
