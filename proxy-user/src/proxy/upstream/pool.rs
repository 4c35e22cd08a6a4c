//! Connections of one endpoint in one protocol, and the queue of who waits for one.
//!
//! A request that finds no ready connection is *pending*; each pending request that
//! no connection under way will serve starts one, as far as the limits allow. When
//! a connect fails, all that wait for this endpoint learn of it at once. Source:
//! Envoy `ConnPoolImplBase`.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;
use std::task::Context;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::checkout::{Checkout, ConnectionState, Slot};
use super::connect::connect;
use super::error::{Kind, TrafficError};
use super::host::{ClusterShared, HostCore};
use super::keeper::Keeper;
use super::outlier::Outcome;
use super::wire::{self, Sender};
use crate::snapshot::policy::ConnectionPool;

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WireProtocol {
    /// HTTP/1.1, one request at a time.
    Http1,
    /// HTTP/2, multiplexed.
    Http2,
}

/// Connections with the same key may serve each other's requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PoolKey {
    pub(super) protocol: WireProtocol,
    /// Source address that the application bound.
    pub(super) bind: Option<IpAddr>,
}

/// A connection that is idle for longer than this is checked before use, so that a close
/// by the peer that has arrived is seen: HTTP/1.1 asks the system, for HTTP/2 the I/O
/// driver runs once.
const TRUSTED_IDLE: Duration = Duration::from_millis(1);

type Waiter = oneshot::Sender<Result<Checkout, TrafficError>>;

