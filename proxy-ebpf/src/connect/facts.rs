//! What the decision asks: map lookups, the socket, the caller.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    EbpfContext,
    bindings::{bpf_sock, bpf_sock_tuple},
    helpers::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_prandom_u32,
        bpf_map_lookup_elem, bpf_probe_read_kernel, bpf_sk_release, bpf_skc_lookup_tcp,
        bpf_skc_to_mptcp_sock, bpf_skc_to_tcp_sock,
    },
    maps::lpm_trie::Key,
};
use aya_log_ebpf::error;
use proxy_common::{
    addr::{Addr, Family, PortBe},
    balance::Tables,
    cluster::{ClusterValue, EndpointValue, SplitValue},
    decision::{Facts, Listener},
    pod::{ExclusionKey, ListenerKey, NodeState, PodId, PodValue},
    reason::Reason,
    service::{CidrKey, OverrideKey, OverrideValue, ScopeValue, ServiceKey, ServiceValue},
};

use super::{Connect, read_address};
use crate::maps::{self, count, now_ns};

const TCP: u32 = 6;
const STREAM: u32 = 1;
const TCP_LISTEN: u32 = 10;
/// The lookup happens in the socket's own namespace.
const CURRENT_NETNS: u64 = u64::MAX;

impl Tables for Connect<'_> {
    #[inline(always)]
    fn cluster(&self, id: u32) -> Option<&ClusterValue> {
        // SAFETY: not preallocated, so a value read stays whole until the program ends (RCU).
        unsafe { maps::CLUSTERS.get(id) }
    }

    #[inline(always)]
    fn split(&self, id: u32) -> Option<&SplitValue> {
        // SAFETY: as `cluster`.
        unsafe { maps::SPLITS.get(id) }
    }

    #[inline(always)]
    fn endpoint(&self, slot: u32) -> Option<&EndpointValue> {
        maps::ENDPOINTS.get(slot)
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn next_turn(&self, cluster_id: u32) -> u64 {
        match maps::ROUND_ROBINS.get_ptr_mut(cluster_id) {
            Some(turns) => maps::add_shared(turns, 1),
            None => 0,
        }
    }

    #[inline(always)]
    fn source_hash(&self) -> u32 {
        let (id, Some(pod)) = self.pod() else {
            return 0;
        };
        let (dialled, _) = self.destination();
        let shown = pod.shown_addr(dialled.family());
        let mut hash = 0x9e37_79b9_u32
            ^ if shown == Addr::UNSPECIFIED {
                id.id as u32
            } else {
                0
            };
        for word in shown.words {
            // One round of MurmurHash3's 32-bit finalizer per word.
            hash ^= word;
            hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
            hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
            hash ^= hash >> 16;
        }
        hash
    }

    #[inline(always)]
    fn live_count(&self, live_id: u32) -> u64 {
        maps::LIVE_COUNTS.get(live_id).copied().unwrap_or(0)
    }
}

