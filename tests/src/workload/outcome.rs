//! What clients print: one summary, and each outcome where a test asks for it.

use std::collections::BTreeMap;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Nanoseconds of the machine's monotonic clock, comparable between processes.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds * 1_000_000_000 + nanos
}

/// One request or connection as its client saw it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// When its `connect()` or, on a kept connection, its request started.
    pub started_ns: u64,
    /// When `connect()` had answered; zero on a kept connection.
    pub connected_ns: u64,
    /// When it was over.
    pub ended_ns: u64,
    /// HTTP status; zero if there was none.
    pub status: u16,
    /// Who answered: `service version`, such as `reviews v2`.
    pub answered_by: String,
    /// Whether the answer says that a circuit breaker refused (`x-envoy-overloaded`).
    pub is_overloaded: bool,
    /// What went wrong; empty if nothing did.
    pub error: String,
}

/// A summary of many outcomes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// How many there were.
    pub total: u64,
    /// How many by HTTP status.
    pub statuses: BTreeMap<String, u64>,
    /// How many by who answered.
    pub answered_by: BTreeMap<String, u64>,
    /// How many a circuit breaker refused.
    pub overloaded: u64,
    /// How many by what went wrong.
    pub errors: BTreeMap<String, u64>,
    /// Every outcome, where asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outcomes: Vec<Outcome>,
}

impl Summary {
    /// Counts outcomes; keeps each of them with `keep`.
    pub fn of(outcomes: Vec<Outcome>, keep: bool) -> Self {
        let mut summary = Self::default();
        for outcome in &outcomes {
            summary.total += 1;
            if outcome.status != 0 {
                *summary
                    .statuses
                    .entry(outcome.status.to_string())
                    .or_default() += 1;
            }
            if !outcome.answered_by.is_empty() {
                *summary
                    .answered_by
                    .entry(outcome.answered_by.clone())
                    .or_default() += 1;
            }
            if outcome.is_overloaded {
                summary.overloaded += 1;
            }
            if !outcome.error.is_empty() {
                *summary.errors.entry(outcome.error.clone()).or_default() += 1;
            }
        }
        if keep {
            summary.outcomes = outcomes;
        }
        summary
    }

    /// How many a service's version answered, by `service version`.
    pub fn from(&self, answered_by: &str) -> u64 {
        self.answered_by.get(answered_by).copied().unwrap_or(0)
    }

    /// How many ended with this status.
    pub fn status(&self, status: u16) -> u64 {
        self.statuses.get(&status.to_string()).copied().unwrap_or(0)
    }

    /// How many went wrong without an answer.
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }
}
