//! Endpoints whose addresses DNS tells, and the answers that are known.
//!
//! Pure: the names are compiled, the answers come from outside, [`DnsEndpoints::resolved`]
//! puts both together.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use proxy_common::addr::Family;

use super::endpoints::{Endpoint, EndpointSet, Health, Workload};

/// One endpoint that is written as a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedEndpoint {
    /// Lower case, without the final dot.
    pub name: Arc<str>,
    /// Where to connect at its addresses.
    pub port: u16,
    /// Relative weight of each of its addresses, at least 1.
    pub weight: u32,
    /// Who is there.
    pub workload: Arc<Workload>,
}

/// What the endpoint set of a DNS cluster is made from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DnsEndpoints {
    /// Endpoints that are written as addresses, in address order.
    pub fixed: Vec<Endpoint>,
    /// Endpoints that are written as names, in the order written.
    pub named: Vec<NamedEndpoint>,
    /// Only the first answer for the first name counts (DNS_ROUND_ROBIN).
    pub is_first_only: bool,
}

impl DnsEndpoints {
    /// Whether there is nothing at all to connect to, whatever DNS says.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fixed.is_empty() && self.named.is_empty()
    }

    /// The names that have to be resolved.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        let count = if self.is_first_only { 1 } else { usize::MAX };
        self.named.iter().take(count).map(|named| &named.name)
    }

    /// The endpoints that `answers` give, one per address and port, in address order. With
    /// [`Self::is_first_only`] one of each family at most: a socket uses those of its own.
    #[must_use]
    pub fn resolved(&self, answers: &ResolvedNames) -> EndpointSet {
        let mut found: BTreeMap<SocketAddr, Endpoint> = BTreeMap::new();
        let mut add = |named: &NamedEndpoint, ip: IpAddr| {
            let address = SocketAddr::new(ip, named.port);
            found.entry(address).or_insert_with(|| Endpoint {
                address,
                weight: named.weight,
                health: Health::Healthy,
                priority: 0,
                workload: Arc::clone(&named.workload),
            });
        };
        if self.is_first_only {
            match (self.named.first(), self.fixed.first()) {
                (Some(named), _) => {
                    for family in [Family::V4, Family::V6] {
                        if let Some(ip) = answers.get(&named.name, family).first() {
                            add(named, *ip);
                        }
                    }
                }
                (None, Some(fixed)) => {
                    found.insert(fixed.address, fixed.clone());
                }
                (None, None) => {}
            }
        } else {
            for named in &self.named {
                for family in [Family::V4, Family::V6] {
                    for ip in answers.get(&named.name, family) {
                        add(named, *ip);
                    }
                }
            }
            for fixed in &self.fixed {
                found.insert(fixed.address, fixed.clone());
            }
        }
        EndpointSet {
            endpoints: found.into_values().collect(),
        }
    }
}

/// The address families that clients of this node have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Families {
    /// A records are asked for.
    pub v4: bool,
    /// AAAA records are asked for.
    pub v6: bool,
}

impl Families {
    /// Those that are asked for.
    pub fn iter(self) -> impl Iterator<Item = Family> {
        let families = [(Family::V4, self.v4), (Family::V6, self.v6)];
        families
            .into_iter()
            .filter(|(_, is_asked)| *is_asked)
            .map(|(family, _)| family)
    }
}

/// What DNS has said so far, by name and family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvedNames(HashMap<Arc<str>, AnswersOfName>);

/// IPv4, then IPv6; `None` before the first answer.
type AnswersOfName = [Option<Arc<[IpAddr]>>; 2];

impl ResolvedNames {
    /// Remembers an answer; an empty one says that the name has no address.
    pub fn set(&mut self, name: &Arc<str>, family: Family, addresses: Arc<[IpAddr]>) {
        let of_name = self.0.entry(Arc::clone(name)).or_default();
        of_name[place(family)] = Some(addresses);
    }