impl Facts for Connect<'_> {
    #[inline(always)]
    fn is_daemon(&self) -> bool {
        // SAFETY: the helper has no preconditions; the value is not read.
        unsafe { maps::DAEMONS.get_ptr(bpf_get_current_cgroup_id()).is_some() }
    }

    #[inline(always)]
    fn is_tcp(&self) -> bool {
        // SAFETY: the context is valid.
        unsafe { (*self.ctx.sock_addr).protocol == TCP && (*self.ctx.sock_addr).type_ == STREAM }
    }

    #[inline(always)]
    fn is_mptcp(&self) -> bool {
        // SAFETY: the helper checks the socket.
        unsafe { !bpf_skc_to_mptcp_sock(self.socket().cast()).is_null() }
    }

    #[inline(always)]
    fn is_bound_to_device(&self) -> bool {
        // SAFETY: the socket is valid.
        unsafe { (*self.socket()).bound_dev_if != 0 }
    }

    #[inline(always)]
    fn destination(&self) -> (Addr, PortBe) {
        read_address(self.ctx, self.family)
    }

    #[inline(always)]
    fn node(&self) -> NodeState {
        maps::NODE_STATE.get(0).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn pod(&self) -> (PodId, Option<&PodValue>) {
        let cookie = self.netns_cookie();
        // SAFETY: as `cluster`.
        if let Some(pod) = unsafe { maps::PODS.get(cookie) } {
            return (PodId::namespace(cookie), Some(pod));
        }
        let Some(node) = maps::NODE_STATE.get(0) else {
            return (PodId::default(), None);
        };
        if node.flags & NodeState::HOST_PODS == 0 {
            return (PodId::default(), None);
        }
        // Pods stand one level below the root in cgroupfs's guaranteed class, two else, three
        // under systemd's slices.
        for depth in 1..=3 {
            let level = node.attach_level.wrapping_add(depth);
            // SAFETY: the helper has no preconditions; a level that is not there gives zero.
            let id = unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
            if id == 0 {
                break;
            }
            // SAFETY: as `cluster`.
            if let Some(pod) = unsafe { maps::HOST_PODS.get(id) } {
                // In a namespace of its making there is no listener for it.
                if pod.flags & PodValue::NOT_READY == 0 && node.host_netns != cookie {
                    break;
                }
                return (PodId::cgroup(id), Some(pod));
            }
        }
        (PodId::default(), None)
    }

    #[inline(always)]
    fn exclusion(&self, key: ExclusionKey) -> u32 {
        let bits = ExclusionKey::POD_BITS
            + if key.kind == ExclusionKey::PORT {
                16
            } else {
                128
            };
        maps::EXCLUSIONS
            .get(Key::new(bits, key))
            .copied()
            .unwrap_or(0)
    }

    #[inline(always)]
    fn service(&self, key: ServiceKey) -> Option<&ServiceValue> {
        // SAFETY: as `cluster`.
        unsafe { maps::SERVICES.get(key) }
    }

    #[inline(always)]
    fn cidr_service(&self, key: CidrKey) -> Option<&ServiceValue> {
        maps::SERVICE_CIDRS.get(Key::new(CidrKey::FULL_BITS, key))
    }

    #[inline(always)]
    fn scope(&self, id: u32) -> Option<&ScopeValue> {
        // SAFETY: as `cluster`.
        unsafe { maps::SCOPES.get(id) }
    }

    #[inline(always)]
    fn override_of(&self, key: OverrideKey) -> Option<&OverrideValue> {
        // SAFETY: as `cluster`.
        unsafe { maps::OVERRIDES.get(key) }
    }

    #[inline(always)]
    fn is_guarded_port(&self, port: PortBe) -> bool {
        let Some(node) = maps::NODE_STATE.get(0) else {
            return true;
        };
        let mut at = 0;
        while at < NodeState::GUARDED_PORTS_MAX {
            if node.guarded_ports[at] == port {
                return true;
            }
            at += 1;
        }
        false
    }

    #[inline(always)]
    fn listener(&self, key: ListenerKey, port: PortBe) -> Listener {
        // SAFETY: map and key are valid; the socket that comes back is released on every path.
        let listener = unsafe {
            bpf_map_lookup_elem(
                (&raw const maps::LISTENERS).cast_mut().cast::<c_void>(),
                (&raw const key).cast(),
            )
        };
        if listener.is_null() {
            return Listener::Gone;
        }
        let is_full = is_backlog_full(listener);
        // SAFETY: not null, and the table holds sockets; `src_port` is in host order.
        let bound = unsafe { (*listener.cast::<bpf_sock>()).src_port } as u16;
        // SAFETY: the lookup took a reference.
        unsafe { bpf_sk_release(listener) };
        // A restarted daemon names pod and listener one after the other, and in the host's
        // namespace the port that the pod had may be another pod's now.
        if PortBe::from_host(bound) != port {
            return Listener::Gone;
        }
        if is_full {
            Listener::Full
        } else {
            Listener::Ready
        }
    }

    #[inline(always)]
    fn connecting(&self, pod: PodId) -> u64 {
        match maps::CONNECTING.get_ptr(pod) {
            // SAFETY: an aligned map value that is only ever added to atomically.
            Some(count) => unsafe { ptr::read_volatile(count) },
            None => 0,
        }
    }

    #[inline(always)]
    fn worker_beat_ns(&self, worker: u32) -> u64 {
        match maps::WORKERS.get_ptr(worker) {
            // SAFETY: an aligned map value that workers store whole.
            Some(beat) => unsafe { ptr::read_volatile(beat) },
            None => 0,
        }
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        now_ns()
    }

    #[inline(always)]
    fn is_source_taken(&self, family: Family, listener: PortBe) -> bool {
        let socket = self.socket();
        // SAFETY: the socket is valid.
        let port = unsafe { (*socket).src_port } as u16;
        if port == 0 {
            return false;
        }
        // SAFETY: plain integers, all zero is a valid tuple.
        let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
        // As the connection's own socket would be found: its remote end is the listener.
        let size = match family {
            Family::V4 => {
                // SAFETY: the socket is valid.
                let bound = unsafe { (*socket).src_ip4 };
                let loopback = Addr::LOOPBACK_V4.words[3];
                let v4 = aya_ebpf::bindings::bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
                    saddr: loopback,
                    daddr: if bound == 0 { loopback } else { bound },
                    sport: listener.0,
                    dport: port.to_be(),
                };
                tuple.__bindgen_anon_1.ipv4 = v4;
                12
            }
            Family::V6 => {
                // SAFETY: the socket is valid; volatile, so that each word is one load.
                let bound = unsafe {
                    [
                        ptr::read_volatile(&raw const (*socket).src_ip6[0]),
                        ptr::read_volatile(&raw const (*socket).src_ip6[1]),
                        ptr::read_volatile(&raw const (*socket).src_ip6[2]),
                        ptr::read_volatile(&raw const (*socket).src_ip6[3]),
                    ]
                };
                let loopback = Addr::LOOPBACK_V6.words;
                let v6 = aya_ebpf::bindings::bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 {
                    saddr: loopback,
                    daddr: if bound == [0; 4] { loopback } else { bound },
                    sport: listener.0,
                    dport: port.to_be(),
                };
                tuple.__bindgen_anon_1.ipv6 = v6;
                36
            }
        };
        // SAFETY: context and tuple are valid; the socket that comes back is released.
        unsafe {
            let found =
                bpf_skc_lookup_tcp(self.ctx.as_ptr(), &raw mut tuple, size, CURRENT_NETNS, 0);
            if found.is_null() {
                return false;
            }
            // Nobody connected from there; something listens on the port.
            let is_taken = (*found).state != TCP_LISTEN;
            bpf_sk_release(found.cast());
            is_taken
        }
    }

    #[inline(always)]
    fn reserve_state(&self) -> bool {
        // SAFETY: as in `remember`.
        let state = unsafe { maps::SK_STORAGE.get_or_insert_ptr_mut(self.ctx, None) };
        if state.is_null() {
            error!(
                self.ctx,
                "no memory for the state of a socket of pod {}: its connection takes the degraded form",
                self.pod().0.id
            );
        }
        !state.is_null()
    }

    #[inline(always)]
    fn count(&self, reason: Reason) {
        count(reason);
    }
}

/// Whether three quarters of the listener's queue are taken: a full one drops handshakes.
#[inline(always)]
fn is_backlog_full(listener: *mut c_void) -> bool {
    let offsets = maps::offsets();
    if offsets.sk_ack_backlog == 0 || offsets.sk_max_ack_backlog == 0 {
        return false;
    }
    // SAFETY: the helper checks the socket.
    let tcp = unsafe { bpf_skc_to_tcp_sock(listener) };
    if tcp.is_null() {
        return false;
    }
    let tcp = tcp.cast::<u8>();
    // SAFETY: the helper reads safely whatever the address is; offsets come from this kernel's BTF.
    let queued = unsafe {
        bpf_probe_read_kernel(
            tcp.wrapping_add(offsets.sk_ack_backlog as usize)
                .cast::<u32>(),
        )
    };
    // SAFETY: as above.
    let limit = unsafe {
        bpf_probe_read_kernel(
            tcp.wrapping_add(offsets.sk_max_ack_backlog as usize)
                .cast::<u32>(),
        )
    };
    match (queued, limit) {
        (Ok(queued), Ok(limit)) => queued as u64 * 4 >= limit as u64 * 3,
        _ => false,
    }
}
