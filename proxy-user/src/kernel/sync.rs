//! The difference between what the maps hold and what the view wants, as an ordered list of writes.
//! Start at [`Planner::plan`].
//!
//! Pure but for its numbering: [`super::maps`] executes the writes and tells which succeeded. The
//! order is scopes, endpoints, clusters, splits, overrides, services, then deletions the other way
//! round, so that whatever a program reads names something that is there.

mod applied;
mod wanted;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use proxy_common::{
    addr::{Addr, PortBe},
    cluster::{CLUSTER_NONE, ClusterValue, EndpointValue, LIVE_NONE, SplitValue},
    map,
    service::{CidrKey, OverrideKey, OverrideValue, ScopeValue, ServiceKey, ServiceValue},
};
use wanted::Wanted;

use super::ids::{IdPool, RangePool, stable_hash};
use crate::snapshot::{KernelView, clusters::ClusterKey, kernel_view::KernelCluster};

/// What one sync did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SyncReport {
    /// Entries written.
    pub written: usize,
    /// Entries removed.
    pub removed: usize,
    /// What the kernel could not take, each with what happens instead.
    pub problems: Vec<SyncProblem>,
}

/// One thing that did not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncProblem {
    /// Service, cluster or scope.
    pub name: Arc<str>,
    /// Why, and what happens instead.
    pub message: String,
}

/// Names behind ids.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// `host:port` by service id.
    pub services: HashMap<u32, Arc<str>>,
    /// Cluster by cluster id.
    pub clusters: HashMap<u32, ClusterKey>,
    /// Scope key by scope id.
    pub scopes: HashMap<u32, Arc<str>>,
}

/// Key of a service entry in either table: prefix length in bits, and data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum EntryKey {
    Exact(ServiceKey),
    Cidr(u32, CidrKey),
}

/// One write; `None` deletes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Write {
    Scope(u32, Option<ScopeValue>),
    Endpoint(u32, EndpointValue),
    Cluster(u32, Option<ClusterValue>),
    Split(u32, Option<SplitValue>),
    Override(OverrideKey, Option<OverrideValue>),
    Service(EntryKey, Option<ServiceValue>),
}

/// What the maps hold.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) scopes: HashMap<u32, ScopeValue>,
    pub(super) clusters: HashMap<u32, ClusterValue>,
    /// Slots of each cluster, v4 then v6.
    pub(super) endpoints: HashMap<u32, [Vec<EndpointValue>; 2]>,
    pub(super) splits: HashMap<u32, SplitValue>,
    pub(super) overrides: HashMap<OverrideKey, OverrideValue>,
    pub(super) services: HashMap<EntryKey, ServiceValue>,
}

/// The writes of one sync.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) writes: Vec<Write>,
    pub(super) names: Names,
    pub(super) problems: Vec<SyncProblem>,
}

/// Owns all numbering; remembers what the maps hold.
pub(super) struct Planner {
    present: Tables,
    scope_ids: HashMap<u64, u32>,
    cluster_ids: HashMap<u64, u32>,
    service_ids: HashMap<EntryKey, u32>,
    live_ids: HashMap<(u32, Addr, PortBe), u32>,
    cluster_pool: IdPool,
    live_pool: IdPool,
    ranges: RangePool,
    next_scope: u32,
    next_service: u32,
    next_split: u32,
    next_generation: u32,
}

/// Slots that were written and whose cluster follows.
#[derive(Default)]
pub(super) struct PendingSlots(HashMap<u32, EndpointValue>);

