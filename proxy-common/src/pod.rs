//! Pods as `connect()` knows them, what they exclude, and the node's own state.

use crate::{
    addr::{Addr, Family, PortBe},
    plain_bytes,
};

/// Which pod: a namespace, or in the host's namespace a pod-level cgroup.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct PodId {
    /// Namespace cookie or cgroup id.
    pub id: u64,
    /// [`PodId::NAMESPACE`] or [`PodId::CGROUP`]: the two kinds of number overlap.
    pub space: u32,
    /// Always zero.
    pub reserved: u32,
}
plain_bytes!(PodId, 16);

impl PodId {
    /// `id` is a namespace cookie (`SO_NETNS_COOKIE`).
    pub const NAMESPACE: u32 = 0;
    /// `id` is the inode of the pod-level cgroup.
    pub const CGROUP: u32 = 1;

    /// A pod with a namespace of its own.
    #[inline(always)]
    pub const fn namespace(cookie: u64) -> Self {
        Self {
            id: cookie,
            space: Self::NAMESPACE,
            reserved: 0,
        }
    }

    /// A pod in the host's namespace, or one whose namespace is not known yet.
    #[inline(always)]
    pub const fn cgroup(id: u64) -> Self {
        Self {
            id,
            space: Self::CGROUP,
            reserved: 0,
        }
    }
}

/// Value of `PODS` (keyed by namespace cookie) and `HOST_PODS` (by cgroup id).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PodValue {
    /// What the pod may see.
    pub scope: u32,
    /// Index of its home worker in `WORKERS`.
    pub worker: u32,
    /// The constants below.
    pub flags: u32,
    /// Port of the IPv4 listener on 127.0.0.1, zero without one.
    pub listener_v4: PortBe,
    /// Port of the IPv6 listener on ::1, zero without one.
    pub listener_v6: PortBe,
    /// The pod's own IPv4 addresses as words, zero when absent; the first is shown by getsockname.
    pub own_v4: [u32; 2],
    /// The pod's own IPv6 addresses.
    pub own_v6: [Addr; 2],
}
plain_bytes!(PodValue, 56);

impl PodValue {
    /// The namespace has a default route, or one by a gateway, for IPv4.
    pub const WAY_OUT_V4: u32 = 1;
    /// The same for IPv6.
    pub const WAY_OUT_V6: u32 = 1 << 1;
    /// Proxy down: pass, as plain Kubernetes would. Neither this nor deny: degrade.
    pub const DOWN_PASS: u32 = 1 << 2;
    /// Proxy down: refuse what needs it.
    pub const DOWN_DENY: u32 = 1 << 3;
    /// `EXCLUSIONS` holds entries of this pod.
    pub const HAS_EXCLUSIONS: u32 = 1 << 4;
    /// Only what `EXCLUSIONS` includes is captured (`includeOutboundIPRanges` is not `*`).
    pub const EXCLUDED_BY_DEFAULT: u32 = 1 << 5;
    /// Meshed, but not registered yet: refused under `strict`, else passed.
    pub const NOT_READY: u32 = 1 << 6;

    /// Port of the listener of one family.
    #[inline(always)]
    pub const fn listener(&self, family: Family) -> PortBe {
        match family {
            Family::V4 => self.listener_v4,
            Family::V6 => self.listener_v6,
        }
    }

    /// Whether `addr` is the pod's own.
    #[inline(always)]
    pub fn owns(&self, addr: Addr) -> bool {
        match addr.family() {
            Family::V4 => addr.words[3] == self.own_v4[0] || addr.words[3] == self.own_v4[1],
            Family::V6 => addr == self.own_v6[0] || addr == self.own_v6[1],
        }
    }

    /// The address that getsockname shows, unspecified when the pod has none of that family.
    #[inline(always)]
    pub fn shown_addr(&self, family: Family) -> Addr {
        match family {
            Family::V4 if self.own_v4[0] == 0 => Addr::UNSPECIFIED,
            Family::V4 => Addr::from_v4_word(self.own_v4[0]),
            Family::V6 => self.own_v6[0],
        }
    }

    /// Whether connections of this family can leave the pod at all.
    #[inline(always)]
    pub const fn has_way_out(&self, family: Family) -> bool {
        let flag = match family {
            Family::V4 => Self::WAY_OUT_V4,
            Family::V6 => Self::WAY_OUT_V6,
        };
        self.flags & flag != 0
    }
}

/// Data of an `EXCLUSIONS` key (a longest-prefix table): 16 bytes that must match whole, then an
/// address up to its prefix, or a port.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct ExclusionKey {
    /// Which pod.
    pub id: u64,
    /// As in [`PodId::space`].
    pub space: u32,
    /// [`ExclusionKey::ADDRESS`] or [`ExclusionKey::PORT`].
    pub kind: u32,
    /// The address; for a port its two bytes in front, the rest zero.
    pub addr: Addr,
}
plain_bytes!(ExclusionKey, 32);

