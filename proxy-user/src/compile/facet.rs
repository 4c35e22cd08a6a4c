//! What one client sees of each service port: its virtual host, its tcp and tls routes, and
//! the domains that lead there. Start at [`Collector::collect`].
//!
//! Source: Istio pilot/pkg/networking/core/httproute.go (`BuildSidecarOutboundVirtualHosts`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::snapshot::listeners::Protocol;
use crate::snapshot::routes::VirtualHost;

use super::claims::{Claims, Owner, Rank};
use super::registry::{Registry, Resolution, Service, ServiceKind, ServicePort};
use super::route::Router;
use super::scope::ClientView;
use super::virtual_host::{address_domain, domains_of};
use super::virtual_service::{MeshRules, VirtualServices};

/// Port on which hosts that no service has are routed.
const PORT_OF_FOREIGN_HOSTS: u16 = 80;

/// Domains by port.
pub(crate) type DomainClaims = Claims<(u16, Arc<str>), Arc<VirtualHost>>;

/// One service port as one client sees it.
#[derive(Debug)]
pub(crate) struct Facet {
    /// The service.
    pub(crate) service: Arc<Service>,
    /// Index in [`Service::ports`].
    pub(crate) port: usize,
    /// The VirtualService that applies.
    pub(crate) rules: Option<Arc<MeshRules>>,
    /// On HTTP and undeclared ports.
    pub(crate) host: Option<Arc<VirtualHost>>,
    /// What is spoken there: the port's, or what the client's Sidecar says.
    pub(crate) protocol: Protocol,
}

impl Facet {
    /// The port, which the index proves.
    pub(crate) fn service_port(&self) -> Option<&ServicePort> {
        self.service.ports.get(self.port)
    }
}

/// How connections to a service port are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Binding {
    /// By the service's addresses.
    Addresses,
    /// By the addresses of its endpoints.
    EndpointAddresses,
    /// By the port alone: a ServiceEntry without addresses.
    PortWide,
    /// By Host only.
    HostOnly,
}

/// How clients reach `service` where it is no HTTP port.
pub(crate) fn binding_of(service: &Service) -> Binding {
    match (service.resolution, service.kind) {
        (Resolution::Headless, _) => Binding::EndpointAddresses,
        (_, _) if !service.addresses.is_empty() => Binding::Addresses,
        (_, ServiceKind::ServiceEntry) => Binding::PortWide,
        (_, ServiceKind::Kubernetes) => Binding::HostOnly,
    }
}

/// What was collected for one client.
#[derive(Debug, Default)]
pub(crate) struct Facets {
    /// In the order of services and their ports.
    pub(crate) list: Vec<Facet>,
    /// Who has which domain on which port.
    pub(crate) domains: DomainClaims,
    /// Ports that some service declares as HTTP.
    pub(crate) http_ports: Claims<u16, ()>,
}

/// Services that each wildcard host of a VirtualService covers.
pub(crate) type ServicesByWildcard = HashMap<Arc<str>, Vec<usize>>;

/// Collects facets for one client after the other.
#[derive(Debug)]
pub(crate) struct Collector<'a, 'r> {
    /// All services.
    pub(crate) registry: &'r Registry,
    /// All VirtualServices of the mesh.
    pub(crate) virtual_services: &'a VirtualServices,
    /// Compiles rules.
    pub(crate) router: Router<'a, 'r>,
    /// For hosts of VirtualServices with a star.
    pub(crate) by_wildcard: ServicesByWildcard,
    /// Domain of Kubernetes services.
    pub(crate) mesh_domain: &'a str,
}

/// Which services each wildcard host covers, whoever sees them.
pub(crate) fn services_by_wildcard(
    registry: &Registry,
    virtual_services: &VirtualServices,
) -> ServicesByWildcard {
    let mut by_wildcard: ServicesByWildcard = HashMap::new();
    for service in &registry.services {
        for star in virtual_services.wildcards_over(&service.host) {
            by_wildcard.entry(star).or_default().push(service.index);
        }
    }
    by_wildcard
}

