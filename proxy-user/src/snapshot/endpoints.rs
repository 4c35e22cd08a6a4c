//! Endpoints of clusters; a cluster's set swaps by itself.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

/// The workload behind an endpoint or a client, as telemetry labels name it
/// (Istio standard metrics, labels `source_*` and `destination_*`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Workload {
    /// Pod or WorkloadEntry name.
    pub name: Arc<str>,
    /// Owner's name without its generated suffix, else the pod's name.
    pub workload: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// Label `app`, or empty.
    pub app: Arc<str>,
    /// Label `version`, or empty.
    pub version: Arc<str>,
    /// Canonical service name.
    pub canonical_service: Arc<str>,
    /// Canonical revision, `latest` by default.
    pub canonical_revision: Arc<str>,
    /// Node name, empty when unknown.
    pub node: Arc<str>,
    /// All labels, sorted.
    pub labels: Vec<(Arc<str>, Arc<str>)>,
    /// Where it runs.
    pub locality: Locality,
}

/// Region, zone and subzone; empty parts are unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locality {
    /// `topology.kubernetes.io/region`.
    pub region: Arc<str>,
    /// `topology.kubernetes.io/zone`.
    pub zone: Arc<str>,
    /// `topology.istio.io/subzone`.
    pub subzone: Arc<str>,
}

/// State of an endpoint as its EndpointSlice tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Ready; gets traffic.
    Healthy,
    /// Not ready and not terminating: counted for priorities, never chosen.
    Unhealthy,
}

/// One address and port that a cluster may send to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Where to connect.
    pub address: SocketAddr,
    /// Relative load-balancing weight, at least 1.
    pub weight: u32,
    /// Ready or not.
    pub health: Health,
    /// Priority group, 0 first (locality failover).
    pub priority: u32,
    /// Who is there.
    pub workload: Arc<Workload>,
}

/// An immutable list of endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointSet {
    /// In a deterministic order: by address.
    pub endpoints: Vec<Endpoint>,
}

/// The one mutable place of a snapshot: a cluster's current [`EndpointSet`].
#[derive(Debug, Default)]
pub struct EndpointCell(ArcSwap<EndpointSet>);

impl EndpointCell {
    /// A cell that holds `set`.
    #[must_use]
    pub fn new(set: EndpointSet) -> Self {
        Self(ArcSwap::from_pointee(set))
    }

    /// The current set.
    #[must_use]
    pub fn load(&self) -> Arc<EndpointSet> {
        self.0.load_full()
    }

    /// Replaces the set; requests under way keep the one they loaded.
    pub fn store(&self, set: EndpointSet) {
        self.0.store(Arc::new(set));
    }
}
