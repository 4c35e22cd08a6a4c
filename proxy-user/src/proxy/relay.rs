//! Copies bytes between two connections, with back-pressure, half-close and reset.
//!
//! Nothing is allocated while both sides keep up: bytes go through one buffer of the
//! worker, and only what the receiver did not take is kept per connection.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::{Instant, Sleep};

use super::upstream::reset_on_close;
use crate::net::socket::unacknowledged_len_bytes;

/// One read at most; also what one direction may hold for a slow receiver.
const BUFFER_BYTES: usize = 64 * 1024;
/// Reads of one direction before the others of the worker get their turn.
const READS_PER_TURN: usize = 16;
/// Between two reports of bytes moved (Istio reports TCP metrics as often).
const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// A reset waits this long for a receiver that does not take the bytes before it.
const RESET_WAIT_MAX: Duration = Duration::from_secs(5);

thread_local! {
    /// The worker's copy buffer; borrowed only within one poll.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER_BYTES].into_boxed_slice());
}

/// When a relay ends by itself.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RelayLimits {
    /// Without bytes for this long.
    pub(super) idle: Option<Duration>,
    /// At this moment, whatever moves.
    pub(super) expires: Option<Instant>,
}

/// How a relay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RelayEnd {
    /// Both sides finished.
    Finished,
    /// The client reset its connection.
    ClientReset,
    /// The endpoint reset its connection.
    UpstreamReset,
    /// Idle for too long.
    Idle,
    /// Open for too long.
    Expired,
}

/// Bytes moved so far: from the client, to the client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) received: u64,
    pub(super) sent: u64,
}

/// Who wants to know while bytes move.
pub(super) trait Observer {
    /// At most every 5 s, while bytes move.
    fn progress(&mut self, moved: Moved);
    /// The endpoint sent bytes before the client did.
    fn server_spoke_first(&mut self);
}

/// Relays until both sides have finished or something ends it. `prefix`: bytes of the
/// client that were read before. A reset is carried to the other side, after the
/// bytes that came before it.
pub(super) async fn relay(
    client: &mut TcpStream,
    upstream: &mut TcpStream,
    prefix: Bytes,
    limits: RelayLimits,
    observer: &mut impl Observer,
) -> (RelayEnd, Moved) {
    let mut session = Session {
        up: Direction::new(prefix),
        down: Direction::new(Bytes::new()),
        reported: Moved::default(),
        last_active: Instant::now(),
        report_at: None,
        has_server_spoken: false,
        limits,
    };
    let end = {
        let (mut client_read, mut client_write) = client.split();
        let (mut upstream_read, mut upstream_write) = upstream.split();
        let mut timer = std::pin::pin!(tokio::time::sleep_until(session.wake_at()));
        poll_fn(|cx| {
            session.poll(
                cx,
                (&mut client_read, &mut client_write),
                (&mut upstream_read, &mut upstream_write),
                timer.as_mut(),
                observer,
            )
        })
        .await
    };
    match end {
        RelayEnd::ClientReset => reset_after_data(upstream).await,
        RelayEnd::UpstreamReset => reset_after_data(client).await,
        RelayEnd::Finished | RelayEnd::Idle | RelayEnd::Expired => {}
    }
    (end, session.moved())
}

