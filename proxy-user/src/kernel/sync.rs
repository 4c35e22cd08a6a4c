//! The difference between what the maps hold and what the view wants, as an ordered list of writes.
//! Start at [`Planner::plan`].
//!
//! Pure but for its numbering: [`super::maps`] executes the writes and tells which succeeded. The
//! order is scopes, endpoints, clusters, splits, overrides, services, then deletions the other way
//! round, so that whatever a program reads names something that is there.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use proxy_common::{
    addr::{Addr, PortBe},
    cluster::{
        CLUSTER_NONE, ClusterValue, EndpointValue, LIVE_NONE, SPLIT_MAX, SplitEntry, SplitValue,
    },
    map,
    service::{Action, CidrKey, OverrideKey, OverrideValue, ScopeValue, ServiceKey, ServiceValue},
};

use super::{
    ids::{IdPool, RangePool, stable_hash},
    slots::{self, Slots},
};
use crate::snapshot::{
    KernelView,
    clusters::ClusterKey,
    kernel_view::{
        KernelAction, KernelBalancer, KernelCluster, KernelKey, KernelPlan, SplitTarget,
    },
};

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

/// One share of a split: weights up to here, cluster id, its generation.
type Share = (u32, u32, u32);

/// What the maps shall hold.
#[derive(Default)]
struct Wanted {
    tables: Tables,
    /// Id and generation of view clusters that the kernel can balance.
    clusters: Vec<Option<(u32, u32)>>,
    split_ids: HashMap<Vec<Share>, (u32, u32)>,
    /// Ids of the splits that the maps hold, by content.
    held_splits: HashMap<(u32, [SplitEntry; SPLIT_MAX]), u32>,
}

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

    fn want_cluster(
        &mut self,
        wanted: &mut Wanted,
        plan: &mut Plan,
        cluster: &KernelCluster,
        now: Instant,
    ) -> Option<(u32, u32)> {
        let mut problem = |message: &str| {
            let message = format!("{message}; its connections take the proxy path");
            plan.problems.push(SyncProblem {
                name: Arc::clone(&cluster.key.name),
                message,
            });
        };
        let Some(slots) = slots::spread(&cluster.endpoints.load()) else {
            problem("endpoint weights need more than 256 slots in the kernel");
            return None;
        };
        let key_hash = stable_hash(&[&cluster.key.name, &cluster.key.variant]);
        let id = match self.cluster_ids.get(&key_hash) {
            Some(id) => *id,
            None => {
                let Some(id) = self.cluster_pool.take(now) else {
                    problem("more clusters than the kernel's table holds (65,535)");
                    return None;
                };
                self.cluster_ids.insert(key_hash, id);
                id
            }
        };
        if wanted.tables.clusters.contains_key(&id) {
            // Two view clusters with one key would fight over one id.
            problem("listed twice");
            return None;
        }
        let generation = match self.present.clusters.get(&id) {
            Some(present) if present.key_hash == key_hash => present.generation,
            _ => self.new_generation(),
        };
        let Some((value, lists)) = self.cluster_value(id, cluster, &slots, now) else {
            problem("no room for its endpoints in the kernel's table");
            return None;
        };
        wanted.tables.clusters.insert(
            id,
            ClusterValue {
                key_hash,
                generation,
                ..value
            },
        );
        wanted.tables.endpoints.insert(id, lists);
        plan.names.clusters.insert(id, cluster.key.clone());
        Some((id, generation))
    }

    fn cluster_value(
        &mut self,
        id: u32,
        cluster: &KernelCluster,
        slots: &Slots,
        now: Instant,
    ) -> Option<(ClusterValue, [Vec<EndpointValue>; 2])> {
        let (policy, port) = match cluster.balancer {
            KernelBalancer::RoundRobin => (ClusterValue::ROUND_ROBIN, 0),
            KernelBalancer::Random => (ClusterValue::RANDOM, 0),
            KernelBalancer::LeastRequest => (ClusterValue::LEAST_REQUEST, 0),
            KernelBalancer::SourceIp => (ClusterValue::SOURCE_IP, 0),
            KernelBalancer::OriginalDst { port } => (ClusterValue::PASSTHROUGH, port),
        };
        let mut value = ClusterValue {
            policy,
            port: PortBe::from_host(port),
            ..ClusterValue::default()
        };
        if slots.is_weighted {
            value.flags |= ClusterValue::WEIGHTED;
        }
        if let Some(keepalive) = cluster.keepalive {
            let seconds = |time: Option<std::time::Duration>| {
                time.map_or(0, |time| {
                    u32::try_from(time.as_secs().max(1)).unwrap_or(u32::MAX)
                })
            };
            value.flags |= ClusterValue::KEEPALIVE;
            value.keepalive_time_s = seconds(keepalive.time);
            value.keepalive_interval_s = seconds(keepalive.interval);
            value.keepalive_probes = keepalive.probes.unwrap_or(0);
        }
        let lists = [&slots.v4, &slots.v6].map(|list| {
            list.iter()
                .map(|address| {
                    let (addr, port) = (
                        Addr::from_ip(address.ip()),
                        PortBe::from_host(address.port()),
                    );
                    EndpointValue {
                        addr,
                        port,
                        reserved: 0,
                        live_id: self.live_id(id, addr, port, now),
                    }
                })
                .collect::<Vec<_>>()
        });
        let present = self.present.clusters.get(&id).copied().unwrap_or_default();
        let held = self.present.endpoints.get(&id);
        // An unchanged list keeps its range; a changed one gets a fresh range, for lists are
        // immutable while programs may read them.
        let mut place = |at: usize, start: u32| -> Option<u32> {
            if held.is_some_and(|held| held[at] == lists[at]) {
                return Some(start);
            }
            self.ranges.take(u32::try_from(lists[at].len()).ok()?, now)
        };
        value.start_v4 = place(0, present.start_v4)?;
        value.start_v6 = place(1, present.start_v6)?;
        value.count_v4 = u32::try_from(lists[0].len()).ok()?;
        value.count_v6 = u32::try_from(lists[1].len()).ok()?;
        Some((value, lists))
    }

    fn live_id(&mut self, cluster: u32, addr: Addr, port: PortBe, now: Instant) -> u32 {
        if let Some(id) = self.live_ids.get(&(cluster, addr, port)) {
            return *id;
        }
        let Some(id) = self.live_pool.take(now) else {
            return LIVE_NONE;
        };
        self.live_ids.insert((cluster, addr, port), id);
        id
    }

    /// Ids of the view's services, in its order.
    fn want_services(
        &mut self,
        wanted: &mut Wanted,
        plan: &mut Plan,
        view: &KernelView,
    ) -> Vec<u32> {
        let mut has_overrides = vec![false; view.services.len()];
        for item in &view.overrides {
            if let Some(has_overrides) = has_overrides.get_mut(item.service) {
                *has_overrides = true;
            }
        }
        let mut ids = Vec::with_capacity(view.services.len());
        for (service, has_overrides) in view.services.iter().zip(has_overrides) {
            let key = entry_key(&service.key);
            let next = self.next_service;
            let service_id = *self.service_ids.entry(key).or_insert(next);
            if service_id == next {
                self.next_service += 1;
            }
            let (action, degraded) = self.actions(wanted, service.plan.as_ref());
            let mut flags = 0;
            if has_overrides {
                flags |= ServiceValue::HAS_OVERRIDES;
            }
            if service.is_routed_by_kubernetes {
                flags |= ServiceValue::ROUTED_BY_KUBERNETES;
            }
            wanted.tables.services.insert(
                key,
                ServiceValue {
                    service_id,
                    flags,
                    action,
                    degraded,
                },
            );
            plan.names
                .services
                .insert(service_id, Arc::clone(&service.name));
            ids.push(service_id);
        }
        ids
    }

    fn want_overrides(
        &mut self,
        wanted: &mut Wanted,
        view: &KernelView,
        scopes: &[u32],
        services: &[u32],
    ) {
        let visible = view
            .services
            .iter()
            .filter(|service| service.plan.is_some())
            .count();
        let mut hidden = vec![0_usize; scopes.len()];
        for item in &view.overrides {
            let is_shown_by_base = view
                .services
                .get(item.service)
                .is_some_and(|service| service.plan.is_some());
            if item.plan.is_none()
                && is_shown_by_base
                && let Some(hidden) = hidden.get_mut(item.scope)
            {
                *hidden += 1;
            }
        }
        // A scope that hides more than it sees lists what it sees.
        let miss_is_hidden: Vec<bool> = hidden
            .iter()
            .map(|hidden| *hidden > visible - (*hidden).min(visible))
            .collect();
        for (at, scope) in scopes
            .iter()
            .enumerate()
            .filter(|(at, _)| miss_is_hidden[*at])
        {
            let Some(value) = wanted.tables.scopes.get_mut(scope) else {
                continue;
            };
            value.flags |= ScopeValue::MISS_IS_HIDDEN;
            let changed: HashSet<usize> = view
                .overrides
                .iter()
                .filter(|item| item.scope == at)
                .map(|item| item.service)
                .collect();
            for (index, service_id) in services.iter().enumerate() {
                if view.services[index].plan.is_some() && !changed.contains(&index) {
                    let key = OverrideKey {
                        scope: *scope,
                        service_id: *service_id,
                    };
                    let value = OverrideValue {
                        action: Action::plain(Action::VISIBLE),
                        degraded: Action::default(),
                    };
                    wanted.tables.overrides.insert(key, value);
                }
            }
        }
        for item in &view.overrides {
            let (Some(scope), Some(service_id)) =
                (scopes.get(item.scope), services.get(item.service))
            else {
                continue;
            };
            if item.plan.is_none() && miss_is_hidden[item.scope] {
                continue;
            }
            let (action, degraded) = self.actions(wanted, item.plan.as_ref());
            let key = OverrideKey {
                scope: *scope,
                service_id: *service_id,
            };
            wanted
                .tables
                .overrides
                .insert(key, OverrideValue { action, degraded });
        }
    }

    fn actions(&mut self, wanted: &mut Wanted, plan: Option<&KernelPlan>) -> (Action, Action) {
        let Some(plan) = plan else {
            return (Action::plain(Action::HIDDEN), Action::plain(Action::PASS));
        };
        let mut action = self.action(wanted, &plan.action, Action::PROXY);
        // Without the proxy there is nothing left to balance what the kernel cannot.
        let mut degraded = self.action(wanted, &plan.degraded, Action::PASS);
        if degraded.kind == Action::PROXY {
            degraded = Action::plain(Action::PASS);
        }
        if plan.deny_when_stale {
            action.flags |= Action::DENY_WHEN_STALE;
            degraded.flags |= Action::DENY_WHEN_STALE;
        }
        (action, degraded)
    }

    /// `otherwise`: the kind for a split that the kernel cannot do.
    fn action(&mut self, wanted: &mut Wanted, action: &KernelAction, otherwise: u8) -> Action {
        let entries = match action {
            KernelAction::Pass => return Action::plain(Action::PASS),
            KernelAction::Refuse => return Action::plain(Action::REFUSE),
            KernelAction::Proxy => return Action::plain(Action::PROXY),
            KernelAction::Split(entries) => entries,
        };
        let mut shares = Vec::with_capacity(entries.len());
        let mut weight_up_to = 0_u32;
        for entry in entries.iter().filter(|entry| entry.weight > 0) {
            let (id, generation) = match entry.target {
                SplitTarget::Refuse => (CLUSTER_NONE, 0),
                SplitTarget::Cluster(index) => match wanted.clusters.get(index) {
                    Some(Some(known)) => *known,
                    _ => return Action::plain(otherwise),
                },
            };
            weight_up_to = weight_up_to.saturating_add(entry.weight);
            shares.push((weight_up_to, id, generation));
        }
        match shares.as_slice() {
            [] => Action::plain(Action::REFUSE),
            [(_, id, generation)] => Action::with_target(Action::CLUSTER, *id, *generation),
            _ if shares.len() > SPLIT_MAX => Action::plain(otherwise),
            _ => {
                let (id, generation) = self.split(wanted, shares);
                Action::with_target(Action::SPLIT, id, generation)
            }
        }
    }

    /// Equal splits share one entry; one that the maps hold already keeps its id.
    fn split(&mut self, wanted: &mut Wanted, shares: Vec<Share>) -> (u32, u32) {
        if let Some(known) = wanted.split_ids.get(&shares) {
            return *known;
        }
        let weight_total = shares.last().map_or(1, |(total, _, _)| *total);
        let mut value = SplitValue {
            generation: 0,
            weight_total,
            ..SplitValue::default()
        };
        for (at, entry) in value.entries.iter_mut().enumerate() {
            // Unused entries repeat the last one, which no ticket reaches.
            let (weight_up_to, cluster_id, generation) = shares
                .get(at)
                .or(shares.last())
                .copied()
                .unwrap_or_default();
            *entry = SplitEntry {
                weight_up_to,
                cluster_id,
                generation,
            };
        }
        let held = wanted.held_splits.get(&(weight_total, value.entries));
        let (id, generation) =
            match held.and_then(|id| Some((*id, self.present.splits.get(id)?.generation))) {
                Some(known) => known,
                None => {
                    self.next_split += 1;
                    (self.next_split - 1, self.new_generation())
                }
            };
        value.generation = generation;
        wanted.tables.splits.insert(id, value);
        wanted.split_ids.insert(shares, (id, generation));
        (id, generation)
    }

    fn new_generation(&mut self) -> u32 {
        let generation = self.next_generation;
        // Zero means none; four billion changes until numbers come again.
        self.next_generation = self.next_generation.checked_add(1).unwrap_or(1);
        generation
    }

    /// Pods change their scope after the view did: until then the old one answers as it did.
    fn keep_scopes_in_use(&self, wanted: &mut Wanted, scopes_in_use: &HashSet<u32>) {
        let gone: HashSet<u32> = scopes_in_use
            .iter()
            .copied()
            .filter(|id| !wanted.tables.scopes.contains_key(id))
            .collect();
        for id in &gone {
            if let Some(value) = self.present.scopes.get(id) {
                wanted.tables.scopes.insert(*id, *value);
            }
        }
        if gone.is_empty() {
            return;
        }
        let kept = self
            .present
            .overrides
            .iter()
            .filter(|(key, _)| gone.contains(&key.scope));
        let mut overridden = HashSet::new();
        for (key, value) in kept {
            wanted.tables.overrides.insert(*key, *value);
            overridden.insert(key.service_id);
        }
        for service in wanted.tables.services.values_mut() {
            if overridden.contains(&service.service_id) {
                service.flags |= ServiceValue::HAS_OVERRIDES;
            }
        }
    }

    fn write_differences(&self, plan: &mut Plan, wanted: &Tables) {
        let present = &self.present;
        let writes = &mut plan.writes;
        changed(&present.scopes, &wanted.scopes, |id, value| {
            writes.push(Write::Scope(id, Some(value)))
        });
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

    /// Remembers a write that the kernel took, and frees what it made unreachable.
    pub(super) fn applied(&mut self, write: &Write, slots: &mut PendingSlots, now: Instant) {
        match *write {
            Write::Scope(id, value) => {
                if let (Some(old), None) = (set(&mut self.present.scopes, id, value), value) {
                    self.scope_ids.remove(&old.key_hash);
                }
            }
            Write::Endpoint(slot, value) => {
                slots.0.insert(slot, value);
            }
            Write::Cluster(id, value) => self.applied_cluster(id, value, slots, now),
            Write::Split(id, value) => drop(set(&mut self.present.splits, id, value)),
            Write::Override(key, value) => drop(set(&mut self.present.overrides, key, value)),
            Write::Service(key, value) => {
                set(&mut self.present.services, key, value);
                if value.is_none() {
                    self.service_ids.remove(&key);
                }
            }
        }
    }

    fn applied_cluster(
        &mut self,
        id: u32,
        value: Option<ClusterValue>,
        slots: &PendingSlots,
        now: Instant,
    ) {
        let old = set(&mut self.present.clusters, id, value).unwrap_or_default();
        let held = self.present.endpoints.remove(&id).unwrap_or_default();
        let new = value.unwrap_or_default();
        let [held_v4, held_v6] = held;
        let ranges = [
            (
                old.start_v4,
                old.count_v4,
                new.start_v4,
                new.count_v4,
                held_v4,
            ),
            (
                old.start_v6,
                old.count_v6,
                new.start_v6,
                new.count_v6,
                held_v6,
            ),
        ];
        let mut lists = [Vec::new(), Vec::new()];
        let mut lost = Vec::new();
        for (list, (old_start, old_count, start, count, held)) in lists.iter_mut().zip(ranges) {
            if (old_start, old_count) == (start, count) {
                *list = held;
                continue;
            }
            self.ranges.give(old_start, old_count, now);
            *list = (start..start.saturating_add(count))
                .filter_map(|slot| slots.0.get(&slot).copied())
                .collect();
            lost.extend(held);
        }
        for endpoint in lost {
            let is_kept = lists
                .iter()
                .flatten()
                .any(|kept| kept.live_id == endpoint.live_id);
            if !is_kept
                && self
                    .live_ids
                    .remove(&(id, endpoint.addr, endpoint.port))
                    .is_some()
            {
                self.live_pool.give(endpoint.live_id, now);
            }
        }
        if value.is_some() {
            self.present.endpoints.insert(id, lists);
        } else {
            self.cluster_ids.remove(&old.key_hash);
            self.cluster_pool.give(id, now);
        }
    }
}

/// Slots that were written and whose cluster follows.
#[derive(Default)]
pub(super) struct PendingSlots(HashMap<u32, EndpointValue>);

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

fn entry_key(key: &KernelKey) -> EntryKey {
    match key {
        KernelKey::Exact(ip, port) => EntryKey::Exact(ServiceKey::new(
            Addr::from_ip(*ip),
            PortBe::from_host(*port),
        )),
        KernelKey::PortWide(port) => {
            EntryKey::Exact(ServiceKey::port_wide(PortBe::from_host(*port)))
        }
        KernelKey::Cidr(network, port) => {
            let mapped_bits = if network.addr().is_ipv4() { 96 } else { 0 };
            let bits = CidrKey::PORT_BITS + mapped_bits + u32::from(network.prefix_len());
            let addr = Addr::from_ip(network.trunc().addr());
            EntryKey::Cidr(
                bits,
                CidrKey {
                    port: PortBe::from_host(*port),
                    reserved: 0,
                    addr,
                },
            )
        }
    }
}

#[cfg(test)]
#[path = "sync_tests.rs"]
mod tests;
