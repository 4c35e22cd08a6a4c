//! Outlier detection: which endpoints fail too often, and for how long they rest.
//!
//! Source: Istio DestinationRule `outlierDetection`, Envoy `outlier_detection`.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use crate::snapshot::policy::OutlierDetection;

/// Longest ejection unless the base is longer (Envoy `max_ejection_time`).
const EJECTION_MAX: Duration = Duration::from_secs(300);

/// What one attempt told about its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A response with this status (gRPC: its HTTP equivalent).
    Status(u16),
    /// The connection was made.
    Connected,
    /// The connection was not made.
    ConnectFailure,
    /// Closed or reset before the response.
    Reset,
    /// The route's or the attempt's time was over.
    Timeout,
}

/// Counters of one host.
#[derive(Debug, Default)]
pub(super) struct HostHealth {
    consecutive_5xx: Cell<u32>,
    consecutive_gateway: Cell<u32>,
    consecutive_local: Cell<u32>,
    ejected_until: Cell<Option<Instant>>,
    ejection_count: Cell<u32>,
}

impl HostHealth {
    pub(super) fn is_ejected(&self) -> bool {
        self.ejected_until.get().is_some()
    }
}

/// What the hosts of one cluster share.
#[derive(Debug, Default)]
pub(super) struct Outlier {
    policy: RefCell<Option<OutlierDetection>>,
    host_count: Cell<usize>,
    ejected_count: Cell<usize>,
    /// The set of usable hosts changed since the balancer last looked.
    is_dirty: Cell<bool>,
}

impl Outlier {
    /// Takes over a policy and the number of hosts of the cluster.
    pub(super) fn configure(&self, policy: Option<&OutlierDetection>, hosts: &[&HostHealth]) {
        *self.policy.borrow_mut() = policy.cloned();
        self.host_count.set(hosts.len());
        if policy.is_none() {
            for host in hosts {
                host.ejected_until.set(None);
            }
        }
        let ejected = hosts.iter().filter(|host| host.is_ejected()).count();
        self.ejected_count.set(ejected);
    }

    /// The usable hosts changed since this was last asked.
    pub(super) fn take_dirty(&self) -> bool {
        self.is_dirty.replace(false)
    }

    /// Share of hosts below which ejections are ignored, 0..=100.
    pub(super) fn panic_percent(&self) -> u32 {
        let policy = self.policy.borrow();
        policy
            .as_ref()
            .map_or(0, |policy| policy.min_health_percent)
    }

    /// How often [`Self::sweep`] shall run; `None` while detection is off.
    pub(super) fn interval(&self) -> Option<Duration> {
        let policy = self.policy.borrow();
        policy.as_ref().map(|policy| policy.interval)
    }

    /// Outcomes count for something.
    pub(super) fn is_on(&self) -> bool {
        self.policy.borrow().is_some()
    }

    /// Counts one outcome and ejects the host when a threshold is reached.
    pub(super) fn report(&self, host: &HostHealth, outcome: Outcome, now: Instant) {
        let policy = self.policy.borrow();
        let Some(policy) = policy.as_ref() else {
            return;
        };
        if count(policy, host, outcome) && self.may_eject(policy, host) {
            host.ejection_count.set(host.ejection_count.get() + 1);
            let time = policy
                .base_ejection_time
                .saturating_mul(host.ejection_count.get())
                .min(EJECTION_MAX.max(policy.base_ejection_time));
            host.ejected_until.set(Some(now + time));
            self.ejected_count.set(self.ejected_count.get() + 1);
            self.is_dirty.set(true);
        }
    }

    /// (ejected + 1) / total must stay within `maxEjectionPercent`, as an exact fraction.
    fn may_eject(&self, policy: &OutlierDetection, host: &HostHealth) -> bool {
        let after = (self.ejected_count.get() + 1) * 100;
        let max = policy.max_ejection_percent as usize * self.host_count.get();
        !host.is_ejected() && after <= max
    }

    /// Lets hosts return whose time is over; the others' multipliers shrink.
    pub(super) fn sweep<'a>(&self, hosts: impl Iterator<Item = &'a HostHealth>, now: Instant) {
        for host in hosts {
            match host.ejected_until.get() {
                Some(until) if until <= now => {
                    host.ejected_until.set(None);
                    host.consecutive_5xx.set(0);
                    host.consecutive_gateway.set(0);
                    host.consecutive_local.set(0);
                    self.ejected_count
                        .set(self.ejected_count.get().saturating_sub(1));
                    self.is_dirty.set(true);
                }
                Some(_) => {}
                None => host
                    .ejection_count
                    .set(host.ejection_count.get().saturating_sub(1)),
            }
        }
    }
}

/// Updates the counters; `true` when one of them reached its threshold.
fn count(policy: &OutlierDetection, host: &HostHealth, outcome: Outcome) -> bool {
    match outcome {
        Outcome::Status(status) => count_status(policy, host, status),
        Outcome::Connected => {
            if policy.split_local_origin {
                host.consecutive_local.set(0);
            }
            false
        }
        Outcome::ConnectFailure | Outcome::Reset | Outcome::Timeout
            if policy.split_local_origin =>
        {
            bump(
                &host.consecutive_local,
                policy.consecutive_local_origin_failures,
            )
        }
        Outcome::ConnectFailure | Outcome::Reset => count_status(policy, host, 503),
        Outcome::Timeout => count_status(policy, host, 504),
    }
}

