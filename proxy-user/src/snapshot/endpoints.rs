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
    /// Node name, empty when unknown.
    pub node: Arc<str>,
    /// All labels, sorted.
    pub labels: Arc<[(Arc<str>, Arc<str>)]>,
    /// Where it runs.
    pub locality: Arc<Locality>,
}

/// A mesh has very many workloads, so that what follows from the labels is not kept.
impl Workload {
    /// The value of a label.
    #[must_use]
    pub fn label(&self, name: &str) -> Option<&Arc<str>> {
        let at = self
            .labels
            .binary_search_by(|(known, _)| (**known).cmp(name));
        at.ok()
            .and_then(|at| self.labels.get(at))
            .map(|(_, value)| value)
    }

    /// What telemetry says about the application, by the first of these labels; nothing
    /// about what has no name, which is outside the mesh.
    fn told_by(&self, names: &[&str]) -> Option<&Arc<str>> {
        let mut names = names.iter().filter(|_| !self.name.is_empty());
        names.find_map(|name| self.label(name))
    }

    /// Label `app`.
    #[must_use]
    pub fn app(&self) -> Option<&Arc<str>> {
        self.told_by(&["app"])
    }

    /// Label `version`.
    #[must_use]
    pub fn version(&self) -> Option<&Arc<str>> {
        self.told_by(&["version"])
    }

    /// Canonical service: by label, else the workload's name. Source: Istio,
    /// pkg/config/labels `CanonicalService`.
    #[must_use]
    pub fn canonical_service(&self) -> &Arc<str> {
        let labelled = self.told_by(&[
            "service.istio.io/canonical-name",
            "app.kubernetes.io/name",
            "app",
        ]);
        labelled.unwrap_or(&self.workload)
    }

    /// Canonical revision by label; `latest` stands for none. Source: Istio,
    /// pkg/config/labels `CanonicalServiceRevision`.
    #[must_use]
    pub fn canonical_revision(&self) -> Option<&Arc<str>> {
        self.told_by(&[
            "service.istio.io/canonical-revision",
            "app.kubernetes.io/version",
            "version",
        ])
    }
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
