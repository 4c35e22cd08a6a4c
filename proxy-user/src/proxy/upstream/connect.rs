//! Connects to an endpoint from the client pod's namespace.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive as SocketKeepalive};
use tokio::net::{TcpSocket, TcpStream};

use super::error::{Kind, TrafficError};
use crate::net::SocketFactory;
use crate::net::socket::set_bind_address_no_port;
use crate::snapshot::policy::{ConnectionPool, TcpKeepalive};

/// Opens a socket, binds it to `bind` if the application had bound its own, and
/// connects within `policy.connect_timeout`.
///
/// # Errors
/// [`Kind::Forbidden`], [`Kind::ConnectTimeout`], or [`Kind::ConnectFailed`] with the system's
/// words.
pub(crate) async fn connect(
    sockets: &dyn SocketFactory,
    target: SocketAddr,
    bind: Option<IpAddr>,
    policy: &ConnectionPool,
) -> Result<TcpStream, TrafficError> {
    if let Some(why) = sockets.forbids(target) {
        return Err(TrafficError::upstream(Kind::Forbidden, Some(target)).because(why));
    }
    let failed = |error: io::Error| {
        TrafficError::upstream(Kind::ConnectFailed, Some(target)).because(describe(&error))
    };
    let socket = open(sockets, target, bind, policy.tcp_keepalive.as_ref()).map_err(failed)?;
    match with_timeout(policy.connect_timeout, socket.connect(target)).await {
        Some(connected) => connected.map_err(failed),
        None => Err(TrafficError::upstream(Kind::ConnectTimeout, Some(target))),
    }
}

fn open(
    sockets: &dyn SocketFactory,
    target: SocketAddr,
    bind: Option<IpAddr>,
    keepalive: Option<&TcpKeepalive>,
) -> io::Result<TcpSocket> {
    let socket = sockets.open_tcp(target)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(keepalive) = keepalive {
        socket.set_tcp_keepalive(&socket_keepalive(keepalive))?;
    }
    if let Some(source) = bind.filter(|source| source.is_ipv4() == target.is_ipv4()) {
        // The port is chosen at connect(), where the whole tuple counts (ip(7)).
        let _ = set_bind_address_no_port(&socket);
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(TcpSocket::from_std_stream(socket.into()))
}

fn socket_keepalive(policy: &TcpKeepalive) -> SocketKeepalive {
    let mut keepalive = SocketKeepalive::new();
    if let Some(time) = policy.time {
        keepalive = keepalive.with_time(time);
    }
    if let Some(interval) = policy.interval {
        keepalive = keepalive.with_interval(interval);
    }
    if let Some(probes) = policy.probes {
        keepalive = keepalive.with_retries(probes);
    }
    keepalive
}

/// A limit of zero means no limit but the kernel's own.
async fn with_timeout<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    if limit.is_zero() {
        return Some(work.await);
    }
    tokio::time::timeout(limit, work).await.ok()
}

/// `Connection refused` for ECONNREFUSED: the system's words without the number.
fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// Makes the next close of this socket a reset.
pub(crate) fn reset_on_close(stream: &TcpStream) {
    // Best effort: a socket that is gone already needs no reset.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
