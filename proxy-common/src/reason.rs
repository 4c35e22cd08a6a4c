//! Why `connect()` did what it did; one counter each.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $label:literal;)*) => {
        /// Why a connection passed, was refused or was rewritten, and what went wrong on the way.
        /// Each has a counter in `REASONS`.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum Reason {
            $($(#[$doc])* $name = $number,)*
        }

        impl Reason {
            /// All of them, by number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Name as metrics and `mizzen status` show it.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }

            /// The reason behind a number in a map.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

reasons! {
    /// No reason recorded.
    None = 0, "none";
    /// Step 1: the daemon's own connection.
    Daemon = 1, "daemon";
    /// Step 2: UDP, ICMP or another protocol.
    NotTcp = 2, "not_tcp";
    /// Step 2: a subflow of MPTCP.
    Mptcp = 3, "mptcp";
    /// Step 3: the socket is bound to a device.
    BoundDevice = 4, "bound_device";
    /// Step 4: the unspecified address.
    Unspecified = 5, "unspecified";
    /// Step 4: a loopback address.
    Loopback = 6, "loopback";
    /// Step 4: a link-local address.
    LinkLocal = 7, "link_local";
    /// Step 4: a multicast or broadcast address.
    Multicast = 8, "multicast";
    /// Step 4: the pod's own address.
    OwnAddress = 9, "own_address";
    /// Step 4, refused: the pod dialled its own listener.
    OwnListener = 10, "own_listener";
    /// Step 5: not a pod that is captured.
    PodUnknown = 11, "pod_unknown";
    /// Step 5, refused: meshed, not ready, and `strict` is on.
    PodNotReady = 12, "pod_not_ready";
    /// Step 6: excluded port or range.
    Excluded = 13, "excluded";
    /// Step 7: no service, and the scope allows any.
    NoService = 14, "no_service";
    /// Step 7, refused: no service under REGISTRY_ONLY.
    RegistryOnly = 15, "registry_only";
    /// Step 9: the pod has no route of this family.
    NoWayOut = 16, "no_way_out";
    /// Step 10: a known service that no rule touches.
    NoRule = 17, "no_rule";
    /// Step 10: the kernel chose an endpoint.
    KernelPath = 18, "kernel_path";
    /// Step 10: the kernel chose a PASSTHROUGH cluster.
    Passthrough = 19, "passthrough";
    /// Step 10, refused: no endpoint, or the subset is missing.
    NoEndpoint = 20, "no_endpoint";
    /// Step 10, refused by the compiled rule.
    RefusedByRule = 21, "refused_by_rule";
    /// Step 10: the maps are stale and Kubernetes routes the address itself.
    Stale = 22, "stale";
    /// Step 11: handed to the pod's listener.
    ProxyPath = 23, "proxy_path";
    /// Step 11: proxy down, passed as the pod or the compiled rule asks.
    DegradedPass = 24, "degraded_pass";
    /// Step 11: proxy down, endpoint chosen by the L4 part of the rule.
    DegradedKernel = 25, "degraded_kernel";
    /// Step 11, refused: proxy down, and the pod or the compiled rule denies.
    DegradedDeny = 26, "degraded_deny";
    /// The chosen source address and port are in use towards the listener: passed.
    SourceTaken = 27, "source_taken";
    /// The scope of the pod has no entry: passed.
    ScopeUnknown = 28, "scope_unknown";
    /// Counted beside the verdict: a cluster or split was of another generation.
    Generation = 29, "generation_mismatch";
    /// Counted beside the verdict: no endpoint of the socket's family, so the proxy took it.
    OtherFamily = 30, "other_family";
    /// Counted beside the verdict: no listener in the table.
    ListenerGone = 31, "listener_gone";
    /// Counted beside the verdict: the listener's backlog is three quarters full.
    BacklogFull = 32, "backlog_full";
    /// Counted beside the verdict: the home worker's heartbeat is too old.
    WorkerSilent = 33, "worker_silent";
    /// Counted beside the verdict: no memory for the socket's state.
    StorageFailed = 34, "storage_failed";
    /// Counted beside the verdict: no room for an original destination.
    OriginalDstFull = 35, "original_dst_full";
    /// A flow event did not fit the ring buffer.
    FlowDropped = 36, "flow_dropped";
    /// Counted beside the verdict: `connect()` was answered ECONNREFUSED.
    Refused = 37, "refused";
    /// Step 10, refused: a host pod's endpoint is an address that only the host itself may reach.
    HostGuard = 38, "host_guard";
    /// Counted beside the verdict: a host pod's endpoint has a port of the node's own services, so
    /// the proxy decides.
    GuardedPort = 39, "guarded_port";
    /// Counted beside the verdict: too many of the pod's captured connections are in handshake.
    ConnectingFull = 40, "connecting_full";
}

/// Number of counters in `REASONS`.
pub const REASONS_MAX: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_dense_and_labels_are_unique() {
        let mut labels = std::collections::BTreeSet::new();
        for (number, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, number);
            assert_eq!(Reason::from_number(*reason as u8), Some(*reason));
            assert!(labels.insert(reason.label()), "{} twice", reason.label());
        }
        assert!(Reason::ALL.len() <= REASONS_MAX as usize);
    }
}
