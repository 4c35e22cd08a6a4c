//! A pod, a mesh and upstreams in one process, for tests: real sockets on loopback.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proxy_common::pod::PodId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::net::{
    DownstreamAddr, NetnsCookie, NoNames, OriginalDst, PodUid, ScopeId, SocketFactory,
};
use crate::proxy::upstream::{LocalExecutor, Upstreams};
use crate::proxy::{ArcRecorder, ConnectionFacts, PodContext, PodStats, PrefixedStream};
use crate::settings::OnProxyDown;
use crate::snapshot::clusters::{ClusterRef, Discovery, UpstreamProtocol};
use crate::snapshot::endpoints::{EndpointCell, EndpointSet, Health};
use crate::snapshot::listeners::{DegradedForm, PathPlan, Protocol, TrafficPath};
use crate::snapshot::policy::{
    ClusterPolicy, HeaderOps, HeaderTemplate, RetryOn, RetryPolicy, TemplatePart,
};
use crate::snapshot::routes::{ForwardAction, RouteAction, UnknownHost, WeightedDestination};
use crate::snapshot::{
    Capture, Cluster, Destination, Endpoint, HttpRoute, PodView, Publisher, RouteTable, ScopeView,
    Snapshot, VirtualHost,
};
use crate::telemetry::record::{Recorder, WorkloadLabels};
use crate::telemetry::{ConnectionRecord, RequestRecord};

/// Where the test clients think that they connect to.
pub(super) const DIALLED: ([u8; 4], u16) = ([10, 96, 0, 1], 80);

struct PlainSockets;

impl SocketFactory for PlainSockets {
    fn open_tcp(&self, towards: SocketAddr) -> std::io::Result<socket2::Socket> {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(towards),
            socket2::Type::STREAM,
            None,
        )?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }
}

/// Keeps what was recorded.
#[derive(Default)]
struct Records(Mutex<Vec<RequestRecord>>);

impl Recorder for Records {
    fn request(&self, record: &RequestRecord) {
        self.0
            .lock()
            .expect("no panic holds it")
            .push(record.clone());
    }
    fn connection_opened(&self, _: &ConnectionRecord) {}
    fn connection_progress(&self, _: &ConnectionRecord, _: u64, _: u64) {}
    fn connection_closed(&self, _: &ConnectionRecord, _: Duration, _: u64, _: u64) {}
}

/// A pod whose connections all go through `serve`.
pub(super) struct Mesh {
    address: SocketAddr,
    records: Arc<Records>,
    draining: tokio::sync::watch::Sender<bool>,
}

impl Mesh {
    /// One virtual host `*` with these routes.
    pub(super) async fn start(routes: Vec<HttpRoute>) -> Self {
        let host = VirtualHost {
            name: "a:80".into(),
            routes,
            redirects_to_https: false,
            provenance: None,
        };
        Self::with_table(RouteTable {
            any: Some(Arc::new(host)),
            ..RouteTable::default()
        })
        .await
    }

    /// No virtual host at all; the clients dial `dialled`.
    pub(super) async fn without_hosts(unknown: UnknownHost, dialled: SocketAddr) -> Self {
        let table = RouteTable {
            unknown,
            ..RouteTable::default()
        };
        Self::with_table_at(table, dialled).await
    }

    async fn with_table(table: RouteTable) -> Self {
        Self::with_table_at(table, DIALLED.into()).await
    }

