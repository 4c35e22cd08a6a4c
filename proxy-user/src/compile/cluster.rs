//! Clusters: (service, port, subset) with the policy that applies for one client.
//! Start at [`ClusterTable::resolve`].
//!
//! Everything is memoised: equal answers are one `Arc`, endpoint sets are shared
//! by all variants of a (service, port, subset).

mod problem;
mod sets;

use std::collections::HashMap;
use std::sync::Arc;

use crate::api::{ObjectKey, TrafficPolicy};
use crate::settings::CompileSettings;
use crate::snapshot::clusters::{Discovery, UpstreamProtocol};
use crate::snapshot::dns::NamedEndpoint;
use crate::snapshot::endpoints::EndpointCell;
use crate::snapshot::policy::LoadBalancer;
use crate::snapshot::{Cluster, ClusterRef, Provenance};

use super::destination_rule::{Rule, RuleIndex};
use super::endpoint_change::{EndpointIndex, FollowingSet};
use super::mesh::MeshPolicies;
use super::policy;
use super::provenance;
use super::registry::{Labels, Registry, Resolution, Service, ServiceKind, ServicePort};
use super::scope::ClientView;

pub(crate) use problem::ClusterProblem;
use problem::unknown_subset;
use sets::dns_endpoints;
pub(super) use sets::subset_of;

/// All clusters that were asked for.
#[derive(Debug)]
pub(crate) struct ClusterTable<'a> {
    registry: &'a Registry,
    rules: &'a RuleIndex,
    settings: &'a CompileSettings,
    policies: &'a MeshPolicies,
    clusters: HashMap<ClusterId, ClusterRef>,
    /// With the namespace that pays for it.
    endpoints: HashMap<EndpointsId, (Arc<EndpointCell>, Arc<str>)>,
    shared_client: ClientView,
}

/// Identity of a cluster while compiling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct ClusterId {
    service: usize,
    port: u16,
    rule: Option<usize>,
    subset: Option<usize>,
}

/// Identity of an endpoint set: variants of a cluster share one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct EndpointsId {
    service: usize,
    port: u16,
    labels: Labels,
    drops_unhealthy: bool,
}

/// What a name resolves to, before anything is built.
struct Found<'a> {
    service: &'a Arc<Service>,
    port: &'a ServicePort,
    port_index: usize,
    rule: Option<&'a Rule>,
    /// Place among the rule's subsets; `None` is the whole service.
    subset: Option<usize>,
}

impl<'a> ClusterTable<'a> {
    /// An empty table over services and DestinationRules.
    pub(crate) fn new(
        registry: &'a Registry,
        rules: &'a RuleIndex,
        settings: &'a CompileSettings,
        policies: &'a MeshPolicies,
    ) -> Self {
        Self {
            registry,
            rules,
            settings,
            policies,
            clusters: HashMap::new(),
            endpoints: HashMap::new(),
            shared_client: ClientView::shared(settings.mesh.is_registry_only),
        }
    }

    /// The cluster of `host` (fully qualified, lower case) and `port` for `client`;
    /// an empty `subset` is the whole service. An ExternalName host gives its
    /// target's cluster on the ports that it declares.
    pub(crate) fn resolve(
        &mut self,
        client: &ClientView,
        host: &str,
        port: u16,
        subset: &str,
    ) -> ClusterRef {
        let found = match self.find(client, host, port, subset) {
            Ok(found) => found,
            Err(_) => return ClusterRef::Missing(cluster_name(port, subset, host)),
        };
        let id = ClusterId {
            service: found.service.index,
            port,
            rule: found.rule.map(|rule| rule.index),
            subset: found.subset,
        };
        if let Some(known) = self.clusters.get(&id) {
            return known.clone();
        }
        let owner = match found.rule {
            Some(rule) => rule.lead.meta.namespace.as_str(),
            None => &found.service.namespace,
        };
        let names = found
            .service
            .named
            .get(found.port_index)
            .map_or(0, Vec::len);
        let ledger = &self.registry.ledger;
        if !ledger.charge_values::<Cluster>(owner, 1)
            || !ledger.charge_values::<NamedEndpoint>(owner, names)
        {
            return ClusterRef::Missing(cluster_name(port, subset, host));
        }
        let cluster = self.build(&found);
        self.clusters.insert(id, cluster.clone());
        cluster
    }

