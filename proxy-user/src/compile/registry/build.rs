//! Makes the [`Registry`]: reads every object once, then links aliases and indexes hosts.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::api::{
    EndpointSlice, Object, ObjectKey, ObjectSet, Objects, Resource, WorkloadEntry,
    in_creation_order,
};
use crate::compile::ledger::Ledger;
use crate::finding::{Finding, Severity};
use crate::settings::CompileSettings;
use crate::snapshot::Endpoint;

use super::workload::{self, Interner, PodRecord};
use super::{Alias, Labels, Registry, Service, ServiceKind};

/// Label of an EndpointSlice that names its service.
pub(in crate::compile) const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// What the readers of all kinds share while the registry grows.
pub(super) struct Builder<'a> {
    pub(super) objects: &'a ObjectSet,
    pub(super) settings: &'a CompileSettings,
    pub(super) texts: Interner,
    pub(super) pods: HashMap<&'a ObjectKey, PodRecord>,
    /// Slices of each service, oldest first.
    pub(super) slices: HashMap<(&'a str, &'a str), Vec<&'a Arc<Object<EndpointSlice>>>>,
    pub(super) services: Vec<Service>,
    pub(super) aliases: Vec<Arc<Alias>>,
    pub(super) findings: &'a mut Vec<Finding>,
    pub(super) ledger: Ledger,
}

impl Registry {
    /// Reads all kinds that define services or endpoints; whatever is left out is a finding.
    pub(crate) fn build(
        objects: &ObjectSet,
        settings: &CompileSettings,
        findings: &mut Vec<Finding>,
    ) -> Self {
        let mut builder = Builder {
            objects,
            settings,
            texts: Interner::default(),
            pods: HashMap::new(),
            slices: HashMap::new(),
            services: Vec::new(),
            aliases: Vec::new(),
            findings,
            ledger: Ledger::open(objects, settings),
        };
        builder.read_pods();
        builder.index_slices();
        builder.read_services();
        builder.read_service_entries();
        builder.finish()
    }

    fn index(mut services: Vec<Service>, aliases: Vec<Arc<Alias>>, domain: &str) -> Self {
        services.sort_by(|a, b| {
            (a.created, &a.name, &a.namespace).cmp(&(b.created, &b.name, &b.namespace))
        });
        let mut by_host: HashMap<Arc<str>, Vec<usize>> = HashMap::new();
        let mut by_namespace: HashMap<Arc<str>, Vec<usize>> = HashMap::new();
        for (index, service) in services.iter_mut().enumerate() {
            service.index = index;
            let host = Arc::clone(&service.host);
            by_host.entry(host).or_default().push(index);
            let namespace = Arc::clone(&service.namespace);
            by_namespace.entry(namespace).or_default().push(index);
        }
        let by_name: HashMap<_, _> = aliases
            .iter()
            .map(|alias| (Arc::clone(&alias.host), Arc::clone(alias)))
            .collect();
        for alias in &aliases {
            let Some(target) = final_target(alias, &by_name) else {
                continue;
            };
            for &index in by_host.get(target).map(Vec::as_slice).unwrap_or_default() {
                if let Some(service) = services.get_mut(index) {
                    service.aliases.push(Arc::clone(alias));
                }
            }
        }
        let namespace_dependent = services.iter().filter(|service| {
            let definitions = by_host.get(&service.host).map(Vec::as_slice);
            match definitions.unwrap_or_default() {
                [_] => !service.export_to.is_public(),
                [first, ..] => *first == service.index,
                [] => false,
            }
        });
        let aliased = services
            .iter()
            .filter(|service| !service.aliases.is_empty());
        Self {
            namespace_dependent: namespace_dependent.map(|s| Arc::clone(&s.host)).collect(),
            aliased: aliased.map(|service| service.index).collect(),
            services: services.into_iter().map(Arc::new).collect(),
            by_host,
            by_namespace,
            domain: domain.to_owned(),
            aliases: by_name,
            pods: HashMap::new(),
            ledger: Ledger::default(),
            workloads: HashMap::new(),
        }
    }
}

/// Where a chain of aliases ends; `None` for a loop.
fn final_target<'a>(
    alias: &'a Alias,
    by_host: &'a HashMap<Arc<str>, Arc<Alias>>,
) -> Option<&'a Arc<str>> {
    let mut seen = HashSet::from([&alias.host]);
    let mut target = &alias.target;
    while let Some(next) = by_host.get(target) {
        if !seen.insert(&next.host) {
            return None;
        }
        target = &next.target;
    }
    Some(target)
}

impl<'a> Builder<'a> {
    fn read_pods(&mut self) {
        for (key, pod) in &self.objects.pods {
            let node_name = workload::node_of(pod, &self.settings.node);
            let node = self.objects.nodes.get(&ObjectKey::new("", node_name));
            let record = workload::of_pod(
                pod,
                &self.settings.node,
                node.map(AsRef::as_ref),
                &mut self.texts,
            );
            self.pods.insert(key, record);
        }
    }

