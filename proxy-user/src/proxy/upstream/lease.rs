//! One request's hold on a connection.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body as _;

use super::body::{RequestBody, UpstreamBody};
use super::checkout::Checkout;
use super::error::{Kind, TrafficError};
use super::host::{ActiveOnHost, Host};
use super::limits::Counted;
use super::outlier::Outcome;
use super::pool::{Pool, WireProtocol};
use super::request::UpstreamRequest;
use super::wire::{Sender, classify, classify_http1};
use crate::proxy::http1::client::{Client, ClientError};
use crate::snapshot::Endpoint;
use crate::telemetry::record::{DestinationLabels, WorkloadLabels};

/// A connection to a chosen endpoint, ready for one request. Dropping it unused
/// gives the connection back.
pub struct Lease {
    host: Rc<Host>,
    service: Arc<DestinationLabels>,
    guard: Option<LeaseGuard>,
}

/// Connection and counts of one request; lives until the response body has ended.
pub(super) struct LeaseGuard {
    checkout: Option<Checkout>,
    pool: Rc<Pool>,
    _request: Counted,
    _active: ActiveOnHost,
}

impl std::fmt::Debug for LeaseGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LeaseGuard").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease")
            .field("address", &self.host.endpoint.address)
            .finish_non_exhaustive()
    }
}

impl LeaseGuard {
    pub(super) fn new(checkout: Checkout, pool: Rc<Pool>, request: Counted) -> Self {
        Self {
            checkout: Some(checkout),
            _active: ActiveOnHost::new(&pool.core),
            pool,
            _request: request,
        }
    }

    /// The HTTP/1.1 response is complete: the connection goes back, if it is as good as before.
    pub(super) fn finish_http1(mut self, mut client: Box<Client>) {
        if !client.become_idle() {
            return;
        }
        if let Some(checkout) = &mut self.checkout {
            checkout.sender = Sender::Http1(Some(client));
        }
        self.finish();
    }

    /// The response is complete: the connection may serve the next request.
    pub(super) fn finish(mut self) {
        let Some(checkout) = self.checkout.take() else {
            return;
        };
        let pool = Rc::clone(&self.pool);
        // The counts go first: whoever takes the connection now needs our place.
        drop(self);
        pool.give_back(checkout);
    }
}

impl LeaseGuard {
    fn take_client(&mut self) -> Option<Box<Client>> {
        match &mut self.checkout.as_mut()?.sender {
            Sender::Http1(client) => client.take(),
            Sender::Http2(_) => None,
        }
    }

    /// The connection has served a request before this one.
    fn is_reused(&self) -> bool {
        let served = |checkout: &Checkout| checkout.state.served.get();
        self.checkout.as_ref().map_or(0, served) > 1
    }
}

impl Drop for LeaseGuard {
    fn drop(&mut self) {
        let Some(checkout) = self.checkout.take() else {
            return;
        };
        match self.pool.key.protocol {
            // An exchange that broke off spoils its HTTP/1.1 connection.
            WireProtocol::Http1 => drop(checkout),
            WireProtocol::Http2 => self.pool.give_back(checkout),
        }
    }
}

/// An endpoint that outcomes can be reported to after its lease is gone.
#[derive(Clone)]
pub struct HostReporter {
    pool: Rc<Pool>,
}

impl std::fmt::Debug for HostReporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostReporter").finish_non_exhaustive()
    }
}

impl HostReporter {
    /// The route's or the attempt's time-out ended this attempt (outlier detection).
    pub fn report_timeout(&self) {
        report(&self.pool, Outcome::Timeout);
    }
}

impl Lease {
    pub(super) fn new(host: Rc<Host>, service: Arc<DestinationLabels>, guard: LeaseGuard) -> Self {
        Self {
            host,
            service,
            guard: Some(guard),
        }
    }

