//! Hook `cgroup/connect4` and `connect6`: marks the sockets of enrolled pods.
//!
//! The destination is left as it is: the mark makes the pod's policy route loop the SYN to `lo`,
//! where `sk_lookup` picks it up. A pod is known by the cookie of its namespace and the daemon's
//! own sockets by what the daemon stored on them, so neither a mark nor a pid can be forged.

use ambit_ebpf_common::{ListenerKey, MARK, MARK_MASK, PodEntry, socket_role};
use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::generated::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_netns_cookie, bpf_map_lookup_elem,
        bpf_set_retval, bpf_setsockopt, bpf_sk_release,
    },
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use aya_log_ebpf::{debug, warn};

use crate::{
    address::Address,
    maps::{
        LISTENERS, PODS, PROBERS, PROBERS_KNOWN, SET_RETVAL, count, give_role, raw, read, read4,
        role_of,
    },
};

const ALLOW: i32 = 1;
const DENY: i32 = 0;
const ECONNREFUSED: i32 = 111;
const TCP: u32 = 6;
const MPTCP: u32 = 262;
const SOL_SOCKET: i32 = 1;
const SO_BINDTODEVICE: i32 = 25;
const SO_MARK: i32 = 36;
/// Deeper nesting than any container runtime makes.
const CGROUP_LEVELS: i32 = 16;

#[cgroup_sock_addr(connect4)]
pub fn ambit_connect4(ctx: SockAddrContext) -> i32 {
    let destination = Address::V4(read!((*ctx.sock_addr).user_ip4));
    connect(&ctx, destination)
}

#[cgroup_sock_addr(connect6)]
pub fn ambit_connect6(ctx: SockAddrContext) -> i32 {
    let destination = Address::from_v6(read4!((*ctx.sock_addr).user_ip6));
    connect(&ctx, destination)
}

#[inline(always)]
fn connect(ctx: &SockAddrContext, destination: Address) -> i32 {
    let cookie = unsafe { bpf_get_netns_cookie(ctx.sock_addr.cast()) };
    let Some(pod) = (unsafe { PODS.get(&cookie) }) else {
        note_prober(ctx);
        return ALLOW;
    };
    if pod.stage != PodEntry::CAPTURING || is_daemon(ctx) || destination.is_own(pod) {
        return ALLOW;
    }
    let protocol = read!((*ctx.sock_addr).protocol);
    if (protocol != TCP && protocol != MPTCP) || destination.is_link_local() {
        count(cookie, |its| &mut its.outbound_outside);
        return ALLOW;
    }
    if !is_served(cookie) {
        if pod.fail & PodEntry::FAIL_OPEN_OUTBOUND != 0 {
            warn!(ctx, "pod {}: daemon dead, failing open", cookie);
            count(cookie, |its| &mut its.outbound_open);
            return ALLOW;
        }
        debug!(ctx, "pod {}: daemon dead, connect refused", cookie);
        count(cookie, |its| &mut its.outbound_refused);
        return refuse();
    }
    if !capture(ctx.sock_addr) {
        warn!(
            ctx,
            "pod {}: socket cannot be marked, connect refused", cookie
        );
        count(cookie, |its| &mut its.outbound_refused);
        return refuse();
    }
    match destination {
        Address::V4(word) => debug!(ctx, "pod {}: captured to {:i}", cookie, u32::from_be(word)),
        Address::V6(_) => debug!(ctx, "pod {}: captured over IPv6", cookie),
    }
    count(cookie, |its| &mut its.outbound_captured);
    ALLOW
}

#[inline(always)]
fn refuse() -> i32 {
    // Without the helper the caller reads EPERM.
    if SET_RETVAL.load() != 0 {
        unsafe { bpf_set_retval(-ECONNREFUSED) };
    }
    DENY
}

#[inline(always)]
fn is_daemon(ctx: &SockAddrContext) -> bool {
    let socket = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    !socket.is_null() && unsafe { role_of(socket) } == Some(socket_role::DAEMON)
}

/// Whether the daemon's outbound listener of this pod is open.
#[inline(always)]
fn is_served(cookie: u64) -> bool {
    let key = ListenerKey::new(cookie, ListenerKey::OUTBOUND);
    let socket = unsafe { bpf_map_lookup_elem(raw(&LISTENERS), core::ptr::from_ref(&key).cast()) };
    if socket.is_null() {
        return false;
    }
    unsafe { bpf_sk_release(socket) };
    true
}

/// Unbinds the socket from its device, which would keep it off the policy route, and marks it.
#[inline(always)]
fn capture(ctx: *mut bpf_sock_addr) -> bool {
    let socket = unsafe { (*ctx).__bindgen_anon_1.sk };
    if socket.is_null() {
        return false;
    }
    let mut none: u32 = 0;
    let unbound = unsafe {
        bpf_setsockopt(
            ctx.cast(),
            SOL_SOCKET,
            SO_BINDTODEVICE,
            core::ptr::from_mut(&mut none).cast(),
            4,
        )
    };
    let mut mark = (unsafe { (*socket).mark } & !MARK_MASK) | MARK;
    let marked = unsafe {
        bpf_setsockopt(
            ctx.cast(),
            SOL_SOCKET,
            SO_MARK,
            core::ptr::from_mut(&mut mark).cast(),
            4,
        )
    };
    unbound == 0 && marked == 0
}

/// Tags a socket that a prober on the host is about to connect.
#[inline(always)]
fn note_prober(ctx: &SockAddrContext) {
    if PROBERS_KNOWN.load() == 0 || read!((*ctx.sock_addr).protocol) != TCP {
        return;
    }
    let socket = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    if socket.is_null() {
        return;
    }
    for level in 0..CGROUP_LEVELS {
        let cgroup = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if cgroup == 0 {
            return;
        }
        if unsafe { PROBERS.get(&cgroup) }.is_some() {
            unsafe { give_role(socket, socket_role::PROBE) };
            return;
        }
    }
}
