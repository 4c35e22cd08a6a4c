//! Our side of a client connection: hyper's server, and what happens to each request
//! from its head to the head of its answer. Start at [`serve`].

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{COOKIE, HOST};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tracing::debug;

use super::call::{Call, CallBody, Received, ResponseOps};
use super::client_io::{ClientIo, ClientState};
use super::exchange::Exchange;
use super::headers::{self, FORWARDED_PROTO};
use super::local_reply::LocalReply;
use super::response_body::ResponseBody;
use super::route::{self, Decision};
use super::strict::{self, Refusal};
use super::upgrade::{self, Tunnel, Upgrade};
use super::{action, normalize, reply};
use crate::proxy::context::client_address;
use crate::proxy::upstream::{LocalExecutor, WireProtocol};
use crate::proxy::{ConnectionFacts, PodContext, PrefixedStream};
use crate::telemetry::ResponseFlags;

use http_body::Body as _;

/// HTTP/2 settings that Istio's listeners send.
const STREAMS_MAX: u32 = 1024;
const STREAM_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// Envoy's window of a whole connection.
const CONNECTION_WINDOW_BYTES: u32 = 24 * 1024 * 1024;
/// Beyond our own limit, so that it is we who count and refuse.
const HTTP2_HEADERS_MAX_BYTES: u32 = 128 * 1024;

/// One client connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// What all connections of the pod share.
    pub(crate) pod: Rc<PodContext>,
    /// What is known about this one.
    pub(crate) facts: ConnectionFacts,
    /// The client as others see it: the pod's own address in place of loopback.
    remote: SocketAddr,
    state: Arc<ClientState>,
    /// What the connection becomes after its last answer.
    tunnel: RefCell<Option<Tunnel>>,
}

/// The stream is reset without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the request is malformed")]
pub(crate) struct ResetStream;

/// Serves HTTP on `stream` until it ends, request by request.
pub(crate) async fn serve(stream: PrefixedStream, facts: ConnectionFacts, pod: Rc<PodContext>) {
    let state = Arc::new(ClientState::default());
    let (peeked, stream) = stream.into_parts();
    let io = TokioIo::new(ClientIo::new(stream, peeked, Arc::clone(&state)));
    let is_http2 = facts.is_http2;
    let connection = Rc::new(Connection {
        remote: client_address(&pod, facts.downstream, facts.original_dst),
        pod,
        facts,
        state,
        tunnel: RefCell::new(None),
    });
    let served = if is_http2 {
        serve_http2(io, &connection).await
    } else {
        serve_http1(io, &connection).await
    };
    if let Err(error) = served {
        debug!(%error, client = %connection.remote, "an HTTP connection ended early");
        if error.is_parse() && !is_http2 {
            let dialled = connection.facts.original_dst;
            Exchange::malformed(&connection.pod, connection.remote, dialled, &error);
        }
    }
    let tunnel = connection.tunnel.take();
    if let Some(tunnel) = tunnel {
        tunnel.run().await;
    }
}

async fn serve_http1(
    io: TokioIo<ClientIo>,
    connection: &Rc<Connection>,
) -> Result<(), hyper::Error> {
    let service = service_fn(|request: Request<Incoming>| {
        // Here, since hyper looks for the client's end before it polls the future.
        connection.state.set_awaiting();
        handle(Rc::clone(connection), request)
    });
    let served = http1::Builder::new().serve_connection(io, service);
    let mut served = std::pin::pin!(served.with_upgrades());
    let mut draining = connection.pod.draining.clone();
    tokio::select! {
        result = served.as_mut() => return result,
        () = wait_for_drain(&mut draining) => served.as_mut().graceful_shutdown(),
    }
    served.await
}

async fn serve_http2(
    io: TokioIo<ClientIo>,
    connection: &Rc<Connection>,
) -> Result<(), hyper::Error> {
    let owner = Rc::clone(connection);
    let service = service_fn(move |request| handle(Rc::clone(&owner), request));
    let served = http2::Builder::new(LocalExecutor)
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(HTTP2_HEADERS_MAX_BYTES)
        .serve_connection(io, service);
    let mut served = std::pin::pin!(served);
    let mut draining = connection.pod.draining.clone();
    tokio::select! {
        result = served.as_mut() => return result,
        () = wait_for_drain(&mut draining) => served.as_mut().graceful_shutdown(),
    }
    served.await
}