/// Waits until what was written has arrived, then makes the close a reset: a reset
/// would throw away what still waits to be sent.
async fn reset_after_data(stream: &TcpStream) {
    let deadline = Instant::now() + RESET_WAIT_MAX;
    let mut pause = Duration::from_millis(1);
    while unacknowledged_len_bytes(stream).is_ok_and(|len| len > 0) && Instant::now() < deadline {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
    reset_on_close(stream);
}

struct Session {
    /// Client to endpoint.
    up: Direction,
    /// Endpoint to client.
    down: Direction,
    reported: Moved,
    last_active: Instant,
    /// When bytes that moved are reported next.
    report_at: Option<Instant>,
    has_server_spoken: bool,
    limits: RelayLimits,
}

type Halves<'a, 'b> = (&'a mut ReadHalf<'b>, &'a mut WriteHalf<'b>);

impl Session {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        client: Halves<'_, '_>,
        upstream: Halves<'_, '_>,
        mut timer: Pin<&mut Sleep>,
        observer: &mut impl Observer,
    ) -> Poll<RelayEnd> {
        let before = self.moved();
        let down = self.down.poll(cx, upstream.0, client.1);
        if !self.has_server_spoken && self.down.moved > 0 {
            self.has_server_spoken = true;
            if self.up.moved == 0 && self.up.pending.is_empty() {
                observer.server_spoke_first();
            }
        }
        let up = self.up.poll(cx, client.0, upstream.1);
        if self.moved() != before {
            self.note_activity(timer.as_mut());
        }
        match (up, down) {
            (Progress::SourceReset, _) | (_, Progress::SinkReset) if self.is_over(&up, &down) => {
                return Poll::Ready(RelayEnd::ClientReset);
            }
            (_, Progress::SourceReset) | (Progress::SinkReset, _) if self.is_over(&up, &down) => {
                return Poll::Ready(RelayEnd::UpstreamReset);
            }
            (Progress::Done, Progress::Done) => return Poll::Ready(RelayEnd::Finished),
            _ => {}
        }
        while timer.as_mut().poll(cx).is_ready() {
            if let Some(end) = self.on_timer(observer) {
                return Poll::Ready(end);
            }
            timer.as_mut().reset(self.wake_at());
        }
        Poll::Pending
    }

    /// A reset ends everything, except that a receiver's reset, seen while writing to it,
    /// waits for the bytes that it had sent before.
    fn is_over(&self, up: &Progress, down: &Progress) -> bool {
        let source_reset =
            matches!(up, Progress::SourceReset) || matches!(down, Progress::SourceReset);
        let is_settled = |progress: &Progress| !matches!(progress, Progress::Open);
        source_reset || (is_settled(up) && is_settled(down))
    }

    fn note_activity(&mut self, timer: Pin<&mut Sleep>) {
        self.last_active = Instant::now();
        if self.report_at.is_none() {
            self.report_at = Some(self.last_active + REPORT_INTERVAL);
            timer.reset(self.wake_at());
        }
    }

    fn wake_at(&self) -> Instant {
        let idle = self.limits.idle.map(|idle| self.last_active + idle);
        [idle, self.report_at, self.limits.expires]
            .into_iter()
            .flatten()
            .min()
            // Nothing to wait for: look again after a day.
            .unwrap_or_else(|| Instant::now() + Duration::from_secs(86_400))
    }

    fn on_timer(&mut self, observer: &mut impl Observer) -> Option<RelayEnd> {
        let now = Instant::now();
        if self.limits.expires.is_some_and(|expires| expires <= now) {
            return Some(RelayEnd::Expired);
        }
        let idle = self.limits.idle;
        if idle.is_some_and(|idle| self.last_active + idle <= now) {
            return Some(RelayEnd::Idle);
        }
        if self.report_at.is_some_and(|report_at| report_at <= now) {
            self.report_at = None;
            let moved = self.moved();
            if moved != self.reported {
                self.reported = moved;
                observer.progress(moved);
            }
        }
        None
    }

    fn moved(&self) -> Moved {
        Moved {
            received: self.up.moved,
            sent: self.down.moved,
        }
    }
}

/// What one direction has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Open,
    /// All was copied and the end passed on.
    Done,
    /// Reading failed: the sender reset the connection.
    SourceReset,
    /// Writing failed: the receiver is gone.
    SinkReset,
}

struct Direction {
    pending: Bytes,
    moved: u64,
    is_at_end: bool,
    progress: Progress,
}

impl Direction {
    fn new(pending: Bytes) -> Self {
        Self {
            pending,
            moved: 0,
            is_at_end: false,
            progress: Progress::Open,
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut ReadHalf<'_>,
        sink: &mut WriteHalf<'_>,
    ) -> Progress {
        if self.progress != Progress::Open {
            return self.progress;
        }
        if let Poll::Ready(progress) = self.poll_copy(cx, source, sink) {
            self.progress = progress;
            self.pending = Bytes::new();
        }
        self.progress
    }

    fn poll_copy(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut ReadHalf<'_>,
        sink: &mut WriteHalf<'_>,
    ) -> Poll<Progress> {
        for _ in 0..READS_PER_TURN {
            while self.pending.has_remaining() {
                match Pin::new(&mut *sink).poll_write(cx, &self.pending) {
                    Poll::Ready(Ok(len)) => {
                        self.moved += len as u64;
                        self.pending.advance(len);
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(Progress::SinkReset),
                    Poll::Pending => return Poll::Pending,
                }
            }
            if self.is_at_end {
                return match Pin::new(&mut *sink).poll_shutdown(cx) {
                    Poll::Ready(_) => Poll::Ready(Progress::Done),
                    Poll::Pending => Poll::Pending,
                };
            }
            match self.poll_step(cx, source, sink) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(progress)) => return Poll::Ready(progress),
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One read and the write of it.
    fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut ReadHalf<'_>,
        sink: &mut WriteHalf<'_>,
    ) -> Poll<Result<(), Progress>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            match Pin::new(source).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Progress::SourceReset)),
                Poll::Pending => return Poll::Pending,
            }
            let bytes = buffer.filled();
            if bytes.is_empty() {
                self.is_at_end = true;
                return Poll::Ready(Ok(()));
            }
            let written = match Pin::new(sink).poll_write(cx, bytes) {
                Poll::Ready(Ok(len)) => len,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Progress::SinkReset)),
                Poll::Pending => 0,
            };
            self.moved += written as u64;
            if let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
                self.pending = Bytes::copy_from_slice(rest);
            }
            Poll::Ready(Ok(()))
        })
    }
}
