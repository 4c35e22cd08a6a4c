//! Original destinations for the proxy's accept; live counts and flow records of the kernel path.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    bindings::{
        BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, bpf_sock,
    },
    helpers::{
        bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_probe_read_kernel, bpf_sk_storage_get,
        bpf_skc_to_tcp_sock,
    },
    programs::SockOpsContext,
};
use aya_log_ebpf::error;
use proxy_common::{
    addr::{Addr, AddrClass, Family, PortBe},
    flow::FlowEvent,
    pod::{NodeState, PodId},
    reason::Reason,
    socket::{OriginalDstKey, OriginalDstValue, SocketState},
};

use crate::maps::{self, count, now_ns};

/// TCP states, `include/net/tcp_states.h`.
const ESTABLISHED: u32 = 1;
const SYN_SENT: u32 = 2;
const FIN_WAIT1: u32 = 4;
const FIN_WAIT2: u32 = 5;
const CLOSE: u32 = 7;
const LAST_ACK: u32 = 9;
const CLOSING: u32 = 11;

const AF_INET: u32 = 2;

/// `SOCK_DONE` of `enum sock_flags`: the peer's FIN has come.
const SOCK_DONE: u64 = 1 << 1;

#[inline(always)]
pub(crate) fn run(ctx: &SockOpsContext) {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => connecting(ctx),
        BPF_SOCK_OPS_STATE_CB => changed(ctx),
        _ => {}
    }
}

/// The source port is known, and no SYN has left.
#[inline(always)]
fn connecting(ctx: &SockOpsContext) {
    let Some(state) = state_of(ctx) else {
        return delete_strangers_entry(ctx);
    };
    match state.path {
        SocketState::PATH_PROXY => {
            let value = OriginalDstValue {
                pod: state.pod,
                addr: state.original,
                port: state.original_port,
                reserved: 0,
                scope: state.scope,
                service_id: state.service_id,
                reserved_2: 0,
                inserted_ns: now_ns(),
            };
            let key = original_dst_key(ctx, state);
            let kept = maps::ORIGINAL_DSTS.insert(key, value, 0);
            if watch(ctx) && kept.is_ok() {
                count_connecting(state.pod, 1);
                state.flags |= SocketState::COUNTED;
            }
            if let Err(error) = kept {
                count(Reason::OriginalDstFull);
                error!(
                    ctx,
                    "no room in ORIGINAL_DSTS (error {}): a captured connection of pod {} from port {} will be refused",
                    error,
                    state.pod.id,
                    ctx.local_port()
                );
            }
        }
        SocketState::PATH_KERNEL => {
            if let Some(live) = maps::LIVE_COUNTS.get_ptr_mut(state.live_id) {
                maps::add_shared(live, 1);
                state.flags |= SocketState::COUNTED;
            }
            // A close that goes unseen is repaired by the live iterator.
            watch(ctx);
        }
        SocketState::PATH_PASS => {
            watch(ctx);
        }
        _ => delete_strangers_entry(ctx),
    }
}

/// Asks for the changes of this socket's state; false when the kernel will not tell them.
#[inline(always)]
fn watch(ctx: &SockOpsContext) -> bool {
    ctx.set_cb_flags((ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG) as i32)
        .is_ok()
}

#[inline(always)]
fn count_connecting(pod: PodId, by: u64) {
    if let Some(connecting) = maps::CONNECTING.get_ptr_mut(pod) {
        maps::add_shared(connecting, by);
    }
}

/// A socket that was not captured and dials the listener must not find another one's entry.
#[inline(always)]
fn delete_strangers_entry(ctx: &SockOpsContext) {
    let (remote, listener) = (remote_addr(ctx), remote_port(ctx));
    if !matches!(remote.class(), AddrClass::Loopback) {
        return;
    }
    // SAFETY: the context is valid.
    let netns_cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // In the host's namespace any port may be a host pod's listener.
    if !is_host_with_pods(netns_cookie) {
        // SAFETY: not preallocated, so the value stays whole until the program ends (RCU).
        let Some(pod) = (unsafe { maps::PODS.get(netns_cookie) }) else {
            return;
        };
        if pod.listener(remote.family()) != listener {
            return;
        }
    }
    let key = OriginalDstKey {
        netns_cookie,
        addr: local_addr(ctx, remote.family()),
        port: local_port(ctx),
        listener,
        reserved: 0,
    };
    let _ = maps::ORIGINAL_DSTS.remove(key);
}

