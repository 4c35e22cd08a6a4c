//! What the connections of one pod share, and what is known about one of them.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use proxy_common::pod::PodId;
use tokio::sync::watch;

use super::upstream::Upstreams;
use crate::net::{DownstreamAddr, NetnsCookie, OriginalDst, PodUid};
use crate::snapshot::SnapshotReader;
use crate::telemetry::record::{Recorder, WorkloadLabels};

/// Bounds of one worker; what happens at each is said beside it.
#[derive(Debug, Clone)]
pub struct WorkerLimits {
    /// Connections of one pod; further ones are reset at once and counted.
    pub connections_per_pod_max: usize,
    /// Connections of one worker; further ones are reset at once and counted.
    pub connections_max: usize,
}

impl Default for WorkerLimits {
    fn default() -> Self {
        Self {
            // A pod has about 28,000 source ports towards its listener, less by far in use.
            connections_per_pod_max: 16_384,
            connections_max: 65_536,
        }
    }
}

/// Everything that the connections of one pod share on its home worker.
#[derive(Debug)]
pub struct PodContext {
    /// `metadata.uid`.
    pub uid: PodUid,
    /// How the kernel knows the pod.
    pub id: PodId,
    /// The namespace of its listeners.
    pub netns: NetnsCookie,
    /// When they were opened, by [`crate::net::monotonic_ns`].
    pub listening_since_ns: u64,
    /// Load once per request or connection.
    pub snapshot: SnapshotReader,
    /// Clusters as this pod sees them.
    pub upstreams: Upstreams,
    /// Where records go.
    pub recorder: ArcRecorder,
    /// Who the client is.
    pub labels: Arc<WorkloadLabels>,
    /// `true` once connections shall end at their next boundary.
    pub draining: watch::Receiver<bool>,
    /// Live numbers.
    pub stats: Rc<PodStats>,
    pub(super) server_first: RefCell<ServerFirst>,
    pub(super) listen_addrs: Vec<SocketAddr>,
}

/// A [`Recorder`] that prints as nothing.
#[derive(Clone)]
pub struct ArcRecorder(pub Arc<dyn Recorder>);

impl std::fmt::Debug for ArcRecorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Recorder")
    }
}

/// Live numbers of one pod.
#[derive(Debug, Default)]
pub struct PodStats {
    /// Open client connections.
    pub connections: Cell<usize>,
    /// Accepted since the start.
    pub accepted: Cell<u64>,
    /// Reset because nobody captured them.
    pub strangers: Cell<u64>,
    /// Reset because of [`WorkerLimits`].
    pub refused_over_limit: Cell<u64>,
    /// Ended by a panic in their own task.
    pub panicked: Cell<u64>,
    /// CPU time of the pod's tasks.
    pub busy: Cell<Duration>,
}

/// What is known about one connection before its first byte is served.
#[derive(Debug, Clone)]
pub struct ConnectionFacts {
    /// The client's socket.
    pub downstream: DownstreamAddr,
    /// What it dialled.
    pub original_dst: OriginalDst,
    /// It starts with the HTTP/2 preface.
    pub is_http2: bool,
}

impl ConnectionFacts {
    /// The source address that the application bound itself, to be bound upstream too.
    #[must_use]
    pub fn bound_source(&self) -> Option<IpAddr> {
        bound_source(self.downstream)
    }
}

/// An unbound client of a listener on loopback has a loopback address.
pub(super) fn bound_source(downstream: DownstreamAddr) -> Option<IpAddr> {
    let source = downstream.0.ip().to_canonical();
    (!source.is_loopback() && !source.is_unspecified()).then_some(source)
}

/// The client as its peers would see it without Mizzen: one that dialled through the in-pod
/// listener shows a loopback address.
pub(super) fn client_address(
    pod: &PodContext,
    downstream: DownstreamAddr,
    original_dst: OriginalDst,
) -> SocketAddr {
    let seen = downstream.0;
    if !seen.ip().to_canonical().is_loopback() {
        return seen;
    }
    let snapshot = pod.snapshot.load();
    let dialled = original_dst.0.ip().to_canonical();
    let own = snapshot.pods.get(&pod.uid).and_then(|view| {
        let same_family = |ip: &&IpAddr| ip.is_ipv4() == dialled.is_ipv4();
        view.ips.iter().find(same_family)
    });
    match own {
        Some(ip) => SocketAddr::new(*ip, seen.port()),
        None => seen,
    }
}

/// Addresses whose server spoke first: sniffing no longer waits for the client there.
#[derive(Debug, Default)]
pub(super) struct ServerFirst(HashSet<(IpAddr, u16)>);

/// Addresses remembered per pod; beyond, the memory starts anew, and each address
/// costs one detection time-out again.
const SERVER_FIRST_MAX: usize = 4096;

impl ServerFirst {
    pub(super) fn contains(&self, dst: OriginalDst) -> bool {
        self.0.contains(&(dst.0.ip(), dst.0.port()))
    }

    pub(super) fn insert(&mut self, dst: OriginalDst) {
        if self.0.len() >= SERVER_FIRST_MAX {
            self.0.clear();
        }
        self.0.insert((dst.0.ip(), dst.0.port()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_that_the_application_chose_is_bound_upstream() {
        for (source, expected) in [
            ("127.0.0.1:4000", None),
            ("[::1]:4000", None),
            ("[::ffff:127.0.0.1]:4000", None),
            ("10.1.2.3:4000", Some("10.1.2.3")),
            ("[::ffff:10.1.2.3]:4000", Some("10.1.2.3")),
        ] {
            let source = DownstreamAddr(source.parse().expect("an address"));
            let expected = expected.map(|text| text.parse().expect("an address"));
            assert_eq!(bound_source(source), expected);
        }
    }
}
