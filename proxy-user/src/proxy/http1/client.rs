//! A connection to an endpoint: one round trip after the other.
//!
//! Whoever waits for the answer moves the bytes: there is no task beside it, and an
//! ordinary round trip is one write and one read. Start at [`Client::start`].

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};
use http_body::Body;
use tokio::net::TcpStream;

use super::body::{BodyLength, Decoder, Piece};
use super::head::{ResponseHead, take_response};
use super::wire::Wire;
use super::write::{Outgoing, SentLength, write_request};
use crate::proxy::upstream::{RequestBody, UpstreamRequest};

/// Why a round trip failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The endpoint closed or reset the connection.
    #[error("the connection ended: {0}")]
    Ended(io::Error),
    /// What came back is no HTTP, or is cut.
    #[error("{0}")]
    Protocol(&'static str),
    /// The request body failed: the client's fault.
    #[error("the request body failed")]
    RequestBody,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    wire: Wire,
    outgoing: Outgoing,
    upload: Upload,
    method: Method,
    decoder: Decoder,
    /// Bytes of the request reached the socket.
    has_sent: bool,
    /// The connection may serve another request.
    keeps_alive: bool,
}

/// The request body under way.
#[derive(Debug)]
enum Upload {
    /// `left`: bytes that its length still promises.
    Body {
        body: RequestBody,
        length: SentLength,
        left: Option<u64>,
    },
    Done,
    /// The endpoint takes no more; its answer may still come.
    Refused,
    /// The body itself failed.
    Failed,
}

