//! connect4 and connect6: look up, decide, rewrite.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    EbpfContext,
    bindings::{bpf_sock, bpf_sock_tuple},
    helpers::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_netns_cookie,
        bpf_get_prandom_u32, bpf_get_socket_cookie, bpf_map_lookup_elem, bpf_probe_read_kernel,
        bpf_set_retval, bpf_setsockopt, bpf_sk_release, bpf_skc_lookup_tcp, bpf_skc_to_mptcp_sock,
        bpf_skc_to_tcp_sock,
    },
    maps::lpm_trie::Key,
    programs::SockAddrContext,
};
use proxy_common::{
    addr::{Addr, Family, PortBe},
    balance::Tables,
    cluster::{ClusterValue, EndpointValue, LIVE_NONE, SplitValue},
    decision::{Decision, Facts, Listener, Verdict, decide},
    flow::FlowEvent,
    pod::{ExclusionKey, ListenerKey, NodeState, PodId, PodValue},
    reason::Reason,
    service::{CidrKey, OverrideKey, OverrideValue, ScopeValue, ServiceKey, ServiceValue},
    socket::SocketState,
};

use crate::{
    ALLOW,
    maps::{self, count, now_ns},
};

/// Family of the socket, which for a v4-mapped destination is not that of its packets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum SocketFamily {
    /// AF_INET.
    V4,
    /// AF_INET6.
    V6,
}

const TCP: u32 = 6;
const STREAM: u32 = 1;
const ECONNREFUSED: i32 = 111;
const TCP_LISTEN: u32 = 10;
/// The lookup happens in the socket's own namespace.
const CURRENT_NETNS: u64 = u64::MAX;

/// Decides about one `connect()` and does it. Returns the program's verdict.
#[inline(always)]
pub(crate) fn run(ctx: &SockAddrContext, family: SocketFamily) -> i32 {
    let facts = Connect { ctx, family };
    let decision = decide(&facts);
    count(decision.reason);
    match decision.verdict {
        Verdict::Pass => {
            // Only what a service is known for leaves a flow record.
            if decision.service_id != 0 {
                let (addr, port) = facts.destination();
                let dialled = EndpointValue {
                    addr,
                    port,
                    reserved: 0,
                    live_id: LIVE_NONE,
                };
                facts.remember(&decision, SocketState::PATH_PASS, dialled);
            } else {
                facts.forget();
            }
            ALLOW
        }
        Verdict::Refuse => {
            count(Reason::Refused);
            facts.report_refusal(&decision);
            facts.forget();
            // A bare zero would show EPERM.
            // SAFETY: the helper has no preconditions in this program type.
            unsafe { bpf_set_retval(-ECONNREFUSED) };
            0
        }
        Verdict::Endpoint => {
            if !facts.remember(&decision, SocketState::PATH_KERNEL, decision.endpoint) {
                count(Reason::StorageFailed);
            }
            if decision.keepalive {
                facts.set_keepalive(decision.cluster_id);
            }
            facts.rewrite(decision.endpoint.addr, decision.endpoint.port);
            ALLOW
        }
        Verdict::Listener => {
            facts.remember(&decision, SocketState::PATH_PROXY, decision.endpoint);
            facts.rewrite(decision.endpoint.addr, decision.endpoint.port);
            ALLOW
        }
    }
}

/// The destination in `ctx`; both families in one shape.
#[inline(always)]
pub(crate) fn read_address(ctx: &SockAddrContext, family: SocketFamily) -> (Addr, PortBe) {
    // SAFETY: the context is valid for the program's run. Volatile word reads, since the verifier
    // takes only loads of whole fields.
    unsafe {
        let port = ptr::read_volatile(&raw const (*ctx.sock_addr).user_port) as u16;
        let addr = match family {
            SocketFamily::V4 => {
                Addr::from_v4_word(ptr::read_volatile(&raw const (*ctx.sock_addr).user_ip4))
            }
            SocketFamily::V6 => Addr {
                words: [
                    ptr::read_volatile(&raw const (*ctx.sock_addr).user_ip6[0]),
                    ptr::read_volatile(&raw const (*ctx.sock_addr).user_ip6[1]),
                    ptr::read_volatile(&raw const (*ctx.sock_addr).user_ip6[2]),
                    ptr::read_volatile(&raw const (*ctx.sock_addr).user_ip6[3]),
                ],
            },
        };
        (addr, PortBe(port))
    }
}

/// Writes an address into `ctx`. An IPv4 address on a v6 socket stays mapped.
#[inline(always)]
pub(crate) fn write_address(ctx: &SockAddrContext, family: SocketFamily, addr: Addr) {
    // SAFETY: as in `read_address`; the verifier takes word stores to these fields.
    unsafe {
        match family {
            SocketFamily::V4 => {
                ptr::write_volatile(&raw mut (*ctx.sock_addr).user_ip4, addr.words[3])
            }
            SocketFamily::V6 => {
                ptr::write_volatile(&raw mut (*ctx.sock_addr).user_ip6[0], addr.words[0]);
                ptr::write_volatile(&raw mut (*ctx.sock_addr).user_ip6[1], addr.words[1]);
                ptr::write_volatile(&raw mut (*ctx.sock_addr).user_ip6[2], addr.words[2]);
                ptr::write_volatile(&raw mut (*ctx.sock_addr).user_ip6[3], addr.words[3]);
            }
        }
    }
}

/// Writes a port into `ctx`.
#[inline(always)]
pub(crate) fn write_port(ctx: &SockAddrContext, port: PortBe) {
    // SAFETY: as in `write_address`.
    unsafe { ptr::write_volatile(&raw mut (*ctx.sock_addr).user_port, port.0 as u32) }
}

