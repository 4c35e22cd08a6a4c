//! Every map with its writer, its readers and what happens when it is full.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_RB_NO_WAKEUP},
    btf_maps::SkStorage,
    helpers::bpf_ktime_get_ns,
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, PerCpuArray, RingBuf, SockHash},
};
use proxy_common::{
    cluster::{ClusterValue, EndpointValue, SplitValue},
    map::{self, Offsets},
    pod::{ExclusionKey, ListenerKey, NodeState, PodId, PodValue},
    reason::{REASONS_MAX, Reason},
    service::{CidrKey, OverrideKey, OverrideValue, ScopeValue, ServiceKey, ServiceValue},
    socket::{OriginalDstKey, OriginalDstValue, SocketState},
};

/// Namespace cookie to pod. Written by `kernel` when a pod is ready, read by connect and sock_ops.
/// Full: the pod is not captured, with a finding.
#[map]
pub(crate) static PODS: HashMap<u64, PodValue> =
    HashMap::with_max_entries(map::PODS_MAX, BPF_F_NO_PREALLOC);

/// Pod-level cgroup id to pod. Written by `kernel`, read by connect when the namespace is unknown.
/// Full: as `PODS`.
#[map]
pub(crate) static HOST_PODS: HashMap<u64, PodValue> =
    HashMap::with_max_entries(map::HOST_PODS_MAX, BPF_F_NO_PREALLOC);

/// Ports and ranges of pods. Written before the pod, read by connect. Full: as `PODS`.
#[map]
pub(crate) static EXCLUSIONS: LpmTrie<ExclusionKey, u32> =
    LpmTrie::with_max_entries(map::EXCLUSIONS_MAX, BPF_F_NO_PREALLOC);

/// Cgroup ids of running daemons. Written before a daemon's first upstream socket, read by connect.
#[map]
pub(crate) static DAEMONS: HashMap<u64, u32> = HashMap::with_max_entries(map::DAEMONS_MAX, 0);

/// Listening sockets inside pods; the kernel drops a closed one by itself. Read by connect.
#[map]
pub(crate) static LISTENERS: SockHash<ListenerKey> =
    SockHash::with_max_entries(map::LISTENERS_MAX, 0);

/// Heartbeats, monotonic ns. Written by workers through a memory mapping, read by connect.
/// Needs Linux 5.5.
#[map]
pub(crate) static WORKERS: Array<u64> = Array::with_max_entries(map::WORKERS_MAX, BPF_F_MMAPABLE);

/// Renewal and switches of the node. Written by `kernel`, read by connect.
#[map]
pub(crate) static NODE_STATE: Array<NodeState> = Array::with_max_entries(1, 0);

/// (address, port) to service. Written by `kernel::sync`, read by connect. Full: a finding names
/// the service, whose connections pass.
#[map]
pub(crate) static SERVICES: HashMap<ServiceKey, ServiceValue> =
    HashMap::with_max_entries(map::SERVICES_MAX, BPF_F_NO_PREALLOC);

/// (port, network) to service. Written by `kernel::sync`, read by connect. Full: as `SERVICES`.
#[map]
pub(crate) static SERVICE_CIDRS: LpmTrie<CidrKey, ServiceValue> =
    LpmTrie::with_max_entries(map::SERVICE_CIDRS_MAX, BPF_F_NO_PREALLOC);

/// (scope, service) to what that scope does instead. Written by `kernel::sync`, read by connect.
#[map]
pub(crate) static OVERRIDES: HashMap<OverrideKey, OverrideValue> =
    HashMap::with_max_entries(map::OVERRIDES_MAX, BPF_F_NO_PREALLOC);

/// Scope to what a miss means. Written before pods of the scope, read by connect.
#[map]
pub(crate) static SCOPES: HashMap<u32, ScopeValue> =
    HashMap::with_max_entries(map::SCOPES_MAX, BPF_F_NO_PREALLOC);

/// Cluster to its endpoint ranges. Written after them, read by connect. Full: the cluster's
/// connections take the proxy path.
#[map]
pub(crate) static CLUSTERS: HashMap<u32, ClusterValue> =
    HashMap::with_max_entries(map::CLUSTERS_MAX, BPF_F_NO_PREALLOC);

