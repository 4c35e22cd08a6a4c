//! Flow records of the kernel path become the same connection records that the proxy makes.
//!
//! One thread reads the ring buffer and, every few seconds, the live connections: bytes of
//! long streams are reported while they flow, and live counts are repaired. It also moves the
//! programs' log lines into the daemon's log.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use proxy_common::flow::LiveFlow;
use proxy_common::pod::PodId;

use super::live::LiveNode;
use crate::kernel::{Flow, FlowEvents, FlowKind, FlowPath, KernelLog, KernelMaps};
use crate::proxy::upstream::workload_labels;
use crate::snapshot::{Cluster, Snapshot, SnapshotReader, Workload};
use crate::telemetry::record::{
    ConnectionPath, ConnectionRecord, DestinationLabels, Recorder, ResponseFlags, WorkloadLabels,
};

/// How often the ring buffer is read. The kernel wakes nobody for a record: on a busy node that
/// would cost each short connection two switches to this thread. The buffer holds 15,000 records.
const READ_EVERY: Duration = Duration::from_millis(50);
/// How often live connections are read.
const LIVE_EVERY: Duration = Duration::from_secs(5);

/// The reading thread. Dropping it ends the thread.
pub(crate) struct FlowReader {
    is_stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FlowReader {
    /// Starts reading; without an event source only live counts are repaired.
    ///
    /// # Errors
    /// The thread cannot be made.
    pub(crate) fn spawn(
        kernel: Arc<dyn KernelMaps>,
        snapshot: SnapshotReader,
        live: Arc<LiveNode>,
        recorder: Arc<dyn Recorder>,
    ) -> io::Result<Self> {
        let is_stopped = Arc::new(AtomicBool::new(false));
        let events = kernel.take_flow_events();
        let log = kernel.take_log();
        let reader = Reader {
            kernel,
            snapshot,
            live,
            recorder,
            reported: HashMap::new(),
            index: Index::default(),
        };
        let thread = std::thread::Builder::new()
            .name("flows".to_owned())
            .spawn({
                let is_stopped = Arc::clone(&is_stopped);
                move || reader.run(events, log, &is_stopped)
            })?;
        Ok(Self {
            is_stopped,
            thread: Some(thread),
        })
    }
}

impl Drop for FlowReader {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there was logged by the panic hook.
            let _ = thread.join();
        }
    }
}

struct Reader {
    kernel: Arc<dyn KernelMaps>,
    snapshot: SnapshotReader,
    /// Knows the pods behind the kernel's ids.
    live: Arc<LiveNode>,
    recorder: Arc<dyn Recorder>,
    /// Bytes of open connections that were reported already, by socket cookie.
    reported: HashMap<u64, Open>,
    index: Index,
}

/// An open connection of which something was reported.
struct Open {
    record: ConnectionRecord,
    sent: u64,
    received: u64,
}

/// What a record needs from the snapshot, by name; rebuilt when the snapshot changes.
#[derive(Default)]
struct Index {
    snapshot: Option<Arc<Snapshot>>,
    clusters: HashMap<Arc<str>, Arc<Cluster>>,
    labels: HashMap<IpAddr, Arc<WorkloadLabels>>,
    /// Of client pods: those of the host's network share an address.
    pod_labels: HashMap<PodId, Arc<WorkloadLabels>>,
    /// Shared, so that metrics find a series by address (see `telemetry::traffic`).
    services: HashMap<ServiceKey, Arc<DestinationLabels>>,
}

/// What [`service_labels`] depends on: cluster, service, and whether it was passed.
type ServiceKey = (Option<Arc<str>>, Option<Arc<str>>, bool);

