//! What a daemon costs while nothing happens: itself, each idle connection, each enrolled pod.

use std::time::Duration;

use anyhow::{Context, Result};
use harness::mesh::ports;
use harness::{Mesh, Replica};
use serde::Serialize;

const CONNECTIONS: u32 = 2000;
const PODS: u32 = 40;
/// Allocators give back what was freed within ten seconds.
const SETTLED: Duration = Duration::from_secs(11);

/// Bytes of resident memory, and descriptors.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Memory {
    pub(super) idle_daemon: f64,
    /// For each connection, in each of the two daemons it passes.
    pub(super) per_connection: f64,
    pub(super) per_pod: f64,
    pub(super) descriptors_per_pod: f64,
}

pub(super) fn measure(mesh: &mut Mesh) -> Result<Memory> {
    let (idle_daemon, descriptors) = usage(mesh, Replica::B)?;
    let mut pods = Vec::new();
    for number in 0..PODS {
        pods.push(mesh.add_idle_pod(Replica::B, &format!("idle-{number}"))?);
    }
    let (with_pods, with_descriptors) = usage(mesh, Replica::B)?;

    let web = &mesh.pod("web").app;
    let to = mesh.address_of("cart-b", ports::TELL);
    // The first ones pay for tunnels and pools, which is not what one more costs.
    web.open_many("first", to, CONNECTIONS / 10)?;
    let before = both(mesh)?;
    web.open_many("crowd", to, CONNECTIONS)?;
    let after = both(mesh)?;
    web.close_many("crowd")?;
    web.close_many("first")?;
    Ok(Memory {
        idle_daemon,
        per_connection: (after - before) / f64::from(CONNECTIONS) / 2.0,
        per_pod: (with_pods - idle_daemon) / f64::from(PODS),
        descriptors_per_pod: (with_descriptors - descriptors) / f64::from(PODS),
    })
}

fn both(mesh: &Mesh) -> Result<f64> {
    Ok(usage(mesh, Replica::A)?.0 + usage(mesh, Replica::B)?.0)
}

/// Resident bytes and open descriptors of a node's daemon.
fn usage(mesh: &Mesh, node: Replica) -> Result<(f64, f64)> {
    std::thread::sleep(SETTLED);
    let pid = mesh
        .node(node)
        .ztunnel
        .as_ref()
        .context("the node's daemon runs")?
        .pid();
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|value| value.trim().trim_end_matches(" kB").parse::<f64>().ok())
        .with_context(|| format!("VmRSS in {path}"))?;
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    Ok((kib * 1024.0, descriptors as f64))
}
