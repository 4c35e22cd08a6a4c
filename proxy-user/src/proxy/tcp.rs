//! TCP and TLS routes: pick a cluster and an endpoint, connect once, relay, record.
//!
//! The client is connected already: what fails is seen as an open, then a close.
//! Source: Istio VirtualService `tcp` and `tls`, Envoy `tcp_proxy`.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::context::{PodContext, bound_source, client_address};
use super::pod::Place;
use super::relay::{Moved, Observer, RelayEnd, RelayLimits, relay};
use super::stream::PrefixedStream;
use super::upstream::{
    Kind, PickContext, TcpSession, TcpTarget, TrafficError, WireProtocol, workload_labels,
};
use crate::net::{DownstreamAddr, OriginalDst};
use crate::snapshot::clusters::special;
use crate::snapshot::policy::{ConnectionPool, UpstreamTls};
use crate::snapshot::{Cluster, ClusterRef};
use crate::telemetry::ResponseFlags;
use crate::telemetry::record::{
    ConnectionPath, ConnectionRecord, DestinationLabels, WorkloadLabels,
};

/// Where a connection shall go.
#[derive(Debug, Clone)]
pub(super) enum Target {
    /// The cluster that a route picked.
    Cluster(ClusterRef),
    /// To the original destination: nobody names it (ALLOW_ANY).
    Passthrough,
    /// Closed: nobody names it (REGISTRY_ONLY).
    BlackHole,
    /// The destination is known, but none of its routes matches.
    NoRoute,
}

impl Target {
    /// Name of the cluster, for the views.
    pub(super) fn name(&self) -> Option<Arc<str>> {
        match self {
            Self::Cluster(cluster) => Some(Arc::clone(cluster.name())),
            Self::Passthrough => Some(Arc::from(special::PASSTHROUGH)),
            Self::BlackHole => Some(Arc::from(special::BLACK_HOLE)),
            Self::NoRoute => None,
        }
    }
}

/// What is known about a connection that is relayed.
#[derive(Debug)]
pub(super) struct TcpFacts {
    pub(super) downstream: DownstreamAddr,
    pub(super) original_dst: OriginalDst,
    pub(super) start: SystemTime,
    pub(super) server_name: Option<Box<str>>,
}

/// Serves one connection until it ends; one record, whatever happens.
pub(super) async fn serve(
    client: PrefixedStream,
    facts: TcpFacts,
    target: Target,
    pod: &PodContext,
    place: &Place,
) {
    let context = PickContext {
        hash: None,
        tried: &[],
        client_protocol: WireProtocol::Http1,
        is_upgrade: false,
        original_dst: facts.original_dst,
        bind: bound_source(facts.downstream),
        name: facts.server_name.as_deref(),
    };
    let remote = client_address(pod, facts.downstream, facts.original_dst);
    let mut record = OpenRecord::new(pod, place, &facts, remote);
    let cluster = match find_cluster(target, pod) {
        Ok(cluster) => cluster,
        Err(refusal) => return record.refuse(refusal),
    };
    record.name_cluster(&cluster, &pod.upstreams.service_labels(&cluster));
    let context = PickContext {
        hash: source_hash(&cluster, remote),
        ..context
    };
    let target = match pod.upstreams.pick_tcp(&cluster, &context).await {
        Ok(target) => target,
        Err(error) => return record.fail(&error),
    };
    record.name_endpoint(&target, pod);
    record.open();
    let session = match target.connect(&context).await {
        Ok(session) => session,
        Err(error) if error.kind == Kind::Forbidden => {
            record.record.details = Cow::Borrowed("host_network_guard");
            record.fail(&error);
            return refuse(client.into_parts().1);
        }
        Err(error) => return record.fail(&error),
    };
    record.record.upstream_local = session.stream.local_addr().ok();
    let limits = relay_limits(&target.policy(), record.born);
    run(client, session, limits, record).await;
}

async fn run(
    client: PrefixedStream,
    session: TcpSession,
    limits: RelayLimits,
    mut record: OpenRecord<'_>,
) {
    let (prefix, mut client) = client.into_parts();
    let TcpSession { mut stream, hold } = session;
    let (end, moved) = relay(&mut client, &mut stream, prefix, limits, &mut record).await;
    // Both close before the counts go: a new session then finds room and no old socket.
    drop((client, stream));
    drop(hold);
    record.close(end, moved);
}

