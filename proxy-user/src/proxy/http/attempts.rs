//! Attempts of one request: pick, connect, send, wait, and again where the route's
//! retry policy says so. Start at [`Attempts::run`].

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::header::{HOST, TRANSFER_ENCODING};
use http::uri::{PathAndQuery, Scheme, Uri};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use tokio::time::{Instant, sleep, sleep_until};

use super::call::Call;
use super::forward::{ChangedHead, Plan, needs_explicit_chunked};
use super::headers::{ATTEMPT_COUNT, EXPECTED_TIMEOUT};
use super::request_body::RequestStream;
use super::response_body::Deadline;
use super::shadow;
use crate::proxy::policy::retry::{self, Outcome};
use crate::proxy::policy::timeout::{self, Timeouts};
use crate::proxy::upstream::{
    Kind, Lease, PickContext, RequestBody, RetryPermit, TrafficError, UpstreamBody, WireProtocol,
};
use crate::snapshot::policy::RetryOn;
use crate::telemetry::ResponseFlags;

/// Why there is no response.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The upstream's doing.
    Traffic(TrafficError),
    /// The last attempt took too long.
    PerTryTimeout,
    /// All of it took too long.
    RouteTimeout,
}

/// Runs attempts until one counts.
pub(crate) struct Attempts<'a> {
    plan: &'a Plan<'a>,
    timeouts: Timeouts,
    hash: Option<u64>,
    /// When forwarding began; a request that had ended before counts from here.
    begun: Instant,
    stream: Option<Rc<RequestStream>>,
    deadline: Option<Deadline>,
    tried: Vec<SocketAddr>,
    retries: u32,
    /// The head went out with the last attempt and cannot be sent again.
    is_head_gone: bool,
    /// Held while a retry is under way.
    permit: Option<RetryPermit>,
}

/// What follows an attempt.
enum Next {
    /// It counts.
    Done,
    /// It would be retried, but all retries are used up.
    Exhausted,
    /// It would be retried, but the circuit breaker forbids it.
    Refused,
    /// The next one, after this wait.
    Retry(Duration),
}

impl<'a> Attempts<'a> {
    /// `begun`: now. `stream`: the request's body, if it has one.
    pub(crate) fn new(
        plan: &'a Plan<'a>,
        timeouts: Timeouts,
        hash: Option<u64>,
        begun: Instant,
        stream: Option<Rc<RequestStream>>,
    ) -> Self {
        let deadline = timeouts.whole.map(|whole| {
            let stream = stream.clone();
            let deadline: Deadline = Box::pin(async move {
                let ended = end_of(stream.as_deref(), begun).await;
                sleep_until(ended + whole).await;
            });
            deadline
        });
        Self {
            plan,
            timeouts,
            hash,
            begun,
            stream,
            deadline,
            tried: Vec::new(),
            retries: 0,
            is_head_gone: false,
            permit: None,
        }
    }

    /// What is left of the route timeout, for the response body.
    pub(crate) fn take_deadline(&mut self) -> Option<Deadline> {
        self.deadline.take()
    }

    /// The response that counts, or why there is none.
    pub(crate) async fn run(
        &mut self,
        call: &mut Call<'_>,
    ) -> Result<Response<UpstreamBody>, Failure> {
        loop {
            let outcome = self.attempt(call).await;
            self.permit = None;
            let next = match &outcome {
                Err(Failure::RouteTimeout) => Next::Done,
                Err(Failure::PerTryTimeout) => self.next(call, Outcome::PerTryTimeout),
                Err(Failure::Traffic(error)) => self.next(call, Outcome::Failed(error)),
                Ok(response) => self.next(
                    call,
                    Outcome::Response(response.status(), response.headers()),
                ),
            };
            let wait = match next {
                Next::Retry(wait) => wait,
                Next::Exhausted => {
                    call.exchange.add_flags(ResponseFlags::URX);
                    return outcome;
                }
                Next::Refused => {
                    call.exchange.add_flags(ResponseFlags::UO);
                    return outcome;
                }
                Next::Done => return outcome,
            };
            // The response that is given up frees its connection before the wait.
            drop(outcome);
            self.retries += 1;
            call.exchange.record.retry_count = self.retries;
            if before(&mut self.deadline, sleep(wait)).await.is_none() {
                return Err(Failure::RouteTimeout);
            }
        }
    }

