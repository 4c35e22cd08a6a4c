//! One worker with one pod, and servers for it to reach.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use proxy_common::pod::PodId;

use crate::net::{
    Accepted, CapturedDst, Heartbeat, NetnsCookie, NoNames, OriginalDst, OriginalDstSource, PodUid,
    ScopeId, SocketFactory,
};
use crate::proxy::upstream::testing::{Loopback, cluster, endpoint};
use crate::proxy::{PodHandle, Worker, WorkerCommand, WorkerConfig, WorkerHandle, WorkerLimits};
use crate::snapshot::clusters::ClusterRef;
use crate::snapshot::endpoints::Workload;
use crate::snapshot::listeners::{
    DegradedForm, Destination, PathPlan, Protocol, ScopeView, TrafficPath,
};
use crate::snapshot::policy::ConnectionPool;
use crate::snapshot::routes::{L4Destination, TcpRoute};
use crate::snapshot::{Capture, Cluster, PodView, Publisher, Snapshot};
use crate::telemetry::record::{ConnectionRecord, Recorder, RequestRecord, WorkloadLabels};

/// What clients of the test dial "before" they are rewritten to the listener.
#[derive(Default)]
pub(super) struct FakeDsts(pub(super) Mutex<HashMap<SocketAddr, SocketAddr>>);

impl OriginalDstSource for FakeDsts {
    fn take(&self, accepted: &Accepted) -> Option<CapturedDst> {
        let mut dsts = self.0.lock().expect("not poisoned");
        let dst = dsts.remove(&accepted.client)?;
        Some(CapturedDst {
            dst: OriginalDst(dst),
        })
    }
}

#[derive(Default)]
pub(super) struct FakeRecorder {
    pub(super) closed: Mutex<Vec<ConnectionRecord>>,
    pub(super) opened: AtomicU64,
}

impl Recorder for FakeRecorder {
    fn request(&self, _: &RequestRecord) {}
    fn connection_opened(&self, _: &ConnectionRecord) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }
    fn connection_progress(&self, _: &ConnectionRecord, _: u64, _: u64) {}
    fn connection_closed(&self, record: &ConnectionRecord, _: Duration, _: u64, _: u64) {
        self.closed
            .lock()
            .expect("not poisoned")
            .push(record.clone());
    }
}

pub(super) struct Beats(pub(super) Arc<AtomicU64>);

impl Heartbeat for Beats {
    fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

pub(super) struct Mesh {
    pub(super) worker: WorkerHandle,
    pub(super) listener: SocketAddr,
    pub(super) dsts: Arc<FakeDsts>,
    pub(super) recorder: Arc<FakeRecorder>,
    pub(super) beats: Arc<AtomicU64>,
    _publisher: Publisher,
}

pub(super) const POD: PodId = PodId::namespace(7);

impl Mesh {
    pub(super) fn start(scope: ScopeView) -> Self {
        Self::start_with(scope, WorkerLimits::default())
    }

    pub(super) fn start_with(scope: ScopeView, limits: WorkerLimits) -> Self {
        Self::start_on(scope, limits, Arc::new(Loopback))
    }

    pub(super) fn start_on(
        scope: ScopeView,
        limits: WorkerLimits,
        sockets: Arc<dyn SocketFactory>,
    ) -> Self {
        let uid = PodUid(Arc::from("pod-1"));
        let mut snapshot = Snapshot {
            scopes: vec![Arc::new(scope)],
            ..Snapshot::default()
        };
        snapshot.mesh.protocol_detection_timeout = Duration::from_millis(100);
        snapshot.pods.insert(uid.clone(), Arc::new(pod_view(&uid)));
        let (publisher, reader) = Publisher::new(snapshot);
        let (dsts, recorder) = (Arc::<FakeDsts>::default(), Arc::<FakeRecorder>::default());
        let beats = Arc::<AtomicU64>::default();
        let worker = Worker::spawn(WorkerConfig {
            id: 0,
            snapshot: reader,
            original_dsts: Arc::clone(&dsts) as _,
            names: Arc::new(NoNames),
            recorder: Arc::clone(&recorder) as _,
            heartbeat: Box::new(Beats(Arc::clone(&beats))),
            limits,
        })
        .expect("a worker");
        let inside = TcpListener::bind("127.0.0.1:0").expect("a port");
        let listener = inside.local_addr().expect("an address");
        let handle = PodHandle {
            uid,
            id: POD,
            netns: NetnsCookie(7),
            listening_since_ns: 0,
            listeners: vec![inside],
            sockets,
            labels: Arc::new(WorkloadLabels::unknown()),
        };
        worker.send(WorkerCommand::AddPod(handle)).expect("taken");
        Self {
            worker,
            listener,
            dsts,
            recorder,
            beats,
            _publisher: publisher,
        }
    }

