//! What the maps shall hold: the view, with numbers instead of names.

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
    service::{Action, CidrKey, OverrideKey, OverrideValue, ScopeValue, ServiceKey, ServiceValue},
};

use super::{
    super::{
        ids::stable_hash,
        slots::{self, Slots},
    },
    EntryKey, Plan, Planner, SyncProblem, Tables,
};
use crate::snapshot::{
    KernelView,
    kernel_view::{
        KernelAction, KernelBalancer, KernelCluster, KernelKey, KernelPlan, SplitTarget,
    },
};

/// One share of a split: weights up to here, cluster id, its generation.
pub(super) type Share = (u32, u32, u32);

/// What the maps shall hold.
#[derive(Default)]
pub(super) struct Wanted {
    pub(super) tables: Tables,
    /// Id and generation of view clusters that the kernel can balance.
    pub(super) clusters: Vec<Option<(u32, u32)>>,
    pub(super) split_ids: HashMap<Vec<Share>, (u32, u32)>,
    /// Ids of the splits that the maps hold, by content.
    pub(super) held_splits: HashMap<(u32, [SplitEntry; SPLIT_MAX]), u32>,
}

impl Planner {
    pub(super) fn want_cluster(
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
    pub(super) fn want_services(
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

    pub(super) fn want_overrides(
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
    pub(super) fn keep_scopes_in_use(&self, wanted: &mut Wanted, scopes_in_use: &HashSet<u32>) {
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
