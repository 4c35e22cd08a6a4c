//! Names among the endpoints: which are followed, what DNS said, and which endpoint sets
//! follow from it. Start at [`NameTable::follow`].

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::dns::{Answer, Dns, WantedNames};
use crate::finding::{Finding, ObjectRef, Severity};
use crate::settings::MeshSettings;
use crate::snapshot::clusters::ClusterKey;
use crate::snapshot::dns::{Families, ResolvedNames};
use crate::snapshot::endpoints::{EndpointCell, EndpointSet};
use crate::snapshot::{Capture, Cluster, Snapshot};

/// Names of one namespace's services that are followed; beyond, in the order of the clusters,
/// they are not: no namespace takes the resolver from the others.
const NAMESPACE_NAMES_MAX: usize = 4096;
/// Answers that are remembered for names that nobody follows now: one that comes back acts
/// at once. Beyond, they are forgotten.
const UNUSED_MAX: usize = 16_384;

/// What DNS says, and who wants to know.
pub(super) struct NameTable {
    dns: Dns,
    answers: ResolvedNames,
    answered: usize,
    families: Families,
    clusters_by_name: HashMap<Arc<str>, Vec<Arc<Cluster>>>,
    /// Namespaces with more names than are followed.
    crowded: BTreeSet<Arc<str>>,
}

impl NameTable {
    pub(super) fn new(dns: Dns) -> Self {
        Self {
            dns,
            answers: ResolvedNames::default(),
            answered: 0,
            families: Families::default(),
            clusters_by_name: HashMap::new(),
            crowded: BTreeSet::new(),
        }
    }

    /// From now on the names of this snapshot's clusters are followed.
    pub(super) fn follow(&mut self, snapshot: &Snapshot, mesh: &MeshSettings) {
        self.families = families_of(snapshot);
        self.clusters_by_name.clear();
        self.crowded.clear();
        let mut names_by_namespace: HashMap<&Arc<str>, HashSet<&Arc<str>>> = HashMap::new();
        for cluster in &snapshot.clusters {
            for name in cluster.dns.iter().flat_map(|dns| dns.names()) {
                let namespace = &cluster.service_namespace;
                let own = names_by_namespace.entry(namespace).or_default();
                if own.len() >= NAMESPACE_NAMES_MAX && !own.contains(name) {
                    self.crowded.insert(Arc::clone(namespace));
                    continue;
                }
                own.insert(name);
                let of_name = self.clusters_by_name.entry(Arc::clone(name));
                of_name.or_default().push(Arc::clone(cluster));
            }
        }
        if self.answered > UNUSED_MAX {
            let clusters_by_name = &self.clusters_by_name;
            self.answers
                .retain(|name| clusters_by_name.contains_key(name));
            self.answered = 0;
        }
        self.dns.follow(WantedNames {
            names: self.clusters_by_name.keys().cloned().collect(),
            v4: self.families.v4,
            v6: self.families.v6,
            refresh: mesh.dns_refresh_rate,
        });
    }

    /// Whether DNS has said something about every name that is followed.
    pub(super) fn is_complete(&self) -> bool {
        let mut names = self.clusters_by_name.keys();
        names.all(|name| self.answers.is_answered(name, self.families))
    }

    /// Puts what is known into a snapshot that is about to replace `before`. A cluster whose
    /// names are not all answered yet keeps the endpoints that it had (Envoy: a changed cluster
    /// takes over once it is warm).
    pub(super) fn fill(&self, snapshot: &Snapshot, before: &Snapshot) {
        let mut old: HashMap<ClusterKey, &Arc<EndpointCell>> = HashMap::new();
        let with_names = |cluster: &&Arc<Cluster>| cluster.dns.is_some();
        for cluster in before.clusters.iter().filter(with_names) {
            old.insert(cluster.key(), &cluster.endpoints);
        }
        for cluster in snapshot.clusters.iter().filter(with_names) {
            if let Some(set) = self.set_of(cluster) {
                cluster.endpoints.store(set);
            } else if let Some(held) = old.get(&cluster.key()) {
                cluster.endpoints.store((*held.load()).clone());
            }
        }
        // Known parts of a cluster that had nothing before are better than nothing.
        for cluster in snapshot.clusters.iter().filter(with_names) {
            self.fill_empty(cluster);
        }
    }

