//! What admin sees of the running node; written by the control loop, read by the admin thread.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use proxy_common::addr::{Addr, PortBe};
use proxy_common::flow::LiveFlow;
use proxy_common::pod::PodId;
use proxy_common::reason::Reason;
use proxy_common::socket::SocketState;
use serde_json::Value;

use crate::admin::Node;
use crate::admin::node::PodState;
use crate::admin::view::{
    ConnectionView, CountView, KernelStateView, MapView, NodeView, SourceView, WorkerView,
};
use crate::finding::{Finding, Severity};
use crate::kernel::{KernelMaps, Names};
use crate::net::{PodUid, monotonic_ns};
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
    /// A worker without a beat for this long counts as dead, as in the connect program.
    pub(crate) heartbeat_max: Duration,
}

#[derive(Default)]
struct State {
    findings: Vec<Finding>,
    pods: HashMap<PodUid, PodState>,
    uids: HashMap<PodId, PodUid>,
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

    pub(crate) fn set_pods(&self, pods: HashMap<PodUid, PodState>, uids: HashMap<PodId, PodUid>) {
        let mut state = self.state();
        (state.pods, state.uids) = (pods, uids);
    }

    /// The pod behind a kernel's pod id.
    pub(super) fn uid_of(&self, id: PodId) -> Option<PodUid> {
        self.state().uids.get(&id).cloned()
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
        let flow_events_dropped = count_of(&reasons, Reason::FlowDropped);
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
            flow_events_dropped,
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
            let age = u32::try_from(id)
                .ok()
                .and_then(|id| self.kernel.heartbeat_age(id));
            WorkerView {
                id,
                is_alive: age.is_some_and(|age| age < self.identity.heartbeat_max),
                heartbeat_age_ms: age.map_or(0, milliseconds),
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
            upstream: live.upstream.map(|upstream| upstream.to_string()),
            cluster: live.cluster.as_ref().map(ToString::to_string),
            protocol: if live.protocol.is_empty() {
                "detecting"
            } else {
                live.protocol
            }
            .to_owned(),
            age_ms: live.start.elapsed().map_or(0, milliseconds),
            bytes_received: live.moved.map(|moved| moved.0),
            bytes_sent: live.moved.map(|moved| moved.1),
        };
        let state = self.state();
        let proxied: Vec<ConnectionView> = state.connections.iter().map(view).collect();
        let uids = state.uids.clone();
        drop(state);
        let decided = self.kernel.live_flows().unwrap_or_default();
        let names = self.kernel.names();
        let decided = decided
            .iter()
            .filter(|flow| flow.state.flags & SocketState::ESTABLISHED != 0)
            .map(|flow| {
                let uid = uids.get(&flow.state.pod);
                let pod = uid.map_or_else(|| "unknown".to_owned(), name_of);
                let client =
                    uid.and_then(|uid| own_ip(&snapshot, uid, flow.state.original.to_ip()));
                kernel_view(flow, pod, client, &names)
            });
        proxied.into_iter().chain(decided).collect()
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

/// A connection that no worker relays.
fn kernel_view(
    flow: &LiveFlow,
    pod: String,
    client: Option<IpAddr>,
    names: &Names,
) -> ConnectionView {
    let state = &flow.state;
    let address = |addr: Addr, port: PortBe| SocketAddr::new(addr.to_ip(), port.to_host());
    let is_decided = state.path == SocketState::PATH_KERNEL;
    let cluster = names.clusters.get(&state.cluster_id);
    ConnectionView {
        pod,
        path: if is_decided { "kernel" } else { "untouched" }.to_owned(),
        client: client.map(|ip| ip.to_string()).unwrap_or_default(),
        destination: address(state.original, state.original_port).to_string(),
        upstream: is_decided.then(|| address(state.endpoint, state.endpoint_port).to_string()),
        cluster: cluster.map(|key| key.name.to_string()),
        protocol: "tcp".to_owned(),
        age_ms: monotonic_ns().saturating_sub(state.connect_ns) / 1_000_000,
        // What the application sent, its peer received.
        bytes_received: Some(flow.sent_bytes),
        bytes_sent: Some(flow.received_bytes),
    }
}

/// The pod's address of the family of `towards`.
fn own_ip(snapshot: &Snapshot, uid: &PodUid, towards: IpAddr) -> Option<IpAddr> {
    let pod = snapshot.pods.get(uid)?;
    let mut ips = pod.ips.iter().copied();
    ips.find(|ip| ip.is_ipv4() == towards.to_canonical().is_ipv4())
}

fn milliseconds(age: Duration) -> u64 {
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
}

/// How often `connect()` counted this reason.
pub(super) fn count_of(reasons: &[(Reason, u64)], wanted: Reason) -> u64 {
    let counts = reasons.iter().filter(|(reason, _)| *reason == wanted);
    counts.map(|(_, count)| count).sum()
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
