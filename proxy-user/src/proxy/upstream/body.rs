//! Request bodies on their way up, response bodies on their way down.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::lease::LeaseGuard;

/// What a request body may fail with.
pub type BodyError = Box<dyn Error + Send + Sync>;

/// A request body. One type for all pooled connections.
#[derive(Default)]
pub enum RequestBody {
    /// None.
    #[default]
    Empty,
    /// The client's, through the buffer for retries, or a copy of it.
    Stream(Pin<Box<dyn Body<Data = Bytes, Error = BodyError>>>),
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Stream(_) => "Stream",
        })
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Stream(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream(body) => body.size_hint(),
        }
    }
}

/// A response body that holds its connection and its place among the active
/// requests until it has ended or is dropped.
///
/// After a `101` keep this value for as long as the upgraded stream lives.
#[derive(Debug)]
pub struct UpstreamBody {
    body: Incoming,
    guard: Option<LeaseGuard>,
}

impl UpstreamBody {
    pub(super) fn new(body: Incoming, guard: LeaseGuard) -> Self {
        let mut this = Self {
            body,
            guard: Some(guard),
        };
        if this.body.is_end_stream() {
            this.finish();
        }
        this
    }

    /// A response whose connection becomes something else must not be pooled.
    pub(super) fn new_upgraded(body: Incoming, guard: LeaseGuard) -> Self {
        Self {
            body,
            guard: Some(guard),
        }
    }

    fn finish(&mut self) {
        if let Some(guard) = self.guard.take() {
            guard.finish();
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(None) => self.finish(),
            Poll::Ready(Some(Ok(_))) if self.body.is_end_stream() => self.finish(),
            Poll::Ready(Some(Err(_))) => self.guard = None,
            Poll::Ready(Some(Ok(_))) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
