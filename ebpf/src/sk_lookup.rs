//! Hook `sk_lookup`, one copy for each pod: hands new connections to the daemon's sockets.
//!
//! What arrives on `lo` for an address that is not the pod's was looped there by its mark and is
//! outbound; what arrives from elsewhere is inbound. It runs for a SYN, not for established
//! traffic. The pod's own traffic to itself is left alone, except that the daemon's listeners,
//! whose ports are anybody's to guess, answer only to this program.

use ambit_ebpf_common::{Flow, HBONE_PORT, ListenerKey, PodEntry};
use aya_ebpf::{macros::sk_lookup, programs::SkLookupContext};
use aya_log_ebpf::{debug, warn};

use crate::{
    address::Address,
    maps::{COOKIE, LISTENERS, PODS, PROBES, count, read, read4},
};

const PASS: u32 = 1;
const DROP: u32 = 0;
const TCP: u32 = 6;
const AF_INET: u32 = 2;
const LOOPBACK_INDEX: u32 = 1;

#[sk_lookup]
pub fn ambit_sk_lookup(ctx: SkLookupContext) -> u32 {
    sk_lookup::<false>(&ctx)
}

/// The same with log lines: they make the verifier take twice as long, once for each pod.
#[sk_lookup]
pub fn ambit_sk_lookup_logged(ctx: SkLookupContext) -> u32 {
    sk_lookup::<true>(&ctx)
}

#[inline(always)]
fn sk_lookup<const LOGGED: bool>(ctx: &SkLookupContext) -> u32 {
    let lookup = ctx.lookup;
    if read!((*lookup).protocol) != TCP {
        return PASS;
    }
    let ingress = read!((*lookup).ingress_ifindex);
    // Not a packet but another program that asks who would get it.
    if ingress == 0 {
        return PASS;
    }
    let Some(cookie) = COOKIE.get(0).copied() else {
        return PASS;
    };
    let Some(pod) = (unsafe { PODS.get(&cookie) }) else {
        return PASS;
    };
    let (local, remote) = if read!((*lookup).family) == AF_INET {
        (
            Address::V4(read!((*lookup).local_ip4)),
            Address::V4(read!((*lookup).remote_ip4)),
        )
    } else {
        (
            Address::from_v6(read4!((*lookup).local_ip6)),
            Address::from_v6(read4!((*lookup).remote_ip6)),
        )
    };
    let port = read!((*lookup).local_port);
    // Delivery to the pod's own eth0 address reports eth0, so ends are told by address.
    if remote.is_own(pod) && local.is_own(pod) || ingress == LOOPBACK_INDEX && local.is_own(pod) {
        return own(ctx, cookie, pod, local, port);
    }
    if ingress == LOOPBACK_INDEX {
        return outbound::<LOGGED>(ctx, cookie, pod, remote);
    }
    inbound::<LOGGED>(ctx, cookie, pod, local, remote, port)
}

/// The pod to itself, or the daemon to the application.
#[inline(always)]
fn own(ctx: &SkLookupContext, cookie: u64, pod: &PodEntry, local: Address, port: u32) -> u32 {
    if port == u32::from(HBONE_PORT) && !local.is_loopback() {
        return hand_over(ctx, cookie, ListenerKey::HBONE).unwrap_or(DROP);
    }
    if is_listener(pod, port) { DROP } else { PASS }
}

/// The application to the world, looped here by its mark.
///
/// Also while draining: the socket was marked when it connected and has no other way.
#[inline(always)]
fn outbound<const LOGGED: bool>(
    ctx: &SkLookupContext,
    cookie: u64,
    pod: &PodEntry,
    remote: Address,
) -> u32 {
    // Neither end is known as the pod's: handing it over could loop for ever.
    if !remote.is_own(pod) {
        if LOGGED {
            warn!(
                ctx,
                "pod {}: neither end is an address of the pod, refused", cookie
            );
        }
        count(cookie, |its| &mut its.outbound_refused);
        return DROP;
    }
    if let Some(verdict) = hand_over(ctx, cookie, ListenerKey::OUTBOUND) {
        return verdict;
    }
    // Failing open is the connect hook's: from here the packet has nowhere else to go.
    count(cookie, |its| &mut its.outbound_refused);
    DROP
}

/// The world to the pod.
#[inline(always)]
fn inbound<const LOGGED: bool>(
    ctx: &SkLookupContext,
    cookie: u64,
    pod: &PodEntry,
    local: Address,
    remote: Address,
    port: u32,
) -> u32 {
    if port == u32::from(HBONE_PORT) {
        return match hand_over(ctx, cookie, ListenerKey::HBONE) {
            Some(verdict) => {
                count(cookie, |its| &mut its.inbound_captured);
                verdict
            }
            None => {
                count(cookie, |its| &mut its.inbound_refused);
                DROP
            }
        };
    }
    if pod.stage != PodEntry::CAPTURING {
        return if is_listener(pod, port) { DROP } else { PASS };
    }
    let flow = Flow {
        remote: remote.words(),
        local: local.words(),
        remote_port: u32::from(u16::from_be(read!((*ctx.lookup).remote_port))),
        local_port: port,
    };
    if unsafe { PROBES.get(&flow) }.is_some() {
        if LOGGED {
            debug!(ctx, "pod {}: probe passed to port {}", cookie, port);
        }
        count(cookie, |its| &mut its.inbound_probes);
        return if is_listener(pod, port) { DROP } else { PASS };
    }
    if let Some(verdict) = hand_over(ctx, cookie, ListenerKey::INBOUND) {
        if LOGGED {
            debug!(ctx, "pod {}: captured to port {}", cookie, port);
        }
        count(cookie, |its| &mut its.inbound_captured);
        return verdict;
    }
    if pod.fail & PodEntry::FAIL_OPEN_INBOUND != 0 && !is_listener(pod, port) {
        if LOGGED {
            warn!(
                ctx,
                "pod {}: daemon dead, failing open to port {}", cookie, port
            );
        }
        count(cookie, |its| &mut its.inbound_open);
        return PASS;
    }
    if LOGGED {
        debug!(ctx, "pod {}: daemon dead, port {} refused", cookie, port);
    }
    count(cookie, |its| &mut its.inbound_refused);
    DROP
}

#[inline(always)]
fn hand_over(ctx: &SkLookupContext, cookie: u64, role: u32) -> Option<u32> {
    LISTENERS
        .redirect_sk_lookup(ctx, ListenerKey::new(cookie, role), 0)
        .is_ok()
        .then_some(PASS)
}

#[inline(always)]
fn is_listener(pod: &PodEntry, port: u32) -> bool {
    port == pod.ports[0] || port == pod.ports[1] || port == pod.ports[2]
}
