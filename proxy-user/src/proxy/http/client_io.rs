//! The client's socket as hyper sees it: bytes that were peeked come first, and a
//! client that only closed its sending side still gets its answer.
//!
//! hyper drops a request whose client half-closes, and with its `half_close` option
//! no longer notices that a client is gone. Both look the same on the wire, so the
//! end of the stream is held back: for [`HALF_CLOSE_GRACE`] from the head of a request
//! to that of its answer, and while an answer is being written until the socket reports
//! an error (RFC 9112 section 9.6).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// A client that closed its sending side and has no answer yet is taken for gone
/// after this.
pub(crate) const HALF_CLOSE_GRACE: Duration = Duration::from_secs(5);

/// How often a held-back socket is asked for an error.
const ERROR_CHECK_PERIOD: Duration = Duration::from_millis(250);

const IDLE: u8 = 0;
const AWAITING: u8 = 1;
const RESPONDING: u8 = 2;

/// Where the current request of a connection stands.
#[derive(Debug, Default)]
pub(crate) struct ClientState(AtomicU8);

impl ClientState {
    /// The head of a request is complete, its answer has not begun. hyper may have the
    /// whole body before anybody asks for it, so the end of the body tells nothing.
    pub(crate) fn set_awaiting(&self) {
        self.0.store(AWAITING, Ordering::Relaxed);
    }

    /// The answer has begun.
    pub(crate) fn set_responding(&self) {
        self.0.store(RESPONDING, Ordering::Relaxed);
    }

    /// No request is under way.
    pub(crate) fn set_idle(&self) {
        self.0.store(IDLE, Ordering::Relaxed);
    }
}

/// The client's side of a connection.
#[derive(Debug)]
pub(crate) struct ClientIo {
    stream: TcpStream,
    peeked: Bytes,
    state: Arc<ClientState>,
    ended: Option<Ended>,
    /// Bytes of an answer wait for the client to read.
    is_write_blocked: bool,
}

/// The client has closed its sending side.
#[derive(Debug)]
struct Ended {
    at: Instant,
    next_check: Pin<Box<Sleep>>,
}

impl ClientIo {
    /// `peeked`: what was read from `stream` already.
    pub(crate) fn new(stream: TcpStream, peeked: Bytes, state: Arc<ClientState>) -> Self {
        Self {
            stream,
            peeked,
            state,
            ended: None,
            is_write_blocked: false,
        }
    }

    /// Ready when the end of the stream may be told.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = self.ended.get_or_insert_with(|| Ended {
            at: Instant::now(),
            next_check: Box::pin(sleep(ERROR_CHECK_PERIOD)),
        });
        loop {
            let state = self.state.0.load(Ordering::Relaxed);
            let is_over = state == IDLE && !self.is_write_blocked;
            if is_over || (state == AWAITING && ended.at.elapsed() >= HALF_CLOSE_GRACE) {
                return Poll::Ready(Ok(()));
            }
            ready!(ended.next_check.as_mut().poll(cx));
            if let Some(error) = self.stream.take_error()? {
                return Poll::Ready(Err(error));
            }
            ended
                .next_check
                .as_mut()
                .reset(Instant::now() + ERROR_CHECK_PERIOD);
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.peeked.is_empty() {
            let len = this.peeked.len().min(buffer.remaining());
            buffer.put_slice(&this.peeked[..len]);
            this.peeked.advance(len);
            return Poll::Ready(Ok(()));
        }
        if this.ended.is_some() {
            return this.poll_end(cx);
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() == before && buffer.remaining() > 0 {
            return this.poll_end(cx);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buffer);
        self.is_write_blocked = written.is_pending();
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, buffers);
        self.is_write_blocked = written.is_pending();
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
