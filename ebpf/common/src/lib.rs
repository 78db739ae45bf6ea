//! What the kernel programs and the daemon both know: map names, keys, values and the capture mark.
//!
//! Every type here is a layout both sides read byte for byte, so each asserts its size, has no
//! implicit padding and no niche. Addresses are words in network order, as the kernel hands them
//! out. This crate must stay `no_std` and must not know how maps are loaded.
#![no_std]

/// Mark of a captured socket, within [`MARK_MASK`]: the policy rule of a pod matches it.
pub const MARK: u32 = 0x111;
/// The bits of a socket mark that are ours. An application keeps its others.
pub const MARK_MASK: u32 = 0xfff;
/// Where every pod in the mesh takes HBONE.
pub const HBONE_PORT: u16 = 15008;
/// How many addresses of each family a pod may have.
pub const ADDRESSES: usize = 2;

/// Names of the maps in the object, which are also their pin names.
pub mod maps {
    pub const PODS: &str = "PODS";
    pub const LISTENERS: &str = "LISTENERS";
    pub const COUNTERS: &str = "COUNTERS";
    pub const SOCKET_ROLES: &str = "SOCKET_ROLES";
    pub const PROBERS: &str = "PROBERS";
    pub const PROBES: &str = "PROBES";
    pub const LOGS: &str = "AYA_LOGS";
    /// Maps every program of a node shares; they outlive the daemon.
    pub const SHARED: [&str; 7] = [
        PODS,
        LISTENERS,
        COUNTERS,
        SOCKET_ROLES,
        PROBERS,
        PROBES,
        LOGS,
    ];
    /// One slot, one map for each loaded `sk_lookup` program: whose pod it serves.
    pub const COOKIE: &str = "COOKIE";
}

/// Names of the constants the loader may set before the verifier sees the programs.
pub mod globals {
    /// 1 where `bpf_set_retval` exists; else a refused connect reads EPERM.
    pub const SET_RETVAL: &str = "SET_RETVAL";
    /// 1 when some cgroup is known to probe.
    pub const PROBERS_KNOWN: &str = "PROBERS_KNOWN";
}

/// What the programs do for a pod: the value of `PODS`, under the cookie of its namespace.
///
/// One update of the map changes both directions at once.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodEntry {
    /// One of `CAPTURING`, `DRAINING`.
    pub stage: u32,
    /// Any of `FAIL_OPEN_OUTBOUND`, `FAIL_OPEN_INBOUND`.
    pub fail: u32,
    /// The pod's own IPv4 addresses; 0 marks an unused one.
    pub ip4: [u32; ADDRESSES],
    /// The pod's own IPv6 addresses; zeros mark an unused one.
    pub ip6: [[u32; 4]; ADDRESSES],
    /// Where the daemon's listeners are bound, by role: nobody may reach them by number.
    pub ports: [u32; 3],
    pub reserved: u32,
}

impl PodEntry {
    /// New connections go through the daemon, both ways.
    pub const CAPTURING: u32 = 1;
    /// New connections go directly, except inbound HBONE.
    pub const DRAINING: u32 = 2;
    /// With the daemon dead, let the pod's own connections out in clear.
    pub const FAIL_OPEN_OUTBOUND: u32 = 1;
    /// With the daemon dead, let connections to the pod in without policy.
    pub const FAIL_OPEN_INBOUND: u32 = 2;
}

/// Key of `LISTENERS`: which socket of which pod.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerKey {
    pub cookie: u64,
    /// One of the constants below; also the index into [`PodEntry::ports`].
    pub role: u32,
    pub reserved: u32,
}

impl ListenerKey {
    pub const OUTBOUND: u32 = 0;
    pub const INBOUND: u32 = 1;
    pub const HBONE: u32 = 2;

    #[must_use]
    pub const fn new(cookie: u64, role: u32) -> Self {
        Self {
            cookie,
            role,
            reserved: 0,
        }
    }
}

/// Key of `PROBES`: one connection of a prober, as the pod sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub remote: [u32; 4],
    pub local: [u32; 4],
    /// Host order.
    pub remote_port: u32,
    /// Host order.
    pub local_port: u32,
}

/// Values of `SOCKET_ROLES`, kept by the kernel on the socket itself.
pub mod socket_role {
    /// The daemon's own: never captured.
    pub const DAEMON: u32 = 1;
    /// Opened by a prober on the host: its flow is exempt in the pod it reaches.
    pub const PROBE: u32 = 2;
}

/// Connections of a pod since it was enrolled, by what became of them in the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub outbound_captured: u64,
    /// No live listener, or the hook could not capture: refused.
    pub outbound_refused: u64,
    /// No live listener and failing open: went out in clear.
    pub outbound_open: u64,
    /// Not TCP, or link-local: outside enforcement.
    pub outbound_outside: u64,
    pub inbound_captured: u64,
    pub inbound_refused: u64,
    /// No live listener and failing open: reached the application without policy.
    pub inbound_open: u64,
    pub inbound_probes: u64,
}

const _: () = assert!(size_of::<PodEntry>() == 64);
const _: () = assert!(size_of::<ListenerKey>() == 16);
const _: () = assert!(size_of::<Flow>() == 40);
const _: () = assert!(size_of::<Counters>() == 64);

#[cfg(feature = "user")]
mod user {
    #![expect(unsafe_code, reason = "aya::Pod is an unsafe promise about layout")]
    use super::{Counters, Flow, ListenerKey, PodEntry};

    // SAFETY: `repr(C)`, integers only, no implicit padding (the sizes above say so).
    unsafe impl aya::Pod for PodEntry {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ListenerKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Flow {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Counters {}
}
