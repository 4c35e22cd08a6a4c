//! What happens to each request of a client connection, from its head to the head of its
//! answer. HTTP/1.1 connections are served by `server`, HTTP/2 ones by hyper. Start at [`serve`].

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{COOKIE, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tracing::debug;

use super::call::{Call, CallBody, Received, ResponseOps};
use super::exchange::Exchange;
use super::headers::{self, FORWARDED_PROTO};
use super::local_reply::LocalReply;
use super::request_body::ClientBody;
use super::response_body::ResponseBody;
use super::route::{self, Decision};
use super::strict::{self, Refusal};
use super::upgrade::{self, Tunnel, Upgrade};
use super::{action, normalize, reply, server};
use crate::proxy::context::client_address;
use crate::proxy::http1::head::{HeadError, RequestHead};
use crate::proxy::http1::target::Target;
use crate::proxy::upstream::{LocalExecutor, WireProtocol};
use crate::proxy::{ConnectionFacts, PodContext, PrefixedStream};
use crate::telemetry::ResponseFlags;

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
    /// 1xx answers on their way to an HTTP/1.1 client.
    early: RefCell<Vec<(StatusCode, HeaderMap)>>,
    /// What the connection becomes after its last answer.
    tunnel: RefCell<Option<Tunnel>>,
}

/// The stream is reset without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the request is malformed")]
pub(crate) struct ResetStream;

/// Serves HTTP on `stream` until it ends, request by request.
pub(crate) async fn serve(stream: PrefixedStream, facts: ConnectionFacts, pod: Rc<PodContext>) {
    let is_http2 = facts.is_http2;
    let connection = Rc::new(Connection {
        remote: client_address(&pod, facts.downstream, facts.original_dst),
        pod,
        facts,
        early: RefCell::default(),
        tunnel: RefCell::default(),
    });
    if !is_http2 {
        let (peeked, stream) = stream.into_parts();
        return server::serve(&connection, stream, peeked).await;
    }
    if let Err(error) = serve_http2(TokioIo::new(stream), &connection).await {
        debug!(%error, client = %connection.remote, "an HTTP/2 connection ended early");
    }
}

async fn serve_http2(
    io: TokioIo<PrefixedStream>,
    connection: &Rc<Connection>,
) -> Result<(), hyper::Error> {
    let owner = Rc::clone(connection);
    let service = service_fn(move |request| {
        let owner = Rc::clone(&owner);
        async move {
            let (head, body) = from_http2(request);
            handle(&owner, head, body).await
        }
    });
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
pub(super) async fn wait_for_drain(draining: &mut tokio::sync::watch::Receiver<bool>) {
    if draining.wait_for(|draining| *draining).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The same head and body as HTTP/1.1 has them.
fn from_http2(request: Request<Incoming>) -> (RequestHead, Option<ClientBody>) {
    let (head, body) = request.into_parts();
    let target = head
        .uri
        .path_and_query()
        .map_or("", |target| target.as_str());
    let authority = head.uri.authority();
    let head = RequestHead {
        version: head.version,
        method: head.method,
        target: Bytes::copy_from_slice(target.as_bytes()),
        authority: authority.and_then(|text| HeaderValue::from_str(text.as_str()).ok()),
        headers: head.headers,
    };
    let body = (!body.is_end_stream()).then_some(ClientBody::Http2(body));
    (head, body)
}

/// One request: refuse, route, act.
pub(super) async fn handle(
    connection: &Connection,
    mut head: RequestHead,
    body: Option<ClientBody>,
) -> Result<Response<ResponseBody>, ResetStream> {
    let dialled = connection.facts.original_dst;
    let mut exchange = Exchange::open(&connection.pod, connection.remote, dialled, &head);
    let received = match receive(connection, &mut head) {
        Ok(received) => received,
        Err(refusal) => return refuse(connection, head, body, exchange, refusal),
    };
    exchange.record.authority = received.authority_text().into();
    let upgrade = upgrade::requested(head.version, &head.headers);
    let call = Call {
        connection,
        received,
        headers: head.headers,
        body: body.map(CallBody::Unread),
        is_websocket: upgrade == Upgrade::WebSocket,
        exchange,
    };
    Ok(dispatch(call, upgrade).await)
}

/// The answer to bytes that are no request.
pub(super) fn refuse_head(connection: &Connection, error: HeadError) -> Response<ResponseBody> {
    let head = RequestHead {
        version: Version::HTTP_11,
        method: Method::GET,
        target: Bytes::new(),
        authority: None,
        headers: HeaderMap::new(),
    };
    let dialled = connection.facts.original_dst;
    let mut exchange = Exchange::open(&connection.pod, connection.remote, dialled, &head);
    exchange.record.method = Box::default();
    let call = refused_call(connection, head, None, exchange);
    reply::answer(call, Refusal::from(error).reply(), ResponseOps::default())
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
fn receive(connection: &Connection, head: &mut RequestHead) -> Result<Received, Refusal> {
    let authority = strict::check(head)?;
    let target = match head.target_text() {
        "" => Target::new("/"),
        text => Target::new(&normalize::normalize(text)?),
    };
    let is_http2 = head.version == Version::HTTP_2;
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
        protocol: protocol(head.version),
        remote: connection.remote,
        dialled: connection.facts.original_dst.0,
    })
}

fn protocol(version: Version) -> WireProtocol {
    match version {
        Version::HTTP_2 => WireProtocol::Http2,
        _ => WireProtocol::Http1,
    }
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
    head: RequestHead,
    body: Option<ClientBody>,
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
    let mut call = refused_call(connection, head, body, exchange);
    call.exchange.record.authority = call.received.authority_text().into();
    Ok(reply::answer(call, refusal.reply(), ResponseOps::default()))
}

fn refused_call(
    connection: &Connection,
    head: RequestHead,
    body: Option<ClientBody>,
    exchange: Box<Exchange>,
) -> Call<'_> {
    let authority = head.headers.get(HOST).cloned();
    Call {
        connection,
        received: Received {
            method: head.method,
            target: Target::new("/"),
            authority: authority.unwrap_or(HeaderValue::from_static("")),
            scheme: "http",
            protocol: protocol(head.version),
            remote: connection.remote,
            dialled: connection.facts.original_dst.0,
        },
        headers: HeaderMap::new(),
        body: body.map(CallBody::Unread),
        is_websocket: false,
        exchange,
    }
}

impl Connection {
    /// The connection becomes a tunnel once the answer under way is written.
    pub(crate) fn become_tunnel(&self, tunnel: Tunnel) {
        self.tunnel.replace(Some(tunnel));
    }

    /// What the connection has become.
    pub(super) fn take_tunnel(&self) -> Option<Tunnel> {
        self.tunnel.take()
    }

    /// Passes a 1xx answer on before the final one. hyper cannot, so HTTP/2 clients get none.
    pub(super) fn push_early(&self, status: StatusCode, headers: HeaderMap) {
        if !self.facts.is_http2 {
            self.early.borrow_mut().push((status, headers));
        }
    }

    /// Hands over the 1xx answers that have come since the last call.
    pub(super) fn take_early(&self, mut write: impl FnMut(StatusCode, &HeaderMap)) {
        for (status, headers) in self.early.borrow_mut().drain(..) {
            write(status, &headers);
        }
    }
}