#[inline(always)]
fn is_host_with_pods(netns_cookie: u64) -> bool {
    match maps::NODE_STATE.get(0) {
        Some(node) => node.flags & NodeState::HOST_PODS != 0 && node.host_netns == netns_cookie,
        None => false,
    }
}

#[inline(always)]
fn changed(ctx: &SockOpsContext) {
    let (old, new) = (ctx.arg(0), ctx.arg(1));
    if new != ESTABLISHED && new != CLOSE {
        return;
    }
    let Some(state) = state_of(ctx) else {
        return;
    };
    if state.path == SocketState::PATH_PROXY {
        if state.flags & SocketState::COUNTED != 0 {
            state.flags &= !SocketState::COUNTED;
            count_connecting(state.pod, 1u64.wrapping_neg());
        }
        // Later the entry is accept's: a client may close before it is accepted.
        if old == SYN_SENT && new == CLOSE {
            let _ = maps::ORIGINAL_DSTS.remove(original_dst_key(ctx, state));
        }
        return;
    }
    if new == ESTABLISHED {
        state.flags |= SocketState::ESTABLISHED;
        return report(ctx, state, FlowEvent::OPENED, old);
    }
    if state.flags & SocketState::COUNTED != 0 {
        state.flags &= !SocketState::COUNTED;
        if let Some(live) = maps::LIVE_COUNTS.get_ptr_mut(state.live_id) {
            maps::add_shared(live, 1u64.wrapping_neg());
        }
    }
    let kind = if state.flags & SocketState::ESTABLISHED != 0 {
        FlowEvent::CLOSED
    } else {
        FlowEvent::FAILED
    };
    report(ctx, state, kind, old);
    // The socket may dial again; that is another flow.
    state.path = 0;
}

#[inline(always)]
fn report(ctx: &SockOpsContext, state: &SocketState, kind: u8, old: u32) {
    if state.path == 0 {
        return;
    }
    let Some(mut entry) = maps::FLOW_EVENTS.reserve::<FlowEvent>(0) else {
        return count(Reason::FlowDropped);
    };
    let (sent_bytes, received_bytes) = match kind {
        FlowEvent::CLOSED => payload_bytes(ctx, old),
        _ => (0, 0),
    };
    entry.write(FlowEvent {
        pod: state.pod,
        client: local_addr(ctx, state.endpoint.family()),
        original: state.original,
        endpoint: state.endpoint,
        client_port: local_port(ctx),
        original_port: state.original_port,
        endpoint_port: state.endpoint_port,
        kind,
        path: state.path,
        scope: state.scope,
        service_id: state.service_id,
        cluster_id: state.cluster_id,
        old_state: old as u8,
        reason: state.reason,
        reserved: 0,
        // SAFETY: the context is valid.
        socket_cookie: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
        sent_bytes,
        received_bytes,
        connect_ns: state.connect_ns,
        now_ns: now_ns(),
    });
    entry.submit(maps::FLOW_EVENTS_QUIETLY);
}

/// Payload both ways: the kernel's counters include SYN and FIN, one sequence number each.
#[inline(always)]
fn payload_bytes(ctx: &SockOpsContext, old: u32) -> (u64, u64) {
    // SAFETY: the context is valid.
    let (acked, received, una, next) = unsafe {
        (
            (*ctx.ops).bytes_acked,
            (*ctx.ops).bytes_received,
            (*ctx.ops).snd_una,
            (*ctx.ops).snd_nxt,
        )
    };
    let fin_was_sent = old == FIN_WAIT1 || old == FIN_WAIT2 || old == LAST_ACK || old == CLOSING;
    let own_fin = (fin_was_sent && una == next) as u64;
    let sent = acked.saturating_sub(1 + own_fin);
    (sent, received.saturating_sub(peer_fin(ctx)))
}

