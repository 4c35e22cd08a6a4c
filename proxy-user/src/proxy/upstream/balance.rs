//! Which endpoint takes the next request.
//!
//! Input: hosts with weight, priority and health, and a policy; output: one host
//! per pick. Source: Istio DestinationRule `loadBalancer`, Envoy's load balancers.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::rc::Rc;

use super::host::Host;
use super::tables::{Maglev, Ring};
use crate::snapshot::endpoints::Health;
use crate::snapshot::policy::{HashTable, LoadBalancer};

/// Envoy's overprovisioning factor: a priority keeps all traffic while at least
/// 1/1.4 of its hosts are healthy.
const OVERPROVISIONING_PERCENT: u64 = 140;

/// Picks per retry that skip hosts tried before (Envoy `host_selection_retry_max_attempts`
/// 5 plus the first pick); the last pick counts, tried or not.
pub(super) const PICKS_MAX: u32 = 6;

/// State of one cluster's balancer; rebuilt when hosts or their health change.
pub(super) struct Balancer {
    groups: Vec<Group>,
    rng: fastrand::Rng,
}

/// Hosts of one priority and the share of traffic that they take.
struct Group {
    hosts: Vec<Rc<Host>>,
    /// Percent of all traffic; the shares of all groups add up to 100.
    load: u64,
    schedule: Schedule,
}

enum Schedule {
    Random,
    TwoChoices,
    Rotate(usize),
    /// `true`: weights shrink with active requests.
    Deadlines(Deadlines, bool),
    Ring(Ring),
    Maglev(Maglev),
}

impl Balancer {
    pub(super) fn new(hosts: &[Rc<Host>], policy: &LoadBalancer, panic_percent: u32) -> Self {
        let mut rng = fastrand::Rng::new();
        let mut groups = Vec::new();
        let mut healths = Vec::new();
        let last = hosts.iter().map(|host| host.endpoint.priority).max();
        for priority in 0..last.map_or(0, |last| last + 1) {
            let of_priority = || {
                hosts
                    .iter()
                    .filter(move |host| host.endpoint.priority == priority)
            };
            let total = of_priority().count() as u64;
            if total == 0 {
                continue;
            }
            let usable: Vec<_> = of_priority().filter(|host| is_usable(host)).collect();
            let healthy = usable.len() as u64;
            let is_panic = healthy * 100 < u64::from(panic_percent) * total;
            let chosen: Vec<Rc<Host>> = if is_panic {
                of_priority().map(Rc::clone).collect()
            } else {
                usable.into_iter().map(Rc::clone).collect()
            };
            healths.push(match is_panic {
                true => 100,
                false => (OVERPROVISIONING_PERCENT * healthy / total).min(100),
            });
            groups.push(Group {
                schedule: Schedule::new(policy, &chosen, &mut rng),
                hosts: chosen,
                load: 0,
            });
        }
        for (group, load) in groups.iter_mut().zip(priority_loads(&healths)) {
            group.load = load;
        }
        Self { groups, rng }
    }

    /// The host for one attempt. `hash`: key of consistent hashing. `pick`: 0 for the
    /// first choice, then 1, 2, ... while hosts that were tried before come up.
    pub(super) fn pick(&mut self, hash: Option<u64>, pick: u32) -> Option<Rc<Host>> {
        let ticket = match hash {
            Some(hash) => hash % 100,
            None if self.groups.len() == 1 => 0,
            None => self.rng.u64(0..100),
        };
        let mut sum = 0;
        let group = self.groups.iter_mut().find(|group| {
            sum += group.load;
            ticket < sum
        })?;
        let index = group
            .schedule
            .next(&group.hosts, hash, pick, &mut self.rng)?;
        group.hosts.get(index).map(Rc::clone)
    }
}

fn is_usable(host: &Host) -> bool {
    host.endpoint.health == Health::Healthy && !host.core.health.is_ejected()
}

