//! Facets to destinations: what stands at which address and port. Start at [`Addresses::add`].
//!
//! Source: Istio pilot/pkg/networking/core/listener.go (`buildSidecarOutboundListener`).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::snapshot::clusters::ClusterRef;
use crate::snapshot::kernel_view::KernelPlan;
use crate::snapshot::listeners::{Destination, Protocol};
use crate::snapshot::routes::{L4Destination, RouteTable, TcpRoute, TlsRoute};

use super::claims::{Claims, Owner, Rank};
use super::facet::{Binding, Facet, binding_of};
use super::kernel_view::{KernelClusters, KernelEntry};
use super::l4_route::order_tls;
use super::ledger::Ledger;
use super::path_plan::{Planned, plan_http, plan_l4, plan_tls};
use super::registry::{Service, ServiceKind, ServicePort};
use super::route::Router;
use super::scope::ClientView;
use super::virtual_host::route_table;

/// A destination with what the kernel does about it.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// For the proxy.
    pub(crate) destination: Arc<Destination>,
    /// For the kernel.
    pub(crate) kernel: KernelPlan,
    /// Kubernetes routes the address by itself.
    pub(crate) is_routed_by_kubernetes: bool,
}

impl Entry {
    /// Both planes would do the same.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        self.kernel == other.kernel && is_same(&self.destination, &other.destination)
    }

    /// For the kernel's table.
    pub(crate) fn kernel_entry(&self) -> KernelEntry {
        let host = self.destination.service.as_deref().unwrap_or("*");
        KernelEntry {
            name: Arc::from(format!("{host}:{}", self.destination.port)),
            plan: self.kernel.clone(),
            is_routed_by_kubernetes: self.is_routed_by_kubernetes,
        }
    }
}

/// All that is found by address or by port, for one client.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    /// By address and port.
    pub(crate) exact: Claims<(IpAddr, u16), Entry>,
    /// By network and port.
    pub(crate) nets: Claims<(IpNet, u16), Entry>,
    /// TCP by the port alone.
    pub(crate) wide_tcp: Claims<u16, Vec<TcpRoute>>,
    /// TLS by the port alone.
    pub(crate) wide_tls: Claims<u16, Vec<TlsRoute>>,
}

/// The routes of one service port, before they are bound to addresses.
struct Routes {
    http: Option<Arc<RouteTable>>,
    tcp: Vec<TcpRoute>,
    tls: Vec<TlsRoute>,
}

impl Addresses {
    /// Binds one facet. `port_table`: the HTTP table of its port, if there is one.
    pub(crate) fn add(
        &mut self,
        client: &ClientView,
        facet: &Facet,
        port_table: Option<&Arc<RouteTable>>,
        router: &mut Router<'_, '_>,
        clusters: &mut KernelClusters,
    ) {
        let Some(port) = facet.service_port() else {
            return;
        };
        let service = &facet.service;
        let binding = binding_of(service);
        let routes = routes_of(client, facet, port, binding, port_table, router);
        let ledger = &router.registry.ledger;
        let mut add_at = |addresses: &mut Self, net: IpNet| {
            if is_affordable(ledger, client, facet, &routes) {
                addresses.add_at(net, facet, port, &routes, clusters);
            }
        };
        match binding {
            Binding::Addresses => {
                for net in &service.addresses {
                    add_at(self, *net);
                }
            }
            // HTTP on a headless service is found by the port, then by Host.
            Binding::EndpointAddresses if facet.protocol.is_http() => {}
            Binding::EndpointAddresses => {
                let endpoints = service.endpoints.get(facet.port);
                let ips: BTreeSet<IpAddr> = endpoints
                    .into_iter()
                    .flatten()
                    .map(|endpoint| endpoint.address.ip())
                    .collect();
                for ip in ips {
                    add_at(self, IpNet::from(ip));
                }
            }
            Binding::PortWide => {
                let rank: Rank = (0, 0, 0, service.index, 0);
                let owner = Owner::Service(service.index);
                for ip in &service.allocated {
                    add_at(self, IpNet::from(*ip));
                }
                if !routes.tcp.is_empty() {
                    self.wide_tcp.add(port.number, rank, owner, routes.tcp);
                }
                if !routes.tls.is_empty() {
                    self.wide_tls.add(port.number, rank, owner, routes.tls);
                }
            }
            Binding::HostOnly => {}
        }
    }

    fn add_at(
        &mut self,
        net: IpNet,
        facet: &Facet,
        port: &ServicePort,
        routes: &Routes,
        clusters: &mut KernelClusters,
    ) {
        let service = &facet.service;
        let is_one_address = net.prefix_len() == net.max_prefix_len();
        let (tcp, tls) = if is_one_address {
            at_address(net.addr(), &routes.tcp, &routes.tls)
        } else {
            (routes.tcp.clone(), routes.tls.clone())
        };
        let planned = plan_of(facet, port, &tcp, &tls, clusters);
        let destination = Destination {
            service: Some(Arc::clone(&service.host)),
            port: port.number,
            protocol: facet.protocol,
            http: routes.http.clone(),
            tls: order_tls(tls),
            tcp,
            plan: planned.path,
            provenance: Some(service.provenance.clone()),
        };
        let entry = Entry {
            destination: Arc::new(destination),
            kernel: planned.kernel,
            is_routed_by_kubernetes: service.kind == ServiceKind::Kubernetes,
        };
        let rank: Rank = (0, 0, 0, service.index, 0);
        let owner = Owner::Service(service.index);
        if is_one_address {
            self.exact
                .add((net.addr(), port.number), rank, owner, entry);
        } else {
            self.nets.add((net, port.number), rank, owner, entry);
        }
    }
}

