//! Names and capacities of maps, programs and globals. Userspace takes them from here; a test
//! parses the built object and finds each one.

/// Namespace cookie to pod.
pub const PODS: &str = "PODS";
/// A node runs at most a few hundred pods; beyond this the pod is not captured, with a finding.
pub const PODS_MAX: u32 = 4096;
/// Pod-level cgroup id to host-network or not yet ready pod.
pub const HOST_PODS: &str = "HOST_PODS";
/// As [`PODS_MAX`].
pub const HOST_PODS_MAX: u32 = 4096;
/// Ports and ranges that pods exclude or include.
pub const EXCLUSIONS: &str = "EXCLUSIONS";
/// A dozen entries for every pod; beyond it the pod is not captured, with a finding.
pub const EXCLUSIONS_MAX: u32 = 65_536;
/// Cgroup ids of running daemons.
pub const DAEMONS: &str = "DAEMONS";
/// Restart and upgrade overlap; more than four at a time is a mistake.
pub const DAEMONS_MAX: u32 = 4;
/// Listening sockets by pod and family.
pub const LISTENERS: &str = "LISTENERS";
/// Two families for every pod of both tables.
pub const LISTENERS_MAX: u32 = 16_384;
/// Worker id to last heartbeat, monotonic ns; memory-mapped by the daemon.
pub const WORKERS: &str = "WORKERS";
/// One page of 8-byte heartbeats; one worker a core.
pub const WORKERS_MAX: u32 = 512;
/// The one [`crate::pod::NodeState`].
pub const NODE_STATE: &str = "NODE_STATE";
/// Address and port to service.
pub const SERVICES: &str = "SERVICES";
/// 10,000 services with a dozen ports in two families.
pub const SERVICES_MAX: u32 = 262_144;
/// Port and network to service.
pub const SERVICE_CIDRS: &str = "SERVICE_CIDRS";
/// ServiceEntries with ranges are few.
pub const SERVICE_CIDRS_MAX: u32 = 65_536;
/// Scope and service to what that scope does instead.
pub const OVERRIDES: &str = "OVERRIDES";
/// 200 scopes with 5,000 differences each; not preallocated.
pub const OVERRIDES_MAX: u32 = 1_048_576;
/// Scope id to what a miss means.
pub const SCOPES: &str = "SCOPES";
/// At most one scope a pod, twice while scopes change.
pub const SCOPES_MAX: u32 = 8192;
/// Cluster id to its endpoint ranges.
pub const CLUSTERS: &str = "CLUSTERS";
/// Cluster ids are below this; more clusters take the proxy path.
pub const CLUSTERS_MAX: u32 = 65_536;
/// Endpoint slots.
pub const ENDPOINTS: &str = "ENDPOINTS";
/// 12 MB; what does not fit takes the proxy path.
pub const ENDPOINTS_MAX: u32 = 524_288;
/// Split id to weighted clusters.
pub const SPLITS: &str = "SPLITS";
/// Split ids are below this.
pub const SPLITS_MAX: u32 = 65_536;
/// Cluster id to how many picks there were.
pub const ROUND_ROBINS: &str = "ROUND_ROBINS";
/// Endpoint to its live connections.
pub const LIVE_COUNTS: &str = "LIVE_COUNTS";
/// 2 MB; endpoints beyond share the last count.
pub const LIVE_COUNTS_MAX: u32 = 262_144;
/// Socket-local storage.
pub const SK_STORAGE: &str = "SK_STORAGE";
/// Captured connections that were not accepted yet.
pub const ORIGINAL_DSTS: &str = "ORIGINAL_DSTS";
/// Pods times backlog (1024), for 256 pods; beyond it a connection is refused and counted.
pub const ORIGINAL_DSTS_MAX: u32 = 262_144;
/// Pod to how many of its captured connections have not shaken hands yet.
pub const CONNECTING: &str = "CONNECTING";
/// Pods of both tables.
pub const CONNECTING_MAX: u32 = PODS_MAX + HOST_PODS_MAX;
/// As many as wait for accept at most: a handshake on loopback ends at once, unless the pod keeps
/// it from doing so. Beyond it the pod's connections take their degraded form, so that no pod
/// fills [`ORIGINAL_DSTS`].
pub const CONNECTING_PER_POD_MAX: u64 = 1024;
/// Flow records.
pub const FLOW_EVENTS: &str = "FLOW_EVENTS";
/// Bytes, a power of two: 8,192 records of 128 bytes with their headers do fit.
pub const FLOW_EVENTS_BYTES: u32 = 2 * 1024 * 1024;
/// Counter per [`crate::reason::Reason`], per CPU.
pub const REASONS: &str = "REASONS";

/// Every map that is pinned and adopted after a restart.
pub const PINNED: &[&str] = &[
    PODS,
    HOST_PODS,
    EXCLUSIONS,
    DAEMONS,
    LISTENERS,
    WORKERS,
    NODE_STATE,
    SERVICES,
    SERVICE_CIDRS,
    OVERRIDES,
    SCOPES,
    CLUSTERS,
    ENDPOINTS,
    SPLITS,
    ROUND_ROBINS,
    LIVE_COUNTS,
    SK_STORAGE,
    ORIGINAL_DSTS,
    CONNECTING,
    FLOW_EVENTS,
    REASONS,
];

/// Programs by function name, in the order in which they are attached.
pub const PROGRAMS: &[&str] = &[
    "mizzen_sock_ops",
    "mizzen_peer4",
    "mizzen_peer6",
    "mizzen_name4",
    "mizzen_name6",
    "mizzen_connect4",
    "mizzen_connect6",
];
/// The iterator over `SK_STORAGE`; not attached to a cgroup.
pub const LIVE_ITERATOR: &str = "mizzen_live";

/// Offsets in the running kernel's structures, set before loading.
pub const OFFSETS: &str = "OFFSETS";

/// Value of the [`OFFSETS`] global, from the kernel's own BTF. Zero means unknown.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offsets {
    /// `sock.sk_ack_backlog`.
    pub sk_ack_backlog: u32,
    /// `sock.sk_max_ack_backlog`.
    pub sk_max_ack_backlog: u32,
    /// `sock.sk_flags`.
    pub sk_flags: u32,
    /// `tcp_sock.bytes_acked`.
    pub bytes_acked: u32,
    /// `tcp_sock.bytes_received`.
    pub bytes_received: u32,
}
crate::plain_bytes!(Offsets, 20);
