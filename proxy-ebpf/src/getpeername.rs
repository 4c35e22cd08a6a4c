//! The application sees the address that it dialled, and its own instead of a loopback address.

use aya_ebpf::programs::SockAddrContext;
use proxy_common::{addr::Addr, addr::AddrClass, socket::SocketState};

use crate::{
    connect::{SocketFamily, read_address, write_address, write_port},
    maps,
};

/// getpeername: what was dialled, if connect rewrote it.
#[inline(always)]
pub(crate) fn show_peer(ctx: &SockAddrContext, family: SocketFamily) {
    let Some(state) = rewritten(ctx) else {
        return;
    };
    write_address(ctx, family, state.original);
    write_port(ctx, state.original_port);
}

/// getsockname: the pod's address, if the proxy path made the kernel choose loopback. The port is
/// the socket's own, and a bound address stays.
#[inline(always)]
pub(crate) fn show_name(ctx: &SockAddrContext, family: SocketFamily) {
    let Some(state) = rewritten(ctx) else {
        return;
    };
    if state.path != SocketState::PATH_PROXY || state.shown == Addr::UNSPECIFIED {
        return;
    }
    let (local, _) = read_address(ctx, family);
    if matches!(local.class(), AddrClass::Loopback) {
        write_address(ctx, family, state.shown);
    }
}

#[inline(always)]
fn rewritten(ctx: &SockAddrContext) -> Option<&SocketState> {
    // SAFETY: the helper checks the socket; the value belongs to it and outlives the program.
    let state = unsafe { maps::SK_STORAGE.get_ptr_mut(ctx).as_ref() }?;
    let is_rewritten =
        state.path == SocketState::PATH_PROXY || state.path == SocketState::PATH_KERNEL;
    is_rewritten.then_some(state)
}
