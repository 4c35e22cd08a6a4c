//! What the daemon may ask a worker about: answers for `status`, `top` and `get connections`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proxy_common::pod::PodId;

use crate::net::PodUid;

use super::upstream::ClusterCounts;

/// One worker at one moment.
#[derive(Debug, Clone)]
pub struct WorkerStatus {
    /// Its number.
    pub id: u32,
    /// Its pods.
    pub pods: Vec<PodStatus>,
}

/// One pod at one moment.
#[derive(Debug, Clone)]
pub struct PodStatus {
    /// `metadata.uid`.
    pub uid: PodUid,
    /// How the kernel knows it.
    pub id: PodId,
    /// Open client connections.
    pub connections: usize,
    /// Accepted since the start.
    pub accepted: u64,
    /// Reset because nobody captured them.
    pub strangers: u64,
    /// Reset because of the worker's limits.
    pub refused_over_limit: u64,
    /// Ended by a panic in their own task.
    pub panicked: u64,
    /// CPU time of its tasks.
    pub busy: Duration,
    /// Live counts per cluster.
    pub clusters: Vec<ClusterCounts>,
}

/// One open client connection.
#[derive(Debug, Clone)]
pub struct ConnectionView {
    /// The pod.
    pub pod: PodUid,
    /// The client's socket, as its peers would see it without Mizzen.
    pub downstream: SocketAddr,
    /// When it was accepted.
    pub start: SystemTime,
    /// What it dialled, once known.
    pub original_dst: Option<SocketAddr>,
    /// `http`, `http2`, `tcp`, or empty while it is sniffed.
    pub protocol: &'static str,
    /// Cluster of a relayed connection.
    pub cluster: Option<Arc<str>>,
    /// Endpoint of a relayed connection; HTTP chooses one per request.
    pub upstream: Option<SocketAddr>,
    /// Bytes of a relayed connection, at most some seconds old: from the client, to it.
    pub moved: Option<(u64, u64)>,
}