    /// Whether the outcome counts, or what is done instead.
    fn next(&mut self, call: &Call<'_>, outcome: Outcome<'_>) -> Next {
        let Some(policy) = self.plan.retry else {
            return Next::Done;
        };
        let is_replayable = self
            .stream
            .as_ref()
            .is_none_or(|stream| stream.is_replayable());
        if !retry::is_retriable(policy, outcome) || !is_replayable || self.is_head_gone {
            return Next::Done;
        }
        if self.retries >= policy.attempts {
            return Next::Exhausted;
        }
        let Some(permit) = call.connection.pod.upstreams.try_retry(self.plan.cluster) else {
            return Next::Refused;
        };
        self.permit = Some(permit);
        Next::Retry(retry::backoff(policy, self.retries + 1, fastrand::f64()))
    }

    async fn attempt(&mut self, call: &mut Call<'_>) -> Result<Response<UpstreamBody>, Failure> {
        let pod = &call.connection.pod;
        let context = PickContext {
            hash: self.hash,
            tried: &self.tried,
            client_protocol: call.received.protocol,
            is_upgrade: call.on_upgrade.is_some(),
            original_dst: call.connection.facts.original_dst,
            bind: call.connection.facts.bound_source(),
            name: Some(call.received.authority_text()),
        };
        let acquire = pod.upstreams.acquire(self.plan.cluster, &context);
        let Some(acquired) = before(&mut self.deadline, acquire).await else {
            return Err(Failure::RouteTimeout);
        };
        if self.retries == 0 && !is_without_endpoint(&acquired) {
            let timeout = self.timeouts.whole;
            shadow::send_copies(call, self.plan, self.stream.as_ref(), timeout);
        }
        let lease = match acquired {
            Ok(lease) => lease,
            Err(error) => {
                let record = &mut call.exchange.record;
                record.service = pod.upstreams.service_labels(self.plan.cluster);
                record.upstream_host = error.upstream;
                self.note_tried(error.upstream);
                return Err(Failure::Traffic(error));
            }
        };
        self.note_tried(Some(lease.endpoint().address));
        note_lease(call, &lease);
        self.send(call, lease).await
    }

    async fn send(
        &mut self,
        call: &mut Call<'_>,
        lease: Lease,
    ) -> Result<Response<UpstreamBody>, Failure> {
        let request = self.request(call, lease.protocol());
        let reporter = if self.deadline.is_some() || self.timeouts.per_try.is_some() {
            lease.reporter()
        } else {
            None
        };
        let (stream, begun) = (self.stream.clone(), Instant::now());
        let per_try = self.timeouts.per_try;
        let sending = async {
            let sending = lease.send(request);
            let Some(per_try) = per_try else {
                return sending.await.map_err(Failure::Traffic);
            };
            let too_late = async {
                let ended = end_of(stream.as_deref(), begun).await;
                sleep_until(ended + per_try).await;
            };
            tokio::select! {
                biased;
                sent = sending => sent.map_err(Failure::Traffic),
                () = too_late => Err(Failure::PerTryTimeout),
            }
        };
        let sent = before(&mut self.deadline, sending)
            .await
            .unwrap_or(Err(Failure::RouteTimeout));
        if let (Err(Failure::PerTryTimeout | Failure::RouteTimeout), Some(reporter)) =
            (&sent, reporter)
        {
            reporter.report_timeout();
        }
        sent
    }

    fn note_tried(&mut self, address: Option<SocketAddr>) {
        if self
            .plan
            .retry
            .is_some_and(|policy| policy.skip_previous_hosts)
        {
            self.tried.extend(address);
        }
    }