/// Spill-over between priorities: each takes its health, in order, until 100 % are
/// given; less than 100 % in all is normalised (Envoy "priority levels").
fn priority_loads(healths: &[u64]) -> Vec<u64> {
    let total: u64 = healths.iter().sum::<u64>().min(100);
    let mut left = 100;
    let mut loads: Vec<u64> = healths
        .iter()
        .map(|health| {
            let share = (health * 100).checked_div(total).unwrap_or(0);
            let load = share.min(left);
            left -= load;
            load
        })
        .collect();
    // Rounding leaves a few percent over: they belong to the first group that has any.
    if let Some(first) = loads.iter_mut().find(|load| **load > 0) {
        *first += left;
    }
    loads
}

impl Schedule {
    fn new(policy: &LoadBalancer, hosts: &[Rc<Host>], rng: &mut fastrand::Rng) -> Self {
        let first_weight = hosts.first().map_or(1, |host| host.endpoint.weight);
        let is_equal = hosts
            .iter()
            .all(|host| host.endpoint.weight == first_weight);
        match policy {
            LoadBalancer::Random | LoadBalancer::Passthrough => Self::Random,
            LoadBalancer::LeastRequest if is_equal => Self::TwoChoices,
            LoadBalancer::LeastRequest => Self::Deadlines(Deadlines::new(hosts, rng), true),
            LoadBalancer::RoundRobin if is_equal => Self::Rotate(rng.usize(0..hosts.len().max(1))),
            LoadBalancer::RoundRobin => Self::Deadlines(Deadlines::new(hosts, rng), false),
            LoadBalancer::ConsistentHash(hash) => match hash.table {
                HashTable::Ring { minimum_size } => Self::Ring(Ring::new(hosts, minimum_size)),
                HashTable::Maglev { table_size } => Self::Maglev(Maglev::new(hosts, table_size)),
            },
        }
    }

    fn next(
        &mut self,
        hosts: &[Rc<Host>],
        hash: Option<u64>,
        pick: u32,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        if hosts.is_empty() {
            return None;
        }
        let any = |rng: &mut fastrand::Rng| rng.usize(0..hosts.len());
        Some(match self {
            Self::Random => any(rng),
            Self::TwoChoices => {
                // With replacement: a busy host among two still gets a quarter.
                let (first, second) = (any(rng), any(rng));
                let active = |index: usize| hosts[index].core.active.get();
                if active(second) < active(first) {
                    second
                } else {
                    first
                }
            }
            Self::Rotate(position) => {
                let index = *position % hosts.len();
                *position = index + 1;
                index
            }
            Self::Deadlines(deadlines, is_least_request) => {
                deadlines.next(|index| weight_now(&hosts[index], *is_least_request))?
            }
            Self::Ring(ring) => match hash {
                Some(hash) => ring.find(hash, pick)?,
                None => any(rng),
            },
            Self::Maglev(table) => match hash {
                Some(hash) => table.find(hash, pick)?,
                None => any(rng),
            },
        })
    }
}

/// Envoy's least request with unequal weights: weight / (active + 1).
fn weight_now(host: &Host, is_least_request: bool) -> f64 {
    let weight = f64::from(host.endpoint.weight.max(1));
    if is_least_request {
        weight / f64::from(host.core.active.get().saturating_add(1))
    } else {
        weight
    }
}

/// Earliest deadline first: each host comes up in proportion to its weight.
struct Deadlines {
    queue: BinaryHeap<Entry>,
    now: f64,
}

struct Entry {
    deadline: f64,
    index: usize,
}

impl Deadlines {
    /// Hosts start at a random phase of their own period, so that many clients do
    /// not all begin at the heaviest host.
    fn new(hosts: &[Rc<Host>], rng: &mut fastrand::Rng) -> Self {
        let queue = hosts
            .iter()
            .enumerate()
            .map(|(index, host)| Entry {
                deadline: rng.f64() / f64::from(host.endpoint.weight.max(1)),
                index,
            })
            .collect();
        Self { queue, now: 0.0 }
    }

    fn next(&mut self, weight: impl Fn(usize) -> f64) -> Option<usize> {
        let entry = self.queue.pop()?;
        self.now = entry.deadline;
        self.queue.push(Entry {
            deadline: self.now + 1.0 / weight(entry.index),
            index: entry.index,
        });
        Some(entry.index)
    }
}

