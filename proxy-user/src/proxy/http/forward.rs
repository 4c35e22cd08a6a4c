//! Their side: a changed head goes to an endpoint, the response comes back as this hop
//! sends it. Attempts and timeouts are `attempts`' work. Start at [`forward`].

use std::sync::Arc;
use std::time::Duration;

use http::header::SET_COOKIE;
use http::{HeaderValue, Response, StatusCode};
use tokio::time::Instant;

use super::action::say_empty;
use super::attempts::{Attempts, Failure};
use super::call::{Call, CallBody, ResponseOps};
use super::hash_key::{HashFacts, hash_key};
use super::headers::{self, GRPC_TIMEOUT, ORIGINAL_HOST, ORIGINAL_PATH};
use super::local_reply::LocalReply;
use super::reply;
use super::request_body::{BodyFault, RequestStream};
use super::response_body::ResponseBody;
use super::upgrade::Tunnel;
use crate::proxy::http1::head::recycle;
use crate::proxy::http1::target::Target;
use crate::proxy::policy::cors;
use crate::proxy::policy::header_ops::{self, HeaderViews};
use crate::proxy::policy::rewrite::{matched_len_bytes, rewrite_path, with_query};
use crate::proxy::policy::timeout;
use crate::proxy::upstream::{Kind, TrafficError, UpstreamBody, WireProtocol};
use crate::snapshot::matchers::HttpMatch;
use crate::snapshot::policy::{CorsPolicy, MirrorPolicy, RetryPolicy};
use crate::snapshot::routes::{ForwardAction, WeightedDestination};
use crate::snapshot::{Cluster, HttpRoute};
use crate::telemetry::ResponseFlags;

/// The parts of a head that are no headers, as sent upstream.
#[derive(Debug)]
pub(crate) struct ChangedHead {
    pub(crate) target: Target,
    pub(crate) authority: HeaderValue,
}

/// How one request is forwarded.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    /// Where to.
    pub(crate) cluster: &'a Arc<Cluster>,
    /// The route's timeout.
    pub(crate) timeout: Option<Duration>,
    /// With at least one retry.
    pub(crate) retry: Option<&'a RetryPolicy>,
    /// Copies.
    pub(crate) mirrors: &'a [MirrorPolicy],
    /// Response header operations.
    pub(crate) ops: ResponseOps<'a>,
    /// The policy and an allowed origin.
    pub(crate) cors: Option<(&'a CorsPolicy, HeaderValue)>,
    /// Target and authority as sent.
    pub(crate) changed: ChangedHead,
}

/// Applies what a route changes in a head, in this order: hop headers, operations, host,
/// path. Operation values see host and path as they were before.
pub(crate) fn change_head(
    call: &mut Call<'_>,
    route: &HttpRoute,
    hit: Option<&HttpMatch>,
    action: &ForwardAction,
    destination: &WeightedDestination,
) -> ChangedHead {
    let mut changed = keep_head(call);
    let (headers, received) = (&mut call.headers, &call.received);
    let facts = received.template_facts(&call.exchange, 0);
    header_ops::apply_to_request(&destination.request_headers, &facts, headers);
    header_ops::apply_to_request(&route.request_headers, &facts, headers);
    let views = HeaderViews {
        request: headers,
        response: None,
    };
    let evaluate = |template| header_ops::evaluate(template, &facts, views);
    if let Some(template) = &action.authority {
        if let Some(authority) = evaluate(template) {
            changed.authority = authority;
            headers.insert(ORIGINAL_HOST, received.authority.clone());
        }
    } else if let Some(authority) = destination.authority.as_ref().and_then(evaluate) {
        changed.authority = authority;
    }
    if let Some(rewrite) = &action.path_rewrite {
        let (path, query) = (received.target.path(), received.target.query());
        let matched = matched_len_bytes(hit, path);
        if let Some(rewritten) = rewrite_path(rewrite, matched, path) {
            changed.target = sendable(with_query(&rewritten, query), changed.target);
            if let Ok(original) = HeaderValue::from_str(received.target.as_str()) {
                headers.insert(ORIGINAL_PATH, original);
            }
        }
    }
    changed
}

/// A rewritten target, if a request line can hold it.
fn sendable(rewritten: String, before: Target) -> Target {
    let is_printable = rewritten.bytes().all(|byte| (b'!'..=b'~').contains(&byte));
    if is_printable && rewritten.starts_with('/') {
        Target::new(&rewritten)
    } else {
        before
    }
}

/// What every forwarded head goes through, rules or not.
pub(crate) fn keep_head(call: &mut Call<'_>) -> ChangedHead {
    headers::strip_request(&mut call.headers, call.is_websocket);
    headers::add_request(&mut call.headers);
    call.exchange.set_request_id(&call.headers);
    ChangedHead {
        target: call.received.target.clone(),
        authority: call.received.authority.clone(),
    }
}