/// A connection that is closed before an endpoint was looked for.
#[derive(Debug, Clone)]
struct Refusal {
    flags: ResponseFlags,
    details: &'static str,
    cluster: Arc<str>,
    service_name: Option<Arc<str>>,
}

fn find_cluster(target: Target, pod: &PodContext) -> Result<Arc<Cluster>, Refusal> {
    let refusal = |flags, details, cluster: Arc<str>| Refusal {
        flags,
        details,
        cluster,
        service_name: None,
    };
    match target {
        Target::Cluster(ClusterRef::Known(cluster)) => match cluster.policy.tls {
            UpstreamTls::Plain => Ok(cluster),
            UpstreamTls::NotHonoured => Err(refusal(
                ResponseFlags::UF,
                "not_honoured",
                Arc::clone(&cluster.name),
            )),
        },
        Target::Cluster(ClusterRef::Missing(name)) => {
            Err(refusal(ResponseFlags::NC, "cluster_not_found", name))
        }
        Target::Cluster(ClusterRef::NotHonoured(name)) => {
            Err(refusal(ResponseFlags::UF, "not_honoured", name))
        }
        Target::Passthrough => Ok(Arc::clone(pod.upstreams.passthrough())),
        Target::BlackHole => {
            let name: Arc<str> = Arc::from(special::BLACK_HOLE);
            Err(Refusal {
                service_name: Some(Arc::clone(&name)),
                ..refusal(ResponseFlags::UH, "-", name)
            })
        }
        Target::NoRoute => Err(refusal(ResponseFlags::NR, "-", Arc::from("-"))),
    }
}

/// Of the hash keys only the client's address exists for TCP (Envoy `tcp_proxy` hash policy).
fn source_hash(cluster: &Cluster, remote: SocketAddr) -> Option<u64> {
    use crate::snapshot::policy::{HashKey, LoadBalancer};
    let LoadBalancer::ConsistentHash(hash) = &cluster.policy.load_balancer else {
        return None;
    };
    match hash.key {
        HashKey::SourceIp => {
            let text = remote.ip().to_canonical().to_string();
            Some(super::upstream::hash::xx_hash64(text.as_bytes(), 0))
        }
        HashKey::Header(_) | HashKey::Cookie { .. } | HashKey::Query(_) => None,
    }
}

fn relay_limits(policy: &ConnectionPool, born: Instant) -> RelayLimits {
    RelayLimits {
        idle: policy.tcp_idle_timeout.filter(|limit| !limit.is_zero()),
        expires: policy.max_connection_duration.map(|limit| born + limit),
    }
}

/// The record of a connection that is not closed yet; dropping it records `aborted`.
struct OpenRecord<'a> {
    record: ConnectionRecord,
    pod: &'a PodContext,
    place: &'a Place,
    original_dst: OriginalDst,
    born: Instant,
    is_opened: bool,
    is_closed: bool,
    reported: Moved,
}

impl<'a> OpenRecord<'a> {
    fn new(pod: &'a PodContext, place: &'a Place, facts: &TcpFacts, remote: SocketAddr) -> Self {
        let unknown: Arc<str> = Arc::from("unknown");
        let record = ConnectionRecord {
            start: facts.start,
            source: Arc::clone(&pod.labels),
            destination: Arc::new(WorkloadLabels::unknown()),
            service: Arc::new(DestinationLabels {
                service: Arc::clone(&unknown),
                service_name: Arc::clone(&unknown),
                service_namespace: unknown,
            }),
            flags: ResponseFlags::default(),
            details: Cow::Borrowed("-"),
            upstream_failure: None,
            bytes_received: 0,
            bytes_sent: 0,
            upstream_host: None,
            upstream_cluster: None,
            upstream_local: None,
            downstream_local: facts.original_dst.0,
            downstream_remote: remote,
            server_name: facts.server_name.clone(),
            path: ConnectionPath::Proxy,
        };
        Self {
            record,
            pod,
            place,
            original_dst: facts.original_dst,
            born: Instant::now(),
            is_opened: false,
            is_closed: false,
            reported: Moved::default(),
        }
    }

