//! Hook `sockops`: writes down the flow of a probe before its SYN leaves.
//!
//! The entry is the exact 4-tuple and serves one connection: it goes when the probe's socket
//! leaves the handshake without a connection, or the connection ends. Until then no second
//! socket can have that 4-tuple, and a repeated SYN, or the ACK of a SYN cookie, still passes.

use ambit_ebpf_common::{Flow, socket_role};
use aya_ebpf::{macros::sock_ops, programs::SockOpsContext};

use crate::{
    address::Address,
    maps::{PROBES, read, read4, role_of},
};

const TCP_CONNECT_CB: u32 = 3;
const STATE_CB: u32 = 10;
const STATE_CB_FLAG: i32 = 4;
const TCP_ESTABLISHED: u32 = 1;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const GO_ON: u32 = 1;

#[sock_ops]
pub fn ambit_sock_ops(ctx: SockOpsContext) -> u32 {
    let op = read!((*ctx.ops).op);
    if op != TCP_CONNECT_CB && op != STATE_CB {
        return GO_ON;
    }
    let socket = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if socket.is_null() || unsafe { role_of(socket) } != Some(socket_role::PROBE) {
        return GO_ON;
    }
    let Some(flow) = flow(&ctx) else { return GO_ON };
    if op == TCP_CONNECT_CB {
        // Without the callback the entry would outlive its connection, so it comes first.
        let flags = read!((*ctx.ops).bpf_sock_ops_cb_flags) as i32 | STATE_CB_FLAG;
        if ctx.set_cb_flags(flags).is_ok() {
            // A full map refuses the probe, which kubelet repeats.
            let _ = PROBES.insert(&flow, &1, 0);
        }
    } else if read!((*ctx.ops).__bindgen_anon_1.args[1]) != TCP_ESTABLISHED {
        // Gone already if the map was short of room.
        let _ = PROBES.remove(&flow);
    }
    GO_ON
}

/// The connection as the pod sees it: its local end is our remote one.
#[inline(always)]
fn flow(ctx: &SockOpsContext) -> Option<Flow> {
    let ops = ctx.ops;
    let (here, there) = match read!((*ops).family) {
        AF_INET => (
            Address::V4(read!((*ops).local_ip4)),
            Address::V4(read!((*ops).remote_ip4)),
        ),
        AF_INET6 => (
            Address::from_v6(read4!((*ops).local_ip6)),
            Address::from_v6(read4!((*ops).remote_ip6)),
        ),
        _ => return None,
    };
    Some(Flow {
        remote: here.words(),
        local: there.words(),
        remote_port: read!((*ops).local_port),
        local_port: u32::from_be(read!((*ops).remote_port)),
    })
}
