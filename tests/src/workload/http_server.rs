//! An HTTP server that says who it is: HTTP/1.1 and HTTP/2 by prior knowledge.
//!
//! The query steers one answer: `delay_ms`, `status`, `bytes`, `reset=1` (the
//! connection breaks off). Paths: `/stats` answers what the server has counted.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use super::http_client::{Target, request_value};

/// Who the server is.
#[derive(Debug, clap::Args)]
pub struct HttpServerArgs {
    /// Name of the service
    #[arg(long)]
    name: String,
    /// Version that it answers
    #[arg(long, default_value = "v1")]
    version: String,
    /// Port to listen on, all addresses of both families
    #[arg(long)]
    port: u16,
    /// Services to call on each request, HOST:PORT/PATH, comma separated
    #[arg(long, value_delimiter = ',')]
    calls: Vec<String>,
    /// Milliseconds before each answer
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
}

/// What the server has counted, answered by `/stats`.
#[derive(Debug, Default)]
struct Stats {
    connections: Cell<u64>,
    requests: Cell<u64>,
    active: Cell<u64>,
    active_max: Cell<u64>,
    open: Cell<u64>,
    open_max: Cell<u64>,
    peers: RefCell<BTreeMap<String, u64>>,
}

/// Headers that the example application of Istio passes on to what it calls.
const PASSED_ON: [&str; 6] = [
    "end-user",
    "x-request-id",
    "user-agent",
    "x-b3-traceid",
    "x-b3-spanid",
    "traceparent",
];

/// Serves until it is killed.
pub fn serve(args: HttpServerArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async move {
        let address = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), args.port);
        let listener = listen(address).await?;
        let shared = Rc::new((args, Stats::default()));
        loop {
            // A connection that is gone before its accept is no reason to stop.
            let Ok((stream, peer)) = listener.accept().await else {
                continue;
            };
            let shared = Rc::clone(&shared);
            tokio::task::spawn_local(async move { connection(stream, peer, shared).await });
        }
    })
}

/// Listens on both families, or on IPv4 where the machine has no IPv6.
pub(super) async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind(("0.0.0.0", address.port()))
            .await
            .with_context(|| format!("cannot listen on port {}", address.port())),
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, shared: Rc<(HttpServerArgs, Stats)>) {
    let stats = &shared.1;
    stats.connections.set(stats.connections.get() + 1);
    stats.open.set(stats.open.get() + 1);
    stats
        .open_max
        .set(stats.open_max.get().max(stats.open.get()));
    let local = stream.local_addr().ok();
    // A server that answers a small request at once must not wait for more to send.
    let _ = stream.set_nodelay(true);
    let is_http2 = starts_with_preface(&stream).await;
    let service = service_fn(|request| {
        let shared = Rc::clone(&shared);
        async move { answer(request, peer, local, &shared.0, &shared.1).await }
    });
    let io = TokioIo::new(stream);
    // Errors are the peer's: the connection ends either way.
    if is_http2 {
        let _ = hyper::server::conn::http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .serve_connection(io, service)
            .await;
    } else {
        let _ = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(io, service)
            .await;
    }
    stats.open.set(stats.open.get() - 1);
}

/// Runs hyper's tasks on this thread.
#[derive(Clone, Copy)]
struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

