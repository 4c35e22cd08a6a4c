//! Plans against tables in memory: after every single write each reference resolves, the end is
//! what the view wants, and the same view again writes nothing.

use std::{net::SocketAddr, sync::Arc};

use proxy_common::service::Action;

use super::*;
use crate::snapshot::{
    endpoints::{Endpoint, EndpointCell, EndpointSet, Health, Workload},
    kernel_view::{
        KernelAction, KernelBalancer, KernelCluster, KernelKey, KernelOverride, KernelPlan,
        KernelScope, KernelService, SplitEntry as ViewEntry, SplitTarget,
    },
};

/// Tables as the kernel would hold them.
#[derive(Default)]
struct Memory {
    tables: Tables,
    slots: HashMap<u32, EndpointValue>,
}

impl Memory {
    fn write(&mut self, write: &Write) {
        match *write {
            Write::Scope(id, value) => drop(set(&mut self.tables.scopes, id, value)),
            Write::Endpoint(slot, value) => drop(self.slots.insert(slot, value)),
            Write::Cluster(id, value) => drop(set(&mut self.tables.clusters, id, value)),
            Write::Split(id, value) => drop(set(&mut self.tables.splits, id, value)),
            Write::Override(key, value) => drop(set(&mut self.tables.overrides, key, value)),
            Write::Service(key, value) => drop(set(&mut self.tables.services, key, value)),
        }
    }

    /// Everything that a reachable entry names is there and of its generation.
    fn check_references(&self, step: usize) {
        let services = self
            .tables
            .services
            .values()
            .flat_map(|service| [service.action, service.degraded]);
        let overrides = self
            .tables
            .overrides
            .values()
            .flat_map(|value| [value.action, value.degraded]);
        for action in services.chain(overrides) {
            match action.kind {
                Action::CLUSTER => self.check_cluster(step, action.target, action.generation),
                Action::SPLIT => {
                    let split = self
                        .tables
                        .splits
                        .get(&action.target)
                        .expect("the split is there");
                    assert_eq!(split.generation, action.generation, "step {step}");
                    for entry in split.entries {
                        self.check_cluster(step, entry.cluster_id, entry.generation);
                    }
                }
                _ => {}
            }
        }
    }

    fn check_cluster(&self, step: usize, id: u32, generation: u32) {
        if id == CLUSTER_NONE {
            return;
        }
        let cluster = self.tables.clusters.get(&id).expect("the cluster is there");
        assert_eq!(cluster.generation, generation, "step {step}");
        for slot in self.slots_of(cluster) {
            let endpoint = self.slots.get(&slot).expect("the slot is written");
            assert!(!endpoint.port.is_none(), "step {step}");
        }
    }

    fn slots_of(&self, cluster: &ClusterValue) -> impl Iterator<Item = u32> + use<> {
        let (v4, v6) = (
            (cluster.start_v4, cluster.count_v4),
            (cluster.start_v6, cluster.count_v6),
        );
        [v4, v6]
            .into_iter()
            .flat_map(|(start, count)| start..start + count)
    }

    /// What a new daemon would read.
    fn read(&self) -> Tables {
        let mut endpoints = HashMap::new();
        for (id, cluster) in &self.tables.clusters {
            let list = |start: u32, count: u32| {
                (start..start + count)
                    .map(|slot| self.slots[&slot])
                    .collect()
            };
            let lists = [
                list(cluster.start_v4, cluster.count_v4),
                list(cluster.start_v6, cluster.count_v6),
            ];
            endpoints.insert(*id, lists);
        }
        Tables {
            scopes: self.tables.scopes.clone(),
            clusters: self.tables.clusters.clone(),
            endpoints,
            splits: self.tables.splits.clone(),
            overrides: self.tables.overrides.clone(),
            services: self.tables.services.clone(),
        }
    }
}

/// Applies a view; returns how many writes it took.
fn apply(planner: &mut Planner, memory: &mut Memory, view: &KernelView, in_use: &[u32]) -> usize {
    let now = Instant::now();
    let plan = planner.plan(view, &in_use.iter().copied().collect(), &|_| 0, now);
    assert_eq!(plan.problems, []);
    let mut slots = PendingSlots::default();
    for (step, write) in plan.writes.iter().enumerate() {
        memory.write(write);
        planner.applied(write, &mut slots, now);
        memory.check_references(step);
    }
    plan.writes.len()
}

fn cluster(name: &str, addresses: &[&str]) -> KernelCluster {
    KernelCluster {
        key: ClusterKey {
            name: name.into(),
            variant: "".into(),
        },
        balancer: KernelBalancer::RoundRobin,
        endpoints: Arc::new(EndpointCell::new(endpoints(addresses))),
        keepalive: None,
    }
}

fn endpoints(addresses: &[&str]) -> EndpointSet {
    let endpoint = |address: &&str| Endpoint {
        address: address.parse::<SocketAddr>().expect("an address"),
        weight: 1,
        health: Health::Healthy,
        priority: 0,
        workload: Arc::new(Workload::default()),
    };
    EndpointSet {
        endpoints: addresses.iter().map(endpoint).collect(),
    }
}