    async fn with_table_at(table: RouteTable, dialled: SocketAddr) -> Self {
        let destination = Arc::new(Destination {
            service: Some("a".into()),
            port: dialled.port(),
            protocol: Protocol::Http,
            http: Some(Arc::new(table)),
            tls: Vec::new(),
            tcp: Vec::new(),
            plan: PathPlan {
                path: TrafficPath::Proxy,
                reason: "test".into(),
                degraded: DegradedForm::Pass,
                degraded_reason: "test".into(),
            },
            provenance: None,
        });
        let uid = PodUid("client".into());
        let scope = ScopeView {
            exact: HashMap::from([(
                (dialled.ip(), dialled.port()),
                Some(Arc::clone(&destination)),
            )]),
            ..ScopeView::default()
        };
        let snapshot = Snapshot {
            pods: HashMap::from([(uid.clone(), Arc::new(pod_view(uid.clone())))]),
            scopes: vec![Arc::new(scope)],
            ..Snapshot::default()
        };
        let (_, reader) = Publisher::new(snapshot);
        let records = Arc::new(Records::default());
        let (drain, draining) = tokio::sync::watch::channel(false);
        let pod = Rc::new(PodContext {
            uid,
            id: PodId::namespace(1),
            netns: NetnsCookie(1),
            listening_since_ns: 0,
            snapshot: reader,
            upstreams: Upstreams::new(Arc::new(PlainSockets), Arc::new(NoNames)),
            recorder: ArcRecorder(Arc::clone(&records) as Arc<dyn Recorder>),
            labels: Arc::new(WorkloadLabels::unknown()),
            draining,
            stats: Rc::new(PodStats::default()),
            server_first: RefCell::default(),
            listen_addrs: Vec::new(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::task::spawn_local(accept(listener, pod, OriginalDst(dialled)));
        Self {
            address,
            records,
            draining: drain,
        }
    }

    /// Sends one request over HTTP/1.1 on a connection of its own.
    pub(super) async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let stream = TcpStream::connect(self.address).await.expect("connected");
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .expect("a connection");
        tokio::task::spawn_local(connection);
        Answer::of(sender.send_request(request).await.expect("an answer")).await
    }

    /// Sends one request over HTTP/2.
    pub(super) async fn send_http2(&self, request: Request<Full<Bytes>>) -> Answer {
        self.try_send_http2(request).await.expect("an answer")
    }

    /// The same, `None` if the stream is reset.
    pub(super) async fn try_send_http2(&self, request: Request<Full<Bytes>>) -> Option<Answer> {
        let stream = TcpStream::connect(self.address).await.expect("connected");
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(LocalExecutor, TokioIo::new(stream))
                .await
                .expect("a connection");
        tokio::task::spawn_local(connection);
        let response = sender.send_request(request).await.ok()?;
        Some(Answer::of(response).await)
    }

    /// Connections shall end.
    pub(super) fn drain(&self) {
        self.draining.send_replace(true);
    }

    /// A connection that speaks whatever the test writes.
    pub(super) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("connected")
    }

    /// Writes `text`, closes the sending side and reads to the end.
    pub(super) async fn raw(&self, text: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(text.as_bytes()).await.expect("written");
        stream.shutdown().await.expect("shut down");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("an answer");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// The only record, waited for.
    pub(super) async fn record(&self) -> RequestRecord {
        for _ in 0..800 {
            if let Some(record) = self.records.0.lock().expect("no panic holds it").first() {
                return record.clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no record after 8 s");
    }
}

/// A GET of `target` with `host: a`.
pub(super) fn get(target: &str) -> Request<Full<Bytes>> {
    request("GET", target, &[], "")
}

/// A request with `host: a`.
pub(super) fn request(
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(target);
    if target.starts_with('/') {
        request = request.header("host", "a");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request
        .body(Full::new(Bytes::from(body.to_owned())))
        .expect("a request")
}

async fn accept(listener: TcpListener, pod: Rc<PodContext>, original_dst: OriginalDst) {
    loop {
        let (stream, peer) = listener.accept().await.expect("a connection");
        let mut first = [0; 3];
        let pod = Rc::clone(&pod);
        tokio::task::spawn_local(async move {
            let len = stream.peek(&mut first).await.unwrap_or(0);
            let facts = ConnectionFacts {
                downstream: DownstreamAddr(peer),
                original_dst,
                is_http2: &first[..len] == b"PRI",
            };
            super::serve(PrefixedStream::new(Bytes::new(), stream), facts, pod).await;
        });
    }
}

fn pod_view(uid: PodUid) -> PodView {
    PodView {
        uid,
        workload: Arc::default(),
        scope: ScopeId(0),
        ips: vec![[10, 0, 0, 7].into()],
        is_host_network: false,
        capture: Capture::Captured,
        on_proxy_down: OnProxyDown::default(),
        exclusions: crate::snapshot::Exclusions::default(),
        config_hash: None,
    }
}

/// What a client got.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
    pub(super) trailers: Option<HeaderMap>,
    pub(super) is_broken_off: bool,
}

impl Answer {
    async fn of(response: Response<Incoming>) -> Self {
        let (head, mut body) = response.into_parts();
        let mut answer = Self {
            status: head.status,
            headers: head.headers,
            body: String::new(),
            trailers: None,
            is_broken_off: false,
        };
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else {
                answer.is_broken_off = true;
                break;
            };
            match frame.into_data() {
                Ok(data) => answer.body.push_str(&String::from_utf8_lossy(&data)),
                Err(frame) => answer.trailers = frame.into_trailers().ok(),
            }
        }
        answer
    }

    pub(super) fn code(&self) -> u16 {
        self.status.as_u16()
    }
}

/// One request as an upstream saw it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) head: Rc<Parts>,
    pub(super) body: Bytes,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name)?.to_str().ok()
    }
}

