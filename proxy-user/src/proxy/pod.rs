//! One pod on its home worker: its listeners, its connections, its upkeep.
//!
//! Each pod's tasks live in a queue of their own (a `LocalSet`), which the worker
//! polls like one task; so no pod can keep the others waiting for long.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::net::TcpListener as StdListener;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use proxy_common::pod::PodId;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::{LocalSet, spawn_local};

use super::connection;
use super::context::{ArcRecorder, PodContext, PodStats, WorkerLimits};
use super::live::{ConnectionView, PodStatus};
use super::tcp::refuse;
use super::upstream::Upstreams;
use crate::net::{
    Accepted, DownstreamAddr, NameResolver, NetnsCookie, OriginalDstSource, PodUid, SocketFactory,
};
use crate::snapshot::SnapshotReader;
use crate::snapshot::clusters::special;
use crate::telemetry::record::{Recorder, WorkloadLabels};

/// A pod whose connections a worker shall serve.
pub struct PodHandle {
    /// `metadata.uid`.
    pub uid: PodUid,
    /// How the kernel knows it: in the host's namespace by its cgroup.
    pub id: PodId,
    /// The namespace that its listeners are in.
    pub netns: NetnsCookie,
    /// Listening sockets inside its namespace.
    pub listeners: Vec<StdListener>,
    /// When they were opened, by [`crate::net::monotonic_ns`]: what is older was not for them.
    pub listening_since_ns: u64,
    /// Opens upstream sockets inside its namespace.
    pub sockets: Arc<dyn SocketFactory>,
    /// Who it is, for telemetry.
    pub labels: Arc<WorkloadLabels>,
}

impl fmt::Debug for PodHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodHandle")
            .field("uid", &self.uid)
            .field("id", &self.id)
            .field("listeners", &self.listeners.len())
            .finish_non_exhaustive()
    }
}

/// Accepts of one listener before the worker's other tasks get their turn.
const ACCEPTS_PER_TURN: usize = 16;
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often clusters that the configuration dropped are looked for.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// What a pod needs from its worker.
pub(super) struct PodEnvironment {
    pub(super) snapshot: SnapshotReader,
    pub(super) original_dsts: Arc<dyn OriginalDstSource>,
    pub(super) names: Arc<dyn NameResolver>,
    pub(super) recorder: Arc<dyn Recorder>,
    pub(super) limits: WorkerLimits,
    pub(super) draining: watch::Receiver<bool>,
    /// Open connections of the whole worker.
    pub(super) worker_connections: Rc<Cell<usize>>,
}

/// A pod that is being served.
pub(super) struct Pod {
    context: Rc<PodContext>,
    live: Rc<Live>,
}

/// Open connections of one pod.
#[derive(Default)]
pub(super) struct Live {
    next_id: Cell<u64>,
    views: RefCell<HashMap<u64, ConnectionView>>,
    ended: Notify,
}

impl Pod {
    /// Takes over the listeners. The future serves the pod until its worker drains and
    /// the last connection has ended; dropping it closes everything.
    ///
    /// # Errors
    /// A listener that cannot be used.
    pub(super) fn start(
        handle: PodHandle,
        environment: PodEnvironment,
    ) -> std::io::Result<(Self, impl Future<Output = ()> + 'static)> {
        let mut listeners = Vec::with_capacity(handle.listeners.len());
        for listener in handle.listeners {
            listener.set_nonblocking(true)?;
            listeners.push(TcpListener::from_std(listener)?);
        }
        let context = Rc::new(PodContext {
            uid: handle.uid,
            id: handle.id,
            netns: handle.netns,
            listening_since_ns: handle.listening_since_ns,
            snapshot: environment.snapshot,
            upstreams: Upstreams::new(handle.sockets, environment.names),
            recorder: ArcRecorder(environment.recorder),
            labels: handle.labels,
            draining: environment.draining,
            stats: Rc::new(PodStats::default()),
            server_first: RefCell::default(),
            listen_addrs: listeners
                .iter()
                .filter_map(|listener| listener.local_addr().ok())
                .collect(),
        });
        let live = Rc::new(Live::default());
        let server = Server {
            context: Rc::clone(&context),
            live: Rc::clone(&live),
            original_dsts: environment.original_dsts,
            limits: environment.limits,
            worker_connections: environment.worker_connections,
        };
        let stats = Rc::clone(&context.stats);
        let queue = LocalSet::new();
        let work = async move { queue.run_until(server.run(listeners)).await };
        let work = Accounted {
            work: Box::pin(work),
            stats,
        };
        Ok((Self { context, live }, work))
    }

    pub(super) fn status(&self) -> PodStatus {
        let stats = &self.context.stats;
        PodStatus {
            uid: self.context.uid.clone(),
            id: self.context.id,
            connections: stats.connections.get(),
            accepted: stats.accepted.get(),
            strangers: stats.strangers.get(),
            refused_over_limit: stats.refused_over_limit.get(),
            panicked: stats.panicked.get(),
            busy: stats.busy.get(),
            clusters: self.context.upstreams.counts(),
        }
    }

    pub(super) fn connections(&self) -> Vec<ConnectionView> {
        self.live.views.borrow().values().cloned().collect()
    }
}

/// Accepts for one pod.
struct Server {
    context: Rc<PodContext>,
    live: Rc<Live>,
    original_dsts: Arc<dyn OriginalDstSource>,
    limits: WorkerLimits,
    worker_connections: Rc<Cell<usize>>,
}

