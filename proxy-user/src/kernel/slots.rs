//! Endpoint weights as a list of slots, spread evenly, so that turns follow the weights.

use std::net::SocketAddr;

use crate::snapshot::{
    endpoints::{EndpointSet, Health},
    kernel_view::WEIGHT_SLOTS_MAX,
};

/// The endpoints that take traffic, one entry for each slot, in turn order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Slots {
    /// IPv4 endpoints.
    pub(super) v4: Vec<SocketAddr>,
    /// IPv6 endpoints.
    pub(super) v6: Vec<SocketAddr>,
    /// Weights differ in one of the lists.
    pub(super) is_weighted: bool,
}

/// Spreads the healthy endpoints of the first priority that has any.
///
/// `None`: the weights need more than [`WEIGHT_SLOTS_MAX`] slots, so the proxy must balance.
pub(super) fn spread(set: &EndpointSet) -> Option<Slots> {
    let healthy = || {
        set.endpoints
            .iter()
            .filter(|endpoint| endpoint.health == Health::Healthy)
    };
    let Some(priority) = healthy().map(|endpoint| endpoint.priority).min() else {
        return Some(Slots::default());
    };
    let of_family = |is_v4: bool| -> Vec<(SocketAddr, u32)> {
        healthy()
            .filter(|endpoint| endpoint.priority == priority)
            .map(|endpoint| {
                let address = SocketAddr::new(
                    endpoint.address.ip().to_canonical(),
                    endpoint.address.port(),
                );
                (address, endpoint.weight.max(1))
            })
            .filter(|(address, _)| address.is_ipv4() == is_v4)
            .collect()
    };
    let (v4, v6) = (of_family(true), of_family(false));
    let is_weighted = [&v4, &v6]
        .iter()
        .any(|list| list.windows(2).any(|pair| pair[0].1 != pair[1].1));
    Some(Slots {
        v4: turns(&v4)?,
        v6: turns(&v6)?,
        is_weighted,
    })
}

/// Smooth weighted round robin: in each turn everybody gains its weight, and the richest pays the
/// total (nginx, `ngx_http_upstream_round_robin.c`).
fn turns(weighted: &[(SocketAddr, u32)]) -> Option<Vec<SocketAddr>> {
    let divisor = weighted
        .iter()
        .fold(0, |divisor, (_, weight)| {
            greatest_common_divisor(divisor, *weight)
        })
        .max(1);
    let weights: Vec<u64> = weighted
        .iter()
        .map(|(_, weight)| u64::from(weight / divisor))
        .collect();
    let total: u64 = weights.iter().sum();
    let are_equal = weights.iter().all(|weight| *weight == 1);
    if are_equal {
        return Some(weighted.iter().map(|(address, _)| *address).collect());
    }
    if total > WEIGHT_SLOTS_MAX as u64 {
        return None;
    }
    let mut wealth = vec![0_i64; weights.len()];
    let mut turns = Vec::new();
    for _ in 0..total {
        for (wealth, weight) in wealth.iter_mut().zip(&weights) {
            *wealth += weight.cast_signed();
        }
        // The first of equals, so that the order is the same everywhere.
        let richest = (0..wealth.len()).max_by_key(|at| (wealth[*at], std::cmp::Reverse(*at)))?;
        wealth[richest] -= total.cast_signed();
        turns.push(weighted[richest].0);
    }
    Some(turns)
}

fn greatest_common_divisor(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::snapshot::endpoints::{Endpoint, Workload};

    fn set(endpoints: &[(&str, u32, Health, u32)]) -> EndpointSet {
        let endpoints = endpoints
            .iter()
            .map(|(address, weight, health, priority)| Endpoint {
                address: address.parse().expect("an address"),
                weight: *weight,
                health: *health,
                priority: *priority,
                workload: Arc::new(Workload::default()),
            })
            .collect();
        EndpointSet { endpoints }
    }

    fn letters(slots: &[SocketAddr]) -> String {
        slots
            .iter()
            .map(|address| char::from(b'a' - 1 + (address.port() % 26) as u8))
            .collect()
    }

    #[test]
    fn turns_follow_the_weights_and_spread_them() {
        use Health::Healthy;
        for (weights, expected) in [
            (&[1, 1, 1][..], Some("abc")),
            (&[7, 7], Some("ab")), // equal weights need no slots of their own
            (&[4, 2], Some("aba")),
            (&[5, 1, 1], Some("aabacaa")),
            (&[255, 1], Some("")),
            (&[256, 1], None), // finer than the kernel's slots
            (&[], Some("")),
        ] {
            let names: Vec<String> = (1..=weights.len())
                .map(|port| format!("10.0.0.1:{port}"))
                .collect();
            let rows: Vec<_> = names
                .iter()
                .zip(weights)
                .map(|(name, weight)| (name.as_str(), *weight, Healthy, 0))
                .collect();
            let slots = spread(&set(&rows));
            match expected {
                None => assert_eq!(slots, None, "{weights:?}"),
                Some("") => assert!(slots.is_some(), "{weights:?}"),
                Some(expected) => assert_eq!(
                    letters(&slots.expect("it fits").v4),
                    expected,
                    "{weights:?}"
                ),
            }
        }
    }

    #[test]
    fn only_the_first_priority_with_healthy_endpoints_takes_traffic() {
        use Health::{Healthy, Unhealthy};
        let slots = spread(&set(&[
            ("10.0.0.1:1", 1, Unhealthy, 0),
            ("10.0.0.1:2", 1, Healthy, 1),
            ("[fd00::1]:3", 1, Healthy, 1),
            ("10.0.0.1:4", 1, Healthy, 2),
        ]));
        let slots = slots.expect("it fits");
        assert_eq!(
            (letters(&slots.v4).as_str(), letters(&slots.v6).as_str()),
            ("b", "c")
        );
        assert_eq!(
            spread(&set(&[("10.0.0.1:1", 1, Unhealthy, 0)])),
            Some(Slots::default())
        );
    }
}
