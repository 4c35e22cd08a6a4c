//! Network namespaces: enter one for a moment, come back, never across an await.

use std::cell::OnceCell;
use std::fs::{self, File};
use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Protocol, Socket, Type};

use crate::net::{NetnsCookie, SocketFactory};

/// An open network namespace. One open handle keeps a namespace alive, so it is
/// dropped as soon as its pod is gone.
#[derive(Debug)]
pub struct NetNamespace {
    file: File,
    /// Inode of the namespace in nsfs: equal numbers are the same namespace.
    pub inode: u64,
    /// The kernel's stable id.
    pub cookie: NetnsCookie,
}

thread_local! {
    /// The namespace in which this thread lives while it visits none.
    static HOME: OnceCell<File> = const { OnceCell::new() };
}

impl NetNamespace {
    /// The namespace in which process `pid` runs now.
    ///
    /// # Errors
    /// The process is gone, or `setns(2)` is refused (needs `CAP_SYS_ADMIN`, `CAP_SYS_PTRACE`).
    pub fn of_process(pid: u32) -> io::Result<Self> {
        Self::from_file(File::open(format!("/proc/{pid}/ns/net"))?)
    }

    fn from_file(file: File) -> io::Result<Self> {
        let inode = file.metadata()?.ino();
        let cookie = within(file.as_fd(), || {
            netns_cookie(&Socket::new(Domain::UNIX, Type::DGRAM, None)?)
        })??;
        Ok(Self {
            file,
            inode,
            cookie,
        })
    }

    /// How many local ports `connect()` may choose from towards one address and port
    /// (`ip_local_port_range`, ip(7)), for either family.
    ///
    /// # Errors
    /// Entering the namespace fails, or `/proc` is not mounted.
    pub fn local_ports(&self) -> io::Result<u32> {
        let path = "/proc/sys/net/ipv4/ip_local_port_range";
        let text = self.within(|| fs::read_to_string(path))??;
        parse_port_range(&text).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("not a range: {text}"))
        })
    }

    /// Runs `visit` with this thread inside the namespace, then returns home.
    ///
    /// # Errors
    /// `setns(2)`, on the way in.
    pub fn within<T>(&self, visit: impl FnOnce() -> T) -> io::Result<T> {
        within(self.file.as_fd(), visit)
    }
}

impl SocketFactory for NetNamespace {
    fn open_tcp(&self, towards: SocketAddr) -> io::Result<Socket> {
        self.within(|| open_tcp_here(towards))?
    }
}

/// Opens a pod's upstream sockets, and knows the families that the pod has.
#[derive(Debug)]
pub struct PodSockets {
    /// The pod's namespace.
    pub namespace: Arc<NetNamespace>,
    /// It has an IPv4 address.
    pub has_v4: bool,
    /// It has an IPv6 address that is more than link-local.
    pub has_v6: bool,
}

impl PodSockets {
    /// For a pod with these addresses.
    #[must_use]
    pub fn new(namespace: Arc<NetNamespace>, addresses: &[IpAddr]) -> Self {
        let (has_v4, has_v6) = ip_families(addresses);
        Self {
            namespace,
            has_v4,
            has_v6,
        }
    }
}

/// Whether there is an IPv4 address, and an IPv6 one that is more than link-local.
pub(super) fn ip_families(addresses: &[IpAddr]) -> (bool, bool) {
    let is_global_v6 = |address: &IpAddr| match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    };
    (
        addresses.iter().any(IpAddr::is_ipv4),
        addresses.iter().any(is_global_v6),
    )
}

impl SocketFactory for PodSockets {
    fn open_tcp(&self, towards: SocketAddr) -> io::Result<Socket> {
        self.namespace.open_tcp(towards)
    }

    fn has_family_of(&self, towards: SocketAddr) -> bool {
        if towards.is_ipv4() {
            self.has_v4
        } else {
            self.has_v6
        }
    }
}

pub(super) fn open_tcp_here(towards: SocketAddr) -> io::Result<Socket> {
    Socket::new(
        Domain::for_address(towards),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )
}

/// Inode of the namespace in which this thread lives.
///
/// # Errors
/// `/proc` is not mounted.
pub fn home_inode() -> io::Result<u64> {
    Ok(File::open("/proc/thread-self/ns/net")?.metadata()?.ino())
}

fn within<T>(namespace: BorrowedFd<'_>, visit: impl FnOnce() -> T) -> io::Result<T> {
    HOME.with(|home| {
        let home = match home.get() {
            Some(home) => home,
            None => {
                let opened = File::open("/proc/thread-self/ns/net")?;
                home.get_or_init(|| opened)
            }
        };
        let back = Return(home.as_fd());
        move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?;
        let result = visit();
        drop(back);
        Ok(result)
    })
}

/// Brings the thread home, also when the visit panics.
struct Return<'a>(BorrowedFd<'a>);

impl Drop for Return<'_> {
    fn drop(&mut self) {
        if let Err(error) = move_into_link_name_space(self.0, Some(LinkNameSpaceType::Network)) {
            // Going on would open sockets with another pod's identity.
            tracing::error!(%error, "cannot return to the daemon's network namespace");
            std::process::abort();
        }
    }
}

/// `SO_NETNS_COOKIE` of the namespace to which `socket` belongs (Linux 5.14).
fn netns_cookie(socket: &Socket) -> io::Result<NetnsCookie> {
    let mut cookie: u64 = 0;
    let mut length = mem::size_of::<u64>() as libc::socklen_t;
    // SAFETY: both pointers are to live locals, and `length` is the size of the first.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(NetnsCookie(cookie))
}

/// Ports of a range such as `32768 60999`, apart by a tab.
fn parse_port_range(text: &str) -> Option<u32> {
    let mut bounds = text.split_whitespace().map(str::parse::<u16>);
    let (first, last) = (bounds.next()?.ok()?, bounds.next()?.ok()?);
    Some(u32::from(last.checked_sub(first)?) + 1)
}

/// The cookie of the namespace in which this thread lives.
///
/// # Errors
/// The kernel is older than 5.14.
pub fn home_cookie() -> io::Result<NetnsCookie> {
    netns_cookie(&Socket::new(Domain::UNIX, Type::DGRAM, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_ports_counts_both_ends() {
        for (text, expected) in [
            ("32768\t60999\n", Some(28_232)),
            ("40000 40000", Some(1)),
            ("2 1", None),
            ("1", None),
            ("", None),
        ] {
            assert_eq!(parse_port_range(text), expected, "{text:?}");
        }
    }
}