fn count_status(policy: &OutlierDetection, host: &HostHealth, status: u16) -> bool {
    let is_error = if policy.error_codes.is_empty() {
        (500..600).contains(&status)
    } else {
        policy.error_codes.contains(&status)
    };
    let is_gateway_error = matches!(status, 502..=504);
    let mut reached = false;
    if is_gateway_error {
        reached |= bump(&host.consecutive_gateway, policy.consecutive_gateway_errors);
    } else {
        host.consecutive_gateway.set(0);
    }
    if is_error {
        reached |= bump(&host.consecutive_5xx, policy.consecutive_5xx);
    } else {
        host.consecutive_5xx.set(0);
    }
    reached
}

/// One more; at the threshold the counter restarts, whether or not an ejection follows.
fn bump(counter: &Cell<u32>, threshold: u32) -> bool {
    if threshold == 0 {
        return false;
    }
    let next = counter.get() + 1;
    if next >= threshold {
        counter.set(0);
        return true;
    }
    counter.set(next);
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> OutlierDetection {
        OutlierDetection {
            consecutive_5xx: 3,
            consecutive_gateway_errors: 0,
            split_local_origin: false,
            consecutive_local_origin_failures: 5,
            error_codes: Vec::new(),
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_percent: 100,
            min_health_percent: 0,
        }
    }

    fn ejected_after(policy: &OutlierDetection, hosts: usize, outcomes: &[Outcome]) -> bool {
        let healths: Vec<HostHealth> = (0..hosts).map(|_| HostHealth::default()).collect();
        let outlier = Outlier::default();
        outlier.configure(Some(policy), &healths.iter().collect::<Vec<_>>());
        for outcome in outcomes {
            outlier.report(&healths[0], *outcome, Instant::now());
        }
        healths[0].is_ejected()
    }

    /// Checklist ids A172, A173, A175 and the rows of Envoy's counters.
    #[test]
    fn a_host_is_ejected_when_a_counter_reaches_its_threshold() {
        use Outcome::{ConnectFailure, Connected, Reset, Status, Timeout};
        let gateway = OutlierDetection {
            consecutive_5xx: 0,
            consecutive_gateway_errors: 2,
            ..policy()
        };
        let default_percent = OutlierDetection {
            max_ejection_percent: 10,
            ..policy()
        };
        let split = OutlierDetection {
            split_local_origin: true,
            consecutive_local_origin_failures: 2,
            ..policy()
        };
        let codes = OutlierDetection {
            error_codes: vec![418],
            ..policy()
        };
        for (policy, hosts, outcomes, expected, why) in [
            (&policy(), 1, &[Status(500); 3][..], true, "A172"),
            (
                &policy(),
                1,
                &[Status(500), Status(500), Status(404), Status(500)],
                false,
                "4xx resets",
            ),
            (
                &default_percent,
                3,
                &[Status(500); 9],
                false,
                "A173: 10 % of 3 is none",
            ),
            (
                &default_percent,
                10,
                &[Status(500); 3],
                true,
                "10 % of 10 is one",
            ),
            (
                &gateway,
                1,
                &[Status(502), Status(500), Status(502)],
                false,
                "A175",
            ),
            (
                &gateway,
                1,
                &[Status(502), Status(504)],
                true,
                "two gateway errors",
            ),
            (
                &policy(),
                1,
                &[ConnectFailure, Reset, Timeout],
                true,
                "local origin counts as 503 and 504",
            ),
            (
                &split,
                1,
                &[ConnectFailure, Connected, Timeout],
                false,
                "a connect resets",
            ),
            (
                &split,
                1,
                &[ConnectFailure, ConnectFailure],
                true,
                "connects alone",
            ),
            (
                &codes,
                1,
                &[Status(500); 5],
                false,
                "only listed codes count",
            ),
            (&codes, 1, &[Status(418); 3], true, "a listed code counts"),
        ] {
            assert_eq!(ejected_after(policy, hosts, outcomes), expected, "{why}");
        }
    }

    /// Checklist id A174.
    #[test]
    fn the_second_ejection_lasts_twice_as_long() {
        let (outlier, host) = (Outlier::default(), HostHealth::default());
        outlier.configure(Some(&policy()), &[&host]);
        let start = Instant::now();
        let eject = |now| (0..3).for_each(|_| outlier.report(&host, Outcome::Status(500), now));
        let sweep = |seconds| {
            outlier.sweep(std::iter::once(&host), start + Duration::from_secs(seconds));
            host.is_ejected()
        };
        eject(start);
        assert!(sweep(20));
        assert!(!sweep(30));
        eject(start + Duration::from_secs(30));
        assert!(sweep(80), "60 s from 30 on");
        assert!(!sweep(90));
    }
}
