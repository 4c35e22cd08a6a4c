//! Client connections behind one face: our own HTTP/1.1, and hyper's HTTP/2.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::body::RequestBody;
use super::error::{Kind, Side, TrafficError};
use super::peer_settings::{SettingsReader, StreamsMax};
use super::pool::WireProtocol;
use crate::proxy::http1::client::{Client, ClientError};
use crate::snapshot::policy::ConnectionPool;

/// Runs an HTTP/2 connection's I/O; ends with the connection.
pub(super) type Driver = Pin<Box<dyn Future<Output = ()>>>;

/// Facts of an established connection.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) peer: SocketAddr,
    pub(super) local: Option<SocketAddr>,
    seen: Arc<Seen>,
}

/// What was seen of the bytes that the peer sent.
#[derive(Debug, Default)]
struct Seen {
    read_len_bytes: AtomicU64,
    streams_max: StreamsMax,
}

/// The sending end of a connection.
pub(super) enum Sender {
    /// `None` while a round trip has it.
    Http1(Option<Box<Client>>),
    Http2(http2::SendRequest<RequestBody>),
}

/// Response headers beyond this many bytes are refused (Envoy's default).
const RESPONSE_HEAD_MAX_BYTES: u32 = 60 * 1024;

/// HTTP/2 flow control: what one slow reader may pile up here, per stream and connection.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// Speaks `protocol` on a fresh connection. HTTP/1.1 needs no driver.
pub(super) async fn handshake(
    stream: TcpStream,
    protocol: WireProtocol,
    policy: &ConnectionPool,
) -> Result<(Sender, Option<Driver>, Connected), TrafficError> {
    let peer = stream
        .peer_addr()
        .map_err(|error| TrafficError::upstream(Kind::ConnectFailed, None).because(error))?;
    let seen = Arc::<Seen>::default();
    let facts = Connected {
        peer,
        local: stream.local_addr().ok(),
        seen: Arc::clone(&seen),
    };
    match protocol {
        WireProtocol::Http1 => {
            let client = Box::new(Client::new(stream));
            Ok((Sender::Http1(Some(client)), None, facts))
        }
        WireProtocol::Http2 => {
            let stream = WatchedStream {
                stream,
                seen,
                settings: SettingsReader::default(),
            };
            let (sender, driver) = handshake_http2(stream, policy)
                .await
                .map_err(|error| classify(&error, &facts, u64::MAX).with_upstream(peer))?;
            Ok((Sender::Http2(sender), Some(driver), facts))
        }
    }
}

async fn handshake_http2(
    stream: WatchedStream,
    policy: &ConnectionPool,
) -> Result<(http2::SendRequest<RequestBody>, Driver), hyper::Error> {
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(RESPONSE_HEAD_MAX_BYTES);
    if let Some((interval, timeout)) = policy.http2_keepalive {
        builder
            .keep_alive_interval(interval)
            .keep_alive_timeout(timeout)
            .keep_alive_while_idle(true);
    }
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    let driver: Driver = Box::pin(async move {
        // How it ended is told to the requests that were on it.
        let _ = connection.await;
    });
    Ok((sender, driver))
}

impl Sender {
    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::Http1(client) => client.as_ref().is_none_or(|client| !client.is_silent()),
            Self::Http2(sender) => sender.is_closed(),
        }
    }

    /// Another handle of a multiplexed connection; an HTTP/1.1 connection is never shared.
    pub(super) fn share(&self) -> Self {
        match self {
            Self::Http2(sender) => Self::Http2(sender.clone()),
            Self::Http1(_) => Self::Http1(None),
        }
    }

    /// Sends one request over HTTP/2. An error brings the request back if nothing of it
    /// was sent; no error and no response: this is no HTTP/2 connection.
    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Option<Response<Incoming>>, (hyper::Error, Option<Request<RequestBody>>)> {
        let Self::Http2(sender) = self else {
            return Ok(None);
        };
        let sent = sender.try_send_request(request).await;
        sent.map(Some).map_err(|mut error| {
            let request = error.take_message();
            (error.into_error(), request)
        })
    }
}

