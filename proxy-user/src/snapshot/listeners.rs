//! What stands at an address and port, as one group of pods sees it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use super::Provenance;
use super::routes::{RouteTable, TcpRoute, TlsRoute};
use crate::net::ScopeId;

/// Port protocols (Istio protocol selection).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/2 prior knowledge.
    Http2,
    /// gRPC.
    Grpc,
    /// gRPC-Web.
    GrpcWeb,
    /// HTTP proxy.
    HttpProxy,
    /// Opaque TLS routed by SNI.
    Https,
    /// Opaque TLS routed by SNI.
    Tls,
    /// Bytes.
    Tcp,
    /// Bytes.
    Mongo,
    /// Bytes.
    Redis,
    /// Bytes.
    Mysql,
    /// Not meshed.
    Udp,
    /// Undeclared: decided by the first bytes.
    Auto,
}

impl Protocol {
    /// HTTP group.
    #[must_use]
    pub fn is_http(self) -> bool {
        matches!(
            self,
            Self::Http | Self::Http2 | Self::Grpc | Self::GrpcWeb | Self::HttpProxy
        )
    }

    /// TLS group: routed by SNI, never decrypted.
    #[must_use]
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }

    /// Plain bytes.
    #[must_use]
    pub fn is_tcp(self) -> bool {
        matches!(self, Self::Tcp | Self::Mongo | Self::Redis | Self::Mysql)
    }
}

/// One listener of Istio's: everything that applies to connections to one destination.
#[derive(Debug)]
pub struct Destination {
    /// Host of the service, or `None` for a port-wide entry.
    pub service: Option<Arc<str>>,
    /// Service port that clients dial.
    pub port: u16,
    /// Declared protocol; `Auto` is sniffed.
    pub protocol: Protocol,
    /// For HTTP-like bytes on HTTP and auto ports.
    pub http: Option<Arc<RouteTable>>,
    /// For TLS bytes, in order of evaluation: most specific SNI first.
    pub tls: Vec<TlsRoute>,
    /// For other bytes, in order of evaluation: longest subnet first.
    pub tcp: Vec<TcpRoute>,
    /// Which data plane takes it, and why.
    pub plan: PathPlan,
    /// The object that defines the destination.
    pub provenance: Option<Provenance>,
}

/// Which path a destination's connections take.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PathPlan {
    /// The path while the proxy lives.
    pub path: TrafficPath,
    /// Why this path, in a few words.
    pub reason: Arc<str>,
    /// What happens while it does not.
    pub degraded: DegradedForm,
    /// Why this form, in a few words.
    pub degraded_reason: Arc<str>,
}

/// The two data planes, and neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TrafficPath {
    /// Decided in `connect()`.
    Kernel,
    /// Handed to a worker.
    Proxy,
    /// Passed as Kubernetes routes it; flow record only.
    Untouched,
}

/// What a destination becomes while the proxy is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DegradedForm {
    /// The weights and subsets of its catch-all route, in the kernel.
    L4,
    /// Plain Kubernetes.
    Pass,
    /// Refused: anything else would leak or bypass.
    Deny,
}

/// What one group of pods sees.
#[derive(Debug, Default)]
pub struct ScopeView {
    /// Index in [`super::Snapshot::scopes`].
    pub id: ScopeId,
    /// Stable name across snapshots: the same view has the same key.
    pub key: Arc<str>,
    /// Namespace of its pods.
    pub namespace: Arc<str>,
    /// Destinations that only this scope sees, or sees differently; `None` hides the base's.
    pub exact: HashMap<(IpAddr, u16), Option<Arc<Destination>>>,
    /// By CIDR and port, longest prefix first.
    pub cidrs: Vec<(IpNet, u16, Arc<Destination>)>,
    /// The CIDRs above are all that there are: those of the base do not count.
    pub replaces_cidrs: bool,
    /// Any address on this port (Istio's `0.0.0.0_PORT` listeners).
    pub port_wide: HashMap<u16, Option<Arc<Destination>>>,
    /// Tables of whole ports that stand in for those of the base's destinations; read
    /// them by [`Self::route_table`].
    pub port_tables: HashMap<u16, Arc<RouteTable>>,
    /// Looked up for what this scope does not name.
    pub base: Option<Arc<ScopeView>>,
    /// REGISTRY_ONLY: what nobody names is refused.
    pub is_registry_only: bool,
}

/// How a destination was found.
#[derive(Debug, Clone, Copy)]
pub enum Found<'a> {
    /// At this very address and port, or by CIDR: it owns the address.
    Exact(&'a Arc<Destination>),
    /// By port alone; no service owns the address.
    PortWide(&'a Arc<Destination>),
    /// Nobody listens here.
    Unknown,
}

impl ScopeView {
    /// What stands at `address`: exact, else the longest CIDR, else port-wide.
    #[must_use]
    pub fn find(&self, address: SocketAddr) -> Found<'_> {
        let (ip, port) = (address.ip().to_canonical(), address.port());
        if let Some(found) = self.find_exact(ip, port) {
            return Found::Exact(found);
        }
        if let Some((_, found)) = self.find_cidr(ip, port) {
            return Found::Exact(found);
        }
        match self.find_port_wide(port) {
            Some(found) => Found::PortWide(found),
            None => Found::Unknown,
        }
    }

    /// The route table for HTTP on `destination`, as this scope sees it: destinations are
    /// shared between scopes, the table of their port may be the scope's own.
    #[must_use]
    pub fn route_table<'a>(&'a self, destination: &'a Destination) -> Option<&'a Arc<RouteTable>> {
        let shared = destination.http.as_ref()?;
        let own = self.port_tables.get(&destination.port);
        Some(own.filter(|own| own.name == shared.name).unwrap_or(shared))
    }

    fn find_exact(&self, ip: IpAddr, port: u16) -> Option<&Arc<Destination>> {
        match self.exact.get(&(ip, port)) {
            Some(entry) => entry.as_ref(),
            None => self.base.as_ref()?.find_exact(ip, port),
        }
    }

    fn find_cidr(&self, ip: IpAddr, port: u16) -> Option<(u8, &Arc<Destination>)> {
        let own = self
            .cidrs
            .iter()
            .find(|(net, cidr_port, _)| *cidr_port == port && net.contains(&ip))
            .map(|(net, _, found)| (net.prefix_len(), found));
        let base = self.base.as_ref().filter(|_| !self.replaces_cidrs);
        let base = base.and_then(|base| base.find_cidr(ip, port));
        match (own, base) {
            (Some(own), Some(base)) => Some(if own.0 >= base.0 { own } else { base }),
            (own, base) => own.or(base),
        }
    }

    fn find_port_wide(&self, port: u16) -> Option<&Arc<Destination>> {
        match self.port_wide.get(&port) {
            Some(entry) => entry.as_ref(),
            None => self.base.as_ref()?.find_port_wide(port),
        }
    }
}
