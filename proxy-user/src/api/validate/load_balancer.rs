//! The rules of a DestinationRule's load balancing: hashes, localities, warm-up.
//!
//! Source: pkg/config/validation/agent/validation.go in istio/istio.

use std::collections::BTreeSet;

use super::Report;
use crate::api::{
    ConsistentHashLB, DestinationRule, LoadBalancerSettings, LocalityFailover, LocalityLbSetting,
    WarmupConfiguration, ZoneAwareLbSetting,
};

/// The labels that say where an endpoint is; failover knows them by itself.
const LOCALITY_LABELS: [&str; 3] = [
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.istio.io/subzone",
];

/// Largest table of Maglev that Envoy accepts.
const MAGLEV_TABLE_MAX: u64 = 5_000_011;

impl Report<'_, DestinationRule> {
    /// How an endpoint is chosen. `has_outlier_detection`: whether the same policy has it.
    pub(super) fn load_balancer(
        &mut self,
        path: &str,
        balancer: &LoadBalancerSettings,
        has_outlier_detection: bool,
    ) {
        if let Some(hash) = &balancer.consistent_hash {
            if balancer.simple.is_some() {
                let message = "only one of simple and consistentHash can be set";
                self.error(&format!("{path}.simple"), "load-balancer", message);
            }
            self.consistent_hash(&format!("{path}.consistentHash"), hash);
        }
        if let Some(locality) = &balancer.locality_lb_setting {
            self.locality(
                &format!("{path}.localityLbSetting"),
                locality,
                has_outlier_detection,
            );
        }
        if let Some(zone) = &balancer.zone_aware_lb_setting {
            let path = format!("{path}.zoneAwareLbSetting");
            if balancer.locality_lb_setting.is_some() {
                let message = "only one of localityLbSetting and zoneAwareLbSetting can be set";
                self.error(&path, "locality", message);
            }
            self.zone_aware(&path, zone, has_outlier_detection);
        }
        if let Some(warmup) = &balancer.warmup {
            self.warmup(&format!("{path}.warmup"), warmup);
        }
        if balancer.warmup_duration_secs.is_some() {
            let message = if balancer.warmup.is_some() {
                "ignored beside warmup; remove it"
            } else {
                "deprecated; use warmup"
            };
            self.warn(&format!("{path}.warmupDurationSecs"), "deprecated", message);
            self.duration(
                &format!("{path}.warmupDurationSecs"),
                balancer.warmup_duration_secs,
            );
        }
    }

    fn consistent_hash(&mut self, path: &str, hash: &ConsistentHashLB) {
        const CODE: &str = "consistent-hash";
        let keys = [
            hash.http_header_name.is_some(),
            hash.http_cookie.is_some(),
            hash.use_source_ip.is_some(),
            hash.http_query_parameter_name.is_some(),
        ];
        if keys.into_iter().filter(|is_set| *is_set).count() > 1 {
            let message = "only one of httpHeaderName, httpCookie, useSourceIp and \
                           httpQueryParameterName can be set";
            self.error(path, CODE, message);
        }
        if let Some(cookie) = &hash.http_cookie {
            let path = format!("{path}.httpCookie");
            if cookie.name.is_empty() {
                self.error(&path, CODE, "expected the name of the cookie, found none");
            }
            let mut seen = BTreeSet::new();
            for (index, attribute) in cookie.attributes.iter().enumerate() {
                let field = format!("{path}.attributes[{index}].name");
                if attribute.name.is_empty() {
                    self.error(
                        &field,
                        CODE,
                        "expected the name of an attribute, found none",
                    );
                } else if !seen.insert(&attribute.name) {
                    self.error(&field, CODE, format!("{:?} is there twice", attribute.name));
                }
            }
        }
        if hash.minimum_ring_size.is_some() {
            let field = format!("{path}.minimumRingSize");
            self.warn(
                &field,
                "deprecated",
                "deprecated; use ringHash.minimumRingSize",
            );
            if hash.ring_hash.is_some() || hash.maglev.is_some() {
                self.error(&field, CODE, "not allowed together with ringHash or maglev");
            }
        }
        if hash.ring_hash.is_some() && hash.maglev.is_some() {
            let message = "only one of ringHash and maglev can be set";
            self.error(&format!("{path}.maglev"), CODE, message);
        }
        if let Some(maglev) = &hash.maglev {
            let size = maglev.table_size.unwrap_or(0);
            if size >= MAGLEV_TABLE_MAX || !is_prime(size) {
                let message =
                    format!("expected a prime number below {MAGLEV_TABLE_MAX}, found {size}");
                self.error(&format!("{path}.maglev.tableSize"), CODE, message);
            }
        }
    }

    fn locality(&mut self, path: &str, locality: &LocalityLbSetting, has_outlier_detection: bool) {
        const CODE: &str = "locality";
        if !locality.distribute.is_empty() && !locality.failover.is_empty() {
            let message = "only one of distribute and failover can be set";
            self.error(&format!("{path}.failover"), CODE, message);
        }
        let names_locality = find_locality_label(&locality.failover_priority);
        if let (Some(index), false) = (names_locality, locality.failover.is_empty()) {
            let message = "failover decides by region, zone and subzone already";
            self.error(&format!("{path}.failoverPriority[{index}]"), CODE, message);
        }
        let origins: Vec<&str> = locality
            .distribute
            .iter()
            .map(|entry| entry.from.as_str())
            .collect();
        self.localities(&format!("{path}.distribute"), &origins);
        for (index, distribute) in locality.distribute.iter().enumerate() {
            let field = format!("{path}.distribute[{index}].to");
            let targets: Vec<&str> = distribute.to.keys().map(String::as_str).collect();
            self.localities(&field, &targets);
            for (target, weight) in &distribute.to {
                if !(1..=100).contains(weight) {
                    let message = format!("expected a weight from 1 to 100, found {weight}");
                    self.error(&format!("{field}.{target}"), CODE, message);
                }
            }
            let sum: u64 = distribute
                .to
                .values()
                .map(|weight| u64::from(*weight))
                .sum();
            if sum != 100 {
                self.error(
                    &field,
                    CODE,
                    format!("the weights add up to {sum}, not to 100"),
                );
            }
        }
        self.failover(&format!("{path}.failover"), &locality.failover);
        let has_failover = !locality.failover.is_empty() || !locality.failover_priority.is_empty();
        self.failover_needs_detection(path, has_failover, has_outlier_detection);
    }

    fn zone_aware(&mut self, path: &str, zone: &ZoneAwareLbSetting, has_outlier_detection: bool) {
        const CODE: &str = "locality";
        if let Some(index) = find_locality_label(&zone.failover_priority) {
            let message = "region, zone and subzone are considered already";
            self.error(&format!("{path}.failoverPriority[{index}]"), CODE, message);
        }
        if zone.min_cluster_size == Some(0) {
            self.error(
                &format!("{path}.minClusterSize"),
                CODE,
                "expected at least 1, found 0",
            );
        }
        self.failover(&format!("{path}.failover"), &zone.failover);
        let has_failover = !zone.failover.is_empty() || !zone.failover_priority.is_empty();
        self.failover_needs_detection(path, has_failover, has_outlier_detection);
    }

    fn failover_needs_detection(&mut self, path: &str, has_failover: bool, has_detection: bool) {
        if has_failover && !has_detection {
            let message = "failover has no effect without outlierDetection in the same policy";
            self.warn(path, "locality", message);
        }
    }

    fn failover(&mut self, path: &str, failover: &[LocalityFailover]) {
        const CODE: &str = "locality";
        for (index, entry) in failover.iter().enumerate() {
            let path = format!("{path}[{index}]");
            if entry.from == entry.to {
                self.error(&path, CODE, "from and to are the same region");
            }
            for (field, region) in [("from", &entry.from), ("to", &entry.to)] {
                if region.contains(['/', '*']) {
                    let message = format!("expected a region, found {region:?}");
                    self.error(&format!("{path}.{field}"), CODE, message);
                }
            }
        }
    }

    /// Localities must be well formed and not overlap.
    fn localities(&mut self, path: &str, localities: &[&str]) {
        const CODE: &str = "locality";
        for (index, locality) in localities.iter().enumerate() {
            let segments: Vec<&str> = locality.split('/').collect();
            let star = segments.iter().position(|segment| *segment == "*");
            let is_malformed = segments.len() > 3
                || segments.contains(&"")
                || star.is_some_and(|star| star + 1 != segments.len());
            if is_malformed {
                let message = format!(
                    "expected region/zone/subzone, a * in place of its end, found {locality:?}"
                );
                self.error(path, CODE, message);
            }
            let earlier = localities
                .iter()
                .take(index)
                .find(|earlier| localities_overlap(earlier, locality));
            if let Some(earlier) = earlier {
                self.error(path, CODE, format!("{locality:?} overlaps {earlier:?}"));
            }
        }
    }

    fn warmup(&mut self, path: &str, warmup: &WarmupConfiguration) {
        const CODE: &str = "warmup";
        if warmup.duration.is_none() {
            self.error(
                &format!("{path}.duration"),
                CODE,
                "expected a duration, found none",
            );
        }
        self.duration(&format!("{path}.duration"), warmup.duration);
        if warmup
            .minimum_percent
            .is_some_and(|percent| !(0.0..=100.0).contains(&percent))
        {
            let message = "expected a percentage from 0 to 100";
            self.error(&format!("{path}.minimumPercent"), CODE, message);
        }
        if warmup
            .aggression
            .is_some_and(|aggression| aggression <= 0.0)
        {
            self.error(&format!("{path}.aggression"), CODE, "expected more than 0");
        }
    }
}

