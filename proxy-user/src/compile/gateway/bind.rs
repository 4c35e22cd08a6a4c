//! VirtualServices bound to servers: route tables, tcp and tls routes. Start at
//! [`Binder::listener`].
//!
//! Source: Istio, pilot/pkg/networking/core/gateway.go (`buildGatewayHTTPRouteConfig`,
//! `buildGatewayNetworkFiltersFromTCPRoutes`, `buildGatewayNetworkFiltersFromTLSRoutes`,
//! `builtAutoPassthroughFilterChains`).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::compile::l4_route::order_tls;
use crate::compile::registry::{Registry, Service};
use crate::compile::route::{Router, is_catch_all};
use crate::compile::rule::Place;
use crate::compile::scope::ClientView;
use crate::compile::virtual_host::route_table;
use crate::compile::virtual_service::{MeshRules, VirtualServices};
use crate::compile::{host, provenance};
use crate::snapshot::Provenance;
use crate::snapshot::gateways::{GatewayChain, GatewayListener, GatewayRoutes, ServerTls};
use crate::snapshot::listeners::Protocol;
use crate::snapshot::routes::{
    HttpRoute, L4Destination, RouteTable, TcpRoute, TlsRoute, VirtualHost,
};

use super::merge::{Listener, ServerKind, ServerRef, intersection};
use super::name_of;
use super::tls::server_tls;

/// Binds the servers of one workload.
pub(super) struct Binder<'b, 'a, 'r> {
    /// For clusters that server names mean by themselves.
    pub(super) registry: &'b Registry,
    /// Those that name gateways.
    pub(super) virtual_services: &'b VirtualServices,
    /// As which services and rules are looked up.
    pub(super) workload: &'b ClientView,
    /// Compiles rules.
    pub(super) router: &'b mut Router<'a, 'r>,
}

/// A VirtualService at a server.
struct Bound<'b> {
    rules: &'b Arc<MeshRules>,
    /// The narrower of each pair of its hosts and the server's.
    domains: Vec<String>,
}

/// A virtual host while the VirtualServices that have its domain come together.
#[derive(Default)]
struct Draft {
    routes: Vec<HttpRoute>,
    /// VirtualService and Gateway of what is in `routes`.
    from: Vec<(usize, Arc<str>)>,
    redirects_to_https: bool,
    provenance: Option<Provenance>,
}

impl<'b> Binder<'b, '_, '_> {
    /// The listener with all that its servers lead to.
    pub(super) fn listener(&mut self, listener: &Listener<'b>) -> GatewayListener {
        let is_tls = listener.is_tls();
        let chains = if is_tls {
            let servers = listener.servers.iter();
            servers.map(|server| self.tls_chain(server)).collect()
        } else {
            self.plain_chain(listener).into_iter().collect()
        };
        GatewayListener {
            port: listener.servers.first().map_or(0, |server| server.port),
            target_port: listener.target_port,
            bind: Arc::from(listener.bind),
            is_tls,
            chains,
        }
    }

    /// All servers of a plain port: HTTP shares one table, TCP is alone.
    fn plain_chain(&mut self, listener: &Listener<'b>) -> Option<GatewayChain> {
        let first = listener.servers.first()?;
        let routes = if first.kind == ServerKind::Http {
            let name = match listener.bind {
                "" => format!("http.{}", first.port),
                bind => format!("http.{}.{bind}", first.port),
            };
            let servers: Vec<&ServerRef<'_>> = listener.servers.iter().collect();
            GatewayRoutes::Http(Arc::new(self.http_table(&name, &servers)))
        } else {
            GatewayRoutes::Tcp(self.tcp_routes(first))
        };
        Some(chain(first, Vec::new(), None, routes))
    }