    /// The chosen endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.host.endpoint
    }

    /// Telemetry labels of the endpoint's workload.
    #[must_use]
    pub fn workload_labels(&self) -> &Arc<WorkloadLabels> {
        &self.host.labels
    }

    /// Telemetry labels of the cluster's service.
    #[must_use]
    pub fn service_labels(&self) -> &Arc<DestinationLabels> {
        &self.service
    }

    /// Our address on this connection.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.checkout()?.state.facts.local
    }

    /// What the connection speaks: it decides the form of the request head.
    #[must_use]
    pub fn protocol(&self) -> WireProtocol {
        match &self.guard {
            Some(guard) => guard.pool.key.protocol,
            None => WireProtocol::Http1,
        }
    }

    /// A handle for outcomes that are known only later.
    #[must_use]
    pub fn reporter(&self) -> Option<HostReporter> {
        let guard = self.guard.as_ref()?;
        Some(HostReporter {
            pool: Rc::clone(&guard.pool),
        })
    }

    fn checkout(&self) -> Option<&Checkout> {
        self.guard.as_ref()?.checkout.as_ref()
    }

    /// Sends the request and waits for the response head. `informational` takes 1xx answers
    /// before it (HTTP/1.1 only). A pooled connection that its peer had closed meanwhile is
    /// replaced unnoticed, as long as nothing was sent on it.
    ///
    /// # Errors
    /// Why there is no response head. Dropping the future ends the attempt.
    pub async fn send(
        self,
        request: UpstreamRequest<'_>,
        informational: &mut dyn FnMut(StatusCode, HeaderMap),
    ) -> Result<Response<UpstreamBody>, TrafficError> {
        let is_grpc = self.is_watched() && is_grpc(request.headers);
        match self.protocol() {
            WireProtocol::Http1 => self.send_http1(request, is_grpc, informational).await,
            WireProtocol::Http2 => self.send_http2(request.into_http2(), is_grpc).await,
        }
    }

    async fn send_http1(
        mut self,
        request: UpstreamRequest<'_>,
        is_grpc: bool,
        informational: &mut dyn FnMut(StatusCode, HeaderMap),
    ) -> Result<Response<UpstreamBody>, TrafficError> {
        let (method, target) = (request.method, request.target);
        let (authority, headers) = (request.authority, request.headers);
        let is_bodiless = request.body.is_end_stream();
        let mut body = request.body;
        loop {
            let Some(mut guard) = self.guard.take() else {
                return Err(self.terminated());
            };
            let Some(mut client) = guard.take_client() else {
                return Err(self.terminated());
            };
            client.start(UpstreamRequest {
                method,
                target,
                authority,
                headers,
                body: std::mem::take(&mut body),
            });
            let answered = poll_fn(|cx| client.poll_head(informational, cx)).await;
            let error = match answered {
                Ok(head) => {
                    if guard.pool.shared.outlier.is_on() {
                        let status = status_of(head.status, &head.headers, is_grpc);
                        report(&guard.pool, Outcome::Status(status));
                    }
                    let is_upgraded = head.status == StatusCode::SWITCHING_PROTOCOLS;
                    let mut response =
                        Response::new(UpstreamBody::http1(client, is_upgraded, guard));
                    *response.status_mut() = head.status;
                    *response.headers_mut() = head.headers;
                    return Ok(response);
                }
                Err(error) => error,
            };
            let is_unnoticed = guard.is_reused() && is_bodiless && !client.has_sent();
            if is_unnoticed && matches!(error, ClientError::Ended(_)) {
                drop(client);
                self.guard = Some(replace(guard).await?);
                continue;
            }
            let failure = classify_http1(&error, &client, self.host.endpoint.address);
            if failure.kind != Kind::RequestBody {
                report(&guard.pool, Outcome::Reset);
            }
            return Err(failure);
        }
    }

    async fn send_http2(
        mut self,
        request: Request<RequestBody>,
        is_grpc: bool,
    ) -> Result<Response<UpstreamBody>, TrafficError> {
        let mut request = request;
        loop {
            let Some(mut guard) = self.guard.take() else {
                return Err(self.terminated());
            };
            let is_reused = guard.is_reused();
            let Some(checkout) = guard.checkout.as_mut() else {
                return Err(self.terminated());
            };
            let read_before = checkout.state.facts.read_len_bytes();
            match checkout.sender.send(request).await {
                Ok(None) => return Err(self.terminated()),
                Ok(Some(response)) => {
                    if guard.pool.shared.outlier.is_on() {
                        let status = status_of(response.status(), response.headers(), is_grpc);
                        report(&guard.pool, Outcome::Status(status));
                    }
                    return Ok(response.map(|body| UpstreamBody::http2(body, guard)));
                }
                Err((_, Some(returned))) if is_reused => {
                    request = returned;
                    self.guard = Some(replace(guard).await?);
                }
                Err((error, returned)) => {
                    let mut failure = classify(&error, &checkout.state.facts, read_before);
                    failure.is_request_sent = returned.is_none();
                    if failure.kind != Kind::RequestBody {
                        report(&guard.pool, Outcome::Reset);
                    }
                    return Err(failure);
                }
            }
        }
    }

    /// Outlier detection wants to know how this attempt ends.
    fn is_watched(&self) -> bool {
        let guard = self.guard.as_ref();
        guard.is_some_and(|guard| guard.pool.shared.outlier.is_on())
    }

    fn terminated(&self) -> TrafficError {
        let address = self.host.endpoint.address;
        TrafficError::upstream(Kind::ConnectionTermination, Some(address))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(guard) = self.guard.take() else {
            return;
        };
        // Unused, so the connection is as good as before.
        guard.finish();
    }
}

/// The same place with another connection; the spoiled one closes.
async fn replace(mut guard: LeaseGuard) -> Result<LeaseGuard, TrafficError> {
    guard.checkout = None;
    let fresh = guard.pool.checkout().await?;
    guard.checkout = Some(fresh);
    Ok(guard)
}

fn report(pool: &Pool, outcome: Outcome) {
    let now = std::time::Instant::now();
    pool.shared.outlier.report(&pool.core.health, outcome, now);
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(http::header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// gRPC answers in a `grpc-status` of their head (Envoy `grpcToHttpStatus`).
fn status_of(status: StatusCode, headers: &HeaderMap, is_grpc: bool) -> u16 {
    let status = status.as_u16();
    if !is_grpc {
        return status;
    }
    let Some(code) = headers.get("grpc-status") else {
        return status;
    };
    match code.as_bytes() {
        b"0" => 200,
        b"1" => 499,
        b"3" | b"9" | b"11" => 400,
        b"4" => 504,
        b"5" => 404,
        b"6" | b"10" => 409,
        b"7" => 403,
        b"8" => 429,
        b"12" => 501,
        b"14" => 503,
        b"16" => 401,
        _ => 500,
    }
}
