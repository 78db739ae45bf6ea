//! What a pod's namespace needs so that marked packets come back on `lo`: settings, rule, route.
//!
//! Adds and repairs; never removes, because open connections go on using it after un-enrolment.
//! Everything here is about the calling thread's namespace.

use std::{fs, io, net::IpAddr};

use ambit_ebpf_common::{MARK, MARK_MASK};

use crate::{
    address::Addresses,
    netlink::{Added, MarkRule, Netlink},
};

const TABLE: u32 = 111;
/// Right after the `local` table, before any rule of a CNI.
const PRIORITY: u32 = 1;

/// Accepted sockets inherit the mark, so that the application's answers loop back too.
const FWMARK_ACCEPT: &str = "/proc/sys/net/ipv4/tcp_fwmark_accept";
/// Resets and answers without a socket carry the mark of what they answer.
const FWMARK_REFLECT: [&str; 2] = [
    "/proc/sys/net/ipv4/fwmark_reflect",
    "/proc/sys/net/ipv6/fwmark_reflect",
];

/// Brings the namespace into the wanted state and tells whether anything was missing.
pub(crate) fn ensure(addresses: &Addresses) -> io::Result<Added> {
    let mut missing = switch_on(FWMARK_ACCEPT)?;
    for path in FWMARK_REFLECT {
        match switch_on(path) {
            Ok(changed) => missing |= changed,
            // Without IPv6 its settings do not exist either.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let netlink = Netlink::routing()?;
    let sources = [
        addresses.ipv4.first().copied().map(IpAddr::from),
        addresses.ipv6.first().copied().map(IpAddr::from),
    ];
    let rule = MarkRule {
        priority: PRIORITY,
        mark: MARK,
        mask: MARK_MASK,
        table: TABLE,
    };
    for source in sources.into_iter().flatten() {
        // The route first: a rule to an empty table would let packets fall through.
        missing |= netlink.add_local_default(source, TABLE)? == Added::New;
        missing |= netlink.add_rule(source, rule)? == Added::New;
    }
    Ok(if missing { Added::New } else { Added::WasThere })
}

/// Whether the setting had to be changed.
fn switch_on(path: &str) -> io::Result<bool> {
    if fs::read(path)?.starts_with(b"1") {
        return Ok(false);
    }
    fs::write(path, "1")?;
    Ok(true)
}

/// The namespace's own addresses of global scope, `eth0`'s before others.
pub(crate) fn addresses() -> io::Result<Addresses> {
    let mut found = Netlink::routing()?.global_addresses()?;
    let eth0 = nix::net::if_::if_nametoindex("eth0").unwrap_or(0);
    found.retain(|address| address.device != 1);
    found.sort_by_key(|address| address.device != eth0);
    Ok(found.into_iter().map(|address| address.ip).collect())
}
