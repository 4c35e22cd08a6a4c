//! What the kernel's maps shall hold, in userspace's words.
//!
//! `compile` fills it, `kernel::sync` turns it into maps and owns all numbering:
//! nothing here is a map id. Everything is listed in a deterministic order.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::clusters::ClusterKey;
use super::endpoints::EndpointCell;
use super::policy::TcpKeepalive;

/// The kernel's part of a snapshot.
#[derive(Debug, Default, Clone)]
pub struct KernelView {
    /// One per scope of this node's pods.
    pub scopes: Vec<KernelScope>,
    /// Base table: what most scopes see. Sorted by key.
    pub services: Vec<KernelService>,
    /// Where a scope differs from the base.
    pub overrides: Vec<KernelOverride>,
    /// Clusters that splits name, by index.
    pub clusters: Vec<KernelCluster>,
}

/// What a miss means for one scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelScope {
    /// [`super::ScopeView::key`].
    pub key: Arc<str>,
    /// REGISTRY_ONLY: refuse what no entry covers.
    pub is_registry_only: bool,
}

/// A destination as the kernel finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KernelKey {
    /// One address and port.
    Exact(IpAddr, u16),
    /// A network and port.
    Cidr(IpNet, u16),
    /// Any address on this port.
    PortWide(u16),
}

/// One entry of the base table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelService {
    /// Where it is found.
    pub key: KernelKey,
    /// Host and port, for flow records and views.
    pub name: Arc<str>,
    /// What is done; `None`: only overrides name it (the base hides it).
    pub plan: Option<KernelPlan>,
    /// Kubernetes routes this address by itself, so that stale maps may pass it untouched.
    pub is_routed_by_kubernetes: bool,
}

/// What one scope gets instead of the base's plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelOverride {
    /// Index in [`KernelView::scopes`].
    pub scope: usize,
    /// Index in [`KernelView::services`].
    pub service: usize,
    /// `None`: hidden, as if the entry were not there.
    pub plan: Option<KernelPlan>,
}

/// Actions while the proxy lives and while it does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelPlan {
    /// Normal action.
    pub action: KernelAction,
    /// Used for [`KernelAction::Proxy`] when the proxy is gone and the pod says `degrade`.
    pub degraded: KernelAction,
    /// `deny` even when the maps are stale.
    pub deny_when_stale: bool,
}

/// What `connect()` does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelAction {
    /// Nothing: Kubernetes routes it.
    Pass,
    /// ECONNREFUSED.
    Refuse,
    /// To the in-pod listener.
    Proxy,
    /// A weighted choice here and now, at most [`SPLIT_MAX`] entries.
    Split(Arc<[SplitEntry]>),
}

/// Destinations of one split in the kernel; more go to the proxy.
pub const SPLIT_MAX: usize = 16;

/// One weighted destination of a split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitEntry {
    /// Relative weight, at least 1.
    pub weight: u32,
    /// Where that share goes.
    pub target: SplitTarget,
}

/// Where one share of a split goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SplitTarget {
    /// Index in [`KernelView::clusters`].
    Cluster(usize),
    /// No such cluster: refused.
    Refuse,
}

/// A cluster that the kernel balances itself.
#[derive(Debug, Clone)]
pub struct KernelCluster {
    /// Stable identity.
    pub key: ClusterKey,
    /// How an endpoint is chosen.
    pub balancer: KernelBalancer,
    /// Current endpoints of both families; the kernel uses those of the socket's family.
    pub endpoints: Arc<EndpointCell>,
    /// Socket keepalive, set by `bpf_setsockopt`.
    pub keepalive: Option<TcpKeepalive>,
}

/// Balancers of the kernel path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
pub enum KernelBalancer {
    /// Weighted, over spread slots.
    RoundRobin,
    /// Uniform.
    Random,
    /// Two random picks, fewer live connections.
    LeastRequest,
    /// By the client's address (sessionAffinity, `useSourceIp`).
    SourceIp,
    /// To the dialled address, with this port instead of its own unless zero.
    OriginalDst {
        /// Replacement port, 0 for none.
        port: u16,
    },
}

/// Slots over which endpoint weights are spread; finer weights take the proxy path.
pub const WEIGHT_SLOTS_MAX: usize = proxy_common::cluster::SLOTS_MAX as usize;
