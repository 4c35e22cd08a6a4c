//! Request bodies on their way up, response bodies on their way down.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::net::TcpStream;

use super::lease::LeaseGuard;
use crate::proxy::http1::client::Client;

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
#[derive(Debug)]
pub struct UpstreamBody {
    source: Source,
    guard: Option<LeaseGuard>,
}

#[derive(Debug)]
enum Source {
    /// `None`: the connection has gone back to its pool.
    Http1(Option<Box<Client>>),
    Http2(Incoming),
}

/// Why a response body breaks off.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamBodyError {
    /// On an HTTP/1.1 connection.
    #[error("{0}")]
    Http1(Box<str>),
    /// On an HTTP/2 stream.
    #[error(transparent)]
    Http2(#[from] hyper::Error),
}

impl UpstreamBody {
    pub(super) fn http2(body: Incoming, guard: LeaseGuard) -> Self {
        let mut this = Self {
            source: Source::Http2(body),
            guard: Some(guard),
        };
        if this.is_end_stream() {
            this.finish();
        }
        this
    }

    pub(super) fn http1(client: Box<Client>, is_upgraded: bool, guard: LeaseGuard) -> Self {
        let mut this = Self {
            source: Source::Http1(Some(client)),
            guard: Some(guard),
        };
        // A connection that becomes something else is not pooled.
        if this.is_end_stream() && !is_upgraded {
            this.finish();
        }
        this
    }

    /// The connection of an HTTP/1.1 exchange that ended with a `101`.
    #[must_use]
    pub fn into_upgraded(self) -> Option<Upgraded> {
        let (Source::Http1(Some(client)), Some(guard)) = (self.source, self.guard) else {
            return None;
        };
        let (stream, prefix) = client.into_upgraded();
        Some(Upgraded {
            stream,
            prefix,
            hold: UpgradedHold(guard),
        })
    }

    /// Moves the request on while nobody can take the response: an endpoint may send no
    /// more before it has read more.
    pub fn poll_upload(&mut self, cx: &mut Context<'_>) {
        if let Source::Http1(Some(client)) = &mut self.source {
            client.poll_upload(cx);
        }
    }

    fn finish(&mut self) {
        let Some(guard) = self.guard.take() else {
            return;
        };
        match &mut self.source {
            Source::Http1(client) => {
                if let Some(client) = client.take() {
                    guard.finish_http1(client);
                }
            }
            Source::Http2(_) => guard.finish(),
        }
    }

    fn poll_source(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamBodyError>>> {
        match &mut self.source {
            Source::Http1(None) => Poll::Ready(None),
            Source::Http1(Some(client)) => client.poll_data(cx).map(|data| {
                let data = data?;
                Some(match data {
                    Ok(data) => Ok(Frame::data(data)),
                    Err(error) => Err(UpstreamBodyError::Http1(error.to_string().into())),
                })
            }),
            Source::Http2(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(UpstreamBodyError::from))),
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = UpstreamBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamBodyError>>> {
        let this = self.get_mut();
        let polled = this.poll_source(cx);
        match &polled {
            Poll::Ready(None) => this.finish(),
            Poll::Ready(Some(Ok(_))) if this.is_end_stream() => this.finish(),
            Poll::Ready(Some(Err(_))) => {
                this.guard = None;
                if let Source::Http1(client) = &mut this.source {
                    *client = None;
                }
            }
            Poll::Ready(Some(Ok(_))) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Http1(client) => client.as_ref().is_none_or(|client| client.is_answered()),
            Source::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Http1(client) => {
                let left = client.as_ref().map_or(Some(0), |client| client.len_left());
                left.map_or_else(SizeHint::default, SizeHint::with_exact)
            }
            Source::Http2(body) => body.size_hint(),
        }
    }
}

/// A connection that speaks another protocol from now on.
#[derive(Debug)]
pub struct Upgraded {
    /// The connection.
    pub stream: TcpStream,
    /// What the endpoint has sent of that protocol already.
    pub prefix: Bytes,
    /// Keeps the place in the endpoint's limits until it is dropped.
    pub hold: UpgradedHold,
}

/// The place of an upgraded connection in its endpoint's limits.
#[derive(Debug)]
pub struct UpgradedHold(#[expect(dead_code, reason = "held for its drop")] LeaseGuard);