#[inline(always)]
fn peer_fin(ctx: &SockOpsContext) -> u64 {
    let socket = socket_of(ctx);
    let offset = maps::offsets().sk_flags;
    if socket.is_null() || offset == 0 {
        return 0;
    }
    // SAFETY: the helper checks the socket.
    let tcp = unsafe { bpf_skc_to_tcp_sock(socket.cast()) };
    if tcp.is_null() {
        return 0;
    }
    // SAFETY: the helper reads safely whatever the address is.
    match unsafe {
        bpf_probe_read_kernel(tcp.cast::<u8>().wrapping_add(offset as usize).cast::<u64>())
    } {
        Ok(flags) => (flags & SOCK_DONE != 0) as u64,
        Err(_) => 0,
    }
}

#[inline(always)]
fn socket_of(ctx: &SockOpsContext) -> *mut bpf_sock {
    // SAFETY: the context is valid.
    unsafe { (*ctx.ops).__bindgen_anon_2.sk }
}

#[inline(always)]
fn state_of(ctx: &SockOpsContext) -> Option<&'static mut SocketState> {
    let socket = socket_of(ctx);
    if socket.is_null() {
        return None;
    }
    // SAFETY: map and socket are valid; the value belongs to the socket, which outlives the program.
    unsafe {
        bpf_sk_storage_get(
            (&raw const maps::SK_STORAGE).cast_mut().cast::<c_void>(),
            socket.cast(),
            core::ptr::null_mut(),
            0,
        )
        .cast::<SocketState>()
        .as_mut()
    }
}

#[inline(always)]
fn original_dst_key(ctx: &SockOpsContext, state: &SocketState) -> OriginalDstKey {
    OriginalDstKey {
        // SAFETY: the context is valid.
        netns_cookie: unsafe { bpf_get_netns_cookie(ctx.as_ptr()) },
        addr: local_addr(ctx, state.original.family()),
        port: local_port(ctx),
        listener: state.endpoint_port,
        reserved: 0,
    }
}

/// The local address; `family` is that of the packets, since a v4-mapped socket reports AF_INET6.
#[inline(always)]
fn local_addr(ctx: &SockOpsContext, family: Family) -> Addr {
    match family {
        Family::V4 => Addr::from_v4_word(ctx.local_ip4()),
        // SAFETY: the context is valid; volatile, so that each word is one load.
        Family::V6 => unsafe {
            Addr {
                words: [
                    core::ptr::read_volatile(&raw const (*ctx.ops).local_ip6[0]),
                    core::ptr::read_volatile(&raw const (*ctx.ops).local_ip6[1]),
                    core::ptr::read_volatile(&raw const (*ctx.ops).local_ip6[2]),
                    core::ptr::read_volatile(&raw const (*ctx.ops).local_ip6[3]),
                ],
            }
        },
    }
}

#[inline(always)]
fn remote_addr(ctx: &SockOpsContext) -> Addr {
    if ctx.family() == AF_INET {
        return Addr::from_v4_word(ctx.remote_ip4());
    }
    // SAFETY: as in `local_addr`.
    unsafe {
        Addr {
            words: [
                core::ptr::read_volatile(&raw const (*ctx.ops).remote_ip6[0]),
                core::ptr::read_volatile(&raw const (*ctx.ops).remote_ip6[1]),
                core::ptr::read_volatile(&raw const (*ctx.ops).remote_ip6[2]),
                core::ptr::read_volatile(&raw const (*ctx.ops).remote_ip6[3]),
            ],
        }
    }
}

/// `local_port` is in host order.
#[inline(always)]
fn local_port(ctx: &SockOpsContext) -> PortBe {
    PortBe::from_host(ctx.local_port() as u16)
}

/// `remote_port` is a 32-bit number in network order.
#[inline(always)]
fn remote_port(ctx: &SockOpsContext) -> PortBe {
    PortBe::from_host(u32::from_be(ctx.remote_port()) as u16)
}
