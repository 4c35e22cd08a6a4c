//! The iterator over `SK_STORAGE`: one [`LiveFlow`] for every open connection of the kernel path.

use core::ffi::c_void;

use aya_ebpf::helpers::{
    bpf_get_socket_cookie, bpf_probe_read_kernel, bpf_seq_write, bpf_skc_to_tcp_sock,
};
use proxy_common::{flow::LiveFlow, socket::SocketState};

use crate::maps;

/// The kernel's `struct bpf_iter_meta`.
#[repr(C)]
struct IteratorMeta {
    seq: *mut c_void,
    session_id: u64,
    seq_num: u64,
}

/// The kernel's `struct bpf_iter__bpf_sk_storage_map`.
#[repr(C)]
pub(crate) struct SkStorageContext {
    meta: *mut IteratorMeta,
    map: *mut c_void,
    sk: *mut c_void,
    value: *mut SocketState,
}

#[inline(always)]
pub(crate) fn run(ctx: *const SkStorageContext) {
    // SAFETY: the kernel hands a valid context; the last call has neither socket nor value.
    let (meta, socket, value) = unsafe { ((*ctx).meta, (*ctx).sk, (*ctx).value) };
    if socket.is_null() || value.is_null() {
        return;
    }
    // SAFETY: not null, and as large as the map's value.
    let state = unsafe { *value };
    if state.path != SocketState::PATH_KERNEL && state.path != SocketState::PATH_PASS {
        return;
    }
    // SAFETY: the helper checks the socket.
    let tcp = unsafe { bpf_skc_to_tcp_sock(socket) };
    let offsets = maps::offsets();
    let (mut sent_bytes, mut received_bytes) = (0, 0);
    if !tcp.is_null() && offsets.bytes_acked != 0 && offsets.bytes_received != 0 {
        let tcp = tcp.cast::<u8>();
        let read = |offset: u32| {
            // SAFETY: the helper reads safely whatever the address is.
            unsafe { bpf_probe_read_kernel(tcp.wrapping_add(offset as usize).cast::<u64>()) }
                .unwrap_or(0)
        };
        // The SYN counts as one.
        sent_bytes = read(offsets.bytes_acked).saturating_sub(1);
        received_bytes = read(offsets.bytes_received);
    }
    // SAFETY: the helper checks the socket.
    let socket_cookie = unsafe { bpf_get_socket_cookie(socket) };
    let mut flow = LiveFlow {
        socket_cookie,
        sent_bytes,
        received_bytes,
        state,
    };
    // SAFETY: `meta` and its `seq` are valid in an iterator; the value is as long as said. When the
    // buffer is full the kernel calls again with the same socket.
    unsafe {
        bpf_seq_write(
            (*meta).seq.cast(),
            (&raw mut flow).cast(),
            size_of::<LiveFlow>() as u32,
        )
    };
}
