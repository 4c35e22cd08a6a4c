//! The pods of this node: their cgroups, network namespaces and listeners.
//!
//! [`pod_watch`] finds a pod by its uid in the cgroup tree, opens its network
//! namespace and reports it; [`listener`] opens sockets inside it. Nothing here
//! knows routes or maps. Start at [`pod_watch::spawn`]. [`memory`] is the daemon's own.

pub mod cgroup;
pub mod host;
pub mod listener;
pub mod memory;
pub mod netns;
pub mod pod_watch;
pub mod way_out;

pub use host::{HostGuard, HostSockets};
pub use netns::{NetNamespace, PodSockets};
pub use pod_watch::{FoundPod, NodeEvent, WantedPod};
