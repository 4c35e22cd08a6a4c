//! Clusters: (service, port, subset) plus the traffic policy that applies to them.

use std::sync::Arc;

use super::Provenance;
use super::dns::DnsEndpoints;
use super::endpoints::{EndpointCell, EndpointSet};
use super::policy::ClusterPolicy;

/// Names of the clusters that are no service's (Istio, Envoy).
pub mod special {
    /// Unknown destinations under ALLOW_ANY.
    pub const PASSTHROUGH: &str = "PassthroughCluster";
    /// Unknown destinations under REGISTRY_ONLY.
    pub const BLACK_HOLE: &str = "BlackHoleCluster";
}

/// The unit that has load balancing, circuit breakers and outlier state.
#[derive(Debug)]
pub struct Cluster {
    /// `outbound|<port>|<subset>|<host>`, as Istio names it.
    pub name: Arc<str>,
    /// Which DestinationRule shaped it (`namespace/name`), empty for none. Clients in
    /// different namespaces may see one name with different rules: (name, variant) is unique.
    pub variant: Arc<str>,
    /// Host of the service.
    pub host: Arc<str>,
    /// Namespace of the service.
    pub service_namespace: Arc<str>,
    /// Short name of the service for telemetry.
    pub service_name: Arc<str>,
    /// Service port.
    pub port: u16,
    /// Subset, empty for the whole service.
    pub subset: Arc<str>,
    /// What is spoken to its endpoints.
    pub protocol: UpstreamProtocol,
    /// Where the endpoints come from.
    pub discovery: Discovery,
    /// Effective policy.
    pub policy: ClusterPolicy,
    /// Current endpoints.
    pub endpoints: Arc<EndpointCell>,
    /// What they follow, where names are among them.
    pub dns: Option<Arc<DnsEndpoints>>,
    /// The DestinationRule part that applies, if any.
    pub provenance: Option<Provenance>,
}

impl Cluster {
    /// The current endpoint set.
    #[must_use]
    pub fn endpoint_set(&self) -> Arc<EndpointSet> {
        self.endpoints.load()
    }

    /// The key of everything learned while running about this cluster.
    #[must_use]
    pub fn key(&self) -> ClusterKey {
        ClusterKey {
            name: Arc::clone(&self.name),
            variant: Arc::clone(&self.variant),
        }
    }
}

/// Stable across snapshots: pools, limits and balancer positions hang on it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterKey {
    /// [`Cluster::name`].
    pub name: Arc<str>,
    /// [`Cluster::variant`].
    pub variant: Arc<str>,
}

/// Where a cluster's connections go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
pub enum Discovery {
    /// Balanced over [`Cluster::endpoints`].
    Endpoints,
    /// The same, where [`Cluster::dns`] says which: every answer is an endpoint (Envoy STRICT_DNS).
    Dns,
    /// The current answer is the one endpoint; connections to an earlier one stay in use until
    /// they end (Envoy LOGICAL_DNS).
    LogicalDns,
    /// To the name that the request (Host) or the connection (SNI) asks for, resolved then.
    DynamicDns {
        /// Port to connect to.
        port: u16,
    },
    /// To the address that the client dialled (ServiceEntry NONE, headless TCP, PASSTHROUGH);
    /// `port` replaces the dialled port where the entry has a targetPort.
    OriginalDst {
        /// Port to connect to instead of the dialled one.
        port: Option<u16>,
    },
}

/// What a cluster's endpoints speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Whatever the client spoke (auto-detected ports, `useClientProtocol`).
    SameAsClient,
    /// Bytes.
    Tcp,
}

/// A cluster that a route names: it may not exist (503 `NC`).
#[derive(Debug, Clone)]
pub enum ClusterRef {
    /// It exists, perhaps without endpoints (503 `UH`).
    Known(Arc<Cluster>),
    /// No such service, port or subset.
    Missing(Arc<str>),
    /// It exists, but needs something that is not honoured yet (503 `not_honoured`).
    NotHonoured(Arc<str>),
}

impl ClusterRef {
    /// The cluster's name, also of a missing one.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        match self {
            Self::Known(cluster) => &cluster.name,
            Self::Missing(name) | Self::NotHonoured(name) => name,
        }
    }
}
