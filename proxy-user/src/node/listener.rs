//! The proxy's listeners inside a pod's network namespace.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use proxy_common::pod::PodId;
use socket2::{Domain, Protocol, Socket, Type};

use super::netns::NetNamespace;
use crate::net::monotonic_ns;

/// Istio's port of captured outbound traffic.
pub const CAPTURE_PORT: u16 = 15001;

/// Connections that may wait for accept; the map of original destinations is sized by it.
pub const BACKLOG: i32 = 1024;

/// A listener on its way from one daemon to the next.
#[derive(Debug)]
pub struct HandedListener {
    /// The pod whose it is.
    pub pod: PodId,
    /// As [`PodListeners::since_ns`].
    pub since_ns: u64,
    /// The socket, with what waits in its queue.
    pub socket: TcpListener,
}

/// What could be opened; a pod without IPv6 has no v6 listener and loses nothing.
#[derive(Debug, Default)]
pub struct PodListeners {
    /// When they were opened, by [`monotonic_ns`].
    pub since_ns: u64,
    /// On 127.0.0.1.
    pub v4: Option<TcpListener>,
    /// On ::1.
    pub v6: Option<TcpListener>,
}

impl PodListeners {
    /// Takes the listeners of one pod out of `handed`; `None` if there are none.
    pub fn claim(handed: &mut Vec<HandedListener>, pod: PodId) -> Option<Self> {
        let mut claimed = Self::default();
        for listener in handed.extract_if(.., |listener| listener.pod == pod) {
            claimed.since_ns = claimed.since_ns.max(listener.since_ns);
            match listener.socket.local_addr() {
                Ok(SocketAddr::V4(_)) => claimed.v4 = Some(listener.socket),
                Ok(SocketAddr::V6(_)) => claimed.v6 = Some(listener.socket),
                // Closed here; the pod's listeners are opened anew if none is left.
                Err(_) => {}
            }
        }
        (claimed.v4.is_some() || claimed.v6.is_some()).then_some(claimed)
    }

    /// The same sockets by further descriptors.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn try_clone(&self) -> io::Result<Self> {
        let clone =
            |socket: &Option<TcpListener>| socket.as_ref().map(TcpListener::try_clone).transpose();
        Ok(Self {
            since_ns: self.since_ns,
            v4: clone(&self.v4)?,
            v6: clone(&self.v6)?,
        })
    }
}

/// Opens the listeners on loopback inside `namespace`: port 15001, or a free one if it is taken.
///
/// # Errors
/// Entering the namespace fails, or neither family can listen.
pub fn open(namespace: &NetNamespace) -> io::Result<PodListeners> {
    let since_ns = monotonic_ns();
    let (v4, v6) = namespace.within(|| {
        (
            listen(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            listen(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        )
    })?;
    match (v4, v6) {
        (Err(error), Err(_)) => Err(error),
        (v4, v6) => Ok(PodListeners {
            since_ns,
            v4: v4.ok(),
            v6: v6.ok(),
        }),
    }
}

fn listen(address: IpAddr) -> io::Result<TcpListener> {
    match listen_on(SocketAddr::new(address, CAPTURE_PORT)) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            listen_on(SocketAddr::new(address, 0))
        }
        result => result,
    }
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of a daemon that was killed may linger in TIME_WAIT on this port.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
