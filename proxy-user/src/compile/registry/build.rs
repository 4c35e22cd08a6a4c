//! Makes the [`Registry`]: reads every object once, then links aliases and indexes hosts.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::api::{
    EndpointSlice, Object, ObjectKey, ObjectSet, Objects, Pod, Resource, WorkloadEntry, by_creation,
};
use crate::compile::ledger::Ledger;
use crate::finding::{Finding, ObjectRef, Severity};
use crate::settings::CompileSettings;
use crate::snapshot::Endpoint;
use crate::snapshot::dns::NamedEndpoint;

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
            pods: HashMap::with_capacity(objects.pods.len()),
            slices: HashMap::with_capacity(objects.endpoint_slices.len()),
            services: Vec::new(),
            aliases: Vec::new(),
            findings,
            ledger: Ledger::open(objects, settings),
        };
        builder.read_pods();
        builder.index_slices(|_, _| true);
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

/// Endpoints of one Service by port number, of all sources.
pub(in crate::compile) type SliceEndpoints = Vec<(u16, Vec<Endpoint>)>;

/// The endpoints of some Kubernetes Services alone, and the findings about their slices:
/// what [`Registry::build`] would find.
pub(in crate::compile) fn endpoints_of(
    objects: &ObjectSet,
    settings: &CompileSettings,
    services: &BTreeSet<ObjectKey>,
) -> (BTreeMap<ObjectKey, SliceEndpoints>, Vec<Finding>) {
    let mut findings = Vec::new();
    let mut builder = Builder {
        objects,
        settings,
        texts: Interner::default(),
        pods: HashMap::new(),
        slices: HashMap::new(),
        services: Vec::new(),
        aliases: Vec::new(),
        findings: &mut findings,
        // Who pays is asked where the sets are made.
        ledger: Ledger::unbounded(),
    };
    let names = services.iter();
    let names: HashSet<(&str, &str)> = names.map(|key| (&*key.namespace, &*key.name)).collect();
    builder.index_slices(|namespace, name| names.contains(&(namespace, name)));
    builder.read_pods_of_slices();
    let mut found = BTreeMap::new();
    for key in services {
        if let Some(object) = objects.services.get(key) {
            found.insert(key.clone(), builder.service_endpoints(object));
        }
    }
    (found, findings)
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
            self.read_pod(key, pod);
        }
    }

    fn read_pod(&mut self, key: &'a ObjectKey, pod: &'a Object<Pod>) {
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

    /// Only the pods that the indexed slices name.
    fn read_pods_of_slices(&mut self) {
        let slices = self.slices.values().flatten();
        let targets: Vec<ObjectKey> = slices.flat_map(|slice| pods_named_by(slice)).collect();
        for target in targets {
            if let Some((key, pod)) = self.objects.pods.get_key_value(&target) {
                self.read_pod(key, pod);
            }
        }
    }

    /// Slices of the services that `is_meant` says, by namespace and name.
    fn index_slices(&mut self, is_meant: impl Fn(&str, &str) -> bool) {
        for slice in self.objects.endpoint_slices.values() {
            let Some(service) = slice.meta.labels.get(SERVICE_NAME_LABEL) else {
                continue;
            };
            let key = (slice.meta.namespace.as_str(), service);
            if !is_meant(key.0, key.1) {
                continue;
            }
            self.slices.entry(key).or_default().push(slice);
        }
        for slices in self.slices.values_mut() {
            slices.sort_by(|a, b| by_creation(a, b));
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

    /// A WorkloadEntry that `by` selects but that gives it no endpoint. `takes_names`: names are
    /// resolved there.
    pub(super) fn report_unusable(
        &mut self,
        entry: &Object<WorkloadEntry>,
        by: &ObjectRef,
        takes_names: bool,
    ) {
        let address = entry.spec.address.as_str();
        let reason = if address.starts_with("unix:") {
            "sockets of the node are never reachable"
        } else if takes_names || address.is_empty() || address.parse::<IpAddr>().is_ok() {
            return;
        } else {
            "names are resolved by ServiceEntries with resolution DNS only"
        };
        self.findings.push(entry.finding(
            Severity::Warning,
            "unusable-address",
            "address",
            format!("{by} gets no endpoint from it: {reason}"),
        ));
    }

    /// ExternalName services that lead out of the mesh.
    fn report_foreign_aliases(&mut self, registry: &Registry) {
        for object in self.objects.services.values() {
            if object.spec.service_type != "ExternalName" {
                continue;
            }
            let alias = registry.aliases.get(&self.service_host(object));
            let Some(target) = alias.and_then(|alias| final_target(alias, &registry.aliases))
            else {
                continue;
            };
            if !registry.by_host.contains_key(target) {
                self.findings.push(object.finding(
                    Severity::Info,
                    "foreign-alias",
                    "externalName",
                    format!(
                        "{target} is no service of the mesh: connections pass to where they are \
                         dialled, and a rule that leads here gets 503"
                    ),
                ));
            }
        }
    }

    fn finish(mut self) -> Registry {
        self.report_duplicates();
        super::allocate::allocate(&mut self.services);
        let services = std::mem::take(&mut self.services);
        let aliases = std::mem::take(&mut self.aliases);
        let mut registry = Registry::index(services, aliases, &self.settings.mesh.domain);
        self.report_foreign_aliases(&registry);
        // In name order, so that two pods that claim one address give one answer.
        registry.workloads.reserve(self.pods.len());
        for (key, pod) in &self.objects.pods {
            let record = self.pods.get(key).filter(|record| record.is_alive);
            // Pods of the host's network share the node's addresses, which then name nobody.
            let Some(record) = record.filter(|_| !pod.spec.host_network) else {
                continue;
            };
            for ip in workload::pod_ips(pod) {
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
            .filter(|(_, record)| *record.workload.node == *self.settings.node)
            .map(|(key, record)| (key.clone(), record.workload))
            .collect();
        registry
    }
}

/// The Pods that the endpoints of a slice name.
pub(in crate::compile) fn pods_named_by(
    slice: &Object<EndpointSlice>,
) -> impl Iterator<Item = ObjectKey> {
    let targets = slice.spec.endpoints.iter();
    let pods = targets
        .filter_map(|endpoint| endpoint.target_ref.as_ref())
        .filter(|target| target.kind == "Pod");
    pods.map(|pod| match pod.namespace.as_str() {
        "" => ObjectKey::new(&slice.meta.namespace, &pod.name),
        namespace => ObjectKey::new(namespace, &pod.name),
    })
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
pub(super) struct EndpointMap {
    by_address: BTreeMap<SocketAddr, Endpoint>,
    named: Vec<NamedEndpoint>,
}

impl EndpointMap {
    pub(super) fn insert(&mut self, endpoint: Endpoint) {
        self.by_address.insert(endpoint.address, endpoint);
    }

    /// Adds a name, in place of an earlier one with the same port.
    pub(super) fn insert_named(&mut self, endpoint: NamedEndpoint) {
        let is_same = |known: &&mut NamedEndpoint| {
            (&known.name, known.port) == (&endpoint.name, endpoint.port)
        };
        match self.named.iter_mut().find(is_same) {
            Some(known) => *known = endpoint,
            None => self.named.push(endpoint),
        }
    }

    /// Like [`Self::insert`], but also in place of any other port at the same IP.
    pub(super) fn insert_only_at_ip(&mut self, endpoint: Endpoint) {
        let ip = endpoint.address.ip();
        self.by_address.retain(|address, _| address.ip() != ip);
        self.insert(endpoint);
    }

    pub(super) fn extend(&mut self, other: &Self) {
        let endpoints = other.by_address.values().cloned();
        endpoints.for_each(|endpoint| self.insert(endpoint));
        let named = other.named.iter().cloned();
        named.for_each(|endpoint| self.insert_named(endpoint));
    }

    /// Addresses in order, and names in the order written.
    pub(super) fn into_parts(self) -> (Vec<Endpoint>, Vec<NamedEndpoint>) {
        (self.by_address.into_values().collect(), self.named)
    }
}