    /// Why [`Self::resolve`] finds nothing, or `None` if it does.
    pub(crate) fn problem(
        &self,
        client: &ClientView,
        host: &str,
        port: u16,
        subset: &str,
    ) -> Option<ClusterProblem> {
        self.find(client, host, port, subset).err()
    }

    /// Whether some DestinationRule applies to `host` for `client`.
    pub(crate) fn has_rule(&self, client: &ClientView, host: &str) -> bool {
        let service = self.registry.find(client, host);
        service.is_some_and(|service| self.rules.find(client, service).is_some())
    }

    /// Names of the subsets of `service` that `client` may name.
    pub(crate) fn subsets_of(&self, client: &ClientView, service: &Service) -> Vec<String> {
        let rule = self.rules.find(client, service);
        let names = rule.into_iter().flat_map(Rule::subset_names);
        names.map(str::to_owned).collect()
    }

    /// Whether `client` gets the same clusters for `service` as the shared client
    /// ([`ClientView::shared`]), provided that both see this definition of it.
    pub(crate) fn is_shared(&self, client: &ClientView, service: &Service) -> bool {
        if self.rules.is_same_for(client) {
            return true;
        }
        let own = self.rules.find(client, service).map(|rule| rule.index);
        let shared = self.rules.find(&self.shared_client, service);
        own == shared.map(|rule| rule.index)
    }

    /// Hosts of services for which `client` gets other clusters than the shared client.
    pub(crate) fn hosts_that_differ(&self, client: &ClientView) -> Vec<Arc<str>> {
        if self.rules.is_same_for(client) {
            return Vec::new();
        }
        let differs = |service: &&Arc<Service>| !self.is_shared(client, service);
        let services: Vec<&Arc<Service>> = match self.rules.own_hosts(client) {
            Some(hosts) => hosts
                .flat_map(|host| self.registry.candidates(host))
                .collect(),
            None => self.registry.services.iter().collect(),
        };
        let services = services.into_iter().filter(differs);
        services.map(|service| Arc::clone(&service.host)).collect()
    }

    /// The endpoint sets that follow EndpointSlices, by Service.
    pub(crate) fn endpoint_index(&self) -> EndpointIndex {
        let mut index = EndpointIndex::default();
        for (id, (cell, owner)) in &self.endpoints {
            let service = self.registry.services.get(id.service);
            let is_meant = |service: &&Arc<Service>| service.kind == ServiceKind::Kubernetes;
            let Some(service) = service.filter(is_meant) else {
                continue;
            };
            let key = ObjectKey::new(&*service.namespace, &*service.name);
            index.add(
                key,
                FollowingSet {
                    port: id.port,
                    labels: id.labels.clone(),
                    drops_unhealthy: id.drops_unhealthy,
                    cell: Arc::clone(cell),
                    owner: Arc::clone(owner),
                },
            );
        }
        index
    }

    /// All clusters, in order of name and variant.
    pub(crate) fn into_clusters(self) -> Vec<Arc<Cluster>> {
        let mut clusters: Vec<Arc<Cluster>> = self
            .clusters
            .into_values()
            .filter_map(|cluster| match cluster {
                ClusterRef::Known(cluster) => Some(cluster),
                ClusterRef::Missing(_) | ClusterRef::NotHonoured(_) => None,
            })
            .collect();
        clusters.sort_by(|a, b| (&a.name, &a.variant).cmp(&(&b.name, &b.variant)));
        clusters
    }