/// A body of any shape.
pub(super) type AnyBody = BoxBody<Bytes, Infallible>;

/// An answer under way.
pub(super) type Answering = Pin<Box<dyn Future<Output = Response<AnyBody>>>>;

/// A server that keeps what it saw.
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    seen: Rc<RefCell<Vec<Seen>>>,
}

impl Upstream {
    /// Speaks HTTP/1.1 or HTTP/2, whichever the proxy does; `answer` gets the number of
    /// the request, from 0.
    pub(super) async fn start(answer: impl Fn(usize, &Seen) -> Answering + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let seen: Rc<RefCell<Vec<Seen>>> = Rc::default();
        let (answer, all) = (Rc::new(answer), Rc::clone(&seen));
        tokio::task::spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let (answer, all) = (Rc::clone(&answer), Rc::clone(&all));
                tokio::task::spawn_local(async move {
                    let mut first = [0; 3];
                    let len = stream.peek(&mut first).await.unwrap_or(0);
                    let service = service_fn(move |request: Request<Incoming>| {
                        let (answer, all) = (Rc::clone(&answer), Rc::clone(&all));
                        async move {
                            let (head, body) = request.into_parts();
                            let body = body.collect().await?.to_bytes();
                            let head = Rc::new(head);
                            let seen = Seen { head, body };
                            let number = all.borrow().len();
                            all.borrow_mut().push(seen.clone());
                            Ok::<_, hyper::Error>(answer(number, &seen).await)
                        }
                    });
                    let io = TokioIo::new(stream);
                    // A broken connection is the test's own doing.
                    let _ = if &first[..len] == b"PRI" {
                        hyper::server::conn::http2::Builder::new(LocalExecutor)
                            .serve_connection(io, service)
                            .await
                    } else {
                        hyper::server::conn::http1::Builder::new()
                            .serve_connection(io, service)
                            .await
                    };
                });
            }
        });
        Self { address, seen }
    }

    /// Always 200 with `text`.
    pub(super) async fn text(text: &'static str) -> Self {
        Self::start(move |_, _| ready(200, text)).await
    }

    /// Never answers.
    pub(super) async fn hanging() -> Self {
        Self::start(|_, _| Box::pin(std::future::pending())).await
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.borrow().clone()
    }
}

