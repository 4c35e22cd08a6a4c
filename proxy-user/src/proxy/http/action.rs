//! What a matched route does, in the order of Istio's client-side filters: fault,
//! CORS, then redirect, direct answer or forwarding.

use std::sync::Arc;

use http::header::{CONTENT_LENGTH, LOCATION};
use http::{HeaderValue, Method, Response, StatusCode};

use super::call::{Call, ResponseOps};
use super::forward::{self, Plan};
use super::local_reply::LocalReply;
use super::reply;
use super::response_body::ResponseBody;
use crate::proxy::policy::cors::{self, CorsDecision};
use crate::proxy::policy::fault::{self, TICKETS};
use crate::proxy::policy::redirect::{RedirectFacts, location};
use crate::proxy::policy::rewrite::matched_len_bytes;
use crate::proxy::upstream::workload_labels;
use crate::snapshot::matchers::HttpMatch;
use crate::snapshot::policy::AbortWith;
use crate::snapshot::routes::{ForwardAction, RedirectAction, RouteAction, WeightedDestination};
use crate::snapshot::{ClusterRef, HttpRoute, Snapshot};
use crate::telemetry::ResponseFlags;

/// Answers `call` by `route`, matched by `hit`.
pub(crate) async fn act(
    mut call: Call<'_>,
    route: &HttpRoute,
    hit: Option<&HttpMatch>,
) -> Response<ResponseBody> {
    call.exchange.record.route_name = Some(route.effective_name(hit));
    // The destination is drawn first: its response operations also apply to aborts.
    let chosen = match &route.action {
        RouteAction::Forward(action) => {
            let ticket = fastrand::u32(..action.total_weight.max(1));
            action.pick(ticket).map(|destination| (action, destination))
        }
        RouteAction::Redirect(_)
        | RouteAction::DirectResponse { .. }
        | RouteAction::NotHonoured(_) => None,
    };
    let ops = ResponseOps {
        destination: chosen.map(|(_, destination)| &destination.response_headers),
        route: Some(&route.response_headers),
    };
    if let Some(reply) = inject_fault(&mut call, route).await {
        return reply::answer(call, reply, ops);
    }
    match (&route.action, chosen) {
        (RouteAction::Redirect(redirect), _) => {
            let reply = redirect_reply(&call, redirect, hit);
            reply::answer(call, reply, ops)
        }
        (RouteAction::DirectResponse { status, body }, _) => {
            reply::answer(call, LocalReply::direct(*status, body.clone()), ops)
        }
        (RouteAction::Forward(action), Some((_, destination))) => {
            forward_to(call, route, hit, action, destination, ops).await
        }
        (RouteAction::Forward(_) | RouteAction::NotHonoured(_), _) => {
            reply::answer(call, LocalReply::not_honoured(), ops)
        }
    }
}

/// Delays the request, and gives the reply that it is aborted with, if any.
async fn inject_fault(call: &mut Call<'_>, route: &HttpRoute) -> Option<LocalReply> {
    let policy = route.fault.as_ref()?;
    if let Some(delay) = fault::delay(policy, fastrand::u32(..TICKETS)) {
        call.exchange.add_flags(ResponseFlags::DI);
        tokio::time::sleep(delay).await;
    }
    let with = fault::abort(policy, fastrand::u32(..TICKETS))?;
    Some(match with {
        AbortWith::Http(status) => LocalReply::fault_abort(status),
        AbortWith::Grpc(status) => LocalReply::fault_abort_grpc(status),
    })
}

fn redirect_reply(
    call: &Call<'_>,
    redirect: &RedirectAction,
    hit: Option<&HttpMatch>,
) -> LocalReply {
    let received = &call.received;
    let path = received.target.path();
    let facts = RedirectFacts {
        scheme: received.scheme,
        authority: received.authority_text(),
        path,
        query: received.target.query(),
        matched_len_bytes: matched_len_bytes(hit, path),
    };
    let mut reply = LocalReply::direct(redirect.status, bytes::Bytes::new());
    if let Ok(location) = HeaderValue::try_from(location(redirect, &facts)) {
        reply.headers.insert(LOCATION, location);
    }
    reply
}

async fn forward_to(
    mut call: Call<'_>,
    route: &HttpRoute,
    hit: Option<&HttpMatch>,
    action: &ForwardAction,
    destination: &WeightedDestination,
    ops: ResponseOps<'_>,
) -> Response<ResponseBody> {
    let cors = match &route.cors {
        None => None,
        Some(policy) => match cors::decide(policy, &call.received.method, &call.headers) {
            CorsDecision::Untouched => None,
            CorsDecision::Actual(origin) => Some((&**policy, origin)),
            CorsDecision::Preflight(headers) => {
                let reply = LocalReply {
                    headers,
                    ..LocalReply::new(
                        StatusCode::OK,
                        "",
                        ResponseFlags::default(),
                        "cors_response",
                    )
                };
                return reply::answer(call, reply, ResponseOps::default());
            }
        },
    };
    let cluster = match &destination.cluster {
        ClusterRef::Known(cluster) => cluster,
        ClusterRef::Missing(name) => {
            call.exchange.record.upstream_cluster = Some(Arc::clone(name));
            return reply::answer(call, LocalReply::cluster_not_found(), ops);
        }
        ClusterRef::NotHonoured(name) => {
            call.exchange.record.upstream_cluster = Some(Arc::clone(name));
            return reply::answer(call, LocalReply::not_honoured(), ops);
        }
    };
    let changed = forward::change_head(&mut call, route, hit, action, destination);
    let plan = Plan {
        cluster,
        timeout: route.timeout,
        retry: route.retry.as_deref().filter(|policy| policy.attempts > 0),
        mirrors: &route.mirrors,
        ops,
        cors,
        changed,
    };
    forward::forward(call, plan).await
}

/// Sends a request that no virtual host knows where the client dialled: no timeout, no
/// retries, no rules.
pub(crate) async fn pass_through(
    mut call: Call<'_>,
    snapshot: &Snapshot,
) -> Response<ResponseBody> {
    call.exchange.record.route_name = Some(Arc::from("allow_any"));
    let dialled = call.received.dialled.ip().to_canonical();
    if let Some(workload) = snapshot.workloads.get(&dialled) {
        call.exchange.known_peer = Some(Arc::new(workload_labels(workload)));
    }
    let upstreams = call.connection.pod.upstreams.clone();
    let changed = forward::keep_head(&mut call);
    let plan = Plan {
        cluster: upstreams.passthrough(),
        timeout: None,
        retry: None,
        mirrors: &[],
        ops: ResponseOps::default(),
        cors: None,
        changed,
    };
    forward::forward(call, plan).await
}

/// A POST or PUT without body says so; other methods stay as they came (RFC 9110 8.6).
pub(crate) fn say_empty(method: &Method, headers: &mut http::HeaderMap) {
    if matches!(*method, Method::POST | Method::PUT | Method::PATCH)
        && !headers.contains_key(CONTENT_LENGTH)
    {
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
}
