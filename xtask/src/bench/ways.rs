//! The three ways from a client to a server, and the processes that carry each.
//!
//! Direct: a pod outside the mesh to another. Relay: the same pods, by a relay on the client's
//! node and one on the server's (on one node: by that node's relay alone, the fewest hops a relay
//! can have). Ambit: two enrolled pods.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use harness::daemon::Daemon;
use harness::mesh::ports;
use harness::{App, Mesh, Replica};
use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Way {
    Direct,
    Relay,
    Ambit,
}

impl Way {
    pub(super) const ALL: [Self; 3] = [Self::Direct, Self::Relay, Self::Ambit];
}

/// Where the server is, seen from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Distance {
    OtherNode,
    SameNode,
}

/// What servers offer that is measured.
const PORTS: [u16; 2] = [ports::DISCARD, ports::ECHO];
/// On the relays, ports of the far server and of the near one are this much higher.
const FAR: u16 = 10_000;
const NEAR: u16 = 20_000;

/// The relays, running.
pub(super) struct Ways {
    relays: [Daemon; 2],
}

impl Ways {
    pub(super) fn start(mesh: &Mesh) -> Result<Self> {
        let far = mesh.pod("old-server").net.v4;
        let near = mesh.pod("old-neighbour").net.v4;
        let [a, b] = Replica::BOTH.map(|node| mesh.node(node).host.v4());
        let to_far: Vec<_> = PORTS
            .map(|port| route(a, port + FAR, b, port + FAR))
            .to_vec();
        let to_near = PORTS.map(|port| route(a, port + NEAR, near, port));
        let arriving = PORTS.map(|port| route(b, port + FAR, far, port));
        let leaving = [to_far, to_near.to_vec()].concat();
        let relays = [
            mesh.start_relay(Replica::A, &leaving)?,
            mesh.start_relay(Replica::B, &arriving)?,
        ];
        Ok(Self { relays })
    }

    /// The client, what it dials, and the server it gets to.
    pub(super) fn path<'a>(
        &self,
        mesh: &'a Mesh,
        way: Way,
        distance: Distance,
        port: u16,
    ) -> (&'a App, SocketAddr, &'a App) {
        let (client, server) = match (way, distance) {
            (Way::Ambit, Distance::OtherNode) => ("web", "cart-b"),
            (Way::Ambit, Distance::SameNode) => ("web", "cart-a"),
            (Way::Direct | Way::Relay, Distance::OtherNode) => ("old-client", "old-server"),
            (Way::Direct | Way::Relay, Distance::SameNode) => ("old-client", "old-neighbour"),
        };
        let to = match (way, distance) {
            (Way::Direct | Way::Ambit, _) => mesh.address_of(server, port),
            (Way::Relay, distance) => {
                let shift = if distance == Distance::OtherNode {
                    FAR
                } else {
                    NEAR
                };
                SocketAddr::new(mesh.node(Replica::A).host.v4(), port + shift)
            }
        };
        (&mesh.pod(client).app, to, &mesh.pod(server).app)
    }

    /// CPU seconds that the carriers of a way have used so far.
    pub(super) fn cpu_seconds(&self, mesh: &Mesh, way: Way) -> Result<f64> {
        let carriers = match way {
            Way::Direct => Vec::new(),
            Way::Relay => self.relays.iter().map(Daemon::pid).collect(),
            Way::Ambit => {
                let daemons = Replica::BOTH.map(|node| mesh.node(node).ztunnel.as_ref());
                daemons.into_iter().flatten().map(Daemon::pid).collect()
            }
        };
        carriers.into_iter().map(cpu_seconds_of).sum()
    }
}

fn route(from: IpAddr, port: u16, to: IpAddr, to_port: u16) -> (SocketAddr, SocketAddr) {
    (SocketAddr::new(from, port), SocketAddr::new(to, to_port))
}

/// The kernel counts in hundredths of a second here, on every architecture (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

fn cpu_seconds_of(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    // The second field is a name in parentheses that may hold anything.
    let (_, fields) = text
        .rsplit_once(") ")
        .with_context(|| format!("{path}: {text:?}"))?;
    let field = |index: usize| -> Result<f64> {
        let value = fields
            .split(' ')
            .nth(index)
            .with_context(|| format!("{path}: {text:?}"))?;
        Ok(value.parse()?)
    };
    // utime and stime are fields 14 and 15, and the first left here is the third.
    Ok((field(11)? + field(12)?) / TICKS_PER_SECOND)
}
