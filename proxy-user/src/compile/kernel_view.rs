//! What the kernel's maps shall hold: the base's plans, and where scopes differ from it.
//!
//! Which plan a destination gets is decided in `path_plan`; here they are put in order.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::snapshot::Cluster;
use crate::snapshot::clusters::{ClusterKey, Discovery};
use crate::snapshot::kernel_view::{
    KernelBalancer, KernelCluster, KernelKey, KernelOverride, KernelPlan, KernelScope,
    KernelService, KernelView,
};
use crate::snapshot::policy::{HashKey, LoadBalancer};

/// Clusters that splits name, each once.
#[derive(Debug, Default)]
pub(crate) struct KernelClusters {
    list: Vec<KernelCluster>,
    index_by_key: HashMap<ClusterKey, usize>,
}

impl KernelClusters {
    /// The place of `cluster` in [`KernelView::clusters`].
    pub(crate) fn index_of(&mut self, cluster: &Cluster) -> usize {
        let key = cluster.key();
        if let Some(&index) = self.index_by_key.get(&key) {
            return index;
        }
        let index = self.list.len();
        self.list.push(KernelCluster {
            key: key.clone(),
            balancer: balancer_of(cluster),
            endpoints: Arc::clone(&cluster.endpoints),
            keepalive: cluster.policy.pool.tcp_keepalive,
        });
        self.index_by_key.insert(key, index);
        index
    }
}

/// How the kernel picks an endpoint. Hashes of what it cannot see become round robin; that
/// is asked for in degraded forms only.
fn balancer_of(cluster: &Cluster) -> KernelBalancer {
    if let Discovery::OriginalDst { port } = cluster.discovery {
        return KernelBalancer::OriginalDst {
            port: port.unwrap_or(0),
        };
    }
    match &cluster.policy.load_balancer {
        LoadBalancer::LeastRequest => KernelBalancer::LeastRequest,
        LoadBalancer::Random => KernelBalancer::Random,
        LoadBalancer::Passthrough => KernelBalancer::OriginalDst { port: 0 },
        LoadBalancer::ConsistentHash(hash) if hash.key == HashKey::SourceIp => {
            KernelBalancer::SourceIp
        }
        LoadBalancer::RoundRobin | LoadBalancer::ConsistentHash(_) => KernelBalancer::RoundRobin,
    }
}

/// One destination as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KernelEntry {
    /// Host and port.
    pub(crate) name: Arc<str>,
    /// What is done.
    pub(crate) plan: KernelPlan,
    /// Kubernetes routes the address by itself.
    pub(crate) is_routed_by_kubernetes: bool,
}

/// Entries of one view by key; `None` hides the base's.
pub(crate) type KernelEntries = BTreeMap<KernelKey, Option<KernelEntry>>;

/// Puts base and scopes together. `own`: for each scope, whether it stands on the base, and
/// the entries that are its own.
pub(crate) fn assemble(
    base: &KernelEntries,
    scopes: Vec<KernelScope>,
    own: Vec<(bool, KernelEntries)>,
    clusters: KernelClusters,
) -> KernelView {
    let mut services: BTreeMap<KernelKey, KernelService> = BTreeMap::new();
    for (key, entry) in base {
        if let Some(entry) = entry {
            services.insert(*key, service(*key, entry, Some(entry.plan.clone())));
        }
    }
    for (_, entries) in &own {
        for (key, entry) in entries {
            if let (false, Some(entry)) = (services.contains_key(key), entry) {
                services.insert(*key, service(*key, entry, None));
            }
        }
    }
    let services: Vec<KernelService> = services.into_values().collect();
    let place_of: HashMap<KernelKey, usize> = services
        .iter()
        .enumerate()
        .map(|(index, service)| (service.key, index))
        .collect();
    let mut overrides = Vec::new();
    for (scope, (stands_on_base, entries)) in own.iter().enumerate() {
        let mut add = |index: usize, plan: Option<KernelPlan>| {
            if services
                .get(index)
                .is_some_and(|service| service.plan != plan)
            {
                overrides.push(KernelOverride {
                    scope,
                    service: index,
                    plan,
                });
            }
        };
        if *stands_on_base {
            for (key, entry) in entries {
                if let Some(&index) = place_of.get(key) {
                    add(index, entry.as_ref().map(|entry| entry.plan.clone()));
                }
            }
            continue;
        }
        for (index, service) in services.iter().enumerate() {
            let entry = entries.get(&service.key).and_then(Option::as_ref);
            add(index, entry.map(|entry| entry.plan.clone()));
        }
    }
    KernelView {
        scopes,
        services,
        overrides,
        clusters: clusters.list,
    }
}

fn service(key: KernelKey, entry: &KernelEntry, plan: Option<KernelPlan>) -> KernelService {
    KernelService {
        key,
        name: Arc::clone(&entry.name),
        plan,
        is_routed_by_kubernetes: entry.is_routed_by_kubernetes,
    }
}