    /// Remembers answers and swaps the endpoint sets that follow: the cells that changed.
    pub(super) fn note(&mut self, answers: Vec<Answer>) -> HashSet<*const EndpointCell> {
        let mut names: BTreeSet<Arc<str>> = BTreeSet::new();
        for answer in answers {
            self.answered += 1;
            self.answers
                .set(&answer.name, answer.family, answer.addresses);
            names.insert(answer.name);
        }
        let mut changed = HashSet::new();
        for name in &names {
            for cluster in self.clusters_by_name.get(name).into_iter().flatten() {
                let is_changed = match self.set_of(cluster) {
                    Some(set) if set != *cluster.endpoint_set() => {
                        cluster.endpoints.store(set);
                        true
                    }
                    Some(_) => false,
                    None => self.fill_empty(cluster),
                };
                if is_changed {
                    changed.insert(Arc::as_ptr(&cluster.endpoints));
                }
            }
        }
        changed
    }

    /// The endpoints of a cluster all of whose names are answered.
    fn set_of(&self, cluster: &Cluster) -> Option<EndpointSet> {
        let dns = cluster.dns.as_ref()?;
        let is_known = dns
            .names()
            .all(|name| self.answers.is_answered(name, self.families));
        is_known.then(|| dns.resolved(&self.answers))
    }

    fn fill_empty(&self, cluster: &Cluster) -> bool {
        let Some(dns) = &cluster.dns else {
            return false;
        };
        let known = dns.resolved(&self.answers);
        let is_better = cluster.endpoint_set().endpoints.is_empty() && !known.endpoints.is_empty();
        if is_better {
            cluster.endpoints.store(known);
        }
        is_better
    }

    /// One finding for each name that has no address.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let crowded =
            self.crowded.iter().map(|namespace| {
                let message = format!(
                    "its ServiceEntries have more than {NAMESPACE_NAMES_MAX} names to resolve: the \
                 rest have no addresses; make them fewer"
                );
                Finding::new(Severity::Error, "too-many-names", message)
                    .with_object(ObjectRef::new("Namespace", "", &**namespace))
            });
        let mut findings: Vec<Finding> = crowded.collect();
        for (name, clusters) in &self.clusters_by_name {
            let is_without_address = self
                .families
                .iter()
                .all(|family| self.answers.get(name, family).is_empty());
            if !is_without_address || !self.answers.is_answered(name, self.families) {
                continue;
            }
            let hosts: BTreeSet<&str> = clusters.iter().map(|cluster| &*cluster.host).collect();
            let hosts: Vec<&str> = hosts.into_iter().collect();
            let message = format!(
                "DNS gives no address for {name}: what goes to {} finds no endpoint there; look at \
                 the name, and at the nameservers of the daemon's resolv.conf",
                hosts.join(", ")
            );
            findings.push(Finding::new(Severity::Warning, "unresolved-name", message));
        }
        findings
    }
}

/// The families of this node's captured pods; Istio asks for those of the proxy
/// (pilot/pkg/networking/core/cluster_builder.go, `DnsLookupFamily`).
fn families_of(snapshot: &Snapshot) -> Families {
    let captured = snapshot.pods.values();
    let ips: Vec<&IpAddr> = captured
        .filter(|pod| pod.capture == Capture::Captured)
        .flat_map(|pod| &pod.ips)
        .collect();
    Families {
        v4: ips.iter().any(|ip| ip.is_ipv4()),
        v6: ips.iter().any(|ip| ip.is_ipv6()),
    }
}
