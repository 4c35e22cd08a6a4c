//! Our side of an HTTP/1.1 connection, request by request: read a head, have it handled,
//! write the answer. Start at [`serve`].
//!
//! One task does all of it. A client that closes its sending side still gets its answer
//! (RFC 9112 section 9.6); since one that has gone looks the same, its end is believed after
//! [`HALF_CLOSE_GRACE`], or once the socket reports an error.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body::Body as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::request_body::ClientBody;
use super::response_body::{BrokenOff, ResponseBody};
use super::serve::{self, Connection};
use crate::proxy::http1::head::{Framing, RequestHead, recycle};
use crate::proxy::http1::server::{Received, ServerWire};
use crate::proxy::http1::write::{Outgoing, SentLength, write_informational, write_response};

/// A client that closed its sending side and has no answer yet is taken for gone
/// after this.
const HALF_CLOSE_GRACE: Duration = Duration::from_secs(5);
/// How often the socket of such a client is asked for an error.
const ERROR_CHECK_PERIOD: Duration = Duration::from_millis(250);
/// A connection without a request closes after this, or up to twice as late (Envoy's
/// `idle_timeout`).
const IDLE_MAX: Duration = Duration::from_secs(3600);
/// A connection that we close is read for so long, or its client might lose the answer to a
/// reset (RFC 9112 section 9.6; Envoy's `delayed_close_timeout`).
const LINGER_MAX: Duration = Duration::from_secs(1);
/// 1xx answers that wait for a client that reads nothing; further ones are dropped.
const EARLY_MAX_BYTES: usize = 64 * 1024;

/// What follows an answer.
enum After {
    /// The next request.
    Next,
    /// The end.
    Close,
    /// The end at once: the client has gone, or its answer broke off.
    Abort,
}

/// Serves `stream` until it ends. `peeked`: what was read from it already.
pub(super) async fn serve(connection: &Connection, stream: TcpStream, peeked: Bytes) {
    let wire = ServerWire::new(stream, peeked);
    let is_draining = connection.pod.draining.clone();
    let mut draining = connection.pod.draining.clone();
    let mut drained = pin!(serve::wait_for_drain(&mut draining));
    let mut idle = pin!(sleep(IDLE_MAX));
    let mut was_active = false;
    loop {
        let received = poll_fn(|cx| {
            if let Poll::Ready(received) = wire.poll_head(cx) {
                return Poll::Ready(received);
            }
            let is_over = (wire.is_between_requests() && drained.as_mut().poll(cx).is_ready())
                || poll_idle(idle.as_mut(), &mut was_active, cx).is_ready();
            if is_over {
                return Poll::Ready(Received::Ended);
            }
            Poll::Pending
        })
        .await;
        let after = match received {
            Received::Ended => return,
            Received::Refused(error) => {
                let response = serve::refuse_head(connection, error);
                let mut answer = Answer::new(response, &Method::GET, true);
                let written = poll_fn(|cx| answer.poll(&wire, cx)).await;
                after(written, false)
            }
            Received::Head(head, framing) => {
                serve_one(&wire, connection, head, framing, &is_draining).await
            }
        };
        was_active = true;
        if let Some(tunnel) = connection.take_tunnel()
            && let Some((client, rest)) = wire.close()
        {
            return tunnel.run(client, rest).await;
        }
        match after {
            After::Next => {}
            After::Close => return close(&wire).await,
            After::Abort => {
                // Whoever still holds a body of it has nothing to read any more.
                wire.close();
                return;
            }
        }
    }
}

/// Ready when the connection has been idle for too long: for a whole period of a timer that
/// is not set anew for each request.
fn poll_idle(mut idle: Pin<&mut Sleep>, was_active: &mut bool, cx: &mut Context<'_>) -> Poll<()> {
    loop {
        ready!(idle.as_mut().poll(cx));
        if !std::mem::take(was_active) {
            return Poll::Ready(());
        }
        idle.as_mut().reset(Instant::now() + IDLE_MAX);
    }
}

