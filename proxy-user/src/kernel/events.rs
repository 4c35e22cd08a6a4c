//! Flow records from the ring buffer, with names instead of ids.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use aya::maps::{MapData, RingBuf};
use proxy_common::{
    addr::{Addr, PortBe},
    flow::FlowEvent,
    pod::PodId,
    reason::Reason,
    socket::SocketState,
};

use super::sync::Names;
use crate::snapshot::clusters::ClusterKey;

/// One thing that happened to a connection that no proxy sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// What.
    pub kind: FlowKind,
    /// How connect decided.
    pub path: FlowPath,
    /// Why.
    pub reason: Reason,
    /// Which pod dialled.
    pub pod: PodId,
    /// Unique to the socket until reboot.
    pub socket_cookie: u64,
    /// The client's address; port 0 for a refused connection.
    pub client: SocketAddr,
    /// What the application dialled.
    pub original: SocketAddr,
    /// Where the packets went; `None` for a refused connection.
    pub endpoint: Option<SocketAddr>,
    /// `host:port` of the service, if one was found.
    pub service: Option<Arc<str>>,
    /// The cluster that was picked.
    pub cluster: Option<ClusterKey>,
    /// Payload that the peer acknowledged, from a close on.
    pub sent_bytes: u64,
    /// Payload that arrived, from a close on.
    pub received_bytes: u64,
    /// Since `connect()`.
    pub duration: Duration,
}

/// See [`Flow::kind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowKind {
    /// The handshake is done.
    Opened,
    /// An open connection ended.
    Closed,
    /// The handshake never finished.
    Failed,
    /// `connect()` answered ECONNREFUSED.
    Refused,
}

/// See [`Flow::path`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowPath {
    /// To an endpoint that the kernel chose.
    Kernel,
    /// Untouched.
    Pass,
    /// Nowhere.
    None,
}

/// The one reader of `FLOW_EVENTS`. The kernel wakes nobody for a record; read every so often.
pub struct FlowEvents {
    ring: RingBuf<MapData>,
    names: Arc<ArcSwap<Names>>,
}

impl FlowEvents {
    pub(super) fn new(ring: RingBuf<MapData>, names: Arc<ArcSwap<Names>>) -> Self {
        Self { ring, names }
    }

    /// The next flow, or `None` when the buffer is empty.
    pub fn next_flow(&mut self) -> Option<Flow> {
        loop {
            let item = self.ring.next()?;
            // Records of another length are not ours; skipped, as a newer layout would be.
            if let Some(event) = parse(&item) {
                return Some(flow(&event, &self.names.load()));
            }
        }
    }
}

fn parse(bytes: &[u8]) -> Option<FlowEvent> {
    if bytes.len() != size_of::<FlowEvent>() {
        return None;
    }
    // SAFETY: as long as the type, in which every bit pattern is valid; alignment does not matter.
    Some(unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) })
}

fn flow(event: &FlowEvent, names: &Names) -> Flow {
    let address = |addr: Addr, port: PortBe| SocketAddr::new(addr.to_ip(), port.to_host());
    Flow {
        kind: match event.kind {
            FlowEvent::OPENED => FlowKind::Opened,
            FlowEvent::CLOSED => FlowKind::Closed,
            FlowEvent::REFUSED => FlowKind::Refused,
            _ => FlowKind::Failed,
        },
        path: match event.path {
            SocketState::PATH_KERNEL => FlowPath::Kernel,
            SocketState::PATH_PASS => FlowPath::Pass,
            _ => FlowPath::None,
        },
        reason: Reason::from_number(event.reason).unwrap_or(Reason::None),
        pod: event.pod,
        socket_cookie: event.socket_cookie,
        client: address(event.client, event.client_port),
        original: address(event.original, event.original_port),
        endpoint: (!event.endpoint_port.is_none())
            .then(|| address(event.endpoint, event.endpoint_port)),
        service: names.services.get(&event.service_id).cloned(),
        cluster: names.clusters.get(&event.cluster_id).cloned(),
        sent_bytes: event.sent_bytes,
        received_bytes: event.received_bytes,
        duration: Duration::from_nanos(event.now_ns.saturating_sub(event.connect_ns)),
    }
}
