//! A client's connection as its server loop and its request body share it.
//!
//! Whoever reads the body reads the socket, perhaps from another task (HTTP/2 upstreams);
//! between bodies only the server loop does.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use tokio::net::TcpStream;

use super::body::{BodyLength, Decoder, Malformed, Piece};
use super::head::{Framing, HeadError, RequestHead, take_request};
use super::wire::Wire;
use super::write::Outgoing;

/// Bytes of further requests that are read while one is served. Beyond, the client waits.
const READ_AHEAD_MAX_BYTES: usize = 64 * 1024;

/// Why a request body ends early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyFault {
    /// Its bytes are no HTTP.
    #[error("malformed request body")]
    Malformed,
    /// The client went away.
    #[error("the client went away")]
    Gone,
}

impl From<Malformed> for BodyFault {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// What the server loop finds on a connection.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are heads, and one that waits stands nowhere"
)]
pub(crate) enum Received {
    /// A request.
    Head(RequestHead, Framing),
    /// No request.
    Refused(HeadError),
    /// The client has finished or gone.
    Ended,
}

/// One client connection.
#[derive(Debug, Clone)]
pub(crate) struct ServerWire(Rc<RefCell<State>>);

#[derive(Debug)]
struct State {
    /// Taken when the connection closes, whoever still holds a body.
    wire: Option<Wire>,
    /// The client has closed its sending side.
    has_ended: bool,
    /// Of the request under way.
    decoder: Decoder,
    fault: Option<BodyFault>,
    /// The server loop, which wants to know when the body has been read.
    owner: Option<Waker>,
}

impl State {
    fn is_body_done(&self) -> bool {
        self.decoder.is_done() || self.fault.is_some()
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyFault>>> {
        if let Some(fault) = self.fault {
            return Poll::Ready(Some(Err(fault)));
        }
        loop {
            let Some(wire) = &mut self.wire else {
                return Poll::Ready(Some(Err(BodyFault::Gone)));
            };
            match self.decoder.next(&mut wire.pending)? {
                Piece::Data(data) => {
                    self.decoder.settle(&mut wire.pending)?;
                    return Poll::Ready(Some(Ok(data)));
                }
                Piece::End => return Poll::Ready(None),
                Piece::NeedsMore if self.has_ended => {
                    return Poll::Ready(Some(Err(BodyFault::Gone)));
                }
                Piece::NeedsMore => match ready!(wire.poll_fill(cx)) {
                    Ok(0) => self.has_ended = true,
                    Ok(_) => {}
                    Err(_) => return Poll::Ready(Some(Err(BodyFault::Gone))),
                },
            }
        }
    }
}

impl ServerWire {
    /// `peeked`: what was read from `stream` already.
    pub(crate) fn new(stream: TcpStream, peeked: Bytes) -> Self {
        let pending = peeked
            .try_into_mut()
            .unwrap_or_else(|peeked| BytesMut::from(&peeked[..]));
        Self(Rc::new(RefCell::new(State {
            wire: Some(Wire { stream, pending }),
            has_ended: false,
            decoder: Decoder::new(BodyLength::Empty),
            fault: None,
            owner: None,
        })))
    }

    /// The next request's head.
    pub(crate) fn poll_head(&self, cx: &mut Context<'_>) -> Poll<Received> {
        let mut state = self.0.borrow_mut();
        let state = &mut *state;
        let Some(wire) = &mut state.wire else {
            return Poll::Ready(Received::Ended);
        };
        loop {
            if !wire.pending.is_empty() {
                match take_request(&mut wire.pending) {
                    Ok(Some((head, framing))) => {
                        state.decoder = Decoder::new(framing.length);
                        wire.release();
                        return Poll::Ready(Received::Head(head, framing));
                    }
                    Ok(None) => {}
                    Err(error) => return Poll::Ready(Received::Refused(error)),
                }
            }
            if state.has_ended {
                return Poll::Ready(Received::Ended);
            }
            wire.release();
            match ready!(wire.poll_fill(cx)) {
                Ok(0) => state.has_ended = true,
                Ok(_) => {}
                Err(_) => return Poll::Ready(Received::Ended),
            }
        }
    }

    /// Nothing of a next request has come.
    pub(crate) fn is_between_requests(&self) -> bool {
        let state = self.0.borrow();
        state
            .wire
            .as_ref()
            .is_none_or(|wire| wire.pending.is_empty())
    }

    /// The request under way has been read to its end.
    pub(crate) fn is_request_whole(&self) -> bool {
        self.0.borrow().decoder.is_done()
    }

    /// The body of the request under way; `None` if it has none.
    pub(crate) fn body(&self, length: BodyLength) -> Option<RequestBody> {
        (length != BodyLength::Empty).then(|| RequestBody {
            wire: self.clone(),
            length,
        })
    }

    /// Reads ahead while a request is served: ready when the client has closed its sending
    /// side or its connection has failed. Reads nothing while a body is being read.
    pub(crate) fn poll_end(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.borrow_mut();
        let state = &mut *state;
        if !state.is_body_done() {
            match &mut state.owner {
                Some(owner) => owner.clone_from(cx.waker()),
                None => state.owner = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        let Some(wire) = &mut state.wire else {
            return Poll::Ready(Ok(()));
        };
        while !state.has_ended {
            if wire.pending.len() >= READ_AHEAD_MAX_BYTES {
                return Poll::Pending;
            }
            state.has_ended = ready!(wire.poll_fill(cx))? == 0;
        }
        Poll::Ready(Ok(()))
    }

    /// An error of the connection that nobody has read yet.
    pub(crate) fn take_error(&self) -> Option<io::Error> {
        let state = self.0.borrow();
        match state.wire.as_ref()?.stream.take_error() {
            Ok(error) => error,
            Err(error) => Some(error),
        }
    }

    /// Sends what waits.
    pub(crate) fn poll_flush(
        &self,
        outgoing: &mut Outgoing,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.0.borrow_mut().wire {
            Some(wire) => wire.poll_flush(outgoing, cx),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Ends the connection for everybody: the socket, and what was read ahead.
    pub(crate) fn close(&self) -> Option<(TcpStream, Bytes)> {
        let wire = self.0.borrow_mut().wire.take()?;
        Some((wire.stream, wire.pending.freeze()))
    }
}

/// The body of one request.
#[derive(Debug)]
pub(crate) struct RequestBody {
    wire: ServerWire,
    length: BodyLength,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let mut state = self.wire.0.borrow_mut();
        let polled = ready!(state.poll_body(cx));
        if let Some(Err(fault)) = &polled {
            state.fault = Some(*fault);
        }
        if state.is_body_done()
            && let Some(owner) = state.owner.take()
            && !owner.will_wake(cx.waker())
        {
            owner.wake();
        }
        Poll::Ready(polled.map(|data| data.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.wire.0.borrow().decoder.is_done()
    }

    fn size_hint(&self) -> SizeHint {
        match self.length {
            BodyLength::Exact(length) => SizeHint::with_exact(length),
            BodyLength::Empty => SizeHint::with_exact(0),
            BodyLength::Chunked | BodyLength::UntilClose => SizeHint::default(),
        }
    }
}
