//! When a name is asked for again. Pure: time goes in and comes out.
//!
//! Source: Istio's DNS clusters (`respect_dns_ttl`, `dns_refresh_rate`) and Envoy's strict DNS:
//! a good answer lives as long as its TTL. After a failure Envoy waits for the refresh rate;
//! we try sooner at first and come to that rate by doubling, each pause shortened at random.

use std::time::Duration;

/// An answer is not asked for more often, whatever its TTL says; TTLs count in seconds.
const TTL_MIN: Duration = Duration::from_secs(1);
/// Nor more seldom: a mistake in a zone shall not last for weeks.
const TTL_MAX: Duration = Duration::from_secs(24 * 3600);
/// First pause after a failure.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// What Istio adds to TTLs at most, so that many proxies do not ask at one moment.
const JITTER: Duration = Duration::from_millis(100);

/// What a lookup came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// There are addresses, for so long.
    Found(Duration),
    /// The name has no address of this family: an answer too.
    Empty,
    /// Nobody answered, or not in a form that counts.
    Failed,
}

/// The state of one name and family.
#[derive(Debug, Clone, Default)]
pub(super) struct Schedule {
    failures: u32,
}

impl Schedule {
    /// The pause until the next lookup. `refresh`: the mesh's refresh rate. `random`: uniform
    /// over `0.0..1.0`.
    pub(super) fn next(&mut self, outcome: Outcome, refresh: Duration, random: f64) -> Duration {
        match outcome {
            Outcome::Found(ttl) => {
                self.failures = 0;
                let lifetime = if ttl.is_zero() {
                    refresh.max(TTL_MIN)
                } else {
                    ttl.clamp(TTL_MIN, TTL_MAX)
                };
                lifetime + JITTER.mul_f64(random)
            }
            Outcome::Empty | Outcome::Failed => {
                let doubled = RETRY_FIRST.saturating_mul(1 << self.failures.min(16));
                self.failures = self.failures.saturating_add(1);
                let pause = doubled.min(refresh.max(RETRY_FIRST));
                pause.mul_f64(0.5 + random / 2.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFRESH: Duration = Duration::from_secs(60);

    fn millis(schedule: &mut Schedule, outcome: Outcome, random: f64) -> u128 {
        schedule.next(outcome, REFRESH, random).as_millis()
    }

    #[test]
    fn a_good_answer_lives_as_long_as_its_ttl_within_bounds() {
        let mut schedule = Schedule::default();
        for (ttl, random, expected) in [
            (30.0, 0.0, 30_000),
            (30.0, 1.0, 30_100),
            (0.2, 0.0, 1_000),        // TTLs count in seconds
            (0.0, 0.0, 60_000),       // no lifetime: the refresh rate, as in Envoy
            (1.0e9, 0.0, 86_400_000), // bounded
        ] {
            let outcome = Outcome::Found(Duration::from_secs_f64(ttl));
            assert_eq!(millis(&mut schedule, outcome, random), expected, "{ttl}");
        }
    }

    #[test]
    fn failures_double_the_pause_up_to_the_refresh_rate_and_success_forgets_them() {
        let mut schedule = Schedule::default();
        for expected in [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000] {
            assert_eq!(millis(&mut schedule, Outcome::Failed, 1.0), expected);
        }
        // At random down to one half.
        assert_eq!(millis(&mut schedule, Outcome::Empty, 0.0), 30_000);
        millis(&mut schedule, Outcome::Found(REFRESH), 0.0);
        assert_eq!(millis(&mut schedule, Outcome::Failed, 1.0), 1_000);
    }
}