impl Reader {
    fn run(
        mut self,
        mut events: Option<FlowEvents>,
        mut log: Option<KernelLog>,
        is_stopped: &AtomicBool,
    ) {
        let mut live_read = Instant::now();
        while !is_stopped.load(Ordering::Relaxed) {
            std::thread::sleep(READ_EVERY);
            self.index.refresh(&self.snapshot);
            while let Some(flow) = events.as_mut().and_then(FlowEvents::next_flow) {
                self.on_flow(&flow);
            }
            if let Some(log) = &mut log {
                log.flush();
            }
            if live_read.elapsed() >= LIVE_EVERY {
                live_read = Instant::now();
                self.read_live();
            }
        }
    }

    fn on_flow(&mut self, flow: &Flow) {
        let source = self.index.labels_of_client(flow, &self.live);
        let record = self.index.record(flow, source);
        match flow.kind {
            FlowKind::Opened => {
                self.recorder.connection_opened(&record);
                self.reported.insert(
                    flow.socket_cookie,
                    Open {
                        record,
                        sent: 0,
                        received: 0,
                    },
                );
            }
            FlowKind::Closed => self.on_closed(flow, record),
            FlowKind::Failed | FlowKind::Refused => {
                self.recorder.connection_opened(&record);
                self.recorder
                    .connection_closed(&record, flow.duration, 0, 0);
            }
        }
    }

    fn on_closed(&mut self, flow: &Flow, mut record: ConnectionRecord) {
        let open = self.reported.remove(&flow.socket_cookie);
        let (sent, received) = open.map_or((0, 0), |open| (open.sent, open.received));
        // The application's sent bytes are what its peer received from it.
        record.bytes_received = flow.sent_bytes;
        record.bytes_sent = flow.received_bytes;
        self.recorder.connection_closed(
            &record,
            flow.duration,
            flow.sent_bytes.saturating_sub(sent),
            flow.received_bytes.saturating_sub(received),
        );
    }

    /// Reports what moved on open connections, and forgets those whose close was lost.
    fn read_live(&mut self) {
        let flows = match self.kernel.live_flows() {
            Ok(flows) => flows,
            Err(error) => {
                tracing::warn!(%error, "cannot read live connections of the kernel path");
                return;
            }
        };
        let by_cookie: HashMap<u64, &LiveFlow> = flows
            .iter()
            .map(|flow| (flow.socket_cookie, flow))
            .collect();
        self.reported
            .retain(|cookie, _| by_cookie.contains_key(cookie));
        for (cookie, open) in &mut self.reported {
            let Some(flow) = by_cookie.get(cookie) else {
                continue;
            };
            let received = flow.sent_bytes.saturating_sub(open.sent);
            let sent = flow.received_bytes.saturating_sub(open.received);
            if received > 0 || sent > 0 {
                self.recorder
                    .connection_progress(&open.record, received, sent);
                (open.sent, open.received) = (flow.sent_bytes, flow.received_bytes);
            }
        }
    }
}

impl Index {
    fn refresh(&mut self, reader: &SnapshotReader) {
        let current = reader.load();
        if self
            .snapshot
            .as_ref()
            .is_some_and(|known| known.version == current.version)
        {
            return;
        }
        let current = Arc::clone(&current);
        self.clusters = current
            .clusters
            .iter()
            .map(|cluster| (Arc::clone(&cluster.name), Arc::clone(cluster)))
            .collect();
        self.labels.clear();
        self.pod_labels.clear();
        self.services.clear();
        self.snapshot = Some(current);
    }

