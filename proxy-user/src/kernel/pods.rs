//! Pods into `PODS`, `HOST_PODS` and `EXCLUSIONS`: exclusions first, then the pod; the other way
//! round when it goes.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
};

use aya::maps::lpm_trie::Key;
use ipnet::IpNet;
use proxy_common::{
    addr::{Addr, Family, PortBe},
    map,
    pod::{EXCLUDED, ExclusionKey, INCLUDED, PodId, PodValue},
};

use super::{KernelError, Listeners, PodEntry, load::Maps, maps::removed};
use crate::{settings::OnProxyDown, snapshot::Exclusions};

/// `bpf(2)`: only where there is no such key.
const BPF_NOEXIST: u64 = 1;

/// Entries of `EXCLUSIONS`: (prefix bits, key) to value.
type ExclusionEntries = BTreeMap<(u32, ExclusionKey), u32>;

/// The pods that the maps hold, as this process wrote them.
#[derive(Default)]
pub(super) struct Pods {
    by_id: HashMap<PodId, Known>,
}

struct Known {
    scope: u32,
    netns: u64,
    worker: u32,
    ports: [Option<u16>; 2],
    exclusions: ExclusionEntries,
}

impl Pods {
    /// Writes one pod. `scope`: its scope's id.
    pub(super) fn upsert(
        &mut self,
        maps: &mut Maps,
        pod: &PodEntry,
        scope: u32,
    ) -> Result<(), KernelError> {
        let exclusions = exclusion_entries(pod.id, &pod.exclusions);
        for ((bits, key), value) in &exclusions {
            maps.exclusions
                .insert(&Key::new(*bits, *key), value, 0)
                .map_err(|error| KernelError::map("insert into", map::EXCLUSIONS, error))?;
        }
        let value = pod_value(pod, scope, !exclusions.is_empty());
        let (table, name) = if pod.id.space == PodId::CGROUP {
            (&mut maps.host_pods, map::HOST_PODS)
        } else {
            (&mut maps.pods, map::PODS)
        };
        table
            .insert(pod.id.id, value, 0)
            .map_err(|error| KernelError::map("insert into", name, error))?;
        // Counted by the kernel from then on. Without room the pod is not bounded, nothing worse.
        let _ = maps.connecting.insert(pod.id, 0, BPF_NOEXIST);
        let known = Known {
            scope,
            netns: pod.netns.0,
            worker: pod.worker,
            ports: [pod.listener_v4, pod.listener_v6],
            exclusions: exclusions.clone(),
        };
        let earlier = self.by_id.insert(pod.id, known);
        let outdated = earlier
            .into_iter()
            .flat_map(|earlier| earlier.exclusions)
            .map(|(key, _)| key);
        remove_exclusions(maps, outdated.filter(|key| !exclusions.contains_key(key)))
    }

    /// Removes one pod, also one that an earlier daemon wrote.
    pub(super) fn remove(&mut self, maps: &mut Maps, id: PodId) -> Result<(), KernelError> {
        let (table, name) = if id.space == PodId::CGROUP {
            (&mut maps.host_pods, map::HOST_PODS)
        } else {
            (&mut maps.pods, map::PODS)
        };
        removed(table.remove(&id.id))
            .map_err(|error| KernelError::map("remove from", name, error))?;
        removed(maps.connecting.remove(&id))
            .map_err(|error| KernelError::map("remove from", map::CONNECTING, error))?;
        match self.by_id.remove(&id) {
            Some(known) => remove_exclusions(maps, known.exclusions.into_keys()),
            None => Ok(()),
        }
    }

    /// Removes the pods of an earlier daemon that this one has not named; returns how many.
    pub(super) fn remove_strangers(&mut self, maps: &mut Maps) -> Result<usize, KernelError> {
        let namespaces = maps.pods.keys().flatten().map(PodId::namespace);
        let cgroups = maps.host_pods.keys().flatten().map(PodId::cgroup);
        let strangers: Vec<PodId> = namespaces
            .chain(cgroups)
            .filter(|id| !self.by_id.contains_key(id))
            .collect();
        for id in &strangers {
            self.remove(maps, *id)?;
        }
        let is_known = |key: &ExclusionKey| {
            self.by_id
                .keys()
                .any(|id| (id.id, id.space) == (key.id, key.space))
        };
        let left: Vec<(u32, ExclusionKey)> = maps
            .exclusions
            .keys()
            .flatten()
            .map(|key| (key.prefix_len(), key.data()))
            .filter(|(_, key)| !is_known(key))
            .collect();
        remove_exclusions(maps, left.into_iter())?;
        Ok(strangers.len())
    }

    /// Entries in `PODS`, `HOST_PODS` and `EXCLUSIONS`.
    pub(super) fn counts(&self) -> (usize, usize, usize) {
        let host_pods = self
            .by_id
            .keys()
            .filter(|id| id.space == PodId::CGROUP)
            .count();
        let exclusions = self
            .by_id
            .values()
            .map(|known| known.exclusions.len())
            .sum();
        (self.by_id.len() - host_pods, host_pods, exclusions)
    }

    /// Ids of scopes that a pod in the maps names, also one that an earlier daemon wrote.
    pub(super) fn scopes_in_use(&self, maps: &Maps) -> HashSet<u32> {
        let own = self.by_id.values().map(|known| known.scope);
        let tables = [&maps.pods, &maps.host_pods];
        let all = tables
            .iter()
            .flat_map(|table| table.iter())
            .filter_map(|entry| Some(entry.ok()?.1.scope));
        own.chain(all).collect()
    }

