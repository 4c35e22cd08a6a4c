//! The traits by which the proxy asks what only the kernel, the node or DNS knows.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures_util::future::{BoxFuture, ready};

use proxy_common::pod::PodId;

use super::addr::{NetnsCookie, OriginalDst};

/// What a captured connection was meant to reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapturedDst {
    /// The address the application dialled.
    pub dst: OriginalDst,
}

/// A connection as a pod's listener accepted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// The pod whose listener it is.
    pub pod: PodId,
    /// The namespace that holds both ends.
    pub netns: NetnsCookie,
    /// The listener's port: in the host's namespace each pod has one.
    pub listener: u16,
    /// When the listener was opened, by [`super::monotonic_ns`].
    pub listening_since_ns: u64,
    /// The client's end.
    pub client: SocketAddr,
}

/// Original destinations, written by the sockops program and taken once by accept.
pub trait OriginalDstSource: Send + Sync {
    /// Takes the original destination of an accepted connection. `None`: nobody captured it
    /// for this listener, so the connection must be refused.
    fn take(&self, accepted: &Accepted) -> Option<CapturedDst>;
}

/// Opens sockets where the client pod lives, so that source addresses and
/// NetworkPolicies stay as they were.
pub trait SocketFactory: Send + Sync {
    /// A TCP socket of the family of `towards`, non-blocking, close-on-exec, not connected.
    ///
    /// # Errors
    /// What `socket(2)` or `setns(2)` report; descriptor exhaustion above all.
    fn open_tcp(&self, towards: SocketAddr) -> io::Result<socket2::Socket>;

    /// Whether the client's workload has an address of the family of `towards`: endpoints
    /// of another family are not its endpoints (Istio, `Proxy.IPMode`).
    fn has_family_of(&self, towards: SocketAddr) -> bool {
        let _ = towards;
        true
    }

    /// Why no connection may be made to `towards`, if so: what a pod may not be led to by
    /// rules although its namespace would let it.
    fn forbids(&self, towards: SocketAddr) -> Option<&'static str> {
        let _ = towards;
        None
    }
}

/// A worker's sign of life, read by the connect program.
pub trait Heartbeat: Send {
    /// Writes "alive now"; called at least once a second by a healthy worker.
    fn beat(&self);
}

/// Asks DNS for names that requests bring.
pub trait NameResolver: Send + Sync {
    /// The addresses of `name` in the order of the answer, at least one. A name that was
    /// asked for lately is answered at once, by its last good answer if DNS fails now.
    fn resolve(&self, name: &str) -> BoxFuture<'static, Result<Arc<[IpAddr]>, NameError>>;
}

/// Why a name has no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// DNS says so.
    #[error("the name has no address")]
    NoAddress,
    /// DNS did not answer, and has not before.
    #[error("DNS does not answer")]
    NoAnswer,
    /// More names are asked for at once than are resolved.
    #[error("too many names wait for DNS")]
    Overloaded,
}

/// Knows no name: for workers that run without a resolver.
#[derive(Debug, Clone, Copy)]
pub struct NoNames;

impl NameResolver for NoNames {
    fn resolve(&self, _: &str) -> BoxFuture<'static, Result<Arc<[IpAddr]>, NameError>> {
        Box::pin(ready(Err(NameError::NoAnswer)))
    }
}
