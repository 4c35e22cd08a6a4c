//! Mirror copies on their way: fire, discard the answer, never bother the client.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http_body_util::BodyExt as _;
use tracing::debug;

use super::call::Call;
use super::forward::{ChangedHead, Plan};
use super::hash_key::{HashFacts, hash_key};
use super::request_body::RequestStream;
use crate::net::OriginalDst;
use crate::proxy::policy::fault::TICKETS;
use crate::proxy::policy::mirror;
use crate::proxy::upstream::{
    PickContext, RequestBody, TrafficError, UpstreamRequest, Upstreams, WireProtocol,
};
use crate::snapshot::Cluster;

/// Copies under way per worker; further ones are dropped, as by a full cluster.
const COPIES_MAX: usize = 4096;

thread_local! {
    static COPIES: Cell<usize> = const { Cell::new(0) };
}

/// A copy's place among those under way.
struct Place;

impl Place {
    fn take() -> Option<Self> {
        COPIES.with(|copies| {
            (copies.get() < COPIES_MAX).then(|| {
                copies.set(copies.get() + 1);
                Self
            })
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        COPIES.with(|copies| copies.set(copies.get().saturating_sub(1)));
    }
}

/// One copy.
struct Copy {
    upstreams: Upstreams,
    cluster: Arc<Cluster>,
    hash: Option<u64>,
    client_protocol: WireProtocol,
    original_dst: OriginalDst,
    /// The authority that the client sent.
    asked: http::HeaderValue,
    method: http::Method,
    head: ChangedHead,
    headers: HeaderMap,
    body: RequestBody,
}

/// Starts the copies that this request's tickets draw. Called once, when the first
/// attempt has a cluster with endpoints. `timeout`: the route's.
pub(crate) fn send_copies(
    call: &Call<'_>,
    plan: &Plan<'_>,
    stream: Option<&Rc<RequestStream>>,
    timeout: Option<Duration>,
) {
    for policy in plan.mirrors {
        let Some(cluster) = mirror::target(policy, fastrand::u32(..TICKETS)) else {
            continue;
        };
        let Some(place) = Place::take() else {
            continue;
        };
        let copy = copy(call, plan, stream, cluster);
        // Owned by the worker's task set; bounded by `COPIES_MAX` and the route timeout.
        tokio::task::spawn_local(async move {
            let sent = match timeout {
                Some(timeout) => tokio::time::timeout(timeout, copy.send()).await,
                None => Ok(copy.send().await),
            };
            match sent {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%error, "a mirror copy failed"),
                Err(_) => debug!("a mirror copy timed out"),
            }
            drop(place);
        });
    }
}

fn copy(
    call: &Call<'_>,
    plan: &Plan<'_>,
    stream: Option<&Rc<RequestStream>>,
    cluster: &Arc<Cluster>,
) -> Copy {
    let received = &call.received;
    let headers = mirror::copy_headers(&call.headers, Some(received.remote.ip()));
    let facts = HashFacts {
        headers: &headers,
        query: received.target.query(),
        client: received.remote,
        dialled: received.dialled,
    };
    let (hash, _) = hash_key(cluster, &facts);
    Copy {
        upstreams: call.connection.pod.upstreams.clone(),
        cluster: Arc::clone(cluster),
        hash,
        client_protocol: received.protocol,
        original_dst: call.connection.facts.original_dst,
        asked: received.authority.clone(),
        method: received.method.clone(),
        head: ChangedHead {
            target: plan.changed.target.clone(),
            authority: plan.changed.authority.clone(),
        },
        headers,
        body: match stream {
            Some(stream) => RequestBody::Stream(Box::pin(stream.mirror())),
            None => RequestBody::Empty,
        },
    }
}

impl Copy {
    async fn send(self) -> Result<(), TrafficError> {
        let context = PickContext {
            hash: self.hash,
            tried: &[],
            client_protocol: self.client_protocol,
            is_upgrade: false,
            original_dst: self.original_dst,
            bind: None,
            name: self.asked.to_str().ok(),
        };
        let lease = self.upstreams.acquire(&self.cluster, &context).await?;
        let request = UpstreamRequest {
            method: &self.method,
            target: &self.head.target,
            authority: &self.head.authority,
            headers: &self.headers,
            body: self.body,
        };
        // Nobody waits for the 1xx answers to a copy.
        let mut body = lease.send(request, &mut |_, _| {}).await?.into_body();
        // Read to its end, so that the connection can be used again.
        while let Some(Ok(_)) = body.frame().await {}
        Ok(())
    }
}
