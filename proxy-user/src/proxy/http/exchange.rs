//! One request from its head to the last byte of its answer, as telemetry sees it.
//!
//! Opened once, closed once. Dropping it unclosed means that the client went away
//! first: flag `DC`, and code 0 if no answer had begun (Envoy `RESPONSE_FLAGS`).

use std::borrow::Cow;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue, StatusCode, Version};

use super::grpc_messages::GrpcMessages;
use super::headers::{self, FORWARDED_FOR, REQUEST_ID};
use super::request_body::RequestStream;
use crate::net::OriginalDst;
use crate::proxy::http1::head::RequestHead;
use crate::proxy::policy::retry::grpc_status;
use crate::proxy::{ArcRecorder, PodContext};
use crate::telemetry::record::{RequestProtocol, WorkloadLabels};
use crate::telemetry::{DestinationLabels, RequestRecord, ResponseFlags};

static UNKNOWN_WORKLOAD: LazyLock<Arc<WorkloadLabels>> =
    LazyLock::new(|| Arc::new(WorkloadLabels::unknown()));
static UNKNOWN_SERVICE: LazyLock<Arc<DestinationLabels>> =
    LazyLock::new(|| Arc::new(service_named("unknown")));
static BLACK_HOLE: LazyLock<Arc<DestinationLabels>> = LazyLock::new(|| {
    Arc::new(service_named(
        crate::snapshot::clusters::special::BLACK_HOLE,
    ))
});

fn service_named(name: &str) -> DestinationLabels {
    DestinationLabels {
        service: Arc::from("unknown"),
        service_name: Arc::from(name),
        service_namespace: Arc::from("unknown"),
    }
}

/// The record of one request while it is being made.
pub(crate) struct Exchange {
    /// Filled in as the facts become known.
    pub(crate) record: RequestRecord,
    /// The workload behind a passed-through address; else the endpoint's own counts.
    pub(crate) known_peer: Option<Arc<WorkloadLabels>>,
    recorder: ArcRecorder,
    started: tokio::time::Instant,
    request: Option<Rc<RequestStream>>,
    /// Of answers to gRPC requests.
    messages: GrpcMessages,
    has_answer_begun: bool,
    is_closed: bool,
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange")
            .field("record", &self.record)
            .finish_non_exhaustive()
    }
}

impl Exchange {
    /// A request whose head is complete.
    pub(crate) fn open(
        pod: &PodContext,
        remote: SocketAddr,
        dialled: OriginalDst,
        head: &RequestHead,
    ) -> Box<Self> {
        let text = |value: Option<&HeaderValue>| {
            let text = String::from_utf8_lossy(value?.as_bytes());
            Some(text.into_owned().into_boxed_str())
        };
        let target = head.target_text();
        let noted = Noted::of(&head.headers);
        let head_bytes = noted.wire_len + (head.method.as_str().len() + target.len()) as u64;
        let record = RequestRecord {
            start: SystemTime::now(),
            duration: Duration::ZERO,
            source: Arc::clone(&pod.labels),
            destination: Arc::clone(&UNKNOWN_WORKLOAD),
            service: Arc::clone(&UNKNOWN_SERVICE),
            protocol: if noted.content_type.is_some_and(headers::is_grpc) {
                RequestProtocol::Grpc
            } else {
                RequestProtocol::Http
            },
            http_version: protocol_name(head.version),
            method: head.method.as_str().into(),
            path: target.into(),
            authority: Box::default(),
            response_code: 0,
            grpc_status: None,
            flags: ResponseFlags::default(),
            details: Cow::Borrowed(""),
            upstream_failure: None,
            bytes_received: 0,
            bytes_sent: 0,
            request_bytes: head_bytes,
            response_bytes: 0,
            request_messages: 0,
            response_messages: 0,
            upstream_service_time: None,
            forwarded_for: text(noted.forwarded_for),
            user_agent: text(noted.user_agent),
            request_id: None,
            upstream_host: None,
            upstream_cluster: None,
            upstream_local: None,
            downstream_local: dialled.0,
            downstream_remote: remote,
            route_name: None,
            retry_count: 0,
        };
        Box::new(Self {
            record,
            known_peer: None,
            recorder: pod.recorder.clone(),
            started: tokio::time::Instant::now(),
            request: None,
            messages: GrpcMessages::default(),
            has_answer_begun: false,
            is_closed: false,
        })
    }

