//! Captured pods: found by the node, served by a worker, named in the kernel's maps.

use std::collections::HashMap;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::sync::Arc;

use proxy_common::addr::Family;
use proxy_common::pod::PodId;

use crate::admin::node::PodState;
use crate::finding::{Finding, Severity};
use crate::kernel::{KernelMaps, PodEntry, SyncReport};
use crate::net::{NetnsCookie, PodUid, SocketFactory};
use crate::node::listener::{self, HandedListener, PodListeners};
use crate::node::{FoundPod, HostGuard, HostSockets, NodeEvent, PodSockets};
use crate::proxy::upstream::workload_labels;
use crate::proxy::{PodHandle, WorkerCommand, WorkerHandle, WorkerLimits};
use crate::snapshot::{Capture, PodView, Snapshot};

/// Pods that the node reported, by uid.
pub(super) struct PodTable {
    pods: HashMap<PodUid, LivePod>,
    /// Listeners of the daemon before this one whose pods were not found yet.
    handed: Vec<HandedListener>,
    host: Arc<HostGuard>,
}

/// What is known and done about one pod.
#[derive(Default)]
struct LivePod {
    cgroup_id: Option<u64>,
    found: Option<FoundPod>,
    attached: Option<Attached>,
    /// Named by its cgroup while its namespace is not known (`strict` refuses it then).
    waiting: Option<PodEntry>,
    problem: Option<String>,
}

/// A pod that is being captured.
struct Attached {
    worker: usize,
    entry: PodEntry,
    /// The worker's listeners once more, to be handed to a successor.
    listeners: PodListeners,
    /// Captured connections that the pod may have at a time.
    connections_max: u64,
}

impl PodTable {
    /// An empty table that uses these listeners for their pods.
    pub(super) fn new(handed: Vec<HandedListener>, host: Arc<HostGuard>) -> Self {
        Self {
            pods: HashMap::new(),
            handed,
            host,
        }
    }

    /// The listeners of all captured pods.
    pub(super) fn into_listeners(self) -> Vec<HandedListener> {
        let attached = self.pods.into_values().filter_map(|pod| pod.attached);
        attached
            .flat_map(|attached| {
                let pod = attached.entry.id;
                let PodListeners { since_ns, v4, v6 } = attached.listeners;
                v4.into_iter().chain(v6).map(move |socket| HandedListener {
                    pod,
                    since_ns,
                    socket,
                })
            })
            .collect()
    }

    /// Closes listeners whose pods went away during a take-over.
    pub(super) fn close_unclaimed(&mut self) {
        self.handed.clear();
    }

    /// Takes note of what the node saw. A pod that is gone is let go at once.
    pub(super) fn note(
        &mut self,
        event: NodeEvent,
        kernel: &dyn KernelMaps,
        workers: &[WorkerHandle],
    ) {
        match event {
            NodeEvent::Cgroup { uid, id } => {
                self.pods.entry(uid).or_default().cgroup_id = Some(id);
            }
            NodeEvent::Found(found) => {
                let pod = self.pods.entry(found.uid.clone()).or_default();
                pod.found = Some(found);
                pod.problem = None;
            }
            NodeEvent::WayOut { uid, way_out } => {
                if let Some(found) = self.pods.get_mut(&uid).and_then(|pod| pod.found.as_mut()) {
                    found.way_out = way_out;
                }
            }
            NodeEvent::Gone(uid) => {
                if let Some(mut pod) = self.pods.remove(&uid) {
                    pod.detach(kernel, workers);
                }
            }
        }
    }

    /// Whether every pod that the snapshot wants captured is.
    pub(super) fn is_complete(&self, snapshot: &Snapshot) -> bool {
        snapshot
            .pods
            .values()
            .filter(|view| view.capture == Capture::Captured)
            .all(|view| {
                let pod = self.pods.get(&view.uid);
                pod.is_some_and(|pod| pod.attached.is_some())
            })
    }

    /// Makes what is attached match the snapshot.
    pub(super) fn reconcile(
        &mut self,
        snapshot: &Snapshot,
        kernel: &dyn KernelMaps,
        workers: &[WorkerHandle],
    ) {
        let mut load: Vec<usize> = vec![0; workers.len()];
        for attached in self.pods.values().filter_map(|pod| pod.attached.as_ref()) {
            if let Some(count) = load.get_mut(attached.worker) {
                *count += 1;
            }
        }
        let mut claims = Claims {
            handed: &mut self.handed,
            host: &self.host,
        };
        for (uid, pod) in &mut self.pods {
            let Some(view) = snapshot
                .pods
                .get(uid)
                .filter(|view| view.capture == Capture::Captured)
            else {
                // The node is told not to want it, and answers `Gone`.
                continue;
            };
            if let Err(error) =
                pod.reconcile(view, snapshot, kernel, workers, &mut load, &mut claims)
            {
                tracing::error!(pod = %uid, %error, "cannot capture the pod");
                pod.problem = Some(error.to_string());
            }
        }
    }

