//! Addresses, sockets and the bridges between rooms that may not know each other.
//!
//! Nothing here knows who calls it. Start at [`addr`] for the words and
//! [`bridge`] for the traits that kernel, node and dns implement and the proxy asks.

pub mod addr;
pub mod bridge;
pub mod clock;
pub mod socket;

pub use addr::{DownstreamAddr, NetnsCookie, OriginalDst, PodUid, ScopeId};
pub use bridge::{
    Accepted, CapturedDst, Heartbeat, NameError, NameResolver, NoNames, OriginalDstSource,
    SocketFactory,
};
pub use clock::monotonic_ns;
