//! Clusters, their endpoints, and weighted splits over them.

use crate::{
    addr::{Addr, PortBe},
    plain_bytes,
};

/// Id that no cluster has: a destination without endpoints or without its subset.
pub const CLUSTER_NONE: u32 = 0;

/// `live_id` of what is not counted.
pub const LIVE_NONE: u32 = u32::MAX;

/// Endpoint weights are spread over at most this many slots; finer ones take the proxy path.
pub const SLOTS_MAX: u32 = 256;

/// Destinations in one kernel split; more take the proxy path.
pub const SPLIT_MAX: usize = 16;

/// Value of `CLUSTERS`, keyed by cluster id. Replaced in one step, after its ranges are written.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClusterValue {
    /// Hash of the cluster's name, so that a new daemon finds its id again.
    pub key_hash: u64,
    /// Changes when the id is given to another cluster.
    pub generation: u32,
    /// One of [`ClusterValue::ROUND_ROBIN`] to [`ClusterValue::SOURCE_IP`].
    pub policy: u8,
    /// [`ClusterValue::KEEPALIVE`], [`ClusterValue::WEIGHTED`].
    pub flags: u8,
    /// Replaces the dialled port under [`ClusterValue::PASSTHROUGH`]; zero keeps it.
    pub port: PortBe,
    /// First slot of the IPv4 endpoints in `ENDPOINTS`.
    pub start_v4: u32,
    /// How many slots they take.
    pub count_v4: u32,
    /// First slot of the IPv6 endpoints.
    pub start_v6: u32,
    /// How many slots they take.
    pub count_v6: u32,
    /// `TCP_KEEPIDLE` in seconds, zero leaves it (Istio `tcpKeepalive.time`).
    pub keepalive_time_s: u32,
    /// `TCP_KEEPINTVL` in seconds, zero leaves it.
    pub keepalive_interval_s: u32,
    /// `TCP_KEEPCNT`, zero leaves it.
    pub keepalive_probes: u32,
    /// Always zero.
    pub reserved: u32,
}
plain_bytes!(ClusterValue, 48);

impl ClusterValue {
    /// Slots in turn (Envoy's default spreads weights the same way).
    pub const ROUND_ROBIN: u8 = 0;
    /// Any slot.
    pub const RANDOM: u8 = 1;
    /// The less busy of two random slots (Envoy `LEAST_REQUEST`, two choices).
    pub const LEAST_REQUEST: u8 = 2;
    /// The address that was dialled (Istio `PASSTHROUGH`).
    pub const PASSTHROUGH: u8 = 3;
    /// Always the same slot for one client address, as long as the list stays.
    pub const SOURCE_IP: u8 = 4;

    /// Set `SO_KEEPALIVE` and the three fields above.
    pub const KEEPALIVE: u8 = 1;
    /// Endpoint weights differ: least request takes the slots in turn.
    pub const WEIGHTED: u8 = 2;
}

/// One slot of `ENDPOINTS`; a weighted endpoint has several.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct EndpointValue {
    /// Where to connect.
    pub addr: Addr,
    /// Network byte order.
    pub port: PortBe,
    /// Always zero.
    pub reserved: u16,
    /// Index in `LIVE_COUNTS`; the same for all slots of one endpoint, kept over list changes.
    /// [`LIVE_NONE`] is not counted.
    pub live_id: u32,
}
plain_bytes!(EndpointValue, 24);

/// One destination of a split.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct SplitEntry {
    /// Weights of this and all earlier entries together; unused entries repeat the total.
    pub weight_up_to: u32,
    /// Cluster id, or [`CLUSTER_NONE`].
    pub cluster_id: u32,
    /// Generation that the cluster must carry.
    pub generation: u32,
}
plain_bytes!(SplitEntry, 12);

/// Value of `SPLITS`, keyed by split id.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SplitValue {
    /// Changes when the id is given to another split.
    pub generation: u32,
    /// Sum of all weights, at least 1.
    pub weight_total: u32,
    /// In route order.
    pub entries: [SplitEntry; SPLIT_MAX],
}
plain_bytes!(SplitValue, 200);