/// All connections of one endpoint in one protocol.
pub(super) struct Pool {
    pub(super) key: PoolKey,
    pub(super) core: Rc<HostCore>,
    pub(super) shared: Rc<ClusterShared>,
    /// HTTP/1.1: idle ones, the most recently used last. HTTP/2: all usable ones.
    ready: RefCell<Vec<Checkout>>,
    waiters: RefCell<VecDeque<Waiter>>,
    keeper: Keeper,
    connecting: Cell<u32>,
    /// Streams that the server allowed on its last connection: a new one, whose
    /// SETTINGS are still on their way, is not given more.
    server_streams: Cell<u32>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("address", &self.core.address())
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl Pool {
    pub(super) fn new(key: PoolKey, core: Rc<HostCore>, shared: Rc<ClusterShared>) -> Self {
        Self {
            key,
            core,
            shared,
            ready: RefCell::default(),
            waiters: RefCell::default(),
            keeper: Keeper::default(),
            connecting: Cell::new(0),
            server_streams: Cell::new(u32::MAX),
        }
    }

    /// A usable connection, perhaps after waiting for one to be made or to come free.
    ///
    /// # Errors
    /// [`Kind::Overflow`] when too many wait already; why a connect failed.
    pub(super) async fn checkout(self: &Rc<Self>) -> Result<Checkout, TrafficError> {
        while let Some(checkout) = self.take_ready() {
            let is_first = checkout.state.busy.get() == 1;
            if is_first && checkout.state.idle_since.get().elapsed() > TRUSTED_IDLE {
                let is_alive = match &checkout.sender {
                    Sender::Http1(client) => {
                        client.as_ref().is_some_and(|client| client.is_silent_now())
                    }
                    Sender::Http2(_) => {
                        tokio::task::yield_now().await;
                        !checkout.is_closed()
                    }
                };
                if !is_alive {
                    continue;
                }
            }
            return Ok(checkout);
        }
        self.wait().await
    }

    fn take_ready(&self) -> Option<Checkout> {
        let mut closed = Vec::new();
        let mut ready = self.ready.borrow_mut();
        let found = loop {
            let Some(last) = ready.last() else {
                break None;
            };
            if last.is_closed() {
                closed.extend(ready.pop());
                continue;
            }
            break match self.key.protocol {
                WireProtocol::Http1 => ready.pop(),
                WireProtocol::Http2 => {
                    let policy = self.shared.policy();
                    let free = ready
                        .iter()
                        .find(|checkout| self.can_take_stream(checkout, &policy));
                    free.map(Checkout::share)
                }
            };
        };
        drop(ready);
        found.map(Checkout::promised)
    }

    async fn wait(self: &Rc<Self>) -> Result<Checkout, TrafficError> {
        let policy = self.shared.policy();
        let overflow = || TrafficError::upstream(Kind::Overflow, Some(self.core.address()));
        let pending = self.shared.limits.pending(&policy).ok_or_else(overflow)?;
        let (sender, receiver) = oneshot::channel();
        self.waiters.borrow_mut().push_back(sender);
        self.connect_for_waiters();
        let mut waiting = Waiting {
            receiver,
            pool: self,
        };
        let received = (&mut waiting.receiver).await;
        drop(pending);
        received.unwrap_or_else(|_| {
            Err(TrafficError::upstream(
                Kind::ConnectionTermination,
                Some(self.core.address()),
            ))
        })
    }

    /// Starts as many connects as waiting requests need and limits allow.
    pub(super) fn connect_for_waiters(self: &Rc<Self>) {
        self.waiters
            .borrow_mut()
            .retain(|waiter| !waiter.is_closed());
        let policy = self.shared.policy();
        let per_connection = match self.key.protocol {
            WireProtocol::Http1 => 1,
            WireProtocol::Http2 => self.streams_max() as usize,
        };
        loop {
            let capacity = (self.connecting.get() as usize).saturating_mul(per_connection);
            if self.waiters.borrow().len() <= capacity {
                return;
            }
            let host_connections = self.core.connections.get();
            let limits = &self.shared.limits;
            let Some(counted) = limits.connection(&policy, host_connections) else {
                return;
            };
            let slot = Slot::new(Rc::downgrade(self), &self.core, counted);
            self.connecting.set(self.connecting.get() + 1);
            spawn_local(Rc::clone(self).open(slot));
        }
    }

    async fn open(self: Rc<Self>, slot: Slot) {
        let policy = self.shared.policy();
        let (address, sockets) = (self.core.address(), Rc::clone(&self.shared));
        let connected = async {
            let stream = connect(&*sockets.sockets, address, self.key.bind, &policy).await?;
            wire::handshake(stream, self.key.protocol, &policy).await
        }
        .await;
        self.connecting.set(self.connecting.get().saturating_sub(1));
        match connected {
            Ok((sender, driver, facts)) => {
                self.report(Outcome::Connected);
                let checkout = Checkout::new(sender, facts, slot, &policy);
                match driver {
                    Some(driver) => {
                        let state = Rc::clone(&checkout.state);
                        spawn_local(Rc::clone(&self).drive(driver, state));
                    }
                    None => self.keeper.start(&self),
                }
                self.offer(checkout);
            }
            Err(error) => {
                self.report(Outcome::ConnectFailure);
                // Whoever waits here decides for itself: another endpoint may be healthy.
                let waiters = std::mem::take(&mut *self.waiters.borrow_mut());
                for waiter in waiters {
                    let _ = waiter.send(Err(error.clone()));
                }
                drop(slot);
            }
        }
    }

    fn report(&self, outcome: Outcome) {
        let now = std::time::Instant::now();
        self.shared.outlier.report(&self.core.health, outcome, now);
    }

    /// Runs an HTTP/2 connection until it ends, and ends it when it idles too long or is
    /// too old.
    async fn drive(self: Rc<Self>, driver: wire::Driver, state: Rc<ConnectionState>) {
        let mut driver = driver;
        loop {
            let Some(deadline) = state.deadline() else {
                driver.await;
                break;
            };
            tokio::select! {
                biased;
                () = &mut driver => break,
                () = tokio::time::sleep_until(deadline) => {}
            }
            if state.is_over(Instant::now()) {
                self.forget(&state);
            }
        }
        self.forget(&state);
        self.connect_for_waiters();
    }

    /// Drops idle HTTP/1.1 connections that are closed or over, and has `cx` woken when
    /// another one closes. Returns when the next one will be over.
    pub(super) fn sweep(&self, cx: &mut Context<'_>, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        let mut ready = self.ready.borrow_mut();
        let gone: Vec<Checkout> = ready
            .extract_if(.., |checkout| {
                let is_gone = checkout.state.is_over(now) || checkout.poll_closed(cx).is_ready();
                if !is_gone {
                    next = [next, checkout.state.deadline()]
                        .into_iter()
                        .flatten()
                        .min();
                }
                is_gone
            })
            .collect();
        // The end of one may let a waiting request connect, so not while the list is held.
        drop(ready);
        drop(gone);
        next
    }

    pub(super) fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// Takes the connection out of the ready ones; a busy one finishes.
    fn forget(&self, state: &Rc<ConnectionState>) {
        let mut ready = self.ready.borrow_mut();
        let position = ready
            .iter()
            .position(|checkout| Rc::ptr_eq(&checkout.state, state));
        let forgotten = position.map(|position| ready.swap_remove(position));
        drop(ready);
        drop(forgotten);
    }

    /// A request is done with this connection: the next waiting one takes it, else
    /// it becomes ready again.
    pub(super) fn give_back(self: &Rc<Self>, checkout: Checkout) {
        let checkout = checkout.returned();
        checkout.state.idle_since.set(Instant::now());
        let policy = self.shared.policy();
        let used_up = policy.max_requests_per_connection != 0
            && checkout.state.served.get() >= policy.max_requests_per_connection;
        if used_up || self.core.is_removed.get() {
            checkout.state.is_retired.set(true);
        }
        if checkout.state.is_over(checkout.state.idle_since.get()) || checkout.is_closed() {
            self.forget(&checkout.state);
            drop(checkout);
            return;
        }
        self.offer(checkout);
    }

    fn offer(self: &Rc<Self>, checkout: Checkout) {
        match self.key.protocol {
            WireProtocol::Http1 => {
                let mut checkout = checkout;
                while let Some(waiter) = self.next_waiter() {
                    match waiter.send(Ok(checkout.promised())) {
                        Ok(()) | Err(Err(_)) => return,
                        Err(Ok(returned)) => checkout = returned.returned(),
                    }
                }
                if self.keeper.watches(&mut checkout) {
                    self.ready.borrow_mut().push(checkout);
                }
            }
            WireProtocol::Http2 => self.offer_streams(&checkout),
        }
    }

    fn offer_streams(self: &Rc<Self>, checkout: &Checkout) {
        let policy = self.shared.policy();
        while self.can_take_stream(checkout, &policy) {
            let Some(waiter) = self.next_waiter() else {
                break;
            };
            // A waiter that has gone gives its place back by dropping it.
            let _ = waiter.send(Ok(checkout.share().promised()));
        }
        let is_known = self
            .ready
            .borrow()
            .iter()
            .any(|known| Rc::ptr_eq(&known.state, &checkout.state));
        if !is_known && !checkout.state.is_retired.get() {
            self.ready.borrow_mut().push(checkout.share());
        }
        self.connect_for_waiters();
    }

    fn next_waiter(&self) -> Option<Waiter> {
        self.waiters.borrow_mut().pop_front()
    }

    fn streams_max(&self) -> u32 {
        let policy = self.shared.policy();
        let per_connection = match policy.max_requests_per_connection {
            0 => u32::MAX,
            max => max,
        };
        policy
            .max_concurrent_streams
            .min(self.server_streams.get())
            .min(per_connection)
            .max(1)
    }

    fn can_take_stream(&self, checkout: &Checkout, policy: &ConnectionPool) -> bool {
        let known = checkout.state.facts.streams_max();
        if let Some(known) = known {
            self.server_streams.set(known);
        }
        checkout.can_take_stream(policy, known.unwrap_or(self.server_streams.get()))
    }

    /// Closes what nobody uses.
    pub(super) fn close_idle(&self) {
        let closed = std::mem::take(&mut *self.ready.borrow_mut());
        for checkout in &closed {
            checkout.state.is_retired.set(true);
        }
        drop(closed);
    }

    /// It may be dropped from the list of pools.
    pub(super) fn is_unused(&self) -> bool {
        self.ready.borrow().is_empty()
            && self.waiters.borrow().is_empty()
            && self.connecting.get() == 0
    }
}

/// A request in the queue. When it goes away, a connection that has just been
/// handed to it goes to the next one.
struct Waiting<'a> {
    receiver: oneshot::Receiver<Result<Checkout, TrafficError>>,
    pool: &'a Rc<Pool>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.receiver.close();
        if let Ok(Ok(checkout)) = self.receiver.try_recv() {
            self.pool.give_back(checkout);
        }
    }
}