    /// The addresses in the order of the answer; empty without one.
    #[must_use]
    pub fn get(&self, name: &str, family: Family) -> &[IpAddr] {
        let of_name = self.0.get(name);
        let answer = of_name.and_then(|families| families[place(family)].as_deref());
        answer.unwrap_or_default()
    }

    /// Whether there is an answer for each of these families.
    #[must_use]
    pub fn is_answered(&self, name: &str, families: Families) -> bool {
        let of_name = self.0.get(name);
        families
            .iter()
            .all(|family| of_name.is_some_and(|answers| answers[place(family)].is_some()))
    }

    /// Forgets names that nobody asks for any more.
    pub fn retain(&mut self, is_needed: impl Fn(&Arc<str>) -> bool) {
        self.0.retain(|name, _| is_needed(name));
    }
}

fn place(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(list: &[&str]) -> Arc<[IpAddr]> {
        list.iter()
            .map(|text| text.parse::<IpAddr>().expect("an address"))
            .collect()
    }

    fn named(name: &str, weight: u32) -> NamedEndpoint {
        NamedEndpoint {
            name: Arc::from(name),
            port: 443,
            weight,
            workload: Arc::default(),
        }
    }

    fn addresses(set: &EndpointSet) -> Vec<String> {
        let endpoints = set.endpoints.iter();
        endpoints
            .map(|endpoint| endpoint.address.to_string())
            .collect()
    }

    /// Checklist id A028.
    #[test]
    fn a028_all_answers_are_endpoints_or_the_first_of_each_family() {
        let mut answers = ResolvedNames::default();
        answers.set(&Arc::from("a"), Family::V4, ips(&["10.0.0.2", "10.0.0.1"]));
        answers.set(&Arc::from("a"), Family::V6, ips(&["fd00::2", "fd00::1"]));
        answers.set(&Arc::from("b"), Family::V4, ips(&["10.0.0.1", "10.0.0.3"]));
        let mut endpoints = DnsEndpoints {
            named: vec![named("a", 1), named("b", 1)],
            ..DnsEndpoints::default()
        };
        assert_eq!(
            addresses(&endpoints.resolved(&answers)),
            [
                "10.0.0.1:443", // both names have it: one endpoint
                "10.0.0.2:443",
                "10.0.0.3:443",
                "[fd00::1]:443",
                "[fd00::2]:443",
            ]
        );
        endpoints.is_first_only = true;
        // In the order of the answer, not of the numbers.
        assert_eq!(
            addresses(&endpoints.resolved(&answers)),
            ["10.0.0.2:443", "[fd00::2]:443"]
        );
        assert_eq!(endpoints.names().count(), 1);
    }

    #[test]
    fn a_name_is_answered_when_every_family_is_even_by_nothing() {
        let mut answers = ResolvedNames::default();
        let both = Families { v4: true, v6: true };
        answers.set(&Arc::from("a"), Family::V4, ips(&["10.0.0.2"]));
        assert!(!answers.is_answered("a", both));
        assert!(answers.is_answered(
            "a",
            Families {
                v4: true,
                v6: false
            }
        ));
        answers.set(&Arc::from("a"), Family::V6, ips(&[]));
        assert!(answers.is_answered("a", both));
        answers.retain(|_| false);
        assert!(!answers.is_answered("a", both));
    }

    #[test]
    fn what_is_written_as_an_address_stays_whatever_dns_says() {
        let address = "10.9.9.9:80".parse().expect("an address");
        let endpoints = DnsEndpoints {
            fixed: vec![Endpoint {
                address,
                weight: 1,
                health: Health::Healthy,
                priority: 0,
                workload: Arc::default(),
            }],
            named: vec![named("a", 2)],
            is_first_only: false,
        };
        let set = endpoints.resolved(&ResolvedNames::default());
        assert_eq!(addresses(&set), ["10.9.9.9:80"]);
    }
}
