//! One [`ScopeView`] per client: a base that all share, and what each sees otherwise.
//! Start at [`build`].
//!
//! A client with a Sidecar sees so little, and so differently, that its view stands alone.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::net::ScopeId;
use crate::settings::MeshSettings;
use crate::snapshot::kernel_view::{KernelKey, KernelScope, KernelView};
use crate::snapshot::listeners::{Destination, Protocol, ScopeView};
use crate::snapshot::routes::{RouteTable, TlsRoute, VirtualHost};

use super::address::{Addresses, Entry};
use super::affected::{Affected, find_affected};
use super::claims::Owner;
use super::cluster::ClusterTable;
use super::facet::{Collector, Facet, Facets, services_by_wildcard};
use super::kernel_view::{KernelClusters, KernelEntries, assemble};
use super::l4_route::order_tls;
use super::mesh::MeshPolicies;
use super::path_plan::{plan_l4, plan_port_wide, plan_tls};
use super::registry::Registry;
use super::route::Router;
use super::rule::Problems;
use super::scope::ClientView;
use super::virtual_host::route_table;
use super::virtual_service::VirtualServices;

/// What both data planes find by address.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    /// In the order of the clients.
    pub(crate) scopes: Vec<Arc<ScopeView>>,
    /// The same for the kernel.
    pub(crate) kernel: KernelView,
}

/// Domains of each port with their virtual hosts; `None` hides the base's.
type DomainsByPort<'d> = BTreeMap<u16, Vec<(&'d str, Option<Arc<VirtualHost>>)>>;

/// Everything that was compiled for one client alone.
#[derive(Default)]
struct View {
    facets: Facets,
    tables: BTreeMap<u16, Arc<RouteTable>>,
    addresses: Addresses,
}

/// A view, finished for both planes.
struct Finished {
    scope: ScopeView,
    kernel: KernelEntries,
}

/// Builds the views of `clients`.
pub(crate) fn build<'r>(
    registry: &'r Registry,
    virtual_services: &VirtualServices,
    clients: &[Arc<ClientView>],
    mesh: &MeshSettings,
    policies: &MeshPolicies,
    clusters: &mut ClusterTable<'r>,
    problems: &mut Problems,
) -> Listeners {
    let mut builder = Builder {
        collector: Collector {
            registry,
            virtual_services,
            router: Router::new(clusters, registry, policies, problems),
            by_wildcard: services_by_wildcard(registry, virtual_services),
            mesh_domain: &mesh.domain,
        },
        kernel_clusters: KernelClusters::default(),
    };
    let shared = ClientView::shared(mesh.is_registry_only);
    let base = builder.whole_view(&shared);
    let finished_base = builder.finish_whole(&shared, &base);
    let base_scope = Arc::new(finished_base.scope);
    let mut listeners = Listeners::default();
    let mut kernel_scopes = Vec::with_capacity(clients.len());
    let mut kernel_entries = Vec::with_capacity(clients.len());
    for (index, client) in clients.iter().enumerate() {
        let stands_alone =
            client.sidecar.is_some() || client.is_registry_only != shared.is_registry_only;
        let mut finished = if stands_alone {
            let view = builder.whole_view(client);
            builder.finish_whole(client, &view)
        } else {
            builder.overlay(client, &shared, &base, &base_scope)
        };
        finished.scope.id = ScopeId(u32::try_from(index).unwrap_or(u32::MAX));
        kernel_scopes.push(KernelScope {
            key: Arc::clone(&client.key),
            is_registry_only: client.is_registry_only,
        });
        kernel_entries.push((!stands_alone, finished.kernel));
        listeners.scopes.push(Arc::new(finished.scope));
    }
    listeners.kernel = assemble(
        &finished_base.kernel,
        kernel_scopes,
        kernel_entries,
        builder.kernel_clusters,
    );
    listeners
}

struct Builder<'a, 'r> {
    collector: Collector<'a, 'r>,
    kernel_clusters: KernelClusters,
}

