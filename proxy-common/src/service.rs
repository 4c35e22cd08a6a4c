//! Services, what happens to a connection to one, and what a scope sees differently.

use crate::{
    addr::{Addr, PortBe},
    plain_bytes,
};

/// Key of `SERVICES`: 20 bytes, alignment 4.
///
/// An unspecified address makes the entry port-wide: it catches every address on that port that
/// no other entry names, as Istio's `0.0.0.0_PORT` listeners do.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct ServiceKey {
    /// Virtual address, or unspecified for a port-wide entry.
    pub addr: Addr,
    /// Network byte order, as the hook hands it over.
    pub port: PortBe,
    /// Always zero, so that equal keys are equal bytes.
    pub reserved: u16,
}
plain_bytes!(ServiceKey, 20);

impl ServiceKey {
    /// Key of the entry for this address and port.
    #[inline(always)]
    pub const fn new(addr: Addr, port: PortBe) -> Self {
        Self {
            addr,
            port,
            reserved: 0,
        }
    }

    /// Key of the port-wide entry.
    #[inline(always)]
    pub const fn port_wide(port: PortBe) -> Self {
        Self::new(Addr::UNSPECIFIED, port)
    }
}

/// Data of a `SERVICE_CIDRS` key (a longest-prefix table): the port must match whole, the address
/// up to the prefix.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct CidrKey {
    /// Network byte order.
    pub port: PortBe,
    /// Always zero.
    pub reserved: u16,
    /// Network address.
    pub addr: Addr,
}
plain_bytes!(CidrKey, 20);

impl CidrKey {
    /// Bits in front of the address.
    pub const PORT_BITS: u32 = 32;
    /// Bits of a whole key, for lookups.
    pub const FULL_BITS: u32 = Self::PORT_BITS + 128;
}

/// What to do with a connection. The kinds are the constants below.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Action {
    /// One of [`Action::PASS`] to [`Action::HIDDEN`]; an unknown one passes.
    pub kind: u8,
    /// Why, as a [`crate::reason::Reason`] number; zero lets the decision name its own.
    pub reason: u8,
    /// [`Action::DENY_WHEN_STALE`].
    pub flags: u8,
    /// Always zero.
    pub reserved: u8,
    /// Cluster id or split id.
    pub target: u32,
    /// Generation that the target must carry; another one means that the id was given to
    /// something else since.
    pub generation: u32,
}
plain_bytes!(Action, 12);

impl Action {
    /// Leave the connection alone.
    pub const PASS: u8 = 0;
    /// ECONNREFUSED.
    pub const REFUSE: u8 = 1;
    /// Hand it to the pod's listener.
    pub const PROXY: u8 = 2;
    /// An endpoint of cluster `target`, chosen here.
    pub const CLUSTER: u8 = 3;
    /// A destination of split `target`, then an endpoint of its cluster.
    pub const SPLIT: u8 = 4;
    /// Not seen: by this scope in an override, by scopes without an override in a service.
    pub const HIDDEN: u8 = 5;
    /// In an override of a scope whose misses are hidden: seen, with the service's own action.
    pub const VISIBLE: u8 = 6;

    /// Refuse, instead of passing, when the maps are stale: passing would leak or bypass.
    pub const DENY_WHEN_STALE: u8 = 1;

    /// An action without a target.
    #[inline(always)]
    pub const fn plain(kind: u8) -> Self {
        Self {
            kind,
            reason: 0,
            flags: 0,
            reserved: 0,
            target: 0,
            generation: 0,
        }
    }

    /// An action with a cluster or split.
    #[inline(always)]
    pub const fn with_target(kind: u8, target: u32, generation: u32) -> Self {
        Self {
            kind,
            reason: 0,
            flags: 0,
            reserved: 0,
            target,
            generation,
        }
    }
}

/// Value of `SERVICES` and `SERVICE_CIDRS`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ServiceValue {
    /// Names the service in `OVERRIDES` and flow records; never zero.
    pub service_id: u32,
    /// [`ServiceValue::HAS_OVERRIDES`] and [`ServiceValue::ROUTED_BY_KUBERNETES`].
    pub flags: u32,
    /// What scopes without an override do.
    pub action: Action,
    /// What they do when the proxy is down; never [`Action::PROXY`].
    pub degraded: Action,
}
plain_bytes!(ServiceValue, 32);

impl ServiceValue {
    /// Some scope has an entry in `OVERRIDES`.
    pub const HAS_OVERRIDES: u32 = 1;
    /// The address is reachable without Mizzen (a clusterIP), so that stale entries may pass.
    pub const ROUTED_BY_KUBERNETES: u32 = 2;
}

/// Key of `OVERRIDES`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct OverrideKey {
    /// Scope of the client pod.
    pub scope: u32,
    /// See [`ServiceValue::service_id`].
    pub service_id: u32,
}
plain_bytes!(OverrideKey, 8);

/// Value of `OVERRIDES`: what one scope does instead.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OverrideValue {
    /// As in [`ServiceValue::action`], or hidden, or visible.
    pub action: Action,
    /// As in [`ServiceValue::degraded`].
    pub degraded: Action,
}
plain_bytes!(OverrideValue, 24);

/// Value of `SCOPES`, keyed by scope id.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScopeValue {
    /// Hash of the scope's name, so that a new daemon finds its id again.
    pub key_hash: u64,
    /// [`ScopeValue::MISS_IS_HIDDEN`] and [`ScopeValue::REGISTRY_ONLY`].
    pub flags: u32,
    /// Always zero.
    pub reserved: u32,
}
plain_bytes!(ScopeValue, 16);

impl ScopeValue {
    /// A service without an override is hidden; else it is seen with its default action. The
    /// compiler picks what keeps `OVERRIDES` smaller.
    pub const MISS_IS_HIDDEN: u32 = 1;
    /// Destinations that no service owns are refused (Istio `outboundTrafficPolicy`).
    pub const REGISTRY_ONLY: u32 = 2;
}
