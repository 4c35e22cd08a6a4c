//! Circuit breakers: exact counts per client pod and cluster.
//!
//! Counts are plain cells, since one worker owns them; guards give back on drop.
//! Source: Envoy `circuit_breakers`, Istio DestinationRule `connectionPool`.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use crate::snapshot::policy::{ConnectionPool, RetryBudget};

/// What is counted for one cluster.
#[derive(Debug, Default)]
pub(super) struct Limits {
    connections: Cell<u32>,
    pending: Cell<u32>,
    requests: Cell<u32>,
    retries: Cell<u32>,
    /// Starts of requests, kept only while a retry budget has an interval.
    starts: RefCell<VecDeque<Instant>>,
}

/// Starts that a retry budget remembers; older ones beyond are forgotten, so the
/// budget is never larger than this many requests justify.
const STARTS_MAX: usize = 65_536;

/// Which count a [`Counted`] holds.
#[derive(Debug, Clone, Copy)]
enum Count {
    Connection,
    Pending,
    Request,
    Retry,
}

/// One unit of a count, given back on drop.
#[derive(Debug)]
pub(super) struct Counted {
    limits: Rc<Limits>,
    count: Count,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let cell = self.limits.cell(self.count);
        cell.set(cell.get().saturating_sub(1));
    }
}

impl Limits {
    fn cell(&self, count: Count) -> &Cell<u32> {
        match count {
            Count::Connection => &self.connections,
            Count::Pending => &self.pending,
            Count::Request => &self.requests,
            Count::Retry => &self.retries,
        }
    }

    fn take(self: &Rc<Self>, count: Count) -> Counted {
        let cell = self.cell(count);
        cell.set(cell.get().saturating_add(1));
        Counted {
            limits: Rc::clone(self),
            count,
        }
    }

    fn take_below(self: &Rc<Self>, count: Count, max: u32) -> Option<Counted> {
        (self.cell(count).get() < max).then(|| self.take(count))
    }

    /// A connection, if the cluster has room; each endpoint may always have one.
    pub(super) fn connection(
        self: &Rc<Self>,
        policy: &ConnectionPool,
        host_connections: u32,
    ) -> Option<Counted> {
        if host_connections == 0 {
            return Some(self.take(Count::Connection));
        }
        self.take_below(Count::Connection, policy.max_connections)
    }

    /// A place in the queue of requests without a connection.
    pub(super) fn pending(self: &Rc<Self>, policy: &ConnectionPool) -> Option<Counted> {
        self.take_below(Count::Pending, policy.max_pending_requests)
    }

    /// An active request.
    pub(super) fn request(self: &Rc<Self>, policy: &ConnectionPool) -> Option<Counted> {
        let counted = self.take_below(Count::Request, policy.max_requests)?;
        if let Some(budget) = &policy.retry_budget
            && !budget.interval.is_zero()
        {
            self.note_start(Instant::now());
        }
        Some(counted)
    }

    /// A concurrent retry, by `maxRetries` or the retry budget that replaces it.
    pub(super) fn retry(self: &Rc<Self>, policy: &ConnectionPool, now: Instant) -> Option<Counted> {
        let max = match &policy.retry_budget {
            Some(budget) => self.budget(budget, now),
            None => policy.max_retries,
        };
        self.take_below(Count::Retry, max)
    }

    fn note_start(&self, now: Instant) {
        let mut starts = self.starts.borrow_mut();
        if starts.len() == STARTS_MAX {
            starts.pop_front();
        }
        starts.push_back(now);
    }

    /// max(minimum, percent of active + pending + recently started).
    fn budget(&self, budget: &RetryBudget, now: Instant) -> u32 {
        let mut starts = self.starts.borrow_mut();
        while starts
            .front()
            .is_some_and(|start| now.duration_since(*start) > budget.interval)
        {
            starts.pop_front();
        }
        let base =
            u64::from(self.requests.get()) + u64::from(self.pending.get()) + starts.len() as u64;
        let share = base * u64::from(budget.percent_ppm) / 1_000_000;
        u32::try_from(share)
            .unwrap_or(u32::MAX)
            .max(budget.min_concurrency)
    }

    /// Live counts for the views: connections, pending, requests, retries.
    pub(super) fn counts(&self) -> [u32; 4] {
        [
            self.connections.get(),
            self.pending.get(),
            self.requests.get(),
            self.retries.get(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn policy() -> ConnectionPool {
        ConnectionPool {
            max_connections: 1,
            max_pending_requests: 1,
            max_requests: 2,
            max_retries: 1,
            ..ConnectionPool::default()
        }
    }

    #[test]
    fn each_host_may_always_have_one_connection() {
        let limits = Rc::new(Limits::default());
        let first = limits.connection(&policy(), 0);
        assert!(first.is_some());
        assert!(
            limits.connection(&policy(), 1).is_none(),
            "the cluster is full"
        );
        assert!(
            limits.connection(&policy(), 0).is_some(),
            "another host's first"
        );
    }

    #[test]
    fn a_unit_comes_back_when_its_guard_drops() {
        let limits = Rc::new(Limits::default());
        for _ in 0..3 {
            let held = limits.pending(&policy()).expect("room for one");
            assert!(limits.pending(&policy()).is_none());
            drop(held);
        }
        assert_eq!(limits.counts(), [0; 4]);
    }

    #[test]
    fn a_retry_budget_is_a_share_of_the_load_but_never_below_its_minimum() {
        let limits = Rc::new(Limits::default());
        let now = Instant::now();
        let policy = ConnectionPool {
            retry_budget: Some(RetryBudget {
                percent_ppm: 200_000,
                min_concurrency: 3,
                interval: Duration::ZERO,
            }),
            ..ConnectionPool::default()
        };
        let mut active: Vec<_> = (0..10).filter_map(|_| limits.request(&policy)).collect();
        let retries = |limits: &Rc<Limits>| {
            let mut held = Vec::new();
            while let Some(retry) = limits.retry(&policy, now) {
                held.push(retry);
            }
            held.len()
        };
        assert_eq!(retries(&limits), 3, "20 % of 10 is below the minimum");
        active.extend((0..20).filter_map(|_| limits.request(&policy)));
        assert_eq!(retries(&limits), 6, "20 % of 30");
    }
}