    fn tls_chain(&mut self, server: &ServerRef<'b>) -> GatewayChain {
        let sni_hosts = server.hosts().map(Arc::from).collect();
        let routes = match server.kind {
            ServerKind::Passthrough => GatewayRoutes::Tls(self.tls_routes(server)),
            ServerKind::AutoPassthrough => GatewayRoutes::Tls(self.cluster_routes(server)),
            ServerKind::HttpInTls => {
                let port_name = server.server.port.as_ref().map_or("", |port| &port.name);
                let gateway = &server.gateway.meta;
                let name = format!(
                    "https.{}.{port_name}.{}.{}",
                    server.port, gateway.name, gateway.namespace
                );
                GatewayRoutes::Http(Arc::new(self.http_table(&name, &[server])))
            }
            ServerKind::TcpInTls | ServerKind::Tcp | ServerKind::Http => {
                GatewayRoutes::Tcp(self.tcp_routes(server))
            }
        };
        let tls = server.server.tls.as_ref();
        let tls = tls.and_then(|tls| server_tls(tls, &self.workload.namespace));
        chain(server, sni_hosts, tls.map(Arc::new), routes)
    }

    /// The workload as the client of one Gateway's rules.
    fn client_of(&self, server: &ServerRef<'_>) -> ClientView {
        ClientView {
            gateway: Some(name_of(server.gateway)),
            ..self.workload.clone()
        }
    }

