//! A connection's socket and what was read of it but not yet taken.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

use super::write::Outgoing;

/// One read at most.
const READ_MAX_BYTES: usize = 64 * 1024;
/// A read that fills this much keeps the buffer instead of being copied out of it.
const KEEP_BUFFER_BYTES: usize = 16 * 1024;

thread_local! {
    /// What the worker reads into; borrowed only within one poll, so that idle
    /// connections own no buffer.
    static SCRATCH: RefCell<BytesMut> = RefCell::new(BytesMut::with_capacity(READ_MAX_BYTES));
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Wire {
    /// Its socket.
    pub(crate) stream: TcpStream,
    /// Read, but not taken.
    pub(crate) pending: BytesMut,
}

impl Wire {
    /// Reads once; gives the number of bytes, zero at the end.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            if scratch.capacity() < READ_MAX_BYTES {
                scratch.reserve(READ_MAX_BYTES);
            }
            let len = ready!(pin!(self.stream.read_buf(scratch)).poll(cx))?;
            if !self.pending.is_empty() {
                self.pending.extend_from_slice(scratch);
            } else if len >= KEEP_BUFFER_BYTES {
                self.pending = scratch.split();
            } else {
                self.pending = BytesMut::from(&scratch[..]);
            }
            Poll::Ready(Ok(len))
        })
    }

    /// Sends what waits.
    pub(crate) fn poll_flush(
        &mut self,
        outgoing: &mut Outgoing,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !outgoing.is_empty() {
            let mut slices = [IoSlice::new(&[]); 3];
            let count = outgoing.slices(&mut slices);
            let stream = Pin::new(&mut self.stream);
            let len = ready!(match &slices[..count] {
                [one] => stream.poll_write(cx, one),
                several => stream.poll_write_vectored(cx, several),
            })?;
            if len == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            outgoing.advance(len);
        }
        Poll::Ready(Ok(()))
    }

    /// Gives back memory that nothing is in.
    pub(crate) fn release(&mut self) {
        if self.pending.is_empty() {
            self.pending = BytesMut::new();
        }
    }
}
