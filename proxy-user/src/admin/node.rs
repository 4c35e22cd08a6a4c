//! What only the running daemon knows, as the views ask for it.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::view::{ConnectionView, MapView, NodeView};
use crate::finding::Finding;
use crate::net::PodUid;
use crate::snapshot::Snapshot;

/// The running node, as seen from admin. The daemon implements it; every method
/// answers at once, from what is in memory or in kernel maps.
pub trait Node: Send + Sync {
    /// The snapshot in force.
    fn snapshot(&self) -> Arc<Snapshot>;
    /// All findings in force: of the source, of compiling, of the node.
    fn findings(&self) -> Vec<Finding>;
    /// The node's state: source, workers, kernel.
    fn state(&self) -> NodeView;
    /// What is done with each pod of this node that the configuration lists, by uid.
    fn pods(&self) -> HashMap<PodUid, PodState>;
    /// Open connections of captured pods.
    fn connections(&self) -> Vec<ConnectionView>;
    /// The kernel maps and their fill levels.
    fn maps(&self) -> Vec<MapView>;
    /// The effective settings ([`crate::settings::Settings::document`]).
    fn settings(&self) -> Value;
    /// Ready to route traffic.
    ///
    /// # Errors
    /// What is still missing, for `/healthz/ready`.
    fn readiness(&self) -> Result<(), String>;
}

/// What is done with one pod right now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodState {
    /// `captured`, `waiting for cgroup`, or why the pod is left alone.
    pub state: String,
    /// Its home worker.
    pub worker: Option<usize>,
    /// Its open captured connections.
    pub connections: u64,
    /// How many it may have at a time.
    pub connections_max: Option<u64>,
    /// Ports of its in-pod listeners, IPv4 first.
    pub listener_ports: Vec<u16>,
}
