//! The loop: objects changed, compile, publish, sync the kernel; pods came and went.
//!
//! Runs on the daemon's main thread, so that a reload never delays a connection. A snapshot
//! reaches the workers before the kernel's maps; a pod is named in the maps before its worker
//! accepts. Start at [`Control::run`].

mod access_log;
mod apply;
mod crowded;
mod flows;
mod live;
mod names;
mod pods;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use proxy_common::reason::Reason;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::admin::Node;
use crate::dns::{Answer, Dns};
use crate::finding::Finding;
use crate::kernel::KernelMaps;
use crate::node::listener::HandedListener;
use crate::node::{HostGuard, NodeEvent, WantedPod};
use crate::proxy::WorkerHandle;
use crate::settings::Settings;
use crate::snapshot::{Publisher, Snapshot};
use crate::source::state::Loaded;
use crate::telemetry::NodeMetrics;
use crate::telemetry::node_metrics::MapFill;

pub(crate) use access_log::{AccessLogState, AccessLogTarget};
use apply::InForce;
use crowded::CrowdedPods;
pub(crate) use flows::FlowReader;
pub(crate) use live::{Identity, LiveNode};
use names::NameTable;
use pods::PodTable;

/// How often the kernel learns that its maps are true.
const RENEW_EVERY: Duration = Duration::from_secs(1);
/// How often links are compared with the cgroup directory, and lost connections swept.
const CHECK_EVERY: Duration = Duration::from_secs(10);

/// What the daemon built, for the loop to run.
pub(crate) struct Parts {
    /// Effective settings.
    pub(crate) settings: Settings,
    /// The one writer of snapshots.
    pub(crate) publisher: Publisher,
    /// The kernel's maps.
    pub(crate) kernel: Arc<dyn KernelMaps>,
    /// The proxy's threads.
    pub(crate) workers: Vec<WorkerHandle>,
    /// Which pods the node shall look for.
    pub(crate) wanted: watch::Sender<Arc<Vec<WantedPod>>>,
    /// The node's own metrics.
    pub(crate) metrics: Arc<NodeMetrics>,
    /// What admin sees.
    pub(crate) live: Arc<LiveNode>,
    /// Where access log lines go since the start.
    pub(crate) access_log: AccessLogState,
    /// What no rule may lead a host-network pod to.
    pub(crate) host: Arc<HostGuard>,
    /// Listeners of the daemon before this one.
    pub(crate) handed: Vec<HandedListener>,
}

/// The control loop's state.
pub(crate) struct Control {
    parts: Parts,
    pods: PodTable,
    names: NameTable,
    source_findings: Vec<Finding>,
    compile_findings: Vec<Finding>,
    kernel_findings: Vec<Finding>,
    /// Pods that have used up most of their captured connections.
    crowded_findings: Vec<Finding>,
    crowded: CrowdedPods,
    snapshot: Arc<Snapshot>,
    /// What the snapshot was compiled from.
    in_force: Option<InForce>,
    /// Waits for what the workers answer; at most one at a time.
    asking: Option<JoinHandle<()>>,
}

impl Control {
    /// A loop over these parts; nothing is published yet. `dns`: resolves the names of
    /// ServiceEntries.
    pub(crate) fn new(mut parts: Parts, dns: Dns) -> Self {
        Self {
            names: NameTable::new(dns),
            in_force: None,
            pods: PodTable::new(std::mem::take(&mut parts.handed), Arc::clone(&parts.host)),
            source_findings: Vec::new(),
            compile_findings: Vec::new(),
            kernel_findings: Vec::new(),
            crowded_findings: Vec::new(),
            crowded: CrowdedPods::default(),
            snapshot: Arc::new(Snapshot::default()),
            asking: None,
            parts,
        }
    }

