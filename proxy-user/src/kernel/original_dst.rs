//! Original destinations: taken once by accept, swept when nobody came.

use std::{
    collections::HashSet,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use aya::maps::{HashMap, MapData};
use proxy_common::{
    addr::{Addr, PortBe},
    map::{CONNECTING, CONNECTING_PER_POD_MAX, ORIGINAL_DSTS},
    pod::PodId,
    socket::{OriginalDstKey, OriginalDstValue},
};

use super::{KernelError, Listeners, maps::removed, sys};
use crate::net::{Accepted, CapturedDst, OriginalDst, OriginalDstSource, monotonic_ns};

/// A connection that nobody accepted for this long is not in the queue any more.
const ABANDONED_AFTER: Duration = Duration::from_secs(60);

/// [`OriginalDstSource`] by one system call a connection.
pub(super) struct KernelOriginalDsts {
    map: OwnedFd,
}

impl KernelOriginalDsts {
    pub(super) fn new(map: &MapData) -> Result<Self, KernelError> {
        let map = map
            .fd()
            .as_fd()
            .try_clone_to_owned()
            .map_err(|error| KernelError::map("open", ORIGINAL_DSTS, error))?;
        Ok(Self { map })
    }
}

impl OriginalDstSource for KernelOriginalDsts {
    fn take(&self, accepted: &Accepted) -> Option<CapturedDst> {
        let key = OriginalDstKey {
            netns_cookie: accepted.netns.0,
            addr: Addr::from_ip(accepted.client.ip()),
            port: PortBe::from_host(accepted.client.port()),
            listener: PortBe::from_host(accepted.listener),
            reserved: 0,
        };
        match sys::map_take::<_, OriginalDstValue>(self.map.as_fd(), &key) {
            Ok(value) => value
                .filter(|value| is_of(value, accepted))
                .map(|value| captured(&value)),
            Err(error) => {
                tracing::warn!(%error, "cannot take an original destination; the connection is refused");
                None
            }
        }
    }
}

/// In the host's namespace anybody may dial a listener, and what a dead daemon left on its port
/// was for another listener, perhaps another pod's.
fn is_of(value: &OriginalDstValue, accepted: &Accepted) -> bool {
    value.pod == accepted.pod && value.inserted_ns >= accepted.listening_since_ns
}

fn captured(value: &OriginalDstValue) -> CapturedDst {
    CapturedDst {
        dst: OriginalDst(SocketAddr::new(value.addr.to_ip(), value.port.to_host())),
    }
}

/// How many entries each pod has.
type EntriesByPod = std::collections::HashMap<PodId, u64>;

/// Puts counts right that are half of what is allowed and more than there are entries: a change
/// that no program saw, such as while links were made anew.
pub(super) fn repair_connecting(
    connecting: &mut HashMap<MapData, PodId, u64>,
    entries: &EntriesByPod,
) -> Result<(), KernelError> {
    let outdated: Vec<(PodId, u64)> = connecting
        .iter()
        .filter_map(Result::ok)
        .filter(|(_, count)| *count >= CONNECTING_PER_POD_MAX / 2)
        .filter_map(|(pod, count)| {
            let most = entries.get(&pod).copied().unwrap_or(0);
            (count > most).then_some((pod, most))
        })
        .collect();
    for (pod, most) in outdated {
        connecting
            .insert(pod, most, 0)
            .map_err(|error| KernelError::map("write", CONNECTING, error))?;
    }
    Ok(())
}

/// Removes what nobody will accept.
#[derive(Default)]
pub(super) struct Sweeper {
    /// Entries that were too old in the sweep before, while their worker ran.
    suspects: HashSet<OriginalDstKey>,
}

impl Sweeper {
    /// Removes entries that are too old, or whose listener is gone; returns how many, and how
    /// many each pod had. An old one
    /// goes when two sweeps in a row meet it and its worker runs: the queue of a daemon that was
    /// stopped for long is accepted in between.
    pub(super) fn sweep(
        &mut self,
        map: &mut HashMap<MapData, OriginalDstKey, OriginalDstValue>,
        listeners: &Listeners,
        runs: impl Fn(u32) -> bool,
    ) -> Result<(usize, EntriesByPod), KernelError> {
        let now_ns = monotonic_ns();
        let mut abandoned = Vec::new();
        let mut suspects = HashSet::new();
        let mut by_pod = EntriesByPod::new();
        for entry in map.iter() {
            // The kernel changes the map meanwhile; a skipped entry is met by the next sweep.
            let Ok((key, value)) = entry else {
                continue;
            };
            *by_pod.entry(value.pod).or_default() += 1;
            let age_ns = now_ns.saturating_sub(value.inserted_ns);
            let listener = (key.netns_cookie, key.addr.family(), key.listener.to_host());
            match listeners.get(&listener) {
                None => abandoned.push(key),
                Some(worker) if is_old(age_ns) && runs(*worker) => {
                    if self.suspects.contains(&key) {
                        abandoned.push(key);
                    } else {
                        suspects.insert(key);
                    }
                }
                Some(_) => {}
            }
        }
        self.suspects = suspects;
        for key in &abandoned {
            removed(map.remove(key))
                .map_err(|error| KernelError::map("remove from", ORIGINAL_DSTS, error))?;
        }
        Ok((abandoned.len(), by_pod))
    }
}

fn is_old(age_ns: u64) -> bool {
    u128::from(age_ns) > ABANDONED_AFTER.as_nanos()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::NetnsCookie;

    #[test]
    fn an_entry_is_of_its_pod_and_of_no_earlier_listener() {
        let accepted = Accepted {
            pod: PodId::cgroup(7),
            netns: NetnsCookie(1),
            listener: 15001,
            listening_since_ns: 100,
            client: "127.0.0.1:40000".parse().expect("an address"),
        };
        for (pod, inserted_ns, expected) in [
            (PodId::cgroup(7), 100, true),
            (PodId::cgroup(7), 99, false), // the daemon before had this port
            (PodId::cgroup(8), 200, false), // another pod had it
            (PodId::namespace(7), 200, false), // the numbers overlap
        ] {
            let value = OriginalDstValue {
                pod,
                inserted_ns,
                ..OriginalDstValue::default()
            };
            assert_eq!(is_of(&value, &accepted), expected, "{pod:?} {inserted_ns}");
        }
    }
}