impl Ord for Entry {
    /// The heap gives its greatest entry: the earliest deadline, then the lower index.
    fn cmp(&self, other: &Self) -> Ordering {
        other
            .deadline
            .total_cmp(&self.deadline)
            .then(other.index.cmp(&self.index))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::upstream::testing::host;

    fn shares(balancer: &mut Balancer, picks: u32, ports: &[u16]) -> Vec<u32> {
        let mut counts = vec![0; ports.len()];
        for _ in 0..picks {
            let port = balancer
                .pick(None, 0)
                .expect("a host")
                .core
                .address()
                .port();
            let index = ports.iter().position(|known| *known == port);
            counts[index.expect("a known host")] += 1;
        }
        counts
    }

    fn about(count: u32, expected: f64, trials: u32) -> bool {
        let share = expected / f64::from(trials);
        let deviation = (f64::from(trials) * share * (1.0 - share)).sqrt();
        (f64::from(count) - expected).abs() <= 4.5 * deviation.max(1.0)
    }

    /// Checklist id A168, and the weighted forms.
    #[test]
    fn round_robin_gives_each_host_its_weight_exactly() {
        for (weights, expected) in [([1, 1, 1], [100, 100, 100]), ([1, 2, 7], [30, 60, 210])] {
            let hosts: Vec<_> = (1..)
                .zip(weights)
                .map(|(port, w)| host(port, w, 0))
                .collect();
            let mut balancer = Balancer::new(&hosts, &LoadBalancer::RoundRobin, 0);
            for (count, expected) in shares(&mut balancer, 300, &[1, 2, 3]).iter().zip(expected) {
                assert!(count.abs_diff(expected) <= 1, "{weights:?}: {count}");
            }
        }
    }

    #[test]
    fn random_ignores_weights() {
        let hosts = [host(1, 1, 0), host(2, 99, 0)];
        let mut balancer = Balancer::new(&hosts, &LoadBalancer::Random, 0);
        let counts = shares(&mut balancer, 4000, &[1, 2]);
        assert!(about(counts[0], 2000.0, 4000), "{counts:?}");
    }

    /// With replacement: the busy one of two gets 1/4, of three 1/9.
    #[test]
    fn least_request_still_picks_a_busy_host_sometimes() {
        for (count, share) in [(2_u16, 0.25), (3, 1.0 / 9.0)] {
            let hosts: Vec<_> = (1..=count).map(|port| host(port, 1, 0)).collect();
            hosts[0].core.active.set(5);
            let mut balancer = Balancer::new(&hosts, &LoadBalancer::LeastRequest, 0);
            let ports: Vec<u16> = (1..=count).collect();
            let picked = shares(&mut balancer, 9000, &ports)[0];
            assert!(about(picked, 9000.0 * share, 9000), "{count}: {picked}");
        }
    }

    #[test]
    fn weighted_least_request_divides_the_weight_by_active_plus_one() {
        let hosts = [host(1, 3, 0), host(2, 1, 0)];
        hosts[0].core.active.set(2);
        let mut balancer = Balancer::new(&hosts, &LoadBalancer::LeastRequest, 0);
        let counts = shares(&mut balancer, 400, &[1, 2]);
        assert!(
            counts[0].abs_diff(200) <= 2,
            "3/(2+1) equals 1/(0+1): {counts:?}"
        );
    }

    /// Checklist id A181 and the rule of 71.4 %.
    #[test]
    fn traffic_spills_over_when_a_priority_loses_too_many_hosts() {
        for (healths, loads) in [
            (vec![100, 100], vec![100, 0]),
            (vec![70, 100], vec![70, 30]), // half of P0 is healthy
            (vec![0, 100], vec![0, 100]),
            (vec![28, 28], vec![50, 50]), // less than 100 in all is normalised
            (vec![0, 0], vec![0, 0]),
        ] {
            assert_eq!(priority_loads(&healths), loads, "{healths:?}");
        }
    }

    #[test]
    fn without_a_usable_host_nothing_is_picked() {
        let mut empty = Balancer::new(&[], &LoadBalancer::LeastRequest, 0);
        assert!(empty.pick(None, 0).is_none());
    }
}
