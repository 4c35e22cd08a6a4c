//! Attempts of one request: pick, connect, send, wait, and again where the route's
//! retry policy says so. Start at [`Attempts::run`].

use std::cell::Cell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http::header::EXPECT;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use tokio::time::{Instant, sleep, sleep_until};

use super::call::Call;
use super::forward::Plan;
use super::headers::{self, ATTEMPT_COUNT, EXPECTED_TIMEOUT};
use super::request_body::RequestStream;
use super::response_body::Deadline;
use super::shadow;
use crate::proxy::policy::retry::{self, Outcome};
use crate::proxy::policy::timeout::{self, Timeouts};
use crate::proxy::upstream::{
    Kind, Lease, PickContext, RequestBody, RetryPermit, TrafficError, UpstreamBody,
    UpstreamRequest, WireProtocol,
};
use crate::snapshot::policy::RetryPolicy;
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
    /// Of the last attempt.
    picked: Option<SocketAddr>,
    retries: u32,
    /// A 1xx answer has gone to the client: this attempt is the last.
    has_informed: bool,
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
            picked: None,
            retries: 0,
            has_informed: false,
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
            self.note_tried();
            if before(&mut self.deadline, pin!(sleep(wait)))
                .await
                .is_none()
            {
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
        if !retry::is_retriable(policy, outcome) || !is_replayable || self.has_informed {
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
            is_upgrade: call.is_websocket,
            original_dst: call.connection.facts.original_dst,
            bind: call.connection.facts.bound_source(),
            name: Some(call.received.authority_text()),
        };
        let acquired = {
            let acquire = pin!(pod.upstreams.acquire(self.plan.cluster, &context));
            before(&mut self.deadline, acquire).await
        };
        let Some(acquired) = acquired else {
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
                self.picked = error.upstream;
                return Err(Failure::Traffic(error));
            }
        };
        self.picked = Some(lease.endpoint().address);
        note_lease(call, &lease);
        self.send(call, lease).await
    }

    async fn send(
        &mut self,
        call: &mut Call<'_>,
        lease: Lease,
    ) -> Result<Response<UpstreamBody>, Failure> {
        let body = self.change_head(call);
        let connection = call.connection;
        if lease.protocol() == WireProtocol::Http2
            && self.stream.is_some()
            && expects_continue(call)
        {
            // hyper drops an HTTP/2 endpoint's own 100, and the client may wait for it.
            connection.push_early(StatusCode::CONTINUE, HeaderMap::new());
        }
        let has_informed = Cell::new(false);
        let mut informational = |status, mut headers| {
            has_informed.set(true);
            headers::strip_informational(&mut headers);
            connection.push_early(status, headers);
        };
        let plan = self.plan;
        let request = UpstreamRequest {
            method: &call.received.method,
            target: &plan.changed.target,
            authority: &plan.changed.authority,
            headers: &call.headers,
            body,
        };
        let reporter = if self.deadline.is_some() || self.timeouts.per_try.is_some() {
            lease.reporter()
        } else {
            None
        };
        let mut sending = pin!(lease.send(request, &mut informational));
        let sent = match self.timeouts.per_try {
            None => before(&mut self.deadline, sending.as_mut())
                .await
                .map(|sent| sent.map_err(Failure::Traffic)),
            Some(per_try) => {
                let (stream, begun) = (self.stream.clone(), Instant::now());
                let too_late = async {
                    let ended = end_of(stream.as_deref(), begun).await;
                    sleep_until(ended + per_try).await;
                };
                let either = pin!(async {
                    tokio::select! {
                        biased;
                        sent = sending.as_mut() => sent.map_err(Failure::Traffic),
                        () = too_late => Err(Failure::PerTryTimeout),
                    }
                });
                before(&mut self.deadline, either).await
            }
        };
        let sent = sent.unwrap_or(Err(Failure::RouteTimeout));
        if let (Err(Failure::PerTryTimeout | Failure::RouteTimeout), Some(reporter)) =
            (&sent, reporter)
        {
            reporter.report_timeout();
        }
        self.has_informed |= has_informed.get();
        sent
    }

    /// The endpoint of the last attempt shall be avoided by the next one.
    fn note_tried(&mut self) {
        let skips = |policy: &RetryPolicy| policy.skip_previous_hosts;
        if self.plan.retry.is_some_and(skips) {
            self.tried.extend(self.picked);
        }
    }

    /// What an attempt says about itself, and the body that it sends.
    fn change_head(&self, call: &mut Call<'_>) -> RequestBody {
        let headers = &mut call.headers;
        headers.insert(ATTEMPT_COUNT, headers::number(u64::from(self.retries) + 1));
        let ended = self
            .stream
            .as_ref()
            .map_or(Some(self.begun), |stream| stream.ended_at());
        let elapsed = || {
            let ended = ended.map(|ended| ended.max(self.begun).elapsed());
            ended.unwrap_or(Duration::ZERO)
        };
        let has_timeout = self.timeouts.whole.is_some() || self.timeouts.per_try.is_some();
        if has_timeout && let Some(left) = timeout::expected(self.timeouts, elapsed()) {
            let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            headers.insert(EXPECTED_TIMEOUT, HeaderValue::from(millis));
        }
        match &self.stream {
            Some(stream) => RequestBody::Stream(Box::pin(stream.reader())),
            None => RequestBody::Empty,
        }
    }
}

fn expects_continue(call: &Call<'_>) -> bool {
    let value = call.headers.get(EXPECT);
    value.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
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

/// The output of `work`, or `None` if the deadline comes first. Pinned where it was made:
/// moving futures of this size costs as much as parsing a head.
async fn before<F: Future>(
    deadline: &mut Option<Deadline>,
    mut work: Pin<&mut F>,
) -> Option<F::Output> {
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        match deadline {
            Some(deadline) => deadline.as_mut().poll(cx).map(|()| None),
            None => Poll::Pending,
        }
    })
    .await
}