    /// Headers are needed again for another attempt and for response operations. Istio's
    /// default policy repeats nothing that HTTP/1.1 has sent, except by gRPC status.
    fn is_last_use(&self, call: &Call<'_>, protocol: WireProtocol) -> bool {
        let may_repeat = self.plan.retry.is_some_and(|policy| {
            protocol == WireProtocol::Http2
                || call.exchange.is_grpc()
                || policy.on != RetryOn::DEFAULT
                || !policy.status_codes.is_empty()
        });
        !may_repeat && self.plan.ops.is_empty()
    }

    fn request(&mut self, call: &mut Call<'_>, protocol: WireProtocol) -> Request<RequestBody> {
        self.is_head_gone = self.is_last_use(call, protocol);
        let mut headers = if self.is_head_gone {
            std::mem::take(&mut call.headers)
        } else {
            call.headers.clone()
        };
        headers.insert(ATTEMPT_COUNT, HeaderValue::from(self.retries + 1));
        let ended = self
            .stream
            .as_ref()
            .map_or(Some(self.begun), |stream| stream.ended_at());
        let elapsed = ended.map_or(Duration::ZERO, |ended| ended.max(self.begun).elapsed());
        if let Some(left) = timeout::expected(self.timeouts, elapsed) {
            let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            headers.insert(EXPECTED_TIMEOUT, HeaderValue::from(millis));
        }
        let body = match &self.stream {
            Some(stream) => {
                if protocol == WireProtocol::Http1
                    && needs_explicit_chunked(&call.received.method, stream)
                {
                    headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
                }
                RequestBody::Stream(Box::pin(stream.reader()))
            }
            None => RequestBody::Empty,
        };
        build(
            protocol,
            call.received.method.clone(),
            &self.plan.changed,
            headers,
            body,
        )
    }
}

/// A request in the form that the connection speaks.
pub(crate) fn build(
    protocol: WireProtocol,
    method: Method,
    head: &ChangedHead,
    headers: HeaderMap,
    body: RequestBody,
) -> Request<RequestBody> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.headers_mut() = headers;
    let absolute = match protocol {
        WireProtocol::Http1 => None,
        WireProtocol::Http2 => absolute(&head.authority, &head.target),
    };
    match absolute {
        Some(uri) => {
            *request.uri_mut() = uri;
            *request.version_mut() = Version::HTTP_2;
        }
        // HTTP/1.1, or an authority that is no URI's: it goes as `host` then.
        None => {
            *request.uri_mut() = Uri::from(head.target.clone());
            request.headers_mut().insert(HOST, head.authority.clone());
        }
    }
    request
}

fn absolute(authority: &HeaderValue, target: &PathAndQuery) -> Option<Uri> {
    Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(authority.as_bytes())
        .path_and_query(target.clone())
        .build()
        .ok()
}

fn is_without_endpoint(acquired: &Result<Lease, TrafficError>) -> bool {
    matches!(acquired, Err(error) if error.kind == Kind::NoHealthyUpstream)
}

fn note_lease(call: &mut Call<'_>, lease: &Lease) {
    let exchange = &mut call.exchange;
    exchange.record.upstream_host = Some(lease.endpoint().address);
    exchange.record.upstream_local = lease.local_addr();
    exchange.record.service = lease.service_labels().clone();
    exchange.record.destination = match &exchange.known_peer {
        Some(peer) => peer.clone(),
        None => lease.workload_labels().clone(),
    };
}

/// When the request ended, or `begun` if that was before.
async fn end_of(stream: Option<&RequestStream>, begun: Instant) -> Instant {
    match stream {
        Some(stream) => stream.ended().await.max(begun),
        None => begun,
    }
}

/// The output of `work`, or `None` if the deadline comes first.
async fn before<T>(deadline: &mut Option<Deadline>, work: impl Future<Output = T>) -> Option<T> {
    let Some(deadline) = deadline else {
        return Some(work.await);
    };
    tokio::select! {
        biased;
        done = work => Some(done),
        () = deadline => None,
    }
}