    fn name_cluster(&mut self, cluster: &Cluster, service: &Arc<DestinationLabels>) {
        self.record.upstream_cluster = Some(Arc::clone(&cluster.name));
        self.record.service = Arc::clone(service);
    }

    fn name_endpoint(&mut self, target: &TcpTarget, pod: &PodContext) {
        let address = target.endpoint().address;
        self.record.upstream_host = Some(address);
        self.record.destination = labels_of(target, address, pod);
        self.place.note(|view| {
            view.upstream = Some(address);
            view.moved = Some((0, 0));
        });
    }

    fn open(&mut self) {
        if !self.is_opened {
            self.is_opened = true;
            self.pod.recorder.0.connection_opened(&self.record);
        }
    }

    fn refuse(mut self, refusal: Refusal) {
        self.record.flags = refusal.flags;
        self.record.details = Cow::Borrowed(refusal.details);
        if let Some(name) = &refusal.service_name {
            let unknown = Arc::clone(&self.record.service.service);
            self.record.service = Arc::new(DestinationLabels {
                service: Arc::clone(&unknown),
                service_name: Arc::clone(name),
                service_namespace: unknown,
            });
        }
        self.record.upstream_cluster = Some(refusal.cluster);
        self.finish();
    }

    fn fail(mut self, error: &TrafficError) {
        // One connect attempt is all there is, so a failed one exhausts them.
        self.record.flags = if error.is_connect_failure() {
            error.flags().with(ResponseFlags::URX)
        } else {
            error.flags()
        };
        self.record.upstream_failure.clone_from(&error.cause);
        self.finish();
    }

    fn close(mut self, end: RelayEnd, moved: Moved) {
        self.record.bytes_received = moved.received;
        self.record.bytes_sent = moved.sent;
        match end {
            RelayEnd::Finished | RelayEnd::Idle => {}
            RelayEnd::ClientReset => self.record.flags = ResponseFlags::DC,
            RelayEnd::UpstreamReset => self.record.flags = ResponseFlags::UC,
            RelayEnd::Expired => self.record.flags = ResponseFlags::DT,
        }
        self.finish();
    }

    fn finish(&mut self) {
        self.open();
        if self.is_closed {
            return;
        }
        self.is_closed = true;
        let record = &self.record;
        self.pod.recorder.0.connection_closed(
            record,
            Instant::now().duration_since(self.born),
            record.bytes_received - self.reported.received,
            record.bytes_sent - self.reported.sent,
        );
    }
}

/// Telemetry labels of the endpoint; a passed-through address is looked up.
fn labels_of(target: &TcpTarget, address: SocketAddr, pod: &PodContext) -> Arc<WorkloadLabels> {
    if !target.endpoint().workload.name.is_empty() {
        return Arc::clone(target.workload_labels());
    }
    let snapshot = pod.snapshot.load();
    match snapshot.workloads.get(&address.ip().to_canonical()) {
        Some(workload) => Arc::new(workload_labels(workload)),
        None => Arc::clone(target.workload_labels()),
    }
}

impl Observer for OpenRecord<'_> {
    fn progress(&mut self, moved: Moved) {
        self.record.bytes_received = moved.received;
        self.record.bytes_sent = moved.sent;
        self.pod.recorder.0.connection_progress(
            &self.record,
            moved.received - self.reported.received,
            moved.sent - self.reported.sent,
        );
        self.reported = moved;
        self.place
            .note(|view| view.moved = Some((moved.received, moved.sent)));
    }

    fn server_spoke_first(&mut self) {
        let mut server_first = self.pod.server_first.borrow_mut();
        server_first.insert(self.original_dst);
    }
}

impl Drop for OpenRecord<'_> {
    fn drop(&mut self) {
        if !self.is_closed {
            self.record.details = Cow::Borrowed("aborted");
            self.finish();
        }
    }
}

/// Closes with a reset: the peer shall see that nobody serves this connection.
pub(super) fn refuse(stream: TcpStream) {
    super::upstream::reset_on_close(&stream);
    drop(stream);
}
