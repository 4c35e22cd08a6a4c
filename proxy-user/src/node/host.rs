//! Sockets of host-network pods, and where no rule may lead them.
//!
//! The proxy has more rights than whoever writes a rule. In a pod's own namespace that does no
//! harm: it reaches what the pod itself reaches. In the host's namespace loopback, link-local
//! addresses and the node's own services would come within a tenant's reach.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use socket2::Socket;

use super::netns::{ip_families, open_tcp_here};
use crate::net::{NetnsCookie, SocketFactory};

/// Ports of the kubelet: its API and its read-only one (Kubernetes, "Ports and Protocols").
const KUBELET_PORTS: [u16; 2] = [10_250, 10_255];

/// What is the host's alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostGuard {
    /// Cookie of the host's namespace, which is the daemon's own.
    pub netns: NetnsCookie,
    /// Ports of the node's own services.
    ports: Vec<u16>,
}

impl HostGuard {
    /// The guard of a daemon that listens on these ports, in this thread's namespace.
    ///
    /// # Errors
    /// The kernel is older than 5.14.
    pub fn new(daemon_ports: impl IntoIterator<Item = u16>) -> io::Result<Self> {
        let mut ports: Vec<u16> = daemon_ports.into_iter().filter(|port| *port != 0).collect();
        ports.extend(KUBELET_PORTS);
        ports.sort_unstable();
        ports.dedup();
        Ok(Self {
            netns: super::netns::home_cookie()?,
            ports,
        })
    }

    /// Ports of the node's own services, on whichever address of the host.
    #[must_use]
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// Why no rule may lead to `towards`, if so. Call it in the host's namespace.
    #[must_use]
    pub fn forbids(&self, towards: SocketAddr) -> Option<&'static str> {
        let ip = towards.ip().to_canonical();
        if ip.is_loopback() {
            return Some("a loopback address of the host");
        }
        if ip.is_unspecified() {
            return Some("the unspecified address, which is the host's loopback");
        }
        let is_link_local = match ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        if is_link_local {
            return Some("a link-local address of the host");
        }
        if ip.is_multicast() {
            return Some("a multicast address");
        }
        (self.ports.contains(&towards.port()) && is_own(ip))
            .then_some("a service of the node itself")
    }
}

/// Whether the host has this address: only then can a socket be bound to it (ip(7)). What cannot
/// be asked counts as the host's, and so does everything under `ip_nonlocal_bind`.
fn is_own(ip: IpAddr) -> bool {
    match UdpSocket::bind((ip, 0)) {
        Ok(_) => true,
        Err(error) => error.kind() != io::ErrorKind::AddrNotAvailable,
    }
}

/// Opens upstream sockets of a host-network pod, in the daemon's own namespace.
#[derive(Debug)]
pub struct HostSockets {
    guard: Arc<HostGuard>,
    has_v4: bool,
    has_v6: bool,
}

impl HostSockets {
    /// For a pod that is known by these addresses.
    #[must_use]
    pub fn new(guard: Arc<HostGuard>, addresses: &[IpAddr]) -> Self {
        let (has_v4, has_v6) = ip_families(addresses);
        Self {
            guard,
            has_v4,
            has_v6,
        }
    }
}

impl SocketFactory for HostSockets {
    fn open_tcp(&self, towards: SocketAddr) -> io::Result<Socket> {
        open_tcp_here(towards)
    }

    fn has_family_of(&self, towards: SocketAddr) -> bool {
        if towards.is_ipv4() {
            self.has_v4
        } else {
            self.has_v6
        }
    }

    fn forbids(&self, towards: SocketAddr) -> Option<&'static str> {
        self.guard.forbids(towards)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rule_leads_to_what_is_the_hosts_alone() {
        let guard = HostGuard::new([15_020, 0]).expect("a cookie");
        // An address that this machine has, whatever its network: of loopback's range, which
        // the first rules would catch, only the check for own addresses is asked.
        assert!(is_own("127.0.0.5".parse().expect("an address")));
        assert!(!is_own("192.0.2.7".parse().expect("an address")));
        for (towards, is_forbidden) in [
            ("127.0.0.1:80", true),
            ("127.8.9.10:80", true),
            ("[::1]:80", true),
            ("[::ffff:127.0.0.1]:80", true),
            ("0.0.0.0:80", true),
            ("[::]:80", true),
            ("169.254.169.254:80", true), // the metadata service of clouds
            ("[::ffff:169.254.169.254]:80", true),
            ("[fe80::1]:80", true),
            ("[febf::1]:80", true),
            ("224.0.0.1:80", true),
            ("[ff02::1]:80", true),
            ("192.0.2.7:80", false),
            ("192.0.2.7:15020", false), // the same port on another node
            ("192.0.2.7:10250", false),
            ("[2001:db8::7]:80", false),
            ("[fec0::1]:80", false), // no longer a special range (RFC 3879)
        ] {
            let address = towards.parse().expect("an address");
            let why = guard.forbids(address);
            assert_eq!(why.is_some(), is_forbidden, "{towards}: {why:?}");
        }
        assert_eq!(guard.ports(), [10_250, 10_255, 15_020]);
    }
}