/// Endpoint slots in immutable ranges. Written by `kernel::sync`, read by connect.
#[map]
pub(crate) static ENDPOINTS: Array<EndpointValue> = Array::with_max_entries(map::ENDPOINTS_MAX, 0);

/// Weighted splits. Written after their clusters, read by connect.
#[map]
pub(crate) static SPLITS: HashMap<u32, SplitValue> =
    HashMap::with_max_entries(map::SPLITS_MAX, BPF_F_NO_PREALLOC);

/// Turns of each cluster. Written and read by connect.
#[map]
pub(crate) static ROUND_ROBINS: Array<u64> = Array::with_max_entries(map::CLUSTERS_MAX, 0);

/// Live connections of each endpoint. Counted by sock_ops, repaired by `kernel`, read by connect.
#[map]
pub(crate) static LIVE_COUNTS: Array<u64> = Array::with_max_entries(map::LIVE_COUNTS_MAX, 0);

/// What connect decided, kept with the socket. Needs Linux 5.10 in these programs.
#[btf_map]
pub(crate) static SK_STORAGE: SkStorage<SocketState> = SkStorage::new();

/// Captured connections on their way to the listener. Written by sock_ops, taken out by the
/// proxy's accept. Full: the proxy refuses the connection; counted.
#[map]
pub(crate) static ORIGINAL_DSTS: HashMap<OriginalDstKey, OriginalDstValue> =
    HashMap::with_max_entries(map::ORIGINAL_DSTS_MAX, BPF_F_NO_PREALLOC);

/// Captured connections in handshake, for each pod. Made by `kernel` with the pod and repaired by
/// it, counted by sock_ops, read by connect. Full: the pod is not bounded.
#[map]
pub(crate) static CONNECTING: HashMap<PodId, u64> =
    HashMap::with_max_entries(map::CONNECTING_MAX, BPF_F_NO_PREALLOC);

/// Flow records. Written by connect and sock_ops, read by `kernel::events`. Full: dropped, and
/// counted exactly. Needs Linux 5.8.
#[map]
pub(crate) static FLOW_EVENTS: RingBuf = RingBuf::with_byte_size(map::FLOW_EVENTS_BYTES, 0);
/// Submits a flow record without waking its reader, which looks every 50 ms: a wake-up per record
/// would cost each short connection two task switches.
pub(crate) const FLOW_EVENTS_QUIETLY: u64 = BPF_RB_NO_WAKEUP as u64;

/// One counter per reason. Written by all programs, read by `kernel`.
#[map]
pub(crate) static REASONS: PerCpuArray<u64> = PerCpuArray::with_max_entries(REASONS_MAX, 0);

/// Offsets in this kernel's structures, set by userspace before loading.
#[unsafe(no_mangle)]
static OFFSETS: Offsets = Offsets {
    sk_ack_backlog: 0,
    sk_max_ack_backlog: 0,
    sk_flags: 0,
    bytes_acked: 0,
    bytes_received: 0,
};

/// The offsets that userspace set.
#[inline(always)]
pub(crate) fn offsets() -> Offsets {
    // SAFETY: a plain read of a static; volatile, since its bytes change after compilation.
    unsafe { core::ptr::read_volatile(&raw const OFFSETS) }
}

/// Counts one occurrence of `reason`.
#[inline(always)]
pub(crate) fn count(reason: Reason) {
    if let Some(counter) = REASONS.get_ptr_mut(reason as u32) {
        // SAFETY: this CPU's own slot, and a program is not preempted by another one's count.
        unsafe { *counter += 1 }
    }
}

/// Adds to a counter that all CPUs share and returns what it was before.
///
/// `core`'s atomics lack `fetch_add` for BPF, although the instruction set has it (v3, Linux 5.12).
/// Not relaxed: LLVM compiles a relaxed addition to one that fetches nothing, whose result is then
/// what was added.
#[inline(always)]
pub(crate) fn add_shared(counter: *mut u64, by: u64) -> u64 {
    // SAFETY: callers hand a map value, which is aligned and lives until the program ends; all
    // access to it is atomic.
    unsafe {
        core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::SeqCst }>(
            counter, by,
        )
    }
}

/// Monotonic time, ns.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}
