//! Newtypes for what could be swapped by mistake.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// Who connected to us: the client's socket as the in-pod listener saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DownstreamAddr(pub SocketAddr);

/// Whom we connect to: one endpoint, or an original destination passed through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UpstreamAddr(pub SocketAddr);

/// The address the application dialled, before `connect()` was rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OriginalDst(pub SocketAddr);

/// The kernel's stable id of one network namespace (`SO_NETNS_COOKIE`, Linux 5.14).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetnsCookie(pub u64);

/// Index of a scope in one snapshot; pods with the same view share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, serde::Serialize)]
pub struct ScopeId(pub u32);

/// `metadata.uid` of a pod, as Kubernetes wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct PodUid(pub Arc<str>);

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// IPv4-mapped IPv6 addresses become IPv4, all others stay.
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The 16-byte form that all maps use: IPv6, or IPv4 as `::ffff:a.b.c.d`.
#[must_use]
pub fn octets16(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The inverse of [`octets16`].
#[must_use]
pub fn from_octets16(octets: [u8; 16]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(octets)).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_octets_come_back_as_the_same_address() {
        for text in ["10.1.2.3", "::1", "fd00::5", "0.0.0.0"] {
            let address: IpAddr = text.parse().expect("a literal address");
            assert_eq!(from_octets16(octets16(address)), address, "{text}");
        }
    }
}