    fn record(&mut self, flow: &Flow, source: Arc<WorkloadLabels>) -> ConnectionRecord {
        let cluster = flow
            .cluster
            .as_ref()
            .and_then(|key| self.clusters.get(&key.name))
            .cloned();
        let (flags, failure) = outcome(flow);
        let key = (
            flow.cluster.as_ref().map(|key| Arc::clone(&key.name)),
            flow.service.clone(),
            flow.path == FlowPath::Pass,
        );
        let snapshot = self.snapshot.as_deref();
        let service = self
            .services
            .entry(key)
            .or_insert_with(|| Arc::new(service_labels(flow, cluster.as_deref(), snapshot)));
        let service = Arc::clone(service);
        ConnectionRecord {
            start: SystemTime::now()
                .checked_sub(flow.duration)
                .unwrap_or(SystemTime::UNIX_EPOCH),
            source,
            destination: self.labels_of(flow.endpoint),
            service,
            flags,
            details: Cow::Borrowed("-"),
            upstream_failure: failure,
            bytes_received: 0,
            bytes_sent: 0,
            upstream_host: flow.endpoint,
            upstream_cluster: flow.cluster.as_ref().map(|key| Arc::clone(&key.name)),
            upstream_local: (flow.client.port() != 0).then_some(flow.client),
            downstream_local: flow.original,
            downstream_remote: flow.client,
            server_name: None,
            path: ConnectionPath::Kernel,
        }
    }

    /// Those of the pod that dialled; of its address when it is not known any more.
    fn labels_of_client(&mut self, flow: &Flow, live: &LiveNode) -> Arc<WorkloadLabels> {
        if let Some(known) = self.pod_labels.get(&flow.pod) {
            return Arc::clone(known);
        }
        let snapshot = self.snapshot.as_ref();
        let view = live
            .uid_of(flow.pod)
            .and_then(|uid| snapshot?.pods.get(&uid));
        let Some(view) = view else {
            return self.labels_of(Some(flow.client));
        };
        let labels = Arc::new(workload_labels(&view.workload));
        self.pod_labels.insert(flow.pod, Arc::clone(&labels));
        labels
    }

    fn labels_of(&mut self, address: Option<SocketAddr>) -> Arc<WorkloadLabels> {
        let Some(ip) = address.map(|address| address.ip().to_canonical()) else {
            return Arc::new(WorkloadLabels::unknown());
        };
        let snapshot = &self.snapshot;
        let entry = self.labels.entry(ip).or_insert_with(|| {
            let workload: Option<&Workload> = snapshot
                .as_ref()
                .and_then(|snapshot| snapshot.workloads.get(&ip))
                .map(|workload| &**workload);
            Arc::new(workload.map_or_else(WorkloadLabels::unknown, workload_labels))
        });
        Arc::clone(entry)
    }
}

fn outcome(flow: &Flow) -> (ResponseFlags, Option<Box<str>>) {
    match flow.kind {
        FlowKind::Opened | FlowKind::Closed => (ResponseFlags::default(), None),
        FlowKind::Failed => (
            ResponseFlags::UF,
            Some("connection was not established".into()),
        ),
        FlowKind::Refused => (ResponseFlags::UH, Some(flow.reason.label().into())),
    }
}

fn service_labels(
    flow: &Flow,
    cluster: Option<&Cluster>,
    snapshot: Option<&Snapshot>,
) -> DestinationLabels {
    if let Some(cluster) = cluster {
        return DestinationLabels {
            service: Arc::clone(&cluster.host),
            service_name: Arc::clone(&cluster.service_name),
            service_namespace: Arc::clone(&cluster.service_namespace),
        };
    }
    let unknown: Arc<str> = Arc::from("unknown");
    let host = flow
        .service
        .as_ref()
        .and_then(|name| name.rsplit_once(':'))
        .map(|(host, _)| host);
    let service = snapshot.and_then(|snapshot| {
        snapshot
            .services
            .iter()
            .find(|service| Some(&*service.host) == host)
    });
    if let Some(service) = service {
        let short = service.host.split('.').next().unwrap_or(&service.host);
        return DestinationLabels {
            service: Arc::clone(&service.host),
            service_name: Arc::from(short),
            service_namespace: Arc::clone(&service.namespace),
        };
    }
    let name = match flow.path {
        FlowPath::Pass => crate::snapshot::clusters::special::PASSTHROUGH,
        FlowPath::Kernel | FlowPath::None => crate::snapshot::clusters::special::BLACK_HOLE,
    };
    DestinationLabels {
        service: Arc::clone(&unknown),
        service_name: Arc::from(name),
        service_namespace: unknown,
    }
}