/// Sends the request and gives the client its answer.
pub(crate) async fn forward(mut call: Call<'_>, plan: Plan<'_>) -> Response<ResponseBody> {
    call.exchange.record.upstream_cluster = Some(Arc::clone(&plan.cluster.name));
    let grpc = call
        .exchange
        .is_grpc()
        .then(|| timeout::grpc_timeout(&call.headers))
        .flatten();
    let per_try = plan.retry.and_then(|policy| policy.per_try_timeout);
    let (timeouts, rewritten) = timeout::effective(plan.timeout, per_try, grpc);
    if let Some(rewritten) = rewritten {
        call.headers.insert(GRPC_TIMEOUT, rewritten);
    }
    let (hash, cookie) = hash_key(
        plan.cluster,
        &HashFacts {
            headers: &call.headers,
            query: call.received.target.query(),
            client: call.received.remote,
            dialled: call.received.dialled,
        },
    );
    let stream = start_body(&mut call, &plan);
    let begun = call.exchange.begun();
    let mut attempts = Attempts::new(&plan, timeouts, hash, begun, stream.clone());
    let outcome = attempts.run(&mut call).await;
    if let Some(stream) = &stream {
        stream.stop_keeping();
    }
    let deadline = attempts.take_deadline();
    match outcome {
        Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            switch_protocols(call, plan, begun, response)
        }
        Ok(response) => {
            let ended = stream
                .as_ref()
                .map_or(Some(begun), |stream| stream.ended_at());
            let service_time = ended.map_or(Duration::ZERO, |ended| ended.max(begun).elapsed());
            let (status, body) = finish_head(&mut call, &plan, response, service_time, cookie);
            let keeps_trailers = call.received.protocol == WireProtocol::Http2;
            let headers = call.headers;
            let mut exchange = call.exchange;
            exchange.begin_answer(status, &headers);
            let body = ResponseBody::upstream(body, exchange, deadline, keeps_trailers);
            respond(status, headers, body)
        }
        Err(_) if stream.is_some_and(|stream| stream.fault() == Some(BodyFault::Gone)) => {
            // Dropping the record says that the client went away.
            drop(call);
            respond(
                StatusCode::BAD_REQUEST,
                http::HeaderMap::new(),
                ResponseBody::detached(),
            )
        }
        Err(failure) => {
            let reply = failure_reply(&mut call, failure);
            reply::answer(call, reply, plan.ops)
        }
    }
}

fn respond(
    status: StatusCode,
    headers: http::HeaderMap,
    body: ResponseBody,
) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// Turns the client's body into one that attempts can read, if there is one.
fn start_body(call: &mut Call<'_>, plan: &Plan<'_>) -> Option<std::rc::Rc<RequestStream>> {
    let Some(CallBody::Unread(incoming)) = call.body.take() else {
        say_empty(&call.received.method, &mut call.headers);
        return None;
    };
    let stream = RequestStream::new(
        incoming,
        plan.retry.is_some(),
        call.received.protocol == WireProtocol::Http2,
        call.exchange.is_grpc(),
    );
    call.exchange.set_request(std::rc::Rc::clone(&stream));
    call.body = Some(CallBody::Streaming(std::rc::Rc::clone(&stream)));
    Some(stream)
}

/// Makes an upstream's head ours; afterwards `call.headers` are those of the answer.
fn finish_head(
    call: &mut Call<'_>,
    plan: &Plan<'_>,
    response: Response<UpstreamBody>,
    service_time: Duration,
    cookie: Option<HeaderValue>,
) -> (StatusCode, UpstreamBody) {
    let (mut head, body) = response.into_parts();
    let is_upgrade = head.status == StatusCode::SWITCHING_PROTOCOLS;
    headers::finish_response(&mut head.headers, service_time, is_upgrade);
    if !plan.ops.is_empty() {
        let facts = call
            .received
            .template_facts(&call.exchange, head.status.as_u16());
        plan.ops.apply(&facts, &call.headers, &mut head.headers);
    }
    if let Some((policy, origin)) = &plan.cors {
        cors::finish_response(policy, origin.clone(), &mut head.headers);
    }
    if let Some(cookie) = cookie {
        head.headers.append(SET_COOKIE, cookie);
    }
    let record = &mut call.exchange.record;
    record.details = "via_upstream".into();
    record.upstream_service_time = Some(service_time);
    recycle(std::mem::replace(&mut call.headers, head.headers));
    (head.status, body)
}

/// A `101`: the head goes back, and both connections become a tunnel.
fn switch_protocols(
    mut call: Call<'_>,
    plan: Plan<'_>,
    begun: Instant,
    response: Response<UpstreamBody>,
) -> Response<ResponseBody> {
    let is_asked = call.is_websocket;
    let (status, body) = finish_head(&mut call, &plan, response, begun.elapsed(), None);
    let upstream = body.into_upgraded().filter(|_| is_asked);
    let Some(upstream) = upstream else {
        // Nobody asked for another protocol.
        call.exchange.record.upstream_service_time = None;
        let error = TrafficError::upstream(Kind::ProtocolError, None);
        let has_retried = call.exchange.record.retry_count > 0;
        return reply::answer(call, LocalReply::upstream(&error, has_retried), plan.ops);
    };
    let headers = call.headers;
    let mut exchange = call.exchange;
    exchange.begin_answer(status, &headers);
    let tunnel = Tunnel { upstream, exchange };
    call.connection.become_tunnel(tunnel);
    respond(status, headers, ResponseBody::detached())
}

fn failure_reply(call: &mut Call<'_>, failure: Failure) -> LocalReply {
    match failure {
        Failure::RouteTimeout => LocalReply::timeout(false),
        Failure::PerTryTimeout => LocalReply::timeout(true),
        Failure::Traffic(error) => {
            if error.flags().contains(ResponseFlags::UF) {
                call.exchange
                    .record
                    .upstream_failure
                    .clone_from(&error.cause);
            }
            LocalReply::upstream(&error, call.exchange.record.retry_count > 0)
        }
    }
}