impl Client {
    /// A connection that has just been made.
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self {
            wire: Wire {
                stream,
                pending: BytesMut::new(),
            },
            outgoing: Outgoing::default(),
            upload: Upload::Done,
            method: Method::GET,
            decoder: Decoder::new(BodyLength::Empty),
            has_sent: false,
            keeps_alive: true,
        }
    }

    /// Begins a round trip; nothing is sent before the first poll.
    pub(crate) fn start(&mut self, request: UpstreamRequest<'_>) {
        let head = (request.method, request.target, request.authority);
        let size = request.body.size_hint();
        let length = match (request.body.is_end_stream(), size.exact()) {
            (true, _) => SentLength::None,
            (false, Some(length)) => SentLength::Exact(length),
            (false, None) => SentLength::Chunked,
        };
        write_request(self.outgoing.head(), head, request.headers, length);
        self.upload = match length {
            SentLength::None | SentLength::Bare => Upload::Done,
            SentLength::Exact(_) | SentLength::Chunked => Upload::Body {
                body: request.body,
                length,
                left: size.exact(),
            },
        };
        self.method = request.method.clone();
        self.has_sent = false;
    }

    /// Bytes of the request may have reached the endpoint.
    pub(crate) fn has_sent(&self) -> bool {
        self.has_sent
    }

    /// Moves the request on as far as that is possible now.
    pub(crate) fn poll_upload(&mut self, cx: &mut Context<'_>) {
        loop {
            self.gather(cx);
            if self.outgoing.is_empty() {
                return;
            }
            let before = self.outgoing.len();
            let flushed = self.wire.poll_flush(&mut self.outgoing, cx);
            self.has_sent |= self.outgoing.len() < before;
            match flushed {
                Poll::Pending => return,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => {
                    self.outgoing.clear();
                    self.keeps_alive = false;
                    if !matches!(self.upload, Upload::Failed) {
                        self.upload = Upload::Refused;
                    }
                    return;
                }
            }
            if !matches!(self.upload, Upload::Body { .. }) {
                return;
            }
        }
    }

    /// Takes pieces of the body that are there.
    fn gather(&mut self, cx: &mut Context<'_>) {
        while let Upload::Body { body, length, left } = &mut self.upload {
            if !self.outgoing.has_room() {
                return;
            }
            let frame = match std::pin::Pin::new(body).poll_frame(cx) {
                Poll::Pending => return,
                Poll::Ready(frame) => frame,
            };
            match frame {
                // Trailers of HTTP/1.1 requests are dropped, as Istio's sidecars do.
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    if let Some(left) = left {
                        let Some(less) = left.checked_sub(data.len() as u64) else {
                            self.upload = Upload::Failed;
                            return;
                        };
                        *left = less;
                    }
                    self.outgoing.push(data, *length);
                    // The end is known with the last piece, so that one write sends both.
                    if *left == Some(0) {
                        self.upload = Upload::Done;
                    }
                }
                None if left.is_some_and(|left| left > 0) => self.upload = Upload::Failed,
                None => {
                    self.outgoing.push_end(*length);
                    self.upload = Upload::Done;
                }
                Some(Err(_)) => self.upload = Upload::Failed,
            }
        }
    }

    /// The head of the final answer. `informational`: takes 1xx answers before it.
    pub(crate) fn poll_head(
        &mut self,
        informational: &mut dyn FnMut(StatusCode, HeaderMap),
        cx: &mut Context<'_>,
    ) -> Poll<Result<ResponseHead, ClientError>> {
        self.poll_upload(cx);
        if matches!(self.upload, Upload::Failed) {
            return Poll::Ready(Err(ClientError::RequestBody));
        }
        loop {
            if !self.wire.pending.is_empty() {
                match take_response(&mut self.wire.pending, &self.method) {
                    Ok(Some(head)) => {
                        let is_early = head.status.is_informational()
                            && head.status != StatusCode::SWITCHING_PROTOCOLS;
                        if is_early {
                            informational(head.status, head.headers);
                            continue;
                        }
                        self.decoder = Decoder::new(head.framing.length);
                        self.keeps_alive &= head.framing.keeps_alive;
                        return Poll::Ready(Ok(head));
                    }
                    Ok(None) => {}
                    Err(_) => {
                        return Poll::Ready(Err(ClientError::Protocol("malformed response head")));
                    }
                }
            }
            match ready!(self.wire.poll_fill(cx)) {
                Ok(0) if self.wire.pending.is_empty() => {
                    let error = io::ErrorKind::UnexpectedEof.into();
                    return Poll::Ready(Err(ClientError::Ended(error)));
                }
                Ok(0) => return Poll::Ready(Err(ClientError::Protocol("response head cut short"))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(ClientError::Ended(error))),
            }
        }
    }

    /// The next piece of the answer's body.
    pub(crate) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, ClientError>>> {
        self.poll_upload(cx);
        if matches!(self.upload, Upload::Failed) {
            return Poll::Ready(Some(Err(ClientError::RequestBody)));
        }
        loop {
            let malformed = |_| ClientError::Protocol("malformed chunked response");
            match self
                .decoder
                .next(&mut self.wire.pending)
                .map_err(malformed)?
            {
                Piece::Data(data) => {
                    self.decoder
                        .settle(&mut self.wire.pending)
                        .map_err(malformed)?;
                    return Poll::Ready(Some(Ok(data)));
                }
                Piece::End => return Poll::Ready(None),
                Piece::NeedsMore => {}
            }
            match ready!(self.wire.poll_fill(cx)) {
                Ok(0) if self.decoder.ends_with_connection() => {
                    self.decoder = Decoder::new(BodyLength::Empty);
                    return Poll::Ready(None);
                }
                Ok(0) => {
                    return Poll::Ready(Some(Err(ClientError::Protocol("response cut short"))));
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(ClientError::Ended(error)))),
            }
        }
    }

    /// The answer is whole.
    pub(crate) fn is_answered(&self) -> bool {
        self.decoder.is_done()
    }

    /// Bytes of the answer's body that are still to come, if that is known.
    pub(crate) fn len_left(&self) -> Option<u64> {
        match self.decoder {
            Decoder::Exact(left) => Some(left),
            Decoder::Chunked(_) | Decoder::UntilClose => None,
        }
    }

    /// Both directions are finished and the next request may come: nothing is left over.
    /// Gives memory back.
    pub(crate) fn become_idle(&mut self) -> bool {
        let is_reusable = self.keeps_alive
            && self.is_answered()
            && matches!(self.upload, Upload::Done)
            && self.outgoing.is_empty()
            && self.wire.pending.is_empty();
        self.outgoing.clear();
        self.wire.release();
        is_reusable
    }

    /// While idle: pending as long as the endpoint is silent, which it must be.
    pub(crate) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.wire.stream.poll_read_ready(cx).is_ready() {
            if !self.is_silent() {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// While idle: nothing has come that the I/O driver knows of; asks the system only then.
    pub(crate) fn is_silent(&self) -> bool {
        let mut byte = [0];
        matches!(self.wire.stream.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// The same, but asks the system whatever the I/O driver knows.
    pub(crate) fn is_silent_now(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let peeked = socket2::SockRef::from(&self.wire.stream).peek(&mut byte);
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// After a `101`: the socket, and what was read of the other protocol.
    pub(crate) fn into_upgraded(self) -> (TcpStream, Bytes) {
        (self.wire.stream, self.wire.pending.freeze())
    }
}