impl Planner {
    /// Starts from what the maps hold: empty, or what an earlier daemon left.
    pub(super) fn new(present: Tables) -> Self {
        let after = |ids: &mut dyn Iterator<Item = u32>| ids.max().unwrap_or(0).saturating_add(1);
        let cluster_generations = present.clusters.values().map(|cluster| cluster.generation);
        let generations =
            cluster_generations.chain(present.splits.values().map(|split| split.generation));
        let slots = || {
            present
                .endpoints
                .iter()
                .flat_map(|(id, lists)| lists.iter().flatten().map(move |slot| (*id, slot)))
        };
        let live_ids: HashMap<_, _> = slots()
            .filter(|(_, slot)| slot.live_id != LIVE_NONE)
            .map(|(id, slot)| ((id, slot.addr, slot.port), slot.live_id))
            .collect();
        let ranges = present.clusters.values().flat_map(|cluster| {
            [
                (cluster.start_v4, cluster.count_v4),
                (cluster.start_v6, cluster.count_v6),
            ]
        });
        Self {
            scope_ids: present
                .scopes
                .iter()
                .map(|(id, scope)| (scope.key_hash, *id))
                .collect(),
            cluster_ids: present
                .clusters
                .iter()
                .map(|(id, cluster)| (cluster.key_hash, *id))
                .collect(),
            service_ids: present
                .services
                .iter()
                .map(|(key, service)| (*key, service.service_id))
                .collect(),
            cluster_pool: IdPool::new(
                CLUSTER_NONE + 1,
                map::CLUSTERS_MAX,
                present.clusters.keys().copied(),
            ),
            live_pool: IdPool::new(0, map::LIVE_COUNTS_MAX, live_ids.values().copied()),
            ranges: RangePool::new(map::ENDPOINTS_MAX, ranges),
            live_ids,
            next_scope: after(&mut present.scopes.keys().copied()),
            next_service: after(&mut present.services.values().map(|service| service.service_id)),
            next_split: after(&mut present.splits.keys().copied()),
            next_generation: after(&mut generations.into_iter()),
            present,
        }
    }

    /// Id of a scope, new ones included: a pod may come before the view that describes its scope.
    pub(super) fn scope_id(&mut self, key: &str) -> u32 {
        let hash = stable_hash(&[key]);
        let next = self.next_scope;
        let id = *self.scope_ids.entry(hash).or_insert(next);
        if id == next {
            self.next_scope += 1;
        }
        id
    }

    /// What the maps hold, as far as this process and its predecessor wrote it.
    pub(super) fn present(&self) -> &Tables {
        &self.present
    }

