use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

use super::*;
use crate::cluster::SplitEntry;

#[derive(Default)]
pub(crate) struct FakeTables {
    pub(crate) clusters: BTreeMap<u32, ClusterValue>,
    pub(crate) splits: BTreeMap<u32, SplitValue>,
    pub(crate) endpoints: Vec<EndpointValue>,
    pub(crate) turns: RefCell<BTreeMap<u32, u64>>,
    pub(crate) live: BTreeMap<u32, u64>,
    pub(crate) seed: Cell<u64>,
}

impl Tables for FakeTables {
    fn cluster(&self, id: u32) -> Option<&ClusterValue> {
        self.clusters.get(&id)
    }
    fn split(&self, id: u32) -> Option<&SplitValue> {
        self.splits.get(&id)
    }
    fn endpoint(&self, slot: u32) -> Option<&EndpointValue> {
        self.endpoints.get(slot as usize)
    }
    fn random(&self) -> u32 {
        // Knuth's MMIX generator: spread is all that the tests need.
        let next = self
            .seed
            .get()
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.seed.set(next);
        (next >> 32) as u32
    }
    fn next_turn(&self, cluster_id: u32) -> u64 {
        let mut turns = self.turns.borrow_mut();
        let turn = turns.entry(cluster_id).or_default();
        *turn += 1;
        *turn - 1
    }
    fn source_hash(&self) -> u32 {
        0x8000_0000
    }
    fn live_count(&self, live_id: u32) -> u64 {
        self.live.get(&live_id).copied().unwrap_or(0)
    }
}

pub(crate) fn endpoint(last: u8) -> EndpointValue {
    EndpointValue {
        addr: Addr::from_v4_word(u32::from_ne_bytes([10, 0, 0, last])),
        port: PortBe::from_host(9000),
        reserved: 0,
        live_id: last.into(),
    }
}

const V4: Addr = Addr::from_v4_word(u32::from_ne_bytes([10, 96, 0, 1]));

fn tables(policy: u8) -> FakeTables {
    let cluster = ClusterValue {
        generation: 7,
        policy,
        count_v4: 3,
        ..ClusterValue::default()
    };
    FakeTables {
        clusters: [(1, cluster)].into(),
        endpoints: vec![endpoint(1), endpoint(2), endpoint(3)],
        ..FakeTables::default()
    }
}

fn picks(tables: &FakeTables, action: Action, times: u32) -> BTreeMap<u32, u32> {
    let mut counts = BTreeMap::new();
    for _ in 0..times {
        let picked = pick(tables, &action, V4);
        assert_eq!(picked.outcome, Outcome::Endpoint);
        *counts.entry(picked.endpoint.live_id).or_default() += 1;
    }
    counts
}

#[test]
fn round_robin_takes_turns_and_random_takes_each() {
    let action = Action::with_target(Action::CLUSTER, 1, 7);
    assert_eq!(
        picks(&tables(ClusterValue::ROUND_ROBIN), action, 300),
        [(1, 100), (2, 100), (3, 100)].into()
    );
    let random = picks(&tables(ClusterValue::RANDOM), action, 3000);
    assert!(
        random.values().all(|count| (850..1150).contains(count)),
        "{random:?}"
    );
}

#[test]
fn a_client_keeps_its_endpoint_by_source_ip() {
    let counts = picks(
        &tables(ClusterValue::SOURCE_IP),
        Action::with_target(Action::CLUSTER, 1, 7),
        100,
    );
    assert_eq!(counts, [(2, 100)].into());
}

#[test]
fn passthrough_may_replace_the_port() {
    let mut tables = tables(ClusterValue::PASSTHROUGH);
    if let Some(cluster) = tables.clusters.get_mut(&1) {
        cluster.port = PortBe::from_host(8443);
    }
    let endpoint = EndpointValue {
        addr: V4,
        port: PortBe::from_host(8443),
        reserved: 0,
        live_id: LIVE_NONE,
    };
    let expected = Pick::some(endpoint, 1, false);
    assert_eq!(
        pick(&tables, &Action::with_target(Action::CLUSTER, 1, 7), V4),
        expected
    );
}