/// One `connect()` call.
struct Connect<'a> {
    ctx: &'a SockAddrContext,
    family: SocketFamily,
}

impl Connect<'_> {
    #[inline(always)]
    fn socket(&self) -> *mut bpf_sock {
        // SAFETY: the context is valid, and its socket is never null in these hooks.
        unsafe { (*self.ctx.sock_addr).__bindgen_anon_1.sk }
    }

    #[inline(always)]
    fn netns_cookie(&self) -> u64 {
        // SAFETY: the context is valid.
        unsafe { bpf_get_netns_cookie(self.ctx.as_ptr()) }
    }

    /// Keeps the decision with the socket; false when there is no memory.
    #[inline(always)]
    fn remember(&self, decision: &Decision, path: u8, to: EndpointValue) -> bool {
        // SAFETY: the helper checks the socket; the value, when there is one, is this socket's.
        let state = unsafe { maps::SK_STORAGE.get_or_insert_ptr_mut(self.ctx, None) };
        if state.is_null() {
            return false;
        }
        let (original, original_port) = self.destination();
        let (pod_id, pod) = self.pod();
        let (scope, shown) = match pod {
            Some(pod) => (pod.scope, pod.shown_addr(original.family())),
            None => (0, Addr::UNSPECIFIED),
        };
        // SAFETY: not null, and as large as its type.
        unsafe {
            (*state).pod = pod_id;
            (*state).original = original;
            (*state).shown = shown;
            (*state).endpoint = to.addr;
            (*state).original_port = original_port;
            (*state).endpoint_port = to.port;
            (*state).path = path;
            (*state).flags = 0;
            (*state).reason = decision.reason as u8;
            (*state).scope = scope;
            (*state).service_id = decision.service_id;
            (*state).cluster_id = decision.cluster_id;
            (*state).live_id = to.live_id;
            (*state).connect_ns = now_ns();
        }
        true
    }

    /// Drops what an earlier connect of the same socket left.
    #[inline(always)]
    fn forget(&self) {
        // SAFETY: as in `remember`.
        let state = unsafe { maps::SK_STORAGE.get_ptr_mut(self.ctx) };
        if !state.is_null() {
            // SAFETY: not null.
            unsafe { (*state).path = 0 };
        }
    }

    #[inline(always)]
    fn rewrite(&self, addr: Addr, port: PortBe) {
        write_address(self.ctx, self.family, addr);
        write_port(self.ctx, port);
    }

    #[inline(always)]
    fn report_refusal(&self, decision: &Decision) {
        if decision.service_id == 0 && !matches!(decision.reason, Reason::RegistryOnly) {
            return;
        }
        let Some(mut entry) = maps::FLOW_EVENTS.reserve::<FlowEvent>(0) else {
            count(Reason::FlowDropped);
            return;
        };
        let (original, original_port) = self.destination();
        let (pod_id, pod) = self.pod();
        let scope = match pod {
            Some(pod) => pod.scope,
            None => 0,
        };
        let now_ns = now_ns();
        entry.write(FlowEvent {
            pod: pod_id,
            client: Addr::UNSPECIFIED,
            original,
            endpoint: Addr::UNSPECIFIED,
            client_port: PortBe(0),
            original_port,
            endpoint_port: PortBe(0),
            kind: FlowEvent::REFUSED,
            path: 0,
            scope,
            service_id: decision.service_id,
            cluster_id: decision.cluster_id,
            old_state: 0,
            reason: decision.reason as u8,
            reserved: 0,
            // SAFETY: the context is valid.
            socket_cookie: unsafe { bpf_get_socket_cookie(self.ctx.as_ptr()) },
            sent_bytes: 0,
            received_bytes: 0,
            connect_ns: now_ns,
            now_ns,
        });
        entry.submit(0);
    }

    /// Istio `connectionPool.tcp.tcpKeepalive`; zero fields keep the kernel's defaults.
    #[inline(always)]
    fn set_keepalive(&self, cluster_id: u32) {
        const SOL_SOCKET: i32 = 1;
        const SO_KEEPALIVE: i32 = 9;
        const SOL_TCP: i32 = 6;
        const TCP_KEEPIDLE: i32 = 4;
        const TCP_KEEPINTVL: i32 = 5;
        const TCP_KEEPCNT: i32 = 6;
        let Some(cluster) = self.cluster(cluster_id) else {
            return;
        };
        self.set_option(SOL_SOCKET, SO_KEEPALIVE, 1);
        for (option, value) in [
            (TCP_KEEPIDLE, cluster.keepalive_time_s),
            (TCP_KEEPINTVL, cluster.keepalive_interval_s),
            (TCP_KEEPCNT, cluster.keepalive_probes),
        ] {
            if value != 0 {
                self.set_option(SOL_TCP, option, value);
            }
        }
    }

    #[inline(always)]
    fn set_option(&self, level: i32, option: i32, mut value: u32) {
        // SAFETY: the context is valid, and the value is as long as said. A refusal leaves the
        // kernel's default.
        unsafe { bpf_setsockopt(self.ctx.as_ptr(), level, option, (&raw mut value).cast(), 4) };
    }
}

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
    fn listener(&self, key: ListenerKey) -> Listener {
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
        // SAFETY: the lookup took a reference.
        unsafe { bpf_sk_release(listener) };
        if is_full {
            Listener::Full
        } else {
            Listener::Ready
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
        unsafe {
            !maps::SK_STORAGE
                .get_or_insert_ptr_mut(self.ctx, None)
                .is_null()
        }
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