impl Connected {
    pub(super) fn read_len_bytes(&self) -> u64 {
        self.seen.read_len_bytes.load(Ordering::Relaxed)
    }

    /// Streams that an HTTP/2 server allows, once it has said so.
    pub(super) fn streams_max(&self) -> Option<u32> {
        self.seen.streams_max.get()
    }
}

impl TrafficError {
    fn with_upstream(mut self, upstream: SocketAddr) -> Self {
        self.upstream = Some(upstream);
        self
    }
}

/// What a failed round trip over HTTP/1.1 means.
pub(super) fn classify_http1(
    error: &ClientError,
    client: &Client,
    peer: SocketAddr,
) -> TrafficError {
    let (side, kind) = match error {
        ClientError::Ended(_) => (Side::Upstream, Kind::ConnectionTermination),
        ClientError::Protocol(_) => (Side::Upstream, Kind::ProtocolError),
        ClientError::RequestBody => (Side::Downstream, Kind::RequestBody),
    };
    TrafficError {
        side,
        kind,
        upstream: Some(peer),
        cause: Some(error.to_string().into_boxed_str()),
        is_request_sent: client.has_sent(),
    }
}

/// What hyper's error means. `read_before`: bytes that had been read from the peer
/// when the request was sent; more since then means a head that was cut.
pub(super) fn classify(error: &hyper::Error, facts: &Connected, read_before: u64) -> TrafficError {
    let has_answer_begun = facts.read_len_bytes() > read_before;
    let kind = match source_of::<h2::Error>(error) {
        Some(error) => kind_of_h2(error),
        None if error.is_user() || error.is_body_write_aborted() => Kind::RequestBody,
        None if error.is_parse() => Kind::ProtocolError,
        None if error.is_incomplete_message() && has_answer_begun => Kind::ProtocolError,
        None => Kind::ConnectionTermination,
    };
    let side = match kind {
        Kind::RequestBody => Side::Downstream,
        Kind::NoHealthyUpstream
        | Kind::DnsFailed
        | Kind::Overflow
        | Kind::ConnectFailed
        | Kind::ConnectTimeout
        | Kind::Forbidden
        | Kind::ConnectionTermination
        | Kind::RemoteReset
        | Kind::RefusedStream
        | Kind::ProtocolError => Side::Upstream,
    };
    let cause = match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    TrafficError {
        side,
        kind,
        upstream: Some(facts.peer),
        cause: Some(cause.into_boxed_str()),
        is_request_sent: true,
    }
}

fn kind_of_h2(error: &h2::Error) -> Kind {
    if error.is_io() {
        return Kind::ConnectionTermination;
    }
    match error.reason() {
        Some(h2::Reason::REFUSED_STREAM) => Kind::RefusedStream,
        Some(h2::Reason::PROTOCOL_ERROR) if !error.is_remote() => Kind::ProtocolError,
        Some(_) if error.is_go_away() && error.is_remote() => Kind::ConnectionTermination,
        Some(_) => Kind::RemoteReset,
        None => Kind::ConnectionTermination,
    }
}

fn source_of<E: Error + 'static>(error: &hyper::Error) -> Option<&E> {
    let mut next = error.source();
    while let Some(source) = next {
        if let Some(found) = source.downcast_ref::<E>() {
            return Some(found);
        }
        next = source.source();
    }
    None
}

/// Spawns HTTP/2's helper tasks beside the worker's own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            let _ = future.await;
        });
    }
}

/// A stream that takes note of what was read.
struct WatchedStream {
    stream: TcpStream,
    seen: Arc<Seen>,
    settings: SettingsReader,
}

impl AsyncRead for WatchedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let this = &mut *self;
        let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
        let read = buf.filled().get(before..).unwrap_or_default();
        let count = &this.seen.read_len_bytes;
        // One task writes it, so that no locked instruction is needed.
        count.store(
            count.load(Ordering::Relaxed) + read.len() as u64,
            Ordering::Relaxed,
        );
        this.settings.read(read, &this.seen.streams_max);
        polled
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
