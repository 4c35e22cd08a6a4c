//! What the programs remember of one socket, and original destinations for the proxy's accept.

use crate::{
    addr::{Addr, PortBe},
    plain_bytes,
    pod::PodId,
};

/// Value of `SK_STORAGE`: what `connect()` decided. It dies with its socket.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SocketState {
    /// Which pod dialled.
    pub pod: PodId,
    /// The address that the application dialled.
    pub original: Addr,
    /// What getsockname shows instead of a loopback address; unspecified shows the truth.
    pub shown: Addr,
    /// The chosen endpoint on the kernel path.
    pub endpoint: Addr,
    /// Port of `original`.
    pub original_port: PortBe,
    /// Port of `endpoint`, or of the listener on the proxy path.
    pub endpoint_port: PortBe,
    /// One of [`SocketState::PATH_PROXY`] to [`SocketState::PATH_PASS`]; zero: not decided.
    pub path: u8,
    /// [`SocketState::COUNTED`], [`SocketState::ESTABLISHED`].
    pub flags: u8,
    /// Why, as a [`crate::reason::Reason`] number.
    pub reason: u8,
    /// Always zero.
    pub reserved: u8,
    /// Scope of the client pod.
    pub scope: u32,
    /// Service that was found.
    pub service_id: u32,
    /// Cluster that was picked on the kernel path.
    pub cluster_id: u32,
    /// Index in `LIVE_COUNTS`.
    pub live_id: u32,
    /// When `connect()` ran, monotonic ns.
    pub connect_ns: u64,
}
plain_bytes!(SocketState, 96);

impl SocketState {
    /// Handed to the pod's listener.
    pub const PATH_PROXY: u8 = 1;
    /// Sent to an endpoint by the kernel.
    pub const PATH_KERNEL: u8 = 2;
    /// Untouched, but the service is known: flow record only.
    pub const PATH_PASS: u8 = 3;

    /// `LIVE_COUNTS[live_id]` includes this socket; on the proxy path `CONNECTING[pod]` does.
    pub const COUNTED: u8 = 1;
    /// The handshake was done.
    pub const ESTABLISHED: u8 = 2;
}

/// Key of `ORIGINAL_DSTS`: one captured connection as the listener's accept sees it.
///
/// The address tells the family of the packets: v4 and v6 share port numbers, so a port alone
/// would mix two connections up.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct OriginalDstKey {
    /// Cookie of the namespace that holds both ends.
    pub netns_cookie: u64,
    /// The client's address.
    pub addr: Addr,
    /// The client's port.
    pub port: PortBe,
    /// The listener's port: in the host's namespace several pods have one.
    pub listener: PortBe,
    /// Always zero.
    pub reserved: u32,
}
plain_bytes!(OriginalDstKey, 32);

/// Value of `ORIGINAL_DSTS`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OriginalDstValue {
    /// Which pod dialled: a listener's port may have been another pod's before.
    pub pod: PodId,
    /// The address that the application dialled.
    pub addr: Addr,
    /// Its port.
    pub port: PortBe,
    /// Always zero.
    pub reserved: u16,
    /// Scope of the client pod at that time.
    pub scope: u32,
    /// Service that the kernel found, zero for none.
    pub service_id: u32,
    /// Always zero.
    pub reserved_2: u32,
    /// When the SYN was about to leave, monotonic ns.
    pub inserted_ns: u64,
}
plain_bytes!(OriginalDstValue, 56);
