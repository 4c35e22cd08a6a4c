//! A client's request body: streamed upstream, kept for retries up to 1 MiB, copied
//! to mirrors, and the clock that says when the request has ended.
//!
//! One [`RequestStream`] per request with a body; each attempt reads it through a
//! [`Reader`] of its own, and only the newest reader may take bytes from the client.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::grpc_messages::GrpcMessages;
use super::mirror_body::{MirrorQueue, MirrorReader};
use crate::proxy::http1;
pub(crate) use crate::proxy::http1::server::BodyFault;
use crate::proxy::policy::retry::BODY_MAX_BYTES;
use crate::proxy::upstream::BodyError;

/// Why a reader gives up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    /// The client's side failed.
    #[error("the client's request body broke off: {0}")]
    Client(String),
    /// A newer attempt has taken over.
    #[error("another attempt has taken over the request body")]
    Superseded,
}

/// The body of one request, whoever reads it.
#[derive(Debug)]
pub(crate) struct RequestStream {
    state: RefCell<State>,
    received: Cell<u64>,
    ended_at: Cell<Option<Instant>>,
    end: Notify,
    fault: Cell<Option<BodyFault>>,
}

/// A body as it comes from the client.
#[derive(Debug)]
pub(crate) enum ClientBody {
    /// On an HTTP/1.1 connection.
    Http1(http1::server::RequestBody),
    /// On an HTTP/2 stream.
    Http2(Incoming),
}

/// What a body gives: a frame, or how it failed and in which words.
type ClientFrame = Result<Frame<Bytes>, (BodyFault, String)>;

impl ClientBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<ClientFrame>> {
        match self {
            Self::Http1(body) => Pin::new(body)
                .poll_frame(cx)
                .map_err(|fault| (fault, fault.to_string())),
            Self::Http2(body) => Pin::new(body)
                .poll_frame(cx)
                .map_err(|error| (fault_of(&error), error.to_string())),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}

#[derive(Debug)]
struct State {
    incoming: ClientBody,
    length: Option<u64>,
    /// Chunks for a further attempt; those that no attempt needs any more are empty.
    kept: Vec<Bytes>,
    kept_bytes: usize,
    keeping: Keeping,
    /// Chunks of `kept` that the newest reader has passed.
    position: usize,
    reader: u32,
    trailers: Option<http::HeaderMap>,
    keeps_trailers: bool,
    mirrors: Vec<Rc<MirrorQueue>>,
    /// Of gRPC requests.
    messages: Option<GrpcMessages>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeping {
    /// Everything so far is kept.
    All,
    /// Not needed (any more).
    Nothing,
    /// More than a retry may keep.
    TooLarge,
}

impl RequestStream {
    /// `keeps`: attempts may follow the first. `keeps_trailers`: the client speaks
    /// HTTP/2; trailers of HTTP/1.1 are dropped. `is_grpc`: its messages are counted.
    pub(crate) fn new(
        incoming: ClientBody,
        keeps: bool,
        keeps_trailers: bool,
        is_grpc: bool,
    ) -> Rc<Self> {
        let too_large = incoming.size_hint().lower() > BODY_MAX_BYTES as u64;
        let keeping = match (keeps, too_large) {
            (false, _) => Keeping::Nothing,
            (true, true) => Keeping::TooLarge,
            (true, false) => Keeping::All,
        };
        Rc::new(Self {
            state: RefCell::new(State {
                length: incoming.size_hint().exact(),
                incoming,
                kept: Vec::new(),
                kept_bytes: 0,
                keeping,
                position: 0,
                reader: 0,
                trailers: None,
                keeps_trailers,
                mirrors: Vec::new(),
                messages: is_grpc.then(GrpcMessages::default),
            }),
            received: Cell::new(0),
            ended_at: Cell::new(None),
            end: Notify::new(),
            fault: Cell::new(None),
        })
    }

    /// Body bytes that came from the client.
    pub(crate) fn received(&self) -> u64 {
        self.received.get()
    }

    /// gRPC messages that came from the client.
    pub(crate) fn messages(&self) -> u64 {
        let state = self.state.borrow();
        state.messages.as_ref().map_or(0, GrpcMessages::count)
    }

    /// When the last byte came, if it did.
    pub(crate) fn ended_at(&self) -> Option<Instant> {
        self.ended_at.get()
    }

    /// Waits for the last byte.
    pub(crate) async fn ended(&self) -> Instant {
        loop {
            let notified = self.end.notified();
            if let Some(at) = self.ended_at.get() {
                return at;
            }
            notified.await;
        }
    }

    /// The body can be sent again from its first byte.
    pub(crate) fn is_replayable(&self) -> bool {
        self.state.borrow().keeping == Keeping::All
    }

    /// How the client's side failed, if it did.
    pub(crate) fn fault(&self) -> Option<BodyFault> {
        self.fault.get()
    }

    /// A reader from the first byte; earlier readers end with an error.
    pub(crate) fn reader(self: &Rc<Self>) -> Reader {
        let mut state = self.state.borrow_mut();
        state.reader += 1;
        state.position = 0;
        Reader {
            stream: Rc::clone(self),
            number: state.reader,
            has_sent_trailers: false,
        }
    }

