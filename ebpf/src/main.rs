//! Hop 1 of 7: the kernel programs that steer an enrolled pod's TCP through the node daemon.
//!
//! One file per hook: [`connect`] marks what leaves, [`sk_lookup`] hands what arrives to the
//! daemon's sockets in the pod, [`sock_ops`] writes down the flows of probes. They decide who
//! handles a connection, never whether it is allowed, and no program runs on established traffic.
#![no_std]
#![no_main]

mod address;
mod connect;
mod maps;
mod sk_lookup;
mod sock_ops;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // The verifier proves that this is unreachable.
    loop {}
}

// The kernel lets only GPL-compatible programs call the helpers used here.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
