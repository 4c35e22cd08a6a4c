//! Fault injection: which requests are delayed or aborted (VirtualService `fault`).

use std::time::Duration;

use crate::snapshot::policy::{AbortWith, FaultPolicy, PartsPerMillion};

/// Tickets are uniform over `0..TICKETS`.
pub(crate) const TICKETS: u32 = 1_000_000;

/// Whether a share of `share` parts per million includes this ticket, uniform over
/// `0..TICKETS`.
pub(crate) fn is_drawn(share: PartsPerMillion, ticket: u32) -> bool {
    ticket < share
}

/// How long this request is held before routing.
pub(crate) fn delay(policy: &FaultPolicy, ticket: u32) -> Option<Duration> {
    let (share, length) = policy.delay?;
    is_drawn(share, ticket).then_some(length)
}

/// What this request is answered with instead of being routed. Its ticket is drawn
/// apart from the delay's.
pub(crate) fn abort(policy: &FaultPolicy, ticket: u32) -> Option<AbortWith> {
    let (share, with) = policy.abort?;
    is_drawn(share, ticket).then_some(with)
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn shares_cover_exactly_their_tickets() {
        for (share, ticket, expected) in [
            (0, 0, false), // no percentage means never
            (1, 0, true),  // 0.0001 %
            (1, 1, false),
            (500_000, 499_999, true),
            (500_000, 500_000, false),
            (TICKETS, TICKETS - 1, true), // 100 % is every ticket
        ] {
            assert_eq!(is_drawn(share, ticket), expected, "{share} {ticket}");
        }
    }

    /// Checklist ids A128 to A130: the draws.
    #[test]
    fn a128_a130_delay_and_abort_are_drawn_apart() {
        let teapot = AbortWith::Http(StatusCode::IM_A_TEAPOT);
        let policy = FaultPolicy {
            delay: Some((TICKETS, Duration::from_secs(2))),
            abort: Some((500_000, teapot)),
        };
        assert_eq!(delay(&policy, 999_999), Some(Duration::from_secs(2)));
        assert_eq!(abort(&policy, 499_999), Some(teapot));
        assert_eq!(abort(&policy, 500_000), None);
        let never = FaultPolicy {
            delay: Some((0, Duration::from_secs(2))), // A129: no percentage
            abort: None,
        };
        assert_eq!((delay(&never, 0), abort(&never, 0)), (None, None));
    }
}