    /// A copy for a mirror; only before the first byte was read.
    pub(crate) fn mirror(self: &Rc<Self>) -> MirrorReader {
        let queue = Rc::new(MirrorQueue::default());
        let mut state = self.state.borrow_mut();
        state.mirrors.push(Rc::clone(&queue));
        MirrorReader::new(queue, state.length)
    }

    /// No attempt will follow: what was read can go.
    pub(crate) fn stop_keeping(&self) {
        let mut state = self.state.borrow_mut();
        if state.keeping == Keeping::All {
            state.forget(Keeping::Nothing);
        }
    }

    fn set_ended(&self, state: &State) {
        if self.ended_at.get().is_some() {
            return;
        }
        self.ended_at.set(Some(Instant::now()));
        self.end.notify_waiters();
        for mirror in &state.mirrors {
            mirror.finish(state.trailers.clone());
        }
    }

    fn poll_reader(
        &self,
        reader: u32,
        has_sent_trailers: &mut bool,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let mut state = self.state.borrow_mut();
        if state.reader != reader {
            return Poll::Ready(Some(Err(StreamError::Superseded)));
        }
        if let Some(chunk) = state.next_kept() {
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        if self.ended_at.get().is_some() {
            if std::mem::replace(has_sent_trailers, true) {
                return Poll::Ready(None);
            }
            let trailers = state.trailers.clone();
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        match ready!(state.incoming.poll_frame(cx)) {
            None => {
                self.set_ended(&state);
                Poll::Ready(None)
            }
            Some(Err((fault, cause))) => {
                self.fault.set(Some(fault));
                for mirror in &state.mirrors {
                    mirror.fail();
                }
                Poll::Ready(Some(Err(StreamError::Client(cause))))
            }
            Some(Ok(frame)) => Poll::Ready(self.take_frame(&mut state, has_sent_trailers, frame)),
        }
    }

    fn take_frame(
        &self,
        state: &mut State,
        has_sent_trailers: &mut bool,
        frame: Frame<Bytes>,
    ) -> Option<Result<Frame<Bytes>, StreamError>> {
        match frame.into_data() {
            Ok(chunk) => {
                self.received.set(self.received.get() + chunk.len() as u64);
                if let Some(messages) = &mut state.messages {
                    messages.read(&chunk);
                }
                state.keep(&chunk);
                for mirror in &state.mirrors {
                    mirror.push(&chunk);
                }
                if state.incoming.is_end_stream() {
                    self.set_ended(state);
                }
                Some(Ok(Frame::data(chunk)))
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers()
                    && state.keeps_trailers
                {
                    state.trailers = Some(trailers);
                }
                self.set_ended(state);
                *has_sent_trailers = true;
                let trailers = state.trailers.clone();
                trailers.map(|trailers| Ok(Frame::trailers(trailers)))
            }
        }
    }

    fn is_end_stream(&self, reader: u32, has_sent_trailers: bool) -> bool {
        let state = self.state.borrow();
        self.ended_at.get().is_some()
            && state.reader == reader
            && state.position == state.kept.len()
            && (has_sent_trailers || state.trailers.is_none())
    }
}

/// hyper's HTTP/2 decoder reports bytes that they cannot read as invalid data or input.
fn fault_of(error: &hyper::Error) -> BodyFault {
    let mut next: Option<&(dyn Error + 'static)> = error.source();
    while let Some(source) = next {
        if let Some(error) = source.downcast_ref::<io::Error>()
            && matches!(
                error.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput
            )
        {
            return BodyFault::Malformed;
        }
        next = source.source();
    }
    BodyFault::Gone
}

impl State {
    fn next_kept(&mut self) -> Option<Bytes> {
        let keeping = self.keeping;
        let chunk = self.kept.get_mut(self.position)?;
        self.position += 1;
        if keeping == Keeping::All {
            return Some(chunk.clone());
        }
        Some(std::mem::take(chunk))
    }

    fn keep(&mut self, chunk: &Bytes) {
        if self.keeping != Keeping::All {
            return;
        }
        self.kept_bytes += chunk.len();
        if self.kept_bytes > BODY_MAX_BYTES {
            self.forget(Keeping::TooLarge);
            return;
        }
        self.kept.push(chunk.clone());
        self.position = self.kept.len();
    }

    fn forget(&mut self, keeping: Keeping) {
        self.keeping = keeping;
        for chunk in self.kept.iter_mut().take(self.position) {
            *chunk = Bytes::new();
        }
    }
}

/// The body as one attempt sends it.
#[derive(Debug)]
pub(crate) struct Reader {
    stream: Rc<RequestStream>,
    number: u32,
    has_sent_trailers: bool,
}

impl Body for Reader {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        this.stream
            .poll_reader(this.number, &mut this.has_sent_trailers, cx)
            .map(|frame| frame.map(|frame| frame.map_err(BodyError::from)))
    }

    fn is_end_stream(&self) -> bool {
        self.stream
            .is_end_stream(self.number, self.has_sent_trailers)
    }

    fn size_hint(&self) -> SizeHint {
        // Asked before the first byte only.
        match self.stream.state.borrow().length {
            Some(length) => SizeHint::with_exact(length),
            None => SizeHint::default(),
        }
    }
}