impl ExclusionKey {
    /// The key holds an address.
    pub const ADDRESS: u32 = 0;
    /// The key holds a port.
    pub const PORT: u32 = 1;
    /// Bits in front of the address or port.
    pub const POD_BITS: u32 = 128;

    /// Key of an address.
    #[inline(always)]
    pub const fn address(pod: PodId, addr: Addr) -> Self {
        Self {
            id: pod.id,
            space: pod.space,
            kind: Self::ADDRESS,
            addr,
        }
    }

    /// Key of a port.
    #[inline(always)]
    pub const fn port(pod: PodId, port: PortBe) -> Self {
        let [first, second] = port.0.to_ne_bytes();
        let addr = Addr {
            words: [u32::from_ne_bytes([first, second, 0, 0]), 0, 0, 0],
        };
        Self {
            id: pod.id,
            space: pod.space,
            kind: Self::PORT,
            addr,
        }
    }
}

/// Value in `EXCLUSIONS`: never captured.
pub const EXCLUDED: u32 = 1;
/// Value in `EXCLUSIONS`: captured although the pod excludes by default.
pub const INCLUDED: u32 = 2;

/// Key of `LISTENERS`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct ListenerKey {
    /// Which pod.
    pub id: u64,
    /// As in [`PodId::space`].
    pub space: u32,
    /// 4 or 6, see [`Family::number`].
    pub family: u32,
}
plain_bytes!(ListenerKey, 16);

impl ListenerKey {
    /// Key of a pod's listener of one family.
    #[inline(always)]
    pub const fn new(pod: PodId, family: Family) -> Self {
        Self {
            id: pod.id,
            space: pod.space,
            family: family.number(),
        }
    }
}

/// The one value of `NODE_STATE`. Each field is written by itself.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NodeState {
    /// When a daemon last said that the maps are true, monotonic ns.
    pub renewed_ns: u64,
    /// How long that holds, ns; zero for ever.
    pub stale_after_ns: u64,
    /// How old a worker's heartbeat may be, ns.
    pub heartbeat_max_ns: u64,
    /// [`NodeState::HOST_PODS`], [`NodeState::STRICT`].
    pub flags: u32,
    /// Level of the cgroup that the programs are attached to; pods stand one to three below it.
    pub attach_level: u32,
    /// Cookie of the host's namespace: a ready pod of `HOST_PODS` is one there and nowhere else.
    pub host_netns: u64,
    /// Ports that the node's own services listen on, zero for none: an endpoint of a host pod with
    /// one of them is left to the proxy, which knows the host's addresses.
    pub guarded_ports: [PortBe; NodeState::GUARDED_PORTS_MAX],
}
plain_bytes!(NodeState, 56);

impl NodeState {
    /// Admin, metrics, health and the kubelet's two, with some to spare.
    pub const GUARDED_PORTS_MAX: usize = 8;
    /// `HOST_PODS` holds entries: look the caller's cgroups up when its namespace is unknown.
    pub const HOST_PODS: u32 = 1;
    /// Refuse connections of pods that are meshed but not ready.
    pub const STRICT: u32 = 2;

    /// Whether the maps' truth has run out at `now_ns`.
    #[inline(always)]
    pub const fn is_stale(&self, now_ns: u64) -> bool {
        self.stale_after_ns != 0 && now_ns.saturating_sub(self.renewed_ns) > self.stale_after_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_stale_only_after_the_limit_and_never_without_one() {
        let state = NodeState {
            renewed_ns: 1_000,
            stale_after_ns: 60,
            ..NodeState::default()
        };
        for (now, expected) in [(900, false), (1_000, false), (1_060, false), (1_061, true)] {
            assert_eq!(state.is_stale(now), expected, "at {now}");
        }
        assert!(
            !NodeState {
                stale_after_ns: 0,
                ..state
            }
            .is_stale(u64::MAX)
        );
    }

    #[test]
    fn an_absent_own_address_is_nobodys() {
        let pod = PodValue {
            own_v4: [u32::from_ne_bytes([10, 0, 0, 1]), 0],
            ..PodValue::default()
        };
        assert!(pod.owns(Addr::from_v4_word(u32::from_ne_bytes([10, 0, 0, 1]))));
        assert!(!pod.owns(Addr::from_v4_word(u32::from_ne_bytes([10, 0, 0, 2]))));
        assert_eq!(pod.shown_addr(Family::V6), Addr::UNSPECIFIED);
    }
}
