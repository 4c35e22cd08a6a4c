//! An answer on its way to the client: from an upstream or our own, with the record
//! that closes at its end and the timeout that may cut it.

use std::borrow::Cow;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::exchange::Exchange;
use crate::proxy::upstream::{UpstreamBody, UpstreamBodyError};
use crate::telemetry::ResponseFlags;

/// Fires when the route timeout is over.
pub(crate) type Deadline = Pin<Box<dyn Future<Output = ()>>>;

/// The body of one answer.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    source: Source,
    /// Taken when the record closes.
    exchange: Option<Box<Exchange>>,
    deadline: Option<NoDebug<Deadline>>,
    keeps_trailers: bool,
}

struct NoDebug<T>(T);

impl<T> std::fmt::Debug for NoDebug<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("..")
    }
}

#[derive(Debug)]
enum Source {
    Empty,
    Full(Bytes),
    Upstream(UpstreamBody),
}

/// Why an answer breaks off; the connection or stream ends with it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokenOff {
    /// The upstream's response did.
    #[error("the upstream's response broke off: {0}")]
    Upstream(#[from] UpstreamBodyError),
    /// It is not as long as its head says.
    #[error("the response is not as long as its head says")]
    Length,
    /// The route timeout.
    #[error("the route timeout ended the response")]
    Timeout,
}

impl ResponseBody {
    /// An answer of our own.
    pub(crate) fn full(data: Bytes, exchange: Box<Exchange>) -> Self {
        let source = if data.is_empty() {
            Source::Empty
        } else {
            Source::Full(data)
        };
        Self::new(source, exchange, None, false)
    }

    /// An upstream's response.
    pub(crate) fn upstream(
        body: UpstreamBody,
        exchange: Box<Exchange>,
        deadline: Option<Deadline>,
        keeps_trailers: bool,
    ) -> Self {
        Self::new(Source::Upstream(body), exchange, deadline, keeps_trailers)
    }

    /// No body and no record: a `101`, whose tunnel keeps the record, or an answer that
    /// no client waits for.
    pub(crate) fn detached() -> Self {
        Self {
            source: Source::Empty,
            exchange: None,
            deadline: None,
            keeps_trailers: false,
        }
    }

    /// Moves the request on while the client takes no more of the response.
    pub(crate) fn poll_upload(&mut self, cx: &mut Context<'_>) {
        if let Source::Upstream(body) = &mut self.source {
            body.poll_upload(cx);
        }
    }

    fn new(
        source: Source,
        exchange: Box<Exchange>,
        deadline: Option<Deadline>,
        keeps_trailers: bool,
    ) -> Self {
        let mut this = Self {
            source,
            exchange: Some(exchange),
            deadline: deadline.map(NoDebug),
            keeps_trailers,
        };
        // Nobody polls a body that has ended already.
        if this.is_end_stream() {
            this.close();
        }
        this
    }

    fn close(&mut self) {
        self.deadline = None;
        if let Some(mut exchange) = self.exchange.take() {
            exchange.close();
        }
    }

    /// Closes the record of an answer that breaks off after its head.
    fn break_off(&mut self, flags: ResponseFlags, details: &'static str) {
        if let Some(exchange) = &mut self.exchange {
            exchange.add_flags(flags);
            exchange.record.details = Cow::Borrowed(details);
        }
        self.close();
        self.source = Source::Empty;
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> bool {
        self.deadline
            .as_mut()
            .is_some_and(|deadline| deadline.0.as_mut().poll(cx).is_ready())
    }

    fn count(&mut self, frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        let Some(exchange) = &mut self.exchange else {
            return Some(frame);
        };
        if let Some(data) = frame.data_ref() {
            exchange.count_sent(data);
            return Some(frame);
        }
        if let Some(trailers) = frame.trailers_ref() {
            exchange.note_trailers(trailers);
        }
        self.keeps_trailers.then_some(frame)
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let this = self.get_mut();
        let polled = match &mut this.source {
            Source::Empty => Poll::Ready(None),
            Source::Full(data) => {
                let data = std::mem::take(data);
                this.source = Source::Empty;
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Source::Upstream(body) => Pin::new(body).poll_frame(cx),
        };
        match polled {
            Poll::Ready(None) => {
                this.close();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(frame))) => {
                let frame = this.count(frame);
                if this.is_end_stream() {
                    this.close();
                }
                Poll::Ready(frame.map(Ok))
            }
            Poll::Ready(Some(Err(error))) => {
                this.break_off(
                    ResponseFlags::UPE,
                    "upstream_reset_after_response_started{protocol_error}",
                );
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Pending if this.poll_deadline(cx) => {
                this.break_off(ResponseFlags::UT, "response_timeout");
                Poll::Ready(Some(Err(BrokenOff::Timeout)))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Empty => true,
            Source::Full(data) => data.is_empty(),
            Source::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Full(data) => SizeHint::with_exact(data.len() as u64),
            Source::Upstream(body) => body.size_hint(),
        }
    }
}
