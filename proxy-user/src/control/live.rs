//! What admin sees of the running node; written by the control loop, read by the admin thread.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::Value;

use crate::admin::Node;
use crate::admin::node::PodState;
use crate::admin::view::{
    ConnectionView, CountView, KernelStateView, MapView, NodeView, SourceView, WorkerView,
};
use crate::finding::{Finding, Severity};
use crate::kernel::KernelMaps;
use crate::net::PodUid;
use crate::proxy::{ConnectionView as LiveConnection, WorkerStatus};
use crate::snapshot::{Snapshot, SnapshotReader};

/// The daemon's answers to admin.
pub(crate) struct LiveNode {
    snapshot: SnapshotReader,
    kernel: Arc<dyn KernelMaps>,
    settings: Value,
    identity: Identity,
    started: Instant,
    /// Guards what the control loop writes once a second or per change; held for copies only.
    state: Mutex<State>,
}

/// What never changes while the daemon runs.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// Name of the node.
    pub(crate) node: String,
    /// Where objects come from.
    pub(crate) source: String,
    /// Cgroup of the programs.
    pub(crate) cgroup: String,
    /// Directory of the pins.
    pub(crate) pins: String,
    /// How many workers there are.
    pub(crate) workers: usize,
}

#[derive(Default)]
struct State {
    findings: Vec<Finding>,
    pods: HashMap<PodUid, PodState>,
    workers: Vec<WorkerStatus>,
    connections: Vec<LiveConnection>,
    objects: usize,
    skipped: usize,
    is_synced: bool,
    kernel_problem: Option<String>,
}

impl LiveNode {
    /// A node about which nothing is known yet.
    pub(crate) fn new(
        snapshot: SnapshotReader,
        kernel: Arc<dyn KernelMaps>,
        settings: Value,
        identity: Identity,
    ) -> Self {
        Self {
            snapshot,
            kernel,
            settings,
            identity,
            started: Instant::now(),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Only whole values are written, so a panic elsewhere leaves them whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the findings; returns the ones before.
    pub(crate) fn set_findings(&self, findings: Vec<Finding>) -> Vec<Finding> {
        std::mem::replace(&mut self.state().findings, findings)
    }

    pub(crate) fn set_source(&self, objects: usize, skipped: usize) {
        let mut state = self.state();
        (state.objects, state.skipped, state.is_synced) = (objects, skipped, true);
    }

    pub(crate) fn set_pods(&self, pods: HashMap<PodUid, PodState>) {
        self.state().pods = pods;
    }

    pub(crate) fn set_workers(&self, workers: Vec<WorkerStatus>, connections: Vec<LiveConnection>) {
        let mut state = self.state();
        (state.workers, state.connections) = (workers, connections);
    }

    pub(crate) fn set_kernel_problem(&self, problem: Option<String>) {
        self.state().kernel_problem = problem;
    }

    fn kernel_state(&self, problem: Option<String>) -> KernelStateView {
        let reasons = self.kernel.reasons().unwrap_or_default();
        KernelStateView {
            state: problem.unwrap_or_else(|| "attached".to_owned()),
            cgroup: self.identity.cgroup.clone(),
            pins: self.identity.pins.clone(),
            decisions: reasons
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .map(|(reason, count)| CountView {
                    name: reason.label().to_owned(),
                    count,
                })
                .collect(),
            flow_events_dropped: 0,
        }
    }
}

impl Node for LiveNode {
    fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    fn findings(&self) -> Vec<Finding> {
        self.state().findings.clone()
    }

    fn state(&self) -> NodeView {
        let state = self.state();
        let worker = |id: usize| {
            let status = state.workers.iter().find(|status| status.id as usize == id);
            WorkerView {
                id,
                is_alive: status.is_some(),
                heartbeat_age_ms: 0,
                pods: status.map_or(0, |status| status.pods.len()),
                connections: status.map_or(0, |status| {
                    status.pods.iter().map(|pod| pod.connections as u64).sum()
                }),
            }
        };
        let view = NodeView {
            node: self.identity.node.clone(),
            pid: std::process::id(),
            uptime_secs: self.started.elapsed().as_secs(),
            source: SourceView {
                place: self.identity.source.clone(),
                state: if state.is_synced { "synced" } else { "reading" }.to_owned(),
                objects: state.objects,
                skipped: state.skipped,
            },
            workers: (0..self.identity.workers).map(worker).collect(),
            kernel: KernelStateView::default(),
        };
        let problem = state.kernel_problem.clone();
        drop(state);
        NodeView {
            kernel: self.kernel_state(problem),
            ..view
        }
    }

    fn pods(&self) -> HashMap<PodUid, PodState> {
        let state = self.state();
        let mut pods = state.pods.clone();
        for status in state.workers.iter().flat_map(|worker| &worker.pods) {
            if let Some(pod) = pods.get_mut(&status.uid) {
                pod.connections = status.connections as u64;
            }
        }
        pods
    }

    fn connections(&self) -> Vec<ConnectionView> {
        let snapshot = self.snapshot.load();
        let name_of = |uid: &PodUid| {
            snapshot.pods.get(uid).map_or_else(
                || uid.to_string(),
                |pod| format!("{}/{}", pod.workload.namespace, pod.workload.name),
            )
        };
        let view = |live: &LiveConnection| ConnectionView {
            pod: name_of(&live.pod),
            path: "proxy".to_owned(),
            client: live.downstream.to_string(),
            destination: live
                .original_dst
                .map(|dst| dst.to_string())
                .unwrap_or_default(),
            upstream: None,
            cluster: live.cluster.as_ref().map(ToString::to_string),
            protocol: if live.protocol.is_empty() {
                "detecting"
            } else {
                live.protocol
            }
            .to_owned(),
            age_ms: live
                .start
                .elapsed()
                .map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            bytes_received: 0,
            bytes_sent: 0,
        };
        self.state().connections.iter().map(view).collect()
    }

    fn maps(&self) -> Vec<MapView> {
        let fills = self.kernel.fills();
        fills
            .into_iter()
            .map(|fill| MapView {
                name: fill.name.to_owned(),
                entries: u64::try_from(fill.entries).ok(),
                capacity: fill.entries_max.into(),
            })
            .collect()
    }

    fn settings(&self) -> Value {
        self.settings.clone()
    }

    fn readiness(&self) -> Result<(), String> {
        let state = self.state();
        if !state.is_synced {
            return Err("the configuration has not been read yet".to_owned());
        }
        if let Some(problem) = &state.kernel_problem {
            return Err(problem.clone());
        }
        Ok(())
    }
}

/// Counts of findings, with a zero for severities that do not occur.
pub(super) fn count_by_severity(findings: &[Finding]) -> [(&'static str, usize); 3] {
    [Severity::Error, Severity::Warning, Severity::Info].map(|severity| {
        (
            severity.as_str(),
            findings
                .iter()
                .filter(|finding| finding.severity == severity)
                .count(),
        )
    })
}