impl Collector<'_, '_> {
    /// Facets of `services` (each the definition that `client` sees), and the hosts of
    /// `rules` that no service has.
    pub(crate) fn collect<'s>(
        &mut self,
        client: &ClientView,
        services: impl IntoIterator<Item = &'s Arc<Service>>,
        rules: impl IntoIterator<Item = &'s Arc<MeshRules>>,
    ) -> Facets {
        let mut facets = Facets::default();
        for service in services {
            self.collect_service(client, service, None, &mut facets);
        }
        for rules in rules {
            if rules.bucket(client, None).is_some() {
                self.collect_foreign_hosts(client, rules, &mut facets.domains);
            }
        }
        facets
    }

    /// The facets of one service on ports that the client imports, or on those of `only`.
    pub(crate) fn collect_service(
        &mut self,
        client: &ClientView,
        service: &Arc<Service>,
        only: Option<&BTreeSet<u16>>,
        facets: &mut Facets,
    ) {
        let everywhere = client
            .sidecar
            .is_none()
            .then(|| self.virtual_services.select(client, &service.host, None));
        let everywhere = everywhere.map(|rules| rules.cloned());
        for (index, port) in service.ports.iter().enumerate() {
            let is_imported = match only {
                Some(ports) => ports.contains(&port.number),
                None => client.imports_port(service, port.number),
            };
            let declared = client.protocol_of(port.number);
            let protocol = declared.unwrap_or(port.protocol);
            let is_udp = port.protocol == Protocol::Udp || protocol == Protocol::Udp;
            if is_udp || !is_imported {
                continue;
            }
            // Each listener of a Sidecar has VirtualServices of its own.
            let rules = match &everywhere {
                Some(rules) => rules.clone(),
                None => {
                    let virtual_services = self.virtual_services;
                    let found = virtual_services.select(client, &service.host, Some(port.number));
                    found.cloned()
                }
            };
            let has_http = protocol.is_http() || protocol == Protocol::Auto;
            let host = has_http.then(|| {
                self.router
                    .virtual_host(client, rules.as_deref(), &service.host, port.number)
            });
            if let Some(host) = &host {
                self.claim_domains(client, service, port.number, rules.as_deref(), host, facets);
                let is_sniffed_port_wide = binding_of(service) == Binding::PortWide;
                if protocol.is_http() || is_sniffed_port_wide {
                    let owner = Owner::Service(service.index);
                    facets
                        .http_ports
                        .add(port.number, Rank::default(), owner, ());
                }
            }
            facets.list.push(Facet {
                service: Arc::clone(service),
                port: index,
                rules,
                host,
                protocol,
            });
        }
        self.collect_dead_ports(client, service, only, facets);
    }

    /// Istio: an entry that stands behind another one with the same host still puts the host
    /// on the route table of its own port, where no cluster answers (503 NC).
    fn collect_dead_ports(
        &mut self,
        client: &ClientView,
        service: &Arc<Service>,
        only: Option<&BTreeSet<u16>>,
        facets: &mut Facets,
    ) {
        for dead in &service.dead_ports {
            let is_http = dead.protocol.is_http() || dead.protocol == Protocol::Auto;
            let is_imported = only.is_none() && client.imports_port(service, dead.number);
            if !is_http || !is_imported || !dead.export_to.includes(&client.namespace) {
                continue;
            }
            let listener = client.sidecar.is_some().then_some(dead.number);
            let rules = self
                .virtual_services
                .select(client, &service.host, listener);
            let rules = rules.cloned();
            let rules = rules.as_deref();
            let host = self
                .router
                .virtual_host(client, rules, &service.host, dead.number);
            self.claim_domains(client, service, dead.number, rules, &host, facets);
            let owner = Owner::Service(service.index);
            facets
                .http_ports
                .add(dead.number, Rank::default(), owner, ());
        }
    }

    /// Services that the client's Sidecar does not import, but that rules which it does
    /// import lead to, with the ports that they name; a listener of one port leads to that
    /// port alone. Source: Istio pilot/pkg/model/sidecar.go
    /// (`serviceMatchingVirtualServicePorts`, `serviceMatchingListenerPort`).
    pub(crate) fn services_by_rules(
        &self,
        client: &ClientView,
    ) -> BTreeMap<usize, (Arc<Service>, BTreeSet<u16>)> {
        let mut found: BTreeMap<usize, (Arc<Service>, BTreeSet<u16>)> = BTreeMap::new();
        for rules in &self.virtual_services.all {
            if rules.bucket(client, None).is_none() {
                continue;
            }
            for (host, named) in &rules.destinations {
                let imported = self.registry.find_imported(client, host);
                let Some(service) = imported.or_else(|| self.registry.find(client, host)) else {
                    continue;
                };
                let ports = service.ports.iter().map(|port| port.number);
                let ports = ports.filter(|port| {
                    let is_asked_for = client.protocol_of(*port).is_some()
                        || named.contains(&0)
                        || named.contains(port);
                    is_asked_for
                        && !client.imports_port(service, *port)
                        && rules.bucket(client, Some(*port)).is_some()
                });
                let ports: BTreeSet<u16> = ports.collect();
                if !ports.is_empty() {
                    let entry = found
                        .entry(service.index)
                        .or_insert_with(|| (Arc::clone(service), BTreeSet::new()));
                    entry.1.extend(ports);
                }
            }
        }
        found
    }

    fn claim_domains(
        &mut self,
        client: &ClientView,
        service: &Arc<Service>,
        port: u16,
        rules: Option<&MeshRules>,
        host: &Arc<VirtualHost>,
        facets: &mut Facets,
    ) {
        let owner = Owner::Service(service.index);
        let bucket = rules.and_then(|rules| rules.bucket(client, Some(port)));
        // VirtualServices' hosts come before plain services.
        let rank = |is_short_form: bool, bucket: Option<u8>, rules: Option<usize>| -> Rank {
            let has_rules = host.provenance.is_some();
            (
                u8::from(is_short_form),
                u8::from(!has_rules),
                bucket.unwrap_or_default(),
                rules.unwrap_or(service.index),
                service.index,
            )
        };
        let own_rank = |is_short| rank(is_short, bucket, rules.map(|rules| rules.index));
        let is_headless = service.resolution == Resolution::Headless;
        let domains = domains_of(
            &service.host,
            &client.namespace,
            self.mesh_domain,
            is_headless,
        );
        for domain in domains {
            let key = (port, Arc::from(domain.name));
            let rank = own_rank(domain.is_short_form);
            facets.domains.add(key, rank, owner, Arc::clone(host));
        }
        for address in service.vips().chain(service.allocated.iter().copied()) {
            let key = (port, Arc::from(address_domain(address)));
            // Of two services with one address the older has it.
            let rank = (1, 0, 0, service.index, 0);
            facets.domains.add(key, rank, owner, Arc::clone(host));
        }
        for alias in &service.aliases {
            if !alias.export_to.includes(&client.namespace) {
                continue;
            }
            let virtual_services = self.virtual_services;
            let alias_rules = virtual_services
                .select(client, &alias.host, Some(port))
                .cloned();
            let acting = alias_rules.filter(|_| alias.ports.contains(&port));
            let alias_host = acting
                .as_deref()
                .and_then(|rules| self.router.rules_host(client, rules, &alias.host, port));
            let host = alias_host.as_ref().unwrap_or(host);
            let domains = domains_of(&alias.host, &client.namespace, self.mesh_domain, false);
            for domain in domains {
                let key = (port, Arc::from(domain.name));
                let rank = own_rank(domain.is_short_form);
                facets.domains.add(key, rank, owner, Arc::clone(host));
            }
        }
    }

    /// Hosts of a VirtualService that no service has on a port: they are routed on ports
    /// where the same VirtualService has a service, and on port 80.
    fn collect_foreign_hosts(
        &mut self,
        client: &ClientView,
        rules: &Arc<MeshRules>,
        domains: &mut DomainClaims,
    ) {
        if rules.http.is_empty() {
            return;
        }
        let matched = self.matched_hosts_by_port(client, rules);
        let mut ports: BTreeSet<u16> = matched.keys().copied().collect();
        ports.insert(PORT_OF_FOREIGN_HOSTS);
        for port in ports {
            let Some(bucket) = rules.bucket(client, Some(port)) else {
                continue;
            };
            for (index, host) in rules.hosts.iter().enumerate() {
                let is_matched = matched
                    .get(&port)
                    .is_some_and(|hosts| hosts.contains(&index));
                let owner = self.virtual_services.owner_of(client, host, Some(port));
                let is_own = owner.is_some_and(|owner| owner.index == rules.index);
                if is_matched || !is_own {
                    continue;
                }
                let Some(compiled) = self.router.rules_host(client, rules, host, port) else {
                    break;
                };
                let key = (port, Arc::clone(host));
                let rank = (0, 0, bucket, rules.index, index);
                domains.add(key, rank, Owner::Rules(rules.index), compiled);
            }
        }
    }

    /// For each HTTP or undeclared port of services that the VirtualService governs, which of
    /// its hosts they have.
    fn matched_hosts_by_port(
        &self,
        client: &ClientView,
        rules: &MeshRules,
    ) -> BTreeMap<u16, BTreeSet<usize>> {
        let mut matched: BTreeMap<u16, BTreeSet<usize>> = BTreeMap::new();
        for (index, host) in rules.hosts.iter().enumerate() {
            let exact = self.registry.find_imported(client, host);
            let below = self
                .by_wildcard
                .get(host)
                .map(Vec::as_slice)
                .unwrap_or_default();
            let below = below
                .iter()
                .filter_map(|&service| self.registry.services.get(service))
                .filter(|service| {
                    let seen = self.registry.find_imported(client, &service.host);
                    seen.is_some_and(|seen| Arc::ptr_eq(seen, service))
                });
            for service in exact.into_iter().chain(below) {
                let is_below = *service.host != **host;
                for port in &service.ports {
                    let protocol = client.protocol_of(port.number).unwrap_or(port.protocol);
                    let has_http = protocol.is_http() || protocol == Protocol::Auto;
                    let governs = || {
                        let virtual_services = self.virtual_services;
                        let found =
                            virtual_services.select(client, &service.host, Some(port.number));
                        found.is_some_and(|found| found.index == rules.index)
                    };
                    if has_http && (!is_below || governs()) {
                        matched.entry(port.number).or_default().insert(index);
                    }
                }
            }
            if let Some(alias) = self.registry.aliases.get(host) {
                for port in &alias.ports {
                    matched.entry(*port).or_default().insert(index);
                }
            }
        }
        matched
    }
}