    /// Takes all listeners out of the kernel's maps. The pods stay named there: what the
    /// kernel decides by itself goes on, and the next daemon adopts it.
    pub(super) fn release_listeners(&self, kernel: &dyn KernelMaps) {
        for attached in self.pods.values().filter_map(|pod| pod.attached.as_ref()) {
            for family in [Family::V4, Family::V6] {
                warn_on_error(
                    kernel.remove_listener(attached.entry.id, family),
                    "remove a listener",
                );
            }
        }
    }

    /// Which pod stands behind a kernel's pod id.
    pub(super) fn uids(&self) -> HashMap<PodId, PodUid> {
        let attached = self.pods.iter().filter_map(|(uid, pod)| {
            let attached = pod.attached.as_ref()?;
            Some((attached.entry.id, uid.clone()))
        });
        attached.collect()
    }

    /// What `get pods` shows, for every pod of the snapshot.
    pub(super) fn states(&self, snapshot: &Snapshot) -> HashMap<PodUid, PodState> {
        let state_of = |view: &PodView| match &view.capture {
            Capture::Untouched(reason) => PodState {
                state: reason.to_string(),
                ..PodState::default()
            },
            Capture::Captured => self.pods.get(&view.uid).map_or_else(
                || PodState {
                    state: "waiting for cgroup".to_owned(),
                    ..PodState::default()
                },
                LivePod::state,
            ),
        };
        snapshot
            .pods
            .values()
            .map(|view| (view.uid.clone(), state_of(view)))
            .collect()
    }
}

impl LivePod {
    fn state(&self) -> PodState {
        let Some(attached) = &self.attached else {
            let state = self
                .problem
                .clone()
                .unwrap_or_else(|| "waiting for its network namespace".to_owned());
            return PodState {
                state,
                ..PodState::default()
            };
        };
        PodState {
            state: "captured".to_owned(),
            worker: Some(attached.worker),
            connections: 0,
            connections_max: Some(attached.connections_max),
            listener_ports: attached
                .entry
                .listener_v4
                .into_iter()
                .chain(attached.entry.listener_v6)
                .collect(),
        }
    }

    fn reconcile(
        &mut self,
        view: &PodView,
        snapshot: &Snapshot,
        kernel: &dyn KernelMaps,
        workers: &[WorkerHandle],
        load: &mut [usize],
        claims: &mut Claims<'_>,
    ) -> anyhow::Result<()> {
        let (Some(found), Some(cgroup_id)) = (&self.found, self.cgroup_id) else {
            return self.announce_waiting(view, snapshot, kernel);
        };
        if let Some(attached) = &mut self.attached {
            let entry = PodEntry {
                listener_v4: attached.entry.listener_v4,
                listener_v6: attached.entry.listener_v6,
                worker: attached.entry.worker,
                ..entry_of(view, found, cgroup_id, snapshot)
            };
            if entry != attached.entry {
                kernel.upsert_pod(&entry)?;
                attached.entry = entry;
            }
            return Ok(());
        }
        let worker = least_loaded(load);
        let handle = workers
            .get(worker)
            .ok_or_else(|| anyhow::anyhow!("no worker runs"))?;
        let entry = PodEntry {
            worker: u32::try_from(worker)?,
            ..entry_of(view, found, cgroup_id, snapshot)
        };
        let attached = attach(view, found, entry, kernel, handle, claims)?;
        if let Some(count) = load.get_mut(worker) {
            *count += 1;
        }
        let id = attached.entry.id;
        self.attached = Some(attached);
        // A host-network pod has one name from the start.
        if let Some(waiting) = self.waiting.take().filter(|waiting| waiting.id != id) {
            kernel.remove_pod(waiting.id)?;
        }
        Ok(())
    }

    fn announce_waiting(
        &mut self,
        view: &PodView,
        snapshot: &Snapshot,
        kernel: &dyn KernelMaps,
    ) -> anyhow::Result<()> {
        let Some(cgroup_id) = self.cgroup_id.filter(|_| self.waiting.is_none()) else {
            return Ok(());
        };
        let entry = PodEntry {
            id: PodId::cgroup(cgroup_id),
            netns: NetnsCookie(0),
            is_ready: false,
            has_way_out_v4: true,
            has_way_out_v6: true,
            ..blank_entry(view, snapshot)
        };
        kernel.upsert_pod(&entry)?;
        self.waiting = Some(entry);
        Ok(())
    }

    fn detach(&mut self, kernel: &dyn KernelMaps, workers: &[WorkerHandle]) {
        if let Some(waiting) = self.waiting.take() {
            warn_on_error(kernel.remove_pod(waiting.id), "forget a waiting pod");
        }
        let Some(attached) = self.attached.take() else {
            return;
        };
        warn_on_error(kernel.remove_pod(attached.entry.id), "forget a pod");
        for family in [Family::V4, Family::V6] {
            warn_on_error(
                kernel.remove_listener(attached.entry.id, family),
                "remove a listener",
            );
        }
        if let Some(worker) = workers.get(attached.worker) {
            warn_on_error(
                worker.send(WorkerCommand::RemovePod(attached.entry.id)),
                "close a pod's connections",
            );
        }
    }
}

