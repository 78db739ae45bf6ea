//! The maps, and the small questions every hook asks them.

use core::{ffi::c_void, ptr};

use ambit_ebpf_common::{Counters, Flow, ListenerKey, PodEntry};
use aya_ebpf::{
    Global,
    bindings::{BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE},
    btf_maps::SkStorage,
    helpers::generated::bpf_sk_storage_get,
    macros::{btf_map, map},
    maps::{Array, HashMap, LruHashMap, PerCpuHashMap, SockHash},
};

const PODS_MAX: u32 = 4096;
const PROBES_MAX: u32 = 65536;
const PROBERS_MAX: u32 = 16;

/// By the cookie of a network namespace.
#[map]
pub static PODS: HashMap<u64, PodEntry> = HashMap::with_max_entries(PODS_MAX, BPF_F_NO_PREALLOC);

/// The daemon's sockets. The kernel empties a slot when its socket closes, however the daemon
/// died: a filled slot is the proof of life.
#[map]
pub static LISTENERS: SockHash<ListenerKey> = SockHash::with_max_entries(PODS_MAX * 3, 0);

/// One copy for each CPU, because the target has no atomic addition.
#[map]
pub static COUNTERS: PerCpuHashMap<u64, Counters> =
    PerCpuHashMap::with_max_entries(PODS_MAX, BPF_F_NO_PREALLOC);

/// Cgroup ids whose processes on the host may probe pods, their descendants included.
#[map]
pub static PROBERS: HashMap<u64, u32> = HashMap::with_max_entries(PROBERS_MAX, 0);

/// Flows of probes that are being set up or are open.
#[map]
pub static PROBES: LruHashMap<Flow, u32> = LruHashMap::with_max_entries(PROBES_MAX, 0);

/// By socket: what the kernel shall know of it (`socket_role`).
#[btf_map]
pub static SOCKET_ROLES: SkStorage<u32> = SkStorage::new();

/// Whose pod this copy of `sk_lookup` serves: the kernel tells it no cookie.
#[map]
pub static COOKIE: Array<u64> = Array::with_max_entries(1, 0);

#[unsafe(no_mangle)]
pub static SET_RETVAL: Global<u32> = Global::new(1);
#[unsafe(no_mangle)]
pub static PROBERS_KNOWN: Global<u32> = Global::new(1);

/// Reads a field of a context.
///
/// Without `volatile` LLVM merges loads into pointer arithmetic, which the verifier refuses on
/// a context.
macro_rules! read {
    ($place:expr) => {
        unsafe { core::ptr::read_volatile(&raw const $place) }
    };
}
/// Reads four words of a context.
macro_rules! read4 {
    ($place:expr) => {
        [
            crate::maps::read!($place[0]),
            crate::maps::read!($place[1]),
            crate::maps::read!($place[2]),
            crate::maps::read!($place[3]),
        ]
    };
}
pub(crate) use {read, read4};

#[inline(always)]
pub fn raw<T>(map: &T) -> *mut c_void {
    ptr::from_ref(map).cast_mut().cast()
}

/// The role of a socket, if it was ever given one.
///
/// # Safety
/// `socket` is the kernel's, as found in a context, and not null.
#[inline(always)]
pub unsafe fn role_of<T>(socket: *mut T) -> Option<u32> {
    let role: *mut u32 =
        unsafe { bpf_sk_storage_get(raw(&SOCKET_ROLES), socket.cast(), ptr::null_mut(), 0) }.cast();
    if role.is_null() {
        None
    } else {
        Some(unsafe { *role })
    }
}

/// Gives a socket a role for its whole life.
///
/// # Safety
/// As for [`role_of`].
#[inline(always)]
pub unsafe fn give_role<T>(socket: *mut T, mut role: u32) {
    unsafe {
        bpf_sk_storage_get(
            raw(&SOCKET_ROLES),
            socket.cast(),
            ptr::from_mut(&mut role).cast(),
            u64::from(BPF_SK_STORAGE_GET_F_CREATE),
        )
    };
}

/// Adds one to a counter of a pod.
#[inline(always)]
pub fn count(cookie: u64, counter: impl FnOnce(&mut Counters) -> &mut u64) {
    if let Some(counters) = COUNTERS.get_ptr_mut(&cookie) {
        // A program runs to its end on one CPU before another may touch this copy.
        *counter(unsafe { &mut *counters }) += 1;
    }
}
