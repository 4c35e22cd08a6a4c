//! A connection as pool, driver and requests see it.

use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::host::HostCore;
use super::limits::Counted;
use super::pool::Pool;
use super::wire::{Connected, Sender};
use crate::snapshot::policy::ConnectionPool;

/// A connection in the hands of a request, or waiting for one.
pub(super) struct Checkout {
    pub(super) sender: Sender,
    pub(super) state: Rc<ConnectionState>,
    /// Held while a request has it, or has been promised it.
    place: Option<StreamPlace>,
}

/// One request's place on a connection, given back on drop.
struct StreamPlace(Rc<ConnectionState>);

impl Drop for StreamPlace {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get().saturating_sub(1));
    }
}

/// What pool, driver and requests share about one connection.
#[derive(Debug)]
pub(super) struct ConnectionState {
    /// Requests given to it so far.
    pub(super) served: Cell<u32>,
    /// Requests on it now.
    pub(super) busy: Cell<u32>,
    pub(super) idle_since: Cell<Instant>,
    /// It gets no further requests: too old, too much used, or its endpoint has left.
    pub(super) is_retired: Cell<bool>,
    /// Idle for longer, it closes.
    pub(super) idle_max: Option<Duration>,
    /// Older, it gets no further requests.
    pub(super) expires: Option<Instant>,
    pub(super) facts: Connected,
    _slot: Slot,
}

/// A connection's place in the counts; its end may let a waiting request connect.
#[derive(Debug)]
pub(super) struct Slot {
    pool: Weak<Pool>,
    core: Rc<HostCore>,
    counted: Option<Counted>,
}

impl Slot {
    /// One more connection of this endpoint; `counted` is its place in the cluster's count.
    pub(super) fn new(pool: Weak<Pool>, core: &Rc<HostCore>, counted: Counted) -> Self {
        core.connections.set(core.connections.get() + 1);
        Self {
            pool,
            core: Rc::clone(core),
            counted: Some(counted),
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.counted = None;
        self.core
            .connections
            .set(self.core.connections.get().saturating_sub(1));
        if let Some(pool) = self.pool.upgrade() {
            pool.connect_for_waiters();
        }
    }
}

impl ConnectionState {
    /// When the connection is over if nothing happens before.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let idle_until = self.idle_max.map(|limit| match self.busy.get() {
            0 => self.idle_since.get() + limit,
            _ => Instant::now() + limit,
        });
        let expires = self.expires.filter(|_| !self.is_retired.get());
        [idle_until, expires].into_iter().flatten().min()
    }

    /// Idle for too long, or too old.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        if self.expires.is_some_and(|expires| expires <= now) {
            self.is_retired.set(true);
        }
        let is_idle = self.busy.get() == 0;
        let idles = |limit| is_idle && self.idle_since.get() + limit <= now;
        self.is_retired.get() || self.idle_max.is_some_and(idles)
    }
}

impl Checkout {
    /// A connection that has just been made. It keeps the limits of `policy` for life.
    pub(super) fn new(
        sender: Sender,
        facts: Connected,
        slot: Slot,
        policy: &ConnectionPool,
    ) -> Self {
        let now = Instant::now();
        let idle_max = policy.http_idle_timeout.or(policy.tcp_idle_timeout);
        let state = ConnectionState {
            served: Cell::new(0),
            busy: Cell::new(0),
            idle_since: Cell::new(now),
            is_retired: Cell::new(false),
            idle_max: idle_max.filter(|limit| !limit.is_zero()),
            expires: policy.max_connection_duration.map(|limit| now + limit),
            facts,
            _slot: slot,
        };
        Self {
            sender,
            state: Rc::new(state),
            place: None,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// While idle: pending until an HTTP/1.1 connection closes. HTTP/2 has its driver.
    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.sender {
            Sender::Http1(Some(client)) => client.poll_closed(cx),
            Sender::Http1(None) => Poll::Ready(()),
            Sender::Http2(_) => Poll::Pending,
        }
    }

    pub(super) fn can_take_stream(&self, policy: &ConnectionPool, server_max: u32) -> bool {
        let served_max = match policy.max_requests_per_connection {
            0 => u32::MAX,
            max => max,
        };
        let streams_max = policy.max_concurrent_streams.min(server_max);
        self.state.busy.get() < streams_max.max(1)
            && self.state.served.get() < served_max
            && !self.state.is_retired.get()
            && !self.sender.is_closed()
    }

    /// In the hands of a request from now on.
    pub(super) fn promised(mut self) -> Self {
        self.state.busy.set(self.state.busy.get() + 1);
        self.state
            .served
            .set(self.state.served.get().saturating_add(1));
        self.place = Some(StreamPlace(Rc::clone(&self.state)));
        self
    }

    /// No longer in anybody's hands.
    pub(super) fn returned(mut self) -> Self {
        self.place = None;
        self
    }

    /// Another handle to a multiplexed connection.
    pub(super) fn share(&self) -> Self {
        Self {
            sender: self.sender.share(),
            state: Rc::clone(&self.state),
            place: None,
        }
    }
}
