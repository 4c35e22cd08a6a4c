//! Virtual IPs for ServiceEntries that have no address: one of each family per host.
//!
//! What a controller wrote to `status.addresses` stands. Elsewhere the address follows from
//! namespace and host, so that it is the same in every snapshot and on every node; two hosts
//! that fall on one address are told apart by age. Source: Istio, the ranges of
//! pilot/pkg/controllers/ipallocate, and the hashing of pilot/pkg/serviceregistry/serviceentry.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Service;

/// Addresses of 240.240.0.0/16 whose last byte is neither 0 nor 255.
const ADDRESSES_MAX: u32 = 256 * 254;
/// Gives every service that may have one and has none an address of each family.
pub(super) fn allocate(services: &mut [Service]) {
    let taken: HashSet<IpAddr> = services
        .iter()
        .flat_map(|service| service.allocated.iter().copied())
        .collect();
    let mut waiting: Vec<&mut Service> = services
        .iter_mut()
        .filter(|service| service.may_allocate && service.allocated.is_empty())
        .collect();
    waiting.sort_by(|a, b| {
        (a.created, &a.name, &a.namespace, &a.host).cmp(&(
            b.created,
            &b.name,
            &b.namespace,
            &b.host,
        ))
    });
    let mut used: HashSet<u32> = HashSet::new();
    for service in waiting {
        let key = format!("{}/{}", service.namespace, service.host);
        let place = places(&key).find(|place| {
            let [v4, v6] = addresses_at(*place);
            !taken.contains(&v4) && !taken.contains(&v6) && !used.contains(place)
        });
        // 65,024 hosts without an address: the rest are found by Host, SNI or port alone.
        if let Some(place) = place {
            used.insert(place);
            service.allocated = addresses_at(place).to_vec();
        }
    }
}

/// Every place once, in the order in which a key prefers them.
fn places(key: &str) -> impl Iterator<Item = u32> {
    let first = fnv1(key.as_bytes()) % ADDRESSES_MAX;
    (first..ADDRESSES_MAX).chain(0..first)
}

fn addresses_at(place: u32) -> [IpAddr; 2] {
    let [_, _, _, third] = (place / 254).to_be_bytes();
    let [_, _, _, fourth] = (place % 254 + 1).to_be_bytes();
    let v6 = [
        0x2001,
        2,
        0,
        0,
        0,
        0,
        0xf0f0,
        u16::from_be_bytes([third, fourth]),
    ];
    [
        IpAddr::from(Ipv4Addr::new(240, 240, third, fourth)),
        IpAddr::from(Ipv6Addr::from(v6)),
    ]
}

/// FNV-1 with 32 bits (the Internet-Draft draft-eastlake-fnv).
fn fnv1(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash: u32, byte| {
        hash.wrapping_mul(0x0100_0193) ^ u32::from(*byte)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_prefers_the_same_place_always_and_may_have_any() {
        let all: HashSet<u32> = places("ns1/x.com").collect();
        assert_eq!(all.len(), ADDRESSES_MAX as usize);
        assert!(all.iter().all(|place| *place < ADDRESSES_MAX));
        assert_eq!(places("ns1/x.com").next(), places("ns1/x.com").next());
        assert_ne!(places("ns1/x.com").next(), places("ns2/x.com").next());
    }

    #[test]
    fn addresses_are_those_of_istio() {
        let texts = |place| addresses_at(place).map(|ip| ip.to_string());
        assert_eq!(texts(0), ["240.240.0.1", "2001:2::f0f0:1"]);
        assert_eq!(texts(254), ["240.240.1.1", "2001:2::f0f0:101"]);
        let last = texts(ADDRESSES_MAX - 1);
        assert_eq!(last, ["240.240.255.254", "2001:2::f0f0:fffe"]);
    }

    #[test]
    fn fnv_has_the_values_of_its_specification() {
        assert_eq!(fnv1(b""), 0x811c_9dc5);
        assert_eq!(fnv1(b"a"), 0x050c_5d7e);
    }
}
