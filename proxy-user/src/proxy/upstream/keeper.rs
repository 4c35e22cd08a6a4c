//! Looks after the idle HTTP/1.1 connections of a pool: one task per pool, and no timer
//! and no wake-up per request.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use tokio::task::{spawn_local, unconstrained};
use tokio::time::{Instant, sleep_until};

use super::checkout::Checkout;
use super::pool::Pool;

/// What a pool knows about its keeper.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    has_started: Cell<bool>,
    /// The task, once it has run. Idle connections wake it when they close.
    waker: RefCell<Option<Waker>>,
    /// It will look by itself when the first connection is over.
    has_timer: Cell<bool>,
}

impl Keeper {
    /// Starts the task, once per pool.
    pub(super) fn start(&self, pool: &Rc<Pool>) {
        if !self.has_started.replace(true) {
            spawn_local(keep(Rc::downgrade(pool)));
        }
    }

    /// Takes note of a connection that becomes idle; `false` if it is closed.
    pub(super) fn watches(&self, checkout: &mut Checkout) -> bool {
        let waker = self.waker.borrow();
        // Before its first run the task finds the connection by itself.
        let Some(waker) = &*waker else {
            return true;
        };
        if checkout
            .poll_closed(&mut Context::from_waker(waker))
            .is_ready()
        {
            return false;
        }
        if !self.has_timer.get() && checkout.state.deadline().is_some() {
            waker.wake_by_ref();
        }
        true
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Until the pool is dropped. Not budgeted: a sweep asks each idle connection, and stopping
/// amid it would begin anew without end.
async fn keep(pool: Weak<Pool>) {
    let mut timer = pin!(sleep_until(Instant::now()));
    unconstrained(poll_fn(|cx| {
        let Some(pool) = pool.upgrade() else {
            return Poll::Ready(());
        };
        let keeper = pool.keeper();
        keeper.waker.replace(Some(cx.waker().clone()));
        loop {
            let next = pool.sweep(cx, Instant::now());
            keeper.has_timer.set(next.is_some());
            let Some(next) = next else {
                return Poll::Pending;
            };
            timer.as_mut().reset(next);
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }))
    .await;
}