/// An answer at once.
pub(super) fn ready(code: u16, text: &'static str) -> Answering {
    Box::pin(std::future::ready(
        Response::builder()
            .status(code)
            .body(Full::new(Bytes::from_static(text.as_bytes())).boxed())
            .expect("a response"),
    ))
}

/// A port where nobody listens.
pub(super) async fn closed_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("an address")
}

thread_local! {
    static CLUSTERS: Cell<u32> = const { Cell::new(0) };
}

/// A cluster of these endpoints.
pub(super) fn cluster(endpoints: &[SocketAddr]) -> Cluster {
    let number = CLUSTERS.with(|clusters| clusters.replace(clusters.get() + 1));
    let endpoints = endpoints
        .iter()
        .map(|address| Endpoint {
            address: *address,
            weight: 1,
            health: Health::Healthy,
            priority: 0,
            workload: Arc::default(),
        })
        .collect();
    Cluster {
        name: format!("outbound|{number}||a").into(),
        variant: "".into(),
        host: "a.ns1.svc.cluster.local".into(),
        service_namespace: "ns1".into(),
        service_name: "a".into(),
        port: 80,
        subset: "".into(),
        protocol: UpstreamProtocol::Http1,
        discovery: Discovery::Endpoints,
        policy: ClusterPolicy::default(),
        endpoints: Arc::new(EndpointCell::new(EndpointSet { endpoints })),
        dns: None,
        provenance: None,
    }
}

/// A destination of weight 1.
pub(super) fn destination(cluster: ClusterRef) -> WeightedDestination {
    WeightedDestination {
        weight: 1,
        cluster,
        request_headers: HeaderOps::default(),
        response_headers: HeaderOps::default(),
        authority: None,
        provenance: None,
    }
}

/// A route without conditions to `cluster`, with Istio's default retries.
pub(super) fn forward(cluster: Cluster) -> HttpRoute {
    forward_ref(ClusterRef::Known(Arc::new(cluster)))
}

/// The same for a cluster that may not exist.
pub(super) fn forward_ref(cluster: ClusterRef) -> HttpRoute {
    HttpRoute {
        name: "r".into(),
        matches: Vec::new(),
        action: RouteAction::Forward(ForwardAction {
            destinations: vec![destination(cluster)],
            total_weight: 1,
            authority: None,
            path_rewrite: None,
        }),
        timeout: None,
        retry: Some(Arc::new(RetryPolicy {
            backoff_base: Duration::from_millis(1),
            backoff_cap: Duration::from_millis(10),
            ..RetryPolicy::default()
        })),
        fault: None,
        mirrors: Vec::new(),
        cors: None,
        request_headers: HeaderOps::default(),
        response_headers: HeaderOps::default(),
        provenance: None,
    }
}

/// Runs a test with a task set of its own.
pub(super) async fn local<T>(test: impl Future<Output = T>) -> T {
    tokio::task::LocalSet::new().run_until(test).await
}

/// Milliseconds.
pub(super) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// This many retries under these conditions, with short waits.
pub(super) fn retrying(on: RetryOn, attempts: u32) -> Option<Arc<RetryPolicy>> {
    Some(Arc::new(RetryPolicy {
        on,
        attempts,
        backoff_base: ms(1),
        backoff_cap: ms(10),
        ..RetryPolicy::default()
    }))
}

/// The action of a forwarding route.
pub(super) fn action(route: &mut HttpRoute) -> &mut ForwardAction {
    match &mut route.action {
        RouteAction::Forward(action) => action,
        RouteAction::Redirect(_)
        | RouteAction::DirectResponse { .. }
        | RouteAction::NotHonoured(_) => panic!("a forwarding route"),
    }
}

/// Sets one header.
pub(super) fn set(name: &'static str, value: &str) -> HeaderOps {
    HeaderOps {
        set: vec![(
            HeaderName::from_static(name),
            HeaderTemplate(vec![TemplatePart::Literal(value.into())]),
        )],
        ..HeaderOps::default()
    }
}
