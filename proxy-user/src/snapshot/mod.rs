//! The immutable, compiled configuration that both data planes read.
//!
//! Shapes only: no I/O, no locks. `compile` builds one [`Snapshot`], the
//! [`Publisher`] swaps it whole, workers load it once per request. Endpoint
//! sets swap by themselves inside a [`clusters::Cluster`]. Start at [`Snapshot`].

pub mod clusters;
pub mod dns;
pub mod dump;
pub mod endpoints;
pub mod gateways;
pub mod kernel_view;
pub mod listeners;
pub mod matchers;
pub mod policy;
pub mod routes;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};

use crate::finding::{ObjectRef, Origin};
use crate::net::{PodUid, ScopeId};
pub use clusters::{Cluster, ClusterRef};
pub use endpoints::{Endpoint, EndpointSet, Workload};
pub use gateways::GatewayView;
pub use kernel_view::KernelView;
pub use listeners::{Destination, ScopeView};
pub use routes::{HttpRoute, RouteTable, VirtualHost};

pub use crate::settings::OnProxyDown;

/// Counts published snapshots; grows by one with each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, serde::Serialize)]
pub struct SnapshotVersion(pub u64);

/// Where a compiled value came from: the object, the field and its place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provenance {
    /// The object that the user wrote.
    pub object: ObjectRef,
    /// Path of the field in it, such as `spec.http[1].match[0]`.
    pub field: Arc<str>,
    /// File and line of that field.
    pub origin: Origin,
}

/// Everything both data planes know, at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Set by the publisher.
    pub version: SnapshotVersion,
    /// Mesh-wide defaults that the data planes need at run time.
    pub mesh: MeshDefaults,
    /// Pods of this node that are listed in the configuration, by uid.
    pub pods: HashMap<PodUid, Arc<PodView>>,
    /// What each group of pods may see; indexed by [`ScopeId`].
    pub scopes: Vec<Arc<ScopeView>>,
    /// What gateway pods of this node listen on, in key order.
    pub gateways: Vec<Arc<GatewayView>>,
    /// All services of the registry, for the views of `get`.
    pub services: Vec<Arc<ServiceView>>,
    /// All clusters, in name order.
    pub clusters: Vec<Arc<Cluster>>,
    /// Workloads by address, to name the peer of passed-through connections.
    pub workloads: HashMap<IpAddr, Arc<Workload>>,
    /// What the kernel's maps shall hold.
    pub kernel: KernelView,
}

impl Snapshot {
    /// The scope of a pod, or `None` for a pod that the configuration does not list.
    #[must_use]
    pub fn scope_of(&self, pod: &PodUid) -> Option<&Arc<ScopeView>> {
        self.scope(self.pods.get(pod)?.scope)
    }

    /// The scope with this id.
    #[must_use]
    pub fn scope(&self, id: ScopeId) -> Option<&Arc<ScopeView>> {
        self.scopes.get(id.0 as usize)
    }
}

/// Mesh settings that act while running (Istio MeshConfig).
#[derive(Debug, Clone)]
pub struct MeshDefaults {
    /// How long sniffing waits on an undeclared port; zero means Mizzen's own 1 s.
    pub protocol_detection_timeout: Duration,
    /// Domain suffix of Kubernetes services.
    pub domain: Arc<str>,
    /// Trust domain of workload identities.
    pub trust_domain: Arc<str>,
}

impl Default for MeshDefaults {
    fn default() -> Self {
        Self {
            protocol_detection_timeout: Duration::from_secs(1),
            domain: Arc::from("cluster.local"),
            trust_domain: Arc::from("cluster.local"),
        }
    }
}

/// A pod of this node as the configuration describes it.
#[derive(Debug, Clone)]
pub struct PodView {
    /// `metadata.uid`.
    pub uid: PodUid,
    /// Identity and labels, as telemetry reports them.
    pub workload: Arc<Workload>,
    /// What this pod may see.
    pub scope: ScopeId,
    /// `status.podIPs`.
    pub ips: Vec<IpAddr>,
    /// `spec.hostNetwork`.
    pub is_host_network: bool,
    /// Captured or not, and why not.
    pub capture: Capture,
    /// What happens to its connections when the proxy is gone.
    pub on_proxy_down: OnProxyDown,
    /// Istio's `traffic.sidecar.istio.io/*` annotations.
    pub exclusions: Exclusions,
    /// `kubernetes.io/config.hash` of a static pod: the name its cgroup has instead of the uid.
    pub config_hash: Option<Arc<str>>,
}

/// Whether a pod's connections are captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Capture {
    /// Its `connect()` calls are decided by Mizzen.
    Captured,
    /// Left alone, with the reason that `get pods` shows.
    Untouched(Arc<str>),
}

/// Ports and ranges that are not captured, per pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Exclusions {
    /// `excludeOutboundPorts`.
    pub exclude_ports: Vec<u16>,
    /// `excludeOutboundIPRanges`.
    pub exclude_ranges: Vec<ipnet::IpNet>,
    /// `includeOutboundPorts`: captured although outside the included ranges.
    pub include_ports: Vec<u16>,
    /// `includeOutboundIPRanges`; `None` means all.
    pub include_ranges: Option<Vec<ipnet::IpNet>>,
}

/// One service of the registry, for people and for telemetry.
#[derive(Debug, Clone)]
pub struct ServiceView {
    /// Fully qualified host name.
    pub host: Arc<str>,
    /// Namespace of the object that defines it.
    pub namespace: Arc<str>,
    /// `Service` or `ServiceEntry`.
    pub kind: &'static str,
    /// Virtual IPs.
    pub addresses: Vec<ipnet::IpNet>,
    /// Virtual IPs that nobody wrote: allocated for a ServiceEntry without addresses.
    pub allocated: Vec<IpAddr>,
    /// Port number, name and protocol text.
    pub ports: Vec<(u16, Arc<str>, listeners::Protocol)>,
    /// The object.
    pub provenance: Option<Provenance>,
}

/// Publishes snapshots. Not `Clone`: there is exactly one writer.
#[derive(Debug)]
pub struct Publisher(Arc<ArcSwap<Snapshot>>);

/// Reads the newest snapshot; cheap to clone, one per worker.
#[derive(Debug, Clone)]
pub struct SnapshotReader(Arc<ArcSwap<Snapshot>>);

impl Publisher {
    /// A publisher whose first snapshot is `initial`, and its reader.
    #[must_use]
    pub fn new(initial: Snapshot) -> (Self, SnapshotReader) {
        let shared = Arc::new(ArcSwap::from_pointee(initial));
        (Self(Arc::clone(&shared)), SnapshotReader(shared))
    }

    /// Numbers `snapshot` and makes it the one that readers load from now on.
    pub fn publish(&mut self, mut snapshot: Snapshot) -> Arc<Snapshot> {
        snapshot.version = SnapshotVersion(self.0.load().version.0 + 1);
        let shared = Arc::new(snapshot);
        self.0.store(Arc::clone(&shared));
        shared
    }
}

impl SnapshotReader {
    /// Load once per request: two loads may see two versions.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.0.load()
    }

    /// Like [`Self::load`], to hold for longer than one request.
    #[must_use]
    pub fn load_full(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }
}