async fn serve_one(
    wire: &ServerWire,
    connection: &Connection,
    head: RequestHead,
    framing: Framing,
    is_draining: &watch::Receiver<bool>,
) -> After {
    let method = head.method.clone();
    let body = wire.body(framing.length).map(ClientBody::Http1);
    let mut watch = Watch::default();
    let mut early = Outgoing::default();
    let response = {
        let mut handling = pin!(serve::handle(connection, head, body));
        poll_fn(|cx| {
            let handled = handling.as_mut().poll(cx);
            add_early(connection, &mut early);
            if let Poll::Ready(response) = handled {
                return Poll::Ready(response.ok());
            }
            let is_broken = matches!(wire.poll_flush(&mut early, cx), Poll::Ready(Err(_)));
            if is_broken || watch.poll_gone(wire, true, cx).is_ready() {
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await
    };
    let Some(response) = response else {
        return After::Abort;
    };
    let closes = !framing.keeps_alive || *is_draining.borrow();
    let mut answer = Answer::behind(early, response, &method, closes);
    let written = poll_fn(|cx| {
        let polled = answer.poll(wire, cx);
        if polled.is_pending() && watch.poll_gone(wire, false, cx).is_ready() {
            return Poll::Ready(Written::Broken);
        }
        polled
    })
    .await;
    after(written, wire.is_request_whole())
}

fn after(written: Written, is_request_whole: bool) -> After {
    match written {
        Written::Broken => After::Abort,
        Written::Whole { closes: false } if is_request_whole => After::Next,
        Written::Whole { .. } => After::Close,
    }
}

/// Writes 1xx answers that have come for this client.
fn add_early(connection: &Connection, outgoing: &mut Outgoing) {
    connection.take_early(|status, headers| {
        if outgoing.len() < EARLY_MAX_BYTES {
            write_informational(outgoing.head(), status, headers);
        }
    });
}

/// Ends our sending side and waits for the client to do the same.
async fn close(wire: &ServerWire) {
    let Some((mut stream, _)) = wire.close() else {
        return;
    };
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut nowhere = tokio::io::sink();
    let rest = tokio::io::copy(&mut stream, &mut nowhere);
    // However it ends, the connection does too.
    let _ = tokio::time::timeout(LINGER_MAX, rest).await;
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    /// All of it is sent.
    Whole { closes: bool },
    /// The client has gone, or the answer itself broke off.
    Broken,
}

/// One answer on its way to the client.
struct Answer {
    outgoing: Outgoing,
    body: ResponseBody,
    length: SentLength,
    /// Bytes that `content-length` still promises.
    left: Option<u64>,
    closes: bool,
    has_ended: bool,
}

impl Answer {
    fn new(response: Response<ResponseBody>, method: &Method, closes: bool) -> Self {
        Self::behind(Outgoing::default(), response, method, closes)
    }

    /// The answer behind what waits already.
    fn behind(
        mut outgoing: Outgoing,
        response: Response<ResponseBody>,
        method: &Method,
        closes: bool,
    ) -> Self {
        let (head, body) = response.into_parts();
        let exact = body.size_hint().exact();
        let length = sent_length(method, head.status, exact);
        let closes = closes || says_close(&head.headers);
        let out = outgoing.head();
        write_response(out, head.status, &head.headers, length, closes);
        recycle(head.headers);
        Self {
            outgoing,
            body,
            length,
            left: exact,
            closes,
            has_ended: false,
        }
    }

    /// Writes as much as possible.
    fn poll(&mut self, wire: &ServerWire, cx: &mut Context<'_>) -> Poll<Written> {
        loop {
            let Ok(is_starved) = self.gather(cx) else {
                // What came before may tell the client why; then it sees the end.
                let _ = wire.poll_flush(&mut self.outgoing, cx);
                return Poll::Ready(Written::Broken);
            };
            match wire.poll_flush(&mut self.outgoing, cx) {
                Poll::Ready(Err(_)) => return Poll::Ready(Written::Broken),
                Poll::Ready(Ok(())) if self.has_ended => {
                    return Poll::Ready(Written::Whole {
                        closes: self.closes,
                    });
                }
                // The body was pending, and there was room: its waker is set.
                Poll::Ready(Ok(())) if is_starved => return Poll::Pending,
                Poll::Ready(Ok(())) => {}
                Poll::Pending => {
                    self.body.poll_upload(cx);
                    return Poll::Pending;
                }
            }
        }
    }

    /// Takes pieces of the body as long as they may wait. Returns whether it waits for the
    /// next one.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<bool, BrokenOff> {
        while !self.has_ended && self.outgoing.has_room() {
            match self.take(cx) {
                Poll::Pending => return Ok(true),
                Poll::Ready(taken) => taken?,
            }
        }
        Ok(false)
    }

    fn take(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BrokenOff>> {
        match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => {
                let has_body = matches!(self.length, SentLength::Exact(_) | SentLength::Chunked);
                if let Ok(data) = frame.into_data()
                    && has_body
                {
                    self.push(data)?;
                }
                Poll::Ready(Ok(()))
            }
            Some(Err(error)) => Poll::Ready(Err(error)),
            None => {
                self.has_ended = true;
                self.outgoing.push_end(self.length);
                let is_short = matches!(self.length, SentLength::Exact(_))
                    && self.left.is_some_and(|left| left > 0);
                Poll::Ready(if is_short {
                    Err(BrokenOff::Length)
                } else {
                    Ok(())
                })
            }
        }
    }

    fn push(&mut self, data: Bytes) -> Result<(), BrokenOff> {
        if let Some(left) = &mut self.left {
            *left = left
                .checked_sub(data.len() as u64)
                .ok_or(BrokenOff::Length)?;
        }
        self.outgoing.push(data, self.length);
        Ok(())
    }
}

/// How the length of an answer is told (RFC 9112 section 6.3).
fn sent_length(method: &Method, status: StatusCode, exact: Option<u64>) -> SentLength {
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        return SentLength::Bare;
    }
    if *method == Method::HEAD || status == StatusCode::NOT_MODIFIED {
        return SentLength::None;
    }
    exact.map_or(SentLength::Chunked, SentLength::Exact)
}

fn says_close(headers: &HeaderMap) -> bool {
    let value = headers.get(CONNECTION);
    value.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"))
}

/// Looks for the end of a client while its request is served.
#[derive(Default)]
struct Watch(Option<HalfClosed>);

/// The client has closed its sending side.
struct HalfClosed {
    at: Instant,
    next_check: Pin<Box<Sleep>>,
}

impl Watch {
    /// Ready when the client has gone.
    fn poll_gone(
        &mut self,
        wire: &ServerWire,
        is_awaiting: bool,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let half_closed = match &mut self.0 {
            Some(half_closed) => half_closed,
            None => {
                if ready!(wire.poll_end(cx)).is_err() {
                    return Poll::Ready(());
                }
                let at = Instant::now();
                self.0.insert(HalfClosed {
                    at,
                    next_check: Box::pin(sleep_until(at + ERROR_CHECK_PERIOD)),
                })
            }
        };
        loop {
            let is_over = is_awaiting && half_closed.at.elapsed() >= HALF_CLOSE_GRACE;
            if is_over || wire.take_error().is_some() {
                return Poll::Ready(());
            }
            ready!(half_closed.next_check.as_mut().poll(cx));
            let next = Instant::now() + ERROR_CHECK_PERIOD;
            half_closed.next_check.as_mut().reset(next);
        }
    }
}
