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
#[path = "balance_tests.rs"]
pub(crate) mod tests;
