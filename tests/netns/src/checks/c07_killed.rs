//! Check 7: `kill -9` of a node's daemon: from that moment no connection to a mesh destination leaves in
//! clear; after restart new connections succeed within a second, interception never having been
//! off.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::mesh::ports;
use harness::{Capture, Mesh, Replica, wait};

use crate::observe::{A_SECOND, everyone_is_served, none, refused, storm, watch_for};

const SECRET: &str = "said-while-the-daemon-was-dead";

pub(super) fn run(mesh: &mut Mesh) -> Result<String> {
    let fabric = Capture::start(mesh.fabric())?;
    let node_a = Capture::start(&mesh.node(Replica::A).host.namespace)?;
    let everywhere = destinations(mesh);
    // All through the death and the new start, somebody tries.
    let mut trying = storm("trying", everywhere.clone(), 50, Duration::from_secs(60));
    trying.line = SECRET.to_owned();
    let trying = mesh.pod("other").app.storm(trying)?;

    mesh.kill_ztunnel(Replica::A)?;
    let mut attempts = 0;
    for to in everywhere {
        let outcome = mesh.pod("web").app.ask(to, SECRET);
        ensure!(
            outcome.is_err(),
            "web was served at {to} with its daemon dead"
        );
        attempts += 1;
    }
    let into = mesh.address_of("cart-a", ports::TELL);
    refused(&mesh.pod("old-client").app, into).context("into a pod whose daemon is dead")?;
    watch_for(Duration::from_millis(500));

    let daemon = mesh.another_ztunnel(Replica::A)?;
    mesh.replace_ztunnel(Replica::A, daemon);
    let to = mesh.address_of("cart-b", ports::TELL);
    let web = &mesh.pod("web").app;
    let (_, took) = wait::until("web to be served again", Duration::from_secs(20), || {
        web.ask(to, SECRET).map(Some)
    })?;
    mesh.pod("other").app.calm("trying")?;
    let tried = trying.storm()?;

    let (fabric, node_a) = (fabric.stop()?, node_a.stop()?);
    for (wire, captured) in [("the fabric", &fabric), ("the wires of node a", &node_a)] {
        none(
            &format!("packets with the payload on {wire}"),
            &captured.carrying(SECRET),
        )?;
        for name in ["web", "other"] {
            let net = &mesh.pod(name).net;
            for address in [net.v4, net.v6] {
                let begun = captured.begun_in_clear_by(address);
                none(&format!("connections of {name} in clear on {wire}"), &begun)?;
            }
        }
    }
    ensure!(
        took <= A_SECOND,
        "new connections succeeded only {took:?} after the new start"
    );
    Ok(format!(
        "{} attempts while dead, 0 in clear; served {} ms after the new start",
        attempts + tried.failed,
        took.as_millis()
    ))
}

fn destinations(mesh: &Mesh) -> Vec<std::net::SocketAddr> {
    vec![
        mesh.cart(80),
        mesh.cart_v6(80),
        mesh.address_of("cart-a", ports::TELL),
        mesh.address_of("cart-b", ports::TELL),
        mesh.v6_address_of("cart-b", ports::TELL),
        mesh.six(),
    ]
}

pub(super) fn restore(mesh: &mut Mesh) -> Result<()> {
    mesh.pod("other").app.calm("trying")?;
    match mesh.take_ztunnel(Replica::A) {
        Ok(daemon) => drop(mesh.replace_ztunnel(Replica::A, daemon)),
        Err(_) => drop(mesh.start_ztunnel(Replica::A)?),
    }
    mesh.await_ready(Replica::A)?;
    everyone_is_served(mesh)
}