    fn find(
        &self,
        client: &ClientView,
        name: &str,
        number: u16,
        subset: &str,
    ) -> Result<Found<'a>, ClusterProblem> {
        let (registry, rules) = (self.registry, self.rules);
        let service = find_service(registry, client, name, number)
            .ok_or_else(|| self.unknown_host(client, name))?;
        let mut ports = service.ports.iter().enumerate();
        let Some((port_index, port)) = ports.find(|(_, port)| port.number == number) else {
            let known = service.ports.iter().map(|port| port.number.to_string());
            return Err(ClusterProblem::PortAbsent {
                host: name.to_owned(),
                port: number,
                known: known.collect::<Vec<_>>().join(", "),
            });
        };
        let rule = rules.find(client, service);
        let subset = match subset {
            "" => None,
            wanted => match rule.and_then(|rule| rule.subset(wanted)) {
                Some((at, _, _)) => Some(at),
                None => return Err(unknown_subset(name, wanted, rule)),
            },
        };
        let found = Found {
            service,
            port,
            port_index,
            rule,
            subset,
        };
        match service.resolution {
            Resolution::DynamicDns if subset.is_some() => Err(ClusterProblem::SubsetOfDynamic {
                host: name.to_owned(),
            }),
            // Istio makes no DNS cluster without anything to resolve.
            Resolution::Dns | Resolution::LogicalDns if dns_endpoints(&found).is_empty() => {
                let rule = found.subset.and_then(|at| rule?.subset_at(at));
                Err(ClusterProblem::NothingToResolve {
                    host: name.to_owned(),
                    of_subset: rule
                        .map(|(_, _, subset)| format!(" in subset {}", subset.name))
                        .unwrap_or_default(),
                })
            }
            Resolution::Dns
            | Resolution::LogicalDns
            | Resolution::DynamicDns
            | Resolution::Endpoints
            | Resolution::Headless
            | Resolution::OriginalDst => Ok(found),
        }
    }

    fn unknown_host(&self, client: &ClientView, name: &str) -> ClusterProblem {
        let hint = if self.registry.aliases.contains_key(name) {
            // Istio: only a direct alias on a port that it declares leads anywhere.
            ": the ExternalName Service leads to no service of the mesh on this port".to_owned()
        } else if self.registry.candidates(name).next().is_some() {
            format!(
                ": its exportTo does not name namespace {}",
                client.namespace
            )
        } else if let Some(meant) = self.registry.meant_by(name) {
            format!(": a name with a dot is not expanded, write {}", meant.host)
        } else {
            String::new()
        };
        ClusterProblem::UnknownHost {
            host: name.to_owned(),
            hint,
        }
    }

    fn build(&mut self, found: &Found<'a>) -> ClusterRef {
        let Found {
            service,
            port,
            rule,
            ..
        } = *found;
        let subset = found.subset.and_then(|at| rule?.subset_at(at));
        let destination: Option<&TrafficPolicy> = rule
            .and_then(|rule| rule.policy.as_ref())
            .and_then(|object| object.spec.traffic_policy.as_ref());
        let subset_policy = subset.and_then(|(_, _, subset)| subset.traffic_policy.as_ref());
        let blocks = policy::effective(destination, subset_policy, port.number);
        let blocks = blocks.or_default(&self.policies.traffic);
        let subset_name = subset.map_or("", |(_, _, subset)| subset.name.as_str());
        let name = cluster_name(port.number, subset_name, &service.host);
        if blocks.not_honoured().is_some() {
            return ClusterRef::NotHonoured(name);
        }
        let mesh = &self.settings.mesh;
        let mut compiled = policy::compile_policy(&blocks, mesh);
        let (protocol, is_upgraded) =
            policy::upstream_protocol(port.protocol, blocks.connection_pool, mesh);
        compiled.pool.h2_upgrade = is_upgraded;
        if service.has_client_ip_affinity && rule.is_none() && protocol == UpstreamProtocol::Tcp {
            // Plain Kubernetes would keep a client's connections on one endpoint.
            compiled.load_balancer = policy::source_ip_hash();
        }
        let discovery = discovery_of(service, port, &compiled.load_balancer);
        let labels = subset.map(|(_, _, subset)| &subset.labels);
        let dns = service
            .resolution
            .takes_names()
            .then(|| Arc::new(dns_endpoints(found)));
        let endpoints = match &dns {
            Some(dns) => self.dns_cell(found, dns),
            None => self.endpoint_cell(found, labels, &blocks),
        };
        ClusterRef::Known(Arc::new(Cluster {
            name,
            variant: self.variant(service, rule),
            host: Arc::clone(&service.host),
            service_namespace: Arc::clone(&service.namespace),
            service_name: match service.kind {
                ServiceKind::Kubernetes => Arc::clone(&service.name),
                // Istio reports a ServiceEntry's host as the service's name.
                ServiceKind::ServiceEntry => Arc::clone(&service.host),
            },
            port: port.number,
            subset: Arc::from(subset_name),
            protocol,
            discovery,
            policy: compiled,
            endpoints,
            dns,
            provenance: rule.and_then(|rule| cluster_provenance(rule, found.subset, port.number)),
        }))
    }

    /// Tells clusters of one name apart: by the rule, and by the definition where a
    /// host has several.
    fn variant(&self, service: &Arc<Service>, rule: Option<&Rule>) -> Arc<str> {
        let name = rule.map_or_else(|| Arc::from(""), |rule| Arc::clone(&rule.name));
        let first = self.registry.candidates(&service.host).next();
        if first.is_none_or(|first| Arc::ptr_eq(first, service)) {
            return name;
        }
        Arc::from(format!("{name}@{}", service.provenance.object))
    }
}