    /// A captured connection that the application meant for `dst`.
    pub(super) fn dial(&self, dst: SocketAddr) -> TcpStream {
        self.dial_from(Ipv4Addr::LOCALHOST, dst)
    }

    pub(super) fn dial_from(&self, source: Ipv4Addr, dst: SocketAddr) -> TcpStream {
        let domain = socket2::Domain::IPV4;
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).expect("a socket");
        let source = SocketAddr::from((source, 0));
        socket.bind(&source.into()).expect("an address");
        let local = socket.local_addr().expect("an address").as_socket();
        let mut dsts = self.dsts.0.lock().expect("not poisoned");
        dsts.insert(local.expect("an IP address"), dst);
        drop(dsts);
        socket.connect(&self.listener.into()).expect("a connection");
        let stream = TcpStream::from(socket);
        let limit = Some(Duration::from_secs(10));
        stream.set_read_timeout(limit).expect("a time-out");
        stream
    }

    pub(super) fn closed(&self, count: usize) -> Vec<ConnectionRecord> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let closed = self.recorder.closed.lock().expect("not poisoned").clone();
            if closed.len() >= count || Instant::now() > deadline {
                assert_eq!(closed.len(), count, "records: {closed:?}");
                return closed;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(super) fn stop(self) {
        let deadline = Duration::from_secs(5);
        self.worker
            .send(WorkerCommand::Drain { deadline })
            .expect("taken");
        self.worker.join().expect("no panic");
    }
}

fn pod_view(uid: &PodUid) -> PodView {
    PodView {
        uid: uid.clone(),
        workload: Arc::new(Workload::default()),
        scope: ScopeId(0),
        ips: vec![IpAddr::from([10, 0, 0, 1])],
        is_host_network: false,
        capture: Capture::Captured,
        on_proxy_down: crate::settings::OnProxyDown::Degrade,
        exclusions: Default::default(),
        config_hash: None,
    }
}

pub(super) fn destination(protocol: Protocol) -> Destination {
    Destination {
        service: Some(Arc::from("a.default.svc.cluster.local")),
        port: 80,
        protocol,
        http: None,
        tls: Vec::new(),
        tcp: Vec::new(),
        plan: PathPlan {
            path: TrafficPath::Proxy,
            reason: Arc::from("test"),
            degraded: DegradedForm::Pass,
            degraded_reason: Arc::from("test"),
        },
        provenance: None,
    }
}

pub(super) fn to_cluster(cluster: ClusterRef) -> TcpRoute {
    TcpRoute {
        destination_subnets: Vec::new(),
        destinations: vec![L4Destination { weight: 1, cluster }],
        total_weight: 1,
        provenance: None,
    }
}

pub(super) const VIP: &str = "10.96.0.1:80";

pub(super) fn vip() -> SocketAddr {
    VIP.parse().expect("an address")
}

pub(super) fn scope(destination: Destination) -> ScopeView {
    let mut scope = ScopeView::default();
    scope
        .exact
        .insert((vip().ip(), 80), Some(Arc::new(destination)));
    scope
}

pub(super) fn tcp_scope(cluster: Cluster) -> ScopeView {
    let route = to_cluster(ClusterRef::Known(Arc::new(cluster)));
    scope(Destination {
        tcp: vec![route],
        ..destination(Protocol::Tcp)
    })
}

/// A server thread per connection; its port.
pub(super) fn serve(handle: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let handle = Arc::new(handle);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, handle) = (stream.expect("a connection"), Arc::clone(&handle));
            thread::spawn(move || handle(stream));
        }
    });
    port
}

/// Reads to the end, then answers with what it got, upside down.
pub(super) fn echo_at_end(mut stream: TcpStream) {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("bytes");
    bytes.reverse();
    stream.write_all(&bytes).expect("written");
}

pub(super) fn one(port: u16) -> Cluster {
    cluster(vec![endpoint(port, 1, 0)], ConnectionPool::default())
}

pub(super) fn read_all(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map(|_| bytes)
}