    /// VirtualServices bound to the server: those exported privately first, then by age.
    fn bound(&self, server: &ServerRef<'_>) -> Vec<Bound<'b>> {
        let name = name_of(server.gateway);
        let all: &'b [Arc<MeshRules>] = &self.virtual_services.at_gateways;
        let mut bound: Vec<(u8, Bound<'b>)> = Vec::new();
        for rules in all.iter().filter(|rules| rules.gateways.contains(&name)) {
            let own = rules.object.meta.namespace.as_str();
            let Some(bucket) = rules.export_to.bucket(own, &self.workload.namespace) else {
                continue;
            };
            let hosts = rules.hosts.iter().map(|host| &**host);
            let domains = intersection(&server.hosts_for(own), hosts);
            if !domains.is_empty() {
                bound.push((bucket, Bound { rules, domains }));
            }
        }
        bound.sort_by_key(|(bucket, _)| *bucket);
        bound.into_iter().map(|(_, bound)| bound).collect()
    }

    /// Virtual hosts exist for the intersections only; any other Host is a 404.
    fn http_table(&mut self, name: &str, servers: &[&ServerRef<'b>]) -> RouteTable {
        let mut drafts: BTreeMap<String, Draft> = BTreeMap::new();
        for server in servers {
            let client = self.client_of(server);
            let redirects = server.server.tls.as_ref();
            let redirects = redirects.is_some_and(|tls| tls.https_redirect);
            for Bound { rules, domains } in self.bound(server) {
                for domain in domains {
                    self.add_routes(&client, server, rules, &domain, redirects, &mut drafts);
                }
            }
            if redirects {
                for domain in server.hosts() {
                    drafts.entry(domain).or_default().redirects_to_https = true;
                }
            }
        }
        let port = servers.first().map_or(0, |server| server.port);
        drafts.entry("*".to_owned()).or_default();
        let hosts: Vec<(String, Arc<VirtualHost>)> = drafts
            .into_iter()
            .map(|(domain, draft)| {
                let host = Arc::new(draft.finish(&domain, port));
                (domain, host)
            })
            .collect();
        let domains = hosts
            .iter()
            .map(|(domain, host)| (domain.as_str(), Some(Arc::clone(host))));
        route_table(name, domains, None, false)
    }

    fn add_routes(
        &mut self,
        client: &ClientView,
        server: &ServerRef<'_>,
        rules: &Arc<MeshRules>,
        domain: &str,
        redirects: bool,
        drafts: &mut BTreeMap<String, Draft>,
    ) {
        let source = (rules.index, client.gateway.clone().unwrap_or_default());
        let is_known = drafts
            .get(domain)
            .is_some_and(|draft| draft.from.contains(&source));
        // Each domain has routes of its own, which the VirtualService's namespace pays for.
        let ledger = &self.registry.ledger;
        let namespace = rules.object.meta.namespace.as_str();
        let routes = if is_known || !ledger.charge_bytes(namespace, rules.cost_bytes) {
            Vec::new()
        } else {
            self.router.compile_rules(client, rules, server.port)
        };
        if routes.is_empty() && !is_known {
            return;
        }
        let draft = drafts.entry(domain.to_owned()).or_default();
        draft.redirects_to_https |= redirects;
        if !is_known {
            draft.from.push(source);
            draft.routes.extend(routes);
            let place = || Place::new(&rules.object, "http").provenance();
            draft.provenance.get_or_insert_with(place);
        }
    }

    fn tcp_routes(&mut self, server: &ServerRef<'b>) -> Vec<TcpRoute> {
        let client = self.client_of(server);
        let bound = self.bound(server);
        let rules = bound.iter().flat_map(|bound| &bound.rules.tcp);
        let (mut routes, last) = self.router.tcp_rule_routes(&client, rules, server.port);
        routes.extend(last);
        routes
    }

    /// The server's hosts limit the names that rules ask for.
    fn tls_routes(&mut self, server: &ServerRef<'b>) -> Vec<TlsRoute> {
        let client = self.client_of(server);
        let mut routes = Vec::new();
        for Bound { rules, .. } in self.bound(server) {
            let admitted = server.hosts_for(&rules.object.meta.namespace);
            for rule in &rules.tls {
                let applying = rule
                    .matches
                    .iter()
                    .filter(|element| element.applies_statically(&client, server.port));
                for element in applying {
                    let wanted = element.sni_hosts.iter().map(|name| &**name);
                    let names = intersection(&admitted, wanted);
                    if names.is_empty() {
                        continue;
                    }
                    let names = names.into_iter().map(Arc::from).collect();
                    let route = self
                        .router
                        .tls_route(&client, rule, element, names, server.port);
                    routes.push(route);
                }
            }
        }
        order_tls(routes)
    }

    /// `outbound_.port_.subset_.host` for each cluster of the mesh that the server admits.
    fn cluster_routes(&mut self, server: &ServerRef<'b>) -> Vec<TlsRoute> {
        let client = self.client_of(server);
        let registry = self.registry;
        let mut routes = Vec::new();
        for service in registry.visible(&client).filter(|s| !s.is_external) {
            let mut admitted = server.hosts_for(&service.namespace).into_iter();
            if !admitted.any(|name| host::is_subset_of(&service.host, &name)) {
                continue;
            }
            let ports = service.ports.iter();
            for port in ports.filter(|port| port.protocol != Protocol::Udp) {
                routes.extend(self.cluster_routes_of(&client, service, port.number));
            }
        }
        order_tls(routes)
    }

    fn cluster_routes_of(
        &mut self,
        client: &ClientView,
        service: &Service,
        port: u16,
    ) -> Vec<TlsRoute> {
        let mut subsets = self.router.clusters.subsets_of(client, service);
        subsets.push(String::new());
        let host = &service.host;
        subsets
            .iter()
            .map(|subset| TlsRoute {
                sni_hosts: vec![Arc::from(format!("outbound_.{port}_.{subset}_.{host}"))],
                destination_subnets: Vec::new(),
                destinations: vec![L4Destination {
                    weight: 1,
                    cluster: self.router.clusters.resolve(client, host, port, subset),
                }],
                total_weight: 1,
                provenance: None,
            })
            .collect()
    }
}

impl Draft {
    fn finish(self, domain: &str, port: u16) -> VirtualHost {
        // Istio's name for what answers 404 where nothing is bound.
        let name = if self.from.is_empty() && !self.redirects_to_https {
            format!("blackhole:{port}")
        } else {
            format!("{domain}:{port}")
        };
        // Several VirtualServices have the domain: what matches everything comes last.
        let (last, mut routes): (Vec<_>, Vec<_>) = self.routes.into_iter().partition(is_catch_all);
        routes.extend(last);
        VirtualHost {
            name: Arc::from(name),
            routes,
            redirects_to_https: self.redirects_to_https,
            provenance: self.provenance,
        }
    }
}

fn chain(
    server: &ServerRef<'_>,
    sni_hosts: Vec<Arc<str>>,
    tls: Option<Arc<ServerTls>>,
    routes: GatewayRoutes,
) -> GatewayChain {
    let port_name = server.server.port.as_ref().map_or("", |port| &port.name);
    let name = match server.server.name.as_str() {
        "" => port_name,
        name => name,
    };
    GatewayChain {
        name: Arc::from(name),
        protocol: server.protocol,
        sni_hosts,
        tls,
        routes,
        provenance: provenance(server.gateway, &format!("spec.{}", server.field())),
    }
}