fn split(shares: &[(u32, usize)]) -> KernelAction {
    KernelAction::Split(
        shares
            .iter()
            .map(|(weight, index)| ViewEntry {
                weight: *weight,
                target: SplitTarget::Cluster(*index),
            })
            .collect(),
    )
}

fn plan_of(action: KernelAction) -> KernelPlan {
    KernelPlan {
        action,
        degraded: KernelAction::Pass,
        deny_when_stale: false,
    }
}

fn service(last: u8, plan: Option<KernelPlan>) -> KernelService {
    KernelService {
        key: KernelKey::Exact([10, 96, 0, last].into(), 80),
        name: format!("service-{last}").into(),
        plan,
        is_routed_by_kubernetes: true,
    }
}

fn view() -> KernelView {
    KernelView {
        scopes: vec![
            KernelScope {
                key: "shop".into(),
                is_registry_only: false,
            },
            KernelScope {
                key: "bank".into(),
                is_registry_only: true,
            },
        ],
        services: vec![
            service(1, Some(plan_of(split(&[(80, 0), (20, 1)])))),
            service(2, Some(plan_of(split(&[(1, 1)])))),
            service(3, None),
        ],
        overrides: vec![KernelOverride {
            scope: 1,
            service: 2,
            plan: Some(plan_of(KernelAction::Proxy)),
        }],
        clusters: vec![
            cluster("v1", &["10.0.0.1:1", "10.0.0.2:1", "[fd00::1]:1"]),
            cluster("v2", &["10.0.0.3:1"]),
        ],
    }
}

#[test]
fn the_same_view_twice_writes_nothing_and_a_new_daemon_finds_its_numbers() {
    let (mut planner, mut memory) = (Planner::new(Tables::default()), Memory::default());
    assert!(apply(&mut planner, &mut memory, &view(), &[]) > 0);
    assert_eq!(apply(&mut planner, &mut memory, &view(), &[]), 0);
    let mut restarted = Planner::new(memory.read());
    assert_eq!(apply(&mut restarted, &mut memory, &view(), &[]), 0);
    // An empty view empties everything.
    apply(&mut restarted, &mut memory, &KernelView::default(), &[]);
    let left = &memory.tables;
    assert!(left.services.is_empty() && left.overrides.is_empty() && left.splits.is_empty());
    assert!(left.clusters.is_empty() && left.scopes.is_empty());
}

#[test]
fn an_endpoint_change_writes_a_fresh_range_and_one_cluster() {
    let (mut planner, mut memory) = (Planner::new(Tables::default()), Memory::default());
    let view = view();
    apply(&mut planner, &mut memory, &view, &[]);
    let before = memory
        .tables
        .clusters
        .values()
        .find(|cluster| cluster.count_v6 == 1)
        .copied()
        .expect("v1");
    let old_slots: Vec<u32> = memory.slots_of(&before).collect();
    let old: Vec<EndpointValue> = old_slots.iter().map(|slot| memory.slots[slot]).collect();

    view.clusters[0]
        .endpoints
        .store(endpoints(&["10.0.0.2:1", "10.0.0.9:1", "[fd00::1]:1"]));
    // Two IPv4 slots and the cluster; the IPv6 list is unchanged.
    assert_eq!(apply(&mut planner, &mut memory, &view, &[]), 3);
    let kept: Vec<EndpointValue> = old_slots.iter().map(|slot| memory.slots[slot]).collect();
    assert_eq!(
        kept, old,
        "a program that still reads the old range sees the old endpoints"
    );
    let after = memory
        .tables
        .clusters
        .values()
        .find(|cluster| cluster.count_v6 == 1)
        .copied()
        .expect("v1");
    assert_eq!(
        (after.generation, after.start_v6),
        (before.generation, before.start_v6)
    );
    let staying = Addr::from_ip([10, 0, 0, 2].into());
    let live_id = |slots: &[EndpointValue]| {
        slots
            .iter()
            .find(|slot| slot.addr == staying)
            .map(|slot| slot.live_id)
    };
    let new: Vec<EndpointValue> = memory
        .slots_of(&after)
        .map(|slot| memory.slots[&slot])
        .collect();
    assert_eq!(
        live_id(&new),
        live_id(&old),
        "a staying endpoint keeps its count"
    );
}

#[test]
fn every_change_of_a_mesh_keeps_references_whole() {
    let (mut planner, mut memory) = (Planner::new(Tables::default()), Memory::default());
    // Five services over four clusters; each round rewires all of them. The seed is fixed.
    let mut random = 7_u32;
    let mut next = move |below: u32| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 16) % below
    };
    for _ in 0..300 {
        let clusters = (0..4)
            .map(|name| {
                let addresses: Vec<String> = (0..next(4))
                    .map(|last| format!("10.{name}.0.{}:1", last + next(3)))
                    .collect();
                let mut addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
                addresses.dedup();
                cluster(&format!("c{name}"), &addresses)
            })
            .collect();
        let services = (0..next(6))
            .map(|last| {
                let shares: Vec<(u32, usize)> = (0..=next(3))
                    .map(|_| (1 + next(9), next(4) as usize))
                    .collect();
                service(last as u8, (next(5) > 0).then(|| plan_of(split(&shares))))
            })
            .collect::<Vec<_>>();
        let overrides = (0..services.len())
            .filter(|_| next(2) == 0)
            .map(|service| KernelOverride {
                scope: 0,
                service,
                plan: None,
            })
            .collect();
        let view = KernelView {
            clusters,
            services,
            overrides,
            ..view()
        };
        apply(&mut planner, &mut memory, &view, &[]);
        assert_eq!(apply(&mut planner, &mut memory, &view, &[]), 0);
    }
}