    /// When forwarding can have begun: with the request, unless it was delayed on purpose.
    pub(crate) fn begun(&self) -> tokio::time::Instant {
        if self.record.flags.contains(ResponseFlags::DI) {
            return tokio::time::Instant::now();
        }
        self.started
    }

    /// A gRPC request by its content type.
    pub(crate) fn is_grpc(&self) -> bool {
        self.record.protocol == RequestProtocol::Grpc
    }

    /// The body whose bytes count.
    pub(crate) fn set_request(&mut self, request: Rc<RequestStream>) {
        self.request = Some(request);
    }

    /// The request id as forwarded.
    pub(crate) fn set_request_id(&mut self, headers: &HeaderMap) {
        self.record.request_id = headers
            .get(REQUEST_ID)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into());
    }

    /// REGISTRY_ONLY refused it.
    pub(crate) fn set_black_hole(&mut self) {
        self.record.service = Arc::clone(&BLACK_HOLE);
        self.record.route_name = Some(Arc::from("block_all"));
        self.record.upstream_cluster =
            Some(Arc::from(crate::snapshot::clusters::special::BLACK_HOLE));
    }

    /// More flags.
    pub(crate) fn add_flags(&mut self, flags: ResponseFlags) {
        self.record.flags = self.record.flags.with(flags);
    }

    /// The head of the answer is on its way.
    pub(crate) fn begin_answer(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.record.response_code = status.as_u16();
        self.record.grpc_status = grpc_status(headers);
        self.record.response_bytes = headers::wire_len(headers);
        self.has_answer_begun = true;
    }

    /// Body bytes to the client.
    pub(crate) fn count_sent(&mut self, data: &[u8]) {
        self.record.bytes_sent += data.len() as u64;
        if self.is_grpc() {
            self.messages.read(data);
        }
    }

    /// Trailers to the client.
    pub(crate) fn note_trailers(&mut self, trailers: &HeaderMap) {
        if let Some(status) = grpc_status(trailers) {
            self.record.grpc_status = Some(status);
        }
    }

    /// The answer ended, whole or broken off by us.
    pub(crate) fn close(&mut self) {
        if std::mem::replace(&mut self.is_closed, true) {
            return;
        }
        let record = &mut self.record;
        record.duration = self.started.elapsed();
        if let Some(request) = self.request.take() {
            record.bytes_received += request.received();
            record.request_messages = request.messages();
        }
        record.request_bytes += record.bytes_received;
        record.response_bytes += record.bytes_sent;
        record.response_messages = self.messages.count();
        self.recorder.0.request(record);
    }
}

/// What a record needs of a request's headers, found in one pass.
#[derive(Default)]
struct Noted<'a> {
    /// As [`headers::wire_len`].
    wire_len: u64,
    content_type: Option<&'a HeaderValue>,
    forwarded_for: Option<&'a HeaderValue>,
    user_agent: Option<&'a HeaderValue>,
}

impl<'a> Noted<'a> {
    fn of(headers: &'a HeaderMap) -> Self {
        let mut noted = Self::default();
        for (name, value) in headers {
            noted.wire_len += headers::line_len(name, value);
            // The first of several lines counts.
            match name.as_str().len() {
                10 if name == USER_AGENT => noted.user_agent.get_or_insert(value),
                12 if name == CONTENT_TYPE => noted.content_type.get_or_insert(value),
                15 if name == FORWARDED_FOR => noted.forwarded_for.get_or_insert(value),
                _ => continue,
            };
        }
        noted
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.is_closed {
            return;
        }
        self.add_flags(ResponseFlags::DC);
        self.record.details = Cow::Borrowed("downstream_remote_disconnect");
        if !self.has_answer_begun {
            self.record.response_code = 0;
        }
        self.close();
    }
}

/// The version as access logs print it.
pub(crate) fn protocol_name(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}