    /// Every index of `LIVE_COUNTS` that an endpoint has.
    pub(super) fn live_ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.live_ids.values().copied()
    }

    /// The writes that make the maps match `view`.
    ///
    /// `scopes_in_use`: ids that pods name; their entries stay although the view has them no more.
    /// `live_count`: current value of `LIVE_COUNTS`, zero before a number is reused.
    pub(super) fn plan(
        &mut self,
        view: &KernelView,
        scopes_in_use: &HashSet<u32>,
        live_count: &dyn Fn(u32) -> u64,
        now: Instant,
    ) -> Plan {
        let mut plan = Plan::default();
        let held_splits = self
            .present
            .splits
            .iter()
            .map(|(id, split)| ((split.weight_total, split.entries), *id))
            .collect();
        let mut wanted = Wanted {
            held_splits,
            ..Wanted::default()
        };
        self.live_pool.wake(now, |id| live_count(id) == 0);
        let scopes: Vec<u32> = view
            .scopes
            .iter()
            .map(|scope| self.scope_id(&scope.key))
            .collect();
        for (id, scope) in scopes.iter().zip(&view.scopes) {
            let flags = if scope.is_registry_only {
                ScopeValue::REGISTRY_ONLY
            } else {
                0
            };
            wanted.tables.scopes.insert(
                *id,
                ScopeValue {
                    key_hash: stable_hash(&[&scope.key]),
                    flags,
                    reserved: 0,
                },
            );
            plan.names.scopes.insert(*id, Arc::clone(&scope.key));
        }
        for cluster in &view.clusters {
            let known = self.want_cluster(&mut wanted, &mut plan, cluster, now);
            wanted.clusters.push(known);
        }
        let services = self.want_services(&mut wanted, &mut plan, view);
        self.want_overrides(&mut wanted, view, &scopes, &services);
        self.keep_scopes_in_use(&mut wanted, scopes_in_use);
        self.write_differences(&mut plan, &wanted.tables);
        plan
    }

    /// The writes for the endpoint lists of these clusters alone; `None` if the maps do not hold
    /// one of them or cannot hold its list, for then other entries change as well.
    pub(super) fn plan_endpoints<'v>(
        &mut self,
        clusters: impl Iterator<Item = &'v KernelCluster>,
        live_count: &dyn Fn(u32) -> u64,
        now: Instant,
    ) -> Option<Plan> {
        self.live_pool.wake(now, |id| live_count(id) == 0);
        let mut plan = Plan::default();
        let mut wanted = Wanted::default();
        for cluster in clusters {
            let key_hash = stable_hash(&[&cluster.key.name, &cluster.key.variant]);
            let id = self.cluster_ids.get(&key_hash)?;
            self.present.clusters.get(id)?;
            self.want_cluster(&mut wanted, &mut plan, cluster, now)?;
        }
        self.write_clusters(&mut plan.writes, &wanted.tables);
        Some(plan)
    }

    fn write_differences(&self, plan: &mut Plan, wanted: &Tables) {
        let present = &self.present;
        let writes = &mut plan.writes;
        changed(&present.scopes, &wanted.scopes, |id, value| {
            writes.push(Write::Scope(id, Some(value)))
        });
        self.write_clusters(writes, wanted);
        changed(&present.splits, &wanted.splits, |id, value| {
            writes.push(Write::Split(id, Some(value)))
        });
        changed(&present.overrides, &wanted.overrides, |key, value| {
            writes.push(Write::Override(key, Some(value)))
        });
        changed(&present.services, &wanted.services, |key, value| {
            writes.push(Write::Service(key, Some(value)))
        });

        gone(&present.services, &wanted.services, |key| {
            writes.push(Write::Service(key, None))
        });
        gone(&present.overrides, &wanted.overrides, |key| {
            writes.push(Write::Override(key, None))
        });
        gone(&present.splits, &wanted.splits, |id| {
            writes.push(Write::Split(id, None))
        });
        gone(&present.clusters, &wanted.clusters, |id| {
            writes.push(Write::Cluster(id, None))
        });
        gone(&present.scopes, &wanted.scopes, |id| {
            writes.push(Write::Scope(id, None))
        });
    }

    /// Fresh endpoint lists, then the clusters that name them.
    fn write_clusters(&self, writes: &mut Vec<Write>, wanted: &Tables) {
        let present = &self.present;
        for (id, value) in &wanted.clusters {
            let Some(lists) = wanted.endpoints.get(id) else {
                continue;
            };
            let held = present.endpoints.get(id);
            for (at, start) in [value.start_v4, value.start_v6].into_iter().enumerate() {
                if held.is_none_or(|held| held[at] != lists[at]) {
                    writes.extend(
                        (start..)
                            .zip(&lists[at])
                            .map(|(slot, value)| Write::Endpoint(slot, *value)),
                    );
                }
            }
        }
        changed(&present.clusters, &wanted.clusters, |id, value| {
            writes.push(Write::Cluster(id, Some(value)))
        });
    }
}

fn set<K: std::hash::Hash + Eq, V>(
    table: &mut HashMap<K, V>,
    key: K,
    value: Option<V>,
) -> Option<V> {
    match value {
        Some(value) => table.insert(key, value),
        None => table.remove(&key),
    }
}

fn changed<K: Copy + std::hash::Hash + Eq, V: Copy + PartialEq>(
    present: &HashMap<K, V>,
    wanted: &HashMap<K, V>,
    mut write: impl FnMut(K, V),
) {
    for (key, value) in wanted {
        if present.get(key) != Some(value) {
            write(*key, *value);
        }
    }
}

fn gone<K: Copy + std::hash::Hash + Eq, V>(
    present: &HashMap<K, V>,
    wanted: &HashMap<K, V>,
    mut delete: impl FnMut(K),
) {
    for key in present.keys().filter(|key| !wanted.contains_key(key)) {
        delete(*key);
    }
}

#[cfg(test)]
#[path = "sync_tests.rs"]
mod tests;