#[test]
fn least_request_prefers_the_less_busy_and_by_weight_takes_turns() {
    let action = Action::with_target(Action::CLUSTER, 1, 7);
    let mut busy = tables(ClusterValue::LEAST_REQUEST);
    busy.live = [(1, 10), (2, 0), (3, 10)].into();
    // Endpoint 2 wins unless neither choice hits it: 1 - (2/3)^2 = 5/9.
    let counts = picks(&busy, action, 9000);
    assert!((4700..5300).contains(&counts[&2]), "{counts:?}");
    if let Some(cluster) = busy.clusters.get_mut(&1) {
        cluster.flags = ClusterValue::WEIGHTED;
    }
    assert_eq!(
        picks(&busy, action, 300),
        [(1, 100), (2, 100), (3, 100)].into()
    );
}

#[test]
fn splits_follow_their_weights_and_zero_gets_nothing() {
    let mut tables = tables(ClusterValue::ROUND_ROBIN);
    for (id, start) in [(1, 0), (2, 1), (3, 2)] {
        let value = ClusterValue {
            generation: 1,
            start_v4: start,
            count_v4: 1,
            ..ClusterValue::default()
        };
        tables.clusters.insert(id, value);
    }
    let mut split = SplitValue {
        generation: 4,
        weight_total: 100,
        ..SplitValue::default()
    };
    for (at, entry) in split.entries.iter_mut().enumerate() {
        let (weight_up_to, cluster_id) = [(80, 1), (80, 2)].get(at).copied().unwrap_or((100, 3));
        *entry = SplitEntry {
            weight_up_to,
            cluster_id,
            generation: 1,
        };
    }
    tables.splits.insert(9, split);
    let counts = picks(&tables, Action::with_target(Action::SPLIT, 9, 4), 10_000);
    assert!((7800..8200).contains(&counts[&1]), "{counts:?}");
    assert_eq!(counts.get(&2), None);
}

#[test]
fn what_cannot_be_picked_says_why() {
    let tables = FakeTables {
        clusters: [
            (
                1,
                ClusterValue {
                    generation: 1,
                    ..ClusterValue::default()
                },
            ),
            (
                2,
                ClusterValue {
                    generation: 1,
                    count_v6: 1,
                    ..ClusterValue::default()
                },
            ),
            (
                3,
                ClusterValue {
                    generation: 1,
                    count_v4: 1,
                    start_v4: 99,
                    ..ClusterValue::default()
                },
            ),
            (
                4,
                ClusterValue {
                    generation: 1,
                    policy: ClusterValue::PASSTHROUGH,
                    ..ClusterValue::default()
                },
            ),
        ]
        .into(),
        ..FakeTables::default()
    };
    for (kind, target, generation, expected) in [
        (Action::CLUSTER, CLUSTER_NONE, 0, Outcome::Empty), // a missing subset
        (Action::CLUSTER, 1, 1, Outcome::Empty),
        (Action::CLUSTER, 1, 2, Outcome::Mismatch), // the id belongs to another cluster now
        (Action::CLUSTER, 2, 1, Outcome::OtherFamily),
        (Action::CLUSTER, 3, 1, Outcome::Mismatch), // slot outside the array
        (Action::CLUSTER, 4, 1, Outcome::Original),
        (Action::CLUSTER, 5, 1, Outcome::Mismatch),
        (Action::SPLIT, 1, 1, Outcome::Mismatch),
    ] {
        let action = Action::with_target(kind, target, generation);
        assert_eq!(
            pick(&tables, &action, V4).outcome,
            expected,
            "{kind} {target} {generation}"
        );
    }
}