/// Whether the client opens with the HTTP/2 preface. Source: RFC 9113, 3.4.
async fn starts_with_preface(stream: &TcpStream) -> bool {
    let mut first = [0_u8; 4];
    loop {
        match stream.peek(&mut first).await {
            Ok(4) => return &first == b"PRI ",
            Ok(0) | Err(_) => return false,
            Ok(count) if first[..count] != b"PRI "[..count] => return false,
            Ok(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

/// Ends a connection without an answer.
#[derive(Debug)]
struct Break;

impl std::fmt::Display for Break {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("the request asked for a broken connection")
    }
}

impl std::error::Error for Break {}

async fn answer(
    request: Request<Incoming>,
    peer: SocketAddr,
    local: Option<SocketAddr>,
    args: &HttpServerArgs,
    stats: &Stats,
) -> Result<Response<Full<Bytes>>, Break> {
    if request.uri().path() == "/stats" {
        return Ok(respond(200, stats_json(stats).to_string()));
    }
    stats.requests.set(stats.requests.get() + 1);
    let active = ActiveGuard::new(stats);
    *stats
        .peers
        .borrow_mut()
        .entry(peer.ip().to_canonical().to_string())
        .or_default() += 1;
    let query = request.uri().query().unwrap_or_default().to_owned();
    let steer = |key: &str| {
        query
            .split('&')
            .find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
    };
    let number = |key: &str| steer(key).and_then(|value| value.parse::<u64>().ok());
    let head = head_json(&request);
    let passed_on: Vec<(String, String)> = PASSED_ON
        .iter()
        .filter_map(|&name| {
            Some((
                name.to_owned(),
                request.headers().get(name)?.to_str().ok()?.to_owned(),
            ))
        })
        .collect();
    // The body is read whole: its length is part of the answer.
    let body = request
        .into_body()
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    let delay = number("delay_ms").unwrap_or(args.delay_ms);
    tokio::time::sleep(Duration::from_millis(delay)).await;
    if steer("reset") == Some("1") {
        return Err(Break);
    }
    let mut calls = Vec::new();
    for call in &args.calls {
        calls.push(call_next(call, &passed_on).await);
    }
    let mut answer = json!({
        "service": args.name,
        "version": args.version,
        "pod": std::env::var("POD_NAME").unwrap_or_default(),
        "peer": peer_text(peer),
        "local": local.map(peer_text),
        "request": head,
        "body_bytes": body.len(),
        "calls": calls,
    });
    if let (Some(bytes), Some(object)) = (number("bytes"), answer.as_object_mut()) {
        let bytes = usize::try_from(bytes).unwrap_or(0).min(64 * 1024 * 1024);
        object.insert("padding".to_owned(), Value::String("x".repeat(bytes)));
    }
    let status = number("status")
        .and_then(|it| u16::try_from(it).ok())
        .unwrap_or(200);
    drop(active);
    Ok(respond(status, answer.to_string()))
}

/// Counts one request while it is being answered, also if its client goes away.
struct ActiveGuard<'a>(&'a Stats);

impl<'a> ActiveGuard<'a> {
    fn new(stats: &'a Stats) -> Self {
        stats.active.set(stats.active.get() + 1);
        stats
            .active_max
            .set(stats.active_max.get().max(stats.active.get()));
        Self(stats)
    }
}

impl Drop for ActiveGuard<'_> {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
    }
}

fn respond(status: u16, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() =
        http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    response
}

fn peer_text(address: SocketAddr) -> String {
    SocketAddr::new(address.ip().to_canonical(), address.port()).to_string()
}

fn head_json(request: &Request<Incoming>) -> Value {
    let headers: BTreeMap<String, Vec<String>> = request
        .headers()
        .keys()
        .map(|name| {
            let values = request.headers().get_all(name).iter();
            let values = values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
            (name.as_str().to_owned(), values.collect())
        })
        .collect();
    json!({
        "method": request.method().as_str(),
        "path": request.uri().path_and_query().map(|it| it.as_str()),
        "authority": request.uri().authority().map(|it| it.as_str()),
        "protocol": format!("{:?}", request.version()),
        "headers": headers,
    })
}

fn stats_json(stats: &Stats) -> Value {
    json!({
        "connections": stats.connections.get(),
        "requests": stats.requests.get(),
        "active_max": stats.active_max.get(),
        "open": stats.open.get(),
        "open_max": stats.open_max.get(),
        "peers": *stats.peers.borrow(),
    })
}

/// Calls another service, passing tracing and user headers on, and keeps its whole answer.
async fn call_next(call: &str, headers: &[(String, String)]) -> Value {
    let Ok(target) = Target::parse(&format!("http://{call}")) else {
        return json!({ "error": format!("not HOST:PORT/PATH: {call}") });
    };
    match request_value(&target, headers).await {
        Ok((status, body)) => json!({ "to": call, "status": status, "answer": body }),
        Err(error) => json!({ "to": call, "error": format!("{error:#}") }),
    }
}
