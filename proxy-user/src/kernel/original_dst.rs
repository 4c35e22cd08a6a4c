//! Original destinations: taken once by accept, swept when nobody came.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use aya::maps::{HashMap, MapData};
use proxy_common::{
    addr::{Addr, Family, PortBe},
    map::ORIGINAL_DSTS,
    socket::{OriginalDstKey, OriginalDstValue},
};

use super::{KernelError, ListenerPorts, maps::removed, monotonic_ns, sys};
use crate::net::{CapturedDst, NetnsCookie, OriginalDst, OriginalDstSource};

/// A connection that nobody accepted for this long is not in the queue any more.
const ABANDONED_AFTER: Duration = Duration::from_secs(60);

/// [`OriginalDstSource`] by one system call a connection.
pub(super) struct KernelOriginalDsts {
    map: OwnedFd,
    ports: Arc<ArcSwap<ListenerPorts>>,
}

impl KernelOriginalDsts {
    pub(super) fn new(
        map: &MapData,
        ports: Arc<ArcSwap<ListenerPorts>>,
    ) -> Result<Self, KernelError> {
        let map = map
            .fd()
            .as_fd()
            .try_clone_to_owned()
            .map_err(|error| KernelError::map("open", ORIGINAL_DSTS, error))?;
        Ok(Self { map, ports })
    }
}

impl OriginalDstSource for KernelOriginalDsts {
    fn take(&self, netns: NetnsCookie, client: SocketAddr) -> Option<CapturedDst> {
        let addr = Addr::from_ip(client.ip());
        let ports = self.ports.load();
        // One port, but for the host's namespace, where each pod has a listener of its own.
        ports.get(&(netns.0, addr.family()))?.iter().find_map(|listener| {
            let key = OriginalDstKey {
                netns_cookie: netns.0,
                addr,
                port: PortBe::from_host(client.port()),
                listener: PortBe::from_host(*listener),
                reserved: 0,
            };
            match sys::map_take::<_, OriginalDstValue>(self.map.as_fd(), &key) {
                Ok(value) => value.map(captured),
                Err(error) => {
                    tracing::warn!(%error, "cannot take an original destination; the connection is refused");
                    None
                }
            }
        })
    }
}

fn captured(value: OriginalDstValue) -> CapturedDst {
    CapturedDst {
        dst: OriginalDst(SocketAddr::new(value.addr.to_ip(), value.port.to_host())),
    }
}

/// Removes entries that are too old, or whose listener is gone; returns how many.
pub(super) fn sweep(
    map: &mut HashMap<MapData, OriginalDstKey, OriginalDstValue>,
    ports: &ListenerPorts,
) -> Result<usize, KernelError> {
    let now_ns = monotonic_ns();
    let mut abandoned = Vec::new();
    for entry in map.iter() {
        // The kernel changes the map meanwhile; a skipped entry is met by the next sweep.
        let Ok((key, value)) = entry else {
            continue;
        };
        let is_old = now_ns.saturating_sub(value.inserted_ns) > ABANDONED_AFTER.as_nanos() as u64;
        let family: Family = key.addr.family();
        let has_listener = ports
            .get(&(key.netns_cookie, family))
            .is_some_and(|ports| ports.contains(&key.listener.to_host()));
        if is_old || !has_listener {
            abandoned.push(key);
        }
    }
    for key in &abandoned {
        removed(map.remove(key))
            .map_err(|error| KernelError::map("remove from", ORIGINAL_DSTS, error))?;
    }
    Ok(abandoned.len())
}