/// Charges one address. The base holds it once for all clients, for the service's namespace;
/// what a client's own view adds is its namespace's, and routes are those of their rules.
fn is_affordable(ledger: &Ledger, client: &ClientView, facet: &Facet, routes: &Routes) -> bool {
    let is_base = client.namespace.is_empty();
    let service = &facet.service.namespace;
    let viewer = if is_base { service } else { &client.namespace };
    let author = match &facet.rules {
        Some(rules) => rules.object.meta.namespace.as_str(),
        None => viewer,
    };
    (!is_base || ledger.charge_addresses(service, 1))
        && ledger.charge_values::<Destination>(viewer, 1)
        && ledger.charge_values::<TcpRoute>(author, routes.tcp.len())
        && ledger.charge_values::<TlsRoute>(author, routes.tls.len())
}

fn routes_of(
    client: &ClientView,
    facet: &Facet,
    port: &ServicePort,
    binding: Binding,
    port_table: Option<&Arc<RouteTable>>,
    router: &mut Router<'_, '_>,
) -> Routes {
    let rules = facet.rules.as_deref();
    let service = &facet.service;
    let is_auto = facet.protocol == Protocol::Auto;
    let http = match &facet.host {
        // An undeclared port with an address: whatever the Host, it is this service.
        Some(host) if is_auto && binding != Binding::PortWide => {
            let name = format!("{}:{}", service.host, port.number);
            let any = [("*", Some(Arc::clone(host)))];
            Some(Arc::new(route_table(
                &name,
                any,
                None,
                client.is_registry_only,
            )))
        }
        Some(_) => port_table.cloned(),
        None => None,
    };
    let tcp = if is_auto || facet.protocol.is_tcp() {
        router.tcp_routes(client, rules, service, port.number)
    } else {
        Vec::new()
    };
    let tls = if facet.protocol.is_tls() {
        let is_bound = match binding {
            Binding::Addresses => service.vips().next().is_some(),
            Binding::EndpointAddresses => true,
            Binding::PortWide | Binding::HostOnly => false,
        };
        router.tls_routes(client, rules, service, port.number, is_bound)
    } else {
        Vec::new()
    };
    Routes { http, tcp, tls }
}

/// Of routes with subnets those that hold `ip`, in which the subnets have done their work.
fn at_address(ip: IpAddr, tcp: &[TcpRoute], tls: &[TlsRoute]) -> (Vec<TcpRoute>, Vec<TlsRoute>) {
    let holds =
        |subnets: &[IpNet]| subnets.is_empty() || subnets.iter().any(|net| net.contains(&ip));
    let first = tcp.iter().find(|route| holds(&route.destination_subnets));
    let tcp = first
        .map(|route| TcpRoute {
            destination_subnets: Vec::new(),
            ..route.clone()
        })
        .into_iter()
        .collect();
    let mut held: Vec<TlsRoute> = tls
        .iter()
        .filter(|route| holds(&route.destination_subnets))
        .cloned()
        .collect();
    let longest = |route: &TlsRoute| {
        let nets = route
            .destination_subnets
            .iter()
            .filter(|net| net.contains(&ip));
        std::cmp::Reverse(nets.map(IpNet::prefix_len).max().unwrap_or(0))
    };
    held.sort_by_key(longest);
    for route in &mut held {
        route.destination_subnets.clear();
    }
    (tcp, held)
}

fn plan_of(
    facet: &Facet,
    port: &ServicePort,
    tcp: &[TcpRoute],
    tls: &[TlsRoute],
    clusters: &mut KernelClusters,
) -> Planned {
    let service: &Service = &facet.service;
    match &facet.host {
        Some(host) => {
            let reason = if facet.protocol == Protocol::Auto {
                "undeclared port: decided by the first bytes"
            } else {
                "HTTP"
            };
            plan_http(service, port.number, reason, host, tcp, clusters)
        }
        None if facet.protocol.is_tls() => plan_tls(Some(service), tls, clusters),
        None => plan_l4(Some(service), tcp, clusters),
    }
}

fn is_same(a: &Destination, b: &Destination) -> bool {
    let http = match (&a.http, &b.http) {
        // Tables of a port are told apart by the scope, those of one service by their host.
        (Some(a), Some(b)) => match (&a.any, &b.any) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => a.name == b.name,
            (Some(_), None) | (None, Some(_)) => false,
        },
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    };
    let tcp = a.tcp.len() == b.tcp.len()
        && a.tcp.iter().zip(&b.tcp).all(|(a, b)| {
            a.destination_subnets == b.destination_subnets
                && a.provenance == b.provenance
                && are_same(&a.destinations, &b.destinations)
        });
    let tls = a.tls.len() == b.tls.len()
        && a.tls.iter().zip(&b.tls).all(|(a, b)| {
            a.sni_hosts == b.sni_hosts
                && a.destination_subnets == b.destination_subnets
                && a.provenance == b.provenance
                && are_same(&a.destinations, &b.destinations)
        });
    a.service == b.service
        && a.port == b.port
        && a.protocol == b.protocol
        && a.plan == b.plan
        && a.provenance == b.provenance
        && http
        && tcp
        && tls
}

fn are_same(a: &[L4Destination], b: &[L4Destination]) -> bool {
    let same = |a: &ClusterRef, b: &ClusterRef| match (a, b) {
        (ClusterRef::Known(a), ClusterRef::Known(b)) => Arc::ptr_eq(a, b),
        (ClusterRef::Missing(a), ClusterRef::Missing(b))
        | (ClusterRef::NotHonoured(a), ClusterRef::NotHonoured(b)) => a == b,
        (ClusterRef::Known(_) | ClusterRef::Missing(_) | ClusterRef::NotHonoured(_), _) => false,
    };
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .all(|(a, b)| a.weight == b.weight && same(&a.cluster, &b.cluster))
}