    /// Takes in what the node finds until every pod to be captured is, for at most `limit`.
    pub(crate) async fn find_pods(
        &mut self,
        node: &mut mpsc::Receiver<NodeEvent>,
        limit: Duration,
    ) {
        let deadline = tokio::time::Instant::now() + limit;
        while !self.pods.is_complete(&self.snapshot) {
            match tokio::time::timeout_at(deadline, node.recv()).await {
                Ok(Some(event)) => self.on_node_event(event),
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Follows the source and the node until `stop` resolves, and says how it did.
    pub(crate) async fn run<S>(
        mut self,
        mut updates: watch::Receiver<Arc<Loaded>>,
        mut node: mpsc::Receiver<NodeEvent>,
        mut answers: mpsc::Receiver<Answer>,
        stop: impl Future<Output = S>,
    ) -> (Self, S) {
        tokio::pin!(stop);
        let mut renew = tokio::time::interval(RENEW_EVERY);
        // Not at once: pods of an earlier daemon are found within a scan or two, and until then
        // their listeners and queued connections look abandoned.
        let mut check =
            tokio::time::interval_at(tokio::time::Instant::now() + CHECK_EVERY, CHECK_EVERY);
        for interval in [&mut renew, &mut check] {
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        }
        loop {
            tokio::select! {
                stopped = &mut stop => return (self, stopped),
                // Source and node live until this loop ends.
                Ok(()) = updates.changed() => {
                    let loaded = Arc::clone(&updates.borrow_and_update());
                    self.apply(&loaded);
                }
                Some(event) = node.recv() => self.on_node_event(event),
                Some(answer) = answers.recv() => self.on_answers(answer, &mut answers),
                _ = renew.tick() => self.renew(),
                _ = check.tick() => self.check(),
            }
        }
    }

    /// Takes the listeners out of the kernel's maps: from now on new connections take their
    /// degraded form, as after a crash. The workers are handed back to be drained.
    pub(crate) fn release(self) -> Vec<WorkerHandle> {
        self.pods.release_listeners(&*self.parts.kernel);
        self.parts.workers
    }

    /// The workers to be drained, and the pods' listeners for the successor. The kernel's
    /// maps stay as they are.
    pub(crate) fn hand_over(self) -> (Vec<WorkerHandle>, Vec<HandedListener>) {
        (self.parts.workers, self.pods.into_listeners())
    }

    fn on_node_event(&mut self, event: NodeEvent) {
        tracing::debug!(?event, "node");
        self.pods
            .note(event, &*self.parts.kernel, &self.parts.workers);
        self.pods
            .reconcile(&self.snapshot, &*self.parts.kernel, &self.parts.workers);
        self.show_pods();
    }

    fn renew(&mut self) {
        if let Err(error) = self.parts.kernel.renew() {
            tracing::error!(%error, "cannot renew the kernel maps; they go stale");
        }
        self.ask_workers();
        self.show_pods();
        self.count_pods();
        self.count_kernel();
    }

    fn show_pods(&self) {
        let states = self.pods.states(&self.snapshot);
        self.parts.live.set_pods(states, self.pods.uids());
    }

    /// Asks every worker for its numbers, all at once and beside the loop: one that hangs
    /// must not hold up renewals, pods or configuration.
    fn ask_workers(&mut self) {
        if self.asking.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let workers = &self.parts.workers;
        let statuses = join_all(workers.iter().map(WorkerHandle::status));
        let connections = join_all(workers.iter().map(WorkerHandle::connections));
        let live = Arc::clone(&self.parts.live);
        self.asking = Some(tokio::spawn(async move {
            let (statuses, connections) = tokio::join!(statuses, connections);
            live.set_workers(
                statuses.into_iter().flatten().collect(),
                connections.into_iter().flatten().flatten().collect(),
            );
        }));
    }

    /// Pods by state and their open connections, as metrics, and findings for those that have
    /// nearly all that they may have.
    fn count_pods(&mut self) {
        let states = self.parts.live.pods();
        let mut by_state = BTreeMap::<&str, usize>::new();
        for pod in states.values() {
            *by_state.entry(&pod.state).or_default() += 1;
        }
        let by_state: Vec<(&str, usize)> = by_state.into_iter().collect();
        self.parts.metrics.set_pods(&by_state);
        let connections: Vec<(String, u64)> = self
            .snapshot
            .pods
            .values()
            .filter_map(|view| {
                let pod = states.get(&view.uid)?;
                let name = format!("{}/{}", view.workload.namespace, view.workload.name);
                pod.worker.map(|_| (name, pod.connections))
            })
            .collect();
        self.parts.metrics.set_captured_connections(&connections);
        let mut crowded = self.crowded.findings(&self.snapshot, &states);
        crowded.sort();
        if crowded != self.crowded_findings {
            self.crowded_findings = crowded;
            self.report_findings();
        }
    }

    /// What the kernel's side counts, as metrics.
    fn count_kernel(&self) {
        let Parts {
            kernel, metrics, ..
        } = &self.parts;
        if let Ok(reasons) = kernel.reasons() {
            let dropped = live::count_of(&reasons, Reason::FlowDropped);
            metrics.flow_events_dropped.set_total(dropped);
            for (reason, count) in reasons {
                metrics.set_kernel_decisions(reason.label(), count);
            }
        }
        for worker in &self.parts.workers {
            if let Some(age) = kernel.heartbeat_age(worker.id()) {
                metrics.set_heartbeat_age(worker.id(), age);
            }
        }
        let fills = kernel.fills();
        let fills: Vec<MapFill<'_>> = fills
            .iter()
            .map(|fill| MapFill {
                map: fill.name,
                entries: fill.entries as u64,
                capacity: fill.entries_max.into(),
            })
            .collect();
        metrics.set_map_fill(&fills);
    }

    fn check(&mut self) {
        self.pods.close_unclaimed();
        // A pod that could not be captured for want of something gets another try.
        self.pods
            .reconcile(&self.snapshot, &*self.parts.kernel, &self.parts.workers);
        match self.parts.kernel.check_links() {
            Ok(_) => self.parts.live.set_kernel_problem(None),
            Err(error) => {
                tracing::error!(%error, "the programs are not attached");
                self.parts.live.set_kernel_problem(Some(error.to_string()));
            }
        }
        match self.parts.kernel.sweep_original_dsts() {
            Ok(swept) => self.parts.metrics.original_dsts_swept.add(swept as u64),
            Err(error) => tracing::warn!(%error, "cannot sweep original destinations"),
        }
    }
}