/// Ends when connections shall end; never if nobody can say so any more.
async fn wait_for_drain(draining: &mut tokio::sync::watch::Receiver<bool>) {
    if draining.wait_for(|draining| *draining).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// One request: refuse, route, act.
async fn handle(
    connection: Rc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, ResetStream> {
    let (mut head, body) = request.into_parts();
    let client = (head.version != Version::HTTP_2).then(|| Arc::clone(&connection.state));
    let dialled = connection.facts.original_dst;
    let mut exchange = Exchange::open(&connection.pod, connection.remote, dialled, client, &head);
    let received = match receive(&connection, &mut head) {
        Ok(received) => received,
        Err(refusal) => return refuse(&connection, head, body, exchange, refusal),
    };
    exchange.record.authority = received.authority_text().into();
    let upgrade = upgrade::requested(&head);
    let on_upgrade = head.extensions.remove::<hyper::upgrade::OnUpgrade>();
    let body = (!body.is_end_stream()).then_some(CallBody::Unread(body));
    let call = Call {
        connection: &connection,
        received,
        headers: head.headers,
        body,
        on_upgrade: on_upgrade.filter(|_| upgrade == Upgrade::WebSocket),
        exchange,
    };
    Ok(dispatch(call, upgrade).await)
}

async fn dispatch(mut call: Call<'_>, upgrade: Upgrade) -> Response<ResponseBody> {
    let none = ResponseOps::default();
    if call.received.method == Method::CONNECT {
        return reply::answer(call, LocalReply::route_not_found(), none);
    }
    if upgrade == Upgrade::Other {
        return reply::answer(call, LocalReply::upgrade_failed(), none);
    }
    let pod = &call.connection.pod;
    // Once per request: everything below sees one version.
    let snapshot = pod.snapshot.load_full();
    let scope = snapshot.scope_of(&pod.uid);
    let found =
        scope.and_then(|scope| route::find_table(scope, call.connection.facts.original_dst));
    let decision = match (found, scope) {
        (Some((table, _)), _) => route::decide(table, &call.received.facts(&call.headers)),
        (None, Some(scope)) if scope.is_registry_only => Decision::BlackHole,
        (None, _) => Decision::Passthrough,
    };
    match decision {
        Decision::Route(route, hit) => action::act(call, route, hit).await,
        Decision::NoRoute => reply::answer(call, LocalReply::route_not_found(), none),
        Decision::Passthrough => action::pass_through(call, &snapshot).await,
        Decision::BlackHole => {
            call.exchange.set_black_hole();
            reply::answer(call, LocalReply::block_all(), none)
        }
    }
}

/// Checks and normalises a head; joins what counts as one line.
fn receive(connection: &Connection, head: &mut http::request::Parts) -> Result<Received, Refusal> {
    let is_http2 = head.version == Version::HTTP_2;
    let authority = match strict::check(head)? {
        strict::Authority::One(text) => match head.headers.get(HOST) {
            Some(host) if host.as_bytes() == text.as_bytes() => host.clone(),
            Some(_) | None => header_value(text)?,
        },
        strict::Authority::Joined(text) => header_value(&text)?,
    };
    let target = target(&head.uri)?;
    headers::join_lines(&mut head.headers);
    if is_http2 {
        join_cookies(&mut head.headers);
    }
    head.headers.remove(HOST);
    Ok(Received {
        scheme: scheme(&head.headers),
        method: head.method.clone(),
        target,
        authority,
        protocol: if is_http2 {
            WireProtocol::Http2
        } else {
            WireProtocol::Http1
        },
        remote: connection.remote,
        dialled: connection.facts.original_dst.0,
    })
}

fn header_value(text: &str) -> Result<HeaderValue, Refusal> {
    HeaderValue::from_str(text).map_err(|_| Refusal::InvalidAuthority)
}

fn target(uri: &http::Uri) -> Result<PathAndQuery, Refusal> {
    let Some(received) = uri.path_and_query() else {
        return Ok(PathAndQuery::from_static("/"));
    };
    let normalized = normalize::normalize(received.as_str())?;
    if *normalized == *received.as_str() {
        return Ok(received.clone());
    }
    PathAndQuery::try_from(&*normalized).map_err(|_| Refusal::Codec)
}

fn scheme(headers: &HeaderMap) -> &'static str {
    match headers.get(FORWARDED_PROTO).map(HeaderValue::as_bytes) {
        Some(b"https") => "https",
        Some(_) | None => "http",
    }
}

/// HTTP/2 may split a cookie header over lines, HTTP/1.1 may not (RFC 9113 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().count() < 2 {
        return;
    }
    let lines = headers.get_all(COOKIE).iter();
    let joined = lines
        .map(HeaderValue::as_bytes)
        .collect::<Vec<_>>()
        .join(&b"; "[..]);
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(COOKIE, joined);
    }
}

/// HTTP/1.1 clients get an answer; HTTP/2 streams with too many headers are reset.
fn refuse(
    connection: &Connection,
    head: http::request::Parts,
    body: Incoming,
    mut exchange: Box<Exchange>,
    refusal: Refusal,
) -> Result<Response<ResponseBody>, ResetStream> {
    let is_http2 = head.version == Version::HTTP_2;
    if is_http2 && matches!(refusal, Refusal::TooManyHeaders | Refusal::HeadersTooLarge) {
        exchange.add_flags(ResponseFlags::DR);
        exchange.record.details = "http2.too_many_headers".into();
        exchange.close();
        return Err(ResetStream);
    }
    let authority = head.headers.get(HOST).cloned();
    let received = Received {
        method: head.method,
        target: PathAndQuery::from_static("/"),
        authority: authority.unwrap_or(HeaderValue::from_static("")),
        scheme: "http",
        protocol: if is_http2 {
            WireProtocol::Http2
        } else {
            WireProtocol::Http1
        },
        remote: connection.remote,
        dialled: connection.facts.original_dst.0,
    };
    exchange.record.authority = received.authority_text().into();
    let call = Call {
        connection,
        received,
        headers: HeaderMap::new(),
        body: (!body.is_end_stream()).then_some(CallBody::Unread(body)),
        on_upgrade: None,
        exchange,
    };
    Ok(reply::answer(call, refusal.reply(), ResponseOps::default()))
}

impl Connection {
    /// The connection becomes a tunnel once the answer under way is written.
    pub(crate) fn become_tunnel(&self, tunnel: Tunnel) {
        self.state.set_idle();
        self.tunnel.replace(Some(tunnel));
    }
}
