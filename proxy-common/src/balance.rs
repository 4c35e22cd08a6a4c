//! Which endpoint a kernel-path connection gets: weighted destination, then endpoint. Start at
//! [`pick`].

use crate::{
    addr::{Addr, Family, PortBe},
    cluster::{CLUSTER_NONE, ClusterValue, EndpointValue, LIVE_NONE, SPLIT_MAX, SplitValue},
    service::Action,
};

/// The tables that a pick reads; eBPF maps, or a fake in tests.
pub trait Tables {
    /// `CLUSTERS`.
    fn cluster(&self, id: u32) -> Option<&ClusterValue>;
    /// `SPLITS`.
    fn split(&self, id: u32) -> Option<&SplitValue>;
    /// `ENDPOINTS`.
    fn endpoint(&self, slot: u32) -> Option<&EndpointValue>;
    /// Uniform over all of `u32`.
    fn random(&self) -> u32;
    /// Counts a turn of this cluster and returns how many there were before.
    fn next_turn(&self, cluster_id: u32) -> u64;
    /// A hash of the client's address.
    fn source_hash(&self) -> u32;
    /// `LIVE_COUNTS`.
    fn live_count(&self, live_id: u32) -> u64;
}

/// What a pick found. Flat, with every field always set: the verifier refuses to copy the unset
/// half of an enum's payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pick {
    /// Whether there is an endpoint, and why not.
    pub outcome: Outcome,
    /// The chosen slot.
    pub endpoint: EndpointValue,
    /// The cluster that it is of; zero for none.
    pub cluster_id: u32,
    /// Whether the cluster sets TCP keepalive.
    pub keepalive: bool,
}

/// See [`Pick`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Connect there.
    Endpoint,
    /// The cluster asks for the address that was dialled.
    Original,
    /// Nothing to connect to, in either family.
    Empty,
    /// Endpoints of the other family only.
    OtherFamily,
    /// A table names something that is gone or of another generation.
    Mismatch,
}

impl Pick {
    #[inline(always)]
    const fn none(outcome: Outcome, cluster_id: u32) -> Self {
        let endpoint = EndpointValue {
            addr: Addr::UNSPECIFIED,
            port: PortBe(0),
            reserved: 0,
            live_id: LIVE_NONE,
        };
        Self {
            outcome,
            endpoint,
            cluster_id,
            keepalive: false,
        }
    }

    #[inline(always)]
    const fn some(endpoint: EndpointValue, cluster_id: u32, keepalive: bool) -> Self {
        Self {
            outcome: Outcome::Endpoint,
            endpoint,
            cluster_id,
            keepalive,
        }
    }
}

/// Picks the endpoint for one connection.
///
/// `action`: of kind [`Action::CLUSTER`] or [`Action::SPLIT`]. `dialled`: names the family, since
/// a socket of one family cannot reach endpoints of the other.
#[inline(always)]
pub fn pick<T: Tables>(tables: &T, action: &Action, dialled: Addr) -> Pick {
    if action.kind != Action::SPLIT {
        return pick_endpoint(tables, action.target, action.generation, dialled);
    }
    let Some(split) = tables.split(action.target) else {
        return Pick::none(Outcome::Mismatch, 0);
    };
    if split.generation != action.generation {
        return Pick::none(Outcome::Mismatch, 0);
    }
    let ticket = scale(tables.random(), split.weight_total);
    let mut at = 0;
    while at < SPLIT_MAX {
        let entry = &split.entries[at];
        if ticket < entry.weight_up_to {
            return pick_endpoint(tables, entry.cluster_id, entry.generation, dialled);
        }
        at += 1;
    }
    Pick::none(Outcome::Mismatch, 0)
}

#[inline(always)]
fn pick_endpoint<T: Tables>(tables: &T, cluster_id: u32, generation: u32, dialled: Addr) -> Pick {
    if cluster_id == CLUSTER_NONE {
        return Pick::none(Outcome::Empty, 0);
    }
    let Some(cluster) = tables.cluster(cluster_id) else {
        return Pick::none(Outcome::Mismatch, 0);
    };
    if cluster.generation != generation {
        return Pick::none(Outcome::Mismatch, 0);
    }
    let keepalive = cluster.flags & ClusterValue::KEEPALIVE != 0;
    if cluster.policy == ClusterValue::PASSTHROUGH {
        if cluster.port.is_none() {
            return Pick::none(Outcome::Original, cluster_id);
        }
        let endpoint = EndpointValue {
            addr: dialled,
            port: cluster.port,
            reserved: 0,
            live_id: LIVE_NONE,
        };
        return Pick::some(endpoint, cluster_id, keepalive);
    }
    let (start, count, other) = match dialled.family() {
        Family::V4 => (cluster.start_v4, cluster.count_v4, cluster.count_v6),
        Family::V6 => (cluster.start_v6, cluster.count_v6, cluster.count_v4),
    };
    if count == 0 {
        return Pick::none(
            if other == 0 {
                Outcome::Empty
            } else {
                Outcome::OtherFamily
            },
            0,
        );
    }
    let is_weighted = cluster.flags & ClusterValue::WEIGHTED != 0;
    let slot = match cluster.policy {
        ClusterValue::RANDOM => scale(tables.random(), count),
        ClusterValue::LEAST_REQUEST if !is_weighted => less_busy(tables, start, count),
        ClusterValue::SOURCE_IP => scale(tables.source_hash(), count),
        _ => (tables.next_turn(cluster_id) % count as u64) as u32,
    };
    match tables.endpoint(start.wrapping_add(slot)) {
        Some(endpoint) if endpoint.port.0 != 0 => Pick::some(*endpoint, cluster_id, keepalive),
        _ => Pick::none(Outcome::Mismatch, 0),
    }
}

/// Two random choices with replacement, the one with fewer live connections
/// (Envoy, "Weighted least request", all weights equal, choice count 2).
#[inline(always)]
fn less_busy<T: Tables>(tables: &T, start: u32, count: u32) -> u32 {
    let first = scale(tables.random(), count);
    let second = scale(tables.random(), count);
    let load = |slot: u32| match tables.endpoint(start.wrapping_add(slot)) {
        Some(endpoint) => tables.live_count(endpoint.live_id),
        None => u64::MAX,
    };
    if load(second) < load(first) {
        second
    } else {
        first
    }
}

/// Maps a uniform `u32` to `0..below` without a division.
#[inline(always)]
const fn scale(random: u32, below: u32) -> u32 {
    ((random as u64 * below as u64) >> 32) as u32
}

#[cfg(test)]
pub(crate) mod tests {
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
            let (weight_up_to, cluster_id) =
                [(80, 1), (80, 2)].get(at).copied().unwrap_or((100, 3));
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
}