/// Whether one of two localities covers the other; a shorter one covers what begins with it.
fn localities_overlap(a: &str, b: &str) -> bool {
    let segments = |locality: &'_ str| -> Vec<String> {
        locality
            .split('/')
            .take_while(|segment| *segment != "*")
            .map(str::to_owned)
            .collect()
    };
    segments(a)
        .iter()
        .zip(segments(b).iter())
        .all(|(a, b)| a == b)
}

/// The first label that says where an endpoint is.
fn find_locality_label(labels: &[String]) -> Option<usize> {
    labels.iter().position(|label| {
        let key = label.split_once('=').map_or(label.as_str(), |(key, _)| key);
        LOCALITY_LABELS.contains(&key)
    })
}

/// Trial division: enough below [`MAGLEV_TABLE_MAX`].
fn is_prime(number: u64) -> bool {
    number >= 2
        && (2..)
            .take_while(|divisor| divisor * divisor <= number)
            .all(|divisor| !number.is_multiple_of(divisor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localities_overlap_by_their_common_beginning() {
        for (a, b, expected) in [
            ("r/z", "r/z", true),
            ("r/*", "r/z/s", true),
            ("r", "r/z", true),
            ("*", "r", true),
            ("r/z1", "r/z2", false),
            ("r1/*", "r2/*", false),
        ] {
            assert_eq!(localities_overlap(a, b), expected, "{a} {b}");
            assert_eq!(localities_overlap(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn primes() {
        for (number, expected) in [
            (0, false),
            (1, false),
            (2, true),
            (65_537, true),
            (65_536, false),
            (9, false),
        ] {
            assert_eq!(is_prime(number), expected, "{number}");
        }
    }
}