impl Server {
    async fn run(self, listeners: Vec<TcpListener>) {
        let this = Rc::new(self);
        spawn_local(upkeep(Rc::clone(&this.context)));
        let accepting: Vec<_> = listeners
            .into_iter()
            .map(|listener| spawn_local(Rc::clone(&this).accept_all(listener)))
            .collect();
        for task in accepting {
            // It ends by draining; a panic in it ends this listener alone.
            let _ = task.await;
        }
        loop {
            let ended = this.live.ended.notified();
            if this.context.stats.connections.get() == 0 {
                return;
            }
            ended.await;
        }
    }

    /// Until the worker drains; the listener closes with the task.
    async fn accept_all(self: Rc<Self>, listener: TcpListener) {
        let mut draining = self.context.draining.clone();
        let port = match listener.local_addr() {
            Ok(address) => address.port(),
            Err(error) => {
                tracing::error!(pod = %self.context.uid, %error, "a listener without an address");
                return;
            }
        };
        loop {
            let accepted = tokio::select! {
                biased;
                _ = draining.wait_for(|is_draining| *is_draining) => return,
                accepted = listener.accept() => accepted,
            };
            self.take(accepted, port).await;
            for _ in 1..ACCEPTS_PER_TURN {
                let Some(accepted) = accept_now(&listener).await else {
                    break;
                };
                self.take(accepted, port).await;
            }
            tokio::task::yield_now().await;
        }
    }

    async fn take(
        self: &Rc<Self>,
        accepted: std::io::Result<(TcpStream, std::net::SocketAddr)>,
        port: u16,
    ) {
        match accepted {
            Ok((stream, client)) => self.serve(stream, DownstreamAddr(client), port),
            Err(error) if is_clients_fault(&error) => {}
            Err(error) => {
                tracing::warn!(pod = %self.context.uid, %error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    fn serve(self: &Rc<Self>, stream: TcpStream, client: DownstreamAddr, port: u16) {
        let stats = &self.context.stats;
        stats.accepted.set(stats.accepted.get() + 1);
        let is_full = stats.connections.get() >= self.limits.connections_per_pod_max
            || self.worker_connections.get() >= self.limits.connections_max;
        if is_full {
            stats
                .refused_over_limit
                .set(stats.refused_over_limit.get() + 1);
            return refuse(stream);
        }
        // Latency first: what is written goes out at once.
        let _ = stream.set_nodelay(true);
        let place = Place::take(self, client);
        let this = Rc::clone(self);
        spawn_local(async move {
            let place = place;
            let pod = Rc::clone(&this.context);
            let accepted = Accepted {
                pod: pod.id,
                netns: pod.netns,
                listener: port,
                listening_since_ns: pod.listening_since_ns,
                client: client.0,
            };
            connection::serve(stream, &accepted, &*this.original_dsts, pod, &place).await;
        });
    }
}

/// One more connection if it waits already.
async fn accept_now(
    listener: &TcpListener,
) -> Option<std::io::Result<(TcpStream, std::net::SocketAddr)>> {
    std::future::poll_fn(|cx| {
        Poll::Ready(match listener.poll_accept(cx) {
            Poll::Ready(accepted) => Some(accepted),
            Poll::Pending => None,
        })
    })
    .await
}

/// accept(2): errors of the new connection, not of the listener.
fn is_clients_fault(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::ConnectionAborted
            | std::io::ErrorKind::ConnectionReset
            | std::io::ErrorKind::Interrupted
    )
}

/// A connection's place in the counts and views; given back on drop, also by a panic.
pub(super) struct Place {
    id: u64,
    server: Rc<Server>,
}

impl Place {
    fn take(server: &Rc<Server>, client: DownstreamAddr) -> Self {
        let stats = &server.context.stats;
        stats.connections.set(stats.connections.get() + 1);
        let worker = &server.worker_connections;
        worker.set(worker.get() + 1);
        let id = server.live.next_id.get();
        server.live.next_id.set(id + 1);
        let view = ConnectionView {
            pod: server.context.uid.clone(),
            downstream: client.0,
            start: SystemTime::now(),
            original_dst: None,
            protocol: "",
            cluster: None,
            upstream: None,
            moved: None,
        };
        server.live.views.borrow_mut().insert(id, view);
        Self {
            id,
            server: Rc::clone(server),
        }
    }

    /// Tells the views what became known.
    pub(super) fn note(&self, change: impl FnOnce(&mut ConnectionView)) {
        if let Some(view) = self.server.live.views.borrow_mut().get_mut(&self.id) {
            change(view);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let stats = &self.server.context.stats;
        stats
            .connections
            .set(stats.connections.get().saturating_sub(1));
        let worker = &self.server.worker_connections;
        worker.set(worker.get().saturating_sub(1));
        if std::thread::panicking() {
            stats.panicked.set(stats.panicked.get() + 1);
        }
        self.server.live.views.borrow_mut().remove(&self.id);
        self.server.live.ended.notify_waiters();
    }
}

/// Lets go of clusters that the configuration no longer names.
async fn upkeep(pod: Rc<PodContext>) {
    let mut seen = pod.snapshot.load().version;
    loop {
        tokio::time::sleep(UPKEEP_INTERVAL).await;
        let snapshot = pod.snapshot.load_full();
        if snapshot.version == seen {
            continue;
        }
        seen = snapshot.version;
        pod.upstreams.forget_unnamed(|key| {
            *key.name == *special::PASSTHROUGH
                || snapshot
                    .clusters
                    .binary_search_by(|cluster| {
                        (&cluster.name, &cluster.variant).cmp(&(&key.name, &key.variant))
                    })
                    .is_ok()
        });
    }
}

/// Adds the time of each poll to the pod's account.
struct Accounted {
    work: Pin<Box<dyn Future<Output = ()>>>,
    stats: Rc<PodStats>,
}

impl Future for Accounted {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let start = Instant::now();
        let polled = self.work.as_mut().poll(cx);
        let busy = &self.stats.busy;
        busy.set(busy.get() + start.elapsed());
        polled
    }
}