#[test]
fn a_scope_that_hides_most_services_lists_what_it_sees() {
    let (mut planner, mut memory) = (Planner::new(Tables::default()), Memory::default());
    let services: Vec<KernelService> = (0..10)
        .map(|last| service(last, Some(plan_of(KernelAction::Proxy))))
        .collect();
    let overrides = (0..9)
        .map(|service| KernelOverride {
            scope: 0,
            service,
            plan: None,
        })
        .collect();
    let view = KernelView {
        services,
        overrides,
        clusters: Vec::new(),
        ..view()
    };
    apply(&mut planner, &mut memory, &view, &[]);
    assert_eq!(memory.tables.overrides.len(), 1, "the one that it sees");
    let flagged = memory
        .tables
        .scopes
        .values()
        .filter(|scope| scope.flags & ScopeValue::MISS_IS_HIDDEN != 0)
        .count();
    assert_eq!(flagged, 1);
}

#[test]
fn a_scope_stays_while_a_pod_names_it() {
    let (mut planner, mut memory) = (Planner::new(Tables::default()), Memory::default());
    apply(&mut planner, &mut memory, &view(), &[]);
    let bank = planner.scope_id("bank");
    let without = KernelView {
        scopes: view().scopes[..1].to_vec(),
        overrides: Vec::new(),
        ..view()
    };
    apply(&mut planner, &mut memory, &without, &[bank]);
    assert!(memory.tables.scopes.contains_key(&bank));
    assert_eq!(memory.tables.overrides.len(), 1);
    apply(&mut planner, &mut memory, &without, &[]);
    assert!(!memory.tables.scopes.contains_key(&bank));
    assert!(memory.tables.overrides.is_empty());
}

#[test]
fn what_the_kernel_cannot_balance_goes_to_the_proxy_and_says_so() {
    let mut planner = Planner::new(Tables::default());
    let view = view();
    let mut set = endpoints(&["10.0.0.1:1", "10.0.0.2:1"]);
    set.endpoints[0].weight = 1000;
    set.endpoints[1].weight = 999;
    view.clusters[0].endpoints.store(set);
    let plan = planner.plan(&view, &HashSet::new(), &|_| 0, Instant::now());
    assert_eq!(plan.problems.len(), 1);
    assert!(
        plan.problems[0]
            .message
            .ends_with("its connections take the proxy path"),
        "{:?}",
        plan.problems
    );
    let kinds: Vec<u8> = plan
        .writes
        .iter()
        .filter_map(|write| match write {
            Write::Service(EntryKey::Exact(key), Some(value))
                if key.addr.to_ip().to_string() == "10.96.0.1" =>
            {
                Some(value.action.kind)
            }
            _ => None,
        })
        .collect();
    assert_eq!(kinds, [Action::PROXY]);
}

#[test]
fn endpoints_alone_write_their_list_and_their_cluster() {
    let mut view = KernelView {
        services: vec![service(1, Some(plan_of(split(&[(1, 0)]))))],
        clusters: vec![
            cluster("a", &["10.1.0.1:80"]),
            cluster("b", &["10.1.0.9:80"]),
        ],
        ..KernelView::default()
    };
    let (mut planner, mut memory) = (Planner::new(Tables::default()), Memory::default());
    apply(&mut planner, &mut memory, &view, &[]);
    let changed = endpoints(&["10.1.0.2:80", "10.1.0.3:80"]);
    view.clusters[0].endpoints.store(changed);
    let now = Instant::now();
    let mut alone = |planner: &mut Planner, clusters: &[KernelCluster]| {
        let plan = planner.plan_endpoints(clusters.iter(), &|_| 0, now)?;
        assert_eq!(plan.problems, []);
        let mut slots = PendingSlots::default();
        for (step, write) in plan.writes.iter().enumerate() {
            memory.write(write);
            planner.applied(write, &mut slots, now);
            memory.check_references(step);
        }
        Some(plan.writes.len())
    };
    assert_eq!(alone(&mut planner, &view.clusters[..1]), Some(3));
    assert_eq!(
        alone(&mut planner, &view.clusters),
        Some(0),
        "nothing is left to do"
    );
    let stranger = [cluster("c", &["10.1.0.1:80"])];
    assert_eq!(
        alone(&mut planner, &stranger),
        None,
        "the maps do not hold it"
    );
    // A whole sync agrees.
    assert_eq!(apply(&mut planner, &mut memory, &view, &[]), 0);
    view.clusters.pop();
    assert_eq!(apply(&mut planner, &mut memory, &view, &[]), 1);
}