/// The service that `name` means as a destination on `port`.
fn find_service<'a>(
    registry: &'a Registry,
    client: &ClientView,
    name: &str,
    port: u16,
) -> Option<&'a Arc<Service>> {
    if let Some(service) = registry.find(client, name) {
        return Some(service);
    }
    let alias = registry.aliases.get(name)?;
    let is_usable = alias.export_to.includes(&client.namespace) && alias.ports.contains(&port);
    // A target that is an alias itself is no service, so two steps lead nowhere.
    is_usable
        .then(|| registry.find(client, &alias.target))
        .flatten()
}

/// Istio, `convertResolution` in pilot/pkg/networking/core/cluster.go: headless
/// services are dialled at the address that the client chose, also for HTTP.
fn discovery_of(service: &Service, port: &ServicePort, balancer: &LoadBalancer) -> Discovery {
    match service.resolution {
        Resolution::OriginalDst => Discovery::OriginalDst {
            port: port.target_port,
        },
        Resolution::Headless => Discovery::OriginalDst { port: None },
        Resolution::DynamicDns => Discovery::DynamicDns {
            port: port.target_port.unwrap_or(port.number),
        },
        Resolution::Endpoints | Resolution::Dns | Resolution::LogicalDns
            if *balancer == LoadBalancer::Passthrough =>
        {
            Discovery::OriginalDst { port: None }
        }
        Resolution::Endpoints => Discovery::Endpoints,
        Resolution::Dns => Discovery::Dns,
        Resolution::LogicalDns => Discovery::LogicalDns,
    }
}

/// The most specific part of the rule that acts on the cluster.
fn cluster_provenance(rule: &Rule, subset: Option<usize>, port: u16) -> Option<Provenance> {
    if let Some((object, place, subset)) = subset.and_then(|at| rule.subset_at(at)) {
        let policy = subset.traffic_policy.as_ref();
        let at_port = policy.and_then(|policy| policy::port_level_place(policy, port));
        let field = match at_port {
            Some(at) => format!("spec.subsets[{place}].trafficPolicy.portLevelSettings[{at}]"),
            None => format!("spec.subsets[{place}]"),
        };
        return Some(provenance(object, &field));
    }
    let object = rule.policy.as_ref().unwrap_or(&rule.lead);
    let policy = object.spec.traffic_policy.as_ref()?;
    let field = match policy::port_level_place(policy, port) {
        Some(at) => format!("spec.trafficPolicy.portLevelSettings[{at}]"),
        None => "spec.trafficPolicy".to_owned(),
    };
    Some(provenance(object.as_ref(), &field))
}

/// `outbound|port|subset|host`, as Istio names clusters.
pub(crate) fn cluster_name(port: u16, subset: &str, host: &str) -> Arc<str> {
    Arc::from(format!("outbound|{port}|{subset}|{host}"))
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
