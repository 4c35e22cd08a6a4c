//! Mizzen's eBPF programs: entry points, one verdict each.
//!
//! `connect` decides ([`proxy_common::decision`]) and rewrites, `sock_ops` hands original
//! destinations to the proxy and flow records to userspace, `getpeername` keeps the application's
//! view, `live` lists open connections. A function never carries its section's name, which would
//! break linking.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(
    internal_features,
    reason = "core has no other way to an atomic add on BPF"
)]

mod connect;
mod getpeername;
mod live;
mod maps;
mod sock_ops;

use core::ffi::c_void;

use aya_ebpf::{
    macros::{cgroup_sock_addr, sock_ops},
    programs::{SockAddrContext, SockOpsContext},
};

/// Lets the call go on.
const ALLOW: i32 = 1;

#[cgroup_sock_addr(connect4)]
fn mizzen_connect4(ctx: SockAddrContext) -> i32 {
    connect::run(&ctx, connect::SocketFamily::V4)
}

#[cgroup_sock_addr(connect6)]
fn mizzen_connect6(ctx: SockAddrContext) -> i32 {
    connect::run(&ctx, connect::SocketFamily::V6)
}

#[cgroup_sock_addr(getpeername4)]
fn mizzen_peer4(ctx: SockAddrContext) -> i32 {
    getpeername::show_peer(&ctx, connect::SocketFamily::V4);
    ALLOW
}

#[cgroup_sock_addr(getpeername6)]
fn mizzen_peer6(ctx: SockAddrContext) -> i32 {
    getpeername::show_peer(&ctx, connect::SocketFamily::V6);
    ALLOW
}

#[cgroup_sock_addr(getsockname4)]
fn mizzen_name4(ctx: SockAddrContext) -> i32 {
    getpeername::show_name(&ctx, connect::SocketFamily::V4);
    ALLOW
}

#[cgroup_sock_addr(getsockname6)]
fn mizzen_name6(ctx: SockAddrContext) -> i32 {
    getpeername::show_name(&ctx, connect::SocketFamily::V6);
    ALLOW
}

#[sock_ops]
fn mizzen_sock_ops(ctx: SockOpsContext) -> u32 {
    sock_ops::run(&ctx);
    1
}

/// Called once for every socket in `SK_STORAGE`; needs Linux 5.9.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
extern "C" fn mizzen_live(ctx: *mut c_void) -> i32 {
    live::run(ctx.cast());
    0
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel's helpers ask for a licence that is compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
