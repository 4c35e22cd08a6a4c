//! Flow records: what `sockops` tells userspace about connections that no proxy sees.

use crate::{
    addr::{Addr, PortBe},
    plain_bytes,
    pod::PodId,
};

/// One event of `FLOW_EVENTS`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FlowEvent {
    /// Which pod dialled.
    pub pod: PodId,
    /// The client's address.
    pub client: Addr,
    /// The address that the application dialled.
    pub original: Addr,
    /// Where the packets went.
    pub endpoint: Addr,
    /// The client's port.
    pub client_port: PortBe,
    /// Port of `original`.
    pub original_port: PortBe,
    /// Port of `endpoint`.
    pub endpoint_port: PortBe,
    /// [`FlowEvent::OPENED`], [`FlowEvent::CLOSED`], [`FlowEvent::FAILED`] or [`FlowEvent::REFUSED`].
    pub kind: u8,
    /// As in [`crate::socket::SocketState::path`].
    pub path: u8,
    /// Scope of the client pod.
    pub scope: u32,
    /// Service that was found.
    pub service_id: u32,
    /// Cluster that was picked; zero when the connection passed.
    pub cluster_id: u32,
    /// TCP state before the close, as in the kernel's `tcp_states.h`.
    pub old_state: u8,
    /// Why, as a [`crate::reason::Reason`] number.
    pub reason: u8,
    /// Always zero.
    pub reserved: u16,
    /// Unique to the socket until reboot (`bpf_get_socket_cookie`).
    pub socket_cookie: u64,
    /// Payload that the peer acknowledged.
    pub sent_bytes: u64,
    /// Payload that arrived in order.
    pub received_bytes: u64,
    /// When `connect()` ran, monotonic ns.
    pub connect_ns: u64,
    /// When this event was made, monotonic ns.
    pub now_ns: u64,
}
plain_bytes!(FlowEvent, 128);

impl FlowEvent {
    /// The handshake is done.
    pub const OPENED: u8 = 1;
    /// An open connection ended.
    pub const CLOSED: u8 = 2;
    /// The handshake never finished.
    pub const FAILED: u8 = 3;
    /// `connect()` answered ECONNREFUSED; `reason` says why.
    pub const REFUSED: u8 = 4;
}

/// One line of the live iterator: a socket of the kernel path or a passed one, with its bytes.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LiveFlow {
    /// See [`FlowEvent::socket_cookie`].
    pub socket_cookie: u64,
    /// Payload that the peer acknowledged so far.
    pub sent_bytes: u64,
    /// Payload that arrived so far.
    pub received_bytes: u64,
    /// What `connect()` decided.
    pub state: crate::socket::SocketState,
}
plain_bytes!(LiveFlow, 120);
