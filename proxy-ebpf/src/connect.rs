//! connect4 and connect6: look up, decide, rewrite.

mod facts;

use core::ptr;

use aya_ebpf::{
    EbpfContext,
    bindings::bpf_sock,
    helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval, bpf_setsockopt},
    programs::SockAddrContext,
};
use aya_log_ebpf::error;
use proxy_common::{
    addr::{Addr, PortBe},
    balance::Tables,
    cluster::{EndpointValue, LIVE_NONE},
    decision::{Decision, Facts, Verdict, decide},
    flow::FlowEvent,
    reason::Reason,
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

const ECONNREFUSED: i32 = 111;

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
                error!(
                    ctx,
                    "no memory for the state of a socket of pod {}: its connection has no flow record",
                    facts.pod().0.id
                );
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
        entry.submit(maps::FLOW_EVENTS_QUIETLY);
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
