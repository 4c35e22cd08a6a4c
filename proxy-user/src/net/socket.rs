//! Socket options and queries that the safe crates do not offer.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};

use libc::c_int;

/// Leaves the choice of the source port to `connect()`, where the whole tuple counts
/// (ip(7), `IP_BIND_ADDRESS_NO_PORT`). Also acts on IPv6 sockets.
///
/// # Errors
/// What `setsockopt(2)` reports.
pub fn set_bind_address_no_port(socket: impl AsFd) -> io::Result<()> {
    let enabled: c_int = 1;
    // SAFETY: the descriptor is open for the length of the borrow, and the pointer and
    // length describe one live integer.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const enabled).cast(),
            mem::size_of::<c_int>() as libc::socklen_t,
        )
    };
    check(result)
}

/// Bytes that were written but not yet acknowledged by the peer (tcp(7), `SIOCOUTQ`).
///
/// # Errors
/// What `ioctl(2)` reports.
pub fn unacknowledged_len_bytes(socket: impl AsFd) -> io::Result<usize> {
    let mut len: c_int = 0;
    // SAFETY: the descriptor is open for the length of the borrow, and SIOCOUTQ
    // (TIOCOUTQ) writes one integer through a pointer that is valid for it.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut len) };
    check(result)?;
    Ok(usize::try_from(len).unwrap_or(0))
}

fn check(result: c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_bound_socket_gets_its_port_at_connect() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
            .expect("a socket");
        set_bind_address_no_port(&socket).expect("the option");
        let source = std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        socket.bind(&source.into()).expect("an address");
        let address = listener.local_addr().expect("an address");
        socket.connect(&address.into()).expect("a connection");
        let stream = TcpStream::from(socket);
        assert_ne!(stream.local_addr().expect("an address").port(), 0);
        assert_eq!(unacknowledged_len_bytes(&stream).expect("a count"), 0);
    }
}