impl Builder<'_, '_> {
    /// Everything that `client` sees, standing alone.
    fn whole_view(&mut self, client: &ClientView) -> View {
        let registry = self.collector.registry;
        let rules = &self.collector.virtual_services.all;
        if client.sidecar.is_some() {
            // A view of its own, of everything that it sees.
            let ports: usize = registry
                .visible(client)
                .map(|service| service.ports.len())
                .sum();
            let is_affordable = registry
                .ledger
                .charge_values::<Facet>(&client.namespace, ports);
            if !is_affordable {
                return View::default();
            }
        }
        let mut facets = self
            .collector
            .collect(client, registry.visible(client), rules.iter());
        if client.sidecar.is_some() {
            for (service, ports) in self.collector.services_by_rules(client).values() {
                self.collector
                    .collect_service(client, service, Some(ports), &mut facets);
            }
        }
        let mut domains: DomainsByPort<'_> = BTreeMap::new();
        for ((port, domain), host) in facets.domains.winners() {
            let of_port = domains.entry(*port).or_default();
            of_port.push((domain, Some(Arc::clone(host))));
        }
        let tables = domains
            .into_iter()
            .map(|(port, domains)| {
                let name = port.to_string();
                let table = route_table(&name, domains, None, client.is_registry_only);
                (port, Arc::new(table))
            })
            .collect();
        let addresses = self.bind(client, &facets, &tables);
        View {
            facets,
            tables,
            addresses,
        }
    }

    fn bind(
        &mut self,
        client: &ClientView,
        facets: &Facets,
        tables: &BTreeMap<u16, Arc<RouteTable>>,
    ) -> Addresses {
        let mut addresses = Addresses::default();
        for facet in &facets.list {
            let port = facet.service_port().map(|port| port.number);
            let table = port.and_then(|port| tables.get(&port));
            addresses.add(
                client,
                facet,
                table,
                &mut self.collector.router,
                &mut self.kernel_clusters,
            );
        }
        addresses
    }

    fn finish_whole(&mut self, client: &ClientView, view: &View) -> Finished {
        let mut scope = empty_scope(client);
        let mut kernel = KernelEntries::new();
        for (&(ip, port), entry) in view.addresses.exact.winners() {
            scope
                .exact
                .insert((ip, port), Some(Arc::clone(&entry.destination)));
            kernel.insert(KernelKey::Exact(ip, port), Some(entry.kernel_entry()));
        }
        for (&(net, port), entry) in view.addresses.nets.winners() {
            scope
                .cidrs
                .push((net, port, Arc::clone(&entry.destination)));
            kernel.insert(KernelKey::Cidr(net, port), Some(entry.kernel_entry()));
        }
        sort_cidrs(&mut scope);
        let nobody = HashSet::new();
        for port in wide_ports(view) {
            let Some(entry) = self.port_wide(client, port, &[(view, &nobody)], &view.tables) else {
                continue;
            };
            scope
                .port_wide
                .insert(port, Some(Arc::clone(&entry.destination)));
            kernel.insert(KernelKey::PortWide(port), Some(entry.kernel_entry()));
        }
        Finished { scope, kernel }
    }

