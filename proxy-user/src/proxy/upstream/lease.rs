//! One request's hold on a connection.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderMap, Request, Response, StatusCode};

use super::body::{RequestBody, UpstreamBody};
use super::checkout::Checkout;
use super::error::{Kind, TrafficError};
use super::host::{ActiveOnHost, Host};
use super::limits::Counted;
use super::outlier::Outcome;
use super::pool::{Pool, WireProtocol};
use super::wire::classify;
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

    /// The response is complete: the connection may serve the next request.
    pub(super) fn finish(mut self) {
        let Some(mut checkout) = self.checkout.take() else {
            return;
        };
        let pool = Rc::clone(&self.pool);
        // The counts go first: whoever takes the connection now needs our place.
        drop(self);
        if checkout.sender.is_ready() || pool.key.protocol == WireProtocol::Http2 {
            pool.give_back(checkout);
            return;
        }
        tokio::task::spawn_local(async move {
            // The rest of the request body may still be on its way.
            if checkout.sender.ready().await.is_ok() {
                pool.give_back(checkout);
            }
        });
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

    /// Sends the request and waits for the response head.
    ///
    /// HTTP/1.1: the request needs a `host` header and an origin-form target.
    /// HTTP/2: it needs an absolute target. A pooled connection that its peer had
    /// closed meanwhile is replaced unnoticed, as long as nothing was sent on it.
    ///
    /// # Errors
    /// Why there is no response head. Dropping the future ends the attempt.
    pub async fn send(
        mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<UpstreamBody>, TrafficError> {
        let mut request = request;
        let is_grpc = self.is_watched() && is_grpc(request.headers());
        loop {
            let Some(mut guard) = self.guard.take() else {
                return Err(self.terminated());
            };
            let Some(checkout) = guard.checkout.as_mut() else {
                return Err(self.terminated());
            };
            let read_before = checkout.state.facts.read_len_bytes();
            let is_reused = checkout.state.served.get() > 1;
            match checkout.sender.send(request).await {
                Ok(response) => {
                    if guard.pool.shared.outlier.is_on() {
                        report(&guard.pool, Outcome::Status(status_of(&response, is_grpc)));
                    }
                    return Ok(with_guard(response, guard));
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

fn with_guard(
    response: Response<hyper::body::Incoming>,
    guard: LeaseGuard,
) -> Response<UpstreamBody> {
    let is_upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    response.map(|body| {
        if is_upgraded {
            UpstreamBody::new_upgraded(body, guard)
        } else {
            UpstreamBody::new(body, guard)
        }
    })
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
fn status_of<B>(response: &Response<B>, is_grpc: bool) -> u16 {
    let status = response.status().as_u16();
    if !is_grpc {
        return status;
    }
    let Some(code) = response.headers().get("grpc-status") else {
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