    fn index_slices(&mut self) {
        for slice in in_creation_order(&self.objects.endpoint_slices) {
            let Some(service) = slice.meta.labels.get(SERVICE_NAME_LABEL) else {
                continue;
            };
            let key = (slice.meta.namespace.as_str(), service.as_str());
            self.slices.entry(key).or_default().push(slice);
        }
    }

    /// WorkloadEntries of `namespace` that `selector` selects and that are not
    /// reported unhealthy, with their labels.
    pub(super) fn selected_entries(
        &self,
        namespace: &str,
        selector: &Labels,
    ) -> Vec<(&'a Arc<Object<WorkloadEntry>>, Labels)> {
        in_namespace(&self.objects.workload_entries, namespace)
            .filter(|(_, entry)| {
                let conditions = &entry.status.conditions;
                !conditions
                    .iter()
                    .any(|c| c.kind == "Healthy" && c.status == "False")
            })
            .map(|(_, entry)| (entry, workload::entry_labels(entry)))
            .filter(|(_, labels)| crate::compile::scope::is_subset(selector, labels))
            .collect()
    }

    /// A second definition of a host in one namespace is never used: the first one
    /// stands before it for every client.
    fn report_duplicates(&mut self) {
        let mut first: BTreeMap<(&str, &str), Vec<&Service>> = BTreeMap::new();
        for service in &self.services {
            let key = (&*service.namespace, &*service.host);
            first.entry(key).or_default().push(service);
        }
        let mut found = Vec::new();
        for ((_, host), mut services) in first {
            services.sort_by(|a, b| {
                let is_entry = |s: &Service| s.kind == ServiceKind::ServiceEntry;
                (is_entry(a), a.created, &a.name).cmp(&(is_entry(b), b.created, &b.name))
            });
            let [winner, losers @ ..] = services.as_slice() else {
                continue;
            };
            for loser in losers {
                let used = match (winner.kind, loser.kind) {
                    (ServiceKind::ServiceEntry, ServiceKind::ServiceEntry) => {
                        "of this definition only the endpoints are used"
                    }
                    _ => "this definition is ignored",
                };
                let winner = &winner.provenance.object;
                let message = format!("{host} is defined by {winner} already; {used}");
                found.push(
                    Finding::new(Severity::Warning, "duplicate-host", message)
                        .with_object(loser.provenance.object.clone())
                        .with_origin(loser.provenance.origin.clone())
                        .with_field(loser.provenance.field.trim_start_matches("spec.")),
                );
            }
        }
        self.findings.extend(found);
    }

    fn finish(mut self) -> Registry {
        self.report_duplicates();
        let mut registry = Registry::index(self.services, self.aliases, &self.settings.mesh.domain);
        // In name order, so that two pods that claim one address give one answer.
        let pods = self
            .objects
            .pods
            .keys()
            .filter_map(|key| self.pods.get(key));
        for record in pods.filter(|record| record.is_alive && !record.is_host_network) {
            for &ip in &record.ips {
                registry.workloads.insert(ip, Arc::clone(&record.workload));
            }
        }
        let mut named = Vec::new();
        for endpoint in registry
            .services
            .iter()
            .flat_map(|s| s.endpoints.iter().flatten())
        {
            if !endpoint.workload.name.is_empty() {
                named.push((endpoint.address.ip(), Arc::clone(&endpoint.workload)));
            }
        }
        for (ip, workload) in named {
            registry.workloads.entry(ip).or_insert(workload);
        }
        registry.ledger = self.ledger;
        let pods = self.pods.into_iter();
        registry.pods = pods
            .map(|(key, record)| (key.clone(), record.workload))
            .collect();
        registry
    }
}

/// The objects of one namespace, in name order.
pub(in crate::compile) fn in_namespace<'a, 'n, S: Resource>(
    objects: &'a Objects<S>,
    namespace: &'n str,
) -> impl Iterator<Item = (&'a ObjectKey, &'a Arc<Object<S>>)> + use<'a, 'n, S> {
    objects
        .range(ObjectKey::new(namespace, "")..)
        .take_while(move |(key, _)| key.namespace == namespace)
}

/// Endpoints of one port while they are collected: a later one replaces an earlier
/// one at the same address.
#[derive(Debug, Default)]
pub(super) struct EndpointMap(BTreeMap<SocketAddr, Endpoint>);

impl EndpointMap {
    pub(super) fn insert(&mut self, endpoint: Endpoint) {
        self.0.insert(endpoint.address, endpoint);
    }

    /// Like [`Self::insert`], but also in place of any other port at the same IP.
    pub(super) fn insert_only_at_ip(&mut self, endpoint: Endpoint) {
        let ip = endpoint.address.ip();
        self.0.retain(|address, _| address.ip() != ip);
        self.insert(endpoint);
    }

    pub(super) fn extend(&mut self, other: &Self) {
        self.0.extend(
            other
                .0
                .iter()
                .map(|(&address, endpoint)| (address, endpoint.clone())),
        );
    }

    pub(super) fn into_vec(self) -> Vec<Endpoint> {
        self.0.into_values().collect()
    }
}