    /// What `client` sees otherwise than the base.
    fn overlay(
        &mut self,
        client: &ClientView,
        shared: &ClientView,
        base: &View,
        base_scope: &Arc<ScopeView>,
    ) -> Finished {
        let Affected {
            services,
            rules,
            owners,
        } = find_affected(&self.collector, client, shared);
        let facets = self.collector.collect(client, &services, &rules);
        let (own_tables, tables) = overlay_tables(client, &facets, base, &owners);
        let addresses = self.bind(client, &facets, &tables);
        let own = View {
            facets,
            tables,
            addresses,
        };
        let mut scope = empty_scope(client);
        scope.base = Some(Arc::clone(base_scope));
        scope.port_tables = own_tables;
        let mut kernel = KernelEntries::new();
        let exact = base.addresses.exact.overlay(&own.addresses.exact, &owners);
        for (&(ip, port), change) in exact {
            if is_equal(change.own, change.base) {
                continue;
            }
            let destination = change.own.map(|entry| Arc::clone(&entry.destination));
            scope.exact.insert((ip, port), destination);
            kernel.insert(
                KernelKey::Exact(ip, port),
                change.own.map(Entry::kernel_entry),
            );
        }
        let mut has_other_cidrs = false;
        for (&(net, port), change) in base.addresses.nets.overlay(&own.addresses.nets, &owners) {
            if !is_equal(change.own, change.base) {
                has_other_cidrs = true;
                kernel.insert(
                    KernelKey::Cidr(net, port),
                    change.own.map(Entry::kernel_entry),
                );
            }
        }
        if has_other_cidrs {
            replace_cidrs(&mut scope, base, &own, &owners);
        }
        self.overlay_port_wide(
            client,
            base,
            &own,
            &owners,
            base_scope,
            &mut scope,
            &mut kernel,
        );
        Finished { scope, kernel }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the middle of `overlay`, which needs all that it has"
    )]
    fn overlay_port_wide(
        &mut self,
        client: &ClientView,
        base: &View,
        own: &View,
        owners: &HashSet<Owner>,
        base_scope: &ScopeView,
        scope: &mut ScopeView,
        kernel: &mut KernelEntries,
    ) {
        let mut ports = wide_ports(own);
        ports.extend(base.facets.http_ports.keys_of(owners));
        ports.extend(base.addresses.wide_tcp.keys_of(owners));
        ports.extend(base.addresses.wide_tls.keys_of(owners));
        let nobody = HashSet::new();
        for port in ports {
            let views = [(base, owners), (own, &nobody)];
            let entry = self.port_wide(client, port, &views, &own.tables);
            let before = base_scope.port_wide.get(&port).and_then(Option::as_ref);
            let is_same = match (&entry, before) {
                (Some(entry), Some(before)) => {
                    let before = Entry {
                        destination: Arc::clone(before),
                        ..entry.clone()
                    };
                    entry.is_same_as(&before)
                }
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            if is_same {
                continue;
            }
            let destination = entry.as_ref().map(|entry| Arc::clone(&entry.destination));
            scope.port_wide.insert(port, destination);
            let entry = entry.as_ref().map(Entry::kernel_entry);
            kernel.insert(KernelKey::PortWide(port), entry);
        }
    }

    /// What stands on a port whatever the address: HTTP by Host, TLS by name, and TCP of the
    /// oldest ServiceEntry without addresses. `views`: each with the owners that do not count.
    fn port_wide(
        &mut self,
        client: &ClientView,
        port: u16,
        views: &[(&View, &HashSet<Owner>)],
        tables: &BTreeMap<u16, Arc<RouteTable>>,
    ) -> Option<Entry> {
        let is_http = views
            .iter()
            .any(|(view, left_out)| view.facets.http_ports.is_claimed(&port, left_out));
        let mut tcp = Vec::new();
        let mut tls = Vec::new();
        for (view, left_out) in views {
            tcp.extend(view.addresses.wide_tcp.all(&port, left_out));
            tls.extend(view.addresses.wide_tls.all(&port, left_out));
        }
        tcp.sort_by_key(|(rank, _)| *rank);
        tls.sort_by_key(|(rank, _)| *rank);
        let tcp = tcp
            .first()
            .map(|(_, routes)| (*routes).clone())
            .unwrap_or_default();
        let tls: Vec<TlsRoute> = tls
            .iter()
            .flat_map(|(_, routes)| (*routes).clone())
            .collect();
        let tls = order_tls(tls);
        let (planned, protocol) = match (is_http, tls.is_empty(), tcp.is_empty()) {
            (true, true, true) => (plan_port_wide(client.is_registry_only), Protocol::Http),
            (true, _, _) => (plan_port_wide(client.is_registry_only), Protocol::Auto),
            (false, false, true) => (
                plan_tls(None, &tls, &mut self.kernel_clusters),
                Protocol::Tls,
            ),
            (false, false, false) => (plan_port_wide(client.is_registry_only), Protocol::Auto),
            (false, true, false) => (
                plan_l4(None, &tcp, &mut self.kernel_clusters),
                Protocol::Tcp,
            ),
            (false, true, true) => return None,
        };
        let http = if is_http {
            tables.get(&port).cloned()
        } else {
            None
        };
        let destination = Destination {
            service: None,
            port,
            protocol,
            http,
            tls,
            tcp,
            plan: planned.path,
            provenance: None,
        };
        Some(Entry {
            destination: Arc::new(destination),
            kernel: planned.kernel,
            is_routed_by_kubernetes: true,
        })
    }
}