    /// All listeners with their home workers.
    pub(super) fn listeners(&self) -> Listeners {
        let of = |known: &Known| {
            let (netns, worker) = (known.netns, known.worker);
            [Family::V4, Family::V6]
                .into_iter()
                .zip(known.ports)
                .filter_map(move |(family, port)| Some(((netns, family, port?), worker)))
        };
        self.by_id.values().flat_map(of).collect()
    }
}

fn remove_exclusions(
    maps: &mut Maps,
    keys: impl Iterator<Item = (u32, ExclusionKey)>,
) -> Result<(), KernelError> {
    for (bits, key) in keys {
        removed(maps.exclusions.remove(&Key::new(bits, key)))
            .map_err(|error| KernelError::map("remove from", map::EXCLUSIONS, error))?;
    }
    Ok(())
}

fn pod_value(pod: &PodEntry, scope: u32, has_exclusions: bool) -> PodValue {
    let down = match pod.on_proxy_down {
        OnProxyDown::Degrade => 0,
        OnProxyDown::Pass => PodValue::DOWN_PASS,
        OnProxyDown::Deny => PodValue::DOWN_DENY,
    };
    let excluded_by_default = pod.exclusions.include_ranges.is_some();
    let flags = [
        (pod.has_way_out_v4, PodValue::WAY_OUT_V4),
        (pod.has_way_out_v6, PodValue::WAY_OUT_V6),
        (
            has_exclusions || excluded_by_default,
            PodValue::HAS_EXCLUSIONS,
        ),
        (excluded_by_default, PodValue::EXCLUDED_BY_DEFAULT),
        (!pod.is_ready, PodValue::NOT_READY),
    ];
    let port = |port: Option<u16>| PortBe::from_host(port.unwrap_or(0));
    let mut value = PodValue {
        scope,
        worker: pod.worker,
        flags: flags
            .iter()
            .filter(|(is_set, _)| *is_set)
            .fold(down, |all, (_, flag)| all | flag),
        listener_v4: port(pod.listener_v4),
        listener_v6: port(pod.listener_v6),
        ..PodValue::default()
    };
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = pod
        .addresses
        .iter()
        .map(IpAddr::to_canonical)
        .partition(IpAddr::is_ipv4);
    for (to, from) in value.own_v4.iter_mut().zip(v4) {
        *to = Addr::from_ip(from).words[3];
    }
    for (to, from) in value.own_v6.iter_mut().zip(v6) {
        *to = Addr::from_ip(from);
    }
    value
}

/// The longest prefix wins in the table, but an excluded range wins always in Istio: included
/// ranges within an excluded one are left out.
fn exclusion_entries(pod: PodId, exclusions: &Exclusions) -> ExclusionEntries {
    let mut entries = ExclusionEntries::new();
    let range = |network: &IpNet| {
        let mapped_bits = if network.addr().is_ipv4() { 96 } else { 0 };
        let bits = ExclusionKey::POD_BITS + mapped_bits + u32::from(network.prefix_len());
        (
            bits,
            ExclusionKey::address(pod, Addr::from_ip(network.trunc().addr())),
        )
    };
    let port = |port: &u16| {
        (
            ExclusionKey::POD_BITS + 16,
            ExclusionKey::port(pod, PortBe::from_host(*port)),
        )
    };
    for network in exclusions.include_ranges.iter().flatten() {
        if !exclusions
            .exclude_ranges
            .iter()
            .any(|excluded| excluded.contains(network))
        {
            entries.insert(range(network), INCLUDED);
        }
    }
    entries.extend(
        exclusions
            .include_ports
            .iter()
            .map(|number| (port(number), INCLUDED)),
    );
    entries.extend(
        exclusions
            .exclude_ranges
            .iter()
            .map(|network| (range(network), EXCLUDED)),
    );
    entries.extend(
        exclusions
            .exclude_ports
            .iter()
            .map(|number| (port(number), EXCLUDED)),
    );
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excluded_range_hides_the_included_ones_within_it() {
        let pod = PodId::namespace(7);
        let networks = |texts: &[&str]| -> Vec<IpNet> {
            texts
                .iter()
                .map(|text| text.parse().expect("a network"))
                .collect()
        };
        let exclusions = Exclusions {
            exclude_ports: vec![22],
            exclude_ranges: networks(&["10.0.0.0/8"]),
            include_ports: vec![22, 80],
            include_ranges: Some(networks(&["10.1.0.0/16", "192.168.0.0/16", "0.0.0.0/0"])),
        };
        let entries = exclusion_entries(pod, &exclusions);
        let mut seen: Vec<_> = entries
            .iter()
            .map(|((bits, key), value)| (key.kind, *bits - 128, *value))
            .collect();
        seen.sort_unstable();
        // 10.1.0.0/16 is missing; port 22 is excluded although it is included too.
        let expected = [
            (ExclusionKey::ADDRESS, 96, INCLUDED),
            (ExclusionKey::ADDRESS, 96 + 8, EXCLUDED),
            (ExclusionKey::ADDRESS, 96 + 16, INCLUDED),
            (ExclusionKey::PORT, 16, EXCLUDED),
            (ExclusionKey::PORT, 16, INCLUDED),
        ];
        assert_eq!(seen, expected);
    }
}