/// What pods are attached with, beside themselves.
struct Claims<'a> {
    handed: &'a mut Vec<HandedListener>,
    host: &'a Arc<HostGuard>,
}

/// Listeners inside the pod, then the kernel's maps, then the worker that accepts from them.
/// `entry` lacks the listeners' ports.
fn attach(
    view: &PodView,
    found: &FoundPod,
    entry: PodEntry,
    kernel: &dyn KernelMaps,
    handle: &WorkerHandle,
    claims: &mut Claims<'_>,
) -> anyhow::Result<Attached> {
    let listeners = match PodListeners::claim(claims.handed, entry.id) {
        Some(listeners) => listeners,
        None => listener::open(&found.namespace)?,
    };
    let kept = listeners.try_clone()?;
    let port = |socket: &Option<TcpListener>| {
        socket
            .as_ref()
            .and_then(|socket| socket.local_addr().ok())
            .map(|address| address.port())
    };
    let entry = PodEntry {
        listener_v4: port(&listeners.v4),
        listener_v6: port(&listeners.v6),
        ..entry
    };
    let sockets = [(Family::V4, &listeners.v4), (Family::V6, &listeners.v6)];
    for (family, socket) in sockets {
        if let Some(socket) = socket {
            kernel.set_listener(entry.id, family, socket.as_fd())?;
        }
    }
    // Before the worker accepts: a pod that the maps have no room for is never served. New
    // connections wait in the queue for that moment.
    kernel.upsert_pod(&entry)?;
    let sockets: Arc<dyn SocketFactory> = if view.is_host_network {
        // The host may have families that the pod is not known by.
        Arc::new(HostSockets::new(Arc::clone(claims.host), &view.ips))
    } else {
        let namespace = Arc::clone(&found.namespace);
        Arc::new(PodSockets::new(namespace, &found.addresses))
    };
    handle
        .send(WorkerCommand::AddPod(PodHandle {
            uid: view.uid.clone(),
            id: entry.id,
            netns: entry.netns,
            listening_since_ns: listeners.since_ns,
            listeners: listeners.v4.into_iter().chain(listeners.v6).collect(),
            sockets,
            labels: Arc::new(workload_labels(&view.workload)),
        }))
        .inspect_err(|_| warn_on_error(kernel.remove_pod(entry.id), "forget a pod"))?;
    Ok(Attached {
        worker: usize::try_from(entry.worker)?,
        entry,
        listeners: kept,
        connections_max: connections_max(found),
    })
}

/// What the namespace's local ports allow towards one listener, and the worker.
fn connections_max(found: &FoundPod) -> u64 {
    let by_worker = WorkerLimits::default().connections_per_pod_max as u64;
    match found.namespace.local_ports() {
        Ok(ports) => by_worker.min(u64::from(ports)),
        Err(error) => {
            tracing::debug!(pod = %found.uid, %error, "cannot read the range of local ports");
            by_worker
        }
    }
}

/// Pods that share the host's namespace are told apart by their cgroups.
fn entry_of(view: &PodView, found: &FoundPod, cgroup_id: u64, snapshot: &Snapshot) -> PodEntry {
    PodEntry {
        id: if view.is_host_network {
            PodId::cgroup(cgroup_id)
        } else {
            PodId::namespace(found.namespace.cookie.0)
        },
        netns: found.namespace.cookie,
        has_way_out_v4: found.way_out.v4,
        has_way_out_v6: found.way_out.v6,
        ..blank_entry(view, snapshot)
    }
}

fn blank_entry(view: &PodView, snapshot: &Snapshot) -> PodEntry {
    let scope = snapshot
        .scope(view.scope)
        .map(|scope| Arc::clone(&scope.key))
        .unwrap_or_default();
    PodEntry {
        id: PodId::default(),
        netns: NetnsCookie(0),
        scope,
        worker: 0,
        is_ready: true,
        addresses: view.ips.clone(),
        listener_v4: None,
        listener_v6: None,
        has_way_out_v4: false,
        has_way_out_v6: false,
        on_proxy_down: view.on_proxy_down,
        exclusions: view.exclusions.clone(),
    }
}

fn least_loaded(load: &[usize]) -> usize {
    let lightest = load.iter().enumerate().min_by_key(|(_, count)| **count);
    lightest.map_or(0, |(index, _)| index)
}

fn warn_on_error<E: std::fmt::Display>(result: Result<(), E>, what: &str) {
    if let Err(error) = result {
        tracing::warn!(%error, "cannot {what}");
    }
}

/// What did not fit the kernel's maps.
pub(super) fn kernel_findings(report: &SyncReport) -> Vec<Finding> {
    report
        .problems
        .iter()
        .map(|problem| {
            Finding::new(
                Severity::Error,
                "kernel-map",
                format!("{}: {}", problem.name, problem.message),
            )
        })
        .collect()
}
