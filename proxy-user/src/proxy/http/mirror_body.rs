//! A request body on its way to one mirror: fed by the main request, read at the
//! mirror's own pace, lost when it lags too far.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::proxy::upstream::BodyError;

/// A mirror that lags this far behind the main request loses its copy: the main
/// request never waits for it, and memory is not endless.
const MIRROR_LAG_MAX_BYTES: usize = 16 * 1024 * 1024;

/// Why a copy ends early.
#[derive(Debug, thiserror::Error)]
#[error("the body broke off, or the mirror is more than {MIRROR_LAG_MAX_BYTES} bytes behind")]
struct MirrorLag;

/// Chunks on their way to one mirror.
#[derive(Debug, Default)]
pub(super) struct MirrorQueue {
    inner: RefCell<MirrorChunks>,
}

#[derive(Debug, Default)]
struct MirrorChunks {
    chunks: VecDeque<Bytes>,
    bytes: usize,
    trailers: Option<http::HeaderMap>,
    has_ended: bool,
    has_failed: bool,
    waker: Option<Waker>,
}

impl MirrorQueue {
    fn update(&self, change: impl FnOnce(&mut MirrorChunks)) {
        let mut inner = self.inner.borrow_mut();
        change(&mut inner);
        if let Some(waker) = inner.waker.take() {
            waker.wake();
        }
    }

    pub(super) fn push(self: &Rc<Self>, chunk: &Bytes) {
        if Rc::strong_count(self) == 1 {
            return; // the mirror is gone
        }
        self.update(|inner| {
            inner.bytes += chunk.len();
            if inner.bytes > MIRROR_LAG_MAX_BYTES {
                inner.has_failed = true;
                inner.chunks.clear();
            } else if !inner.has_failed {
                inner.chunks.push_back(chunk.clone());
            }
        });
    }

    pub(super) fn finish(&self, trailers: Option<http::HeaderMap>) {
        self.update(|inner| {
            inner.has_ended = true;
            inner.trailers = trailers;
        });
    }

    pub(super) fn fail(&self) {
        self.update(|inner| inner.has_failed = true);
    }
}

/// The body as a mirror sends it.
#[derive(Debug)]
pub(crate) struct MirrorReader {
    queue: Rc<MirrorQueue>,
    length: Option<u64>,
}

impl MirrorReader {
    /// `length`: of the whole body, if it is known.
    pub(super) fn new(queue: Rc<MirrorQueue>, length: Option<u64>) -> Self {
        Self { queue, length }
    }
}

impl Drop for MirrorReader {
    fn drop(&mut self) {
        self.queue.inner.borrow_mut().chunks.clear();
    }
}

impl Body for MirrorReader {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut inner = self.queue.inner.borrow_mut();
        if inner.has_failed {
            return Poll::Ready(Some(Err(MirrorLag.into())));
        }
        if let Some(chunk) = inner.chunks.pop_front() {
            inner.bytes -= chunk.len();
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        if inner.has_ended {
            let trailers = inner.trailers.take();
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        inner.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn size_hint(&self) -> SizeHint {
        self.length
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