fn is_equal(own: Option<&Entry>, base: Option<&Entry>) -> bool {
    match (own, base) {
        (Some(own), Some(base)) => own.is_same_as(base),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

fn empty_scope(client: &ClientView) -> ScopeView {
    ScopeView {
        key: Arc::clone(&client.key),
        namespace: Arc::clone(&client.namespace),
        is_registry_only: client.is_registry_only,
        ..ScopeView::default()
    }
}

fn sort_cidrs(scope: &mut ScopeView) {
    scope
        .cidrs
        .sort_by(|a, b| (b.0.prefix_len(), a.0, a.1).cmp(&(a.0.prefix_len(), b.0, b.1)));
}

fn wide_ports(view: &View) -> BTreeSet<u16> {
    let http = view.facets.http_ports.keys();
    let tcp = view.addresses.wide_tcp.keys();
    let tls = view.addresses.wide_tls.keys();
    http.chain(tcp).chain(tls).copied().collect()
}

/// CIDRs cannot be hidden one by one: the scope gets a list of its own.
fn replace_cidrs(scope: &mut ScopeView, base: &View, own: &View, owners: &HashSet<Owner>) {
    let (base, own) = (&base.addresses.nets, &own.addresses.nets);
    let nobody = HashSet::new();
    let keys: BTreeSet<_> = base.keys().chain(own.keys()).copied().collect();
    for key in keys {
        let left = base.all(&key, owners).into_iter();
        let winner = left
            .chain(own.all(&key, &nobody))
            .min_by_key(|(rank, _)| *rank);
        if let Some((_, entry)) = winner {
            let (net, port) = key;
            scope
                .cidrs
                .push((net, port, Arc::clone(&entry.destination)));
        }
    }
    scope.replaces_cidrs = true;
    sort_cidrs(scope);
}

/// The tables that are the scope's own, and for every port the one that destinations name:
/// the base's, which the scope's own stands in for, else the scope's own.
fn overlay_tables(
    client: &ClientView,
    facets: &Facets,
    base: &View,
    owners: &HashSet<Owner>,
) -> (
    HashMap<u16, Arc<RouteTable>>,
    BTreeMap<u16, Arc<RouteTable>>,
) {
    let mut domains: DomainsByPort<'_> = BTreeMap::new();
    for ((port, domain), change) in base.facets.domains.overlay(&facets.domains, owners) {
        let is_same = match (change.own, change.base) {
            (Some(own), Some(base)) => Arc::ptr_eq(own, base),
            (own, base) => own.is_none() && base.is_none(),
        };
        if !is_same {
            let of_port = domains.entry(*port).or_default();
            of_port.push((domain, change.own.cloned()));
        }
    }
    let own_tables: HashMap<u16, Arc<RouteTable>> = domains
        .into_iter()
        .map(|(port, domains)| {
            let base = base.tables.get(&port).cloned();
            let name = port.to_string();
            let table = route_table(&name, domains, base, client.is_registry_only);
            (port, Arc::new(table))
        })
        .collect();
    let mut tables = base.tables.clone();
    for (port, table) in &own_tables {
        tables.entry(*port).or_insert_with(|| Arc::clone(table));
    }
    (own_tables, tables)
}
